//! Callers that die, and answers that are lost: the next one finds its way from anywhere.

use super::{Cluster, cluster, workload};
use crate::contract::changed;
use basalt_adapters::{Adapter, Applied, Removed};
use basalt_kube_api::{Action, Fault};
use basalt_model::{Epoch, deployments::Workload};
use futures::FutureExt;
use std::time::Duration;

/// A cluster whose pods come and go at once.
async fn quick() -> Cluster {
    let at_once = Duration::ZERO;
    super::with(basalt_kube_api::Options { termination: at_once, start: at_once, ..Default::default() }).await
}

/// One of each, with the newest fingerprint everywhere.
fn assert_whole(cluster: &Cluster, wanted: &Workload, context: &str) {
    let of = |plural: &str| (plural.to_owned(), "tools".to_owned(), wanted.owner.workload_name());
    assert_eq!(
        cluster.objects_of(&wanted.owner),
        ["deployments", "services", "secrets"].map(of),
        "{context}"
    );
    for plural in ["deployments", "services", "secrets"] {
        let object = cluster.server.object(plural, "tools", &wanted.owner.workload_name()).unwrap();
        assert_eq!(
            object["metadata"]["annotations"]["basalt/fingerprint"], wanted.fingerprint,
            "{context} {plural}"
        );
    }
}

async fn undeployed(cluster: &Cluster, wanted: &Workload, epoch: Epoch, context: &str) {
    for _ in 0..300 {
        match cluster.kubernetes().undeploy(&wanted.owner, epoch).await.unwrap() {
            Removed::Absent => return,
            Removed::Gone | Removed::Going => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("{context}: {:?}", cluster.objects_of(&wanted.owner));
}

/// What is done to a caller at its n-th request; false when it has fewer.
async fn faulted(cluster: &Cluster, action: Action, nth: u64, call: impl Future<Output = bool>) -> bool {
    let faults = cluster.server.faults();
    faults.clear();
    faults.add(Fault::new(action).nth(nth));
    let failed = call.await;
    let reached = faults.count() >= nth;
    faults.clear();
    assert!(!failed || reached, "it failed without a fault");
    reached
}

/// Before and after each request of a deploy and of an undeploy the connection breaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_at_any_request_is_got_over() {
    let cluster = quick().await;
    let mut swept = 0;
    for (i, action) in [Action::ResetBefore, Action::ResetAfter].into_iter().enumerate() {
        for nth in 1.. {
            let number = u128::from(nth) + 1000 * (i as u128 + 1);
            let first = workload(&cluster, number);
            let context = format!("{action:?} at {nth}");
            let made = faulted(&cluster, action.clone(), nth, async {
                cluster.kubernetes().deploy(&first).await.is_err()
            });
            let made = made.await;
            let mut again = first.clone();
            again.epoch = Epoch(2);
            cluster.kubernetes().deploy(&again).await.unwrap();
            assert_whole(&cluster, &again, &context);
            let second = changed(&again);
            let changed_too = faulted(&cluster, action.clone(), nth, async {
                cluster.kubernetes().deploy(&second).await.is_err()
            });
            let changed_too = changed_too.await;
            let mut again = second.clone();
            again.epoch = Epoch(4);
            cluster.kubernetes().deploy(&again).await.unwrap();
            assert_whole(&cluster, &second, &context);
            assert_eq!(cluster.kubernetes().deploy(&again).await.unwrap(), Applied::Unchanged, "{context}");
            let removed = faulted(&cluster, action.clone(), nth, async {
                cluster.kubernetes().undeploy(&second.owner, Epoch(4)).await.is_err()
            });
            let removed = removed.await;
            undeployed(&cluster, &second, Epoch(4), &context).await;
            swept += u32::from(made) + u32::from(changed_too) + u32::from(removed);
            if !made && !changed_too && !removed {
                break;
            }
        }
    }
    assert!(swept > 50, "{swept}");
}

/// A caller that is dropped after n polls, for every n.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_dies_at_any_moment_is_gone_on_with() {
    let cluster = quick().await;
    let mut ended = 0;
    for polls in 0..400u32 {
        let first = workload(&cluster, 50_000 + u128::from(polls));
        // One adapter each, with a connection that stands, so that polls are requests.
        let adapter = cluster.kubernetes();
        adapter.observe_one(&first.owner).await.unwrap();
        let finished = polled(adapter.deploy(&first), polls).await;
        drop(adapter);
        let next = changed(&first);
        cluster.kubernetes().deploy(&next).await.unwrap();
        assert_whole(&cluster, &next, &format!("{polls} polls"));
        let adapter = cluster.kubernetes();
        adapter.observe_one(&first.owner).await.unwrap();
        let removed = polled(adapter.undeploy(&next.owner, next.epoch), polls).await;
        undeployed(&cluster, &next, next.epoch, &format!("{polls} polls")).await;
        if finished && removed {
            ended += 1;
            if ended == 3 {
                return;
            }
        }
    }
    panic!("a deploy of more than 400 polls");
}

/// Polls so often and drops it then; whether it had come to its end.
async fn polled<T>(mut future: impl Future<Output = T> + Unpin, polls: u32) -> bool {
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return std::task::Poll::Ready(false);
        }
        left -= 1;
        future.poll_unpin(context).map(|_| true)
    })
    .await
}

/// A request that is never answered ends in the time it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_hangs_does_not_hold_the_caller() {
    let mut cluster = cluster().await;
    cluster.options.request_seconds = 1;
    let wanted = workload(&cluster, 1);
    for action in [Action::HangBefore, Action::HangAfter] {
        cluster.server.faults().add(Fault::new(action).verb("create").times(1));
        let error = cluster.kubernetes().deploy(&wanted).await.unwrap_err();
        assert_eq!(error.class, basalt_model::deployments::ErrorClass::Timeout, "{error}");
        cluster.server.faults().clear();
    }
    cluster.kubernetes().deploy(&wanted).await.unwrap();
    assert_whole(&cluster, &wanted, "after hanging");
    let nobody = cluster.kubernetes();
    cluster.server.faults().add(Fault::new(Action::Delay(Duration::from_millis(700))));
    let slow = basalt_adapters::kubernetes::Options {
        request_seconds: 1,
        call_seconds: 1,
        ..cluster.options.clone()
    };
    cluster.options = slow;
    let error = cluster.kubernetes().observe().await.unwrap_err();
    assert_eq!(error.reason.code, "call_timeout", "{error}");
    drop(nobody);
}
