//! Providers: declare, read, change, remove the places where deployments run.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    intent::{self, Intent},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use basalt_model::{FieldError, Name, providers::ProviderSpec};
use basalt_store::{Key, New, providers};
use basalt_wire::rest::{Create, Page, Provider, Update};

const KIND: &str = "provider";

/// Lists the providers of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/providers", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Provider>), crate::openapi::Problems))]
pub async fn list_providers(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Provider>>, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = providers::list(&mut tx, project.id, &pages::range(&params)?).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Declares a provider.
#[utoipa::path(post, path = "/v1/projects/{project}/providers", tag = "deployments", request_body = Create<ProviderSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 201, body = Provider), crate::openapi::Problems))]
pub async fn create_provider(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Create<ProviderSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    engine(&app, &value.spec)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    let project = writing.project.id;
    let made = providers::insert(&mut writing.tx, &writing.change, project, &new).await?;
    writing.answer(StatusCode::CREATED, None, &view(made)).await
}

/// Shows a provider.
#[utoipa::path(get, path = "/v1/projects/{project}/providers/{provider}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("provider" = String, Path, description = "Name or id")),
    responses((status = 200, body = Provider), crate::openapi::Problems))]
pub async fn get_provider(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let key = Key::parse(KIND, &name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = providers::get(&mut tx, project.id, &key).await?;
    Ok(intent::shown(found.metadata.generation, view(found)))
}

/// Changes how one gets to a provider. Its platform stays.
#[utoipa::path(put, path = "/v1/projects/{project}/providers/{provider}", tag = "deployments", request_body = Update<ProviderSpec>,
    params(("project" = String, Path, description = "Name or id"), ("provider" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 200, body = Provider), crate::openapi::Problems))]
pub async fn update_provider(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    Json { value, bytes }: Json<Update<ProviderSpec>>,
) -> Result<Response, Error> {
    body::check_update(&value)?;
    engine(&app, &value.spec)?;
    let key = Key::parse(KIND, &name)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let update = basalt_store::Update { expected: writing.expected, labels: value.labels, spec: value.spec };
    let project = writing.project.id;
    let changed = providers::update(&mut writing.tx, &writing.change, project, &key, &update).await?;
    writing.answer(StatusCode::OK, None, &view(changed)).await
}

/// Removes a provider.
#[utoipa::path(delete, path = "/v1/projects/{project}/providers/{provider}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("provider" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 200, body = Provider), crate::openapi::Problems))]
pub async fn delete_provider(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse(KIND, &name)?;
    let mut writing = intent.begin(&app, b"").await?;
    let project = writing.project.id;
    let gone = providers::delete(&mut writing.tx, &writing.change, project, &key, writing.expected).await?;
    writing.answer(StatusCode::OK, None, &view(gone)).await
}

/// The provider as it is shown.
pub fn view(provider: providers::Provider) -> Provider {
    Provider { metadata: provider.metadata, spec: provider.spec }
}

/// Refuses an engine that the configuration does not name, with those that it names.
fn engine(app: &App, spec: &ProviderSpec) -> Result<(), Error> {
    let ProviderSpec::Local(local) = spec else { return Ok(()) };
    if app.engines.contains(&local.engine) {
        return Ok(());
    }
    let known: Vec<&str> = app.engines.iter().map(Name::as_str).collect();
    let remedy = match &*known {
        [] => {
            "have whoever runs the gateway name one in its configuration: [engines.default] socket".to_owned()
        }
        known => format!("name one of {}", known.join(", ")),
    };
    let reason = format!("the gateway's configuration has no engine {}", local.engine);
    Err(Error::Invalid(vec![FieldError::new("spec.engine", "unknown_engine", reason, remedy)]))
}
