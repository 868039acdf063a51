//! Keyed work: level-triggered effects, one slot per key, latest row only. No clock and no threads: time is an argument,
//! as a `Duration` since any origin of the caller's.
//!
//! ```text
//!            change: due after debounce                     next(): the earliest due, fair over groups
//!   idle ───────────────────────────────▶ due ────────────────────────────────────────────▶ running
//!    ▲                                     ▲  ◀── Retry (back-off), After, changed meanwhile ── │
//!    └─────────────────────────────────────┼────────────────────── Done ───────────────────────┘
//!   row gone: forgotten at once, or when its run ends
//! ```

use std::collections::{BTreeMap, BTreeSet};
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
    /// How long the first change of a key waits for further changes of it; these do not postpone it.
    pub debounce: Duration,
    /// The wait after the first failure; it doubles with each further one.
    pub backoff_min: Duration,
    /// The longest wait after a failure.
    pub backoff_max: Duration,
}

impl Default for WorkOptions {
    /// 16 jobs at once, no cap per group, no debounce, back-off from 100 ms to 60 s.
    fn default() -> Self {
        Self {
            concurrency: 16,
            per_group: usize::MAX,
            debounce: Duration::ZERO,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(60),
        }
    }
}

/// One run to make: the latest row of a key.
#[derive(Debug)]
pub struct Job<K, V> {
    pub key: K,
    pub value: Arc<V>,
    /// The revision at which the row was taken in.
    pub revision: Revision,
    /// 0 for the first try of this row, then the number of failures so far.
    pub attempt: u32,
}

impl<K: Clone, V> Clone for Job<K, V> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            value: Arc::clone(&self.value),
            revision: self.revision,
            attempt: self.attempt,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Nothing more to do until the row changes.
    Done,
    /// Failed: again after the back-off, or as for any change when the row has changed meanwhile.
    Retry,
    /// Look again after this long, not as a failure.
    After(Duration),
}

type Group<K, V> = Arc<dyn Fn(&K, &V) -> String + Send + Sync>;

/// Rows of one collection as work. Feed it the events of a subscription, ask it for jobs, tell it how they ended.
pub struct Work<K, V> {
    collection: Collection<K, V>,
    options: WorkOptions,
    group: Group<K, V>,
    slots: BTreeMap<K, Slot<V>>,
    groups: BTreeMap<String, Queue<K>>,
    /// The group that was served last.
    served: Option<String>,
    running: usize,
    synced: bool,
    stopped: bool,
}

struct Slot<V> {
    /// `None`: the row is gone, and only its run keeps the slot.
    value: Option<Arc<V>>,
    revision: Revision,
    group: String,
    due: Option<Duration>,
    running: bool,
    /// The group its run counts for.
    running_in: String,
    failures: u32,
}

struct Queue<K> {
    due: BTreeSet<(Duration, K)>,
    running: usize,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { due: BTreeSet::new(), running: 0 }
    }
}

impl<K: Key, V: Value> Work<K, V> {
    pub fn new(collection: &Collection<K, V>, options: WorkOptions) -> Self {
        Self::grouped(collection, options, |_, _| String::new())
    }

    /// With a concurrency cap per group, and round-robin between groups.
    pub fn grouped(
        collection: &Collection<K, V>,
        options: WorkOptions,
        group: impl Fn(&K, &V) -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            collection: *collection,
            options,
            group: Arc::new(group),
            slots: BTreeMap::new(),
            groups: BTreeMap::new(),
            served: None,
            running: 0,
            synced: false,
            stopped: false,
        }
    }

    /// Take in one event of a subscription that covers the collection: changed rows become due, gone rows leave.
    /// Subscribe with [`Subscribe::with_initial`](crate::Subscribe::with_initial) or begin with [`Work::reset`].
    pub fn apply(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Batch(batch) => {
                self.synced |= batch.is_synced();
                for change in batch.changes(&self.collection) {
                    match &change.new {
                        Some(value) => self.take_in(&change.key, value, batch.revision(), now),
                        None => self.forget(&change.key),
                    }
                }
            }
            Event::Lagged { snapshot, .. } => self.reset(snapshot, now),
        }
    }

    /// Make every row of the snapshot due that changed since it was last taken in, and forget rows that are gone.
    pub fn reset(&mut self, snapshot: &Snapshot, now: Duration) {
        self.synced |= snapshot.is_all_synced();
        for (key, value) in snapshot.rows(&self.collection) {
            let held = self.slots.get(key).and_then(|slot| slot.value.as_ref());
            if held.is_none_or(|held| !Arc::ptr_eq(held, value)) {
                self.take_in(key, value, snapshot.revision(), now);
            }
        }
        let gone: Vec<K> =
            self.slots.keys().filter(|key| snapshot.get(&self.collection, key).is_none()).cloned().collect();
        for key in gone {
            self.forget(&key);
        }
    }

    /// Ask for one more run of an existing key no later than `at`. The earliest request wins.
    pub fn request(&mut self, key: &K, at: Duration) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.value.is_none() || slot.due.is_some_and(|due| due <= at) {
            return;
        }
        let old = slot.due.replace(at);
        if slot.running {
            return;
        }
        let queue = self.groups.entry(slot.group.clone()).or_default();
        if let Some(old) = old {
            queue.due.remove(&(old, key.clone()));
        }
        queue.due.insert((at, key.clone()));
    }

    /// A job to start now, if there is one. Nothing before the graph is synced.
    pub fn next(&mut self, now: Duration) -> Option<Job<K, V>> {
        if !self.synced || self.stopped || self.running >= self.options.concurrency {
            return None;
        }
        let ready = |(_, queue): &(&String, &Queue<K>)| {
            queue.running < self.options.per_group && queue.due.first().is_some_and(|(due, _)| *due <= now)
        };
        let after = |name: &&String| self.served.as_ref().is_none_or(|served| *name > served);
        let later = self.groups.iter().filter(|(name, _)| after(name)).find(&ready);
        let name = later.or_else(|| self.groups.iter().find(&ready)).map(|(name, _)| name.clone())?;
        let queue = self.groups.get_mut(&name)?;
        let (_, key) = queue.due.pop_first()?;
        queue.running += 1;
        self.running += 1;
        let slot = self.slots.get_mut(&key)?;
        slot.due = None;
        slot.running = true;
        slot.running_in.clone_from(&name);
        self.served = Some(name);
        Some(Job { value: slot.value.clone()?, revision: slot.revision, attempt: slot.failures, key })
    }

    /// When [`Work::next`] could give a job at the earliest, if nothing else happens. `None`: not before an event or a `done`.
    pub fn wake_at(&self) -> Option<Duration> {
        if !self.synced || self.stopped || self.running >= self.options.concurrency {
            return None;
        }
        let open = self.groups.values().filter(|queue| queue.running < self.options.per_group);
        open.filter_map(|queue| queue.due.first().map(|(due, _)| *due)).min()
    }

    /// The job of this key has ended. A key that is not running is ignored.
    pub fn done(&mut self, key: &K, finish: Finish, now: Duration) {
        let Some(slot) = self.slots.get_mut(key).filter(|slot| slot.running) else { return };
        slot.running = false;
        self.running -= 1;
        let running_in = std::mem::take(&mut slot.running_in);
        if let Some(queue) = self.groups.get_mut(&running_in) {
            queue.running -= 1;
        }
        // A request that came while it ran stands; a change that came has also reset the failures.
        let asked = slot.due.take();
        let again = match finish {
            Finish::Done => {
                slot.failures = 0;
                None
            }
            Finish::Retry if asked.is_some() => None,
            Finish::Retry => {
                slot.failures = slot.failures.saturating_add(1);
                Some(now + backoff(&self.options, slot.failures))
            }
            Finish::After(wait) => {
                slot.failures = 0;
                Some(now + wait)
            }
        };
        let gone = slot.value.is_none();
        if gone {
            self.slots.remove(key);
        } else if let Some(at) = asked.into_iter().chain(again).min() {
            self.request(key, at);
        }
        self.drop_idle_group(&running_in);
    }

    /// Whether the row has changed or gone since the job was given out.
    pub fn is_stale(&self, job: &Job<K, V>) -> bool {
        let held = self.slots.get(&job.key).and_then(|slot| slot.value.as_ref());
        held.is_none_or(|held| !Arc::ptr_eq(held, &job.value))
    }

    /// Whether it has taken in a state in which every input was synced. Nothing runs before.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Keys that are due, waiting or running. Rows that are settled are not counted.
    pub fn len(&self) -> usize {
        self.groups.values().map(|queue| queue.due.len() + queue.running).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn running(&self) -> usize {
        self.running
    }

    /// Slots held: one per row of the collection, and one per run whose row is gone.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Give out no more jobs. Returns the keys still running, which the caller awaits or cancels.
    pub fn stop(&mut self) -> Vec<K> {
        self.stopped = true;
        self.slots.iter().filter(|(_, slot)| slot.running).map(|(key, _)| key.clone()).collect()
    }

    fn take_in(&mut self, key: &K, value: &Arc<V>, revision: Revision, now: Duration) {
        let group = (self.group)(key, value);
        match self.slots.get_mut(key) {
            Some(slot) => {
                slot.value = Some(Arc::clone(value));
                slot.revision = revision;
                slot.failures = 0;
                if slot.group != group {
                    let old = std::mem::replace(&mut slot.group, group);
                    let due = slot.due.filter(|_| !slot.running);
                    self.move_queue(key, &old, due);
                }
            }
            None => {
                let slot = Slot {
                    value: Some(Arc::clone(value)),
                    revision,
                    group,
                    due: None,
                    running: false,
                    running_in: String::new(),
                    failures: 0,
                };
                self.slots.insert(key.clone(), slot);
            }
        }
        self.request(key, now + self.options.debounce);
    }

    /// A waiting key whose row now belongs to another group waits there.
    fn move_queue(&mut self, key: &K, old: &str, due: Option<Duration>) {
        let Some(due) = due else { return };
        if let Some(queue) = self.groups.get_mut(old) {
            queue.due.remove(&(due, key.clone()));
        }
        self.drop_idle_group(old);
        if let Some(slot) = self.slots.get(key) {
            self.groups.entry(slot.group.clone()).or_default().due.insert((due, key.clone()));
        }
    }

    fn forget(&mut self, key: &K) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.value = None;
        let due = slot.due.take();
        if slot.running {
            return;
        }
        let group = std::mem::take(&mut slot.group);
        self.slots.remove(key);
        if let (Some(due), Some(queue)) = (due, self.groups.get_mut(&group)) {
            queue.due.remove(&(due, key.clone()));
        }
        self.drop_idle_group(&group);
    }

    fn drop_idle_group(&mut self, name: &str) {
        if self.groups.get(name).is_some_and(|queue| queue.due.is_empty() && queue.running == 0) {
            self.groups.remove(name);
        }
    }
}

fn backoff(options: &WorkOptions, failures: u32) -> Duration {
    let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    options.backoff_min.saturating_mul(doubled).min(options.backoff_max)
}
