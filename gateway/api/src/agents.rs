//! Agents that deployments run (not those of hosts): register, read, change, remove.

use crate::{
    App, Error,
    artifacts::{DeleteArtifact, Shown, reference},
    authentication::Permit,
    body::{Json, NoBody},
    intent::{Intent, With},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, response::Response};
use basalt_model::{
    agents::AgentSpec,
    artifacts::{ArtifactKind, ArtifactSpec},
};
use basalt_store::artifacts::Artifact;
use basalt_wire::rest::{Agent, Page, Register, Update};

const SHOWN: Shown<Agent> = Shown { kind: ArtifactKind::Agent, view };

/// Lists the agents of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/agents", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Agent>), crate::openapi::Problems))]
pub async fn list_agents(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Agent>>, Error> {
    let list = SHOWN.list(&app, &permit, &params).await?;
    let (items, next) = (list.items.into_iter().filter_map(view).collect(), list.next);
    Ok(Answer(pages::shown(basalt_store::List { items, next }, |agent| agent)))
}

/// Registers an agent.
#[utoipa::path(post, path = "/v1/projects/{project}/agents", tag = "deployments", request_body = Register<AgentSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 201, body = Agent), crate::openapi::Problems))]
pub async fn create_agent(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Register<AgentSpec>>,
) -> Result<Response, Error> {
    SHOWN.register(&app, intent, value, &bytes, ArtifactSpec::Agent).await
}

/// Shows an agent.
#[utoipa::path(get, path = "/v1/projects/{project}/agents/{agent}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("agent" = String, Path, description = "`name:tag`, name (of the tag `latest`) or id")),
    responses((status = 200, body = Agent), crate::openapi::Problems))]
pub async fn get_agent(
    State(app): State<App>,
    permit: Permit,
    Named(named): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    SHOWN.get(&app, &permit, &named).await
}

/// Registers other content under the same tag. Content that is the same moves no generation.
#[utoipa::path(put, path = "/v1/projects/{project}/agents/{agent}", tag = "deployments", request_body = Update<AgentSpec>,
    params(("project" = String, Path, description = "Name or id"), ("agent" = String, Path, description = "`name:tag`, name (of the tag `latest`) or id"), WriteParams),
    responses((status = 200, body = Agent), crate::openapi::Problems))]
pub async fn update_agent(
    State(app): State<App>,
    Named(named): Named,
    intent: Intent,
    Json { value, bytes }: Json<Update<AgentSpec>>,
) -> Result<Response, Error> {
    SHOWN.change(&app, intent, &named, (value, &bytes), ArtifactSpec::Agent).await
}

/// Removes an agent.
#[utoipa::path(delete, path = "/v1/projects/{project}/agents/{agent}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("agent" = String, Path, description = "`name:tag`, name (of the tag `latest`) or id"), WriteParams, DeleteArtifact),
    responses((status = 200, body = Agent), crate::openapi::Problems))]
pub async fn delete_agent(
    State(app): State<App>,
    Named(named): Named,
    write: With<DeleteArtifact>,
    _: NoBody,
) -> Result<Response, Error> {
    SHOWN.remove(&app, write, &named).await
}

/// As it is shown; nothing of another kind.
pub fn view(artifact: Artifact) -> Option<Agent> {
    let reference = reference(&artifact);
    let ArtifactSpec::Agent(spec) = artifact.spec else { return None };
    let (metadata, tag, content_hash) = (artifact.metadata, artifact.tag, artifact.content_hash);
    Some(Agent { metadata, tag, reference, content_hash, spec })
}
