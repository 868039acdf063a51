//! What a port carried and what was dropped, asked of a host's agent when a user wants to know. See docs/protocol.md.

use basalt_model::{CapabilityReason, PortId, networks::Counters};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// How long a gateway waits for the answer, in seconds.
pub const ANSWER_SECONDS: u32 = 3;
/// Questions that wait for the answers of one agent at once.
pub const QUESTIONS: usize = 8;

/// One question for a host's agent, given out once and answered once: `POST /agent/v1/questions/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Names the question; only the host that was asked may answer it.
    pub id: Uuid,
    /// The port whose counters are wanted.
    pub port_id: PortId,
}

/// What an agent answers to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The port's counters, as they were when it was asked.
    Counters(Counters),
    /// Why there are none, for the user.
    Refused(CapabilityReason),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn n8_question_and_replies_are_written_as_other_processes_read_them() {
        let question = Question { id: Uuid::from_u128(1), port_id: PortId(Uuid::from_u128(2)) };
        let text = json!({"id": Uuid::from_u128(1), "port_id": Uuid::from_u128(2)});
        assert_eq!(serde_json::to_value(question).unwrap(), text);
        let counters = Counters { rx_packets: 3, spoofed_packets: 4, ..Counters::default() };
        let reply = serde_json::to_value(Reply::Counters(counters)).unwrap();
        assert_eq!(
            (&reply["counters"]["rx_packets"], &reply["counters"]["spoofed_packets"]),
            (&json!(3), &json!(4))
        );
        let reason = CapabilityReason::new("port_absent", "port/x", "it is not there", "start the VM");
        let refused = Reply::Refused(reason);
        let reply = serde_json::to_value(&refused).unwrap();
        assert_eq!(reply["refused"]["code"], "port_absent");
        assert_eq!(serde_json::from_value::<Reply>(reply).unwrap(), refused);
    }
}
