//! B: events and subscribers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use krt::{Event, Graph, Input, Subscribe};

use crate::{batch, delete, flat, put, rows};

fn numbers() -> (Graph, Input<u32, u32>) {
    let mut builder = Graph::builder();
    let numbers = builder.input("numbers");
    (builder.seal().unwrap(), numbers)
}

#[test]
fn c13_events_carry_old_and_new() {
    let (mut graph, numbers) = numbers();
    let mut changes = graph.subscribe(&Subscribe::all());
    put(&mut graph, &numbers, 1, 10);
    put(&mut graph, &numbers, 1, 11);
    delete(&mut graph, &numbers, &1);
    assert_eq!(flat(&batch(&mut changes), &numbers), [(1, None, Some(10))]);
    assert_eq!(flat(&batch(&mut changes), &numbers), [(1, Some(10), Some(11))]);
    assert_eq!(flat(&batch(&mut changes), &numbers), [(1, Some(11), None)]);
}

#[test]
fn c14_an_equal_update_is_no_event() {
    let (mut graph, numbers) = numbers();
    put(&mut graph, &numbers, 1, 10);
    let mut changes = graph.subscribe(&Subscribe::all());
    put(&mut graph, &numbers, 1, 10);
    assert!(changes.try_next().is_none());
    assert_eq!(graph.revision(), 1);
}

#[test]
fn c15_a_touch_of_an_equal_value_is_an_event_and_reruns() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let same = builder.map("same", &numbers, |_, n| *n);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 10);
    let mut changes = graph.subscribe(&Subscribe::all());
    let mut tx = graph.transaction();
    tx.touch(&numbers, &1);
    tx.touch(&numbers, &2);
    assert_eq!(tx.commit().runs, 1);
    let batch = batch(&mut changes);
    assert_eq!(flat(&batch, &numbers), [(1, Some(10), Some(10))]);
    assert_eq!(flat(&batch, &same), []);
}

#[test]
fn c16_a_subscriber_before_the_data_sees_adds_in_order() {
    let (mut graph, numbers) = numbers();
    let mut changes = graph.subscribe(&Subscribe::all());
    let mut tx = graph.transaction();
    for key in [5, 3, 9, 1] {
        tx.put(&numbers, key, key);
    }
    tx.commit();
    let keys: Vec<u32> = flat(&batch(&mut changes), &numbers).into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, [1, 3, 5, 9]);
}

#[test]
fn c17_a_late_subscriber_gets_the_state_once_and_then_changes() {
    let (graph, numbers) = numbers();
    let graph = std::sync::Mutex::new(graph);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..20).for_each(|key| put(&mut graph.lock().unwrap(), &numbers, key, key)));
        let mut changes = graph.lock().unwrap().subscribe(&Subscribe::all().with_initial());
        let mut seen = Vec::new();
        while seen.len() < 20 {
            if let Some(Event::Batch(batch)) = changes.try_next() {
                seen.extend(flat(&batch, &numbers));
            }
        }
        let expected: Vec<_> = (0..20).map(|key| (key, None, Some(key))).collect();
        assert_eq!(seen, expected, "no gap and no duplicate");
    });
}

#[test]
fn c18_without_initial_state_existing_rows_are_no_events() {
    let (mut graph, numbers) = numbers();
    put(&mut graph, &numbers, 1, 10);
    let mut changes = graph.subscribe(&Subscribe::all());
    assert!(changes.try_next().is_none());
}

#[test]
fn c20_a_blocked_subscriber_delays_nobody() {
    let (mut graph, numbers) = numbers();
    let mut blocked = graph.subscribe(&Subscribe::all().capacity(2));
    let mut quick = graph.subscribe(&Subscribe::all().capacity(2));
    for key in 0..50 {
        put(&mut graph, &numbers, key, key);
        assert_eq!(batch(&mut quick).revision(), u64::from(key) + 1);
        assert!(blocked.backlog() <= 2, "nor does it hold more than it may");
    }
    assert!(matches!(blocked.try_next(), Some(Event::Lagged { .. })));
}

#[test]
fn c21_a_subscriber_added_while_another_is_blocked_works() {
    let (mut graph, numbers) = numbers();
    let blocked = graph.subscribe(&Subscribe::all().capacity(1));
    (0..50).for_each(|key| put(&mut graph, &numbers, key, key));
    let mut late = graph.subscribe(&Subscribe::all().with_initial());
    assert_eq!(batch(&mut late).changes(&numbers).len(), 50);
    put(&mut graph, &numbers, 50, 50);
    assert_eq!(flat(&batch(&mut late), &numbers), [(50, None, Some(50))]);
    assert_eq!(blocked.backlog(), 1);
}

#[test]
fn c22_one_revision_is_one_batch_with_each_key_once() {
    let (mut graph, numbers) = numbers();
    let mut changes = graph.subscribe(&Subscribe::all());
    let mut tx = graph.transaction();
    for value in 0..10 {
        tx.put(&numbers, 1, value);
        tx.put(&numbers, 2, value);
    }
    tx.commit();
    assert_eq!(flat(&batch(&mut changes), &numbers), [(1, None, Some(9)), (2, None, Some(9))]);
    assert!(changes.try_next().is_none());
}

#[test]
fn c23_batches_come_in_revision_order() {
    let (mut graph, numbers) = numbers();
    let mut changes = graph.subscribe(&Subscribe::all());
    (0..40).for_each(|value| put(&mut graph, &numbers, 1, value));
    let values: Vec<u32> = std::iter::from_fn(|| changes.try_next())
        .map(|event| **event.snapshot().get(&numbers, &1).unwrap())
        .collect();
    assert_eq!(values, (0..40).collect::<Vec<_>>());
}

#[test]
fn c139_revisions_increase_by_one_without_gaps() {
    let (mut graph, numbers) = numbers();
    let mut changes = graph.subscribe(&Subscribe::all());
    for step in 0..40 {
        // Every other transaction changes nothing and must not use up a number.
        put(&mut graph, &numbers, 1, step / 2);
    }
    let revisions: Vec<u64> =
        std::iter::from_fn(|| changes.try_next()).map(|event| event.snapshot().revision()).collect();
    assert_eq!(revisions, (1..=20).collect::<Vec<_>>());
}

#[test]
fn c25_a_lagging_reader_is_told_and_given_the_state() {
    let (mut graph, numbers) = numbers();
    let mut changes = graph.subscribe(&Subscribe::all().capacity(3));
    put(&mut graph, &numbers, 0, 0);
    assert_eq!(batch(&mut changes).revision(), 1);
    for key in 1..9 {
        put(&mut graph, &numbers, key, key);
        assert!(changes.backlog() <= 3);
    }
    let Some(Event::Lagged { from, to, snapshot }) = changes.try_next() else { panic!("not told") };
    assert_eq!((from, to, snapshot.revision()), (1, 9, 9));
    assert!(snapshot.rows(&numbers).map(|(key, _)| *key).eq(0..9));
    put(&mut graph, &numbers, 9, 9);
    assert_eq!(flat(&batch(&mut changes), &numbers), [(9, None, Some(9))]);
}

#[test]
fn c26_a_put_and_delete_in_one_transaction_is_no_event() {
    let (mut graph, numbers) = numbers();
    put(&mut graph, &numbers, 1, 10);
    let mut changes = graph.subscribe(&Subscribe::all());
    let mut tx = graph.transaction();
    tx.put(&numbers, 2, 20);
    tx.delete(&numbers, &2);
    assert_eq!(tx.commit().changed, 0);
    assert!(changes.try_next().is_none());
    assert_eq!(rows(&graph, &numbers), [(1, 10)]);
}

#[test]
fn c27_a_put_and_put_back_in_one_transaction_is_no_event() {
    let (mut graph, numbers) = numbers();
    put(&mut graph, &numbers, 1, 10);
    let mut changes = graph.subscribe(&Subscribe::all());
    let mut tx = graph.transaction();
    tx.put(&numbers, 1, 11);
    tx.put(&numbers, 1, 10);
    assert_eq!(tx.commit().changed, 0);
    assert!(changes.try_next().is_none());
    assert_eq!(graph.revision(), 1);
}

#[test]
fn c28_a_delete_and_re_add_is_nothing_or_one_update() {
    let (mut graph, numbers) = numbers();
    put(&mut graph, &numbers, 1, 10);
    let mut changes = graph.subscribe(&Subscribe::all());
    for value in [10, 12] {
        let mut tx = graph.transaction();
        tx.delete(&numbers, &1);
        tx.put(&numbers, 1, value);
        tx.commit();
    }
    assert_eq!(flat(&batch(&mut changes), &numbers), [(1, Some(10), Some(12))], "the equal one is no event");
    assert!(changes.try_next().is_none());
}

#[test]
fn c29_dropping_the_receiver_frees_its_buffer() {
    let mut builder = Graph::builder();
    let values = builder.input::<u32, Vec<u8>>("values");
    let mut graph = builder.seal().unwrap();
    let changes = graph.subscribe(&Subscribe::all());
    let value = Arc::new(vec![1]);
    let mut tx = graph.transaction();
    tx.put(&values, 1, Arc::clone(&value));
    tx.commit();
    delete(&mut graph, &values, &1);
    assert!(Arc::strong_count(&value) > 1, "the buffer holds the row");
    drop(changes);
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn c30_a_filter_hides_events() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let even = builder.filter("even", &numbers, |_, n| n % 2 == 0);
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::only([even.id()]));
    put(&mut graph, &numbers, 1, 11);
    put(&mut graph, &numbers, 1, 13);
    assert!(changes.try_next().is_none());
    put(&mut graph, &numbers, 1, 12);
    assert_eq!(flat(&batch(&mut changes), &even), [(1, None, Some(12))]);
    put(&mut graph, &numbers, 1, 13);
    assert_eq!(flat(&batch(&mut changes), &even), [(1, Some(12), None)]);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_waiting_reader_is_woken_by_a_batch_and_by_the_end_of_the_graph() {
    let (mut graph, numbers) = numbers();
    let mut changes = graph.subscribe(&Subscribe::all());
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    assert!(changes.poll_next(&mut cx).is_pending());
    put(&mut graph, &numbers, 1, 1);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert!(matches!(changes.poll_next(&mut cx), Poll::Ready(Some(Event::Batch(_)))));
    assert!(changes.poll_next(&mut cx).is_pending());
    drop(graph);
    assert_eq!(count.0.load(Ordering::SeqCst), 2);
    assert!(matches!(changes.poll_next(&mut cx), Poll::Ready(None)));
}

#[test]
fn c19_an_unregistered_reader_costs_nothing_more() {
    let mut builder = Graph::builder();
    let values = builder.input_unsynced::<u32, u32>("values");
    let mut graph = builder.seal().unwrap();
    let changes = graph.subscribe(&Subscribe::all().with_initial());
    let value = Arc::new(7);
    let mut tx = graph.transaction();
    tx.put(&values, 1, Arc::clone(&value));
    tx.commit();
    drop(changes);
    let mut tx = graph.transaction();
    tx.put(&values, 1, 8);
    tx.mark_synced(&values);
    tx.commit();
    assert_eq!(Arc::strong_count(&value), 1, "no batch with the old row is kept for it");
}

#[test]
fn c24_what_one_reader_holds_no_other_can_change() {
    let (mut graph, numbers) = numbers();
    let mut first = graph.subscribe(&Subscribe::all());
    let mut second = graph.subscribe(&Subscribe::all());
    put(&mut graph, &numbers, 1, 10);
    let held = batch(&mut first);
    put(&mut graph, &numbers, 1, 11);
    delete(&mut graph, &numbers, &1);
    assert_eq!(flat(&held, &numbers), [(1, None, Some(10))]);
    assert_eq!(held.snapshot().get(&numbers, &1).map(|n| **n), Some(10));
    let other = batch(&mut second);
    assert!(std::ptr::eq(held.changes(&numbers), other.changes(&numbers)), "shared, not copied per reader");
}
