//! Conditions: every state of a VM, volume, image and host has its word and its sentence.

use super::*;
use basalt_model::{HostId, VolumeId, hosts::Accelerator};
use basalt_wire::rest::PlacementCandidate;
use proptest::prelude::*;
use uuid::Uuid;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A VM that runs as declared.
pub(crate) fn running() -> VmFacts {
    VmFacts {
        generation: Generation(1),
        deleting: false,
        power: Power::Running,
        incarnation: 0,
        placement: Some(Placed { host: name("h1"), epoch: Epoch(1), state: HostState::Ready }),
        explanation: None,
        in_manifest: true,
        observed: VmObserved { power: ObservedPower::Running, ..VmObserved::default() },
        observed_generation: Generation(1),
        observed_epoch: Epoch(1),
        stage: String::new(),
        parts: vec![Part { what: "volume root".into(), ready: true, blocked: None, stage: String::new() }],
    }
}

/// A VM that nobody has looked at yet.
pub(crate) fn fresh() -> VmFacts {
    VmFacts {
        placement: None,
        in_manifest: false,
        observed: VmObserved::default(),
        observed_generation: Generation(0),
        observed_epoch: Epoch(0),
        parts: vec![Part { what: "volume root".into(), ready: false, blocked: None, stage: String::new() }],
        ..running()
    }
}

pub(crate) fn no_room() -> Box<PlacementExplanation> {
    let rejection = CapabilityReason::new(
        "insufficient_memory",
        "host/h1",
        "5 bytes are free, 9 are asked",
        "add a host",
    );
    Box::new(PlacementExplanation {
        host_id: None,
        host: None,
        summary: "placement: no host takes it now".into(),
        candidates: vec![PlacementCandidate {
            host_id: HostId(Uuid::from_u128(1)),
            host: name("h1"),
            score: None,
            pools: vec![],
            rejections: vec![rejection],
        }],
    })
}

fn find<'a>(conditions: &'a [Condition], kind: &str) -> &'a Condition {
    conditions.iter().find(|c| c.kind == kind).unwrap()
}

type Change = fn(&mut VmFacts);

#[test]
fn v1_pending_never_without_reason() {
    let away = |f: &mut VmFacts| f.placement.as_mut().unwrap().state = HostState::Unreachable;
    let blocked = || Some(CapabilityReason::new("uefi_missing", "host/h1", "no OVMF", "install OVMF"));
    let table: &[(&str, &str, Phase, Change)] = &[
        ("placing", "a host is being chosen", Phase::Pending, |f| *f = fresh()),
        ("unplaced", "add a host", Phase::Blocked, |f| {
            *f = VmFacts { explanation: Some(no_room()), ..fresh() }
        }),
        ("handing_over", "manifest of host h1", Phase::Pending, |f| {
            *f = VmFacts { placement: running().placement, ..fresh() };
        }),
        ("preparing", "waiting for volume root", Phase::Pending, |f| {
            *f = VmFacts { placement: running().placement, in_manifest: true, ..fresh() };
        }),
        ("preparing", "downloading (45 %)", Phase::Pending, |f| {
            *f = VmFacts { placement: running().placement, in_manifest: true, ..fresh() };
            f.parts[0].stage = "downloading (45 %)".into();
        }),
        ("realising", "first report", Phase::Pending, |f| {
            *f = VmFacts { placement: running().placement, in_manifest: true, parts: vec![], ..fresh() };
        }),
        ("realising", "sees stopped and is bringing it to running", Phase::Pending, |f| {
            f.observed.power = ObservedPower::Stopped
        }),
        ("realising", "starting", Phase::Pending, |f| {
            (f.generation, f.stage) = (Generation(2), "starting".into())
        }),
        ("deleting", "is removing it", Phase::Deleting, |f| f.deleting = true),
        ("deleting", "rows are being removed", Phase::Deleting, |f| {
            *f = VmFacts { deleting: true, ..fresh() }
        }),
    ];
    for (reason, part, phase, change) in table {
        let mut facts = running();
        change(&mut facts);
        let all = vm(&facts);
        let ready = find(&all, "Ready");
        assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::False, *reason));
        assert!(ready.message.contains(part), "{part}: {}", ready.message);
        assert_eq!(vm_phase(&facts), *phase, "{part}");
    }
    let mut facts = running();
    facts.generation = Generation(2);
    facts.parts[0].blocked = blocked();
    let all = vm(&facts);
    assert_eq!(
        (find(&all, "Blocked").reason.as_str(), find(&all, "Ready").reason.as_str()),
        ("uefi_missing", "blocked")
    );
    assert!(find(&all, "Ready").message.contains("install OVMF"));
    assert_eq!(vm_phase(&facts), Phase::Blocked);
    away(&mut facts);
    let all = vm(&facts);
    assert_eq!(find(&all, "Ready").status, ConditionStatus::Unknown);
    assert_eq!(find(&all, "HostReachable").status, ConditionStatus::False);
    assert_eq!(vm_phase(&facts), Phase::Unknown);
}

#[test]
fn a_vm_as_declared_is_ready_and_its_phase_is_its_power() {
    for (wanted, seen, phase) in [
        (Power::Running, ObservedPower::Running, Phase::Running),
        (Power::Stopped, ObservedPower::Stopped, Phase::Stopped),
        (Power::Paused, ObservedPower::Paused, Phase::Paused),
    ] {
        let mut facts = running();
        (facts.power, facts.observed.power) = (wanted, seen);
        assert_eq!(find(&vm(&facts), "Ready").status, ConditionStatus::True);
        assert_eq!(vm_phase(&facts), phase);
    }
}

#[test]
fn r35_a_vm_whose_host_can_no_longer_tell_its_power_is_unknown_and_says_why_and_what_helps() {
    let mut facts = running();
    facts.observed.power = ObservedPower::Unknown;
    facts.stage = "cannot list VMs: libvirt did not answer within 8 s".into();
    // Who uses the volumes is not known either; that is not what it waits for.
    facts.parts[0].ready = false;
    let all = vm(&facts);
    let ready = find(&all, "Ready");
    assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::Unknown, "state_unseen"));
    for part in
        ["host h1 cannot tell", "libvirt did not answer within 8 s", "mend what host h1 calls a problem"]
    {
        assert!(ready.message.contains(part), "{part}: {}", ready.message);
    }
    assert_eq!(find(&all, "Progressing").status, ConditionStatus::False);
    assert_eq!(vm_phase(&facts), Phase::Unknown);
    // What was never realised is on its way, and what is to go is going.
    let others: [(Change, Phase); 3] = [
        (|f| f.generation = Generation(2), Phase::Pending),
        (|f| f.placement.as_mut().unwrap().epoch = Epoch(2), Phase::Pending),
        (|f| f.deleting = true, Phase::Deleting),
    ];
    for (change, phase) in others {
        let mut facts = facts.clone();
        change(&mut facts);
        assert_eq!(find(&vm(&facts), "Ready").status, ConditionStatus::False);
        assert_eq!(vm_phase(&facts), phase);
    }
}

#[test]
fn words_of_an_older_placement_count_no_more() {
    let mut facts = running();
    facts.placement.as_mut().unwrap().epoch = Epoch(2);
    assert_eq!(find(&vm(&facts), "Ready").status, ConditionStatus::False);
    assert_eq!(vm_phase(&facts), Phase::Pending);
}

#[test]
fn a_change_that_waits_for_a_boot_is_told_and_the_vm_is_ready() {
    let mut facts = running();
    facts.observed.pending_reboot =
        Some(CapabilityReason::new("needs_boot", "vm/web", "2 CPUs run, 4 are wanted", "reboot it"));
    let all = vm(&facts);
    assert_eq!(find(&all, "RebootPending").status, ConditionStatus::True);
    assert_eq!(find(&all, "Ready").status, ConditionStatus::True);
}

fn volume_facts() -> VolumeFacts {
    VolumeFacts {
        generation: Generation(1),
        deleting: false,
        bound: Some((name("h1"), name("default"))),
        host_state: Some(HostState::Ready),
        observed: VolumeObserved { state: VolumeState::Ready, ..VolumeObserved::default() },
        observed_generation: Generation(1),
        stage: String::new(),
    }
}

#[test]
fn every_state_of_a_volume_has_its_phase_and_reason() {
    type Change = fn(&mut VolumeFacts);
    let table: &[(&str, Phase, Change)] = &[
        ("realised", Phase::Ready, |_| ()),
        ("unbound", Phase::Ready, |f| f.bound = None),
        ("deleting", Phase::Deleting, |f| f.deleting = true),
        ("host_unreachable", Phase::Unknown, |f| f.host_state = Some(HostState::Unreachable)),
        ("pool_away", Phase::Blocked, |f| f.observed.state = VolumeState::Unavailable),
        ("state_unseen", Phase::Unknown, |f| {
            (f.observed.state, f.stage) =
                (VolumeState::Unavailable, "cannot list volumes: libvirt hangs".into());
        }),
        ("realising", Phase::Pending, |f| f.observed.state = VolumeState::Creating),
        ("realising", Phase::Pending, |f| f.generation = Generation(2)),
        ("full", Phase::Blocked, |f| {
            f.observed.blocked = Some(CapabilityReason::new("full", "pool/default", "no room", "make room"));
        }),
    ];
    for (reason, phase, change) in table {
        let mut facts = volume_facts();
        change(&mut facts);
        let all = volume(&facts);
        assert_eq!(find(&all, "Ready").reason, *reason);
        assert!(!find(&all, "Ready").message.is_empty());
        assert_eq!(volume_phase(&facts), *phase, "{reason}");
    }
}

#[test]
fn every_state_of_an_image_has_its_phase_and_reason() {
    for (state, reason, phase) in [
        (ImageState::Uploading, "uploading", Phase::Pending),
        (ImageState::Verifying, "verifying", Phase::Pending),
        (ImageState::Ready, "verified", Phase::Ready),
        (ImageState::Failed, "failed", Phase::Failed),
        (ImageState::Deleting, "deleting", Phase::Deleting),
    ] {
        let observed = ImageObserved { state, ..ImageObserved::default() };
        assert_eq!(image(Generation(1), false, Some(10), false, &observed)[0].reason, reason);
        assert_eq!(image_phase(false, &observed), phase);
        assert_eq!(image_phase(true, &observed), Phase::Deleting);
    }
}

#[test]
fn a_host_says_why_it_takes_nothing() {
    let facts = HostFacts {
        hostname: "h1".into(),
        boot_id: String::new(),
        cpu_model: String::new(),
        cpu_features: vec![],
        cores: 1,
        threads: 1,
        memory_bytes: 1,
        numa: vec![],
        accelerators: vec![Accelerator {
            kind: "kvm".into(),
            usable: false,
            evidence: "guest did not boot".into(),
        }],
        uefi: false,
        pools: vec![],
        bridges: vec![],
        tunnel_address: None,
        tunnel_mtu: None,
        migration_address: None,
        post_copy: false,
        routers: false,
        fencer: None,
        versions: Default::default(),
        foreign: vec![],
        problems: vec![],
    };
    for state in [
        HostState::Enrolling,
        HostState::Ready,
        HostState::Degraded,
        HostState::Unreachable,
        HostState::Maintenance,
        HostState::Removed,
    ] {
        let all = host(Generation(1), &name("h1"), state, Some(&facts), None);
        assert_eq!(find(&all, "Schedulable").status == ConditionStatus::True, state == HostState::Ready);
        assert!(find(&all, "Healthy").message.contains("guest did not boot"));
    }
}

#[test]
fn h1_r44_two_agents_with_one_identity_are_a_condition_that_names_both_and_what_to_do() {
    let (acting, fenced) = (Uuid::from_u128(60), Uuid::from_u128(50));
    let conflict =
        AgentConflict { agent_boot: acting, fenced_boots: vec![fenced], since: DateTime::UNIX_EPOCH };
    let all = host(Generation(1), &name("h1"), HostState::Ready, None, Some(&conflict));
    let said = find(&all, "AgentConflict");
    assert_eq!((said.status, said.reason.as_str()), (ConditionStatus::True, "two_agents"));
    for part in [
        &acting.to_string(),
        &fenced.to_string(),
        "since 1970-01-01T00:00:00Z",
        "stop the agent",
        "revoke the host and enrol it anew",
    ] {
        assert!(said.message.contains(part), "{part}: {}", said.message);
    }
    let alone = host(Generation(1), &name("h1"), HostState::Ready, None, None);
    assert!(alone.iter().all(|c| c.kind != "AgentConflict"));
}

#[test]
fn the_date_stays_while_the_status_does() {
    let (old, now) = (
        DateTime::UNIX_EPOCH + std::time::Duration::from_secs(5),
        DateTime::UNIX_EPOCH + std::time::Duration::from_secs(9),
    );
    let before = date(&[], vm(&running()), old);
    let mut facts = running();
    facts.observed.power = ObservedPower::Crashed;
    let after = date(&before, vm(&facts), now);
    assert_eq!((find(&after, "Placed").since, find(&after, "Ready").since), (old, now));
    assert!(same(&before, &vm(&running())) && !same(&before, &after));
}

proptest! {
    /// No combination of facts gives an unfulfilled condition without a word and a sentence, or a phase that
    /// contradicts `Ready`.
    #[test]
    fn v1_no_combination_is_without_reason(
        placed in any::<bool>(), unplaceable in any::<bool>(), deleting in any::<bool>(), in_manifest in any::<bool>(),
        generation in 1i64..3, seen in 0i64..3, epoch in 0i64..3, power in 0usize..3, observed in 0usize..7,
        state in 0usize..6, blocked in any::<bool>(), part_blocked in any::<bool>(), ready in any::<bool>(), stage in "[a-z]{0,3}",
    ) {
        let reason = || CapabilityReason::new("code", "subject", "message", "remedy");
        let facts = VmFacts {
            generation: Generation(generation),
            deleting,
            power: [Power::Running, Power::Stopped, Power::Paused][power],
            incarnation: 0,
            placement: placed.then(|| Placed {
                host: name("h1"),
                epoch: Epoch(1),
                state: [HostState::Enrolling, HostState::Ready, HostState::Degraded, HostState::Unreachable, HostState::Maintenance, HostState::Removed][state],
            }),
            explanation: unplaceable.then(no_room),
            in_manifest,
            observed: VmObserved {
                power: [ObservedPower::Running, ObservedPower::Stopped, ObservedPower::Paused, ObservedPower::Stopping,
                    ObservedPower::Crashed, ObservedPower::Absent, ObservedPower::Unknown][observed],
                blocked: blocked.then(reason),
                ..VmObserved::default()
            },
            observed_generation: Generation(seen),
            observed_epoch: Epoch(epoch),
            stage,
            parts: vec![Part { what: format!("volume {}", VolumeId(Uuid::nil())), ready, blocked: part_blocked.then(reason), stage: String::new() }],
        };
        let all = vm(&facts);
        for condition in &all {
            prop_assert!(!condition.reason.is_empty() && condition.message.len() > 5, "{:?}", condition);
        }
        let is_ready = find(&all, "Ready").status == ConditionStatus::True;
        let phase = vm_phase(&facts);
        prop_assert_eq!(is_ready, matches!(phase, Phase::Running | Phase::Stopped | Phase::Paused));
    }
}
