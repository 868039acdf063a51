//! Quotas: claimed and released in the transaction of the intent, by one conditional UPDATE.

use crate::{
    Change, Error, Handle, Key, Result, SystemTx,
    audit_events::{self, Entry},
    row::{self, bigint},
};
use basalt_model::{
    ProjectId, TenantId,
    quotas::{Demand, Quota, QuotaSpec},
};
use sqlx::{PgConnection, Row, postgres::PgRow};

pub(crate) fn read(row: &PgRow) -> sqlx::Result<Quota> {
    Ok(Quota {
        limits: QuotaSpec {
            max_vms: row::count(row, "max_vms")?,
            max_cpus: row::count(row, "max_cpus")?,
            max_memory_bytes: row::unsigned(row, "max_memory_bytes")?,
            max_storage_bytes: row::unsigned(row, "max_storage_bytes")?,
        },
        used: Demand {
            vms: row::count(row, "used_vms")?,
            cpus: row::count(row, "used_cpus")?,
            memory_bytes: row::unsigned(row, "used_memory_bytes")?,
            storage_bytes: row::unsigned(row, "used_storage_bytes")?,
        },
    })
}

pub(crate) async fn insert(
    tx: &mut SystemTx,
    project: ProjectId,
    tenant: TenantId,
    limits: &QuotaSpec,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO quotas (project_id, tenant_id, max_vms, max_cpus, max_memory_bytes, max_storage_bytes)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(project)
    .bind(tenant)
    .bind(i64::from(limits.max_vms))
    .bind(i64::from(limits.max_cpus))
    .bind(bigint(limits.max_memory_bytes))
    .bind(bigint(limits.max_storage_bytes))
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub(crate) async fn write(tx: &mut SystemTx, project: ProjectId, limits: &QuotaSpec) -> Result<()> {
    sqlx::query(
        "UPDATE quotas SET max_vms = $2, max_cpus = $3, max_memory_bytes = $4, max_storage_bytes = $5
         WHERE project_id = $1",
    )
    .bind(project)
    .bind(i64::from(limits.max_vms))
    .bind(i64::from(limits.max_cpus))
    .bind(bigint(limits.max_memory_bytes))
    .bind(bigint(limits.max_storage_bytes))
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A project's quota and what is used of it.
pub async fn get(tx: &mut impl Handle, project: ProjectId) -> Result<Quota> {
    find(tx.conn(), project).await?.ok_or_else(|| Key::from(project).missing("project"))
}

async fn find(conn: &mut PgConnection, project: ProjectId) -> Result<Option<Quota>> {
    let row =
        sqlx::query("SELECT * FROM quotas WHERE project_id = $1").bind(project).fetch_optional(conn).await?;
    Ok(row.as_ref().map(read).transpose()?)
}

/// Sets a project's limits. Below what is used is allowed: nothing new fits then.
pub async fn set(
    tx: &mut SystemTx,
    change: &Change,
    project: ProjectId,
    limits: &QuotaSpec,
) -> Result<Quota> {
    let row = sqlx::query("SELECT tenant_id, name FROM projects WHERE id = $1")
        .bind(project)
        .fetch_optional(tx.conn())
        .await?;
    let row = row.ok_or_else(|| Key::from(project).missing("project"))?;
    write(tx, project, limits).await?;
    let (tenant, name): (TenantId, String) = (row.try_get("tenant_id")?, row.try_get("name")?);
    let entry = Entry::new("quota.update", Some(tenant), Some(project), "project", project.0, &name);
    audit_events::write(tx.conn(), change, entry).await?;
    get(tx, project).await
}

/// What a project takes on top of what it has; negative gives back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub vms: i64,
    pub cpus: i64,
    pub memory_bytes: i64,
    pub storage_bytes: i64,
}

/// Moves what a project uses. Only what grows is held against its limit.
pub(crate) async fn claim(conn: &mut PgConnection, project: ProjectId, delta: Delta) -> Result<()> {
    let claimed = sqlx::query(
        "UPDATE quotas SET used_vms = used_vms + $2, used_cpus = used_cpus + $3,
            used_memory_bytes = used_memory_bytes + $4, used_storage_bytes = used_storage_bytes + $5
         WHERE project_id = $1 AND ($2 <= 0 OR used_vms + $2 <= max_vms) AND ($3 <= 0 OR used_cpus + $3 <= max_cpus)
            AND ($4 <= 0 OR used_memory_bytes + $4 <= max_memory_bytes)
            AND ($5 <= 0 OR used_storage_bytes + $5 <= max_storage_bytes)",
    )
    .bind(project)
    .bind(delta.vms)
    .bind(delta.cpus)
    .bind(delta.memory_bytes)
    .bind(delta.storage_bytes)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if claimed == 1 { Ok(()) } else { Err(exceeded(conn, project, delta).await?) }
}

/// Which limit refused a claim.
pub(crate) async fn exceeded(conn: &mut PgConnection, project: ProjectId, asked: Delta) -> Result<Error> {
    let Some(quota) = find(conn, project).await? else {
        return Ok(Key::from(project).missing("project"));
    };
    let (limits, used) = (quota.limits, quota.used);
    let figures = [
        ("vms", limits.max_vms.into(), used.vms.into(), asked.vms),
        ("cpus", limits.max_cpus.into(), used.cpus.into(), asked.cpus),
        ("memory_bytes", limits.max_memory_bytes, used.memory_bytes, asked.memory_bytes),
        ("storage_bytes", limits.max_storage_bytes, used.storage_bytes, asked.storage_bytes),
    ];
    let over = |&(resource, limit, used, asked): &(&'static str, u64, u64, i64)| {
        let asked = u64::try_from(asked).unwrap_or(0);
        (asked > 0 && used.saturating_add(asked) > limit).then_some(Error::QuotaExceeded {
            resource,
            limit,
            used,
            asked,
        })
    };
    // None: it was freed in between, so asking again works.
    Ok(figures.iter().find_map(over).unwrap_or(Error::Conflict(sqlx::Error::RowNotFound)))
}
