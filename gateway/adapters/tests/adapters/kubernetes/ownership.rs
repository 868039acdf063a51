//! What belongs to others: fields that they hold, what they add, what they changed by hand, and what is adopted.

use super::{cluster, workload};
use crate::contract::{changed, gone, ready};
use basalt_adapters::{Adapter, Applied};
use basalt_model::{Epoch, deployments::ErrorClass};
use serde_json::json;

/// What others wrote on our objects stays when we write again (the adapter's side of DP56).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_added_outlives_the_next_deploy() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    let wanted = workload(&cluster, 1);
    adapter.deploy(&wanted).await.unwrap();
    let before = ready(&cluster, &wanted.owner).await;
    let named = wanted.owner.workload_name();
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": named, "labels": { "team": "blue" }, "annotations": { "team/note": "keep" } },
        "spec": { "template": { "spec": { "containers": [{ "name": "sidecar", "image": "proxy:1" }] } } },
    });
    cluster.server.apply("deployments", "tools", &named, theirs, "mesh", false).unwrap();
    let strategy = |d: &mut serde_json::Value| d["spec"]["revisionHistoryLimit"] = 3.into();
    cluster.server.edit("deployments", "tools", &named, "kubectl-edit", strategy).unwrap();
    assert_eq!(
        cluster.seen(&wanted.owner).await.unwrap().drift,
        Vec::<String>::new(),
        "nothing of ours differs"
    );
    assert_eq!(adapter.deploy(&wanted).await.unwrap(), Applied::Unchanged);
    // Twice, for the first of them makes ours what was made by POST.
    let mut next = wanted.clone();
    for _ in 0..2 {
        next = changed(&next);
        assert_eq!(adapter.deploy(&next).await.unwrap(), Applied::Changed);
        let object = cluster.server.object("deployments", "tools", &named).unwrap();
        assert_eq!(object["metadata"]["labels"]["team"], "blue");
        assert_eq!(object["metadata"]["annotations"]["team/note"], "keep");
        assert_eq!(object["spec"]["revisionHistoryLimit"], 3);
        assert_eq!(object["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
        assert!(object["status"]["observedGeneration"].is_number(), "the controller's status is not erased");
    }
    let after = ready(&cluster, &wanted.owner).await;
    assert_eq!((after.endpoints, after.drift), (before.endpoints, Vec::new()));
}

/// What is dropped from the workload is dropped from what runs, although it was first made by POST.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_wanted_is_taken_away() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    let mut wanted = workload(&cluster, 2);
    wanted.env.insert("OLD".into(), "1".into());
    wanted.resources.memory_bytes = Some(1 << 30);
    wanted.program.args = vec!["--verbose".into()];
    adapter.deploy(&wanted).await.unwrap();
    let container = || {
        let object = cluster.server.object("deployments", "tools", &wanted.owner.workload_name()).unwrap();
        object["spec"]["template"]["spec"]["containers"][0].clone()
    };
    assert_eq!(container()["resources"]["limits"]["memory"], "1Gi");
    let mut next = changed(&wanted);
    next.env.remove("OLD");
    next.resources.memory_bytes = None;
    next.program.args.clear();
    next.secret_env.clear();
    adapter.deploy(&next).await.unwrap();
    let now = container();
    let names: Vec<&str> =
        now["env"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["GREETING", "PORT"], "{now}");
    assert!(now["args"].is_null() && now["resources"]["limits"].is_null(), "{now}");
    assert!(cluster.server.objects("secrets").is_empty(), "a Secret that nothing needs is gone");
}

/// Changed by hand: seen as drift, and put right; held on purpose: a conflict that names who and what.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_by_hand_are_put_right_and_fields_held_on_purpose_are_not_taken() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    let wanted = workload(&cluster, 3);
    adapter.deploy(&wanted).await.unwrap();
    ready(&cluster, &wanted.owner).await;
    let named = wanted.owner.workload_name();
    let scale = |d: &mut serde_json::Value| d["spec"]["replicas"] = 3.into();
    cluster.server.edit("deployments", "tools", &named, "kubectl-edit", scale).unwrap();
    let drifted = cluster.until(&wanted.owner, |w| !w.drift.is_empty()).await;
    assert_eq!(drifted.drift, ["spec.replicas"]);
    let mut again = wanted.clone();
    again.epoch = Epoch(2);
    assert_eq!(adapter.deploy(&again).await.unwrap(), Applied::Changed);
    let right = ready(&cluster, &wanted.owner).await;
    assert_eq!((right.drift, right.epoch), (Vec::new(), Some(Epoch(2))));
    cluster.server.delete("services", "tools", &named).unwrap();
    assert_eq!(cluster.seen(&wanted.owner).await.unwrap().drift, ["service is gone"]);
    assert_eq!(adapter.deploy(&again).await.unwrap(), Applied::Changed);

    let held = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": named }, "spec": { "replicas": 4 },
    });
    cluster.server.apply("deployments", "tools", &named, held, "argocd", true).unwrap();
    let error = adapter.deploy(&changed(&again)).await.unwrap_err();
    assert_eq!(
        (error.class, error.reason.code.as_ref()),
        (ErrorClass::Conflict, "field_conflict"),
        "{error}"
    );
    assert!(error.to_string().contains("argocd") && error.to_string().contains(".spec.replicas"), "{error}");
    assert_eq!(cluster.server.object("deployments", "tools", &named).unwrap()["spec"]["replicas"], 4);
}

/// Something foreign stands where ours would be: neither taken over nor deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_carries_no_owner_is_touched() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    let wanted = workload(&cluster, 4);
    let named = wanted.owner.workload_name();
    let theirs = json!({ "metadata": { "name": named }, "type": "Opaque", "data": { "x": "eA==" } });
    let made = cluster.server.create("secrets", "tools", theirs, "kubectl").unwrap();
    let error = adapter.deploy(&wanted).await.unwrap_err();
    assert_eq!((error.class, error.reason.code.as_ref()), (ErrorClass::Conflict, "not_ours"), "{error}");
    gone(&adapter, &wanted.owner, wanted.epoch).await;
    assert_eq!(cluster.server.object("secrets", "tools", &named), Some(made));
}

fn foreign(named: &str) -> serde_json::Value {
    json!({
        "metadata": { "name": named, "labels": { "app": named } },
        "spec": {
            "selector": { "matchLabels": { "app": named } },
            "template": {
                "metadata": { "labels": { "app": named } },
                "spec": { "containers": [{ "name": "it", "image": "legacy:1", "env": [{ "name": "P", "value": "hush-pw" }] }] },
            },
        },
    })
}

/// Adopted: ours from then on, what runs is not touched, and it goes with its deployment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_adopted_runs_on_and_is_ours() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    cluster.server.create("deployments", "tools", foreign("legacy"), "kubectl").unwrap();
    let owner = workload(&cluster, 5).owner;
    let found = loop {
        let all = adapter.observe().await.unwrap();
        let legacy = all.into_iter().find(|d| d.kind == "deployment" && d.name == "legacy").unwrap();
        let seen = basalt_adapters::kubernetes::normalise(std::slice::from_ref(&legacy)).unwrap();
        if seen.readiness == basalt_model::deployments::Readiness::Ready {
            break legacy;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(found.owner, None);
    let pods = cluster.server.pods_of("tools", "legacy");
    adapter.adopt(&found, &owner, Epoch(3)).await.unwrap();
    adapter.adopt(&found, &owner, Epoch(3)).await.unwrap();
    let ours = ready(&cluster, &owner).await;
    assert_eq!(
        (ours.owner, ours.epoch, ours.image.as_deref()),
        (Some(owner.id), Some(Epoch(3)), Some("legacy:1"))
    );
    assert_eq!(cluster.server.pods_of("tools", "legacy"), pods, "no pod began anew");
    let other = workload(&cluster, 6).owner;
    let error = adapter.adopt(&found, &other, Epoch(1)).await.unwrap_err();
    assert_eq!((error.class, error.reason.code.as_ref()), (ErrorClass::Conflict, "other_owner"), "{error}");
    assert!(!crate::contract::lines(&adapter, &owner, Default::default()).await.is_empty());
    let error = adapter.undeploy(&owner, Epoch(2)).await.unwrap_err();
    assert_eq!(error.reason.code, "newer_attempt");
    gone(&adapter, &owner, Epoch(3)).await;
    assert!(cluster.server.objects("deployments").is_empty() && cluster.server.objects("pods").is_empty());

    // What something else makes would be undone by that.
    let mut controlled = foreign("made");
    controlled["metadata"]["ownerReferences"] = json!([{ "apiVersion": "v1", "kind": "Namespace", "name": "tools", "controller": true,
                 "uid": cluster.server.object("namespaces", "", "tools").unwrap()["metadata"]["uid"] }]);
    cluster.server.create("deployments", "tools", controlled, "operator").unwrap();
    let all = adapter.observe().await.unwrap();
    let made = all.iter().find(|d| d.name == "made").unwrap();
    let error = adapter.adopt(made, &owner, Epoch(1)).await.unwrap_err();
    assert_eq!((error.class, error.reason.code.as_ref()), (ErrorClass::Conflict, "controlled"), "{error}");
}
