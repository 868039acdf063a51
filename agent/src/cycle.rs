//! The cycle: observe → plan → act → report. One [`Cycle::step`] looks once, decides once and begins
//! what was decided; [`Cycle::finished`] brings the ends of actions home. Nothing here waits for time:
//! the loop in [`crate::agent`] does, or a simulator.
//!
//! Durable before done: a manifest is in the ledger before it is acted on, and what an action
//! announces (a shutdown asked for, a one-shot verb begun) before it is begun. When the ledger cannot
//! be written nothing is begun.

use crate::{
    Error,
    host::{Downloads, Host, Limits, With},
    lease::Lease,
    ledger::Ledger,
    outbox::Outbox,
    task_lines::{self, Hearers},
};
use basalt_daemon::Clock;
use basalt_model::{
    CapabilityReason, DateTime, HostId, VmId,
    hosts::{Foreign, HostFacts},
    migrations::MotionProgress,
    vms::{OperationOutcome, OperationReport},
};
use basalt_plan::host::{
    Action, Memory, MotionRecord, MotionStep, Note, Observed, OperationRecord, Outcome, Plan, Resource, Work,
    diff,
};
use basalt_wire::agent::{
    Desired, Item, ItemKey, ItemKind, Manifest, directory::Directory, manifest::MotionBody,
};
use chrono::TimeDelta;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Longest look at the host: the first one boots the accelerator's probe.
const LOOK_LIMIT: Duration = Duration::from_secs(300);

/// How many resources are worked on at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Works that may take long: downloads and volumes.
    pub long_works: usize,
    /// All others.
    pub short_works: usize,
    /// Overrides the time limit of actions; simulators set it.
    pub act_limit: Option<Duration>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { long_works: 4, short_works: 12, act_limit: None }
    }
}

/// What a step needs to know of its maker.
pub struct Parts<H, L> {
    /// The host.
    pub host: Arc<H>,
    /// The ledger.
    pub ledger: L,
    /// The lease that some VMs need.
    pub lease: Lease,
    /// Time and jitter.
    pub clock: Arc<dyn Clock>,
    /// Where images come from.
    pub downloads: Arc<dyn Downloads>,
    /// What is to be reported.
    pub outbox: Outbox,
    /// Who this is.
    pub host_id: HostId,
    /// Bounds.
    pub tuning: Tuning,
}

/// How a work ended: each action that was tried, in order, with its outcome.
pub struct Finished {
    resource: Resource,
    outcomes: Vec<(Action, Outcome)>,
}

/// What a step did.
#[derive(Debug, Default)]
pub struct Stepped {
    /// When to step again even without news.
    pub wake_at: Option<DateTime>,
    /// Nothing is to be done, nothing is being done, nothing waits for time.
    pub settled: bool,
}

/// The state between steps.
pub struct Cycle<H, L> {
    parts: Parts<H, L>,
    manifest: Option<Manifest>,
    memory: Memory,
    lost: bool,
    dirty: bool,
    works: FuturesUnordered<BoxFuture<'static, Finished>>,
    stages: Stages,
    motions: Motions,
    /// What actions hold of this agent; it ends with it.
    life: Arc<()>,
    facts: Option<HostFacts>,
    foreign: Vec<Foreign>,
}

/// What is going on with each resource now; actions write, the loop reads.
#[derive(Clone, Default)]
pub(crate) struct Stages(Arc<(Mutex<BTreeMap<Resource, String>>, Notify)>);

impl Stages {
    fn set(&self, resource: Resource, stage: String) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).insert(resource, stage);
        self.0.1.notify_one();
    }
    /// What still speaks of a work that ended (an action that was given up) is not listened to.
    fn update(&self, resource: Resource, stage: String) {
        if let Some(now) = self.0.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&resource) {
            *now = stage;
            self.0.1.notify_one();
        }
    }
    fn wake(&self) {
        self.0.1.notify_one();
    }
    fn end(&self, resource: Resource) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&resource);
    }
    fn all(&self) -> BTreeMap<Resource, String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub(crate) async fn changed(&self) {
        self.0.1.notified().await;
    }
}

/// Figures of VMs that are being sent now; actions write, steps read.
type Motions = Arc<Mutex<BTreeMap<VmId, MotionProgress>>>;

impl<H: Host, L: Ledger> Cycle<H, L> {
    /// Begins from the ledger.
    ///
    /// # Errors
    /// [`Error::State`] when the ledger's place cannot be used.
    pub fn new(mut parts: Parts<H, L>) -> Result<Self, Error> {
        let loaded = parts.ledger.load()?;
        let mut manifest = loaded.manifest;
        if let Some(Err(e)) = manifest.as_ref().map(|m| m.check(parts.host_id)) {
            tracing::error!(error = %e, "the ledger's manifest is not for this host; waiting for the gateway");
            manifest = None;
        }
        let mut cycle = Self {
            parts,
            manifest,
            memory: loaded.memory,
            lost: loaded.lost,
            dirty: false,
            works: FuturesUnordered::new(),
            stages: Stages::default(),
            motions: Motions::default(),
            life: Arc::new(()),
            facts: None,
            foreign: Vec::new(),
        };
        if let Some(manifest) = cycle.manifest.take() {
            cycle.adopt(manifest);
        }
        Ok(cycle)
    }

    /// The revision that is acted on.
    pub fn revision(&self) -> Option<i64> {
        self.manifest.as_ref().map(|m| m.revision)
    }

    pub(crate) fn stages(&self) -> Stages {
        self.stages.clone()
    }

    /// Takes a manifest as it came from the gateway: whole, or not at all.
    ///
    /// # Errors
    /// [`Error::Refused`] when it cannot be read, is for another host, or is older than the one that is
    /// acted on (this is also reported); [`Error::State`] when the ledger does not keep it.
    pub fn offer(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let taken = self.read(bytes);
        let reason = taken.as_ref().err().map(|reason| (**reason).clone());
        self.parts.outbox.refused(reason);
        let manifest = taken.map_err(Error::Refused)?;
        if self.manifest.as_ref() == Some(&manifest) {
            return Ok(());
        }
        self.parts.ledger.save_manifest(&manifest)?;
        self.adopt(manifest);
        Ok(())
    }

    /// Takes over where other hosts have ports of this host's networks; kept before it is acted on.
    ///
    /// # Errors
    /// [`Error::State`]: it is not kept, and what was known before goes on.
    pub fn take_directory(&mut self, directory: Directory) -> Result<(), Error> {
        if self.memory.directory != directory {
            self.parts.ledger.save_directory(&directory)?;
            self.memory.directory = directory;
        }
        Ok(())
    }

    fn read(&self, bytes: &[u8]) -> Result<Manifest, Box<CapabilityReason>> {
        let manifest = Manifest::read(bytes, self.parts.host_id).map_err(|e| {
            Box::new(CapabilityReason::new(
                "manifest_refused",
                format!("host/{}", self.parts.host_id),
                e.to_string(),
                "update the agent to the gateway's version; until then it acts on the manifest before",
            ))
        })?;
        match &self.manifest {
            Some(before) if manifest.revision < before.revision => Err(Box::new(
                CapabilityReason::new(
                    "manifest_went_back",
                    format!("host/{}", self.parts.host_id),
                    "the gateway sent an older manifest than the one that is acted on",
                    "wait for the gateway; after a restore of its database, enrol this host anew",
                )
                .with_evidence(format!("got revision {}, have {}", manifest.revision, before.revision)),
            )),
            _ => Ok(manifest),
        }
    }

    fn adopt(&mut self, manifest: Manifest) {
        self.memory.accept(&manifest);
        self.parts.outbox.lines().forget(&manifest);
        if std::mem::take(&mut self.lost) {
            self.disown_operations(&manifest);
        }
        self.dirty = true;
        self.manifest = Some(manifest);
    }

    /// The records are gone: whether the verbs of this manifest were carried out cannot be told.
    fn disown_operations(&mut self, manifest: &Manifest) {
        for item in &manifest.items {
            if let Desired::Vm(body) = &item.desired
                && let Some(MotionBody::Outgoing(motion)) = &body.motion
                && motion.begin
            {
                // It may have been begun: what stands on the host tells what became of it.
                let record = MotionRecord::new(motion.id, MotionStep::Begun);
                self.memory.note(&Note::Motion(VmId(item.id), record));
            }
            if let Desired::Vm(body) = &item.desired
                && let Some(operation) = &body.operation
            {
                let message =
                    "the agent's ledger was lost; whether it happened cannot be told, it is not repeated";
                let outcome = OperationOutcome::Unknown;
                let report = OperationReport { id: operation.id, outcome, message: message.into() };
                let record = OperationRecord {
                    operation: operation.clone(),
                    started_at: self.parts.clock.now(),
                    report: Some(report),
                };
                self.memory.note(&Note::OperationEnded(VmId(item.id), record));
            }
        }
    }

    /// Looks, decides, and begins what was decided.
    ///
    /// # Errors
    /// [`Error::State`] when the ledger cannot be written: nothing was begun then.
    pub async fn step(&mut self) -> Result<Stepped, Error> {
        let Some(manifest) = &self.manifest else {
            // Nothing is known of what should be here: nothing is touched, strangers are not called so.
            return Ok(Stepped { settled: true, ..Stepped::default() });
        };
        let Ok(observed) = tokio::time::timeout(LOOK_LIMIT, self.parts.host.observe()).await else {
            tracing::error!("the look at the host did not end within {} s", LOOK_LIMIT.as_secs());
            let wake_at = Some(self.parts.clock.now() + TimeDelta::seconds(1));
            return Ok(Stepped { wake_at, settled: false });
        };
        let now = self.parts.clock.now();
        self.memory.listed = self.enlist(manifest);
        self.memory.leased = self.parts.lease.holds();
        self.memory.fenced = self.parts.lease.fenced();
        self.memory.in_flight = self.in_flight();
        self.memory.progress = self.moved();
        let plan = diff(manifest, &observed, &self.memory, now);
        let revision = manifest.revision;
        self.keep_foreign(&plan, &observed);
        self.dirty |= !plan.notes.is_empty();
        plan.notes.iter().for_each(|note| self.memory.note(note));
        let settled =
            plan.work.is_empty() && plan.notes.is_empty() && self.works.is_empty() && plan.wake_at.is_none();
        let begun = self.choose(plan.work);
        let before = self.memory.clone();
        for action in begun.iter().flat_map(|w| &w.actions) {
            self.dirty |= self.memory.begin(action, now);
        }
        if let Err(e) = self.save() {
            // Nothing was begun, so nothing may be remembered as begun.
            self.memory = before;
            return Err(e);
        }
        self.say_blocked(&plan.blocked, now);
        self.parts.outbox.items(revision, plan.items);
        begun.into_iter().for_each(|work| self.begin(work));
        Ok(Stepped { wake_at: plan.wake_at, settled })
    }

    /// Tells the fencer which VMs need the lease, before any of them is started; those of which it knows are given back. One
    /// that no longer needs it is taken off while the lease holds and the gateway knows: it counts on what it was told.
    fn enlist(&self, manifest: &Manifest) -> BTreeSet<VmId> {
        let needs = |item: &Item| matches!(&item.desired, Desired::Vm(body) if body.needs_lease);
        let wanted: BTreeSet<VmId> = manifest.items.iter().filter(|i| needs(i)).map(|i| VmId(i.id)).collect();
        let (holds, outbox) = (self.parts.lease.holds(), &self.parts.outbox);
        if let Err(e) = self.parts.lease.list(&wanted, |id| holds && outbox.told_unleased(*id)) {
            tracing::error!(error = %e, "the fencer cannot be told; VMs that need the lease are not started");
        }
        self.parts.lease.listed().intersection(&wanted).copied().collect()
    }

    fn moved(&self) -> BTreeMap<VmId, MotionProgress> {
        self.motions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn in_flight(&self) -> BTreeMap<Resource, String> {
        self.stages.all()
    }

    /// As many works as the bounds allow; the others come again with the next plan.
    fn choose(&self, works: Vec<Work>) -> Vec<Work> {
        let running = self.stages.all();
        let long = |resource: &Resource| matches!(resource, Resource::Image(_) | Resource::Volume(_));
        let busy = running.keys().filter(|r| long(r)).count();
        let mut rooms = [
            self.parts.tuning.long_works.saturating_sub(busy),
            self.parts.tuning.short_works.saturating_sub(running.len() - busy),
        ];
        let mut chosen = Vec::new();
        for work in works {
            let room = &mut rooms[usize::from(!long(&work.resource))];
            if *room > 0 {
                *room -= 1;
                chosen.push(work);
            }
        }
        chosen
    }

    /// Actions on a VM that needs the lease: it is started paused and let go on after another look at the lease, for a start
    /// may take longer than the lease holds. What is started late the fencer ends before anybody lets it go on.
    fn guarded(&self, resource: Resource, actions: Vec<Action>) -> (Vec<Action>, Option<Lease>) {
        let needs = matches!(resource, Resource::Vm(id) if self.memory.listed.contains(&id));
        if !needs {
            return (actions, None);
        }
        let split = |action| match action {
            Action::StartVm { id, paused: false } => {
                vec![Action::StartVm { id, paused: true }, Action::ResumeVm(id)]
            }
            other => vec![other],
        };
        (actions.into_iter().flat_map(split).collect(), Some(self.parts.lease.clone()))
    }

    fn begin(&mut self, work: Work) {
        let Work { resource, actions } = work;
        actions.iter().for_each(|action| self.say_begun(resource, action));
        let (actions, guard) = self.guarded(resource, actions);
        self.stages.set(resource, actions.first().map_or("", |a| a.stage()).into());
        let (host, stages, downloads) =
            (self.parts.host.clone(), self.stages.clone(), self.parts.downloads.clone());
        let limit = self.parts.tuning.act_limit;
        let (motions, life) = (self.motions.clone(), Arc::downgrade(&self.life));
        let journal = self.parts.ledger.journal();
        self.works.push(
            async move {
                let progress = {
                    let stages = stages.clone();
                    Arc::new(move |stage: String| stages.update(resource, stage))
                };
                let last = {
                    let motions = motions.clone();
                    Arc::new(move |id: VmId| {
                        motions.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
                    })
                };
                let moved = {
                    let stages = stages.clone();
                    Arc::new(move |id: VmId, seen: MotionProgress| {
                        motions.lock().unwrap_or_else(PoisonError::into_inner).insert(id, seen);
                        stages.wake();
                    })
                };
                let with = With { progress, downloads, moved, last, journal, life };
                let mut outcomes = Vec::new();
                for action in actions {
                    stages.update(resource, action.stage().into());
                    let limit = match &action {
                        Action::SendVm(_) => Limits::of(&action),
                        _ => limit.unwrap_or_else(|| Limits::of(&action)),
                    };
                    let lapsed = guard.as_ref().is_some_and(|lease| !lease.holds()) && executes(&action);
                    let act = async {
                        if lapsed {
                            Err(Error::host(action.stage(), "the lease ran out"))
                        } else {
                            host.act(&action, &with).await
                        }
                    };
                    let outcome = match tokio::time::timeout(limit, act).await {
                        Ok(Ok(())) => Outcome::Done,
                        Ok(Err(Error::Refused(reason))) => Outcome::Refused(*reason),
                        Ok(Err(e)) => Outcome::Failed(failed(&action, &e.to_string())),
                        Err(_) => {
                            let why = format!("no answer within {} s", limit.as_secs());
                            Outcome::Failed(failed(&action, &why))
                        }
                    };
                    let done = outcome == Outcome::Done;
                    outcomes.push((action, outcome));
                    if !done {
                        break;
                    }
                }
                Finished { resource, outcomes }
            }
            .boxed(),
        );
    }

    /// Whether something is being worked on.
    pub fn is_busy(&self) -> bool {
        !self.works.is_empty()
    }

    /// Waits for the end of a work, and takes all that ended with it. Without work it waits for ever.
    /// May be dropped at any time.
    pub async fn finished(&mut self) -> Vec<Finished> {
        let Some(first) = self.works.next().await else { return std::future::pending().await };
        let mut all = vec![first];
        while let Some(Some(next)) = self.works.next().now_or_never() {
            all.push(next);
        }
        all
    }

    /// Remembers how works ended. What must be durable is, when this returns.
    ///
    /// # Errors
    /// [`Error::State`]: it is remembered and will be kept by the next save.
    pub fn settle(&mut self, finished: Vec<Finished>) -> Result<(), Error> {
        let now = self.parts.clock.now();
        self.memory.progress = self.moved();
        for Finished { resource, outcomes } in finished {
            self.stages.end(resource);
            if let Resource::Vm(id) = resource {
                self.motions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            }
            for (action, outcome) in outcomes {
                self.say_ended(resource, &action, &outcome, now);
                match &outcome {
                    Outcome::Done => tracing::info!(?resource, "{}", action.stage()),
                    Outcome::Refused(reason) | Outcome::Failed(reason) => {
                        tracing::warn!(?resource, %reason, "{} failed", action.stage());
                    }
                }
                let jitter = self.parts.clock.jitter();
                self.dirty |= self.memory.end(resource, &action, outcome, now, jitter);
            }
        }
        self.save()
    }

    /// Shows what is going on, without looking at the host.
    pub fn show_stages(&self) {
        for (resource, stage) in self.stages.all() {
            if let Some(key) = item_key(resource) {
                self.parts.outbox.stage(key, &stage);
            }
        }
        for (id, seen) in self.moved() {
            self.say_moved(id, &seen);
            self.parts.outbox.moved(id, seen);
        }
    }

    fn hearers(&self) -> Option<Hearers<'_>> {
        self.manifest.as_ref().map(|manifest| Hearers { manifest, memory: &self.memory })
    }

    /// Tells the logs of tasks of what takes long when it begins: once, however often it is tried.
    fn say_begun(&self, resource: Resource, action: &Action) {
        let (Some(hearers), Some(text)) = (self.hearers(), task_lines::begun(action)) else { return };
        let (about, now) = (hearers.of(resource, action), self.parts.clock.now());
        let text = || format!("{}{text}", hearers.label(resource));
        self.parts.outbox.lines().say_once(now, &about, action.stage(), text);
    }

    /// Tells the logs of tasks how an action ended.
    fn say_ended(&self, resource: Resource, action: &Action, outcome: &Outcome, now: DateTime) {
        let Some(hearers) = self.hearers() else { return };
        let lines = self.parts.outbox.lines();
        match outcome {
            Outcome::Done => {
                let Some(mut text) = hearers.done(resource, action) else { return };
                if let Action::SendVm(send) = action
                    && let Some(seen) = self.memory.progress.get(&send.id)
                {
                    text = format!("{text}: {}", task_lines::figures(seen));
                }
                let about = hearers.of(resource, action);
                // What others wait for is done anew as others come and go; each of them hears of it once. So do
                // those whose guest is asked again and again.
                let own = matches!(resource, Resource::Vm(_)) && !matches!(action, Action::ShutdownVm(_));
                if own {
                    lines.say(now, &about, &text);
                } else {
                    lines.say_once(now, &about, &text, || text.clone());
                }
            }
            Outcome::Refused(reason) | Outcome::Failed(reason) => {
                let about = hearers.of(resource, action);
                let text = || task_lines::failure(&hearers.label(resource), reason);
                lines.say_once(now, &about, &task_lines::same(reason), text);
            }
        }
    }

    /// Tells the logs of tasks why an item cannot be had.
    fn say_blocked(&self, blocked: &[(ItemKey, CapabilityReason)], now: DateTime) {
        let Some(hearers) = self.hearers().filter(|_| !blocked.is_empty()) else { return };
        let reasons: BTreeMap<&ItemKey, &CapabilityReason> = blocked.iter().map(|(k, r)| (k, r)).collect();
        for item in &hearers.manifest.items {
            let Some(reason) = reasons.get(&item.key()) else { continue };
            let about: Vec<_> = hearers.open(item).into_iter().collect();
            let text = || task_lines::failure("", reason);
            self.parts.outbox.lines().say_once(now, &about, &task_lines::same(reason), text);
        }
    }

    /// Tells the logs of tasks how far a VM's sending is.
    fn say_moved(&self, id: VmId, seen: &MotionProgress) {
        let (now, lines) = (self.parts.clock.now(), self.parts.outbox.lines());
        let Some(hearers) = self.hearers().filter(|_| lines.figures_due(id, now)) else { return };
        lines.say(now, &hearers.item(ItemKey { kind: ItemKind::Vm, id: id.0 }), &task_lines::figures(seen));
    }

    fn save(&mut self) -> Result<(), Error> {
        if self.dirty {
            self.parts.ledger.save_records(&self.memory)?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Finds out the host's facts and reports them if they changed.
    pub fn take_facts(&mut self, facts: HostFacts) {
        self.facts = Some(facts);
        self.show_facts();
    }

    fn show_facts(&self) {
        if let Some(facts) = &self.facts {
            let (foreign, fencer) = (self.foreign.clone(), self.parts.lease.fencer());
            self.parts.outbox.facts(HostFacts { foreign, fencer, ..facts.clone() });
        }
    }

    /// Strangers are reported from whole listings only: one that failed makes none come or go.
    fn keep_foreign(&mut self, plan: &Plan, observed: &Observed) {
        let problems = [observed.vms.problem(), observed.volumes.problem(), observed.ports.problem()];
        if problems.iter().all(Option::is_none) && self.foreign != plan.foreign {
            self.foreign.clone_from(&plan.foreign);
            self.show_facts();
        }
    }
}

/// Whether an action makes a guest execute.
fn executes(action: &Action) -> bool {
    matches!(action, Action::StartVm { .. } | Action::ResumeVm(_))
}

fn failed(action: &Action, why: &str) -> CapabilityReason {
    CapabilityReason::new(
        "host_error",
        format!("{:?}", action.resource()).to_lowercase(),
        format!("{} failed", action.stage()),
        "it is tried again; look at the host when it stays so",
    )
    .with_evidence(why)
}

fn item_key(resource: Resource) -> Option<ItemKey> {
    let (kind, id) = match resource {
        Resource::Network(id) | Resource::Names(id) => (ItemKind::Network, id.0),
        Resource::Image(id) => (ItemKind::Image, id.0),
        Resource::Volume(id) => (ItemKind::Volume, id.0),
        Resource::Vm(id) => (ItemKind::Vm, id.0),
        Resource::Router(id) => (ItemKind::Router, id.0),
        Resource::Switch | Resource::Flows | Resource::Port(_) | Resource::Motion(_) => return None,
    };
    Some(ItemKey { kind, id })
}
