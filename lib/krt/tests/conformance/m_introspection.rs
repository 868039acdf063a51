//! L: lifecycle, and M: introspection.

use std::sync::Arc;

use krt::{Collection, Graph, Index, Input};

use crate::{delete, put, rows, sound};

struct World {
    graph: Graph,
    vms: Input<u32, u32>,
    images: Input<u32, String>,
    ports: Input<u32, u32>,
    by_vm: Index<u32, u32, u32>,
    items: Collection<u32, String>,
    upper: Collection<u32, String>,
}

fn world() -> World {
    let mut builder = Graph::builder();
    let vms = builder.input::<u32, u32>("vms");
    let images = builder.input::<u32, String>("images");
    let ports = builder.input::<u32, u32>("ports");
    let by_vm = builder.index("ports_by_vm", &ports, |_, vm| [*vm]);
    let items = builder.derive("items", &vms, move |ctx, vm, image| {
        let ports = ctx.lookup(&by_vm, vm).count();
        ctx.get(&images, image).map(|image| format!("{image}+{ports}"))
    });
    let upper = builder.map("upper", &items, |_, text| text.to_uppercase());
    World { graph: builder.seal().unwrap(), vms, images, ports, by_vm, items, upper }
}

#[test]
fn c156_explain_names_the_causing_change() {
    let mut world = world();
    put(&mut world.graph, &world.images, 5, "debian".to_owned());
    put(&mut world.graph, &world.vms, 1, 5);
    assert_eq!(world.graph.explain(&world.upper, &1).causes, ["vms 1"]);
    put(&mut world.graph, &world.ports, 77, 1);
    let explanation = world.graph.explain(&world.upper, &1);
    assert_eq!(
        (explanation.causes, explanation.changed_at, explanation.ran_at),
        (vec!["ports 77".to_owned()], Some(3), Some(3))
    );
    let items = world.graph.explain(&world.items, &1);
    assert_eq!(items.reads, ["images key 5", "ports index ports_by_vm = 1"]);
    put(&mut world.graph, &world.images, 5, "alpine".to_owned());
    assert_eq!(world.graph.explain(&world.upper, &1).causes, ["images 5"]);
    delete(&mut world.graph, &world.ports, &77);
    assert_eq!(world.graph.explain(&world.items, &1).causes, ["ports 77"], "a deleted row is named as well");
    assert_eq!(world.graph.explain(&world.items, &9).ran_at, None);
    assert_eq!(world.graph.snapshot().lookup(&world.by_vm, &1).count(), 0);
}

#[test]
fn c156_explain_names_a_read_that_the_run_did_not_repeat() {
    let mut builder = Graph::builder();
    let first = builder.input::<u32, u32>("first");
    let second = builder.input::<u32, u32>("second");
    let one = builder.singleton("one", move |ctx| match ctx.get(&second, &1) {
        Some(n) => Some(**n),
        None => ctx.get(&first, &1).map(|n| **n),
    });
    let two = builder.singleton("two", move |ctx| match ctx.exists(&second, &1) {
        true => Some(0),
        false => ctx.get(&first, &1).map(|n| **n),
    });
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &first, 1, 1);
    let mut tx = graph.transaction();
    tx.put(&first, 1, 2);
    tx.put(&second, 1, 2);
    tx.commit();
    assert_eq!(graph.explain(&one, &()).causes, ["first 1", "second 1"]);
    assert_eq!(graph.explain(&two, &()).causes, ["first 1", "second 1"]);
}

#[test]
fn c155_the_dump_has_everything() {
    let mut world = world();
    put(&mut world.graph, &world.images, 5, "de\"bian".to_owned());
    put(&mut world.graph, &world.vms, 1, 5);
    let dump = world.graph.dump();
    for part in [
        r#""revision":2"#,
        r#""synced":true"#,
        r#""name":"items","kind":"derive","from":["vms"]"#,
        r#"{"key":"1","value":"\"de\\\"bian+0\"","changed_at":2}"#,
        r#"{"key":"1","ran_at":2,"reads":["images key 5","ports index ports_by_vm = 1"]}"#,
        r#""errors":[]"#,
    ] {
        assert!(dump.contains(part), "{part} is not in {dump}");
    }
}

#[test]
fn c159_a_dump_is_of_one_revision_and_a_transaction_under_way_is_not_in_it() {
    let mut world = world();
    put(&mut world.graph, &world.images, 5, "debian".to_owned());
    put(&mut world.graph, &world.vms, 1, 5);
    let before = world.graph.dump();
    let mut tx = world.graph.transaction();
    tx.put(&world.vms, 2, 5);
    tx.delete(&world.images, &5);
    drop(tx);
    assert_eq!(world.graph.dump(), before, "what was staged and abandoned is in no dump");
    // While another thread commits, each dump taken in between is consistent: every VM has an item, made at its revision.
    let shared = std::sync::Mutex::new(world);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for vm in 2..60 {
                let mut world = shared.lock().unwrap();
                let vms = world.vms;
                put(&mut world.graph, &vms, vm, 5);
            }
        });
        for _ in 0..40 {
            let dump = shared.lock().unwrap().graph.dump();
            let rows = |name: &str| {
                let from = dump.find(&format!(r#""name":"{name}""#)).unwrap();
                let part = &dump[from..];
                part[..part.find(r#""errors":"#).unwrap()].matches(r#""changed_at":"#).count()
            };
            assert_eq!((rows("vms"), rows("vms")), (rows("items"), rows("upper")));
        }
    });
}

#[test]
fn c158_runs_suppressed_and_dirty_are_counted() {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u32, u32>("numbers");
    let tens = builder.map("tens", &numbers, |_, n| n / 10);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 1, 10);
    put(&mut graph, &numbers, 1, 11);
    put(&mut graph, &numbers, 1, 25);
    let counters = graph.counters_of(&tens);
    assert_eq!((counters.runs, counters.suppressed, counters.dirty, counters.rows), (3, 1, 3, 1));
    assert_eq!((counters.changed_at, graph.counters_of(&numbers).changed_at), (3, 3));
    put(&mut graph, &numbers, 1, 26);
    assert_eq!((graph.counters_of(&tens).changed_at, graph.revision()), (3, 4), "an equal row is no change");
    let memory: Vec<usize> = graph.memory().iter().map(|(_, memory)| memory.total()).collect();
    let bytes: Vec<usize> = graph.counters().iter().map(|(_, counters)| counters.bytes).collect();
    assert!(bytes == memory && bytes.iter().all(|bytes| *bytes > 0));
    let before = graph.counters_of(&tens).bytes;
    put(&mut graph, &numbers, 2, 20);
    assert_eq!(graph.counters_of(&tens).bytes, 2 * before, "a second row takes as much as the first");
    delete(&mut graph, &numbers, &2);
    assert_eq!(graph.counters_of(&tens).bytes, before);
}

#[test]
fn c157_the_graph_in_dot() {
    let mut world = world();
    put(&mut world.graph, &world.vms, 1, 5);
    let dot = world.graph.dot();
    for part in
        ["digraph krt {", "n0 -> n3;", "n3 -> n4;", r#"n2 -> n3 [style=dashed, label="index ports_by_vm"];"#]
    {
        assert!(dot.contains(part), "{part} is not in {dot}");
    }
}

#[test]
fn c157_the_graph_for_mermaid() {
    let mut builder = Graph::builder();
    let before = builder.previous::<u32, u32>("before");
    let vms = builder.input::<u32, u32>("the \"vms\"");
    let all = builder.derive("all", &vms, move |ctx, vm, n| Some(ctx.get(&before, vm).map_or(*n, |m| **m)));
    builder.previous_of(&before, &all);
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &vms, 1, 5);
    let expected = "flowchart LR\n  n0([\"before<br>previous, 0 rows\"])\n  \
        n1[\"the #quot;vms#quot;<br>input, 1 rows\"]\n  n2([\"all<br>derive, 1 rows\"])\n  \
        n1 --> n2\n  n0 -. \"key\" .-> n2\n  n2 -. \"previous\" .-> n0\n";
    assert_eq!(graph.mermaid(), expected);
}

#[test]
fn c152_a_snapshot_may_outlive_its_graph() {
    let text = Arc::new("debian".to_owned());
    let mut world = world();
    let mut tx = world.graph.transaction();
    tx.put(&world.images, 5, Arc::clone(&text));
    tx.commit();
    put(&mut world.graph, &world.vms, 1, 5);
    let snapshot = world.graph.snapshot();
    drop(world.graph);
    assert_eq!(snapshot.get(&world.items, &1).unwrap().as_str(), "debian+0");
    assert_eq!(snapshot.lookup(&world.by_vm, &1).count(), 0);
    assert!(Arc::strong_count(&text) > 1);
    drop(snapshot);
    assert_eq!(Arc::strong_count(&text), 1);
}

#[test]
fn c154_deleting_all_rows_leaves_nothing_behind() {
    let mut world = world();
    let mut tx = world.graph.transaction();
    (0..500).for_each(|n| tx.put(&world.vms, n, n % 10));
    (0..500).for_each(|n| tx.put(&world.ports, n, n));
    (0..10).for_each(|n| tx.put(&world.images, n, n.to_string()));
    tx.commit();
    assert_eq!(rows(&world.graph, &world.upper).len(), 500);
    let mut tx = world.graph.transaction();
    tx.delete_where(&world.vms, |_, _| true);
    tx.delete_where(&world.ports, |_, _| true);
    tx.delete_where(&world.images, |_, _| true);
    tx.commit();
    for (name, counters) in world.graph.counters() {
        assert_eq!((counters.rows, counters.paths, counters.edges, counters.errors), (0, 0, 0, 0), "{name}");
    }
    sound(&world.graph);
}

#[test]
fn edges_and_paths_are_what_the_rows_need_after_any_churn() {
    let mut world = world();
    let text = Arc::new("shared".to_owned());
    let mut random = 88_172_645_463_325_252u64;
    let mut next = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        u32::try_from(random % limit).unwrap()
    };
    for _ in 0..5_000 {
        let mut tx = world.graph.transaction();
        match next(5) {
            0 => tx.put(&world.vms, next(20), next(4)),
            1 => tx.delete(&world.vms, &next(20)),
            2 => tx.put(&world.ports, next(40), next(20)),
            3 => tx.delete(&world.ports, &next(40)),
            _ => tx.put(&world.images, next(4), Arc::clone(&text)),
        }
        tx.commit();
    }
    sound(&world.graph);
    let snapshot = world.graph.snapshot();
    let vms = snapshot.len(&world.vms);
    let images: std::collections::BTreeSet<u32> =
        snapshot.rows(&world.vms).map(|(_, image)| **image).collect();
    drop(snapshot);
    // Every VM reads one index value and one image; nothing else is held.
    assert_eq!(world.graph.counters_of(&world.ports).edges, vms);
    assert_eq!(world.graph.counters_of(&world.ports).paths, vms);
    assert_eq!(world.graph.counters_of(&world.images).edges, vms);
    assert_eq!(world.graph.counters_of(&world.images).paths, images.len());
    let held = rows(&world.graph, &world.images).len();
    assert_eq!(Arc::strong_count(&text), held + 1, "one reference per row, and this one");
}
