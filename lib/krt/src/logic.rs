//! The logic of a collection: how its rows follow from those declared before it. [`Derived`] is the one engine behind
//! every operator: a *driver* says which source keys a change made dirty, a *run* gives the rows of one source key.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ctx::Ctx;
use crate::few::Few;
use crate::held::{Held, own_key};
use crate::map::OrdMap;
use crate::readers::Reader;
use crate::state::{AnyDelta, AnyState, Delta, ErrorChange, Errors, State, guarded, state_mut, state_of};
use crate::verify::Recheck;
use crate::watch::{AnyKey, AnyWatch, Fired, Read, Watch};
use crate::{Change, Counters, Failure, Key, KeyError, Revision, Value};

/// What a collection may touch while it is brought up to date: its own state, and those before it.
pub(crate) struct Env<'a> {
    pub(crate) graph: u64,
    pub(crate) node: u32,
    pub(crate) revision: Revision,
    /// Up to and including the collection's own.
    pub(crate) states: &'a mut [Arc<dyn AnyState>],
    pub(crate) watches: &'a mut [Box<dyn AnyWatch>],
    pub(crate) deltas: &'a [Option<Arc<dyn AnyDelta>>],
    pub(crate) dirty: &'a mut [Vec<u32>],
    /// When the oracle recomputes: the logic whose results it checks.
    pub(crate) checked: Option<&'a dyn Logic>,
}

impl Env<'_> {
    pub(crate) fn own_state(&self) -> &Arc<dyn AnyState> {
        &self.states[self.node as usize]
    }

    /// Take changes, sorted by key, into the collection's own rows and indexes, and mark who read them.
    pub(crate) fn apply<K: Key, V: Value>(&mut self, delta: Delta<K, V>) -> Option<Arc<dyn AnyDelta>> {
        if delta.changes.is_empty() && delta.errors.is_empty() {
            return None;
        }
        if !delta.changes.is_empty() {
            let node = self.node as usize;
            let watch = self.watches[node].as_any_mut().downcast_mut::<Watch<K, V>>();
            let watch = watch.expect("a collection's watch has the collection's types");
            let mut fired = Fired { revision: self.revision, dirty: self.dirty };
            state_mut::<K, V>(&mut self.states[node]).apply(&delta.changes, watch, &mut fired);
        }
        Some(Arc::new(delta))
    }
}

/// What is known of the last run for one source key.
pub(crate) struct Trace {
    pub(crate) ran_at: Revision,
    pub(crate) reads: Vec<Read>,
    pub(crate) source_key: String,
    /// What caused the last run, besides `reads` that fired: rows that drive it, and reads that it did not make again.
    pub(crate) causes: Vec<Cause>,
    /// Source keys that claim the same output key and are not shown.
    pub(crate) hidden: Vec<String>,
    pub(crate) error: Option<Arc<KeyError>>,
}

/// A row whose change caused a run.
#[derive(Clone)]
pub(crate) struct Cause {
    pub(crate) node: u32,
    pub(crate) key: Arc<dyn AnyKey>,
}

/// A collection's logic without its types.
pub(crate) trait Logic: Any + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn kind(&self) -> &'static str;
    /// The same declaration without results.
    fn fresh(&self) -> Box<dyn Logic>;
    /// Whether the changes of its drivers, or what was staged, concern it.
    fn is_due(&self, deltas: &[Option<Arc<dyn AnyDelta>>]) -> bool;
    fn abort(&mut self) {}
    /// Stage every row of a state (inputs of the oracle's copy). `checked` is the logic that is checked.
    fn stage_all(&mut self, _state: &Arc<dyn AnyState>, _checked: &dyn Logic) {}
    /// What the collection whose past this one shows has changed in this revision.
    fn feed(&mut self, _delta: Option<&Arc<dyn AnyDelta>>) {}
    /// Remember rows that the cutoff held back.
    fn check_cutoffs(&mut self) {}
    fn process(&mut self, env: Env<'_>) -> Option<Arc<dyn AnyDelta>>;
    fn counters(&self) -> Counters;
    /// Bytes kept of runs, from the accounts or counted anew.
    fn memory(&self, _recount: bool) -> usize {
        0
    }
    /// Run some source keys again, aside, and report what differs.
    fn recheck(&self, _check: &mut Recheck<'_>) {}
    /// The collections that drive it.
    fn sources(&self) -> Vec<u32>;
    /// The collections that its runs have ever read.
    fn read_nodes(&self) -> Vec<u32>;
    /// The run behind an output key.
    fn trace(&self, key: &dyn Any, states: &[Arc<dyn AnyState>]) -> Option<Trace>;
    fn each_entry(&self, visit: &mut dyn FnMut(Trace));
}

/// Which source keys the changes of a commit concern.
pub(crate) trait Driver<S>: Send + Sync {
    fn dirty(&self, deltas: &[Option<Arc<dyn AnyDelta>>], states: &[Arc<dyn AnyState>], out: &mut Vec<S>);
    fn nodes(&self) -> &[u32];
    /// Source keys that exist without any row.
    fn initial(&self) -> Vec<S> {
        Vec::new()
    }
    /// The rows whose change in a revision made this source key dirty, as far as they still exist.
    fn causes(&self, source_key: &S, states: &[Arc<dyn AnyState>], revision: Revision) -> Vec<Cause>;
}

/// Rows of one or several collections with one key type.
pub(crate) struct RowDriver<K, V> {
    nodes: Vec<u32>,
    marker: std::marker::PhantomData<fn() -> (K, V)>,
}

impl<K, V> RowDriver<K, V> {
    pub(crate) fn new(nodes: Vec<u32>) -> Self {
        Self { nodes, marker: std::marker::PhantomData }
    }
}

impl<K: Key, V: Value> Driver<K> for RowDriver<K, V> {
    fn dirty(&self, deltas: &[Option<Arc<dyn AnyDelta>>], _states: &[Arc<dyn AnyState>], out: &mut Vec<K>) {
        for node in &self.nodes {
            let delta = deltas[*node as usize]
                .as_ref()
                .and_then(|delta| delta.as_ref().as_any().downcast_ref::<Delta<K, V>>());
            if let Some(delta) = delta {
                out.extend(delta.changes.iter().map(|change| change.key.clone()));
            }
        }
    }

    fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    fn causes(&self, source_key: &K, states: &[Arc<dyn AnyState>], revision: Revision) -> Vec<Cause> {
        let changed = self.nodes.iter().filter(|node| {
            let state: &State<K, V> = state_of(&states[**node as usize]);
            state.rows.get(source_key).is_some_and(|row| row.changed_at == revision)
        });
        changed.map(|node| Cause { node: *node, key: Arc::new(source_key.clone()) }).collect()
    }
}

/// The values of an index.
pub(crate) struct IndexDriver<K, V, I> {
    pub(crate) node: [u32; 1],
    pub(crate) index: u32,
    pub(crate) extract: crate::state::Extract<K, V, I>,
}

impl<K: Key, V: Value, I: Key> Driver<I> for IndexDriver<K, V, I> {
    fn dirty(&self, deltas: &[Option<Arc<dyn AnyDelta>>], _states: &[Arc<dyn AnyState>], out: &mut Vec<I>) {
        let delta = deltas[self.node[0] as usize].as_ref();
        let Some(delta) = delta.and_then(|delta| delta.as_ref().as_any().downcast_ref::<Delta<K, V>>())
        else {
            return;
        };
        for change in &delta.changes {
            for row in change.old.iter().chain(&change.new) {
                // A row the extractor panics on is in no group; the index reports it.
                let mut values = Vec::new();
                if guarded(|| (self.extract)(&change.key, row, &mut values)).is_ok() {
                    out.append(&mut values);
                }
            }
        }
    }

    fn nodes(&self) -> &[u32] {
        &self.node
    }

    fn causes(&self, source_key: &I, states: &[Arc<dyn AnyState>], revision: Revision) -> Vec<Cause> {
        let state: &State<K, V> = state_of(&states[self.node[0] as usize]);
        let group = state.index::<I>(self.index).and_then(|index| index.groups.get(source_key));
        let members = group.into_iter().flat_map(|group| group.iter().map(|(key, _)| key));
        let changed = members.filter(|key| state.rows.get(key).is_some_and(|row| row.changed_at == revision));
        changed.map(|key| Cause { node: self.node[0], key: Arc::new(key.clone()) }).collect()
    }
}

/// One run that exists always.
pub(crate) struct Always;

impl Driver<()> for Always {
    fn dirty(&self, _: &[Option<Arc<dyn AnyDelta>>], _: &[Arc<dyn AnyState>], _: &mut Vec<()>) {}

    fn nodes(&self) -> &[u32] {
        &[]
    }

    fn initial(&self) -> Vec<()> {
        vec![()]
    }

    fn causes(&self, (): &(), _states: &[Arc<dyn AnyState>], _revision: Revision) -> Vec<Cause> {
        Vec::new()
    }
}

/// The result of running one source key.
pub(crate) enum Ran<K, V> {
    /// The source key is gone, and its rows with it.
    Gone,
    Rows(Few<(K, Arc<V>)>),
    Failed(Failure),
}

pub(crate) type Run<S, K, V> = Arc<dyn Fn(&Ctx<'_>, &S) -> Ran<K, V> + Send + Sync>;

/// The declaration of a derived collection.
pub(crate) struct Plan<S, K, V> {
    pub(crate) kind: &'static str,
    pub(crate) driver: Arc<dyn Driver<S>>,
    pub(crate) run: Run<S, K, V>,
    /// Whether source keys give rows with keys of their own, which may collide.
    pub(crate) many: bool,
    /// Source keys to run once at the start, without a change.
    pub(crate) initial: Vec<S>,
}

struct Entry<S, K, V> {
    source_key: S,
    rows: Held<K, V>,
    /// Sorted.
    reads: Few<Read>,
    ran_at: Revision,
    rare: Option<Box<Rare>>,
}

/// What hardly any run has.
#[derive(Default)]
struct Rare {
    error: Option<Arc<KeyError>>,
    former_causes: Box<[Cause]>,
}

impl<S, K, V> Entry<S, K, V> {
    fn error(&self) -> Option<&Arc<KeyError>> {
        self.rare.as_ref()?.error.as_ref()
    }

    fn former_causes(&self) -> &[Cause] {
        self.rare.as_ref().map_or(&[], |rare| &rare.former_causes)
    }

    fn change_rare(&mut self, change: impl FnOnce(&mut Rare)) {
        let mut rare = self.rare.take().unwrap_or_default();
        change(&mut rare);
        self.rare = Some(rare).filter(|rare| rare.error.is_some() || !rare.former_causes.is_empty());
    }
}

pub(crate) struct Derived<S, K, V> {
    plan: Arc<Plan<S, K, V>>,
    slots: OrdMap<S, u32>,
    entries: Vec<Option<Entry<S, K, V>>>,
    free: Vec<u32>,
    /// Of a `many` plan: the source keys that give each key; the first one's row is shown.
    owners: BTreeMap<K, Few<S>>,
    started: bool,
    /// Sorted.
    read_nodes: Vec<u32>,
    /// Room for what a run reads, so that not every run takes its own.
    reading: Vec<Read>,
    runs: u64,
    suppressed: u64,
    dirty: u64,
    /// Rows of all entries.
    held: usize,
}

/// How many reads there stays room for.
const READING: usize = 1024;

/// What the runs of one commit have changed so far.
struct Outcome<S, K, V> {
    /// Source keys that have got a slot, in order; they are taken in together at the end.
    new: Vec<(S, u32)>,
    changes: Vec<Change<K, V>>,
    errors: Vec<ErrorChange>,
    /// Keys of a `many` plan whose owner or owner's row may have changed.
    touched: BTreeSet<K>,
}

impl<S: Key, K: Key, V: Value> Derived<S, K, V> {
    pub(crate) fn new(plan: Arc<Plan<S, K, V>>) -> Self {
        Self {
            plan,
            slots: OrdMap::default(),
            entries: Vec::new(),
            free: Vec::new(),
            owners: BTreeMap::new(),
            started: false,
            read_nodes: Vec::new(),
            reading: Vec::new(),
            runs: 0,
            suppressed: 0,
            dirty: 0,
            held: 0,
        }
    }

    fn entry(&self, source_key: &S) -> Option<&Entry<S, K, V>> {
        self.slots.get(source_key).and_then(|slot| self.entries[*slot as usize].as_ref())
    }

    /// The slot of a source key, made when it has none.
    fn slot(&mut self, source_key: &S, env: &Env<'_>, outcome: &mut Outcome<S, K, V>) -> u32 {
        if let Some(slot) = self.slots.get(source_key) {
            return *slot;
        }
        let entry = Some(Entry {
            source_key: source_key.clone(),
            rows: Held::None,
            reads: Few::default(),
            ran_at: env.revision,
            rare: None,
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                crate::slots::push(&mut self.entries, entry);
                u32::try_from(self.entries.len() - 1).expect("a collection has fewer than 2^32 source keys")
            }
        };
        outcome.new.push((source_key.clone(), slot));
        slot
    }

    /// Forget a source key that ran just now.
    fn forget(&mut self, source_key: &S, slot: u32, outcome: &mut Outcome<S, K, V>) {
        if outcome.new.pop_if(|(_, new)| *new == slot).is_none() {
            self.slots.remove(source_key);
        }
        self.entries[slot as usize] = None;
        self.free.push(slot);
    }

    fn dirty_keys(&mut self, env: &mut Env<'_>) -> Vec<S> {
        let mut keys = Vec::new();
        self.plan.driver.dirty(env.deltas, env.states, &mut keys);
        if !self.started {
            self.started = true;
            keys.extend(self.plan.initial.iter().cloned());
        }
        for slot in std::mem::take(&mut env.dirty[env.node as usize]) {
            if let Some(entry) = &self.entries[slot as usize] {
                keys.push(entry.source_key.clone());
            }
        }
        if !keys.is_sorted() {
            keys.sort();
        }
        keys.dedup();
        keys
    }

    fn run(&mut self, source_key: &S, env: &mut Env<'_>, outcome: &mut Outcome<S, K, V>) {
        self.runs += 1;
        let before = env.node as usize;
        let room = std::mem::take(&mut self.reading);
        let ctx = Ctx::new(env.graph, &env.states[..before], &mut env.watches[..before], room);
        let ran = guarded(|| (self.plan.run)(&ctx, source_key));
        let mut reads = ctx.into_reads();
        reads.sort_unstable();
        reads.dedup();
        let slot = self.slot(source_key, env, outcome);
        self.replace_reads(slot, &reads, env);
        reads.clear();
        self.reading = reads;
        let (ran, panicked) = match ran {
            Ok(ran) => (ran, false),
            Err(failure) => (Ran::Failed(failure), true),
        };
        match ran {
            Ran::Gone => {
                self.replace_rows(slot, Few::default(), env, outcome);
                self.replace_error(slot, None, env, outcome);
                self.replace_reads(slot, &[], env);
                self.forget(source_key, slot, outcome);
            }
            Ran::Rows(rows) => match sorted(rows) {
                Ok(rows) => {
                    self.replace_rows(slot, rows, env, outcome);
                    self.replace_error(slot, None, env, outcome);
                }
                Err(failure) => self.fail(slot, failure, false, env, outcome),
            },
            Ran::Failed(failure) => self.fail(slot, failure, panicked, env, outcome),
        }
    }

    /// The last good rows stay. For the oracle, which has no past, they are those of the logic it checks.
    fn fail(
        &mut self,
        slot: u32,
        failure: Failure,
        panicked: bool,
        env: &Env<'_>,
        outcome: &mut Outcome<S, K, V>,
    ) {
        let entry = self.entries[slot as usize].as_ref();
        let source_key = entry.map(|entry| entry.source_key.clone());
        if let (Some(checked), Some(key)) =
            (env.checked.and_then(|logic| logic.as_any().downcast_ref::<Self>()), &source_key)
            && let Some(held) = checked.entry(key).filter(|held| held.error().is_some())
        {
            self.replace_rows(slot, held.rows.listed(&held.source_key), env, outcome);
        } else {
            self.suppressed += 1;
        }
        self.replace_error(slot, Some((failure, panicked)), env, outcome);
    }

    fn replace_reads(&mut self, slot: u32, reads: &[Read], env: &mut Env<'_>) {
        let Some(entry) = &mut self.entries[slot as usize] else { return };
        entry.ran_at = env.revision;
        if *entry.reads == *reads {
            if !entry.former_causes().is_empty() {
                entry.change_rare(|rare| rare.former_causes = Box::default());
            }
            return;
        }
        let reader = Reader { node: env.node, slot };
        let old = std::mem::replace(&mut entry.reads, reads.into());
        let mut former_causes = Vec::new();
        for read in reads {
            if old.binary_search(read).is_err() {
                env.watches[read.node as usize].add_reader(read.path, reader);
                if let Err(at) = self.read_nodes.binary_search(&read.node) {
                    self.read_nodes.insert(at, read.node);
                }
            }
        }
        for read in &*old {
            if entry.reads.binary_search(read).is_err() {
                let watch = &mut env.watches[read.node as usize];
                if let Some(key) = watch.fired(read.path, env.revision) {
                    former_causes.push(Cause { node: read.node, key });
                }
                watch.remove_reader(read.path, reader);
            }
        }
        if !former_causes.is_empty() || !entry.former_causes().is_empty() {
            entry.change_rare(|rare| rare.former_causes = former_causes.into_boxed_slice());
        }
    }

    fn replace_rows(
        &mut self,
        slot: u32,
        mut rows: Few<(K, Arc<V>)>,
        env: &Env<'_>,
        outcome: &mut Outcome<S, K, V>,
    ) {
        let state: &State<K, V> = state_of(env.own_state());
        let Some(entry) = &mut self.entries[slot as usize] else { return };
        let mut changed = entry.rows.len() != rows.len();
        // An equal value keeps the old allocation, so that unchanged rows stay the same rows to everybody.
        for (key, value) in &mut *rows {
            match entry.rows.get(key) {
                Some(held) if state.is_same(held, value) => *value = Arc::clone(held),
                Some(_) | None => changed = true,
            }
        }
        if !changed {
            self.suppressed += 1;
            return;
        }
        self.held += rows.len();
        self.held -= entry.rows.len();
        if !self.plan.many {
            let key = own_key::<S, K>(&entry.source_key).clone();
            let new = rows.first().map(|(_, value)| Arc::clone(value));
            let old = std::mem::replace(&mut entry.rows, new.clone().map_or(Held::None, Held::Own)).own();
            outcome.changes.push(Change { key, old, new });
            return;
        }
        let old = std::mem::replace(&mut entry.rows, Held::many(rows));
        let source_key = entry.source_key.clone();
        for (key, value) in old.list() {
            match entry.rows.get(key) {
                Some(held) if Arc::ptr_eq(held, value) => {}
                Some(_) => {
                    outcome.touched.insert(key.clone());
                }
                None => {
                    outcome.touched.insert(key.clone());
                    if let Some(owners) = self.owners.get_mut(key) {
                        owners.remove(&source_key);
                        if owners.is_empty() {
                            self.owners.remove(key);
                        }
                    }
                }
            }
        }
        for (key, _) in entry.rows.list().iter().filter(|(key, _)| old.get(key).is_none()) {
            outcome.touched.insert(key.clone());
            self.owners.entry(key.clone()).or_default().put(source_key.clone());
        }
    }

    fn replace_error(
        &mut self,
        slot: u32,
        error: Option<(Failure, bool)>,
        env: &Env<'_>,
        outcome: &mut Outcome<S, K, V>,
    ) {
        let Some(entry) = &mut self.entries[slot as usize] else { return };
        let error = match (entry.error(), error) {
            (None, None) => return,
            (Some(held), Some((failure, panicked)))
                if held.failure == failure && held.panicked == panicked =>
            {
                return;
            }
            (_, error) => error.map(|(failure, panicked)| {
                let key = format!("{:?}", entry.source_key);
                Arc::new(KeyError { key, failure, panicked, since: env.revision })
            }),
        };
        outcome.errors.push((format!("{:?}", entry.source_key), error.clone()));
        entry.change_rare(|rare| rare.error = error);
    }

    /// The changes of keys with several claimants: the first owner's row against the row shown so far.
    fn settle(&self, env: &Env<'_>, outcome: &mut Outcome<S, K, V>) {
        let state: &State<K, V> = state_of(env.own_state());
        for key in std::mem::take(&mut outcome.touched) {
            let owner =
                self.owners.get(&key).and_then(|owners| owners.first()).and_then(|owner| self.entry(owner));
            let new = owner.and_then(|entry| entry.rows.get(&key).cloned());
            let old = state.get(&key).cloned();
            match (&old, &new) {
                (None, None) => continue,
                (Some(old), Some(new)) if state.is_same(old, new) => continue,
                _ => {}
            }
            outcome.changes.push(Change { key, old, new });
        }
    }

    fn trace_entry(&self, entry: &Entry<S, K, V>, states: Option<&[Arc<dyn AnyState>]>) -> Trace {
        let driving = states.map(|states| self.plan.driver.causes(&entry.source_key, states, entry.ran_at));
        Trace {
            ran_at: entry.ran_at,
            reads: entry.reads.to_vec(),
            source_key: format!("{:?}", entry.source_key),
            causes: driving.into_iter().flatten().chain(entry.former_causes().iter().cloned()).collect(),
            hidden: Vec::new(),
            error: entry.error().cloned(),
        }
    }
}

/// Rows sorted by key; the same key twice is an error that names it.
fn sorted<K: Key, V>(mut rows: Few<(K, Arc<V>)>) -> Result<Few<(K, Arc<V>)>, Failure> {
    rows.sort_by(|left, right| left.0.cmp(&right.0));
    match rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Failure::err(format!("two rows of one result have the key {:?}", pair[0].0))),
        None => Ok(rows),
    }
}

impl<S: Key, K: Key, V: Value> Logic for Derived<S, K, V> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn kind(&self) -> &'static str {
        self.plan.kind
    }

    fn fresh(&self) -> Box<dyn Logic> {
        Box::new(Self::new(Arc::clone(&self.plan)))
    }

    fn is_due(&self, deltas: &[Option<Arc<dyn AnyDelta>>]) -> bool {
        !self.started || self.plan.driver.nodes().iter().any(|node| deltas[*node as usize].is_some())
    }

    fn process(&mut self, mut env: Env<'_>) -> Option<Arc<dyn AnyDelta>> {
        let keys = self.dirty_keys(&mut env);
        self.dirty += keys.len() as u64;
        let mut outcome =
            Outcome { new: Vec::new(), changes: Vec::new(), errors: Vec::new(), touched: BTreeSet::new() };
        if self.entries.is_empty() {
            self.entries.reserve_exact(keys.len());
        }
        for key in &keys {
            self.run(key, &mut env, &mut outcome);
        }
        self.slots.extend_sorted(outcome.new.len(), std::mem::take(&mut outcome.new).into_iter());
        self.reading.shrink_to(READING);
        if self.plan.many {
            self.settle(&env, &mut outcome);
        }
        if !outcome.errors.is_empty() {
            let node = env.node as usize;
            let state = state_mut::<K, V>(&mut env.states[node]);
            let errors = state.errors.as_any_mut().downcast_mut::<Errors<S>>();
            let errors = errors.expect("a derived collection's errors are by its source key");
            for key in &keys {
                match self.entry(key).and_then(Entry::error) {
                    Some(error) => errors.0.insert(key.clone(), Arc::clone(error)),
                    None => errors.0.remove(key),
                };
            }
        }
        env.apply(Delta { changes: outcome.changes, errors: outcome.errors })
    }

    fn counters(&self) -> Counters {
        Counters { runs: self.runs, suppressed: self.suppressed, dirty: self.dirty, ..Counters::default() }
    }

    fn memory(&self, recount: bool) -> usize {
        let (keys, rows) = if recount {
            let entries = || self.entries.iter().flatten();
            (entries().count(), entries().map(|entry| entry.rows.len()).sum())
        } else {
            (self.slots.len(), self.held)
        };
        // A row of a plan that is not `many` is in its entry.
        let row = size_of::<(K, Arc<V>)>() + size_of::<(K, Few<S>)>();
        keys * (size_of::<(S, u32)>() + size_of::<Option<Entry<S, K, V>>>())
            + if self.plan.many { rows * row } else { 0 }
    }

    fn recheck(&self, check: &mut Recheck<'_>) {
        for slot in check.turns(self.entries.len()) {
            let Some(entry) = &self.entries[slot] else { continue };
            let (ran, reads) = check.run(|ctx| (self.plan.run)(ctx, &entry.source_key));
            let key = format!("{:?}", entry.source_key);
            let held = entry.rows.listed(&entry.source_key);
            let (rows, error) = match ran {
                Ok(Ran::Gone) => (None, None),
                Ok(Ran::Rows(rows)) => match sorted(rows) {
                    Ok(rows) => (Some(rows), None),
                    Err(failure) => (Some(held.clone()), Some(failure)),
                },
                Ok(Ran::Failed(failure)) | Err(failure) => (Some(held.clone()), Some(failure)),
            };
            let state: &State<K, V> = state_of(&check.states[check.node as usize]);
            let is_same = rows.as_ref().is_some_and(|rows| {
                rows.len() == held.len()
                    && rows
                        .iter()
                        .zip(&*held)
                        .all(|(new, old)| new.0 == old.0 && state.is_same(&old.1, &new.1))
            });
            if !is_same {
                check.differ(&key, &held, &rows);
            }
            let failure = entry.error().map(|error| &error.failure);
            if failure != error.as_ref() {
                check.differ(&key, &failure, &error);
            }
            let (old, new) = (check.describe(&entry.reads), reads);
            if old != new {
                check.differ(&key, &old, &new);
            }
            let lost =
                |(key, value): &&(K, Arc<V>)| !state.get(key).is_some_and(|held| Arc::ptr_eq(held, value));
            if let Some((own, value)) = held.iter().find(lost).filter(|_| !self.plan.many) {
                check.differ(&key, &state.get(own), &Some(value));
            }
        }
    }

    fn sources(&self) -> Vec<u32> {
        self.plan.driver.nodes().to_vec()
    }

    fn read_nodes(&self) -> Vec<u32> {
        self.read_nodes.clone()
    }

    fn trace(&self, key: &dyn Any, states: &[Arc<dyn AnyState>]) -> Option<Trace> {
        if !self.plan.many {
            return self.entry(key.downcast_ref()?).map(|entry| self.trace_entry(entry, Some(states)));
        }
        let mut owners = self.owners.get(key.downcast_ref()?)?.iter();
        let mut trace = self.trace_entry(self.entry(owners.next()?)?, Some(states));
        trace.hidden = owners.map(|owner| format!("{owner:?}")).collect();
        Some(trace)
    }

    fn each_entry(&self, visit: &mut dyn FnMut(Trace)) {
        for (_, slot) in self.slots.iter() {
            if let Some(entry) = &self.entries[*slot as usize] {
                visit(self.trace_entry(entry, None));
            }
        }
    }
}
