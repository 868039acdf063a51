//! Tracked reads: what a transform may look at. Every read is recorded with its access path, and only a change on that path reruns the transform.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::{Collection, Failure, Index, Key, LabelIndex, Labels, Rows, SelectorIndex, Value};

/// Handed to every transform run. Borrowed rows live as long as the run.
pub struct Ctx<'a> {
    pub(crate) marker: PhantomData<&'a ()>,
}

impl<'a> Ctx<'a> {
    /// The row at `key`. Reruns when that key appears, changes or goes, and on nothing else.
    pub fn get<K: Key, V: Value>(&self, _source: &Collection<K, V>, _key: &K) -> Option<&'a Arc<V>> {
        unimplemented!()
    }

    /// The rows that exist of a set of keys, in the order asked. Reruns when one of those keys changes.
    pub fn get_many<'k, K: Key, V: Value>(
        &self,
        _source: &Collection<K, V>,
        _keys: impl IntoIterator<Item = &'k K>,
    ) -> Vec<(K, &'a Arc<V>)> {
        unimplemented!()
    }

    /// The rows an index holds under `value`, in key order. Reruns when a row enters, leaves or changes under it.
    pub fn lookup<K: Key, V: Value, I: Key>(&self, _index: &Index<K, V, I>, _value: &I) -> Rows<'a, K, V> {
        unimplemented!()
    }

    /// [`Ctx::lookup`], narrowed: reruns only when a row that passes `predicate` before or after the change is touched.
    pub fn lookup_where<K: Key, V: Value, I: Key>(
        &self,
        _index: &Index<K, V, I>,
        _value: &I,
        _predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> Vec<(&'a K, &'a Arc<V>)> {
        unimplemented!()
    }

    /// The single row an index holds under `value`; more than one is a [`Failure::Err`].
    pub fn lookup_one<K: Key, V: Value, I: Key>(&self, _index: &Index<K, V, I>, _value: &I) -> Result<Option<(&'a K, &'a Arc<V>)>, Failure> {
        unimplemented!()
    }

    /// How many rows an index holds under `value`. Reruns when membership changes, not when a member's value does.
    pub fn count<K: Key, V: Value, I: Key>(&self, _index: &Index<K, V, I>, _value: &I) -> usize {
        unimplemented!()
    }

    /// Whether `key` exists. Reruns when it appears or goes, not when its value changes.
    pub fn exists<K: Key, V: Value>(&self, _source: &Collection<K, V>, _key: &K) -> bool {
        unimplemented!()
    }

    /// A part of the row at `key`. Reruns when that part changes (or the row appears or goes), not when the rest does.
    pub fn project<K: Key, V: Value, P: PartialEq + Send + Sync + 'static>(
        &self,
        _source: &Collection<K, V>,
        _key: &K,
        _part: impl Fn(&V) -> P + Send + Sync + 'static,
    ) -> Option<P> {
        unimplemented!()
    }

    /// Every row, in key order: a full scan. Reruns on any change of the collection; `explain` and counters show it as a scan.
    pub fn scan<K: Key, V: Value>(&self, _source: &Collection<K, V>) -> Rows<'a, K, V> {
        unimplemented!()
    }

    /// A full scan narrowed by `predicate`: reruns only when a row that passes it before or after the change is touched.
    /// Each change of the collection is still checked against every such reader.
    pub fn scan_where<K: Key, V: Value>(
        &self,
        _source: &Collection<K, V>,
        _predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> Vec<(&'a K, &'a Arc<V>)> {
        unimplemented!()
    }

    /// Rows in `scope` whose labels contain all of `query`; an empty query matches every row of the scope.
    pub fn labelled<K: Key, V: Value, S: Key>(&self, _index: &LabelIndex<K, V, S>, _scope: &S, _query: &Labels) -> Vec<(&'a K, &'a Arc<V>)> {
        unimplemented!()
    }

    /// Rows in `scope` whose selector is satisfied by `labels`. A row with an empty selector selects everything, a row
    /// with none (the extractor said `None`) nothing.
    pub fn selecting<K: Key, V: Value, S: Key>(&self, _index: &SelectorIndex<K, V, S>, _scope: &S, _labels: &Labels) -> Vec<(&'a K, &'a Arc<V>)> {
        unimplemented!()
    }
}
