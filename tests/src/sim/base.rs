//! What every world begins with, made once: a database with a project, a network, an image and enrolled hosts. Worlds
//! that follow one another share one copy of it, which is put back to its beginning between them.

use crate::house::{PROJECT, transfer};
use anyhow::{Context, Result, bail};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, header},
};
use basalt_api::{App, Hub, ImageDoor, Readiness};
use basalt_daemon::{
    Clock, Drain, ManualClock, boot,
    pki::{self, Authority},
    tls::Peer,
};
use basalt_model::{DateTime, HostId, Name, roles::Role};
use basalt_store::{Feed, Options, Store, secrets::SealingKeys, testkit::Database};
use basalt_wire::{
    image::{ImageEvent, ImageOutcome},
    upload_token::Keyring,
};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use tower::ServiceExt;
use uuid::Uuid;

/// Hosts of every world.
pub const HOSTS: usize = 3;

/// A host that was declared and enrolled.
#[derive(Clone)]
pub struct Enrolled {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: HostId,
    /// What its certificate says.
    pub peer: Peer,
}

/// The beginning of worlds.
pub struct Base {
    database: Database,
    /// When it was finished.
    pub at: DateTime,
    /// The administrator's token.
    pub token: String,
    /// Hosts.
    pub hosts: Vec<Enrolled>,
    /// Audit rows of the administrator.
    pub audited: usize,
    authority: Arc<Authority>,
    /// Places of worlds that ended.
    free: Mutex<Vec<Place>>,
}

/// Where a world is: a database as the base left it, and connections of gateways, which know its statements already.
pub struct Place {
    /// The database.
    pub database: Database,
    connections: Vec<Store>,
}

impl Place {
    /// The store of a gateway that begins: its connections may have been used before, and nothing else of it.
    pub async fn store(&mut self, gateway: usize) -> Store {
        while self.connections.len() <= gateway {
            let connection = self.database.connect(options()).await;
            self.connections.push(connection);
        }
        self.connections[gateway].anew()
    }
}

/// What the administrator did. A drain also puts its host into maintenance, and moves VMs in the name of who asked for it.
pub const AUDIT: &str = "SELECT action, request_id FROM audit_events a WHERE actor_kind = 'service_token'
    AND NOT (action = 'vm.migrate' AND request_id IS NULL) AND NOT (action = 'host.update' AND EXISTS (
        SELECT FROM audit_events d WHERE d.request_id = a.request_id AND d.action = 'host.drain'))";

/// Connections of one gateway of a world: one operation happens at a time, and a second reads along when all is read.
pub fn options() -> Options {
    Options { max_connections: 2, min_connections: 0, ..Options::default() }
}

impl Base {
    /// Makes it.
    pub async fn new() -> Result<Self> {
        boot::crypto();
        let start = DateTime::from_timestamp(1_767_225_600, 0).context("a date in 2026")?;
        let clock = Arc::new(ManualClock::new(start, 1));
        let database = Database::with(options()).await;
        let (authority, _) = Authority::create("simulated", start)?;
        let handed: Arc<dyn Clock> = clock.clone();
        let token =
            basalt_api::create_local(&database.store, &handed, Name::new("simulator")?, Role::Admin, 30)
                .await?;
        let mut base = Self {
            at: start + TimeDelta::minutes(1),
            token: token.token,
            hosts: Vec::new(),
            audited: 0,
            authority: Arc::new(authority),
            database,
            free: Mutex::default(),
        };
        let doors = Doors::new(&base, &base.database.store, handed, Hub::default(), Drain::new());
        base.furnish(&doors, &clock).await?;
        for n in 1..=HOSTS {
            let host = base.enrol(&doors, &format!("h{n}")).await?;
            base.hosts.push(host);
        }
        drop(doors);
        base.audited = base.database.ask(&[AUDIT]).await[0].len();
        base.database.store.close().await;
        base.database.keep().await;
        Ok(base)
    }

    async fn furnish(&self, doors: &Doors, clock: &ManualClock) -> Result<()> {
        let quota = json!({"max_vms": 1000, "max_cpus": 10_000, "max_memory_bytes": 1u64 << 50, "max_storage_bytes": 1u64 << 50});
        self.post(doors, "/v1/projects", json!({"name": PROJECT, "quota": quota})).await?;
        let lan = json!({"name": "lan", "spec": {"cidr": "10.10.0.0/16"}});
        self.post(doors, &format!("/v1/projects/{PROJECT}/networks"), lan).await?;
        let image = json!({"name": "tiny", "spec": {"format": "qcow2", "size_bytes": 1 << 20}});
        let image = self.post(doors, &format!("/v1/projects/{PROJECT}/images"), image).await?;
        let image_id = serde_json::from_value(image["object"]["id"].clone())?;
        let call =
            Call::new("POST", &format!("/v1/projects/{PROJECT}/images/tiny/upload")).token(&self.token);
        let grant = doors.users(call).await.ok()?;
        let event = ImageEvent {
            id: clock.new_id(),
            at: clock.now(),
            image_id,
            transfer_id: transfer(grant["token"].as_str().context("a grant has a token")?)?,
            outcome: ImageOutcome::Ready {
                sha256: "ab".repeat(32),
                size_bytes: 1 << 20,
                virtual_size_bytes: 64 << 20,
            },
        };
        let service = Peer { uris: vec!["basalt:image-service".into()], serial: String::new() };
        let call = Call::new("POST", "/image/v1/events").json(serde_json::to_value(&event)?).peer(&service);
        doors.agents(call).await.ok()?;
        Ok(())
    }

    async fn post(&self, doors: &Doors, path: &str, body: Value) -> Result<Value> {
        doors.users(Call::new("POST", path).token(&self.token).json(body)).await.ok()
    }

    async fn enrol(&self, doors: &Doors, name: &str) -> Result<Enrolled> {
        let made = self.post(doors, "/v1/hosts", json!({"name": name, "spec": {}})).await?;
        let id: HostId = serde_json::from_value(made["join_token"]["host_id"].clone())?;
        let (_, csr) = pki::key_and_request()?;
        let request = json!({"join_token": made["join_token"]["token"], "hostname": name, "csr_pem": csr});
        doors.agents(Call::new("POST", "/agent/v1/enrol").json(request)).await.ok()?;
        let query = format!("SELECT serial FROM host_certificates WHERE host_id = '{id}'");
        let rows = self.database.ask(&[&query]).await;
        let row: Value = serde_json::from_str(rows[0].first().context("the certificate is stored")?)?;
        let serial = row["serial"].as_str().context("a serial is text")?.to_owned();
        Ok(Enrolled { name: name.into(), id, peer: Peer { uris: vec![format!("basalt:host:{id}")], serial } })
    }

    /// A place for one world: that of one that ended, or a new one.
    pub async fn place(&self) -> Place {
        let free = self.free().pop();
        match free {
            Some(place) => {
                place.database.go_back().await;
                place
            }
            None => {
                let database = self.database.copy_of(options()).await;
                Place { connections: vec![database.store.clone()], database }
            }
        }
    }

    /// A world ended there.
    pub fn give_back(&self, place: Place) {
        self.free().push(place);
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Place>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The doors of one gateway, without sockets.
pub struct Doors {
    /// What is behind them.
    pub app: App,
    users: Router,
    agents: Router,
}

impl Doors {
    /// Doors before a store.
    pub fn new(base: &Base, store: &Store, clock: Arc<dyn Clock>, hub: Hub, drain: Drain) -> Self {
        let keys = Keyring::new([(1, vec![7; 32])]).expect("a key of 32 bytes");
        let app = App::new(basalt_api::Options {
            store: store.clone(),
            clock,
            authority: base.authority.clone(),
            images: ImageDoor {
                url: "https://images.invalid".into(),
                public_url: "https://images.invalid".into(),
                keys,
            },
            drain,
            readiness: Readiness::new(),
            registry: Default::default(),
            hub,
            ask: None,
            sealing_keys: Arc::new(SealingKeys::new([(1, vec![7; 32])]).expect("a key of 32 bytes")),
            logs: None,
            engines: Default::default(),
        });
        Self { users: app.users(), agents: app.agents(), app }
    }

    /// A call at the users' door.
    pub async fn users(&self, call: Call) -> Reply {
        call.send(&self.users).await
    }

    /// A call at the door of agents and image service.
    pub async fn agents(&self, call: Call) -> Reply {
        call.send(&self.agents).await
    }
}

/// A feed's reader of a store.
pub fn feed(store: &Store) -> Arc<Feed> {
    Arc::new(Feed::new(store))
}

/// A call that was not sent yet; it can be sent more than once.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// `GET` …
    pub method: &'static str,
    /// Path and query.
    pub path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
    peer: Peer,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The ETag, as it came.
    pub etag: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Call {
    /// A call without a body.
    pub fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.into(), ..Self::default() }
    }

    /// Under a bearer token.
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// With a header.
    pub fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With a body.
    pub fn json(mut self, body: Value) -> Self {
        self.body = Some(body.to_string());
        self
    }

    /// Under a client certificate.
    pub fn peer(mut self, peer: &Peer) -> Self {
        self.peer = peer.clone();
        self
    }

    async fn send(self, router: &Router) -> Reply {
        let mut request = Request::builder().method(self.method).uri(&self.path);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        if self.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = self.body.map_or_else(Body::empty, Body::from);
        let mut request = request.body(body).expect("a request of this simulator is well-formed");
        request.extensions_mut().insert(self.peer);
        let response = match router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let etag = response.headers().get(header::ETAG).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 64 << 20).await.unwrap_or_default().to_vec();
        Reply { status, etag, body }
    }
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body of a success.
    pub fn ok(&self) -> Result<Value> {
        if !(200..300).contains(&self.status) {
            bail!("{}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        Ok(self.json())
    }

    /// The problem's code.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Who a gateway is.
pub fn holder(number: usize) -> Uuid {
    Uuid::from_u128(0x6a7e_0000 + number as u128)
}
