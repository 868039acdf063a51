//! A gateway's doors for a test: a database, the routers, and a feed that is pulled after commits.

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{HeaderMap, Request, header},
};
use basalt_api::{App, Hub, ImageDoor, Logs, Options, Readiness};
use basalt_daemon::{Clock, Drain, ManualClock, boot, pki::Authority, tls::Peer};
use basalt_model::{GIB, HostId, Name, ProjectId, TenantId, images::ImageFormat, roles::Role};
use basalt_store::{Feed, Ids, Store, secrets::SealingKeys, testkit};
use basalt_wire::upload_token::Keyring;
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc};
use tower::ServiceExt;

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The answer, which must have a status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:#}", self.body);
        self
    }

    /// The problem's code.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// A request to be sent.
pub struct Call<'a> {
    router: &'a Router,
    request: axum::http::request::Builder,
    body: Option<Vec<u8>>,
    peer: Peer,
}

impl Call<'_> {
    pub fn token(mut self, token: &str) -> Self {
        self.request = self.request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub fn json(self, body: Value) -> Self {
        self.text(&body.to_string())
    }

    pub fn text(mut self, body: &str) -> Self {
        self.request = self.request.header(header::CONTENT_TYPE, "application/json");
        self.body = Some(body.as_bytes().to_vec());
        self
    }

    pub fn peer(mut self, peer: &Peer) -> Self {
        self.peer = peer.clone();
        self
    }

    /// From an address, as a socket would say it.
    pub fn from(mut self, address: &str) -> Self {
        self.request = self.request.extension(ConnectInfo(SocketAddr::new(address.parse().unwrap(), 40_000)));
        self
    }

    /// Sends it, and reads the answer whole.
    pub async fn send(self) -> Answer {
        let response = self.open().await;
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 64 << 20).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::String(text));
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Sends it, and leaves the body to be read.
    pub async fn open(self) -> axum::response::Response {
        let body = self.body.map_or_else(Body::empty, Body::from);
        let mut request: Request<Body> = self.request.body(body).unwrap();
        request.extensions_mut().insert(self.peer);
        self.router.clone().oneshot(request).await.unwrap()
    }
}

/// The doors.
pub struct Door {
    pub db: testkit::Database,
    pub clock: Arc<ManualClock>,
    pub app: App,
    pub ids: Ids,
    pub admin: String,
    users: Router,
    agents: Router,
    _drain: DrainGuard,
}

struct DrainGuard(Drain);
impl Drop for DrainGuard {
    fn drop(&mut self) {
        self.0.begin();
    }
}

impl Door {
    pub async fn new() -> Self {
        Self::with(None).await
    }

    /// The same, where logs are read from platforms by somebody.
    pub async fn with(logs: Option<Logs>) -> Self {
        boot::crypto();
        let db = testkit::Database::new().await;
        let clock = Arc::new(ManualClock::new(testkit::now(), 7));
        let (hub, drain) = (Hub::default(), Drain::new());
        let (authority, _) = Authority::create("test", clock.now()).unwrap();
        let app = App::new(Options {
            store: db.store.clone(),
            clock: clock.clone(),
            authority: Arc::new(authority),
            images: ImageDoor {
                url: "https://images:9445".into(),
                public_url: "https://images.example:9445".into(),
                keys: Keyring::new([(1, vec![7; 32])]).unwrap(),
            },
            drain: drain.clone(),
            readiness: Readiness::new(),
            registry: Default::default(),
            hub: hub.clone(),
            ask: None,
            sealing_keys: Arc::new(SealingKeys::new([(1, vec![7; 32])]).unwrap()),
            engines: [Name::new("default").unwrap()].into(),
            logs,
        });
        pull(&db.store, hub, drain.clone()).await;
        let handed: Arc<dyn Clock> = clock.clone();
        let admin = basalt_api::create_local(&db.store, &handed, Name::new("root").unwrap(), Role::Admin, 30)
            .await
            .unwrap();
        let (users, agents) = (app.users(), app.agents());
        let ids = testkit::ids(99);
        Self { db, clock, app, ids, admin: admin.token, users, agents, _drain: DrainGuard(drain) }
    }

    /// A request to the users' door.
    pub fn call(&self, method: &str, path: &str) -> Call<'_> {
        Self::request(&self.users, method, path)
    }

    /// A request to the agents' door.
    pub fn agent_call(&self, method: &str, path: &str) -> Call<'_> {
        Self::request(&self.agents, method, path)
    }

    fn request<'a>(router: &'a Router, method: &str, path: &str) -> Call<'a> {
        Call {
            router,
            request: Request::builder().method(method).uri(path),
            body: None,
            peer: Peer::default(),
        }
    }

    /// A request of the administrator.
    pub fn admin(&self, method: &str, path: &str) -> Call<'_> {
        self.call(method, path).token(&self.admin)
    }

    /// A tenant with a project `main` that has room.
    pub async fn project(&self, tenant: &str) -> (TenantId, ProjectId) {
        testkit::project(&self.db, &self.ids, tenant).await
    }

    /// A token with a role at a scope.
    pub async fn token(&self, name: &str, role: &str, scope: Value) -> String {
        let body = json!({"name": name, "grants": [{"role": role, "scope": scope}]});
        let answer = self.admin("POST", "/v1/service-tokens").json(body).send().await.expect(201);
        answer.body["token"].as_str().unwrap().to_owned()
    }

    /// An image that VMs can begin with.
    pub async fn image(&self, project: (TenantId, ProjectId), name: &str) {
        testkit::ready_image(&self.db, &self.ids, project, name, ImageFormat::Qcow2).await;
    }

    /// A host with 8 threads, 16 GiB of memory and a pool of 100 GiB.
    pub async fn host(&self, name: &str) -> HostId {
        testkit::host(&self.db, &self.ids, name, testkit::facts(8, 16 * GIB, 100 * GIB)).await
    }

    /// Waits until the hub knows something.
    pub async fn until(&self, what: &str, holds: impl Fn(&basalt_api::rows::Rows) -> bool) {
        for _ in 0..500 {
            if self.app.hub().read(&holds) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the hub does not learn: {what}");
    }
}

async fn pull(store: &Store, hub: Hub, drain: Drain) {
    let (feed, mut changed) = (Feed::new(store), store.changed());
    let first = feed.bootstrap().await.unwrap();
    let mut cursor = first.cursor.clone();
    hub.apply(&first);
    tokio::spawn(async move {
        while drain.or(changed.changed()).await.is_some() {
            let batch = feed.pull(&cursor).await.unwrap();
            cursor = batch.cursor.clone();
            hub.apply(&batch);
        }
    });
}

pub fn system() -> Value {
    json!({"kind": "system"})
}

pub fn in_project((tenant, project): (TenantId, ProjectId)) -> Value {
    json!({"kind": "project", "tenant_id": tenant, "project_id": project})
}

/// A VM that needs nothing but a blank disk.
pub fn small_vm(name: &str) -> Value {
    json!({"name": name, "spec": {"cpus": 1, "memory_bytes": 268435456,
        "disks": [{"name": "root", "source": {"kind": "blank"}, "size_bytes": 1073741824}]}})
}
