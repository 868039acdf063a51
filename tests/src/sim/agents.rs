//! Hosts of a world: the real cycle, outbox and ledger of an agent over a host in memory. The loops around them are
//! events.

use super::{
    base::{Call, Enrolled, Reply},
    calls::Kind,
    dice::NodeClock,
    faults::ActionFault,
    gate::{self, Gate, NoDownloads},
    gateways::short,
    motion::{UnderWay, travels},
    queue::{Event, MILLI, Micros, SECOND},
    world::World,
};
use anyhow::{Context, Result};
use basalt_agent::{
    Error,
    cycle::{Cycle, Parts, Tuning},
    host::{Host, sim::SimHost},
    lease::{Files, Lease},
    ledger::MemoryLedger,
    outbox::{Draft, Outbox},
};
use basalt_daemon::Clock;
use basalt_model::hosts::FencerFacts;
use basalt_plan::host::{Action, Resource, effect::Mishap};
use basalt_wire::agent::{directory::Directory, lease::LeaseRequest};
use futures::FutureExt;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;

/// Longest time between two looks at a host.
const LOOK: Micros = 5 * SECOND;
/// Longest time between two reports.
const HEARTBEAT: Micros = 10 * SECOND;
/// Between two looks at the facts.
const FACTS: Micros = 60 * SECOND;
/// How long an agent waits for an action.
pub const PATIENCE: Micros = 120 * SECOND;
/// What it says then.
const LATE: &str = "no answer within 120 s";
/// First wait after the gateway failed.
const RETRY: Micros = 250 * MILLI;

/// A host with its agent.
pub struct Agent {
    /// Who it is.
    pub enrolled: Enrolled,
    /// Its clock.
    pub clock: Arc<NodeClock>,
    /// The host in memory.
    pub sim: Arc<SimHost>,
    /// What runs; `None` while it is down.
    pub live: Option<Live>,
    /// The gateway that it speaks with.
    pub home: usize,
    /// It is gone for good.
    pub lost: bool,
    ledger: MemoryLedger,
    lease: Lease,
    actions: u64,
}

/// An agent that runs.
pub struct Live {
    cycle: Cycle<Gate, MemoryLedger>,
    /// What it waits for on its host.
    pub gate: Gate,
    outbox: Outbox,
    boot: Uuid,
    news: watch::Receiver<u64>,
    /// Answers of the host that did not arrive yet.
    answers: BTreeMap<u64, gate::Answer>,
    have: Option<i64>,
    tag: Option<String>,
    stamp: Option<String>,
    report: Option<(u64, Draft)>,
    poll: Option<u64>,
    look_up: Option<u64>,
    failures: u32,
    /// There is something to tell that no report took along yet.
    untold: bool,
    /// What takes more than one event.
    pub(super) under_way: BTreeMap<u64, UnderWay>,
    /// Whether its last look found nothing to do.
    pub settled: bool,
}

impl Agent {
    /// One that is down.
    pub fn new(number: usize, enrolled: Enrolled, clock: Arc<NodeClock>, home: usize) -> Self {
        let sim = Arc::new(SimHost::new(&enrolled.name, clock.clone()));
        let actions = (number as u64 + 1) << 32;
        Self {
            enrolled,
            clock,
            sim,
            live: None,
            home,
            lost: false,
            ledger: MemoryLedger::default(),
            lease: Lease::none(),
            actions,
        }
    }

    /// From its next start on it has a fencer and asks for leases. Time on the host itself stands still, so that one which it
    /// was given holds for as long as the world lasts: what is played here ends hosts whole.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn fence(&mut self, dir: &Path) -> Result<()> {
        let dir = dir.join(&self.enrolled.name);
        std::fs::create_dir_all(&dir)?;
        let never = Duration::from_secs(1 << 40);
        Files::in_dir(&dir).alive(never, FencerFacts { window_seconds: 5, watchdog: false })?;
        self.lease = Lease::in_dir(&dir);
        self.lease.keep(never)?;
        Ok(())
    }

    /// Nothing is to be done there, and all was told.
    pub fn rests(&self) -> bool {
        let rests =
            |live: &Live| live.settled && !live.cycle.is_busy() && !live.untold && live.report.is_none();
        self.live.as_ref().is_some_and(rests)
    }
}

impl World {
    /// An agent starts, or starts again, from its ledger.
    pub fn boot(&mut self, h: usize) -> Result<()> {
        let agent = &mut self.agents[h];
        if agent.live.is_some() || agent.lost {
            return Ok(());
        }
        let boot = agent.ledger.start(agent.clock.new_id());
        let (outbox, gate) = (Outbox::new(boot), Gate::new(agent.sim.clone(), agent.actions));
        let parts = Parts {
            host: Arc::new(gate.clone()),
            ledger: agent.ledger.clone(),
            lease: agent.lease.clone(),
            clock: agent.clock.clone(),
            downloads: Arc::new(NoDownloads),
            outbox: outbox.clone(),
            host_id: agent.enrolled.id,
            // The world answers what hangs.
            tuning: Tuning { act_limit: Some(Duration::from_secs(3600)), ..Tuning::default() },
        };
        agent.live = Some(Live {
            cycle: Cycle::new(parts)?,
            gate,
            outbox,
            boot,
            news: agent.sim.news(),
            answers: BTreeMap::new(),
            have: None,
            tag: None,
            stamp: None,
            report: None,
            poll: None,
            look_up: None,
            failures: 0,
            untold: true,
            under_way: BTreeMap::new(),
            settled: false,
        });
        let line = format!("{} boots", agent.enrolled.name);
        self.say(line);
        for event in [Event::Facts(h), Event::Look(h), Event::Poll(h), Event::Directory(h)] {
            self.queue.once(self.now, event);
        }
        if self.agents[h].lease.fencer().is_some() {
            self.queue.once(self.now, Event::Lease(h));
        }
        Ok(())
    }

    /// A host loses its power and never comes back.
    pub async fn lose(&mut self, h: usize) {
        self.agents[h].lost = true;
        self.crash_agent(h, 0).await;
        self.agents[h].sim.suffer(&Mishap::PowerCut);
        let line = format!("{} is lost for good", self.agents[h].enrolled.name);
        self.say(line);
    }

    /// Hosts that are not gone for good.
    pub fn living(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter().filter(|agent| !agent.lost)
    }

    /// Asks for the lease of its host, as it does every few seconds.
    pub fn renew(&mut self, h: usize) {
        let (home, call) = (self.agents[h].home, self.call(h, "POST", "/agent/v1/lease"));
        let agent = &self.agents[h];
        let Some(live) = &agent.live else { return };
        let request = LeaseRequest {
            agent_boot: live.boot,
            boot_id: "the only one".into(),
            manifest_revision: live.have,
            fencer: agent.lease.fencer(),
            needed: true,
        };
        let body = serde_json::to_value(&request).unwrap_or_default();
        self.send(home, Kind::Lease(h), call.json(body));
        self.queue.once(self.now + 5 * SECOND, Event::Lease(h));
    }

    /// An agent's process is gone. Of what its host was doing for it, the seed says whether it still comes to its end.
    pub async fn crash_agent(&mut self, h: usize, down: Micros) {
        let Some(live) = self.agents[h].live.take() else { return };
        self.agents[h].actions = live.gate.next();
        let line = format!("{} loses its agent", self.agents[h].enrolled.name);
        self.say(line);
        // What goes between hosts goes through agents, and ends with them.
        for action in live.gate.actions().iter().filter(|action| !travels(action)) {
            if self.dice.one_in(2) {
                self.deeds.actions += 1;
                let _ = live.gate.carry_out(action).await;
                self.say(format!("  {} goes on: {}", self.agents[h].enrolled.name, word(action)));
            }
        }
        self.queue.once(self.now + down, Event::Boot(h));
    }

    /// Looks, decides, begins.
    pub async fn look(&mut self, h: usize) -> Result<()> {
        let agent = &mut self.agents[h];
        let Some(live) = &mut agent.live else { return Ok(()) };
        live.news.mark_unchanged();
        let stepped = live.cycle.step().await?;
        live.settled = stepped.settled;
        // What was begun goes as far as to ask the host for its first action.
        if let Some(finished) = live.cycle.finished().now_or_never() {
            live.cycle.settle(finished)?;
            self.queue.once(self.now, Event::Look(h));
        }
        let wait = stepped.wake_at.map_or(LOOK, |at| {
            let wait = (at - agent.clock.now()).num_microseconds().unwrap_or(i64::MAX);
            u64::try_from(wait).unwrap_or_default().clamp(MILLI, LOOK)
        });
        self.queue.once(self.now + wait, Event::Look(h));
        self.follow(h);
        Ok(())
    }

    /// What follows from what an agent just did.
    pub(super) fn follow(&mut self, h: usize) {
        let Some(live) = &mut self.agents[h].live else { return };
        let (fresh, told) = (live.gate.fresh(), live.outbox.news().now_or_never().is_some());
        let news = live.news.has_changed().unwrap_or_default();
        for number in fresh {
            let takes = match self.dice.below(20) {
                0 => self.dice.between(SECOND, 20 * SECOND),
                1..5 => self.dice.between(50 * MILLI, SECOND),
                _ => self.dice.between(MILLI, 50 * MILLI),
            };
            self.queue.push(self.now + takes, Event::Act(h, number));
        }
        live.untold |= told;
        if told {
            self.queue.once(self.now + 5 * MILLI, Event::Report(h));
        }
        if news {
            self.queue.once(self.now + 2 * MILLI, Event::Look(h));
        }
    }

    /// The host carries an action out, or what a fault makes of that.
    pub async fn act(&mut self, h: usize, number: u64) -> Result<()> {
        let name = self.agents[h].enrolled.name.clone();
        let Some(live) = &self.agents[h].live else { return Ok(()) };
        let Some(action) = live.gate.action(number) else { return Ok(()) };
        let (gate, what) = (live.gate.clone(), format!("{name} {}", word(&action)));
        let fault = self.faults.meet_action();
        if let Some(fault) = fault {
            self.say(format!("{what}: {fault:?}"));
        }
        if let Some(ActionFault::PowerCut(down)) = fault {
            self.crash_agent(h, down).await;
            self.agents[h].sim.suffer(&Mishap::PowerCut);
            return Ok(());
        }
        match fault {
            Some(ActionFault::FailBefore) => {
                self.answer_later(h, number, refusal(&action, "it fails before"), MILLI);
            }
            Some(ActionFault::Hang) => self.answer_later(h, number, refusal(&action, LATE), PATIENCE),
            Some(ActionFault::KillBefore(down)) => self.crash_agent(h, down).await,
            _ if travels(&action) => self.set_out(h, number, fault),
            _ => {
                let answer = gate.carry_out(&action).await;
                self.deeds.actions += 1;
                self.active();
                if let Some(log) = &mut self.log {
                    log.actions.push((h, action.clone()));
                }
                self.say(format!("{what}{}", if answer.is_ok() { "" } else { ": failed" }));
                if fault == Some(ActionFault::Twice) {
                    let _ = gate.carry_out(&action).await;
                }
                self.answer_action(h, number, &action, fault, answer).await;
            }
        }
        self.follow(h);
        Ok(())
    }

    /// An action was carried out; a fault may say otherwise.
    pub(super) async fn answer_action(
        &mut self,
        h: usize,
        number: u64,
        action: &Action,
        fault: Option<ActionFault>,
        answer: gate::Answer,
    ) {
        match fault {
            Some(ActionFault::FailAfter) => {
                self.answer_later(h, number, refusal(action, "it fails after"), MILLI);
            }
            Some(ActionFault::AnswerLost) => self.answer_later(h, number, refusal(action, LATE), PATIENCE),
            Some(ActionFault::KillAfter(down)) => self.crash_agent(h, down).await,
            _ => self.answer_later(h, number, answer, MILLI),
        }
    }

    fn answer_later(&mut self, h: usize, number: u64, answer: gate::Answer, after: Micros) {
        if let Some(live) = &mut self.agents[h].live {
            live.answers.insert(number, answer);
            self.queue.push(self.now + after, Event::Acted(h, number));
        }
    }

    /// The agent hears what came of an action.
    pub async fn acted(&mut self, h: usize, number: u64) -> Result<()> {
        let Some(live) = &mut self.agents[h].live else { return Ok(()) };
        let Some(answer) = live.answers.remove(&number) else { return Ok(()) };
        live.gate.answer(number, answer);
        if let Some(finished) = live.cycle.finished().now_or_never() {
            live.cycle.settle(finished)?;
            self.queue.once(self.now, Event::Look(h));
        } else {
            live.cycle.show_stages();
        }
        self.follow(h);
        Ok(())
    }

    /// Gathers facts.
    pub async fn gather_facts(&mut self, h: usize) {
        let Some(live) = &mut self.agents[h].live else { return };
        let facts = live.gate.facts().await;
        let complete = facts.bridges.iter().any(|b| b.integration);
        live.cycle.take_facts(facts);
        self.queue.once(self.now + if complete { FACTS } else { SECOND }, Event::Facts(h));
        self.follow(h);
    }

    fn call(&self, h: usize, method: &'static str, path: &str) -> Call {
        let agent = &self.agents[h];
        let boot = agent.live.as_ref().map(|live| live.boot).unwrap_or_default();
        Call::new(method, path).peer(&agent.enrolled.peer).header("basalt-agent-boot", boot.to_string())
    }

    /// Sends a report, unless one is on its way.
    pub fn report(&mut self, h: usize) {
        let call = self.call(h, "POST", "/agent/v1/report");
        let home = self.agents[h].home;
        let Some(live) = &mut self.agents[h].live else { return };
        if live.report.is_some() {
            return;
        }
        let draft = live.outbox.draft();
        live.untold = false;
        let body = serde_json::to_value(&draft.report).unwrap_or_default();
        let number = self.send(home, Kind::Report(h), call.json(body));
        if let Some(live) = &mut self.agents[h].live {
            live.report = Some((number, draft));
        }
    }

    /// Asks for the manifest. A poll that is held is one that was not asked yet: see [`Self::wake_polls`].
    pub fn poll(&mut self, h: usize) {
        let mut call = self.call(h, "GET", "/agent/v1/manifest?wait_seconds=0");
        let home = self.agents[h].home;
        let Some(live) = &self.agents[h].live else { return };
        if live.poll.is_some() {
            return;
        }
        if let Some(have) = live.have {
            call = call.header("if-none-match", format!("\"{have}\""));
        }
        let number = self.send(home, Kind::Poll(h), call);
        if let Some(live) = &mut self.agents[h].live {
            live.poll = Some(number);
        }
    }

    /// Asks for the directory.
    pub fn look_up(&mut self, h: usize) {
        let mut call = self.call(h, "GET", "/agent/v1/directory?wait_seconds=0");
        let (home, id) = (self.agents[h].home, self.agents[h].enrolled.id);
        let stamp = self.gateways[home].live.as_ref().map(|g| format!("{:?}", g.hub.directory_stamp(id)));
        let Some(live) = &mut self.agents[h].live else { return };
        if live.look_up.is_some() {
            return;
        }
        live.stamp = stamp;
        if let Some(tag) = &live.tag {
            call = call.header("if-none-match", tag.clone());
        }
        let number = self.send(home, Kind::Directory(h), call);
        if let Some(live) = &mut self.agents[h].live {
            live.look_up = Some(number);
        }
    }

    /// Held polls of agents end where a gateway now has something else for them.
    pub fn wake_polls(&mut self, g: usize) {
        let Some(gateway) = &self.gateways[g].live else { return };
        let mut woken = Vec::new();
        for (h, agent) in self.agents.iter().enumerate().filter(|(_, agent)| agent.home == g) {
            let Some(live) = &agent.live else { continue };
            let id = agent.enrolled.id;
            if live.poll.is_none() && live.have != Some(*gateway.hub.revision(id).borrow()) {
                woken.push(Event::Poll(h));
            }
            let stamp = Some(format!("{:?}", gateway.hub.directory_stamp(id)));
            if live.look_up.is_none() && live.stamp != stamp {
                woken.push(Event::Directory(h));
            }
        }
        for event in woken {
            self.queue.once(self.now + MILLI, event);
        }
    }

    /// An agent hears of one of its calls: an answer, or that none came.
    pub async fn agent_hears(
        &mut self,
        h: usize,
        kind: Kind,
        number: u64,
        reply: Option<Reply>,
    ) -> Result<()> {
        let Some(live) = &mut self.agents[h].live else { return Ok(()) };
        let waits = match kind {
            Kind::Report(_) => live.report.as_ref().is_some_and(|(sent, _)| *sent == number),
            Kind::Poll(_) => live.poll == Some(number),
            Kind::Directory(_) => live.look_up == Some(number),
            Kind::User | Kind::Lease(_) => false,
        };
        if !waits {
            return Ok(());
        }
        let success = reply.as_ref().is_some_and(|r| r.status == 200 || r.status == 304);
        let mut again = None;
        match kind {
            Kind::Report(_) => {
                let (_, draft) = live.report.take().context("it waits for it")?;
                if success {
                    if !draft.report.items.is_empty() {
                        self.active_at = self.now;
                    }
                    let full = reply.as_ref().is_some_and(|r| r.json()["send_full"] == true);
                    live.outbox.told(draft, full);
                    let wait = if live.untold { 5 * MILLI } else { HEARTBEAT };
                    self.queue.once(self.now + wait, Event::Report(h));
                } else {
                    live.untold = true;
                    again = Some(Event::Report(h));
                }
            }
            Kind::Poll(_) => {
                live.poll = None;
                match (success, &reply) {
                    (true, Some(reply)) if reply.status == 200 => self.take_manifest(h, reply)?,
                    (true, _) => {}
                    (false, _) => again = Some(Event::Poll(h)),
                }
            }
            Kind::Directory(_) => {
                live.look_up = None;
                match (success, &reply) {
                    (true, Some(reply)) if reply.status == 200 => {
                        let directory = Directory::read(&reply.body).map_err(|e| anyhow::anyhow!("{e}"))?;
                        live.cycle.take_directory(directory)?;
                        live.tag.clone_from(&reply.etag);
                        self.queue.once(self.now, Event::Look(h));
                    }
                    (true, _) => {}
                    (false, _) => again = Some(Event::Directory(h)),
                }
            }
            Kind::User | Kind::Lease(_) => {}
        }
        match again {
            Some(event) => self.try_again(h, event, reply.as_ref()),
            None => self.went_well(h),
        }
        self.follow(h);
        Ok(())
    }

    fn went_well(&mut self, h: usize) {
        if let Some(live) = &mut self.agents[h].live {
            live.failures = 0;
        }
        let home = self.agents[h].home;
        self.wake_polls(home);
    }

    fn take_manifest(&mut self, h: usize, reply: &Reply) -> Result<()> {
        let tag = reply.etag.as_deref().context("a manifest has an ETag")?;
        let revision: i64 = tag.trim_matches('"').parse()?;
        let agent = &mut self.agents[h];
        let live = agent.live.as_mut().context("it runs")?;
        let name = agent.enrolled.name.clone();
        match live.cycle.offer(&reply.body) {
            Ok(()) => self.say(format!("{name} has manifest {revision}")),
            Err(e @ Error::Refused(_)) => self.say(format!("{name} refuses manifest {revision}: {e}")),
            Err(e) => return Err(e.into()),
        }
        if let Some(live) = &mut self.agents[h].live {
            live.have = Some(revision);
        }
        self.queue.once(self.now, Event::Look(h));
        Ok(())
    }

    /// A call of an agent failed: it tries again, ever later, at some gateway.
    fn try_again(&mut self, h: usize, event: Event, reply: Option<&Reply>) {
        let home = self.dice.index(self.gateways.len());
        let agent = &mut self.agents[h];
        let Some(live) = &mut agent.live else { return };
        let refused = reply.is_some_and(|r| matches!(r.status, 401 | 403) || r.code() == "fenced");
        let wait = match reply {
            _ if refused => RETRY * 80,
            Some(reply) if matches!(reply.status, 429 | 503) => SECOND,
            _ => RETRY * 2_u64.pow(live.failures.min(6)).min(20),
        };
        live.failures = live.failures.saturating_add(1);
        (agent.home, live.stamp) = (home, None);
        let (name, status) = (agent.enrolled.name.clone(), reply.map_or(0, |r| r.status));
        let code = reply.map(Reply::code).unwrap_or_default();
        self.say(format!("{name} tries {event:?} again: {status} {code}"));
        self.queue.once(self.now + wait, event);
    }
}

fn refusal(action: &Action, why: &str) -> gate::Answer {
    Err(Error::host(action.stage(), why))
}

/// An action in a word or two.
pub fn word(action: &Action) -> String {
    let resource = match action.resource() {
        Resource::Network(id) | Resource::Names(id) => format!("network {}", short(id.0)),
        Resource::Image(id) => format!("image {}", short(id.0)),
        Resource::Volume(id) => format!("volume {}", short(id.0)),
        Resource::Vm(id) => format!("vm {}", short(id.0)),
        Resource::Router(id) => format!("router {}", short(id.0)),
        Resource::Port(id) => format!("port {}", short(id.0)),
        Resource::Switch => "switch".into(),
        Resource::Flows => "flows".into(),
        other => format!("{other:?}"),
    };
    format!("{resource}: {}", action.stage())
}
