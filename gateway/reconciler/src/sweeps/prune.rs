//! What nobody needs any more: the change log below the slowest reader, old idempotency keys, days of finished tasks.

use super::Context;
use basalt_store::{Error, drains, idempotency, migrations, tasks};
use chrono::TimeDelta;

/// A gateway that said nothing for so long no longer holds the change log, in seconds. It reloads when it comes back.
const IDLE_SECONDS: i64 = 300;
/// An idempotency key is kept so long.
const KEEP_KEYS: TimeDelta = TimeDelta::hours(24);

/// Says how far this gateway has read.
pub async fn hold(context: &Context) -> Result<u64, Error> {
    if let Some(cursor) = &context.cursor {
        context.feed.hold(context.holder, cursor, context.now).await?;
    }
    Ok(0)
}

/// Drops what is below every reader, and keys that are too old. This gateway is a reader, also when it has just begun
/// and nobody has said so yet: pruned past, it would have to read everything anew, and all its watchers with it.
pub async fn prune(context: &Context) -> Result<u64, Error> {
    hold(context).await?;
    let rows = context.feed.prune(context.now, IDLE_SECONDS).await?;
    let mut tx = context.store.system().await?;
    idempotency::prune(&mut tx, context.now - KEEP_KEYS).await?;
    // What moved and what was emptied is kept as long as the tasks that waited for it.
    let ended_before = context.now - chrono::TimeDelta::days(context.keep_tasks_days.into());
    migrations::prune(&mut tx, ended_before).await?;
    drains::prune(&mut tx, ended_before).await?;
    tx.commit().await?;
    Ok(rows + keep_tasks(context).await?)
}

/// Makes and drops partitions of finished tasks. Behind somebody who reads them, it is left for the next time.
async fn keep_tasks(context: &Context) -> Result<u64, Error> {
    let mut tx = context.store.system().await?;
    match tasks::keep_partitions(&mut tx, context.now, context.keep_tasks_days).await {
        Ok(changed) => {
            tx.commit().await?;
            Ok(u64::try_from(changed).unwrap_or_default())
        }
        Err(Error::Conflict(error)) => {
            tracing::debug!(%error, "partitions of tasks are in use; trying again later");
            Ok(0)
        }
        Err(error) => Err(error),
    }
}
