//! Ports: a VM's connections to networks, read only; they come and go with their VM.

use crate::{
    App, Error,
    authentication::Permit,
    pages,
    query::{ListParams, Named, NoParams, Query},
};
use axum::{Json as Answer, extract::State};
use basalt_store::networks;
use basalt_wire::rest::{Page, Port};
use uuid::Uuid;

/// Lists the ports of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/ports", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Port>), crate::openapi::Problems))]
pub async fn list_ports(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Port>>, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = networks::ports(&mut tx, project.id, None, &pages::range(&params)?).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Shows a port, by its id: ports have no names.
#[utoipa::path(get, path = "/v1/projects/{project}/ports/{port}", tag = "networks",
    params(("project" = String, Path, description = "Name or id"), ("port" = Uuid, Path, description = "Id")),
    responses((status = 200, body = Port), crate::openapi::Problems))]
pub async fn get_port(
    State(app): State<App>,
    permit: Permit,
    Named(port): Named,
    _: Query<NoParams>,
) -> Result<Answer<Port>, Error> {
    let project = permit.project()?;
    let id: Uuid = port.parse().map_err(|_| Error::not_found("port", &port))?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = networks::ports(&mut tx, project.id, None, &pages::just(id)).await?.items.pop();
    Ok(Answer(view(found.filter(|p| p.nic.port_id.0 == id).ok_or_else(|| Error::not_found("port", &port))?)))
}

fn view(port: networks::Port) -> Port {
    Port { nic: port.nic, vm_id: port.vm_id }
}
