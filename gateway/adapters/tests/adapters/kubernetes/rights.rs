//! The Role that is shipped: all that is done is allowed by it, and each right in it is needed.

use super::{Cluster, cluster, workload};
use crate::contract::changed;
use basalt_adapters::{Adapter, LogOptions, Removed, kubernetes::ROLE};
use basalt_kube_api::{Behaviour, Rule};
use basalt_model::Epoch;
use futures::StreamExt;
use serde_json::json;
use std::time::Duration;

/// Everything that the adapter does, once; the first thing that does not go.
async fn everything(cluster: &Cluster, number: u128) -> Result<(), String> {
    let adapter = cluster.kubernetes();
    let said = |what: &'static str| move |error: basalt_adapters::Error| format!("{what}: {error}");
    for plural in ["deployments", "services"] {
        // It may be there yet from a round that broke off.
        _ = cluster.server.create(plural, "tools", legacy(plural), "kubectl");
    }
    let mut changes = adapter.changes();
    for kind in ["deployments", "services", "pods"] {
        // Each of the watches tells when its list is read; one that may not begin tells nothing.
        let told = tokio::time::timeout(Duration::from_millis(400), changes.next()).await;
        told.map_err(|_| format!("changes: nothing of {kind} or another"))?;
        let second = tokio::time::timeout(Duration::from_millis(400), changes.next()).await;
        second.map_err(|_| format!("changes: nothing of {kind} or another"))?;
    }
    let wanted = workload(cluster, number);
    adapter.deploy(&wanted).await.map_err(said("deploy"))?;
    let next = changed(&wanted);
    adapter.deploy(&next).await.map_err(said("deploy again"))?;
    // A watch that may not go on after its list tells nothing of this.
    for plural in ["deployments", "services", "pods"] {
        let told = async { while changes.next().await.is_some_and(|c| c.owner != Some(wanted.owner.id)) {} };
        let told = tokio::time::timeout(Duration::from_millis(600), told).await;
        told.map_err(|_| format!("changes: nothing of what was deployed ({plural})"))?;
    }
    for _ in 0..100 {
        if cluster
            .seen(&wanted.owner)
            .await
            .is_some_and(|s| s.readiness == basalt_model::deployments::Readiness::Ready)
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all: Vec<_> =
        adapter.logs(&wanted.owner, LogOptions::default()).await.map_err(said("logs"))?.collect().await;
    if all.is_empty() {
        return Err("logs: none".to_owned());
    }
    let found = adapter.observe().await.map_err(said("observe"))?;
    let adopted = workload(cluster, number + 2).owner;
    for one in found.iter().filter(|d| d.name == "legacy") {
        adapter.adopt(one, &adopted, Epoch(1)).await.map_err(said("adopt"))?;
    }
    // Why an image is not pulled stands in events.
    cluster.server.behave("bad:1", Behaviour::ImagePullBackOff);
    let mut bad = workload(cluster, number + 1);
    bad.program.source = basalt_model::artifacts::Source::Image { image: "bad:1".to_owned() };
    adapter.deploy(&bad).await.map_err(said("deploy bad"))?;
    let reason = cluster.not_ready(&bad.owner, "image_pull").await;
    for (owner, epoch) in [(&next.owner, next.epoch), (&bad.owner, Epoch(9)), (&adopted, Epoch(1))] {
        while adapter.undeploy(owner, epoch).await.map_err(said("undeploy"))? != Removed::Absent {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    if reason.evidence.is_empty() { Err("no evidence of why".to_owned()) } else { Ok(()) }
}

/// Something foreign to adopt.
fn legacy(plural: &str) -> serde_json::Value {
    let labels = json!({ "app": "legacy" });
    let pods = json!({ "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "it", "image": "legacy:1" }] } });
    let spec = match plural {
        "deployments" => json!({ "selector": { "matchLabels": labels }, "template": pods }),
        _ => json!({ "selector": labels, "ports": [{ "port": 80, "protocol": "TCP" }] }),
    };
    json!({ "metadata": { "name": "legacy" }, "spec": spec })
}

fn rules() -> Vec<Rule> {
    ["tools", "more"]
        .iter()
        .flat_map(|n| Rule::parse(ROLE, n).unwrap())
        .flat_map(|rule| rule.each())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_role_allows_all_and_nothing_in_it_is_superfluous() {
    let mut cluster = super::with(basalt_kube_api::Options { kagent: true, ..Default::default() }).await;
    everything(&cluster, 1).await.unwrap();
    let mut kinds: Vec<(Vec<String>, Vec<String>)> =
        rules().into_iter().map(|r| (r.resources, r.verbs)).collect();
    kinds.sort();
    kinds.dedup();
    assert!(kinds.len() > 15);
    // By watching alone is shown what a missing `watch` costs; which of them is missing tells health.
    for (i, (resources, verbs)) in kinds.into_iter().enumerate() {
        let without: Vec<Rule> =
            rules().into_iter().filter(|r| r.resources != resources || r.verbs != verbs).collect();
        cluster.kubeconfig = cluster.server.user("without", without);
        if verbs == ["watch"] {
            let error = cluster.kubernetes().health().await.unwrap_err().to_string();
            assert!(error.contains("watch") && error.contains(&resources[0]), "{error}");
            assert!(asks(&cluster, &resources[0], "watch").await, "nobody watches {resources:?}");
            continue;
        }
        let result = everything(&cluster, 100 + 10 * i as u128).await;
        assert!(result.is_err(), "{resources:?} {verbs:?} is not needed");
    }
}

/// Whether the adapter asks for it at all.
async fn asks(cluster: &Cluster, resource: &str, verb: &str) -> bool {
    let mut changes = cluster.kubernetes().changes();
    for _ in 0..100 {
        let _told = tokio::time::timeout(Duration::from_millis(20), changes.next()).await;
        if cluster
            .server
            .faults()
            .recorded()
            .iter()
            .any(|r| r.user == "without" && r.resource == resource && r.verb == verb)
        {
            return true;
        }
    }
    false
}

/// Nothing is asked of the cluster as a whole, nor of a namespace that is not the provider's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_providers_namespaces_are_touched() {
    let cluster = cluster().await;
    let service =
        json!({ "metadata": { "name": "x" }, "spec": { "ports": [{ "port": 1, "protocol": "TCP" }] } });
    cluster.server.create("services", "other", service, "kubectl").unwrap();
    everything(&cluster, 1).await.unwrap();
    for asked in cluster.server.faults().recorded() {
        let open = asked.resource.is_empty() || asked.group == "authorization.k8s.io";
        assert!(open || ["tools", "more"].contains(&asked.namespace.as_str()), "{asked:?}");
    }
}
