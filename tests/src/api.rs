//! A client of the users' door that says in one sentence what a refused request was refused for.

use anyhow::{Context, Result, anyhow, bail};
use basalt_model::{
    TaskId, VmId,
    tasks::{Task, TaskState},
};
use basalt_wire::rest::{Accepted, Problem, Vm};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// How long one request may take: longer than the longest long poll.
const REQUEST_LIMIT: Duration = Duration::from_secs(70);

/// The users' door under one token. Clones share connections.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: Arc<str>,
    token: Arc<str>,
    project: Arc<str>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Where the task is, of an accepted write.
    pub location: Option<String>,
    /// The body, `null` where there is none.
    pub body: Value,
}

impl Answer {
    /// The body as a type; a refusal becomes an error with the problem's own words.
    pub fn ok<T: DeserializeOwned>(self) -> Result<T> {
        if !self.status.is_success() {
            bail!("{}: {}", self.status, self.body);
        }
        let text = self.body.to_string();
        serde_json::from_value(self.body).with_context(|| format!("an answer of another shape: {text}"))
    }

    /// The problem of a refusal.
    pub fn problem(self) -> Result<Problem> {
        if self.status.is_success() {
            bail!("it was accepted: {}", self.body);
        }
        serde_json::from_value(self.body).context("a refusal must be a problem")
    }
}

impl Api {
    /// A client that trusts one certificate authority and works in one project.
    pub fn new(base: &str, ca_pem: &str, token: &str, project: &str) -> Result<Self> {
        let ca = reqwest::Certificate::from_pem(ca_pem.as_bytes())?;
        let http = reqwest::Client::builder().tls_certs_only([ca]).timeout(REQUEST_LIMIT).build()?;
        Ok(Self { http, base: base.into(), token: token.into(), project: project.into() })
    }

    /// The same client in another project.
    pub fn in_project(&self, project: &str) -> Self {
        Self { project: project.into(), ..self.clone() }
    }

    /// The same client under another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.into(), ..self.clone() }
    }

    /// The same client at another gateway.
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.into(), ..self.clone() }
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A path inside the project.
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/projects/{}/{rest}", self.project)
    }

    /// A request that was not sent yet.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// Sends a request and reads the answer whole.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        let response = request.send().await?;
        let status = response.status();
        let location = response.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_owned);
        let bytes = response.bytes().await?;
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => {
                serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)))
            }
        };
        Ok(Answer { status, location, body })
    }

    /// `GET`, typed.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(self.request(Method::GET, path)).await?.ok().with_context(|| format!("GET {path}"))
    }

    /// `GET`; `None` when there is no such thing.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let answer = self.send(self.request(Method::GET, path)).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => answer.ok().map(Some).with_context(|| format!("GET {path}")),
        }
    }

    /// `POST` with a body, as it came.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// `POST` with a body, typed.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        self.try_post(path, body).await?.ok().with_context(|| format!("POST {path}"))
    }

    /// `POST` without a body, typed.
    pub async fn call<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.send(self.request(Method::POST, path)).await?;
        answer.ok().with_context(|| format!("POST {path}"))
    }

    /// `PUT` with a body, typed.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        let answer = self.send(self.request(Method::PUT, path).json(body)).await?;
        answer.ok().with_context(|| format!("PUT {path}"))
    }

    /// `DELETE`, as it came.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Declares a VM over the ready image `tiny` on the network `lan`, with changes to the usual spec.
    pub async fn create_vm(&self, name: &str, changes: Value) -> Result<(Vm, Task)> {
        let accepted: Accepted<Vm> = self.post(&self.path("vms"), &vm(name, changes)).await?;
        Ok((accepted.object, accepted.task.context("an accepted create has a task")?))
    }

    /// A VM as it is now.
    pub async fn vm(&self, name: &str) -> Result<Vm> {
        self.get(&self.path(&format!("vms/{name}"))).await
    }

    /// Sends a verb to a VM and gives the task.
    pub async fn verb(&self, name: &str, verb: &str) -> Result<Task> {
        let accepted: Accepted<Vm> = self.call(&self.path(&format!("vms/{name}/{verb}"))).await?;
        accepted.task.context("an accepted verb has a task")
    }

    /// Asks for a VM's deletion and gives the task.
    pub async fn delete_vm(&self, name: &str) -> Result<Task> {
        let path = self.path(&format!("vms/{name}"));
        let accepted: Accepted<Vm> =
            self.delete(&path).await?.ok().with_context(|| format!("DELETE {path}"))?;
        accepted.task.context("an accepted deletion has a task")
    }

    /// Waits for a task's end by long poll, through restarts of the gateway.
    pub async fn ended(&self, id: TaskId) -> Result<Task> {
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let read = self.get::<Task>(&format!("/v1/tasks/{id}?wait_seconds=20")).await;
            match read {
                Ok(task) if task.state.is_terminal() => return Ok(task),
                Ok(task) if tokio::time::Instant::now() > end => {
                    bail!("task {id} ({:?}) is still {:?}: {}", task.kind, task.state, task.stage)
                }
                Err(e) if tokio::time::Instant::now() > end => return Err(e),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Waits until a task completed; any other end is an error.
    pub async fn completed(&self, task: &Task) -> Result<Task> {
        let ended = self.ended(task.id).await?;
        match ended.state {
            TaskState::Completed => Ok(ended),
            other => Err(anyhow!(
                "task {:?} of {} ended {other:?}: {:?}",
                ended.kind,
                ended.subject.name,
                ended.error
            )),
        }
    }

    /// Declares a VM and waits until it runs.
    pub async fn running_vm(&self, name: &str) -> Result<Vm> {
        let (_, task) = self.create_vm(name, json!({})).await?;
        self.completed(&task).await?;
        self.vm(name).await
    }
}

/// The body that declares the usual small VM; `changes` replace fields of its spec.
pub fn vm(name: &str, changes: Value) -> Value {
    let mut spec = json!({
        "cpus": 1, "memory_bytes": 256 << 20,
        "disks": [{"name": "root", "source": {"kind": "image", "image": "tiny"}}],
        "nics": [{"network": "lan"}],
        "stop_grace_seconds": 1,
    });
    if let (Some(spec), Value::Object(changes)) = (spec.as_object_mut(), changes) {
        spec.extend(changes);
    }
    json!({"name": name, "spec": spec})
}

/// The id of a VM as its own type.
pub fn vm_id(vm: &Vm) -> VmId {
    VmId(vm.metadata.id)
}
