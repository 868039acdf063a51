//! The reconciler on a real PostgreSQL, with hosts whose agents report what they were told, at once or
//! step by step. One binary, so that it links once.

#![allow(clippy::unwrap_used)]

mod agent;
mod conditions;
mod dependencies;
mod deployed;
mod deployments;
mod deployments_faults;
mod deployments_looks;
mod deployments_scale;
mod leases;
mod lifecycle;
mod placement;
mod platform;
mod recovery;
mod removal;
mod routers;
mod stepper;
mod world;
