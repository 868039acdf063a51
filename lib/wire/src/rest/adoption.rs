//! Taking over what stands on a host and in no manifest.

use super::{Vm, Volume};
use basalt_model::Name;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/hosts/{host}/adopt`: which thing of the host, and what it is to be from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// What it is.
    pub kind: AdoptKind,
    /// Its id or its name, as the host's `facts.foreign` has it.
    pub id: String,
    /// The project that it is to belong to: name or id.
    pub project: String,
    /// Its name in the project.
    pub name: Name,
    /// The network of the project that all interfaces of a VM are to be on. Left out, each stays on the network
    /// that Basalt had it on before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
}

/// What can be taken over. A port goes with its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdoptKind {
    /// A virtual machine with its disks.
    Vm,
    /// A file in a pool.
    Volume,
}

impl AdoptKind {
    /// The word in `facts.foreign`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Volume => "volume",
        }
    }
}

/// What was taken over, as declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Adopted {
    /// A virtual machine.
    Vm(Box<Vm>),
    /// A volume.
    Volume(Box<Volume>),
}
