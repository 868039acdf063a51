//! A VM on its way between hosts, as each of the two acts on it.
//!
//! ```text
//! source   preparing ──(cold: ready)──► begun ──► left         (cold, shared volumes: ready ──► left)
//!              └──────────────────────────┴─────► failed: the guest is here, and power is managed as ever
//! target   preparing ──► ready ──► copying ──► arrived
//!              └───────────┴──────────┴──(close)──► failed: nothing is here and nothing comes any more
//! ```
//! - Sending is begun once: the ledger says so first. From then on, until it says that it failed, the VM is not touched
//!   here; what stands on the host then tells what became of it, also after the agent was killed.
//! - What a target has in part is never resumed, and nothing is let go of there before the door is shut for good.
//! - An arrived guest waits until its source let go of it: its source says so to the door, or the placement does.

use super::{
    Action, DoorDefinition, DoorSeen, Draft, Judgement, Look, MotionRecord, MotionStep, Note, Resource,
    SendDefinition, Transit,
    vm::{Case, live},
};
use basalt_model::{
    CapabilityReason, VmId,
    migrations::{MigrationMode, Motion, MotionProgress, MotionSide, MotionState},
    vms::{ObservedPower, Power},
};
use basalt_wire::agent::{
    ItemObserved,
    manifest::{IncomingBody, MotionBody, OutgoingBody},
};

pub(super) fn present(case: &Case<'_>, judgement: Judgement, motion: &MotionBody) -> Judgement {
    match motion {
        MotionBody::Outgoing(body) => outgoing(case, judgement, body),
        MotionBody::Incoming(body) => incoming(case, judgement, body),
    }
}

/// Closes the door that stands open for a VM.
pub(super) fn shut(look: &Look<'_>, id: VmId) -> Option<Action> {
    let door = look.observed.doors.get(&id)?;
    Some(Action::ShutDoor { id, migration_id: door.migration_id })
}

/// Doors that no item wants any more are closed.
pub(super) fn doors(look: &Look<'_>, draft: &mut Draft) {
    let wanted = |id: VmId, door: &DoorSeen| {
        look.index.vms().any(|(vm, body)| {
            vm == id && matches!(&body.motion, Some(MotionBody::Incoming(b)) if b.id == door.migration_id)
        })
    };
    for (id, door) in &look.observed.doors {
        let absent = look.index.is_absent(basalt_wire::agent::ItemKind::Vm, *id);
        if !wanted(*id, door) && !absent {
            let shut = Action::ShutDoor { id: *id, migration_id: door.migration_id };
            draft.work(look, Resource::Motion(door.migration_id), vec![shut]);
        }
    }
}

fn outgoing(case: &Case<'_>, judgement: Judgement, body: &OutgoingBody) -> Judgement {
    let record = case.look.memory.motions.get(&case.id).filter(|r| r.id == body.id);
    match record.map(|r| r.step) {
        Some(MotionStep::Left) => {
            let judgement = judgement.wait("it went to another host");
            source(case, judgement, body, MotionState::Left, record)
        }
        Some(MotionStep::Failed) => source(case, case.usual(judgement), body, MotionState::Failed, record),
        Some(MotionStep::Begun) if body.mode == MigrationMode::Cold => {
            cold_begun(case, judgement, body, record)
        }
        Some(MotionStep::Begun) => begun(case, judgement, body, record),
        Some(MotionStep::Closed) | None => not_begun(case, judgement, body),
    }
}

/// What the source says.
fn source(
    case: &Case<'_>,
    judgement: Judgement,
    body: &OutgoingBody,
    state: MotionState,
    record: Option<&MotionRecord>,
) -> Judgement {
    let now = case.look.memory.progress.get(&case.id).copied();
    let progress: Option<MotionProgress> = now.or(record.and_then(|r| r.progress));
    let reason = record.and_then(|r| r.reason.clone()).filter(|_| state == MotionState::Failed);
    show(judgement, Motion { id: body.id, side: MotionSide::Source, state, progress, reason })
}

fn not_begun(case: &Case<'_>, judgement: Judgement, body: &OutgoingBody) -> Judgement {
    if body.cancel {
        let judgement = failed(case, case.usual(judgement), body, cancelled(case));
        return source(case, judgement, body, MotionState::Preparing, None);
    }
    match body.mode {
        MigrationMode::Live => live_not_begun(case, judgement, body),
        MigrationMode::Cold => cold_not_begun(case, judgement, body),
    }
}

fn live_not_begun(case: &Case<'_>, judgement: Judgement, body: &OutgoingBody) -> Judgement {
    let whole = matches!(case.seen.power, ObservedPower::Running | ObservedPower::Paused)
        && matches!(case.seen.transit, Transit::Still);
    let judgement = match (body.begin, whole) {
        (false, _) => case.usual(judgement),
        (true, true) => judgement.act([send(case, body)]),
        (true, false) if case.seen.power == ObservedPower::Unknown => {
            judgement.wait("cannot tell whether it runs")
        }
        (true, false) => {
            let reason = reason(
                case,
                "not_running",
                "the guest does not run, so it cannot be sent as it runs",
                "start it and migrate it again, or migrate it cold",
            );
            failed(case, case.usual(judgement), body, reason)
        }
    };
    source(case, judgement, body, MotionState::Preparing, None)
}

/// The guest is brought down, and stays so until it is at the target or the migration failed.
fn cold_not_begun(case: &Case<'_>, judgement: Judgement, body: &OutgoingBody) -> Judgement {
    let down = basalt_wire::agent::manifest::VmBody { power: Power::Stopped, ..case.body.clone() };
    let stopping = Case { body: &down, ..*case };
    let is_down = !live(case.seen);
    let mut judgement = stopping.usual(judgement);
    let state = if is_down { MotionState::Ready } else { MotionState::Preparing };
    if is_down && body.begin {
        // Its disks are closed, and it is not started while this stands.
        judgement = judgement.wait("handing it over");
        judgement.actions.clear();
    }
    if is_down && body.begin && body.copy_storage {
        judgement = judgement.act([send(case, body)]);
    } else if is_down && body.begin {
        // With shared volumes that is all.
        judgement.notes.push(Note::Motion(case.id, MotionRecord::new(body.id, MotionStep::Left)));
    }
    source(case, judgement, body, state, None)
}

fn send(case: &Case<'_>, body: &OutgoingBody) -> Action {
    Action::SendVm(Box::new(SendDefinition {
        id: case.id,
        migration_id: body.id,
        target: body.target,
        address: body.address,
        mode: body.mode,
        copy_storage: body.copy_storage,
        max_pause_milliseconds: body.max_pause_milliseconds,
        on_stall: body.on_stall,
        max_bytes_per_second: body.max_bytes_per_second,
        vm: case.definition.clone(),
    }))
}

/// It was begun: what stands on the host tells what became of it.
fn begun(
    case: &Case<'_>,
    judgement: Judgement,
    body: &OutgoingBody,
    record: Option<&MotionRecord>,
) -> Judgement {
    let under_way = case.look.memory.in_flight.contains_key(&Resource::Vm(case.id));
    let judgement = judgement.wait("migrating");
    let state = match (case.seen.transit, case.seen.power) {
        (Transit::PartThere, _) => MotionState::Split,
        (Transit::Torn, _) => MotionState::Torn,
        _ if under_way => MotionState::Copying,
        (Transit::Sending | Transit::Held, _) => MotionState::Copying,
        // Whether it arrived is not known here. It may even be here, stopped at the last moment.
        (Transit::Away | Transit::Unexplained | Transit::Stranded, _) => MotionState::Lost,
        (_, ObservedPower::Absent) => MotionState::Lost,
        (_, ObservedPower::Unknown | ObservedPower::Stopping) => MotionState::Copying,
        // It is here whole: it runs, or it died here, and nothing is under way.
        _ => {
            let why = record.and_then(|r| r.reason.clone()).unwrap_or_else(|| interrupted(case));
            let judgement = failed(case, judgement, body, why);
            return source(case, judgement, body, MotionState::Copying, record);
        }
    };
    // Who looked after it is no more, or it was taken back: it is not left to itself.
    let stop = state == MotionState::Copying && (body.cancel || !under_way);
    let abort = Action::AbortSend { id: case.id, migration_id: body.id };
    let judgement = match stop {
        true => judgement.on(Resource::Motion(body.id)).act([abort]),
        false => judgement,
    };
    source(case, judgement, body, state, record)
}

/// Its volumes are being sent, or are no more: what the target has of them counts only when all of it is there, and then
/// the ledger says that it left.
fn cold_begun(
    case: &Case<'_>,
    judgement: Judgement,
    body: &OutgoingBody,
    record: Option<&MotionRecord>,
) -> Judgement {
    let judgement = judgement.wait("sending its volumes");
    let judgement = if !case.look.memory.in_flight.contains_key(&Resource::Vm(case.id)) {
        let why = record.and_then(|r| r.reason.clone()).unwrap_or_else(|| interrupted(case));
        failed(case, judgement, body, why)
    } else if body.cancel {
        let abort = Action::AbortSend { id: case.id, migration_id: body.id };
        judgement.on(Resource::Motion(body.id)).act([abort])
    } else {
        judgement
    };
    source(case, judgement, body, MotionState::Copying, record)
}

fn failed(
    case: &Case<'_>,
    mut judgement: Judgement,
    body: &OutgoingBody,
    reason: CapabilityReason,
) -> Judgement {
    let before = case.look.memory.motions.get(&case.id).filter(|r| r.id == body.id);
    let mut record = MotionRecord::new(body.id, MotionStep::Failed);
    record.progress = before.and_then(|r| r.progress);
    record.reason = Some(reason);
    judgement.notes.push(Note::Motion(case.id, record));
    judgement
}

fn incoming(case: &Case<'_>, judgement: Judgement, body: &IncomingBody) -> Judgement {
    let record = case.look.memory.motions.get(&case.id);
    let closed = record.is_some_and(|r| r.id == body.id && r.step == MotionStep::Closed);
    let door = case.look.observed.doors.get(&case.id);
    let (state, judgement) = match stands(case) {
        Stands::Part => {
            let discard = closed.then_some(Action::DiscardVm(case.id));
            (MotionState::Copying, judgement.wait("taking it in").act(discard))
        }
        Stands::Split => (MotionState::Split, judgement.wait("taking it in")),
        Stands::Torn => (MotionState::Torn, judgement.wait("a part of its memory is missing")),
        Stands::Whole => (MotionState::Arrived, judgement.wait("waiting until its source let go of it")),
        Stands::Unknown => (MotionState::Preparing, judgement.wait("cannot tell whether it runs")),
        // A definition of a former life stands in the way of the one that comes.
        Stands::Leftover => {
            (MotionState::Preparing, judgement.act([Action::UndefineVm(case.id)]).wait("making room"))
        }
        Stands::Nothing if closed => (MotionState::Failed, judgement),
        Stands::Nothing => awaited(case, judgement, body),
    };
    // What is closed while something comes in is closed first; all else waits for that.
    let judgement = match body.close && (!closed || door.is_some()) {
        true => {
            let shut = Action::ShutDoor { id: case.id, migration_id: body.id };
            Judgement { actions: vec![shut], ..judgement }.on(Resource::Motion(body.id))
        }
        false => judgement,
    };
    show(judgement, Motion { id: body.id, side: MotionSide::Target, state, progress: None, reason: None })
}

/// What a target has of a VM that is to come.
enum Stands {
    Nothing,
    Leftover,
    Part,
    Split,
    Torn,
    Whole,
    Unknown,
}

fn stands(case: &Case<'_>) -> Stands {
    let seen = case.seen;
    let stamp = seen.running.as_ref().or(seen.defined.as_ref());
    match (seen.transit, seen.power) {
        (Transit::Held | Transit::Stranded, _) => Stands::Part,
        (Transit::PartHere | Transit::PartThere, _) => Stands::Split,
        (Transit::Torn, _) => Stands::Torn,
        (_, ObservedPower::Absent) => Stands::Nothing,
        (_, ObservedPower::Running | ObservedPower::Paused) => Stands::Whole,
        (_, ObservedPower::Unknown) => Stands::Unknown,
        (_, ObservedPower::Stopping) => Stands::Whole,
        // Off. With the mark of its source's placement it came, and ended here.
        _ if stamp.is_some_and(|s| s.epoch.0 + 1 >= case.item.epoch.0) && seen.transit != Transit::Away => {
            Stands::Torn
        }
        _ => Stands::Leftover,
    }
}

/// Nothing of it is here: all that it needs is made ready, then the door is opened.
fn awaited(case: &Case<'_>, judgement: Judgement, body: &IncomingBody) -> (MotionState, Judgement) {
    if body.close {
        return (MotionState::Preparing, judgement);
    }
    let judgement = match case.prepare(true) {
        Ok(actions) if actions.is_empty() => judgement,
        Ok(actions) => return (MotionState::Preparing, judgement.act(actions).wait("getting ready for it")),
        Err(hold) => return (MotionState::Preparing, hold.apply(judgement)),
    };
    let resume = case.body.power == Power::Running;
    let wanted = DoorSeen { migration_id: body.id, resume };
    match case.look.observed.doors.get(&case.id) {
        Some(door) if *door == wanted => (MotionState::Ready, judgement.wait("waiting for it")),
        door => {
            let open = Action::OpenDoor(DoorDefinition {
                id: case.id,
                migration_id: body.id,
                source: body.source,
                mode: body.mode,
                copy_storage: body.copy_storage,
                resume,
                vm: case.definition.clone(),
            });
            // Only what it does at the end differs: it is open all the same.
            let open_already = door.is_some_and(|d| d.migration_id == body.id);
            let state = if open_already { MotionState::Ready } else { MotionState::Preparing };
            (state, judgement.on(Resource::Motion(body.id)).act([open]).wait("waiting for it"))
        }
    }
}

fn show(mut judgement: Judgement, motion: Motion) -> Judgement {
    if let ItemObserved::Vm(vm) = &mut judgement.observed {
        vm.motion = Some(Box::new(motion));
    }
    judgement
}

fn reason(case: &Case<'_>, code: &'static str, message: &str, remedy: &str) -> CapabilityReason {
    CapabilityReason::new(code, format!("vm/{}", case.body.name), message, remedy)
}

fn cancelled(case: &Case<'_>) -> CapabilityReason {
    reason(
        case,
        "migration_cancelled",
        "it was taken back before anything was sent",
        "migrate it again when it suits",
    )
}

fn interrupted(case: &Case<'_>) -> CapabilityReason {
    reason(
        case,
        "migration_interrupted",
        "the agent stopped in between, and the guest is still here",
        "migrate it again; see why the agent of its host stopped",
    )
}
