//! Pools: storage of the hosts, as they reported it. Read only.

use crate::{
    App, Error, pages,
    query::{NoParams, Query, limit, read_cursor},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
};
use basalt_model::HostId;
use basalt_store::{Key, hosts, pools};
use basalt_wire::rest::{Page, Pool};
use serde::Deserialize;
use utoipa::IntoParams;

/// Which pools to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PoolParams {
    /// Objects on a page, 1 to 500; 100 when nothing is said.
    #[serde(default)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Only those of this host: name or id.
    #[serde(default)]
    pub host: Option<String>,
}

/// Lists the pools of all hosts, or of one.
#[utoipa::path(get, path = "/v1/pools", tag = "hosts", params(PoolParams),
    responses((status = 200, body = Page<Pool>), crate::openapi::Problems))]
pub async fn list_pools(
    State(app): State<App>,
    Query(params): Query<PoolParams>,
) -> Result<Answer<Page<Pool>>, Error> {
    let after = params.cursor.as_deref().map(read_cursor).transpose()?;
    let range = basalt_store::Page { limit: limit(params.limit)?, after, ..Default::default() };
    let mut tx = app.store.system_read().await?;
    let host = match &params.host {
        None => None,
        Some(text) => Some(HostId(hosts::get(&mut tx, &Key::parse("host", text)?).await?.host.metadata.id)),
    };
    let list = pools::list(&mut tx, host, &range).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Shows a pool, by its id: names are unique on their host only.
#[utoipa::path(get, path = "/v1/pools/{pool}", tag = "hosts", params(("pool" = uuid::Uuid, Path, description = "Id")),
    responses((status = 200, body = Pool), crate::openapi::Problems))]
pub async fn get_pool(
    State(app): State<App>,
    Path(pool): Path<String>,
    _: Query<NoParams>,
) -> Result<Answer<Pool>, Error> {
    let id: uuid::Uuid = pool.parse().map_err(|_| Error::not_found("pool", &pool))?;
    let mut tx = app.store.system_read().await?;
    let found = pools::list(&mut tx, None, &pages::just(id)).await?.items.pop();
    Ok(Answer(view(found.filter(|p| p.id.0 == id).ok_or_else(|| Error::not_found("pool", &pool))?)))
}

/// The pool as it is shown.
pub fn view(pool: pools::Pool) -> Pool {
    Pool {
        id: pool.id,
        host_id: pool.host_id,
        host: pool.host,
        facts: pool.facts,
        claimed_bytes: pool.claimed_bytes,
        updated_at: pool.updated_at,
    }
}
