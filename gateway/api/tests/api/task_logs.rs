//! Logs of tasks: written by the hosts that have what a task is about, read by long poll.

use crate::{
    door::{Door, small_vm},
    enrolment::{Host, enrol},
};
use basalt_model::{Epoch, Generation};
use basalt_store::{manifests, testkit};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

struct Site {
    door: Door,
    host: Host,
    vm: Uuid,
    logs: String,
}

/// A VM in the manifest of a host, and the address of its task's log.
async fn site() -> Site {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    let made = door.admin("POST", &vms).json(small_vm("a")).send().await.expect(202);
    let id = |value: &Value| value.as_str().unwrap().parse::<Uuid>().unwrap();
    let (vm, task) = (id(&made.body["object"]["id"]), id(&made.body["task"]["id"]));
    let item = manifests::Item {
        kind: "vm".into(),
        id: vm,
        generation: Generation(1),
        epoch: Epoch(1),
        present: true,
        body: json!({"as": "vm", "name": "a"}),
    };
    let mut tx = door.db.store.system().await.unwrap();
    let write = manifests::Write { host_id: host.id, upserts: vec![item], removes: vec![] };
    manifests::put(&mut tx, &[write], testkit::now()).await.unwrap();
    tx.commit().await.unwrap();
    Site { door, host, vm, logs: format!("/v1/tasks/{task}/logs") }
}

impl Site {
    fn line(&self, sequence: i64, text: &str) -> Value {
        let about = json!([{"kind": "vm", "id": self.vm, "generation": 1}]);
        json!({"sequence": sequence, "at": testkit::now(), "about": about, "text": text})
    }

    async fn write(&self, host: &Host, lines: &[Value]) -> crate::door::Answer {
        let body = json!({"agent_boot": Uuid::from_u128(5), "lines": lines});
        host.post(&self.door, "/agent/v1/log").json(body).send().await
    }

    async fn read(&self, query: &str) -> Vec<(i64, String)> {
        let answer = self.door.admin("GET", &format!("{}{query}", self.logs)).send().await.expect(200);
        let lines = answer.body.as_array().unwrap().iter();
        lines.map(|l| (l["seq"].as_i64().unwrap(), l["line"].as_str().unwrap().to_owned())).collect()
    }
}

#[tokio::test]
async fn t1_lines_of_the_host_that_has_the_vm_are_in_its_tasks_log_once() {
    let site = site().await;
    let lines = [site.line(1, "defined"), site.line(2, "started")];
    for _ in 0..3 {
        let taken = site.write(&site.host, &lines).await.expect(200);
        assert_eq!(taken.body, json!({"refused": 0}));
    }
    assert_eq!(site.read("").await, [(1, "h1: defined".into()), (2, "h1: started".into())]);
    assert_eq!(site.read("?after=1").await, [(2, "h1: started".into())]);
}

#[tokio::test]
async fn t1_lines_of_a_host_that_does_not_have_the_vm_are_passed_over() {
    let site = site().await;
    let stranger = enrol(&site.door, "h2").await;
    let taken = site.write(&stranger, &[site.line(1, "it is mine")]).await.expect(200);
    assert_eq!(taken.body, json!({"refused": 1}));
    assert!(site.read("").await.is_empty());
    let nobody = basalt_daemon::tls::Peer { uris: vec!["basalt:image-service".into()], serial: "1".into() };
    let call = site.door.agent_call("POST", "/agent/v1/log").peer(&nobody);
    call.json(json!({"agent_boot": Uuid::nil(), "lines": []})).send().await.expect(401);
}

#[tokio::test]
async fn t1_a_held_read_of_a_log_is_woken_by_a_line_and_by_the_end() {
    let site = site().await;
    let begun = Instant::now();
    assert!(site.read("?wait_seconds=1").await.is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(990));
    let soon = async || tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    let (read, ()) = tokio::join!(site.read("?wait_seconds=30"), async {
        soon().await;
        site.write(&site.host, &[site.line(1, "defined")]).await.expect(200);
    });
    assert_eq!(read, [(1, "h1: defined".into())]);
    // Sooner than the look for lines that came by another gateway.
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    let cancel = site.logs.replace("/logs", "/cancel");
    let begun = Instant::now();
    let (read, ()) = tokio::join!(site.read("?after=1&wait_seconds=30"), async {
        soon().await;
        site.door.admin("POST", &cancel).send().await.expect(200);
    });
    assert!(read.is_empty() && begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let over = site.door.admin("GET", &format!("{}?wait_seconds=56", site.logs)).send().await.expect(400);
    assert_eq!(over.body["errors"][0]["field"], "wait_seconds");
}

#[tokio::test]
async fn t1_a_line_that_came_by_another_gateway_is_seen_within_a_second() {
    let site = site().await;
    let (read, ()) = tokio::join!(site.read("?wait_seconds=30"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // As another gateway takes it: nothing here is told.
        let mut tx = site.door.db.store.system().await.unwrap();
        let about = vec![("vm".to_owned(), site.vm, Generation(1))];
        let (at, text) = (testkit::now(), "defined".into());
        let line = basalt_store::task_logs::Line { sequence: 1, at, about, text };
        let boot = Uuid::from_u128(5);
        basalt_store::task_logs::take(&mut tx, site.host.id, boot, &[line], at).await.unwrap();
        tx.commit().await.unwrap();
    });
    assert_eq!(read, [(1, "h1: defined".into())]);
}

#[tokio::test]
async fn t1_more_lines_than_are_taken_at_once_are_refused_by_name_and_too_many_asked_to_wait() {
    let site = site().await;
    let many: Vec<Value> = (1..=201).map(|n| site.line(n, "x")).collect();
    let refused = site.write(&site.host, &many).await.expect(422);
    assert_eq!(refused.body["errors"][0]["field"], "lines");
    let mut long = site.line(1, &"x".repeat(501));
    let refused = site.write(&site.host, std::slice::from_ref(&long)).await.expect(422);
    assert_eq!(refused.body["errors"][0]["field"], "lines[0].text");
    (long["text"], long["about"]) = (json!("x"), json!([]));
    let refused = site.write(&site.host, &[long]).await.expect(422);
    assert_eq!(refused.body["errors"][0]["field"], "lines[0].about");
    // A fifth of a thousand at a time, until it has written as many as it may at once.
    for _ in 0..5 {
        site.write(&site.host, &many[..200]).await.expect(200);
    }
    let busy = site.write(&site.host, &many[..200]).await.expect(429);
    assert_eq!((busy.code(), busy.header("retry-after")), ("too_many", "1"));
    site.door.clock.advance(chrono::TimeDelta::seconds(1));
    site.write(&site.host, &many[..200]).await.expect(200);
    assert_eq!(site.read("?limit=500").await.len(), 200, "they were the same each time");
}
