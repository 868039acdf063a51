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

/// Does a change matter to a read that looked through a predicate or a projection?
pub(crate) type Matters<K, V> = Arc<dyn Fn(&K, Option<&V>, Option<&V>) -> bool + Send + Sync>;

/// What is read of a collection.
pub(crate) enum Path<K, V> {
    Key(K),
    Exists(K),
    Project(K, Matters<K, V>),
    Scan,
    ScanWhere(Matters<K, V>),
    /// Boxed: it is the largest by far, and most paths are keys.
    Index(Box<IndexPath<K, V>>),
}

pub(crate) struct IndexPath<K, V> {
    index: u32,
    value: Box<dyn AnyKey>,
    kind: IndexRead<K, V>,
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
    /// The last revision in which the path changed (`MAX`: never), and the key that did it.
    fired: Revision,
    fired_key: Option<K>,
    path: Path<K, V>,
}

impl<K: Key, V: Value> Entry<K, V> {
    fn fire(&mut self, key: &K, fired: &mut Fired<'_>) {
        // All changes of a collection are taken in before any of its readers runs: one mark per revision is enough.
        if self.fired == fired.revision {
            return;
        }
        self.fired = fired.revision;
        self.fired_key = Some(key.clone());
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
    fn insert(&mut self, path: Path<K, V>) -> u32 {
        let entry = Entry { readers: Readers::None, fired: Revision::MAX, fired_key: None, path };
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(entry);
                slot
            }
            None => {
                crate::slots::push(&mut self.slots, Some(entry));
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 access paths are read at once")
            }
        }
    }

    fn fire(&mut self, slot: u32, key: &K, fired: &mut Fired<'_>) {
        if let Some(entry) = &mut self.slots[slot as usize] {
            entry.fire(key, fired);
        }
    }

    fn fire_if(&mut self, slot: u32, change: &Change<K, V>, fired: &mut Fired<'_>) {
        let Some(entry) = &mut self.slots[slot as usize] else { return };
        let matters = match &entry.path {
            Path::Project(_, matters) | Path::ScanWhere(matters) => matters,
            Path::Index(path) => match &path.kind {
                IndexRead::Where(matters) | IndexRead::Labels(_, matters) => matters,
                IndexRead::Rows | IndexRead::Count => return,
            },
            Path::Key(_) | Path::Exists(_) | Path::Scan => return,
        };
        // A predicate that panics decides nothing: run, and let the run report it.
        let matters =
            guarded(|| matters(&change.key, change.old.as_deref(), change.new.as_deref())).unwrap_or(true);
        if matters {
            entry.fire(&change.key, fired);
        }
    }
}

#[derive(Clone, Default)]
struct KeyPaths {
    value: Option<u32>,
    exists: Option<u32>,
    /// Boxed when there are any, which is seldom.
    #[expect(clippy::box_collection, reason = "two thirds of every other key's entry would be an empty set")]
    projections: Option<Box<BTreeSet<u32>>>,
}

#[derive(Clone, Default)]
struct ValuePaths {
    rows: Option<u32>,
    count: Option<u32>,
    filtered: BTreeSet<u32>,
    labels: OrdMap<LabelSet, u32>,
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
        if let Some(slot) = paths.rows {
            entries.fire(slot, &change.key, fired);
        }
        if let Some(slot) = paths.count.filter(|_| moved) {
            entries.fire(slot, &change.key, fired);
        }
        for slot in paths.filtered.iter().chain(paths.labels.iter().map(|(_, slot)| slot)) {
            entries.fire_if(*slot, change, fired);
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
        paths.rows = paths.rows.filter(|held| *held != slot);
        paths.count = paths.count.filter(|held| *held != slot);
        match labels {
            Some(labels) => drop(paths.labels.remove(labels)),
            None => drop(paths.filtered.remove(&slot)),
        }
        if paths.rows.is_none()
            && paths.count.is_none()
            && paths.filtered.is_empty()
            && paths.labels.is_empty()
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
            if let Some(slot) = paths.value {
                self.entries.fire(slot, &change.key, fired);
            }
            if let Some(slot) = paths.exists.filter(|_| change.old.is_none() != change.new.is_none()) {
                self.entries.fire(slot, &change.key, fired);
            }
            for slot in paths.projections.iter().flat_map(|slots| slots.iter()) {
                self.entries.fire_if(*slot, change, fired);
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
        if let Some(slot) = self.keys.get(key).and_then(|paths| paths.value) {
            return slot;
        }
        let slot = self.entries.insert(Path::Key(key.clone()));
        self.paths_of(key, |paths| paths.value = Some(slot));
        slot
    }

    pub(crate) fn read_exists(&mut self, key: &K) -> u32 {
        if let Some(slot) = self.keys.get(key).and_then(|paths| paths.exists) {
            return slot;
        }
        let slot = self.entries.insert(Path::Exists(key.clone()));
        self.paths_of(key, |paths| paths.exists = Some(slot));
        slot
    }

    pub(crate) fn read_projection(&mut self, key: &K, matters: Matters<K, V>) -> u32 {
        let slot = self.entries.insert(Path::Project(key.clone(), matters));
        self.paths_of(key, |paths| {
            paths.projections.get_or_insert_default().insert(slot);
        });
        slot
    }

    pub(crate) fn read_scan(&mut self) -> u32 {
        match self.scan {
            Some(slot) => slot,
            None => {
                let slot = self.entries.insert(Path::Scan);
                self.scan = Some(slot);
                slot
            }
        }
    }

    pub(crate) fn read_scan_where(&mut self, matters: Matters<K, V>) -> u32 {
        let slot = self.entries.insert(Path::ScanWhere(matters));
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
            IndexRead::Rows => paths.rows,
            IndexRead::Count => paths.count,
            IndexRead::Where(_) => None,
            IndexRead::Labels(labels, _) => paths.labels.get(labels).copied(),
        });
        if let Some(slot) = held {
            return slot;
        }
        if paths.is_none() {
            watch.values.insert(value.owned(), ValuePaths::default());
        }
        let paths = watch.values.find_mut(|held| value.order(held)).expect("it is there by now");
        let labels = match &kind {
            IndexRead::Labels(labels, _) => Some(labels.clone()),
            IndexRead::Rows | IndexRead::Count | IndexRead::Where(_) => None,
        };
        let which = match &kind {
            IndexRead::Rows => Some(&mut paths.rows),
            IndexRead::Count => Some(&mut paths.count),
            IndexRead::Where(_) | IndexRead::Labels(..) => None,
        };
        let path = IndexPath { index, value: Box::new(value.owned()), kind };
        let slot = self.entries.insert(Path::Index(Box::new(path)));
        match (which, labels) {
            (Some(which), _) => *which = Some(slot),
            (None, Some(labels)) => drop(paths.labels.insert(labels, slot)),
            (None, None) => drop(paths.filtered.insert(slot)),
        }
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
        paths.labels.find(|held| held.order(digest, labels)).map(|(_, slot)| *slot)
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
        match &entry.path {
            Path::Key(key) | Path::Exists(key) | Path::Project(key, _) => {
                let Some(paths) = self.keys.get_mut(key) else { return };
                paths.value = paths.value.filter(|held| *held != path);
                paths.exists = paths.exists.filter(|held| *held != path);
                if let Some(slots) = &mut paths.projections {
                    slots.remove(&path);
                    paths.projections = paths.projections.take().filter(|slots| !slots.is_empty());
                }
                if paths.value.is_none() && paths.exists.is_none() && paths.projections.is_none() {
                    self.keys.remove(key);
                }
            }
            Path::Scan => self.scan = None,
            Path::ScanWhere(_) => {
                self.filtered.remove(&path);
            }
            Path::Index(held) => {
                let labels = match &held.kind {
                    IndexRead::Labels(labels, _) => Some(labels),
                    _ => None,
                };
                self.indexes[held.index as usize].release(held.value.as_ref().as_any(), path, labels);
            }
        }
    }

    fn describe(&self, path: u32) -> String {
        let Some(entry) = &self.entries.slots[path as usize] else { return String::new() };
        match &entry.path {
            Path::Key(key) => format!("key {key:?}"),
            Path::Exists(key) => format!("exists {key:?}"),
            Path::Project(key, _) => format!("part of {key:?}"),
            Path::Scan => "scan".to_owned(),
            Path::ScanWhere(_) => "scan where".to_owned(),
            Path::Index(held) => format!("{} = {:?}", self.kind(path), held.value),
        }
    }

    fn kind(&self, path: u32) -> String {
        let Some(entry) = &self.entries.slots[path as usize] else { return String::new() };
        match &entry.path {
            Path::Key(_) => "key".to_owned(),
            Path::Exists(_) => "exists".to_owned(),
            Path::Project(..) => "part".to_owned(),
            Path::Scan => "scan".to_owned(),
            Path::ScanWhere(_) => "scan where".to_owned(),
            Path::Index(held) => {
                let name = &self.index_names[held.index as usize];
                match held.kind {
                    IndexRead::Rows => format!("index {name}"),
                    IndexRead::Count => format!("count {name}"),
                    IndexRead::Where(_) | IndexRead::Labels(..) => format!("index {name} where"),
                }
            }
        }
    }

    fn is_choice(&self, path: u32) -> bool {
        let entry = self.entries.slots[path as usize].as_ref();
        entry.is_some_and(|entry| matches!(&entry.path, Path::Index(path) if path.kind.is_narrowed()))
    }

    fn fired(&self, path: u32, revision: Revision) -> Option<Arc<dyn AnyKey>> {
        let entry = self.entries.slots[path as usize].as_ref().filter(|entry| entry.fired == revision)?;
        entry.fired_key.clone().map(|key| Arc::new(key) as Arc<dyn AnyKey>)
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
