//! What a port counts, asked of its host when a user wants to know. Nothing is kept and nothing is written: the question
//! goes along with the poll for consoles that the host's agent holds anyway, and the agent's answer goes to who waits.
//!
//! ```text
//! user  ── GET …/ports/{port}/counters ──► question ──► GET /agent/v1/consoles ──► agent
//!   ◄────────── the counters ──────────── waits ≤ 3 s ◄── POST /agent/v1/questions/{id} ──
//! ```

use crate::{
    App, Error,
    agent_identity::Agent,
    authentication::Permit,
    body::Json,
    pages,
    query::{Named, NoParams, Query},
};
use axum::{Json as Answer, extract::State, http::StatusCode};
use basalt_model::{CapabilityReason, HostId, Name, PortId, VmId};
use basalt_store::networks;
use basalt_wire::{
    agent::counters::{ANSWER_SECONDS, QUESTIONS, Question, Reply},
    rest::PortCounters,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Questions that wait at this gateway at once.
const IN_ALL: usize = 256;

/// Questions that wait for their answers. Clones are the same.
#[derive(Clone, Default)]
pub struct Questions(Arc<Mutex<HashMap<Uuid, Waiting>>>);

struct Waiting {
    host_id: HostId,
    /// Given to the host's next poll; then nobody has it but the agent.
    question: Option<Question>,
    answer: oneshot::Sender<Reply>,
}

/// A question that was asked, taken back when dropped.
struct Asked {
    questions: Questions,
    id: Uuid,
    answer: oneshot::Receiver<Reply>,
}

impl Questions {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, host_id: HostId, question: Question) -> Result<Asked, Error> {
        let mut waiting = self.waiting();
        let of_host = waiting.values().filter(|w| w.host_id == host_id).count();
        if waiting.len() >= IN_ALL || of_host >= QUESTIONS {
            return Err(Error::TooMany("questions for counters"));
        }
        let (sender, answer) = oneshot::channel();
        waiting.insert(question.id, Waiting { host_id, question: Some(question), answer: sender });
        Ok(Asked { questions: self.clone(), id: question.id, answer })
    }

    /// The questions for a host that nobody was given yet.
    pub fn deliver(&self, host_id: HostId) -> Vec<Question> {
        let mut waiting = self.waiting();
        waiting.values_mut().filter(|w| w.host_id == host_id).filter_map(|w| w.question.take()).collect()
    }

    /// Hands an answer to who waits. `false`: nobody does, or it is another host's question, which stays open.
    fn answer(&self, id: Uuid, host_id: HostId, reply: Reply) -> bool {
        let mut waiting = self.waiting();
        let asked = waiting.get(&id).is_some_and(|w| w.host_id == host_id && w.question.is_none());
        let taken = asked.then(|| waiting.remove(&id)).flatten();
        taken.is_some_and(|w| w.answer.send(reply).is_ok())
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.questions.waiting().remove(&self.id);
    }
}

/// The VM that a port belongs to, and the host that has it.
struct Target {
    vm_id: VmId,
    host_id: HostId,
    host: Name,
}

/// Shows what a port carried and what was dropped, from its guest's point of view (rx: what the guest received), as its
/// host counts it now.
#[utoipa::path(get, path = "/v1/projects/{project}/ports/{port}/counters", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ("port" = Uuid, Path, description = "Id")),
    responses((status = 200, body = PortCounters), crate::openapi::Problems))]
pub async fn read_port_counters(
    State(app): State<App>,
    permit: Permit,
    Named(port): Named,
    _: Query<NoParams>,
) -> Result<Answer<PortCounters>, Error> {
    let port_id = PortId(port.parse().map_err(|_| Error::not_found("port", &port))?);
    let Target { vm_id, host_id, host } = find(&app, &permit, port_id).await?;
    let mut asked = app.questions.ask(host_id, Question { id: (app.ids)(), port_id })?;
    app.consoles.news(host_id).notify_waiters();
    let waiting = tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS.into()), &mut asked.answer);
    match app.drain.or(waiting).await {
        Some(Ok(Ok(Reply::Counters(counters)))) => {
            let observed_at = app.clock.now();
            Ok(Answer(PortCounters { port_id, vm_id, host, observed_at, counters }))
        }
        Some(Ok(Ok(Reply::Refused(reason)))) => Err(none(port_id, reason)),
        Some(_) => Err(Error::HostSilent(host)),
        None => Err(Error::NotReady("This gateway is stopping".into())),
    }
}

/// Where a port is, by what this gateway keeps in memory; only a port that is not known there is looked up.
async fn find(app: &App, permit: &Permit, port_id: PortId) -> Result<Target, Error> {
    let project = permit.project()?;
    if !app.hub.is_synced() {
        return Err(Error::NotReady("the truth is being read".into()));
    }
    let known = app.hub.read(|rows| {
        let (vm, placement) = rows.port(project.id, port_id)?;
        Some((vm.id(), placement.and_then(|placement| rows.host(placement.host_id?))))
    });
    match known {
        Some((vm_id, Some(host))) => {
            Ok(Target { vm_id, host_id: host.id(), host: host.metadata.name.clone() })
        }
        Some((_, None)) => Err(not_placed(port_id)),
        None => {
            let mut tx = app.store.tenant_read(project.tenant_id).await?;
            let page = pages::just(port_id.0);
            let found = networks::ports(&mut tx, project.id, None, &page).await?.items.pop();
            match found.filter(|port| port.nic.port_id == port_id) {
                // It came a moment ago, and so did its VM.
                Some(_) => Err(not_placed(port_id)),
                None => Err(Error::not_found("port", port_id.to_string())),
            }
        }
    }
}

fn none(port_id: PortId, reason: CapabilityReason) -> Error {
    let detail = format!("There are no counters of port {port_id} now: {reason}.");
    Error::Conflict { code: "no_counters", detail, reasons: vec![reason] }
}

fn not_placed(port_id: PortId) -> Error {
    let message = "no host has the port's VM, so nothing counts";
    let remedy = "see why with GET …/vms/{vm}/explain, or wait until it is placed";
    none(port_id, CapabilityReason::new("not_placed", format!("port/{port_id}"), message, remedy))
}

/// Answers a question that the calling host's agent was given, once.
#[utoipa::path(post, path = "/agent/v1/questions/{question}", tag = "agents",
    params(("question" = Uuid, Path, description = "One use")), request_body = Reply,
    responses((status = 204), crate::openapi::Problems))]
pub async fn answer_question(
    State(app): State<App>,
    agent: Agent,
    Named(question): Named,
    _: Query<NoParams>,
    Json { value, .. }: Json<Reply>,
) -> Result<StatusCode, Error> {
    let id = question.parse().ok();
    match id.is_some_and(|id| app.questions.answer(id, agent.host_id, value)) {
        true => Ok(StatusCode::NO_CONTENT),
        // In the same words whether it never was, was answered, is too old or is another host's.
        false => Err(Error::not_found("question", "…")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_model::networks::Counters;

    #[test]
    fn n8_questions_are_bounded_given_once_and_answered_once_by_their_host() {
        let questions = Questions::default();
        let (mine, other) = (HostId(Uuid::from_u128(1)), HostId(Uuid::from_u128(2)));
        let question = |n: u128| Question { id: Uuid::from_u128(n), port_id: PortId(Uuid::from_u128(9)) };
        let reply = || Reply::Counters(Counters { rx_packets: 1, ..Counters::default() });
        let mut first = questions.ask(mine, question(1)).unwrap();
        assert!(!questions.answer(first.id, mine, reply()), "nobody was given it");
        assert_eq!(questions.deliver(other), []);
        assert_eq!((questions.deliver(mine), questions.deliver(mine)), (vec![question(1)], vec![]));
        assert!(!questions.answer(first.id, other, reply()));
        assert!(questions.answer(first.id, mine, reply()));
        assert!(!questions.answer(first.id, mine, reply()));
        assert_eq!(first.answer.try_recv().unwrap(), reply());

        let mut asked: Vec<_> =
            (2..).take(QUESTIONS).map(|n| questions.ask(mine, question(n)).unwrap()).collect();
        assert!(matches!(questions.ask(mine, question(99)), Err(Error::TooMany(_))));
        let others = (100..).take(IN_ALL - QUESTIONS);
        asked.extend(others.map(|n| questions.ask(HostId(Uuid::from_u128(n)), question(n)).unwrap()));
        assert!(matches!(questions.ask(other, question(999)), Err(Error::TooMany(_))));
        asked.clear();
        assert!(questions.waiting().is_empty(), "who waits no more leaves nothing behind");
    }
}
