//! Every decision, as pure functions: placement, manifest, host, conditions, tasks.

pub mod host;
