//! H5: an adoption is interrupted before and after every action, and at every write of the ledger. Whatever happens,
//! the guest runs on, its file can be had under the name that its stored definition says, and the end is the same.

use crate::rig::*;
use basalt_agent::host::sim::{Fault, SimHost};
use basalt_model::{VmId, adoption::ForeignVolume, hosts::Foreign, vms::ObservedPower};
use basalt_plan::host::{DiskPlace, DiskShape, Observed, Stamp, VmSeen, VmShape, VolumeKey};
use basalt_wire::agent::{Desired, Item, Manifest};
use std::sync::Arc;

const FILE: &str = "handmade.qcow2";

/// Somebody's VM runs on the host, with a file in a pool.
fn handmade(host: &SimHost) {
    let volume = ForeignVolume {
        pool: name("default"),
        file: FILE.into(),
        format: "qcow2".into(),
        size_bytes: 1 << 30,
        volume_id: None,
        incarnation: 0,
        image_id: None,
        refers_to: None,
        users: ["handmade".to_owned()].into(),
    };
    let disk = DiskShape {
        name: None,
        path: format!("/sim/default/{FILE}"),
        format: "qcow2".into(),
        boot_order: None,
        place: DiskPlace::File(name("default"), FILE.into()),
    };
    let seen = VmSeen {
        name: "handmade".into(),
        power: ObservedPower::Running,
        defined: Some(Stamp::default()),
        running: Some(Stamp::default()),
        started_at: Some(at(-7)),
        shape: Some(Arc::new(VmShape { disks: vec![disk], ..VmShape::default() })),
        ..VmSeen::default()
    };
    host.with_world(|w| {
        w.observed.vms.items.insert(vm_id(1), seen);
        let name = format!("default/{FILE}");
        let volume = Some(volume);
        w.observed.strays.push(Foreign { kind: "volume".into(), name, volume, ..Foreign::default() });
    });
}

/// What the gateway declares of it.
fn adopted() -> Manifest {
    let mut manifest = one(1, |w| w.incarnation = 0);
    for item in &mut manifest.items {
        if let Desired::Volume(body) = &mut item.desired {
            body.image_id = None;
            body.adopted_from = Some(FILE.into());
        }
    }
    manifest.items.retain(|i: &Item| !matches!(i.desired, Desired::Image(_)));
    manifest
}

fn begin() -> Rig<TestLedger> {
    let rig = Rig::new();
    handmade(&rig.host);
    rig
}

/// What must be so at every moment.
fn usable(observed: &Observed, when: &str) {
    let vm: &VmSeen = &observed.vms.items[&VmId(vm_id(1).0)];
    assert_eq!((vm.power, vm.started_at), (ObservedPower::Running, Some(at(-7))), "{when}: it was touched");
    let key = VolumeKey { id: volume_id(1), incarnation: 0, pool: name("default") };
    let own = observed.volumes.items.get(&key);
    let old = observed.strays.iter().any(|s| s.volume.as_ref().is_some_and(|v| v.file == FILE));
    let by_old_name = old || own.is_some_and(|v| v.aliases.contains(FILE));
    assert!(old != own.is_some(), "{when}: the file is there once, as a stray or as a volume");
    match vm.defined.as_ref() == Some(&Stamp::default()) {
        true => assert!(by_old_name, "{when}: its own definition names a file that is not there"),
        false => assert!(own.is_some(), "{when}: our definition names a file that is not there"),
    }
}

/// Steps until a fault killed the agent, and leaves it dead.
async fn until_killed(rig: &mut Rig<TestLedger>, manifest: &Manifest) {
    rig.start();
    let host = rig.host.clone();
    let cycle = rig.cycle.as_mut().unwrap();
    cycle.offer(&serde_json::to_vec(manifest).unwrap()).unwrap();
    for _ in 0..100 {
        cycle.step().await.unwrap();
        let busy = cycle.is_busy();
        tokio::select! {
            biased;
            () = host.killed() => {
                rig.cycle = None;
                return;
            }
            done = cycle.finished(), if busy => cycle.settle(done).unwrap(),
            () = tokio::task::yield_now(), if !busy => {}
        }
    }
    panic!("nothing killed it");
}

#[tokio::test]
async fn h5_r32_killed_at_every_step_of_an_adoption_it_stays_usable_and_ends_the_same() {
    let manifest = adopted();
    let mut clean = begin();
    clean.settle(&manifest).await;
    let (end, mutations) = (clean.end_state(), clean.mutations());
    usable(&clean.host.look(|w| w.observed.clone()), "at the end");
    assert!(end.strays.is_empty(), "{:?}", end.strays);
    let (actions, writes) = (clean.host.actions(), clean.ledger.state.lock().unwrap().writes);
    let mut sets = 0;
    for action in 0..actions {
        for fault in [Fault::KillBefore, Fault::KillAfter] {
            let mut rig = begin();
            rig.host.inject_at(action, fault.clone());
            until_killed(&mut rig, &manifest).await;
            let when = format!("{fault:?} at action {action}");
            usable(&rig.host.look(|w| w.observed.clone()), &when);
            rig.settle(&manifest).await;
            assert_eq!((rig.end_state(), rig.mutations()), (end.clone(), mutations.clone()), "{when}");
            sets += 1;
        }
    }
    for write in 0..writes {
        for kill in [KillWrite::Before(write), KillWrite::After(write)] {
            let mut rig = begin();
            rig.ledger.state.lock().unwrap().kill = Some(kill);
            rig.settle(&manifest).await;
            assert_eq!((rig.kills, rig.end_state()), (1, end.clone()), "{kill:?}");
            assert_eq!(rig.mutations(), mutations, "{kill:?}");
            sets += 1;
        }
    }
    assert!(sets > 16, "{sets} interruptions");
}

#[tokio::test]
async fn h5_an_action_that_fails_or_whose_answer_is_lost_is_repeated_to_the_same_end() {
    let manifest = adopted();
    let mut clean = begin();
    clean.settle(&manifest).await;
    let (end, mutations, actions) = (clean.end_state(), clean.mutations(), clean.host.actions());
    for action in 0..actions {
        for fault in [Fault::FailBefore, Fault::FailAfter, Fault::AnswerLost, Fault::Hang, Fault::Refuse] {
            let mut rig = begin();
            rig.host.inject_at(action, fault.clone());
            rig.settle(&manifest).await;
            let when = format!("{fault:?} at action {action}");
            assert_eq!((rig.kills, rig.end_state()), (0, end.clone()), "{when}");
            assert_eq!(rig.mutations(), mutations, "{when}");
            usable(&rig.host.look(|w| w.observed.clone()), &when);
        }
    }
}
