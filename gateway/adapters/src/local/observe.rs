//! What is there: every container, ours and others', in words that stand still while nothing happens.

use super::{
    Local,
    container::Container,
    deploy::{Listed, Step},
    recipe::Recipe,
};
use crate::{Discovered, Result, check, labels};
use basalt_model::{DeploymentId, Name, deployments::Owner};
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde_json::{Map, Value, json};

/// How many containers are looked at at once.
const AT_ONCE: usize = 8;

/// Labels of containers that are not ours and say something; what else stands in labels may be a secret.
const TELLING: &[&str] = &[
    "org.opencontainers.image.title",
    "org.opencontainers.image.version",
    "com.docker.compose.project",
    "com.docker.compose.service",
    super::normalise::MCP_NAME,
    super::normalise::MCP_SERVICE,
];

impl Local {
    pub(super) async fn observe_within(&self) -> Result<Vec<Discovered>> {
        self.rounds(|| self.observe_once().boxed()).await
    }

    async fn observe_once(&self) -> Step<Vec<Discovered>> {
        let listed = self.engine.get::<Vec<Listed>>("/containers/json", &[("all", "true")]).await;
        let listed = self.step("listing the containers", listed)?;
        // One that is gone between the listing and the look is not there.
        let looks = listed.into_iter().map(|listed| async move { self.container(&listed.id).await });
        let looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
        let there: Vec<Container> = looks.try_filter_map(async |found| Ok(found)).try_collect().await?;
        let checks = there.into_iter().map(|container| async move { self.discovered(&container).await });
        let mut all: Vec<Discovered> =
            futures::stream::iter(checks).buffer_unordered(AT_ONCE).collect().await;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(super) async fn observe_one_within(&self, owner: &Owner) -> Result<Vec<Discovered>> {
        let mine = self.rounds(|| self.owned(owner.id).boxed()).await?;
        let mut all = futures::future::join_all(mine.iter().map(|c| self.discovered(c))).await;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Whether it is well, where it runs and that is checked.
    async fn checked(&self, container: &Container) -> Option<Value> {
        let recipe = Recipe::of(container)?;
        let check = recipe.check.as_ref().filter(|_| container.is_running())?;
        let up = container.started_at().map_or(i64::MAX, |at| ((self.now)() - at).num_seconds());
        Some(check::look(check, &recipe.address, recipe.port, up).await)
    }

    async fn discovered(&self, container: &Container) -> Discovered {
        let checked = self.checked(container).await;
        Discovered {
            kind: "container".to_owned(),
            namespace: None,
            name: container.name().to_owned(),
            owner: container.owner(),
            raw: raw(container, checked),
        }
    }
}

/// All of a container that says something, without its environment and its words, which may be secrets.
pub(super) fn raw(container: &Container, checked: Option<Value>) -> Value {
    let recipe = Recipe::of(container);
    let mut raw = Map::new();
    raw.insert("id".into(), json!(container.id));
    raw.insert("image".into(), json!(container.config.image));
    raw.insert("image_id".into(), json!(container.image));
    raw.insert("state".into(), json!(container.state_word()));
    if !container.is_running() {
        raw.insert("exit_code".into(), json!(container.state.exit_code));
        raw.insert("oom_killed".into(), json!(container.state.oom_killed));
        if let Some(recipe) = &recipe {
            raw.insert("error".into(), json!(recipe.error(container)));
        }
    }
    let ours = container
        .config
        .labels
        .iter()
        .filter(|(k, _)| k.starts_with("basalt/") || TELLING.contains(&k.as_str()));
    raw.insert("labels".into(), json!(ours.collect::<std::collections::BTreeMap<_, _>>()));
    if let Some(owner) = container.owner() {
        raw.insert("owner".into(), json!(owner.0));
    }
    raw.insert("epoch".into(), json!(container.epoch()));
    raw.insert("generation".into(), json!(container.generation()));
    raw.insert("network".into(), json!(container.host_config.network_mode));
    raw.insert("ports".into(), json!(ports(container)));
    if let Some(recipe) = &recipe {
        let mut drift = recipe.drift(container);
        if let Some(name) = workload_name(container).filter(|name| name != container.name()) {
            drift.push(format!("name: {} instead of {name}", container.name()));
        }
        raw.insert("drift".into(), json!(drift));
        raw.insert("endpoint".into(), json!({ "name": recipe.endpoint, "url": url(recipe) }));
    }
    if let Some(checked) = checked {
        raw.insert("check".into(), checked);
    }
    Value::Object(raw)
}

/// Where it is published, ordered: the engine's order is that of the moment.
fn ports(container: &Container) -> Vec<Value> {
    let mut ports: Vec<(String, String, String)> = container
        .network_settings
        .ports
        .iter()
        .flat_map(|(inner, at)| {
            at.iter().flatten().map(move |b| (inner.clone(), b.host_ip.clone(), b.host_port.clone()))
        })
        .collect();
    ports.sort();
    ports.dedup();
    let ports = ports.into_iter();
    ports.map(|(inner, address, port)| json!({ "inner": inner, "address": address, "port": port })).collect()
}

fn url(recipe: &Recipe) -> String {
    super::normalise::url(&recipe.address, &recipe.port.to_string(), &recipe.path)
}

/// The name that it was given when it was made.
fn workload_name(container: &Container) -> Option<String> {
    let id = uuid::Uuid::try_parse(container.label(labels::DEPLOYMENT)?).ok()?;
    let owner = Owner {
        id: DeploymentId(id),
        project: Name::new(container.label(labels::PROJECT)?).ok()?,
        name: Name::new(container.label(labels::NAME)?).ok()?,
        namespace: None,
    };
    Some(owner.workload_name())
}
