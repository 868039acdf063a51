//! Adoption: what a host reports of things that no manifest names, and what is declared when they are taken over.

use crate::{
    Epoch, ImageId, Name, NetworkId, PortId, VmId, VolumeId,
    vms::{Firmware, ObservedPower, VmSpec},
    volumes::VolumeSpec,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};
use utoipa::ToSchema;
use uuid::Uuid;

/// A virtual machine that no manifest names, as far as adopting it needs to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct ForeignVm {
    /// What it does now.
    pub power: ObservedPower,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Firmware.
    pub firmware: Firmware,
    /// Disks in order.
    #[serde(default)]
    pub disks: Vec<ForeignDisk>,
    /// Interfaces in order.
    #[serde(default)]
    pub nics: Vec<ForeignNic>,
    /// What it has and no VM of Basalt can have, in words.
    #[serde(default)]
    pub unsupported: Vec<String>,
    /// What Basalt wrote into its definition, if it was Basalt's once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<ForeignMarks>,
}

/// What Basalt wrote into a definition when it was Basalt's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct ForeignMarks {
    /// The placement it was written for.
    pub epoch: Epoch,
    /// The count of redeploys it was written for.
    pub incarnation: i64,
}

/// A disk of a virtual machine that no manifest names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct ForeignDisk {
    /// Its name in the VM, if it was Basalt's once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Where it is on the host.
    pub path: String,
    /// How the VM reads it: `qcow2`, `raw` …
    pub format: String,
    /// Position in the boot order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<u32>,
    /// The file in a pool; absent when it lies in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<ForeignVolume>,
    /// The cached image that it is, when it is a disc of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso_image_id: Option<ImageId>,
}

/// A file in a pool that no manifest names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct ForeignVolume {
    /// The pool.
    pub pool: Name,
    /// Its name in the pool.
    pub file: String,
    /// `qcow2`, or `unknown`.
    pub format: String,
    /// Virtual size in bytes; of an unknown format the file's length.
    pub size_bytes: u64,
    /// The volume that its name says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<VolumeId>,
    /// Count of times that volume was made anew.
    #[serde(default)]
    pub incarnation: i64,
    /// The cached image it lies over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<ImageId>,
    /// Another file that it needs and that is no cached image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refers_to: Option<String>,
    /// Names of the VMs on the host that have it.
    #[serde(default)]
    pub users: BTreeSet<String>,
}

/// An interface of a virtual machine that no manifest names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct ForeignNic {
    /// MAC address, lower case with colons.
    pub mac: String,
    /// The port, if it was Basalt's once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_id: Option<PortId>,
    /// The network, if it was Basalt's once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_id: Option<NetworkId>,
    /// The address, if it was Basalt's once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub address: Option<Ipv4Addr>,
}

/// What judging an adoption asks the truth for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Ids of the VM and of the volumes that the thing carries.
    pub ids: BTreeSet<Uuid>,
    /// Networks that its interfaces were on.
    pub networks: BTreeSet<NetworkId>,
    /// The network that the request names.
    pub network: Option<Name>,
    /// Images under its disks, or in its drives.
    pub images: BTreeSet<ImageId>,
}

/// What the truth answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Ids that are declared, or stand in a manifest.
    pub ids: BTreeSet<Uuid>,
    /// Networks of the project.
    pub networks: BTreeMap<NetworkId, Name>,
    /// Images that are ready, with their name where the project may use them.
    pub images: BTreeMap<ImageId, Option<Name>>,
    /// Files of the host, with their pool, that a volume was adopted from.
    pub files: BTreeSet<(Name, String)>,
    /// Another host that reports one of the ids as foreign.
    pub elsewhere: Option<Name>,
}

/// A virtual machine that is taken over, as it is to be declared.
#[derive(Clone, Debug, PartialEq)]
pub struct AdoptedVm {
    /// Its id on the host, and from now on.
    pub id: VmId,
    /// Its name.
    pub name: Name,
    /// What is wanted: what it is.
    pub spec: VmSpec,
    /// The count of redeploys that its definition says.
    pub incarnation: i64,
    /// The placement that its definition says, else the first.
    pub epoch: Epoch,
    /// Disks in order.
    pub disks: Vec<AdoptedDisk>,
    /// Interfaces in order.
    pub nics: Vec<AdoptedNic>,
}

/// A disk of a virtual machine that is taken over.
#[derive(Clone, Debug, PartialEq)]
pub struct AdoptedDisk {
    /// Its name in the VM.
    pub name: Name,
    /// Position in the boot order.
    pub boot_order: Option<u32>,
    /// What is behind it.
    pub source: AdoptedSource,
}

/// What is behind a disk that is taken over.
#[derive(Clone, Debug, PartialEq)]
pub enum AdoptedSource {
    /// A file in a pool, which becomes a volume.
    Volume(AdoptedVolume),
    /// A disc of an image.
    Iso(ImageId),
}

/// A file in a pool that becomes a volume, as it is to be declared.
#[derive(Clone, Debug, PartialEq)]
pub struct AdoptedVolume {
    /// The id that its name says, if it was Basalt's once.
    pub id: Option<VolumeId>,
    /// Its name.
    pub name: Name,
    /// What is wanted: what it is.
    pub spec: VolumeSpec,
    /// The pool it lies in.
    pub pool: Name,
    /// The image under it.
    pub image_id: Option<ImageId>,
    /// The count that its name says.
    pub incarnation: i64,
}

/// An interface of a virtual machine that is taken over. What the network gave to another is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedNic {
    /// The network.
    pub network_id: NetworkId,
    /// Its name.
    pub network: Name,
    /// The port that it was.
    pub port_id: Option<PortId>,
    /// Its MAC address.
    pub mac: Option<String>,
    /// The address that it had.
    pub address: Option<Ipv4Addr>,
}
