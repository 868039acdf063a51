//! The previous revision of a collection: the one way to read what is declared later, or oneself, because it is the past.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;

use crate::logic::{Env, Logic, Trace};
use crate::state::{AnyDelta, AnyState, Delta, State, state_of};
use crate::{Change, Collection, Counters, Key, Value};

/// The rows of another collection as they were one revision ago. It reads as a [`Collection`] wherever one is asked for.
pub struct Previous<K, V>(pub(crate) Collection<K, V>);

impl<K, V> Deref for Previous<K, V> {
    type Target = Collection<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K, V> Clone for Previous<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Previous<K, V> {}

/// Holds what the last revision changed, and applies it in the next one.
pub(crate) struct PreviousLogic<K, V> {
    pending: Option<Arc<dyn AnyDelta>>,
    marker: std::marker::PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Value> PreviousLogic<K, V> {
    pub(crate) fn new() -> Self {
        Self { pending: None, marker: std::marker::PhantomData }
    }
}

impl<K: Key, V: Value> Logic for PreviousLogic<K, V> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn kind(&self) -> &'static str {
        "previous"
    }

    fn fresh(&self) -> Box<dyn Logic> {
        Box::new(Self::new())
    }

    fn is_due(&self, _deltas: &[Option<Arc<dyn AnyDelta>>]) -> bool {
        self.pending.is_some()
    }

    fn feed(&mut self, delta: Option<&Arc<dyn AnyDelta>>) {
        self.pending = delta.filter(|delta| delta.len() > 0).cloned();
    }

    /// The inputs do not tell the past: the oracle takes it as given.
    fn stage_all(&mut self, state: &Arc<dyn AnyState>, _checked: &dyn Logic) {
        self.pending = Some(state.as_delta());
    }

    fn process(&mut self, mut env: Env<'_>) -> Option<Arc<dyn AnyDelta>> {
        let pending = self.pending.take()?;
        let delta = pending.as_ref().as_any().downcast_ref::<Delta<K, V>>()?;
        let state: &State<K, V> = state_of(env.own_state());
        let mut changes = Vec::with_capacity(delta.changes.len());
        for change in &delta.changes {
            let (old, new) = (state.get(&change.key).cloned(), change.new.clone());
            match (&old, &new) {
                (None, None) => continue,
                (Some(old), Some(new)) if state.is_same(old, new) => continue,
                _ => changes.push(Change { key: change.key.clone(), old, new }),
            }
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
