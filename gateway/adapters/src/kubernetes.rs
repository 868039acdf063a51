//! A Kubernetes cluster, by server-side apply.
//!
//! Of a workload it makes a Deployment, a Service and, where there are secrets, a Secret, all of one name and with the
//! owner's labels. Nothing is kept here: what stands in the cluster says whose it is, which attempt wrote it and what
//! it was made from, so that any caller can go on where another one died.
//!
//! ```text
//! look (every namespace) ─ fence ─ all so already? ─ yes ─► Unchanged
//!                                        │ no
//!              Secret ─► Deployment ─► Service   each: made (POST), or applied over exactly what was looked at
//!                                        │
//!              look again ─ a newer attempt? ─ yes ─► what was made is taken back, Conflict
//!                                        │ no
//!              what of the owner is not wanted any more goes (another namespace, another name)
//! ```

mod calls;
mod changes;
mod deploy;
mod drift;
mod health;
mod kubeconfig;
mod logs;
mod normalise;
mod objects;
mod observe;
mod reasons;

pub use normalise::normalise;

/// Grows when objects are made otherwise than before.
pub const REVISION: u32 = 1;

use crate::{Adapter, Applied, Change, Discovered, Health, LogOptions, Removed, Result};
use basalt_model::{
    Epoch, Name,
    deployments::{LogLine, Owner, PlatformCapabilities, SecretText, Workload},
    providers::KubernetesProvider,
};
use calls::Cluster;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use serde::Deserialize;
use std::{collections::BTreeSet, time::Duration};

/// The name by which the cluster knows who wrote which field.
pub const FIELD_MANAGER: &str = "basalt";

/// The Role that allows exactly what is done here, as it is shipped.
pub const ROLE: &str = include_str!("../../../deploy/kubernetes/role.yaml");

/// What those who run the gateway say about clusters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The image in which packages of npm run; it has `npx`.
    pub npm_runner: Option<String>,
    /// The image in which packages of the Python Package Index run; it has `uvx`.
    pub pypi_runner: Option<String>,
    /// An image with `/basalt-mcp-bridge`, a static executable, and `cp`, which puts it beside servers that speak by
    /// standard input and output.
    pub bridge_image: Option<String>,
    /// Seconds that one request may take.
    pub request_seconds: u32,
    /// Seconds that one call (a deploy, a look) may take.
    pub call_seconds: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            npm_runner: None,
            pypi_runner: None,
            bridge_image: None,
            request_seconds: 15,
            call_seconds: 60,
        }
    }
}

/// Most namespaces or pods that are asked about at once.
const AT_ONCE: usize = 8;

/// Every answer, in order, or the first error; so many questions at once.
async fn all_of<T, F: Future<Output = Result<T>>>(questions: impl IntoIterator<Item = F>) -> Result<Vec<T>> {
    // Made before they are asked: a closure that is kept across the waiting would not be known to be `Send`.
    let questions: Vec<F> = questions.into_iter().collect();
    stream::iter(questions).buffered(AT_ONCE).try_collect().await
}

/// One cluster.
pub struct Kubernetes {
    cluster: Cluster,
    namespace: Name,
    namespaces: BTreeSet<Name>,
    options: Options,
    verified: bool,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Kubernetes");
        shown
            .field("cluster", &self.cluster.server)
            .field("namespaces", &self.namespaces)
            .finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// A cluster, by its kubeconfig. Nothing is asked of it yet. Must be called within a Tokio runtime.
    pub fn new(provider: &KubernetesProvider, kubeconfig: &SecretText, options: Options) -> Result<Self> {
        let read = kubeconfig::read(kubeconfig, provider.context.as_deref())?;
        let request_time = Duration::from_secs(u64::from(options.request_seconds.max(1)));
        let verified = !read.config.accept_invalid_certs;
        Ok(Self {
            cluster: Cluster::new(read, request_time)?,
            namespace: provider.namespace.clone(),
            namespaces: provider.all_namespaces().into_iter().cloned().collect(),
            options,
            verified,
        })
    }

    /// Ends a call in the time it has.
    async fn within<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let time = Duration::from_secs(u64::from(self.options.call_seconds.max(1)));
        match tokio::time::timeout(time, call).await {
            Ok(result) => result,
            Err(_) => Err(reasons::call_timeout(&self.cluster.server, time)),
        }
    }
}

impl Adapter for Kubernetes {
    fn revision(&self) -> u32 {
        REVISION
    }

    fn capabilities(&self) -> PlatformCapabilities {
        PlatformCapabilities {
            npm: self.options.npm_runner.is_some(),
            pypi: self.options.pypi_runner.is_some(),
            stdio: self.options.bridge_image.is_some(),
            replicas: true,
            namespaces: true,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health>> {
        self.within(self.look_at_health()).boxed()
    }

    fn deploy<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Applied>> {
        self.within(self.apply_workload(workload))
            .map(|result| result.map_err(|error| reasons::without_secrets(error, workload)))
            .boxed()
    }

    fn undeploy<'a>(&'a self, owner: &'a Owner, epoch: Epoch) -> BoxFuture<'a, Result<Removed>> {
        self.within(self.remove_owned(owner, epoch)).boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Discovered>>> {
        self.within(self.look_at_all()).boxed()
    }

    fn observe_one<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Vec<Discovered>>> {
        self.within(self.look_at_one(owner)).boxed()
    }

    fn logs<'a>(
        &'a self,
        owner: &'a Owner,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<LogLine>>>> {
        self.within(self.read_logs(owner, options)).boxed()
    }

    fn adopt<'a>(
        &'a self,
        found: &'a Discovered,
        owner: &'a Owner,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<()>> {
        self.within(self.write_owner_on(found, owner, epoch)).boxed()
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        self.watch_for_changes()
    }
}
