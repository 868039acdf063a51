//! What is known of an object that is stuck, and what a person decides about it.

use crate::{
    Change, Error, Result, SystemTx,
    audit_events::{self, Entry},
    manifests::{self, Fact, ItemRow},
    migrations::{self, MigrationRow, Settlement, Stepped},
};
use basalt_model::{Condition, DateTime, Name, ProjectId, TenantId, VmId, tasks::Task};
use sqlx::{FromRow, Row, types::Json};
use uuid::Uuid;

/// An object that can be asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `vm`, `volume`, `image`, `network`, `router`, `host`.
    pub kind: String,
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its tenant; none for a host.
    pub tenant_id: Option<TenantId>,
    /// Its project; none for a host.
    pub project_id: Option<ProjectId>,
    /// Whether its deletion was asked for.
    pub deleting: bool,
    /// The VM that it goes with, when it is a volume that goes with one.
    pub owner: Option<VmId>,
}

/// The kinds, and where each stands.
const TABLES: [(&str, &str); 6] = [
    (
        "vm",
        "SELECT id, name, tenant_id, project_id, deletion_requested_at IS NOT NULL AS deleting, NULL::uuid AS owner
         FROM vms WHERE id = $1",
    ),
    (
        "volume",
        "SELECT id, name, tenant_id, project_id, deletion_requested_at IS NOT NULL AS deleting,
            CASE WHEN owned THEN vm_id END AS owner
         FROM volumes WHERE id = $1",
    ),
    (
        "image",
        "SELECT id, name, tenant_id, project_id, deletion_requested_at IS NOT NULL AS deleting, NULL::uuid AS owner
         FROM images WHERE id = $1",
    ),
    (
        "network",
        "SELECT id, name, tenant_id, project_id, deletion_requested_at IS NOT NULL AS deleting, NULL::uuid AS owner
         FROM networks WHERE id = $1",
    ),
    (
        "router",
        "SELECT id, name, tenant_id, project_id, deletion_requested_at IS NOT NULL AS deleting, NULL::uuid AS owner
         FROM routers WHERE id = $1",
    ),
    (
        "host",
        "SELECT id, name, NULL::uuid AS tenant_id, NULL::uuid AS project_id,
            deletion_requested_at IS NOT NULL AS deleting, NULL::uuid AS owner
         FROM hosts WHERE id = $1",
    ),
];

/// Finds an object.
pub async fn find(tx: &mut SystemTx, kind: &str, id: Uuid) -> Result<Object> {
    let missing = || Error::NotFound { kind: "object", name: format!("{kind}/{id}") };
    let (kind, select) = TABLES.into_iter().find(|(k, _)| *k == kind).ok_or_else(missing)?;
    let row = sqlx::query(select).bind(id).fetch_optional(tx.conn()).await?.ok_or_else(missing)?;
    Ok(Object {
        kind: kind.to_owned(),
        id,
        name: row.try_get("name")?,
        tenant_id: row.try_get("tenant_id")?,
        project_id: row.try_get("project_id")?,
        deleting: row.try_get("deleting")?,
        owner: row.try_get("owner")?,
    })
}

/// An item on a host, and what the host said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The host's name.
    pub host: Name,
    /// The item.
    pub item: ItemRow,
    /// What was said of it last.
    pub fact: Option<Fact>,
}

/// What stands on hosts of an object, and of the volumes that go with it.
pub async fn standing(tx: &mut SystemTx, object: &Object) -> Result<Vec<Standing>> {
    let rows = sqlx::query(
        "SELECT i.*, h.name AS host FROM manifest_items i JOIN hosts h ON h.id = i.host_id
         WHERE i.kind = $1 AND i.id = $2
            OR $1 = 'vm' AND i.kind = 'volume' AND i.id IN (SELECT id FROM volumes WHERE vm_id = $2 AND owned)
         ORDER BY h.name, i.kind DESC, i.id",
    )
    .bind(&object.kind)
    .bind(object.id)
    .fetch_all(tx.conn())
    .await?;
    let mut out = Vec::new();
    for row in &rows {
        let item = ItemRow::from_row(row)?;
        let fact = fact(tx, &item).await?;
        out.push(Standing { host: row.try_get("host")?, item, fact });
    }
    Ok(out)
}

async fn fact(tx: &mut SystemTx, item: &ItemRow) -> Result<Option<Fact>> {
    let fact = sqlx::query_as("SELECT * FROM manifest_facts WHERE host_id = $1 AND kind = $2 AND id = $3")
        .bind(item.host_id)
        .bind(&item.item.kind)
        .bind(item.item.id)
        .fetch_optional(tx.conn())
        .await?;
    Ok(fact)
}

/// The conditions of an object.
pub async fn conditions(tx: &mut SystemTx, id: Uuid) -> Result<Vec<Condition>> {
    let stored: Option<Json<Vec<Condition>>> =
        sqlx::query_scalar("SELECT conditions FROM conditions WHERE subject_id = $1")
            .bind(id)
            .fetch_optional(tx.conn())
            .await?;
    Ok(stored.map(|c| c.0).unwrap_or_default())
}

/// The live tasks about an object, newest first.
pub async fn tasks(tx: &mut SystemTx, id: Uuid) -> Result<Vec<Task>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        crate::tasks::columns!(),
        " FROM tasks t WHERE t.subject_id = $1 AND t.finished_at IS NULL ORDER BY t.id DESC"
    ))
    .bind(id)
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.iter().map(crate::tasks::read).collect::<sqlx::Result<_>>()?)
}

/// The live migration of a VM, with what both hosts said of the VM.
pub async fn migration(tx: &mut SystemTx, vm: VmId) -> Result<Option<(MigrationRow, Vec<Fact>)>> {
    let conn = tx.conn();
    let row: Option<MigrationRow> =
        sqlx::query_as("SELECT * FROM migrations WHERE vm_id = $1 AND ended_at IS NULL")
            .bind(vm)
            .fetch_optional(&mut *conn)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let facts = sqlx::query_as("SELECT * FROM manifest_facts WHERE kind = 'vm' AND id = $1")
        .bind(vm)
        .fetch_all(conn)
        .await?;
    Ok(Some((row, facts)))
}

/// Gives up what stands of an object on hosts, and of the volumes that go with it: no host is told of it any more. The
/// caller has seen that none of those hosts is heard of.
pub async fn forget(tx: &mut SystemTx, change: &Change, object: &Object) -> Result<()> {
    let mut items: Vec<(&str, Uuid)> = vec![(object.kind.as_str(), object.id)];
    let volumes: Vec<Uuid> = match object.kind.as_str() {
        "vm" => {
            sqlx::query_scalar("SELECT id FROM volumes WHERE vm_id = $1 AND owned ORDER BY id")
                .bind(object.id)
                .fetch_all(tx.conn())
                .await?
        }
        _ => Vec::new(),
    };
    items.extend(volumes.iter().map(|id| ("volume", *id)));
    manifests::forget(tx, &items, change.now).await?;
    audit(tx, change, object, "forget").await
}

/// Says who owns a VM on its way, where the facts cannot.
pub async fn settle(
    tx: &mut SystemTx,
    change: &Change,
    object: &Object,
    settlement: &Settlement,
) -> Result<bool> {
    if migrations::settle(tx, settlement).await? != Stepped::Done {
        return Ok(false);
    }
    audit(tx, change, object, settlement.outcome.result.as_str()).await?;
    Ok(true)
}

/// Records that a person took a way out.
async fn audit(tx: &mut SystemTx, change: &Change, object: &Object, way: &str) -> Result<()> {
    let action = format!("{}.unstick.{way}", object.kind);
    let Object { tenant_id, project_id, kind, id, name, .. } = object;
    audit_events::write(tx.conn(), change, Entry::new(&action, *tenant_id, *project_id, kind, *id, name))
        .await
}

/// When a host was heard of last, as it is written down.
pub async fn seen_at(tx: &mut SystemTx, host: basalt_model::HostId) -> Result<Option<DateTime>> {
    let at = sqlx::query_scalar("SELECT seen_at FROM host_heartbeats WHERE host_id = $1")
        .bind(host)
        .fetch_optional(tx.conn())
        .await?;
    Ok(at)
}
