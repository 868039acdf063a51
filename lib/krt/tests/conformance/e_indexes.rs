//! E: filters and indexes.

use std::collections::{BTreeMap, BTreeSet};

use krt::{Builder, Collection, Filter, Graph, Index, Input, Labels, Subscribe};
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

type Selectors = Input<u32, Option<Labels>>;

/// Services 1 to 3 with a selector, an empty one and none, and which of them select each of three pods.
fn selecting(
    selector: fn(Option<Labels>) -> Option<Labels>,
) -> (Graph, Selectors, Input<u32, Labels>, Collection<u32, Vec<u32>>) {
    let mut builder = Graph::builder();
    let services = builder.input::<u32, Option<Labels>>("services");
    let by_selector =
        builder.selectors("by_selector", &services, move |_, held| ((), selector(held.clone())));
    let pods = builder.input::<u32, Labels>("pods");
    let found = builder.derive("found", &pods, move |ctx, _, labels| {
        let rows = ctx.selecting(&by_selector, &(), labels);
        Some(rows.into_iter().map(|(key, _)| *key).collect::<Vec<_>>())
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &services, 1, Some(labels(&[("app", "a"), ("tier", "web")])));
    put(&mut graph, &services, 2, Some(labels(&[])));
    put(&mut graph, &services, 3, None);
    put(&mut graph, &pods, 1, labels(&[("app", "a"), ("tier", "web"), ("z", "z")]));
    put(&mut graph, &pods, 2, labels(&[("app", "a")]));
    put(&mut graph, &pods, 3, labels(&[]));
    (graph, services, pods, found)
}

#[test]
fn c76_a_selector_selects_by_labels_and_an_empty_one_everything() {
    let (mut graph, services, _, found) = selecting(|selector| selector);
    let expected = [(1, vec![1, 2]), (2, vec![2]), (3, vec![2])];
    assert_eq!(rows(&graph, &found), expected);
    let before = runs(&graph, &found);
    put(&mut graph, &services, 4, Some(labels(&[("app", "a"), ("tier", "db")])));
    assert_eq!(runs(&graph, &found), before, "selects no pod");
    put(&mut graph, &services, 4, Some(labels(&[("app", "a")])));
    assert_eq!(runs(&graph, &found) - before, 2, "the pods it selects, and no other");
    sound(&graph);
}

#[test]
fn c77_an_empty_or_absent_selector_can_select_nothing() {
    // Where an empty selector must select nothing, the extractor says so.
    let (mut graph, services, pods, found) = selecting(|selector| selector.filter(|s| !s.is_empty()));
    assert_eq!(rows(&graph, &found), [(1, vec![1]), (2, vec![]), (3, vec![])]);
    put(&mut graph, &services, 9, None);
    put(&mut graph, &pods, 3, labels(&[]));
    assert_eq!(rows(&graph, &found)[2], (3, vec![]), "nor for a pod without labels");
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

#[derive(Debug, Clone, PartialEq)]
struct Machine {
    zone: u32,
    labels: Labels,
    wants: Option<Labels>,
    load: u32,
}

fn machine(zone: u32, own: &[(&str, &str)], wants: Option<&[(&str, &str)]>, load: u32) -> Machine {
    Machine { zone, labels: labels(own), wants: wants.map(labels), load }
}

#[test]
fn c79_conditions_are_combined_by_intersection() {
    let mut builder = Graph::builder();
    let machines = builder.input::<u32, Machine>("machines");
    let by_zone = builder.index("by_zone", &machines, |_, m| [m.zone]);
    let by_label = builder.labels("by_label", &machines, |_, m| ((), m.labels.clone()));
    let by_wants = builder.selectors("by_wants", &machines, |_, m| ((), m.wants.clone()));
    let node = |name: &str, filter: fn(Handles) -> Filter<u32, Machine>, builder: &mut Builder| {
        builder.singleton(name, move |ctx| {
            let rows = ctx.select(&filter((machines, by_zone, by_label, by_wants)));
            Some(rows.into_iter().map(|(key, _)| *key).collect::<Vec<_>>())
        })
    };
    let keyed =
        node("keyed", |h| Filter::of(&h.0).keys([1, 2, 9]).under(&h.1, 7).keys([2, 1, 3]), &mut builder);
    let web = node(
        "web",
        |h| Filter::of(&h.0).under(&h.1, 7).labelled(&h.2, (), &labels(&[("app", "web")])),
        &mut builder,
    );
    let all = node(
        "all",
        |h| {
            let filter = Filter::of(&h.0).under(&h.1, 7).selecting(&h.3, (), &labels(&[("disk", "ssd")]));
            filter.labelled(&h.2, (), &labels(&[("app", "web"), ("tier", "a")])).matching(|_, m| m.load < 50)
        },
        &mut builder,
    );
    let none = node("none", |h| Filter::of(&h.0).keys([]).under(&h.1, 7), &mut builder);
    let mut graph = builder.seal().unwrap();
    let both: &[(&str, &str)] = &[("app", "web"), ("tier", "a")];
    let ssd: &[(&str, &str)] = &[("disk", "ssd")];
    put(&mut graph, &machines, 1, machine(7, both, Some(ssd), 10));
    put(&mut graph, &machines, 2, machine(7, &[("app", "web")], None, 10));
    put(&mut graph, &machines, 3, machine(7, both, Some(&[("disk", "tape")]), 10));
    put(&mut graph, &machines, 4, machine(8, both, Some(&[]), 10));
    put(&mut graph, &machines, 5, machine(7, both, Some(&[]), 90));
    let found = |graph: &Graph| [keyed, web, all, none].map(|node| rows(graph, &node)[0].1.clone());
    assert_eq!(found(&graph), [vec![1, 2], vec![1, 2, 3, 5], vec![1], vec![]]);
    let counts = |graph: &Graph| [keyed, web, all, none].map(|node| runs(graph, &node));
    let before = counts(&graph);
    // In each condition but one: machine 5 is too loaded for `all` before and after, and not one of the keys.
    put(&mut graph, &machines, 5, machine(7, both, Some(&[]), 80));
    let after = counts(&graph);
    assert_eq!([0, 1, 2, 3].map(|at| after[at] - before[at]), [0, 1, 0, 0]);
    put(&mut graph, &machines, 5, machine(7, both, Some(&[]), 20));
    put(&mut graph, &machines, 2, machine(9, &[("app", "web")], None, 10));
    put(&mut graph, &machines, 4, machine(7, both, Some(&[]), 10));
    assert_eq!(found(&graph), [vec![1], vec![1, 3, 4, 5], vec![1, 4, 5], vec![]]);
    sound(&graph);
    let scans = |node| graph.explain(node, &()).reads.iter().any(|read| read.contains("scan"));
    assert!(![keyed, web, all, none].iter().any(scans), "no scan behind a condition that an index answers");
}

type Handles = (
    Input<u32, Machine>,
    Index<u32, Machine, u32>,
    krt::LabelIndex<u32, Machine, ()>,
    krt::SelectorIndex<u32, Machine, ()>,
);

#[test]
fn c80_a_filter_by_predicate_alone_is_a_scan_and_shows_as_one() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, u32>("pods");
    let big = builder
        .singleton("big", move |ctx| Some(ctx.select(&Filter::of(&pods).matching(|_, n| *n > 10)).len()));
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &pods, 1, 5);
    assert_eq!(runs(&graph, &big), 1, "outside");
    put(&mut graph, &pods, 2, 50);
    assert_eq!((runs(&graph, &big), rows(&graph, &big)), (2, vec![((), 1)]));
    assert_eq!(graph.explain(&big, &()).reads, ["pods scan where"]);
    assert!(graph.dot().contains(r#"label="scan where""#));
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

type Tags = Vec<&'static str>;

fn tagged() -> (Graph, Input<u32, Tags>, Index<u32, Tags, &'static str>) {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, Tags>("pods");
    let by_tag = builder.index("by_tag", &pods, |_, tags| tags.clone());
    (builder.seal().unwrap(), pods, by_tag)
}

fn found(graph: &Graph, by_tag: &Index<u32, Tags, &'static str>, tag: &'static str) -> Vec<u32> {
    graph.snapshot().lookup(by_tag, &tag).map(|(key, _)| *key).collect()
}

#[test]
fn c81_lookups_follow_adds_updates_and_deletes() {
    let (mut graph, pods, by_tag) = tagged();
    put(&mut graph, &pods, 1, vec!["x", "y", "x"]);
    put(&mut graph, &pods, 2, vec!["y"]);
    put(&mut graph, &pods, 3, vec![]);
    assert_eq!((found(&graph, &by_tag, "x"), found(&graph, &by_tag, "y")), (vec![1], vec![1, 2]));
    delete(&mut graph, &pods, &1);
    let snapshot = graph.snapshot();
    assert_eq!(snapshot.index_values(&by_tag).collect::<Vec<_>>(), [(&"y", 1)], "empty groups are gone");
    assert_eq!(found(&graph, &by_tag, "nothing"), []);
    sound(&graph);
}

#[test]
fn c82_a_row_leaves_one_value_and_enters_another_in_one_revision() {
    let (mut graph, pods, by_tag) = tagged();
    put(&mut graph, &pods, 1, vec!["x", "y"]);
    let before = graph.snapshot();
    put(&mut graph, &pods, 1, vec!["y", "z"]);
    assert_eq!(graph.revision(), before.revision() + 1);
    let all = ["x", "y", "z"].map(|tag| found(&graph, &by_tag, tag).len());
    assert_eq!(all, [0, 1, 1]);
    assert_eq!(before.lookup(&by_tag, &"x").count(), 1, "the old revision has it as it was");
    sound(&graph);
}

#[test]
fn c83_an_index_over_existing_rows_equals_one_made_before_them() {
    // An index cannot come after the data of its own graph. It can over a collection whose rows are there at the seal,
    // and in a second graph that takes over the rows of a first.
    let rows = (0..200u32).map(|key| (key, key.wrapping_mul(2_654_435_761) % 17));
    let index = |early: bool| {
        let mut builder = Graph::builder();
        let input = builder.input::<u32, u32>("input");
        let by_value = builder.index("by_value", &input, |_, n| [n % 5, n % 7 + 100]);
        let mut graph = builder.seal().unwrap();
        if early {
            rows.clone().for_each(|(key, n)| put(&mut graph, &input, key, n));
        } else {
            let mut tx = graph.transaction();
            tx.reset(&input, rows.clone());
            tx.commit();
        }
        sound(&graph);
        let snapshot = graph.snapshot();
        snapshot
            .index_values(&by_value)
            .map(|(value, _)| (*value, snapshot.lookup(&by_value, value).map(|(key, _)| *key).collect()))
            .collect::<Vec<(u32, Vec<u32>)>>()
    };
    let (grown, at_once) = (index(true), index(false));
    assert_eq!(grown, at_once);
    let mut builder = Graph::builder();
    let generated = builder.generate("generated", move |_| rows.clone().collect::<Vec<_>>());
    let by_value = builder.index("by_value", &generated, |_, n| [n % 5, n % 7 + 100]);
    let graph = builder.seal().unwrap();
    let snapshot = graph.snapshot();
    let sealed: Vec<(u32, usize)> = snapshot.index_values(&by_value).map(|(v, len)| (*v, len)).collect();
    assert!(sealed.into_iter().eq(grown.iter().map(|(value, keys)| (*value, keys.len()))));
}

type Pods = Input<u32, (u32, u32)>;

/// Pods as (service, weight), and the weight of each service.
fn weights() -> (Graph, Pods, Index<u32, (u32, u32), u32>, Collection<u32, u32>) {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, (u32, u32)>("pods");
    let by_service = builder.index("by_service", &pods, |_, pod| [pod.0]);
    let sums = builder
        .group("sums", &by_service, |_, _, members| Some(members.iter().map(|(_, pod)| pod.1).sum::<u32>()));
    (builder.seal().unwrap(), pods, by_service, sums)
}

#[test]
fn c84_a_group_row_exists_and_changes_with_its_members() {
    let (mut graph, pods, _, sums) = weights();
    let mut changes = graph.subscribe(&Subscribe::only([sums.id()]));
    let mut tx = graph.transaction();
    tx.put(&pods, 1, (7, 1));
    tx.put(&pods, 2, (7, 2));
    tx.put(&pods, 3, (8, 4));
    assert_eq!(tx.commit().runs, 2);
    assert_eq!(flat(&batch(&mut changes), &sums), [(7, None, Some(3)), (8, None, Some(4))]);
    put(&mut graph, &pods, 2, (8, 2));
    assert_eq!(flat(&batch(&mut changes), &sums), [(7, Some(3), Some(1)), (8, Some(4), Some(6))]);
    delete(&mut graph, &pods, &1);
    assert_eq!(flat(&batch(&mut changes), &sums), [(7, Some(1), None)]);
    sound(&graph);
}

#[test]
fn c85_a_group_read_at_an_event_is_of_the_events_revision() {
    let (mut graph, pods, by_service, sums) = weights();
    let mut changes = graph.subscribe(&Subscribe::only([sums.id()]));
    for step in 1..20 {
        put(&mut graph, &pods, step % 5, (step % 2, step));
    }
    // All read late: every event must still show the group as it was.
    let mut seen = 0;
    while let Some(event) = changes.try_next() {
        let snapshot = event.snapshot();
        for service in 0..2 {
            let members = snapshot.lookup(&by_service, &service);
            let sum = (members.len() > 0).then(|| members.map(|(_, pod)| pod.1).sum::<u32>());
            assert_eq!(snapshot.get(&sums, &service).map(|n| **n), sum);
        }
        seen += 1;
    }
    assert_eq!(seen, 19);
}

#[test]
fn c86_bulk_removal_of_an_attribute_leaves_every_group_right() {
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
fn c88_the_list_of_groups_holds_while_members_change() {
    let mut builder = Graph::builder();
    let routes = builder.input::<u32, u32>("routes");
    let by_gateway = builder.index("by_gateway", &routes, |_, gateway| [*gateway]);
    let mut graph = builder.seal().unwrap();
    let reader = graph.reader();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lister = scope.spawn(|| {
            let mut listed = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || listed == 0 {
                let snapshot = reader.latest();
                let mut members = 0;
                for (gateway, len) in snapshot.index_values(&by_gateway) {
                    assert!(len > 0 && snapshot.lookup(&by_gateway, gateway).count() == len);
                    members += len;
                }
                assert_eq!(members, snapshot.len(&routes));
                listed += 1;
            }
            listed
        });
        for step in 0..2_000u32 {
            match step % 3 {
                0 => delete(&mut graph, &routes, &(step % 40)),
                _ => put(&mut graph, &routes, step % 40, step % 7),
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(lister.join().unwrap() > 0);
    });
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
