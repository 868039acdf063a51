//! O, continued: exactness, accounts, the feed's crashes, and the self-check of production.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use krt::{Collection, Graph, Index, Input};

use crate::o_oracle::{Random, quietly, quietly_all, world, world_with};
use crate::soak_world::World;
use crate::{put, rows};

/// What each user's run would see: reads with their access paths.
type Seen = BTreeMap<u16, Vec<String>>;

struct Readers {
    graph: Graph,
    pods: Input<u16, u64>,
    users: Input<u16, u64>,
    by_value: Index<u16, u64, u64>,
    out: Collection<u16, u64>,
    ran: Arc<Mutex<BTreeSet<u16>>>,
}

/// Users that read pods by key, index, projection, existence and count; one that is divisible by three reads half of it.
fn readers() -> Readers {
    let mut builder = Graph::builder();
    let pods = builder.input::<u16, u64>("pods");
    let by_value = builder.index("by_value", &pods, |_, n| [n % 6]);
    let users = builder.input::<u16, u64>("users");
    let ran: Arc<Mutex<BTreeSet<u16>>> = Arc::default();
    let log = Arc::clone(&ran);
    let out = builder.derive("out", &users, move |ctx, key, n| {
        assert!(log.lock().unwrap().insert(*key), "a second run in one revision");
        let first = ctx.get(&pods, &(key * 2)).map_or(0, |m| **m);
        let part = ctx.project(&pods, &(key + 1), |m| m / 8).unwrap_or(0);
        if n % 3 == 0 {
            return Some(first + part);
        }
        let members = ctx.lookup(&by_value, &(n % 6)).map(|(_, m)| **m).sum::<u64>();
        let count = ctx.count(&by_value, &((n + 1) % 6)) as u64;
        Some(first + members + part + count + u64::from(ctx.exists(&pods, key)))
    });
    Readers { graph: builder.seal().unwrap(), pods, users, by_value, out, ran }
}

impl Readers {
    /// The oracle of reads: what the transform above looks at, in a snapshot.
    fn see(&self) -> Seen {
        let snapshot = self.graph.snapshot();
        let list = |value: u64| {
            snapshot.lookup(&self.by_value, &value).map(|(key, n)| (*key, **n)).collect::<Vec<_>>()
        };
        let seen = |(key, n): (&u16, &Arc<u64>)| {
            let (key, n) = (*key, **n);
            let part = snapshot.get(&self.pods, &(key + 1)).map(|m| **m / 8);
            let mut reads = vec![format!("{n} {:?} {part:?}", snapshot.get(&self.pods, &(key * 2)))];
            if n % 3 != 0 {
                let members = list(n % 6);
                let counted: Vec<u16> = list((n + 1) % 6).iter().map(|(key, _)| *key).collect();
                let exists = snapshot.get(&self.pods, &key).is_some();
                reads.push(format!("{members:?} {counted:?} {exists}"));
            }
            (key, reads)
        };
        snapshot.rows(&self.users).map(seen).collect()
    }

    fn random_step(&mut self, random: &mut Random) {
        let mut tx = self.graph.transaction();
        for _ in 0..=random.below(4) {
            let key = u16::try_from(random.below(26)).unwrap();
            match random.below(6) {
                0 => tx.delete(&self.pods, &key),
                1 => tx.put(&self.users, key % 12, random.below(30)),
                2 if random.below(4) == 0 => tx.delete(&self.users, &(key % 12)),
                _ => tx.put(&self.pods, key, random.below(30)),
            }
        }
        tx.commit();
    }
}

#[test]
fn c174_no_key_runs_whose_reads_did_not_change() {
    let mut random = Random(77);
    let mut readers = readers();
    let mut before = readers.see();
    let (mut made, mut minimal) = (0, 0);
    for _ in 0..3_000 {
        readers.ran.lock().unwrap().clear();
        let total = readers.graph.counters_of(&readers.out).runs;
        readers.random_step(&mut random);
        let after = readers.see();
        let changed = |key: &u16| before.get(key) != after.get(key);
        let needed: BTreeSet<u16> = after.keys().copied().filter(changed).collect();
        assert_eq!(*readers.ran.lock().unwrap(), needed, "these and no others");
        // A user that is gone is a run of the engine, but not of the transform.
        let gone = before.keys().filter(|key| !after.contains_key(key)).count();
        made += readers.graph.counters_of(&readers.out).runs - total;
        minimal += needed.len() + gone;
        before = after;
    }
    assert_eq!(usize::try_from(made).unwrap(), minimal);
    assert!(minimal > 5_000 && minimal < 30_000, "neither nothing nor everything runs: {minimal}");
}

#[test]
fn c175_the_accounts_equal_a_recount() {
    quietly(|| {
        for seed in 1..25u64 {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let mut world = world_with(&mut random, true, |builder, nodes| {
                for node in nodes {
                    builder.weigh(node, |key, n| usize::from(*key) + usize::try_from(*n).unwrap());
                }
            });
            let empty = world.graph.memory().iter().map(|(_, memory)| *memory).collect::<Vec<_>>();
            for step in 0..60 {
                world.step(&mut random);
                let (kept, counted) = (world.graph.memory(), world.graph.recount_memory());
                assert_eq!(kept, counted, "seed {seed}, step {step}");
            }
            let inputs = world.graph.memory()[0].1;
            let weights = |(key, n): (u16, u64)| usize::from(key) + usize::try_from(n).unwrap();
            let weight: usize = rows(&world.graph, &world.nodes[0]).into_iter().map(weights).sum();
            let shells =
                rows(&world.graph, &world.nodes[0]).len() * (size_of::<u64>() + 2 * size_of::<usize>());
            assert_eq!(inputs.values, weight + shells);
            // Emptied, and given time for what comes a revision later, everything is as in the beginning.
            let mut tx = world.graph.transaction();
            world.inputs.iter().for_each(|input| tx.delete_where(input, |_, _| true));
            tx.commit();
            for input in &world.inputs {
                assert_eq!(world.graph.counters_of(input).rows, 0);
            }
            let now = world.graph.memory();
            assert!((0..3).all(|node| now[node].1.values == empty[node].values));
        }
    });
}

/// A source of truth, as a feed sees it: its rows, and a log of which keys each transaction has touched.
#[derive(Default)]
struct Table {
    rows: BTreeMap<u16, u64>,
    log: Vec<BTreeSet<u16>>,
}

impl Table {
    fn write(&mut self, random: &mut Random) {
        let keys: BTreeSet<u16> =
            (0..=random.below(3)).map(|_| u16::try_from(random.below(12)).unwrap()).collect();
        for key in &keys {
            match random.below(3) {
                0 => drop(self.rows.remove(key)),
                _ => drop(self.rows.insert(*key, random.below(40))),
            }
        }
        self.log.push(keys);
    }
}

/// Where the feed dies while it brings in one transaction of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Crash {
    WhileStaging,
    BeforeTheCursorIsKept,
    WithTheGraph,
}

fn feed_graph() -> (Graph, Input<u16, u64>, Collection<u64, usize>) {
    let mut builder = Graph::builder();
    let numbers = builder.input::<u16, u64>("numbers");
    let halves = builder.derive("halves", &numbers, |_, _, n| (n % 2 == 0).then_some(n / 2));
    let by_half = builder.index("by_half", &halves, |_, n| [n % 4]);
    let groups = builder.group("groups", &by_half, |_, _, members| Some(members.len()));
    (builder.seal().unwrap(), numbers, groups)
}

/// Write and feed in turns; at step `at` the feed dies in the way told and starts again.
fn fed(seed: u64, at: usize, crash: Option<Crash>) -> (Vec<(u16, u64)>, Vec<(u64, usize)>) {
    let mut random = Random(seed);
    let mut table = Table::default();
    let (mut graph, mut numbers, mut groups) = feed_graph();
    let mut cursor = 0;
    for step in 0..30 {
        table.write(&mut random);
        if step == at && crash == Some(Crash::WithTheGraph) {
            // A new process: a new graph, and the cursor of the state it has read.
            (graph, numbers, groups) = feed_graph();
            let mut tx = graph.transaction();
            tx.reset(&numbers, table.rows.clone());
            tx.commit();
            cursor = table.log.len();
        }
        let touched: BTreeSet<u16> = table.log[cursor..].iter().flatten().copied().collect();
        let mut tx = graph.transaction();
        for key in &touched {
            if step == at && crash == Some(Crash::WhileStaging) && Some(key) == touched.last() {
                break;
            }
            // The row as it is now, however often it was touched.
            tx.set(&numbers, *key, table.rows.get(key).copied());
        }
        if step == at && crash == Some(Crash::WhileStaging) {
            drop(tx);
            continue;
        }
        tx.commit();
        if step != at || crash != Some(Crash::BeforeTheCursorIsKept) {
            cursor = table.log.len();
        }
    }
    let expected: Vec<(u16, u64)> = table.rows.into_iter().collect();
    assert_eq!(rows(&graph, &numbers), expected);
    assert_eq!(graph.verify(), []);
    (rows(&graph, &numbers), rows(&graph, &groups))
}

#[test]
fn c176_a_feed_that_dies_at_any_point_converges_to_the_same_state() {
    for seed in 1..6 {
        let whole = fed(seed, 0, None);
        for at in 0..29 {
            for crash in [Crash::WhileStaging, Crash::BeforeTheCursorIsKept, Crash::WithTheGraph] {
                assert_eq!(fed(seed, at, Some(crash)), whole, "seed {seed}, {crash:?} at {at}");
            }
        }
    }
}

/// A seeded 200,000 commits; in full it is `examples/soak`, with 10 million.
#[test]
fn c179_two_hundred_thousand_commits_leave_memory_flat() {
    quietly_all(|| {
        let mut world = World::new().unwrap();
        (0..1_000).for_each(|_| world.commit());
        let first = world.rest();
        assert!(first.0.iter().all(|(_, memory)| memory.total() > 0), "there is something to pile up");
        for lap in 0..10 {
            (0..20_000).for_each(|_| world.commit());
            assert_eq!(world.graph.verify_some(5, lap), []);
            assert_eq!(world.rest(), first, "lap {lap}");
            assert_eq!(world.graph.verify(), []);
        }
    });
}

#[test]
fn c180_the_sampled_self_check_finds_nothing_in_a_sound_graph() {
    quietly(|| {
        for seed in 1..40u64 {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let mut world = world(&mut random, seed % 2 == 0);
            for turn in 0..60 {
                world.step(&mut random);
                assert_eq!(world.graph.verify_some(3, turn), [], "seed {seed}, turn {turn}");
            }
            let edges: usize = world.graph.counters().iter().map(|(_, counters)| counters.edges).sum();
            world.graph.verify_some(1_000, 0);
            let after: usize = world.graph.counters().iter().map(|(_, counters)| counters.edges).sum();
            assert_eq!(edges, after, "checking leaves no dependency behind");
        }
    });
}

#[test]
fn c180_the_sampled_self_check_finds_what_is_wrong_in_its_turn() {
    let hidden = Arc::new(Mutex::new(0u64));
    let seen = Arc::clone(&hidden);
    let mut builder = Graph::builder();
    let numbers = builder.input::<u16, u64>("numbers");
    let by_parity = builder.index("by_parity", &numbers, |_, n| [n % 2]);
    // Key 7 looks at something that is no input; so does a sum.
    let looking = Arc::clone(&hidden);
    builder.map("impure", &numbers, move |key, n| if *key == 7 { n + *seen.lock().unwrap() } else { *n });
    builder.reduce(
        "sums",
        &by_parity,
        |_| 0,
        |sum, _, n| *sum += n,
        |sum, _, n| *sum -= n,
        move |value, sum| Some(sum + value * *looking.lock().unwrap()),
    );
    let mut graph = builder.seal().unwrap();
    for key in 0..20 {
        put(&mut graph, &numbers, key, u64::from(key));
    }
    let found = |graph: &Graph| {
        let all = (0..10).flat_map(|turn| graph.verify_some(2, turn));
        all.map(|found| (found.collection, found.key)).collect::<BTreeSet<_>>()
    };
    assert_eq!(found(&graph), BTreeSet::new());
    *hidden.lock().unwrap() = 5;
    let expected = [("impure", "7"), ("sums", "1")].map(|(node, key)| (node.to_owned(), key.to_owned()));
    assert_eq!(found(&graph), BTreeSet::from(expected), "ten turns of two are all twenty keys");
}
