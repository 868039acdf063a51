//! Many documents in one call: what is sent, and what became of each.

use super::Problem;
use basalt_model::{
    Labels, Name, agents::AgentSpec, artifacts::Tag, deployments::DeploymentSpec, providers::ProviderSpec,
    secrets::SecretSpec, servers::ServerSpec,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// `POST /v1/apply`. (No `Debug`: a document may hold a secret's value.)
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// At most 500, in any order: what others name is made before them. Each is read by itself, so that one that is
    /// wrong keeps none of the others from being done.
    #[schema(value_type = Vec<Document>)]
    pub documents: Vec<Map<String, Value>>,
    /// With `true` everything is checked and answered, and nothing is changed.
    #[serde(default)]
    pub dry_run: bool,
}

/// One document: what is to be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Document {
    /// A secret.
    Secret(Declared<SecretSpec>),
    /// A provider; takes the role `admin`.
    Provider(Declared<ProviderSpec>),
    /// An MCP server.
    Server(DeclaredTagged<ServerSpec>),
    /// An agent.
    Agent(DeclaredTagged<AgentSpec>),
    /// A deployment.
    Deployment(Declared<DeploymentSpec>),
}

/// Something with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Declared<S> {
    /// Unique among its kind in its project.
    pub name: Name,
    /// What people attach; left out, those of what is there stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// What is wanted, whole.
    pub spec: S,
}

/// Something with a name and a tag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredTagged<S> {
    /// With the tag unique among its kind in its project.
    pub name: Name,
    /// Default `latest`.
    #[serde(default)]
    pub tag: Tag,
    /// What people attach; left out, those of what is there stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// What it is, whole.
    pub spec: S,
}

/// The answer: a result for each document, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Applications {
    /// What became of each.
    pub results: Vec<Application>,
}

/// What became of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Application {
    /// Its kind, as it was sent.
    pub kind: String,
    /// Its name, as it was sent; with the tag where it has one: `planner:latest`.
    pub name: String,
    /// What became of it.
    pub outcome: ApplyOutcome,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What became of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApplyOutcome {
    /// It was not there.
    Created,
    /// It was otherwise.
    Changed,
    /// It was so already.
    Unchanged,
    /// Nothing was done; see the problem.
    Refused,
}
