//! Two agents with one host's identity: which start counts, which were refused, and when one of those last tried.
//!
//! One row a host, so that a stolen certificate cannot fill the table.

use crate::{Result, SystemTx};
use basalt_model::{DateTime, HostId, hosts::AgentConflict};
use sqlx::{FromRow, Row, postgres::PgRow};
use uuid::Uuid;

/// A conflict as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The host whose identity it is.
    pub host_id: HostId,
    /// Who is in it.
    pub conflict: AgentConflict,
    /// When a refused start last tried.
    pub tried_at: DateTime,
}

impl FromRow<'_, PgRow> for Conflict {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            host_id: row.try_get("host_id")?,
            conflict: AgentConflict {
                agent_boot: row.try_get("agent_boot")?,
                fenced_boots: row.try_get("fenced_boots")?,
                since: row.try_get("since")?,
            },
            tried_at: row.try_get("tried_at")?,
        })
    }
}

/// Writes down that a start of a host's agent tried although a newer one counts. Nothing is written while the store
/// knows of no other start: the newer one's first report is on its way, and the next attempt tells.
pub async fn record(tx: &mut SystemTx, host: HostId, fenced: Uuid, now: DateTime) -> Result<bool> {
    let written = sqlx::query(
        "INSERT INTO agent_conflicts AS c (host_id, agent_boot, fenced_boots, since, tried_at)
         SELECT l.host_id, l.agent_boot, ARRAY[$2::uuid], $3, $3 FROM host_links l
         WHERE l.host_id = $1 AND l.agent_boot <> $2
         ON CONFLICT (host_id) DO UPDATE SET agent_boot = excluded.agent_boot,
            fenced_boots = CASE WHEN $2 = ANY(c.fenced_boots) THEN c.fenced_boots
                ELSE (ARRAY[$2::uuid] || c.fenced_boots)[1:8] END,
            tried_at = greatest(c.tried_at, excluded.tried_at)",
    )
    .bind(host)
    .bind(fenced)
    .bind(now)
    .execute(tx.conn())
    .await?;
    Ok(written.rows_affected() > 0)
}

/// The conflict of a host, if there is one.
pub async fn get(tx: &mut SystemTx, host: HostId) -> Result<Option<Conflict>> {
    let query = sqlx::query_as("SELECT * FROM agent_conflicts WHERE host_id = $1").bind(host);
    Ok(query.fetch_optional(tx.conn()).await?)
}

/// Ends the conflicts in which no refused start tried since `before`, and returns how many.
pub async fn clear(tx: &mut SystemTx, before: DateTime) -> Result<u64> {
    let query = sqlx::query("DELETE FROM agent_conflicts WHERE tried_at < $1").bind(before);
    Ok(query.execute(tx.conn()).await?.rows_affected())
}
