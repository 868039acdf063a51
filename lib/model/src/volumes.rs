//! Volumes: disks that live in a pool.

use crate::{
    CapabilityReason, GIB, MIB, Name,
    validate::{FieldError, Validate, multiple_of, within},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a user wants of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Size in bytes, a multiple of 1 MiB.
    pub size_bytes: u64,
    /// What it begins with.
    #[serde(default)]
    pub source: VolumeSource,
    /// Pool to keep it in; default: the host's pool with the most room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
}

/// What a volume begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum VolumeSource {
    /// Nothing.
    #[default]
    Blank,
    /// An overlay over an image of the project.
    Image {
        /// The image's name.
        image: Name,
    },
    /// A file that was in the pool already. Only `POST /v1/hosts/{host}/adopt` makes such a volume.
    Adopted {
        /// The name that the file had in the pool.
        file: String,
    },
}

/// Where a volume is in its life, as the host reported.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Declared; no VM needed it yet, so it is on no host.
    #[default]
    Unbound,
    /// Being made.
    Creating,
    /// It is there.
    Ready,
    /// The pool is away.
    Unavailable,
    /// Nothing of it is on the host.
    Absent,
}

/// What an agent saw of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeObserved {
    /// Where it is in its life.
    pub state: VolumeState,
    /// The pool it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// Virtual size in bytes.
    #[serde(default)]
    pub size_bytes: u64,
    /// Count of times it was made anew.
    #[serde(default)]
    pub incarnation: i64,
    /// Why the host cannot make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<CapabilityReason>,
}

impl Validate for VolumeSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let size = format!("{path}.size_bytes");
        if within(errors, size.clone(), self.size_bytes, (MIB, 64 * 1024 * GIB), "bytes") {
            multiple_of(errors, size, self.size_bytes, MIB);
        }
        if matches!(self.source, VolumeSource::Adopted { .. }) {
            errors.push(FieldError::new(
                format!("{path}.source"),
                "not_allowed",
                "a file of a host becomes a volume only by adoption, which looks at the file first",
                "send POST /v1/hosts/{host}/adopt, or run basalt adopt volume",
            ));
        }
    }
}
