//! One connection to libvirt: calls that block run beside the runtime, are bounded in number and time,
//! and a connection that broke is opened again. A restarted libvirtd restarts no VM (R34).
//!
//! A daemon that is there and does not answer holds nobody up (R35): once a call was given up, others are refused at once
//! and a single one at a time goes to see, until a call that was given up comes back.

use crate::Error;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;
use virt::{connect::Connect, error::ErrorNumber};

/// Calls under way at once; libvirtd serves a client with about as many workers.
const CALLS: usize = 8;
/// Longest a call is waited for. libvirt itself gives up on a stuck QEMU after 30 s.
const LIMIT: Duration = Duration::from_secs(45);
/// Longest that a look is waited for: it waits for no guest.
const LOOK_LIMIT: Duration = Duration::from_secs(8);
/// Longest that somebody waits who goes to see whether a daemon answers again.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Why a call to libvirt brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibvirtError {
    /// The daemon cannot be reached, or went away during the call.
    #[error("libvirt at {uri} is away: {message}")]
    Away {
        /// Where it was sought.
        uri: String,
        /// What the library said.
        message: String,
    },
    /// No such domain.
    #[error("libvirt knows no such domain: {0}")]
    NoDomain(String),
    /// The daemon did not answer in time; what became of the call is unknown.
    #[error("libvirt did not answer within {0} s")]
    Late(u64),
    /// The daemon is there and answers nobody; the call was not made.
    #[error("libvirt has not answered an earlier call yet, so it was not asked")]
    Hangs,
    /// It refused or failed.
    #[error("libvirt: {0}")]
    Failed(String),
}

impl From<LibvirtError> for Error {
    fn from(error: LibvirtError) -> Self {
        Self::host("libvirt", error)
    }
}

/// A connection that opens itself when it is needed.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    uri: String,
    open: Mutex<Option<Arc<Held>>>,
    permits: Arc<Semaphore>,
    /// Calls that were given up and have not come back.
    given_up: AtomicUsize,
    /// Held by who goes to see whether the daemon answers again.
    probe: Arc<Semaphore>,
}

/// An open connection; the binding closes none by itself.
struct Held(Connect);

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.0.close() {
            tracing::debug!(%error, "closing a connection to libvirt");
        }
    }
}

impl Connection {
    /// A connection to a libvirt URI such as `qemu:///system`; nothing is opened yet.
    pub fn new(uri: impl Into<String>) -> Self {
        // Without a handler of its own the library writes every error to standard error.
        virt::error::clear_error_callback();
        let permits = Arc::new(Semaphore::new(CALLS));
        let (given_up, probe) = (AtomicUsize::new(0), Arc::new(Semaphore::new(1)));
        Self {
            shared: Arc::new(Shared { uri: uri.into(), open: Mutex::new(None), permits, given_up, probe }),
        }
    }

    /// The URI.
    pub fn uri(&self) -> &str {
        &self.shared.uri
    }

    /// Runs one call that changes something. After an error that broke the connection, the next call opens a new one.
    pub async fn call<T, F>(&self, call: F) -> Result<T, LibvirtError>
    where
        T: Send + 'static,
        F: FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
    {
        self.call_within(LIMIT, call).await
    }

    /// Runs one call that only looks.
    pub async fn look<T, F>(&self, call: F) -> Result<T, LibvirtError>
    where
        T: Send + 'static,
        F: FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
    {
        self.call_within(LOOK_LIMIT, call).await
    }

    async fn call_within<T, F>(&self, limit: Duration, call: F) -> Result<T, LibvirtError>
    where
        T: Send + 'static,
        F: FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let (limit, permits) = match shared.given_up.load(Ordering::Acquire) {
            0 => (limit, &shared.permits),
            _ => (PROBE_LIMIT.min(limit), &shared.probe),
        };
        let acquire = Arc::clone(permits).acquire_owned();
        let Ok(permit) = tokio::time::timeout(limit, acquire).await else { return Err(LibvirtError::Hangs) };
        let run = Arc::new(Run::default());
        let (theirs, of_run) = (Arc::clone(&shared), Arc::clone(&run));
        let work = tokio::task::spawn_blocking(move || {
            // A call that hangs keeps its permit, so that hung calls stay bounded.
            let _permit = permit;
            let result = theirs.connect().and_then(|connect| {
                let result = call(&connect.0).map_err(|error| theirs.judge(&error));
                // Here, where it may block, and not with the last other holder.
                drop(connect);
                result
            });
            of_run.end(&theirs.given_up);
            result
        });
        match tokio::time::timeout(limit, work).await {
            Err(_) => {
                run.give_up(&shared.given_up);
                // To close a connection is a call as well.
                drop(tokio::task::spawn_blocking(move || drop(shared.forget())));
                Err(LibvirtError::Late(limit.as_secs()))
            }
            Ok(Err(panic)) => Err(LibvirtError::Failed(format!("the call was lost: {panic}"))),
            Ok(Ok(result)) => result,
        }
    }

    /// libvirt's version, as it writes versions.
    pub async fn version(&self) -> Result<String, LibvirtError> {
        let number = self.look(|connect| connect.get_lib_version()).await?;
        Ok(format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000))
    }
}

/// Where one call is: under way, ended, or given up and still under way.
#[derive(Default)]
struct Run(AtomicU8);

impl Run {
    const ENDED: u8 = 1;
    const GIVEN_UP: u8 = 2;

    fn end(&self, given_up: &AtomicUsize) {
        if self.0.swap(Self::ENDED, Ordering::AcqRel) == Self::GIVEN_UP {
            given_up.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn give_up(&self, given_up: &AtomicUsize) {
        // Counted first: who ends it in between takes off what is there.
        given_up.fetch_add(1, Ordering::AcqRel);
        if self.0.compare_exchange(0, Self::GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_err() {
            given_up.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Shared {
    /// The connection, opened where there is none. Nobody waits for the lock while somebody waits for the daemon.
    fn connect(&self) -> Result<Arc<Held>, LibvirtError> {
        let open = self.lock().clone();
        if let Some(connect) = open
            && connect.0.is_alive().unwrap_or(false)
        {
            return Ok(connect);
        }
        let connect = Arc::new(Held(Connect::open(Some(&self.uri)).map_err(|error| self.away(&error))?));
        let before = self.lock().replace(Arc::clone(&connect));
        drop(before);
        Ok(connect)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Held>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next call opens a new connection. The old one is closed where it is dropped, which may take long.
    fn forget(&self) -> Option<Arc<Held>> {
        self.lock().take()
    }

    fn away(&self, error: &virt::error::Error) -> LibvirtError {
        LibvirtError::Away { uri: self.uri.clone(), message: error.message().to_owned() }
    }

    fn judge(&self, error: &virt::error::Error) -> LibvirtError {
        if error.code() == ErrorNumber::NoDomain {
            return LibvirtError::NoDomain(error.message().to_owned());
        }
        let open = self.lock().clone();
        let alive = open.is_some_and(|connect| connect.0.is_alive().unwrap_or(false));
        if alive {
            return LibvirtError::Failed(error.message().to_owned());
        }
        drop(self.forget());
        self.away(error)
    }
}
