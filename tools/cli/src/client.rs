//! Talks to the gateway as any user does.

use crate::{Failure, config::Config, failure::standing_task, output::note};
use basalt_model::{
    TaskId,
    tasks::{Task, TaskLog, TaskState},
};
use basalt_wire::rest::Problem;
use bytes::Bytes;
use reqwest::{Certificate, Method, RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{cell::RefCell, fs, time::Duration};

/// Pause before a question that was not answered is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// Lines of a log that are asked for at once.
const LINES: usize = 500;

/// A connection to one gateway.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// A bare HTTPS client that trusts one authority (or the system's, when none is given).
pub fn https(ca_pem: Option<&[u8]>) -> Result<reqwest::Client, Failure> {
    // Harmless when a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Pings end a watch or a console whose gateway went away without a word.
    let mut builder = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(15))
        .http2_keep_alive_timeout(Duration::from_secs(15));
    if let Some(pem) = ca_pem {
        // An authority file without an authority would trust nobody, and say so of the gateway.
        if !String::from_utf8_lossy(pem).contains("-----BEGIN CERTIFICATE-----") {
            return Err(Failure::Usage("CA file: there is no certificate in it; give a PEM file".into()));
        }
        let ca = Certificate::from_pem(pem).map_err(|e| Failure::Usage(format!("CA file: {e}")))?;
        builder = builder.tls_certs_only([ca]);
    }
    builder.build().map_err(|e| Failure::Other(e.to_string()))
}

impl Client {
    /// A client from the user's configuration.
    pub fn new(config: &Config) -> Result<Self, Failure> {
        if config.url.is_empty() {
            return Err(Failure::Usage(
                "no gateway is known; log in first: basalt login --url https://…:9443".into(),
            ));
        }
        let ca = match &config.ca_file {
            Some(path) => {
                Some(fs::read(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?)
            }
            None => None,
        };
        let url = config.url.trim_end_matches('/').to_owned();
        Ok(Self { http: https(ca.as_deref())?, url, token: config.token.clone() })
    }

    /// The plain HTTPS client beneath, for doors other than the gateway's.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    /// `GET`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        decode(send(self.request(Method::GET, path).timeout(Duration::from_secs(90))).await?).await
    }

    /// `GET` whose body is read as it comes.
    pub async fn stream(&self, path: &str) -> Result<Response, Failure> {
        check(send(self.request(Method::GET, path)).await?).await
    }

    /// `POST` whose body is sent while the answer is read.
    pub async fn duplex<S>(&self, path: &str, pieces: S) -> Result<Response, Failure>
    where
        S: futures::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        let request = self.request(Method::POST, path).header("content-type", "application/octet-stream");
        check(send(request.body(reqwest::Body::wrap_stream(pieces))).await?).await
    }

    /// `GET` that answers `None` for 404.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        match self.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(Failure::Problem(p)) if p.status == 404 => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// `POST` with a JSON body.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        let request = self.request(Method::POST, path).json(body).timeout(Duration::from_secs(60));
        decode(send(request).await?).await
    }

    /// `POST` without a body.
    pub async fn call<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        decode(send(self.request(Method::POST, path).timeout(Duration::from_secs(60))).await?).await
    }

    /// `PUT` that succeeds only at a generation.
    pub async fn put<B: Serialize>(&self, path: &str, body: &B, generation: i64) -> Result<Value, Failure> {
        let request = self.request(Method::PUT, path).json(body).timeout(Duration::from_secs(60));
        decode(send(request.header("if-match", format!("\"{generation}\""))).await?).await
    }

    /// `PUT` of what has no generation.
    pub async fn replace<B: Serialize>(&self, path: &str, body: &B) -> Result<Value, Failure> {
        let request = self.request(Method::PUT, path).json(body).timeout(Duration::from_secs(60));
        decode(send(request).await?).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Result<Value, Failure> {
        decode(send(self.request(Method::DELETE, path).timeout(Duration::from_secs(60))).await?).await
    }

    /// Reads the lines of a task's log after the one with the number `seen`, and counts it on. `wait` goes into the query.
    pub async fn lines(
        &self,
        path: &str,
        wait: &str,
        seen: &mut i64,
        mut line: impl FnMut(&TaskLog),
    ) -> Result<(), Failure> {
        loop {
            let url = format!("{path}/logs?after={seen}&limit={LINES}{wait}");
            let lines: Vec<TaskLog> = self.get(&url).await?;
            for one in &lines {
                line(one);
                *seen = one.seq;
            }
            if lines.len() < LINES {
                return Ok(());
            }
        }
    }

    /// Follows a task to its end as [`Self::follow`] does; `line` hears of each line of its log when it is written.
    pub async fn follow_log(
        &self,
        id: TaskId,
        timeout: Duration,
        progress: impl FnMut(&Task),
        line: impl FnMut(&TaskLog),
    ) -> Result<Task, Failure> {
        let (path, log) = (format!("/v1/tasks/{id}"), RefCell::new((0, line)));
        let read = async || {
            let mut seen = log.borrow().0;
            let read = self.lines(&path, "&wait_seconds=20", &mut seen, |one| {
                let mut log = log.borrow_mut();
                log.0 = one.seq;
                (log.1)(one);
            });
            read.await
        };
        let reading = async {
            loop {
                // What goes wrong is said of the task itself, which is asked for beside this.
                let pause = if read().await.is_ok() { Duration::from_millis(50) } else { AGAIN };
                tokio::time::sleep(pause).await;
            }
        };
        let ended = tokio::select! {
            ended = self.follow(id, timeout, progress) => ended,
            ended = reading => ended,
        };
        if matches!(ended, Ok(_) | Err(Failure::Task(_))) {
            // Those that came just before its end; of an ended task the answer is not held.
            read().await?;
        }
        ended
    }

    /// Follows a task to its end; `progress` hears of every change. A gateway that goes away meanwhile is waited
    /// for: what was accepted goes on without it.
    pub async fn follow(
        &self,
        id: TaskId,
        timeout: Duration,
        mut progress: impl FnMut(&Task),
    ) -> Result<Task, Failure> {
        let mut last: Option<Task> = None;
        let mut away = Away::default();
        // The first look is outside of the bound, so that there is something to say when it is over.
        let mut answer = self.get::<Task>(&format!("/v1/tasks/{id}")).await;
        let follow = async {
            loop {
                if let Some(task) = away.bear(answer)? {
                    progress(&task);
                    let ended = task.state.is_terminal();
                    last = Some(task);
                    if ended {
                        return Ok::<_, Failure>(());
                    }
                }
                // The server holds the answer until there is news; this bounds a server that does not.
                tokio::time::sleep(away.pause(Duration::from_millis(50))).await;
                answer = self.get(&format!("/v1/tasks/{id}?wait_seconds=1")).await;
            }
        };
        let in_time = tokio::time::timeout(timeout, follow).await;
        match (in_time, away.0, last) {
            (Ok(Err(failure)), ..) | (Err(_), Some(failure), _) => Err(failure),
            (Ok(Ok(())), _, Some(task)) if task.state == TaskState::Completed => Ok(task),
            (Ok(Ok(())), _, Some(task)) => Err(Failure::Task(Box::new(task))),
            (_, _, task) => {
                let standing = task.map(|t| format!("; {}", standing_task(&t))).unwrap_or_default();
                Err(Failure::TimedOut(format!(
                    "task {id} did not end in time{standing}\n  it goes on: basalt logs {id}"
                )))
            }
        }
    }
}

/// The last question that was not answered, while one waits for a gateway that went away.
#[derive(Default)]
pub(crate) struct Away(pub(crate) Option<Failure>);

impl Away {
    /// `None` for an answer that did not come and may come later.
    pub(crate) fn bear<T>(&mut self, answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match answer {
            Ok(value) => {
                self.0 = None;
                Ok(Some(value))
            }
            Err(failure) if failure.may_pass() => {
                if self.0.is_none() {
                    note!("the gateway does not answer; still waiting");
                }
                self.0 = Some(failure);
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// How long to wait before the next question.
    pub(crate) fn pause(&self, usual: Duration) -> Duration {
        if self.0.is_some() { AGAIN } else { usual }
    }
}

async fn send(request: RequestBuilder) -> Result<Response, Failure> {
    request.send().await.map_err(|e| Failure::Unreachable(chain(&e)))
}

/// The whole chain of causes: reqwest's own sentence hides the reason.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Turns an error answer into a failure.
pub async fn check(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = response.bytes().await.map_err(|e| Failure::Unreachable(chain(&e)))?;
    let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&bytes).chars().take(300).collect::<String>();
        Problem::new(status.as_u16(), "unknown", status.canonical_reason().unwrap_or("Error"), text)
    });
    Err(Failure::Problem(Box::new(problem)))
}

async fn decode<T: DeserializeOwned>(response: Response) -> Result<T, Failure> {
    let bytes = check(response).await?.bytes().await.map_err(|e| Failure::Unreachable(chain(&e)))?;
    // An answer without content reads as null.
    Ok(serde_json::from_slice(if bytes.is_empty() { b"null" } else { &bytes })?)
}
