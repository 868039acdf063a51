//! Attempts to make a platform run a deployment, or run it no more: what is due, what was done, what came of it.

use crate::{
    CapabilityReason, DateTime, Epoch, Generation,
    deployments::{Endpoint, ErrorClass},
};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;
use uuid::Uuid;

/// What an attempt does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Makes the platform run it.
    Deploy,
    /// Takes it away; the deployment stays.
    Undeploy,
    /// Takes it away, and the deployment with it.
    Delete,
}

impl Action {
    /// The word used in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Undeploy => "undeploy",
            Self::Delete => "delete",
        }
    }
}

/// One thing that what runs was made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Dependency {
    /// `agent/planner:latest`, `secret/model-key`, `provider/cluster`.
    pub what: String,
    /// Its id: one that was removed and made anew is another.
    pub id: Uuid,
    /// Its generation.
    pub generation: Generation,
    /// What it comes to, where there is more to it than its generation: a hash, an address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
}

/// The last attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempted {
    /// What it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Which it was: grows with every one.
    #[serde(default)]
    pub epoch: Epoch,
    /// Generation of the deployment that it was for.
    pub generation: Generation,
    /// What its inputs came to; empty when it took away.
    #[serde(default)]
    pub fingerprint: String,
    /// The token of the retry that asked for it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<Uuid>,
    /// Failed attempts in a row for these inputs.
    #[serde(default)]
    pub failures: u32,
    /// How the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AttemptError>,
    /// How long the platform asked us to stay away, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
    /// How long the next one waits after this one, in milliseconds; no time of day is in it, so a clock that jumps does
    /// not make it due.
    #[serde(default)]
    pub pause_ms: u64,
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptError {
    /// What it says about another attempt.
    pub class: ErrorClass,
    /// What was seen and what would mend it.
    pub reason: CapabilityReason,
}

/// What was applied last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Generation that it was made from.
    pub generation: Generation,
    /// What its inputs came to.
    pub fingerprint: String,
    /// The inputs themselves.
    pub dependencies: Vec<Dependency>,
    /// The attempt.
    pub epoch: Epoch,
    /// Where it was reached when it was looked at right afterwards.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

/// Why an attempt is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// Nothing of it was applied yet.
    New,
    /// Its own spec changed.
    Spec {
        /// What was applied.
        old: Generation,
        /// What is wanted.
        new: Generation,
    },
    /// Something that it is made from changed.
    Changed {
        /// Which.
        what: String,
        /// What was applied.
        old: Generation,
        /// What there is.
        new: Generation,
        /// It is another one of the same name.
        replaced: bool,
    },
    /// It is made from something that it was not made from before.
    Added {
        /// Which.
        what: String,
    },
    /// Something is no part of it any more.
    Removed {
        /// Which.
        what: String,
    },
    /// The same is realised otherwise than before.
    Revision,
    /// Somebody asked for it.
    Forced,
    /// It is not there any more.
    Gone,
    /// What runs is not what was applied.
    Drifted {
        /// Field by field.
        fields: Vec<String>,
    },
    /// It is not wanted any more.
    Unwanted,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("nothing of it was applied yet"),
            Self::Spec { old, new } => write!(f, "its spec changed: generation {} to {}", old.0, new.0),
            Self::Changed { what, old, new, replaced: false } if old != new => {
                write!(f, "{what} changed: generation {} to {}", old.0, new.0)
            }
            Self::Changed { what, replaced: false, .. } => write!(f, "{what} is reached elsewhere"),
            Self::Changed { what, .. } => write!(f, "{what} is another one of the same name"),
            Self::Added { what } => write!(f, "it is made from {what} too"),
            Self::Removed { what } => write!(f, "it is not made from {what} any more"),
            Self::Revision => f.write_str("the same is realised otherwise by this version"),
            Self::Forced => f.write_str("somebody asked for it"),
            Self::Gone => f.write_str("it is not there any more"),
            Self::Drifted { fields } => write!(f, "what runs differs: {}", fields.join(", ")),
            Self::Unwanted => f.write_str("it is not wanted any more"),
        }
    }
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// Something was made, changed or taken away.
    Success,
    /// All was so already.
    Unchanged,
    /// It was told to go and has not gone yet.
    Going,
    /// It failed.
    Error,
    /// Something newer was wanted before it ended.
    Superseded,
    /// Its executor lost its claim: it says nothing about the platform.
    LeaseLost,
}

impl AttemptOutcome {
    /// The word used in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Unchanged => "unchanged",
            Self::Going => "going",
            Self::Error => "error",
            Self::Superseded => "superseded",
            Self::LeaseLost => "lease_lost",
        }
    }
}

/// One attempt, as it is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReconcileEvent {
    /// Its id.
    pub id: Uuid,
    /// Generation of the deployment that it was for.
    pub generation: Generation,
    /// The attempt: grows with every one.
    pub epoch: Epoch,
    /// What it did.
    pub action: Action,
    /// How many times in a row it was tried, this one included.
    pub attempt: u32,
    /// What came of it.
    pub outcome: AttemptOutcome,
    /// Why it was due.
    pub causes: Vec<Cause>,
    /// How it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AttemptError>,
    /// What its inputs came to; empty when it took away.
    pub fingerprint: String,
    /// When it began.
    pub started_at: DateTime,
    /// When it ended.
    pub completed_at: DateTime,
    /// When it is tried again, if nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry_at: Option<DateTime>,
}

/// One word for a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentPhase {
    /// Its deletion was asked for.
    Deleting,
    /// Its provider cannot be reached, so nobody can say.
    Unknown,
    /// Nothing was done for its newest generation yet.
    Pending,
    /// Something that it names is not there.
    Blocked,
    /// It is being taken away.
    Undeploying,
    /// Nothing of it is left at the provider.
    Undeployed,
    /// Attempts fail.
    Failed,
    /// It runs, and not as it should.
    Degraded,
    /// It runs, as it is wanted.
    Deployed,
    /// It was applied and is not ready yet.
    Deploying,
}

impl DeploymentPhase {
    /// The word used in HTTP and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleting => "deleting",
            Self::Unknown => "unknown",
            Self::Pending => "pending",
            Self::Blocked => "blocked",
            Self::Undeploying => "undeploying",
            Self::Undeployed => "undeployed",
            Self::Failed => "failed",
            Self::Degraded => "degraded",
            Self::Deployed => "deployed",
            Self::Deploying => "deploying",
        }
    }
}

/// Where a deployment is, as the reconciler last judged it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Standing {
    /// One word.
    pub phase: DeploymentPhase,
    /// One sentence for people.
    pub message: String,
    /// The generation that was judged.
    pub observed_generation: Generation,
    /// Where it is reached.
    pub endpoints: Vec<Endpoint>,
}
