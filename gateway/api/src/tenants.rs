//! Tenants: the wall of isolation.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json},
    intent, pages,
    query::{ListParams, NoParams, Query},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use basalt_model::{TenantId, roles::Scope};
use basalt_store::{Error as StoreError, Key, List, tenants};
use basalt_wire::rest::{Create, EmptySpec, Page, Tenant};

/// Lists the tenants that the caller may read.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants", params(ListParams),
    responses((status = 200, body = Page<Tenant>), crate::openapi::Problems))]
pub async fn list_tenants(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Tenant>>, Error> {
    let range = pages::range(&params)?;
    let mut lists = Vec::new();
    for scope in permit.scopes() {
        match scope {
            Scope::System => lists.push(tenants::list(&mut app.store.system_read().await?, &range).await?),
            Scope::Tenant { tenant_id } => {
                let mut tx = app.store.tenant_read(tenant_id).await?;
                lists.push(tenants::list(&mut tx, &range).await?);
            }
            // A role in one project tells nothing of the tenant around it.
            Scope::Project { .. } => lists.push(List { items: Vec::new(), next: None }),
        }
    }
    let list = pages::merged(lists, range.limit, |t: &tenants::Tenant| t.metadata.id);
    Ok(Answer(pages::shown(list, view)))
}

/// Makes a tenant.
#[utoipa::path(post, path = "/v1/tenants", tag = "tenants", request_body = Create<EmptySpec>,
    responses((status = 201, body = Tenant), crate::openapi::Problems))]
pub async fn create_tenant(
    State(app): State<App>,
    permit: Permit,
    _: Query<NoParams>,
    Json { value, .. }: Json<Create<EmptySpec>>,
) -> Result<(StatusCode, Answer<Tenant>), Error> {
    body::check(&[(&value.labels, "labels")])?;
    let mut tx = app.store.system().await?;
    let made = tenants::insert(&mut tx, &permit.change(&app), &value.name, &value.labels).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Answer(view(made))))
}

/// Shows a tenant.
#[utoipa::path(get, path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path, description = "Name or id")),
    responses((status = 200, body = Tenant), crate::openapi::Problems))]
pub async fn get_tenant(
    State(app): State<App>,
    permit: Permit,
    Path(tenant): Path<String>,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let found = find(&app, &tenant).await?;
    permit.demand(&Scope::Tenant { tenant_id: TenantId(found.metadata.id) }, "tenant", &tenant)?;
    Ok(intent::shown(found.metadata.generation, view(found)))
}

/// Finds a tenant by name or id, whoever asks: the caller's right must be demanded afterwards.
pub async fn find(app: &App, text: &str) -> Result<tenants::Tenant, Error> {
    let unknown = || Error::not_found("tenant", text);
    let key = Key::parse("tenant", text).map_err(|_| unknown())?;
    match tenants::get(&mut app.store.system_read().await?, &key).await {
        Err(StoreError::NotFound { .. }) => Err(unknown()),
        other => Ok(other?),
    }
}

/// The tenant as it is shown.
pub fn view(tenant: tenants::Tenant) -> Tenant {
    Tenant { metadata: tenant.metadata }
}
