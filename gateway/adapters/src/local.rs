//! A container engine (Docker or Podman) through its Docker-compatible socket: one container a deployment, found by the
//! labels it carries.
//!
//! What runs is reached at a port of the gateway's machine that stays the same for the deployment's life, and is judged
//! from outside, over that port, when it is looked at. See `docs/platforms/local.md`.

mod bridge;
mod container;
mod deploy;
mod engine;
mod health;
mod images;
mod logs;
mod normalise;
mod observe;
mod ports;
mod reasons;
mod recipe;

pub use normalise::normalise;

/// Grows when a container is made otherwise than before.
pub const REVISION: u32 = 1;

use crate::{Adapter, Applied, Discovered, EngineOptions, Health, LogOptions, Now, Removed, Result};
use basalt_model::{
    Epoch,
    deployments::{ErrorClass, LogLine, Owner, PlatformCapabilities, Workload},
};
use engine::Engine;
use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use std::time::Duration;

/// A container engine of the gateway's machine.
pub struct Local {
    name: String,
    options: EngineOptions,
    engine: Engine,
    call_limit: Duration,
    now: Now,
}

impl Local {
    /// The engine of a name in the gateway's configuration. Nothing is asked of it yet. `call_limit` is how long any
    /// call may last, and the pull of an image is part of one: minutes rather than seconds.
    pub fn new(name: impl Into<String>, options: EngineOptions, call_limit: Duration, now: Now) -> Self {
        let engine = Engine { socket: options.socket.clone() };
        Self { name: name.into(), options, engine, call_limit, now }
    }

    async fn within<T>(&self, doing: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.call_limit, call).await {
            Ok(result) => result,
            Err(_) => Err(reasons::error(
                ErrorClass::Timeout,
                "engine_slow",
                format!("engine/{}", self.name),
                format!(
                    "{doing}: the engine did not come to an end within {} s",
                    self.call_limit.as_secs_f32()
                ),
                "it is tried again; when it stays so, look at the engine's own log, or restart it",
            )),
        }
    }
}

impl Adapter for Local {
    fn revision(&self) -> u32 {
        REVISION
    }

    fn capabilities(&self) -> PlatformCapabilities {
        PlatformCapabilities {
            npm: self.options.npm_runner.is_some(),
            pypi: self.options.pypi_runner.is_some(),
            stdio: self.options.bridge.is_some(),
            replicas: false,
            namespaces: false,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health>> {
        self.within("asking for its version", self.health_within()).boxed()
    }

    fn deploy<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Applied>> {
        self.within("deploying", self.deploy_within(workload)).boxed()
    }

    fn undeploy<'a>(&'a self, owner: &'a Owner, epoch: Epoch) -> BoxFuture<'a, Result<Removed>> {
        self.within("undeploying", self.undeploy_within(owner, epoch)).boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Discovered>>> {
        self.within("looking at all containers", self.observe_within()).boxed()
    }

    fn observe_one<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Vec<Discovered>>> {
        self.within("looking at the container", self.observe_one_within(owner)).boxed()
    }

    fn logs<'a>(
        &'a self,
        owner: &'a Owner,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<LogLine>>>> {
        self.within("reading the log", self.logs_within(owner, options)).boxed()
    }

    /// Writes the owner into the container's name, for a running container can be given a name but no label. What runs
    /// goes on; the next deploy makes it anew from the artifact, because its settings are not known to be those.
    fn adopt<'a>(
        &'a self,
        found: &'a Discovered,
        owner: &'a Owner,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<()>> {
        self.within("adopting a container", self.adopt_within(found, owner, epoch)).boxed()
    }
}
