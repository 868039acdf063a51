//! Conditions of objects, written by the reconciler as a whole for each object.

use crate::{Result, SystemTx, row};
use basalt_model::{Condition, ProjectId, TenantId, conditions::carry_since};
use sqlx::{FromRow, Row, postgres::PgRow, types::Json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What is true of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// `vm`, `volume`, `network`, `router`, `image`, `deployment` or `host`.
    pub subject_kind: String,
    /// The object's id.
    pub subject_id: Uuid,
    /// Its tenant.
    pub tenant_id: Option<TenantId>,
    /// Its project.
    pub project_id: Option<ProjectId>,
    /// What is true.
    pub conditions: Vec<Condition>,
}

impl FromRow<'_, PgRow> for Conditions {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            subject_kind: row.try_get("subject_kind")?,
            subject_id: row.try_get("subject_id")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            conditions: row::list(row, "conditions")?,
        })
    }
}

/// Replaces the conditions of each object and returns how many changed. `since` stays where the status does;
/// what says the same as before, and what is about an object
/// that is gone, is not written. (`OFFSET 0`: each is looked up by its key; the server must not read all ids first.)
pub async fn put(tx: &mut SystemTx, all: &[Conditions]) -> Result<u64> {
    let ids: Vec<Uuid> = all.iter().map(|c| c.subject_id).collect();
    let before: Vec<Conditions> = sqlx::query_as("SELECT * FROM conditions WHERE subject_id = ANY($1)")
        .bind(&ids)
        .fetch_all(tx.conn())
        .await?;
    let before: BTreeMap<Uuid, Conditions> = before.into_iter().map(|c| (c.subject_id, c)).collect();
    let mut written: BTreeMap<Uuid, Conditions> = BTreeMap::new();
    for new in all {
        let mut new = new.clone();
        if let Some(old) = before.get(&new.subject_id) {
            carry_since(&old.conditions, &mut new.conditions);
            if *old == new {
                continue;
            }
        }
        written.insert(new.subject_id, new);
    }
    if written.is_empty() {
        return Ok(0);
    }
    let rows: Vec<&Conditions> = written.values().collect();
    let done = sqlx::query(
        "INSERT INTO conditions (subject_id, subject_kind, tenant_id, project_id, conditions)
         SELECT n.* FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::jsonb[]) n(id, kind, t, p, c)
         WHERE CASE n.kind
            WHEN 'vm' THEN EXISTS (SELECT FROM vms WHERE id = n.id OFFSET 0)
            WHEN 'volume' THEN EXISTS (SELECT FROM volumes WHERE id = n.id OFFSET 0)
            WHEN 'network' THEN EXISTS (SELECT FROM networks WHERE id = n.id OFFSET 0)
            WHEN 'router' THEN EXISTS (SELECT FROM routers WHERE id = n.id OFFSET 0)
            WHEN 'image' THEN EXISTS (SELECT FROM images WHERE id = n.id OFFSET 0)
            WHEN 'deployment' THEN EXISTS (SELECT FROM deployments WHERE id = n.id OFFSET 0)
            WHEN 'host' THEN EXISTS (SELECT FROM hosts WHERE id = n.id OFFSET 0)
            ELSE false END
         ON CONFLICT (subject_id) DO UPDATE SET conditions = excluded.conditions",
    )
    .bind(rows.iter().map(|c| c.subject_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|c| c.subject_kind.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|c| c.tenant_id.map(Uuid::from)).collect::<Vec<_>>())
    .bind(rows.iter().map(|c| c.project_id.map(Uuid::from)).collect::<Vec<_>>())
    .bind(rows.iter().map(|c| Json(&c.conditions)).collect::<Vec<_>>())
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}
