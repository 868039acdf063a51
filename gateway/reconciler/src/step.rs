//! The stepper: news in, at most one effect out. No clock, no IO, so that a simulator can drive it.
//!
//! ```text
//! feed ──take()──► graph ──events──► lanes ──step(now)──► Effect ──perform()──► store ──► feed
//!                                      ▲                     │
//!                                      └──────done(outcome)──┘
//! ```
//! Whoever drives it may drop it at any point and begin again with an empty one: everything it
//! knows comes from the feed, and every effect is safe to repeat.

use crate::{
    Error,
    dispatch::{self, Dispatch},
    feed,
    graph::{self, Eyes, Move, Nodes, Removal, migrations},
    handlers::{Effect, Outcome, placement::Placement},
    lane::{Bounds, Lane},
    rows::Liveness,
};
use basalt_model::{
    DateTime, DeploymentId, DrainId, HostId, MigrationId, ProviderId, RouterId, TaskId, TenantId, VmId,
    attempts::Standing, drains::Drain, hosts::HOST_LEASE_SECONDS, tasks::TaskMove,
};
use basalt_plan::{
    drains::{Clock, Next},
    host_loss::{self, Grant, Signs, Verdict},
};
use basalt_store::{
    conditions::Conditions,
    feed::Batch,
    host_loss::{Evacuation, HostLease, Proof},
    providers::Provider,
};
use krt::{Commit, Difference, Finish, Graph, Snapshot, Subscribe, Subscription, Work, WorkOptions};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use uuid::Uuid;

/// The last sign of life of a host. Times that others wrote down are by their clocks, so that they are only told from each
/// other; what counts is since when the last one was noticed here, by time that only goes forward.
struct Sign {
    beat: Option<DateTime>,
    reported_at: DateTime,
    since: Duration,
}

impl Sign {
    /// What is known after another look, which found these times.
    fn next(
        before: Option<Self>,
        beat: Option<DateTime>,
        reported_at: DateTime,
        at: DateTime,
        now: Duration,
    ) -> Self {
        let since = match &before {
            Some(known) if known.reported_at != reported_at => now,
            Some(known) if beat.is_some() && known.beat != beat => now,
            Some(known) => known.since,
            // How old the first one is only its clock says; younger than now it is not.
            None => {
                let age = at - beat.map_or(reported_at, |beat| beat.max(reported_at));
                now.saturating_sub(age.to_std().unwrap_or_default())
            }
        };
        Self { beat: beat.or(before.and_then(|known| known.beat)), reported_at, since }
    }
}

/// Providers looked at at once.
const LOOKS_AT_ONCE: usize = 8;
/// After a hint, others may follow that one look answers too.
const HINT_SETTLES: Duration = Duration::from_millis(100);

/// State of the reconciler, all of it derived.
pub struct Stepper {
    graph: Graph,
    nodes: Nodes,
    news: Subscription,
    /// No silence of a host counts from before this.
    listening_since: Duration,
    /// Hosts' last signs of life. They are not kept over a crash of the database, so they are kept here.
    heard: BTreeMap<HostId, Sign>,
    /// The last lease of each host, and since when it was seen without a newer one.
    leases: BTreeMap<HostId, (HostLease, Duration)>,
    /// Hosts that are proven dead, to be written down.
    proofs: Vec<Proof>,
    placement: Placement,
    evacuations: Lane<VmId, Evacuation>,
    routers: Lane<RouterId, Move>,
    migrations: Lane<MigrationId, migrations::Step>,
    drains: Lane<DrainId, Next>,
    manifests: Lane<HostId, graph::Edits>,
    finalise: Lane<Removal, ()>,
    tasks: Lane<TaskId, TaskMove>,
    starts: Lane<TaskId, TenantId>,
    conditions: Lane<Uuid, Conditions>,
    judged: Lane<DeploymentId, Standing>,
    dispatch: Dispatch,
    looks: Work<ProviderId, Provider>,
    /// When each look that is under way began, as attempts are counted.
    looking: BTreeMap<ProviderId, u64>,
}

impl Stepper {
    /// An empty one. Hosts count as heard of when time began to be counted: nobody listened before.
    pub fn new() -> Result<Self, Error> {
        Self::with_eyes(Eyes::default())
    }

    /// The same, that reads what platforms show in a way of its own.
    pub fn with_eyes(eyes: Eyes) -> Result<Self, Error> {
        let (mut graph, nodes) = graph::build(eyes)?;
        let outputs = [
            nodes.requests.id(),
            nodes.host_views.id(),
            nodes.peers.all.id(),
            nodes.evacuations.id(),
            nodes.router_moves.id(),
            nodes.migration_steps.id(),
            nodes.drain_steps.id(),
            nodes.edits_by_host.id(),
            nodes.removals.id(),
            nodes.task_moves.id(),
            nodes.task_starts.id(),
            nodes.conditions.id(),
            nodes.deployments.judged.id(),
            nodes.deployments.due.id(),
            nodes.inputs.providers.id(),
        ];
        let news = graph.subscribe(&Subscribe::only(outputs).with_initial());
        let bounds = |rows, batches, debounce_millis| Bounds {
            rows,
            batches,
            debounce: Duration::from_millis(debounce_millis),
        };
        Ok(Self {
            news,
            listening_since: Duration::ZERO,
            heard: BTreeMap::new(),
            leases: BTreeMap::new(),
            proofs: Vec::new(),
            placement: Placement::new(&nodes),
            evacuations: Lane::new(&nodes.evacuations, bounds(16, 1, 0)),
            routers: Lane::new(&nodes.router_moves, bounds(32, 1, 0)),
            migrations: Lane::new(&nodes.migration_steps, bounds(16, 1, 0)),
            drains: Lane::new(&nodes.drain_steps, bounds(8, 1, 0)),
            manifests: Lane::new(&nodes.edits_by_host, bounds(16, 2, 0)),
            finalise: Lane::new(&nodes.removals, bounds(32, 1, 0)),
            // Nobody acts on a stage; a moment later, one move takes several of them.
            tasks: Lane::new(&nodes.task_moves, bounds(256, 1, 10)),
            starts: Lane::new(&nodes.task_starts, bounds(8, 2, 0)),
            conditions: Lane::new(&nodes.conditions, bounds(256, 1, 100)),
            judged: Lane::new(&nodes.deployments.judged, bounds(256, 1, 10)),
            dispatch: Dispatch::new(nodes.deployments.due),
            looks: Work::new(
                &nodes.inputs.providers,
                WorkOptions { concurrency: LOOKS_AT_ONCE, ..WorkOptions::default() },
            ),
            looking: BTreeMap::new(),
            graph,
            nodes,
        })
    }

    /// Takes in one batch of the feed.
    pub fn take(&mut self, batch: &Batch, now: Duration) -> Commit {
        let commit = feed::apply(&mut self.graph, &self.nodes, batch);
        self.listen(now);
        commit
    }

    /// Takes in the last leases. What counts is since when each was seen here, by time that only goes forward.
    pub fn watch(&mut self, leases: &[HostLease], now: Duration) {
        let mut before = std::mem::take(&mut self.leases);
        for lease in leases {
            let known = before.remove(&lease.host_id).filter(|(last, _)| last.grants == lease.grants);
            let since = known.map_or(now, |(_, since)| since);
            self.leases.insert(lease.host_id, (lease.clone(), since));
        }
    }

    /// What is known of a host that is silent, and the proof of its death if that is one.
    fn judge(&self, snapshot: &Snapshot, id: HostId, now: Duration) -> (Verdict, Option<Proof>) {
        let lease = self.leases.get(&id);
        let seen_for = lease.map_or(0, |(_, since)| now.saturating_sub(*since).as_secs());
        let grant = |(lease, _): &(HostLease, Duration)| Grant {
            seen_for_seconds: seen_for,
            fencer: lease.fencer.is_some(),
        };
        let proven = snapshot.lookup(&self.nodes.deaths_by_host, &id).next().is_some();
        let verdict = host_loss::decide(Signs { heard: false, grant: lease.map(grant), proven });
        let proof = lease.filter(|_| matches!(verdict, Verdict::Dead(_))).map(|(lease, _)| Proof {
            host_id: id,
            grants: lease.grants,
            evidence: host_loss::evidence(seen_for),
        });
        (verdict, proof)
    }

    /// Takes in the last signs of life. Only hosts that change between heard of and silent are news.
    pub fn hear(&mut self, beats: &[(HostId, DateTime)], at: DateTime, now: Duration) -> Commit {
        let snapshot = self.graph.snapshot();
        let beats: BTreeMap<HostId, DateTime> = beats.iter().copied().collect();
        let mut before = std::mem::take(&mut self.heard);
        let mut rows = Vec::new();
        for (id, row) in snapshot.rows(&self.nodes.inputs.host_facts) {
            let sign = Sign::next(before.remove(id), beats.get(id).copied(), row.reported_at, at, now);
            let silence = now.saturating_sub(sign.since.max(self.listening_since));
            let silent = silence > Duration::from_secs(HOST_LEASE_SECONDS.unsigned_abs());
            rows.push((*id, if silent { Liveness::Silent } else { Liveness::Alive }));
            self.heard.insert(*id, sign);
        }
        let late =
            snapshot.rows(&self.nodes.inputs.migrations).filter(|(_, row)| row.migration.deadline < at);
        let overdue: Vec<(MigrationId, ())> = late.map(|(id, _)| (*id, ())).collect();
        let clocks: Vec<(DrainId, Clock)> =
            snapshot.rows(&self.nodes.inputs.drains).map(|(id, drain)| (*id, clock(drain, at))).collect();
        let silent = rows.iter().filter(|(_, heard)| *heard == Liveness::Silent);
        let judged: Vec<_> = silent.map(|(id, _)| (*id, self.judge(&snapshot, *id, now))).collect();
        let verdicts: Vec<(HostId, Verdict)> =
            judged.iter().map(|(id, (verdict, _))| (*id, *verdict)).collect();
        self.proofs = judged.into_iter().filter_map(|(_, (_, proof))| proof).collect();
        let pasts = snapshot.rows(&self.nodes.inputs.pasts);
        let flapping: Vec<(DeploymentId, ())> =
            pasts.filter(|(_, past)| past.is_flapping(at)).map(|(id, _)| (*id, ())).collect();
        let mut tx = self.graph.transaction();
        tx.reset(&self.nodes.inputs.flapping, flapping);
        tx.reset(&self.nodes.inputs.liveness, rows);
        tx.reset(&self.nodes.inputs.overdue, overdue);
        tx.reset(&self.nodes.inputs.drain_clocks, clocks);
        tx.reset(&self.nodes.inputs.losses, verdicts);
        let commit = tx.commit();
        self.listen(now);
        commit
    }

    /// Signs of life could not be read: whoever was silent meanwhile gets a new lease, because it may have been us.
    pub fn deaf(&mut self, now: Duration) {
        self.listening_since = self.listening_since.max(now);
    }

    fn listen(&mut self, now: Duration) {
        while let Some(event) = self.news.try_next() {
            self.placement.apply(&event, now);
            self.evacuations.apply(&event, now);
            self.routers.apply(&event, now);
            self.migrations.apply(&event, now);
            self.drains.apply(&event, now);
            self.manifests.apply(&event, now);
            self.finalise.apply(&event, now);
            self.tasks.apply(&event, now);
            self.starts.apply(&event, now);
            self.conditions.apply(&event, now);
            self.judged.apply(&event, now);
            self.dispatch.apply(&event, now);
            self.looks.apply(&event, now);
        }
    }

    /// The next attempt at a deployment to begin now.
    pub fn attempt(&mut self, now: Duration) -> Option<dispatch::Start> {
        self.dispatch.next(now)
    }

    /// An attempt ended.
    pub fn attempted(&mut self, ended: dispatch::Ended, now: Duration) {
        self.dispatch.done(ended, now);
    }

    /// The next provider to look at now.
    pub fn look(&mut self, now: Duration) -> Option<Arc<Provider>> {
        let job = self.looks.next(now)?;
        self.looking.insert(job.key, self.dispatch.moment());
        Some(job.value)
    }

    /// Deployments at which something was done since a look began: of what is theirs it says nothing.
    pub fn touched_during(&mut self, look: ProviderId) -> Vec<DeploymentId> {
        let now = self.dispatch.moment();
        let oldest = self.looking.values().copied().min().unwrap_or(now);
        let began = self.looking.get(&look).copied().unwrap_or(now);
        self.dispatch.touched_since(began, oldest)
    }

    /// What a look found is written down; the next one comes after a while.
    pub fn looked(&mut self, provider: ProviderId, after: Duration, now: Duration) {
        self.looking.remove(&provider);
        self.looks.done(&provider, Finish::After(after), now);
    }

    /// Something changed at a provider.
    pub fn hint(&mut self, provider: ProviderId, now: Duration) {
        self.looks.request(&provider, now + HINT_SETTLES);
    }

    /// When an attempt or a look could begin at the earliest, if nothing else happens.
    pub fn hands_wake_at(&self) -> Option<Duration> {
        self.dispatch.wake_at().into_iter().chain(self.looks.wake_at()).min()
    }

    /// The next effect to carry out now. Placements first: everything else of a new VM waits for them.
    pub fn step(&mut self, now: Duration) -> Option<Effect> {
        let decided = self.placement.step(&self.graph.snapshot(), now);
        if !decided.is_empty() {
            return Some(Effect::Place(decided));
        }
        if !self.proofs.is_empty() {
            return Some(Effect::HostLoss(std::mem::take(&mut self.proofs)));
        }
        let lost = self.evacuations.batch(now);
        if !lost.is_empty() {
            let mut rows: Vec<_> = lost.into_iter().map(|j| (j.key, Evacuation::clone(&j.value))).collect();
            rows.sort_by_key(|row| row.0);
            return Some(Effect::Evacuations(rows));
        }
        let routers = self.routers.batch(now);
        if !routers.is_empty() {
            let rows = routers.into_iter().map(|j| (j.key, Move::clone(&j.value)));
            return Some(Effect::Routers(rows.collect()));
        }
        let due = self.migration_steps(now);
        if !due.is_empty() {
            return Some(Effect::Migrations(due));
        }
        let drains = self.drains.batch(now);
        if !drains.is_empty() {
            return Some(Effect::Drains(
                drains.into_iter().map(|j| (j.key, Next::clone(&j.value))).collect(),
            ));
        }
        let hosts = self.manifests.batch(now);
        if !hosts.is_empty() {
            let mut rows: Vec<_> = hosts.into_iter().map(|j| (j.key, j.value.0.clone())).collect();
            // Batches that run side by side take their locks in one order.
            rows.sort_by_key(|row| row.0);
            return Some(Effect::Manifests(rows));
        }
        let removals = self.finalise.batch(now);
        if !removals.is_empty() {
            return Some(Effect::Finalise(removals.into_iter().map(|j| j.key).collect()));
        }
        let starts = self.starts.batch(now);
        if !starts.is_empty() {
            return Some(Effect::Start(starts.into_iter().map(|j| (j.key, *j.value)).collect()));
        }
        let moves = self.tasks.batch(now);
        if !moves.is_empty() {
            return Some(Effect::Tasks(moves.into_iter().map(|j| TaskMove::clone(&j.value)).collect()));
        }
        let rows = self.conditions.batch(now);
        if !rows.is_empty() {
            return Some(Effect::Conditions(rows.into_iter().map(|j| Conditions::clone(&j.value)).collect()));
        }
        let judged = self.judged.batch(now);
        if !judged.is_empty() {
            let rows = judged.into_iter().map(|j| (j.key, Standing::clone(&j.value)));
            return Some(Effect::Judge(rows.collect()));
        }
        None
    }

    fn migration_steps(&mut self, now: Duration) -> Vec<(MigrationId, migrations::Step)> {
        let due = self.migrations.batch(now).into_iter();
        let mut due: Vec<_> = due.map(|job| (job.key, migrations::Step::clone(&job.value))).collect();
        // Batches that run side by side take their locks in one order.
        due.sort_by_key(|row| row.0);
        due
    }

    /// What came of an effect.
    pub fn done(&mut self, outcome: Outcome, now: Duration) {
        fn back<K: krt::Key, V: krt::Value>(lane: &mut Lane<K, V>, rows: Vec<(K, Finish)>, now: Duration) {
            lane.ended();
            for (key, finish) in rows {
                lane.done(&key, finish, now);
            }
        }
        match outcome {
            Outcome::Placed(rows) => self.placement.done(&rows, now),
            // What was not written down is found again by the next look at the leases.
            Outcome::HostLoss => {}
            Outcome::Evacuated(rows) => back(&mut self.evacuations, rows, now),
            Outcome::Routers(rows) => back(&mut self.routers, rows, now),
            Outcome::Migrations(rows) => back(&mut self.migrations, rows, now),
            Outcome::Drains(rows) => back(&mut self.drains, rows, now),
            Outcome::Manifests(rows) => {
                let rows = rows.into_iter().map(|w| (w.host_id, w.finish)).collect();
                back(&mut self.manifests, rows, now);
            }
            Outcome::Conditions(rows) => back(&mut self.conditions, rows, now),
            Outcome::Tasks(rows) => back(&mut self.tasks, rows, now),
            Outcome::Started(rows) => back(&mut self.starts, rows, now),
            Outcome::Finalised(rows) => back(&mut self.finalise, rows, now),
            Outcome::Judged(rows) => back(&mut self.judged, rows, now),
        }
    }

    /// When [`Self::step`] could give an effect at the earliest, if nothing else happens.
    pub fn wake_at(&self) -> Option<Duration> {
        let lanes = [
            self.placement.wake_at(),
            (!self.proofs.is_empty()).then_some(Duration::ZERO),
            self.evacuations.wake_at(),
            self.routers.wake_at(),
            self.migrations.wake_at(),
            self.drains.wake_at(),
            self.manifests.wake_at(),
            self.finalise.wake_at(),
            self.tasks.wake_at(),
            self.starts.wake_at(),
            self.conditions.wake_at(),
            self.judged.wake_at(),
        ];
        lanes.into_iter().flatten().min()
    }

    /// Whether the whole truth was taken in once.
    pub fn is_synced(&self) -> bool {
        self.graph.is_synced()
    }

    /// How many hosts have two agents that act with their identity.
    pub fn agent_conflicts(&self) -> usize {
        self.graph.snapshot().len(&self.nodes.inputs.agent_conflicts)
    }

    /// The graph's present state, with the handles to read it.
    pub fn snapshot(&self) -> (Snapshot, Nodes) {
        (self.graph.snapshot(), self.nodes)
    }

    /// The graph, to look at.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The oracle: what differs between the incremental state and a recomputation. Empty means right.
    pub fn verify(&self) -> Vec<Difference> {
        self.graph.verify()
    }

    /// The same of a few keys of each collection, others with each turn.
    pub fn verify_some(&self, keys: usize, turn: u64) -> Vec<Difference> {
        self.graph.verify_some(keys, turn)
    }

    /// Rows that are due, waiting or running, by lane.
    pub fn backlog(&self) -> [(&'static str, usize); 12] {
        [
            ("place", self.placement.waiting()),
            ("evacuations", self.evacuations.waiting()),
            ("routers", self.routers.waiting()),
            ("migrations", self.migrations.waiting()),
            ("drains", self.drains.waiting()),
            ("manifests", self.manifests.waiting()),
            ("finalise", self.finalise.waiting()),
            ("tasks", self.tasks.waiting()),
            ("starts", self.starts.waiting()),
            ("conditions", self.conditions.waiting()),
            ("judge", self.judged.waiting()),
            ("attempts", self.dispatch.waiting()),
        ]
    }
}

/// What has passed since a drain was asked for.
fn clock(drain: &Drain, at: DateTime) -> Clock {
    let patience = chrono::TimeDelta::seconds(drain.spec.patience_seconds.into());
    Clock {
        overdue: drain.deadline <= at,
        patience_over: drain.stuck_since.is_some_and(|since| since + patience <= at),
    }
}
