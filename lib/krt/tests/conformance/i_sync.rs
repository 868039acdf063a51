//! I: sync.

use krt::{Event, Graph, Subscribe, Work, WorkOptions};
use std::time::Duration;

use crate::{batch, put, rows};

#[test]
fn c120_reads_before_sync_are_allowed_and_flagged() {
    let mut builder = Graph::builder();
    let first = builder.input_unsynced::<u32, u32>("first");
    let second = builder.input_unsynced::<u32, u32>("second");
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &first, 1, 1);
    assert_eq!(rows(&graph, &first), [(1, 1)]);
    assert!(!graph.snapshot().is_synced(&first) && !graph.is_synced());
    for _ in 0..2 {
        let mut tx = graph.transaction();
        tx.mark_synced(&first);
        assert_eq!(tx.commit().revision, 2, "once: the second time is no news");
    }
    assert!(graph.snapshot().is_synced(&first) && !graph.snapshot().is_synced(&second));
}

#[test]
fn c130_what_keeps_the_graph_from_being_synced_is_named() {
    let mut builder = Graph::builder();
    let first = builder.input_unsynced::<u32, u32>("first");
    let second = builder.input_unsynced::<u32, u32>("second");
    builder.input::<u32, u32>("third");
    let mut graph = builder.seal().unwrap();
    assert_eq!(graph.unsynced(), ["first", "second"]);
    let mut tx = graph.transaction();
    tx.mark_synced(&first);
    tx.commit();
    assert_eq!(graph.unsynced(), ["second"]);
    let mut tx = graph.transaction();
    tx.mark_synced(&second);
    tx.commit();
    assert!(graph.unsynced().is_empty() && graph.is_synced());
}

#[test]
fn c127_work_is_synced_only_after_it_has_taken_in_its_initial_batch() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 1);
    put(&mut graph, &numbers, 2, 2);
    assert!(graph.is_synced());
    let mut changes = graph.subscribe(&Subscribe::all().with_initial());
    let mut work = Work::new(&numbers, WorkOptions::default());
    let now = Duration::from_secs(1);
    assert!(!work.is_synced() && work.next(now).is_none(), "the graph is, the consumer is not yet");
    let initial = batch(&mut changes);
    assert!(initial.is_synced() && initial.changes(&numbers).len() == 2);
    work.apply(&Event::Batch(initial), now);
    assert!(work.is_synced() && work.len() == 2);
}

#[test]
fn c129_a_graph_stopped_before_it_was_synced_says_no_and_leaks_nothing() {
    let mut builder = Graph::builder();
    let numbers = builder.input_unsynced::<u32, u32>("numbers");
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::all());
    let mut work = Work::new(&numbers, WorkOptions::default());
    let value = std::sync::Arc::new(7);
    let mut tx = graph.transaction();
    tx.put(&numbers, 1, std::sync::Arc::clone(&value));
    tx.commit();
    drop(graph);
    // Waiting for sync ends: the stream is at its end, and no event of it said "synced".
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut synced = false;
    while let std::task::Poll::Ready(Some(event)) = changes.poll_next(&mut cx) {
        synced |= event.snapshot().is_all_synced();
        work.apply(&event, Duration::ZERO);
    }
    assert!(matches!(changes.poll_next(&mut cx), std::task::Poll::Ready(None)));
    assert!(!synced && !work.is_synced() && work.next(Duration::from_secs(9)).is_none());
    drop((changes, work));
    assert_eq!(std::sync::Arc::strong_count(&value), 1);
}

#[test]
fn c125_a_collection_is_synced_when_everything_it_reads_is() {
    let mut builder = Graph::builder();
    let driving = builder.input::<u32, u32>("driving");
    let read = builder.input_unsynced::<u32, u32>("read");
    let plain = builder.map("plain", &driving, |_, n| *n);
    let reading = builder.derive("reading", &driving, move |ctx, key, _| Some(ctx.exists(&read, key)));
    let after = builder.map("after", &reading, |_, found| *found);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &driving, 1, 1);
    let snapshot = graph.snapshot();
    assert!(snapshot.is_synced(&plain) && !snapshot.is_synced(&reading) && !snapshot.is_synced(&after));
    let mut tx = graph.transaction();
    tx.put(&read, 1, 1);
    tx.mark_synced(&read);
    tx.commit();
    let snapshot = graph.snapshot();
    assert!(snapshot.is_synced(&reading) && snapshot.is_synced(&after));
    assert_eq!(rows(&graph, &after), [(1, true)], "and complete at that very revision");
}

#[test]
fn c126_sync_of_the_graph_is_one_event_at_one_revision() {
    let mut builder = Graph::builder();
    let first = builder.input_unsynced::<u32, u32>("first");
    let second = builder.input_unsynced::<u32, u32>("second");
    let sum = builder.singleton("sum", move |ctx| Some(ctx.scan(&first).count() + ctx.scan(&second).count()));
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::all());
    for (input, rows) in [(first, 3), (second, 4)] {
        let mut tx = graph.transaction();
        tx.reset(&input, (0..rows).map(|n| (n, n)));
        tx.mark_synced(&input);
        tx.commit();
    }
    put(&mut graph, &first, 9, 9);
    let seen: Vec<_> = std::iter::from_fn(|| changes.try_next())
        .map(|event| {
            let snapshot = event.snapshot();
            (snapshot.revision(), snapshot.is_all_synced(), snapshot.get(&sum, &()).map(|n| **n))
        })
        .collect();
    assert_eq!(seen, [(1, false, Some(3)), (2, true, Some(7)), (3, true, Some(8))]);
}

#[test]
fn c128_an_empty_graph_syncs_as_well() {
    let mut builder = Graph::builder();
    let first = builder.input_unsynced::<u32, u32>("first");
    let second = builder.input_unsynced::<u32, u32>("second");
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::only([second.id()]));
    for input in [first, second, second] {
        let mut tx = graph.transaction();
        tx.mark_synced(&input);
        tx.commit();
    }
    let event = batch(&mut changes);
    assert!(event.is_synced() && event.revision() == 2);
    assert!(changes.try_next().is_none());
}

#[test]
fn c40_the_state_at_sync_is_complete() {
    let mut builder = Graph::builder();
    let numbers = builder.input_unsynced::<u32, u32>("numbers");
    let doubled = builder.map("doubled", &numbers, |_, n| n * 2);
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    tx.reset(&numbers, (0..100).map(|n| (n, n)));
    tx.mark_synced(&numbers);
    tx.commit();
    assert!(graph.is_synced());
    assert_eq!(rows(&graph, &doubled), (0..100).map(|n| (n, n * 2)).collect::<Vec<_>>());
}

#[test]
fn c165_no_work_before_sync() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let other = builder.input_unsynced::<u32, u32>("other");
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::only([numbers.id()]).with_initial());
    let mut work = Work::new(&numbers, WorkOptions::default());
    put(&mut graph, &numbers, 1, 1);
    let take_in = |work: &mut Work<u32, u32>, changes: &mut krt::Subscription| {
        while let Some(event) = changes.try_next() {
            work.apply(&event, Duration::ZERO);
        }
    };
    take_in(&mut work, &mut changes);
    assert!(work.next(Duration::from_secs(9)).is_none() && work.wake_at().is_none());
    let mut tx = graph.transaction();
    tx.mark_synced(&other);
    tx.commit();
    assert!(
        matches!(&changes.try_next(), Some(event @ Event::Batch(_)) if { work.apply(event, Duration::ZERO); true })
    );
    assert_eq!(work.next(Duration::ZERO).map(|job| job.key), Some(1));
}
