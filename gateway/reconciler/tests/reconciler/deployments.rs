//! What makes a deployment run again, what blocks it, and how it ends: with a platform in memory on a real database.

use crate::{
    deployed::{agent_spec, until},
    platform::{Call, FakePlatform, Fate, a_while},
    world::World,
};
use basalt_model::{
    Labels,
    artifacts::ArtifactKind,
    attempts::{AttemptOutcome, Cause, DeploymentPhase as Phase},
    deployments::{DesiredState, ErrorClass},
};
use basalt_store::{Error, artifacts::Left};
use serde_json::json;

async fn world() -> (World, FakePlatform) {
    let world = World::new().await;
    world.provider("here").await;
    world.agent_image("a", "one").await;
    (world, FakePlatform::new())
}

#[tokio::test]
async fn dp13_dp14_dp53_what_says_the_same_asks_nothing_of_the_platform() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    world.deploy("d", "a", json!({})).await;
    let standing = world.is_deployed("d").await;
    assert_eq!(standing.endpoints.len(), 1);
    let before = world.deployment("d").await.unwrap();
    world.redeclare("d", None, |_| {}).await;
    let labels: Labels = serde_json::from_value(json!({ "tier": "gold" })).unwrap();
    world.redeclare("d", Some(labels.clone()), |_| {}).await;
    world.agent_image("a", "one").await;
    a_while().await;
    let after = world.deployment("d").await.unwrap();
    assert_eq!(after.deployment.metadata.generation, before.deployment.metadata.generation);
    assert_eq!(after.deployment.metadata.labels, labels);
    assert_eq!((platform.deploys(), after.status), (1, before.status), "nothing was asked, nothing written");
    assert!(platform.looks() > 3, "it is looked at all the while");
    running.stop().await;
}

#[tokio::test]
async fn dp15_dp17_dp18_dp57_what_something_is_made_from_redeploys_exactly_that_and_says_so() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    world.agent_image("b", "one").await;
    world.artifact(ArtifactKind::Server, "unused", agent_spec("s")).await;
    let (first, second) =
        (world.deploy("d1", "a", json!({})).await, world.deploy("d2", "a", json!({})).await);
    let other = world.deploy("e", "b", json!({})).await;
    for of in ["d1", "d2", "e"] {
        world.is_deployed(of).await;
    }
    world.artifact(ArtifactKind::Server, "unused", agent_spec("t")).await;
    a_while().await;
    assert_eq!(platform.deploys(), 3, "nobody refers to it");
    world.agent_image("a", "two").await;
    for id in [first, second] {
        let last = world.after_events(id, 2).await.pop().unwrap();
        let changed = Cause::Changed {
            what: "agent/a:latest".into(),
            old: basalt_model::Generation(1),
            new: basalt_model::Generation(2),
            replaced: false,
        };
        assert_eq!(last.causes, [changed]);
        assert_eq!(last.causes[0].to_string(), "agent/a:latest changed: generation 1 to 2");
    }
    a_while().await;
    assert_eq!((platform.deploys(), world.events(other).await.len()), (5, 1));
    running.stop().await;
}

#[tokio::test]
async fn dp16_dp19_what_a_target_refers_to_redeploys_it_too_and_is_told_to_it() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    world.secret("key", "hush").await;
    world.artifact(ArtifactKind::Server, "tools", agent_spec("s1")).await;
    let mut spec = agent_spec("one");
    spec["servers"] = json!([{ "name": "tools" }]);
    spec["env"] = json!({ "KEY": { "secret": "key" } });
    world.artifact(ArtifactKind::Agent, "a", spec).await;
    let id = world.deploy("d", "a", json!({})).await;
    let blocked = world.is("d", Phase::Blocked).await;
    assert!(
        blocked.message.contains("server/tools:latest") && blocked.message.contains("deploy it"),
        "{blocked:?}"
    );
    assert_eq!(platform.deploys(), 0);
    let server = json!({ "target": { "kind": "server", "name": "tools" } });
    world.deploy("s", "a", server).await;
    world.is_deployed("d").await;
    let told = platform.of(id).unwrap().env;
    assert!(told["BASALT_SERVERS"].contains("\"tools\":{\"url\":\"http://s-"), "{told:?}");
    assert_eq!(told["KEY"], "hush");
    world.artifact(ArtifactKind::Server, "tools", agent_spec("s2")).await;
    let causes = world.after_events(id, 2).await.pop().unwrap().causes;
    assert_eq!(causes[0].to_string(), "server/tools:latest changed: generation 1 to 2");
    world.secret("key", "hushhush").await;
    let causes = world.after_events(id, 3).await.pop().unwrap().causes;
    assert_eq!(causes[0].to_string(), "secret/key changed: generation 1 to 2");
    until("the new value", || async { platform.of(id).unwrap().env["KEY"].clone() }, |v| v == "hushhush")
        .await;
    let text = format!("{:?} {:?}", world.events(id).await, world.deployment("d").await);
    assert!(!text.contains("hush"), "no value is anywhere in what is kept");
    running.stop().await;
}

#[tokio::test]
async fn dp20_dp21_a_missing_target_blocks_and_one_that_goes_leaves_what_runs() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let id = world.deploy("d", "later", json!({})).await;
    let blocked = world.is("d", Phase::Blocked).await;
    assert!(blocked.message.contains("agent/later:latest"), "{blocked:?}");
    a_while().await;
    assert_eq!(platform.calls(), []);
    world.agent_image("later", "one").await;
    world.is_deployed("d").await;
    let refused = world.remove_artifact(ArtifactKind::Agent, "later", Left::Refused).await;
    assert!(matches!(refused, Err(Error::InUse { by, .. }) if by == ["deployment/d"]));
    world.remove_artifact(ArtifactKind::Agent, "later", Left::Running).await.unwrap();
    world.has_condition("d", "DependenciesReady", "False", "not_registered").await;
    assert!(platform.of(id).is_some());
    assert_eq!(world.standing("d").await.unwrap().phase, Phase::Deployed, "it runs on");
    assert_eq!(platform.undeploys(), 0);
    running.stop().await;
}

#[tokio::test]
async fn dp22_a_provider_goes_after_its_deployments() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    let refused = world.delete_provider("here", false).await;
    assert!(matches!(refused, Err(Error::InUse { by, .. }) if by == ["deployment/d"]));
    world.delete_provider("here", true).await.unwrap();
    world.is_gone("d").await;
    let gone = || async { world.delete_provider("here", false).await };
    let gone = until("the provider", gone, |r| matches!(r, Err(Error::NotFound { .. }))).await;
    assert!(gone.is_err());
    assert_eq!(platform.undeploys(), 1);
    running.stop().await;
}

#[tokio::test]
async fn dp23_dp24_undeployed_it_is_taken_away_once_and_comes_back_as_the_same() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    world.want("d", DesiredState::Undeployed).await;
    world.is("d", Phase::Undeployed).await;
    a_while().await;
    assert_eq!((platform.undeploys(), platform.of(id).is_some()), (1, false));
    world.want("d", DesiredState::Deployed).await;
    world.is_deployed("d").await;
    assert_eq!(world.deployment("d").await.unwrap().deployment.id(), id);
    assert_eq!((platform.deploys(), platform.undeploys()), (2, 1));
    running.stop().await;
}

#[tokio::test]
async fn dp25_dp27_dp29_dp30_deletion_ends_and_the_name_is_free_afterwards() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    platform.fates([Fate::Fails(ErrorClass::Permanent)]);
    let first = world.deploy("d", "a", json!({})).await;
    world.is("d", Phase::Failed).await;
    platform.state.lock().unwrap().away = true;
    let gone = world.delete_deployment("d", false).await.unwrap();
    let again = world.delete_deployment("d", false).await.unwrap();
    assert_eq!(gone.metadata, again.metadata, "asked again, nothing changes");
    world.is("d", Phase::Deleting).await;
    let taken = world.try_deploy("d", "a", json!({}), None).await;
    assert!(matches!(taken, Err(Error::NameTaken { .. })));
    platform.state.lock().unwrap().away = false;
    world.is_gone("d").await;
    let second = world.deploy("d", "a", json!({})).await;
    assert_ne!(first, second);
    world.is_deployed("d").await;
    // What is said of the first one later has nothing to be said of.
    let mut tx = world.store.system().await.unwrap();
    let status = world.deployment("d").await.unwrap().status.unwrap();
    let late = basalt_store::attempts::Claim {
        deployment_id: first,
        tenant_id: status.tenant_id,
        project_id: status.project_id,
        epoch: basalt_model::Epoch(1),
    };
    assert!(!basalt_store::attempts::renew(&mut tx, late, world.clock.now()).await.unwrap());
    running.stop().await;
}

#[tokio::test]
async fn dp26_what_cannot_be_reached_stays_deleting_until_it_is_given_up() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    platform.state.lock().unwrap().away = true;
    world.delete_deployment("d", false).await.unwrap();
    let says = |s: &Option<basalt_model::attempts::Standing>| {
        s.as_ref().is_some_and(|s| s.phase == Phase::Deleting && s.message.contains("timeout"))
    };
    until("the reason", || world.standing("d"), says).await;
    world.delete_deployment("d", true).await.unwrap();
    world.is_gone("d").await;
    assert!(platform.of(id).is_some(), "nothing was taken away");
    // What is left behind is told as an orphan when the platform is seen again.
    platform.state.lock().unwrap().away = false;
    let orphans = || world.found();
    until("the orphan", orphans, |found| found.iter().any(|f| f.owner == Some(id.0))).await;
    running.stop().await;
}

#[tokio::test]
async fn dp28_deleted_while_it_is_deployed_nothing_of_it_comes_back() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    platform.stop_deploys();
    let id = world.deploy("d", "a", json!({})).await;
    until("the call", || async { platform.deploys() }, |n| *n == 1).await;
    world.delete_deployment("d", false).await.unwrap();
    platform.go_on();
    world.is_gone("d").await;
    a_while().await;
    assert!(platform.of(id).is_none());
    let calls = platform.calls();
    assert!(matches!(calls.last(), Some(Call::Undeploy(..))), "{calls:?}");
    running.stop().await;
}

#[tokio::test]
async fn dp54_a_retry_applies_once_more() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    world.retry("d").await;
    let events = world.after_events(id, 2).await;
    assert_eq!((&events[1].causes[..], events[1].outcome), (&[Cause::Forced][..], AttemptOutcome::Unchanged));
    a_while().await;
    assert_eq!(platform.deploys(), 2);
    running.stop().await;
}

#[tokio::test]
async fn dp56_what_a_user_declares_again_takes_nothing_from_what_the_reconciler_knows() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let id = world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    world.retry("d").await;
    world.after_events(id, 2).await;
    world.has_condition("d", "Ready", "True", "ready").await;
    platform.stop_deploys();
    let before = world.deployment("d").await.unwrap();
    world.redeclare("d", None, |spec| spec.resources.cpu_millis = Some(100)).await;
    until("the call", || async { platform.deploys() }, |n| *n == 3).await;
    let after = world.deployment("d").await.unwrap();
    let (old, new) = (before.status.unwrap(), after.status.unwrap());
    assert_eq!((&new.applied, &new.attempted), (&old.applied, &old.attempted));
    assert_eq!(after.deployment.force, before.deployment.force);
    assert_eq!(after.conditions.len(), before.conditions.len());
    assert_eq!(world.events(id).await.len(), 2);
    platform.go_on();
    world.is_deployed("d").await;
    running.stop().await;
}

#[tokio::test]
async fn what_runs_elsewhere_anyway_has_an_address_and_asks_nothing_of_the_platform() {
    let (world, platform) = world().await;
    let running = world.reach(&platform);
    let remote = json!({ "source": { "type": "remote", "url": "https://far.example/mcp" } });
    world.artifact(ArtifactKind::Server, "far", remote.clone()).await;
    let target = json!({ "target": { "kind": "server", "name": "far" } });
    world.deploy("s", "a", target.clone()).await;
    let standing = world.is_deployed("s").await;
    assert_eq!(standing.endpoints[0].url, "https://far.example/mcp");
    let mut agent = agent_spec("one");
    agent["servers"] = json!([{ "name": "far" }]);
    world.artifact(ArtifactKind::Agent, "a", agent).await;
    let id = world.deploy("d", "a", json!({})).await;
    world.is_deployed("d").await;
    assert!(platform.of(id).unwrap().env["BASALT_SERVERS"].contains("https://far.example/mcp"));
    assert_eq!(platform.deploys(), 1);
    // One that ran here and now runs elsewhere.
    world.artifact(ArtifactKind::Server, "moves", agent_spec("here")).await;
    let moves = world.deploy("m", "a", json!({ "target": { "kind": "server", "name": "moves" } })).await;
    world.is_deployed("m").await;
    world.artifact(ArtifactKind::Server, "moves", remote).await;
    until("its end here", || async { platform.of(moves) }, Option::is_none).await;
    let told = |s: &Option<basalt_model::attempts::Standing>| {
        s.as_ref().is_some_and(|s| s.phase == Phase::Deployed && s.endpoints[0].url.contains("far"))
    };
    until("its new address", || world.standing("m"), told).await;
    a_while().await;
    assert_eq!(platform.deploys(), 3);
    for of in ["s", "m"] {
        world.delete_deployment(of, false).await.unwrap();
        world.is_gone(of).await;
    }
    running.stop().await;
}
