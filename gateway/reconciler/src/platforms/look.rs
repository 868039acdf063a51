//! A look at everything that a provider's platform shows.

use super::{Platforms, contained};
use crate::{graph::Eyes, handlers::ids};
use basalt_adapters::Discovered;
use basalt_model::{CapabilityReason, DateTime, DeploymentId, ProviderId, providers::Platform, tasks::Actor};
use basalt_store::{
    Change,
    discovered::{self, Look, Run, Thing},
    leases::Lease,
    providers::Provider,
};
use std::sync::Arc;

/// What a look found, to be written down.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The provider.
    pub provider: Arc<Provider>,
    /// When it began.
    pub started_at: DateTime,
    /// Everything that is there, with what answers; or why nobody knows.
    pub found: Result<(Look, serde_json::Value), CapabilityReason>,
}

/// As the store keeps it.
pub(super) fn things(eyes: Eyes, platform: Platform, found: Vec<Discovered>) -> Look {
    let thing = |d: Discovered| Thing {
        workload: (eyes.normalise)(platform, std::slice::from_ref(&d)).is_some(),
        kind: d.kind,
        namespace: d.namespace.unwrap_or_default(),
        name: d.name,
        owner: d.owner,
        raw: d.raw,
    };
    found.into_iter().map(thing).collect()
}

impl Platforms {
    /// Looks at a provider: at everything, or an error.
    pub async fn look(self: Arc<Self>, provider: Arc<Provider>) -> Looked {
        let started_at = self.clock.now();
        let (hands, of) = (Arc::clone(&self), Arc::clone(&provider));
        let subject = format!("provider/{}", provider.metadata.name);
        let found = contained(subject, async move {
            let adapter = hands.adapter(&of).await?;
            let health = adapter.health().await?;
            let all = adapter.observe().await?;
            let health = serde_json::to_value(health).unwrap_or_default();
            basalt_adapters::Result::Ok((things(hands.eyes, of.spec.platform(), all), health))
        });
        let found = found.await.map_err(|error: basalt_adapters::Error| error.reason);
        Looked { provider, started_at, found }
    }

    /// Writes down what a look found. Of deployments at which something was done meanwhile it says nothing.
    pub async fn looked(
        self: Arc<Self>,
        looked: Looked,
        lease: Lease,
        except: Vec<DeploymentId>,
    ) -> ProviderId {
        let id = looked.provider.id();
        let now = self.clock.now();
        let run = Run {
            provider_id: id,
            platform: looked.provider.spec.platform(),
            started_at: looked.started_at,
            found: looked.found,
            except,
        };
        let ids = ids::new(id.0, now);
        let change = Change { actor: Actor::system("reconciler"), request_id: None, now, ids };
        let written = async {
            let mut tx = self.store.system().await?;
            let changed = discovered::record(&mut tx, &change, &lease, &run).await?;
            tx.commit().await?;
            Ok::<_, basalt_store::Error>(changed)
        };
        if let Err(error) = written.await {
            tracing::warn!(provider = %id, %error, "what a look found could not be written down; it is made again");
        }
        id
    }
}
