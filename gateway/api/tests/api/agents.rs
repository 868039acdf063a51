//! The agents' door: manifests by long poll, reports in order, downloads of what the manifest names.

use crate::{
    bad_input::place,
    door::{Door, small_vm},
    enrolment::{Host, enrol},
};
use basalt_api::rows::Noun;
use basalt_model::{Epoch, GIB, Generation, HostId, ImageId, images::ImageFormat};
use basalt_store::{agent_conflicts, manifests, testkit};
use basalt_wire::agent::manifest::{ItemKind, Manifest};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

fn report(boot: u128, sequence: i64) -> Value {
    json!({"agent_boot": Uuid::from_u128(boot), "sequence": sequence})
}

async fn put(door: &Door, host: HostId, items: &[manifests::Item]) -> i64 {
    let mut tx = door.db.store.system().await.unwrap();
    let write = manifests::Write { host_id: host, upserts: items.to_vec(), removes: vec![] };
    let put = manifests::put(&mut tx, &[write], testkit::now()).await.unwrap();
    tx.commit().await.unwrap();
    put[0].revision
}

/// An item of a network that exists: the store refuses items of objects that do not.
async fn network_item(door: &Door) -> manifests::Item {
    let project = door.project("acme").await;
    let lan = json!({"name": "lan", "spec": {"cidr": "10.0.0.0/24"}});
    let made = door
        .admin("POST", &format!("/v1/projects/{}/networks", project.1))
        .json(lan)
        .send()
        .await
        .expect(202);
    let id: Uuid = made.body["object"]["id"].as_str().unwrap().parse().unwrap();
    let body = json!({"as": "network", "name": "lan", "segment": {"kind": "vxlan"}, "vni": 7, "cidr": "10.0.0.0/24",
        "gateway": "10.0.0.1", "dhcp_server": "10.0.0.254", "dhcp": true, "dns": [], "mtu": 1450});
    let kind = ItemKind::Network.as_str().into();
    manifests::Item { kind, id, generation: Generation(1), epoch: Epoch(0), present: true, body }
}

#[tokio::test]
async fn a_manifest_poll_is_held_until_the_revision_moves() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    let empty = host.get(&door, "/agent/v1/manifest").send().await.expect(200);
    assert_eq!((empty.header("etag"), &empty.body["items"]), ("\"0\"", &json!([])));
    let poll = |etag: &'static str, wait| host.get(&door, wait).header("if-none-match", etag).send();
    let item = network_item(&door).await;
    let begun = Instant::now();
    let unchanged = poll("\"0\"", "/agent/v1/manifest?wait_seconds=1").await;
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, "\"0\""));
    assert!(begun.elapsed() >= Duration::from_millis(990));
    let (answer, revision) = tokio::join!(poll("\"0\"", "/agent/v1/manifest"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        put(&door, host.id, std::slice::from_ref(&item)).await
    });
    let answer = answer.expect(200);
    assert_eq!(answer.header("etag"), format!("\"{revision}\""));
    let manifest = Manifest::read(answer.body.to_string().as_bytes(), host.id).unwrap();
    assert_eq!((manifest.revision, manifest.items.len()), (revision, 1));
}

#[tokio::test]
async fn a_poll_is_held_where_the_feed_is_behind_what_the_agent_has() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    let item = network_item(&door).await;
    door.until("the network", |rows| !rows.all(Noun::Network).is_empty()).await;
    // Another gateway writes: this one's feed does not hear of it.
    let other = door.db.connect(basalt_store::Options { max_connections: 1, ..Default::default() }).await;
    let mut tx = other.system().await.unwrap();
    let write = manifests::Write { host_id: host.id, upserts: vec![item], removes: vec![] };
    let revision = manifests::put(&mut tx, &[write], testkit::now()).await.unwrap()[0].revision;
    tx.commit().await.unwrap();
    let all = host.get(&door, "/agent/v1/manifest").send().await.expect(200);
    assert_eq!(all.header("etag"), format!("\"{revision}\""));
    let begun = Instant::now();
    let poll =
        host.get(&door, "/agent/v1/manifest?wait_seconds=1").header("if-none-match", all.header("etag"));
    assert_eq!(poll.send().await.status, 304);
    assert!(
        begun.elapsed() >= Duration::from_millis(990),
        "answered at once, it would be asked at once again"
    );
}

/// A sample of the storm after a gateway's restart; `cargo xtask bench --only fleet` measures a thousand over TLS.
#[tokio::test]
async fn r41_agents_that_reconnect_all_at_once_are_each_served_and_their_idle_polls_are_held() {
    let door = Door::new().await;
    let mut hosts = Vec::new();
    for n in 0..300 {
        hosts.push(enrol(&door, &format!("h{n}")).await);
    }
    let storm = hosts.iter().enumerate().map(|(n, host)| {
        let door = &door;
        async move {
            let boot = u128::try_from(n + 1).unwrap();
            let manifest = host.get(door, "/agent/v1/manifest").send().await.expect(200);
            Manifest::read(manifest.body.to_string().as_bytes(), host.id).unwrap();
            let mut said = report(boot, 1);
            said["facts"] = serde_json::to_value(testkit::facts(8, 16 * GIB, 100 * GIB)).unwrap();
            host.post(door, "/agent/v1/report").json(said).send().await.expect(200);
            host.get(door, "/agent/v1/directory").send().await.expect(200);
            // And once more with what it has: nothing is new, so all of them are held at once.
            let tag = manifest.header("etag").to_owned();
            let poll = host.get(door, "/agent/v1/manifest?wait_seconds=2").header("if-none-match", &tag);
            poll.send().await.status
        }
    });
    let statuses = futures::future::join_all(storm).await;
    assert!(statuses.iter().all(|status| *status == 304), "{statuses:?}");
    let listed = door.admin("GET", "/v1/hosts?limit=500").send().await.expect(200);
    let all = listed.body["items"].as_array().unwrap();
    assert_eq!(all.len(), 300);
    assert!(all.iter().all(|host| host["facts"].is_object()), "every report was taken");
}

/// A VM with one interface on `lan`, on a host.
pub async fn vm_on(door: &Door, project: &str, name: &str, host: HostId) -> Value {
    let mut body = small_vm(name);
    body["spec"]["nics"] = json!([{"network": "lan"}]);
    let made = door.admin("POST", &format!("/v1/projects/{project}/vms")).json(body).send().await.expect(202);
    place(door, &made.body, host).await;
    made.body["object"]["nics"][0].clone()
}

/// The directory costs no statement: it is what the feed brought.
#[tokio::test]
async fn n3_an_agent_hears_where_other_hosts_have_ports_of_its_networks_and_of_no_others() {
    let door = Door::new().await;
    let hosts = [enrol(&door, "h1").await, enrol(&door, "h2").await, enrol(&door, "h3").await];
    for (n, host) in hosts.iter().enumerate() {
        let mut facts = serde_json::to_value(testkit::facts(8, 16 * GIB, 100 * GIB)).unwrap();
        facts["tunnel_address"] = json!(format!("10.78.0.{}", n + 1));
        let body = json!({"agent_boot": Uuid::from_u128(9), "sequence": 1, "facts": facts});
        host.post(&door, "/agent/v1/report").json(body).send().await.expect(200);
    }
    let [a, b, c] = hosts;
    let project = door.project("acme").await.1.to_string();
    let lan = json!({"name": "lan", "spec": {"cidr": "10.10.0.0/24"}});
    door.admin("POST", &format!("/v1/projects/{project}/networks")).json(lan).send().await.expect(202);
    let get = |host: &Host, tag: &str| {
        host.get(&door, "/agent/v1/directory?wait_seconds=5").header("if-none-match", tag).send()
    };
    let first = a.get(&door, "/agent/v1/directory").send().await.expect(200);
    assert_eq!(first.body, json!({"networks": []}));
    let none = first.header("etag").to_owned();
    vm_on(&door, &project, "one", a.id).await;
    // Alone on its network: nothing is new for its host.
    let begun = Instant::now();
    let alone =
        a.get(&door, "/agent/v1/directory?wait_seconds=1").header("if-none-match", &none).send().await;
    assert_eq!((alone.status, alone.header("etag")), (304, &*none));
    assert!(begun.elapsed() >= Duration::from_millis(990));
    let (heard, nic) = tokio::join!(get(&a, &none), vm_on(&door, &project, "two", b.id));
    let heard = heard.expect(200);
    assert_eq!(
        heard.body,
        json!({"networks": [{"id": nic["network_id"], "peers": [
            {"tunnel_address": "10.78.0.2", "ports": [{"address": nic["address"], "mac": nic["mac"], "name": "two"}]}]}]})
    );
    let theirs = b.get(&door, "/agent/v1/directory").send().await.expect(200);
    assert_eq!(theirs.body["networks"][0]["peers"][0]["tunnel_address"], "10.78.0.1");
    let stranger = c.get(&door, "/agent/v1/directory").send().await.expect(200);
    assert_eq!(
        stranger.body,
        json!({"networks": []}),
        "a host without a port of the network hears nothing of it"
    );
    // The peer has another address now.
    let tag = heard.header("etag").to_owned();
    let mut facts = serde_json::to_value(testkit::facts(8, 16 * GIB, 100 * GIB)).unwrap();
    facts["tunnel_address"] = json!("10.78.0.22");
    let moved = json!({"agent_boot": Uuid::from_u128(9), "sequence": 2, "facts": facts});
    let (heard, _) = tokio::join!(get(&a, &tag), b.post(&door, "/agent/v1/report").json(moved).send());
    assert_eq!(heard.expect(200).body["networks"][0]["peers"][0]["tunnel_address"], "10.78.0.22");
    let wrong = a.get(&door, "/agent/v1/directory?wait_seconds=99").send().await.expect(400);
    assert_eq!(wrong.body["errors"][0]["field"], "wait_seconds");
}

#[tokio::test]
async fn s39_an_agent_reads_its_own_manifest_only() {
    let door = Door::new().await;
    let (a, b) = (enrol(&door, "a").await, enrol(&door, "b").await);
    let item = network_item(&door).await;
    put(&door, a.id, &[item]).await;
    let mine = a.get(&door, "/agent/v1/manifest").send().await.expect(200);
    let theirs = b.get(&door, "/agent/v1/manifest").send().await.expect(200);
    assert_eq!(
        (mine.body["items"].as_array().unwrap().len(), theirs.body["items"].as_array().unwrap().len()),
        (1, 0)
    );
}

#[tokio::test]
async fn an_older_report_of_the_same_start_is_refused() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    let send = |sequence| host.post(&door, "/agent/v1/report").json(report(50, sequence)).send();
    assert_eq!(send(1).await.expect(200).body["send_full"], false);
    assert_eq!(send(2).await.expect(200).body["send_full"], false);
    assert_eq!(send(2).await.expect(409).code(), "late");
    assert_eq!(send(1).await.expect(409).code(), "late");
    send(3).await.expect(200);
    // A start of which only a later report arrives was not heard out.
    let unheard = host.post(&door, "/agent/v1/report").json(report(60, 4)).send().await.expect(200);
    assert_eq!(unheard.body["send_full"], true);
    let bad = host
        .post(&door, "/agent/v1/report")
        .json(json!({"agent_boot": Uuid::nil(), "sequence": 1, "vms": []}))
        .send()
        .await;
    assert_eq!((bad.status, &bad.body["errors"][0]["field"]), (422, &json!("vms")));
}

#[tokio::test]
async fn h1_r44_of_two_agents_with_one_identity_the_older_start_is_fenced_and_it_is_said() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    let send = |boot, sequence| host.post(&door, "/agent/v1/report").json(report(boot, sequence)).send();
    send(50, 1).await.expect(200);
    send(60, 1).await.expect(200);
    for sequence in [2, 3] {
        let refused = send(50, sequence).await.expect(409);
        assert_eq!((refused.code(), &refused.body["reasons"][0]["code"]), ("fenced", &json!("fenced")));
    }
    let boot = Uuid::from_u128(50).to_string();
    let poll = host.get(&door, "/agent/v1/manifest").header("basalt-agent-boot", &boot).send().await;
    assert_eq!((poll.status, poll.code()), (409, "fenced"));
    let conflict = || async {
        let mut tx = door.db.store.system_read().await.unwrap();
        agent_conflicts::get(&mut tx, host.id).await.unwrap().unwrap()
    };
    let first = conflict().await;
    assert_eq!(first.conflict.agent_boot, Uuid::from_u128(60));
    assert_eq!(first.conflict.fenced_boots, [Uuid::from_u128(50)]);
    // That it goes on trying is written down, and not more often than every ten seconds.
    for (seconds, written) in [(9, 0), (2, 11)] {
        door.clock.advance(chrono::TimeDelta::seconds(seconds));
        send(50, 4).await.expect(409);
        let now = conflict().await;
        assert_eq!(
            ((now.tried_at - first.tried_at).num_seconds(), now.conflict),
            (written, first.conflict.clone())
        );
    }
    let metrics = door.admin("GET", "/metrics").send().await.expect(200);
    assert!(metrics.body.as_str().unwrap().contains("basalt_agents_fenced_total 5"), "{}", metrics.body);
    send(60, 2).await.expect(200);
    let audit = door.admin("GET", "/v1/audit?action=host.agent_fenced").send().await.expect(200);
    let events = audit.body["items"].as_array().unwrap();
    assert_eq!((events.len(), &events[0]["subject_id"]), (1, &json!(host.id)));
}

#[tokio::test]
async fn heartbeats_are_written_together_and_shown() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    host.post(&door, "/agent/v1/report").json(report(50, 1)).send().await.expect(200);
    door.clock.advance(chrono::TimeDelta::seconds(20));
    host.post(&door, "/agent/v1/report").json(report(50, 2)).send().await.expect(200);
    let drain = basalt_daemon::Drain::new();
    drain.begin();
    door.app.clone().run(drain).await;
    let shown = door.admin("GET", "/v1/hosts/h1").send().await.expect(200);
    let seen: basalt_model::DateTime = shown.body["seen_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(seen, testkit::now() + chrono::TimeDelta::seconds(20));
}

#[tokio::test]
async fn a_download_is_granted_for_images_of_the_hosts_manifest_only() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    let project = door.project("acme").await;
    let image = testkit::ready_image(&door.db, &door.ids, project, "debian", ImageFormat::Qcow2).await;
    let ask =
        |host: &Host, image: ImageId| host.post(&door, &format!("/agent/v1/images/{image}/download")).send();
    ask(&host, image).await.expect(404);
    let body = json!({"as": "image", "format": "qcow2", "sha256": "0".repeat(64), "size_bytes": 1 << 20});
    let item = manifests::Item {
        kind: "image".into(),
        id: image.0,
        generation: Generation(1),
        epoch: Epoch(0),
        present: true,
        body,
    };
    put(&door, host.id, &[item]).await;
    let grant = ask(&host, image).await.expect(200);
    assert_eq!(grant.body["url"], "https://images:9445/blobs");
    ask(&enrol(&door, "h2").await, image).await.expect(404);
}

#[tokio::test]
async fn an_image_event_is_taken_from_the_image_service_once() {
    let door = Door::new().await;
    let project = door.project("acme").await;
    let images = format!("/v1/projects/{}/images", project.1);
    let made = door
        .admin("POST", &images)
        .json(json!({"name": "debian", "spec": {"format": "raw", "size_bytes": 4}}))
        .send()
        .await
        .expect(202);
    let grant = door.admin("POST", &format!("{images}/debian/upload")).send().await.expect(201);
    let ring = basalt_wire::upload_token::Keyring::new([(1, vec![7; 32])]).unwrap();
    let claims =
        basalt_wire::upload_token::verify(&ring, grant.body["token"].as_str().unwrap(), testkit::now())
            .unwrap();
    let event = json!({"id": Uuid::from_u128(1), "at": testkit::now(), "image_id": made.body["object"]["id"], "transfer_id": claims.transfer_id,
        "outcome": {"kind": "ready", "sha256": "0".repeat(64), "size_bytes": 4, "virtual_size_bytes": 4}});
    let service = basalt_daemon::tls::Peer { uris: vec!["basalt:image-service".into()], serial: "1".into() };
    let send = |peer: basalt_daemon::tls::Peer| {
        let event = event.clone();
        let door = &door;
        async move { door.agent_call("POST", "/image/v1/events").peer(&peer).json(event).send().await }
    };
    let host = enrol(&door, "h1").await;
    send(host.peer.clone()).await.expect(401);
    send(service.clone()).await.expect(204);
    send(service).await.expect(204);
    let shown = door.admin("GET", &format!("{images}/debian")).send().await.expect(200);
    assert_eq!((&shown.body["phase"], &shown.body["observed"]["state"]), (&json!("ready"), &json!("ready")));
    let task = door
        .admin("GET", &format!("/v1/tasks/{}", made.body["task"]["id"].as_str().unwrap()))
        .send()
        .await
        .expect(200);
    assert_eq!(task.body["state"], "completed");
}

#[tokio::test]
async fn r55_a_lease_is_given_to_the_start_that_counts_and_to_no_host_that_is_dead() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    let ask = |boot: u128, revision: Value| {
        let body = json!({"agent_boot": Uuid::from_u128(boot), "boot_id": "b", "manifest_revision": revision,
            "fencer": {"window_seconds": 5}});
        let call = host
            .post(&door, "/agent/v1/lease")
            .header("basalt-agent-boot", &Uuid::from_u128(boot).to_string());
        call.json(body).send()
    };
    assert_eq!(ask(2, Value::Null).await.expect(200).body["seconds"], json!(20));
    let idle = |boot: u128| {
        let body = json!({"agent_boot": Uuid::from_u128(boot), "boot_id": "b", "needed": false});
        host.post(&door, "/agent/v1/lease").json(body).send()
    };
    assert_eq!(idle(2).await.expect(200).body, json!({}), "who needs none is given none");
    // A newer start reports, so the older one gets no lease any more.
    host.post(&door, "/agent/v1/report").json(report(3, 1)).send().await.expect(200);
    ask(2, Value::Null).await.expect(409);
    let confirm = || door.admin("POST", "/v1/hosts/h1/confirm-power-off").send();
    let refused = confirm().await.expect(409);
    assert!(refused.body.to_string().contains("host_alive"), "{}", refused.body);
    let mut tx = door.db.store.system().await.unwrap();
    let proof = basalt_store::host_loss::Proof { host_id: host.id, grants: 1, evidence: "silence".into() };
    let change = testkit::change(&testkit::ids(77));
    assert!(basalt_store::host_loss::declare(&mut tx, &change, &proof).await.unwrap());
    tx.commit().await.unwrap();
    let dead = ask(3, Value::Null).await.expect(200).body;
    assert_eq!((&dead["seconds"], &dead["refused"]["code"]), (&Value::Null, &json!("proven_dead")));
    let hears = async {
        while idle(3).await.expect(200).body["refused"]["code"] != "proven_dead" {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), hears)
        .await
        .expect("who needs none hears of it, too, as soon as the feed tells it");
    let stands = confirm().await.expect(200).body;
    assert_eq!(stands["kind"], "lease_expired", "said of a dead host it changes nothing");
    assert_eq!(
        ask(3, json!(0)).await.expect(200).body["seconds"],
        json!(20),
        "it acts on its newest manifest"
    );
}
