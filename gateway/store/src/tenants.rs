//! Tenants: the wall of isolation.

use crate::{
    Change, Error, Handle, Key, List, Page, Result, SystemTx,
    audit_events::{self, Entry},
    change,
    error::named,
    row::{self, Selected},
};
use basalt_model::{Generation, Labels, Metadata, Name, TenantId};
use sqlx::{FromRow, postgres::PgRow, types::Json};

/// A tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// Common fields.
    pub metadata: Metadata,
}

impl FromRow<'_, PgRow> for Tenant {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let mut metadata = row::metadata(row)?;
        metadata.tenant_id = None;
        Ok(Self { metadata })
    }
}

impl Tenant {
    /// Its id.
    pub fn id(&self) -> TenantId {
        TenantId(self.metadata.id)
    }
}

/// Makes a tenant.
pub async fn insert(tx: &mut SystemTx, change: &Change, name: &Name, labels: &Labels) -> Result<Tenant> {
    let tenant: Tenant = sqlx::query_as(
        "INSERT INTO tenants (id, name, labels, generation, created_at, updated_at) VALUES ($1, $2, $3, 1, $4, $4)
         RETURNING *",
    )
    .bind((change.ids)())
    .bind(name)
    .bind(Json(labels))
    .bind(change.now)
    .fetch_one(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| {
            (c == "tenants_name").then(|| Error::NameTaken { kind: "tenant", name: name.to_string() })
        })
    })?;
    audit(tx, change, "tenant.create", &tenant).await?;
    Ok(tenant)
}

async fn audit(tx: &mut SystemTx, change: &Change, action: &'static str, tenant: &Tenant) -> Result<()> {
    let m = &tenant.metadata;
    let entry = Entry::new(action, Some(tenant.id()), None, "tenant", m.id, m.name.as_str());
    audit_events::write(tx.conn(), change, entry).await
}

/// The tenant `default`, made when there is none.
pub async fn ensure_default(tx: &mut SystemTx, change: &Change) -> Result<Tenant> {
    let name = Name::new("default").expect("`default` is a DNS label");
    // Two gateways may start at the same time: the second waits here for the first.
    sqlx::query("SELECT pg_advisory_xact_lock(4722632)").execute(tx.conn()).await?;
    match get(tx, &Key::Name(name.clone())).await {
        Err(Error::NotFound { .. }) => insert(tx, change, &name, &Labels::default()).await,
        other => other,
    }
}

/// A tenant by id or name.
pub async fn get(tx: &mut impl Handle, key: &Key) -> Result<Tenant> {
    sqlx::query_as("SELECT * FROM tenants WHERE id = $1 OR name = $2")
        .bind(key.id())
        .bind(key.name())
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| key.missing("tenant"))
}

/// Tenants, oldest first.
pub async fn list(tx: &mut impl Handle, page: &Page) -> Result<List<Tenant>> {
    let s = Selected::new(&page.selector);
    let tenants = sqlx::query_as(concat!(
        "SELECT x.* FROM tenants x WHERE x.id > $1",
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
    Ok(page.cut(tenants, |t: &Tenant| t.metadata.id))
}

/// Replaces a tenant's labels.
pub async fn update_labels(
    tx: &mut SystemTx,
    change: &Change,
    key: &Key,
    labels: &Labels,
    expected: Option<Generation>,
) -> Result<Tenant> {
    let tenant = lock(tx, key).await?;
    change::expect(expected, tenant.metadata.generation)?;
    let tenant: Tenant = sqlx::query_as(
        "UPDATE tenants SET labels = $2, generation = generation + 1, updated_at = $3 WHERE id = $1 RETURNING *",
    )
    .bind(tenant.metadata.id)
    .bind(Json(labels))
    .bind(change.now)
    .fetch_one(tx.conn())
    .await?;
    audit(tx, change, "tenant.update", &tenant).await?;
    Ok(tenant)
}

async fn lock(tx: &mut SystemTx, key: &Key) -> Result<Tenant> {
    sqlx::query_as("SELECT * FROM tenants WHERE id = $1 OR name = $2 FOR UPDATE")
        .bind(key.id())
        .bind(key.name())
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| key.missing("tenant"))
}

/// Removes a tenant without projects.
pub async fn delete(tx: &mut SystemTx, change: &Change, key: &Key) -> Result<()> {
    let tenant = lock(tx, key).await?;
    let id = tenant.metadata.id;
    let by: Vec<String> = sqlx::query_scalar(
        "SELECT 'project/' || name FROM projects WHERE tenant_id = $1 ORDER BY id LIMIT 10",
    )
    .bind(id)
    .fetch_all(tx.conn())
    .await?;
    if !by.is_empty() {
        return Err(Error::InUse { kind: "tenant", name: tenant.metadata.name.to_string(), by });
    }
    sqlx::query("DELETE FROM role_bindings WHERE tenant_id = $1").bind(id).execute(tx.conn()).await?;
    sqlx::query("DELETE FROM tenants WHERE id = $1").bind(id).execute(tx.conn()).await?;
    audit(tx, change, "tenant.delete", &tenant).await
}
