//! Writing inputs: everything in one transaction is one revision, or nothing.

use std::sync::Arc;

use crate::{Graph, Input, Key, Revision, Value};

/// Changes of any number of inputs that become visible together. Dropping it without [`Transaction::commit`] leaves no trace.
pub struct Transaction<'g> {
    pub(crate) graph: &'g mut Graph,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The revision after the commit; the same as before when nothing changed.
    pub revision: Revision,
    /// Rows changed, of inputs and derived collections.
    pub changed: usize,
    /// Transform runs.
    pub runs: usize,
}

impl Transaction<'_> {
    /// Insert or replace. Putting an equal value is no change.
    pub fn put<K: Key, V: Value>(&mut self, _input: &Input<K, V>, _key: K, _value: impl Into<Arc<V>>) {
        unimplemented!()
    }

    /// Remove; an absent key is no error.
    pub fn delete<K: Key, V: Value>(&mut self, _input: &Input<K, V>, _key: &K) {
        unimplemented!()
    }

    /// `Some` puts, `None` deletes.
    pub fn set<K: Key, V: Value>(&mut self, _input: &Input<K, V>, _key: K, _value: Option<impl Into<Arc<V>>>) {
        unimplemented!()
    }

    /// Make the input hold exactly these rows; only real differences become changes.
    pub fn reset<K: Key, V: Value, A: Into<Arc<V>>>(&mut self, _input: &Input<K, V>, _rows: impl IntoIterator<Item = (K, A)>) {
        unimplemented!()
    }

    /// Remove every row that `predicate` passes.
    pub fn delete_where<K: Key, V: Value>(&mut self, _input: &Input<K, V>, _predicate: impl Fn(&K, &V) -> bool) {
        unimplemented!()
    }

    /// Report the row as changed although its value is equal: its readers rerun.
    pub fn touch<K: Key, V: Value>(&mut self, _input: &Input<K, V>, _key: &K) {
        unimplemented!()
    }

    /// The row as this transaction would leave it.
    pub fn get<K: Key, V: Value>(&self, _input: &Input<K, V>, _key: &K) -> Option<Arc<V>> {
        unimplemented!()
    }

    /// The input holds its first complete state from this commit on.
    pub fn mark_synced<K: Key, V: Value>(&mut self, _input: &Input<K, V>) {
        unimplemented!()
    }

    /// Apply and propagate: one revision.
    pub fn commit(self) -> Commit {
        let _ = self.graph;
        unimplemented!()
    }
}
