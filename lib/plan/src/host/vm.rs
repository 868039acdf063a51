//! Virtual machines: definition, power, redeploy, one-shot verbs, removal.
//!
//! ```text
//!            intent running        intent paused        intent stopped
//! runs       –                     pause                ACPI, again, after the grace force
//! paused     resume                –                    resume and ACPI, after the grace force
//! down       start                 start paused         –
//! unknown    wait                  wait                 wait
//! ```
//! A change of the definition is stored at once and taken up by the next start; a higher incarnation
//! forces the old guest off once everything of the new one is there.

use super::{
    Action, Draft, Judgement, Lack, Look, Note, OperationRecord, Resource, SHUTDOWN_REPEAT_SECONDS,
    SeedDefinition, SeedKey, Seen, Stamp, Transit, VmDefinition, VmSeen, incomplete, motion,
    network::stale_ports,
};
use basalt_model::{
    CapabilityReason, DateTime, Name, VmId,
    vms::{
        Firmware, ObservedPower, Operation, OperationOutcome, OperationReport, OperationVerb, Power,
        VmObserved,
    },
};
use basalt_wire::agent::{
    Item, ItemKind, ItemObserved,
    manifest::{DiskBodySource, VmBody},
};
use chrono::TimeDelta;

/// Whether something of it is in memory. A power state that nobody can tell counts as that.
pub(super) fn live(seen: &VmSeen) -> bool {
    use ObservedPower::{Paused, Running, Stopping, Unknown};
    seen.running.is_some() || matches!(seen.power, Running | Paused | Stopping | Unknown)
}

pub(super) fn is_live(look: &Look<'_>, id: VmId) -> bool {
    matches!(look.observed.vms.get(&id), Seen::There(seen) if live(seen))
}

pub(super) fn absent(look: &Look<'_>, id: VmId) -> Judgement {
    let resource = Resource::Vm(id);
    let there = Judgement::new(as_seen(look, id)).on(resource);
    let seeds = look.observed.seeds.items.keys().filter(|s| s.vm_id == id).cloned().map(Action::RemoveSeed);
    let mut actions = Vec::new();
    // Nothing of it comes in any more before what came in goes.
    actions.extend(motion::shut(look, id));
    match look.observed.vms.get(&id) {
        Seen::Unknown(why) => return there.wait(format!("cannot list VMs: {why}")),
        Seen::There(seen) => {
            if live(seen) {
                actions.push(Action::DestroyVm(id));
            }
            actions.push(Action::UndefineVm(id));
        }
        Seen::Gone => {}
    }
    actions.extend(stale_ports(look, id));
    actions.extend(seeds);
    if !actions.is_empty() {
        return there.act(actions);
    }
    match look.observed.seeds.problem().or(look.observed.ports.problem()) {
        Some(why) => there.wait(format!("cannot tell whether all of it is gone: {why}")),
        None => {
            let mut gone = Judgement::new(ItemObserved::Gone).on(resource);
            gone.notes.extend(look.memory.stops.contains_key(&id).then_some(Note::StopEnded(id)));
            gone
        }
    }
}

pub(super) fn present(look: &Look<'_>, draft: &Draft, item: &Item, body: &VmBody) -> Judgement {
    let id = VmId(item.id);
    let subject = format!("vm/{}", body.name);
    let judgement = Judgement::new(as_seen(look, id)).on(Resource::Vm(id));
    let seed = look.index.seed(id, body);
    let definition = match look.index.vm(item, body, &seed) {
        Ok(definition) => definition,
        Err(missing) => return judgement.block(incomplete(subject, &missing)),
    };
    let gone = VmSeen { power: ObservedPower::Absent, ..VmSeen::default() };
    let seen = match look.observed.vms.get(&id) {
        Seen::Unknown(why) => return judgement.wait(format!("cannot list VMs: {why}")),
        Seen::There(seen) if seen.power == ObservedPower::Unknown && body.motion.is_none() => {
            return judgement.wait("cannot tell whether it runs");
        }
        Seen::There(seen) => seen,
        Seen::Gone => &gone,
    };
    let marked = [&seen.defined, &seen.running].into_iter().flatten().map(|s| s.incarnation);
    if let Some(newer) = marked.max().filter(|i| *i > body.incarnation) {
        return judgement.block(newer_incarnation(subject, newer, body.incarnation));
    }
    let case = Case { look, draft, id, item, body, seen, seed: &seed, definition: &definition };
    match &body.motion {
        Some(motion) => motion::present(&case, judgement, motion),
        None => case.usual(judgement),
    }
}

fn newer_incarnation(subject: String, have: i64, got: i64) -> CapabilityReason {
    CapabilityReason::new(
        "stale_item",
        subject,
        "this host already has a newer incarnation of it",
        "let the gateway send the newest; after a restore of its database, redeploy the VM",
    )
    .with_evidence(format!("have incarnation {have}, got {got}"))
}

/// One VM that is to be there and whose state is known.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) look: &'a Look<'a>,
    pub(super) draft: &'a Draft,
    pub(super) id: VmId,
    pub(super) item: &'a Item,
    pub(super) body: &'a VmBody,
    pub(super) seen: &'a VmSeen,
    pub(super) seed: &'a SeedDefinition,
    pub(super) definition: &'a VmDefinition,
}

impl Case<'_> {
    /// All that is done of a VM that is on no way to another host.
    pub(super) fn usual(&self, judgement: Judgement) -> Judgement {
        let judgement = self.realise(judgement);
        let judgement = self.operation(judgement);
        self.describe(judgement)
    }

    fn realise(&self, mut judgement: Judgement) -> Judgement {
        // A guest of an older incarnation goes; one without our marks is only defined anew, and is as old as the
        // definition that it was then given.
        let marked = |stamp: &&Stamp| **stamp != Stamp::default();
        let runs = self.seen.running.as_ref();
        let runs = runs.and_then(|s| Some(s).filter(marked).or(self.seen.defined.as_ref().filter(marked)));
        // What lost a part of its memory on its way between hosts never executes again.
        let torn = self.seen.transit == Transit::Torn && self.body.power != Power::Stopped;
        let replace = torn || runs.is_some_and(|s| s.incarnation < self.body.incarnation);
        let start = !live(self.seen) || replace;
        let define = self.must_define();
        let starts = start && self.body.power != Power::Stopped;
        if define || starts {
            match self.prepare(starts) {
                Ok(actions) => {
                    judgement.actions.extend(replace.then_some(Action::DestroyVm(self.id)));
                    if start {
                        judgement.actions.extend(stale_ports(self.look, self.id));
                    }
                    judgement.actions.extend(actions);
                    if define {
                        judgement.actions.push(Action::DefineVm(Box::new(self.definition.clone())));
                    }
                }
                // What runs goes on and is still stopped, paused and resumed while something is amiss.
                Err(hold) => judgement = hold.apply(judgement),
            }
        }
        let held = judgement.waiting.is_some() || judgement.blocked.is_some();
        if live(self.seen) && (held || !replace) {
            self.power(judgement, held)
        } else if starts && !held {
            self.start(judgement)
        } else {
            self.rest(judgement)
        }
    }

    fn must_define(&self) -> bool {
        self.seen.defined.as_ref().is_none_or(|stamp| {
            stamp.epoch != self.item.epoch
                || stamp.incarnation != self.body.incarnation
                || stamp.definition_hash != self.definition.hash
                || stamp.seed_hash != self.seed.hash
        })
    }

    /// What has to be there before the definition: `Err` says what is missing.
    pub(super) fn prepare(&self, starts: bool) -> Result<Vec<Action>, Box<Hold>> {
        let mut holds = Hold::default();
        for disk in &self.body.disks {
            holds.need(match disk.source {
                DiskBodySource::Volume(volume) => self.draft.need(ItemKind::Volume, volume.0),
                DiskBodySource::Iso(image) => self.draft.need(ItemKind::Image, image.0),
            });
        }
        if starts {
            for nic in &self.body.nics {
                holds.need(self.draft.need(ItemKind::Network, nic.network_id.0));
            }
        }
        if let Some(reason) = self.lacking().or_else(|| self.unleased().filter(|_| starts)) {
            holds.reason = Some(reason);
        }
        let seed = match self.look.observed.seeds.get(&self.seed.key()) {
            Seen::There(()) => None,
            Seen::Gone => Some(Action::WriteSeed(self.seed.clone())),
            Seen::Unknown(why) => {
                holds.need(Err(Box::new(Lack { stage: format!("cannot list seeds: {why}"), reason: None })));
                None
            }
        };
        if holds.stage.is_some() || holds.reason.is_some() {
            Err(Box::new(holds))
        } else {
            Ok(seed.into_iter().collect())
        }
    }

    /// What the host lacks for this VM.
    fn lacking(&self) -> Option<CapabilityReason> {
        let can = &self.look.observed.capabilities;
        let subject = format!("vm/{}", self.body.name);
        if self.body.firmware == Firmware::Uefi && !can.uefi {
            return Some(CapabilityReason::new(
                "uefi_missing",
                subject,
                "this host has no UEFI firmware",
                "install OVMF on the host, or declare the VM with firmware bios",
            ));
        }
        can.accelerator.is_none().then(|| {
            CapabilityReason::new(
                "accelerator_missing",
                subject,
                "no guest was seen to start on this host, under KVM or in software",
                "look at the host's accelerators and install QEMU",
            )
        })
    }

    /// Why it must not execute now although it is wanted: it might be started elsewhere at this moment.
    pub(super) fn unleased(&self) -> Option<CapabilityReason> {
        let may = self.look.memory.leased && self.look.memory.listed.contains(&self.id);
        (self.body.needs_lease && !may).then(|| lease_lapsed(&self.body.name))
    }

    fn start(&self, mut judgement: Judgement) -> Judgement {
        let record = self.look.memory.starts.get(&self.id);
        let not_before = record.map(|r| r.not_before(self.item.generation));
        judgement.notes.extend(self.stop_ended());
        match not_before.filter(|at| *at > self.look.now) {
            Some(at) => {
                // It dies as soon as it is started: what precedes the start is still done.
                judgement.wake_at = Some(at);
                judgement.wait("it stopped right after its start, starting again soon")
            }
            None => {
                judgement.act([Action::StartVm { id: self.id, paused: self.body.power == Power::Paused }])
            }
        }
    }

    /// It is down and is to stay so, or cannot be started yet.
    fn rest(&self, mut judgement: Judgement) -> Judgement {
        judgement.notes.extend(self.stop_ended());
        let idle = judgement.actions.is_empty() && judgement.waiting.is_none();
        if idle { judgement.act(self.old_seeds()) } else { judgement }
    }

    fn power(&self, mut judgement: Judgement, held: bool) -> Judgement {
        match (self.body.power, self.seen.power) {
            (Power::Stopped, power) => return self.stop(judgement, power),
            (_, ObservedPower::Stopping) => {
                return judgement.wait("shutting down, starting again after that");
            }
            (Power::Running, ObservedPower::Paused) => match self.unleased() {
                Some(reason) => judgement.blocked = Some(reason),
                None => judgement.actions.push(Action::ResumeVm(self.id)),
            },
            (Power::Paused, ObservedPower::Running) => judgement.actions.push(Action::PauseVm(self.id)),
            _ => {}
        }
        judgement.notes.extend(self.stop_ended());
        if judgement.actions.is_empty() && !held { judgement.act(self.old_seeds()) } else { judgement }
    }

    fn stop(&self, mut judgement: Judgement, power: ObservedPower) -> Judgement {
        let now = self.look.now;
        let record = self.look.memory.stops.get(&self.id).filter(|r| r.asked);
        let deadline =
            record.map_or(now, |r| r.first_at) + TimeDelta::seconds(self.body.stop_grace_seconds.into());
        if now >= deadline {
            return judgement.act([Action::DestroyVm(self.id)]);
        }
        let again = record.map_or(now, |r| r.last_at + TimeDelta::seconds(SHUTDOWN_REPEAT_SECONDS));
        if now < again {
            judgement.wake_at = Some(again.min(deadline));
            return judgement.wait("shutting down");
        }
        if power == ObservedPower::Paused {
            if self.unleased().is_some() {
                // It must not execute, not even to shut down.
                return judgement.act([Action::DestroyVm(self.id)]);
            }
            judgement.actions.push(Action::ResumeVm(self.id));
        }
        judgement.act([Action::ShutdownVm(self.id)])
    }

    fn stop_ended(&self) -> Option<Note> {
        self.look.memory.stops.contains_key(&self.id).then_some(Note::StopEnded(self.id))
    }

    /// Seeds that neither the stored definition nor what runs has.
    fn old_seeds(&self) -> Vec<Action> {
        let stamps = [&self.seen.defined, &self.seen.running];
        let used = |key: &SeedKey| stamps.into_iter().flatten().any(|s| s.seed_hash == key.hash);
        let seeds = self.look.observed.seeds.items.keys();
        let old = seeds.filter(|k| k.vm_id == self.id && k.hash != self.seed.hash && !used(k));
        old.cloned().map(Action::RemoveSeed).collect()
    }

    fn operation(&self, mut judgement: Judgement) -> Judgement {
        let Some(operation) = &self.body.operation else { return judgement };
        let record = self.look.memory.operations.get(&self.id).filter(|r| r.operation.id == operation.id);
        if record.is_some_and(|r| r.report.is_some())
            || self.look.memory.in_flight.contains_key(&Resource::Vm(self.id))
        {
            return judgement;
        }
        if let Some(record) = record {
            judgement.notes.push(self.ended(operation, record.started_at, self.interrupted(record)));
        } else if self.body.power != Power::Running || self.seen.power != ObservedPower::Running {
            let failed = (OperationOutcome::Failed, "the VM did not run");
            judgement.notes.push(self.ended(operation, self.look.now, failed));
        } else if judgement.actions.is_empty() {
            let (id, operation_id) = (self.id, operation.id);
            judgement.actions.push(match operation.verb {
                OperationVerb::Reboot => Action::RebootVm { id, operation: operation_id },
                OperationVerb::Reset => Action::ResetVm { id, operation: operation_id },
            });
        }
        judgement
    }

    /// What the facts say of a verb that was started and whose end nobody saw.
    fn interrupted(&self, record: &OperationRecord) -> (OperationOutcome, &'static str) {
        if self.seen.started_at.is_some_and(|at| at > record.started_at) {
            return (OperationOutcome::Done, "the VM was started anew since");
        }
        (
            OperationOutcome::Unknown,
            "the agent stopped in between; whether it happened cannot be told, it is not repeated",
        )
    }

    fn ended(
        &self,
        operation: &Operation,
        started_at: DateTime,
        (outcome, message): (OperationOutcome, &str),
    ) -> Note {
        let report = OperationReport { id: operation.id, outcome, message: message.into() };
        Note::OperationEnded(
            self.id,
            OperationRecord { operation: operation.clone(), started_at, report: Some(report) },
        )
    }

    fn describe(&self, mut judgement: Judgement) -> Judgement {
        let waits = match (&self.seen.running, judgement.actions.is_empty()) {
            (Some(running), true) => {
                running.definition_hash != self.definition.hash || running.seed_hash != self.seed.hash
            }
            _ => false,
        };
        if let ItemObserved::Vm(vm) = &mut judgement.observed {
            let unmarked = self.seen.running.as_ref() == Some(&Stamp::default());
            vm.pending_reboot = waits.then(|| pending(&self.body.name, unmarked));
            if vm.power == ObservedPower::Running && self.look.memory.stops.contains_key(&self.id) {
                vm.power = ObservedPower::Stopping;
            }
        }
        judgement
    }
}

fn lease_lapsed(name: &Name) -> CapabilityReason {
    CapabilityReason::new(
        "lease_lapsed",
        format!("vm/{name}"),
        "its HA policy lets it execute only while its host holds a lease, and the gateway has given none",
        "bring the host's way to the gateway back; it is started here or elsewhere by itself then",
    )
}

/// What waits for the next start. `adopted`: what runs was not started by us.
fn pending(name: &Name, adopted: bool) -> CapabilityReason {
    let (code, message) = match adopted {
        true => (
            "adopted_running",
            "it runs as it did before it was adopted, with its own devices and its interfaces where they were; \
             its networks and its new definition wait for the next start",
        ),
        false => ("pending_reboot", "a change of the definition or of the seed waits for the next start"),
    };
    let remedy = "stop the VM and start it again; a restart inside the guest does not take it up";
    CapabilityReason::new(code, format!("vm/{name}"), message, remedy)
}

/// Why a VM cannot be defined or started yet.
#[derive(Default)]
pub(super) struct Hold {
    stage: Option<String>,
    reason: Option<CapabilityReason>,
}

impl Hold {
    fn need(&mut self, need: Result<(), Box<Lack>>) {
        if let Err(lack) = need {
            self.stage.get_or_insert(lack.stage);
            self.reason = self.reason.take().or(lack.reason);
        }
    }

    pub(super) fn apply(self, mut judgement: Judgement) -> Judgement {
        judgement.waiting = self.stage.or(judgement.waiting);
        judgement.blocked = self.reason.or(judgement.blocked);
        judgement
    }
}

/// A VM as it stands, whatever is wanted of it.
pub(super) fn as_seen(look: &Look<'_>, id: VmId) -> ItemObserved {
    let mut observed = VmObserved { host_id: Some(look.manifest.host_id), ..VmObserved::default() };
    observed.operation = look.memory.operations.get(&id).and_then(|r| r.report.clone());
    observed.leased = look.memory.listed.contains(&id);
    observed.fenced_at = look.memory.fenced.get(&id).copied();
    match look.observed.vms.get(&id) {
        Seen::Unknown(_) => {}
        Seen::Gone => observed.power = ObservedPower::Absent,
        Seen::There(seen) => {
            observed.power = seen.power;
            let stamp = seen.running.as_ref().or(seen.defined.as_ref());
            observed.incarnation = stamp.map_or(0, |s| s.incarnation);
            observed.started_at = seen.started_at;
            observed.accelerator = seen.accelerator.clone();
        }
    }
    ItemObserved::Vm(Box::new(observed))
}
