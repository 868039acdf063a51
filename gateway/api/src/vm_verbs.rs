//! The verbs of a VM. Power verbs change what is wanted; reboot and reset are carried out at most
//! once; redeploy makes the VM anew.

use crate::{
    App, Error,
    body::NoBody,
    intent::Intent,
    query::{Named, WriteParams},
    vms::answer,
};
use axum::{extract::State, response::Response};
use basalt_model::vms::OperationVerb;
use basalt_store::{
    Key,
    task_dependencies::{self, Ask},
    vms::PowerVerb,
};
use basalt_wire::rest::{Accepted, Vm};

/// Wants a VM to run.
#[utoipa::path(post, path = "/v1/projects/{project}/vms/{vm}/start", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn start_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    set_power(&app, &vm, intent, PowerVerb::Start).await
}

/// Wants a VM shut down: ACPI first, force after its grace.
#[utoipa::path(post, path = "/v1/projects/{project}/vms/{vm}/stop", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn stop_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    set_power(&app, &vm, intent, PowerVerb::Stop).await
}

/// Wants a VM in memory without executing.
#[utoipa::path(post, path = "/v1/projects/{project}/vms/{vm}/pause", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn pause_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    set_power(&app, &vm, intent, PowerVerb::Pause).await
}

/// Wants a paused VM to execute again.
#[utoipa::path(post, path = "/v1/projects/{project}/vms/{vm}/resume", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn resume_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    set_power(&app, &vm, intent, PowerVerb::Resume).await
}

/// Asks the guest to restart, once.
#[utoipa::path(post, path = "/v1/projects/{project}/vms/{vm}/reboot", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn reboot_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    operate(&app, &vm, intent, OperationVerb::Reboot).await
}

/// Pulls and releases the reset line, once.
#[utoipa::path(post, path = "/v1/projects/{project}/vms/{vm}/reset", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn reset_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    operate(&app, &vm, intent, OperationVerb::Reset).await
}

/// Destroys a VM and makes it anew from its image, with the same identity and addresses.
#[utoipa::path(post, path = "/v1/projects/{project}/vms/{vm}/redeploy", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Vm>), (status = 200, description = "Dry run", body = Accepted<Vm>), crate::openapi::Problems))]
pub async fn redeploy_vm(
    State(app): State<App>,
    Named(vm): Named,
    intent: Intent,
    _: NoBody,
) -> Result<Response, Error> {
    ask(&app, &vm, intent, b"", Ask::Redeploy).await
}

async fn set_power(app: &App, vm: &str, intent: Intent, verb: PowerVerb) -> Result<Response, Error> {
    ask(app, vm, intent, b"", Ask::Power(verb)).await
}

async fn operate(app: &App, vm: &str, intent: Intent, verb: OperationVerb) -> Result<Response, Error> {
    ask(app, vm, intent, b"", Ask::Operate(verb)).await
}

/// Asks for a change of a VM: now, or when the tasks that it names have completed.
pub async fn ask(app: &App, vm: &str, intent: Intent, body: &[u8], ask: Ask) -> Result<Response, Error> {
    let key = Key::parse("vm", vm)?;
    let mut w = intent.begin_waiting(app, body).await?;
    let (project, expected) = (w.project.id, w.expected);
    let changed =
        task_dependencies::ask_vm(&mut w.tx, &w.change, project, Some(&key), expected, ask, &w.depends_on)
            .await?;
    answer(w, changed).await
}
