//! Many documents in one call: a result for each, and what is wrong with one keeps none of the others from being done.

use crate::{
    deployments::World,
    door::{Answer, in_project},
};
use serde_json::{Value, json};

async fn apply(world: &World, token: &str, documents: &Value, dry_run: bool) -> Answer {
    let path = format!("/v1/apply?project={}", world.project.1);
    let body = json!({"documents": documents, "dry_run": dry_run});
    world.door.call("POST", &path).token(token).json(body).send().await
}

fn outcomes(answer: &Answer) -> Vec<String> {
    let word = |r: &Value, f: &str| r[f].as_str().unwrap_or("-").to_owned();
    let line = |r: &Value| format!("{} {} {}", word(r, "kind"), word(r, "name"), word(r, "outcome"));
    answer.body["results"].as_array().unwrap().iter().map(line).collect()
}

/// Each names what stands after it.
fn documents() -> Value {
    json!([
        {"kind": "deployment", "name": "web", "labels": {"tier": "front"},
         "spec": {"target": {"kind": "agent", "name": "planner"}, "provider": "cluster"}},
        {"kind": "agent", "name": "planner",
         "spec": {"source": {"type": "image", "image": "planner"}, "servers": [{"name": "weather", "tag": "1.4"}]}},
        {"kind": "server", "name": "weather", "tag": "1.4", "spec": {"source": {"type": "image", "image": "weather"}}},
        {"kind": "provider", "name": "cluster", "spec": {"platform": "kubernetes", "kubeconfig": {"secret": "k"}}},
        {"kind": "secret", "name": "k", "spec": {"value": "hush-hush"}},
    ])
}

fn all(outcome: &str) -> Vec<String> {
    ["deployment web", "agent planner:latest", "server weather:1.4", "provider cluster", "secret k"]
        .map(|what| format!("{what} {outcome}"))
        .into()
}

#[tokio::test]
async fn many_documents_are_applied_in_the_order_in_which_they_need_each_other() {
    let world = World::new().await;
    let admin = world.door.admin.clone();
    // Tried first: everything is found good, and nothing is there afterwards.
    let tried = apply(&world, &admin, &documents(), true).await.expect(200);
    assert_eq!(outcomes(&tried), all("created"));
    world.get("secrets/k").await.expect(404);
    let made = apply(&world, &admin, &documents(), false).await.expect(200);
    assert_eq!(outcomes(&made), all("created"));
    let shown = world.get("deployments/web").await.expect(200).body;
    assert_eq!((&shown["phase"], &shown["labels"]), (&json!("pending"), &json!({"tier": "front"})));
    let again = apply(&world, &admin, &documents(), false).await.expect(200);
    assert_eq!(outcomes(&again), all("unchanged"));
    assert_eq!(world.get("deployments/web").await.expect(200).body, shown);
    let mut other = documents();
    other[1]["spec"]["source"]["image"] = json!("planner:2");
    other[4]["spec"]["value"] = json!("hush-again");
    other[0].as_object_mut().unwrap().remove("labels");
    let changed = outcomes(&apply(&world, &admin, &other, false).await.expect(200));
    assert_eq!(
        (changed[1].as_str(), changed[4].as_str()),
        ("agent planner:latest changed", "secret k changed")
    );
    assert_eq!(
        (&changed[0], &changed[2]),
        (&all("unchanged")[0], &all("unchanged")[2]),
        "labels that are left out stay"
    );
}

#[tokio::test]
async fn one_document_that_is_wrong_keeps_none_of_the_others_from_being_done() {
    let world = World::new().await;
    let admin = world.door.admin.clone();
    world.declare("going").await;
    world.door.admin("DELETE", &format!("{}/deployments/going", world.at)).send().await.expect(202);
    let spec = json!({"target": {"kind": "agent", "name": "planner"}, "provider": "here"});
    let documents = json!([
        {"kind": "agent", "name": "a", "spec": {"source": {"type": "zip"}}},
        {"kind": "vm", "name": "b", "spec": {}},
        {"name": "c"},
        {"kind": "deployment", "name": "d", "spec": {"target": {"kind": "agent", "name": "x"}, "provider": "nowhere"}},
        {"kind": "deployment", "name": "going", "spec": spec},
        {"kind": "deployment", "name": "web", "spec": spec},
        {"kind": "secret", "name": "k", "spec": {"value": "hush-hush", "phase": "ready"}},
        {"kind": "agent", "name": "self", "spec": {"source": {"type": "image", "image": "a"}, "agents": [{"name": "self"}]}},
    ]);
    let answer = apply(&world, &admin, &documents, false).await.expect(200);
    let problem = |n: usize| {
        let problem = &answer.body["results"][n]["problem"];
        let field = problem["errors"][0]["field"].as_str().or(problem["reasons"][0]["subject"].as_str());
        format!("{} {} {}", problem["status"], problem["code"].as_str().unwrap_or("-"), field.unwrap_or("-"))
    };
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 6, 7].map(problem),
        [
            "422 invalid_body spec.source.type",
            "422 invalid_body kind",
            "422 invalid_body kind",
            "422 not_found spec.provider",
            "409 deleting deployment/going",
            "null - -",
            "422 invalid_body spec.phase",
            "422 invalid_body spec.agents",
        ]
    );
    assert_eq!(outcomes(&answer)[5], "deployment web created");
    assert!(!answer.body.to_string().contains("hush"), "{}", answer.body);
    world.get("deployments/web").await.expect(200);
}

#[tokio::test]
async fn who_may_apply_what_is_asked_for_each_document() {
    let world = World::new().await;
    let token = world.door.token("op", "operator", in_project(world.project)).await;
    let mut some = documents();
    some.as_array_mut().unwrap().rotate_right(1);
    let answer = apply(&world, &token, &some, false).await.expect(200);
    let provider = &answer.body["results"][4];
    assert_eq!(
        (&provider["outcome"], &provider["problem"]["code"]),
        (&json!("refused"), &json!("forbidden"))
    );
    assert_eq!(outcomes(&answer)[0], "secret k created");
    let viewer = world.door.token("v", "viewer", in_project(world.project)).await;
    apply(&world, &viewer, &json!([]), false).await.expect(403);
    let rival = world.door.project("rival").await;
    let stranger = world.door.token("x", "admin", in_project(rival)).await;
    apply(&world, &stranger, &json!([]), false).await.expect(404);
    let many: Vec<Value> = (0..501).map(|n| json!({"kind": "secret", "name": format!("s{n}")})).collect();
    let refused = apply(&world, &token, &json!(many), false).await.expect(422).body;
    assert_eq!(refused["errors"][0]["field"], "documents");
}
