//! Conditions: written when they say something else than what is stored. The store keeps `since`.

use crate::lane::RECHECK;
use basalt_model::DateTime;
use basalt_plan::conditions::date;
use basalt_store::{
    Error, Store,
    conditions::{self, Conditions},
};
use krt::Finish;
use uuid::Uuid;

/// Writes the conditions of several objects in one transaction.
pub async fn perform(
    store: &Store,
    rows: &[Conditions],
    now: DateTime,
) -> Result<Vec<(Uuid, Finish)>, Error> {
    let mut tx = store.derived().await?;
    let dated: Vec<_> = rows
        .iter()
        .map(|row| Conditions { conditions: date(&[], row.conditions.clone(), now), ..row.clone() })
        .collect();
    conditions::put(&mut tx, &dated).await?;
    tx.commit().await?;
    Ok(rows.iter().map(|row| (row.subject_id, Finish::After(RECHECK))).collect())
}
