//! Who is in which security group, and which groups matter to which host: the second half of the directory.
//!
//! A port is in the groups of its network, of its VM and its own, whether its VM is placed or not. What a host must know
//! is who is in the groups that rules of its own ports' groups name.

use basalt_model::{HostId, NetworkId, SecurityGroupId, networks::address6};
use basalt_store::feed::{Change, Row, Table};
use basalt_wire::agent::directory::DirectoryGroup;
use ipnet::Ipv6Net;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};
use uuid::Uuid;

/// A VM's interface: its network, its address, its MAC address, the groups of VM and interface.
pub(crate) type Nic = (NetworkId, Ipv4Addr, String, Vec<SecurityGroupId>);

/// What of a network matters here: its groups, and where its ports' second addresses follow from.
pub(crate) type Network = (Vec<SecurityGroupId>, Option<Ipv6Net>);

/// What a host's part of it depended on. Equal ones stand for equal parts.
pub type Stamp = Vec<(SecurityGroupId, u64)>;

/// Who is in which group.
#[derive(Default)]
pub(crate) struct Members {
    nics: HashMap<Uuid, Vec<Nic>>,
    places: HashMap<Uuid, HostId>,
    /// VMs that have a port on a network which has groups, or may get some.
    on_network: HashMap<NetworkId, BTreeSet<Uuid>>,
    networks: HashMap<NetworkId, Network>,
    /// The groups that a group's rules name.
    named: HashMap<SecurityGroupId, BTreeSet<SecurityGroupId>>,
    groups: HashMap<SecurityGroupId, Group>,
    /// Groups of the ports on a host, with how many ports.
    of_host: HashMap<HostId, BTreeMap<SecurityGroupId, usize>>,
    version: u64,
}

/// Who is in one group.
#[derive(Default)]
struct Group {
    /// The version of its last change.
    version: u64,
    /// Addresses, with how many ports have each: more than one while a VM goes and another one comes.
    members: BTreeMap<IpAddr, usize>,
}

impl Members {
    /// Everything comes anew. Versions go on, so that no stamp stands for two parts.
    pub(crate) fn forget(&mut self) {
        *self = Self { version: self.version + 1, ..Self::default() };
    }

    /// Takes one change of a row; whether any host's part is another one now.
    pub(crate) fn apply(&mut self, id: Uuid, change: &Change) -> bool {
        let before = self.version;
        match (change.table, &change.row) {
            (Table::Vm, Some(Row::Vm(vm))) => {
                let nic = |n: &basalt_model::vms::VmNic| {
                    (n.network_id, n.address, n.mac.clone(), n.security_groups.clone())
                };
                self.attach(id, vm.nics.iter().map(nic).collect());
            }
            (Table::Vm, _) => self.attach(id, Vec::new()),
            (Table::Placement, Some(Row::Placement(placement))) => self.place(id, placement.host_id),
            (Table::Placement, _) => self.place(id, None),
            (Table::Network, Some(Row::Network(network))) => {
                self.network(NetworkId(id), (network.security_groups.clone(), network.spec.cidr6));
            }
            (Table::Network, _) => self.network(NetworkId(id), Network::default()),
            (Table::SecurityGroup, Some(Row::SecurityGroup(group))) => {
                self.rules(SecurityGroupId(id), group.named.values().copied().collect());
            }
            (Table::SecurityGroup, _) => self.rules(SecurityGroupId(id), BTreeSet::new()),
            _ => {}
        }
        self.version != before
    }

    pub(crate) fn attach(&mut self, vm: Uuid, nics: Vec<Nic>) {
        if self.nics.get(&vm).map_or(&[][..], |n| n) == nics {
            return;
        }
        self.count(vm, false);
        for (network, ..) in self.nics.remove(&vm).unwrap_or_default() {
            if let Some(vms) = self.on_network.get_mut(&network) {
                vms.remove(&vm);
                if vms.is_empty() {
                    self.on_network.remove(&network);
                }
            }
        }
        for (network, ..) in &nics {
            self.on_network.entry(*network).or_default().insert(vm);
        }
        if !nics.is_empty() {
            self.nics.insert(vm, nics);
        }
        self.count(vm, true);
    }

    pub(crate) fn place(&mut self, vm: Uuid, host: Option<HostId>) {
        if self.places.get(&vm).copied() != host {
            self.count(vm, false);
            match host {
                Some(host) => drop(self.places.insert(vm, host)),
                None => drop(self.places.remove(&vm)),
            }
            self.count(vm, true);
        }
    }

    pub(crate) fn network(&mut self, id: NetworkId, network: Network) {
        if self.networks.get(&id).cloned().unwrap_or_default() == network {
            return;
        }
        let vms: Vec<Uuid> = self.on_network.get(&id).into_iter().flatten().copied().collect();
        vms.iter().for_each(|vm| self.count(*vm, false));
        match network == Network::default() {
            true => drop(self.networks.remove(&id)),
            false => drop(self.networks.insert(id, network)),
        }
        vms.iter().for_each(|vm| self.count(*vm, true));
    }

    pub(crate) fn rules(&mut self, group: SecurityGroupId, named: BTreeSet<SecurityGroupId>) {
        let before = match named.is_empty() {
            true => self.named.remove(&group).unwrap_or_default(),
            false => self.named.insert(group, named.clone()).unwrap_or_default(),
        };
        if before != named {
            self.version += 1;
        }
    }

    /// Adds what a VM's ports are to their groups, or takes it away.
    fn count(&mut self, vm: Uuid, there: bool) {
        let Some(nics) = self.nics.get(&vm) else { return };
        let host = self.places.get(&vm).copied();
        for (network, address, mac, own) in nics {
            let network = self.networks.get(network);
            let of_network = network.into_iter().flat_map(|n| &n.0);
            let second = network.and_then(|n| n.1).map(|prefix| IpAddr::V6(address6(prefix, mac)));
            let groups: BTreeSet<SecurityGroupId> = own.iter().chain(of_network).copied().collect();
            for id in groups {
                self.version += 1;
                let group = self.groups.entry(id).or_default();
                group.version = self.version;
                for address in [Some(IpAddr::V4(*address)), second].into_iter().flatten() {
                    step(&mut group.members, address, there);
                }
                if group.members.is_empty() {
                    self.groups.remove(&id);
                }
                if let Some(host) = host {
                    let groups = self.of_host.entry(host).or_default();
                    step(groups, id, there);
                    if groups.is_empty() {
                        self.of_host.remove(&host);
                    }
                }
            }
        }
    }

    /// Groups that rules for ports of a host name.
    fn asked(&self, host: HostId) -> BTreeSet<SecurityGroupId> {
        let groups = self.of_host.get(&host).into_iter().flat_map(BTreeMap::keys);
        groups.filter_map(|group| self.named.get(group)).flatten().copied().collect()
    }

    /// What a host's part depends on.
    pub(crate) fn stamp(&self, host: HostId) -> Stamp {
        let version = |id| self.groups.get(id).map_or(0, |g: &Group| g.version);
        self.asked(host).iter().map(|id| (*id, version(id))).collect()
    }

    /// How many there are in the groups that a host must know.
    pub(crate) fn len(&self, host: HostId) -> usize {
        self.asked(host).iter().filter_map(|id| self.groups.get(id)).map(|g| g.members.len()).sum()
    }

    /// Who is in the groups that a host must know.
    pub(crate) fn groups(&self, host: HostId) -> Vec<DirectoryGroup> {
        let group = |id: SecurityGroupId| {
            let members = self.groups.get(&id).map(|g| g.members.keys().copied().collect());
            DirectoryGroup { id, members: members.unwrap_or_default() }
        };
        self.asked(host).into_iter().map(group).collect()
    }

    /// Whether nothing is derived any more.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.of_host.is_empty() && self.on_network.is_empty()
    }
}

/// Counts up, or down to nothing.
fn step<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K, up: bool) {
    match counts.entry(key) {
        std::collections::btree_map::Entry::Occupied(mut entry) => {
            let count = entry.get_mut();
            *count = if up { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                entry.remove();
            }
        }
        std::collections::btree_map::Entry::Vacant(entry) if up => drop(entry.insert(1)),
        std::collections::btree_map::Entry::Vacant(_) => {}
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
