//! C: transforms.

use krt::{Collection, Failure, Graph, Input, Subscribe};

use crate::{batch, delete, flat, put, rows, runs, sound};

/// Halves of even numbers; odd ones have no row.
fn halves() -> (Graph, Input<u32, u32>, Collection<u32, u32>) {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let halves = builder.derive("halves", &numbers, |_, _, n| (n % 2 == 0).then_some(n / 2));
    (builder.seal().unwrap(), numbers, halves)
}

#[test]
fn c31_a_row_appears_on_some_and_goes_on_none() {
    let (mut graph, numbers, halves) = halves();
    put(&mut graph, &numbers, 1, 4);
    assert_eq!(rows(&graph, &halves), [(1, 2)]);
    put(&mut graph, &numbers, 1, 5);
    assert_eq!(rows(&graph, &halves), []);
    put(&mut graph, &numbers, 1, 6);
    assert_eq!(rows(&graph, &halves), [(1, 3)]);
}

#[test]
fn c32_an_update_of_the_input_updates_the_row_once() {
    let (mut graph, numbers, halves) = halves();
    put(&mut graph, &numbers, 1, 6);
    put(&mut graph, &numbers, 2, 2);
    let mut changes = graph.subscribe(&Subscribe::only([halves.id()]));
    put(&mut graph, &numbers, 1, 8);
    assert_eq!(flat(&batch(&mut changes), &halves), [(1, Some(3), Some(4))]);
    assert!(changes.try_next().is_none());
    assert_eq!(runs(&graph, &halves), 3);
}

#[test]
fn c33_deleting_the_input_removes_its_rows() {
    let (mut graph, numbers, halves) = halves();
    put(&mut graph, &numbers, 1, 6);
    put(&mut graph, &numbers, 2, 2);
    let mut changes = graph.subscribe(&Subscribe::only([halves.id()]));
    delete(&mut graph, &numbers, &1);
    assert_eq!(flat(&batch(&mut changes), &halves), [(1, Some(3), None)]);
    assert_eq!(rows(&graph, &halves), [(2, 1)]);
    sound(&graph);
}

#[test]
fn c34_one_to_many_emits_only_what_changed() {
    let mut builder = Graph::builder();
    let texts = builder.input::<u32, &str>("texts");
    let words = builder.derive_many("words", &texts, |_, id, text: &&str| {
        text.split(' ').enumerate().map(|(at, word)| ((*id, at), word.to_owned())).collect::<Vec<_>>()
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &texts, 1, "a b c");
    put(&mut graph, &texts, 2, "x");
    let mut changes = graph.subscribe(&Subscribe::only([words.id()]));
    put(&mut graph, &texts, 1, "a B c d");
    let changed = flat(&batch(&mut changes), &words);
    assert_eq!(changed, [((1, 1), Some("b".into()), Some("B".into())), ((1, 3), None, Some("d".into()))]);
    delete(&mut graph, &texts, &1);
    assert_eq!(rows(&graph, &words), [((2, 0), "x".to_owned())]);
    sound(&graph);
}

#[test]
fn c35_a_duplicate_key_inside_one_result_is_that_inputs_error() {
    let mut builder = Graph::builder();
    let lists = builder.input::<u32, Vec<u32>>("lists");
    let all =
        builder.derive_many("all", &lists, |_, id, list| list.iter().map(|n| (*n, *id)).collect::<Vec<_>>());
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &lists, 1, vec![1, 2]);
    put(&mut graph, &lists, 2, vec![7, 8]);
    put(&mut graph, &lists, 1, vec![3, 4, 3]);
    let error = graph.snapshot().error(&all, &1u32).unwrap();
    assert_eq!(error.failure, Failure::err("two rows of one result have the key 3"));
    assert_eq!(rows(&graph, &all), [(1, 1), (2, 1), (7, 2), (8, 2)], "the last good rows stay");
    put(&mut graph, &lists, 1, vec![3]);
    assert_eq!(rows(&graph, &all), [(3, 1), (7, 2), (8, 2)]);
    sound(&graph);
}

#[test]
fn c36_of_two_inputs_with_one_key_the_first_owns_it() {
    let mut builder = Graph::builder();
    let claims = builder.input::<u32, &str>("claims");
    let names = builder.derive_many("names", &claims, |_, id, name| vec![(*name, *id)]);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &claims, 2, "a");
    let mut changes = graph.subscribe(&Subscribe::only([names.id()]));
    put(&mut graph, &claims, 3, "a");
    assert!(changes.try_next().is_none(), "the later claim is hidden");
    assert_eq!(graph.explain(&names, &"a").hidden, ["3"]);
    put(&mut graph, &claims, 1, "a");
    assert_eq!(flat(&batch(&mut changes), &names), [("a", Some(2), Some(1))]);
    delete(&mut graph, &claims, &1);
    put(&mut graph, &claims, 2, "b");
    assert_eq!(rows(&graph, &names), [("a", 3), ("b", 2)]);
    assert!(graph.explain(&names, &"a").hidden.is_empty());
    delete(&mut graph, &claims, &3);
    assert_eq!(rows(&graph, &names), [("b", 2)]);
    sound(&graph);
}

#[test]
fn c37_a_singleton_is_computed_at_seal_and_when_its_reads_change() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let others = builder.input::<u32, u32>("others");
    let chosen = builder.singleton("chosen", move |ctx| Some(ctx.get(&numbers, &1).map_or(0, |n| **n)));
    let mut graph = builder.seal().unwrap();
    assert_eq!((rows(&graph, &chosen), runs(&graph, &chosen)), (vec![((), 0)], 1));
    put(&mut graph, &numbers, 2, 5);
    put(&mut graph, &others, 1, 5);
    assert_eq!(runs(&graph, &chosen), 1);
    put(&mut graph, &numbers, 1, 5);
    assert_eq!((rows(&graph, &chosen), runs(&graph, &chosen)), (vec![((), 5)], 2));
    sound(&graph);
}

#[test]
fn c38_a_changed_key_of_a_singleton_is_a_delete_and_an_add() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let keyed = builder
        .generate("keyed", move |ctx| ctx.get(&numbers, &1).map(|n| vec![(**n, ())]).unwrap_or_default());
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 5);
    let mut changes = graph.subscribe(&Subscribe::only([keyed.id()]));
    put(&mut graph, &numbers, 1, 6);
    assert_eq!(flat(&batch(&mut changes), &keyed), [(5, Some(()), None), (6, None, Some(()))]);
    sound(&graph);
}

#[test]
fn c39_zero_to_many() {
    let mut builder = Graph::builder();
    let limit = builder.input::<(), u32>("limit");
    let below = builder.generate("below", move |ctx| {
        (0..ctx.get(&limit, &()).map_or(1, |n| **n)).map(|n| (n, n * n)).collect::<Vec<_>>()
    });
    let mut graph = builder.seal().unwrap();
    assert_eq!(rows(&graph, &below), [(0, 0)]);
    put(&mut graph, &limit, (), 3);
    assert_eq!(rows(&graph, &below), [(0, 0), (1, 1), (2, 4)]);
    sound(&graph);
}

type Numbers = Input<u32, u32>;

/// Ten users, each reading a hundred shared rows by key.
fn sums() -> (Graph, Numbers, Numbers, Collection<u32, u32>) {
    let mut builder = Graph::builder();
    let shared = builder.input::<u32, u32>("shared");
    let users = builder.input::<u32, u32>("users");
    let sums = builder.derive("sums", &users, move |ctx, _, n| {
        Some((0..100).map(|key| ctx.get(&shared, &key).map_or(0, |s| **s)).sum::<u32>() + n)
    });
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..10).for_each(|user| tx.put(&users, user, user));
    tx.commit();
    (graph, shared, users, sums)
}

#[test]
fn c41_a_key_runs_once_in_a_revision_however_many_reasons_there_are() {
    let (mut graph, shared, users, sums) = sums();
    let before = runs(&graph, &sums);
    let mut tx = graph.transaction();
    tx.put(&shared, 3, 1);
    tx.put(&shared, 4, 1);
    // User 3 is dirty through its own row as well: still one run.
    tx.put(&users, 3, 33);
    tx.put(&users, 3, 34);
    assert_eq!(tx.commit().runs, 10);
    assert_eq!(runs(&graph, &sums) - before, 10);
    assert_eq!(graph.snapshot().get(&sums, &3).map(|n| **n), Some(36));
}

#[test]
fn c42_a_hundred_changes_to_one_dependency_are_one_run_per_dependent() {
    let (mut graph, shared, _, sums) = sums();
    let mut tx = graph.transaction();
    for key in 0..100 {
        tx.put(&shared, key, 1);
    }
    assert_eq!(tx.commit().runs, 10);
    assert!(rows(&graph, &sums).into_iter().eq((0..10).map(|user| (user, 100 + user))));
}

#[test]
fn c43_runs_are_counted() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let tens = builder.map("tens", &numbers, |_, n| n / 10);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 10);
    put(&mut graph, &numbers, 1, 11);
    put(&mut graph, &numbers, 1, 25);
    let counters = graph.counters_of(&tens);
    assert_eq!((counters.runs, counters.suppressed, counters.dirty, counters.rows), (3, 1, 3, 1));
}

#[test]
fn c46_an_unchanged_output_stops_there() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let tens = builder.map("tens", &numbers, |_, n| n / 10);
    let after = builder.map("after", &tens, |_, n| n + 1);
    let reader = builder.singleton("reader", move |ctx| Some(ctx.scan(&tens).count()));
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 10);
    let before = (runs(&graph, &after), runs(&graph, &reader));
    put(&mut graph, &numbers, 1, 19);
    assert_eq!((runs(&graph, &after), runs(&graph, &reader)), before);
    assert_eq!(graph.snapshot().changed_at(&tens, &1), Some(1));
    put(&mut graph, &numbers, 1, 20);
    assert_eq!((runs(&graph, &after), runs(&graph, &reader)), (before.0 + 1, before.1 + 1));
}

#[test]
fn c44_the_input_in_the_graph_is_the_one_the_row_was_made_from() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, (u32, u32)>("numbers");
    // Whatever the second part is, the row counts as the same: then neither the input nor the row may move.
    builder.cutoff(&numbers, |old, new| old.0 == new.0);
    let copies = builder.derive("copies", &numbers, |_, _, n| Some(*n));
    let shared = builder.filter("shared", &numbers, |_, _| true);
    let mut graph = builder.seal().unwrap();
    let steps = [(1, 1), (1, 2), (2, 2), (2, 3), (1, 3)];
    for step in steps {
        put(&mut graph, &numbers, 7, step);
        let snapshot = graph.snapshot();
        assert_eq!(snapshot.get(&numbers, &7), snapshot.get(&copies, &7), "after {step:?}");
        let (input, row) = (snapshot.get(&numbers, &7).unwrap(), snapshot.get(&shared, &7).unwrap());
        assert!(std::sync::Arc::ptr_eq(input, row), "the very allocation, after {step:?}");
    }
}

#[test]
fn c47_no_row_depends_on_a_later_collection() {
    let slot = std::sync::Arc::new(std::sync::Mutex::new(None::<Collection<u32, u32>>));
    let later_handle = std::sync::Arc::clone(&slot);
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    // A handle that is smuggled in later is refused when it is read: the row is in error, and no edge is recorded.
    let early = builder.derive("early", &numbers, move |ctx, key, n| {
        let later = *later_handle.lock().unwrap();
        Some(later.and_then(|later| ctx.get(&later, key)).map_or(*n, |m| **m))
    });
    let later = builder.map("later", &early, |_, n| n + 1);
    *slot.lock().unwrap() = Some(later);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 1);
    let error = graph.snapshot().error(&early, &1u32).unwrap();
    assert_eq!(error.failure.reason(), "a transform read a collection that is declared after it");
    assert_eq!(graph.counters_of(&later).edges, 0);
    // What every collection did read is declared before it.
    let order = |name: &str| graph.dump().find(&format!(r#""name":"{name}""#)).unwrap();
    assert!(order("numbers") < order("early") && order("early") < order("later"));
}

#[test]
fn c45_the_crate_sees_no_clock_and_no_runtime() {
    // What the types refuse is in src/refused.rs; what they cannot, the lint does, in every file of the crate.
    let lint = include_str!("../../clippy.toml");
    for path in
        ["std::time::SystemTime::now", "std::time::Instant::now", "std::thread::spawn", "std::fs::read"]
    {
        assert!(lint.contains(&format!(r#"path = "{path}""#)), "{path} is allowed");
    }
    let sources = concat!(
        include_str!("../../src/graph.rs"),
        include_str!("../../src/logic.rs"),
        include_str!("../../src/ctx.rs"),
        include_str!("../../src/work.rs"),
        include_str!("../../src/lib.rs"),
    );
    assert!(!sources.contains("allow(clippy::disallowed_methods"), "the lint is not switched off");
    assert!(!sources.contains("async fn") && !sources.contains("SystemTime"));
}
