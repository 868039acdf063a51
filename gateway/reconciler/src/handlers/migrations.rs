//! Migrations: each step is compare-and-set, so that of two gateways the second does nothing.

use crate::{
    graph::migrations::Step,
    lane::{RECHECK, STALE},
};
use basalt_model::{DateTime, MigrationId};
use basalt_store::{
    Error, Store,
    migrations::{self, Settlement, Stepped},
};
use krt::Finish;

/// Writes steps.
pub async fn perform(
    store: &Store,
    rows: &[(MigrationId, Step)],
    now: DateTime,
) -> Result<Vec<(MigrationId, Finish)>, Error> {
    let mut tx = store.system().await?;
    let mut out = Vec::new();
    for (id, step) in rows {
        let stepped = match step {
            Step::Choose(choice) => migrations::choose(&mut tx, choice).await?,
            Step::Begin => migrations::begin(&mut tx, *id, now).await?,
            Step::Close => migrations::close(&mut tx, *id, now).await?,
            Step::Settle { begun, outcome } => {
                let settlement = Settlement { id: *id, begun: *begun, outcome: outcome.clone(), now };
                migrations::settle(&mut tx, &settlement).await?
            }
        };
        let after = if stepped == Stepped::Done { RECHECK } else { STALE };
        out.push((*id, Finish::After(after)));
    }
    tx.commit().await?;
    Ok(out)
}
