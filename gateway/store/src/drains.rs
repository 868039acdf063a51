//! Drains: asked for with the plan that was made for them, carried out one VM at a time, ended once.
//!
//! ```text
//! insert (maintenance on) ──► start a migration … note its end … ──► end
//!      └───────────── cancel: its migrations are taken back ─────────►┘
//! ```
//! Locks are taken in the order VM, migration, drain: whoever settles a migration holds the first two already.

use crate::{
    Accepted, Change, Error, Key, List, Page, Result, SystemTx,
    audit_events::{self, Entry},
    hosts, migrations, row, tasks,
};
use basalt_model::{
    CapabilityReason, DateTime, DrainId, HostId, MigrationId, Name, ProjectId, TenantId, VmId,
    drains::{Drain, DrainMove, DrainOutcome, DrainResult, DrainSpec, MoveState},
    migrations::{Migration, MigrationMode, MigrationOutcome, MigrationResult},
    tasks::{Subject, Task, TaskKind, TaskMove, TaskState},
};
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};

/// Reads a row of `drains`.
pub(crate) fn read(row: &PgRow) -> sqlx::Result<Drain> {
    Ok(Drain {
        id: row.try_get("id")?,
        host_id: row.try_get("host_id")?,
        host: row.try_get("host")?,
        task_id: row.try_get("task_id")?,
        actor: row::json(row, "actor")?,
        spec: row::json(row, "spec")?,
        moves: row::json(row, "moves")?,
        requested_at: row.try_get("requested_at")?,
        deadline: row.try_get("deadline")?,
        stuck_since: row.try_get("stuck_since")?,
        cancel_requested_at: row.try_get("cancel_requested_at")?,
        ended_at: row.try_get("ended_at")?,
        outcome: row::json_option(row, "outcome")?,
    })
}

/// Asks for a host to be emptied: from here on nothing new is placed on it.
pub async fn insert(
    tx: &mut SystemTx,
    change: &Change,
    host: &Key,
    spec: &DrainSpec,
    moves: &[DrainMove],
) -> Result<Accepted<Drain>> {
    let found = hosts::enter_maintenance(tx, change, host).await?;
    let name = &found.metadata.name;
    if let Some(live) = live(tx.conn(), found.id()).await? {
        return Err(draining(name, &live, "wait for its end, or cancel its task and drain the host again"));
    }
    let deadline = change.now + chrono::TimeDelta::seconds(spec.timeout_seconds.into());
    let subject = Subject { kind: "host".into(), id: found.metadata.id, name: name.to_string() };
    let mut task = tasks::of_system(change, TaskKind::HostDrain, subject, found.metadata.generation);
    // It ends by its own deadline, and the task with it; the sweep comes only if that does not.
    task.deadline = deadline + chrono::TimeDelta::seconds(AFTER_DEADLINE_SECONDS);
    let made = sqlx::query(
        "INSERT INTO drains (id, host_id, host, task_id, actor, spec, moves, requested_at, deadline)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *",
    )
    .bind(change.id::<DrainId>())
    .bind(found.id())
    .bind(name)
    .bind(task.id)
    .bind(Json(&change.actor))
    .bind(Json(spec))
    .bind(Json(moves))
    .bind(change.now)
    .bind(deadline)
    .fetch_one(tx.conn())
    .await?;
    tasks::record(tx.conn(), change, "host.drain", &task, None).await?;
    Ok(Accepted { object: read(&made)?, task })
}

/// Seconds that migrations have after the deadline until the task is ended without them.
const AFTER_DEADLINE_SECONDS: i64 = 600;

fn draining(host: &Name, drain: &Drain, remedy: &str) -> Error {
    Error::Refused(Box::new(
        CapabilityReason::new("draining", format!("host/{host}"), format!("{host} is being drained"), remedy)
            .with_evidence(format!("task {}", drain.task_id)),
    ))
}

async fn live(conn: &mut PgConnection, host: HostId) -> Result<Option<Drain>> {
    let row = sqlx::query("SELECT * FROM drains WHERE host_id = $1 AND ended_at IS NULL")
        .bind(host)
        .fetch_optional(conn)
        .await?;
    Ok(row.as_ref().map(read).transpose()?)
}

/// Refuses what would end the maintenance of a host that is being drained.
pub(crate) async fn refuse_while_draining(conn: &mut PgConnection, host: HostId, name: &Name) -> Result<()> {
    match live(conn, host).await? {
        None => Ok(()),
        Some(drain) => Err(draining(name, &drain, "cancel its task first, or wait for its end")),
    }
}

/// Drains of a host, oldest first.
pub async fn list(tx: &mut SystemTx, host: &Key, page: &Page) -> Result<List<Drain>> {
    let id = hosts::get(tx, host).await?.host.id();
    let rows = sqlx::query("SELECT * FROM drains WHERE host_id = $1 AND id > $2 ORDER BY id LIMIT $3")
        .bind(id)
        .bind(page.after())
        .bind(page.fetch())
        .fetch_all(tx.conn())
        .await?;
    let drains = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
    Ok(page.cut(drains, |d: &Drain| d.id.0))
}

/// One drain of a host.
pub async fn get(tx: &mut SystemTx, host: &Key, id: DrainId) -> Result<Drain> {
    let host = hosts::get(tx, host).await?.host.id();
    let row = sqlx::query("SELECT * FROM drains WHERE host_id = $1 AND id = $2")
        .bind(host)
        .bind(id)
        .fetch_optional(tx.conn())
        .await?;
    row.as_ref().map(read).transpose()?.ok_or_else(|| Error::NotFound { kind: "drain", name: id.to_string() })
}

/// Takes a drain back: nothing new leaves, and what is on its way is taken back where it still can be. The host stays in
/// maintenance.
pub async fn cancel(tx: &mut SystemTx, change: &Change, task: &Task) -> Result<Task> {
    let conn = tx.conn();
    // Its migrations are taken back by this word alone; their rows are locked by whoever settles them.
    let asked = sqlx::query(
        "UPDATE drains SET cancel_requested_at = coalesce(cancel_requested_at, $2)
         WHERE task_id = $1 AND ended_at IS NULL",
    )
    .bind(task.id)
    .bind(change.now)
    .execute(&mut *conn)
    .await?;
    if asked.rows_affected() == 0 {
        let now = tasks::find(conn, task.id).await?.ok_or_else(|| tasks::missing(task.id))?;
        return Err(Error::TaskEnded { state: now.state });
    }
    let entry = Entry::new("task.cancel", None, None, "task", task.id.0, &task.subject.name);
    audit_events::write(conn, change, entry).await?;
    tasks::find(conn, task.id).await?.ok_or_else(|| tasks::missing(task.id))
}

/// A VM that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departing {
    /// The drain.
    pub drain: DrainId,
    /// The VM.
    pub vm: VmId,
    /// Where it goes.
    pub target: Name,
    /// How.
    pub mode: MigrationMode,
}

/// Sends a VM on its way. Nothing is done when it is no longer on the host, moves already, or the drain is over.
pub async fn start(tx: &mut SystemTx, change: &Change, departing: &Departing) -> Result<bool> {
    let conn = tx.conn();
    let vm = sqlx::query(
        "SELECT v.tenant_id, v.project_id, v.name, p.host_id FROM vms v JOIN placements p ON p.vm_id = v.id
         WHERE v.id = $1 AND v.deletion_requested_at IS NULL FOR NO KEY UPDATE OF v",
    )
    .bind(departing.vm)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(vm) = vm else { return Ok(false) };
    let Some(mut drain) = lock(conn, departing.drain).await? else { return Ok(false) };
    let at: Option<HostId> = vm.try_get("host_id")?;
    if drain.cancel_requested_at.is_some() || at != Some(drain.host_id) || change.now >= drain.deadline {
        return Ok(false);
    }
    let of: (TenantId, ProjectId) = (vm.try_get("tenant_id")?, vm.try_get("project_id")?);
    let left = (drain.deadline - change.now).num_seconds();
    let spec = drain.spec.migration(departing.mode, Some(departing.target.clone()), left);
    let by = Change { actor: drain.actor.clone(), ..change.clone() };
    let asked = migrations::ask(conn, &by, of, &Key::Id(departing.vm.0), &spec, Some(drain.id)).await;
    let migration = match asked {
        Ok(accepted) => accepted.object,
        // It was asked for by somebody else in the same moment, or the VM is off by now: the news of that decides.
        Err(Error::Refused(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    let part = part(&mut drain, &migration);
    part.state = MoveState::Moving;
    part.mode = departing.mode;
    part.target = Some(departing.target.clone());
    part.migration_id = Some(migration.id);
    drain.stuck_since = None;
    write(conn, &drain).await?;
    Ok(true)
}

/// A VM's part in a drain; one that came to the host late gets its part now.
fn part<'a>(drain: &'a mut Drain, migration: &Migration) -> &'a mut DrainMove {
    let at = drain.moves.iter().position(|m| m.vm_id == migration.vm_id).unwrap_or_else(|| {
        drain.moves.push(DrainMove::waiting(
            migration.vm_id,
            migration.vm.clone(),
            migration.project_id,
            migration.mode,
        ));
        drain.moves.len() - 1
    });
    &mut drain.moves[at]
}

async fn lock(conn: &mut PgConnection, id: DrainId) -> Result<Option<Drain>> {
    let row = sqlx::query("SELECT * FROM drains WHERE id = $1 AND ended_at IS NULL FOR UPDATE")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(row.as_ref().map(read).transpose()?)
}

async fn write(conn: &mut PgConnection, drain: &Drain) -> Result<()> {
    sqlx::query("UPDATE drains SET moves = $2, stuck_since = $3, ended_at = $4, outcome = $5 WHERE id = $1")
        .bind(drain.id)
        .bind(Json(&drain.moves))
        .bind(drain.stuck_since)
        .bind(drain.ended_at)
        .bind(drain.outcome.as_ref().map(Json))
        .execute(conn)
        .await?;
    Ok(())
}

/// A migration of a drain ended: with the statement of who owns the VM.
pub(crate) async fn note_end(
    conn: &mut PgConnection,
    id: DrainId,
    migration: &Migration,
    outcome: &MigrationOutcome,
) -> Result<()> {
    let Some(mut drain) = lock(conn, id).await? else { return Ok(()) };
    let part = part(&mut drain, migration);
    match outcome.result {
        MigrationResult::Completed => {
            part.state = MoveState::Moved;
            part.target = migration.target.clone();
            part.reason = None;
        }
        MigrationResult::Failed | MigrationResult::Cancelled => {
            part.state = MoveState::Waiting;
            part.tries += 1;
            part.failed_on.extend(migration.target.clone().or(migration.spec.host.clone()));
            part.reason = Some(outcome.reason.clone().unwrap_or_else(|| {
                CapabilityReason::new(
                    "not_migrated",
                    format!("vm/{}", migration.vm),
                    outcome.message.clone(),
                    "see what both hosts say of the VM",
                )
            }));
        }
    }
    write(conn, &drain).await
}

/// Notes since when nothing of a drain moves.
pub async fn stuck(tx: &mut SystemTx, id: DrainId, now: DateTime) -> Result<bool> {
    let noted = sqlx::query(
        "UPDATE drains SET stuck_since = $2 WHERE id = $1 AND ended_at IS NULL AND stuck_since IS NULL",
    )
    .bind(id)
    .bind(now)
    .execute(tx.conn())
    .await?;
    Ok(noted.rows_affected() == 1)
}

/// How a drain is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The drain.
    pub id: DrainId,
    /// What became of it.
    pub outcome: DrainOutcome,
    /// VMs that are left, with the reason of each.
    pub left: Vec<(VmId, CapabilityReason)>,
}

/// Ends a drain, and its task with it. Nothing is done while a migration of its own goes on.
pub async fn end(tx: &mut SystemTx, end: &End, now: DateTime) -> Result<bool> {
    let conn = tx.conn();
    let Some(mut drain) = lock(conn, end.id).await? else { return Ok(false) };
    if drain.cancel_requested_at.is_some() != (end.outcome.result == DrainResult::Cancelled) {
        return Ok(false);
    }
    let moving: Option<MigrationId> =
        sqlx::query_scalar("SELECT id FROM migrations WHERE drain_id = $1 AND ended_at IS NULL LIMIT 1")
            .bind(end.id)
            .fetch_optional(&mut *conn)
            .await?;
    if moving.is_some() {
        return Ok(false);
    }
    let known: Vec<VmId> = drain.moves.iter().map(|m| m.vm_id).collect();
    let late: Vec<VmId> = end.left.iter().map(|l| l.0).filter(|id| !known.contains(id)).collect();
    for row in sqlx::query("SELECT id, name, project_id FROM vms WHERE id = ANY($1)")
        .bind(late.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(&mut *conn)
        .await?
    {
        let (id, name, project) = (row.try_get("id")?, row.try_get("name")?, row.try_get("project_id")?);
        drain.moves.push(DrainMove::waiting(id, name, project, MigrationMode::Live));
    }
    for part in &mut drain.moves {
        match end.left.iter().find(|(id, _)| *id == part.vm_id) {
            Some((_, reason)) => (part.state, part.reason) = (MoveState::Left, Some(reason.clone())),
            None if part.state != MoveState::Moved => part.state = MoveState::Gone,
            None => {}
        }
    }
    (drain.ended_at, drain.outcome) = (Some(now), Some(end.outcome.clone()));
    write(conn, &drain).await?;
    tasks::advance(tx, &[ended_task(&drain, &end.outcome)], now).await?;
    Ok(true)
}

/// Names of VMs that the reason of a drain's task tells.
const NAMED: usize = 8;

fn ended_task(drain: &Drain, outcome: &DrainOutcome) -> TaskMove {
    let all = drain.moves.len().max(1);
    let gone = drain.moves.iter().filter(|m| m.state != MoveState::Left).count();
    let (state, progress, code) = match outcome.result {
        DrainResult::Drained => (TaskState::Completed, 100, None),
        DrainResult::Incomplete => (TaskState::Failed, gone * 100 / all, Some("vms_left")),
        DrainResult::Cancelled => (TaskState::Cancelled, gone * 100 / all, Some("drain_cancelled")),
    };
    let left: Vec<String> = drain
        .moves
        .iter()
        .filter(|m| m.state == MoveState::Left)
        .take(NAMED)
        .map(|m| format!("{}: {}", m.vm, m.reason.as_ref().map(|r| r.message.as_str()).unwrap_or_default()))
        .collect();
    let error = code.map(|code| {
        CapabilityReason::new(
            code,
            format!("host/{}", drain.host),
            outcome.message.clone(),
            "do what the reason of each VM says, then drain the host again: it goes on with what is left",
        )
        .with_evidence(left.join("; "))
    });
    let progress = i32::try_from(progress).unwrap_or(0);
    TaskMove { id: drain.task_id, state, progress, stage: outcome.message.clone(), error }
}

/// Removes drains that ended before a time.
pub async fn prune(tx: &mut SystemTx, ended_before: DateTime) -> Result<u64> {
    let gone =
        sqlx::query("DELETE FROM drains WHERE ended_at < $1").bind(ended_before).execute(tx.conn()).await?;
    Ok(gone.rows_affected())
}
