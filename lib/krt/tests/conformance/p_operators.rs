//! P: the operators that work on changes: reduce, equi-join, merges whose members come and go, and the past.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use krt::{Error, Failure, Graph, Subscribe};

use crate::{batch, delete, flat, put, rows, runs, sound};

#[test]
fn one_changed_member_of_a_group_of_ten_thousand_is_two_steps() {
    let steps = Arc::new(AtomicUsize::new(0));
    let (adds, removes) = (Arc::clone(&steps), Arc::clone(&steps));
    let mut builder = Graph::builder();
    let vms = builder.input::<u32, (u32, u64)>("vms");
    let by_host = builder.index("by_host", &vms, |_, vm| [vm.0]);
    let used = builder.reduce(
        "used",
        &by_host,
        |_| 0,
        move |sum, _, vm| {
            adds.fetch_add(1, Ordering::Relaxed);
            *sum += vm.1;
        },
        move |sum, _, vm| {
            removes.fetch_add(1, Ordering::Relaxed);
            *sum -= vm.1;
        },
        |_, sum| Some(*sum),
    );
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..10_000).for_each(|vm| tx.put(&vms, vm, (7, 1)));
    assert_eq!(tx.commit().runs, 1);
    steps.store(0, Ordering::Relaxed);
    put(&mut graph, &vms, 5_000, (7, 11));
    assert_eq!((steps.swap(0, Ordering::Relaxed), rows(&graph, &used)), (2, vec![(7, 10_010)]));
    put(&mut graph, &vms, 5_000, (8, 11));
    assert_eq!((steps.swap(0, Ordering::Relaxed), rows(&graph, &used)), (2, vec![(7, 9_999), (8, 11)]));
    delete(&mut graph, &vms, &5_000);
    assert_eq!((steps.swap(0, Ordering::Relaxed), rows(&graph, &used)), (1, vec![(7, 9_999)]));
    assert_eq!(graph.explain(&used, &7).source_key.as_deref(), Some("7"));
    sound(&graph);
}

#[test]
fn a_reduction_keeps_its_last_good_row_and_recovers_from_a_panicking_step() {
    let mut builder = Graph::builder();
    let vms = builder.input::<u32, (u32, u32)>("vms");
    let by_host = builder.index("by_host", &vms, |_, vm| [vm.0]);
    let used = builder.reduce(
        "used",
        &by_host,
        |_| 0,
        |sum, _, vm| {
            assert!(vm.1 < 100, "no VM is that large");
            *sum += vm.1;
        },
        |sum, _, vm| *sum -= vm.1,
        |_, sum| match sum {
            50 => Err(Failure::keep("fifty")),
            40 => Ok(None),
            sum => Ok(Some(*sum)),
        },
    );
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &vms, 1, (7, 10));
    put(&mut graph, &vms, 2, (7, 500));
    let error = graph.snapshot().error(&used, &7u32).unwrap();
    assert!(error.panicked && error.failure.reason() == "no VM is that large");
    assert_eq!(rows(&graph, &used), [(7, 10)]);
    sound(&graph);
    put(&mut graph, &vms, 2, (7, 20));
    assert_eq!((rows(&graph, &used), graph.snapshot().errors(&used).len()), (vec![(7, 30)], 0));
    put(&mut graph, &vms, 3, (7, 20));
    assert_eq!(graph.snapshot().error(&used, &7u32).unwrap().failure, Failure::keep("fifty"));
    assert_eq!(rows(&graph, &used), [(7, 30)]);
    sound(&graph);
    put(&mut graph, &vms, 3, (7, 10));
    assert_eq!((rows(&graph, &used), graph.snapshot().errors(&used).len()), (vec![], 0));
    (1..4).for_each(|vm| delete(&mut graph, &vms, &vm));
    assert_eq!(rows(&graph, &used), []);
    sound(&graph);
}

#[test]
fn an_equi_join_reruns_the_pairs_of_the_changed_row() {
    let mut builder = Graph::builder();
    let vms = builder.input::<u32, (u32, u32)>("vms"); // network, address
    let rules = builder.input::<u32, (Vec<u32>, u32)>("rules"); // networks, port
    let vms_by_network = builder.index("vms_by_network", &vms, |_, vm| [vm.0]);
    let rules_by_network = builder.index("rules_by_network", &rules, |_, rule| rule.0.clone());
    let open = builder
        .equi_join("open", &vms_by_network, &rules_by_network, |(_, vm), (_, rule)| Some((vm.1, rule.1)));
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..100).for_each(|vm| tx.put(&vms, vm, (vm % 10, vm)));
    (0..10).for_each(|rule| tx.put(&rules, rule, (vec![rule], 80)));
    assert_eq!(tx.commit().runs, 100);
    put(&mut graph, &vms, 3, (4, 3));
    assert_eq!(runs(&graph, &open), 102, "the pair it was in and the pair it is in");
    assert_eq!(graph.snapshot().get(&open, &(3, 4)).map(|row| **row), Some((3, 80)));
    assert_eq!(graph.explain(&open, &(3, 4)).causes, ["vms 3"]);
    put(&mut graph, &rules, 4, (vec![4, 5], 443));
    assert_eq!(runs(&graph, &open), 102 + 21);
    let mut changes = graph.subscribe(&Subscribe::only([open.id()]));
    let mut tx = graph.transaction();
    tx.delete(&vms, &3);
    tx.delete(&rules, &4);
    tx.commit();
    assert_eq!(batch(&mut changes).changes(&open).len(), 21, "pairs of two rows that both left go as well");
    sound(&graph);
    let mut tx = graph.transaction();
    tx.delete_where(&vms, |_, _| true);
    tx.delete_where(&rules, |_, _| true);
    tx.commit();
    assert_eq!(graph.snapshot().len(&open), 0);
}

#[test]
fn a_merge_by_key_follows_members_that_come_and_go() {
    let mut builder = Graph::builder();
    let parts = builder.input::<(u32, &str), u32>("parts"); // (member, key)
    let merged = builder.merge_by(
        "merged",
        &parts,
        |(_, key), _| *key,
        |_, parts| Ok(parts.iter().map(|((member, _), n)| (*member, ***n)).collect::<Vec<_>>()),
    );
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &parts, (2, "a"), 20);
    put(&mut graph, &parts, (2, "b"), 21);
    let mut changes = graph.subscribe(&Subscribe::only([merged.id()]));
    let mut tx = graph.transaction();
    tx.put(&parts, (1, "a"), 10);
    tx.put(&parts, (1, "c"), 12);
    tx.commit();
    let with_member =
        [("a", Some(vec![(2, 20)]), Some(vec![(1, 10), (2, 20)])), ("c", None, Some(vec![(1, 12)]))];
    assert_eq!(flat(&batch(&mut changes), &merged), with_member);
    let mut tx = graph.transaction();
    tx.delete_where(&parts, |(member, _), _| *member == 1);
    tx.commit();
    let without = with_member.map(|(key, old, new)| (key, new, old));
    assert_eq!(flat(&batch(&mut changes), &merged), without);
    assert_eq!(runs(&graph, &merged), 6, "a and c three and two times, b for itself only");
    sound(&graph);
}

#[test]
fn c63_the_past_of_a_collection_is_read_through_an_explicit_operator() {
    // Reading a sibling key of the own collection does not compile (src/refused.rs). Its last revision can be read.
    let mut builder = Graph::builder();
    let before = builder.previous::<u32, u32>("before");
    let wanted = builder.input::<u32, u32>("wanted");
    // Each moves by at most one a revision towards what is wanted, and reads its neighbour as it was.
    let level = builder.derive("level", &wanted, move |ctx, key, wanted| {
        let now = ctx.get(&before, key).map_or(0, |n| **n);
        let neighbour = ctx.get(&before, &(key + 1)).map_or(0, |n| **n);
        Some(if now < *wanted && neighbour < 3 { now + 1 } else { now })
    });
    builder.previous_of(&before, &level);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &wanted, 1, 3);
    assert_eq!((rows(&graph, &level), rows(&graph, &before)), (vec![(1, 1)], vec![]));
    let mut last = rows(&graph, &level);
    for expected in [2, 3, 3] {
        assert!(graph.transaction().commit().changed > 0);
        assert_eq!(rows(&graph, &before), last, "one revision behind");
        last = rows(&graph, &level);
        assert_eq!(last, [(1, expected)]);
        sound(&graph);
    }
    let settled = graph.revision();
    assert_eq!(graph.transaction().commit().revision, settled, "nothing more to bring");
    assert!(graph.dot().contains(r#"n2 -> n0 [style=dotted, label="previous"]"#));
}

#[test]
fn a_past_is_told_once_what_it_shows_and_is_synced_when_that_is() {
    let mut builder = Graph::builder();
    builder.previous::<u32, u32>("nothing");
    assert_eq!(builder.seal().err(), Some(Error::Previous("nothing".to_owned())));
    let mut builder = Graph::builder();
    let before = builder.previous::<u32, u32>("before");
    let numbers = builder.input_unsynced::<u32, u32>("numbers");
    builder.previous_of(&before, &numbers);
    builder.previous_of(&before, &numbers);
    assert_eq!(builder.seal().err(), Some(Error::Previous("before".to_owned())));
    let mut builder = Graph::builder();
    let before = builder.previous::<u32, u32>("before");
    let after = builder.map("after", &before, |_, n| *n);
    let numbers = builder.input_unsynced::<u32, u32>("numbers");
    builder.previous_of(&before, &numbers);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 1);
    assert!(!graph.snapshot().is_synced(&before) && !graph.snapshot().is_synced(&after));
    let mut tx = graph.transaction();
    tx.mark_synced(&numbers);
    tx.commit();
    assert!(graph.snapshot().is_all_synced());
    assert_eq!(rows(&graph, &after), [(1, 1)]);
}
