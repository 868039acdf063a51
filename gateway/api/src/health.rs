//! Whether the process lives, whether it can serve, and what its API looks like.

use crate::{App, Error};
use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use std::{sync::OnceLock, time::Duration};

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, description = "It lives", body = String)))]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The database can be reached and the graph was read.
#[utoipa::path(get, path = "/readyz", tag = "operation",
    responses((status = 200, description = "It can serve", body = String), crate::openapi::Problems))]
pub async fn readyz(State(app): State<App>) -> Result<&'static str, Error> {
    if app.drain.has_begun() {
        return Err(Error::NotReady("the gateway is stopping".into()));
    }
    if let Some((part, why)) = app.readiness.missing().into_iter().next() {
        return Err(Error::NotReady(format!("{part}: {why}")));
    }
    if !app.hub.is_synced() {
        return Err(Error::NotReady("feed: the truth is being read for the first time".into()));
    }
    // Asked anew each time: a pool that once connected says nothing about now.
    match tokio::time::timeout(Duration::from_secs(1), app.store.ready()).await {
        Ok(Ok(())) => Ok("ready\n"),
        Ok(Err(e)) => {
            tracing::debug!(error = %e, "the database does not answer");
            Err(Error::NotReady("the database does not answer".into()))
        }
        Err(_) => Err(Error::NotReady("the database does not answer within a second".into())),
    }
}

/// The OpenAPI 3.1 document of both doors.
#[utoipa::path(get, path = "/openapi.json", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
pub async fn openapi_json() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(crate::openapi::document_text).as_str();
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}
