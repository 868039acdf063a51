//! G: inputs, and H: status rows.

use krt::{Collection, Graph, Input, Subscribe};

use crate::{batch, flat, put, rows, runs, sound};

#[test]
fn c112_a_transaction_over_several_inputs_is_one_revision() {
    let mut builder = Graph::builder();
    let first = builder.input::<u32, u32>("first");
    let second = builder.input::<u32, u32>("second");
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::all());
    let reader = graph.reader();
    let mut tx = graph.transaction();
    tx.put(&first, 1, 1);
    tx.put(&second, 1, 1);
    assert!(reader.latest().is_empty(&first));
    tx.commit();
    assert_eq!((reader.latest().len(&first), reader.latest().len(&second)), (1, 1));
    let event = batch(&mut changes);
    assert_eq!((event.changes(&first).len(), event.changes(&second).len()), (1, 1));
    assert!(changes.try_next().is_none());
}

#[test]
fn c113_an_abandoned_transaction_leaves_no_trace() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let same = builder.map("same", &numbers, |_, n| *n);
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    tx.put(&numbers, 1, 1);
    assert_eq!(tx.get(&numbers, &1).as_deref(), Some(&1));
    drop(tx);
    assert_eq!((graph.revision(), runs(&graph, &same)), (0, 0));
    put(&mut graph, &numbers, 2, 2);
    assert_eq!(rows(&graph, &same), [(2, 2)]);
}

#[test]
fn c114_a_reset_emits_the_difference() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    tx.reset(&numbers, [(1, 1), (2, 2), (3, 3)]);
    tx.commit();
    let mut changes = graph.subscribe(&Subscribe::all());
    let mut tx = graph.transaction();
    tx.put(&numbers, 9, 9);
    tx.reset(&numbers, [(2, 2), (3, 30), (4, 4)]);
    tx.commit();
    assert_eq!(
        flat(&batch(&mut changes), &numbers),
        [(1, Some(1), None), (3, Some(3), Some(30)), (4, None, Some(4))]
    );
}

/// Rows 0 to 5, each its own number.
fn six() -> (Graph, Input<u32, u32>) {
    let mut builder = Graph::builder();
    let numbers = builder.input("numbers");
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    tx.reset(&numbers, (0..6).map(|n| (n, n)));
    tx.commit();
    (graph, numbers)
}

#[test]
fn c115_delete_where_removes_what_passes_staged_rows_included() {
    let (mut graph, numbers) = six();
    let mut tx = graph.transaction();
    tx.put(&numbers, 8, 8);
    tx.put(&numbers, 2, 3);
    tx.delete_where(&numbers, |_, n| n % 2 == 0);
    tx.commit();
    assert_eq!(rows(&graph, &numbers), [(1, 1), (2, 3), (3, 3), (5, 5)]);
}

#[test]
fn c116_put_if_looks_at_the_row_as_the_transaction_would_leave_it() {
    let (mut graph, numbers) = six();
    let mut tx = graph.transaction();
    assert!(!tx.put_if(&numbers, 1, 10, |row| row.is_none()));
    assert!(tx.put_if(&numbers, 1, 11, |row| row == Some(&1)));
    assert!(!tx.put_if(&numbers, 1, 12, |row| row == Some(&1)), "it is 11 by now");
    tx.delete(&numbers, &2);
    assert!(tx.put_if(&numbers, 2, 22, |row| row.is_none()));
    tx.commit();
    assert_eq!(rows(&graph, &numbers)[..3], [(0, 0), (1, 11), (2, 22)]);
}

#[test]
fn c117_setting_none_deletes() {
    let mut builder = Graph::builder();
    let limit = builder.input::<(), u32>("limit");
    let copy = builder.map("copy", &limit, |(), n| *n);
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::only([copy.id()]));
    for value in [Some(3), None, None] {
        let mut tx = graph.transaction();
        tx.set(&limit, (), value);
        tx.commit();
    }
    assert_eq!(flat(&batch(&mut changes), &copy), [((), None, Some(3))]);
    assert_eq!(flat(&batch(&mut changes), &copy), [((), Some(3), None)]);
    assert!(changes.try_next().is_none() && rows(&graph, &limit).is_empty());
}

#[test]
fn c118_an_external_trigger_reruns_its_dependents_only() {
    let mut builder = Graph::builder();
    let bump = builder.input::<(), u64>("bump");
    let numbers = builder.input::<u32, u32>("numbers");
    let external = builder.derive("external", &numbers, move |ctx, _, n| {
        let _ = ctx.get(&bump, &());
        Some(*n)
    });
    let aside = builder.map("aside", &numbers, |_, n| *n);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 1);
    let mut changes = graph.subscribe(&Subscribe::only([external.id(), aside.id()]));
    put(&mut graph, &bump, (), 1);
    assert_eq!((runs(&graph, &external), runs(&graph, &aside)), (2, 1));
    assert!(changes.try_next().is_none(), "equal output is silent");
}

#[test]
fn c119_staleness_fires_at_the_right_tick() {
    let mut builder = Graph::builder();
    let tick = builder.input::<(), u64>("tick");
    let beats = builder.input::<u32, u64>("beats");
    let lost = builder.derive("lost", &beats, move |ctx, _, beat| {
        let beat = *beat;
        ctx.project(&tick, &(), move |now| *now > beat + 30)
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &tick, (), 0);
    put(&mut graph, &beats, 1, 0);
    put(&mut graph, &beats, 2, 10);
    let before = runs(&graph, &lost);
    for now in 1..=30 {
        put(&mut graph, &tick, (), now);
    }
    assert_eq!((runs(&graph, &lost), rows(&graph, &lost)), (before, vec![(1, false), (2, false)]));
    put(&mut graph, &tick, (), 31);
    assert_eq!((runs(&graph, &lost), rows(&graph, &lost)), (before + 1, vec![(1, true), (2, false)]));
    put(&mut graph, &tick, (), 41);
    assert_eq!(rows(&graph, &lost), [(1, true), (2, true)]);
    sound(&graph);
}

type Spec = (Option<&'static str>, u32);

/// One run gives a status and rows; two collections show them.
fn statuses() -> (Graph, Input<u32, Spec>, Collection<u32, &'static str>, Collection<(u32, u32), ()>) {
    let mut builder = Graph::builder();
    let specs = builder.input::<u32, Spec>("specs");
    let both = builder.derive("both", &specs, |_, _, spec| Some(*spec));
    let status = builder.derive("status", &both, |_, _, (status, _)| *status);
    let children = builder
        .derive_many("rows", &both, |_, id, (_, n)| (0..*n).map(|at| ((*id, at), ())).collect::<Vec<_>>());
    (builder.seal().unwrap(), specs, status, children)
}

#[test]
fn c121_a_status_row_lives_as_long_as_its_input() {
    let (mut graph, specs, status, children) = statuses();
    put(&mut graph, &specs, 1, (Some("ok"), 1));
    assert_eq!((rows(&graph, &status), rows(&graph, &children).len()), (vec![(1, "ok")], 1));
    put(&mut graph, &specs, 1, (Some("bad"), 0));
    assert_eq!((rows(&graph, &status), rows(&graph, &children).len()), (vec![(1, "bad")], 0));
    crate::delete(&mut graph, &specs, &1);
    assert_eq!(rows(&graph, &status), []);
    sound(&graph);
}

#[test]
fn c122_an_unchanged_status_is_no_event_although_rows_changed() {
    let (mut graph, specs, status, children) = statuses();
    put(&mut graph, &specs, 1, (Some("ok"), 1));
    let mut changes = graph.subscribe(&Subscribe::all());
    put(&mut graph, &specs, 1, (Some("ok"), 2));
    let event = batch(&mut changes);
    assert_eq!((event.changes(&status).len(), event.changes(&children).len()), (0, 1));
}

#[test]
fn c123_a_status_of_none_goes_and_comes_again() {
    let (mut graph, specs, status, _) = statuses();
    put(&mut graph, &specs, 1, (Some("ok"), 2));
    let mut changes = graph.subscribe(&Subscribe::only([status.id()]));
    put(&mut graph, &specs, 1, (None, 2));
    assert_eq!(flat(&batch(&mut changes), &status), [(1, Some("ok"), None)]);
    put(&mut graph, &specs, 1, (Some("ok"), 2));
    assert_eq!(flat(&batch(&mut changes), &status), [(1, None, Some("ok"))]);
}

#[test]
fn c124_a_status_fed_back_settles_in_one_more_revision() {
    let mut builder = Graph::builder();
    let specs = builder.input::<u32, u32>("specs");
    let written = builder.input::<u32, u32>("written");
    let status = builder.map("status", &specs, |_, n| n * 2);
    let missing = builder.derive("missing", &status, move |ctx, key, status| {
        (ctx.get(&written, key).map(|row| **row) != Some(*status)).then_some(*status)
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &specs, 1, 4);
    let write_back = |graph: &mut Graph| {
        let todo = rows(graph, &missing);
        let mut tx = graph.transaction();
        todo.into_iter().for_each(|(key, value)| tx.put(&written, key, value));
        tx.commit().revision
    };
    assert_eq!(write_back(&mut graph), 2);
    assert_eq!(write_back(&mut graph), 2, "nothing left to write");
}
