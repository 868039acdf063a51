//! Work for image services over the agents' door: claimed, held on, given back, and lost.

use crate::door::Door;
use basalt_daemon::tls::Peer;
use serde_json::{Value, json};
use uuid::Uuid;

fn service() -> Peer {
    Peer { uris: vec!["basalt:image-service".into()], serial: "1".into() }
}

async fn send(door: &Door, path: &str, body: &Value, status: u16) -> Value {
    door.agent_call("POST", path).peer(&service()).json(body.clone()).send().await.expect(status).body
}

fn claim(executor: u128, start: u128) -> Value {
    json!({"executor": Uuid::from_u128(executor), "start": Uuid::from_u128(start), "limit": 4})
}

#[tokio::test]
async fn r45_im6_an_import_is_claimed_held_on_given_back_and_ends_by_the_newest_claim() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let images = format!("/v1/projects/{}/images", project.1);
    let spec = json!({"format": "raw", "source": {"url": "https://images.example/disk.raw"}});
    let made =
        door.admin("POST", &images).json(json!({"name": "debian", "spec": spec})).send().await.expect(202);
    assert_eq!(made.body["task"]["kind"], "image_import");
    let task = made.body["task"]["id"].as_str().unwrap().to_owned();
    // Nothing is uploaded that is fetched.
    let refused = door.admin("POST", &format!("{images}/debian/upload")).send().await.expect(409);
    assert_eq!(refused.body["reasons"][0]["code"], "not_uploaded");

    let first = send(&door, "/image/v1/work", &claim(1, 1), 200).await["imports"][0].clone();
    assert_eq!((&first["task_id"], &first["fence"]), (&json!(task), &json!(1)));
    assert_eq!((&first["url"], &first["format"]), (&spec["source"]["url"], &json!("raw")));
    assert_eq!(send(&door, "/image/v1/work", &claim(2, 1), 200).await["imports"], json!([]));
    let at = format!("/image/v1/work/{task}");
    let renewal = |claim: &Value| json!({"claim_id": claim["claim_id"], "progress": 30, "stage": "fetching"});
    send(&door, &at, &renewal(&first), 204).await;
    let shown = door.admin("GET", &format!("/v1/tasks/{task}")).send().await.expect(200).body;
    assert_eq!(
        (&shown["state"], &shown["progress"], &shown["stage"]),
        (&json!("executing"), &json!(30), &json!("fetching"))
    );

    let mut back = renewal(&first);
    back["again_after_seconds"] = json!(0);
    back["stage"] = json!("the disk is full");
    send(&door, &at, &back, 204).await;
    let shown = door.admin("GET", &format!("/v1/tasks/{task}")).send().await.expect(200).body;
    assert_eq!(shown["stage"], "the disk is full", "why it was given back can be read");
    let lost = send(&door, &at, &renewal(&first), 409).await;
    assert_eq!(lost["reasons"][0]["code"], "claim_lost");
    let second = send(&door, "/image/v1/work", &claim(2, 1), 200).await["imports"][0].clone();
    assert_eq!(second["fence"], 2);
    let event = |id: u128, claim: &Value| {
        json!({"id": Uuid::from_u128(id), "at": "2026-01-01T00:00:00Z", "image_id": claim["image_id"], "transfer_id": claim["claim_id"],
            "outcome": {"kind": "ready", "sha256": "0".repeat(64), "size_bytes": 4, "virtual_size_bytes": 4}})
    };
    send(&door, "/image/v1/events", &event(1, &first), 204).await;
    let phase = || async {
        door.admin("GET", &format!("{images}/debian")).send().await.expect(200).body["phase"].clone()
    };
    assert_eq!(phase().await, "pending", "the older claim's word is not taken");
    send(&door, "/image/v1/events", &event(2, &second), 204).await;
    assert_eq!(phase().await, "ready");
    send(&door, &at, &renewal(&second), 409).await;
}

#[tokio::test]
async fn im6_bad_claims_and_sources_name_field_reason_and_remedy() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let images = format!("/v1/projects/{}/images", project.1);
    for (spec, field) in [
        (json!({"format": "raw"}), "spec.size_bytes"),
        (json!({"format": "raw", "source": {"url": "http://images.example/a"}}), "spec.source.url"),
        (json!({"format": "raw", "source": {"url": "nonsense"}}), "spec.source.url"),
    ] {
        let refused =
            door.admin("POST", &images).json(json!({"name": "a", "spec": spec})).send().await.expect(422);
        assert_eq!(refused.body["errors"][0]["field"], field);
        assert_ne!(refused.body["errors"][0]["remedy"], "");
    }
    let mut many = claim(1, 1);
    many["limit"] = json!(17);
    assert_eq!(send(&door, "/image/v1/work", &many, 422).await["errors"][0]["field"], "limit");
    let stage = json!({"claim_id": Uuid::nil(), "progress": 1, "stage": "x".repeat(501)});
    let at = format!("/image/v1/work/{}", Uuid::from_u128(9));
    assert_eq!(send(&door, &at, &stage, 422).await["errors"][0]["field"], "stage");
    send(
        &door,
        "/image/v1/work/nonsense",
        &json!({"claim_id": Uuid::nil(), "progress": 1, "stage": ""}),
        404,
    )
    .await;
    let host = crate::enrolment::enrol(&door, "h1").await;
    door.agent_call("POST", "/image/v1/work").peer(&host.peer).json(claim(1, 1)).send().await.expect(401);
}
