//! Migrations: where each is, what is to be done about it, and what hosts are told meanwhile.

use super::{Indexes, Inputs, requests};
use crate::rows::{FactRow, MigrationRow};
use basalt_model::{
    CapabilityReason, HostId, MigrationId, Name, VmId,
    hosts::{HostFacts, HostState},
    migrations::{
        Migration, MigrationMode, MigrationOutcome, MigrationPhase, MigrationResult, MotionProgress,
    },
};
use basalt_plan::{
    migrations::{self, AtTarget, Decision, Side, Truth, at_source, at_target},
    placement::{self, HostView, departure::Leaving, not_known_yet},
};
use basalt_store::migrations::Choice;
use basalt_wire::agent::manifest::{IncomingBody, ItemKind, MotionBody, OutgoingBody};
use krt::{Builder, Collection, Ctx, Index};

/// A step of a migration that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Give it a target.
    Choose(Choice),
    /// The source may begin.
    Begin,
    /// The target is to let nothing in any more.
    Close,
    /// Somebody owns the VM. `begun`: whether the source had been told to begin.
    Settle {
        /// Whether the source had been told to begin.
        begun: bool,
        /// What became of it.
        outcome: MigrationOutcome,
    },
}

/// Where a migration is.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The word for it.
    pub phase: MigrationPhase,
    /// Figures from the source.
    pub progress: Option<MotionProgress>,
    /// What is waited for, for people.
    pub waits: String,
    /// What is to be done now.
    pub step: Option<Step>,
}

/// The live migration of a VM, by VM.
pub type ByVm = Index<MigrationId, MigrationRow, VmId>;

/// Where every migration is.
pub(super) fn status(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    states: Collection<HostId, HostState>,
    views: Collection<HostId, HostView>,
    peers: requests::Peers,
) -> Collection<MigrationId, Status> {
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive("migration_status", &inputs.migrations, move |ctx, id, row| {
        let migration = &row.migration;
        let vm = ctx.get(&inputs.vms, &migration.vm_id)?;
        // Both hosts are told that nothing of it is to be left, and its migration goes with it.
        if vm.0.metadata.deletion_requested_at.is_some() {
            return None;
        }
        let truth = Truth {
            chosen: migration.target_host_id.is_some(),
            begun: row.begun,
            cancelled: is_taken_back(ctx, &inputs, migration),
            overdue: ctx.exists(&inputs.overdue, id),
            copies_storage: migration.copies_storage,
            gives_way: false,
            cold: migration.mode == MigrationMode::Cold,
        };
        Some(match migration.target_host_id {
            None => choose(ctx, &inputs, views, peers, truth, migration),
            Some(target) => decide(ctx, (&inputs, &indexes), states, truth, migration, target),
        })
    })
}

/// Whether it was taken back: itself, or with the drain that asked for it.
fn is_taken_back(ctx: &Ctx<'_>, inputs: &Inputs, migration: &Migration) -> bool {
    let drain = |id| ctx.project(&inputs.drains, &id, |d| d.cancel_requested_at.is_some());
    migration.cancel_requested_at.is_some() || migration.drain_id.and_then(drain).unwrap_or(false)
}

fn ends(result: MigrationResult, message: String, reason: Option<CapabilityReason>) -> MigrationOutcome {
    MigrationOutcome { result, message, reason, from_disk: false, progress: None }
}

/// Chooses a target, or says why there is none.
fn choose(
    ctx: &Ctx<'_>,
    inputs: &Inputs,
    views: Collection<HostId, HostView>,
    peers: requests::Peers,
    truth: Truth,
    migration: &Migration,
) -> Status {
    let status = |waits: String, step: Option<Step>| Status {
        phase: MigrationPhase::Requested,
        progress: None,
        waits,
        step,
    };
    let settle = |outcome| Some(Step::Settle { begun: false, outcome });
    if truth.cancelled {
        let message = "it was taken back before a host was chosen".to_owned();
        return status(String::new(), settle(ends(MigrationResult::Cancelled, message, None)));
    }
    let found = target(ctx, inputs, views, peers, migration);
    match found {
        Ok(choice) if !truth.overdue => status(String::new(), Some(Step::Choose(choice))),
        Ok(_) => {
            let message = "its deadline passed before a host was chosen".to_owned();
            status(String::new(), settle(ends(MigrationResult::Failed, message, None)))
        }
        Err(reason) if truth.overdue => {
            let message = "no host took it before its deadline".to_owned();
            status(String::new(), settle(ends(MigrationResult::Failed, message, Some(reason))))
        }
        Err(reason) if migration.drain_id.is_some() => {
            let message = "the host that it was to go to does not take it any more".to_owned();
            status(String::new(), settle(ends(MigrationResult::Failed, message, Some(reason))))
        }
        Err(reason) => status(reason.to_string(), None),
    }
}

fn target(
    ctx: &Ctx<'_>,
    inputs: &Inputs,
    views: Collection<HostId, HostView>,
    peers: requests::Peers,
    migration: &Migration,
) -> Result<Choice, CapabilityReason> {
    let vm = ctx.get(&inputs.vms, &migration.vm_id).ok_or_else(|| not_known_yet("vm"))?;
    let source = ctx.get(&views, &migration.source_host_id).ok_or_else(|| not_known_yet("host"))?;
    let asked = requests::of(ctx, inputs, &vm.0).map_err(|_| not_known_yet("volumes"))?;
    let overlays = !asked.request.images.is_empty();
    let leaving = Leaving::new(asked.request, source, (migration.mode, migration.spec.on_stall), overlays)?;
    let wanted = |host: &HostView| migration.spec.host.as_ref().is_none_or(|name| *name == host.name);
    let hosts: Vec<&HostView> = ctx.scan(&views).map(|(_, host)| &**host).filter(|h| wanted(h)).collect();
    let neighbours = {
        let emptied = migration.drain_id.map(|_| migration.source_host_id);
        peers.around(ctx, vm.0.metadata.project_id, migration.vm_id, &leaving.request, emptied)
    };
    let decision = placement::choose(&leaving.request, &neighbours, hosts.iter().copied());
    let (target, pools) = decision.verdict.fits()?;
    let pools = requests::pools_at(&asked.volumes, &leaving, &pools, &hosts, target);
    Ok(Choice { id: migration.id, target, pools, copies_storage: leaving.copies_storage })
}

/// What one of the two hosts says of the VM: only what it says at the epoch that it has it at, and of this migration.
fn side<'a>(
    ctx: &Ctx<'a>,
    (inputs, indexes): (&Inputs, &Indexes),
    states: Collection<HostId, HostState>,
    migration: &Migration,
    host: HostId,
    epoch: basalt_model::Epoch,
) -> Side<'a> {
    let at = (host, ItemKind::Vm, migration.vm_id.0);
    let fact: Option<&FactRow> = ctx.get(&inputs.facts, &at).map(|f| &**f).filter(|f| f.epoch == epoch);
    let (state, leased) = (ctx.get(&states, &host).map(|s| **s), fact.is_some_and(|f| f.leased));
    Side {
        heard: migrations::heard(state, leased, indexes.death(ctx, &host).is_some()),
        power: fact.map(|f| f.power).unwrap_or_default(),
        motion: fact.and_then(|f| f.motion.as_deref()).filter(|m| m.id == migration.id),
        blocked: fact.and_then(|f| f.blocked.as_ref()),
    }
}

fn decide(
    ctx: &Ctx<'_>,
    known: (&Inputs, &Indexes),
    states: Collection<HostId, HostState>,
    truth: Truth,
    migration: &Migration,
    target: HostId,
) -> Status {
    let source = side(ctx, known, states, migration, migration.source_host_id, migration.source_epoch);
    let there = side(ctx, known, states, migration, target, migration.target_epoch());
    let (s, t) = (at_source(truth, &source), at_target(Some(&there)));
    let of_no_use = t == AtTarget::Silent || (t == AtTarget::Nothing && there.blocked.is_some());
    let truth = Truth { gives_way: migration.drain_id.is_some() && of_no_use, ..truth };
    let progress = source.motion.and_then(|m| m.progress);
    let said = source.motion.and_then(|m| m.reason.clone());
    let mut waits = String::new();
    let settle = |outcome| Some(Step::Settle { begun: truth.begun, outcome });
    let step = match migrations::decide(truth, s, t) {
        Decision::Wait(why) => {
            let blocked = there.blocked.filter(|_| t == AtTarget::Nothing);
            waits = blocked.map_or_else(|| why.to_owned(), ToString::to_string);
            None
        }
        Decision::Ask(why) => {
            waits = format!("{why}; a person has to decide: see unstick");
            None
        }
        Decision::Begin => Some(Step::Begin),
        Decision::Close => Some(Step::Close),
        Decision::SourceOwns { result, why, from_disk } => {
            let reason = said.or_else(|| there.blocked.cloned());
            settle(MigrationOutcome { result, message: why.into(), reason, from_disk, progress })
        }
        Decision::TargetOwns { why, from_disk } => settle(MigrationOutcome {
            result: MigrationResult::Completed,
            message: why.into(),
            reason: None,
            from_disk,
            progress,
        }),
    };
    Status { phase: migrations::phase(truth, s, t), progress, waits, step }
}

/// Steps that are to be written.
pub fn steps(
    builder: &mut Builder,
    status: Collection<MigrationId, Status>,
) -> Collection<MigrationId, Step> {
    builder.derive("migration_steps", &status, |_, _, status| status.step.clone())
}

/// What the host of a VM's placement is told of its migration.
pub fn outgoing(ctx: &Ctx<'_>, inputs: &Inputs, row: &MigrationRow) -> Option<MotionBody> {
    let migration = &row.migration;
    let target = migration.target_host_id?;
    let address = |facts: &basalt_store::hosts::HostFactsRow| facts.facts.migration_address;
    let spec = &migration.spec;
    Some(MotionBody::Outgoing(OutgoingBody {
        id: migration.id,
        target,
        address: ctx.project(&inputs.host_facts, &target, address).flatten()?,
        mode: migration.mode,
        copy_storage: migration.copies_storage,
        begin: row.begun,
        // Who comes too late is stopped like one that was taken back.
        cancel: is_taken_back(ctx, inputs, migration) || ctx.exists(&inputs.overdue, &migration.id),
        max_pause_milliseconds: spec.max_pause_milliseconds,
        on_stall: spec.on_stall,
        max_bytes_per_second: spec.max_bytes_per_second,
    }))
}

/// What the target of a migration is told.
pub fn incoming(row: &MigrationRow) -> MotionBody {
    let migration = &row.migration;
    MotionBody::Incoming(IncomingBody {
        id: migration.id,
        source: migration.source_host_id,
        mode: migration.mode,
        copy_storage: migration.copies_storage,
        close: row.closed,
    })
}

/// The pools of a host that are storage which other hosts see.
pub fn shared_pools(facts: &HostFacts) -> Vec<Name> {
    facts.pools.iter().filter(|p| p.shared_id.is_some()).map(|p| p.name.clone()).collect()
}
