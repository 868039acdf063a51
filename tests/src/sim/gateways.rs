//! Gateways of a world: the real doors, store, stepper, handlers and sweeps, each taken a step at a time.
//!
//! What the driver of a real gateway waits for is an event here. Two things differ, to save transactions: the lease is
//! renewed when it is needed and a second old, not each second, and the feed is not pulled where nothing was committed.

use super::{
    base::{self, Doors, feed},
    dice::NodeClock,
    faults::EffectFault,
    queue::{Event, MILLI, Micros, SECOND},
    world::World,
};
use anyhow::{Context as _, Result, ensure};
use basalt_api::Hub;
use basalt_daemon::{Clock, Drain, ManualClock};
use basalt_model::DateTime;
use basalt_reconciler::{
    OnManifest,
    handlers::{self, Effect, Outcome, placement::Decided},
    step::Stepper,
    sweeps::{self, Context, Sweep, Swept, lease::Rival},
};
use basalt_store::{Feed, Store, feed::Cursor, leases::Lease};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// A lease that is older is renewed before the next effect.
const RENEW: Micros = SECOND;
/// Cursors that are remembered, to read from again.
const OLD_CURSORS: usize = 16;

/// One gateway.
pub struct Gateway {
    /// Its name in the story.
    pub name: String,
    /// Its clock.
    pub clock: Arc<NodeClock>,
    /// What runs; `None` while it is down.
    pub live: Option<Live>,
    /// It stands still until then, and does not know.
    pub paused_until: Micros,
    /// It reads nothing new until then.
    pub blind_until: Micros,
    /// Who it is to others.
    pub holder: Uuid,
}

/// A gateway that runs.
pub struct Live {
    /// Its way to the truth.
    pub store: Store,
    /// Its doors.
    pub doors: Doors,
    /// What it tells its callers.
    pub hub: Hub,
    /// Its will.
    pub stepper: Stepper,
    /// Where it has read to, and where it had before.
    pub cursor: Option<Cursor>,
    old: VecDeque<Cursor>,
    feed: Arc<Feed>,
    lease: Option<Lease>,
    rival: Rival,
    leased_at: Micros,
    origin: Micros,
    flights: BTreeMap<u64, Flight>,
    changed: watch::Receiver<u64>,
    drain: Drain,
}

/// An effect under way.
struct Flight {
    effect: Effect,
    /// The time that it was begun with.
    at: DateTime,
    outcome: Option<Outcome>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.drain.begin();
    }
}

impl Gateway {
    /// One that is down.
    pub fn new(number: usize, clock: Arc<ManualClock>) -> Self {
        Self {
            name: format!("g{}", number + 1),
            clock: Arc::new(NodeClock::new(clock)),
            live: None,
            paused_until: 0,
            blind_until: 0,
            holder: base::holder(number),
        }
    }

    /// Whether it can answer.
    pub fn is_up(&self) -> bool {
        self.live.is_some()
    }
}

impl Live {
    fn now(&self, now: Micros) -> Duration {
        Duration::from_micros(now - self.origin)
    }

    /// Whether it holds a lease that is still fresh.
    pub fn acts(&self, now: Micros) -> bool {
        self.lease.is_some() && self.leased_at + 60 * SECOND > now
    }

    /// Effects that it began and did not hear of yet.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Forgets what it read last, so that it reads some of it again.
    pub fn read_again(&mut self, back: usize) -> bool {
        let at = self.old.len().saturating_sub(back + 1);
        let older = self.old.get(at).cloned();
        let found = older.is_some();
        self.cursor = older.or_else(|| self.cursor.clone());
        found
    }
}

impl World {
    /// A gateway starts, or starts again.
    pub async fn start_gateway(&mut self, g: usize) -> Result<()> {
        if self.gateways[g].live.is_some() {
            return Ok(());
        }
        let store = self.place.store(g).await;
        let (hub, drain) = (Hub::default(), Drain::new());
        let clock = self.gateways[g].clock.clone();
        let doors = Doors::new(&self.base, &store, clock.clone(), hub.clone(), drain.clone());
        let live = Live {
            changed: store.changed(),
            feed: feed(&store),
            stepper: Stepper::new()?,
            store,
            doors,
            hub,
            cursor: None,
            old: VecDeque::new(),
            lease: None,
            rival: Rival::default(),
            leased_at: 0,
            origin: self.now,
            flights: BTreeMap::new(),
            drain,
        };
        let gateway = &mut self.gateways[g];
        (gateway.live, gateway.paused_until, gateway.blind_until) = (Some(live), 0, 0);
        let line = format!("{} starts", gateway.name);
        self.say(line);
        self.queue.once(self.now, Event::Pull(g));
        if self.renews {
            self.queue.once(self.now, Event::Sweep(g, Sweep::Lease));
        }
        for (sweep, every) in SWEEPS {
            self.queue.once(self.now + self.dice.below(*every), Event::Sweep(g, *sweep));
        }
        self.queue.once(self.now + 5 * SECOND, Event::Flush(g));
        Ok(())
    }

    /// A gateway's process is gone.
    pub fn crash_gateway(&mut self, g: usize, down: Micros) {
        if self.gateways[g].live.take().is_some() {
            let line = format!("{} is killed", self.gateways[g].name);
            self.say(line);
        }
        self.gateways[g].paused_until = 0;
        self.queue.once(self.now + down, Event::Start(g));
    }

    /// Reads what is new.
    pub async fn pull(&mut self, g: usize) -> Result<()> {
        let (now, blind) = (self.now, self.gateways[g].blind_until);
        if blind > now {
            self.queue.once(blind, Event::Pull(g));
            return Ok(());
        }
        let gateway = &mut self.gateways[g];
        let live = gateway.live.as_mut().context("it runs")?;
        let batch = match &live.cursor {
            Some(cursor) => live.feed.pull(cursor).await?,
            None => live.feed.bootstrap().await?,
        };
        live.hub.apply(&batch);
        live.stepper.take(&batch, live.now(now));
        if let Some(old) = live.cursor.replace(batch.cursor.clone()) {
            live.old.push_back(old);
            if live.old.len() > OLD_CURSORS {
                live.old.pop_front();
            }
        }
        let rows = batch.changes.len();
        if rows > 0 {
            let line =
                format!("{} reads {rows} rows{}", gateway.name, if batch.reload { " (all)" } else { "" });
            self.say(line);
        }
        self.queue.once(self.now, Event::Step(g));
        self.wake_polls(g);
        self.watch(g)
    }

    /// Asks for the next effect.
    pub fn ask_stepper(&mut self, g: usize) -> Result<()> {
        let now = self.now;
        let gateway = &mut self.gateways[g];
        let (at, live) = (gateway.clock.now(), gateway.live.as_mut().context("it runs")?);
        if !live.stepper.is_synced() {
            return Ok(());
        }
        let Some(wake) = live.stepper.wake_at() else { return Ok(()) };
        let due = live.origin + u64::try_from(wake.as_micros()).unwrap_or(u64::MAX);
        if due > now {
            self.queue.once(due, Event::Step(g));
            return Ok(());
        }
        let holds = live.lease.as_ref().is_some_and(|lease| lease.expires_at > at);
        if !holds || live.leased_at + RENEW < now {
            self.queue.once(now, Event::Sweep(g, Sweep::Lease));
            return Ok(());
        }
        let Some(effect) = live.stepper.step(live.now(now)) else {
            if let Some(wake) = live.stepper.wake_at() {
                let due = live.origin + u64::try_from(wake.as_micros()).unwrap_or(u64::MAX);
                self.queue.once(due.max(now + MILLI), Event::Step(g));
            }
            return Ok(());
        };
        let number = self.number();
        let live = self.gateways[g].live.as_mut().context("it runs")?;
        live.flights.insert(number, Flight { effect, at, outcome: None });
        let after = self.dice.below(4 * MILLI);
        self.queue.push(now + after, Event::Perform(g, number));
        self.queue.once(now, Event::Step(g));
        Ok(())
    }

    /// Carries an effect out, or what a fault makes of that.
    pub async fn perform(&mut self, g: usize, number: u64) -> Result<()> {
        let live = self.gateways[g].live.as_ref().context("it runs")?;
        let Some(flight) = live.flights.get(&number) else { return Ok(()) };
        let (effect, at) = (flight.effect.clone(), flight.at);
        let what = format!("{} {}", self.gateways[g].name, describe(&effect, self));
        let fault = self.faults.meet_effect(&effect);
        if let Some(fault) = fault {
            self.say(format!("{what}: {fault:?}"));
        }
        match fault {
            Some(EffectFault::CrashBefore(down)) => {
                self.crash_gateway(g, down);
                return Ok(());
            }
            Some(EffectFault::Hang(by)) | Some(EffectFault::HangPaused(by)) => {
                if matches!(fault, Some(EffectFault::HangPaused(_))) {
                    self.gateways[g].paused_until = self.now + by;
                }
                self.queue.push(self.now + by, Event::Perform(g, number));
                return Ok(());
            }
            Some(EffectFault::FailBefore) => {
                self.heard(g, number, effect.failed());
                return Ok(());
            }
            _ => {}
        }
        let (outcome, done) = self.carry_out(g, &effect, at).await?;
        self.say(format!("{what}{}", if done { "" } else { ": failed" }));
        match fault {
            Some(EffectFault::CrashAfter(down)) => {
                self.crash_gateway(g, down);
                return Ok(());
            }
            Some(EffectFault::AnswerLost) => self.heard(g, number, effect.failed()),
            Some(EffectFault::AnswerLostPaused(by)) => {
                self.gateways[g].paused_until = self.now + by;
                self.heard(g, number, effect.failed());
            }
            Some(EffectFault::Twice(by)) => {
                // The other gateway, where there is one, or the same; `at` is the time of the first.
                let by = by % self.gateways.len();
                if self.gateways[by].is_up() {
                    self.carry_out(by, &effect, at).await?;
                }
                self.heard(g, number, outcome);
            }
            _ => self.heard(g, number, outcome),
        }
        Ok(())
    }

    /// Carries an effect out at a gateway, in one transaction.
    ///
    /// # Errors
    /// The gateway is down.
    pub async fn carry_out(&mut self, g: usize, effect: &Effect, at: DateTime) -> Result<(Outcome, bool)> {
        let live = self.gateways[g].live.as_ref().context("it runs")?;
        let hub = live.hub.clone();
        let tell: OnManifest = Arc::new(move |host, revision| hub.manifest_written(host, revision));
        if let Some(log) = &mut self.log {
            log.effects.push((effect.clone(), at));
        }
        let (outcome, done) = handlers::perform(&live.store, effect.clone(), at, Some(&tell)).await;
        self.deeds.effects += 1;
        self.active();
        self.committed(g);
        if matches!(effect, Effect::Manifests(_)) {
            self.wake_polls(g);
        }
        Ok((outcome, done))
    }

    /// The answer to an effect is on its way to the stepper.
    fn heard(&mut self, g: usize, number: u64, outcome: Outcome) {
        let after = self.dice.below(3 * MILLI);
        if let Some(flight) = self.gateways[g].live.as_mut().and_then(|live| live.flights.get_mut(&number)) {
            flight.outcome = Some(outcome);
            self.queue.push(self.now + after, Event::Told(g, number));
        }
    }

    /// The stepper hears what came of an effect.
    pub fn told(&mut self, g: usize, number: u64) {
        let now = self.now;
        let Some(live) = &mut self.gateways[g].live else { return };
        let Some(outcome) = live.flights.remove(&number).and_then(|flight| flight.outcome) else { return };
        live.stepper.done(outcome, live.now(now));
        // It may want more now; a gateway that stood still for long would otherwise count as resting before it asks.
        self.active();
        self.queue.once(now, Event::Step(g));
    }

    /// Whoever was committed to is read again soon: here at once, elsewhere when the news is heard of.
    pub fn committed(&mut self, g: usize) {
        let Some(live) = &mut self.gateways[g].live else { return };
        if !live.changed.has_changed().unwrap_or_default() {
            return;
        }
        live.changed.mark_unchanged();
        for other in 0..self.gateways.len() {
            // Who does not hear of it finds it with the next poll.
            let lost = self.faults.loses_signal();
            let after = match (other == g, lost) {
                (_, true) => SECOND,
                (true, false) => self.dice.below(10 * MILLI),
                (false, false) => self.dice.between(MILLI, 200 * MILLI),
            };
            if self.gateways[other].is_up() {
                self.queue.once(self.now + after, Event::Pull(other));
            }
        }
    }

    /// Something by the clock.
    pub async fn sweep(&mut self, g: usize, sweep: Sweep) -> Result<()> {
        let now = self.now;
        let gateway = &mut self.gateways[g];
        let (at, live) = (gateway.clock.now(), gateway.live.as_mut().context("it runs")?);
        if let Some((_, every)) = SWEEPS.iter().find(|(s, _)| *s == sweep) {
            self.queue.once(now + every, Event::Sweep(g, sweep));
        }
        let acting = live.lease.as_ref().is_some_and(|lease| lease.expires_at > at);
        if sweep.is_exclusive() && !acting || sweep == Sweep::Hold && live.cursor.is_none() {
            return Ok(());
        }
        let context = Context {
            store: live.store.clone(),
            feed: Arc::clone(&live.feed),
            holder: gateway.holder,
            cursor: live.cursor.clone(),
            lease: live.lease.clone(),
            silent: live.rival.silent(at),
            keep_tasks_days: 7,
            now: at,
        };
        match sweeps::run(sweep, context).await? {
            Swept::Lease(claim) => {
                let lease = live.rival.take_in(claim, at);
                if lease.as_ref().map(|l| l.epoch) != live.lease.as_ref().map(|l| l.epoch) {
                    let line = match &lease {
                        Some(lease) => format!("{} acts, epoch {}", gateway.name, lease.epoch),
                        None => format!("{} does not act", gateway.name),
                    };
                    self.story.push(format!("{:>11.6} {line}", now as f64 / SECOND as f64));
                }
                live.leased_at = now;
                let wait = if lease.is_some() { 0 } else { SECOND };
                live.lease = lease;
                live.changed.mark_unchanged();
                self.queue.once(now + wait, Event::Step(g));
                if self.renews {
                    self.queue.once(now + SECOND, Event::Sweep(g, Sweep::Lease));
                }
            }
            Swept::Liveness(beats, leases) => {
                live.stepper.watch(&leases, live.now(now));
                live.stepper.hear(&beats, at, live.now(now));
                self.queue.once(now, Event::Step(g));
            }
            Swept::Rows(rows) => {
                if rows > 0 {
                    self.say(format!("{} sweeps {sweep:?}: {rows} rows", self.gateways[g].name));
                }
                self.committed(g);
            }
        }
        Ok(())
    }

    /// Signs of life are written down.
    pub async fn flush(&mut self, g: usize) {
        self.queue.once(self.now + 5 * SECOND, Event::Flush(g));
        if let Some(live) = &mut self.gateways[g].live {
            live.doors.app.step().await;
            // They are not on the feed.
            live.changed.mark_unchanged();
        }
    }

    /// The graph of each gateway is what a recomputation gives.
    ///
    /// # Errors
    /// What differs.
    pub fn verify_graphs(&self) -> Result<()> {
        for gateway in &self.gateways {
            let differences = gateway.live.as_ref().map(|live| live.stepper.verify()).unwrap_or_default();
            ensure!(differences.is_empty(), "the graph of {} is wrong: {differences:?}", gateway.name);
        }
        Ok(())
    }
}

/// Sweeps and how often they run here.
const SWEEPS: &[(Sweep, Micros)] = &[
    (Sweep::Liveness, 5 * SECOND),
    (Sweep::Hold, 20 * SECOND),
    (Sweep::Conflicts, 20 * SECOND),
    (Sweep::Tasks, 30 * SECOND),
    (Sweep::Prune, 60 * SECOND),
];

/// An id as the story shows it: its last digits, which are random.
pub fn short(id: Uuid) -> String {
    format!("{:04x}", id.as_u128() & 0xffff)
}

fn describe(effect: &Effect, world: &World) -> String {
    let host = |id: Uuid| {
        let found = world.agents.iter().find(|agent| agent.enrolled.id.0 == id);
        found.map_or_else(|| short(id), |agent| agent.enrolled.name.clone())
    };
    let mut text = effect.name().to_owned();
    match effect {
        Effect::Place(rows) => rows.iter().for_each(|row| {
            let _ = match row {
                Decided::Place(place) => write!(text, " {}→{}", short(place.vm_id.0), host(place.host_id.0)),
                Decided::Unplaced(row) => write!(text, " {}→nowhere", short(row.vm_id.0)),
            };
        }),
        Effect::Manifests(rows) => rows.iter().for_each(|(id, edits)| {
            let _ = write!(text, " {}({})", host(id.0), edits.len());
        }),
        Effect::Conditions(rows) => rows.iter().for_each(|row| {
            let _ = write!(text, " {}", short(row.subject_id));
        }),
        Effect::Tasks(rows) => rows.iter().for_each(|row| {
            let _ = write!(text, " {}={:?} {}%", short(row.id.0), row.state, row.progress);
        }),
        Effect::Finalise(rows) => rows.iter().for_each(|row| {
            let _ = write!(text, " {row:?}");
        }),
        others => {
            let _ = write!(text, " of {}", others.len());
        }
    }
    text
}
