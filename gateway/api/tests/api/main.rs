//! The doors against a real PostgreSQL, without sockets: requests go straight into the routers.

#![allow(clippy::unwrap_used)]

mod access;
mod adoption;
mod agents;
mod apply;
mod bad_input;
mod consoles;
mod counters;
mod deployment_logs;
mod deployments;
mod door;
mod enrolment;
mod first_boot;
mod hosts;
mod image_work;
mod openapi;
mod people;
mod registry;
mod routers;
mod security_groups;
mod server_owned;
mod task_logs;
mod tasks;
mod watch;
mod writes;
