//! Drains: plans that keep every rule, and what is done next in every situation.

use super::*;
use crate::placement::{
    VolumeRequest,
    tests::{host, name},
};
use basalt_model::{
    DateTime, DrainId, GIB, Labels, TaskId,
    drains::DrainMove,
    hosts::HostFacts,
    tasks::Actor,
    vms::{AffinityRule, Firmware, PlacementRules},
};
use std::sync::Arc;
use uuid::Uuid;

fn change(view: &mut HostView, change: impl FnOnce(&mut HostFacts)) {
    change(Arc::make_mut(view.facts.as_mut().unwrap()));
}

/// A host that takes VMs in: 8 threads, 8 GiB for guests.
fn ready(n: u128) -> HostView {
    let mut view = host(n);
    change(&mut view, |f| f.migration_address = Some(format!("10.77.0.{n}:9446").parse().unwrap()));
    view
}

fn leaver(n: u128, gib: u64) -> Leaver {
    let volume = VolumeRequest {
        name: name("root"),
        size_bytes: GIB,
        pool: None,
        bound: Some((host(1).id, name("default"))),
    };
    Leaver {
        vm_id: VmId(Uuid::from_u128(n)),
        vm: name(&format!("v{n}")),
        project_id: ProjectId(Uuid::from_u128(7)),
        power: Power::Running,
        request: Request { cpus: 1, memory_bytes: gib * GIB, volumes: vec![volume], ..Request::default() },
    }
}

fn labels(text: &str) -> Labels {
    Labels([("app".to_owned(), text.to_owned())].into())
}

fn placed(leaver: &Leaver, at: u128) -> Placed {
    let peer = Peer::of(&leaver.vm, &leaver.request.labels, &leaver.request.rules).unwrap();
    Placed { vm_id: leaver.vm_id, project_id: leaver.project_id, host_id: host(at).id, peer }
}

fn goes(plan: &DrainPlan) -> Vec<(String, Option<String>)> {
    plan.moves.iter().map(|m| (m.vm.to_string(), m.target.as_ref().map(Name::to_string))).collect()
}

fn to(vm: &str, host: &str) -> (String, Option<String>) {
    (vm.to_owned(), Some(host.to_owned()))
}

#[test]
fn m4_a_plan_says_where_each_vm_goes_when_and_why_and_which_cannot_go() {
    let hosts = vec![ready(1), ready(2), ready(3)];
    let mut stays = leaver(4, 1);
    stays.request.firmware = Firmware::Uefi;
    let all = vec![leaver(2, 1), leaver(3, 4), stays];
    let plan = plan(&hosts[0].clone(), all, hosts, vec![], &DrainSpec::default());
    // The large one first; what comes next goes where there is more room now.
    assert_eq!(goes(&plan), [to("v3", "h2"), to("v2", "h3"), ("v4".to_owned(), None)]);
    assert_eq!(plan.left, 1);
    let stays = &plan.moves[2];
    assert_eq!(stays.reason.as_ref().unwrap().code, "no_host_can");
    assert!(!stays.reason.as_ref().unwrap().remedy.is_empty());
    let first = &plan.moves[0];
    assert!(first.why.contains("best of 2"), "{}", first.why);
    assert_eq!(first.bytes, 5 * GIB, "memory and a disk that the hosts do not share");
    // Two at a time: each gets half of what is assumed.
    assert_eq!(first.takes_seconds, (5 * GIB).div_ceil(ASSUMED_BYTES_PER_SECOND / 2) + 5);
    assert_eq!((first.begins_after_seconds, plan.moves[1].begins_after_seconds), (0, 0));
    assert_eq!(plan.takes_seconds, first.takes_seconds);
}

#[test]
fn m4_a_plan_promises_no_room_twice() {
    let hosts = vec![ready(1), ready(2), ready(3)];
    let all: Vec<Leaver> = (1..=3).map(|n| leaver(n, 5)).collect();
    let one = DrainSpec { concurrency: 1, ..DrainSpec::default() };
    let plan = plan(&hosts[0].clone(), all, hosts, vec![], &one);
    assert_eq!(goes(&plan), [to("v1", "h2"), to("v2", "h3"), ("v3".to_owned(), None)]);
    assert_eq!(plan.moves[2].reason.as_ref().unwrap().code, "no_host_fits");
    assert_eq!(plan.moves[1].begins_after_seconds, plan.moves[0].takes_seconds, "one after the other");
}

#[test]
fn m4_vms_that_must_be_together_follow_each_other_and_those_that_must_not_go_apart() {
    let hosts = vec![ready(1), ready(2), ready(3)];
    let rule = |text: &str| AffinityRule { vm_labels: labels(text), required: true };
    // v9 goes first by its size but must be where the database is, which leaves after it.
    let mut front = leaver(9, 2);
    front.request.rules = PlacementRules { affinity: vec![rule("db")], ..PlacementRules::default() };
    front.request.labels = labels("front");
    let mut database = leaver(1, 1);
    database.request.labels = labels("db");
    let apart = |n| {
        let mut vm = leaver(n, 1);
        vm.request.rules = PlacementRules { anti_affinity: vec![rule("ha")], ..PlacementRules::default() };
        vm.request.labels = labels("ha");
        vm
    };
    let all = vec![front, database, apart(5), apart(6), apart(7)];
    let peers = all.iter().map(|l| placed(l, 1)).collect();
    let plan = plan(&hosts[0].clone(), all, hosts, peers, &DrainSpec::default());
    let at = |vm: &str| plan.moves.iter().find(|m| m.vm.as_str() == vm).unwrap().target.clone();
    assert!(at("v9").is_some() && at("v9") == at("v1"), "{:?}", goes(&plan));
    assert!(at("v5").is_some() && at("v6").is_some() && at("v5") != at("v6"), "{:?}", goes(&plan));
    assert_eq!(at("v7"), None, "there are two hosts for three that must be apart");
    let turn = |vm: &str| plan.moves.iter().position(|m| m.vm.as_str() == vm);
    assert!(turn("v1") < turn("v9"), "who is followed goes first");
}

#[test]
fn m4_a_guest_that_cannot_go_live_is_shut_down_only_with_consent() {
    let mut hosts = vec![ready(1), ready(2)];
    for (n, host) in hosts.iter_mut().enumerate() {
        change(host, |f| {
            f.pools[0].shared_id = Some(Uuid::from_u128(3));
            f.accelerators[0].kind = "kvm".into();
            f.cpu_features = if n == 0 { vec!["avx512".into()] } else { vec![] };
        });
    }
    let source = hosts[0].clone();
    let asked = |spec: &DrainSpec| plan(&source, vec![leaver(1, 1)], hosts.clone(), vec![], spec);
    let refused = asked(&DrainSpec::default());
    assert_eq!((refused.left, refused.moves[0].target.clone()), (1, None));
    let consented = asked(&DrainSpec { may_shut_down: true, ..DrainSpec::default() });
    assert_eq!(goes(&consented), [to("v1", "h2")]);
    assert_eq!((consented.moves[0].mode, consented.moves[0].bytes), (MigrationMode::Cold, 0));
}

fn drain(spec: DrainSpec, moves: Vec<DrainMove>) -> Drain {
    Drain {
        id: DrainId(Uuid::from_u128(1)),
        host_id: host(1).id,
        host: name("h1"),
        task_id: TaskId(Uuid::from_u128(2)),
        actor: Actor::system("test"),
        spec,
        moves,
        requested_at: DateTime::UNIX_EPOCH,
        deadline: DateTime::UNIX_EPOCH,
        stuck_since: None,
        cancel_requested_at: None,
        ended_at: None,
        outcome: None,
    }
}

fn of(n: u128) -> DrainMove {
    waits(&leaver(n, 1))
}

fn here(n: u128) -> Here {
    Here { vm_id: VmId(Uuid::from_u128(n)), moving: false, deleting: false }
}

fn moving(n: u128) -> Here {
    Here { moving: true, ..here(n) }
}

fn full() -> CapabilityReason {
    CapabilityReason::new("no_host_fits", "placement", "full", "add a host")
}

/// v1 to v7 fit on h2; v8 and above fit nowhere.
fn way(vm: VmId, except: &[Name]) -> Result<Way, CapabilityReason> {
    let fits = vm.0.as_u128() < 8 && !except.contains(&name("h2"));
    if fits { Ok(Way { host: name("h2"), mode: MigrationMode::Live }) } else { Err(full()) }
}

fn started(next: Next) -> Option<u128> {
    match next {
        Next::Start(vm, _) => Some(vm.0.as_u128()),
        _ => None,
    }
}

#[test]
fn m4_vms_leave_in_the_order_of_the_plan_within_the_budget() {
    let drain = drain(DrainSpec::default(), vec![of(3), of(1), of(2)]);
    let asked = |here: &[Here]| next(&drain, here, Clock::default(), way);
    assert_eq!(started(asked(&[here(1), here(2), here(3)])), Some(3));
    assert_eq!(started(asked(&[here(1), here(2), moving(3)])), Some(1));
    assert_eq!(asked(&[moving(1), here(2), moving(3)]), Next::Wait);
    assert_eq!(asked(&[moving(1)]), Next::Wait);
    // One that came to the host late goes last.
    assert_eq!(started(asked(&[here(4)])), Some(4));
    // What finds no host holds nobody up.
    assert_eq!(started(asked(&[here(9), here(2)])), Some(2));
    assert_eq!(asked(&[Here { deleting: true, ..here(1) }]), Next::Stuck);
    let Next::End(outcome, left) = asked(&[]) else { panic!("nobody is there") };
    assert_eq!((outcome.result, outcome.left, left.len()), (DrainResult::Drained, 0, 0));
}

#[test]
fn r56_what_no_host_takes_is_waited_for_and_then_named() {
    let mut all = drain(DrainSpec::default(), vec![of(8), of(9)]);
    let left = [here(8), here(9)];
    assert_eq!(next(&all, &left, Clock::default(), way), Next::Stuck);
    all.stuck_since = Some(DateTime::UNIX_EPOCH);
    assert_eq!(next(&all, &left, Clock::default(), way), Next::Wait);
    let over = Clock { patience_over: true, ..Clock::default() };
    let Next::End(outcome, reasons) = next(&all, &left, over, way) else { panic!("its patience is over") };
    assert_eq!((outcome.result, outcome.left), (DrainResult::Incomplete, 2));
    assert_eq!(reasons, [(left[0].vm_id, full()), (left[1].vm_id, full())]);
    // A row that has not come yet is no reason.
    let unknown = |_, _: &[Name]| Err(not_known_yet("vm"));
    all.spec.patience_seconds = 0;
    all.stuck_since = None;
    assert_eq!(next(&all, &left, Clock::default(), unknown), Next::Stuck);
    assert!(matches!(next(&all, &left, Clock::default(), way), Next::End(..)), "no patience was asked for");
}

#[test]
fn m4_a_migration_that_failed_is_tried_on_another_host_a_few_times() {
    let failed = CapabilityReason::new("not_converging", "vm/v1", "it writes too fast", "throttle it");
    let mut part = of(1);
    (part.tries, part.failed_on, part.reason) = (1, vec![name("h3")], Some(failed.clone()));
    let one = |part: &DrainMove| {
        next(&drain(DrainSpec::default(), vec![part.clone()]), &[here(1)], Clock::default(), way)
    };
    assert_eq!(started(one(&part)), Some(1));
    part.failed_on.push(name("h2"));
    assert_eq!(one(&part), Next::Stuck, "no host is left to try");
    let over = Clock { patience_over: true, ..Clock::default() };
    let Next::End(_, left) = next(&drain(DrainSpec::default(), vec![part.clone()]), &[here(1)], over, way)
    else {
        panic!("its patience is over")
    };
    assert_eq!(left, [(here(1).vm_id, failed.clone())], "why it failed says more than that no host is left");
    (part.tries, part.failed_on) = (MAX_TRIES, vec![name("h3")]);
    assert_eq!(one(&part), Next::Stuck, "it was tried often enough");
}

#[test]
fn r57_a_drain_that_was_taken_back_starts_nothing_and_ends_when_nothing_moves() {
    let mut all = drain(DrainSpec::default(), vec![of(1), of(2)]);
    all.cancel_requested_at = Some(DateTime::UNIX_EPOCH);
    assert_eq!(next(&all, &[moving(1), here(2)], Clock::default(), way), Next::Wait);
    let Next::End(outcome, left) = next(&all, &[here(2)], Clock::default(), way) else {
        panic!("nothing moves")
    };
    assert_eq!((outcome.result, outcome.left), (DrainResult::Cancelled, 1));
    assert_eq!(left[0].1.code, "drain_cancelled");
    all.cancel_requested_at = None;
    let late = Clock { overdue: true, ..Clock::default() };
    assert_eq!(next(&all, &[moving(1), here(2)], late, way), Next::Wait);
    let Next::End(outcome, left) = next(&all, &[here(2)], late, way) else { panic!("nothing moves") };
    assert_eq!((outcome.result, left[0].1.code.as_ref()), (DrainResult::Incomplete, "drain_overdue"));
}
