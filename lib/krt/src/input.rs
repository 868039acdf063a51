//! The logic of an input: what a transaction has staged, turned into the smallest set of changes.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::logic::{Env, Logic, Trace};
use crate::state::{AnyDelta, AnyState, Delta, State, state_of};
use crate::{Change, Counters, Key, Value};

pub(crate) struct Staged<V> {
    pub(crate) value: Option<Arc<V>>,
    /// Report a change even when the value is equal.
    pub(crate) touched: bool,
}

pub(crate) struct InputLogic<K, V> {
    pub(crate) staged: BTreeMap<K, Staged<V>>,
}

impl<K: Key, V: Value> InputLogic<K, V> {
    pub(crate) fn new() -> Self {
        Self { staged: BTreeMap::new() }
    }
}

impl<K: Key, V: Value> Logic for InputLogic<K, V> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn kind(&self) -> &'static str {
        "input"
    }

    fn fresh(&self) -> Box<dyn Logic> {
        Box::new(Self::new())
    }

    fn is_due(&self, _deltas: &[Option<Arc<dyn AnyDelta>>]) -> bool {
        !self.staged.is_empty()
    }

    fn abort(&mut self) {
        self.staged.clear();
    }

    fn stage_all(&mut self, state: &Arc<dyn AnyState>) {
        let state: &State<K, V> = state_of(state);
        let rows = state.rows.iter();
        self.staged = rows
            .map(|(key, row)| (key.clone(), Staged { value: Some(Arc::clone(&row.value)), touched: false }))
            .collect();
    }

    fn process(&mut self, mut env: Env<'_>) -> Option<Arc<dyn AnyDelta>> {
        let state: &State<K, V> = state_of(env.own_state());
        let mut changes = Vec::with_capacity(self.staged.len());
        for (key, staged) in std::mem::take(&mut self.staged) {
            let old = state.get(&key).cloned();
            let new = match (&old, staged.value) {
                (None, None) => continue,
                (Some(old), Some(new)) if state.is_same(old, &new) => {
                    if !staged.touched {
                        continue;
                    }
                    Some(Arc::clone(old))
                }
                (_, new) => new,
            };
            changes.push(Change { key, old, new });
        }
        env.apply(Delta { changes, errors: Vec::new() })
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn sources(&self) -> Vec<u32> {
        Vec::new()
    }

    fn read_nodes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn trace(&self, _key: &dyn Any, _states: &[Arc<dyn AnyState>]) -> Option<Trace> {
        None
    }

    fn each_entry(&self, _visit: &mut dyn FnMut(Trace)) {}
}
