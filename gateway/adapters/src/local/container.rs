//! A container as the engine shows it. Docker and Podman leave out, or write `null` for, different things; whatever is
//! not needed here is not read, so that a new word of an engine breaks nothing.

use crate::labels;
use basalt_model::{DateTime, DeploymentId, Epoch, Generation};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// How a container is named that was adopted: its name is the only thing of a running container that can be written.
const ADOPTED: &str = "basalt-adopted.";

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// What `GET /containers/ID/json` shows. It holds secrets: it is never printed, and has no `Debug` for that.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Container {
    pub(super) id: String,
    name: String,
    /// The image's id.
    pub(super) image: String,
    path: String,
    #[serde(deserialize_with = "nullable")]
    args: Vec<String>,
    pub(super) state: State,
    pub(super) config: Config,
    pub(super) host_config: HostConfig,
    #[serde(deserialize_with = "nullable")]
    pub(super) network_settings: NetworkSettings,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct State {
    pub(super) status: String,
    pub(super) exit_code: i64,
    #[serde(rename = "OOMKilled")]
    pub(super) oom_killed: bool,
    #[serde(deserialize_with = "nullable")]
    pub(super) error: String,
    started_at: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Config {
    /// The image as it was asked for.
    pub(super) image: String,
    #[serde(deserialize_with = "nullable")]
    env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct HostConfig {
    pub(super) network_mode: String,
    pub(super) memory: i64,
    pub(super) nano_cpus: i64,
    #[serde(deserialize_with = "nullable")]
    pub(super) port_bindings: Ports,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct NetworkSettings {
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Ports,
}

/// `8080/tcp` → where it is published.
pub(super) type Ports = BTreeMap<String, Option<Vec<PortBinding>>>;

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct PortBinding {
    #[serde(deserialize_with = "nullable")]
    pub(super) host_ip: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) host_port: String,
}

/// What `GET /images/NAME/json` shows.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Image {
    pub(super) id: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) config: ImageConfig,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct ImageConfig {
    #[serde(deserialize_with = "nullable")]
    pub(super) entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) cmd: Vec<String>,
}

impl Container {
    pub(super) fn name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.config.labels.get(key).map(String::as_str)
    }

    /// The deployment that is written on it: in its labels, or in its name when it was adopted.
    pub(super) fn owner(&self) -> Option<DeploymentId> {
        let text = self.label(labels::DEPLOYMENT).or(self.adopted().map(|(id, _)| id))?;
        uuid::Uuid::try_parse(text).ok().map(DeploymentId)
    }

    fn adopted(&self) -> Option<(&str, &str)> {
        self.name().strip_prefix(ADOPTED)?.split_once('.')
    }

    pub(super) fn epoch(&self) -> Option<Epoch> {
        let text = self.label(labels::EPOCH).or(self.adopted().map(|(_, epoch)| epoch))?;
        text.parse().ok().map(Epoch)
    }

    pub(super) fn generation(&self) -> Option<Generation> {
        self.label(labels::GENERATION)?.parse().ok().map(Generation)
    }

    /// Its state in one word for each: Podman has further ones for what it is about to say by these.
    pub(super) fn state_word(&self) -> &str {
        match &*self.state.status {
            "stopped" | "stopping" => "exited",
            "configured" | "initialized" => "created",
            other => other,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state.status == "running"
    }

    /// The words of its program, the image's own put in.
    pub(super) fn words(&self) -> Vec<&str> {
        std::iter::once(&self.path).chain(&self.args).map(String::as_str).collect()
    }

    /// The value of a variable.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.config.env.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    pub(super) fn started_at(&self) -> Option<DateTime> {
        self.state.started_at.parse().ok()
    }
}

/// The name by which an adopted container says whose it is, and since which attempt.
pub(super) fn adopted_name(owner: DeploymentId, epoch: Epoch) -> String {
    format!("{}{}", adopted_stem(owner), epoch.0)
}

/// What that name begins with.
pub(super) fn adopted_stem(owner: DeploymentId) -> String {
    format!("{ADOPTED}{}.", owner.0.simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adopted_container_says_whose_it_is_by_its_name() {
        let id = DeploymentId(uuid::Uuid::from_u128(0xabcd));
        let json = serde_json::json!({ "Name": format!("/{}", adopted_name(id, Epoch(7))), "Config": { "Labels": null } });
        let container: Container = serde_json::from_value(json).unwrap();
        assert_eq!((container.owner(), container.epoch()), (Some(id), Some(Epoch(7))));
        let foreign: Container = serde_json::from_value(serde_json::json!({ "Name": "/web" })).unwrap();
        assert_eq!((foreign.owner(), foreign.epoch()), (None, None));
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let json = serde_json::json!({ "Config": { "Env": ["PORTS=1", "PORT=2=3"] } });
        let container: Container = serde_json::from_value(json).unwrap();
        assert_eq!(container.variable("PORT"), Some("2=3"));
        assert_eq!(container.variable("POR"), None);
    }
}
