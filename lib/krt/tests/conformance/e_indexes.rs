//! E: filters and indexes.

use std::collections::{BTreeMap, BTreeSet};

use krt::{Graph, Labels, Subscribe};
use proptest::prelude::*;

use crate::{batch, delete, flat, put, rows, runs, sound};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn c75_a_label_query_is_containment_and_exact() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, Labels>("pods");
    let by_label = builder.labels("by_label", &pods, |_, labels| ((), labels.clone()));
    let queries = builder.input::<u32, Labels>("queries");
    let found = builder.derive("found", &queries, move |ctx, _, query| {
        Some(ctx.labelled(&by_label, &(), query).into_iter().map(|(key, _)| *key).collect::<Vec<_>>())
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &pods, 1, labels(&[("app", "a"), ("tier", "web")]));
    put(&mut graph, &pods, 2, labels(&[("app", "a")]));
    put(&mut graph, &pods, 3, labels(&[]));
    put(&mut graph, &queries, 1, labels(&[("app", "a"), ("tier", "web")]));
    put(&mut graph, &queries, 2, labels(&[("app", "a")]));
    put(&mut graph, &queries, 3, labels(&[]));
    assert_eq!(rows(&graph, &found), [(1, vec![1]), (2, vec![1, 2]), (3, vec![1, 2, 3])]);
    let before = runs(&graph, &found);
    put(&mut graph, &pods, 2, labels(&[("app", "a"), ("more", "x")]));
    assert_eq!(runs(&graph, &found) - before, 2, "the query that needs tier=web does not run");
    put(&mut graph, &pods, 2, labels(&[("tier", "web")]));
    assert_eq!(rows(&graph, &found), [(1, vec![1]), (2, vec![1]), (3, vec![1, 2, 3])]);
    sound(&graph);
}

#[test]
fn c76_c77_selectors_select_by_labels() {
    let mut builder = Graph::builder();
    let services = builder.input::<u32, Option<Labels>>("services");
    let by_selector = builder.selectors("by_selector", &services, |_, selector| ((), selector.clone()));
    // Where an empty selector must select nothing, the extractor says so.
    let strict = builder
        .selectors("strict", &services, |_, selector| ((), selector.clone().filter(|s| !s.is_empty())));
    let pods = builder.input::<u32, Labels>("pods");
    let found = builder.derive("found", &pods, move |ctx, _, labels| {
        let keys = |rows: Vec<(&u32, _)>| rows.into_iter().map(|(key, _)| *key).collect::<Vec<_>>();
        Some((keys(ctx.selecting(&by_selector, &(), labels)), keys(ctx.selecting(&strict, &(), labels))))
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &services, 1, Some(labels(&[("app", "a"), ("tier", "web")])));
    put(&mut graph, &services, 2, Some(labels(&[])));
    put(&mut graph, &services, 3, None);
    put(&mut graph, &pods, 1, labels(&[("app", "a"), ("tier", "web"), ("z", "z")]));
    put(&mut graph, &pods, 2, labels(&[("app", "a")]));
    put(&mut graph, &pods, 3, labels(&[]));
    let expected = [(1, (vec![1, 2], vec![1])), (2, (vec![2], vec![])), (3, (vec![2], vec![]))];
    assert_eq!(rows(&graph, &found), expected);
    let before = runs(&graph, &found);
    put(&mut graph, &services, 4, Some(labels(&[("app", "a"), ("tier", "db")])));
    assert_eq!(runs(&graph, &found), before, "selects no pod");
    put(&mut graph, &services, 4, Some(labels(&[("app", "a")])));
    assert_eq!(runs(&graph, &found) - before, 2, "the pods it selects, and no other");
    sound(&graph);
}

#[test]
fn c78_a_set_of_keys_and_the_empty_set() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, u32>("pods");
    let sets = builder.input::<u32, Vec<u32>>("sets");
    let sums = builder.derive("sums", &sets, move |ctx, _, set| {
        Some(ctx.get_many(&pods, set).into_iter().map(|(_, n)| **n).sum::<u32>())
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &sets, 1, vec![1, 2]);
    put(&mut graph, &sets, 2, vec![]);
    put(&mut graph, &pods, 1, 10);
    put(&mut graph, &pods, 2, 20);
    put(&mut graph, &pods, 3, 40);
    assert_eq!(rows(&graph, &sums), [(1, 30), (2, 0)]);
    assert_eq!(runs(&graph, &sums), 4);
}

#[test]
fn c80_a_predicate_filter_is_exact() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, u32>("pods");
    let big = builder.singleton("big", move |ctx| Some(ctx.scan_where(&pods, |_, n| *n > 10).len()));
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &pods, 1, 5);
    assert_eq!(runs(&graph, &big), 1, "outside");
    put(&mut graph, &pods, 1, 15);
    put(&mut graph, &pods, 1, 16);
    put(&mut graph, &pods, 1, 6);
    assert_eq!((runs(&graph, &big), rows(&graph, &big)), (4, vec![((), 0)]));
}

#[test]
fn c81_c82_lookups_follow_every_change() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, Vec<&str>>("pods");
    let by_tag = builder.index("by_tag", &pods, |_, tags| tags.clone());
    let mut graph = builder.seal().unwrap();
    let found =
        |graph: &Graph, tag| graph.snapshot().lookup(&by_tag, &tag).map(|(key, _)| *key).collect::<Vec<_>>();
    put(&mut graph, &pods, 1, vec!["x", "y", "x"]);
    put(&mut graph, &pods, 2, vec!["y"]);
    put(&mut graph, &pods, 3, vec![]);
    assert_eq!((found(&graph, "x"), found(&graph, "y")), (vec![1], vec![1, 2]));
    put(&mut graph, &pods, 1, vec!["z"]);
    assert_eq!((found(&graph, "x"), found(&graph, "y"), found(&graph, "z")), (vec![], vec![2], vec![1]));
    delete(&mut graph, &pods, &2);
    let snapshot = graph.snapshot();
    assert_eq!(snapshot.index_values(&by_tag).collect::<Vec<_>>(), [(&"z", 1)], "empty groups are gone");
}

#[test]
fn c84_c85_a_group_row_follows_its_members() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, (u32, u32)>("pods");
    let by_service = builder.index("by_service", &pods, |_, pod| [pod.0]);
    let sums = builder
        .group("sums", &by_service, |_, _, members| Some(members.iter().map(|(_, pod)| pod.1).sum::<u32>()));
    let mut graph = builder.seal().unwrap();
    let mut changes = graph.subscribe(&Subscribe::only([sums.id()]));
    let mut tx = graph.transaction();
    tx.put(&pods, 1, (7, 1));
    tx.put(&pods, 2, (7, 2));
    tx.put(&pods, 3, (8, 4));
    assert_eq!(tx.commit().runs, 2);
    assert_eq!(flat(&batch(&mut changes), &sums), [(7, None, Some(3)), (8, None, Some(4))]);
    put(&mut graph, &pods, 2, (8, 2));
    let event = batch(&mut changes);
    assert_eq!(flat(&event, &sums), [(7, Some(3), Some(1)), (8, Some(4), Some(6))]);
    let members: u32 = event.snapshot().lookup(&by_service, &8).map(|(_, pod)| pod.1).sum();
    assert_eq!(members, 6, "the group as of the event's revision");
    delete(&mut graph, &pods, &1);
    assert_eq!(flat(&batch(&mut changes), &sums), [(7, Some(1), None)]);
    sound(&graph);
}

#[test]
fn c86_c88_bulk_removal_of_an_attribute_leaves_every_group_right() {
    let mut builder = Graph::builder();
    let routes = builder.input::<u32, (u32, bool)>("routes");
    let by_gateway = builder.index("by_gateway", &routes, |_, route| [route.0]);
    let marked = builder.group("marked", &by_gateway, |_, _, members| {
        Some(members.iter().filter(|(_, route)| route.1).count())
    });
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..200).for_each(|route| tx.put(&routes, route, (route % 10, true)));
    tx.commit();
    let mut tx = graph.transaction();
    (0..20).for_each(|route| tx.put(&routes, route, (route % 10, false)));
    assert_eq!(tx.commit().runs, 10);
    assert_eq!(rows(&graph, &marked), (0..10).map(|gateway| (gateway, 18)).collect::<Vec<_>>());
}

#[test]
fn c87_index_keys_are_typed() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, (&str, &str)>("pods");
    let by_pair = builder.index("by_pair", &pods, |_, pair| [*pair]);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &pods, 1, ("a/b", "c"));
    put(&mut graph, &pods, 2, ("a", "b/c"));
    let snapshot = graph.snapshot();
    assert_eq!(snapshot.lookup(&by_pair, &("a/b", "c")).map(|(key, _)| *key).collect::<Vec<_>>(), [1]);
    assert_eq!(snapshot.lookup(&by_pair, &("a", "b/c")).map(|(key, _)| *key).collect::<Vec<_>>(), [2]);
}

#[test]
fn c89_lookups_on_snapshots_are_not_tracked() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, u32>("pods");
    let by_service = builder.index("by_service", &pods, |_, n| [*n]);
    let counts = builder.singleton("counts", move |ctx| Some(ctx.lookup(&by_service, &7).count()));
    let mut graph = builder.seal().unwrap();
    let tracked = graph.counters_of(&pods).edges;
    let snapshot = graph.snapshot();
    assert_eq!(snapshot.lookup(&by_service, &8).count() + snapshot.rows(&pods).count(), 0);
    put(&mut graph, &pods, 1, 8);
    assert_eq!((graph.counters_of(&pods).edges, tracked, runs(&graph, &counts)), (1, 1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn c90_the_label_index_agrees_with_a_scan(
        pods in prop::collection::vec((0u32..20, prop::collection::btree_map("[ab]", "[xy]", 0..3)), 0..40),
        query in prop::collection::btree_map("[ab]", "[xy]", 0..3),
    ) {
        let mut builder = Graph::builder();
        let input = builder.input::<u32, Labels>("pods");
        let by_label = builder.labels("by_label", &input, |key, labels| (key % 2, labels.clone()));
        let by_selector = builder.selectors("by_selector", &input, |key, labels| (key % 2, Some(labels.clone())));
        let wanted = query.clone();
        let found = builder.singleton("found", move |ctx| {
            Some(ctx.labelled(&by_label, &1, &wanted).into_iter().map(|(key, _)| *key).collect::<BTreeSet<_>>())
        });
        let offered = query.clone();
        let selecting = builder.singleton("selecting", move |ctx| {
            Some(ctx.selecting(&by_selector, &1, &offered).into_iter().map(|(key, _)| *key).collect::<BTreeSet<_>>())
        });
        let mut graph = builder.seal().unwrap();
        let mut model: BTreeMap<u32, Labels> = BTreeMap::new();
        for (key, labels) in pods {
            put(&mut graph, &input, key, labels.clone());
            model.insert(key, labels);
            let contains = |big: &Labels, small: &Labels| small.iter().all(|(name, value)| big.get(name) == Some(value));
            let scan = |test: &dyn Fn(&Labels) -> bool| {
                let matching = model.iter().filter(|(key, labels)| *key % 2 == 1 && test(labels));
                matching.map(|(key, _)| *key).collect::<BTreeSet<_>>()
            };
            prop_assert_eq!(&rows(&graph, &found)[0].1, &scan(&|labels| contains(labels, &query)));
            prop_assert_eq!(&rows(&graph, &selecting)[0].1, &scan(&|labels| contains(&query, labels)));
        }
        sound(&graph);
    }
}
