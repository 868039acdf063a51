//! Declaring a graph. Every method gives a handle at once; mistakes are reported by [`Builder::seal`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ctx::Selector;
use crate::few::Few;
use crate::graph::Parts;
use crate::input::InputLogic;
use crate::logic::{Always, Derived, Driver, IndexDriver, Logic, Plan, Ran, RowDriver, Run};
use crate::map::OrdMap;
use crate::pair::Pair;
use crate::state::{AnyErrors, AnyState, Errors, Extract, IndexState, State, state_mut};
use crate::watch::{AnyWatch, Watch};
use crate::{
    Collection, Ctx, Error, Failure, Graph, Index, Input, Key, LabelIndex, Labels, Many, NodeId, One,
    SelectorIndex, Value,
};

static GRAPHS: AtomicU64 = AtomicU64::new(0);

/// A graph under construction. A transform can capture only handles that exist already, so the graph has no cycles.
pub struct Builder {
    id: u64,
    names: Vec<String>,
    index_names: BTreeSet<String>,
    states: Vec<Arc<dyn AnyState>>,
    watches: Vec<Box<dyn AnyWatch>>,
    logics: Vec<Box<dyn Logic>>,
    unsynced: BTreeSet<u32>,
    /// Collections of the past that have not been told what they show.
    pub(crate) unfed: BTreeMap<u32, String>,
    /// Each collection of the past, and what it shows.
    pub(crate) feeds: Vec<(u32, u32)>,
    cutoffs_checked: bool,
    error: Option<Error>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            id: GRAPHS.fetch_add(1, Ordering::Relaxed),
            names: Vec::new(),
            index_names: BTreeSet::new(),
            states: Vec::new(),
            watches: Vec::new(),
            logics: Vec::new(),
            unsynced: BTreeSet::new(),
            unfed: BTreeMap::new(),
            feeds: Vec::new(),
            cutoffs_checked: false,
            error: None,
        }
    }

    /// An input that counts as synced from the start.
    pub fn input<K: Key, V: Value>(&mut self, name: &str) -> Input<K, V> {
        Input(self.add(name, Box::new(InputLogic::<K, V>::new()), Box::new(Errors::<K>(OrdMap::default()))))
    }

    /// An input that is not synced until [`Transaction::mark_synced`](crate::Transaction::mark_synced).
    pub fn input_unsynced<K: Key, V: Value>(&mut self, name: &str) -> Input<K, V> {
        let input = self.input(name);
        self.unsynced.insert(input.0.id.node);
        input
    }

    /// Replace equality as the cutoff of a collection: `same(old, new)` true means no change. It must not ignore what
    /// a transform reads.
    pub fn cutoff<K: Key, V: Value>(
        &mut self,
        collection: &Collection<K, V>,
        same: impl Fn(&V, &V) -> bool + Send + Sync + 'static,
    ) {
        if let Some(state) = self.state(collection, "cutoff") {
            state.same = Arc::new(same);
        }
    }

    /// For tests: let [`Graph::verify`] find cutoffs that ignore what a transform reads. Every input then remembers the
    /// last row that counted as no change, the oracle computes from that one, and what comes out differently is
    /// reported. (A derived collection's cutoff is checked so without being asked to.)
    pub fn check_cutoffs(&mut self) {
        self.cutoffs_checked = true;
    }

    /// An index of a collection by zero or more values per row.
    pub fn index<K: Key, V: Value, T: IntoIterator>(
        &mut self,
        name: &str,
        source: &Collection<K, V>,
        extract: impl Fn(&K, &V) -> T + Send + Sync + 'static,
    ) -> Index<K, V, T::Item>
    where
        T::Item: Key,
    {
        self.add_index(name, source, Arc::new(move |key, row, out| out.extend(extract(key, row))), None)
    }

    /// An inverted index of labels: `extract` gives a row's scope and labels. No label's name is empty.
    pub fn labels<K: Key, V: Value, S: Key>(
        &mut self,
        name: &str,
        source: &Collection<K, V>,
        extract: impl Fn(&K, &V) -> (S, Labels) + Send + Sync + 'static,
    ) -> LabelIndex<K, V, S> {
        let extract: Extract<K, V, Pair<S>> = Arc::new(move |key, row, out| {
            let (scope, labels) = extract(key, row);
            out.push(Pair::whole(&scope));
            out.extend(Pair::all(&scope, &labels));
        });
        LabelIndex(self.add_index(name, source, extract, None))
    }

    /// An inverted index of selectors: `extract` gives a row's scope and selector (`None` selects nothing).
    pub fn selectors<K: Key, V: Value, S: Key>(
        &mut self,
        name: &str,
        source: &Collection<K, V>,
        extract: impl Fn(&K, &V) -> (S, Option<Labels>) + Send + Sync + 'static,
    ) -> SelectorIndex<K, V, S> {
        let selector: Selector<K, V, S> = Arc::new(extract);
        let of_row = Arc::clone(&selector);
        // One pair of the selector is enough to be found by every set of labels that satisfies it; a second one says
        // that there is more to look at than the first.
        let extract: Extract<K, V, Pair<S>> = Arc::new(move |key, row, out| {
            let (scope, selector) = of_row(key, row);
            let Some(selector) = selector else { return };
            if selector.is_empty() {
                out.push(Pair::whole(&scope));
            }
            out.extend(Pair::all(&scope, &selector).take(2));
        });
        SelectorIndex(self.add_index(name, source, extract, Some(Arc::new(selector))))
    }

    /// One run per source row, giving at most one row under the same key.
    pub fn derive<K: Key, V: Value, O: One>(
        &mut self,
        name: &str,
        source: &Collection<K, V>,
        transform: impl Fn(&Ctx<'_>, &K, &V) -> O + Send + Sync + 'static,
    ) -> Collection<K, O::Value> {
        let of = *source;
        let run: Run<K, K, O::Value> = Arc::new(move |ctx, key| match ctx.state(&of).get(key) {
            Some(row) => one(key, transform(ctx, key, row)),
            None => Ran::Gone,
        });
        self.add_derived(name, "derive", RowDriver::<K, V>::new(vec![of.id.node]), run, &[of.id], false)
    }

    /// One run per source row, giving any number of rows with keys of their own. When two source keys give the same
    /// key, the first by key order owns it and the other's row is hidden (visible in `explain`).
    pub fn derive_many<K: Key, V: Value, O: Many>(
        &mut self,
        name: &str,
        source: &Collection<K, V>,
        transform: impl Fn(&Ctx<'_>, &K, &V) -> O + Send + Sync + 'static,
    ) -> Collection<O::Key, O::Value> {
        let of = *source;
        let run: Run<K, O::Key, O::Value> = Arc::new(move |ctx, key| match ctx.state(&of).get(key) {
            Some(row) => many(transform(ctx, key, row)),
            None => Ran::Gone,
        });
        self.add_derived(name, "derive_many", RowDriver::<K, V>::new(vec![of.id.node]), run, &[of.id], true)
    }

    /// At most one row, computed from what it reads.
    pub fn singleton<O: One>(
        &mut self,
        name: &str,
        transform: impl Fn(&Ctx<'_>) -> O + Send + Sync + 'static,
    ) -> Collection<(), O::Value> {
        let run: Run<(), (), O::Value> = Arc::new(move |ctx, key| one(key, transform(ctx)));
        self.add_derived(name, "singleton", Always, run, &[], false)
    }

    /// Any number of rows, computed by one run from what it reads.
    pub fn generate<O: Many>(
        &mut self,
        name: &str,
        transform: impl Fn(&Ctx<'_>) -> O + Send + Sync + 'static,
    ) -> Collection<O::Key, O::Value> {
        let run: Run<(), O::Key, O::Value> = Arc::new(move |ctx, ()| many(transform(ctx)));
        self.add_derived(name, "generate", Always, run, &[], true)
    }

    /// Every row, mapped. Keys stay.
    pub fn map<K: Key, V: Value, O: Value>(
        &mut self,
        name: &str,
        source: &Collection<K, V>,
        map: impl Fn(&K, &V) -> O + Send + Sync + 'static,
    ) -> Collection<K, O> {
        let of = *source;
        let run: Run<K, K, O> = Arc::new(move |ctx, key| match ctx.state(&of).get(key) {
            Some(row) => Ran::Rows(Few::One((key.clone(), Arc::new(map(key, row))))),
            None => Ran::Gone,
        });
        self.add_derived(name, "map", RowDriver::<K, V>::new(vec![of.id.node]), run, &[of.id], false)
    }

    /// The rows that pass, shared and not copied.
    pub fn filter<K: Key, V: Value>(
        &mut self,
        name: &str,
        source: &Collection<K, V>,
        predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> Collection<K, V> {
        let of = *source;
        let run: Run<K, K, V> = Arc::new(move |ctx, key| match ctx.state(&of).get(key) {
            Some(row) if predicate(key, row) => Ran::Rows(Few::One((key.clone(), Arc::clone(row)))),
            Some(_) => Ran::Rows(Few::default()),
            None => Ran::Gone,
        });
        self.add_derived(name, "filter", RowDriver::<K, V>::new(vec![of.id.node]), run, &[of.id], false)
    }

    /// One run per index value that has members, which come in key order. The row goes when the last member goes.
    pub fn group<K: Key, V: Value, I: Key, O: One>(
        &mut self,
        name: &str,
        index: &Index<K, V, I>,
        transform: impl Fn(&Ctx<'_>, &I, &[(&K, &Arc<V>)]) -> O + Send + Sync + 'static,
    ) -> Collection<I, O::Value> {
        let of = *index;
        let run: Run<I, I, O::Value> =
            Arc::new(move |ctx, value| match ctx.index_state(&of).groups.get(value) {
                Some(group) => {
                    let members: Vec<(&K, &Arc<V>)> = group.iter().collect();
                    one(value, transform(ctx, value, &members))
                }
                None => Ran::Gone,
            });
        let source = of.source.id;
        let extract = self.extract_of(&of, name);
        let driver = IndexDriver { node: [source.node], index: of.slot, extract };
        self.add_derived(name, "group", driver, run, &[source], false)
    }

    /// Equi-join: for every left row, the right row at the key that `on` names (`None`: no partner asked for or there).
    pub fn join<K: Key, L: Value, RK: Key, R: Value, O: One>(
        &mut self,
        name: &str,
        left: &Collection<K, L>,
        right: &Collection<RK, R>,
        on: impl Fn(&K, &L) -> Option<RK> + Send + Sync + 'static,
        combine: impl Fn(&K, &L, Option<&R>) -> O + Send + Sync + 'static,
    ) -> Collection<K, O::Value> {
        let (of, partners) = (*left, *right);
        let run: Run<K, K, O::Value> = Arc::new(move |ctx, key| match ctx.state(&of).get(key) {
            Some(row) => {
                let partner = on(key, row).and_then(|partner| ctx.get(&partners, &partner));
                one(key, combine(key, row, partner.map(Arc::as_ref)))
            }
            None => Ran::Gone,
        });
        self.check(partners.id, name);
        self.add_derived(name, "join", RowDriver::<K, L>::new(vec![of.id.node]), run, &[of.id], false)
    }

    /// All rows of the members; of a key in several, the first member's row.
    pub fn union<K: Key, V: Value>(&mut self, name: &str, members: &[Collection<K, V>]) -> Collection<K, V> {
        let of = members.to_vec();
        let run: Run<K, K, V> =
            Arc::new(move |ctx, key| match of.iter().find_map(|member| ctx.state(member).get(key)) {
                Some(row) => Ran::Rows(Few::One((key.clone(), Arc::clone(row)))),
                None => Ran::Gone,
            });
        self.add_members(name, "union", members, run)
    }

    /// All rows of members that must not overlap; a key in several is that key's error.
    pub fn union_disjoint<K: Key, V: Value>(
        &mut self,
        name: &str,
        members: &[Collection<K, V>],
    ) -> Collection<K, V> {
        let of = members.to_vec();
        let run: Run<K, K, V> = Arc::new(move |ctx, key| {
            let rows: Vec<&Arc<V>> = of.iter().filter_map(|member| ctx.state(member).get(key)).collect();
            match rows.as_slice() {
                [] => Ran::Gone,
                [row] => Ran::Rows(Few::One((key.clone(), Arc::clone(row)))),
                more => Ran::Failed(Failure::err(format!(
                    "key {key:?} is in {} members of a disjoint union",
                    more.len()
                ))),
            }
        });
        self.add_members(name, "union_disjoint", members, run)
    }

    /// One row per key in any member, made from the rows there are, in the order of the members (never none).
    pub fn merge<K: Key, V: Value, O: Value>(
        &mut self,
        name: &str,
        members: &[Collection<K, V>],
        merge: impl Fn(&K, &[&Arc<V>]) -> Result<O, Failure> + Send + Sync + 'static,
    ) -> Collection<K, O> {
        let of = members.to_vec();
        let run: Run<K, K, O> = Arc::new(move |ctx, key| {
            let rows: Vec<&Arc<V>> = of.iter().filter_map(|member| ctx.state(member).get(key)).collect();
            if rows.is_empty() { Ran::Gone } else { one(key, merge(key, &rows).map(Some)) }
        });
        self.add_members(name, "merge", members, run)
    }

    /// Check the declarations, compute what needs no input, and hand over the engine at revision 0.
    pub fn seal(mut self) -> Result<Graph, Error> {
        if let Some((_, name)) = self.unfed.pop_first() {
            self.fail(Error::Previous(name));
        }
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.cutoffs_checked {
            self.logics.iter_mut().for_each(|logic| logic.check_cutoffs());
        }
        let Self { id, names, states, watches, logics, unsynced, feeds, .. } = self;
        Ok(Graph::start(Parts { id, names, states, watches, logics, unsynced, feeds }, None))
    }

    pub(crate) fn name_of(&self, id: NodeId) -> String {
        self.names.get(id.node as usize).cloned().unwrap_or_default()
    }

    pub(crate) fn add<K: Key, V: Value>(
        &mut self,
        name: &str,
        logic: Box<dyn Logic>,
        errors: Box<dyn AnyErrors>,
    ) -> Collection<K, V> {
        if self.names.iter().any(|held| held == name) {
            self.fail(Error::DuplicateCollection(name.to_owned()));
        }
        let node = u32::try_from(self.names.len()).expect("a graph has fewer than 2^32 collections");
        self.names.push(name.to_owned());
        self.states.push(Arc::new(State::<K, V>::new(errors)));
        self.watches.push(Box::new(Watch::<K, V>::new()));
        self.logics.push(logic);
        Collection::new(self.id, node)
    }

    pub(crate) fn add_derived<S: Key, K: Key, V: Value>(
        &mut self,
        name: &str,
        kind: &'static str,
        driver: impl Driver<S> + 'static,
        run: Run<S, K, V>,
        sources: &[NodeId],
        many: bool,
    ) -> Collection<K, V> {
        for source in sources {
            self.check(*source, name);
        }
        let initial = driver.initial();
        let plan = Plan { kind, driver: Arc::new(driver), run, many, initial };
        self.add(name, Box::new(Derived::new(Arc::new(plan))), Box::new(Errors::<S>(OrdMap::default())))
    }

    fn add_members<K: Key, V: Value, O: Value>(
        &mut self,
        name: &str,
        kind: &'static str,
        members: &[Collection<K, V>],
        run: Run<K, K, O>,
    ) -> Collection<K, O> {
        if members.is_empty() {
            self.fail(Error::NoMembers(name.to_owned()));
        }
        let ids: Vec<NodeId> = members.iter().map(|member| member.id).collect();
        let driver = RowDriver::<K, V>::new(ids.iter().map(|id| id.node).collect());
        self.add_derived(name, kind, driver, run, &ids, false)
    }

    fn add_index<K: Key, V: Value, I: Key>(
        &mut self,
        name: &str,
        source: &Collection<K, V>,
        extract: Extract<K, V, I>,
        selector: Option<Arc<dyn std::any::Any + Send + Sync>>,
    ) -> Index<K, V, I> {
        if !self.index_names.insert(name.to_owned()) {
            self.fail(Error::DuplicateIndex(name.to_owned()));
        }
        let Some(state) = self.state(source, name) else { return Index::new(*source, 0) };
        let slot = u32::try_from(state.indexes.len()).expect("a collection has fewer than 2^32 indexes");
        state.indexes.push(Box::new(IndexState::new(extract, selector)));
        if let Some(watch) = self.watches[source.id.node as usize].as_any_mut().downcast_mut::<Watch<K, V>>()
        {
            watch.add_index::<I>(name);
        }
        Index::new(*source, slot)
    }

    pub(crate) fn state<K: Key, V: Value>(
        &mut self,
        collection: &Collection<K, V>,
        user: &str,
    ) -> Option<&mut State<K, V>> {
        self.check(collection.id, user).then(|| state_mut(&mut self.states[collection.id.node as usize]))
    }

    pub(crate) fn check(&mut self, id: NodeId, user: &str) -> bool {
        let own = id.graph == self.id;
        if !own {
            self.fail(Error::ForeignHandle(user.to_owned()));
        }
        own
    }

    /// The first mistake is the one reported: later ones may follow from it.
    pub(crate) fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }
}

pub(crate) fn one<K: Key, O: One>(key: &K, result: O) -> Ran<K, O::Value> {
    match result.into_one() {
        Ok(row) => Ran::Rows(row.map(|row| (key.clone(), Arc::new(row))).into()),
        Err(failure) => Ran::Failed(failure),
    }
}

fn many<O: Many>(result: O) -> Ran<O::Key, O::Value> {
    match result.into_many() {
        Ok(rows) => {
            let rows: Vec<_> = rows.into_iter().map(|(key, row)| (key, Arc::new(row))).collect();
            Ran::Rows(rows.into())
        }
        Err(failure) => Ran::Failed(failure),
    }
}
