//! The hands on foreign platforms, against real ones: the contract first, then what each platform has of its own.

#![allow(clippy::unwrap_used)]

mod basalt;
mod contract;
mod kubernetes;
mod local;
