//! The wire: TLS, who asks, what goes wrong with a request on its way, and the answer's bytes.

use crate::{
    faults::Action,
    handle::Shared,
    rbac::Rule,
    requests::{self, Answer, Asked},
    status::Status,
    tls,
    watch::{self, Piece, Watched},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{io, sync::Arc};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_rustls::TlsAcceptor;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Takes connections until the task is dropped, and all of them with it.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener, acceptor: TlsAcceptor) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        // Else each answer of two parts waits for the client to say that it has the first.
        _ = tcp.set_nodelay(true);
        let (shared, acceptor) = (shared.clone(), acceptor.clone());
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let certificate = tls.get_ref().1.peer_certificates().and_then(|c| tls::common_name(c.first()?));
            let service = service_fn(move |request| handle(shared.clone(), certificate.clone(), request));
            // A connection that breaks is the client's to notice.
            _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

fn cut(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, why.to_owned())
}

fn full(code: u16, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn json(code: u16, value: &Value) -> Response<Body> {
    full(code, "application/json", value.to_string())
}

fn refused(status: &Status) -> Response<Body> {
    let mut response = json(status.code, &status.body());
    if let Some(seconds) = status.retry_after {
        response.headers_mut().insert(hyper::header::RETRY_AFTER, seconds.into());
    }
    response
}

fn streamed(receiver: mpsc::Receiver<Piece>, kind: &'static str) -> Response<Body> {
    let pieces = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece.map(Frame::data), receiver))
    });
    let mut response = Response::new(StreamBody::new(pieces.boxed()).boxed_unsync());
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

async fn handle(
    shared: Arc<Shared>,
    certificate: Option<String>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let mut asked =
        requests::parse(&shared, parts.method.as_str(), &path, parts.uri.query().unwrap_or_default());
    let header =
        |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    (asked.content_type, asked.accept) = (header("content-type"), header("accept"));
    asked.body = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    let user = shared.who(&header("authorization"), certificate.as_deref());
    if let Some((name, _)) = &user {
        asked.recorded.user.clone_from(name);
    }
    let fault = shared.faults.meet(asked.recorded.clone());
    match fault {
        Some(Action::Status(code)) => return Ok(refused(&made_up(code, None))),
        Some(Action::RetryAfter(code, seconds)) => return Ok(refused(&made_up(code, Some(seconds)))),
        Some(Action::ResetBefore) => return Err(cut("before")),
        Some(Action::HangBefore) => return std::future::pending().await,
        Some(Action::Hold) => shared.faults.hold().await,
        Some(Action::Delay(time)) => tokio::time::sleep(time).await,
        Some(Action::Garbage) => return Ok(full(200, "application/json", "{\"kind\":")),
        Some(Action::ResetAfter | Action::HangAfter) | None => {}
    }
    let Some((_, rules)) = user else {
        return Ok(refused(&Status::new(401, "Unauthorized", "Unauthorized")));
    };
    let answer = respond(&shared, &path, asked, &rules);
    shared.bump();
    match fault {
        Some(Action::ResetAfter) => Err(cut("after")),
        Some(Action::HangAfter) => std::future::pending().await,
        _ => Ok(answer),
    }
}

fn made_up(code: u16, retry_after: Option<u32>) -> Status {
    let (reason, message) = match code {
        401 => ("Unauthorized", "Unauthorized"),
        429 => ("TooManyRequests", "Too many requests, please try again later."),
        500 => ("InternalError", "Internal error occurred: etcdserver: request timed out"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => ("Timeout", "request did not complete within the allotted timeout"),
        _ => ("Unknown", "made up"),
    };
    Status { retry_after, ..Status::new(code, reason, message) }
}

fn respond(shared: &Arc<Shared>, path: &str, asked: Asked, rules: &[Rule]) -> Response<Body> {
    match requests::answer(shared, path, &asked, rules) {
        Ok(Answer::Json(code, value)) => json(code, &value),
        Ok(Answer::Text(text)) => full(200, "text/plain", text),
        Ok(Answer::Watch { kind, namespace, selector, from }) => {
            let watched = Watched {
                kind,
                namespace,
                selector,
                from,
                bookmarks: asked.flag("allowWatchBookmarks"),
                metadata_only: asked.metadata_only(),
                timeout: Watched::timeout(&asked, shared.watch_timeout()),
            };
            let (out, receiver) = mpsc::channel(64);
            tokio::spawn(watch::watch(shared.clone(), watched, out));
            streamed(receiver, "application/json")
        }
        Ok(Answer::Log { namespace, pod }) => {
            let (out, receiver) = mpsc::channel(64);
            tokio::spawn(watch::follow(shared.clone(), asked, namespace, pod, out));
            streamed(receiver, "text/plain")
        }
        Err(status) => refused(&status),
    }
}
