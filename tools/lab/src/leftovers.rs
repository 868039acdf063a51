//! Ends processes that outlived a supervisor which was itself killed, by the identities it left behind.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::layout::Layout;
use crate::process::Identity;

/// Names of the pid files of hosts begin so.
pub const HOST_PREFIX: &str = "host-";
const GRACE: Duration = Duration::from_secs(3);

/// Ends every process that a former supervisor of this lab left running; returns their names.
/// A number that now belongs to another process is left alone.
pub fn end_all(layout: &Layout) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(layout.state_dir("pids")) else {
        return Ok(found);
    };
    for entry in entries.flatten() {
        let identity: Option<Identity> =
            fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(identity) = identity.filter(Identity::is_alive) {
            let name = entry.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
            // The first process of a host ignores polite signals, as every init does.
            let polite: &[Signal] = if name.starts_with(HOST_PREFIX) { &[] } else { &[Signal::TERM] };
            end(identity, &[polite, &[Signal::KILL]].concat())?;
            found.push(name);
        }
        fs::remove_file(entry.path())?;
    }
    Ok(found)
}

/// Ends a process by these signals in turn. A host's first process takes its whole namespace with it.
pub fn end(identity: Identity, signals: &[Signal]) -> Result<()> {
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    // The handle may already be a later process's: only the check after opening it makes it sure.
    if !identity.is_alive() {
        return Ok(());
    }
    for signal in signals {
        if !identity.is_alive() {
            return Ok(());
        }
        // It may end between the check and the signal.
        let _ = pidfd_send_signal(&handle, *signal);
        let end = Instant::now() + GRACE;
        while identity.is_alive() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::write_pid_file;
    use std::process::Command;

    #[test]
    fn a_process_left_behind_is_ended_and_a_reused_number_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(&dir.path().join("lab")).unwrap();
        let mut left = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let mut other = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        write_pid_file(&layout.pid_file("left"), left.id()).unwrap();
        let wrong = Identity { start_ticks: 1, ..Identity::of(other.id()).unwrap() };
        fs::write(layout.pid_file("other"), serde_json::to_vec(&wrong).unwrap()).unwrap();

        assert_eq!(end_all(&layout).unwrap(), ["left"]);
        left.wait().unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(fs::read_dir(layout.state_dir("pids")).unwrap().next().is_none());
    }
}
