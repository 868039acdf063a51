//! Validation of what users write: every error names the field, the reason and the remedy.

use crate::CapabilityReason;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Path of the field from the body's root: `spec.disks[0].size_bytes`.
    pub field: String,
    /// Stable word, for programs.
    pub code: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl FieldError {
    /// An error at a field.
    pub fn new(
        field: impl Into<String>,
        code: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), code: code.into(), reason: reason.into(), remedy: remedy.into() }
    }
}

impl From<FieldError> for CapabilityReason {
    fn from(e: FieldError) -> Self {
        CapabilityReason::new(e.code, e.field, e.reason, e.remedy)
    }
}

/// Checks beyond what the type says.
pub trait Validate {
    /// Appends every error found; `path` is where this value stands in the body.
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>);

    /// All errors of a value that stands at `spec`.
    fn errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.validate("spec", &mut errors);
        errors
    }
}

/// The name of a field of what stands at `path`; the body itself stands at none.
pub(crate) fn at(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// Pushes an error unless `min <= value <= max`.
pub(crate) fn within(
    errors: &mut Vec<FieldError>,
    field: String,
    value: u64,
    (min, max): (u64, u64),
    unit: &str,
) -> bool {
    let ok = (min..=max).contains(&value);
    if !ok {
        errors.push(FieldError::new(
            field,
            "out_of_range",
            format!("{value} {unit} is outside {min} to {max} {unit}"),
            format!("give a value between {min} and {max} {unit}"),
        ));
    }
    ok
}

/// Pushes an error unless `value` is a whole number of `step`s.
pub(crate) fn multiple_of(errors: &mut Vec<FieldError>, field: String, value: u64, step: u64) {
    if !value.is_multiple_of(step) {
        errors.push(FieldError::new(
            field,
            "not_aligned",
            format!("{value} bytes is not a multiple of {step} bytes (the field counts bytes)"),
            format!("round to {} bytes", (value / step + 1) * step),
        ));
    }
}
