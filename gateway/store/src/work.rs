//! Work tasks: claimed in batches by executors, each claim under a lease and with a fencing token.
//!
//! ```text
//! available ──claim: fence + 1──► claimed ──renew──► claimed
//!     ▲                              │ lease over, or given back after a pause
//!     └──────────────────────────────┘            the task ends: the row goes
//! ```
//! An executor may die at any moment, or sleep and wake up: whoever claims after it has a higher fence, and of two that
//! act only the newest claim's word is taken. So its steps happen at least once, and their effect once.

use crate::{Error, Ids, Result, SystemTx, TenantTx, row, tasks::read};
use basalt_model::{
    DateTime, TaskId,
    tasks::{Task, TaskKind},
};
use chrono::TimeDelta;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

/// How long a claim is held without being renewed, in seconds.
pub const LEASE_SECONDS: i64 = 30;
/// No lease that was given by a right clock ends so far ahead; one that does, ends now.
const FARTHEST_SECONDS: i64 = 3 * MAX_PAUSE_SECONDS;
/// Longest pause before work that was given back may be claimed again, in seconds.
pub const MAX_PAUSE_SECONDS: i64 = 60;

/// A claim on a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The task.
    pub task: Task,
    /// Names the claim.
    pub id: Uuid,
    /// Grows with every claim of this task.
    pub fence: i64,
}

impl Claim {
    fn read(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { task: read(row)?, id: row.try_get("claim_id")?, fence: row.try_get("fence")? })
    }
}

/// Which claim says something about which task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// The task.
    pub task_id: TaskId,
    /// The claim, as [`claim`] gave it.
    pub claim_id: Uuid,
}

/// Who claims: an executor, and which of its starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executor {
    /// The same for as long as its state is.
    pub id: Uuid,
    /// Another with each start.
    pub start: Uuid,
}

/// Lets a new task be claimed, from now on.
pub(crate) async fn offer(tx: &mut TenantTx, task: &Task, now: DateTime) -> Result<()> {
    let tenant = tx.tenant();
    sqlx::query("INSERT INTO task_work (task_id, tenant_id, kind, available_at) VALUES ($1, $2, $3, $4)")
        .bind(task.id)
        .bind(tenant)
        .bind(row::word(&task.kind)?)
        .bind(now)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Claims at most `limit` tasks of a kind, those that wait longest first. What an earlier start of the same executor had
/// is free: nobody carries it out any more. `ids` names the claims.
pub async fn claim(
    tx: &mut SystemTx,
    kind: TaskKind,
    executor: Executor,
    limit: u32,
    ids: &Ids,
    now: DateTime,
) -> Result<Vec<Claim>> {
    let names: Vec<Uuid> = (0..limit).map(|_| ids()).collect();
    let rows = sqlx::query(concat!(
        "WITH free AS (
            SELECT w.task_id, row_number() OVER () AS n FROM (
                SELECT w.task_id FROM task_work w
                WHERE w.kind = $1 AND (w.available_at <= $2 OR w.available_at > $3
                        OR w.claim_id IS NOT NULL AND w.executor = $6 AND w.executor_start <> $8)
                    -- Each by its key, however many live tasks there are: as a join, all of them might be read.
                    AND (SELECT t.state FROM tasks t WHERE t.id = w.task_id) IN ('pending', 'executing')
                ORDER BY w.available_at, w.task_id LIMIT $4 FOR UPDATE OF w SKIP LOCKED) w),
         claimed AS (
            UPDATE task_work w SET fence = w.fence + 1, claim_id = ($5::uuid[])[free.n], executor = $6, executor_start = $8,
                available_at = $7
            FROM free WHERE w.task_id = free.task_id RETURNING w.task_id, w.fence, w.claim_id)
         SELECT c.fence, c.claim_id, ",
        crate::tasks::columns!(),
        " FROM claimed c JOIN tasks t ON t.id = c.task_id ORDER BY t.id"
    ))
    .bind(row::word(&kind)?)
    .bind(now)
    .bind(now + TimeDelta::seconds(FARTHEST_SECONDS))
    .bind(i64::from(limit))
    .bind(&names)
    .bind(executor.id)
    .bind(now + TimeDelta::seconds(LEASE_SECONDS))
    .bind(executor.start)
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.iter().map(Claim::read).collect::<sqlx::Result<_>>()?)
}

/// Holds a claim on, and says how far its task is. `false`: somebody else claimed it meanwhile, it was given back, or its
/// task ended; whoever asked has to stop.
pub async fn renew(
    tx: &mut SystemTx,
    claim: ClaimRef,
    progress: i32,
    stage: &str,
    now: DateTime,
) -> Result<bool> {
    let until = now + TimeDelta::seconds(LEASE_SECONDS);
    if !hold(tx, claim, until).await? {
        return Ok(false);
    }
    let alive = sqlx::query(
        "UPDATE tasks SET state = 'executing', stage = $2, progress = greatest(progress, least($3, 99)),
            started_at = coalesce(started_at, $4)
         WHERE id = $1 AND state IN ('pending', 'executing')
            AND (state, stage, progress) IS DISTINCT FROM ('executing', $2, greatest(progress, least($3, 99)))
         RETURNING true",
    )
    .bind(claim.task_id)
    .bind(stage)
    .bind(progress)
    .bind(now)
    .fetch_optional(tx.conn())
    .await?
    .is_some();
    if alive {
        return Ok(true);
    }
    let found = sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (SELECT FROM tasks WHERE id = $1 AND state IN ('pending', 'executing'))",
    )
    .bind(claim.task_id)
    .fetch_one(tx.conn())
    .await?;
    Ok(found)
}

/// Gives a claim back: the task may be claimed again after a pause. `false`: it was not held any more.
pub async fn give_back(tx: &mut SystemTx, claim: ClaimRef, pause: TimeDelta, now: DateTime) -> Result<bool> {
    let pause = pause.clamp(TimeDelta::zero(), TimeDelta::seconds(MAX_PAUSE_SECONDS));
    let given = sqlx::query(
        "UPDATE task_work SET claim_id = NULL, available_at = $3 WHERE task_id = $1 AND claim_id = $2",
    )
    .bind(claim.task_id)
    .bind(claim.claim_id)
    .bind(now + pause)
    .execute(tx.conn())
    .await?
    .rows_affected();
    Ok(given == 1)
}

async fn hold(tx: &mut SystemTx, claim: ClaimRef, until: DateTime) -> Result<bool> {
    let held = sqlx::query("UPDATE task_work SET available_at = $3 WHERE task_id = $1 AND claim_id = $2")
        .bind(claim.task_id)
        .bind(claim.claim_id)
        .bind(until)
        .execute(tx.conn())
        .await?
        .rows_affected();
    Ok(held == 1)
}

/// Whether a claim is the newest of a live task of an object; whoever asks holds it against others until its transaction
/// ends. `None`: no work is left to be done for the object.
pub(crate) async fn is_newest(
    conn: &mut sqlx::PgConnection,
    subject: Uuid,
    kind: TaskKind,
    claim: Uuid,
) -> Result<Option<bool>> {
    let found = sqlx::query_scalar::<_, Option<Uuid>>(
        "SELECT w.claim_id FROM task_work w JOIN tasks t ON t.id = w.task_id
         WHERE t.subject_id = $1 AND t.kind = $2 AND t.state IN ('pending', 'executing') FOR UPDATE OF w",
    )
    .bind(subject)
    .bind(row::word(&kind)?)
    .fetch_optional(conn)
    .await?;
    Ok(found.map(|newest| newest == Some(claim)))
}

/// Forgets the work of tasks that ended, at most `limit` rows.
pub async fn forget_ended(tx: &mut SystemTx, limit: u32) -> Result<u64> {
    let gone = sqlx::query(
        "DELETE FROM task_work WHERE task_id IN (
            SELECT w.task_id FROM task_work w WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = w.task_id)
            LIMIT $1 FOR UPDATE OF w SKIP LOCKED)",
    )
    .bind(i64::from(limit))
    .execute(tx.conn())
    .await?
    .rows_affected();
    Ok(gone)
}

/// The error of a claim that does not count any more.
pub fn lost(claim: ClaimRef) -> Error {
    Error::Refused(Box::new(basalt_model::CapabilityReason::new(
        "claim_lost",
        format!("task/{}", claim.task_id),
        "the task ended, or somebody else claimed it since",
        "stop what is done for it, and claim anew",
    )))
}
