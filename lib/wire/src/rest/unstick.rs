//! What an object waits for, and the ways out that are safe now.

use basalt_model::{CapabilityReason, DateTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Something that is known about an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// Who says so: a condition, a host, a task.
    pub source: String,
    /// What is said.
    pub says: String,
    /// Since when, or when it was said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime>,
}

/// A way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WayOut {
    /// It goes on by itself.
    Wait,
    /// Take the task back that is under way.
    Cancel,
    /// A VM on its way belongs to the host that it came from, and starts there from its disk.
    Source,
    /// A VM on its way belongs to the host that it goes to, and starts there from its disk.
    Target,
    /// What is left on hosts that are not heard of is given up: the object's rows go, and what stands on such a host when it
    /// comes back is listed there as nobody's.
    Forget,
    /// Somebody saw that the power of the host is off: VMs whose policy says so are started elsewhere, and what is on its way
    /// there or from there is decided.
    ConfirmPowerOff,
    /// Destroy it and make it anew from its image.
    Redeploy,
    /// Delete it.
    Delete,
}

impl WayOut {
    /// The word in HTTP and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Cancel => "cancel",
            Self::Source => "source",
            Self::Target => "target",
            Self::Forget => "forget",
            Self::ConfirmPowerOff => "confirm_power_off",
            Self::Redeploy => "redeploy",
            Self::Delete => "delete",
        }
    }
}

/// A way out, and whether it is safe now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// Which.
    pub way: WayOut,
    /// What happens then.
    pub effect: String,
    /// What is lost by it; empty: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub loses: String,
    /// What shows that it is safe.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
    /// Why it is not to be had now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<CapabilityReason>,
}

/// What an object waits for, and its ways out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unstick {
    /// `vm`, `volume`, `network` …
    pub kind: String,
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Whether it waits for something that may never come by itself.
    pub stuck: bool,
    /// One sentence for people.
    pub summary: String,
    /// What is known.
    pub facts: Vec<Evidence>,
    /// The ways out; those that are safe now first.
    pub outcomes: Vec<Outcome>,
}

/// Which way out to take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeWayOut {
    /// One that is safe now. `wait` needs no asking.
    pub way: WayOut,
}
