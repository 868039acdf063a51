//! Work for image services: imports are claimed here, held on while they are carried out, and given back.
//!
//! What became of one is an event like that of an upload (`image_events.rs`); only the newest claim's is taken.

use crate::{
    App, Error,
    body::Json,
    query::{NoParams, Query},
    tasks::check_wait,
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
};
use basalt_model::{FieldError, ImageId, TaskId, TransferId, tasks::TaskKind};
use basalt_store::{
    images,
    work::{self, Claim, ClaimRef, Executor},
};
use basalt_wire::image::{ImportWork, MAX_CLAIMS, MAX_STAGE_BYTES, WorkAnswer, WorkRenewal, WorkRequest};
use chrono::TimeDelta;
use std::time::Duration;

/// How often a held call looks for work.
const LOOK: Duration = Duration::from_secs(1);

/// Claims imports, each under a lease and with a fencing token.
#[utoipa::path(post, path = "/image/v1/work", tag = "agents", request_body = WorkRequest,
    responses((status = 200, body = WorkAnswer), crate::openapi::Problems))]
pub async fn claim_work(
    State(app): State<App>,
    _: Query<NoParams>,
    Json { value, .. }: Json<WorkRequest>,
) -> Result<Answer<WorkAnswer>, Error> {
    check_wait(value.wait_seconds)?;
    if !(1..=MAX_CLAIMS).contains(&value.limit) {
        let reason = format!("{} is outside 1 to {MAX_CLAIMS}", value.limit);
        let remedy = format!("claim 1 to {MAX_CLAIMS} at once");
        return Err(Error::Invalid(vec![FieldError::new("limit", "out_of_range", reason, remedy)]));
    }
    let wait = tokio::time::sleep(Duration::from_secs(value.wait_seconds.into()));
    tokio::pin!(wait);
    loop {
        let imports = claim(&app, &value).await?;
        if !imports.is_empty() || wait.is_elapsed() || app.drain.has_begun() {
            return Ok(Answer(WorkAnswer { imports }));
        }
        tokio::select! {
            () = &mut wait => {}
            () = app.drain.begun() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn claim(app: &App, request: &WorkRequest) -> Result<Vec<ImportWork>, Error> {
    let mut tx = app.store.system().await?;
    let executor = Executor { id: request.executor, start: request.start };
    let (kind, now) = (TaskKind::ImageImport, app.clock.now());
    let claims = work::claim(&mut tx, kind, executor, request.limit, &app.ids, now).await?;
    let mut imports = Vec::with_capacity(claims.len());
    for claim in claims {
        match images::get_by_id(&mut tx, ImageId(claim.task.subject.id)).await {
            Ok(view) => imports.extend(import(claim, view.image)),
            // It went while it was claimed; its task goes with it.
            Err(basalt_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    tx.commit().await?;
    Ok(imports)
}

fn import(claim: Claim, image: images::Image) -> Option<ImportWork> {
    Some(ImportWork {
        task_id: claim.task.id,
        claim_id: TransferId(claim.id),
        fence: claim.fence,
        lease_seconds: u32::try_from(work::LEASE_SECONDS).unwrap_or(u32::MAX),
        image_id: image.id(),
        tenant_id: image.metadata.tenant_id?,
        project_id: image.metadata.project_id?,
        url: image.spec.source?.url,
        format: image.spec.format,
        size_bytes: image.spec.size_bytes,
        sha256: image.spec.sha256,
    })
}

/// Holds a claim on and says how far it is, or gives it back.
#[utoipa::path(post, path = "/image/v1/work/{task}", tag = "agents", request_body = WorkRenewal,
    params(("task" = TaskId, Path, description = "Id")),
    responses((status = 204, description = "It is held, or was given back"), crate::openapi::Problems))]
pub async fn renew_work(
    State(app): State<App>,
    Path(task): Path<String>,
    _: Query<NoParams>,
    Json { value, .. }: Json<WorkRenewal>,
) -> Result<StatusCode, Error> {
    let task_id: TaskId = task.parse().map_err(|_| Error::not_found("task", &task))?;
    let claim = ClaimRef { task_id, claim_id: value.claim_id.0 };
    if value.stage.len() > MAX_STAGE_BYTES {
        let reason = format!("{} bytes; at most {MAX_STAGE_BYTES} are kept", value.stage.len());
        return Err(Error::Invalid(vec![FieldError::new("stage", "too_long", reason, "shorten it")]));
    }
    let now = app.clock.now();
    let mut tx = app.store.system().await?;
    if !work::renew(&mut tx, claim, value.progress.clamp(0, 99), &value.stage, now).await? {
        return Err(work::lost(claim).into());
    }
    // What was said last stays to be read until somebody else goes on.
    if let Some(seconds) = value.again_after_seconds {
        work::give_back(&mut tx, claim, TimeDelta::seconds(seconds.into()), now).await?;
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
