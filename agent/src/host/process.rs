//! Programs that detach themselves and outlive an agent (dnsmasq, keepalived): found again by their PID file and what
//! stands in their command line.

use crate::Error;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{ffi::OsString, fs, os::fd::OwnedFd, path::PathBuf, time::Duration};

/// How often it is looked whether one has ended.
const GLANCE: Duration = Duration::from_millis(25);

/// A program that is there or not.
#[derive(Clone, Debug)]
pub struct Detached {
    /// What it is called in an error.
    pub name: &'static str,
    /// Where it writes its number.
    pub pid_file: PathBuf,
    /// The argument that tells it from every other process.
    pub argument: OsString,
}

/// One that runs, held so that its number cannot become another's.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    name: &'static str,
    handle: OwnedFd,
}

impl Detached {
    /// The process, if it runs.
    pub fn find(&self) -> Option<Process> {
        let pid: i32 = fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()?;
        let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let wanted = self.argument.as_encoded_bytes();
        let process = Process { pid, name: self.name, handle };
        line.split(|b| *b == 0).any(|arg| arg == wanted).then_some(process)
    }

    /// Ends it, and waits until it is gone; `patience` for each way of asking. One that ended and was not collected yet
    /// has no command line any more.
    pub async fn end(&self, patience: Duration) -> Result<(), Error> {
        let Some(process) = self.find() else { return Ok(()) };
        for kind in [Signal::TERM, Signal::KILL] {
            process.signal(kind)?;
            for _ in 0..patience.as_millis() / GLANCE.as_millis() {
                tokio::time::sleep(GLANCE).await;
                if self.find().is_none() {
                    return Ok(());
                }
            }
        }
        Err(Error::host(format!("stopping {}", self.name), "it does not end"))
    }
}

impl Process {
    /// Signals it; one that ended in between needs no signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::host(format!("signalling {}", self.name), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_detached_program_is_known_by_its_command_line_and_ends_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = tokio::process::Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
        let pid_file = dir.path().join("pid");
        fs::write(&pid_file, format!("{}\n", child.id().unwrap())).unwrap();
        let of = |argument: &str| Detached {
            name: "sleep",
            pid_file: pid_file.clone(),
            argument: argument.into(),
        };
        assert!(of("60").find().is_none(), "its number belongs to another");
        of("60").end(Duration::from_secs(1)).await.unwrap();
        let sleeper = of("600");
        // A process that has just begun has no command line yet.
        while sleeper.find().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(sleeper.find().unwrap().pid, i32::try_from(child.id().unwrap()).unwrap());
        let (ended, _) = tokio::join!(sleeper.end(Duration::from_secs(5)), child.wait());
        ended.unwrap();
        assert!(sleeper.find().is_none());
    }
}
