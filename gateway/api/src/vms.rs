//! Virtual machines: declare, read, change, delete.

use crate::{
    App, Error,
    authentication::Permit,
    body::{self, Json, NoBody},
    explain,
    intent::{self, Intent},
    pages,
    query::{ListParams, Named, NoParams, Query, WriteParams},
    vm_verbs::ask,
};
use axum::{
    Json as Answer,
    extract::State,
    response::{IntoResponse, Response},
};
use basalt_model::{Condition, ConditionStatus, hosts::HostState, vms::VmSpec};
use basalt_plan::conditions::{Placed, VmFacts, vm_phase};
use basalt_store::{
    Key, New,
    placements::Placement,
    task_dependencies::{self, Ask},
    vms::{self, VmView},
};
use basalt_wire::rest::{Accepted, Create, Page, Phase, Update, Vm, VmPlacement};

/// Lists the VMs of a project.
#[utoipa::path(get, path = "/v1/projects/{project}/vms", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ListParams),
    responses((status = 200, body = Page<Vm>), crate::openapi::Problems))]
pub async fn list_vms(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let range = pages::range(&params)?;
    if range.selector.0.is_empty() {
        // Which VMs there are, and at which generation, is read in the truth; how each is shown is
        // often known already. When one is not, all are read.
        let stamps = vms::stamps(&app.store, project.tenant_id, project.id, &range).await?;
        if let Some(stamps) = stamps
            && let Some(texts) = app.hub.vm_texts(&stamps.items)
        {
            return Ok(pages::written(&texts, stamps.next));
        }
    }
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let list = vms::list(&mut tx, project.id, &range).await?;
    Ok(Answer(pages::shown(list, view)).into_response())
}

/// Declares a VM. It is durable when this answers; the task ends when it runs.
#[utoipa::path(post, path = "/v1/projects/{project}/vms", tag = "vms", request_body = Create<VmSpec>,
    params(("project" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn create_vm(
    State(app): State<App>,
    intent: Intent,
    Json { value, bytes }: Json<Create<VmSpec>>,
) -> Result<Response, Error> {
    body::check_create(&value)?;
    explain::refuse_impossible(&app, intent.project, &value)?;
    if intent.waits() {
        return create_later(&app, intent, value, &bytes).await;
    }
    let room = explain::refuse_full_pools(&app, intent.project, &value);
    let new = New { name: value.name, labels: value.labels, spec: value.spec };
    if room.is_ok() && intent.may_be_shared() {
        let (project, change) = (intent.project, intent.change(&app));
        let made = vms::declare(&app.store, project.tenant_id, project.id, change, new.clone()).await?;
        if let Some(made) = made {
            return intent::accepted(view(fresh(made.object)), made.task);
        }
    }
    let mut writing = intent.begin(&app, &bytes).await?;
    let made = vms::insert(&mut writing.tx, &writing.change, writing.project.id, &new).await?;
    // Last: who repeats a request, or has something else wrong, is told of that.
    room?;
    writing.accept(view(fresh(made.object)), made.task).await
}

/// Declares a VM when the tasks that it waits for have completed. What depends on the state of things then (names,
/// quota, images) is judged then.
async fn create_later(
    app: &App,
    intent: Intent,
    value: Create<VmSpec>,
    bytes: &[u8],
) -> Result<Response, Error> {
    let mut w = intent.begin_waiting(app, bytes).await?;
    let ask = Ask::Create { name: value.name, labels: value.labels, spec: Box::new(value.spec) };
    let (project, expected) = (w.project.id, w.expected);
    let made =
        task_dependencies::ask_vm(&mut w.tx, &w.change, project, None, expected, ask, &w.depends_on).await?;
    w.accept(view(fresh(made.object)), made.task).await
}

/// A VM of which nothing was seen yet.
fn fresh(vm: vms::Vm) -> VmView {
    VmView { vm, placement: None, facts: None, conditions: Vec::new() }
}

/// Shows a VM.
#[utoipa::path(get, path = "/v1/projects/{project}/vms/{vm}", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id")),
    responses((status = 200, body = Vm), crate::openapi::Problems))]
pub async fn get_vm(
    State(app): State<App>,
    permit: Permit,
    Named(vm): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let key = Key::parse("vm", &vm)?;
    // As in a list: that it is there, who may see it and its generation are read in the truth.
    if let Some(stamp) = vms::stamp(&app.store, project.tenant_id, project.id, &key).await?
        && let Some([text]) = app.hub.vm_texts(&[stamp]).as_deref()
        && let Some(text) = text.get()
    {
        return Ok(intent::tagged(stamp.1, pages::json(text.to_string())));
    }
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = vms::get(&mut tx, project.id, &key).await?;
    Ok(intent::shown(found.vm.metadata.generation, view(found)))
}

/// Changes what is wanted of a VM.
#[utoipa::path(put, path = "/v1/projects/{project}/vms/{vm}", tag = "vms", request_body = Update<VmSpec>,
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn update_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    Json { value, bytes }: Json<Update<VmSpec>>,
) -> Result<Response, Error> {
    body::check_update(&value)?;
    let update = Ask::Update { labels: value.labels, spec: Box::new(value.spec) };
    ask(&app, &vm, intent, &bytes, update).await
}

/// Asks for a VM's deletion; the task ends when nothing of it is left.
#[utoipa::path(delete, path = "/v1/projects/{project}/vms/{vm}", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn delete_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    ask(&app, &vm, intent, b"", Ask::Delete).await
}

/// Answers a change with the VM as it stands, facts included.
pub async fn answer(
    mut writing: intent::Writing,
    changed: basalt_store::Accepted<vms::Vm>,
) -> Result<Response, Error> {
    let id = changed.object.metadata.id;
    let found = vms::get(&mut writing.tx, writing.project.id, &Key::Id(id)).await?;
    writing.accept(view(found), changed.task).await
}

/// The VM as it is shown.
pub fn view(v: VmView) -> Vm {
    let (facts, phase) = phase(&v.vm, v.placement.as_ref(), v.facts, &v.conditions);
    let placement =
        v.placement.and_then(|p| Some(VmPlacement { host_id: p.host_id?, host: p.host?, epoch: p.epoch }));
    Vm {
        metadata: v.vm.metadata,
        spec: v.vm.spec,
        phase,
        incarnation: v.vm.incarnation,
        nics: v.vm.nics,
        disks: v.vm.disks,
        placement,
        observed: facts.observed,
        observed_generation: facts.observed_generation,
        conditions: v.conditions,
    }
}

/// One word for where a VM is, from its rows and from what the conditions say of its host.
fn phase(
    vm: &vms::Vm,
    placement: Option<&Placement>,
    seen: Option<vms::VmFacts>,
    conditions: &[Condition],
) -> (VmFacts, Phase) {
    let says = |kind: &str, reason: &str| conditions.iter().any(|c| c.kind == kind && c.reason == reason);
    let state =
        if says("HostReachable", "host_unreachable") { HostState::Unreachable } else { HostState::Ready };
    let placed = placement.and_then(|p| Some(Placed { host: p.host.clone()?, epoch: p.epoch, state }));
    let (observed, observed_generation, observed_epoch) = match seen {
        Some(seen) => (seen.observed, seen.observed_generation, seen.epoch),
        None => Default::default(),
    };
    let unplaced = placed.is_none() && says("Placed", "no_host_fits");
    let facts = VmFacts {
        generation: vm.metadata.generation,
        deleting: vm.metadata.deletion_requested_at.is_some(),
        power: vm.spec.power,
        incarnation: vm.incarnation,
        placement: placed,
        explanation: None,
        in_manifest: true,
        observed,
        observed_generation,
        observed_epoch,
        stage: String::new(),
        parts: Vec::new(),
    };
    let blocked =
        unplaced || conditions.iter().any(|c| c.kind == "Blocked" && c.status == ConditionStatus::True);
    let phase = match vm_phase(&facts) {
        // The list of parts is not read here; the condition tells what it said.
        Phase::Pending if blocked => Phase::Blocked,
        phase => phase,
    };
    (facts, phase)
}
