//! Component 2, one per host: observe, plan, act, report. Never sees the database.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod error;
pub mod host;

pub use error::Error;
