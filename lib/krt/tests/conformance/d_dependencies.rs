//! D: dependencies.

use std::sync::Arc;

use krt::{Collection, Ctx, Failure, Graph, Index, Input};

use crate::{delete, put, rows, runs, sound};

#[derive(Debug, Clone, Copy, PartialEq)]
struct Pod {
    service: u32,
    weight: u32,
}

struct World {
    graph: Graph,
    pods: Input<u32, Pod>,
    by_service: Index<u32, Pod, u32>,
    services: Input<u32, u32>,
    out: Collection<u32, u64>,
}

/// Pods 1 and 2 of service 1, pod 3 of service 2, and services 1 and 2 derived through `read`.
fn world(
    read: impl Fn(&Ctx<'_>, &Input<u32, Pod>, &Index<u32, Pod, u32>, u32) -> u64 + Send + Sync + 'static,
) -> World {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, Pod>("pods");
    let by_service = builder.index("by_service", &pods, |_, pod| [pod.service]);
    let services = builder.input::<u32, u32>("services");
    let out = builder
        .derive("out", &services, move |ctx, service, _| Some(read(ctx, &pods, &by_service, *service)));
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    for (pod, service) in [(1, 1), (2, 1), (3, 2)] {
        tx.put(&pods, pod, Pod { service, weight: 1 });
    }
    tx.put(&services, 1, 0);
    tx.put(&services, 2, 0);
    tx.commit();
    World { graph, pods, by_service, services, out }
}

impl World {
    fn set(&mut self, pod: u32, service: u32, weight: u32) -> u64 {
        let before = runs(&self.graph, &self.out);
        put(&mut self.graph, &self.pods, pod, Pod { service, weight });
        sound(&self.graph);
        runs(&self.graph, &self.out) - before
    }

    fn remove(&mut self, pod: u32) -> u64 {
        let before = runs(&self.graph, &self.out);
        delete(&mut self.graph, &self.pods, &pod);
        sound(&self.graph);
        runs(&self.graph, &self.out) - before
    }

    fn edges(&self) -> (usize, usize) {
        let counters = self.graph.counters_of(&self.pods);
        (counters.paths, counters.edges)
    }
}

fn weight(row: Option<&Arc<Pod>>) -> u64 {
    row.map_or(0, |pod| u64::from(pod.weight))
}

#[test]
fn c48_fetch_by_key_reruns_for_that_key_only() {
    let mut world = world(|ctx, pods, _, service| weight(ctx.get(pods, &service)));
    assert_eq!(world.set(1, 1, 5), 1);
    assert_eq!(world.set(3, 2, 5), 0);
    assert_eq!(rows(&world.graph, &world.out), [(1, 5), (2, 1)]);
}

#[test]
fn c49_the_creation_of_a_missing_key_reruns() {
    let mut world = world(|ctx, pods, _, service| weight(ctx.get(pods, &(service + 100))));
    assert_eq!(world.set(101, 9, 7), 1);
    assert_eq!(rows(&world.graph, &world.out), [(1, 7), (2, 0)]);
    assert_eq!(world.remove(101), 1);
}

#[test]
fn c50_a_scan_reruns_on_any_change() {
    let mut world = world(|ctx, pods, _, _| ctx.scan(pods).map(|(_, pod)| u64::from(pod.weight)).sum());
    assert_eq!(world.set(9, 9, 1), 2);
    assert_eq!(world.set(9, 9, 2), 2);
    assert_eq!(world.remove(9), 2);
}

#[test]
fn c51_two_filters_of_one_collection_are_both_tracked() {
    let mut world = world(|ctx, pods, _, service| {
        if service == 2 {
            return 0;
        }
        let heavy = ctx.scan_where(pods, |_, pod| pod.weight > 10).len();
        let idle = ctx.scan_where(pods, |_, pod| pod.service == 9).len();
        (heavy + 10 * idle) as u64
    });
    assert_eq!(world.set(1, 1, 5), 0, "passes neither");
    assert_eq!(world.set(1, 1, 11), 1, "passes the first");
    assert_eq!(world.set(3, 9, 1), 1, "passes the second");
    assert_eq!(rows(&world.graph, &world.out), [(1, 11), (2, 0)]);
}

#[test]
fn c52_a_scan_and_a_key_of_one_collection_are_both_tracked() {
    let mut world = world(|ctx, pods, _, service| {
        let all = ctx.scan(pods).count() as u64;
        all * 100 + weight(ctx.get(pods, &(service + 100)))
    });
    assert_eq!(world.edges(), (3, 4), "one scan for both, and a key for each");
    assert_eq!(world.set(101, 9, 7), 2);
    assert_eq!(rows(&world.graph, &world.out), [(1, 407), (2, 400)]);
    assert_eq!(world.graph.explain(&world.out, &1).reads, ["pods key 101", "pods scan"]);
}

#[test]
fn c54_two_indexes_of_one_collection_are_both_tracked() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, Pod>("pods");
    let by_service = builder.index("by_service", &pods, |_, pod| [pod.service]);
    let by_weight = builder.index("by_weight", &pods, |_, pod| [pod.weight]);
    let out = builder.singleton("out", move |ctx| {
        Some((ctx.lookup(&by_service, &1).count(), ctx.lookup(&by_weight, &1).count()))
    });
    let mut graph = builder.seal().unwrap();
    for (pod, expected, times) in [
        ((1, 1), (1, 1), 2),
        ((1, 2), (1, 0), 3),
        ((2, 2), (0, 0), 4),
        ((2, 1), (0, 1), 5),
        ((2, 1), (0, 1), 5),
    ] {
        put(&mut graph, &pods, 7, Pod { service: pod.0, weight: pod.1 });
        assert_eq!((rows(&graph, &out)[0].1, runs(&graph, &out)), (expected, times));
    }
    sound(&graph);
}

#[test]
fn c53_a_key_read_is_seen_although_the_row_is_in_no_group() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, Option<u32>>("pods");
    let by_service = builder.index("by_service", &pods, |_, service| *service);
    let one = builder.singleton("one", move |ctx| {
        Some((ctx.get(&pods, &1).is_some(), ctx.lookup(&by_service, &7).count()))
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &pods, 1, None);
    assert_eq!(rows(&graph, &one), [((), (true, 0))]);
    put(&mut graph, &pods, 2, Some(7));
    assert_eq!(rows(&graph, &one), [((), (true, 1))]);
}

/// How many pods each service has, by the index.
fn members() -> World {
    world(|ctx, _, by_service, service| ctx.lookup(by_service, &service).count() as u64)
}

#[test]
fn c55_leaving_the_match_reruns() {
    let mut world = members();
    assert_eq!(world.set(1, 9, 1), 1, "left 1");
    assert_eq!(rows(&world.graph, &world.out), [(1, 1), (2, 1)]);
    assert_eq!(world.remove(2), 1, "and by being deleted");
    assert_eq!(rows(&world.graph, &world.out), [(1, 0), (2, 1)]);
}

#[test]
fn c56_entering_the_match_reruns() {
    let mut world = members();
    world.set(9, 9, 1);
    assert_eq!(world.set(9, 1, 1), 1, "entered 1");
    assert_eq!(world.set(9, 2, 1), 2, "left 1, entered 2");
    assert_eq!(rows(&world.graph, &world.out), [(1, 2), (2, 2)]);
}

#[test]
fn c57_a_change_outside_the_match_does_not_run() {
    let mut world = members();
    for weight in 1..5 {
        assert_eq!(world.set(9, 9, weight), 0);
    }
    assert_eq!(world.set(9, 8, 1), 0, "from one outside to another");
    assert_eq!(world.remove(9), 0);
}

/// Each service reads its own pod, and a second one when the first one's weight names it.
fn conditional() -> World {
    world(|ctx, pods, _, service| match ctx.get(pods, &service).map(|pod| pod.weight) {
        Some(key) if key >= 50 => weight(ctx.get(pods, &key)),
        _ => 0,
    })
}

#[test]
fn c58_the_reads_of_a_run_replace_those_of_the_run_before() {
    let mut world = conditional();
    world.set(1, 1, 50);
    assert_eq!(world.set(50, 9, 2), 1, "read now");
    world.set(1, 1, 51);
    assert_eq!(world.set(50, 9, 3), 0, "no longer read");
    assert_eq!(world.set(51, 9, 3), 1);
    assert_eq!(world.graph.explain(&world.out, &1).reads, ["pods key 1", "pods key 51"]);
}

#[test]
fn c60_a_conditional_read_counts_only_while_it_is_made() {
    let mut world = conditional();
    assert_eq!(world.set(50, 9, 1), 0, "not read yet");
    assert_eq!(world.set(1, 1, 50), 1);
    assert_eq!(world.set(50, 9, 2), 1, "read now");
    assert_eq!(world.set(1, 1, 1), 1);
    assert_eq!(world.set(50, 9, 3), 0, "the condition is false again");
}

#[test]
fn c59_no_edges_are_left_behind() {
    let mut world = world(|ctx, pods, by_service, service| {
        let members = ctx.lookup(by_service, &service).map(|(key, _)| *key).collect::<Vec<_>>();
        let other = ctx.project(pods, &(service * 3), |pod| pod.service).unwrap_or(0);
        members.iter().map(|key| weight(ctx.get(pods, key))).sum::<u64>() + u64::from(other)
    });
    let clean = world.edges();
    for round in 0..200 {
        world.set(1, round % 5, round);
        world.set(2, round % 3, round);
    }
    world.set(1, 1, 1);
    world.set(2, 1, 1);
    assert_eq!(world.edges(), clean);
    delete(&mut world.graph, &world.services, &1);
    delete(&mut world.graph, &world.services, &2);
    assert_eq!(world.edges(), (0, 0));
}

#[test]
fn c61_a_chain_reruns_exactly_the_path() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let mut chain = vec![*numbers];
    for step in 0..5 {
        let last = chain[step];
        chain.push(builder.map(&format!("step{step}"), &last, |_, n| n + 1));
    }
    let aside = builder.map("aside", &numbers, |_, n| n / 1000);
    let after_aside = builder.map("after_aside", &aside, |_, n| *n);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 1);
    put(&mut graph, &numbers, 2, 1);
    let before: Vec<u64> = chain[1..].iter().map(|node| runs(&graph, node)).collect();
    let aside_before = runs(&graph, &after_aside);
    put(&mut graph, &numbers, 1, 2);
    assert!(chain[1..].iter().zip(&before).all(|(node, before)| runs(&graph, node) == before + 1));
    assert_eq!(runs(&graph, &after_aside), aside_before);
    assert_eq!(rows(&graph, &chain[5]), [(1, 7), (2, 6)]);
}

#[test]
fn c62_a_diamond_runs_once_and_never_sees_half() {
    let mut builder = Graph::builder();
    let top = builder.input::<u32, i64>("top");
    let left = builder.map("left", &top, |_, n| *n);
    let right = builder.map("right", &top, |_, n| -*n);
    let sum = builder.derive("sum", &left, move |ctx, key, n| ctx.get(&right, key).map(|other| n + **other));
    let mut graph = builder.seal().unwrap();
    for value in 1..50 {
        let before = runs(&graph, &sum);
        put(&mut graph, &top, 1, value);
        assert_eq!(runs(&graph, &sum) - before, 1);
        assert_eq!(rows(&graph, &sum), [(1, 0)]);
    }
}

#[test]
fn c64_a_scan_beside_indexed_reads_does_not_degrade_them() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, Pod>("pods");
    let small = builder.input::<u32, u32>("small");
    let by_service = builder.index("by_service", &pods, |_, pod| [pod.service]);
    let services = builder.input::<u32, ()>("services");
    let out = builder.derive("out", &services, move |ctx, service, ()| {
        Some(ctx.scan(&small).count() + ctx.lookup(&by_service, service).count())
    });
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..100).for_each(|service| tx.put(&services, service, ()));
    tx.commit();
    let before = runs(&graph, &out);
    put(&mut graph, &pods, 1, Pod { service: 7, weight: 1 });
    assert_eq!(runs(&graph, &out) - before, 1);
    put(&mut graph, &small, 1, 1);
    assert_eq!(runs(&graph, &out) - before, 101);
}

#[test]
fn c65_a_scan_that_stops_no_longer_reruns() {
    let mut world = world(|ctx, pods, _, service| match ctx.get(pods, &1).map(|pod| pod.weight) {
        Some(99) if service == 1 => ctx.scan(pods).count() as u64,
        _ => 0,
    });
    world.set(1, 1, 99);
    assert_eq!(world.set(8, 8, 8), 1);
    world.set(1, 1, 1);
    assert_eq!(world.set(8, 8, 9), 0);
}

#[test]
fn c66_the_reads_of_a_failed_run_count() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, u32>("pods");
    let services = builder.input::<u32, u32>("services");
    let out = builder.derive("out", &services, move |ctx, key, kind| {
        let pod = ctx.get(&pods, key);
        match (pod, kind) {
            (Some(pod), _) => Ok(Some(**pod)),
            (None, 1) => Err(Failure::err("no pod")),
            (None, 2) => Err(Failure::keep("no pod yet")),
            (None, _) => panic!("no pod at all"),
        }
    });
    let mut graph = builder.seal().unwrap();
    for key in 1..=3 {
        put(&mut graph, &services, key, key);
    }
    assert_eq!(graph.snapshot().errors(&out).len(), 3);
    for key in 1..=3 {
        put(&mut graph, &pods, key, key * 10);
    }
    assert_eq!(rows(&graph, &out), [(1, 10), (2, 20), (3, 30)]);
    assert!(graph.snapshot().errors(&out).is_empty());
}

/// Each service reads the service of the pod with its number, and not its weight.
fn projected() -> World {
    world(|ctx, pods, _, service| ctx.project(pods, &service, |pod| pod.service).map_or(0, u64::from))
}

#[test]
fn c67_a_change_outside_the_projection_does_not_run() {
    let mut world = projected();
    assert_eq!(world.set(1, 1, 9), 0, "the weight is not read");
    assert_eq!(world.set(2, 7, 9), 1, "nor is another row, but this one is service 2's");
    assert_eq!(world.set(3, 7, 9), 0, "another row");
}

#[test]
fn c68_a_change_inside_the_projection_runs_once() {
    let mut world = projected();
    assert_eq!(world.set(1, 4, 9), 1, "another service");
    assert_eq!(world.remove(1), 1, "the row goes");
    assert_eq!(world.set(1, 1, 9), 1, "the row comes");
    assert_eq!(rows(&world.graph, &world.out), [(1, 1), (2, 1)]);
}

#[test]
fn c69_exists_ignores_values() {
    let mut world = world(|ctx, pods, _, service| u64::from(ctx.exists(pods, &service)));
    assert_eq!(world.set(1, 3, 3), 0);
    assert_eq!(world.remove(1), 1);
    assert_eq!(world.set(1, 3, 3), 1);
    assert_eq!(world.remove(3), 0);
}

#[test]
fn c70_count_ignores_values() {
    let mut world = world(|ctx, _, by_service, service| ctx.count(by_service, &service) as u64);
    assert_eq!(world.set(1, 1, 9), 0);
    assert_eq!(world.set(1, 2, 9), 2, "left 1, entered 2");
    assert_eq!(world.remove(1), 1);
    assert_eq!(rows(&world.graph, &world.out), [(1, 1), (2, 1)]);
}

#[test]
fn c71_more_than_one_match_is_an_error_value() {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, u32>("pods");
    let by_service = builder.index("by_service", &pods, |_, service| [*service]);
    let one = builder
        .singleton("one", move |ctx| Ok::<_, Failure>(ctx.lookup_one(&by_service, &7)?.map(|(key, _)| *key)));
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &pods, 1, 7);
    assert_eq!(rows(&graph, &one), [((), 1)]);
    put(&mut graph, &pods, 2, 7);
    let error = graph.snapshot().error(&one, &()).unwrap();
    assert_eq!(error.failure, Failure::err("more than one row under 7: 1 and 2"));
    delete(&mut graph, &pods, &1);
    assert_eq!(rows(&graph, &one), [((), 2)]);
}

#[test]
fn c73_a_collection_without_rows_can_be_read() {
    let mut world = world(|_, _, _, _| 0);
    let by_service = world.by_service;
    assert_eq!(world.graph.snapshot().lookup(&by_service, &77).count(), 0);
    let mut builder = Graph::builder();
    let none = builder.input::<u32, u32>("none");
    let users = builder.input::<u32, u32>("users");
    let out = builder.derive("out", &users, move |ctx, _, _| {
        Some(ctx.scan(&none).count() + ctx.get_many(&none, &[1, 2]).len())
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &users, 1, 1);
    assert_eq!(rows(&graph, &out), [(1, 0)]);
    assert_eq!(world.remove(77), 0);
}

#[test]
fn c74_one_row_read_by_ten_thousand_keys_dirties_each_once() {
    let mut builder = Graph::builder();
    let shared = builder.input::<u32, u32>("shared");
    let users = builder.input::<u32, u32>("users");
    let out =
        builder.derive("out", &users, move |ctx, _, n| Some(ctx.get(&shared, &0).map_or(0, |s| **s) + n));
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..10_000).for_each(|user| tx.put(&users, user, user));
    tx.commit();
    let mut tx = graph.transaction();
    tx.put(&shared, 0, 1);
    let commit = tx.commit();
    assert_eq!((commit.runs, commit.changed), (10_000, 10_001));
    assert_eq!(graph.counters_of(&out).dirty, 20_000);
}
