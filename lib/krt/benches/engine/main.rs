//! B1 to B7, B10 and B11 of the list of figures: each prints what it measured beside its target. B8, B9 and what B1
//! allocates are in the bench `memory`.
//!
//! `cargo bench -p krt --bench engine`. Times are the best of several rounds; a quiet core is the caller's business.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock; the crate does not")]

mod peers;
mod shapes;

use std::hint::black_box;
use std::time::{Duration, Instant};

use krt::{Collection, Graph, Input, Labels};

#[derive(Debug, Clone, PartialEq)]
struct Pod {
    namespace: u8,
    labels: Labels,
    address: u32,
}

#[derive(Debug, Clone, PartialEq)]
struct Service {
    namespace: u8,
    selector: Labels,
}

fn app(number: u32) -> Labels {
    Labels::from([("app".to_owned(), format!("app-{number}"))])
}

fn pod(number: u32, address: u32) -> Pod {
    Pod { namespace: u8::try_from(number % 2).unwrap(), labels: app(number % 25), address }
}

struct World {
    graph: Graph,
    pods: Input<u32, Pod>,
    services: Input<u32, Service>,
    workloads: Collection<u32, (u32, Vec<u32>)>,
    /// From the first put until the commit returned.
    first_sync: Duration,
}

/// Pods, and the services that select each: the shape of Istio's controllers.
fn world(pods: u32, services: u32, apps: u32) -> World {
    let mut builder = Graph::builder();
    let pod_rows = builder.input::<u32, Pod>("pods");
    let service_rows = builder.input::<u32, Service>("services");
    let selectors = builder.selectors("selectors", &service_rows, |_, service| {
        (service.namespace, Some(service.selector.clone()))
    });
    let workloads = builder.derive("workloads", &pod_rows, move |ctx, _, pod| {
        let selecting = ctx.selecting(&selectors, &pod.namespace, &pod.labels);
        Some((pod.address, selecting.into_iter().map(|(key, _)| *key).collect()))
    });
    let mut graph = builder.seal().unwrap();
    let service = |number: u32| Service {
        namespace: u8::try_from(number % 2).unwrap(),
        selector: app((number / 2) % apps),
    };
    let pod = |number| Pod { labels: app((number / 2) % apps), ..pod(number, 0) };
    let (services, pods): (Vec<_>, Vec<_>) =
        ((0..services).map(service).collect(), (0..pods).map(pod).collect());
    let start = Instant::now();
    let mut tx = graph.transaction();
    for (number, row) in (0..).zip(services) {
        tx.put(&service_rows, number, row);
    }
    for (number, row) in (0..).zip(pods) {
        tx.put(&pod_rows, number, row);
    }
    tx.commit();
    let first_sync = start.elapsed();
    World { graph, pods: pod_rows, services: service_rows, workloads, first_sync }
}

fn best(rounds: usize, mut round: impl FnMut() -> Duration) -> Duration {
    (0..rounds).map(|_| round()).min().unwrap_or_default()
}

fn report(line: &str, what: &str, took: Duration, target: Duration) {
    let verdict = if took <= target { "ok" } else { "MISSED" };
    println!("{line:<4} {what:<64} {took:>12.2?}  target {target:>10.2?}  {verdict}");
}

fn updates(round: u32) -> Vec<(u32, Pod)> {
    (0..1_000)
        .map(|number| {
            let mut row = pod(number, round + 1);
            row.labels = app((number / 2) % 25);
            (number, row)
        })
        .collect()
}

/// Gives the times of B1 and B2.
fn b1_b2() -> (Duration, Duration) {
    let mut each = world(1_000, 50, 25);
    let mut round = 0;
    let one_by_one = best(20, || {
        round += 1;
        let rows = updates(round);
        let start = Instant::now();
        for (key, row) in rows {
            let mut tx = each.graph.transaction();
            tx.put(&each.pods, key, row);
            tx.commit();
        }
        start.elapsed()
    });
    report(
        "B1",
        "1,000 pod updates in 1,000 transactions, 50 services",
        one_by_one,
        Duration::from_micros(2_500),
    );
    let mut held = world(1_000, 50, 25);
    let reader = held.graph.reader();
    let published = best(20, || {
        round += 1;
        let rows = updates(round);
        let start = Instant::now();
        for (key, row) in rows {
            let mut tx = held.graph.transaction();
            tx.put(&held.pods, key, row);
            tx.commit();
        }
        start.elapsed()
    });
    black_box(reader.latest());
    report(
        "B1",
        "the same while every revision is published as a snapshot",
        published,
        Duration::from_micros(2_500),
    );
    let mut all = world(1_000, 50, 25);
    let at_once = best(20, || {
        round += 1;
        let rows = updates(round);
        let start = Instant::now();
        let mut tx = all.graph.transaction();
        for (key, row) in rows {
            tx.put(&all.pods, key, row);
        }
        let commit = tx.commit();
        let took = start.elapsed();
        assert_eq!((commit.runs, commit.changed), (1_000, 2_000));
        took
    });
    report("B2", "B1 as one transaction", at_once, Duration::from_micros(1_500));
    assert!(each.graph.verify().is_empty());
    (one_by_one, at_once)
}

/// Gives the time of B3.
fn b3_b4_b10_b11() -> Duration {
    let mut big = world(100_000, 1_000, 500);
    let what = "first sync of 100k rows, label selection for each";
    report("B4", what, big.first_sync, Duration::from_millis(400));
    let mut turn = 0;
    let mut matches = 0;
    let took = best(50, || {
        turn += 1;
        let old = app(0);
        let new = if turn % 2 == 1 { app(1_000_000) } else { old };
        let row = Service { namespace: 0, selector: new };
        let start = Instant::now();
        let mut tx = big.graph.transaction();
        tx.put(&big.services, 0, row);
        let commit = tx.commit();
        let took = start.elapsed();
        matches = commit.runs;
        took
    });
    let target = Duration::from_micros(50 + 2 * u64::try_from(matches).unwrap());
    report("B3", &format!("one service change over 100k pods, {matches} runs"), took, target);
    let reader = big.graph.reader();
    let reads = best(20, || {
        let start = Instant::now();
        for key in 0..1_000 {
            let snapshot = reader.latest();
            black_box(snapshot.get(&big.workloads, &(key * 97)));
        }
        start.elapsed() / 1_000
    });
    report("B10", "take the latest snapshot and read a row of 100k", reads, Duration::from_micros(1));
    let start = Instant::now();
    assert!(big.graph.verify().is_empty());
    report("B11", "the oracle over 100k rows", start.elapsed(), Duration::from_secs(1));
    took
}

fn b7() {
    let mut builder = Graph::builder();
    let shared = builder.input::<u32, u32>("shared");
    let users = builder.input::<u32, u32>("users");
    builder.derive("out", &users, move |ctx, _, n| Some(ctx.get(&shared, &0).map_or(0, |s| **s) + n));
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..100_000).for_each(|user| tx.put(&users, user, user));
    tx.commit();
    let mut value = 0;
    let took = best(10, || {
        value += 1;
        let start = Instant::now();
        let mut tx = graph.transaction();
        tx.put(&shared, 0, value);
        assert_eq!(tx.commit().runs, 100_000);
        start.elapsed()
    });
    report("B7", "one row read by 100k keys, each runs once", took, Duration::from_millis(100));
}

fn main() {
    // `cargo test --benches` runs this as well; there is nothing to check then.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (b1, b2) = b1_b2();
    let b3 = b3_b4_b10_b11();
    peers::peers(b1, b2, b3);
    shapes::b5();
    shapes::b6();
    b7();
}
