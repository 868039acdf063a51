//! Deployments over HTTP. No reconciler runs here and no platform is asked: what the one would write and the other would
//! show is written by the test, as they would write it.

use crate::{
    door::{Answer, Door, in_project},
    watch::{Watch, brief},
};
use basalt_model::{
    DeploymentId, Generation, ProjectId, ProviderId, TenantId,
    attempts::{
        Action, Applied, AttemptOutcome, Attempted, Cause, Dependency, DeploymentPhase, ReconcileEvent,
        Standing,
    },
    deployments::Endpoint,
    providers::Platform,
};
use basalt_store::{
    attempts::{self, Applies, Wanted},
    deployments,
    discovered::{self, Run, Thing},
    leases::{self, Lease},
    testkit,
    work::Executor,
};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// A project with a provider `here`, and whoever writes what is seen and tried.
pub struct World {
    pub door: Door,
    pub project: (TenantId, ProjectId),
    pub at: String,
}

impl World {
    pub async fn new() -> Self {
        Self::behind(Door::new().await).await
    }

    pub async fn behind(door: Door) -> Self {
        let project = door.project("acme").await;
        let at = format!("/v1/projects/{}", project.1);
        let world = Self { door, project, at };
        world.post("providers", json!({"name": "here", "spec": {"platform": "local"}})).await.expect(201);
        world
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.door.admin("POST", &format!("{}/{path}", self.at)).json(body).send().await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.door.admin("GET", &format!("{}/{path}", self.at)).send().await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        self.door.admin("PUT", &format!("{}/{path}", self.at)).json(body).send().await
    }

    async fn call(&self, path: &str) -> Answer {
        self.door.admin("POST", &format!("{}/{path}", self.at)).send().await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.door.admin("DELETE", &format!("{}/{path}", self.at)).send().await
    }

    /// Declares a deployment of the agent `planner`, and gives what the gateway answers.
    pub async fn declare(&self, name: &str) -> Value {
        self.post("deployments", body(name)).await.expect(202).body
    }

    async fn provider_id(&self) -> ProviderId {
        ProviderId(id(&self.get("providers/here").await.expect(200).body))
    }

    async fn lease(&self) -> Lease {
        let mut tx = self.door.db.store.system().await.unwrap();
        let lease = leases::acquire(&mut tx, "test", Uuid::from_u128(1), testkit::now(), 3600, None).await;
        tx.commit().await.unwrap();
        lease.unwrap().unwrap()
    }

    /// Writes how a deployment was judged.
    async fn judge(&self, of: &Value, generation: i64, phase: DeploymentPhase, message: &str) {
        let endpoints = vec![Endpoint { name: "http".into(), url: "http://127.0.0.1:1234/".into() }];
        let observed_generation = Generation(generation);
        let standing = Standing { phase, message: message.into(), observed_generation, endpoints };
        let mut tx = self.door.db.store.system().await.unwrap();
        deployments::judge(&mut tx, &[(DeploymentId(id(of)), standing)]).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Writes an attempt that went well.
    async fn applied(&self, of: &Value, dependencies: Vec<Dependency>, causes: Vec<Cause>) {
        let (lease, store) = (self.lease().await, &self.door.db.store);
        let (deployment_id, generation) =
            (DeploymentId(id(of)), Generation(of["generation"].as_i64().unwrap()));
        let mut tx = store.system().await.unwrap();
        let view = deployments::get(&mut tx, self.project.1, &basalt_store::Key::Id(deployment_id.0)).await;
        let after = view.unwrap().status.map(|s| s.begun).unwrap_or_default();
        let executor = Executor { id: Uuid::from_u128(1), start: Uuid::from_u128(2) };
        let wanted = Wanted { deployment_id, generation, after };
        let claim =
            attempts::claim(&mut tx, wanted, &lease, executor, testkit::now()).await.unwrap().unwrap();
        let change = testkit::change(&self.door.ids);
        let event = ReconcileEvent {
            id: attempts::event_id(&change),
            generation,
            epoch: claim.epoch,
            action: Action::Deploy,
            attempt: 1,
            outcome: AttemptOutcome::Success,
            causes,
            error: None,
            fingerprint: "f".into(),
            started_at: testkit::now(),
            completed_at: testkit::now(),
            next_retry_at: None,
        };
        let record = attempts::Record {
            attempted: Some(Attempted {
                action: Some(Action::Deploy),
                epoch: claim.epoch,
                generation,
                fingerprint: "f".into(),
                ..Default::default()
            }),
            applied: Applies::This(Box::new(Applied {
                generation,
                fingerprint: "f".into(),
                dependencies,
                epoch: claim.epoch,
                endpoints: Vec::new(),
            })),
            next_retry_at: None,
            repair: false,
            event,
            seen: None,
        };
        assert!(attempts::record(&mut tx, &change, claim, &record).await.unwrap());
        tx.commit().await.unwrap();
    }

    /// Writes what a look at the provider found.
    async fn found(&self, things: Vec<Thing>) {
        let lease = self.lease().await;
        let run = Run {
            provider_id: self.provider_id().await,
            platform: Platform::Local,
            started_at: testkit::now(),
            found: Ok((things, json!({"version": "podman 4.3.1", "limits": []}))),
            except: Vec::new(),
        };
        let mut tx = self.door.db.store.system().await.unwrap();
        discovered::record(&mut tx, &testkit::change(&self.door.ids), &lease, &run).await.unwrap();
        tx.commit().await.unwrap();
    }
}

fn id(of: &Value) -> Uuid {
    of["id"].as_str().unwrap().parse().unwrap()
}

fn spec() -> Value {
    json!({"target": {"kind": "agent", "name": "planner"}, "provider": "here"})
}

fn body(name: &str) -> Value {
    json!({"name": name, "spec": spec()})
}

fn thing(name: &str, owner: Option<Uuid>) -> Thing {
    Thing {
        kind: "container".into(),
        namespace: String::new(),
        name: name.into(),
        owner: owner.map(DeploymentId),
        workload: true,
        raw: json!({"image": "x"}),
    }
}

#[tokio::test]
async fn dp1_a_deployment_is_accepted_where_nobody_carries_it_out() {
    let world = World::new().await;
    let made = world.post("deployments", body("web")).await.expect(202);
    let shown = &made.body;
    assert_eq!(
        made.header("location"),
        format!("{}/deployments/{}", world.at, shown["id"].as_str().unwrap())
    );
    assert_eq!(
        (&shown["origin"], &shown["phase"], &shown["generation"], &shown["observed_generation"]),
        (&json!("managed"), &json!("pending"), &json!(1), &json!(0))
    );
    assert!(shown["message"].as_str().unwrap().contains("generation 1"), "{shown}");
    // Its target is nowhere: that is waited for, not refused.
    world.get("agents/planner").await.expect(404);
    for path in ["deployments/web", &format!("deployments/{}", id(shown))] {
        assert_eq!(&world.get(path).await.expect(200).body, shown);
    }
    assert_eq!(world.get("deployments").await.expect(200).body["items"], json!([shown]));
    let tried = format!("{}/deployments?dry_run=true", world.at);
    let tried = world.door.admin("POST", &tried).json(body("other")).send().await.expect(200);
    assert_eq!((tried.header("location"), &tried.body["name"]), ("", &json!("other")));
    world.get("deployments/other").await.expect(404);
}

#[tokio::test]
async fn dp13_the_same_spec_again_moves_no_generation() {
    let world = World::new().await;
    let made = world.declare("web").await;
    let same = world.put("deployments/web", json!({"spec": spec()})).await.expect(202).body;
    assert_eq!(same, made);
    // Every default written out is the same spec too.
    let long = json!({"target": {"kind": "agent", "name": "planner", "tag": "latest"}, "provider": "here",
        "env": {}, "resources": {}, "on_drift": "reapply", "desired_state": "deployed"});
    assert_eq!(world.put("deployments/web", json!({"spec": long})).await.expect(202).body, made);
    let mut other = spec();
    other["env"] = json!({"MODEL": "small"});
    let changed = world.put("deployments/web", json!({"spec": other})).await.expect(202);
    assert_eq!((&changed.body["generation"], changed.header("etag")), (&json!(2), "\"2\""));
    let late = world.door.admin("PUT", &format!("{}/deployments/web", world.at)).header("if-match", "\"1\"");
    late.json(json!({"spec": spec()})).send().await.expect(412);
}

#[tokio::test]
async fn dp14_labels_move_no_generation() {
    let world = World::new().await;
    world.declare("web").await;
    let labelled = json!({"labels": {"tier": "front"}, "spec": spec()});
    let shown = world.put("deployments/web", labelled).await.expect(202).body;
    assert_eq!((&shown["generation"], &shown["labels"]), (&json!(1), &json!({"tier": "front"})));
    let chosen = world.get("deployments?label_selector=tier%3Dfront").await.expect(200).body;
    assert_eq!(chosen["items"].as_array().unwrap().len(), 1);
    let none = world.get("deployments?label_selector=tier%3Dback").await.expect(200).body;
    assert_eq!(none["items"], json!([]));
}

#[tokio::test]
async fn dp22_a_provider_with_deployments_goes_only_with_them() {
    let world = World::new().await;
    world.declare("web").await;
    let kept = world.delete("providers/here").await.expect(409).body;
    assert_eq!(kept["code"], "in_use");
    assert!(kept["reasons"][0]["evidence"].as_str().unwrap().contains("deployment/web"), "{kept}");
    let going = world.delete("providers/here?cascade=true").await.expect(200).body;
    assert!(going["deletion_requested_at"].is_string(), "{going}");
    let with_it = world.get("deployments/web").await.expect(200).body;
    assert_eq!((&with_it["phase"], &with_it["generation"]), (&json!("deleting"), &json!(2)));
    // Nothing new gets there, and nothing there is changed any more.
    let late = world.post("deployments", body("late")).await.expect(409).body;
    assert_eq!(
        (&late["code"], &late["reasons"][0]["subject"]),
        (&json!("deleting"), &json!("provider/here"))
    );
    let mut other = spec();
    other["on_drift"] = json!("report");
    assert_eq!(world.put("deployments/web", json!({"spec": other})).await.expect(409).code(), "deleting");
}

#[tokio::test]
async fn an_artifact_with_deployments_goes_only_when_it_is_said_what_becomes_of_them() {
    let world = World::new().await;
    let agent = json!({"name": "planner", "spec": {"source": {"type": "image", "image": "planner"}}});
    for (query, state) in [("?cascade=undeploy", "undeployed"), ("?orphan=true", "deployed")] {
        world.post("agents", agent.clone()).await.expect(201);
        world.declare(state).await;
        let kept = world.delete("agents/planner").await.expect(409).body;
        assert!(kept["reasons"][0]["evidence"].as_str().unwrap().contains(state), "{kept}");
        let both = world.delete("agents/planner?cascade=undeploy&orphan=true").await.expect(400).body;
        assert_eq!(both["errors"][0]["field"], "orphan");
        world.delete("agents/planner?cascade=remove").await.expect(400);
        world.delete(&format!("agents/planner{query}")).await.expect(200);
        world.get("agents/planner").await.expect(404);
        let left = world.get(&format!("deployments/{state}")).await.expect(200).body;
        assert_eq!(left["spec"]["desired_state"], state);
    }
}

#[tokio::test]
async fn dp23_dp24_a_deployment_is_cancelled_and_deployed_again_under_the_same_id() {
    let world = World::new().await;
    let made = world.declare("web").await;
    let off = world.call("deployments/web/cancel").await.expect(202).body;
    assert_eq!((&off["spec"]["desired_state"], &off["generation"]), (&json!("undeployed"), &json!(2)));
    assert_eq!(world.call("deployments/web/cancel").await.expect(202).body, off, "so it is already");
    let on = world.call("deployments/web/deploy").await.expect(202).body;
    assert_eq!(
        (&on["spec"]["desired_state"], &on["generation"], &on["id"]),
        (&json!("deployed"), &json!(3), &made["id"])
    );
    // Another attempt is asked for without another intent.
    assert_eq!(world.call("deployments/web/retry").await.expect(202).body["generation"], 3);
    for verb in ["cancel", "deploy", "retry"] {
        world.call(&format!("deployments/nowhere/{verb}")).await.expect(404);
    }
}

#[tokio::test]
async fn dp27_a_deletion_asked_for_twice_is_one_deletion() {
    let world = World::new().await;
    world.declare("web").await;
    let first = world.delete("deployments/web").await.expect(202).body;
    assert_eq!((&first["phase"], &first["generation"]), (&json!("deleting"), &json!(2)));
    assert!(first["message"].as_str().is_some_and(|m| !m.is_empty()));
    world.door.clock.advance(chrono::TimeDelta::seconds(60));
    assert_eq!(world.delete("deployments/web").await.expect(202).body, first);
    // To give up on its platform is another word, and counts once too.
    let orphan = world.delete("deployments/web?orphan=true").await.expect(202).body;
    assert_eq!((&orphan["generation"], &orphan["phase"]), (&json!(2), &json!("deleting")));
    assert_eq!(world.delete("deployments/web").await.expect(202).body, orphan);
    let unknown = world.delete("deployments/web?orphans=true").await.expect(400).body;
    assert_eq!(unknown["errors"][0]["field"], "orphans");
    // A key stands for one request, its parameters included.
    let keyed = |query: &str| {
        let at = format!("{}/deployments/web{query}", world.at);
        world.door.admin("DELETE", &at).header("idempotency-key", "k1").send()
    };
    keyed("?orphan=true").await.expect(202);
    keyed("?orphan=true").await.expect(202);
    assert_eq!(keyed("").await.expect(422).code(), "idempotency_key_reused");
}

#[tokio::test]
async fn dp29_the_name_of_what_goes_is_taken_until_it_is_gone() {
    let world = World::new().await;
    world.declare("web").await;
    let twice = world.post("deployments", body("web")).await.expect(409);
    assert_eq!(twice.code(), "name_taken");
    world.delete("deployments/web").await.expect(202);
    let refused = world.post("deployments", body("web")).await.expect(409).body;
    assert_eq!(refused["code"], "deleting");
    assert!(refused["reasons"][0]["remedy"].as_str().unwrap().contains("wait until it is gone"), "{refused}");
}

#[tokio::test]
async fn dp38_what_was_found_is_listed_cannot_be_deleted_and_can_be_adopted() {
    let world = World::new().await;
    let gone = Uuid::from_u128(77);
    world.found(vec![thing("my_Container.1", None), thing("left-over", Some(gone))]).await;
    let list = world.get("deployments").await.expect(200).body["items"].clone();
    let by = |name: &str| list.as_array().unwrap().iter().find(|d| d["name"] == name).unwrap().clone();
    let (found, orphan) = (by("my_Container.1"), by("left-over"));
    assert_eq!((&found["origin"], &found["found"]["kind"]), (&json!("discovered"), &json!("container")));
    assert_eq!((found.get("phase"), found.get("spec")), (None, None), "{found}");
    assert_eq!(found["project_id"], json!(world.project.1));
    assert_eq!((&orphan["origin"], &orphan["found"]["owner"]), (&json!("orphaned"), &json!(gone)));
    let one = format!("deployments/{}", id(&found));
    assert_eq!(world.get(&one).await.expect(200).body, found);
    world.get("deployments/left-over").await.expect(404);
    // It is shown, and no more.
    let refused = [
        world.delete(&one).await,
        world.put(&one, json!({"spec": spec()})).await,
        world.call(&format!("{one}/cancel")).await,
        world.call(&format!("{one}/retry")).await,
        world.get(&format!("{one}/events")).await,
        world.get(&format!("{one}/explain")).await,
        world.get(&format!("{one}/logs")).await,
    ];
    for refused in refused {
        let reason = refused.expect(409).body["reasons"][0].clone();
        assert_eq!(reason["code"], "not_managed");
        assert!(reason["remedy"].as_str().unwrap().contains("adopt"), "{reason}");
    }
    // Where it is and nowhere else.
    world.post("providers", json!({"name": "there", "spec": {"platform": "local"}})).await.expect(201);
    let mut elsewhere = body("mine");
    elsewhere["spec"]["provider"] = json!("there");
    let adopt = format!("{one}/adopt");
    let wrong = world.post(&adopt, elsewhere).await.expect(422).body;
    assert_eq!(wrong["errors"][0]["field"], "spec.provider");
    let made = world.post(&adopt, body("mine")).await.expect(202).body;
    assert_eq!((&made["origin"], &made["name"]), (&json!("managed"), &json!("mine")));
    let twice = world.post(&adopt, body("mine-too")).await.expect(409).body;
    assert!(twice["reasons"][0]["evidence"].as_str().unwrap().contains("deployment/mine"), "{twice}");
    let own = world.post(&format!("deployments/{}/adopt", id(&made)), body("other")).await.expect(409).body;
    assert_eq!(own["reasons"][0]["code"], "managed");
    world.post(&format!("deployments/{}/adopt", Uuid::nil()), body("other")).await.expect(404);
    // Once its owner is written on it, it is in the list only once.
    world.found(vec![thing("my_Container.1", Some(id(&made))), thing("left-over", Some(gone))]).await;
    let names: Vec<_> = world.get("deployments").await.body["items"].as_array().unwrap().clone();
    let mut names: Vec<_> = names.iter().map(|d| d["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["left-over", "mine"]);
}

#[tokio::test]
async fn dp36_what_is_not_there_any_more_is_shown_as_stale_before_it_goes() {
    let world = World::new().await;
    world.found(vec![thing("stray", None)]).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let items = world.get("deployments").await.expect(200).body["items"].clone();
        seen.push((items[0]["found"]["misses"].as_i64().unwrap(), items[0]["found"]["stale"] == true));
        world.found(Vec::new()).await;
    }
    assert_eq!(seen, [(0, false), (1, false), (2, false), (3, true), (4, true)]);
    assert_eq!(world.get("deployments").await.expect(200).body["items"], json!([]));
}

#[tokio::test]
async fn dp42_pages_stand_still_while_statuses_churn() {
    let world = World::new().await;
    let mut all = Vec::new();
    for n in 0..7 {
        all.push(world.declare(&format!("d{n}")).await);
    }
    world.found(vec![thing("stray", None)]).await;
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = world.get(&format!("deployments?limit=3{cursor}")).await.expect(200).body;
        seen.extend(page["items"].as_array().unwrap().iter().map(id));
        pages += 1;
        for made in &all {
            let message = format!("page {pages}");
            world.judge(made, 1, DeploymentPhase::Deploying, &message).await;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    // Each of them once, in one order.
    let stray = world.get("deployments?limit=500").await.expect(200).body["items"].clone();
    let mut wanted: Vec<Uuid> = stray.as_array().unwrap().iter().map(id).collect();
    wanted.sort_unstable();
    assert_eq!((pages, seen.len(), seen), (3, 8, wanted));
}

#[tokio::test]
async fn dp44_a_judgement_of_an_older_generation_is_not_shown_as_one_of_this() {
    let world = World::new().await;
    let made = world.declare("web").await;
    world.judge(&made, 1, DeploymentPhase::Deployed, "it runs as it is wanted").await;
    let shown = world.get("deployments/web").await.expect(200).body;
    assert_eq!(
        (&shown["phase"], &shown["message"], &shown["observed_generation"]),
        (&json!("deployed"), &json!("it runs as it is wanted"), &json!(1))
    );
    assert_eq!(shown["endpoints"][0]["name"], "http");
    let mut other = spec();
    other["env"] = json!({"A": "b"});
    let changed = world.put("deployments/web", json!({"spec": other})).await.expect(202).body;
    assert_eq!(
        (&changed["phase"], &changed["generation"], &changed["observed_generation"]),
        (&json!("pending"), &json!(2), &json!(1))
    );
    assert_eq!(changed["message"], "the reconciler has not judged generation 2 yet");
    world.judge(&made, 2, DeploymentPhase::Failed, "no").await;
    assert_eq!(world.get("deployments/web").await.body["phase"], "failed");
}

#[tokio::test]
async fn dp45_dp47_deployments_are_watched_whole_and_by_those_who_may_read_them() {
    let world = World::new().await;
    let rival = world.door.project("rival").await;
    let kinds = "?kinds=deployment,provider,agent,server,secret";
    world.door.until("here", |rows| !rows.all(basalt_api::rows::Noun::Provider).is_empty()).await;
    let stranger = world.door.token("x", "viewer", in_project(rival)).await;
    let mut theirs = Watch::open(&world.door, &stranger, kinds).await;
    assert_eq!(theirs.revision().await.0, Vec::<Value>::new());
    let token = world.door.token("v", "viewer", in_project(world.project)).await;
    let mut watch = Watch::open(&world.door, &token, kinds).await;
    assert_eq!(brief(&watch.revision().await.0), ["snapshot provider here"]);
    let made = world.declare("web").await;
    let (events, _) = watch.revision().await;
    assert_eq!(brief(&events), ["upsert deployment web"]);
    assert_eq!(events[0]["object"], made);
    world.judge(&made, 1, DeploymentPhase::Deployed, "it runs as it is wanted").await;
    let (events, _) = watch.revision().await;
    assert_eq!(events[0]["object"], world.get("deployments/web").await.body);
    assert_eq!(events[0]["object"]["phase"], "deployed");
    // A look is news of its provider, once; what it found is listed and not watched.
    world.found(vec![thing("stray", None)]).await;
    let (events, _) = watch.revision().await;
    assert_eq!(brief(&events), ["upsert provider here"]);
    assert_eq!(events[0]["object"], world.get("providers/here").await.body);
    let agent = json!({"name": "planner", "spec": {"source": {"type": "image", "image": "planner"}}});
    let agent = world.post("agents", agent).await.expect(201).body;
    assert_eq!(watch.revision().await.0[0]["object"], agent);
    world.delete("agents/planner?orphan=true").await.expect(200);
    assert_eq!(brief(&watch.revision().await.0), ["delete agent -"]);
    let secret =
        world.post("secrets", json!({"name": "k", "spec": {"value": "hush"}})).await.expect(201).body;
    assert_eq!(watch.revision().await.0[0]["object"], secret);
    // The stranger's first news is of the stranger's own project.
    let own = json!({"name": "own", "spec": {"value": "v"}});
    let at = format!("/v1/projects/{}/secrets", rival.1);
    world.door.admin("POST", &at).json(own).send().await.expect(201);
    assert_eq!(brief(&theirs.revision().await.0), ["upsert secret own"]);
}

/// One watcher reads, one does not, one comes back late: the first is told of each change as it is made, the others begin
/// anew with all there is, and nobody is kept more than a bounded number of changes for.
#[tokio::test]
async fn dp45_dp46_who_does_not_read_of_deployments_or_comes_late_begins_anew_and_holds_up_nobody() {
    let world = World::new().await;
    let (web, idle) = (world.declare("web").await, world.declare("idle").await);
    world.door.until("both", |rows| rows.all(basalt_api::rows::Noun::Deployment).len() == 2).await;
    let kinds = "?kinds=deployment";
    let mut slow = Watch::open(&world.door, &world.door.admin, kinds).await;
    let (_, early) = slow.revision().await;
    let mut reads = Watch::open(&world.door, &world.door.admin, kinds).await;
    reads.revision().await;
    let mut resumed = None;
    for n in 0..basalt_api::hub::RECENT + 8 {
        world.judge(&web, 1, DeploymentPhase::Deploying, &format!("at {n}")).await;
        let told = tokio::time::timeout(Duration::from_secs(5), reads.revision()).await;
        let (events, cursor) = told.expect("nobody waits for who does not read");
        assert_eq!(brief(&events), ["upsert deployment web"]);
        assert_eq!(events[0]["object"]["message"], format!("at {n}"));
        resumed.get_or_insert(cursor);
    }
    let mut words = Vec::new();
    while words.last().is_none_or(|w| w != "resync") {
        let event = slow.next().await.expect("it goes on");
        words.push(event["event"].as_str().unwrap().to_owned());
    }
    assert!(words.len() <= 2 * basalt_api::hub::BUFFER + 1, "{}", words.len());
    // What was then is kept no longer.
    for cursor in [early, resumed.unwrap()] {
        let mut late = Watch::open(&world.door, &world.door.admin, &format!("{kinds}&cursor={cursor}")).await;
        let (events, cursor) = late.revision().await;
        assert_eq!(brief(&events), ["resync - -", "snapshot deployment idle", "snapshot deployment web"]);
        drop(late);
        // From here on nothing is missed by who goes away and comes back.
        world.judge(&idle, 1, DeploymentPhase::Deployed, "it runs").await;
        world.judge(&idle, 1, DeploymentPhase::Degraded, "it limps").await;
        let mut back = Watch::open(&world.door, &world.door.admin, &format!("{kinds}&cursor={cursor}")).await;
        loop {
            let (events, _) = back.revision().await;
            assert!(brief(&events).iter().all(|e| e == "upsert deployment idle"), "{events:?}");
            if events.last().is_some_and(|e| e["object"]["message"] == "it limps") {
                break;
            }
        }
    }
}

#[tokio::test]
async fn dp57_explain_names_what_caused_a_redeploy_with_both_generations() {
    let world = World::new().await;
    let made = world.declare("web").await;
    let fresh = world.get("deployments/web/explain").await.expect(200).body;
    assert_eq!((&fresh["phase"], &fresh["dependencies"]), (&json!("pending"), &json!([])));
    assert_eq!(fresh.get("last_attempt"), None);
    let agent = |image: &str| json!({"source": {"type": "image", "image": image}});
    let first = world.post("agents", json!({"name": "planner", "spec": agent("a")})).await.expect(201).body;
    world.post("secrets", json!({"name": "k", "spec": {"value": "v"}})).await.expect(201);
    let what = |what: &str, of: Uuid, generation| Dependency {
        what: what.into(),
        id: of,
        generation: Generation(generation),
        value: String::new(),
    };
    let changed = Cause::Changed {
        what: "agent/planner:latest".into(),
        old: Generation(1),
        new: Generation(2),
        replaced: false,
    };
    let dependencies = vec![
        what("agent/planner:latest", id(&first), 1),
        what("provider/here", world.provider_id().await.0, 1),
        what("secret/k", Uuid::from_u128(5), 4),
        what("server/gone:1.0", Uuid::from_u128(6), 1),
    ];
    world.applied(&made, dependencies, vec![changed]).await;
    world.put("agents/planner", json!({"spec": agent("b")})).await.expect(200);
    let said = world.get("deployments/web/explain").await.expect(200).body;
    assert_eq!(said["last_attempt"]["causes"], json!(["agent/planner:latest changed: generation 1 to 2"]));
    assert_eq!(said["last_attempt"]["outcome"], "success");
    assert_eq!(
        said["dependencies"],
        json!([
            {"what": "agent/planner:latest", "applied": 1, "present": 2, "replaced": false},
            {"what": "provider/here", "applied": 1, "present": 1, "replaced": false},
            {"what": "secret/k", "applied": 4, "present": 1, "replaced": true},
            {"what": "server/gone:1.0", "applied": 1, "replaced": false},
        ])
    );
    world.get("deployments/nowhere/explain").await.expect(404);
}

#[tokio::test]
async fn events_come_newest_first_in_pages_and_outlive_their_deployment() {
    let world = World::new().await;
    let made = world.declare("web").await;
    assert_eq!(world.get("deployments/web/events").await.expect(200).body["items"], json!([]));
    for _ in 0..5 {
        world.applied(&made, Vec::new(), vec![Cause::New]).await;
    }
    let (mut epochs, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("deployments/web/events?limit=2{cursor}")).await.expect(200).body;
        epochs.extend(page["items"].as_array().unwrap().iter().map(|e| e["epoch"].as_i64().unwrap()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(epochs, [5, 4, 3, 2, 1]);
    world.delete("deployments/web?orphan=true").await.expect(202);
    let mut tx = world.door.db.store.system().await.unwrap();
    deployments::finalize(&mut tx, DeploymentId(id(&made))).await.unwrap();
    tx.commit().await.unwrap();
    world.get("deployments/web/events").await.expect(404);
    let after = world.get(&format!("deployments/{}/events", id(&made))).await.expect(200).body;
    assert_eq!(after["items"].as_array().unwrap().len(), 5);
    world.get(&format!("deployments/{}/events", Uuid::nil())).await.expect(404);
    world.get("deployments/web/events?label_selector=a").await.expect(400);
}

#[tokio::test]
async fn a_provider_says_how_the_last_looks_at_it_went() {
    let world = World::new().await;
    assert_eq!(world.get("providers/here").await.expect(200).body.get("status"), None);
    world.found(Vec::new()).await;
    let shown = world.get("providers/here").await.expect(200).body;
    assert_eq!((&shown["status"]["reachable"], &shown["status"]["failures"]), (&json!(true), &json!(0)));
    assert_eq!(shown["status"]["health"]["version"], "podman 4.3.1");
    assert_eq!(world.get("providers").await.expect(200).body["items"], json!([shown]));
}

#[tokio::test]
async fn bad_deployments_are_refused_by_field() {
    let world = World::new().await;
    world.post("secrets", json!({"name": "k", "spec": {"value": "v"}})).await.expect(201);
    let cluster = json!({"platform": "kubernetes", "kubeconfig": {"secret": "k"}, "namespace": "agents"});
    world.post("providers", json!({"name": "cluster", "spec": cluster})).await.expect(201);
    let with = |field: &str, value: Value| {
        let mut all = spec();
        all[field] = value;
        all
    };
    let mut abroad = with("provider", json!("cluster"));
    abroad["kubernetes"] = json!({"namespace": "kube-system"});
    let cases = [
        (with("provider", json!("nowhere")), "spec.provider", "not_found"),
        (with("kubernetes", json!({"replicas": 2})), "spec.kubernetes", "wrong_platform"),
        (abroad, "spec.kubernetes.namespace", "namespace_not_allowed"),
        (with("target", json!({"kind": "vm", "name": "a"})), "spec.target.kind", "unknown_value"),
        (with("target", json!("agent/planner")), "spec.target", "wrong_type"),
        (with("env", json!({"1A": "x"})), "spec.env.1A", "malformed"),
        (with("resources", json!({"memory_bytes": 1})), "spec.resources.memory_bytes", "out_of_range"),
        (with("local", json!({"port": 0})), "spec.local.port", "out_of_range"),
        (with("desired_state", json!("gone")), "spec.desired_state", "unknown_value"),
        (with("phase", json!("deployed")), "spec.phase", "server_owned"),
        (json!({"provider": "here"}), "spec.target", "required"),
    ];
    for (spec, field, code) in cases {
        let refused = world.post("deployments", json!({"name": "bad", "spec": spec})).await;
        assert_eq!(refused.status, 422, "{spec}: {:#}", refused.body);
        let error = &refused.body["errors"][0];
        assert_eq!((&error["field"], &error["code"]), (&json!(field), &json!(code)), "{error}");
        assert!(error["remedy"].as_str().is_some_and(|r| !r.is_empty()), "{error}");
    }
    assert_eq!(world.get("deployments").await.expect(200).body["items"], json!([]));
    world.declare("web").await;
    // A change is looked at as closely, and the provider stays.
    let wrong =
        world.put("deployments/web", json!({"spec": with("kubernetes", json!({}))})).await.expect(422).body;
    assert_eq!(wrong["errors"][0]["code"], "wrong_platform");
    let moved =
        world.put("deployments/web", json!({"spec": with("provider", json!("cluster"))})).await.expect(422);
    assert_eq!((moved.code(), &moved.body["errors"][0]["field"]), ("immutable", &json!("spec.provider")));
    let waiting = format!("{}/deployments?depends_on={}", world.at, Uuid::nil());
    world.door.admin("POST", &waiting).json(body("after")).send().await.expect(400);
}
