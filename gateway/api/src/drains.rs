//! Drains: a plan that can be looked at first, its approval, and how far it is.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json},
    explain, intent, pages,
    query::{NoParams, Query, limit, read_cursor},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use basalt_model::{
    CapabilityReason, DrainId,
    drains::{Drain, DrainPlan, DrainSpec},
};
use basalt_plan::{drains as plan, placement::HostView};
use basalt_store::{Key, drains, hosts};
use basalt_wire::rest::{Accepted, Page};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use utoipa::IntoParams;

/// Whether to look only.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DrainParams {
    /// With `true` the plan is answered, and nothing is changed.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which drains to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DrainsParams {
    /// Rows on a page, 1 to 500; 100 when nothing is said.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// Empties a host: puts it into maintenance, so that nothing new is placed on it, and migrates its VMs elsewhere, so many
/// at a time. With `dry_run` only the plan is answered: which VM goes where, why, when, and which cannot go. The task
/// completes when no VM is left, and fails with the reason of each VM that is. A drain that ended or was cancelled is gone
/// on with by another one; the maintenance ends when somebody ends it.
#[utoipa::path(post, path = "/v1/hosts/{host}/drain", tag = "hosts", request_body = DrainSpec,
    params(("host" = String, Path, description = "Name or id"), DrainParams),
    responses((status = 202, body = Accepted<Drain>), (status = 200, description = "Dry run: the plan", body = DrainPlan), crate::openapi::Problems))]
pub async fn drain_host(
    State(app): State<App>,
    permit: Permit,
    Path(host): Path<String>,
    Query(params): Query<DrainParams>,
    Json { value: spec, .. }: Json<DrainSpec>,
) -> Result<Response, Error> {
    body::check(&[(&spec, "")])?;
    let key = Key::parse("host", &host)?;
    let mut tx = app.store.system().await?;
    let found = hosts::get(&mut tx, &key).await?;
    let plan = plan_of(&app, found.host.id(), &spec)?;
    if params.dry_run {
        return Ok((StatusCode::OK, Answer(plan)).into_response());
    }
    if let Some(approved) = spec.plan.as_ref().filter(|digest| **digest != plan.digest) {
        let reason = CapabilityReason::new(
            "plan_changed",
            format!("host/{}", plan.host),
            "the plan is another one by now: VMs or hosts changed since it was made",
            "look at the plan again (dry_run) and approve that one, or leave plan out",
        )
        .with_evidence(format!("approved {approved}, now {}", plan.digest));
        let detail = reason.to_string();
        return Err(Error::Conflict { code: "plan_changed", detail, reasons: vec![reason] });
    }
    let made = drains::insert(&mut tx, &permit.change(&app), &key, &spec, &plan.moves).await?;
    tx.commit().await?;
    intent::accepted(made.object, made.task)
}

/// The plan as things stand now.
fn plan_of(app: &App, host: basalt_model::HostId, spec: &DrainSpec) -> Result<DrainPlan, Error> {
    let (hosts, leavers, peers) = app.hub.read(|rows| {
        let hosts = rows.placement_hosts(|h| explain::seen(app, h), app.clock.now());
        (hosts, rows.leavers(host), rows.placed_vms())
    });
    let source: HostView = hosts.iter().find(|h| h.id == host).cloned().ok_or_else(|| {
        Error::NotReady("the host was made known a moment ago and is not known here yet; ask again".into())
    })?;
    let mut plan = plan::plan(&source, leavers, hosts, peers, spec);
    plan.digest = digest(&plan)?;
    Ok(plan)
}

/// Sixteen hexadecimal digits that name which VM goes where and how.
fn digest(plan: &DrainPlan) -> Result<String, Error> {
    let moves: Vec<_> = plan.moves.iter().map(|m| (m.vm_id, m.mode, &m.target)).collect();
    let bytes = serde_json::to_vec(&(&plan.host, moves)).map_err(|e| Error::internal("writing a plan", e))?;
    let mut text = String::new();
    for byte in Sha256::digest(&bytes).iter().take(8) {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// Lists the drains of a host, oldest first; those that ended are kept for a while.
#[utoipa::path(get, path = "/v1/hosts/{host}/drains", tag = "hosts",
    params(("host" = String, Path, description = "Name or id"), DrainsParams),
    responses((status = 200, body = Page<Drain>), crate::openapi::Problems))]
pub async fn list_drains(
    State(app): State<App>,
    Path(host): Path<String>,
    Query(params): Query<DrainsParams>,
) -> Result<Answer<Page<Drain>>, Error> {
    let after = params.cursor.as_deref().map(read_cursor).transpose()?;
    let range = basalt_store::Page { limit: limit(params.limit)?, after, ..Default::default() };
    let mut tx = app.store.system_read().await?;
    let list = drains::list(&mut tx, &Key::parse("host", &host)?, &range).await?;
    Ok(Answer(pages::shown(list, |drain| drain)))
}

/// Shows a drain: each VM, where it goes or went, and why it is still there.
#[utoipa::path(get, path = "/v1/hosts/{host}/drains/{drain}", tag = "hosts",
    params(("host" = String, Path, description = "Name or id"), ("drain" = DrainId, Path, description = "Id")),
    responses((status = 200, body = Drain), crate::openapi::Problems))]
pub async fn get_drain(
    State(app): State<App>,
    Path((host, drain)): Path<(String, String)>,
    _: Query<NoParams>,
) -> Result<Answer<Drain>, Error> {
    let id = drain.parse().map_err(|_| Error::not_found("drain", &drain))?;
    let mut tx = app.store.system_read().await?;
    Ok(Answer(drains::get(&mut tx, &Key::parse("host", &host)?, id).await?))
}
