//! Manifests: for each host the rows of what it must have or must no longer have, under one growing revision.
//!
//! ```text
//! (no item) ──put──► present ──put──► absent ──host reports gone──► absent, gone ──remove──► (no item)
//!                       ▲──────────────put──────────┘
//! ```
//! Removing is refused before the host reported the item gone: absence from the manifest never deletes.

use crate::{Result, SystemTx, row};
use basalt_model::{DateTime, Epoch, Generation, HostId};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::BTreeSet;
use uuid::Uuid;

/// One thing that a host must have, or must no longer have.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// `network`, `image`, `volume` or `vm`.
    pub kind: String,
    /// The object's id.
    pub id: Uuid,
    /// The object's generation that the body was made from.
    pub generation: Generation,
    /// The placement's epoch; 0 for what is not placed.
    pub epoch: Epoch,
    /// Whether the host must have it.
    pub present: bool,
    /// What to have, as the agent reads it.
    pub body: Value,
}

/// An item of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemRow {
    /// The host.
    pub host_id: HostId,
    /// The item.
    pub item: Item,
}

/// All items of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The host.
    pub host_id: HostId,
    /// Grows with every change; 0 before the first.
    pub revision: i64,
    /// In the order in which they must be realised, then by id.
    pub items: Vec<Item>,
}

/// The newest revision of a host's manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The host.
    pub host_id: HostId,
    /// Its newest revision.
    pub revision: i64,
}

/// What a host said of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The host.
    pub host_id: HostId,
    /// Kind of the item.
    pub kind: String,
    /// The object's id.
    pub id: Uuid,
    /// The generation that is realised.
    pub generation: Generation,
    /// The epoch that was acted on.
    pub epoch: Epoch,
    /// Whether nothing of it is left.
    pub gone: bool,
    /// What was seen, as the agent wrote it.
    pub observed: Value,
    /// What is going on.
    pub stage: String,
    /// When it was reported.
    pub reported_at: DateTime,
}

impl FromRow<'_, PgRow> for Item {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            kind: row.try_get("kind")?,
            id: row.try_get("id")?,
            generation: row.try_get("generation")?,
            epoch: row.try_get("epoch")?,
            present: row.try_get("present")?,
            body: row::json(row, "body")?,
        })
    }
}

impl FromRow<'_, PgRow> for ItemRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { host_id: row.try_get("host_id")?, item: Item::from_row(row)? })
    }
}

impl FromRow<'_, PgRow> for Revision {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { host_id: row.try_get("host_id")?, revision: row.try_get("revision")? })
    }
}

impl FromRow<'_, PgRow> for Fact {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            host_id: row.try_get("host_id")?,
            kind: row.try_get("kind")?,
            id: row.try_get("id")?,
            generation: row.try_get("generation")?,
            epoch: row.try_get("epoch")?,
            gone: row.try_get("gone")?,
            observed: row::json(row, "observed")?,
            stage: row.try_get("stage")?,
            reported_at: row.try_get("reported_at")?,
        })
    }
}

/// The whole manifest of a host, consistent in itself: one statement reads revision and items.
pub async fn get(tx: &mut SystemTx, host: HostId) -> Result<Manifest> {
    let rows = sqlx::query(
        "SELECT m.revision, i.kind, i.id, i.generation, i.epoch, i.present, i.body
         FROM manifests m LEFT JOIN manifest_items i ON i.host_id = m.host_id WHERE m.host_id = $1
         ORDER BY array_position(ARRAY['network', 'image', 'volume', 'vm'], i.kind), i.id",
    )
    .bind(host)
    .fetch_all(tx.conn())
    .await?;
    let mut manifest = Manifest { host_id: host, revision: 0, items: Vec::with_capacity(rows.len()) };
    for row in &rows {
        manifest.revision = row.try_get("revision")?;
        if row.try_get::<Option<Uuid>, _>("id")?.is_some() {
            manifest.items.push(Item::from_row(row)?);
        }
    }
    Ok(manifest)
}

/// The newest revision of a host's manifest; 0 before the first.
pub async fn revision(tx: &mut SystemTx, host: HostId) -> Result<i64> {
    let revision = sqlx::query_scalar("SELECT revision FROM manifests WHERE host_id = $1")
        .bind(host)
        .fetch_optional(tx.conn())
        .await?;
    Ok(revision.unwrap_or(0))
}

/// What a write to a manifest did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The newest revision.
    pub revision: i64,
    /// Rows that changed.
    pub written: u64,
    /// Items that were refused: older than what stands there, about an object that is gone, or to be removed
    /// before the host reported them gone.
    pub refused: Vec<(String, Uuid)>,
}

/// Writes items of a host's manifest. What is the same already is not written; the revision moves only when a
/// row did.
pub async fn put(
    tx: &mut SystemTx,
    host: HostId,
    upserts: &[Item],
    removes: &[(String, Uuid)],
    now: DateTime,
) -> Result<Put> {
    let conn = tx.conn();
    sqlx::query(
        "INSERT INTO manifests (host_id, revision, updated_at) VALUES ($1, 0, $2) ON CONFLICT DO NOTHING",
    )
    .bind(host)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    // The lock orders all writers of this manifest.
    let revision: i64 = sqlx::query_scalar("SELECT revision FROM manifests WHERE host_id = $1 FOR UPDATE")
        .bind(host)
        .fetch_one(&mut *conn)
        .await?;
    let mut refused = refused_upserts(conn, host, upserts).await?;
    let accepted: Vec<&Item> =
        upserts.iter().filter(|i| !refused.contains(&(i.kind.clone(), i.id))).collect();
    let mut written = upsert(conn, host, &accepted, revision + 1).await?;
    let (removed, kept) = remove(conn, host, removes).await?;
    refused.extend(kept);
    written += removed;
    if written == 0 {
        return Ok(Put { revision, written, refused: refused.into_iter().collect() });
    }
    sqlx::query("UPDATE manifests SET revision = $2, updated_at = $3 WHERE host_id = $1")
        .bind(host)
        .bind(revision + 1)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    Ok(Put { revision: revision + 1, written, refused: refused.into_iter().collect() })
}

/// Items that are older than what stands there, and present items of objects that are gone. The objects stay
/// locked against removal until this transaction ends, so that none can go unnoticed while its item is written.
async fn refused_upserts(
    conn: &mut PgConnection,
    host: HostId,
    items: &[Item],
) -> Result<BTreeSet<(String, Uuid)>> {
    let older: Vec<(String, Uuid)> = sqlx::query_as(
        "SELECT m.kind, m.id FROM manifest_items m
         JOIN unnest($2::text[], $3::uuid[], $4::bigint[], $5::bigint[]) n(kind, id, generation, epoch)
            ON m.kind = n.kind AND m.id = n.id
         WHERE m.host_id = $1 AND (m.epoch, m.generation) > (n.epoch, n.generation)",
    )
    .bind(host)
    .bind(items.iter().map(|i| i.kind.as_str()).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.id).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.generation.0).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.epoch.0).collect::<Vec<_>>())
    .fetch_all(&mut *conn)
    .await?;
    let mut refused: BTreeSet<(String, Uuid)> = older.into_iter().collect();
    for (kind, statement) in [
        ("vm", "SELECT id FROM vms WHERE id = ANY($1) ORDER BY id FOR KEY SHARE"),
        ("volume", "SELECT id FROM volumes WHERE id = ANY($1) ORDER BY id FOR KEY SHARE"),
        ("image", "SELECT id FROM images WHERE id = ANY($1) ORDER BY id FOR KEY SHARE"),
        ("network", "SELECT id FROM networks WHERE id = ANY($1) ORDER BY id FOR KEY SHARE"),
    ] {
        let ids: Vec<Uuid> = items.iter().filter(|i| i.present && i.kind == kind).map(|i| i.id).collect();
        if !ids.is_empty() {
            let there: Vec<Uuid> = sqlx::query_scalar(statement).bind(&ids).fetch_all(&mut *conn).await?;
            let gone = ids.into_iter().filter(|id| !there.contains(id));
            refused.extend(gone.map(|id| (kind.to_string(), id)));
        }
    }
    Ok(refused)
}

async fn upsert(conn: &mut PgConnection, host: HostId, items: &[&Item], revision: i64) -> Result<u64> {
    if items.is_empty() {
        return Ok(0);
    }
    let rows: Vec<(String, Uuid)> = sqlx::query_as(
        "INSERT INTO manifest_items AS m (host_id, kind, id, generation, epoch, present, body, revision)
         SELECT $1, n.*, $8 FROM unnest($2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bool[], $7::jsonb[]) n
         ON CONFLICT (host_id, kind, id) DO UPDATE SET generation = excluded.generation, epoch = excluded.epoch,
            present = excluded.present, body = excluded.body, revision = excluded.revision
         WHERE (m.generation, m.epoch, m.present, m.body)
            IS DISTINCT FROM (excluded.generation, excluded.epoch, excluded.present, excluded.body)
         RETURNING m.kind, m.id",
    )
    .bind(host)
    .bind(items.iter().map(|i| i.kind.as_str()).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.id).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.generation.0).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.epoch.0).collect::<Vec<_>>())
    .bind(items.iter().map(|i| i.present).collect::<Vec<_>>())
    .bind(items.iter().map(|i| Json(&i.body)).collect::<Vec<_>>())
    .bind(revision)
    .fetch_all(&mut *conn)
    .await?;
    forget_gone(conn, host, items, &rows).await?;
    Ok(rows.len() as u64)
}

/// What a host reported gone and must have again is not gone any more, whatever it said before. The agent
/// reports changes only, so it is asked to say everything again.
async fn forget_gone(
    conn: &mut PgConnection,
    host: HostId,
    items: &[&Item],
    written: &[(String, Uuid)],
) -> Result<()> {
    let back =
        |(kind, id): &&(String, Uuid)| items.iter().any(|i| i.present && i.kind == *kind && i.id == *id);
    let (kinds, ids): (Vec<String>, Vec<Uuid>) = written.iter().filter(back).cloned().unzip();
    if ids.is_empty() {
        return Ok(());
    }
    let forgotten = sqlx::query(
        "DELETE FROM manifest_facts f USING unnest($2::text[], $3::uuid[]) n(kind, id)
         WHERE f.host_id = $1 AND f.kind = n.kind AND f.id = n.id AND f.gone",
    )
    .bind(host)
    .bind(kinds)
    .bind(ids)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if forgotten > 0 {
        sqlx::query("UPDATE host_links SET send_full = true WHERE host_id = $1")
            .bind(host)
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Removes absent items that were reported gone, with their facts. Returns how many, and which stayed.
async fn remove(
    conn: &mut PgConnection,
    host: HostId,
    keys: &[(String, Uuid)],
) -> Result<(u64, Vec<(String, Uuid)>)> {
    if keys.is_empty() {
        return Ok((0, Vec::new()));
    }
    let (kinds, ids): (Vec<String>, Vec<Uuid>) = keys.iter().cloned().unzip();
    let removed: Vec<(String, Uuid)> = sqlx::query_as(
        "DELETE FROM manifest_items m USING unnest($2::text[], $3::uuid[]) n(kind, id), manifest_facts f
         WHERE m.host_id = $1 AND m.kind = n.kind AND m.id = n.id AND NOT m.present
            AND f.host_id = m.host_id AND f.kind = m.kind AND f.id = m.id AND f.gone AND f.epoch >= m.epoch
         RETURNING m.kind, m.id",
    )
    .bind(host)
    .bind(&kinds)
    .bind(&ids)
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM manifest_facts f USING unnest($2::text[], $3::uuid[]) n(kind, id)
         WHERE f.host_id = $1 AND f.kind = n.kind AND f.id = n.id
            AND NOT EXISTS (SELECT FROM manifest_items m WHERE m.host_id = $1 AND m.kind = n.kind AND m.id = n.id)",
    )
    .bind(host)
    .bind(&kinds)
    .bind(&ids)
    .execute(&mut *conn)
    .await?;
    let kept: Vec<(String, Uuid)> = sqlx::query_as(
        "SELECT m.kind, m.id FROM manifest_items m JOIN unnest($2::text[], $3::uuid[]) n(kind, id)
            ON m.kind = n.kind AND m.id = n.id WHERE m.host_id = $1",
    )
    .bind(host)
    .bind(&kinds)
    .bind(&ids)
    .fetch_all(conn)
    .await?;
    Ok((removed.len() as u64, kept))
}

/// Whether any host may still have something of these objects.
pub(crate) async fn on_hosts(conn: &mut PgConnection, ids: &[Uuid]) -> Result<bool> {
    let there = sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT FROM manifest_items m
            LEFT JOIN manifest_facts f ON f.host_id = m.host_id AND f.kind = m.kind AND f.id = m.id
            WHERE m.id = ANY($1) AND (m.present OR NOT coalesce(f.gone AND f.epoch >= m.epoch, false)))",
    )
    .bind(ids)
    .fetch_one(conn)
    .await?;
    Ok(there)
}
