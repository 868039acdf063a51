//! Logs of deployments: streamed from whoever reads them, bounded, and ended with the right to read them.

use crate::{
    deployments::World,
    door::{Door, in_project},
};
use basalt_api::{Logs, LogsAsked};
use basalt_model::{CapabilityReason, deployments::LogLine};
use futures::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

fn line(n: usize) -> LogLine {
    LogLine { at: None, instance: String::new(), line: format!("line {n}") }
}

fn broken(code: &str) -> CapabilityReason {
    CapabilityReason::new(code.to_owned(), "provider/here", "it went away", "bring it back")
}

/// A platform that remembers what it was asked, and answers by the deployment's name.
fn platform(asked: Arc<Mutex<Vec<LogsAsked>>>) -> Logs {
    Arc::new(move |question: LogsAsked| {
        let (name, follow) = (question.owner.name.to_string(), question.follow);
        asked.lock().unwrap().push(question);
        async move {
            match name.as_str() {
                "absent" => Err(broken("container_missing")),
                "breaks" => Ok(stream::iter([Ok(line(0)), Err(broken("cut")), Ok(line(1))]).boxed()),
                // More than was asked for; and when it is followed, silence afterwards.
                _ if follow => Ok(stream::iter((0..3).map(|n| Ok(line(n)))).chain(stream::pending()).boxed()),
                _ => Ok(stream::iter((0..500).map(|n| Ok(line(n)))).boxed()),
            }
        }
        .boxed()
    })
}

fn lines(body: &Value) -> Vec<Value> {
    match body {
        Value::String(text) => text.lines().map(|l| serde_json::from_str(l).unwrap()).collect(),
        // One line alone is one JSON value.
        other => vec![other.clone()],
    }
}

#[tokio::test]
async fn logs_are_lines_of_json_bounded_and_say_why_they_end() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let world = World::behind(Door::with(Some(platform(asked.clone()))).await).await;
    for name in ["web", "absent", "breaks"] {
        world.declare(name).await;
    }
    let all = world.get("deployments/web/logs").await.expect(200);
    assert_eq!(all.header("content-type"), "application/x-ndjson");
    let all = lines(&all.body);
    assert_eq!((all.len(), &all[199]), (200, &json!({"line": "line 199"})));
    let few = world.get("deployments/web/logs?tail=7").await.expect(200);
    assert_eq!(lines(&few.body).len(), 7);
    {
        let asked = asked.lock().unwrap();
        assert_eq!((asked[0].tail, asked[1].tail, asked[0].follow), (Some(200), Some(7), false));
        let owner = &asked[0].owner;
        assert_eq!((owner.project.as_str(), owner.name.as_str(), &owner.namespace), ("main", "web", &None));
        assert_eq!(asked[0].provider.metadata.name.as_str(), "here");
    }
    let cut = lines(&world.get("deployments/breaks/logs").await.expect(200).body);
    assert_eq!(
        (cut.len(), &cut[0], &cut[1]["error"]["code"]),
        (2, &json!({"line": "line 0"}), &json!("cut"))
    );
    let absent = world.get("deployments/absent/logs").await.expect(409).body;
    assert_eq!(
        (&absent["code"], &absent["reasons"][0]["code"]),
        (&json!("no_log"), &json!("container_missing"))
    );
    let many = world.get("deployments/web/logs?tail=10001").await.expect(400).body;
    assert_eq!(many["errors"][0]["field"], "tail");
    world.get("deployments/nowhere/logs").await.expect(404);
    assert_eq!(asked.lock().unwrap().len(), 4, "what is refused is not asked");
}

#[tokio::test]
async fn where_nobody_reads_logs_it_is_said() {
    let world = World::new().await;
    world.declare("web").await;
    world.get("deployments/web/logs").await.expect(503);
}

#[tokio::test]
async fn s6_a_followed_log_goes_on_and_ends_when_the_token_is_revoked() {
    let world = World::behind(Door::with(Some(platform(Default::default()))).await).await;
    world.declare("web").await;
    let grant = json!({"role": "viewer", "scope": in_project(world.project)});
    let made = world.door.admin("POST", "/v1/service-tokens").json(json!({"name": "t", "grants": [grant]}));
    let made = made.send().await.expect(201).body;
    let path = format!("{}/deployments/web/logs?follow=true&tail=3", world.at);
    let response = world.door.call("GET", &path).token(made["token"].as_str().unwrap()).open().await;
    assert_eq!(response.status(), 200);
    let mut pieces = response.into_body().into_data_stream();
    let first = tokio::time::timeout(Duration::from_secs(10), pieces.next()).await.unwrap().unwrap().unwrap();
    assert!(first.starts_with(b"{\"line\":\"line 0\"}\n"), "{first:?}");
    let mut text = first.to_vec();
    while text.iter().filter(|b| **b == b'\n').count() < 3 {
        text.extend(pieces.next().await.unwrap().unwrap());
    }
    let more = tokio::time::timeout(Duration::from_millis(300), pieces.next()).await;
    assert!(more.is_err(), "it waits for more: {more:?}");
    let revoke = format!("/v1/service-tokens/{}", made["id"].as_str().unwrap());
    world.door.admin("DELETE", &revoke).send().await.expect(204);
    let end = tokio::time::timeout(Duration::from_secs(10), pieces.next()).await.expect("it ends");
    assert!(end.is_none(), "{end:?}");
}
