//! The loss of a host: how it was proven that nothing of it executes any more, until it comes back.

use crate::{DateTime, HostId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// How it was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeathKind {
    /// Its lease ran out, and with it the window in which its fencer stops what needs one.
    LeaseExpired,
    /// A person saw that its power is off.
    PowerOffConfirmed,
}

impl DeathKind {
    /// The word in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeaseExpired => "lease_expired",
            Self::PowerOffConfirmed => "power_off_confirmed",
        }
    }
}

/// The proof that guests with an HA policy execute on a host no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostDeath {
    /// Its id.
    pub id: Uuid,
    /// The host.
    pub host_id: HostId,
    /// How it was proven.
    pub kind: DeathKind,
    /// What it was proven by, for people.
    pub evidence: String,
    /// The boot of the host that is dead, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// When it was written down.
    pub at: DateTime,
    /// When the host came back and knew what it no longer has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime>,
}
