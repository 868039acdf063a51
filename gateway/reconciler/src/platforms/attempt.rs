//! One attempt: claimed, carried out while the claim is held, written down under it.
//!
//! ```text
//! claim ─none─► later                      ┌─ superseded ─► written down as that
//!   └─► adapter: deploy, look │ undeploy ──┼─ claim lost ─► nothing is written
//!            (renewed each 10 s)           └─ ended ──────► record
//! ```

use super::{
    Platforms, contained, internal,
    look::things,
    record::{self, Done, End},
};
use crate::{
    dispatch::{Ended, Start},
    graph::deployments::{Draft, Due, Order},
    handlers::ids,
};
use basalt_adapters::{Adapter, Discovered, Removed};
use basalt_model::{
    Epoch, Name,
    artifacts::Source,
    attempts::Action,
    deployments::{ErrorClass, SecretText, Workload},
    tasks::Actor,
};
use basalt_store::{
    Change,
    attempts::{self, Claim, Wanted},
    leases::Lease,
    work::LEASE_SECONDS,
};
use krt::Finish;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How often a claim is renewed.
const RENEW: Duration = Duration::from_secs(LEASE_SECONDS.unsigned_abs() / 3);
/// When an attempt is looked at again that could not be claimed or written down.
const LATER: Duration = Duration::from_secs(1);
/// When an attempt is looked at again that was written down, if no news came of it.
const SETTLED: Duration = Duration::from_secs(5);

impl Platforms {
    /// Carries out an attempt.
    pub async fn attempt(self: Arc<Self>, start: Start, lease: Lease) -> Ended {
        let later = Ended { id: start.id, finish: Finish::After(LATER), answer: None, written: None };
        let claim = match self.claim(&start, &lease).await {
            Ok(Some(claim)) => claim,
            Ok(None) => return later,
            Err(error) => {
                tracing::warn!(deployment = %start.id, %error, "an attempt could not be claimed");
                return later;
            }
        };
        let started_at = self.clock.now();
        let end = self.carry_out(&start, claim).await;
        let answer = match &end {
            End::Answered(result) => Some(result.as_ref().map(|_| ()).map_err(|e| e.class)),
            End::Superseded | End::Lost => None,
        };
        if matches!(end, End::Lost) {
            tracing::warn!(deployment = %start.id, epoch = claim.epoch.0, "an attempt lost its claim; nothing of it is written");
            return later;
        }
        match self.write(&start, claim, end, started_at).await {
            Ok(true) => Ended { finish: Finish::After(SETTLED), answer, written: Some(claim.epoch), ..later },
            Ok(false) => {
                tracing::warn!(deployment = %start.id, epoch = claim.epoch.0, "an attempt came too late to be written down");
                Ended { answer, ..later }
            }
            Err(error) => {
                tracing::warn!(deployment = %start.id, %error, "the end of an attempt could not be written down; it is made again");
                Ended { answer, ..later }
            }
        }
    }

    async fn claim(&self, start: &Start, lease: &Lease) -> basalt_store::Result<Option<Claim>> {
        let request = &start.due.request;
        let wanted = Wanted { deployment_id: start.id, generation: request.generation, after: request.after };
        let mut tx = self.store.system().await?;
        let claim = attempts::claim(&mut tx, wanted, lease, self.hands.executor, self.clock.now()).await?;
        tx.commit().await?;
        Ok(claim)
    }

    /// Asks the platform, for as long as the claim is held and nothing else is wanted.
    async fn carry_out(self: &Arc<Self>, start: &Start, claim: Claim) -> End {
        let (hands, due) = (Arc::clone(self), Arc::clone(&start.due));
        let subject = format!("deployment/{}", due.order.owner.name);
        let call = contained(subject, async move { hands.ask(&due, claim.epoch).await });
        tokio::pin!(call);
        let mut held = tokio::time::interval(RENEW);
        held.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        held.tick().await;
        let mut unsure = 0;
        loop {
            tokio::select! {
                biased;
                result = &mut call => return End::Answered(result),
                () = start.cancel.cancelled() => return End::Superseded,
                _ = held.tick() => match self.renew(claim).await {
                    Ok(true) => unsure = 0,
                    Ok(false) => return End::Lost,
                    // Twice in a row: by now the lease may be over.
                    Err(_) if unsure > 0 => return End::Lost,
                    Err(_) => unsure += 1,
                },
            }
        }
    }

    async fn renew(&self, claim: Claim) -> basalt_store::Result<bool> {
        let mut tx = self.store.system().await?;
        let held = attempts::renew(&mut tx, claim, self.clock.now()).await?;
        tx.commit().await?;
        Ok(held)
    }

    async fn ask(&self, due: &Due, epoch: Epoch) -> basalt_adapters::Result<Done> {
        let order = &due.order;
        let adapter = self.adapter(&order.provider).await?;
        if due.request.action != Action::Deploy {
            return Ok(match adapter.undeploy(&order.owner, epoch).await? {
                Removed::Going => Done::Going,
                gone => Done::Removed(gone),
            });
        }
        let draft = order.draft.as_ref().ok_or_else(|| internal("deployment", "nothing is known to run"))?;
        let workload = self.workload(due, draft, epoch).await?;
        if let Some(adopted) = &order.adopts {
            self.adopt(adapter.as_ref(), order, adopted, epoch).await?;
        }
        let applied = adapter.deploy(&workload).await?;
        let seen = adapter.observe_one(&order.owner).await?;
        // Of what runs elsewhere anyway nothing is to be seen here.
        if seen.is_empty() && !matches!(workload.program.source, Source::Remote { .. }) {
            let remedy = "it is looked at again by itself; if it stays so, something takes it away at once";
            return Err(basalt_adapters::Error::new(
                ErrorClass::Transient,
                basalt_model::CapabilityReason::new(
                    "not_seen",
                    format!("deployment/{}", order.owner.name),
                    "it was applied, and nothing of it was seen right afterwards",
                    remedy,
                ),
            ));
        }
        Ok(Done::Deployed(applied, things(self.eyes, order.provider.spec.platform(), seen)))
    }

    async fn adopt(
        &self,
        adapter: &dyn Adapter,
        order: &Order,
        adopted: &basalt_store::deployments::Adopted,
        epoch: Epoch,
    ) -> basalt_adapters::Result<()> {
        let named = |d: &Discovered| {
            d.kind == adopted.kind && d.name == adopted.name && d.namespace == adopted.namespace
        };
        let all = adapter.observe().await?;
        match all.iter().find(|d| named(d)) {
            Some(found) if found.owner == Some(order.owner.id) => Ok(()),
            Some(found) => adapter.adopt(found, &order.owner, epoch).await,
            // It is ours under another name already, or it is gone: then it is made.
            None => Ok(()),
        }
    }

    /// Everything that the platform is told, with the values of secrets.
    async fn workload(&self, due: &Due, draft: &Draft, epoch: Epoch) -> basalt_adapters::Result<Workload> {
        let names: Vec<Name> = draft.secrets.keys().cloned().collect();
        let mut values: BTreeMap<Name, SecretText> = BTreeMap::new();
        if !names.is_empty() {
            let found = self.reveal(due.order.project_id, &names).await;
            let found = found.map_err(|e| internal("secrets", e.to_string()))?;
            for (name, wanted) in &draft.secrets {
                // What was decided on is another generation: the news of it is on its way.
                let changed = || internal(format!("secret/{name}"), "it changed meanwhile");
                let (_, value) = found.get(name).filter(|(g, _)| g == wanted).ok_or_else(changed)?;
                values.insert(name.clone(), value.clone());
            }
        }
        let secret_env = draft.secret_env.iter();
        let secret_env = secret_env.filter_map(|(k, name)| Some((k.clone(), values.get(name)?.clone())));
        Ok(Workload {
            owner: due.order.owner.clone(),
            generation: due.request.generation,
            epoch,
            fingerprint: due.request.fingerprint.clone(),
            target: draft.target.clone(),
            program: draft.program.clone(),
            env: draft.env.clone(),
            secret_env: secret_env.collect(),
            resources: draft.resources.clone(),
            kubernetes: draft.kubernetes.clone(),
            local: draft.local.clone(),
        })
    }

    async fn write(
        &self,
        start: &Start,
        claim: Claim,
        end: End,
        started_at: basalt_model::DateTime,
    ) -> basalt_store::Result<bool> {
        let now = self.clock.now();
        let ids = ids::new(uuid::Uuid::from_u128(start.id.0.as_u128() ^ (claim.epoch.0 as u128) << 64), now);
        let change = Change { actor: Actor::system("reconciler"), request_id: None, now, ids };
        let id = attempts::event_id(&change);
        let times = record::Times { started_at, now, jitter: self.clock.jitter() };
        let record = record::of(&start.due, claim, end, times, id, self.eyes);
        let mut tx = self.store.system().await?;
        let written = attempts::record(&mut tx, &change, claim, &record).await?;
        tx.commit().await?;
        Ok(written)
    }
}
