//! Starting a server, and what a test does to it from behind.

use crate::{
    Options,
    controller::{self, Behaviour},
    faults::Faults,
    http,
    kinds::{DEPLOYMENT, Kind, NAMESPACE, POD},
    rbac::Rule,
    state::{State, Write},
    status::Status,
    tls::{Authority, Error},
    verbs::{self, Deletion},
};
use base64::Engine as _;
use parking_lot::Mutex;
use serde_json::Value;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

/// What requests and the controller share.
pub(crate) struct Shared {
    pub state: Mutex<State>,
    pub changed: watch::Sender<u64>,
    pub cut: watch::Sender<u64>,
    pub faults: Faults,
    pub bookmark_interval: Duration,
    users: Mutex<BTreeMap<String, User>>,
}

#[derive(Clone)]
struct User {
    token: String,
    rules: Vec<Rule>,
}

impl Shared {
    /// Wakes those who wait for changes.
    pub fn bump(&self) {
        self.changed.send_replace(self.state.lock().version);
    }

    pub fn watch_timeout(&self) -> Duration {
        self.state.lock().options.watch_timeout
    }

    /// Who asks, by token or certificate, and what that one may do.
    pub fn who(&self, authorization: &str, certificate: Option<&str>) -> Option<(String, Vec<Rule>)> {
        let users = self.users.lock();
        let by_token =
            authorization.strip_prefix("Bearer ").map(|token| users.iter().find(|(_, u)| u.token == token));
        let found = match by_token {
            Some(found) => found,
            None => users.get_key_value(certificate?),
        };
        found.map(|(name, user)| (name.clone(), user.rules.clone()))
    }
}

/// The server.
pub struct Server;

/// A server that runs; it ends when this is dropped.
pub struct Handle {
    shared: Arc<Shared>,
    address: SocketAddr,
    authority: Authority,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts a server at a free port of this machine. There is one user, `admin`, who may do everything.
    pub async fn start(options: Options) -> Result<Handle, Error> {
        let authority = Authority::new()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(authority.server()?);
        let admin = User { token: "token-of-admin".to_owned(), rules: vec![Rule::everything()] };
        let shared = Arc::new(Shared {
            bookmark_interval: options.bookmark_interval,
            state: Mutex::new(State::new(options)),
            changed: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            faults: Faults::default(),
            users: Mutex::new(BTreeMap::from([("admin".to_owned(), admin)])),
        });
        let tasks = vec![
            tokio::spawn(http::serve(shared.clone(), listener, acceptor)),
            tokio::spawn(control(shared.clone())),
        ];
        Ok(Handle { shared, address, authority, tasks })
    }
}

/// The controllers: a pass at every change, and whenever time alone brings one.
async fn control(shared: Arc<Shared>) {
    let mut changed = shared.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let (before, after, next) = {
            let mut state = shared.state.lock();
            let before = state.version;
            let next = controller::step(&mut state);
            (before, state.version, next)
        };
        if before != after {
            shared.bump();
            continue;
        }
        let wait = next.unwrap_or(Duration::from_secs(3600)).max(Duration::from_millis(1));
        _ = tokio::time::timeout(wait, changed.changed()).await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of its authority, in PEM.
    pub fn authority(&self) -> &str {
        &self.authority.pem
    }

    /// The kubeconfig of the user who may do everything.
    pub fn kubeconfig(&self) -> String {
        self.with_user("token: token-of-admin")
    }

    /// Adds a user with a token, who may do what the rules allow, and says its kubeconfig.
    pub fn user(&self, name: &str, rules: Vec<Rule>) -> String {
        let token = format!("token-of-{name}");
        self.shared.users.lock().insert(name.to_owned(), User { token: token.clone(), rules });
        self.with_user(&format!("token: {token}"))
    }

    /// Adds a user with a certificate, and says its kubeconfig.
    pub fn user_by_certificate(&self, name: &str, rules: Vec<Rule>) -> Result<String, Error> {
        let (certificate, key) = self.authority.user(name)?;
        self.shared.users.lock().insert(name.to_owned(), User { token: String::from("\0"), rules });
        let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
        Ok(self.with_user(&format!(
            "client-certificate-data: {}\n    client-key-data: {}",
            encode(certificate),
            encode(key)
        )))
    }

    /// A kubeconfig with this under `user`.
    pub fn with_user(&self, user: &str) -> String {
        let authority = base64::engine::general_purpose::STANDARD.encode(&self.authority.pem);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    server: \
             https://{}\n    certificate-authority-data: {authority}\ncontexts:\n- name: test\n  context:\n    cluster: \
             test\n    user: test\nusers:\n- name: test\n  user:\n    {user}\n",
            self.address
        )
    }

    /// What goes wrong, and what was asked.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.shared.state.lock());
        self.shared.bump();
        result
    }

    fn kind(&self, plural: &str) -> Option<&'static Kind> {
        self.shared.state.lock().served.kinds().find(|kind| kind.plural == plural)
    }

    /// Every object of a kind (`deployments` …) in all namespaces.
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        let Some(kind) = self.kind(plural) else { return Vec::new() };
        self.shared.state.lock().list(kind, None).map(|o| Value::clone(o)).collect()
    }

    /// One object.
    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = self.kind(plural)?;
        self.shared.state.lock().get(kind, namespace, name).map(|o| Value::clone(o))
    }

    /// Makes an object as a manager of that name.
    pub fn create(
        &self,
        plural: &str,
        namespace: &str,
        object: Value,
        manager: &str,
    ) -> Result<Value, Status> {
        let kind = self.kind(plural).ok_or_else(Status::no_such_path)?;
        self.with(|state| state.create(kind, namespace, object, &Write::by(manager)))
    }

    /// Changes an object as a manager of that name, by no apply.
    pub fn edit(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        manager: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Status> {
        let kind = self.kind(plural).ok_or_else(Status::no_such_path)?;
        self.with(|state| {
            let old = state.need(kind, namespace, name)?.clone();
            let mut new = Value::clone(&old);
            change(&mut new);
            state.replace(kind, namespace, &old, new, &Write::by(manager))
        })
    }

    /// Applies as a manager of that name.
    pub fn apply(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        config: Value,
        manager: &str,
        force: bool,
    ) -> Result<Value, Status> {
        let kind = self.kind(plural).ok_or_else(Status::no_such_path)?;
        let mut write = Write::by(manager);
        write.manager.applies = true;
        self.with(|state| state.apply(kind, namespace, name, config, force, &write))
    }

    /// Deletes at once.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> Result<(), Status> {
        let kind = self.kind(plural).ok_or_else(Status::no_such_path)?;
        let deletion = Deletion { grace: Some(0), ..Deletion::default() };
        self.with(|state| verbs::delete(state, kind, namespace, name, &deletion)).map(|_| ())
    }

    /// Kills a pod, as an eviction would.
    pub fn kill_pod(&self, namespace: &str, name: &str) -> Result<(), Status> {
        self.delete(POD.plural, namespace, name)
    }

    /// The pods that a deployment's selector selects.
    pub fn pods_of(&self, namespace: &str, deployment: &str) -> Vec<String> {
        controller::pods_of(&self.shared.state.lock(), namespace, deployment)
    }

    /// Pods with this image do this from now on.
    pub fn behave(&self, image: &str, behaviour: Behaviour) {
        self.with(|state| _ = state.controller.behaviours.insert(image.to_owned(), behaviour));
        // Nothing changed yet that would wake the controller.
        self.shared.changed.send_modify(|_| {});
    }

    /// Stops the controllers, or lets them go on.
    pub fn stop_controllers(&self, stopped: bool) {
        self.with(|state| state.controller.stopped = stopped);
    }

    /// Adds a namespace.
    pub fn add_namespace(&self, name: &str) {
        self.with(|state| state.add_namespace(name));
    }

    /// Marks a namespace as going.
    pub fn terminate_namespace(&self, name: &str) -> Result<(), Status> {
        self.edit(NAMESPACE.plural, "", name, "kubectl", |_| {})?;
        let deletion = Deletion::default();
        self.with(|state| {
            let old = state.need(&NAMESPACE, "", name)?.clone();
            let mut held = Value::clone(&old);
            held["metadata"]["finalizers"] = serde_json::json!(["kubernetes"]);
            state.replace(&NAMESPACE, "", &old, held, &Write::by("kubectl"))?;
            verbs::delete(state, &NAMESPACE, "", name, &deletion)
        })
        .map(|_| ())
    }

    /// At most so many of something (`pods`, `count/deployments.apps`) in a namespace.
    pub fn quota(&self, namespace: &str, of: &str, most: usize) {
        self.with(|state| _ = state.quotas.insert((namespace.to_owned(), of.to_owned()), most));
    }

    /// A pod prints a line.
    pub fn print(&self, namespace: &str, pod: &str, line: &str) {
        self.with(|state| state.logs.print(namespace, pod, line));
        self.shared.changed.send_modify(|_| {});
    }

    /// A pod's container begins again: what it printed is the log of its former life.
    pub fn restart(&self, namespace: &str, pod: &str) {
        self.with(|state| state.logs.restart(namespace, pod));
    }

    /// Forgets the history, so that whoever watches from before is told 410.
    pub fn compact(&self) {
        self.with(State::compact);
    }

    /// Cuts every watch and followed log in the middle.
    pub fn cut_watches(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.shared.state.lock().version
    }

    /// Whether every deployment has told what it comes to, with nothing left to do.
    pub fn is_settled(&self) -> bool {
        let state = self.shared.state.lock();
        state
            .list(&DEPLOYMENT, None)
            .all(|d| d["status"]["observedGeneration"] == d["metadata"]["generation"])
    }
}
