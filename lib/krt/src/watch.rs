//! Who read what: per collection, the access paths that transforms have read and the (collection, key) pairs that read them.
//!
//! A path is interned to a slot number while anybody depends on it, so an edge costs eight bytes on either side. A change
//! is looked up by path with both its old and its new row; it never walks the readers of other paths.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use crate::memory::Memory;
use crate::state::guarded;
use crate::{Change, Key, Labels, Revision, Value};

/// A reader: the collection it belongs to and the slot of its source key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reader {
    pub(crate) node: u32,
    pub(crate) slot: u32,
}

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

/// A set that is nothing, then one reader, then a short vector, until it grows: most paths have one reader.
enum Readers {
    None,
    One(Reader),
    Few(Vec<Reader>),
    Many(BTreeSet<Reader>),
}

const FEW: usize = 48;

impl Readers {
    /// Whether it was not in yet.
    fn insert(&mut self, reader: Reader) -> bool {
        match self {
            Self::None => {
                *self = Self::One(reader);
                true
            }
            Self::One(held) if *held == reader => false,
            Self::One(held) => {
                *self = Self::Few(vec![(*held).min(reader), (*held).max(reader)]);
                true
            }
            Self::Few(few) => {
                let Err(at) = few.binary_search(&reader) else { return false };
                if few.len() < FEW {
                    few.insert(at, reader);
                } else {
                    let mut many: BTreeSet<Reader> = few.drain(..).collect();
                    many.insert(reader);
                    *self = Self::Many(many);
                }
                true
            }
            Self::Many(many) => many.insert(reader),
        }
    }

    /// Whether it was in.
    fn remove(&mut self, reader: Reader) -> bool {
        match self {
            Self::One(held) if *held == reader => {
                *self = Self::None;
                true
            }
            Self::None | Self::One(_) => false,
            Self::Few(few) => few.binary_search(&reader).map(|at| few.remove(at)).is_ok(),
            Self::Many(many) => many.remove(&reader),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    fn mark(&self, dirty: &mut [Vec<u32>]) {
        let mut push = |reader: &Reader| dirty[reader.node as usize].push(reader.slot);
        match self {
            Self::None => {}
            Self::One(reader) => push(reader),
            Self::Few(few) => few.iter().for_each(&mut push),
            Self::Many(many) => many.iter().for_each(&mut push),
        }
    }
}

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
    Labels(Labels, Matters<K, V>),
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
                self.slots.push(Some(entry));
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

#[derive(Default)]
struct KeyPaths {
    value: Option<u32>,
    exists: Option<u32>,
    /// Boxed when there are any, which is seldom.
    #[expect(clippy::box_collection, reason = "two thirds of every other key's entry would be an empty set")]
    projections: Option<Box<BTreeSet<u32>>>,
}

#[derive(Default)]
struct ValuePaths {
    rows: Option<u32>,
    count: Option<u32>,
    filtered: BTreeSet<u32>,
    labels: BTreeMap<Labels, u32>,
}

/// The paths read through one index.
pub(crate) struct IndexWatch<I> {
    values: BTreeMap<I, ValuePaths>,
}

impl<I: Key> IndexWatch<I> {
    pub(crate) fn new() -> Self {
        Self { values: BTreeMap::new() }
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
        for slot in paths.filtered.iter().chain(paths.labels.values()) {
            entries.fire_if(*slot, change, fired);
        }
    }
}

pub(crate) trait AnyIndexWatch: Any + Send + Sync {
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn fresh(&self) -> Box<dyn AnyIndexWatch>;
    /// Forget a path; `labels` is what it was interned by, if it was.
    fn release(&mut self, value: &dyn Any, slot: u32, labels: Option<&Labels>);
}

impl<I: Key> AnyIndexWatch for IndexWatch<I> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn fresh(&self) -> Box<dyn AnyIndexWatch> {
        Box::new(Self::new())
    }

    fn release(&mut self, value: &dyn Any, slot: u32, labels: Option<&Labels>) {
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
    keys: BTreeMap<K, KeyPaths>,
    scan: Option<u32>,
    filtered: BTreeSet<u32>,
    indexes: Vec<Box<dyn AnyIndexWatch>>,
    index_names: Vec<String>,
    entries: Entries<K, V>,
}

impl<K: Key, V: Value> Watch<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            keys: BTreeMap::new(),
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

    pub(crate) fn read_key(&mut self, key: &K) -> u32 {
        if let Some(slot) = self.keys.get(key).and_then(|paths| paths.value) {
            return slot;
        }
        let slot = self.entries.insert(Path::Key(key.clone()));
        self.keys.entry(key.clone()).or_default().value = Some(slot);
        slot
    }

    pub(crate) fn read_exists(&mut self, key: &K) -> u32 {
        if let Some(slot) = self.keys.get(key).and_then(|paths| paths.exists) {
            return slot;
        }
        let slot = self.entries.insert(Path::Exists(key.clone()));
        self.keys.entry(key.clone()).or_default().exists = Some(slot);
        slot
    }

    pub(crate) fn read_projection(&mut self, key: &K, matters: Matters<K, V>) -> u32 {
        let slot = self.entries.insert(Path::Project(key.clone(), matters));
        self.keys.entry(key.clone()).or_default().projections.get_or_insert_default().insert(slot);
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

    pub(crate) fn read_index<I: Key>(&mut self, index: u32, value: &I, kind: IndexRead<K, V>) -> u32 {
        let watch = self.indexes[index as usize].as_any_mut().downcast_mut::<IndexWatch<I>>();
        let watch = watch.expect("an index handle's types are those it was declared with");
        let held = watch.values.get(value).and_then(|paths| match kind {
            IndexRead::Rows => paths.rows,
            IndexRead::Count => paths.count,
            IndexRead::Where(_) => None,
            IndexRead::Labels(ref labels, _) => paths.labels.get(labels).copied(),
        });
        if let Some(slot) = held {
            return slot;
        }
        let paths = watch.values.entry(value.clone()).or_default();
        let mut insert = |kind| {
            self.entries.insert(Path::Index(Box::new(IndexPath {
                index,
                value: Box::new(value.clone()),
                kind,
            })))
        };
        match kind {
            IndexRead::Rows => *paths.rows.insert(insert(kind)),
            IndexRead::Count => *paths.count.insert(insert(kind)),
            IndexRead::Where(_) => {
                let slot = insert(kind);
                paths.filtered.insert(slot);
                slot
            }
            IndexRead::Labels(ref labels, _) => {
                let labels = labels.clone();
                let slot = insert(kind);
                paths.labels.insert(labels, slot);
                slot
            }
        }
    }

    /// The path of these labels under an index value, if somebody reads it already: then nothing need be made.
    pub(crate) fn known_labels<I: Key>(&mut self, index: u32, value: &I, labels: &Labels) -> Option<u32> {
        let watch = self.indexes[index as usize].as_any_mut().downcast_mut::<IndexWatch<I>>()?;
        watch.values.get(value)?.labels.get(labels).copied()
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
