//! Operators beyond rows and groups: reductions, joins of many with many, members that come and go, and the past.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::builder::one;
use crate::logic::{Cause, Driver, Ran, Run};
use crate::map::OrdMap;
use crate::previous::PreviousLogic;
use crate::reduce::{Reduce, Reduced};
use crate::state::{AnyDelta, AnyState, Delta, Errors, Extract, State, guarded, state_of};
use crate::{Builder, Collection, Failure, Index, Key, One, Previous, Revision, Value};

/// A row's index values in order; none when the extractor panics, because the row is in no group then.
fn values_of<K, V, I: Key>(extract: &Extract<K, V, I>, key: &K, row: &V) -> Vec<I> {
    let mut values = Vec::new();
    if guarded(|| extract(key, row, &mut values)).is_err() {
        return Vec::new();
    }
    values.sort();
    values.dedup();
    values
}

/// Pairs of rows that share an index value.
struct PairDriver<LK, L, RK, R, J> {
    nodes: [u32; 2],
    left: (Index<LK, L, J>, Extract<LK, L, J>),
    right: (Index<RK, R, J>, Extract<RK, R, J>),
}

fn changes_of<K: Key, V: Value>(deltas: &[Option<Arc<dyn AnyDelta>>], node: u32) -> &[crate::Change<K, V>] {
    let delta = deltas[node as usize].as_ref();
    delta
        .and_then(|delta| delta.as_ref().as_any().downcast_ref::<Delta<K, V>>())
        .map_or(&[], |delta| &delta.changes)
}

fn members<'a, K: Key, V: Value, J: Key>(
    index: &Index<K, V, J>,
    states: &'a [Arc<dyn AnyState>],
    value: &J,
) -> impl Iterator<Item = &'a K> + use<'a, K, V, J> {
    let state: &State<K, V> = state_of(&states[index.source.id.node as usize]);
    let group = state.index::<J>(index.slot).and_then(|index| index.groups.get(value));
    group.into_iter().flat_map(OrdMap::iter).map(|(key, _)| key)
}

impl<LK: Key, L: Value, RK: Key, R: Value, J: Key> Driver<(LK, RK)> for PairDriver<LK, L, RK, R, J> {
    /// A changed row concerns the pairs it makes now with those there are, and those it made with rows that left as well.
    fn dirty(
        &self,
        deltas: &[Option<Arc<dyn AnyDelta>>],
        states: &[Arc<dyn AnyState>],
        out: &mut Vec<(LK, RK)>,
    ) {
        let lefts = changes_of::<LK, L>(deltas, self.nodes[0]);
        let rights = changes_of::<RK, R>(deltas, self.nodes[1]);
        let mut left_behind: BTreeMap<J, Vec<&RK>> = BTreeMap::new();
        for change in rights.iter().filter(|_| !lefts.is_empty()) {
            for value in change.old.iter().flat_map(|row| values_of(&self.right.1, &change.key, row)) {
                left_behind.entry(value).or_default().push(&change.key);
            }
        }
        for change in lefts {
            for row in change.old.iter().chain(&change.new) {
                for value in values_of(&self.left.1, &change.key, row) {
                    let gone = left_behind.get(&value).into_iter().flatten().copied();
                    let partners = members(&self.right.0, states, &value).chain(gone);
                    out.extend(partners.map(|partner| (change.key.clone(), partner.clone())));
                }
            }
        }
        for change in rights {
            for row in change.old.iter().chain(&change.new) {
                for value in values_of(&self.right.1, &change.key, row) {
                    let partners = members(&self.left.0, states, &value);
                    out.extend(partners.map(|partner| (partner.clone(), change.key.clone())));
                }
            }
        }
    }

    fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    fn causes(
        &self,
        (left, right): &(LK, RK),
        states: &[Arc<dyn AnyState>],
        revision: Revision,
    ) -> Vec<Cause> {
        let mut causes = Vec::new();
        let state: &State<LK, L> = state_of(&states[self.nodes[0] as usize]);
        if state.rows.get(left).is_some_and(|row| row.changed_at == revision) {
            causes.push(Cause { node: self.nodes[0], key: Arc::new(left.clone()) });
        }
        let state: &State<RK, R> = state_of(&states[self.nodes[1] as usize]);
        if state.rows.get(right).is_some_and(|row| row.changed_at == revision) {
            causes.push(Cause { node: self.nodes[1], key: Arc::new(right.clone()) });
        }
        causes
    }
}

impl Builder {
    /// One row per index value that has members, from an accumulator: a changed member is one step out and one step in,
    /// however large its group is. ([`Builder::group`] sees all members at once and costs as many.) `add` and `remove`
    /// must be each other's inverse, and the order of members must not matter.
    /// ```
    /// # use krt::Graph;
    /// # let mut builder = Graph::builder();
    /// # let vms = builder.input::<u32, (u32, u64)>("vms"); // host and memory
    /// let by_host = builder.index("by_host", &vms, |_, vm| [vm.0]);
    /// let used = builder.reduce(
    ///     "used",
    ///     &by_host,
    ///     |_host| 0u64,
    ///     |sum, _key, vm| *sum += vm.1,
    ///     |sum, _key, vm| *sum -= vm.1,
    ///     |_host, sum| Some(*sum),
    /// );
    /// ```
    pub fn reduce<K: Key, V: Value, I: Key, A: Send + Sync + 'static, O: One>(
        &mut self,
        name: &str,
        index: &Index<K, V, I>,
        start: impl Fn(&I) -> A + Send + Sync + 'static,
        add: impl Fn(&mut A, &K, &V) + Send + Sync + 'static,
        remove: impl Fn(&mut A, &K, &V) + Send + Sync + 'static,
        finish: impl Fn(&I, &A) -> O + Send + Sync + 'static,
    ) -> Collection<I, O::Value> {
        let extract = self.extract_of(index, name);
        let reduce = Reduce {
            start: Arc::new(start),
            add: Arc::new(add),
            remove: Arc::new(remove),
            finish: Arc::new(move |value, accumulator| finish(value, accumulator).into_one()),
        };
        let logic = Reduced::new(index.source.id.node, index.slot, extract, reduce);
        self.add(name, Box::new(logic), Box::new(Errors::<I>(OrdMap::default())))
    }

    /// Equi-join of many with many: a row for each pair of a left and a right row that share an index value. A changed
    /// row reruns the pairs it is in, and no others.
    pub fn equi_join<LK: Key, L: Value, RK: Key, R: Value, J: Key, O: One>(
        &mut self,
        name: &str,
        left: &Index<LK, L, J>,
        right: &Index<RK, R, J>,
        combine: impl Fn((&LK, &L), (&RK, &R)) -> O + Send + Sync + 'static,
    ) -> Collection<(LK, RK), O::Value> {
        let (lefts, rights) = (left.source, right.source);
        let (left, right) = ((*left, self.extract_of(left, name)), (*right, self.extract_of(right, name)));
        let (of_left, of_right) = (Arc::clone(&left.1), Arc::clone(&right.1));
        let run: Run<(LK, RK), (LK, RK), O::Value> = Arc::new(move |ctx, pair| {
            let (Some(l), Some(r)) = (ctx.state(&lefts).get(&pair.0), ctx.state(&rights).get(&pair.1)) else {
                return Ran::Gone;
            };
            let shared = values_of(&of_right, &pair.1, r);
            if !values_of(&of_left, &pair.0, l).iter().any(|value| shared.binary_search(value).is_ok()) {
                return Ran::Gone;
            }
            one(pair, combine((&pair.0, l), (&pair.1, r)))
        });
        let driver = PairDriver { nodes: [lefts.id.node, rights.id.node], left, right };
        self.add_derived(name, "equi_join", driver, run, &[lefts.id, rights.id], false)
    }

    /// A merge whose members come and go: `source` holds the rows of all members, each under a key of its member, and
    /// `key` says which row of the result it is a part of. Parts come in the order of their own keys, so a key that
    /// begins with the member's number is its priority. One whole member more or less is as its rows by value.
    pub fn merge_by<M: Key, V: Value, K: Key, O: Value>(
        &mut self,
        name: &str,
        source: &Collection<M, V>,
        key: impl Fn(&M, &V) -> K + Send + Sync + 'static,
        merge: impl Fn(&K, &[(&M, &Arc<V>)]) -> Result<O, Failure> + Send + Sync + 'static,
    ) -> Collection<K, O> {
        let parts = self.index(&format!("{name} parts"), source, move |part, row| [key(part, row)]);
        self.group(name, &parts, move |_, key, parts| merge(key, parts).map(Some))
    }

    /// A collection that will show another one as it was a revision ago; [`Builder::previous_of`] says which. It may be
    /// read by what that one is derived from, and by itself: the explicit way to look back, and the only one.
    ///
    /// A change takes one revision to arrive. An empty transaction's commit lets it arrive without any other change.
    pub fn previous<K: Key, V: Value>(&mut self, name: &str) -> Previous<K, V> {
        let logic = PreviousLogic::<K, V>::new();
        let previous = Previous(self.add(name, Box::new(logic), Box::new(Errors::<K>(OrdMap::default()))));
        self.unfed.insert(previous.0.id.node, name.to_owned());
        previous
    }

    /// Say what a [`Builder::previous`] shows. Each is told once.
    pub fn previous_of<K: Key, V: Value>(&mut self, previous: &Previous<K, V>, source: &Collection<K, V>) {
        self.check(source.id, "previous_of");
        if self.check(previous.0.id, "previous_of") {
            match self.unfed.remove(&previous.0.id.node) {
                Some(_) => self.feeds.push((previous.0.id.node, source.id.node)),
                None => self.fail(crate::Error::Previous(self.name_of(previous.0.id))),
            }
        }
    }

    pub(crate) fn extract_of<K: Key, V: Value, I: Key>(
        &mut self,
        index: &Index<K, V, I>,
        user: &str,
    ) -> Extract<K, V, I> {
        let extract = self
            .state(&index.source, user)
            .and_then(|state| Some(Arc::clone(&state.index::<I>(index.slot)?.extract)));
        // A foreign handle has been noted and stops the seal; until then the operator must only exist.
        extract.unwrap_or_else(|| Arc::new(|_: &K, _: &V, _: &mut Vec<I>| {}))
    }
}
