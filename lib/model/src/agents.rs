//! Agents: programs that act for somebody, with the servers and the other agents they use.
//!
//! (The process that runs on each host is an agent too; it is never declared and has no spec.)

use crate::{
    artifacts::{
        ArtifactKind, ArtifactRef, Env, HealthCheck, MAX_REFERENCES, Source, TaggedName, validate_args,
        validate_env, validate_port,
    },
    validate::{FieldError, Validate, at},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// What an agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// What it does, for people; at most 1,024 characters. It is no part of what runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where the program comes from.
    pub source: Source,
    /// Words in place of the image's own entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Variables; a deployment may add to them and overrule them.
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    pub env: Env,
    /// The port it listens on, 1 to 65535; it is told in `PORT` as well.
    #[serde(default = "default_port")]
    pub port: u16,
    /// How one sees that it is well; without it, running is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// MCP servers that it uses, at most 64. Their addresses are told in `BASALT_SERVERS`, a JSON object by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<TaggedName>,
    /// Other agents that it uses, at most 64. Their addresses are told in `BASALT_AGENTS`, a JSON object by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<TaggedName>,
}

fn default_port() -> u16 {
    8080
}

impl AgentSpec {
    /// Every artifact that it refers to.
    pub fn references(&self) -> impl Iterator<Item = ArtifactRef> + '_ {
        let servers = self.servers.iter().map(|s| s.of(ArtifactKind::Server));
        servers.chain(self.agents.iter().map(|a| a.of(ArtifactKind::Agent)))
    }
}

pub(crate) fn validate_description(text: &str, path: String, errors: &mut Vec<FieldError>) {
    if text.chars().count() > 1024 {
        errors.push(FieldError::new(
            path,
            "too_long",
            "a description has at most 1,024 characters",
            "shorten it",
        ));
    }
}

impl Validate for AgentSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        validate_description(&self.description, at(path, "description"), errors);
        self.source.validate(&at(path, "source"), errors);
        validate_args(&self.command, &at(path, "command"), errors);
        validate_args(&self.args, &at(path, "args"), errors);
        validate_env(&self.env, &at(path, "env"), errors);
        validate_port(self.port, at(path, "port"), errors);
        if let Some(health) = &self.health {
            health.validate(&at(path, "health"), errors);
        }
        for (field, names) in [("servers", &self.servers), ("agents", &self.agents)] {
            if names.len() > MAX_REFERENCES {
                let reason = format!("{} names; at most {MAX_REFERENCES} are kept", names.len());
                errors.push(FieldError::new(at(path, field), "too_many", reason, "split the agent"));
            }
            let mut seen = BTreeSet::new();
            // One name is one entry of the object that the agent is told, so two tags of it cannot both be there.
            for (i, twice) in names.iter().enumerate().filter(|(_, n)| !seen.insert(&n.name)) {
                errors.push(FieldError::new(
                    format!("{}[{i}]", at(path, field)),
                    "duplicate",
                    format!("{} is named twice", twice.name),
                    "name each once, with one tag",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_agent_is_refused_field_by_field() {
        let spec: AgentSpec = serde_json::from_value(serde_json::json!({
            "source": { "type": "image", "image": "Not An Image" },
            "port": 0, "env": { "1x": "y" },
            "servers": [{ "name": "a" }, { "name": "a", "tag": "2" }],
        }))
        .unwrap();
        let fields: Vec<String> = spec.errors().into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["spec.source.image", "spec.env.1x", "spec.port", "spec.servers[1]"]);
    }
}
