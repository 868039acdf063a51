//! Whole-house scenarios on simulated hosts: every room takes part, real PostgreSQL, real mutual TLS.

#![allow(clippy::unwrap_used)]

mod adoption;
mod cli;
mod cli_apply;
mod cli_deployments;
mod cli_people;
mod cli_refusals;
mod console;
mod counters;
mod database;
mod deletion;
mod deployments;
mod deployments_basalt;
mod deployments_faults;
mod drains;
mod durable;
mod faults;
mod foreign;
mod host_loss;
mod identity;
mod imports;
mod ledger;
mod life;
mod live;
mod migrations;
mod oracles;
mod pending;
mod restarts;
mod security_groups;
mod simulated_checks;
mod simulation;
mod steps;
mod task_logs;
mod twins;
mod unstick;
