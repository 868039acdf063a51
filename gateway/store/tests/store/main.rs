//! The store against a real PostgreSQL: schema, isolation, nouns, tasks and the change feed.

#![allow(clippy::unwrap_used)]

mod adoption;
mod declarations;
mod drains;
mod feed;
mod fixture;
mod host_loss;
mod isolation;
mod manifests;
mod migrations;
mod people;
mod placements;
mod plans;
mod registry;
mod routers;
mod schema;
mod security_groups;
mod task_dependencies;
mod task_history;
mod task_logs;
mod task_retries;
mod tasks;
mod vms;
mod work;
