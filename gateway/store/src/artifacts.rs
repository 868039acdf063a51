//! Artifacts: agents and MCP servers, by kind, name and tag.
//!
//! They are in the truth or not: there is nothing to wait for, and so no task. What is registered again under its tag with
//! the same content moves nothing.

use crate::{
    Change, Error, Handle, Key, List, New, Page, Result, TenantTx, Update,
    audit_events::{self, Entry},
    change, deployments,
    error::named,
    row::{self, Selected},
};
use basalt_model::{
    ArtifactId, Generation, Metadata, Name, ProjectId,
    artifacts::{ArtifactKind, ArtifactRef, ArtifactSpec, Tag},
    deployments::DesiredState,
};
use sha2::{Digest, Sha256};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::fmt;
use uuid::Uuid;

/// An agent or a server, as registered.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Common fields.
    pub metadata: Metadata,
    /// Its tag.
    pub tag: Tag,
    /// What it is.
    pub spec: ArtifactSpec,
    /// SHA-256 of what runs, in lower-case hex.
    pub content_hash: String,
}

impl Artifact {
    /// Its id.
    pub fn id(&self) -> ArtifactId {
        ArtifactId(self.metadata.id)
    }
}

/// How a caller names an artifact: by id, or by name and tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactKey {
    /// By id.
    Id(Uuid),
    /// By name and tag.
    Tagged(Name, Tag),
}

impl ArtifactKey {
    /// Reads what stands in a path: an id, `name:tag`, or a name, whose tag is then `latest`.
    pub fn parse(kind: ArtifactKind, text: &str) -> Result<Self> {
        if let Ok(id) = Uuid::parse_str(text) {
            return Ok(Self::Id(id));
        }
        let (name, tag) = match text.split_once(':') {
            Some((name, tag)) => (name, Tag::new(tag).ok()),
            None => (text, Some(Tag::default())),
        };
        match (Name::new(name), tag) {
            (Ok(name), Some(tag)) => Ok(Self::Tagged(name, tag)),
            _ => Err(Error::NotFound { kind: kind.as_str(), name: text.chars().take(200).collect() }),
        }
    }

    fn parts(&self) -> (Option<Uuid>, Option<&str>, Option<&str>) {
        match self {
            Self::Id(id) => (Some(*id), None, None),
            Self::Tagged(name, tag) => (None, Some(name.as_str()), Some(tag.as_str())),
        }
    }
}

impl fmt::Display for ArtifactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Tagged(name, tag) => write!(f, "{name}:{tag}"),
        }
    }
}

macro_rules! columns {
    () => {
        concat!(crate::row::metadata_columns!("x"), ", x.kind, x.tag, x.spec, x.content_hash")
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for Artifact {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let spec = match row::from_word(row, "kind")? {
            ArtifactKind::Agent => ArtifactSpec::Agent(row::json(row, "spec")?),
            ArtifactKind::Server => ArtifactSpec::Server(row::json(row, "spec")?),
        };
        Ok(Self {
            metadata: row::metadata(row)?,
            tag: row.try_get("tag")?,
            spec,
            content_hash: row.try_get("content_hash")?,
        })
    }
}

fn json(spec: &ArtifactSpec) -> Result<serde_json::Value> {
    let value = match spec {
        ArtifactSpec::Agent(spec) => serde_json::to_value(spec),
        ArtifactSpec::Server(spec) => serde_json::to_value(spec),
    };
    Ok(value.map_err(|e| row::unreadable("spec", e))?)
}

/// SHA-256 of what runs. The members of a JSON object are sorted, so equal specs have equal text.
fn content_hash(spec: &ArtifactSpec) -> Result<String> {
    let text = json(&spec.content())?.to_string();
    Ok(Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn audit(conn: &mut PgConnection, change: &Change, action: &'static str, of: &Artifact) -> Result<()> {
    let (m, kind) = (&of.metadata, of.spec.kind().as_str());
    let name = format!("{}:{}", m.name, of.tag);
    audit_events::write(conn, change, Entry::new(action, m.tenant_id, m.project_id, kind, m.id, &name)).await
}

/// Registers an artifact.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    tag: &Tag,
    new: &New<ArtifactSpec>,
) -> Result<Artifact> {
    let (tenant, kind) = (tx.tenant(), new.spec.kind());
    let artifact: Artifact = sqlx::query_as(concat!(
        "INSERT INTO artifacts AS x (id, tenant_id, project_id, kind, name, tag, labels, generation, created_at,
            updated_at, spec, content_hash) VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $8, $9, $10) RETURNING ",
        columns!()
    ))
    .bind((change.ids)())
    .bind(tenant)
    .bind(project)
    .bind(kind.as_str())
    .bind(&new.name)
    .bind(tag)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(json(&new.spec)?)
    .bind(content_hash(&new.spec)?)
    .fetch_one(tx.conn())
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "artifacts_name" => {
                Some(Error::NameTaken { kind: kind.as_str(), name: format!("{}:{tag}", new.name) })
            }
            "artifacts_project" => Some(Key::from(project).missing("project")),
            _ => None,
        })
    })?;
    audit(tx.conn(), change, "artifact.create", &artifact).await?;
    Ok(artifact)
}

macro_rules! select {
    ($lock:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM artifacts x WHERE x.project_id = $1 AND x.kind = $2
                AND (x.id = $3 OR x.name = $4 AND x.tag = $5)",
            $lock
        )
    };
}

async fn find(
    conn: &mut PgConnection,
    statement: &'static str,
    (project, kind): (ProjectId, ArtifactKind),
    key: &ArtifactKey,
) -> Result<Artifact> {
    let (id, name, tag) = key.parts();
    sqlx::query_as(statement)
        .bind(project)
        .bind(kind.as_str())
        .bind(id)
        .bind(name)
        .bind(tag)
        .fetch_optional(conn)
        .await?
        .ok_or_else(|| Error::NotFound { kind: kind.as_str(), name: key.to_string() })
}

/// An artifact of a project.
pub async fn get(
    tx: &mut impl Handle,
    project: ProjectId,
    kind: ArtifactKind,
    key: &ArtifactKey,
) -> Result<Artifact> {
    find(tx.conn(), select!(""), (project, kind), key).await
}

/// Artifacts of a project and kind, oldest first.
pub async fn list(
    tx: &mut impl Handle,
    project: ProjectId,
    kind: ArtifactKind,
    page: &Page,
) -> Result<List<Artifact>> {
    let s = Selected::new(&page.selector);
    let artifacts = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM artifacts x WHERE x.id > $1 AND x.project_id = $8 AND x.kind = $9",
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
    .bind(kind.as_str())
    .fetch_all(tx.conn())
    .await?;
    Ok(page.cut(artifacts, |a: &Artifact| a.metadata.id))
}

/// Registers other content, or another description or other labels. Only what runs moves the generation.
pub async fn update(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &ArtifactKey,
    update: &Update<ArtifactSpec>,
) -> Result<Artifact> {
    let kind = update.spec.kind();
    let old = find(tx.conn(), select!(" FOR NO KEY UPDATE"), (project, kind), key).await?;
    change::expect(update.expected, old.metadata.generation)?;
    let labels = update.labels.as_ref().unwrap_or(&old.metadata.labels);
    if old.spec == update.spec && *labels == old.metadata.labels {
        return Ok(old);
    }
    let artifact: Artifact = sqlx::query_as(concat!(
        "UPDATE artifacts x SET spec = $2, labels = $3, content_hash = $4, updated_at = $5,
            generation = generation + CASE WHEN content_hash = $4 THEN 0 ELSE 1 END
         WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(old.id())
    .bind(json(&update.spec)?)
    .bind(Json(labels))
    .bind(content_hash(&update.spec)?)
    .bind(change.now)
    .fetch_one(tx.conn())
    .await?;
    audit(tx.conn(), change, "artifact.update", &artifact).await?;
    Ok(artifact)
}

/// What becomes of the deployments that run an artifact which is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// While there are any, it is not removed.
    Refused,
    /// They are undeployed.
    Undeployed,
    /// They run on as they are.
    Running,
}

/// Removes an artifact.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    (project, kind): (ProjectId, ArtifactKind),
    key: &ArtifactKey,
    expected: Option<Generation>,
    left: Left,
) -> Result<Artifact> {
    let artifact = find(tx.conn(), select!(" FOR UPDATE"), (project, kind), key).await?;
    change::expect(expected, artifact.metadata.generation)?;
    let reference = ArtifactRef { kind, name: artifact.metadata.name.clone(), tag: artifact.tag.clone() };
    match left {
        Left::Running => {}
        Left::Refused => {
            let by = deployments::targeting(tx, project, &reference, 10).await?;
            if !by.is_empty() {
                let by = by.iter().map(|name| format!("deployment/{name}")).collect();
                let name = format!("{}:{}", artifact.metadata.name, artifact.tag);
                return Err(Error::InUse { kind: kind.as_str(), name, by });
            }
        }
        Left::Undeployed => {
            for name in deployments::targeting(tx, project, &reference, 100_000).await? {
                let state = DesiredState::Undeployed;
                deployments::want(tx, change, project, &Key::Name(name), None, state).await?;
            }
        }
    }
    let conn = tx.step_out().await?;
    sqlx::query("DELETE FROM artifacts WHERE id = $1").bind(artifact.id()).execute(conn).await?;
    tx.back_to_tenant().await?;
    audit(tx.conn(), change, "artifact.delete", &artifact).await?;
    Ok(artifact)
}
