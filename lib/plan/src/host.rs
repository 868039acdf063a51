//! What is to be done on a host: manifest, what was seen, what is remembered → actions and reasons.
//!
//! ```text
//! network ─┐                                   removal runs the other way:
//! image ───┴► volume ─► seed, definition ─► start      VM ─► volume ─► image, network
//! networks ─► router
//! ```
//!
//! - Only what stands in the manifest is touched; only its `absent` items remove; the rest is foreign.
//! - A listing that failed or is partial makes nothing of its section, and removes nothing of it.
//! - Each resource is judged on its own: what is wrong with one never stops another.
//! - An item older than what was accepted, or than what stands on the host, is refused.

mod action;
mod definition;
pub mod effect;
pub mod flows;
mod foreign;
mod memory;
mod motion;
mod network;
mod observed;
pub mod router;
pub mod stall;
mod storage;
#[cfg(test)]
mod tests;
mod vm;

pub use action::*;
pub use memory::*;
pub use observed::*;
pub use router::{RouterDefinition, RouterPort};

use basalt_model::{
    CapabilityReason, DateTime, Generation, ImageId, NetworkId, RouterId, VmId, VolumeId, hosts::Foreign,
};
use basalt_wire::agent::{Desired, Item, ItemKey, ItemKind, ItemObserved, ItemReport, Manifest};
use definition::Index;
use std::collections::BTreeMap;

/// What is to be done on a host, and what is to be said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Independent of each other; at most one for each resource.
    pub work: Vec<Work>,
    /// What is so now of every item of the manifest.
    pub items: Vec<ItemReport>,
    /// Items that cannot be had, and why. Those that only failed are tried again.
    pub blocked: Vec<(ItemKey, CapabilityReason)>,
    /// What no item names; it is left alone.
    pub foreign: Vec<Foreign>,
    /// What is now known and should be remembered.
    pub notes: Vec<Note>,
    /// When to look again even without news: a back-off or a grace ends.
    pub wake_at: Option<DateTime>,
}

/// Actions on one resource, in order; a failure ends them.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// What they work on.
    pub resource: Resource,
    /// The actions.
    pub actions: Vec<Action>,
}

/// Something that is now known and should be remembered.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// A generation of an item is realised.
    Realised(ItemKey, Generation),
    /// An incarnation of a volume was seen.
    Made(VolumeId, i64),
    /// A shutdown is over, or no longer wanted.
    StopEnded(VmId),
    /// The outcome of a one-shot verb is known without doing anything.
    OperationEnded(VmId, OperationRecord),
    /// A VM's part in a migration came to a step that is never taken back.
    Motion(VmId, MotionRecord),
}

/// Decides what is to be done on a host.
///
/// Pure and total. Carrying out all work and looking again ends, on a host without faults, in a plan
/// without work (the property is tested from arbitrary states).
pub fn diff(manifest: &Manifest, observed: &Observed, memory: &Memory, now: DateTime) -> Plan {
    let look = Look { index: Index::new(manifest), manifest, observed, memory, now };
    let mut draft = Draft::default();
    network::switch(&look, &mut draft);
    draft.flows = network::flows_wanted(&look, &draft);
    // The order of kinds puts what others wait for first, so that their state is known.
    for item in look.index.items() {
        let judgement = look.stale(item).unwrap_or_else(|| judge(&look, &draft, item));
        draft.add(&look, item, judgement);
    }
    network::ports(&look, &mut draft);
    motion::doors(&look, &mut draft);
    draft.plan.foreign = foreign::foreign(&look);
    draft.plan
}

fn judge(look: &Look<'_>, draft: &Draft, item: &Item) -> Judgement {
    match (&item.desired, item.kind) {
        (Desired::SecurityGroup(_), _) => network::group(look, draft, item),
        (Desired::Network(body), _) => network::present(look, draft, NetworkId(item.id), body),
        (Desired::Image(body), _) => storage::image(look, ImageId(item.id), body),
        (Desired::Volume(body), _) => storage::volume(look, draft, VolumeId(item.id), body),
        (Desired::Vm(body), _) => vm::present(look, draft, item, body),
        (Desired::Absent, ItemKind::SecurityGroup) => Judgement::new(ItemObserved::Gone),
        (Desired::Router(body), _) => router::present(look, draft, RouterId(item.id), body),
        (Desired::Absent, ItemKind::Router) => router::absent(look, RouterId(item.id)),
        (Desired::Absent, ItemKind::Network) => network::absent(look, NetworkId(item.id)),
        (Desired::Absent, ItemKind::Image) => storage::image_absent(look, ImageId(item.id)),
        (Desired::Absent, ItemKind::Volume) => storage::volume_absent(look, VolumeId(item.id)),
        (Desired::Absent, ItemKind::Vm) => vm::absent(look, VmId(item.id)),
    }
}

/// Everything that a judgement may look at.
struct Look<'a> {
    index: Index<'a>,
    manifest: &'a Manifest,
    observed: &'a Observed,
    memory: &'a Memory,
    now: DateTime,
}

impl Look<'_> {
    /// Refuses an item that is older than what was accepted or than what stands on the host.
    fn stale(&self, item: &Item) -> Option<Judgement> {
        let mut newest = self.memory.accepted.get(&item.key()).copied().unwrap_or_default();
        if item.kind == ItemKind::Vm
            && let Seen::There(vm) = self.observed.vms.get(&VmId(item.id))
        {
            let stamps = [vm.defined.as_ref(), vm.running.as_ref()].into_iter().flatten();
            let epoch = stamps.map(|s| s.epoch).max().unwrap_or_default();
            if epoch > newest.0 {
                newest = (epoch, Generation::default());
            }
        }
        if (item.epoch, item.generation) >= newest {
            return None;
        }
        let reason = CapabilityReason::new(
            "stale_item",
            format!("{}/{}", item.kind.as_str(), item.id),
            "this host has already acted on a newer placement or generation of it",
            "let the gateway send the newest; after a restore of its database, change the object once",
        )
        .with_evidence(format!(
            "got epoch {} generation {}, have epoch {} generation {}",
            item.epoch.0, item.generation.0, newest.0.0, newest.1.0
        ));
        let observed = match item.kind {
            ItemKind::Vm => vm::as_seen(self, VmId(item.id)),
            ItemKind::Volume => storage::volume_as_seen(self, VolumeId(item.id)),
            ItemKind::Image => ItemObserved::Image { ready: false, blocked: None },
            ItemKind::Network => ItemObserved::Network { ready: false, blocked: None },
            ItemKind::SecurityGroup => ItemObserved::SecurityGroup { ready: false, blocked: None },
            ItemKind::Router => ItemObserved::Router { ready: false, active: false, blocked: None },
        };
        Some(Judgement::new(observed).block(reason))
    }
}

/// What was found out about one item.
struct Judgement {
    resource: Option<Resource>,
    actions: Vec<Action>,
    observed: ItemObserved,
    /// It cannot be had now; nothing that this host does by itself helps.
    blocked: Option<CapabilityReason>,
    /// It is not so yet, and somebody else's turn: what it waits for.
    waiting: Option<String>,
    /// Whether those that need it can use it.
    usable: bool,
    notes: Vec<Note>,
    wake_at: Option<DateTime>,
}

impl Judgement {
    fn new(observed: ItemObserved) -> Self {
        Self {
            resource: None,
            actions: Vec::new(),
            observed,
            blocked: None,
            waiting: None,
            usable: false,
            notes: Vec::new(),
            wake_at: None,
        }
    }

    fn usable(mut self, usable: bool) -> Self {
        self.usable = usable;
        self
    }

    fn block(mut self, reason: CapabilityReason) -> Self {
        self.blocked = Some(reason);
        self
    }

    fn wait(mut self, stage: impl Into<String>) -> Self {
        self.waiting = Some(stage.into());
        self
    }

    fn act(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.actions.extend(actions);
        self
    }

    fn on(mut self, resource: Resource) -> Self {
        self.resource = Some(resource);
        self
    }
}

/// What others may know of an item that was judged before them.
struct Status {
    usable: bool,
    blocked: Option<CapabilityReason>,
}

/// Something that another needs and that cannot be used yet.
struct Lack {
    stage: String,
    reason: Option<CapabilityReason>,
}

/// A plan in the making.
#[derive(Default)]
struct Draft {
    plan: Plan,
    status: BTreeMap<ItemKey, Status>,
    switch_ready: bool,
    /// The flows that must stand, and whether they do; none while that cannot be told.
    flows: Option<(FlowSet, bool)>,
}

impl Draft {
    /// Puts actions into the plan, unless their resource is being worked on or has to wait. Answers
    /// the stage to show when it was held back.
    fn work(&mut self, look: &Look<'_>, resource: Resource, actions: Vec<Action>) -> Option<String> {
        if let Some(stage) = look.memory.in_flight.get(&resource) {
            return Some(stage.clone());
        }
        if actions.is_empty() {
            return None;
        }
        if let Some(back_off) = look.memory.back_off.get(&resource)
            && back_off.not_before > look.now
        {
            self.wake(Some(back_off.not_before));
            return Some(format!("{} failed, trying again", actions[0].stage()));
        }
        let stage = actions[0].stage().to_owned();
        self.plan.work.push(Work { resource, actions });
        Some(stage)
    }

    fn wake(&mut self, at: Option<DateTime>) {
        self.plan.wake_at = self.plan.wake_at.into_iter().chain(at).min();
    }

    fn add(&mut self, look: &Look<'_>, item: &Item, judgement: Judgement) {
        let Judgement { resource, actions, mut observed, mut blocked, waiting, usable, notes, wake_at } =
            judgement;
        let key = item.key();
        let mut stage = waiting;
        if let Some(resource) = resource {
            let failed = !actions.is_empty();
            stage = self.work(look, resource, actions).or(stage);
            if failed && blocked.is_none() {
                blocked = look.memory.back_off.get(&resource).map(|b| b.reason.clone());
            }
        }
        self.wake(wake_at);
        let open = notes.iter().any(|n| matches!(n, Note::OperationEnded(..) | Note::Motion(..)));
        self.plan.notes.extend(notes);
        let mut realised = look.memory.realised.get(&key).copied().unwrap_or_default();
        if stage.is_none() && blocked.is_none() && !open {
            if realised != item.generation {
                self.plan.notes.push(Note::Realised(key, item.generation));
            }
            realised = item.generation;
        }
        if let Some(reason) = &blocked {
            set_blocked(&mut observed, reason);
            self.plan.blocked.push((key, reason.clone()));
        }
        self.status.insert(key, Status { usable, blocked });
        self.plan.items.push(ItemReport {
            kind: item.kind,
            id: item.id,
            generation: realised,
            epoch: item.epoch,
            observed,
            stage: stage.unwrap_or_default(),
        });
    }

    /// Whether something that another needs can be used; else what to wait for, and why it is blocked.
    fn need(&self, kind: ItemKind, id: uuid::Uuid) -> Result<(), Box<Lack>> {
        match self.status.get(&ItemKey { kind, id }) {
            Some(status) if status.usable => Ok(()),
            status => {
                let reason = status.and_then(|s| s.blocked.clone());
                Err(Box::new(Lack { stage: format!("waiting for {} {id}", kind.as_str()), reason }))
            }
        }
    }
}

fn set_blocked(observed: &mut ItemObserved, reason: &CapabilityReason) {
    let reason = Some(reason.clone());
    match observed {
        ItemObserved::Gone => {}
        ItemObserved::Vm(vm) => vm.blocked = reason,
        ItemObserved::Volume(volume) => volume.blocked = reason,
        ItemObserved::Image { blocked, .. }
        | ItemObserved::Network { blocked, .. }
        | ItemObserved::SecurityGroup { blocked, .. }
        | ItemObserved::Router { blocked, .. } => *blocked = reason,
    }
}

/// A body that names something the manifest lacks.
fn incomplete(subject: String, missing: &str) -> CapabilityReason {
    CapabilityReason::new(
        "manifest_incomplete",
        subject,
        format!("it needs {missing}, and that is not in the host's manifest"),
        "this is a fault of the gateway; it sends the missing item with the next manifest",
    )
}
