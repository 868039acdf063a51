//! What is to be done on a host. Every action is idempotent: done twice it leaves what once leaves.

use super::{RouterDefinition, SeedKey, VolumeKey};
use basalt_model::{
    Epoch, Generation, HostId, ImageId, MigrationId, Name, NetworkId, PortId, RouterId, SecurityGroupId,
    TaskId, VmId, VolumeId,
    images::ImageFormat,
    migrations::{MigrationMode, StallPolicy},
    networks::Segment,
    vms::Firmware,
};
use basalt_wire::agent::{
    directory::{DirectoryGroup, Peer},
    manifest::RuleBody,
};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// One idempotent deed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The integration bridge is there, with its fail mode and protocols.
    EnsureSwitch,
    /// The whole set of flows of the integration bridge is this one.
    EnsureFlows(FlowSet),
    /// DHCP answers as said, on a port of the integration bridge.
    EnsureNetwork(NetworkDefinition),
    /// The host's name server knows the guests of a network. Networks without one have no such action.
    EnsureNames(NamesDefinition),
    /// Nothing of a network is left.
    RemoveNetwork(NetworkId),
    /// The image is in the cache, verified. Resumes where it stopped.
    EnsureImage(ImageDefinition),
    /// Nothing of the image is in the cache, nor of a download that did not end.
    RemoveImage(ImageId),
    /// The volume is there in its size. A smaller one that nobody uses is grown; bytes are never lost.
    EnsureVolume(VolumeDefinition),
    /// A file of the pool is there under the volume's name too. Whoever has it open or names it by its old one
    /// notices nothing.
    AdoptVolume(AdoptionDefinition),
    /// The adopted file no longer has its old name. A file of that name that is another one stays.
    DropName(AdoptionDefinition),
    /// Nothing of that incarnation of the volume is left.
    RemoveVolume(VolumeKey),
    /// The seed is there.
    WriteSeed(SeedDefinition),
    /// The seed is gone.
    RemoveSeed(SeedKey),
    /// The stored definition is this one; what runs is left as it is.
    DefineVm(Box<VmDefinition>),
    /// It runs as defined; `paused`: it is in memory and does not execute.
    StartVm {
        /// The VM.
        id: VmId,
        /// Leave it paused.
        paused: bool,
    },
    /// The guest is asked to shut down (ACPI).
    ShutdownVm(VmId),
    /// It does not run; the guest is not asked.
    DestroyVm(VmId),
    /// It does not execute.
    PauseVm(VmId),
    /// It executes.
    ResumeVm(VmId),
    /// The guest is asked to restart (ACPI). One-shot: the ledger says "started" first.
    RebootVm {
        /// The VM.
        id: VmId,
        /// The stamp.
        operation: TaskId,
    },
    /// The reset line is pulled. One-shot: the ledger says "started" first.
    ResetVm {
        /// The VM.
        id: VmId,
        /// The stamp.
        operation: TaskId,
    },
    /// The stored definition is gone, with what the hypervisor keeps beside it (NVRAM, saved state).
    UndefineVm(VmId),
    /// The device of a running VM is on the integration bridge, with its marks.
    EnsurePort(PortDefinition),
    /// The bridge no longer names the port.
    RemovePort(PortId),
    /// A router stands as said: active, or ready to become it.
    EnsureRouter(Box<RouterDefinition>),
    /// Nothing of a router is left.
    RemoveRouter(RouterId),
    /// The VM is sent to another host; takes as long as that takes. Done: it was handed over whole and does not execute
    /// here any more. Refused: it did not come about, and the guest is whole here. Once: the ledger says "begun" first.
    SendVm(Box<SendDefinition>),
    /// What is being sent is taken back, if it still can be. Done: nothing is being sent.
    AbortSend {
        /// The VM.
        id: VmId,
        /// Its migration.
        migration_id: MigrationId,
    },
    /// The VM is let in from its source, and from nowhere else.
    OpenDoor(DoorDefinition),
    /// Nothing comes in for the VM any more. The ledger says so first.
    ShutDoor {
        /// The VM.
        id: VmId,
        /// Its migration.
        migration_id: MigrationId,
    },
    /// What came in of a VM in part is gone. What came whole stays.
    DiscardVm(VmId),
}

/// A VM that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendDefinition {
    /// The VM.
    pub id: VmId,
    /// Its migration.
    pub migration_id: MigrationId,
    /// The host that it goes to.
    pub target: HostId,
    /// Where that host's agent takes it in.
    pub address: SocketAddr,
    /// Whether the guest goes on meanwhile.
    pub mode: MigrationMode,
    /// Whether its volumes are sent as well.
    pub copy_storage: bool,
    /// The longest pause that is aimed at, in milliseconds.
    pub max_pause_milliseconds: u32,
    /// What to do when it does not come to an end.
    pub on_stall: StallPolicy,
    /// Most bytes that are sent in a second.
    pub max_bytes_per_second: Option<u64>,
    /// What it is here.
    pub vm: VmDefinition,
}

/// A door for a VM that comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorDefinition {
    /// The VM.
    pub id: VmId,
    /// Its migration.
    pub migration_id: MigrationId,
    /// The host that it comes from.
    pub source: HostId,
    /// Whether the guest goes on meanwhile.
    pub mode: MigrationMode,
    /// Whether its volumes come in as well.
    pub copy_storage: bool,
    /// Whether it is to execute as soon as the source let go of it.
    pub resume: bool,
    /// What it is to be here.
    pub vm: VmDefinition,
}

/// What an action works on: the unit of back-off, of concurrency and of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// The integration bridge.
    Switch,
    /// Its flows.
    Flows,
    /// A network.
    Network(NetworkId),
    /// What a network's name server knows.
    Names(NetworkId),
    /// An image.
    Image(ImageId),
    /// A volume, in all its incarnations.
    Volume(VolumeId),
    /// A VM and its seeds.
    Vm(VmId),
    /// A port.
    Port(PortId),
    /// A router with its ports.
    Router(RouterId),
    /// A migration: its door, or its taking back. The sending itself works on the VM.
    Motion(MigrationId),
}

impl Action {
    /// What it works on.
    pub fn resource(&self) -> Resource {
        match self {
            Self::EnsureSwitch => Resource::Switch,
            Self::EnsureFlows(_) => Resource::Flows,
            Self::EnsureNetwork(n) => Resource::Network(n.id),
            Self::EnsureNames(n) => Resource::Names(n.id),
            Self::RemoveNetwork(id) => Resource::Network(*id),
            Self::EnsureImage(i) => Resource::Image(i.id),
            Self::RemoveImage(id) => Resource::Image(*id),
            Self::EnsureVolume(v) => Resource::Volume(v.key.id),
            Self::AdoptVolume(a) | Self::DropName(a) => Resource::Volume(a.key.id),
            Self::RemoveVolume(key) => Resource::Volume(key.id),
            Self::WriteSeed(s) => Resource::Vm(s.vm_id),
            Self::RemoveSeed(key) => Resource::Vm(key.vm_id),
            Self::DefineVm(d) => Resource::Vm(d.id),
            Self::StartVm { id, .. }
            | Self::ShutdownVm(id)
            | Self::DestroyVm(id)
            | Self::PauseVm(id)
            | Self::ResumeVm(id)
            | Self::RebootVm { id, .. }
            | Self::ResetVm { id, .. }
            | Self::UndefineVm(id) => Resource::Vm(*id),
            Self::EnsurePort(p) => Resource::Port(p.port_id),
            Self::RemovePort(id) => Resource::Port(*id),
            Self::EnsureRouter(r) => Resource::Router(r.id),
            Self::RemoveRouter(id) => Resource::Router(*id),
            Self::SendVm(send) => Resource::Vm(send.id),
            Self::DiscardVm(id) => Resource::Vm(*id),
            Self::AbortSend { migration_id, .. } | Self::ShutDoor { migration_id, .. } => {
                Resource::Motion(*migration_id)
            }
            Self::OpenDoor(door) => Resource::Motion(door.migration_id),
        }
    }

    /// What is going on while it is carried out, for people.
    pub fn stage(&self) -> &'static str {
        match self {
            Self::EnsureSwitch => "making the bridge",
            Self::EnsureFlows(_) => "setting flows",
            Self::EnsureNetwork(_) => "setting up the network",
            Self::EnsureNames(_) => "naming the network's guests",
            Self::RemoveNetwork(_) => "removing the network",
            Self::EnsureImage(_) => "downloading image",
            Self::RemoveImage(_) => "removing the image",
            Self::EnsureVolume(_) => "making the volume",
            Self::AdoptVolume(_) => "taking over the file",
            Self::DropName(_) => "dropping the file's old name",
            Self::RemoveVolume(_) => "removing the volume",
            Self::WriteSeed(_) => "writing the seed",
            Self::RemoveSeed(_) => "removing the seed",
            Self::DefineVm(_) => "defining",
            Self::StartVm { .. } => "starting",
            Self::ShutdownVm(_) => "shutting down",
            Self::DestroyVm(_) => "forcing off",
            Self::PauseVm(_) => "pausing",
            Self::ResumeVm(_) => "resuming",
            Self::RebootVm { .. } => "rebooting",
            Self::ResetVm { .. } => "resetting",
            Self::UndefineVm(_) => "removing the definition",
            Self::EnsurePort(_) => "attaching the port",
            Self::RemovePort(_) => "removing the port",
            Self::EnsureRouter(_) => "setting up the router",
            Self::RemoveRouter(_) => "removing the router",
            Self::SendVm(_) => "migrating",
            Self::AbortSend { .. } => "taking the migration back",
            Self::OpenDoor(_) => "opening the door",
            Self::ShutDoor { .. } => "closing the door",
            Self::DiscardVm(_) => "letting go of what came in part",
        }
    }
}

/// A network as it is to be set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkDefinition {
    /// The network.
    pub id: NetworkId,
    /// How frames travel between hosts.
    pub segment: Segment,
    /// The segment's identifier.
    pub vni: u32,
    /// Address range.
    pub cidr: Ipv4Net,
    /// The router's address.
    pub gateway: Ipv4Addr,
    /// The address that DHCP answers from.
    pub dhcp_server: Ipv4Addr,
    /// Whether to answer DHCP.
    pub dhcp: bool,
    /// Its IPv6 prefix.
    pub cidr6: Option<Ipv6Net>,
    /// Name servers to tell guests.
    pub dns: Vec<Ipv4Addr>,
    /// Largest frame payload in bytes.
    pub mtu: u16,
    /// Who gets which address, by port id.
    pub reservations: Vec<Reservation>,
    /// Whether this host's name server is the one that guests are told: then `dns` is empty.
    pub names: bool,
    /// Changes whenever anything above does. Keep it where [`super::NetworkSeen::hash`] can read it back.
    #[serde(skip)]
    pub hash: String,
}

/// Who gets which address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Reservation {
    /// The port.
    pub port_id: PortId,
    /// Its MAC address.
    pub mac: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// The guest's host name.
    pub hostname: Name,
}

/// What the name server of a network knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamesDefinition {
    /// The network.
    pub id: NetworkId,
    /// Its guests, here and on other hosts, sorted.
    pub names: Vec<KnownName>,
    /// Changes whenever anything above does. Keep it where [`super::NetworkSeen::names`] can read it back.
    #[serde(skip)]
    pub hash: String,
}

/// Who has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KnownName {
    /// The guest's host name.
    pub hostname: Name,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
}

/// An image as it is to be cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDefinition {
    /// The image.
    pub id: ImageId,
    /// Format of the bytes.
    pub format: ImageFormat,
    /// Their SHA-256; other bytes are thrown away.
    pub sha256: String,
    /// Their length.
    pub size_bytes: u64,
}

/// A volume as it is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDefinition {
    /// What names it.
    pub key: VolumeKey,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// The cached image under it.
    pub image: Option<ImageDefinition>,
}

/// A file of a pool that becomes a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptionDefinition {
    /// What names the volume.
    pub key: VolumeKey,
    /// The name that the file had.
    pub file: String,
}

/// What a VM's seed says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeedDefinition {
    /// The VM.
    pub vm_id: VmId,
    /// With the id it makes cloud-init's instance id, so that a redeployed guest sets itself up anew.
    pub incarnation: i64,
    /// Guest host name.
    pub hostname: Name,
    /// The user's user-data.
    pub user_data: Option<String>,
    /// Public SSH keys.
    pub ssh_authorized_keys: Vec<String>,
    /// Interfaces in order.
    pub nics: Vec<SeedNic>,
    /// Changes whenever anything above does; part of the seed's name on the host.
    #[serde(skip)]
    pub hash: String,
}

/// An interface as the guest is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeedNic {
    /// MAC address.
    pub mac: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Prefix length of the network.
    pub prefix_len: u8,
    /// Its IPv6 address, in a /64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// The router.
    pub gateway: Ipv4Addr,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Largest frame payload in bytes.
    pub mtu: u16,
    /// Whether DHCP tells the guest all of this.
    pub dhcp: bool,
}

impl SeedDefinition {
    /// What names it on the host.
    pub fn key(&self) -> SeedKey {
        SeedKey { vm_id: self.vm_id, hash: self.hash.clone() }
    }
}

/// A VM as it is to be defined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmDefinition {
    /// The VM; also its id on the hypervisor.
    pub id: VmId,
    /// Name and guest host name. Not unique on a host: projects share hosts.
    pub name: Name,
    /// Goes into the stamp.
    #[serde(skip)]
    pub generation: Generation,
    /// Goes into the stamp.
    #[serde(skip)]
    pub epoch: Epoch,
    /// Goes into the stamp.
    pub incarnation: i64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Firmware.
    pub firmware: Firmware,
    /// Disks in order.
    pub disks: Vec<DiskDefinition>,
    /// Interfaces in order.
    pub nics: Vec<NicDefinition>,
    /// The seed, last of the disks and never booted from.
    #[serde(skip)]
    pub seed_hash: String,
    /// Changes whenever anything above does that the guest would notice (the seed has its own hash).
    #[serde(skip)]
    pub hash: String,
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskDefinition {
    /// The disk's name in the VM.
    pub name: Name,
    /// What is behind it.
    pub source: DiskSourceDefinition,
    /// Position in the boot order, from 1; each stands once, disks that do not boot have none.
    pub boot_order: Option<u32>,
}

/// What is behind a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSourceDefinition {
    /// A volume in a pool, writable.
    Volume {
        /// The volume.
        id: VolumeId,
        /// Its incarnation.
        incarnation: i64,
        /// Its pool.
        pool: Name,
    },
    /// A cached image as optical disc, read-only.
    Iso(ImageId),
}

/// An interface of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NicDefinition {
    /// The port: the interface id that the switch reads back.
    pub port_id: PortId,
    /// The network.
    pub network_id: NetworkId,
    /// MAC address.
    pub mac: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Largest frame payload in bytes.
    pub mtu: u16,
}

/// A port that is to be put back on the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDefinition {
    /// The port.
    pub port_id: PortId,
    /// The running VM whose device it is.
    pub vm_id: VmId,
    /// MAC address.
    pub mac: String,
}

/// The whole set of flows of the integration bridge, as what they mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowSet {
    /// Networks, by id.
    pub networks: Vec<FlowNetwork>,
    /// Ports that are on the bridge now, by id. All others of the bridge may say nothing.
    pub ports: Vec<FlowPort>,
    /// Security groups that the ports are in, by id. What a group says that is not here is not known.
    pub groups: Vec<FlowGroup>,
    /// Who is in groups that rules name.
    pub members: Vec<DirectoryGroup>,
    /// Routers' ports that are on the bridge now, by the name of the device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routers: Vec<FlowRouter>,
    /// Changes whenever anything above does. Keep it where [`super::SwitchSeen`] can read it back.
    #[serde(skip)]
    pub hash: String,
}

/// A security group in the flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowGroup {
    /// The group.
    pub id: SecurityGroupId,
    /// What is admitted.
    pub rules: Vec<RuleBody>,
}

/// A network in the flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowNetwork {
    /// The network.
    pub id: NetworkId,
    /// How frames travel between hosts.
    pub segment: Segment,
    /// The segment's identifier; the register that keeps networks apart.
    pub vni: u32,
    /// Address range.
    pub cidr: Ipv4Net,
    /// The router's address.
    pub gateway: Ipv4Addr,
    /// The address that DHCP answers from; its port on the bridge belongs to the network.
    pub dhcp_server: Ipv4Addr,
    /// Its IPv6 prefix.
    pub cidr6: Option<Ipv6Net>,
    /// Whether DHCP answers.
    pub dhcp: bool,
    /// Whether names are answered.
    pub names: bool,
    /// Other hosts on which it has ports.
    pub peers: Vec<Peer>,
}

/// A guest's port in the flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowPort {
    /// The port.
    pub port_id: PortId,
    /// Its network.
    pub network_id: NetworkId,
    /// The only MAC address it may send from.
    pub mac: String,
    /// The only address it may send from.
    pub address: Ipv4Addr,
    /// The same for IPv6, beside the one that it gives itself on its link.
    pub address6: Option<Ipv6Addr>,
    /// Its security groups: its network's, its VM's and its own, sorted.
    pub security_groups: Vec<SecurityGroupId>,
}

/// A router's port in the flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowRouter {
    /// What its device is called.
    pub name: String,
    /// Its network.
    pub network_id: NetworkId,
    /// The only MAC address it may send from.
    pub mac: String,
    /// Addresses that are its own there.
    pub addresses: Vec<Ipv4Addr>,
}
