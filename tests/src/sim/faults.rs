//! What goes wrong. Some faults happen at once (a crash, a cut link, a clock that jumps), others wait for the next
//! operation of their kind and spoil that: an effect of a reconciler, an action of a host, a call.

use super::{
    motion::MotionFault,
    queue::{Event, MILLI, Micros, SECOND},
    world::World,
};
use anyhow::Result;
use basalt_agent::host::sim::Listing;
use basalt_model::{HostId, VmId};
use basalt_plan::host::effect::Mishap;
use basalt_reconciler::handlers::Effect;
use std::collections::{BTreeMap, VecDeque};

/// What goes wrong with an effect of a reconciler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectFault {
    /// Its transaction fails.
    FailBefore,
    /// It is committed and nobody says so (F2).
    AnswerLost,
    /// The same, and then the gateway stands still for so long, and another one acts.
    AnswerLostPaused(Micros),
    /// It is carried out twice, the second time by this gateway (F3).
    Twice(usize),
    /// It is carried out so much later, perhaps past the lease (F4).
    Hang(Micros),
    /// The same, and the whole gateway stands still meanwhile.
    HangPaused(Micros),
    /// The gateway is killed first, and is down for so long (F1).
    CrashBefore(Micros),
    /// The gateway is killed right after the commit (F1).
    CrashAfter(Micros),
}

/// What goes wrong with an action of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionFault {
    /// It fails, and nothing was done.
    FailBefore,
    /// It is done, and says that it failed.
    FailAfter,
    /// It is done, and no answer comes.
    AnswerLost,
    /// Nothing is done, and no answer comes.
    Hang,
    /// It is done twice.
    Twice,
    /// The agent is killed first.
    KillBefore(Micros),
    /// The agent is killed right after it was done.
    KillAfter(Micros),
    /// The host loses its power and is back after so long.
    PowerCut(Micros),
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// It never arrives.
    Lost,
    /// Its answer never arrives.
    AnswerLost,
    /// It arrives again, so much later.
    Twice(Micros),
    /// It arrives so much later, after others.
    Late(Micros),
}

/// Which ways of a link are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// From the agent to the gateway.
    pub there: bool,
    /// From the gateway to the agent.
    pub back: bool,
}

/// What is to be set right again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mend {
    Link(usize, usize),
    GatewayClock(usize),
    AgentClock(usize),
    Listing(usize),
    Wire(HostId, HostId),
}

/// What goes wrong in one world.
#[derive(Default)]
pub struct Faults {
    /// Faults that happened.
    pub met: u64,
    /// How often each kind did.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// Whether things go wrong now.
    pub on: bool,
    /// The faults that the seed may choose; empty: all.
    pub only: Vec<&'static str>,
    /// Every so many signals of a commit one is lost; 0: none.
    pub signals: u64,
    /// Effects, actions and calls of the user so far: what a sweep counts.
    pub seen: Seen,
    /// The first VM that is to be placed becomes the poisoned one.
    pub poison_first: bool,
    /// Effects that the poison spoiled.
    pub poisoned: u64,
    /// Placing this VM always fails.
    poison: Option<VmId>,
    /// The operation that a sweep spoils.
    pub script: Option<Script>,
    signalled: u64,
    effects: VecDeque<EffectFault>,
    actions: VecDeque<ActionFault>,
    calls: VecDeque<CallFault>,
    motions: VecDeque<MotionFault>,
    lost_signals: u64,
    cuts: BTreeMap<(usize, usize), Cut>,
    mends: BTreeMap<u64, Mend>,
}

/// Operations of the kinds that a sweep spoils.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of reconcilers.
    pub effects: u64,
    /// Of hosts.
    pub actions: u64,
    /// Of migrations.
    pub motions: u64,
}

/// One fault at one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// At the effect with this number.
    Effect(u64, EffectFault),
    /// At the action with this number.
    Action(u64, ActionFault),
    /// At the step of a migration with this number.
    Motion(u64, MotionFault),
}

impl Script {
    /// The same, where its number counts from what was seen so far.
    pub fn after(self, seen: Seen) -> Self {
        match self {
            Self::Effect(at, fault) => Self::Effect(seen.effects + at, fault),
            Self::Action(at, fault) => Self::Action(seen.actions + at, fault),
            Self::Motion(at, fault) => Self::Motion(seen.motions + at, fault),
        }
    }
}

impl Faults {
    /// The fault that an effect meets.
    pub fn meet_effect(&mut self, effect: &Effect) -> Option<EffectFault> {
        let number = self.seen.effects;
        self.seen.effects += 1;
        if let Some(Script::Effect(at, fault)) = self.script
            && at == number
        {
            self.script = None;
            self.count("scripted effect");
            return Some(fault);
        }
        if let (true, Effect::Place(rows)) = (self.poison_first, effect) {
            self.poison_first = false;
            self.poison = rows.first().map(|row| row.vm_id());
        }
        if let (Some(poison), Effect::Place(rows)) = (self.poison, effect)
            && rows.iter().any(|row| row.vm_id() == poison)
        {
            self.poisoned += 1;
            return Some(EffectFault::FailBefore);
        }
        let fault = self.effects.pop_front()?;
        self.count(match fault {
            EffectFault::FailBefore => "effect fails",
            EffectFault::AnswerLost | EffectFault::AnswerLostPaused(_) => "effect's answer lost",
            EffectFault::Twice(_) => "effect doubled",
            EffectFault::Hang(_) | EffectFault::HangPaused(_) => "effect hangs",
            EffectFault::CrashBefore(_) => "killed before an effect",
            EffectFault::CrashAfter(_) => "killed after an effect",
        });
        Some(fault)
    }

    /// The fault that an action meets.
    pub fn meet_action(&mut self) -> Option<ActionFault> {
        let number = self.seen.actions;
        self.seen.actions += 1;
        if let Some(Script::Action(at, fault)) = self.script
            && at == number
        {
            self.script = None;
            self.count("scripted action");
            return Some(fault);
        }
        let fault = self.actions.pop_front()?;
        self.count(match fault {
            ActionFault::FailBefore | ActionFault::FailAfter => "action fails",
            ActionFault::AnswerLost => "action's answer lost",
            ActionFault::Hang => "action hangs",
            ActionFault::Twice => "action doubled",
            ActionFault::KillBefore(_) => "agent killed before an action",
            ActionFault::PowerCut(_) => "power cut at an action",
            ActionFault::KillAfter(_) => "agent killed after an action",
        });
        Some(fault)
    }

    /// The fault that a step of a migration meets.
    pub fn meet_motion(&mut self) -> Option<MotionFault> {
        let number = self.seen.motions;
        self.seen.motions += 1;
        if let Some(Script::Motion(at, fault)) = self.script
            && at == number
        {
            self.script = None;
            self.count("scripted step of a migration");
            return Some(fault);
        }
        let fault = self.motions.pop_front()?;
        self.count(match fault {
            MotionFault::KillSource(_) | MotionFault::KillTarget(_) => "agent killed during a migration",
            MotionFault::CutSource(_) | MotionFault::CutTarget(_) => "power cut during a migration",
            MotionFault::LoseSource | MotionFault::LoseTarget => "host lost during a migration",
            MotionFault::CutLink(_) => "link cut during a migration",
            MotionFault::AnswerLost => "migration's answer lost",
        });
        Some(fault)
    }

    /// The fault that a call meets.
    pub fn meet_call(&mut self) -> Option<CallFault> {
        let fault = self.calls.pop_front()?;
        self.count(match fault {
            CallFault::Lost => "call lost",
            CallFault::AnswerLost => "call's answer lost",
            CallFault::Twice(_) => "call doubled",
            CallFault::Late(_) => "call late",
        });
        Some(fault)
    }

    /// Whether the signal of a commit is lost (F6).
    pub fn loses_signal(&mut self) -> bool {
        self.signalled += 1;
        if self.lost_signals > 0 {
            self.lost_signals -= 1;
            return true;
        }
        self.signals > 0 && self.signalled.is_multiple_of(self.signals)
    }

    /// Which ways between an agent and a gateway are cut.
    pub fn cut(&self, h: usize, g: usize) -> Cut {
        self.cuts.get(&(h, g)).copied().unwrap_or_default()
    }

    /// Spoils the next effect.
    pub fn next_effect(&mut self, fault: EffectFault) {
        self.effects.push_back(fault);
    }

    /// Spoils the next call.
    pub fn next_call(&mut self, fault: CallFault) {
        self.calls.push_back(fault);
    }

    fn count(&mut self, kind: &'static str) {
        self.met += 1;
        *self.by_kind.entry(kind).or_default() += 1;
    }
}

/// A kind of fault: what it is called, how often it is chosen, and how it is done.
type Kind = (&'static str, u64, fn(&mut World) -> Option<String>);

/// Faults that can be done without waiting for anything.
const KINDS: &[Kind] = &[
    ("spoil an effect", 8, spoil_effect),
    ("spoil an action", 6, spoil_action),
    ("spoil a call", 8, spoil_call),
    ("spoil a migration", 2, spoil_motion),
    ("pause a gateway", 2, pause_gateway),
    ("stale view", 2, blind_gateway),
    ("replayed view", 2, replay),
    ("signals lost", 2, lose_signals),
    ("link cut", 3, cut_link),
    ("clock jumps", 1, skew),
    ("mishap on a host", 6, mishap),
    ("listing fails", 2, blind_host),
];

impl World {
    /// Something goes wrong, and then the next thing.
    pub async fn go_wrong(&mut self) -> Result<()> {
        if !self.faults.on {
            return Ok(());
        }
        let wait = self.dice.between(50 * MILLI, 1200 * MILLI);
        self.queue.once(self.now + wait, Event::Fault);
        if self.dice.one_in(12) && self.allowed("crash") {
            self.crash_something().await;
            return Ok(());
        }
        let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| self.allowed(kind.0)).collect();
        let total = kinds.iter().map(|kind| kind.1).sum();
        let mut chosen = self.dice.below(total);
        for (name, weight, act) in kinds {
            if chosen < *weight {
                if let Some(what) = act(self) {
                    self.say(format!("FAULT {what}"));
                    if !name.starts_with("spoil") {
                        self.faults.count(name);
                    }
                }
                return Ok(());
            }
            chosen -= weight;
        }
        Ok(())
    }

    fn allowed(&self, kind: &str) -> bool {
        self.faults.only.is_empty() || self.faults.only.contains(&kind)
    }

    async fn crash_something(&mut self) {
        let down = self.downtime();
        match self.dice.below(3) {
            0 => {
                let g = self.dice.index(self.gateways.len());
                self.faults.count("gateway killed");
                self.crash_gateway(g, down);
            }
            1 => {
                let h = self.dice.index(self.agents.len());
                self.faults.count("agent killed");
                self.crash_agent(h, down).await;
            }
            _ => {
                let h = self.dice.index(self.agents.len());
                self.faults.count("power cut");
                let line = format!("FAULT {} loses its power", self.agents[h].enrolled.name);
                self.say(line);
                self.crash_agent(h, down + 10 * SECOND).await;
                self.agents[h].sim.suffer(&Mishap::PowerCut);
            }
        }
    }

    fn downtime(&mut self) -> Micros {
        match self.dice.below(4) {
            0 => self.dice.between(5 * SECOND, 40 * SECOND),
            _ => self.dice.between(50 * MILLI, 3 * SECOND),
        }
    }

    /// Something is right again.
    pub fn mend(&mut self, number: u64) {
        let Some(mend) = self.faults.mends.remove(&number) else { return };
        match mend {
            Mend::Link(h, g) => drop(self.faults.cuts.remove(&(h, g))),
            Mend::GatewayClock(g) => self.gateways[g].clock.set(0),
            Mend::AgentClock(h) => self.agents[h].clock.set(0),
            Mend::Listing(h) => self.agents[h].sim.blind(&[]),
            Mend::Wire(a, b) => self.fabric.cut(a, b, false),
        }
        self.say(format!("mended: {mend:?}"));
    }

    pub(super) fn mend_later(&mut self, after: Micros, mend: Mend) {
        let number = self.number();
        self.faults.mends.insert(number, mend);
        self.queue.push(self.now + after, Event::Mend(number));
    }

    /// Nothing goes wrong any more, and what is wrong is set right.
    pub fn heal(&mut self) {
        self.faults.on = false;
        (self.faults.effects, self.faults.actions, self.faults.calls) = Default::default();
        self.faults.motions.clear();
        (self.faults.lost_signals, self.faults.script) = (0, None);
        for number in self.faults.mends.keys().copied().collect::<Vec<_>>() {
            self.mend(number);
        }
        for gateway in &mut self.gateways {
            (gateway.paused_until, gateway.blind_until) = (gateway.paused_until.min(self.now), 0);
            gateway.clock.set(0);
        }
        self.queue.drop_all(|event| *event == Event::Fault);
        for g in 0..self.gateways.len() {
            self.queue.once(self.now + SECOND, Event::Start(g));
            // The poll floor: what was committed is found without any signal.
            self.queue.once(self.now + SECOND, Event::Pull(g));
        }
        for h in 0..self.agents.len() {
            self.queue.once(self.now + SECOND, Event::Boot(h));
        }
        self.say("nothing goes wrong any more");
    }
}

fn spoil_effect(world: &mut World) -> Option<String> {
    if !world.faults.effects.is_empty() {
        return None;
    }
    let down = world.downtime();
    let fault = match world.dice.below(9) {
        0 => EffectFault::FailBefore,
        1..3 => EffectFault::AnswerLost,
        3..5 => EffectFault::Twice(world.dice.index(world.gateways.len())),
        5 => EffectFault::Hang(world.dice.between(100 * MILLI, 10 * SECOND)),
        6 => EffectFault::Hang(world.dice.between(3 * SECOND, 70 * SECOND)),
        7 => EffectFault::CrashBefore(down),
        _ => EffectFault::CrashAfter(down),
    };
    world.faults.next_effect(fault);
    Some(format!("for the next effect: {fault:?}"))
}

fn spoil_action(world: &mut World) -> Option<String> {
    if !world.faults.actions.is_empty() {
        return None;
    }
    let down = world.downtime();
    let fault = match world.dice.below(9) {
        0..2 => ActionFault::FailBefore,
        2 => ActionFault::FailAfter,
        3 => ActionFault::AnswerLost,
        4 => ActionFault::Hang,
        5..7 => ActionFault::Twice,
        7 => ActionFault::KillBefore(down),
        _ => ActionFault::KillAfter(down),
    };
    world.faults.actions.push_back(fault);
    Some(format!("for the next action: {fault:?}"))
}

fn spoil_motion(world: &mut World) -> Option<String> {
    // Whoever goes on a way, or none: what was never met is forgotten.
    let travels = world.agents.iter().any(|a| a.live.as_ref().is_some_and(|live| !live.under_way.is_empty()));
    if !travels || !world.faults.motions.is_empty() {
        return None;
    }
    let fault = world.some_motion_fault();
    world.faults.motions.push_back(fault);
    Some(format!("for the next step of a migration: {fault:?}"))
}

fn spoil_call(world: &mut World) -> Option<String> {
    if world.faults.calls.len() > 2 {
        return None;
    }
    let later = world.dice.between(10 * MILLI, 30 * SECOND);
    let fault = match world.dice.below(4) {
        0 => CallFault::Lost,
        1 => CallFault::AnswerLost,
        2 => CallFault::Twice(later),
        _ => CallFault::Late(later),
    };
    world.faults.next_call(fault);
    Some(format!("for the next call: {fault:?}"))
}

fn pause_gateway(world: &mut World) -> Option<String> {
    let (g, seconds) = (world.dice.index(world.gateways.len()), world.dice.between(1, 70));
    world.gateways[g].paused_until = world.now + seconds * SECOND;
    Some(format!("{} stands still for {seconds} s", world.gateways[g].name))
}

fn blind_gateway(world: &mut World) -> Option<String> {
    let (g, seconds) = (world.dice.index(world.gateways.len()), world.dice.between(1, 30));
    world.gateways[g].blind_until = world.now + seconds * SECOND;
    Some(format!("{} reads nothing new for {seconds} s", world.gateways[g].name))
}

fn replay(world: &mut World) -> Option<String> {
    let (g, back) = (world.dice.index(world.gateways.len()), world.dice.index(12));
    let again = world.gateways[g].live.as_mut().is_some_and(|live| live.read_again(back));
    world.queue.once(world.now, Event::Pull(g));
    again.then(|| format!("{} reads the last {} revisions again", world.gateways[g].name, back + 1))
}

fn lose_signals(world: &mut World) -> Option<String> {
    world.faults.lost_signals = world.dice.between(1, 10);
    Some(format!("the next {} signals of commits are lost", world.faults.lost_signals))
}

fn cut_link(world: &mut World) -> Option<String> {
    let (h, g) = (world.dice.index(world.agents.len()), world.dice.index(world.gateways.len()));
    let cut = match world.dice.below(3) {
        0 => Cut { there: true, back: false },
        1 => Cut { there: false, back: true },
        _ => Cut { there: true, back: true },
    };
    let seconds = if world.dice.one_in(3) { world.dice.between(20, 90) } else { world.dice.between(1, 10) };
    world.faults.cuts.insert((h, g), cut);
    world.mend_later(seconds * SECOND, Mend::Link(h, g));
    let (agent, gateway) = (&world.agents[h].enrolled.name, &world.gateways[g].name);
    Some(format!("{agent}–{gateway}: {cut:?} for {seconds} s"))
}

fn skew(world: &mut World) -> Option<String> {
    let by = [-3600, -40, 40, 3600][world.dice.index(4)];
    let after = world.dice.between(SECOND, 60 * SECOND);
    let name = if world.dice.one_in(2) {
        let g = world.dice.index(world.gateways.len());
        world.gateways[g].clock.set(by);
        world.mend_later(after, Mend::GatewayClock(g));
        world.gateways[g].name.clone()
    } else {
        let h = world.dice.index(world.agents.len());
        world.agents[h].clock.set(by);
        world.mend_later(after, Mend::AgentClock(h));
        world.agents[h].enrolled.name.clone()
    };
    Some(format!("the clock of {name} jumps by {by} s"))
}

fn mishap(world: &mut World) -> Option<String> {
    let h = world.dice.index(world.agents.len());
    let vms = world.agents[h].sim.look(|w| w.observed.vms.items.keys().copied().collect::<Vec<_>>());
    let ports = world.agents[h].sim.look(|w| w.observed.ports.items.keys().copied().collect::<Vec<_>>());
    let vm = (!vms.is_empty()).then(|| world.dice.pick(&vms));
    let mishap = match (world.dice.below(11), vm) {
        (0..2, Some(id)) => Mishap::Kill(id),
        (2..4, Some(id)) => Mishap::Erase(id),
        (4, Some(id)) => Mishap::Undefine(id),
        (5, Some(id)) => Mishap::Pause(id),
        (6, _) if !ports.is_empty() => Mishap::DropPort(world.dice.pick(&ports)),
        (7, _) => Mishap::DropSwitch,
        (8, _) => Mishap::KillDhcp,
        (9, _) => Mishap::DropSeeds,
        (10, _) => Mishap::DropRouters,
        _ => Mishap::WipeFlows,
    };
    world.agents[h].sim.suffer(&mishap);
    world.queue.once(world.now + 2 * MILLI, Event::Look(h));
    Some(format!("{} suffers {mishap:?}", world.agents[h].enrolled.name))
}

fn blind_host(world: &mut World) -> Option<String> {
    const LISTINGS: &[Listing] =
        &[Listing::Vms, Listing::Volumes, Listing::Images, Listing::Networks, Listing::Ports, Listing::Seeds];
    let (h, listing) = (world.dice.index(world.agents.len()), world.dice.pick(LISTINGS));
    world.agents[h].sim.blind(&[listing]);
    let after = world.dice.between(SECOND, 15 * SECOND);
    world.mend_later(after, Mend::Listing(h));
    Some(format!("{} cannot list {listing:?}", world.agents[h].enrolled.name))
}
