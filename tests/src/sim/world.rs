//! The world: all nodes, the queue of what is to happen, and the story of what did.

use super::{
    agents::Agent,
    base::{Base, Place},
    calls::Sent,
    dice::{Dice, NodeClock},
    faults::Faults,
    gateways::Gateway,
    oracles,
    queue::{Event, Micros, Queue, SECOND},
    users::User,
    watcher::Watcher,
};
use anyhow::Result;
use basalt_agent::host::sim::fabric::Fabric;
use basalt_daemon::ManualClock;
use basalt_model::{DateTime, VmId};
use basalt_plan::host::Action;
use basalt_reconciler::handlers::Effect;
use chrono::TimeDelta;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Everything that there is.
pub struct World {
    /// What it began with.
    pub base: Arc<Base>,
    /// Where the truth is.
    pub place: Place,
    /// Time without skew, and the randomness of ids.
    pub clock: Arc<ManualClock>,
    /// The seed's choices.
    pub dice: Dice,
    /// What is to happen.
    pub queue: Queue,
    /// Virtual time since the world began.
    pub now: Micros,
    /// What happened.
    pub story: Vec<String>,
    /// Whether it is also printed as it happens, to look at a test that does not end.
    pub echo: bool,
    /// Gateways.
    pub gateways: Vec<Gateway>,
    /// Hosts with their agents.
    pub agents: Vec<Agent>,
    /// What lies between hosts.
    pub fabric: Fabric,
    /// VMs that were ever on their way to a host.
    pub sent: BTreeSet<(VmId, usize)>,
    /// Calls on their way.
    pub calls: BTreeMap<u64, Sent>,
    /// What goes wrong.
    pub faults: Faults,
    /// Who uses it.
    pub user: User,
    /// Who watches, if anybody does.
    pub watcher: Option<Watcher>,
    /// Whether leases are renewed each second, as real gateways do, and not only where somebody needs one.
    pub renews: bool,
    /// When anything was last written or done.
    pub active_at: Micros,
    /// Effects and actions so far, where somebody wants to repeat them.
    pub log: Option<Log>,
    /// Transactions of reconcilers and actions of hosts so far.
    pub deeds: Deeds,
    numbers: u64,
}

/// What was carried out, and by whom.
#[derive(Default)]
pub struct Log {
    /// Effects with the times that they were begun with.
    pub effects: Vec<(Effect, DateTime)>,
    /// Actions of hosts.
    pub actions: Vec<(usize, Action)>,
}

/// Counts of what was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deeds {
    /// Effects that were carried out.
    pub effects: u64,
    /// Actions that were carried out.
    pub actions: u64,
    /// Events.
    pub events: u64,
}

impl World {
    /// A world of one seed, in which everything is about to start.
    pub async fn new(base: Arc<Base>, seed: u64, gateways: usize) -> Self {
        let clock = Arc::new(ManualClock::new(base.at, seed ^ 0x5eed));
        let place = base.place().await;
        let gateways: Vec<Gateway> = (0..gateways).map(|n| Gateway::new(n, clock.clone())).collect();
        let agents = base.hosts.iter().enumerate().map(|(n, host)| {
            let clock = Arc::new(NodeClock::new(clock.clone()));
            Agent::new(n, host.clone(), clock, n % gateways.len())
        });
        let agents: Vec<Agent> = agents.collect();
        let fabric = Fabric::default();
        fabric.by_hand();
        agents.iter().for_each(|agent| fabric.join(agent.enrolled.id, &agent.sim));
        let mut world = Self {
            base,
            place,
            clock,
            dice: Dice::new(seed),
            queue: Queue::default(),
            now: 0,
            story: Vec::new(),
            echo: std::env::var_os("BASALT_SIM_ECHO").is_some(),
            gateways,
            agents,
            fabric,
            sent: BTreeSet::new(),
            calls: BTreeMap::new(),
            faults: Faults::default(),
            user: User::new(seed),
            watcher: None,
            renews: false,
            active_at: 0,
            log: None,
            deeds: Deeds::default(),
            numbers: 0,
        };
        for n in 0..world.gateways.len() {
            world.queue.push(0, Event::Start(n));
        }
        for n in 0..world.agents.len() {
            world.queue.push(0, Event::Boot(n));
        }
        world
    }

    /// A number that nothing else in this world has.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Writes a line of the story.
    pub fn say(&mut self, line: impl AsRef<str>) {
        let line = format!("{:>11.6} {}", self.now as f64 / SECOND as f64, line.as_ref());
        if self.echo {
            println!("{line}");
        }
        self.story.push(line);
    }

    /// Something was written or done.
    pub fn active(&mut self) {
        self.active_at = self.now;
    }

    /// The next operation; `false` when nothing is left to happen.
    ///
    /// # Errors
    /// What an oracle found.
    pub async fn step(&mut self) -> Result<bool> {
        let Some(first) = self.queue.first() else { return Ok(false) };
        if first > self.now {
            let by = i64::try_from(first - self.now).unwrap_or(i64::MAX);
            self.clock.advance(TimeDelta::microseconds(by));
            self.now = first;
        }
        if let Some(event) = self.queue.take(self.now, &mut self.dice) {
            self.deeds.events += 1;
            self.happen(event).await?;
        }
        Ok(true)
    }

    /// Lets things happen until something holds, for so many virtual seconds at most; whether it came to hold.
    ///
    /// # Errors
    /// What an oracle found.
    pub async fn until(&mut self, seconds: u64, mut holds: impl FnMut(&Self) -> bool) -> Result<bool> {
        let end = self.now + seconds * SECOND;
        while !holds(self) {
            if self.now >= end || !self.step().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Nothing is under way: every gateway is up and waits for no effect, every agent is up, has nothing to do and waits for
    /// no action.
    pub fn rests(&self) -> bool {
        let idle = |g: &Gateway| g.live.as_ref().is_some_and(|live| live.in_flight() == 0);
        self.gateways.iter().all(idle) && self.living().all(Agent::rests)
    }

    async fn happen(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Pull(g) if self.awake(g, Event::Pull(g)) => self.pull(g).await?,
            Event::Step(g) if self.awake(g, Event::Step(g)) => self.ask_stepper(g)?,
            Event::Perform(g, n) if self.awake(g, Event::Perform(g, n)) => self.perform(g, n).await?,
            Event::Told(g, n) if self.awake(g, Event::Told(g, n)) => self.told(g, n),
            Event::Sweep(g, sweep) if self.awake(g, Event::Sweep(g, sweep)) => self.sweep(g, sweep).await?,
            Event::Flush(g) if self.awake(g, Event::Flush(g)) => self.flush(g).await,
            Event::Start(g) => self.start_gateway(g).await?,
            Event::Look(h) => self.look(h).await?,
            Event::Act(h, n) => {
                self.act(h, n).await?;
                oracles::runs_once(self)?;
            }
            Event::Move(h, n) => {
                self.go_on(h, n).await?;
                oracles::runs_once(self)?;
            }
            Event::Acted(h, n) => self.acted(h, n).await?,
            Event::Facts(h) => self.gather_facts(h).await,
            Event::Report(h) => self.report(h),
            Event::Poll(h) => self.poll(h),
            Event::Directory(h) => self.look_up(h),
            Event::Lease(h) => self.renew(h),
            Event::Boot(h) => self.boot(h)?,
            Event::Arrive(n) => self.arrive(n).await?,
            Event::Answer(n) => self.answer(n).await?,
            Event::Expire(n) => self.expire(n).await?,
            Event::User => self.use_it(),
            Event::Fault => self.go_wrong().await?,
            Event::Mend(n) => self.mend(n),
            // A gateway that is stopped: it happens when it goes on.
            Event::Pull(_)
            | Event::Step(_)
            | Event::Perform(..)
            | Event::Told(..)
            | Event::Sweep(..)
            | Event::Flush(_) => {}
        }
        Ok(())
    }

    /// Whether a gateway is running; what happens to one that is paused, happens when it goes on.
    fn awake(&mut self, g: usize, event: Event) -> bool {
        let gateway = &self.gateways[g];
        if gateway.live.is_some() && gateway.paused_until > self.now {
            self.queue.push(gateway.paused_until, event);
            return false;
        }
        gateway.live.is_some()
    }

    /// Ends it: the next one may have its place.
    pub fn end(self) {
        self.base.give_back(self.place);
    }
}
