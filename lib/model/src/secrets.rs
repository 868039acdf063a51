//! Secrets: values that are kept encrypted, referred to by name, and never shown.

use crate::validate::{FieldError, Validate, at};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Longest value, in bytes.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// What is kept secret. It goes in and is never answered, logged or printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// The value, 1 byte to 64 KiB of text.
    #[schema(write_only)]
    pub value: String,
}

impl fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretSpec { value: [secret] }")
    }
}

impl Validate for SecretSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        if self.value.is_empty() || self.value.len() > MAX_SECRET_BYTES {
            errors.push(FieldError::new(
                at(path, "value"),
                "out_of_range",
                format!("{} bytes; a secret has 1 to {MAX_SECRET_BYTES}", self.value.len()),
                "give a value of that length",
            ));
        }
    }
}
