//! The hands on platforms: container engines, Kubernetes clusters and VMs of Basalt, behind one contract.
//!
//! An adapter decides nothing. It is told everything about one workload ([`Workload`]: complete, every name resolved)
//! and makes the platform so, or takes away what is there, or says what it sees. Every call is idempotent: the caller
//! may die after any of them and another caller begins anew, with a higher epoch. Foreign words stop here.
//!
//! A further platform is one more module with an [`Adapter`], a variant of [`basalt_model::providers::ProviderSpec`],
//! and a table for what is discovered there.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod basalt;
mod check;
mod fence;
pub mod kubernetes;
pub mod local;

use basalt_model::{
    CapabilityReason, DateTime, DeploymentId, Epoch,
    deployments::{ErrorClass, LogLine, ObservedWorkload, Owner, PlatformCapabilities, Workload},
    providers::Platform,
};
use futures::{future::BoxFuture, stream::BoxStream};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Why a call to a platform failed. The reason is for people: it holds no secret, whatever the platform said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", class.as_str())]
pub struct Error {
    /// What it says about another attempt.
    pub class: ErrorClass,
    /// What it was about, what was seen, and what would make it go.
    pub reason: CapabilityReason,
    /// How long the platform asks us to stay away.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error of a class, for a reason.
    pub fn new(class: ErrorClass, reason: CapabilityReason) -> Self {
        Self { class, reason, retry_after: None }
    }
}

/// Tells the time.
pub type Now = Arc<dyn Fn() -> DateTime + Send + Sync>;

/// How a call to a platform ended.
pub type Result<T> = std::result::Result<T, Error>;

/// What a deploy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Something was made or changed.
    Changed,
    /// All was so already.
    Unchanged,
}

/// What an undeploy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Something was taken away, and is gone.
    Gone,
    /// Nothing was there.
    Absent,
    /// It was told to go and has not gone yet: ask again.
    Going,
}

/// One thing that was found at a platform, as the platform shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovered {
    /// What the platform calls it: `container`, `deployment`, `service` …
    pub kind: String,
    /// Where, on platforms that have namespaces.
    pub namespace: Option<String>,
    /// Its name there; with kind and namespace it is unique.
    pub name: String,
    /// The deployment that is written on it.
    pub owner: Option<DeploymentId>,
    /// All of it that says something and stands still while nothing happens: no ages, counters, resource versions or
    /// times of the last look, so that two looks at the same thing are equal. No secret's value.
    pub raw: serde_json::Value,
}

/// What a look at a platform's health found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Name and version of what answers: `podman 4.3.1`, `kubernetes v1.36.2`.
    pub version: String,
    /// What it cannot do here, with the remedy; it is usable nevertheless.
    pub limits: Vec<CapabilityReason>,
}

/// Which lines of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// At most so many of the last lines; all that the platform keeps when absent.
    pub tail: Option<u32>,
    /// Whether to go on with what comes.
    pub follow: bool,
    /// Only lines after this.
    pub since: Option<DateTime>,
}

/// One provider's platform. Every future ends within the time that the adapter was given for a call; dropping one is
/// allowed at any moment and leaves what a crash would leave.
pub trait Adapter: Send + Sync {
    /// Grows when the same workload is realised otherwise than before, so that all are applied anew.
    fn revision(&self) -> u32;

    /// What it can do beyond the least.
    fn capabilities(&self) -> PlatformCapabilities;

    /// Whether the platform answers and lets us do what we need.
    fn health(&self) -> BoxFuture<'_, Result<Health>>;

    /// Makes the platform run this, whatever it finds there of the same owner. What is so already is left alone, its
    /// epoch too ([`Applied::Unchanged`]); an older attempt could only have written the same. Refuses ([`ErrorClass::Conflict`], `newer_attempt`) what carries a higher epoch,
    /// and takes over nothing that carries another owner. Success says that it was applied, not that it is ready.
    fn deploy<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Applied>>;

    /// Takes away everything that carries this owner, and nothing else. Refuses what carries a higher epoch.
    fn undeploy<'a>(&'a self, owner: &'a Owner, epoch: Epoch) -> BoxFuture<'a, Result<Removed>>;

    /// Everything that is there: the whole listing, or an error; never a part.
    fn observe(&self) -> BoxFuture<'_, Result<Vec<Discovered>>>;

    /// What is there of one owner; the same things as [`Adapter::observe`] lists.
    fn observe_one<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Vec<Discovered>>>;

    /// The log of one owner's workload.
    fn logs<'a>(
        &'a self,
        owner: &'a Owner,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<LogLine>>>>;

    /// Writes our owner on something that we did not start ([`Discovered`] without an owner), so that from now on it is
    /// this deployment's. What runs is not touched where the platform allows that; else it says what it costs.
    fn adopt<'a>(
        &'a self,
        found: &'a Discovered,
        owner: &'a Owner,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<()>>;

    /// That something changed, as it happens, so that nobody need wait for the next look. Only a hint: what it says is
    /// seen by looking, changes may be missed, and more may be told than happened. It ends when it has no more to say,
    /// at once on platforms that tell nothing.
    fn changes(&self) -> BoxStream<'static, Change> {
        Box::pin(futures::stream::empty())
    }
}

/// That something changed at a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose thing it was; none when it was nobody's, or when anything may have changed.
    pub owner: Option<DeploymentId>,
}

/// What the things of one owner (or one unowned thing) come to, in the words of all platforms. Pure: it reads what
/// [`Adapter::observe`] returned, now or in a former life of the gateway.
pub type Normalise = fn(&[Discovered]) -> Option<ObservedWorkload>;

/// [`Normalise`] of a platform.
pub fn normalise(platform: Platform, found: &[Discovered]) -> Option<ObservedWorkload> {
    match platform {
        Platform::Local => local::normalise(found),
        Platform::Kubernetes => kubernetes::normalise(found),
        Platform::Basalt => basalt::normalise(found),
    }
}

/// [`Adapter::revision`] of a platform.
pub fn revision(platform: Platform) -> u32 {
    match platform {
        Platform::Local => local::REVISION,
        Platform::Kubernetes => kubernetes::REVISION,
        Platform::Basalt => basalt::REVISION,
    }
}

/// A container engine of the gateway's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineOptions {
    /// Path of its Docker-compatible socket: `/run/podman/podman.sock`.
    pub socket: std::path::PathBuf,
    /// The OCI runtime; default: the engine's.
    #[serde(default)]
    pub runtime: Option<String>,
    /// The network that containers are put in; default: the engine's. `host` shares the gateway's machine's own.
    #[serde(default)]
    pub network: Option<String>,
    /// Address of the gateway's machine at which what runs is reached.
    #[serde(default = "loopback")]
    pub address: std::net::IpAddr,
    /// Most open files of a container; default: the engine's.
    #[serde(default)]
    pub max_open_files: Option<u32>,
    /// Most processes of a container; default: the engine's.
    #[serde(default)]
    pub max_processes: Option<u32>,
    /// The image in which packages of npm run.
    #[serde(default)]
    pub npm_runner: Option<String>,
    /// The image in which packages of the Python Package Index run.
    #[serde(default)]
    pub pypi_runner: Option<String>,
    /// The program of the bridge for servers that speak by standard input and output, as the engine's containers can
    /// run it: a static executable that is put in beside the server.
    #[serde(default)]
    pub bridge: Option<std::path::PathBuf>,
}

fn loopback() -> std::net::IpAddr {
    std::net::Ipv4Addr::LOCALHOST.into()
}

/// The labels that are written on everything that is made, by the names that all platforms allow.
pub mod labels {
    /// Id of the deployment.
    pub const DEPLOYMENT: &str = "basalt/deployment";
    /// Name of its project.
    pub const PROJECT: &str = "basalt/project";
    /// Name of the deployment.
    pub const NAME: &str = "basalt/name";
    /// What its inputs came to.
    pub const FINGERPRINT: &str = "basalt/fingerprint";
    /// Generation of the deployment.
    pub const GENERATION: &str = "basalt/generation";
    /// The attempt.
    pub const EPOCH: &str = "basalt/epoch";
    /// Kind of what runs: `agent` or `server`.
    pub const KIND: &str = "basalt/kind";
}
