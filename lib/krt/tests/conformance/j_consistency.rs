//! J: consistency and determinism.

use std::sync::atomic::{AtomicBool, Ordering};

use krt::{Batch, Collection, Event, Graph, Input, Snapshot, SnapshotReader, Subscribe, Subscription};

use crate::{put, rows, sound};

struct World {
    graph: Graph,
    left: Input<u32, i64>,
    right: Input<u32, i64>,
    sums: Collection<u32, i64>,
    total: Collection<(), i64>,
}

fn world() -> World {
    let mut builder = Graph::builder();
    let left = builder.input::<u32, i64>("left");
    let right = builder.input::<u32, i64>("right");
    let by_parity = builder.index("by_parity", &left, |key, _| [key % 2]);
    let sums =
        builder.derive("sums", &left, move |ctx, key, n| Some(n + ctx.get(&right, key).map_or(0, |m| **m)));
    builder.group("groups", &by_parity, |_, _, members| Some(members.len()));
    let total = builder.singleton("total", move |ctx| Some(ctx.scan(&sums).map(|(_, n)| **n).sum::<i64>()));
    World { graph: builder.seal().unwrap(), left, right, sums, total }
}

impl World {
    /// Every transaction keeps left + right = 0.
    fn balanced(&mut self, key: u32, value: i64) {
        let mut tx = self.graph.transaction();
        tx.put(&self.left, key, value);
        tx.put(&self.right, key, -value);
        tx.commit();
    }
}

#[test]
fn c131_a_snapshot_is_one_revision_of_all_collections_under_concurrent_commits() {
    let mut world = world();
    let (left, right, sums) = (world.left, world.right, world.sums);
    let reader = world.graph.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (reader, done) = (reader.clone(), &done);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let snapshot = reader.latest();
                    assert!(snapshot.revision() >= last);
                    last = snapshot.revision();
                    let rows = snapshot.rows(&left).zip(snapshot.rows(&right)).zip(snapshot.rows(&sums));
                    for (((key, l), (k2, r)), (k3, sum)) in rows {
                        assert!(key == k2 && key == k3 && (**l, **sum) == (-**r, 0));
                    }
                    assert_eq!(snapshot.len(&left), snapshot.len(&sums));
                }
            });
        }
        for step in 0..2_000 {
            world.balanced(step % 7, i64::from(step));
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn c132_an_invariant_of_every_transaction_holds_in_every_derived_row_and_batch() {
    let mut world = world();
    let mut changes = world.graph.subscribe(&Subscribe::all().capacity(10_000));
    for step in 0..500 {
        world.balanced(step % 7, i64::from(step));
    }
    let mut batches = 0;
    while let Some(Event::Batch(batch)) = changes.try_next() {
        let snapshot = batch.snapshot();
        assert!(snapshot.rows(&world.sums).all(|(_, sum)| **sum == 0));
        assert_eq!(snapshot.get(&world.total, &()).map(|total| **total), Some(0));
        assert!(batch.changes(&world.sums).iter().all(|change| change.new.as_deref() == Some(&0)));
        batches += 1;
    }
    assert_eq!(batches, 500);
    // A row that breaks the invariant does show: the checks above can fail.
    put(&mut world.graph, &world.left, 1, 5);
    assert!(rows(&world.graph, &world.sums).iter().any(|(_, sum)| *sum != 0));
}

/// One log of steps, applied in the given order in transactions of `size`.
fn replay(steps: &[(u32, i64)], size: usize) -> (World, String) {
    let mut world = world();
    let mut changes = world.graph.subscribe(&Subscribe::all().capacity(10_000));
    let mut log = String::new();
    for chunk in steps.chunks(size) {
        let mut tx = world.graph.transaction();
        for (key, value) in chunk {
            match value % 5 {
                0 => tx.delete(&world.left, key),
                _ => tx.put(&world.left, *key, *value),
            }
            tx.put(&world.right, key % 3, *value);
        }
        tx.commit();
    }
    while let Some(Event::Batch(batch)) = changes.try_next() {
        log += &format!(
            "{} {:?} {:?}\n",
            batch.revision(),
            batch.changes(&world.left),
            batch.changes(&world.sums)
        );
    }
    sound(&world.graph);
    (world, log)
}

fn steps() -> Vec<(u32, i64)> {
    (0..300u32)
        .map(|step| (step.wrapping_mul(2_654_435_761) % 23, i64::from(step.wrapping_mul(40_503) % 97)))
        .collect()
}

#[test]
fn c133_the_same_log_gives_the_same_bytes() {
    let (first, second) = (replay(&steps(), 3), replay(&steps(), 3));
    assert_eq!(first.1, second.1);
    assert_eq!(first.0.graph.dump(), second.0.graph.dump());
    assert!(first.1.lines().count() > 50);
}

#[test]
fn c134_the_order_of_independent_transactions_does_not_matter() {
    let mut forward = world();
    let mut backward = world();
    for key in 0..50 {
        forward.balanced(key, i64::from(key) * 3);
        backward.balanced(49 - key, i64::from(49 - key) * 3);
    }
    assert_eq!(rows(&forward.graph, &forward.sums), rows(&backward.graph, &backward.sums));
    assert_eq!(rows(&forward.graph, &forward.left), rows(&backward.graph, &backward.left));
}

#[test]
fn c135_splitting_transactions_gives_the_same_state() {
    let sizes = [1, 7, 300].map(|size| {
        let (world, _) = replay(&steps(), size);
        (rows(&world.graph, &world.sums), rows(&world.graph, &world.total))
    });
    assert_eq!(sizes[0], sizes[1]);
    assert_eq!(sizes[1], sizes[2]);
}

#[test]
fn c136_graph_and_readers_cross_threads() {
    fn sends<T: Send>() {}
    fn shares<T: Send + Sync + Clone>() {}
    sends::<Graph>();
    sends::<Subscription>();
    shares::<Snapshot>();
    shares::<SnapshotReader>();
    shares::<Batch>();
    shares::<Event>();
    let here = replay(&steps(), 2).0.graph.dump();
    let there =
        std::thread::scope(|scope| scope.spawn(|| replay(&steps(), 2).0.graph.dump()).join().unwrap());
    assert_eq!(here, there);
}

#[test]
fn c138_a_chain_of_a_thousand_collections_does_not_overflow() {
    let run = || {
        let mut builder = Graph::builder();
        let numbers = builder.input::<u32, u32>("numbers");
        let mut last = *numbers;
        for step in 0..1_000 {
            last = builder.map(&format!("step{step}"), &last, |_, n| n + 1);
        }
        let mut graph = builder.seal().unwrap();
        put(&mut graph, &numbers, 1, 0);
        assert_eq!(rows(&graph, &last), [(1, 1_000)]);
        assert_eq!(graph.explain(&last, &1).causes, ["numbers 1"]);
        sound(&graph);
    };
    std::thread::Builder::new().stack_size(512 * 1024).spawn(run).unwrap().join().unwrap();
}

#[test]
fn c137_a_collection_can_read_only_what_is_declared_before_it() {
    // That a cycle does not compile is shown in src/refused.rs. Here: of a graph of every operator, each arrow of the
    // picture goes from an earlier collection to a later one.
    let mut world = world();
    world.balanced(1, 5);
    let dot = world.graph.dot();
    let mut arrows = 0;
    for line in dot.lines() {
        let Some((from, to)) = line.trim().split_once(" -> ") else { continue };
        let number = |text: &str| -> u32 {
            text.trim_start_matches('n').split([' ', ';']).next().unwrap().parse().unwrap()
        };
        assert!(number(from) < number(to), "{line}");
        arrows += 1;
    }
    assert!(arrows >= 4, "{dot}");
}
