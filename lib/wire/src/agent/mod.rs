//! Between gateway and agent: enrolment, manifest, report, lines for logs, consoles, questions. See docs/protocol.md.

pub mod console;
pub mod counters;
pub mod directory;
pub mod enrol;
pub mod lease;
pub mod manifest;
pub mod report;
pub mod task_logs;

pub use manifest::{Desired, Item, ItemKey, ItemKind, Manifest};
pub use report::{ItemObserved, ItemReport, Report, ReportAnswer};
