//! Deletions that are complete but for their rows: nothing of the object stands in any manifest.

use super::{Indexes, Inputs, owner};
use basalt_model::{
    DeploymentId, HostId, ImageId, Metadata, NetworkId, ProviderId, RouterId, VmId, VolumeId,
};
use basalt_wire::agent::manifest::ItemKind;
use krt::{Builder, Collection, Ctx};
use uuid::Uuid;

/// An object whose rows can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removal {
    /// A VM with its owned volumes and ports.
    Vm(VmId),
    /// A volume of its own.
    Volume(VolumeId),
    /// An image.
    Image(ImageId),
    /// A network.
    Network(NetworkId),
    /// A router.
    Router(RouterId),
    /// A host.
    Host(HostId),
    /// A deployment.
    Deployment(DeploymentId),
    /// A provider that was to go after its deployments.
    Provider(ProviderId),
}

/// Objects of which nothing is left but their rows.
pub fn removals(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    forgotten: Collection<DeploymentId, ()>,
) -> Collection<Removal, ()> {
    let (inputs, indexes) = (*inputs, *indexes);
    let vms = builder.derive_many("vm_removals", &inputs.vms, move |ctx, id, vm| {
        let mut volumes = ctx.lookup(&indexes.volumes_by_owner, id);
        let gone = going(&vm.0.metadata)
            && nowhere(ctx, &indexes, ItemKind::Vm, id.0)
            && volumes.all(|(volume, _)| nowhere(ctx, &indexes, ItemKind::Volume, volume.0));
        rows(gone, Removal::Vm(*id))
    });
    let volumes = builder.derive_many("volume_removals", &inputs.volumes, move |ctx, id, volume| {
        let gone = going(&volume.metadata)
            && owner(volume).is_none()
            && nowhere(ctx, &indexes, ItemKind::Volume, id.0);
        rows(gone, Removal::Volume(*id))
    });
    let images = builder.derive_many("image_removals", &inputs.images, move |ctx, id, image| {
        let gone = going(&image.metadata) && nowhere(ctx, &indexes, ItemKind::Image, id.0);
        rows(gone, Removal::Image(*id))
    });
    let networks = builder.derive_many("network_removals", &inputs.networks, move |ctx, id, network| {
        let gone = going(&network.metadata) && nowhere(ctx, &indexes, ItemKind::Network, id.0);
        rows(gone, Removal::Network(*id))
    });
    let routers = builder.derive_many("router_removals", &inputs.routers, move |ctx, id, router| {
        let gone = going(&router.metadata) && nowhere(ctx, &indexes, ItemKind::Router, id.0);
        rows(gone, Removal::Router(*id))
    });
    let routed = builder.index("routed_on", &inputs.router_placements, |_, p| [p.host_id]);
    let placed = builder.index("placed_on", &inputs.placements, |_, p| p.host.as_ref().map(|h| h.0));
    let hosts = builder.derive_many("host_removals", &inputs.hosts, move |ctx, id, host| {
        rows(
            going(&host.metadata) && ctx.count(&placed, id) + ctx.count(&routed, id) == 0,
            Removal::Host(*id),
        )
    });
    let deployments = builder
        .derive_many("deployment_removals", &forgotten, |_, id, ()| rows(true, Removal::Deployment(*id)));
    let deployed = builder.index("deployed_at", &inputs.deployments, |_, d| [d.provider_id]);
    let providers = builder.derive_many("provider_removals", &inputs.providers, move |ctx, id, provider| {
        rows(going(&provider.metadata) && ctx.count(&deployed, id) == 0, Removal::Provider(*id))
    });
    let all = [vms, volumes, images, networks, routers, hosts, deployments, providers];
    builder.union_disjoint("removals", &all)
}

fn going(metadata: &Metadata) -> bool {
    metadata.deletion_requested_at.is_some()
}

fn nowhere(ctx: &Ctx<'_>, indexes: &Indexes, kind: ItemKind, id: Uuid) -> bool {
    ctx.count(&indexes.items_by_object, &(kind, id)) == 0
}

fn rows(gone: bool, removal: Removal) -> Vec<(Removal, ())> {
    if gone { vec![(removal, ())] } else { Vec::new() }
}
