//! What hosts should have, and how their manifest rows come to say so.

use super::{Edits, Indexes, Inputs, bound, migrations, naming, owner, routers};
use crate::rows::{FactRow, ItemAt, ItemRow};
use basalt_model::{
    Epoch, HostId, ImageId, Name, NetworkId, SecurityGroupId, VmId, VolumeId, volumes::VolumeState,
};
use basalt_plan::manifest::{self, Edit, Fact};
use basalt_store::hosts::HostFactsRow;
use basalt_wire::agent::manifest::{ItemKind, MotionBody, Shared};
use krt::{Builder, Collection, Ctx, Index};
use std::collections::BTreeSet;
use uuid::Uuid;

/// A thing on a host that another thing needs: the thing, then who needs it.
pub(super) type Hold = (ItemAt, (ItemKind, Uuid));

/// Items that hosts should have.
pub fn desired(builder: &mut Builder, inputs: &Inputs, indexes: &Indexes) -> Collection<ItemAt, ItemRow> {
    let vm_holds = vm_holds(builder, inputs, indexes);
    let held_by_vms = builder.index("held_by_vms", &vm_holds, |hold: &Hold, ()| [hold.0]);
    let vms = vm_items(builder, inputs, indexes);
    let volumes = volume_items(builder, inputs, indexes, held_by_vms);
    let volume_holds = volume_holds(builder, inputs, indexes, volumes);
    let router_holds = routers::holds(builder, inputs, indexes);
    let holds = builder.union_disjoint("holds", &[vm_holds, volume_holds, router_holds]);
    let held = builder.index("held", &holds, |hold: &Hold, ()| [hold.0]);
    let shared = shared_items(builder, inputs, held);
    let routers = routers::items(builder, inputs, indexes);
    builder.union_disjoint("desired", &[vms, volumes, routers, shared])
}

/// Hosts where a VM is, or where its row still stands.
fn hosts_of(
    ctx: &Ctx<'_>,
    inputs: &Inputs,
    indexes: &Indexes,
    id: &VmId,
    deleting: bool,
) -> BTreeSet<HostId> {
    let placed = ctx.get(&inputs.placements, id).and_then(|p| p.host.as_ref()).map(|h| h.0);
    let target = indexes.migration(ctx, id).and_then(|row| row.migration.target_host_id);
    let standing = ctx.lookup(&indexes.items_by_object, &(ItemKind::Vm, id.0)).map(|(at, _)| at.0);
    standing.chain(placed.into_iter().chain(target).filter(|_| !deleting)).collect()
}

fn vm_holds(builder: &mut Builder, inputs: &Inputs, indexes: &Indexes) -> Collection<Hold, ()> {
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive_many("vm_holds", &inputs.vms, move |ctx, id, row| {
        let vm = &row.0;
        let deleting = vm.metadata.deletion_requested_at.is_some();
        let mut held = manifest::held_by_vm(&vm.disks, &vm.nics);
        // What holds for a network holds for its ports, so it is on the hosts where those are.
        for nic in &vm.nics {
            let groups = ctx.project(&inputs.networks, &nic.network_id, |n| n.security_groups.clone());
            held.extend(groups.unwrap_or_default().into_iter().map(manifest::group_key));
        }
        let keys = |host: HostId| {
            held.iter().map(move |k| (((host, k.kind, k.id), (ItemKind::Vm, id.0)), ())).collect::<Vec<_>>()
        };
        hosts_of(ctx, &inputs, &indexes, id, deleting)
            .into_iter()
            .flat_map(keys)
            .collect::<std::collections::BTreeMap<Hold, ()>>()
    })
}

/// A VM is on its host, and for the time of a migration its target gets ready for it.
fn vm_items(builder: &mut Builder, inputs: &Inputs, indexes: &Indexes) -> Collection<ItemAt, ItemRow> {
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive_many("vm_items", &inputs.vms, move |ctx, id, row| {
        let vm = &row.0;
        let placement = ctx.get(&inputs.placements, id);
        let Some((host, epoch)) = placement.and_then(|p| p.host.as_ref().map(|h| (h.0, p.epoch))) else {
            return Vec::new();
        };
        if vm.metadata.deletion_requested_at.is_some() {
            return Vec::new();
        }
        let item = |epoch: Epoch, motion: Option<&MotionBody>| {
            let view = manifest::Vm {
                metadata: &vm.metadata,
                spec: &vm.spec,
                incarnation: vm.incarnation,
                operation: vm.operation.as_ref(),
                motion,
                disks: &vm.disks,
                nics: &vm.nics,
            };
            ItemRow(manifest::vm(view, epoch))
        };
        // One that was settled in this revision says nothing any more.
        let moving = indexes.migration(ctx, id).filter(|m| m.migration.source_epoch == epoch);
        let outgoing = moving.and_then(|m| migrations::outgoing(ctx, &inputs, m));
        let mut items = vec![((host, ItemKind::Vm, id.0), item(epoch, outgoing.as_ref()))];
        if let Some(row) = moving
            && let Some(target) = row.migration.target_host_id
        {
            let incoming = migrations::incoming(row);
            let item = item(row.migration.target_epoch(), Some(&incoming));
            items.push(((target, ItemKind::Vm, id.0), item));
        }
        items
    })
}

/// A volume stays while it is wanted, and in any case while a VM holds it where it is.
fn volume_items(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    held: Index<Hold, (), ItemAt>,
) -> Collection<ItemAt, ItemRow> {
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive_many("volume_items", &inputs.volumes, move |ctx, id, volume| {
        let Some((host, pool)) = bound(volume) else {
            return Vec::new();
        };
        let alive = |vm: VmId| {
            ctx.project(&inputs.vms, &vm, |v| v.0.metadata.deletion_requested_at.is_none()).unwrap_or(false)
        };
        let wanted = volume.metadata.deletion_requested_at.is_none() && owner(volume).is_none_or(alive);
        let moving = volume.vm_id.and_then(|vm| indexes.migration(ctx, &vm));
        let there = moving.and_then(|m| m.migration.target_host_id.zip(m.pools.get(id)));
        let places = std::iter::once((host, pool)).chain(there.filter(|(target, _)| *target != host));
        let mut items = Vec::new();
        for (host, pool) in places {
            let at = (host, ItemKind::Volume, id.0);
            if !wanted && ctx.count(&held, &at) == 0 {
                continue;
            }
            let view = manifest::Volume {
                metadata: &volume.metadata,
                spec: &volume.spec,
                pool,
                image_id: volume.image_id,
                incarnation: volume.incarnation,
                shared: shared(ctx, &inputs, *id, host, pool),
            };
            items.push((at, ItemRow(manifest::volume(view))));
        }
        items
    })
}

/// Whether other hosts see the volume too, and whether it was made.
fn shared(ctx: &Ctx<'_>, inputs: &Inputs, id: VolumeId, host: HostId, pool: &Name) -> Shared {
    let seen_by_others = |row: &HostFactsRow| migrations::shared_pools(&row.facts);
    let pools = ctx.project(&inputs.host_facts, &host, seen_by_others);
    if !pools.is_some_and(|pools| pools.contains(pool)) {
        return Shared::No;
    }
    let made = ctx.project(&inputs.volume_facts, &id, |f| f.observed.state == VolumeState::Ready);
    if made.unwrap_or(false) { Shared::Made } else { Shared::Yes }
}

fn volume_holds(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    wanted: Collection<ItemAt, ItemRow>,
) -> Collection<Hold, ()> {
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive_many("volume_holds", &inputs.volumes, move |ctx, id, volume| {
        let Some(image) = manifest::held_by_volume(volume.image_id) else {
            return Vec::new();
        };
        let moving = volume.vm_id.and_then(|vm| indexes.migration(ctx, &vm));
        let there = moving.and_then(|m| m.migration.target_host_id);
        let here = bound(volume).map(|b| b.0).into_iter().chain(there);
        let here = here.filter(|h| ctx.exists(&wanted, &(*h, ItemKind::Volume, id.0)));
        let standing = ctx.lookup(&indexes.items_by_object, &(ItemKind::Volume, id.0)).map(|(at, _)| at.0);
        let hosts: BTreeSet<HostId> = standing.chain(here).collect();
        hosts.into_iter().map(|h| (((h, image.kind, image.id), (ItemKind::Volume, id.0)), ())).collect()
    })
}

/// Images, networks and security groups are on a host for as long as something there holds them.
fn shared_items(
    builder: &mut Builder,
    inputs: &Inputs,
    held: Index<Hold, (), ItemAt>,
) -> Collection<ItemAt, ItemRow> {
    let inputs = *inputs;
    builder.group("shared_items", &held, move |ctx, at, _holders| {
        let item = match at.1 {
            ItemKind::Network => {
                let network = ctx.get(&inputs.networks, &NetworkId(at.2))?;
                let view = manifest::Network {
                    metadata: &network.metadata,
                    spec: &network.spec,
                    vni: network.vni,
                    security_groups: &network.security_groups,
                };
                manifest::network(view)
            }
            ItemKind::SecurityGroup => {
                let group = ctx.get(&inputs.security_groups, &SecurityGroupId(at.2))?;
                let view = manifest::SecurityGroup {
                    metadata: &group.metadata,
                    spec: &group.spec,
                    named: &group.named,
                };
                manifest::security_group(view)
            }
            ItemKind::Image => {
                let image = ctx.get(&inputs.images, &ImageId(at.2))?;
                let facts = ctx.get(&inputs.image_facts, &ImageId(at.2))?;
                let view = manifest::Image {
                    metadata: &image.metadata,
                    spec: &image.spec,
                    observed: &facts.observed,
                };
                manifest::image(view)?
            }
            ItemKind::Volume | ItemKind::Vm | ItemKind::Router => return None,
        };
        Some(ItemRow(item))
    })
}

/// Rows of manifests that must change, by host.
pub fn edits_by_host(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    desired: Collection<ItemAt, ItemRow>,
) -> Collection<HostId, Edits> {
    let (inputs, indexes) = (*inputs, *indexes);
    let puts = builder.derive("puts", &desired, move |ctx, at, want| {
        let stored = ctx.get(&inputs.items, at);
        let fact = ctx.get(&inputs.facts, at).map(|f| fact(f));
        // Read only where it matters: it moves with every write to the host's manifest.
        let revision = if stored.is_none() { ctx.get(&inputs.revisions, &at.0).map(|r| **r) } else { None };
        manifest::put(&want.0, stored.map(|s| &**s), fact.as_ref(), revision.unwrap_or(0))
            .map(|e| Edits(vec![e]))
    });
    let wanted_naming =
        builder.index("wanted_naming", &desired, |at, row| naming(at, &manifest::names(&row.0)));
    let withdrawals = builder.derive("withdrawals", &inputs.items, move |ctx, at, row| {
        if ctx.exists(&desired, at) {
            return None;
        }
        let fact = ctx.get(&inputs.facts, at).map(|f| fact(f));
        let in_use = ctx.count(&indexes.items_naming, at) + ctx.count(&wanted_naming, at) > 0;
        let elsewhere = at.1 == ItemKind::Volume
            && ctx.project(&inputs.volumes, &VolumeId(at.2), |v| v.host_id) != Some(Some(at.0));
        manifest::withdraw(row, fact.as_ref(), in_use, elsewhere).map(|e| Edits(vec![e]))
    });
    let edits = builder.union_disjoint("edits", &[puts, withdrawals]);
    let by_host = builder.index("edits_of_host", &edits, |at, _| [at.0]);
    builder.group("edits_by_host", &by_host, |_ctx, _host, members| {
        let edits: Vec<Edit> = members.iter().flat_map(|(_, e)| e.0.iter().cloned()).collect();
        Some(Edits(edits))
    })
}

fn fact(row: &FactRow) -> Fact {
    Fact { generation: row.generation, epoch: row.epoch, gone: row.gone }
}
