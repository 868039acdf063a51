//! What looks at providers do, and above all what they do not: gone is told from not looked, and looking changes nothing.

use crate::{
    deployed::{LOOKS, until},
    platform::{FakePlatform, Fate, a_while},
    world::World,
};
use basalt_model::{
    attempts::DeploymentPhase as Phase,
    deployments::{ErrorClass, OnDrift},
};
use basalt_store::deployments::Adopted;
use serde_json::json;
use std::time::Duration;

async fn world() -> (World, FakePlatform) {
    let world = World::new().await;
    world.provider("here").await;
    world.agent_image("a", "one").await;
    (world, FakePlatform::new())
}

/// Waits for so many looks more.
async fn looks(platform: &FakePlatform, n: usize) {
    let before = platform.looks();
    until("looks", || async { platform.looks() }, |now| *now >= before + n).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn dp31_dp40_what_was_killed_by_hand_comes_back_or_is_told() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    let told = world.deploy("t", "a", json!({ "on_drift": "report" })).await;
    world.is_deployed("d").await;
    world.is_deployed("t").await;
    let spec = world.deployment("d").await.unwrap().deployment;
    platform.kill(id);
    platform.kill(told);
    until("it again", || async { platform.of(id) }, Option::is_some).await;
    world.is_deployed("d").await;
    let message = world.has_condition("t", "Drifted", "True", "differs").await;
    assert!(message.contains("not there any more"), "{message}");
    assert_eq!(world.standing("t").await.unwrap().phase, Phase::Degraded);
    assert!(platform.of(told).is_none());
    let now = world.deployment("d").await.unwrap().deployment;
    assert_eq!(
        (now.metadata, now.spec.on_drift),
        (spec.metadata, OnDrift::Reapply),
        "looking changes no intent"
    );
    // What runs differs from what was applied: put right, too.
    let name = platform.of(id).unwrap().name;
    platform.state.lock().unwrap().running.get_mut(&name).unwrap().seen.drift = vec!["image: other".into()];
    until("mended", || async { platform.of(id).unwrap().seen.drift }, Vec::is_empty).await;
    world.retry("t").await;
    world.is_deployed("t").await;
    running.stop().await;
}

#[tokio::test]
async fn dp32_what_is_killed_again_and_again_is_repaired_more_slowly_and_says_so() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    for n in 0..7 {
        platform.kill(id);
        until("it again", || async { platform.deploys() }, |d| *d >= n + 2).await;
        until("seen", || async { platform.of(id) }, Option::is_some).await;
    }
    world.has_condition("d", "Degraded", "True", "flapping").await;
    platform.kill(id);
    a_while().await;
    a_while().await;
    assert!(platform.of(id).is_none(), "not at once any more");
    let standing = world.is("d", Phase::Degraded).await;
    assert!(standing.message.contains("more slowly"), "{standing:?}");
    world.retry("d").await;
    until("it again", || async { platform.of(id) }, Option::is_some).await;
    running.stop().await;
}

#[tokio::test]
async fn dp33_dp34_dp43_looks_that_fail_mark_nothing_missing_and_say_why() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    platform.state.lock().unwrap().blind = true;
    platform.kill(id);
    let message = world.has_condition("d", "ProviderReachable", "False", "told_to_fail").await;
    assert!(
        message.contains("the platform says timeout") && message.contains("tell it otherwise"),
        "{message}"
    );
    assert_eq!(world.is("d", Phase::Unknown).await.message, message);
    a_while().await;
    assert_eq!(platform.deploys(), 1, "nobody could look");
    assert_eq!(world.said("d", "Discovered").await.unwrap().0, "True");
    platform.state.lock().unwrap().blind = false;
    until("it again", || async { platform.of(id) }, Option::is_some).await;
    world.is_deployed("d").await;
    running.stop().await;
}

#[tokio::test]
async fn dp35_a_listing_that_leaves_something_out_once_changes_nothing() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    platform.state.lock().unwrap().omits = 1;
    looks(&platform, 4).await;
    assert_eq!(
        (platform.deploys(), world.events(world.deployment("d").await.unwrap().deployment.id()).await.len()),
        (1, 1)
    );
    assert_eq!(world.standing("d").await.unwrap().phase, Phase::Deployed);
    running.stop().await;
}

#[tokio::test]
async fn dp35_a_look_that_began_before_an_attempt_and_ends_after_it_says_nothing_of_it() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    let all = platform.listings.available_permits();
    platform.listings.forget_permits(all);
    looks(&platform, 1).await;
    // It has seen what ran then.
    world.agent_image("a", "two").await;
    until("it anew", || async { platform.deploys() }, |n| *n == 2).await;
    until("what it is made from", || world.dependency("d"), |g| *g == Some(2)).await;
    platform.listings.add_permits(all);
    looks(&platform, 3).await;
    assert_eq!(platform.deploys(), 2, "what was before is no drift");
    world.is_deployed("d").await;
    running.stop().await;
}

#[tokio::test]
async fn dp36_dp38_dp39_what_was_found_is_listed_goes_stale_and_then_goes() {
    let (world, platform) = world().await;
    let gone = world.deploy("gone", "a", json!({})).await;
    world.delete_deployment("gone", true).await.unwrap();
    platform.stranger("stranger", None);
    platform.stranger("orphan", Some(gone));
    let running = world.reach(&platform);
    world.is_gone("gone").await;
    let found = until("two", || world.found(), |f| f.len() == 2).await;
    let owners: Vec<(String, bool)> = found.iter().map(|f| (f.name.clone(), f.owner.is_some())).collect();
    assert!(owners.contains(&("stranger".into(), false)) && owners.contains(&("orphan".into(), true)));
    running.stop().await;
    assert_eq!(world.found().await.len(), 2, "it is in the database");
    platform.state.lock().unwrap().running.clear();
    let running = world.reach_as(&platform, 1, 2);
    until("stale", || world.found(), |f| f.iter().any(|f| f.misses >= 3)).await;
    until("none", || world.found(), Vec::is_empty).await;
    assert!(platform.looks() >= 6);
    running.stop().await;
}

#[tokio::test]
async fn dp38_what_was_found_is_adopted_and_is_then_one_of_ours() {
    let (world, platform) = world().await;
    platform.stranger("stranger", None);
    let running = world.reach(&platform);
    until("it", || world.found(), |f| f.len() == 1).await;
    let adopted = Adopted { kind: "container".into(), namespace: None, name: "stranger".into() };
    let id = world.try_deploy("mine", "a", json!({}), Some(&adopted)).await.unwrap();
    world.is_deployed("mine").await;
    assert_eq!(platform.state.lock().unwrap().running.len(), 1, "nothing is beside it");
    assert!(platform.of(id).is_some());
    until("nothing found", || world.found(), Vec::is_empty).await;
    running.stop().await;
}

#[tokio::test]
async fn dp37_looks_that_find_the_same_write_nothing() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    platform.stranger("stranger", None);
    world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    until("found", || world.found(), |f| f.len() == 1).await;
    looks(&platform, 2).await;
    let written = || world.database().writers_of_what_was_seen();
    let before = written().await;
    assert!(before.iter().all(|rows| !rows.is_empty()), "{before:?}");
    looks(&platform, 5).await;
    assert_eq!(written().await, before);
    running.stop().await;
}

#[tokio::test]
async fn dp1_dp41_a_platform_that_hangs_holds_up_nobody_who_asks_here() {
    let (world, platform) = world().await;
    platform.stop_deploys();
    let running = world.reach(&platform);
    for n in 0..8 {
        world.deploy(&format!("d{n}"), "a", json!({})).await;
    }
    until("calls", || async { platform.deploys() }, |n| *n == 4).await;
    // Four at once at one provider, and that is all that waits.
    tokio::time::timeout(Duration::from_secs(5), async {
        world.deploy("more", "a", json!({})).await;
        world.found().await;
        assert!(world.deployment("more").await.is_some());
    })
    .await
    .expect("nobody waits for a platform");
    tokio::time::sleep(LOOKS).await;
    assert_eq!(platform.deploys(), 4);
    platform.go_on();
    world.is_deployed("more").await;
    running.stop().await;
}

#[tokio::test]
async fn a_provider_that_only_fails_is_left_alone_for_a_while() {
    let (world, platform) = world().await;
    platform.fates((0..100).map(|_| Fate::Fails(ErrorClass::Timeout)));
    let running = world.reach(&platform);
    for n in 0..12 {
        world.deploy(&format!("d{n}"), "a", json!({})).await;
    }
    until("calls", || async { platform.deploys() }, |n| *n >= 5).await;
    a_while().await;
    a_while().await;
    assert!(platform.deploys() <= 9, "{}", platform.deploys());
    running.stop().await;
}
