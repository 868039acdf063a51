//! The one shape of an error answer: RFC 9457 problem details.

use basalt_model::{CapabilityReason, FieldError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request was refused, and what would make it pass (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `https://basalt.example/problems/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short words for the code.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable word, for programs.
    pub code: String,
    /// One sentence for people.
    pub detail: String,
    /// Fields that are wrong, each with reason and remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// What would have to be otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<CapabilityReason>,
    /// Names this request in the gateway's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem without fields or reasons.
    pub fn new(status: u16, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("https://basalt.example/problems/{code}"),
            title: title.into(),
            status,
            code: code.into(),
            detail: detail.into(),
            errors: Vec::new(),
            reasons: Vec::new(),
            request_id: None,
        }
    }

    /// Adds the fields that are wrong.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// Adds what would have to be otherwise.
    #[must_use]
    pub fn with_reasons(mut self, reasons: Vec<CapabilityReason>) -> Self {
        self.reasons = reasons;
        self
    }
}
