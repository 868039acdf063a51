//! The engine: transactions in, revisions out.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use crate::handle::NodeId;
use crate::logic::{Env, Logic};
use crate::state::{AnyDelta, AnyState, State, state_of};
use crate::stream::{Published, Subscriber};
use crate::sync::Mutex;
use crate::watch::AnyWatch;
use crate::{
    Builder, Collection, Commit, Key, Revision, Snapshot, SnapshotReader, Subscribe, Subscription,
    Transaction, Value,
};

/// A sealed graph and its current state. `Send + Sync`; all writing goes through `&mut`.
pub struct Graph {
    pub(crate) id: u64,
    pub(crate) revision: Revision,
    /// Everything below is by node, in order of declaration, which is topological.
    pub(crate) names: Vec<String>,
    pub(crate) states: Vec<Arc<dyn AnyState>>,
    pub(crate) watches: Vec<Box<dyn AnyWatch>>,
    pub(crate) logics: Vec<Box<dyn Logic>>,
    /// Each collection of the past, and what it shows.
    pub(crate) feeds: Vec<(u32, u32)>,
    dirty: Vec<Vec<u32>>,
    deltas: Vec<Option<Arc<dyn AnyDelta>>>,
    /// When each collection last changed.
    changed_at: Vec<Revision>,
    unsynced: BTreeSet<u32>,
    pub(crate) synced: Arc<[bool]>,
    subscribers: Vec<Subscriber>,
    latest: Option<Arc<Mutex<Snapshot>>>,
}

/// Work counters of one collection since it was sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Transform runs.
    pub runs: u64,
    /// Runs whose output was equal to what it was.
    pub suppressed: u64,
    /// Keys that a change made dirty.
    pub dirty: u64,
    /// Rows now.
    pub rows: usize,
    /// Keys in error now.
    pub errors: usize,
    /// Access paths of this collection that somebody has read and depends on.
    pub paths: usize,
    /// Recorded reads of those paths: one per path and reader.
    pub edges: usize,
    /// Bytes by the accounts: [`Memory::total`](crate::Memory::total).
    pub bytes: usize,
    /// The revision that last changed a row; 0 when none did since the graph was sealed.
    pub changed_at: Revision,
}

/// The parts a builder hands over.
pub(crate) struct Parts {
    pub(crate) id: u64,
    pub(crate) names: Vec<String>,
    pub(crate) states: Vec<Arc<dyn AnyState>>,
    pub(crate) watches: Vec<Box<dyn AnyWatch>>,
    pub(crate) logics: Vec<Box<dyn Logic>>,
    pub(crate) unsynced: BTreeSet<u32>,
    pub(crate) feeds: Vec<(u32, u32)>,
}

impl Graph {
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Compute what needs no input, at revision 0; `checked` are the logics an oracle's copy is compared with.
    pub(crate) fn start(parts: Parts, staged: Option<&Graph>) -> Self {
        let nodes = parts.logics.len();
        let mut graph = Self {
            id: parts.id,
            revision: 0,
            names: parts.names,
            states: parts.states,
            watches: parts.watches,
            logics: parts.logics,
            feeds: parts.feeds,
            dirty: vec![Vec::new(); nodes],
            deltas: (0..nodes).map(|_| None).collect(),
            changed_at: vec![0; nodes],
            unsynced: parts.unsynced,
            synced: Arc::from(vec![true; nodes]),
            subscribers: Vec::new(),
            latest: None,
        };
        if let Some(original) = staged {
            let originals = original.states.iter().zip(&original.logics);
            for (logic, (state, checked)) in graph.logics.iter_mut().zip(originals) {
                logic.stage_all(state, checked.as_ref());
            }
        }
        graph.propagate(0, staged.map(|original| original.logics.as_slice()));
        graph.refresh_synced();
        graph
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Begin a transaction over any inputs.
    pub fn transaction(&mut self) -> Transaction<'_> {
        Transaction { graph: self, touched: Vec::new(), synced: BTreeSet::new() }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.id, self.revision, self.states.clone(), Arc::clone(&self.synced))
    }

    /// A handle with which other threads take the latest snapshot.
    pub fn reader(&mut self) -> SnapshotReader {
        let now = self.snapshot();
        let latest = self.latest.get_or_insert_with(|| Arc::new(Mutex::new(now)));
        SnapshotReader { latest: Arc::clone(latest) }
    }

    pub fn subscribe(&mut self, what: &Subscribe) -> Subscription {
        self.subscribers.retain(Subscriber::is_live);
        let mut now =
            Published { graph: self.id, deltas: Vec::new(), snapshot: self.snapshot(), newly_synced: false };
        if Subscriber::wants_initial(what) {
            now.deltas = (0u32..).zip(self.states.iter().map(|state| state.as_delta())).collect();
        }
        let (subscriber, subscription) = Subscriber::new(what, &now);
        self.subscribers.push(subscriber);
        subscription
    }

    /// Whether every input is synced.
    pub fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Names of the inputs that are not synced.
    pub fn unsynced(&self) -> Vec<&str> {
        self.unsynced.iter().map(|node| self.names[*node as usize].as_str()).collect()
    }

    /// Counters per collection, in order of declaration.
    pub fn counters(&self) -> Vec<(&str, Counters)> {
        (0..self.names.len()).map(|node| (self.names[node].as_str(), self.counters_at(node))).collect()
    }

    fn counters_at(&self, node: usize) -> Counters {
        let (paths, edges) = self.watches[node].size();
        Counters {
            rows: self.states[node].len(),
            errors: self.states[node].errors().len(),
            paths,
            edges,
            bytes: self.memory_at(node, false).total(),
            changed_at: self.changed_at[node],
            ..self.logics[node].counters()
        }
    }

    /// Counters of one collection.
    pub fn counters_of<K: Key, V: Value>(&self, collection: &Collection<K, V>) -> Counters {
        self.check(collection.id);
        self.counters_at(collection.id.node as usize)
    }

    /// The name a collection was declared with.
    pub fn name(&self, collection: NodeId) -> Option<&str> {
        (collection.graph == self.id).then(|| self.names.get(collection.node as usize).map(String::as_str))?
    }

    pub(crate) fn state<K: Key, V: Value>(&self, collection: &Collection<K, V>) -> &State<K, V> {
        self.check(collection.id);
        state_of(&self.states[collection.id.node as usize])
    }

    pub(crate) fn logic(&self, id: NodeId) -> &dyn Logic {
        self.check(id);
        self.logics[id.node as usize].as_ref()
    }

    pub(crate) fn logic_mut(&mut self, id: NodeId) -> &mut dyn Logic {
        self.check(id);
        self.logics[id.node as usize].as_mut()
    }

    pub(crate) fn check(&self, id: NodeId) {
        assert!(id.graph == self.id, "a graph was used with a handle of another graph");
    }

    pub(crate) fn abort(&mut self, node: u32) {
        self.logics[node as usize].abort();
    }

    pub(crate) fn commit(&mut self, touched: &[u32], synced: &BTreeSet<u32>) -> Commit {
        let newly = synced.iter().filter(|node| self.unsynced.remove(node)).count() > 0;
        if touched.is_empty() && !newly && !self.has_past_to_show() {
            return Commit { revision: self.revision, changed: 0, runs: 0 };
        }
        let (changed, runs) = self.propagate(self.revision + 1, None);
        let deltas: Vec<_> =
            (0u32..).zip(&mut self.deltas).filter_map(|(node, delta)| Some((node, delta.take()?))).collect();
        if deltas.is_empty() && !newly {
            return Commit { revision: self.revision, changed, runs };
        }
        self.revision += 1;
        let was_synced = self.synced.iter().all(|synced| *synced);
        if newly || !was_synced {
            self.refresh_synced();
        }
        let newly_synced = !was_synced && self.unsynced.is_empty();
        self.publish(deltas, newly_synced);
        Commit { revision: self.revision, changed, runs }
    }

    fn publish(&mut self, deltas: Vec<(u32, Arc<dyn AnyDelta>)>, newly_synced: bool) {
        self.subscribers.retain(Subscriber::is_live);
        if self.subscribers.is_empty() && self.latest.is_none() {
            return;
        }
        let snapshot = self.snapshot();
        if let Some(latest) = &self.latest {
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = snapshot.clone();
        }
        let published = Published { graph: self.id, deltas, snapshot, newly_synced };
        for subscriber in &self.subscribers {
            subscriber.publish(&published);
        }
    }

    /// Bring every collection up to date, in order: each sees only finished earlier ones. Gives rows changed and runs made.
    fn propagate(&mut self, revision: Revision, checked: Option<&[Box<dyn Logic>]>) -> (usize, usize) {
        let mut changed = 0;
        let mut runs = 0;
        for node in 0..self.logics.len() {
            let logic = &mut self.logics[node];
            self.deltas[node] = None;
            if self.dirty[node].is_empty() && !logic.is_due(&self.deltas[..node]) {
                continue;
            }
            let before = logic.counters().runs;
            let env = Env {
                graph: self.id,
                node: u32::try_from(node).expect("a graph has fewer than 2^32 collections"),
                revision,
                states: &mut self.states[..=node],
                watches: &mut self.watches[..=node],
                deltas: &self.deltas[..node],
                dirty: &mut self.dirty,
                checked: checked.map(|logics| logics[node].as_ref()),
            };
            let delta = logic.process(env);
            changed += delta.as_ref().map_or(0, |delta| delta.len());
            runs += usize::try_from(logic.counters().runs - before).unwrap_or(usize::MAX);
            if delta.is_some() {
                self.changed_at[node] = revision;
            }
            self.deltas[node] = delta;
        }
        for (past, present) in &self.feeds {
            self.logics[*past as usize].feed(self.deltas[*present as usize].as_ref());
        }
        (changed, runs)
    }

    /// Whether the next revision brings something that the last one has changed already.
    fn has_past_to_show(&self) -> bool {
        self.feeds.iter().any(|(past, _)| self.logics[*past as usize].is_due(&self.deltas))
    }

    /// A collection is synced when every input below it is: those that drive it and those its runs have read.
    fn refresh_synced(&mut self) {
        if self.unsynced.is_empty() {
            self.synced = Arc::from(vec![true; self.logics.len()]);
            return;
        }
        // A collection of the past is as synced as what it shows, which comes later: look again until nothing changes.
        let mut synced = vec![true; self.logics.len()];
        loop {
            let before = synced.clone();
            for (node, logic) in (0u32..).zip(&self.logics) {
                let shown = self.feeds.iter().filter(|(past, _)| *past == node).map(|(_, present)| *present);
                let mut below = logic.sources().into_iter().chain(logic.read_nodes()).chain(shown);
                synced[node as usize] =
                    !self.unsynced.contains(&node) && below.all(|node| synced[node as usize]);
            }
            if synced == before {
                break;
            }
        }
        self.synced = Arc::from(synced);
    }
}
