//! N6: routers by HTTP, in the shape of all nouns.

use crate::door::{Door, small_vm};
use serde_json::{Value, json};

#[tokio::test]
async fn n6_a_router_is_declared_changed_watched_and_deleted_like_everything_else() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    door.image(project, "debian").await;
    let base = format!("/v1/projects/{}", project.1);
    let post = |noun: &str, body: Value| door.admin("POST", &format!("{base}/{noun}")).json(body).send();
    for (name, cidr) in [("lan", "10.1.0.0/24"), ("wide", "10.2.0.0/24")] {
        post("networks", json!({"name": name, "spec": {"cidr": cidr}})).await.expect(202);
    }
    let mut vm = small_vm("web");
    vm["spec"]["nics"] = json!([{"network": "lan"}]);
    post("vms", vm).await.expect(202);
    let spec = json!({"networks": ["lan"], "uplink": {"network": "wide"}});
    let body = json!({"name": "edge", "labels": {"app": "web"}, "spec": spec});
    let routers = format!("{base}/routers");
    let dry =
        door.admin("POST", &format!("{routers}?dry_run=true")).json(body.clone()).send().await.expect(200);
    assert_eq!(dry.body["object"]["wiring"]["uplink"]["address"], "10.2.0.2");
    let made = post("routers", body.clone()).await.expect(202);
    assert_eq!(
        (&made.body["task"]["kind"], &made.body["task"]["state"]),
        (&json!("router_create"), &json!("completed"))
    );
    post("routers", body).await.expect(409);
    let one = format!("{routers}/edge");
    let shown = door.admin("GET", &one).send().await.expect(200);
    assert_eq!((shown.header("etag"), &shown.body["phase"]), ("\"1\"", &json!("pending")));
    let listed = door.admin("GET", &routers).send().await.expect(200);
    assert_eq!(listed.body["items"][0]["name"], "edge");

    let mut spec = spec;
    spec["floating_ips"] = json!([{"vm": "web"}]);
    let put = |generation: &str| {
        door.admin("PUT", &one).header("if-match", generation).json(json!({"spec": spec})).send()
    };
    put("\"7\"").await.expect(412);
    let changed = put("\"1\"").await.expect(200);
    assert_eq!(changed.body["wiring"]["floating_ips"][0]["address"], "10.2.0.3");
    let network = door.admin("GET", &format!("{base}/networks/wide")).send().await.expect(200);
    assert_eq!(network.body["addresses_used"], 2);

    let in_use = door.admin("DELETE", &format!("{base}/vms/web")).send().await.expect(409);
    assert!(in_use.body.to_string().contains("router/edge"), "{}", in_use.body);
    let in_use = door.admin("DELETE", &format!("{base}/networks/lan")).send().await.expect(409);
    assert!(in_use.body.to_string().contains("router/edge"), "{}", in_use.body);
    let gone = door.admin("DELETE", &one).send().await.expect(202);
    assert_eq!(
        (&gone.body["task"]["kind"], &gone.body["object"]["phase"]),
        (&json!("router_delete"), &json!("deleting"))
    );
    let audit = format!("/v1/audit?subject_id={}", gone.body["object"]["id"].as_str().unwrap());
    let audit = door.admin("GET", &audit).send().await.expect(200);
    let actions: Vec<&str> =
        audit.body["items"].as_array().unwrap().iter().map(|a| a["action"].as_str().unwrap()).collect();
    for action in ["router.create", "router.update", "router.delete"] {
        assert!(actions.contains(&action), "{actions:?}");
    }
}
