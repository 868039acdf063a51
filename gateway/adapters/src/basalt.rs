//! VMs of a project of Basalt, this one or another: one small VM a deployment, over the public API like any other client.
//!
//! Nothing is kept here: whose a VM is, which attempt wrote it and what it was made from stands in its labels and in the
//! first lines of its user-data, so that any caller can go on where another one died.
//!
//! ```text
//! look (by label) ─ fence ─ made as wanted? ─ yes ─► runs and says so? ─ yes ─► Unchanged
//!                               │ no                       └─ no ──► written in place (If-Match)
//!                               ▼
//!        would a new one be taken (dry run)? ─► delete, wait until it is gone ─► create, at the same address
//! ```
//!
//! A guest reads its user-data at its first boot only, so another artifact or another variable is another VM. The old one
//! is gone before the new one is made: two never run. See `docs/platforms/basalt.md`.

mod access;
mod calls;
mod changes;
mod deploy;
mod guest;
mod health;
mod logs;
mod normalise;
mod observe;
mod reasons;
mod vm;

pub use normalise::normalise;

/// Grows when a VM is made otherwise than before.
pub const REVISION: u32 = 1;

use crate::{Adapter, Applied, Change, Discovered, Health, LogOptions, Now, Removed, Result};
use basalt_model::{
    DateTime, Epoch,
    deployments::{LogLine, Owner, PlatformCapabilities, SecretText, Workload},
    providers::BasaltProvider,
};
use calls::Calls;
use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use std::{sync::Mutex, time::Duration};

/// A project of a Basalt.
pub struct Basalt {
    place: BasaltProvider,
    calls: Calls,
    call_limit: Duration,
    now: Now,
    /// Which version answers, and when that was asked.
    version: Mutex<Option<(DateTime, String)>>,
}

impl std::fmt::Debug for Basalt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Basalt").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Basalt {
    /// A project, by what its provider says and the secret that one gets in with. Nothing is asked of it yet. `call_limit`
    /// is how long any call may last; the end of an old VM is part of one.
    pub fn new(place: &BasaltProvider, access: &SecretText, call_limit: Duration, now: Now) -> Result<Self> {
        let calls = Calls::new(access::read(access)?, &place.project)?;
        Ok(Self { place: place.clone(), calls, call_limit, now, version: Mutex::default() })
    }

    /// Ends a call in the time it has.
    async fn within<T>(&self, doing: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.call_limit, call).await {
            Ok(result) => result,
            Err(_) => Err(reasons::slow(self.calls.server(), doing, self.call_limit)),
        }
    }
}

impl Adapter for Basalt {
    fn revision(&self) -> u32 {
        REVISION
    }

    fn capabilities(&self) -> PlatformCapabilities {
        PlatformCapabilities::default()
    }

    fn health(&self) -> BoxFuture<'_, Result<Health>> {
        self.within("asking what may be done", self.look_at_health()).boxed()
    }

    fn deploy<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Applied>> {
        self.within("deploying", self.deploy_within(workload))
            .map(|result| result.map_err(|error| reasons::without_secrets(error, workload)))
            .boxed()
    }

    fn undeploy<'a>(&'a self, owner: &'a Owner, epoch: Epoch) -> BoxFuture<'a, Result<Removed>> {
        self.within("undeploying", self.undeploy_within(owner, epoch)).boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Discovered>>> {
        self.within("looking at all VMs", self.look_at_all()).boxed()
    }

    fn observe_one<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Vec<Discovered>>> {
        self.within("looking at the VM", self.look_at_one(owner)).boxed()
    }

    fn logs<'a>(
        &'a self,
        owner: &'a Owner,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<LogLine>>>> {
        self.within("reading the console", self.read_console(owner, options)).boxed()
    }

    /// Writes the owner into the VM's labels; the VM is not touched. The first deploy makes it anew from the artifact,
    /// because nothing says that it runs that.
    fn adopt<'a>(
        &'a self,
        found: &'a Discovered,
        owner: &'a Owner,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<()>> {
        self.within("adopting a VM", self.write_owner_on(found, owner, epoch)).boxed()
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        self.watch_for_changes()
    }
}
