//! Deployments: declare, read, change, cancel, retry, adopt, remove. Nothing here asks a platform anything: what is wanted
//! goes into the truth, and the reconciler does the rest.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    intent::{self, Intent, With, Writing, tagged},
    pages,
    providers::check_engine,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, response::Response};
use basalt_model::{
    FieldError, Generation, ProjectId,
    attempts::DeploymentPhase,
    deployments::{DeploymentSpec, DesiredState},
};
use basalt_store::{
    Change, Key, New, TenantTx,
    deployments::{self, Adopted, Found, Listed, View},
    providers::Provider,
};
use basalt_wire::rest::{Create, Deployment, FoundWorkload, MISSES_STALE, Origin, Page, Update};
use serde::Deserialize;
use utoipa::IntoParams;

pub(crate) const KIND: &str = "deployment";

/// Lists the deployments of a project, and what was found beside them at its providers.
#[utoipa::path(get, path = "/v1/projects/{project}/deployments", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Deployment>), crate::openapi::Problems))]
pub async fn list_deployments(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Deployment>>, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = deployments::list(&mut tx, project.id, &pages::range(&params)?).await?;
    Ok(Answer(pages::shown(list, |listed| match listed {
        Listed::Managed(found) => view(*found),
        Listed::Found(found) => Deployment {
            tenant_id: Some(project.tenant_id),
            project_id: Some(project.id),
            ..found_view(found)
        },
    })))
}

/// Declares a deployment. It is carried out afterwards: its `phase` and `message` say how far it is.
#[utoipa::path(post, path = "/v1/projects/{project}/deployments", tag = "deployments", request_body = Create<DeploymentSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Deployment), (status = 200, description = "Dry run", body = Deployment), crate::openapi::Problems))]
pub async fn create_deployment(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Create<DeploymentSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    let mut w = intent.begin(&app, &bytes).await?;
    let made = make(&app, &mut w.tx, &w.change, w.project.id, value, None).await?;
    answer(w, made).await
}

/// Declares a deployment.
pub(crate) async fn make(
    app: &App,
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    body: Create<DeploymentSpec>,
    adopts: Option<Found>,
) -> Result<deployments::Deployment, Error> {
    let provider = deployments::open_provider(tx, project, &body.spec.provider).await?;
    check(app, &body.spec, &provider)?;
    let adopted = match adopts {
        Some(found) => Some(adoptable(tx, &body.spec, &provider, found).await?),
        None => None,
    };
    // Whoever declares anew what goes just now is told that it goes, not only that there is one.
    match deployments::get(tx, project, &Key::Name(body.name.clone())).await {
        Ok(old) if is_going(&old.deployment) => {
            let name = body.name.to_string();
            return Err(basalt_store::Error::Deleting { kind: KIND, name }.into());
        }
        Ok(_) | Err(basalt_store::Error::NotFound { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    let new = New { name: body.name, labels: body.labels, spec: body.spec };
    Ok(deployments::insert(tx, change, project, &new, adopted.as_ref()).await?)
}

/// Shows a deployment; by its id also something that was found.
#[utoipa::path(get, path = "/v1/projects/{project}/deployments/{deployment}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Name or id")),
    responses((status = 200, body = Deployment), crate::openapi::Problems))]
pub async fn get_deployment(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let key = Key::parse(KIND, &name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let shown = match deployments::get(&mut tx, project.id, &key).await {
        Ok(found) => view(found),
        Err(missing) => match found_by(&mut tx, project.id, &key, missing).await? {
            Err(missing) => return Err(missing.into()),
            Ok(found) => Deployment {
                tenant_id: Some(project.tenant_id),
                project_id: Some(project.id),
                ..found_view(found)
            },
        },
    };
    Ok(intent::shown(shown.generation, shown))
}

/// Changes what is wanted. The provider stays.
#[utoipa::path(put, path = "/v1/projects/{project}/deployments/{deployment}", tag = "deployments", request_body = Update<DeploymentSpec>,
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Deployment), (status = 200, description = "Dry run", body = Deployment), crate::openapi::Problems))]
pub async fn update_deployment(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    Json { value, bytes }: Json<Update<DeploymentSpec>>,
) -> Result<Response, Error> {
    body::check_update(&value)?;
    let key = Key::parse(KIND, &name)?;
    let mut w = intent.begin(&app, &bytes).await?;
    let update = basalt_store::Update { expected: w.expected, labels: value.labels, spec: value.spec };
    let changed = change(&app, &mut w.tx, &w.change, w.project.id, &key, &update).await?;
    answer(w, changed).await
}

/// Changes what is wanted of a deployment.
pub(crate) async fn change(
    app: &App,
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    update: &basalt_store::Update<DeploymentSpec>,
) -> Result<deployments::Deployment, Error> {
    let old = deployments::get(tx, project, key).await;
    let old = managed(tx, project, key, old).await?.deployment;
    // The same again is the same, whatever became of its provider; another provider is refused below.
    if old.spec != update.spec && old.spec.provider == update.spec.provider && !is_going(&old) {
        let provider = deployments::open_provider(tx, project, &update.spec.provider).await?;
        check(app, &update.spec, &provider)?;
    }
    Ok(deployments::update(tx, change, project, key, update).await?)
}

/// What a deletion may be told.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteDeployment {
    /// With `true` it is forgotten at once, and what runs of it at its provider is left there.
    #[serde(default)]
    pub orphan: bool,
}

/// Deletes a deployment: what runs of it is taken away, then it is forgotten. Asked again, nothing more happens.
#[utoipa::path(delete, path = "/v1/projects/{project}/deployments/{deployment}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Name or id"), WriteParams, DeleteDeployment),
    responses((status = 202, body = Deployment), (status = 200, description = "Dry run", body = Deployment), crate::openapi::Problems))]
pub async fn delete_deployment(
    State(app): State<App>,
    Named(name): Named,
    With(intent, params): With<DeleteDeployment>,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse(KIND, &name)?;
    let mut w = intent.begin(&app, b"").await?;
    let project = w.project.id;
    let gone = deployments::delete(&mut w.tx, &w.change, project, &key, w.expected, params.orphan).await;
    let gone = managed(&mut w.tx, project, &key, gone).await?;
    answer(w, gone).await
}

/// Wants a deployment undeployed: nothing of it is left at its provider, and it can be deployed again.
#[utoipa::path(post, path = "/v1/projects/{project}/deployments/{deployment}/cancel", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Deployment), (status = 200, description = "Dry run", body = Deployment), crate::openapi::Problems))]
pub async fn cancel_deployment(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    want(&app, intent, &name, DesiredState::Undeployed).await
}

/// Wants a deployment deployed again.
#[utoipa::path(post, path = "/v1/projects/{project}/deployments/{deployment}/deploy", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Deployment), (status = 200, description = "Dry run", body = Deployment), crate::openapi::Problems))]
pub async fn deploy_deployment(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    want(&app, intent, &name, DesiredState::Deployed).await
}

async fn want(app: &App, intent: Intent, name: &str, state: DesiredState) -> Result<Response, Error> {
    let key = Key::parse(KIND, name)?;
    let mut w = intent.begin(app, b"").await?;
    let project = w.project.id;
    let wanted = deployments::want(&mut w.tx, &w.change, project, &key, w.expected, state).await;
    let wanted = managed(&mut w.tx, project, &key, wanted).await?;
    answer(w, wanted).await
}

/// Asks for one more attempt, now, whatever came of the last one.
#[utoipa::path(post, path = "/v1/projects/{project}/deployments/{deployment}/retry", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Deployment), (status = 200, description = "Dry run", body = Deployment), crate::openapi::Problems))]
pub async fn retry_deployment(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse(KIND, &name)?;
    let mut w = intent.begin(&app, b"").await?;
    let project = w.project.id;
    let asked = deployments::retry(&mut w.tx, &w.change, project, &key, w.expected).await;
    let asked = managed(&mut w.tx, project, &key, asked).await?;
    answer(w, asked).await
}

/// Declares a deployment that takes over something that was found, by its id in the list.
#[utoipa::path(post, path = "/v1/projects/{project}/deployments/{deployment}/adopt", tag = "deployments", request_body = Create<DeploymentSpec>,
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Id of what was found"), WriteParams),
    responses((status = 202, body = Deployment), (status = 200, description = "Dry run", body = Deployment), crate::openapi::Problems))]
pub async fn adopt_deployment(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    Json { value, bytes }: Json<Create<DeploymentSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    let key = Key::parse(KIND, &name)?;
    let mut w = intent.begin(&app, &bytes).await?;
    let project = w.project.id;
    match deployments::get(&mut w.tx, project, &key).await {
        Ok(own) => Err(managed_already(own.deployment.metadata.name.as_str())),
        Err(missing) => {
            let found = found_by(&mut w.tx, project, &key, missing).await??;
            let made = make(&app, &mut w.tx, &w.change, project, value, Some(found)).await?;
            answer(w, made).await
        }
    }
}

fn managed_already(name: &str) -> Error {
    let reason = basalt_model::CapabilityReason::new(
        "managed",
        format!("deployment/{name}"),
        format!("{name} is a deployment already"),
        "adopt what has the origin discovered or orphaned in the list of deployments",
    );
    basalt_store::Error::Refused(Box::new(reason)).into()
}

/// What is taken over, if the spec names the place where it was found and nobody takes it over already.
async fn adoptable(
    tx: &mut TenantTx,
    spec: &DeploymentSpec,
    provider: &Provider,
    found: Found,
) -> Result<Adopted, Error> {
    let elsewhere = |field: &str, given: &str, at: &str| {
        let why = format!("{} is at {at}, not at {given}", found.name);
        Error::Invalid(vec![FieldError::new(field, "elsewhere", why, format!("give {at}"))])
    };
    if found.provider != spec.provider {
        return Err(elsewhere("spec.provider", spec.provider.as_str(), found.provider.as_str()));
    }
    if let Some(namespace) = spec.namespace_at(&provider.spec)
        && namespace.as_str() != found.namespace
    {
        return Err(elsewhere("spec.kubernetes.namespace", namespace.as_str(), &found.namespace));
    }
    let namespace = Some(found.namespace).filter(|n| !n.is_empty());
    let what = Adopted { kind: found.kind, namespace, name: found.name };
    match deployments::adopted_by(tx, provider.id(), &what).await? {
        None => Ok(what),
        Some(by) => {
            let by = vec![format!("deployment/{by} takes it over")];
            Err(basalt_store::Error::InUse { kind: "workload", name: what.name, by }.into())
        }
    }
}

/// What can be said before anything is tried. A target that is not there yet is no mistake: it is waited for.
fn check(app: &App, spec: &DeploymentSpec, provider: &Provider) -> Result<(), Error> {
    check_engine(app, &provider.spec, "spec.provider")?;
    let errors = spec.errors_at(&provider.spec);
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

fn is_going(of: &deployments::Deployment) -> bool {
    of.metadata.deletion_requested_at.is_some()
}

/// What was found under a key that no deployment has; else what the store said.
async fn found_by(
    tx: &mut impl basalt_store::Handle,
    project: ProjectId,
    key: &Key,
    missing: basalt_store::Error,
) -> Result<Result<Found, basalt_store::Error>, Error> {
    let (Key::Id(id), basalt_store::Error::NotFound { .. }) = (key, &missing) else {
        return Ok(Err(missing));
    };
    Ok(deployments::found(tx, project, *id).await?.ok_or(missing))
}

/// What was found and not declared is told apart from what is not there.
pub(crate) async fn managed<T>(
    tx: &mut impl basalt_store::Handle,
    project: ProjectId,
    key: &Key,
    asked: basalt_store::Result<T>,
) -> Result<T, Error> {
    match asked {
        Ok(done) => Ok(done),
        Err(missing) => Err(match found_by(tx, project, key, missing).await? {
            Ok(found) => deployments::not_managed(&found).into(),
            Err(missing) => missing.into(),
        }),
    }
}

async fn answer(mut writing: Writing, of: deployments::Deployment) -> Result<Response, Error> {
    let (id, project) = (of.metadata.id, writing.project.id);
    let shown = view(deployments::get(&mut writing.tx, project, &Key::Id(id)).await?);
    let generation = shown.generation;
    let at = format!("/v1/projects/{project}/deployments/{id}");
    Ok(tagged(generation, writing.later(at, &shown).await?))
}

/// The deployment as it is shown.
pub fn view(of: View) -> Deployment {
    let View { deployment, status, conditions } = of;
    let (going, metadata) = (is_going(&deployment), deployment.metadata);
    let generation = metadata.generation;
    let standing = status.as_ref().and_then(|s| s.standing.clone());
    let observed_generation = standing.as_ref().map_or(Generation(0), |s| s.observed_generation);
    let endpoints = standing.as_ref().map(|s| s.endpoints.clone()).unwrap_or_default();
    let (phase, message) = match standing {
        Some(judged) if observed_generation >= generation => (judged.phase, judged.message),
        _ if going => {
            (DeploymentPhase::Deleting, "the reconciler has not judged its deletion yet".to_owned())
        }
        _ => {
            let message = format!("the reconciler has not judged generation {} yet", generation.0);
            (DeploymentPhase::Pending, message)
        }
    };
    let (attempted, applied, next_retry_at) =
        status.map(|s| (s.attempted, s.applied, s.next_retry_at)).unwrap_or_default();
    Deployment {
        id: metadata.id,
        tenant_id: metadata.tenant_id,
        project_id: metadata.project_id,
        name: metadata.name.to_string(),
        labels: metadata.labels,
        generation,
        created_at: metadata.created_at,
        updated_at: metadata.updated_at,
        deletion_requested_at: metadata.deletion_requested_at,
        origin: Origin::Managed,
        spec: Some(deployment.spec),
        phase: Some(phase),
        message,
        observed_generation,
        endpoints,
        conditions,
        attempted,
        applied,
        next_retry_at,
        found: None,
    }
}

/// Something that was found, as it is shown; where it belongs is known from where it was asked for.
fn found_view(found: Found) -> Deployment {
    let misses = u32::try_from(found.misses).unwrap_or_default();
    let at = &found.provider;
    let message = match (found.owner, misses >= MISSES_STALE) {
        (_, true) => format!("it was not there at the last {misses} looks at {at}"),
        (None, false) => format!("it runs at {at} and was not declared here"),
        (Some(_), false) => format!("it runs at {at} and is of a deployment that is no more"),
    };
    Deployment {
        id: found.id,
        tenant_id: None,
        project_id: None,
        name: found.name,
        labels: Default::default(),
        generation: Generation(1),
        created_at: found.first_seen_at,
        updated_at: found.changed_at,
        deletion_requested_at: None,
        origin: if found.owner.is_some() { Origin::Orphaned } else { Origin::Discovered },
        spec: None,
        phase: None,
        message,
        observed_generation: Generation(1),
        endpoints: Vec::new(),
        conditions: Vec::new(),
        attempted: None,
        applied: None,
        next_retry_at: None,
        found: Some(FoundWorkload {
            kind: found.kind,
            namespace: Some(found.namespace).filter(|n| !n.is_empty()),
            provider: found.provider,
            owner: found.owner.map(Into::into),
            misses,
            stale: misses >= MISSES_STALE,
        }),
    }
}
