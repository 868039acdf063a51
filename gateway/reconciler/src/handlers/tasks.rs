//! Moves of tasks. The store refuses what may not follow, so a task that ended meanwhile stays ended.
//!
//! That a task ended is durable before anybody can read it. How far it is on its way is derived, like a condition: what a
//! crash takes away is found again.

use crate::lane::RECHECK;
use basalt_model::{DateTime, TaskId, tasks::TaskMove};
use basalt_store::{Error, Store, tasks};
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
