//! What an agent remembers beside what it sees. Everything here may be lost: then reality and the
//! gateway say it again, at the price of an outcome that is called unknown.

use super::{Action, Note, Resource};
use basalt_model::{
    CapabilityReason, DateTime, Epoch, Generation, MigrationId, VmId, VolumeId,
    migrations::MotionProgress,
    vms::{Operation, OperationOutcome, OperationReport, OperationVerb},
};
use basalt_wire::agent::{Desired, ItemKey, ItemKind, Manifest, directory::Directory};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What an agent remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The newest epoch and generation that were accepted of each item.
    pub accepted: BTreeMap<ItemKey, (Epoch, Generation)>,
    /// The generation that was last realised of each item.
    pub realised: BTreeMap<ItemKey, Generation>,
    /// The newest incarnation that was seen of each volume: what was there is never made silently again.
    pub made: BTreeMap<VolumeId, i64>,
    /// Shutdowns that were asked for and did not end yet.
    pub stops: BTreeMap<VmId, StopRecord>,
    /// The last one-shot verb of each VM.
    pub operations: BTreeMap<VmId, OperationRecord>,
    /// What became of each VM's part in a migration, from the moment that something of it cannot be taken back.
    pub motions: BTreeMap<VmId, MotionRecord>,
    /// Where other hosts have ports of this host's networks, as the gateway said last.
    pub directory: Directory,
    /// Resources whose last action failed.
    pub back_off: BTreeMap<Resource, BackOff>,
    /// When each VM was last started: one that dies at once is not started in a tight loop.
    pub starts: BTreeMap<VmId, StartRecord>,
    /// Resources that are being worked on now, and the stage to show: nothing is planned for them.
    pub in_flight: BTreeMap<Resource, String>,
    /// Figures of VMs that are being sent now.
    pub progress: BTreeMap<VmId, MotionProgress>,
    /// Whether the host's lease holds: without it no VM that needs one is started or goes on.
    pub leased: bool,
    /// VMs that need the lease and that the host's fencer was told of.
    pub listed: BTreeSet<VmId>,
    /// When the fencer last stopped a VM.
    pub fenced: BTreeMap<VmId, DateTime>,
}

/// A VM's part in a migration, as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MotionRecord {
    /// The migration.
    pub id: MigrationId,
    /// How far it came.
    pub step: MotionStep,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CapabilityReason>,
    /// Figures as they were last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<MotionProgress>,
}

/// How far a VM's part in a migration came. None of these is ever taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MotionStep {
    /// Source: sending was begun. It is tried once.
    Begun,
    /// Source: it was handed over whole.
    Left,
    /// Source: it did not come about, and the VM is here.
    Failed,
    /// Target: nothing comes in any more.
    Closed,
}

impl MotionRecord {
    /// A step of a migration.
    pub fn new(id: MigrationId, step: MotionStep) -> Self {
        Self { id, step, reason: None, progress: None }
    }
}

/// A shutdown that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecord {
    /// When the guest was first asked; the grace counts from here.
    pub first_at: DateTime,
    /// When it was last asked.
    pub last_at: DateTime,
    /// Whether asking ever came to its end. An agent that was killed before has asked nobody, and begins anew.
    #[serde(default)]
    pub asked: bool,
}

/// Seconds after which a guest that still runs is asked again: it may not have listened yet.
pub const SHUTDOWN_REPEAT_SECONDS: i64 = 10;

/// A start that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartRecord {
    /// When.
    pub at: DateTime,
    /// The generation it was for: a new intent starts at once.
    pub generation: Generation,
    /// Starts before this one that each came within [`QUICK_DEATH_SECONDS`] of the one before.
    pub quick_deaths: u32,
}

/// A VM that has to be started again within so many seconds died quickly.
pub const QUICK_DEATH_SECONDS: i64 = 60;

impl StartRecord {
    /// Another start.
    pub fn after(before: Option<&Self>, generation: Generation, now: DateTime) -> Self {
        let quick = before
            .filter(|b| b.generation == generation && now < b.at + TimeDelta::seconds(QUICK_DEATH_SECONDS));
        Self { at: now, generation, quick_deaths: quick.map_or(0, |b| b.quick_deaths.saturating_add(1)) }
    }

    /// When it may be started again: the first time at once, then 2, 4, 8 … at most 60 s after the last.
    pub fn not_before(&self, generation: Generation) -> DateTime {
        if self.generation != generation || self.quick_deaths == 0 {
            return self.at;
        }
        self.at + TimeDelta::seconds((1_i64 << self.quick_deaths.min(6)).min(QUICK_DEATH_SECONDS - 1))
    }
}

/// A one-shot verb, as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// What was asked.
    pub operation: Operation,
    /// When the ledger said "started".
    pub started_at: DateTime,
    /// What became of it; absent between "started" and its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<OperationReport>,
}

/// A resource whose last action failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Failures since the last success.
    pub failures: u32,
    /// Nothing is tried before.
    pub not_before: DateTime,
    /// The last failure.
    pub reason: CapabilityReason,
}

/// The first wait after a failure.
const FIRST_WAIT_MILLISECONDS: i64 = 500;
/// The longest wait.
const LONGEST_WAIT_MILLISECONDS: i64 = 60_000;

impl BackOff {
    /// Another failure. `jitter` is a share of 1: hosts that failed together do not retry together.
    pub fn after(before: Option<&Self>, reason: CapabilityReason, now: DateTime, jitter: f64) -> Self {
        let failures = before.map_or(0, |b| b.failures).saturating_add(1);
        let doubled = FIRST_WAIT_MILLISECONDS.saturating_mul(1 << (failures - 1).min(10));
        let wait = doubled.min(LONGEST_WAIT_MILLISECONDS);
        // Between three quarters and all of the wait: never longer than the bound that people are told.
        let wait = wait * 3 / 4 + (wait as f64 / 4.0 * jitter.clamp(0.0, 1.0)) as i64;
        Self { failures, not_before: now + TimeDelta::milliseconds(wait), reason }
    }
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is so now.
    Done,
    /// The host cannot do it, and nothing was done.
    Refused(CapabilityReason),
    /// It may or may not have happened.
    Failed(CapabilityReason),
}

impl Memory {
    /// Takes a manifest as the newest word. What it no longer names is forgotten.
    pub fn accept(&mut self, manifest: &Manifest) {
        let newest = |item: &basalt_wire::agent::Item| {
            let before = self.accepted.get(&item.key()).copied().unwrap_or_default();
            (item.key(), before.max((item.epoch, item.generation)))
        };
        self.accepted = manifest.items.iter().map(newest).collect();
        let named = |kind: ItemKind, id: uuid::Uuid| self.accepted.contains_key(&ItemKey { kind, id });
        self.realised.retain(|key, _| named(key.kind, key.id));
        // One that is to go may come back, made anew: a VM that went to another host returns.
        let kept = |id: &VolumeId| {
            let key = ItemKey { kind: ItemKind::Volume, id: id.0 };
            manifest.get(key.kind, key.id).is_some_and(|item| !item.is_absent())
        };
        self.made.retain(|id, _| kept(id));
        self.stops.retain(|id, _| named(ItemKind::Vm, id.0));
        self.operations.retain(|id, _| named(ItemKind::Vm, id.0));
        self.starts.retain(|id, _| named(ItemKind::Vm, id.0));
        // What a migration left behind is over with its item's word of it.
        let motion = |item: &basalt_wire::agent::Item| match &item.desired {
            Desired::Vm(body) => body.motion.as_ref().map(|m| (VmId(item.id), m.id())),
            _ => None,
        };
        let motions: BTreeMap<VmId, MigrationId> = manifest.items.iter().filter_map(motion).collect();
        self.motions.retain(|id, record| motions.get(id) == Some(&record.id));
    }

    /// Keeps what a plan found out.
    pub fn note(&mut self, note: &Note) {
        match note {
            Note::Realised(key, generation) => drop(self.realised.insert(*key, *generation)),
            Note::Made(id, incarnation) => drop(self.made.insert(*id, *incarnation)),
            Note::StopEnded(id) => drop(self.stops.remove(id)),
            Note::OperationEnded(id, record) => drop(self.operations.insert(*id, record.clone())),
            Note::Motion(id, record) => drop(self.motions.insert(*id, record.clone())),
        }
    }

    /// What must be durable before an action is begun. Answers whether anything changed.
    pub fn begin(&mut self, action: &Action, now: DateTime) -> bool {
        let (id, operation, verb) = match action {
            Action::ShutdownVm(id) => {
                let before = self.stops.get(id).filter(|record| record.asked);
                let (first_at, asked) = before.map_or((now, false), |record| (record.first_at, true));
                self.stops.insert(*id, StopRecord { first_at, last_at: now, asked });
                return true;
            }
            Action::SendVm(send) => {
                let record = MotionRecord::new(send.migration_id, MotionStep::Begun);
                self.motions.insert(send.id, record);
                return true;
            }
            Action::ShutDoor { id, migration_id } => {
                self.motions.insert(*id, MotionRecord::new(*migration_id, MotionStep::Closed));
                return true;
            }
            Action::RebootVm { id, operation } => (id, operation, OperationVerb::Reboot),
            Action::ResetVm { id, operation } => (id, operation, OperationVerb::Reset),
            _ => return false,
        };
        let operation = Operation { id: *operation, verb };
        self.operations.insert(*id, OperationRecord { operation, started_at: now, report: None });
        true
    }

    /// How an action ended. `jitter` is a share of 1. Answers whether something durable changed.
    pub fn end(
        &mut self,
        work: Resource,
        action: &Action,
        outcome: Outcome,
        now: DateTime,
        jitter: f64,
    ) -> bool {
        if let Action::RebootVm { id, operation } | Action::ResetVm { id, operation } = action {
            let (outcome, message) = match outcome {
                Outcome::Done => (OperationOutcome::Done, String::new()),
                Outcome::Refused(reason) => (OperationOutcome::Failed, reason.to_string()),
                Outcome::Failed(reason) => (OperationOutcome::Unknown, reason.to_string()),
            };
            if let Some(record) = self.operations.get_mut(id) {
                record.report = Some(OperationReport { id: *operation, outcome, message });
            }
            return true;
        }
        if let Action::SendVm(send) = action {
            self.sent(send.id, send.migration_id, outcome);
            return true;
        }
        let mut durable = false;
        if let Action::ShutdownVm(id) = action
            && let Some(record) = self.stops.get_mut(id)
        {
            durable = !record.asked;
            record.asked = true;
        }
        match outcome {
            Outcome::Done => {
                self.back_off.remove(&work);
                if let Action::StartVm { id, .. } = action {
                    let generation = self.accepted.get(&ItemKey { kind: ItemKind::Vm, id: id.0 }).copied();
                    let generation = generation.unwrap_or_default().1;
                    let record = StartRecord::after(self.starts.get(id), generation, now);
                    self.starts.insert(*id, record);
                }
            }
            Outcome::Refused(reason) | Outcome::Failed(reason) => {
                let back_off = BackOff::after(self.back_off.get(&work), reason, now, jitter);
                self.back_off.insert(work, back_off);
            }
        }
        durable
    }

    /// How the sending of a VM ended. A failure says nothing: what stands on the host does.
    fn sent(&mut self, id: VmId, migration_id: MigrationId, outcome: Outcome) {
        let progress = self.progress.remove(&id);
        let Some(record) = self.motions.get_mut(&id).filter(|r| r.id == migration_id) else { return };
        record.progress = progress.or(record.progress);
        match outcome {
            Outcome::Done => record.step = MotionStep::Left,
            Outcome::Refused(reason) => (record.step, record.reason) = (MotionStep::Failed, Some(reason)),
            Outcome::Failed(reason) => record.reason = Some(reason),
        }
    }
}
