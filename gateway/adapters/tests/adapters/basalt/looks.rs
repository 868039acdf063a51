//! Looks: all of it or an error, others' VMs too, and what a program answers.

use super::{project, with};
use crate::contract::workload;
use basalt_adapters::{Adapter, LogOptions, basalt::normalise};
use basalt_model::deployments::{ErrorClass, Readiness};
use futures::StreamExt;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_list_of_many_pages_is_whole_and_a_page_that_fails_fails_all_of_it() {
    let project = project().await;
    for number in 1..=5 {
        project.basalt().deploy(&workload(&project, number)).await.unwrap();
    }
    assert_eq!(project.basalt().observe().await.unwrap().len(), 5);
    let pages = project.server.asked("GET /v1/projects/agents/vms?limit=500&cursor=");
    assert_eq!(pages, 2, "three pages of two");
    project.server.fail("GET /v1/projects/agents/vms?limit=500&cursor=", 1, (503, json!({})));
    let error = project.basalt().observe().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient);
}

#[tokio::test]
async fn a_vm_of_somebody_is_discovered_without_an_owner_and_without_its_user_data() {
    let project = project().await;
    project.basalt().deploy(&workload(&project, 1)).await.unwrap();
    project.change(&project.only(), |vm| vm.labels = [("app", "db")].into_iter().collect());
    let all = project.basalt().observe().await.unwrap();
    assert_eq!((all.len(), all[0].kind.as_str(), all[0].owner), (1, "vm", None));
    let seen = normalise(&all).unwrap();
    assert_eq!((seen.image.as_deref(), seen.readiness), (Some("runner"), Readiness::Ready));
    assert!(!all[0].raw.to_string().contains("GREETING"), "{}", all[0].raw);
}

#[tokio::test]
async fn a_vm_that_finds_no_host_says_why_in_the_words_of_its_gateway() {
    let project = project().await;
    let wanted = workload(&project, 1);
    project.basalt().deploy(&wanted).await.unwrap();
    project.change(&project.only(), |vm| {
        vm.phase = "blocked".to_owned();
        vm.conditions =
            vec![json!({ "type": "Placed", "status": "false", "reason": "no_host_fits", "message": "No host has room." })];
    });
    match project.seen(&wanted.owner).await.unwrap().readiness {
        Readiness::NotReady { reason } => {
            assert_eq!((&*reason.code, &*reason.message), ("no_host_fits", "No host has room."));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn with_probe_a_program_is_asked_and_without_it_a_vm_that_runs_counts() {
    let project = with(json!({ "probe": true, "secrets_in_user_data": true })).await;
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut wanted = workload(&project, 1);
    wanted.target.kind = basalt_model::artifacts::ArtifactKind::Server;
    let port = door.local_addr().unwrap().port();
    wanted.program.transport =
        basalt_model::artifacts::Transport::StreamableHttp { port, path: "/mcp".to_owned() };
    project.basalt().deploy(&wanted).await.unwrap();
    project.change(&project.only(), |vm| vm.nics[0]["address"] = json!("127.0.0.1"));
    let seen = project.seen(&wanted.owner).await.unwrap();
    assert_eq!(
        (seen.endpoints[0].url.clone(), seen.endpoints[0].name.as_str()),
        (format!("http://127.0.0.1:{port}/mcp"), "mcp")
    );
    assert_eq!(seen.readiness, Readiness::Ready);
    drop(door);
    let gone = project.seen(&wanted.owner).await.unwrap().readiness;
    assert!(matches!(&gone, Readiness::NotReady { reason } if reason.code == "unhealthy"), "{gone:?}");
    project.change(&project.only(), |vm| vm.observed["started_at"] = json!("2026-11-22T15:51:00Z"));
    assert_eq!(project.seen(&wanted.owner).await.unwrap().readiness, Readiness::Starting);
}

#[tokio::test]
async fn a_console_is_followed_line_by_line_and_nothing_is_said_twice() {
    let project = project().await;
    let wanted = workload(&project, 1);
    project.basalt().deploy(&wanted).await.unwrap();
    let follow = LogOptions { follow: true, tail: Some(1), since: None };
    let mut lines = project.basalt().logs(&wanted.owner, follow).await.unwrap();
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next()).await.unwrap().unwrap();
        line.map(|line| line.line)
    };
    assert_eq!(next().await.unwrap(), "it listens");
    project.server.there().console.push_str("hal");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    project.server.there().console.push_str("f of it\nit listens\n");
    assert_eq!(next().await.unwrap(), "half of it");
    assert_eq!(next().await.unwrap(), "it listens");
    project.server.fail("GET /v1/projects/agents/vms/", 1, (503, json!({})));
    assert_eq!(next().await.unwrap_err().class, ErrorClass::Transient);
}

#[tokio::test]
async fn what_changes_is_told_as_it_happens_and_after_a_break_that_anything_may_have() {
    let project = project().await;
    let owner = workload(&project, 7).owner.id;
    let mut changes = project.basalt().changes();
    let watched = async |times: usize| {
        while project.server.asked("GET /v1/watch?kinds=vm&project=agents") < times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let tell = |text: &str| drop(project.server.there().watch.send(text.to_owned()));
    let vm = |event: &str, labels: serde_json::Value| {
        format!(
            "id: 1\ndata: {}\n\n",
            json!({ "event": event, "kind": "vm", "object": { "labels": labels } })
        )
    };
    let ours = json!({ "basalt/deployment": owner.0 });
    let telling = async {
        watched(1).await;
        tell(&vm("snapshot", ours.clone()));
        tell("data: {\"event\":\"bookmark\",\"cursor\":\"1\"}\n\n");
        tell(&vm("upsert", json!({ "app": "db" })));
        let whole = vm("upsert", ours.clone());
        tell(&whole[..30]);
        tell(&whole[30..]);
        watched(1).await;
        project.server.there().watch = tokio::sync::broadcast::channel(16).0;
        watched(2).await;
        tell("data: {\"event\":\"bookmark\",\"cursor\":\"1\"}\n\n");
    };
    let hearing = async {
        let first = changes.next().await.unwrap();
        (first.owner, changes.next().await.unwrap().owner)
    };
    let both = futures::future::join(telling, hearing);
    let ((), heard) = tokio::time::timeout(Duration::from_secs(15), both).await.unwrap();
    assert_eq!(heard, (Some(owner), None), "others' VMs, and what there was, are no news");
}
