//! Images: what volumes begin with. The bytes live in the image service, by their SHA-256.

use crate::{
    CapabilityReason, GIB,
    validate::{FieldError, Validate, within},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a user wants of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// Format of the bytes that will be uploaded.
    pub format: ImageFormat,
    /// Length of the upload in bytes, 1 byte to 16 TiB.
    pub size_bytes: u64,
    /// Expected SHA-256, 64 lower-case hex digits; an upload with another digest fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Who may use it.
    #[serde(default)]
    pub visibility: Visibility,
}

/// Format of an image's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// QEMU copy-on-write 2, without backing or external data file.
    Qcow2,
    /// Raw sectors.
    Raw,
    /// An optical disc.
    Iso,
}

/// Who may use an image.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Its project.
    #[default]
    Project,
    /// Every project of its tenant.
    Tenant,
}

/// Where an image is in its life.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// Bytes are awaited.
    #[default]
    Uploading,
    /// All bytes are there; the digest and the format are being checked.
    Verifying,
    /// Volumes can begin with it.
    Ready,
    /// It was refused; see the reason.
    Failed,
    /// It is going.
    Deleting,
}

/// What the image service reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageObserved {
    /// Where it is in its life.
    pub state: ImageState,
    /// SHA-256 of the bytes, lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Bytes stored.
    #[serde(default)]
    pub size_bytes: u64,
    /// Size that a guest sees, in bytes.
    #[serde(default)]
    pub virtual_size_bytes: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CapabilityReason>,
}

/// Whether a text is a SHA-256 in lower-case hex.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Validate for ImageSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let size = format!("{path}.size_bytes");
        within(errors, size, self.size_bytes, (1, 16 * 1024 * GIB), "bytes");
        if self.sha256.as_ref().is_some_and(|s| !is_sha256(s)) {
            errors.push(FieldError::new(
                format!("{path}.sha256"),
                "malformed",
                "a SHA-256 is 64 of 0-9 a-f",
                "paste the output of sha256sum",
            ));
        }
    }
}
