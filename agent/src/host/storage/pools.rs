//! Directory pools: whether they are there, how much room they have, what they cannot do.
//!
//! A pool that was once here carries a mark. When the mark is missing, its file system is away: the empty
//! mount point under it is not filled, and its volumes count as unknown rather than as gone (ST1).
//!
//! A shared pool's mark holds an id besides, made once by the host that came first: hosts that report the same id see the
//! same files.

use super::files;
use crate::{Error, config::PoolConfig};
use basalt_model::{
    CapabilityReason, MIB, Name,
    pools::{PoolFacts, PoolKind},
};
use rustix::fs::{Mode, OFlags, open, statvfs};
use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// The mark in a pool.
const MARK: &str = ".basalt-pool";
/// Small writes are no news.
const ROUNDING: u64 = 64 * MIB;

/// One pool that is declared for this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: Name,
    /// Its directory.
    pub path: PathBuf,
    /// What keeps its volumes.
    pub kind: PoolKind,
}

/// The pools that are declared for this host.
#[derive(Clone, Debug)]
pub struct Pools {
    pools: Vec<Pool>,
    /// Where it is remembered which pools were once here.
    known: PathBuf,
}

impl Pool {
    /// Where its volumes are.
    pub fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// Where cached images are.
    pub fn images(&self) -> PathBuf {
        self.path.join("images")
    }

    /// Where seeds are.
    pub fn seeds(&self) -> PathBuf {
        self.path.join("seeds")
    }

    /// Bytes of the file system: all, and free for an ordinary user.
    pub fn room(&self) -> Result<(u64, u64), Error> {
        let stat = statvfs(&self.path).map_err(|e| Error::state(&self.path, e))?;
        Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
    }

    /// Refuses what does not fit.
    pub fn require_room(&self, subject: &str, bytes: u64) -> Result<(), Error> {
        let (_, free) = self.room()?;
        if bytes <= free {
            return Ok(());
        }
        let reason = CapabilityReason::new(
            "insufficient_storage",
            subject,
            format!("pool {} lacks room", self.name),
            "free space in the pool, enlarge it, or choose another pool",
        );
        Err(Error::refused(
            reason.with_evidence(format!("{bytes} bytes needed, {free} free in {}", self.path.display())),
        ))
    }

    /// Whether the file system takes IO that bypasses the page cache; tmpfs of older kernels does not.
    pub fn direct_io(&self) -> bool {
        let probe = self.path.join(MARK);
        open(probe, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).is_ok()
    }

    /// What names the storage itself, read from its mark.
    fn shared_id(&self) -> Result<Uuid, Error> {
        let mark = self.path.join(MARK);
        let text = fs::read_to_string(&mark).map_err(|e| Error::state(&mark, e))?;
        let id = text.lines().nth(1).and_then(|line| line.parse().ok());
        id.ok_or_else(|| {
            let why = format!("{} holds no id: the pool was made as one host's own", mark.display());
            Error::host(format!("pool {}", self.name), why)
        })
    }

    /// Makes the mark of a shared pool, unless another host was quicker: whoever links it first made it.
    fn share(&self, mark: &Path) -> Result<(), Error> {
        // The kernel's own: no two hosts make the same, whatever else they have in common.
        let random = Path::new("/proc/sys/kernel/random/uuid");
        let id = fs::read_to_string(random).map_err(|e| Error::state(random, e))?;
        let id = id.trim();
        let own = self.path.join(format!("{MARK}.{id}"));
        files::write(&own, format!("{}\n{id}\n", self.name).as_bytes(), 0o644)?;
        let linked = fs::hard_link(&own, mark);
        files::remove(&own)?;
        match linked {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(Error::state(mark, e)),
            _ => files::sync_dir(mark).map_err(|e| Error::state(mark, e)),
        }
    }

    fn facts(&self) -> Result<PoolFacts, Error> {
        let (capacity_bytes, free) = self.room()?;
        let pool = format!("pool/{}", self.name);
        let lacks = |code: &'static str, message: &str, remedy: &str| {
            CapabilityReason::new(code, pool.clone(), message, remedy)
        };
        let (mut lacks, shared_id) = match self.kind {
            PoolKind::Directory => (
                vec![lacks(
                    "shared",
                    "the directory belongs to this host alone",
                    "use a pool that several hosts mount",
                )],
                None,
            ),
            PoolKind::SharedDirectory => (Vec::new(), Some(self.shared_id()?)),
        };
        if !self.direct_io() {
            lacks.push(CapabilityReason::new(
                "direct_io",
                pool,
                "its file system takes no direct IO, so guests write through the host's cache",
                "put the pool on ext4, xfs or btrfs",
            ));
        }
        Ok(PoolFacts {
            name: self.name.clone(),
            kind: self.kind,
            shared_id,
            path: self.path.display().to_string(),
            capacity_bytes,
            available_bytes: free / ROUNDING * ROUNDING,
            lacks,
        })
    }
}

impl Pools {
    /// The pools of a configuration; `state` keeps which of them were once here.
    pub fn new(configs: &[PoolConfig], state: &Path) -> Self {
        let pool = |c: &PoolConfig| Pool { name: c.name.clone(), path: c.path.clone(), kind: c.kind };
        Self { pools: configs.iter().map(pool).collect(), known: state.join("known-pools") }
    }

    /// All that are declared.
    pub fn declared(&self) -> &[Pool] {
        &self.pools
    }

    /// A declared pool that is here now.
    pub fn here(&self, name: &Name) -> Result<&Pool, Error> {
        let declared = self.pools.iter().find(|p| p.name == *name);
        let pool = declared.ok_or_else(|| {
            Error::refused(CapabilityReason::new(
                "pool_missing",
                format!("pool/{name}"),
                "this host declares no such pool",
                "add the pool to agent.toml, or choose another pool",
            ))
        })?;
        self.open(pool).map(|()| pool)
    }

    /// The pool that keeps the image cache and the seeds: the first.
    pub fn first(&self) -> Result<&Pool, Error> {
        let first = self.pools.first().ok_or_else(|| {
            Error::refused(CapabilityReason::new(
                "no_pool",
                "host",
                "this host declares no pool",
                "add a [[pool]] to agent.toml and start the agent again",
            ))
        })?;
        self.open(first).map(|()| first)
    }

    /// Makes a pool's directories at its first use; later only looks whether it is here.
    fn open(&self, pool: &Pool) -> Result<(), Error> {
        let (mark, known) = (pool.path.join(MARK), self.known.join(pool.name.as_str()));
        if mark.exists() {
            if !known.exists() {
                self.remember(&known)?;
            }
            return Ok(());
        }
        if known.exists() {
            return Err(Error::host(
                format!("pool {}", pool.name),
                format!("{} is not there: the file system is away or was emptied", mark.display()),
            ));
        }
        for dir in [&pool.path, &pool.volumes(), &pool.images(), &pool.seeds()] {
            files::ensure_dir(dir)?;
        }
        match pool.kind {
            PoolKind::Directory => files::write(&mark, format!("{}\n", pool.name).as_bytes(), 0o644)?,
            PoolKind::SharedDirectory => pool.share(&mark)?,
        }
        self.remember(&known)
    }

    fn remember(&self, known: &Path) -> Result<(), Error> {
        fs::create_dir_all(&self.known).map_err(|e| Error::state(&self.known, e))?;
        files::write(known, b"", 0o600)
    }

    /// What every pool has, and why some could not be looked at.
    pub fn facts(&self) -> (Vec<PoolFacts>, Vec<CapabilityReason>) {
        let (mut facts, mut problems) = (Vec::new(), Vec::new());
        for pool in &self.pools {
            match self.open(pool).and_then(|()| pool.facts()) {
                Ok(fact) => {
                    facts.push(fact);
                    problems.extend(closed_door(pool));
                }
                Err(error) => problems.push(
                    CapabilityReason::new(
                        "pool_away",
                        format!("pool/{}", pool.name),
                        "the pool cannot be used now",
                        "mount its file system, or remove the pool from agent.toml",
                    )
                    .with_evidence(error.to_string()),
                ),
            }
        }
        (facts, problems)
    }
}

/// QEMU runs under an account of its own: every directory above its disks must let it pass.
fn closed_door(pool: &Pool) -> Option<CapabilityReason> {
    let closed = |dir: &&Path| fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
    let dir = pool.path.ancestors().find(closed)?;
    let reason = CapabilityReason::new(
        "pool_closed",
        format!("pool/{}", pool.name),
        "QEMU's account cannot reach the disks",
        format!("chmod o+x {}", dir.display()),
    );
    Some(reason.with_evidence(format!("{} lets others not pass", dir.display())))
}
