//! Labels: short key-value pairs that people attach to objects and select by.

use crate::validate::{FieldError, Validate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// At most this many labels on one object.
pub const MAX_LABELS: usize = 64;

/// Key-value pairs. Keys: 1 to 63 of `a-z A-Z 0-9 . _ - /`; values: at most 63 of the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = std::collections::BTreeMap<String, String>)]
pub struct Labels(pub BTreeMap<String, String>);

impl Labels {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether every pair of `wanted` is here.
    pub fn contains_all(&self, wanted: &Labels) -> bool {
        wanted.0.iter().all(|(k, v)| self.get(k) == Some(v))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

pub(crate) fn allowed(text: &str) -> bool {
    text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}

impl Validate for Labels {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        if self.0.len() > MAX_LABELS {
            errors.push(FieldError::new(
                path,
                "too_many",
                format!("{} labels; at most {MAX_LABELS} are kept", self.0.len()),
                "remove some labels",
            ));
        }
        for (key, value) in &self.0 {
            if key.is_empty() || !allowed(key) || !allowed(value) {
                errors.push(FieldError::new(
                    format!("{path}.{key}"),
                    "malformed",
                    "a label key is 1 to 63, a value at most 63 of a-z A-Z 0-9 . _ - /",
                    "shorten it or replace the other characters",
                ));
            }
        }
    }
}
