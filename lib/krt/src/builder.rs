//! Declaring a graph. Every method gives a handle at once; mistakes are reported together by [`Builder::seal`].

use std::sync::Arc;

use crate::{Collection, Ctx, Error, Failure, Graph, Index, Input, Key, LabelIndex, Labels, Many, One, SelectorIndex, Value};

/// A graph under construction. A transform can capture only handles that exist already, so the graph has no cycles.
pub struct Builder {}

impl Builder {
    /// An input that counts as synced from the start.
    pub fn input<K: Key, V: Value>(&mut self, _name: &str) -> Input<K, V> {
        unimplemented!()
    }

    /// An input that is not synced until [`Transaction::mark_synced`](crate::Transaction::mark_synced).
    pub fn input_unsynced<K: Key, V: Value>(&mut self, _name: &str) -> Input<K, V> {
        unimplemented!()
    }

    /// Replace equality as the cutoff of a collection: `same(old, new)` true means no change.
    pub fn cutoff<K: Key, V: Value>(&mut self, _collection: &Collection<K, V>, _same: impl Fn(&V, &V) -> bool + Send + Sync + 'static) {
        unimplemented!()
    }

    /// An index of a collection by zero or more values per row.
    pub fn index<K: Key, V: Value, T: IntoIterator>(
        &mut self,
        _name: &str,
        _source: &Collection<K, V>,
        _extract: impl Fn(&K, &V) -> T + Send + Sync + 'static,
    ) -> Index<K, V, T::Item>
    where
        T::Item: Key,
    {
        unimplemented!()
    }

    /// An inverted index of labels: `extract` gives a row's scope and labels.
    pub fn labels<K: Key, V: Value, S: Key>(
        &mut self,
        _name: &str,
        _source: &Collection<K, V>,
        _extract: impl Fn(&K, &V) -> (S, Labels) + Send + Sync + 'static,
    ) -> LabelIndex<K, V, S> {
        unimplemented!()
    }

    /// An inverted index of selectors: `extract` gives a row's scope and selector (`None` selects nothing).
    pub fn selectors<K: Key, V: Value, S: Key>(
        &mut self,
        _name: &str,
        _source: &Collection<K, V>,
        _extract: impl Fn(&K, &V) -> (S, Option<Labels>) + Send + Sync + 'static,
    ) -> SelectorIndex<K, V, S> {
        unimplemented!()
    }

    /// One run per source row, giving at most one row under the same key.
    pub fn derive<K: Key, V: Value, O: One>(
        &mut self,
        _name: &str,
        _source: &Collection<K, V>,
        _transform: impl Fn(&Ctx<'_>, &K, &V) -> O + Send + Sync + 'static,
    ) -> Collection<K, O::Value> {
        unimplemented!()
    }

    /// One run per source row, giving any number of rows with keys of their own. When two source keys give the same
    /// key, the first by key order owns it and the other's row is hidden (visible in `explain`).
    pub fn derive_many<K: Key, V: Value, O: Many>(
        &mut self,
        _name: &str,
        _source: &Collection<K, V>,
        _transform: impl Fn(&Ctx<'_>, &K, &V) -> O + Send + Sync + 'static,
    ) -> Collection<O::Key, O::Value> {
        unimplemented!()
    }

    /// At most one row, computed from what it reads.
    pub fn singleton<O: One>(&mut self, _name: &str, _transform: impl Fn(&Ctx<'_>) -> O + Send + Sync + 'static) -> Collection<(), O::Value> {
        unimplemented!()
    }

    /// Any number of rows, computed by one run from what it reads.
    pub fn generate<O: Many>(&mut self, _name: &str, _transform: impl Fn(&Ctx<'_>) -> O + Send + Sync + 'static) -> Collection<O::Key, O::Value> {
        unimplemented!()
    }

    /// Every row, mapped. Keys stay.
    pub fn map<K: Key, V: Value, O: Value>(
        &mut self,
        _name: &str,
        _source: &Collection<K, V>,
        _map: impl Fn(&K, &V) -> O + Send + Sync + 'static,
    ) -> Collection<K, O> {
        unimplemented!()
    }

    /// The rows that pass, shared and not copied.
    pub fn filter<K: Key, V: Value>(
        &mut self,
        _name: &str,
        _source: &Collection<K, V>,
        _predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> Collection<K, V> {
        unimplemented!()
    }

    /// One run per index value that has members, which come in key order. The row goes when the last member goes.
    pub fn group<K: Key, V: Value, I: Key, O: One>(
        &mut self,
        _name: &str,
        _index: &Index<K, V, I>,
        _transform: impl Fn(&Ctx<'_>, &I, &[(&K, &Arc<V>)]) -> O + Send + Sync + 'static,
    ) -> Collection<I, O::Value> {
        unimplemented!()
    }

    /// Equi-join: for every left row, the right row at the key that `on` names (`None`: no partner asked for or there).
    pub fn join<K: Key, L: Value, RK: Key, R: Value, O: One>(
        &mut self,
        _name: &str,
        _left: &Collection<K, L>,
        _right: &Collection<RK, R>,
        _on: impl Fn(&K, &L) -> Option<RK> + Send + Sync + 'static,
        _combine: impl Fn(&K, &L, Option<&R>) -> O + Send + Sync + 'static,
    ) -> Collection<K, O::Value> {
        unimplemented!()
    }

    /// All rows of the members; of a key in several, the first member's row.
    pub fn union<K: Key, V: Value>(&mut self, _name: &str, _members: &[Collection<K, V>]) -> Collection<K, V> {
        unimplemented!()
    }

    /// All rows of members that must not overlap; a key in several is that key's error.
    pub fn union_disjoint<K: Key, V: Value>(&mut self, _name: &str, _members: &[Collection<K, V>]) -> Collection<K, V> {
        unimplemented!()
    }

    /// One row per key in any member, made from the rows there are, in the order of the members (never none).
    pub fn merge<K: Key, V: Value, O: Value>(
        &mut self,
        _name: &str,
        _members: &[Collection<K, V>],
        _merge: impl Fn(&K, &[&Arc<V>]) -> Result<O, Failure> + Send + Sync + 'static,
    ) -> Collection<K, O> {
        unimplemented!()
    }

    /// Check the declarations, compute what needs no input, and hand over the engine at revision 0.
    pub fn seal(self) -> Result<Graph, Error> {
        unimplemented!()
    }
}
