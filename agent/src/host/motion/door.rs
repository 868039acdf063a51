//! The target's end: lets the source of a migration in, and connects it to the sockets of this host.

use super::{
    Answer, CONNECTIONS, Door, Gate, HELLO_LIMIT, Hello, PIECE_BYTES, Stream, read_line, volume, write_line,
};
use crate::Error;
use basalt_daemon::peers::{self, Shown};
use basalt_model::{VolumeId, migrations::MigrationMode};
use basalt_plan::host::DoorDefinition;
use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// How often a socket is looked for that QEMU is about to make.
const SOCKET_EVERY: Duration = Duration::from_millis(10);
const SOCKET_LIMIT: Duration = Duration::from_secs(10);

/// What happens to guests that came in.
pub trait Arrivals: Send + Sync + 'static {
    /// The source let go of a guest: it is to execute, if it is here whole. Answers how long it was paused, as far as
    /// that is known, in milliseconds.
    fn go(&self, door: &DoorDefinition) -> impl Future<Output = Result<Option<u64>, Error>> + Send;

    /// Where a volume of a guest that is off comes in. Nobody has it open.
    fn file(
        &self,
        door: &DoorDefinition,
        volume: VolumeId,
    ) -> impl Future<Output = Result<PathBuf, Error>> + Send;
}

/// Takes VMs in for as long as it is polled.
pub async fn serve<A: Arrivals>(gate: Arc<Gate>, arrivals: Arc<A>) {
    let Some(address) = gate.listen else { return };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%address, %error, "no VM can come in: cannot listen, trying again");
                tokio::time::sleep(Duration::from_secs(2)).await;
                continue;
            }
        };
        let mut connections = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((tcp, from)) => {
                    let (gate, arrivals) = (Arc::clone(&gate), Arc::clone(&arrivals));
                    connections.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = take_in(&gate, &*arrivals, tcp).await {
                            tracing::warn!(%from, %error, "a connection of a migration ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection of a migration");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }
}

async fn take_in<A: Arrivals>(gate: &Gate, arrivals: &A, tcp: TcpStream) -> Result<(), Error> {
    let what = "a connection of a migration";
    let link = |e: &dyn std::fmt::Display| Error::link(what, e);
    let identity = gate.identity()?;
    let shown =
        Shown { cert_pem: &identity.certificate_pem, key_pem: &identity.key_pem, ca_pem: &identity.ca_pem };
    let config = shown.callee().map_err(|e| Error::Identity(e.to_string()))?;
    let hello = async {
        tcp.set_nodelay(true)?;
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(tcp).await?;
        let hello: Hello = read_line(&mut stream).await?;
        Ok::<_, std::io::Error>((stream, hello))
    };
    let hello = tokio::time::timeout(HELLO_LIMIT, hello).await;
    let (mut stream, hello) = hello.map_err(|e| link(&e))?.map_err(|e| link(&e))?;
    let peer = peers::who(stream.get_ref().1.peer_certificates());
    let Some(door) = gate.door(&hello, &peer.uris) else {
        let why = "no door stands open for this migration from this host".to_owned();
        let refusal = Answer { why: why.clone(), ..Answer::default() };
        write_line(&mut stream, &refusal).await.map_err(|e| link(&e))?;
        return Err(link(&format!("{why}: {:?} of {}", peer.uris, hello.migration)));
    };
    gate.news.notify_one();
    let end = door.end.clone();
    tokio::select! {
        () = end.cancelled() => Ok(()),
        done = carry(gate, arrivals, &door, &hello, stream) => done.map_err(|e| link(&e)),
    }
}

async fn carry<A: Arrivals>(
    gate: &Gate,
    arrivals: &A,
    door: &Door,
    hello: &Hello,
    mut remote: TlsStream<TcpStream>,
) -> std::io::Result<()> {
    let ok = Answer { ok: true, ..Answer::default() };
    let path = match hello.stream {
        Stream::Volume => return take_volume(arrivals, door, hello.volume, &mut remote).await,
        Stream::Control => {
            write_line(&mut remote, &ok).await?;
            return control(gate, arrivals, door, &mut remote).await;
        }
        Stream::Libvirt => gate.libvirt.clone(),
        Stream::Memory | Stream::Disks => gate.socket(door.definition.migration_id, hello.stream),
    };
    let mut local = match socket(&path).await {
        Ok(local) => local,
        Err(error) => {
            let why = format!("{}: {error}", path.display());
            return write_line(&mut remote, &Answer { why, ..Answer::default() }).await;
        }
    };
    write_line(&mut remote, &ok).await?;
    copy_bidirectional_with_sizes(&mut remote, &mut local, PIECE_BYTES, PIECE_BYTES).await.map(drop)
}

async fn take_volume<A: Arrivals>(
    arrivals: &A,
    door: &Door,
    id: Option<VolumeId>,
    remote: &mut TlsStream<TcpStream>,
) -> std::io::Result<()> {
    let wanted = &door.definition;
    let file = match id.filter(|_| wanted.copy_storage && wanted.mode == MigrationMode::Cold) {
        Some(id) => arrivals.file(wanted, id).await.map_err(|e| e.to_string()),
        None => Err("no volume is to come in".to_owned()),
    };
    let path = match file {
        Ok(path) => path,
        Err(why) => return write_line(remote, &Answer { why, ..Answer::default() }).await,
    };
    let mine = CancellationToken::new();
    std::mem::replace(&mut *door.volume.lock().unwrap_or_else(PoisonError::into_inner), mine.clone())
        .cancel();
    write_line(remote, &Answer { ok: true, ..Answer::default() }).await?;
    tokio::select! {
        biased;
        () = mine.cancelled() => Err(std::io::Error::other("it is sent anew")),
        done = volume::receive(&path, remote) => done,
    }
}

/// QEMU may be about to make its socket.
async fn socket(path: &PathBuf) -> std::io::Result<UnixStream> {
    let end = super::instant() + SOCKET_LIMIT;
    loop {
        match UnixStream::connect(path).await {
            Err(_) if super::instant() < end => tokio::time::sleep(SOCKET_EVERY).await,
            other => return other,
        }
    }
}

/// The source says that it let go of the guest.
async fn control<A: Arrivals>(
    gate: &Gate,
    arrivals: &A,
    door: &Door,
    remote: &mut TlsStream<TcpStream>,
) -> std::io::Result<()> {
    let _: String = read_line(remote).await?;
    // What is wanted of it may have changed since.
    let now = gate.doors().get(&door.definition.id).map(|d| d.definition.clone());
    let now = now.filter(|d| d.migration_id == door.definition.migration_id);
    let answer = match now {
        Some(now) if now.resume => match arrivals.go(&now).await {
            Ok(pause_milliseconds) => Answer { ok: true, pause_milliseconds, ..Answer::default() },
            Err(error) => Answer { why: error.to_string(), ..Answer::default() },
        },
        _ => Answer { why: "it is not to execute".into(), ..Answer::default() },
    };
    gate.news.notify_one();
    write_line(remote, &answer).await
}
