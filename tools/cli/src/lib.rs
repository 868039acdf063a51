//! The command line: get, describe, create, apply, delete, power verbs, wait, watch, explain, counters, top, console, tasks.
//!
//! Verbs work on objects as JSON, by one table of kinds ([`kinds`]); what a kind looks like is the
//! gateway's business. The client and the upload are a library, so that other tools go the same way
//! as users do.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod args;
pub mod cells;
pub mod client;
pub mod config;
pub mod failure;
pub mod kinds;
pub mod output;
pub mod upload;
mod verbs;

pub use failure::Failure;
pub use verbs::run;
