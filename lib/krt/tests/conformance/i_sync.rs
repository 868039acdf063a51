//! I: sync.

use krt::{Event, Graph, Subscribe, Work, WorkOptions};
use std::time::Duration;

use crate::{batch, put, rows};

#[test]
fn c120_c130_reads_before_sync_are_allowed_and_flagged_and_what_is_missing_is_told() {
    let mut builder = Graph::builder();
    let first = builder.input_unsynced::<u32, u32>("first");
    let second = builder.input_unsynced::<u32, u32>("second");
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &first, 1, 1);
    assert_eq!(rows(&graph, &first), [(1, 1)]);
    assert!(!graph.snapshot().is_synced(&first) && !graph.is_synced());
    assert_eq!(graph.unsynced(), ["first", "second"]);
    let mut tx = graph.transaction();
    tx.mark_synced(&first);
    tx.commit();
    assert_eq!(graph.unsynced(), ["second"]);
    assert!(graph.snapshot().is_synced(&first) && !graph.snapshot().is_synced(&second));
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
fn c126_c128_sync_is_one_event_also_for_an_empty_graph() {
    let mut builder = Graph::builder();
    let first = builder.input_unsynced::<u32, u32>("first");
    let second = builder.input_unsynced::<u32, u32>("second");
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::only([second.id()]));
    let mut tx = graph.transaction();
    tx.mark_synced(&first);
    tx.commit();
    let mut tx = graph.transaction();
    tx.mark_synced(&second);
    tx.commit();
    let mut tx = graph.transaction();
    tx.mark_synced(&second);
    tx.commit();
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
