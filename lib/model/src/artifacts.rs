//! Artifacts: what deployments run. Agents and MCP servers, each known by kind, name and tag.
//!
//! A tag is moved by registering it again: the same content under the same tag is no change at all, other content is
//! the next generation of the same object, and what runs it converges.

use crate::{
    Name,
    agents::AgentSpec,
    servers::ServerSpec,
    validate::{FieldError, Validate},
};
use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, collections::BTreeMap, fmt, str::FromStr};
use utoipa::ToSchema;

/// Most variables of one environment.
pub const MAX_ENV: usize = 256;
/// Longest value of a variable, in bytes.
pub const MAX_ENV_VALUE_BYTES: usize = 32 * 1024;
/// Most words of a command or its arguments.
pub const MAX_ARGS: usize = 256;
/// Most other artifacts that one refers to.
pub const MAX_REFERENCES: usize = 64;

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// A program that acts for somebody; it may use servers and other agents.
    Agent,
    /// A server of the Model Context Protocol.
    Server,
}

impl ArtifactKind {
    /// The word used in HTTP, in the database and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Server => "server",
        }
    }
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, not beginning with `.` or `-` (the rule of OCI).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", examples("1.4.0"))]
#[cfg_attr(feature = "sql", derive(sqlx::Type), sqlx(transparent))]
pub struct Tag(String);

/// Why a text is no tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no tag; use 1 to 128 of A-Z a-z 0-9 _ . - and begin with a letter, a digit or '_'")]
pub struct TagError {
    /// What was given, cut to 80 characters.
    pub text: String,
}

impl Tag {
    /// Parses a tag.
    pub fn new(text: impl Into<String>) -> Result<Self, TagError> {
        let text = text.into();
        let bytes = text.as_bytes();
        let allowed = |c: &u8| c.is_ascii_alphanumeric() || b"_.-".contains(c);
        let ok = matches!(bytes, [first, ..] if !b".-".contains(first))
            && bytes.len() <= 128
            && bytes.iter().all(allowed);
        if ok { Ok(Self(text)) } else { Err(TagError { text: text.chars().take(80).collect() }) }
    }

    /// The text of the tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tag {
    fn default() -> Self {
        Self("latest".to_owned())
    }
}
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for Tag {
    type Err = TagError;
    fn from_str(s: &str) -> Result<Self, TagError> {
        Self::new(s)
    }
}
impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Which artifact is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRef {
    /// What it is.
    pub kind: ArtifactKind,
    /// Its name in the project.
    pub name: Name,
    /// Its tag; default `latest`.
    #[serde(default)]
    pub tag: Tag,
}

impl fmt::Display for ArtifactRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.kind, self.name, self.tag)
    }
}

/// An artifact of a kind that is known from where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaggedName {
    /// Its name in the project.
    pub name: Name,
    /// Its tag; default `latest`.
    #[serde(default)]
    pub tag: Tag,
}

impl TaggedName {
    /// The same with its kind.
    pub fn of(&self, kind: ArtifactKind) -> ArtifactRef {
        ArtifactRef { kind, name: self.name.clone(), tag: self.tag.clone() }
    }
}

/// What an artifact is, of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactSpec {
    /// An agent.
    Agent(AgentSpec),
    /// An MCP server.
    Server(ServerSpec),
}

impl ArtifactSpec {
    /// Its kind.
    pub fn kind(&self) -> ArtifactKind {
        match self {
            Self::Agent(_) => ArtifactKind::Agent,
            Self::Server(_) => ArtifactKind::Server,
        }
    }

    /// The same without what is for people only. What this comes to is what runs.
    pub fn content(&self) -> Self {
        let mut content = self.clone();
        match &mut content {
            Self::Agent(spec) => spec.description.clear(),
            Self::Server(spec) => spec.description.clear(),
        }
        content
    }

    /// Variables that it gives.
    pub fn env(&self) -> &Env {
        match self {
            Self::Agent(spec) => &spec.env,
            Self::Server(spec) => &spec.env,
        }
    }

    /// The artifacts that it refers to.
    pub fn references(&self) -> Vec<ArtifactRef> {
        match self {
            Self::Agent(spec) => spec.references().collect(),
            Self::Server(_) => Vec::new(),
        }
    }
}

/// Where the program comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// An OCI image: `registry.example/team/agent:1.4.0` or `…@sha256:…`.
    Image {
        /// The reference, as an engine pulls it.
        image: String,
    },
    /// A package of the npm registry; runs in the platform's runner image.
    Npm {
        /// `name` or `@scope/name`.
        package: String,
        /// One version; ranges are refused, for what runs must not change by itself.
        version: String,
    },
    /// A package of the Python Package Index; runs in the platform's runner image.
    Pypi {
        /// Its name.
        package: String,
        /// One version; ranges are refused, for what runs must not change by itself.
        version: String,
    },
    /// Something that runs elsewhere already: nothing is started, only watched.
    Remote {
        /// `https://…`, or `http://…` inside a network of one's own.
        url: String,
    },
}

/// How an MCP server is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Transport {
    /// Streamable HTTP.
    StreamableHttp {
        /// The port it listens on, 1 to 65535; it is told in `PORT` as well.
        #[serde(default = "default_port")]
        port: u16,
        /// The path of its endpoint.
        #[serde(default = "default_mcp_path")]
        path: String,
    },
    /// Standard input and output; a bridge beside it speaks streamable HTTP at `/mcp`.
    Stdio {},
}

impl Default for Transport {
    fn default() -> Self {
        Self::StreamableHttp { port: default_port(), path: default_mcp_path() }
    }
}

/// How one sees over HTTP that it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Path that answers 200 to 399 when it is well: `/healthz`.
    pub path: String,
    /// Seconds it may take to begin, 1 to 3600; default 60.
    #[serde(default = "default_start_seconds")]
    pub start_seconds: u32,
}

fn default_port() -> u16 {
    8080
}
fn default_mcp_path() -> String {
    "/mcp".to_owned()
}
fn default_start_seconds() -> u32 {
    60
}

/// The value of a variable: a text, or the name of a secret of the project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EnvValue {
    /// The text itself. It is shown to everybody who may read the object.
    Text(String),
    /// The secret's value, put in only where the program is started.
    Secret(SecretRef),
}

/// A secret of the project, by name; never its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Its name.
    pub secret: Name,
}

/// Variables by name.
pub type Env = BTreeMap<String, EnvValue>;

pub(crate) fn validate_env(env: &Env, path: &str, errors: &mut Vec<FieldError>) {
    if env.len() > MAX_ENV {
        let reason = format!("{} variables; at most {MAX_ENV} are kept", env.len());
        errors.push(FieldError::new(path, "too_many", reason, "remove some, or hand over a file"));
    }
    for (name, value) in env {
        let first = name.bytes().next().unwrap_or(b'0');
        let word = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') && !first.is_ascii_digit();
        if !word || name.len() > 255 {
            errors.push(FieldError::new(
                format!("{path}.{name}"),
                "malformed",
                "the name of a variable is 1 to 255 of A-Z a-z 0-9 _ and does not begin with a digit",
                "rename it",
            ));
        }
        if let EnvValue::Text(text) = value
            && (text.len() > MAX_ENV_VALUE_BYTES || text.contains('\0'))
        {
            errors.push(FieldError::new(
                format!("{path}.{name}"),
                "malformed",
                format!("{} bytes; a value has at most {MAX_ENV_VALUE_BYTES} and no NUL", text.len()),
                "shorten it",
            ));
        }
    }
}

pub(crate) fn validate_args(args: &[String], path: &str, errors: &mut Vec<FieldError>) {
    if args.len() > MAX_ARGS {
        let reason = format!("{} words; at most {MAX_ARGS} are kept", args.len());
        errors.push(FieldError::new(path, "too_many", reason, "hand them over in a file or a variable"));
    }
    for (i, _) in args.iter().enumerate().filter(|(_, a)| a.contains('\0') || a.len() > MAX_ENV_VALUE_BYTES) {
        let reason = format!("a word has at most {MAX_ENV_VALUE_BYTES} bytes and no NUL");
        errors.push(FieldError::new(format!("{path}[{i}]"), "malformed", reason, "shorten it"));
    }
}

pub(crate) fn validate_path(text: &str, path: String, errors: &mut Vec<FieldError>) {
    let plain = text.bytes().all(|c| (0x21..0x7f).contains(&c));
    if !text.starts_with('/') || !plain || text.len() > 1024 {
        errors.push(FieldError::new(
            path,
            "malformed",
            "the path of a URL begins with '/' and has at most 1024 printable characters",
            "write it like /healthz",
        ));
    }
}

pub(crate) fn validate_port(port: u16, path: String, errors: &mut Vec<FieldError>) {
    if port == 0 {
        errors.push(FieldError::new(
            path,
            "out_of_range",
            "0 is no port",
            "give the port that the program listens on, 1 to 65535",
        ));
    }
}

impl Validate for HealthCheck {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        validate_path(&self.path, format!("{path}.path"), errors);
        let start = u64::from(self.start_seconds);
        crate::validate::within(errors, format!("{path}.start_seconds"), start, (1, 3600), "seconds");
    }
}

impl Validate for Transport {
    fn validate(&self, at: &str, errors: &mut Vec<FieldError>) {
        if let Self::StreamableHttp { port, path } = self {
            validate_port(*port, format!("{at}.port"), errors);
            validate_path(path, format!("{at}.path"), errors);
        }
    }
}

impl Validate for Source {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let mut refuse = |field: &str, reason: Cow<'static, str>, remedy: &str| {
            errors.push(FieldError::new(format!("{path}.{field}"), "malformed", reason, remedy));
        };
        match self {
            Self::Image { image } if !is_image_reference(image) => refuse(
                "image",
                "it is no reference of an OCI image".into(),
                "write [registry/]repository[:tag][@sha256:digest], in lower case but for the tag",
            ),
            Self::Npm { package, version } => {
                let bare = package.strip_prefix('@').map_or(Some(package.as_str()), |scoped| {
                    scoped.split_once('/').filter(|(scope, _)| is_package(scope)).map(|(_, name)| name)
                });
                if !bare.is_some_and(is_package) {
                    refuse("package", "it is no name of an npm package".into(), "write name or @scope/name");
                }
                if !is_version(version) {
                    refuse("version", "it is not one version".into(), "write it like 1.4.0, without a range");
                }
            }
            Self::Pypi { package, version } => {
                if !is_package(package) {
                    refuse(
                        "package",
                        "it is no name of a Python package".into(),
                        "write it as pip installs it",
                    );
                }
                if !is_version(version) {
                    refuse("version", "it is not one version".into(), "write it like 1.4.0, without a range");
                }
            }
            Self::Remote { url } if !is_http_url(url) => refuse(
                "url",
                "it is no address of a web server".into(),
                "write it like https://mcp.example/mcp, without user name or password",
            ),
            Self::Image { .. } | Self::Remote { .. } => {}
        }
    }
}

fn is_package(text: &str) -> bool {
    let first = text.bytes().next().unwrap_or(b'-');
    text.len() <= 214
        && first.is_ascii_alphanumeric()
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
}

fn is_version(text: &str) -> bool {
    let first = text.bytes().next().unwrap_or(b'x');
    text.len() <= 128
        && first.is_ascii_digit()
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b".+-_!".contains(&c))
        && !text.split('.').any(|part| part == "x" || part == "X")
}

fn is_image_reference(text: &str) -> bool {
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    if !digest.is_none_or(|d| d.strip_prefix("sha256:").is_some_and(crate::images::is_sha256)) {
        return false;
    }
    let slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (repository, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    let (registry, path) = match repository.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
        _ => (None, repository),
    };
    let part = |p: &str| {
        let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(p.bytes().next())
            && edge(p.bytes().last())
            && p.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c))
    };
    text.len() <= 512
        && tag.is_none_or(|t| Tag::new(t).is_ok())
        && registry.is_none_or(|r| r.bytes().all(|c| c.is_ascii_alphanumeric() || b".-:[]".contains(&c)))
        && path.split('/').all(part)
}

pub(crate) fn is_http_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    text.len() <= 2048
        && text.bytes().all(|c| (0x21..0x7f).contains(&c))
        && !authority.is_empty()
        && !authority.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_images_are_told_from_what_is_none() {
        let digest = "a".repeat(64);
        for good in [
            "agent",
            "team/agent:1.4",
            "localhost:5055/team/agent:V1_x",
            "ghcr.example/a/b/c",
            &format!("registry.example:443/agent@sha256:{digest}"),
        ] {
            assert!(is_image_reference(good), "{good}");
        }
        for bad in ["", "Team/agent", "agent:", "agent:-x", "a b", "agent@sha256:12", "a//b", "https://x/y"] {
            assert!(!is_image_reference(bad), "{bad}");
        }
    }

    #[test]
    fn a_range_of_versions_and_an_address_with_a_password_are_refused() {
        let refused = |source: Source| source.errors().first().map(|e| e.field.clone());
        let npm =
            |package: &str, version: &str| Source::Npm { package: package.into(), version: version.into() };
        assert_eq!(refused(npm("@team/server", "1.4.0-rc.1")), None);
        assert_eq!(refused(npm("server", "^1.4.0")).as_deref(), Some("spec.version"));
        assert_eq!(refused(npm("server", "1.x")).as_deref(), Some("spec.version"));
        assert_eq!(refused(npm("@team", "1.0.0")).as_deref(), Some("spec.package"));
        let url = |url: &str| refused(Source::Remote { url: url.into() });
        assert_eq!(url("https://mcp.example/mcp"), None);
        assert_eq!(url("https://me:secret@mcp.example/mcp").as_deref(), Some("spec.url"));
        assert_eq!(url("ftp://mcp.example").as_deref(), Some("spec.url"));
    }
}
