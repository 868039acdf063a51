//! Component 3, large blobs: uploads, blobs, token redemption, callback spool. Never sees the database.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod blobs;
pub mod config;
mod doors;
mod durable;
mod error;
pub mod fetch;
pub mod gateway;
pub mod imports;
mod inspect;
pub mod redeem;
pub mod spool;
pub mod uploads;

pub use error::Error;

use basalt_daemon::{Clock, Drain, tls};
use blobs::Blobs;
use config::{Config, Import};
use fetch::Fetcher;
use imports::{Imports, Works};
use redeem::Ledger;
use spool::{Gateway, Spool};
use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};
use uploads::Uploads;

/// How often sessions and tokens whose time is over are removed, in seconds.
const SWEEP_SECONDS: u64 = 60;
/// First pause after nothing came from where an image is fetched.
const IMPORT_PAUSE: Duration = Duration::from_secs(1);

/// Everything one image service holds.
pub struct ImageService {
    clock: Arc<dyn Clock>,
    ledger: Ledger,
    uploads: Arc<Uploads>,
    blobs: Arc<Blobs>,
    spool: Arc<Spool>,
    imports: Arc<Imports>,
}

/// What an image service needs to run.
pub struct Options<G> {
    /// Time, ids and secrets.
    pub clock: Arc<dyn Clock>,
    /// Keys that token signatures are checked with.
    pub keys: basalt_wire::upload_token::Keyring,
    /// Folder of all state.
    pub dir: std::path::PathBuf,
    /// Listening sockets of the clients' door.
    pub sockets: Vec<TcpListener>,
    /// Certificate and key of the door, PEM.
    pub identity: (String, String),
    /// What may be fetched for imports.
    pub import: Import,
    /// Where events go and work comes from.
    pub gateway: G,
}

impl ImageService {
    /// Opens the state under a folder and goes on with what a crash interrupted.
    pub fn open(
        dir: &Path,
        keys: basalt_wire::upload_token::Keyring,
        import: &Import,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, Error> {
        let blobs = Arc::new(Blobs::open(dir)?);
        let spool = Arc::new(Spool::open(dir.join("spool"))?);
        let uploads = Arc::new(Uploads::open(dir.join("uploads"), blobs.clone(), spool.clone())?);
        uploads.recover(clock.now())?;
        let ledger = Ledger::open(dir.join("redeemed"), keys)?;
        let (kept, fetcher) = ((uploads.clone(), spool.clone()), Fetcher::new(import)?);
        let imports = Imports::open(dir.join("imports"), kept, clock.clone(), fetcher, IMPORT_PAUSE)?;
        Ok(Arc::new(Self { clock, ledger, uploads, blobs, spool, imports: Arc::new(imports) }))
    }

    /// The clients' door.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        doors::router(self.clone())
    }

    fn sweep(&self) -> Result<(), Error> {
        let now = self.clock.now();
        self.uploads.sweep(now)?;
        self.imports.sweep()?;
        self.blobs.sweep(now)?;
        self.ledger.sweep(now)
    }
}

impl<G: Gateway + Works> Options<G> {
    /// Serves until the drain begins.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        let service = ImageService::open(&self.dir, self.keys, &self.import, self.clock.clone())?;
        let gateway = Arc::new(self.gateway);
        let config = tls::server_config(&self.identity.0, &self.identity.1, None)
            .map_err(|e| Error::Config(e.to_string()))?;
        let delivering = {
            let (spool, gateway) = (service.spool.clone(), gateway.clone());
            let (clock, drain) = (self.clock.clone(), drain.clone());
            tokio::spawn(async move { spool.run(&*gateway, clock, drain).await })
        };
        let importing = tokio::spawn(service.imports.clone().run(gateway, drain.clone()));
        let sweeping = {
            let (service, drain) = (service.clone(), drain.clone());
            tokio::spawn(async move {
                let pause = || tokio::time::sleep(Duration::from_secs(SWEEP_SECONDS));
                while drain.or(pause()).await.is_some() {
                    if let Err(e) = service.sweep() {
                        tracing::error!(error = %e, "the sweep failed");
                    }
                }
            })
        };
        let served = tls::serve(self.sockets, config, service.router(), drain.clone()).await;
        drain.begin();
        for task in [delivering, importing, sweeping] {
            task.await.map_err(|e| Error::Interrupted(e.to_string()))?;
        }
        served.map_err(|e| Error::Config(e.to_string()))
    }
}

/// Options of a real service from its configuration.
pub fn from_config(
    config: &Config,
    clock: Arc<dyn Clock>,
    inherited: &mut basalt_daemon::listen::Inherited,
) -> Result<Options<gateway::HttpsGateway>, Error> {
    let wrong = |e: basalt_daemon::Error| Error::Config(e.to_string());
    let read = |name: &str| std::fs::read_to_string(config.tls.dir.join(name));
    Ok(Options {
        clock,
        keys: config::read_keys(&config.tokens.key_file).map_err(Error::Config)?,
        dir: config.storage.dir.clone(),
        sockets: inherited.sockets("clients", std::slice::from_ref(&config.listen.clients)).map_err(wrong)?,
        identity: (read("cert.pem")?, read("key.pem")?),
        import: config.import.clone(),
        gateway: gateway::HttpsGateway::new(&config.gateway.url, &config.tls.dir)?,
    })
}
