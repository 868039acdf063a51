//! What the server says when it does not do what it is asked: `Status`, as clients parse it.

use serde_json::{Value, json};

/// A refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// HTTP's number.
    pub code: u16,
    /// The word for programs.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
    /// What is wrong with which field.
    pub causes: Vec<Value>,
    /// Seconds after which to ask again.
    pub retry_after: Option<u32>,
}

impl Status {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), causes: Vec::new(), retry_after: None }
    }

    pub(crate) fn not_found(resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} {name:?} not found"))
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    pub(crate) fn already_exists(resource: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{resource} {name:?} already exists"))
    }

    pub(crate) fn modified(resource: &str, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {resource} {name:?}: the object has been modified; please apply your \
             changes to the latest version and try again"
        );
        Self::new(409, "Conflict", message)
    }

    /// 422 with one cause for each field.
    pub(crate) fn invalid(kind: &str, name: &str, errors: &[(String, &'static str, String)]) -> Self {
        let sentences: Vec<String> =
            errors.iter().map(|(field, _, message)| format!("{field}: {message}")).collect();
        let message = match sentences.as_slice() {
            [one] => format!("{kind} {name:?} is invalid: {one}"),
            many => format!("{kind} {name:?} is invalid: [{}]", many.join(", ")),
        };
        let mut status = Self::new(422, "Invalid", message);
        status.causes = errors
            .iter()
            .map(|(field, reason, message)| json!({ "reason": reason, "message": message, "field": field }))
            .collect();
        status
    }

    pub(crate) fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn body(&self) -> Value {
        let mut details = json!({});
        if !self.causes.is_empty() {
            details["causes"] = Value::Array(self.causes.clone());
        }
        if let Some(seconds) = self.retry_after {
            details["retryAfterSeconds"] = seconds.into();
        }
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": details, "code": self.code,
        })
    }
}
