//! Adoption: whether something that stands on a host and in no manifest can be taken over, and as what.
//!
//! What is taken over is declared as it is, so that nothing on the host has to change for it: a VM runs on, a
//! file keeps its bytes. Whatever a declaration cannot say is a refusal, and all refusals are said at once.

use basalt_model::{
    CapabilityReason, Epoch, Name, Validate, VmId,
    adoption::{
        AdoptedDisk, AdoptedNic, AdoptedSource, AdoptedVm, AdoptedVolume, ForeignDisk, ForeignNic, ForeignVm,
        ForeignVolume, Known, Named,
    },
    hosts::Foreign,
    vms::{DiskSource, DiskSpec, Firmware, NicSpec, ObservedPower, PlacementRules, Power, VmSpec},
    volumes::{VolumeSource, VolumeSpec},
};
use basalt_wire::{
    agent::manifest::is_mac,
    rest::{Adopt, AdoptKind},
};
use std::collections::BTreeMap;

/// What was judged.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<T> {
    /// It can be had: this is it.
    Yes(T),
    /// It cannot: every reason.
    No(Vec<CapabilityReason>),
}

/// Seconds that an adopted guest is given to shut down: what a declared one is given.
const STOP_GRACE_SECONDS: u32 = 60;

/// The thing that a request means, among what a host reports.
pub fn find<'a>(request: &Adopt, host: &Name, foreign: &'a [Foreign]) -> Verdict<&'a Foreign> {
    let kind = request.kind.as_str();
    let of_kind: Vec<&Foreign> = foreign.iter().filter(|f| f.kind == kind).collect();
    let meant = |f: &&&Foreign| f.name == request.id || !f.id.is_empty() && f.id == request.id;
    let found: Vec<&Foreign> = of_kind.iter().filter(meant).copied().collect();
    let names = |of: &[&Foreign]| of.iter().take(10).map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
    match found.as_slice() {
        [one] => Verdict::Yes(one),
        [] => Verdict::No(vec![
            CapabilityReason::new(
                "not_reported",
                format!("host/{host}"),
                format!("the host reports no foreign {kind} {:?}", request.id),
                "give the id or the name that facts.foreign of the host has; a new thing is reported within a minute",
            )
            .with_evidence(format!("foreign there: {}", names(&of_kind))),
        ]),
        several => Verdict::No(vec![
            CapabilityReason::new(
                "ambiguous",
                format!("host/{host}"),
                format!("several foreign {kind}s of the host are called {:?}", request.id),
                "give the name that facts.foreign of the host has",
            )
            .with_evidence(names(several)),
        ]),
    }
}

/// What must be known of the truth before something is judged.
pub fn named(request: &Adopt, found: &Foreign) -> Named {
    let mut named = Named { network: request.network.clone(), ..Named::default() };
    let disks = found.vm.iter().flat_map(|vm| &vm.disks);
    let volumes = disks.clone().filter_map(|d| d.volume.as_ref()).chain(&found.volume);
    for volume in volumes {
        named.ids.extend(volume.volume_id.map(|v| v.0));
        named.images.extend(volume.image_id);
    }
    named.images.extend(disks.filter_map(|d| d.iso_image_id));
    if let Some(vm) = &found.vm {
        named.ids.extend(found.id.parse::<VmId>().ok().map(|v| v.0));
        named.networks.extend(vm.nics.iter().filter_map(|n| n.network_id));
    }
    named
}

/// Judges a VM.
pub fn vm(request: &Adopt, host: &Name, found: &Foreign, known: &Known) -> Verdict<AdoptedVm> {
    let mut case = Case::new(AdoptKind::Vm, host, found, known);
    let (Some(seen), Ok(id)) = (&found.vm, found.id.parse::<VmId>()) else {
        return Verdict::No(vec![case.undescribed()]);
    };
    case.is_free(id.0);
    let power = case.power(seen.power);
    for what in &seen.unsupported {
        case.refuse(
            "device_unsupported",
            format!("it has {what}, which a VM of Basalt cannot have"),
            "take it out of the definition, start the VM anew, and adopt it then",
        );
    }
    if seen.firmware == Firmware::Uefi && seen.marks.is_none() {
        case.refuse(
            "uefi_variables",
            "it boots with UEFI, and its firmware's variables cannot be taken over",
            "undefine it, adopt its disks as volumes, and declare a VM with firmware uefi over them",
        );
    }
    let disks: Vec<(AdoptedDisk, DiskSource)> =
        seen.disks.iter().enumerate().filter_map(|(n, disk)| case.disk(request, n, disk)).collect();
    let nics: Vec<AdoptedNic> =
        seen.nics.iter().filter_map(|nic| case.nic(request.network.as_ref(), nic)).collect();
    let spec = spec(seen, power, &disks, &nics);
    // Disks and interfaces that were refused are missing from it: that says nothing of the machine.
    if case.reasons.is_empty() {
        let mut errors = Vec::new();
        spec.validate("spec", &mut errors);
        case.reasons.extend(errors.into_iter().map(CapabilityReason::from));
    }
    case.verdict(AdoptedVm {
        id,
        name: request.name.clone(),
        spec,
        incarnation: seen.marks.map_or(0, |m| m.incarnation),
        epoch: seen.marks.map_or(Epoch(1), |m| m.epoch.max(Epoch(1))),
        disks: disks.into_iter().map(|d| d.0).collect(),
        nics,
    })
}

/// Judges a file of a pool.
pub fn volume(request: &Adopt, host: &Name, found: &Foreign, known: &Known) -> Verdict<AdoptedVolume> {
    let mut case = Case::new(AdoptKind::Volume, host, found, known);
    let Some(seen) = &found.volume else { return Verdict::No(vec![case.undescribed()]) };
    match case.volume(request.name.clone(), seen, None) {
        Some(volume) => case.verdict(volume),
        None => Verdict::No(case.reasons),
    }
}

/// What a VM is, as a user would declare it.
fn spec(seen: &ForeignVm, power: Power, disks: &[(AdoptedDisk, DiskSource)], nics: &[AdoptedNic]) -> VmSpec {
    let disk = |(disk, source): &(AdoptedDisk, DiskSource)| DiskSpec {
        name: disk.name.clone(),
        source: source.clone(),
        size_bytes: None,
        pool: None,
        boot_order: disk.boot_order,
    };
    VmSpec {
        security_groups: vec![],
        power,
        cpus: seen.cpus,
        memory_bytes: seen.memory_bytes,
        disks: disks.iter().map(disk).collect(),
        nics: nics
            .iter()
            .map(|n| NicSpec { network: n.network.clone(), address: None, security_groups: vec![] })
            .collect(),
        cloud_init: Default::default(),
        firmware: seen.firmware,
        placement: PlacementRules::default(),
        ha: Default::default(),
        protected: false,
        stop_grace_seconds: STOP_GRACE_SECONDS,
    }
}

/// One thing that is judged.
struct Case<'a> {
    /// `vm/handmade`
    subject: String,
    host: &'a Name,
    found: &'a Foreign,
    known: &'a Known,
    reasons: Vec<CapabilityReason>,
}

impl<'a> Case<'a> {
    fn new(kind: AdoptKind, host: &'a Name, found: &'a Foreign, known: &'a Known) -> Self {
        let subject = format!("{}/{}", kind.as_str(), found.name);
        Self { subject, host, found, known, reasons: Vec::new() }
    }

    fn refuse(&mut self, code: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.reasons.push(CapabilityReason::new(code, self.subject.clone(), message, remedy));
    }

    fn verdict<T>(self, yes: T) -> Verdict<T> {
        if self.reasons.is_empty() { Verdict::Yes(yes) } else { Verdict::No(self.reasons) }
    }

    fn undescribed(&self) -> CapabilityReason {
        let message = format!("the agent of host {} does not say what it is made of", self.host);
        let remedy =
            "bring the host's agent to the gateway's version; of a file, make sure that it is a regular one";
        CapabilityReason::new("not_described", self.subject.clone(), message, remedy)
    }

    /// Refuses what is declared already, and what two hosts have.
    fn is_free(&mut self, id: uuid::Uuid) {
        if self.known.ids.contains(&id) {
            self.refuse(
                "already_ours",
                format!("{id} is declared already, or still going"),
                "look for it in its project; when it is being deleted, wait until it is gone",
            );
        } else if let Some(other) = &self.known.elsewhere {
            self.refuse(
                "on_two_hosts",
                format!("host {other} reports {id} too"),
                "find out which of the two is the right one, and remove the other by hand",
            );
        }
    }

    /// The power that leaves everything as it is.
    fn power(&mut self, seen: ObservedPower) -> Power {
        match seen {
            ObservedPower::Running => Power::Running,
            ObservedPower::Paused => Power::Paused,
            ObservedPower::Stopped | ObservedPower::Crashed => Power::Stopped,
            ObservedPower::Stopping | ObservedPower::Absent | ObservedPower::Unknown => {
                let seen = format!("{seen:?}").to_lowercase();
                self.refuse(
                    "power_unclear",
                    format!("whether it is to run cannot be told: it is {seen}"),
                    "wait until it runs or is off, then adopt it",
                );
                Power::Stopped
            }
        }
    }

    fn disk(&mut self, request: &Adopt, n: usize, disk: &ForeignDisk) -> Option<(AdoptedDisk, DiskSource)> {
        let name = disk.name.clone().or_else(|| disk_name(n))?;
        let path = &disk.path;
        let (behind, source) = if let Some(image) = disk.iso_image_id {
            let Some(Some(named)) = self.known.images.get(&image).cloned() else {
                self.refuse(
                    "image_unknown",
                    format!("its disc {path} is image {image}, which the project does not have"),
                    "take the disc out of the drive, or adopt the VM into the project that has the image",
                );
                return None;
            };
            (AdoptedSource::Iso(image), DiskSource::Iso { image: named })
        } else if let Some(seen) = &disk.volume {
            if disk.format != seen.format {
                self.refuse(
                    "disk_format",
                    format!("it reads its disk {path} as {}, and the file is {}", disk.format, seen.format),
                    "convert the file to qcow2 with qemu-img while the VM is off, and say so in its definition",
                );
            }
            let volume = volume_name(&request.name, &name)?;
            let adopted = self.volume(volume.clone(), seen, Some(&self.found.name))?;
            (AdoptedSource::Volume(adopted), DiskSource::Volume { volume })
        } else {
            self.refuse(
                "disk_outside_pools",
                format!("its disk {path} lies in no pool of the host"),
                "stop the VM, move the file into the directory `volumes` of a pool, say so in its definition, and start it",
            );
            return None;
        };
        Some((AdoptedDisk { name, boot_order: disk.boot_order, source: behind }, source))
    }

    /// A file that becomes a volume. `user`: the VM that it goes with.
    fn volume(&mut self, name: Name, seen: &ForeignVolume, user: Option<&str>) -> Option<AdoptedVolume> {
        let before = self.reasons.len();
        let at = format!("{}/{}", seen.pool, seen.file);
        if let Some(id) = seen.volume_id {
            self.is_free(id.0);
        }
        if self.known.files.contains(&(seen.pool.clone(), seen.file.clone())) {
            self.refuse(
                "already_ours",
                format!("a volume was made of the file {at}"),
                "look for that volume; if this is another file of the same name, rename it first",
            );
        }
        if seen.format != "qcow2" {
            self.refuse(
                "disk_format",
                format!("the file {at} is no qcow2"),
                "convert it with qemu-img convert -O qcow2 while nothing has it",
            );
        }
        if let Some(other) = &seen.refers_to {
            self.refuse(
                "disk_refers_to_another_file",
                format!("the file {at} is not whole without {other}"),
                "make one file of both with qemu-img convert -O qcow2 while nothing has it",
            );
        }
        let others: Vec<&str> = seen.users.iter().map(String::as_str).filter(|u| Some(*u) != user).collect();
        if !others.is_empty() {
            self.refuse(
                "volume_in_use",
                format!("the file {at} belongs to {}", others.join(", ")),
                match user {
                    Some(_) => "give every VM a file of its own",
                    None => "adopt that VM, and its disks with it",
                },
            );
        }
        if seen.image_id.is_some_and(|image| self.known.images.get(&image) == Some(&None)) {
            self.refuse(
                "image_unknown",
                format!("the file {at} lies over an image of another project"),
                "adopt it into the project that has the image",
            );
        }
        // An image that the truth does not have any more stays in the host's cache for as long as a file lies over it.
        let image_id = seen.image_id.filter(|image| self.known.images.contains_key(image));
        let source = VolumeSource::Adopted { file: seen.file.clone() };
        let spec = VolumeSpec { size_bytes: seen.size_bytes, source, pool: Some(seen.pool.clone()) };
        (self.reasons.len() == before).then(|| AdoptedVolume {
            id: seen.volume_id,
            name,
            spec,
            pool: seen.pool.clone(),
            image_id,
            incarnation: seen.incarnation,
        })
    }

    fn nic(&mut self, wanted: Option<&Name>, nic: &ForeignNic) -> Option<AdoptedNic> {
        let networks: &BTreeMap<_, _> = &self.known.networks;
        let network = match wanted {
            Some(name) => networks.iter().find(|(_, n)| *n == name),
            None => nic.network_id.and_then(|id| networks.get_key_value(&id)),
        };
        let Some((network_id, network)) = network.map(|(id, name)| (*id, name.clone())) else {
            match wanted {
                Some(name) => self.refuse(
                    "network_unknown",
                    format!("there is no network {name} in the project"),
                    "give the name of an existing network, or create it first",
                ),
                None => self.refuse(
                    "network_required",
                    format!("its interface {} belongs to no network of the project", nic.mac),
                    "give the network that its interfaces are to be on",
                ),
            }
            return None;
        };
        let same = nic.network_id == Some(network_id);
        Some(AdoptedNic {
            network_id,
            network,
            port_id: nic.port_id.filter(|_| same),
            mac: Some(nic.mac.clone()).filter(|mac| is_mac(mac)),
            address: nic.address.filter(|_| same),
        })
    }
}

/// `root`, `disk-2`, `disk-3` …
fn disk_name(n: usize) -> Option<Name> {
    let text = if n == 0 { "root".to_owned() } else { format!("disk-{}", n + 1) };
    Name::new(text).ok()
}

/// `web-1-root`, or, where that is longer than a name may be, the beginning of the VM's name and the disk's.
fn volume_name(vm: &Name, disk: &Name) -> Option<Name> {
    let room = 62_usize.saturating_sub(disk.as_str().len()).max(1);
    let vm: String = vm.as_str().chars().take(room).collect();
    Name::new(format!("{vm}-{disk}")).or_else(|_| Name::new(disk.as_str())).ok()
}

#[cfg(test)]
#[path = "adoption_tests.rs"]
mod tests;
