//! Sessions: each with a child of its own, and where the child's messages go.

use crate::child::{Child, reap_orphans};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    collections::{BTreeMap, VecDeque},
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc};

/// Most sessions at once: each has a process.
const MAX_SESSIONS: usize = 32;
/// How long a session lives that nobody uses.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// Messages that wait for the client to listen; then the oldest is left out.
const MAX_WAITING: usize = 256;
/// The pause before a child is started again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A child that lived so long was well, and the pause is short again.
const WELL: Duration = Duration::from_secs(60);

/// What is sent to a client that listens.
pub type Events = mpsc::Sender<Value>;

/// Why a message could not be taken.
pub enum Refusal {
    /// There is no such session (any more): the client has to begin anew.
    Unknown,
    /// Not now.
    Busy(String),
}

/// All sessions, and a child that waits for the next.
pub struct Sessions {
    command: Vec<String>,
    inner: Mutex<Inner>,
    /// Somebody took the waiting child, or a child ended.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<String, Arc<Session>>,
    waiting: Option<(Child, mpsc::Receiver<Value>)>,
    failed: Option<String>,
    ending: bool,
}

/// One client and its child.
pub struct Session {
    child: Child,
    routes: Mutex<Routes>,
}

struct Routes {
    used: Instant,
    /// Who waits for the answer to which request.
    requests: BTreeMap<String, Events>,
    /// Where everything else goes.
    listener: Option<Events>,
    waiting: VecDeque<Value>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    pub fn new(command: Vec<String>) -> Self {
        Self { command, inner: Mutex::default(), changed: Notify::new() }
    }

    /// Keeps a child alive, as long as no session has one, and ends sessions that nobody uses.
    pub async fn keep(self: Arc<Self>) {
        let mut pause = PAUSE.0;
        loop {
            reap_orphans();
            let alone = {
                let mut inner = locked(&self.inner);
                if inner.waiting.as_ref().is_some_and(|(child, _)| !child.is_alive()) {
                    let lived = inner.waiting.take().map(|(child, _)| child.since.elapsed());
                    inner.failed = Some("it ended at once".to_owned());
                    pause = next_pause(pause, lived.unwrap_or_default());
                }
                inner.by_id.retain(|_, session| session.child.is_alive() && !session.is_idle());
                inner.waiting.is_none() && inner.by_id.is_empty()
            };
            if alone {
                if locked(&self.inner).failed.is_some() {
                    tokio::time::sleep(pause).await;
                }
                match Child::start(&self.command) {
                    Ok(started) => locked(&self.inner).waiting = Some(started),
                    Err(error) => {
                        eprintln!("basalt-mcp-bridge: {error:#}");
                        locked(&self.inner).failed = Some(format!("{error:#}"));
                        pause = next_pause(pause, Duration::ZERO);
                    }
                }
                // Whether it stays is seen a moment later.
                tokio::time::sleep(PAUSE.0).await;
                let mut inner = locked(&self.inner);
                let stays = inner.waiting.as_ref().is_some_and(|(child, _)| child.is_alive());
                if stays || !inner.by_id.is_empty() {
                    inner.failed = None;
                }
                continue;
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), self.changed.notified()).await;
        }
    }

    /// Whether a child lives; if not, why.
    pub fn health(&self) -> Result<(), String> {
        let inner = locked(&self.inner);
        let waits = inner.waiting.as_ref().is_some_and(|(child, _)| child.is_alive());
        if waits || inner.by_id.values().any(|session| session.child.is_alive()) {
            return Ok(());
        }
        Err(inner.failed.clone().unwrap_or_else(|| "it is being started".to_owned()))
    }

    /// A session of its own for a client that begins.
    pub fn begin(self: &Arc<Self>) -> Result<(String, Arc<Session>), Refusal> {
        let id = random_id().map_err(|e| Refusal::Busy(format!("{e:#}")))?;
        let (session, messages) = {
            let mut inner = locked(&self.inner);
            inner.by_id.retain(|_, session| session.child.is_alive() && !session.is_idle());
            if inner.ending || inner.by_id.len() >= MAX_SESSIONS {
                return Err(Refusal::Busy(format!("there are {MAX_SESSIONS} sessions already")));
            }
            let (child, messages) = match inner.waiting.take().filter(|(child, _)| child.is_alive()) {
                Some(ready) => ready,
                // While it does not stay alive, starting is for the one that pauses in between.
                None if inner.failed.is_some() => {
                    let why = inner.failed.clone().unwrap_or_default();
                    return Err(Refusal::Busy(format!("the server does not run: {why}")));
                }
                None => Child::start(&self.command).map_err(|e| Refusal::Busy(format!("{e:#}")))?,
            };
            let routes = Routes {
                used: Instant::now(),
                requests: BTreeMap::new(),
                listener: None,
                waiting: VecDeque::new(),
            };
            let session = Arc::new(Session { child, routes: Mutex::new(routes) });
            inner.by_id.insert(id.clone(), Arc::clone(&session));
            (session, messages)
        };
        let (all, of, me) = (Arc::clone(self), Arc::clone(&session), id.clone());
        tokio::spawn(async move {
            of.route(messages).await;
            locked(&all.inner).by_id.remove(&me);
            all.changed.notify_one();
        });
        Ok((id, session))
    }

    pub fn get(&self, id: &str) -> Result<Arc<Session>, Refusal> {
        let session = locked(&self.inner).by_id.get(id).cloned().filter(|s| s.child.is_alive());
        session.ok_or(Refusal::Unknown)
    }

    /// Ends one session.
    pub async fn finish(&self, id: &str) -> Result<(), Refusal> {
        let session = locked(&self.inner).by_id.remove(id).ok_or(Refusal::Unknown)?;
        session.child.end().await;
        self.changed.notify_one();
        Ok(())
    }

    /// Ends every child.
    pub async fn end(&self) {
        let (sessions, waiting) = {
            let mut inner = locked(&self.inner);
            inner.ending = true;
            (std::mem::take(&mut inner.by_id), inner.waiting.take())
        };
        let ends = sessions.values().map(|session| session.child.end());
        let waiting = async {
            if let Some((child, _)) = &waiting {
                child.end().await;
            }
        };
        futures::future::join(futures::future::join_all(ends), waiting).await;
    }
}

fn next_pause(pause: Duration, lived: Duration) -> Duration {
    if lived >= WELL { PAUSE.0 } else { (pause * 2).min(PAUSE.1) }
}

/// 128 bits that nobody can guess: who knows the id has the session.
fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    Ok(hex::encode(bytes))
}

/// What tells a request from others of its session; `1` and `"1"` are two.
pub fn request_id(message: &Value) -> Option<String> {
    message.get("id").filter(|id| !id.is_null()).map(Value::to_string)
}

impl Session {
    fn is_idle(&self) -> bool {
        let routes = locked(&self.routes);
        let listens = routes.listener.as_ref().is_some_and(|l| !l.is_closed());
        !listens && routes.requests.is_empty() && routes.used.elapsed() > IDLE
    }

    /// Takes a message of the client. With `answers`, it is a request, and the answer goes there.
    pub async fn send(&self, message: &Value, answers: Option<Events>) -> Result<(), Refusal> {
        {
            let mut routes = locked(&self.routes);
            routes.used = Instant::now();
            routes.requests.retain(|_, to| !to.is_closed());
            if let (Some(id), Some(answers)) = (request_id(message), answers) {
                if routes.requests.contains_key(&id) {
                    return Err(Refusal::Busy(format!("request {id} is not answered yet")));
                }
                routes.requests.insert(id, answers);
            }
        }
        // A child that reads nothing must not hold the client for ever.
        match tokio::time::timeout(Duration::from_secs(30), self.child.write(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Unknown),
            Err(_) => Err(Refusal::Busy("the server does not read".to_owned())),
        }
    }

    /// From now on what is no answer goes there, and what waited for it first.
    pub fn listen(&self, to: Events) {
        let mut routes = locked(&self.routes);
        routes.used = Instant::now();
        while let Some(message) = routes.waiting.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(message)) = to.try_send(message) {
                routes.waiting.push_front(message);
                break;
            }
        }
        routes.listener = Some(to);
    }

    async fn route(&self, mut messages: mpsc::Receiver<Value>) {
        while let Some(message) = messages.recv().await {
            let answered = message.get("method").is_none();
            let to = {
                let mut routes = locked(&self.routes);
                routes.used = Instant::now();
                routes.requests.retain(|_, to| !to.is_closed());
                match request_id(&message).filter(|_| answered) {
                    Some(id) => routes.requests.remove(&id),
                    // To the one that listens, or beside the answer that comes next.
                    None => {
                        let listener = routes.listener.as_ref().filter(|l| !l.is_closed()).cloned();
                        let beside = || routes.requests.values().next().cloned();
                        let to = listener.or_else(beside);
                        if to.is_none() {
                            if routes.waiting.len() == MAX_WAITING {
                                routes.waiting.pop_front();
                            }
                            routes.waiting.push_back(message.clone());
                        }
                        to
                    }
                }
            };
            if let Some(to) = to {
                // One that does not read is given a moment, and then goes without.
                let _ = to.send_timeout(message, Duration::from_secs(10)).await;
            }
        }
        // Whoever still waits for an answer is told by the end of the stream.
        let mut routes = locked(&self.routes);
        routes.requests.clear();
        routes.listener = None;
    }
}
