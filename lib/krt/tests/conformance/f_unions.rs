//! F: join, merge, map.

use krt::{Collection, Error, Failure, Graph, Index, Input, Subscribe};

use crate::{batch, delete, flat, put, rows, runs, sound};

type Texts = Input<u32, &'static str>;

/// A union of two inputs, indexed by text.
fn priority() -> (Graph, [Texts; 2], Collection<u32, &'static str>, Index<u32, &'static str, &'static str>) {
    let mut builder = Graph::builder();
    let first = builder.input("first");
    let second = builder.input("second");
    let both = builder.union("both", &[*first, *second]);
    let by_text = builder.index("by_text", &both, |_, text| [*text]);
    (builder.seal().unwrap(), [first, second], both, by_text)
}

#[test]
fn c91_list_get_and_events_apply_one_priority() {
    let (mut graph, [first, second], both, _) = priority();
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
    sound(&graph);
}

#[test]
fn c110_an_index_of_a_union_shows_what_the_union_shows() {
    let (mut graph, [first, second], _, by_text) = priority();
    let found = |graph: &Graph, text| {
        graph.snapshot().lookup(&by_text, &text).map(|(key, _)| *key).collect::<Vec<_>>()
    };
    put(&mut graph, &second, 1, "low");
    put(&mut graph, &second, 2, "low");
    assert_eq!(found(&graph, "low"), [1, 2]);
    put(&mut graph, &first, 1, "high");
    assert_eq!(
        (found(&graph, "low"), found(&graph, "high")),
        (vec![2], vec![1]),
        "the hidden row is not found"
    );
    delete(&mut graph, &first, &1);
    assert_eq!((found(&graph, "low"), found(&graph, "high")), (vec![1, 2], vec![]));
    sound(&graph);
}

/// A member of three, and what it now says of the key.
type Step = (usize, Option<&'static str>);
/// The union's event: old and new.
type Seen = Option<(Option<&'static str>, Option<&'static str>)>;

/// Steps, and the event of the union that each gives.
fn conflict(steps: &[Step]) -> Vec<Seen> {
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
fn c92_the_first_row_of_a_lower_member_is_an_add() {
    assert_eq!(conflict(&[(1, Some("b"))]), [Some((None, Some("b")))]);
    assert_eq!(conflict(&[(2, Some("c"))]), [Some((None, Some("c")))]);
}

#[test]
fn c93_a_higher_members_row_is_an_update_from_the_lower_one() {
    assert_eq!(conflict(&[(1, Some("b")), (0, Some("a"))])[1], Some((Some("b"), Some("a"))));
    assert_eq!(conflict(&[(2, Some("c")), (1, Some("b"))])[1], Some((Some("c"), Some("b"))));
}

#[test]
fn c94_the_lowest_members_row_below_another_is_nothing() {
    assert_eq!(conflict(&[(1, Some("b")), (0, Some("a")), (2, Some("c"))])[2], None);
    assert_eq!(conflict(&[(1, Some("b")), (2, Some("c"))])[1], None);
}

const THREE: [Step; 3] = [(0, Some("a")), (1, Some("b")), (2, Some("c"))];

fn after_three(steps: &[Step]) -> Vec<Seen> {
    conflict(&[&THREE, steps].concat())[3..].to_vec()
}

#[test]
fn c95_an_update_of_a_hidden_row_is_nothing() {
    assert_eq!(after_three(&[(1, Some("b2")), (2, Some("c2"))]), [None, None]);
}

#[test]
fn c96_the_owners_delete_is_an_update_to_the_fallback() {
    let events = after_three(&[(1, Some("b2")), (0, None)]);
    assert_eq!(events[1], Some((Some("a"), Some("b2"))), "as it is now, not as it was when it was hidden");
}

#[test]
fn c97_the_next_owners_delete_falls_back_again() {
    assert_eq!(after_three(&[(0, None), (1, None)])[1], Some((Some("b"), Some("c"))));
}

#[test]
fn c98_the_last_delete_is_a_delete() {
    assert_eq!(after_three(&[(0, None), (1, None), (2, None)])[2], Some((Some("c"), None)));
}

#[test]
fn c99_deleting_a_hidden_row_is_nothing() {
    assert_eq!(after_three(&[(1, None), (2, None), (0, None)]), [None, None, Some((Some("a"), None))]);
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

/// Two inputs merged into the list of their values, in the order of the members.
fn merged() -> (Graph, [Input<u32, u32>; 2], Collection<u32, Vec<u32>>) {
    let mut builder = Graph::builder();
    let first = builder.input("first");
    let second = builder.input("second");
    let merged = builder.merge("merged", &[*first, *second], |_, rows| {
        assert!(!rows.is_empty(), "called without a row");
        Ok(rows.iter().map(|n| ***n).collect())
    });
    (builder.seal().unwrap(), [first, second], merged)
}

#[test]
fn c103_a_merge_is_made_from_the_rows_in_priority_order_and_for_touched_keys_only() {
    let (mut graph, [first, second], merged) = merged();
    put(&mut graph, &first, 2, 9);
    put(&mut graph, &second, 1, 20);
    put(&mut graph, &first, 1, 10);
    assert_eq!(rows(&graph, &merged), [(1, vec![10, 20]), (2, vec![9])]);
    assert_eq!(runs(&graph, &merged), 3, "key 2 ran only for itself");
    sound(&graph);
}

#[test]
fn c104_a_merge_updates_while_rows_remain_and_goes_with_the_last() {
    let (mut graph, [first, second], merged) = merged();
    let mut changes = graph.subscribe(&Subscribe::only([merged.id()]));
    put(&mut graph, &second, 1, 20);
    put(&mut graph, &first, 1, 10);
    delete(&mut graph, &second, &1);
    delete(&mut graph, &first, &1);
    assert_eq!(flat(&batch(&mut changes), &merged), [(1, None, Some(vec![20]))]);
    assert_eq!(flat(&batch(&mut changes), &merged), [(1, Some(vec![20]), Some(vec![10, 20]))]);
    assert_eq!(flat(&batch(&mut changes), &merged), [(1, Some(vec![10, 20]), Some(vec![10]))]);
    assert_eq!(flat(&batch(&mut changes), &merged), [(1, Some(vec![10]), None)]);
    sound(&graph);
}

#[test]
fn c107_a_merge_is_never_asked_for_a_row_from_nothing() {
    let (mut graph, [first, second], merged) = merged();
    let mut tx = graph.transaction();
    (0..10).for_each(|key| tx.put(&first, key, key));
    (5..15).for_each(|key| tx.put(&second, key, key));
    tx.commit();
    let mut tx = graph.transaction();
    tx.delete_where(&first, |_, _| true);
    tx.delete_where(&second, |_, _| true);
    tx.delete(&second, &99);
    tx.commit();
    assert_eq!(rows(&graph, &merged), []);
    assert!(graph.snapshot().errors(&merged).is_empty(), "it would have panicked");
    sound(&graph);
}

#[test]
fn c108_a_map_keeps_keys_and_suppresses_equal_values() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let tens = builder.map("tens", &numbers, |_, n| n / 10);
    let mut graph = builder.seal().unwrap();
    for key in [3, 1, 2] {
        put(&mut graph, &numbers, key, key * 10);
    }
    assert_eq!(rows(&graph, &tens), [(1, 1), (2, 2), (3, 3)]);
    let mut changes = graph.subscribe(&Subscribe::only([tens.id()]));
    put(&mut graph, &numbers, 1, 11);
    assert!(changes.try_next().is_none());
    put(&mut graph, &numbers, 1, 30);
    assert_eq!(flat(&batch(&mut changes), &tens), [(1, Some(1), Some(3))]);
}

#[test]
fn c109_a_map_of_a_map_and_an_index_of_it() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let tens = builder.map("tens", &numbers, |_, n| n / 10);
    let parity = builder.map("parity", &tens, |_, n| n % 2);
    let by_parity = builder.index("by_parity", &parity, |_, n| [*n]);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 10);
    put(&mut graph, &numbers, 2, 20);
    let odd =
        |graph: &Graph| graph.snapshot().lookup(&by_parity, &1).map(|(key, _)| *key).collect::<Vec<_>>();
    assert_eq!(odd(&graph), [1]);
    let mut changes = graph.subscribe(&Subscribe::only([tens.id(), parity.id()]));
    put(&mut graph, &numbers, 1, 30);
    let event = batch(&mut changes);
    assert_eq!((flat(&event, &tens), flat(&event, &parity)), (vec![(1, Some(1), Some(3))], vec![]));
    put(&mut graph, &numbers, 2, 35);
    assert_eq!(odd(&graph), [1, 2]);
    sound(&graph);
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

/// A whole member is one row; members are in priority order by key, and the first owner of a key is shown.
fn dynamic() -> (Graph, Members, Collection<u32, u32>) {
    let mut builder = Graph::builder();
    let members = builder.input("members");
    let all = builder.derive_many("all", &members, |_, _, rows: &Vec<(u32, u32)>| rows.clone());
    (builder.seal().unwrap(), members, all)
}

type Members = Input<&'static str, Vec<(u32, u32)>>;

#[test]
fn c105_adding_and_removing_a_whole_member_is_as_by_value() {
    let (mut graph, members, all) = dynamic();
    put(&mut graph, &members, "b", vec![(1, 10), (2, 20)]);
    let mut changes = graph.subscribe(&Subscribe::only([all.id()]));
    put(&mut graph, &members, "a", vec![(1, 10), (2, 21), (3, 30)]);
    assert_eq!(flat(&batch(&mut changes), &all), [(2, Some(20), Some(21)), (3, None, Some(30))]);
    delete(&mut graph, &members, &"a");
    assert_eq!(flat(&batch(&mut changes), &all), [(2, Some(21), Some(20)), (3, Some(30), None)]);
    sound(&graph);
}

#[test]
fn c106_a_member_replaced_by_an_equal_one_is_no_event() {
    let (mut graph, members, all) = dynamic();
    put(&mut graph, &members, "a", vec![(1, 10), (2, 21), (3, 30)]);
    put(&mut graph, &members, "b", vec![(1, 11)]);
    let mut changes = graph.subscribe(&Subscribe::only([all.id()]));
    let mut tx = graph.transaction();
    tx.delete(&members, &"a");
    tx.put(&members, "aa", vec![(1, 10), (2, 21), (3, 30)]);
    tx.commit();
    assert!(changes.try_next().is_none());
    sound(&graph);
}
