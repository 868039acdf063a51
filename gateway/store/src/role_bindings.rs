//! Role bindings: what a user or a program may do, and where.

use crate::{
    Change, Error, List, Page, Result, SystemTx,
    audit_events::{self, Entry},
    error::named,
    row,
};
use basalt_model::{
    DateTime, ProjectId, RoleBindingId, TenantId,
    roles::{Grant, Scope},
};
use sqlx::{FromRow, Row, postgres::PgRow};
use uuid::Uuid;

/// A role given to a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleBinding {
    /// Its id.
    pub id: RoleBindingId,
    /// The user's or token's id.
    pub principal_id: Uuid,
    /// What and where.
    pub grant: Grant,
    /// When it was given.
    pub created_at: DateTime,
}

impl FromRow<'_, PgRow> for RoleBinding {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let scope = scope(row.try_get("tenant_id")?, row.try_get("project_id")?);
        Ok(Self {
            id: row.try_get("id")?,
            principal_id: row.try_get("principal_id")?,
            grant: Grant { role: row::from_word(row, "role")?, scope },
            created_at: row.try_get("created_at")?,
        })
    }
}

pub(crate) fn scope(tenant_id: Option<TenantId>, project_id: Option<ProjectId>) -> Scope {
    match (tenant_id, project_id) {
        (Some(tenant_id), Some(project_id)) => Scope::Project { tenant_id, project_id },
        (Some(tenant_id), None) => Scope::Tenant { tenant_id },
        (None, _) => Scope::System,
    }
}

fn columns(scope: &Scope) -> (Option<TenantId>, Option<ProjectId>) {
    match *scope {
        Scope::System => (None, None),
        Scope::Tenant { tenant_id } => (Some(tenant_id), None),
        Scope::Project { tenant_id, project_id } => (Some(tenant_id), Some(project_id)),
    }
}

/// Refuses a project that is not there, or is not of the tenant that the scope names: a binding holds by its project.
async fn check_pair(tx: &mut SystemTx, scope: &Scope) -> Result<()> {
    let Scope::Project { tenant_id, project_id } = *scope else { return Ok(()) };
    let of: Option<TenantId> = sqlx::query_scalar("SELECT tenant_id FROM projects WHERE id = $1")
        .bind(project_id)
        .fetch_optional(tx.conn())
        .await?;
    match of {
        None => Err(Error::NotFound { kind: "project", name: project_id.to_string() }),
        Some(of) if of != tenant_id => {
            Err(Error::ProjectElsewhere { project: project_id, tenant: tenant_id })
        }
        Some(_) => Ok(()),
    }
}

/// Gives a role to a user or token. Giving the same twice answers the first.
pub async fn insert(
    tx: &mut SystemTx,
    change: &Change,
    principal_id: Uuid,
    grant: Grant,
) -> Result<RoleBinding> {
    let name: Option<String> = sqlx::query_scalar(
        "SELECT name FROM users WHERE id = $1
         UNION ALL SELECT name FROM service_tokens WHERE id = $1 AND user_id IS NULL",
    )
    .bind(principal_id)
    .fetch_optional(tx.conn())
    .await?;
    let name = name.ok_or_else(|| Error::NotFound { kind: "principal", name: principal_id.to_string() })?;
    check_pair(tx, &grant.scope).await?;
    let (tenant, project) = columns(&grant.scope);
    let id: RoleBindingId = change.id();
    let binding: RoleBinding = sqlx::query_as(
        "INSERT INTO role_bindings AS b (id, principal_id, role, tenant_id, project_id, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (principal_id, role, tenant_id, project_id) DO UPDATE SET role = b.role RETURNING *",
    )
    .bind(id)
    .bind(principal_id)
    .bind(row::word(&grant.role)?)
    .bind(tenant)
    .bind(project)
    .bind(change.now)
    .fetch_one(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| match (c, grant.scope) {
            ("role_bindings_tenant", Scope::Tenant { tenant_id } | Scope::Project { tenant_id, .. }) => {
                Some(Error::NotFound { kind: "tenant", name: tenant_id.to_string() })
            }
            ("role_bindings_project_of_tenant", Scope::Project { tenant_id, project_id }) => {
                Some(Error::ProjectElsewhere { project: project_id, tenant: tenant_id })
            }
            _ => None,
        })
    })?;
    if binding.id == id {
        let entry = Entry::new("role_binding.create", tenant, project, "role_binding", id.0, &name);
        audit_events::write(tx.conn(), change, entry).await?;
    }
    Ok(binding)
}

/// Role bindings, oldest first.
pub async fn list(tx: &mut SystemTx, principal_id: Option<Uuid>, page: &Page) -> Result<List<RoleBinding>> {
    let bindings = sqlx::query_as(
        "SELECT * FROM role_bindings WHERE id > $1 AND ($3::uuid IS NULL OR principal_id = $3) ORDER BY id LIMIT $2",
    )
    .bind(page.after())
    .bind(page.fetch())
    .bind(principal_id)
    .fetch_all(tx.conn())
    .await?;
    Ok(page.cut(bindings, |b: &RoleBinding| b.id.0))
}

/// A role binding by id.
pub async fn get(tx: &mut SystemTx, id: RoleBindingId) -> Result<RoleBinding> {
    sqlx::query_as("SELECT * FROM role_bindings WHERE id = $1")
        .bind(id)
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| Error::NotFound { kind: "role binding", name: id.to_string() })
}

/// Takes a role away.
pub async fn delete(tx: &mut SystemTx, change: &Change, id: RoleBindingId) -> Result<()> {
    let binding = get(tx, id).await?;
    sqlx::query("DELETE FROM role_bindings WHERE id = $1").bind(id).execute(tx.conn()).await?;
    let (tenant, project) = columns(&binding.grant.scope);
    let principal = binding.principal_id.to_string();
    let entry = Entry::new("role_binding.delete", tenant, project, "role_binding", id.0, &principal);
    audit_events::write(tx.conn(), change, entry).await
}

/// Everything a principal may do.
pub async fn grants(tx: &mut SystemTx, principal_id: Uuid) -> Result<Vec<Grant>> {
    let bindings: Vec<RoleBinding> =
        sqlx::query_as("SELECT * FROM role_bindings WHERE principal_id = $1 ORDER BY id")
            .bind(principal_id)
            .fetch_all(tx.conn())
            .await?;
    Ok(bindings.into_iter().map(|b| b.grant).collect())
}
