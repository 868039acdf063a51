//! Consoles: a ticket is good once, for the host that has the VM; what is open is bounded and ends.

use crate::{
    door::{Answer, Door, in_project, small_vm},
    enrolment::{Host, enrol},
};
use axum::{
    body::{Body, BodyDataStream},
    http::{Request, header::AUTHORIZATION},
    response::Response,
};
use basalt_daemon::tls::Peer;
use basalt_model::{Epoch, HostId, ProjectId, TenantId, VmId, VolumeId};
use basalt_store::{
    placements::{self, Place, Placed},
    reports, testkit,
};
use basalt_wire::agent::console::{LOG_BYTES, Mode, Ticket, Tickets};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::{sync::mpsc, task::JoinHandle};
use tower::ServiceExt;
use uuid::Uuid;

/// A VM on a host whose agent the test plays.
struct Room {
    door: Door,
    project: (TenantId, ProjectId),
    host: Host,
    vm: VmId,
    path: String,
}

/// One side's way to say and hear something.
struct Side {
    say: Option<mpsc::Sender<Bytes>>,
    hear: BodyDataStream,
}

impl Side {
    async fn say(&self, text: &str) {
        self.say.as_ref().unwrap().send(Bytes::copy_from_slice(text.as_bytes())).await.unwrap();
    }

    /// What is said next; `None` when it ended well, `Err` when it was cut.
    async fn hear(&mut self) -> Result<Option<String>, axum::Error> {
        let piece =
            tokio::time::timeout(Duration::from_secs(10), self.hear.next()).await.expect("within 10 s");
        piece.transpose().map(|p| p.map(|p| String::from_utf8(p.to_vec()).unwrap()))
    }

    async fn hears(&mut self, text: &str) {
        let mut all = String::new();
        while all.len() < text.len() {
            all += &self.hear().await.unwrap().expect("it goes on");
        }
        assert_eq!(all, text);
    }
}

fn stream() -> (mpsc::Sender<Bytes>, Body) {
    let (say, mut heard) = mpsc::channel(16);
    let pieces = futures::stream::poll_fn(move |context| {
        heard.poll_recv(context).map(|p| p.map(Ok::<_, std::io::Error>))
    });
    (say, Body::from_stream(pieces))
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
        let vms = format!("/v1/projects/{}/vms", project.1);
        let made = door.admin("POST", &vms).json(small_vm("web")).send().await.expect(202);
        let vm: VmId = made.body["object"]["id"].as_str().unwrap().parse().unwrap();
        let volume: VolumeId =
            made.body["object"]["disks"][0]["volume_id"].as_str().unwrap().parse().unwrap();
        place(&door, vm, volume, host.id).await;
        Self { door, project, host, vm, path: format!("{vms}/web/console") }
    }

    async fn send(
        &self,
        router: axum::Router,
        request: axum::http::request::Builder,
        peer: &Peer,
        body: Body,
    ) -> Response {
        let mut request: Request<Body> = request.body(body).unwrap();
        request.extensions_mut().insert(peer.clone());
        router.oneshot(request).await.unwrap()
    }

    /// A user opens the console.
    fn open(&self, token: &str) -> JoinHandle<(Response, mpsc::Sender<Bytes>)> {
        let (say, body) = stream();
        let request = Request::builder()
            .method("POST")
            .uri(&self.path)
            .header(AUTHORIZATION, format!("Bearer {token}"));
        let request = request.body(body).unwrap();
        let router = self.door.app.users();
        tokio::spawn(async move { (router.oneshot(request).await.unwrap(), say) })
    }

    async fn tickets(&self, host: &Host, wait_seconds: u32) -> Vec<Ticket> {
        let answer = host
            .get(&self.door, &format!("/agent/v1/consoles?wait_seconds={wait_seconds}"))
            .send()
            .await
            .expect(200);
        serde_json::from_value::<Tickets>(answer.body).unwrap().tickets
    }

    async fn redeem(&self, host: &Host, ticket: &str) -> (Response, mpsc::Sender<Bytes>) {
        let (say, body) = stream();
        let request = Request::builder().method("POST").uri(format!("/agent/v1/consoles/{ticket}"));
        (self.send(self.door.app.agents(), request, &host.peer, body).await, say)
    }

    /// Both sides of a console of the caller.
    async fn console(&self, token: &str) -> (Side, Side) {
        let user = self.open(token);
        let ticket = self.tickets(&self.host, 10).await.pop().expect("a ticket");
        assert_eq!((ticket.vm_id, ticket.mode), (self.vm, Mode::Attach));
        let (response, say) = self.redeem(&self.host, &ticket.ticket).await;
        assert_eq!(response.status(), 200);
        let agent = Side { say: Some(say), hear: response.into_body().into_data_stream() };
        let (response, say) = user.await.unwrap();
        assert_eq!(response.status(), 200);
        (Side { say: Some(say), hear: response.into_body().into_data_stream() }, agent)
    }

    /// Waits until the gateway counts so many consoles.
    async fn counts(&self, consoles: usize) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let metrics = self.door.admin("GET", "/metrics").send().await.expect(200);
            if metrics.body.as_str().unwrap().contains(&format!("basalt_consoles {consoles}\n")) {
                return;
            }
            assert!(Instant::now() < end, "{consoles} consoles are never counted: {}", metrics.body);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub async fn place(door: &Door, vm_id: VmId, volume: VolumeId, host_id: HostId) {
    let place = Place {
        vm_id,
        generation: None,
        expected_epoch: Epoch(0),
        host_id,
        pools: vec![(volume, testkit::name("default"))],
        explanation: json!({"summary": "it fits"}),
        now: testkit::now(),
    };
    let mut tx = door.db.store.system().await.unwrap();
    assert_eq!(placements::place(&mut tx, &place).await.unwrap(), Placed::Placed(Epoch(1)));
    tx.commit().await.unwrap();
    door.until("the placement", |rows| {
        matches!(
            rows.object(basalt_api::rows::Noun::Vm, vm_id.0),
            Some(basalt_api::rows::Object::Vm(_, Some(_), ..))
        )
    })
    .await;
}

#[tokio::test]
async fn a_console_carries_both_directions_is_audited_and_ends_well_with_the_guest() {
    let room = Room::new().await;
    let (mut user, mut agent) = room.console(&room.door.admin).await;
    room.counts(1).await;
    agent.say("booted\r\nlogin: ").await;
    user.hears("booted\r\nlogin: ").await;
    user.say("root\r").await;
    agent.hears("root\r").await;
    // Who has nothing more to type goes on reading.
    user.say = None;
    agent.say("# ").await;
    user.hears("# ").await;
    let audit = room.door.admin("GET", "/v1/audit?action=vm.console").send().await.expect(200);
    let events = audit.body["items"].as_array().unwrap();
    assert_eq!(
        (events.len(), &events[0]["subject_id"], &events[0]["actor"]["name"]),
        (1, &json!(room.vm), &json!("root"))
    );
    agent.say = None;
    assert_eq!(user.hear().await.unwrap(), None);
    assert_eq!(agent.hear().await.unwrap(), None);
    room.counts(0).await;
}

#[tokio::test]
async fn a_console_ends_when_either_side_goes_away() {
    let room = Room::new().await;
    let (user, mut agent) = room.console(&room.door.admin).await;
    drop(user);
    assert_eq!(agent.hear().await.unwrap(), None, "the agent is told");
    room.counts(0).await;
    let (mut user, agent) = room.console(&room.door.admin).await;
    drop(agent.hear);
    assert!(user.hear().await.is_err(), "the user is told that it broke");
    room.counts(0).await;
}

#[tokio::test]
async fn s39_a_ticket_is_good_once_in_its_time_and_for_the_vms_host_only() {
    let room = Room::new().await;
    let other = enrol(&room.door, "h2").await;
    let user = room.open(&room.door.admin);
    assert_eq!(room.tickets(&other, 1).await, []);
    let ticket = room.tickets(&room.host, 10).await.pop().unwrap();
    assert!(
        ticket.ticket.len() == 64 && ticket.expires_at <= testkit::now() + chrono::TimeDelta::seconds(30)
    );
    assert_eq!(room.tickets(&room.host, 0).await, [], "it is given out once");
    assert_eq!(room.redeem(&other, &ticket.ticket).await.0.status(), 404);
    assert_eq!(room.redeem(&room.host, &"0".repeat(64)).await.0.status(), 404);
    let (first, _say) = room.redeem(&room.host, &ticket.ticket).await;
    assert_eq!(first.status(), 200);
    assert_eq!(room.redeem(&room.host, &ticket.ticket).await.0.status(), 404, "it is taken once");
    assert_eq!(user.await.unwrap().0.status(), 200);
    let late = room.open(&room.door.admin);
    let ticket = room.tickets(&room.host, 10).await.pop().unwrap();
    room.door.clock.advance(chrono::TimeDelta::seconds(30));
    assert_eq!(room.redeem(&room.host, &ticket.ticket).await.0.status(), 404, "it is too old");
    late.abort();
}

#[tokio::test]
async fn s1_a_viewer_reads_the_log_and_types_nothing() {
    let room = Room::new().await;
    let viewer = room.door.token("v", "viewer", in_project(room.project)).await;
    assert_eq!(room.open(&viewer).await.unwrap().0.status(), 403);
    let reading = room.door.call("GET", &room.path).token(&viewer).send();
    let agent = async {
        let ticket = room.tickets(&room.host, 10).await.pop().unwrap();
        assert_eq!(ticket.mode, Mode::Log);
        let (_response, say) = room.redeem(&room.host, &ticket.ticket).await;
        say.send(Bytes::from_static(b"booted\n")).await.unwrap();
    };
    let (answer, ()) = tokio::join!(reading, agent);
    assert_eq!(answer.expect(200).body, "booted\n");
    let reading = room.door.call("GET", &room.path).token(&viewer).send();
    let too_much = async {
        let ticket = room.tickets(&room.host, 10).await.pop().unwrap();
        let (_response, say) = room.redeem(&room.host, &ticket.ticket).await;
        say.send(vec![b'x'; LOG_BYTES + 1].into()).await.unwrap();
    };
    assert_eq!(tokio::join!(reading, too_much).0.status, 503, "an agent that sends more is not believed");
}

#[tokio::test]
async fn a_console_that_the_host_refuses_says_why() {
    let room = Room::new().await;
    let user = room.open(&room.door.admin);
    let ticket = room.tickets(&room.host, 10).await.pop().unwrap();
    let reason = json!({"code": "not_running", "subject": "vm/web", "message": "the VM does not run", "evidence": "", "remedy": "start it"});
    let refuse = room.host.post(&room.door, &format!("/agent/v1/consoles/{}/refuse", ticket.ticket));
    refuse.json(json!({"reason": reason})).send().await.expect(204);
    let (response, _) = user.await.unwrap();
    let status = response.status().as_u16();
    let body =
        serde_json::from_slice(&axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap();
    let answer = Answer { status, headers: Default::default(), body }.expect(409);
    assert_eq!((answer.code(), &answer.body["reasons"][0]["remedy"]), ("no_console", &json!("start it")));
    let vms = room.path.trim_end_matches("/web/console");
    room.door.admin("POST", vms).json(small_vm("unplaced")).send().await.expect(202);
    let nowhere = room.door.admin("POST", &format!("{vms}/unplaced/console")).send().await.expect(409);
    assert_eq!(nowhere.body["reasons"][0]["code"], "not_placed");
}

#[tokio::test]
async fn consoles_of_a_vm_are_bounded() {
    let room = Room::new().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(room.console(&room.door.admin).await);
    }
    assert_eq!(room.open(&room.door.admin).await.unwrap().0.status(), 429);
    room.counts(4).await;
    open.pop();
    room.counts(3).await;
    room.console(&room.door.admin).await;
}

#[tokio::test]
async fn s6_a_console_ends_when_the_token_is_revoked_or_nothing_is_said() {
    let room = Room::new().await;
    let body = json!({"name": "typist", "grants": [{"role": "operator", "scope": in_project(room.project)}]});
    let made = room.door.admin("POST", "/v1/service-tokens").json(body).send().await.expect(201);
    let (mut user, mut agent) = room.console(made.body["token"].as_str().unwrap()).await;
    let (mut silent, _silent_agent) = room.console(&room.door.admin).await;
    room.door
        .admin("DELETE", &format!("/v1/service-tokens/{}", made.body["id"].as_str().unwrap()))
        .send()
        .await
        .expect(204);
    let begun = Instant::now();
    assert!(user.hear().await.is_err(), "the user is told that it was cut");
    assert_eq!(agent.hear().await.unwrap(), None);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    room.counts(1).await;
    room.door.clock.advance(chrono::TimeDelta::minutes(29));
    assert!(
        tokio::time::timeout(Duration::from_secs(3), silent.hear.next()).await.is_err(),
        "29 minutes are allowed"
    );
    room.door.clock.advance(chrono::TimeDelta::minutes(1));
    assert!(silent.hear().await.is_err());
    room.counts(0).await;
}
