//! Conditions and phases: what is true of an object now and why, said so that a person knows what to do.
//!
//! Nothing here knows the time: `since` of every condition is [`UNDATED`] until the writer dates it
//! with [`date`]. A condition that is not fulfilled always has a reason, and its message ends with
//! what would help or what is being waited for: there is no silent "pending".

use crate::migrations;
use basalt_model::{
    CapabilityReason, Condition, ConditionStatus, DateTime, Epoch, Generation, Name,
    conditions::carry_since,
    host_loss::HostDeath,
    hosts::{AgentConflict, HostFacts, HostState},
    images::{ImageObserved, ImageState},
    migrations::{Migration, MigrationPhase, MotionProgress},
    vms::{ObservedPower, Power, VmObserved},
    volumes::{VolumeObserved, VolumeState},
};
use basalt_wire::rest::{Phase, PlacementExplanation};
use chrono::SecondsFormat;

/// The `since` of a condition that nobody has dated yet.
pub const UNDATED: DateTime = DateTime::UNIX_EPOCH;

/// A VM as far as conditions, phase and tasks are concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct VmFacts {
    /// Its generation now.
    pub generation: Generation,
    /// Whether its deletion was asked for.
    pub deleting: bool,
    /// Desired power.
    pub power: Power,
    /// Count of redeploys wanted.
    pub incarnation: i64,
    /// Where it was put.
    pub placement: Option<Placed>,
    /// Why it is nowhere; absent before the first decision.
    pub explanation: Option<Box<PlacementExplanation>>,
    /// Whether its row stands in a host's manifest.
    pub in_manifest: bool,
    /// What was seen.
    pub observed: VmObserved,
    /// The generation that the host realises.
    pub observed_generation: Generation,
    /// The epoch that the report belongs to.
    pub observed_epoch: Epoch,
    /// What the host says it is doing.
    pub stage: String,
    /// What it needs and how far that is, volumes and images and networks.
    pub parts: Vec<Part>,
}

/// A placement as far as conditions are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The host's name.
    pub host: Name,
    /// Which placement it is.
    pub epoch: Epoch,
    /// The host's state now.
    pub state: HostState,
}

/// Something that a VM needs on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `volume web-1-root`, `image debian` …
    pub what: String,
    /// Whether the host has it.
    pub ready: bool,
    /// Why the host cannot have it.
    pub blocked: Option<CapabilityReason>,
    /// What the host says it is doing for it.
    pub stage: String,
}

impl VmFacts {
    /// Whether the report is of the present placement: an older host's words count no more.
    pub fn is_current(&self) -> bool {
        self.placement.as_ref().is_some_and(|p| p.epoch <= self.observed_epoch)
    }

    /// Whether the host realised the present generation, power included.
    pub fn is_realised(&self) -> bool {
        self.is_current()
            && self.observed_generation >= self.generation
            && self.observed.incarnation >= self.incarnation
            && power_is(self.observed.power, self.power)
    }

    /// The first reason why the host cannot do it.
    pub fn blocked(&self) -> Option<&CapabilityReason> {
        let own = self.observed.blocked.as_ref().filter(|_| self.is_current());
        own.or_else(|| self.parts.iter().find_map(|p| p.blocked.as_ref()))
    }

    fn host_is_away(&self) -> bool {
        self.placement.as_ref().is_some_and(|p| p.state == HostState::Unreachable)
    }

    /// Whether the host, which reports, realised it and now cannot tell what became of it (R35).
    fn is_unseen(&self) -> bool {
        self.is_current()
            && self.observed_generation >= self.generation
            && self.observed.power == ObservedPower::Unknown
    }
}

/// Whether what is seen is what is wanted.
pub fn power_is(seen: ObservedPower, wanted: Power) -> bool {
    matches!(
        (seen, wanted),
        (ObservedPower::Running, Power::Running)
            | (ObservedPower::Stopped, Power::Stopped)
            | (ObservedPower::Paused, Power::Paused)
    )
}

pub(crate) struct Draft {
    generation: Generation,
    pub(crate) out: Vec<Condition>,
}

impl Draft {
    pub(crate) fn at(generation: Generation) -> Self {
        Self { generation, out: Vec::new() }
    }

    pub(crate) fn say(
        &mut self,
        kind: &str,
        status: ConditionStatus,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.out.push(Condition {
            kind: kind.into(),
            status,
            reason: reason.into(),
            message: message.into(),
            since: UNDATED,
            observed_generation: self.generation,
        });
    }

    pub(crate) fn yes(&mut self, kind: &str, reason: &str, message: impl Into<String>) {
        self.say(kind, ConditionStatus::True, reason, message);
    }

    pub(crate) fn no(&mut self, kind: &str, reason: &str, message: impl Into<String>) {
        self.say(kind, ConditionStatus::False, reason, message);
    }

    fn blocked(&mut self, reason: Option<&CapabilityReason>) {
        match reason {
            Some(r) => self.yes("Blocked", &r.code, r.to_string()),
            None => self.no("Blocked", "nothing_in_the_way", "nothing is in the way"),
        }
    }
}

/// `Migrating`, of a VM that is on its way: from where to where, and how far that is or what it waits for.
pub fn migrating(
    generation: Generation,
    migration: &Migration,
    phase: MigrationPhase,
    progress: Option<&MotionProgress>,
    waits: &str,
) -> Condition {
    let to =
        migration.target.as_ref().map_or_else(|| "a host that is being chosen".into(), ToString::to_string);
    let (word, far) = migrations::words(phase, progress, waits);
    let mut draft = Draft::at(generation);
    draft.yes("Migrating", word, format!("on its way from {} to {to}: {far}", migration.source));
    draft.out.remove(0)
}

/// `RestartedElsewhere`, of a VM whose host is not heard of: why not, and what would help.
pub fn not_elsewhere(generation: Generation, reason: &CapabilityReason) -> Condition {
    let mut draft = Draft::at(generation);
    draft.no("RestartedElsewhere", &reason.code, reason.to_string());
    draft.out.remove(0)
}

/// `ProvenDead`, of a host that is dead and did not come back.
pub fn proven_dead(generation: Generation, name: &Name, death: &HostDeath) -> Condition {
    let mut draft = Draft::at(generation);
    let text = format!(
        "{name} executes none of its VMs with an HA policy any more: {}; they are started elsewhere, and it is told of that \
         before it may execute any of them again",
        death.evidence
    );
    draft.yes("ProvenDead", death.kind.as_str(), text);
    draft.out.remove(0)
}

/// Conditions of a VM: `Placed`, `HostReachable`, `Blocked`, `Progressing`, `Ready`, and `RebootPending` while a change waits for a boot.
pub fn vm(facts: &VmFacts) -> Vec<Condition> {
    let mut draft = Draft::at(facts.generation);
    placed(facts, &mut draft);
    if let Some(place) = &facts.placement {
        reachable(&place.host, place.state, &mut draft);
    }
    draft.blocked(vm_blocked(facts));
    let (progressing, reason, message) = vm_progress(facts);
    let status = if progressing { ConditionStatus::True } else { ConditionStatus::False };
    draft.say("Progressing", status, reason, message.clone());
    vm_ready(facts, reason, message, &mut draft);
    if let Some(pending) = facts.observed.pending_reboot.as_ref().filter(|_| facts.is_current()) {
        draft.yes("RebootPending", &pending.code, pending.to_string());
    }
    draft.out
}

fn vm_blocked(facts: &VmFacts) -> Option<&CapabilityReason> {
    if facts.placement.is_none() { None } else { facts.blocked() }
}

fn placed(facts: &VmFacts, draft: &mut Draft) {
    match (&facts.placement, &facts.explanation) {
        (Some(p), _) => {
            draft.yes("Placed", "placed", format!("it belongs to host {} (epoch {})", p.host, p.epoch.0))
        }
        (None, _) if facts.deleting => {
            draft.no("Placed", "deleting", "it is being deleted and is on no host")
        }
        (None, Some(e)) if e.host_id.is_none() => draft.no("Placed", "no_host_fits", unplaced_message(e)),
        (None, _) => draft.no("Placed", "deciding", "a host is being chosen; nothing needs to be done"),
    }
}

fn unplaced_message(explanation: &PlacementExplanation) -> String {
    match explanation.candidates.iter().find_map(|c| c.rejections.first()) {
        Some(nearest) => format!("{}. The nearest: {nearest}", explanation.summary),
        None => explanation.summary.clone(),
    }
}

fn reachable(host: &Name, state: HostState, draft: &mut Draft) {
    match state {
        HostState::Unreachable => draft.no(
            "HostReachable",
            "host_unreachable",
            format!("host {host} is not heard of; check its power, its network and its agent"),
        ),
        HostState::Enrolling => draft.say(
            "HostReachable",
            ConditionStatus::Unknown,
            "host_enrolling",
            format!("host {host} has not reported yet; start its agent"),
        ),
        HostState::Removed => draft.no(
            "HostReachable",
            "host_removed",
            format!("host {host} was removed; delete the VM or redeploy it"),
        ),
        HostState::Ready | HostState::Degraded | HostState::Maintenance => {
            draft.yes("HostReachable", "heard_of", format!("host {host} reports"));
        }
    }
}

/// Whether something is going on, the word for it, and a sentence that says what or what it waits for.
fn vm_progress(facts: &VmFacts) -> (bool, &'static str, String) {
    let Some(place) = &facts.placement else {
        return match &facts.explanation {
            _ if facts.deleting => (true, "deleting", "its rows are being removed".into()),
            Some(e) if e.host_id.is_none() => (false, "unplaced", unplaced_message(e)),
            _ => (true, "placing", "a host is being chosen".into()),
        };
    };
    if facts.host_is_away() {
        let text = format!(
            "host {} is not heard of; it goes on when the host is back: check its power, network and agent",
            place.host
        );
        return (false, "host_unreachable", text);
    }
    if facts.deleting {
        let text = match facts.stage.as_str() {
            "" => format!("host {} is removing it", place.host),
            stage => format!("host {}: {stage}", place.host),
        };
        return (true, "deleting", text);
    }
    if facts.is_realised() {
        return (false, "realised", "it is as declared".into());
    }
    if facts.is_unseen() {
        return (false, "state_unseen", unseen_message(&place.host, &facts.stage));
    }
    if let Some(blocked) = facts.blocked() {
        return (false, "blocked", blocked.to_string());
    }
    if !facts.in_manifest {
        return (true, "handing_over", format!("the manifest of host {} is being written", place.host));
    }
    if let Some(part) = facts.parts.iter().find(|p| !p.ready) {
        let text = match part.stage.as_str() {
            "" => format!("waiting for {} on host {}", part.what, place.host),
            stage => format!("{}: {stage}", part.what),
        };
        return (true, "preparing", text);
    }
    let text = match facts.stage.as_str() {
        "" if facts.is_current() => {
            format!(
                "host {} sees {} and is bringing it to {}",
                place.host,
                word(facts.observed.power),
                wish(facts.power)
            )
        }
        "" => format!("waiting for the first report of host {}", place.host),
        stage => format!("host {}: {stage}", place.host),
    };
    (true, "realising", text)
}

fn unseen_message(host: &Name, stage: &str) -> String {
    let why = if stage.is_empty() { String::new() } else { format!(" ({stage})") };
    format!(
        "host {host} cannot tell whether it runs{why}; if it ran it goes on: mend what host {host} calls a problem, no \
         guest is restarted by that"
    )
}

fn vm_ready(facts: &VmFacts, reason: &str, message: String, draft: &mut Draft) {
    let last = facts.observed.power;
    if facts.host_is_away() {
        let text = format!("{message}; last seen {}", word(last));
        draft.say("Ready", ConditionStatus::Unknown, "host_unreachable", text);
    } else if facts.is_unseen() && !facts.deleting {
        draft.say("Ready", ConditionStatus::Unknown, reason, message);
    } else if facts.is_realised() && !facts.deleting {
        draft.yes("Ready", "realised", format!("it is {}, as declared", word(last)));
    } else {
        draft.no("Ready", reason, message);
    }
}

fn word(power: ObservedPower) -> &'static str {
    match power {
        ObservedPower::Running => "running",
        ObservedPower::Stopped => "stopped",
        ObservedPower::Paused => "paused",
        ObservedPower::Stopping => "stopping",
        ObservedPower::Crashed => "crashed",
        ObservedPower::Absent => "nothing of it",
        ObservedPower::Unknown => "nothing yet",
    }
}

fn wish(power: Power) -> &'static str {
    match power {
        Power::Running => "running",
        Power::Stopped => "stopped",
        Power::Paused => "paused",
    }
}

/// One word for a VM.
pub fn vm_phase(facts: &VmFacts) -> Phase {
    if facts.deleting {
        return Phase::Deleting;
    }
    if facts.host_is_away() || facts.is_unseen() {
        return Phase::Unknown;
    }
    if facts.is_realised() {
        return match facts.power {
            Power::Running => Phase::Running,
            Power::Stopped => Phase::Stopped,
            Power::Paused => Phase::Paused,
        };
    }
    let unplaced =
        facts.placement.is_none() && facts.explanation.as_ref().is_some_and(|e| e.host_id.is_none());
    if unplaced || vm_blocked(facts).is_some() { Phase::Blocked } else { Phase::Pending }
}

/// A volume as far as conditions, phase and tasks are concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeFacts {
    /// Its generation now.
    pub generation: Generation,
    /// Whether its deletion was asked for, or that of the VM it goes with.
    pub deleting: bool,
    /// The host and the pool it was given.
    pub bound: Option<(Name, Name)>,
    /// That host's state now.
    pub host_state: Option<HostState>,
    /// What was seen.
    pub observed: VolumeObserved,
    /// The generation that the host realises.
    pub observed_generation: Generation,
    /// What the host says it is doing.
    pub stage: String,
}

/// Conditions of a volume: `Bound`, `HostReachable`, `Blocked`, `Ready`.
pub fn volume(facts: &VolumeFacts) -> Vec<Condition> {
    let mut draft = Draft::at(facts.generation);
    let Some((host, pool)) = &facts.bound else {
        draft.no("Bound", "no_vm_needs_it", "it is made when a VM needs it: attach it to one");
        draft.blocked(None);
        draft.no("Ready", "unbound", "it is declared and on no host; attach it to a VM");
        return draft.out;
    };
    draft.yes("Bound", "bound", format!("it belongs to pool {pool} of host {host}"));
    reachable(host, facts.host_state.unwrap_or(HostState::Enrolling), &mut draft);
    draft.blocked(facts.observed.blocked.as_ref());
    let away = facts.host_state == Some(HostState::Unreachable);
    match (&facts.observed.blocked, facts.observed.state) {
        _ if facts.deleting => draft.no("Ready", "deleting", format!("host {host} is removing it")),
        _ if away => draft.say(
            "Ready",
            ConditionStatus::Unknown,
            "host_unreachable",
            format!("host {host} is not heard of; bring it back"),
        ),
        (Some(blocked), _) => draft.no("Ready", &blocked.code, blocked.to_string()),
        (None, VolumeState::Ready) if facts.observed_generation >= facts.generation => {
            draft.yes("Ready", "realised", format!("it is in pool {pool} of host {host}"));
        }
        // The pool is there, and what lies in it cannot be told.
        (None, VolumeState::Unavailable) if !facts.stage.is_empty() => {
            let text = format!("host {host}: {}; mend what host {host} calls a problem", facts.stage);
            draft.say("Ready", ConditionStatus::Unknown, "state_unseen", text);
        }
        (None, VolumeState::Unavailable) => {
            draft.no("Ready", "pool_away", format!("pool {pool} of host {host} is away; mount it again"));
        }
        _ => {
            let doing = if facts.stage.is_empty() { "it is being made" } else { facts.stage.as_str() };
            draft.no("Ready", "realising", format!("host {host}: {doing}"));
        }
    }
    draft.out
}

/// One word for a volume.
pub fn volume_phase(facts: &VolumeFacts) -> Phase {
    match (&facts.bound, facts.observed.state) {
        _ if facts.deleting => Phase::Deleting,
        // A volume that no VM needed yet is all that it should be.
        (None, _) => Phase::Ready,
        _ if facts.host_state == Some(HostState::Unreachable) => Phase::Unknown,
        _ if facts.observed.blocked.is_some() => Phase::Blocked,
        (_, VolumeState::Ready) if facts.observed_generation >= facts.generation => Phase::Ready,
        (_, VolumeState::Unavailable) if !facts.stage.is_empty() => Phase::Unknown,
        (_, VolumeState::Unavailable) => Phase::Blocked,
        _ => Phase::Pending,
    }
}

/// Conditions of an image: `Ready`.
pub fn image(
    generation: Generation,
    deleting: bool,
    expected_bytes: Option<u64>,
    imported: bool,
    observed: &ImageObserved,
) -> Vec<Condition> {
    let mut draft = Draft::at(generation);
    match (observed.state, &observed.reason) {
        _ if deleting => draft.no("Ready", "deleting", "it is being deleted"),
        (ImageState::Deleting, _) => draft.no("Ready", "deleting", "it is being deleted"),
        (ImageState::Ready, _) => draft.yes("Ready", "verified", "its bytes are stored and verified"),
        (ImageState::Failed, Some(reason)) => draft.no("Ready", &reason.code, reason.to_string()),
        (ImageState::Failed, None) => draft.no("Ready", "failed", "its upload failed; upload it again"),
        (ImageState::Verifying, _) => {
            draft.no("Ready", "verifying", "digest and format are being checked; nothing needs to be done")
        }
        (ImageState::Uploading, _) if imported => {
            draft.no("Ready", "importing", "its bytes are being fetched; its task says how far it is");
        }
        (ImageState::Uploading, _) => {
            let expected_bytes = expected_bytes.unwrap_or_default();
            let have = observed.size_bytes;
            draft.no(
                "Ready",
                "uploading",
                format!("{have} of {expected_bytes} bytes are stored; go on with the upload"),
            );
        }
    }
    draft.out
}

/// One word for an image.
pub fn image_phase(deleting: bool, observed: &ImageObserved) -> Phase {
    match observed.state {
        _ if deleting => Phase::Deleting,
        ImageState::Deleting => Phase::Deleting,
        ImageState::Uploading | ImageState::Verifying => Phase::Pending,
        ImageState::Ready => Phase::Ready,
        ImageState::Failed => Phase::Failed,
    }
}

/// Conditions of a host: `Reachable`, `Schedulable`, `Healthy`, and `AgentConflict` while two agents act with its identity.
pub fn host(
    generation: Generation,
    name: &Name,
    state: HostState,
    facts: Option<&HostFacts>,
    conflict: Option<&AgentConflict>,
) -> Vec<Condition> {
    let mut draft = Draft::at(generation);
    host_reachable(name, state, &mut draft);
    host_schedulable(state, &mut draft);
    host_healthy(facts, &mut draft);
    if let Some(conflict) = conflict {
        let reason = two_agents(name, conflict);
        draft.yes("AgentConflict", &reason.code, reason.to_string());
    }
    draft.out
}

fn two_agents(name: &Name, conflict: &AgentConflict) -> CapabilityReason {
    let fenced: Vec<_> = conflict.fenced_boots.iter().map(ToString::to_string).collect();
    CapabilityReason::new(
        "two_agents",
        format!("host/{name}"),
        "two agents act with this host's identity; the newest start counts and the older is refused",
        "stop the agent that does not belong to this host; if you do not know it, revoke the host and enrol it anew",
    )
    .with_evidence(format!(
        "start {} counts; since {} refused: {}",
        conflict.agent_boot,
        conflict.since.to_rfc3339_opts(SecondsFormat::Secs, true),
        fenced.join(", ")
    ))
}

fn host_reachable(name: &Name, state: HostState, draft: &mut Draft) {
    match state {
        HostState::Unreachable => {
            draft.no(
                "Reachable",
                "host_unreachable",
                format!("{name} is not heard of; check its power, its network and its agent"),
            );
        }
        HostState::Enrolling => draft.no(
            "Reachable",
            "host_enrolling",
            format!("{name} never reported; start its agent with a join token"),
        ),
        HostState::Removed => draft.no("Reachable", "host_removed", format!("{name} was removed")),
        _ => draft.yes("Reachable", "heard_of", format!("{name} reports")),
    }
}

fn host_schedulable(state: HostState, draft: &mut Draft) {
    match state {
        HostState::Ready => draft.yes("Schedulable", "ready", "it takes virtual machines"),
        HostState::Maintenance => {
            draft.no("Schedulable", "host_in_maintenance", "it takes nothing new; end its maintenance")
        }
        HostState::Degraded => {
            draft.no("Schedulable", "host_degraded", "it takes nothing new; mend what makes it unhealthy")
        }
        HostState::Unreachable => draft.no(
            "Schedulable",
            "host_unreachable",
            "it takes nothing new until it is heard of; bring it back",
        ),
        HostState::Enrolling => draft.no(
            "Schedulable",
            "host_enrolling",
            "it takes nothing before its first report; start its agent",
        ),
        HostState::Removed => draft.no("Schedulable", "host_removed", "it takes nothing; add another host"),
    }
}

fn host_healthy(facts: Option<&HostFacts>, draft: &mut Draft) {
    match facts {
        None => draft.say(
            "Healthy",
            ConditionStatus::Unknown,
            "no_facts",
            "nothing was reported of it yet; start its agent",
        ),
        Some(f) if f.accelerator().is_none() => {
            let seen: Vec<_> = f.accelerators.iter().map(|a| format!("{}: {}", a.kind, a.evidence)).collect();
            draft.no(
                "Healthy",
                "accelerator_missing",
                format!("no accelerator was seen to start a guest ({}); install QEMU", seen.join("; ")),
            );
        }
        Some(f) => match f.problems.first() {
            Some(problem) => {
                let all: Vec<_> = f.problems.iter().map(ToString::to_string).collect();
                draft.no("Healthy", &problem.code, all.join("\n"));
            }
            None => draft.yes("Healthy", "no_problems", "its agent reports no problem"),
        },
    }
}

/// Whether two sets of conditions say the same, whenever they began.
pub fn same(a: &[Condition], b: &[Condition]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(x, y)| {
            (&x.kind, x.status, &x.reason, &x.message, x.observed_generation)
                == (&y.kind, y.status, &y.reason, &y.message, y.observed_generation)
        })
}

/// Dates new conditions: `now`, or since when they stood before.
pub fn date(old: &[Condition], mut new: Vec<Condition>, now: DateTime) -> Vec<Condition> {
    for condition in &mut new {
        condition.since = now;
    }
    carry_since(old, &mut new);
    new
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
pub(crate) mod tests;
