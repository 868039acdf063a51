//! Volumes: declared on their own or with their VM; bound to a host and a pool when a VM that needs them is placed.

use crate::{
    Accepted, Change, Error, Finalized, Handle, Key, List, New, Page, Result, SystemTx, TenantTx, change,
    error::named,
    images, manifests,
    quotas::{self, Delta},
    row::{self, bigint},
    tasks,
};
use basalt_model::{
    Condition, DateTime, Generation, HostId, ImageId, Metadata, Name, ProjectId, TenantId, VmId, VolumeId,
    tasks::{Subject, TaskKind},
    volumes::{VolumeObserved, VolumeSource, VolumeSpec},
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};

/// A volume as declared, and where it was put.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Common fields.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: VolumeSpec,
    /// The image it begins with.
    pub image_id: Option<ImageId>,
    /// The VM that uses it.
    pub vm_id: Option<VmId>,
    /// Whether it was made with that VM and goes with it.
    pub owned: bool,
    /// The host it is bound to.
    pub host_id: Option<HostId>,
    /// The pool of that host.
    pub pool: Option<Name>,
    /// Count of times it is to be made anew.
    pub incarnation: i64,
}

/// What the host that a volume is bound to reported.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeFacts {
    /// The volume.
    pub volume_id: VolumeId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// The host.
    pub host_id: HostId,
    /// The generation that is realised.
    pub observed_generation: Generation,
    /// What was seen.
    pub observed: VolumeObserved,
    /// What is going on.
    pub stage: String,
}

/// A volume as people look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeView {
    /// As declared.
    pub volume: Volume,
    /// What was seen.
    pub facts: Option<VolumeFacts>,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

impl Volume {
    /// Its id.
    pub fn id(&self) -> VolumeId {
        VolumeId(self.metadata.id)
    }

    fn subject(&self) -> Subject {
        Subject { kind: "volume".into(), id: self.metadata.id, name: self.metadata.name.to_string() }
    }
}

macro_rules! columns {
    () => {
        concat!(
            crate::row::metadata_columns!("x"),
            ", x.spec, x.image_id, x.vm_id, x.owned, x.host_id, x.pool, x.incarnation"
        )
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for Volume {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            metadata: row::metadata(row)?,
            spec: row::json(row, "spec")?,
            image_id: row.try_get("image_id")?,
            vm_id: row.try_get("vm_id")?,
            owned: row.try_get("owned")?,
            host_id: row.try_get("host_id")?,
            pool: row.try_get("pool")?,
            incarnation: row.try_get("incarnation")?,
        })
    }
}

impl FromRow<'_, PgRow> for VolumeFacts {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            volume_id: row.try_get("volume_id")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            host_id: row.try_get("host_id")?,
            observed_generation: row.try_get("observed_generation")?,
            observed: row::json(row, "observed")?,
            stage: row.try_get("stage")?,
        })
    }
}

impl FromRow<'_, PgRow> for VolumeView {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let volume = Volume::from_row(row)?;
        let host: Option<HostId> = row.try_get("f_host_id")?;
        let facts = match (host, volume.metadata.tenant_id, volume.metadata.project_id) {
            (Some(host_id), Some(tenant_id), Some(project_id)) => Some(VolumeFacts {
                volume_id: volume.id(),
                tenant_id,
                project_id,
                host_id,
                observed_generation: row.try_get("observed_generation")?,
                observed: row::json(row, "observed")?,
                stage: row.try_get("stage")?,
            }),
            _ => None,
        };
        Ok(Self { volume, facts, conditions: row::json_option(row, "conditions")?.unwrap_or_default() })
    }
}

macro_rules! view {
    () => {
        concat!(
            "SELECT ",
            columns!(),
            ", f.host_id AS f_host_id, f.observed_generation, f.observed, f.stage, c.conditions FROM volumes x
               LEFT JOIN volume_observed f ON f.volume_id = x.id LEFT JOIN conditions c ON c.subject_id = x.id"
        )
    };
}

/// Declares a volume. It is made when a VM needs it, so its task is recorded as completed.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<VolumeSpec>,
) -> Result<Accepted<Volume>> {
    let (tenant, spec) = (tx.tenant(), &new.spec);
    let conn = tx.conn();
    let image = match &spec.source {
        // An adopted one is declared by `adoption.rs`; validation refuses it here.
        VolumeSource::Blank | VolumeSource::Adopted { .. } => None,
        VolumeSource::Image { image } => {
            let field = "spec.source.image".to_string();
            let found = images::usable(conn, project, image, false, &field).await?;
            if spec.size_bytes < found.virtual_size_bytes {
                return Err(Error::SizeTooSmall {
                    field: "spec.size_bytes".into(),
                    given: spec.size_bytes,
                    minimum: found.virtual_size_bytes,
                });
            }
            Some(found.id)
        }
    };
    quotas::claim(conn, project, Delta { storage_bytes: bigint(spec.size_bytes), ..Delta::default() })
        .await?;
    if let Some(image) = image {
        images::hold(conn, image).await?;
    }
    let volume: Volume = sqlx::query_as(concat!(
        "INSERT INTO volumes AS x (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec,
            size_bytes, image_id, owned, incarnation)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $6, $7, $8, $9, false, 0) RETURNING ",
        columns!()
    ))
    .bind((change.ids)())
    .bind(tenant)
    .bind(project)
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(Json(spec))
    .bind(bigint(spec.size_bytes))
    .bind(image)
    .fetch_one(&mut *conn)
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "volumes_name" => Some(Error::NameTaken { kind: "volume", name: new.name.to_string() }),
            "volumes_project" => Some(Key::from(project).missing("project")),
            _ => None,
        })
    })?;
    let task =
        tasks::new(change, tenant, project, TaskKind::VolumeCreate, volume.subject(), Generation::FIRST);
    let task = tasks::completed(task);
    tasks::record(conn, change, "volume.create", &task, None).await?;
    Ok(Accepted { object: volume, task })
}

/// A volume of a project.
pub async fn get(tx: &mut impl Handle, project: ProjectId, key: &Key) -> Result<VolumeView> {
    row::keyed(tx.conn(), concat!(view!(), crate::row::keyed_where!("volumes")), project, key, "volume").await
}

/// Volumes of a project, oldest first.
pub async fn list(tx: &mut impl Handle, project: ProjectId, page: &Page) -> Result<List<VolumeView>> {
    let select = row::listed_select!(view!());
    row::listed(tx.conn(), select, project, page, |v: &VolumeView| v.volume.metadata.id).await
}

/// Asks for a volume's deletion. Refused while a VM uses it.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Accepted<Volume>> {
    let tenant = tx.tenant();
    let conn = tx.conn();
    let old: Volume = row::keyed(
        &mut *conn,
        row::keyed_select!("volumes", " FOR UPDATE", columns!()),
        project,
        key,
        "volume",
    )
    .await?;
    change::expect(expected, old.metadata.generation)?;
    if let Some(task) = tasks::deletion(conn, "volume", &old.metadata, TaskKind::VolumeDelete).await? {
        return Ok(Accepted { task, object: old });
    }
    if let Some(vm) = old.vm_id {
        let by = sqlx::query_scalar("SELECT 'vm/' || name FROM vms WHERE id = $1")
            .bind(vm)
            .fetch_all(conn)
            .await?;
        return Err(Error::InUse { kind: "volume", name: old.metadata.name.to_string(), by });
    }
    let volume: Volume = sqlx::query_as(row::deleting!("volumes", columns!()))
        .bind(old.id())
        .bind(change.now)
        .fetch_one(&mut *conn)
        .await?;
    let generation = volume.metadata.generation;
    let task = tasks::new(change, tenant, project, TaskKind::VolumeDelete, volume.subject(), generation);
    tasks::record(conn, change, "volume.delete", &task, None).await?;
    Ok(Accepted { object: volume, task })
}

/// Removes a volume whose deletion was asked for, once it is on no host.
pub async fn finalize(tx: &mut SystemTx, id: VolumeId, now: DateTime) -> Result<Finalized> {
    let conn = tx.conn();
    let row = sqlx::query(
        "SELECT project_id, deletion_requested_at IS NOT NULL AND vm_id IS NULL AS going FROM volumes WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(Finalized::Done) };
    if !row.try_get::<bool, _>("going")? || manifests::on_hosts(conn, &[id.0]).await? {
        return Ok(Finalized::Waiting);
    }
    // Quota before volume, as everywhere: two who take both cannot wait for each other.
    quotas::claim(conn, row.try_get("project_id")?, Delta::default()).await?;
    remove(conn, &[id]).await?;
    tasks::end_all(conn, id.0, TaskKind::VolumeDelete, now).await?;
    Ok(Finalized::Done)
}

/// Removes volumes with their facts, and gives back what they took of pool and quota.
pub(crate) async fn remove(conn: &mut PgConnection, ids: &[VolumeId]) -> Result<()> {
    let ids = row::uuids(ids);
    for statement in [
        "DELETE FROM conditions WHERE subject_id = ANY($1)",
        "DELETE FROM volume_observed WHERE volume_id = ANY($1)",
        "UPDATE pools p SET claimed_bytes = claimed_bytes - v.bytes
         FROM (SELECT host_id, pool, sum(size_bytes)::bigint AS bytes FROM volumes
               WHERE id = ANY($1) AND host_id IS NOT NULL GROUP BY host_id, pool) v
         WHERE p.host_id = v.host_id AND p.name = v.pool",
        "UPDATE quotas q SET used_storage_bytes = used_storage_bytes - v.bytes
         FROM (SELECT project_id, sum(size_bytes)::bigint AS bytes FROM volumes WHERE id = ANY($1)
               GROUP BY project_id) v
         WHERE q.project_id = v.project_id",
        "DELETE FROM volumes WHERE id = ANY($1)",
    ] {
        sqlx::query(statement).bind(&ids).execute(&mut *conn).await?;
    }
    Ok(())
}
