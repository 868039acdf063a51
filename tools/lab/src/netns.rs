//! The lab's wires: one "switch" network namespace with a management bridge and a tunnel bridge, and one
//! network namespace per host with a network card on each.
//!
//! Nothing is created in the machine's own network namespace, so the same addresses serve every lab.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::layout::Layout;
use crate::process::{output, run};

/// The switch's own address on the management network; the gateway's agents' door listens here.
pub const SWITCH_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// Both networks are this wide.
pub const PREFIX_BITS: u8 = 24;
const MANAGEMENT_BRIDGE: &str = "sw0";
const TUNNEL_BRIDGE: &str = "sw1";

/// A named network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `setns` and `nsenter` open.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Creates the namespace, or keeps it if it is there. A leftover name without a namespace behind it
    /// (after a restart of the machine's container) is replaced.
    pub fn ensure(&self) -> Result<()> {
        if self.exists() {
            if output(Command::new("ip").args(["-n", &self.name, "link", "show", "lo"]))?.status.success() {
                return Ok(());
            }
            self.remove()?;
        }
        run("ip", &["netns", "add", &self.name])?;
        self.ip(&["link", "set", "lo", "up"])
    }

    /// Removes the name; the namespace goes when the last process in it has ended.
    pub fn remove(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        run("ip", &["netns", "del", &self.name]).map(drop)
    }

    /// One `ip` command inside the namespace.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(args);
        run("ip", &all).map(drop)
    }

    fn has_link(&self, link: &str) -> Result<bool> {
        Ok(output(Command::new("ip").args(["-n", &self.name, "link", "show", link]))?.status.success())
    }

    /// Runs a closure on a thread of its own inside this namespace. What it opens there (sockets) keeps
    /// belonging to the namespace after it returns.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        enter_path(&self.path(), work)
    }
}

/// Runs a closure on a thread of its own inside the network namespace that a file stands for.
pub fn enter_path<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let namespace =
        File::open(path).with_context(|| format!("no network namespace at {}", path.display()))?;
    let thread = std::thread::Builder::new().name("in-netns".to_owned()).spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter the network namespace (needs root)")?;
        work()
    })?;
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("the thread inside the network namespace panicked"),
    }
}

/// The namespace that plays the physical switch.
#[derive(Clone, Debug)]
pub struct Switch {
    netns: NetNs,
    prefix: String,
}

impl Switch {
    /// The switch of a lab; nothing is created yet.
    pub fn of(layout: &Layout) -> Self {
        Self { netns: NetNs::named(layout.netns_name("sw")), prefix: layout.netns_name("") }
    }

    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Address of the switch with a port, as services listen on it.
    pub fn address(port: u16) -> SocketAddr {
        SocketAddr::from((SWITCH_ADDRESS, port))
    }

    /// Creates the namespace and both bridges.
    pub fn ensure(&self) -> Result<()> {
        self.netns.ensure()?;
        for bridge in [MANAGEMENT_BRIDGE, TUNNEL_BRIDGE] {
            if !self.netns.has_link(bridge)? {
                self.netns.ip(&["link", "add", bridge, "type", "bridge"])?;
            }
            self.netns.ip(&["link", "set", bridge, "up"])?;
        }
        let address = format!("{SWITCH_ADDRESS}/{PREFIX_BITS}");
        self.netns.ip(&["addr", "replace", &address, "dev", MANAGEMENT_BRIDGE])
    }

    /// The network namespace of host number `number` (1 to 253).
    pub fn host_netns(&self, number: u8) -> NetNs {
        NetNs::named(format!("{}h{number}", self.prefix))
    }

    /// Address of host number `number` on the management network.
    pub fn host_address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, number)
    }

    /// Address of host number `number` on the tunnel network; the host itself gives it to a bridge of its switch.
    pub fn tunnel_address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 0, number)
    }

    /// Plugs a host in: eth0 on the management network, eth1 on the tunnel network.
    pub fn ensure_host(&self, number: u8) -> Result<NetNs> {
        if number == 0 || number >= SWITCH_ADDRESS.octets()[3] {
            bail!("host number {number} is outside 1 to 253");
        }
        let host = self.host_netns(number);
        host.ensure()?;
        self.plug(&host, "eth0", &format!("m{number}"), MANAGEMENT_BRIDGE)?;
        self.plug(&host, "eth1", &format!("t{number}"), TUNNEL_BRIDGE)?;
        let address = format!("{}/{PREFIX_BITS}", Self::host_address(number));
        host.ip(&["addr", "replace", &address, "dev", "eth0"])?;
        Ok(host)
    }

    fn plug(&self, host: &NetNs, card: &str, port: &str, bridge: &str) -> Result<()> {
        if !host.has_link(card)? {
            let here = self.netns.name();
            run(
                "ip",
                &[
                    "link",
                    "add",
                    port,
                    "netns",
                    here,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    card,
                    "netns",
                    host.name(),
                ],
            )?;
        }
        self.netns.ip(&["link", "set", port, "master", bridge, "up"])?;
        host.ip(&["link", "set", card, "up"])?;
        // A userspace switch reads raw packets: with checksum offload they would leave without a checksum.
        run("ip", &["netns", "exec", host.name(), "ethtool", "-K", card, "tx", "off"]).map(drop)
    }

    /// Pulls a host's cables out, or plugs them in again, without touching the host itself.
    pub fn set_host_links(&self, number: u8, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.netns.ip(&["link", "set", &format!("m{number}"), state])?;
        self.netns.ip(&["link", "set", &format!("t{number}"), state])
    }

    pub fn remove_host(&self, number: u8) -> Result<()> {
        self.host_netns(number).remove()
    }

    /// Removes every namespace of this lab, hosts' ones too.
    pub fn remove_all(&self) -> Result<()> {
        let Ok(entries) = std::fs::read_dir("/run/netns") else {
            return Ok(());
        };
        for entry in entries.flatten() {
            if let Some(name) = entry.file_name().to_str().filter(|n| n.starts_with(&self.prefix)) {
                NetNs::named(name).remove()?;
            }
        }
        Ok(())
    }
}
