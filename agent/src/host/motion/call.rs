//! The source's end: calls the target's agent, and carries connections of this host's libvirt and QEMU to it.

use super::{Answer, Gate, HELLO_LIMIT, Hello, PIECE_BYTES, Stream, host_uri, read_line, volume, write_line};
use crate::Error;
use basalt_daemon::peers::Shown;
use basalt_model::{HostId, MigrationId, VmId, VolumeId};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Connections of one stream of one migration: libvirt opens one, QEMU one for memory and one for each disk.
const EACH: usize = 32;
/// Longest that the target may take to let the guest go on.
const GO_LIMIT: Duration = Duration::from_secs(20);

/// Who is called.
#[derive(Clone, Debug)]
pub struct Call {
    /// The VM.
    pub vm: VmId,
    /// Its migration.
    pub migration: MigrationId,
    /// The host that must answer.
    pub target: HostId,
    /// Where.
    pub address: SocketAddr,
}

/// An open line to the target's agent.
pub struct Line(TlsStream<TcpStream>);

/// The sockets of a migration and all that goes through them; ends when it is dropped.
pub struct Relay {
    gate: Arc<Gate>,
    migration: MigrationId,
    /// Counted for people who ask why nothing moves.
    pub connections: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.gate.clear(self.migration);
    }
}

impl Call {
    fn config(&self, gate: &Gate) -> Result<Arc<ClientConfig>, Error> {
        let identity = gate.identity()?;
        let shown = Shown {
            cert_pem: &identity.certificate_pem,
            key_pem: &identity.key_pem,
            ca_pem: &identity.ca_pem,
        };
        let config = shown.caller(&host_uri(self.target)).map_err(|e| Error::Identity(e.to_string()))?;
        Ok(Arc::new(config))
    }

    async fn open(
        &self,
        config: Arc<ClientConfig>,
        stream: Stream,
        volume: Option<VolumeId>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let hello = Hello { vm: self.vm, migration: self.migration, stream, volume };
        let open = async {
            let tcp = TcpStream::connect(self.address).await?;
            tcp.set_nodelay(true)?;
            // Hosts are known by their certificates' URI; the name stands for nothing.
            let name = ServerName::from(self.address.ip());
            let mut remote = TlsConnector::from(config).connect(name, tcp).await?;
            write_line(&mut remote, &hello).await?;
            let answer: Answer = read_line(&mut remote).await?;
            if answer.ok { Ok(remote) } else { Err(std::io::Error::other(answer.why)) }
        };
        match tokio::time::timeout(2 * HELLO_LIMIT, open).await {
            Ok(opened) => opened,
            Err(_) => Err(std::io::Error::other("no answer in time")),
        }
    }

    /// Opens the agents' own line.
    ///
    /// # Errors
    /// [`Error::Link`] when the target is not reached, is another, or has no door open.
    pub async fn line(&self, gate: &Gate) -> Result<Line, Error> {
        let opened = self.open(self.config(gate)?, Stream::Control, None).await;
        opened.map(Line).map_err(|e| Error::link(format!("calling {}", self.address), e))
    }

    /// Sends a volume's file, and returns when the target keeps it. `sent` hears of the bytes of each piece.
    ///
    /// # Errors
    /// [`Error::Link`]: the target has nothing of it, or all.
    pub async fn volume(
        &self,
        gate: &Gate,
        id: VolumeId,
        path: &Path,
        bytes_per_second: Option<u64>,
        sent: impl FnMut(u64),
    ) -> Result<(), Error> {
        let config = self.config(gate)?;
        let send = async {
            let mut remote = self.open(config, Stream::Volume, Some(id)).await?;
            volume::send(path, &mut remote, bytes_per_second, sent).await
        };
        send.await.map_err(|e: std::io::Error| Error::link(format!("sending volume {id}"), e))
    }

    /// Opens the sockets of a migration; what connects to them is carried to the target.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn relay(&self, gate: &Arc<Gate>) -> Result<Relay, Error> {
        gate.room(self.migration)?;
        let config = self.config(gate)?;
        let (mut tasks, connections) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
        for stream in Stream::RELAYED {
            let path = gate.socket(self.migration, stream);
            let bind = || {
                if path.exists() {
                    fs::remove_file(&path)?;
                }
                let listener = UnixListener::bind(&path)?;
                // QEMU connects under its own account; nobody else passes the directory's unguessable name.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
                Ok(listener)
            };
            let listener = bind().map_err(|e: std::io::Error| Error::state(&path, e))?;
            let (call, config, connections) = (self.clone(), Arc::clone(&config), Arc::clone(&connections));
            tasks.spawn(async move { call.accept(listener, config, stream, &connections).await });
        }
        Ok(Relay { gate: Arc::clone(gate), migration: self.migration, connections, _tasks: tasks })
    }

    async fn accept(
        self,
        listener: UnixListener,
        config: Arc<ClientConfig>,
        stream: Stream,
        count: &AtomicU64,
    ) {
        let mut open = JoinSet::new();
        loop {
            let local = match listener.accept().await {
                Ok((local, _)) => local,
                Err(error) => {
                    tracing::warn!(%error, ?stream, "a socket of a migration");
                    return;
                }
            };
            count.fetch_add(1, Ordering::Relaxed);
            while open.try_join_next().is_some() {}
            if open.len() >= EACH {
                continue;
            }
            let (call, config) = (self.clone(), Arc::clone(&config));
            open.spawn(async move {
                if let Err(error) = call.carry(local, config, stream).await {
                    tracing::warn!(%error, ?stream, migration = %call.migration, "a stream of a migration ended");
                }
            });
        }
    }

    async fn carry(
        &self,
        mut local: UnixStream,
        config: Arc<ClientConfig>,
        stream: Stream,
    ) -> std::io::Result<()> {
        let mut remote = self.open(config, stream, None).await?;
        copy_bidirectional_with_sizes(&mut local, &mut remote, PIECE_BYTES, PIECE_BYTES).await.map(drop)
    }
}

impl Line {
    /// The source let go of the guest: the target is to let it execute. Answers how long it was paused as the target
    /// counts, in milliseconds.
    ///
    /// # Errors
    /// [`Error::Link`]: it may or may not execute.
    pub async fn go(mut self) -> Result<Option<u64>, Error> {
        let ask = async {
            write_line(&mut self.0, &"go").await?;
            read_line::<Answer>(&mut self.0).await
        };
        let what = "saying that the guest may go on";
        let answer = tokio::time::timeout(GO_LIMIT, ask).await.map_err(|e| Error::link(what, e))?;
        match answer.map_err(|e| Error::link(what, e))? {
            Answer { ok: true, pause_milliseconds, .. } => Ok(pause_milliseconds),
            Answer { why, .. } => Err(Error::link(what, why)),
        }
    }
}
