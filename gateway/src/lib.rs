//! The composition root: store, reconciler and api wired into one process. A library, so that
//! scenarios run the whole gateway within a test.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod first_boot;
mod key_file;
pub mod local;
pub mod platforms;
mod sealing_keys;

pub use config::{Config, Database, Image, Listen, Pki, State};

use anyhow::Context;
use basalt_api::{App, Ask, ImageDoor, Readiness, SharedRegistry};
use basalt_daemon::{Clock, Drain, config::write_secret, listen::Inherited, pki, tls};
use basalt_reconciler::{Handle, Question, Reconciler};
use basalt_store::{Error as StoreError, Store};
use basalt_wire::upload_token::Keyring;
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::task::JoinSet;
use uuid::Uuid;

/// Days for which the doors' own certificate is valid; a new one is made at every start.
const DOOR_DAYS: i64 = 398;

/// A gateway.
pub struct Gateway;

/// A gateway that runs.
pub struct Running {
    /// Where the users' door is.
    pub users: SocketAddr,
    /// Where the door of agents and image service is.
    pub agents: SocketAddr,
    /// The certificate authority, PEM.
    pub ca_pem: String,
    /// The token that makes the first administrator, if there is none yet. Nobody else has it.
    pub first_boot_token: Option<String>,
    /// The truth.
    pub store: Store,
    /// The doors.
    pub app: App,
    /// The reconciler.
    pub reconciler: Handle,
    drain: Drain,
    parts: JoinSet<anyhow::Result<()>>,
}

impl Gateway {
    /// Starts everything. It serves when this returns; it is ready a moment later (`/readyz`).
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Running> {
        Self::start_until(config, clock, Drain::new()).await
    }

    /// The same, until a given drain begins.
    pub async fn start_until(config: Config, clock: Arc<dyn Clock>, drain: Drain) -> anyhow::Result<Running> {
        fs::create_dir_all(&config.state.dir)
            .with_context(|| format!("making {}", config.state.dir.display()))?;
        let mut inherited = Inherited::take();
        let users = inherited.sockets("users", std::slice::from_ref(&config.listen.users))?;
        let agents = inherited.sockets("agents", std::slice::from_ref(&config.listen.agents))?;
        let authority = Arc::new(pki::Authority::open(&config.pki.dir, clock.now())?);
        let images = image_door(&config.image)?;
        let Some(store) = drain.or(connect(&config, clock.as_ref())).await else {
            anyhow::bail!("stopped before the database answered")
        };
        let store = store?;
        let first_boot_token = first_boot::token(&store, &clock, &config.state.dir).await?;

        let registry = SharedRegistry::default();
        let readiness = Readiness::new();
        let holder = holder(&config.state.dir, clock.as_ref())?;
        let mut options = basalt_reconciler::Options::new(store.clone(), clock.clone(), holder);
        let hub = basalt_api::Hub::default();
        options.keep_tasks_days = config.tasks.keep_days.get().into();
        let sealing_keys = Arc::new(sealing_keys::open(&config, clock.as_ref())?);
        options.hands = Some(platforms::hands(&config, &clock, sealing_keys.clone(), holder));
        tell(&mut options, &hub);
        let (reconciler, handle) = Reconciler::new(options);
        handle.metrics().register(&mut registry.lock().unwrap_or_else(PoisonError::into_inner));
        readiness.check("reconciler", is_ready(handle.clone()));
        let app = App::new(basalt_api::Options {
            store: store.clone(),
            clock: clock.clone(),
            authority: authority.clone(),
            images,
            drain: drain.clone(),
            readiness,
            registry,
            hub,
            ask: Some(ask(handle.clone())),
            sealing_keys,
            engines: config.engines.keys().cloned().collect(),
            logs: handle.platforms().cloned().map(platforms::logs),
        });

        let mut running = Running {
            users: address(&users)?,
            agents: address(&agents)?,
            ca_pem: authority.cert_pem().into(),
            first_boot_token,
            store,
            app: app.clone(),
            reconciler: handle,
            drain: drain.clone(),
            parts: JoinSet::new(),
        };
        let identity = door_identity(&authority, &config.pki.server_names, clock.as_ref())?;
        running.serve_door(users, tls::server_config(&identity.0, &identity.1, None)?, app.users());
        let with_clients = tls::server_config(&identity.0, &identity.1, Some(authority.cert_pem()))?;
        running.serve_door(agents, with_clients, app.agents());
        let (news, clock, until) = (running.store.clone(), clock.clone(), drain.clone());
        running.parts.spawn(async move {
            until.or(async { tokio::join!(news.exchange_news(|| clock.jitter()), news.keep_begun()) }).await;
            Ok(())
        });
        let until = drain.clone();
        running.parts.spawn(async move { reconciler.run(until).await.context("the reconciler") });
        running.parts.spawn(async move {
            app.run(drain).await;
            Ok(())
        });
        Ok(running)
    }
}

impl Running {
    fn serve_door(&mut self, sockets: Vec<TcpListener>, config: rustls::ServerConfig, router: axum::Router) {
        let drain = self.drain.clone();
        self.parts.spawn(async move { tls::serve(sockets, config, router, drain).await.context("serving") });
    }

    /// Begins to stop, and waits until everything has stopped.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.drain.begin();
        self.wait().await
    }

    /// Waits until the drain began and everything has stopped. When one part ends before, all end.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.parts.join_next().await {
            let ended = ended.context("a part of the gateway panicked").and_then(|r| r);
            if !self.drain.has_begun() {
                tracing::error!(result = ?ended, "a part of the gateway ended by itself; stopping");
                self.drain.begin();
                result = ended.and_then(|()| Err(anyhow::anyhow!("a part of the gateway ended by itself")));
            } else if result.is_ok() {
                result = ended;
            }
        }
        self.store.close().await;
        result
    }
}

/// Connects, and migrates when the owner's address is known. A database that is away is waited for.
async fn connect(config: &Config, clock: &dyn Clock) -> anyhow::Result<Store> {
    let options =
        basalt_store::Options { max_connections: config.database.max_connections, ..Default::default() };
    let mut told = false;
    loop {
        let attempt = async {
            if let Some(owner) = &config.database.owner_url {
                Store::migrate(owner).await?;
            }
            Store::connect(&config.database.url, options.clone()).await
        };
        match attempt.await {
            Ok(store) => {
                keep_days_of_tasks(&store, clock, config.tasks.keep_days.get().into()).await;
                return Ok(store);
            }
            Err(e @ StoreError::Unavailable(_)) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = %e, "waiting for the database");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(e) => return Err(e).context("connecting to the database"),
        }
    }
}

/// Makes partitions of finished tasks for the days that come. Where that cannot be now, the sweep does it.
///
/// A row that is moved into a partition which is made for it is missed by who began to read before. So these are there
/// before the first task ends; later ones are made days ahead, while they are empty.
async fn keep_days_of_tasks(store: &Store, clock: &dyn Clock, keep_days: u32) {
    let kept = async {
        let mut tx = store.system().await?;
        basalt_store::tasks::keep_partitions(&mut tx, clock.now(), keep_days).await?;
        tx.commit().await
    };
    if let Err(error) = kept.await {
        tracing::info!(%error, "partitions of tasks are made later");
    }
}

/// Who this gateway is, over restarts: with it the lease is its own again at once.
fn holder(dir: &Path, clock: &dyn Clock) -> anyhow::Result<Uuid> {
    let file = dir.join("gateway-id");
    if let Ok(text) = fs::read_to_string(&file)
        && let Ok(id) = text.trim().parse()
    {
        return Ok(id);
    }
    let id = clock.new_id();
    write_secret(&file, format!("{id}\n").as_bytes())?;
    Ok(id)
}

fn door_identity(
    authority: &pki::Authority,
    names: &[String],
    clock: &dyn Clock,
) -> anyhow::Result<(String, String)> {
    let now = clock.now();
    let mut serial = [0; 16];
    serial.copy_from_slice(&clock.secret()[..16]);
    let not_after = now + chrono::TimeDelta::days(DOOR_DAYS);
    let subject = pki::Subject { name: "basalt-gateway", hosts: names, uri: None, now, not_after, serial };
    let (issued, key) = authority.issue(&subject)?;
    Ok((issued.cert_pem, key))
}

fn image_door(image: &Image) -> anyhow::Result<ImageDoor> {
    let keys = read_keys(&image.token_key_file)?;
    Ok(ImageDoor { url: image.url.clone(), public_url: image.public_url().into(), keys })
}

/// Reads lines of `<id> <hex>`.
fn read_keys(path: &Path) -> anyhow::Result<Keyring> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    key_file::keys(&text).and_then(Keyring::new).with_context(|| {
        format!("{}: write lines of `<key id> <hex>`, each key 32 bytes or more", path.display())
    })
}

fn address(sockets: &[TcpListener]) -> anyhow::Result<SocketAddr> {
    Ok(sockets.first().context("a door without a socket")?.local_addr()?)
}

/// What the reconciler tells the door: the feed that it pulls, and manifests that it wrote.
fn tell(options: &mut basalt_reconciler::Options, hub: &basalt_api::Hub) {
    let (batches, manifests) = (hub.clone(), hub.clone());
    options.on_batch = Some(Arc::new(move |batch| batches.apply(batch)));
    options.on_manifest = Some(Arc::new(move |host, revision| manifests.manifest_written(host, revision)));
}

/// Whether the reconciler is ready.
fn is_ready(handle: Handle) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
    move || handle.readiness()
}

/// Passes operators' questions on to the reconciler.
fn ask(handle: Handle) -> Ask {
    Arc::new(move |about: String| {
        let handle = handle.clone();
        Box::pin(async move {
            let question: Question = about.parse()?;
            Ok(handle.ask(question).await)
        })
    })
}
