//! The engine dies, stands still, or has never been there: typed errors in time, and all is as it was afterwards.

use super::bench::{LocalBench, now};
use crate::contract::{Bench, ready, workload};
use basalt_adapters::{Adapter, Applied, Error, LogOptions, local::Local};
use basalt_model::deployments::{ErrorClass, Workload};
use std::{sync::Arc, time::Duration};

/// What each call says.
async fn every_call(adapter: &dyn Adapter, wanted: &Workload) -> Vec<(&'static str, Error)> {
    vec![
        ("health", adapter.health().await.unwrap_err()),
        ("deploy", adapter.deploy(wanted).await.unwrap_err()),
        ("undeploy", adapter.undeploy(&wanted.owner, wanted.epoch).await.unwrap_err()),
        ("observe", adapter.observe().await.unwrap_err()),
        ("observe_one", adapter.observe_one(&wanted.owner).await.unwrap_err()),
        ("logs", adapter.logs(&wanted.owner, LogOptions::default()).await.err().unwrap()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_gone_or_stands_still_is_said_in_time_and_loses_nothing() {
    let bench = LocalBench::start();
    let wanted = workload(&bench, 30);
    let adapter = bench.adapter();
    adapter.deploy(&wanted).await.unwrap();
    let before = ready(&bench, &wanted.owner).await;

    bench.engine.lock().unwrap().signal("STOP").unwrap();
    let hasty = Local::new("default", bench.options.clone(), Duration::from_millis(400), Arc::new(now));
    let slow = tokio::time::timeout(Duration::from_secs(6), every_call(&hasty, &wanted)).await.unwrap();
    for (call, error) in slow {
        assert_eq!(
            (error.class, &*error.reason.code),
            (ErrorClass::Timeout, "engine_slow"),
            "{call}: {error}"
        );
    }
    bench.engine.lock().unwrap().signal("CONT").unwrap();
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Unchanged);

    bench.engine.lock().unwrap().signal("KILL").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let gone = tokio::time::timeout(Duration::from_secs(6), every_call(&*adapter, &wanted)).await.unwrap();
    for (call, error) in gone {
        assert_eq!(
            (error.class, &*error.reason.code),
            (ErrorClass::Transient, "engine_gone"),
            "{call}: {error}"
        );
        assert!(error.reason.remedy.contains("start the engine"), "{error}");
    }
    bench.engine.lock().unwrap().start_service().unwrap();
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Unchanged);
    assert_eq!(ready(&bench, &wanted.owner).await, before, "what ran went on");
}

#[tokio::test]
async fn an_engine_that_never_was_is_said() {
    let options = serde_json::json!({ "socket": "/nonexistent/engine.sock" });
    let adapter = Local::new(
        "default",
        serde_json::from_value(options).unwrap(),
        Duration::from_secs(5),
        Arc::new(now),
    );
    let error = adapter.observe().await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Transient, "engine_gone"), "{error}");
    assert_eq!(error.reason.subject, "engine/default");
}

#[tokio::test]
async fn health_names_the_engine_and_what_it_cannot() {
    let bench = LocalBench::start();
    let health = bench.adapter().health().await.unwrap();
    assert!(health.version.starts_with("podman 4."), "{}", health.version);
    let codes = |limits: &[basalt_model::CapabilityReason]| -> Vec<String> {
        limits.iter().map(|limit| limit.code.to_string()).collect()
    };
    assert_eq!(codes(&health.limits), Vec::<String>::new());
    let poor = bench.with(|options| {
        options.runtime = Some("crun".into());
        options.bridge = Some("/nonexistent/bridge".into());
        options.network = None;
    });
    let limits = poor.health().await.unwrap().limits;
    assert_eq!(codes(&limits), ["loopback_address", "runtime_ignored", "bridge_missing"]);
}
