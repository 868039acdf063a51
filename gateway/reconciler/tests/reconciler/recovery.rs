//! Recovery is the normal path: R1 and restarts at any moment.

use crate::world::{World, until};
use basalt_model::{GIB, tasks::TaskState};
use basalt_store::feed::Feed;
use basalt_wire::agent::manifest::ItemKind;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn r1_kill_between_commit_and_wake_converges_after_the_restart() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.run();
    let running = world.start();
    until("it is ready", || async { running.handle.readiness().is_ok() }).await;
    running.kill().await;
    // Committed while nobody listens: the signal is lost, the truth is not.
    let made = world.create("web", json!({})).await;
    let began = world.clock.now();
    let running = world.start();
    world.completed(made.task.id).await;
    let took = world.clock.now() - began;
    assert!(took < chrono::TimeDelta::seconds(5), "{took}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_killed_at_any_moment_nothing_is_lost_or_doubled() {
    let world = World::new().await;
    world.furnish().await;
    let agents = [world.host("h1", 8, 8 * GIB).await, world.host("h2", 8, 8 * GIB).await];
    for agent in &agents {
        agent.let_up_to(Some(ItemKind::Vm));
        agent.run();
    }
    let mut made = Vec::new();
    for i in 0..12u64 {
        let running = world.start();
        made.push(world.create(&format!("vm-{i}"), json!({})).await);
        // From before the bootstrap to after the last write.
        tokio::time::sleep(Duration::from_millis(i * 7)).await;
        running.kill().await;
    }
    let running = world.start();
    for vm in &made {
        world.completed(vm.task.id).await;
    }
    let mut begun: Vec<_> = agents.iter().flat_map(|a| a.begun()).collect();
    begun.sort();
    let mut want: Vec<_> = made.iter().map(|m| (m.object.metadata.id, 1)).collect();
    want.sort();
    assert_eq!(begun, want, "every VM was begun once, on one host");
    running.stop().await;
}

/// Another gateway writes, and nothing is ever heard of it: no signal, no notification.
#[tokio::test(flavor = "multi_thread")]
async fn p5_r27_without_any_listener_the_poll_finds_what_others_wrote() {
    let world = World::new().await;
    world.furnish().await;
    let running = world.start();
    until("it acts", || async { running.handle.metrics().acting.get() == 1 }).await;
    let deaf = world.another_store().await;
    for n in 0..3 {
        let made = world.create_on(&deaf, &format!("web-{n}"), json!({})).await;
        let began = world.clock.now();
        until("it was judged", || async { world.condition(made.object.id(), "Placed").await.is_some() })
            .await;
        // A second between polls, and what two commits and reading them take on a busy machine.
        let took = world.clock.now() - began;
        assert!(took < chrono::TimeDelta::milliseconds(2500), "{took}");
    }
    running.stop().await;
}

/// The first prune comes before anybody has said how far this gateway has read.
#[tokio::test(flavor = "multi_thread")]
async fn p8_a_gateway_that_has_just_begun_does_not_prune_past_itself() {
    let world = World::new().await;
    let feed = Feed::new(&world.store);
    let of_nobody = feed.bootstrap().await.unwrap().cursor;
    world.furnish().await;
    let running = world.start();
    // So that the server goes on between this gateway's pulls.
    let deaf = world.another_store().await;
    let mut n = 0;
    until("the log is pruned", || {
        n += 1;
        let (world, feed, of_nobody, deaf) = (&world, &feed, &of_nobody, &deaf);
        async move {
            world.create_on(deaf, &format!("web-{n}"), json!({})).await;
            feed.pull(of_nobody).await.unwrap().reload
        }
    })
    .await;
    let pulls = running.handle.metrics().pulls.get();
    until("it has pulled since", || async { running.handle.metrics().pulls.get() > pulls + 1 }).await;
    assert_eq!(running.handle.metrics().reloads.get(), 1, "only the first sync read everything");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sampled_oracle_goes_through_the_graph_beside_the_work() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.run();
    let running = world.start_sampled();
    for n in 0..3 {
        let made = world.create(&format!("vm-{n}"), json!({})).await;
        world.completed(made.task.id).await;
    }
    let metrics = running.handle.metrics();
    let seen = metrics.verifications.get();
    until("every key had its turn", || async { metrics.verifications.get() > seen + 20 }).await;
    assert_eq!((metrics.differences.get(), metrics.reloads.get()), (0, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_on_a_settled_world_writes_nothing() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.run();
    let running = world.start();
    let made = world.create("web", json!({})).await;
    world.completed(made.task.id).await;
    until("conditions are written", || async {
        world.condition(made.object.id(), "Ready").await.is_some_and(|c| c.reason == "realised")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    running.stop().await;
    let again = world.start();
    until("it acts", || async { again.handle.metrics().acting.get() == 1 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let counters = again.handle.ask(basalt_reconciler::Question::Counters).await.unwrap();
    for lane in ["place", "manifests", "finalise", "tasks", "conditions"] {
        assert!(counters.contains(&format!("lane {lane}: 0 rows")), "{counters}");
    }
    let dump = again.handle.ask(basalt_reconciler::Question::Dump).await.unwrap();
    assert!(dump.contains("web") && serde_json::from_str::<serde_json::Value>(&dump).is_ok());
    assert!(again.handle.metrics().verifications.get() > 0);
    assert_eq!(again.handle.metrics().differences.get(), 0);
    assert_eq!(world.task(made.task.id).await.state, TaskState::Completed);
    again.stop().await;
}
