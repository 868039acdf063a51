//! Routers go to their hosts.

use crate::{
    graph::Move,
    lane::{RECHECK, STALE},
};
use basalt_model::{DateTime, RouterId};
use basalt_store::{Error, Store, routers};
use krt::Finish;

/// Writes where routers are to be: compare-and-set on where they were when it was decided.
pub async fn perform(
    store: &Store,
    moves: &[(RouterId, Move)],
    now: DateTime,
) -> Result<Vec<(RouterId, Finish)>, Error> {
    let mut tx = store.system().await?;
    let mut out = Vec::new();
    for (id, change) in moves {
        let holds = routers::place(&mut tx, *id, &change.from, &change.to, now).await?;
        out.push((*id, Finish::After(if holds { RECHECK } else { STALE })));
    }
    tx.commit().await?;
    Ok(out)
}
