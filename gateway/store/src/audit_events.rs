//! The audit trail: one row for each change, in the same transaction. Written and read, never changed.

use crate::{Change, Handle, List, Page, Result};
use basalt_model::{AuditId, DateTime, ProjectId, TenantId, tasks::Actor};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

/// One line of the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Its id.
    pub id: AuditId,
    /// When.
    pub at: DateTime,
    /// Of which tenant.
    pub tenant_id: Option<TenantId>,
    /// Of which project.
    pub project_id: Option<ProjectId>,
    /// Who.
    pub actor: Actor,
    /// What: `vm.create` …
    pub action: String,
    /// On what kind of thing.
    pub subject_kind: String,
    /// On which one.
    pub subject_id: Uuid,
    /// Its name.
    pub subject_name: String,
    /// The request that did it.
    pub request_id: Option<String>,
}

/// What a change does, and to what.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// `vm.create`, `user.login` …
    pub action: &'a str,
    /// Of which tenant.
    pub tenant_id: Option<TenantId>,
    /// Of which project.
    pub project_id: Option<ProjectId>,
    /// Kind of object.
    pub subject_kind: &'a str,
    /// Its id.
    pub subject_id: Uuid,
    /// Its name.
    pub subject_name: &'a str,
}

impl<'a> Entry<'a> {
    /// An entry.
    pub fn new(
        action: &'a str,
        tenant_id: Option<TenantId>,
        project_id: Option<ProjectId>,
        subject_kind: &'a str,
        subject_id: Uuid,
        subject_name: &'a str,
    ) -> Self {
        Self { action, tenant_id, project_id, subject_kind, subject_id, subject_name }
    }
}

pub(crate) async fn write(conn: &mut PgConnection, change: &Change, entry: Entry<'_>) -> Result<()> {
    sqlx::query(
        "INSERT INTO audit_events (id, at, tenant_id, project_id, actor_kind, actor_id, actor_name, action,
            subject_kind, subject_id, subject_name, request_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind((change.ids)())
    .bind(change.now)
    .bind(entry.tenant_id)
    .bind(entry.project_id)
    .bind(&change.actor.kind)
    .bind(change.actor.id)
    .bind(&change.actor.name)
    .bind(entry.action)
    .bind(entry.subject_kind)
    .bind(entry.subject_id)
    .bind(entry.subject_name)
    .bind(&change.request_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Records what no other function of the store records: a login, a grant of a transfer.
pub async fn record(tx: &mut impl Handle, change: &Change, entry: Entry<'_>) -> Result<()> {
    write(tx.conn(), change, entry).await
}

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this project.
    pub project: Option<ProjectId>,
    /// Only about this object.
    pub subject_id: Option<Uuid>,
    /// Only by this actor.
    pub actor_id: Option<Uuid>,
    /// Only this action.
    pub action: Option<String>,
}

/// Events, oldest first. The page's selector is not used.
pub async fn list(tx: &mut impl Handle, filter: &Filter, page: &Page) -> Result<List<AuditEvent>> {
    macro_rules! select {
        ($narrowed:literal) => {
            concat!(
                "SELECT * FROM audit_events WHERE id > $1 AND ($3::uuid IS NULL OR project_id = $3)
                    AND ($4::uuid IS NULL OR subject_id = $4) AND ($5::uuid IS NULL OR actor_id = $5)
                    AND ($6::text IS NULL OR action = $6)",
                $narrowed,
                " ORDER BY id LIMIT $2"
            )
        };
    }
    // A condition that may not be there is nothing an index could be used for.
    let select = match (filter.subject_id, filter.project) {
        (Some(_), _) => select!(" AND subject_id = $4"),
        (None, Some(_)) => select!(" AND project_id = $3"),
        (None, None) => select!(""),
    };
    let rows = sqlx::query(select)
        .bind(page.after())
        .bind(page.fetch())
        .bind(filter.project)
        .bind(filter.subject_id)
        .bind(filter.actor_id)
        .bind(&filter.action)
        .fetch_all(tx.conn())
        .await?;
    let events = rows.iter().map(read).collect::<sqlx::Result<Vec<_>>>()?;
    Ok(page.cut(events, |e| e.id.0))
}

fn read(row: &PgRow) -> sqlx::Result<AuditEvent> {
    Ok(AuditEvent {
        id: row.try_get("id")?,
        at: row.try_get("at")?,
        tenant_id: row.try_get("tenant_id")?,
        project_id: row.try_get("project_id")?,
        actor: Actor {
            kind: row.try_get("actor_kind")?,
            id: row.try_get("actor_id")?,
            name: row.try_get("actor_name")?,
        },
        action: row.try_get("action")?,
        subject_kind: row.try_get("subject_kind")?,
        subject_id: row.try_get("subject_id")?,
        subject_name: row.try_get("subject_name")?,
        request_id: row.try_get("request_id")?,
    })
}
