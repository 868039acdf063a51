//! The network between users, agents and gateways: it delays, loses, doubles and reorders calls and their answers.

use super::{
    base::{Call, Reply},
    faults::CallFault,
    queue::{Event, MILLI, Micros, SECOND},
    world::World,
};
use anyhow::Result;
use std::collections::VecDeque;

/// How long an agent waits.
const PATIENCE: Micros = 20 * SECOND;
/// How long the user waits.
const USERS_PATIENCE: Micros = 3 * SECOND;

/// Whose call, and what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An agent reports.
    Report(usize),
    /// An agent asks for its manifest.
    Poll(usize),
    /// An agent asks for its directory.
    Directory(usize),
    /// An agent asks for its lease.
    Lease(usize),
    /// The user writes.
    User,
}

impl Kind {
    fn agent(self) -> Option<usize> {
        match self {
            Kind::Report(h) | Kind::Poll(h) | Kind::Directory(h) | Kind::Lease(h) => Some(h),
            Kind::User => None,
        }
    }
}

/// A call on its way, there or back.
pub struct Sent {
    kind: Kind,
    gateway: usize,
    call: Call,
    /// Copies that did not arrive yet.
    coming: u32,
    /// Answers on their way back; `None`: nobody is there.
    replies: VecDeque<Option<Reply>>,
    lose_answer: bool,
    /// The caller has its answer, or gave up.
    over: bool,
}

impl Sent {
    /// Whether it is a call of that kind.
    pub fn is_of(&self, kind: Kind) -> bool {
        self.kind == kind
    }
}

impl World {
    /// Sends a call.
    pub fn send(&mut self, gateway: usize, kind: Kind, call: Call) -> u64 {
        let number = self.number();
        let fault = self.faults.meet_call();
        if let Some(fault) = fault {
            self.say(format!("{kind:?} {} {}: {fault:?}", call.method, call.path));
        }
        let mut arrivals = vec![self.now + self.dice.between(100, 3 * MILLI)];
        match fault {
            Some(CallFault::Lost) => arrivals.clear(),
            Some(CallFault::Twice(later)) => arrivals.push(self.now + later),
            Some(CallFault::Late(later)) => arrivals[0] += later,
            Some(CallFault::AnswerLost) | None => {}
        }
        let coming = u32::try_from(arrivals.len()).unwrap_or_default();
        for at in arrivals {
            self.queue.push(at, Event::Arrive(number));
        }
        let lose_answer = fault == Some(CallFault::AnswerLost);
        let replies = VecDeque::new();
        self.calls.insert(number, Sent { kind, gateway, call, coming, replies, lose_answer, over: false });
        let patience = if kind == Kind::User { USERS_PATIENCE } else { PATIENCE };
        self.queue.push(self.now + patience, Event::Expire(number));
        number
    }

    /// A call arrives: it is answered in full before anything else happens.
    pub async fn arrive(&mut self, number: u64) -> Result<()> {
        let Some(sent) = self.calls.get_mut(&number) else { return Ok(()) };
        let (g, kind) = (sent.gateway, sent.kind);
        let gateway = &self.gateways[g];
        if gateway.is_up() && gateway.paused_until > self.now {
            self.queue.push(gateway.paused_until, Event::Arrive(number));
            return Ok(());
        }
        sent.coming -= 1;
        let cut = kind.agent().map(|h| self.faults.cut(h, g)).unwrap_or_default();
        let reply = match &gateway.live {
            _ if cut.there => return self.forget(number),
            None => None,
            Some(live) => {
                let call = sent.call.clone();
                Some(match kind {
                    Kind::User => live.doors.users(call).await,
                    _ => live.doors.agents(call).await,
                })
            }
        };
        if reply.is_some() {
            if kind == Kind::User {
                let status = reply.as_ref().map_or(0, |r| r.status);
                let line = format!("{} answers the user {status}", self.gateways[g].name);
                self.say(line);
                self.active();
            }
            self.committed(g);
        }
        let lost = {
            let Some(sent) = self.calls.get_mut(&number) else { return Ok(()) };
            let lost = cut.back || std::mem::take(&mut sent.lose_answer);
            if !lost {
                sent.replies.push_back(reply);
            }
            lost
        };
        if lost {
            return self.forget(number);
        }
        let after = self.dice.between(100, 2 * MILLI);
        self.queue.push(self.now + after, Event::Answer(number));
        Ok(())
    }

    /// An answer arrives; only the first counts.
    pub async fn answer(&mut self, number: u64) -> Result<()> {
        let Some(sent) = self.calls.get_mut(&number) else { return Ok(()) };
        let Some(reply) = sent.replies.pop_front() else { return Ok(()) };
        let (kind, first) = (sent.kind, !std::mem::replace(&mut sent.over, true));
        if first {
            self.hears(number, kind, reply).await?;
        }
        self.forget(number)
    }

    /// The caller waited long enough.
    pub async fn expire(&mut self, number: u64) -> Result<()> {
        let Some(sent) = self.calls.get_mut(&number) else { return Ok(()) };
        let (kind, first) = (sent.kind, !std::mem::replace(&mut sent.over, true));
        if first {
            self.hears(number, kind, None).await?;
        }
        self.forget(number)
    }

    async fn hears(&mut self, number: u64, kind: Kind, reply: Option<Reply>) -> Result<()> {
        match kind.agent() {
            Some(h) => self.agent_hears(h, kind, number, reply).await,
            None => {
                self.user_hears(number, reply);
                Ok(())
            }
        }
    }

    fn forget(&mut self, number: u64) -> Result<()> {
        if self.calls.get(&number).is_some_and(|s| s.over && s.coming == 0 && s.replies.is_empty()) {
            self.calls.remove(&number);
        }
        Ok(())
    }
}
