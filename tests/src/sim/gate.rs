//! A host behind a gate: what an agent asks of it waits until the world carries it out.
//!
//! So each action is an event of its own, which the seed can delay, lose, or let fail, and the agent's own time limit
//! (which counts real time) never strikes: the world answers in its place when virtual time is up.

use basalt_agent::{
    Error,
    host::{Download, Downloads, Host, With, console::Console, sim::SimHost},
};
use basalt_model::{ImageId, PortId, VmId, hosts::HostFacts, networks::Counters};
use basalt_plan::host::{Action, Observed};
use basalt_wire::agent::console::Mode;
use futures::{FutureExt, future::BoxFuture};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{oneshot, watch};

/// What an action is answered.
pub type Answer = Result<(), Error>;

/// Actions that wait.
#[derive(Default)]
struct Waiting {
    next: u64,
    fresh: Vec<u64>,
    /// What the agent lets an action use.
    with: Option<With>,
    all: BTreeMap<u64, Asked>,
}

/// An action that an agent asked for.
struct Asked {
    action: Action,
    with: With,
    answer: oneshot::Sender<Answer>,
}

/// A simulated host whose actions wait. Clones share what waits.
#[derive(Clone)]
pub struct Gate {
    sim: Arc<SimHost>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Gate {
    /// A gate before a host; numbers of its actions begin at `first`.
    pub fn new(sim: Arc<SimHost>, first: u64) -> Self {
        Self { sim, waiting: Arc::new(Mutex::new(Waiting { next: first, ..Waiting::default() })) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Actions that were asked for since the last call.
    pub fn fresh(&self) -> Vec<u64> {
        std::mem::take(&mut self.waiting().fresh)
    }

    /// The number that the next action gets.
    pub fn next(&self) -> u64 {
        self.waiting().next
    }

    /// An action that waits.
    pub fn action(&self, number: u64) -> Option<Action> {
        self.waiting().all.get(&number).map(|asked| asked.action.clone())
    }

    /// All actions that wait.
    pub fn actions(&self) -> Vec<Action> {
        self.waiting().all.values().map(|asked| asked.action.clone()).collect()
    }

    /// Begins an action that takes more than a moment: each poll carries it as far as it goes.
    pub fn begin(&self, number: u64) -> Option<BoxFuture<'static, Answer>> {
        let (action, with) =
            self.waiting().all.get(&number).map(|asked| (asked.action.clone(), asked.with.clone()))?;
        let sim = self.sim.clone();
        Some(async move { sim.act(&action, &with).await }.boxed())
    }

    /// Carries an action out on the host itself.
    pub async fn carry_out(&self, action: &Action) -> Answer {
        let with = self.waiting().with.clone();
        match with {
            Some(with) => self.sim.act(action, &with).await,
            None => Err(Error::host(action.stage(), "no agent asked for anything yet")),
        }
    }

    /// Answers an action; whether somebody still waits for it.
    pub fn answer(&self, number: u64, answer: Answer) -> bool {
        let asked = self.waiting().all.remove(&number);
        asked.is_some_and(|asked| asked.answer.send(answer).is_ok())
    }
}

impl Host for Gate {
    async fn observe(&self) -> Observed {
        self.sim.observe().await
    }

    async fn facts(&self) -> HostFacts {
        self.sim.facts().await
    }

    async fn act(&self, action: &Action, with: &With) -> Result<(), Error> {
        let (sender, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            let number = waiting.next;
            waiting.next += 1;
            waiting.fresh.push(number);
            waiting.with = Some(with.clone());
            let asked = Asked { action: action.clone(), with: with.clone(), answer: sender };
            waiting.all.insert(number, asked);
        }
        answered.await.unwrap_or_else(|_| Err(Error::host(action.stage(), "the world ended")))
    }

    async fn console(&self, id: VmId, mode: Mode) -> Result<Console, Error> {
        self.sim.console(id, mode).await
    }

    async fn counters(&self, id: PortId) -> Result<Counters, Error> {
        self.sim.counters(id).await
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.sim.news()
    }
}

/// Simulated hosts fetch nothing.
pub struct NoDownloads;

impl Downloads for NoDownloads {
    fn open(&self, _: ImageId, _: u64) -> BoxFuture<'_, Result<Download, Error>> {
        async { Err(Error::link("downloading", "there is nothing to download")) }.boxed()
    }
}
