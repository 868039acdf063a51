//! Every decision, as pure functions: placement, adoption, manifest, host, conditions, tasks.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adoption;
pub mod conditions;
pub mod deployments;
pub mod drains;
pub mod host;
pub mod host_loss;
pub mod manifest;
pub mod migrations;
pub mod placement;
pub mod routers;
pub mod security;
pub mod tasks;
pub mod unstick;
pub mod what_if;
