//! V1: whatever a VM waits for, it says so, with what would help.

use crate::world::{World, until};
use basalt_model::{
    CapabilityReason, ConditionStatus, GIB, VmId, hosts::HOST_LEASE_SECONDS, vms::ObservedPower,
};
use basalt_store::{Key, agent_conflicts, hosts};
use basalt_wire::agent::manifest::ItemKind;
use chrono::TimeDelta;
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

async fn ready_is(world: &World, vm: VmId, reason: &str, part: &str) {
    until(&format!("Ready says {reason}: {part}"), || async {
        let ready = world.condition(vm, "Ready").await;
        ready.is_some_and(|c| c.reason == reason && c.message.contains(part))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_pending_never_without_reason() {
    let world = World::new().await;
    world.furnish().await;
    let running = world.start();
    let vm = world.create("web", json!({})).await.object.id();
    ready_is(&world, vm, "unplaced", "add a host and start its agent").await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.run();
    ready_is(&world, vm, "preparing", "waiting for network net on host h1").await;
    agent.let_up_to(Some(ItemKind::Image));
    ready_is(&world, vm, "preparing", "waiting for volume web-root on host h1").await;
    agent.let_up_to(Some(ItemKind::Volume));
    ready_is(&world, vm, "realising", "first report of host h1").await;
    agent.block_vms(Some(CapabilityReason::new("no_machine", "host/h1", "QEMU is gone", "install QEMU")));
    agent.let_up_to(Some(ItemKind::Vm));
    ready_is(&world, vm, "blocked", "install QEMU").await;
    assert_eq!(world.condition(vm, "Blocked").await.unwrap().status, ConditionStatus::True);
    agent.block_vms(None);
    ready_is(&world, vm, "realised", "running").await;
    let since = world.condition(vm, "Placed").await.unwrap().since;
    assert!(since < world.condition(vm, "Ready").await.unwrap().since);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_makes_its_vms_unknown_and_takes_nothing_until_it_is_back() {
    let (world, clock) = World::manual().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.run();
    let running = world.start();
    let made = world.create("web", json!({})).await;
    world.completed(made.task.id).await;
    let vm = made.object.id();
    ready_is(&world, vm, "realised", "running").await;
    // A clock that is set makes nobody silent. That is counted by time that nobody can set, so it is waited for.
    clock.advance(TimeDelta::seconds(31));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reachable = world.condition(vm, "HostReachable").await;
    assert!(reachable.is_none_or(|c| c.status != ConditionStatus::False));
    tokio::time::sleep(Duration::from_secs(HOST_LEASE_SECONDS.unsigned_abs() - 1)).await;
    until("it is unreachable", || async {
        // Time goes on; the gateway's own lease needs it.
        clock.advance(TimeDelta::seconds(1));
        let c = world.condition(vm, "HostReachable").await;
        c.is_some_and(|c| c.status == ConditionStatus::False)
    })
    .await;
    let ready = world.condition(vm, "Ready").await.unwrap();
    assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::Unknown, "host_unreachable"));
    assert_eq!(world.vm(vm).await.unwrap().facts.unwrap().observed.power, ObservedPower::Running);
    let other = world.create("other", json!({})).await.object.id();
    ready_is(&world, other, "unplaced", "not heard of").await;
    until("it is back and takes what waited", || async {
        clock.advance(TimeDelta::seconds(1));
        let mut tx = world.store.system().await.unwrap();
        hosts::beat(&mut tx, &[(agent.host, world.clock.now())]).await.unwrap();
        tx.commit().await.unwrap();
        world.condition(other, "Ready").await.is_some_and(|c| c.status == ConditionStatus::True)
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h1_r44_two_agents_with_one_identity_are_a_condition_of_the_host_until_the_second_falls_silent() {
    let (world, clock) = World::manual().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    let running = world.start();
    let tried = async |boot: u128| {
        let mut tx = world.store.system().await.unwrap();
        agent_conflicts::record(&mut tx, agent.host, Uuid::from_u128(boot), world.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
    };
    let condition = async || {
        let mut tx = world.store.system_read().await.unwrap();
        let host = hosts::get(&mut tx, &Key::from(agent.host)).await.unwrap();
        host.conditions.into_iter().find(|c| c.kind == "AgentConflict")
    };
    let counted = || running.handle.metrics().agent_conflicts.get();
    assert_eq!((condition().await, counted()), (None, 0));
    tried(5).await;
    until("the conflict is told", || async { condition().await.is_some() }).await;
    let told = condition().await.unwrap();
    assert_eq!((told.status, told.reason.as_str()), (ConditionStatus::True, "two_agents"));
    assert!(told.message.contains(&Uuid::from_u128(5).to_string()), "{}", told.message);
    assert_eq!(counted(), 1);
    // It goes on trying, and the conflict goes on.
    for _ in 0..5 {
        clock.advance(TimeDelta::seconds(20));
        tried(5).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(condition().await.as_ref(), Some(&told));
    }
    clock.advance(TimeDelta::seconds(61));
    until("it fell silent", || async { condition().await.is_none() }).await;
    assert_eq!(counted(), 0);
    running.stop().await;
}
