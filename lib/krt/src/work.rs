//! Keyed work: level-triggered effects, one slot per key, latest row only. No clock and no threads: time is an argument,
//! as a `Duration` since any origin of the caller's.

use std::sync::Arc;
use std::time::Duration;

use crate::{Collection, Event, Key, Revision, Snapshot, Value};

/// Bounds of a [`Work`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkOptions {
    /// Jobs running at once.
    pub concurrency: usize,
    /// Jobs running at once within one group ([`Work::grouped`]).
    pub per_group: usize,
    /// How long a change waits for further changes of the same key.
    pub debounce: Duration,
    /// The wait after the first failure; it doubles with each further one.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

/// One run to make: the latest row of a key.
#[derive(Debug)]
pub struct Job<K, V> {
    pub key: K,
    pub value: Arc<V>,
    /// The revision at which the row was seen.
    pub revision: Revision,
    /// 0 for the first try of this row, then the number of failures so far.
    pub attempt: u32,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Nothing more to do until the row changes.
    Done,
    /// Failed: again after the back-off, or at once when the row has changed meanwhile.
    Retry,
    /// Look again after this long, not as a failure.
    After(Duration),
}

/// Rows of one collection as work. Feed it the events of a subscription, ask it for jobs, tell it how they ended.
pub struct Work<K, V> {
    _collection: Collection<K, V>,
}

impl<K: Key, V: Value> Work<K, V> {
    pub fn new(_collection: &Collection<K, V>, _options: WorkOptions) -> Self {
        unimplemented!()
    }

    /// With a concurrency cap per group, and round-robin between groups.
    pub fn grouped(_collection: &Collection<K, V>, _options: WorkOptions, _group: impl Fn(&K, &V) -> String + Send + Sync + 'static) -> Self {
        unimplemented!()
    }

    /// Take in one event of a subscription that covers the collection: changed rows become due, gone rows leave.
    pub fn apply(&mut self, _event: &Event, _now: Duration) {
        unimplemented!()
    }

    /// Make every row of the snapshot due whose value differs from the one last taken in, and forget rows that are gone.
    pub fn reset(&mut self, _snapshot: &Snapshot, _now: Duration) {
        unimplemented!()
    }

    /// Ask for one more run of an existing key no later than `at`. The earliest request wins.
    pub fn request(&mut self, _key: &K, _at: Duration) {
        unimplemented!()
    }

    /// A job to start now, if there is one. Nothing before the graph is synced.
    pub fn next(&mut self, _now: Duration) -> Option<Job<K, V>> {
        unimplemented!()
    }

    /// When [`Work::next`] could give a job at the earliest, if nothing else happens. `None`: not before an event or a `done`.
    pub fn wake_at(&self) -> Option<Duration> {
        unimplemented!()
    }

    /// The job of this key has ended.
    pub fn done(&mut self, _key: &K, _finish: Finish, _now: Duration) {
        unimplemented!()
    }

    /// Whether the row has changed or gone since the job was given out.
    pub fn is_stale(&self, _job: &Job<K, V>) -> bool {
        unimplemented!()
    }

    /// Keys held: due, waiting or running.
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn running(&self) -> usize {
        unimplemented!()
    }

    /// Give out no more jobs. Returns the keys still running, which the caller awaits or cancels.
    pub fn stop(&mut self) -> Vec<K> {
        unimplemented!()
    }
}
