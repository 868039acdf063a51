//! The part of Basalt's API that the adapter uses, over real HTTP and TLS, with the real types of VMs: it refuses what the
//! API would refuse, in its words, keeps VMs in memory, and fails as it is told to.

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use basalt_model::{Labels, Name, Selector, Validate, vms::VmSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, rustls, server::TlsStream};
use uuid::Uuid;

/// The token that it knows.
pub const TOKEN: &str = "bst_hush-token-never-shown";
/// VMs on a page, whatever is asked for.
const PAGE: usize = 2;

/// Where it listens, and what it has.
pub struct Server {
    pub url: String,
    pub ca: String,
    pub there: Arc<Mutex<There>>,
}

/// What it has.
pub struct There {
    pub vms: BTreeMap<Uuid, Vm>,
    /// The role of the token in the project; none when it may not even know of it.
    pub role: Option<&'static str>,
    pub images: BTreeMap<&'static str, &'static str>,
    pub networks: BTreeSet<&'static str>,
    /// What is answered instead, to requests that begin like this, so many times.
    pub faults: Vec<(String, u16, Value, usize)>,
    /// Every request so far.
    pub asked: Vec<String>,
    /// How long a VM takes to go.
    pub going: Duration,
    pub console: String,
    /// To those who watch; another one ends what they watch.
    pub watch: tokio::sync::broadcast::Sender<String>,
    made: u128,
}

/// A VM.
#[derive(Clone, Serialize)]
pub struct Vm {
    pub id: Uuid,
    pub name: Name,
    pub generation: i64,
    pub labels: Labels,
    pub deletion_requested_at: Option<&'static str>,
    pub spec: VmSpec,
    pub phase: String,
    pub nics: Vec<Value>,
    pub observed: Value,
    pub conditions: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    name: Option<Name>,
    labels: Labels,
    spec: VmSpec,
}

type Answer = Result<Value, (u16, Value)>;

fn no(status: u16, code: &str, detail: &str) -> (u16, Value) {
    (status, json!({ "type": "x", "title": "x", "status": status, "code": code, "detail": detail }))
}

/// A refusal that names a field.
pub fn field(status: u16, code: &str, field: &str) -> (u16, Value) {
    let mut problem = no(status, code, "No.");
    problem.1["errors"] =
        json!([{ "field": field, "code": code, "reason": "it is so", "remedy": "do otherwise" }]);
    problem
}

/// A refusal with a reason.
pub fn reason(status: u16, code: &str, subject: &str) -> (u16, Value) {
    let mut problem = no(status, code, "No.");
    problem.1["reasons"] =
        json!([{ "code": code, "subject": subject, "message": "it is so", "remedy": "do otherwise" }]);
    problem
}

struct Tls(TcpListener, TlsAcceptor);

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            if let Ok((tcp, from)) = self.0.accept().await
                && let Ok(tls) = self.1.accept(tcp).await
            {
                return (tls, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Server {
    pub async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let there = Arc::new(Mutex::new(There {
            vms: BTreeMap::new(),
            role: Some("operator"),
            images: BTreeMap::from([("runner", "ready")]),
            networks: BTreeSet::from(["lan"]),
            faults: Vec::new(),
            asked: Vec::new(),
            going: Duration::from_millis(30),
            console: "it begins\r\nit listens\r\n".to_owned(),
            watch: tokio::sync::broadcast::channel(16).0,
            made: 0,
        }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&there));
        let tls = Tls(listener, TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move { axum::serve(tls, router).await });
        Self { url, ca: made.cert.pem(), there }
    }

    pub fn there(&self) -> MutexGuard<'_, There> {
        self.there.lock().unwrap()
    }

    /// How often something was asked that begins like this.
    pub fn asked(&self, beginning: &str) -> usize {
        self.there().asked.iter().filter(|a| a.starts_with(beginning)).count()
    }

    /// Answers the next requests that begin like this with something else.
    pub fn fail(&self, beginning: &str, times: usize, (status, body): (u16, Value)) {
        self.there().faults.push((beginning.to_owned(), status, body, times));
    }
}

async fn answer(State(all): State<Arc<Mutex<There>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let header = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let path = parts.uri.path().to_owned();
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let mut there = all.lock().unwrap();
    let asked = format!("{} {}", parts.method, parts.uri);
    there.asked.push(asked.clone());
    let fault =
        there.faults.iter().position(|(beginning, _, _, left)| *left > 0 && asked.starts_with(beginning));
    if let Some(at) = fault {
        let (_, status, body, left) = &mut there.faults[at];
        *left -= 1;
        return (StatusCode::from_u16(*status).unwrap(), body.to_string()).into_response();
    }
    if path == "/openapi.json" {
        return json!({ "openapi": "3.1.0", "info": { "title": "Basalt", "version": "0.1.0" } })
            .to_string()
            .into_response();
    }
    if header("authorization") != Some(format!("Bearer {TOKEN}")) {
        let (status, body) = no(401, "unauthenticated", "No.");
        return (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response();
    }
    if path == "/v1/watch" {
        let told = there.watch.subscribe();
        let pieces = futures::stream::unfold(told, |mut told| async move {
            Some((Ok::<_, std::convert::Infallible>(told.recv().await.ok()?), told))
        });
        return axum::body::Body::from_stream(pieces).into_response();
    }
    if path.ends_with("/console") {
        return there.console.clone().into_response();
    }
    match there.serve(&all, (&parts.method, &path, &query), header("if-match"), &body) {
        Ok(value) => value.to_string().into_response(),
        Err((status, body)) => (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response(),
    }
}

impl There {
    fn serve(
        &mut self,
        all: &Arc<Mutex<Self>>,
        (method, path, query): (&Method, &str, &BTreeMap<String, String>),
        generation: Option<String>,
        body: &Bytes,
    ) -> Answer {
        let (tenant, project) = (Uuid::from_u128(1), Uuid::from_u128(2));
        if path == "/v1/whoami" {
            let scope = json!({ "kind": "project", "tenant_id": tenant, "project_id": project });
            let grants: Vec<Value> = self.role.iter().map(|r| json!({ "role": r, "scope": scope })).collect();
            return Ok(
                json!({ "kind": "service_token", "id": project, "name": "basalt-agents", "grants": grants }),
            );
        }
        let Some(rest) = path.strip_prefix("/v1/projects/agents").filter(|_| self.role.is_some()) else {
            return Err(no(404, "not_found", "There is no project here."));
        };
        if method != Method::GET && self.role != Some("operator") {
            return Err(no(403, "forbidden", "This needs the role operator here."));
        }
        let words: Vec<&str> = rest.split('/').skip(1).collect();
        match (method.as_str(), &*words) {
            ("GET", []) => Ok(json!({ "id": project, "tenant_id": tenant, "name": "agents" })),
            ("GET", ["images", name]) => {
                let phase =
                    self.images.get(name).ok_or_else(|| no(404, "not_found", "There is no image here."))?;
                Ok(json!({ "name": name, "phase": phase }))
            }
            ("GET", ["networks", name]) => match self.networks.contains(name) {
                true => Ok(json!({ "name": name })),
                false => Err(no(404, "not_found", "There is no network here.")),
            },
            ("GET", ["vms"]) => Ok(self.list(query)),
            ("POST", ["vms"]) => self.create(body, query.get("dry_run").is_some_and(|d| d == "true")),
            (_, ["vms", key]) => {
                let id = self.vms.values().find(|vm| vm.id.to_string() == **key || vm.name.as_str() == *key);
                let id = id.ok_or_else(|| no(404, "not_found", "There is no vm here."))?.id;
                self.one(all, (method, id), generation, body)
            }
            _ => Err(no(404, "no_route", "No.")),
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Value {
        let selector: Selector = query.get("label_selector").map_or("", String::as_str).parse().unwrap();
        let after = query.get("cursor").map(|c| c.parse::<Uuid>().unwrap());
        let matching =
            || self.vms.values().filter(|vm| selector.matches(&vm.labels) && after.is_none_or(|a| vm.id > a));
        let items: Vec<&Vm> = matching().take(PAGE).collect();
        let next = (matching().count() > PAGE).then(|| items.last().map(|vm| vm.id)).flatten();
        json!({ "items": items, "next_cursor": next })
    }

    fn create(&mut self, body: &Bytes, dry_run: bool) -> Answer {
        let body: Body = serde_json::from_slice(body).map_err(|e| no(422, "invalid_body", &e.to_string()))?;
        check(&body)?;
        let name = body.name.unwrap();
        if self.vms.values().any(|vm| vm.name == name) {
            return Err(field(409, "name_taken", "name"));
        }
        let image = serde_json::to_value(&body.spec.disks[0].source).unwrap()["image"].clone();
        if self.images.get(image.as_str().unwrap()).is_none_or(|phase| *phase != "ready") {
            return Err(field(422, "not_found", "spec.disks[0].source.image"));
        }
        let nic = &body.spec.nics[0];
        if !self.networks.contains(nic.network.as_str()) {
            return Err(field(422, "not_found", "spec.nics[0].network"));
        }
        let taken = |address: Ipv4Addr| self.vms.values().any(|vm| vm.nics[0]["address"] == json!(address));
        // As the real one, it gives each address once before it gives one again.
        let mut free = (self.made as u8..=250).map(|n| Ipv4Addr::new(10, 0, 0, 2 + n));
        let address = match nic.address {
            Some(asked) if taken(asked) => return Err(field(422, "address_taken", "spec.nics[0].address")),
            Some(asked) => asked,
            None => free.find(|a| !taken(*a)).unwrap(),
        };
        let nics = vec![json!({ "network": nic.network, "address": address, "mac": "02:00:00:00:00:01" })];
        self.made += 1;
        let id = Uuid::from_u128(self.made);
        let vm = Vm {
            id,
            name,
            generation: 1,
            labels: body.labels,
            deletion_requested_at: None,
            spec: body.spec,
            phase: "running".to_owned(),
            nics,
            observed: json!({ "power": "running", "started_at": "2026-11-22T14:51:17Z" }),
            conditions: Vec::new(),
        };
        if dry_run {
            return Ok(json!({ "object": vm }));
        }
        self.vms.insert(id, vm.clone());
        Ok(json!({ "object": vm, "task": {} }))
    }

    fn one(
        &mut self,
        all: &Arc<Mutex<Self>>,
        (method, id): (&Method, Uuid),
        generation: Option<String>,
        body: &Bytes,
    ) -> Answer {
        let going = self.going;
        let vm = self.vms.get_mut(&id).unwrap();
        let changes = method != Method::GET;
        if changes && generation.is_some_and(|g| g != format!("\"{}\"", vm.generation)) {
            return Err(field(412, "generation_mismatch", "If-Match"));
        }
        match *method {
            Method::GET => {}
            Method::DELETE if vm.spec.protected => return Err(reason(409, "protected", "spec.protected")),
            Method::DELETE => {
                vm.deletion_requested_at = Some("2026-11-22T14:52:17Z");
                vm.phase = "deleting".to_owned();
                let there = Arc::clone(all);
                tokio::spawn(async move {
                    tokio::time::sleep(going).await;
                    there.lock().unwrap().vms.remove(&id);
                });
            }
            _ if vm.deletion_requested_at.is_some() => return Err(reason(409, "deleting", "vm")),
            _ => {
                let body: Body =
                    serde_json::from_slice(body).map_err(|e| no(422, "invalid_body", &e.to_string()))?;
                check(&body)?;
                if body.spec.disks != vm.spec.disks || body.spec.nics != vm.spec.nics {
                    return Err(field(422, "immutable", "spec.disks"));
                }
                (vm.spec, vm.labels) = (body.spec, body.labels);
                vm.phase = serde_json::to_value(vm.spec.power).unwrap().as_str().unwrap().to_owned();
            }
        }
        vm.generation += i64::from(changes);
        Ok(serde_json::to_value(vm).unwrap())
    }
}

/// As the real one checks what is written.
fn check(body: &Body) -> Result<(), (u16, Value)> {
    let mut errors = body.spec.errors();
    body.labels.validate("labels", &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    let mut problem = no(422, "invalid_body", "Fields of the body are wrong.");
    problem.1["errors"] = json!(errors);
    Err(problem)
}
