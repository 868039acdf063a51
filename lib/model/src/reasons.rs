//! Every "no" says why and what would make it a yes: one shape in API, CLI, portal and agent.

use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    fmt,
    ops::{Deref, DerefMut},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

/// A stable, machine-readable word for a reason, in `snake_case`.
pub type Code = Cow<'static, str>;

/// A [`Reason`], as large as a pointer: nearly every object has a place for one, and nearly none has one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CapabilityReason(Box<Reason>);

/// Why something cannot be, what shows it, and what would make it possible.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = CapabilityReason)]
pub struct Reason {
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
        Self(Box::new(Reason {
            code: code.into(),
            subject: subject.into(),
            message: message.into(),
            evidence: String::new(),
            remedy: remedy.into(),
        }))
    }

    /// Adds what was seen.
    #[must_use]
    pub fn with_evidence(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = evidence.into();
        self
    }

    /// All that is said for people, to be shortened or cleaned.
    pub fn texts_mut(&mut self) -> [&mut String; 4] {
        let Reason { code: _, subject, message, evidence, remedy } = &mut *self.0;
        [subject, message, evidence, remedy]
    }
}

impl Deref for CapabilityReason {
    type Target = Reason;

    fn deref(&self) -> &Reason {
        &self.0
    }
}

impl DerefMut for CapabilityReason {
    fn deref_mut(&mut self) -> &mut Reason {
        &mut self.0
    }
}

impl fmt::Debug for CapabilityReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialSchema for CapabilityReason {
    fn schema() -> RefOr<Schema> {
        Reason::schema()
    }
}

impl ToSchema for CapabilityReason {
    fn name() -> Cow<'static, str> {
        Reason::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Reason::schemas(schemas);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_for_a_reason_is_as_large_as_a_pointer() {
        assert_eq!(size_of::<Option<CapabilityReason>>(), size_of::<usize>());
    }

    #[test]
    fn it_is_written_as_what_it_says() {
        let mut reason = CapabilityReason::new("full", "pool/default", "no room", "make room");
        let written = r#"{"code":"full","subject":"pool/default","message":"no room","remedy":"make room"}"#;
        assert_eq!(serde_json::to_string(&reason).unwrap(), written);
        assert_eq!(serde_json::from_str::<CapabilityReason>(written).unwrap(), reason);
        reason.texts_mut().into_iter().for_each(String::clear);
        assert_eq!(reason, CapabilityReason::new("full", "", "", ""));
        assert!(format!("{reason:?}").starts_with("Reason { code: "));
    }
}
