//! What the other Basalt's refusals mean: their class here. It says itself what is wrong and what would mend it, so that
//! is passed on word by word.

use crate::Error;
use basalt_model::{
    CapabilityReason, FieldError, Name,
    deployments::{ErrorClass, Workload},
};
use serde::Deserialize;
use std::time::Duration;

/// Longest piece of what is passed on.
const MAX_CHARS: usize = 400;
/// Codes by which it says that there is no room.
const FULL: &[&str] = &["quota_exceeded", "host_full", "impossible", "pool_full", "subnet_exhausted"];

/// Problem details, of whatever version.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
    errors: Vec<FieldError>,
    reasons: Vec<CapabilityReason>,
}

pub(super) fn error(
    class: ErrorClass,
    code: &'static str,
    subject: impl Into<String>,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Error {
    Error::new(class, CapabilityReason::new(code, subject, message, remedy))
}

fn short(text: &str) -> String {
    text.trim().chars().take(MAX_CHARS).collect()
}

/// An error answer.
pub(super) fn refused(server: &str, doing: &str, status: u16, body: &[u8], retry: Option<u64>) -> Error {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let first = problem.errors.first().map_or("", |e| e.code.as_str());
    let is_full = FULL.contains(&problem.code.as_str()) || FULL.contains(&first);
    let class = match (status, first) {
        (401 | 403, _) => ErrorClass::Auth,
        _ if is_full => ErrorClass::Capacity,
        (404, _) | (422, "not_found" | "image_not_ready") => ErrorClass::Missing,
        (422, "address_taken") => ErrorClass::Conflict,
        (409, _) if problem.code == "deleting" => ErrorClass::Transient,
        (409 | 412, _) => ErrorClass::Conflict,
        (408 | 429 | 500..=503, _) => ErrorClass::Transient,
        (504.., _) => ErrorClass::Timeout,
        _ => ErrorClass::Permanent,
    };
    let reason = match status {
        401 => CapabilityReason::new(
            "token_refused",
            server,
            format!("{doing}: it does not know the token"),
            "set the secret that spec.access names to a token that is valid: POST /v1/service-tokens there",
        ),
        403 => CapabilityReason::new(
            "not_allowed",
            server,
            format!("{doing}: the token does not suffice"),
            "give the token the role operator in the project there",
        )
        .with_evidence(short(&problem.detail)),
        _ => said(server, doing, status, problem),
    };
    let mut error = Error::new(class, reason);
    error.retry_after = retry.filter(|s| *s > 0).map(|s| Duration::from_secs(s.min(3600)));
    error
}

/// What it says itself, if it does.
fn said(server: &str, doing: &str, status: u16, problem: Problem) -> CapabilityReason {
    let known = problem.reasons.into_iter().next();
    if let Some(mut reason) = known.or_else(|| problem.errors.into_iter().next().map(Into::into)) {
        for text in reason.texts_mut() {
            *text = short(text);
        }
        return reason;
    }
    let remedy = match status {
        400..500 => "change what the deployment or the provider names",
        _ => "it is tried again; when it stays so, look at that gateway's log",
    };
    // A code that it gives is kept, for those who act on it.
    let code = if problem.code.is_empty() { "refused".to_owned() } else { short(&problem.code) };
    CapabilityReason::new(code, server, format!("{doing}: it answered {status}"), remedy)
        .with_evidence(short(&problem.detail))
}

/// No answer.
pub(super) fn transport(server: &str, doing: &str, problem: reqwest::Error) -> Error {
    let (timed_out, problem) = (problem.is_timeout(), problem.without_url());
    let mut text = problem.to_string();
    let mut next = std::error::Error::source(&problem);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    let mut made = match () {
        () if timed_out => error(
            ErrorClass::Timeout,
            "no_answer",
            server,
            format!("{doing}: no answer in time"),
            "it is tried again; when it stays so, look whether the gateway's machine reaches it",
        ),
        () if text.contains("certificate") => error(
            ErrorClass::Auth,
            "not_trusted",
            server,
            format!("{doing}: its certificate is not of an authority that is trusted"),
            "put the authority's certificate into `ca` of the secret that spec.access names, and name it by the name or \
             address that the certificate is for",
        ),
        () => error(
            ErrorClass::Transient,
            "unreachable",
            server,
            format!("{doing}: it cannot be reached, or broke off"),
            "it is tried again; when it stays so, correct `url` of the secret that spec.access names, or look whether it runs",
        ),
    };
    made.reason.evidence = short(&text);
    made
}

/// An answer that is none.
pub(super) fn garbage(server: &str, doing: &str) -> Error {
    error(
        ErrorClass::Transient,
        "not_understood",
        server,
        format!("{doing}: its answer cannot be read"),
        "look whether `url` of the secret that spec.access names is the users' door of a Basalt",
    )
}

/// A call that had no time left.
pub(super) fn slow(server: &str, doing: &str, limit: Duration) -> Error {
    error(
        ErrorClass::Timeout,
        "slow",
        server,
        format!("{doing}: it did not come to an end within {} s", limit.as_secs_f32()),
        "it is tried again; when it stays so, look at that gateway's log",
    )
}

/// A list or a create that found nothing where it was to look found no project.
pub(super) fn in_project(seen: Error, project: &Name) -> Error {
    if !is_missing(&seen) {
        return seen;
    }
    let mut hidden = error(
        ErrorClass::Auth,
        "project_hidden",
        format!("project/{project}"),
        "there is no such project there, or the token may not know of it",
        "correct spec.project of the provider, or give the token the role operator there",
    );
    hidden.reason.evidence.clone_from(&seen.reason.evidence);
    hidden
}

/// Whether the object of the path is not there.
pub(super) fn is_missing(error: &Error) -> bool {
    error.class == ErrorClass::Missing
        && error.reason.code == "not_found"
        && !error.reason.subject.starts_with("spec")
}

/// Whether it is this one.
pub(super) fn is(error: &Error, code: &str) -> bool {
    error.reason.code == code
}

/// Takes out what nobody is to read.
pub(super) fn without<'a>(mut error: Error, secrets: impl IntoIterator<Item = &'a str>) -> Error {
    let reason = &mut error.reason;
    for secret in secrets.into_iter().filter(|s| !s.is_empty()) {
        for text in reason.texts_mut() {
            *text = text.replace(secret, "[secret]");
        }
    }
    error
}

/// Who refuses something may repeat what it was sent; the values of secrets stay out of what is said.
pub(super) fn without_secrets(error: Error, workload: &Workload) -> Error {
    without(error, workload.secret_env.values().map(|s| s.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn class(status: u16, body: Value) -> (ErrorClass, String) {
        let error = refused("https://b", "creating the VM", status, body.to_string().as_bytes(), None);
        assert!(!error.reason.remedy.is_empty() && !error.reason.subject.is_empty(), "{error}");
        (error.class, error.reason.code.to_string())
    }

    fn problem(code: &str) -> Value {
        json!({ "code": code, "detail": "So it is.", "reasons": [{ "code": code, "subject": "s", "message": "m", "remedy": "r" }] })
    }

    fn field(code: &str) -> Value {
        json!({ "code": code, "errors": [{ "field": "spec.f", "code": code, "reason": "why", "remedy": "so" }] })
    }

    #[test]
    fn each_refusal_has_its_class_and_keeps_its_own_words() {
        for (status, body, wanted, code) in [
            (401, json!({}), ErrorClass::Auth, "token_refused"),
            (403, json!({}), ErrorClass::Auth, "not_allowed"),
            (404, json!({ "code": "not_found" }), ErrorClass::Missing, "not_found"),
            (409, problem("quota_exceeded"), ErrorClass::Capacity, "quota_exceeded"),
            (409, problem("deleting"), ErrorClass::Transient, "deleting"),
            (409, problem("protected"), ErrorClass::Conflict, "protected"),
            (409, field("name_taken"), ErrorClass::Conflict, "name_taken"),
            (412, field("generation_mismatch"), ErrorClass::Conflict, "generation_mismatch"),
            (422, problem("impossible"), ErrorClass::Capacity, "impossible"),
            (422, field("subnet_exhausted"), ErrorClass::Capacity, "subnet_exhausted"),
            (422, field("not_found"), ErrorClass::Missing, "not_found"),
            (422, field("image_not_ready"), ErrorClass::Missing, "image_not_ready"),
            (422, field("address_taken"), ErrorClass::Conflict, "address_taken"),
            (422, field("out_of_range"), ErrorClass::Permanent, "out_of_range"),
            (429, json!({}), ErrorClass::Transient, "refused"),
            (503, json!("gone"), ErrorClass::Transient, "refused"),
            (504, json!({}), ErrorClass::Timeout, "refused"),
        ] {
            assert_eq!(class(status, body.clone()), (wanted, code.to_owned()), "{status} {body}");
        }
        let body = problem("impossible").to_string();
        let kept = refused("https://b", "creating the VM", 422, body.as_bytes(), Some(7));
        assert_eq!((kept.reason.message.as_str(), kept.reason.remedy.as_str()), ("m", "r"));
        assert_eq!(kept.retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn an_image_that_is_named_and_missing_is_not_a_vm_that_is_gone() {
        let of = |status, body: Value| refused("https://b", "x", status, body.to_string().as_bytes(), None);
        assert!(is_missing(&of(404, json!({ "code": "not_found" }))));
        assert!(!is_missing(&of(422, field("not_found"))));
        assert!(!is_missing(&of(404, json!("a proxy's page"))));
    }
}
