//! The truth: schema, SQL, tenant isolation, change feed. The only crate that speaks SQL.
//!
//! A function that reads or writes takes a transaction: [`TenantTx`] sees one tenant's rows and nothing
//! else, enforced by PostgreSQL; [`SystemTx`] is for the reconciler and for what belongs to no tenant.
//! No function commits: the caller does, so that intent, task, audit and quota land together or not at all.
//! Time and ids come in with [`Change`]; nothing here reads a clock or draws a random number.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adoption;
pub mod agent_conflicts;
pub mod artifacts;
pub mod attempts;
pub mod audit_events;
mod begun;
mod change;
pub mod conditions;
pub mod deployments;
pub mod discovered;
pub mod drains;
mod error;
pub mod feed;
mod feed_rows;
mod gather;
pub mod host_identity;
pub mod host_loss;
pub mod hosts;
pub mod idempotency;
pub mod image_transfers;
pub mod images;
pub mod leases;
pub mod manifests;
mod migrate;
pub mod migrations;
pub mod networks;
pub mod notifier;
mod placement_rules;
pub mod placements;
pub mod pools;
pub mod projects;
pub mod providers;
pub mod quotas;
pub mod reports;
pub mod role_bindings;
mod router_wiring;
pub mod routers;
mod row;
pub mod secrets;
pub mod security_groups;
pub mod service_tokens;
mod store;
pub mod task_dependencies;
pub mod task_logs;
mod task_retries;
pub mod tasks;
mod tenant;
pub mod tenants;
pub mod testkit;
pub mod unstick;
pub mod users;
mod vm_changes;
mod vm_insert;
mod vm_stamps;
mod vm_write;
pub mod vms;
pub mod volumes;
pub mod work;

pub use change::{Accepted, Change, Finalized, Ids, Key, List, New, Page, Update};
pub use error::{Error, Result};
pub use feed::Feed;
pub use store::{Options, Store};
pub use tenant::{Handle, Single, SystemHandle, SystemTx, TenantTx};
