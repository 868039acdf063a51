//! The bridge, its flows, networks and ports.

use super::{
    Action, Draft, FlowSet, Judgement, Listing, Look, PortDefinition, PortState, Resource, Seen, SwitchSeen,
    vm,
};
use basalt_model::{CapabilityReason, NetworkId, VmId};
use basalt_wire::agent::{Desired, Item, ItemKind, ItemObserved, manifest::NetworkBody};

/// The bridge is there before anything is attached to it, and before anything is placed here: placement
/// chooses only hosts whose facts show it.
pub(super) fn switch(look: &Look<'_>, draft: &mut Draft) {
    draft.switch_ready = matches!(look.observed.switch, SwitchSeen::Ready { .. });
    if look.observed.switch == SwitchSeen::Missing {
        draft.work(look, Resource::Switch, vec![Action::EnsureSwitch]);
    }
}

pub(super) fn present(look: &Look<'_>, draft: &Draft, id: NetworkId, body: &NetworkBody) -> Judgement {
    let definition = look.index.network_definition(id, body);
    let seen = look.observed.networks.get(&id);
    let ready =
        matches!(seen, Seen::There(n) if n.running && n.hash == definition.hash) && draft.switch_ready;
    let flows_fail = flows_fail(look, draft);
    let observed = ItemObserved::Network { ready: ready && flows_fail.is_none(), blocked: flows_fail };
    let judgement = Judgement::new(observed).usable(ready).on(Resource::Network(id));
    if let Some(reason) = uplink_missing(look, id, body) {
        return judgement.block(reason);
    }
    match (&look.observed.switch, seen) {
        (SwitchSeen::Unknown(why), _) => judgement.wait(format!("cannot ask the switch: {why}")),
        (SwitchSeen::Missing, _) => {
            let failed = look.memory.back_off.get(&Resource::Switch).map(|b| b.reason.clone());
            let judgement = judgement.wait("waiting for the bridge");
            failed.into_iter().fold(judgement, Judgement::block)
        }
        (_, Seen::Unknown(why)) => judgement.wait(format!("cannot list networks: {why}")),
        _ if ready => judgement,
        _ => judgement.act([Action::EnsureNetwork(definition)]),
    }
}

/// Why the flows are not as they must be. That setting them failed says nothing once they stand: its answer was lost, or
/// somebody else set them.
fn flows_fail(look: &Look<'_>, draft: &Draft) -> Option<CapabilityReason> {
    let stands = draft.flows.as_ref().is_some_and(|(_, stands)| *stands);
    look.memory.back_off.get(&Resource::Flows).filter(|_| !stands).map(|b| b.reason.clone())
}

fn uplink_missing(look: &Look<'_>, id: NetworkId, body: &NetworkBody) -> Option<CapabilityReason> {
    let uplink = body.segment.uplink()?;
    (!look.observed.capabilities.bridges.contains(uplink)).then(|| {
        CapabilityReason::new(
            "uplink_missing",
            format!("network/{id}"),
            format!("this host has no bridge {uplink}"),
            "make the uplink bridge on the host, or use a vxlan network",
        )
        .with_evidence(format!("bridges: {:?}", look.observed.capabilities.bridges))
    })
}

pub(super) fn absent(look: &Look<'_>, id: NetworkId) -> Judgement {
    let there =
        Judgement::new(ItemObserved::Network { ready: false, blocked: None }).on(Resource::Network(id));
    if let Some(why) = look.observed.vms.problem() {
        return there.wait(format!("cannot tell who uses it: {why}"));
    }
    if let Some(user) = look.observed.vms.items.values().find(|v| v.networks.contains(&id)) {
        return there.wait(format!("waiting until {} is gone", user.name));
    }
    match look.observed.networks.get(&id) {
        Seen::Unknown(why) => there.wait(format!("cannot list networks: {why}")),
        Seen::There(_) => there.act([Action::RemoveNetwork(id)]),
        Seen::Gone => Judgement::new(ItemObserved::Gone).on(Resource::Network(id)),
    }
}

/// Ports that left the bridge come back, and the flows are those of the ports that are on it.
pub(super) fn ports(look: &Look<'_>, draft: &mut Draft) {
    if !draft.switch_ready {
        return;
    }
    for (vm_id, body) in look.index.vms() {
        if !vm::is_live(look, vm_id) {
            continue;
        }
        for nic in &body.nics {
            if let Seen::There(port) = look.observed.ports.get(&nic.port_id)
                && port.state == PortState::Detached
            {
                let definition = PortDefinition { port_id: nic.port_id, vm_id, mac: nic.mac.clone() };
                draft.work(look, Resource::Port(nic.port_id), vec![Action::EnsurePort(definition)]);
            }
        }
    }
    names(look, draft);
    flows(look, draft);
}

/// Names change with every guest of a network, anywhere; that makes no network less ready.
fn names(look: &Look<'_>, draft: &mut Draft) {
    for item in look.index.items() {
        let Desired::Network(body) = &item.desired else { continue };
        let id = NetworkId(item.id);
        if let Seen::There(seen) = look.observed.networks.get(&id)
            && seen.running
            && let Some(wanted) = look.index.names(id, body, &look.memory.directory)
            && seen.names.as_ref() != Some(&wanted.hash)
        {
            draft.work(look, Resource::Names(id), vec![Action::EnsureNames(wanted)]);
        }
    }
}

fn flows(look: &Look<'_>, draft: &mut Draft) {
    if let Some((wanted, false)) = draft.flows.take() {
        draft.work(look, Resource::Flows, vec![Action::EnsureFlows(wanted)]);
    }
}

/// The flows that must stand, and whether they do.
pub(super) fn flows_wanted(look: &Look<'_>, draft: &Draft) -> Option<(FlowSet, bool)> {
    let SwitchSeen::Ready { flows: standing } = &look.observed.switch else { return None };
    // The set is applied whole: a port that was only not listed would lose its flows.
    if !draft.switch_ready
        || look.observed.ports.listing != Listing::Complete
        || look.observed.routers.listing != Listing::Complete
        || !look.index.items().any(|i| i.kind == ItemKind::Network)
    {
        return None;
    }
    let wanted = look.index.flows(
        &look.memory.directory,
        |port| matches!(look.observed.ports.get(port), Seen::There(p) if p.state == PortState::Attached),
        |router, port| matches!(look.observed.routers.get(&router), Seen::There(r) if r.ports.contains(port)),
    );
    let stands = standing.as_ref() == Some(&wanted.hash);
    Some((wanted, stands))
}

/// A security group is nothing but flows. Once its generation was in them it stays realised: they also change because of
/// ports and networks.
pub(super) fn group(look: &Look<'_>, draft: &Draft, item: &Item) -> Judgement {
    let fail = flows_fail(look, draft);
    let known = look.memory.realised.get(&item.key()) == Some(&item.generation);
    let ready = known || draft.flows.as_ref().is_some_and(|(_, stands)| *stands);
    let observed = ItemObserved::SecurityGroup { ready: ready && fail.is_none(), blocked: fail };
    let judgement = Judgement::new(observed).usable(ready);
    if ready { judgement } else { judgement.wait("waiting for the flows") }
}

/// Ports of a VM that does not run, which the bridge still names: they would stand in the way of a start.
pub(super) fn stale_ports(look: &Look<'_>, id: VmId) -> Vec<Action> {
    let ports = look.observed.ports.items.iter();
    let stale = ports.filter(|(_, p)| p.vm_id == id && p.state == PortState::Stale);
    stale.map(|(port, _)| Action::RemovePort(*port)).collect()
}
