//! The report: what a host saw, with the generation and epoch it belongs to.

use super::manifest::ItemKind;
use basalt_model::{
    CapabilityReason, Epoch, Generation, hosts::HostFacts, vms::VmObserved, volumes::VolumeObserved,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// `POST /agent/v1/report`: changed facts only, unless `full`. It is also the heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Made anew with every start of the agent.
    pub agent_boot: Uuid,
    /// Counts the reports of this start, from 1: an older one that arrives late is refused.
    pub sequence: i64,
    /// The revision of the manifest that the agent acts on; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_revision: Option<i64>,
    /// Why the newest manifest was refused whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_refused: Option<CapabilityReason>,
    /// The host's facts, when they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<HostFacts>,
    /// Items whose facts changed.
    #[serde(default)]
    pub items: Vec<ItemReport>,
}

/// What was seen of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemReport {
    /// Kind.
    pub kind: ItemKind,
    /// The object's id.
    pub id: Uuid,
    /// The generation that the host now realises; older than the item's while work is left.
    pub generation: Generation,
    /// The epoch of the item that was acted on.
    pub epoch: Epoch,
    /// What was seen.
    pub observed: ItemObserved,
    /// What is going on: `downloading image (45 %)` …; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
}

/// What was seen of an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "as", rename_all = "snake_case")]
pub enum ItemObserved {
    /// Nothing of it is left.
    Gone,
    /// A VM.
    Vm(Box<VmObserved>),
    /// A volume.
    Volume(VolumeObserved),
    /// An image in the cache.
    Image {
        /// Whether all bytes are there and their digest is right.
        ready: bool,
        /// Why it cannot be had.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocked: Option<CapabilityReason>,
    },
    /// A network.
    Network {
        /// Whether DHCP answers and the flows stand.
        ready: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocked: Option<CapabilityReason>,
    },
    /// A security group.
    SecurityGroup {
        /// Whether its rules are in the flows.
        ready: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocked: Option<CapabilityReason>,
    },
    /// A router.
    Router {
        /// Whether all of it stands: namespace, addresses, rules, and what chooses between the two hosts.
        ready: bool,
        /// Whether this host is the one that routes.
        active: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocked: Option<CapabilityReason>,
    },
}

/// The answer to a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportAnswer {
    /// The gateway knows nothing of this start of the agent: send everything once.
    pub send_full: bool,
}
