//! B5 and B6: the shapes of Istio's issues 60366 (500 policies over 10,000 pods) and 58014 (a half-updated world).

use std::time::{Duration, Instant};

use krt::{Collection, Event, Graph, Index, Input, Labels, Subscribe};

use crate::report;

fn app(number: u32) -> Labels {
    Labels::from([("app".to_owned(), format!("app-{number}"))])
}

const APPS: u32 = 100;

struct Mesh {
    graph: Graph,
    pods: Input<u32, Labels>,
}

/// For each pod the policies that select it, and for each policy how many pods it selects.
fn mesh() -> Mesh {
    let mut builder = Graph::builder();
    let pods = builder.input::<u32, Labels>("pods");
    let policies = builder.input::<u32, Labels>("policies");
    let by_label = builder.labels("pods_by_label", &pods, |_, labels| ((), labels.clone()));
    let selectors =
        builder.selectors("policies_by_selector", &policies, |_, policy| ((), Some(policy.clone())));
    builder.derive("policies_of_pods", &pods, move |ctx, _, labels| {
        let selecting = ctx.selecting(&selectors, &(), labels);
        Some(selecting.into_iter().map(|(key, _)| *key).collect::<Vec<_>>())
    });
    builder.derive("pods_of_policies", &policies, move |ctx, _, policy| {
        Some(ctx.labelled(&by_label, &(), policy).len())
    });
    let mut graph = builder.seal().unwrap();
    let mut tx = graph.transaction();
    (0..500).for_each(|policy| tx.put(&policies, policy, app(policy % APPS)));
    (0..10_000).for_each(|pod| tx.put(&pods, pod, app(pod % APPS)));
    tx.commit();
    Mesh { graph, pods }
}

pub fn b5() {
    let mut mesh = mesh();
    let changes: Vec<(u32, Labels)> = (0..1_000).map(|n| (n * 7, app(n * 13 % APPS))).collect();
    let start = Instant::now();
    let mut tx = mesh.graph.transaction();
    changes.iter().for_each(|(pod, labels)| tx.put(&mesh.pods, *pod, labels.clone()));
    let runs = tx.commit().runs;
    let what = format!("500 policies, 10k pods, 1,000 relabels at once, {runs} runs");
    report("B5", &what, start.elapsed(), Duration::from_secs(1));
    let mut runs = 0;
    let start = Instant::now();
    for (pod, labels) in &changes {
        let mut tx = mesh.graph.transaction();
        let back = app((pod + 1) % APPS);
        tx.put(&mesh.pods, *pod, if back == *labels { app(pod % APPS) } else { back });
        runs += tx.commit().runs;
    }
    let what = format!("the same, one each, {runs} runs");
    report("B5", &what, start.elapsed(), Duration::from_secs(3));
    assert!(mesh.graph.verify().is_empty());
}

type Route = (u32, bool);

fn is_right(event: &Event, by_gateway: &Index<u32, Route, u32>, marked: &Collection<u32, usize>) -> bool {
    let snapshot = event.snapshot();
    let right = |gateway: &u32| {
        let members = snapshot.lookup(by_gateway, gateway);
        snapshot.get(marked, gateway).map(|n| **n) == Some(members.filter(|(_, route)| route.1).count())
    };
    snapshot.index_values(by_gateway).all(|(gateway, _)| right(gateway))
        && snapshot.len(marked) == snapshot.index_values(by_gateway).count()
}

/// Routes of gateways lose an attribute in bulk and get it back; a checker looks at every revision.
pub fn b6() {
    let mut wrong = 0;
    let mut revisions = 0;
    let start = Instant::now();
    for size in [20, 200, 2_000] {
        let mut builder = Graph::builder();
        let routes = builder.input::<u32, Route>("routes");
        let by_gateway = builder.index("by_gateway", &routes, |_, route| [route.0]);
        let marked = builder.group("marked", &by_gateway, |_, _, members| {
            Some(members.iter().filter(|(_, route)| route.1).count())
        });
        let mut graph = builder.seal().unwrap();
        let mut changes = graph.subscribe(&Subscribe::all());
        for round in 0..100u32 {
            let mut tx = graph.transaction();
            let has = |route: u32| round % 2 == 0 || !route.is_multiple_of(3);
            (0..size).for_each(|route| tx.put(&routes, route, (route % 10, has(route))));
            tx.commit();
            while let Some(event) = changes.try_next() {
                revisions += 1;
                wrong += usize::from(!is_right(&event, &by_gateway, &marked));
            }
        }
    }
    let verdict = if wrong == 0 { "ok" } else { "MISSED" };
    let what = format!("bulk removal of an attribute, 20 to 2,000 routes, {revisions} revisions");
    println!(
        "{:<4} {what:<64} {wrong:>6} wrong  target    0 wrong  {verdict}  ({:.2?})",
        "B6",
        start.elapsed()
    );
}
