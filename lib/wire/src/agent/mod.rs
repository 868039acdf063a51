//! Between gateway and agent: enrolment, manifest, report, consoles, questions. See docs/protocol.md.

pub mod console;
pub mod counters;
pub mod directory;
pub mod enrol;
pub mod lease;
pub mod manifest;
pub mod report;

pub use manifest::{Desired, Item, ItemKey, ItemKind, Manifest};
pub use report::{ItemObserved, ItemReport, Report, ReportAnswer};
