//! The change stream: whole revisions, in order, bounded; a reader that lags is told so and given a snapshot.

use std::task::{Context, Poll};

use crate::{Change, Collection, Key, NodeId, Revision, Snapshot, Value};

/// What to subscribe to, and how much to hold for a slow reader.
#[derive(Debug, Clone)]
pub struct Subscribe {}

impl Subscribe {
    /// Every collection.
    pub fn all() -> Self {
        unimplemented!()
    }

    /// These collections; a revision that touched none of them gives no batch.
    pub fn only(_collections: impl IntoIterator<Item = NodeId>) -> Self {
        unimplemented!()
    }

    /// How many batches are held for a slow reader before it lags. 256 unless said.
    pub fn capacity(self, _batches: usize) -> Self {
        unimplemented!()
    }

    /// Begin with one batch that adds every existing row.
    pub fn with_initial(self) -> Self {
        unimplemented!()
    }
}

/// What a subscriber receives.
#[derive(Clone)]
pub enum Event {
    /// One revision's changes.
    Batch(Batch),
    /// The reader was too slow: the revisions after `from` up to `to` were dropped. `snapshot` is the state at `to`.
    Lagged { from: Revision, to: Revision, snapshot: Snapshot },
}

/// The changes of one revision, per collection in key order, each key at most once.
#[derive(Clone)]
pub struct Batch {}

impl Batch {
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }

    /// Whether every input was synced at this revision.
    pub fn is_synced(&self) -> bool {
        unimplemented!()
    }

    pub fn changes<K: Key, V: Value>(&self, _source: &Collection<K, V>) -> &[Change<K, V>] {
        unimplemented!()
    }

    /// The state after this revision.
    pub fn snapshot(&self) -> &Snapshot {
        unimplemented!()
    }
}

/// The receiving end. Dropping it frees its buffer at once. `Send`, so it may live in another task than the graph.
pub struct Subscription {}

impl Subscription {
    /// The next event, if one is there.
    pub fn try_next(&mut self) -> Option<Event> {
        unimplemented!()
    }

    /// The next event; wakes the task when one comes. `Ready(None)` when the graph is gone. For any runtime:
    /// `std::future::poll_fn(|cx| subscription.poll_next(cx)).await`.
    pub fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Event>> {
        unimplemented!()
    }
}
