//! What a migration does to the two hosts that it is between, step by step: what hypervisors do, and what they do when it
//! breaks off. Simulated hosts are moved by it.

use super::{VmDefinition, VmSeen, World};
use crate::host::{PortSeen, PortState, Stamp, Transit};
use basalt_model::{DateTime, VmId, vms::ObservedPower};

/// A VM as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Traveller {
    id: VmId,
    name: String,
    executes: bool,
    defined: Option<Stamp>,
    running: Option<Stamp>,
    definition: VmDefinition,
}

impl Traveller {
    /// Whether it executed when it set out.
    pub fn executes(&self) -> bool {
        self.executes
    }
}

impl World {
    /// Lets what was left paused execute.
    pub fn resume(&mut self, id: VmId) -> bool {
        self.turn(id, ObservedPower::Paused, ObservedPower::Running)
    }

    fn vm_mut(&mut self, id: VmId) -> Result<&mut VmSeen, String> {
        self.observed.vms.items.get_mut(&id).ok_or_else(|| "there is no such VM".to_owned())
    }

    /// Source: it is being sent; it goes on meanwhile.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn begin_sending(&mut self, id: VmId) -> Result<Traveller, String> {
        let definition = self.running.get(&id).cloned().ok_or("it does not run")?;
        let vm = self.vm_mut(id)?;
        if vm.transit != Transit::Still {
            return Err("it is on a way already".into());
        }
        vm.transit = Transit::Sending;
        Ok(Traveller {
            id,
            name: vm.name.clone(),
            executes: vm.power == ObservedPower::Running,
            defined: vm.defined.clone(),
            running: vm.running.clone(),
            definition,
        })
    }

    /// Target: it is there to be filled, with its ports.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn begin_filling(&mut self, traveller: &Traveller, now: DateTime) -> Result<(), String> {
        if self.observed.vms.items.contains_key(&traveller.id) {
            return Err("there is such a VM already".into());
        }
        self.can_start(&traveller.definition)?;
        for nic in &traveller.definition.nics {
            let port = PortSeen { vm_id: traveller.id, state: PortState::Attached };
            self.observed.ports.items.insert(nic.port_id, port);
        }
        self.ports_moved();
        let vm = VmSeen {
            name: traveller.name.clone(),
            power: ObservedPower::Unknown,
            running: traveller.running.clone(),
            started_at: Some(now),
            accelerator: self.observed.capabilities.accelerator.clone(),
            transit: Transit::Held,
            ..VmSeen::default()
        };
        self.observed.vms.items.insert(traveller.id, vm);
        self.running.insert(traveller.id, traveller.definition.clone());
        self.users();
        Ok(())
    }

    /// Source: it executes no more, so that the last of it can be sent.
    ///
    /// # Errors
    /// It is not what it was.
    pub fn hold(&mut self, id: VmId) -> Result<(), String> {
        let vm = self.vm_mut(id)?;
        if vm.transit != Transit::Sending {
            return Err("it is not being sent any more".into());
        }
        (vm.transit, vm.power) = (Transit::Held, ObservedPower::Unknown);
        Ok(())
    }

    /// Target: all of it is there, and it does not execute.
    ///
    /// # Errors
    /// It is gone.
    pub fn end_filling(&mut self, traveller: &Traveller) -> Result<(), String> {
        let vm = self.vm_mut(traveller.id)?;
        match vm.transit {
            Transit::Held => vm.power = ObservedPower::Paused,
            Transit::PartHere => {}
            _ => return Err("it is not being filled any more".into()),
        }
        vm.transit = Transit::Still;
        vm.defined.clone_from(&traveller.defined);
        self.defined.insert(traveller.id, traveller.definition.clone());
        self.users();
        Ok(())
    }

    /// Source: it is gone, with its definition.
    ///
    /// # Errors
    /// It is not what it was.
    pub fn let_go(&mut self, id: VmId) -> Result<(), String> {
        if !matches!(self.vm_mut(id)?.transit, Transit::Held | Transit::PartThere) {
            return Err("it is not being sent any more".into());
        }
        self.stop(id, ObservedPower::Stopped);
        self.undefine(id);
        self.users();
        Ok(())
    }

    /// Source: it broke off, and it goes on as before. What executed elsewhere is not resumed.
    pub fn take_back(&mut self, traveller: &Traveller) {
        let power = if traveller.executes { ObservedPower::Running } else { ObservedPower::Paused };
        if let Ok(vm) = self.vm_mut(traveller.id)
            && matches!(vm.transit, Transit::Sending | Transit::Held)
        {
            (vm.transit, vm.power) = (Transit::Still, power);
        }
    }

    /// What came in of it in part is gone. Answers whether there was any.
    pub fn let_fall(&mut self, id: VmId) -> bool {
        let part = |vm: &VmSeen| matches!(vm.transit, Transit::Held | Transit::Stranded);
        if !self.observed.vms.items.get(&id).is_some_and(part) {
            return false;
        }
        self.stop(id, ObservedPower::Stopped);
        self.users();
        true
    }

    /// Both: from now on it executes at the target, with a part of its memory.
    pub fn split(&mut self, id: VmId, executes: bool) {
        if let Ok(vm) = self.vm_mut(id) {
            (vm.transit, vm.power) = match executes {
                true => (Transit::PartHere, ObservedPower::Running),
                false => (Transit::PartThere, ObservedPower::Unknown),
            };
        }
    }

    /// Both: the rest of its memory cannot be had any more.
    pub fn tear(&mut self, id: VmId) {
        if let Ok(vm) = self.vm_mut(id)
            && matches!(vm.transit, Transit::PartHere | Transit::PartThere)
        {
            (vm.transit, vm.power) = (Transit::Torn, ObservedPower::Paused);
        }
    }
}
