//! The domains that libvirt has, ours and foreign ones, and the verbs on one of them.
//!
//! A listing is whole or an error: a domain that vanished while it was read is left out, anything else
//! that fails makes the listing fail, so that silence never reads as absence.

use super::{
    connection::{Connection, LibvirtError},
    motion,
    shape::{self, Shape},
    stamp::{self, Marks},
    xml::Element,
};
use basalt_model::VmId;
use basalt_plan::host::Transit;
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, path::PathBuf};
use uuid::Uuid;
use virt::{connect::Connect, domain::Domain as Handle, error::ErrorNumber, sys};

/// What a domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DomainState {
    /// It executes.
    Running,
    /// It is in memory and does not execute: somebody paused it, or its disk has no room. Resuming is the way out.
    Paused,
    /// libvirt has no word for it that we know.
    Unclear,
    /// The guest is on its way down.
    Stopping,
    /// It is defined and off.
    Off,
    /// It is off because QEMU died or the guest crashed.
    Crashed,
}

/// An interface of a domain that runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveNic {
    /// The tap device on the host.
    pub tap: String,
    /// MAC address.
    pub mac: String,
    /// The bridge it belongs on.
    pub bridge: String,
    /// `iface-id` on the switch.
    pub interface_id: String,
}

/// One domain as libvirt has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its UUID: the VM's id, if it is ours.
    pub uuid: Uuid,
    /// Its name on the host.
    pub name: String,
    /// What it does.
    pub state: DomainState,
    /// Whether it is on its way to or from another host.
    pub transit: Transit,
    /// Whether a definition outlives the run; a domain undefined by hand while running has none.
    pub persistent: bool,
    /// Whether libvirt would start it by itself.
    pub autostart: bool,
    /// What runs was made from this; `None` when it does not run or is foreign.
    pub live: Option<Marks>,
    /// What the next start is made from; `None` when it has no definition or is foreign.
    pub defined: Option<Marks>,
    /// Digest of its definition as libvirt writes it.
    pub definition: Option<String>,
    /// `kvm` or `tcg`, as it runs or would.
    pub accelerator: String,
    /// Interfaces with a tap.
    pub nics: Vec<LiveNic>,
    /// Files that its definition or its running form has as disks.
    pub files: BTreeSet<PathBuf>,
    /// The pseudo-terminal of the serial port while it runs.
    pub serial: Option<String>,
    /// What it is made of: of ours what the next start is made from, of a foreign one what runs.
    pub shape: Option<Shape>,
}

impl Domain {
    /// Whether QEMU has it in memory.
    pub fn is_active(&self) -> bool {
        !matches!(self.state, DomainState::Off | DomainState::Crashed)
    }
}

impl Connection {
    /// All domains.
    pub async fn domains(&self) -> Result<Vec<Domain>, LibvirtError> {
        self.look(|connect| {
            let mut domains = Vec::new();
            for handle in connect.list_all_domains(0)? {
                match read(&handle) {
                    Ok(domain) => domains.push(domain),
                    Err(error) if error.code() == ErrorNumber::NoDomain => {}
                    Err(error) => return Err(error),
                }
            }
            domains.sort_by_key(|domain| domain.uuid);
            Ok(domains)
        })
        .await
    }

    /// One domain; `None` if libvirt has none with that UUID.
    pub async fn domain(&self, id: VmId) -> Result<Option<Domain>, LibvirtError> {
        match self.look(move |connect| read(&lookup(connect, id)?)).await {
            Ok(domain) => Ok(Some(domain)),
            Err(LibvirtError::NoDomain(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// States alone, by UUID: cheap enough to be asked for every second.
    pub async fn states(&self) -> Result<Vec<(Uuid, u32, i32)>, LibvirtError> {
        self.call(|connect| {
            let mut states = Vec::new();
            for handle in connect.list_all_domains(0)? {
                match (handle.get_uuid(), handle.get_state()) {
                    (Ok(uuid), Ok((state, reason))) => states.push((uuid, state, reason)),
                    (_, Err(error)) | (Err(error), _) if error.code() == ErrorNumber::NoDomain => {}
                    (_, Err(error)) | (Err(error), _) => return Err(error),
                }
            }
            states.sort_unstable();
            Ok(states)
        })
        .await
    }

    /// Defines a domain from XML, or replaces its definition; what runs is not touched. Autostart is off.
    pub async fn define(&self, xml: String) -> Result<(), LibvirtError> {
        self.call(move |connect| {
            let domain = Handle::define_xml(connect, &xml)?;
            if domain.get_autostart()? {
                domain.set_autostart(false)?;
            }
            Ok(())
        })
        .await
    }

    /// Starts a defined domain. One that is active already is left as it is.
    pub async fn start(&self, id: VmId, paused: bool) -> Result<(), LibvirtError> {
        let flags = if paused { sys::VIR_DOMAIN_START_PAUSED } else { sys::VIR_DOMAIN_NONE };
        self.call(move |connect| {
            let domain = lookup(connect, id)?;
            if domain.is_active()? { Ok(()) } else { domain.create_with_flags(flags).map(drop) }
        })
        .await
    }

    /// Asks the guest to shut down (ACPI power button).
    pub async fn shutdown(&self, id: VmId) -> Result<(), LibvirtError> {
        self.call(move |connect| lookup(connect, id)?.shutdown().map(drop)).await
    }

    /// Ends QEMU. A domain that is off, or not there, is left as it is.
    pub async fn destroy(&self, id: VmId) -> Result<(), LibvirtError> {
        gone_is_fine(
            self.call(move |connect| {
                let domain = lookup(connect, id)?;
                if domain.is_active()? { domain.destroy() } else { Ok(()) }
            })
            .await,
        )
    }

    /// Forgets a domain that is off, with its saved state, snapshots' records and firmware variables.
    pub async fn undefine(&self, id: VmId) -> Result<(), LibvirtError> {
        let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
        gone_is_fine(
            self.call(move |connect| {
                let domain = lookup(connect, id)?;
                // The test driver knows no flags.
                domain.undefine_flags(flags).or_else(|_| domain.undefine())
            })
            .await,
        )
    }

    /// Stops the virtual CPUs.
    pub async fn suspend(&self, id: VmId) -> Result<(), LibvirtError> {
        self.call(move |connect| lookup(connect, id)?.suspend().map(drop)).await
    }

    /// Lets the virtual CPUs go on.
    pub async fn resume(&self, id: VmId) -> Result<(), LibvirtError> {
        self.call(move |connect| lookup(connect, id)?.resume().map(drop)).await
    }

    /// Asks the guest to restart (ACPI).
    pub async fn reboot(&self, id: VmId) -> Result<(), LibvirtError> {
        self.call(move |connect| lookup(connect, id)?.reboot(sys::VIR_DOMAIN_REBOOT_DEFAULT)).await
    }

    /// Pulls and releases the reset line.
    pub async fn reset(&self, id: VmId) -> Result<(), LibvirtError> {
        self.call(move |connect| lookup(connect, id)?.reset().map(drop)).await
    }
}

fn lookup(connect: &Connect, id: VmId) -> Result<Handle, virt::error::Error> {
    Handle::lookup_by_uuid(connect, id.0)
}

fn gone_is_fine(result: Result<(), LibvirtError>) -> Result<(), LibvirtError> {
    match result {
        Err(LibvirtError::NoDomain(_)) => Ok(()),
        other => other,
    }
}

fn read(handle: &Handle) -> Result<Domain, virt::error::Error> {
    let (state, reason) = handle.get_state()?;
    let transit = motion::transit(state, reason, || motion::has_job(handle));
    let state = judge_state(state, reason);
    let active = handle.is_active()?;
    let persistent = handle.is_persistent()?;
    let current = parse(&handle.get_xml_desc(0)?);
    let definition = match persistent {
        true => Some(handle.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?),
        false => None,
    };
    let defined = definition.as_deref().and_then(parse);
    let live = current.as_ref().filter(|_| active);
    let marks = defined.as_ref().and_then(stamp::read);
    let mut shape = defined.as_ref().filter(|_| marks.is_some()).or(current.as_ref()).map(shape::read);
    if let Some(shape) = shape.as_mut().filter(|_| persistent && handle.has_managed_save(0).unwrap_or(false))
    {
        shape.unsupported.push("a saved state, to which it would return".to_owned());
    }
    Ok(Domain {
        uuid: handle.get_uuid()?,
        name: handle.get_name()?,
        state,
        transit,
        persistent,
        autostart: handle.get_autostart().unwrap_or(false),
        live: live.and_then(stamp::read),
        defined: marks,
        definition: definition.map(|xml| hex::encode(Sha256::digest(xml))),
        shape,
        accelerator: current.as_ref().map(accelerator).unwrap_or_default(),
        files: current.iter().chain(&defined).flat_map(files).collect(),
        nics: live.map(live_nics).unwrap_or_default(),
        serial: live.and_then(|xml| xml.attribute_at("devices/serial/source", "path")).map(str::to_owned),
    })
}

/// A domain whose XML we cannot read is foreign: it is reported by name and left alone.
fn parse(xml: &str) -> Option<Element> {
    Element::parse(xml).inspect_err(|error| tracing::warn!(%error, "a domain's XML cannot be read")).ok()
}

fn accelerator(xml: &Element) -> String {
    match xml.attribute("type") {
        Some("qemu") => "tcg".to_owned(),
        other => other.unwrap_or_default().to_owned(),
    }
}

fn files(xml: &Element) -> Vec<PathBuf> {
    let Some(devices) = xml.get("devices") else { return Vec::new() };
    devices.all("disk").filter_map(|disk| disk.attribute_at("source", "file")).map(PathBuf::from).collect()
}

fn live_nics(xml: &Element) -> Vec<LiveNic> {
    let Some(devices) = xml.get("devices") else { return Vec::new() };
    let read = |nic: &Element| {
        Some(LiveNic {
            tap: nic.attribute_at("target", "dev")?.to_owned(),
            mac: nic.attribute_at("mac", "address")?.to_owned(),
            bridge: nic.attribute_at("source", "bridge")?.to_owned(),
            interface_id: nic.attribute_at("virtualport/parameters", "interfaceid")?.to_owned(),
        })
    };
    devices.all("interface").filter_map(read).collect()
}

fn judge_state(state: sys::virDomainState, reason: i32) -> DomainState {
    let because = |reasons: &[u32]| u32::try_from(reason).is_ok_and(|reason| reasons.contains(&reason));
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => DomainState::Running,
        // On its way up: a moment later it runs. Taken for paused, a domain that is adopted then would be paused.
        sys::VIR_DOMAIN_PAUSED if because(&[sys::VIR_DOMAIN_PAUSED_STARTING_UP]) => DomainState::Unclear,
        sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => DomainState::Paused,
        sys::VIR_DOMAIN_SHUTDOWN => DomainState::Stopping,
        sys::VIR_DOMAIN_SHUTOFF
            if because(&[sys::VIR_DOMAIN_SHUTOFF_CRASHED, sys::VIR_DOMAIN_SHUTOFF_FAILED]) =>
        {
            DomainState::Crashed
        }
        sys::VIR_DOMAIN_SHUTOFF => DomainState::Off,
        sys::VIR_DOMAIN_CRASHED => DomainState::Crashed,
        _ => DomainState::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h5_a_domain_on_its_way_up_is_not_paused() {
        let reason = |reason: u32| i32::try_from(reason).unwrap_or_default();
        let starting = reason(sys::VIR_DOMAIN_PAUSED_STARTING_UP);
        assert_eq!(judge_state(sys::VIR_DOMAIN_PAUSED, starting), DomainState::Unclear);
        let by_hand = reason(sys::VIR_DOMAIN_PAUSED_USER);
        assert_eq!(judge_state(sys::VIR_DOMAIN_PAUSED, by_hand), DomainState::Paused);
    }
}
