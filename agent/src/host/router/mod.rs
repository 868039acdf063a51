//! Routers: one network namespace for each, its devices ports of the integration bridge, its rules nftables.
//!
//! ```text
//!  br-int ── rt<vni> ─┐                     both hosts of a router have all of this; the devices are up on one of them.
//!  br-int ── rt<vni> ─┤ namespace basalt-<router id>
//!  br-int ── ru<id>  ─┘   addresses, routes, one nftables table
//!  keepalived (in the host's own namespace) ◄── VRRP between the two tunnel addresses ──► keepalived of the other host
//! ```
//!
//! keepalived detaches itself, and what it does on becoming active or standing by is a file of `ip` commands: a fail-over
//! needs neither agent nor gateway. Whether the loopback device is up says which of the two was done last, so that a
//! router whose devices are not as its role wants is seen and put right. Everything lies under a directory that a
//! reboot empties, as it empties namespaces and ports:
//!
//! ```text
//! <dir>/<router id>/{router.json,rules.nft,active,standby,routes,keepalived.conf,keepalived.pid,vrrp.pid}
//! ```

mod election;
mod namespace;

use super::ovs::{Switch, SwitchView};
use crate::{Error, host::storage::files::write_if_changed};
use basalt_model::RouterId;
use basalt_plan::host::{RouterDefinition, RouterPort, RouterSeen};
use election::Election;
use namespace::Namespace;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// The programs without which a host is none of a router's.
const TOOLS: [&str; 2] = ["/usr/sbin/nft", "/usr/sbin/keepalived"];

/// Whether this host has what routers need.
pub fn has_tools() -> bool {
    TOOLS.iter().all(|tool| Path::new(tool).exists())
}

/// The routers that were set up on this host.
#[derive(Clone, Debug)]
pub struct Routers {
    dir: PathBuf,
    switch: Switch,
    /// Where this host's tunnels end: there the other host's advertisements come to.
    tunnel_address: Option<Ipv4Addr>,
}

/// What a router was last set up with.
#[derive(Debug, Serialize, Deserialize)]
struct SetUp {
    hash: String,
    /// Devices with their addresses, as the kernel prints them.
    devices: BTreeMap<String, Vec<String>>,
    /// Destinations of routes, as the kernel prints them.
    routes: Vec<String>,
    /// The rules, as nftables prints them.
    rules: String,
    elected: bool,
}

impl Routers {
    /// Routers kept under a directory.
    pub fn new(dir: &Path, switch: Switch, tunnel_address: Option<Ipv4Addr>) -> Self {
        Self { dir: dir.to_owned(), switch, tunnel_address }
    }

    fn dir_of(&self, id: RouterId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// A router stands as said.
    pub async fn ensure(&self, router: &RouterDefinition) -> Result<(), Error> {
        let (dir, namespace) = (self.dir_of(router.id), Namespace::of(router.id));
        fs::create_dir_all(&dir).map_err(|e| Error::state(&dir, e))?;
        let before = set_up(&dir);
        namespace.ensure().await?;
        let rules = namespace.apply_rules(&dir.join("rules.nft"), &router.ruleset).await?;
        let renewed = self.devices(router, &namespace).await?;
        let routes: Vec<String> = router.routes.iter().map(|(to, _)| namespace::printed(*to)).collect();
        for gone in before.iter().flat_map(|b| &b.routes).filter(|to| !routes.contains(to)) {
            // It went with its device, or with the namespace.
            let _ = namespace.ip(&["route", "del", gone]).end().await?;
        }
        let files = namespace::batches(router);
        for (name, batch) in [("active", files.active), ("standby", files.standby), ("routes", files.routes)]
        {
            write(&dir.join(name), &batch)?;
        }
        let devices: BTreeMap<_, _> =
            router.interfaces.iter().map(|port| (port.name.clone(), addresses(port))).collect();
        let election = Election::new(&dir, &namespace);
        match router.peer {
            Some(peer) => {
                // The role is keepalived's alone: where devices are not as it wants, it begins anew.
                let as_chosen = namespace.look().await.is_ok_and(|inside| inside.is_as(&devices));
                election.ensure(router, self.own_address()?, peer, renewed || !as_chosen).await?;
                // Without an effect on a host that stands by.
                namespace.batch(&dir.join("routes")).await?;
            }
            None => {
                election.end().await?;
                namespace.batch(&dir.join("active")).await?;
            }
        }
        let elected = router.peer.is_some();
        let set_up = SetUp { hash: router.hash.clone(), devices, routes, rules, elected };
        let json = serde_json::to_string(&set_up).map_err(|e| Error::host("keeping a router's marks", e))?;
        write(&dir.join("router.json"), &json)
    }

    fn own_address(&self) -> Result<Ipv4Addr, Error> {
        self.tunnel_address.ok_or_else(|| {
            Error::refused(basalt_model::CapabilityReason::new(
                "tunnel_address_missing",
                "host/keepalived",
                "a router's other host cannot be heard: this host has no address for tunnels",
                "set tunnel_address in [network] of agent.toml and restart the agent",
            ))
        })
    }

    /// All devices are in the namespace, with their addresses. Answers whether one had to be made.
    async fn devices(&self, router: &RouterDefinition, namespace: &Namespace) -> Result<bool, Error> {
        let view = self.switch.look().await?;
        let wanted = |name: &str| router.interfaces.iter().any(|port| port.name == name);
        for row in view.ports.iter().filter(|row| row.router_id() == Some(router.id) && !wanted(&row.name)) {
            self.switch.remove_named(&row.name).await?;
        }
        let there = namespace.look().await?;
        let mut renewed = false;
        for port in &router.interfaces {
            let row = view.ports.iter().find(|row| row.name == port.name);
            let attached = row.is_some_and(|r| r.number.is_some() && r.router_id() == Some(router.id));
            if !attached || !there.devices.contains_key(&port.name) {
                self.switch.renew_router_port(&port.name, router.id, &port.mac, port.mtu).await?;
                namespace.take(&port.name).await?;
                renewed = true;
            }
            let has = there.devices.get(&port.name).map(|d| d.addresses.clone()).unwrap_or_default();
            namespace.address(port, &has).await?;
        }
        Ok(renewed)
    }

    /// Nothing of a router is left.
    pub async fn remove(&self, id: RouterId) -> Result<(), Error> {
        let (dir, namespace) = (self.dir_of(id), Namespace::of(id));
        Election::new(&dir, &namespace).end().await?;
        for row in self.switch.look().await?.ports.iter().filter(|row| row.router_id() == Some(id)) {
            self.switch.remove_named(&row.name).await?;
        }
        namespace.remove().await?;
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::state(dir, e)),
            _ => Ok(()),
        }
    }

    /// The routers that were set up, and whether they still stand. Ports of routers without a directory are routers too,
    /// so that a half-removed one is seen.
    pub async fn look(&self, view: &SwitchView) -> Result<BTreeMap<RouterId, RouterSeen>, Error> {
        let mut seen: BTreeMap<RouterId, RouterSeen> = BTreeMap::new();
        for row in &view.ports {
            let Some(id) = row.router_id() else { continue };
            let router = seen.entry(id).or_default();
            router.ports.extend(row.number.is_some().then(|| row.name.clone()));
        }
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(seen),
            other => other.map_err(|e| Error::state(&self.dir, e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::state(&self.dir, e))?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let router = seen.entry(id).or_default();
            let Some(set_up) = set_up(&entry.path()) else { continue };
            let namespace = Namespace::of(id);
            let Ok(now) = namespace.look().await else { continue };
            router.active = now.active;
            let attached = set_up.devices.keys().all(|device| router.ports.contains(device));
            let chosen = Election::new(&entry.path(), &namespace).is_running() == set_up.elected;
            router.running = attached
                && chosen
                && now.is_as(&set_up.devices)
                && (!now.active || namespace.has_routes(&set_up.routes).await)
                && namespace.rules().await.is_ok_and(|rules| rules == set_up.rules);
            router.hash = set_up.hash;
        }
        Ok(seen)
    }
}

/// A port's addresses as the kernel prints them.
fn addresses(port: &RouterPort) -> Vec<String> {
    port.addresses.iter().map(ToString::to_string).collect()
}

fn set_up(dir: &Path) -> Option<SetUp> {
    serde_json::from_slice(&fs::read(dir.join("router.json")).ok()?).ok()
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    write_if_changed(path, text).map(drop)
}
