//! What Basalt did not start: seen, left alone, adopted; and what runs elsewhere.

use super::bench::{IMAGE, LocalBench};
use crate::contract::{Bench, ready, seen, workload};
use basalt_adapters::{Applied, Removed};
use basalt_model::{Epoch, artifacts::Source, deployments::ErrorClass};

#[tokio::test]
async fn adopting_names_the_owner_without_touching_what_runs() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    bench.podman(&[
        "run",
        "--detach",
        "--name",
        "found",
        "--env",
        "KEY=hush-hush",
        "--network",
        "host",
        IMAGE,
        "sleep",
    ]);
    let started = |name: &str| bench.podman(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", name]);
    let before = started("found");
    let all = adapter.observe().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((&*all[0].kind, &*all[0].name, all[0].owner), ("container", "found", None));
    assert!(!serde_json::to_string(&all).unwrap().contains("hush-hush"));

    let (ours, other) = (workload(&bench, 70), workload(&bench, 71));
    adapter.adopt(&all[0], &ours.owner, Epoch(5)).await.unwrap();
    adapter.adopt(&all[0], &ours.owner, Epoch(5)).await.unwrap();
    let error = adapter.adopt(&all[0], &other.owner, Epoch(6)).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Conflict, "other_owner"), "{error}");
    let found = adapter.observe_one(&ours.owner).await.unwrap();
    assert_eq!(found[0].owner, Some(ours.owner.id));
    assert_eq!(started(&found[0].name), before, "what runs was not touched");
    let observed = seen(&bench, &ours.owner).await.unwrap();
    assert_eq!((observed.epoch, observed.fingerprint), (Some(Epoch(5)), None));
    assert_eq!(adapter.undeploy(&ours.owner, Epoch(4)).await.unwrap_err().reason.code, "newer_attempt");

    // The next deploy makes it what the deployment says.
    let mut wanted = ours.clone();
    wanted.epoch = Epoch(6);
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Changed);
    ready(&bench, &ours.owner).await;
    assert_eq!(adapter.observe().await.unwrap().len(), 1);
    let error = adapter.adopt(&all[0], &other.owner, Epoch(6)).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Missing, "container_missing"), "{error}");
}

#[tokio::test]
async fn what_has_our_name_without_our_label_is_left_alone() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let wanted = workload(&bench, 72);
    let name = wanted.owner.workload_name();
    bench.podman(&["run", "--detach", "--name", &name, "--network", "host", IMAGE, "sleep"]);
    let error = adapter.deploy(&wanted).await.unwrap_err();
    assert_eq!((error.class, &*error.reason.code), (ErrorClass::Conflict, "other_owner"), "{error}");
    assert!(error.reason.remedy.contains("adopt"), "{error}");
    assert_eq!(adapter.undeploy(&wanted.owner, wanted.epoch).await.unwrap(), Removed::Absent);
    assert_eq!(bench.podman(&["inspect", "--format", "{{.State.Status}}", &name]), "running");
}

#[tokio::test]
async fn what_runs_elsewhere_is_not_started_here_and_no_longer_runs_here() {
    let bench = LocalBench::start();
    let adapter = bench.adapter();
    let mut wanted = workload(&bench, 73);
    adapter.deploy(&wanted).await.unwrap();
    wanted.program.source = Source::Remote { url: "https://mcp.example/mcp".into() };
    wanted.epoch = Epoch(2);
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Changed);
    assert_eq!(seen(&bench, &wanted.owner).await, None);
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Unchanged);
}
