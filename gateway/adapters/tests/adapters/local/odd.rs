//! Engines that answer oddly, played: a look is whole or an error, and what is said repeats no answer.

use super::bench::now;
use crate::contract::{Bench, workload};
use basalt_adapters::{Adapter, Normalise, local::Local};
use basalt_model::{
    Name,
    artifacts::{Source, Transport},
    deployments::{ErrorClass, Program},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixListener,
    sync::Arc,
    time::Duration,
};

const LISTING: &str = r#"[{"Id":"one"},{"Id":"two"}]"#;
const ONE: &str = r#"{"Id":"one","Name":"/one","State":{"Status":"running"},"Config":{"Env":["TOKEN=hush"]},"HostConfig":{},"New":"word"}"#;

/// An engine that gives one answer to each path, and an adapter for it; its socket goes with the guard.
fn engine(answers: &'static [(&'static str, u16, &'static str)]) -> (Local, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let options = serde_json::json!({ "socket": socket });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut first, mut length) = (String::new(), 0);
            reader.read_line(&mut first).unwrap();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) < 3 {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let _ = reader.read_exact(&mut vec![0; length]);
            let path = first.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
            let found = answers.iter().find(|(of, ..)| *of == path);
            let (status, body) =
                found.map_or((404, r#"{"message":"no such thing"}"#), |(_, status, body)| (*status, body));
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    let local =
        Local::new("odd", serde_json::from_value(options).unwrap(), Duration::from_secs(5), Arc::new(now));
    (local, dir)
}

#[tokio::test]
async fn a_container_that_cannot_be_looked_at_fails_the_whole_look() {
    let (failing, _dir) = engine(&[
        ("/containers/json", 200, LISTING),
        ("/containers/one/json", 200, ONE),
        ("/containers/two/json", 500, r#"{"message":"database is locked"}"#),
    ]);
    let error = failing.observe().await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Transient, "engine_failed"), "{error}");
    assert_eq!(error.reason.evidence, "database is locked");
}

#[tokio::test]
async fn a_container_that_goes_while_one_looks_is_not_there_and_new_words_of_an_engine_break_nothing() {
    let (going, _dir) = engine(&[("/containers/json", 200, LISTING), ("/containers/one/json", 200, ONE)]);
    let names: Vec<String> = going.observe().await.unwrap().into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["one"]);
}

#[tokio::test]
async fn an_answer_that_is_not_understood_is_not_repeated() {
    let (odd, _dir) = engine(&[
        ("/containers/json", 200, LISTING),
        ("/containers/one/json", 200, r#"{"Id":"one","Config":{"Env":["TOKEN=hush"]"#),
    ]);
    let error = odd.observe().await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Transient, "engine_broke_off"), "{error:?}");
    assert!(!format!("{error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn an_engine_that_forbids_is_auth() {
    let (closed, _dir) =
        engine(&[("/containers/json", 403, r#"{"message":"authorization denied by plugin"}"#)]);
    let error = closed.observe().await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Auth, "engine_refuses"), "{error}");
}

#[tokio::test]
async fn a_limit_that_the_engine_cannot_hold_is_refused_and_said() {
    let (weak, _dir) = engine(&[
        ("/containers/json", 200, "[]"),
        ("/version", 200, r#"{"Version":"27.1","Components":[{"Name":"Engine"}]}"#),
        ("/info", 200, r#"{"MemoryLimit":false,"CpuCfsQuota":true,"SecurityOptions":["name=rootless"]}"#),
    ]);
    let health = weak.health().await.unwrap();
    let codes: Vec<&str> = health.limits.iter().map(|limit| &*limit.code).collect();
    assert_eq!(
        (&*health.version, codes),
        ("docker 27.1", vec!["not_limited", "rootless", "loopback_address"])
    );
    let mut wanted = workload(&Nowhere, 96);
    wanted.resources.memory_bytes = Some(64 << 20);
    let error = weak.deploy(&wanted).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Permanent, "not_limited"), "{error}");
    assert!(error.reason.remedy.contains("memory_bytes"), "{error:?}");
}

/// A bench for workloads that go nowhere.
struct Nowhere;

impl Bench for Nowhere {
    fn adapter(&self) -> Arc<dyn Adapter> {
        unreachable!()
    }
    fn normalise(&self) -> Normalise {
        basalt_adapters::local::normalise
    }
    fn program(&self) -> Program {
        Program {
            source: Source::Image { image: "example/web:1".into() },
            transport: Transport::default(),
            command: Vec::new(),
            args: Vec::new(),
            health: None,
        }
    }
    fn log_text(&self) -> &'static str {
        ""
    }
    fn namespace(&self) -> Option<Name> {
        None
    }
}
