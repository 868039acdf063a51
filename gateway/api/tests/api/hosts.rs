//! What an operator sees of a host, and what it can be told: H3, H4.

use crate::{
    door::{Door, small_vm},
    enrolment::{Host, enrol},
};
use basalt_api::rows::Noun;
use basalt_model::GIB;
use basalt_store::{hosts, testkit};
use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

/// 8 threads, 16 GiB of memory and a pool of 100 GiB.
fn facts() -> Value {
    serde_json::to_value(testkit::facts(8, 16 * GIB, 100 * GIB)).unwrap()
}

async fn report(door: &Door, host: &Host, sequence: i64, facts: Option<Value>) {
    let mut body = json!({"agent_boot": Uuid::from_u128(7), "sequence": sequence});
    if let Some(facts) = facts {
        body["facts"] = facts;
    }
    host.post(door, "/agent/v1/report").json(body).send().await.expect(200);
}

async fn shown(door: &Door) -> Value {
    door.admin("GET", "/v1/hosts/h1").send().await.expect(200).body
}

#[tokio::test]
async fn h3_a_host_shows_each_of_its_states() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    assert_eq!(shown(&door).await["state"], "enrolling");
    report(&door, &host, 1, Some(facts())).await;
    assert_eq!(shown(&door).await["state"], "ready");
    let mut bad = facts();
    bad["problems"] = json!([{"code": "service_away", "subject": "host/libvirt",
        "message": "libvirt does not answer", "remedy": "start libvirtd"}]);
    report(&door, &host, 2, Some(bad)).await;
    let degraded = shown(&door).await;
    assert_eq!(degraded["state"], "degraded");
    assert_eq!(degraded["facts"]["problems"][0]["remedy"], "start libvirtd", "it says what is wrong");
    report(&door, &host, 3, Some(facts())).await;
    let put = |spec: Value| door.admin("PUT", "/v1/hosts/h1").json(json!({"spec": spec})).send();
    assert_eq!(put(json!({"maintenance": true})).await.expect(200).body["state"], "maintenance");
    assert_eq!(put(json!({})).await.expect(200).body["state"], "ready");
    door.clock.advance(TimeDelta::seconds(31));
    assert_eq!(shown(&door).await["state"], "unreachable");
    report(&door, &host, 4, None).await;
    assert_eq!(shown(&door).await["state"], "ready", "one sign of life is enough");
    door.admin("DELETE", "/v1/hosts/h1").send().await.expect(204);
    assert_eq!(shown(&door).await["state"], "removed", "until nothing of it is left");
}

#[tokio::test]
async fn h3_heartbeats_are_not_written_each() {
    let door = Door::new().await;
    let pair = [enrol(&door, "h1").await, enrol(&door, "h2").await];
    for host in &pair {
        report(&door, host, 1, Some(facts())).await;
    }
    let stored = || async {
        let mut tx = door.db.store.system_read().await.unwrap();
        let mut all = hosts::heartbeats(&mut tx).await.unwrap();
        all.sort();
        all
    };
    let before = stored().await;
    for sequence in 2..=100 {
        door.clock.advance(TimeDelta::milliseconds(100));
        for host in &pair {
            report(&door, host, sequence, None).await;
        }
    }
    assert_eq!(stored().await, before, "198 signs of life wrote nothing");
    let seen: basalt_model::DateTime = shown(&door).await["seen_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(seen, basalt_daemon::Clock::now(&*door.clock), "and are shown at once");
    let drain = basalt_daemon::Drain::new();
    drain.begin();
    door.app.clone().run(drain).await;
    assert!(stored().await.len() == 2 && stored().await.iter().all(|(_, at)| *at == seen), "kept together");
}

#[tokio::test]
async fn h4_labels_overcommit_and_reserved_memory_say_what_a_host_takes() {
    let door = Door::new().await;
    let project = door.project("acme").await.1;
    let host = enrol(&door, "h1").await;
    report(&door, &host, 1, Some(facts())).await;
    door.until("the host's pool", |rows| rows.all(Noun::Pool).len() == 1).await;
    let explain = async |cpus: u32, memory: u64, labels: Value| {
        let mut vm = small_vm("a");
        vm["spec"]["cpus"] = json!(cpus);
        vm["spec"]["memory_bytes"] = json!(memory);
        vm["spec"]["placement"] = json!({"host_labels": labels});
        let path = format!("/v1/projects/{project}/placement/explain");
        let said = door.admin("POST", &path).json(vm).send().await.expect(200).body;
        match said.get("host") {
            Some(_) => "fits".to_owned(),
            None => said["candidates"][0]["rejections"][0]["code"].as_str().unwrap().to_owned(),
        }
    };
    let set = async |labels: Value, spec: Value| {
        let body = json!({"labels": labels, "spec": spec});
        let made = door.admin("PUT", "/v1/hosts/h1").json(body).send().await.expect(200);
        let generation = made.body["generation"].as_i64().unwrap();
        door.until("the host as it is wanted", |rows| {
            rows.all(Noun::Host).iter().any(|t| {
                let json = rows.object(t.noun, t.id).unwrap().json().unwrap();
                json["generation"].as_i64() == Some(generation)
            })
        })
        .await;
        // Hosts as placement sees them are made anew once a second.
        door.clock.advance(TimeDelta::seconds(2));
        report(&door, &host, generation * 10, None).await;
    };
    assert_eq!(explain(32, GIB, json!({})).await, "fits", "four times eight threads");
    assert_eq!(explain(33, GIB, json!({})).await, "host_too_small_cpus");
    assert_eq!(explain(1, 15 * GIB, json!({})).await, "fits", "one of sixteen is the host's own");
    assert_eq!(explain(1, 16 * GIB, json!({})).await, "host_too_small_memory");
    assert_eq!(explain(1, GIB, json!({"disk": "ssd"})).await, "labels_missing");
    set(json!({"disk": "ssd"}), json!({"cpu_overcommit_percent": 100, "reserved_memory_bytes": 8 * GIB}))
        .await;
    assert_eq!(explain(8, GIB, json!({"disk": "ssd"})).await, "fits");
    assert_eq!(explain(9, GIB, json!({})).await, "host_too_small_cpus");
    assert_eq!(explain(1, 9 * GIB, json!({})).await, "host_too_small_memory");
    set(json!({}), json!({"memory_overcommit_percent": 200, "reserved_memory_bytes": 8 * GIB})).await;
    assert_eq!(explain(1, 16 * GIB, json!({})).await, "fits", "twice what is not the host's own");
    assert_eq!(explain(1, GIB, json!({"disk": "ssd"})).await, "labels_missing");
    let bad = json!({"spec": {"cpu_overcommit_percent": 50, "memory_overcommit_percent": 500}});
    let refused = door.admin("PUT", "/v1/hosts/h1").json(bad).send().await.expect(422);
    let fields: Vec<&str> =
        refused.body["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["spec.cpu_overcommit_percent", "spec.memory_overcommit_percent"]);
}
