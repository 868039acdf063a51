//! Streamable HTTP: what a client may ask, and how it is answered.

use crate::{
    child::MAX_MESSAGE_BYTES,
    session::{Refusal, Session, Sessions, request_id},
};
use futures::StreamExt;
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, RETRY_AFTER},
};
use serde_json::{Value, json as value};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::mpsc;

const SESSION: &str = "mcp-session-id";
const NO_SESSION: &str = "begin a session with `initialize`, and send its Mcp-Session-Id";
/// Messages on the way to one client.
const ON_THE_WAY: usize = 64;
/// How often a stream says that it is alive, so that nobody in between closes it.
const ALIVE: Duration = Duration::from_secs(15);

type Body = UnsyncBoxBody<Bytes, Infallible>;

pub async fn answer(
    sessions: &Arc<Sessions>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    Ok(match (request.uri().path(), request.method()) {
        ("/healthz", &Method::GET) => match sessions.health() {
            Ok(()) => text(StatusCode::OK, "well"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        ("/mcp", _) if is_foreign(&request) => {
            text(StatusCode::FORBIDDEN, "a page of another origin may not speak to this server")
        }
        ("/mcp", &Method::POST) => post(sessions, request).await.unwrap_or_else(refused),
        ("/mcp", &Method::GET) => listen(sessions, &request).unwrap_or_else(refused),
        ("/mcp", &Method::DELETE) => match session_id(&request) {
            Some(id) => match sessions.finish(id).await {
                Ok(()) => text(StatusCode::NO_CONTENT, ""),
                Err(refusal) => refused(refusal),
            },
            None => no_session(),
        },
        ("/mcp", _) => {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "POST, GET or DELETE");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
            answer
        }
        _ => text(StatusCode::NOT_FOUND, "the server is at /mcp"),
    })
}

/// A browser tells on whose behalf it speaks; a page from elsewhere must not reach a server by a name that it rebinds.
fn is_foreign(request: &Request<Incoming>) -> bool {
    let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
    let Some(origin) = header(ORIGIN) else { return false };
    let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    header(HOST) != Some(authority)
}

fn session_id(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get(SESSION)?.to_str().ok()
}

async fn post(sessions: &Arc<Sessions>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let known = session_id(&request).map(str::to_owned);
    let wants_json = !accepts(&request, "text/event-stream");
    let Ok(body) = Limited::new(request.into_body(), MAX_MESSAGE_BYTES).collect().await else {
        return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "a message has at most 4 MiB"));
    };
    let message = match serde_json::from_slice::<Value>(&body.to_bytes()) {
        Ok(message) if message.is_object() => message,
        Ok(_) => return Ok(error(StatusCode::BAD_REQUEST, -32600, "one message, not several")),
        Err(_) => return Ok(error(StatusCode::BAD_REQUEST, -32700, "no JSON")),
    };
    let is = |method: &str| message.get("method").and_then(Value::as_str) == Some(method);
    let (id, session) = match known {
        Some(id) => {
            let session = sessions.get(&id)?;
            (id, session)
        }
        None if is("initialize") => sessions.begin()?,
        // With the request's own id, so that a client that tries a newer way to begin sees that this one is meant.
        None => return Ok(json(StatusCode::BAD_REQUEST, &failure(&message["id"], -32000, NO_SESSION))),
    };
    let is_request = message.get("method").is_some() && request_id(&message).is_some();
    if !is_request {
        session.send(&message, None).await?;
        return Ok(text(StatusCode::ACCEPTED, ""));
    }
    let (to, messages) = mpsc::channel(ON_THE_WAY);
    session.send(&message, Some(to)).await?;
    let mut answer = if wants_json || is("initialize") {
        one(messages, request_id(&message)).await
    } else {
        events(session, messages, request_id(&message))
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        answer.headers_mut().insert(SESSION, value);
    }
    Ok(answer)
}

fn accepts(request: &Request<Incoming>, kind: &str) -> bool {
    let all = request.headers().get_all(ACCEPT);
    all.iter().filter_map(|v| v.to_str().ok()).any(|v| v.contains(kind) || v.contains("*/*"))
}

/// The answer alone, for a client that wants no stream and for the first request, which belongs to no stream yet.
async fn one(mut messages: mpsc::Receiver<Value>, id: Option<String>) -> Response<Body> {
    while let Some(message) = messages.recv().await {
        if message.get("method").is_none() && request_id(&message) == id {
            return json(StatusCode::OK, &message);
        }
    }
    error(StatusCode::BAD_GATEWAY, -32603, "the server ended before it answered")
}

/// What the server says, until it has answered the request; without one, until the client goes.
fn events(session: Arc<Session>, messages: mpsc::Receiver<Value>, until: Option<String>) -> Response<Body> {
    let stream = futures::stream::unfold(Some((messages, session, until)), |state| async move {
        let (mut messages, session, until) = state?;
        match tokio::time::timeout(ALIVE, messages.recv()).await {
            Err(_) => Some((": alive\n\n".to_owned(), Some((messages, session, until)))),
            Ok(Some(message)) => {
                let over =
                    until.is_some() && message.get("method").is_none() && request_id(&message) == until;
                let text = format!("event: message\ndata: {message}\n\n");
                Some((text, (!over).then_some((messages, session, until))))
            }
            // It ended before it answered: whoever waits is told, and does not wait for ever.
            Ok(None) => {
                let id: Value = serde_json::from_str(until.as_deref()?).ok()?;
                let message = failure(&id, -32603, "the server ended before it answered");
                Some((format!("event: message\ndata: {message}\n\n"), None))
            }
        }
    });
    let frames = stream.map(|text| Ok(Frame::data(Bytes::from(text))));
    let mut answer = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn listen(sessions: &Arc<Sessions>, request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let Some(id) = session_id(request) else { return Ok(no_session()) };
    let session = sessions.get(id)?;
    let (to, messages) = mpsc::channel(ON_THE_WAY);
    session.listen(to);
    Ok(events(session, messages, None))
}

fn refused(refusal: Refusal) -> Response<Body> {
    match refusal {
        // By this the client knows that it has to begin anew.
        Refusal::Unknown => error(StatusCode::NOT_FOUND, -32001, "there is no such session; begin anew"),
        Refusal::Busy(why) => {
            let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, -32000, &why);
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            answer
        }
    }
}

fn no_session() -> Response<Body> {
    error(StatusCode::BAD_REQUEST, -32000, NO_SESSION)
}

fn failure(id: &Value, code: i64, message: &str) -> Value {
    value!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

fn error(status: StatusCode, code: i64, message: &str) -> Response<Body> {
    json(status, &failure(&Value::Null, code, message))
}

fn json(status: StatusCode, message: &Value) -> Response<Body> {
    let mut answer = text(status, &message.to_string());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut answer = Response::new(BodyExt::boxed_unsync(Full::new(Bytes::from(text.to_owned()))));
    *answer.status_mut() = status;
    answer
}
