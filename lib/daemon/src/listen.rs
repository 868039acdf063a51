//! Listening sockets: inherited from the service manager (or the lab) by name, else bound here.
//!
//! Inherited sockets outlive a killed process, so that clients wait instead of being refused, and
//! they may belong to another network namespace.

use crate::Error;
use std::net::TcpListener;

/// Connections that may wait to be accepted. The standard library asks for 128: when a thousand agents come back at once,
/// each over several connections, the others are dropped and ask again after 1, 3, 7 and 15 seconds. The kernel takes no
/// more than net.core.somaxconn, which is 4096 since Linux 5.4.
const QUEUE: i32 = 4096;

/// Sockets that this process was started with (`LISTEN_FDS`, `LISTEN_FDNAMES`).
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, TcpListener)>);

impl Inherited {
    /// Takes them; only the first call in a process finds any.
    pub fn take() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut fds = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for i in 0..fds.len() {
            let name = names.next().unwrap_or_default().to_owned();
            match fds.take_tcp_listener(i) {
                Ok(Some(socket)) => sockets.push((name, socket)),
                Ok(None) => {}
                Err(e) => {
                    tracing::warn!(name, error = %e, "an inherited descriptor is no listening TCP socket")
                }
            }
        }
        Self(sockets)
    }

    /// The inherited sockets of a name; when there are none, binds the addresses.
    pub fn sockets(&mut self, name: &str, addresses: &[String]) -> Result<Vec<TcpListener>, Error> {
        let (mine, rest) = std::mem::take(&mut self.0).into_iter().partition(|(n, _)| n == name);
        self.0 = rest;
        let mine: Vec<(String, TcpListener)> = mine;
        let sockets = if mine.is_empty() {
            let bind = |a: &String| {
                TcpListener::bind(a).map_err(|source| Error::Listen { address: a.clone(), source })
            };
            addresses.iter().map(bind).collect::<Result<Vec<_>, _>>()?
        } else {
            mine.into_iter().map(|(_, s)| s).collect()
        };
        for socket in &sockets {
            let failed = |source| Error::Listen { address: name.into(), source };
            // To listen once more changes the length of the queue, of an inherited socket too.
            rustix::net::listen(socket, QUEUE).map_err(|e| failed(e.into()))?;
            socket.set_nonblocking(true).map_err(failed)?;
        }
        Ok(sockets)
    }
}
