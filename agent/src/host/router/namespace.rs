//! What is a router's in its network namespace: devices, addresses, routes and rules, by `ip` and `nft`.

use super::{addresses, write};
use crate::{
    Error,
    host::{netns::Netns, program::Program},
};
use basalt_model::RouterId;
use basalt_plan::host::{RouterDefinition, RouterPort};
use ipnet::Ipv4Net;
use serde::Deserialize;
use std::{collections::BTreeMap, fmt::Write as _, path::Path};

/// What a namespace forwards, and from whom it takes it: routes are not symmetric while a router moves.
const SETTINGS: [&str; 6] = [
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    // A device that comes up says whose its addresses are: switches outside learn which host is active.
    "net.ipv4.conf.default.arp_notify=1",
];

/// A router's network namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Netns);

/// A device in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub up: bool,
    /// Addresses with their prefix, sorted.
    pub addresses: Vec<String>,
}

/// What is in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Whether the last thing that was done was to become active.
    pub active: bool,
    /// Devices by name, without the loopback.
    pub devices: BTreeMap<String, Device>,
}

impl Inside {
    /// Whether devices and addresses are these, and all of them as the role wants.
    pub fn is_as(&self, devices: &BTreeMap<String, Vec<String>>) -> bool {
        devices.iter().all(|(name, addresses)| {
            self.devices.get(name).is_some_and(|d| d.up == self.active && same(&d.addresses, addresses))
        })
    }
}

fn same(one: &[String], other: &[String]) -> bool {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    sorted(one) == sorted(other)
}

/// A destination as `ip route` prints it.
pub fn printed(to: Ipv4Net) -> String {
    match to.prefix_len() {
        0 => "default".into(),
        32 => to.addr().to_string(),
        _ => to.to_string(),
    }
}

/// What is done with the devices and routes, as `ip -batch` takes it.
pub struct Batches {
    /// On becoming active.
    pub active: String,
    /// On standing by. Routes go with their devices.
    pub standby: String,
    /// Routes alone.
    pub routes: String,
}

/// The batches of a router.
pub fn batches(router: &RouterDefinition) -> Batches {
    let mut all = Batches {
        active: "link set dev lo up\n".into(),
        standby: "link set dev lo down\n".into(),
        routes: String::new(),
    };
    // Writing to a String cannot fail.
    for port in &router.interfaces {
        let _ = writeln!(all.active, "link set dev {} up", port.name);
        let _ = writeln!(all.standby, "link set dev {} down", port.name);
    }
    for (to, next_hop) in &router.routes {
        let _ = writeln!(all.routes, "route replace {} via {next_hop}", printed(*to));
    }
    all.active.push_str(&all.routes);
    all
}

impl Namespace {
    /// The namespace of a router.
    pub fn of(id: RouterId) -> Self {
        Self(Netns::named(format!("basalt-{id}")))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// `ip` inside.
    pub fn ip(&self, args: &[&str]) -> Program {
        self.0.ip(args)
    }

    /// Another program inside.
    fn run(&self, program: &str, args: &[&str]) -> Program {
        self.0.program(program).args(args)
    }

    /// It is there and forwards.
    pub async fn ensure(&self) -> Result<(), Error> {
        self.0.ensure().await?;
        self.run("sysctl", &[&["-qw"][..], &SETTINGS].concat()).run().await.map(drop)
    }

    /// It is gone, with what is in it.
    pub async fn remove(&self) -> Result<(), Error> {
        self.0.remove().await
    }

    /// The rules are these; answers what nftables makes of them.
    pub async fn apply_rules(&self, file: &Path, rules: &str) -> Result<String, Error> {
        write(file, rules)?;
        self.run("nft", &["-f", &file.display().to_string()]).run().await?;
        self.rules().await
    }

    /// All rules, as nftables prints them.
    pub async fn rules(&self) -> Result<String, Error> {
        let printed = self.run("nft", &["-s", "list", "ruleset"]).run().await?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// Takes a device of the host's own namespace in.
    pub async fn take(&self, device: &str) -> Result<(), Error> {
        self.0.take(device).await?;
        self.0.sum_in_software(device).await
    }

    /// A device has its addresses and no others.
    pub async fn address(&self, port: &RouterPort, has: &[String]) -> Result<(), Error> {
        let (wanted, device) = (addresses(port), port.name.as_str());
        let mtu = port.mtu.to_string();
        self.ip(&["link", "set", "dev", device, "mtu", &mtu, "address", &port.mac]).run().await?;
        for old in has.iter().filter(|a| !wanted.contains(a)) {
            self.ip(&["address", "del", old, "dev", device]).run().await?;
        }
        for (address, net) in wanted.iter().zip(&port.addresses) {
            let broadcast = net.broadcast().to_string();
            let mut args = vec!["address", "replace", address.as_str(), "dev", device];
            if net.prefix_len() < 32 {
                args.extend(["broadcast", &broadcast]);
            }
            self.ip(&args).run().await?;
        }
        Ok(())
    }

    /// Does what a file says, as far as that can be done.
    pub async fn batch(&self, file: &Path) -> Result<(), Error> {
        // Single failures are no failure: a host that stands by has no way to a next hop.
        self.ip(&["-force", "-batch", &file.display().to_string()]).end().await.map(drop)
    }

    /// Whether routes to all of these are there.
    pub async fn has_routes(&self, routes: &[String]) -> bool {
        let Ok(printed) = self.ip(&["-4", "route", "show"]).run().await else { return false };
        let text = String::from_utf8_lossy(&printed);
        let there: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        routes.iter().all(|route| there.contains(&route.as_str()))
    }

    /// What is in it.
    pub async fn look(&self) -> Result<Inside, Error> {
        let printed = self.ip(&["-j", "address", "show"]).run().await?;
        let links: Vec<Link> =
            serde_json::from_slice(&printed).map_err(|e| Error::host("reading ip's answer", e))?;
        let mut inside = Inside::default();
        for link in links {
            let up = link.flags.iter().any(|flag| flag == "UP");
            if link.ifname == "lo" {
                inside.active = up;
                continue;
            }
            let v4 = link.addr_info.iter().filter(|a| a.family == "inet");
            let mut addresses: Vec<String> = v4.map(|a| format!("{}/{}", a.local, a.prefixlen)).collect();
            addresses.sort();
            inside.devices.insert(link.ifname, Device { up, addresses });
        }
        Ok(inside)
    }
}

/// A device as `ip -j address` prints it.
#[derive(Deserialize)]
struct Link {
    ifname: String,
    flags: Vec<String>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    family: String,
    local: String,
    prefixlen: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n6_a_router_whose_devices_are_not_as_its_role_wants_does_not_stand() {
        let wanted = BTreeMap::from([("rt1".to_owned(), vec!["10.1.0.1/24".to_owned()])]);
        let inside = |active, up, address: &str| Inside {
            active,
            devices: [("rt1".to_owned(), Device { up, addresses: vec![address.into()] })].into(),
        };
        assert!(inside(true, true, "10.1.0.1/24").is_as(&wanted));
        assert!(inside(false, false, "10.1.0.1/24").is_as(&wanted));
        assert!(!inside(true, false, "10.1.0.1/24").is_as(&wanted));
        assert!(!inside(false, true, "10.1.0.1/24").is_as(&wanted));
        assert!(!inside(true, true, "10.1.0.9/24").is_as(&wanted));
        assert!(!Inside { active: true, ..Inside::default() }.is_as(&wanted));
    }

    #[test]
    fn n6_destinations_are_as_the_kernel_prints_them() {
        let of = |text: &str| printed(text.parse().unwrap());
        assert_eq!((of("0.0.0.0/0"), of("10.9.0.0/16")), ("default".into(), "10.9.0.0/16".into()));
        assert_eq!(of("10.9.0.7/32"), "10.9.0.7");
    }
}
