//! Several conditions on one collection at once: a row must pass all of them. The narrowest condition is the one that
//! is looked up; the others are checked on what it finds, so no condition is lost and no scan is made behind one.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ctx::{Picked, Selector, either};
use crate::pair::Pair;
use crate::watch::IndexRead;
use crate::{Collection, Ctx, Index, Key, LabelIndex, Labels, SelectorIndex, Value};

pub(crate) type Test<K, V> = Arc<dyn Fn(&K, &V) -> bool + Send + Sync>;

/// A conjunction of conditions on the rows of one collection, for [`Ctx::select`]. Without any it is every row.
///
/// A run that selects reruns only when a row that passes all conditions, before or after a change, is touched.
/// ```
/// # use krt::{Filter, Graph, Labels};
/// # let mut builder = Graph::builder();
/// # let pods = builder.input::<u32, (&'static str, Labels)>("pods");
/// # let by_node = builder.index("by_node", &pods, |_, pod| [pod.0]);
/// # let by_label = builder.labels("by_label", &pods, |_, pod| ((), pod.1.clone()));
/// let web = Labels::from([("app".to_owned(), "web".to_owned())]);
/// builder.singleton("found", move |ctx| {
///     let filter = Filter::of(&pods).under(&by_node, "east-1").labelled(&by_label, (), &web).keys([1, 2, 3]);
///     Some(ctx.select(&filter).len())
/// });
/// ```
pub struct Filter<K, V> {
    source: Collection<K, V>,
    keys: Option<BTreeSet<K>>,
    through: Vec<Box<dyn Through<K, V>>>,
    tests: Vec<Test<K, V>>,
}

impl<K: Key, V: Value> Filter<K, V> {
    /// Every row of a collection, to be narrowed.
    pub fn of(source: &Collection<K, V>) -> Self {
        Self { source: *source, keys: None, through: Vec::new(), tests: Vec::new() }
    }

    /// Rows whose key is one of these. An empty set matches nothing; a second set leaves what is in both.
    #[must_use]
    pub fn keys(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        let keys: BTreeSet<K> = keys.into_iter().collect();
        self.keys = Some(match self.keys {
            Some(held) => held.intersection(&keys).cloned().collect(),
            None => keys,
        });
        self
    }

    /// Rows that an index holds under `value`.
    #[must_use]
    pub fn under<I: Key>(mut self, index: &Index<K, V, I>, value: I) -> Self {
        self.through.push(Box::new(Under { index: *index, value }));
        self
    }

    /// Rows in `scope` whose labels contain all of `query`.
    #[must_use]
    pub fn labelled<S: Key>(mut self, index: &LabelIndex<K, V, S>, scope: S, query: &Labels) -> Self {
        if query.is_empty() {
            return self.under(&index.0, Pair::whole(&scope));
        }
        for value in Pair::all(&scope, query) {
            self = self.under(&index.0, value);
        }
        self
    }

    /// Rows in `scope` whose selector is satisfied by `labels`.
    #[must_use]
    pub fn selecting<S: Key>(mut self, index: &SelectorIndex<K, V, S>, scope: S, labels: &Labels) -> Self {
        self.through.push(Box::new(Selecting { index: *index, scope, labels: labels.clone() }));
        self
    }

    /// Rows that pass a predicate. On its own it is a scan, and shows as one.
    #[must_use]
    pub fn matching(mut self, predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.tests.push(Arc::new(predicate));
        self
    }
}

/// A condition that an index answers.
trait Through<K, V>: Send + Sync {
    fn source(&self) -> Collection<K, V>;
    /// How many rows the index offers.
    fn offers(&self, ctx: &Ctx<'_>) -> usize;
    fn test(&self, ctx: &Ctx<'_>) -> Test<K, V>;
    /// The rows the index offers that pass; the read is recorded.
    fn rows<'a>(&self, ctx: &Ctx<'a>, passes: &Test<K, V>) -> Picked<'a, K, V>;
}

struct Under<K, V, I> {
    index: Index<K, V, I>,
    value: I,
}

impl<K: Key, V: Value, I: Key> Through<K, V> for Under<K, V, I> {
    fn source(&self) -> Collection<K, V> {
        self.index.source
    }

    fn offers(&self, ctx: &Ctx<'_>) -> usize {
        ctx.index_state(&self.index).groups.get(&self.value).map_or(0, crate::map::OrdMap::len)
    }

    fn test(&self, ctx: &Ctx<'_>) -> Test<K, V> {
        let (extract, wanted) = (Arc::clone(&ctx.index_state(&self.index).extract), self.value.clone());
        Arc::new(move |key, row| {
            let mut values = Vec::new();
            extract(key, row, &mut values);
            values.contains(&wanted)
        })
    }

    fn rows<'a>(&self, ctx: &Ctx<'a>, passes: &Test<K, V>) -> Picked<'a, K, V> {
        ctx.through(&self.index, &self.value, passes, IndexRead::Where(either(Arc::clone(passes))))
    }
}

struct Selecting<K, V, S> {
    index: SelectorIndex<K, V, S>,
    scope: S,
    labels: Labels,
}

impl<K: Key, V: Value, S: Key> Selecting<K, V, S> {
    /// A row stands under one pair of its selector, or under its whole scope.
    fn values(&self) -> impl Iterator<Item = Pair<S>> {
        std::iter::once(Pair::whole(&self.scope)).chain(Pair::all(&self.scope, &self.labels))
    }
}

impl<K: Key, V: Value, S: Key> Through<K, V> for Selecting<K, V, S> {
    fn source(&self) -> Collection<K, V> {
        self.index.0.source
    }

    fn offers(&self, ctx: &Ctx<'_>) -> usize {
        let groups = &ctx.index_state(&self.index.0).groups;
        self.values().map(|value| groups.get(&value).map_or(0, crate::map::OrdMap::len)).sum()
    }

    fn test(&self, ctx: &Ctx<'_>) -> Test<K, V> {
        let selector = ctx.index_state(&self.index.0).selector.as_ref();
        let selector = selector.and_then(|selector| selector.downcast_ref::<Selector<K, V, S>>()).cloned();
        let (scope, labels) = (self.scope.clone(), self.labels.clone());
        Arc::new(move |key, row| {
            let Some((of, Some(wanted))) = selector.as_ref().map(|selector| selector(key, row)) else {
                return false;
            };
            of == scope && wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
        })
    }

    fn rows<'a>(&self, ctx: &Ctx<'a>, passes: &Test<K, V>) -> Picked<'a, K, V> {
        let mut found = Vec::new();
        for value in self.values() {
            let read = IndexRead::Where(either(Arc::clone(passes)));
            found.append(&mut ctx.through(&self.index.0, &value, passes, read));
        }
        found.sort_by(|left, right| left.0.cmp(right.0));
        found
    }
}

impl<'a> Ctx<'a> {
    /// The rows that pass every condition of a filter, in key order. A filter by keys reads those keys; else the index
    /// that offers the fewest rows is read; a filter by predicates only is a scan.
    pub fn select<K: Key, V: Value>(&self, filter: &Filter<K, V>) -> Vec<(&'a K, &'a Arc<V>)> {
        let mut tests = filter.tests.clone();
        for through in &filter.through {
            assert!(
                through.source().id == filter.source.id,
                "a filter was given an index of another collection"
            );
            tests.push(through.test(self));
        }
        let passes: Test<K, V> = Arc::new(move |key, row| tests.iter().all(|test| test(key, row)));
        if let Some(keys) = &filter.keys {
            let read = |key| self.read_where(&filter.source, key, either(Arc::clone(&passes)));
            return keys.iter().filter_map(read).filter(|(key, row)| passes(key, row)).collect();
        }
        match filter.through.iter().min_by_key(|through| through.offers(self)) {
            Some(narrowest) => narrowest.rows(self, &passes),
            None => self.scan_where(&filter.source, move |key, row| passes(key, row)),
        }
    }
}
