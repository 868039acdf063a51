//! The log of a deployment's workload: read from its platform as the caller reads it, line by line, and kept nowhere.
//! The one route about deployments whose answer waits for a platform.

use crate::{
    App, Error,
    authentication::{self, Permit},
    deployments::{KIND, managed},
    metrics::Held,
    query::{Named, Query},
};
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use basalt_model::{
    CapabilityReason, FieldError, Name,
    deployments::{LogLine, Owner},
};
use basalt_store::{Key, deployments, projects, providers};
use basalt_wire::rest::LogItem;
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{BoxStream, ReadyChunks},
};
use serde::Deserialize;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{Interval, MissedTickBehavior};
use utoipa::IntoParams;

/// Lines that are shown when nothing is said.
const DEFAULT_TAIL: u32 = 200;
/// Most lines that a log begins with.
const MAX_TAIL: u32 = 10_000;
/// Most logs that are read at once.
const MAX_STREAMS: i64 = 256;
/// Most lines that are sent in one piece.
const PIECE: usize = 64;
/// How long a platform may take before its first word.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked whether the caller still may.
const RECHECK: Duration = Duration::from_secs(2);

/// Lines of a log as they come; why nothing comes any more is the last word.
pub type LogLines = BoxStream<'static, Result<LogLine, CapabilityReason>>;

/// Who reads logs from platforms.
pub type Logs =
    Arc<dyn Fn(LogsAsked) -> BoxFuture<'static, Result<LogLines, CapabilityReason>> + Send + Sync>;

/// Which log is read.
#[derive(Clone, Debug)]
pub struct LogsAsked {
    /// Where.
    pub provider: providers::Provider,
    /// Whose.
    pub owner: Owner,
    /// So many of its last lines.
    pub tail: Option<u32>,
    /// And then what comes.
    pub follow: bool,
}

/// Which lines to read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// So many of the last lines, 0 to 10000; 200 when nothing is said.
    #[serde(default)]
    pub tail: Option<u32>,
    /// With `true` the answer goes on with what comes, until the caller leaves.
    #[serde(default)]
    pub follow: bool,
}

/// Reads the log of a deployment from its platform.
#[utoipa::path(get, path = "/v1/projects/{project}/deployments/{deployment}/logs", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Name or id"), LogParams),
    responses((status = 200, description = "One LogItem a line; a last one with `error` says why nothing comes any more", body = LogItem, content_type = "application/x-ndjson"), crate::openapi::Problems))]
pub async fn read_deployment_logs(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    Query(params): Query<LogParams>,
) -> Result<Response, Error> {
    let tail = tail(params.tail)?;
    let asked = asked(&app, &permit, &name, tail, params.follow).await?;
    let Some(logs) = app.logs.clone() else {
        return Err(Error::NotReady("this gateway reads no logs from platforms".into()));
    };
    let open = match Held::begin(&app.metrics.logs) {
        (_, before) if before >= MAX_STREAMS => return Err(Error::TooMany("logs")),
        (held, _) => held,
    };
    let subject = format!("provider/{}", asked.provider.metadata.name);
    let lines = match tokio::time::timeout(PATIENCE, logs(asked)).await {
        Ok(Ok(lines)) => lines,
        Ok(Err(reason)) => return Err(no_log(reason)),
        Err(_) => {
            let why = format!("it said nothing for {} s", PATIENCE.as_secs());
            let remedy = "see what the provider's status says: basalt describe provider";
            return Err(no_log(CapabilityReason::new("platform_silent", subject, why, remedy)));
        }
    };
    // A platform that keeps more than it was asked for is not let go on.
    let lines = if params.follow { lines } else { lines.take(tail as usize).boxed() };
    let mut recheck = tokio::time::interval(RECHECK);
    recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reading =
        Reading { app, permit, lines: lines.ready_chunks(PIECE), recheck, over: false, _open: open };
    let pieces = futures::stream::unfold(reading, |mut reading| async move {
        reading.next().await.map(|piece| (Ok::<_, Infallible>(piece), reading))
    });
    let kind = (CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(([kind], Body::from_stream(pieces)).into_response())
}

fn tail(asked: Option<u32>) -> Result<u32, Error> {
    match asked.unwrap_or(DEFAULT_TAIL) {
        lines if lines <= MAX_TAIL => Ok(lines),
        lines => Err(Error::Query(FieldError::new(
            "tail",
            "out_of_range",
            format!("{lines} is outside 0 to {MAX_TAIL}"),
            "ask for fewer lines; the platform's own tools show all that it keeps",
        ))),
    }
}

/// Whose log is meant. The truth is asked before the platform, and let go meanwhile.
async fn asked(app: &App, permit: &Permit, name: &str, tail: u32, follow: bool) -> Result<LogsAsked, Error> {
    let project = permit.project()?;
    let key = Key::parse(KIND, name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = deployments::get(&mut tx, project.id, &key).await;
    let deployment = managed(&mut tx, project.id, &key, found).await?.deployment;
    let provider = providers::get(&mut tx, project.id, &Key::Id(deployment.provider_id.0)).await?;
    let of = projects::get(&mut tx, Some(project.tenant_id), &Key::Id(project.id.0)).await?;
    let project: Name = of.metadata.name;
    let owner = Owner {
        id: deployment.id(),
        project,
        name: deployment.metadata.name.clone(),
        namespace: deployment.spec.namespace_at(&provider.spec),
    };
    Ok(LogsAsked { provider, owner, tail: Some(tail), follow })
}

fn no_log(reason: CapabilityReason) -> Error {
    Error::Conflict { code: "no_log", detail: format!("{reason}."), reasons: vec![reason] }
}

struct Reading {
    app: App,
    permit: Permit,
    lines: ReadyChunks<LogLines>,
    recheck: Interval,
    over: bool,
    _open: Held,
}

impl Reading {
    /// The next lines; `None` ends the answer.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            tokio::select! {
                biased;
                () = self.app.drain.begun() => return None,
                // What may be read is what may be read now, however long the answer lasts.
                _ = self.recheck.tick() => {
                    if !authentication::is_unchanged(&self.app, &self.permit).await {
                        return None;
                    }
                }
                lines = self.lines.next() => return self.written(lines?),
            }
        }
        None
    }

    fn written(&mut self, lines: Vec<Result<LogLine, CapabilityReason>>) -> Option<Bytes> {
        let mut text = Vec::new();
        for line in lines {
            let item = match line {
                Ok(line) => LogItem::Line(line),
                Err(error) => {
                    self.over = true;
                    LogItem::Broken { error }
                }
            };
            serde_json::to_writer(&mut text, &item).ok()?;
            text.push(b'\n');
            if self.over {
                break;
            }
        }
        Some(text.into())
    }
}
