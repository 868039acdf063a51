//! N8: a port's counters are asked of its host, by who may, and nobody waits for long.

use crate::{
    consoles::place,
    door::{Answer, Door, in_project, small_vm},
    enrolment::{Host, enrol},
};
use basalt_model::{ProjectId, TenantId, VmId, VolumeId};
use basalt_store::{reports, testkit};
use basalt_wire::agent::{
    console::Tickets,
    counters::{QUESTIONS, Question},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A VM with a port, on a host whose agent the test plays.
struct Room {
    door: Door,
    project: (TenantId, ProjectId),
    host: Host,
    vm: VmId,
    port: String,
    vms: String,
    ports: String,
}

fn with_port(name: &str) -> Value {
    let mut vm = small_vm(name);
    vm["spec"]["nics"] = json!([{"network": "net"}]);
    vm
}

impl Room {
    async fn new() -> Self {
        let door = Door::new().await;
        let project = door.project("acme").await;
        let host = enrol(&door, "h1").await;
        let report = reports::Report {
            agent_boot: Uuid::from_u128(1),
            sequence: 1,
            manifest_revision: None,
            manifest_refused: None,
            facts: Some(testkit::facts(8, 16 << 30, 100 << 30)),
            items: Vec::new(),
        };
        let mut tx = door.db.store.system().await.unwrap();
        reports::apply(&mut tx, host.id, &report, &door.ids, testkit::now()).await.unwrap();
        tx.commit().await.unwrap();
        let base = format!("/v1/projects/{}", project.1);
        let (vms, ports) = (format!("{base}/vms"), format!("{base}/ports"));
        let network = json!({"name": "net", "spec": {"cidr": "10.0.0.0/24"}});
        door.admin("POST", &format!("{base}/networks")).json(network).send().await.expect(202);
        let made = door.admin("POST", &vms).json(with_port("web")).send().await.expect(202);
        let text = |at: &str| made.body.pointer(at).unwrap().as_str().unwrap().to_owned();
        let vm: VmId = text("/object/id").parse().unwrap();
        let volume: VolumeId = text("/object/disks/0/volume_id").parse().unwrap();
        let port = text("/object/nics/0/port_id");
        place(&door, vm, volume, host.id).await;
        Self { door, project, host, vm, port, vms, ports }
    }

    async fn ask(&self, token: &str) -> Answer {
        let path = format!("{}/{}/counters", self.ports, self.port);
        self.door.call("GET", &path).token(token).send().await
    }

    async fn questions(&self, host: &Host, wait_seconds: u32) -> Vec<Question> {
        let path = format!("/agent/v1/consoles?wait_seconds={wait_seconds}");
        let answer = host.get(&self.door, &path).send().await.expect(200);
        serde_json::from_value::<Tickets>(answer.body).unwrap().questions
    }

    async fn reply(&self, host: &Host, question: Uuid, reply: Value) -> u16 {
        host.post(&self.door, &format!("/agent/v1/questions/{question}")).json(reply).send().await.status
    }
}

fn counters() -> Value {
    json!({"counters": {
        "rx_packets": 3, "rx_bytes": 300, "rx_dropped": 1, "rx_errors": 0,
        "tx_packets": 7, "tx_bytes": 700, "tx_dropped": 0, "tx_errors": 0,
        "spoofed_packets": 4, "tx_denied_packets": 2, "rx_denied_packets": 5,
    }})
}

#[tokio::test]
async fn n8_a_ports_counters_are_asked_of_its_host_and_shown_to_viewers() {
    let room = Room::new().await;
    let viewer = room.door.token("v", "viewer", in_project(room.project)).await;
    let other = enrol(&room.door, "h2").await;
    let agent = async {
        assert_eq!(room.questions(&other, 0).await, [], "it is no other host's");
        let question = room.questions(&room.host, 10).await.pop().expect("a question");
        assert_eq!(question.port_id.to_string(), room.port);
        assert_eq!(room.questions(&room.host, 0).await, [], "it is given out once");
        assert_eq!(room.reply(&other, question.id, counters()).await, 404);
        assert_eq!(room.reply(&room.host, Uuid::from_u128(1), counters()).await, 404);
        assert_eq!(room.reply(&room.host, question.id, json!({"counters": 3})).await, 422);
        assert_eq!(room.reply(&room.host, question.id, counters()).await, 204);
        assert_eq!(room.reply(&room.host, question.id, counters()).await, 404, "it is answered once");
    };
    let (shown, ()) = tokio::join!(room.ask(&viewer), agent);
    let shown = shown.expect(200).body;
    for (field, value) in counters()["counters"].as_object().unwrap() {
        assert_eq!(&shown[field], value, "{field}");
    }
    assert_eq!(
        (&shown["port_id"], &shown["vm_id"], &shown["host"]),
        (&json!(room.port), &json!(room.vm), &json!("h1"))
    );
    assert!(shown["observed_at"].is_string());
    let stranger = room.door.project("rival").await;
    let stranger = room.door.token("x", "admin", in_project(stranger)).await;
    room.ask(&stranger).await.expect(404);
}

#[tokio::test]
async fn n8_who_cannot_be_told_counters_is_told_why_and_soon() {
    let room = Room::new().await;
    let refuse = async {
        let question = room.questions(&room.host, 10).await.pop().expect("a question");
        let reason = json!({"code": "port_not_attached", "subject": "port/x", "message": "no device", "remedy": "start the VM"});
        assert_eq!(room.reply(&room.host, question.id, json!({"refused": reason})).await, 204);
    };
    let (refused, ()) = tokio::join!(room.ask(&room.door.admin), refuse);
    let refused = refused.expect(409);
    let reason = &refused.body["reasons"][0];
    assert_eq!(
        (refused.code(), &reason["code"], &reason["remedy"]),
        ("no_counters", &json!("port_not_attached"), &json!("start the VM"))
    );

    let begun = Instant::now();
    let silent = room.ask(&room.door.admin).await.expect(503);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let reason = &silent.body["reasons"][0];
    assert_eq!((silent.code(), &reason["subject"]), ("host_silent", &json!("host/h1")));
    assert!(reason["remedy"].as_str().unwrap().contains("GET /v1/hosts"), "{reason}");
    assert_eq!(
        room.questions(&room.host, 0).await,
        [],
        "a question that nobody waits for is asked of nobody"
    );

    let made = room.door.admin("POST", &room.vms).json(with_port("unplaced")).send().await.expect(202);
    let port = made.body["object"]["nics"][0]["port_id"].as_str().unwrap();
    let nowhere = room.door.admin("GET", &format!("{}/{port}/counters", room.ports)).send().await.expect(409);
    assert_eq!(nowhere.body["reasons"][0]["code"], "not_placed");
    for unknown in ["nosuch".to_owned(), Uuid::from_u128(77).to_string()] {
        let path = format!("{}/{unknown}/counters", room.ports);
        room.door.admin("GET", &path).send().await.expect(404);
    }

    // One host is not asked for more at once than it answers.
    let asked: Vec<_> = (0..=QUESTIONS).map(|_| room.ask(&room.door.admin)).collect();
    let answers = futures::future::join_all(asked).await;
    let with = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((with(503), with(429)), (QUESTIONS, 1));
}
