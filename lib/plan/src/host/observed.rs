//! What was seen on a host, in neutral words. A listing that failed never reads as "nothing there".

use basalt_model::{
    DateTime, Epoch, Generation, ImageId, MigrationId, Name, NetworkId, PortId, RouterId, VmId, VolumeId,
    adoption::ForeignNic,
    hosts::{Foreign, HostFacts},
    vms::{Firmware, ObservedPower},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Everything that was seen on a host in one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// **All** virtual machines of the hypervisor by their id there, ours or not; the manifest says
    /// which are ours.
    pub vms: Section<VmId, VmSeen>,
    /// Volumes in the pools whose file names are ours. One volume may be there in several incarnations.
    pub volumes: Section<VolumeKey, VolumeSeen>,
    /// Images in the cache. One of which only a part was fetched is listed as not ready.
    pub images: Section<ImageId, ImageSeen>,
    /// Networks that were set up.
    pub networks: Section<NetworkId, NetworkSeen>,
    /// Ports that carry a port id: in the switch, or on a VM that runs.
    pub ports: Section<PortId, PortSeen>,
    /// Routers that were set up.
    pub routers: Section<RouterId, RouterSeen>,
    /// Seeds that were written.
    pub seeds: Section<SeedKey, ()>,
    /// The integration bridge.
    pub switch: SwitchSeen,
    /// What carries none of our names (files in a pool, ports of the bridge): reported, touched only when a volume
    /// is to be made of it.
    pub strays: Vec<Foreign>,
    /// Doors that stand open for VMs that come from other hosts. They end with the agent, so all of them are known.
    pub doors: BTreeMap<VmId, DoorSeen>,
    /// What the host can do.
    pub capabilities: Capabilities,
}

/// A door that stands open for one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorSeen {
    /// The migration that it is for.
    pub migration_id: MigrationId,
    /// Whether the guest is to execute as soon as the source let go of it.
    pub resume: bool,
}

/// Where a VM is on its way between hosts, as the hypervisor has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transit {
    /// It is not on any way.
    #[default]
    Still,
    /// It executes, and it is being sent.
    Sending,
    /// It is in memory, does not execute, and is being sent or comes in: what is here may be a part.
    Held,
    /// It is in memory as [`Self::Held`] left it, and nothing is under way any more.
    Stranded,
    /// It executes, and a part of its memory is still elsewhere (post-copy).
    PartHere,
    /// It does not execute, and a part of its memory is only here (post-copy).
    PartThere,
    /// A part of its memory is here and the rest cannot be had any more (post-copy).
    Torn,
    /// It is off because it was sent away.
    Away,
    /// It is off, and the hypervisor no longer knows why.
    Unexplained,
}

/// One listing, and how far it can be trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct Section<K: Ord, V> {
    /// What was listed.
    pub items: BTreeMap<K, V>,
    /// Whether anything may be missing from it.
    pub listing: Listing,
}

/// How far a listing can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// What is not listed is not there.
    Complete,
    /// What is listed is there; of the rest nothing is known. Carries why.
    Partial(String),
    /// Nothing is known. Carries why.
    Failed(String),
}

/// What a listing says of one thing.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a, V> {
    /// It is there.
    There(&'a V),
    /// It is not there: the listing was complete.
    Gone,
    /// Nobody can say. Carries why.
    Unknown(&'a str),
}

impl<K: Ord, V> Default for Section<K, V> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), listing: Listing::Failed("it was not looked at yet".into()) }
    }
}

impl<K: Ord, V> Section<K, V> {
    /// A listing from which nothing is missing.
    pub fn complete(items: impl IntoIterator<Item = (K, V)>) -> Self {
        Self { items: items.into_iter().collect(), listing: Listing::Complete }
    }

    /// A listing from which something may be missing.
    pub fn partial(items: impl IntoIterator<Item = (K, V)>, why: impl Into<String>) -> Self {
        Self { items: items.into_iter().collect(), listing: Listing::Partial(why.into()) }
    }

    /// A listing that could not be had.
    pub fn failed(why: impl Into<String>) -> Self {
        Self { items: BTreeMap::new(), listing: Listing::Failed(why.into()) }
    }

    /// What it says of one thing.
    pub fn get(&self, key: &K) -> Seen<'_, V> {
        match (self.items.get(key), &self.listing) {
            (Some(_), Listing::Failed(why)) => Seen::Unknown(why),
            (Some(value), _) => Seen::There(value),
            (None, Listing::Complete) => Seen::Gone,
            (None, Listing::Partial(why) | Listing::Failed(why)) => Seen::Unknown(why),
        }
    }

    /// Why it is not complete.
    pub fn problem(&self) -> Option<&str> {
        match &self.listing {
            Listing::Complete => None,
            Listing::Partial(why) | Listing::Failed(why) => Some(why),
        }
    }
}

/// A virtual machine on the hypervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmSeen {
    /// Its name on the hypervisor.
    pub name: String,
    /// Never `Absent`; `Crashed` only when nothing of it runs any more.
    pub power: ObservedPower,
    /// What the next start will use; `None` when it runs without a stored definition.
    pub defined: Option<Stamp>,
    /// What it was started with; `None` when it does not run.
    pub running: Option<Stamp>,
    /// When it was started, where that is known.
    pub started_at: Option<DateTime>,
    /// `kvm` or `tcg`, when it runs.
    pub accelerator: Option<String>,
    /// Networks that its definition or its running form is attached to.
    pub networks: BTreeSet<NetworkId>,
    /// Images that it has as optical discs.
    pub isos: BTreeSet<ImageId>,
    /// What it is made of, as far as that can be read: what adopting it needs. Shared, because looks are many.
    pub shape: Option<Arc<VmShape>>,
    /// Whether it is on its way to or from another host. `power` is then `Unknown` where what is here may be a part.
    pub transit: Transit,
}

/// What a virtual machine is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmShape {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Firmware.
    pub firmware: Firmware,
    /// Disks in order, without the seed.
    pub disks: Vec<DiskShape>,
    /// Interfaces in order.
    pub nics: Vec<ForeignNic>,
    /// What it has and no VM of ours can have, in words.
    pub unsupported: Vec<String>,
}

/// A disk of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskShape {
    /// Its name in the VM, where our marks tell it.
    pub name: Option<Name>,
    /// Where it is on the host.
    pub path: String,
    /// How the VM reads it: `qcow2`, `raw` …
    pub format: String,
    /// Position in the boot order.
    pub boot_order: Option<u32>,
    /// What is at that path.
    pub place: DiskPlace,
}

/// What is at the path of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskPlace {
    /// A file whose name is a volume's.
    Volume(VolumeKey),
    /// Another file of a pool.
    File(Name, String),
    /// An image of the cache.
    Iso(ImageId),
    /// Something that lies in no pool.
    Outside,
}

/// What we wrote into a definition, read back. A definition without our marks gives the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The placement's epoch it was written for.
    pub epoch: Epoch,
    /// The generation it was written for.
    pub generation: Generation,
    /// The count of redeploys it was written for.
    pub incarnation: i64,
    /// [`super::VmDefinition::hash`].
    pub definition_hash: String,
    /// [`super::SeedDefinition::hash`].
    pub seed_hash: String,
}

/// What names one made volume: a volume that is made anew lies beside the old one until that is unused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeKey {
    /// The volume.
    pub id: VolumeId,
    /// Count of times it was made anew.
    pub incarnation: i64,
    /// The pool it is in.
    pub pool: Name,
}

/// A volume in a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeSeen {
    /// Its file's name in the pool.
    pub file: String,
    /// Other names that the same file has in the pool: one that is being taken over has its old one beside ours.
    pub aliases: BTreeSet<String>,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// The cached image it lies over.
    pub image_id: Option<ImageId>,
    /// Names of the VMs, ours or not, whose definition or running form has it.
    pub users: BTreeSet<String>,
}

/// An image in the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSeen {
    /// The digest that was verified when it was stored.
    pub sha256: String,
    /// Whether every byte is there and was verified.
    pub ready: bool,
}

/// A network that was set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSeen {
    /// [`super::NetworkDefinition::hash`] that it was last set up with.
    pub hash: String,
    /// [`super::NamesDefinition::hash`] of what its name server knows, if that still stands.
    pub names: Option<String>,
    /// Whether its DHCP server answers with that configuration (true where none is wanted) and its
    /// port on the bridge is there.
    pub running: bool,
}

/// A router that was set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterSeen {
    /// [`super::RouterDefinition::hash`] that it was last set up with.
    pub hash: String,
    /// Whether all of it stands as it was set up.
    pub running: bool,
    /// Whether it routes; else it stands by.
    pub active: bool,
    /// Its devices that are ports of the bridge.
    pub ports: BTreeSet<String>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSeen {
    /// The VM it belongs to.
    pub vm_id: VmId,
    /// Where it is.
    pub state: PortState,
}

/// Where a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortState {
    /// The device of a running VM is on the bridge, with its marks.
    Attached,
    /// The VM runs and has the device; the bridge lacks it.
    Detached,
    /// The bridge names it and no device is behind it.
    Stale,
}

/// The integration bridge and its flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchSeen {
    /// It could not be asked. Carries why.
    Unknown(String),
    /// It is not there.
    Missing,
    /// It is there.
    Ready {
        /// [`super::FlowSet::hash`] of the set that was last applied, if all of it still stands and
        /// means the same ports; else `None`.
        flows: Option<String>,
    },
}

impl Default for SwitchSeen {
    fn default() -> Self {
        Self::Unknown("it was not looked at yet".into())
    }
}

/// What names a seed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeedKey {
    /// The VM.
    pub vm_id: VmId,
    /// [`super::SeedDefinition::hash`].
    pub hash: String,
}

/// What the host can do: the part of its facts that decisions need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether OVMF is installed.
    pub uefi: bool,
    /// The accelerator that was seen to work: `kvm` or `tcg`.
    pub accelerator: Option<String>,
    /// Pools that are there now.
    pub pools: BTreeSet<Name>,
    /// Bridges that are there now.
    pub bridges: BTreeSet<String>,
    /// Whether it has what routers need.
    pub routers: bool,
}

impl From<&HostFacts> for Capabilities {
    fn from(facts: &HostFacts) -> Self {
        Self {
            uefi: facts.uefi,
            accelerator: facts.accelerator().map(|a| a.kind.clone()),
            pools: facts.pools.iter().map(|p| p.name.clone()).collect(),
            bridges: facts.bridges.iter().map(|b| b.name.clone()).collect(),
            routers: facts.routers,
        }
    }
}
