//! The cycle on a simulated host: faults, strangers, a gateway or a hypervisor that is away.

use crate::rig::*;
use basalt_agent::host::sim::{Fault, Listing};
use basalt_model::{
    TaskId,
    vms::{ObservedPower, Operation, OperationOutcome, OperationVerb, Power},
};
use basalt_plan::host::{Resource, effect::Mishap};
use basalt_wire::agent::ItemObserved;
use chrono::TimeDelta;
use uuid::Uuid;

async fn running() -> Rig<TestLedger> {
    let mut rig = Rig::new();
    rig.settle(&one(1, |_| {})).await;
    assert_eq!(rig.vm(1).0.power, ObservedPower::Running);
    rig
}

#[tokio::test]
async fn v1_everything_is_made_once_and_reported_with_its_generation() {
    let rig = running().await;
    assert_eq!((rig.vm(1).1, rig.host.count("starting"), rig.host.count("making the volume")), (1, 1, 1));
    let report = rig.report();
    assert_eq!((report.manifest_revision, report.items.len()), (Some(1), 4));
    assert!(report.items.iter().all(|i| i.stage.is_empty()), "{:#?}", report.items);
}

#[tokio::test]
async fn v3_with_the_gateway_away_what_dies_runs_again_from_the_ledger() {
    let mut rig = running().await;
    // The agent dies too, and nobody offers it a manifest.
    rig.cycle = None;
    rig.host.suffer(&Mishap::PowerCut);
    rig.clock.advance(TimeDelta::hours(1));
    rig.start();
    for _ in 0..50 {
        let cycle = rig.cycle.as_mut().unwrap();
        if cycle.step().await.unwrap().settled {
            break;
        }
        if cycle.is_busy() {
            let done = cycle.finished().await;
            cycle.settle(done).unwrap();
        }
    }
    assert_eq!((rig.vm(1).0.power, rig.host.count("starting")), (ObservedPower::Running, 2));
    assert_eq!(rig.host.count("making the volume"), 1);
}

#[tokio::test]
async fn r34_a_hypervisor_that_is_away_loses_nothing_and_restarts_nothing() {
    let mut rig = running().await;
    let before = rig.host.actions();
    for listings in [vec![Listing::Vms], vec![Listing::Vms, Listing::Ports, Listing::Volumes, Listing::Seeds]]
    {
        rig.host.blind(&listings);
        for _ in 0..5 {
            rig.cycle.as_mut().unwrap().step().await.unwrap();
            rig.clock.advance(TimeDelta::seconds(5));
        }
        assert_eq!(rig.vm(1).0.power, ObservedPower::Unknown);
        rig.host.blind(&[]);
        rig.settle(&one(1, |_| {})).await;
    }
    assert_eq!((rig.host.actions(), rig.vm(1).0.power), (before, ObservedPower::Running));
}

#[tokio::test]
async fn h5_r36_strangers_are_in_the_facts_and_stay_untouched() {
    let mut rig = Rig::new();
    rig.settle(&manifest(1, &[Some(Wish::default()), Some(Wish::default())])).await;
    let facts = basalt_agent::host::Host::facts(&*rig.host).await;
    rig.cycle.as_mut().unwrap().take_facts(facts);
    let before = rig.end_state();
    let actions = rig.host.actions();
    // The second VM is in no manifest any more, not even as absent.
    let mut m = one(2, |_| {});
    m.items.iter_mut().for_each(|i| i.generation.0 = 1);
    rig.settle(&m).await;
    let foreign = rig.report().facts.unwrap().foreign;
    let kinds: Vec<_> = foreign.iter().map(|f| f.kind.as_str()).collect();
    assert_eq!(kinds, ["port", "vm", "volume"], "{foreign:?}");
    let after = rig.end_state();
    assert_eq!(after.vms.items[&vm_id(2)], before.vms.items[&vm_id(2)]);
    assert_eq!((after.volumes, after.ports), (before.volumes, before.ports));
    // Only reservations and flows follow the manifest.
    assert!(rig.host.actions() - actions <= 3);
    // A listing that fails makes no stranger vanish.
    rig.host.blind(&[Listing::Vms]);
    rig.cycle.as_mut().unwrap().step().await.unwrap();
    assert_eq!(rig.report().facts.unwrap().foreign.len(), 3);
}

#[tokio::test]
async fn v1_a_broken_resource_backs_off_and_stops_no_other() {
    let mut rig = Rig::new();
    for _ in 0..6 {
        rig.host.inject_next(Resource::Volume(volume_id(1)), Fault::FailBefore);
    }
    rig.settle(&manifest(1, &[Some(Wish::default()), Some(Wish::default())])).await;
    assert_eq!(rig.vm(2).0.power, ObservedPower::Running);
    assert_eq!((rig.host.count("making the volume"), rig.vm(1).0.power), (2, ObservedPower::Running));
    let waited = (basalt_daemon::Clock::now(&*rig.clock) - at(0)).num_seconds();
    assert!((20..60).contains(&waited), "six failures wait 0.5, 1, 2, 4, 8 and 16 s: {waited}");
}

#[tokio::test]
async fn v1_what_the_host_refuses_is_reported_with_its_reason_and_tried_again() {
    let mut rig = Rig::new();
    rig.host.inject_next(Resource::Vm(vm_id(1)), Fault::Refuse);
    rig.start();
    let cycle = rig.cycle.as_mut().unwrap();
    cycle.offer(&serde_json::to_vec(&one(1, |_| {})).unwrap()).unwrap();
    let mut seen = false;
    for _ in 0..20 {
        let cycle = rig.cycle.as_mut().unwrap();
        cycle.step().await.unwrap();
        if cycle.is_busy() {
            let done = cycle.finished().await;
            cycle.settle(done).unwrap();
        }
        seen |= rig.vm(1).0.blocked.is_some_and(|b| b.code == "refused" && !b.remedy.is_empty());
    }
    assert!(seen);
    rig.clock.advance(TimeDelta::seconds(1));
    rig.settle(&one(1, |_| {})).await;
    assert_eq!((rig.vm(1).0.power, rig.vm(1).0.blocked), (ObservedPower::Running, None));
}

#[tokio::test]
async fn r32_an_answer_that_never_comes_counts_as_failed_and_nothing_is_doubled() {
    for fault in [Fault::FailAfter, Fault::Hang, Fault::AnswerLost, Fault::FailBefore] {
        let clean = running().await;
        for action in 0..clean.host.actions() {
            let mut rig = Rig::new();
            rig.host.inject_at(action, fault.clone());
            rig.settle(&one(1, |_| {})).await;
            assert_eq!(rig.end_state(), clean.end_state(), "{fault:?} at {action}");
            assert_eq!(rig.mutations(), clean.mutations(), "{fault:?} at {action}");
        }
    }
}

#[tokio::test]
async fn v3_seeded_faults_in_everything_end_in_the_same_state() {
    let wishes = |power: [Power; 3], incarnation| {
        power.map(|power| Some(Wish { power, incarnation, ..Wish::default() })).to_vec()
    };
    let steps = [
        manifest(1, &wishes([Power::Running; 3], 1)),
        manifest(2, &wishes([Power::Stopped, Power::Paused, Power::Running], 2)),
        manifest(3, &wishes([Power::Running, Power::Running, Power::Stopped], 3)),
    ];
    let mut clean = Rig::new();
    for m in &steps {
        clean.settle(m).await;
    }
    for seed in 1..=25 {
        let mut rig = Rig::new();
        for m in &steps {
            rig.host.inject_seeded(seed * 7919, 4);
            for _ in 0..10 {
                rig.start();
                let cycle = rig.cycle.as_mut().unwrap();
                cycle.offer(&serde_json::to_vec(m).unwrap()).unwrap();
                cycle.step().await.unwrap();
                if cycle.is_busy() {
                    let done = cycle.finished().await;
                    cycle.settle(done).unwrap();
                }
                rig.clock.advance(TimeDelta::seconds(20));
            }
            rig.host.inject_seeded(0, 0);
            rig.settle(m).await;
        }
        let (mut got, mut want) = (rig.end_state(), clean.end_state());
        // A killed guest that is to stay down may be called crashed.
        for vm in got.vms.items.values_mut().chain(want.vms.items.values_mut()) {
            vm.power = if vm.power == ObservedPower::Crashed { ObservedPower::Stopped } else { vm.power };
            // The stamp says for which generation it was written; a repaired one may be written again.
            [&mut vm.defined, &mut vm.running].into_iter().flatten().for_each(|s| s.generation.0 = 0);
        }
        assert_eq!(got, want, "seed {seed}");
    }
}

#[tokio::test]
async fn r43_nothing_is_begun_that_the_ledger_did_not_keep() {
    let mut rig = Rig::new();
    rig.start();
    rig.ledger.state.lock().unwrap().full = true;
    let bytes = serde_json::to_vec(&one(1, |_| {})).unwrap();
    let cycle = rig.cycle.as_mut().unwrap();
    assert!(cycle.offer(&bytes).is_err());
    assert_eq!((cycle.revision(), rig.host.actions()), (None, 0));
    rig.ledger.state.lock().unwrap().full = false;
    rig.settle(&one(1, |_| {})).await;
    // A one-shot verb whose "started" cannot be written is not carried out, and not forgotten.
    let operation = Some(Operation { id: TaskId(Uuid::from_u128(5)), verb: OperationVerb::Reset });
    let m = one(2, |w| w.operation = operation);
    rig.cycle.as_mut().unwrap().offer(&serde_json::to_vec(&m).unwrap()).unwrap();
    rig.ledger.state.lock().unwrap().full = true;
    assert!(rig.cycle.as_mut().unwrap().step().await.is_err());
    assert_eq!(rig.host.count("resetting"), 0);
    rig.ledger.state.lock().unwrap().full = false;
    rig.settle(&m).await;
    assert_eq!(rig.host.count("resetting"), 1);
    assert_eq!(rig.vm(1).0.operation.unwrap().outcome, OperationOutcome::Done);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_or_goes_back_is_refused_whole_and_reported() {
    let mut rig = running().await;
    let actions = rig.host.actions();
    let mut other = one(3, |w| w.power = Power::Stopped);
    other.host_id.0 = Uuid::from_u128(1);
    let old = one(0, |w| w.power = Power::Stopped);
    for (bytes, code) in [
        (b"{".to_vec(), "manifest_refused"),
        (serde_json::to_vec(&other).unwrap(), "manifest_refused"),
        (serde_json::to_vec(&old).unwrap(), "manifest_went_back"),
    ] {
        let cycle = rig.cycle.as_mut().unwrap();
        cycle.offer(&bytes).unwrap_err();
        cycle.step().await.unwrap();
        assert_eq!(rig.report().manifest_refused.unwrap().code, code);
        assert_eq!((rig.report().manifest_revision, rig.host.actions()), (Some(1), actions));
    }
    rig.settle(&one(3, |_| {})).await;
    assert_eq!(rig.report().manifest_refused, None);
}

#[tokio::test]
async fn r15_a_delete_that_meets_a_create_at_any_step_leaves_nothing() {
    let create = one(1, |_| {});
    let steps = running().await.host.actions();
    for begun in 0..=steps {
        let mut rig = Rig::new();
        rig.start();
        rig.cycle.as_mut().unwrap().offer(&serde_json::to_vec(&create).unwrap()).unwrap();
        while rig.host.actions() < begun {
            let cycle = rig.cycle.as_mut().unwrap();
            cycle.step().await.unwrap();
            if !cycle.is_busy() {
                break;
            }
            let done = cycle.finished().await;
            cycle.settle(done).unwrap();
        }
        rig.settle(&nothing(2, &create)).await;
        assert!(rig.report().items.iter().all(|i| i.observed == ItemObserved::Gone), "after {begun}");
        let o = rig.end_state();
        assert!(
            o.vms.items.is_empty() && o.volumes.items.is_empty() && o.images.items.is_empty(),
            "after {begun}"
        );
        assert!(
            o.networks.items.is_empty() && o.seeds.items.is_empty() && o.ports.items.is_empty(),
            "after {begun}"
        );
    }
}

#[tokio::test]
async fn many_works_begin_within_the_bounds() {
    let mut rig = Rig::new();
    let all: Vec<_> = (0..40).map(|_| Some(Wish::default())).collect();
    rig.settle(&manifest(1, &all)).await;
    assert_eq!((rig.host.count("starting"), rig.host.count("making the volume")), (40, 40));
}
