//! Placement: VMs that are nowhere are given to hosts, many at a time.
//!
//! Decisions of one batch see each other, and those of batches that the feed has not brought back
//! yet: their claims are added to the hosts as the graph shows them, for the time of a batch. Nothing
//! of the graph is kept here. The store has the last word:
//! its conditional claim cannot overfill a host whatever was seen here.
//!
//! A VM that no host takes is parked. It is looked at again when a host gained something, when a VM that its rules may
//! mean came, went or changed, and once in a while, so that its explanation stays true.

use crate::{
    graph::{Nodes, Request},
    lane::{Bounds, Lane, RECHECK, STALE},
};
use basalt_model::{CapabilityReason, DateTime, HostId, Name, ProjectId, VmId, VolumeId, quotas::Demand};
use basalt_plan::placement::{
    Decision, HostView, Verdict,
    affinity::{self, Neighbours, Peer},
    choose,
};
use basalt_store::{
    Error, Store, SystemTx,
    placements::{self, Place, Placed, Unplaced},
};
use basalt_wire::rest::PlacementExplanation;
use krt::{Event, Finish, Snapshot};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long a parked VM keeps its explanation at most.
const PARKED: Duration = Duration::from_secs(30);
/// Rounds of parked VMs are at least this far apart.
const ROUND: Duration = Duration::from_millis(250);
/// Hosts that fit and were not chosen are kept in the explanation up to this many; rejections are all kept.
const KEPT_ALTERNATIVES: usize = 4;

/// A decision to write down.
#[derive(Clone, Debug)]
pub enum Decided {
    /// Give the VM to a host.
    Place(Place),
    /// Say why it is nowhere.
    Unplaced(Unplaced),
}

impl Decided {
    /// The VM.
    pub fn vm_id(&self) -> VmId {
        match self {
            Decided::Place(p) => p.vm_id,
            Decided::Unplaced(u) => u.vm_id,
        }
    }

    fn host(&self) -> Option<HostId> {
        match self {
            Decided::Place(p) => Some(p.host_id),
            Decided::Unplaced(_) => None,
        }
    }
}

/// How a decision ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was given to the host.
    Placed,
    /// It was written down why it is nowhere.
    Parked,
    /// Something newer happened to the VM.
    Stale,
    /// The host had no room after all.
    Full(CapabilityReason),
    /// The transaction failed.
    Failed,
}

/// Writes several decisions in one transaction. No host hears of one before its manifest was flushed, and
/// with it everything that was committed before.
pub async fn perform(store: &Store, rows: &[Decided], now: DateTime) -> Result<Vec<(VmId, Ended)>, Error> {
    let (mut places, mut unplaced) = (Vec::new(), Vec::new());
    for row in rows {
        match row {
            Decided::Place(place) => places.push(Place { now, ..place.clone() }),
            Decided::Unplaced(judged) => unplaced.push(Unplaced { now, ..judged.clone() }),
        }
    }
    let mut tx = store.derived().await?;
    let mut out: Vec<(VmId, Ended)> = match placements::place_all(&mut tx, &places).await? {
        Some(_) => places.iter().map(|p| (p.vm_id, Ended::Placed)).collect(),
        None => {
            tx = store.derived().await?;
            one_by_one(&mut tx, &places).await?
        }
    };
    if !unplaced.is_empty() {
        let parked = placements::record_unplaced(&mut tx, &unplaced).await?;
        let ended = |vm: VmId| if parked.contains(&vm) { Ended::Parked } else { Ended::Stale };
        out.extend(unplaced.iter().map(|u| (u.vm_id, ended(u.vm_id))));
    }
    tx.commit().await?;
    Ok(out)
}

/// What to do when not all of them hold: those that do are written, and the others say why not.
async fn one_by_one(tx: &mut SystemTx, places: &[Place]) -> Result<Vec<(VmId, Ended)>, Error> {
    let mut out = Vec::new();
    for place in places {
        let ended = match placements::place(tx, place).await? {
            Placed::Placed(_) => Ended::Placed,
            Placed::Stale => Ended::Stale,
            Placed::Full(reason) => Ended::Full(reason),
        };
        out.push((place.vm_id, ended));
    }
    Ok(out)
}

/// A placement that was decided and is not in the graph yet.
struct Pending {
    host: HostId,
    demand: Demand,
    pools: Vec<(Name, u64)>,
    project: Option<ProjectId>,
    peer: Option<Peer>,
}

/// Decides placements.
pub struct Placement {
    lane: Lane<VmId, Request>,
    nodes: Nodes,
    pending: BTreeMap<VmId, Pending>,
    parked: BTreeSet<VmId>,
    /// Those that are judged or parked, and that other VMs keep from some host.
    watching: BTreeSet<VmId>,
    next_round: Duration,
    /// Counts the times a host gained something.
    gains: u64,
    /// The count when a VM was judged to fit nowhere, while that is being written.
    judged_at: BTreeMap<VmId, u64>,
}

impl Placement {
    /// Over the requests of a graph.
    pub fn new(nodes: &Nodes) -> Self {
        // One at a time: see `placements::place_all` on locks.
        let bounds = Bounds { rows: 128, batches: 1, debounce: Duration::ZERO };
        Self {
            lane: Lane::new(&nodes.requests, bounds),
            nodes: *nodes,
            pending: BTreeMap::new(),
            parked: BTreeSet::new(),
            watching: BTreeSet::new(),
            next_round: Duration::ZERO,
            gains: 0,
            judged_at: BTreeMap::new(),
        }
    }

    /// Takes in news.
    pub fn apply(&mut self, event: &Event, now: Duration) {
        self.lane.apply(event, now);
        match event {
            Event::Batch(batch) => {
                for change in batch.changes(&self.nodes.requests) {
                    if change.new.is_none() {
                        self.parked.remove(&change.key);
                        self.watching.remove(&change.key);
                        // Placed: the same revision shows the claim at the host.
                        self.pending.remove(&change.key);
                    }
                }
                let hosts = batch.changes(&self.nodes.host_views);
                if hosts.iter().any(|change| gains(change.old.as_deref(), change.new.as_deref())) {
                    self.retry_parked(now);
                } else if !self.watching.is_empty() && !batch.changes(&self.nodes.peers.all).is_empty() {
                    self.retry_watching(now);
                }
            }
            Event::Lagged { snapshot, .. } => {
                self.pending.retain(|vm, _| snapshot.get(&self.nodes.requests, vm).is_some());
                self.parked.retain(|vm| snapshot.get(&self.nodes.requests, vm).is_some());
                self.watching.retain(|vm| snapshot.get(&self.nodes.requests, vm).is_some());
                self.retry_parked(now);
            }
        }
    }

    /// Hosts on which something is pending, with it.
    fn claimed(&self, snapshot: &Snapshot) -> BTreeMap<HostId, HostView> {
        let mut claimed = BTreeMap::new();
        for pending in self.pending.values() {
            self.claim(&mut claimed, pending, snapshot);
        }
        claimed
    }

    fn claim(&self, claimed: &mut BTreeMap<HostId, HostView>, pending: &Pending, snapshot: &Snapshot) {
        if let Some(shown) = snapshot.get(&self.nodes.host_views, &pending.host) {
            claim(claimed.entry(pending.host).or_insert_with(|| HostView::clone(shown)), pending);
        }
    }

    /// Parked VMs are asked for again, not more often than a round each [`ROUND`].
    fn retry_parked(&mut self, now: Duration) {
        self.gains += 1;
        let at = now.max(self.next_round);
        if !self.parked.is_empty() {
            self.next_round = at + ROUND;
        }
        for vm in std::mem::take(&mut self.parked) {
            self.lane.request(&vm, at);
        }
    }

    /// Of the parked VMs, only those that other VMs keep from some host.
    fn retry_watching(&mut self, now: Duration) {
        self.gains += 1;
        let at = now.max(self.next_round);
        let due: Vec<VmId> = self.parked.intersection(&self.watching).copied().collect();
        if !due.is_empty() {
            self.next_round = at + ROUND;
        }
        for vm in due {
            self.parked.remove(&vm);
            self.lane.request(&vm, at);
        }
    }

    /// The placed VMs that matter to this one, with those that are not in the graph yet.
    fn neighbours(&self, vm: VmId, row: &Request, snapshot: &Snapshot) -> Neighbours {
        let (request, Some(project)) = (&row.request, row.project_id) else { return Neighbours::default() };
        let looks = request.rules.looks_at_vms();
        if !looks && request.labels.0.is_empty() {
            return Neighbours::default();
        }
        let index = if looks { &self.nodes.peers.by_project } else { &self.nodes.peers.keeping_away };
        let shown = snapshot.lookup(index, &project).map(|(_, placed)| (placed.host_id, &placed.peer));
        let decided = self
            .pending
            .iter()
            .filter(|(other, pending)| **other != vm && pending.project == Some(project))
            .filter_map(|(_, pending)| Some((pending.host, pending.peer.as_ref()?)));
        Neighbours::of(request, shown.chain(decided))
    }

    /// Decides the next batch. Empty when nothing is to be written.
    pub fn step(&mut self, snapshot: &Snapshot, now: Duration) -> Vec<Decided> {
        loop {
            let jobs = self.lane.batch(now);
            if jobs.is_empty() {
                return Vec::new();
            }
            let mut out = Vec::new();
            let mut claimed = self.claimed(snapshot);
            for job in jobs {
                let shown = snapshot.rows(&self.nodes.host_views);
                let views = shown.map(|(id, view)| claimed.get(id).unwrap_or(view.as_ref()));
                let neighbours = self.neighbours(job.key, &job.value, snapshot);
                let decision = choose(&job.value.request, &neighbours, views);
                match self.decide(job.key, &job.value, decision, &mut claimed, snapshot) {
                    Some(decided) => out.push(decided),
                    None => {
                        self.parked.insert(job.key);
                        self.lane.done(&job.key, Finish::After(PARKED), now);
                    }
                }
            }
            if !out.is_empty() {
                // Batches that run side by side take their locks in one order.
                out.sort_by_key(|decided| (decided.host(), decided.vm_id()));
                return out;
            }
            self.lane.ended();
        }
    }

    fn decide(
        &mut self,
        vm_id: VmId,
        row: &Request,
        decision: Decision,
        claimed: &mut BTreeMap<HostId, HostView>,
        snapshot: &Snapshot,
    ) -> Option<Decided> {
        let explanation = shorten(decision.explanation);
        let value = serde_json::to_value(&explanation).unwrap_or_default();
        match decision.verdict {
            Verdict::Fits { host_id, pools } => {
                self.watching.remove(&vm_id);
                let chosen = row.volumes.iter().zip(pools).filter(|((_, needs_pool), _)| *needs_pool);
                let pools: Vec<(VolumeId, Name)> = chosen.map(|((id, _), pool)| (*id, pool)).collect();
                let pending = pending(row, host_id, &pools);
                self.claim(claimed, &pending, snapshot);
                self.pending.insert(vm_id, pending);
                Some(Decided::Place(Place {
                    vm_id,
                    generation: Some(row.generation),
                    expected_epoch: row.epoch,
                    host_id,
                    pools,
                    explanation: value,
                    now: DateTime::UNIX_EPOCH,
                }))
            }
            Verdict::Later(_) | Verdict::Never(_) => {
                let rejections = || explanation.candidates.iter().flat_map(|c| &c.rejections);
                if rejections().any(affinity::is_about_vms) {
                    self.watching.insert(vm_id);
                } else {
                    self.watching.remove(&vm_id);
                }
                let stored = snapshot.get(&self.nodes.inputs.placements, &vm_id);
                let known = stored.is_some_and(|s| {
                    s.generation >= row.generation && s.explanation.as_deref() == Some(&explanation)
                });
                if known {
                    return None;
                }
                self.judged_at.insert(vm_id, self.gains);
                Some(Decided::Unplaced(Unplaced {
                    vm_id,
                    generation: row.generation,
                    expected_epoch: row.epoch,
                    explanation: value,
                    now: DateTime::UNIX_EPOCH,
                }))
            }
        }
    }

    /// How decisions ended.
    pub fn done(&mut self, rows: &[(VmId, Ended)], now: Duration) {
        self.lane.ended();
        for (vm, ended) in rows {
            let judged_at = self.judged_at.remove(vm);
            let finish = match ended {
                Ended::Placed => Finish::After(RECHECK),
                // A host gained something while the decision was on its way.
                Ended::Parked if judged_at != Some(self.gains) => Finish::After(ROUND),
                Ended::Parked => {
                    self.parked.insert(*vm);
                    Finish::After(PARKED)
                }
                Ended::Stale => Finish::After(STALE),
                Ended::Full(_) | Ended::Failed => Finish::Retry,
            };
            if *ended != Ended::Placed {
                self.pending.remove(vm);
            }
            self.lane.done(vm, finish, now);
        }
    }

    /// When the next batch can start at the earliest.
    pub fn wake_at(&self) -> Option<Duration> {
        self.lane.wake_at()
    }

    /// VMs that wait for a host.
    pub fn waiting(&self) -> usize {
        self.lane.waiting()
    }
}

fn pending(row: &Request, host: HostId, pools: &[(VolumeId, Name)]) -> Pending {
    let size = |id: &VolumeId| {
        let at = row.volumes.iter().position(|(v, _)| v == id);
        at.and_then(|i| row.request.volumes.get(i)).map_or(0, |v| v.size_bytes)
    };
    Pending {
        host,
        demand: Demand {
            vms: 1,
            cpus: row.request.cpus,
            memory_bytes: row.request.memory_bytes,
            storage_bytes: 0,
        },
        pools: pools.iter().map(|(id, pool)| (pool.clone(), size(id))).collect(),
        project: row.project_id,
        peer: Peer::of(&row.name, &row.request.labels, &row.request.rules),
    }
}

fn claim(view: &mut HostView, pending: &Pending) {
    view.claimed.vms += pending.demand.vms;
    view.claimed.cpus = view.claimed.cpus.saturating_add(pending.demand.cpus);
    view.claimed.memory_bytes = view.claimed.memory_bytes.saturating_add(pending.demand.memory_bytes);
    for (pool, bytes) in &pending.pools {
        *view.pool_claims.entry(pool.clone()).or_default() += bytes;
    }
}

/// Whether a host may take now what it did not take before. More claims and other cached images are no gain.
fn gains(old: Option<&HostView>, new: Option<&HostView>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return new.is_some() };
    let less_claimed = new.claimed.cpus < old.claimed.cpus
        || new.claimed.memory_bytes < old.claimed.memory_bytes
        || old
            .pool_claims
            .iter()
            .any(|(pool, before)| new.pool_claims.get(pool).is_none_or(|now| now < before));
    less_claimed
        || (&old.name, &old.labels, &old.spec, old.state) != (&new.name, &new.labels, &new.spec, new.state)
        || old.facts != new.facts
        || new.pool_claims.len() > old.pool_claims.len()
}

fn shorten(mut explanation: PlacementExplanation) -> PlacementExplanation {
    let mut fitting = 0;
    explanation.candidates.retain(|c| {
        fitting += usize::from(c.score.is_some());
        c.score.is_none() || fitting <= KEPT_ALTERNATIVES
    });
    explanation
}
