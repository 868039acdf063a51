//! Deployments, as users see them and ask about them.

use basalt_model::{
    CapabilityReason, Condition, DateTime, DeploymentId, Generation, Labels, Name, ProjectId, TenantId,
    attempts::{Action, Applied, AttemptError, AttemptOutcome, Attempted, DeploymentPhase},
    deployments::{DeploymentSpec, Endpoint, LogLine},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A deployment; or something that runs at a provider and that no deployment stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// UUIDv7, so that ids sort by creation.
    pub id: Uuid,
    /// Its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// Its project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// Unique in its project; of what was found, what its platform calls it.
    pub name: String,
    /// What people attached.
    #[serde(default)]
    pub labels: Labels,
    /// Bumped whenever the spec changes.
    pub generation: Generation,
    /// When it was declared, or first seen.
    pub created_at: DateTime,
    /// When its intent, or what was found, last changed.
    pub updated_at: DateTime,
    /// When its deletion was asked for; it goes once nothing of it is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_requested_at: Option<DateTime>,
    /// Why it is in the list.
    pub origin: Origin,
    /// What is wanted; absent where nothing was declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<DeploymentSpec>,
    /// One word for where it is; absent on what is only shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<DeploymentPhase>,
    /// One sentence that says why.
    pub message: String,
    /// The generation that `phase` and `message` judge; 0 before the first judgement.
    pub observed_generation: Generation,
    /// Where it is reached.
    pub endpoints: Vec<Endpoint>,
    /// What is true of it.
    pub conditions: Vec<Condition>,
    /// The last attempt that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempted: Option<Attempted>,
    /// What was applied; absent when nothing was, or when it was taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
    /// When it is tried again if nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry_at: Option<DateTime>,
    /// What its provider's platform shows; only of what was not declared here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundWorkload>,
}

/// Why something is in the list of deployments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was declared here.
    Managed,
    /// It was found at a provider, and nobody declared it here.
    Discovered,
    /// It was found at a provider with the mark of a deployment that is no more.
    Orphaned,
}

/// Something that runs at a provider and that no deployment stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundWorkload {
    /// What the platform calls it: `container`, `deployment` …
    pub kind: String,
    /// Where, on platforms that have namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The provider where it was found.
    pub provider: Name,
    /// The deployment that is written on it and is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<DeploymentId>,
    /// Complete looks in a row at which it was not there.
    pub misses: u32,
    /// It was not there so often that it is probably gone.
    pub stale: bool,
}

/// Looks in a row without something before it is shown as stale.
pub const MISSES_STALE: u32 = 3;

/// Why a deployment is where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentExplanation {
    /// One word for where it is.
    pub phase: DeploymentPhase,
    /// One sentence that says why.
    pub message: String,
    /// Its generation.
    pub generation: Generation,
    /// The generation that was judged.
    pub observed_generation: Generation,
    /// What is not as it should be.
    pub wrong: Vec<Condition>,
    /// The last attempt that ended; absent when none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<ExplainedAttempt>,
    /// What it was made from, as it was applied and as it is now.
    pub dependencies: Vec<ExplainedDependency>,
    /// When it is tried again if nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry_at: Option<DateTime>,
}

/// An attempt, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedAttempt {
    /// What it did.
    pub action: Action,
    /// What came of it.
    pub outcome: AttemptOutcome,
    /// Generation of the deployment that it was for.
    pub generation: Generation,
    /// How many times in a row it was tried, this one included.
    pub attempt: u32,
    /// Why it was due, one sentence each.
    pub causes: Vec<String>,
    /// How it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AttemptError>,
    /// When it ended.
    pub completed_at: DateTime,
}

/// One thing that a deployment was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedDependency {
    /// `agent/planner:latest`, `secret/model-key`, `provider/cluster`.
    pub what: String,
    /// Its generation when it was applied.
    pub applied: Generation,
    /// Its generation now; absent when there is none of this name any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<Generation>,
    /// There is another one of the same name now.
    #[serde(default)]
    pub replaced: bool,
}

/// One line of the answer to a question for a deployment's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum LogItem {
    /// A line of the log.
    Line(LogLine),
    /// Why nothing comes any more. The last line, if it is there.
    Broken {
        /// What was seen and what would mend it.
        error: CapabilityReason,
    },
}

/// How the last looks at a provider went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderStatus {
    /// The last look succeeded.
    pub reachable: bool,
    /// Looks in a row that failed; not counted beyond three.
    pub failures: u32,
    /// Why the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<CapabilityReason>,
    /// What answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ProviderHealth>,
    /// When any of this last changed.
    pub changed_at: DateTime,
}

/// What answers at a provider, and what it cannot do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderHealth {
    /// Name and version: `podman 4.3.1`, `kubernetes v1.36.2`.
    pub version: String,
    /// What it cannot do here, with the remedy; it is usable nevertheless.
    #[serde(default)]
    pub limits: Vec<CapabilityReason>,
}
