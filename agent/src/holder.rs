//! Holds the host's lease: asks for it every few seconds while VMs need it, and now and then otherwise, so that a host
//! that was given up for dead is heard to be back.

use crate::{
    agent::{Status, Wait},
    host::facts,
    lease::{self, Lease},
    link::Gateway,
};
use basalt_wire::agent::lease::LeaseRequest;
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// Between two askings, while VMs need the lease: four in the time for which one holds.
const RENEWAL: Duration = Duration::from_secs(5);
/// Between two askings, while no VM does.
const IDLE: Duration = Duration::from_secs(60);
/// After one that was refused or not answered.
const AGAIN: Duration = Duration::from_secs(1);

/// Who asks.
pub(crate) struct Holder {
    pub(crate) lease: Lease,
    /// This start of the agent.
    pub(crate) boot: Uuid,
}

impl Holder {
    pub(crate) async fn hold<G: Gateway>(&self, gateway: &G, wait: &Wait, status: &watch::Sender<Status>) {
        if !self.lease.is_kept() {
            return std::future::pending().await;
        }
        let mut changes = self.lease.changes();
        let (mut refused, mut known) = (false, false);
        loop {
            changes.mark_unchanged();
            // Once for every start: a host that is lost before it says anything else must be known to have a fencer.
            let asks = !known || !self.lease.listed().is_empty();
            let given = self.ask(gateway, status, asks, &mut refused).await;
            known |= given;
            let needed = !self.lease.listed().is_empty();
            let pause = match (given, needed) {
                (false, true) => AGAIN,
                (false, false) => IDLE / 6,
                (true, true) => RENEWAL,
                (true, false) => IDLE,
            };
            // A VM that is new on the list waits for nothing else.
            let news = async {
                while !needed && changes.changed().await.is_ok() && self.lease.listed().is_empty() {}
            };
            if needed {
                tokio::time::sleep(wait.jittered(pause)).await;
            } else {
                tokio::time::timeout(wait.jittered(pause), news).await.unwrap_or_default();
            }
        }
    }

    /// Asks once; says whether it was given and kept, or is not needed.
    async fn ask<G: Gateway>(
        &self,
        gateway: &G,
        status: &watch::Sender<Status>,
        needed: bool,
        refused: &mut bool,
    ) -> bool {
        // It counts from before it was asked for: what happens on the way is on our account.
        let Some(asked_at) = lease::uptime() else { return false };
        let request = LeaseRequest {
            agent_boot: self.boot,
            boot_id: facts::boot_id(),
            manifest_revision: status.borrow().revision,
            fencer: self.lease.fencer(),
            needed,
        };
        let answer = match gateway.lease(&request).await {
            Ok(answer) => answer,
            Err(error) => {
                if !std::mem::replace(refused, true) {
                    tracing::warn!(%error, "no lease from the gateway");
                }
                return false;
            }
        };
        let was_refused = answer.refused.is_some();
        if let Some(reason) = answer.refused.filter(|_| !std::mem::replace(refused, true)) {
            tracing::warn!(%reason, "the lease was refused");
        }
        let Some(seconds) = answer.seconds else { return !needed && !was_refused };
        *refused = false;
        match self.lease.keep(asked_at + Duration::from_secs(seconds.into())) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "the lease cannot be kept; VMs that need it will be stopped");
                false
            }
        }
    }
}
