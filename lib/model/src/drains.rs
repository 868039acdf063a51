//! Drains: a host is emptied so that it can be serviced. First a plan, then its execution.
//!
//! ```text
//! plan ──approve──► drain (maintenance on) ──► moves, so many at a time ──► drained
//!                                                         │                incomplete: what is left says why
//!                                                         └─── cancel ───► cancelled: the host stays in maintenance
//! ```
//! Another drain of the same host goes on with what is left. Ending the maintenance is the operator's: nothing comes back
//! by itself.

use crate::{
    CapabilityReason, DateTime, DrainId, HostId, MigrationId, Name, ProjectId, TaskId, VmId,
    migrations::{MigrationMode, MigrationSpec, StallPolicy},
    tasks::Actor,
    validate::{FieldError, Validate, at, within},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most migrations that a drain tries for one VM, each to another host.
pub const MAX_TRIES: u32 = 3;

/// How a host is to be emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainSpec {
    /// VMs that leave at the same time, 1 to 16. Migrations from this host that others asked for count.
    pub concurrency: u32,
    /// Whether a running VM that cannot go live may be shut down, moved, and started again. Else it stays and is named.
    pub may_shut_down: bool,
    /// The longest pause of a guest at its switch that is aimed at, in milliseconds, 1 to 60000.
    pub max_pause_milliseconds: u32,
    /// What to do with a guest whose memory cannot be sent as fast as it writes it.
    pub on_stall: StallPolicy,
    /// Most bytes that one migration sends in a second; absent: what the network carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_second: Option<u64>,
    /// Seconds that a VM which no host takes is waited for, when nothing else moves, 0 to 3600.
    pub patience_seconds: u32,
    /// Seconds after which the drain is given up, 60 to 604800.
    pub timeout_seconds: u32,
    /// `digest` of the plan that was approved: refused if the plan is another one by now. Absent: whatever the plan is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

impl Default for DrainSpec {
    fn default() -> Self {
        Self {
            concurrency: 2,
            may_shut_down: false,
            max_pause_milliseconds: 100,
            on_stall: StallPolicy::Cancel,
            max_bytes_per_second: None,
            patience_seconds: 60,
            timeout_seconds: 8 * 3600,
            plan: None,
        }
    }
}

impl DrainSpec {
    /// What is asked of the migration of one VM, that ends when the drain does.
    pub fn migration(&self, mode: MigrationMode, host: Option<Name>, seconds_left: i64) -> MigrationSpec {
        MigrationSpec {
            host,
            mode: Some(mode),
            max_pause_milliseconds: self.max_pause_milliseconds,
            on_stall: if mode == MigrationMode::Live { self.on_stall } else { StallPolicy::Cancel },
            max_bytes_per_second: self.max_bytes_per_second,
            timeout_seconds: u32::try_from(seconds_left.clamp(60, 86_400)).unwrap_or(60),
        }
    }
}

impl Validate for DrainSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let field = |name| at(path, name);
        within(errors, field("concurrency"), self.concurrency.into(), (1, 16), "VMs at a time");
        let pause = self.max_pause_milliseconds.into();
        within(errors, field("max_pause_milliseconds"), pause, (1, 60_000), "milliseconds");
        within(errors, field("patience_seconds"), self.patience_seconds.into(), (0, 3600), "seconds");
        within(errors, field("timeout_seconds"), self.timeout_seconds.into(), (60, 604_800), "seconds");
        if let Some(rate) = self.max_bytes_per_second {
            let range = (crate::MIB, 1024 * crate::GIB);
            within(errors, field("max_bytes_per_second"), rate, range, "bytes each second");
        }
    }
}

/// Where a VM of a drain is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// Its turn has not come.
    #[default]
    Waiting,
    /// It is on its way.
    Moving,
    /// It is on another host.
    Moved,
    /// It is on the host still; see the reason.
    Left,
    /// It went without this drain: deleted, or migrated by somebody else.
    Gone,
}

/// A VM's part in a drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainMove {
    /// The VM.
    pub vm_id: VmId,
    /// Its name.
    pub vm: Name,
    /// Its project.
    pub project_id: ProjectId,
    /// How it goes.
    pub mode: MigrationMode,
    /// Where it is to go, or went; absent where no host takes it. Another host takes it if this one no longer can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Name>,
    /// Why there, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Why no host takes it, or why its last migration failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CapabilityReason>,
    /// Bytes to send: its memory if it runs, and its volumes where the hosts share no storage.
    pub bytes: u64,
    /// Seconds after the drain's begin when it is its turn, estimated.
    pub begins_after_seconds: u64,
    /// Seconds that it takes, estimated.
    pub takes_seconds: u64,
    /// Where it is.
    #[serde(default)]
    pub state: MoveState,
    /// Migrations that were tried and failed.
    #[serde(default)]
    pub tries: u32,
    /// Hosts that they failed to reach; they are not tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_on: Vec<Name>,
    /// The newest migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_id: Option<MigrationId>,
}

impl DrainMove {
    /// One whose turn has not come, and of which nothing is planned yet.
    pub fn waiting(vm_id: VmId, vm: Name, project_id: ProjectId, mode: MigrationMode) -> Self {
        Self {
            vm_id,
            vm,
            project_id,
            mode,
            target: None,
            why: String::new(),
            reason: None,
            bytes: 0,
            begins_after_seconds: 0,
            takes_seconds: 0,
            state: MoveState::Waiting,
            tries: 0,
            failed_on: Vec::new(),
            migration_id: None,
        }
    }
}

/// What a drain would do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainPlan {
    /// The host.
    pub host: Name,
    /// The VMs that go, in their order, and after them those that no host takes, each with its reason.
    pub moves: Vec<DrainMove>,
    /// VMs that no host takes now.
    pub left: u32,
    /// Seconds until all of it is done, estimated.
    pub takes_seconds: u64,
    /// Bytes a second that the estimate assumes for all migrations together.
    pub assumed_bytes_per_second: u64,
    /// Names this plan: which VM goes where, and which stay. Give it as `plan` to approve just this.
    pub digest: String,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainResult {
    /// No VM is on the host.
    Drained,
    /// Some VMs are left; each says why.
    Incomplete,
    /// It was taken back.
    Cancelled,
}

/// What became of a drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainOutcome {
    /// How it ended.
    pub result: DrainResult,
    /// For people.
    pub message: String,
    /// VMs that are on the host still.
    pub left: u32,
}

/// The emptying of a host, as the truth has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// Its id.
    pub id: DrainId,
    /// The host.
    pub host_id: HostId,
    /// The host's name.
    pub host: Name,
    /// The task that waits for it.
    pub task_id: TaskId,
    /// Who asked for it.
    pub actor: Actor,
    /// What is wanted.
    pub spec: DrainSpec,
    /// The VMs, in their order, and where each is.
    pub moves: Vec<DrainMove>,
    /// When it was asked for.
    pub requested_at: DateTime,
    /// When it is given up.
    pub deadline: DateTime,
    /// Since when nothing moves and VMs are left that no host takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck_since: Option<DateTime>,
    /// When it was taken back: nothing new leaves, and what is on its way is taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<DateTime>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime>,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<DrainOutcome>,
}

impl Drain {
    /// The part of a VM.
    pub fn part(&self, vm: VmId) -> Option<&DrainMove> {
        self.moves.iter().find(|m| m.vm_id == vm)
    }

    /// How many VMs are in a state.
    pub fn count(&self, state: MoveState) -> usize {
        self.moves.iter().filter(|m| m.state == state).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m4_a_drain_is_modest_unless_somebody_asks_for_more() {
        let spec: DrainSpec = serde_json::from_str("{}").unwrap();
        assert_eq!((spec.concurrency, spec.may_shut_down, spec.max_pause_milliseconds), (2, false, 100));
        assert_eq!(spec.errors(), vec![]);
        let bad = r#"{"concurrency": 0, "timeout_seconds": 5, "max_bytes_per_second": 10}"#;
        let errors = serde_json::from_str::<DrainSpec>(bad).unwrap().errors();
        let fields: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["spec.concurrency", "spec.timeout_seconds", "spec.max_bytes_per_second"]);
        assert!(errors.iter().all(|e| !e.reason.is_empty() && !e.remedy.is_empty()));
        assert!(serde_json::from_str::<DrainSpec>(r#"{"parallel": 3}"#).is_err());
    }

    #[test]
    fn m4_a_guest_that_is_off_is_asked_for_no_stall_policy() {
        let spec = DrainSpec { on_stall: StallPolicy::Throttle, ..DrainSpec::default() };
        assert_eq!(spec.migration(MigrationMode::Cold, None, 5).on_stall, StallPolicy::Cancel);
        assert_eq!(spec.migration(MigrationMode::Live, None, 5).on_stall, StallPolicy::Throttle);
        assert_eq!(spec.migration(MigrationMode::Cold, None, 5).errors(), vec![]);
    }
}
