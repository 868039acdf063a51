//! What comes as it happens: changes and logs, over cuts, compactions and new pods.

use super::{Cluster, cluster, with, workload};
use crate::contract::{changed, ready};
use basalt_adapters::{Adapter, Change, LogOptions};
use basalt_model::DeploymentId;
use futures::{StreamExt, stream::BoxStream};
use std::time::Duration;

/// Waits for the news of an owner, or that anything may have changed.
async fn news(changes: &mut BoxStream<'static, Change>, owner: DeploymentId) {
    let told = async {
        while let Some(change) = changes.next().await {
            if change.owner.is_none_or(|told| told == owner) {
                return;
            }
        }
        panic!("it ended");
    };
    tokio::time::timeout(Duration::from_secs(8), told).await.expect("no news");
}

/// Tells until nothing more comes for a while.
async fn quiet(changes: &mut BoxStream<'static, Change>) {
    while tokio::time::timeout(Duration::from_millis(150), changes.next()).await.is_ok() {}
}

async fn touch(cluster: &Cluster, wanted: &mut basalt_model::deployments::Workload) {
    *wanted = changed(wanted);
    cluster.kubernetes().deploy(wanted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_over_cuts_timeouts_and_compaction() {
    let options = basalt_kube_api::Options { watch_timeout: Duration::from_secs(2), ..Default::default() };
    let cluster = with(options).await;
    let mut changes = cluster.kubernetes().changes();
    quiet(&mut changes).await;
    let mut wanted = workload(&cluster, 1);
    touch(&cluster, &mut wanted).await;
    news(&mut changes, wanted.owner.id).await;
    quiet(&mut changes).await;
    // Cut in the middle of a line.
    cluster.server.cut_watches();
    touch(&cluster, &mut wanted).await;
    news(&mut changes, wanted.owner.id).await;
    quiet(&mut changes).await;
    // What happened while it was cut is forgotten before it comes back: it begins with a new list.
    cluster.server.cut_watches();
    touch(&cluster, &mut wanted).await;
    cluster.server.compact();
    let told = tokio::time::timeout(Duration::from_secs(8), changes.next()).await;
    assert!(told.is_ok_and(|c| c.is_some()));
    quiet(&mut changes).await;
    touch(&cluster, &mut wanted).await;
    news(&mut changes, wanted.owner.id).await;
    // By hand, on what is ours.
    quiet(&mut changes).await;
    cluster.server.delete("services", "tools", &wanted.owner.workload_name()).unwrap();
    news(&mut changes, wanted.owner.id).await;
    // Over the end that the server puts to each watch.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    touch(&cluster, &mut wanted).await;
    news(&mut changes, wanted.owner.id).await;
    let streaming = |r: &basalt_kube_api::Recorded| r.verb == "list";
    assert!(cluster.server.faults().recorded().iter().any(streaming), "lists are read, not streamed");
}

async fn line(
    lines: &mut BoxStream<'static, basalt_adapters::Result<basalt_model::deployments::LogLine>>,
) -> String {
    let next = tokio::time::timeout(Duration::from_secs(8), lines.next()).await.expect("no line");
    next.unwrap().unwrap().line
}

/// Followed over a cut and over pods that are replaced: every line once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_log_goes_on_over_cuts_and_new_pods() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    let wanted = workload(&cluster, 2);
    adapter.deploy(&wanted).await.unwrap();
    ready(&cluster, &wanted.owner).await;
    let named = wanted.owner.workload_name();
    let pod = cluster.server.pods_of("tools", &named).remove(0);
    let follow = LogOptions { follow: true, tail: Some(1), ..Default::default() };
    let mut lines = adapter.logs(&wanted.owner, follow).await.unwrap();
    assert_eq!(line(&mut lines).await, "it listens");
    cluster.server.print("tools", &pod, "one");
    assert_eq!(line(&mut lines).await, "one");
    cluster.server.cut_watches();
    cluster.server.print("tools", &pod, "two");
    assert_eq!(line(&mut lines).await, "two");
    cluster.server.kill_pod("tools", &pod).unwrap();
    assert_eq!(line(&mut lines).await, "it begins");
    assert_eq!(line(&mut lines).await, "it listens");
    crate::contract::gone(&adapter, &wanted.owner, wanted.epoch).await;
    let end = tokio::time::timeout(Duration::from_secs(8), lines.next()).await.expect("it does not end");
    assert!(end.is_none());
}

/// Several pods: each line says whose it is, in the order of time, and `since` and `tail` hold over all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_several_pods_is_one() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    let mut wanted = workload(&cluster, 3);
    wanted.kubernetes.replicas = Some(3);
    adapter.deploy(&wanted).await.unwrap();
    ready(&cluster, &wanted.owner).await;
    let pods = cluster.server.pods_of("tools", &wanted.owner.workload_name());
    for (i, pod) in pods.iter().enumerate() {
        cluster.server.print("tools", pod, &format!("line {i}"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let read = async |options: LogOptions| -> Vec<basalt_model::deployments::LogLine> {
        let lines = adapter.logs(&wanted.owner, options).await.unwrap();
        lines.map(|line| line.unwrap()).collect().await
    };
    let all = read(LogOptions::default()).await;
    assert_eq!(all.len(), 9);
    let tail = read(LogOptions { tail: Some(3), ..Default::default() }).await;
    let words: Vec<&str> = tail.iter().map(|l| l.line.as_str()).collect();
    assert_eq!(words, ["line 0", "line 1", "line 2"]);
    assert_eq!(tail.iter().map(|l| l.instance.clone()).collect::<Vec<_>>(), pods);
    let since = read(LogOptions { since: tail[0].at, ..Default::default() }).await;
    assert_eq!(since, tail[1..]);
    let long = "x".repeat(40_000);
    cluster.server.print("tools", &pods[0], &long);
    let last = read(LogOptions { tail: Some(1), ..Default::default() }).await;
    assert_eq!(last[0].line.len(), 16 * 1024);
}
