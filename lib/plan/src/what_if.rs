//! What would happen if hosts were lost, cut off or drained: the same decisions as in earnest, over rows that are not
//! written.

mod inventory;

use crate::{
    drains::{self, Leaver, Placed},
    host_loss::{self, Fate, PROOF_SECONDS, Stranded, Verdict},
    placement::{self, HostView, affinity::Neighbours, departure::Leaving},
};
use basalt_model::{
    CapabilityReason, HostId, Name,
    drains::DrainSpec,
    hosts::{HOST_LEASE_SECONDS, HostState},
};
use basalt_wire::rest::{SimAnswer, SimEventKind, SimFate, SimHostLoad, SimSplit, SimVmFate};
use std::collections::{BTreeMap, BTreeSet};

pub use inventory::described;

/// Seconds until a host is proven dead: not heard of, and its lease and window over.
const PROVEN_SECONDS: u64 = {
    let (silent, proof) = (HOST_LEASE_SECONDS as u64, PROOF_SECONDS as u64);
    if silent > proof { silent } else { proof }
};
/// Seconds from a proof until a VM executes elsewhere: its volumes are there, it is defined and started.
const START_SECONDS: u64 = 10;

/// A VM as it is judged.
#[derive(Clone, Debug)]
pub struct Guest {
    /// What it asks of a host.
    pub leaver: Leaver,
    /// Where it is.
    pub host_id: HostId,
    /// Whether it is started elsewhere when its host is lost.
    pub restarts: bool,
    /// The networks that it is attached to, by name.
    pub networks: BTreeSet<String>,
}

/// A cluster.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Its hosts.
    pub hosts: Vec<HostView>,
    /// Its VMs.
    pub guests: Vec<Guest>,
    /// VMs that rules of others may mean.
    pub peers: Vec<Placed>,
    /// Hosts that others do not reach.
    apart: BTreeSet<HostId>,
    /// Links between two hosts that are cut.
    cut: BTreeSet<(HostId, HostId)>,
    fates: Vec<SimVmFate>,
}

/// Plays events, one after the other.
pub fn play(mut world: World, events: &[(SimEventKind, Vec<HostId>)]) -> SimAnswer {
    let before: BTreeMap<HostId, (u64, u64)> = world.hosts.iter().map(|h| (h.id, load(h))).collect();
    for (kind, hosts) in events {
        match kind {
            SimEventKind::Lose | SimEventKind::Isolate => world.take_away(hosts, *kind),
            SimEventKind::Cut => {
                if let [a, b] = hosts.as_slice() {
                    world.cut.insert((*a.min(b), *a.max(b)));
                }
            }
            SimEventKind::Drain => hosts.iter().for_each(|host| world.drain(*host)),
        }
    }
    let loads = world.hosts.iter().map(|host| {
        let (was, is) = (before.get(&host.id).copied().unwrap_or_default(), load(host));
        SimHostLoad {
            host_id: host.id,
            host: host.name.clone(),
            up: host.state != HostState::Unreachable,
            cpu_percent_before: was.0,
            cpu_percent_after: is.0,
            memory_percent_before: was.1,
            memory_percent_after: is.1,
        }
    });
    let (hosts, splits) = (loads.collect(), world.splits());
    SimAnswer { summary: summary(&world.fates, &splits), vms: world.fates, hosts, splits }
}

/// CPUs and memory that are promised, in hundredths of what may be.
fn load(host: &HostView) -> (u64, u64) {
    let Some(facts) = &host.facts else { return (0, 0) };
    let limit = host.spec.capacity(facts);
    let percent = |is: u64, most: u64| (u128::from(is) * 100).div_ceil(u128::from(most.max(1)));
    let cpus = percent(host.claimed.cpus.into(), limit.cpus.into());
    let memory = percent(host.claimed.memory_bytes, limit.memory_bytes);
    (u64::try_from(cpus).unwrap_or(u64::MAX), u64::try_from(memory).unwrap_or(u64::MAX))
}

fn summary(fates: &[SimVmFate], splits: &[SimSplit]) -> String {
    let words = [
        (SimFate::Moves, "migrate"),
        (SimFate::Restarts, "start anew elsewhere"),
        (SimFate::Down, "are down"),
        (SimFate::Isolated, "run on where nobody reaches them"),
        (SimFate::Stays, "cannot leave"),
    ];
    let counted = words.iter().map(|(fate, word)| (fates.iter().filter(|f| f.fate == *fate).count(), word));
    let mut said: Vec<String> =
        counted.filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} VMs {word}")).collect();
    if !splits.is_empty() {
        said.push(format!("{} networks fall apart", splits.len()));
    }
    if said.is_empty() { "nothing happens to any VM".into() } else { said.join(", ") }
}

impl World {
    /// A cluster as it is.
    pub fn new(hosts: Vec<HostView>, guests: Vec<Guest>, peers: Vec<Placed>) -> Self {
        Self { hosts, guests, peers, ..Self::default() }
    }

    fn host(&self, id: HostId) -> Option<&HostView> {
        self.hosts.iter().find(|h| h.id == id)
    }

    fn guests_on(&self, host: HostId) -> Vec<Guest> {
        let mut on: Vec<Guest> = self.guests.iter().filter(|g| g.host_id == host).cloned().collect();
        on.sort_by_key(|g| g.leaver.vm_id);
        on
    }

    fn put(&mut self, guest: &Guest, to: HostId) {
        for g in self.guests.iter_mut().filter(|g| g.leaver.vm_id == guest.leaver.vm_id) {
            g.host_id = to;
        }
        for p in self.peers.iter_mut().filter(|p| p.vm_id == guest.leaver.vm_id) {
            p.host_id = to;
        }
    }

    fn note(
        &mut self,
        guest: &Guest,
        host: &Name,
        fate: SimFate,
        to: Option<Name>,
        after: Option<u64>,
        reason: Option<CapabilityReason>,
    ) {
        let Leaver { vm_id, vm, project_id, .. } = guest.leaver.clone();
        self.fates.push(SimVmFate {
            vm_id,
            vm,
            project_id,
            host: host.clone(),
            fate,
            to,
            after_seconds: after,
            reason,
        });
    }

    /// Hosts are off, or nobody reaches them: all at the same moment, so none of them takes what another one loses.
    fn take_away(&mut self, hosts: &[HostId], kind: SimEventKind) {
        for host in self.hosts.iter_mut().filter(|h| hosts.contains(&h.id)) {
            host.state = HostState::Unreachable;
        }
        self.apart.extend(hosts);
        for id in hosts {
            let Some(source) = self.host(*id).cloned() else { continue };
            let fenced = source.facts.as_ref().is_some_and(|f| f.fencer.is_some());
            for guest in self.guests_on(*id) {
                let verdict = if fenced { Verdict::Proven } else { Verdict::Unfenced };
                let known = Stranded { restarts: guest.restarts, leased: guest.restarts, verdict };
                let why = match host_loss::fate(known, &guest.leaver.vm, &source.name) {
                    Fate::Stays(reason) => *reason,
                    Fate::Elsewhere => match self.elsewhere(&guest, &source) {
                        Ok(target) => {
                            let after = PROVEN_SECONDS + START_SECONDS;
                            self.note(
                                &guest,
                                &source.name,
                                SimFate::Restarts,
                                Some(target),
                                Some(after),
                                None,
                            );
                            continue;
                        }
                        Err(reason) => reason,
                    },
                };
                // Who needs a lease stops without one; all others run on where the power is on.
                let runs_on = kind == SimEventKind::Isolate && !(guest.restarts && fenced);
                let fate = if runs_on { SimFate::Isolated } else { SimFate::Down };
                self.note(&guest, &source.name, fate, None, None, Some(why));
            }
        }
    }

    fn elsewhere(&mut self, guest: &Guest, source: &HostView) -> Result<Name, CapabilityReason> {
        let request = guest.leaver.request.clone();
        let overlays = !request.images.is_empty();
        let leaving = Leaving::of_dead(request, source, overlays)?;
        let others = |p: &&Placed| p.project_id == guest.leaver.project_id && p.vm_id != guest.leaver.vm_id;
        let around = self.peers.iter().filter(others).map(|p| (p.host_id, &p.peer));
        let neighbours = Neighbours::of(&leaving.request, around);
        let decision = placement::choose(&leaving.request, &neighbours, &self.hosts);
        let (target, _) = decision.verdict.fits()?;
        let name = decision.explanation.host.ok_or_else(|| placement::not_known_yet("host"))?;
        for host in self.hosts.iter_mut().filter(|h| h.id == target) {
            host.promise(&leaving.request);
        }
        self.put(guest, target);
        Ok(name)
    }

    fn drain(&mut self, id: HostId) {
        let Some(source) = self.host(id).cloned() else { return };
        let guests = self.guests_on(id);
        let reachable = |h: &HostView| !self.cut.contains(&(h.id.min(id), h.id.max(id)));
        let targets: Vec<HostView> = self.hosts.iter().filter(|h| reachable(h)).cloned().collect();
        let leavers = guests.iter().map(|g| g.leaver.clone()).collect();
        let plan = drains::plan(&source, leavers, targets, self.peers.clone(), &DrainSpec::default());
        for part in plan.moves {
            let Some(guest) = guests.iter().find(|g| g.leaver.vm_id == part.vm_id) else { continue };
            let target = part
                .target
                .as_ref()
                .and_then(|name| self.hosts.iter().find(|h| h.name == *name))
                .map(|h| h.id);
            let Some(target) = target else {
                self.note(guest, &source.name, SimFate::Stays, None, None, part.reason);
                continue;
            };
            let request = &guest.leaver.request;
            for host in &mut self.hosts {
                if host.id == target {
                    host.promise(request);
                } else if host.id == id {
                    host.release(request);
                }
            }
            self.put(guest, target);
            let after = part.begins_after_seconds + part.takes_seconds;
            self.note(guest, &source.name, SimFate::Moves, part.target, Some(after), None);
        }
        for host in self.hosts.iter_mut().filter(|h| h.id == id && h.state == HostState::Ready) {
            host.state = HostState::Maintenance;
        }
    }

    /// Networks with guests on hosts that do not reach each other.
    fn splits(&self) -> Vec<SimSplit> {
        let mut on: BTreeMap<&str, BTreeSet<HostId>> = BTreeMap::new();
        for guest in &self.guests {
            for network in &guest.networks {
                on.entry(network).or_default().insert(guest.host_id);
            }
        }
        let name = |id: &HostId| self.host(*id).map(|h| h.name.clone());
        let mut splits = Vec::new();
        for (network, hosts) in on {
            let mut add = |here: Vec<HostId>, there: Vec<HostId>| {
                if !here.is_empty() && !there.is_empty() {
                    let names = |ids: &[HostId]| ids.iter().filter_map(name).collect();
                    splits.push(SimSplit {
                        network: network.to_owned(),
                        here: names(&here),
                        there: names(&there),
                    });
                }
            };
            for id in hosts.iter().filter(|id| self.apart.contains(id)) {
                add(vec![*id], hosts.iter().filter(|other| *other != id).copied().collect());
            }
            let together = |id: &HostId| hosts.contains(id) && !self.apart.contains(id);
            for (a, b) in self.cut.iter().filter(|(a, b)| together(a) && together(b)) {
                add(vec![*a], vec![*b]);
            }
        }
        splits
    }
}

#[cfg(test)]
#[path = "what_if_tests.rs"]
mod tests;
