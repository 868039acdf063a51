//! One case each: power, redeploy, seed, capability, removal, refusal of the past.

use super::fixture::*;
use crate::host::{effect::Mishap, *};
use basalt_model::{
    CapabilityReason, Epoch, Generation, NetworkId,
    vms::{Firmware, ObservedPower, OperationOutcome, Power},
};
use basalt_wire::agent::{Desired, ItemKind, ItemObserved};
use chrono::TimeDelta;

fn running() -> (Driver, basalt_wire::agent::Manifest) {
    let (mut d, m) = (Driver::new(), one_vm(|_| {}));
    let plan = d.settle(&m);
    assert_eq!(vm_report(&plan, 1).0.power, ObservedPower::Running);
    (d, m)
}

#[test]
fn v1_an_empty_host_gets_everything_in_order_and_once() {
    let (d, m) = running();
    for (stage, count) in d.mutations.iter().filter(|(s, _)| **s != "setting flows") {
        assert_eq!(*count, 1, "{stage}");
    }
    let plan = d.plan(&m);
    assert_eq!((plan.work.len(), plan.notes.len(), plan.blocked.len()), (0, 0, 0));
    assert!(
        plan.items.iter().all(|i| i.generation == Generation(1) && i.stage.is_empty()),
        "{:#?}",
        plan.items
    );
}

#[test]
fn v3_whatever_happens_to_a_running_vm_it_runs_again() {
    let mishaps = [
        Mishap::Kill(vm_id(1)),
        Mishap::Erase(vm_id(1)),
        Mishap::Undefine(vm_id(1)),
        Mishap::Pause(vm_id(1)),
        Mishap::DropPort(port_id(1)),
        Mishap::WipeFlows,
        Mishap::DropSwitch,
        Mishap::KillDhcp,
        Mishap::DropRouters,
        Mishap::DropSeeds,
        Mishap::PowerCut,
    ];
    for mishap in mishaps {
        let (mut d, m) = running();
        let before = d.world.observed.clone();
        d.world.suffer(&mishap, d.now);
        d.now += TimeDelta::hours(1);
        d.settle(&m);
        let seen = d.vm(1).unwrap();
        assert_eq!(seen.power, ObservedPower::Running, "{mishap:?}");
        assert_eq!(d.world.observed.ports, before.ports, "{mishap:?}");
        assert_eq!(d.world.observed.networks, before.networks, "{mishap:?}");
        assert_eq!(d.world.observed.switch, before.switch, "{mishap:?}");
        assert_eq!(d.world.observed.volumes, before.volumes, "{mishap:?}: a disk was doubled or lost");
    }
}

#[test]
fn v3_every_pair_of_wanted_and_seen_power_converges() {
    use ObservedPower as P;
    let end = |p: Power| match p {
        Power::Running => P::Running,
        Power::Stopped => P::Stopped,
        Power::Paused => P::Paused,
    };
    for from in [Power::Running, Power::Stopped, Power::Paused] {
        for to in [Power::Running, Power::Stopped, Power::Paused] {
            let (mut d, mut m) = (Driver::new(), one_vm(|b| b.power = from));
            d.settle(&m);
            assert_eq!(d.vm(1).unwrap().power, end(from));
            edit_vm(&mut m, |b| b.power = to);
            let plan = d.settle(&m);
            assert_eq!(d.vm(1).unwrap().power, end(to), "{from:?} to {to:?}");
            assert_eq!(vm_report(&plan, 1).1, Generation(2));
            assert!(d.count("starting") <= 1 && d.count("forcing off") == 0, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn v3_a_stopped_vm_that_somebody_started_is_stopped() {
    let (mut d, m) = (Driver::new(), one_vm(|b| b.power = Power::Stopped));
    d.settle(&m);
    d.world.suffer(&Mishap::Start(vm_id(1)), d.now);
    assert_eq!(d.vm(1).unwrap().power, ObservedPower::Running);
    d.settle(&m);
    assert_eq!(d.vm(1).unwrap().power, ObservedPower::Stopped);
}

#[test]
fn v2_a_deaf_guest_is_asked_again_and_forced_after_the_grace() {
    let (mut d, mut m) = running();
    d.world.deaf.insert(vm_id(1));
    edit_vm(&mut m, |b| b.power = Power::Stopped);
    let asked = d.now;
    let plan = d.pass(&m);
    assert_eq!(plan.work[0].actions, [Action::ShutdownVm(vm_id(1))]);
    let plan = d.plan(&m);
    assert_eq!(plan.wake_at, Some(asked + TimeDelta::seconds(SHUTDOWN_REPEAT_SECONDS)));
    assert_eq!(vm_report(&plan, 1).0.power, ObservedPower::Stopping);
    assert_eq!(vm_report(&plan, 1).2, "shutting down");
    d.now = asked + TimeDelta::seconds(59);
    assert_eq!(d.plan(&m).work[0].actions, [Action::ShutdownVm(vm_id(1))]);
    d.now = asked + TimeDelta::seconds(60);
    assert_eq!(d.plan(&m).work[0].actions, [Action::DestroyVm(vm_id(1))]);
    d.settle(&m);
    assert!(d.memory.stops.is_empty());
}

#[test]
fn v2_an_agent_that_died_before_it_asked_asks_however_long_it_was_away() {
    let (mut d, mut m) = running();
    edit_vm(&mut m, |b| b.power = Power::Stopped);
    let ask = d.plan(&m).work[0].actions[0].clone();
    assert_eq!(ask, Action::ShutdownVm(vm_id(1)));
    assert!(d.memory.begin(&ask, d.now), "it is kept before it is begun");
    d.now += TimeDelta::hours(1);
    assert_eq!(d.plan(&m).work[0].actions, [ask], "its grace begins when it is asked");
    d.settle(&m);
    assert_eq!((d.vm(1).unwrap().power, d.count("forcing off")), (ObservedPower::Stopped, 0));
}

#[test]
fn v2_a_change_of_mind_while_shutting_down_starts_it_again_without_force() {
    let (mut d, mut m) = running();
    d.world.deaf.insert(vm_id(1));
    edit_vm(&mut m, |b| b.power = Power::Stopped);
    d.pass(&m);
    edit_vm(&mut m, |b| b.power = Power::Running);
    d.settle(&m);
    assert!(d.memory.stops.is_empty());
    assert_eq!((d.count("forcing off"), d.count("starting")), (0, 1));
}

#[test]
fn v2_redeploy_makes_new_disks_and_removes_the_old_ones_last() {
    let (mut d, m) = running();
    let old = d.vm(1).unwrap().running.clone().unwrap();
    let m2 = {
        let mut m2 = one_vm(|b| b.incarnation = 1);
        m2.items.iter_mut().for_each(|i| i.generation = Generation(2));
        m2
    };
    // Until the new disk is there the old guest goes on.
    d.broken = vec![Resource::Volume(volume_id(1))];
    let plan = d.settle(&m2);
    assert_eq!(d.vm(1).unwrap().running.as_ref(), Some(&old));
    assert_eq!(vm_report(&plan, 1).0.blocked.unwrap().code, "failed");
    d.broken.clear();
    d.now += TimeDelta::hours(1);
    let plan = d.settle(&m2);
    let volumes: Vec<_> = d.world.observed.volumes.items.keys().map(|k| k.incarnation).collect();
    assert_eq!(volumes, [1]);
    assert_eq!(vm_report(&plan, 1).0.incarnation, 1);
    assert_eq!((d.count("forcing off"), d.count("starting"), d.count("making the volume")), (1, 2, 2));
    // The past is refused: the first incarnation does not come back.
    let plan = d.settle(&m);
    assert!(plan.blocked.iter().any(|(k, r)| k.kind == ItemKind::Vm && r.code == "stale_item"));
    assert_eq!(d.vm(1).unwrap().running.as_ref().unwrap().incarnation, 1);
}

#[test]
fn v5_a_changed_seed_is_written_and_taken_up_by_the_next_start() {
    let (mut d, mut m) = running();
    edit_vm(&mut m, |b| b.seed.user_data = Some("#cloud-config".into()));
    let plan = d.settle(&m);
    assert_eq!(vm_report(&plan, 1).0.pending_reboot.unwrap().code, "pending_reboot");
    assert_eq!(
        (d.count("starting"), d.world.observed.seeds.items.len()),
        (1, 2),
        "the running guest keeps its seed"
    );
    d.world.suffer(&Mishap::Kill(vm_id(1)), d.now);
    let plan = d.settle(&m);
    assert_eq!(vm_report(&plan, 1).0.pending_reboot, None);
    let running = d.vm(1).unwrap().running.clone().unwrap();
    let seeds: Vec<_> = d.world.observed.seeds.items.keys().map(|s| s.hash.clone()).collect();
    assert_eq!(seeds, [running.seed_hash], "the old seed is gone");
}

#[test]
fn more_memory_waits_for_the_next_start_and_says_so() {
    let (mut d, mut m) = running();
    edit_vm(&mut m, |b| b.memory_bytes *= 2);
    let plan = d.settle(&m);
    assert!(vm_report(&plan, 1).0.pending_reboot.is_some());
    assert_eq!((vm_report(&plan, 1).1, d.count("starting")), (Generation(2), 1));
}

#[test]
fn a_new_epoch_alone_rewrites_the_stamp_and_restarts_nothing() {
    let (mut d, mut m) = running();
    m.items.iter_mut().for_each(|i| i.epoch = Epoch(2));
    let plan = d.settle(&m);
    assert_eq!(d.vm(1).unwrap().defined.as_ref().unwrap().epoch, Epoch(2));
    assert_eq!((d.count("starting"), vm_report(&plan, 1).0.pending_reboot), (1, None));
}

#[test]
fn r43_without_a_ledger_the_stamp_on_the_host_still_refuses_the_past() {
    let (mut d, mut m) = running();
    m.items.iter_mut().for_each(|i| i.epoch = Epoch(2));
    d.settle(&m);
    d.memory = Memory::default();
    let plan = d.plan(&one_vm(|b| b.power = Power::Stopped));
    assert!(plan.blocked.iter().any(|(k, r)| k.kind == ItemKind::Vm && r.code == "stale_item"));
    assert!(plan.work.iter().all(|w| w.resource != Resource::Vm(vm_id(1))));
}

#[test]
fn r15_absent_items_remove_everything_in_reverse_order() {
    let (mut d, m) = running();
    let gone = all_absent(&m);
    let mut first = d.pass(&gone);
    first.work.retain(|w| w.resource != Resource::Flows);
    assert_eq!(first.work.len(), 1, "only the VM can go at first: {:?}", first.work);
    let plan = d.settle(&gone);
    assert!(plan.items.iter().all(|i| i.observed == ItemObserved::Gone), "{:#?}", plan.items);
    let o = &d.world.observed;
    assert!(o.vms.items.is_empty() && o.volumes.items.is_empty() && o.images.items.is_empty());
    assert!(o.networks.items.is_empty() && o.seeds.items.is_empty() && o.ports.items.is_empty());
}

#[test]
fn h5_r36_what_no_item_names_is_reported_and_left_alone() {
    let (mut d, m) = running();
    let strangers = manifest([network(), image(), volume(2, 1), vm(2, |_| {})]);
    let mut other = Driver { world: d.world.clone(), ..Driver::new() };
    other.settle(&strangers);
    d.world = other.world;
    let before = d.world.observed.clone();
    // First beside an item that stays, then beside items that go, then with an empty manifest.
    for m in [
        m.clone(),
        manifest([absent(ItemKind::Vm, vm_id(1).0), absent(ItemKind::Volume, volume_id(1).0)]),
        manifest([]),
    ] {
        let plan = d.settle(&m);
        let kinds: Vec<_> =
            plan.foreign.iter().filter(|f| f.id.ends_with("02")).map(|f| f.kind.as_str()).collect();
        assert_eq!(kinds, ["port", "vm", "volume"]);
        assert_eq!(d.vm(2), before.vms.items.get(&vm_id(2)));
        assert!(d.world.observed.volumes.items.keys().any(|k| k.id == volume_id(2)));
        assert!(d.world.observed.ports.items.contains_key(&port_id(2)));
    }
}

#[test]
fn a_listing_that_failed_or_is_partial_makes_nothing_and_removes_nothing() {
    let (d, m) = running();
    let gone = all_absent(&m);
    for m in [&m, &gone] {
        let everything = |o: &mut Observed| {
            o.vms = Section::failed("libvirtd is away");
            o.volumes = Section::partial([], "one pool is away");
            o.images = Section::failed("EIO");
            o.networks = Section::partial([], "EIO");
            o.ports = Section::failed("no ovsdb");
            o.seeds = Section::failed("EIO");
        };
        let mut observed = d.world.observed.clone();
        everything(&mut observed);
        let plan = diff(m, &observed, &d.memory, d.now);
        assert_eq!(plan.work, [], "nothing can be known");
        assert!(plan.items.iter().all(|i| i.observed != ItemObserved::Gone && !i.stage.is_empty()));
    }
    // One section alone: what depends on it waits, nothing is removed that it might still use.
    let mut observed = d.world.observed.clone();
    observed.vms = Section::failed("libvirtd is away");
    let mut plan = diff(&gone, &observed, &d.memory, d.now);
    plan.work.retain(|w| w.resource != Resource::Flows);
    assert_eq!(plan.work, [], "who uses the volume, the image and the network cannot be told");
    let mut observed = d.world.observed.clone();
    observed.ports = Section::partial([], "ovsdb answered half");
    assert_eq!(diff(&m, &observed, &d.memory, d.now).work, [], "flows are never set from half a list");
}

#[test]
fn a_lacking_capability_blocks_its_item_and_no_other() {
    let needs = [
        (
            "uefi_missing",
            Box::new(|d: &mut Driver| d.world.observed.capabilities.uefi = false) as Box<dyn Fn(&mut Driver)>,
        ),
        ("accelerator_missing", Box::new(|d: &mut Driver| d.world.observed.capabilities.accelerator = None)),
        ("pool_missing", Box::new(|d: &mut Driver| d.world.observed.capabilities.pools.clear())),
    ];
    for (code, break_it) in needs {
        let mut d = Driver::new();
        break_it(&mut d);
        let m = one_vm(|b| b.firmware = Firmware::Uefi);
        let plan = d.settle(&m);
        let blocked = vm_report(&plan, 1).0.blocked.unwrap();
        assert_eq!(blocked.code, code);
        assert!(!blocked.remedy.is_empty() && d.count("starting") == 0);
        assert_eq!(d.count("setting up the network") + d.count("downloading image"), 2, "others go on");
    }
    // What already runs goes on.
    let (mut d, m) = running();
    d.world.observed.capabilities.accelerator = None;
    assert_eq!(d.settle(&m).blocked, []);
}

#[test]
fn an_uplink_that_the_host_lacks_is_named() {
    let mut m = one_vm(|_| {});
    if let Desired::Network(body) = &mut m.items[0].desired {
        body.segment = basalt_model::networks::Segment::Flat { uplink: "br-ex".into() };
    }
    let plan = Driver::new().settle(&m);
    assert_eq!(vm_report(&plan, 1).0.blocked.unwrap().code, "uplink_missing");
}

#[test]
fn an_item_that_the_manifest_forgot_is_no_reason_to_guess() {
    let m = manifest([network(), image(), vm(1, |_| {})]);
    let plan = Driver::new().settle(&m);
    assert_eq!(vm_report(&plan, 1).0.blocked.unwrap().code, "manifest_incomplete");
}

#[test]
fn a_volume_that_was_there_is_not_silently_made_anew() {
    let (mut d, m) = running();
    d.world.suffer(&Mishap::Kill(vm_id(1)), d.now);
    d.world.observed.volumes.items.clear();
    let plan = d.settle(&m);
    assert_eq!(vm_report(&plan, 1).0.blocked.unwrap().code, "volume_lost");
    assert_eq!((d.count("making the volume"), d.count("starting")), (1, 1));
}

#[test]
fn a_volume_in_use_by_a_stranger_is_never_removed() {
    let (mut d, _) = running();
    let m = manifest([absent(ItemKind::Volume, volume_id(1).0)]);
    let plan = d.settle(&m);
    assert_eq!(plan.blocked[0].1.code, "volume_in_use");
    assert_eq!(d.world.observed.volumes.items.len(), 1);
}

#[test]
fn v2_a_one_shot_verb_is_done_once_for_its_stamp() {
    let (mut d, mut m) = running();
    edit_vm(&mut m, |b| b.operation = reboot(1));
    let plan = d.settle(&m);
    assert_eq!(d.world.restarts[&vm_id(1)], 1);
    assert_eq!(vm_report(&plan, 1).0.operation.unwrap().outcome, OperationOutcome::Done);
    edit_vm(&mut m, |b| b.operation = reboot(2));
    d.settle(&m);
    d.settle(&m);
    assert_eq!(d.world.restarts[&vm_id(1)], 2);
}

#[test]
fn v2_a_one_shot_verb_on_a_vm_that_does_not_run_fails_and_is_not_kept_for_later() {
    let mut d = Driver::new();
    let m = one_vm(|b| b.operation = reboot(1));
    let plan = d.settle(&m);
    assert_eq!(vm_report(&plan, 1).0.operation.unwrap().outcome, OperationOutcome::Failed);
    assert_eq!(d.vm(1).unwrap().power, ObservedPower::Running);
    assert_eq!(d.world.restarts.get(&vm_id(1)), None);
}

#[test]
fn r32_a_verb_that_was_started_and_whose_end_nobody_saw_is_unknown_and_not_repeated() {
    let (mut d, mut m) = running();
    edit_vm(&mut m, |b| b.operation = reboot(1));
    d.memory.accept(&m);
    let plan = d.plan(&m);
    let action = &plan.work[0].actions[0];
    d.memory.begin(action, d.now);
    let plan = d.settle(&m);
    assert_eq!(vm_report(&plan, 1).0.operation.unwrap().outcome, OperationOutcome::Unknown);
    assert_eq!(d.world.restarts.get(&vm_id(1)), None);
}

#[test]
fn a_vm_that_dies_at_once_is_started_ever_more_rarely() {
    let (mut d, m) = running();
    let mut waits = Vec::new();
    for _ in 0..8 {
        let died = d.now;
        d.world.suffer(&Mishap::Kill(vm_id(1)), d.now);
        d.settle(&m);
        waits.push((d.now - died).num_seconds());
    }
    assert_eq!(waits[0], 0, "the first time at once");
    assert!(waits.windows(2).all(|w| w[0] <= w[1]) && (50..=60).contains(waits.last().unwrap()), "{waits:?}");
    edit_vm(&mut { m }, |_| {});
}

#[test]
fn what_is_being_worked_on_is_left_alone_and_others_are_not() {
    let (mut d, m) = (Driver::new(), one_vm(|_| {}));
    d.memory
        .in_flight
        .insert(Resource::Image(basalt_model::ImageId(id(1, IMAGE))), "downloading image (45 %)".into());
    let plan = d.settle(&m);
    assert_eq!(report(&plan, ItemKind::Image, id(1, IMAGE)).stage, "downloading image (45 %)");
    assert!(d.world.observed.networks.items.contains_key(&NetworkId(id(0, NETWORK))));
    assert_eq!(vm_report(&plan, 1).2, format!("waiting for volume {}", volume_id(1)));
}

#[test]
fn flows_that_stand_block_nothing_although_the_answer_of_who_set_them_was_lost() {
    let (mut d, m) = running();
    let reason = CapabilityReason::new("failed", "it", "no answer", "wait");
    d.memory.back_off.insert(Resource::Flows, BackOff::after(None, reason, d.now, 0.5));
    assert_eq!(d.plan(&m).blocked, []);
    let blocked = |plan: &Plan| {
        plan.items.iter().any(|i| matches!(&i.observed, ItemObserved::Network { blocked: Some(_), .. }))
    };
    assert!(!blocked(&d.plan(&m)));
    d.world.suffer(&Mishap::WipeFlows, d.now);
    assert!(blocked(&d.plan(&m)), "while they do not stand, it is said why");
}
