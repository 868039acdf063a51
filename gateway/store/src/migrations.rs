//! Migrations: asked for, given a target that keeps room free, begun, and settled in one statement of who owns the VM.
//!
//! ```text
//! insert ──► choose (target, its claims) ──► begin ──► settle: target (placement, epoch + 1) | source (epoch + 2)
//!    └──────────────┴──────────── cancel: said to the source, settled by the facts
//! ```
//! Every step is compare-and-set on the row that the one before left and on the epoch of the placement, under the VM's
//! lock: of two who decide, the second finds what the first did. Both ends raise the epoch, so that whatever a host was
//! told meanwhile is older than what it is told then.

use crate::{
    Accepted, Change, Error, Key, List, Page, Result, SystemTx, TenantTx, drains,
    placements::{self, Volume},
    row, tasks,
    vm_changes::{alive, lock},
};
use basalt_model::{
    CapabilityReason, DateTime, DrainId, Epoch, HostId, MigrationId, Name, ProjectId, TaskId, TenantId, VmId,
    VolumeId,
    migrations::{Migration, MigrationMode, MigrationOutcome, MigrationResult, MigrationSpec, Motion},
    tasks::{TaskKind, TaskMove, TaskState},
    vms::Power,
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A migration's row: what everybody sees, and what only the reconciler needs.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrationRow {
    /// What everybody sees.
    pub migration: Migration,
    /// Where its volumes go at the target.
    pub pools: BTreeMap<VolumeId, Name>,
    /// When the source was told that it may begin.
    pub begun_at: Option<DateTime>,
    /// When the target was told to let nothing in any more.
    pub closed_at: Option<DateTime>,
}

impl FromRow<'_, PgRow> for MigrationRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let migration = Migration {
            id: row.try_get("id")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            vm_id: row.try_get("vm_id")?,
            vm: row.try_get("vm")?,
            task_id: row.try_get("task_id")?,
            drain_id: row.try_get("drain_id")?,
            spec: row::json(row, "spec")?,
            mode: row::from_word(row, "mode")?,
            source_host_id: row.try_get("source_host_id")?,
            source: row.try_get("source")?,
            source_epoch: row.try_get("source_epoch")?,
            target_host_id: row.try_get("target_host_id")?,
            target: row.try_get("target")?,
            copies_storage: row.try_get("copies_storage")?,
            cancel_requested_at: row.try_get("cancel_requested_at")?,
            requested_at: row.try_get("requested_at")?,
            deadline: row.try_get("deadline")?,
            ended_at: row.try_get("ended_at")?,
            outcome: row::json_option(row, "outcome")?,
        };
        Ok(Self {
            migration,
            pools: row::json(row, "pools")?,
            begun_at: row.try_get("begun_at")?,
            closed_at: row.try_get("closed_at")?,
        })
    }
}

/// A migration as people look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrationView {
    /// Its row.
    pub row: MigrationRow,
    /// What the VM's host said last of its part in a migration.
    pub motion: Option<Motion>,
}

impl FromRow<'_, PgRow> for MigrationView {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { row: MigrationRow::from_row(row)?, motion: row::json_option(row, "motion")? })
    }
}

macro_rules! view {
    ($end:literal) => {
        concat!(
            "SELECT m.*, CASE WHEN m.ended_at IS NULL THEN (o.observed -> 'motion')::jsonb END AS motion
             FROM migrations m LEFT JOIN vm_observed o ON o.vm_id = m.vm_id WHERE m.project_id = $1 AND ",
            $end
        )
    };
}

/// Why a VM cannot go.
fn refused(code: &'static str, vm: &Name, message: String, remedy: &str) -> Error {
    Error::Refused(Box::new(CapabilityReason::new(code, format!("vm/{vm}"), message, remedy)))
}

/// Asks for a migration. The VM must be on a host and not on its way already; which host it goes to is chosen after.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    spec: &MigrationSpec,
) -> Result<Accepted<Migration>> {
    let tenant = tx.tenant();
    ask(tx.conn(), change, (tenant, project), key, spec, None).await
}

/// The same, for a drain or for nobody's.
pub(crate) async fn ask(
    conn: &mut PgConnection,
    change: &Change,
    (tenant, project): (TenantId, ProjectId),
    key: &Key,
    spec: &MigrationSpec,
    drain: Option<DrainId>,
) -> Result<Accepted<Migration>> {
    let vm = lock(conn, project, key, None).await?;
    alive(&vm)?;
    let name = &vm.metadata.name;
    if let Some(other) = live(conn, vm.id()).await? {
        return Err(on_its_way(name, &other.migration));
    }
    // Whoever places a VM holds its lock.
    let at: Option<(HostId, Name, Epoch)> = sqlx::query_as(
        "SELECT host_id, host, epoch FROM placements WHERE vm_id = $1 AND host_id IS NOT NULL",
    )
    .bind(vm.id())
    .fetch_optional(&mut *conn)
    .await?;
    let Some((source_id, source, epoch)) = at else {
        let message = format!("{name} is on no host");
        let remedy = "wait until it is placed; its conditions say what it waits for";
        return Err(refused("not_placed", name, message, remedy));
    };
    if spec.host.as_ref() == Some(&source) {
        let message = format!("{name} is on {source} already");
        let remedy = "name another host, or leave the host out so that one is chosen";
        return Err(refused("same_host", name, message, remedy));
    }
    let mode = match (spec.mode, vm.spec.power) {
        (Some(MigrationMode::Live), Power::Stopped) => {
            let message = format!("{name} is meant to be off, so nothing of it can go on meanwhile");
            return Err(refused("not_running", name, message, "leave the mode out, or start the VM first"));
        }
        (Some(mode), _) => mode,
        (None, Power::Stopped) => MigrationMode::Cold,
        (None, Power::Running | Power::Paused) => MigrationMode::Live,
    };
    let deadline = change.now + chrono::TimeDelta::seconds(spec.timeout_seconds.into());
    let mut task =
        tasks::new(change, tenant, project, TaskKind::VmMigrate, vm.subject(), vm.metadata.generation);
    // The migration ends by its own deadline, and the task with it; the sweep comes only if that does not.
    task.deadline = deadline + chrono::TimeDelta::seconds(AFTER_DEADLINE_SECONDS);
    let made: MigrationRow = sqlx::query_as(
        "INSERT INTO migrations (id, tenant_id, project_id, vm_id, vm, task_id, spec, mode, source_host_id, source,
            source_epoch, requested_at, deadline, drain_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING *",
    )
    .bind(change.id::<MigrationId>())
    .bind(tenant)
    .bind(project)
    .bind(vm.id())
    .bind(name)
    .bind(task.id)
    .bind(Json(spec))
    .bind(row::word(&mode)?)
    .bind(source_id)
    .bind(&source)
    .bind(epoch)
    .bind(change.now)
    .bind(deadline)
    .bind(drain)
    .fetch_one(&mut *conn)
    .await?;
    tasks::record(conn, change, "vm.migrate", &task, None).await?;
    Ok(Accepted { object: made.migration, task })
}

/// Seconds that the facts of both hosts have after the deadline until the task is ended without them.
const AFTER_DEADLINE_SECONDS: i64 = 600;

fn on_its_way(name: &Name, migration: &Migration) -> Error {
    let to = migration.target.as_ref().map(|t| format!(" to {t}")).unwrap_or_default();
    refused(
        "migrating",
        name,
        format!("{name} is on its way from {}{to}", migration.source),
        "wait until the migration has ended, or cancel its task",
    )
}

/// The live migration of a VM.
async fn live(conn: &mut PgConnection, vm: VmId) -> Result<Option<MigrationRow>> {
    let row = sqlx::query_as("SELECT * FROM migrations WHERE vm_id = $1 AND ended_at IS NULL")
        .bind(vm)
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// Refuses what would change a VM under a migration.
pub(crate) async fn refuse_while_moving(conn: &mut PgConnection, vm: VmId, name: &Name) -> Result<()> {
    match live(conn, vm).await? {
        None => Ok(()),
        Some(row) => Err(on_its_way(name, &row.migration)),
    }
}

/// Migrations of a project, oldest first; of one VM where it is given.
pub async fn list(
    tx: &mut TenantTx,
    project: ProjectId,
    vm: Option<VmId>,
    page: &Page,
) -> Result<List<MigrationView>> {
    let rows =
        sqlx::query_as(view!("m.id > $2 AND ($4::uuid IS NULL OR m.vm_id = $4) ORDER BY m.id LIMIT $3"))
            .bind(project)
            .bind(page.after())
            .bind(page.fetch())
            .bind(vm)
            .fetch_all(tx.conn())
            .await?;
    Ok(page.cut(rows, |r: &MigrationView| r.row.migration.id.0))
}

/// One migration of a project.
pub async fn get(tx: &mut TenantTx, project: ProjectId, id: MigrationId) -> Result<MigrationView> {
    let row = sqlx::query_as(view!("m.id = $2")).bind(project).bind(id).fetch_optional(tx.conn()).await?;
    row.ok_or_else(|| Error::NotFound { kind: "migration", name: id.to_string() })
}

/// Takes a migration back: the source stops what it can still stop, and the facts decide. Its task goes on until then.
pub(crate) async fn request_cancel(conn: &mut PgConnection, task: TaskId, now: DateTime) -> Result<bool> {
    let asked = sqlx::query(
        "UPDATE migrations SET cancel_requested_at = coalesce(cancel_requested_at, $2)
         WHERE task_id = $1 AND ended_at IS NULL",
    )
    .bind(task)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(asked.rows_affected() > 0)
}

/// A target that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The migration.
    pub id: MigrationId,
    /// The host.
    pub target: HostId,
    /// A pool there for each volume.
    pub pools: BTreeMap<VolumeId, Name>,
    /// Whether the bytes of volumes are sent; else both hosts see the same pools.
    pub copies_storage: bool,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Stepped {
    /// It was made.
    Done,
    /// Something changed since it was decided; decide anew.
    Stale,
    /// The target has no room any more.
    Full(CapabilityReason),
}

struct Locked {
    row: MigrationRow,
    claimed: (i64, i64),
    claimed_pools: BTreeMap<Name, i64>,
}

/// Locks the VM and then its migration, if that is not over and its VM is where it was when it was asked for.
async fn lock_live(conn: &mut PgConnection, id: MigrationId) -> Result<Option<Locked>> {
    let vm: Option<VmId> = sqlx::query_scalar("SELECT vm_id FROM migrations WHERE id = $1")
        .bind(id)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(vm) = vm else { return Ok(None) };
    sqlx::query("SELECT FROM vms WHERE id = $1 FOR NO KEY UPDATE").bind(vm).execute(&mut *conn).await?;
    let row = sqlx::query(
        "SELECT m.* FROM migrations m JOIN placements p ON p.vm_id = m.vm_id AND p.host_id = m.source_host_id
            AND p.epoch = m.source_epoch
         WHERE m.id = $1 AND m.ended_at IS NULL FOR UPDATE",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?;
    let read = |row: PgRow| -> Result<Locked> {
        Ok(Locked {
            claimed: (row.try_get("claimed_cpus")?, row.try_get("claimed_memory_bytes")?),
            claimed_pools: row::json(&row, "claimed_pools")?,
            row: MigrationRow::from_row(&row)?,
        })
    };
    row.map(read).transpose()
}

/// Gives a migration its target, which keeps room free from then on.
pub async fn choose(tx: &mut SystemTx, choice: &Choice) -> Result<Stepped> {
    let conn = tx.conn();
    let Some(Locked { row, .. }) = lock_live(conn, choice.id).await? else { return Ok(Stepped::Stale) };
    let migration = &row.migration;
    if migration.target_host_id.is_some() || migration.cancel_requested_at.is_some() {
        return Ok(Stepped::Stale);
    }
    let Some(vm) = placements::lock(conn, migration.vm_id).await? else { return Ok(Stepped::Stale) };
    let volumes = placements::volumes(conn, migration.vm_id).await?;
    let mut bind: Vec<(&Volume, &Name)> = Vec::new();
    for volume in &volumes {
        match choice.pools.get(&volume.id) {
            Some(pool) => bind.push((volume, pool)),
            None => return Ok(Stepped::Stale),
        }
    }
    // What both hosts see is promised already, where it is now.
    let claimed = if choice.copies_storage { bind.as_slice() } else { &[] };
    sqlx::query("SAVEPOINT choose").execute(&mut *conn).await?;
    if let Some(reason) = placements::claim(conn, choice.target, &vm, claimed).await? {
        sqlx::query("ROLLBACK TO SAVEPOINT choose").execute(&mut *conn).await?;
        return Ok(Stepped::Full(reason));
    }
    let mut by_pool: BTreeMap<&Name, i64> = BTreeMap::new();
    for (volume, pool) in claimed {
        *by_pool.entry(*pool).or_default() += volume.size_bytes;
    }
    let chosen = sqlx::query(
        "UPDATE migrations m SET target_host_id = h.id, target = h.name, pools = $3, copies_storage = $4,
            claimed_cpus = $5, claimed_memory_bytes = $6, claimed_pools = $7
         FROM hosts h WHERE m.id = $1 AND h.id = $2 AND h.deletion_requested_at IS NULL",
    )
    .bind(choice.id)
    .bind(choice.target)
    .bind(Json(&choice.pools))
    .bind(choice.copies_storage)
    .bind(vm.cpus)
    .bind(vm.memory_bytes)
    .bind(Json(by_pool))
    .execute(&mut *conn)
    .await?;
    if chosen.rows_affected() == 1 {
        return Ok(Stepped::Done);
    }
    sqlx::query("ROLLBACK TO SAVEPOINT choose").execute(conn).await?;
    Ok(Stepped::Stale)
}

/// The source may begin. From here on it has the VM whole only if it says that its one attempt failed.
pub async fn begin(tx: &mut SystemTx, id: MigrationId, now: DateTime) -> Result<Stepped> {
    let conn = tx.conn();
    if lock_live(conn, id).await?.is_none() {
        return Ok(Stepped::Stale);
    }
    let begun = sqlx::query(
        "UPDATE migrations SET begun_at = $2 WHERE id = $1 AND begun_at IS NULL AND cancel_requested_at IS NULL
            AND closed_at IS NULL AND target_host_id IS NOT NULL",
    )
    .bind(id)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(if begun.rows_affected() == 1 { Stepped::Done } else { Stepped::Stale })
}

/// The target is to let nothing in any more.
pub async fn close(tx: &mut SystemTx, id: MigrationId, now: DateTime) -> Result<Stepped> {
    let conn = tx.conn();
    if lock_live(conn, id).await?.is_none() {
        return Ok(Stepped::Stale);
    }
    let closed = sqlx::query("UPDATE migrations SET closed_at = $2 WHERE id = $1 AND closed_at IS NULL")
        .bind(id)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(if closed.rows_affected() == 1 { Stepped::Done } else { Stepped::Stale })
}

/// Who owns the VM.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The migration.
    pub id: MigrationId,
    /// Whether the source had been told to begin when this was decided.
    pub begun: bool,
    /// What became of it; the target owns the VM if it completed.
    pub outcome: MigrationOutcome,
    /// Now.
    pub now: DateTime,
}

/// Ends a migration, and its task with it: the VM is its owner's, at an epoch above all that either host was told.
pub async fn settle(tx: &mut SystemTx, settlement: &Settlement) -> Result<Stepped> {
    let conn = tx.conn();
    let Some(locked) = lock_live(conn, settlement.id).await? else { return Ok(Stepped::Stale) };
    if locked.row.begun_at.is_some() != settlement.begun {
        return Ok(Stepped::Stale);
    }
    match (settlement.outcome.result, locked.row.migration.target_host_id) {
        (MigrationResult::Completed, None) => return Ok(Stepped::Stale),
        (MigrationResult::Completed, Some(target)) => {
            give_to_target(conn, &locked, target, settlement.now).await?
        }
        (_, None) => {}
        (_, Some(target)) => leave_at_source(conn, &locked, target).await?,
    }
    let migration = &locked.row.migration;
    if let Some(drain) = migration.drain_id {
        drains::note_end(conn, drain, migration, &settlement.outcome).await?;
    }
    sqlx::query("UPDATE migrations SET ended_at = $2, outcome = $3 WHERE id = $1")
        .bind(settlement.id)
        .bind(settlement.now)
        .bind(Json(&settlement.outcome))
        .execute(conn)
        .await?;
    tasks::advance(tx, &[ended_task(migration.task_id, &settlement.outcome)], settlement.now).await?;
    Ok(Stepped::Done)
}

fn ended_task(id: TaskId, outcome: &MigrationOutcome) -> TaskMove {
    let (state, progress) = match outcome.result {
        MigrationResult::Completed => (TaskState::Completed, 100),
        MigrationResult::Failed => (TaskState::Failed, 0),
        MigrationResult::Cancelled => (TaskState::Cancelled, 0),
    };
    let error = (outcome.result != MigrationResult::Completed).then(|| {
        outcome.reason.clone().unwrap_or_else(|| {
            CapabilityReason::new(
                "not_migrated",
                "migration",
                outcome.message.clone(),
                "see what both hosts say of the VM, and ask again",
            )
        })
    });
    TaskMove { id, state, progress, stage: outcome.message.clone(), error }
}

async fn give_to_target(
    conn: &mut PgConnection,
    locked: &Locked,
    target: HostId,
    now: DateTime,
) -> Result<()> {
    let migration = &locked.row.migration;
    let source = migration.source_host_id;
    sqlx::query(
        "WITH claims AS (
            UPDATE host_claims h SET claimed_vms = claimed_vms - 1, claimed_cpus = h.claimed_cpus - p.claimed_cpus,
                claimed_memory_bytes = h.claimed_memory_bytes - p.claimed_memory_bytes
            FROM placements p WHERE p.vm_id = $1 AND h.host_id = p.host_id)
         UPDATE placements SET host_id = $2, host = $3, epoch = $4, decided_at = $5, claimed_cpus = $6,
            claimed_memory_bytes = $7
         WHERE vm_id = $1",
    )
    .bind(migration.vm_id)
    .bind(target)
    .bind(&migration.target)
    .bind(migration.target_epoch())
    .bind(now)
    .bind(locked.claimed.0)
    .bind(locked.claimed.1)
    .execute(&mut *conn)
    .await?;
    for volume in placements::volumes(conn, migration.vm_id).await? {
        let Some(pool) = locked.row.pools.get(&volume.id) else { continue };
        sqlx::query(
            "WITH old AS (SELECT host_id, pool FROM volumes WHERE id = $1),
             given_back AS (
                UPDATE pools p SET claimed_bytes = p.claimed_bytes - $4 FROM old
                WHERE p.host_id = old.host_id AND p.name = old.pool),
             promised AS (
                UPDATE pools SET claimed_bytes = claimed_bytes + CASE WHEN $5 THEN 0 ELSE $4 END
                WHERE host_id = $2 AND name = $3)
             UPDATE volumes SET host_id = $2, pool = $3 WHERE id = $1",
        )
        .bind(volume.id)
        .bind(target)
        .bind(pool)
        .bind(volume.size_bytes)
        .bind(migration.copies_storage)
        .execute(&mut *conn)
        .await?;
    }
    believe(conn, migration.vm_id, target, now).await?;
    tracing::info!(vm = %migration.vm, from = %source, to = %target, "the VM belongs to the target");
    Ok(())
}

/// What the new owner said last counts from now on: it reports only what changes.
async fn believe(conn: &mut PgConnection, vm: VmId, host: HostId, now: DateTime) -> Result<()> {
    sqlx::query(
        "UPDATE vm_observed o SET host_id = $2, epoch = f.epoch, observed_generation = f.generation,
            observed = ((f.observed - 'as' - 'motion') || jsonb_build_object('host_id', $2::uuid))::json,
            stage = f.stage, reported_at = $3
         FROM manifest_facts f
         WHERE o.vm_id = $1 AND f.host_id = $2 AND f.kind = 'vm' AND f.id = $1 AND NOT f.gone",
    )
    .bind(vm)
    .bind(host)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "UPDATE volume_observed o SET host_id = $2, observed_generation = f.generation, observed = f.observed - 'as',
            stage = f.stage, reported_at = $3
         FROM manifest_facts f JOIN volumes v ON v.id = f.id
         WHERE v.vm_id = $1 AND o.volume_id = v.id AND f.host_id = $2 AND f.kind = 'volume' AND NOT f.gone",
    )
    .bind(vm)
    .bind(host)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

async fn leave_at_source(conn: &mut PgConnection, locked: &Locked, target: HostId) -> Result<()> {
    let migration = &locked.row.migration;
    let epoch = Epoch(migration.target_epoch().0 + 1);
    sqlx::query("UPDATE placements SET epoch = $2 WHERE vm_id = $1")
        .bind(migration.vm_id)
        .bind(epoch)
        .execute(&mut *conn)
        .await?;
    // What the source said of the VM still holds: it never stopped being its owner.
    sqlx::query("UPDATE vm_observed SET epoch = $2 WHERE vm_id = $1 AND host_id = $3 AND epoch = $4")
        .bind(migration.vm_id)
        .bind(epoch)
        .bind(migration.source_host_id)
        .bind(migration.source_epoch)
        .execute(&mut *conn)
        .await?;
    give_back(conn, locked, target).await
}

/// What the target kept free is free again.
async fn give_back(conn: &mut PgConnection, locked: &Locked, target: HostId) -> Result<()> {
    sqlx::query(
        "WITH host AS (
            UPDATE host_claims SET claimed_vms = claimed_vms - 1, claimed_cpus = claimed_cpus - $2,
                claimed_memory_bytes = claimed_memory_bytes - $3
            WHERE host_id = $1)
         UPDATE pools p SET claimed_bytes = p.claimed_bytes - n.bytes
         FROM unnest($4::text[], $5::bigint[]) n(name, bytes) WHERE p.host_id = $1 AND p.name = n.name",
    )
    .bind(target)
    .bind(locked.claimed.0)
    .bind(locked.claimed.1)
    .bind(locked.claimed_pools.keys().map(Name::as_str).collect::<Vec<_>>())
    .bind(locked.claimed_pools.values().copied().collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The VM is going, and nothing of it is on any host: its migrations go with it, and what a target kept free.
pub(crate) async fn forget(conn: &mut PgConnection, vm: VmId) -> Result<()> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM migrations WHERE vm_id = $1 AND ended_at IS NULL AND target_host_id IS NOT NULL",
    )
    .bind(vm)
    .fetch_all(&mut *conn)
    .await?;
    for id in ids {
        if let Some(locked) = lock_live(conn, MigrationId(id)).await?
            && let Some(target) = locked.row.migration.target_host_id
        {
            give_back(conn, &locked, target).await?;
        }
    }
    sqlx::query("DELETE FROM migrations WHERE vm_id = $1").bind(vm).execute(conn).await?;
    Ok(())
}

/// Removes migrations that ended before a time.
pub async fn prune(tx: &mut SystemTx, ended_before: DateTime) -> Result<u64> {
    let gone = sqlx::query("DELETE FROM migrations WHERE ended_at < $1")
        .bind(ended_before)
        .execute(tx.conn())
        .await?;
    Ok(gone.rows_affected())
}
