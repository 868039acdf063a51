//! What providers' platforms show, as they show it: one table for each platform, and how the looks at them ended.
//!
//! A row is written when what it says changed, so that looks that find all as before write nothing. What a complete look
//! does not find is counted; only after several looks in a row is it gone. A look that failed touches no row.

use crate::{
    Change, Result, SystemTx,
    leases::{self, Lease},
    row,
};
use basalt_model::{
    CapabilityReason, DateTime, DeploymentId, ProjectId, ProviderId, TenantId, providers::Platform,
};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Complete looks in a row without something before its row goes.
pub const MISSES_GONE: i32 = 5;
/// Failed looks in a row are counted so far.
pub const MAX_FAILURES: i32 = 3;
/// Runs that are kept of each provider.
const KEPT_RUNS: i64 = 50;

/// One thing at a platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Thing {
    /// What the platform calls it.
    pub kind: String,
    /// Where, on platforms that have namespaces; empty on others.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// The deployment that is written on it.
    pub owner: Option<DeploymentId>,
    /// By itself it is something that runs, and not a part of that.
    pub workload: bool,
    /// All that the platform says.
    pub raw: Value,
}

/// What a look found: everything that is there, of one owner or of the whole provider.
pub type Look = Vec<Thing>;

/// A row of what was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovered {
    /// Its id here.
    pub id: Uuid,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// Where it was seen.
    pub provider_id: ProviderId,
    /// What it is.
    pub thing: Thing,
    /// Complete looks in a row at which it was not there.
    pub misses: i32,
}

impl FromRow<'_, PgRow> for Discovered {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            provider_id: row.try_get("provider_id")?,
            thing: Thing {
                kind: row.try_get("kind")?,
                namespace: row.try_get("namespace")?,
                name: row.try_get("name")?,
                owner: row.try_get("owner")?,
                workload: row.try_get("workload")?,
                raw: row.try_get("raw")?,
            },
            misses: row.try_get("misses")?,
        })
    }
}

/// How the last looks at a provider went.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderStatus {
    /// The provider.
    pub provider_id: ProviderId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// Looks in a row that failed, counted up to [`MAX_FAILURES`].
    pub failures: i32,
    /// Why the last one failed.
    pub error: Option<CapabilityReason>,
    /// What answers, and what it cannot do.
    pub health: Option<Value>,
    /// When any of that last changed.
    pub changed_at: DateTime,
}

impl FromRow<'_, PgRow> for ProviderStatus {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            provider_id: row.try_get("provider_id")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            failures: row.try_get("failures")?,
            error: row::json_option(row, "error")?,
            health: row.try_get("health")?,
            changed_at: row.try_get("changed_at")?,
        })
    }
}

macro_rules! on {
    ($platform:expr, $before:literal, $after:literal) => {
        match $platform {
            Platform::Local => concat!($before, "discovered_local", $after),
            Platform::Kubernetes => concat!($before, "discovered_kubernetes", $after),
            Platform::Basalt => concat!($before, "discovered_basalt", $after),
        }
    };
}

type At = (String, String, String);

impl Thing {
    fn at(&self) -> At {
        (self.kind.clone(), self.namespace.clone(), self.name.clone())
    }
}

/// How a look at a provider ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// The provider.
    pub provider_id: ProviderId,
    /// Its platform.
    pub platform: Platform,
    /// When it began.
    pub started_at: DateTime,
    /// Everything that is there, with what answers; or why nobody knows.
    pub found: std::result::Result<(Look, Value), CapabilityReason>,
    /// Deployments at which something was done meanwhile: of what is theirs this look says nothing.
    pub except: Vec<DeploymentId>,
}

/// Writes down what a look found, and returns how many rows that changed. Nothing is written when the lease under which
/// providers are looked at is another's, or the provider is gone.
pub async fn record(tx: &mut SystemTx, change: &Change, lease: &Lease, run: &Run) -> Result<u64> {
    let conn = tx.conn();
    let of: Option<(TenantId, ProjectId)> =
        sqlx::query_as("SELECT tenant_id, project_id FROM providers WHERE id = $1 FOR KEY SHARE")
            .bind(run.provider_id)
            .fetch_optional(&mut *conn)
            .await?;
    let Some((tenant_id, project_id)) = of else { return Ok(0) };
    if !leases::stands(conn, lease).await? {
        return Ok(0);
    }
    let mut changed = 0;
    if let Ok((look, _)) = &run.found {
        let skipped = |owner: Option<DeploymentId>| owner.is_some_and(|o| run.except.contains(&o));
        let before: Vec<Discovered> =
            sqlx::query_as(on!(run.platform, "SELECT * FROM ", " WHERE provider_id = $1 FOR UPDATE"))
                .bind(run.provider_id)
                .fetch_all(&mut *conn)
                .await?;
        let mut before: BTreeMap<At, Discovered> =
            before.into_iter().filter(|d| !skipped(d.thing.owner)).map(|d| (d.thing.at(), d)).collect();
        for thing in look.iter().filter(|t| !skipped(t.owner)) {
            let known = before.remove(&thing.at());
            if known.is_none_or(|d| d.misses > 0 || d.thing != *thing) {
                put(conn, change, run.platform, run.provider_id, (tenant_id, project_id), thing).await?;
                changed += 1;
            }
        }
        changed += missed(conn, run.platform, &before.into_values().collect::<Vec<_>>()).await?;
    }
    status(conn, change, run, (tenant_id, project_id), changed).await?;
    Ok(changed)
}

async fn missed(conn: &mut PgConnection, platform: Platform, rows: &[Discovered]) -> Result<u64> {
    if rows.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Uuid> = rows.iter().map(|d| d.id).collect();
    sqlx::query(on!(platform, "UPDATE ", " SET misses = misses + 1 WHERE id = ANY($1)"))
        .bind(&ids)
        .execute(&mut *conn)
        .await?;
    sqlx::query(on!(platform, "DELETE FROM ", " WHERE id = ANY($1) AND misses >= $2"))
        .bind(&ids)
        .bind(MISSES_GONE)
        .execute(&mut *conn)
        .await?;
    Ok(rows.len() as u64)
}

async fn put(
    conn: &mut PgConnection,
    change: &Change,
    platform: Platform,
    provider: ProviderId,
    (tenant, project): (TenantId, ProjectId),
    thing: &Thing,
) -> Result<()> {
    sqlx::query(on!(
        platform,
        "INSERT INTO ",
        " AS x (id, tenant_id, project_id, provider_id, kind, namespace, name, owner, workload, raw, first_seen_at, changed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)
         ON CONFLICT (provider_id, kind, namespace, name) DO UPDATE SET owner = $8, workload = $9, raw = $10, misses = 0,
            changed_at = CASE WHEN x.raw = $10 THEN x.changed_at ELSE $11 END"
    ))
    .bind((change.ids)())
    .bind(tenant)
    .bind(project)
    .bind(provider)
    .bind(&thing.kind)
    .bind(&thing.namespace)
    .bind(&thing.name)
    .bind(thing.owner)
    .bind(thing.workload)
    .bind(&thing.raw)
    .bind(change.now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Everything that is there of a deployment after an attempt: what is not in the look is not there.
pub(crate) async fn write_owned(
    conn: &mut PgConnection,
    change: &Change,
    (platform, provider): (Platform, ProviderId),
    (deployment, tenant, project): (DeploymentId, TenantId, ProjectId),
    look: &Look,
) -> Result<()> {
    let before: Vec<Discovered> =
        sqlx::query_as(on!(platform, "SELECT * FROM ", " WHERE provider_id = $1 AND owner = $2"))
            .bind(provider)
            .bind(deployment)
            .fetch_all(&mut *conn)
            .await?;
    let mut before: BTreeMap<At, Discovered> = before.into_iter().map(|d| (d.thing.at(), d)).collect();
    for thing in look {
        let known = before.remove(&thing.at());
        if known.is_none_or(|d| d.misses > 0 || d.thing != *thing) {
            put(conn, change, platform, provider, (tenant, project), thing).await?;
        }
    }
    let gone: Vec<Uuid> = before.into_values().map(|d| d.id).collect();
    if !gone.is_empty() {
        sqlx::query(on!(platform, "DELETE FROM ", " WHERE id = ANY($1)")).bind(gone).execute(conn).await?;
    }
    Ok(())
}

/// Writes down how the look ended, if that differs from how the one before ended.
async fn status(
    conn: &mut PgConnection,
    change: &Change,
    run: &Run,
    (tenant, project): (TenantId, ProjectId),
    changed: u64,
) -> Result<()> {
    let (error, health) = match &run.found {
        Ok((_, health)) => (None, Some(health)),
        Err(reason) => (Some(Json(reason)), None),
    };
    let written = sqlx::query(
        "INSERT INTO provider_status AS s (provider_id, tenant_id, project_id, failures, error, health, changed_at)
         VALUES ($1, $2, $3, CASE WHEN $4::jsonb IS NULL THEN 0 ELSE 1 END, $4, $5, $6)
         ON CONFLICT (provider_id) DO UPDATE SET error = excluded.error, health = coalesce(excluded.health, s.health),
            failures = CASE WHEN excluded.error IS NULL THEN 0 ELSE least(s.failures + 1, $7) END, changed_at = $6
         WHERE (s.error, s.failures) IS DISTINCT FROM
                (excluded.error, CASE WHEN excluded.error IS NULL THEN 0 ELSE least(s.failures + 1, $7) END)
            OR coalesce(excluded.health, s.health) IS DISTINCT FROM s.health",
    )
    .bind(run.provider_id)
    .bind(tenant)
    .bind(project)
    .bind(error)
    .bind(health)
    .bind(change.now)
    .bind(MAX_FAILURES)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if written == 0 && changed == 0 {
        return Ok(());
    }
    let found = run.found.as_ref().ok().map(|(look, _)| i32::try_from(look.len()).unwrap_or(i32::MAX));
    sqlx::query(
        "INSERT INTO discovery_runs (id, tenant_id, provider_id, started_at, finished_at, found, error)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind((change.ids)())
    .bind(tenant)
    .bind(run.provider_id)
    .bind(run.started_at)
    .bind(change.now)
    .bind(found)
    .bind(error)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM discovery_runs WHERE provider_id = $1 AND id <= (
            SELECT id FROM discovery_runs WHERE provider_id = $1 ORDER BY id DESC OFFSET $2 LIMIT 1)",
    )
    .bind(run.provider_id)
    .bind(KEPT_RUNS)
    .execute(conn)
    .await?;
    Ok(())
}
