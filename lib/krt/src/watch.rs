//! Who read what: per collection, the access paths that transforms have read and the (collection, key) pairs that read them.
//!
//! A path is interned to a slot number while anybody depends on it, so an edge costs eight bytes on either side. A change
//! is looked up by path with both its old and its new row; it never walks the readers of other paths.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use crate::map::OrdMap;
use crate::memory::Memory;
use crate::pair::{LabelSet, Sought};
use crate::readers::{Reader, Readers};
use crate::slot_set::{Slot, SlotSet};
use crate::state::guarded;
use crate::{Change, Key, Labels, Revision, Value};

/// A recorded read: the collection read and the slot of the path there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Read {
    pub(crate) node: u32,
    pub(crate) path: u32,
}

/// Where a commit collects what its changes made dirty: slots of source keys, per collection.
pub(crate) struct Fired<'a> {
    pub(crate) revision: Revision,
    pub(crate) dirty: &'a mut [Vec<u32>],
}

/// Does a change matter to a read that looked through a predicate or a projection? Boxed, for most of them own nothing,
/// and then a box takes no room.
pub(crate) type Matters<K, V> = Box<dyn Fn(&K, Option<&V>, Option<&V>) -> bool + Send + Sync>;

/// What is read of a collection. Everything but keys is boxed: it is larger, and most paths are keys.
pub(crate) enum Path<K, V> {
    Key(K),
    Exists(K),
    Project(Box<(K, Matters<K, V>)>),
    Wide(Box<Wide<K, V>>),
}

/// A path that the changes of several keys can fire.
pub(crate) struct Wide<K, V> {
    /// The key that last did.
    fired_key: Option<K>,
    what: What<K, V>,
}

enum What<K, V> {
    Scan,
    ScanWhere(Matters<K, V>),
    Index { index: u32, value: Box<dyn AnyKey>, kind: IndexRead<K, V> },
}

pub(crate) enum IndexRead<K, V> {
    Rows,
    Count,
    Where(Matters<K, V>),
    /// Rows whose labels (or selectors) match these; equal labels share one path.
    Labels(LabelSet, Matters<K, V>),
}

impl<K, V> IndexRead<K, V> {
    fn is_narrowed(&self) -> bool {
        matches!(self, Self::Where(_) | Self::Labels(..))
    }
}

/// A key without its type.
pub(crate) trait AnyKey: Any + Debug + Send + Sync {
    fn as_any(&self) -> &dyn Any;
}

impl<K: Key> AnyKey for K {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub(crate) struct Entry<K, V> {
    readers: Readers,
    /// The last revision in which the path changed (`MAX`: never).
    fired: Revision,
    path: Path<K, V>,
}

impl<K, V> Path<K, V> {
    /// The one key that fires it, if it is one.
    fn key(&self) -> Option<&K> {
        match self {
            Self::Key(key) | Self::Exists(key) => Some(key),
            Self::Project(part) => Some(&part.0),
            Self::Wide(_) => None,
        }
    }
}

impl<K: Key, V: Value> Entry<K, V> {
    fn fire(&mut self, key: &K, fired: &mut Fired<'_>) {
        // All changes of a collection are taken in before any of its readers runs: one mark per revision is enough.
        if self.fired == fired.revision {
            return;
        }
        self.fired = fired.revision;
        if let Path::Wide(wide) = &mut self.path {
            wide.fired_key = Some(key.clone());
        }
        self.readers.mark(fired.dirty);
    }
}

/// Slots with a free list.
pub(crate) struct Entries<K, V> {
    slots: Vec<Option<Entry<K, V>>>,
    free: Vec<u32>,
    /// Readers of all paths.
    edges: usize,
}

impl<K: Key, V: Value> Entries<K, V> {
    /// The slot of the path that is inserted next.
    fn next(&self) -> u32 {
        let end = || u32::try_from(self.slots.len()).expect("fewer than 2^32 access paths are read at once");
        self.free.last().copied().unwrap_or_else(end)
    }

    fn insert(&mut self, path: Path<K, V>) -> u32 {
        let entry = Entry { readers: Readers::None, fired: Revision::MAX, path };
        let slot = self.next();
        match self.free.pop() {
            Some(_) => self.slots[slot as usize] = Some(entry),
            None => crate::slots::push(&mut self.slots, Some(entry)),
        }
        slot
    }

    fn insert_wide(&mut self, what: What<K, V>) -> u32 {
        self.insert(Path::Wide(Box::new(Wide { fired_key: None, what })))
    }

    fn fire(&mut self, slot: u32, key: &K, fired: &mut Fired<'_>) {
        if let Some(entry) = &mut self.slots[slot as usize] {
            entry.fire(key, fired);
        }
    }

    fn fire_if(&mut self, slot: u32, change: &Change<K, V>, fired: &mut Fired<'_>) {
        let Some(entry) = &mut self.slots[slot as usize] else { return };
        let matters = match &entry.path {
            Path::Project(part) => &part.1,
            Path::Wide(wide) => match &wide.what {
                What::ScanWhere(matters)
                | What::Index { kind: IndexRead::Where(matters) | IndexRead::Labels(_, matters), .. } => {
                    matters
                }
                What::Scan | What::Index { .. } => return,
            },
            Path::Key(_) | Path::Exists(_) => return,
        };
        // A predicate that panics decides nothing: run, and let the run report it.
        let matters =
            guarded(|| matters(&change.key, change.old.as_deref(), change.new.as_deref())).unwrap_or(true);
        if matters {
            entry.fire(&change.key, fired);
        }
    }
}

/// The paths that lead to one key.
#[derive(Clone)]
struct KeyPaths {
    value: Slot,
    exists: Slot,
    projections: SlotSet,
}

impl Default for KeyPaths {
    fn default() -> Self {
        Self { value: Slot::NONE, exists: Slot::NONE, projections: SlotSet::default() }
    }
}

#[derive(Clone)]
struct ValuePaths {
    rows: Slot,
    count: Slot,
    filtered: SlotSet,
    /// Boxed when there are any: only label and selector indexes have them.
    labels: Option<Box<OrdMap<LabelSet, u32>>>,
}

impl Default for ValuePaths {
    fn default() -> Self {
        Self { rows: Slot::NONE, count: Slot::NONE, filtered: SlotSet::default(), labels: None }
    }
}

/// The paths read through one index.
pub(crate) struct IndexWatch<I> {
    values: OrdMap<I, ValuePaths>,
}

impl<I: Key> IndexWatch<I> {
    pub(crate) fn new() -> Self {
        Self { values: OrdMap::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// A row under `value` changed; `moved` when it entered or left.
    pub(crate) fn changed<K: Key, V: Value>(
        &self,
        value: &I,
        moved: bool,
        change: &Change<K, V>,
        entries: &mut Entries<K, V>,
        fired: &mut Fired<'_>,
    ) {
        let Some(paths) = self.values.get(value) else { return };
        // A row that appears or goes changes the number even where its old or new self has the same index value.
        let moved = moved || change.old.is_none() != change.new.is_none();
        if let Some(slot) = paths.rows.get() {
            entries.fire(slot, &change.key, fired);
        }
        if let Some(slot) = paths.count.get().filter(|_| moved) {
            entries.fire(slot, &change.key, fired);
        }
        let labels = paths.labels.iter().flat_map(|labels| labels.iter().map(|(_, slot)| *slot));
        for slot in paths.filtered.iter().chain(labels) {
            entries.fire_if(slot, change, fired);
        }
    }
}

pub(crate) trait AnyIndexWatch: Any + Send + Sync {
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn fresh(&self) -> Box<dyn AnyIndexWatch>;
    /// Forget a path; `labels` is what it was interned by, if it was.
    fn release(&mut self, value: &dyn Any, slot: u32, labels: Option<&LabelSet>);
}

impl<I: Key> AnyIndexWatch for IndexWatch<I> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn fresh(&self) -> Box<dyn AnyIndexWatch> {
        Box::new(Self::new())
    }

    fn release(&mut self, value: &dyn Any, slot: u32, labels: Option<&LabelSet>) {
        let Some(value) = value.downcast_ref::<I>() else { return };
        let Some(paths) = self.values.get_mut(value) else { return };
        paths.rows.release(slot);
        paths.count.release(slot);
        match labels {
            Some(labels) => {
                if let Some(held) = &mut paths.labels {
                    held.remove(labels);
                    paths.labels = paths.labels.take().filter(|held| !held.is_empty());
                }
            }
            None => paths.filtered.remove(slot),
        }
        if paths.rows == Slot::NONE
            && paths.count == Slot::NONE
            && paths.filtered.is_empty()
            && paths.labels.is_none()
        {
            self.values.remove(value);
        }
    }
}

/// The access paths read of one collection.
pub(crate) struct Watch<K, V> {
    keys: OrdMap<K, KeyPaths>,
    scan: Option<u32>,
    filtered: BTreeSet<u32>,
    indexes: Vec<Box<dyn AnyIndexWatch>>,
    index_names: Vec<String>,
    entries: Entries<K, V>,
}

impl<K: Key, V: Value> Watch<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            keys: OrdMap::default(),
            scan: None,
            filtered: BTreeSet::new(),
            indexes: Vec::new(),
            index_names: Vec::new(),
            entries: Entries { slots: Vec::new(), free: Vec::new(), edges: 0 },
        }
    }

    pub(crate) fn add_index<I: Key>(&mut self, name: &str) {
        self.indexes.push(Box::new(IndexWatch::<I>::new()));
        self.index_names.push(name.to_owned());
    }

    pub(crate) fn parts(&mut self) -> (&mut [Box<dyn AnyIndexWatch>], &mut Entries<K, V>) {
        (&mut self.indexes, &mut self.entries)
    }

    /// Fire the paths that do not go through an index.
    pub(crate) fn row_changed(&mut self, change: &Change<K, V>, fired: &mut Fired<'_>) {
        if !self.keys.is_empty()
            && let Some(paths) = self.keys.get(&change.key)
        {
            if let Some(slot) = paths.value.get() {
                self.entries.fire(slot, &change.key, fired);
            }
            if let Some(slot) = paths.exists.get().filter(|_| change.old.is_none() != change.new.is_none()) {
                self.entries.fire(slot, &change.key, fired);
            }
            for slot in paths.projections.iter() {
                self.entries.fire_if(slot, change, fired);
            }
        }
        if let Some(slot) = self.scan {
            self.entries.fire(slot, &change.key, fired);
        }
        for slot in &self.filtered {
            self.entries.fire_if(*slot, change, fired);
        }
    }

    /// Whether nobody reads anything that does not go through an index.
    pub(crate) fn is_idle(&self) -> bool {
        self.keys.is_empty() && self.scan.is_none() && self.filtered.is_empty()
    }

    fn paths_of(&mut self, key: &K, change: impl FnOnce(&mut KeyPaths)) {
        if let Some(paths) = self.keys.get_mut(key) {
            return change(paths);
        }
        let mut paths = KeyPaths::default();
        change(&mut paths);
        self.keys.insert(key.clone(), paths);
    }

    pub(crate) fn read_key(&mut self, key: &K) -> u32 {
        if let Some(slot) = self.keys.get(key).and_then(|paths| paths.value.get()) {
            return slot;
        }
        let slot = self.entries.insert(Path::Key(key.clone()));
        self.paths_of(key, |paths| paths.value = Slot::new(slot));
        slot
    }

    pub(crate) fn read_exists(&mut self, key: &K) -> u32 {
        if let Some(slot) = self.keys.get(key).and_then(|paths| paths.exists.get()) {
            return slot;
        }
        let slot = self.entries.insert(Path::Exists(key.clone()));
        self.paths_of(key, |paths| paths.exists = Slot::new(slot));
        slot
    }

    pub(crate) fn read_projection(&mut self, key: &K, matters: Matters<K, V>) -> u32 {
        let slot = self.entries.insert(Path::Project(Box::new((key.clone(), matters))));
        self.paths_of(key, |paths| paths.projections.insert(slot));
        slot
    }

    pub(crate) fn read_scan(&mut self) -> u32 {
        match self.scan {
            Some(slot) => slot,
            None => {
                let slot = self.entries.insert_wide(What::Scan);
                self.scan = Some(slot);
                slot
            }
        }
    }

    pub(crate) fn read_scan_where(&mut self, matters: Matters<K, V>) -> u32 {
        let slot = self.entries.insert_wide(What::ScanWhere(matters));
        self.filtered.insert(slot);
        slot
    }

    pub(crate) fn read_index<I: Key>(
        &mut self,
        index: u32,
        value: &impl Sought<I>,
        kind: IndexRead<K, V>,
    ) -> u32 {
        let watch = self.indexes[index as usize].as_any_mut().downcast_mut::<IndexWatch<I>>();
        let watch = watch.expect("an index handle's types are those it was declared with");
        let paths = watch.values.find(|held| value.order(held)).map(|(_, paths)| paths);
        let held = paths.and_then(|paths| match &kind {
            IndexRead::Rows => paths.rows.get(),
            IndexRead::Count => paths.count.get(),
            IndexRead::Where(_) => None,
            IndexRead::Labels(labels, _) => paths.labels.as_ref()?.get(labels).copied(),
        });
        if let Some(slot) = held {
            return slot;
        }
        if paths.is_none() {
            watch.values.insert(value.owned(), ValuePaths::default());
        }
        let paths = watch.values.find_mut(|held| value.order(held)).expect("it is there by now");
        let next = self.entries.next();
        match &kind {
            IndexRead::Rows => paths.rows = Slot::new(next),
            IndexRead::Count => paths.count = Slot::new(next),
            IndexRead::Where(_) => paths.filtered.insert(next),
            IndexRead::Labels(labels, _) => {
                paths.labels.get_or_insert_default().insert(labels.clone(), next);
            }
        }
        let slot = self.entries.insert_wide(What::Index { index, value: Box::new(value.owned()), kind });
        debug_assert_eq!(slot, next, "a path is put where it was said to come");
        slot
    }

    /// The path of these labels, which come with their digest, under an index value, if somebody reads it already: then
    /// nothing need be made.
    pub(crate) fn known_labels<I: Key>(
        &mut self,
        index: u32,
        value: &impl Sought<I>,
        digest: u64,
        labels: &Labels,
    ) -> Option<u32> {
        let watch = self.indexes[index as usize].as_any_mut().downcast_mut::<IndexWatch<I>>()?;
        let (_, paths) = watch.values.find(|held| value.order(held))?;
        paths.labels.as_ref()?.find(|held| held.order(digest, labels)).map(|(_, slot)| *slot)
    }
}

/// A [`Watch`] without its types.
pub(crate) trait AnyWatch: Any + Send + Sync {
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn fresh(&self) -> Box<dyn AnyWatch>;
    fn add_reader(&mut self, path: u32, reader: Reader);
    /// Take a reader off a path; a path without readers is forgotten. Also forgets a path that was never given one.
    fn remove_reader(&mut self, path: u32, reader: Reader);
    fn describe(&self, path: u32) -> String;
    /// How a path reads: `key`, `index services_by_namespace`, `scan` …
    fn kind(&self, path: u32) -> String;
    /// Whether the path may have been one of several that give the same: the narrowest at the time of the run.
    fn is_choice(&self, path: u32) -> bool;
    /// The key whose change fired the path in this revision.
    fn fired(&self, path: u32, revision: Revision) -> Option<Arc<dyn AnyKey>>;
    /// Paths held and edges to readers.
    fn size(&self) -> (usize, usize);
    /// Add what paths and edges take, from the accounts or counted anew.
    fn memory(&self, recount: bool, memory: &mut Memory);
}

impl<K: Key, V: Value> AnyWatch for Watch<K, V> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn fresh(&self) -> Box<dyn AnyWatch> {
        let mut fresh = Self::new();
        fresh.indexes = self.indexes.iter().map(|index| index.fresh()).collect();
        fresh.index_names.clone_from(&self.index_names);
        Box::new(fresh)
    }

    fn add_reader(&mut self, path: u32, reader: Reader) {
        if let Some(entry) = &mut self.entries.slots[path as usize] {
            self.entries.edges += usize::from(entry.readers.insert(reader));
        }
    }

    fn remove_reader(&mut self, path: u32, reader: Reader) {
        let Some(entry) = &mut self.entries.slots[path as usize] else { return };
        self.entries.edges -= usize::from(entry.readers.remove(reader));
        if entry.readers.len() > 0 {
            return;
        }
        let Some(entry) = self.entries.slots[path as usize].take() else { return };
        self.entries.free.push(path);
        if let Some(key) = entry.path.key() {
            let Some(paths) = self.keys.get_mut(key) else { return };
            paths.value.release(path);
            paths.exists.release(path);
            paths.projections.remove(path);
            if paths.value == Slot::NONE && paths.exists == Slot::NONE && paths.projections.is_empty() {
                self.keys.remove(key);
            }
        }
        let Path::Wide(wide) = &entry.path else { return };
        match &wide.what {
            What::Scan => self.scan = None,
            What::ScanWhere(_) => {
                self.filtered.remove(&path);
            }
            What::Index { index, value, kind } => {
                let labels = match kind {
                    IndexRead::Labels(labels, _) => Some(labels),
                    _ => None,
                };
                self.indexes[*index as usize].release(value.as_ref().as_any(), path, labels);
            }
        }
    }

    fn describe(&self, path: u32) -> String {
        let Some(entry) = &self.entries.slots[path as usize] else { return String::new() };
        match &entry.path {
            Path::Key(key) => format!("key {key:?}"),
            Path::Exists(key) => format!("exists {key:?}"),
            Path::Project(part) => format!("part of {:?}", part.0),
            Path::Wide(wide) => match &wide.what {
                What::Scan | What::ScanWhere(_) => self.kind(path),
                What::Index { value, .. } => format!("{} = {value:?}", self.kind(path)),
            },
        }
    }

    fn kind(&self, path: u32) -> String {
        let Some(entry) = &self.entries.slots[path as usize] else { return String::new() };
        match &entry.path {
            Path::Key(_) => "key".to_owned(),
            Path::Exists(_) => "exists".to_owned(),
            Path::Project(_) => "part".to_owned(),
            Path::Wide(wide) => match &wide.what {
                What::Scan => "scan".to_owned(),
                What::ScanWhere(_) => "scan where".to_owned(),
                What::Index { index, kind, .. } => {
                    let name = &self.index_names[*index as usize];
                    match kind {
                        IndexRead::Rows => format!("index {name}"),
                        IndexRead::Count => format!("count {name}"),
                        IndexRead::Where(_) | IndexRead::Labels(..) => format!("index {name} where"),
                    }
                }
            },
        }
    }

    fn is_choice(&self, path: u32) -> bool {
        let Some(Entry { path: Path::Wide(wide), .. }) = &self.entries.slots[path as usize] else {
            return false;
        };
        matches!(&wide.what, What::Index { kind, .. } if kind.is_narrowed())
    }

    fn fired(&self, path: u32, revision: Revision) -> Option<Arc<dyn AnyKey>> {
        let entry = self.entries.slots[path as usize].as_ref().filter(|entry| entry.fired == revision)?;
        let key = match &entry.path {
            Path::Wide(wide) => wide.fired_key.clone(),
            path => path.key().cloned(),
        };
        key.map(|key| Arc::new(key) as Arc<dyn AnyKey>)
    }

    fn size(&self) -> (usize, usize) {
        (self.entries.slots.len() - self.entries.free.len(), self.entries.edges)
    }

    fn memory(&self, recount: bool, memory: &mut Memory) {
        let (paths, edges) = if recount {
            let entries = || self.entries.slots.iter().flatten();
            (entries().count(), entries().map(|entry| entry.readers.len()).sum())
        } else {
            self.size()
        };
        // A path is interned once and looked up by its key; an edge is known to both its ends.
        memory.paths += paths * (size_of::<Option<Entry<K, V>>>() + size_of::<(K, KeyPaths)>());
        memory.edges += edges * (size_of::<Reader>() + size_of::<Read>());
    }
}
