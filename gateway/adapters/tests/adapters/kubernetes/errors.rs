//! What the cluster says no with, and what is made of it.

use super::{Cluster, cluster, name, provider, with, workload};
use crate::contract::changed;
use basalt_adapters::{
    Adapter, Error,
    kubernetes::{Kubernetes, Options},
};
use basalt_kube_api::{Action, Behaviour, Fault, Rule};
use basalt_model::deployments::{ErrorClass, SecretText};
use std::time::Duration;

fn assert_error(error: &Error, class: ErrorClass, code: &str, words: &[&str]) {
    assert_eq!((error.class, error.reason.code.as_ref()), (class, code), "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
    assert!(!error.reason.remedy.is_empty(), "{error}");
}

async fn deploy_error(cluster: &Cluster) -> Error {
    cluster.kubernetes().deploy(&workload(cluster, 1)).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_named_with_the_role_that_gives_it() {
    let mut cluster = cluster().await;
    let lacking = |resource: &str, verb: &str| -> Vec<Rule> {
        let all =
            ["tools", "more"].iter().flat_map(|n| Rule::parse(basalt_adapters::kubernetes::ROLE, n).unwrap());
        let each = all.flat_map(|rule| rule.each());
        each.filter(|r| r.resources != [resource] || r.verbs != [verb]).collect()
    };
    for (resource, verb) in [("deployments", "list"), ("services", "create"), ("secrets", "get")] {
        cluster.kubeconfig = cluster.server.user("lacking", lacking(resource, verb));
        let error = deploy_error(&cluster).await;
        let role = format!("resources [{resource}], verbs [{verb}]");
        assert_error(&error, ErrorClass::Auth, "forbidden", &[resource, verb, &role, "role.yaml"]);
        let error = cluster.kubernetes().health().await.unwrap_err();
        assert_error(&error, ErrorClass::Auth, "rights_missing", &[resource, verb]);
    }
    // Rights that little depends on are limits.
    cluster.kubeconfig = cluster.server.user("lacking", lacking("pods/log", "get"));
    let health = cluster.kubernetes().health().await.unwrap();
    assert!(health.version.contains("v1.36.2"));
    assert_eq!(health.limits.len(), 2, "one for each namespace: {:?}", health.limits);
    cluster.kubeconfig = cluster.server.kubeconfig();
    assert_eq!(cluster.kubernetes().health().await.unwrap().limits, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_the_cluster_does_not_know_is_told_so() {
    let mut cluster = cluster().await;
    cluster.kubeconfig = cluster.server.with_user("token: hush-unknown-4711");
    let error = deploy_error(&cluster).await;
    assert_error(&error, ErrorClass::Auth, "unauthenticated", &["kubeconfig"]);
    let adapter = cluster.kubernetes();
    for said in [format!("{error:?}"), format!("{adapter:?}")] {
        assert!(!said.contains("hush"), "{said}");
    }
    // By certificate it goes too.
    let rules = vec![Rule::everything()];
    cluster.kubeconfig = cluster.server.user_by_certificate("by-certificate", rules).unwrap();
    cluster.kubernetes().deploy(&workload(&cluster, 1)).await.unwrap();
    assert!(
        cluster.server.faults().recorded().iter().any(|r| r.user == "by-certificate" && r.verb == "create")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_not_trusted_or_not_there_is_told_apart() {
    let mut cluster = cluster().await;
    let stranger = basalt_kube_api::Server::start(Default::default()).await.unwrap();
    let ours = cluster.server.address().to_string();
    let right = cluster.kubeconfig.clone();
    cluster.kubeconfig = stranger.kubeconfig().replace(&stranger.address().to_string(), &ours);
    assert_error(
        &deploy_error(&cluster).await,
        ErrorClass::Auth,
        "tls_refused",
        &["certificate-authority-data"],
    );
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    cluster.kubeconfig = right.replace(&ours, &free);
    assert_error(&deploy_error(&cluster).await, ErrorClass::Transient, "unreachable", &["refused"]);
}

/// The API that is needed is not there: said with what to install (the adapter's side of DP43).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_api_and_a_missing_namespace_say_what_to_make() {
    let cluster = with(basalt_kube_api::Options { apps: false, ..Default::default() }).await;
    assert_error(
        &deploy_error(&cluster).await,
        ErrorClass::Missing,
        "api_missing",
        &["deployments", "apps/v1"],
    );
    let error = cluster.kubernetes().health().await.unwrap_err();
    assert_error(&error, ErrorClass::Missing, "api_missing", &["apps/v1"]);

    let cluster = super::cluster().await;
    let mut elsewhere = provider();
    elsewhere.namespaces.insert(name("nowhere"));
    let admin = SecretText::new(cluster.server.kubeconfig());
    let adapter = Kubernetes::new(&elsewhere, &admin, Options::default()).unwrap();
    let mut wanted = workload(&cluster, 1);
    wanted.owner.namespace = Some(name("nowhere"));
    let error = adapter.deploy(&wanted).await.unwrap_err();
    assert_error(&error, ErrorClass::Missing, "namespace_missing", &["kubectl create namespace nowhere"]);
    wanted.owner.namespace = Some(name("other"));
    let error = adapter.deploy(&wanted).await.unwrap_err();
    assert_error(&error, ErrorClass::Permanent, "namespace_not_allowed", &["other"]);
    cluster.server.terminate_namespace("tools").unwrap();
    assert_error(&deploy_error(&cluster).await, ErrorClass::Missing, "namespace_terminating", &["tools"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_invalid_is_permanent_and_names_the_field() {
    let cluster = cluster().await;
    let mut wanted = workload(&cluster, 1);
    wanted.program.source = basalt_model::artifacts::Source::Image { image: String::new() };
    let error = cluster.kubernetes().deploy(&wanted).await.unwrap_err();
    assert_error(
        &error,
        ErrorClass::Permanent,
        "invalid",
        &["spec.template.spec.containers[0].image", "Required"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_cluster_says_when_to_come_again() {
    let cluster = cluster().await;
    for (code, word) in [(429, "throttled"), (503, "server_error")] {
        cluster.server.faults().add(Fault::new(Action::RetryAfter(code, 7)).times(1));
        let error = cluster.kubernetes().observe().await.unwrap_err();
        assert_error(&error, ErrorClass::Transient, word, &[]);
        assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
        cluster.server.faults().clear();
    }
    cluster.server.faults().add(Fault::new(Action::Garbage).times(1));
    let error = cluster.kubernetes().observe().await.unwrap_err();
    assert_error(&error, ErrorClass::Transient, "bad_answer", &["kubeconfig"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_is_capacity_and_later_a_reason_of_the_workload() {
    let cluster = cluster().await;
    cluster.server.quota("tools", "count/deployments.apps", 0);
    assert_error(
        &deploy_error(&cluster).await,
        ErrorClass::Capacity,
        "quota_exceeded",
        &["ResourceQuota", "tools"],
    );
    cluster.server.quota("tools", "count/deployments.apps", 9);
    cluster.server.quota("tools", "pods", 0);
    let wanted = workload(&cluster, 1);
    cluster.kubernetes().deploy(&wanted).await.unwrap();
    let reason = cluster.not_ready(&wanted.owner, "quota_exceeded").await;
    assert!(reason.evidence.contains("exceeded quota"), "{reason}");
}

/// Pods that do not come up: each kind with its own reason, what was seen, and what mends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_do_not_come_up_say_why() {
    let cluster = cluster().await;
    let image = "registry.example/web:1";
    let wanted = workload(&cluster, 1);
    for (behaviour, code, evidence) in [
        (Behaviour::ImagePullBackOff, "image_pull", "failed to resolve reference"),
        (Behaviour::CrashLoopBackOff, "crash_loop", "exit code 1"),
        (Behaviour::Unschedulable, "unschedulable", "Insufficient memory"),
    ] {
        cluster.server.behave(image, behaviour);
        cluster.kubernetes().deploy(&wanted).await.unwrap();
        let reason = cluster.not_ready(&wanted.owner, code).await;
        assert!(reason.evidence.contains(evidence) && !reason.remedy.is_empty(), "{reason}");
        // However often one looks, it is the same.
        let first = cluster.kubernetes().observe_one(&wanted.owner).await.unwrap();
        assert_eq!(first, cluster.kubernetes().observe_one(&wanted.owner).await.unwrap());
        crate::contract::gone(&cluster.kubernetes(), &wanted.owner, wanted.epoch).await;
    }
    cluster.server.behave(image, Behaviour::Ready);
    cluster.kubernetes().deploy(&wanted).await.unwrap();
    crate::contract::ready(&cluster, &wanted.owner).await;
    let mut account = changed(&wanted);
    account.kubernetes.service_account = Some(name("nobody"));
    cluster.kubernetes().deploy(&account).await.unwrap();
    let reason = cluster.not_ready(&wanted.owner, "service_account_missing").await;
    assert!(reason.evidence.contains("nobody"), "{reason}");
}
