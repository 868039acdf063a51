//! The hands' side of the reconciler: adapters by provider, attempts carried out, providers looked at.
//!
//! Nothing here decides. An attempt is claimed, carried out and written down; a look is made and written down; the feed
//! brings both back into the graph. Whatever a platform does, hang, lie or panic, ends here as an error.

mod attempt;
mod look;
mod record;

use basalt_adapters::{Adapter, Error, LogOptions};
use basalt_daemon::Clock;
use basalt_model::{
    CapabilityReason, Generation, Name, ProjectId, ProviderId,
    deployments::{ErrorClass, LogLine, Owner, SecretText},
    providers::ProviderSpec,
};
use basalt_store::{
    Store,
    providers::Provider,
    secrets::{self, SealingKeys},
    work::Executor,
};
use futures::{StreamExt, stream::BoxStream};
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

pub use look::Looked;

/// Makes adapters.
pub trait Open: Send + Sync {
    /// The adapter of a provider. Nothing is asked of the platform yet.
    fn open(
        &self,
        provider: &ProviderSpec,
        access: Option<&SecretText>,
    ) -> Result<Arc<dyn Adapter>, Box<Error>>;
}

/// What it takes to reach platforms.
#[derive(Clone)]
pub struct Hands {
    /// Makes adapters.
    pub open: Arc<dyn Open>,
    /// Opens secrets.
    pub keys: Arc<SealingKeys>,
    /// Who claims attempts: another start of the same executor takes over at once what this one left.
    pub executor: Executor,
}

/// Providers within reach.
pub struct Platforms {
    store: Store,
    clock: Arc<dyn Clock>,
    hands: Hands,
    eyes: crate::graph::Eyes,
    opened: Mutex<BTreeMap<ProviderId, Opened>>,
    hints: mpsc::Sender<ProviderId>,
}

struct Opened {
    generation: Generation,
    access: Option<Generation>,
    adapter: Arc<dyn Adapter>,
    /// Listens for what changes there.
    _listener: AbortOnDropHandle<()>,
}

/// A platform's answer that somebody else wrote for it.
fn internal(subject: impl Into<String>, message: impl Into<String>) -> Error {
    let remedy = "it is tried again by itself; if it stays so, look at the gateway's log";
    let reason = CapabilityReason::new("internal", subject.into(), message.into(), remedy);
    Error::new(ErrorClass::Transient, reason)
}

impl Platforms {
    /// Providers within reach, and where is told which ones changed.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        hands: Hands,
        eyes: crate::graph::Eyes,
    ) -> (Arc<Self>, mpsc::Receiver<ProviderId>) {
        let (hints, hinted) = mpsc::channel(64);
        let opened = Mutex::new(BTreeMap::new());
        (Arc::new(Self { store, clock, hands, eyes, opened, hints }), hinted)
    }

    /// The adapter of a provider: the same one for as long as the provider and the secret that it gets in by stay.
    pub async fn adapter(&self, provider: &Provider) -> basalt_adapters::Result<Arc<dyn Adapter>> {
        let subject = || format!("provider/{}", provider.metadata.name);
        let project = provider.metadata.project_id.unwrap_or(ProjectId(uuid::Uuid::nil()));
        let access = match provider.spec.secret() {
            None => None,
            Some(named) => {
                let name = named.secret.clone();
                let found = self.reveal(project, std::slice::from_ref(&name)).await;
                let mut found = found.map_err(|e| internal(subject(), e.to_string()))?;
                let missing = || {
                    let remedy = format!("basalt create secret {name} --file -");
                    let message = "the secret that one gets in by is not there";
                    let reason = CapabilityReason::new("secret_missing", subject(), message, remedy);
                    Error::new(ErrorClass::Missing, reason)
                };
                Some(found.remove(&name).ok_or_else(missing)?)
            }
        };
        let (generation, of_access) = (provider.metadata.generation, access.as_ref().map(|a| a.0));
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.get(&provider.id())
            && (known.generation, known.access) == (generation, of_access)
        {
            return Ok(Arc::clone(&known.adapter));
        }
        let adapter = self.hands.open.open(&provider.spec, access.as_ref().map(|a| &a.1));
        let adapter = adapter.map_err(|error| *error)?;
        let listener = self.listen(provider.id(), &adapter);
        let entry =
            Opened { generation, access: of_access, adapter: Arc::clone(&adapter), _listener: listener };
        opened.insert(provider.id(), entry);
        Ok(adapter)
    }

    /// Lets go of providers that are no more.
    pub fn keep(&self, known: impl Fn(&ProviderId) -> bool) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| known(id));
    }

    /// The log of a deployment, from its platform.
    pub async fn logs(
        &self,
        provider: &Provider,
        owner: &Owner,
        options: LogOptions,
    ) -> basalt_adapters::Result<BoxStream<'static, basalt_adapters::Result<LogLine>>> {
        self.adapter(provider).await?.logs(owner, options).await
    }

    /// Values of secrets with their generations.
    async fn reveal(
        &self,
        project: ProjectId,
        names: &[Name],
    ) -> basalt_store::Result<BTreeMap<Name, (Generation, SecretText)>> {
        let mut tx = self.store.system().await?;
        let found = secrets::reveal(&mut tx, project, names, &self.hands.keys).await?;
        tx.commit().await?;
        Ok(found)
    }

    fn listen(&self, id: ProviderId, adapter: &Arc<dyn Adapter>) -> AbortOnDropHandle<()> {
        let (hints, adapter) = (self.hints.clone(), Arc::clone(adapter));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut changes = adapter.changes();
            while changes.next().await.is_some() {
                // Only a hint: when many wait to be heard already, this one says nothing new.
                let _ = hints.try_send(id);
            }
        }))
    }
}

/// Runs what asks a platform on a task of its own, so that a panic in it ends nothing else. Dropped, it is ended.
async fn contained<T: Send + 'static>(
    subject: String,
    call: impl Future<Output = basalt_adapters::Result<T>> + Send + 'static,
) -> basalt_adapters::Result<T> {
    match AbortOnDropHandle::new(tokio::spawn(call)).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(subject, %error, "an adapter panicked; it is contained");
            Err(internal(subject, "the adapter of this platform panicked"))
        }
    }
}
