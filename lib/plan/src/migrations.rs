//! Migrations: who owns a VM that is on its way, decided from what both hosts see.
//!
//! ```text
//!                    source: whole      sending   left            lost, torn      silent      proven dead
//! target: nothing    wait | stays       wait      target, disk    close           wait        close
//!         closed     stays              wait      target, disk    source, disk    wait        stays
//!         filling    wait               wait      wait            wait            wait        wait
//!         arrived    source             wait      target          target          wait        target
//!         split      wait               wait      wait            wait            wait        target, disk
//!         torn       source             wait      target, disk    target, disk    wait        target, disk
//!         silent     wait | stays       wait      target          wait            wait        wait
//!         dead       stays              wait      target, disk    source, disk *  wait        stays
//! ```
//! `*` after a copy of the storage nobody can tell which disk is the newer one: a person is asked.
//!
//! A report may be older than what it is read beside, so nothing is taken from a host on its silence about the last step:
//! - a source that was told to begin has the VM whole only when it says that its attempt failed, for it never tries again;
//! - a target that may have it is closed first, and says then whether it has it: nothing comes in any more.
//!
//! A target's guest executes only after the source let go of it (the agents hand it over, or the placement says so), so of
//! two that claim it whole the target's never executed.

use basalt_model::{
    CapabilityReason,
    hosts::HostState,
    migrations::{Migration, MigrationPhase, MigrationResult, Motion, MotionProgress, MotionState},
    vms::ObservedPower,
};

/// What the truth says of a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Truth {
    /// A target was chosen and its room claimed.
    pub chosen: bool,
    /// The source was told that it may begin.
    pub begun: bool,
    /// It was taken back.
    pub cancelled: bool,
    /// Its deadline has passed.
    pub overdue: bool,
    /// Bytes of volumes are sent.
    pub copies_storage: bool,
    /// The target is silent or refuses, and whoever asked for it (a drain) takes another.
    pub gives_way: bool,
    /// The guest is off on its way: there is no memory to lose.
    pub cold: bool,
}

/// Whether a host can be asked, and what it would mean if not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// Its reports are new.
    Alive,
    /// It is silent; what it does is not known.
    Silent,
    /// It is proven that nothing of it executes any more.
    Dead,
}

/// Whether a host can be asked about a VM. `proven_dead` is a proof by lease: it says something only of a VM that the host
/// lets execute under its lease alone.
pub fn heard(state: Option<HostState>, leased: bool, proven_dead: bool) -> Heard {
    match state {
        _ if leased && proven_dead => Heard::Dead,
        Some(HostState::Unreachable) | None => Heard::Silent,
        Some(_) => Heard::Alive,
    }
}

/// What one of the two hosts said last.
#[derive(Clone, Debug, PartialEq)]
pub struct Side<'a> {
    /// Whether it can be asked.
    pub heard: Heard,
    /// What the VM does there.
    pub power: ObservedPower,
    /// Its part in this migration, if it took it up.
    pub motion: Option<&'a Motion>,
    /// Why it cannot do its part.
    pub blocked: Option<&'a CapabilityReason>,
}

impl Side<'_> {
    fn state(&self) -> Option<MotionState> {
        self.motion.map(|m| m.state)
    }
}

/// What the source has of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AtSource {
    /// All of it, and nothing is under way.
    Whole,
    /// All of it, and bytes are on their way.
    Sending,
    /// Nothing: it was handed over.
    Left,
    /// Nothing, and it is not known why.
    Lost,
    /// A part of its memory while the rest is at the target.
    Split,
    /// A part that is of no use.
    Torn,
    /// It cannot be asked.
    Silent,
    /// Nothing of it executes: proven.
    Dead,
}

/// What the target has of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AtTarget {
    /// Nothing, and not all that it needs.
    Nothing,
    /// Nothing, and it waits for it.
    Ready,
    /// Nothing, and it lets nothing in any more.
    Closed,
    /// Bytes are coming in.
    Filling,
    /// All of it.
    Arrived,
    /// It executes with a part of its memory.
    Split,
    /// A part that is of no use.
    Torn,
    /// It cannot be asked.
    Silent,
    /// Nothing of it executes: proven.
    Dead,
}

/// Reads the source's side.
pub fn at_source(truth: Truth, side: &Side<'_>) -> AtSource {
    match (side.heard, side.state()) {
        (Heard::Dead, _) => AtSource::Dead,
        // What was handed over before it fell silent stays handed over.
        (_, Some(MotionState::Left)) => AtSource::Left,
        (Heard::Silent, _) => AtSource::Silent,
        (_, Some(MotionState::Failed)) => AtSource::Whole,
        (_, None | Some(MotionState::Preparing | MotionState::Ready)) if truth.begun => AtSource::Sending,
        (_, None | Some(MotionState::Preparing | MotionState::Ready)) => AtSource::Whole,
        (_, Some(MotionState::Copying)) => AtSource::Sending,
        (_, Some(MotionState::Split)) => AtSource::Split,
        (_, Some(MotionState::Torn)) => AtSource::Torn,
        (_, Some(MotionState::Lost | MotionState::Arrived)) => AtSource::Lost,
    }
}

/// Reads the target's side.
pub fn at_target(side: Option<&Side<'_>>) -> AtTarget {
    let Some(side) = side else { return AtTarget::Nothing };
    match (side.heard, side.state()) {
        (Heard::Dead, _) => AtTarget::Dead,
        (Heard::Silent, _) => AtTarget::Silent,
        (_, Some(MotionState::Ready)) => AtTarget::Ready,
        (_, Some(MotionState::Copying)) => AtTarget::Filling,
        (_, Some(MotionState::Arrived)) => AtTarget::Arrived,
        (_, Some(MotionState::Split)) => AtTarget::Split,
        (_, Some(MotionState::Torn)) => AtTarget::Torn,
        (_, Some(MotionState::Failed)) => AtTarget::Closed,
        _ => AtTarget::Nothing,
    }
}

/// What is to be done about a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing now; for people, what is waited for.
    Wait(&'static str),
    /// The target is ready: the source may begin.
    Begin,
    /// The target is to let nothing in any more, and to say what it has.
    Close,
    /// The VM belongs to the source; whatever the target has of it goes.
    SourceOwns {
        /// How the migration ended.
        result: MigrationResult,
        /// What decided it.
        why: &'static str,
        /// Nothing of its memory is left: it starts from its disk.
        from_disk: bool,
    },
    /// The VM belongs to the target; whatever the source has of it goes.
    TargetOwns {
        /// What decided it.
        why: &'static str,
        /// Nothing of its memory is left: it starts from its disk.
        from_disk: bool,
    },
    /// The facts do not tell. A person decides with `unstick`.
    Ask(&'static str),
}

/// Decides. Pure and total: every combination is in the table test.
pub fn decide(truth: Truth, source: AtSource, target: AtTarget) -> Decision {
    use Decision::{Ask, Begin, Close, SourceOwns, TargetOwns, Wait};
    let given_up = truth.cancelled || truth.overdue || truth.gives_way;
    let stays = |why| SourceOwns { result: ended(truth), why, from_disk: false };
    let back = |why| SourceOwns { result: MigrationResult::Failed, why, from_disk: true };
    let there = |why| TargetOwns { why, from_disk: false };
    let anew = |why| TargetOwns { why, from_disk: true };
    match (source, target) {
        // The source has all of it and sends nothing.
        (AtSource::Whole, AtTarget::Ready) if !given_up && !truth.begun => Begin,
        (AtSource::Whole, AtTarget::Nothing) if !given_up && !truth.begun => Wait("the target gets ready"),
        (AtSource::Whole, AtTarget::Silent) if !given_up && !truth.begun => {
            Wait("the target is not heard of")
        }
        (AtSource::Whole, AtTarget::Filling) => Wait("what came to the target is let go there"),
        (AtSource::Whole, AtTarget::Split) => Wait("both sides speak of different moments"),
        (AtSource::Whole, _) => stays("the source has it whole and did not give it away"),
        // Bytes are on their way; who takes it back or sees that nothing moves stops the source first.
        (AtSource::Sending, AtTarget::Dead) => Wait("the source notices that the target is gone"),
        (AtSource::Sending, _) => Wait(BEING_SENT),
        // It was handed over: the target owns it, whatever became of it there.
        (AtSource::Left, _) if truth.cold => there("the source handed it over while it was off"),
        (AtSource::Left, AtTarget::Arrived) => there("the source handed it over and the target has it whole"),
        (AtSource::Left, AtTarget::Silent) => there("the source handed it over; the target is not heard of"),
        (AtSource::Left, AtTarget::Filling) => Wait("the target takes in the last of it"),
        (AtSource::Left, AtTarget::Split) => Wait("the target takes in the last of it"),
        (AtSource::Left, _) => {
            anew("the source handed it over and the target lost it; its disk is the target's")
        }
        // It is not at the source and nobody saw it go.
        (AtSource::Lost | AtSource::Torn | AtSource::Dead, AtTarget::Arrived) => {
            there("only the target has it whole")
        }
        (AtSource::Lost | AtSource::Torn | AtSource::Dead, AtTarget::Filling) => {
            Wait("the target lets go of what came in part")
        }
        (AtSource::Lost | AtSource::Torn | AtSource::Dead, AtTarget::Nothing | AtTarget::Ready) => Close,
        (AtSource::Lost, AtTarget::Closed) => back("neither side has it; the source had it last"),
        (AtSource::Torn, AtTarget::Closed) => back("its memory is lost; the target has nothing of it"),
        (AtSource::Lost | AtSource::Torn | AtSource::Dead, AtTarget::Torn) => {
            anew("its memory is lost; the target executed it last, so its disk is the newer one")
        }
        (AtSource::Dead, AtTarget::Split) => {
            anew("the part of its memory that the source still had is lost; the target executed it last")
        }
        (AtSource::Lost | AtSource::Torn, AtTarget::Split) => Wait("the target notices what it lost"),
        (AtSource::Lost | AtSource::Torn, AtTarget::Silent) => {
            Wait("the target is not heard of and may have it")
        }
        (AtSource::Lost | AtSource::Torn, AtTarget::Dead) if truth.copies_storage => {
            Ask("neither side has it, and which of the two disks is the newer one cannot be told")
        }
        (AtSource::Lost | AtSource::Torn, AtTarget::Dead) => {
            back("neither side has it; both see the same disk")
        }
        (AtSource::Split, AtTarget::Dead | AtTarget::Torn | AtTarget::Closed) => {
            Wait("the source notices that its other part is gone")
        }
        (AtSource::Split, _) => Wait("its memory is fetched by the target"),
        // The source cannot be asked: it may execute.
        (AtSource::Silent, AtTarget::Arrived) => Wait("the source is not heard of and may still execute it"),
        (AtSource::Silent, _) => Wait("the source is not heard of"),
        (AtSource::Dead, AtTarget::Closed | AtTarget::Dead) => {
            stays("the source was lost before it was handed over")
        }
        (AtSource::Dead, AtTarget::Silent) => Wait("the target is not heard of and may have it"),
    }
}

fn ended(truth: Truth) -> MigrationResult {
    if truth.cancelled { MigrationResult::Cancelled } else { MigrationResult::Failed }
}

/// The word for where a migration is.
pub fn phase(truth: Truth, source: AtSource, target: AtTarget) -> MigrationPhase {
    match (source, target) {
        _ if !truth.chosen => MigrationPhase::Requested,
        (AtSource::Left | AtSource::Split, _) | (_, AtTarget::Arrived | AtTarget::Split) => {
            MigrationPhase::Switching
        }
        (AtSource::Sending, _) | (_, AtTarget::Filling) => MigrationPhase::Copying,
        _ => MigrationPhase::Preparing,
    }
}

/// The word for where a migration is, from what is known without asking both hosts: its row, and what the VM's host said.
pub fn phase_of(migration: &Migration, begun: bool, motion: Option<&Motion>) -> MigrationPhase {
    let state = motion.map(|m| m.state);
    match &migration.outcome {
        Some(outcome) => match outcome.result {
            MigrationResult::Completed => MigrationPhase::Completed,
            MigrationResult::Failed => MigrationPhase::Failed,
            MigrationResult::Cancelled => MigrationPhase::Cancelled,
        },
        None if migration.target_host_id.is_none() => MigrationPhase::Requested,
        None if !begun => MigrationPhase::Preparing,
        None => match state {
            Some(MotionState::Left | MotionState::Lost | MotionState::Split | MotionState::Torn) => {
                MigrationPhase::Switching
            }
            _ => MigrationPhase::Copying,
        },
    }
}

/// Hundredths that bytes are of the way: the target gets ready before, and both sides agree after.
const BYTES_PERCENT: std::ops::Range<u64> = 10..95;

/// How far a migration is, in hundredths.
pub fn percent(phase: MigrationPhase, progress: Option<&MotionProgress>) -> i32 {
    let (from, to) = (BYTES_PERCENT.start, BYTES_PERCENT.end);
    let done = match (phase, progress) {
        (MigrationPhase::Requested, _) => 0,
        (MigrationPhase::Preparing, _) => from / 2,
        (MigrationPhase::Copying, Some(p)) if p.total_bytes > 0 => {
            let left = p.remaining_bytes.min(p.total_bytes);
            from + (to - from) * ((p.total_bytes - left) >> 10) / (p.total_bytes >> 10).max(1)
        }
        (MigrationPhase::Copying, _) => from,
        _ => to,
    };
    i32::try_from(done).unwrap_or(99)
}

/// What is waited for while all goes well and bytes move: the figures say more.
const BEING_SENT: &str = "it is being sent";

/// A word for programs and a sentence for people about where a migration is. `waits`: what it waits for, where that is not
/// plain (a host that is not heard of): then that is the sentence.
pub fn words(
    phase: MigrationPhase,
    progress: Option<&MotionProgress>,
    waits: &str,
) -> (&'static str, String) {
    let (word, far) = plain_words(phase, progress);
    let over =
        matches!(phase, MigrationPhase::Completed | MigrationPhase::Failed | MigrationPhase::Cancelled);
    match waits {
        "" | BEING_SENT => (word, far),
        _ if over => (word, far),
        waits => (word, waits.to_owned()),
    }
}

fn plain_words(phase: MigrationPhase, progress: Option<&MotionProgress>) -> (&'static str, String) {
    let mib = |bytes: u64| bytes / basalt_model::MIB;
    match (phase, progress) {
        (MigrationPhase::Requested, _) => ("requested", "a host is being chosen".into()),
        (MigrationPhase::Preparing, _) => ("preparing", "the target gets ready".into()),
        (MigrationPhase::Copying, Some(p)) if p.total_bytes > 0 => (
            "copying",
            format!(
                "{} of {} MiB are left, {} MiB a second are sent and {} written by the guest",
                mib(p.remaining_bytes),
                mib(p.total_bytes),
                mib(p.sent_bytes_per_second),
                mib(p.dirty_bytes_per_second)
            ),
        ),
        (MigrationPhase::Copying, _) => ("copying", BEING_SENT.into()),
        (MigrationPhase::Switching, _) => ("switching", "the source lets go of it".into()),
        (MigrationPhase::Completed, _) => ("completed", "it is at the target".into()),
        (MigrationPhase::Failed, _) => ("failed", "it stayed at the source".into()),
        (MigrationPhase::Cancelled, _) => ("cancelled", "it was taken back".into()),
    }
}

#[cfg(test)]
#[path = "migrations_tests.rs"]
mod tests;
