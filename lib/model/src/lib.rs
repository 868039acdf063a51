//! The nouns of Basalt: ids, names, quantities, states and specs. No IO, no async, no clock.
//!
//! One struct serves HTTP, the database and the agent; the `sql` feature (turned on by the store
//! alone) teaches the newtypes to be columns. Everything a user may write is checked by
//! [`Validate`], which names the field, the reason and the remedy.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adoption;
pub mod agents;
pub mod artifacts;
pub mod attempts;
pub mod conditions;
pub mod deployments;
pub mod drains;
pub mod host_loss;
pub mod hosts;
pub mod ids;
pub mod images;
pub mod labels;
pub mod migrations;
pub mod names;
pub mod networks;
pub mod object;
pub mod pools;
pub mod providers;
pub mod quotas;
pub mod reasons;
pub mod roles;
pub mod routers;
pub mod secrets;
pub mod security_groups;
pub mod selector;
pub mod servers;
pub mod tasks;
pub mod validate;
pub mod vms;
pub mod volumes;

pub use conditions::{Condition, ConditionStatus};
pub use ids::*;
pub use labels::Labels;
pub use names::Name;
pub use object::{Epoch, Generation, Metadata};
pub use reasons::{CapabilityReason, Code};
pub use selector::Selector;
pub use validate::{FieldError, Validate};

/// A point in time, UTC. The database keeps microseconds, so does the product. (The name is what utoipa recognises.)
pub type DateTime = chrono::DateTime<chrono::Utc>;

/// One mebibyte in bytes.
pub const MIB: u64 = 1024 * 1024;
/// One gibibyte in bytes.
pub const GIB: u64 = 1024 * MIB;
