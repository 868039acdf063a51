//! Providers: places where deployments run.

use crate::{
    Change, Error, Finalized, Handle, Key, List, New, Page, Result, SystemTx, TenantTx, Update,
    audit_events::{self, Entry},
    change, deployments,
    discovered::ProviderStatus,
    error::named,
    row, secrets,
};
use basalt_model::{Generation, Metadata, ProjectId, ProviderId, providers::ProviderSpec};
use sqlx::{FromRow, PgConnection, postgres::PgRow, types::Json};

const KIND: &str = "provider";

/// A provider as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    /// Common fields.
    pub metadata: Metadata,
    /// What it is.
    pub spec: ProviderSpec,
}

impl Provider {
    /// Its id.
    pub fn id(&self) -> ProviderId {
        ProviderId(self.metadata.id)
    }
}

macro_rules! columns {
    () => {
        concat!(crate::row::metadata_columns!("x"), ", x.spec")
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for Provider {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { metadata: row::metadata(row)?, spec: row::json(row, "spec")? })
    }
}

async fn audit(conn: &mut PgConnection, change: &Change, action: &'static str, of: &Provider) -> Result<()> {
    let m = &of.metadata;
    let entry = Entry::new(action, m.tenant_id, m.project_id, KIND, m.id, m.name.as_str());
    audit_events::write(conn, change, entry).await
}

/// The secret that a spec names has to be there: without it nothing could ever be reached.
async fn check(tx: &mut TenantTx, project: ProjectId, spec: &ProviderSpec) -> Result<()> {
    match spec.access() {
        Some((field, named)) => {
            secrets::hold(tx, project, &named.secret, &format!("spec.{field}.secret")).await
        }
        None => Ok(()),
    }
}

/// Declares a provider.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<ProviderSpec>,
) -> Result<Provider> {
    check(tx, project, &new.spec).await?;
    let tenant = tx.tenant();
    let provider: Provider = sqlx::query_as(concat!(
        "INSERT INTO providers AS x (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $6, $7) RETURNING ",
        columns!()
    ))
    .bind((change.ids)())
    .bind(tenant)
    .bind(project)
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(Json(&new.spec))
    .fetch_one(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "providers_name" => Some(Error::NameTaken { kind: KIND, name: new.name.to_string() }),
            "providers_project" => Some(Key::from(project).missing("project")),
            _ => None,
        })
    })?;
    audit(tx.conn(), change, "provider.create", &provider).await?;
    Ok(provider)
}

/// A provider of a project.
pub async fn get(tx: &mut impl Handle, project: ProjectId, key: &Key) -> Result<Provider> {
    row::keyed(tx.conn(), row::keyed_select!("providers", "", columns!()), project, key, KIND).await
}

/// Providers of a project, oldest first.
pub async fn list(tx: &mut impl Handle, project: ProjectId, page: &Page) -> Result<List<Provider>> {
    let select = row::listed_select!("SELECT ", columns!(), " FROM providers x");
    row::listed(tx.conn(), select, project, page, |p: &Provider| p.metadata.id).await
}

/// How the last looks at providers went; of one that nobody looked at yet there is none.
pub async fn statuses(tx: &mut impl Handle, of: &[ProviderId]) -> Result<Vec<ProviderStatus>> {
    let query = sqlx::query_as("SELECT * FROM provider_status WHERE provider_id = ANY($1)");
    Ok(query.bind(row::uuids(of)).fetch_all(tx.conn()).await?)
}

/// Replaces how one gets there. It stays on its platform: what runs there could not follow.
pub async fn update(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    update: &Update<ProviderSpec>,
) -> Result<Provider> {
    let select = row::keyed_select!("providers", " FOR NO KEY UPDATE", columns!());
    let old: Provider = row::keyed(tx.conn(), select, project, key, KIND).await?;
    change::expect(update.expected, old.metadata.generation)?;
    let labels = update.labels.as_ref().unwrap_or(&old.metadata.labels);
    if old.spec == update.spec && *labels == old.metadata.labels {
        return Ok(old);
    }
    if old.metadata.deletion_requested_at.is_some() {
        return Err(Error::Deleting { kind: KIND, name: old.metadata.name.to_string() });
    }
    if old.spec.platform() != update.spec.platform() {
        return Err(Error::Immutable {
            field: "spec.platform".into(),
            remedy: "declare another provider, and move deployments there".into(),
        });
    }
    check(tx, project, &update.spec).await?;
    let provider: Provider = sqlx::query_as(concat!(
        "UPDATE providers x SET spec = $2, labels = $3, updated_at = $4,
            generation = generation + CASE WHEN spec = $2 THEN 0 ELSE 1 END
         WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(old.id())
    .bind(Json(&update.spec))
    .bind(Json(labels))
    .bind(change.now)
    .fetch_one(tx.conn())
    .await?;
    audit(tx.conn(), change, "provider.update", &provider).await?;
    Ok(provider)
}

/// Removes a provider. Refused while deployments are there, unless they are to go with it: then it goes after them.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
    cascade: bool,
) -> Result<Provider> {
    let select = row::keyed_select!("providers", " FOR UPDATE", columns!());
    let provider: Provider = row::keyed(tx.conn(), select, project, key, KIND).await?;
    change::expect(expected, provider.metadata.generation)?;
    let here = deployments::at_provider(tx, provider.id(), if cascade { 100_000 } else { 10 }).await?;
    if here.is_empty() {
        let conn = tx.step_out().await?;
        sqlx::query("DELETE FROM providers WHERE id = $1").bind(provider.id()).execute(conn).await?;
        tx.back_to_tenant().await?;
        audit(tx.conn(), change, "provider.delete", &provider).await?;
        return Ok(provider);
    }
    if !cascade {
        let by = here.iter().map(|name| format!("deployment/{name}")).collect();
        return Err(Error::InUse { kind: KIND, name: provider.metadata.name.to_string(), by });
    }
    for name in here {
        deployments::delete(tx, change, project, &Key::Name(name), None, false).await?;
    }
    let going = sqlx::query_as(row::deleting!("providers", columns!()));
    let provider: Provider = going.bind(provider.id()).bind(change.now).fetch_one(tx.conn()).await?;
    audit(tx.conn(), change, "provider.delete", &provider).await?;
    Ok(provider)
}

/// Forgets a provider that was to go after its deployments, when they are gone.
pub async fn finalize(tx: &mut SystemTx, id: ProviderId) -> Result<Finalized> {
    let conn = tx.conn();
    let going: Option<bool> =
        sqlx::query_scalar(row::going!("providers")).bind(id).fetch_optional(&mut *conn).await?;
    if going != Some(true) {
        return Ok(Finalized::Done);
    }
    let left: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM deployments WHERE provider_id = $1)")
        .bind(id)
        .fetch_one(&mut *conn)
        .await?;
    if left {
        return Ok(Finalized::Waiting);
    }
    sqlx::query("DELETE FROM providers WHERE id = $1").bind(id).execute(conn).await?;
    Ok(Finalized::Done)
}
