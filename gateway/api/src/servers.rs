//! MCP servers that deployments run: register, read, change, remove.

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
    artifacts::{ArtifactKind, ArtifactSpec},
    servers::ServerSpec,
};
use basalt_store::artifacts::Artifact;
use basalt_wire::rest::{Page, Register, Server, Update};

const SHOWN: Shown<Server> = Shown { kind: ArtifactKind::Server, view };

/// Lists the MCP servers of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/servers", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Server>), crate::openapi::Problems))]
pub async fn list_servers(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Server>>, Error> {
    let list = SHOWN.list(&app, &permit, &params).await?;
    let (items, next) = (list.items.into_iter().filter_map(view).collect(), list.next);
    Ok(Answer(pages::shown(basalt_store::List { items, next }, |server| server)))
}

/// Registers an MCP server.
#[utoipa::path(post, path = "/v1/projects/{project}/servers", tag = "deployments", request_body = Register<ServerSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 201, body = Server), crate::openapi::Problems))]
pub async fn create_server(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Register<ServerSpec>>,
) -> Result<Response, Error> {
    SHOWN.register(&app, intent, value, &bytes, ArtifactSpec::Server).await
}

/// Shows an MCP server.
#[utoipa::path(get, path = "/v1/projects/{project}/servers/{server}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("server" = String, Path, description = "`name:tag`, name (of the tag `latest`) or id")),
    responses((status = 200, body = Server), crate::openapi::Problems))]
pub async fn get_server(
    State(app): State<App>,
    permit: Permit,
    Named(named): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    SHOWN.get(&app, &permit, &named).await
}

/// Registers other content under the same tag. Content that is the same moves no generation.
#[utoipa::path(put, path = "/v1/projects/{project}/servers/{server}", tag = "deployments", request_body = Update<ServerSpec>,
    params(("project" = String, Path, description = "Name or id"), ("server" = String, Path, description = "`name:tag`, name (of the tag `latest`) or id"), WriteParams),
    responses((status = 200, body = Server), crate::openapi::Problems))]
pub async fn update_server(
    State(app): State<App>,
    Named(named): Named,
    intent: Intent,
    Json { value, bytes }: Json<Update<ServerSpec>>,
) -> Result<Response, Error> {
    SHOWN.change(&app, intent, &named, (value, &bytes), ArtifactSpec::Server).await
}

/// Removes an MCP server.
#[utoipa::path(delete, path = "/v1/projects/{project}/servers/{server}", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("server" = String, Path, description = "`name:tag`, name (of the tag `latest`) or id"), WriteParams, DeleteArtifact),
    responses((status = 200, body = Server), crate::openapi::Problems))]
pub async fn delete_server(
    State(app): State<App>,
    Named(named): Named,
    write: With<DeleteArtifact>,
    _: NoBody,
) -> Result<Response, Error> {
    SHOWN.remove(&app, write, &named).await
}

/// As it is shown; nothing of another kind.
pub fn view(artifact: Artifact) -> Option<Server> {
    let reference = reference(&artifact);
    let ArtifactSpec::Server(spec) = artifact.spec else { return None };
    let (metadata, tag, content_hash) = (artifact.metadata, artifact.tag, artifact.content_hash);
    Some(Server { metadata, tag, reference, content_hash, spec })
}
