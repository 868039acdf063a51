//! C: transforms.

use krt::{Failure, Graph, Subscribe};

use crate::{batch, delete, flat, put, rows, runs, sound};

#[test]
fn c31_c32_c33_a_row_appears_changes_and_goes_with_its_input() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let halves = builder.derive("halves", &numbers, |_, _, n| (n % 2 == 0).then_some(n / 2));
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 4);
    assert_eq!(rows(&graph, &halves), [(1, 2)]);
    put(&mut graph, &numbers, 1, 5);
    assert_eq!(rows(&graph, &halves), []);
    let mut changes = graph.subscribe(&Subscribe::all());
    put(&mut graph, &numbers, 1, 6);
    assert_eq!(flat(&batch(&mut changes), &halves), [(1, None, Some(3))]);
    put(&mut graph, &numbers, 1, 8);
    assert_eq!(flat(&batch(&mut changes), &halves), [(1, Some(3), Some(4))]);
    delete(&mut graph, &numbers, &1);
    assert_eq!(rows(&graph, &halves), []);
    assert_eq!(runs(&graph, &halves), 5);
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
fn c37_c38_a_singleton_is_computed_at_seal_and_when_its_reads_change() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let others = builder.input::<u32, u32>("others");
    let chosen = builder.singleton("chosen", move |ctx| Some(ctx.get(&numbers, &1).map_or(0, |n| **n)));
    let keyed = builder
        .generate("keyed", move |ctx| ctx.get(&numbers, &1).map(|n| vec![(**n, ())]).unwrap_or_default());
    let mut graph = builder.seal().unwrap();
    assert_eq!((rows(&graph, &chosen), runs(&graph, &chosen)), (vec![((), 0)], 1));
    put(&mut graph, &numbers, 2, 5);
    put(&mut graph, &others, 1, 5);
    assert_eq!(runs(&graph, &chosen), 1);
    put(&mut graph, &numbers, 1, 5);
    assert_eq!((rows(&graph, &chosen), runs(&graph, &chosen)), (vec![((), 5)], 2));
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

#[test]
fn c41_c42_a_hundred_changes_to_one_dependency_are_one_run_per_dependent() {
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
    let before = runs(&graph, &sums);
    let mut tx = graph.transaction();
    for key in 0..100 {
        tx.put(&shared, key, 1);
    }
    // The key is dirty through its own row as well: still one run.
    tx.put(&users, 3, 33);
    assert_eq!(tx.commit().runs, 10);
    assert_eq!(runs(&graph, &sums) - before, 10);
    assert_eq!(graph.snapshot().get(&sums, &3).map(|n| **n), Some(133));
}

#[test]
fn c43_c158_runs_suppressed_and_dirty_are_counted() {
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
