//! Routers: which hosts they should be on, what these should have of them, and what is true of them.

use super::{
    Indexes, Inputs,
    manifests::Hold,
    status::{owners, unless_stored},
};
use crate::rows::{ItemAt, ItemRow};
use basalt_model::{HostId, RouterId, hosts::HostState, networks::Segment};
use basalt_plan::{
    manifest,
    routers::{self, At, RouterHost},
};
use basalt_store::{conditions::Conditions, routers::Placement};
use basalt_wire::agent::manifest::ItemKind;
use krt::{Builder, Collection, Ctx};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A router that is to be on other hosts than it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where it is, by slot.
    pub from: BTreeMap<u8, HostId>,
    /// Where it is to be.
    pub to: BTreeMap<u8, HostId>,
}

/// Routers that are to be on other hosts.
pub fn moves(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    states: Collection<HostId, HostState>,
) -> Collection<RouterId, Move> {
    let (inputs, indexes) = (*inputs, *indexes);
    // Apart from all else of a host: what VMs claim there changes no router.
    let hosts = builder.derive("router_hosts", &inputs.hosts, move |ctx, id, host| {
        let facts = ctx.get(&inputs.host_facts, id);
        let state = ctx.get(&states, id)?;
        Some(RouterHost::of(&host.metadata.name, **state, facts.map(|f| &f.facts)))
    });
    builder.derive("router_moves", &inputs.routers, move |ctx, id, router| {
        if router.metadata.deletion_requested_at.is_some() {
            return None;
        }
        let mut segments: Vec<Segment> = Vec::new();
        for network in router.wiring.networks() {
            // A network that is not known yet comes with the next pull.
            segments.push(ctx.project(&inputs.networks, &network, |n| n.spec.segment.clone())?);
        }
        let hosts = ctx.scan(&hosts).map(|(id, host)| (*id, RouterHost::clone(host))).collect();
        let from: BTreeMap<u8, HostId> = placements(ctx, &indexes, id).map(|p| (p.slot, p.host_id)).collect();
        let to = routers::choose(*id, &segments, &hosts, &from);
        (from != to).then_some(Move { from, to })
    })
}

fn placements<'a>(
    ctx: &Ctx<'a>,
    indexes: &Indexes,
    id: &RouterId,
) -> impl Iterator<Item = &'a Placement> + use<'a> {
    ctx.lookup(&indexes.placements_of_router, id).map(|(_, placement)| &**placement)
}

/// The networks of a router stay on a host for as long as the router's row stands there.
pub fn holds(builder: &mut Builder, inputs: &Inputs, indexes: &Indexes) -> Collection<Hold, ()> {
    let indexes = *indexes;
    builder.derive_many("router_holds", &inputs.routers, move |ctx, id, router| {
        let deleting = router.metadata.deletion_requested_at.is_some();
        let placed = placements(ctx, &indexes, id).map(|p| p.host_id).filter(|_| !deleting);
        let standing = ctx.lookup(&indexes.items_by_object, &(ItemKind::Router, id.0)).map(|(at, _)| at.0);
        let hosts: BTreeSet<HostId> = standing.chain(placed).collect();
        let networks: BTreeSet<_> = router.wiring.networks().collect();
        let hold = |host: HostId| {
            let by = (ItemKind::Router, id.0);
            networks.iter().map(move |n| (((host, ItemKind::Network, n.0), by), ())).collect::<Vec<_>>()
        };
        hosts.into_iter().flat_map(hold).collect::<BTreeMap<Hold, ()>>()
    })
}

/// What hosts should have of routers.
pub fn items(builder: &mut Builder, inputs: &Inputs, indexes: &Indexes) -> Collection<ItemAt, ItemRow> {
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive_many("router_items", &inputs.routers, move |ctx, id, router| {
        if router.metadata.deletion_requested_at.is_some() {
            return Vec::new();
        }
        let all: Vec<&Placement> = placements(ctx, &indexes, id).collect();
        let tunnel =
            |host: &HostId| ctx.project(&inputs.host_facts, host, |f| f.facts.tunnel_address).flatten();
        let item = |at: &&Placement| {
            let other = all.iter().find(|p| p.slot != at.slot);
            let view = manifest::Router {
                metadata: &router.metadata,
                spec: &router.spec,
                wiring: &router.wiring,
                vrid: at.vrid,
                preferred: at.slot == 0,
                peer: other.and_then(|p| tunnel(&p.host_id)),
            };
            ((at.host_id, ItemKind::Router, id.0), ItemRow(manifest::router(view)))
        };
        all.iter().map(item).collect::<Vec<_>>()
    })
}

/// Conditions of routers that are not stored as they are.
pub fn conditions(
    builder: &mut Builder,
    inputs: &Inputs,
    indexes: &Indexes,
    states: Collection<HostId, HostState>,
) -> Collection<Uuid, Conditions> {
    let (inputs, indexes) = (*inputs, *indexes);
    builder.derive_many("router_conditions", &inputs.routers, move |ctx, id, router| {
        let generation = router.metadata.generation;
        let at = placements(ctx, &indexes, id).map(|p| {
            let fact = ctx.get(&inputs.facts, &(p.host_id, ItemKind::Router, id.0)).filter(|f| !f.gone);
            At {
                host: p.host.clone(),
                state: ctx.get(&states, &p.host_id).map_or(HostState::Removed, |s| **s),
                ready: fact.is_some_and(|f| f.ready && f.generation >= generation),
                active: fact.is_some_and(|f| f.active),
                blocked: fact.and_then(|f| f.blocked.clone()),
                stage: fact.map(|f| f.stage.clone()).unwrap_or_default(),
            }
        });
        let at: Vec<At> = at.collect();
        let deleting = router.metadata.deletion_requested_at.is_some();
        let all = routers::conditions(&router.metadata.name, generation, deleting, &at);
        unless_stored(ctx, &inputs, "router", id.0, Some(owners(&router.metadata)), all)
    })
}
