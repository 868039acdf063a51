//! The manifest: the whole set of things that one host must have, or must no longer have.
//!
//! Served whole with its revision as ETag. Absence from the manifest never deletes: what must go
//! stands in it as `absent` until the host reported it gone.

use basalt_model::{
    Epoch, Generation, HostId, ImageId, MIB, MigrationId, Name, NetworkId, PortId, SecurityGroupId, VolumeId,
    images::ImageFormat,
    migrations::{MigrationMode, StallPolicy},
    networks::Segment,
    routers::{RouterWiring, StaticRoute},
    security_groups::{Direction, PortRange, Protocol},
    vms::{Firmware, Operation, Power},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};
use utoipa::ToSchema;
use uuid::Uuid;

/// The version of this format that is written here. An agent refuses a higher one.
pub const FORMAT: u32 = 1;

/// Everything one host must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The host it is for.
    pub host_id: HostId,
    /// Grows with every change; the ETag.
    pub revision: i64,
    /// Ordered by kind and id.
    pub items: Vec<Item>,
}

/// Kinds of items, in the order in which they must be realised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// A security group that ports on the host are in.
    SecurityGroup,
    /// A network's presence on the host: DHCP and flows.
    Network,
    /// An image in the host's cache.
    Image,
    /// A volume in a pool of the host.
    Volume,
    /// A virtual machine.
    Vm,
    /// A router's presence on the host: active or standing by.
    Router,
}

impl ItemKind {
    /// The word in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SecurityGroup => "security_group",
            Self::Network => "network",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Vm => "vm",
            Self::Router => "router",
        }
    }

    /// Reads [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::SecurityGroup, Self::Network, Self::Image, Self::Volume, Self::Vm, Self::Router];
        all.into_iter().find(|k| k.as_str() == text)
    }
}

/// What names an item on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct ItemKey {
    /// Kind.
    pub kind: ItemKind,
    /// The object's id.
    pub id: Uuid,
}

/// One thing that the host must have, or must no longer have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Item {
    /// Kind.
    pub kind: ItemKind,
    /// The object's id.
    pub id: Uuid,
    /// The object's generation this body was made from. The agent refuses an older one.
    pub generation: Generation,
    /// The placement's epoch; for what is not placed a number above the manifest revision at which it entered. The agent refuses an older one.
    pub epoch: Epoch,
    /// What to have.
    pub desired: Desired,
}

impl Item {
    /// What names this item.
    pub fn key(&self) -> ItemKey {
        ItemKey { kind: self.kind, id: self.id }
    }

    /// Whether it must no longer be there.
    pub fn is_absent(&self) -> bool {
        self.desired == Desired::Absent
    }
}

/// What to have of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "as", rename_all = "snake_case")]
pub enum Desired {
    /// Nothing: remove it and report it gone.
    Absent,
    /// A security group.
    SecurityGroup(SecurityGroupBody),
    /// A network.
    Network(NetworkBody),
    /// An image in the cache.
    Image(ImageBody),
    /// A volume.
    Volume(VolumeBody),
    /// A virtual machine.
    Vm(Box<VmBody>),
    /// A router.
    Router(Box<RouterBody>),
}

impl Desired {
    /// The kind of item this can stand in; `None` for absent, which fits all.
    pub fn kind(&self) -> Option<ItemKind> {
        match self {
            Self::Absent => None,
            Self::SecurityGroup(_) => Some(ItemKind::SecurityGroup),
            Self::Network(_) => Some(ItemKind::Network),
            Self::Image(_) => Some(ItemKind::Image),
            Self::Volume(_) => Some(ItemKind::Volume),
            Self::Vm(_) => Some(ItemKind::Vm),
            Self::Router(_) => Some(ItemKind::Router),
        }
    }
}

/// A security group on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroupBody {
    /// For people.
    pub name: Name,
    /// What is admitted.
    pub rules: Vec<RuleBody>,
}

/// A rule of a security group, its names resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleBody {
    /// To the guest, or from it.
    pub direction: Direction,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination ports; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// ICMP type; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// The other end.
    pub remote: RemoteBody,
}

/// The other end of traffic that a rule admits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemoteBody {
    /// Anybody.
    Any,
    /// Addresses of a prefix.
    #[schema(value_type = String)]
    Cidr(IpNet),
    /// Members of a group; the directory says who they are.
    SecurityGroup(SecurityGroupId),
}

/// A network on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkBody {
    /// For people.
    pub name: Name,
    /// How frames travel between hosts.
    pub segment: Segment,
    /// The segment's identifier, unique in the system, 1 to 16777215.
    pub vni: u32,
    /// Address range.
    #[schema(value_type = String, examples("10.10.0.0/24"))]
    pub cidr: Ipv4Net,
    /// IPv6 prefix; guests' addresses in it follow from their MAC addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, examples("fd00:10::/64"))]
    pub cidr6: Option<Ipv6Net>,
    /// The router's address.
    #[schema(value_type = String, format = Ipv4)]
    pub gateway: Ipv4Addr,
    /// The address that DHCP answers from on every host.
    #[schema(value_type = String, format = Ipv4)]
    pub dhcp_server: Ipv4Addr,
    /// Whether to answer DHCP. Reservations come from the VMs of this manifest.
    pub dhcp: bool,
    /// Name servers to tell guests; none: the host's own.
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<Ipv4Addr>,
    /// Largest frame payload in bytes.
    pub mtu: u16,
    /// Security groups of all of its ports, sorted; items of the same manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<SecurityGroupId>,
}

/// An image in a host's cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageBody {
    /// Format of the bytes.
    pub format: ImageFormat,
    /// Their SHA-256.
    pub sha256: String,
    /// Their length.
    pub size_bytes: u64,
}

/// A volume on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeBody {
    /// For people.
    pub name: Name,
    /// The pool it is in.
    pub pool: Name,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// The image under it; absent for a blank volume. The image is an item of the same manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<ImageId>,
    /// Count of times it is to be made anew: an older one on the host is replaced.
    pub incarnation: i64,
    /// The file of the pool that it is, under the name that the file had. Such a volume is never made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_from: Option<String>,
    /// Other hosts see the same files: what goes from this host alone is not removed, and what is missing here is not made
    /// when it was made elsewhere.
    #[serde(default, skip_serializing_if = "Shared::is_no")]
    pub shared: Shared,
}

/// Whether a volume lies in storage that several hosts see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// It is this host's alone.
    #[default]
    No,
    /// Several hosts see it, and it may still have to be made.
    Yes,
    /// Several hosts see it, and it was made: where it is not seen, the storage is not what it should be.
    Made,
}

impl Shared {
    fn is_no(&self) -> bool {
        *self == Self::No
    }
}

/// A virtual machine on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmBody {
    /// Name and guest host name.
    pub name: Name,
    /// Desired power.
    pub power: Power,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Firmware.
    pub firmware: Firmware,
    /// Count of redeploys: an older one on the host is destroyed and made anew.
    pub incarnation: i64,
    /// Disks in order.
    pub disks: Vec<DiskBody>,
    /// Interfaces in order.
    pub nics: Vec<NicBody>,
    /// What the seed says.
    pub seed: SeedBody,
    /// Seconds between the ACPI request and the forced stop.
    pub stop_grace_seconds: u32,
    /// It is started elsewhere when this host is lost: it executes here only under the host's lease.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_lease: bool,
    /// A one-shot verb; carried out at most once for its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Its part in a migration. Only hosts whose facts name a migration address are sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion: Option<MotionBody>,
}

/// What a host has to do in a VM's migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MotionBody {
    /// The VM leaves this host. From the moment it was begun the VM is never started here again while this stands.
    Outgoing(OutgoingBody),
    /// The VM comes to this host: all it needs is made ready, it is neither defined nor started.
    Incoming(IncomingBody),
}

/// A VM that leaves a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutgoingBody {
    /// The migration.
    pub id: MigrationId,
    /// The host that it goes to; its agent shows a certificate of that host.
    pub target: HostId,
    /// Where that host's agent takes migrations in.
    #[schema(value_type = String, examples("10.77.0.2:9446"))]
    pub address: SocketAddr,
    /// Whether the guest goes on meanwhile.
    pub mode: MigrationMode,
    /// Whether its volumes are sent as well; else both hosts see the same ones.
    pub copy_storage: bool,
    /// Whether the target said that it is ready: the source may begin.
    pub begin: bool,
    /// Whether it was taken back: what is under way is stopped, if it can still be.
    pub cancel: bool,
    /// The longest pause that is aimed at, in milliseconds.
    pub max_pause_milliseconds: u32,
    /// What to do when it does not come to an end.
    pub on_stall: StallPolicy,
    /// Most bytes that are sent in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_second: Option<u64>,
}

/// A VM that comes to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IncomingBody {
    /// The migration.
    pub id: MigrationId,
    /// The host that it comes from: only that host's agent is let in for it.
    pub source: HostId,
    /// Whether the guest goes on meanwhile.
    pub mode: MigrationMode,
    /// Whether its volumes are sent as well.
    pub copy_storage: bool,
    /// Whether nothing may come in any more: what came in part goes, what came whole stays, and the host says which.
    pub close: bool,
}

impl MotionBody {
    /// The migration.
    pub fn id(&self) -> MigrationId {
        match self {
            Self::Outgoing(body) => body.id,
            Self::Incoming(body) => body.id,
        }
    }
}

/// A disk of a VM on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskBody {
    /// The disk's name in the VM.
    pub name: Name,
    /// What is behind it; an item of the same manifest.
    pub source: DiskBodySource,
    /// Position in the boot order, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<u32>,
}

/// What is behind a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskBodySource {
    /// A volume.
    Volume(VolumeId),
    /// A read-only optical disc: an image of format `iso`.
    Iso(ImageId),
}

/// An interface of a VM on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NicBody {
    /// The port.
    pub port_id: PortId,
    /// The network; an item of the same manifest.
    pub network_id: NetworkId,
    /// MAC address, lower case with colons.
    pub mac: String,
    /// Its address; anything else from this port is dropped.
    #[schema(value_type = String, format = Ipv4)]
    pub address: Ipv4Addr,
    /// Security groups of its VM and its own, sorted; items of the same manifest. Its network's hold besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<SecurityGroupId>,
}

/// A router on one of its hosts. Its networks are items of the same manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterBody {
    /// For people.
    pub name: Name,
    /// Interfaces, addresses and where they lead.
    pub wiring: RouterWiring,
    /// Whether what leaves by the uplink gets the router's address there.
    pub nat: bool,
    /// Static routes.
    pub routes: Vec<StaticRoute>,
    /// What names it between its two hosts, 1 to 255 (VRRP's virtual router id).
    pub vrid: u8,
    /// Whether this host is active when both begin at once.
    pub preferred: bool,
    /// Where the other host's tunnels end; without another host this one is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub peer: Option<Ipv4Addr>,
}

/// What the NoCloud seed says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SeedBody {
    /// The user's user-data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Public SSH keys.
    #[serde(default)]
    pub ssh_authorized_keys: Vec<String>,
}

/// Why a manifest was refused whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON of this shape.
    #[error("the manifest cannot be read: {0}")]
    Unreadable(String),
    /// It was written in a newer format.
    #[error("the manifest has format {0}, this agent reads up to {FORMAT}; update the agent")]
    Format(u32),
    /// It is for another host.
    #[error("the manifest is for host {0}")]
    OtherHost(HostId),
    /// An item contradicts itself or another.
    #[error("item {kind:?} {id}: {why}")]
    Item {
        /// Kind of the item.
        kind: ItemKind,
        /// Its id.
        id: Uuid,
        /// What is wrong.
        why: String,
    },
}

impl Manifest {
    /// Reads and checks a manifest for a host; it is taken whole or not at all.
    pub fn read(bytes: &[u8], host: HostId) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let unreadable = |e: serde_json::Error| ManifestError::Unreadable(e.to_string());
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        if head.format > FORMAT {
            return Err(ManifestError::Format(head.format));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(unreadable)?;
        manifest.check(host)?;
        Ok(manifest)
    }

    /// Checks what the shape cannot say.
    pub fn check(&self, host: HostId) -> Result<(), ManifestError> {
        if self.host_id != host {
            return Err(ManifestError::OtherHost(self.host_id));
        }
        let mut seen = BTreeSet::new();
        for item in &self.items {
            let wrong = |why: String| ManifestError::Item { kind: item.kind, id: item.id, why };
            if !seen.insert(item.key()) {
                return Err(wrong("it stands twice".into()));
            }
            if item.desired.kind().is_some_and(|k| k != item.kind) {
                return Err(wrong("its body is of another kind".into()));
            }
            match &item.desired {
                Desired::Vm(body) => body.check().map_err(wrong)?,
                Desired::Router(body) => body.check().map_err(wrong)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The item with a key.
    pub fn get(&self, kind: ItemKind, id: Uuid) -> Option<&Item> {
        self.items.iter().find(|i| i.kind == kind && i.id == id)
    }
}

impl VmBody {
    fn check(&self) -> Result<(), String> {
        if self.cpus == 0 || self.memory_bytes < MIB {
            return Err(format!("{} CPUs and {} bytes of memory boot nothing", self.cpus, self.memory_bytes));
        }
        match self.nics.iter().find(|n| !is_mac(&n.mac)) {
            Some(nic) => Err(format!("{:?} is no MAC address", nic.mac)),
            None => Ok(()),
        }
    }
}

impl RouterBody {
    fn check(&self) -> Result<(), String> {
        if self.vrid == 0 {
            return Err("0 names no router between two hosts".into());
        }
        match self.wiring.presences().find(|(_, mac, _)| !is_mac(mac)) {
            Some((_, mac, _)) => Err(format!("{mac:?} is no MAC address")),
            None => Ok(()),
        }
    }
}

/// Whether a text is a unicast MAC address in lower case with colons.
pub fn is_mac(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        && u8::from_str_radix(parts[0], 16).is_ok_and(|first| first & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostId {
        HostId(Uuid::from_u128(7))
    }

    fn manifest(items: serde_json::Value) -> Vec<u8> {
        serde_json::to_vec(
            &serde_json::json!({"format": 1, "host_id": host(), "revision": 3, "items": items}),
        )
        .unwrap()
    }

    #[test]
    fn an_absent_item_needs_no_body_and_round_trips() {
        let id = Uuid::from_u128(1);
        let bytes = manifest(
            serde_json::json!([{"kind": "vm", "id": id, "generation": 1, "epoch": 2, "desired": {"as": "absent"}}]),
        );
        let m = Manifest::read(&bytes, host()).unwrap();
        assert!(m.get(ItemKind::Vm, id).unwrap().is_absent());
        assert_eq!(Manifest::read(&serde_json::to_vec(&m).unwrap(), host()).unwrap(), m);
    }

    #[test]
    fn an_unreadable_manifest_is_refused_whole() {
        let id = Uuid::from_u128(1);
        let absent = serde_json::json!({"kind": "vm", "id": id, "generation": 1, "epoch": 2, "desired": {"as": "absent"}});
        let bad = [
            (b"{".to_vec(), "cannot be read"),
            (br#"{"format": 2, "anything": 1}"#.to_vec(), "format 2"),
            (
                manifest(
                    serde_json::json!([{"kind": "toaster", "id": id, "generation": 1, "epoch": 0, "desired": {"as": "absent"}}]),
                ),
                "toaster",
            ),
            (manifest(serde_json::json!([absent, absent])), "twice"),
            (
                manifest(serde_json::json!([{"kind": "vm", "id": id, "generation": 1, "epoch": 0,
                "desired": {"as": "image", "format": "raw", "sha256": "", "size_bytes": 1}}])),
                "another kind",
            ),
        ];
        for (bytes, want) in bad {
            let e = Manifest::read(&bytes, host()).unwrap_err().to_string();
            assert!(e.contains(want), "{want}: {e}");
        }
        assert!(matches!(
            Manifest::read(&manifest(serde_json::json!([])), HostId(id)),
            Err(ManifestError::OtherHost(_))
        ));
    }

    #[test]
    fn a_mac_is_unicast_lower_case() {
        assert!(is_mac("02:00:00:aa:bb:cc"));
        for bad in ["03:00:00:aa:bb:cc", "02:00:00:AA:bb:cc", "02:00:00:aa:bb", "0:00:00:aa:bb:cc1", ""] {
            assert!(!is_mac(bad), "{bad}");
        }
    }
}
