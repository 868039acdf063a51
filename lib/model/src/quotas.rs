//! Quotas: what a project may take, and what one object takes of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an object takes of a quota and of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Demand {
    /// Virtual machines.
    pub vms: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Volume sizes in bytes.
    pub storage_bytes: u64,
}

/// What a project may take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaSpec {
    /// Virtual machines.
    pub max_vms: u32,
    /// Virtual CPUs.
    pub max_cpus: u32,
    /// Memory in bytes.
    pub max_memory_bytes: u64,
    /// Volume sizes in bytes.
    pub max_storage_bytes: u64,
}

impl Default for QuotaSpec {
    fn default() -> Self {
        Self { max_vms: 100, max_cpus: 400, max_memory_bytes: 1 << 40, max_storage_bytes: 100 << 40 }
    }
}

/// A quota with what is taken of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// At most.
    pub limits: QuotaSpec,
    /// Taken now.
    pub used: Demand,
}
