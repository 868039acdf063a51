//! Moves of tasks. The store refuses what may not follow, so a task that ended meanwhile stays ended.

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
    let mut tx = store.system().await?;
    tasks::advance(&mut tx, moves, now).await?;
    tx.commit().await?;
    Ok(moves.iter().map(|m| (m.id, Finish::After(RECHECK))).collect())
}
