//! Rows of manifests: put, withdrawn, and removed once the host reported them gone.

use crate::{
    OnManifest,
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

/// What came of the edits of one host.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// The host.
    pub host_id: HostId,
    /// How the run ended.
    pub finish: Finish,
}

impl Written {
    pub(super) fn failed(host_id: HostId) -> Self {
        Self { host_id, finish: Finish::Retry }
    }
}

/// Writes the edits of several hosts in one transaction. Their agents wait for it, so they are told first.
pub async fn perform(
    store: &Store,
    hosts: &[(HostId, Vec<Edit>)],
    now: DateTime,
    tell: Option<&OnManifest>,
) -> Result<Vec<Written>, Error> {
    let writes: Vec<Write> = hosts.iter().map(|(host, edits)| write(*host, edits)).collect();
    let mut tx = store.system_ahead().await?;
    let puts = manifests::put(&mut tx, &writes, now).await?;
    let tell_all = || {
        for (write, put) in writes.iter().zip(&puts) {
            tell.inspect(|tell| tell(write.host_id, put.revision));
        }
    };
    tx.commit_telling(tell_all).await?;
    let wait = |put: &Put| Finish::After(if put.refused.is_empty() { RECHECK } else { STALE });
    let written = |(write, put): (&Write, &Put)| Written { host_id: write.host_id, finish: wait(put) };
    Ok(writes.iter().zip(&puts).map(written).collect())
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
