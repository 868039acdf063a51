//! Request bodies: JSON of exactly one shape. Whatever is wrong is named by its field's path, with
//! the reason and the remedy; a field that the platform keeps is refused as such.

use crate::Error;
use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, header::CONTENT_TYPE},
};
use basalt_model::{FieldError, Validate};
use basalt_wire::rest::{Create, Update};
use serde::de::{DeserializeOwned, IgnoredAny};

/// Most bytes of a user's body.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Most bytes of an agent's report: the full facts of a host with a thousand VMs.
pub const MAX_REPORT_BYTES: usize = 16 * 1024 * 1024;

/// Fields that only the platform writes. A body that carries one of them was most likely copied
/// from a `GET`, and is refused with that explanation.
pub const SERVER_OWNED: [&str; 34] = [
    "id",
    "tenant_id",
    "project_id",
    "generation",
    "observed",
    "observed_generation",
    "created_at",
    "updated_at",
    "deletion_requested_at",
    "phase",
    "conditions",
    "placement",
    "incarnation",
    "vni",
    "addresses_used",
    "state",
    "facts",
    "seen_at",
    "claimed",
    "nics",
    "disks",
    "vm_id",
    "used",
    "grants",
    "expires_at",
    "revoked_at",
    "task",
    "origin",
    "endpoints",
    "attempted",
    "applied",
    "next_retry_at",
    "found",
    "status",
];

/// A body of JSON, read strictly, with the bytes it was read from (for idempotency).
pub struct Json<T> {
    /// The value.
    pub value: T,
    /// The bytes as they came.
    pub bytes: Bytes,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        let bytes = json_bytes(request, MAX_BODY_BYTES).await?;
        Ok(Self { value: parse(&bytes)?, bytes })
    }
}

/// The report of an agent: the same strictness, a larger limit.
pub struct LargeJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for LargeJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        Ok(Self(parse(&json_bytes(request, MAX_REPORT_BYTES).await?)?))
    }
}

/// Proof that a request came without a body, for verbs that take none.
pub struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        match read(request, MAX_BODY_BYTES).await?.trim_ascii() {
            b"" | b"{}" => Ok(Self),
            _ => Err(Error::Invalid(vec![FieldError::new(
                "body",
                "not_allowed",
                "this request takes no body",
                "send it without one",
            )])),
        }
    }
}

async fn json_bytes(request: Request, limit: usize) -> Result<Bytes, Error> {
    if !is_json(request.headers()) {
        return Err(Error::MediaType);
    }
    read(request, limit).await
}

async fn read(request: Request, limit: usize) -> Result<Bytes, Error> {
    axum::body::to_bytes(request.into_body(), limit).await.map_err(|e| {
        let too_large = std::error::Error::source(&e).is_some_and(|s| s.to_string().contains("length limit"));
        if too_large { Error::TooLarge { limit } } else { Error::Truncated }
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return false };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Reads a value; what is wrong becomes a [`FieldError`].
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // A list in the right order would pass for an object otherwise.
    if bytes.trim_ascii_start().first().is_some_and(|b| *b != b'{') {
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|e| Error::NotJson { reason: e.to_string() })?;
        return Err(Error::Invalid(vec![FieldError::new(
            "body",
            "wrong_type",
            "the body is no object",
            "send one JSON object",
        )]));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader);
    let value = read.map_err(|e| {
        let path = e.path().to_string();
        let inner = e.into_inner();
        if inner.is_syntax() || inner.is_eof() {
            return Error::NotJson { reason: inner.to_string() };
        }
        Error::Invalid(vec![explain(&path, &inner.to_string())])
    })?;
    reader.end().map_err(|e| Error::NotJson { reason: e.to_string() })?;
    Ok(value)
}

/// Turns serde's sentence about a path into field, reason and remedy.
pub fn explain(path: &str, message: &str) -> FieldError {
    // serde_json appends the position, which says nothing once the path is known.
    let message = message.rsplit_once(" at line ").map_or(message, |(m, _)| m);
    if let Some(field) = between(message, "unknown field `", "`") {
        return unknown(&inside(path, field), field, message);
    }
    if let Some(field) = between(message, "missing field `", "`") {
        let at = inside(path, field);
        return FieldError::new(
            at,
            "required",
            format!("{field} is required and missing"),
            format!("add {field}"),
        );
    }
    if let Some(field) = between(message, "duplicate field `", "`") {
        return FieldError::new(
            inside(path, field),
            "duplicate",
            format!("{field} stands twice"),
            "give it once",
        );
    }
    if let Some(variant) = between(message, "unknown variant `", "`") {
        let known = message.split_once(", expected ").map_or("", |(_, k)| k);
        return FieldError::new(
            path,
            "unknown_value",
            format!("`{variant}` is not known here"),
            format!("give {known}"),
        );
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|m| m.split_once(", expected "))
    {
        return wrong_type(path, found, expected);
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid value: ").and_then(|m| m.split_once(", expected "))
    {
        return wrong_type(path, found, expected);
    }
    let (reason, remedy) = message.split_once("; ").unwrap_or((message, "correct the value"));
    FieldError::new(at_root(path), "malformed", reason, remedy)
}

fn unknown(at: &str, field: &str, message: &str) -> FieldError {
    if SERVER_OWNED.contains(&field) {
        return FieldError::new(
            at,
            "server_owned",
            format!("{field} is kept by the platform and cannot be written"),
            format!("leave {field} out"),
        );
    }
    let known = message.split_once(", expected ").map_or("no field", |(_, k)| k);
    FieldError::new(
        at,
        "unknown_field",
        format!("{field} is no field of this body"),
        format!("remove it, or give {known}"),
    )
}

fn wrong_type(path: &str, found: &str, expected: &str) -> FieldError {
    let last = path.rsplit('.').next().unwrap_or(path);
    let unit = [
        ("_bytes", "bytes", "1073741824 for 1 GiB"),
        ("_seconds", "seconds", "60 for a minute"),
        ("_percent", "per cent", "100"),
    ]
    .into_iter()
    .find(|(suffix, ..)| last.ends_with(suffix));
    let remedy = match unit {
        Some((_, unit, example)) => {
            format!("give a whole number of {unit}, without quotes or unit: {example}")
        }
        None => format!("give {expected}"),
    };
    FieldError::new(at_root(path), "wrong_type", format!("{found} is not {expected}"), remedy)
}

/// Checks what the types of a creation cannot say; all errors at once.
pub fn check_create<S: Validate>(body: &Create<S>) -> Result<(), Error> {
    check(&[(&body.labels, "labels"), (&body.spec, "spec")])
}

/// Checks what the types of a change cannot say; all errors at once.
pub fn check_update<S: Validate>(body: &Update<S>) -> Result<(), Error> {
    match &body.labels {
        Some(labels) => check(&[(labels, "labels"), (&body.spec, "spec")]),
        None => check(&[(&body.spec, "spec")]),
    }
}

/// Checks values that stand at paths of the body.
pub fn check(values: &[(&dyn Validate, &str)]) -> Result<(), Error> {
    let mut errors = Vec::new();
    for (value, path) in values {
        value.validate(path, &mut errors);
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inner, _)| inner)
}

fn at_root(path: &str) -> &str {
    if path == "." { "body" } else { path }
}

/// The path of a field inside what `path` names, unless `path` names the field already.
fn inside(path: &str, field: &str) -> String {
    match path {
        "." | "" | "?" => field.into(),
        p if p == field || p.ends_with(&format!(".{field}")) => p.into(),
        p => format!("{p}.{field}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_model::vms::VmSpec;
    use basalt_wire::rest::Create;

    fn refused(json: &str) -> FieldError {
        match parse::<Create<VmSpec>>(json.as_bytes()) {
            Err(Error::Invalid(mut errors)) => errors.remove(0),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        }
    }

    #[test]
    fn every_refusal_names_the_path_the_reason_and_the_remedy() {
        let disks = r#""disks": [{"name": "root", "source": {"kind": "blank"}, "size_bytes": 1048576}]"#;
        let cases = [
            (
                format!(r#"{{"name": "a", "spec": {{"cpus": 1, "memory_bytes": "1GiB", {disks}}}}}"#),
                "spec.memory_bytes",
                "wrong_type",
            ),
            (
                format!(r#"{{"name": "a", "spec": {{"cpus": -1, "memory_bytes": 1, {disks}}}}}"#),
                "spec.cpus",
                "wrong_type",
            ),
            (
                format!(r#"{{"name": "a", "spec": {{"cpus": 1, "memory_mb": 1, {disks}}}}}"#),
                "spec.memory_mb",
                "unknown_field",
            ),
            (
                format!(r#"{{"name": "a", "id": "x", "spec": {{"cpus": 1, "memory_bytes": 1, {disks}}}}}"#),
                "id",
                "server_owned",
            ),
            (
                format!(
                    r#"{{"name": "a", "spec": {{"cpus": 1, "memory_bytes": 1, "generation": 4, {disks}}}}}"#
                ),
                "spec.generation",
                "server_owned",
            ),
            (
                format!(r#"{{"name": "A_b", "spec": {{"cpus": 1, "memory_bytes": 1, {disks}}}}}"#),
                "name",
                "malformed",
            ),
            (r#"{"name": "a", "spec": {"cpus": 1, "memory_bytes": 1}}"#.into(), "spec.disks", "required"),
            (
                r#"{"name": "a", "spec": {"cpus": 1, "memory_bytes": 1, "disks": [], "power": "on"}}"#.into(),
                "spec.power",
                "unknown_value",
            ),
            (r#"{"name": "a", "name": "b"}"#.into(), "name", "duplicate"),
            ("[]".into(), "body", "wrong_type"),
        ];
        for (json, field, code) in cases {
            let e = refused(&json);
            assert_eq!((e.field.as_str(), e.code.as_str()), (field, code), "{json}: {e:?}");
            assert!(!e.reason.is_empty() && !e.remedy.is_empty());
        }
    }

    #[test]
    fn a_wrong_unit_is_answered_with_the_right_one() {
        let e = refused(r#"{"name": "a", "spec": {"cpus": 1, "memory_bytes": 0.5, "disks": []}}"#);
        assert!(e.remedy.contains("whole number of bytes"), "{e:?}");
    }

    #[test]
    fn what_is_no_json_is_told_apart() {
        for text in ["", "{", "{]", "[1", "{} {}"] {
            let e = parse::<basalt_wire::rest::EmptySpec>(text.as_bytes());
            assert!(matches!(e, Err(Error::NotJson { .. })), "{text}");
        }
    }
}
