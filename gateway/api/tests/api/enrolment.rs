//! Enrolment, renewal and revocation: a token is good once, a certificate for its host only.

use crate::door::{Call, Door};
use basalt_daemon::{pki, tls::Peer};
use basalt_model::HostId;
use serde_json::{Value, json};
use uuid::Uuid;

/// An enrolled host, as its agent would call.
pub struct Host {
    pub id: HostId,
    pub peer: Peer,
}

impl Host {
    pub fn get<'a>(&self, door: &'a Door, path: &str) -> Call<'a> {
        door.agent_call("GET", path).peer(&self.peer)
    }

    pub fn post<'a>(&self, door: &'a Door, path: &str) -> Call<'a> {
        door.agent_call("POST", path).peer(&self.peer)
    }
}

/// What the TLS layer would say of a certificate: URI and serial, read from the certificate itself.
fn peer(certificate_pem: &str) -> Peer {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).unwrap();
    let cert = pem.parse_x509().unwrap();
    let names = cert.subject_alternative_name().unwrap().unwrap();
    let uris = names.value.general_names.iter().filter_map(|n| match n {
        x509_parser::prelude::GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let serial = cert.raw_serial().iter().map(|b| format!("{b:02x}")).collect();
    Peer { uris: uris.collect(), serial }
}

async fn create(door: &Door, name: &str) -> (String, String) {
    let made =
        door.admin("POST", "/v1/hosts").json(json!({"name": name, "spec": {}})).send().await.expect(201);
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    (text(&made.body["host"]["id"]), text(&made.body["join_token"]["token"]))
}

fn request(token: &str, hostname: &str, csr: &str) -> Value {
    json!({"join_token": token, "hostname": hostname, "csr_pem": csr})
}

/// Makes a host known and enrols it.
pub async fn enrol(door: &Door, name: &str) -> Host {
    let (id, token) = create(door, name).await;
    let (_, csr) = pki::key_and_request().unwrap();
    let answer =
        door.agent_call("POST", "/agent/v1/enrol").json(request(&token, name, &csr)).send().await.expect(200);
    let peer = peer(answer.body["certificate_pem"].as_str().unwrap());
    assert_eq!(peer.uris, [format!("basalt:host:{id}")]);
    door.until("the host's certificate", |rows| rows.certificate(&peer.serial).is_some()).await;
    Host { id: id.parse().unwrap(), peer }
}

#[tokio::test]
async fn s38_a_join_token_is_good_once_for_its_host_and_for_a_short_time() {
    let door = Door::new().await;
    let (_, token) = create(&door, "h1").await;
    let (_, csr) = pki::key_and_request().unwrap();
    let send = |body| door.agent_call("POST", "/agent/v1/enrol").json(body).send();
    send(request("basalt_guess", "h1", &csr)).await.expect(401);
    let other = send(request(&token, "h2", &csr)).await.expect(422);
    assert_eq!(other.body["errors"][0]["field"], "hostname");
    let rubbish = send(request(
        &token,
        "h1",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ))
    .await
    .expect(422);
    assert_eq!(rubbish.body["errors"][0]["field"], "csr_pem");
    // What was refused used nothing up.
    send(request(&token, "h1", &csr)).await.expect(200);
    send(request(&token, "h1", &csr)).await.expect(401);
    let (_, late) = create(&door, "h2").await;
    door.clock.advance(chrono::TimeDelta::minutes(60));
    send(request(&late, "h2", &csr)).await.expect(401);
    let (_, first) = create(&door, "h3").await;
    let second = door.admin("POST", "/v1/hosts/h3/join-token").send().await.expect(201);
    send(request(&first, "h3", &csr)).await.expect(401);
    send(request(second.body["token"].as_str().unwrap(), "h3", &csr)).await.expect(200);
}

#[tokio::test]
async fn s38_only_the_key_of_a_request_is_used_and_the_certificate_is_short_lived() {
    let door = Door::new().await;
    let (id, token) = create(&door, "h1").await;
    let (_, csr) = pki::key_and_request().unwrap();
    let answer =
        door.agent_call("POST", "/agent/v1/enrol").json(request(&token, "h1", &csr)).send().await.expect(200);
    let pem = answer.body["certificate_pem"].as_str().unwrap();
    let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let cert = parsed.parse_x509().unwrap();
    let usage = cert.extended_key_usage().unwrap().unwrap().value.clone();
    assert!(usage.client_auth && !usage.server_auth && !cert.is_ca());
    let life = cert.validity().not_after.timestamp() - basalt_store::testkit::now().timestamp();
    assert_eq!(life, 24 * 3600);
    assert_eq!(peer(pem).uris, [format!("basalt:host:{id}")]);
    assert!(!answer.body.to_string().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn s38_every_request_is_checked_against_the_row() {
    let door = Door::new().await;
    let (a, b) = (enrol(&door, "a").await, enrol(&door, "b").await);
    let ask = |uris: Vec<String>, serial: &str| {
        let peer = Peer { uris, serial: serial.into() };
        let door = &door;
        async move { door.agent_call("GET", "/agent/v1/manifest").peer(&peer).send().await.status }
    };
    let uri = |h: &Host| h.peer.uris.clone();
    assert_eq!(ask(uri(&a), &a.peer.serial).await, 200);
    assert_eq!(ask(uri(&a), &b.peer.serial).await, 401);
    assert_eq!(ask(uri(&a), "00").await, 401);
    assert_eq!(ask(Vec::new(), "").await, 401);
    assert_eq!(ask([uri(&a), uri(&b)].concat(), &a.peer.serial).await, 401);
    assert_eq!(ask(vec!["basalt:image-service".into()], &a.peer.serial).await, 401);
    assert_eq!(ask(vec![format!("basalt:host:{}", Uuid::nil())], &a.peer.serial).await, 401);
    door.clock.advance(chrono::TimeDelta::hours(24));
    assert_eq!(ask(uri(&a), &a.peer.serial).await, 401);
}

#[tokio::test]
async fn h1_a_host_enrols_renews_and_is_refused_once_revoked() {
    let door = Door::new().await;
    let host = enrol(&door, "h1").await;
    let (_, csr) = pki::key_and_request().unwrap();
    door.clock.advance(chrono::TimeDelta::hours(12));
    let renewed = host.post(&door, "/agent/v1/renew").json(json!({"csr_pem": csr})).send().await.expect(200);
    let newer = Host { id: host.id, peer: peer(renewed.body["certificate_pem"].as_str().unwrap()) };
    assert_ne!(newer.peer.serial, host.peer.serial);
    for h in [&host, &newer] {
        h.get(&door, "/agent/v1/manifest").send().await.expect(200);
    }
    door.clock.advance(chrono::TimeDelta::hours(13));
    host.get(&door, "/agent/v1/manifest").send().await.expect(401);
    newer.get(&door, "/agent/v1/manifest").send().await.expect(200);
    door.admin("POST", "/v1/hosts/h1/revoke").send().await.expect(204);
    let serial = newer.peer.serial.clone();
    door.until("the revocation", |rows| rows.certificate(&serial).is_some_and(|c| c.revoked_at.is_some()))
        .await;
    newer.get(&door, "/agent/v1/manifest").send().await.expect(401);
    newer.post(&door, "/agent/v1/renew").json(json!({"csr_pem": csr})).send().await.expect(401);
    let token = door.admin("POST", "/v1/hosts/h1/join-token").send().await.expect(201);
    let again = request(token.body["token"].as_str().unwrap(), "h1", &csr);
    let again = door.agent_call("POST", "/agent/v1/enrol").json(again).send().await.expect(200);
    let host = Host { id: host.id, peer: peer(again.body["certificate_pem"].as_str().unwrap()) };
    host.get(&door, "/agent/v1/manifest").send().await.expect(200);
}
