//! The engine: transactions in, revisions out.

use crate::{Builder, Collection, Key, NodeId, Revision, Snapshot, SnapshotReader, Subscribe, Subscription, Transaction, Value};

/// A sealed graph and its current state. `Send`; all writing goes through `&mut`.
pub struct Graph {}

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
    /// Source keys in error now.
    pub errors: usize,
}

/// One disagreement between the incremental state and a recomputation from the inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub collection: String,
    pub key: String,
    pub incremental: String,
    pub recomputed: String,
}

/// Why a row is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub collection: String,
    pub key: String,
    /// The revision that last changed the row, when there is one.
    pub changed_at: Option<Revision>,
    /// The revision of the last run for this key.
    pub ran_at: Option<Revision>,
    /// What the last run read, one sentence per access path.
    pub reads: Vec<String>,
    /// The changes that caused the last run, followed down to inputs.
    pub causes: Vec<String>,
    /// Other source keys that claim the same key and are hidden.
    pub hidden: Vec<String>,
    pub error: Option<String>,
}

impl Graph {
    pub fn builder() -> Builder {
        unimplemented!()
    }

    pub fn revision(&self) -> Revision {
        unimplemented!()
    }

    /// Begin a transaction over any inputs.
    pub fn transaction(&mut self) -> Transaction<'_> {
        Transaction { graph: self }
    }

    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }

    /// A handle with which other threads take the latest snapshot.
    pub fn reader(&mut self) -> SnapshotReader {
        unimplemented!()
    }

    pub fn subscribe(&mut self, _what: &Subscribe) -> Subscription {
        unimplemented!()
    }

    /// Whether every input is synced.
    pub fn is_synced(&self) -> bool {
        unimplemented!()
    }

    /// Names of the inputs that are not synced.
    pub fn unsynced(&self) -> Vec<&str> {
        unimplemented!()
    }

    /// The oracle: recompute everything from the inputs, and report what differs. Empty means right.
    pub fn verify(&self) -> Vec<Difference> {
        unimplemented!()
    }

    pub fn explain<K: Key, V: Value>(&self, _collection: &Collection<K, V>, _key: &K) -> Explanation {
        unimplemented!()
    }

    /// Counters per collection, in order of declaration.
    pub fn counters(&self) -> Vec<(&str, Counters)> {
        unimplemented!()
    }

    pub fn name(&self, _collection: NodeId) -> Option<&str> {
        unimplemented!()
    }

    /// Everything, as JSON: rows, errors, reads, revision, sync. Deterministic.
    pub fn dump(&self) -> String {
        unimplemented!()
    }

    /// The graph in DOT.
    pub fn dot(&self) -> String {
        unimplemented!()
    }
}
