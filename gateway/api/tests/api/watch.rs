//! The watch: a snapshot, then every change once, only what the caller may see, and an end when the
//! caller may no more.

use crate::{
    door::{Door, in_project, small_vm},
    tasks::advance,
};
use axum::body::BodyDataStream;
use basalt_model::{HostId, tasks::TaskState};
use basalt_store::{
    feed::{Batch, Change, Row, Table},
    manifests,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// An open watch, read event by event.
pub struct Watch {
    body: BodyDataStream,
    text: String,
}

impl Watch {
    pub async fn open(door: &Door, token: &str, query: &str) -> Self {
        let response = door.call("GET", &format!("/v1/watch{query}")).token(token).open().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event; `None` when the stream ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data: Vec<&str> = event.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
                let parsed = (!data.is_empty()).then(|| serde_json::from_str(&data.join("\n")).unwrap());
                self.text = rest.to_owned();
                if parsed.is_some() {
                    return parsed;
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.body.next())
                .await
                .expect("an event within 20 s")?;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }

    /// Events up to the next bookmark, without it; and the bookmark's cursor.
    pub async fn revision(&mut self) -> (Vec<Value>, String) {
        let mut events = Vec::new();
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event["event"] == "bookmark" {
                return (events, event["cursor"].as_str().unwrap().to_owned());
            }
            events.push(event);
        }
    }
}

pub fn brief(events: &[Value]) -> Vec<String> {
    let word = |e: &Value, f: &str| e[f].as_str().unwrap_or("-").to_owned();
    events
        .iter()
        .map(|e| {
            format!(
                "{} {} {}",
                word(e, "event"),
                word(e, "kind"),
                e["object"]["name"].as_str().unwrap_or("-")
            )
        })
        .collect()
}

#[tokio::test]
async fn t5_tasks_are_live_over_watch() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    let mut watch = Watch::open(&door, &door.admin, "?kinds=task,vm").await;
    assert_eq!(watch.revision().await.0, Vec::<Value>::new());
    let made = door.admin("POST", &vms).json(small_vm("a")).send().await.expect(202);
    let (events, _) = watch.revision().await;
    assert_eq!(brief(&events), ["upsert vm a", "upsert task -"]);
    assert_eq!(events[0]["object"], door.admin("GET", &format!("{vms}/a")).send().await.body);
    let id = made.body["task"]["id"].as_str().unwrap();
    for (state, progress) in
        [(TaskState::Executing, 10), (TaskState::Executing, 60), (TaskState::Completed, 100)]
    {
        advance(&door, id, state, progress).await;
        let (events, _) = watch.revision().await;
        let task = &events[0]["object"];
        assert_eq!(
            (events.len(), &task["id"], &task["state"], &task["progress"]),
            (1, &json!(id), &json!(state.as_str()), &json!(progress))
        );
    }
}

#[tokio::test]
async fn a_watch_begins_with_a_snapshot_and_is_resumed_without_a_gap() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let vms = format!("/v1/projects/{}/vms", project.1);
    door.admin("POST", &vms).json(small_vm("a")).send().await.expect(202);
    door.until("a", |rows| rows.all(basalt_api::rows::Noun::Vm).len() == 1).await;
    let mut watch = Watch::open(&door, &door.admin, "?kinds=vm").await;
    let (events, cursor) = watch.revision().await;
    assert_eq!(brief(&events), ["snapshot vm a"]);
    drop(watch);
    door.admin("POST", &vms).json(small_vm("b")).send().await.expect(202);
    door.admin("POST", &format!("{vms}/a/stop")).send().await.expect(202);
    door.until("b", |rows| rows.all(basalt_api::rows::Noun::Vm).len() == 2).await;
    let mut watch = Watch::open(&door, &door.admin, &format!("?kinds=vm&cursor={cursor}")).await;
    let mut seen = std::collections::BTreeMap::new();
    while seen.get("a") != Some(&json!("stopped")) || !seen.contains_key("b") {
        for event in watch.revision().await.0 {
            assert_eq!(event["event"], "upsert");
            seen.insert(
                event["object"]["name"].as_str().unwrap().to_owned(),
                event["object"]["spec"]["power"].clone(),
            );
        }
    }
    let mut lost = Watch::open(&door, &door.admin, "?kinds=vm&cursor=nonsense").await;
    let (events, _) = lost.revision().await;
    assert_eq!(brief(&events), ["resync - -", "snapshot vm a", "snapshot vm b"]);
}

#[tokio::test]
async fn a_watcher_sees_only_what_it_may_read() {
    let door = Door::new().await;
    let (mine, other) = (door.project("acme").await, door.project("rival").await);
    let token = door.token("v", "viewer", in_project(mine)).await;
    let mut watch = Watch::open(&door, &token, "").await;
    let mut seen = brief(&watch.revision().await.0);
    if seen.is_empty() {
        // The door answers before the feed has come round: then the project is the first news.
        seen = brief(&watch.revision().await.0);
    }
    assert!(seen == ["snapshot project main"] || seen == ["upsert project main"], "{seen:?}");
    door.host("h1").await;
    door.admin("POST", &format!("/v1/projects/{}/vms", other.1))
        .json(small_vm("theirs"))
        .send()
        .await
        .expect(202);
    door.admin("POST", &format!("/v1/projects/{}/vms", mine.1))
        .json(small_vm("mine"))
        .send()
        .await
        .expect(202);
    let mut all = Vec::new();
    while !all.iter().any(|e: &String| e == "upsert vm mine") {
        all.extend(brief(&watch.revision().await.0));
    }
    assert!(!all.iter().any(|e| e.contains("theirs") || e.contains("host") || e.contains("pool")), "{all:?}");
}

#[tokio::test]
async fn s6_a_watch_ends_when_the_role_is_taken_back_or_the_token_revoked() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    for how in ["token", "role"] {
        let body =
            json!({"name": format!("w-{how}"), "grants": [{"role": "viewer", "scope": in_project(project)}]});
        let made = door.admin("POST", "/v1/service-tokens").json(body).send().await.expect(201);
        let id = made.body["id"].as_str().unwrap();
        let mut watch = Watch::open(&door, made.body["token"].as_str().unwrap(), "").await;
        watch.revision().await;
        let path = match how {
            "token" => format!("/v1/service-tokens/{id}"),
            _ => {
                let list = door
                    .admin("GET", &format!("/v1/role-bindings?principal_id={id}"))
                    .send()
                    .await
                    .expect(200);
                format!("/v1/role-bindings/{}", list.body["items"][0]["id"].as_str().unwrap())
            }
        };
        door.admin("DELETE", &path).send().await.expect(204);
        let begun = Instant::now();
        while watch.next().await.is_some() {}
        assert!(begun.elapsed() < Duration::from_secs(5), "{how}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn dp46_a_watcher_that_does_not_read_is_told_to_begin_again_and_holds_up_nobody() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let mut watch = Watch::open(&door, &door.admin, "?kinds=tenant").await;
    watch.revision().await;
    let mut other = Watch::open(&door, &door.admin, "?kinds=tenant").await;
    other.revision().await;
    for i in 0..(basalt_api::hub::BUFFER + 8) {
        // Every one of these is a revision of its own, and nobody reads.
        let change = Change {
            table: Table::Tenant,
            key: project.0.to_string(),
            tenant_id: Some(project.0),
            project_id: None,
            row: None,
        };
        let cursor = format!("test:1:{}:", i + 1000).parse().unwrap();
        door.app.hub().apply(&Batch { cursor, reload: false, changes: vec![change] });
        // Who reads is told of each at once.
        let told = tokio::time::timeout(Duration::from_secs(5), other.revision()).await;
        assert!(!told.expect("nobody waits for who does not read").0.is_empty());
    }
    let mut words = Vec::new();
    while words.last().is_none_or(|w| w != "resync") {
        let event = watch.next().await.expect("it goes on");
        words.push(event["event"].as_str().unwrap().to_owned());
    }
    assert!(words.len() <= 2 * basalt_api::hub::BUFFER + 1, "{}", words.len());
}

#[tokio::test]
async fn a_manifest_told_of_early_is_not_taken_back_by_the_feed_and_is_by_another_history() {
    let door = Door::new().await;
    let hub = door.app.hub();
    let host = HostId(Uuid::from_u128(7));
    let poll = hub.revision(host);
    let batch = |revision, reload| {
        let row = Row::Manifest(std::sync::Arc::new(manifests::Revision { host_id: host, revision }));
        let change = Change {
            table: Table::Manifest,
            key: host.to_string(),
            tenant_id: None,
            project_id: None,
            row: Some(row),
        };
        Batch { cursor: "test:1:2000:".parse().unwrap(), reload, changes: vec![change] }
    };
    hub.apply(&batch(3, false));
    hub.manifest_written(host, 5);
    assert_eq!(*poll.borrow(), 5, "before the feed says it");
    hub.apply(&batch(4, false));
    assert_eq!(*poll.borrow(), 5, "a pull from before it was written");
    hub.manifest_written(host, 4);
    assert_eq!(*poll.borrow(), 5);
    hub.apply(&batch(2, true));
    assert_eq!(*poll.borrow(), 2, "a restored database");
}
