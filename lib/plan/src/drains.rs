//! Drains: which VM of a host goes where and in which order, and what is to be done next to empty the host.
//!
//! Large VMs go first: they are the hardest to find room for, and the last one to end is then a small one. A VM that must
//! be with others of the same host is judged as if those had left already, for they are to follow.

use crate::placement::{
    self, Decision, HostView, NOT_KNOWN_YET, Request,
    affinity::{Neighbours, Peer},
    departure::Leaving,
    not_known_yet,
};
use basalt_model::{
    CapabilityReason, HostId, Name, ProjectId, VmId,
    drains::{Drain, DrainMove, DrainOutcome, DrainPlan, DrainResult, DrainSpec, MAX_TRIES, MoveState},
    hosts::HostState,
    migrations::MigrationMode,
    vms::Power,
};
use std::cmp::Reverse;

/// Bytes a second that all migrations of a drain together are assumed to send: a gigabit. What a network really carries
/// is seen only while it does.
pub const ASSUMED_BYTES_PER_SECOND: u64 = 100 * basalt_model::MIB;
/// Seconds that a migration takes beside its bytes: the target gets ready, both sides agree.
const BESIDE_BYTES_SECONDS: u64 = 5;

/// A VM that is on a host and is to leave it.
#[derive(Clone, Debug)]
pub struct Leaver {
    /// The VM.
    pub vm_id: VmId,
    /// Its name.
    pub vm: Name,
    /// Its project.
    pub project_id: ProjectId,
    /// What it is meant to do.
    pub power: Power,
    /// What it asks of a host.
    pub request: Request,
}

/// A placed VM that rules of others may mean.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The VM.
    pub vm_id: VmId,
    /// Its project.
    pub project_id: ProjectId,
    /// Where it is.
    pub host_id: HostId,
    /// What rules see of it.
    pub peer: Peer,
}

/// Where a VM can go and how.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it asks of the host.
    pub leaving: Leaving,
    /// How it goes.
    pub mode: MigrationMode,
    /// The host.
    pub host_id: HostId,
    /// Its name.
    pub host: Name,
    /// A pool there for each volume.
    pub pools: Vec<Name>,
    /// Why there, for people.
    pub why: String,
}

/// Finds a host for a VM that leaves: live if it is to run; off only with consent. `choose` places a request.
///
/// # Errors
/// Why none takes it, or why it cannot leave at all, in the way that is preferred.
pub fn find(
    request: &Request,
    power: Power,
    source: &HostView,
    spec: &DrainSpec,
    mut choose: impl FnMut(&Request) -> Decision,
) -> Result<Found, CapabilityReason> {
    let mut attempt = |mode| {
        let leaving =
            Leaving::new(request.clone(), source, (mode, spec.on_stall), !request.images.is_empty())?;
        let decision = choose(&leaving.request);
        let (host_id, pools) = decision.verdict.fits()?;
        let host = decision.explanation.host.ok_or_else(|| not_known_yet("host"))?;
        Ok(Found { leaving, mode, host_id, host, pools, why: decision.explanation.summary })
    };
    match power {
        Power::Stopped => attempt(MigrationMode::Cold),
        Power::Running | Power::Paused => match attempt(MigrationMode::Live) {
            Err(reason) if spec.may_shut_down => attempt(MigrationMode::Cold).map_err(|_| reason),
            live => live,
        },
    }
}

/// The plan of a drain: every VM of the host with a target and a time, and those that no host takes with the reason.
/// `hosts` are all hosts, the drained one among them; `peers` all VMs that rules may mean.
pub fn plan(
    source: &HostView,
    leavers: Vec<Leaver>,
    mut hosts: Vec<HostView>,
    mut peers: Vec<Placed>,
    spec: &DrainSpec,
) -> DrainPlan {
    for host in hosts.iter_mut().filter(|h| h.id == source.id && h.state == HostState::Ready) {
        host.state = HostState::Maintenance;
    }
    let mut waiting = leavers;
    waiting.sort_by_key(|l| (Reverse(l.request.memory_bytes), l.vm_id));
    let (mut moves, mut slots) = (Vec::new(), vec![0_u64; spec.concurrency.clamp(1, 64) as usize]);
    // Who must be with others finds them elsewhere only after they left: until a round moves nobody.
    loop {
        let before = waiting.len();
        let mut left = Vec::new();
        for leaver in std::mem::take(&mut waiting) {
            match target(source, &leaver, &hosts, &peers, spec) {
                Ok(found) => moves.push(promise(&leaver, found, &mut hosts, &mut peers, &mut slots, spec)),
                Err(reason) => left.push((leaver, reason)),
            }
        }
        if left.len() == before || left.is_empty() {
            let takes_seconds = slots.iter().copied().max().unwrap_or(0);
            let stays = u32::try_from(left.len()).unwrap_or(u32::MAX);
            moves.extend(left.into_iter().map(|(leaver, reason)| stay(&leaver, reason)));
            return DrainPlan {
                host: source.name.clone(),
                moves,
                left: stays,
                takes_seconds,
                assumed_bytes_per_second: ASSUMED_BYTES_PER_SECOND,
                digest: String::new(),
            };
        }
        waiting = left.into_iter().map(|(leaver, _)| leaver).collect();
    }
}

fn target(
    source: &HostView,
    leaver: &Leaver,
    hosts: &[HostView],
    peers: &[Placed],
    spec: &DrainSpec,
) -> Result<Found, CapabilityReason> {
    let away =
        |p: &&Placed| p.project_id == leaver.project_id && p.vm_id != leaver.vm_id && p.host_id != source.id;
    find(&leaver.request, leaver.power, source, spec, |request| {
        let around = peers.iter().filter(away).map(|p| (p.host_id, &p.peer));
        placement::choose(request, &Neighbours::of(request, around), hosts)
    })
}

/// Puts a VM on its target in what later choices see, and into the earliest free slot of the timetable.
fn promise(
    leaver: &Leaver,
    found: Found,
    hosts: &mut [HostView],
    peers: &mut [Placed],
    slots: &mut [u64],
    spec: &DrainSpec,
) -> DrainMove {
    if let Some(host) = hosts.iter_mut().find(|h| h.id == found.host_id) {
        host.promise(&leaver.request);
        for (volume, pool) in found.leaving.request.volumes.iter().zip(&found.pools) {
            *host.pool_claims.entry(pool.clone()).or_default() += volume.size_bytes;
        }
    }
    for peer in peers.iter_mut().filter(|p| p.vm_id == leaver.vm_id) {
        peer.host_id = found.host_id;
    }
    let bytes = bytes(leaver, &found);
    let at_once = u64::try_from(slots.len()).unwrap_or(1).max(1);
    let assumed = ASSUMED_BYTES_PER_SECOND / at_once;
    let rate = spec.max_bytes_per_second.map_or(assumed, |most| most.min(assumed)).max(1);
    let takes_seconds = bytes.div_ceil(rate) + BESIDE_BYTES_SECONDS;
    let mut begins = 0;
    if let Some(slot) = slots.iter_mut().min_by_key(|until| **until) {
        begins = *slot;
        *slot += takes_seconds;
    }
    DrainMove {
        mode: found.mode,
        target: Some(found.host),
        why: found.why,
        bytes,
        begins_after_seconds: begins,
        takes_seconds,
        ..waits(leaver)
    }
}

fn bytes(leaver: &Leaver, found: &Found) -> u64 {
    let memory = if found.mode == MigrationMode::Live { leaver.request.memory_bytes } else { 0 };
    let disks = found.leaving.request.volumes.iter().filter(|_| found.leaving.copies_storage);
    disks.map(|v| v.size_bytes).fold(memory, u64::saturating_add)
}

fn stay(leaver: &Leaver, reason: CapabilityReason) -> DrainMove {
    DrainMove { reason: Some(reason), ..waits(leaver) }
}

fn waits(leaver: &Leaver) -> DrainMove {
    let mode = if leaver.power == Power::Stopped { MigrationMode::Cold } else { MigrationMode::Live };
    DrainMove::waiting(leaver.vm_id, leaver.vm.clone(), leaver.project_id, mode)
}

/// A VM that is on the drained host now.
#[derive(Clone, Debug)]
pub struct Here {
    /// The VM.
    pub vm_id: VmId,
    /// It is on its way, whoever asked for that.
    pub moving: bool,
    /// It is being deleted.
    pub deleting: bool,
}

/// What has passed since a drain was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Its deadline.
    pub overdue: bool,
    /// The time for which what no host takes is waited for.
    pub patience_over: bool,
}

/// Where a VM of a drain can go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The host.
    pub host: Name,
    /// How.
    pub mode: MigrationMode,
}

/// What is to be done for a drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing now.
    Wait,
    /// Send a VM on its way.
    Start(VmId, Way),
    /// Nothing moves and somebody is left: note when that began.
    Stuck,
    /// It is over. VMs that are left, with the reason of each.
    End(DrainOutcome, Vec<(VmId, CapabilityReason)>),
}

/// Decides what is to be done next. `way` judges one VM against all hosts but those given; it is asked for as few as
/// possible. Called again after every change, so it says one thing at a time.
pub fn next(
    drain: &Drain,
    here: &[Here],
    clock: Clock,
    mut way: impl FnMut(VmId, &[Name]) -> Result<Way, CapabilityReason>,
) -> Next {
    let moving = here.iter().filter(|h| h.moving).count();
    let cancelled = drain.cancel_requested_at.is_some();
    if cancelled || clock.overdue {
        // Whoever cancels takes back what is on its way in the same transaction; its deadline is the drain's at the latest.
        return if moving == 0 { given_up(cancelled, here, drain) } else { Next::Wait };
    }
    let mut left: Vec<(VmId, CapabilityReason)> = Vec::new();
    let mut waits = false;
    let turn = |id: VmId| drain.moves.iter().position(|m| m.vm_id == id).unwrap_or(usize::MAX);
    let mut still: Vec<&Here> = here.iter().filter(|h| !h.moving).collect();
    still.sort_by_key(|h| (turn(h.vm_id), h.vm_id));
    for vm in still {
        if vm.deleting {
            waits = true;
            continue;
        }
        let part = drain.part(vm.vm_id);
        let failed_on = part.map(|p| p.failed_on.as_slice()).unwrap_or_default();
        let last = part.and_then(|p| p.reason.clone()).filter(|_| !failed_on.is_empty());
        let found = match last {
            Some(reason) if part.is_some_and(|p| p.tries >= MAX_TRIES) => Err(reason),
            // Where nobody else takes it, why it failed says more than that.
            Some(reason) => way(vm.vm_id, failed_on).map_err(|_| reason),
            None => way(vm.vm_id, failed_on),
        };
        match found {
            Ok(way) if moving < drain.spec.concurrency as usize => return Next::Start(vm.vm_id, way),
            Ok(_) => return Next::Wait,
            Err(reason) if reason.code == NOT_KNOWN_YET => waits = true,
            Err(reason) => left.push((vm.vm_id, reason)),
        }
    }
    match (moving, left.is_empty() && !waits) {
        (0, true) => Next::End(ended(DrainResult::Drained, "no VM is on the host".into(), 0), left),
        (0, false) if clock.patience_over || (!waits && drain.spec.patience_seconds == 0) => {
            let count = here.len();
            let message = format!("{count} VMs are on the host still; each says why");
            Next::End(ended(DrainResult::Incomplete, message, count), left)
        }
        (0, false) if drain.stuck_since.is_none() => Next::Stuck,
        _ => Next::Wait,
    }
}

fn given_up(cancelled: bool, here: &[Here], drain: &Drain) -> Next {
    let (result, message, reason) = if cancelled {
        let reason = CapabilityReason::new(
            "drain_cancelled",
            format!("host/{}", drain.host),
            "the drain was taken back before its turn came",
            "drain the host again: it goes on with what is left",
        );
        (DrainResult::Cancelled, "it was taken back; the host stays in maintenance", reason)
    } else {
        let reason = CapabilityReason::new(
            "drain_overdue",
            format!("host/{}", drain.host),
            "the time of the drain was over before its turn came",
            "drain the host again with a longer timeout_seconds or a higher concurrency",
        );
        (DrainResult::Incomplete, "its time is over", reason)
    };
    let left = here.iter().map(|h| {
        let known = drain.part(h.vm_id).and_then(|p| p.reason.clone());
        (h.vm_id, known.unwrap_or_else(|| reason.clone()))
    });
    Next::End(ended(result, message.into(), here.len()), left.collect())
}

fn ended(result: DrainResult, message: String, left: usize) -> DrainOutcome {
    DrainOutcome { result, message, left: u32::try_from(left).unwrap_or(u32::MAX) }
}

/// How far a drain is, in hundredths, and in words.
pub fn progress(drain: &Drain) -> (i32, String) {
    let all = drain.moves.len();
    let done = drain.count(MoveState::Moved) + drain.count(MoveState::Gone);
    let percent = (done * 100).checked_div(all).unwrap_or(0);
    let moving = drain.count(MoveState::Moving);
    let failed = drain.moves.iter().filter(|m| m.state == MoveState::Waiting && m.reason.is_some()).count();
    let mut words = format!("{done} of {all} VMs are elsewhere, {moving} are on their way");
    if failed > 0 {
        words += &format!(", {failed} found no host yet");
    }
    if drain.cancel_requested_at.is_some() {
        words += "; it is being taken back";
    }
    (i32::try_from(percent).unwrap_or(99).min(99), words)
}

#[cfg(test)]
#[path = "drains_tests.rs"]
mod tests;
