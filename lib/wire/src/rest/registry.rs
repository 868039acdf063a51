//! Agents, MCP servers, secrets and providers, as users send and see them.

use super::ProviderStatus;
use basalt_model::{
    Labels, Metadata, Name, agents::AgentSpec, artifacts::Tag, providers::ProviderSpec, servers::ServerSpec,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body that registers an agent or a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Register<S> {
    /// With the tag unique among its kind in its project.
    pub name: Name,
    /// Default `latest`.
    #[serde(default)]
    pub tag: Tag,
    /// What people attach.
    #[serde(default)]
    pub labels: Labels,
    /// What it is.
    pub spec: S,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Common fields. The generation counts what runs: labels and descriptions do not move it.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// Its tag.
    pub tag: Tag,
    /// `name:tag`, as it is called in paths and by `apply`.
    pub reference: String,
    /// SHA-256 of what runs, in lower-case hex.
    pub content_hash: String,
    /// What it is.
    pub spec: AgentSpec,
}

/// An MCP server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// Common fields. The generation counts what runs: labels and descriptions do not move it.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// Its tag.
    pub tag: Tag,
    /// `name:tag`, as it is called in paths and by `apply`.
    pub reference: String,
    /// SHA-256 of what runs, in lower-case hex.
    pub content_hash: String,
    /// What it is.
    pub spec: ServerSpec,
}

/// A provider: a place where deployments run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Provider {
    /// Common fields.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// Its platform, and how one gets there.
    pub spec: ProviderSpec,
    /// How the last looks at it went; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ProviderStatus>,
}

/// A secret. Its value is not shown to anybody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Common fields. The generation counts values.
    #[serde(flatten)]
    pub metadata: Metadata,
}
