//! Moves of tasks. The store refuses what may not follow, so a task that ended meanwhile stays ended.
//!
//! That a task ended is durable before anybody can read it. How far it is on its way is derived, like a condition: what a
//! crash takes away is found again.

use crate::lane::RECHECK;
use basalt_model::{
    DateTime, TaskId, TenantId,
    tasks::{Actor, TaskMove},
};
use basalt_store::{Change, Error, Ids, Store, task_dependencies, tasks};
use krt::Finish;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use uuid::Uuid;

/// Moves several tasks in one transaction.
pub async fn perform(
    store: &Store,
    moves: &[TaskMove],
    now: DateTime,
) -> Result<Vec<(TaskId, Finish)>, Error> {
    let ends = moves.iter().any(|m| m.state.is_terminal());
    let mut tx = if ends { store.system_ahead().await? } else { store.derived().await? };
    tasks::advance(&mut tx, moves, now).await?;
    tx.commit().await?;
    Ok(moves.iter().map(|m| (m.id, Finish::After(RECHECK))).collect())
}

/// Starts tasks whose turn has come, each in a transaction of its own: what one asks for may be refused now.
pub async fn start(
    store: &Store,
    due: &[(TaskId, TenantId)],
    now: DateTime,
) -> Result<Vec<(TaskId, Finish)>, Error> {
    let mut out = Vec::new();
    for (id, tenant) in due {
        let ids = ids(*id, now);
        let change = Change { actor: Actor::system("reconciler"), request_id: None, now, ids };
        let mut tx = store.tenant(*tenant).await?;
        match task_dependencies::start(&mut tx, &change, *id).await {
            Ok(_) => tx.commit().await?,
            Err(error @ (Error::Unavailable(_) | Error::Conflict(_) | Error::Database(_))) => {
                return Err(error);
            }
            Err(refusal) => {
                drop(tx);
                let mut tx = store.system().await?;
                task_dependencies::fail(&mut tx, *id, &refusal, now).await?;
                tx.commit().await?;
            }
        }
        out.push((*id, Finish::After(RECHECK)));
    }
    Ok(out)
}

/// New ids for what a task starts, made of its own: asked again, the same come, and a run is repeated as it was.
fn ids(task: TaskId, now: DateTime) -> Ids {
    let millis = u128::from(now.timestamp_millis().unsigned_abs()) & 0xffff_ffff_ffff;
    let seed = (task.0.as_u128() >> 64) as u64 ^ task.0.as_u128() as u64;
    let next = AtomicU64::new(1);
    Arc::new(move || {
        // Weyl's sequence and a finaliser, as in SplitMix64: neighbours differ in every byte.
        let n = next.fetch_add(1, Ordering::Relaxed);
        let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let tail = u128::from(z ^ (z >> 31)) & 0x3fff_ffff_ffff_ffff;
        Uuid::from_u128(millis << 80 | 0x7 << 76 | u128::from(n & 0xfff) << 64 | 0x8 << 60 | tail)
    })
}
