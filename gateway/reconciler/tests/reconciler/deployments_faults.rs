//! Deployments while things go wrong: gateways that die at the worst moment, calls that fail, hang or panic, clocks that
//! jump, news that is lost.

use crate::{
    deployed::until,
    platform::{Call, FakePlatform, Fate, a_while},
    world::World,
};
use basalt_daemon::Clock;
use basalt_model::{
    DeploymentId, Epoch, Generation,
    attempts::{Action, AttemptOutcome as Outcome, DeploymentPhase as Phase, ReconcileEvent},
    deployments::{DesiredState, ErrorClass},
};
use basalt_store::{
    attempts::{self, Applies, Record, Wanted},
    leases,
    work::Executor,
};
use chrono::TimeDelta;
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};
use uuid::Uuid;

async fn furnished(world: World) -> (World, FakePlatform) {
    world.provider("here").await;
    world.agent_image("a", "one").await;
    (world, FakePlatform::new())
}

async fn world() -> (World, FakePlatform) {
    furnished(World::new().await).await
}

async fn called(platform: &FakePlatform, times: usize) {
    until("calls", || async { platform.deploys() }, |n| *n >= times).await;
}

#[tokio::test]
async fn dp2_a_gateway_killed_before_the_first_attempt_makes_it_after_its_start() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let (_, ()) = tokio::join!(world.deploy("d", "a", json!({})), running.kill());
    assert!(platform.of(world.deployment("d").await.unwrap().deployment.id()).is_none());
    let running = world.reach_as(&platform, 1, 2);
    world.is_deployed("d").await;
    running.stop().await;
}

#[tokio::test]
async fn dp3_killed_after_the_platform_did_it_it_is_not_done_twice() {
    let (world, platform) = world().await;
    platform.fates([Fate::DoneThenHangs]);
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    until("the workload", || async { platform.of(id) }, Option::is_some).await;
    running.kill().await;
    assert!(world.events(id).await.is_empty(), "nobody wrote it down");
    let running = world.reach_as(&platform, 1, 2);
    world.is_deployed("d").await;
    let made = platform.state.lock().unwrap().made;
    let events = world.events(id).await;
    assert_eq!((made, events.len(), events[0].outcome), (1, 1, Outcome::Unchanged));
    assert_eq!(events[0].epoch.0, 2);
    running.stop().await;
}

#[tokio::test]
async fn dp3_an_answer_that_is_lost_makes_nothing_twice() {
    let (world, platform) = world().await;
    platform.fates([Fate::DoneAndTimesOut]);
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    let events = world.after_events(id, 2).await;
    assert_eq!((events[0].outcome, events[1].outcome), (Outcome::Error, Outcome::Unchanged));
    world.is_deployed("d").await;
    assert_eq!(platform.state.lock().unwrap().made, 1);
    running.stop().await;
}

#[tokio::test]
async fn dp4_an_executor_that_died_is_taken_over_when_its_lease_is_over_with_a_higher_epoch() {
    let (world, clock) = World::manual().await;
    let (world, platform) = furnished(world).await;
    platform.stop_deploys();
    let first = world.reach_as(&platform, 1, 1);
    let id = world.deploy("d", "a", json!({})).await;
    called(&platform, 1).await;
    first.kill().await;
    clock.advance(TimeDelta::seconds(10));
    let second = world.reach_as(&platform, 2, 1);
    a_while().await;
    assert_eq!(platform.deploys(), 1, "while its lease lasts nobody else does it");
    platform.go_on();
    clock.advance(TimeDelta::seconds(21));
    world.is_deployed("d").await;
    let events = world.events(id).await;
    assert_eq!((events.len(), events[0].epoch.0), (1, 2));
    assert_eq!(platform.calls(), [Call::Deploy(id, Epoch(1)), Call::Deploy(id, Epoch(2))]);
    second.stop().await;
}

#[tokio::test]
async fn dp6_who_lost_its_claim_or_the_lease_writes_nothing() {
    let (world, clock) = World::manual().await;
    let (world, platform) = furnished(world).await;
    let id = world.deploy("d", "a", json!({})).await;
    // An executor that claims, and then sleeps.
    let slept = Executor { id: Uuid::from_u128(9), start: Uuid::from_u128(9) };
    let mut tx = world.store.system().await.unwrap();
    let lease =
        leases::acquire(&mut tx, "reconciler", slept.id, clock.now(), 3, None).await.unwrap().unwrap();
    let wanted = Wanted { deployment_id: id, generation: Generation(1), after: Epoch(0) };
    let claim = attempts::claim(&mut tx, wanted, &lease, slept, clock.now()).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    clock.advance(TimeDelta::seconds(31));
    let running = world.reach_as(&platform, 2, 1);
    world.is_deployed("d").await;
    let before = (world.deployment("d").await.unwrap().status, world.events(id).await);
    assert_eq!(before.1[0].epoch, Epoch(2));
    let mut tx = world.store.system().await.unwrap();
    assert!(!attempts::renew(&mut tx, claim, clock.now()).await.unwrap());
    let mut event = before.1[0].clone();
    (event.id, event.epoch) = ((world.ids)(), claim.epoch);
    let record = Record {
        attempted: None,
        applied: Applies::Nothing,
        next_retry_at: None,
        repair: false,
        event,
        seen: None,
    };
    assert!(!attempts::record(&mut tx, &world.change(), claim, &record).await.unwrap());
    let again =
        attempts::claim(&mut tx, Wanted { after: Epoch(9), ..wanted }, &lease, slept, clock.now()).await;
    assert_eq!(again.unwrap(), None, "nothing is claimed under a lease that is another's");
    tx.commit().await.unwrap();
    assert_eq!((world.deployment("d").await.unwrap().status, world.events(id).await), before);
    running.stop().await;
}

#[tokio::test]
async fn dp5_two_gateways_make_each_attempt_once_and_never_two_of_one_deployment() {
    let (world, platform) = world().await;
    let (first, second) = (world.reach_as(&platform, 1, 1), world.reach_as(&platform, 2, 1));
    let mut all = Vec::new();
    for n in 0..12 {
        all.push(world.deploy(&format!("d{n}"), "a", json!({})).await);
    }
    world.agent_image("a", "two").await;
    for n in 0..12 {
        world.is_deployed(&format!("d{n}")).await;
    }
    // The one that acts goes; the other one goes on.
    first.stop().await;
    world.agent_image("a", "three").await;
    for (n, id) in all.iter().enumerate() {
        let done = || async { platform.of(*id).unwrap().seen.generation };
        until("a workload", done, Option::is_some).await;
        let of = format!("d{n}");
        until("deployed", || world.dependency(&of), |g| *g == Some(3)).await;
    }
    let calls = platform.calls();
    let distinct: BTreeSet<String> = calls.iter().map(|c| format!("{c:?}")).collect();
    assert_eq!((distinct.len(), platform.state.lock().unwrap().overlaps), (calls.len(), 0));
    second.stop().await;
}

#[tokio::test]
async fn dp7_dp9_what_fails_now_and_then_is_tried_ever_more_seldom_until_it_works() {
    let (world, platform) = world().await;
    platform.fates([1, 2, 3].map(|_| Fate::Fails(ErrorClass::Transient)));
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    world.after_events(id, 1).await;
    let seen = tokio::time::timeout(
        Duration::from_secs(1),
        until(
            "the error",
            || world.standing("d"),
            |s| s.as_ref().is_some_and(|s| s.message.contains("the platform says transient")),
        ),
    );
    seen.await.expect("within a second");
    let events = world.after_events(id, 4).await;
    let outcomes: Vec<Outcome> = events.iter().map(|e| e.outcome).collect();
    assert_eq!(outcomes, [Outcome::Error, Outcome::Error, Outcome::Error, Outcome::Success]);
    let waits: Vec<i64> =
        events[..3].iter().map(|e| (e.next_retry_at.unwrap() - e.completed_at).num_milliseconds()).collect();
    for (wait, about) in waits.iter().zip([1000, 2000, 4000]) {
        assert!((about * 8 / 10..=about * 12 / 10).contains(wait), "{waits:?}");
    }
    assert_eq!(events.iter().map(|e| e.attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
    world.is_deployed("d").await;
    world.has_condition("d", "Ready", "True", "ready").await;
    running.stop().await;
}

#[tokio::test]
async fn dp8_dp11_what_fails_for_good_waits_for_a_change() {
    let (world, platform) = world().await;
    platform.fates([Fate::Fails(ErrorClass::Permanent)]);
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    let failed = world.is("d", Phase::Failed).await;
    assert!(failed.message.contains("the platform says permanent"), "{failed:?}");
    a_while().await;
    assert_eq!((world.events(id).await.len(), platform.deploys()), (1, 1));
    world.agent_image("a", "two").await;
    world.is_deployed("d").await;
    assert_eq!(platform.deploys(), 2);
    running.stop().await;
}

#[tokio::test]
async fn dp10_dp11_a_pause_survives_a_restart_and_ends_with_a_change() {
    let (world, platform) = world().await;
    platform.fates([0; 4].map(|_| Fate::Fails(ErrorClass::Capacity)));
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    world.after_events(id, 4).await;
    running.stop().await;
    let running = world.reach_as(&platform, 1, 2);
    a_while().await;
    a_while().await;
    assert_eq!(platform.deploys(), 4, "eight seconds are not over");
    world.redeclare("d", None, |spec| spec.resources.cpu_millis = Some(100)).await;
    world.is_deployed("d").await;
    let last = world.events(id).await.pop().unwrap();
    assert_eq!((last.attempt, last.generation.0, platform.deploys()), (1, 2, 5));
    running.stop().await;
}

#[tokio::test]
async fn dp12_what_changed_while_it_was_applied_is_applied_anew() {
    let (world, platform) = world().await;
    platform.stop_deploys();
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({ "env": { "V": "old" } })).await;
    called(&platform, 1).await;
    let new = serde_json::from_value(json!({ "V": "new" })).unwrap();
    world.redeclare("d", None, move |spec| spec.env = std::collections::BTreeMap::clone(&new)).await;
    let superseded = world.after_events(id, 1).await;
    assert_eq!((superseded[0].outcome, superseded[0].generation.0), (Outcome::Superseded, 1));
    platform.go_on();
    world.is_deployed("d").await;
    assert_eq!(platform.of(id).unwrap().env["V"], "new");
    let status = world.deployment("d").await.unwrap().status.unwrap();
    assert_eq!(status.applied.unwrap().generation.0, 2);
    running.stop().await;
}

#[tokio::test]
async fn dp59_an_adapter_that_panics_takes_nobody_with_it() {
    let (world, platform) = world().await;
    platform.fates([Fate::Panics]);
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    world.deploy("e", "a", json!({})).await;
    world.is_deployed("d").await;
    world.is_deployed("e").await;
    let of_panic = |e: &basalt_model::attempts::ReconcileEvent| {
        e.error.as_ref().is_some_and(|e| e.reason.code == "internal")
    };
    let other = world.deployment("e").await.unwrap().deployment.id();
    let mut events = world.events(id).await;
    events.extend(world.events(other).await);
    assert_eq!(events.iter().filter(|e| of_panic(e)).count(), 1, "{events:?}");
    running.stop().await;
}

#[tokio::test]
async fn dp60_a_clock_that_jumps_makes_no_pause_shorter() {
    let (world, clock) = World::manual().await;
    let (world, platform) = furnished(world).await;
    platform.fates((0..80).map(|_| Fate::Fails(ErrorClass::Capacity)));
    let running = world.reach(&platform);
    for n in 0..20 {
        world.deploy(&format!("d{n}"), "a", json!({})).await;
    }
    called(&platform, 80).await;
    clock.advance(TimeDelta::hours(1));
    a_while().await;
    clock.advance(TimeDelta::hours(-2));
    a_while().await;
    assert!(platform.deploys() < 90, "{} at once", platform.deploys());
    running.stop().await;
}

#[tokio::test]
async fn dp49_a_transaction_that_stays_open_elsewhere_holds_nothing_up() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    // A transaction that has written and stays open.
    let mut elsewhere = world.store.system().await.unwrap();
    leases::acquire(&mut elsewhere, "another", Uuid::from_u128(9), world.clock.now(), 3, None).await.unwrap();
    world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    drop(elsewhere);
    running.stop().await;
}

#[tokio::test]
async fn dp50_dp51_a_log_that_was_pruned_or_is_of_another_history_is_read_anew_and_changes_nothing() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let all: Vec<DeploymentId> =
        [world.deploy("d", "a", json!({})).await, world.deploy("e", "a", json!({})).await].into();
    world.is_deployed("d").await;
    world.is_deployed("e").await;
    let reloads = || running.handle.metrics().reloads.get();
    let before = reloads();
    world.database().lose_log().await;
    world.agent_image("other", "one").await;
    until("a reload", || async { reloads() }, |n| *n > before).await;
    a_while().await;
    assert_eq!(platform.deploys(), 2);
    // An older backup knows of older attempts than are written on what runs.
    world.database().forget_attempts().await;
    world.agent_image("a", "two").await;
    for (of, id) in ["d", "e"].into_iter().zip(all) {
        let on_it = || async { platform.of(id).unwrap().seen.epoch.unwrap().0 };
        until("a higher epoch", on_it, |epoch| *epoch >= 2).await;
        until("what it is made from", || world.dependency(of), |g| *g == Some(2)).await;
        world.is_deployed(of).await;
        assert!(world.events(id).await.iter().all(|e| e.outcome != Outcome::Error));
    }
    assert!(platform.calls().iter().all(|c| matches!(c, Call::Deploy(..))));
    running.stop().await;
}

#[tokio::test]
async fn dp58_of_events_the_newest_hundred_are_kept() {
    let world = World::new().await;
    world.provider("here").await;
    let id = world.deploy("d", "a", json!({})).await;
    let executor = Executor { id: Uuid::from_u128(9), start: Uuid::from_u128(9) };
    for n in 1..=105 {
        let (mut tx, now) = (world.store.system().await.unwrap(), world.clock.now());
        let lease = leases::acquire(&mut tx, "reconciler", executor.id, now, 3, None).await.unwrap().unwrap();
        let wanted = Wanted { deployment_id: id, generation: Generation(1), after: Epoch(0) };
        let claim = attempts::claim(&mut tx, wanted, &lease, executor, now).await.unwrap().unwrap();
        assert_eq!(claim.epoch, Epoch(n));
        let event = ReconcileEvent {
            id: (world.ids)(),
            generation: Generation(1),
            epoch: claim.epoch,
            action: Action::Deploy,
            attempt: 1,
            outcome: Outcome::Error,
            causes: Vec::new(),
            error: None,
            fingerprint: String::new(),
            started_at: now,
            completed_at: now,
            next_retry_at: None,
        };
        let record = Record {
            attempted: None,
            applied: Applies::Same,
            next_retry_at: None,
            repair: false,
            event,
            seen: None,
        };
        assert!(attempts::record(&mut tx, &world.change(), claim, &record).await.unwrap());
        tx.commit().await.unwrap();
    }
    let epochs: Vec<i64> = world.events(id).await.iter().map(|e| e.epoch.0).collect();
    assert_eq!(epochs, (6..=105).collect::<Vec<_>>());
    let mut tx = world.store.system().await.unwrap();
    assert_eq!(attempts::prune(&mut tx, world.clock.now()).await.unwrap(), 100, "and by age");
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Gateways are killed at any moment, answers are lost, calls fail, intent changes all the while. In the end each
/// deployment is as it was last wanted, once, as if nothing had happened.
#[tokio::test]
async fn dp2_dp3_dp5_dp28_killed_at_any_moment_all_ends_as_it_was_last_wanted() {
    let (world, platform) = world().await;
    let mut dice = Dice(20_261_122);
    let mut wanted: Vec<(String, DeploymentId, Option<u32>)> = Vec::new();
    for n in 0..8 {
        let of = format!("d{n}");
        let id = world.deploy(&of, "a", json!({ "resources": { "cpu_millis": 100 } })).await;
        wanted.push((of, id, Some(100)));
    }
    for round in 1..=24 {
        let fates = (0..dice.roll(4)).map(|_| match dice.roll(3) {
            0 => Fate::DoneAndTimesOut,
            1 => Fate::Fails(ErrorClass::Capacity),
            _ => Fate::Panics,
        });
        platform.fates(fates.collect::<Vec<_>>());
        // Each life is another start of the one gateway, so it takes over at once what the one before left.
        let running = world.reach_as(&platform, 1, round);
        for _ in 0..2 {
            let which = dice.roll(8) as usize;
            let (of, _, value) = &mut wanted[which];
            let millis = 100 + u32::try_from(dice.roll(900)).unwrap();
            let undeploy = dice.roll(4) == 0;
            world
                .redeclare(of, None, |spec| {
                    spec.resources.cpu_millis = Some(millis);
                    spec.desired_state =
                        if undeploy { DesiredState::Undeployed } else { DesiredState::Deployed };
                })
                .await;
            *value = (!undeploy).then_some(millis);
            tokio::time::sleep(Duration::from_millis(dice.roll(60))).await;
        }
        running.kill().await;
    }
    platform.state.lock().unwrap().fates.clear();
    let running = world.reach_as(&platform, 1, 100);
    // Nobody waits here for pauses after what failed on purpose.
    for (of, ..) in &wanted {
        world.retry(of).await;
    }
    for (of, id, value) in &wanted {
        let phase = if value.is_some() { Phase::Deployed } else { Phase::Undeployed };
        world.is(of, phase).await;
        let view = world.deployment(of).await.unwrap();
        let generation = view.deployment.metadata.generation;
        assert_eq!(platform.of(*id).and_then(|r| r.seen.generation), value.map(|_| generation), "{of}");
        let epochs: Vec<i64> = world.events(*id).await.iter().map(|e| e.epoch.0).collect();
        assert!(epochs.is_sorted_by(|a, b| a < b), "{of}: {epochs:?}");
    }
    let running_now = platform.state.lock().unwrap().running.len();
    let all_calls = platform.calls();
    assert_eq!(running_now, wanted.iter().filter(|(_, _, v)| v.is_some()).count());
    let mut last = std::collections::BTreeMap::new();
    for call in &all_calls {
        let (Call::Deploy(id, epoch) | Call::Undeploy(id, epoch)) = call;
        let before = last.insert(*id, *epoch);
        assert!(before.is_none_or(|before| before < *epoch), "an attempt was made twice: {call:?}");
    }
    assert!(all_calls.len() > 24, "{}", all_calls.len());
    running.stop().await;
}
