//! Routers: on which two hosts one is, and what is true of it.

use crate::conditions::UNDATED;
use basalt_model::{
    CapabilityReason, Condition, ConditionStatus, Generation, HostId, Name, RouterId,
    hosts::{HostFacts, HostState},
    networks::Segment,
};
use std::collections::{BTreeMap, BTreeSet};

/// Most hosts of a router: one that is active and one that stands by.
pub const HOSTS: usize = 2;

/// A host as far as routers are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterHost {
    /// Its name.
    pub name: Name,
    /// Its state now.
    pub state: HostState,
    /// Whether it has the programs, and an address for tunnels.
    pub able: bool,
    /// Its bridges: those of uplinks are among them.
    pub bridges: BTreeSet<String>,
}

impl RouterHost {
    /// What routers see of a host.
    pub fn of(name: &Name, state: HostState, facts: Option<&HostFacts>) -> Self {
        let bridges = facts.iter().flat_map(|f| &f.bridges).map(|b| b.name.clone());
        Self {
            name: name.clone(),
            state,
            able: facts.is_some_and(|f| f.routers && f.tunnel_address.is_some()),
            bridges: bridges.collect(),
        }
    }

    fn fits(&self, segments: &[Segment]) -> bool {
        self.able && segments.iter().filter_map(Segment::uplink).all(|uplink| self.bridges.contains(uplink))
    }
}

/// Chooses a router's hosts, by slot: the first is preferred when both begin at once.
///
/// Whoever has it and still can keeps it, in its place. What is free goes to hosts that are ready, spread by a hash of
/// router and host (rendezvous), so that the same truth gives the same answer. A host that is silent or in maintenance
/// is kept only while no other can take its place: its router may still be the one that routes.
pub fn choose(
    router: RouterId,
    segments: &[Segment],
    hosts: &BTreeMap<HostId, RouterHost>,
    current: &BTreeMap<u8, HostId>,
) -> BTreeMap<u8, HostId> {
    let of = |id: &HostId| hosts.get(id).filter(|host| host.fits(segments));
    let lives =
        |id: &HostId| of(id).is_some_and(|h| matches!(h.state, HostState::Ready | HostState::Degraded));
    let waits = |id: &HostId| {
        of(id).is_some_and(|h| matches!(h.state, HostState::Unreachable | HostState::Maintenance))
    };
    let mut chosen: BTreeMap<u8, HostId> =
        current.iter().filter(|(_, id)| lives(id)).map(|(slot, id)| (*slot, *id)).collect();
    let mut free: Vec<HostId> = hosts
        .iter()
        .filter(|(id, host)| host.state == HostState::Ready && host.fits(segments) && !holds(&chosen, id))
        .map(|(id, _)| *id)
        .collect();
    free.sort_by_key(|id| std::cmp::Reverse((weight(router, *id), *id)));
    let mut free = free.into_iter();
    for slot in [0, 1] {
        if !chosen.contains_key(&slot)
            && let Some(id) = free.next()
        {
            chosen.insert(slot, id);
        }
    }
    for (slot, id) in current.iter().filter(|(_, id)| waits(id)) {
        if !chosen.contains_key(slot) && !holds(&chosen, id) {
            chosen.insert(*slot, *id);
        }
    }
    chosen
}

fn holds(chosen: &BTreeMap<u8, HostId>, id: &HostId) -> bool {
    chosen.values().any(|host| host == id)
}

/// FNV-1a over both ids, finished so that a change of the last byte moves all bits.
fn weight(router: RouterId, host: HostId) -> u64 {
    let bytes = router.0.into_bytes().into_iter().chain(host.0.into_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// What one of a router's hosts says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The host's name.
    pub host: Name,
    /// The host's state.
    pub state: HostState,
    /// Whether all of the router stands there, at the generation that is wanted.
    pub ready: bool,
    /// Whether it routes there.
    pub active: bool,
    /// Why it cannot be had there.
    pub blocked: Option<CapabilityReason>,
    /// What the host is doing for it.
    pub stage: String,
}

/// Conditions of a router: `Ready`, and `Redundant`.
pub fn conditions(name: &Name, generation: Generation, deleting: bool, at: &[At]) -> Vec<Condition> {
    let say = |kind: &str, status: ConditionStatus, reason: &str, message: String| Condition {
        kind: kind.into(),
        status,
        reason: reason.into(),
        message,
        since: UNDATED,
        observed_generation: generation,
    };
    let yes = ConditionStatus::True;
    let no = ConditionStatus::False;
    if deleting {
        return vec![say("Ready", no, "deleting", "it is being deleted".into())];
    }
    let heard = |a: &&At| a.state != HostState::Unreachable;
    let active = at.iter().filter(heard).find(|a| a.active && a.ready);
    let by = at.iter().filter(heard).find(|a| !a.active && a.ready);
    let ready = match (active, at) {
        (Some(a), _) => say("Ready", yes, "routing", format!("it routes on host {}", a.host)),
        (None, []) => {
            let reason = CapabilityReason::new(
                "no_host",
                format!("router/{name}"),
                "no host can take it",
                "add a ready host with nftables, keepalived, an address for tunnels and the uplink's bridge",
            );
            say("Ready", no, "no_host", reason.to_string())
        }
        (None, all) => match all.iter().find_map(|a| a.blocked.as_ref()) {
            Some(reason) => say("Ready", no, &reason.code, reason.to_string()),
            None => say("Ready", no, "setting_up", waiting(all)),
        },
    };
    let redundant = match (by, at.len()) {
        (Some(b), _) => say("Redundant", yes, "standing_by", format!("host {} stands by", b.host)),
        (None, n) if n < HOSTS => {
            let what =
                "there is no second host that could take it; add one to keep routing when a host fails";
            say("Redundant", no, "one_host", what.into())
        }
        (None, _) => say("Redundant", no, "not_standing_by", waiting(at)),
    };
    vec![ready, redundant]
}

fn waiting(at: &[At]) -> String {
    let each: Vec<String> = at
        .iter()
        .map(|a| match (a.state, a.stage.as_str()) {
            (HostState::Unreachable, _) => format!("host {} is not heard of", a.host),
            (_, "") if a.ready => format!("host {} is set up", a.host),
            (_, "") => format!("host {} has not said that it is set up", a.host),
            (_, stage) => format!("host {}: {stage}", a.host),
        })
        .collect();
    format!("{}; nothing needs to be done unless this stays", each.join(", "))
}

#[cfg(test)]
#[path = "routers_tests.rs"]
mod tests;
