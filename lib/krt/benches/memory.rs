//! The figures of memory: what B1 allocates, B8 (relabel churn) and B9 (bytes a row). A bench of its own, because the
//! allocator that counts also takes time.
//!
//! `cargo bench -p krt --bench memory`, with `-- 10000000` for the churn in full.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_macros, clippy::print_stdout, reason = "a benchmark talks")]
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and its arguments; the crate does not"
)]

use std::alloc::System;
use std::time::Instant;

use krt::{Graph, Input, Labels};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes held now, more than at the region's start.
fn held(region: &Region<'_, System>) -> isize {
    let change = region.change();
    change.bytes_allocated.cast_signed() - change.bytes_deallocated.cast_signed()
}

fn report(line: &str, what: &str, figure: f64, unit: &str, target: f64) {
    let verdict = if figure <= target { "ok" } else { "MISSED" };
    println!("{line:<4} {what:<64} {figure:>9.2} {unit:<3} target {target:>7.2} {unit}  {verdict}");
}

fn app(number: u32) -> Labels {
    Labels::from([("app".to_owned(), format!("app-{number}"))])
}

/// 1,000 updates of 1,000 pods that 50 services select, one transaction each.
fn b1() {
    type Pod = (u8, Labels, u32);
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, Pod>("pods");
    let services = builder.input::<u32, (u8, Labels)>("services");
    let selectors =
        builder.selectors("selectors", &services, |_, service| (service.0, Some(service.1.clone())));
    builder.derive("workloads", &pods, move |ctx, _, pod| {
        let selecting = ctx.selecting(&selectors, &pod.0, &pod.1);
        Some((pod.2, selecting.into_iter().map(|(key, _)| *key).collect::<Vec<_>>()))
    });
    let mut graph = builder.seal().unwrap();
    let pod = |n: u32, address: u32| (u8::try_from(n % 2).unwrap(), app(n / 2 % 25), address);
    let mut tx = graph.transaction();
    (0..50).for_each(|n| tx.put(&services, n, (u8::try_from(n % 2).unwrap(), app(n / 2 % 25))));
    (0..1_000).for_each(|n| tx.put(&pods, n, pod(n, 0)));
    tx.commit();
    let rows: Vec<Pod> = (0..1_000).map(|n| pod(n, 1)).collect();
    let region = Region::new(COUNTING);
    for (n, row) in (0..).zip(rows) {
        let mut tx = graph.transaction();
        tx.put(&pods, n, row);
        tx.commit();
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    let allocated = region.change().bytes_allocated as f64 / 1e6;
    report("B1", "allocated by 1,000 pod updates in 1,000 transactions", allocated, "MB", 2.0);
}

fn churn_world() -> (Graph, Input<u32, u32>) {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, u32>("pods");
    let by_app = builder.index("by_app", &pods, |_, app| [*app]);
    let apps = builder.input::<u32, ()>("apps");
    builder.derive("sizes", &apps, move |ctx, app, ()| Some(ctx.count(&by_app, app)));
    builder.derive("owners", &pods, move |ctx, _, app| Some(ctx.exists(&apps, app)));
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..50).for_each(|n| tx.put(&apps, n, ()));
    (0..1_000).for_each(|n| tx.put(&pods, n, n % 50));
    tx.commit();
    (graph, pods)
}

fn b8(commits: u32) {
    let (mut graph, pods) = churn_world();
    let relabel = |graph: &mut Graph, n: u32| {
        let mut tx = graph.transaction();
        tx.put(&pods, n.wrapping_mul(2_654_435_761) % 1_000, n.wrapping_mul(40_503) % 60);
        tx.commit();
    };
    let rest = |graph: &mut Graph| {
        let mut tx = graph.transaction();
        (0..1_000).for_each(|n| tx.put(&pods, n, n % 50));
        tx.commit();
    };
    (0..100_000).for_each(|n| relabel(&mut graph, n));
    rest(&mut graph);
    let region = Region::new(COUNTING);
    let start = Instant::now();
    (0..commits).for_each(|n| relabel(&mut graph, n));
    let took = start.elapsed();
    rest(&mut graph);
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    let kept = held(&region) as f64 / 1e3;
    let what = format!("held more after {commits} relabels ({:.2?} each)", took / commits.max(1));
    report("B8", &what, kept, "kB", 64.0);
    assert!(graph.verify().is_empty());
}

/// Rows of 200 bytes in a graph of three collections: each read by key by two others' runs, and in two indexes.
fn b9() {
    const ROWS: u32 = 100_000;
    let region = Region::new(COUNTING);
    let mut builder = Graph::builder();
    let rows = builder.input::<u32, [u8; 200]>("rows");
    let others = builder.input::<u32, [u8; 200]>("others");
    builder.index("by_first", &rows, |_, row| [row[0]]);
    builder.index("by_second", &rows, |key, _| [key / 10]);
    builder.derive("shared", &rows, move |ctx, key, row| {
        let partner = ctx.get(&others, key).map_or(0, |row| row[0]);
        Some((row[0], partner, ctx.exists(&others, &(key + 1))))
    });
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..ROWS).for_each(|key| tx.put(&rows, key, [u8::try_from(key % 200).unwrap(); 200]));
    tx.commit();
    let values = f64::from(ROWS) * 200.0;
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    let (all, accounts): (f64, f64) = (
        held(&region) as f64,
        graph.memory().iter().map(|(_, memory)| memory.overhead()).sum::<usize>() as f64,
    );
    let rows = f64::from(ROWS);
    report(
        "B9",
        "overhead a row: 2 dependencies, 2 indexes, 3 collections",
        (all - values) / rows,
        "B",
        600.0,
    );
    println!("{:<4} {:<64} {:>9.2} B", "", "the same by the engine's own accounts", accounts / rows);
}

fn main() {
    // `cargo test --benches` runs this as well; there is nothing to check then.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let commits = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    b1();
    b8(commits);
    b9();
}
