//! Routers: declare, read, change, delete.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    intent::{self, Intent},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use basalt_model::{ConditionStatus, routers::RouterSpec};
use basalt_store::{
    Key, New,
    routers::{self, RouterView},
};
use basalt_wire::rest::{Accepted, Create, Page, Phase, Router, RouterHost, Update};

/// Lists the routers of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/routers", tag = "routers",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Router>), crate::openapi::Problems))]
pub async fn list_routers(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Router>>, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = routers::list(&mut tx, project.id, &pages::range(&params)?).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Declares a router.
#[utoipa::path(post, path = "/v1/projects/{project}/routers", tag = "routers", request_body = Create<RouterSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Router>), (status = 200, description = "Dry run", body = Accepted<Router>), crate::openapi::Problems))]
pub async fn create_router(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Create<RouterSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    let made = routers::insert(&mut writing.tx, &writing.change, writing.project.id, &new).await?;
    answer(writing, made).await
}

/// Shows a router.
#[utoipa::path(get, path = "/v1/projects/{project}/routers/{router}", tag = "routers",
    params(("project" = String, Path, description = "Name or id"), ("router" = String, Path, description = "Name or id")),
    responses((status = 200, body = Router), crate::openapi::Problems))]
pub async fn get_router(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let key = Key::parse("router", &name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = routers::get(&mut tx, project.id, &key).await?;
    Ok(intent::shown(found.router.metadata.generation, view(found)))
}

/// Changes what is wanted of a router.
#[utoipa::path(put, path = "/v1/projects/{project}/routers/{router}", tag = "routers", request_body = Update<RouterSpec>,
    params(("project" = String, Path, description = "Name or id"), ("router" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 200, body = Router), crate::openapi::Problems))]
pub async fn update_router(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    Json { value, bytes }: Json<Update<RouterSpec>>,
) -> Result<Response, Error> {
    body::check_update(&value)?;
    let key = Key::parse("router", &name)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let update = basalt_store::Update { expected: writing.expected, labels: value.labels, spec: value.spec };
    let changed =
        routers::update(&mut writing.tx, &writing.change, writing.project.id, &key, &update).await?;
    let found = routers::get(&mut writing.tx, writing.project.id, &Key::Id(changed.metadata.id)).await?;
    writing.answer(StatusCode::OK, None, &view(found)).await
}

/// Asks for a router's deletion.
#[utoipa::path(delete, path = "/v1/projects/{project}/routers/{router}", tag = "routers",
    params(("project" = String, Path, description = "Name or id"), ("router" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Router>), (status = 200, description = "Dry run", body = Accepted<Router>), crate::openapi::Problems))]
pub async fn delete_router(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse("router", &name)?;
    let mut writing = intent.begin(&app, b"").await?;
    let changed =
        routers::delete(&mut writing.tx, &writing.change, writing.project.id, &key, writing.expected).await?;
    answer(writing, changed).await
}

/// Answers a change with the router as it stands, facts included.
async fn answer(
    mut writing: intent::Writing,
    changed: basalt_store::Accepted<routers::Router>,
) -> Result<Response, Error> {
    let id = changed.object.metadata.id;
    let found = routers::get(&mut writing.tx, writing.project.id, &Key::Id(id)).await?;
    writing.accept(view(found), changed.task).await
}

/// The router as it is shown.
pub fn view(v: RouterView) -> Router {
    let routes = v.conditions.iter().any(|c| c.kind == "Ready" && c.status == ConditionStatus::True);
    let phase = match v.router.metadata.deletion_requested_at {
        Some(_) => Phase::Deleting,
        None if routes => Phase::Ready,
        None => Phase::Pending,
    };
    let host =
        |p: routers::Placement| RouterHost { host_id: p.host_id, host: p.host, preferred: p.slot == 0 };
    Router {
        metadata: v.router.metadata,
        spec: v.router.spec,
        phase,
        wiring: v.router.wiring,
        hosts: v.placements.into_iter().map(host).collect(),
        conditions: v.conditions,
    }
}
