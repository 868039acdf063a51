//! Objects as `GET` shows them.

use basalt_model::{
    CapabilityReason, Condition, DateTime, Epoch, Generation, HostId, Metadata, Name, PoolId, PortId,
    hosts::{HostFacts, HostSpec, HostState},
    images::{ImageObserved, ImageSpec},
    migrations::{self, MigrationPhase, MotionProgress},
    networks::{Counters, NetworkSpec},
    pools::PoolFacts,
    quotas::Quota,
    routers::{RouterSpec, RouterWiring},
    security_groups::SecurityGroupSpec,
    tasks::Actor,
    vms::{VmDisk, VmNic, VmObserved, VmSpec},
    volumes::{VolumeObserved, VolumeSpec},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// One word for where an object is; always derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Declared, and not yet so.
    Pending,
    /// It is as declared.
    Ready,
    /// It runs (VMs).
    Running,
    /// It is stopped, as declared (VMs).
    Stopped,
    /// It is paused, as declared (VMs).
    Paused,
    /// Something must change first; see the conditions.
    Blocked,
    /// It failed; see the conditions.
    Failed,
    /// It is going.
    Deleting,
    /// Its host is not heard of.
    Unknown,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
}

/// The spec of a tenant or project: nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmptySpec {}

/// Declares a project of a tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// Unique in its tenant.
    pub name: Name,
    /// Its tenant: name or id; default: the tenant `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What people attach.
    #[serde(default)]
    pub labels: basalt_model::Labels,
    /// What it may take.
    #[serde(default)]
    pub quota: Option<basalt_model::quotas::QuotaSpec>,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// What it may take, and took.
    pub quota: Quota,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// What an operator wants.
    pub spec: HostSpec,
    /// Derived.
    pub state: HostState,
    /// What its agent found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<HostFacts>,
    /// Last sign of life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<DateTime>,
    /// What its VMs were promised.
    pub claimed: basalt_model::quotas::Demand,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

/// A join token, shown once: it enrols one agent as this host.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    /// The host it enrols.
    pub host_id: HostId,
    /// Put it into the agent's join-token file.
    pub token: String,
    /// When it ends.
    pub expires_at: DateTime,
}

/// A pool of a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// The host it is on.
    pub host_id: HostId,
    /// The host's name.
    pub host: Name,
    /// What the host reported.
    pub facts: PoolFacts,
    /// Volume sizes promised in it, in bytes.
    pub claimed_bytes: u64,
    /// When the host last reported a change.
    pub updated_at: DateTime,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: NetworkSpec,
    /// Its segment's identifier.
    pub vni: u32,
    /// Derived.
    pub phase: Phase,
    /// Addresses given out.
    pub addresses_used: u64,
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SecurityGroup {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: SecurityGroupSpec,
    /// Derived.
    pub phase: Phase,
}

/// Whether a new flow of a port is admitted, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowExplanation {
    /// Whether it passes.
    pub admitted: bool,
    /// The answer in a sentence.
    pub summary: String,
    /// The group with the rule that admits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_group: Option<Name>,
    /// The rule's place in its group, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// All groups of the port: its network's, its VM's and its own.
    pub security_groups: Vec<Name>,
    /// Why it is dropped, and what would admit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CapabilityReason>,
}

/// A router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Router {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: RouterSpec,
    /// Derived.
    pub phase: Phase,
    /// Its interfaces and addresses, and where they lead.
    pub wiring: RouterWiring,
    /// The hosts that it is on, at most two; which of them is active they agree upon, and `conditions` say.
    pub hosts: Vec<RouterHost>,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

/// One of a router's hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouterHost {
    /// The host.
    pub host_id: HostId,
    /// Its name.
    pub host: Name,
    /// Whether it is active when both begin at once.
    pub preferred: bool,
}

/// A port: one VM's connection to a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// What it is.
    #[serde(flatten)]
    pub nic: VmNic,
    /// The VM.
    pub vm_id: basalt_model::VmId,
}

/// What a port carried and what was dropped, as its host counted it when it was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PortCounters {
    /// The port.
    pub port_id: PortId,
    /// The VM.
    pub vm_id: basalt_model::VmId,
    /// The host that counts.
    pub host: Name,
    /// When it was asked.
    pub observed_at: DateTime,
    /// What it counted.
    #[serde(flatten)]
    pub counters: Counters,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: VolumeSpec,
    /// The VM it belongs to and goes with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<basalt_model::VmId>,
    /// Derived.
    pub phase: Phase,
    /// What was seen.
    pub observed: VolumeObserved,
    /// The generation that was seen.
    pub observed_generation: Generation,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: ImageSpec,
    /// Derived.
    pub phase: Phase,
    /// What the image service reported.
    pub observed: ImageObserved,
}

/// Where to send an image's bytes, and the token that lets you.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct TransferGrant {
    /// Upload: the tus creation address; download: the blob's address.
    pub url: String,
    /// Send it as `Authorization: Bearer …`, once.
    pub token: String,
    /// When it ends.
    pub expires_at: DateTime,
}

/// Where a VM was put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmPlacement {
    /// The host.
    pub host_id: HostId,
    /// The host's name.
    pub host: Name,
    /// Which placement of this VM it is.
    pub epoch: Epoch,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: VmSpec,
    /// Derived.
    pub phase: Phase,
    /// Count of redeploys.
    pub incarnation: i64,
    /// Interfaces with MAC and address.
    pub nics: Vec<VmNic>,
    /// Disks with their volumes.
    pub disks: Vec<VmDisk>,
    /// Where it was put; absent while it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<VmPlacement>,
    /// What was seen.
    pub observed: VmObserved,
    /// The generation that was seen.
    pub observed_generation: Generation,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

/// A VM's way from one host to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Migration {
    /// What was asked, and what became of it.
    #[serde(flatten)]
    pub migration: migrations::Migration,
    /// Derived.
    pub phase: MigrationPhase,
    /// Figures of the transfer, while it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<MotionProgress>,
}

/// Where a VM could go, and why not elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlacementExplanation {
    /// The host that was (or would be) chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// One sentence.
    pub summary: String,
    /// Every host that was looked at, best first.
    pub candidates: Vec<PlacementCandidate>,
}

/// One host that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlacementCandidate {
    /// The host.
    pub host_id: HostId,
    /// Its name.
    pub host: Name,
    /// Higher is better; absent when rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<i64>,
    /// The pools chosen for the VM's volumes on this host, in disk order.
    #[serde(default)]
    pub pools: Vec<Name>,
    /// Why not; empty when it fits.
    pub rejections: Vec<CapabilityReason>,
}

/// One line of the audit trail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// Its id.
    pub id: basalt_model::AuditId,
    /// When.
    pub at: DateTime,
    /// Who.
    pub actor: Actor,
    /// What: `vm.create` …
    pub action: String,
    /// On what kind of thing.
    pub subject_kind: String,
    /// On which one.
    pub subject_id: Uuid,
    /// Its name.
    pub subject_name: String,
    /// The request that did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}
