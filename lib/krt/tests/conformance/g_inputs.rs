//! G: inputs, and H: status rows.

use krt::{Graph, Subscribe};

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

#[test]
fn c115_c116_c117_delete_where_put_if_and_set() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    tx.reset(&numbers, (0..6).map(|n| (n, n)));
    tx.commit();
    let mut tx = graph.transaction();
    tx.put(&numbers, 8, 8);
    tx.put(&numbers, 2, 3);
    tx.delete_where(&numbers, |_, n| n % 2 == 0);
    assert!(!tx.put_if(&numbers, 1, 10, |row| row.is_none()));
    assert!(tx.put_if(&numbers, 1, 11, |row| row == Some(&1)));
    tx.set(&numbers, 3, None::<u32>);
    tx.set(&numbers, 7, Some(7));
    tx.commit();
    assert_eq!(rows(&graph, &numbers), [(1, 11), (2, 3), (5, 5), (7, 7)]);
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

#[test]
fn c121_c122_c123_status_rows_beside_output_rows() {
    let mut builder = Graph::builder();
    let specs = builder.input::<u32, (Option<&str>, u32)>("specs");
    let both = builder.derive("both", &specs, |_, _, spec| Some(*spec));
    let status = builder.derive("status", &both, |_, _, (status, _)| *status);
    let rows_out = builder
        .derive_many("rows", &both, |_, id, (_, n)| (0..*n).map(|at| ((*id, at), ())).collect::<Vec<_>>());
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &specs, 1, (Some("ok"), 1));
    let mut changes = graph.subscribe(&Subscribe::all());
    put(&mut graph, &specs, 1, (Some("ok"), 2));
    let event = batch(&mut changes);
    assert_eq!((event.changes(&status).len(), event.changes(&rows_out).len()), (0, 1));
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
