//! Volumes: declare, read, delete.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    explain,
    intent::{self, Intent},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
};
use axum::{Json as Answer, extract::State, response::Response};
use basalt_model::{
    Generation,
    volumes::{VolumeSpec, VolumeState},
};
use basalt_store::{
    Key, New,
    volumes::{self, VolumeView},
};
use basalt_wire::rest::{Accepted, Create, Page, Phase, Volume};

/// Lists the volumes of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/volumes", tag = "volumes",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Volume>), crate::openapi::Problems))]
pub async fn list_volumes(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Volume>>, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = volumes::list(&mut tx, project.id, &pages::range(&params)?).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Declares a volume.
#[utoipa::path(post, path = "/v1/projects/{project}/volumes", tag = "volumes", request_body = Create<VolumeSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Volume>), (status = 200, description = "Dry run", body = Accepted<Volume>), crate::openapi::Problems))]
pub async fn create_volume(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Create<VolumeSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    let mut writing = intent.begin(&app, &bytes).await?;
    let room = explain::refuse_full_pool(&app, &value);
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    let made = volumes::insert(&mut writing.tx, &writing.change, writing.project.id, &new).await?;
    room?;
    answer(writing, made).await
}

/// Shows a volume.
#[utoipa::path(get, path = "/v1/projects/{project}/volumes/{volume}", tag = "volumes",
    params(("project" = String, Path, description = "Name or id"), ("volume" = String, Path, description = "Name or id")),
    responses((status = 200, body = Volume), crate::openapi::Problems))]
pub async fn get_volume(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let key = Key::parse("volume", &name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = volumes::get(&mut tx, project.id, &key).await?;
    Ok(intent::shown(found.volume.metadata.generation, view(found)))
}

/// Asks for a volume's deletion; refused while something uses it.
#[utoipa::path(delete, path = "/v1/projects/{project}/volumes/{volume}", tag = "volumes",
    params(("project" = String, Path, description = "Name or id"), ("volume" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Volume>), (status = 200, description = "Dry run", body = Accepted<Volume>), crate::openapi::Problems))]
pub async fn delete_volume(
    State(app): State<App>,
    Named(name): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    let key = Key::parse("volume", &name)?;
    let mut writing = intent.begin(&app, b"").await?;
    let changed =
        volumes::delete(&mut writing.tx, &writing.change, writing.project.id, &key, writing.expected).await?;
    answer(writing, changed).await
}

/// Answers a change with the volume as it stands, facts included.
async fn answer(
    mut writing: intent::Writing,
    changed: basalt_store::Accepted<volumes::Volume>,
) -> Result<Response, Error> {
    let id = changed.object.metadata.id;
    let found = volumes::get(&mut writing.tx, writing.project.id, &Key::Id(id)).await?;
    writing.accept(view(found), changed.task).await
}

/// The volume as it is shown.
pub fn view(v: VolumeView) -> Volume {
    let phase = phase(&v);
    let (observed, observed_generation) = match v.facts {
        Some(facts) => (facts.observed, facts.observed_generation),
        None => (Default::default(), Generation::default()),
    };
    Volume {
        metadata: v.volume.metadata,
        spec: v.volume.spec,
        vm_id: v.volume.vm_id,
        phase,
        observed,
        observed_generation,
        conditions: v.conditions,
    }
}

/// A volume that no VM needed yet is on no host, and as declared.
fn phase(v: &VolumeView) -> Phase {
    if v.volume.metadata.deletion_requested_at.is_some() {
        return Phase::Deleting;
    }
    match (&v.facts, v.volume.host_id) {
        (None, None) => Phase::Ready,
        (None, Some(_)) => Phase::Pending,
        (Some(facts), _) if facts.observed.blocked.is_some() => Phase::Blocked,
        (Some(facts), _) => match facts.observed.state {
            VolumeState::Unbound | VolumeState::Ready => Phase::Ready,
            VolumeState::Creating | VolumeState::Absent => Phase::Pending,
            VolumeState::Unavailable => Phase::Unknown,
        },
    }
}
