//! One connection to libvirt: calls that block run beside the runtime, are bounded in number and time,
//! and a connection that broke is opened again. A restarted libvirtd restarts no VM (R34).

use crate::Error;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Semaphore;
use virt::{connect::Connect, error::ErrorNumber};

/// Calls under way at once; libvirtd serves a client with about as many workers.
const CALLS: usize = 8;
/// Longest a call is waited for. libvirt itself gives up on a stuck QEMU after 30 s.
const LIMIT: Duration = Duration::from_secs(45);

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
    #[error("libvirt did not answer within {} s", LIMIT.as_secs())]
    Late,
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
        Self { shared: Arc::new(Shared { uri: uri.into(), open: Mutex::new(None), permits }) }
    }

    /// The URI.
    pub fn uri(&self) -> &str {
        &self.shared.uri
    }

    /// Runs one call. After an error that broke the connection, the next call opens a new one.
    pub async fn call<T, F>(&self, call: F) -> Result<T, LibvirtError>
    where
        T: Send + 'static,
        F: FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&shared.permits).acquire_owned().await;
        let work = tokio::task::spawn_blocking(move || {
            // A call that hangs keeps its permit, so that hung calls stay bounded.
            let _permit = permit;
            let connect = shared.connect()?;
            call(&connect.0).map_err(|error| shared.judge(&error))
        });
        match tokio::time::timeout(LIMIT, work).await {
            Err(_) => {
                self.shared.forget();
                Err(LibvirtError::Late)
            }
            Ok(Err(panic)) => Err(LibvirtError::Failed(format!("the call was lost: {panic}"))),
            Ok(Ok(result)) => result,
        }
    }

    /// libvirt's version, as it writes versions.
    pub async fn version(&self) -> Result<String, LibvirtError> {
        let number = self.call(|connect| connect.get_lib_version()).await?;
        Ok(format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000))
    }
}

impl Shared {
    fn connect(&self) -> Result<Arc<Held>, LibvirtError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connect) = open.as_ref() {
            if connect.0.is_alive().unwrap_or(false) {
                return Ok(Arc::clone(connect));
            }
            *open = None;
        }
        let connect = Arc::new(Held(Connect::open(Some(&self.uri)).map_err(|error| self.away(&error))?));
        *open = Some(Arc::clone(&connect));
        Ok(connect)
    }

    fn forget(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn away(&self, error: &virt::error::Error) -> LibvirtError {
        LibvirtError::Away { uri: self.uri.clone(), message: error.message().to_owned() }
    }

    fn judge(&self, error: &virt::error::Error) -> LibvirtError {
        if error.code() == ErrorNumber::NoDomain {
            return LibvirtError::NoDomain(error.message().to_owned());
        }
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = open.as_ref().is_some_and(|connect| connect.0.is_alive().unwrap_or(false));
        drop(open);
        if alive {
            return LibvirtError::Failed(error.message().to_owned());
        }
        self.forget();
        self.away(error)
    }
}
