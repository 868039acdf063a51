//! Intent: durable when accepted, conditional, repeatable, tried without effect, paged.

use crate::door::{Door, small_vm};
use serde_json::json;

#[tokio::test]
async fn v1_a_vm_is_declared_and_shown_with_its_task() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    door.image(project, "debian").await;
    let base = format!("/v1/projects/{}", project.1);
    door.admin("POST", &format!("{base}/networks"))
        .json(json!({"name": "lan", "spec": {"cidr": "10.1.0.0/24"}}))
        .send()
        .await
        .expect(202);
    let body = json!({"name": "web", "labels": {"app": "web"}, "spec": {"cpus": 2, "memory_bytes": 536870912,
        "disks": [{"name": "root", "source": {"kind": "image", "image": "debian"}}], "nics": [{"network": "lan"}]}});
    let made = door.admin("POST", &format!("{base}/vms")).json(body).send().await.expect(202);
    let (vm, task) = (&made.body["object"], &made.body["task"]);
    assert_eq!(made.header("location"), format!("/v1/tasks/{}", task["id"].as_str().unwrap()));
    assert_eq!(
        (vm["phase"].as_str(), vm["generation"].as_i64(), vm["observed_generation"].as_i64()),
        (Some("pending"), Some(1), Some(0))
    );
    assert_eq!((task["kind"].as_str(), task["state"].as_str()), (Some("vm_create"), Some("pending")));
    assert!(vm["nics"][0]["address"].as_str().unwrap().starts_with("10.1.0."));
    let shown = door.admin("GET", &format!("{base}/vms/web")).send().await.expect(200);
    assert_eq!(shown.header("etag"), "\"1\"");
    assert_eq!((&shown.body["id"], &shown.body["spec"]["cpus"]), (&vm["id"], &json!(2)));
    let ports = door.admin("GET", &format!("{base}/ports")).send().await.expect(200);
    let port = ports.body["items"][0]["port_id"].as_str().unwrap().to_owned();
    door.admin("GET", &format!("{base}/ports/{port}")).send().await.expect(200);
    let audit = door
        .admin("GET", &format!("/v1/audit?subject_id={}", vm["id"].as_str().unwrap()))
        .send()
        .await
        .expect(200);
    assert_eq!(audit.body["items"][0]["action"], "vm.create");
    assert_eq!(audit.body["items"][0]["request_id"], made.header("x-request-id"));
}

#[tokio::test]
async fn v2_verbs_change_what_is_wanted() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    door.admin("POST", &vms).json(small_vm("a")).send().await.expect(202);
    for (verb, power, generation) in
        [("stop", "stopped", 2), ("start", "running", 3), ("pause", "paused", 4), ("resume", "running", 5)]
    {
        let answer = door.admin("POST", &format!("{vms}/a/{verb}")).send().await.expect(202);
        assert_eq!(
            (&answer.body["object"]["spec"]["power"], &answer.body["object"]["generation"]),
            (&json!(power), &json!(generation)),
            "{verb}"
        );
        assert_eq!(answer.body["task"]["kind"], format!("vm_{verb}"));
    }
    for verb in ["reboot", "reset"] {
        door.admin("POST", &format!("{vms}/a/{verb}")).send().await.expect(202);
    }
    let answer = door.admin("POST", &format!("{vms}/a/redeploy")).send().await.expect(202);
    assert_eq!(answer.body["object"]["incarnation"], 1);
    let mut spec = answer.body["object"]["spec"].clone();
    spec["protected"] = json!(true);
    door.admin("PUT", &format!("{vms}/a")).json(json!({"spec": spec})).send().await.expect(202);
    let refused = door.admin("DELETE", &format!("{vms}/a")).send().await.expect(409);
    assert_eq!(
        (refused.code(), refused.body["reasons"][0]["subject"].as_str()),
        ("protected", Some("spec.protected"))
    );
    spec["protected"] = json!(false);
    door.admin("PUT", &format!("{vms}/a")).json(json!({"spec": spec})).send().await.expect(202);
    let gone = door.admin("DELETE", &format!("{vms}/a")).send().await.expect(202);
    assert_eq!(
        (&gone.body["object"]["phase"], &gone.body["task"]["kind"]),
        (&json!("deleting"), &json!("vm_delete"))
    );
}

#[tokio::test]
async fn an_idempotency_key_makes_one_vm_and_gives_its_first_answer_again() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    let send = |body| door.admin("POST", &vms).header("idempotency-key", "k-1").json(body).send();
    let first = send(small_vm("a")).await.expect(202);
    let second = send(small_vm("a")).await.expect(202);
    assert_eq!((&first.body, first.header("location")), (&second.body, second.header("location")));
    let other = send(small_vm("b")).await.expect(422);
    assert_eq!(
        (other.code(), &other.body["errors"][0]["field"]),
        ("idempotency_key_reused", &json!("Idempotency-Key"))
    );
    assert!(!other.body["errors"][0]["remedy"].as_str().unwrap().is_empty());
    let list = door.admin("GET", &vms).send().await.expect(200);
    assert_eq!(list.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_stale_if_match_changes_nothing() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    let made = door.admin("POST", &vms).json(small_vm("a")).send().await.expect(202);
    let mut spec = made.body["object"]["spec"].clone();
    spec["cpus"] = json!(2);
    let change = |etag: &'static str| {
        door.admin("PUT", &format!("{vms}/a")).header("if-match", etag).json(json!({"spec": spec})).send()
    };
    let changed = change("\"1\"").await.expect(202);
    assert_eq!(changed.body["object"]["generation"], 2);
    let stale = change("\"1\"").await.expect(412);
    assert_eq!(
        (stale.code(), &stale.body["errors"][0]["field"]),
        ("generation_mismatch", &json!("If-Match"))
    );
    change("rubbish").await.expect(400);
    let stop = door.admin("POST", &format!("{vms}/a/stop")).header("if-match", "\"1\"").send().await;
    assert_eq!(stop.status, 412);
    let shown = door.admin("GET", &format!("{vms}/a")).send().await.expect(200);
    assert_eq!((&shown.body["generation"], &shown.body["spec"]["power"]), (&json!(2), &json!("running")));
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_leaves_nothing() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    let tried =
        door.admin("POST", &format!("{vms}?dry_run=true")).json(small_vm("a")).send().await.expect(200);
    assert_eq!((&tried.body["object"]["name"], tried.body.get("task")), (&json!("a"), None));
    assert_eq!(tried.header("location"), "");
    door.admin("GET", &format!("{vms}/a")).send().await.expect(404);
    let quota = door.admin("GET", &format!("/v1/projects/{}", project.1)).send().await.expect(200);
    assert_eq!(quota.body["quota"]["used"]["vms"], 0);
    let mut bad = small_vm("a");
    bad["spec"]["nics"] = json!([{"network": "nowhere"}]);
    door.admin("POST", &format!("{vms}?dry_run=true")).json(bad).send().await.expect(422);
}

#[tokio::test]
async fn lists_are_paged_and_selected() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    for i in 0..5 {
        let mut body = small_vm(&format!("v{i}"));
        body["labels"] = json!({"odd": (i % 2 == 1).to_string()});
        door.admin("POST", &vms).json(body).send().await.expect(202);
        door.clock.advance(chrono::TimeDelta::milliseconds(2));
    }
    let (mut cursor, mut names) = (String::new(), Vec::new());
    loop {
        let page = door.admin("GET", &format!("{vms}?limit=2{cursor}")).send().await.expect(200);
        names.extend(
            page.body["items"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_owned()),
        );
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["v0", "v1", "v2", "v3", "v4"]);
    let odd = door.admin("GET", &format!("{vms}?label_selector=odd%3Dtrue")).send().await.expect(200);
    assert_eq!(odd.body["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        door.admin("GET", &format!("{vms}?limit=501")).send().await.expect(400).body["errors"][0]["field"],
        "limit"
    );
    assert_eq!(
        door.admin("GET", &format!("{vms}?cursor=x")).send().await.expect(400).body["errors"][0]["field"],
        "cursor"
    );
}

#[tokio::test]
async fn an_upload_is_granted_once_the_image_is_declared() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let images = format!("/v1/projects/{}/images", project.1);
    let body = json!({"name": "debian", "spec": {"format": "qcow2", "size_bytes": 1000}});
    door.admin("POST", &images).json(body).send().await.expect(202);
    let grant = door.admin("POST", &format!("{images}/debian/upload")).send().await.expect(201);
    assert_eq!(grant.body["url"], "https://images.example:9445/files");
    let ring = basalt_wire::upload_token::Keyring::new([(1, vec![7; 32])]).unwrap();
    let claims = basalt_wire::upload_token::verify(
        &ring,
        grant.body["token"].as_str().unwrap(),
        basalt_store::testkit::now(),
    )
    .unwrap();
    assert_eq!((claims.size_bytes, claims.project_id), (1000, project.1));
}

#[tokio::test]
async fn placement_is_explained_for_a_vm_that_does_not_exist() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    door.host("h1").await;
    door.until("h1 and its pool", |rows| rows.all(basalt_api::rows::Noun::Pool).len() == 1).await;
    let explain = format!("/v1/projects/{}/placement/explain", project.1);
    let fits = door.admin("POST", &explain).json(small_vm("a")).send().await.expect(200);
    assert_eq!(
        (&fits.body["host"], &fits.body["candidates"][0]["pools"]),
        (&json!("h1"), &json!(["default"]))
    );
    let mut huge = small_vm("a");
    huge["spec"]["memory_bytes"] = json!(1u64 << 40);
    let no = door.admin("POST", &explain).json(huge).send().await.expect(200);
    assert!(no.body.get("host").is_none());
    let rejection = &no.body["candidates"][0]["rejections"][0];
    assert!(
        !rejection["message"].as_str().unwrap().is_empty()
            && !rejection["remedy"].as_str().unwrap().is_empty()
    );
    door.admin("GET", &format!("/v1/projects/{}/vms/a", project.1)).send().await.expect(404);
}

#[tokio::test]
async fn a_list_shows_the_same_as_the_objects_whether_they_were_read_before_or_not() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    for name in ["a", "b"] {
        door.admin("POST", &vms).json(small_vm(name)).send().await.expect(202);
    }
    for _ in 0..3 {
        let list = door.admin("GET", &vms).send().await.expect(200);
        let mut one_by_one = Vec::new();
        for item in list.body["items"].as_array().unwrap() {
            let path = format!("{vms}/{}", item["id"].as_str().unwrap());
            one_by_one.push(door.admin("GET", &path).send().await.expect(200).body);
        }
        assert_eq!(list.body["items"], json!(one_by_one));
        assert_eq!(list.header("content-type"), "application/json");
        door.until("both", |rows| rows.all(basalt_api::rows::Noun::Vm).len() == 2).await;
    }
    // What was changed a moment ago is shown as it is now, even before the feed tells.
    door.admin("POST", &format!("{vms}/a/stop")).send().await.expect(202);
    let list = door.admin("GET", &vms).send().await.expect(200);
    let stopped = list.body["items"].as_array().unwrap().iter().find(|v| v["name"] == "a").unwrap();
    assert_eq!((&stopped["spec"]["power"], &stopped["generation"]), (&json!("stopped"), &json!(2)));
    let page = door.admin("GET", &format!("{vms}?limit=1")).send().await.expect(200);
    assert_eq!(page.body["items"].as_array().unwrap().len(), 1);
    door.admin("GET", &format!("{vms}?cursor={}", page.body["next_cursor"].as_str().unwrap()))
        .send()
        .await
        .expect(200);
}
