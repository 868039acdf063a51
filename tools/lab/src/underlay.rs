//! A host's side of the tunnel network: the bridge that holds its second card and the address tunnels end at.
//!
//! An operator makes this before an agent comes: the userspace datapath finds the way of a tunnel only through a
//! bridge of its own that has the address. The bridge's device is gone with every process of the switch, and a new one
//! has no address, so whoever keeps the services of the host keeps this as well.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::PREFIX_BITS;
use crate::process::{output, run};

/// The bridge of the datapath that has the host's tunnel address.
pub const BRIDGE: &str = "br-phy";
/// The host's card on the tunnel network. It has no address: the switch reads it raw.
const CARD: &str = "eth1";
/// A kernel bridge that is never up; the card belongs to it. Otherwise the kernel, beside the switch, would answer ARP on
/// the card for the bridge's address with the card's own hardware address, and tunnels would miss the bridge.
const SINK: &str = "phy-sink";
const MTU_BYTES: u32 = 1500;
/// How soon a bridge without an address is noticed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The underlay of one host, seen from inside.
pub struct Underlay {
    address: Ipv4Addr,
    /// The kernel's number of the device that was given the address; a device made anew has another.
    made: AtomicU32,
}

impl Underlay {
    pub fn new(address: Ipv4Addr) -> Self {
        Self { address, made: AtomicU32::new(0) }
    }

    /// Whether the bridge that is there now has been given its address.
    pub fn stands(&self) -> bool {
        index_of(BRIDGE).is_some_and(|index| index == self.made.load(Ordering::Acquire))
    }

    /// Makes the bridge again whenever it is missing or new, as long as the process lives.
    pub fn keep(self: &Arc<Self>) -> Result<()> {
        let this = Arc::clone(self);
        let mut said = String::new();
        std::thread::Builder::new().name("underlay".to_owned()).spawn(move || {
            loop {
                if !this.stands()
                    && switch_answers()
                    && let Err(error) = this.ensure()
                {
                    let now = format!("{error:#}");
                    if now != said {
                        eprintln!("{BRIDGE}: {now}");
                        said = now;
                    }
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        })?;
        Ok(())
    }

    fn ensure(&self) -> Result<()> {
        if index_of(SINK).is_none() {
            ip(&["link", "add", SINK, "type", "bridge"])?;
        }
        ip(&["link", "set", SINK, "down"])?;
        ip(&["link", "set", CARD, "master", SINK])?;
        ip(&["addr", "flush", "dev", CARD])?;
        ip(&["link", "set", CARD, "mtu", &MTU_BYTES.to_string(), "up"])?;
        let mtu = format!("mtu_request={MTU_BYTES}");
        let words = format!(
            "--timeout=5 --may-exist add-br {BRIDGE} -- set bridge {BRIDGE} datapath_type=netdev \
             -- --may-exist add-port {BRIDGE} {CARD} -- set interface {BRIDGE} {mtu}"
        );
        run("ovs-vsctl", &words.split_whitespace().collect::<Vec<_>>())?;
        let index = index_of(BRIDGE).context("the switch made no device for it")?;
        ip(&["addr", "replace", &format!("{}/{PREFIX_BITS}", self.address), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        // The userspace datapath carries packets as they are: a checksum left to the card would never be made.
        run("ethtool", &["-K", BRIDGE, "tx", "off"])?;
        self.made.store(index, Ordering::Release);
        Ok(())
    }
}

/// Whether `ovs-vswitchd` runs and answers.
pub fn switch_answers() -> bool {
    let asked = output(Command::new("ovs-appctl").args(["--timeout=1", "-t", "ovs-vswitchd", "version"]));
    asked.is_ok_and(|answer| answer.status.success())
}

fn index_of(device: &str) -> Option<u32> {
    fs::read_to_string(Path::new("/sys/class/net").join(device).join("ifindex")).ok()?.trim().parse().ok()
}

fn ip(args: &[&str]) -> Result<()> {
    run("ip", args).map(drop)
}
