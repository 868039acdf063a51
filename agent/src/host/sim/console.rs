//! Simulated guests' consoles: each greets, and says again what is typed, for as long as its VM runs.

use super::SimHost;
use crate::{
    Error,
    host::console::{Console, Port, Ports},
};
use basalt_model::{CapabilityReason, VmId, vms::ObservedPower};
use basalt_plan::host::effect::World;
use basalt_wire::agent::console::Mode;
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Mutex, PoisonError},
};
use tokio::{
    io::{copy, duplex, split},
    sync::oneshot,
};

/// The guests that somebody talks to.
#[derive(Default)]
pub(super) struct Consoles {
    ports: Ports,
    /// Dropped with the VM's run, they end the guest's side.
    runs: Mutex<HashMap<VmId, oneshot::Sender<()>>>,
}

impl Consoles {
    /// Ends the consoles of VMs that run no more.
    pub(super) fn keep(&self, world: &World) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|id, run| runs_now(world, *id) && !run.is_closed());
    }

    fn join(&self, id: VmId) -> Result<Port, Error> {
        let open = || {
            let (device, guest) = duplex(1024);
            let (run, ended) = oneshot::channel::<()>();
            self.runs.lock().unwrap_or_else(PoisonError::into_inner).insert(id, run);
            tokio::spawn(async move {
                let (mut typed, mut screen) = split(guest);
                tokio::select! {
                    _ = copy(&mut typed, &mut screen) => {}
                    _ = ended => {}
                }
            });
            Ok::<_, Infallible>(split(device))
        };
        self.ports.join(id, open).map_err(|e| match e {})
    }
}

fn runs_now(world: &World, id: VmId) -> bool {
    world.observed.vms.items.get(&id).is_some_and(|vm| vm.power == ObservedPower::Running)
}

impl SimHost {
    pub(super) fn open_console(&self, id: VmId, mode: Mode) -> Result<Console, Error> {
        let port = match (mode, self.look(|world| runs_now(world, id))) {
            (Mode::Log, _) => None,
            (Mode::Attach, true) => Some(self.consoles.join(id)?),
            (Mode::Attach, false) => {
                let reason = CapabilityReason::new(
                    "not_running",
                    format!("vm/{id}"),
                    "the VM does not run",
                    "start it",
                );
                return Err(Error::refused(reason));
            }
        };
        Ok(Console { log: format!("simulated guest {id}\r\n").into(), port })
    }
}
