//! Short words for what tests of deployments do to a world.

use crate::{
    platform::{EYES, FakePlatform},
    world::{Running, World, name},
};
use basalt_model::{
    DeploymentId, Generation, Labels,
    artifacts::{ArtifactKind, ArtifactSpec, Tag},
    attempts::{DeploymentPhase, ReconcileEvent, Standing},
    deployments::{DeploymentSpec, DesiredState},
    secrets::SecretSpec,
};
use basalt_reconciler::{Options, platforms::Hands};
use basalt_store::{
    Error, Key, New, Page, Update,
    artifacts::{self, ArtifactKey, Left},
    attempts,
    deployments::{self, Adopted, Deployment, View},
    providers,
    secrets::{self, SealingKeys},
    work::Executor,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// Between two looks.
pub const LOOKS: Duration = Duration::from_millis(200);

pub fn keys() -> Arc<SealingKeys> {
    Arc::new(SealingKeys::new([(1, vec![7; 32])]).unwrap())
}

pub fn agent_spec(image: &str) -> Value {
    json!({ "source": { "type": "image", "image": image } })
}

/// Waits until something holds, and says what it was when it does not.
pub async fn until<T: std::fmt::Debug, F: Future<Output = T>>(
    what: &str,
    look: impl Fn() -> F,
    holds: impl Fn(&T) -> bool,
) -> T {
    let mut last = None;
    for _ in 0..2000 {
        let seen = look().await;
        if holds(&seen) {
            return seen;
        }
        last = Some(seen);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: still {last:?}")
}

impl World {
    /// Starts a gateway's reconciler that reaches a platform.
    pub fn reach(&self, platform: &FakePlatform) -> Running {
        self.reach_as(platform, 1, 1)
    }

    /// The same, of another gateway, or another start of one.
    pub fn reach_as(&self, platform: &FakePlatform, gateway: u128, start: u128) -> Running {
        let holder = Uuid::from_u128(gateway);
        let executor = Executor { id: holder, start: Uuid::from_u128(start) };
        let hands = Hands { open: Arc::new(platform.clone()), keys: keys(), executor };
        let options = Options::new(self.store.clone(), Arc::clone(&self.clock), holder);
        self.start_with(Options { eyes: EYES, look_every: LOOKS, hands: Some(hands), ..options })
    }

    pub async fn provider(&self, of: &str) {
        let spec = serde_json::from_value(json!({ "platform": "local" })).unwrap();
        let new = New { name: name(of), labels: Labels::default(), spec };
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        providers::insert(&mut tx, &self.change(), self.project, &new).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn delete_provider(&self, of: &str, cascade: bool) -> Result<(), Error> {
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let key = Key::Name(name(of));
        providers::delete(&mut tx, &self.change(), self.project, &key, None, cascade).await?;
        tx.commit().await
    }

    /// Registers or changes an artifact.
    pub async fn artifact(&self, kind: ArtifactKind, of: &str, spec: Value) -> Generation {
        let spec = match kind {
            ArtifactKind::Agent => ArtifactSpec::Agent(serde_json::from_value(spec).unwrap()),
            ArtifactKind::Server => ArtifactSpec::Server(serde_json::from_value(spec).unwrap()),
        };
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let key = ArtifactKey::Tagged(name(of), Tag::default());
        let known = artifacts::get(&mut tx, self.project, kind, &key).await;
        let change = self.change();
        let artifact = match known {
            Ok(_) => {
                let update = Update { expected: None, labels: None, spec };
                artifacts::update(&mut tx, &change, self.project, &key, &update).await.unwrap()
            }
            Err(_) => {
                let new = New { name: name(of), labels: Labels::default(), spec };
                artifacts::insert(&mut tx, &change, self.project, &Tag::default(), &new).await.unwrap()
            }
        };
        tx.commit().await.unwrap();
        artifact.metadata.generation
    }

    pub async fn agent_image(&self, of: &str, image: &str) -> Generation {
        self.artifact(ArtifactKind::Agent, of, agent_spec(image)).await
    }

    pub async fn remove_artifact(&self, kind: ArtifactKind, of: &str, left: Left) -> Result<(), Error> {
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let key = ArtifactKey::Tagged(name(of), Tag::default());
        artifacts::delete(&mut tx, &self.change(), (self.project, kind), &key, None, left).await?;
        tx.commit().await
    }

    pub async fn secret(&self, of: &str, value: &str) {
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let (change, key) = (self.change(), Key::Name(name(of)));
        let spec = SecretSpec { value: value.into() };
        let update = Update { expected: None, labels: None, spec: spec.clone() };
        if secrets::update(&mut tx, &change, self.project, &key, &update, &keys()).await.is_err() {
            let new = New { name: name(of), labels: Labels::default(), spec };
            secrets::insert(&mut tx, &change, self.project, &new, &keys()).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    /// Declares a deployment of an agent at the provider `here`, with some fields more.
    pub async fn deploy(&self, of: &str, agent: &str, more: Value) -> DeploymentId {
        self.try_deploy(of, agent, more, None).await.unwrap()
    }

    pub async fn try_deploy(
        &self,
        of: &str,
        agent: &str,
        more: Value,
        adopts: Option<&Adopted>,
    ) -> Result<DeploymentId, Error> {
        let new = New { name: name(of), labels: Labels::default(), spec: spec(agent, more) };
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let made = deployments::insert(&mut tx, &self.change(), self.project, &new, adopts).await?;
        tx.commit().await?;
        Ok(made.id())
    }

    /// Changes what is wanted, or only labels.
    pub async fn redeclare(&self, of: &str, labels: Option<Labels>, with: impl Fn(&mut DeploymentSpec)) {
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let key = Key::Name(name(of));
        let mut spec = deployments::get(&mut tx, self.project, &key).await.unwrap().deployment.spec;
        with(&mut spec);
        let update = Update { expected: None, labels, spec };
        deployments::update(&mut tx, &self.change(), self.project, &key, &update).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn want(&self, of: &str, state: DesiredState) {
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let key = Key::Name(name(of));
        deployments::want(&mut tx, &self.change(), self.project, &key, None, state).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn retry(&self, of: &str) {
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let key = Key::Name(name(of));
        deployments::retry(&mut tx, &self.change(), self.project, &key, None).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn delete_deployment(&self, of: &str, orphan: bool) -> Result<Deployment, Error> {
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let key = Key::Name(name(of));
        let gone = deployments::delete(&mut tx, &self.change(), self.project, &key, None, orphan).await?;
        tx.commit().await?;
        Ok(gone)
    }

    pub async fn deployment(&self, of: &str) -> Option<View> {
        let mut tx = self.store.tenant_read(self.tenant).await.unwrap();
        deployments::get(&mut tx, self.project, &Key::Name(name(of))).await.ok()
    }

    pub async fn standing(&self, of: &str) -> Option<Standing> {
        let view = self.deployment(of).await?;
        let current = view.deployment.metadata.generation;
        view.status?.standing.filter(|s| s.observed_generation == current)
    }

    pub async fn is(&self, of: &str, phase: DeploymentPhase) -> Standing {
        let standing = until(of, || self.standing(of), |s| s.as_ref().is_some_and(|s| s.phase == phase));
        standing.await.unwrap()
    }

    pub async fn is_deployed(&self, of: &str) -> Standing {
        self.is(of, DeploymentPhase::Deployed).await
    }

    pub async fn is_gone(&self, of: &str) {
        until(of, || self.deployment(of), Option::is_none).await;
    }

    pub async fn events(&self, id: DeploymentId) -> Vec<ReconcileEvent> {
        let mut tx = self.store.tenant_read(self.tenant).await.unwrap();
        let page = Page { limit: 1000, ..Page::default() };
        let mut events = attempts::events(&mut tx, self.project, id, &page).await.unwrap().items;
        events.reverse();
        events
    }

    /// Waits for so many events.
    pub async fn after_events(&self, id: DeploymentId, n: usize) -> Vec<ReconcileEvent> {
        until("events", || self.events(id), |events| events.len() >= n).await
    }

    /// Status of a condition, and why.
    pub async fn said(&self, of: &str, kind: &str) -> Option<(String, String, String)> {
        let view = self.deployment(of).await?;
        let found = view.conditions.into_iter().find(|c| c.kind == kind)?;
        Some((format!("{:?}", found.status), found.reason, found.message))
    }

    pub async fn has_condition(&self, of: &str, kind: &str, status: &str, reason: &str) -> String {
        let holds = |c: &Option<(String, String, String)>| {
            c.as_ref().is_some_and(|(s, r, _)| s == status && r == reason)
        };
        until(kind, || self.said(of, kind), holds).await.unwrap().2
    }
}

/// A deployment of an agent at `here`.
pub fn spec(agent: &str, more: Value) -> DeploymentSpec {
    let mut spec = json!({ "target": { "kind": "agent", "name": agent }, "provider": "here" });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

impl World {
    /// What was found beside what was declared.
    pub async fn found(&self) -> Vec<deployments::Found> {
        let mut tx = self.store.tenant_read(self.tenant).await.unwrap();
        let list = deployments::list(&mut tx, self.project, &Page::default()).await.unwrap();
        let found = list.items.into_iter().filter_map(|listed| match listed {
            deployments::Listed::Found(found) => Some(found),
            deployments::Listed::Managed(_) => None,
        });
        found.collect()
    }
}

impl World {
    /// The generation of its target that a deployment was made from.
    pub async fn dependency(&self, of: &str) -> Option<i64> {
        let applied = self.deployment(of).await?.status?.applied?;
        let target = applied.dependencies.into_iter().find(|d| d.what.starts_with("agent/"))?;
        Some(target.generation.0)
    }
}
