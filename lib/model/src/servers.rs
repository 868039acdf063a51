//! Servers: MCP servers, from an image, a package or elsewhere.

use crate::{
    agents::validate_description,
    artifacts::{Env, HealthCheck, Source, Transport, validate_args, validate_env},
    validate::{FieldError, Validate, at},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an MCP server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// What it offers, for people; at most 1,024 characters. It is no part of what runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where the program comes from.
    pub source: Source,
    /// How it is spoken to. Of a remote one only the address in `source` counts.
    #[serde(default)]
    pub transport: Transport,
    /// Words in place of the image's own entry point, or of the package's own program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Variables; a deployment may add to them and overrule them.
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    /// How one sees that it is well; without it, an open port is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
}

impl Validate for ServerSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        validate_description(&self.description, at(path, "description"), errors);
        self.source.validate(&at(path, "source"), errors);
        self.transport.validate(&at(path, "transport"), errors);
        validate_args(&self.command, &at(path, "command"), errors);
        validate_args(&self.args, &at(path, "args"), errors);
        validate_env(&self.env, &at(path, "env"), errors);
        if let Some(health) = &self.health {
            health.validate(&at(path, "health"), errors);
        }
    }
}
