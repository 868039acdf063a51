//! Tasks: their fields, their end by cancel, and the poll that waits.

use crate::door::{Door, small_vm};
use basalt_model::{
    TaskId,
    tasks::{TaskMove, TaskState},
};
use serde_json::json;
use std::time::{Duration, Instant};

pub async fn advance(door: &Door, id: &str, state: TaskState, progress: i32) {
    let id: TaskId = id.parse().unwrap();
    let step = TaskMove { id, state, progress, stage: "testing".into(), error: None };
    let mut tx = door.db.store.system().await.unwrap();
    assert_eq!(
        basalt_store::tasks::advance(&mut tx, &[step], basalt_store::testkit::now()).await.unwrap(),
        [id]
    );
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn t1_a_task_has_subject_actor_deadline_and_ends_once() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let made = door
        .admin("POST", &format!("/v1/projects/{}/vms", project.1))
        .json(small_vm("a"))
        .send()
        .await
        .expect(202);
    let id = made.body["task"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/tasks/{id}");
    let task = door.admin("GET", &path).send().await.expect(200).body;
    assert_eq!((&task["subject"]["kind"], &task["subject"]["name"]), (&json!("vm"), &json!("a")));
    assert_eq!(
        (&task["actor"]["name"], &task["state"], &task["progress"]),
        (&json!("root"), &json!("pending"), &json!(0))
    );
    assert!(task["deadline"].as_str().unwrap() > task["created_at"].as_str().unwrap());
    advance(&door, &id, TaskState::Executing, 40).await;
    let task = door.admin("GET", &path).send().await.expect(200).body;
    assert_eq!(
        (&task["state"], &task["progress"], &task["stage"]),
        (&json!("executing"), &json!(40), &json!("testing"))
    );
    door.admin("GET", &format!("{path}/logs")).send().await.expect(200);
    let cancelled = door.admin("POST", &format!("{path}/cancel")).send().await.expect(200);
    assert_eq!(cancelled.body["state"], "cancelled");
    let twice = door.admin("POST", &format!("{path}/cancel")).send().await.expect(409);
    assert_eq!(twice.code(), "task_ended");
    let listed = door.admin("GET", "/v1/tasks?state=cancelled").send().await.expect(200);
    assert_eq!(listed.body["items"][0]["id"], json!(id));
}

#[tokio::test]
async fn t5_a_long_poll_answers_when_the_task_ends() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let made = door
        .admin("POST", &format!("/v1/projects/{}/vms", project.1))
        .json(small_vm("a"))
        .send()
        .await
        .expect(202);
    let id = made.body["task"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/tasks/{id}?wait_seconds=20");
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(door.admin("GET", &path).send(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        advance(&door, &id, TaskState::Executing, 10).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        advance(&door, &id, TaskState::Completed, 100).await;
    });
    assert_eq!(answer.expect(200).body["state"], "completed");
    assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < Duration::from_secs(10));
    door.admin("GET", &format!("/v1/tasks/{id}?wait_seconds=56")).send().await.expect(400);
}

#[tokio::test]
async fn t3_r48_a_task_is_retried_and_others_wait_for_it() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    let made = door.admin("POST", &vms).json(small_vm("a")).send().await.expect(202);
    let id = made.body["task"]["id"].as_str().unwrap().to_owned();
    // What waits is shown, and is nowhere yet.
    let later = format!("{vms}?depends_on={id}");
    let held = door.admin("POST", &later).json(small_vm("b")).send().await.expect(202);
    let task = &held.body["task"];
    assert_eq!((&task["generation"], &task["depends_on"]), (&json!(0), &json!([id])));
    assert!(task["stage"].as_str().unwrap().contains("waits for vm a"), "{task}");
    door.admin("GET", &format!("{vms}/b")).send().await.expect(404);
    let stop = format!("{vms}/a/stop?depends_on={id}");
    let stop = door.admin("POST", &stop).send().await.expect(202);
    assert_eq!(stop.body["object"]["spec"]["power"], "running");
    let stop = stop.body["task"]["id"].as_str().unwrap().to_owned();
    // A dry run says the same and leaves nothing.
    let dry =
        door.admin("POST", &format!("{later}&dry_run=true")).json(small_vm("c")).send().await.expect(200);
    assert!(dry.body.get("task").is_none_or(serde_json::Value::is_null));
    for (query, code) in [("x", "malformed"), ("00000000-0000-0000-0000-000000000001", "not_found")] {
        let wrong = door.admin("POST", &format!("{vms}/a/stop?depends_on={query}")).send().await.expect(400);
        let error = &wrong.body["errors"][0];
        assert_eq!((&error["field"], &error["code"]), (&json!("depends_on"), &json!(code)));
        assert!(!error["remedy"].as_str().unwrap().is_empty());
    }
    let nets = format!("/v1/projects/{}/networks?depends_on={id}", project.1);
    let net = json!({"name": "n", "spec": {"cidr": "10.1.0.0/24"}});
    let refused = door.admin("POST", &nets).json(net).send().await.expect(400);
    assert_eq!(refused.body["errors"][0]["code"], "not_supported");
    let circle = format!("/v1/tasks/{stop}/dependencies");
    let refused = door.admin("PUT", &circle).json(json!({"depends_on": [stop]})).send().await.expect(400);
    assert_eq!(refused.body["errors"][0]["code"], "dependency_cycle");
    door.admin("POST", &format!("/v1/tasks/{id}/retry")).send().await.expect(409);
    advance(&door, &id, TaskState::Failed, 0).await;
    let again = door.admin("POST", &format!("/v1/tasks/{id}/retry")).send().await.expect(202);
    assert_eq!((&again.body["attempt"], &again.body["retry_of"]), (&json!(2), &json!(id)));
    assert_eq!(again.header("location"), format!("/v1/tasks/{}", again.body["id"].as_str().unwrap()));
    let refused = door.admin("POST", &format!("/v1/tasks/{id}/retry")).send().await.expect(409);
    assert_eq!(refused.body["reasons"][0]["code"], "task_retried");
    let other = [again.body["id"].clone()];
    let waiting = door.admin("PUT", &circle).json(json!({"depends_on": other})).send().await.expect(200);
    assert_eq!(waiting.body["depends_on"], json!(other));
    // Who may only look may not retry.
    let viewer = door.token("looker", "viewer", crate::door::in_project(project)).await;
    door.call("POST", &format!("/v1/tasks/{id}/retry")).token(&viewer).send().await.expect(403);
}
