//! Looking: the whole or an error, foreign things by their hints, nothing secret.

use super::{cluster, with, workload};
use basalt_adapters::{Adapter, kubernetes::normalise};
use basalt_kube_api::{Action, Fault};
use basalt_model::{
    artifacts::ArtifactKind,
    deployments::{ErrorClass, Readiness},
};
use serde_json::json;

/// More than one page, lists that go stale between pages, and a page that fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_is_the_whole_or_an_error() {
    let options = basalt_kube_api::Options { page_size: 3, ..Default::default() };
    let cluster = with(options).await;
    let service = |n: u32| {
        let meta = json!({ "name": format!("s-{n}") });
        json!({ "metadata": meta, "spec": { "selector": { "x": "y" }, "ports": [{ "port": 80, "protocol": "TCP" }] } })
    };
    for n in 0..10 {
        cluster.server.create("services", "tools", service(n), "kubectl").unwrap();
    }
    let adapter = cluster.kubernetes();
    assert_eq!(adapter.observe().await.unwrap().len(), 10);
    for nth in 1.. {
        cluster.server.faults().clear();
        cluster.server.faults().add(Fault::new(Action::Status(500)).nth(nth));
        let result = adapter.observe().await;
        if cluster.server.faults().count() < nth {
            assert_eq!(result.unwrap().len(), 10);
            break;
        }
        assert_eq!(result.unwrap_err().class, ErrorClass::Transient, "request {nth}");
    }
    cluster.server.faults().clear();
    // Compacted while it reads: it begins anew and has the whole in the end.
    let compacting = async {
        for _ in 0..3 {
            cluster.server.compact();
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    cluster.server.faults().add(Fault::new(Action::Delay(std::time::Duration::from_millis(2))).verb("list"));
    let (found, ()) = tokio::join!(adapter.observe(), compacting);
    match found {
        Ok(found) => assert_eq!(found.len(), 10),
        Err(error) => assert_eq!(error.reason.code, "expired", "{error}"),
    }
}

/// Foreign MCP servers are known by their hints, and what is none of ours is nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_servers_are_known_by_their_hints() {
    let cluster = with(basalt_kube_api::Options { kagent: true, ..Default::default() }).await;
    let service = |named: &str, labels: serde_json::Value, protocol: serde_json::Value| {
        let port = json!({ "port": 3000, "protocol": "TCP", "appProtocol": protocol });
        let body = json!({ "metadata": { "name": named, "labels": labels }, "spec": { "selector": { "app": named }, "ports": [port] } });
        cluster.server.create("services", "tools", body, "kubectl").unwrap();
    };
    service("by-protocol", json!({}), json!("kgateway.dev/mcp"));
    service("by-a2a", json!({}), json!("kgateway.dev/a2a"));
    service("by-label", json!({ "kagent.dev/mcp-service": "true" }), json!(null));
    service("by-kmcp", json!({ "app.kubernetes.io/managed-by": "kmcp" }), json!(null));
    service("nothing", json!({}), json!(null));
    let agent = json!({ "metadata": { "name": "helper" }, "spec": { "type": "Declarative" },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "x" }] } });
    cluster.server.create("agents", "tools", agent, "kubectl").unwrap();
    let tool =
        json!({ "metadata": { "name": "tool" }, "spec": { "deployment": { "image": "t:1", "port": 3001 } } });
    cluster.server.create("mcpservers", "more", tool, "kubectl").unwrap();
    let found = cluster.kubernetes().observe().await.unwrap();
    let mut kinds = Vec::new();
    for one in &found {
        if let Some(seen) = normalise(std::slice::from_ref(one)) {
            assert_eq!(seen.owner, None);
            kinds.push((one.name.clone(), seen.kind.unwrap(), seen.endpoints[0].url.clone()));
        }
    }
    kinds.sort();
    let url = |host: &str, rest: &str| format!("http://{host}.svc:{rest}");
    assert_eq!(
        kinds,
        [
            ("by-a2a".to_owned(), ArtifactKind::Agent, url("by-a2a.tools", "3000/")),
            ("by-kmcp".to_owned(), ArtifactKind::Server, url("by-kmcp.tools", "3000/mcp")),
            ("by-label".to_owned(), ArtifactKind::Server, url("by-label.tools", "3000/mcp")),
            ("by-protocol".to_owned(), ArtifactKind::Server, url("by-protocol.tools", "3000/mcp")),
            ("helper".to_owned(), ArtifactKind::Agent, url("helper.tools", "8080/")),
            ("tool".to_owned(), ArtifactKind::Server, url("tool.more", "3001/mcp")),
        ]
    );
    // Where kagent is not installed, nobody asks for its kinds.
    let without = super::cluster().await;
    without.kubernetes().observe().await.unwrap();
    assert!(without.server.faults().recorded().iter().all(|r| r.resource != "agents"));
}

/// What others put into variables, arguments and annotations is not kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_others_that_may_be_secret_is_kept() {
    let cluster = cluster().await;
    let wanted = workload(&cluster, 1);
    cluster.kubernetes().deploy(&wanted).await.unwrap();
    let body = json!({
        "metadata": { "name": "db", "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "hush-1" } },
        "spec": {
            "selector": { "matchLabels": { "a": "b" } },
            "template": { "metadata": { "labels": { "a": "b" }, "annotations": { "x": "hush-2" } }, "spec": { "containers": [{
                "name": "db", "image": "db:1", "args": ["--password=hush-3"], "env": [{ "name": "PASSWORD", "value": "hush-4" }],
            }] } },
        },
    });
    cluster.server.create("deployments", "tools", body, "kubectl").unwrap();
    let named = wanted.owner.workload_name();
    let inject = |d: &mut serde_json::Value| {
        let pod = &mut d["spec"]["template"]["spec"]["containers"];
        pod[0]["env"].as_array_mut().unwrap().push(json!({ "name": "INJECTED", "value": "hush-5" }));
        pod.as_array_mut().unwrap().push(json!({ "name": "side", "image": "s:1", "args": ["hush-6"] }));
    };
    cluster.server.edit("deployments", "tools", &named, "injector", inject).unwrap();
    let found = cluster.kubernetes().observe().await.unwrap();
    assert_eq!(found.iter().filter(|d| d.kind == "deployment").count(), 2);
    let text = serde_json::to_string(&found).unwrap();
    assert!(!text.contains("hush"), "{text}");
    assert_eq!(cluster.seen(&wanted.owner).await.unwrap().drift, Vec::<String>::new());
}

/// Gone, half gone, twice there: seen as what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_or_half_gone_is_seen() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    let wanted = workload(&cluster, 2);
    adapter.deploy(&wanted).await.unwrap();
    crate::contract::ready(&cluster, &wanted.owner).await;
    let named = wanted.owner.workload_name();
    let pod = cluster.server.pods_of("tools", &named).remove(0);
    cluster.server.kill_pod("tools", &pod).unwrap();
    crate::contract::ready(&cluster, &wanted.owner).await;
    cluster.server.delete("deployments", "tools", &named).unwrap();
    let half = cluster.seen(&wanted.owner).await.unwrap();
    assert_eq!(half.drift, ["deployment is gone"]);
    assert!(matches!(half.readiness, Readiness::NotReady { .. }));
    let mut again = wanted.clone();
    again.epoch.0 += 1;
    adapter.deploy(&again).await.unwrap();
    crate::contract::ready(&cluster, &wanted.owner).await;
}
