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
    touched: bool,
}

/// What a transaction has staged, by key: a list while keys come in order, as they do at a first sync, and a tree else.
pub(crate) enum Stage<K, V> {
    List(Vec<(K, Staged<V>)>),
    Tree(BTreeMap<K, Staged<V>>),
}

impl<K, V> Default for Stage<K, V> {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl<K: Key, V: Value> Stage<K, V> {
    fn is_empty(&self) -> bool {
        match self {
            Self::List(list) => list.is_empty(),
            Self::Tree(tree) => tree.is_empty(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::List(list) => list.len(),
            Self::Tree(tree) => tree.len(),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&Staged<V>> {
        match self {
            Self::List(list) => {
                let at = list.binary_search_by(|(held, _)| held.cmp(key)).ok()?;
                Some(&list[at].1)
            }
            Self::Tree(tree) => tree.get(key),
        }
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut Staged<V>> {
        match self {
            Self::List(list) => {
                let at = list.binary_search_by(|(held, _)| held.cmp(key)).ok()?;
                Some(&mut list[at].1)
            }
            Self::Tree(tree) => tree.get_mut(key),
        }
    }

    /// `None` deletes. A row that was touched stays so, unless it goes.
    pub(crate) fn put(&mut self, key: K, value: Option<Arc<V>>) {
        if let Self::List(list) = self
            && list.last().is_none_or(|(last, _)| *last < key)
        {
            list.push((key, Staged { value, touched: false }));
        } else if let Some(staged) = self.get_mut(&key) {
            staged.touched &= value.is_some();
            staged.value = value;
        } else {
            self.tree().insert(key, Staged { value, touched: false });
        }
    }

    /// Report the key as changed, if it is staged.
    pub(crate) fn touch(&mut self, key: &K) {
        if let Some(staged) = self.get_mut(key) {
            staged.touched = true;
        }
    }

    fn tree(&mut self) -> &mut BTreeMap<K, Staged<V>> {
        if let Self::List(list) = self {
            *self = Self::Tree(std::mem::take(list).into_iter().collect());
        }
        match self {
            Self::Tree(tree) => tree,
            Self::List(_) => unreachable!("a list has just been made a tree"),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &Staged<V>)> {
        let (list, tree) = match self {
            Self::List(list) => (Some(list.iter().map(|(key, staged)| (key, staged))), None),
            Self::Tree(tree) => (None, Some(tree.iter())),
        };
        list.into_iter().flatten().chain(tree.into_iter().flatten())
    }

    /// In key order.
    fn each(self, mut visit: impl FnMut(K, Staged<V>)) {
        match self {
            Self::List(list) => list.into_iter().for_each(|(key, staged)| visit(key, staged)),
            Self::Tree(tree) => tree.into_iter().for_each(|(key, staged)| visit(key, staged)),
        }
    }
}

pub(crate) struct InputLogic<K, V> {
    pub(crate) staged: Stage<K, V>,
    /// When cutoffs are checked: rows that counted as equal to the one held, and are not it.
    held_back: Option<BTreeMap<K, Arc<V>>>,
}

impl<K: Key, V: Value> InputLogic<K, V> {
    pub(crate) fn new() -> Self {
        Self { staged: Stage::default(), held_back: None }
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
        self.staged = Stage::default();
    }

    fn stage_all(&mut self, state: &Arc<dyn AnyState>, checked: &dyn Logic) {
        let state: &State<K, V> = state_of(state);
        let checked = checked.as_any().downcast_ref::<Self>();
        let held_back = checked.and_then(|checked| checked.held_back.as_ref());
        let staged = |(key, row): (&K, &Row<V>)| {
            let value = held_back.and_then(|rows| rows.get(key)).unwrap_or(&row.value);
            (key.clone(), Staged { value: Some(Arc::clone(value)), touched: false })
        };
        self.staged = Stage::List(state.rows.iter().map(staged).collect());
    }

    fn check_cutoffs(&mut self) {
        self.held_back = Some(BTreeMap::new());
    }

    fn process(&mut self, mut env: Env<'_>) -> Option<Arc<dyn AnyDelta>> {
        let state: &State<K, V> = state_of(env.own_state());
        let mut changes = Vec::with_capacity(self.staged.len());
        let held_back = &mut self.held_back;
        std::mem::take(&mut self.staged).each(|key, staged| {
            let old = state.get(&key).cloned();
            if let Some(rows) = held_back {
                match (&old, &staged.value) {
                    (Some(old), Some(new)) if state.is_same(old, new) => {
                        rows.insert(key.clone(), Arc::clone(new))
                    }
                    _ => rows.remove(&key),
                };
            }
            let new = match (&old, staged.value) {
                (None, None) => return,
                (Some(old), Some(new)) if state.is_same(old, &new) => {
                    if !staged.touched {
                        return;
                    }
                    Some(Arc::clone(old))
                }
                (_, new) => new,
            };
            changes.push(Change { key, old, new });
        });
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
