//! The agents' routes: the manifest by long poll, the report, and tokens to download images.

use crate::{
    App, Error,
    agent_identity::Agent,
    body::{LargeJson, NoBody},
    enrolment::agent_change,
    links::Order,
    metrics::Held,
    query::{NoParams, Query},
    tasks::check_wait,
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use basalt_model::{CapabilityReason, HostId, ImageId, TransferId, images::ImageState};
use basalt_store::{agent_conflicts, audit_events, image_transfers, images, manifests, reports};
use basalt_wire::{
    agent::{
        manifest::{FORMAT, ItemKind},
        report::{ItemObserved, ItemReport, Report, ReportAnswer},
    },
    rest::TransferGrant,
    upload_token::{Claims, Verb},
};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;
use utoipa::IntoParams;
use uuid::Uuid;

/// The header in which an agent says which of its starts asks.
const BOOT_HEADER: &str = "basalt-agent-boot";
/// Minutes for which a token to download can be redeemed.
const DOWNLOAD_MINUTES: i64 = 60;

/// How long to hold a poll.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ManifestParams {
    /// Seconds to wait for a revision other than that of `If-None-Match`, 0 to 55; default 55.
    #[serde(default)]
    pub wait_seconds: Option<u32>,
}

/// The manifest as it is sent: the bodies go out as they are stored.
#[derive(Serialize)]
struct Manifest<'a> {
    format: u32,
    host_id: HostId,
    revision: i64,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    kind: &'a str,
    id: Uuid,
    generation: basalt_model::Generation,
    epoch: basalt_model::Epoch,
    desired: &'a RawValue,
}

/// The whole manifest of the calling host. With `If-None-Match` it waits for another revision.
#[utoipa::path(get, path = "/agent/v1/manifest", tag = "agents", params(ManifestParams),
    responses((status = 200, description = "The whole manifest; its revision is the ETag", body = basalt_wire::agent::Manifest), (status = 304, description = "Unchanged"), crate::openapi::Problems))]
pub async fn read_manifest(
    State(app): State<App>,
    agent: Agent,
    Query(params): Query<ManifestParams>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let wait_seconds = params.wait_seconds.unwrap_or(crate::tasks::MAX_WAIT_SECONDS);
    check_wait(wait_seconds)?;
    let host = agent.host_id;
    check_start(&app, host, &headers).await?;
    app.links.beat(host, app.clock.now());
    let have = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .and_then(|t| t.trim().trim_matches('"').parse::<i64>().ok());
    if let Some(have) = have {
        if !app.hub.is_synced() {
            return Err(Error::NotReady("the truth is being read".into()));
        }
        let _waiting = Held::begin(&app.metrics.agents_waiting);
        let mut revision = app.hub.revision(host);
        let other = async { revision.wait_for(|now| *now != have).await.is_ok() };
        let news = tokio::time::timeout(Duration::from_secs(wait_seconds.into()), app.drain.or(other)).await;
        // Its end is no sign of life: the host may have been cut off long before it, and nothing here would know.
        if !matches!(news, Ok(Some(true))) {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag(have)?)]).into_response());
        }
        check_start(&app, host, &headers).await?;
    }
    // Boxed: while it waits, a poll has no room for what it does afterwards.
    let read = Box::pin(manifests::read(&app.store, host));
    let manifest: manifests::Manifest<Box<RawValue>> = read.await?;
    // Where the feed is behind (the agent came from another gateway, or this one is slow to read), its old revision is other
    // than what the agent has for as long as that lasts, and no poll would be held.
    app.hub.manifest_written(host, manifest.revision);
    if have == Some(manifest.revision) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag(manifest.revision)?)]).into_response());
    }
    let absent = serde_json::value::to_raw_value(&serde_json::json!({"as": "absent"}))
        .map_err(|e| Error::internal("writing a manifest", e))?;
    tracing::debug!(host = %host, revision = manifest.revision, items = manifest.items.len(), "manifest sent");
    let items = manifest.items.iter().map(|i| Item {
        kind: &i.kind,
        id: i.id,
        generation: i.generation,
        epoch: i.epoch,
        desired: if i.present { &i.body } else { &absent },
    });
    let body =
        Manifest { format: FORMAT, host_id: host, revision: manifest.revision, items: items.collect() };
    Ok(([(header::ETAG, etag(manifest.revision)?)], Answer(body)).into_response())
}

fn etag(revision: i64) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(format!("\"{revision}\"")).map_err(|e| Error::internal("writing an ETag", e))
}

/// Refuses a start of the agent that a newer one took over from.
pub async fn check_start(app: &App, host: HostId, headers: &HeaderMap) -> Result<(), Error> {
    let boot = headers.get(BOOT_HEADER).and_then(|v| v.to_str().ok()).and_then(|t| Uuid::parse_str(t).ok());
    match boot.and_then(|boot| Some((boot, app.links.fenced(host, boot)?))) {
        None => Ok(()),
        // Boxed, for it is rare: every poll that waits would be larger by it.
        Some((boot, first)) => Err(Box::pin(fence(app, host, boot, first)).await?),
    }
}

/// What a fenced start is told. The first time an audit row tells it, and as long as it goes on trying the conflict
/// stands among the host's conditions (R44).
async fn fence(app: &App, host: HostId, boot: Uuid, first: bool) -> Result<Error, Error> {
    let now = app.clock.now();
    let reason = CapabilityReason::new(
        "fenced",
        format!("host/{host}"),
        "a newer start of this host's agent took over",
        "stop this one; if it runs on another machine, revoke the host and enrol it anew",
    )
    .with_evidence(format!("agent boot {boot}"));
    app.metrics.fenced.inc();
    let due = app.links.conflict_due(host, now);
    if first || due {
        let mut tx = app.store.system().await?;
        if first {
            tracing::warn!(host = %host, boot = %boot, "two agents act with one identity; the older start is fenced");
            let change = agent_change(app, host, &host.to_string(), now);
            let text = reason.to_string();
            let entry = audit_events::Entry::new("host.agent_fenced", None, None, "host", host.0, &text);
            audit_events::record(&mut tx, &change, entry).await?;
        }
        agent_conflicts::record(&mut tx, host, boot, now).await?;
        tx.commit().await?;
    }
    Ok(Error::Conflict { code: "fenced", detail: format!("{reason}."), reasons: vec![reason] })
}

/// Takes what a host saw. It is also the heartbeat.
#[utoipa::path(post, path = "/agent/v1/report", tag = "agents", request_body = Report,
    responses((status = 200, body = ReportAnswer), crate::openapi::Problems))]
pub async fn report(
    State(app): State<App>,
    agent: Agent,
    _: Query<NoParams>,
    LargeJson(report): LargeJson<Report>,
) -> Result<Answer<ReportAnswer>, Error> {
    let (host, now) = (agent.host_id, app.clock.now());
    let (boot, sequence) = (report.agent_boot, report.sequence);
    let order = app.links.order(host, boot, sequence);
    if let Order::Fenced { first } = order {
        return Err(fence(&app, host, boot, first).await?);
    }
    app.links.beat(host, now);
    if order == Order::Late {
        return Err(late(sequence));
    }
    let revision = report.manifest_revision;
    let says_nothing = report.facts.is_none() && report.items.is_empty() && report.manifest_refused.is_none();
    if says_nothing && order == Order::Next && !app.links.acts_on_other(host, revision) {
        return Ok(Answer(ReportAnswer { send_full: false }));
    }
    match apply(&app, host, report).await {
        Ok(applied) if applied.accepted => {
            app.links.stored(host, revision);
            Ok(Answer(ReportAnswer { send_full: applied.send_full }))
        }
        // This gateway knew nothing of the start; the store remembers that another one followed it.
        Ok(applied) if applied.followed => Err(fence(&app, host, boot, app.links.give_up(host, boot)).await?),
        Ok(_) => Err(late(sequence)),
        Err(e) => {
            app.links.unsee(host, boot, sequence);
            Err(e)
        }
    }
}

fn late(sequence: i64) -> Error {
    Error::Conflict {
        code: "late",
        detail: format!("A report with a number of {sequence} or more was taken already."),
        reasons: Vec::new(),
    }
}

async fn apply(app: &App, host: HostId, report: Report) -> Result<reports::Applied, Error> {
    let stored = reports::Report {
        agent_boot: report.agent_boot,
        sequence: report.sequence,
        manifest_revision: report.manifest_revision,
        manifest_refused: report.manifest_refused,
        facts: report.facts,
        items: report.items.into_iter().map(fact).collect(),
    };
    let mut tx = app.store.system().await?;
    let applied = reports::apply(&mut tx, host, &stored, &app.ids, app.clock.now()).await?;
    tx.commit().await?;
    Ok(applied)
}

fn fact(item: ItemReport) -> reports::ItemFact {
    let seen = match item.observed {
        ItemObserved::Gone => reports::Seen::Gone,
        ItemObserved::Vm(observed) => reports::Seen::Vm(observed),
        ItemObserved::Volume(observed) => reports::Seen::Volume(observed),
        ItemObserved::Image { ready, blocked } => reports::Seen::Image { ready, blocked },
        ItemObserved::Network { ready, blocked } => reports::Seen::Network { ready, blocked },
        ItemObserved::SecurityGroup { ready, blocked } => reports::Seen::SecurityGroup { ready, blocked },
        ItemObserved::Router { ready, active, blocked } => reports::Seen::Router { ready, active, blocked },
    };
    reports::ItemFact {
        kind: item.kind.as_str().into(),
        id: item.id,
        generation: item.generation,
        epoch: item.epoch,
        seen,
        stage: item.stage,
    }
}

/// Gives a token that lets one download of an image begin; only of images in the host's manifest.
#[utoipa::path(post, path = "/agent/v1/images/{image}/download", tag = "agents", params(("image" = ImageId, Path, description = "Id")),
    responses((status = 200, body = TransferGrant), crate::openapi::Problems))]
pub async fn begin_download(
    State(app): State<App>,
    agent: Agent,
    Path(image): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<Answer<TransferGrant>, Error> {
    let unknown = || Error::not_found("image", &image);
    let id: ImageId = image.parse().map_err(|_| unknown())?;
    let now = app.clock.now();
    let mut tx = app.store.system().await?;
    if !manifests::wants(&mut tx, agent.host_id, ItemKind::Image.as_str(), id.0).await? {
        return Err(unknown());
    }
    let found = images::get_by_id(&mut tx, id).await?;
    let (meta, observed) = (&found.image.metadata, &found.facts.observed);
    let (Some(tenant_id), Some(project_id), ImageState::Ready) =
        (meta.tenant_id, meta.project_id, observed.state)
    else {
        return Err(unknown());
    };
    let claims = Claims {
        key_id: app.images.keys.signing_key_id(),
        transfer_id: TransferId(app.clock.new_id()),
        verb: Verb::Download,
        image_id: id,
        tenant_id,
        project_id,
        format: found.image.spec.format,
        size_bytes: observed.size_bytes,
        sha256: observed.sha256.clone(),
        expires_at: now + TimeDelta::minutes(DOWNLOAD_MINUTES),
    };
    let change = agent_change(&app, agent.host_id, &agent.host_id.to_string(), now);
    let transfer = image_transfers::Transfer {
        id: claims.transfer_id,
        direction: image_transfers::Direction::Download,
        host_id: Some(agent.host_id),
        expires_at: claims.expires_at,
    };
    image_transfers::begin_transfer(&mut tx, &change, id, &transfer).await?;
    tx.commit().await?;
    let url = format!("{}/blobs", app.images.url.trim_end_matches('/'));
    Ok(Answer(crate::images::grant(&app, url, &claims)?))
}

#[cfg(test)]
mod tests {
    use crate::{consoles, directory, door};

    fn size3<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    fn size4<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Every agent has three polls that wait, each inside the outermost layer.
    #[test]
    fn a_poll_that_waits_is_small() {
        let polls = [
            size4(super::read_manifest),
            size4(directory::read_directory),
            size4(consoles::list_console_tickets),
        ];
        let outermost = size3(door::enter);
        assert!(polls.iter().all(|size| *size <= 2048) && outermost <= 2048, "{polls:?} in {outermost}");
    }
}
