//! What is done on the machine: each action looks first, so that done twice it leaves what once leaves.

use super::Parts;
use crate::{
    Error,
    config::Datapath,
    host::{
        With, images,
        libvirt::{Backing, Definition, Disk, DomainState, Format, VolumeDisk, domain_name, tap_name},
        ovs::sink,
        seed,
        storage::{qcow2, volumes},
    },
};
use basalt_model::{CapabilityReason, Name, VmId, VolumeId, vms::Firmware};
use basalt_plan::host::{Action, DiskSourceDefinition, PortDefinition, SeedKey, VmDefinition, VolumeKey};

impl Parts {
    pub(super) async fn act(&self, action: &Action, with: &With) -> Result<(), Error> {
        match action {
            Action::EnsureSwitch => self.switch.ensure().await,
            Action::EnsureFlows(set) => self.switch.apply(set).await,
            Action::EnsureNetwork(network) => self.networks.ensure(network).await,
            Action::EnsureNames(names) => self.networks.name(names),
            Action::RemoveNetwork(id) => self.networks.remove(*id).await,
            Action::EnsureImage(image) => images::ensure(&self.pools, image, with, &*self.clock).await,
            Action::RemoveImage(id) => images::remove(&self.pools, *id),
            Action::EnsureVolume(volume) => volumes::ensure(&self.pools, volume).await,
            Action::AdoptVolume(adoption) => volumes::adopt(&self.pools, adoption),
            Action::DropName(adoption) => volumes::drop_name(&self.pools, adoption),
            Action::RemoveVolume(key) => volumes::remove(&self.pools, key),
            Action::WriteSeed(definition) => seed::write(&self.pools, definition),
            Action::RemoveSeed(key) => seed::remove(&self.pools, key),
            Action::DefineVm(vm) => self.define(vm).await,
            Action::StartVm { id, paused } => self.start(*id, *paused).await,
            Action::ShutdownVm(id) => Ok(self.libvirt.shutdown(*id).await?),
            Action::DestroyVm(id) => Ok(self.libvirt.destroy(*id).await?),
            Action::PauseVm(id) => Ok(self.libvirt.suspend(*id).await?),
            Action::ResumeVm(id) => Ok(self.libvirt.resume(*id).await?),
            Action::RebootVm { id, .. } => Ok(self.libvirt.reboot(*id).await?),
            Action::ResetVm { id, .. } => Ok(self.libvirt.reset(*id).await?),
            Action::UndefineVm(id) => self.undefine(*id).await,
            Action::EnsurePort(port) => self.attach(port).await,
            Action::RemovePort(id) => self.switch.remove_port(*id).await,
            Action::EnsureRouter(router) => self.routers.ensure(router).await,
            Action::RemoveRouter(id) => self.routers.remove(*id).await,
            Action::SendVm(send) => self.send(send, with).await,
            Action::AbortSend { id, migration_id } => self.abort(*id, *migration_id).await,
            Action::OpenDoor(door) => self.gate.open(door),
            Action::ShutDoor { id, migration_id } => {
                self.gate.shut(*id, *migration_id);
                Ok(())
            }
            Action::DiscardVm(id) => self.discard(*id).await,
        }
    }

    async fn define(&self, vm: &VmDefinition) -> Result<(), Error> {
        if vm.firmware == Firmware::Uefi && !crate::host::facts::has_uefi() {
            return Err(Error::refused(CapabilityReason::new(
                "no_uefi",
                "spec.firmware",
                "this host has no UEFI firmware for guests",
                "install the package ovmf on the host, or use bios",
            )));
        }
        let disks = vm.disks.iter().map(|disk| self.disk(&disk.source)).collect::<Result<_, _>>()?;
        let stands = self.libvirt.domain(vm.id).await?;
        let definition = Definition {
            name: stands.map_or_else(|| domain_name(vm.id), |domain| domain.name),
            vm: vm.clone(),
            accelerator: self.accelerator().await?,
            disks,
            seed: seed::path(&self.pools, &SeedKey { vm_id: vm.id, hash: vm.seed_hash.clone() })?,
            bridge: self.switch.bridge().to_owned(),
            offloads: self.datapath == Datapath::System,
            serial_log: self.serial_log(vm.id),
        };
        self.definitions.forget(vm.id)?;
        self.libvirt.define(definition.render()?).await?;
        match self.libvirt.domain(vm.id).await?.and_then(|domain| domain.definition) {
            Some(digest) => self.definitions.keep(vm.id, &digest),
            None => Ok(()),
        }
    }

    fn disk(&self, source: &DiskSourceDefinition) -> Result<Disk, Error> {
        match source {
            DiskSourceDefinition::Volume { id, incarnation, pool } => self.volume(*id, *incarnation, pool),
            DiskSourceDefinition::Iso(image) => match images::find(self.pools.first()?, *image)? {
                Some(path) => Ok(Disk::Iso(path)),
                None => Err(Error::host("defining", format!("image {image} is not in the cache"))),
            },
        }
    }

    fn volume(&self, id: VolumeId, incarnation: i64, pool: &Name) -> Result<Disk, Error> {
        let pool = self.pools.here(pool)?;
        let path = volumes::path(pool, &VolumeKey { id, incarnation, pool: pool.name.clone() });
        let head = qcow2::read(&path).map_err(|e| Error::state(&path, e))?;
        let backing = head.backing.map(|file| {
            // The name was written by us when the overlay was made; its suffix is its format.
            let format = if file.ends_with(".raw") { Format::Raw } else { Format::Qcow2 };
            Backing { path: file.into(), format }
        });
        // Guests show at most 20 characters; the end of a UUIDv7 is the part that differs.
        let hex = id.0.simple().to_string();
        let serial = hex[hex.len() - 20..].to_owned();
        Ok(Disk::Volume(VolumeDisk { path, backing, serial, direct_io: pool.direct_io() }))
    }

    async fn start(&self, id: VmId, paused: bool) -> Result<(), Error> {
        // A power cut leaves rows without devices, and libvirt then fails to attach the new ones.
        self.switch.purge_stale(id).await?;
        // No instruction of the guest is executed before its devices are where they belong.
        self.libvirt.start(id, true).await?;
        let domain = self.libvirt.domain(id).await?;
        for nic in domain.iter().flat_map(|d| &d.nics) {
            sink::isolate(self.datapath, &nic.tap).await?;
        }
        match domain.is_some_and(|d| d.state == DomainState::Paused) && !paused {
            true => Ok(self.libvirt.resume(id).await?),
            false => Ok(()),
        }
    }

    async fn undefine(&self, id: VmId) -> Result<(), Error> {
        self.libvirt.undefine(id).await?;
        self.definitions.forget(id)?;
        let log = self.serial_log(id);
        crate::host::storage::files::remove(&log)
    }

    pub(super) async fn attach(&self, port: &PortDefinition) -> Result<(), Error> {
        let domain = self.libvirt.domain(port.vm_id).await?;
        let nics = domain.map(|d| d.nics).unwrap_or_default();
        let wanted = port.port_id.to_string();
        let Some(nic) = nics.iter().find(|nic| nic.interface_id == wanted) else {
            let why = format!("VM {} runs no device {}", port.vm_id, tap_name(port.port_id));
            return Err(Error::host("attaching a port", why));
        };
        sink::isolate(self.datapath, &nic.tap).await?;
        sink::raise(&nic.tap).await?;
        self.switch.ensure_port(&nic.tap, port.port_id, port.vm_id, &port.mac).await
    }
}
