//! The loss of hosts: proofs are written down, and VMs given away under one that stands.

use super::ids;
use crate::lane::{RECHECK, STALE};
use basalt_model::{DateTime, VmId, tasks::Actor};
use basalt_store::{
    Change, Error, Store,
    host_loss::{self, Evacuation, Proof},
    migrations::Stepped,
};
use krt::Finish;
use uuid::Uuid;

/// Writes proofs down: each is compare-and-set on the last lease that was seen.
pub async fn declare(store: &Store, proofs: &[Proof], now: DateTime) -> Result<(), Error> {
    let mut tx = store.system().await?;
    for proof in proofs {
        let change = change(proof.host_id.0, now);
        if host_loss::declare(&mut tx, &change, proof).await? {
            tracing::warn!(host = %proof.host_id, evidence = proof.evidence, "a host is proven dead");
        }
    }
    tx.commit().await
}

/// Gives VMs of dead hosts to others: compare-and-set on proof and epoch.
pub async fn evacuate(
    store: &Store,
    rows: &[(VmId, Evacuation)],
    now: DateTime,
) -> Result<Vec<(VmId, Finish)>, Error> {
    let mut tx = store.system().await?;
    let mut out = Vec::new();
    for (id, to) in rows {
        let change = change(id.0, now);
        let stepped = host_loss::evacuate(&mut tx, &change, to).await?;
        out.push((*id, Finish::After(if stepped == Stepped::Done { RECHECK } else { STALE })));
    }
    tx.commit().await?;
    Ok(out)
}

/// A change by the reconciler.
fn change(of: Uuid, now: DateTime) -> Change {
    Change { actor: Actor::system("reconciler"), request_id: None, now, ids: ids::new(of, now) }
}
