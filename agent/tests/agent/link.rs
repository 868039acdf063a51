//! The link over real mutual TLS: a small gateway of the daemon's own parts on a loopback socket.

use crate::rig::{HOST, one};
use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use basalt_agent::{
    Config, Error,
    host::Downloads,
    identity::Identity,
    link::{Gateway, Link},
    task_logs::TaskLog,
};
use basalt_daemon::{
    Clock, Drain, ManualClock,
    pki::{Authority, Subject},
    tls::{Peer, serve, server_config},
};
use basalt_model::{DateTime, Generation, ImageId};
use basalt_wire::{
    agent::{
        ItemKind, Report, ReportAnswer, enrol,
        task_logs::{LogAnswer, LogBatch, LogSubject},
    },
    rest::{Problem, TransferGrant},
};
use chrono::TimeDelta;
use futures::StreamExt;
use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};
use uuid::Uuid;

const BLOB: &[u8] = b"0123456789abcdef";

struct Site {
    authority: Authority,
    clock: ManualClock,
    url: String,
    /// What the next report is answered with.
    mood: AtomicU8,
    ranges: AtomicBool,
    seen: Mutex<Vec<String>>,
}

impl Site {
    fn sign(&self, csr: &str) -> enrol::Identity {
        let now = self.clock.now();
        let (not_after, uri) = (now + TimeDelta::hours(24), format!("basalt:host:{HOST}"));
        let subject = Subject { name: "h1", hosts: &[], uri: Some(&uri), now, not_after, serial: [7; 16] };
        let issued = self.authority.sign_request(csr, &subject).unwrap();
        let (certificate_pem, ca_pem) = (issued.cert_pem, self.authority.cert_pem().to_owned());
        enrol::Identity { host_id: HOST, certificate_pem, ca_pem, not_after }
    }
    fn note(&self, what: &str, peer: &Peer) {
        self.seen.lock().unwrap().push(format!("{what} {}", peer.uris.join(",")));
    }
}

type At = State<Arc<Site>>;

async fn enrolment(State(site): At, Json(request): Json<enrol::EnrolRequest>) -> Response {
    if request.join_token != "once" || request.hostname != "h1" {
        return problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    Json(site.sign(&request.csr_pem)).into_response()
}

async fn renewal(
    State(site): At,
    peer: Extension<Peer>,
    Json(request): Json<enrol::RenewRequest>,
) -> Response {
    site.note("renew", &peer);
    Json(site.sign(&request.csr_pem)).into_response()
}

async fn manifest(State(site): At, peer: Extension<Peer>, headers: HeaderMap) -> Response {
    site.note("manifest", &peer);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == "\"1\"") {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    ([(header::ETAG, "\"1\"")], Json(one(1, |_| {}))).into_response()
}

async fn report(State(site): At, headers: HeaderMap, Json(_): Json<Report>) -> Response {
    assert!(headers.contains_key("basalt-agent-boot"));
    in_mood(&site, ReportAnswer { send_full: true })
}

async fn log(State(site): At, headers: HeaderMap, Json(batch): Json<LogBatch>) -> Response {
    assert!(headers.contains_key("basalt-agent-boot"));
    in_mood(&site, LogAnswer { refused: u32::try_from(batch.lines.len()).unwrap() })
}

fn in_mood(site: &Site, well: impl serde::Serialize) -> Response {
    match site.mood.load(Ordering::Relaxed) {
        0 => Json(well).into_response(),
        1 => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "7")]).into_response(),
        2 => problem(StatusCode::FORBIDDEN, "revoked"),
        3 => problem(StatusCode::CONFLICT, "fenced"),
        _ => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

fn problem(status: StatusCode, code: &str) -> Response {
    (status, Json(Problem::new(status.as_u16(), code, code, format!("it is {code}")))).into_response()
}

async fn grant(State(site): At, Path(image): Path<Uuid>) -> Json<TransferGrant> {
    let expires_at = site.clock.now();
    Json(TransferGrant { url: format!("{}/blobs", site.url), token: image.to_string(), expires_at })
}

async fn blob(State(site): At, headers: HeaderMap) -> Response {
    assert!(headers[header::AUTHORIZATION].to_str().unwrap().starts_with("Bearer "));
    let from = headers
        .get(header::RANGE)
        .map(|r| r.to_str().unwrap()["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
    match from.filter(|_| site.ranges.load(Ordering::Relaxed)) {
        Some(from) => (StatusCode::PARTIAL_CONTENT, Body::from(&BLOB[from..])).into_response(),
        None => Body::from(BLOB).into_response(),
    }
}

struct Rig {
    site: Arc<Site>,
    config: Config,
    _dir: tempfile::TempDir,
    drain: Drain,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.drain.begin();
    }
}

/// Certificates are checked against the real time, so the clock begins there; only tests may ask for it.
#[allow(clippy::disallowed_methods)]
fn today() -> DateTime {
    chrono::Utc::now()
}

fn begin() -> Rig {
    let clock = ManualClock::new(today(), 1);
    let (authority, _) = Authority::create("test", clock.now()).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let url = format!("https://localhost:{}", socket.local_addr().unwrap().port());
    let (now, hosts) = (clock.now(), ["localhost".to_owned()]);
    let subject = Subject {
        name: "gateway",
        hosts: &hosts,
        uri: None,
        now,
        not_after: now + TimeDelta::days(30),
        serial: [1; 16],
    };
    let (issued, key) = authority.issue(&subject).unwrap();
    let tls = server_config(&issued.cert_pem, &key, Some(authority.cert_pem())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.cert_pem()).unwrap();
    std::fs::write(dir.path().join("token"), "once\n").unwrap();
    let at = dir.path().display();
    let config = Config::parse(&format!(
        "[gateway]\nurl = \"{url}\"\nca = \"{at}/ca.pem\"\n[state]\ndir = \"{at}\"\n[host]\nname = \"h1\"\njoin_token_file = \"{at}/token\"\n"
    ))
    .unwrap();
    let (mood, ranges, seen) = (AtomicU8::new(0), AtomicBool::new(true), Mutex::default());
    let site = Arc::new(Site { authority, clock, url, mood, ranges, seen });
    let router = Router::new()
        .route("/agent/v1/enrol", post(enrolment))
        .route("/agent/v1/renew", post(renewal))
        .route("/agent/v1/manifest", get(manifest))
        .route("/agent/v1/report", post(report))
        .route("/agent/v1/log", post(log))
        .route("/agent/v1/images/{image}/download", post(grant))
        .route("/blobs", get(blob))
        .with_state(site.clone());
    let drain = Drain::new();
    tokio::spawn(serve(vec![socket], tls, router, drain.clone()));
    Rig { site, config, _dir: dir, drain }
}

async fn enrolled(rig: &Rig) -> Link {
    let identity = Link::enrol(&rig.config, &rig.site.clock).await.unwrap();
    let clock = Arc::new(ManualClock::new(rig.site.clock.now(), 2));
    Link::new(&rig.config, identity, clock, Uuid::from_u128(1)).unwrap()
}

#[tokio::test]
async fn h1_an_agent_enrols_with_its_own_key_and_speaks_under_its_certificate() {
    let rig = begin();
    let link = enrolled(&rig).await;
    let kept = Identity::load(&rig.config.state.dir).unwrap().unwrap();
    assert!(kept.key_pem.contains("PRIVATE KEY") && kept.host_id == HOST);
    let fetched = link.manifest(None).await.unwrap().unwrap();
    assert_eq!(fetched.revision, 1);
    assert!(link.manifest(Some(1)).await.unwrap().is_none());
    assert_eq!(
        rig.site.seen.lock().unwrap().as_slice(),
        [format!("manifest basalt:host:{HOST}"), format!("manifest basalt:host:{HOST}")]
    );
}

#[tokio::test]
async fn h1_a_token_that_is_not_taken_ends_the_enrolment() {
    let rig = begin();
    std::fs::write(rig.config.host.join_token_file.as_ref().unwrap(), "twice").unwrap();
    assert!(matches!(Link::enrol(&rig.config, &rig.site.clock).await, Err(Error::Rejected(_))));
    assert!(Identity::load(&rig.config.state.dir).unwrap().is_none());
}

#[tokio::test]
async fn h1_the_certificate_is_renewed_at_half_of_its_life_under_the_old_one() {
    let rig = begin();
    let identity = Link::enrol(&rig.config, &rig.site.clock).await.unwrap();
    let clock = Arc::new(ManualClock::new(rig.site.clock.now(), 2));
    let link = Link::new(&rig.config, identity.clone(), clock.clone(), Uuid::from_u128(1)).unwrap();
    assert_eq!(link.renew().await.unwrap(), Some(identity.renew_at()));
    assert!(rig.site.seen.lock().unwrap().is_empty(), "nothing was asked before half of its life");
    clock.advance(TimeDelta::hours(13));
    link.renew().await.unwrap();
    assert_eq!(rig.site.seen.lock().unwrap().as_slice(), [format!("renew basalt:host:{HOST}")]);
    let kept = Identity::load(&rig.config.state.dir).unwrap().unwrap();
    assert!(kept.key_pem != identity.key_pem && kept.certificate_pem != identity.certificate_pem);
    assert!(link.manifest(None).await.is_ok(), "the new one is in use");
}

#[tokio::test]
async fn patience_refusal_and_failure_are_told_apart() {
    let rig = begin();
    let link = enrolled(&rig).await;
    let report = Report::default();
    assert!(link.report(&report).await.unwrap().send_full);
    rig.site.mood.store(1, Ordering::Relaxed);
    assert!(matches!(link.report(&report).await, Err(Error::Busy(wait)) if wait.as_secs() == 7));
    for mood in [2, 3] {
        rig.site.mood.store(mood, Ordering::Relaxed);
        assert!(matches!(link.report(&report).await, Err(Error::Rejected(_))), "{mood}");
    }
    rig.site.mood.store(4, Ordering::Relaxed);
    let e = link.report(&report).await.unwrap_err();
    assert!(matches!(&e, Error::Link { why, .. } if why.contains("it is internal")), "{e}");
}

#[tokio::test]
async fn t1_lines_for_logs_wait_while_the_gateway_asks_for_patience() {
    let rig = begin();
    let link = enrolled(&rig).await;
    let (log, clock) = (TaskLog::new(Uuid::from_u128(1)), &rig.site.clock);
    let about = LogSubject { kind: ItemKind::Vm, id: Uuid::from_u128(9), generation: Generation(1) };
    log.say(clock.now(), &[about], "started");
    rig.site.mood.store(1, Ordering::Relaxed);
    let busy = log.flush(&link, clock).await;
    assert!(matches!(busy, Err(Error::Busy(wait)) if wait.as_secs() == 7) && !log.is_empty());
    rig.site.mood.store(0, Ordering::Relaxed);
    log.flush(&link, clock).await.unwrap();
    assert!(log.is_empty());
    log.say(clock.now(), &[about], "stopped");
    let answer = link.log(&log.draft(clock.now()).unwrap()).await.unwrap();
    assert_eq!(answer, LogAnswer { refused: 1 });
}

#[tokio::test]
async fn a_gateway_of_another_authority_is_not_believed() {
    let rig = begin();
    let (other, _) = Authority::create("other", rig.site.clock.now()).unwrap();
    std::fs::write(&rig.config.gateway.ca, other.cert_pem()).unwrap();
    let e = Link::enrol(&rig.config, &rig.site.clock).await.unwrap_err();
    assert!(matches!(&e, Error::Link { .. }) && e.to_string().contains("certificate"), "{e}");
}

#[tokio::test]
async fn a_download_resumes_where_it_stopped_with_and_without_ranges() {
    let rig = begin();
    let link = enrolled(&rig).await;
    for ranges in [true, false] {
        rig.site.ranges.store(ranges, Ordering::Relaxed);
        for offset in [0, 5, 15] {
            let mut download = link.open(ImageId(Uuid::from_u128(3)), offset as u64).await.unwrap();
            assert_eq!(download.size_bytes, BLOB.len() as u64);
            let mut bytes = Vec::new();
            while let Some(piece) = download.bytes.next().await {
                bytes.extend_from_slice(&piece.unwrap());
            }
            assert_eq!(bytes, &BLOB[offset..], "ranges {ranges} from {offset}");
        }
    }
}
