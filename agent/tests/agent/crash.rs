//! The crash sweep: the agent is killed before and after every action and every write of the ledger,
//! in every workflow of a VM. Each run ends as the one without a fault, and nothing was done twice.

use crate::rig::*;
use basalt_agent::host::sim::Fault;
use basalt_model::{
    TaskId,
    vms::{ObservedPower, Operation, OperationOutcome, OperationVerb, Power},
};
use basalt_plan::host::effect::Mishap;
use basalt_wire::agent::{ItemKind, Manifest};
use uuid::Uuid;

/// From a settled manifest (or an empty host) to the next, with something that happened in between.
struct Workflow {
    name: &'static str,
    before: Option<Manifest>,
    mishap: Option<Mishap>,
    deaf: bool,
    after: Manifest,
}

impl Workflow {
    fn new(name: &'static str, before: Option<Manifest>, after: Manifest) -> Self {
        Self { name, before, mishap: None, deaf: false, after }
    }

    /// A host on which the workflow is about to begin.
    async fn begin(&self) -> Rig<TestLedger> {
        let mut rig = Rig::new();
        if let Some(before) = &self.before {
            rig.settle(before).await;
        }
        if let Some(mishap) = &self.mishap {
            rig.host.suffer(mishap);
        }
        if self.deaf {
            rig.host.with_world(|w| w.deaf.insert(vm_id(1)));
        }
        rig
    }
}

/// The manifest with a router of its network beside all else.
fn with_router(mut manifest: Manifest, vrid: u8) -> Manifest {
    let body = serde_json::json!({"as": "router", "name": "edge", "nat": false, "vrid": vrid, "preferred": true,
        "routes": [], "peer": "10.78.0.2", "wiring": {"interfaces": [{"network_id": NETWORK, "network": "net",
            "address": "10.10.0.1", "mac": "0a:ba:5b:00:10:01"}]}});
    let desired = serde_json::from_value(body).unwrap();
    manifest.items.push(item(ItemKind::Router, Uuid::from_u128(77), manifest.revision, desired));
    manifest
}

fn workflows() -> Vec<Workflow> {
    let running = || Some(one(1, |_| {}));
    let stopped = |revision| one(revision, |w| w.power = Power::Stopped);
    let gone = nothing(2, &one(1, |_| {}));
    let routed = |revision| with_router(one(revision, |_| {}), 1);
    vec![
        Workflow::new("router", running(), routed(2)),
        Workflow::new("router changed", Some(routed(1)), with_router(one(2, |_| {}), 2)),
        Workflow::new("router deleted", Some(routed(1)), nothing(2, &routed(1))),
        Workflow {
            mishap: Some(Mishap::DropRouters),
            ..Workflow::new("router broken", Some(routed(1)), routed(2))
        },
        Workflow::new("create", None, one(1, |_| {})),
        Workflow::new("start", Some(stopped(1)), one(2, |_| {})),
        Workflow::new("stop", running(), stopped(2)),
        Workflow { deaf: true, ..Workflow::new("stop by force", running(), stopped(2)) },
        Workflow::new("pause", running(), one(2, |w| w.power = Power::Paused)),
        Workflow::new("redeploy", running(), one(2, |w| w.incarnation = 2)),
        Workflow::new("new seed", running(), one(2, |w| w.user_data = Some("#!".into()))),
        Workflow::new("delete", running(), gone),
        Workflow { mishap: Some(Mishap::PowerCut), ..Workflow::new("power cut", running(), one(2, |_| {})) },
        Workflow {
            mishap: Some(Mishap::Erase(vm_id(1))),
            ..Workflow::new("erased", running(), one(2, |_| {}))
        },
    ]
}

#[tokio::test]
async fn r32_v2_v3_killed_at_every_step_of_every_workflow_it_ends_the_same_and_doubles_nothing() {
    let mut runs = 0;
    for workflow in workflows() {
        let mut clean = workflow.begin().await;
        let (actions, writes) = (clean.host.actions(), clean.ledger.state.lock().unwrap().writes);
        clean.settle(&workflow.after).await;
        let end = (clean.end_state(), clean.mutations());
        let (last_action, last_write) = (clean.host.actions(), clean.ledger.state.lock().unwrap().writes);
        assert!(last_action > actions && last_write > writes, "{} does nothing", workflow.name);

        for action in actions..last_action {
            for fault in [Fault::KillBefore, Fault::KillAfter] {
                let mut rig = workflow.begin().await;
                rig.host.inject_at(action, fault.clone());
                rig.settle(&workflow.after).await;
                let at = format!("{}: {fault:?} at action {action}", workflow.name);
                assert_eq!(rig.kills, 1, "{at}");
                assert_eq!(rig.end_state(), end.0, "{at}");
                assert_eq!(rig.mutations(), end.1, "{at}");
                runs += 1;
            }
        }
        for write in writes..last_write {
            for kill in [KillWrite::Before(write), KillWrite::After(write)] {
                let mut rig = workflow.begin().await;
                rig.ledger.state.lock().unwrap().kill = Some(kill);
                rig.settle(&workflow.after).await;
                let at = format!("{}: {kill:?}", workflow.name);
                assert_eq!(rig.kills, 1, "{at}");
                assert_eq!(rig.end_state(), end.0, "{at}");
                assert_eq!(rig.mutations(), end.1, "{at}");
                runs += 1;
            }
        }
    }
    assert!(runs > 150, "{runs} runs");
}

#[tokio::test]
async fn r32_a_one_shot_verb_is_never_carried_out_twice_whenever_the_agent_dies() {
    for verb in [OperationVerb::Reboot, OperationVerb::Reset] {
        let operation = Some(Operation { id: TaskId(Uuid::from_u128(5)), verb });
        let workflow = Workflow::new("verb", Some(one(1, |_| {})), one(2, |w| w.operation = operation));
        let mut clean = workflow.begin().await;
        let (actions, writes) = (clean.host.actions(), clean.ledger.state.lock().unwrap().writes);
        clean.settle(&workflow.after).await;
        assert_eq!(clean.vm(1).0.operation.unwrap().outcome, OperationOutcome::Done);
        let (last_action, last_write) = (clean.host.actions(), clean.ledger.state.lock().unwrap().writes);
        let kills = (actions..last_action)
            .flat_map(|a| [(Some((a, Fault::KillBefore)), None), (Some((a, Fault::KillAfter)), None)]);
        let writes = (writes..last_write)
            .flat_map(|w| [(None, Some(KillWrite::Before(w))), (None, Some(KillWrite::After(w)))]);
        let mut outcomes = Vec::new();
        for (fault, write) in kills.chain(writes) {
            let mut rig = workflow.begin().await;
            if let Some((action, fault)) = fault.clone() {
                rig.host.inject_at(action, fault);
            }
            rig.ledger.state.lock().unwrap().kill = write;
            rig.settle(&workflow.after).await;
            let times = rig.host.with_world(|w| w.restarts.get(&vm_id(1)).copied().unwrap_or_default());
            let (vm, generation) = rig.vm(1);
            let outcome = vm.operation.unwrap().outcome;
            assert!(times <= 1, "{fault:?} {write:?}: {times} times");
            assert!(outcome != OperationOutcome::Done || times == 1, "{fault:?} {write:?} says done");
            assert_ne!(outcome, OperationOutcome::Failed);
            assert_eq!((vm.power, generation), (ObservedPower::Running, 2), "the task can end");
            outcomes.push(outcome);
        }
        assert!(outcomes.contains(&OperationOutcome::Unknown) && outcomes.contains(&OperationOutcome::Done));
    }
}

#[tokio::test]
async fn v2_the_grace_counts_from_the_first_request_even_when_the_agent_dies_in_between() {
    let mut rig = Rig::new();
    rig.settle(&one(1, |_| {})).await;
    rig.host.with_world(|w| w.deaf.insert(vm_id(1)));
    let begun = basalt_daemon::Clock::now(&*rig.clock);
    // The second request kills the agent.
    let requests = rig.host.actions() + 1;
    rig.host.inject_at(requests, Fault::KillAfter);
    rig.settle(&one(2, |w| w.power = Power::Stopped)).await;
    let took = (basalt_daemon::Clock::now(&*rig.clock) - begun).num_seconds();
    assert_eq!((rig.kills, rig.host.count("forcing off")), (1, 1));
    assert!((59..=62).contains(&took), "{took} s");
}
