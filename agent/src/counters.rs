//! What users want to know of this host's ports: one look at the switch for each question, and nothing in between.

use crate::{Error, host::Host, link::Gateway};
use basalt_model::CapabilityReason;
use basalt_wire::agent::counters::{Question, Reply};
use std::time::Duration;

/// How long looking may take: the gateway waits 3 s, and is to hear why there is no answer.
const LOOK_LIMIT: Duration = Duration::from_millis(2500);

/// Answers one question.
pub(crate) async fn answer<H: Host, G: Gateway>(host: &H, gateway: &G, question: Question) {
    let port_id = question.port_id;
    let looked = tokio::time::timeout(LOOK_LIMIT, host.counters(port_id)).await;
    let looked = looked.unwrap_or_else(|_| Err(Error::host("counting", "the switch did not answer in time")));
    let reply = match looked {
        Ok(counters) => Reply::Counters(counters),
        Err(Error::Refused(reason)) => Reply::Refused(*reason),
        Err(e) => {
            tracing::warn!(port = %port_id, error = %e, "a port's counters cannot be read");
            Reply::Refused(
                CapabilityReason::new(
                    "counters_failed",
                    format!("port/{port_id}"),
                    "the host could not read the port's counters",
                    "try again; the agent's log says more",
                )
                .with_evidence(e.to_string()),
            )
        }
    };
    if let Err(e) = gateway.answer(question.id, &reply).await {
        tracing::debug!(port = %port_id, error = %e, "a question could not be answered");
    }
}
