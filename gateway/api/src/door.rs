//! The outermost layer of both doors: names the request, asks the table, counts and logs the
//! answer, and writes refusals as problems.

use crate::{
    App, Error, authentication,
    error::{Refusal, finish},
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method},
    middleware::Next,
    response::{IntoResponse, Response},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Passes one request.
pub async fn enter(State(app): State<App>, request: Request, next: Next) -> Response {
    let (id, begun) = (app.clock.new_id(), app.clock.now());
    let method = method_word(request.method());
    let (mut parts, body) = request.into_parts();
    let route = parts.extensions.get::<MatchedPath>().map_or("", |p| route_word(&parts.method, p.as_str()));
    // Boxed: it is over before the answer is waited for, which may be long.
    let answer = match Box::pin(authentication::authorise(&app, &mut parts, id)).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refused) => refused.into_response(),
    };
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text: &str = id.hyphenated().encode_lower(&mut text);
    let mut answer = answer;
    if let Some(refusal) = answer.extensions_mut().remove::<Refusal>() {
        answer = finish(refusal, answer, text);
    }
    if let Ok(value) = HeaderValue::from_str(text) {
        answer.headers_mut().insert(REQUEST_ID, value);
    }
    let seconds = (app.clock.now() - begun).num_microseconds().unwrap_or_default().max(0) as f64 / 1e6;
    app.metrics.answered(method, route, answer.status().as_u16(), seconds);
    tracing::debug!(request_id = text, method, route, status = answer.status().as_u16(), seconds, "answered");
    answer
}

/// The static spelling of a route, so that counting allocates nothing; unknown paths count as one.
fn route_word(method: &Method, path: &str) -> &'static str {
    crate::authorization::row(method, path).map_or("", |r| r.path)
}

fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// No route has this path.
pub async fn no_route() -> Error {
    Error::NoRoute
}

/// The route has no such method.
pub async fn no_method() -> Error {
    Error::Method
}
