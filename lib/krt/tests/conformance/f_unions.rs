//! F: join, merge, map.

use krt::{Error, Failure, Graph, Input, Subscribe};

use crate::{batch, delete, flat, put, rows, runs, sound};

#[test]
fn c91_c110_list_get_index_and_events_apply_one_priority() {
    let mut builder = Graph::builder();
    let first = builder.input::<u32, &str>("first");
    let second = builder.input::<u32, &str>("second");
    let both = builder.union("both", &[*first, *second]);
    let by_text = builder.index("by_text", &both, |_, text| [*text]);
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::only([both.id()]));
    put(&mut graph, &second, 1, "low");
    put(&mut graph, &first, 1, "high");
    assert_eq!(flat(&batch(&mut changes), &both), [(1, None, Some("low"))]);
    assert_eq!(flat(&batch(&mut changes), &both), [(1, Some("low"), Some("high"))]);
    let snapshot = graph.snapshot();
    assert_eq!(
        (rows(&graph, &both), snapshot.get(&both, &1).map(|text| **text)),
        (vec![(1, "high")], Some("high"))
    );
    assert_eq!(
        (snapshot.lookup(&by_text, &"low").count(), snapshot.lookup(&by_text, &"high").count()),
        (0, 1)
    );
    sound(&graph);
}

/// One step on one of three members, and the event of the union.
fn conflict(
    steps: &[(usize, Option<&'static str>)],
) -> Vec<Option<(Option<&'static str>, Option<&'static str>)>> {
    let mut builder = Graph::builder();
    let members: Vec<Input<u32, &str>> = ["a", "b", "c"].iter().map(|name| builder.input(name)).collect();
    let all = builder.union("all", &[*members[0], *members[1], *members[2]]);
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::only([all.id()]));
    let step = |(member, value): &(usize, Option<&'static str>)| {
        let mut tx = graph.transaction();
        tx.set(&members[*member], 1, *value);
        tx.commit();
        sound(&graph);
        changes.try_next().map(|event| {
            let krt::Event::Batch(batch) = event else { panic!("lagged") };
            let [(1, old, new)] = flat(&batch, &all)[..] else { panic!("not one change") };
            (old, new)
        })
    };
    steps.iter().map(step).collect()
}

#[test]
fn c92_c93_c94_lower_then_higher_then_lowest() {
    let events = conflict(&[(1, Some("b")), (0, Some("a")), (2, Some("c"))]);
    assert_eq!(events, [Some((None, Some("b"))), Some((Some("b"), Some("a"))), None]);
}

#[test]
fn c95_c96_c97_a_hidden_update_is_nothing_and_owners_fall_back() {
    let events =
        conflict(&[(0, Some("a")), (1, Some("b")), (2, Some("c")), (1, Some("b2")), (0, None), (1, None)]);
    assert_eq!(events[3], None, "a hidden update");
    assert_eq!(events[4], Some((Some("a"), Some("b2"))), "the fallback");
    assert_eq!(events[5], Some((Some("b2"), Some("c"))), "the next fallback");
}

#[test]
fn c98_c99_the_last_delete_and_a_hidden_delete() {
    let events = conflict(&[(0, Some("a")), (1, Some("b")), (1, None), (0, None)]);
    assert_eq!(events[2..], [None, Some((Some("a"), None))]);
}

#[test]
fn c100_simultaneous_changes_give_one_event() {
    let mut builder = Graph::builder();
    let first = builder.input::<u32, &str>("first");
    let second = builder.input::<u32, &str>("second");
    let both = builder.union("both", &[*first, *second]);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &first, 1, "a");
    let mut changes = graph.subscribe(&Subscribe::only([both.id()]));
    let mut tx = graph.transaction();
    tx.delete(&first, &1);
    tx.put(&second, 1, "b");
    assert_eq!(tx.commit().runs, 1);
    assert_eq!(flat(&batch(&mut changes), &both), [(1, Some("a"), Some("b"))]);
    let mut tx = graph.transaction();
    tx.put(&first, 1, "b");
    tx.delete(&second, &1);
    tx.commit();
    assert!(changes.try_next().is_none(), "the same row from another member is no change (C106)");
}

#[test]
fn c101_an_overlap_of_a_disjoint_union_names_the_key() {
    let mut builder = Graph::builder();
    let first = builder.input::<u32, &str>("first");
    let second = builder.input::<u32, &str>("second");
    let both = builder.union_disjoint("both", &[*first, *second]);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &first, 7, "a");
    put(&mut graph, &second, 7, "b");
    let error = graph.snapshot().error(&both, &7u32).unwrap();
    assert!(error.failure.reason().contains("key 7"), "{error:?}");
    delete(&mut graph, &first, &7);
    assert_eq!((rows(&graph, &both), graph.snapshot().errors(&both).len()), (vec![(7, "b")], 0));
    sound(&graph);
}

#[test]
fn c102_a_union_is_synced_when_all_members_are() {
    let mut builder = Graph::builder();
    let first = builder.input::<u32, u32>("first");
    let second = builder.input_unsynced::<u32, u32>("second");
    let both = builder.union("both", &[*first, *second]);
    let mut graph = builder.seal().unwrap();
    assert!(graph.snapshot().is_synced(&first) && !graph.snapshot().is_synced(&both));
    let mut tx = graph.transaction();
    tx.mark_synced(&second);
    tx.commit();
    assert!(graph.snapshot().is_synced(&both));
}

#[test]
fn c103_c104_c107_a_merge_is_a_function_of_the_rows_there_are() {
    let mut builder = Graph::builder();
    let first = builder.input::<u32, u32>("first");
    let second = builder.input::<u32, u32>("second");
    let merged = builder.merge("merged", &[*first, *second], |_, rows| {
        assert!(!rows.is_empty());
        Ok(rows.iter().map(|n| ***n).collect::<Vec<_>>())
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &first, 2, 9);
    let mut changes = graph.subscribe(&Subscribe::only([merged.id()]));
    put(&mut graph, &second, 1, 20);
    put(&mut graph, &first, 1, 10);
    delete(&mut graph, &second, &1);
    delete(&mut graph, &first, &1);
    assert_eq!(flat(&batch(&mut changes), &merged), [(1, None, Some(vec![20]))]);
    assert_eq!(flat(&batch(&mut changes), &merged), [(1, Some(vec![20]), Some(vec![10, 20]))]);
    assert_eq!(flat(&batch(&mut changes), &merged), [(1, Some(vec![10, 20]), Some(vec![10]))]);
    assert_eq!(flat(&batch(&mut changes), &merged), [(1, Some(vec![10]), None)]);
    assert_eq!(runs(&graph, &merged), 5, "key 2 ran only for itself");
    assert!(graph.snapshot().errors(&merged).is_empty());
    sound(&graph);
}

#[test]
fn c108_c109_maps_keep_keys_and_suppress_equal_values() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let tens = builder.map("tens", &numbers, |_, n| n / 10);
    let parity = builder.map("parity", &tens, |_, n| n % 2);
    let by_parity = builder.index("by_parity", &parity, |_, n| [*n]);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 10);
    put(&mut graph, &numbers, 2, 20);
    let mut changes = graph.subscribe(&Subscribe::only([tens.id(), parity.id()]));
    put(&mut graph, &numbers, 1, 11);
    assert!(changes.try_next().is_none());
    put(&mut graph, &numbers, 1, 30);
    let event = batch(&mut changes);
    assert_eq!((flat(&event, &tens), flat(&event, &parity)), (vec![(1, Some(1), Some(3))], vec![]));
    assert_eq!(graph.snapshot().lookup(&by_parity, &1).map(|(key, _)| *key).collect::<Vec<_>>(), [1]);
}

#[test]
fn c111_joins_of_joins() {
    let mut builder = Graph::builder();
    let vms = builder.input::<u32, u32>("vms");
    let hosts = builder.input::<u32, u32>("hosts");
    let zones = builder.input::<u32, &str>("zones");
    let host_zones =
        builder.join("host_zones", &hosts, &zones, |_, zone| Some(*zone), |_, _, zone| zone.copied());
    let vm_zones = builder.join(
        "vm_zones",
        &vms,
        &host_zones,
        |_, host| Some(*host),
        |_, _, zone| match zone {
            Some(zone) => Ok(Some(*zone)),
            None => Err(Failure::keep("no host yet")),
        },
    );
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &vms, 1, 7);
    put(&mut graph, &hosts, 7, 3);
    assert_eq!(rows(&graph, &vm_zones), []);
    put(&mut graph, &zones, 3, "east");
    assert_eq!(rows(&graph, &vm_zones), [(1, "east")]);
    put(&mut graph, &zones, 3, "west");
    assert_eq!(rows(&graph, &vm_zones), [(1, "west")]);
    put(&mut graph, &zones, 4, "south");
    assert_eq!(runs(&graph, &vm_zones), 3);
    sound(&graph);
}

#[test]
fn a_union_without_members_is_a_build_error() {
    let mut builder = Graph::builder();
    builder.union::<u32, u32>("none", &[]);
    assert_eq!(builder.seal().err(), Some(Error::NoMembers("none".to_owned())));
}

#[test]
fn c105_c106_dynamic_members_are_a_keyed_union() {
    let mut builder = Graph::builder();
    // A whole member is one row; members are in priority order by key, and the first owner of a key is shown.
    let members = builder.input::<&str, Vec<(u32, u32)>>("members");
    let all = builder.derive_many("all", &members, |_, _, rows| rows.clone());
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &members, "b", vec![(1, 10), (2, 20)]);
    let mut changes = graph.subscribe(&Subscribe::only([all.id()]));
    put(&mut graph, &members, "a", vec![(1, 10), (2, 21), (3, 30)]);
    assert_eq!(flat(&batch(&mut changes), &all), [(2, Some(20), Some(21)), (3, None, Some(30))]);
    let mut tx = graph.transaction();
    tx.delete(&members, &"a");
    tx.put(&members, "aa", vec![(1, 10), (2, 21), (3, 30)]);
    tx.commit();
    assert!(changes.try_next().is_none(), "replaced by an equal member");
    delete(&mut graph, &members, &"aa");
    assert_eq!(flat(&batch(&mut changes), &all), [(2, Some(21), Some(20)), (3, Some(30), None)]);
    sound(&graph);
}
