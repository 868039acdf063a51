//! What an engine's refusals mean: their class, and what would mend them.

use super::engine::Failure;
use crate::Error;
use basalt_model::{CapabilityReason, deployments::ErrorClass};

/// Longest piece of what an engine says that is passed on.
const MAX_EVIDENCE_CHARS: usize = 400;

pub(super) fn error(
    class: ErrorClass,
    code: &'static str,
    subject: impl Into<String>,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Error {
    Error::new(class, CapabilityReason::new(code, subject, message, remedy))
}

/// What the engine said, short enough to be read.
pub(super) fn with(mut error: Error, evidence: &str) -> Error {
    error.reason.evidence = evidence.trim().chars().take(MAX_EVIDENCE_CHARS).collect();
    error
}

/// A call that did not go, for what it was to do: `listing the containers`.
pub(super) fn failed(engine: &str, doing: &str, failure: &Failure) -> Error {
    let subject = format!("engine/{engine}");
    let made = match failure {
        Failure::Gone(e) if e.kind() == std::io::ErrorKind::PermissionDenied => error(
            ErrorClass::Auth,
            "engine_refuses",
            subject,
            format!("{doing}: the gateway may not open the engine's socket"),
            "let the gateway's user read and write it, for example through the socket's group",
        ),
        Failure::Gone(_) => error(
            ErrorClass::Transient,
            "engine_gone",
            subject,
            format!("{doing}: nothing answers at the engine's socket"),
            "start the engine (systemctl start podman.socket or docker), or correct `socket` in gateway.toml",
        ),
        Failure::Broken(_) => error(
            ErrorClass::Transient,
            "engine_broke_off",
            subject,
            format!("{doing}: the engine broke off"),
            "it is tried again; when it stays so, look at the engine's own log",
        ),
        Failure::Refused { status: 401 | 403, .. } => error(
            ErrorClass::Auth,
            "engine_refuses",
            subject,
            format!("{doing}: the engine does not allow it"),
            "let the gateway use the engine",
        ),
        Failure::Refused { message, .. } if has(message, &["no space left", "disk quota"]) => error(
            ErrorClass::Capacity,
            "no_space",
            subject,
            format!("{doing}: the engine's storage is full"),
            "remove what is not needed any more: podman system prune",
        ),
        Failure::Refused { status, message } if (400..500).contains(status) && !is_race(*status, message) => {
            error(
                ErrorClass::Permanent,
                "engine_refused",
                subject,
                format!("{doing}: the engine refused it"),
                "change what the engine names",
            )
        }
        Failure::Refused { .. } => error(
            ErrorClass::Transient,
            "engine_failed",
            subject,
            format!("{doing}: the engine failed"),
            "it is tried again; when it stays so, look at the engine's own log",
        ),
    };
    with(made, &failure.message())
}

/// Whether somebody else was changing the same thing at that moment, so that another look is worth it.
pub(super) fn is_race(status: u16, message: &str) -> bool {
    let words = [
        "no such container",
        "state improper",
        "being removed",
        "removal of container",
        "name is already in use",
    ];
    status == 404 || status == 409 || has(message, &words)
}

/// Whether a port could not be had.
pub(super) fn is_port_taken(message: &str) -> bool {
    has(message, &["address already in use", "port is already allocated", "ports are not available"])
}

/// Why an image could not be pulled.
pub(super) fn pull(image: &str, said: &str) -> Error {
    let subject = format!("image/{image}");
    let made = if has(
        said,
        &["unauthorized", "authentication required", "denied", "forbidden", "no basic auth"],
    ) {
        error(
            ErrorClass::Auth,
            "pull_denied",
            subject,
            "the registry does not let the engine read this image",
            "check its name; when the registry wants it, log the engine in (podman login) on the gateway's machine",
        )
    } else if has(said, &["toomanyrequests", "too many requests", "rate limit"]) {
        error(
            ErrorClass::Transient,
            "registry_slows_down",
            subject,
            "the registry has had enough requests for now",
            "it is tried again; log the engine in, or pull from a registry of your own",
        )
    } else if has(said, &["no space left", "disk quota"]) {
        error(
            ErrorClass::Capacity,
            "no_space",
            subject,
            "the engine's storage has no room for the image",
            "remove what is not needed any more: podman system prune",
        )
    } else if has(
        said,
        &["manifest unknown", "name unknown", "not found", "does not exist", "no such image", "404"],
    ) {
        error(
            ErrorClass::Missing,
            "image_missing",
            subject,
            "the registry has no such image",
            "correct the reference in the artifact's source, or push the image",
        )
    } else if has(said, &["no image found in manifest list", "no matching manifest", "invalid reference"]) {
        error(
            ErrorClass::Permanent,
            "image_unusable",
            subject,
            "the image is not one for this machine",
            "build it for this machine's architecture and push it again",
        )
    } else {
        error(
            ErrorClass::Transient,
            "pull_failed",
            subject,
            "the image could not be pulled",
            "it is tried again; look whether the gateway's machine reaches the registry",
        )
    };
    with(made, said)
}

fn has(text: &str, words: &[&str]) -> bool {
    let text = text.to_ascii_lowercase();
    words.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_say_is_classified() {
        for (said, class) in [
            ("reading manifest nope in 127.0.0.1:5000/x: manifest unknown", ErrorClass::Missing),
            (
                "reading manifest latest in 127.0.0.1:5000/x: name unknown: repository name not known",
                ErrorClass::Missing,
            ),
            (
                "pull access denied for x, repository does not exist or may require 'docker login'",
                ErrorClass::Auth,
            ),
            ("unauthorized: authentication required", ErrorClass::Auth),
            ("dial tcp 127.0.0.1:5000: connect: connection refused", ErrorClass::Transient),
            ("write /var/tmp/x: no space left on device", ErrorClass::Capacity),
            ("toomanyrequests: You have reached your pull rate limit", ErrorClass::Transient),
        ] {
            let error = pull("x", said);
            assert_eq!(error.class, class, "{said}");
            assert!(!error.reason.remedy.is_empty() && error.reason.evidence == said);
        }
    }

    #[test]
    fn what_an_engine_refuses_is_permanent_unless_somebody_else_was_changing_it() {
        let refused = |status, message: &str| Failure::Refused { status, message: message.into() };
        let class = |f: &Failure| failed("default", "x", f).class;
        assert_eq!(class(&refused(400, "invalid memory limit")), ErrorClass::Permanent);
        assert_eq!(class(&refused(409, "the name is in use")), ErrorClass::Transient);
        assert_eq!(class(&refused(500, "container state improper")), ErrorClass::Transient);
        assert_eq!(class(&Failure::Gone(std::io::ErrorKind::NotFound.into())), ErrorClass::Transient);
        assert_eq!(class(&Failure::Gone(std::io::ErrorKind::PermissionDenied.into())), ErrorClass::Auth);
    }
}
