//! Agents, servers, providers and secrets over HTTP: registered, changed, refused by field, and never a secret's value.

use crate::door::Door;
use serde_json::{Value, json};

#[tokio::test]
async fn dp13_agents_and_servers_are_registered_by_name_and_tag_and_the_same_again_is_no_change() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    for (plural, kind) in [("agents", "agent"), ("servers", "server")] {
        let at = format!("/v1/projects/{}/{plural}", project.1);
        let spec = |image: &str| json!({"source": {"type": "image", "image": image}});
        let body = json!({"name": "helper", "tag": "1.4", "spec": spec("helper:1.4")});
        let made = door.admin("POST", &at).json(body.clone()).send().await.expect(201).body;
        assert_eq!((&made["reference"], &made["generation"]), (&json!("helper:1.4"), &json!(1)));
        assert_eq!(made["content_hash"].as_str().unwrap().len(), 64);
        let taken = door.admin("POST", &at).json(body).send().await.expect(409).body;
        assert_eq!(taken["code"], "name_taken");
        // A name alone is the tag `latest`, which is another one.
        door.admin("GET", &format!("{at}/helper")).send().await.expect(404);
        let named = format!("{at}/helper:1.4");
        let same = json!({"spec": spec("helper:1.4")});
        assert_eq!(door.admin("PUT", &named).json(same).send().await.expect(200).body, made);
        let other = json!({"spec": spec("helper:1.4.1")});
        let changed = door.admin("PUT", &named).json(other).send().await.expect(200).body;
        assert_eq!(changed["generation"], 2);
        assert_ne!(changed["content_hash"], made["content_hash"]);
        let list = door.admin("GET", &at).send().await.expect(200).body;
        assert_eq!(list["items"], json!([changed]));
        door.admin("DELETE", &named).send().await.expect(200);
        let gone = door.admin("GET", &named).send().await.expect(404).body;
        assert!(gone["detail"].as_str().unwrap().contains(kind), "{gone}");
    }
}

#[tokio::test]
async fn bad_agents_servers_and_providers_are_refused_by_field() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let source = json!({"type": "image", "image": "a"});
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "agents",
            json!({"name": "a", "spec": {"source": {"type": "image", "image": "A B"}}}),
            "spec.source.image",
        ),
        ("agents", json!({"name": "a", "spec": {"source": {"type": "zip"}}}), "spec.source.type"),
        ("agents", json!({"name": "a", "tag": "-", "spec": {"source": source}}), "tag"),
        (
            "agents",
            json!({"name": "a", "spec": {"source": source, "agents": [{"name": "a"}]}}),
            "spec.agents",
        ),
        (
            "servers",
            json!({"name": "a", "spec": {"source": source, "transport": {"type": "streamable_http", "port": 0}}}),
            "spec.transport.port",
        ),
        (
            "servers",
            json!({"name": "a", "spec": {"source": {"type": "npm", "package": "x", "version": "^1"}}}),
            "spec.source.version",
        ),
        ("providers", json!({"name": "a", "spec": {"platform": "nomad"}}), "spec.platform"),
        (
            "providers",
            json!({"name": "a", "spec": {"platform": "local", "namespace": "x"}}),
            "spec.namespace",
        ),
        ("providers", json!({"name": "a", "spec": {"platform": "local", "engine": "other"}}), "spec.engine"),
        (
            "providers",
            json!({"name": "a", "spec": {"platform": "basalt", "access": {"secret": "nope"}, "project": "p", "image": "i", "network": "n"}}),
            "spec.access.secret",
        ),
        (
            "providers",
            json!({"name": "a", "spec": {"platform": "basalt", "access": {"secret": "nope"}, "project": "p", "image": "i", "network": "n", "cpus": 0}}),
            "spec.cpus",
        ),
        (
            "providers",
            json!({"name": "a", "spec": {"platform": "kubernetes", "kubeconfig": {"secret": "nope"}}}),
            "spec.kubeconfig.secret",
        ),
        ("secrets", json!({"name": "a", "spec": {"value": ""}}), "spec.value"),
    ];
    for (plural, body, field) in cases {
        let at = format!("/v1/projects/{}/{plural}", project.1);
        let refused = door.admin("POST", &at).json(body.clone()).send().await;
        assert_eq!(refused.status, 422, "{body}: {:#}", refused.body);
        let error = &refused.body["errors"][0];
        assert_eq!(error["field"], field, "{body}: {error}");
        assert!(
            error["reason"].as_str().is_some_and(|r| !r.is_empty())
                && error["remedy"].as_str().is_some_and(|r| !r.is_empty()),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_secret_goes_in_and_never_comes_out() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let at = format!("/v1/projects/{}/secrets", project.1);
    let body = |value: &str| json!({"name": "token", "spec": {"value": value}});
    let mut said = vec![door.admin("POST", &at).json(body("hush-hush")).send().await.expect(201).body];
    said.push(door.admin("GET", &at).send().await.expect(200).body);
    said.push(door.admin("GET", &format!("{at}/token")).send().await.expect(200).body);
    let changed = json!({"spec": {"value": "hush-again"}});
    said.push(door.admin("PUT", &format!("{at}/token")).json(changed.clone()).send().await.expect(200).body);
    assert_eq!(said[3]["generation"], 2);
    said.push(door.admin("PUT", &format!("{at}/token")).json(changed).send().await.expect(200).body);
    assert_eq!(said[4]["generation"], 2, "the same value is no change");
    // Asked again under one key, the same body is the same answer, and another one is refused without being shown.
    let keyed = |value: &str| {
        door.admin("POST", &at)
            .header("idempotency-key", "k1")
            .json(json!({"name": "second", "spec": {"value": value}}))
    };
    said.push(keyed("hush-one").send().await.expect(201).body);
    said.push(keyed("hush-one").send().await.expect(201).body);
    said.push(keyed("hush-two").send().await.body);
    said.push(
        door.admin("POST", &at)
            .json(json!({"name": "third", "spec": {"value": 7, "hush": 1}}))
            .send()
            .await
            .body,
    );
    said.push(door.admin("GET", "/v1/audit").send().await.expect(200).body);
    said.push(door.admin("DELETE", &format!("{at}/token")).send().await.expect(200).body);
    for answer in &said {
        assert!(!answer.to_string().contains("hush-"), "{answer}");
    }
    door.admin("GET", &format!("{at}/token")).send().await.expect(404);
}
