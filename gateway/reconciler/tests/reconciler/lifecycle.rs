//! Tasks from their record to their end: T1, T2, T4.

use crate::world::{World, until};
use basalt_model::{
    GIB, HostId, VmId,
    tasks::{Task, TaskState},
    vms::{ObservedPower, OperationVerb},
};
use basalt_store::{Accepted, Key, manifests, vms, vms::PowerVerb};
use basalt_wire::agent::manifest::ItemKind;
use chrono::TimeDelta;
use serde_json::json;
use std::sync::{Arc, Mutex};

async fn power(world: &World, vm: VmId, verb: PowerVerb) -> Task {
    let mut tx = world.store.tenant(world.tenant).await.unwrap();
    let key = Key::Id(vm.0);
    let done: Accepted<_> =
        vms::set_power(&mut tx, &world.change(), world.project, &key, None, verb).await.unwrap();
    tx.commit().await.unwrap();
    done.task
}

async fn observed(world: &World, vm: VmId) -> ObservedPower {
    world.vm(vm).await.unwrap().facts.unwrap().observed.power
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_every_verb_of_a_vm_ends_when_its_facts_say_so() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.run();
    let running = world.start();
    let made = world.create("web", json!({})).await;
    let vm = made.object.id();
    let task = world.completed(made.task.id).await;
    assert!(task.started_at.is_some() && task.finished_at.is_some() && task.stage.contains("h1"));
    for (verb, seen) in [
        (PowerVerb::Pause, ObservedPower::Paused),
        (PowerVerb::Resume, ObservedPower::Running),
        (PowerVerb::Stop, ObservedPower::Stopped),
        (PowerVerb::Start, ObservedPower::Running),
    ] {
        let task = power(&world, vm, verb).await;
        world.completed(task.id).await;
        assert_eq!(observed(&world, vm).await, seen);
    }
    for verb in [OperationVerb::Reboot, OperationVerb::Reset] {
        let mut tx = world.store.tenant(world.tenant).await.unwrap();
        let key = Key::Id(vm.0);
        let asked = vms::operate(&mut tx, &world.change(), world.project, &key, None, verb).await.unwrap();
        tx.commit().await.unwrap();
        world.completed(asked.task.id).await;
    }
    let mut tx = world.store.tenant(world.tenant).await.unwrap();
    let again = vms::redeploy(&mut tx, &world.change(), world.project, &Key::Id(vm.0), None).await.unwrap();
    tx.commit().await.unwrap();
    world.completed(again.task.id).await;
    assert_eq!(world.vm(vm).await.unwrap().facts.unwrap().observed.incarnation, 1);
    let gone = world.delete(vm).await;
    world.completed(gone.id).await;
    assert!(world.vm(vm).await.is_none());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_manifest_is_told_of_it_when_it_is_written() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    let told: Arc<Mutex<Vec<(HostId, i64)>>> = Arc::default();
    let telling = Arc::clone(&told);
    let running =
        world.start_telling(Arc::new(move |host, revision| telling.lock().unwrap().push((host, revision))));
    world.create("web", json!({})).await;
    until("the manifest is told of", || async { !told.lock().unwrap().is_empty() }).await;
    running.stop().await;
    let mut tx = world.store.system_read().await.unwrap();
    let written = manifests::revision(&mut tx, agent.host).await.unwrap();
    let told = told.lock().unwrap();
    assert_eq!(told.last(), Some(&(agent.host, written)));
    assert!(told.is_sorted(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_progress_grows_with_what_the_host_has() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.run();
    let running = world.start();
    let made = world.create("web", json!({})).await;
    let mut last = 0;
    for (up_to, stage) in [
        (None, "prepares network net"),
        (Some(ItemKind::Network), "prepares image debian"),
        (Some(ItemKind::Image), "prepares volume web-root"),
        (Some(ItemKind::Volume), "has what it needs"),
    ] {
        agent.let_up_to(up_to);
        until(stage, || async { world.task(made.task.id).await.stage.contains(stage) }).await;
        let task = world.task(made.task.id).await;
        assert_eq!(task.state, TaskState::Executing);
        assert!(task.progress > last && task.progress < 100, "{task:#?}");
        last = task.progress;
    }
    agent.let_up_to(Some(ItemKind::Vm));
    world.completed(made.task.id).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t4_a_newer_verb_ends_the_older_ones_exactly_once() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.run();
    let running = world.start();
    let made = world.create("web", json!({})).await;
    world.completed(made.task.id).await;
    let vm = made.object.id();
    agent.let_up_to(None);
    let stop = power(&world, vm, PowerVerb::Stop).await;
    let start = power(&world, vm, PowerVerb::Start).await;
    let stopped = world.ended(stop.id).await;
    assert_eq!((stopped.state, stopped.error.unwrap().code.as_ref()), (TaskState::Cancelled, "superseded"));
    agent.let_up_to(Some(ItemKind::Vm));
    world.completed(start.id).await;
    assert_eq!(world.task(stop.id).await.state, TaskState::Cancelled);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_the_sweep_ends_what_passed_its_deadline_and_the_vm_still_says_why() {
    let (world, clock) = World::manual().await;
    world.furnish().await;
    world.host("h1", 1, GIB).await;
    let running = world.start();
    let made = world.create("big", json!({"cpus": 4})).await;
    let vm = made.object.id();
    until("it is judged", || async { world.vm(vm).await.unwrap().placement.is_some() }).await;
    assert!(!world.task(made.task.id).await.state.is_terminal());
    running.stop().await;
    clock.advance(TimeDelta::seconds(made.task.kind.deadline_seconds() + 1));
    // The first sweep is at the start.
    let running = world.start();
    until("the task timed out", || async { world.task(made.task.id).await.state == TaskState::TimedOut })
        .await;
    let placed = world.condition(vm, "Placed").await.unwrap();
    assert_eq!(placed.reason, "no_host_fits");
    running.stop().await;
}
