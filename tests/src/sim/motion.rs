//! VMs on their way between the hosts of a world: each step over the fabric is an event of its own, and at each something can
//! go wrong.

use super::{
    agents::word,
    faults::{ActionFault, Mend},
    gate::Answer,
    queue::{Event, MILLI, Micros, SECOND},
    world::World,
};
use anyhow::Result;
use basalt_model::HostId;
use basalt_plan::host::{Action, SendDefinition, effect::Mishap};
use futures::{FutureExt, future::BoxFuture};

/// What goes wrong with a step of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MotionFault {
    /// The source's agent is killed first, and is down for so long.
    KillSource(Micros),
    /// The target's agent is killed first.
    KillTarget(Micros),
    /// The source loses its power first.
    CutSource(Micros),
    /// The target loses its power first.
    CutTarget(Micros),
    /// The source is lost first, for good.
    LoseSource,
    /// The target is lost first, for good.
    LoseTarget,
    /// The link between the two is cut first, for so long.
    CutLink(Micros),
    /// The step is taken and the source never hears of it.
    AnswerLost,
}

/// An action that takes more than one event.
pub struct UnderWay {
    action: Action,
    doing: BoxFuture<'static, Answer>,
    /// What becomes of its end.
    fault: Option<ActionFault>,
}

/// Polls that carry it as far as it goes: it yields once at each step.
const POLLS: u32 = 4;

impl UnderWay {
    fn poll(&mut self) -> Option<Answer> {
        (0..POLLS).find_map(|_| (&mut self.doing).now_or_never())
    }

    fn sends(&self) -> Option<&SendDefinition> {
        match &self.action {
            Action::SendVm(send) => Some(send),
            _ => None,
        }
    }
}

/// Whether an action goes over the fabric.
pub fn travels(action: &Action) -> bool {
    matches!(action, Action::SendVm(_) | Action::AbortSend { .. })
}

impl World {
    /// An action that goes over the fabric begins.
    pub(super) fn set_out(&mut self, h: usize, number: u64, fault: Option<ActionFault>) {
        let Some(live) = &mut self.agents[h].live else { return };
        let Some((action, doing)) = live.gate.action(number).zip(live.gate.begin(number)) else { return };
        live.under_way.insert(number, UnderWay { action, doing, fault });
        self.queue.push(self.now + MILLI, Event::Move(h, number));
    }

    /// It goes on by one step.
    pub async fn go_on(&mut self, h: usize, number: u64) -> Result<()> {
        let Some(live) = &mut self.agents[h].live else { return Ok(()) };
        let Some(mut way) = live.under_way.remove(&number) else { return Ok(()) };
        let what = format!("{} {}", self.agents[h].enrolled.name, word(&way.action));
        let (mut lost, mut ended) = (false, way.poll());
        if let (None, Some(send)) = (&ended, way.sends()) {
            let (id, target) = (send.migration_id, self.host(send.target));
            self.sent.insert((send.id, target));
            let fault = self.faults.meet_motion();
            if let Some(fault) = fault {
                self.say(format!("{what}: {fault:?}"));
            }
            match fault {
                Some(MotionFault::KillSource(down)) => {
                    drop(way);
                    self.crash_agent(h, down).await;
                    return Ok(());
                }
                Some(MotionFault::CutSource(down)) => {
                    self.agents[h].sim.suffer(&Mishap::PowerCut);
                    drop(way);
                    self.crash_agent(h, down).await;
                    return Ok(());
                }
                Some(MotionFault::LoseSource) => {
                    drop(way);
                    self.lose(h).await;
                    return Ok(());
                }
                Some(MotionFault::LoseTarget) => self.lose(target).await,
                Some(MotionFault::KillTarget(down)) => self.crash_agent(target, down).await,
                Some(MotionFault::CutTarget(down)) => {
                    self.agents[target].sim.suffer(&Mishap::PowerCut);
                    self.crash_agent(target, down).await;
                }
                Some(MotionFault::CutLink(by)) => self.cut_wire(h, target, by),
                Some(MotionFault::AnswerLost) => lost = true,
                None => {}
            }
            self.fabric.go_on(id, lost);
            ended = way.poll();
            self.active();
        }
        match ended {
            Some(answer) => self.arrived(h, number, way, answer).await,
            None => {
                if let Some(live) = &mut self.agents[h].live {
                    live.under_way.insert(number, way);
                }
                let after = self.dice.between(MILLI, 40 * MILLI);
                self.queue.push(self.now + after, Event::Move(h, number));
            }
        }
        self.hear_hosts();
        Ok(())
    }

    async fn arrived(&mut self, h: usize, number: u64, way: UnderWay, answer: Answer) {
        self.deeds.actions += 1;
        let what = format!("{} {}", self.agents[h].enrolled.name, word(&way.action));
        self.say(format!("{what}{}", answer.as_ref().err().map_or(String::new(), |e| format!(": {e}"))));
        self.answer_action(h, number, &way.action, way.fault, answer).await;
    }

    /// What an action changed on another host, that one's agent sees at once.
    fn hear_hosts(&mut self) {
        for h in 0..self.agents.len() {
            self.follow(h);
        }
    }

    fn cut_wire(&mut self, a: usize, b: usize, by: Micros) {
        let (a, b) = (self.agents[a].enrolled.id, self.agents[b].enrolled.id);
        self.fabric.cut(a, b, true);
        self.mend_later(by, Mend::Wire(a, b));
    }

    fn host(&self, id: HostId) -> usize {
        self.agents.iter().position(|agent| agent.enrolled.id == id).unwrap_or_default()
    }

    /// Some of what can go wrong on the way.
    pub(super) fn some_motion_fault(&mut self) -> MotionFault {
        let down = self.dice.between(50 * MILLI, 20 * SECOND);
        match self.dice.below(8) {
            0 => MotionFault::KillSource(down),
            1 => MotionFault::KillTarget(down),
            2 => MotionFault::CutSource(down),
            3 => MotionFault::CutTarget(down),
            4..6 => MotionFault::CutLink(down),
            _ => MotionFault::AnswerLost,
        }
    }
}
