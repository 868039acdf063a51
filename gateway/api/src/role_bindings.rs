//! Role bindings: who may do what, and where.

use crate::{
    App, Error,
    authentication::Permit,
    body::{Json, NoBody},
    pages,
    query::{NoParams, Query, limit, read_cursor},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
};
use basalt_store::role_bindings;
use basalt_wire::rest::{CreateRoleBinding, Page, RoleBinding};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

/// Which bindings to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RoleBindingParams {
    /// Objects on a page, 1 to 500; 100 when nothing is said.
    #[serde(default)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Only those of this user or token.
    #[serde(default)]
    pub principal_id: Option<Uuid>,
}

/// Lists who may do what.
#[utoipa::path(get, path = "/v1/role-bindings", tag = "people", params(RoleBindingParams),
    responses((status = 200, body = Page<RoleBinding>), crate::openapi::Problems))]
pub async fn list_role_bindings(
    State(app): State<App>,
    Query(params): Query<RoleBindingParams>,
) -> Result<Answer<Page<RoleBinding>>, Error> {
    let after = params.cursor.as_deref().map(read_cursor).transpose()?;
    let range = basalt_store::Page { limit: limit(params.limit)?, after, ..Default::default() };
    let mut tx = app.store.system_read().await?;
    let list = role_bindings::list(&mut tx, params.principal_id, &range).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Gives a role; never more than the giver has.
#[utoipa::path(post, path = "/v1/role-bindings", tag = "people", request_body = CreateRoleBinding,
    responses((status = 201, body = RoleBinding), crate::openapi::Problems))]
pub async fn create_role_binding(
    State(app): State<App>,
    permit: Permit,
    _: Query<NoParams>,
    Json { value, .. }: Json<CreateRoleBinding>,
) -> Result<(StatusCode, Answer<RoleBinding>), Error> {
    permit.demand_grant(&app, &value.grant).await?;
    let mut tx = app.store.system().await?;
    let made = role_bindings::insert(&mut tx, &permit.change(&app), value.principal_id, value.grant).await?;
    tx.commit().await?;
    app.tokens.forget();
    Ok((StatusCode::CREATED, Answer(view(made))))
}

/// Takes a role back; open watches of the principal end within seconds.
#[utoipa::path(delete, path = "/v1/role-bindings/{binding}", tag = "people", params(("binding" = Uuid, Path, description = "Id")),
    responses((status = 204, description = "Taken back"), crate::openapi::Problems))]
pub async fn delete_role_binding(
    State(app): State<App>,
    permit: Permit,
    Path(binding): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<StatusCode, Error> {
    let id = binding.parse().map_err(|_| Error::not_found("role binding", &binding))?;
    let mut tx = app.store.system().await?;
    role_bindings::delete(&mut tx, &permit.change(&app), id).await?;
    tx.commit().await?;
    app.tokens.forget();
    Ok(StatusCode::NO_CONTENT)
}

fn view(binding: role_bindings::RoleBinding) -> RoleBinding {
    RoleBinding {
        id: binding.id,
        principal_id: binding.principal_id,
        grant: binding.grant,
        created_at: binding.created_at,
    }
}
