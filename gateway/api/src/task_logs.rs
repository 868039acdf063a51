//! Logs of tasks: read by polling or by long poll, written by the agents of hosts that have what the task is about.

use crate::{
    App, Error,
    agent_identity::Agent,
    authentication::Permit,
    body::Json,
    query::{NoParams, Query, limit},
    tasks::{check_wait, find},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::HeaderMap,
};
use basalt_model::{FieldError, TaskId, tasks::TaskLog};
use basalt_store::task_logs;
use basalt_wire::agent::task_logs::{
    LogAnswer, LogBatch, LogLine, MAX_ABOUT, MAX_BATCH_ABOUT, MAX_LINES, MAX_TEXT_BYTES,
};
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;

/// How often a held poll looks for lines that came by another gateway. Those that came here wake it.
const LOOK: Duration = Duration::from_secs(1);

/// Which lines to read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// Only lines after this one.
    #[serde(default)]
    pub after: i64,
    /// Lines on a page, 1 to 500; 100 when nothing is said.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Without a line to show, answer when there is one, when the task has ended, or after this many seconds (0 to 55).
    #[serde(default)]
    pub wait_seconds: u32,
}

/// Lists the lines of a task's log; with `wait_seconds` it waits for one.
#[utoipa::path(get, path = "/v1/tasks/{task}/logs", tag = "tasks", params(("task" = TaskId, Path, description = "Id"), LogParams),
    responses((status = 200, body = Vec<TaskLog>), crate::openapi::Problems))]
pub async fn list_task_logs(
    State(app): State<App>,
    permit: Permit,
    Path(task): Path<String>,
    Query(params): Query<LogParams>,
) -> Result<Answer<Vec<TaskLog>>, Error> {
    check_wait(params.wait_seconds)?;
    let id: TaskId = task.parse().map_err(|_| Error::not_found("task", &task))?;
    let limit = limit(params.limit)?;
    let wait = tokio::time::sleep(Duration::from_secs(params.wait_seconds.into()));
    tokio::pin!(wait);
    // Listening before looking: a line that comes in between is not missed.
    let mut news = (params.wait_seconds > 0).then(|| app.hub.task(id));
    loop {
        // Looked at each time: the right to read may have been taken meanwhile. Before the lines, so that none that
        // was written before the task's end is missed.
        let found = find(&app, &permit, id, &task).await?;
        let lines = match found.tenant_id {
            Some(tenant) => {
                task_logs::list(&mut app.store.tenant_read(tenant).await?, id, params.after, limit).await?
            }
            None => task_logs::list(&mut app.store.system_read().await?, id, params.after, limit).await?,
        };
        let over = !lines.is_empty() || found.state.is_terminal() || wait.is_elapsed();
        let Some(news) = news.as_mut().filter(|_| !over) else { return Ok(Answer(lines)) };
        tokio::select! {
            biased;
            () = app.drain.begun() => return Ok(Answer(lines)),
            () = &mut wait => {}
            changed = news.changed() => changed.map_err(|e| Error::internal("waiting for a log", e))?,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Takes lines for the logs of tasks. Each goes to the tasks of the items that it is about, if the calling host has them.
#[utoipa::path(post, path = "/agent/v1/log", tag = "agents", request_body = LogBatch,
    responses((status = 200, body = LogAnswer), crate::openapi::Problems))]
pub async fn take_task_logs(
    State(app): State<App>,
    agent: Agent,
    _: Query<NoParams>,
    headers: HeaderMap,
    Json { value, .. }: Json<LogBatch>,
) -> Result<Answer<LogAnswer>, Error> {
    let (host, now) = (agent.host_id, app.clock.now());
    crate::agent::check_start(&app, host, &headers).await?;
    check(&value)?;
    if !app.links.takes_lines(host, value.lines.len(), now) {
        return Err(Error::TooMany("lines for logs"));
    }
    let lines: Vec<task_logs::Line> = value.lines.into_iter().map(line).collect();
    let mut tx = app.store.system().await?;
    let taken = task_logs::take(&mut tx, host, value.agent_boot, &lines, now).await?;
    tx.commit().await?;
    if taken.refused > 0 {
        tracing::debug!(host = %host, refused = taken.refused, "lines about what the host does not have");
    }
    app.hub.logs_written(taken.tasks);
    Ok(Answer(LogAnswer { refused: taken.refused }))
}

fn line(line: LogLine) -> task_logs::Line {
    let about = line.about.into_iter().map(|s| (s.kind.as_str().to_owned(), s.id, s.generation));
    task_logs::Line { sequence: line.sequence, at: line.at, about: about.collect(), text: line.text }
}

/// An agent keeps to these bounds by itself.
fn check(batch: &LogBatch) -> Result<(), Error> {
    let about: usize = batch.lines.iter().map(|l| l.about.len()).sum();
    let wrong = |field: String, why: String| {
        Err(Error::Invalid(vec![FieldError::new(field, "out_of_range", why, "send less at once")]))
    };
    if batch.lines.len() > MAX_LINES {
        return wrong("lines".into(), format!("{} lines are more than {MAX_LINES}", batch.lines.len()));
    }
    if about > MAX_BATCH_ABOUT {
        return wrong("lines".into(), format!("they are about {about} items, more than {MAX_BATCH_ABOUT}"));
    }
    for (n, line) in batch.lines.iter().enumerate() {
        if !(1..=MAX_ABOUT).contains(&line.about.len()) {
            let why = format!("{} items are outside 1 to {MAX_ABOUT}", line.about.len());
            return wrong(format!("lines[{n}].about"), why);
        }
        if line.text.len() > MAX_TEXT_BYTES {
            let why = format!("{} bytes are more than {MAX_TEXT_BYTES}", line.text.len());
            return wrong(format!("lines[{n}].text"), why);
        }
    }
    Ok(())
}
