//! What is true of objects: their status, the conditions that are not stored yet, the moves of tasks.

use super::{Indexes, Inputs, bound, host_loss, migrations, owner, routers};
use crate::rows::VmRow;
use basalt_model::{
    Condition, HostId, ImageId, Metadata, MigrationId, NetworkId, RouterId, TaskId, TenantId, VmId, VolumeId,
    hosts::HostState,
    tasks::{Task, TaskKind, TaskMove, TaskState},
    volumes::VolumeState,
};
use basalt_plan::{
    conditions::{self, Part, Placed, VmFacts, VolumeFacts},
    tasks::{self, Dependency, Subject},
};
use basalt_store::conditions::Conditions;
use basalt_wire::agent::manifest::ItemKind;
use krt::{Builder, Collection, Ctx};
use uuid::Uuid;

/// VMs as conditions and tasks see them.
pub fn vms(
    builder: &mut Builder,
    inputs: &Inputs,
    states: Collection<HostId, HostState>,
) -> Collection<VmId, VmFacts> {
    let inputs = *inputs;
    builder.derive("vm_status", &inputs.vms, move |ctx, id, row| {
        let vm = &row.0;
        let placement = ctx.get(&inputs.placements, id);
        let at = placement.and_then(|p| p.host.as_ref());
        let facts = ctx.get(&inputs.vm_facts, id);
        Some(VmFacts {
            generation: vm.metadata.generation,
            deleting: vm.metadata.deletion_requested_at.is_some(),
            power: vm.spec.power,
            incarnation: vm.incarnation,
            placement: placement.zip(at).map(|(p, (host_id, host))| Placed {
                host: host.clone(),
                epoch: p.epoch,
                state: ctx.get(&states, host_id).map_or(HostState::Removed, |s| **s),
            }),
            explanation: placement.and_then(|p| p.explanation.clone()),
            in_manifest: at.is_some_and(|(host, _)| ctx.exists(&inputs.items, &(*host, ItemKind::Vm, id.0))),
            observed: facts.map(|f| f.observed.clone()).unwrap_or_default(),
            observed_generation: facts.map(|f| f.observed_generation).unwrap_or_default(),
            observed_epoch: facts.map(|f| f.epoch).unwrap_or_default(),
            stage: facts.map(|f| f.stage.clone()).unwrap_or_default(),
            parts: at.map(|(host, _)| parts(ctx, &inputs, row, *host)).unwrap_or_default(),
        })
    })
}

/// What a VM needs on its host, in the order in which it is made.
fn parts(ctx: &Ctx<'_>, inputs: &Inputs, row: &VmRow, host: HostId) -> Vec<Part> {
    let vm = &row.0;
    let shared = |what: String, kind: ItemKind, id: Uuid| {
        let fact = ctx.get(&inputs.facts, &(host, kind, id)).filter(|f| !f.gone);
        Part {
            what,
            ready: fact.is_some_and(|f| f.ready),
            blocked: fact.and_then(|f| f.blocked.clone()),
            stage: fact.map(|f| f.stage.clone()).unwrap_or_default(),
        }
    };
    let mut out: Vec<Part> = Vec::new();
    for nic in &vm.nics {
        out.push(shared(format!("network {}", nic.network), ItemKind::Network, nic.network_id.0));
    }
    let mut volumes = Vec::new();
    let mut images: Vec<ImageId> = vm.disks.iter().filter_map(|d| d.iso_image_id).collect();
    for id in vm.disks.iter().filter_map(|d| d.volume_id) {
        let Some(volume) = ctx.get(&inputs.volumes, &id) else { continue };
        images.extend(volume.image_id);
        volumes.push(volume_part(ctx, inputs, id, volume));
    }
    images.sort();
    images.dedup();
    for id in images {
        let name = ctx
            .project(&inputs.images, &id, |i| i.metadata.name.to_string())
            .unwrap_or_else(|| id.to_string());
        out.push(shared(format!("image {name}"), ItemKind::Image, id.0));
    }
    out.extend(volumes);
    out
}

fn volume_part(ctx: &Ctx<'_>, inputs: &Inputs, id: VolumeId, volume: &basalt_store::volumes::Volume) -> Part {
    let facts = ctx.get(&inputs.volume_facts, &id);
    Part {
        what: format!("volume {}", volume.metadata.name),
        ready: facts.is_some_and(|f| {
            f.observed.state == VolumeState::Ready
                && f.observed_generation >= volume.metadata.generation
                && f.observed.incarnation >= volume.incarnation
        }),
        blocked: facts.and_then(|f| f.observed.blocked.clone()),
        stage: facts.map(|f| f.stage.clone()).unwrap_or_default(),
    }
}

/// Volumes as conditions and tasks see them.
pub fn volumes(
    builder: &mut Builder,
    inputs: &Inputs,
    states: Collection<HostId, HostState>,
) -> Collection<VolumeId, VolumeFacts> {
    let inputs = *inputs;
    builder.derive("volume_status", &inputs.volumes, move |ctx, id, volume| {
        let facts = ctx.get(&inputs.volume_facts, id);
        let at = bound(volume);
        let going = |vm: VmId| {
            ctx.project(&inputs.vms, &vm, |v| v.0.metadata.deletion_requested_at.is_some()).unwrap_or(true)
        };
        let name = |host: HostId| ctx.project(&inputs.hosts, &host, |h| h.metadata.name.clone());
        Some(VolumeFacts {
            generation: volume.metadata.generation,
            deleting: volume.metadata.deletion_requested_at.is_some() || owner(volume).is_some_and(going),
            bound: at.and_then(|(host, pool)| Some((name(host)?, pool.clone()))),
            host_state: at.map(|(host, _)| ctx.get(&states, &host).map_or(HostState::Removed, |s| **s)),
            observed: facts.map(|f| f.observed.clone()).unwrap_or_default(),
            observed_generation: facts.map(|f| f.observed_generation).unwrap_or_default(),
            stage: facts.map(|f| f.stage.clone()).unwrap_or_default(),
        })
    })
}

/// What conditions and tasks are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// States of hosts.
    pub host_states: Collection<HostId, HostState>,
    /// VMs.
    pub vm_status: Collection<VmId, VmFacts>,
    /// Volumes.
    pub volume_status: Collection<VolumeId, VolumeFacts>,
    /// Migrations.
    pub migration_status: Collection<MigrationId, migrations::Status>,
    /// VMs on hosts that are not heard of.
    pub stranded: Collection<VmId, host_loss::Stranding>,
}

/// Conditions that are not stored as they are, undated.
pub fn conditions(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    seen: Seen,
    deployments: Collection<Uuid, Conditions>,
) -> Collection<Uuid, Conditions> {
    let Seen { host_states: states, vm_status, volume_status, migration_status, stranded } = seen;
    let indexes = *indexes;
    let routers = routers::conditions(builder, inputs, &indexes, states);
    let inputs = *inputs;
    let vms = builder.derive_many("vm_conditions", &vm_status, move |ctx, id, status| {
        let of = ctx.project(&inputs.vms, id, |v| owners(&v.0.metadata));
        let mut all = conditions::vm(status);
        if let Some(row) = indexes.migration(ctx, id)
            && let Some(at) = ctx.get(&migration_status, &row.migration.id)
        {
            all.push(conditions::migrating(
                status.generation,
                &row.migration,
                at.phase,
                at.progress.as_ref(),
                &at.waits,
            ));
        }
        let waits = ctx.get(&stranded, id).and_then(|s| s.waits.as_ref());
        all.extend(waits.map(|reason| conditions::not_elsewhere(status.generation, reason)));
        unless_stored(ctx, &inputs, "vm", id.0, of, all)
    });
    let volumes = builder.derive_many("volume_conditions", &volume_status, move |ctx, id, status| {
        let of = ctx.project(&inputs.volumes, id, |v| owners(&v.metadata));
        unless_stored(ctx, &inputs, "volume", id.0, of, conditions::volume(status))
    });
    let images = builder.derive_many("image_conditions", &inputs.images, move |ctx, id, image| {
        let observed = ctx.get(&inputs.image_facts, id).map(|f| f.observed.clone()).unwrap_or_default();
        let deleting = image.metadata.deletion_requested_at.is_some();
        let all = conditions::image(
            image.metadata.generation,
            deleting,
            image.spec.size_bytes,
            image.spec.source.is_some(),
            &observed,
        );
        unless_stored(ctx, &inputs, "image", id.0, Some(owners(&image.metadata)), all)
    });
    let hosts = builder.derive_many("host_conditions", &inputs.hosts, move |ctx, id, host| {
        let state = ctx.get(&states, id).map_or(HostState::Enrolling, |s| **s);
        let facts = ctx.get(&inputs.host_facts, id);
        let metadata = &host.metadata;
        let conflict = ctx.get(&inputs.agent_conflicts, id).map(|c| &**c);
        let facts = facts.map(|f| &f.facts);
        let mut all = conditions::host(metadata.generation, &metadata.name, state, facts, conflict);
        let death = indexes.death(ctx, id);
        all.extend(death.map(|death| conditions::proven_dead(metadata.generation, &metadata.name, death)));
        unless_stored(ctx, &inputs, "host", id.0, Some(owners(metadata)), all)
    });
    builder.union_disjoint("conditions", &[vms, volumes, images, routers, hosts, deployments])
}

pub(super) type Owners = (Option<basalt_model::TenantId>, Option<basalt_model::ProjectId>);

pub(super) fn owners(metadata: &Metadata) -> Owners {
    (metadata.tenant_id, metadata.project_id)
}

pub(super) fn unless_stored(
    ctx: &Ctx<'_>,
    inputs: &Inputs,
    kind: &str,
    id: Uuid,
    of: Option<Owners>,
    all: Vec<Condition>,
) -> Vec<(Uuid, Conditions)> {
    let Some((tenant_id, project_id)) = of else { return Vec::new() };
    let stored = ctx.get(&inputs.conditions, &id);
    if stored.is_some_and(|s| conditions::same(&s.conditions, &all)) {
        return Vec::new();
    }
    let row =
        Conditions { subject_kind: kind.into(), subject_id: id, tenant_id, project_id, conditions: all };
    vec![(id, row)]
}

/// Moves of tasks that are not stored yet.
pub fn task_moves(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    seen: Seen,
) -> Collection<TaskId, TaskMove> {
    let Seen { vm_status, volume_status, migration_status, .. } = seen;
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive("task_moves", &inputs.tasks, move |ctx, _id, task| {
        let waits = if task.is_held() { task.depends_on.as_slice() } else { &[] };
        let depends_on: Vec<Dependency> = waits.iter().map(|id| dependency(ctx, &inputs, *id)).collect();
        let id = task.subject.id;
        match task.subject.kind.as_str() {
            "vm" if task.kind == TaskKind::VmMigrate => {
                // Its end is written with the migration's.
                let row = indexes.migration(ctx, &VmId(id)).filter(|r| r.migration.task_id == task.id)?;
                let at = ctx.get(&migration_status, &row.migration.id)?;
                tasks::migrating(task, at.phase, at.progress.as_ref(), &at.waits)
            }
            "vm" => {
                let operation = ctx.project(&inputs.vms, &VmId(id), |v| v.0.operation.clone()).flatten();
                let subject = match ctx.get(&vm_status, &VmId(id)) {
                    Some(status) => Subject::Vm(status, operation.as_ref()),
                    None => Subject::Gone,
                };
                tasks::advance(task, &subject, &depends_on)
            }
            "volume" => {
                let status = ctx.get(&volume_status, &VolumeId(id));
                let subject = status.map_or(Subject::Gone, |s| Subject::Volume(s));
                tasks::advance(task, &subject, &depends_on)
            }
            "image" => on_image(ctx, &inputs, task, &depends_on),
            "network" => {
                let of = |n: &basalt_store::networks::Network| n.metadata.deletion_requested_at.is_some();
                let deleting = ctx.project(&inputs.networks, &NetworkId(id), of);
                let subject = deleting.map_or(Subject::Gone, |deleting| Subject::Network { deleting });
                tasks::advance(task, &subject, &depends_on)
            }
            "router" => {
                let of = |r: &basalt_store::routers::Router| r.metadata.deletion_requested_at.is_some();
                let deleting = ctx.project(&inputs.routers, &RouterId(id), of);
                let subject = deleting.map_or(Subject::Gone, |deleting| Subject::Network { deleting });
                tasks::advance(task, &subject, &depends_on)
            }
            "host" => {
                let of_host = ctx.lookup(&indexes.drains_by_host, &HostId(id));
                let (_, drain) = of_host.into_iter().find(|(_, drain)| drain.task_id == task.id)?;
                tasks::draining(task, drain)
            }
            // Tasks about anything else are moved by whoever made them.
            _ => None,
        }
    })
}

/// Tasks that waited for others, all of which have completed.
pub fn task_starts(builder: &mut Builder, inputs: &Inputs) -> Collection<TaskId, TenantId> {
    let inputs = *inputs;
    builder.derive("task_starts", &inputs.tasks, move |ctx, _id, task| {
        if !task.is_held() {
            return None;
        }
        let depends_on: Vec<Dependency> =
            task.depends_on.iter().map(|id| dependency(ctx, &inputs, *id)).collect();
        task.tenant_id.filter(|_| tasks::starts(task, &depends_on))
    })
}

fn on_image(ctx: &Ctx<'_>, inputs: &Inputs, task: &Task, depends_on: &[Dependency]) -> Option<TaskMove> {
    let id = ImageId(task.subject.id);
    let observed = ctx.get(&inputs.image_facts, &id).map(|f| f.observed.clone()).unwrap_or_default();
    let subject = match ctx.get(&inputs.images, &id) {
        None => Subject::Gone,
        Some(image) => Subject::Image {
            deleting: image.metadata.deletion_requested_at.is_some(),
            expected_bytes: image.spec.size_bytes,
            observed: &observed,
        },
    };
    tasks::advance(task, &subject, depends_on)
}

fn dependency(ctx: &Ctx<'_>, inputs: &Inputs, id: TaskId) -> Dependency {
    let live = ctx.project(&inputs.tasks, &id, |t| (t.state, t.subject.clone()));
    let what = match &live {
        Some((_, subject)) => format!("task {id} of {} {}", subject.kind, subject.name),
        None => format!("task {id}"),
    };
    let ended = ctx.get(&inputs.ended, &id).map(|e| e.0);
    // A task that nobody knows yet is waited for: nothing starts too early.
    let state = live.map(|l| l.0).or(ended).unwrap_or(TaskState::Pending);
    Dependency { what, state }
}
