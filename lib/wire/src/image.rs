//! Between image service and gateway: what became of an upload.

use basalt_model::{CapabilityReason, DateTime, ImageId, TransferId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// `POST /image/v1/events` on the agents' door, under the image service's own certificate.
/// Delivered at least once and in order for one image; the id tells repeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageEvent {
    /// Names this event.
    pub id: Uuid,
    /// When it happened.
    pub at: DateTime,
    /// The image.
    pub image_id: ImageId,
    /// The upload.
    pub transfer_id: TransferId,
    /// What happened.
    pub outcome: ImageOutcome,
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageOutcome {
    /// Every byte is there; the digest is being taken.
    Verifying,
    /// The bytes are what they should be, and durable.
    Ready {
        /// SHA-256 in lower-case hex.
        sha256: String,
        /// Length in bytes.
        size_bytes: u64,
        /// Size that a guest sees, in bytes.
        virtual_size_bytes: u64,
    },
    /// They were refused.
    Failed {
        /// Why.
        reason: CapabilityReason,
    },
}
