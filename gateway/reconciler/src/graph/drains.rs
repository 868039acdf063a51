//! Drains: what is to be done next for each host that is being emptied.

use super::{Indexes, Inputs, requests};
use basalt_model::{CapabilityReason, DrainId, HostId, Name, VmId, drains::Drain};
use basalt_plan::{
    drains::{self, Here, Next, Way},
    placement::{self, HostView, Verdict, not_known_yet},
};
use krt::{Builder, Collection, Ctx};

/// What is to be done for each drain now.
pub(super) fn steps(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    views: Collection<HostId, HostView>,
    peers: requests::Peers,
) -> Collection<DrainId, Next> {
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive("drain_steps", &inputs.drains, move |ctx, id, drain| {
        let here: Vec<Here> = ctx
            .lookup(&indexes.placements_by_host, &drain.host_id)
            .map(|(vm, _)| Here {
                vm_id: *vm,
                moving: indexes.migration(ctx, vm).is_some(),
                deleting: ctx
                    .project(&inputs.vms, vm, |v| v.0.metadata.deletion_requested_at.is_some())
                    .unwrap_or(true),
            })
            .collect();
        let clock = ctx.get(&inputs.drain_clocks, id).map(|c| **c).unwrap_or_default();
        let way = |vm, except: &[Name]| way(ctx, &inputs, views, peers, drain, vm, except);
        Some(drains::next(drain, &here, clock, way)).filter(|next| *next != Next::Wait)
    })
}

/// Where a VM can go now: where it was planned to go if that still takes it, else to the best of the others.
fn way(
    ctx: &Ctx<'_>,
    inputs: &Inputs,
    views: Collection<HostId, HostView>,
    peers: requests::Peers,
    drain: &Drain,
    vm: VmId,
    except: &[Name],
) -> Result<Way, CapabilityReason> {
    let row = ctx.get(&inputs.vms, &vm).ok_or_else(|| not_known_yet("vm"))?;
    let source = ctx.get(&views, &drain.host_id).ok_or_else(|| not_known_yet("host"))?;
    let asked = requests::of(ctx, inputs, &row.0).map_err(|_| not_known_yet("volumes"))?;
    let project = row.0.metadata.project_id;
    let hosts: Vec<&HostView> =
        ctx.scan(&views).map(|(_, host)| &**host).filter(|h| !except.contains(&h.name)).collect();
    let planned = drain.part(vm).and_then(|p| p.target.as_ref());
    let found = drains::find(&asked.request, row.0.spec.power, source, &drain.spec, |request| {
        let neighbours = peers.around(ctx, project, vm, request, Some(drain.host_id));
        let first = hosts.iter().copied().filter(|h| Some(&h.name) == planned);
        let decision = placement::choose(request, &neighbours, first);
        match decision.verdict {
            Verdict::Fits { .. } => decision,
            _ => placement::choose(request, &neighbours, hosts.iter().copied()),
        }
    })?;
    Ok(Way { host: found.host, mode: found.mode })
}
