//! Many documents in one call: each is read, checked and written by itself, in the order in which they need each other,
//! and each has its result.

use crate::{
    App, Error,
    artifacts::itself,
    authentication::{Permit, ProjectRef, find_project},
    body::{self, Json},
    deployments, providers,
    query::Query,
};
use axum::{Json as Answer, extract::State};
use basalt_model::{
    FieldError, Labels, Validate,
    artifacts::{ArtifactKind, ArtifactSpec},
    roles::Role,
};
use basalt_store::{
    Change, Error as Refused, Key, New, TenantTx,
    artifacts::{self, ArtifactKey},
    providers as stored_providers, secrets,
};
use basalt_wire::rest::{
    Application, Applications, Apply, ApplyOutcome, Create, Declared, DeclaredTagged, Document,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::IntoParams;

/// Most documents of one call.
const MAX_DOCUMENTS: usize = 500;

/// Where.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ApplyParams {
    /// The project: name or id.
    pub project: String,
}

/// Makes what documents say so, each in a transaction of its own: secrets, then providers, servers, agents, deployments.
/// A dry run is one transaction, so that a document may name what another would make.
#[utoipa::path(post, path = "/v1/apply", tag = "deployments", request_body = Apply, params(ApplyParams),
    responses((status = 200, body = Applications), crate::openapi::Problems))]
pub async fn apply(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ApplyParams>,
    Json { value, .. }: Json<Apply>,
) -> Result<Answer<Applications>, Error> {
    let project = find_project(&app, &permit.principal.grants, &params.project).await?;
    permit.demand(&project.scope(), "project", &params.project)?;
    if value.documents.len() > MAX_DOCUMENTS {
        let why = format!("{} documents are more than {MAX_DOCUMENTS}", value.documents.len());
        let error = FieldError::new("documents", "out_of_range", why, "send them in several calls");
        return Err(Error::Invalid(vec![error]));
    }
    let mut documents: Vec<(usize, Application, Result<Document, Error>)> =
        value.documents.into_iter().enumerate().map(|(n, d)| (n, unread(&d), read(d))).collect();
    documents.sort_by_key(|(_, _, document)| document.as_ref().map_or(0, rank));
    let mut dry = if value.dry_run { Some(app.store.tenant(project.tenant_id).await?) } else { None };
    let mut results = Vec::with_capacity(documents.len());
    for (n, mut result, document) in documents {
        let outcome = match document {
            Ok(document) => one(&app, &permit, project, document, &mut dry).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(outcome) => result.outcome = outcome,
            Err(error) => result.problem = Some(told(&error, &permit)),
        }
        results.push((n, result));
    }
    results.sort_by_key(|(n, _)| *n);
    Ok(Answer(Applications { results: results.into_iter().map(|(_, result)| result).collect() }))
}

/// The problem, and what went wrong inside for the log.
fn told(error: &Error, permit: &Permit) -> basalt_wire::rest::Problem {
    let problem = error.problem();
    if problem.status >= 500 {
        tracing::warn!(request_id = %permit.request_id, cause = %error, "a document was not applied");
    }
    problem
}

/// What a document calls itself, whether or not it can be read.
fn unread(document: &Map<String, Value>) -> Application {
    let text = |field: &str| document.get(field).and_then(Value::as_str);
    let short = |text: &str| text.chars().take(200).collect::<String>();
    let kind = text("kind").map(short).unwrap_or_default();
    let mut name = text("name").map(short).unwrap_or_default();
    if matches!(&*kind, "agent" | "server") {
        name = format!("{name}:{}", text("tag").map_or_else(|| "latest".to_owned(), short));
    }
    Application { kind, name, outcome: ApplyOutcome::Refused, problem: None }
}

fn rank(document: &Document) -> u8 {
    match document {
        Document::Secret(_) => 0,
        Document::Provider(_) => 1,
        Document::Server(_) => 2,
        Document::Agent(_) => 3,
        Document::Deployment(_) => 4,
    }
}

/// Reads a document as strictly as any body: its fields are named as those of the body that declares the kind.
fn read(mut document: Map<String, Value>) -> Result<Document, Error> {
    let kind = document.remove("kind");
    let rest = serde_json::to_vec(&document).map_err(|e| Error::internal("reading a document", e))?;
    let unknown = |what: String| {
        let known = "give secret, provider, server, agent or deployment";
        Err(Error::Invalid(vec![FieldError::new("kind", "unknown_value", what, known)]))
    };
    match kind.as_ref().and_then(Value::as_str) {
        Some("secret") => declared(&rest).map(Document::Secret),
        Some("provider") => declared(&rest).map(Document::Provider),
        Some("server") => tagged(&rest).map(Document::Server),
        Some("agent") => tagged(&rest).map(Document::Agent),
        Some("deployment") => declared(&rest).map(Document::Deployment),
        Some(other) => {
            unknown(format!("`{}` cannot be applied here", other.chars().take(80).collect::<String>()))
        }
        None => unknown("a document says of which kind it is".to_owned()),
    }
}

fn declared<S: Validate + serde::de::DeserializeOwned>(text: &[u8]) -> Result<Declared<S>, Error> {
    let read: Declared<S> = body::parse(text)?;
    checked(read.labels.as_ref(), &read.spec)?;
    Ok(read)
}

fn tagged<S: Validate + serde::de::DeserializeOwned>(text: &[u8]) -> Result<DeclaredTagged<S>, Error> {
    let read: DeclaredTagged<S> = body::parse(text)?;
    checked(read.labels.as_ref(), &read.spec)?;
    Ok(read)
}

fn checked(labels: Option<&Labels>, spec: &dyn Validate) -> Result<(), Error> {
    match labels {
        Some(labels) => body::check(&[(labels, "labels"), (spec, "spec")]),
        None => body::check(&[(spec, "spec")]),
    }
}

/// One document, in a transaction of its own unless nothing is to stay.
async fn one(
    app: &App,
    permit: &Permit,
    project: ProjectRef,
    document: Document,
    dry: &mut Option<TenantTx>,
) -> Result<ApplyOutcome, Error> {
    if matches!(document, Document::Provider(_)) {
        permit.demand_role(Role::Admin, &project.scope(), "project", &project.id.to_string())?;
    }
    let change = permit.change(app);
    if let Some(tx) = dry {
        return Writer { app, tx, change, project }.write(document).await;
    }
    let mut tx = app.store.tenant(project.tenant_id).await?;
    let outcome = Writer { app, tx: &mut tx, change, project }.write(document).await?;
    tx.commit().await?;
    Ok(outcome)
}

struct Writer<'a> {
    app: &'a App,
    tx: &'a mut TenantTx,
    change: Change,
    project: ProjectRef,
}

/// What is there; nothing when it is not there.
fn there<T>(found: basalt_store::Result<T>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Refused::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn compared<T: PartialEq>(before: &T, after: &T) -> ApplyOutcome {
    if before == after { ApplyOutcome::Unchanged } else { ApplyOutcome::Changed }
}

fn new<S>(of: Declared<S>) -> New<S> {
    New { name: of.name, labels: of.labels.unwrap_or_default(), spec: of.spec }
}

fn update<S>(of: Declared<S>) -> basalt_store::Update<S> {
    basalt_store::Update { expected: None, labels: of.labels, spec: of.spec }
}

impl Writer<'_> {
    async fn write(mut self, document: Document) -> Result<ApplyOutcome, Error> {
        match document {
            Document::Secret(of) => self.secret(of).await,
            Document::Provider(of) => self.provider(of).await,
            Document::Server(of) => self.artifact(of, ArtifactSpec::Server).await,
            Document::Agent(of) => self.artifact(of, ArtifactSpec::Agent).await,
            Document::Deployment(of) => self.deployment(of).await,
        }
    }

    async fn secret(
        &mut self,
        of: Declared<basalt_model::secrets::SecretSpec>,
    ) -> Result<ApplyOutcome, Error> {
        let (project, keys, key) = (self.project.id, &self.app.sealing_keys, Key::Name(of.name.clone()));
        let Some(before) = there(secrets::get(self.tx, project, &key).await)? else {
            secrets::insert(self.tx, &self.change, project, &new(of), keys).await?;
            return Ok(ApplyOutcome::Created);
        };
        let after = secrets::update(self.tx, &self.change, project, &key, &update(of), keys).await?;
        Ok(compared(&before, &after))
    }

    async fn provider(
        &mut self,
        of: Declared<basalt_model::providers::ProviderSpec>,
    ) -> Result<ApplyOutcome, Error> {
        providers::check_engine(self.app, &of.spec, "spec.engine")?;
        let (project, key) = (self.project.id, Key::Name(of.name.clone()));
        let Some(before) = there(stored_providers::get(self.tx, project, &key).await)? else {
            stored_providers::insert(self.tx, &self.change, project, &new(of)).await?;
            return Ok(ApplyOutcome::Created);
        };
        let after = stored_providers::update(self.tx, &self.change, project, &key, &update(of)).await?;
        Ok(compared(&before, &after))
    }

    async fn artifact<S>(
        &mut self,
        of: DeclaredTagged<S>,
        spec: fn(S) -> ArtifactSpec,
    ) -> Result<ApplyOutcome, Error> {
        let DeclaredTagged { name, tag, labels, spec: given } = of;
        let spec = spec(given);
        itself(&name, &tag, &spec)?;
        let (project, kind): (_, ArtifactKind) = (self.project.id, spec.kind());
        let key = ArtifactKey::Tagged(name.clone(), tag.clone());
        let Some(before) = there(artifacts::get(self.tx, project, kind, &key).await)? else {
            let new = New { name, labels: labels.unwrap_or_default(), spec };
            artifacts::insert(self.tx, &self.change, project, &tag, &new).await?;
            return Ok(ApplyOutcome::Created);
        };
        let update = basalt_store::Update { expected: None, labels, spec };
        let after = artifacts::update(self.tx, &self.change, project, &key, &update).await?;
        Ok(compared(&before, &after))
    }

    async fn deployment(
        &mut self,
        of: Declared<basalt_model::deployments::DeploymentSpec>,
    ) -> Result<ApplyOutcome, Error> {
        let (project, key) = (self.project.id, Key::Name(of.name.clone()));
        match there(basalt_store::deployments::get(self.tx, project, &key).await)? {
            // One that goes is declared anew when it is gone, and its changes are refused as such.
            Some(before) if before.deployment.metadata.deletion_requested_at.is_none() => {
                let update = update(of);
                let after =
                    deployments::change(self.app, self.tx, &self.change, project, &key, &update).await?;
                Ok(compared(&before.deployment, &after))
            }
            _ => {
                let New { name, labels, spec } = new(of);
                let body = Create { name, labels, spec };
                deployments::make(self.app, self.tx, &self.change, project, body, None).await?;
                Ok(ApplyOutcome::Created)
            }
        }
    }
}
