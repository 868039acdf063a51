//! Killed at every step: a call's future is dropped after each of its polls, which is where a process could have died,
//! and the next call of another adapter puts it right.

use super::bench::{LIMIT, LocalBench};
use crate::contract::{Bench, changed, gone, ready, workload};
use basalt_adapters::Removed;
use basalt_model::{Epoch, deployments::Workload};
use std::{
    future::{Future, poll_fn},
    task::Poll,
};

/// Polls a future so many times and drops it: at once after the last poll, before what it asked for was done, or
/// `late`, when what it asked for was done and it would have been told.
async fn dropped_after<F: Future>(polls: usize, late: bool, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 && !late => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn next(of: &Workload) -> Workload {
    let mut next = of.clone();
    next.epoch = Epoch(of.epoch.0 + 1);
    next
}

/// The containers of the bench, by their fingerprints and whether they are up.
fn containers(bench: &LocalBench) -> Vec<String> {
    let format = "{{index .Labels \"basalt/fingerprint\"}} {{.Status}}";
    let all = bench.podman(&["ps", "--all", "--filter", "label=basalt/deployment", "--format", format]);
    all.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn a_deploy_that_is_dropped_anywhere_is_put_right_by_the_next() {
    let bench = LocalBench::start();
    let mut current = workload(&bench, 20);
    bench.adapter().deploy(&current).await.unwrap();
    let endpoints = ready(&bench, &current.owner).await.endpoints;
    for polls in 1.. {
        assert!(polls < 400, "a deploy does not come to its end");
        let wanted = changed(&current);
        let whole = dropped_after(polls, polls % 2 == 0, bench.adapter().deploy(&wanted)).await;
        current = next(&wanted);
        bench.adapter().deploy(&current).await.unwrap_or_else(|e| panic!("after {polls} polls: {e}"));
        assert_eq!(containers(&bench), [format!("{} Up", wanted.fingerprint)], "after {polls} polls");
        if let Some(whole) = whole {
            whole.unwrap();
            assert!(polls > 15, "a deploy asks the engine many things, and waits for each");
            break;
        }
    }
    assert_eq!(ready(&bench, &current.owner).await.endpoints, endpoints, "it is still where it was");
    // It would say so if another had held its port when it began.
    let log = crate::contract::lines(&*bench.adapter(), &current.owner, Default::default()).await;
    assert!(log.iter().all(|line| !line.contains("in use")), "{log:?}");
}

#[tokio::test]
async fn an_undeploy_that_is_dropped_anywhere_is_put_right_by_the_next() {
    let bench = LocalBench::start();
    let mut wanted = workload(&bench, 21);
    for polls in 1.. {
        assert!(polls < 200, "an undeploy does not come to its end");
        wanted = next(&wanted);
        bench.adapter().deploy(&wanted).await.unwrap();
        let undeploy = bench.adapter();
        let whole =
            dropped_after(polls, polls % 2 == 0, undeploy.undeploy(&wanted.owner, wanted.epoch)).await;
        gone(&*bench.adapter(), &wanted.owner, wanted.epoch).await;
        assert_eq!(containers(&bench), Vec::<String>::new(), "after {polls} polls");
        if let Some(whole) = whole {
            assert_eq!(whole.unwrap(), Removed::Gone);
            break;
        }
    }
}

/// Two gateways at once, of which one has been overtaken: one container is there in the end, the newer one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_at_once_the_newer_one_stays() {
    let bench = LocalBench::start();
    let old = workload(&bench, 22);
    let new = changed(&old);
    let (one, two) = (bench.adapter(), bench.adapter());
    let both = tokio::time::timeout(LIMIT, futures::future::join(one.deploy(&old), two.deploy(&new)));
    let (late, newer) = both.await.unwrap();
    newer.unwrap();
    if let Err(error) = late {
        assert_eq!(error.reason.code, "newer_attempt", "{error}");
    }
    // The older one may have been quicker everywhere but at the end; the newer one's next call is what counts.
    two.deploy(&next(&new)).await.unwrap();
    assert_eq!(containers(&bench), [format!("{} Up", new.fingerprint)]);
}

/// A look while containers come and go is whole every time: what stands still is always in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_while_others_come_and_go_are_whole() {
    let bench = LocalBench::start();
    let stays = workload(&bench, 24);
    bench.adapter().deploy(&stays).await.unwrap();
    ready(&bench, &stays.owner).await;
    let coming_and_going = async {
        let mut wanted = workload(&bench, 25);
        for _ in 0..5 {
            wanted = changed(&wanted);
            bench.adapter().deploy(&wanted).await.unwrap();
            gone(&*bench.adapter(), &wanted.owner, wanted.epoch).await;
        }
    };
    let looking = async {
        loop {
            let all = bench.adapter().observe().await.unwrap();
            assert!(all.iter().any(|found| found.owner == Some(stays.owner.id)), "{all:?}");
        }
    };
    tokio::select! {
        () = coming_and_going => {}
        () = looking => {}
    }
}
