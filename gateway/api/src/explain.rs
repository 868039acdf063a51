//! Answers about placement: where a VM could go, and why not elsewhere. Nothing here decides where a
//! VM goes; the reconciler does, with the same pure function over the same rows.

use crate::{
    App, Error,
    authentication::{Permit, ProjectRef},
    body::{self, Json},
    query::{Named, NoParams, Query},
};
use axum::{Json as Answer, extract::State};
use basalt_model::{
    CapabilityReason, DateTime, FieldError, HostId, ImageId, Name,
    networks::Segment,
    vms::{DiskSource, DiskSpec, VmSpec},
    volumes::VolumeSpec,
};
use basalt_plan::placement::{self, Request, Verdict, VolumeRequest, affinity::Neighbours};
use basalt_store::{Key, placements::Placement, vms};
use basalt_wire::rest::{Create, PlacementExplanation};

/// Shows where a VM was put, or why it is nowhere, with every host that was rejected.
#[utoipa::path(get, path = "/v1/projects/{project}/vms/{vm}/explain", tag = "vms",
    params(("project" = String, Path, description = "Name or id"), ("vm" = String, Path, description = "Name or id")),
    responses((status = 200, body = PlacementExplanation), crate::openapi::Problems))]
pub async fn explain_vm(
    State(app): State<App>,
    permit: Permit,
    Named(vm): Named,
    _: Query<NoParams>,
) -> Result<Answer<PlacementExplanation>, Error> {
    let project = permit.project()?;
    let key = Key::parse("vm", &vm)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = vms::get(&mut tx, project.id, &key).await?;
    let stored = vms::explanation(&mut tx, basalt_model::VmId(found.vm.metadata.id)).await?;
    Ok(Answer(match stored {
        Some(placement) => read(placement)?,
        None => PlacementExplanation {
            host_id: None,
            host: None,
            summary: "It was declared a moment ago and is being placed; ask again".into(),
            candidates: Vec::new(),
        },
    }))
}

fn read(placement: Placement) -> Result<PlacementExplanation, Error> {
    serde_json::from_value(placement.explanation).map_err(|e| Error::internal("reading an explanation", e))
}

/// Shows where a VM would go if it were declared now. Nothing is made.
#[utoipa::path(post, path = "/v1/projects/{project}/placement/explain", tag = "vms", request_body = Create<VmSpec>,
    params(("project" = String, Path, description = "Name or id")),
    responses((status = 200, body = PlacementExplanation), crate::openapi::Problems))]
pub async fn explain_placement(
    State(app): State<App>,
    permit: Permit,
    _: Query<NoParams>,
    Json { value, .. }: Json<Create<VmSpec>>,
) -> Result<Answer<PlacementExplanation>, Error> {
    body::check_create(&value)?;
    let project = permit.project()?;
    let request = request(&app, project, &value).0;
    let (hosts, neighbours) = app.hub.read(|rows| {
        let hosts = rows.placement_hosts(|host| seen(&app, host), app.clock.now());
        (hosts, rows.neighbours(project.id, &request))
    });
    Ok(Answer(placement::choose(&request, &neighbours, &hosts).explanation))
}

/// Refuses a VM that no known host could ever take, with the reasons of every host. A VM that must
/// only wait is not refused.
pub fn refuse_impossible(app: &App, project: ProjectRef, body: &Create<VmSpec>) -> Result<(), Error> {
    // What a host could take when it is empty does not depend on its claims of this second.
    let hosts = app.hub.placement_hosts(|host| seen(app, host), app.clock.now());
    // Neither do other VMs: they come and go.
    let decision =
        placement::choose(&request(app, project, body).0, &Neighbours::default(), hosts.as_slice());
    let Verdict::Never(reason) = decision.verdict else { return Ok(()) };
    let mut reasons = vec![reason];
    for candidate in decision.explanation.candidates {
        reasons.extend(candidate.rejections);
    }
    let mut errors: Vec<FieldError> = Vec::new();
    for reason in &reasons {
        if let Some(field) = field(reason)
            && !errors.iter().any(|e| e.field == field)
        {
            errors.push(FieldError::new(
                field,
                reason.code.clone(),
                reason.message.clone(),
                reason.remedy.clone(),
            ));
        }
    }
    Err(Error::Impossible { detail: decision.explanation.summary, reasons, errors })
}

/// Refuses a VM one of whose disks names a pool of which no host has room now. One that names none waits for room.
pub fn refuse_full_pools(app: &App, project: ProjectRef, body: &Create<VmSpec>) -> Result<(), Error> {
    let (request, fields) = request(app, project, body);
    refuse_full(app, &request, &fields)
}

/// Refuses a volume that names a pool of which no host has room now.
pub fn refuse_full_pool(app: &App, body: &Create<VolumeSpec>) -> Result<(), Error> {
    let volume = VolumeRequest {
        name: body.name.clone(),
        size_bytes: body.spec.size_bytes,
        pool: body.spec.pool.clone(),
        bound: None,
    };
    let request = Request { volumes: vec![volume], ..Default::default() };
    refuse_full(app, &request, &["spec.pool".to_owned()])
}

fn refuse_full(app: &App, request: &Request, fields: &[String]) -> Result<(), Error> {
    if request.volumes.iter().all(|v| v.pool.is_none() || v.bound.is_some()) {
        return Ok(());
    }
    // Claims as the feed has them now: those that are remembered for a second may be of before the last VM.
    let hosts = app.hub.read(|rows| rows.placement_hosts(|host| seen(app, host), app.clock.now()));
    let full = placement::full_pools(request, &hosts);
    let Some(first) = full.first() else { return Ok(()) };
    let said = |f: &placement::FullPool| {
        let reason = f.reason.clone();
        let why = format!("{} ({})", reason.message, reason.evidence);
        FieldError::new(
            fields.get(f.volume).map_or("spec", String::as_str),
            reason.code.clone(),
            why,
            reason.remedy.clone(),
        )
    };
    Err(Error::PoolFull {
        detail: first.reason.to_string(),
        errors: full.iter().map(said).collect(),
        reasons: full.iter().map(|f| f.reason.clone()).collect(),
    })
}

/// The field of the body that a placement reason is about, where there is one.
fn field(reason: &CapabilityReason) -> Option<&'static str> {
    Some(match reason.code.as_ref() {
        "host_too_small_memory" | "insufficient_memory" => "spec.memory_bytes",
        "host_too_small_cpus" | "insufficient_cpus" => "spec.cpus",
        "uefi_missing" => "spec.firmware",
        "ha_local_storage" => "spec.ha.policy",
        "pinned_host_unknown" => "spec.placement.host",
        "pool_missing" | "pool_too_small" | "insufficient_storage" | "no_pool" | "volume_elsewhere" => {
            "spec.disks"
        }
        "integration_bridge_missing" | "uplink_missing" => "spec.nics",
        _ => return None,
    })
}

/// The last sign of life; after the gateway's start every lease counts as just renewed.
pub fn seen(app: &App, host: HostId) -> Option<DateTime> {
    app.links.seen(host).max(Some(app.started_at))
}

/// What a declared VM would need, and for each of its volumes the field that names its pool. Names that are not known
/// (yet) are left out; storing the intent finds them or refuses them.
fn request(app: &App, project: ProjectRef, body: &Create<VmSpec>) -> (Request, Vec<String>) {
    app.hub.read(|rows| {
        let spec = &body.spec;
        let mut fields = Vec::new();
        let mut request = Request {
            cpus: spec.cpus,
            memory_bytes: spec.memory_bytes,
            firmware: spec.firmware,
            rules: spec.placement.clone(),
            labels: body.labels.clone(),
            shared_storage: spec.ha.restarts(),
            ..Default::default()
        };
        for (index, disk) in spec.disks.iter().enumerate() {
            add_disk(rows, project, &body.name, disk, &mut request);
            let field = match disk.source {
                DiskSource::Volume { .. } => "source.volume",
                _ => "pool",
            };
            fields.resize_with(request.volumes.len(), || format!("spec.disks[{index}].{field}"));
        }
        let segment = |network: &Name| rows.network(project.id, network).map(|n| n.spec.segment.clone());
        request.segments = spec.nics.iter().filter_map(|nic| segment(&nic.network)).collect::<Vec<Segment>>();
        (request, fields)
    })
}

fn add_disk(
    rows: &crate::rows::Rows,
    project: ProjectRef,
    vm: &Name,
    disk: &DiskSpec,
    request: &mut Request,
) {
    let new = |size_bytes| VolumeRequest {
        name: Name::new(format!("{vm}-{}", disk.name)).unwrap_or_else(|_| disk.name.clone()),
        size_bytes,
        pool: disk.pool.clone(),
        bound: None,
    };
    match &disk.source {
        DiskSource::Blank {} => request.volumes.push(new(disk.size_bytes.unwrap_or_default())),
        DiskSource::Image { image } => {
            let Some((image, facts)) = rows.image(project.id, image) else { return };
            let own = facts.map_or(0, |f| f.observed.virtual_size_bytes);
            request.volumes.push(new(disk.size_bytes.unwrap_or(own)));
            request.images.insert(ImageId(image.metadata.id));
        }
        DiskSource::Iso { image } => {
            let Some((image, _)) = rows.image(project.id, image) else { return };
            request.images.insert(ImageId(image.metadata.id));
        }
        DiskSource::Volume { volume } => {
            let Some(volume) = rows.volume(project.id, volume) else { return };
            request.volumes.push(VolumeRequest {
                name: volume.metadata.name.clone(),
                size_bytes: volume.spec.size_bytes,
                pool: volume.spec.pool.clone(),
                bound: volume.host_id.zip(volume.pool.clone()),
            });
        }
    }
}
