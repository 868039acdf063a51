//! Between image service and gateway: what became of an upload, and what there is to import.

use basalt_model::{
    CapabilityReason, DateTime, ImageId, ProjectId, TaskId, TenantId, TransferId, images::ImageFormat,
};
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

/// Most tasks that are claimed at once.
pub const MAX_CLAIMS: u32 = 16;
/// Longest stage of a claimed task, in bytes.
pub const MAX_STAGE_BYTES: usize = 500;

/// `POST /image/v1/work` on the agents' door: claims what is to be imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkRequest {
    /// Who will carry it out: one image service, the same for as long as its storage is.
    pub executor: Uuid,
    /// Which of its starts: what an earlier one had claimed is given to this one at once.
    pub start: Uuid,
    /// At most so many, 1 to 16.
    pub limit: u32,
    /// Without anything to do, answer when there is something, or after this many seconds (0 to 55).
    #[serde(default)]
    pub wait_seconds: u32,
}

/// What was claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkAnswer {
    /// Images to fetch.
    pub imports: Vec<ImportWork>,
}

/// An image to fetch. The claim's id is the transfer's id: an event of another claim's is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportWork {
    /// The task.
    pub task_id: TaskId,
    /// Names the claim, and the transfer in what is reported.
    pub claim_id: TransferId,
    /// Fencing token: grows with every claim of the task.
    pub fence: i64,
    /// Renewed after a third of these seconds, for after all of them somebody else may claim the task.
    pub lease_seconds: u32,
    /// The image.
    pub image_id: ImageId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// Where its bytes are.
    pub url: String,
    /// Their format.
    pub format: ImageFormat,
    /// Their length, where it was declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Their SHA-256, where it was declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// `POST /image/v1/work/{task}` on the agents' door: holds a claim on, or gives it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkRenewal {
    /// The claim.
    pub claim_id: TransferId,
    /// How far it is, 0 to 99.
    pub progress: i32,
    /// What is being done, at most 500 bytes.
    pub stage: String,
    /// Gives it back: the task may be claimed again after this many seconds (0 to 60).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_after_seconds: Option<u32>,
}
