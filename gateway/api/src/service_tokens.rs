//! Service tokens: what programs use. A token never does more than its maker may.

use crate::{
    App, Error,
    authentication::{Permit, token_hash, token_text},
    body::{Json, NoBody},
    pages,
    query::{ListParams, NoParams, Query},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
};
use basalt_daemon::Clock;
use basalt_model::{
    FieldError, Name, ServiceTokenId,
    roles::{Grant, Role, Scope},
    tasks::Actor,
};
use basalt_store::{Change, Store, SystemTx, role_bindings, service_tokens};
use basalt_wire::rest::{CreateServiceToken, IssuedToken, Page, ServiceToken};
use chrono::TimeDelta;
use std::sync::Arc;

/// Lists the service tokens, without the tokens themselves: nobody has those but their holders.
#[utoipa::path(get, path = "/v1/service-tokens", tag = "people", params(ListParams),
    responses((status = 200, body = Page<ServiceToken>), crate::openapi::Problems))]
pub async fn list_service_tokens(
    State(app): State<App>,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<ServiceToken>>, Error> {
    let mut tx = app.store.system_read().await?;
    let list = service_tokens::list(&mut tx, &pages::range(&params)?).await?;
    let mut items = Vec::with_capacity(list.items.len());
    for token in list.items {
        let grants = role_bindings::grants(&mut tx, token.id.0).await?;
        items.push(view(token, grants));
    }
    Ok(Answer(Page { items, next_cursor: list.next.map(crate::query::cursor) }))
}

/// Makes a token for a program. The answer shows it once.
#[utoipa::path(post, path = "/v1/service-tokens", tag = "people", request_body = CreateServiceToken,
    responses((status = 201, body = IssuedToken), crate::openapi::Problems))]
pub async fn create_service_token(
    State(app): State<App>,
    permit: Permit,
    _: Query<NoParams>,
    Json { value, .. }: Json<CreateServiceToken>,
) -> Result<(StatusCode, Answer<IssuedToken>), Error> {
    if !(1..=366).contains(&value.expires_in_days) {
        return Err(Error::Invalid(vec![FieldError::new(
            "expires_in_days",
            "out_of_range",
            format!("{} days is outside 1 to 366", value.expires_in_days),
            "give a number of days between 1 and 366",
        )]));
    }
    if value.grants.is_empty() {
        return Err(Error::Invalid(vec![FieldError::new(
            "grants",
            "required",
            "a token without grants can do nothing",
            "give at least one grant",
        )]));
    }
    for grant in &value.grants {
        permit.demand_grant(&app, grant).await?;
    }
    let mut tx = app.store.system().await?;
    let days = TimeDelta::days(value.expires_in_days.into());
    let issued =
        issue(&mut tx, &permit.change(&app), app.clock.secret(), &value.name, &value.grants, days).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Answer(issued)))
}

/// Revokes a token; requests that carry it are refused within seconds, and its watches end.
#[utoipa::path(delete, path = "/v1/service-tokens/{token}", tag = "people", params(("token" = ServiceTokenId, Path, description = "Id")),
    responses((status = 204, description = "Revoked"), crate::openapi::Problems))]
pub async fn revoke_service_token(
    State(app): State<App>,
    permit: Permit,
    Path(token): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<StatusCode, Error> {
    let id = token.parse().map_err(|_| Error::not_found("service token", &token))?;
    let mut tx = app.store.system().await?;
    service_tokens::revoke(&mut tx, &permit.change(&app), id).await?;
    tx.commit().await?;
    app.tokens.forget();
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a token with a role in the whole system, for who already rules the machine that the
/// gateway runs on.
pub async fn create_local(
    store: &Store,
    clock: &Arc<dyn Clock>,
    name: Name,
    role: Role,
    days: u32,
) -> Result<IssuedToken, Error> {
    let ids_clock = clock.clone();
    let change = Change {
        actor: Actor::system("local-administrator"),
        request_id: None,
        now: clock.now(),
        ids: Arc::new(move || ids_clock.new_id()),
    };
    let mut tx = store.system().await?;
    let grants = [Grant { role, scope: Scope::System }];
    let issued =
        issue(&mut tx, &change, clock.secret(), &name, &grants, TimeDelta::days(days.into())).await?;
    tx.commit().await?;
    Ok(issued)
}

async fn issue(
    tx: &mut SystemTx,
    change: &Change,
    secret: [u8; 32],
    name: &Name,
    grants: &[Grant],
    life: TimeDelta,
) -> Result<IssuedToken, Error> {
    let token = token_text(secret);
    let expires_at = change.now + life;
    let hash = token_hash(&token);
    let new = service_tokens::New { name, hash: &hash, user_id: None, expires_at };
    let made = service_tokens::insert(tx, change, &new).await?;
    for grant in grants {
        role_bindings::insert(tx, change, made.id.0, *grant).await?;
    }
    Ok(IssuedToken { id: made.id, token, expires_at })
}

fn view(token: service_tokens::ServiceToken, grants: Vec<Grant>) -> ServiceToken {
    ServiceToken {
        id: token.id,
        name: token.name,
        grants,
        created_at: token.created_at,
        expires_at: token.expires_at,
        revoked_at: token.revoked_at,
    }
}
