//! Deployments: how they were judged is written down.

use crate::lane::RECHECK;
use basalt_model::{DeploymentId, attempts::Standing};
use basalt_store::{Error, Store, deployments};
use krt::Finish;

/// Writes the standings of several deployments in one transaction.
pub async fn judge(
    store: &Store,
    rows: &[(DeploymentId, Standing)],
) -> Result<Vec<(DeploymentId, Finish)>, Error> {
    let mut tx = store.derived().await?;
    deployments::judge(&mut tx, rows).await?;
    tx.commit().await?;
    Ok(rows.iter().map(|(id, _)| (*id, Finish::After(RECHECK))).collect())
}
