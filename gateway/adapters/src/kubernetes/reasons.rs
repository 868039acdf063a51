//! Why the cluster did not do it: what its answers say about another attempt, in a sentence with a remedy.

use super::calls::Call;
use crate::Error;
use basalt_model::{
    CapabilityReason, Code,
    deployments::{ErrorClass, Workload},
};
use serde_json::Value;
use std::time::Duration;

/// An error from its parts.
pub(super) fn error(
    class: ErrorClass,
    code: impl Into<Code>,
    subject: impl Into<String>,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Error {
    Error::new(class, CapabilityReason::new(code, subject, message, remedy))
}

/// Whether it is this one.
pub(super) fn is(error: &Error, code: &str) -> bool {
    error.reason.code == code
}

fn with(mut error: Error, evidence: &str) -> Error {
    // A sentence of a webhook has no bound of its own.
    error.reason.evidence = evidence.chars().take(1000).collect();
    error
}

/// What the server's `Status` says.
pub(super) fn refused(call: &Call<'_>, code: u16, status: &Value, retry_after: Option<u64>) -> Error {
    let said = status["message"].as_str().unwrap_or_default();
    // What is said about a Secret may quote its content.
    let shown = if call.kind.plural == "secrets" && matches!(code, 400 | 422) { "" } else { said };
    let subject = call.subject();
    let mut error = match code {
        401 => error(
            ErrorClass::Auth,
            "unauthenticated",
            "kubeconfig",
            "the cluster does not know us: it refuses the kubeconfig's credentials",
            "renew the token or the certificate in the kubeconfig and store it as the provider's secret",
        ),
        403 => forbidden(call, said),
        404 => missing(call, status, said),
        409 => conflict(call, status, said),
        410 => error(
            ErrorClass::Transient,
            "expired",
            subject,
            "the list changed while it was read",
            "nothing: it is read again",
        ),
        400 if call.part == "log" => with(
            error(
                ErrorClass::Transient,
                "no_log_yet",
                subject,
                "its container has not begun, so it has no log yet",
                "nothing, if it begins; else look at why it is not ready",
            ),
            shown,
        ),
        400 | 413 | 422 => with(invalid(call, status, said), shown),
        500 if said.contains("failed to create typed patch object") => {
            with(invalid(call, status, said), shown)
        }
        405 | 406 | 415 => with(
            error(
                ErrorClass::Permanent,
                "not_supported",
                subject,
                format!("the API server does not know how to {} this", call.verb),
                "use a Kubernetes of 1.20 or later",
            ),
            shown,
        ),
        _ => unwell(call, code, shown),
    };
    let named = status["details"]["retryAfterSeconds"].as_u64();
    error.retry_after = retry_after.or(named).filter(|s| *s > 0).map(|s| Duration::from_secs(s.min(3600)));
    error
}

/// The server is not well, or busy: time alone may mend it.
fn unwell(call: &Call<'_>, code: u16, shown: &str) -> Error {
    let (class, word, message, remedy) = match code {
        504 => (
            ErrorClass::Timeout,
            "server_timeout",
            "the API server did not finish in time; it may have happened".to_owned(),
            "nothing: it is tried again; look at the API server if it stays so",
        ),
        429 => (
            ErrorClass::Transient,
            "throttled",
            "the API server asks for fewer requests".to_owned(),
            "nothing: it is tried again later",
        ),
        _ => (
            ErrorClass::Transient,
            "server_error",
            format!("the API server answered {code}"),
            "nothing: it is tried again; look at the API server if it stays so",
        ),
    };
    with(error(class, word, call.subject(), message, remedy), shown)
}

fn forbidden(call: &Call<'_>, said: &str) -> Error {
    let subject = call.subject();
    if said.contains("exceeded quota") {
        let remedy =
            format!("raise the ResourceQuota of the namespace {}, or make room in it", call.namespace);
        return with(
            error(
                ErrorClass::Capacity,
                "quota_exceeded",
                subject,
                "the namespace's quota has no room for it",
                remedy,
            ),
            said,
        );
    }
    if said.contains("because it is being terminated") {
        let message = format!("the namespace {} is being deleted", call.namespace);
        return with(
            error(
                ErrorClass::Missing,
                "namespace_terminating",
                subject,
                message,
                "make the namespace again, or name another one in the provider",
            ),
            said,
        );
    }
    if !said.is_empty() && !said.contains(" cannot ") {
        return with(
            error(
                ErrorClass::Permanent,
                "admission_refused",
                subject,
                "the cluster's own rules refuse it",
                "change the deployment as the cluster asks, or its rules (Pod Security, admission webhooks)",
            ),
            said,
        );
    }
    // An apply that makes something needs `create` too, and then that is the verb that is named.
    let verb = said.split(" cannot ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or(call.verb);
    let group = if call.kind.group.is_empty() { "\"\"".to_owned() } else { call.kind.group.to_owned() };
    let resource = call.resource();
    let place = if call.namespace.is_empty() {
        "in the whole cluster".to_owned()
    } else {
        format!("in the namespace {}", call.namespace)
    };
    with(
        error(
            ErrorClass::Auth,
            "forbidden",
            subject,
            format!("the kubeconfig's user may not {verb} {resource} {place}"),
            format!(
                "give it a Role there with apiGroups [{group}], resources [{resource}], verbs [{verb}]; \
                 deploy/kubernetes/role.yaml is the whole of it"
            ),
        ),
        said,
    )
}

fn missing(call: &Call<'_>, status: &Value, said: &str) -> Error {
    if said.starts_with("namespaces \"") || status["details"]["kind"] == "namespaces" {
        return error(
            ErrorClass::Missing,
            "namespace_missing",
            format!("namespace/{}", call.namespace),
            "there is no such namespace in the cluster",
            format!("`kubectl create namespace {}`, or name another one in the provider", call.namespace),
        );
    }
    let known = status["kind"] == "Status" && !said.contains("could not find the requested resource");
    if known && !call.name.is_empty() {
        return error(ErrorClass::Missing, "not_found", call.subject(), "it is not there", "deploy it again");
    }
    api_missing(call.kind.group, call.kind.version, call.kind.plural)
}

/// A kind that the cluster does not serve.
pub(super) fn api_missing(group: &str, version: &str, plural: &str) -> Error {
    let api = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    error(
        ErrorClass::Missing,
        "api_missing",
        format!("{plural}.{api}"),
        format!("the cluster does not serve {plural} of {api}"),
        if group == "apps" || group.is_empty() {
            "use a Kubernetes of 1.20 or later whose address is that of the API server itself".to_owned()
        } else {
            format!("install what brings {api} into the cluster (its CustomResourceDefinition)")
        },
    )
}

fn conflict(call: &Call<'_>, status: &Value, said: &str) -> Error {
    let subject = call.subject();
    let held = held_fields(status);
    if held.is_empty() {
        let (code, message) = if status["reason"] == "AlreadyExists" {
            ("already_exists", "something of this name is there already")
        } else {
            ("object_modified", "it was changed by somebody else at the same time")
        };
        let it =
            error(ErrorClass::Conflict, code, subject, message, "nothing: it is looked at and tried again");
        return with(it, if call.kind.plural == "secrets" { "" } else { said });
    }
    let fields: Vec<String> = held.iter().map(|h| format!("{} ({})", h.field, h.manager)).collect();
    let who: std::collections::BTreeSet<&str> = held.iter().map(|h| h.manager.as_str()).collect();
    let who: Vec<&str> = who.into_iter().collect();
    let code = if held.iter().any(|h| h.on_purpose) { "field_conflict" } else { "changed_by_hand" };
    let it = error(
        ErrorClass::Conflict,
        code,
        subject,
        format!("{} holds fields that are to be written", who.join(", ")),
        "let it leave these fields alone (take them out of what it applies), or set the deployment as it wants it",
    );
    with(it, &fields.join(", "))
}

/// A field that another manager holds.
pub(super) struct Held {
    pub field: String,
    pub manager: String,
    /// Whether it is held on purpose: applied, or written by a controller such as an autoscaler; what people edited by
    /// hand is a difference that nobody asked for.
    pub on_purpose: bool,
}

/// The fields that a refused apply names.
pub(super) fn held_fields(status: &Value) -> Vec<Held> {
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    causes
        .filter(|cause| cause["reason"] == "FieldManagerConflict")
        .map(|cause| {
            let message = cause["message"].as_str().unwrap_or_default();
            // conflict with "kubectl" with subresource "scale" using apps/v1 at 2026-01-01T00:00:00Z
            let manager = message.split('"').nth(1).unwrap_or("another manager").to_owned();
            let applied = !message.contains(" using ");
            let controller = message.contains(" with subresource ") && !manager.starts_with("kubectl");
            Held {
                field: cause["field"].as_str().unwrap_or_default().to_owned(),
                manager,
                on_purpose: applied || controller,
            }
        })
        .collect()
}

fn invalid(call: &Call<'_>, status: &Value, said: &str) -> Error {
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let quiet = call.kind.plural == "secrets";
    let fields: Vec<String> = causes
        .filter_map(|cause| {
            let field = cause["field"].as_str()?;
            let message = cause["message"].as_str().unwrap_or_default();
            Some(if quiet { field.to_owned() } else { format!("{field}: {message}") })
        })
        .collect();
    let what = if fields.is_empty() { String::new() } else { format!(": {}", fields.join("; ")) };
    let message = format!("the cluster refuses it as invalid{what}");
    let message: String = message.chars().take(1000).collect();
    let remedy = if said.contains("immutable") {
        "undeploy it and deploy it again, since this cannot be changed in place"
    } else {
        "change these fields of the deployment or its artifact"
    };
    error(ErrorClass::Permanent, "invalid", call.subject(), message, remedy)
}

/// What happened on the way there or back.
pub(super) fn transport(call: &Call<'_>, server: &str, problem: &kube::Error) -> Error {
    let mut chain: Vec<String> = Vec::new();
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(problem);
    let (mut tls, mut kind) = (None, None);
    while let Some(cause) = at {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            kind = Some(io.kind());
            if let Some(inner) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                tls = Some(inner.to_string());
            }
        }
        tls = tls.or_else(|| cause.downcast_ref::<rustls::Error>().map(ToString::to_string));
        chain.push(cause.to_string());
        at = cause.source();
    }
    let last = chain.last().cloned().unwrap_or_default();
    // Wrapped twice it is known by its sentence only.
    let sentence = chain.iter().find(|c| c.contains("invalid peer certificate") || c.contains("fatal alert"));
    let tls = tls.or_else(|| sentence.cloned());
    if let Some(tls) = tls {
        return with(
            error(
                ErrorClass::Auth,
                "tls_refused",
                format!("cluster/{server}"),
                "there is no trust between the gateway and the cluster: TLS fails",
                "put the cluster's present CA into `certificate-authority-data` and a valid client certificate into the \
                 kubeconfig; the address must be one that the server's certificate names",
            ),
            &tls,
        );
    }
    if matches!(problem, kube::Error::Auth(_)) {
        return error(
            ErrorClass::Permanent,
            "credentials_unusable",
            "kubeconfig",
            "the kubeconfig's credentials cannot be used",
            "give its user a `token`, or `client-certificate-data` with `client-key-data`",
        );
    }
    if kind == Some(std::io::ErrorKind::TimedOut) {
        return timeout(call, server);
    }
    with(
        error(
            ErrorClass::Transient,
            "unreachable",
            format!("cluster/{server}"),
            format!(
                "the cluster was not reached, or its answer was lost ({} {})",
                call.verb,
                call.resource()
            ),
            "nothing, if it comes back; else look whether the API server runs and the gateway's machine reaches it",
        ),
        &last,
    )
}

/// A request that was not answered in time.
pub(super) fn timeout(call: &Call<'_>, server: &str) -> Error {
    error(
        ErrorClass::Timeout,
        "no_answer",
        format!("cluster/{server}"),
        format!("no answer in time to {} {}; it may have happened", call.verb, call.resource()),
        "nothing, if it comes back; else look whether the API server is well",
    )
}

/// A call whose requests together took too long.
pub(super) fn call_timeout(server: &str, time: Duration) -> Error {
    error(
        ErrorClass::Timeout,
        "call_timeout",
        format!("cluster/{server}"),
        format!("not done after {} s; it is gone on with at the next attempt", time.as_secs()),
        "nothing, if the cluster gets faster; else name fewer namespaces in the provider",
    )
}

/// An answer that is none.
pub(super) fn garbage(call: &Call<'_>, server: &str) -> Error {
    error(
        ErrorClass::Transient,
        "bad_answer",
        format!("cluster/{server}"),
        format!("the answer to {} {} is not what an API server says", call.verb, call.resource()),
        "look whether the kubeconfig's address is that of the API server itself",
    )
}

/// The same without any of the workload's secrets, wherever somebody else may have quoted them.
pub(super) fn without_secrets(mut error: Error, workload: &Workload) -> Error {
    use base64::Engine as _;
    for value in workload.secret_env.values().map(|v| v.expose()).filter(|v| v.len() > 3) {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value);
        for text in error.reason.texts_mut() {
            if text.contains(value) || text.contains(&encoded) {
                *text = text.replace(value, "[secret]").replace(&encoded, "[secret]");
            }
        }
    }
    error
}
