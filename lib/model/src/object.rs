//! What every object carries besides its spec.

use crate::{DateTime, Labels, Name, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Counts the changes of a spec, from 1. Only a change of intent moves it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
#[cfg_attr(feature = "sql", derive(sqlx::Type), sqlx(transparent))]
pub struct Generation(pub i64);

/// Counts the placements of a VM, from 1. A host acts only on the epoch it was given.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
#[cfg_attr(feature = "sql", derive(sqlx::Type), sqlx(transparent))]
pub struct Epoch(pub i64);

impl Generation {
    /// The first generation of an object.
    pub const FIRST: Generation = Generation(1);
}

/// The fields that every stored object has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Metadata {
    /// UUIDv7, so that ids sort by creation.
    pub id: Uuid,
    /// Absent on objects of the whole system (hosts, pools).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// Absent on objects of the whole system or of a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// Unique among its kind in its project (or tenant, or system).
    pub name: Name,
    /// What people attached.
    #[serde(default)]
    pub labels: Labels,
    /// Bumped whenever the spec changes.
    pub generation: Generation,
    /// When it was declared.
    pub created_at: DateTime,
    /// When its intent last changed.
    pub updated_at: DateTime,
    /// When its deletion was asked for; it goes once nothing of it is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_requested_at: Option<DateTime>,
}
