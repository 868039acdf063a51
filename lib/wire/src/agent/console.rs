//! The serial console between gateway and agent: tickets, which an agent fetches and redeems. See docs/protocol.md.

use super::counters::Question;
use basalt_model::{CapabilityReason, DateTime, VmId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most of the kept log that a console begins with, in bytes.
pub const LOG_BYTES: usize = 64 * 1024;
/// Longest piece that is handed on at once, in bytes.
pub const PIECE_BYTES: usize = 16 * 1024;
/// Pieces that wait on the way in one direction; with the longest of them 64 KiB.
pub const PIECES: usize = 4;

/// Answer of `GET /agent/v1/consoles`: what the calling host's agent is to open, or to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tickets {
    /// Each is given out once.
    pub tickets: Vec<Ticket>,
    /// What users want to know of the host's ports; never together with tickets, which an agent from before there were
    /// questions would lose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<Question>,
}

/// The right to open one console once: `POST /agent/v1/consoles/{ticket}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// 256 bits that nobody can guess, in hex.
    pub ticket: String,
    /// Whose console.
    pub vm_id: VmId,
    /// What of it.
    pub mode: Mode,
    /// The gateway takes it until then.
    pub expires_at: DateTime,
}

/// What of a console is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The end of the kept log; the VM need not run.
    Log,
    /// The end of the kept log, then both directions for as long as the VM runs.
    Attach,
}

/// `POST /agent/v1/consoles/{ticket}/refuse`: the console cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// Why not, for the user.
    pub reason: CapabilityReason,
}
