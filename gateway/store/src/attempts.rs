//! Attempts at deployments: claimed by one executor at a time, each under a lease and with an epoch that only grows.
//!
//! ```text
//! free ──claim: epoch + 1──► claimed ──renew──► claimed ──record──► free
//!  ▲                            │ lease over, or a former start of the same executor
//!  └────────────────────────────┘
//! ```
//! An executor may die at any moment, or sleep and wake up: whoever claims after it has a higher epoch, and what one says
//! that lost its claim is not written. The platform refuses it by the same epoch.

use crate::{
    Change, Handle, List, Page, Result, SystemTx,
    discovered::{self, Look},
    leases::{self, Lease},
    row,
    work::{Executor, LEASE_SECONDS},
};
use basalt_model::{
    DateTime, DeploymentId, Epoch, Generation, ProjectId, ProviderId, TenantId,
    attempts::{Applied, Attempted, ReconcileEvent},
    providers::Platform,
};
use chrono::TimeDelta;
use sqlx::{PgConnection, postgres::PgRow, types::Json};
use uuid::Uuid;

/// Events that are kept of each deployment.
pub const KEPT_EVENTS: i64 = 100;
/// No lease that was given by a right clock ends so far ahead; one that does, is over.
const FARTHEST_SECONDS: i64 = 10 * LEASE_SECONDS;
/// Repairs that are remembered.
const KEPT_REPAIRS: usize = 32;

/// A claim on a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// The attempt.
    pub epoch: Epoch,
}

/// What is to be claimed.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The generation that the attempt is for; of another one nothing is claimed.
    pub generation: Generation,
    /// The attempt that it comes after.
    pub after: Epoch,
}

/// Claims a deployment. `None`: another executor has it, it changed meanwhile, or the lease under which attempts are made
/// is another's.
pub async fn claim(
    tx: &mut SystemTx,
    wanted: Wanted,
    lease: &Lease,
    executor: Executor,
    now: DateTime,
) -> Result<Option<Claim>> {
    let conn = tx.conn();
    if !leases::stands(conn, lease).await? {
        return Ok(None);
    }
    let claimed: Option<(TenantId, ProjectId, Epoch)> = sqlx::query_as(
        "WITH of AS (SELECT id, tenant_id, project_id FROM deployments WHERE id = $1 AND generation = $2 FOR KEY SHARE),
         claimed AS (
            INSERT INTO deployment_attempts AS a (deployment_id, tenant_id, epoch, executor, executor_start, lease_until)
            SELECT id, tenant_id, $3::bigint + 1, $4, $5, $6 FROM of
            ON CONFLICT (deployment_id) DO UPDATE SET epoch = greatest(a.epoch, $3) + 1, executor = $4,
                executor_start = $5, lease_until = $6
            WHERE a.lease_until <= $7 OR a.lease_until > $8 OR a.executor = $4 AND a.executor_start <> $5
            RETURNING deployment_id, epoch),
         begun AS (
            INSERT INTO deployment_status AS s (deployment_id, tenant_id, project_id, begun)
            SELECT of.id, of.tenant_id, of.project_id, c.epoch FROM claimed c JOIN of ON of.id = c.deployment_id
            ON CONFLICT (deployment_id) DO UPDATE SET begun = excluded.begun)
         SELECT of.tenant_id, of.project_id, c.epoch FROM claimed c JOIN of ON of.id = c.deployment_id",
    )
    .bind(wanted.deployment_id)
    .bind(wanted.generation)
    .bind(wanted.after)
    .bind(executor.id)
    .bind(executor.start)
    .bind(now + TimeDelta::seconds(LEASE_SECONDS))
    .bind(now)
    .bind(now + TimeDelta::seconds(FARTHEST_SECONDS))
    .fetch_optional(conn)
    .await?;
    Ok(claimed.map(|(tenant_id, project_id, epoch)| Claim {
        deployment_id: wanted.deployment_id,
        tenant_id,
        project_id,
        epoch,
    }))
}

/// Holds a claim on. `false`: somebody else claimed it meanwhile, or the deployment is gone; whoever asked has to stop.
pub async fn renew(tx: &mut SystemTx, claim: Claim, now: DateTime) -> Result<bool> {
    hold(tx.conn(), claim, now + TimeDelta::seconds(LEASE_SECONDS)).await
}

async fn hold(conn: &mut PgConnection, claim: Claim, until: DateTime) -> Result<bool> {
    let held = sqlx::query(
        "UPDATE deployment_attempts SET lease_until = $3 WHERE deployment_id = $1 AND epoch = $2",
    )
    .bind(claim.deployment_id)
    .bind(claim.epoch)
    .bind(until)
    .execute(conn)
    .await?
    .rows_affected();
    Ok(held == 1)
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct Record {
    /// The attempt as the next decision sees it; none when it says nothing about what is wanted now.
    pub attempted: Option<Attempted>,
    /// What is there now; none when nothing is, or when nobody knows.
    pub applied: Applies,
    /// When it is tried again if nothing changes.
    pub next_retry_at: Option<DateTime>,
    /// It repaired what nobody asked to change.
    pub repair: bool,
    /// For history.
    pub event: ReconcileEvent,
    /// What was seen of it afterwards, and where.
    pub seen: Option<(Platform, ProviderId, Look)>,
}

/// What an attempt says about what is applied.
#[derive(Clone, Debug, PartialEq)]
pub enum Applies {
    /// As before.
    Same,
    /// This.
    This(Box<Applied>),
    /// Nothing any more.
    Nothing,
}

/// Writes down how an attempt ended, and lets the deployment be claimed again. `false`: the claim was lost, and nothing
/// is written.
pub async fn record(tx: &mut SystemTx, change: &Change, claim: Claim, record: &Record) -> Result<bool> {
    let conn = tx.conn();
    if !hold(conn, claim, change.now).await? {
        return Ok(false);
    }
    let (keep, applied) = match &record.applied {
        Applies::Same => (true, None),
        Applies::This(applied) => (false, Some(Json(applied))),
        Applies::Nothing => (false, None),
    };
    sqlx::query(
        "UPDATE deployment_status SET ended = $9, attempted = coalesce($2, attempted), applied = CASE WHEN $3 THEN applied ELSE $4 END,
            next_retry_at = $5, repairs = ARRAY(
                SELECT r FROM unnest(repairs || CASE WHEN $6 THEN ARRAY[$7::timestamptz] ELSE '{}' END) r
                WHERE r > $7 - interval '1 hour' ORDER BY r DESC LIMIT $8)
         WHERE deployment_id = $1",
    )
    .bind(claim.deployment_id)
    .bind(record.attempted.as_ref().map(Json))
    .bind(keep)
    .bind(applied)
    .bind(record.next_retry_at)
    .bind(record.repair)
    .bind(change.now)
    .bind(row::bigint(KEPT_REPAIRS as u64))
    .bind(claim.epoch)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO reconcile_events (id, tenant_id, project_id, deployment_id, completed_at, event)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(record.event.id)
    .bind(claim.tenant_id)
    .bind(claim.project_id)
    .bind(claim.deployment_id)
    .bind(record.event.completed_at)
    .bind(Json(&record.event))
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM reconcile_events WHERE deployment_id = $1 AND id <= (
            SELECT id FROM reconcile_events WHERE deployment_id = $1 ORDER BY id DESC OFFSET $2 LIMIT 1)",
    )
    .bind(claim.deployment_id)
    .bind(KEPT_EVENTS)
    .execute(&mut *conn)
    .await?;
    if let Some((platform, provider, look)) = &record.seen {
        let of = (claim.deployment_id, claim.tenant_id, claim.project_id);
        discovered::write_owned(conn, change, (*platform, *provider), of, look).await?;
    }
    Ok(true)
}

/// Lets go of a claim of which nothing is to be said.
pub async fn release(tx: &mut SystemTx, claim: Claim, now: DateTime) -> Result<bool> {
    hold(tx.conn(), claim, now).await
}

/// What came of a deployment's attempts, the newest first.
pub async fn events(
    tx: &mut impl Handle,
    project: ProjectId,
    deployment: DeploymentId,
    page: &Page,
) -> Result<List<ReconcileEvent>> {
    let rows: Vec<PgRow> = sqlx::query(
        "SELECT event FROM reconcile_events WHERE project_id = $1 AND deployment_id = $2
            AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4",
    )
    .bind(project)
    .bind(deployment)
    .bind(page.after)
    .bind(page.fetch())
    .fetch_all(tx.conn())
    .await?;
    let events: Vec<ReconcileEvent> =
        rows.iter().map(|r| row::json(r, "event")).collect::<sqlx::Result<_>>()?;
    Ok(page.cut(events, |e| e.id))
}

/// Drops events that are too old.
pub async fn prune(tx: &mut SystemTx, before: DateTime) -> Result<u64> {
    let query = sqlx::query("DELETE FROM reconcile_events WHERE completed_at < $1").bind(before);
    Ok(query.execute(tx.conn()).await?.rows_affected())
}

/// A new id for an event; later ones are greater.
pub fn event_id(change: &Change) -> Uuid {
    (change.ids)()
}
