//! The engine's HTTP, spoken over its unix socket: one connection a call, closed when the call is dropped.
//!
//! It is spoken by hand because what goes over it holds secrets (the environment of a container, in both directions)
//! and a client that writes bodies into its debug log, as the usual one does, would write them there.

use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{io, path::PathBuf, time::Duration};
use tokio::{net::UnixStream, task::AbortHandle};

/// Largest answer that is taken in: the listing of some ten thousand containers.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Why a call of the engine did not go.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody answers at the socket.
    Gone(io::Error),
    /// It broke off, or was no HTTP.
    Broken(String),
    /// The engine said no.
    Refused { status: u16, message: String },
}

pub(super) type Answer<T> = Result<T, Failure>;

/// An engine at a socket.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    pub(super) socket: PathBuf,
}

/// Ends the connection's task with the call.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Failure {
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Gone(_) | Self::Broken(_) => None,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::Gone(error) => error.to_string(),
            Self::Broken(message) | Self::Refused { message, .. } => message.clone(),
        }
    }
}

impl Engine {
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Answer<T> {
        let bytes = self.call(Method::GET, path, query, None).await?;
        // The text of the answer may hold secrets, so only where it is wrong is said, and not what stands there.
        serde_json::from_slice(&bytes).map_err(|e| {
            let place = format!("line {}, column {}", e.line(), e.column());
            Failure::Broken(format!(
                "the answer to GET {path} is not understood ({:?} at {place})",
                e.classify()
            ))
        })
    }

    pub(super) async fn post(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer<Bytes> {
        self.call(Method::POST, path, query, body).await
    }

    pub(super) async fn delete(&self, path: &str, query: &[(&str, &str)]) -> Answer<()> {
        self.call(Method::DELETE, path, query, None).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer<Bytes> {
        let (_connection, answer) = self.send(method, path, query, body).await?;
        collected(answer).await
    }

    /// What the engine sends for as long as it sends, piece by piece. An engine that says no has said so by then.
    pub(super) async fn stream(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Answer<impl Stream<Item = Answer<Bytes>> + Send + 'static> {
        let (connection, answer) = self.send(method, path, query, None).await?;
        Ok(answer.into_data_stream().map(move |piece| {
            let _held = &connection;
            piece.map_err(|e| Failure::Broken(e.to_string()))
        }))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer<(Connection, Incoming)> {
        let broken = |e: hyper::Error| Failure::Broken(e.to_string());
        let stream = UnixStream::connect(&self.socket).await.map_err(Failure::Gone)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = Connection(
            tokio::spawn(async move {
                // Its error is the call's error too.
                let _ = connection.await;
            })
            .abort_handle(),
        );
        let mut uri = path.to_owned();
        if !query.is_empty() {
            let pairs = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
            uri = format!("{path}?{pairs}");
        }
        let bytes = body.map_or_else(Bytes::new, |b| b.to_string().into());
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(HOST, "engine")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(bytes))
            .map_err(|e| Failure::Broken(e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok((connection, answer.into_body()));
        }
        let text = collected(answer.into_body()).await?;
        let said: Option<Value> = serde_json::from_slice(&text).ok();
        let message = said
            .as_ref()
            .and_then(|v| v.get("message")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&text).chars().take(500).collect());
        Err(Failure::Refused { status: status.as_u16(), message })
    }
}

async fn collected(body: Incoming) -> Answer<Bytes> {
    let all = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    all.map(|b| b.to_bytes()).map_err(|e| Failure::Broken(e.to_string()))
}

/// How long to wait before looking again at what others are changing just now.
pub(super) fn pause(round: u32) -> Duration {
    Duration::from_millis(100 * u64::from(round.min(10)))
}
