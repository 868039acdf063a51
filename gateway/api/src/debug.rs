//! A window for operators into whatever the composition root wants to show of the reconciler. The
//! door passes the question on as text and knows nothing of who answers.

use crate::{App, Error, query::Query};
use axum::extract::State;
use basalt_model::FieldError;
use futures::future::BoxFuture;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Answers a question; `Err` says which questions there are, `Ok(None)` that nobody answers now.
pub type Ask = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Option<String>, String>> + Send + Sync>;

/// What to ask.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DebugParams {
    /// `counters`, `dot`, `mermaid`, `dump`, or an object: `vm:<id>`, `host:<id>`, `volume:<id>`, `network:<id>`,
    /// `image:<id>`, `task:<id>`.
    pub about: String,
}

/// Asks the reconciler what it knows. For people: the text has no fixed form.
#[utoipa::path(get, path = "/debug/graph", tag = "operation", params(DebugParams),
    responses((status = 200, description = "Text", body = String), crate::openapi::Problems))]
pub async fn ask_graph(State(app): State<App>, Query(params): Query<DebugParams>) -> Result<String, Error> {
    let Some(ask) = &app.ask else {
        return Err(Error::NotReady("nobody answers questions in this process".into()));
    };
    match ask(params.about).await {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(Error::NotReady("the reconciler does not run now".into())),
        Err(known) => Err(Error::Query(FieldError::new(
            "about",
            "unknown_value",
            "this cannot be asked",
            format!("give one of {known}"),
        ))),
    }
}
