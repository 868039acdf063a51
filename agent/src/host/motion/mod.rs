//! The link between hosts on which VMs go from one to the other (docs/protocol.md).
//!
//! libvirt and QEMU speak over unix sockets only. The source's agent listens on sockets of their names, one set for each
//! migration, and carries every connection by mutual TLS 1.3 to the target's agent, which connects it to the socket of the
//! same name there. The target lets in what a door stands open for: one migration, one source.

mod call;
mod door;
mod volume;

pub use call::{Call, Relay};
pub use door::{Arrivals, serve};
pub use volume::length;

use crate::{Error, identity::Identity};
use basalt_model::{HostId, MigrationId, VmId, VolumeId};
use basalt_plan::host::{DoorDefinition, DoorSeen};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{io::AsyncReadExt, sync::Notify};
use tokio_util::sync::CancellationToken;

/// Connections that are served at once, of all migrations.
pub const CONNECTIONS: usize = 64;
/// Longest that a peer may take to say who it is and what it wants.
pub const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// What is read at once from each end of a stream.
const PIECE_BYTES: usize = 256 * 1024;
/// Longest first line.
const LINE_BYTES: usize = 512;
/// The account that Debian and its kin give to QEMU, and that of others.
const QEMU_ACCOUNTS: [&str; 2] = ["libvirt-qemu", "qemu"];

/// What a connection between two agents carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The agents' own words: the source says that it let go of the guest.
    Control,
    /// libvirt's protocol between the two daemons.
    Libvirt,
    /// The guest's memory and devices.
    Memory,
    /// Blocks of its volumes.
    Disks,
    /// One volume of a guest that is off, from agent to agent.
    Volume,
}

impl Stream {
    /// Those that are relayed between sockets.
    pub const RELAYED: [Self; 3] = [Self::Libvirt, Self::Memory, Self::Disks];

    /// The name of its socket.
    pub fn file(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Libvirt => "libvirt",
            Self::Memory => "memory",
            Self::Disks => "disks",
            Self::Volume => "volume",
        }
    }
}

/// The first line of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The VM.
    pub vm: VmId,
    /// Its migration.
    pub migration: MigrationId,
    /// What the connection is to carry.
    pub stream: Stream,
    /// Which volume, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
}

/// The answer to a line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it is done, or let in.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// How long the guest was paused as the target's hypervisor counts, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_milliseconds: Option<u64>,
}

/// Where VMs come in and go out on this host.
pub struct Gate {
    /// Where the agent takes migrations in; without it none comes or goes.
    pub listen: Option<SocketAddr>,
    state: PathBuf,
    dir: PathBuf,
    libvirt: PathBuf,
    doors: Mutex<BTreeMap<VmId, Door>>,
    /// Migrations whose volumes this agent sends itself, and how to end that.
    sending: Mutex<BTreeMap<MigrationId, CancellationToken>>,
    /// Something happened at a door.
    pub news: Notify,
}

#[derive(Clone)]
struct Door {
    definition: DoorDefinition,
    /// Ends all that goes through it.
    end: CancellationToken,
    /// Ends the volume that comes in: of two that send it, the one that came first is dead.
    volume: Arc<Mutex<CancellationToken>>,
}

impl Gate {
    /// A gate that listens there, with the identity of a state directory, and sockets below a run directory.
    pub fn new(listen: Option<SocketAddr>, state: &Path, run: &Path, libvirt: PathBuf) -> Self {
        let dir = run.join("migrations");
        let (state, doors, sending) = (state.to_owned(), Mutex::default(), Mutex::default());
        Self { listen, state, dir, libvirt, doors, sending, news: Notify::new() }
    }

    fn doors(&self) -> MutexGuard<'_, BTreeMap<VmId, Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The doors that stand open.
    pub fn open_doors(&self) -> BTreeMap<VmId, DoorSeen> {
        let seen =
            |d: &Door| DoorSeen { migration_id: d.definition.migration_id, resume: d.definition.resume };
        self.doors().iter().map(|(id, door)| (*id, seen(door))).collect()
    }

    /// Opens a door, or changes what happens at its end.
    ///
    /// # Errors
    /// [`Error::State`] when its sockets have no place.
    pub fn open(&self, definition: &DoorDefinition) -> Result<(), Error> {
        self.room(definition.migration_id)?;
        let mut doors = self.doors();
        match doors.get_mut(&definition.id) {
            Some(door) if door.definition.migration_id == definition.migration_id => {
                door.definition = definition.clone();
            }
            _ => {
                let (end, volume) = (CancellationToken::new(), Arc::default());
                let door = Door { definition: definition.clone(), end, volume };
                if let Some(before) = doors.insert(definition.id, door) {
                    before.end.cancel();
                }
            }
        }
        self.news.notify_one();
        Ok(())
    }

    /// Closes a door and all that goes through it.
    pub fn shut(&self, id: VmId, migration_id: MigrationId) {
        let mut doors = self.doors();
        if doors.get(&id).is_some_and(|d| d.definition.migration_id == migration_id)
            && let Some(door) = doors.remove(&id)
        {
            door.end.cancel();
        }
        drop(doors);
        self.clear(migration_id);
        self.news.notify_one();
    }

    /// Volumes of a migration are sent by this agent from now on; what is given ends it.
    pub fn begin_sending(&self, id: MigrationId) -> CancellationToken {
        let token = CancellationToken::new();
        self.sending().insert(id, token.clone());
        token
    }

    /// Ends the sending of volumes of a migration, if this agent does that.
    pub fn end_sending(&self, id: MigrationId) -> bool {
        self.sending().remove(&id).inspect(CancellationToken::cancel).is_some()
    }

    fn sending(&self) -> MutexGuard<'_, BTreeMap<MigrationId, CancellationToken>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The door of a migration, if it stands open for that host.
    fn door(&self, hello: &Hello, from: &[String]) -> Option<Door> {
        let door = self.doors().get(&hello.vm).cloned()?;
        let is_it = door.definition.migration_id == hello.migration;
        (is_it && from.contains(&host_uri(door.definition.source))).then_some(door)
    }

    /// Where a migration's sockets are, here and on the other host.
    pub fn socket(&self, id: MigrationId, stream: Stream) -> PathBuf {
        self.dir.join(id.to_string()).join(stream.file())
    }

    /// Makes the place of a migration's sockets. QEMU makes its own there, under its own account.
    fn room(&self, id: MigrationId) -> Result<(), Error> {
        let dir = self.dir.join(id.to_string());
        let make = || {
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o711))?;
            match qemu_account() {
                Some(account) => {
                    chown(&dir, Some(account), None)?;
                    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))
                }
                // Without an account of its own QEMU is root.
                None => fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)),
            }
        };
        make().map_err(|e| Error::state(&dir, e))
    }

    fn clear(&self, id: MigrationId) {
        let dir = self.dir.join(id.to_string());
        if let Err(error) = fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, dir = %dir.display(), "sockets of a migration are left");
        }
    }

    /// Who this host is now: the certificate is renewed while the agent runs.
    fn identity(&self) -> Result<Identity, Error> {
        Identity::load(&self.state)?.ok_or_else(|| Error::Identity("this host is not enrolled".into()))
    }
}

/// The URI that names a host in its certificate.
fn host_uri(id: HostId) -> String {
    format!("basalt:host:{id}")
}

/// The number of QEMU's account.
fn qemu_account() -> Option<u32> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let find = |name: &&str| {
        let line = accounts.lines().find(|l| l.split(':').next() == Some(*name))?;
        line.split(':').nth(2)?.parse().ok()
    };
    QEMU_ACCOUNTS.iter().find_map(find)
}

/// The groups of QEMU's account, by number; those of root where QEMU has none.
pub fn qemu_groups() -> Vec<u32> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &&str| accounts.lines().find(|l| l.split(':').next() == Some(*name)).map(str::to_owned);
    let Some(account) = QEMU_ACCOUNTS.iter().find_map(find) else { return vec![0] };
    let name = account.split(':').next().unwrap_or_default();
    let own = account.split(':').nth(3).and_then(|gid| gid.parse().ok());
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let gid = fields.next()?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    };
    own.into_iter().chain(groups.lines().filter_map(of)).collect()
}

/// Reads a line of JSON, byte by byte, so that nothing of what follows is taken.
async fn read_line<T: serde::de::DeserializeOwned>(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
) -> std::io::Result<T> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if line.len() < LINE_BYTES => line.push(byte),
            _ => return Err(std::io::Error::other("the line is too long")),
        }
    }
    serde_json::from_slice(&line).map_err(std::io::Error::other)
}

async fn write_line(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    value: &impl Serialize,
) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let mut line = serde_json::to_vec(value).map_err(std::io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

/// Where waiting for a hypervisor, and a pause, are counted from. A clock that is set must shorten neither, so this is not the
/// clock that is handed in; it is never written down.
#[expect(clippy::disallowed_methods)]
pub(super) fn instant() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
