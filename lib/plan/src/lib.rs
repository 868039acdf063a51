//! Every decision, as pure functions: placement, manifest, host, conditions, tasks.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod conditions;
pub mod host;
pub mod manifest;
pub mod placement;
pub mod tasks;
