//! Every "no" of the doors, as RFC 9457 problem details: the public sentence apart from the
//! internal context, which goes to the log with the request's id.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use basalt_model::{CapabilityReason, FieldError, Name, roles::Role};
use basalt_wire::rest::Problem;

/// Why a request was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] basalt_store::Error),
    /// No credential, or one that is not valid (any more).
    #[error("no valid credential")]
    Unauthenticated,
    /// User name and password do not fit, or the first-boot token is not valid.
    #[error("the login was refused")]
    LoginRefused,
    /// Too many logins failed for this user name, or from this address.
    #[error("too many logins failed")]
    LoginLimited {
        /// When it is worth trying again.
        retry_after_seconds: u64,
    },
    /// The caller may see it, and may not do this.
    #[error("the caller lacks the role {0:?}")]
    Forbidden(Role),
    /// Only an administrator of the whole system may ask for this.
    #[error("{field}: {why}")]
    NeedsSystemAdmin {
        /// Where it stands.
        field: &'static str,
        /// Why not everybody may.
        why: &'static str,
        /// What can be done instead.
        remedy: &'static str,
    },
    /// It does not exist, or the caller may not know that it does.
    #[error("{kind} {name:?} is not known")]
    NotFound {
        /// The noun.
        kind: &'static str,
        /// As the caller named it.
        name: String,
    },
    /// A name that stands for several objects.
    #[error("{kind} {name:?} is the name of several")]
    Ambiguous {
        /// The noun.
        kind: &'static str,
        /// As the caller named it.
        name: String,
    },
    /// Fields of the body are wrong.
    #[error("invalid body: {0:?}")]
    Invalid(Vec<FieldError>),
    /// A query parameter is wrong.
    #[error("invalid query: {0:?}")]
    Query(FieldError),
    /// A header is wrong.
    #[error("invalid header: {0:?}")]
    Header(FieldError),
    /// The body is no JSON.
    #[error("the body is no JSON: {reason}")]
    NotJson {
        /// What the parser said.
        reason: String,
    },
    /// The connection ended within the body.
    #[error("the body was cut off")]
    Truncated,
    /// The body is not declared as JSON.
    #[error("the body is not declared as application/json")]
    MediaType,
    /// The body is too long.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// Most bytes.
        limit: usize,
    },
    /// What is asked for can never be, as things stand.
    #[error("impossible: {detail}")]
    Impossible {
        /// One sentence.
        detail: String,
        /// All reasons.
        reasons: Vec<CapabilityReason>,
        /// The fields that ask for it.
        errors: Vec<FieldError>,
    },
    /// A pool that is named has no room now.
    #[error("no room: {detail}")]
    PoolFull {
        /// One sentence.
        detail: String,
        /// What is free where.
        reasons: Vec<CapabilityReason>,
        /// The fields that name the pool.
        errors: Vec<FieldError>,
    },
    /// What stands on the host cannot be taken over as it is.
    #[error("not adoptable: {detail}")]
    NotAdoptable {
        /// One sentence.
        detail: String,
        /// All reasons.
        reasons: Vec<CapabilityReason>,
        /// The fields that they are about.
        errors: Vec<FieldError>,
    },
    /// It cannot be now; another state would allow it.
    #[error("conflict {code}: {detail}")]
    Conflict {
        /// Stable word.
        code: &'static str,
        /// One sentence.
        detail: String,
        /// What would have to be otherwise.
        reasons: Vec<CapabilityReason>,
    },
    /// Not a refusal: this idempotency key was seen before, and here is its first answer.
    #[error("answered before")]
    Answered(Box<crate::intent::Answer>),
    /// No route has this path.
    #[error("no such route")]
    NoRoute,
    /// The route has no such method.
    #[error("no such method on this route")]
    Method,
    /// More is asked than is answered at once.
    #[error("too many {0} at once")]
    TooMany(&'static str),
    /// The gateway is stopping or not ready.
    #[error("not ready: {0}")]
    NotReady(String),
    /// A host's agent did not answer in time what it was asked.
    #[error("the agent of host {0} does not answer")]
    HostSilent(Name),
    /// Something that should not happen.
    #[error("{what}: {cause}")]
    Internal {
        /// What was being done.
        what: &'static str,
        /// What went wrong.
        cause: String,
    },
}

impl Error {
    /// A failure inside, with its cause for the log.
    pub fn internal(what: &'static str, cause: impl std::fmt::Display) -> Self {
        Self::Internal { what, cause: cause.to_string() }
    }

    /// An object that is not there, as the caller named it.
    pub fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound { kind, name: name.into() }
    }

    /// The answer for the caller.
    pub fn problem(&self) -> Problem {
        let simple = |status, code, title, detail: String| Problem::new(status, code, title, detail);
        match self {
            Self::Store(e) => crate::store_problem::problem(e),
            Self::Unauthenticated => simple(401, "unauthenticated", "Not signed in", "The request carries no valid token; sign in with POST /v1/login and send it as Authorization: Bearer.".into()),
            Self::LoginRefused => simple(401, "login_refused", "Login refused", "User name, password or first-boot token is not valid.".into()),
            Self::LoginLimited { retry_after_seconds } => simple(429, "login_limited", "Too many failed logins", format!("Too many logins failed for this user name, or from this address; try again in {retry_after_seconds} s.")),
            Self::Forbidden(role) => {
                let need = format!("{role:?}").to_lowercase();
                simple(403, "forbidden", "Not allowed", format!("This needs the role {need} here; an administrator can grant it with POST /v1/role-bindings."))
            }
            Self::NeedsSystemAdmin { field, why, remedy } => simple(403, "forbidden", "Not allowed", format!("{why}: {remedy}."))
                .with_errors(vec![FieldError::new(*field, "forbidden", *why, *remedy)]),
            Self::NotFound { kind, name } => simple(404, "not_found", "Not found", format!("There is no {kind} {name:?} here.")),
            Self::Ambiguous { kind, name } => simple(409, "ambiguous_name", "Ambiguous name", format!("Several {kind}s are named {name:?}; give the id.")),
            Self::Invalid(errors) => simple(422, "invalid_body", "Invalid body", sentence(errors)).with_errors(errors.clone()),
            Self::Query(e) => simple(400, "invalid_query", "Invalid query parameter", sentence(std::slice::from_ref(e))).with_errors(vec![e.clone()]),
            Self::Header(e) => simple(400, "invalid_header", "Invalid header", sentence(std::slice::from_ref(e))).with_errors(vec![e.clone()]),
            Self::NotJson { reason } => simple(400, "not_json", "Not JSON", format!("The body cannot be read as JSON: {reason}."))
                .with_errors(vec![FieldError::new("body", "not_json", reason, "send one JSON object")]),
            Self::Truncated => simple(400, "truncated", "Truncated body", "The body ended too early; send the request again.".into()),
            Self::MediaType => simple(415, "unsupported_media_type", "Unsupported media type", "Send JSON with Content-Type: application/json.".into()),
            Self::TooLarge { limit } => simple(413, "too_large", "Body too large", format!("The body is longer than {limit} bytes; send less.")),
            Self::Impossible { detail, reasons, errors } => simple(422, "impossible", "No host can take this", detail.clone())
                .with_reasons(reasons.clone())
                .with_errors(errors.clone()),
            Self::PoolFull { detail, reasons, errors } => simple(422, "pool_full", "No room in the pool", format!("{detail}."))
                .with_reasons(reasons.clone())
                .with_errors(errors.clone()),
            Self::NotAdoptable { detail, reasons, errors } => simple(422, "not_adoptable", "It cannot be adopted", detail.clone())
                .with_reasons(reasons.clone())
                .with_errors(errors.clone()),
            Self::Conflict { code, detail, reasons } => simple(409, code, "Conflict", detail.clone()).with_reasons(reasons.clone()),
            Self::Answered(_) => simple(200, "answered", "Answered before", String::new()),
            Self::NoRoute => simple(404, "no_route", "No such route", "The routes stand in /openapi.json.".into()),
            Self::Method => simple(405, "method_not_allowed", "Method not allowed", "The methods of this route stand in /openapi.json.".into()),
            Self::TooMany(what) => simple(429, "too_many", "Too many requests", format!("Too many {what} at once; try again after a moment.")),
            Self::NotReady(why) => simple(503, "not_ready", "Not ready", format!("{why}; try again after a moment.")),
            Self::HostSilent(host) => host_silent(host),
            Self::Internal { .. } => simple(500, "internal", "Internal error", "Something went wrong inside; the request id names it in the gateway's log.".into()),
        }
    }
}

fn host_silent(host: &Name) -> Problem {
    let reason = CapabilityReason::new(
        "host_silent",
        format!("host/{host}"),
        "its agent did not answer this gateway in time; its guests run on",
        "look at the host's state and conditions with GET /v1/hosts/{host}, and try again",
    );
    Problem::new(503, "host_silent", "The host does not answer", format!("{reason}."))
        .with_reasons(vec![reason])
}

fn sentence(errors: &[FieldError]) -> String {
    match errors {
        [one] => format!("{}: {}; {}.", one.field, one.reason, one.remedy),
        many => format!("{} fields are wrong.", many.len()),
    }
}

/// What the outermost layer finishes: it adds the request's id, and logs the cause of a failure.
#[derive(Clone)]
pub struct Refusal {
    /// The answer.
    pub problem: Problem,
    /// The whole chain, for the log.
    pub cause: String,
    /// When it is worth trying again, where that is known.
    pub retry_after_seconds: u64,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if let Self::Answered(answer) = self {
            return answer.into_response();
        }
        let problem = self.problem();
        let retry_after_seconds = match self {
            Self::LoginLimited { retry_after_seconds } => retry_after_seconds,
            _ => 1,
        };
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let cause = chain(&self);
        let mut response = status.into_response();
        response.extensions_mut().insert(Refusal { problem, cause, retry_after_seconds });
        response
    }
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Writes a refusal as `application/problem+json`, with the request's id.
pub fn finish(refusal: Refusal, mut response: Response, request_id: &str) -> Response {
    let mut problem = refusal.problem;
    problem.request_id = Some(request_id.into());
    log(&problem, &refusal.cause, request_id);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    match problem.status {
        401 => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        429 | 503 => drop(headers.insert(header::RETRY_AFTER, refusal.retry_after_seconds.into())),
        _ => {}
    }
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    *response.body_mut() = body.into();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response
}

/// Tells the log what an operator should know of it. Only what went wrong inside is an error of this program: who asks
/// before it has read the truth is asked to come again, and a database that is away is the database's failure.
fn log(problem: &Problem, cause: &str, request_id: &str) {
    let code = problem.code.as_str();
    match (problem.status, code) {
        (503, "not_ready") => {
            tracing::debug!(request_id, code, cause, "not ready yet; the caller is asked to try again")
        }
        (503, _) => tracing::warn!(
            request_id,
            code,
            cause,
            "request not carried out; the caller is asked to try again"
        ),
        (500.., _) => tracing::error!(request_id, code, cause, "request failed"),
        _ => tracing::debug!(request_id, code, cause, "request refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing::{Event, Level, Metadata, Subscriber, span};

    /// Remembers how loud the log was.
    #[derive(Clone, Default)]
    struct Loudness(Arc<Mutex<Vec<Level>>>);

    impl Subscriber for Loudness {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn only_what_went_wrong_inside_is_logged_as_an_error() {
        let away = Problem::new(503, "unavailable", "Not available", "The database does not answer.");
        for (problem, level) in [
            (Error::NotReady("the truth is being read".into()).problem(), Level::DEBUG),
            (Error::NoRoute.problem(), Level::DEBUG),
            (Error::not_found("vm", "web").problem(), Level::DEBUG),
            (away, Level::WARN),
            (Error::internal("reading", "a row that nobody wrote").problem(), Level::ERROR),
        ] {
            let (heard, said) = (Loudness::default(), problem.code.clone());
            let refusal = Refusal { problem, cause: String::new(), retry_after_seconds: 1 };
            let answer = StatusCode::OK.into_response();
            tracing::subscriber::with_default(heard.clone(), || drop(finish(refusal, answer, "id")));
            assert_eq!(*heard.0.lock().unwrap(), [level], "{said}");
        }
    }

    #[test]
    fn a_failure_inside_tells_nothing_outside() {
        let p = Error::internal("reading", "password of postgres is hunter2").problem();
        assert_eq!(p.status, 500);
        assert!(!serde_json::to_string(&p).unwrap().contains("hunter2"));
    }
}
