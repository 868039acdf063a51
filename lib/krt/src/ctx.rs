//! Tracked reads: what a transform may look at. Every read is recorded with its access path, and only a change on that
//! path reruns the transform.

use std::cell::RefCell;
use std::sync::Arc;

use crate::handle::NodeId;
use crate::map::OrdMap;
use crate::pair::{LabelSet, Pair, Probe, Sought, digest};
use crate::state::{AnyState, IndexState, State, state_of};
use crate::watch::{AnyWatch, IndexRead, Matters, Read, Watch};
use crate::{Collection, Failure, Index, Key, LabelIndex, Labels, Rows, SelectorIndex, Value};

/// A row's scope and the labels it selects.
pub(crate) type Selector<K, V, S> = Arc<dyn Fn(&K, &V) -> (S, Option<Labels>) + Send + Sync>;

/// Rows picked out of a collection, in key order.
pub(crate) type Picked<'a, K, V> = Vec<(&'a K, &'a Arc<V>)>;

/// Handed to every transform run. Borrowed rows live as long as the run.
pub struct Ctx<'a> {
    graph: u64,
    states: &'a [Arc<dyn AnyState>],
    recorder: RefCell<Recorder<'a>>,
}

struct Recorder<'a> {
    watches: &'a mut [Box<dyn AnyWatch>],
    reads: Vec<Read>,
}

impl<'a> Ctx<'a> {
    /// `states` and `watches` are those of the collections declared before the one that runs.
    pub(crate) fn new(
        graph: u64,
        states: &'a [Arc<dyn AnyState>],
        watches: &'a mut [Box<dyn AnyWatch>],
        reads: Vec<Read>,
    ) -> Self {
        Self { graph, states, recorder: RefCell::new(Recorder { watches, reads }) }
    }

    pub(crate) fn into_reads(self) -> Vec<Read> {
        self.recorder.into_inner().reads
    }

    /// The row at `key`. Reruns when that key appears, changes or goes, and on nothing else.
    pub fn get<K: Key, V: Value>(&self, source: &Collection<K, V>, key: &K) -> Option<&'a Arc<V>> {
        let state = self.state(source);
        self.record(source, |watch| watch.read_key(key));
        state.get(key)
    }

    /// The rows that exist of a set of keys, in the order asked. Reruns when one of those keys changes.
    pub fn get_many<'k, K: Key, V: Value>(
        &self,
        source: &Collection<K, V>,
        keys: impl IntoIterator<Item = &'k K>,
    ) -> Vec<(K, &'a Arc<V>)> {
        keys.into_iter().filter_map(|key| self.get(source, key).map(|value| (key.clone(), value))).collect()
    }

    /// The rows an index holds under `value`, in key order. Reruns when a row enters, leaves or changes under it.
    pub fn lookup<K: Key, V: Value, I: Key>(&self, index: &Index<K, V, I>, value: &I) -> Rows<'a, K, V> {
        self.lookup_by(index, value)
    }

    /// [`Ctx::lookup`], narrowed: reruns only when a row that passes `predicate` before or after the change is touched.
    pub fn lookup_where<K: Key, V: Value, I: Key>(
        &self,
        index: &Index<K, V, I>,
        value: &I,
        predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> Picked<'a, K, V> {
        let predicate = Arc::new(predicate);
        let matters = either(Arc::clone(&predicate));
        let group = self.group(index, value);
        self.record(&index.source, |watch| watch.read_index(index.slot, value, IndexRead::Where(matters)));
        Rows::group(group).filter(|(key, row)| predicate(key, row)).collect()
    }

    /// The single row an index holds under `value`; more than one is a [`Failure::Err`].
    pub fn lookup_one<K: Key, V: Value, I: Key>(
        &self,
        index: &Index<K, V, I>,
        value: &I,
    ) -> Result<Option<(&'a K, &'a Arc<V>)>, Failure> {
        let mut rows = self.lookup(index, value);
        match (rows.next(), rows.next()) {
            (Some((first, _)), Some((second, _))) => {
                Err(Failure::err(format!("more than one row under {value:?}: {first:?} and {second:?}")))
            }
            (row, _) => Ok(row),
        }
    }

    /// How many rows an index holds under `value`. Reruns when membership changes, not when a member's value does.
    pub fn count<K: Key, V: Value, I: Key>(&self, index: &Index<K, V, I>, value: &I) -> usize {
        let group = self.group(index, value);
        self.record(&index.source, |watch| watch.read_index(index.slot, value, IndexRead::Count));
        group.map_or(0, OrdMap::len)
    }

    /// Whether `key` exists. Reruns when it appears or goes, not when its value changes.
    pub fn exists<K: Key, V: Value>(&self, source: &Collection<K, V>, key: &K) -> bool {
        let state = self.state(source);
        self.record(source, |watch| watch.read_exists(key));
        state.get(key).is_some()
    }

    /// A part of the row at `key`. Reruns when that part changes (or the row appears or goes), not when the rest does.
    pub fn project<K: Key, V: Value, P: PartialEq + Send + Sync + 'static>(
        &self,
        source: &Collection<K, V>,
        key: &K,
        part: impl Fn(&V) -> P + Send + Sync + 'static,
    ) -> Option<P> {
        let found = self.state(source).get(key).map(|row| part(row));
        let matters: Matters<K, V> = Box::new(move |_, old, new| old.map(&part) != new.map(&part));
        self.record(source, |watch| watch.read_projection(key, matters));
        found
    }

    /// Every row, in key order: a full scan. Reruns on any change of the collection; `explain` and dumps show it as a scan.
    pub fn scan<K: Key, V: Value>(&self, source: &Collection<K, V>) -> Rows<'a, K, V> {
        let state = self.state(source);
        self.record(source, Watch::read_scan);
        Rows::all(&state.rows)
    }

    /// A full scan narrowed by `predicate`: reruns only when a row that passes it before or after the change is touched.
    /// Each change of the collection is still checked against every such reader.
    pub fn scan_where<K: Key, V: Value>(
        &self,
        source: &Collection<K, V>,
        predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> Picked<'a, K, V> {
        let predicate = Arc::new(predicate);
        let matters = either(Arc::clone(&predicate));
        let state = self.state(source);
        self.record(source, |watch| watch.read_scan_where(matters));
        Rows::all(&state.rows).filter(|(key, row)| predicate(key, row)).collect()
    }

    /// Rows in `scope` whose labels contain all of `query`; an empty query matches every row of the scope.
    /// Reruns only when a row that matches before or after the change is touched.
    pub fn labelled<K: Key, V: Value, S: Key>(
        &self,
        index: &LabelIndex<K, V, S>,
        scope: &S,
        query: &Labels,
    ) -> Picked<'a, K, V> {
        let index = &index.0;
        let wanted: Vec<Pair<S>> = Pair::all(scope, query).collect();
        let state = self.index_state(index);
        // Any pair of the query finds every match; the rarest one leaves the least to check.
        let rarest = wanted.iter().min_by_key(|pair| state.groups.get(pair).map_or(0, OrdMap::len));
        let Some(rarest) = rarest.cloned() else {
            return self.lookup_by(index, &Probe::whole(scope)).collect();
        };
        if wanted.len() == 1 {
            return self.lookup_by(index, &rarest).collect();
        }
        let extract = Arc::clone(&state.extract);
        let contains = Arc::new(move |key: &K, row: &V| {
            let mut labels = Vec::new();
            extract(key, row, &mut labels);
            wanted.iter().all(|pair| labels.contains(pair))
        });
        let kept = Arc::clone(&contains);
        let labels = (digest(query), query);
        let mut found = Picked::new();
        self.lookup_labels(index, &rarest, labels, contains.as_ref(), || either(kept), &mut found);
        found
    }

    /// Rows in `scope` whose selector is satisfied by `labels`. A row with an empty selector selects everything, a row
    /// with none (the extractor said `None`) nothing. Reruns only when a row that selects before or after the change is touched.
    pub fn selecting<K: Key, V: Value, S: Key>(
        &self,
        index: &SelectorIndex<K, V, S>,
        scope: &S,
        labels: &Labels,
    ) -> Picked<'a, K, V> {
        let index = &index.0;
        let state = self.index_state(index);
        let of_row =
            state.selector.as_ref().and_then(|selector| selector.downcast_ref::<Selector<K, V, S>>());
        let mut found: Picked<'a, K, V> = self.lookup_by(index, &Probe::whole(scope)).collect();
        // A selector of one label is satisfied by whoever finds it; of more, the others are still to be looked at.
        let matches = |key: &K, row: &V| {
            !state.has_more(key) || of_row.is_some_and(|of_row| selects(of_row, labels, key, row))
        };
        let digest = digest(labels);
        // A row stands under one pair of its selector only, so the pairs of `labels` meet it at most once.
        for pair in Probe::all(scope, labels) {
            // Labels are copied only for a path that nobody reads yet.
            let keep = || {
                let (of_row, labels) = (of_row.cloned(), labels.clone());
                either(Arc::new(move |key: &K, row: &V| {
                    of_row.as_ref().is_some_and(|of_row| selects(of_row, &labels, key, row))
                }))
            };
            self.lookup_labels(index, &pair, (digest, labels), &matches, keep, &mut found);
        }
        found.sort_by(|left, right| left.0.cmp(right.0));
        found
    }

    /// Adds the rows under an index value that match labels, which come with their digest. Readers with equal labels
    /// share one path.
    fn lookup_labels<K: Key, V: Value, I: Key>(
        &self,
        index: &Index<K, V, I>,
        value: &impl Sought<I>,
        (digest, labels): (u64, &Labels),
        matches: &dyn Fn(&K, &V) -> bool,
        keep: impl FnOnce() -> Matters<K, V>,
        found: &mut Picked<'a, K, V>,
    ) {
        let group = self.group(index, value);
        self.record(&index.source, |watch| {
            watch.known_labels(index.slot, value, digest, labels).unwrap_or_else(|| {
                watch.read_index(index.slot, value, IndexRead::Labels(LabelSet::new(labels), keep()))
            })
        });
        found.extend(Rows::group(group).filter(|(key, row)| matches(key, row)));
    }

    fn lookup_by<K: Key, V: Value, I: Key>(
        &self,
        index: &Index<K, V, I>,
        value: &impl Sought<I>,
    ) -> Rows<'a, K, V> {
        let group = self.group(index, value);
        self.record(&index.source, |watch| watch.read_index(index.slot, value, IndexRead::Rows));
        Rows::group(group)
    }

    /// The rows under an index value that pass, read as `read` says.
    pub(crate) fn through<K: Key, V: Value, I: Key>(
        &self,
        index: &Index<K, V, I>,
        value: &I,
        passes: &crate::filter::Test<K, V>,
        read: IndexRead<K, V>,
    ) -> Picked<'a, K, V> {
        let group = self.group(index, value);
        self.record(&index.source, |watch| watch.read_index(index.slot, value, read));
        Rows::group(group).filter(|(key, row)| passes(key, row)).collect()
    }

    /// The row at `key`, read so that only changes that matter rerun.
    pub(crate) fn read_where<K: Key, V: Value>(
        &self,
        source: &Collection<K, V>,
        key: &K,
        matters: Matters<K, V>,
    ) -> Option<(&'a K, &'a Arc<V>)> {
        let state = self.state(source);
        self.record(source, |watch| watch.read_projection(key, matters));
        state.rows.get_entry(key).map(|(key, row)| (key, &row.value))
    }

    /// The state of a collection without a recorded read, for the engine's own operators.
    pub(crate) fn state<K: Key, V: Value>(&self, source: &Collection<K, V>) -> &'a State<K, V> {
        self.check(source.id);
        state_of(&self.states[source.id.node as usize])
    }

    pub(crate) fn index_state<K: Key, V: Value, I: Key>(
        &self,
        index: &Index<K, V, I>,
    ) -> &'a IndexState<K, V, I> {
        self.state(&index.source)
            .index(index.slot)
            .expect("an index handle's types are those it was declared with")
    }

    fn group<K: Key, V: Value, I: Key>(
        &self,
        index: &Index<K, V, I>,
        value: &impl Sought<I>,
    ) -> Option<&'a OrdMap<K, Arc<V>>> {
        self.index_state(index).groups.find(|held| value.order(held)).map(|(_, group)| group)
    }

    fn check(&self, id: NodeId) {
        assert!(id.graph == self.graph, "a transform read a collection of another graph");
        assert!(
            (id.node as usize) < self.states.len(),
            "a transform read a collection that is declared after it"
        );
    }

    fn record<K: Key, V: Value>(
        &self,
        source: &Collection<K, V>,
        read: impl FnOnce(&mut Watch<K, V>) -> u32,
    ) {
        let recorder = &mut *self.recorder.borrow_mut();
        let watch = recorder.watches[source.id.node as usize].as_any_mut().downcast_mut::<Watch<K, V>>();
        let path = read(watch.expect("a handle's types are those its collection was declared with"));
        recorder.reads.push(Read { node: source.id.node, path });
    }
}

/// Whether a row's selector is satisfied by labels.
fn selects<K, V, S>(of_row: &Selector<K, V, S>, labels: &Labels, key: &K, row: &V) -> bool {
    let wanted = of_row(key, row).1;
    wanted.is_some_and(|wanted| wanted.iter().all(|(name, value)| labels.get(name) == Some(value)))
}

pub(crate) fn either<K: Key, V: Value>(
    predicate: Arc<impl Fn(&K, &V) -> bool + Send + Sync + ?Sized + 'static>,
) -> Matters<K, V> {
    Box::new(move |key, old, new| {
        old.is_some_and(|row| predicate(key, row)) || new.is_some_and(|row| predicate(key, row))
    })
}
