//! Writing inputs: everything in one transaction is one revision, or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::input::InputLogic;
use crate::state::State;
use crate::{Graph, Input, Key, Revision, Value};

/// Changes of any number of inputs that become visible together. Dropping it without [`Transaction::commit`] leaves no trace.
///
/// Writing an input of another graph is a programming error and panics.
pub struct Transaction<'g> {
    pub(crate) graph: &'g mut Graph,
    /// The inputs with something staged.
    pub(crate) touched: Vec<u32>,
    pub(crate) synced: BTreeSet<u32>,
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
    pub fn put<K: Key, V: Value>(&mut self, input: &Input<K, V>, key: K, value: impl Into<Arc<V>>) {
        self.stage(input, key, Some(value.into()));
    }

    /// Remove; an absent key is no error.
    pub fn delete<K: Key, V: Value>(&mut self, input: &Input<K, V>, key: &K) {
        self.stage(input, key.clone(), None);
    }

    /// `Some` puts, `None` deletes.
    pub fn set<K: Key, V: Value>(&mut self, input: &Input<K, V>, key: K, value: Option<impl Into<Arc<V>>>) {
        self.stage(input, key, value.map(Into::into));
    }

    /// Put if `condition` passes on the row as this transaction would leave it. Says whether it did.
    pub fn put_if<K: Key, V: Value>(
        &mut self,
        input: &Input<K, V>,
        key: K,
        value: impl Into<Arc<V>>,
        condition: impl FnOnce(Option<&V>) -> bool,
    ) -> bool {
        let passes = condition(self.get(input, &key).as_deref());
        if passes {
            self.put(input, key, value);
        }
        passes
    }

    /// Make the input hold exactly these rows; only real differences become changes.
    pub fn reset<K: Key, V: Value, A: Into<Arc<V>>>(
        &mut self,
        input: &Input<K, V>,
        rows: impl IntoIterator<Item = (K, A)>,
    ) {
        self.delete_where(input, |_, _| true);
        for (key, value) in rows {
            self.put(input, key, value);
        }
    }

    /// Remove every row that `predicate` passes.
    pub fn delete_where<K: Key, V: Value>(
        &mut self,
        input: &Input<K, V>,
        predicate: impl Fn(&K, &V) -> bool,
    ) {
        let staged = &self.logic(input).staged;
        let mut doomed: Vec<K> = Vec::new();
        for (key, staged) in staged.iter() {
            if staged.value.as_ref().is_some_and(|value| predicate(key, value)) {
                doomed.push(key.clone());
            }
        }
        for (key, row) in self.graph.state(input).rows.iter() {
            if staged.get(key).is_none() && predicate(key, &row.value) {
                doomed.push(key.clone());
            }
        }
        for key in doomed {
            self.stage(input, key, None);
        }
    }

    /// Report the row as changed although its value is equal: its readers rerun.
    pub fn touch<K: Key, V: Value>(&mut self, input: &Input<K, V>, key: &K) {
        let Some(value) = self.get(input, key) else { return };
        self.stage(input, key.clone(), Some(value));
        self.logic_mut(input).staged.touch(key);
    }

    /// The row as this transaction would leave it.
    pub fn get<K: Key, V: Value>(&self, input: &Input<K, V>, key: &K) -> Option<Arc<V>> {
        let state: &State<K, V> = self.graph.state(input);
        match self.logic(input).staged.get(key) {
            Some(staged) => staged.value.clone(),
            None => state.get(key).cloned(),
        }
    }

    /// The input holds its first complete state from this commit on.
    pub fn mark_synced<K: Key, V: Value>(&mut self, input: &Input<K, V>) {
        let _ = self.logic(input);
        self.synced.insert(input.0.id.node);
    }

    /// Apply and propagate: one revision.
    pub fn commit(mut self) -> Commit {
        let touched = std::mem::take(&mut self.touched);
        let synced = std::mem::take(&mut self.synced);
        self.graph.commit(&touched, &synced)
    }

    fn stage<K: Key, V: Value>(&mut self, input: &Input<K, V>, key: K, value: Option<Arc<V>>) {
        self.logic_mut(input).staged.put(key, value);
        let node = input.0.id.node;
        if self.touched.last() != Some(&node) && !self.touched.contains(&node) {
            self.touched.push(node);
        }
    }

    fn logic<K: Key, V: Value>(&self, input: &Input<K, V>) -> &InputLogic<K, V> {
        self.graph
            .logic(input.0.id)
            .as_any()
            .downcast_ref()
            .expect("an input handle's types are those it was declared with")
    }

    fn logic_mut<K: Key, V: Value>(&mut self, input: &Input<K, V>) -> &mut InputLogic<K, V> {
        let logic = self.graph.logic_mut(input.0.id).as_any_mut().downcast_mut();
        logic.expect("an input handle's types are those it was declared with")
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        for node in std::mem::take(&mut self.touched) {
            self.graph.abort(node);
        }
    }
}
