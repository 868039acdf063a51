//! A VM on its way: what each side does and says, in each state that a hypervisor can leave it in.

use super::fixture::*;
use crate::host::*;
use basalt_model::{
    CapabilityReason, Epoch, Generation, HostId, MigrationId,
    migrations::{MigrationMode, MotionSide, MotionState, StallPolicy},
    vms::{ObservedPower, Power},
};
use basalt_wire::agent::{
    Desired, ItemKind, Manifest,
    manifest::{IncomingBody, MotionBody, OutgoingBody, Shared, VmBody},
};
use uuid::Uuid;

const MIGRATION: MigrationId = MigrationId(Uuid::from_u128(0x77));
const ME: Resource = Resource::Motion(MIGRATION);

fn out(change: impl Fn(&mut OutgoingBody)) -> Option<MotionBody> {
    let mut body = OutgoingBody {
        id: MIGRATION,
        target: HostId(id(9, 8)),
        address: "10.77.0.2:9446".parse().unwrap(),
        mode: MigrationMode::Live,
        copy_storage: false,
        begin: true,
        cancel: false,
        max_pause_milliseconds: 100,
        on_stall: StallPolicy::Cancel,
        max_bytes_per_second: None,
    };
    change(&mut body);
    Some(MotionBody::Outgoing(body))
}

fn inward(close: bool) -> Option<MotionBody> {
    let (source, mode) = (HostId(id(9, 8)), MigrationMode::Live);
    Some(MotionBody::Incoming(IncomingBody { id: MIGRATION, source, mode, copy_storage: false, close }))
}

/// A source on which the VM runs, and its manifest with a word of the migration.
fn source(motion: Option<MotionBody>) -> (Driver, Manifest) {
    let mut d = Driver::new();
    d.settle(&one_vm(|_| {}));
    let m = one_vm(|b| b.motion = motion);
    d.memory.accept(&m);
    (d, m)
}

fn begun(change: impl Fn(&mut OutgoingBody)) -> (Driver, Manifest) {
    let (mut d, m) = source(out(change));
    d.memory.motions.insert(vm_id(1), MotionRecord::new(MIGRATION, MotionStep::Begun));
    (d, m)
}

fn seen(d: &mut Driver, transit: Transit, power: ObservedPower) {
    let vm = d.world.observed.vms.items.get_mut(&vm_id(1)).unwrap();
    (vm.transit, vm.power) = (transit, power);
    if matches!(power, ObservedPower::Stopped | ObservedPower::Crashed) {
        vm.running = None;
    }
}

fn says(plan: &Plan) -> MotionState {
    vm_report(plan, 1).0.motion.unwrap().state
}

fn acts(plan: &Plan) -> Vec<Action> {
    plan.work.iter().flat_map(|w| w.actions.clone()).collect()
}

/// The manifest of a target, one epoch on.
fn to_come(motion: Option<MotionBody>, change: impl FnOnce(&mut VmBody)) -> Manifest {
    let mut m = one_vm(|b| {
        b.motion = motion;
        change(b);
    });
    m.items.iter_mut().filter(|i| i.kind == ItemKind::Vm).for_each(|i| i.epoch = Epoch(2));
    m
}

/// A target that is ready.
fn target() -> (Driver, Manifest) {
    let (mut d, m) = (Driver::new(), to_come(inward(false), |_| {}));
    d.settle(&m);
    (d, m)
}

fn arrives(d: &mut Driver, transit: Transit, power: ObservedPower) {
    let mut from = Driver::new();
    from.settle(&one_vm(|_| {}));
    let traveller = from.world.begin_sending(vm_id(1)).unwrap();
    d.world.begin_filling(&traveller, d.now).unwrap();
    if transit == Transit::Still {
        d.world.end_filling(&traveller).unwrap();
    }
    seen(d, transit, power);
}

#[test]
fn m1_a_source_sends_once_it_is_told_to_begin_and_the_ledger_says_so_first() {
    let (d, m) = source(out(|b| b.begin = false));
    let plan = d.plan(&m);
    assert_eq!((says(&plan), acts(&plan)), (MotionState::Preparing, vec![]));
    let (mut d, m) = source(out(|_| {}));
    let plan = d.plan(&m);
    let [Action::SendVm(send)] = &acts(&plan)[..] else { panic!("{:?}", plan.work) };
    assert_eq!((send.migration_id, send.max_pause_milliseconds, send.vm.id), (MIGRATION, 100, vm_id(1)));
    assert!(d.memory.begin(&acts(&plan)[0], d.now), "it is kept before it is begun");
    d.memory.in_flight.insert(Resource::Vm(vm_id(1)), "migrating".into());
    seen(&mut d, Transit::Sending, ObservedPower::Running);
    let plan = d.plan(&m);
    assert_eq!((says(&plan), acts(&plan)), (MotionState::Copying, vec![]));
}

#[test]
fn m1_how_sending_ended_is_what_is_said_of_it_for_as_long_as_it_is_asked() {
    let why = CapabilityReason::new("migration_stalled", "it", "no", "wait");
    let (mut d, m) = source(out(|_| {}));
    let send = acts(&d.plan(&m)).remove(0);
    d.memory.begin(&send, d.now);
    let mut left = d.memory.clone();
    left.end(Resource::Vm(vm_id(1)), &send, Outcome::Done, d.now, 0.5);
    d.memory.end(Resource::Vm(vm_id(1)), &send, Outcome::Refused(why.clone()), d.now, 0.5);
    let plan = d.plan(&m);
    let motion = vm_report(&plan, 1).0.motion.unwrap();
    assert_eq!(
        (motion.state, motion.side, motion.reason),
        (MotionState::Failed, MotionSide::Source, Some(why))
    );
    assert_eq!(acts(&plan), [], "it is not tried again");
    // It is this host's again: its power is managed.
    d.world.suffer(&effect::Mishap::Kill(vm_id(1)), d.now);
    d.settle(&m);
    assert_eq!(d.vm(1).unwrap().power, ObservedPower::Running);
    d.memory = left;
    d.world.suffer(&effect::Mishap::Erase(vm_id(1)), d.now);
    let plan = d.settle(&m);
    assert_eq!((says(&plan), d.vm(1)), (MotionState::Left, None), "what left is never made again");
    // The same migration is remembered until nobody speaks of it.
    d.memory.accept(&one_vm(|b| b.motion = out(|o| o.begin = false)));
    assert_eq!(d.memory.motions.len(), 1);
    d.memory.accept(&one_vm(|_| {}));
    assert!(d.memory.motions.is_empty());
}

#[test]
fn m3_r32_after_a_restart_what_stands_on_the_host_tells_what_became_of_it() {
    use MotionState as M;
    use ObservedPower as P;
    let cases = [
        (Transit::Sending, P::Running, M::Copying, true),
        (Transit::Held, P::Unknown, M::Copying, true),
        (Transit::PartThere, P::Unknown, M::Split, false),
        (Transit::Torn, P::Paused, M::Torn, false),
        (Transit::Stranded, P::Paused, M::Lost, false),
        (Transit::Away, P::Stopped, M::Lost, false),
        (Transit::Unexplained, P::Stopped, M::Lost, false),
    ];
    for (transit, power, state, stopped) in cases {
        let (mut d, m) = begun(|_| {});
        seen(&mut d, transit, power);
        let plan = d.plan(&m);
        let abort = Action::AbortSend { id: vm_id(1), migration_id: MIGRATION };
        let wanted = if stopped { vec![abort] } else { vec![] };
        assert_eq!((says(&plan), acts(&plan)), (state, wanted), "{transit:?}");
        assert_eq!(plan.notes, [], "{transit:?}: nothing was decided for good");
    }
    let (mut d, m) = begun(|_| {});
    d.world.observed.vms.items.clear();
    let plan = d.plan(&m);
    assert_eq!((says(&plan), acts(&plan)), (M::Lost, vec![]), "it is not here");
    // It runs, or died, and nothing is under way: it is here whole, and that is kept before it is said.
    for (power, again) in [(P::Running, false), (P::Paused, false), (P::Crashed, true), (P::Stopped, true)] {
        let (mut d, m) = begun(|_| {});
        seen(&mut d, Transit::Still, power);
        let plan = d.plan(&m);
        assert_eq!((says(&plan), acts(&plan)), (M::Copying, vec![]), "{power:?}");
        plan.notes.iter().for_each(|n| d.memory.note(n));
        let plan = d.plan(&m);
        let motion = vm_report(&plan, 1).0.motion.unwrap();
        assert_eq!(
            (motion.state, motion.reason.unwrap().code.as_ref()),
            (M::Failed, "migration_interrupted")
        );
        assert_eq!(acts(&plan).iter().any(|a| matches!(a, Action::StartVm { .. })), again, "{power:?}");
    }
}

#[test]
fn m3_a_blind_source_says_nothing_about_it() {
    let (mut d, m) = begun(|_| {});
    d.world.observed.vms = Section::failed("libvirt is away");
    let plan = d.plan(&m);
    assert_eq!((vm_report(&plan, 1).0.motion, acts(&plan), plan.notes), (None, vec![], vec![]));
}

#[test]
fn r54_cancel_ends_it_at_once_before_it_began_and_by_an_action_after() {
    let (mut d, m) = source(out(|b| b.cancel = true));
    let plan = d.pass(&m);
    assert!(acts(&plan).is_empty() && plan.notes.iter().any(|n| matches!(n, Note::Motion(..))));
    let plan = d.settle(&m);
    let motion = vm_report(&plan, 1).0.motion.unwrap();
    assert_eq!(
        (motion.state, motion.reason.unwrap().code.as_ref()),
        (MotionState::Failed, "migration_cancelled")
    );
    let (mut d, m) = begun(|b| b.cancel = true);
    d.memory.in_flight.insert(Resource::Vm(vm_id(1)), "migrating".into());
    seen(&mut d, Transit::Sending, ObservedPower::Running);
    let plan = d.plan(&m);
    assert_eq!(plan.work.iter().map(|w| w.resource).collect::<Vec<_>>(), [ME]);
    assert!(matches!(acts(&plan)[..], [Action::AbortSend { .. }]));
    // Too late: it left.
    d.memory.in_flight.clear();
    d.memory.motions.get_mut(&vm_id(1)).unwrap().step = MotionStep::Left;
    assert_eq!(says(&d.plan(&m)), MotionState::Left);
}

#[test]
fn m1_a_guest_that_does_not_run_is_not_sent_live() {
    let (mut d, m) = source(out(|_| {}));
    seen(&mut d, Transit::Still, ObservedPower::Crashed);
    let plan = d.settle(&m);
    let motion = vm_report(&plan, 1).0.motion.unwrap();
    assert_eq!((motion.state, motion.reason.unwrap().code.as_ref()), (MotionState::Failed, "not_running"));
    assert_eq!(d.vm(1).unwrap().power, ObservedPower::Running);
}

#[test]
fn m1_cold_with_shared_volumes_is_down_first_and_then_handed_over_without_a_byte() {
    let cold = |begin| out(move |b| (b.mode, b.begin) = (MigrationMode::Cold, begin));
    let (mut d, mut m) = source(cold(false));
    assert_eq!(says(&d.plan(&m)), MotionState::Preparing);
    let plan = d.settle(&m);
    assert_eq!((says(&plan), d.vm(1).unwrap().power), (MotionState::Ready, ObservedPower::Stopped));
    edit_vm(&mut m, |b| b.motion = cold(true));
    let plan = d.settle(&m);
    assert_eq!((says(&plan), d.vm(1).unwrap().power), (MotionState::Left, ObservedPower::Stopped));
    assert_eq!(d.count("starting"), 1, "it is not started again while this stands");
}

#[test]
fn m1_cold_with_volumes_to_send_is_down_first_and_sent_once_and_is_back_when_that_failed() {
    let cold = |begin, cancel| {
        out(move |b| {
            (b.mode, b.copy_storage, b.begin, b.cancel) = (MigrationMode::Cold, true, begin, cancel);
        })
    };
    let (mut d, mut m) = source(cold(false, false));
    let plan = d.settle(&m);
    assert_eq!((says(&plan), d.vm(1).unwrap().power), (MotionState::Ready, ObservedPower::Stopped));
    edit_vm(&mut m, |b| b.motion = cold(true, false));
    let plan = d.plan(&m);
    let actions = acts(&plan);
    let [action @ Action::SendVm(send)] = &actions[..] else { panic!("{:?}", plan.work) };
    assert!(send.mode == MigrationMode::Cold && send.copy_storage);
    let (work, now) = (Resource::Vm(vm_id(1)), d.now);
    d.memory.begin(action, now);
    d.memory.in_flight.insert(work, "migrating".into());
    assert_eq!(says(&d.plan(&m)), MotionState::Copying);
    // Taken back while its volumes are on the way: that is stopped, and until it is the guest stays off.
    edit_vm(&mut m, |b| b.motion = cold(true, true));
    let plan = d.plan(&m);
    assert!(matches!(acts(&plan)[..], [Action::AbortSend { .. }]) && says(&plan) == MotionState::Copying);
    d.memory.in_flight.remove(&work);
    let reason = CapabilityReason::new("migration_failed", "migration", "not all arrived", "again");
    d.memory.end(work, action, Outcome::Refused(reason), now, 0.5);
    let plan = d.settle(&m);
    let motion = vm_report(&plan, 1).0.motion.unwrap();
    assert_eq!(
        (motion.state, motion.reason.unwrap().code.as_ref()),
        (MotionState::Failed, "migration_failed")
    );
    assert_eq!(d.vm(1).unwrap().power, ObservedPower::Running, "it goes on where it was");
}

#[test]
fn m1_a_target_gets_everything_ready_opens_its_door_and_defines_nothing() {
    let (mut d, m) = (Driver::new(), to_come(inward(false), |_| {}));
    assert_eq!(says(&d.pass(&m)), MotionState::Preparing);
    let plan = d.settle(&m);
    assert_eq!((says(&plan), d.vm(1)), (MotionState::Ready, None));
    assert!(d.world.observed.doors[&vm_id(1)].resume && d.count("making the volume") == 1);
    // An agent that was started anew opens it again.
    d.world.observed.doors.clear();
    let plan = d.pass(&m);
    assert_eq!(says(&plan), MotionState::Preparing);
    assert!(matches!(acts(&plan)[..], [Action::OpenDoor(_)]));
    // Who is to be paused is not let go on by its source.
    let paused = to_come(inward(false), |b| b.power = Power::Paused);
    d.settle(&paused);
    assert!(!d.world.observed.doors[&vm_id(1)].resume);
    // Without the word of it the door is closed.
    d.pass(&manifest([network()]));
    assert!(d.world.observed.doors.is_empty());
}

#[test]
fn m3_what_is_at_a_target_is_said_and_nothing_of_it_is_touched() {
    use MotionState as M;
    use ObservedPower as P;
    let cases = [
        (Transit::Held, P::Unknown, M::Copying),
        (Transit::Stranded, P::Paused, M::Copying),
        (Transit::PartHere, P::Running, M::Split),
        (Transit::Torn, P::Paused, M::Torn),
        (Transit::Still, P::Paused, M::Arrived),
        (Transit::Still, P::Running, M::Arrived),
        (Transit::Still, P::Crashed, M::Torn),
    ];
    for (transit, power, state) in cases {
        let (mut d, m) = target();
        arrives(&mut d, transit, power);
        let plan = d.settle(&m);
        assert_eq!(says(&plan), state, "{transit:?} {power:?}");
        let after = d.vm(1).unwrap();
        assert_eq!((after.transit, after.power), (transit, power));
        if transit == Transit::Held {
            assert_ne!(vm_report(&plan, 1).0.power, P::Paused, "what is being filled is not called paused");
        }
    }
}

#[test]
fn m3_a_closed_door_lets_go_of_a_part_keeps_what_is_whole_and_says_which() {
    let (mut d, _) = target();
    arrives(&mut d, Transit::Held, ObservedPower::Unknown);
    let close = to_come(inward(true), |_| {});
    let plan = d.pass(&close);
    let first: Vec<_> =
        plan.work.iter().filter(|w| w.resource != Resource::Flows).map(|w| w.resource).collect();
    assert_eq!(first, [ME], "the door first");
    assert_eq!(d.memory.motions[&vm_id(1)].step, MotionStep::Closed);
    let plan = d.settle(&close);
    assert_eq!((says(&plan), d.vm(1)), (MotionState::Failed, None));
    assert!(d.world.observed.doors.is_empty());
    let (mut d, _) = target();
    arrives(&mut d, Transit::Still, ObservedPower::Paused);
    let plan = d.settle(&close);
    assert_eq!((says(&plan), d.vm(1).unwrap().power), (MotionState::Arrived, ObservedPower::Paused));
    // Before anything was made ready it is closed all the same, and never opened again.
    let mut d = Driver::new();
    let plan = d.settle(&close);
    assert_eq!((says(&plan), d.count("opening the door")), (MotionState::Failed, 0));
}

#[test]
fn m1_an_arrived_guest_goes_on_when_the_placement_says_so_and_wants_no_restart() {
    let (mut d, m) = target();
    arrives(&mut d, Transit::Still, ObservedPower::Paused);
    d.settle(&m);
    assert_eq!((d.vm(1).unwrap().power, d.count("resuming")), (ObservedPower::Paused, 0));
    let mut owned = to_come(None, |_| {});
    owned.items.iter_mut().for_each(|i| i.generation = Generation(2));
    let plan = d.settle(&owned);
    let report = vm_report(&plan, 1).0;
    assert_eq!((report.power, report.motion, report.pending_reboot), (ObservedPower::Running, None, None));
    let stamp = d.vm(1).unwrap().defined.clone().unwrap();
    assert_eq!((stamp.epoch, d.count("starting"), d.count("forcing off")), (Epoch(2), 0, 0));
    assert!(d.world.observed.doors.is_empty());
}

#[test]
fn m3_what_lost_its_memory_starts_from_its_disk_where_the_placement_says() {
    for transit in [Transit::Torn, Transit::Away] {
        let (mut d, m) = (Driver::new(), one_vm(|_| {}));
        d.settle(&m);
        let power = if transit == Transit::Torn { ObservedPower::Paused } else { ObservedPower::Stopped };
        seen(&mut d, transit, power);
        d.settle(&m);
        assert_eq!((d.vm(1).unwrap().power, d.count("starting")), (ObservedPower::Running, 2), "{transit:?}");
    }
    // What was only stopped at the last moment goes on.
    let (mut d, m) = (Driver::new(), one_vm(|_| {}));
    d.settle(&m);
    seen(&mut d, Transit::Stranded, ObservedPower::Paused);
    d.world.observed.vms.items.get_mut(&vm_id(1)).unwrap().transit = Transit::Still;
    d.settle(&m);
    assert_eq!((d.vm(1).unwrap().power, d.count("starting")), (ObservedPower::Running, 1));
}

#[test]
fn m3_a_leftover_of_a_former_life_makes_room() {
    let (mut d, mut m) = (Driver::new(), one_vm(|b| b.power = Power::Stopped));
    d.settle(&m);
    edit_vm(&mut m, |b| {
        b.power = Power::Running;
        b.motion = inward(false);
    });
    m.items.iter_mut().filter(|i| i.kind == ItemKind::Vm).for_each(|i| i.epoch = Epoch(4));
    let plan = d.settle(&m);
    assert_eq!((says(&plan), d.vm(1)), (MotionState::Ready, None));
}

#[test]
fn st1_a_volume_that_another_host_made_in_a_shared_pool_is_never_made_here() {
    let mut m = one_vm(|_| {});
    for item in &mut m.items {
        if let Desired::Volume(body) = &mut item.desired {
            body.shared = Shared::Made;
        }
    }
    let mut d = Driver::new();
    let plan = d.settle(&m);
    assert_eq!((d.count("making the volume"), d.vm(1)), (0, None));
    assert!(plan.blocked.iter().any(|(_, r)| r.code == "shared_volume_missing"), "{:?}", plan.blocked);
}
