//! Tasks: a piece of work somebody waits for, with progress and exactly one end.
//!
//! ```text
//! pending ──► executing ──► completed | failed | timed_out | cancelled
//!    └──────────────────────────────► failed | timed_out | cancelled
//! ```

use crate::{CapabilityReason, DateTime, Generation, ProjectId, TaskId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Where a task is in its life.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Recorded; nothing was done for it yet.
    #[default]
    Pending,
    /// Something was done for it.
    Executing,
    /// What it asked for is so.
    Completed,
    /// It cannot become so; see the error.
    Failed,
    /// Its deadline passed.
    TimedOut,
    /// Somebody took it back.
    Cancelled,
}

impl TaskState {
    /// Whether nothing can follow.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending | Self::Executing)
    }

    /// Whether `next` may follow this state. A terminal state is followed by nothing.
    pub fn may_become(self, next: TaskState) -> bool {
        match self {
            Self::Pending => next != Self::Pending,
            Self::Executing => !matches!(next, Self::Pending),
            _ => false,
        }
    }

    /// The word used in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Executing => "executing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A VM reaches its first declared state.
    VmCreate,
    /// A VM reaches its changed spec.
    VmUpdate,
    /// Power: running.
    VmStart,
    /// Power: stopped.
    VmStop,
    /// Power: paused.
    VmPause,
    /// Power: running again after a pause.
    VmResume,
    /// One-shot: ACPI restart.
    VmReboot,
    /// One-shot: reset line.
    VmReset,
    /// Destroyed and made anew from its image.
    VmRedeploy,
    /// Nothing of the VM is left.
    VmDelete,
    /// A VM goes to another host.
    VmMigrate,
    /// A VM that was on a host is declared, and its host has taken it over.
    VmAdopt,
    /// A volume is declared (it is made when a VM needs it).
    VolumeCreate,
    /// Nothing of the volume is left.
    VolumeDelete,
    /// A file that was in a pool is declared, and its host has taken it over.
    VolumeAdopt,
    /// Bytes were uploaded and verified.
    ImageUpload,
    /// Bytes were fetched from an address and verified. Work, which an image service claims.
    ImageImport,
    /// Nothing of the image is left.
    ImageDelete,
    /// The network is in the truth.
    NetworkCreate,
    /// Nothing of the network is left.
    NetworkDelete,
    /// The security group is in the truth.
    SecurityGroupCreate,
    /// Nothing of the security group is left in the truth.
    SecurityGroupDelete,
    /// The router is in the truth.
    RouterCreate,
    /// Nothing of the router is left.
    RouterDelete,
    /// No VM is on a host any more.
    HostDrain,
}

impl TaskKind {
    /// Seconds a task of this kind may take before the sweep ends it.
    pub fn deadline_seconds(self) -> i64 {
        match self {
            // A migration has a deadline of its own, of at most a day; its task ends with it.
            Self::ImageUpload | Self::ImageImport | Self::VmMigrate => 24 * 3600 + 600,
            // As long as its drain at most.
            Self::HostDrain => 7 * 24 * 3600 + 600,
            Self::VmStop | Self::VmDelete | Self::VmRedeploy => 2 * 3600,
            _ => 3600,
        }
    }

    /// Whether it is done when nothing of its subject is left.
    pub fn is_deletion(self) -> bool {
        matches!(
            self,
            Self::VmDelete
                | Self::VolumeDelete
                | Self::ImageDelete
                | Self::NetworkDelete
                | Self::SecurityGroupDelete
                | Self::RouterDelete
        )
    }
}

/// Most tasks that one may wait for.
pub const MAX_DEPENDENCIES: usize = 32;

/// What a task is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    /// `vm`, `volume`, `image`, `network` …
    pub kind: String,
    /// Its id.
    pub id: Uuid,
    /// Its name when the task was made.
    pub name: String,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Actor {
    /// `user`, `service_token`, `agent`, `image_service` or `system`.
    pub kind: String,
    /// Its id; nil for the system itself.
    pub id: Uuid,
    /// Its name when it acted.
    pub name: String,
}

impl Actor {
    /// The platform itself, by the part that acts: `reconciler`, `sweep` …
    pub fn system(part: &str) -> Self {
        Self { kind: "system".into(), id: Uuid::nil(), name: part.into() }
    }
}

/// A task as everybody sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The tenant it belongs to; absent for work of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The project it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// What it is for.
    pub kind: TaskKind,
    /// What it is about.
    pub subject: Subject,
    /// The subject's generation that this task waits for; 0 while nothing was asked of the subject yet, because the
    /// task waits for others.
    pub generation: Generation,
    /// Where it is in its life.
    pub state: TaskState,
    /// 0 to 100.
    pub progress: i32,
    /// What is going on, for people.
    pub stage: String,
    /// Why it ended badly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CapabilityReason>,
    /// Tasks that must complete first. Until then nothing of what it asks for is in the truth.
    #[serde(default)]
    pub depends_on: Vec<TaskId>,
    /// When the sweep ends it.
    pub deadline: DateTime,
    /// Counts from 1.
    pub attempt: i32,
    /// The attempt before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    /// Who asked.
    pub actor: Actor,
    /// When it was recorded.
    pub created_at: DateTime,
    /// When something was first done for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime>,
}

impl Task {
    /// Whether it waits for other tasks, and what it asks for is not in the truth yet.
    pub fn is_held(&self) -> bool {
        self.state == TaskState::Pending && self.generation == Generation::default()
    }
}

/// One line of a task's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskLog {
    /// Counts from 1 within the task.
    pub seq: i64,
    /// When it was written.
    pub at: DateTime,
    /// The line.
    pub line: String,
}

/// A move of a task that somebody decided; the store refuses what may not follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskMove {
    /// Which task.
    pub id: TaskId,
    /// The state it moves to (or stays in).
    pub state: TaskState,
    /// 0 to 100.
    pub progress: i32,
    /// What is going on.
    pub stage: String,
    /// Why it ended badly.
    pub error: Option<CapabilityReason>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_terminal_state() {
        use TaskState::*;
        let all = [Pending, Executing, Completed, Failed, TimedOut, Cancelled];
        for from in all {
            for to in all {
                let allowed = from.may_become(to);
                assert!(!(from.is_terminal() && allowed), "{from:?} to {to:?}");
                assert!(!(to == Pending && allowed), "{from:?} to {to:?}");
            }
        }
        assert!(Executing.may_become(Executing) && Pending.may_become(Completed));
    }
}
