//! Making a container so, and taking it away.
//!
//! ```text
//!   look ──► as wanted? ──yes──► remove others ──► runs? ──yes──► done
//!    ▲           │ no                                └─no──► start ──► done
//!    │           ▼
//!    │   pull ──► rename the old one ──► create ──► stop and remove the old one ──► start ──► done
//!    └───────────── somebody else was changing it meanwhile: look again ◄─────────────┘
//! ```
//!
//! Every step begins with what is there, and whatever carries our owner is found by its labels and not by its name. So
//! it does not matter after which step a former attempt died: what it left is either what is wanted or is removed. The
//! engine lets a name be taken once, which is what keeps two attempts from making two. The old one goes on until the
//! new one is there, and is gone before that one starts: two never run.

use super::{
    Local,
    container::{Container, adopted_name, adopted_stem},
    engine::{Failure, pause},
    images, ports,
    reasons::{error, failed, is_port_taken, is_race, with},
    recipe::{self, Asked, Recipe, STOP_SECONDS},
};
use crate::{
    Applied, Discovered, Error, Removed, Result,
    fence::{other_owner, refuse_newer},
    labels,
};
use basalt_model::{
    DeploymentId, Epoch,
    deployments::{ErrorClass, Owner, Workload},
};
use futures::{FutureExt, future::BoxFuture};
use serde::Deserialize;

/// How often is looked again when somebody else is changing the same thing.
const ROUNDS: u32 = 12;

/// Why a step ended early.
pub(super) enum Stop {
    /// Things changed under our hands: look again.
    Again(Error),
    /// It is so.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) type Step<T> = std::result::Result<T, Stop>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: String,
}

impl Local {
    pub(super) async fn deploy_within(&self, workload: &Workload) -> Result<Applied> {
        let asked = match &workload.program.source {
            basalt_model::artifacts::Source::Remote { .. } => None,
            _ => Some(recipe::asked(workload, &self.options)?),
        };
        let Some(asked) = &asked else {
            // It ran here before it was said to run elsewhere.
            return Ok(match self.undeploy_within(&workload.owner, workload.epoch).await? {
                Removed::Absent => Applied::Unchanged,
                Removed::Gone | Removed::Going => Applied::Changed,
            });
        };
        self.rounds(|| self.deploy_once(workload, asked).boxed()).await
    }

    pub(super) async fn undeploy_within(&self, owner: &Owner, epoch: Epoch) -> Result<Removed> {
        self.rounds(|| self.undeploy_once(owner, epoch).boxed()).await
    }

    pub(super) async fn rounds<'a, T>(&self, once: impl Fn() -> BoxFuture<'a, Step<T>>) -> Result<T> {
        let mut round = 1;
        loop {
            match once().await {
                Ok(done) => return Ok(done),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Again(error)) if round >= ROUNDS => return Err(error),
                Err(Stop::Again(error)) => tracing::debug!(%error, round, "looking again"),
            }
            tokio::time::sleep(pause(round)).await;
            round += 1;
        }
    }

    /// A call that failed because somebody else was changing the same thing is no failure yet.
    pub(super) fn step<T>(&self, doing: &str, answer: std::result::Result<T, Failure>) -> Step<T> {
        answer.map_err(|failure| {
            let error = failed(&self.name, doing, &failure);
            match &failure {
                Failure::Refused { status, message } if is_race(*status, message) => Stop::Again(error),
                _ => Stop::Failed(error),
            }
        })
    }

    /// Every container that carries this owner.
    pub(super) async fn owned(&self, owner: DeploymentId) -> Step<Vec<Container>> {
        let by_label = serde_json::json!({ "label": [format!("{}={}", labels::DEPLOYMENT, owner.0)] });
        let by_name = serde_json::json!({ "name": [adopted_stem(owner)] });
        let (one, two) = futures::future::join(self.listed(&by_label), self.listed(&by_name)).await;
        let mut all = Vec::new();
        for id in one?.into_iter().chain(two?) {
            all.extend(self.container(&id).await?);
        }
        // The engine's filter of names takes parts of names too.
        all.retain(|container| container.owner() == Some(owner));
        Ok(all)
    }

    async fn listed(&self, filters: &serde_json::Value) -> Step<Vec<String>> {
        let query = [("all", "true"), ("filters", &*filters.to_string())];
        let listed = self.engine.get::<Vec<Listed>>("/containers/json", &query).await;
        Ok(self.step("listing the containers", listed)?.into_iter().map(|c| c.id).collect())
    }

    /// By id or by name; none where there is none.
    pub(super) async fn container(&self, id: &str) -> Step<Option<Container>> {
        match self.engine.get::<Container>(&format!("/containers/{id}/json"), &[]).await {
            Ok(container) => Ok(Some(container)),
            Err(failure) if is_missing(&failure) => Ok(None),
            Err(failure) => self.step("looking at a container", Err(failure)),
        }
    }

    async fn deploy_once(&self, workload: &Workload, asked: &Asked) -> Step<Applied> {
        let mine = self.owned(workload.owner.id).await?;
        refuse_newer(mine.iter().filter_map(Container::epoch), &workload.owner, workload.epoch)?;
        let name = workload.owner.workload_name();
        let kept = mine.iter().position(|c| c.name() == name && is_wanted(c, workload, asked));
        if let Some(kept) = kept {
            let wanted = &mine[kept];
            let mut changed = false;
            for other in mine.iter().filter(|c| c.id != wanted.id) {
                changed |= self.remove(other).await?;
            }
            if wanted.is_running() {
                return Ok(if changed { Applied::Changed } else { Applied::Unchanged });
            }
            if self.may_start_again(workload, wanted).await? {
                self.start(workload, wanted).await?;
                return Ok(Applied::Changed);
            }
        }
        self.replace(workload, asked, &name, &mine).await
    }

    async fn replace(
        &self,
        workload: &Workload,
        asked: &Asked,
        name: &str,
        old: &[Container],
    ) -> Step<Applied> {
        self.refuse_foreign(name, &workload.owner).await?;
        self.refuse_unlimited(workload).await?;
        self.refuse_without_bridge(workload).await?;
        let image = images::ensure(&self.engine, &self.name, &asked.image).await?;
        let port = self.choose_port(workload, old).await?;
        let body = asked.create(workload, &self.options, &image, port)?;
        for holder in old.iter().filter(|c| c.name() == name) {
            self.rename(holder, &format!("{name}.{}", &holder.id[..holder.id.len().min(8)])).await?;
        }
        let created = self.engine.post("/containers/create", &[("name", name)], Some(&body)).await;
        let created = match created {
            Ok(answer) => serde_json::from_slice::<Listed>(&answer)
                .map_err(|e| failed(&self.name, "creating the container", &Failure::Broken(e.to_string())))?,
            Err(failure) => {
                // The old one goes on, under its own name.
                for holder in old.iter().filter(|c| c.name() == name) {
                    let _ = self.rename(holder, name).await;
                }
                return self.step("creating the container", Err(failure)).map_err(|e| scrubbed(e, workload));
            }
        };
        for other in old {
            self.remove(other).await?;
        }
        let Some(container) = self.container(&created.id).await? else {
            let gone = Failure::Refused { status: 404, message: "it was removed meanwhile".to_owned() };
            return self.step("starting the container", Err(gone));
        };
        self.start(workload, &container).await?;
        Ok(Applied::Changed)
    }

    async fn start(&self, workload: &Workload, container: &Container) -> Step<()> {
        let verb = if container.state.status == "paused" { "unpause" } else { "start" };
        let doing = format!("starting the container {}", container.name());
        let answer = self.engine.post(&format!("/containers/{}/{verb}", container.id), &[], None).await;
        let Err(failure) = answer else { return Ok(()) };
        if let Failure::Refused { message, .. } = &failure
            && is_port_taken(message)
        {
            let port = Recipe::of(container).map_or(0, |r| r.port);
            let error = with(self.port_taken(workload, port).await, message);
            if workload.local.port.is_some() {
                return Err(Stop::Failed(error));
            }
            // Somebody was quicker; the next look finds another.
            self.remove(container).await?;
            return Err(Stop::Again(error));
        }
        if let Failure::Refused { message, .. } = &failure
            && message.contains("executable file not found") | message.contains("no such file or directory")
        {
            let error = error(
                ErrorClass::Permanent,
                "program_missing",
                workload.target.to_string(),
                "the image has no such program",
                "correct `command` of the artifact, or the image",
            );
            return Err(scrubbed(Stop::Failed(with(error, message)), workload));
        }
        self.step(&doing, Err(failure)).map_err(|e| scrubbed(e, workload))
    }

    /// Stops and removes; false when it was gone already.
    async fn remove(&self, container: &Container) -> Step<bool> {
        let path = format!("/containers/{}", container.id);
        if matches!(&*container.state.status, "running" | "restarting" | "stopping") {
            let grace = STOP_SECONDS.to_string();
            match self.engine.post(&format!("{path}/stop"), &[("t", &grace)], None).await {
                Ok(_) => {}
                Err(failure) if is_missing(&failure) => return Ok(false),
                // It is removed by force all the same.
                Err(Failure::Refused { .. }) => {}
                Err(failure) => return self.step("stopping a container", Err(failure)),
            }
        }
        match self.engine.delete(&path, &[("force", "true"), ("v", "true")]).await {
            Ok(()) => Ok(true),
            Err(failure) if is_missing(&failure) => Ok(false),
            Err(failure) => self.step("removing a container", Err(failure)),
        }
    }

    async fn rename(&self, container: &Container, name: &str) -> Step<()> {
        let path = format!("/containers/{}/rename", container.id);
        let answer = self.engine.post(&path, &[("name", name)], None).await;
        self.step("renaming a container", answer).map(drop)
    }

    async fn undeploy_once(&self, owner: &Owner, epoch: Epoch) -> Step<Removed> {
        let mine = self.owned(owner.id).await?;
        refuse_newer(mine.iter().filter_map(Container::epoch), owner, epoch)?;
        for container in &mine {
            self.remove(container).await?;
        }
        Ok(if mine.is_empty() { Removed::Absent } else { Removed::Gone })
    }

    /// A container cannot be given a label, but it can be given a name while it runs: that is where the owner is written.
    pub(super) async fn adopt_within(&self, found: &Discovered, owner: &Owner, epoch: Epoch) -> Result<()> {
        self.rounds(|| self.adopt_once(found, owner, epoch).boxed()).await
    }

    async fn adopt_once(&self, found: &Discovered, owner: &Owner, epoch: Epoch) -> Step<()> {
        let subject = format!("container/{}", found.name);
        let id = found.raw.get("id").and_then(|id| id.as_str()).unwrap_or(&found.name);
        let Some(container) = self.container(id).await? else {
            return Err(Stop::Failed(error(
                ErrorClass::Missing,
                "container_missing",
                subject,
                "it is not there any more",
                "look at what is discovered now",
            )));
        };
        match container.owner() {
            Some(of) if of == owner.id => Ok(refuse_newer(container.epoch().into_iter(), owner, epoch)?),
            Some(of) => Err(Stop::Failed(other_owner(&subject, of))),
            None => self.rename(&container, &adopted_name(owner.id, epoch)).await,
        }
    }

    async fn refuse_foreign(&self, name: &str, owner: &Owner) -> Step<()> {
        match self.container(name).await? {
            Some(other) if other.owner() != Some(owner.id) && other.name() == name => {
                let subject = format!("container/{name}");
                Err(Stop::Failed(match other.owner() {
                    Some(of) => other_owner(&subject, of),
                    None => error(
                        ErrorClass::Conflict,
                        "other_owner",
                        subject,
                        "a container that Basalt did not start has this name",
                        "remove or rename it, or adopt it",
                    ),
                }))
            }
            _ => Ok(()),
        }
    }

    /// Limits that this engine would silently leave out are refused.
    async fn refuse_unlimited(&self, workload: &Workload) -> Step<()> {
        let wanted = &workload.resources;
        if wanted.memory_bytes.is_none() && wanted.cpu_millis.is_none() {
            return Ok(());
        }
        let info = self.step("asking what it can do", self.info().await)?;
        for (asked, can, what) in [
            (wanted.memory_bytes.is_some(), info.memory_limit, "memory_bytes"),
            (wanted.cpu_millis.is_some(), info.cpu_cfs_quota, "cpu_millis"),
        ] {
            if asked && !can {
                let limit = super::health::unlimited(&self.name, what);
                return Err(Stop::Failed(Error::new(ErrorClass::Permanent, limit)));
            }
        }
        Ok(())
    }

    async fn refuse_without_bridge(&self, workload: &Workload) -> Step<()> {
        let stdio = matches!(workload.program.transport, basalt_model::artifacts::Transport::Stdio {});
        let Some(path) = self.options.bridge.as_ref().filter(|_| stdio) else { return Ok(()) };
        match tokio::fs::metadata(path).await {
            Ok(file) if file.is_file() => Ok(()),
            _ => Err(Stop::Failed(error(
                ErrorClass::Missing,
                "bridge_missing",
                format!("engine/{}", self.name),
                format!("there is no program at {}", path.display()),
                "install basalt-mcp-bridge there, or correct `bridge` of the engine in gateway.toml",
            ))),
        }
    }

    /// Whether what stopped can have its port back.
    async fn may_start_again(&self, workload: &Workload, container: &Container) -> Step<bool> {
        let Some(recipe) = Recipe::of(container) else { return Ok(false) };
        // A paused one has its port.
        if container.state.status == "paused" || self.is_free(recipe.port).await? {
            return Ok(true);
        }
        match workload.local.port {
            Some(port) => Err(Stop::Failed(self.port_taken(workload, port).await)),
            None => Ok(false),
        }
    }

    /// The port that was asked for, or the one that it had, or a free one.
    async fn choose_port(&self, workload: &Workload, old: &[Container]) -> Step<u16> {
        let had = old.iter().find_map(|c| Some((Recipe::of(c)?.port, c.is_running())));
        if let Some(port) = workload.local.port {
            let ours = had.is_some_and(|(had, runs)| runs && had == port);
            if ours || self.is_free(port).await? {
                return Ok(port);
            }
            return Err(Stop::Failed(self.port_taken(workload, port).await));
        }
        if let Some((port, runs)) = had
            && (runs || self.is_free(port).await?)
        {
            return Ok(port);
        }
        let taken: Vec<u16> = self.published().await?.into_iter().map(|(port, _)| port).collect();
        let found = ports::find(self.options.address, workload.owner.id.0.as_u128(), &taken).await;
        found.map_err(|e| self.address_unusable(&e))?.ok_or_else(|| {
            Stop::Failed(error(
                ErrorClass::Capacity,
                "no_port",
                format!("engine/{}", self.name),
                "no port of 20000 to 29999 is free",
                "end something that listens there, or give the deployment a port (`local.port`)",
            ))
        })
    }

    async fn is_free(&self, port: u16) -> Result<bool> {
        ports::is_free(self.options.address, port).await.map_err(|e| self.address_unusable(&e))
    }

    fn address_unusable(&self, seen: &std::io::Error) -> Error {
        let subject = format!("engine/{}", self.name);
        let message = format!("nothing can listen at {}", self.options.address);
        let remedy = "set `address` of the engine in gateway.toml to one of this machine's addresses";
        with(error(ErrorClass::Permanent, "address_unusable", subject, message, remedy), &seen.to_string())
    }

    /// The ports of containers, running or not, and whose they are.
    async fn published(&self) -> Step<Vec<(u16, String)>> {
        let labelled = serde_json::json!({ "label": [recipe::LABEL] });
        let mut all = Vec::new();
        for id in self.listed(&labelled).await? {
            let Some(container) = self.container(&id).await? else { continue };
            let Some(recipe) = Recipe::of(&container) else { continue };
            let project = container.label(labels::PROJECT).unwrap_or_default();
            let name = container.label(labels::NAME).unwrap_or_default();
            all.push((recipe.port, format!("the deployment {name} of the project {project}")));
        }
        Ok(all)
    }

    async fn port_taken(&self, workload: &Workload, port: u16) -> Error {
        let published = self.published().await.unwrap_or_default();
        let holder = match published.into_iter().find(|(of, _)| *of == port) {
            Some((_, holder)) => Some(holder),
            None => ports::holder(port).await,
        };
        let holder = holder.unwrap_or_else(|| "something that the gateway may not see".to_owned());
        error(
            ErrorClass::Conflict,
            "port_taken",
            workload.target.to_string(),
            format!("port {port} of {} is taken by {holder}", self.options.address),
            "give the deployment another port (`local.port`), or none to get a free one",
        )
    }
}

/// Podman calls it an error of its own when a container goes while it looks at it.
fn is_missing(failure: &Failure) -> bool {
    failure.status() == Some(404) || failure.message().contains("no such container")
}

/// Whether it is what the workload is to be, but perhaps does not run.
fn is_wanted(container: &Container, workload: &Workload, asked: &Asked) -> bool {
    let Some(recipe) = Recipe::of(container) else { return false };
    container.label(labels::FINGERPRINT) == Some(&workload.fingerprint)
        && recipe.asked == asked.hash
        && matches!(container.state_word(), "running" | "exited" | "created" | "paused")
        && recipe.drift(container).is_empty()
        && recipe::has_secrets(container, workload)
}

/// The engine may repeat what it was sent; the values of secrets stay out of what is said.
fn scrubbed(stop: Stop, workload: &Workload) -> Stop {
    let scrub = |mut error: Error| {
        for secret in workload.secret_env.values().map(|s| s.expose()).filter(|s| !s.is_empty()) {
            error.reason.evidence = error.reason.evidence.replace(secret, "[secret]");
            error.reason.message = error.reason.message.replace(secret, "[secret]");
        }
        error
    };
    match stop {
        Stop::Again(error) => Stop::Again(scrub(error)),
        Stop::Failed(error) => Stop::Failed(scrub(error)),
    }
}
