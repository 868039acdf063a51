//! Providers: declare, read, change, remove the places where deployments run.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    intent::{self, Intent, With},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use basalt_model::{FieldError, Name, ProviderId, providers::ProviderSpec};
use basalt_store::{Handle, Key, New, discovered, providers};
use basalt_wire::rest::{Create, Page, Provider, ProviderStatus, Update};
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::IntoParams;

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
    let ids: Vec<ProviderId> = list.items.iter().map(|p| p.id()).collect();
    let statuses = providers::statuses(&mut tx, &ids).await?;
    let mut statuses: BTreeMap<_, _> = statuses.into_iter().map(|s| (s.provider_id, s)).collect();
    Ok(Answer(pages::shown(list, |provider| {
        let status = statuses.remove(&provider.id());
        view(provider, status)
    })))
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
    check_engine(&app, &value.spec, "spec.engine")?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    let project = writing.project.id;
    let made = providers::insert(&mut writing.tx, &writing.change, project, &new).await?;
    writing.answer(StatusCode::CREATED, None, &view(made, None)).await
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
    let status = status(&mut tx, &found).await?;
    Ok(intent::shown(found.metadata.generation, view(found, status)))
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
    check_engine(&app, &value.spec, "spec.engine")?;
    let key = Key::parse(KIND, &name)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let update = basalt_store::Update { expected: writing.expected, labels: value.labels, spec: value.spec };
    let project = writing.project.id;
    let changed = providers::update(&mut writing.tx, &writing.change, project, &key, &update).await?;
    let status = status(&mut writing.tx, &changed).await?;
    writing.answer(StatusCode::OK, None, &view(changed, status)).await
}

/// What the removal of a provider may be told.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteProvider {
    /// With `true` its deployments are deleted first; it goes after them, and shows until then when that was asked for.
    #[serde(default)]
    pub cascade: bool,
}

/// Removes a provider. Refused while deployments are there, unless they are to go with it.
#[utoipa::path(delete, path = "/v1/projects/{project}/providers/{provider}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("provider" = String, Path, description = "Name or id"), WriteParams, DeleteProvider),
    responses((status = 200, body = Provider), crate::openapi::Problems))]
pub async fn delete_provider(
    State(app): State<App>,
    Named(name): Named,
    With(intent, params): With<DeleteProvider>,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse(KIND, &name)?;
    let mut w = intent.begin(&app, b"").await?;
    let project = w.project.id;
    let gone = providers::delete(&mut w.tx, &w.change, project, &key, w.expected, params.cascade).await?;
    w.answer(StatusCode::OK, None, &view(gone, None)).await
}

/// How the last looks at a provider went.
async fn status(
    tx: &mut impl Handle,
    of: &providers::Provider,
) -> Result<Option<discovered::ProviderStatus>, Error> {
    Ok(providers::statuses(tx, &[of.id()]).await?.pop())
}

/// The provider as it is shown.
pub fn view(provider: providers::Provider, status: Option<discovered::ProviderStatus>) -> Provider {
    let status = status.map(|s| ProviderStatus {
        reachable: s.error.is_none(),
        failures: u32::try_from(s.failures).unwrap_or_default(),
        error: s.error,
        // Written by another version it may say more or less than is known here.
        health: s.health.and_then(|health| serde_json::from_value(health).ok()),
        changed_at: s.changed_at,
    });
    Provider { metadata: provider.metadata, spec: provider.spec, status }
}

/// Refuses an engine that the configuration does not name, with those that it names.
pub(crate) fn check_engine(app: &App, spec: &ProviderSpec, field: &str) -> Result<(), Error> {
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
    Err(Error::Invalid(vec![FieldError::new(field, "unknown_engine", reason, remedy)]))
}
