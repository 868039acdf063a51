//! Real parts: PostgreSQL, libvirt, QEMU, Open vSwitch, in a lab of its own for each test.
//!
//! Each test brings a whole cluster up by the same code as `cargo xtask up`, so that what a newcomer
//! sees is what is tested. They need root, and fail when a part is missing.

#![allow(clippy::unwrap_used)]

mod adoption;
mod cluster;
mod counters;
mod deployments;
mod drill;
mod firmware;
mod guest;
mod guests;
mod host_loss;
mod migration;
mod migration_faults;
mod migration_stall;
mod networks;
mod partition;
mod readme;
mod routers;
mod security_groups;
mod segments;
mod trouble;
mod underlay;
mod verbs;
mod watchman;
