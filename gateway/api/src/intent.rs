//! Writing a caller's intent: one transaction that holds the object, its task, the audit row, the
//! quota claim and the idempotency key; then 202. A dry run does all of it and commits nothing.

use crate::{
    App, Error,
    authentication::{Permit, ProjectRef},
    query::{self, IdempotencyKey, IfMatch, WriteParams},
};
use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use basalt_model::{
    FieldError, Generation, TaskId,
    roles::{Role, Scope, allows},
    tasks::Task,
};
use basalt_store::{Change, TenantTx, idempotency};
use basalt_wire::rest::Accepted;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

/// What the request line and headers say about a write.
pub struct Intent {
    /// Where.
    pub project: ProjectRef,
    line: Line,
}

/// The same before its project is known: where the body names it.
pub struct Line {
    /// Who writes.
    pub permit: Permit,
    /// The generation that the caller saw.
    pub expected: Option<Generation>,
    dry_run: bool,
    depends_on: Vec<TaskId>,
    key: Option<String>,
    digest: Sha256,
}

/// A write whose route knows more query parameters than every write does.
pub struct With<P>(pub Intent, pub P);

impl<S: Send + Sync> FromRequestParts<S> for Line {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let params = query::parse::<WriteParams>(parts.uri.query().unwrap_or_default())?;
        Self::read(parts, state, params, "").await
    }
}

impl<S: Send + Sync, P: DeserializeOwned + Send> FromRequestParts<S> for With<P> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let (every, own) = query::split(parts.uri.query().unwrap_or_default(), WriteParams::NAMES);
        let params = query::parse(&own)?;
        let line = Line::read(parts, state, query::parse(&every)?, &own).await?;
        Ok(Self(Intent { project: line.permit.project()?, line }, params))
    }
}

impl Line {
    async fn read<S: Send + Sync>(
        parts: &mut Parts,
        state: &S,
        params: WriteParams,
        own: &str,
    ) -> Result<Self, Error> {
        let permit = Permit::from_request_parts(parts, state).await?;
        let IfMatch(expected) = IfMatch::from_request_parts(parts, state).await?;
        let IdempotencyKey(key) = IdempotencyKey::from_request_parts(parts, state).await?;
        let mut digest = Sha256::new();
        if key.is_some() {
            let waits = params.depends_on.as_deref().unwrap_or_default();
            for part in
                [parts.method.as_str(), parts.uri.path(), if params.dry_run { "dry" } else { "" }, waits]
            {
                digest.update(part.as_bytes());
                digest.update([0]);
            }
            digest.update(own.as_bytes());
        }
        let depends_on = params.dependencies()?;
        Ok(Self { permit, expected, dry_run: params.dry_run, depends_on, key, digest })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Intent {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let line = Line::from_request_parts(parts, state).await?;
        Ok(Self { project: line.permit.project()?, line })
    }
}

impl Line {
    /// The write, in the project that the body named.
    pub fn in_project(self, project: ProjectRef) -> Intent {
        Intent { project, line: self }
    }
}

impl Intent {
    /// Whether it may be written in one transaction with others: it is meant, and nobody will ask again for its answer.
    pub fn may_be_shared(&self) -> bool {
        !self.line.dry_run && self.line.key.is_none() && self.line.depends_on.is_empty()
    }

    /// Whether the caller has a role at a scope.
    pub fn holds(&self, role: Role, scope: &Scope) -> bool {
        allows(&self.line.permit.principal.grants, role, scope)
    }

    /// The change in the caller's name.
    pub fn change(&self, app: &App) -> Change {
        self.line.permit.change(app)
    }

    /// Opens the transaction of a change that is made at once. When the idempotency key was seen before, its first answer
    /// comes as [`Error::Answered`].
    pub async fn begin(self, app: &App, body: &[u8]) -> Result<Writing, Error> {
        if self.waits() {
            return Err(Error::Query(FieldError::new(
                "depends_on",
                "not_supported",
                "only VMs and their verbs can wait for tasks",
                "wait for those tasks yourself (GET /v1/tasks/{task}?wait_seconds=55), then ask for this",
            )));
        }
        self.begin_waiting(app, body).await
    }

    /// Whether it names tasks that must complete first.
    pub fn waits(&self) -> bool {
        !self.line.depends_on.is_empty()
    }

    /// The same for a change that may wait for [`Writing::depends_on`].
    pub async fn begin_waiting(self, app: &App, body: &[u8]) -> Result<Writing, Error> {
        let Self { project, line } = self;
        let mut tx = app.store.tenant(project.tenant_id).await?;
        let change = line.permit.change(app);
        let principal = line.permit.principal.id;
        if let (Some(key), false) = (&line.key, line.dry_run) {
            let digest = line.digest.chain_update(body).finalize();
            match idempotency::begin(&mut tx, Some(project.tenant_id), principal, key, &digest, change.now)
                .await?
            {
                idempotency::Begin::Fresh => {}
                idempotency::Begin::Replay { status, location, body } => {
                    return Err(Error::Answered(Box::new(Answer { status, location, body })));
                }
            }
        }
        Ok(Writing {
            tx,
            change,
            project,
            expected: line.expected,
            depends_on: line.depends_on,
            dry_run: line.dry_run,
            key: line.key.map(|k| (principal, k)),
        })
    }
}

/// The first answer to a key, to be given again.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    location: Option<String>,
    body: serde_json::Value,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut response = (status, axum::Json(self.body)).into_response();
        if let Some(value) = self.location.and_then(|l| HeaderValue::try_from(l).ok()) {
            response.headers_mut().insert(header::LOCATION, value);
        }
        response
    }
}

/// An open write.
pub struct Writing {
    /// The transaction.
    pub tx: TenantTx,
    /// In whose name.
    pub change: Change,
    /// Where.
    pub project: ProjectRef,
    /// The generation that the caller saw.
    pub expected: Option<Generation>,
    /// Tasks that must complete first.
    pub depends_on: Vec<TaskId>,
    dry_run: bool,
    key: Option<(uuid::Uuid, String)>,
}

impl Writing {
    /// Commits and answers 202 with the object and its task; a dry run answers 200 and leaves nothing.
    pub async fn accept<T: Serialize>(self, object: T, task: Task) -> Result<Response, Error> {
        let location = format!("/v1/tasks/{}", task.id);
        let task = (!self.dry_run).then_some(task);
        let status = if self.dry_run { StatusCode::OK } else { StatusCode::ACCEPTED };
        let location = task.is_some().then_some(location);
        self.answer(status, location, &Accepted { object, task }).await
    }

    /// Commits and answers 202 with an object that says itself what becomes of it; a dry run answers 200.
    pub async fn later<T: Serialize>(self, at: String, body: &T) -> Result<Response, Error> {
        match self.dry_run {
            true => self.answer(StatusCode::OK, None, body).await,
            false => self.answer(StatusCode::ACCEPTED, Some(at), body).await,
        }
    }

    /// Commits and answers with a body.
    pub async fn answer<T: Serialize>(
        mut self,
        status: StatusCode,
        location: Option<String>,
        body: &T,
    ) -> Result<Response, Error> {
        let bytes = serde_json::to_vec(body).map_err(|e| Error::internal("writing an answer", e))?;
        if !self.dry_run {
            if let Some((principal, key)) = &self.key {
                let value =
                    serde_json::from_slice(&bytes).map_err(|e| Error::internal("writing an answer", e))?;
                idempotency::finish(
                    &mut self.tx,
                    *principal,
                    key,
                    status.as_u16(),
                    location.as_deref(),
                    &value,
                )
                .await?;
            }
            self.tx.commit().await?;
        }
        Ok(located(status, location, bytes))
    }
}

/// Answers 202 for what is committed.
pub fn accepted<T: Serialize>(object: T, task: Task) -> Result<Response, Error> {
    let location = Some(format!("/v1/tasks/{}", task.id));
    let bytes = serde_json::to_vec(&Accepted { object, task: Some(task) })
        .map_err(|e| Error::internal("writing an answer", e))?;
    Ok(located(StatusCode::ACCEPTED, location, bytes))
}

fn located(status: StatusCode, location: Option<String>, json: Vec<u8>) -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = (status, [kind], json).into_response();
    if let Some(value) = location.and_then(|l| HeaderValue::try_from(l).ok()) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// An object with its generation as `ETag`.
pub fn shown<T: Serialize>(generation: Generation, object: T) -> Response {
    tagged(generation, axum::Json(object).into_response())
}

/// An answer with a generation as `ETag`.
pub fn tagged(generation: Generation, mut response: Response) -> Response {
    if let Ok(value) = HeaderValue::try_from(format!("\"{}\"", generation.0)) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}
