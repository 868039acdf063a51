//! The rows, indexes and errors of one collection at one revision: what snapshots share and commits replace.

use std::any::Any;
use std::collections::BTreeMap;
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
        if self.weigh.is_some() {
            for change in changes {
                self.weight += self.weight_of(&change.key, change.new.as_ref());
                self.weight -= self.weight_of(&change.key, change.old.as_ref());
            }
        }
        let row = |value: &Arc<V>| Row { value: Arc::clone(value), changed_at: fired.revision };
        let put = |change: &Change<K, V>| Some((change.key.clone(), row(change.new.as_ref()?)));
        let puts = changes.iter().filter(|change| change.new.is_some()).count();
        self.rows.extend_sorted(puts, changes.iter().filter_map(put));
        if puts < changes.len() {
            for change in changes.iter().filter(|change| change.new.is_none()) {
                self.rows.remove(&change.key);
            }
        }
        let mut failed = BTreeMap::new();
        for (slot, index) in self.indexes.iter_mut().enumerate() {
            index.apply(changes, watch, slot, fired, &mut failed);
        }
        if !failed.is_empty() || !self.unindexed.is_empty() {
            self.note_unindexed(changes, failed, fired.revision);
        }
        if !watch.is_idle() {
            changes.iter().for_each(|change| watch.row_changed(change, fired));
        }
    }

    /// Of the changed rows, those that an index could not take are listed with the reason, and no others.
    fn note_unindexed(
        &mut self,
        changes: &[Change<K, V>],
        mut failed: BTreeMap<usize, crate::Failure>,
        since: Revision,
    ) {
        for (at, change) in changes.iter().enumerate() {
            match failed.remove(&at) {
                Some(failure) => {
                    let error = KeyError { key: format!("{:?}", change.key), failure, panicked: true, since };
                    self.unindexed.insert(change.key.clone(), Arc::new(error));
                }
                None => drop(self.unindexed.remove(&change.key)),
            }
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
    /// Of a selector index: the rows that have more values than the one they are held under.
    more: OrdMap<K, ()>,
}

impl<K: Key, V: Value, I: Key> IndexState<K, V, I> {
    pub(crate) fn new(extract: Extract<K, V, I>, selector: Option<Arc<dyn Any + Send + Sync>>) -> Self {
        Self { groups: OrdMap::default(), entries: 0, extract, selector, more: OrdMap::default() }
    }

    /// Of a selector index: whether the row has more values than the one it is held under.
    pub(crate) fn has_more(&self, key: &K) -> bool {
        self.more.get(key).is_some()
    }

    /// The values that a row is to be held under, in order, into an empty buffer. Gives whether the row has more.
    fn values(&self, key: &K, value: Option<&Arc<V>>, out: &mut Vec<I>) -> Result<bool, crate::Failure> {
        out.clear();
        let Some(value) = value else { return Ok(false) };
        if let Err(failure) = guarded(|| (self.extract)(key, value, out)) {
            out.clear();
            return Err(failure);
        }
        if self.selector.is_some() {
            let has_more = out.len() > 1;
            out.truncate(1);
            return Ok(has_more);
        }
        if out.len() > 1 {
            out.sort();
            out.dedup();
        }
        Ok(false)
    }

    fn remove(&mut self, value: &I, key: &K) {
        let Some(group) = self.groups.get_mut(value) else { return };
        self.entries -= usize::from(group.remove(key).is_some());
        if group.is_empty() {
            self.groups.remove(value);
        }
    }

    fn insert(&mut self, value: &I, key: &K, row: &Arc<V>) {
        if let Some(group) = self.groups.get_mut(value) {
            self.entries += usize::from(group.insert(key.clone(), Arc::clone(row)).is_none());
            return;
        }
        let mut group = OrdMap::default();
        group.insert(key.clone(), Arc::clone(row));
        self.groups.insert(value.clone(), group);
        self.entries += 1;
    }

    /// Rows, each by its place in `changes`, into the groups of their values, which are together then.
    fn insert_all(&mut self, mut coming: Vec<(I, usize)>, changes: &[Change<K, V>]) {
        coming.sort_by(|left, right| left.0.cmp(&right.0));
        let mut new = Vec::new();
        for run in coming.chunk_by(|left, right| left.0 == right.0) {
            let row = |(_, at): &(I, usize)| {
                let change = &changes[*at];
                Some((change.key.clone(), Arc::clone(change.new.as_ref()?)))
            };
            let members = run.iter().filter_map(row);
            if let Some(group) = self.groups.get_mut(&run[0].0) {
                self.entries -= group.len();
                group.extend_sorted(run.len(), members);
                self.entries += group.len();
            } else {
                let mut group = OrdMap::default();
                group.extend_sorted(run.len(), members);
                self.entries += group.len();
                new.push((run[0].0.clone(), group));
            }
        }
        self.groups.extend_sorted(new.len(), new.into_iter());
    }
}

/// From so many changed rows on, an index takes them in sorted by their values.
const TOGETHER: usize = 64;

/// An [`IndexState`] without the type of its values.
pub(crate) trait AnyIndex<K, V>: Any + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn boxed(&self) -> Box<dyn AnyIndex<K, V>>;
    fn fresh(&self) -> Box<dyn AnyIndex<K, V>>;
    /// Take in changed rows, and tell who watches. Rows that the extractor panics on are in no group; they are added to
    /// `failed`, by their place in `changes`.
    fn apply(
        &mut self,
        changes: &[Change<K, V>],
        watch: &mut Watch<K, V>,
        slot: usize,
        fired: &mut Fired<'_>,
        failed: &mut BTreeMap<usize, crate::Failure>,
    );
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
            more: self.more.clone(),
        })
    }

    fn fresh(&self) -> Box<dyn AnyIndex<K, V>> {
        Box::new(Self::new(Arc::clone(&self.extract), self.selector.clone()))
    }

    fn apply(
        &mut self,
        changes: &[Change<K, V>],
        watch: &mut Watch<K, V>,
        slot: usize,
        fired: &mut Fired<'_>,
        failed: &mut BTreeMap<usize, crate::Failure>,
    ) {
        let (indexes, entries) = watch.parts();
        let values = indexes[slot].as_any_mut().downcast_mut::<IndexWatch<I>>();
        let values = values.filter(|values| !values.is_empty());
        let together = changes.len() >= TOGETHER;
        let (mut coming, mut old, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for (at, change) in changes.iter().enumerate() {
            // A value that could not be indexed when it came is in no group when it goes.
            let had_more = self.values(&change.key, change.old.as_ref(), &mut old).unwrap_or(false);
            let has_more =
                self.values(&change.key, change.new.as_ref(), &mut new).unwrap_or_else(|failure| {
                    failed.insert(at, failure);
                    false
                });
            match (had_more, has_more) {
                (true, false) => drop(self.more.remove(&change.key)),
                (false, true) => drop(self.more.insert(change.key.clone(), ())),
                _ => {}
            }
            for value in old.iter().filter(|value| new.binary_search(value).is_err()) {
                self.remove(value, &change.key);
            }
            if let Some(values) = &values {
                for value in old.iter().filter(|value| new.binary_search(value).is_err()).chain(&new) {
                    let moved = old.binary_search(value).is_err() || new.binary_search(value).is_err();
                    values.changed(value, moved, change, entries, fired);
                }
            }
            if together {
                coming.extend(new.drain(..).map(|value| (value, at)));
            } else if let Some(row) = &change.new {
                new.iter().for_each(|value| self.insert(value, &change.key, row));
            }
        }
        if together {
            self.insert_all(coming, changes);
        }
    }

    fn memory(&self, recount: bool) -> usize {
        let (groups, entries) = if recount {
            (self.groups.iter().count(), self.groups.iter().map(|(_, group)| group.iter().count()).sum())
        } else {
            (self.groups.len(), self.entries)
        };
        groups * size_of::<(I, OrdMap<K, Arc<V>>)>()
            + entries * size_of::<(K, Arc<V>)>()
            + self.more.len() * size_of::<K>()
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
