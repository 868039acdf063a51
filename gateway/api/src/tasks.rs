//! Tasks: followed by polling, by long poll or by watch; cancelled by who may change their subject.

use crate::{
    App, Error,
    authentication::{Permit, find_project},
    body::{Json, NoBody},
    pages::{self, Reading, merged},
    query::{NoParams, Query, limit, read_cursor},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use basalt_model::{
    CapabilityReason, FieldError, TaskId,
    roles::{Role, Scope, allows},
    tasks::{Task, TaskKind, TaskState},
};
use basalt_store::{Error as StoreError, TenantTx, drains, task_dependencies, tasks};
use basalt_wire::rest::Page;
use serde::Deserialize;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Longest time that a poll is held, in seconds.
pub const MAX_WAIT_SECONDS: u32 = 55;

/// Which tasks to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskParams {
    /// Objects on a page, 1 to 500; 100 when nothing is said.
    #[serde(default)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Only those of this project: name or id.
    #[serde(default)]
    pub project: Option<String>,
    /// Only those in this state.
    #[serde(default)]
    pub state: Option<TaskState>,
    /// Only those about this object.
    #[serde(default)]
    pub subject_id: Option<Uuid>,
}

/// How long to wait for a task's end.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitParams {
    /// Answer when the task has ended, or after this many seconds (0 to 55), as it then is.
    #[serde(default)]
    pub wait_seconds: u32,
}

/// Lists the tasks that the caller may read, oldest first.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", params(TaskParams),
    responses((status = 200, body = Page<Task>), crate::openapi::Problems))]
pub async fn list_tasks(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<TaskParams>,
) -> Result<Answer<Page<Task>>, Error> {
    let after = params.cursor.as_deref().map(read_cursor).transpose()?;
    let range = basalt_store::Page { limit: limit(params.limit)?, after, ..Default::default() };
    let mut filter = tasks::Filter { state: params.state, subject: params.subject_id, ..Default::default() };
    let readings = match &params.project {
        Some(text) => {
            let project = find_project(&app, &permit.principal.grants, text).await?;
            vec![pages::reading(&app, project.scope()).await?]
        }
        None => pages::readings(&app, &permit).await?,
    };
    let mut lists = Vec::new();
    for reading in readings {
        lists.push(match reading {
            Reading::System(mut tx) => tasks::list(&mut tx, &filter, &range).await?,
            Reading::Tenant(mut tx, _, project) => {
                filter.project = project;
                tasks::list(&mut tx, &filter, &range).await?
            }
        });
    }
    Ok(Answer(pages::shown(merged(lists, range.limit, |t: &Task| t.id.0), |t| t)))
}

/// Shows a task; with `wait_seconds` it waits for the task's end.
#[utoipa::path(get, path = "/v1/tasks/{task}", tag = "tasks", params(("task" = TaskId, Path, description = "Id"), WaitParams),
    responses((status = 200, body = Task), crate::openapi::Problems))]
pub async fn get_task(
    State(app): State<App>,
    permit: Permit,
    Path(task): Path<String>,
    Query(params): Query<WaitParams>,
) -> Result<Answer<Task>, Error> {
    check_wait(params.wait_seconds)?;
    let id = task.parse().map_err(|_| Error::not_found("task", &task))?;
    let wait = tokio::time::sleep(Duration::from_secs(params.wait_seconds.into()));
    tokio::pin!(wait);
    // Listening before looking: news that come in between are not missed.
    let mut news = (params.wait_seconds > 0).then(|| app.hub.task(id));
    loop {
        let found = find(&app, &permit, id, &task).await?;
        let Some(news) = news.as_mut().filter(|_| !found.state.is_terminal()) else {
            return Ok(Answer(found));
        };
        tokio::select! {
            biased;
            () = app.drain.begun() => return Ok(Answer(found)),
            () = &mut wait => return Ok(Answer(find(&app, &permit, id, &task).await?)),
            changed = news.changed() => changed.map_err(|e| Error::internal("waiting for a task", e))?,
        }
    }
}

/// Cancels a task that has not ended, and turns its intent back where that is possible.
#[utoipa::path(post, path = "/v1/tasks/{task}/cancel", tag = "tasks", params(("task" = TaskId, Path, description = "Id")),
    responses((status = 200, body = Task), crate::openapi::Problems))]
pub async fn cancel_task(
    State(app): State<App>,
    permit: Permit,
    Path(task): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<Answer<Task>, Error> {
    let id = task.parse().map_err(|_| Error::not_found("task", &task))?;
    let found = find(&app, &permit, id, &task).await?;
    permit.require(&scope(&found))?;
    let change = permit.change(&app);
    if found.kind == TaskKind::HostDrain {
        let mut tx = app.store.system().await?;
        let cancelled = drains::cancel(&mut tx, &change, &found).await?;
        tx.commit().await?;
        return Ok(Answer(cancelled));
    }
    let mut tx = begin(&app, &found).await?;
    let cancelled = tasks::cancel(&mut tx, &change, id).await?;
    tx.commit().await?;
    Ok(Answer(cancelled))
}

/// Makes another attempt of a task that failed, timed out or was cancelled: a new task, which names this one.
#[utoipa::path(post, path = "/v1/tasks/{task}/retry", tag = "tasks", params(("task" = TaskId, Path, description = "Id")),
    responses((status = 202, body = Task), crate::openapi::Problems))]
pub async fn retry_task(
    State(app): State<App>,
    permit: Permit,
    Path(task): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<Response, Error> {
    let id = task.parse().map_err(|_| Error::not_found("task", &task))?;
    let found = find(&app, &permit, id, &task).await?;
    permit.require(&scope(&found))?;
    let change = permit.change(&app);
    let mut tx = begin(&app, &found).await?;
    let again = tasks::retry(&mut tx, &change, id).await?;
    tx.commit().await?;
    let location = [(header::LOCATION, format!("/v1/tasks/{}", again.id))];
    Ok((StatusCode::ACCEPTED, location, Answer(again)).into_response())
}

/// Which tasks must complete before this one starts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dependencies {
    /// Their ids, at most 32; none: it starts now.
    pub depends_on: Vec<TaskId>,
}

/// Lets a task that has not started wait for other tasks than before. Refused when one of those waits for it.
#[utoipa::path(put, path = "/v1/tasks/{task}/dependencies", tag = "tasks", request_body = Dependencies,
    params(("task" = TaskId, Path, description = "Id")), responses((status = 200, body = Task), crate::openapi::Problems))]
pub async fn put_task_dependencies(
    State(app): State<App>,
    permit: Permit,
    Path(task): Path<String>,
    _: Query<NoParams>,
    Json { value, .. }: Json<Dependencies>,
) -> Result<Answer<Task>, Error> {
    let id = task.parse().map_err(|_| Error::not_found("task", &task))?;
    let found = find(&app, &permit, id, &task).await?;
    permit.require(&scope(&found))?;
    let change = permit.change(&app);
    let mut tx = begin(&app, &found).await?;
    let waiting = task_dependencies::replace(&mut tx, &change, id, &value.depends_on).await?;
    tx.commit().await?;
    Ok(Answer(waiting))
}

/// Begins to change a task of a tenant. What the system itself has to do is asked for at the object.
async fn begin(app: &App, task: &Task) -> Result<TenantTx, Error> {
    let Some(tenant) = task.tenant_id else {
        let subject = format!("{}/{}", task.subject.kind, task.subject.name);
        let remedy = match task.kind {
            TaskKind::HostDrain => format!("drain {subject} anew, with a plan of now"),
            _ => format!("ask for it anew at {subject}"),
        };
        let reason = CapabilityReason::new(
            "not_repeatable",
            subject,
            "a task of the system is done from what stands now, and takes no other attempt and no dependencies",
            remedy,
        );
        let detail = reason.to_string();
        return Err(Error::Conflict { code: "refused", detail, reasons: vec![reason] });
    };
    Ok(app.store.tenant(tenant).await?)
}

/// Reads a task that the caller may read; any other is not found. The work is the same for both.
pub(crate) async fn find(app: &App, permit: &Permit, id: TaskId, text: &str) -> Result<Task, Error> {
    let unknown = || Error::not_found("task", text);
    match tasks::get(&mut app.store.system_read().await?, id).await {
        Ok(task) if allows(&permit.principal.grants, Role::Viewer, &scope(&task)) => Ok(task),
        Ok(_) | Err(StoreError::NotFound { .. }) => Err(unknown()),
        Err(e) => Err(e.into()),
    }
}

fn scope(task: &Task) -> Scope {
    match (task.tenant_id, task.project_id) {
        (Some(tenant_id), Some(project_id)) => Scope::Project { tenant_id, project_id },
        (Some(tenant_id), None) => Scope::Tenant { tenant_id },
        (None, _) => Scope::System,
    }
}

/// Checks the time to hold a poll.
pub fn check_wait(seconds: u32) -> Result<(), Error> {
    if seconds <= MAX_WAIT_SECONDS {
        return Ok(());
    }
    Err(Error::Query(FieldError::new(
        "wait_seconds",
        "out_of_range",
        format!("{seconds} seconds is outside 0 to {MAX_WAIT_SECONDS}"),
        "give at most 55 and ask again",
    )))
}
