//! Hosts: made known by an operator, enrolled by their agent, kept by their labels and spec.

use crate::{
    App, Error,
    authentication::{Permit, token_hash, token_text},
    body::{self, Json, NoBody},
    intent, pages,
    query::{IfMatch, ListParams, NoParams, Query},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use basalt_model::{
    DateTime, HostId,
    hosts::{HostSpec, state},
};
use basalt_store::{
    Change, Key, New, SystemTx,
    hosts::{self, HostView},
};
use basalt_wire::rest::{Create, Host, JoinToken, Page, Update};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Minutes for which a join token can be used.
const JOIN_MINUTES: i64 = 60;

/// A host that was made known, and the token that enrols it.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedHost {
    /// The host.
    pub host: Host,
    /// Shown once.
    pub join_token: JoinToken,
}

/// Lists the hosts.
#[utoipa::path(get, path = "/v1/hosts", tag = "hosts", params(ListParams),
    responses((status = 200, body = Page<Host>), crate::openapi::Problems))]
pub async fn list_hosts(
    State(app): State<App>,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Host>>, Error> {
    let mut tx = app.store.system_read().await?;
    let list = hosts::list(&mut tx, &pages::range(&params)?).await?;
    let now = app.clock.now();
    Ok(Answer(pages::shown(list, |h| view(h, Some(now)))))
}

/// Makes a host known, and gives the token that enrols its agent.
#[utoipa::path(post, path = "/v1/hosts", tag = "hosts", request_body = Create<HostSpec>,
    responses((status = 201, body = CreatedHost), crate::openapi::Problems))]
pub async fn create_host(
    State(app): State<App>,
    permit: Permit,
    _: Query<NoParams>,
    Json { value, .. }: Json<Create<HostSpec>>,
) -> Result<(StatusCode, Answer<CreatedHost>), Error> {
    body::check_create(&value)?;
    let change = permit.change(&app);
    let mut tx = app.store.system().await?;
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    let host = hosts::insert(&mut tx, &change, &new).await?;
    let id = HostId(host.metadata.id);
    let join_token = put_join_token(&app, &mut tx, &change, id).await?;
    let found = hosts::get(&mut tx, &Key::Id(id.0)).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Answer(CreatedHost { host: view(found, Some(change.now)), join_token })))
}

/// Shows a host.
#[utoipa::path(get, path = "/v1/hosts/{host}", tag = "hosts", params(("host" = String, Path, description = "Name or id")),
    responses((status = 200, body = Host), crate::openapi::Problems))]
pub async fn get_host(
    State(app): State<App>,
    Path(host): Path<String>,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let mut tx = app.store.system_read().await?;
    let found = hosts::get(&mut tx, &Key::parse("host", &host)?).await?;
    Ok(intent::shown(found.host.metadata.generation, view(found, Some(app.clock.now()))))
}

/// Changes what is wanted of a host: maintenance, overcommit, reserved memory, labels.
#[utoipa::path(put, path = "/v1/hosts/{host}", tag = "hosts", request_body = Update<HostSpec>,
    params(("host" = String, Path, description = "Name or id")),
    responses((status = 200, body = Host), crate::openapi::Problems))]
pub async fn update_host(
    State(app): State<App>,
    permit: Permit,
    Path(host): Path<String>,
    IfMatch(expected): IfMatch,
    _: Query<NoParams>,
    Json { value, .. }: Json<Update<HostSpec>>,
) -> Result<Response, Error> {
    body::check_update(&value)?;
    let key = Key::parse("host", &host)?;
    let mut tx = app.store.system().await?;
    let update = basalt_store::Update { expected, labels: value.labels, spec: value.spec };
    hosts::update(&mut tx, &permit.change(&app), &key, &update).await?;
    let found = hosts::get(&mut tx, &key).await?;
    tx.commit().await?;
    Ok(intent::shown(found.host.metadata.generation, view(found, Some(app.clock.now()))))
}

/// Asks for a host's removal; refused while VMs are placed on it.
#[utoipa::path(delete, path = "/v1/hosts/{host}", tag = "hosts", params(("host" = String, Path, description = "Name or id")),
    responses((status = 204, description = "It goes"), crate::openapi::Problems))]
pub async fn delete_host(
    State(app): State<App>,
    permit: Permit,
    Path(host): Path<String>,
    IfMatch(expected): IfMatch,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<StatusCode, Error> {
    let mut tx = app.store.system().await?;
    hosts::delete(&mut tx, &permit.change(&app), &Key::parse("host", &host)?, expected).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a new join token; one that was given before is void.
#[utoipa::path(post, path = "/v1/hosts/{host}/join-token", tag = "hosts", params(("host" = String, Path, description = "Name or id")),
    responses((status = 201, body = JoinToken), crate::openapi::Problems))]
pub async fn create_join_token(
    State(app): State<App>,
    permit: Permit,
    Path(host): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<(StatusCode, Answer<JoinToken>), Error> {
    let mut tx = app.store.system().await?;
    let found = hosts::get(&mut tx, &Key::parse("host", &host)?).await?;
    let token = put_join_token(&app, &mut tx, &permit.change(&app), HostId(found.host.metadata.id)).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Answer(token)))
}

/// Revokes every certificate of a host; its agent is refused until it enrols anew. Its VMs run on.
#[utoipa::path(post, path = "/v1/hosts/{host}/revoke", tag = "hosts", params(("host" = String, Path, description = "Name or id")),
    responses((status = 204, description = "Revoked"), crate::openapi::Problems))]
pub async fn revoke_host(
    State(app): State<App>,
    permit: Permit,
    Path(host): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<StatusCode, Error> {
    let mut tx = app.store.system().await?;
    let found = hosts::get(&mut tx, &Key::parse("host", &host)?).await?;
    hosts::revoke(&mut tx, &permit.change(&app), HostId(found.host.metadata.id)).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn put_join_token(
    app: &App,
    tx: &mut SystemTx,
    change: &Change,
    host_id: HostId,
) -> Result<JoinToken, Error> {
    let token = token_text(app.clock.secret());
    let expires_at = change.now + TimeDelta::minutes(JOIN_MINUTES);
    hosts::put_join_token(tx, change, host_id, &token_hash(&token), expires_at).await?;
    Ok(JoinToken { host_id, token, expires_at })
}

/// The host as it is shown. Without a time to judge by, as on a watch where silence is no event, the
/// state is that of the last sign of life.
pub fn view(v: HostView, now: Option<DateTime>) -> Host {
    let removed = v.host.metadata.deletion_requested_at.is_some();
    let judged_at = now.or(v.seen_at).unwrap_or(v.host.metadata.updated_at);
    Host {
        state: state(&v.host.spec, v.facts.as_ref(), v.seen_at, removed, judged_at),
        metadata: v.host.metadata,
        spec: v.host.spec,
        facts: v.facts,
        seen_at: v.seen_at,
        claimed: v.claimed,
        conditions: v.conditions,
    }
}
