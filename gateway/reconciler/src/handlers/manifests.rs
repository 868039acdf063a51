//! Rows of manifests: put, withdrawn, and removed once the host reported them gone.

use crate::{
    lane::{RECHECK, STALE},
    rows::ItemRow,
};
use basalt_model::{DateTime, HostId};
use basalt_plan::manifest::Edit;
use basalt_store::{Error, Store, manifests};
use krt::Finish;

/// Writes the edits of several hosts in one transaction.
pub async fn perform(
    store: &Store,
    hosts: &[(HostId, Vec<Edit>)],
    now: DateTime,
) -> Result<Vec<(HostId, Finish)>, Error> {
    let mut tx = store.system().await?;
    let mut out = Vec::new();
    for (host, edits) in hosts {
        let (mut upserts, mut removes) = (Vec::new(), Vec::new());
        for edit in edits {
            match edit {
                Edit::Put(item) => match ItemRow::write(item) {
                    Ok(row) => upserts.push(row),
                    Err(error) => tracing::error!(%host, id = %item.id, %error, "an item cannot be written"),
                },
                Edit::Remove { key, .. } => removes.push((key.kind.as_str().to_owned(), key.id)),
            }
        }
        let put = manifests::put(&mut tx, *host, &upserts, &removes, now).await?;
        let wait = if put.refused.is_empty() { RECHECK } else { STALE };
        out.push((*host, Finish::After(wait)));
    }
    tx.commit().await?;
    Ok(out)
}
