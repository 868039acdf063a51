//! A cluster that is only described, as decisions see it.

use super::{Guest, World};
use crate::{
    drains::{Leaver, Placed},
    placement::{HostView, Request, VolumeRequest, affinity::Peer},
};
use basalt_model::{
    FieldError, HostId, Name, ProjectId, VmId,
    hosts::{Accelerator, BridgeFacts, FencerFacts, HostFacts, HostSpec, HostState, Versions},
    pools::{PoolFacts, PoolKind},
    quotas::Demand,
};
use basalt_wire::rest::{Inventory, SimHost, SimVm};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use uuid::Uuid;

/// All VMs of an inventory are in one project.
const PROJECT: ProjectId = ProjectId(Uuid::from_u128(1));
/// Seconds in which a described host's fencer is done.
const FENCER_WINDOW: u32 = 5;

/// Reads an inventory.
///
/// # Errors
/// The field that names a host or a pool that is not described, or a name that stands for two.
pub fn described(inventory: &Inventory) -> Result<World, FieldError> {
    let mut shared: BTreeMap<&Name, Uuid> = BTreeMap::new();
    for pool in inventory.hosts.iter().flat_map(|h| &h.pools).filter(|p| p.shared) {
        let next = Uuid::from_u128(shared.len() as u128 + 1);
        shared.entry(&pool.name).or_insert(next);
    }
    let mut hosts: Vec<HostView> = Vec::new();
    for (n, host) in inventory.hosts.iter().enumerate() {
        if hosts.iter().any(|h| h.name == host.name) {
            return Err(twice(format!("inventory.hosts.{n}.name"), &host.name));
        }
        hosts.push(view(n, host, &shared));
    }
    let mut world = World::new(Vec::new(), Vec::new(), Vec::new());
    let mut names = BTreeSet::new();
    for (n, vm) in inventory.vms.iter().enumerate() {
        if !names.insert(&vm.name) {
            return Err(twice(format!("inventory.vms.{n}.name"), &vm.name));
        }
        let guest = guest(n, vm, &mut hosts)?;
        if let Some(peer) = Peer::of(&vm.name, &vm.labels, &vm.placement) {
            let host_id = guest.host_id;
            world.peers.push(Placed { vm_id: guest.leaver.vm_id, project_id: PROJECT, host_id, peer });
        }
        world.guests.push(guest);
    }
    world.hosts = hosts;
    Ok(world)
}

fn twice(field: String, name: &Name) -> FieldError {
    FieldError::new(field, "duplicate", format!("{name} stands there twice"), "give each its own name")
}

fn view(n: usize, host: &SimHost, shared: &BTreeMap<&Name, Uuid>) -> HostView {
    let pool = |p: &basalt_wire::rest::SimPool| PoolFacts {
        name: p.name.clone(),
        kind: if p.shared { PoolKind::SharedDirectory } else { PoolKind::Directory },
        path: format!("/pools/{}", p.name),
        capacity_bytes: p.capacity_bytes,
        available_bytes: p.capacity_bytes,
        shared_id: shared.get(&p.name).copied().filter(|_| p.shared),
        lacks: Vec::new(),
    };
    let facts = HostFacts {
        hostname: host.name.to_string(),
        boot_id: String::new(),
        cpu_model: String::new(),
        cpu_features: Vec::new(),
        cores: host.threads,
        threads: host.threads,
        memory_bytes: host.memory_bytes,
        numa: Vec::new(),
        accelerators: vec![Accelerator { kind: "kvm".into(), usable: true, evidence: "described".into() }],
        uefi: true,
        pools: host.pools.iter().map(pool).collect(),
        bridges: vec![BridgeFacts {
            name: "br-int".into(),
            datapath: "system".into(),
            integration: true,
            mtu: None,
        }],
        tunnel_address: None,
        tunnel_mtu: None,
        migration_address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9446))),
        post_copy: false,
        routers: false,
        fencer: host.fencer.then_some(FencerFacts { window_seconds: FENCER_WINDOW, watchdog: false }),
        versions: Versions::default(),
        foreign: Vec::new(),
        problems: Vec::new(),
    };
    HostView {
        id: HostId(Uuid::from_u128(n as u128 + 1)),
        name: host.name.clone(),
        labels: host.labels.clone(),
        spec: HostSpec::default(),
        state: HostState::Ready,
        facts: Some(Arc::new(facts)),
        claimed: Demand::default(),
        pool_claims: BTreeMap::new(),
        cached_images: BTreeSet::new(),
    }
}

fn guest(n: usize, vm: &SimVm, hosts: &mut [HostView]) -> Result<Guest, FieldError> {
    let host = hosts.iter_mut().find(|h| h.name == vm.host).ok_or_else(|| {
        let reason = format!("no host {} is described", vm.host);
        FieldError::new(format!("inventory.vms.{n}.host"), "not_found", reason, "describe it under hosts")
    })?;
    let mut volumes = Vec::new();
    for (d, disk) in vm.disks.iter().enumerate() {
        if host.facts.as_ref().is_none_or(|f| f.pool(&disk.pool).is_none()) {
            let field = format!("inventory.vms.{n}.disks.{d}.pool");
            let reason = format!("host {} has no pool {}", vm.host, disk.pool);
            return Err(FieldError::new(field, "not_found", reason, "describe the pool on that host"));
        }
        *host.pool_claims.entry(disk.pool.clone()).or_default() += disk.size_bytes;
        volumes.push(VolumeRequest {
            name: vm.name.clone(),
            size_bytes: disk.size_bytes,
            pool: None,
            bound: Some((host.id, disk.pool.clone())),
        });
    }
    let request = Request {
        cpus: vm.cpus,
        memory_bytes: vm.memory_bytes,
        volumes,
        rules: vm.placement.clone(),
        labels: vm.labels.clone(),
        ..Request::default()
    };
    host.promise(&request);
    let leaver = Leaver {
        vm_id: VmId(Uuid::from_u128(n as u128 + 1)),
        vm: vm.name.clone(),
        project_id: PROJECT,
        power: vm.power,
        request,
    };
    let networks = vm.networks.iter().map(Name::to_string).collect();
    Ok(Guest { leaver, host_id: host.id, restarts: vm.ha.restarts(), networks })
}
