//! VMs that execute only under the host's lease: without it none is started, goes on or is let in; all others do.

use super::fixture::*;
use crate::host::*;
use basalt_model::{
    HostId, MigrationId,
    migrations::MigrationMode,
    vms::{ObservedPower, Power},
};
use basalt_wire::agent::manifest::{IncomingBody, MotionBody};
use uuid::Uuid;

/// A host with its lease, or without; its fencer was told of VM 1.
fn driver(leased: bool) -> Driver {
    let mut d = Driver::new();
    d.memory.listed = [vm_id(1)].into();
    d.memory.leased = leased;
    d
}

fn code(plan: &Plan) -> Option<String> {
    vm_report(plan, 1).0.blocked.map(|b| b.code.to_string())
}

#[test]
fn m5_without_the_lease_a_vm_that_needs_it_is_not_started_and_all_others_are() {
    let mut d = driver(false);
    let m = manifest([
        network(),
        image(),
        volume(1, 0),
        volume(2, 0),
        vm(1, |b| b.needs_lease = true),
        vm(2, |_| {}),
    ]);
    let plan = d.settle(&m);
    assert_eq!(code(&plan).as_deref(), Some("lease_lapsed"));
    assert!(d.vm(1).is_none_or(|vm| vm.power != ObservedPower::Running));
    assert_eq!(d.vm(2).unwrap().power, ObservedPower::Running);
    d.memory.leased = true;
    let plan = d.settle(&m);
    assert_eq!((code(&plan), d.vm(1).unwrap().power), (None, ObservedPower::Running));
    assert!(vm_report(&plan, 1).0.leased && !vm_report(&plan, 2).0.leased);
}

#[test]
fn r55_a_vm_of_which_the_fencer_was_not_told_is_not_started_under_any_lease() {
    let mut d = driver(true);
    d.memory.listed.clear();
    let plan = d.settle(&one_vm(|b| b.needs_lease = true));
    assert_eq!(code(&plan).as_deref(), Some("lease_lapsed"));
    assert!(!vm_report(&plan, 1).0.leased);
}

#[test]
fn m5_without_the_lease_nothing_goes_on_nor_is_made_anew_and_it_can_still_be_stopped() {
    let mut d = driver(true);
    d.settle(&one_vm(|b| (b.needs_lease, b.power) = (true, Power::Paused)));
    d.memory.leased = false;
    // Neither resumed, nor redeployed (which would destroy what is there for nothing).
    for m in [one_vm(|b| b.needs_lease = true), one_vm(|b| (b.needs_lease, b.incarnation) = (true, 1))] {
        let plan = d.settle(&m);
        assert_eq!(
            (code(&plan).as_deref(), d.vm(1).unwrap().power),
            (Some("lease_lapsed"), ObservedPower::Paused)
        );
    }
    d.settle(&one_vm(|b| (b.needs_lease, b.power, b.incarnation) = (true, Power::Stopped, 1)));
    assert_eq!(d.vm(1).unwrap().power, ObservedPower::Stopped);
    assert_eq!(d.count("resuming"), 0);
}

#[test]
fn m5_without_the_lease_no_door_is_opened_for_it() {
    let incoming = || {
        let (id, source) = (MigrationId(Uuid::from_u128(0x77)), HostId(id(9, 8)));
        let body = IncomingBody { id, source, mode: MigrationMode::Live, copy_storage: false, close: false };
        Some(MotionBody::Incoming(body))
    };
    let m = one_vm(|b| (b.needs_lease, b.motion) = (true, incoming()));
    let mut d = driver(false);
    for _ in 0..5 {
        d.pass(&m);
    }
    assert!(d.world.observed.doors.is_empty());
    d.memory.leased = true;
    for _ in 0..5 {
        d.pass(&m);
    }
    assert_eq!(d.world.observed.doors.len(), 1);
}
