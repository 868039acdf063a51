//! Networks: declare, read, change, delete.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    intent::{self, Intent},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use basalt_model::{
    FieldError,
    networks::NetworkSpec,
    roles::{Role, Scope},
};
use basalt_store::{
    Key, New, hosts,
    networks::{self, NetworkView},
};
use basalt_wire::rest::{Accepted, Create, Network, Page, Phase, Update};

/// Lists the networks of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/networks", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Network>), crate::openapi::Problems))]
pub async fn list_networks(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Network>>, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = networks::list(&mut tx, project.id, &pages::range(&params)?).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Declares a network.
#[utoipa::path(post, path = "/v1/projects/{project}/networks", tag = "networks", request_body = Create<NetworkSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Network>), (status = 200, description = "Dry run", body = Accepted<Network>), crate::openapi::Problems))]
pub async fn create_network(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Create<NetworkSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    check_wire(&intent, &value.spec)?;
    check_path(&app, &value.spec).await?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    let made = networks::insert(&mut writing.tx, &writing.change, writing.project.id, &new).await?;
    answer(writing, made).await
}

/// Which wires of the hosts belong to whom is said by who runs the system.
fn check_wire(intent: &Intent, spec: &NetworkSpec) -> Result<(), Error> {
    match spec.segment.uplink().is_some() && !intent.holds(Role::Admin, &Scope::System) {
        true => Err(Error::NeedsSystemAdmin {
            field: "spec.segment",
            why: "networks on a wire of the hosts are made by an administrator of the system",
            remedy: "use a vxlan network, or let an administrator of the system make this one",
        }),
        false => Ok(()),
    }
}

/// Frames of the network pass between all hosts that may have a part in it.
async fn check_path(app: &App, spec: &NetworkSpec) -> Result<(), Error> {
    let mut tx = app.store.system().await?;
    let narrowest = hosts::narrowest_path(&mut tx, &spec.segment).await?;
    drop(tx);
    match narrowest {
        Some((host, largest)) if spec.mtu > largest => Err(Error::Invalid(vec![FieldError::new(
            "spec.mtu",
            "mtu_too_large",
            format!("frames of {} bytes do not leave the host {host}: {largest} is the most", spec.mtu),
            format!("give at most {largest}, or raise the MTU between the hosts"),
        )])),
        _ => Ok(()),
    }
}

/// Shows a network.
#[utoipa::path(get, path = "/v1/projects/{project}/networks/{network}", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ("network" = String, Path, description = "Name or id")),
    responses((status = 200, body = Network), crate::openapi::Problems))]
pub async fn get_network(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let key = Key::parse("network", &name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = networks::get(&mut tx, project.id, &key).await?;
    Ok(intent::shown(found.network.metadata.generation, view(found)))
}

/// Changes what is wanted of a network.
#[utoipa::path(put, path = "/v1/projects/{project}/networks/{network}", tag = "networks", request_body = Update<NetworkSpec>,
    params(("project" = String, Path, description = "Name or id"), ("network" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 200, body = Network), crate::openapi::Problems))]
pub async fn update_network(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    Json { value, bytes }: Json<Update<NetworkSpec>>,
) -> Result<Response, Error> {
    body::check_update(&value)?;
    let key = Key::parse("network", &name)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let now = networks::get(&mut writing.tx, writing.project.id, &key).await?;
    if now.network.spec.mtu != value.spec.mtu {
        check_path(&app, &value.spec).await?;
    }
    let update = basalt_store::Update { expected: writing.expected, labels: value.labels, spec: value.spec };
    let changed =
        networks::update(&mut writing.tx, &writing.change, writing.project.id, &key, &update).await?;
    let found = networks::get(&mut writing.tx, writing.project.id, &Key::Id(changed.metadata.id)).await?;
    writing.answer(StatusCode::OK, None, &view(found)).await
}

/// Asks for a network's deletion; refused while something uses it.
#[utoipa::path(delete, path = "/v1/projects/{project}/networks/{network}", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ("network" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Network>), (status = 200, description = "Dry run", body = Accepted<Network>), crate::openapi::Problems))]
pub async fn delete_network(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse("network", &name)?;
    let mut writing = intent.begin(&app, b"").await?;
    let changed =
        networks::delete(&mut writing.tx, &writing.change, writing.project.id, &key, writing.expected)
            .await?;
    answer(writing, changed).await
}

/// Answers a change with the network as it stands, facts included.
async fn answer(
    mut writing: intent::Writing,
    changed: basalt_store::Accepted<networks::Network>,
) -> Result<Response, Error> {
    let id = changed.object.metadata.id;
    let found = networks::get(&mut writing.tx, writing.project.id, &Key::Id(id)).await?;
    writing.accept(view(found), changed.task).await
}

/// The network as it is shown.
pub fn view(v: NetworkView) -> Network {
    let phase = match v.network.metadata.deletion_requested_at {
        Some(_) => Phase::Deleting,
        None => Phase::Ready,
    };
    Network {
        metadata: v.network.metadata,
        spec: v.network.spec,
        vni: v.network.vni,
        phase,
        addresses_used: v.addresses_used,
    }
}
