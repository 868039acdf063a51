//! Immutable reads: one revision across all collections.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::{Collection, Index, Key, KeyError, Revision, Value};

/// One revision of every collection of a graph. Cheap to clone, immutable, independent of the graph's further life.
#[derive(Clone)]
pub struct Snapshot {}

impl Snapshot {
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }

    pub fn get<K: Key, V: Value>(&self, _source: &Collection<K, V>, _key: &K) -> Option<&Arc<V>> {
        unimplemented!()
    }

    /// Every row in key order.
    pub fn rows<K: Key, V: Value>(&self, _source: &Collection<K, V>) -> Rows<'_, K, V> {
        unimplemented!()
    }

    pub fn len<K: Key, V: Value>(&self, _source: &Collection<K, V>) -> usize {
        unimplemented!()
    }

    pub fn is_empty<K: Key, V: Value>(&self, source: &Collection<K, V>) -> bool {
        self.len(source) == 0
    }

    /// The rows an index holds under `value`, in key order.
    pub fn lookup<K: Key, V: Value, I: Key>(&self, _index: &Index<K, V, I>, _value: &I) -> Rows<'_, K, V> {
        unimplemented!()
    }

    /// The revision that last changed the row at `key`.
    pub fn changed_at<K: Key, V: Value>(&self, _source: &Collection<K, V>, _key: &K) -> Option<Revision> {
        unimplemented!()
    }

    /// The keys of a derived collection that are in error, in key order.
    pub fn errors<K: Key, V: Value>(&self, _source: &Collection<K, V>) -> Vec<Arc<KeyError>> {
        unimplemented!()
    }

    /// The error of one *source* key of a derived collection.
    pub fn error<K: Key, V: Value, S: Key>(&self, _source: &Collection<K, V>, _source_key: &S) -> Option<Arc<KeyError>> {
        unimplemented!()
    }

    /// Whether everything this collection has been computed from is synced.
    pub fn is_synced<K: Key, V: Value>(&self, _source: &Collection<K, V>) -> bool {
        unimplemented!()
    }
}

/// Always the latest [`Snapshot`], from any thread, while the graph belongs to another.
#[derive(Clone)]
pub struct SnapshotReader {}

impl SnapshotReader {
    pub fn latest(&self) -> Snapshot {
        unimplemented!()
    }
}

/// Rows in key order: an iterator of `(&K, &Arc<V>)`.
pub struct Rows<'a, K, V> {
    marker: PhantomData<&'a (K, V)>,
}

impl<'a, K, V> Iterator for Rows<'a, K, V> {
    type Item = (&'a K, &'a Arc<V>);

    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}
