//! A container engine and a registry of a test's own, images made from nothing, and the static programs that go in them.
//!
//! A crate beside the tests, because the adapters' own tests, the scenarios and `cargo xtask up` all start the same
//! engine, and the adapters may not import what the scenarios import.

mod engine;
mod registry;
mod statics;

pub use engine::{Engine, Image};
pub use registry::Registry;
pub use statics::program;
