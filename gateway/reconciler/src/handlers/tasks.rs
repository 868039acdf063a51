//! Moves of tasks. The store refuses what may not follow, so a task that ended meanwhile stays ended.
//!
//! That a task ended is durable before anybody can read it. How far it is on its way is derived, like a condition: what a
//! crash takes away is found again.

use super::ids;
use crate::lane::RECHECK;
use basalt_model::{
    DateTime, TaskId, TenantId,
    tasks::{Actor, TaskMove},
};
use basalt_store::{Change, Error, Store, task_dependencies, tasks};
use krt::Finish;

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
        let ids = ids::new(id.0, now);
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
