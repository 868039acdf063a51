//! Query parameters: only those that a route knows, each with its type; and the headers that make
//! a write conditional or repeatable.

use crate::Error;
use axum::{
    extract::{FromRequestParts, Path},
    http::{HeaderMap, header::IF_MATCH, request::Parts},
};
use basalt_model::{FieldError, Generation, Selector, TaskId};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use utoipa::IntoParams;
use uuid::Uuid;

/// Objects on a page when nothing is said.
pub const DEFAULT_LIMIT: u32 = 100;
/// Most objects on a page.
pub const MAX_LIMIT: u32 = 500;

/// Query parameters, read strictly.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Reads a query string.
pub fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Error> {
    let reader = serde_urlencoded::Deserializer::new(form_pairs(query));
    serde_path_to_error::deserialize(reader).map_err(|e| {
        let path = e.path().to_string();
        let message = e.into_inner().to_string();
        let mut error = crate::body::explain(&path, &message);
        if error.code == "malformed" && error.remedy == "correct the value" {
            error.remedy = "see the parameter's description in /openapi.json".into();
        }
        Error::Query(error)
    })
}

/// A query string in two: the parameters that have these names, and the others.
pub fn split(query: &str, names: &[&str]) -> (String, String) {
    let (mut these, mut others) = (String::new(), String::new());
    for (name, value) in form_pairs(query) {
        let into = if names.contains(&&*name) { &mut these } else { &mut others };

        form_urlencoded::Serializer::for_suffix(into, 0).append_pair(&name, &value);
    }
    (these, others)
}

fn form_pairs(query: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.as_bytes())
}

/// What the last parameter of a path says: the object's name or id.
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Path(mut all) = Path::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Error::NoRoute)?;
        all.pop().map(|(_, value)| Self(value)).ok_or(Error::NoRoute)
    }
}

/// A route that takes no parameters.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NoParams {}

/// Parameters of every write that can be tried without effect.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WriteParams {
    /// With `true` everything is checked and answered, and nothing is changed.
    #[serde(default)]
    pub dry_run: bool,
    /// Ids of tasks joined by commas, at most 32: the change is made when all of them have completed, and fails with any
    /// that ends otherwise. For VMs and their verbs; other changes are done at once.
    #[serde(default)]
    pub depends_on: Option<String>,
}

impl WriteParams {
    /// Their names.
    pub const NAMES: &[&str] = &["dry_run", "depends_on"];

    /// The tasks that must complete first.
    pub fn dependencies(&self) -> Result<Vec<TaskId>, Error> {
        let texts = self.depends_on.iter().flat_map(|all| all.split(','));
        texts.map(|text| task_id(text.trim())).collect()
    }
}

/// Reads the id of a task that something is to wait for.
pub fn task_id(text: &str) -> Result<TaskId, Error> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        Error::Query(FieldError::new(
            "depends_on",
            "malformed",
            format!("{shown:?} is no id of a task"),
            "give ids as answers to changes name them, joined by commas",
        ))
    })
}

/// Parameters of every list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Objects on a page, 1 to 500; 100 when nothing is said.
    #[serde(default)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// `key=value,key!=value,key,!key`
    #[serde(default, deserialize_with = "selector")]
    #[param(value_type = Option<String>)]
    pub label_selector: Selector,
}

fn selector<'de, D: Deserializer<'de>>(d: D) -> Result<Selector, D::Error> {
    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
}

impl ListParams {
    /// Where the page begins and how long it is.
    pub fn range(&self) -> Result<(Option<Uuid>, u32), Error> {
        Ok((self.cursor.as_deref().map(read_cursor).transpose()?, limit(self.limit)?))
    }
}

/// Checks a page's length.
pub fn limit(limit: Option<u32>) -> Result<u32, Error> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        n if (1..=MAX_LIMIT).contains(&n) => Ok(n),
        n => Err(Error::Query(FieldError::new(
            "limit",
            "out_of_range",
            format!("{n} is outside 1 to {MAX_LIMIT}"),
            "give a limit between 1 and 500 and follow next_cursor",
        ))),
    }
}

/// Writes a cursor: the id of the last object on the page. It carries no permission: every page is
/// read anew with the caller's own scope, so a forged cursor shows nothing more.
pub fn cursor(last: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(last.as_bytes())
}

/// Reads [`cursor`].
pub fn read_cursor(text: &str) -> Result<Uuid, Error> {
    URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok()).ok_or_else(|| {
        Error::Query(FieldError::new(
            "cursor",
            "malformed",
            "this is no cursor of a list",
            "give next_cursor of the page before, or leave it out",
        ))
    })
}

/// The generation in `If-Match`; `None` without the header or for `*`.
pub struct IfMatch(pub Option<Generation>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let Some(text) = header(&parts.headers, &IF_MATCH)? else { return Ok(Self(None)) };
        if text == "*" {
            return Ok(Self(None));
        }
        let number = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).and_then(|t| t.parse().ok());
        match number {
            Some(n) => Ok(Self(Some(Generation(n)))),
            None => Err(Error::Header(FieldError::new(
                "If-Match",
                "malformed",
                format!("{text:?} is no generation in double quotes"),
                "send the ETag of the object, such as \"3\"",
            ))),
        }
    }
}

/// The key under which a write is carried out at most once.
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        const NAME: axum::http::HeaderName = axum::http::HeaderName::from_static("idempotency-key");
        match header(&parts.headers, &NAME)? {
            Some(key) if key.is_empty() || key.len() > 128 || !key.bytes().all(|b| b.is_ascii_graphic()) => {
                Err(Error::Header(FieldError::new(
                    "Idempotency-Key",
                    "malformed",
                    "a key is 1 to 128 visible ASCII characters",
                    "send a UUID",
                )))
            }
            key => Ok(Self(key.map(str::to_owned))),
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &axum::http::HeaderName) -> Result<Option<&'a str>, Error> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    match (first.map(|v| v.to_str()), second) {
        (None, _) => Ok(None),
        (Some(Ok(text)), None) => Ok(Some(text.trim())),
        _ => Err(Error::Header(FieldError::new(
            name.as_str(),
            "malformed",
            "the header stands twice or is no text",
            "send it once",
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> FieldError {
        match parse::<ListParams>(query) {
            Err(Error::Query(e)) => e,
            other => panic!("{query}: {:?}", other.err()),
        }
    }

    #[test]
    fn unknown_and_malformed_parameters_are_named() {
        assert_eq!(
            (refused("limt=3").field.as_str(), refused("limt=3").code.as_str()),
            ("limt", "unknown_field")
        );
        assert_eq!(refused("limit=x").field, "limit");
        assert_eq!(refused("label_selector=a+b%3Dc").field, "label_selector");
        assert_eq!(refused("limit=1&limit=2").code, "duplicate");
        assert!(
            parse::<ListParams>("limit=5&label_selector=a%3Db").is_ok_and(|p| p.label_selector.0.len() == 1)
        );
    }

    #[test]
    fn a_query_is_split_by_names_and_keeps_what_it_says() {
        let (these, others) = split("orphan=true&dry_run=1&x=a%26b&depends_on=c", WriteParams::NAMES);
        assert_eq!((these.as_str(), others.as_str()), ("dry_run=1&depends_on=c", "orphan=true&x=a%26b"));
        assert_eq!(split("", WriteParams::NAMES), (String::new(), String::new()));
    }

    #[test]
    fn a_cursor_is_read_back_and_rubbish_is_refused() {
        let id = Uuid::from_u128(77);
        assert_eq!(read_cursor(&cursor(id)).unwrap(), id);
        for bad in ["", "x", "'; drop table vms; --", "AAAA"] {
            assert!(read_cursor(bad).is_err(), "{bad}");
        }
    }
}
