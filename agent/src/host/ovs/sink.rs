//! Keeps guests' devices away from the host's own network stack, where the switch is a process.
//!
//! The userspace datapath reads a tap through a raw socket, and the kernel goes on to treat the same frames as
//! its own: it answers ARP for every address of the host on the guest's tap, and the guest then talks to the
//! host beside all flows. A device that belongs to a kernel bridge is spared that, and a bridge that is down
//! drops what it is given; raw sockets are served before. So every tap belongs to a bridge that is never up,
//! and should somebody raise it, its ports are isolated from each other.
//!
//! Its name is the one that the kernel's own switch would give to the master of every tap. libvirt looks for it:
//! a restarted libvirtd attaches a tap anew unless its master has this name and the switch knows it on the
//! right bridge, and each time the guest would lose its flows and this protection for a moment (R34).

use crate::{Error, config::Datapath, host::program::Program};
use std::{fs, path::Path, time::Duration};

/// The bridge that is never up.
const SINK: &str = "ovs-system";

/// Whether the kernel leaves a device's frames alone.
pub fn is_isolated(datapath: Datapath, tap: &str) -> bool {
    let master = Path::new("/sys/class/net").join(tap).join("master");
    datapath == Datapath::System
        || fs::read_link(master).is_ok_and(|target| target.file_name().is_some_and(|name| name == SINK))
}

/// The kernel leaves a device's frames alone.
pub async fn isolate(datapath: Datapath, tap: &str) -> Result<(), Error> {
    if is_isolated(datapath, tap) {
        return Ok(());
    }
    if !Path::new("/sys/class/net").join(SINK).exists() {
        let made = ip(&["link", "add", SINK, "type", "bridge"]).await;
        // Another guest's start may have been quicker.
        made.or_else(|e| if Path::new("/sys/class/net").join(SINK).exists() { Ok(()) } else { Err(e) })?;
    }
    ip(&["link", "set", "dev", SINK, "down"]).await?;
    ip(&["link", "set", "dev", tap, "master", SINK]).await?;
    let apart =
        ["isolated", "on", "learning", "off", "flood", "off", "mcast_flood", "off", "bcast_flood", "off"];
    ip(&[&["link", "set", "dev", tap, "type", "bridge_slave"][..], &apart].concat()).await
}

/// Whether a device passes frames at all.
pub fn is_up(tap: &str) -> bool {
    let flags = fs::read_to_string(Path::new("/sys/class/net").join(tap).join("flags")).unwrap_or_default();
    let up = |text: &str| u32::from_str_radix(text, 16).is_ok_and(|flags| flags & 1 == 1);
    flags.trim().strip_prefix("0x").is_some_and(up)
}

/// A device passes frames.
pub async fn raise(tap: &str) -> Result<(), Error> {
    ip(&["link", "set", "dev", tap, "up"]).await
}

async fn ip(args: &[&str]) -> Result<(), Error> {
    Program::new("ip").args(args).limit(Duration::from_secs(5)).run().await.map(drop)
}
