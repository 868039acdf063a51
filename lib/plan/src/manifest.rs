//! The manifest of a host: what it must have, and how the stored rows come to say so.
//!
//! [`vm`], [`volume`], [`image`] and [`network`] make one item each; [`project`] makes all that one
//! VM needs. [`difference`] compares what is wanted on one host with the rows that stand there:
//!
//! ```text
//!             wanted                no longer wanted,            the host reported
//!                                   and nothing there uses it    it gone
//!   (no row) ───────► present row ───────────────────────► absent row ─────────► (no row)
//!                        ▲                                    │
//!                        └──────────── wanted again ──────────┘   with a higher epoch
//! ```
//!
//! An item's age is `(epoch, generation)`, compared in that order; it only ever grows while the row
//! stands, so a receiver that refuses the past can never be led back. Removal goes from users to
//! used: a VM first, then its volumes, then images and networks. An absent row no longer says what
//! it used, so whoever computes what is wanted keeps wanting what [`held_by_vm`] and
//! [`held_by_volume`] name while the user's row stands; one stuck removal then holds up only its own.

mod stored;

pub use stored::Stored;

use basalt_model::{
    Epoch, Generation, ImageId, Metadata, Name, NetworkId, SecurityGroupId, VolumeId,
    images::{ImageObserved, ImageSpec, ImageState},
    networks::NetworkSpec,
    routers::{RouterSpec, RouterWiring},
    security_groups::{Remote, SecurityGroupSpec, SecurityRule},
    vms::{Operation, VmDisk, VmNic, VmSpec},
    volumes::{VolumeSource, VolumeSpec},
};
use basalt_wire::agent::manifest::{
    Desired, DiskBody, DiskBodySource, ImageBody, Item, ItemKey, ItemKind, MotionBody, NetworkBody, NicBody,
    RemoteBody, RouterBody, RuleBody, SecurityGroupBody, SeedBody, Shared, VmBody, VolumeBody,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// A VM as the truth has it.
#[derive(Clone, Copy, Debug)]
pub struct Vm<'a> {
    /// Common fields.
    pub metadata: &'a Metadata,
    /// What is wanted.
    pub spec: &'a VmSpec,
    /// Count of redeploys.
    pub incarnation: i64,
    /// The last one-shot verb that was asked for.
    pub operation: Option<&'a Operation>,
    /// Its part in a migration on this host.
    pub motion: Option<&'a MotionBody>,
    /// Disks with what is behind them.
    pub disks: &'a [VmDisk],
    /// Interfaces with their addresses.
    pub nics: &'a [VmNic],
}

/// A volume as the truth has it, with the pool that was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Volume<'a> {
    /// Common fields.
    pub metadata: &'a Metadata,
    /// What is wanted.
    pub spec: &'a VolumeSpec,
    /// The pool it was given on its host.
    pub pool: &'a Name,
    /// The image under it.
    pub image_id: Option<ImageId>,
    /// Count of times it is to be made anew.
    pub incarnation: i64,
    /// Whether other hosts see its pool.
    pub shared: Shared,
}

/// An image as the truth has it.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// Common fields.
    pub metadata: &'a Metadata,
    /// What is wanted.
    pub spec: &'a ImageSpec,
    /// What the image service reported.
    pub observed: &'a ImageObserved,
}

/// A network as the truth has it.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
    /// Common fields.
    pub metadata: &'a Metadata,
    /// What is wanted.
    pub spec: &'a NetworkSpec,
    /// The segment's identifier.
    pub vni: u32,
    /// Security groups of all of its ports.
    pub security_groups: &'a [SecurityGroupId],
}

/// A security group as the truth has it.
#[derive(Clone, Copy, Debug)]
pub struct SecurityGroup<'a> {
    /// Common fields.
    pub metadata: &'a Metadata,
    /// What is wanted.
    pub spec: &'a SecurityGroupSpec,
    /// The groups that its rules name.
    pub named: &'a BTreeMap<Name, SecurityGroupId>,
}

/// A router as one of its hosts has it.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    /// Common fields.
    pub metadata: &'a Metadata,
    /// What is wanted.
    pub spec: &'a RouterSpec,
    /// What its names came to.
    pub wiring: &'a RouterWiring,
    /// What names it between its hosts.
    pub vrid: u8,
    /// Whether this host is active when both begin at once.
    pub preferred: bool,
    /// Where the other host's tunnels end.
    pub peer: Option<Ipv4Addr>,
}

/// The item of a router on one of its hosts.
pub fn router(router: Router<'_>) -> Item {
    let body = RouterBody {
        name: router.metadata.name.clone(),
        wiring: router.wiring.clone(),
        nat: router.spec.nat,
        routes: router.spec.routes.clone(),
        vrid: router.vrid,
        preferred: router.preferred,
        peer: router.peer,
    };
    unplaced(ItemKind::Router, router.metadata, Desired::Router(Box::new(body)))
}

/// The item of a VM at the epoch of its placement.
pub fn vm(vm: Vm<'_>, epoch: Epoch) -> Item {
    let disks = vm
        .disks
        .iter()
        .filter_map(|disk| {
            let source = match (disk.volume_id, disk.iso_image_id) {
                (Some(volume), _) => DiskBodySource::Volume(volume),
                (None, Some(image)) => DiskBodySource::Iso(image),
                (None, None) => return None,
            };
            Some(DiskBody { name: disk.name.clone(), source, boot_order: disk.boot_order })
        })
        .collect();
    let nics = vm
        .nics
        .iter()
        .map(|nic| NicBody {
            port_id: nic.port_id,
            network_id: nic.network_id,
            mac: nic.mac.clone(),
            address: nic.address,
            security_groups: nic.security_groups.clone(),
        })
        .collect();
    let body = VmBody {
        name: vm.metadata.name.clone(),
        power: vm.spec.power,
        cpus: vm.spec.cpus,
        memory_bytes: vm.spec.memory_bytes,
        firmware: vm.spec.firmware,
        incarnation: vm.incarnation,
        disks,
        nics,
        seed: SeedBody {
            user_data: vm.spec.cloud_init.user_data.clone(),
            ssh_authorized_keys: vm.spec.cloud_init.ssh_authorized_keys.clone(),
        },
        stop_grace_seconds: vm.spec.stop_grace_seconds,
        needs_lease: vm.spec.ha.restarts(),
        operation: vm.operation.cloned(),
        motion: vm.motion.cloned(),
    };
    Item {
        kind: ItemKind::Vm,
        id: vm.metadata.id,
        generation: vm.metadata.generation,
        epoch,
        desired: Desired::Vm(Box::new(body)),
    }
}

/// The item of a volume.
pub fn volume(volume: Volume<'_>) -> Item {
    let body = VolumeBody {
        name: volume.metadata.name.clone(),
        pool: volume.pool.clone(),
        size_bytes: volume.spec.size_bytes,
        image_id: volume.image_id,
        incarnation: volume.incarnation,
        adopted_from: match &volume.spec.source {
            VolumeSource::Adopted { file } => Some(file.clone()),
            VolumeSource::Blank | VolumeSource::Image { .. } => None,
        },
        shared: volume.shared,
    };
    unplaced(ItemKind::Volume, volume.metadata, Desired::Volume(body))
}

/// The item of an image; none until its bytes were verified.
pub fn image(image: Image<'_>) -> Option<Item> {
    let sha256 = match (image.observed.state, &image.observed.sha256) {
        (ImageState::Ready | ImageState::Deleting, Some(sha256)) => sha256.clone(),
        _ => return None,
    };
    let body = ImageBody { format: image.spec.format, sha256, size_bytes: image.observed.size_bytes };
    Some(unplaced(ItemKind::Image, image.metadata, Desired::Image(body)))
}

/// The item of a network.
pub fn network(network: Network<'_>) -> Item {
    let spec = network.spec;
    let body = NetworkBody {
        name: network.metadata.name.clone(),
        segment: spec.segment.clone(),
        vni: network.vni,
        cidr: spec.cidr,
        cidr6: spec.cidr6,
        gateway: spec.gateway(),
        dhcp_server: spec.dhcp_server(),
        dhcp: spec.dhcp,
        dns: spec.dns.clone(),
        mtu: spec.mtu,
        security_groups: network.security_groups.to_vec(),
    };
    unplaced(ItemKind::Network, network.metadata, Desired::Network(body))
}

/// The item of a security group.
pub fn security_group(group: SecurityGroup<'_>) -> Item {
    let body = SecurityGroupBody {
        name: group.metadata.name.clone(),
        rules: group.spec.rules.iter().filter_map(|rule| rule_body(rule, group.named)).collect(),
    };
    unplaced(ItemKind::SecurityGroup, group.metadata, Desired::SecurityGroup(body))
}

/// None for a rule that names a group which is not there: the database does not let that be.
fn rule_body(rule: &SecurityRule, named: &BTreeMap<Name, SecurityGroupId>) -> Option<RuleBody> {
    Some(RuleBody {
        direction: rule.direction,
        protocol: rule.protocol,
        ports: rule.ports,
        icmp_type: rule.icmp_type,
        icmp_code: rule.icmp_code,
        remote: match &rule.remote {
            Remote::Any => RemoteBody::Any,
            Remote::Cidr(cidr) => RemoteBody::Cidr(*cidr),
            Remote::SecurityGroup(name) => RemoteBody::SecurityGroup(*named.get(name)?),
        },
    })
}

fn unplaced(kind: ItemKind, metadata: &Metadata, desired: Desired) -> Item {
    Item { kind, id: metadata.id, generation: metadata.generation, epoch: Epoch(0), desired }
}

/// Everything that one VM needs on its host, used things first.
pub fn project<'a>(
    machine: Vm<'a>,
    epoch: Epoch,
    volumes: impl IntoIterator<Item = Volume<'a>>,
    images: impl IntoIterator<Item = Image<'a>>,
    networks: impl IntoIterator<Item = Network<'a>>,
) -> Vec<Item> {
    let mut items: Vec<Item> = networks.into_iter().map(network).collect();
    items.extend(images.into_iter().filter_map(image));
    items.extend(volumes.into_iter().map(volume));
    items.push(vm(machine, epoch));
    items.sort_by_key(Item::key);
    items.dedup_by_key(|i| i.key());
    items
}

/// What a host reported of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The generation that the host realises.
    pub generation: Generation,
    /// The epoch it acted on.
    pub epoch: Epoch,
    /// Nothing of it is left there.
    pub gone: bool,
}

/// One change of a host's manifest rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Insert or replace the row: a present item, or an absent one.
    Put(Item),
    /// The host reported it gone: the row goes, if it is still this old.
    Remove {
        /// Which row.
        key: ItemKey,
        /// Its generation when this was decided.
        generation: Generation,
        /// Its epoch when this was decided.
        epoch: Epoch,
    },
}

impl Edit {
    /// Which row it changes.
    pub fn key(&self) -> ItemKey {
        match self {
            Edit::Put(item) => item.key(),
            Edit::Remove { key, .. } => *key,
        }
    }
}

/// What a VM keeps on a host for as long as its own row stands there.
pub fn held_by_vm(disks: &[VmDisk], nics: &[VmNic]) -> Vec<ItemKey> {
    let volumes =
        disks.iter().filter_map(|d| d.volume_id).map(|v| ItemKey { kind: ItemKind::Volume, id: v.0 });
    let discs =
        disks.iter().filter_map(|d| d.iso_image_id).map(|i| ItemKey { kind: ItemKind::Image, id: i.0 });
    let networks = nics.iter().map(|n| ItemKey { kind: ItemKind::Network, id: n.network_id.0 });
    let groups = nics.iter().flat_map(|n| &n.security_groups).map(|g| group_key(*g));
    volumes.chain(discs).chain(networks).chain(groups).collect()
}

/// The key of a security group's item.
pub fn group_key(id: SecurityGroupId) -> ItemKey {
    ItemKey { kind: ItemKind::SecurityGroup, id: id.0 }
}

/// What a volume keeps on a host for as long as its own row stands there.
pub fn held_by_volume(image: Option<ImageId>) -> Option<ItemKey> {
    image.map(|i| ItemKey { kind: ItemKind::Image, id: i.0 })
}

/// How to bring the rows of one host to what is wanted there. Empty when they say it already.
///
/// `desired` is everything wanted on the host, `rows` those that stand, `facts` what the host
/// reported, `revision` that of its manifest. Applying the answer and asking again gives nothing until facts or wishes change.
pub fn difference<'a>(
    desired: &BTreeMap<ItemKey, &'a Item>,
    rows: &BTreeMap<ItemKey, &'a Item>,
    facts: &BTreeMap<ItemKey, Fact>,
    revision: i64,
) -> Vec<Edit> {
    let stored: BTreeMap<ItemKey, Stored> = rows.iter().map(|(key, row)| (*key, Stored::of(row))).collect();
    let mut edits: Vec<Edit> = desired
        .iter()
        .filter_map(|(key, want)| put(want, stored.get(key), facts.get(key), revision))
        .collect();
    // They stay while their users stay.
    let wanted = desired.values().flat_map(|item| names(item));
    let in_use: BTreeSet<ItemKey> =
        stored.values().flat_map(|row| row.names.to_vec()).chain(wanted).collect();
    for (key, row) in stored.iter().rev().filter(|(k, _)| !desired.contains_key(*k)) {
        edits.extend(withdraw(row, facts.get(key), in_use.contains(key), false));
    }
    edits
}

/// How the row of a wanted item changes, if it does.
///
/// `revision` is the host's manifest revision; it matters only while no row stands. A host may have missed that the
/// row was away, and then compares with what stood before: so a thing that is not placed comes in with an epoch above
/// every revision so far. A VM comes back only by another placement, whose epoch is higher by itself.
pub fn put(want: &Item, stored: Option<&Stored>, fact: Option<&Fact>, revision: i64) -> Option<Edit> {
    let mut item = want.clone();
    match stored {
        Some(row) if row.absent => item.epoch = item.epoch.max(Epoch(row.epoch.0 + 1)),
        Some(row) => {
            item.epoch = item.epoch.max(row.epoch);
            let older = (item.epoch, item.generation) < (row.epoch, row.generation);
            if older || row.is(&item) {
                return None;
            }
        }
        None => {
            if want.kind != ItemKind::Vm {
                item.epoch = item.epoch.max(Epoch(revision + 1));
            }
            if let Some(fact) = fact.filter(|f| f.gone) {
                item.epoch = item.epoch.max(Epoch(fact.epoch.0 + 1));
            }
        }
    }
    Some(Edit::Put(item))
}

/// How the row of an item that is no longer wanted changes, if it does. `in_use`: an item that stands names it.
/// `elsewhere`: the volume is another host's now, or no more.
pub fn withdraw(row: &Stored, fact: Option<&Fact>, in_use: bool, elsewhere: bool) -> Option<Edit> {
    if elsewhere && !in_use && row.shared {
        // Its bytes are the other host's: here it is forgotten, and nothing of it removed.
        return Some(Edit::Remove { key: row.key, generation: row.generation, epoch: row.epoch });
    }
    if row.absent {
        let gone = fact.is_some_and(|f| f.gone && (f.epoch, f.generation) >= (row.epoch, row.generation));
        return gone.then_some(Edit::Remove { key: row.key, generation: row.generation, epoch: row.epoch });
    }
    // One generation more than the item that it replaces: a "gone" that was said of that one does not count.
    let generation = Generation(row.generation.0 + 1);
    let ItemKey { kind, id } = row.key;
    let absent = Item { kind, id, generation, epoch: row.epoch, desired: Desired::Absent };
    (!in_use).then_some(Edit::Put(absent))
}

/// The items that an item names.
pub fn names(item: &Item) -> Vec<ItemKey> {
    let volume = |id: VolumeId| ItemKey { kind: ItemKind::Volume, id: id.0 };
    let image = |id: ImageId| ItemKey { kind: ItemKind::Image, id: id.0 };
    let network = |id: NetworkId| ItemKey { kind: ItemKind::Network, id: id.0 };
    match &item.desired {
        Desired::Absent | Desired::Image(_) | Desired::SecurityGroup(_) => Vec::new(),
        Desired::Network(body) => body.security_groups.iter().map(|g| group_key(*g)).collect(),
        Desired::Volume(body) => body.image_id.map(image).into_iter().collect(),
        Desired::Vm(body) => {
            let disks = body.disks.iter().map(|d| match d.source {
                DiskBodySource::Volume(id) => volume(id),
                DiskBodySource::Iso(id) => image(id),
            });
            let groups = body.nics.iter().flat_map(|n| &n.security_groups).map(|g| group_key(*g));
            disks.chain(body.nics.iter().map(|n| network(n.network_id))).chain(groups).collect()
        }
        Desired::Router(body) => body.wiring.networks().map(network).collect(),
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
