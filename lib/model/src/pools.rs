//! Storage pools: declared by a host's configuration, seen through its facts.

use crate::{CapabilityReason, Name};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What keeps the volumes of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// Files in a directory of one host (qcow2).
    Directory,
    /// Files in a directory that several hosts see: NFS, a cluster's file system (qcow2).
    SharedDirectory,
}

/// What a host reported of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolFacts {
    /// Unique on its host.
    pub name: Name,
    /// What keeps the volumes.
    pub kind: PoolKind,
    /// Where it is on the host.
    pub path: String,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Bytes that are free now, rounded down to 64 MiB so that small writes are no news.
    pub available_bytes: u64,
    /// Names the storage itself where several hosts may see it: pools of two hosts with the same one are the same files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_id: Option<Uuid>,
    /// What it cannot do, and why: `snapshot`, `shared` …
    #[serde(default)]
    pub lacks: Vec<CapabilityReason>,
}
