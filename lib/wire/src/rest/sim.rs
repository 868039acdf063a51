//! What would happen if: a question about the cluster as it is, or about one that is only described, and its answer.

use basalt_model::{
    CapabilityReason, HostId, Labels, Name, ProjectId, VmId,
    vms::{HaSpec, PlacementRules, Power},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happens to hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SimEventKind {
    /// They are off, for good.
    Lose,
    /// They lose every link: gateway and other hosts do not hear of them, and they run on.
    Isolate,
    /// The link between two hosts is cut; the gateway hears of both.
    Cut,
    /// They are drained for maintenance.
    Drain,
}

/// Something that happens, to the hosts that are named and to those that carry all of the labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimEvent {
    /// What.
    pub kind: SimEventKind,
    /// Hosts by name.
    #[serde(default)]
    pub hosts: Vec<Name>,
    /// Hosts by label: `{"rack": "a"}`.
    #[serde(default)]
    pub labels: Labels,
}

/// A pool of a described host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimPool {
    /// Its name.
    pub name: Name,
    /// Its size in bytes.
    pub capacity_bytes: u64,
    /// Whether all hosts with a shared pool of this name see the same storage.
    #[serde(default)]
    pub shared: bool,
}

/// A described host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimHost {
    /// Its name.
    pub name: Name,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// Hardware threads.
    pub threads: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Its pools.
    pub pools: Vec<SimPool>,
    /// Whether something stops VMs there when its lease has run out.
    #[serde(default)]
    pub fencer: bool,
}

/// A described VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimVm {
    /// Its name.
    pub name: Name,
    /// The host that it is on.
    pub host: Name,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Its disks: pool and size.
    #[serde(default)]
    pub disks: Vec<SimDisk>,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// Where it may run.
    #[serde(default)]
    pub placement: PlacementRules,
    /// Whether it runs.
    #[serde(default)]
    pub power: Power,
    /// What becomes of it when its host is lost.
    #[serde(default)]
    pub ha: HaSpec,
    /// Networks that it is attached to, by name.
    #[serde(default)]
    pub networks: Vec<Name>,
}

/// A disk of a described VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimDisk {
    /// The pool that it is in.
    pub pool: Name,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A cluster that is only described.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// Its hosts.
    pub hosts: Vec<SimHost>,
    /// Its VMs.
    #[serde(default)]
    pub vms: Vec<SimVm>,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimQuestion {
    /// What happens, one after the other.
    pub events: Vec<SimEvent>,
    /// The cluster to ask about; absent: this one, as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
}

/// What becomes of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SimFate {
    /// It is migrated to another host.
    Moves,
    /// It is started on another host from its disk.
    Restarts,
    /// It is down until somebody does what the reason says.
    Down,
    /// It runs on, and nobody outside of its host reaches it.
    Isolated,
    /// It runs on where it is, although it was to leave.
    Stays,
}

/// A VM to which something happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SimVmFate {
    /// The VM.
    pub vm_id: VmId,
    /// Its name.
    pub vm: Name,
    /// Its project.
    pub project_id: ProjectId,
    /// Where it was before.
    pub host: Name,
    /// What becomes of it.
    pub fate: SimFate,
    /// Where it is then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
    /// Seconds after the event until that is so, estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_seconds: Option<u64>,
    /// Why not otherwise, and what would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CapabilityReason>,
}

/// How full a host is, in hundredths of what it may promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SimHostLoad {
    /// The host.
    pub host_id: HostId,
    /// Its name.
    pub host: Name,
    /// Whether it takes part still.
    pub up: bool,
    /// CPUs promised before.
    pub cpu_percent_before: u64,
    /// CPUs promised after.
    pub cpu_percent_after: u64,
    /// Memory promised before.
    pub memory_percent_before: u64,
    /// Memory promised after.
    pub memory_percent_after: u64,
}

/// A network whose guests do not all reach each other any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SimSplit {
    /// The network.
    pub network: String,
    /// On the one side.
    pub here: Vec<Name>,
    /// On the other.
    pub there: Vec<Name>,
}

/// What would happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SimAnswer {
    /// One sentence.
    pub summary: String,
    /// VMs to which something happens, in the order in which it does.
    pub vms: Vec<SimVmFate>,
    /// All hosts.
    pub hosts: Vec<SimHostLoad>,
    /// Networks that fall apart.
    pub splits: Vec<SimSplit>,
}
