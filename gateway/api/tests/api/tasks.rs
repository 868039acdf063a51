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
