//! The serial console of a VM through the gateway. The agent cannot be called, it calls: a user's request leaves a
//! ticket that the agent's long poll takes along, and the request with which the agent redeems it is the other end.
//!
//! ```text
//! user  ── POST …/console ──► ticket ──► GET /agent/v1/consoles ──► agent
//!   ◄── what the guest writes ──  session  ◄── POST /agent/v1/consoles/{ticket} ──  agent
//!   ──── what the user types ──►           ───── the answer to that ────────────►
//! ```

mod desk;
mod session;

pub use desk::Desk;

use crate::{
    App, Error,
    agent::check_start,
    agent_identity::Agent,
    authentication::{Permit, ProjectRef},
    body::Json,
    query::{Named, NoParams, Query},
    rows::{Noun, Object},
    tasks::{MAX_WAIT_SECONDS, check_wait},
};
use axum::{
    Json as Answer,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use basalt_model::{CapabilityReason, HostId, VmId};
use basalt_store::{Key, audit_events, vms};
use basalt_wire::agent::console::{LOG_BYTES, Mode, PIECES, Refusal, Tickets};
use bytes::Bytes;
use chrono::TimeDelta;
use serde::Deserialize;
use session::Session;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use utoipa::IntoParams;

/// Seconds for which a ticket is good, and for which a user is kept waiting for the agent.
const TICKET_SECONDS: u32 = 10;
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The console that is asked for.
pub struct Target {
    vm_id: VmId,
    name: String,
    project: ProjectRef,
    host_id: HostId,
    host: String,
}

/// Both sides of a console that the agent opened.
pub struct Meeting {
    /// What the guest writes.
    output: Body,
    /// What the user types.
    input: mpsc::Sender<Bytes>,
    place: desk::Place,
}

/// The end of a VM's serial log, at most 64 KiB as the guest wrote it. The VM need not run.
#[utoipa::path(get, path = "/v1/projects/{project}/vms/{vm}/console", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id")),
    responses((status = 200, description = "Bytes as the guest wrote them", body = String, content_type = "application/octet-stream"), crate::openapi::Problems))]
pub async fn read_console(
    State(app): State<App>,
    permit: Permit,
    Named(vm): Named,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let target = find(&app, &permit, &vm).await?;
    let meeting = meet(&app, &target, Mode::Log).await?;
    let reading =
        tokio::time::timeout(Duration::from_secs(TICKET_SECONDS.into()), to_bytes(meeting.output, LOG_BYTES));
    match reading.await {
        Ok(Ok(log)) => Ok(([(header::CONTENT_TYPE, BYTES)], log).into_response()),
        Ok(Err(_)) | Err(_) => {
            Err(Error::NotReady(format!("Host {} broke off in the middle of the log", target.host)))
        }
    }
}

/// Opens a VM's serial console: the answer is the end of the log and then what the guest writes; the request's body
/// is what is typed, while the answer goes on. Needs HTTP/2, or a client that reads while it sends.
#[utoipa::path(post, path = "/v1/projects/{project}/vms/{vm}/console", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id")),
    request_body(content = String, content_type = "application/octet-stream", description = "What is typed, as it is typed"),
    responses((status = 200, description = "Bytes as the guest writes them; ends when the VM stops", body = String, content_type = "application/octet-stream"), crate::openapi::Problems))]
pub async fn open_console(
    State(app): State<App>,
    permit: Permit,
    Named(vm): Named,
    _: Query<NoParams>,
    user: Body,
) -> Result<Response, Error> {
    let target = find(&app, &permit, &vm).await?;
    let meeting = meet(&app, &target, Mode::Attach).await?;
    audit(&app, &permit, &target).await?;
    let (to_user, pieces) = mpsc::channel(PIECES);
    let broken = Arc::default();
    let output = session::body(pieces, Arc::clone(&broken));
    tokio::spawn(Session { app, permit, target, meeting }.carry(user, to_user, broken));
    Ok(([(header::CONTENT_TYPE, BYTES)], output).into_response())
}

/// The VM, and the host that has it.
async fn find(app: &App, permit: &Permit, vm: &str) -> Result<Target, Error> {
    let project = permit.project()?;
    let key = Key::parse("vm", vm)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = vms::get(&mut tx, project.id, &key).await?;
    let (vm_id, name) = (VmId(found.vm.metadata.id), found.vm.metadata.name.to_string());
    let placed = found.placement.and_then(|p| Some((p.host_id?, p.host?)));
    let Some((host_id, host)) = placed else {
        let reason = CapabilityReason::new(
            "not_placed",
            format!("vm/{name}"),
            "no host has this VM, so it has no console",
            format!("see why with GET …/vms/{name}/explain, or wait until it is placed"),
        );
        return Err(Error::Conflict {
            code: "no_console",
            detail: format!("{reason}."),
            reasons: vec![reason],
        });
    };
    Ok(Target { vm_id, name, project, host_id, host: host.to_string() })
}

/// Asks the host's agent for a console, and waits until it opened it.
async fn meet(app: &App, target: &Target, mode: Mode) -> Result<Meeting, Error> {
    let place = app.consoles.claim(target.vm_id, &app.metrics.consoles)?;
    let (input, typed) = mpsc::channel(PIECES);
    let expires_at = app.clock.now() + TimeDelta::seconds(TICKET_SECONDS.into());
    let mut offer = app.consoles.offer(&place, target.host_id, app.clock.secret(), mode, expires_at, typed);
    let waiting = tokio::time::timeout(Duration::from_secs(TICKET_SECONDS.into()), &mut offer.opened);
    match app.drain.or(waiting).await {
        Some(Ok(Ok(Ok(output)))) => Ok(Meeting { output, input, place }),
        Some(Ok(Ok(Err(mut reason)))) => {
            // The host knows the VM by its id; the user by its name.
            reason.subject = format!("vm/{}", target.name);
            Err(closed(&target.name, reason))
        }
        Some(_) => Err(Error::NotReady(format!(
            "The agent of host {} did not open the console within {TICKET_SECONDS} s",
            target.host
        ))),
        None => Err(Error::NotReady("This gateway is stopping".into())),
    }
}

fn closed(vm: &str, reason: CapabilityReason) -> Error {
    let detail = format!("The console of {vm:?} cannot be opened now.");
    Error::Conflict { code: "no_console", detail, reasons: vec![reason] }
}

async fn audit(app: &App, permit: &Permit, target: &Target) -> Result<(), Error> {
    let (tenant, project) = (Some(target.project.tenant_id), Some(target.project.id));
    let entry = audit_events::Entry::new("vm.console", tenant, project, "vm", target.vm_id.0, &target.name);
    let mut tx = app.store.tenant(target.project.tenant_id).await?;
    audit_events::record(&mut tx, &permit.change(app), entry).await?;
    Ok(tx.commit().await?)
}

/// How long to hold a poll.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TicketParams {
    /// Seconds to wait for a ticket, 0 to 55; default 55.
    #[serde(default)]
    pub wait_seconds: Option<u32>,
}

/// Tickets for consoles of the calling host's VMs, and questions about its ports: as soon as there is one, or none after
/// the time.
#[utoipa::path(get, path = "/agent/v1/consoles", tag = "agents", params(TicketParams),
    responses((status = 200, body = Tickets), crate::openapi::Problems))]
pub async fn list_console_tickets(
    State(app): State<App>,
    agent: Agent,
    Query(params): Query<TicketParams>,
    headers: HeaderMap,
) -> Result<Answer<Tickets>, Error> {
    let wait_seconds = params.wait_seconds.unwrap_or(MAX_WAIT_SECONDS);
    check_wait(wait_seconds)?;
    let host = agent.host_id;
    let news = app.consoles.news(host);
    let wait = tokio::time::sleep(Duration::from_secs(wait_seconds.into()));
    tokio::pin!(wait);
    loop {
        // Listening before looking: a ticket that comes in between is not missed.
        let notified = news.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        // After every wait, too: a start that was overtaken must not take the tickets of the one that counts.
        check_start(&app, host, &headers).await?;
        let tickets = app.consoles.deliver(host);
        if !tickets.is_empty() {
            return Ok(Answer(Tickets { tickets, questions: Vec::new() }));
        }
        let questions = app.questions.deliver(host);
        if !questions.is_empty() {
            return Ok(Answer(Tickets { tickets, questions }));
        }
        tokio::select! {
            () = app.drain.begun() => return Ok(Answer(Tickets::default())),
            () = &mut wait => return Ok(Answer(Tickets::default())),
            () = &mut notified => {}
        }
    }
}

/// Opens the console that a ticket is for: the request's body is what the guest writes, the answer what is typed.
#[utoipa::path(post, path = "/agent/v1/consoles/{ticket}", tag = "agents", params(("ticket" = String, Path, description = "One use")),
    request_body(content = String, content_type = "application/octet-stream", description = "The end of the log, then what the guest writes"),
    responses((status = 200, description = "What is typed; ends with the console", body = String, content_type = "application/octet-stream"), crate::openapi::Problems))]
pub async fn redeem_console_ticket(
    State(app): State<App>,
    agent: Agent,
    Named(ticket): Named,
    _: Query<NoParams>,
    output: Body,
) -> Result<Response, Error> {
    let waiting = redeem(&app, agent.host_id, &ticket)?;
    let input = session::body(waiting.input, Arc::default());
    waiting.opened.send(Ok(output)).map_err(|_| no_ticket())?;
    Ok(([(header::CONTENT_TYPE, BYTES)], input).into_response())
}

/// Says why the console that a ticket is for cannot be opened.
#[utoipa::path(post, path = "/agent/v1/consoles/{ticket}/refuse", tag = "agents", params(("ticket" = String, Path, description = "One use")),
    request_body = Refusal,
    responses((status = 204), crate::openapi::Problems))]
pub async fn refuse_console_ticket(
    State(app): State<App>,
    agent: Agent,
    Named(ticket): Named,
    _: Query<NoParams>,
    Json { value, .. }: Json<Refusal>,
) -> Result<StatusCode, Error> {
    let waiting = redeem(&app, agent.host_id, &ticket)?;
    waiting.opened.send(Err(value.reason)).map_err(|_| no_ticket())?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a ticket for good, if the VM still is the calling host's.
fn redeem(app: &App, host_id: HostId, ticket: &str) -> Result<desk::Waiting, Error> {
    let waiting = app.consoles.redeem(ticket, host_id, app.clock.now()).ok_or_else(no_ticket)?;
    match app.hub.read(|rows| rows.object(Noun::Vm, waiting.vm_id.0)) {
        Some(Object::Vm(_, Some(placement), ..)) if placement.host_id != Some(host_id) => Err(no_ticket()),
        _ => Ok(waiting),
    }
}

fn no_ticket() -> Error {
    // In the same words whether it never was, was used, is too old or is another host's.
    Error::not_found("console ticket", "…")
}
