//! House rules and set-up, executable. Each module is one subcommand of `cargo xtask`, or what several share.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod checkout;
pub mod ci;
pub mod deny;
pub mod lab;
pub mod map;
pub mod packages;
pub mod passthrough;
pub mod stages;
pub mod statics;
pub mod test;
pub mod tidy;
