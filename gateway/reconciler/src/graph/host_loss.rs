//! VMs on hosts that are not heard of: what becomes of each, and where those of dead hosts go.

use super::{Indexes, Inputs, requests};
use basalt_model::{CapabilityReason, HostId, Name, VmId, VolumeId, hosts::HostState};
use basalt_plan::{
    host_loss::{self, Fate, Stranded, Verdict},
    placement::{self, HostView, departure::Leaving, not_known_yet},
};
use basalt_store::host_loss::Evacuation;
use krt::{Builder, Collection, Ctx};
use std::collections::BTreeMap;

/// A VM on a host that is not heard of.
#[derive(Clone, Debug, PartialEq)]
pub struct Stranding {
    /// Why it is not elsewhere yet, and what would help.
    pub waits: Option<CapabilityReason>,
    /// Where it is to go.
    pub evacuation: Option<Evacuation>,
}

/// VMs on hosts that are not heard of. One that is on its way is its migration's matter.
pub(super) fn stranded(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    states: Collection<HostId, HostState>,
    views: Collection<HostId, HostView>,
    peers: requests::Peers,
) -> Collection<VmId, Stranding> {
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive("stranded", &inputs.vms, move |ctx, id, row| {
        let vm = &row.0;
        let placement = ctx.get(&inputs.placements, id)?;
        let (host, host_name) = placement.host.as_ref()?;
        let death = indexes.death(ctx, host);
        let silent = ctx.get(&states, host).is_some_and(|s| **s == HostState::Unreachable);
        let going = vm.metadata.deletion_requested_at.is_some();
        if going || death.is_none() && !silent || indexes.migration(ctx, id).is_some() {
            return None;
        }
        let leased = ctx.project(&inputs.vm_facts, id, |f| (f.host_id, f.epoch, f.observed.leased));
        let verdict = match death {
            Some(_) => Verdict::Proven,
            None => ctx.get(&inputs.losses, host).map_or(Verdict::Alive, |v| **v),
        };
        let known = Stranded {
            restarts: vm.spec.ha.restarts(),
            leased: leased == Some((*host, placement.epoch, true)),
            verdict,
        };
        let waits = |reason| Some(Stranding { waits: Some(reason), evacuation: None });
        let death = match (host_loss::fate(known, &vm.metadata.name, host_name), death) {
            (Fate::Stays(reason), _) => return waits(*reason),
            (Fate::Elsewhere, None) => return None,
            (Fate::Elsewhere, Some(death)) => death,
        };
        match target(ctx, &inputs, views, peers, *id, *host) {
            Err(reason) => waits(reason),
            Ok((target, pools, explanation)) => Some(Stranding {
                waits: None,
                evacuation: Some(Evacuation {
                    vm_id: *id,
                    death_id: death.id,
                    expected_epoch: placement.epoch,
                    target,
                    pools,
                    explanation,
                }),
            }),
        }
    })
}

type Target = (HostId, BTreeMap<VolumeId, Name>, serde_json::Value);

/// Chooses a host that sees the same storage.
fn target(
    ctx: &Ctx<'_>,
    inputs: &Inputs,
    views: Collection<HostId, HostView>,
    peers: requests::Peers,
    id: VmId,
    dead: HostId,
) -> Result<Target, CapabilityReason> {
    let vm = ctx.get(&inputs.vms, &id).ok_or_else(|| not_known_yet("vm"))?;
    let source = ctx.get(&views, &dead).ok_or_else(|| not_known_yet("host"))?;
    let asked = requests::of(ctx, inputs, &vm.0).map_err(|_| not_known_yet("volumes"))?;
    let overlays = !asked.request.images.is_empty();
    let leaving = Leaving::of_dead(asked.request, source, overlays)?;
    let hosts: Vec<&HostView> = ctx.scan(&views).map(|(_, host)| &**host).collect();
    let neighbours = peers.around(ctx, vm.0.metadata.project_id, id, &leaving.request, Some(dead));
    let decision = placement::choose(&leaving.request, &neighbours, hosts.iter().copied());
    let (target, _) = decision.verdict.fits()?;
    let pools = requests::pools_at(&asked.volumes, &leaving, &[], &hosts, target);
    let explanation = serde_json::to_value(&decision.explanation).map_err(|_| not_known_yet("placement"))?;
    Ok((target, pools, explanation))
}

/// VMs that are to go elsewhere.
pub fn evacuations(
    builder: &mut Builder,
    stranded: Collection<VmId, Stranding>,
) -> Collection<VmId, Evacuation> {
    builder.derive("evacuations", &stranded, |_, _, stranding| stranding.evacuation.clone())
}
