//! The fencer: a process of its own beside the agent. When the host's lease has run out it kills the QEMU of every VM that is
//! listed as needing it, whatever became of agent, libvirtd and network.
//!
//! It reads files and `/proc`, and signals; it speaks with nobody. A process is held by a file descriptor and looked at
//! again before it is killed, so that no number that was given away meanwhile is hit. With a watchdog device it keeps the
//! machine alive only as long as it does its work: when what it must kill does not die, or when it hangs itself, the
//! machine is reset.

use crate::{
    Error,
    lease::{self, Files},
};
use basalt_daemon::{Clock, Drain};
use basalt_model::{VmId, hosts::FencerFacts};
use basalt_plan::host_loss::FENCE_WINDOW_SECONDS;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(250);
/// What is to die and is still there after so many looks keeps the watchdog from being fed.
const PATIENCE: u32 = 12;

/// What a fencer stops guests with.
pub trait Killer: Send {
    /// Stops a VM if it is in memory; says how many processes that were.
    fn kill(&mut self, id: VmId) -> usize;
}

/// QEMU processes of this process's own PID namespace.
pub struct Processes;

impl Killer for Processes {
    fn kill(&mut self, id: VmId) -> usize {
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        numbers.filter(|pid| is_qemu_of(*pid, id)).filter_map(|pid| hold(pid, id)).filter(end).count()
    }
}

fn is_qemu_of(pid: i32, id: VmId) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    is_qemu_line(&line, id)
}

/// Whether a command line, its arguments ended by zeroes, is that of a VM's QEMU.
fn is_qemu_line(line: &[u8], id: VmId) -> bool {
    let mut args = line.split(|b| *b == 0);
    let program = args.next().unwrap_or_default();
    let name = program.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let id = id.0.to_string();
    let args: Vec<&[u8]> = args.collect();
    let named = args.windows(2).any(|pair| pair[0] == b"-uuid" && pair[1] == id.as_bytes());
    named && name.starts_with(b"qemu")
}

/// Holds a process, and looks again whether it is the one that is meant.
fn hold(pid: i32, id: VmId) -> Option<OwnedFd> {
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    is_qemu_of(pid, id).then_some(handle)
}

fn end(process: &OwnedFd) -> bool {
    pidfd_send_signal(process, Signal::KILL).is_ok()
}

/// A watchdog device; it resets the machine when nobody writes to it.
struct Watchdog(fs::File);

impl Watchdog {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = fs::File::options().write(true).open(path).map_err(|e| Error::state(path, e))?;
        Ok(Self(file))
    }

    fn feed(&mut self) {
        if let Err(error) = self.0.write_all(b"1") {
            tracing::error!(%error, "the watchdog cannot be fed; it will reset the machine");
        }
    }

    /// What the kernel's watchdogs take for an orderly end.
    fn let_go(&mut self) {
        if let Err(error) = self.0.write_all(b"V") {
            tracing::error!(%error, "the watchdog was not let go; it will reset the machine");
        }
    }
}

/// A fencer.
pub struct Fencer<K> {
    files: Files,
    killer: K,
    clock: Arc<dyn Clock>,
    watchdog: Option<Watchdog>,
    /// The last list that could be read: one that is being replaced or broken frees nobody.
    listed: BTreeSet<VmId>,
    /// Looks since the lease ran out in which something was still there to be killed.
    stubborn: u32,
}

impl<K: Killer> Fencer<K> {
    /// A fencer over the files of an agent.
    ///
    /// # Errors
    /// [`Error::State`] when there is to be a watchdog and it cannot be opened.
    pub fn new(
        dir: &Path,
        killer: K,
        clock: Arc<dyn Clock>,
        watchdog: Option<&PathBuf>,
    ) -> Result<Self, Error> {
        let watchdog = watchdog.map(|path| Watchdog::open(path)).transpose()?;
        Ok(Self { files: Files::in_dir(dir), killer, clock, watchdog, listed: BTreeSet::new(), stubborn: 0 })
    }

    /// One look. Without a lease everything that is listed is killed, again and again: what is started late is killed late.
    pub fn look(&mut self) {
        let Some(now) = lease::uptime() else { return };
        if let Some(listed) = self.files.listed() {
            self.listed = listed;
        }
        let holds = self.files.until().is_some_and(|until| now < until);
        let mut killed = 0;
        if !holds {
            for id in self.listed.clone() {
                let processes = self.killer.kill(id);
                killed += processes;
                if processes > 0 {
                    tracing::warn!(vm = %id, processes, "the host's lease ran out; its QEMU was killed");
                    if let Err(error) = self.files.keep_fenced(id, self.clock.now()) {
                        tracing::error!(%error, "that it was killed is not kept");
                    }
                }
            }
        }
        self.stubborn = if killed > 0 { self.stubborn.saturating_add(1) } else { 0 };
        let works = self.stubborn < PATIENCE;
        if let Some(watchdog) = self.watchdog.as_mut().filter(|_| works) {
            watchdog.feed();
        }
        if works {
            let facts =
                FencerFacts { window_seconds: FENCE_WINDOW_SECONDS, watchdog: self.watchdog.is_some() };
            if let Err(error) = self.files.alive(now, facts) {
                tracing::error!(%error, "nobody can know that this fencer lives");
            }
        }
    }

    /// Looks until the drain begins. Then nothing guards the VMs that need a lease: the agent asks for none any more.
    pub async fn run(mut self, drain: Drain) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while drain.or(ticks.tick()).await.is_some() {
            self.look();
        }
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.let_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Lease;
    use basalt_daemon::SystemClock;
    use std::os::unix::process::CommandExt;
    use uuid::Uuid;

    /// Of this test run alone: other processes of the machine are looked at too.
    fn vm(n: u128) -> VmId {
        VmId(Uuid::from_u128(u128::from(std::process::id()) << 64 | n))
    }

    #[test]
    fn only_a_qemu_with_the_vms_own_uuid_is_meant() {
        let id = vm(7);
        let line = |text: String| text.replace(' ', "\0").into_bytes();
        assert!(is_qemu_line(&line(format!("/usr/bin/qemu-system-x86_64 -name a -uuid {} -m 1", id.0)), id));
        assert!(!is_qemu_line(&line(format!("/usr/bin/qemu-system-x86_64 -uuid {}", vm(8).0)), id));
        assert!(!is_qemu_line(&line(format!("/usr/bin/qemu-system-x86_64 -name {}", id.0)), id));
        assert!(!is_qemu_line(&line(format!("/bin/grep -uuid {}", id.0)), id));
        assert!(!is_qemu_line(b"", id));
    }

    /// A process that looks like a VM's QEMU: a shell that waits for a line, under another name.
    fn pretend(id: VmId) -> std::process::Child {
        let mut command = std::process::Command::new("/bin/sh");
        command.arg0("qemu-system-pretended").args(["-c", "read line", "x", "-uuid", &id.0.to_string()]);
        command.stdin(std::process::Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn m5_a_lapsed_lease_ends_the_listed_vm_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (mine, other) = (vm(1), vm(2));
        let (mut needs, mut free) = (pretend(mine), pretend(other));
        let lease = Lease::in_dir(dir.path());
        lease.list(&[mine].into(), |_| false).unwrap();
        let now = lease::uptime().unwrap();
        lease.keep(now + Duration::from_secs(60)).unwrap();
        let mut fencer = Fencer::new(dir.path(), Processes, Arc::new(SystemClock), None).unwrap();
        fencer.look();
        assert!(needs.try_wait().unwrap().is_none(), "under the lease it lives");
        assert!(lease.fencer().is_some(), "the fencer says that it lives");
        lease.keep(now).unwrap();
        fencer.look();
        assert!(!needs.wait().unwrap().success());
        assert!(free.try_wait().unwrap().is_none(), "what needs no lease runs on");
        free.kill().unwrap();
        free.wait().unwrap();
        assert_eq!(lease.fenced().keys().copied().collect::<Vec<_>>(), [mine]);
    }

    #[test]
    fn m5_a_host_that_never_had_a_lease_executes_nothing_that_needs_one() {
        let dir = tempfile::tempdir().unwrap();
        let id = vm(3);
        let mut needs = pretend(id);
        Lease::in_dir(dir.path()).list(&[id].into(), |_| false).unwrap();
        Fencer::new(dir.path(), Processes, Arc::new(SystemClock), None).unwrap().look();
        assert!(!needs.wait().unwrap().success());
    }
}
