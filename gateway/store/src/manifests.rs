//! Manifests: for each host the rows of what it must have or must no longer have, under one growing revision.
//!
//! ```text
//! (no item) ──put──► present ──put──► absent ──host reports gone──► absent, gone ──remove──► (no item)
//!                       ▲──────────────put──────────┘
//! ```
//! Removing is refused before the host reported the item gone: absence from the manifest never deletes.

use crate::{Error, Result, Store, SystemHandle, SystemTx, row, tenant::is_dead};
use basalt_model::{DateTime, Epoch, Generation, HostId};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// One thing that a host must have, or must no longer have. `B` is how its body is read: into values, or only passed on
/// ([`serde_json::value::RawValue`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Item<B = Value> {
    /// `security_group`, `network`, `image`, `volume`, `vm` or `router`.
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
    pub body: B,
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
pub struct Manifest<B = Value> {
    /// The host.
    pub host_id: HostId,
    /// Grows with every change; 0 before the first.
    pub revision: i64,
    /// In the order in which they must be realised, then by id.
    pub items: Vec<Item<B>>,
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

impl<B: DeserializeOwned> FromRow<'_, PgRow> for Item<B> {
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

/// The manifest as it stands, in one round trip: its agent waits for it.
pub async fn read<B: DeserializeOwned>(store: &Store, host: HostId) -> Result<Manifest<B>> {
    match get(&mut store.single().await?, host).await {
        // A pooled connection that died while nobody used it; a transaction tries another.
        Err(Error::Unavailable(e)) if is_dead(&e) => get(&mut store.system_read().await?, host).await,
        other => other,
    }
}

/// The whole manifest of a host, consistent in itself: one statement reads revision and items.
pub async fn get<B: DeserializeOwned>(tx: &mut impl SystemHandle, host: HostId) -> Result<Manifest<B>> {
    let rows = sqlx::query(
        "SELECT m.revision, i.kind, i.id, i.generation, i.epoch, i.present, i.body
         FROM manifests m LEFT JOIN manifest_items i ON i.host_id = m.host_id WHERE m.host_id = $1
         ORDER BY array_position(ARRAY['security_group', 'network', 'image', 'volume', 'vm', 'router'], i.kind), i.id",
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

/// Whether a host must have something.
pub async fn wants(tx: &mut SystemTx, host: HostId, kind: &str, id: Uuid) -> Result<bool> {
    let wants = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM manifest_items WHERE host_id = $1 AND kind = $2 AND id = $3 AND present)",
    );
    Ok(wants.bind(host).bind(kind).bind(id).fetch_one(tx.conn()).await?)
}

/// The newest revision of a host's manifest; 0 before the first.
pub async fn revision(tx: &mut SystemTx, host: HostId) -> Result<i64> {
    let revision = sqlx::query_scalar("SELECT revision FROM manifests WHERE host_id = $1")
        .bind(host)
        .fetch_optional(tx.conn())
        .await?;
    Ok(revision.unwrap_or(0))
}

/// What is to be written to one host's manifest.
#[derive(Clone, Debug)]
pub struct Write {
    /// The host.
    pub host_id: HostId,
    /// Items to put. What is the same already is not written.
    pub upserts: Vec<Item>,
    /// Items to remove, by kind and id.
    pub removes: Vec<(String, Uuid)>,
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

/// Writes items of several hosts' manifests; what became of each is in the order of `writes`. A revision moves only
/// when a row of its manifest did, and then by one. Two statements, however many hosts there are, and three more for each that has
/// something to remove.
pub async fn put(tx: &mut SystemTx, writes: &[Write], now: DateTime) -> Result<Vec<Put>> {
    let conn = tx.conn();
    let mut revisions = lock(conn, writes, now).await?;
    let items: Vec<(HostId, &Item)> =
        writes.iter().flat_map(|w| w.upserts.iter().map(|i| (w.host_id, i))).collect();
    let (mut written, mut refused) = upsert(conn, &items, &revisions, now).await?;
    let risen: BTreeSet<HostId> = written.keys().copied().collect();
    for write in writes.iter().filter(|w| !w.removes.is_empty()) {
        let (removed, kept) = remove(conn, write.host_id, &write.removes).await?;
        refused.entry(write.host_id).or_default().extend(kept);
        *written.entry(write.host_id).or_default() += removed;
    }
    written.retain(|_, rows| *rows > 0);
    let lost_rows: Vec<Uuid> = written.keys().filter(|h| !risen.contains(h)).map(|h| h.0).collect();
    if !lost_rows.is_empty() {
        sqlx::query("UPDATE manifests SET revision = revision + 1, updated_at = $2 WHERE host_id = ANY($1)")
            .bind(lost_rows)
            .bind(now)
            .execute(&mut *conn)
            .await?;
    }
    for host in written.keys() {
        *revisions.entry(*host).or_default() += 1;
    }
    let put = |host: &HostId| Put {
        revision: revisions.get(host).copied().unwrap_or_default(),
        written: written.get(host).copied().unwrap_or_default(),
        refused: refused.get(host).into_iter().flatten().cloned().collect(),
    };
    Ok(writes.iter().map(|w| put(&w.host_id)).collect())
}

/// Locks the manifests, which orders all their writers, and gives their revisions. Those that are not there yet are made.
async fn lock(conn: &mut PgConnection, writes: &[Write], now: DateTime) -> Result<BTreeMap<HostId, i64>> {
    let hosts: BTreeSet<Uuid> = writes.iter().map(|w| w.host_id.0).collect();
    let hosts: Vec<Uuid> = hosts.into_iter().collect();
    let select =
        "SELECT host_id, revision FROM manifests WHERE host_id = ANY($1) ORDER BY host_id FOR UPDATE";
    let rows: Vec<(HostId, i64)> = sqlx::query_as(select).bind(&hosts).fetch_all(&mut *conn).await?;
    if rows.len() == hosts.len() {
        return Ok(rows.into_iter().collect());
    }
    sqlx::query(
        "INSERT INTO manifests (host_id, revision, updated_at) SELECT n, 0, $2 FROM unnest($1::uuid[]) n
         ON CONFLICT DO NOTHING",
    )
    .bind(&hosts)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    let rows: Vec<(HostId, i64)> = sqlx::query_as(select).bind(&hosts).fetch_all(conn).await?;
    Ok(rows.into_iter().collect())
}

type Refused = BTreeMap<HostId, BTreeSet<(String, Uuid)>>;

const UPSERT: &str = "
WITH n AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bool[], $7::jsonb[],
        $8::bigint[]) n(host_id, kind, id, generation, epoch, present, body, revision)
), vm AS (
    SELECT id FROM vms WHERE id IN (SELECT id FROM n WHERE present AND kind = 'vm') ORDER BY id FOR KEY SHARE
), volume AS (
    SELECT id FROM volumes WHERE id IN (SELECT id FROM n WHERE present AND kind = 'volume') ORDER BY id
    FOR KEY SHARE
), image AS (
    SELECT id FROM images WHERE id IN (SELECT id FROM n WHERE present AND kind = 'image') ORDER BY id
    FOR KEY SHARE
), network AS (
    SELECT id FROM networks WHERE id IN (SELECT id FROM n WHERE present AND kind = 'network') ORDER BY id
    FOR KEY SHARE
), security_group AS (
    SELECT id FROM security_groups WHERE id IN (SELECT id FROM n WHERE present AND kind = 'security_group') ORDER BY id
    FOR KEY SHARE
), router AS (
    SELECT id FROM routers WHERE id IN (SELECT id FROM n WHERE present AND kind = 'router') ORDER BY id
    FOR KEY SHARE
), there AS (
    SELECT id FROM vm UNION ALL SELECT id FROM volume UNION ALL SELECT id FROM image
    UNION ALL SELECT id FROM network UNION ALL SELECT id FROM security_group UNION ALL SELECT id FROM router
), refused AS (
    SELECT n.host_id, n.kind, n.id FROM n JOIN manifest_items m USING (host_id, kind, id)
    WHERE (m.epoch, m.generation) > (n.epoch, n.generation)
    UNION
    SELECT host_id, kind, id FROM n WHERE present AND id NOT IN (SELECT id FROM there)
), written AS (
    INSERT INTO manifest_items AS m (host_id, kind, id, generation, epoch, present, body, revision)
    SELECT * FROM n WHERE (host_id, kind, id) NOT IN (SELECT host_id, kind, id FROM refused)
    ON CONFLICT (host_id, kind, id) DO UPDATE SET generation = excluded.generation, epoch = excluded.epoch,
        present = excluded.present, body = excluded.body, revision = excluded.revision
    WHERE (m.generation, m.epoch, m.present, m.body::text)
        IS DISTINCT FROM (excluded.generation, excluded.epoch, excluded.present, excluded.body::text)
    RETURNING m.host_id, m.kind, m.id, m.present
), back AS (
    DELETE FROM manifest_facts WHERE ctid = ANY (ARRAY(
        SELECT f.ctid FROM written w CROSS JOIN LATERAL (
            SELECT ctid FROM manifest_facts
            WHERE host_id = w.host_id AND kind = w.kind AND id = w.id AND gone LIMIT 1 FOR UPDATE) f
        WHERE w.present))
    RETURNING host_id
), asked AS (
    UPDATE host_links SET send_full = true WHERE host_id IN (SELECT host_id FROM back)
), risen AS (
    UPDATE manifests SET revision = revision + 1, updated_at = $9
    WHERE host_id = ANY (ARRAY(SELECT DISTINCT host_id FROM written))
)
SELECT host_id, kind, id, true AS written FROM written
UNION ALL SELECT host_id, kind, id, false FROM refused";

/// Writes items under the revision that their manifest then has. Says how many rows of each host changed, and what was
/// refused: items that are older than what stands there, and present items of objects that are gone. The objects stay
/// locked against removal until this transaction ends, so that none can go unnoticed while its item is written.
///
/// What a host reported gone and must have again is not gone any more, whatever it said before. The agent reports
/// changes only, so it is asked to say everything again. (Found by key and deleted by place: joined, the server may
/// read all facts.)
async fn upsert(
    conn: &mut PgConnection,
    items: &[(HostId, &Item)],
    revisions: &BTreeMap<HostId, i64>,
    now: DateTime,
) -> Result<(BTreeMap<HostId, u64>, Refused)> {
    let (mut written, mut refused) = (BTreeMap::new(), Refused::new());
    if items.is_empty() {
        return Ok((written, refused));
    }
    let next = |host: &HostId| revisions.get(host).copied().unwrap_or_default() + 1;
    let rows: Vec<(HostId, String, Uuid, bool)> = sqlx::query_as(UPSERT)
        .bind(items.iter().map(|(host, _)| host.0).collect::<Vec<_>>())
        .bind(items.iter().map(|(_, i)| i.kind.as_str()).collect::<Vec<_>>())
        .bind(items.iter().map(|(_, i)| i.id).collect::<Vec<_>>())
        .bind(items.iter().map(|(_, i)| i.generation.0).collect::<Vec<_>>())
        .bind(items.iter().map(|(_, i)| i.epoch.0).collect::<Vec<_>>())
        .bind(items.iter().map(|(_, i)| i.present).collect::<Vec<_>>())
        .bind(items.iter().map(|(_, i)| Json(&i.body)).collect::<Vec<_>>())
        .bind(items.iter().map(|(host, _)| next(host)).collect::<Vec<_>>())
        .bind(now)
        .fetch_all(conn)
        .await?;
    for (host, kind, id, is_written) in rows {
        if is_written {
            *written.entry(host).or_default() += 1;
        } else {
            refused.entry(host).or_default().insert((kind, id));
        }
    }
    Ok((written, refused))
}

/// Takes items of deleted objects out of every manifest without a word of the hosts that have them: what stands there is
/// nobody's from then on. Only for hosts that are not heard of, and only when a person says so.
pub(crate) async fn forget(tx: &mut SystemTx, items: &[(&str, Uuid)], now: DateTime) -> Result<()> {
    let kinds: Vec<&str> = items.iter().map(|(kind, _)| *kind).collect();
    let ids: Vec<Uuid> = items.iter().map(|(_, id)| *id).collect();
    sqlx::query(
        "UPDATE manifests SET revision = revision + 1, updated_at = $3 WHERE host_id IN (
            SELECT host_id FROM manifests WHERE host_id IN (
                SELECT m.host_id FROM manifest_items m JOIN unnest($1::text[], $2::uuid[]) n(kind, id)
                    ON (m.kind, m.id) = (n.kind, n.id))
            ORDER BY host_id FOR UPDATE)",
    )
    .bind(&kinds)
    .bind(&ids)
    .bind(now)
    .execute(tx.conn())
    .await?;
    for table in [
        "DELETE FROM manifest_items m USING unnest($1::text[], $2::uuid[]) n(kind, id) WHERE (m.kind, m.id) = (n.kind, n.id)",
        "DELETE FROM manifest_facts m USING unnest($1::text[], $2::uuid[]) n(kind, id) WHERE (m.kind, m.id) = (n.kind, n.id)",
    ] {
        sqlx::query(table).bind(&kinds).bind(&ids).execute(tx.conn()).await?;
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
        "DELETE FROM manifest_items m USING unnest($2::text[], $3::uuid[]) n(kind, id)
         WHERE m.host_id = $1 AND m.kind = n.kind AND m.id = n.id
            AND (NOT m.present AND EXISTS (SELECT FROM manifest_facts f WHERE f.host_id = m.host_id
                    AND f.kind = m.kind AND f.id = m.id AND f.gone AND f.epoch >= m.epoch)
                -- What other hosts see too is forgotten where it is no more: its bytes are another host's.
                OR m.present AND m.kind = 'volume' AND coalesce(m.body ->> 'shared', 'no') <> 'no'
                    AND NOT EXISTS (SELECT FROM volumes v WHERE v.id = m.id AND v.host_id = m.host_id))
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

/// Whether an object may go for good: its deletion was asked for (so says a statement of `row::going!`) and it is on no
/// host. `None`: it is gone already.
pub(crate) async fn may_go(conn: &mut PgConnection, going: &'static str, id: Uuid) -> Result<Option<bool>> {
    match sqlx::query_scalar(going).bind(id).fetch_optional(&mut *conn).await? {
        Some(true) => Ok(Some(!on_hosts(conn, &[id]).await?)),
        other => Ok(other),
    }
}
