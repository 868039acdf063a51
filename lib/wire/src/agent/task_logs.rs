//! Lines for the logs of tasks: what a host did, for people who follow it.

use super::ItemKind;
use basalt_model::{DateTime, Generation};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Most lines of a batch.
pub const MAX_LINES: usize = 200;
/// Most items that a line is about.
pub const MAX_ABOUT: usize = 100;
/// Most items that all lines of a batch are about together.
pub const MAX_BATCH_ABOUT: usize = 2000;
/// Most bytes of a line.
pub const MAX_TEXT_BYTES: usize = 500;

/// `POST /agent/v1/log`: what happened since the last batch that arrived. A batch that is sent again says nothing twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogBatch {
    /// This start of the agent.
    pub agent_boot: Uuid,
    /// In the order of their numbers; at most 200.
    pub lines: Vec<LogLine>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// Counts the lines of this start of the agent, from 1. One that is not above the last that was taken is passed over.
    pub sequence: i64,
    /// When it happened, by the host's clock.
    pub at: DateTime,
    /// The items that it is about, 1 to 100: the one that was worked on, and those that wait for it.
    pub about: Vec<LogSubject>,
    /// The line, at most 500 bytes.
    pub text: String,
}

/// An item that a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSubject {
    /// Kind.
    pub kind: ItemKind,
    /// The object's id.
    pub id: Uuid,
    /// The generation that was worked on: tasks that wait for a later one are not told.
    pub generation: Generation,
}

/// The answer: the lines are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogAnswer {
    /// How many items of lines were passed over because the host does not have them.
    pub refused: u32,
}
