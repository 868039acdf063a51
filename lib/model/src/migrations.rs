//! Migrations: a VM goes from one host to another, running or not, and at every moment one of the two owns it.
//!
//! ```text
//! requested ──► preparing ──► copying ──► switching ──► completed
//!     └─────────────┴────────────┴────────────┴───────► failed | cancelled: it stays where it was
//! ```
//! Nobody stores these words while it runs: they are read off what both hosts see. The owner is the placement; it changes
//! in one statement, to an epoch above all before, and only when the facts show who has the VM whole.

use crate::{
    CapabilityReason, DateTime, DrainId, Epoch, HostId, MigrationId, Name, ProjectId, TaskId, TenantId, VmId,
    validate::{FieldError, Validate, at, within},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a VM goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationMode {
    /// The guest goes on meanwhile, but for one short pause.
    Live,
    /// The guest is off while it goes: shut down first if it runs, and started again after.
    Cold,
}

/// What to do with a guest that writes memory faster than it can be sent.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StallPolicy {
    /// Give up; the guest goes on where it is and has noticed nothing.
    #[default]
    Cancel,
    /// Slow its virtual CPUs down, more and more, until it can be sent (auto-converge).
    Throttle,
    /// Let it go on at the target at once and fetch what is missing as it is touched. If the network fails then, the
    /// guest's memory is lost and it starts anew from its disk.
    PostCopy,
}

/// What a user wants of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MigrationSpec {
    /// The host to go to; absent: the best that fits is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// How to go; absent: live if it is to run, cold otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<MigrationMode>,
    /// The longest pause of the guest at the switch that is aimed at, in milliseconds, 1 to 60000. Never raised by itself.
    pub max_pause_milliseconds: u32,
    /// What to do when it does not come to an end.
    pub on_stall: StallPolicy,
    /// Most bytes that are sent in a second; absent: what the network carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_second: Option<u64>,
    /// Seconds after which it is given up, 60 to 86400.
    pub timeout_seconds: u32,
}

impl Default for MigrationSpec {
    fn default() -> Self {
        Self {
            host: None,
            mode: None,
            max_pause_milliseconds: 100,
            on_stall: StallPolicy::Cancel,
            max_bytes_per_second: None,
            timeout_seconds: 3600,
        }
    }
}

impl Validate for MigrationSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let pause = at(path, "max_pause_milliseconds");
        within(errors, pause, self.max_pause_milliseconds.into(), (1, 60_000), "milliseconds");
        let timeout = at(path, "timeout_seconds");
        within(errors, timeout, self.timeout_seconds.into(), (60, 86_400), "seconds");
        if let Some(rate) = self.max_bytes_per_second {
            let field = at(path, "max_bytes_per_second");
            within(errors, field, rate, (crate::MIB, 1024 * crate::GIB), "bytes each second");
        }
        if self.mode == Some(MigrationMode::Cold) && self.on_stall != StallPolicy::Cancel {
            errors.push(FieldError::new(
                at(path, "on_stall"),
                "not_allowed",
                "a guest that is off writes no memory",
                "leave on_stall out, or migrate live",
            ));
        }
    }
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationResult {
    /// The VM is at the target.
    Completed,
    /// It stayed at the source; see the reason.
    Failed,
    /// It was taken back, and stayed at the source.
    Cancelled,
}

impl MigrationResult {
    /// The word in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What became of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationOutcome {
    /// How it ended.
    pub result: MigrationResult,
    /// What decided it, for people.
    pub message: String,
    /// Why it did not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CapabilityReason>,
    /// Whether the guest lost its memory and starts from its disk.
    #[serde(default)]
    pub from_disk: bool,
    /// Figures of the transfer as the source saw them last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<MotionProgress>,
}

/// A migration as the truth has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Migration {
    /// Its id.
    pub id: MigrationId,
    /// The tenant of its VM.
    pub tenant_id: TenantId,
    /// The project of its VM.
    pub project_id: ProjectId,
    /// The VM.
    pub vm_id: VmId,
    /// The VM's name when it was asked for.
    pub vm: Name,
    /// The task that waits for it.
    pub task_id: TaskId,
    /// The drain that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_id: Option<DrainId>,
    /// What is wanted.
    pub spec: MigrationSpec,
    /// How it goes.
    pub mode: MigrationMode,
    /// Where the VM is.
    pub source_host_id: HostId,
    /// That host's name.
    pub source: Name,
    /// The epoch of its placement there.
    pub source_epoch: Epoch,
    /// Where it goes; absent until a host is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_host_id: Option<HostId>,
    /// That host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Name>,
    /// Whether bytes of volumes are sent: the hosts share no storage.
    pub copies_storage: bool,
    /// When it was taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<DateTime>,
    /// When it was asked for.
    pub requested_at: DateTime,
    /// When it is given up.
    pub deadline: DateTime,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime>,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<MigrationOutcome>,
}

impl Migration {
    /// The epoch that the VM has at the target: one above its last.
    pub fn target_epoch(&self) -> Epoch {
        Epoch(self.source_epoch.0 + 1)
    }
}

/// Where a migration is, read off what both hosts see.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MigrationPhase {
    /// Nothing was done yet.
    #[default]
    Requested,
    /// The target gets what the VM needs there.
    Preparing,
    /// Bytes are on their way; the guest runs at the source.
    Copying,
    /// The source gave it away, the target has it.
    Switching,
    /// It is at the target.
    Completed,
    /// It stayed at the source.
    Failed,
    /// It was taken back.
    Cancelled,
}

/// Which of the two hosts speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MotionSide {
    /// The one that the VM comes from.
    Source,
    /// The one that it goes to.
    Target,
}

/// What a host sees of a VM that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MotionState {
    /// Target: something that the VM needs is not there yet. Source: it may not begin yet.
    Preparing,
    /// Target: all is there and its door is open. Source (cold): the guest is off and its disks are closed.
    Ready,
    /// Source: bytes are on their way. Target: they are coming in.
    Copying,
    /// Source: it was handed over whole; nothing of it executes here, nor will.
    Left,
    /// Source: it was sent and is not here; whether it arrived cannot be told here.
    Lost,
    /// Target: all of it is here. It executes, or it waits to be told that the source let go.
    Arrived,
    /// Source: it did not come about and the guest is whole here. Target: nothing of it came.
    Failed,
    /// Both sides have a part of its memory and neither has all of it (post-copy under way).
    Split,
    /// A part of its memory is here and the rest cannot be had any more.
    Torn,
}

/// Figures of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MotionProgress {
    /// Bytes of memory and disks in all.
    pub total_bytes: u64,
    /// Bytes sent so far, those sent twice counted twice.
    pub sent_bytes: u64,
    /// Bytes still to send.
    pub remaining_bytes: u64,
    /// Bytes of memory that the guest writes in a second.
    pub dirty_bytes_per_second: u64,
    /// Bytes sent in the last second.
    pub sent_bytes_per_second: u64,
    /// How often its memory was gone through.
    pub passes: u32,
    /// How long the pause would be now, or was, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_milliseconds: Option<u64>,
    /// How much its virtual CPUs are slowed down, in percent.
    #[serde(default)]
    pub throttle_percent: u32,
}

/// A VM's part in a migration, as one of the two hosts sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Motion {
    /// The migration.
    pub id: MigrationId,
    /// Which host speaks.
    pub side: MotionSide,
    /// What it sees.
    pub state: MotionState,
    /// Figures, from the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<MotionProgress>,
    /// Why it failed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CapabilityReason>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m1_a_spec_has_a_short_pause_unless_somebody_consents_to_a_longer_one() {
        let spec: MigrationSpec = serde_json::from_str("{}").unwrap();
        assert_eq!((spec.max_pause_milliseconds, spec.on_stall), (100, StallPolicy::Cancel));
        assert_eq!(spec.errors(), vec![]);
        let bad =
            r#"{"max_pause_milliseconds": 0, "timeout_seconds": 5, "mode": "cold", "on_stall": "post_copy"}"#;
        let errors = serde_json::from_str::<MigrationSpec>(bad).unwrap().errors();
        let fields: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["spec.max_pause_milliseconds", "spec.timeout_seconds", "spec.on_stall"]);
        assert!(errors.iter().all(|e| !e.reason.is_empty() && !e.remedy.is_empty()));
        assert!(serde_json::from_str::<MigrationSpec>(r#"{"downtime": 3}"#).is_err());
    }
}
