//! Hosts as placement sees them, and VMs that are to be placed.

use super::{Indexes, Inputs, bound};
use crate::rows::Liveness;
use basalt_model::{
    DateTime, Epoch, Generation, HostId, Name, ProjectId, TenantId, VmId, VolumeId,
    hosts::{HostState, state},
};
use basalt_plan::placement::{
    self, HostView, VolumeRequest,
    affinity::{Neighbours, Peer},
    departure::Leaving,
};
use krt::{Builder, Collection, Ctx, Failure, Index};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A VM that is to be placed.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its tenant.
    pub tenant_id: Option<TenantId>,
    /// Its project.
    pub project_id: Option<ProjectId>,
    /// Its name.
    pub name: Name,
    /// The generation that is judged.
    pub generation: Generation,
    /// The epoch of the last placement; 0 when it was never placed.
    pub epoch: Epoch,
    /// Its volumes in disk order, those that need a pool and those that have one.
    pub volumes: Vec<(VolumeId, bool)>,
    /// What it needs.
    pub request: placement::Request,
}

/// The state of every host. A host is taken at its word until it is known to be silent.
pub fn host_states(builder: &mut Builder, inputs: &Inputs) -> Collection<HostId, HostState> {
    let (facts, liveness) = (inputs.host_facts, inputs.liveness);
    builder.derive("host_states", &inputs.hosts, move |ctx, id, host| {
        let now = DateTime::UNIX_EPOCH + chrono::TimeDelta::days(1);
        let seen = match ctx.get(&liveness, id).map(|l| **l) {
            Some(Liveness::Silent) => DateTime::UNIX_EPOCH,
            Some(Liveness::Alive) | None => now,
        };
        let facts = ctx.get(&facts, id);
        let removed = host.metadata.deletion_requested_at.is_some();
        Some(state(&host.spec, facts.map(|f| &f.facts), Some(seen), removed, now))
    })
}

/// Hosts as placement sees them.
pub fn host_views(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    states: Collection<HostId, HostState>,
) -> Collection<HostId, HostView> {
    let shared = {
        let facts = inputs.host_facts;
        builder.map("host_facts_alone", &facts, |_, row| row.facts.clone())
    };
    let claims = inputs.claims;
    let (pools, images) = (indexes.pools_by_host, indexes.cached_images);
    builder.derive("host_views", &inputs.hosts, move |ctx, id, host| {
        let state = ctx.get(&states, id)?;
        Some(HostView {
            id: *id,
            name: host.metadata.name.clone(),
            labels: host.metadata.labels.clone(),
            spec: host.spec.clone(),
            state: **state,
            facts: ctx.get(&shared, id).map(Arc::clone),
            claimed: ctx.get(&claims, id).map(|c| c.claimed).unwrap_or_default(),
            pool_claims: ctx
                .lookup(&pools, id)
                .map(|(_, p)| (p.facts.name.clone(), p.claimed_bytes))
                .collect(),
            cached_images: ctx.lookup(&images, id).map(|(at, _)| at.2.into()).collect(),
        })
    })
}

/// A placed VM that others may have to be with, or away from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedVm {
    /// Its project.
    pub project_id: ProjectId,
    /// Where it is.
    pub host_id: HostId,
    /// What rules see of it.
    pub peer: Peer,
}

/// Placed VMs that rules of other VMs can mean, and those that keep others away.
#[derive(Clone, Copy, Debug)]
pub struct Peers {
    /// Placed VMs with labels, or with hard anti-affinity.
    pub all: Collection<VmId, PlacedVm>,
    /// The same by project.
    pub by_project: Index<VmId, PlacedVm, ProjectId>,
    /// Those that keep others away, by project: all that a VM without rules must look at.
    pub keeping_away: Index<VmId, PlacedVm, ProjectId>,
}

impl Peers {
    /// The placed VMs that matter to where one goes, itself left out; those on a host that is being emptied too, for they
    /// are to follow it.
    pub fn around(
        &self,
        ctx: &Ctx<'_>,
        project: Option<ProjectId>,
        vm: VmId,
        request: &placement::Request,
        emptied: Option<HostId>,
    ) -> Neighbours {
        let Some(project) = project else { return Neighbours::default() };
        let index = if request.rules.looks_at_vms() { &self.by_project } else { &self.keeping_away };
        let stays = |(id, placed): &(&VmId, &Arc<PlacedVm>)| **id != vm && Some(placed.host_id) != emptied;
        let others = ctx.lookup(index, &project).filter(stays);
        Neighbours::of(request, others.map(|(_, placed)| (placed.host_id, &placed.peer)))
    }
}

/// They are apart from the hosts: what a VM's labels are changes no host, and only VMs that ask look here.
pub fn peers(builder: &mut Builder, inputs: &Inputs) -> Peers {
    let placements = inputs.placements;
    let all = builder.derive("peers", &inputs.vms, move |ctx, id, row| {
        let vm = &row.0;
        let peer = Peer::of(&vm.metadata.name, &vm.metadata.labels, &vm.spec.placement)?;
        let (host_id, _) = ctx.get(&placements, id)?.host.as_ref()?;
        Some(PlacedVm { project_id: vm.metadata.project_id?, host_id: *host_id, peer })
    });
    Peers {
        all,
        by_project: builder.index("peers_by_project", &all, |_, vm| [vm.project_id]),
        keeping_away: builder.index("peers_keeping_away", &all, |_, vm| {
            (!vm.peer.keeps_away.is_empty()).then_some(vm.project_id)
        }),
    }
}

/// VMs that are on no host and should be.
pub fn requests(builder: &mut Builder, inputs: &Inputs) -> Collection<VmId, Request> {
    let inputs = *inputs;
    builder.derive("requests", &inputs.vms, move |ctx, id, row| {
        let vm = &row.0;
        let placement = ctx.get(&inputs.placements, id);
        let is_placed = placement.is_some_and(|p| p.host.is_some());
        if is_placed || vm.metadata.deletion_requested_at.is_some() {
            return Ok::<_, Failure>(None);
        }
        let Asked { volumes, request } = of(ctx, &inputs, vm)?;
        Ok(Some(Request {
            tenant_id: vm.metadata.tenant_id,
            project_id: vm.metadata.project_id,
            name: vm.metadata.name.clone(),
            generation: vm.metadata.generation,
            epoch: placement.map(|p| p.epoch).unwrap_or_default(),
            volumes,
            request,
        }))
    })
}

/// What a VM asks of a host.
pub(super) struct Asked {
    /// Its volumes in disk order, those that need a pool and those that have one.
    pub volumes: Vec<(VolumeId, bool)>,
    /// What it needs.
    pub request: placement::Request,
}

/// Where the volumes of a VM that goes elsewhere are at its target: in the pools that were chosen, or in those that are the
/// same storage.
pub(super) fn pools_at(
    volumes: &[(VolumeId, bool)],
    leaving: &Leaving,
    chosen: &[Name],
    hosts: &[&HostView],
    target: HostId,
) -> BTreeMap<VolumeId, Name> {
    let facts = hosts.iter().find(|h| h.id == target).and_then(|h| h.facts.as_deref());
    let pools = facts.map(|f| leaving.pools(chosen, f)).unwrap_or_default();
    volumes.iter().map(|(id, _)| *id).zip(pools).collect()
}

/// What a VM asks of a host, with its volumes where they are.
pub(super) fn of(ctx: &Ctx<'_>, inputs: &Inputs, vm: &basalt_store::vms::Vm) -> Result<Asked, Failure> {
    let (volumes, wanted, mut images) = volumes(ctx, inputs, vm)?;
    images.extend(vm.disks.iter().filter_map(|d| d.iso_image_id));
    let mut segments = Vec::new();
    for nic in &vm.nics {
        let network =
            ctx.get(&inputs.networks, &nic.network_id).ok_or_else(|| missing("network", nic.network_id))?;
        segments.push(network.spec.segment.clone());
    }
    let request = placement::Request {
        cpus: vm.spec.cpus,
        memory_bytes: vm.spec.memory_bytes,
        firmware: vm.spec.firmware,
        volumes: wanted,
        images,
        segments,
        rules: vm.spec.placement.clone(),
        labels: vm.metadata.labels.clone(),
        shared_storage: vm.spec.ha.restarts(),
        departure: None,
    };
    Ok(Asked { volumes, request })
}

type Volumes = (Vec<(VolumeId, bool)>, Vec<VolumeRequest>, BTreeSet<basalt_model::ImageId>);

fn volumes(ctx: &Ctx<'_>, inputs: &Inputs, vm: &basalt_store::vms::Vm) -> Result<Volumes, Failure> {
    let (mut ids, mut wanted, mut images) = (Vec::new(), Vec::new(), BTreeSet::new());
    for id in vm.disks.iter().filter_map(|d| d.volume_id) {
        let volume = ctx.get(&inputs.volumes, &id).ok_or_else(|| missing("volume", id))?;
        let at = bound(volume).map(|(host, pool)| (host, pool.clone()));
        ids.push((id, at.is_none()));
        images.extend(volume.image_id);
        wanted.push(VolumeRequest {
            name: volume.metadata.name.clone(),
            size_bytes: volume.spec.size_bytes,
            pool: volume.spec.pool.clone(),
            bound: at,
        });
    }
    Ok((ids, wanted, images))
}

fn missing(kind: &str, id: impl std::fmt::Display) -> Failure {
    Failure::keep(format!("{kind} {id} is not known yet"))
}
