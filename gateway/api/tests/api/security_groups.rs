//! N5 at the door: the object's shape, what is refused, and what `explain` says of a flow.

use crate::{
    agents::vm_on,
    door::{Door, small_vm},
    enrolment::enrol,
};
use basalt_model::GIB;
use basalt_store::testkit;
use serde_json::{Value, json};
use uuid::Uuid;

fn web() -> Value {
    json!({"name": "web", "labels": {"app": "web"}, "spec": {"rules": [
        {"direction": "ingress", "protocol": "tcp", "ports": {"from": 80, "to": 80}},
        {"direction": "ingress", "protocol": "tcp", "ports": {"from": 5432, "to": 5432},
            "remote": {"security_group": "web"}}]}})
}

#[tokio::test]
async fn n5_a_group_is_declared_changed_under_its_generation_and_deleted() {
    let door = Door::new().await;
    let base = format!("/v1/projects/{}", door.project("acme").await.1);
    let groups = format!("{base}/security-groups");
    let tried = door.admin("POST", &format!("{groups}?dry_run=true")).json(web()).send().await.expect(200);
    assert_eq!(tried.body["object"]["name"], "web");
    door.admin("GET", &format!("{groups}/web")).send().await.expect(404);
    let key = Uuid::from_u128(7).to_string();
    let post = || door.admin("POST", &groups).header("idempotency-key", &key).json(web()).send();
    let made = post().await.expect(202);
    assert_eq!(
        post().await.expect(202).body["object"]["id"],
        made.body["object"]["id"],
        "asked twice, made once"
    );
    assert_eq!(
        (&made.body["task"]["kind"], &made.body["task"]["state"]),
        (&json!("security_group_create"), &json!("completed"))
    );
    let one = format!("{groups}/web");
    let shown = door.admin("GET", &one).send().await.expect(200);
    assert_eq!((shown.header("etag"), &shown.body["phase"]), ("\"1\"", &json!("ready")));
    let mut spec = shown.body["spec"].clone();
    spec["rules"].as_array_mut().unwrap().truncate(1);
    let put = |tag: &'static str| {
        door.admin("PUT", &one).header("if-match", tag).json(json!({"spec": spec})).send()
    };
    put("\"9\"").await.expect(412);
    let changed = put("\"1\"").await.expect(200);
    assert_eq!(
        (&changed.body["generation"], changed.body["spec"]["rules"].as_array().unwrap().len()),
        (&json!(2), 1)
    );
    let listed = door.admin("GET", &format!("{groups}?label_selector=app%3Dweb")).send().await.expect(200);
    assert_eq!(listed.body["items"][0]["name"], "web");
    let mut vm = small_vm("a");
    vm["spec"]["security_groups"] = json!(["web"]);
    door.admin("POST", &format!("{base}/vms")).json(vm).send().await.expect(202);
    let refused = door.admin("DELETE", &one).send().await.expect(409);
    assert!(refused.body.to_string().contains("vm/a"), "{:#}", refused.body);
    let vm = door.admin("GET", &format!("{base}/vms/a")).send().await.expect(200);
    let mut spec = vm.body["spec"].clone();
    spec["security_groups"] = json!([]);
    door.admin("PUT", &format!("{base}/vms/a")).json(json!({"spec": spec})).send().await.expect(202);
    let gone = door.admin("DELETE", &one).send().await.expect(202);
    assert_eq!(
        (&gone.body["object"]["phase"], &gone.body["task"]["kind"]),
        (&json!("deleting"), &json!("security_group_delete"))
    );
    door.admin("GET", &one).send().await.expect(404);
    let id = made.body["object"]["id"].as_str().unwrap();
    let audit = door.admin("GET", &format!("/v1/audit?subject_id={id}")).send().await.expect(200);
    let actions: Vec<_> =
        audit.body["items"].as_array().unwrap().iter().map(|a| a["action"].as_str().unwrap()).collect();
    for action in ["security_group.create", "security_group.update", "security_group.delete"] {
        assert!(actions.contains(&action), "{actions:?}");
    }
}

#[tokio::test]
async fn n5_explain_names_the_rule_that_admits_a_flow_or_what_would() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    let facts = serde_json::to_value(testkit::facts(8, 16 * GIB, 100 * GIB)).unwrap();
    let body = json!({"agent_boot": Uuid::from_u128(9), "sequence": 1, "facts": facts});
    host.post(&door, "/agent/v1/report").json(body).send().await.expect(200);
    let project = door.project("acme").await.1.to_string();
    let base = format!("/v1/projects/{project}");
    door.admin("POST", &format!("{base}/security-groups")).json(web()).send().await.expect(202);
    let lan = json!({"name": "lan", "spec": {"cidr": "10.10.0.0/24", "security_groups": ["web"]}});
    door.admin("POST", &format!("{base}/networks")).json(lan).send().await.expect(202);
    let nic = vm_on(&door, &project, "one", host.id).await;
    let port = nic["port_id"].as_str().unwrap();
    let ask = |query: &str| door.admin("GET", &format!("{base}/ports/{port}/explain?{query}")).send();
    let yes = ask("direction=ingress&protocol=tcp&port=80&remote=10.0.0.9").await.expect(200);
    assert_eq!(
        (&yes.body["admitted"], &yes.body["security_group"], &yes.body["rule"]),
        (&json!(true), &json!("web"), &json!(0))
    );
    let no = ask("direction=ingress&protocol=tcp&port=81&remote=10.0.0.9").await.expect(200);
    assert_eq!((&no.body["admitted"], &no.body["security_groups"]), (&json!(false), &json!(["web"])));
    let remedy = no.body["reason"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("ports 81 to 81") && remedy.contains("10.0.0.9/32"), "{remedy}");
    let stranger = ask("direction=ingress&protocol=tcp&port=5432&remote=10.10.0.77").await.expect(200);
    assert_eq!(stranger.body["admitted"], false);
    let member =
        format!("direction=ingress&protocol=tcp&port=5432&remote={}", nic["address"].as_str().unwrap());
    assert_eq!(ask(&member).await.expect(200).body["rule"], 1, "it is in the group by its network");
    let out = ask("direction=egress&protocol=udp&port=53&remote=9.9.9.9").await.expect(200);
    assert_eq!((&out.body["admitted"], &out.body["rule"]), (&json!(true), &Value::Null));
    for (query, field) in [
        ("direction=ingress&protocol=tcp&remote=10.0.0.9", "port"),
        ("direction=ingress&protocol=icmp&port=8&remote=10.0.0.9", "port"),
        ("direction=ingress&protocol=icmpv6&remote=10.0.0.9", "remote"),
    ] {
        let refused = ask(query).await.expect(400);
        assert_eq!(refused.body["errors"][0]["field"], field, "{query}");
        assert!(refused.body["errors"][0]["remedy"].as_str().is_some_and(|r| !r.is_empty()));
    }
    // The agent hears who is in the group that the rules name, its own port too.
    let id =
        door.admin("GET", &format!("{base}/security-groups/web")).send().await.expect(200).body["id"].clone();
    let groups = json!([{"id": id, "members": [nic["address"]]}]);
    for _ in 0..100 {
        let directory = host.get(&door, "/agent/v1/directory").send().await.expect(200);
        if directory.body["groups"] == groups {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the directory names no members");
}
