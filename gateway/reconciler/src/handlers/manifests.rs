//! Rows of manifests: put, withdrawn, and removed once the host reported them gone.

use crate::{
    lane::{RECHECK, STALE},
    rows::ItemRow,
};
use basalt_model::{DateTime, HostId};
use basalt_plan::manifest::Edit;
use basalt_store::{
    Error, Store,
    manifests::{self, Put, Write},
};
use krt::Finish;

/// Writes the edits of several hosts in one transaction.
pub async fn perform(
    store: &Store,
    hosts: &[(HostId, Vec<Edit>)],
    now: DateTime,
) -> Result<Vec<(HostId, Finish)>, Error> {
    let writes: Vec<Write> = hosts.iter().map(|(host, edits)| write(*host, edits)).collect();
    let mut tx = store.system().await?;
    let puts = manifests::put(&mut tx, &writes, now).await?;
    tx.commit().await?;
    let wait = |put: &Put| Finish::After(if put.refused.is_empty() { RECHECK } else { STALE });
    Ok(hosts.iter().zip(&puts).map(|((host, _), put)| (*host, wait(put))).collect())
}

fn write(host: HostId, edits: &[Edit]) -> Write {
    let mut write = Write { host_id: host, upserts: Vec::new(), removes: Vec::new() };
    for edit in edits {
        match edit {
            Edit::Put(item) => match ItemRow::write(item) {
                Ok(row) => write.upserts.push(row),
                Err(error) => tracing::error!(%host, id = %item.id, %error, "an item cannot be written"),
            },
            Edit::Remove { key, .. } => write.removes.push((key.kind.as_str().to_owned(), key.id)),
        }
    }
    write
}
