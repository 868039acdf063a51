//! Conditions: what is true of an object now, since when, and why.

use crate::{DateTime, Generation};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can say now.
    Unknown,
}

/// One condition of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// `Placed`, `Ready`, `Blocked` …
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Stable word, for programs.
    pub reason: String,
    /// One sentence for people, remedy included.
    pub message: String,
    /// When the status last changed.
    pub since: DateTime,
    /// The generation this was judged at.
    pub observed_generation: Generation,
}

/// Keeps `since` of conditions whose status did not change.
pub fn carry_since(old: &[Condition], new: &mut [Condition]) {
    for condition in new {
        if let Some(before) = old.iter().find(|c| c.kind == condition.kind && c.status == condition.status) {
            condition.since = before.since;
        }
    }
}
