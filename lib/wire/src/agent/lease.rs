//! The lease under which a host executes VMs that would be started elsewhere if it were lost.

use basalt_model::{CapabilityReason, hosts::FencerFacts};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// `POST /agent/v1/lease`: asked for every few seconds by hosts that have such VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// This start of the agent.
    pub agent_boot: Uuid,
    /// This boot of the host.
    pub boot_id: String,
    /// The revision of the manifest that the agent keeps and acts on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_revision: Option<i64>,
    /// What stops the VMs when the lease has run out; absent when nothing would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencer: Option<FencerFacts>,
    /// Whether a VM is there that needs it, or none was given to this start of the agent yet. A host that needs none asks so
    /// that it hears whether it was given up for dead; its lease is written down only to end that.
    #[serde(default = "yes")]
    pub needed: bool,
}

fn yes() -> bool {
    true
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseAnswer {
    /// The lease holds for so many seconds from when it was asked for; absent when it is not given, be it that it is
    /// refused or not needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    /// Why it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<CapabilityReason>,
}
