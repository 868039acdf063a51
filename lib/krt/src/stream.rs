//! The change stream: whole revisions, in order, bounded; a reader that lags is told so and given a snapshot.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use crate::state::{AnyDelta, Delta, ErrorChange};
use crate::sync::{Mutex, MutexGuard};
use crate::{Change, Collection, Key, NodeId, Revision, Snapshot, Value};

/// What to subscribe to, and how much to hold for a slow reader.
#[derive(Debug, Clone)]
pub struct Subscribe {
    only: Option<BTreeSet<NodeId>>,
    capacity: usize,
    initial: bool,
}

impl Subscribe {
    /// Every collection.
    pub fn all() -> Self {
        Self { only: None, capacity: 256, initial: false }
    }

    /// These collections; a revision that touched none of them gives no batch, except the one that syncs the graph.
    pub fn only(collections: impl IntoIterator<Item = NodeId>) -> Self {
        Self { only: Some(collections.into_iter().collect()), ..Self::all() }
    }

    /// How many batches are held for a slow reader before it lags (at least one). 256 unless said.
    pub fn capacity(self, batches: usize) -> Self {
        Self { capacity: batches.max(1), ..self }
    }

    /// Begin with one batch that adds every existing row.
    pub fn with_initial(self) -> Self {
        Self { initial: true, ..self }
    }

    fn covers(&self, id: NodeId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&id))
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

impl Event {
    /// The state after this event.
    pub fn snapshot(&self) -> &Snapshot {
        match self {
            Self::Batch(batch) => batch.snapshot(),
            Self::Lagged { snapshot, .. } => snapshot,
        }
    }
}

/// The changes of one revision, per collection in key order, each key at most once.
#[derive(Clone)]
pub struct Batch {
    graph: u64,
    /// By node, in order of declaration; only what the subscription covers.
    deltas: Arc<[(u32, Arc<dyn AnyDelta>)]>,
    snapshot: Snapshot,
}

impl Batch {
    pub fn revision(&self) -> Revision {
        self.snapshot.revision()
    }

    /// Whether every input was synced at this revision.
    pub fn is_synced(&self) -> bool {
        self.snapshot.is_all_synced()
    }

    /// What changed in a collection, in key order. Empty for a collection that the subscription does not cover.
    pub fn changes<K: Key, V: Value>(&self, source: &Collection<K, V>) -> &[Change<K, V>] {
        let delta = self.delta(source.id).and_then(|delta| delta.as_any().downcast_ref::<Delta<K, V>>());
        delta.map_or(&[], |delta| &delta.changes)
    }

    /// Errors of a derived collection that came, changed or went (`None`) in this revision, by source key as `Debug` prints it.
    pub fn error_changes<K: Key, V: Value>(&self, source: &Collection<K, V>) -> &[ErrorChange] {
        self.delta(source.id).map_or(&[], |delta| delta.errors())
    }

    /// The collections with something in this batch, in order of declaration.
    pub fn collections(&self) -> impl Iterator<Item = NodeId> {
        self.deltas.iter().map(|(node, _)| NodeId { graph: self.graph, node: *node })
    }

    /// The state after this revision.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn delta(&self, id: NodeId) -> Option<&dyn AnyDelta> {
        assert!(id.graph == self.graph, "a batch was read with a handle of another graph");
        let at = self.deltas.binary_search_by_key(&id.node, |(node, _)| *node).ok()?;
        Some(self.deltas[at].1.as_ref())
    }
}

/// The receiving end. Dropping it frees its buffer at once. `Send`, so it may live in another task than the graph.
pub struct Subscription {
    queue: Arc<Mutex<Queue>>,
}

struct Queue {
    batches: VecDeque<Batch>,
    /// The last revision before the dropped ones, and the state to go on from.
    lagged: Option<(Revision, Snapshot)>,
    /// The last revision handed to the reader.
    delivered: Revision,
    waker: Option<Waker>,
    closed: bool,
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscription {
    /// The next event, if one is there.
    pub fn try_next(&mut self) -> Option<Event> {
        lock(&self.queue).pop()
    }

    /// The next event; wakes the task when one comes. `Ready(None)` when the graph is gone. For any runtime:
    /// `std::future::poll_fn(|cx| subscription.poll_next(cx)).await`.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut queue = lock(&self.queue);
        match queue.pop() {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.closed => Poll::Ready(None),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Events waiting: never more than the capacity.
    pub fn backlog(&self) -> usize {
        let queue = lock(&self.queue);
        queue.batches.len() + usize::from(queue.lagged.is_some())
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Event> {
        if let Some((from, snapshot)) = self.lagged.take() {
            self.delivered = snapshot.revision();
            return Some(Event::Lagged { from, to: snapshot.revision(), snapshot });
        }
        let batch = self.batches.pop_front()?;
        self.delivered = batch.revision();
        Some(Event::Batch(batch))
    }
}

/// The sending end of one subscription.
pub(crate) struct Subscriber {
    what: Subscribe,
    queue: Weak<Mutex<Queue>>,
}

/// Everything one revision changed, for all subscribers.
pub(crate) struct Published {
    pub(crate) graph: u64,
    pub(crate) deltas: Vec<(u32, Arc<dyn AnyDelta>)>,
    pub(crate) snapshot: Snapshot,
    /// The graph became synced with this revision.
    pub(crate) newly_synced: bool,
}

impl Subscriber {
    pub(crate) fn new(what: &Subscribe, at: &Published) -> (Self, Subscription) {
        let queue = Queue {
            batches: VecDeque::new(),
            lagged: None,
            delivered: at.snapshot.revision(),
            waker: None,
            closed: false,
        };
        let queue = Arc::new(Mutex::new(queue));
        let subscriber = Self { what: what.clone(), queue: Arc::downgrade(&queue) };
        if what.initial {
            lock(&queue).batches.push_back(subscriber.batch(at));
        }
        (subscriber, Subscription { queue })
    }

    pub(crate) fn is_live(&self) -> bool {
        self.queue.strong_count() > 0
    }

    pub(crate) fn wants_initial(what: &Subscribe) -> bool {
        what.initial
    }

    pub(crate) fn publish(&self, published: &Published) {
        let Some(queue) = self.queue.upgrade() else { return };
        let touched = published
            .deltas
            .iter()
            .any(|(node, _)| self.what.covers(NodeId { graph: published.graph, node: *node }));
        if !touched && !published.newly_synced {
            return;
        }
        let mut queue = lock(&queue);
        if let Some((_, snapshot)) = &mut queue.lagged {
            *snapshot = published.snapshot.clone();
        } else if queue.batches.len() >= self.what.capacity {
            queue.batches.clear();
            queue.lagged = Some((queue.delivered, published.snapshot.clone()));
        } else {
            let batch = self.batch(published);
            queue.batches.push_back(batch);
        }
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    fn batch(&self, published: &Published) -> Batch {
        let covered = |node: &u32| self.what.covers(NodeId { graph: published.graph, node: *node });
        let deltas = published.deltas.iter().filter(|(node, _)| covered(node)).cloned().collect();
        Batch { graph: published.graph, deltas, snapshot: published.snapshot.clone() }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let Some(queue) = self.queue.upgrade() else { return };
        let mut queue = lock(&queue);
        queue.closed = true;
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }
}
