//! Projects: the wall of quota inside a tenant.

use crate::{
    Change, Error, Handle, Key, List, Page, Result, SystemTx,
    audit_events::{self, Entry},
    change,
    error::named,
    quotas,
    row::{self, Selected},
};
use basalt_model::{
    Generation, Labels, Metadata, Name, ProjectId, TenantId,
    quotas::{Quota, QuotaSpec},
};
use sqlx::{FromRow, postgres::PgRow, types::Json};
use uuid::Uuid;

/// A project with its quota.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    /// Common fields.
    pub metadata: Metadata,
    /// What it may take, and took.
    pub quota: Quota,
}

impl Project {
    /// Its id.
    pub fn id(&self) -> ProjectId {
        ProjectId(self.metadata.id)
    }
}

impl FromRow<'_, PgRow> for Project {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { metadata: row::metadata(row)?, quota: quotas::read(row)? })
    }
}

macro_rules! select {
    () => {
        "SELECT p.*, q.max_vms, q.max_cpus, q.max_memory_bytes, q.max_storage_bytes, q.used_vms, q.used_cpus,
            q.used_memory_bytes, q.used_storage_bytes
         FROM projects p JOIN quotas q ON q.project_id = p.id"
    };
}
pub(crate) use select;

/// Makes a project of a tenant, with the default quota unless another is given.
pub async fn insert(
    tx: &mut SystemTx,
    change: &Change,
    tenant: TenantId,
    name: &Name,
    labels: &Labels,
    quota: Option<QuotaSpec>,
) -> Result<Project> {
    let id = (change.ids)();
    sqlx::query(
        "INSERT INTO projects (id, tenant_id, name, labels, generation, created_at, updated_at)
         VALUES ($1, $2, $3, $4, 1, $5, $5)",
    )
    .bind(id)
    .bind(tenant)
    .bind(name)
    .bind(Json(labels))
    .bind(change.now)
    .execute(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "projects_name" => Some(Error::NameTaken { kind: "project", name: name.to_string() }),
            "projects_tenant" => Some(Error::NotFound { kind: "tenant", name: tenant.to_string() }),
            _ => None,
        })
    })?;
    quotas::insert(tx, ProjectId(id), tenant, &quota.unwrap_or_default()).await?;
    let project = get(tx, Some(tenant), &Key::Id(id)).await?;
    audit(tx, change, "project.create", &project).await?;
    Ok(project)
}

async fn audit(tx: &mut SystemTx, change: &Change, action: &'static str, project: &Project) -> Result<()> {
    let m = &project.metadata;
    let entry = Entry::new(action, m.tenant_id, Some(project.id()), "project", m.id, m.name.as_str());
    audit_events::write(tx.conn(), change, entry).await
}

/// A project by id or name. Names are unique in a tenant only: without one, the tenant `default` is looked
/// in first, and a name that several other tenants use finds nothing.
pub async fn get(tx: &mut impl Handle, tenant: Option<TenantId>, key: &Key) -> Result<Project> {
    let found: Vec<Project> = sqlx::query_as(concat!(
        select!(),
        " JOIN tenants t ON t.id = p.tenant_id
          WHERE (p.id = $1 OR p.name = $2) AND ($3::uuid IS NULL OR p.tenant_id = $3)
          ORDER BY t.name = 'default' DESC LIMIT 2"
    ))
    .bind(key.id())
    .bind(key.name())
    .bind(tenant)
    .fetch_all(tx.conn())
    .await?;
    let ambiguous = found.len() > 1 && tenant.is_none() && !in_default(tx, &found[0]).await?;
    match found.into_iter().next() {
        Some(project) if !ambiguous => Ok(project),
        _ => Err(key.missing("project")),
    }
}

async fn in_default(tx: &mut impl Handle, project: &Project) -> Result<bool> {
    let name: Option<String> = sqlx::query_scalar("SELECT name FROM tenants WHERE id = $1")
        .bind(project.metadata.tenant_id)
        .fetch_optional(tx.conn())
        .await?;
    Ok(name.as_deref() == Some("default"))
}

/// Projects, oldest first.
pub async fn list(tx: &mut impl Handle, tenant: Option<TenantId>, page: &Page) -> Result<List<Project>> {
    let s = Selected::new(&page.selector);
    let projects = sqlx::query_as(concat!(
        select!(),
        " WHERE p.id > $1",
        crate::row::selected_where!("p"),
        " AND ($8::uuid IS NULL OR p.tenant_id = $8) ORDER BY p.id LIMIT $2"
    ))
    .bind(page.after())
    .bind(page.fetch())
    .bind(s.equal)
    .bind(s.exist)
    .bind(s.missing)
    .bind(s.differ_keys)
    .bind(s.differ_values)
    .bind(tenant)
    .fetch_all(tx.conn())
    .await?;
    Ok(page.cut(projects, |p: &Project| p.metadata.id))
}

/// Changes labels or quota.
pub async fn update(
    tx: &mut SystemTx,
    change: &Change,
    id: ProjectId,
    labels: Option<&Labels>,
    quota: Option<&QuotaSpec>,
    expected: Option<Generation>,
) -> Result<Project> {
    let current: Option<Generation> =
        sqlx::query_scalar("SELECT generation FROM projects WHERE id = $1 FOR UPDATE")
            .bind(id)
            .fetch_optional(tx.conn())
            .await?;
    let current = current.ok_or_else(|| Key::from(id).missing("project"))?;
    change::expect(expected, current)?;
    if let Some(quota) = quota {
        quotas::write(tx, id, quota).await?;
    }
    sqlx::query(
        "UPDATE projects SET labels = coalesce($2, labels), generation = generation + 1, updated_at = $3 WHERE id = $1",
    )
    .bind(id)
    .bind(labels.map(Json))
    .bind(change.now)
    .execute(tx.conn())
    .await?;
    let project = get(tx, None, &id.into()).await?;
    audit(tx, change, "project.update", &project).await?;
    Ok(project)
}

/// Removes a project that holds nothing.
pub async fn delete(tx: &mut SystemTx, change: &Change, id: ProjectId) -> Result<()> {
    let project = get(tx, None, &id.into()).await?;
    // Everything of a project claims its quota row or refers to the project; both wait for this lock.
    sqlx::query("SELECT FROM projects WHERE id = $1 FOR UPDATE").bind(id).execute(tx.conn()).await?;
    let by: Vec<String> = sqlx::query_scalar(
        "SELECT kind || '/' || name FROM (
            SELECT 'vm' AS kind, name FROM vms WHERE project_id = $1
            UNION ALL SELECT 'volume', name FROM volumes WHERE project_id = $1
            UNION ALL SELECT 'network', name FROM networks WHERE project_id = $1
            UNION ALL SELECT 'security_group', name FROM security_groups WHERE project_id = $1
            UNION ALL SELECT 'router', name FROM routers WHERE project_id = $1
            UNION ALL SELECT 'image', name FROM images WHERE project_id = $1
            UNION ALL SELECT 'deployment', name FROM deployments WHERE project_id = $1
            UNION ALL SELECT 'provider', name FROM providers WHERE project_id = $1
            UNION ALL SELECT kind, name || ':' || tag FROM artifacts WHERE project_id = $1
            UNION ALL SELECT 'secret', name FROM secrets WHERE project_id = $1) x LIMIT 10",
    )
    .bind(id)
    .fetch_all(tx.conn())
    .await?;
    if !by.is_empty() {
        return Err(Error::InUse { kind: "project", name: project.metadata.name.to_string(), by });
    }
    for statement in [
        "DELETE FROM role_bindings WHERE project_id = $1",
        "DELETE FROM quotas WHERE project_id = $1",
        "DELETE FROM projects WHERE id = $1",
    ] {
        sqlx::query(statement).bind(Uuid::from(id)).execute(tx.conn()).await?;
    }
    audit(tx, change, "project.delete", &project).await
}
