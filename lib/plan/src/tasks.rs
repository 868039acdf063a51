//! Tasks: how far a converging task is, judged from what it is about.
//!
//! Nobody works on these tasks. A task is done when the facts say that what it asked for is so at
//! its generation, or when something newer took its place; it fails only on what cannot change by
//! itself. Progress never goes back.

use crate::{
    conditions::{VmFacts, VolumeFacts, power_is},
    drains, migrations,
};
use basalt_model::{
    CapabilityReason,
    drains::Drain,
    images::{ImageObserved, ImageState},
    migrations::{MigrationPhase, MotionProgress},
    tasks::{Task, TaskKind, TaskMove, TaskState},
    vms::{Operation, OperationOutcome, Power},
    volumes::VolumeState,
};

/// What a task is about, as it is now.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject<'a> {
    /// Nothing of it is left.
    Gone,
    /// A VM, with the last one-shot verb that was asked of it.
    Vm(&'a VmFacts, Option<&'a Operation>),
    /// A volume.
    Volume(&'a VolumeFacts),
    /// An image.
    Image {
        /// Whether its deletion was asked for.
        deleting: bool,
        /// Bytes that the upload will have; an import learns it.
        expected_bytes: Option<u64>,
        /// What the image service reported.
        observed: &'a ImageObserved,
    },
    /// A network.
    Network {
        /// Whether its deletion was asked for.
        deleting: bool,
    },
}

/// A task that must complete first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Its name for people: kind and subject.
    pub what: String,
    /// Where it is.
    pub state: TaskState,
}

/// Codes of blocks that no waiting mends: the bytes of the image themselves are wrong.
const PERMANENT: [&str; 1] = ["digest_mismatch"];

/// The next move of a task; none when it says everything already, or is over.
pub fn advance(task: &Task, subject: &Subject<'_>, depends_on: &[Dependency]) -> Option<TaskMove> {
    if task.state.is_terminal() {
        return None;
    }
    let step = match task.is_held() {
        true => held(depends_on)?,
        false => step(task, subject),
    };
    let next = step.into_move(task)?;
    let changed = next.state != task.state || next.progress != task.progress || next.stage != task.stage;
    changed.then_some(next)
}

/// The next move of the task of a migration that is not over. `waits`: what it waits for, where that is not plain.
pub fn migrating(
    task: &Task,
    phase: MigrationPhase,
    progress: Option<&MotionProgress>,
    waits: &str,
) -> Option<TaskMove> {
    let (_, stage) = migrations::words(phase, progress, waits);
    let next = Step::Going { progress: migrations::percent(phase, progress), stage }.into_move(task)?;
    changed(task, next)
}

/// The next move of the task of a drain that is not over.
pub fn draining(task: &Task, drain: &Drain) -> Option<TaskMove> {
    let (progress, stage) = drains::progress(drain);
    let next = Step::Going { progress, stage }.into_move(task)?;
    changed(task, next)
}

fn changed(task: &Task, next: TaskMove) -> Option<TaskMove> {
    let same = next.state == task.state && next.progress == task.progress && next.stage == task.stage;
    (!same).then_some(next)
}

enum Step {
    /// Nothing was done for it yet: it stays as it is.
    Wait,
    Going {
        progress: i32,
        stage: String,
    },
    Completed(String),
    Failed(CapabilityReason),
    Cancelled(CapabilityReason),
}

impl Step {
    fn into_move(self, task: &Task) -> Option<TaskMove> {
        let (state, progress, stage, error) = match self {
            Step::Wait => return None,
            Step::Going { progress, stage } => {
                (TaskState::Executing, progress.clamp(task.progress, 99), stage, None)
            }
            Step::Completed(stage) => (TaskState::Completed, 100, stage, None),
            Step::Failed(reason) => (TaskState::Failed, task.progress, reason.message.clone(), Some(reason)),
            Step::Cancelled(reason) => {
                (TaskState::Cancelled, task.progress, reason.message.clone(), Some(reason))
            }
        };
        Some(TaskMove { id: task.id, state, progress, stage, error })
    }
}

/// Whether a task that waited for others starts now: every one of them completed.
pub fn starts(task: &Task, depends_on: &[Dependency]) -> bool {
    task.is_held() && depends_on.iter().all(|d| d.state == TaskState::Completed)
}

/// A task that waits for others only ever fails with them; it moves on by being started.
fn held(depends_on: &[Dependency]) -> Option<Step> {
    let bad = depends_on.iter().find(|d| d.state.is_terminal() && d.state != TaskState::Completed)?;
    let reason = CapabilityReason::new(
        "dependency_failed",
        bad.what.clone(),
        format!("{} was needed first and ended {}", bad.what, bad.state.as_str()),
        "mend what that task names and retry it, then retry this one",
    );
    Some(Step::Failed(reason))
}

fn step(task: &Task, subject: &Subject<'_>) -> Step {
    match (task.kind, subject) {
        (
            TaskKind::VmDelete
            | TaskKind::VolumeDelete
            | TaskKind::ImageDelete
            | TaskKind::NetworkDelete
            | TaskKind::RouterDelete,
            Subject::Gone,
        ) => Step::Completed("nothing of it is left".into()),
        (_, Subject::Gone) => Step::Cancelled(superseded(task, "it was deleted meanwhile")),
        (TaskKind::VmDelete, Subject::Vm(facts, _)) => vm_delete(facts),
        (_, Subject::Vm(facts, _)) if facts.deleting => {
            Step::Cancelled(superseded(task, "its deletion was asked for"))
        }
        (TaskKind::VmReboot | TaskKind::VmReset, Subject::Vm(facts, asked)) => operation(task, facts, *asked),
        (_, Subject::Vm(facts, _)) => vm(task, facts),
        (TaskKind::VolumeDelete, Subject::Volume(facts)) => {
            Step::Going { progress: 10, stage: going(&facts.stage, "the host is removing it") }
        }
        (_, Subject::Volume(facts)) if facts.deleting => {
            Step::Cancelled(superseded(task, "its deletion was asked for"))
        }
        (TaskKind::VolumeAdopt, Subject::Volume(facts)) => volume_adopt(task, facts),
        (_, Subject::Volume(_)) => Step::Completed("it is declared".into()),
        (TaskKind::ImageDelete, Subject::Image { .. }) => {
            Step::Going { progress: 10, stage: "it is being removed".into() }
        }
        (_, Subject::Image { deleting, expected_bytes, observed }) => {
            image(task, *deleting, *expected_bytes, observed)
        }
        (TaskKind::NetworkDelete | TaskKind::RouterDelete, Subject::Network { .. }) => {
            Step::Going { progress: 10, stage: "it is being removed".into() }
        }
        (_, Subject::Network { deleting: true }) => {
            Step::Cancelled(superseded(task, "its deletion was asked for"))
        }
        (_, Subject::Network { deleting: false }) => Step::Completed("it is declared".into()),
    }
}

fn superseded(task: &Task, why: &str) -> CapabilityReason {
    CapabilityReason::new(
        "superseded",
        format!("{}/{}", task.subject.kind, task.subject.name),
        format!("something newer took its place: {why}"),
        "nothing needs to be done; ask again if it is still wanted",
    )
}

fn going(stage: &str, otherwise: &str) -> String {
    if stage.is_empty() { otherwise.to_owned() } else { stage.to_owned() }
}

fn vm_delete(facts: &VmFacts) -> Step {
    match &facts.placement {
        None => Step::Going { progress: 50, stage: "its rows are being removed".into() },
        Some(p) => Step::Going {
            progress: 10,
            stage: going(&facts.stage, &format!("host {} is removing it", p.host)),
        },
    }
}

/// A file is taken over when the host has it under the volume's name.
fn volume_adopt(task: &Task, facts: &VolumeFacts) -> Step {
    let seen = facts.observed.state == VolumeState::Ready && facts.observed_generation >= task.generation;
    match &facts.observed.blocked {
        Some(reason) => Step::Going { progress: 10, stage: format!("blocked: {reason}") },
        None if seen => Step::Completed("the host has taken it over".into()),
        None => Step::Going { progress: 10, stage: going(&facts.stage, "the host is taking it over") },
    }
}

/// The power that a task of this kind asked for.
fn asked_power(kind: TaskKind) -> Option<Power> {
    match kind {
        TaskKind::VmStart | TaskKind::VmResume => Some(Power::Running),
        TaskKind::VmStop => Some(Power::Stopped),
        TaskKind::VmPause => Some(Power::Paused),
        _ => None,
    }
}

fn vm(task: &Task, facts: &VmFacts) -> Step {
    let seen = facts.is_current() && facts.observed_generation >= task.generation;
    let asked = asked_power(task.kind);
    if let Some(asked) = asked {
        if seen && power_is(facts.observed.power, asked) {
            return Step::Completed(ready_stage(facts));
        }
        if asked != facts.power {
            return Step::Cancelled(superseded(task, "another power state was asked for"));
        }
    }
    if asked.is_none()
        && seen
        && facts.observed.incarnation >= facts.incarnation
        && power_is(facts.observed.power, facts.power)
    {
        return Step::Completed(ready_stage(facts));
    }
    if let Some(reason) = facts.blocked().filter(|r| PERMANENT.contains(&r.code.as_ref())) {
        return Step::Failed(reason.clone());
    }
    on_the_way(facts)
}

fn ready_stage(facts: &VmFacts) -> String {
    match (&facts.observed.pending_reboot, &facts.placement) {
        (Some(pending), _) => format!("accepted; {} ({})", pending.message, pending.remedy),
        (None, Some(p)) => format!("as declared, on host {}", p.host),
        (None, None) => "as declared".into(),
    }
}

/// Where an unfinished VM task is: placed 10, its parts up to 80, then the VM itself.
fn on_the_way(facts: &VmFacts) -> Step {
    let Some(place) = &facts.placement else {
        return match &facts.explanation {
            Some(e) if e.host_id.is_none() => {
                Step::Going { progress: 0, stage: format!("no host takes it yet: {}", e.summary) }
            }
            _ => Step::Wait,
        };
    };
    if let Some(blocked) = facts.blocked() {
        return Step::Going { progress: 10, stage: format!("blocked: {blocked}") };
    }
    let ready = facts.parts.iter().filter(|p| p.ready).count();
    let parts = facts.parts.len().max(1);
    let share = i32::try_from(70 * ready / parts).unwrap_or(0);
    match facts.parts.iter().find(|p| !p.ready) {
        None => Step::Going {
            progress: 80,
            stage: going(&facts.stage, &format!("host {} has what it needs", place.host)),
        },
        Some(part) if part.stage.is_empty() => {
            Step::Going { progress: 10 + share, stage: format!("host {} prepares {}", place.host, part.what) }
        }
        Some(part) => Step::Going { progress: 10 + share, stage: format!("{}: {}", part.what, part.stage) },
    }
}

fn operation(task: &Task, facts: &VmFacts, asked: Option<&Operation>) -> Step {
    let report = facts.observed.operation.as_ref().filter(|r| r.id == task.id);
    let reason = |code: &'static str, message: String, remedy: &'static str| {
        CapabilityReason::new(code, format!("vm/{}", task.subject.name), message, remedy)
    };
    match report.map(|r| (r.outcome, r.message.as_str())) {
        Some((OperationOutcome::Done, message)) => Step::Completed(going(message, "carried out")),
        Some((OperationOutcome::Failed, message)) => Step::Failed(reason(
            "operation_failed",
            going(message, "the host refused it"),
            "see the VM's conditions, then ask again",
        )),
        Some((OperationOutcome::Unknown, message)) => Step::Failed(reason(
            "operation_outcome_unknown",
            going(message, "the agent died in between; whether it was carried out cannot be told"),
            "look at the guest, and ask again if it is still wanted",
        )),
        None if asked.is_none_or(|o| o.id != task.id) => {
            Step::Cancelled(superseded(task, "it was taken back, or a newer one was asked for"))
        }
        None if facts.power != Power::Running => {
            Step::Cancelled(superseded(task, "the VM is no longer wanted running"))
        }
        None => match &facts.placement {
            None => Step::Wait,
            Some(p) => Step::Going { progress: 50, stage: format!("handed to host {}", p.host) },
        },
    }
}

fn image(task: &Task, deleting: bool, expected_bytes: Option<u64>, observed: &ImageObserved) -> Step {
    match observed.state {
        _ if deleting => Step::Cancelled(superseded(task, "its deletion was asked for")),
        ImageState::Deleting => Step::Cancelled(superseded(task, "its deletion was asked for")),
        ImageState::Ready => Step::Completed("its bytes are stored and verified".into()),
        ImageState::Failed => Step::Failed(observed.reason.clone().unwrap_or_else(|| {
            CapabilityReason::new(
                "upload_failed",
                format!("image/{}", task.subject.name),
                "its bytes did not come to be",
                "retry the task, and upload it again where it was uploaded",
            )
        })),
        ImageState::Verifying => {
            Step::Going { progress: 90, stage: "digest and format are being checked".into() }
        }
        // Of an import whoever carries it out says how far it is.
        ImageState::Uploading if observed.size_bytes == 0 => Step::Wait,
        ImageState::Uploading => {
            let expected_bytes = expected_bytes.unwrap_or(observed.size_bytes);
            let share = u128::from(observed.size_bytes) * 90 / u128::from(expected_bytes.max(1));
            let stage = format!("{} of {expected_bytes} bytes are stored", observed.size_bytes);
            Step::Going { progress: i32::try_from(share.min(90)).unwrap_or(90), stage }
        }
    }
}

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;
