//! Virtual machines: what a user wants of one, and what was seen of it.
//!
//! Desired power, observed power and the transition between them are three things:
//! [`Power`] is wanted, [`ObservedPower`] is seen, and the transition is derived where it is shown.

use crate::{
    CapabilityReason, DateTime, GIB, HostId, ImageId, Labels, MIB, Name, NetworkId, PortId, SecurityGroupId,
    TaskId, VolumeId,
    migrations::Motion,
    quotas::Demand,
    security_groups,
    validate::{FieldError, Validate, multiple_of, within},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};
use utoipa::ToSchema;

/// The power state that a user wants.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// The guest runs; it is started again whenever it stopped.
    #[default]
    Running,
    /// The guest is shut down: ACPI first, force after the grace.
    Stopped,
    /// The guest is in memory and does not execute.
    Paused,
}

/// The power state that was seen on the host.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ObservedPower {
    /// It executes.
    Running,
    /// It is defined and does not run.
    Stopped,
    /// It is in memory and does not execute.
    Paused,
    /// It is on its way down.
    Stopping,
    /// QEMU died or the guest crashed.
    Crashed,
    /// Nothing of it is on the host.
    Absent,
    /// Nobody can say now.
    #[default]
    Unknown,
}

/// What a user wants of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Desired power state.
    #[serde(default)]
    pub power: Power,
    /// Virtual CPUs, 1 to 256.
    pub cpus: u32,
    /// Guest memory in bytes, a multiple of 1 MiB, 64 MiB to 4 TiB.
    pub memory_bytes: u64,
    /// Disks in order; the first bootable one boots unless `boot_order` says otherwise.
    pub disks: Vec<DiskSpec>,
    /// Network interfaces in order.
    #[serde(default)]
    pub nics: Vec<NicSpec>,
    /// Security groups of the project that hold for all of its interfaces; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<Name>,
    /// What the guest is told at boot through a NoCloud seed.
    #[serde(default)]
    pub cloud_init: CloudInit,
    /// Firmware; `bios` unless said otherwise.
    #[serde(default)]
    pub firmware: Firmware,
    /// Where it may run.
    #[serde(default)]
    pub placement: PlacementRules,
    /// What becomes of it when its host is lost.
    #[serde(default, skip_serializing_if = "HaSpec::is_default")]
    pub ha: HaSpec,
    /// While true, deletion and redeploy are refused.
    #[serde(default)]
    pub protected: bool,
    /// Seconds between the ACPI request and the forced stop, 0 to 3600.
    #[serde(default = "default_stop_grace")]
    pub stop_grace_seconds: u32,
}

fn default_stop_grace() -> u32 {
    60
}

/// What becomes of a VM when its host is lost.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(deny_unknown_fields)]
pub struct HaSpec {
    /// Whether it is started elsewhere.
    #[serde(default)]
    pub policy: HaPolicy,
}

impl HaSpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is started elsewhere when its host is proven dead.
    pub fn restarts(&self) -> bool {
        self.policy == HaPolicy::Restart
    }
}

/// Whether a VM is started elsewhere when its host is lost.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HaPolicy {
    /// It waits for its host, and runs on there when the host has only lost the gateway.
    #[default]
    None,
    /// It is started on another host once it is proven that it executes on the old one no more. All of its volumes must be
    /// in pools that several hosts see, and it runs only while its host holds a lease: a host that is cut off stops it.
    Restart,
}

/// Firmware of the guest.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF; only on hosts that have it.
    Uefi,
}

/// One disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Unique in the VM.
    pub name: Name,
    /// What the disk begins with.
    pub source: DiskSource,
    /// Size in bytes, a multiple of 1 MiB; default: the image's own size. Required for `blank`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Pool to keep it in; default: the host's pool with the most room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// Position in the boot order, from 1; disks without one follow in list order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<u32>,
}

/// What a disk begins with. Images and volumes are named as in the VM's project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DiskSource {
    /// A new volume over an image.
    Image {
        /// The image's name.
        image: Name,
    },
    /// A new, empty volume.
    Blank {},
    /// A volume that exists already.
    Volume {
        /// The volume's name.
        volume: Name,
    },
    /// A read-only optical disc.
    Iso {
        /// The image's name; its format must be `iso`.
        image: Name,
    },
}

/// One network interface of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    /// The network's name in the VM's project.
    pub network: Name,
    /// A wanted address inside the network; default: the next free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub address: Option<Ipv4Addr>,
    /// Security groups of the project that hold for this interface besides its VM's and its network's; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<Name>,
}

/// What the guest is told at boot (cloud-init's NoCloud data source).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloudInit {
    /// User-data as cloud-init reads it, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Public SSH keys of the default user, at most 32.
    #[serde(default)]
    pub ssh_authorized_keys: Vec<String>,
}

/// Where a VM may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlacementRules {
    /// Only this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// Only hosts that carry all of these labels.
    #[serde(default)]
    pub host_labels: Labels,
    /// How to choose among hosts that fit.
    #[serde(default)]
    pub strategy: PlacementStrategy,
    /// Only on hosts where VMs that these rules mean are placed; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinity: Vec<AffinityRule>,
    /// Not on hosts where VMs that these rules mean are placed; at most 8. A required rule also keeps VMs that it means
    /// away from this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anti_affinity: Vec<AffinityRule>,
}

/// Which VMs a VM should share its host with, or should not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AffinityRule {
    /// The VMs of the same project that carry all of these labels; at least one.
    pub vm_labels: Labels,
    /// Whether a host that breaks the rule is left out. Otherwise it is only chosen later than the others.
    #[serde(default = "yes")]
    pub required: bool,
}

fn yes() -> bool {
    true
}

/// Most rules of a kind on one VM.
const MAX_AFFINITY_RULES: usize = 8;

impl PlacementRules {
    /// What VMs must be on the host already.
    pub fn required_affinity(&self) -> impl Iterator<Item = &Labels> {
        self.affinity.iter().filter(|r| r.required).map(|r| &r.vm_labels)
    }

    /// What VMs must not be on the host.
    pub fn required_anti_affinity(&self) -> impl Iterator<Item = &Labels> {
        self.anti_affinity.iter().filter(|r| r.required).map(|r| &r.vm_labels)
    }

    /// Whether other VMs matter to where this one goes.
    pub fn looks_at_vms(&self) -> bool {
        !self.affinity.is_empty() || !self.anti_affinity.is_empty()
    }
}

impl Validate for PlacementRules {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        self.host_labels.validate(&format!("{path}.host_labels"), errors);
        for (field, rules) in [("affinity", &self.affinity), ("anti_affinity", &self.anti_affinity)] {
            if rules.len() > MAX_AFFINITY_RULES {
                errors.push(FieldError::new(
                    format!("{path}.{field}"),
                    "too_many",
                    format!("{} rules; a VM has at most {MAX_AFFINITY_RULES}", rules.len()),
                    "remove some rules, or give the VMs that are meant a label in common",
                ));
            }
            for (i, rule) in rules.iter().enumerate() {
                let at = format!("{path}.{field}[{i}].vm_labels");
                if rule.vm_labels.0.is_empty() {
                    errors.push(FieldError::new(
                        at.clone(),
                        "required",
                        "a rule without labels would mean every VM",
                        "give at least one label that the VMs which are meant carry",
                    ));
                }
                rule.vm_labels.validate(&at, errors);
            }
        }
    }
}

/// How to choose among hosts that fit.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PlacementStrategy {
    /// The emptiest host.
    #[default]
    Spread,
    /// The fullest host that still fits.
    Pack,
}

/// A one-shot verb, stamped so that it is carried out at most once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// The task that asked for it: the stamp.
    pub id: TaskId,
    /// What to do.
    pub verb: OperationVerb,
}

/// The one-shot verbs of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationVerb {
    /// Ask the guest to restart (ACPI).
    Reboot,
    /// Pull and release the reset line.
    Reset,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationReport {
    /// Which operation.
    pub id: TaskId,
    /// How it ended.
    pub outcome: OperationOutcome,
    /// More for people.
    #[serde(default)]
    pub message: String,
}

/// How a one-shot verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationOutcome {
    /// It was carried out.
    Done,
    /// It was refused or failed, and was not carried out.
    Failed,
    /// The agent died in between and the facts cannot tell; it is never repeated.
    Unknown,
}

/// What an agent saw of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmObserved {
    /// Observed power state.
    pub power: ObservedPower,
    /// The host that reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    /// Which incarnation (count of redeploys) is on the host.
    #[serde(default)]
    pub incarnation: i64,
    /// When QEMU was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime>,
    /// Accelerator it runs under: `kvm` or `tcg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Why the host cannot do what the manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<CapabilityReason>,
    /// What became of the last one-shot verb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationReport>,
    /// A change that waits for the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_reboot: Option<CapabilityReason>,
    /// Its part in a migration, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion: Option<Box<Motion>>,
    /// It executes there only under the host's lease, and the host's fencer knows of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leased: bool,
    /// When the host's fencer last stopped it, because the lease had run out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_at: Option<DateTime>,
}

/// A NIC as it is in the truth: resolved, with address and MAC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct VmNic {
    /// The port.
    pub port_id: PortId,
    /// The network.
    pub network_id: NetworkId,
    /// The network's name.
    pub network: Name,
    /// MAC address, `02:…` lower case with colons.
    pub mac: String,
    /// Its address on the network.
    #[schema(value_type = String, format = Ipv4)]
    pub address: Ipv4Addr,
    /// Its IPv6 address, on a network that has a prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv6)]
    pub address6: Option<Ipv6Addr>,
    /// The security groups of the VM and of the interface. Those of the network hold besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<SecurityGroupId>,
}

/// A disk as it is in the truth: resolved to a volume or an ISO image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct VmDisk {
    /// The disk's name in the VM.
    pub name: Name,
    /// The volume behind it; absent for an ISO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<VolumeId>,
    /// The ISO image behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso_image_id: Option<ImageId>,
    /// Position in the boot order, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<u32>,
}

impl VmSpec {
    /// What the VM takes of a project's quota and of a host. `disk_bytes` is the sum of the new volumes.
    pub fn demand(&self, disk_bytes: u64) -> Demand {
        Demand { vms: 1, cpus: self.cpus, memory_bytes: self.memory_bytes, storage_bytes: disk_bytes }
    }

    /// Without the room that reading it took, to be kept in memory.
    #[must_use]
    pub fn shrunk(mut self) -> Self {
        self.disks.shrink_to_fit();
        self.nics.shrink_to_fit();
        self.security_groups.shrink_to_fit();
        self
    }
}

impl Validate for VmSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        within(errors, format!("{path}.cpus"), self.cpus.into(), (1, 256), "CPUs");
        let memory = format!("{path}.memory_bytes");
        if within(errors, memory.clone(), self.memory_bytes, (64 * MIB, 4096 * GIB), "bytes") {
            multiple_of(errors, memory, self.memory_bytes, MIB);
        }
        let grace = format!("{path}.stop_grace_seconds");
        within(errors, grace, self.stop_grace_seconds.into(), (0, 3600), "seconds");
        self.placement.validate(&format!("{path}.placement"), errors);
        self.validate_disks(path, errors);
        if self.nics.len() > 8 {
            errors.push(FieldError::new(
                format!("{path}.nics"),
                "too_many",
                format!("{} interfaces; a VM has at most 8", self.nics.len()),
                "remove some interfaces",
            ));
        }
        security_groups::validate_names(&self.security_groups, &format!("{path}.security_groups"), errors);
        for (i, nic) in self.nics.iter().enumerate() {
            let at = format!("{path}.nics[{i}].security_groups");
            security_groups::validate_names(&nic.security_groups, &at, errors);
        }
        self.cloud_init.validate(&format!("{path}.cloud_init"), errors);
    }
}

impl VmSpec {
    fn validate_disks(&self, path: &str, errors: &mut Vec<FieldError>) {
        if self.disks.is_empty() || self.disks.len() > 16 {
            errors.push(FieldError::new(
                format!("{path}.disks"),
                "count",
                format!("{} disks; a VM has 1 to 16", self.disks.len()),
                "give at least one disk: from an image, a volume, or blank with an ISO",
            ));
        }
        let (mut names, mut orders) = (BTreeSet::new(), BTreeSet::new());
        for (i, disk) in self.disks.iter().enumerate() {
            let at = format!("{path}.disks[{i}]");
            if !names.insert(&disk.name) {
                errors.push(FieldError::new(
                    format!("{at}.name"),
                    "duplicate",
                    format!("two disks are named {}", disk.name),
                    "give every disk its own name",
                ));
            }
            if disk.boot_order.is_some_and(|o| o == 0 || !orders.insert(o)) {
                errors.push(FieldError::new(
                    format!("{at}.boot_order"),
                    "duplicate",
                    "boot orders count from 1 and each stands once",
                    "number the disks 1, 2, 3 … or leave the field out",
                ));
            }
            disk.validate(&at, errors);
        }
    }
}

impl Validate for DiskSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let size = format!("{path}.size_bytes");
        match (&self.source, self.size_bytes) {
            (DiskSource::Blank {}, None) => errors.push(FieldError::new(
                size,
                "required",
                "a blank disk has no size of its own",
                "give size_bytes, a multiple of 1048576",
            )),
            (DiskSource::Volume { .. } | DiskSource::Iso { .. }, Some(_)) => errors.push(FieldError::new(
                size,
                "not_allowed",
                "the size belongs to the volume or ISO that the disk names",
                "leave size_bytes out",
            )),
            (_, Some(bytes)) => {
                if within(errors, size.clone(), bytes, (MIB, 64 * 1024 * GIB), "bytes") {
                    multiple_of(errors, size, bytes, MIB);
                }
            }
            (_, None) => {}
        }
    }
}

impl Validate for CloudInit {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        if self.user_data.as_ref().is_some_and(|d| d.len() > 64 * 1024) {
            errors.push(FieldError::new(
                format!("{path}.user_data"),
                "too_long",
                "user-data is at most 65536 bytes",
                "fetch larger data from the guest",
            ));
        }
        if self.ssh_authorized_keys.len() > 32 {
            errors.push(FieldError::new(
                format!("{path}.ssh_authorized_keys"),
                "too_many",
                "at most 32 keys",
                "put more keys into user_data",
            ));
        }
        for (i, key) in self.ssh_authorized_keys.iter().enumerate() {
            let algorithm = key.split_whitespace().next().unwrap_or_default();
            let known = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|p| algorithm.starts_with(p));
            if !known
                || key.split_whitespace().count() < 2
                || key.contains(['\n', '\r'])
                || key.len() > 16 * 1024
            {
                errors.push(FieldError::new(
                    format!("{path}.ssh_authorized_keys[{i}]"),
                    "malformed",
                    "this is no public SSH key of one line",
                    "paste the content of a .pub file: algorithm, key, comment",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> VmSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_small_spec_has_sound_defaults() {
        let s = spec(serde_json::json!({"cpus": 1, "memory_bytes": 268435456u64,
            "disks": [{"name": "root", "source": {"kind": "image", "image": "debian"}}]}));
        assert_eq!((s.power, s.stop_grace_seconds, s.firmware), (Power::Running, 60, Firmware::Bios));
        assert_eq!(s.errors(), vec![]);
    }

    #[test]
    fn absurd_sizes_name_field_reason_and_remedy() {
        let s = spec(serde_json::json!({"cpus": 0, "memory_bytes": 1000000001u64,
            "disks": [{"name": "a", "source": {"kind": "blank"}}, {"name": "a", "source": {"kind": "blank"}, "size_bytes": 5}],
            "cloud_init": {"ssh_authorized_keys": ["hello"]}}));
        let fields: Vec<_> = s.errors().into_iter().map(|e| e.field).collect();
        assert_eq!(
            fields,
            [
                "spec.cpus",
                "spec.memory_bytes",
                "spec.disks[0].size_bytes",
                "spec.disks[1].name",
                "spec.disks[1].size_bytes",
                "spec.cloud_init.ssh_authorized_keys[0]"
            ]
        );
        assert!(s.errors().iter().all(|e| !e.reason.is_empty() && !e.remedy.is_empty()));
    }

    #[test]
    fn pl3_rules_about_no_vm_and_too_many_rules_name_field_reason_and_remedy() {
        let rule = serde_json::json!({"vm_labels": {"app": "web"}});
        let s = spec(serde_json::json!({"cpus": 1, "memory_bytes": 268435456u64,
            "disks": [{"name": "root", "source": {"kind": "image", "image": "debian"}}],
            "placement": {"affinity": [rule, {"vm_labels": {}}, {"vm_labels": {"a b": "c"}}],
                "anti_affinity": vec![rule.clone(); 9]}}));
        let errors = s.errors();
        let fields: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.placement.affinity[1].vm_labels",
                "spec.placement.affinity[2].vm_labels.a b",
                "spec.placement.anti_affinity"
            ]
        );
        assert!(errors.iter().all(|e| !e.reason.is_empty() && !e.remedy.is_empty()));
        assert!(s.placement.affinity[0].required, "a rule is hard unless it says otherwise");
        let none = serde_json::to_value(PlacementRules::default()).unwrap();
        assert!(none.get("affinity").is_none() && none.get("anti_affinity").is_none());
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let e = serde_json::from_value::<VmSpec>(
            serde_json::json!({"cpus": 1, "memory_bytes": 1, "disks": [], "xml": "<domain/>"}),
        );
        assert!(e.unwrap_err().to_string().contains("unknown field `xml`"));
    }
}
