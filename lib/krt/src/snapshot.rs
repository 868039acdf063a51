//! Immutable reads: one revision across all collections.

use std::sync::{Arc, PoisonError};

use crate::map::{self, OrdMap};
use crate::state::{AnyState, Errors, Row, State, state_of};
use crate::sync::Mutex;
use crate::{Collection, Index, Key, KeyError, Revision, Value};

/// One revision of every collection of a graph. Cheap to clone, immutable, independent of the graph's further life.
///
/// Reading it with a handle of another graph is a programming error and panics.
#[derive(Clone)]
pub struct Snapshot {
    inner: Arc<Inner>,
}

struct Inner {
    graph: u64,
    revision: Revision,
    states: Vec<Arc<dyn AnyState>>,
    synced: Arc<[bool]>,
}

impl Snapshot {
    pub(crate) fn new(
        graph: u64,
        revision: Revision,
        states: Vec<Arc<dyn AnyState>>,
        synced: Arc<[bool]>,
    ) -> Self {
        Self { inner: Arc::new(Inner { graph, revision, states, synced }) }
    }

    pub fn revision(&self) -> Revision {
        self.inner.revision
    }

    pub fn get<K: Key, V: Value>(&self, source: &Collection<K, V>, key: &K) -> Option<&Arc<V>> {
        self.state(source).get(key)
    }

    /// Every row in key order.
    pub fn rows<K: Key, V: Value>(&self, source: &Collection<K, V>) -> Rows<'_, K, V> {
        Rows::all(&self.state(source).rows)
    }

    pub fn len<K: Key, V: Value>(&self, source: &Collection<K, V>) -> usize {
        self.state(source).rows.len()
    }

    pub fn is_empty<K: Key, V: Value>(&self, source: &Collection<K, V>) -> bool {
        self.len(source) == 0
    }

    /// The rows an index holds under `value`, in key order.
    pub fn lookup<K: Key, V: Value, I: Key>(&self, index: &Index<K, V, I>, value: &I) -> Rows<'_, K, V> {
        let found = self.state(&index.source).index::<I>(index.slot);
        let index = found.expect("an index handle's types are those it was declared with");
        Rows::group(index.groups.get(value))
    }

    /// The values an index holds rows under, in order, with the number of rows of each.
    pub fn index_values<K: Key, V: Value, I: Key>(
        &self,
        index: &Index<K, V, I>,
    ) -> impl Iterator<Item = (&I, usize)> {
        let found = self.state(&index.source).index::<I>(index.slot);
        let index = found.expect("an index handle's types are those it was declared with");
        index.groups.iter().map(|(value, group)| (value, group.len()))
    }

    /// The revision that last changed the row at `key`.
    pub fn changed_at<K: Key, V: Value>(&self, source: &Collection<K, V>, key: &K) -> Option<Revision> {
        self.state(source).rows.get(key).map(|row| row.changed_at)
    }

    /// What is in error in a collection: source keys of its transform, in key order, then rows that an index of it
    /// could not take.
    pub fn errors<K: Key, V: Value>(&self, source: &Collection<K, V>) -> Vec<Arc<KeyError>> {
        AnyState::errors(self.state(source))
    }

    /// The error of one *source* key of a derived collection. A key of another type
    /// than the transform's is a programming error and panics.
    pub fn error<K: Key, V: Value, S: Key>(
        &self,
        source: &Collection<K, V>,
        source_key: &S,
    ) -> Option<Arc<KeyError>> {
        let errors = self.state(source).errors.as_any().downcast_ref::<Errors<S>>();
        let errors = errors.expect("an error is asked for with a key of the type the transform runs over");
        errors.0.get(source_key).cloned()
    }

    /// Whether everything this collection has been computed from is synced.
    pub fn is_synced<K: Key, V: Value>(&self, source: &Collection<K, V>) -> bool {
        let _ = self.state(source);
        self.inner.synced[source.id.node as usize]
    }

    /// Whether every collection is synced.
    pub fn is_all_synced(&self) -> bool {
        self.inner.synced.iter().all(|synced| *synced)
    }

    fn state<K: Key, V: Value>(&self, source: &Collection<K, V>) -> &State<K, V> {
        assert!(source.id.graph == self.inner.graph, "a snapshot was read with a handle of another graph");
        state_of(&self.inner.states[source.id.node as usize])
    }
}

/// Always the latest [`Snapshot`], from any thread, while the graph belongs to another.
#[derive(Clone)]
pub struct SnapshotReader {
    pub(crate) latest: Arc<Mutex<Snapshot>>,
}

impl SnapshotReader {
    /// Holds a lock for the time of one reference count, so neither side waits for the other's work.
    pub fn latest(&self) -> Snapshot {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Rows in key order: an iterator of `(&K, &Arc<V>)`.
pub struct Rows<'a, K, V> {
    kind: Kind<'a, K, V>,
}

enum Kind<'a, K, V> {
    None,
    All(map::Iter<'a, K, Row<V>>),
    Group(map::Iter<'a, K, Arc<V>>),
}

impl<'a, K, V> Rows<'a, K, V> {
    pub(crate) fn all(rows: &'a OrdMap<K, Row<V>>) -> Self {
        Self { kind: Kind::All(rows.iter()) }
    }

    pub(crate) fn group(group: Option<&'a OrdMap<K, Arc<V>>>) -> Self {
        Self { kind: group.map_or(Kind::None, |group| Kind::Group(group.iter())) }
    }
}

impl<'a, K, V> Iterator for Rows<'a, K, V> {
    type Item = (&'a K, &'a Arc<V>);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.kind {
            Kind::None => None,
            Kind::All(rows) => rows.next().map(|(key, row)| (key, &row.value)),
            Kind::Group(rows) => rows.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.kind {
            Kind::None => (0, Some(0)),
            Kind::All(rows) => rows.size_hint(),
            Kind::Group(rows) => rows.size_hint(),
        }
    }
}

impl<K, V> ExactSizeIterator for Rows<'_, K, V> {}
