//! Named network namespaces of the host (`ip netns`): what has an address that a tenant chose lives in one of its own, and
//! never in the host's routes.

use super::program::Program;
use crate::Error;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

/// Where `ip netns` keeps them.
const DIR: &str = "/run/netns";

/// A network namespace by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns(String);

impl Netns {
    /// The namespace of a name, there or not.
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    fn file(&self) -> PathBuf {
        Path::new(DIR).join(&self.0)
    }

    /// Whether it is there: a file that nothing is mounted on any more is none.
    pub fn exists(&self) -> bool {
        let kind = |path: &Path| fs::metadata(path).ok().map(|m| m.dev());
        let here = kind(Path::new("/proc/self/ns/net"));
        here.is_some() && kind(&self.file()) == here
    }

    /// Whether a process is in it.
    pub fn has(&self, pid: i32) -> bool {
        let number = |path: &Path| fs::metadata(path).ok().map(|m| m.ino());
        let own = number(&self.file());
        own.is_some() && number(Path::new(&format!("/proc/{pid}/ns/net"))) == own
    }

    /// It is there.
    pub async fn ensure(&self) -> Result<(), Error> {
        if !self.exists() {
            // What a lost mount left behind stands in the way.
            let _ = Program::quick("ip").args(["netns", "delete", &self.0]).end().await?;
            Program::quick("ip").args(["netns", "add", &self.0]).run().await?;
        }
        Ok(())
    }

    /// It is gone; devices that were moved into it go with it.
    pub async fn remove(&self) -> Result<(), Error> {
        if self.file().exists() {
            Program::quick("ip").args(["netns", "delete", &self.0]).run().await?;
        }
        Ok(())
    }

    /// A device that is still the host's moves in. What has its name here is the one that a switch which has ended left
    /// behind, with nothing behind it.
    pub async fn take(&self, device: &str) -> Result<(), Error> {
        if is_outside(device) {
            let _ = self.ip(&["link", "delete", "dev", device]).end().await?;
            Program::quick("ip").args(["link", "set", "dev", device, "netns", &self.0]).run().await?;
        }
        Ok(())
    }

    /// The userspace datapath reads a device of the switch as raw packets: a checksum left to hardware would stay wrong.
    pub async fn sum_in_software(&self, device: &str) -> Result<(), Error> {
        self.program("ethtool").args(["-K", device, "tx", "off"]).run().await.map(drop)
    }

    /// `ip` with these words, in it.
    pub fn ip(&self, args: &[&str]) -> Program {
        Program::quick("ip").args(["-n", &self.0]).args(args)
    }

    /// A program in it.
    pub fn program(&self, program: &str) -> Program {
        Program::quick("ip").args(["netns", "exec", &self.0, program])
    }

    /// Devices of it that have a route: they are up and have an address.
    pub fn routed_devices(&self) -> Vec<String> {
        let table = self.inside(|| fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default());
        let table = table.unwrap_or_default();
        table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    /// Whether a device is in it.
    pub fn has_device(&self, device: &str) -> bool {
        self.inside(|| is_here(device)).unwrap_or(false)
    }

    /// What a thread of its own finds out in it. `None` when there is no such namespace.
    fn inside<T: Send>(&self, look: impl FnOnce() -> T + Send) -> Option<T> {
        let namespace = File::open(self.file()).ok()?;
        std::thread::scope(|scope| {
            let enter = move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
                Some(look())
            };
            scope.spawn(enter).join().ok().flatten()
        })
    }
}

/// Whether a device is in the host's own namespace.
pub fn is_outside(device: &str) -> bool {
    is_here(device)
}

/// Whether a device is where this thread is. Not read from sysfs, which shows the namespace that it was mounted in.
fn is_here(device: &str) -> bool {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    table.lines().any(|line| line.split_once(':').is_some_and(|(name, _)| name.trim() == device))
}
