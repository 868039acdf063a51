//! The gateway's configuration file. Unknown keys are refused, so that a misspelt one is found.

use basalt_adapters::EngineOptions;
use basalt_model::Name;
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

/// `gateway.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the truth is.
    pub database: Database,
    /// Where the doors are.
    #[serde(default)]
    pub listen: Listen,
    /// Certificates.
    pub pki: Pki,
    /// The image service.
    pub image: Image,
    /// Files of the gateway's own.
    pub state: State,
    /// History.
    #[serde(default)]
    pub tasks: Tasks,
    /// What secrets are sealed with.
    #[serde(default)]
    pub secrets: Secrets,
    /// Container engines of this machine that providers may name: `[engines.default]`.
    #[serde(default)]
    pub engines: BTreeMap<Name, EngineOptions>,
    /// How clusters are used.
    #[serde(default)]
    pub kubernetes: basalt_adapters::kubernetes::Options,
}

/// Where the truth is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `postgres://basalt_gateway@…/basalt`: the role that serves.
    pub url: String,
    /// The role that owns the schema. With it, migrations run at the start.
    #[serde(default)]
    pub owner_url: Option<String>,
    /// Connections to keep at most; up to 4 more read manifests for agents.
    #[serde(default = "default_connections")]
    pub max_connections: u32,
}

fn default_connections() -> u32 {
    16
}

/// Where the doors are. Inherited sockets named `users` and `agents` win over the addresses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// The users' door.
    pub users: String,
    /// The door of agents and image service.
    pub agents: String,
}

impl Default for Listen {
    fn default() -> Self {
        Self { users: "127.0.0.1:9443".into(), agents: "127.0.0.1:9444".into() }
    }
}

/// Certificates.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pki {
    /// Folder of `ca.pem` and `ca.key`, made at the first start.
    pub dir: PathBuf,
    /// Names and addresses that the doors' certificate is for.
    #[serde(default = "default_server_names")]
    pub server_names: Vec<String>,
}

fn default_server_names() -> Vec<String> {
    vec!["localhost".into(), "127.0.0.1".into()]
}

/// The image service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its door as agents reach it: `https://10.77.0.254:9445`.
    pub url: String,
    /// Its door as users reach it; default: the same.
    #[serde(default)]
    pub public_url: Option<String>,
    /// Lines of `<id> <hex>`: the keys that sign tokens. The image service holds the same.
    pub token_key_file: PathBuf,
}

/// What secrets are sealed with.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// Lines of `<id> <64 hex digits>`, the same for every gateway: the highest id seals, all of them open. Default:
    /// `secrets.keys` in the folder of `[state]`, made at the first start.
    pub key_file: Option<PathBuf>,
}

/// Files of the gateway's own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Folder; made at the first start.
    pub dir: PathBuf,
}

/// History.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tasks {
    /// Days for which finished tasks and their logs are kept, counted from when they were asked for; at least 1.
    pub keep_days: std::num::NonZeroU16,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { keep_days: std::num::NonZeroU16::MIN.saturating_add(29) }
    }
}

impl Image {
    /// The door as users reach it.
    pub fn public_url(&self) -> &str {
        self.public_url.as_deref().unwrap_or(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        [database]
        url = "postgres:///basalt"
        [pki]
        dir = "/var/lib/basalt/pki"
        [image]
        url = "https://images:9445"
        token_key_file = "/etc/basalt/token.keys"
        [state]
        dir = "/var/lib/basalt/gateway"
    "#;

    #[test]
    fn a_small_file_has_sound_defaults_and_a_misspelt_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.toml");
        std::fs::write(&path, SMALL).unwrap();
        let config: Config = basalt_daemon::config::read(&path).unwrap();
        assert_eq!(
            (config.listen.users.as_str(), config.image.public_url()),
            ("127.0.0.1:9443", "https://images:9445")
        );
        assert_eq!(config.tasks.keep_days.get(), 30);
        assert!(config.engines.is_empty() && config.secrets.key_file.is_none());
        let more = "[secrets]\nkey_file = \"/etc/basalt/secrets.keys\"\n[engines.default]\nsocket = \"/run/podman/podman.sock\"";
        std::fs::write(&path, format!("{SMALL}\n{more}")).unwrap();
        let config: Config = basalt_daemon::config::read(&path).unwrap();
        let engine = &config.engines[&basalt_model::Name::new("default").unwrap()];
        assert_eq!(engine.socket, std::path::Path::new("/run/podman/podman.sock"));
        std::fs::write(&path, SMALL.replace("url = \"https", "ur = \"https")).unwrap();
        let refused = basalt_daemon::config::read::<Config>(&path).unwrap_err().to_string();
        assert!(refused.contains("unknown field `ur`"), "{refused}");
    }
}
