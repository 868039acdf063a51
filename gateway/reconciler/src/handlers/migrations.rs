//! Migrations: each step is compare-and-set, so that of two gateways the second does nothing.

use crate::{
    graph::migrations::Step,
    lane::{RECHECK, STALE},
};
use basalt_model::{
    DateTime, MigrationId, TaskId,
    migrations::{MigrationOutcome, MigrationResult},
    tasks::{TaskMove, TaskState},
};
use basalt_store::{
    Error, Store,
    migrations::{self, Settlement, Stepped},
    tasks,
};
use krt::Finish;

/// A step, with the task that waits for the migration.
pub type Due = (MigrationId, TaskId, Step);

/// Writes steps. The end of a migration and the end of its task are one.
pub async fn perform(
    store: &Store,
    rows: &[Due],
    now: DateTime,
) -> Result<Vec<(MigrationId, Finish)>, Error> {
    let mut tx = store.system().await?;
    let mut out = Vec::new();
    for (id, task, step) in rows {
        let stepped = match step {
            Step::Choose(choice) => migrations::choose(&mut tx, choice).await?,
            Step::Begin => migrations::begin(&mut tx, *id, now).await?,
            Step::Close => migrations::close(&mut tx, *id, now).await?,
            Step::Settle { begun, outcome } => {
                let settlement = Settlement { id: *id, begun: *begun, outcome: outcome.clone(), now };
                let settled = migrations::settle(&mut tx, &settlement).await?;
                if settled == Stepped::Done {
                    tasks::advance(&mut tx, &[end(*task, outcome)], now).await?;
                }
                settled
            }
        };
        let after = if stepped == Stepped::Done { RECHECK } else { STALE };
        out.push((*id, Finish::After(after)));
    }
    tx.commit().await?;
    Ok(out)
}

fn end(id: TaskId, outcome: &MigrationOutcome) -> TaskMove {
    let (state, progress) = match outcome.result {
        MigrationResult::Completed => (TaskState::Completed, 100),
        MigrationResult::Failed => (TaskState::Failed, 0),
        MigrationResult::Cancelled => (TaskState::Cancelled, 0),
    };
    let error = (outcome.result != MigrationResult::Completed).then(|| {
        outcome.reason.clone().unwrap_or_else(|| {
            basalt_model::CapabilityReason::new(
                "not_migrated",
                "migration",
                outcome.message.clone(),
                "see what both hosts say of the VM, and ask again",
            )
        })
    });
    TaskMove { id, state, progress, stage: outcome.message.clone(), error }
}
