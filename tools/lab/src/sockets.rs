//! Socket activation: the supervisor holds the listening sockets and hands them to its children.
//!
//! A socket can so be made inside another network namespace than the one its reader runs in, and it
//! survives the reader: callers queue while a killed service is started again. The child reads
//! `LISTEN_FDS` and `LISTEN_FDNAMES`; `LISTEN_PID` is left out because the number is not known before the fork.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};

use crate::netns::NetNs;

/// The first inherited descriptor, by the protocol's convention.
const FIRST_FD: i32 = 3;

/// A listening socket with the name its reader knows it by.
#[derive(Clone, Debug)]
pub struct NamedSocket {
    name: String,
    address: SocketAddr,
    listener: Arc<TcpListener>,
}

impl NamedSocket {
    /// Listens in this process's own network namespace. Port 0 takes a free one; see [`NamedSocket::address`].
    pub fn listen(name: &str, address: SocketAddr) -> Result<Self> {
        let listener = bind(address)?;
        Ok(Self { name: name.to_owned(), address: listener.local_addr()?, listener: Arc::new(listener) })
    }

    /// Listens inside another network namespace.
    pub fn listen_in(netns: &NetNs, name: &str, address: SocketAddr) -> Result<Self> {
        let listener = netns.enter(move || bind(address))?;
        Ok(Self { name: name.to_owned(), address: listener.local_addr()?, listener: Arc::new(listener) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address as it came to be.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// Makes a command inherit the sockets, numbered from 3 in the given order.
pub fn inherit(command: &mut Command, sockets: &[NamedSocket]) -> Result<()> {
    if sockets.is_empty() {
        return Ok(());
    }
    let mut mappings = Vec::new();
    for (child_fd, socket) in (FIRST_FD..).zip(sockets) {
        mappings.push(FdMapping { parent_fd: OwnedFd::from(socket.listener.try_clone()?), child_fd });
    }
    command.fd_mappings(mappings).context("two sockets for one descriptor")?;
    let names: Vec<&str> = sockets.iter().map(NamedSocket::name).collect();
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;

    #[test]
    fn a_child_inherits_the_socket_and_answers_on_it() {
        let socket = NamedSocket::listen("users", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // The caller connects before anybody reads: it waits in the socket's queue.
        let mut caller = TcpStream::connect(socket.address()).unwrap();
        let script = "import os, socket\n\
            s = socket.socket(fileno=3); c, _ = s.accept()\n\
            c.sendall((os.environ['LISTEN_FDS'] + ' ' + os.environ['LISTEN_FDNAMES']).encode())";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]);
        inherit(&mut command, &[socket]).unwrap();
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        caller.read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert_eq!(said, "1 users");
    }
}
