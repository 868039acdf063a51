//! The whole gateway in this process: real TLS, real PostgreSQL, its own reconciler.

#![allow(clippy::unwrap_used)]

use basalt_daemon::{Clock, SystemClock, pki};
use basalt_gateway::{Config, Database, Gateway, Image, Listen, Pki, Running, State};
use basalt_store::testkit;
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

fn config(dir: &Path, db: &testkit::Database) -> Config {
    let keys = dir.join("token.keys");
    std::fs::write(&keys, format!("1 {}\n", "ab".repeat(32))).unwrap();
    Config {
        database: Database { url: db.url(), owner_url: Some(db.owner_url()), max_connections: 8 },
        listen: Listen { users: "127.0.0.1:0".into(), agents: "127.0.0.1:0".into() },
        pki: Pki { dir: dir.join("pki"), server_names: vec!["127.0.0.1".into()] },
        image: Image { url: "https://127.0.0.1:1".into(), public_url: None, token_key_file: keys },
        state: State { dir: dir.join("state") },
        tasks: Default::default(),
        secrets: Default::default(),
        engines: Default::default(),
        kubernetes: Default::default(),
    }
}

async fn start(dir: &Path, db: &testkit::Database) -> Running {
    Gateway::start(config(dir, db), Arc::new(SystemClock) as Arc<dyn Clock>).await.unwrap()
}

fn client(ca_pem: &str, identity: Option<String>) -> reqwest::Client {
    let ca = reqwest::Certificate::from_pem(ca_pem.as_bytes()).unwrap();
    let mut builder = reqwest::Client::builder().tls_certs_only([ca]);
    if let Some(pem) = identity {
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    builder.build().unwrap()
}

async fn until_ready(http: &reqwest::Client, running: &Running) -> Duration {
    let begun = Instant::now();
    loop {
        let answer = http.get(format!("https://{}/readyz", running.users)).send().await.unwrap();
        if answer.status() == 200 {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", answer.text().await.unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn body(response: reqwest::Response, status: u16) -> Value {
    let (got, text) = (response.status().as_u16(), response.text().await.unwrap());
    assert_eq!(got, status, "{text}");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s17_the_first_boot_token_is_shown_once_and_a_host_enrols_over_mutual_tls() {
    let (dir, db) = (tempfile::tempdir().unwrap(), testkit::Database::new().await);
    let running = start(dir.path(), &db).await;
    let token = running.first_boot_token.clone().expect("a fresh gateway shows a token");
    running.stop().await.unwrap();
    // A restart shows nothing: the token that was shown is still good.
    let running = start(dir.path(), &db).await;
    assert_eq!(running.first_boot_token, None);
    let http = client(&running.ca_pem, None);
    until_ready(&http, &running).await;
    let url = format!("https://{}", running.users);
    let login = json!({"user": "alice", "password": "correct horse battery", "first_boot_token": token});
    let session = body(http.post(format!("{url}/v1/login")).json(&login).send().await.unwrap(), 200).await;
    let bearer = session["token"].as_str().unwrap();
    let host = json!({"name": "h1", "spec": {}});
    let made = http.post(format!("{url}/v1/hosts")).bearer_auth(bearer).json(&host).send().await.unwrap();
    let made = body(made, 201).await;
    let metrics = http.get(format!("{url}/metrics")).bearer_auth(bearer).send().await.unwrap();
    let metrics = body(metrics, 200).await;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("basalt_http_requests_total"));
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|l| l.strip_prefix(&format!("basalt_{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not there")).parse().unwrap()
    };
    // What was just made may not have been taken in yet.
    assert!(value("graph_revision") >= 0.0 && value("graph_runs_total") >= 0.0);
    assert!(value("feed_lag_seconds") < 60.0 && value("graph_differences_total") == 0.0);
    let counters =
        http.get(format!("{url}/debug/graph?about=counters")).bearer_auth(bearer).send().await.unwrap();
    assert!(body(counters, 200).await.as_str().unwrap().starts_with("revision "));

    let door = format!("https://{}/agent/v1", running.agents);
    let refused = http.get(format!("{door}/manifest")).send().await.unwrap();
    assert_eq!(body(refused, 401).await["code"], "unauthenticated");
    let (key, csr) = pki::key_and_request().unwrap();
    let enrol = json!({"join_token": made["join_token"]["token"], "hostname": "h1", "csr_pem": csr});
    let identity = body(http.post(format!("{door}/enrol")).json(&enrol).send().await.unwrap(), 200).await;
    let pem = format!("{}{key}", identity["certificate_pem"].as_str().unwrap());
    let agent = client(&running.ca_pem, Some(pem));
    let manifest = body(agent.get(format!("{door}/manifest")).send().await.unwrap(), 200).await;
    assert_eq!((&manifest["host_id"], &manifest["items"]), (&made["host"]["id"], &json!([])));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s13_failed_logins_are_counted_by_the_address_of_the_socket() {
    let (dir, db) = (tempfile::tempdir().unwrap(), testkit::Database::new().await);
    let running = start(dir.path(), &db).await;
    let ca = reqwest::Certificate::from_pem(running.ca_pem.as_bytes()).unwrap();
    let from = |address: [u8; 4]| {
        let builder = reqwest::Client::builder().tls_certs_only([ca.clone()]);
        builder.local_address(std::net::IpAddr::from(address)).build().unwrap()
    };
    let (guesser, other) = (from([127, 0, 0, 2]), from([127, 0, 0, 3]));
    let url = format!("https://{}/v1/login", running.users);
    let login = |http: &reqwest::Client, n: u32| {
        // What a client writes into headers is not its address.
        let call = http.post(&url).header("x-forwarded-for", format!("10.0.0.{n}"));
        call.json(&json!({"user": format!("u{n}"), "password": "not this one at all"})).send()
    };
    for n in 0..30 {
        body(login(&guesser, n).await.unwrap(), 401).await;
    }
    let limited = login(&guesser, 30).await.unwrap();
    let wait: u64 = limited.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&wait), "{wait}");
    assert_eq!(body(limited, 429).await["code"], "login_limited");
    body(login(&other, 31).await.unwrap(), 401).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_survives_a_restart_and_long_polls_end_with_the_process() {
    let (dir, db) = (tempfile::tempdir().unwrap(), testkit::Database::new().await);
    let ids = testkit::ids(3);
    let (_, project) = testkit::project(&db, &ids, "acme").await;
    let running = start(dir.path(), &db).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let name = basalt_model::Name::new("t").unwrap();
    let issued =
        basalt_api::create_local(&db.store, &clock, name, basalt_model::roles::Role::Admin, 1).await.unwrap();
    let (http, vms) = (client(&running.ca_pem, None), format!("/v1/projects/{project}/vms"));
    until_ready(&http, &running).await;
    let vm = json!({"name": "a", "spec": {"cpus": 1, "memory_bytes": 268435456,
        "disks": [{"name": "root", "source": {"kind": "blank"}, "size_bytes": 1048576}]}});
    let create = http.post(format!("https://{}{vms}", running.users)).bearer_auth(&issued.token).json(&vm);
    let made = body(create.send().await.unwrap(), 202).await;
    let poll = format!(
        "https://{}/v1/tasks/{}?wait_seconds=50",
        running.users,
        made["task"]["id"].as_str().unwrap()
    );
    let held = tokio::spawn(http.get(poll).bearer_auth(&issued.token).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    running.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let state = body(held.await.unwrap().unwrap(), 200).await["state"].clone();
    assert!(state == "pending" || state == "executing", "{state}");
    let running = start(dir.path(), &db).await;
    until_ready(&client(&running.ca_pem, None), &running).await;
    let get = client(&running.ca_pem, None)
        .get(format!("https://{}{vms}/a", running.users))
        .bearer_auth(&issued.token);
    let shown = body(get.send().await.unwrap(), 200).await;
    assert_eq!(shown["id"], made["object"]["id"]);
    running.stop().await.unwrap();
}
