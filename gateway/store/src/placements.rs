//! Where VMs run: compare-and-set on the epoch, and the claim on the host in the same transaction.
//!
//! ```text
//! (no row, epoch 0) ──place──► host, epoch 1 ──release──► no host, epoch 1 ──place──► host, epoch 2 …
//! ```
//! An epoch is never given twice, so a host that acts on an old one can be told apart for ever.

use crate::{Error, Result, SystemTx, audit_events::Entry, placement_rules, row};
use basalt_model::{
    CapabilityReason, DateTime, Epoch, Generation, HostId, Name, ProjectId, TenantId, VmId, VolumeId,
};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Where a VM was put, or why it could not be.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The VM.
    pub vm_id: VmId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// The host; absent while nothing takes it.
    pub host_id: Option<HostId>,
    /// The host's name.
    pub host: Option<Name>,
    /// Which placement of this VM it is; 0 before the first.
    pub epoch: Epoch,
    /// The VM's generation that was judged.
    pub generation: Generation,
    /// Why there, and why not elsewhere. On the feed only of a VM that is nowhere.
    pub explanation: Value,
    /// When it was decided.
    pub decided_at: DateTime,
}

impl FromRow<'_, PgRow> for Placement {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            vm_id: row.try_get("vm_id")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            host_id: row.try_get("host_id")?,
            host: row.try_get("host")?,
            epoch: row.try_get("epoch")?,
            generation: row.try_get("generation")?,
            explanation: row::json(row, "explanation")?,
            decided_at: row.try_get("decided_at")?,
        })
    }
}

/// A decision to put a VM on a host.
#[derive(Clone, Debug)]
pub struct Place {
    /// The VM.
    pub vm_id: VmId,
    /// The VM's generation that was judged; with one, any newer intent makes the decision stale.
    pub generation: Option<Generation>,
    /// The epoch that the decision was made against; 0 for a VM that was never placed.
    pub expected_epoch: Epoch,
    /// The host.
    pub host_id: HostId,
    /// A pool of that host for each volume that is on no host yet.
    pub pools: Vec<(VolumeId, Name)>,
    /// Why there, and why not elsewhere.
    pub explanation: Value,
    /// Now.
    pub now: DateTime,
}

/// What became of a decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Placed {
    /// It holds.
    Placed(Epoch),
    /// The VM or its placement changed since; decide anew.
    Stale,
    /// The host cannot take it any more. Nothing was claimed; the transaction goes on.
    Full(CapabilityReason),
}

/// A VM that is to be put somewhere, locked.
pub(crate) struct Subject {
    tenant_id: TenantId,
    project_id: ProjectId,
    name: Name,
    generation: Generation,
    pub(crate) cpus: i64,
    pub(crate) memory_bytes: i64,
}

/// A volume of it.
pub(crate) struct Volume {
    pub(crate) id: VolumeId,
    name: Name,
    pub(crate) size_bytes: i64,
    host_id: Option<HostId>,
}

/// Locks the VM, so that of two deciders the second finds what the first did.
pub(crate) async fn lock(conn: &mut PgConnection, vm: VmId) -> Result<Option<Subject>> {
    let row = sqlx::query(
        "SELECT tenant_id, project_id, name, generation, (spec ->> 'cpus')::bigint AS cpus,
            (spec ->> 'memory_bytes')::bigint AS memory_bytes
         FROM vms WHERE id = $1 AND deletion_requested_at IS NULL FOR NO KEY UPDATE",
    )
    .bind(vm)
    .fetch_optional(conn)
    .await?;
    let read = |row: PgRow| {
        Ok(Subject {
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            name: row.try_get("name")?,
            generation: row.try_get("generation")?,
            cpus: row.try_get("cpus")?,
            memory_bytes: row.try_get("memory_bytes")?,
        })
    };
    row.map(read).transpose()
}

impl Subject {
    /// A line of the audit trail about it.
    pub(crate) fn entry<'a>(&'a self, action: &'a str, vm: VmId) -> Entry<'a> {
        Entry::new(action, Some(self.tenant_id), Some(self.project_id), "vm", vm.0, self.name.as_str())
    }
}

/// Gives a volume that both hosts see to another one; its bytes are promised by the pool of that one from then on.
pub(crate) async fn rebind(conn: &mut PgConnection, volume: &Volume, to: HostId, pool: &Name) -> Result<()> {
    sqlx::query(
        "WITH old AS (SELECT host_id, pool FROM volumes WHERE id = $1),
         given_back AS (
            UPDATE pools p SET claimed_bytes = p.claimed_bytes - $4 FROM old
            WHERE p.host_id = old.host_id AND p.name = old.pool),
         promised AS (UPDATE pools SET claimed_bytes = claimed_bytes + $4 WHERE host_id = $2 AND name = $3)
         UPDATE volumes SET host_id = $2, pool = $3 WHERE id = $1",
    )
    .bind(volume.id)
    .bind(to)
    .bind(pool)
    .bind(volume.size_bytes)
    .execute(conn)
    .await?;
    Ok(())
}

async fn epoch(conn: &mut PgConnection, vm: VmId) -> Result<(Epoch, bool)> {
    let row = sqlx::query("SELECT epoch, host_id IS NOT NULL AS placed FROM placements WHERE vm_id = $1")
        .bind(vm)
        .fetch_optional(conn)
        .await?;
    match row {
        None => Ok((Epoch(0), false)),
        Some(row) => Ok((row.try_get("epoch")?, row.try_get("placed")?)),
    }
}

/// Its volumes, locked.
pub(crate) async fn volumes(conn: &mut PgConnection, vm: VmId) -> Result<Vec<Volume>> {
    let rows = sqlx::query(
        "SELECT id, name, size_bytes, host_id FROM volumes WHERE vm_id = $1 ORDER BY id FOR UPDATE",
    )
    .bind(vm)
    .fetch_all(conn)
    .await?;
    let read = |row: PgRow| {
        Ok(Volume {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            size_bytes: row.try_get("size_bytes")?,
            host_id: row.try_get("host_id")?,
        })
    };
    rows.into_iter().map(read).collect()
}

/// Puts a VM on a host: compare-and-set on generation and epoch, with the claims on the host and its pools.
pub async fn place(tx: &mut SystemTx, place: &Place) -> Result<Placed> {
    let conn = tx.conn();
    let Some(vm) = lock(conn, place.vm_id).await? else { return Ok(Placed::Stale) };
    if place.generation.is_some_and(|g| g != vm.generation) {
        return Ok(Placed::Stale);
    }
    let (epoch, placed) = epoch(conn, place.vm_id).await?;
    if epoch != place.expected_epoch || placed {
        return Ok(Placed::Stale);
    }
    let pools: BTreeMap<VolumeId, &Name> = place.pools.iter().map(|(id, name)| (*id, name)).collect();
    let mut bind: Vec<(&Volume, &Name)> = Vec::new();
    let volumes = volumes(conn, place.vm_id).await?;
    for volume in &volumes {
        match (volume.host_id, pools.get(&volume.id)) {
            (Some(at), _) if at == place.host_id => {}
            (Some(_), _) => return Ok(Placed::Full(elsewhere(volume))),
            (None, Some(pool)) => bind.push((volume, pool)),
            (None, None) => return Ok(Placed::Stale),
        }
    }
    sqlx::query("SAVEPOINT place").execute(&mut *conn).await?;
    if let Some(reason) = claim(conn, place.host_id, &vm, &bind).await? {
        sqlx::query("ROLLBACK TO SAVEPOINT place").execute(&mut *conn).await?;
        return Ok(Placed::Full(reason));
    }
    write(conn, place, &vm, &bind).await
}

fn elsewhere(volume: &Volume) -> CapabilityReason {
    CapabilityReason::new(
        "volume_elsewhere",
        format!("volume/{}", volume.name),
        "the volume is on another host",
        "place the VM on the host that has its volumes",
    )
}

/// Claims host and pools in one statement. The reason says what had no room; then the caller rolls back.
pub(crate) async fn claim(
    conn: &mut PgConnection,
    host: HostId,
    vm: &Subject,
    bind: &[(&Volume, &Name)],
) -> Result<Option<CapabilityReason>> {
    let mut by_pool: BTreeMap<&str, i64> = BTreeMap::new();
    for (volume, pool) in bind {
        *by_pool.entry(pool.as_str()).or_default() += volume.size_bytes;
    }
    let row = sqlx::query(
        "WITH host AS (
            UPDATE host_claims SET claimed_vms = claimed_vms + 1, claimed_cpus = claimed_cpus + $2,
                claimed_memory_bytes = claimed_memory_bytes + $3
            WHERE host_id = $1 AND claimed_cpus + $2 <= max_cpus AND claimed_memory_bytes + $3 <= max_memory_bytes
            RETURNING host_id
         ), pool AS (
            UPDATE pools p SET claimed_bytes = p.claimed_bytes + n.bytes
            FROM unnest($4::text[], $5::bigint[]) n(name, bytes)
            WHERE p.host_id = $1 AND p.name = n.name AND p.claimed_bytes + n.bytes <= p.capacity_bytes
            RETURNING p.name
         )
         SELECT (SELECT count(*) FROM host) AS hosts, (SELECT coalesce(array_agg(name), '{}') FROM pool) AS pools",
    )
    .bind(host)
    .bind(vm.cpus)
    .bind(vm.memory_bytes)
    .bind(by_pool.keys().copied().collect::<Vec<_>>())
    .bind(by_pool.values().copied().collect::<Vec<_>>())
    .fetch_one(&mut *conn)
    .await?;
    let claimed: Vec<String> = row.try_get("pools")?;
    if row.try_get::<i64, _>("hosts")? == 0 {
        return Ok(Some(host_full(conn, host, vm).await?));
    }
    let short = by_pool.iter().find(|(pool, _)| !claimed.iter().any(|c| c == *pool));
    Ok(short.map(|(pool, bytes)| {
        CapabilityReason::new(
            "insufficient_storage",
            format!("pool/{pool}"),
            format!("the pool cannot promise {bytes} more bytes"),
            "choose another pool, make room in it, or add storage",
        )
    }))
}

async fn host_full(conn: &mut PgConnection, host: HostId, vm: &Subject) -> Result<CapabilityReason> {
    let row = sqlx::query(
        "SELECT h.name, c.max_cpus, c.claimed_cpus, c.max_memory_bytes, c.claimed_memory_bytes
         FROM host_claims c JOIN hosts h ON h.id = c.host_id WHERE c.host_id = $1",
    )
    .bind(host)
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else {
        let message = "the host is gone or never reported what it has";
        return Ok(CapabilityReason::new(
            "host_unknown",
            format!("host/{host}"),
            message,
            "choose another host",
        ));
    };
    let figure = |column| row.try_get::<i64, _>(column);
    let evidence = format!(
        "{} of {} CPUs and {} of {} bytes are claimed, {} and {} are asked",
        figure("claimed_cpus")?,
        figure("max_cpus")?,
        figure("claimed_memory_bytes")?,
        figure("max_memory_bytes")?,
        vm.cpus,
        vm.memory_bytes
    );
    let subject = format!("host/{}", row.try_get::<String, _>("name")?);
    let (message, remedy) = ("it has no room for the VM any more", "choose another host");
    Ok(CapabilityReason::new("host_full", subject, message, remedy).with_evidence(evidence))
}

async fn write(
    conn: &mut PgConnection,
    place: &Place,
    vm: &Subject,
    bind: &[(&Volume, &Name)],
) -> Result<Placed> {
    let placed: Option<(Epoch, String)> = sqlx::query_as(
        "WITH bound AS (
            UPDATE volumes v SET host_id = $2, pool = n.pool FROM unnest($3::uuid[], $4::text[]) n(id, pool)
            WHERE v.id = n.id)
         INSERT INTO placements AS p (vm_id, tenant_id, project_id, host_id, host, epoch, generation, explanation,
            decided_at, claimed_cpus, claimed_memory_bytes)
         SELECT $1, $5, $6, h.id, h.name, $7 + 1, $8, $9, $10, $11, $12 FROM hosts h
         WHERE h.id = $2 AND h.deletion_requested_at IS NULL
         ON CONFLICT (vm_id) DO UPDATE SET host_id = excluded.host_id, host = excluded.host, epoch = excluded.epoch,
            generation = excluded.generation, explanation = excluded.explanation, decided_at = excluded.decided_at,
            claimed_cpus = excluded.claimed_cpus, claimed_memory_bytes = excluded.claimed_memory_bytes
         WHERE p.epoch = $7 AND p.host_id IS NULL
         RETURNING p.epoch, p.host",
    )
    .bind(place.vm_id)
    .bind(place.host_id)
    .bind(bind.iter().map(|(v, _)| v.id.0).collect::<Vec<_>>())
    .bind(bind.iter().map(|(_, p)| p.as_str()).collect::<Vec<_>>())
    .bind(vm.tenant_id)
    .bind(vm.project_id)
    .bind(place.expected_epoch)
    .bind(vm.generation)
    .bind(Json(&place.explanation))
    .bind(place.now)
    .bind(vm.cpus)
    .bind(vm.memory_bytes)
    .fetch_optional(&mut *conn)
    .await?;
    let outcome = match placed {
        Some((epoch, host)) => match placement_rules::broken(conn, place.vm_id, &host).await? {
            None => return Ok(Placed::Placed(epoch)),
            Some(reason) => Placed::Full(reason),
        },
        None => {
            tracing::debug!(vm = %vm.name, "the chosen host is going");
            Placed::Stale
        }
    };
    sqlx::query("ROLLBACK TO SAVEPOINT place").execute(&mut *conn).await?;
    Ok(outcome)
}

/// Several decisions at once, each as [`Place`].
///
/// One statement for all of them, with the same conditions as [`place`]. It is all or nothing: `None` says that at
/// least one does not hold, and that the caller must roll back and ask one by one, which is also what tells why.
/// Rows are locked in the order VMs, volumes, hosts, pools; hosts among each other in no order, so that no two of
/// these should run at once.
pub async fn place_all(tx: &mut SystemTx, places: &[Place]) -> Result<Option<Vec<Epoch>>> {
    if places.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let bind: Vec<(Uuid, Uuid, &str)> = places
        .iter()
        .flat_map(|p| p.pools.iter().map(|(volume, pool)| (p.vm_id.0, volume.0, pool.as_str())))
        .collect();
    let rows: Vec<(VmId, Option<Epoch>, bool)> = sqlx::query_as(PLACE_ALL)
        .bind(places.iter().map(|p| p.vm_id.0).collect::<Vec<_>>())
        .bind(places.iter().map(|p| p.generation.map(|g| g.0)).collect::<Vec<_>>())
        .bind(places.iter().map(|p| p.expected_epoch.0).collect::<Vec<_>>())
        .bind(places.iter().map(|p| p.host_id.0).collect::<Vec<_>>())
        .bind(places.iter().map(|p| Json(&p.explanation)).collect::<Vec<_>>())
        .bind(places.iter().map(|p| p.now).collect::<Vec<_>>())
        .bind(bind.iter().map(|b| b.0).collect::<Vec<_>>())
        .bind(bind.iter().map(|b| b.1).collect::<Vec<_>>())
        .bind(bind.iter().map(|b| b.2).collect::<Vec<_>>())
        .fetch_all(tx.conn())
        .await?;
    let epochs: BTreeMap<VmId, Epoch> =
        rows.into_iter().filter(|r| r.2).filter_map(|(vm, epoch, _)| Some((vm, epoch?))).collect();
    Ok(places.iter().map(|p| epochs.get(&p.vm_id).copied()).collect())
}

/// The last column is the same in every row: whether every claim was granted.
const PLACE_ALL: &str = "
WITH vm AS (
    SELECT v.id, v.tenant_id, v.project_id, v.generation, (v.spec ->> 'cpus')::bigint AS cpus,
        (v.spec ->> 'memory_bytes')::bigint AS memory_bytes, w.epoch, w.host_id, w.explanation, w.at
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::jsonb[], $6::timestamptz[])
            w(id, generation, epoch, host_id, explanation, at)
        JOIN vms v ON v.id = w.id
    WHERE v.deletion_requested_at IS NULL AND v.generation = coalesce(w.generation, v.generation)
    ORDER BY v.id FOR NO KEY UPDATE OF v
), bound AS (
    UPDATE volumes v SET host_id = vm.host_id, pool = b.pool
    FROM unnest($7::uuid[], $8::uuid[], $9::text[]) b(vm_id, id, pool) JOIN vm ON vm.id = b.vm_id
    WHERE v.id = b.id AND v.vm_id = b.vm_id AND v.host_id IS NULL
    RETURNING v.host_id, v.pool, v.size_bytes
), host AS (
    UPDATE host_claims c SET claimed_vms = c.claimed_vms + n.vms, claimed_cpus = c.claimed_cpus + n.cpus,
        claimed_memory_bytes = c.claimed_memory_bytes + n.memory_bytes
    FROM (SELECT host_id, count(*) AS vms, sum(cpus)::bigint AS cpus, sum(memory_bytes)::bigint AS memory_bytes
            FROM vm GROUP BY host_id) n
    WHERE c.host_id = n.host_id AND c.claimed_cpus + n.cpus <= c.max_cpus
        AND c.claimed_memory_bytes + n.memory_bytes <= c.max_memory_bytes
    RETURNING c.host_id
), wanted AS (
    SELECT host_id, pool, sum(size_bytes)::bigint AS bytes FROM bound GROUP BY host_id, pool
), pool AS (
    UPDATE pools p SET claimed_bytes = p.claimed_bytes + n.bytes
    FROM wanted n, (SELECT count(*) FROM host) after_the_hosts
    WHERE p.host_id = n.host_id AND p.name = n.pool AND p.claimed_bytes + n.bytes <= p.capacity_bytes
    RETURNING p.id
), placed AS (
    INSERT INTO placements AS p (vm_id, tenant_id, project_id, host_id, host, epoch, generation, explanation,
        decided_at, claimed_cpus, claimed_memory_bytes)
    SELECT vm.id, vm.tenant_id, vm.project_id, h.id, h.name, vm.epoch + 1, vm.generation, vm.explanation,
        vm.at, vm.cpus, vm.memory_bytes
    FROM vm JOIN hosts h ON h.id = vm.host_id AND h.deletion_requested_at IS NULL
    WHERE vm.epoch = 0 OR EXISTS (SELECT FROM placements b WHERE b.vm_id = vm.id)
    ON CONFLICT (vm_id) DO UPDATE SET host_id = excluded.host_id, host = excluded.host, epoch = excluded.epoch,
        generation = excluded.generation, explanation = excluded.explanation, decided_at = excluded.decided_at,
        claimed_cpus = excluded.claimed_cpus, claimed_memory_bytes = excluded.claimed_memory_bytes
    WHERE p.epoch = excluded.epoch - 1 AND p.host_id IS NULL
    RETURNING p.vm_id, p.epoch
), broken AS MATERIALIZED (
    -- Under the claims on the hosts; the function sees what others committed before they let go of them.
    SELECT EXISTS (SELECT FROM broken_placement_rules(a.vms)) AS any
    FROM (SELECT array_agg(p.vm_id) AS vms FROM placed p, (SELECT count(*) FROM host) after_the_hosts) a
)
SELECT vm.id, placed.epoch,
    (SELECT count(*) FROM bound) = cardinality($8)
    AND (SELECT count(*) FROM host) = (SELECT count(DISTINCT host_id) FROM vm)
    AND (SELECT count(*) FROM pool) = (SELECT count(*) FROM wanted)
    -- No volume of theirs is on another host, or still on none.
    AND NOT EXISTS (SELECT FROM vm JOIN volumes v ON v.vm_id = vm.id
        WHERE v.id <> ALL ($8) AND v.host_id IS DISTINCT FROM vm.host_id)
    AND NOT (SELECT b.any FROM broken b) AS granted
FROM vm LEFT JOIN placed ON placed.vm_id = vm.id";

/// A judgement that no host takes a VM now.
#[derive(Clone, Debug)]
pub struct Unplaced {
    /// The VM.
    pub vm_id: VmId,
    /// The VM's generation that was judged.
    pub generation: Generation,
    /// The epoch that the judgement was made against.
    pub expected_epoch: Epoch,
    /// Why no host takes it.
    pub explanation: Value,
    /// Now.
    pub now: DateTime,
}

/// Records why no host takes these VMs, and returns those of which it is so: the others changed or were placed
/// since. The same judgement again is not written.
pub async fn record_unplaced(tx: &mut SystemTx, unplaced: &[Unplaced]) -> Result<BTreeSet<VmId>> {
    let parked: Vec<VmId> = sqlx::query_scalar(
        "WITH vm AS (
            SELECT v.id, v.tenant_id, v.project_id, v.generation, w.epoch, w.explanation, w.at
            FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::jsonb[], $5::timestamptz[])
                    w(id, generation, epoch, explanation, at)
                JOIN vms v ON v.id = w.id
            WHERE v.deletion_requested_at IS NULL AND v.generation = w.generation
            ORDER BY v.id FOR NO KEY UPDATE OF v
         ), written AS (
            INSERT INTO placements AS p (vm_id, tenant_id, project_id, epoch, generation, explanation, decided_at,
                claimed_cpus, claimed_memory_bytes)
            SELECT id, tenant_id, project_id, epoch, generation, explanation, at, 0, 0 FROM vm
            WHERE epoch = 0 OR EXISTS (SELECT FROM placements b WHERE b.vm_id = vm.id)
            ON CONFLICT (vm_id) DO UPDATE SET generation = excluded.generation, explanation = excluded.explanation,
                decided_at = excluded.decided_at
            WHERE p.epoch = excluded.epoch AND p.host_id IS NULL
                AND (p.generation, p.explanation) IS DISTINCT FROM (excluded.generation, excluded.explanation)
            RETURNING vm_id
         )
         SELECT vm_id FROM written
         UNION
         SELECT vm.id FROM vm JOIN placements p ON p.vm_id = vm.id
         WHERE p.epoch = vm.epoch AND p.host_id IS NULL AND p.explanation = vm.explanation",
    )
    .bind(unplaced.iter().map(|u| u.vm_id.0).collect::<Vec<_>>())
    .bind(unplaced.iter().map(|u| u.generation.0).collect::<Vec<_>>())
    .bind(unplaced.iter().map(|u| u.expected_epoch.0).collect::<Vec<_>>())
    .bind(unplaced.iter().map(|u| Json(&u.explanation)).collect::<Vec<_>>())
    .bind(unplaced.iter().map(|u| u.now).collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    Ok(parked.into_iter().collect())
}

/// Takes a VM from its host and gives the claims back; its volumes stay bound. `false`: it is not placed at
/// this epoch any more.
pub async fn release(tx: &mut SystemTx, vm: VmId, expected_epoch: Epoch, now: DateTime) -> Result<bool> {
    let conn = tx.conn();
    sqlx::query("SELECT FROM vms WHERE id = $1 FOR NO KEY UPDATE").bind(vm).execute(&mut *conn).await?;
    let released = sqlx::query(
        "WITH old AS (SELECT * FROM placements WHERE vm_id = $1 AND epoch = $2 AND host_id IS NOT NULL FOR UPDATE),
         claims AS (
            UPDATE host_claims h SET claimed_vms = claimed_vms - 1, claimed_cpus = h.claimed_cpus - o.claimed_cpus,
                claimed_memory_bytes = h.claimed_memory_bytes - o.claimed_memory_bytes
            FROM old o WHERE h.host_id = o.host_id)
         UPDATE placements p SET host_id = NULL, host = NULL, claimed_cpus = 0, claimed_memory_bytes = 0, decided_at = $3
         FROM old o WHERE p.vm_id = o.vm_id",
    )
    .bind(vm)
    .bind(expected_epoch)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(released.rows_affected() == 1)
}

/// VMs placed on a host, as `vm/name`, at most ten.
pub(crate) async fn on_host(conn: &mut PgConnection, host: Uuid) -> Result<Vec<String>, Error> {
    let by = sqlx::query_scalar(
        "SELECT 'vm/' || v.name FROM placements p JOIN vms v ON v.id = p.vm_id WHERE p.host_id = $1 LIMIT 10",
    )
    .bind(host)
    .fetch_all(conn)
    .await?;
    Ok(by)
}
