//! The driver: feeds the stepper, carries out its effects, runs the sweeps. All IO of the reconciler is here.

use crate::{
    Error, Reconciler, Shared, Verify, debug, dispatch,
    handlers::{self, Outcome},
    platforms::Looked,
    step::Stepper,
    sweeps::{self, Context, Sweep, Swept, lease::Rival},
};
use basalt_daemon::Drain;
use basalt_model::{DateTime, ProviderId};
use basalt_store::{
    Feed,
    feed::{Batch, Cursor},
    leases::Lease,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// The feed is pulled at least so often, whatever the signals say.
const FLOOR: Duration = Duration::from_secs(1);
/// Under load the next pull waits a moment, so that it brings more: so long for each row that the last one brought
/// beyond [`FEW`], and at most [`LONGEST_GATHERING`].
const GATHERING_PER_ROW: Duration = Duration::from_micros(100);
/// Rows of a pull after which the next one waits for nothing: what one intent writes, and some more.
const FEW: u32 = 16;
/// See [`GATHERING_PER_ROW`].
const LONGEST_GATHERING: Duration = Duration::from_millis(10);
/// The wait after a pull that failed.
const AGAIN: Duration = Duration::from_millis(200);
/// Effects in flight get so long to end when the drain begins.
const LAST_EFFECTS: Duration = Duration::from_secs(5);
/// Effects running at once, over all lanes.
const MAX_EFFECTS: usize = 8;

type Pulled = Result<Batch, basalt_store::Error>;
type SweepEnd = (Sweep, DateTime, Result<Swept, basalt_store::Error>);
type EffectEnd = (Outcome, &'static str, usize, bool, Duration);

/// A running reconciler.
pub struct Driver {
    reconciler: Reconciler,
    feed: Arc<Feed>,
    stepper: Stepper,
    origin: Instant,
    cursor: Option<Cursor>,
    lease: Option<Lease>,
    rival: Rival,
    /// The pull that is under way, and when it began.
    pull: Option<(Duration, BoxFuture<'static, Pulled>)>,
    pull_due: Duration,
    /// When the last pull that came through began.
    fresh_at: Duration,
    /// No pull before this, whatever the signals say.
    pull_after: Duration,
    effects: FuturesUnordered<BoxFuture<'static, EffectEnd>>,
    sweeps: FuturesUnordered<BoxFuture<'static, SweepEnd>>,
    due: BTreeMap<Sweep, Duration>,
    verify_due: Option<Duration>,
    /// Counts the samples.
    verify_turn: u64,
    hands: FuturesUnordered<BoxFuture<'static, HandEnd>>,
}

/// What came of reaching for a platform.
enum HandEnd {
    /// An attempt ended.
    Attempted(dispatch::Ended),
    /// A look was made.
    Looked(Box<Looked>),
    /// What it found is written down.
    Written(ProviderId),
}

/// Where pacing counts from. A clock that is set back must not stop the driver, so this is not the clock that is handed
/// in; it is never written down, and what decides (the stepper) never sees it but as a duration.
#[expect(clippy::disallowed_methods)]
fn begin() -> Instant {
    Instant::now()
}

/// What the driver woke up for.
enum Woken {
    Drain,
    Pulled(Duration, Box<Pulled>),
    Effect(EffectEnd),
    Sweep(Box<SweepEnd>),
    Asked(debug::Question, tokio::sync::oneshot::Sender<String>),
    Hand(HandEnd),
    Hint(ProviderId),
    Changed,
    Time,
}

impl Driver {
    /// A driver with an empty graph.
    pub fn new(reconciler: Reconciler) -> Result<Self, Error> {
        let verify_due = match reconciler.options.verify {
            Verify::Always => None,
            Verify::Sampled { every, .. } => Some(every),
        };
        let options = &reconciler.options;
        Ok(Self {
            feed: Arc::new(Feed::new(&options.store)),
            stepper: Stepper::with_eyes(options.eyes)?,
            hands: FuturesUnordered::new(),
            reconciler,
            origin: begin(),
            cursor: None,
            lease: None,
            rival: Rival::default(),
            pull: None,
            pull_due: Duration::ZERO,
            fresh_at: Duration::ZERO,
            pull_after: Duration::ZERO,
            effects: FuturesUnordered::new(),
            sweeps: FuturesUnordered::new(),
            due: Sweep::ALL.into_iter().map(|s| (s, Duration::ZERO)).collect(),
            verify_due,
            verify_turn: 0,
        })
    }

    fn shared(&self) -> &Shared {
        &self.reconciler.shared
    }

    fn time(&self) -> DateTime {
        self.reconciler.options.clock.now()
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Runs until the drain begins.
    pub async fn run(mut self, drain: Drain) -> Result<(), Error> {
        let mut changed = self.reconciler.options.store.changed();
        loop {
            self.start_pull();
            self.start_sweeps();
            self.start_effects();
            self.start_hands();
            let woken = self.wait(&drain, &mut changed).await;
            let lag = self.now().saturating_sub(self.fresh_at);
            self.shared().metrics.lag_seconds.set(lag.as_secs_f64());
            match woken {
                Woken::Drain => break,
                Woken::Pulled(began, result) => self.pulled(began, *result)?,
                Woken::Effect(end) => self.effect_ended(end),
                Woken::Sweep(end) => self.swept(*end)?,
                Woken::Asked(question, reply) => {
                    // Whoever asked may have gone away meanwhile.
                    let _ = reply.send(debug::answer(&self.stepper, question));
                }
                Woken::Hand(end) => self.hand_ended(end),
                Woken::Hint(provider) => self.stepper.hint(provider, self.now()),
                Woken::Changed => self.pull_due = Duration::ZERO,
                Woken::Time => self.verify_when_idle()?,
            }
        }
        self.stop().await;
        Ok(())
    }

    async fn wait(&mut self, drain: &Drain, changed: &mut tokio::sync::watch::Receiver<u64>) -> Woken {
        let sleep = tokio::time::sleep(self.idle_for());
        let pull = async {
            match &mut self.pull {
                Some((began, pull)) => (*began, pull.await),
                None => std::future::pending().await,
            }
        };
        let hint = async {
            match &mut self.reconciler.platforms {
                Some((_, hints)) => hints.recv().await,
                None => None,
            }
        };
        tokio::select! {
            biased;
            () = drain.begun() => Woken::Drain,
            (began, result) = pull => Woken::Pulled(began, Box::new(result)),
            Some(end) = self.effects.next(), if !self.effects.is_empty() => Woken::Effect(end),
            Some(end) = self.sweeps.next(), if !self.sweeps.is_empty() => Woken::Sweep(Box::new(end)),
            Some(end) = self.hands.next(), if !self.hands.is_empty() => Woken::Hand(end),
            Some(provider) = hint => Woken::Hint(provider),
            Ok(()) = changed.changed() => Woken::Changed,
            Some((question, reply)) = self.reconciler.questions.recv() => Woken::Asked(question, reply),
            () = sleep => Woken::Time,
        }
    }

    /// How long nothing needs to be done, unless something happens.
    fn idle_for(&self) -> Duration {
        let now = self.now();
        let pull = self.pull.is_none().then_some(self.pull_due.max(self.pull_after));
        let can_act = self.is_acting() && self.effects.len() < MAX_EFFECTS;
        let lanes = if can_act { self.stepper.wake_at() } else { None };
        let hands = if self.is_acting() && self.reconciler.platforms.is_some() {
            self.stepper.hands_wake_at()
        } else {
            None
        };
        let sweeps = self.due.values().min().copied();
        // An overdue comparison waits for an idle moment.
        let verify = self.verify_due.filter(|due| *due > now);
        let at = [pull, lanes, hands, sweeps, verify].into_iter().flatten().min();
        at.map_or(FLOOR, |at| at.saturating_sub(now)).clamp(Duration::from_micros(200), FLOOR)
    }

    /// Effects are carried out only under a lease that has not run out, and only on the whole truth.
    fn is_acting(&self) -> bool {
        let now = self.time();
        self.stepper.is_synced() && self.lease.as_ref().is_some_and(|lease| lease.expires_at > now)
    }

    fn start_pull(&mut self) {
        let now = self.now();
        if self.pull.is_some() || self.pull_due.max(self.pull_after) > now {
            return;
        }
        // Whatever is committed from here on gives another signal.
        self.pull_due = now + FLOOR;
        let (feed, cursor) = (Arc::clone(&self.feed), self.cursor.clone());
        let pull = async move {
            match &cursor {
                Some(cursor) => feed.pull(cursor).await,
                None => feed.bootstrap().await,
            }
        };
        self.pull = Some((now, pull.boxed()));
    }

    fn pulled(&mut self, began: Duration, result: Pulled) -> Result<(), Error> {
        self.pull = None;
        let now = self.now();
        let batch = match result {
            Ok(batch) => batch,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the feed cannot be pulled; trying again");
                self.shared().metrics.pull_failures.inc();
                self.set_trouble(Some(format!("the database cannot be read: {error}")));
                (self.pull_due, self.pull_after) = (now + AGAIN, now + AGAIN);
                return Ok(());
            }
        };
        self.set_trouble(None);
        if let Some(on_batch) = &self.reconciler.options.on_batch {
            on_batch(&batch);
        }
        let commit = self.stepper.take(&batch, now);
        self.cursor = Some(batch.cursor.clone());
        self.fresh_at = began;
        let rows = u32::try_from(batch.changes.len()).unwrap_or(u32::MAX);
        let many = rows.saturating_sub(FEW);
        self.pull_after = now + GATHERING_PER_ROW.saturating_mul(many).min(LONGEST_GATHERING);
        let metrics = &self.shared().metrics;
        metrics.pulls.inc();
        metrics.changes.inc_by(batch.changes.len() as u64);
        metrics.runs.inc_by(commit.runs as u64);
        let revision = self.stepper.graph().revision();
        metrics.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        metrics.pull_seconds.observe((self.now() - began).as_secs_f64());
        metrics.agent_conflicts.set(i64::try_from(self.stepper.agent_conflicts()).unwrap_or(i64::MAX));
        if batch.reload {
            metrics.reloads.inc();
            tracing::info!(
                rows = batch.changes.len(),
                millis = (self.now() - began).as_millis(),
                "read the whole truth"
            );
        }
        self.shared().synced.store(self.stepper.is_synced(), Ordering::Release);
        self.verify_always()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.shared().trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn start_effects(&mut self) {
        let acting = self.is_acting();
        self.shared().metrics.acting.set(i64::from(acting));
        while acting && self.effects.len() < MAX_EFFECTS {
            let now = self.now();
            let Some(effect) = self.stepper.step(now) else { break };
            let options = &self.reconciler.options;
            let (store, at) = (options.store.clone(), options.clock.now());
            let on_manifest = options.on_manifest.clone();
            let run = async move {
                let (name, rows) = (effect.name(), effect.len());
                let (outcome, done) = handlers::perform(&store, effect, at, on_manifest.as_ref()).await;
                (outcome, name, rows, done, now)
            };
            self.effects.push(run.boxed());
        }
    }

    fn effect_ended(&mut self, (outcome, name, rows, done, began): EffectEnd) {
        let now = self.now();
        self.shared().metrics.effect(name, rows, done, now.saturating_sub(began).as_secs_f64());
        self.stepper.done(outcome, now);
    }

    /// Attempts and looks begin while this gateway acts. What is begun goes on when it does not any more: attempts are
    /// held by claims of their own.
    fn start_hands(&mut self) {
        let platforms = self.reconciler.platforms.as_ref();
        let (Some((platforms, _)), true, Some(lease)) = (platforms, self.is_acting(), &self.lease) else {
            return;
        };
        let now = self.now();
        while let Some(start) = self.stepper.attempt(now) {
            let (platforms, lease) = (Arc::clone(platforms), lease.clone());
            self.hands.push(platforms.attempt(start, lease).map(HandEnd::Attempted).boxed());
        }
        while let Some(provider) = self.stepper.look(now) {
            let look = Arc::clone(platforms).look(provider);
            self.hands.push(look.map(|looked| HandEnd::Looked(Box::new(looked))).boxed());
        }
    }

    fn hand_ended(&mut self, end: HandEnd) {
        let (now, after) = (self.now(), self.reconciler.options.look_every);
        match (end, &self.reconciler.platforms, &self.lease) {
            (HandEnd::Attempted(ended), ..) => self.stepper.attempted(ended, now),
            (HandEnd::Looked(looked), Some((platforms, _)), Some(lease)) => {
                let except = self.stepper.touched_during(looked.provider.id());
                let write = Arc::clone(platforms).looked(*looked, lease.clone(), except);
                self.hands.push(write.map(HandEnd::Written).boxed());
            }
            (HandEnd::Looked(looked), ..) => self.stepper.looked(looked.provider.id(), after, now),
            (HandEnd::Written(provider), ..) => self.stepper.looked(provider, after, now),
        }
    }

    fn context(&self) -> Context {
        let options = &self.reconciler.options;
        let now = options.clock.now();
        Context {
            store: options.store.clone(),
            feed: Arc::clone(&self.feed),
            holder: options.holder,
            cursor: self.cursor.clone(),
            lease: self.lease.clone(),
            silent: self.rival.silent(now),
            keep_tasks_days: options.keep_tasks_days,
            now,
        }
    }

    fn start_sweeps(&mut self) {
        let (now, acting) = (self.now(), self.is_acting());
        let due: Vec<Sweep> = self.due.iter().filter(|(_, at)| **at <= now).map(|(s, _)| *s).collect();
        for sweep in due {
            // Before the first sync there is nothing to hold.
            if sweep.is_exclusive() && !acting || sweep == Sweep::Hold && self.cursor.is_none() {
                self.due.insert(sweep, now + FLOOR);
                continue;
            }
            // Not due again before it ended.
            self.due.remove(&sweep);
            let context = self.context();
            let at = context.now;
            let run = async move { (sweep, at, sweeps::run(sweep, context).await) };
            self.sweeps.push(run.boxed());
        }
    }

    fn swept(&mut self, (sweep, at, result): SweepEnd) -> Result<(), Error> {
        let now = self.now();
        let jitter = 0.9 + 0.2 * self.reconciler.options.clock.jitter();
        self.due.insert(sweep, now + sweep.interval().mul_f64(jitter));
        match result {
            Ok(Swept::Lease(claim)) => {
                let lease = self.rival.take_in(claim, at);
                if lease.is_some() != self.lease.is_some() {
                    tracing::info!(acting = lease.is_some(), "the reconciler's lease changed hands");
                }
                self.lease = lease;
            }
            Ok(Swept::Liveness(beats, leases)) => {
                self.stepper.watch(&leases, now);
                if let Some((platforms, _)) = &self.reconciler.platforms {
                    let (snapshot, nodes) = self.stepper.snapshot();
                    platforms.keep(|id| snapshot.get(&nodes.inputs.providers, id).is_some());
                }
                self.stepper.hear(&beats, at, now);
                self.verify_always()?;
                let bytes: usize = self.stepper.graph().counters().iter().map(|(_, c)| c.bytes).sum();
                self.shared().metrics.graph_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
                for (effect, waiting) in self.stepper.backlog() {
                    let labels = crate::metrics::LaneLabels { effect };
                    let gauge = self.shared().metrics.backlog.get_or_create(&labels).clone();
                    gauge.set(i64::try_from(waiting).unwrap_or(i64::MAX));
                }
            }
            Ok(Swept::Rows(rows)) => tracing::debug!(?sweep, rows, "swept"),
            Err(error) => {
                if sweep == Sweep::Liveness {
                    self.stepper.deaf(now);
                }
                let error: &dyn std::error::Error = &error;
                tracing::warn!(?sweep, error, "a sweep failed; it runs again");
            }
        }
        Ok(())
    }

    fn verify_always(&mut self) -> Result<(), Error> {
        if self.reconciler.options.verify != Verify::Always {
            return Ok(());
        }
        match self.tell(&self.stepper.verify()) {
            0 => Ok(()),
            n => Err(Error::Diverged(format!("{n} rows, see the log"))),
        }
    }

    /// Tells what a comparison found; gives the number of rows that differ.
    fn tell(&self, differences: &[krt::Difference]) -> usize {
        let metrics = &self.shared().metrics;
        metrics.verifications.inc();
        metrics.differences.inc_by(differences.len() as u64);
        for d in differences.iter().take(10) {
            tracing::error!(collection = %d.collection, key = %d.key, incremental = %d.incremental,
                recomputed = %d.recomputed, "the graph differs from a recomputation");
        }
        differences.len()
    }

    /// The sampled oracle. A graph that is wrong is dropped and built anew from the truth.
    fn verify_when_idle(&mut self) -> Result<(), Error> {
        let now = self.now();
        let Verify::Sampled { every, keys } = self.reconciler.options.verify else { return Ok(()) };
        let busy = !self.effects.is_empty() || self.pull.is_some() || !self.stepper.is_synced();
        if busy || self.verify_due.is_none_or(|due| due > now) {
            return Ok(());
        }
        self.verify_due = Some(now + every);
        self.verify_turn += 1;
        if self.tell(&self.stepper.verify_some(keys, self.verify_turn)) > 0 {
            self.stepper = Stepper::with_eyes(self.reconciler.options.eyes)?;
            self.cursor = None;
            self.pull_due = Duration::ZERO;
        }
        Ok(())
    }

    async fn stop(mut self) {
        self.shared().metrics.acting.set(0);
        let rest = async { while self.effects.next().await.is_some() {} };
        if tokio::time::timeout(LAST_EFFECTS, rest).await.is_err() {
            tracing::warn!("effects were still on their way; they are repeated after the start");
        }
        let context = self.context();
        if let Err(error) = sweeps::lease::release(&context).await {
            tracing::warn!(%error, "the lease could not be given back; it runs out");
        }
    }
}
