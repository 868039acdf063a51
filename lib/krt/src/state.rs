//! The rows, indexes and errors of one collection at one revision: what snapshots share and commits replace.

use std::any::Any;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::map::OrdMap;
use crate::memory::{Memory, SHARED};
use crate::watch::{Fired, IndexWatch, Watch};
use crate::{Change, Difference, Key, KeyError, Revision, Value};

/// Decides whether two values count as the same.
pub(crate) type Same<V> = Arc<dyn Fn(&V, &V) -> bool + Send + Sync>;
/// What a row owns on the heap.
pub(crate) type Weigh<K, V> = Arc<dyn Fn(&K, &V) -> usize + Send + Sync>;
/// Adds the index values of a row to a buffer.
pub(crate) type Extract<K, V, I> = Arc<dyn Fn(&K, &V, &mut Vec<I>) + Send + Sync>;

pub(crate) struct Row<V> {
    pub(crate) value: Arc<V>,
    pub(crate) changed_at: Revision,
}

impl<V> Clone for Row<V> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), changed_at: self.changed_at }
    }
}

pub(crate) struct State<K, V> {
    pub(crate) rows: OrdMap<K, Row<V>>,
    pub(crate) indexes: Vec<Box<dyn AnyIndex<K, V>>>,
    pub(crate) errors: Box<dyn AnyErrors>,
    /// Rows that an index extractor panicked on; such a row is in no group of that index.
    pub(crate) unindexed: OrdMap<K, Arc<KeyError>>,
    pub(crate) same: Same<V>,
    pub(crate) weigh: Option<Weigh<K, V>>,
    /// What `weigh` says of all rows.
    weight: usize,
}

impl<K: Key, V: Value> Clone for State<K, V> {
    fn clone(&self) -> Self {
        Self {
            rows: self.rows.clone(),
            indexes: self.indexes.iter().map(|index| index.boxed()).collect(),
            errors: self.errors.boxed(),
            unindexed: self.unindexed.clone(),
            same: Arc::clone(&self.same),
            weigh: self.weigh.clone(),
            weight: self.weight,
        }
    }
}

/// A [`State`] without its types.
pub(crate) trait AnyState: Any + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// The same declarations without rows.
    fn fresh(&self) -> Arc<dyn AnyState>;
    fn len(&self) -> usize;
    fn errors(&self) -> Vec<Arc<KeyError>>;
    /// Add what rows, values and indexes take, from the accounts or counted anew.
    fn memory(&self, recount: bool, memory: &mut Memory);
    fn each_row(&self, visit: &mut dyn FnMut(&dyn Debug, &dyn Debug, Revision));
    /// Every row as an addition.
    fn as_delta(&self) -> Arc<dyn AnyDelta>;
    /// What `self`, the incremental state, and `other`, the recomputed one, disagree on.
    fn compare(&self, other: &dyn AnyState, collection: &str, out: &mut Vec<Difference>);
}

impl<K: Key, V: Value> State<K, V> {
    pub(crate) fn new(errors: Box<dyn AnyErrors>) -> Self {
        Self {
            rows: OrdMap::default(),
            indexes: Vec::new(),
            errors,
            unindexed: OrdMap::default(),
            same: Arc::new(|old: &V, new: &V| old == new),
            weigh: None,
            weight: 0,
        }
    }

    fn weight_of(&self, key: &K, value: Option<&Arc<V>>) -> usize {
        let (Some(weigh), Some(value)) = (&self.weigh, value) else { return 0 };
        guarded(|| weigh(key, value)).unwrap_or(0)
    }

    pub(crate) fn index<I: Key>(&self, slot: u32) -> Option<&IndexState<K, V, I>> {
        self.indexes.get(slot as usize)?.as_any().downcast_ref()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&Arc<V>> {
        self.rows.get(key).map(|row| &row.value)
    }

    /// Equality that counts as the cutoff. An equality that panics holds nothing back.
    pub(crate) fn is_same(&self, old: &Arc<V>, new: &Arc<V>) -> bool {
        Arc::ptr_eq(old, new) || catch_unwind(AssertUnwindSafe(|| (self.same)(old, new))).unwrap_or(false)
    }

    /// Apply sorted changes to rows and indexes, and tell the watches.
    pub(crate) fn apply(&mut self, changes: &[Change<K, V>], watch: &mut Watch<K, V>, fired: &mut Fired<'_>) {
        for change in changes {
            if self.weigh.is_some() {
                self.weight += self.weight_of(&change.key, change.new.as_ref());
                self.weight -= self.weight_of(&change.key, change.old.as_ref());
            }
            match &change.new {
                Some(value) => {
                    let row = Row { value: Arc::clone(value), changed_at: fired.revision };
                    self.rows.insert(change.key.clone(), row);
                }
                None => {
                    self.rows.remove(&change.key);
                }
            }
            let mut failed = None;
            for (slot, index) in self.indexes.iter_mut().enumerate() {
                if let Err(reason) = index.apply(change, watch, slot, fired) {
                    failed = Some(reason);
                }
            }
            match failed {
                Some(failure) => {
                    let error = KeyError {
                        key: format!("{:?}", change.key),
                        failure,
                        panicked: true,
                        since: fired.revision,
                    };
                    self.unindexed.insert(change.key.clone(), Arc::new(error));
                }
                None if self.unindexed.is_empty() => {}
                None => {
                    self.unindexed.remove(&change.key);
                }
            }
            watch.row_changed(change, fired);
        }
    }
}

impl<K: Key, V: Value> AnyState for State<K, V> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn fresh(&self) -> Arc<dyn AnyState> {
        Arc::new(Self {
            rows: OrdMap::default(),
            indexes: self.indexes.iter().map(|index| index.fresh()).collect(),
            errors: self.errors.fresh(),
            unindexed: OrdMap::default(),
            same: Arc::clone(&self.same),
            weigh: self.weigh.clone(),
            weight: 0,
        })
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn errors(&self) -> Vec<Arc<KeyError>> {
        let mut all = self.errors.list();
        all.extend(self.unindexed.iter().map(|(_, error)| Arc::clone(error)));
        all
    }

    fn memory(&self, recount: bool, memory: &mut Memory) {
        let (rows, weight) = if recount {
            let weights = self.rows.iter().map(|(key, row)| self.weight_of(key, Some(&row.value)));
            (self.rows.iter().count(), weights.sum())
        } else {
            (self.rows.len(), self.weight)
        };
        memory.rows += rows * size_of::<(K, Row<V>)>();
        memory.values += rows * (SHARED + size_of::<V>()) + weight;
        memory.indexes += self.indexes.iter().map(|index| index.memory(recount)).sum::<usize>();
    }

    fn each_row(&self, visit: &mut dyn FnMut(&dyn Debug, &dyn Debug, Revision)) {
        for (key, row) in self.rows.iter() {
            visit(key, &row.value, row.changed_at);
        }
    }

    fn as_delta(&self) -> Arc<dyn AnyDelta> {
        let changes = self.rows.iter().map(|(key, row)| Change {
            key: key.clone(),
            old: None,
            new: Some(Arc::clone(&row.value)),
        });
        let errors = self.errors.list().into_iter().map(|error| (error.key.clone(), Some(error))).collect();
        Arc::new(Delta { changes: changes.collect(), errors })
    }

    fn compare(&self, other: &dyn AnyState, collection: &str, out: &mut Vec<Difference>) {
        let Some(other) = other.as_any().downcast_ref::<Self>() else { return };
        let mut differ = |key: &dyn Debug, incremental: &dyn Debug, recomputed: &dyn Debug| {
            out.push(Difference {
                collection: collection.to_owned(),
                key: format!("{key:?}"),
                incremental: format!("{incremental:?}"),
                recomputed: format!("{recomputed:?}"),
            });
        };
        for (key, row) in self.rows.iter() {
            match other.get(key) {
                Some(value) if self.is_same(&row.value, value) => {}
                found => differ(key, &Some(&row.value), &found),
            }
        }
        for (key, row) in other.rows.iter() {
            if self.get(key).is_none() {
                differ(key, &None::<()>, &Some(&row.value));
            }
        }
        let failures = |state: &Self| -> Vec<(String, crate::Failure)> {
            AnyState::errors(state).iter().map(|error| (error.key.clone(), error.failure.clone())).collect()
        };
        let (mine, theirs) = (failures(self), failures(other));
        if mine != theirs {
            differ(&"(errors)", &mine, &theirs);
        }
        for (mine, theirs) in self.indexes.iter().zip(&other.indexes) {
            if let Some((mine, theirs)) = mine.compare(theirs.as_ref()) {
                differ(&"(index)", &mine, &theirs);
            }
        }
    }
}

/// One index of a collection: the rows under each value, in key order.
pub(crate) struct IndexState<K, V, I> {
    pub(crate) groups: OrdMap<I, OrdMap<K, Arc<V>>>,
    /// Entries in all groups.
    pub(crate) entries: usize,
    pub(crate) extract: Extract<K, V, I>,
    /// What a selector index needs besides: the full selector of a row.
    pub(crate) selector: Option<Arc<dyn Any + Send + Sync>>,
}

impl<K: Key, V: Value, I: Key> IndexState<K, V, I> {
    pub(crate) fn values(&self, key: &K, value: Option<&Arc<V>>) -> Result<Vec<I>, crate::Failure> {
        let mut values = Vec::new();
        if let Some(value) = value {
            guarded(|| (self.extract)(key, value, &mut values))?;
            if values.len() > 1 {
                values.sort();
                values.dedup();
            }
        }
        Ok(values)
    }
}

/// An [`IndexState`] without the type of its values.
pub(crate) trait AnyIndex<K, V>: Any + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn boxed(&self) -> Box<dyn AnyIndex<K, V>>;
    fn fresh(&self) -> Box<dyn AnyIndex<K, V>>;
    fn apply(
        &mut self,
        change: &Change<K, V>,
        watch: &mut Watch<K, V>,
        slot: usize,
        fired: &mut Fired<'_>,
    ) -> Result<(), crate::Failure>;
    /// Bytes of entries and groups, from the accounts or counted anew.
    fn memory(&self, recount: bool) -> usize;
    /// Texts of both sides when they differ.
    fn compare(&self, other: &dyn AnyIndex<K, V>) -> Option<(String, String)>;
}

impl<K: Key, V: Value, I: Key> AnyIndex<K, V> for IndexState<K, V, I> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn boxed(&self) -> Box<dyn AnyIndex<K, V>> {
        Box::new(Self {
            groups: self.groups.clone(),
            entries: self.entries,
            extract: Arc::clone(&self.extract),
            selector: self.selector.clone(),
        })
    }

    fn fresh(&self) -> Box<dyn AnyIndex<K, V>> {
        Box::new(Self {
            groups: OrdMap::default(),
            entries: 0,
            extract: Arc::clone(&self.extract),
            selector: self.selector.clone(),
        })
    }

    fn apply(
        &mut self,
        change: &Change<K, V>,
        watch: &mut Watch<K, V>,
        slot: usize,
        fired: &mut Fired<'_>,
    ) -> Result<(), crate::Failure> {
        // A value that could not be indexed when it came is in no group when it goes.
        let old = self.values(&change.key, change.old.as_ref()).unwrap_or_default();
        let (new, result) = match self.values(&change.key, change.new.as_ref()) {
            Ok(new) => (new, Ok(())),
            Err(failure) => (Vec::new(), Err(failure)),
        };
        for value in &old {
            if new.binary_search(value).is_err()
                && let Some(group) = self.groups.get_mut(value)
            {
                self.entries -= usize::from(group.remove(&change.key).is_some());
                if group.is_empty() {
                    self.groups.remove(value);
                }
            }
        }
        if let Some(row) = &change.new {
            for value in &new {
                match self.groups.get_mut(value) {
                    Some(group) => {
                        let held = group.insert(change.key.clone(), Arc::clone(row));
                        self.entries += usize::from(held.is_none());
                    }
                    None => {
                        let mut group = OrdMap::default();
                        group.insert(change.key.clone(), Arc::clone(row));
                        self.groups.insert(value.clone(), group);
                        self.entries += 1;
                    }
                }
            }
        }
        let (indexes, entries) = watch.parts();
        if let Some(values) = indexes[slot].as_any_mut().downcast_mut::<IndexWatch<I>>()
            && !values.is_empty()
        {
            for value in old.iter().filter(|value| new.binary_search(value).is_err()).chain(&new) {
                let moved = old.binary_search(value).is_err() || new.binary_search(value).is_err();
                values.changed(value, moved, change, entries, fired);
            }
        }
        result
    }

    fn memory(&self, recount: bool) -> usize {
        let (groups, entries) = if recount {
            (self.groups.iter().count(), self.groups.iter().map(|(_, group)| group.iter().count()).sum())
        } else {
            (self.groups.len(), self.entries)
        };
        groups * size_of::<(I, OrdMap<K, Arc<V>>)>() + entries * size_of::<(K, Arc<V>)>()
    }

    fn compare(&self, other: &dyn AnyIndex<K, V>) -> Option<(String, String)> {
        let other = other.as_any().downcast_ref::<Self>()?;
        let keys = |state: &Self| -> Vec<(I, Vec<K>)> {
            state
                .groups
                .iter()
                .map(|(value, group)| (value.clone(), group.iter().map(|(key, _)| key.clone()).collect()))
                .collect()
        };
        let (mine, theirs) = (keys(self), keys(other));
        (mine != theirs).then(|| (format!("{mine:?}"), format!("{theirs:?}")))
    }
}

/// The errors of a derived collection by source key, without the type of that key.
pub(crate) trait AnyErrors: Any + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn boxed(&self) -> Box<dyn AnyErrors>;
    fn fresh(&self) -> Box<dyn AnyErrors>;
    fn list(&self) -> Vec<Arc<KeyError>>;
}

pub(crate) struct Errors<S>(pub(crate) OrdMap<S, Arc<KeyError>>);

impl<S: Key> AnyErrors for Errors<S> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn boxed(&self) -> Box<dyn AnyErrors> {
        Box::new(Self(self.0.clone()))
    }

    fn fresh(&self) -> Box<dyn AnyErrors> {
        Box::new(Self(OrdMap::default()))
    }

    fn list(&self) -> Vec<Arc<KeyError>> {
        self.0.iter().map(|(_, error)| Arc::clone(error)).collect()
    }
}

/// An error that came, changed or went (`None`) in a revision, with its source key as `Debug` prints it.
pub type ErrorChange = (String, Option<Arc<KeyError>>);

/// What one revision changed in one collection.
pub(crate) struct Delta<K, V> {
    pub(crate) changes: Vec<Change<K, V>>,
    pub(crate) errors: Vec<ErrorChange>,
}

/// A [`Delta`] without its types.
pub(crate) trait AnyDelta: Any + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn len(&self) -> usize;
    fn errors(&self) -> &[ErrorChange];
}

impl<K: Key, V: Value> AnyDelta for Delta<K, V> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn len(&self) -> usize {
        self.changes.len()
    }

    fn errors(&self) -> &[ErrorChange] {
        &self.errors
    }
}

/// The typed state behind a shared handle, to be changed: in place when nobody else holds it, else in a shallow copy.
pub(crate) fn state_mut<K: Key, V: Value>(shared: &mut Arc<dyn AnyState>) -> &mut State<K, V> {
    if Arc::get_mut(shared).is_none() {
        let copy = state_of::<K, V>(shared).clone();
        *shared = Arc::new(copy);
    }
    Arc::get_mut(shared)
        .and_then(|state| state.as_any_mut().downcast_mut())
        .expect("a handle's types are those its collection was declared with")
}

pub(crate) fn state_of<K: Key, V: Value>(shared: &Arc<dyn AnyState>) -> &State<K, V> {
    shared
        .as_ref()
        .as_any()
        .downcast_ref()
        .expect("a handle's types are those its collection was declared with")
}

/// Runs the caller's code; a panic becomes a reason.
pub(crate) fn guarded<T>(code: impl FnOnce() -> T) -> Result<T, crate::Failure> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        crate::Failure::Err(text)
    })
}
