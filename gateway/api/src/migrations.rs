//! Migrations: asked for after everything that can be known was looked at, and shown while they go.

use crate::{
    App, Error,
    authentication::{Permit, ProjectRef},
    body::{self, Json},
    intent::Intent,
    pages,
    query::{Named, NoParams, Query, WriteParams, limit, read_cursor},
};
use axum::{Json as Answer, extract::State, response::Response};
use basalt_model::{
    CapabilityReason, FieldError, MigrationId, VmId,
    migrations::{MigrationMode, MigrationSpec},
    vms::Power,
};
use basalt_plan::{
    migrations as plan,
    placement::{self, HostView, Verdict, departure::Leaving},
};
use basalt_store::{
    Key,
    migrations::{self, MigrationView},
    vms::{self, VmView},
};
use basalt_wire::rest::{Accepted, Migration, Page};
use serde::Deserialize;
use utoipa::IntoParams;

/// Which migrations to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MigrationParams {
    /// Only of this VM, by its id.
    pub vm_id: Option<VmId>,
    /// Rows on a page, 1 to 500; 100 when nothing is said.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// Asks for a VM to go to another host. Refused at once when no host could take it now, with every reason; else it is
/// durable when this answers, and its task ends when one of the two hosts owns the VM for good.
#[utoipa::path(post, path = "/v1/projects/{project}/vms/{vm}/migrate", tag = "vms", request_body = MigrationSpec,
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Migration>), (status = 200, description = "Dry run", body = Accepted<Migration>), crate::openapi::Problems))]
pub async fn migrate_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    Json { value: spec, bytes }: Json<MigrationSpec>,
) -> Result<Response, Error> {
    body::check(&[(&spec, "")])?;
    let key = Key::parse("vm", &vm)?;
    let mut w = intent.begin(&app, &bytes).await?;
    let found = vms::get(&mut w.tx, w.project.id, &key).await?;
    let made = migrations::insert(&mut w.tx, &w.change, w.project.id, &key, &spec).await?;
    // Last: who repeats a request, or has something else wrong, is told of that.
    check(&app, w.project, &found, &spec)?;
    let shown = Migration { phase: Default::default(), progress: None, migration: made.object };
    w.accept(shown, made.task).await
}

/// Whether some host could take the VM in now. What runs out in the next second is found by who chooses.
fn check(app: &App, project: ProjectRef, vm: &VmView, spec: &MigrationSpec) -> Result<(), Error> {
    let Some(source) = vm.placement.as_ref().and_then(|p| p.host_id) else { return Ok(()) };
    let hosts = app.hub.read(|rows| rows.placement_hosts(|h| crate::explain::seen(app, h), app.clock.now()));
    let Some(source) = hosts.iter().find(|h| h.id == source) else { return Ok(()) };
    if let Some(name) = spec.host.as_ref().filter(|name| !hosts.iter().any(|h| h.name == **name)) {
        return Err(Error::Invalid(vec![FieldError::new(
            "host",
            "not_found",
            format!("there is no host {name}"),
            "name a host that exists, or leave the host out so that one is chosen",
        )]));
    }
    let mode = spec.mode.unwrap_or(match vm.vm.spec.power {
        Power::Stopped => MigrationMode::Cold,
        Power::Running | Power::Paused => MigrationMode::Live,
    });
    let (request, neighbours) = app.hub.read(|rows| {
        let request = rows.request_of(&vm.vm);
        let neighbours = rows.neighbours_of(project.id, &request, Some(VmId(vm.vm.metadata.id)));
        (request, neighbours)
    });
    let overlays = !request.images.is_empty();
    let how = (mode, spec.on_stall);
    let leaving = Leaving::new(request, source, how, overlays).map_err(|reason| cannot(vec![reason]))?;
    let wanted = |h: &&HostView| spec.host.as_ref().is_none_or(|name| *name == h.name);
    let decision = placement::choose(&leaving.request, &neighbours, hosts.iter().filter(wanted));
    let (Verdict::Later(reason) | Verdict::Never(reason)) = decision.verdict else { return Ok(()) };
    let mut reasons = vec![reason];
    for candidate in decision.explanation.candidates {
        reasons.extend(candidate.rejections);
    }
    Err(cannot(reasons))
}

fn cannot(reasons: Vec<CapabilityReason>) -> Error {
    let detail = reasons.first().map(ToString::to_string).unwrap_or_default();
    Error::Conflict { code: "cannot_migrate", detail, reasons }
}

/// Lists the migrations of a project's VMs, oldest first; those that ended are kept for a while.
#[utoipa::path(get, path = "/v1/projects/{project}/migrations", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), MigrationParams),
    responses((status = 200, body = Page<Migration>), crate::openapi::Problems))]
pub async fn list_migrations(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<MigrationParams>,
) -> Result<Answer<Page<Migration>>, Error> {
    let project = permit.project()?;
    let after = params.cursor.as_deref().map(read_cursor).transpose()?;
    let range = basalt_store::Page { limit: limit(params.limit)?, after, ..Default::default() };
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = migrations::list(&mut tx, project.id, params.vm_id, &range).await?;
    Ok(Answer(pages::shown(list, view)))
}

/// Shows a migration.
#[utoipa::path(get, path = "/v1/projects/{project}/migrations/{migration}", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("migration" = MigrationId, Path, description = "Id")),
    responses((status = 200, body = Migration), crate::openapi::Problems))]
pub async fn get_migration(
    State(app): State<App>,
    permit: Permit,
    Named(migration): Named,
    _: Query<NoParams>,
) -> Result<Answer<Migration>, Error> {
    let project = permit.project()?;
    let id = migration.parse().map_err(|_| Error::not_found("migration", &migration))?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    Ok(Answer(view(migrations::get(&mut tx, project.id, id).await?)))
}

fn view(found: MigrationView) -> Migration {
    let MigrationView { row, motion } = found;
    let motion = motion.filter(|m| m.id == row.migration.id);
    Migration {
        phase: plan::phase_of(&row.migration, row.begun_at.is_some(), motion.as_ref()),
        progress: motion.and_then(|m| m.progress),
        migration: row.migration,
    }
}
