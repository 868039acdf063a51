//! Attempts that overlap, and owners that change their place.

use super::{cluster, name, workload};
use crate::contract::{changed, gone};
use basalt_adapters::{Adapter, Applied, Removed, kubernetes::Kubernetes};
use basalt_kube_api::{Action, Fault};
use basalt_model::{
    Epoch,
    artifacts::Source,
    deployments::{ErrorClass, Workload},
};
use std::{sync::Arc, time::Duration};

/// An attempt that falls asleep before its n-th request; what it comes to when a newer one did its work meanwhile. None
/// when it has fewer requests.
async fn slept(
    cluster: &super::Cluster,
    (late, first): (&Arc<Kubernetes>, &Kubernetes),
    nth: u64,
    old: &Workload,
    new: &Workload,
) -> Option<String> {
    let faults = cluster.server.faults();
    faults.clear();
    faults.add(Fault::new(Action::Hold).nth(nth));
    let (adapter, old) = (late.clone(), old.clone());
    let late = tokio::spawn(async move { adapter.deploy(&old).await });
    while faults.held() == 0 && !late.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asleep = faults.held() == 1;
    faults.clear();
    first.deploy(new).await.unwrap();
    faults.release();
    let result = late.await.unwrap();
    faults.clear();
    if !asleep {
        assert_eq!(result, Ok(Applied::Changed));
        return None;
    }
    match result {
        // It slept in its last look, when all was done and nothing was left to do.
        Ok(applied) => Some(format!("{applied:?}")),
        Err(error) => {
            assert_eq!(error.class, ErrorClass::Conflict, "{error}");
            Some(error.reason.code.to_string())
        }
    }
}

/// Wherever the older attempt slept, nothing of it stays: neither over the newer one's things nor beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_slept_never_overwrites_a_newer_one() {
    let options =
        basalt_kube_api::Options { termination: Duration::ZERO, start: Duration::ZERO, ..Default::default() };
    let cluster = super::with(options).await;
    let (late, first) = (Arc::new(cluster.kubernetes()), cluster.kubernetes());
    let (mut slept_at, mut refused) = (0, 0);
    for (i, (fresh, elsewhere)) in
        [(true, false), (true, true), (false, false), (false, true)].into_iter().enumerate()
    {
        for nth in 1.. {
            let mut old = workload(&cluster, u128::from(nth) + 1000 * i as u128);
            if !fresh {
                first.deploy(&old).await.unwrap();
                old = changed(&old);
            }
            let mut new = changed(&old);
            // Without secrets, so that a Secret of the older one would be left over.
            new.secret_env.clear();
            if elsewhere {
                new.owner.namespace = Some(name("more"));
            }
            let Some(code) = slept(&cluster, (&late, &first), nth, &old, &new).await else { break };
            slept_at += 1;
            refused += u32::from(code == "newer_attempt");
            assert!(code == "newer_attempt" || code == "Changed", "request {nth}: {code}");
            let (space, named) = (new.owner.namespace.clone().unwrap(), new.owner.workload_name());
            let there = |plural: &str| (plural.to_owned(), space.to_string(), named.clone());
            assert_eq!(
                cluster.objects_of(&new.owner),
                [there("deployments"), there("services")],
                "request {nth}"
            );
            for plural in ["deployments", "services"] {
                let object = cluster.server.object(plural, space.as_str(), &named).unwrap();
                let written = &object["metadata"]["annotations"];
                assert_eq!(written["basalt/fingerprint"], new.fingerprint, "request {nth}, {plural}");
                assert_eq!(written["basalt/epoch"], new.epoch.0.to_string(), "request {nth}, {plural}");
            }
            gone(&first, &new.owner, new.epoch).await;
        }
    }
    assert!(slept_at > 40 && refused > 20, "{refused} of {slept_at}");
}

/// Another namespace: it runs there, and what ran in the old one goes; back again likewise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_namespace_leaves_nothing_behind() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    let mut wanted = workload(&cluster, 1);
    adapter.deploy(&wanted).await.unwrap();
    for space in ["more", "tools"] {
        wanted = changed(&wanted);
        wanted.owner.namespace = Some(name(space));
        for _ in 0..200 {
            match adapter.deploy(&wanted).await {
                Ok(_) => break,
                Err(error) => assert_eq!(error.reason.code, "still_going", "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let here = |plural: &str| (plural.to_owned(), space.to_owned(), wanted.owner.workload_name());
        assert_eq!(cluster.objects_of(&wanted.owner), ["deployments", "services", "secrets"].map(here));
    }
    // Undeploy finds it wherever it is.
    wanted.owner.namespace = Some(name("more"));
    gone(&adapter, &wanted.owner, wanted.epoch).await;
    assert_eq!(cluster.objects_of(&wanted.owner), []);
}

/// While pods go it is going, and only then gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undeploy_ends_when_the_pods_are_gone() {
    let options = basalt_kube_api::Options { termination: Duration::from_millis(300), ..Default::default() };
    let cluster = super::with(options).await;
    let adapter = cluster.kubernetes();
    let wanted = workload(&cluster, 2);
    adapter.deploy(&wanted).await.unwrap();
    crate::contract::ready(&cluster, &wanted.owner).await;
    assert_eq!(adapter.undeploy(&wanted.owner, Epoch(1)).await.unwrap(), Removed::Going);
    assert_eq!(adapter.undeploy(&wanted.owner, Epoch(1)).await.unwrap(), Removed::Going);
    assert_eq!(cluster.server.objects("pods").len(), 1);
    let error = adapter.deploy(&changed(&wanted)).await.unwrap_err();
    assert_eq!((error.class, error.reason.code.as_ref()), (ErrorClass::Transient, "still_going"), "{error}");
    gone(&adapter, &wanted.owner, Epoch(2)).await;
    assert!(cluster.server.objects("pods").is_empty());
}

/// What runs elsewhere needs nothing here; what ran here before goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_source_needs_no_object() {
    let cluster = cluster().await;
    let adapter = cluster.kubernetes();
    let before = workload(&cluster, 3);
    adapter.deploy(&before).await.unwrap();
    let mut remote = changed(&before);
    remote.program.source = Source::Remote { url: "https://mcp.example/mcp".to_owned() };
    assert_eq!(adapter.deploy(&remote).await.unwrap(), Applied::Changed);
    assert_eq!(cluster.objects_of(&before.owner), []);
    gone(&adapter, &remote.owner, remote.epoch).await;
    assert_eq!(adapter.deploy(&remote).await.unwrap(), Applied::Unchanged);
}
