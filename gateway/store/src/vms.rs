//! Virtual machines: intent, facts, and the reads that answer `GET`.
//!
//! How one is declared is in `vm_insert.rs`, how its intent changes in `vm_changes.rs`, where it runs in
//! `placements.rs`.

use crate::{
    Finalized, Handle, Key, List, Page, Result, SystemTx, manifests, migrations,
    placements::Placement,
    quotas::{self, Delta},
    row::{self, Selected, bigint},
    tasks, volumes,
};
use basalt_model::{
    Condition, DateTime, Epoch, Generation, HostId, Metadata, ProjectId, TenantId, VmId, VolumeId,
    tasks::{Subject, TaskKind},
    vms::{Operation, VmDisk, VmNic, VmObserved, VmSpec},
};
use serde_json::Value;
use sqlx::{FromRow, Row, postgres::PgRow};

pub use crate::{
    vm_changes::{PowerVerb, delete, operate, redeploy, set_power, update},
    vm_insert::{declare, insert},
    vm_stamps::{Stamp, stamp, stamps},
};

/// A VM as declared, with everything resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Vm {
    /// Common fields.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: VmSpec,
    /// Count of redeploys.
    pub incarnation: i64,
    /// The last one-shot verb.
    pub operation: Option<Operation>,
    /// Interfaces with MAC and address.
    pub nics: Vec<VmNic>,
    /// Disks with their volumes.
    pub disks: Vec<VmDisk>,
}

/// What the host that a VM is placed on reported.
#[derive(Clone, Debug, PartialEq)]
pub struct VmFacts {
    /// The VM.
    pub vm_id: VmId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// The host.
    pub host_id: HostId,
    /// The placement that was acted on.
    pub epoch: Epoch,
    /// The generation that is realised.
    pub observed_generation: Generation,
    /// What was seen.
    pub observed: VmObserved,
    /// What is going on.
    pub stage: String,
    /// When it was reported.
    pub reported_at: DateTime,
}

/// A VM as people look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct VmView {
    /// As declared.
    pub vm: Vm,
    /// Where it was put; its explanation is left null, see [`explanation`].
    pub placement: Option<Placement>,
    /// What was seen.
    pub facts: Option<VmFacts>,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

impl Vm {
    /// Its id.
    pub fn id(&self) -> VmId {
        VmId(self.metadata.id)
    }

    pub(crate) fn subject(&self) -> Subject {
        Subject { kind: "vm".into(), id: self.metadata.id, name: self.metadata.name.to_string() }
    }
}

macro_rules! columns {
    () => {
        concat!(crate::row::metadata_columns!("x"), ", x.spec, x.incarnation, x.operation, x.nics, x.disks")
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for Vm {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            metadata: row::metadata(row)?,
            spec: VmSpec::shrunk(row::json(row, "spec")?),
            incarnation: row.try_get("incarnation")?,
            operation: row::json_option(row, "operation")?,
            nics: row::list(row, "nics")?,
            disks: row::list(row, "disks")?,
        })
    }
}

impl FromRow<'_, PgRow> for VmFacts {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            vm_id: row.try_get("vm_id")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            host_id: row.try_get("host_id")?,
            epoch: row.try_get("epoch")?,
            observed_generation: row.try_get("observed_generation")?,
            observed: row::json(row, "observed")?,
            stage: row.try_get("stage")?,
            reported_at: row.try_get("reported_at")?,
        })
    }
}

/// One statement for the whole view: the request path makes two round trips, this and its BEGIN. The limits keep
/// the joins laterals, so that a page of a hundred looks a hundred rows up however many there are: the planner
/// does not know the page's size and would rather read the tables.
macro_rules! view {
    () => {
        concat!(
            "SELECT ",
            columns!(),
            ", p.host_id AS p_host_id, p.host AS p_host, p.epoch AS p_epoch, p.generation AS p_generation, p.decided_at,
               f.host_id AS f_host_id, f.epoch AS f_epoch, f.observed_generation, f.observed, f.stage, f.reported_at,
               c.conditions
             FROM vms x
               LEFT JOIN LATERAL (SELECT * FROM placements WHERE vm_id = x.id LIMIT 1) p ON true
               LEFT JOIN LATERAL (SELECT * FROM vm_observed WHERE vm_id = x.id LIMIT 1) f ON true
               LEFT JOIN LATERAL (SELECT * FROM conditions WHERE subject_id = x.id LIMIT 1) c ON true"
        )
    };
}

impl FromRow<'_, PgRow> for VmView {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let vm = Vm::from_row(row)?;
        let conditions = row::json_option(row, "conditions")?.unwrap_or_default();
        let (Some(tenant_id), Some(project_id)) = (vm.metadata.tenant_id, vm.metadata.project_id) else {
            return Ok(Self { vm, placement: None, facts: None, conditions });
        };
        let placement = match row.try_get::<Option<Epoch>, _>("p_epoch")? {
            None => None,
            Some(epoch) => Some(Placement {
                vm_id: vm.id(),
                tenant_id,
                project_id,
                host_id: row.try_get("p_host_id")?,
                host: row.try_get("p_host")?,
                epoch,
                generation: row.try_get("p_generation")?,
                explanation: Value::Null,
                decided_at: row.try_get("decided_at")?,
            }),
        };
        let facts = match row.try_get::<Option<HostId>, _>("f_host_id")? {
            None => None,
            Some(host_id) => Some(VmFacts {
                vm_id: vm.id(),
                tenant_id,
                project_id,
                host_id,
                epoch: row.try_get("f_epoch")?,
                observed_generation: row.try_get("observed_generation")?,
                observed: row::json(row, "observed")?,
                stage: row.try_get("stage")?,
                reported_at: row.try_get("reported_at")?,
            }),
        };
        Ok(Self { vm, placement, facts, conditions })
    }
}

/// A VM of a project.
pub async fn get(tx: &mut impl Handle, project: ProjectId, key: &Key) -> Result<VmView> {
    // Two statements rather than an OR: each is one index lookup.
    let view: Option<VmView> = match key {
        Key::Id(id) => {
            sqlx::query_as(concat!(view!(), " WHERE x.id = $2 AND x.project_id = $1"))
                .bind(project)
                .bind(id)
                .fetch_optional(tx.conn())
                .await?
        }
        Key::Name(name) => {
            sqlx::query_as(concat!(view!(), " WHERE x.project_id = $1 AND x.name = $2"))
                .bind(project)
                .bind(name)
                .fetch_optional(tx.conn())
                .await?
        }
    };
    view.ok_or_else(|| key.missing("vm"))
}

/// A VM by id alone.
pub async fn get_by_id(tx: &mut impl Handle, id: VmId) -> Result<VmView> {
    sqlx::query_as(concat!(view!(), " WHERE x.id = $1"))
        .bind(id)
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| Key::from(id).missing("vm"))
}

/// VMs of a project, oldest first.
pub async fn list(tx: &mut impl Handle, project: ProjectId, page: &Page) -> Result<List<VmView>> {
    let views = if page.selector.0.is_empty() {
        sqlx::query_as(concat!(view!(), " WHERE x.project_id = $3 AND x.id > $1 ORDER BY x.id LIMIT $2"))
            .bind(page.after())
            .bind(page.fetch())
            .bind(project)
            .fetch_all(tx.conn())
            .await?
    } else {
        let s = Selected::new(&page.selector);
        sqlx::query_as(concat!(
            view!(),
            " WHERE x.id > $1 AND x.project_id = $8",
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
        .bind(project)
        .fetch_all(tx.conn())
        .await?
    };
    Ok(page.cut(views, |v: &VmView| v.vm.metadata.id))
}

/// VMs of everything the transaction sees, oldest first.
pub async fn list_all(tx: &mut impl Handle, page: &Page) -> Result<List<VmView>> {
    let s = Selected::new(&page.selector);
    let views = sqlx::query_as(concat!(
        view!(),
        " WHERE x.id > $1",
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
    Ok(page.cut(views, |v: &VmView| v.vm.metadata.id))
}

/// Where a VM was put, with why there and why not elsewhere.
pub async fn explanation(tx: &mut impl Handle, id: VmId) -> Result<Option<Placement>> {
    let placement =
        sqlx::query_as("SELECT * FROM placements WHERE vm_id = $1").bind(id).fetch_optional(tx.conn());
    Ok(placement.await?)
}

/// Removes a VM whose deletion was asked for, with its own volumes, ports and claims, once no host has any of
/// it. Its live tasks end: the deletion as completed, all others as cancelled. Volumes that it only used stay.
pub async fn finalize(tx: &mut SystemTx, id: VmId, now: DateTime) -> Result<Finalized> {
    let conn = tx.conn();
    let project: Option<ProjectId> = sqlx::query_scalar("SELECT project_id FROM vms WHERE id = $1")
        .bind(id)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(project) = project else { return Ok(Finalized::Done) };
    // Quota before VM, as in `insert`: two who take both cannot wait for each other.
    quotas::claim(conn, project, Delta::default()).await?;
    let vm: Option<Vm> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM vms x WHERE x.id = $1 AND x.deletion_requested_at IS NOT NULL FOR UPDATE"
    ))
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(vm) = vm else { return Ok(Finalized::Waiting) };
    let owned: Vec<VolumeId> =
        sqlx::query_scalar("SELECT id FROM volumes WHERE vm_id = $1 AND owned FOR UPDATE")
            .bind(id)
            .fetch_all(&mut *conn)
            .await?;
    let mut ids = row::uuids(&owned);
    ids.push(id.0);
    if manifests::on_hosts(conn, &ids).await? {
        return Ok(Finalized::Waiting);
    }
    // Hosts before their pools, as in `placements`.
    sqlx::query(
        "UPDATE host_claims h SET claimed_vms = claimed_vms - 1, claimed_cpus = h.claimed_cpus - p.claimed_cpus,
            claimed_memory_bytes = h.claimed_memory_bytes - p.claimed_memory_bytes
         FROM placements p WHERE p.vm_id = $1 AND h.host_id = p.host_id",
    )
    .bind(id)
    .execute(&mut *conn)
    .await?;
    volumes::remove(conn, &owned).await?;
    migrations::forget(conn, id).await?;
    for statement in [
        "UPDATE volumes SET vm_id = NULL WHERE vm_id = $1",
        "UPDATE address_cursors a SET used = used - p.n
         FROM (SELECT network_id, count(*) AS n FROM ports WHERE vm_id = $1 GROUP BY network_id) p
         WHERE a.network_id = p.network_id",
        "DELETE FROM ports WHERE vm_id = $1",
        "DELETE FROM placements WHERE vm_id = $1",
        "DELETE FROM vm_observed WHERE vm_id = $1",
        "DELETE FROM conditions WHERE subject_id = $1",
        "DELETE FROM vms WHERE id = $1",
    ] {
        sqlx::query(statement).bind(id).execute(&mut *conn).await?;
    }
    let demand = vm.spec.demand(0);
    let back = Delta {
        vms: -1,
        cpus: -i64::from(demand.cpus),
        memory_bytes: -bigint(demand.memory_bytes),
        storage_bytes: 0,
    };
    quotas::claim(conn, project, back).await?;
    tasks::end_all(conn, id.0, TaskKind::VmDelete, now).await?;
    Ok(Finalized::Done)
}
