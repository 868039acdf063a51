//! Deployments: what is wanted to run, where, and whether it is to run at all. What was tried and seen is written by
//! the reconciler alone, see [`crate::attempts`] and [`crate::discovered`].

use crate::{
    Change, Error, Finalized, Handle, Key, List, New, Page, Result, SystemTx, TenantTx, Update,
    audit_events::{self, Entry},
    change,
    error::named,
    providers::{self, Provider},
    row,
};
use basalt_model::{
    CapabilityReason, Condition, DateTime, DeploymentId, Epoch, Generation, Labels, Metadata, Name,
    ProjectId, ProviderId, TenantId,
    artifacts::ArtifactRef,
    attempts::{Applied, Attempted, Standing},
    deployments::{DeploymentSpec, DesiredState},
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use uuid::Uuid;

const KIND: &str = "deployment";

/// A deployment as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Common fields.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: DeploymentSpec,
    /// Where it runs.
    pub provider_id: ProviderId,
    /// The last word of somebody who asked for one more attempt.
    pub force: Option<Uuid>,
    /// It is forgotten without being taken away.
    pub orphan: bool,
    /// What ran at the provider before, and is taken over.
    pub adopts: Option<Adopted>,
}

/// Something at a provider that a deployment takes over.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Adopted {
    /// What the platform calls it.
    pub kind: String,
    /// Where, on platforms that have namespaces.
    pub namespace: Option<String>,
    /// Its name there.
    pub name: String,
}

impl Deployment {
    /// Its id.
    pub fn id(&self) -> DeploymentId {
        DeploymentId(self.metadata.id)
    }
}

macro_rules! columns {
    () => {
        concat!(
            crate::row::metadata_columns!("x"),
            ", x.spec, x.provider_id, x.force_token, x.orphan, x.adopts"
        )
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for Deployment {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            metadata: row::metadata(row)?,
            spec: row::json(row, "spec")?,
            provider_id: row.try_get("provider_id")?,
            force: row.try_get("force_token")?,
            orphan: row.try_get("orphan")?,
            adopts: row::json_option(row, "adopts")?,
        })
    }
}

/// What the reconciler wrote of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// The newest attempt that began; 0 when none did.
    pub begun: Epoch,
    /// The newest one whose end was written down.
    pub ended: Epoch,
    /// The last attempt that ended.
    pub attempted: Option<Attempted>,
    /// What was applied; none when nothing was, or when it was taken away.
    pub applied: Option<Applied>,
    /// When it is tried again if nothing changes. For people: what is due is counted by time that only goes forward.
    pub next_retry_at: Option<DateTime>,
    /// When it was repaired, within the hour before the last attempt.
    pub repairs: Vec<DateTime>,
    /// As it was last judged.
    pub standing: Option<Standing>,
}

impl FromRow<'_, PgRow> for Status {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            deployment_id: row.try_get("deployment_id")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            begun: row.try_get("begun")?,
            ended: row.try_get("ended")?,
            attempted: row::json_option(row, "attempted")?,
            applied: row::json_option(row, "applied")?,
            next_retry_at: row.try_get("next_retry_at")?,
            repairs: row.try_get("repairs")?,
            standing: row::json_option(row, "standing")?,
        })
    }
}

/// Something found at a provider that no deployment stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its id here.
    pub id: Uuid,
    /// Its name at the provider.
    pub name: String,
    /// What the platform calls it.
    pub kind: String,
    /// Where, on platforms that have namespaces; empty on others.
    pub namespace: String,
    /// The provider's name.
    pub provider: Name,
    /// The deployment that is written on it and is no more.
    pub owner: Option<Uuid>,
    /// Complete looks in a row at which it was not there.
    pub misses: i32,
    /// When it was first seen.
    pub first_seen_at: DateTime,
    /// When it last changed.
    pub changed_at: DateTime,
}

/// A line of the merged list.
#[derive(Clone, Debug, PartialEq)]
pub enum Listed {
    /// One that was declared.
    Managed(Box<View>),
    /// One that was found.
    Found(Found),
}

impl Listed {
    fn id(&self) -> Uuid {
        match self {
            Self::Managed(view) => view.deployment.metadata.id,
            Self::Found(found) => found.id,
        }
    }
}

/// A deployment with what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The deployment.
    pub deployment: Deployment,
    /// What was tried.
    pub status: Option<Status>,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

macro_rules! joined {
    ($source:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            ", s.deployment_id, coalesce(s.begun, 0) AS begun, coalesce(s.ended, 0) AS ended, s.attempted, s.applied, s.next_retry_at,
                coalesce(s.repairs, '{}') AS repairs, s.standing, coalesce(c.conditions, '[]') AS conditions",
            $source,
            " LEFT JOIN deployment_status s ON s.deployment_id = x.id LEFT JOIN conditions c ON c.subject_id = x.id"
        )
    };
}

impl FromRow<'_, PgRow> for View {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let judged: Option<Uuid> = row.try_get("deployment_id")?;
        Ok(Self {
            deployment: Deployment::from_row(row)?,
            status: judged.map(|_| Status::from_row(row)).transpose()?,
            conditions: row::json(row, "conditions")?,
        })
    }
}

impl FromRow<'_, PgRow> for Listed {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let origin: String = row.try_get("origin")?;
        if origin == "managed" {
            return Ok(Self::Managed(Box::new(View::from_row(row)?)));
        }
        Ok(Self::Found(Found {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            kind: row.try_get("kind")?,
            namespace: row.try_get("namespace")?,
            provider: row.try_get("provider")?,
            owner: row.try_get("owner")?,
            misses: row.try_get("misses")?,
            first_seen_at: row.try_get("created_at")?,
            changed_at: row.try_get("updated_at")?,
        }))
    }
}

/// The provider that a spec names, which stays as long as the transaction does. One that goes takes nothing in any more.
pub async fn open_provider(tx: &mut TenantTx, project: ProjectId, name: &Name) -> Result<Provider> {
    let found: Option<Provider> = sqlx::query_as(concat!(
        "SELECT ",
        providers::columns!(),
        " FROM providers x WHERE x.project_id = $1 AND x.name = $2 FOR KEY SHARE"
    ))
    .bind(project)
    .bind(name)
    .fetch_optional(tx.conn())
    .await?;
    let provider = found.ok_or_else(|| no_provider(name))?;
    match provider.metadata.deletion_requested_at {
        Some(_) => Err(Error::Deleting { kind: "provider", name: name.to_string() }),
        None => Ok(provider),
    }
}

fn no_provider(name: &Name) -> Error {
    Error::ReferenceNotFound { kind: "provider", name: name.clone(), field: "spec.provider".into() }
}

/// The deployment that takes something over already. Whoever asks is the only one who does so at its provider until the
/// transaction ends.
pub async fn adopted_by(tx: &mut TenantTx, provider: ProviderId, what: &Adopted) -> Result<Option<Name>> {
    let alone = sqlx::query("SELECT FROM providers WHERE id = $1 FOR NO KEY UPDATE");
    alone.bind(provider).execute(tx.conn()).await?;
    let by =
        sqlx::query_scalar("SELECT name FROM deployments WHERE provider_id = $1 AND adopts = $2 LIMIT 1");
    Ok(by.bind(provider).bind(Json(what)).fetch_optional(tx.conn()).await?)
}

async fn audit(
    conn: &mut PgConnection,
    change: &Change,
    action: &'static str,
    of: &Deployment,
) -> Result<()> {
    let m = &of.metadata;
    let entry = Entry::new(action, m.tenant_id, m.project_id, KIND, m.id, m.name.as_str());
    audit_events::write(conn, change, entry).await
}

/// Declares a deployment. `adopts` names what it takes over instead of being made.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<DeploymentSpec>,
    adopts: Option<&Adopted>,
) -> Result<Deployment> {
    let (tenant, target) = (tx.tenant(), &new.spec.target);
    let provider: Option<ProviderId> =
        sqlx::query_scalar("SELECT id FROM providers WHERE project_id = $1 AND name = $2 FOR KEY SHARE")
            .bind(project)
            .bind(&new.spec.provider)
            .fetch_optional(tx.conn())
            .await?;
    let provider = provider.ok_or_else(|| no_provider(&new.spec.provider))?;
    let deployment: Deployment = sqlx::query_as(concat!(
        "INSERT INTO deployments AS x (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec,
            target_kind, target_name, target_tag, provider_id, adopts)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $6, $7, $8, $9, $10, $11, $12) RETURNING ",
        columns!()
    ))
    .bind((change.ids)())
    .bind(tenant)
    .bind(project)
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(Json(&new.spec))
    .bind(target.kind.as_str())
    .bind(&target.name)
    .bind(&target.tag)
    .bind(provider)
    .bind(adopts.map(Json))
    .fetch_one(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "deployments_name" => Some(Error::NameTaken { kind: KIND, name: new.name.to_string() }),
            "deployments_project" => Some(Key::from(project).missing("project")),
            _ => None,
        })
    })?;
    let action = if adopts.is_some() { "deployment.adopt" } else { "deployment.create" };
    audit(tx.conn(), change, action, &deployment).await?;
    Ok(deployment)
}

/// A deployment of a project.
pub async fn get(tx: &mut impl Handle, project: ProjectId, key: &Key) -> Result<View> {
    let statement = concat!(joined!(" FROM deployments x"), row::keyed_where!("deployments"));
    row::keyed(tx.conn(), statement, project, key, KIND).await
}

/// Something found at a provider of a project, by its id here.
pub async fn found(tx: &mut impl Handle, project: ProjectId, id: Uuid) -> Result<Option<Found>> {
    let found: Option<Listed> = sqlx::query_as(
        "SELECT x.*, p.name AS provider FROM deployments_listed x JOIN providers p ON p.id = x.provider_id
         WHERE x.project_id = $1 AND x.id = $2 AND x.origin <> 'managed'",
    )
    .bind(project)
    .bind(id)
    .fetch_optional(tx.conn())
    .await?;
    Ok(found.and_then(|listed| match listed {
        Listed::Found(found) => Some(found),
        Listed::Managed(_) => None,
    }))
}

/// Deployments of a project and what was found beside them at its providers, by id.
pub async fn list(tx: &mut impl Handle, project: ProjectId, page: &Page) -> Result<List<Listed>> {
    let select = row::listed_select!(joined!(
        ", x.origin, x.kind, x.namespace, x.owner, x.misses, p.name AS provider
         FROM deployments_listed x JOIN providers p ON p.id = x.provider_id"
    ));
    row::listed(tx.conn(), select, project, page, Listed::id).await
}

async fn lock(tx: &mut TenantTx, project: ProjectId, key: &Key) -> Result<Deployment> {
    let select = row::keyed_select!("deployments", " FOR NO KEY UPDATE", columns!());
    row::keyed(tx.conn(), select, project, key, KIND).await
}

/// One whose deletion was asked for is not changed any more.
fn is_going(of: &Deployment) -> Result<()> {
    match of.metadata.deletion_requested_at {
        Some(_) => Err(Error::Deleting { kind: KIND, name: of.metadata.name.to_string() }),
        None => Ok(()),
    }
}

/// Changes what is wanted. It stays at its provider.
pub async fn update(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    update: &Update<DeploymentSpec>,
) -> Result<Deployment> {
    let old = lock(tx, project, key).await?;
    change::expect(update.expected, old.metadata.generation)?;
    let labels = update.labels.as_ref().unwrap_or(&old.metadata.labels);
    if old.spec == update.spec && *labels == old.metadata.labels {
        return Ok(old);
    }
    is_going(&old)?;
    if old.spec.provider != update.spec.provider {
        return Err(Error::Immutable {
            field: "spec.provider".into(),
            remedy: "declare another deployment at that provider, and delete this one when that one runs"
                .into(),
        });
    }
    let deployment = write(tx, change, &old, &update.spec, labels).await?;
    audit(tx.conn(), change, "deployment.update", &deployment).await?;
    Ok(deployment)
}

/// Only what is wanted moves the generation.
async fn write(
    tx: &mut TenantTx,
    change: &Change,
    old: &Deployment,
    spec: &DeploymentSpec,
    labels: &Labels,
) -> Result<Deployment> {
    let ArtifactRef { kind, name, tag } = &spec.target;
    Ok(sqlx::query_as(concat!(
        "UPDATE deployments x SET spec = $2, labels = $3, updated_at = $4, target_kind = $5, target_name = $6,
            target_tag = $7, generation = generation + $8 WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(old.id())
    .bind(Json(spec))
    .bind(Json(labels))
    .bind(change.now)
    .bind(kind.as_str())
    .bind(name)
    .bind(tag)
    .bind(i64::from(old.spec != *spec))
    .fetch_one(tx.conn())
    .await?)
}

/// Wants it to run, or to run no more.
pub async fn want(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
    state: DesiredState,
) -> Result<Deployment> {
    let old = lock(tx, project, key).await?;
    change::expect(expected, old.metadata.generation)?;
    if old.spec.desired_state == state {
        return Ok(old);
    }
    is_going(&old)?;
    let spec = DeploymentSpec { desired_state: state, ..old.spec.clone() };
    let deployment = write(tx, change, &old, &spec, &old.metadata.labels).await?;
    let action = match state {
        DesiredState::Deployed => "deployment.deploy",
        DesiredState::Undeployed => "deployment.cancel",
    };
    audit(tx.conn(), change, action, &deployment).await?;
    Ok(deployment)
}

/// Asks for one more attempt, now.
pub async fn retry(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Deployment> {
    let old = lock(tx, project, key).await?;
    change::expect(expected, old.metadata.generation)?;
    let deployment: Deployment = sqlx::query_as(concat!(
        "UPDATE deployments x SET force_token = $2, updated_at = $3 WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(old.id())
    .bind((change.ids)())
    .bind(change.now)
    .fetch_one(tx.conn())
    .await?;
    audit(tx.conn(), change, "deployment.retry", &deployment).await?;
    Ok(deployment)
}

/// Asks for its deletion. Asked again, nothing changes, unless `orphan` says now that it is not to be taken away.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
    orphan: bool,
) -> Result<Deployment> {
    let old = lock(tx, project, key).await?;
    change::expect(expected, old.metadata.generation)?;
    if old.metadata.deletion_requested_at.is_some() && (old.orphan || !orphan) {
        return Ok(old);
    }
    let deployment: Deployment = sqlx::query_as(concat!(
        "UPDATE deployments x SET orphan = $3, updated_at = $2, deletion_requested_at = coalesce(deletion_requested_at, $2),
            generation = generation + CASE WHEN deletion_requested_at IS NULL THEN 1 ELSE 0 END
         WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(old.id())
    .bind(change.now)
    .bind(orphan)
    .fetch_one(tx.conn())
    .await?;
    let action = if orphan { "deployment.orphan" } else { "deployment.delete" };
    audit(tx.conn(), change, action, &deployment).await?;
    Ok(deployment)
}

/// Deployments that run an artifact, those that go already left out; at most so many names.
pub async fn targeting(
    tx: &mut TenantTx,
    project: ProjectId,
    target: &ArtifactRef,
    limit: u32,
) -> Result<Vec<Name>> {
    Ok(sqlx::query_scalar(
        "SELECT name FROM deployments WHERE project_id = $1 AND target_kind = $2 AND target_name = $3 AND target_tag = $4
            AND deletion_requested_at IS NULL AND spec ->> 'desired_state' = 'deployed' ORDER BY name LIMIT $5",
    )
    .bind(project)
    .bind(target.kind.as_str())
    .bind(&target.name)
    .bind(&target.tag)
    .bind(i64::from(limit))
    .fetch_all(tx.conn())
    .await?)
}

/// Deployments at a provider, at most so many names.
pub(crate) async fn at_provider(tx: &mut TenantTx, provider: ProviderId, limit: u32) -> Result<Vec<Name>> {
    let query =
        sqlx::query_scalar("SELECT name FROM deployments WHERE provider_id = $1 ORDER BY name LIMIT $2");
    Ok(query.bind(provider).bind(i64::from(limit)).fetch_all(tx.conn()).await?)
}

/// Forgets a deployment of which nothing is left at its provider, or that is to be forgotten all the same.
pub async fn finalize(tx: &mut SystemTx, id: DeploymentId) -> Result<Finalized> {
    let conn = tx.conn();
    let row: Option<Deployment> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM deployments x WHERE x.id = $1 AND x.deletion_requested_at IS NOT NULL FOR UPDATE"
    ))
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(deployment) = row else { return Ok(Finalized::Done) };
    // An attempt that is under way, or ended in another way than by taking everything away, may have left something.
    let clean: bool = sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT FROM deployment_attempts WHERE deployment_id = $1) OR EXISTS (
            SELECT FROM deployment_attempts a JOIN deployment_status s USING (deployment_id)
            WHERE a.deployment_id = $1 AND s.applied IS NULL AND (s.attempted ->> 'epoch')::bigint = a.epoch
                AND s.attempted ->> 'action' <> 'deploy')",
    )
    .bind(id)
    .fetch_one(&mut *conn)
    .await?;
    if !clean && !deployment.orphan {
        return Ok(Finalized::Waiting);
    }
    sqlx::query("DELETE FROM conditions WHERE subject_id = $1").bind(id).execute(&mut *conn).await?;
    sqlx::query("DELETE FROM deployments WHERE id = $1").bind(id).execute(&mut *conn).await?;
    Ok(Finalized::Done)
}

/// Writes down how deployments were judged. What says the same as before is not written.
pub async fn judge(tx: &mut SystemTx, rows: &[(DeploymentId, Standing)]) -> Result<u64> {
    let ids: Vec<Uuid> = rows.iter().map(|(id, _)| id.0).collect();
    let standings: Vec<_> = rows.iter().map(|(_, standing)| Json(standing)).collect();
    let done = sqlx::query(
        "INSERT INTO deployment_status AS s (deployment_id, tenant_id, project_id, standing)
         SELECT d.id, d.tenant_id, d.project_id, n.standing FROM unnest($1::uuid[], $2::jsonb[]) n(id, standing)
            JOIN deployments d ON d.id = n.id
         ON CONFLICT (deployment_id) DO UPDATE SET standing = excluded.standing
            WHERE s.standing IS DISTINCT FROM excluded.standing",
    )
    .bind(ids)
    .bind(standings)
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// The error of something found at a provider that is asked to be what only a declared one can be.
pub fn not_managed(found: &Found) -> Error {
    Error::Refused(Box::new(CapabilityReason::new(
        "not_managed",
        format!("{}/{}", found.kind, found.name),
        format!("it was found at {} and was not declared here, so it is only shown", found.provider),
        "adopt it first: basalt adopt deployment ID NAME --target KIND/NAME:TAG; or remove it at its platform",
    )))
}
