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
    Ok(Answer(pages::shown(list, |h| shown(&app, h))))
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
    Ok((StatusCode::CREATED, Answer(CreatedHost { host: shown(&app, found), join_token })))
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
    Ok(intent::shown(found.host.metadata.generation, shown(&app, found)))
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
    Ok(intent::shown(found.host.metadata.generation, shown(&app, found)))
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

/// The host as it is now. Signs of life that were not written down yet count, and after the
/// gateway's start every lease counts as just renewed: silence while it was away says nothing.
fn shown(app: &App, mut v: HostView) -> Host {
    let id = HostId(v.host.metadata.id);
    // What is stored may be another gateway's clock; what we noticed ourselves is ours.
    v.seen_at = app.links.seen(id).or(v.seen_at.map(|at| at.min(app.clock.now())));
    let leased_at = if v.facts.is_some() { v.seen_at.max(Some(app.started_at)) } else { v.seen_at };
    judged(v, leased_at, app.clock.now())
}

/// The host as a watch shows it, where silence is no event: its state is that of the last report.
pub fn view(v: HostView) -> Host {
    let (seen_at, updated_at) = (v.seen_at, v.host.metadata.updated_at);
    judged(v, seen_at, seen_at.unwrap_or(updated_at))
}

fn judged(v: HostView, seen_at: Option<DateTime>, now: DateTime) -> Host {
    let removed = v.host.metadata.deletion_requested_at.is_some();
    Host {
        state: state(&v.host.spec, v.facts.as_ref(), seen_at, removed, now),
        metadata: v.host.metadata,
        spec: v.host.spec,
        facts: v.facts,
        seen_at: v.seen_at,
        claimed: v.claimed,
        conditions: v.conditions,
    }
}
