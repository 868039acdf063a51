//! The logic of an input: what a transaction has staged, turned into the smallest set of changes.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::logic::{Env, Logic, Trace};
use crate::state::{AnyDelta, AnyState, Delta, Row, State, state_of};
use crate::{Change, Counters, Key, Value};

pub(crate) struct Staged<V> {
    pub(crate) value: Option<Arc<V>>,
    /// Report a change even when the value is equal.
    pub(crate) touched: bool,
}

pub(crate) struct InputLogic<K, V> {
    pub(crate) staged: BTreeMap<K, Staged<V>>,
    /// When cutoffs are checked: rows that counted as equal to the one held, and are not it.
    held_back: Option<BTreeMap<K, Arc<V>>>,
}

impl<K: Key, V: Value> InputLogic<K, V> {
    pub(crate) fn new() -> Self {
        Self { staged: BTreeMap::new(), held_back: None }
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

    fn stage_all(&mut self, state: &Arc<dyn AnyState>, checked: &dyn Logic) {
        let state: &State<K, V> = state_of(state);
        let checked = checked.as_any().downcast_ref::<Self>();
        let held_back = checked.and_then(|checked| checked.held_back.as_ref());
        let staged = |(key, row): (&K, &Row<V>)| {
            let value = held_back.and_then(|rows| rows.get(key)).unwrap_or(&row.value);
            (key.clone(), Staged { value: Some(Arc::clone(value)), touched: false })
        };
        self.staged = state.rows.iter().map(staged).collect();
    }

    fn check_cutoffs(&mut self) {
        self.held_back = Some(BTreeMap::new());
    }

    fn process(&mut self, mut env: Env<'_>) -> Option<Arc<dyn AnyDelta>> {
        let state: &State<K, V> = state_of(env.own_state());
        let mut changes = Vec::with_capacity(self.staged.len());
        for (key, staged) in std::mem::take(&mut self.staged) {
            let old = state.get(&key).cloned();
            if let Some(rows) = &mut self.held_back {
                match (&old, &staged.value) {
                    (Some(old), Some(new)) if state.is_same(old, new) => {
                        rows.insert(key.clone(), Arc::clone(new))
                    }
                    _ => rows.remove(&key),
                };
            }
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
