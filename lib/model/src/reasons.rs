//! Every "no" says why and what would make it a yes: one shape in API, CLI, portal and agent.

use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt};
use utoipa::ToSchema;

/// A stable, machine-readable word for a reason, in `snake_case`.
pub type Code = Cow<'static, str>;

/// Why something cannot be, what shows it, and what would make it possible.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct CapabilityReason {
    /// Stable word, for programs: `insufficient_memory`, `host_in_maintenance` …
    #[schema(value_type = String)]
    pub code: Code,
    /// What the reason is about: `host/h1`, `pool/default`, `spec.memory_bytes` …
    pub subject: String,
    /// One sentence for people.
    pub message: String,
    /// What was seen: figures, versions, the line a tool printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
    /// What would make it possible.
    pub remedy: String,
}

impl CapabilityReason {
    /// A reason without evidence; add it with [`Self::with_evidence`].
    pub fn new(
        code: impl Into<Code>,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            subject: subject.into(),
            message: message.into(),
            evidence: String::new(),
            remedy: remedy.into(),
        }
    }

    /// Adds what was seen.
    #[must_use]
    pub fn with_evidence(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = evidence.into();
        self
    }
}

impl fmt::Display for CapabilityReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)?;
        if !self.evidence.is_empty() {
            write!(f, " ({})", self.evidence)?;
        }
        write!(f, "; {}", self.remedy)
    }
}
