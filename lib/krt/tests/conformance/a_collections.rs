//! A: collections.

use std::sync::Arc;

use krt::{Error, Graph, Subscribe};

use crate::{batch, delete, flat, put, rows, sound};

#[test]
fn c1_a_new_collection_is_empty() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let doubled = builder.map("doubled", &numbers, |_, n| n * 2);
    let graph = builder.seal().unwrap();
    let snapshot = graph.snapshot();
    assert!(snapshot.is_empty(&numbers) && snapshot.is_empty(&doubled));
    assert_eq!(snapshot.get(&numbers, &1), None);
    assert_eq!(snapshot.rows(&doubled).count(), 0);
}

#[test]
fn c2_a_put_is_seen_at_the_next_snapshot() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let mut graph = builder.seal().unwrap();
    let before = graph.snapshot();
    put(&mut graph, &numbers, 1, 10);
    let after = graph.snapshot();
    assert_eq!(after.get(&numbers, &1).map(|n| **n), Some(10));
    assert_eq!((after.len(&numbers), after.rows(&numbers).len()), (1, 1));
    assert_eq!((before.len(&numbers), before.get(&numbers, &1)), (0, None));
}

#[test]
fn c3_rows_come_in_key_order() {
    let orders = [[3, 1, 2, 200, 40], [200, 40, 3, 2, 1]].map(|keys| {
        let mut builder = Graph::builder();
        let numbers = builder.input::<u32, u32>("numbers");
        let mut graph = builder.seal().unwrap();
        for key in keys {
            put(&mut graph, &numbers, key, key);
        }
        rows(&graph, &numbers)
    });
    assert_eq!(orders[0], orders[1]);
    assert!(orders[0].is_sorted());
}

#[test]
fn c4_a_put_replaces_and_old_snapshots_keep_the_old_value() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let mut graph = builder.seal().unwrap();
    let mut kept = Vec::new();
    for value in 0..100 {
        put(&mut graph, &numbers, 1, value);
        put(&mut graph, &numbers, value + 2, value);
        kept.push(graph.snapshot());
    }
    for (value, snapshot) in (0..100u32).zip(&kept) {
        assert_eq!(snapshot.get(&numbers, &1).map(|n| **n), Some(value));
        assert_eq!(snapshot.len(&numbers), value as usize + 2);
    }
}

#[test]
fn c5_deleting_an_absent_key_is_silent() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::all());
    delete(&mut graph, &numbers, &1);
    assert_eq!(graph.revision(), 0);
    assert!(changes.try_next().is_none());
}

#[test]
fn c6_names_are_kept_and_unique() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let graph = builder.seal().unwrap();
    assert_eq!(graph.name(numbers.id()), Some("numbers"));

    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    builder.map("numbers", &numbers, |_, n| n * 2);
    assert_eq!(builder.seal().err(), Some(Error::DuplicateCollection("numbers".to_owned())));
}

#[test]
fn c7_a_duplicate_index_name_is_a_build_error() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    builder.index("parity", &numbers, |_, n| [n % 2]);
    builder.index("parity", &numbers, |_, n| [n % 2]);
    assert_eq!(builder.seal().err(), Some(Error::DuplicateIndex("parity".to_owned())));
}

#[test]
fn c8_a_cutoff_of_the_users_is_honoured() {
    let mut builder = Graph::builder();
    let pairs = builder.input::<u32, (u32, &str)>("pairs");
    builder.cutoff(&pairs, |old, new| old.0 == new.0);
    let firsts = builder.map("firsts", &pairs, |_, pair| pair.0);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &pairs, 1, (1, "a"));
    let mut changes = graph.subscribe(&Subscribe::all());
    put(&mut graph, &pairs, 1, (1, "b"));
    assert!(changes.try_next().is_none());
    put(&mut graph, &pairs, 1, (2, "b"));
    assert_eq!(flat(&batch(&mut changes), &firsts), [(1, Some(1), Some(2))]);
}

#[test]
fn c10_untouched_rows_stay_the_same_allocation() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let rounded = builder.map("rounded", &numbers, |_, n| n / 10);
    let big = builder.filter("big", &numbers, |_, n| *n > 5);
    let mut graph = builder.seal().unwrap();
    let mine = Arc::new(10);
    let mut tx = graph.transaction();
    tx.put(&numbers, 1, Arc::clone(&mine));
    tx.put(&numbers, 2, 20);
    tx.commit();
    let before = graph.snapshot();
    let mut tx = graph.transaction();
    tx.put(&numbers, 1, 11);
    tx.put(&numbers, 2, 20);
    tx.commit();
    let after = graph.snapshot();
    assert!(Arc::ptr_eq(before.get(&numbers, &1).unwrap(), &mine), "the caller's allocation is the row");
    assert!(Arc::ptr_eq(before.get(&numbers, &2).unwrap(), after.get(&numbers, &2).unwrap()));
    assert!(
        Arc::ptr_eq(before.get(&rounded, &1).unwrap(), after.get(&rounded, &1).unwrap()),
        "equal output keeps its row"
    );
    assert!(
        Arc::ptr_eq(after.get(&numbers, &1).unwrap(), after.get(&big, &1).unwrap()),
        "a filter shares its rows"
    );
}

#[test]
fn c11_a_changed_key_is_a_delete_and_an_add_in_one_revision() {
    let mut builder = Graph::builder();
    let people = builder.input::<u32, &str>("people");
    let by_name = builder.derive_many("by_name", &people, |_, id, name| vec![(*name, *id)]);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &people, 1, "ann");
    let mut changes = graph.subscribe(&Subscribe::all());
    put(&mut graph, &people, 1, "bea");
    assert_eq!(flat(&batch(&mut changes), &by_name), [("ann", Some(1), None), ("bea", None, Some(1))]);
    assert!(changes.try_next().is_none());
    sound(&graph);
}

#[test]
fn c12_replacing_a_set_emits_only_the_difference() {
    let mut builder = Graph::builder();
    let sets = builder.input::<u32, Vec<char>>("sets");
    let members =
        builder.derive_many("members", &sets, |_, _, set| set.iter().map(|c| (*c, ())).collect::<Vec<_>>());
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &sets, 1, vec!['a', 'b', 'c']);
    let mut changes = graph.subscribe(&Subscribe::all());
    put(&mut graph, &sets, 1, vec!['a', 'b', 'd']);
    assert_eq!(flat(&batch(&mut changes), &members), [('c', Some(()), None), ('d', None, Some(()))]);
}

#[test]
fn c9_a_cutoff_that_ignores_what_a_transform_reads_is_flagged() {
    #[derive(Debug, Clone, PartialEq)]
    struct Row {
        size: u32,
        note: u32,
    }
    // `checked`: the test mode is on; `reads_note`: the transform looks at the field the cutoff ignores.
    let differences = |checked: bool, reads_note: bool, derived: bool| {
        let mut builder = Graph::builder();
        if checked {
            builder.check_cutoffs();
        }
        let input = builder.input::<u32, Row>("input");
        let source = if derived { builder.map("copied", &input, |_, row| row.clone()) } else { *input };
        builder.cutoff(&source, |old, new| old.size == new.size);
        builder.map("out", &source, move |_, row| if reads_note { row.size + row.note } else { row.size });
        let mut graph = builder.seal().unwrap();
        put(&mut graph, &input, 1, Row { size: 1, note: 1 });
        put(&mut graph, &input, 2, Row { size: 1, note: 1 });
        sound(&graph);
        put(&mut graph, &input, 1, Row { size: 1, note: 5 });
        let found = graph.verify();
        put(&mut graph, &input, 1, Row { size: 2, note: 7 });
        sound(&graph);
        found
            .into_iter()
            .map(|found| (found.collection, found.key, found.incremental, found.recomputed))
            .collect::<Vec<_>>()
    };
    let flagged = [("out".to_owned(), "1".to_owned(), "Some(2)".to_owned(), "Some(6)".to_owned())];
    let none: Vec<(String, String, String, String)> = Vec::new();
    assert_eq!(differences(true, true, false), flagged);
    assert_eq!(differences(true, false, false), none, "a cutoff that ignores what nobody reads is right");
    assert_eq!(differences(false, true, false), none, "in production the input's rows are not kept twice");
    assert_eq!(differences(true, true, true), flagged, "a derived collection's cutoff");
}
