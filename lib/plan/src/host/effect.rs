//! What each action does to a host without faults, and what the world does to a host: the meaning
//! of [`Action`] as a pure function. Simulated hosts and tests are built on it.

mod motion;

pub use motion::Traveller;

use super::{
    Action, AdoptionDefinition, DiskPlace, DiskShape, DiskSourceDefinition, DoorSeen, ImageSeen, NetworkSeen,
    Observed, PortSeen, PortState, RouterSeen, Section, Stamp, SwitchSeen, Transit, VmDefinition, VmSeen,
    VmShape, VolumeDefinition, VolumeKey, VolumeSeen,
};
use basalt_model::{DateTime, PortId, VmId, adoption::ForeignNic, hosts::Foreign, vms::ObservedPower};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A host without faults.
#[derive(Clone, Debug)]
pub struct World {
    /// What is on it; every listing is complete.
    pub observed: Observed,
    /// Guests that do not listen to ACPI.
    pub deaf: BTreeSet<VmId>,
    /// Stored definitions.
    defined: BTreeMap<VmId, VmDefinition>,
    /// What runs was started with.
    running: BTreeMap<VmId, VmDefinition>,
    /// Restarts that guests saw.
    pub restarts: BTreeMap<VmId, u32>,
}

/// Something that happens to a host without being asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// QEMU dies.
    Kill(VmId),
    /// Somebody destroys the VM and undefines it.
    Erase(VmId),
    /// Somebody undefines the VM; what runs goes on.
    Undefine(VmId),
    /// Somebody pauses it.
    Pause(VmId),
    /// Somebody starts it.
    Start(VmId),
    /// Somebody takes the port from the bridge.
    DropPort(PortId),
    /// Somebody wipes the flows.
    WipeFlows,
    /// Somebody deletes the bridge.
    DropSwitch,
    /// All DHCP servers die.
    KillDhcp,
    /// Somebody deletes the routers' namespaces.
    DropRouters,
    /// Somebody deletes the seeds.
    DropSeeds,
    /// The host's power fails and comes back.
    PowerCut,
}

impl World {
    /// An empty host that can do what `capabilities` says.
    pub fn new(capabilities: super::Capabilities) -> Self {
        let observed = Observed {
            vms: Section::complete([]),
            volumes: Section::complete([]),
            images: Section::complete([]),
            networks: Section::complete([]),
            ports: Section::complete([]),
            routers: Section::complete([]),
            seeds: Section::complete([]),
            switch: SwitchSeen::Missing,
            strays: Vec::new(),
            doors: BTreeMap::new(),
            capabilities,
        };
        Self {
            observed,
            deaf: BTreeSet::new(),
            defined: BTreeMap::new(),
            running: BTreeMap::new(),
            restarts: BTreeMap::new(),
        }
    }

    /// Carries out an action; answers whether anything changed.
    ///
    /// # Errors
    /// Why it cannot be; nothing was done then.
    pub fn act(&mut self, action: &Action, now: DateTime) -> Result<bool, String> {
        match action {
            Action::EnsureSwitch
            | Action::EnsureFlows(_)
            | Action::EnsureNetwork(_)
            | Action::EnsureNames(_)
            | Action::RemoveNetwork(_)
            | Action::EnsureRouter(_)
            | Action::RemoveRouter(_) => {
                return self.act_network(action);
            }
            Action::EnsurePort(port) => return self.attach(port.port_id),
            Action::RemovePort(id) => {
                let stale =
                    matches!(self.observed.ports.items.get(id), Some(p) if p.state == PortState::Stale);
                return Ok(stale && self.observed.ports.items.remove(id).is_some());
            }
            Action::EnsureImage(image) => {
                let seen = ImageSeen { sha256: image.sha256.clone(), ready: true };
                return Ok(self.observed.images.items.insert(image.id, seen.clone()) != Some(seen));
            }
            Action::RemoveImage(id) => {
                if let Some((key, _)) =
                    self.observed.volumes.items.iter().find(|(_, v)| v.image_id == Some(*id))
                {
                    return Err(format!("volume {} lies over it", key.id));
                }
                return Ok(self.observed.images.items.remove(id).is_some());
            }
            Action::EnsureVolume(volume) => return self.ensure_volume(volume),
            Action::AdoptVolume(adoption) => return self.adopt_volume(adoption),
            Action::DropName(adoption) => {
                let volume = self.observed.volumes.items.get_mut(&adoption.key);
                return Ok(volume.is_some_and(|v| v.aliases.remove(&adoption.file)));
            }
            Action::RemoveVolume(key) => return self.remove_volume(key),
            Action::WriteSeed(seed) => return Ok(self.observed.seeds.items.insert(seed.key(), ()).is_none()),
            Action::RemoveSeed(key) => return Ok(self.observed.seeds.items.remove(key).is_some()),
            _ => {}
        }
        let changed = self.act_vm(action, now);
        self.users();
        changed
    }

    fn act_network(&mut self, action: &Action) -> Result<bool, String> {
        if *action == Action::EnsureSwitch {
            let missing = self.observed.switch == SwitchSeen::Missing;
            if missing {
                self.observed.switch = SwitchSeen::Ready { flows: None };
            }
            return Ok(missing);
        }
        let SwitchSeen::Ready { flows } = &mut self.observed.switch else {
            return Err("there is no bridge".into());
        };
        match action {
            Action::EnsureFlows(set) => Ok(flows.replace(set.hash.clone()).as_ref() != Some(&set.hash)),
            Action::EnsureNetwork(network) => {
                let seen = self.observed.networks.items.entry(network.id).or_default();
                let wanted =
                    NetworkSeen { hash: network.hash.clone(), running: true, names: seen.names.clone() };
                Ok(std::mem::replace(seen, wanted.clone()) != wanted)
            }
            Action::EnsureNames(names) => {
                let seen =
                    self.observed.networks.items.get_mut(&names.id).ok_or("there is no such network")?;
                Ok(seen.names.replace(names.hash.clone()).as_ref() != Some(&names.hash))
            }
            Action::RemoveNetwork(id) => Ok(self.observed.networks.items.remove(id).is_some()),
            Action::EnsureRouter(router) => {
                let there = |p: &super::RouterPort| self.observed.networks.items.contains_key(&p.network_id);
                if let Some(port) = router.interfaces.iter().find(|p| !there(p)) {
                    return Err(format!("network {} is not set up", port.network_id));
                }
                let seen = RouterSeen {
                    hash: router.hash.clone(),
                    running: true,
                    active: router.preferred || router.peer.is_none(),
                    ports: router.interfaces.iter().map(|p| p.name.clone()).collect(),
                };
                let before = self.observed.routers.items.insert(router.id, seen.clone());
                if before.as_ref().map(|b| &b.ports) != Some(&seen.ports) {
                    self.ports_moved();
                }
                Ok(before != Some(seen))
            }
            Action::RemoveRouter(id) => Ok(self.observed.routers.items.remove(id).is_some()),
            _ => Ok(false),
        }
    }

    fn attach(&mut self, id: PortId) -> Result<bool, String> {
        let port = self.observed.ports.items.get_mut(&id).ok_or("no such device")?;
        match port.state {
            PortState::Attached => Ok(false),
            PortState::Stale => Err("no such device".into()),
            PortState::Detached => {
                port.state = PortState::Attached;
                self.ports_moved();
                Ok(true)
            }
        }
    }

    /// Ports have other numbers now: the flows that stand mean something else.
    fn ports_moved(&mut self) {
        if let SwitchSeen::Ready { flows } = &mut self.observed.switch {
            *flows = None;
        }
    }

    fn ensure_volume(&mut self, volume: &VolumeDefinition) -> Result<bool, String> {
        if let Some(image) = &volume.image {
            let ready = self.observed.images.items.get(&image.id).is_some_and(|i| i.ready);
            if !ready {
                return Err(format!("image {} is not in the cache", image.id));
            }
        }
        let seen = self.observed.volumes.items.entry(volume.key.clone());
        let mut made = false;
        let seen = seen.or_insert_with(|| {
            made = true;
            VolumeSeen {
                file: file_name(&volume.key),
                image_id: volume.image.as_ref().map(|i| i.id),
                ..VolumeSeen::default()
            }
        });
        if seen.size_bytes >= volume.size_bytes {
            return Ok(made);
        }
        if !seen.users.is_empty() {
            return Err("it is in use".into());
        }
        seen.size_bytes = volume.size_bytes;
        Ok(true)
    }

    fn adopt_volume(&mut self, adoption: &AdoptionDefinition) -> Result<bool, String> {
        let AdoptionDefinition { key, file } = adoption;
        if self.observed.volumes.items.contains_key(key) {
            return Ok(false);
        }
        let is_it = |f: &Foreign| f.volume.as_ref().is_some_and(|v| v.pool == key.pool && v.file == *file);
        let at = self.observed.strays.iter().position(is_it).ok_or("there is no such file")?;
        let found = self.observed.strays.remove(at).volume.ok_or("there is no such file")?;
        let seen = VolumeSeen {
            file: file_name(key),
            aliases: [file.clone()].into(),
            size_bytes: found.size_bytes,
            image_id: found.image_id,
            users: found.users,
        };
        self.observed.volumes.items.insert(key.clone(), seen);
        Ok(true)
    }

    fn remove_volume(&mut self, key: &VolumeKey) -> Result<bool, String> {
        match self.observed.volumes.items.get(key) {
            Some(volume) if !volume.users.is_empty() => Err(format!("{:?} have it", volume.users)),
            _ => Ok(self.observed.volumes.items.remove(key).is_some()),
        }
    }

    fn act_vm(&mut self, action: &Action, now: DateTime) -> Result<bool, String> {
        match action {
            Action::DefineVm(definition) => Ok(self.define(definition)),
            Action::StartVm { id, paused } => self.start(*id, *paused, now),
            Action::ShutdownVm(id) => {
                let hears = self.power(*id) == ObservedPower::Running && !self.deaf.contains(id);
                Ok(hears && self.stop(*id, ObservedPower::Stopped))
            }
            Action::DestroyVm(id) => Ok(self.stop(*id, ObservedPower::Stopped)),
            Action::PauseVm(id) => Ok(self.turn(*id, ObservedPower::Running, ObservedPower::Paused)),
            Action::ResumeVm(id) => Ok(self.turn(*id, ObservedPower::Paused, ObservedPower::Running)),
            Action::RebootVm { id, .. } | Action::ResetVm { id, .. } => {
                if self.power(*id) != ObservedPower::Running {
                    return Err("it does not run".into());
                }
                *self.restarts.entry(*id).or_default() += 1;
                Ok(true)
            }
            Action::UndefineVm(id) => Ok(self.undefine(*id)),
            Action::DiscardVm(id) => Ok(self.let_fall(*id)),
            Action::SendVm(_) => Err("a migration takes two hosts".into()),
            Action::OpenDoor(door) => {
                let seen = DoorSeen { migration_id: door.migration_id, resume: door.resume };
                Ok(self.observed.doors.insert(door.id, seen) != Some(seen))
            }
            Action::ShutDoor { id, migration_id } => {
                let this = self.observed.doors.get(id).is_some_and(|d| d.migration_id == *migration_id);
                Ok(this && self.observed.doors.remove(id).is_some())
            }
            _ => Ok(false),
        }
    }

    fn power(&self, id: VmId) -> ObservedPower {
        self.observed.vms.items.get(&id).map_or(ObservedPower::Absent, |v| v.power)
    }

    fn define(&mut self, definition: &VmDefinition) -> bool {
        let stamp = Stamp {
            epoch: definition.epoch,
            generation: definition.generation,
            incarnation: definition.incarnation,
            definition_hash: definition.hash.clone(),
            seed_hash: definition.seed_hash.clone(),
        };
        let vm = self.observed.vms.items.entry(definition.id).or_insert_with(|| VmSeen {
            name: format!("basalt-{}", definition.id),
            power: ObservedPower::Stopped,
            ..VmSeen::default()
        });
        vm.shape = Some(Arc::new(shape(definition)));
        self.defined.insert(definition.id, definition.clone());
        vm.defined.replace(stamp.clone()) != Some(stamp)
    }

    fn start(&mut self, id: VmId, paused: bool, now: DateTime) -> Result<bool, String> {
        if self.observed.vms.items.get(&id).is_some_and(|v| v.running.is_some()) {
            return Ok(false);
        }
        let definition = self.defined.get(&id).cloned().ok_or("it is not defined")?;
        self.can_start(&definition)?;
        for nic in &definition.nics {
            let port = PortSeen { vm_id: id, state: PortState::Attached };
            self.observed.ports.items.insert(nic.port_id, port);
        }
        self.ports_moved();
        let accelerator = self.observed.capabilities.accelerator.clone();
        if let Some(vm) = self.observed.vms.items.get_mut(&id) {
            vm.running.clone_from(&vm.defined);
            vm.power = if paused { ObservedPower::Paused } else { ObservedPower::Running };
            vm.transit = Transit::Still;
            vm.started_at = Some(now);
            vm.accelerator = accelerator;
        }
        self.running.insert(id, definition);
        Ok(true)
    }

    /// Whether all is there that a VM needs to be in memory here.
    fn can_start(&self, definition: &VmDefinition) -> Result<(), String> {
        let id = definition.id;
        if !matches!(self.observed.switch, SwitchSeen::Ready { .. }) && !definition.nics.is_empty() {
            return Err("there is no bridge".into());
        }
        for key in disks(definition) {
            let volume = self.observed.volumes.items.get(&key);
            let ready = volume.is_some_and(|v| {
                v.image_id.is_none_or(|i| self.observed.images.items.get(&i).is_some_and(|i| i.ready))
            });
            if !ready {
                return Err(format!("volume {} cannot be opened", key.id));
            }
        }
        let mut seeds = self.observed.seeds.items.keys();
        if !seeds.any(|s| s.vm_id == id && s.hash == definition.seed_hash) {
            return Err("its seed is not there".into());
        }
        let stale =
            |p: &PortId| self.observed.ports.items.get(p).is_some_and(|p| p.state == PortState::Stale);
        if definition.nics.iter().any(|n| stale(&n.port_id)) {
            return Err("its port is already on the bridge".into());
        }
        Ok(())
    }

    fn stop(&mut self, id: VmId, power: ObservedPower) -> bool {
        let Some(vm) = self.observed.vms.items.get_mut(&id) else { return false };
        let ran = vm.running.take().is_some()
            || !matches!(vm.power, ObservedPower::Stopped | ObservedPower::Crashed);
        if !ran {
            return false;
        }
        vm.power = power;
        vm.transit = Transit::Still;
        vm.started_at = None;
        vm.accelerator = None;
        if vm.defined.is_none() {
            self.forget(id);
        }
        self.running.remove(&id);
        self.observed.ports.items.retain(|_, p| p.vm_id != id || p.state == PortState::Stale);
        self.ports_moved();
        true
    }

    fn turn(&mut self, id: VmId, from: ObservedPower, to: ObservedPower) -> bool {
        match self.observed.vms.items.get_mut(&id) {
            Some(vm) if vm.power == from => {
                vm.power = to;
                true
            }
            _ => false,
        }
    }

    fn undefine(&mut self, id: VmId) -> bool {
        self.defined.remove(&id);
        let Some(vm) = self.observed.vms.items.get_mut(&id) else { return false };
        let was = vm.defined.take().is_some();
        if vm.running.is_none() {
            self.forget(id);
            return true;
        }
        was
    }

    /// Nothing of it is left, so it has no disk either, whatever it is called.
    fn forget(&mut self, id: VmId) {
        if let Some(vm) = self.observed.vms.items.remove(&id) {
            self.observed.volumes.items.values_mut().for_each(|v| {
                v.users.remove(&vm.name);
            });
        }
    }

    /// Who has which volume, network and image.
    fn users(&mut self) {
        for (id, vm) in &mut self.observed.vms.items {
            let forms: Vec<_> = [self.defined.get(id), self.running.get(id)].into_iter().flatten().collect();
            if forms.is_empty() {
                continue;
            }
            vm.networks = forms.iter().flat_map(|d| &d.nics).map(|n| n.network_id).collect();
            let sources = forms.iter().flat_map(|d| &d.disks).map(|d| &d.source);
            vm.isos = sources
                .filter_map(|s| match s {
                    DiskSourceDefinition::Iso(image) => Some(*image),
                    DiskSourceDefinition::Volume { .. } => None,
                })
                .collect();
        }
        let name = |id: &VmId| self.observed.vms.items.get(id).map(|vm| vm.name.clone());
        let known: BTreeSet<String> =
            self.defined.keys().chain(self.running.keys()).filter_map(name).collect();
        for (key, volume) in &mut self.observed.volumes.items {
            let mut forms = self.defined.values().chain(self.running.values());
            volume.users.retain(|user| !user.starts_with("basalt-") && !known.contains(user));
            while let Some(form) = forms.find(|d| disks(d).any(|k| k == *key)) {
                volume.users.extend(self.observed.vms.items.get(&form.id).map(|vm| vm.name.clone()));
            }
        }
    }

    /// Lets something happen.
    pub fn suffer(&mut self, mishap: &Mishap, now: DateTime) {
        match mishap {
            Mishap::Kill(id) => drop(self.stop(*id, ObservedPower::Crashed)),
            Mishap::Erase(id) => {
                self.stop(*id, ObservedPower::Stopped);
                self.undefine(*id);
            }
            Mishap::Undefine(id) => drop(self.undefine(*id)),
            Mishap::Pause(id) => drop(self.turn(*id, ObservedPower::Running, ObservedPower::Paused)),
            Mishap::Start(id) => drop(self.start(*id, false, now)),
            Mishap::DropPort(id) => {
                if let Some(port) =
                    self.observed.ports.items.get_mut(id).filter(|p| p.state == PortState::Attached)
                {
                    port.state = PortState::Detached;
                    self.ports_moved();
                }
            }
            Mishap::WipeFlows => self.ports_moved(),
            Mishap::DropSwitch => {
                self.observed.switch = SwitchSeen::Missing;
                self.observed.networks.items.values_mut().for_each(|n| n.running = false);
                self.unplug_routers();
                self.observed.ports.items.retain(|_, p| p.state != PortState::Stale);
                self.observed.ports.items.values_mut().for_each(|p| p.state = PortState::Detached);
            }
            Mishap::KillDhcp => self.observed.networks.items.values_mut().for_each(|n| n.running = false),
            Mishap::DropRouters => self.observed.routers.items.values_mut().for_each(|r| r.running = false),
            Mishap::DropSeeds => self.observed.seeds.items.clear(),
            Mishap::PowerCut => self.power_cut(),
        }
        self.users();
    }

    fn power_cut(&mut self) {
        self.observed.ports.items.values_mut().for_each(|p| p.state = PortState::Stale);
        for id in self.observed.vms.items.keys().copied().collect::<Vec<_>>() {
            self.stop(id, ObservedPower::Stopped);
        }
        self.ports_moved();
        self.observed.networks.items.values_mut().for_each(|n| n.running = false);
        self.unplug_routers();
    }

    fn unplug_routers(&mut self) {
        for router in self.observed.routers.items.values_mut() {
            router.running = false;
            router.ports.clear();
        }
    }
}

/// What a host would read out of a definition of ours.
fn shape(definition: &VmDefinition) -> VmShape {
    let disk = |disk: &super::DiskDefinition| {
        let (path, place) = match &disk.source {
            DiskSourceDefinition::Volume { id, incarnation, pool } => {
                let key = VolumeKey { id: *id, incarnation: *incarnation, pool: pool.clone() };
                (format!("/{pool}/{}", file_name(&key)), DiskPlace::Volume(key))
            }
            DiskSourceDefinition::Iso(image) => (format!("/images/{image}.iso"), DiskPlace::Iso(*image)),
        };
        let (name, boot_order) = (Some(disk.name.clone()), disk.boot_order);
        DiskShape { name, path, format: "qcow2".into(), boot_order, place }
    };
    let nic = |nic: &super::NicDefinition| ForeignNic {
        mac: nic.mac.clone(),
        port_id: Some(nic.port_id),
        network_id: Some(nic.network_id),
        address: Some(nic.address),
    };
    VmShape {
        cpus: definition.cpus,
        memory_bytes: definition.memory_bytes,
        firmware: definition.firmware,
        disks: definition.disks.iter().map(disk).collect(),
        nics: definition.nics.iter().map(nic).collect(),
        unsupported: Vec::new(),
    }
}

fn file_name(key: &VolumeKey) -> String {
    format!("{}.{}.qcow2", key.id, key.incarnation)
}

fn disks(definition: &VmDefinition) -> impl Iterator<Item = VolumeKey> + '_ {
    definition.disks.iter().filter_map(|disk| match &disk.source {
        DiskSourceDefinition::Volume { id, incarnation, pool } => {
            Some(VolumeKey { id: *id, incarnation: *incarnation, pool: pool.clone() })
        }
        DiskSourceDefinition::Iso(_) => None,
    })
}
