//! The lease under which this host executes VMs that would be started elsewhere if it were lost.
//!
//! ```text
//! agent   ask (at t) ──► gateway: committed, then answered ──► until t + seconds ──► file ──► memory
//! fencer  reads the files four times a second: lapsed ──► kills the QEMU of every VM that is listed
//! ```
//! Time is that since boot, sleep included (`/proc/uptime`): a clock that is set means nothing here, and after a boot no
//! lease of the one before holds. A VM is on the list before it is started, and leaves it only after the gateway knows that
//! it runs without a lease: what the gateway believes to be listed is. The lease is in its file before anybody here acts
//! on it, so nothing is started that the fencer does not let live.

use crate::{Error, host::facts, ledger};
use basalt_model::{DateTime, VmId, hosts::FencerFacts};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

const LEASE: &str = "fence.lease";
const LIST: &str = "fence.list";
const ALIVE: &str = "fence.alive";
const FENCED: &str = "fence.done";
/// A fencer that did not say so for as long is not alive.
const FENCER_SILENT: Duration = Duration::from_secs(3);

/// Time since this machine booted, sleep included.
pub fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

/// Something that holds for one boot of the host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfBoot<T> {
    boot_id: String,
    said: T,
}

/// What a fencer says of itself while it lives.
#[derive(Debug, Serialize, Deserialize)]
struct Alive {
    /// Uptime.
    at: Duration,
    facts: FencerFacts,
}

/// The files between an agent and its fencer.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
    boot_id: String,
}

impl Files {
    /// Those in a directory.
    pub fn in_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), boot_id: facts::boot_id() }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let bytes = std::fs::read(self.dir.join(name)).ok()?;
        let read: OfBoot<T> = serde_json::from_slice(&bytes).ok()?;
        (read.boot_id == self.boot_id).then_some(read.said)
    }

    /// Puts a file in place whole. Not flushed: what it says ends with this boot.
    fn write<T: Serialize>(&self, name: &str, said: T) -> Result<(), Error> {
        let path = self.dir.join(name);
        let beside = path.with_extension(format!("{name}.new"));
        let bytes = serde_json::to_vec(&OfBoot { boot_id: self.boot_id.clone(), said })
            .map_err(|e| Error::state(&path, e))?;
        std::fs::write(&beside, bytes)
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|e| Error::state(path, e))
    }

    /// Until when the lease holds, by uptime.
    pub fn until(&self) -> Option<Duration> {
        self.read(LEASE)
    }

    /// VMs that execute only under the lease.
    pub fn listed(&self) -> Option<BTreeSet<VmId>> {
        self.read(LIST)
    }

    /// Says that a fencer lives.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn alive(&self, at: Duration, facts: FencerFacts) -> Result<(), Error> {
        self.write(ALIVE, Alive { at, facts })
    }

    /// The fencer, if it lives.
    pub fn fencer(&self) -> Option<FencerFacts> {
        let said: Alive = self.read(ALIVE)?;
        let silent = uptime()?.saturating_sub(said.at);
        (silent < FENCER_SILENT).then_some(said.facts)
    }

    /// VMs that were stopped by the fencer since this boot, and when.
    pub fn fenced(&self) -> BTreeMap<VmId, DateTime> {
        self.read(FENCED).unwrap_or_default()
    }

    /// Keeps that the fencer stopped a VM.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn keep_fenced(&self, id: VmId, at: DateTime) -> Result<(), Error> {
        let mut all = self.fenced();
        all.insert(id, at);
        self.write(FENCED, all)
    }
}

/// The agent's lease. Clones share it.
#[derive(Clone)]
pub struct Lease(Arc<Inner>);

struct Inner {
    files: Option<Files>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    until: Option<Duration>,
    listed: BTreeSet<VmId>,
}

impl Lease {
    /// The lease of a host whose fencer reads this directory. What it said before the agent was started anew still holds.
    pub fn in_dir(dir: &Path) -> Self {
        let files = Files::in_dir(dir);
        let state = State { until: files.until(), listed: files.listed().unwrap_or_default() };
        Self::with(Some(files), state)
    }

    /// That of a host which never gets one.
    pub fn none() -> Self {
        Self::with(None, State::default())
    }

    fn with(files: Option<Files>, state: State) -> Self {
        Self(Arc::new(Inner { files, state: Mutex::new(state), changed: watch::Sender::new(0) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it holds now.
    pub fn holds(&self) -> bool {
        self.state().until.zip(uptime()).is_some_and(|(until, now)| now < until)
    }

    /// It was given until then, by uptime.
    ///
    /// # Errors
    /// [`Error::State`]: the fencer does not know, so it is not held.
    pub fn keep(&self, until: Duration) -> Result<(), Error> {
        let Some(files) = &self.0.files else { return Ok(()) };
        files.write(LEASE, until)?;
        let held = self.holds();
        self.state().until = Some(until);
        if !held {
            self.tell();
        }
        Ok(())
    }

    /// VMs that need it. `drop` says which of those that are listed need not be any more.
    ///
    /// # Errors
    /// [`Error::State`]: those that are new are not listed.
    pub fn list(&self, wanted: &BTreeSet<VmId>, drop: impl Fn(&VmId) -> bool) -> Result<(), Error> {
        let Some(files) = &self.0.files else { return Ok(()) };
        let before = self.state().listed.clone();
        let kept = before.iter().filter(|id| !drop(id)).copied();
        let next: BTreeSet<VmId> = wanted.iter().copied().chain(kept).collect();
        if next == before {
            return Ok(());
        }
        let path = files.dir.join(LIST);
        let body = OfBoot { boot_id: files.boot_id.clone(), said: &next };
        let bytes = serde_json::to_vec(&body).map_err(|e| Error::state(&path, e))?;
        ledger::replace(&path, &bytes).map_err(|e| Error::state(path, e))?;
        self.state().listed = next;
        self.tell();
        Ok(())
    }

    /// VMs that the fencer was told of.
    pub fn listed(&self) -> BTreeSet<VmId> {
        self.state().listed.clone()
    }

    /// The fencer, if it lives.
    pub fn fencer(&self) -> Option<FencerFacts> {
        self.0.files.as_ref()?.fencer()
    }

    /// VMs that it stopped.
    pub fn fenced(&self) -> BTreeMap<VmId, DateTime> {
        self.0.files.as_ref().map(Files::fenced).unwrap_or_default()
    }

    /// Whether there is anything to hold a lease with.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.files.is_some()
    }

    fn tell(&self) {
        self.0.changed.send_modify(|n| *n += 1);
    }

    /// Changes when it is held again, and with the list.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn vm(n: u128) -> VmId {
        VmId(Uuid::from_u128(n))
    }

    #[test]
    fn m5_a_lease_is_in_its_file_and_survives_the_agent_but_not_the_boot() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::in_dir(dir.path());
        assert!(!lease.holds(), "nobody gave one");
        let now = uptime().unwrap();
        lease.keep(now + Duration::from_secs(60)).unwrap();
        assert!(lease.holds() && Lease::in_dir(dir.path()).holds());
        let other = Files { boot_id: "another boot".into(), ..Files::in_dir(dir.path()) };
        assert_eq!(other.until(), None, "a lease of the boot before holds no more");
        lease.keep(now).unwrap();
        assert!(!lease.holds() && !Lease::in_dir(dir.path()).holds());
    }

    #[test]
    fn r55_a_vm_leaves_the_list_only_when_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::in_dir(dir.path());
        lease.list(&[vm(1), vm(2)].into(), |_| true).unwrap();
        lease.list(&[vm(2)].into(), |_| false).unwrap();
        assert_eq!(lease.listed(), [vm(1), vm(2)].into(), "the gateway still counts on it");
        lease.list(&[vm(2)].into(), |id| *id == vm(1)).unwrap();
        assert_eq!(Files::in_dir(dir.path()).listed(), Some([vm(2)].into()));
        assert_eq!(Lease::in_dir(dir.path()).listed(), [vm(2)].into());
    }

    #[test]
    fn m5_a_fencer_that_says_nothing_is_not_alive() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::in_dir(dir.path());
        assert_eq!(files.fencer(), None);
        let facts = FencerFacts { window_seconds: 5, watchdog: false };
        files.alive(uptime().unwrap(), facts).unwrap();
        assert_eq!(files.fencer(), Some(facts));
        files.alive(uptime().unwrap().saturating_sub(FENCER_SILENT), facts).unwrap();
        assert_eq!(files.fencer(), None);
    }
}
