//! Hosts: what an operator wants of one, and the facts that its agent found out.

use crate::{
    CapabilityReason, DateTime, GIB, Name,
    adoption::{ForeignVm, ForeignVolume},
    pools::PoolFacts,
    quotas::Demand,
    validate::{FieldError, Validate, within},
};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use utoipa::ToSchema;
use uuid::Uuid;

/// What an operator wants of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// While true nothing new is placed here.
    #[serde(default)]
    pub maintenance: bool,
    /// Virtual CPUs for each hundred hardware threads, 100 to 1600.
    #[serde(default = "default_cpu_overcommit")]
    pub cpu_overcommit_percent: u32,
    /// Guest memory for each hundred bytes of usable memory, 50 to 400.
    #[serde(default = "default_memory_overcommit")]
    pub memory_overcommit_percent: u32,
    /// Memory kept for the host itself, in bytes.
    #[serde(default = "default_reserved_memory")]
    pub reserved_memory_bytes: u64,
}

fn default_cpu_overcommit() -> u32 {
    400
}
fn default_memory_overcommit() -> u32 {
    100
}
fn default_reserved_memory() -> u64 {
    GIB
}

impl Default for HostSpec {
    fn default() -> Self {
        Self {
            maintenance: false,
            cpu_overcommit_percent: default_cpu_overcommit(),
            memory_overcommit_percent: default_memory_overcommit(),
            reserved_memory_bytes: default_reserved_memory(),
        }
    }
}

impl HostSpec {
    /// What a host with these facts can promise to VMs: overcommit applied, reserved memory left out. CPUs and
    /// memory only; VMs are not counted, and storage is promised by its pools.
    pub fn capacity(&self, facts: &HostFacts) -> Demand {
        let cpus = u64::from(facts.threads) * u64::from(self.cpu_overcommit_percent) / 100;
        let usable = u128::from(facts.memory_bytes.saturating_sub(self.reserved_memory_bytes));
        let memory = usable * u128::from(self.memory_overcommit_percent) / 100;
        Demand {
            vms: u32::MAX,
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory_bytes: u64::try_from(memory).unwrap_or(u64::MAX),
            storage_bytes: u64::MAX,
        }
    }
}

impl Validate for HostSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let cpu = format!("{path}.cpu_overcommit_percent");
        within(errors, cpu, self.cpu_overcommit_percent.into(), (100, 1600), "percent");
        let memory = format!("{path}.memory_overcommit_percent");
        within(errors, memory, self.memory_overcommit_percent.into(), (50, 400), "percent");
        let reserved = format!("{path}.reserved_memory_bytes");
        within(errors, reserved, self.reserved_memory_bytes, (0, 1024 * GIB), "bytes");
    }
}

/// Two agents or more that act with one host's identity: the newest start counts, the others are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConflict {
    /// The start of the agent that counts.
    pub agent_boot: Uuid,
    /// The starts that were refused, newest refusal first.
    pub fenced_boots: Vec<Uuid>,
    /// When the first of them was refused.
    pub since: DateTime,
}

/// The state of a host, derived and never stored by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// Known by name, never seen.
    Enrolling,
    /// Takes virtual machines.
    Ready,
    /// Runs, with something wrong; see the conditions.
    Degraded,
    /// Not heard of for longer than the lease.
    Unreachable,
    /// Takes nothing new.
    Maintenance,
    /// On its way out.
    Removed,
}

/// What a host can run guests with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accelerator {
    /// `kvm` or `tcg`.
    pub kind: String,
    /// Whether a guest was really seen to start under it.
    pub usable: bool,
    /// What the probe saw.
    pub evidence: String,
}

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NumaNode {
    /// Node number.
    pub id: u32,
    /// Hardware threads on it.
    pub threads: u32,
    /// Memory on it in bytes.
    pub memory_bytes: u64,
}

/// A bridge of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct BridgeFacts {
    /// Its name.
    pub name: String,
    /// `netdev` (userspace) or `system` (kernel).
    pub datapath: String,
    /// Whether it is the bridge that guests are attached to.
    pub integration: bool,
    /// Largest frame payload that passes it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// Versions of what the host runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Versions {
    /// The agent.
    pub agent: String,
    /// The kernel's release.
    pub kernel: String,
    /// libvirt.
    pub libvirt: String,
    /// QEMU.
    pub qemu: String,
    /// Open vSwitch.
    pub openvswitch: String,
}

/// Something on the host that no manifest names: reported, never touched until it is adopted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Foreign {
    /// `vm`, `port` or `volume`.
    pub kind: String,
    /// Its name on the host.
    pub name: String,
    /// Its id on the host, where it has one.
    #[serde(default)]
    pub id: String,
    /// State or size, for people.
    #[serde(default)]
    pub detail: String,
    /// What a VM is, so that it can be adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<ForeignVm>,
    /// What a file in a pool is, so that it can be adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<ForeignVolume>,
}

/// What stops guests with an HA policy on a host whose lease ran out, whatever became of its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FencerFacts {
    /// Seconds after the end of the lease in which it is done.
    pub window_seconds: u32,
    /// Whether a watchdog device resets the host when the fencer itself fails.
    #[serde(default)]
    pub watchdog: bool,
}

/// What an agent found out about its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostFacts {
    /// The host's own name.
    pub hostname: String,
    /// Changes with every boot of the host.
    pub boot_id: String,
    /// CPU model as the CPU calls itself.
    pub cpu_model: String,
    /// CPU feature flags, sorted.
    pub cpu_features: Vec<String>,
    /// Cores.
    pub cores: u32,
    /// Hardware threads.
    pub threads: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// NUMA nodes.
    pub numa: Vec<NumaNode>,
    /// What guests really start under, best first.
    pub accelerators: Vec<Accelerator>,
    /// Whether OVMF is installed.
    pub uefi: bool,
    /// Storage pools.
    pub pools: Vec<PoolFacts>,
    /// Bridges.
    pub bridges: Vec<BridgeFacts>,
    /// Where other hosts' tunnels reach this one; without it networks end at the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub tunnel_address: Option<Ipv4Addr>,
    /// Largest frame payload in the network that carries tunnels, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_mtu: Option<u32>,
    /// Where its agent takes VMs in that come from other hosts; without it none comes or goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, examples("10.77.0.2:9446"))]
    pub migration_address: Option<SocketAddr>,
    /// Whether a guest can go over to it, or from it, by post-copy: QEMU's account may use userfaultfd there.
    #[serde(default)]
    pub post_copy: bool,
    /// Whether it can be one of a router's hosts: nftables and keepalived are installed.
    #[serde(default)]
    pub routers: bool,
    /// What stops guests there when the host's lease ran out, if anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencer: Option<FencerFacts>,
    /// Versions.
    pub versions: Versions,
    /// What no manifest names.
    #[serde(default)]
    pub foreign: Vec<Foreign>,
    /// What is wrong with the host, if anything.
    #[serde(default)]
    pub problems: Vec<CapabilityReason>,
}

/// What a tunnel puts around a frame: Ethernet, IPv4, UDP and VXLAN (RFC 7348), in bytes.
pub const VXLAN_OVERHEAD: u16 = 50;

impl HostFacts {
    /// The best accelerator that was seen to work.
    pub fn accelerator(&self) -> Option<&Accelerator> {
        self.accelerators.iter().find(|a| a.usable)
    }

    /// A pool by name.
    pub fn pool(&self, name: &Name) -> Option<&PoolFacts> {
        self.pools.iter().find(|p| p.name == *name)
    }
}

/// How long after the last sign of life a host counts as unreachable, in seconds.
pub const HOST_LEASE_SECONDS: i64 = 30;

/// The state of a host from its intent, its facts and its last sign of life.
pub fn state(
    spec: &HostSpec,
    facts: Option<&HostFacts>,
    seen_at: Option<DateTime>,
    removed: bool,
    now: DateTime,
) -> HostState {
    match (facts, seen_at) {
        _ if removed => HostState::Removed,
        (None, _) | (_, None) => HostState::Enrolling,
        (_, Some(seen)) if (now - seen).num_seconds() > HOST_LEASE_SECONDS => HostState::Unreachable,
        _ if spec.maintenance => HostState::Maintenance,
        (Some(f), _) if !f.problems.is_empty() || f.accelerator().is_none() => HostState::Degraded,
        _ => HostState::Ready,
    }
}
