//! O: random graphs against the oracle, with failures and panics injected, and subscribers that lag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use krt::{Builder, Collection, Event, Failure, Filter, Graph, Input, Labels, Previous, Subscribe};

use crate::{put, rows};

pub type Rows = Collection<u16, u64>;

/// A small generator: the tests must be the same on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// Trouble that depends on the row only, so that a rerun meets it again.
fn trouble(injected: bool, value: u64) -> Result<(), Failure> {
    match value % 23 {
        3 if injected => Err(Failure::err("injected")),
        5 if injected => Err(Failure::keep("injected")),
        7 if injected => std::panic::panic_any("injected".to_owned()),
        _ => Ok(()),
    }
}

/// One more collection of a random kind over earlier ones. Values are kept small so that cutoffs happen.
fn grow(builder: &mut Builder, random: &mut Random, nodes: &[Rows], injected: bool) -> Rows {
    let name = format!("node{}", nodes.len());
    let (source, other) = (random.pick(nodes), random.pick(nodes));
    let salt = random.below(7);
    match random.below(20) {
        kind @ (8 | 9) => reading(builder, kind, &name, [source, other], salt),
        kind @ 0..12 => plain(builder, kind, &name, [source, other], salt, injected),
        kind @ 12..17 => deltas(builder, kind, &name, [source, other], salt, injected),
        kind => filtered(builder, kind, &name, [source, other], salt),
    }
}

/// Labels that follow from a row, so that label and selector queries have something to match.
fn labels_of(key: u16, n: u64) -> Labels {
    let pairs = [("a", n % 3), ("b", u64::from(key % 2)), ("c", n % 2)];
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.to_string()))
        .take(1 + usize::from(key % 3))
        .collect()
}

/// The operators that work on changes.
fn deltas(
    builder: &mut Builder,
    kind: u64,
    name: &str,
    [source, other]: [Rows; 2],
    salt: u64,
    injected: bool,
) -> Rows {
    match kind {
        12 | 13 => {
            let values = move |key: &u16, n: &u64| [u16::try_from(n % 9).unwrap(), key % 4];
            let index = builder.index(&format!("index of {name}"), &source, values);
            let step = move |n: u64| {
                if injected && n % 23 == 7 {
                    std::panic::panic_any("injected".to_owned())
                }
            };
            let add = move |sum: &mut (u64, u64), _: &u16, n: &u64| {
                step(*n);
                *sum = (sum.0 + n, sum.1 + 1);
            };
            let remove = |sum: &mut (u64, u64), _: &u16, n: &u64| *sum = (sum.0 - n, sum.1 - 1);
            let finish = move |_: &u16, (sum, members): &(u64, u64)| {
                trouble(injected, sum + salt)?;
                Ok::<_, Failure>((sum % 7 != 3).then_some((sum * 3 + members) % 50))
            };
            builder.reduce(name, &index, |_| (0, 0), add, remove, finish)
        }
        14 | 15 => {
            let left =
                builder.index(&format!("left of {name}"), &source, |key, n| [n % 6, u64::from(key % 5)]);
            let right = builder.index(&format!("right of {name}"), &other, |_, n| [n % 6]);
            let pairs =
                builder.equi_join(&format!("pairs of {name}"), &left, &right, move |(_, l), (_, r)| {
                    trouble(injected, l + r)?;
                    Ok::<_, Failure>(((l + r) % 8 != salt).then_some((l + r) % 50))
                });
            builder.derive_many(name, &pairs, |_, (l, r), n| vec![((l * 7 + r) % 40, *n)])
        }
        _ => {
            let members = builder.derive_many(&format!("members of {name}"), &source, move |_, key, n| {
                (0..n % 3).map(|part| ((part, *key), n + part)).collect::<Vec<_>>()
            });
            builder.merge_by(
                name,
                &members,
                |(_, key), _| key % 10,
                move |_, parts| {
                    let sum: u64 = parts.iter().map(|((part, _), n)| (part + 1) * ***n).sum();
                    trouble(injected, sum).map(|()| sum % 50)
                },
            )
        }
    }
}

/// Reads by labels, by selectors, and through several conditions at once.
fn filtered(builder: &mut Builder, kind: u64, name: &str, [source, other]: [Rows; 2], salt: u64) -> Rows {
    match kind {
        17 => {
            let labels =
                builder.labels(&format!("labels of {name}"), &other, |key, n| (key % 2, labels_of(*key, *n)));
            builder.derive(name, &source, move |ctx, key, n| {
                let query = labels_of(key + 1, *n);
                let found = ctx.labelled(&labels, &(key % 2), &query);
                Some(found.iter().map(|(_, m)| ***m).sum::<u64>() % 50)
            })
        }
        18 => {
            let wanted = move |key: &u16, n: &u64| (key % 2, (n % 5 != salt).then(|| labels_of(*key, *n)));
            let selectors = builder.selectors(&format!("selectors of {name}"), &other, wanted);
            builder.derive(name, &source, move |ctx, key, n| {
                let found = ctx.selecting(&selectors, &(key % 2), &labels_of(2, *n));
                Some(found.iter().map(|(_, m)| ***m).sum::<u64>() % 50)
            })
        }
        _ => {
            let index = builder.index(&format!("index of {name}"), &other, |_, n| [n % 5]);
            let labels =
                builder.labels(&format!("labels of {name}"), &other, |key, n| ((), labels_of(*key, *n)));
            builder.derive(name, &source, move |ctx, key, n| {
                let filter = Filter::of(&other).matching(move |_, m| m % 4 != salt % 4);
                let filter = match key % 4 {
                    0 => filter.under(&index, n % 5),
                    1 => filter.under(&index, n % 5).labelled(&labels, (), &labels_of(*key, *n)),
                    2 => filter.keys([*key, key + 1, key + 2]).under(&index, n % 5),
                    _ => filter,
                };
                Some(ctx.select(&filter).iter().map(|(_, m)| ***m).sum::<u64>() % 50)
            })
        }
    }
}

/// Several reads of another collection in one run.
fn reading(builder: &mut Builder, kind: u64, name: &str, [source, other]: [Rows; 2], salt: u64) -> Rows {
    match kind {
        8 => {
            let index =
                builder.index(&format!("index of {name}"), &other, |key, n| [u64::from(key % 4), n % 5]);
            builder.derive(name, &source, move |ctx, key, n| {
                let value = n % 5;
                // Which index value is read depends on what was read before.
                let first = ctx.lookup(&index, &value).map(|(_, m)| **m).sum::<u64>();
                let second =
                    ctx.lookup_where(&index, &(first % 5), move |_, m| m % 2 == salt % 2).len() as u64;
                Some((first + second + u64::from(ctx.exists(&other, &(key + 2)))) % 50)
            })
        }
        _ => builder.derive(name, &source, move |ctx, key, n| {
            let part = ctx.project(&other, &(key % 10), |m| m / 10).unwrap_or(9);
            let big = ctx.scan_where(&other, move |_, m| *m > 40 + part).len() as u64;
            Some((n + part + big) % 50)
        }),
    }
}

/// The operators that run over rows.
fn plain(
    builder: &mut Builder,
    kind: u64,
    name: &str,
    [source, other]: [Rows; 2],
    salt: u64,
    injected: bool,
) -> Rows {
    match kind {
        0 => builder.map(name, &source, move |key, n| (n + u64::from(*key) + salt) % 50),
        1 => builder.filter(name, &source, move |_, n| n % 3 != salt % 3),
        2 => builder.derive(name, &source, move |ctx, key, n| {
            trouble(injected, *n)?;
            let partner = ctx.get(&other, &(key + 1)).map_or(0, |m| **m);
            Ok::<_, Failure>((partner % 5 != 1).then_some((n + partner) % 50))
        }),
        3 => builder.derive_many(name, &source, move |_, key, n| {
            trouble(injected, *n)?;
            Ok::<_, Failure>(
                (0..n % 4)
                    .map(|step| ((key + u16::try_from(step * 3).unwrap()) % 40, n / 4 + step))
                    .collect::<Vec<_>>(),
            )
        }),
        4 => builder.union(name, &[source, other]),
        5 => builder.union_disjoint(name, &[source, other]),
        6 => builder.merge(name, &[source, other], move |_, rows| {
            let sum: u64 = rows.iter().map(|n| ***n).sum();
            trouble(injected, sum).map(|()| sum % 50)
        }),
        7 => {
            let index =
                builder.index(&format!("index of {name}"), &source, |_, n| [u16::try_from(n % 9).unwrap()]);
            builder.group(name, &index, move |ctx, value, members| {
                let others = ctx.count(&index, &((value + 1) % 9)) as u64;
                let sum: u64 = members.iter().map(|(_, n)| ***n).sum();
                trouble(injected, sum)?;
                Ok::<_, Failure>(Some((sum + others) % 50))
            })
        }
        10 => builder.generate(name, move |ctx| {
            let total = ctx.scan(&source).map(|(_, n)| **n).sum::<u64>();
            trouble(injected, total)?;
            Ok::<_, Failure>(
                (0..total % 5)
                    .map(|step| (u16::try_from(step).unwrap(), total % 10 + step))
                    .collect::<BTreeMap<_, _>>(),
            )
        }),
        _ => builder.join(
            name,
            &source,
            &other,
            |key, n| (n % 4 != 0).then_some(key / 2),
            |_, n, m| Some((n * 3 + m.copied().unwrap_or(1)) % 50),
        ),
    }
}

pub struct World {
    pub graph: Graph,
    pub inputs: Vec<Input<u16, u64>>,
    pub nodes: Vec<Rows>,
    /// Collections of the past, and what they show.
    past: Vec<(Rows, Rows)>,
}

pub fn world(random: &mut Random, injected: bool) -> World {
    world_with(random, injected, |_, _| {})
}

/// A random graph with something more declared at the end.
pub fn world_with(random: &mut Random, injected: bool, more: impl FnOnce(&mut Builder, &[Rows])) -> World {
    let mut builder = Graph::builder();
    let inputs: Vec<Input<u16, u64>> = (0..3).map(|at| builder.input(&format!("input{at}"))).collect();
    let mut nodes: Vec<Rows> = inputs.iter().map(|input| **input).collect();
    let previous: Vec<Previous<u16, u64>> =
        (0..random.below(3)).map(|at| builder.previous(&format!("previous{at}"))).collect();
    nodes.extend(previous.iter().map(|previous| **previous));
    while nodes.len() < 12 {
        let node = grow(&mut builder, random, &nodes, injected);
        nodes.push(node);
    }
    more(&mut builder, &nodes);
    let mut past = Vec::new();
    for previous in &previous {
        // Often a later one, so that it goes round.
        let shown = random.pick(&nodes);
        builder.previous_of(previous, &shown);
        past.push((**previous, shown));
    }
    World { graph: builder.seal().unwrap(), inputs, nodes, past }
}

impl World {
    pub fn step(&mut self, random: &mut Random) {
        let mut tx = self.graph.transaction();
        for _ in 0..=random.below(6) {
            let input = random.pick(&self.inputs);
            let key = u16::try_from(random.below(24)).unwrap();
            match random.below(8) {
                0 | 1 => tx.delete(&input, &key),
                2 => tx.touch(&input, &key),
                _ => tx.put(&input, key, random.below(50)),
            }
        }
        if random.below(30) == 0 {
            tx.reset(&self.inputs[0], (0..8).map(|key| (key, u64::from(key))));
        }
        tx.commit();
    }
}

/// The injected panics are on purpose; say nothing of them.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    silencing("injected", work)
}

/// As [`quietly`], for the panics of the soak.
pub fn quietly_all<T>(work: impl FnOnce() -> T) -> T {
    silencing("an image that makes runs panic", work)
}

fn silencing<T>(expected: &'static str, work: impl FnOnce() -> T) -> T {
    static HOOK: Mutex<()> = Mutex::new(());
    let _held = HOOK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let usual = Arc::new(std::panic::take_hook());
    let kept = Arc::clone(&usual);
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str().is_none_or(|text| text != expected) {
            kept(info);
        }
    }));
    let result = work();
    drop(std::panic::take_hook());
    result
}

fn compare_with_scratch(seeds: std::ops::Range<u64>, injected: bool) {
    for seed in seeds {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut world = world(&mut random, injected);
        for step in 0..60 {
            let before = world.graph.snapshot();
            world.step(&mut random);
            assert_eq!(world.graph.verify(), [], "seed {seed}, step {step}\n{}", world.graph.dot());
            for (past, shown) in world.past.iter().filter(|_| world.graph.revision() > before.revision()) {
                let then: Vec<(u16, u64)> = before.rows(shown).map(|(key, n)| (*key, **n)).collect();
                assert_eq!(rows(&world.graph, past), then, "seed {seed}, step {step}");
            }
        }
    }
}

#[test]
fn c171_random_graphs_equal_a_recomputation_after_every_commit() {
    compare_with_scratch(1..60, false);
}

#[test]
fn c172_also_with_errors_and_panics() {
    quietly(|| compare_with_scratch(100..160, true));
}

#[test]
fn c173_a_subscriber_that_lags_ends_up_with_the_snapshot() {
    for seed in 1..30u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut world = world(&mut random, false);
        let mut changes = world.graph.subscribe(&Subscribe::all().with_initial().capacity(4));
        let mut copies: Vec<BTreeMap<u16, u64>> = vec![BTreeMap::new(); world.nodes.len()];
        let mut lagged = 0;
        for _ in 0..120 {
            world.step(&mut random);
            if random.below(4) > 0 {
                continue;
            }
            while let Some(event) = changes.try_next() {
                for (copy, node) in copies.iter_mut().zip(&world.nodes) {
                    match &event {
                        Event::Batch(batch) => {
                            for change in batch.changes(node) {
                                let old = match &change.new {
                                    Some(new) => copy.insert(change.key, **new),
                                    None => copy.remove(&change.key),
                                };
                                assert_eq!(
                                    old,
                                    change.old.as_deref().copied(),
                                    "old is what the reader holds"
                                );
                            }
                        }
                        Event::Lagged { snapshot, .. } => {
                            *copy = snapshot.rows(node).map(|(key, n)| (*key, **n)).collect();
                        }
                    }
                }
                lagged += u32::from(matches!(event, Event::Lagged { .. }));
            }
            for (copy, node) in copies.iter().zip(&world.nodes) {
                assert!(rows(&world.graph, node).into_iter().eq(copy.iter().map(|(key, n)| (*key, *n))));
            }
        }
        assert!(lagged > 0);
    }
}

#[test]
fn c171_the_oracle_finds_a_transform_that_is_not_pure() {
    // The one thing the engine cannot prevent: a transform that looks at something else than its context.
    let hidden = Arc::new(Mutex::new(1u64));
    let seen = Arc::clone(&hidden);
    let mut builder = Graph::builder();
    let numbers = builder.input::<u16, u64>("numbers");
    builder.map("impure", &numbers, move |_, n| n + *seen.lock().unwrap());
    let mut graph = builder.seal().unwrap();
    put(&mut graph, &numbers, 4, 10);
    assert_eq!(graph.verify(), []);
    *hidden.lock().unwrap() = 2;
    let differences = graph.verify();
    assert_eq!(differences.len(), 1);
    let found = &differences[0];
    assert_eq!((found.collection.as_str(), found.key.as_str()), ("impure", "4"));
    assert_eq!((found.incremental.as_str(), found.recomputed.as_str()), ("Some(11)", "Some(12)"));
}
