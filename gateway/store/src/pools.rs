//! Storage pools, as hosts report them, with what was promised in them.

use crate::{
    Ids, List, Page, Result, SystemTx,
    row::{self, bigint},
};
use basalt_model::{DateTime, HostId, Name, PoolId, pools::PoolFacts};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};

/// A pool of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// The host it is on.
    pub host_id: HostId,
    /// The host's name.
    pub host: Name,
    /// What the host reported.
    pub facts: PoolFacts,
    /// Volume sizes promised in it, in bytes.
    pub claimed_bytes: u64,
    /// When the host last reported a change.
    pub updated_at: DateTime,
}

impl FromRow<'_, PgRow> for Pool {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            host_id: row.try_get("host_id")?,
            host: row.try_get("host")?,
            facts: row::json(row, "facts")?,
            claimed_bytes: row::unsigned(row, "claimed_bytes")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

/// Pools of all hosts or of one, oldest first. The page's selector is not used: pools have no labels.
pub async fn list(tx: &mut SystemTx, host: Option<HostId>, page: &Page) -> Result<List<Pool>> {
    let pools = sqlx::query_as(
        "SELECT p.*, h.name AS host FROM pools p JOIN hosts h ON h.id = p.host_id
         WHERE p.id > $1 AND ($3::uuid IS NULL OR p.host_id = $3) ORDER BY p.id LIMIT $2",
    )
    .bind(page.after())
    .bind(page.fetch())
    .bind(host)
    .fetch_all(tx.conn())
    .await?;
    Ok(page.cut(pools, |p: &Pool| p.id.0))
}

/// Takes in what a host reported of its pools. A pool that it does not report any more goes, unless volumes
/// were promised in it.
pub(crate) async fn observe(
    conn: &mut PgConnection,
    host: HostId,
    pools: &[PoolFacts],
    ids: &Ids,
    now: DateTime,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO pools AS p (id, host_id, name, facts, capacity_bytes, updated_at)
         SELECT n.id, $1, n.name, n.facts, n.capacity, $6
         FROM unnest($2::uuid[], $3::text[], $4::jsonb[], $5::bigint[]) n(id, name, facts, capacity)
         ON CONFLICT (host_id, name) DO UPDATE SET facts = excluded.facts, capacity_bytes = excluded.capacity_bytes,
            updated_at = excluded.updated_at
         WHERE p.facts IS DISTINCT FROM excluded.facts",
    )
    .bind(host)
    .bind(pools.iter().map(|_| ids()).collect::<Vec<_>>())
    .bind(pools.iter().map(|p| p.name.as_str()).collect::<Vec<_>>())
    .bind(pools.iter().map(Json).collect::<Vec<_>>())
    .bind(pools.iter().map(|p| bigint(p.capacity_bytes)).collect::<Vec<_>>())
    .bind(now)
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM pools WHERE host_id = $1 AND claimed_bytes = 0 AND name <> ALL ($2)")
        .bind(host)
        .bind(pools.iter().map(|p| p.name.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}
