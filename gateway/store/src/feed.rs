//! The change feed: what changed since a cursor, read in one snapshot.
//!
//! Triggers write one line for each changed row, in the writer's own transaction. A cursor is a snapshot of the
//! server (`pg_snapshot`), not a number: what a later snapshot sees and it did not see is exactly the lines of
//! transactions that began after it or were under way in it. So nothing is lost when transactions commit out of
//! order, nothing comes twice, and one that stays open for hours holds nobody up.
//!
//! ```text
//! bootstrap ─► batch (reload, everything) ─► cursor ─► pull ─► batch (changed rows) ─► cursor ─► pull …
//!                      ▲                                 │ pruned past, other server, other timeline, crash, TRUNCATE
//!                      └─────────────────────────────────┘
//! ```

use crate::{Result, Store, SystemTx};
use basalt_model::{DateTime, ProjectId, TenantId};
use futures::TryStreamExt;
use sqlx::{Row as _, postgres::PgRow};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::JoinSet;
use uuid::Uuid;

pub use crate::feed_rows::{Row, Table};

/// Reads the feed.
#[derive(Clone)]
pub struct Feed {
    store: Store,
}

/// A point in the history of one server. Opaque; keep it as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// System identifier, timeline, and the last crash: another server, or the same after a failover, has
    /// another history, and so has one that crashed. What was seen before its flush is gone then, and the
    /// number of its transaction is given out again: to a cursor from before, the new one would look seen.
    history: String,
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

/// A text that is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cursor of the change feed")]
pub struct CursorError(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:", self.history, self.xmin, self.xmax)?;
        for (i, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = CursorError;
    fn from_str(text: &str) -> Result<Self, CursorError> {
        let wrong = || CursorError(text.chars().take(80).collect());
        let mut parts = text.splitn(4, ':');
        let mut part = || parts.next().ok_or_else(wrong);
        let (history, xmin, xmax, xip) = (part()?.to_string(), part()?, part()?, part()?);
        let number = |s: &str| s.parse::<u64>().map_err(|_| wrong());
        let in_progress = xip.split(',').filter(|s| !s.is_empty()).map(number).collect::<Result<_, _>>()?;
        Ok(Self { history, xmin: number(xmin)?, xmax: number(xmax)?, in_progress })
    }
}

/// What changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Pull from here next.
    pub cursor: Cursor,
    /// Forget everything: `changes` is the whole truth.
    pub reload: bool,
    /// One entry for each changed row, in the order of their last changes.
    pub changes: Vec<Change>,
}

/// A changed row.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub table: Table,
    /// Which row.
    pub key: String,
    /// Its tenant.
    pub tenant_id: Option<TenantId>,
    /// Its project.
    pub project_id: Option<ProjectId>,
    /// As it stands now; `None` when it is gone.
    pub row: Option<Row>,
}

enum Log {
    Lines(Vec<Line>),
    Reload,
}

struct Line {
    table: Table,
    key: String,
    tenant_id: Option<TenantId>,
    project_id: Option<ProjectId>,
}

impl Feed {
    /// A reader of a store's feed.
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// Everything, in one snapshot.
    pub async fn bootstrap(&self) -> Result<Batch> {
        let mut tx = SystemTx::begin_snapshot(&self.store).await?;
        let cursor = position(&mut tx).await?;
        everything(&self.store, tx, cursor).await
    }

    /// What changed since a cursor, in one snapshot. When the log cannot tell any more, everything.
    pub async fn pull(&self, since: &Cursor) -> Result<Batch> {
        let mut tx = SystemTx::begin_snapshot(&self.store).await?;
        let News { cursor, pruned_below, log } = news(&mut tx, since).await?;
        let other_history = since.history != cursor.history;
        if other_history || since.xmax > cursor.xmax || since.xmin < pruned_below {
            return everything(&self.store, tx, cursor).await;
        }
        match log {
            Log::Reload => everything(&self.store, tx, cursor).await,
            Log::Lines(lines) => {
                let changes = changed(&mut tx, lines).await?;
                tx.end();
                Ok(Batch { cursor, reload: false, changes })
            }
        }
    }

    /// Says that `holder` reads on from `cursor`, so that it is not pruned past.
    pub async fn hold(&self, holder: Uuid, cursor: &Cursor, now: DateTime) -> Result<()> {
        let mut tx = self.store.system().await?;
        sqlx::query(
            "INSERT INTO feed_cursors (holder, horizon, updated_at) VALUES ($1, $2::text::xid8, $3)
             ON CONFLICT (holder) DO UPDATE SET horizon = excluded.horizon, updated_at = excluded.updated_at",
        )
        .bind(holder)
        .bind(cursor.xmin.to_string())
        .bind(now)
        .execute(tx.conn())
        .await?;
        tx.commit().await
    }

    /// Deletes log lines that no holder needs any more and returns how many. Holders that said nothing for
    /// `idle_seconds` are forgotten: they begin anew when they come back.
    pub async fn prune(&self, now: DateTime, idle_seconds: i64) -> Result<u64> {
        let mut tx = self.store.system().await?;
        let oldest = now - chrono::TimeDelta::seconds(idle_seconds);
        sqlx::query("DELETE FROM feed_cursors WHERE updated_at < $1").bind(oldest).execute(tx.conn()).await?;
        // Never above what is under way now: its lines are not written yet.
        let floor: String = sqlx::query_scalar(
            "SELECT coalesce((SELECT min(horizon::text::numeric) FROM feed_cursors),
                pg_snapshot_xmin(pg_current_snapshot())::text::numeric)::text",
        )
        .fetch_one(tx.conn())
        .await?;
        sqlx::query(
            "UPDATE feed_retention SET pruned_below = $1::text::xid8 WHERE pruned_below < $1::text::xid8",
        )
        .bind(&floor)
        .execute(tx.conn())
        .await?;
        let pruned = sqlx::query("DELETE FROM change_log WHERE xid < $1::text::xid8")
            .bind(&floor)
            .execute(tx.conn())
            .await?
            .rows_affected();
        tx.commit().await?;
        Ok(pruned)
    }
}

/// Where the server is. History is a part of it: see [`Cursor`].
macro_rules! position {
    () => {
        "SELECT pg_current_snapshot()::text AS snapshot,
            (SELECT system_identifier FROM pg_control_system()) || '.' ||
            left(pg_walfile_name(pg_current_wal_lsn()), 8) || '.' ||
            -- Statistics survive an orderly stop and begin anew after every crash, also of a single backend.
            (SELECT extract(epoch FROM stats_reset) FROM pg_stat_wal) AS history"
    };
}

fn cursor(row: &PgRow) -> sqlx::Result<Cursor> {
    let (snapshot, history): (&str, &str) = (row.try_get("snapshot")?, row.try_get("history")?);
    format!("{history}:{snapshot}").parse().map_err(|e: CursorError| crate::row::unreadable("snapshot", e))
}

async fn position(tx: &mut SystemTx) -> Result<Cursor> {
    Ok(cursor(&sqlx::query(position!()).fetch_one(tx.conn()).await?)?)
}

/// What the log tells of the time since a cursor.
struct News {
    /// The cursor after this snapshot.
    cursor: Cursor,
    /// Older lines were deleted.
    pruned_below: u64,
    /// The lines that this snapshot sees and the cursor did not.
    log: Log,
}

/// One round trip, for this is what everything that happens waits for first. The first line, if there are none, is
/// empty.
async fn news(tx: &mut SystemTx, since: &Cursor) -> Result<News> {
    let rows = sqlx::query(concat!(
        "SELECT p.*, r.pruned_below::text AS pruned_below, l.source, l.key, l.op, l.tenant_id, l.project_id
         FROM (",
        position!(),
        ") p CROSS JOIN feed_retention r LEFT JOIN LATERAL (
            SELECT * FROM change_log WHERE xid >= $1::text::xid8 OR xid = ANY($2::text[]::xid8[])) l ON true
         ORDER BY l.seq"
    ))
    .bind(since.xmax.to_string())
    .bind(since.in_progress.iter().map(u64::to_string).collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let pruned: &str = first.try_get("pruned_below")?;
    let pruned_below = pruned.parse().map_err(|e| crate::row::unreadable("pruned_below", e))?;
    Ok(News { cursor: cursor(first)?, pruned_below, log: log(&rows)? })
}

fn log(rows: &[PgRow]) -> Result<Log> {
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(source) = row.try_get::<Option<&str>, _>("source")? else { continue };
        // A table that this program does not know was put on the feed by a newer one.
        let Some(table) = Table::by_name(source) else { continue };
        if row.try_get::<&str, _>("op")? == "reload" {
            return Ok(Log::Reload);
        }
        lines.push(Line {
            table,
            key: row.try_get("key")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
        });
    }
    Ok(Log::Lines(lines))
}

/// Reads each touched row once, as it stands in this snapshot.
async fn changed(tx: &mut SystemTx, lines: Vec<Line>) -> Result<Vec<Change>> {
    let mut last: BTreeMap<(Table, String), usize> = BTreeMap::new();
    for (i, line) in lines.iter().enumerate() {
        last.insert((line.table, line.key.clone()), i);
    }
    let mut keys: BTreeMap<Table, Vec<String>> = BTreeMap::new();
    for (table, key) in last.keys() {
        keys.entry(*table).or_default().push(key.clone());
    }
    let mut rows: BTreeMap<(Table, String), Row> = BTreeMap::new();
    for (table, keys) in keys {
        for row in sqlx::query(table.select_keyed()).bind(keys).fetch_all(tx.conn()).await? {
            let row = table.read(&row)?;
            rows.insert((table, row.key()), row);
        }
    }
    let mut changes = Vec::with_capacity(last.len());
    for (i, line) in lines.into_iter().enumerate() {
        let id = (line.table, line.key);
        if last.get(&id) == Some(&i) {
            let row = rows.remove(&id);
            let (table, key) = id;
            changes.push(Change { table, key, tenant_id: line.tenant_id, project_id: line.project_id, row });
        }
    }
    Ok(changes)
}

/// The whole truth. Two connections share the tables, for most of the time goes into making values of rows.
async fn everything(store: &Store, mut tx: SystemTx, cursor: Cursor) -> Result<Batch> {
    let exported: String = sqlx::query_scalar("SELECT pg_export_snapshot()").fetch_one(tx.conn()).await?;
    let left: Left = Arc::new(Mutex::new(Table::ALL.iter().copied().collect()));
    let (other, theirs) = (store.clone(), Arc::clone(&left));
    // Dropped with this future, the set ends its task.
    let mut second = JoinSet::new();
    second.spawn(async move {
        // Whether there is a connection for it or not: who has one reads what is left.
        match SystemTx::begin_same_snapshot(&other, &exported).await {
            Ok(tx) => whole_tables(tx, theirs).await.map(|(_, read)| read),
            Err(_) => Ok(BTreeMap::new()),
        }
    });
    // The snapshot can be taken over for as long as this transaction is open.
    let (open, mut read) = whole_tables(tx, left).await?;
    while let Some(more) = second.join_next().await {
        read.extend(more.map_err(|e| sqlx::Error::Io(std::io::Error::other(e)))??);
    }
    drop(open);
    Ok(Batch { cursor, reload: true, changes: read.into_values().flatten().collect() })
}

/// Tables that nobody reads yet.
type Left = Arc<Mutex<VecDeque<Table>>>;

/// Reads tables until none is left.
async fn whole_tables(mut tx: SystemTx, left: Left) -> Result<(SystemTx, BTreeMap<Table, Vec<Change>>)> {
    let mut read = BTreeMap::new();
    loop {
        let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(table) = next else { return Ok((tx, read)) };
        let mut changes = Vec::new();
        let mut rows = sqlx::query(table.select_all()).fetch(tx.conn());
        while let Some(row) = rows.try_next().await? {
            let row = table.read(&row)?;
            let (tenant_id, project_id) = row.scope();
            changes.push(Change { table, key: row.key(), tenant_id, project_id, row: Some(row) });
        }
        drop(rows);
        read.insert(table, changes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_round_trips_through_text() {
        for text in ["7412.00000001:10:20:10,14", "7412.00000001:10:10:"] {
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        assert!("now".parse::<Cursor>().is_err() && "a:1:x:".parse::<Cursor>().is_err());
    }
}
