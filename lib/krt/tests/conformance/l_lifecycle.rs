//! L: lifecycle. What is made twenty times and dropped leaves nothing behind, neither with its graph nor inside it.

use std::sync::Arc;

use krt::{Builder, Failure, Graph, Input, Subscribe};

use crate::sound;

/// A row that carries a token: whoever keeps a row or a transform alive, keeps the token alive.
#[derive(Debug, Clone)]
struct Row(u32, #[expect(dead_code, reason = "held, not read")] Arc<()>);

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

type Rows = Input<u32, Row>;

/// Rows, errors, access paths and edges of every collection.
fn registrations(graph: &Graph) -> Vec<(usize, usize, usize, usize)> {
    let counters = graph.counters().into_iter();
    counters.map(|(_, held)| (held.rows, held.errors, held.paths, held.edges)).collect()
}

fn fill(graph: &mut Graph, inputs: [Rows; 2], token: &Arc<()>) {
    let mut tx = graph.transaction();
    for key in 0..30 {
        tx.put(&inputs[0], key, Row(key, Arc::clone(token)));
        tx.put(&inputs[1], key + 20, Row(key % 7, Arc::clone(token)));
    }
    tx.commit();
}

fn empty(graph: &mut Graph, inputs: [Rows; 2]) {
    let mut tx = graph.transaction();
    tx.delete_where(&inputs[0], |_, _| true);
    tx.delete_where(&inputs[1], |_, _| true);
    tx.commit();
}

/// Twenty graphs with readers, dropped full; and one graph filled and emptied twenty times.
fn leaves_nothing(declare: impl Fn(&mut Builder, [Rows; 2], Arc<()>)) {
    let token = Arc::new(());
    let make = || {
        let mut builder = Graph::builder();
        let inputs = [builder.input("first"), builder.input("second")];
        declare(&mut builder, inputs, Arc::clone(&token));
        (builder.seal().unwrap(), inputs)
    };
    for _ in 0..20 {
        let (mut graph, inputs) = make();
        let changes = graph.subscribe(&Subscribe::all().with_initial());
        let reader = graph.reader();
        fill(&mut graph, inputs, &token);
        assert!(graph.counters().iter().all(|(name, held)| held.rows > 0 || panic!("{name} is empty")));
        sound(&graph);
        drop((graph, changes, reader));
        assert_eq!(Arc::strong_count(&token), 1, "rows and transforms are gone with the graph");
    }
    let (mut graph, inputs) = make();
    let (baseline, idle) = (registrations(&graph), Arc::strong_count(&token));
    for _ in 0..20 {
        let changes = graph.subscribe(&Subscribe::all());
        fill(&mut graph, inputs, &token);
        assert_ne!(registrations(&graph), baseline);
        empty(&mut graph, inputs);
        assert_eq!(registrations(&graph), baseline);
        drop(changes);
        assert_eq!(Arc::strong_count(&token), idle, "no row is held by anybody");
    }
}

#[test]
fn c145_derived_collections_leave_nothing() {
    leaves_nothing(|builder, [first, second], token| {
        builder.derive("derived", &first, move |ctx, key, row| {
            let partner = ctx.get(&second, &(key + 20)).map_or(0, |row| row.0);
            Some(Row(row.0 + partner, Arc::clone(&token)))
        });
    });
}

#[test]
fn c146_merges_leave_nothing() {
    leaves_nothing(|builder, [first, second], token| {
        builder.merge("merged", &[*first, *second], move |_, rows| {
            Ok(Row(rows.iter().map(|row| row.0).sum(), Arc::clone(&token)))
        });
    });
}

#[test]
fn c147_nested_collections_leave_nothing() {
    leaves_nothing(|builder, [first, second], token| {
        let all = builder.union("all", &[*first, *second]);
        let by_value = builder.index("by_value", &all, |_, row| [row.0 % 3]);
        let groups =
            builder.group("groups", &by_value, move |_, value, _| Some(Row(*value, Arc::clone(&token))));
        let wide = builder
            .derive_many("wide", &groups, |_, key, row| vec![(*key, row.clone()), (key + 9, row.clone())]);
        builder.join("joined", &wide, &first, |key, _| Some(*key), |_, row, _| Some(row.clone()));
    });
}

#[test]
fn c148_checked_unions_leave_nothing() {
    leaves_nothing(|builder, [first, second], token| {
        let kept = builder.map("kept", &second, move |_, row| Row(row.0, Arc::clone(&token)));
        // The two overlap: errors come and go as well.
        builder.union_disjoint("both", &[*first, kept]);
    });
}

#[test]
fn c149_unchecked_unions_leave_nothing() {
    leaves_nothing(|builder, [first, second], token| {
        let kept = builder.map("kept", &second, move |_, row| Row(row.0, Arc::clone(&token)));
        builder.union("both", &[*first, kept]);
    });
}

#[test]
fn c150_singletons_leave_nothing() {
    leaves_nothing(|builder, [first, second], token| {
        let by_value = builder.index("by_value", &second, |_, row| [row.0]);
        builder.singleton("one", move |ctx| {
            let reads = ctx.scan(&first).count() + ctx.lookup(&by_value, &3).count();
            Some(Row(u32::try_from(reads).unwrap(), Arc::clone(&token)))
        });
    });
}

#[test]
fn c151_status_rows_leave_nothing() {
    leaves_nothing(|builder, [first, second], token| {
        let both = builder.derive("both", &first, move |ctx, key, row| match row.0 % 5 {
            0 => Err(Failure::err("not a good one")),
            _ => Ok(Some((Row(row.0, Arc::clone(&token)), ctx.exists(&second, key)))),
        });
        builder.derive("status", &both, |_, _, (_, found)| Some(*found));
        builder.derive_many("rows", &both, |_, key, (row, _)| {
            vec![((*key, 0), row.clone()), ((*key, 1), row.clone())]
        });
    });
}

#[test]
fn c153_what_dumps_list_goes_with_its_row() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let others = builder.input::<u32, u32>("others");
    let sums = builder.derive("sums", &numbers, move |ctx, key, n| match n {
        9 => Err(Failure::err("nine")),
        n => Ok(Some(n + ctx.get(&others, key).map_or(0, |m| **m))),
    });
    let words = builder.derive_many("words", &sums, |_, key, n| vec![((*key, *n), ())]);
    let mut graph = builder.seal().unwrap();
    let clean = (graph.dump(), graph.dot());
    let mut tx = graph.transaction();
    (0..20).for_each(|key| tx.put(&numbers, key, key));
    (0..20).for_each(|key| tx.put(&others, key, key));
    tx.commit();
    assert!(graph.dump().contains("others key 19") && graph.dump().contains("nine"));
    assert!(graph.explain(&words, &(3, 6)).ran_at.is_some());
    let mut tx = graph.transaction();
    tx.delete_where(&numbers, |_, _| true);
    tx.delete_where(&others, |_, _| true);
    tx.commit();
    let emptied = graph.dump().replace(r#""revision":2"#, r#""revision":0"#);
    assert_eq!((emptied, graph.dot()), clean);
    let explanation = graph.explain(&words, &(3, 6));
    assert!(explanation.ran_at.is_none() && explanation.reads.is_empty() && explanation.causes.is_empty());
}
