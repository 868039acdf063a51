//! The ledger: what an agent must still know after it was killed.
//!
//! Three files, each written beside itself, fsynced, renamed, and the directory fsynced: the manifest
//! that is acted on, the records (what was accepted and realised, shutdowns asked for, one-shot
//! verbs and migrations begun), and the directory of ports on other hosts. A fourth keeps VMs that were handed over to
//! other hosts, in the midst of the action that did it, and a fifth the name of the agent's last start. The first line of
//! each is the SHA-256 of the rest. A file that cannot be read is set
//! aside; the host and the gateway then say everything again, except what became of one-shot verbs.

use crate::{Error, host::Journal};
use basalt_model::{Epoch, Generation, MigrationId, VmId, VolumeId};
use basalt_plan::host::{Memory, MotionRecord, MotionStep, OperationRecord, StopRecord};
use basalt_wire::agent::{ItemKey, Manifest, directory::Directory};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

/// What was in a ledger.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The manifest that was acted on.
    pub manifest: Option<Manifest>,
    /// The records.
    pub memory: Memory,
    /// Something that had been written could not be read: what became of one-shot verbs is unknown.
    pub lost: bool,
}

/// Where an agent keeps what it must not forget. Every `save` is durable when it returns.
pub trait Ledger: Send + 'static {
    /// Reads everything; what cannot be read is set aside.
    ///
    /// # Errors
    /// [`Error::State`] when the place itself cannot be used.
    fn load(&mut self) -> Result<Loaded, Error>;

    /// Keeps a manifest, before anything of it is acted on.
    ///
    /// # Errors
    /// [`Error::State`]: it is not kept, so it must not be acted on.
    fn save_manifest(&mut self, manifest: &Manifest) -> Result<(), Error>;

    /// Keeps the records, before the actions that they announce.
    ///
    /// # Errors
    /// [`Error::State`]: they are not kept, so nothing that they announce may be done.
    fn save_records(&mut self, memory: &Memory) -> Result<(), Error>;

    /// Keeps the directory, so that a start without a gateway does not cut guests off from other hosts.
    ///
    /// # Errors
    /// [`Error::State`]: it is not kept.
    fn save_directory(&mut self, directory: &Directory) -> Result<(), Error>;

    /// Keeps in the midst of an action that a VM was handed over; the next load knows it.
    fn journal(&self) -> Arc<dyn Journal>;
}

const MANIFEST: &str = "manifest.ledger";
const RECORDS: &str = "records.ledger";
const DIRECTORY: &str = "directory.ledger";
const START: &str = "start.ledger";
const HANDED: &str = "handed-over.ledger";
/// VMs that were handed over and whose end is not in the records yet; more than this at once no host sends.
const HANDED_KEPT: usize = 64;

/// VMs that were handed over, in the order in which they went.
type HandedOver = Vec<(VmId, MigrationId)>;

/// The file that keeps them.
struct FileJournal {
    dir: PathBuf,
    kept: Mutex<HandedOver>,
}

impl Journal for FileJournal {
    fn handed_over(&self, id: VmId, migration_id: MigrationId) -> Result<(), Error> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = kept.clone();
        next.retain(|(vm, _)| *vm != id);
        let over = next.len().saturating_sub(HANDED_KEPT - 1);
        next.drain(..over);
        next.push((id, migration_id));
        let path = self.dir.join(HANDED);
        let bytes = encode(&next).map_err(|e| Error::state(&path, e))?;
        replace(&path, &bytes).map_err(|e| Error::state(path, e))?;
        *kept = next;
        Ok(())
    }
}

/// What was begun and then handed over left.
fn left(memory: &mut Memory, handed: &[(VmId, MigrationId)]) {
    for (id, migration_id) in handed {
        if let Some(record) = memory.motions.get_mut(id).filter(|r| r.id == *migration_id) {
            record.step = MotionStep::Left;
        }
    }
}

/// A ledger in a directory.
pub struct FileLedger {
    dir: PathBuf,
    journal: Arc<FileJournal>,
}

/// The part of the memory that is kept. JSON has no maps with such keys, so they are lists.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Records {
    accepted: Vec<(ItemKey, Epoch, Generation)>,
    realised: Vec<(ItemKey, Generation)>,
    made: Vec<(VolumeId, i64)>,
    stops: Vec<(VmId, StopRecord)>,
    operations: Vec<(VmId, OperationRecord)>,
    #[serde(default)]
    motions: Vec<(VmId, MotionRecord)>,
}

impl From<&Memory> for Records {
    fn from(m: &Memory) -> Self {
        Self {
            accepted: m.accepted.iter().map(|(k, (e, g))| (*k, *e, *g)).collect(),
            realised: m.realised.iter().map(|(k, g)| (*k, *g)).collect(),
            made: m.made.iter().map(|(k, i)| (*k, *i)).collect(),
            stops: m.stops.iter().map(|(k, s)| (*k, *s)).collect(),
            operations: m.operations.iter().map(|(k, o)| (*k, o.clone())).collect(),
            motions: m.motions.iter().map(|(k, r)| (*k, r.clone())).collect(),
        }
    }
}

impl From<Records> for Memory {
    fn from(r: Records) -> Self {
        Self {
            accepted: r.accepted.into_iter().map(|(k, e, g)| (k, (e, g))).collect(),
            realised: r.realised.into_iter().collect(),
            made: r.made.into_iter().collect(),
            stops: r.stops.into_iter().collect(),
            operations: r.operations.into_iter().collect(),
            motions: r.motions.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// What reading one file gave.
enum Read<T> {
    Whole(T),
    Missing,
    Broken,
}

impl FileLedger {
    /// A ledger in this directory, which must be there.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let journal = Arc::new(FileJournal { dir: dir.clone(), kept: Mutex::default() });
        Self { dir, journal }
    }

    /// Writes empty records. Called right after enrolment: from then on missing records are lost ones.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn begin(&mut self) -> Result<(), Error> {
        self.save_records(&Memory::default())
    }

    /// Names this start of the agent: `fresh`, or what is later than the last start's name. Of two starts the one with the
    /// later name counts and the other is fenced; without this, an agent that once started while its clock was ahead would
    /// be fenced until time has caught up.
    ///
    /// # Errors
    /// [`Error::State`]: it is not kept, so the agent must not start under it.
    pub fn start(&mut self, fresh: Uuid) -> Result<Uuid, Error> {
        let last = match self.read(START)? {
            Read::Whole(last) => last,
            Read::Missing | Read::Broken => Uuid::nil(),
        };
        let boot = later(fresh, last);
        self.write(START, &boot)?;
        Ok(boot)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Read<T>, Error> {
        let path = self.dir.join(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Read::Missing),
            Err(e) => return Err(Error::state(path, e)),
        };
        match decode(&text) {
            Ok(value) => Ok(Read::Whole(value)),
            Err(why) => {
                let aside = path.with_extension("broken");
                std::fs::rename(&path, &aside).map_err(|e| Error::state(&path, e))?;
                tracing::error!(path = %path.display(), aside = %aside.display(), why, "a ledger file was set aside");
                Ok(Read::Broken)
            }
        }
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.dir.join(name);
        replace(&path, &encode(value).map_err(|e| Error::state(&path, e))?).map_err(|e| Error::state(path, e))
    }
}

/// The fresh name, or, when its clock is behind, the millisecond after the last one's with the fresh one's random part.
fn later(fresh: Uuid, last: Uuid) -> Uuid {
    const TIME: u32 = 80;
    if fresh > last {
        return fresh;
    }
    let millis = (last.as_u128() >> TIME) + 1;
    Uuid::from_u128(millis << TIME | fresh.as_u128() & ((1 << TIME) - 1))
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_vec(value)?;
    let mut bytes = hex::encode(Sha256::digest(&body)).into_bytes();
    bytes.push(b'\n');
    bytes.extend(body);
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no first line")?;
    let (digest, body) = (&bytes[..end], &bytes[end + 1..]);
    if digest != hex::encode(Sha256::digest(body)).as_bytes() {
        return Err("its digest is wrong".into());
    }
    serde_json::from_slice(body).map_err(|e| e.to_string())
}

/// Puts a file in place so that after a power cut it is the old one or the new one, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

impl Ledger for FileLedger {
    fn load(&mut self) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        match self.read(MANIFEST)? {
            Read::Whole(manifest) => loaded.manifest = Some(manifest),
            // Without it the agent waits for the gateway; what runs goes on.
            Read::Missing | Read::Broken => {}
        }
        match self.read::<Records>(RECORDS)? {
            Read::Whole(records) => loaded.memory = records.into(),
            Read::Missing | Read::Broken => loaded.lost = true,
        }
        if let Read::Whole(directory) = self.read(DIRECTORY)? {
            loaded.memory.directory = directory;
        }
        if let Read::Whole(handed) = self.read::<HandedOver>(HANDED)? {
            left(&mut loaded.memory, &handed);
            *self.journal.kept.lock().unwrap_or_else(PoisonError::into_inner) = handed;
        }
        Ok(loaded)
    }

    fn save_manifest(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.write(MANIFEST, manifest)
    }

    fn save_records(&mut self, memory: &Memory) -> Result<(), Error> {
        self.write(RECORDS, &Records::from(memory))
    }

    fn save_directory(&mut self, directory: &Directory) -> Result<(), Error> {
        self.write(DIRECTORY, directory)
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.journal.clone()
    }
}

/// A ledger in memory, for simulated hosts; clones share it, so that it outlives an agent.
#[derive(Clone, Debug, Default)]
pub struct MemoryLedger(std::sync::Arc<std::sync::Mutex<(Option<Manifest>, Memory, Uuid)>>);

impl MemoryLedger {
    /// As [`FileLedger::start`].
    pub fn start(&mut self, fresh: Uuid) -> Uuid {
        self.with(|kept| {
            kept.2 = later(fresh, kept.2);
            kept.2
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut (Option<Manifest>, Memory, Uuid)) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Ledger for MemoryLedger {
    fn load(&mut self) -> Result<Loaded, Error> {
        let (manifest, memory, _) = self.with(|kept| kept.clone());
        Ok(Loaded { manifest, memory, lost: false })
    }

    fn save_manifest(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.with(|kept| kept.0 = Some(manifest.clone()));
        Ok(())
    }

    fn save_records(&mut self, memory: &Memory) -> Result<(), Error> {
        // The same part of the memory that a file would keep.
        self.with(|kept| {
            let directory = std::mem::take(&mut kept.1.directory);
            kept.1 = Memory { directory, ..Records::from(memory).into() };
        });
        Ok(())
    }

    fn save_directory(&mut self, directory: &Directory) -> Result<(), Error> {
        self.with(|kept| kept.1.directory = directory.clone());
        Ok(())
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.clone())
    }
}

impl Journal for MemoryLedger {
    fn handed_over(&self, id: VmId, migration_id: MigrationId) -> Result<(), Error> {
        self.with(|kept| left(&mut kept.1, &[(id, migration_id)]));
        Ok(())
    }
}
