//! Which attempts at deployments start now: after their pauses, so many at once, fair between providers, and only one
//! where a provider failed again and again. No clock, no IO.
//!
//! ```text
//! closed ──5 failures in a row──► open ──30 s──► one attempt ──it answers──► closed
//!                                  ▲                  └──────fails──────┘
//! ```
//! A pause is counted from when the attempt before it was heard of, by time that only goes forward: a clock that jumps
//! makes nothing due, and after a restart a pause begins anew.

use crate::{graph::deployments::Due, lane::STALE};
use basalt_model::{DeploymentId, Epoch, ProviderId, deployments::ErrorClass};
use krt::{Collection, Event, Finish, Snapshot, Work, WorkOptions};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Attempts at once.
pub const AT_ONCE: usize = 16;
/// Attempts at once at one provider.
pub const AT_ONE_PROVIDER: usize = 4;
/// Failures of a provider in a row that open its circuit.
const OPENS_AFTER: u32 = 5;
/// How long nothing is tried there then.
const OPEN: Duration = Duration::from_secs(30);

/// Attempts that wait and those that run.
pub struct Dispatch {
    due: Collection<DeploymentId, Due>,
    work: Work<DeploymentId, Due>,
    /// After which attempt each waits, and since when.
    since: BTreeMap<DeploymentId, (Epoch, Duration)>,
    /// The newest attempt of each whose end was written down from here: what was decided without it is stale.
    written: BTreeMap<DeploymentId, Epoch>,
    running: BTreeMap<DeploymentId, Running>,
    /// Of providers that failed last.
    circuits: BTreeMap<ProviderId, Circuit>,
    /// Counts beginnings and ends of attempts.
    moment: u64,
    /// At which moment an attempt last began or ended.
    touched: BTreeMap<DeploymentId, u64>,
}

struct Running {
    due: Arc<Due>,
    cancel: CancellationToken,
}

#[derive(Default)]
struct Circuit {
    failures: u32,
    open_until: Duration,
    /// The one attempt that tells whether it answers again.
    probe: Option<DeploymentId>,
}

impl Circuit {
    fn is_closed(&self) -> bool {
        self.failures < OPENS_AFTER
    }

    fn failed(&mut self, attempt: DeploymentId, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.open_until = now + OPEN;
        self.untold(attempt);
    }

    /// An attempt ended, and did not tell whether the provider answers.
    fn untold(&mut self, attempt: DeploymentId) {
        if self.probe == Some(attempt) {
            self.probe = None;
        }
    }

    /// How long nothing begins.
    fn opens_in(&self, now: Duration) -> Duration {
        match (self.is_closed(), self.probe) {
            (true, _) => Duration::ZERO,
            (false, Some(_)) => OPEN,
            (false, None) => self.open_until.saturating_sub(now),
        }
    }
}

/// An attempt to begin.
#[derive(Clone)]
pub struct Start {
    /// The deployment.
    pub id: DeploymentId,
    /// What is to be done.
    pub due: Arc<Due>,
    /// Is cancelled when something else is wanted before it ended.
    pub cancel: CancellationToken,
}

/// How an attempt ended, as far as the order of attempts is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The deployment.
    pub id: DeploymentId,
    /// When it is looked at again if no news comes of it.
    pub finish: Finish,
    /// The attempt, if its end was written down.
    pub written: Option<Epoch>,
    /// What the platform said: that it did it, or how it failed; none when it was not asked.
    pub answer: Option<Result<(), ErrorClass>>,
}

impl Dispatch {
    /// Over the attempts that are due.
    pub fn new(due: Collection<DeploymentId, Due>) -> Self {
        let options = WorkOptions {
            concurrency: AT_ONCE,
            per_group: AT_ONE_PROVIDER,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            ..WorkOptions::default()
        };
        Self {
            work: Work::grouped(&due, options, |_, due: &Due| due.provider_id().to_string()),
            due,
            since: BTreeMap::new(),
            written: BTreeMap::new(),
            running: BTreeMap::new(),
            circuits: BTreeMap::new(),
            moment: 0,
            touched: BTreeMap::new(),
        }
    }

    /// Takes in news, and ends what is not wanted any more.
    pub fn apply(&mut self, event: &Event, now: Duration) {
        self.work.apply(event, now);
        let collection = self.due;
        match event {
            Event::Batch(batch) => {
                for change in batch.changes(&collection) {
                    match &change.new {
                        Some(due) => self.changed(change.key, due, now),
                        None => self.gone(&change.key),
                    }
                }
            }
            Event::Lagged { snapshot, .. } => self.reset(snapshot, now),
        }
    }

    fn reset(&mut self, snapshot: &Snapshot, now: Duration) {
        let collection = self.due;
        for (id, due) in snapshot.rows(&collection) {
            self.changed(*id, due, now);
        }
        let known: Vec<DeploymentId> = self.since.keys().copied().collect();
        for id in known.iter().filter(|id| snapshot.get(&collection, id).is_none()) {
            self.gone(id);
        }
    }

    fn changed(&mut self, id: DeploymentId, due: &Arc<Due>, now: Duration) {
        let since = self.since.entry(id).or_insert((due.after(), now));
        if since.0 != due.after() {
            *since = (due.after(), now);
        }
        if let Some(running) = self.running.get(&id).filter(|r| !due.is_for(&r.due)) {
            running.cancel.cancel();
        }
    }

    fn gone(&mut self, id: &DeploymentId) {
        self.since.remove(id);
        self.written.remove(id);
        if let Some(running) = self.running.get(id) {
            running.cancel.cancel();
        }
    }

    /// The next attempt to begin now.
    pub fn next(&mut self, now: Duration) -> Option<Start> {
        while let Some(job) = self.work.next(now) {
            let (id, due) = (job.key, job.value);
            let since = self.since.get(&id).map_or(now, |(_, since)| *since);
            let paused = (since + due.request.pause).saturating_sub(now);
            if self.written.get(&id).is_some_and(|written| due.request.ended < *written) {
                // The news of what came of the last one is on its way.
                self.work.done(&id, Finish::After(STALE), now);
                continue;
            }
            let circuit = self.circuits.get_mut(&due.provider_id());
            let wait = circuit.as_ref().map_or(Duration::ZERO, |circuit| circuit.opens_in(now)).max(paused);
            if !wait.is_zero() {
                self.work.done(&id, Finish::After(wait), now);
                continue;
            }
            if let Some(circuit) = circuit.filter(|circuit| !circuit.is_closed()) {
                circuit.probe = Some(id);
            }
            let cancel = CancellationToken::new();
            self.running.insert(id, Running { due: Arc::clone(&due), cancel: cancel.clone() });
            self.touch(id);
            return Some(Start { id, due, cancel });
        }
        None
    }

    /// An attempt ended.
    pub fn done(&mut self, ended: Ended, now: Duration) {
        let Some(running) = self.running.remove(&ended.id) else { return };
        self.touch(ended.id);
        if let Some(written) = ended.written {
            self.written.insert(ended.id, written);
        }
        let provider = running.due.provider_id();
        use ErrorClass::{Auth, Timeout, Transient};
        match (ended.answer, self.circuits.get_mut(&provider)) {
            (Some(Err(Auth | Timeout | Transient)), _) => {
                self.circuits.entry(provider).or_default().failed(ended.id, now);
            }
            // It answered, whatever it said.
            (Some(_), _) => drop(self.circuits.remove(&provider)),
            (None, Some(circuit)) => circuit.untold(ended.id),
            (None, None) => {}
        }
        self.work.done(&ended.id, ended.finish, now);
    }

    fn touch(&mut self, id: DeploymentId) {
        self.moment += 1;
        self.touched.insert(id, self.moment);
    }

    /// When [`Self::next`] could give one at the earliest, if nothing else happens.
    pub fn wake_at(&self) -> Option<Duration> {
        self.work.wake_at()
    }

    /// Attempts that are due, waiting or running.
    pub fn waiting(&self) -> usize {
        self.work.len()
    }

    /// Attempts that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// This moment; attempts that begin or end later are told by [`Self::touched_since`].
    pub fn moment(&self) -> u64 {
        self.moment
    }

    /// Deployments at which something was done since a moment, or is being done. Older ones than `oldest` are forgotten.
    pub fn touched_since(&mut self, moment: u64, oldest: u64) -> Vec<DeploymentId> {
        let running = &self.running;
        self.touched.retain(|id, at| *at > oldest || running.contains_key(id));
        let later =
            |(id, at): (&DeploymentId, &u64)| (*at > moment || running.contains_key(id)).then_some(*id);
        self.touched.iter().filter_map(later).collect()
    }
}
