//! What a host says in the logs of tasks, and of which items: of the one that was worked on, and of those that wait for it.
//!
//! Only what is under way is spoken of: an item whose generation is realised and that takes no part in a migration has no
//! task that waits for it.

use basalt_model::{CapabilityReason, ImageId, VmId, VolumeId, migrations::MotionProgress};
use basalt_plan::host::{Action, Memory, Resource};
use basalt_wire::agent::{
    Desired, Item, ItemKey, ItemKind, Manifest,
    manifest::{DiskBodySource, VmBody},
    task_logs::LogSubject,
};
use uuid::Uuid;

/// Looks up who is to hear of something.
pub(crate) struct Hearers<'a> {
    pub manifest: &'a Manifest,
    pub memory: &'a Memory,
}

impl Hearers<'_> {
    /// An item, if it is under way.
    pub fn item(&self, key: ItemKey) -> Vec<LogSubject> {
        self.manifest.get(key.kind, key.id).into_iter().filter_map(|item| self.open(item)).collect()
    }

    /// The item that was worked on and those that wait for it.
    pub fn of(&self, resource: Resource, action: &Action) -> Vec<LogSubject> {
        let vm = |id: VmId| self.item(ItemKey { kind: ItemKind::Vm, id: id.0 });
        match (resource, action) {
            (_, Action::AbortSend { id, .. } | Action::ShutDoor { id, .. }) => vm(*id),
            (_, Action::OpenDoor(door)) => vm(door.id),
            (_, Action::EnsurePort(port)) => vm(port.vm_id),
            (Resource::Vm(id), _) => vm(id),
            (Resource::Switch | Resource::Flows, _) => self.vms(|_| true),
            (Resource::Network(id) | Resource::Names(id), _) => {
                self.with(ItemKind::Network, id.0, |vm| vm.nics.iter().any(|nic| nic.network_id == id))
            }
            (Resource::Image(id), _) => self.waiting_for_image(id),
            (Resource::Volume(id), _) => self.with(ItemKind::Volume, id.0, |vm| has(vm, id)),
            (Resource::Router(id), _) => self.item(ItemKey { kind: ItemKind::Router, id: id.0 }),
            (Resource::Port(_) | Resource::Motion(_), _) => Vec::new(),
        }
    }

    /// An item as lines name it, if it is under way.
    pub fn open(&self, item: &Item) -> Option<LogSubject> {
        let moves = matches!(&item.desired, Desired::Vm(body) if body.motion.is_some());
        let realised = self.memory.realised.get(&item.key()) == Some(&item.generation);
        let open = item.is_absent() || moves || !realised;
        open.then_some(LogSubject { kind: item.kind, id: item.id, generation: item.generation })
    }

    fn vms(&self, uses: impl Fn(&VmBody) -> bool) -> Vec<LogSubject> {
        let uses = |item: &&Item| matches!(&item.desired, Desired::Vm(body) if uses(body));
        self.manifest.items.iter().filter(uses).filter_map(|item| self.open(item)).collect()
    }

    fn with(&self, kind: ItemKind, id: Uuid, uses: impl Fn(&VmBody) -> bool) -> Vec<LogSubject> {
        let mut all = self.item(ItemKey { kind, id });
        all.extend(self.vms(uses));
        all
    }

    fn waiting_for_image(&self, id: ImageId) -> Vec<LogSubject> {
        let of_image = |item: &&Item| matches!(&item.desired, Desired::Volume(v) if v.image_id == Some(id));
        let volumes: Vec<&Item> = self.manifest.items.iter().filter(of_image).collect();
        let mut all = self.item(ItemKey { kind: ItemKind::Image, id: id.0 });
        all.extend(volumes.iter().filter_map(|item| self.open(item)));
        all.extend(self.vms(|vm| {
            let iso = vm.disks.iter().any(|disk| disk.source == DiskBodySource::Iso(id));
            iso || volumes.iter().any(|volume| has(vm, VolumeId(volume.id)))
        }));
        all
    }

    /// What a line about something other than the VM itself begins with.
    pub fn label(&self, resource: Resource) -> String {
        let (kind, id) = match resource {
            Resource::Network(id) | Resource::Names(id) => (ItemKind::Network, id.0),
            Resource::Image(id) => (ItemKind::Image, id.0),
            Resource::Volume(id) => (ItemKind::Volume, id.0),
            _ => return String::new(),
        };
        let name = match self.manifest.get(kind, id).map(|item| &item.desired) {
            Some(Desired::Network(body)) => body.name.to_string(),
            Some(Desired::Volume(body)) => body.name.to_string(),
            _ => id.to_string(),
        };
        format!("{} {name}: ", kind.as_str())
    }

    /// What was done; nothing of what nobody waits for by itself.
    pub fn done(&self, resource: Resource, action: &Action) -> Option<String> {
        let what = match action {
            Action::EnsureImage(image) => format!("fetched, {}", size(image.size_bytes)),
            Action::EnsureVolume(volume) => {
                let made = self.memory.made.get(&volume.key.id).is_some_and(|m| *m >= volume.key.incarnation);
                format!("{}, {}", if made { "grown" } else { "made" }, size(volume.size_bytes))
            }
            Action::AdoptVolume(adopted) => format!("the file {} was taken over", adopted.file),
            Action::EnsureNetwork(_) => "set up".into(),
            Action::RemoveImage(_) | Action::RemoveVolume(_) | Action::RemoveNetwork(_) => "removed".into(),
            Action::WriteSeed(_) => "seed written".into(),
            Action::DefineVm(vm) => format!("defined, {} CPUs, {}", vm.cpus, size(vm.memory_bytes)),
            Action::StartVm { paused: false, .. } => "started".into(),
            Action::StartVm { paused: true, .. } => "started, paused".into(),
            Action::ShutdownVm(_) => "the guest was asked to shut down".into(),
            Action::DestroyVm(_) => "forced off".into(),
            Action::PauseVm(_) => "paused".into(),
            Action::ResumeVm(_) => "resumed".into(),
            Action::RebootVm { .. } => "the guest was asked to restart".into(),
            Action::ResetVm { .. } => "reset".into(),
            Action::UndefineVm(_) => "definition removed".into(),
            Action::EnsurePort(port) => format!("port attached, {}", port.mac),
            Action::EnsureRouter(_) => "router set up".into(),
            Action::RemoveRouter(_) => "router removed".into(),
            Action::SendVm(send) => format!("handed over to host {}", send.target),
            Action::AbortSend { .. } => "nothing is sent any more".into(),
            Action::OpenDoor(door) => format!("ready to be taken in from host {}", door.source),
            Action::ShutDoor { .. } => "nothing is taken in any more".into(),
            Action::DiscardVm(_) => "what came in part was removed".into(),
            Action::EnsureSwitch
            | Action::EnsureFlows(_)
            | Action::EnsureNames(_)
            | Action::DropName(_)
            | Action::RemoveSeed(_)
            | Action::RemovePort(_) => return None,
        };
        Some(format!("{}{what}", self.label(resource)))
    }
}

fn has(vm: &VmBody, id: VolumeId) -> bool {
    vm.disks.iter().any(|disk| disk.source == DiskBodySource::Volume(id))
}

/// What is said before something that takes long.
pub(crate) fn begun(action: &Action) -> Option<String> {
    match action {
        Action::EnsureImage(image) => Some(format!("fetching {}", size(image.size_bytes))),
        Action::SendVm(send) => {
            let mode = format!("{:?}", send.mode).to_lowercase();
            Some(format!("sending it to host {}, {mode}", send.target))
        }
        _ => None,
    }
}

/// How far the sending of a VM is.
pub(crate) fn figures(seen: &MotionProgress) -> String {
    let mut text = format!(
        "{} sent, {} of {} left, {}/s, the guest writes {}/s, pass {}",
        size(seen.sent_bytes),
        size(seen.remaining_bytes),
        size(seen.total_bytes),
        size(seen.sent_bytes_per_second),
        size(seen.dirty_bytes_per_second),
        seen.passes
    );
    if let Some(pause) = seen.pause_milliseconds {
        text += &format!(", pause {pause} ms");
    }
    if seen.throttle_percent > 0 {
        text += &format!(", slowed down by {} %", seen.throttle_percent);
    }
    text
}

/// Why it is not so.
pub(crate) fn failure(label: &str, reason: &CapabilityReason) -> String {
    let evidence = match reason.evidence.as_str() {
        "" => String::new(),
        evidence => format!(" ({evidence})"),
    };
    format!("{label}{}{evidence}; {}", reason.message, reason.remedy)
}

/// What makes two failures the same: evidence may have a time in it.
pub(crate) fn same(reason: &CapabilityReason) -> String {
    format!("{}: {}", reason.code, reason.message)
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let whole = unit == 0 || value.fract() < 0.05;
    if whole { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}
