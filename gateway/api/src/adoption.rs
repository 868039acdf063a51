//! Adoption: what stands on a host and in no manifest is declared as it is, on the caller's word.

use crate::{
    App, Error,
    authentication::{ProjectRef, find_project},
    body::Json,
    intent::{Line, Writing},
    query::WriteParams,
    vms, volumes,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use basalt_model::{
    CapabilityReason, FieldError,
    hosts::{Foreign, HostFacts},
};
use basalt_plan::adoption::{self, Verdict};
use basalt_store::{
    Key,
    adoption::{Host, host, insert_vm, insert_volume, known},
};
use basalt_wire::rest::{Accepted, Adopt, AdoptKind, Adopted, PlacementExplanation};

/// Takes over a VM or a file that stands on a host and in no manifest. What runs is not touched by it; the task
/// ends when the host has it as its own.
#[utoipa::path(post, path = "/v1/hosts/{host}/adopt", tag = "hosts", request_body = Adopt,
    params(("host" = String, Path, description = "Name or id"), WriteParams),
    responses((status = 202, body = Accepted<Adopted>), (status = 200, description = "Dry run", body = Accepted<Adopted>), crate::openapi::Problems))]
pub async fn adopt(
    State(app): State<App>,
    Path(name): Path<String>,
    line: Line,
    Json { value, bytes }: Json<Adopt>,
) -> Result<Response, Error> {
    check(&value)?;
    let key = Key::parse("host", &name)?;
    let project = project(&app, &line, &value.project).await?;
    let mut writing = line.in_project(project).begin(&app, &bytes).await?;
    let host = host(&mut writing.tx, &key).await?;
    let found = found(&value, &host)?.clone();
    match value.kind {
        AdoptKind::Vm => adopt_vm(writing, &value, &host, &found).await,
        AdoptKind::Volume => adopt_volume(writing, &value, &host, &found).await,
    }
}

fn check(body: &Adopt) -> Result<(), Error> {
    let mut errors = Vec::new();
    if body.id.is_empty() {
        errors.push(FieldError::new(
            "id",
            "required",
            "nothing has an empty name",
            "give the id or the name that facts.foreign of the host has",
        ));
    }
    if body.kind == AdoptKind::Volume && body.network.is_some() {
        errors.push(FieldError::new(
            "network",
            "not_allowed",
            "a volume is on no network",
            "leave network out",
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

async fn project(app: &App, line: &Line, text: &str) -> Result<ProjectRef, Error> {
    match find_project(app, &line.permit.principal.grants, text).await {
        Err(Error::NotFound { .. }) => Err(Error::Invalid(vec![FieldError::new(
            "project",
            "not_found",
            format!("there is no project {text:?}"),
            "give the name or the id of an existing project, or create it first",
        )])),
        other => other,
    }
}

fn found<'a>(body: &Adopt, host: &'a Host) -> Result<&'a Foreign, Error> {
    let foreign = host.facts.as_ref().map(|f: &HostFacts| f.foreign.as_slice()).unwrap_or_default();
    judged(body, host, adoption::find(body, &host.name, foreign))
}

async fn adopt_vm(mut w: Writing, body: &Adopt, host: &Host, found: &Foreign) -> Result<Response, Error> {
    let known = known(&mut w.tx, w.project.id, host.id, &adoption::named(body, found)).await?;
    let adopted = judged(body, host, adoption::vm(body, &host.name, found, &known))?;
    let explanation = PlacementExplanation {
        host_id: Some(host.id),
        host: Some(host.name.clone()),
        summary: format!("it was on {} when it was adopted", host.name),
        candidates: Vec::new(),
    };
    let explanation = serde_json::to_value(explanation).map_err(|e| Error::internal("explaining", e))?;
    let made = insert_vm(&mut w.tx, &w.change, w.project.id, host, &adopted, &explanation).await?;
    let id = made.object.metadata.id;
    let shown = basalt_store::vms::get(&mut w.tx, w.project.id, &Key::Id(id)).await?;
    w.accept(Adopted::Vm(Box::new(vms::view(shown))), made.task).await
}

async fn adopt_volume(mut w: Writing, body: &Adopt, host: &Host, found: &Foreign) -> Result<Response, Error> {
    let known = known(&mut w.tx, w.project.id, host.id, &adoption::named(body, found)).await?;
    let adopted = judged(body, host, adoption::volume(body, &host.name, found, &known))?;
    let made = insert_volume(&mut w.tx, &w.change, w.project.id, host, &adopted).await?;
    let id = made.object.metadata.id;
    let shown = basalt_store::volumes::get(&mut w.tx, w.project.id, &Key::Id(id)).await?;
    w.accept(Adopted::Volume(Box::new(volumes::view(shown))), made.task).await
}

/// A refusal with every reason, and the fields of the body that some are about.
fn judged<T>(body: &Adopt, host: &Host, verdict: Verdict<T>) -> Result<T, Error> {
    let reasons = match verdict {
        Verdict::Yes(value) => return Ok(value),
        Verdict::No(reasons) => reasons,
    };
    let mut errors: Vec<FieldError> = Vec::new();
    for reason in &reasons {
        if let Some(field) = field(reason)
            && !errors.iter().any(|e| e.field == field)
        {
            let (message, remedy) = (reason.message.clone(), reason.remedy.clone());
            errors.push(FieldError::new(field, reason.code.clone(), message, remedy));
        }
    }
    let detail = format!("{} {:?} of host {} cannot be adopted.", body.kind.as_str(), body.id, host.name);
    Err(Error::NotAdoptable { detail, reasons, errors })
}

/// The field of the body that a reason is about, where it is not about the thing itself.
fn field(reason: &CapabilityReason) -> Option<&'static str> {
    match reason.code.as_ref() {
        "network_required" | "network_unknown" => Some("network"),
        "not_reported" | "ambiguous" => Some("id"),
        _ => None,
    }
}
