//! Hosts: intent, facts, signs of life, and what they promised.
//!
//! How a host proves who it is stands in `host_identity.rs`.

use crate::{
    Change, Error, Finalized, Key, List, New, Page, Result, SystemTx, Update,
    audit_events::{self, Entry},
    change, drains,
    error::named,
    placements,
    row::{self, Selected, bigint},
};
use basalt_model::{
    Condition, DateTime, Generation, HostId, Metadata, Name,
    hosts::{HostFacts, HostSpec, VXLAN_OVERHEAD},
    networks::Segment,
    quotas::Demand,
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use uuid::Uuid;

pub use crate::host_identity::{
    Certificate, certificate, put_join_token, record_certificate, redeem_join_token, revoke, revoked,
};

/// A host as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Common fields.
    pub metadata: Metadata,
    /// What an operator wants.
    pub spec: HostSpec,
}

/// What a host's agent found out.
#[derive(Clone, Debug, PartialEq)]
pub struct HostFactsRow {
    /// The host.
    pub host_id: HostId,
    /// The facts.
    pub facts: HostFacts,
    /// When they were reported.
    pub reported_at: DateTime,
}

/// What a host can promise, and promised. CPUs and memory are limited; VMs are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostClaim {
    /// The host.
    pub host_id: HostId,
    /// At most.
    pub limits: Demand,
    /// Promised to placed VMs.
    pub claimed: Demand,
}

/// A host as people look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct HostView {
    /// As declared.
    pub host: Host,
    /// What was found out.
    pub facts: Option<HostFacts>,
    /// Last sign of life.
    pub seen_at: Option<DateTime>,
    /// Promised to placed VMs.
    pub claimed: Demand,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

impl Host {
    /// Its id.
    pub fn id(&self) -> HostId {
        HostId(self.metadata.id)
    }
}

impl FromRow<'_, PgRow> for Host {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { metadata: row::metadata(row)?, spec: row::json(row, "spec")? })
    }
}

impl FromRow<'_, PgRow> for HostFactsRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            host_id: row.try_get("host_id")?,
            facts: row::json(row, "facts")?,
            reported_at: row.try_get("reported_at")?,
        })
    }
}

impl FromRow<'_, PgRow> for HostClaim {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let limits = Demand {
            vms: u32::MAX,
            cpus: row::count(row, "max_cpus")?,
            memory_bytes: row::unsigned(row, "max_memory_bytes")?,
            storage_bytes: u64::MAX,
        };
        Ok(Self { host_id: row.try_get("host_id")?, limits, claimed: claimed(row)? })
    }
}

fn claimed(row: &PgRow) -> sqlx::Result<Demand> {
    Ok(Demand {
        vms: row::count(row, "claimed_vms")?,
        cpus: row::count(row, "claimed_cpus")?,
        memory_bytes: row::unsigned(row, "claimed_memory_bytes")?,
        storage_bytes: 0,
    })
}

impl FromRow<'_, PgRow> for HostView {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            host: Host::from_row(row)?,
            facts: row::json_option(row, "facts")?,
            seen_at: row.try_get("seen_at")?,
            claimed: claimed(row)?,
            conditions: row::json_option(row, "conditions")?.unwrap_or_default(),
        })
    }
}

macro_rules! view {
    () => {
        "SELECT x.*, f.facts, b.seen_at, k.claimed_vms, k.claimed_cpus, k.claimed_memory_bytes, c.conditions
         FROM hosts x JOIN host_claims k ON k.host_id = x.id LEFT JOIN host_facts f ON f.host_id = x.id
            LEFT JOIN host_heartbeats b ON b.host_id = x.id LEFT JOIN conditions c ON c.subject_id = x.id"
    };
}

/// Declares a host. It can promise nothing before it reported what it has.
pub async fn insert(tx: &mut SystemTx, change: &Change, new: &New<HostSpec>) -> Result<Host> {
    let host: Host = sqlx::query_as(
        "INSERT INTO hosts (id, name, labels, generation, created_at, updated_at, spec)
         VALUES ($1, $2, $3, 1, $4, $4, $5) RETURNING *",
    )
    .bind((change.ids)())
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(Json(&new.spec))
    .fetch_one(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| {
            (c == "hosts_name").then(|| Error::NameTaken { kind: "host", name: new.name.to_string() })
        })
    })?;
    sqlx::query("INSERT INTO host_claims (host_id, max_cpus, max_memory_bytes) VALUES ($1, 0, 0)")
        .bind(host.id())
        .execute(tx.conn())
        .await?;
    audit(tx, change, "host.create", &host).await?;
    Ok(host)
}

pub(crate) async fn audit(
    tx: &mut SystemTx,
    change: &Change,
    action: &'static str,
    host: &Host,
) -> Result<()> {
    let m = &host.metadata;
    let entry = Entry::new(action, None, None, "host", m.id, m.name.as_str());
    audit_events::write(tx.conn(), change, entry).await
}

/// A host by id or name.
pub async fn get(tx: &mut SystemTx, key: &Key) -> Result<HostView> {
    sqlx::query_as(concat!(view!(), " WHERE x.id = $1 OR x.name = $2"))
        .bind(key.id())
        .bind(key.name())
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| key.missing("host"))
}

/// The host through which the smallest frames of a kind of network pass, and how large their payload may be. Hosts that
/// did not say are not known.
pub async fn narrowest_path(tx: &mut SystemTx, segment: &Segment) -> Result<Option<(Name, u16)>> {
    let query = match segment.uplink() {
        None => sqlx::query(
            "SELECT h.name, (f.facts ->> 'tunnel_mtu')::integer - $1::integer AS mtu
             FROM host_facts f JOIN hosts h ON h.id = f.host_id WHERE f.facts ->> 'tunnel_mtu' IS NOT NULL
             ORDER BY mtu LIMIT 1",
        )
        .bind(i32::from(VXLAN_OVERHEAD)),
        Some(uplink) => sqlx::query(
            "SELECT h.name, (b ->> 'mtu')::integer AS mtu FROM host_facts f JOIN hosts h ON h.id = f.host_id
                CROSS JOIN LATERAL jsonb_array_elements(f.facts -> 'bridges') b
             WHERE b ->> 'name' = $1 AND b ->> 'mtu' IS NOT NULL ORDER BY mtu LIMIT 1",
        )
        .bind(uplink),
    };
    let Some(row) = query.fetch_optional(tx.conn()).await? else { return Ok(None) };
    // What is larger than this type is no limit to a network.
    let mtu: i32 = row.try_get("mtu")?;
    Ok(Some((row.try_get("name")?, u16::try_from(mtu.max(0)).unwrap_or(u16::MAX))))
}

/// Hosts, oldest first.
pub async fn list(tx: &mut SystemTx, page: &Page) -> Result<List<HostView>> {
    let s = Selected::new(&page.selector);
    let hosts = sqlx::query_as(concat!(
        view!(),
        " WHERE x.id > $1",
        crate::row::selected_where!("x"),
        " ORDER BY x.id LIMIT $2"
    ))
    .bind(page.after())
    .bind(page.fetch())
    .bind(s.equal)
    .bind(s.exist)
    .bind(s.missing)
    .bind(s.differ_keys)
    .bind(s.differ_values)
    .fetch_all(tx.conn())
    .await?;
    Ok(page.cut(hosts, |h: &HostView| h.host.metadata.id))
}

pub(crate) async fn lock(tx: &mut SystemTx, key: &Key) -> Result<Host> {
    sqlx::query_as("SELECT * FROM hosts WHERE id = $1 OR name = $2 FOR UPDATE")
        .bind(key.id())
        .bind(key.name())
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| key.missing("host"))
}

/// Changes what an operator wants of a host, and with it what the host can promise.
pub async fn update(
    tx: &mut SystemTx,
    change: &Change,
    key: &Key,
    update: &Update<HostSpec>,
) -> Result<Host> {
    let old = lock(tx, key).await?;
    change::expect(update.expected, old.metadata.generation)?;
    let labels = update.labels.as_ref().unwrap_or(&old.metadata.labels);
    if old.spec == update.spec && *labels == old.metadata.labels {
        return Ok(old);
    }
    if old.spec.maintenance && !update.spec.maintenance {
        drains::refuse_while_draining(tx.conn(), old.id(), &old.metadata.name).await?;
    }
    let host: Host = sqlx::query_as(
        "UPDATE hosts SET spec = $2, labels = $3, generation = generation + 1, updated_at = $4 WHERE id = $1
         RETURNING *",
    )
    .bind(old.id())
    .bind(Json(&update.spec))
    .bind(Json(labels))
    .bind(change.now)
    .fetch_one(tx.conn())
    .await?;
    set_limits(tx.conn(), host.id()).await?;
    audit(tx, change, "host.update", &host).await?;
    Ok(host)
}

/// Sets the maintenance of a host, whatever else is wanted of it.
pub(crate) async fn enter_maintenance(tx: &mut SystemTx, change: &Change, key: &Key) -> Result<Host> {
    let old = lock(tx, key).await?;
    if old.metadata.deletion_requested_at.is_some() {
        return Err(Error::Deleting { kind: "host", name: old.metadata.name.to_string() });
    }
    let spec = HostSpec { maintenance: true, ..old.spec };
    update(tx, change, key, &Update { expected: None, labels: None, spec }).await
}

/// Sets what a host can promise from what is wanted of it and what it reported.
pub(crate) async fn set_limits(conn: &mut PgConnection, id: HostId) -> Result<()> {
    let row = sqlx::query(
        "SELECT h.spec, f.facts FROM hosts h JOIN host_facts f ON f.host_id = h.id WHERE h.id = $1",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(()) };
    let (spec, facts): (HostSpec, HostFacts) = (row::json(&row, "spec")?, row::json(&row, "facts")?);
    let capacity = spec.capacity(&facts);
    sqlx::query(
        "UPDATE host_claims SET max_cpus = $2, max_memory_bytes = $3
         WHERE host_id = $1 AND (max_cpus, max_memory_bytes) IS DISTINCT FROM ($2, $3)",
    )
    .bind(id)
    .bind(i64::from(capacity.cpus))
    .bind(bigint(capacity.memory_bytes))
    .execute(conn)
    .await?;
    Ok(())
}

/// Asks for a host's removal. Refused while VMs are placed on it; nothing is placed on it from now on.
pub async fn delete(
    tx: &mut SystemTx,
    change: &Change,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Host> {
    let old = lock(tx, key).await?;
    change::expect(expected, old.metadata.generation)?;
    if old.metadata.deletion_requested_at.is_some() {
        return Ok(old);
    }
    let by = placements::on_host(tx.conn(), old.metadata.id).await?;
    if !by.is_empty() {
        return Err(Error::InUse { kind: "host", name: old.metadata.name.to_string(), by });
    }
    let host: Host = sqlx::query_as(
        "UPDATE hosts SET deletion_requested_at = $2, generation = generation + 1, updated_at = $2 WHERE id = $1
         RETURNING *",
    )
    .bind(old.id())
    .bind(change.now)
    .fetch_one(tx.conn())
    .await?;
    audit(tx, change, "host.delete", &host).await?;
    Ok(host)
}

/// Removes a host whose removal was asked for, once no VM and no volume is bound to it.
pub async fn finalize(tx: &mut SystemTx, id: HostId) -> Result<Finalized> {
    let conn = tx.conn();
    let going: Option<bool> =
        sqlx::query_scalar("SELECT deletion_requested_at IS NOT NULL FROM hosts WHERE id = $1 FOR UPDATE")
            .bind(id)
            .fetch_optional(&mut *conn)
            .await?;
    match going {
        None => return Ok(Finalized::Done),
        Some(false) => return Ok(Finalized::Waiting),
        Some(true) => {}
    }
    let needed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM placements WHERE host_id = $1) OR EXISTS (SELECT FROM volumes WHERE host_id = $1)
            OR EXISTS (SELECT FROM migrations WHERE target_host_id = $1 AND ended_at IS NULL)",
    )
    .bind(id)
    .fetch_one(&mut *conn)
    .await?;
    if needed {
        return Ok(Finalized::Waiting);
    }
    for statement in [
        "DELETE FROM manifest_items WHERE host_id = $1",
        "DELETE FROM manifest_facts WHERE host_id = $1",
        "DELETE FROM manifests WHERE host_id = $1",
        "DELETE FROM pools WHERE host_id = $1",
        "DELETE FROM host_certificates WHERE host_id = $1",
        "DELETE FROM join_tokens WHERE host_id = $1",
        "DELETE FROM host_claims WHERE host_id = $1",
        "DELETE FROM agent_conflicts WHERE host_id = $1",
        "DELETE FROM host_links WHERE host_id = $1",
        "DELETE FROM host_logs WHERE host_id = $1",
        "DELETE FROM host_leases WHERE host_id = $1",
        "DELETE FROM host_deaths WHERE host_id = $1",
        "DELETE FROM host_heartbeats WHERE host_id = $1",
        "DELETE FROM host_facts WHERE host_id = $1",
        "DELETE FROM conditions WHERE subject_id = $1",
        "DELETE FROM hosts WHERE id = $1",
    ] {
        sqlx::query(statement).bind(id).execute(&mut *conn).await?;
    }
    Ok(Finalized::Done)
}

/// Records signs of life of many hosts in one statement, each by the clock of the gateway that had it. Not on the feed. Whoever
/// reads them counts from when one changed: the clocks of gateways are compared by nobody.
pub async fn beat(tx: &mut SystemTx, beats: &[(HostId, DateTime)]) -> Result<()> {
    sqlx::query(
        "INSERT INTO host_heartbeats AS b (host_id, seen_at)
         SELECT n.id, max(n.at) FROM unnest($1::uuid[], $2::timestamptz[]) n(id, at) GROUP BY n.id ORDER BY n.id
         ON CONFLICT (host_id) DO UPDATE SET seen_at = excluded.seen_at WHERE excluded.seen_at <> b.seen_at",
    )
    .bind(beats.iter().map(|b| Uuid::from(b.0)).collect::<Vec<_>>())
    .bind(beats.iter().map(|b| b.1).collect::<Vec<_>>())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Last signs of life, each by the clock of the gateway that had it.
pub async fn heartbeats(tx: &mut SystemTx) -> Result<Vec<(HostId, DateTime)>> {
    let rows = sqlx::query("SELECT host_id, seen_at FROM host_heartbeats ORDER BY host_id")
        .fetch_all(tx.conn())
        .await?;
    rows.iter().map(|row| Ok((row.try_get("host_id")?, row.try_get("seen_at")?))).collect()
}
