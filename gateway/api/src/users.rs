//! Users: people who sign in with a name and a password.

use crate::{
    App, Error,
    authentication::Permit,
    body::{Json, NoBody},
    pages,
    query::{ListParams, NoParams, Query},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
};
use basalt_model::roles::Grant;
use basalt_store::{Key, role_bindings, users};
use basalt_wire::rest::{CreateUser, Page, User};

/// Lists the users.
#[utoipa::path(get, path = "/v1/users", tag = "people", params(ListParams),
    responses((status = 200, body = Page<User>), crate::openapi::Problems))]
pub async fn list_users(
    State(app): State<App>,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<User>>, Error> {
    let mut tx = app.store.system_read().await?;
    let list = users::list(&mut tx, &pages::range(&params)?).await?;
    let mut items = Vec::with_capacity(list.items.len());
    for user in list.items {
        let grants = role_bindings::grants(&mut tx, user.id.0).await?;
        items.push(view(user, grants));
    }
    Ok(Answer(Page { items, next_cursor: list.next.map(crate::query::cursor) }))
}

/// Makes a person known; they may do nothing until a role is bound.
#[utoipa::path(post, path = "/v1/users", tag = "people", request_body = CreateUser,
    responses((status = 201, body = User), crate::openapi::Problems))]
pub async fn create_user(
    State(app): State<App>,
    permit: Permit,
    _: Query<NoParams>,
    Json { value, .. }: Json<CreateUser>,
) -> Result<(StatusCode, Answer<User>), Error> {
    let hash = app.passwords.hash(value.password, app.clock.secret()).await?;
    let mut tx = app.store.system().await?;
    let user = users::insert(&mut tx, &permit.change(&app), &value.name, &hash).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Answer(view(user, Vec::new()))))
}

/// Shows a user.
#[utoipa::path(get, path = "/v1/users/{user}", tag = "people", params(("user" = String, Path, description = "Name or id")),
    responses((status = 200, body = User), crate::openapi::Problems))]
pub async fn get_user(
    State(app): State<App>,
    Path(user): Path<String>,
    _: Query<NoParams>,
) -> Result<Answer<User>, Error> {
    let mut tx = app.store.system_read().await?;
    let found = users::get(&mut tx, &Key::parse("user", &user)?).await?;
    let grants = role_bindings::grants(&mut tx, found.id.0).await?;
    Ok(Answer(view(found, grants)))
}

/// Removes a user with their sessions and roles.
#[utoipa::path(delete, path = "/v1/users/{user}", tag = "people", params(("user" = String, Path, description = "Name or id")),
    responses((status = 204, description = "Removed"), crate::openapi::Problems))]
pub async fn delete_user(
    State(app): State<App>,
    permit: Permit,
    Path(user): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<StatusCode, Error> {
    let mut tx = app.store.system().await?;
    users::delete(&mut tx, &permit.change(&app), &Key::parse("user", &user)?).await?;
    tx.commit().await?;
    app.tokens.forget();
    Ok(StatusCode::NO_CONTENT)
}

fn view(user: users::User, grants: Vec<Grant>) -> User {
    User { id: user.id, name: user.name, grants, created_at: user.created_at }
}
