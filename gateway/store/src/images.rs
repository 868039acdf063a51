//! Images: what volumes begin with. The bytes live in the image service; here is what is known of them.

use crate::{
    Accepted, Change, Error, Finalized, Handle, Key, List, New, Page, Result, SystemTx, TenantTx, change,
    error::named,
    manifests,
    row::{self, Selected},
    tasks, work,
};
use basalt_model::{
    DateTime, Generation, ImageId, Metadata, Name, ProjectId, TenantId,
    images::{ImageFormat, ImageObserved, ImageSpec, ImageState, Visibility},
    tasks::{Subject, Task, TaskKind},
};
use serde::Deserialize;
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};

/// An image as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Common fields.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: ImageSpec,
}

/// What the image service reported.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFacts {
    /// The image.
    pub image_id: ImageId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// What was seen.
    pub observed: ImageObserved,
    /// When it was reported.
    pub reported_at: DateTime,
}

/// An image as people look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageView {
    /// As declared.
    pub image: Image,
    /// What was reported.
    pub facts: ImageFacts,
}

impl Image {
    /// Its id.
    pub fn id(&self) -> ImageId {
        ImageId(self.metadata.id)
    }

    pub(crate) fn subject(&self) -> Subject {
        Subject { kind: "image".into(), id: self.metadata.id, name: self.metadata.name.to_string() }
    }
}

macro_rules! columns {
    () => {
        concat!(crate::row::metadata_columns!("x"), ", x.spec")
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for Image {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { metadata: row::metadata(row)?, spec: row::json(row, "spec")? })
    }
}

impl FromRow<'_, PgRow> for ImageFacts {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            image_id: row.try_get("image_id")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            observed: row::json(row, "observed")?,
            reported_at: row.try_get("reported_at")?,
        })
    }
}

impl FromRow<'_, PgRow> for ImageView {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { image: Image::from_row(row)?, facts: ImageFacts::from_row(row)? })
    }
}

macro_rules! view {
    () => {
        concat!(
            "SELECT ",
            columns!(),
            ", f.image_id, f.observed, f.reported_at FROM images x JOIN image_observed f ON f.image_id = x.id"
        )
    };
}

/// Declares an image. Its task ends when the bytes were uploaded and verified.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<ImageSpec>,
) -> Result<Accepted<Image>> {
    let tenant = tx.tenant();
    let conn = tx.conn();
    let image: Image = sqlx::query_as(concat!(
        "INSERT INTO images AS x (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec,
            shared) VALUES ($1, $2, $3, $4, $5, 1, $6, $6, $7, $8) RETURNING ",
        columns!()
    ))
    .bind((change.ids)())
    .bind(tenant)
    .bind(project)
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(Json(&new.spec))
    .bind(new.spec.visibility == Visibility::Tenant)
    .fetch_one(&mut *conn)
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "images_name" => Some(Error::NameTaken { kind: "image", name: new.name.to_string() }),
            "images_project" => Some(Key::from(project).missing("project")),
            _ => None,
        })
    })?;
    sqlx::query(
        "INSERT INTO image_observed (image_id, tenant_id, project_id, observed, reported_at)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(image.id())
    .bind(tenant)
    .bind(project)
    .bind(Json(ImageObserved::default()))
    .bind(change.now)
    .execute(&mut *conn)
    .await?;
    let kind = if image.spec.source.is_some() { TaskKind::ImageImport } else { TaskKind::ImageUpload };
    let task = tasks::new(change, tenant, project, kind, image.subject(), Generation::FIRST);
    tasks::record(conn, change, "image.create", &task, None).await?;
    if kind == TaskKind::ImageImport {
        work::offer(tx, &task, change.now).await?;
    }
    Ok(Accepted { object: image, task })
}

/// An image that a project may use: its own, or one that its tenant shares. Its own goes first.
pub async fn get(tx: &mut impl Handle, project: ProjectId, key: &Key) -> Result<ImageView> {
    sqlx::query_as(concat!(
        view!(),
        " WHERE (x.id = $2 OR x.name = $3) AND (x.project_id = $1
            OR x.shared AND x.tenant_id = (SELECT tenant_id FROM projects WHERE id = $1))
          ORDER BY x.project_id = $1 DESC, x.id LIMIT 1"
    ))
    .bind(project)
    .bind(key.id())
    .bind(key.name())
    .fetch_optional(tx.conn())
    .await?
    .ok_or_else(|| key.missing("image"))
}

/// An image by id alone.
pub async fn get_by_id(tx: &mut impl Handle, id: ImageId) -> Result<ImageView> {
    sqlx::query_as(concat!(view!(), " WHERE x.id = $1"))
        .bind(id)
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| Key::from(id).missing("image"))
}

/// Images that a project may use, oldest first.
pub async fn list(tx: &mut impl Handle, project: ProjectId, page: &Page) -> Result<List<ImageView>> {
    let s = Selected::new(&page.selector);
    let images = sqlx::query_as(concat!(
        view!(),
        " WHERE x.id > $1 AND (x.project_id = $8
            OR x.shared AND x.tenant_id = (SELECT tenant_id FROM projects WHERE id = $8))",
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
    .await?;
    Ok(page.cut(images, |i: &ImageView| i.image.metadata.id))
}

/// Asks for an image's deletion. Refused while volumes or optical discs use it; nothing uses it from now on.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Accepted<Image>> {
    let tenant = tx.tenant();
    let conn = tx.conn();
    // FOR UPDATE waits for everybody who holds the image by `hold_image`; they are seen by the next statement.
    let old: Image = row::keyed(
        &mut *conn,
        row::keyed_select!("images", " FOR UPDATE", columns!()),
        project,
        key,
        "image",
    )
    .await?;
    change::expect(expected, old.metadata.generation)?;
    if let Some(task) = tasks::deletion(conn, "image", &old.metadata, TaskKind::ImageDelete).await? {
        return Ok(Accepted { task, object: old });
    }
    let by = users(conn, old.id()).await?;
    if !by.is_empty() {
        return Err(Error::InUse { kind: "image", name: old.metadata.name.to_string(), by });
    }
    let image: Image = sqlx::query_as(row::deleting!("images", columns!()))
        .bind(old.id())
        .bind(change.now)
        .fetch_one(&mut *conn)
        .await?;
    let generation = image.metadata.generation;
    let task = tasks::new(change, tenant, project, TaskKind::ImageDelete, image.subject(), generation);
    tasks::record(conn, change, "image.delete", &task, None).await?;
    Ok(Accepted { object: image, task })
}

/// Turns back the declaration of an image whose bytes did not come to be: it goes.
pub(crate) async fn turn_back(tx: &mut TenantTx, change: &Change, task: &Task) -> Result<()> {
    let id = ImageId(task.subject.id);
    let Some(project) = task.project_id else { return Ok(()) };
    match get_by_id(tx, id).await {
        Ok(view) if view.facts.observed.state == ImageState::Ready => return Ok(()),
        // It goes already.
        Ok(view) if view.image.metadata.deletion_requested_at.is_some() => return Ok(()),
        Err(Error::NotFound { .. }) => return Ok(()),
        other => other?,
    };
    delete(tx, change, project, &Key::from(id), None).await?;
    Ok(())
}

async fn users(conn: &mut PgConnection, id: ImageId) -> Result<Vec<String>> {
    let by = sqlx::query_scalar(
        "SELECT 'volume/' || name FROM volumes WHERE image_id = $1
         UNION ALL
         SELECT 'vm/' || name FROM vms WHERE disks::jsonb @> jsonb_build_array(jsonb_build_object('iso_image_id', $1))
         LIMIT 10",
    )
    .bind(id)
    .fetch_all(conn)
    .await?;
    Ok(by)
}

/// Removes an image whose deletion was asked for, once it is on no host.
pub async fn finalize(tx: &mut SystemTx, id: ImageId, now: DateTime) -> Result<Finalized> {
    let conn = tx.conn();
    match manifests::may_go(conn, row::going!("images"), id.0).await? {
        None => return Ok(Finalized::Done),
        Some(true) if users(conn, id).await?.is_empty() => {}
        Some(_) => return Ok(Finalized::Waiting),
    }
    for statement in [
        "DELETE FROM conditions WHERE subject_id = $1",
        "DELETE FROM image_observed WHERE image_id = $1",
        "DELETE FROM images WHERE id = $1",
    ] {
        sqlx::query(statement).bind(id).execute(&mut *conn).await?;
    }
    tasks::end_all(conn, id.0, TaskKind::ImageDelete, now).await?;
    Ok(Finalized::Done)
}

/// An image that a disk or volume can begin with.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Usable {
    pub id: ImageId,
    pub name: Name,
    pub format: ImageFormat,
    pub own: bool,
    pub going: bool,
    pub observed: ImageObserved,
    #[serde(skip)]
    pub virtual_size_bytes: u64,
}

/// Checks that an image may be used for a disk (or, with `iso`, for an optical disc).
pub(crate) fn check(found: Option<Usable>, name: &Name, iso: bool, field: &str) -> Result<Usable> {
    let mut image = found.ok_or_else(|| Error::ReferenceNotFound {
        kind: "image",
        name: name.clone(),
        field: field.to_string(),
    })?;
    let state = if image.going { ImageState::Deleting } else { image.observed.state };
    if state != ImageState::Ready {
        return Err(Error::ImageNotReady { image: name.clone(), state, field: field.to_string() });
    }
    if (image.format == ImageFormat::Iso) != iso {
        let format = row::word(&image.format)?;
        return Err(Error::ImageWrongFormat { image: name.clone(), format, field: field.to_string() });
    }
    image.virtual_size_bytes = image.observed.virtual_size_bytes;
    Ok(image)
}

pub(crate) async fn usable(
    conn: &mut PgConnection,
    project: ProjectId,
    name: &Name,
    iso: bool,
    field: &str,
) -> Result<Usable> {
    let row = sqlx::query(
        "SELECT jsonb_build_object('id', i.id, 'name', i.name, 'format', i.spec -> 'format',
            'own', i.project_id = $1, 'going', i.deletion_requested_at IS NOT NULL, 'observed', o.observed) AS image
         FROM images i JOIN image_observed o ON o.image_id = i.id
         WHERE i.name = $2 AND (i.project_id = $1 OR i.shared) ORDER BY i.project_id = $1 DESC, i.id LIMIT 1",
    )
    .bind(project)
    .bind(name)
    .fetch_optional(conn)
    .await?;
    let found = row.map(|row| row::json(&row, "image")).transpose()?;
    check(found, name, iso, field)
}

/// Keeps an image from being deleted until this transaction ends.
pub(crate) async fn hold(conn: &mut PgConnection, id: ImageId) -> Result<()> {
    sqlx::query("SELECT hold_image($1)").bind(id).execute(conn).await.map_err(|e| {
        named(e, |c| (c == "image_going").then(|| Error::Deleting { kind: "image", name: id.to_string() }))
    })?;
    Ok(())
}
