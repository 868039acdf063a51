//! A lane: the due rows of one output collection, given out in batches.
//!
//! One transaction writes many rows, which is what makes bursts cheap. A row whose batch failed is
//! tried again alone, so that it cannot hold up the others for ever.

use krt::{Collection, Event, Finish, Job, Key, Value, Work, WorkOptions};
use std::time::Duration;

/// How long a written row may take to come back by the feed before it is written again. Level-triggered: if the feed
/// shows that nothing is left to do, the row is gone long before.
pub const RECHECK: Duration = Duration::from_secs(5);
/// How long a refused row waits for the news that made it stale.
pub const STALE: Duration = Duration::from_secs(1);

/// Bounds of a lane.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Rows in one batch.
    pub rows: usize,
    /// Batches running at once.
    pub batches: usize,
    /// How long the first change of a row waits for further ones.
    pub debounce: Duration,
}

/// Rows of one collection as batches of work.
pub struct Lane<K, V> {
    work: Work<K, V>,
    bounds: Bounds,
    /// A row that failed before: the next batch, alone.
    held: Option<Job<K, V>>,
    running: usize,
}

impl<K: Key, V: Value> Lane<K, V> {
    /// A lane over a collection.
    pub fn new(collection: &Collection<K, V>, bounds: Bounds) -> Self {
        let options = WorkOptions {
            concurrency: bounds.rows * bounds.batches + 1,
            debounce: bounds.debounce,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(10),
            ..WorkOptions::default()
        };
        Self { work: Work::new(collection, options), bounds, held: None, running: 0 }
    }

    /// Takes in news.
    pub fn apply(&mut self, event: &Event, now: Duration) {
        self.work.apply(event, now);
    }

    /// The next batch, empty when there is none to start now. It counts as running until [`Self::ended`].
    pub fn batch(&mut self, now: Duration) -> Vec<Job<K, V>> {
        let mut jobs = Vec::new();
        if self.running >= self.bounds.batches {
            return jobs;
        }
        if let Some(job) = self.held.take() {
            jobs.push(job);
        } else {
            while jobs.len() < self.bounds.rows {
                let Some(job) = self.work.next(now) else { break };
                if job.attempt > 0 {
                    if jobs.is_empty() {
                        jobs.push(job);
                    } else {
                        self.held = Some(job);
                    }
                    break;
                }
                jobs.push(job);
            }
        }
        self.running += usize::from(!jobs.is_empty());
        jobs
    }

    /// A batch ended; its rows are given back one by one with [`Self::done`].
    pub fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// How the run of a row ended.
    pub fn done(&mut self, key: &K, finish: Finish, now: Duration) {
        self.work.done(key, finish, now);
    }

    /// Asks for one more run of a row no later than `at`.
    pub fn request(&mut self, key: &K, at: Duration) {
        self.work.request(key, at);
    }

    /// When a batch can start at the earliest, if nothing else happens.
    pub fn wake_at(&self) -> Option<Duration> {
        if self.running >= self.bounds.batches {
            return None;
        }
        if self.held.is_some() {
            return Some(Duration::ZERO);
        }
        self.work.wake_at()
    }

    /// Rows that are due, waiting or running.
    pub fn waiting(&self) -> usize {
        self.work.len()
    }
}
