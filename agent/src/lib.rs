//! Component 2, one per host: observe, plan, act, report. Never sees the database.
//!
//! ```text
//!  gateway ──manifest──► poll ──► cycle ──► Host ──► libvirt, Open vSwitch, files
//!     ▲                            │  ▲ ledger (fsynced before anything is done)
//!     └──report, lines─── outbox ◄─┘
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod config;
pub mod consoles;
mod counters;
pub mod cycle;
pub mod error;
pub mod fencer;
mod holder;
pub mod host;
pub mod identity;
pub mod lease;
pub mod ledger;
pub mod link;
pub mod outbox;
mod task_lines;
pub mod task_logs;

pub use agent::{Agent, Handle, Options, Pace, Status};
pub use config::Config;
pub use error::Error;
