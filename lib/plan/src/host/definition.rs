//! From a manifest's bodies to what a host is told to make, with hashes that a host can read back.

use super::{
    DiskDefinition, DiskSourceDefinition, FlowGroup, FlowNetwork, FlowPort, FlowRouter, FlowSet,
    ImageDefinition, KnownName, NamesDefinition, NetworkDefinition, NicDefinition, Reservation,
    RouterDefinition, SeedDefinition, SeedNic, VmDefinition, VolumeDefinition, VolumeKey, router,
};
use basalt_model::{
    ImageId, Name, NetworkId, PortId, RouterId, SecurityGroupId, VmId, VolumeId, networks::address6,
};
use basalt_wire::agent::{
    Desired, Item, ItemKey, ItemKind, Manifest,
    directory::Directory,
    manifest::{DiskBodySource, ImageBody, NetworkBody, NicBody, RouterBody, VmBody, VolumeBody},
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A manifest by key: what is looked up again and again.
pub(super) struct Index<'a> {
    items: BTreeMap<ItemKey, &'a Item>,
    /// Reservations of each network, by port id.
    reservations: BTreeMap<NetworkId, Vec<Reservation>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(manifest: &'a Manifest) -> Self {
        let items: BTreeMap<ItemKey, &Item> = manifest.items.iter().map(|i| (i.key(), i)).collect();
        let mut reservations: BTreeMap<NetworkId, Vec<Reservation>> = BTreeMap::new();
        for item in &manifest.items {
            let Desired::Vm(body) = &item.desired else { continue };
            for nic in &body.nics {
                let network = ItemKey { kind: ItemKind::Network, id: nic.network_id.0 };
                let prefix = match items.get(&network).map(|i| &i.desired) {
                    Some(Desired::Network(network)) => network.cidr6,
                    _ => None,
                };
                reservations.entry(nic.network_id).or_default().push(Reservation {
                    port_id: nic.port_id,
                    mac: nic.mac.clone(),
                    address: nic.address,
                    address6: prefix.map(|prefix| address6(prefix, &nic.mac)),
                    hostname: body.name.clone(),
                });
            }
        }
        reservations.values_mut().for_each(|r| r.sort());
        Self { items, reservations }
    }

    /// All items in the order of their kinds: what others wait for comes first.
    pub(super) fn items(&self) -> impl Iterator<Item = &'a Item> + '_ {
        self.items.values().copied()
    }

    pub(super) fn has(&self, kind: ItemKind, id: impl Into<uuid::Uuid>) -> bool {
        self.items.contains_key(&ItemKey { kind, id: id.into() })
    }

    pub(super) fn is_absent(&self, kind: ItemKind, id: impl Into<uuid::Uuid>) -> bool {
        self.items.get(&ItemKey { kind, id: id.into() }).is_some_and(|i| i.is_absent())
    }

    fn network(&self, id: NetworkId) -> Option<&'a NetworkBody> {
        match &self.items.get(&ItemKey { kind: ItemKind::Network, id: id.0 })?.desired {
            Desired::Network(body) => Some(body),
            _ => None,
        }
    }

    pub(super) fn image(&self, id: ImageId) -> Option<&'a ImageBody> {
        match &self.items.get(&ItemKey { kind: ItemKind::Image, id: id.0 })?.desired {
            Desired::Image(body) => Some(body),
            _ => None,
        }
    }

    pub(super) fn volume(&self, id: VolumeId) -> Option<&'a VolumeBody> {
        match &self.items.get(&ItemKey { kind: ItemKind::Volume, id: id.0 })?.desired {
            Desired::Volume(body) => Some(body),
            _ => None,
        }
    }

    /// VMs that are to be there.
    pub(super) fn vms(&self) -> impl Iterator<Item = (VmId, &'a VmBody)> + '_ {
        self.items().filter_map(|item| match &item.desired {
            Desired::Vm(body) => Some((VmId(item.id), &**body)),
            _ => None,
        })
    }

    pub(super) fn network_definition(&self, id: NetworkId, body: &NetworkBody) -> NetworkDefinition {
        let mut definition = NetworkDefinition {
            id,
            segment: body.segment.clone(),
            vni: body.vni,
            cidr: body.cidr,
            cidr6: body.cidr6,
            gateway: body.gateway,
            dhcp_server: body.dhcp_server,
            dhcp: body.dhcp,
            dns: body.dns.clone(),
            mtu: body.mtu,
            reservations: self.reservations.get(&id).cloned().unwrap_or_default(),
            names: answers_names(body),
            hash: String::new(),
        };
        definition.hash = fingerprint(&definition);
        definition
    }

    /// What the name server of a network must know, where it is this host's.
    pub(super) fn names(
        &self,
        id: NetworkId,
        body: &NetworkBody,
        directory: &Directory,
    ) -> Option<NamesDefinition> {
        if !answers_names(body) {
            return None;
        }
        let known = |hostname: &Name, address, mac: &str| KnownName {
            hostname: hostname.clone(),
            address,
            address6: body.cidr6.map(|prefix| address6(prefix, mac)),
        };
        let here = self.reservations.get(&id).into_iter().flatten();
        let there = directory.ports(id);
        let mut names: Vec<KnownName> = here
            .map(|r| known(&r.hostname, r.address, &r.mac))
            .chain(there.filter_map(|p| Some(known(p.name.as_ref()?, p.address, &p.mac))))
            .collect();
        names.sort();
        // While a guest moves it is in both.
        names.dedup();
        let mut definition = NamesDefinition { id, names, hash: String::new() };
        definition.hash = fingerprint(&definition);
        Some(definition)
    }

    pub(super) fn seed(&self, id: VmId, body: &VmBody) -> SeedDefinition {
        let nics = body.nics.iter().filter_map(|nic| {
            let network = self.network(nic.network_id)?;
            Some(SeedNic {
                mac: nic.mac.clone(),
                address: nic.address,
                prefix_len: network.cidr.prefix_len(),
                address6: network.cidr6.map(|prefix| address6(prefix, &nic.mac)),
                gateway: network.gateway,
                dns: network.dns.clone(),
                mtu: network.mtu,
                dhcp: network.dhcp,
            })
        });
        let mut seed = SeedDefinition {
            vm_id: id,
            incarnation: body.incarnation,
            hostname: body.name.clone(),
            user_data: body.seed.user_data.clone(),
            ssh_authorized_keys: body.seed.ssh_authorized_keys.clone(),
            nics: nics.collect(),
            hash: String::new(),
        };
        seed.hash = fingerprint(&seed);
        seed
    }

    /// The definition of a VM; `Err` names what it needs and the manifest lacks.
    pub(super) fn vm(
        &self,
        item: &Item,
        body: &VmBody,
        seed: &SeedDefinition,
    ) -> Result<VmDefinition, String> {
        let mut definition = VmDefinition {
            id: VmId(item.id),
            name: body.name.clone(),
            generation: item.generation,
            epoch: item.epoch,
            incarnation: body.incarnation,
            cpus: body.cpus,
            memory_bytes: body.memory_bytes,
            firmware: body.firmware,
            disks: self.disks(body)?,
            nics: Vec::new(),
            seed_hash: seed.hash.clone(),
            hash: String::new(),
        };
        for nic in &body.nics {
            let network = self.network(nic.network_id).ok_or(format!("network {}", nic.network_id))?;
            definition.nics.push(NicDefinition {
                port_id: nic.port_id,
                network_id: nic.network_id,
                mac: nic.mac.clone(),
                address: nic.address,
                mtu: network.mtu,
            });
        }
        definition.hash = fingerprint(&definition);
        Ok(definition)
    }

    fn disks(&self, body: &VmBody) -> Result<Vec<DiskDefinition>, String> {
        let mut order: Vec<usize> = (0..body.disks.len()).collect();
        order.sort_by_key(|i| (body.disks[*i].boot_order.unwrap_or(u32::MAX), *i));
        let rank = |i: usize| order.iter().position(|o| *o == i).and_then(|r| u32::try_from(r + 1).ok());
        let source = |source: &DiskBodySource| match source {
            DiskBodySource::Volume(id) => {
                let volume = self.volume(*id).ok_or(format!("volume {id}"))?;
                Ok(DiskSourceDefinition::Volume {
                    id: *id,
                    incarnation: volume.incarnation,
                    pool: volume.pool.clone(),
                })
            }
            DiskBodySource::Iso(id) => {
                self.image(*id).map(|_| DiskSourceDefinition::Iso(*id)).ok_or(format!("image {id}"))
            }
        };
        let disks = body.disks.iter().enumerate().map(|(i, disk)| {
            Ok(DiskDefinition { name: disk.name.clone(), source: source(&disk.source)?, boot_order: rank(i) })
        });
        disks.collect()
    }

    pub(super) fn volume_definition(
        &self,
        id: VolumeId,
        body: &VolumeBody,
    ) -> Result<VolumeDefinition, String> {
        let image = match body.image_id {
            None => None,
            Some(image) => Some(image_definition(image, self.image(image).ok_or(format!("image {image}"))?)),
        };
        Ok(VolumeDefinition { key: volume_key(id, body), size_bytes: body.size_bytes, image })
    }

    /// A router on this host; `Err` names what it needs and the manifest lacks.
    pub(super) fn router(&self, id: RouterId, body: &RouterBody) -> Result<RouterDefinition, String> {
        let mut definition = router::definition(id, body, |network| self.network(network))?;
        definition.hash = fingerprint(&definition);
        Ok(definition)
    }

    /// Routers' ports that `attached` says are on the bridge.
    fn flow_routers(&self, attached: impl Fn(RouterId, &str) -> bool) -> Vec<FlowRouter> {
        let routers = self.items().filter_map(|item| match &item.desired {
            Desired::Router(body) => self.router(RouterId(item.id), body).ok(),
            _ => None,
        });
        let ports = routers.flat_map(|r| r.interfaces.into_iter().map(move |port| (r.id, port)));
        let mut routers: Vec<FlowRouter> = ports
            .filter(|(id, port)| attached(*id, &port.name))
            .map(|(_, port)| FlowRouter {
                name: port.name,
                network_id: port.network_id,
                mac: port.mac,
                addresses: port.addresses.iter().map(ipnet::Ipv4Net::addr).collect(),
            })
            .collect();
        routers.sort_by(|a, b| a.name.cmp(&b.name));
        routers
    }

    /// The flows of the bridge, of the ports that `attached` says are on it, and `routed` of routers'.
    pub(super) fn flows(
        &self,
        directory: &Directory,
        attached: impl Fn(&PortId) -> bool,
        routed: impl Fn(RouterId, &str) -> bool,
    ) -> FlowSet {
        let networks = self.items().filter_map(|item| match &item.desired {
            Desired::Network(body) => Some(FlowNetwork {
                id: NetworkId(item.id),
                segment: body.segment.clone(),
                vni: body.vni,
                cidr: body.cidr,
                gateway: body.gateway,
                dhcp_server: body.dhcp_server,
                cidr6: body.cidr6,
                dhcp: body.dhcp,
                names: answers_names(body),
                peers: directory.peers(NetworkId(item.id)).to_vec(),
            }),
            _ => None,
        });
        let nics = self.vms().flat_map(|(_, body)| &body.nics);
        let on = nics.filter(|n| attached(&n.port_id));
        let mut ports: Vec<_> = on
            .filter_map(|n| {
                let network = self.network(n.network_id)?;
                Some(FlowPort {
                    port_id: n.port_id,
                    network_id: n.network_id,
                    mac: n.mac.clone(),
                    address: n.address,
                    address6: network.cidr6.map(|prefix| address6(prefix, &n.mac)),
                    security_groups: self.security_groups(n),
                })
            })
            .collect();
        ports.sort_by_key(|p| p.port_id);
        let groups = self.groups(&ports);
        let members = directory.groups.clone();
        let routers = self.flow_routers(routed);
        let mut flows =
            FlowSet { networks: networks.collect(), ports, groups, members, routers, hash: String::new() };
        flows.hash = fingerprint(&flows);
        flows
    }

    /// The groups of an interface: its network's, its VM's and its own.
    fn security_groups(&self, nic: &NicBody) -> Vec<SecurityGroupId> {
        let of_network = self.network(nic.network_id).map(|n| &*n.security_groups).unwrap_or_default();
        let groups: BTreeSet<_> = nic.security_groups.iter().chain(of_network).copied().collect();
        groups.into_iter().collect()
    }

    /// The groups that ports are in, as far as the manifest has them.
    fn groups(&self, ports: &[FlowPort]) -> Vec<FlowGroup> {
        let used: BTreeSet<_> = ports.iter().flat_map(|p| &p.security_groups).copied().collect();
        let group = |id: SecurityGroupId| match &self
            .items
            .get(&ItemKey { kind: ItemKind::SecurityGroup, id: id.0 })?
            .desired
        {
            Desired::SecurityGroup(body) => Some(FlowGroup { id, rules: body.rules.clone() }),
            _ => None,
        };
        used.into_iter().filter_map(group).collect()
    }
}

/// Whether the host's own name server is the one that guests are told.
fn answers_names(body: &NetworkBody) -> bool {
    body.dhcp && body.dns.is_empty()
}

pub(super) fn volume_key(id: VolumeId, body: &VolumeBody) -> VolumeKey {
    VolumeKey { id, incarnation: body.incarnation, pool: body.pool.clone() }
}

pub(super) fn image_definition(id: ImageId, body: &ImageBody) -> ImageDefinition {
    ImageDefinition { id, format: body.format, sha256: body.sha256.clone(), size_bytes: body.size_bytes }
}

/// A text that changes whenever a value does: FNV-1a over its JSON, 128 bits. It tells change from no
/// change on one host; it protects against nobody.
fn fingerprint(value: &impl Serialize) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    // These types serialise without fail: no maps with odd keys, no floats.
    let json = serde_json::to_vec(value).unwrap_or_default();
    let hash = json.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
    format!("{hash:032x}")
}
