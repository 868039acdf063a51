//! The verbs of a VM. Power verbs change what is wanted; reboot and reset are carried out at most
//! once; redeploy makes the VM anew.

use crate::{
    App, Error,
    body::NoBody,
    intent::{Intent, Writing},
    query::{Named, WriteParams},
    vms::answer,
};
use axum::{extract::State, response::Response};
use basalt_model::vms::OperationVerb;
use basalt_store::{
    Key,
    vms::{self, PowerVerb},
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
    let (key, mut w) = begin(&app, &vm, intent).await?;
    let changed = vms::redeploy(&mut w.tx, &w.change, w.project.id, &key, w.expected).await?;
    answer(w, changed).await
}

async fn begin(app: &App, vm: &str, intent: Intent) -> Result<(Key, Writing), Error> {
    Ok((Key::parse("vm", vm)?, intent.begin(app, b"").await?))
}

async fn set_power(app: &App, vm: &str, intent: Intent, verb: PowerVerb) -> Result<Response, Error> {
    let (key, mut w) = begin(app, vm, intent).await?;
    let changed = vms::set_power(&mut w.tx, &w.change, w.project.id, &key, w.expected, verb).await?;
    answer(w, changed).await
}

async fn operate(app: &App, vm: &str, intent: Intent, verb: OperationVerb) -> Result<Response, Error> {
    let (key, mut w) = begin(app, vm, intent).await?;
    let changed = vms::operate(&mut w.tx, &w.change, w.project.id, &key, w.expected, verb).await?;
    answer(w, changed).await
}
