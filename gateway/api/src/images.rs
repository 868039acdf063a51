//! Images: declare, read, delete.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    intent::{self, Intent},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use basalt_model::{
    ImageId, TransferId,
    images::{ImageObserved, ImageSpec, ImageState},
};
use basalt_store::{
    Key, New,
    image_transfers::{self, Direction, Transfer},
    images::{self, ImageView},
};
use basalt_wire::{
    rest::{Accepted, Create, Image, Page, Phase, TransferGrant},
    upload_token::{self, Claims, Verb},
};
use chrono::TimeDelta;

/// Minutes for which a token to upload or download can be redeemed.
const GRANT_MINUTES: i64 = 60;

/// Lists the images of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/images", tag = "images",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Image>), crate::openapi::Problems))]
pub async fn list_images(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Image>>, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = images::list(&mut tx, project.id, &pages::range(&params)?).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Declares an image.
#[utoipa::path(post, path = "/v1/projects/{project}/images", tag = "images", request_body = Create<ImageSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Image>), (status = 200, description = "Dry run", body = Accepted<Image>), crate::openapi::Problems))]
pub async fn create_image(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Create<ImageSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    let made = images::insert(&mut writing.tx, &writing.change, writing.project.id, &new).await?;
    answer(writing, made).await
}

/// Shows an image.
#[utoipa::path(get, path = "/v1/projects/{project}/images/{image}", tag = "images",
    params(("project" = String, Path, description = "Name or id"), ("image" = String, Path, description = "Name or id")),
    responses((status = 200, body = Image), crate::openapi::Problems))]
pub async fn get_image(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let key = Key::parse("image", &name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = images::get(&mut tx, project.id, &key).await?;
    Ok(intent::shown(found.image.metadata.generation, view(found)))
}

/// Asks for an image's deletion; refused while something uses it.
#[utoipa::path(delete, path = "/v1/projects/{project}/images/{image}", tag = "images",
    params(("project" = String, Path, description = "Name or id"), ("image" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Image>), (status = 200, description = "Dry run", body = Accepted<Image>), crate::openapi::Problems))]
pub async fn delete_image(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse("image", &name)?;
    let mut writing = intent.begin(&app, b"").await?;
    let changed =
        images::delete(&mut writing.tx, &writing.change, writing.project.id, &key, writing.expected).await?;
    answer(writing, changed).await
}

/// Answers a change with the image as it stands, facts included.
async fn answer(
    mut writing: intent::Writing,
    changed: basalt_store::Accepted<images::Image>,
) -> Result<Response, Error> {
    let id = changed.object.metadata.id;
    let found = images::get(&mut writing.tx, writing.project.id, &Key::Id(id)).await?;
    writing.accept(view(found), changed.task).await
}

/// Gives a token that lets one upload of the image's bytes begin.
#[utoipa::path(post, path = "/v1/projects/{project}/images/{image}/upload", tag = "images",
    params(("project" = String, Path, description = "Name or id"), ("image" = String, Path, description = "Name or id")),
    responses((status = 201, body = TransferGrant), crate::openapi::Problems))]
pub async fn begin_upload(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<(StatusCode, Answer<TransferGrant>), Error> {
    let project = permit.project()?;
    let key = Key::parse("image", &name)?;
    let mut tx = app.store.tenant(project.tenant_id).await?;
    let found = images::get(&mut tx, project.id, &key).await?;
    let image = &found.image;
    // An image of another project may be seen and used, not filled.
    if image.metadata.project_id != Some(project.id) {
        return Err(Error::not_found("image", name));
    }
    let change = permit.change(&app);
    let id = ImageId(image.metadata.id);
    let size_bytes = image_transfers::expected_bytes(image)?;
    let claims = Claims {
        key_id: app.images.keys.signing_key_id(),
        transfer_id: TransferId(app.clock.new_id()),
        verb: Verb::Upload,
        image_id: id,
        tenant_id: project.tenant_id,
        project_id: project.id,
        format: image.spec.format,
        size_bytes,
        sha256: image.spec.sha256.clone(),
        expires_at: change.now + TimeDelta::minutes(GRANT_MINUTES),
    };
    let transfer = Transfer {
        id: claims.transfer_id,
        direction: Direction::Upload,
        host_id: None,
        expires_at: claims.expires_at,
    };
    image_transfers::begin_upload(&mut tx, &change, claims.image_id, &transfer).await?;
    tx.commit().await?;
    let url = format!("{}/files", app.images.public_url.trim_end_matches('/'));
    Ok((StatusCode::CREATED, Answer(grant(&app, url, &claims)?)))
}

/// Signs what a transfer may do.
pub fn grant(app: &App, url: String, claims: &Claims) -> Result<TransferGrant, Error> {
    let token =
        upload_token::mint(&app.images.keys, claims).map_err(|e| Error::internal("signing a transfer", e))?;
    Ok(TransferGrant { url, token, expires_at: claims.expires_at })
}

/// The image as it is shown.
pub fn view(v: ImageView) -> Image {
    show(v.image, v.facts.observed)
}

/// An image of which nothing was reported yet.
pub fn awaited(image: images::Image) -> Image {
    show(image, ImageObserved::default())
}

fn show(image: images::Image, observed: ImageObserved) -> Image {
    let phase = match (image.metadata.deletion_requested_at, observed.state) {
        (Some(_), _) | (None, ImageState::Deleting) => Phase::Deleting,
        (None, ImageState::Uploading | ImageState::Verifying) => Phase::Pending,
        (None, ImageState::Ready) => Phase::Ready,
        (None, ImageState::Failed) => Phase::Failed,
    };
    Image { metadata: image.metadata, spec: image.spec, phase, observed }
}
