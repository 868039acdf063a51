//! Secrets: kept encrypted, named by others, replaced and forgotten; a value is never answered.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    intent::{self, Intent},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use basalt_model::secrets::SecretSpec;
use basalt_store::{Key, New, secrets};
use basalt_wire::rest::{Create, Page, Secret, Update};

const KIND: &str = "secret";

/// Lists the secrets of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/secrets", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Secret>), crate::openapi::Problems))]
pub async fn list_secrets(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Secret>>, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = secrets::list(&mut tx, project.id, &pages::range(&params)?).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Keeps a secret.
#[utoipa::path(post, path = "/v1/projects/{project}/secrets", tag = "deployments", request_body = Create<SecretSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 201, body = Secret), crate::openapi::Problems))]
pub async fn create_secret(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Create<SecretSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    let project = writing.project.id;
    let made = secrets::insert(&mut writing.tx, &writing.change, project, &new, &app.sealing_keys).await?;
    writing.answer(StatusCode::CREATED, None, &view(made)).await
}

/// Shows a secret, without its value.
#[utoipa::path(get, path = "/v1/projects/{project}/secrets/{secret}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("secret" = String, Path, description = "Name or id")),
    responses((status = 200, body = Secret), crate::openapi::Problems))]
pub async fn get_secret(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let key = Key::parse(KIND, &name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = secrets::get(&mut tx, project.id, &key).await?;
    Ok(intent::shown(found.metadata.generation, view(found)))
}

/// Replaces a secret's value.
#[utoipa::path(put, path = "/v1/projects/{project}/secrets/{secret}", tag = "deployments", request_body = Update<SecretSpec>,
    params(("project" = String, Path, description = "Name or id"), ("secret" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 200, body = Secret), crate::openapi::Problems))]
pub async fn update_secret(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    Json { value, bytes }: Json<Update<SecretSpec>>,
) -> Result<Response, Error> {
    body::check_update(&value)?;
    let key = Key::parse(KIND, &name)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let update = basalt_store::Update { expected: writing.expected, labels: value.labels, spec: value.spec };
    let project = writing.project.id;
    let changed =
        secrets::update(&mut writing.tx, &writing.change, project, &key, &update, &app.sealing_keys).await?;
    writing.answer(StatusCode::OK, None, &view(changed)).await
}

/// Forgets a secret; refused while a provider gets in with it.
#[utoipa::path(delete, path = "/v1/projects/{project}/secrets/{secret}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("secret" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 200, body = Secret), crate::openapi::Problems))]
pub async fn delete_secret(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse(KIND, &name)?;
    let mut writing = intent.begin(&app, b"").await?;
    let project = writing.project.id;
    let gone = secrets::delete(&mut writing.tx, &writing.change, project, &key, writing.expected).await?;
    writing.answer(StatusCode::OK, None, &view(gone)).await
}

/// The secret as it is shown.
pub fn view(secret: secrets::Secret) -> Secret {
    Secret { metadata: secret.metadata }
}
