//! A domain's whole definition as a value, and its XML (V11).
//!
//! Every path and choice is resolved before: building XML asks nothing and cannot fail on content, other
//! than on characters that XML cannot hold. The domain's UUID is the VM's id, and its name is made of it unless it
//! had one before it was adopted, so libvirt itself refuses a second domain of the same VM.

use super::{stamp, xml::Element};
use crate::Error;
use basalt_model::{PortId, VmId, vms::Firmware};
use basalt_plan::host::{NicDefinition, VmDefinition};
use std::path::{Path, PathBuf};

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Accelerator {
    /// The kernel's virtual machine monitor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accelerator {
    /// The word in facts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Format of a disk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// QEMU copy-on-write 2.
    Qcow2,
    /// Raw sectors.
    Raw,
}

impl Format {
    /// QEMU's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A file under an overlay; never written, never given to QEMU's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Where it is.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
}

/// A disk that the guest writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDisk {
    /// Where it is.
    pub path: PathBuf,
    /// What lies under it.
    pub backing: Option<Backing>,
    /// What the guest sees as the disk's serial number, at most 20 characters.
    pub serial: String,
    /// Whether the file system takes direct IO; else the host's page cache is used.
    pub direct_io: bool,
}

/// A disk of the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// A volume.
    Volume(VolumeDisk),
    /// A read-only optical disc.
    Iso(PathBuf),
}

/// Everything that a domain is made from: what is wanted, and where it is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The domain's name. libvirt renames no domain that runs, so one that was adopted keeps its own.
    pub name: String,
    /// What is wanted.
    pub vm: VmDefinition,
    /// What executes it.
    pub accelerator: Accelerator,
    /// Where the disks are, in the order of `vm.disks`.
    pub disks: Vec<Disk>,
    /// Where the seed is.
    pub seed: PathBuf,
    /// The bridge that interfaces are attached to.
    pub bridge: String,
    /// The userspace datapath reads taps without the virtio header: a packet with a partial checksum would be
    /// delivered with a wrong one, so there the guest must not be offered offloads.
    pub offloads: bool,
    /// Where what the guest writes to its serial port is kept.
    pub serial_log: PathBuf,
}

/// The name of a VM's domain, unless it was adopted under another.
pub fn domain_name(vm_id: VmId) -> String {
    format!("basalt-{vm_id}")
}

/// The tap device of a port: the same in every life, so that a stale row of the switch is never another port's.
pub fn tap_name(port_id: PortId) -> String {
    let hex = port_id.0.simple().to_string();
    format!("tap{}", &hex[hex.len() - 11..])
}

impl Definition {
    /// The domain's XML.
    ///
    /// # Errors
    /// When a path or name holds a character that XML cannot.
    pub fn render(&self) -> Result<String, Error> {
        self.domain().render()
    }

    fn domain(&self) -> Element {
        let kind = match self.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "qemu",
        };
        Element::new("domain")
            .attr("type", kind)
            .child(Element::new("name").text(&self.name))
            .child(Element::new("uuid").text(self.vm.id))
            .child(Element::new("title").text(&self.vm.name))
            .child(Element::new("metadata").child(stamp::element(&self.vm)))
            .child(Element::new("memory").attr("unit", "KiB").text(self.vm.memory_bytes / 1024))
            .child(Element::new("vcpu").text(self.vm.cpus))
            .child(self.os())
            .child(Element::new("features").child(Element::new("acpi")).child(Element::new("apic")))
            .child(self.cpu())
            .child(Element::new("clock").attr("offset", "utc"))
            // The agent alone decides what runs again; a reboot that the guest asks for stays inside QEMU.
            .child(Element::new("on_poweroff").text("destroy"))
            .child(Element::new("on_reboot").text("restart"))
            .child(Element::new("on_crash").text("destroy"))
            .child(self.devices())
    }

    fn os(&self) -> Element {
        // Under TCG the older machine boots a fifth faster; UEFI wants q35.
        let machine = match (self.accelerator, self.vm.firmware) {
            (Accelerator::Tcg, Firmware::Bios) => "pc",
            _ => "q35",
        };
        let kind = Element::new("type").attr("arch", "x86_64").attr("machine", machine).text("hvm");
        match self.vm.firmware {
            Firmware::Bios => Element::new("os").child(kind),
            // Left to itself libvirt takes the build with enrolled keys, which boots what is signed and nothing else.
            Firmware::Uefi => Element::new("os").attr("firmware", "efi").child(kind).child(
                Element::new("firmware")
                    .child(Element::new("feature").attr("enabled", "no").attr("name", "enrolled-keys"))
                    .child(Element::new("feature").attr("enabled", "no").attr("name", "secure-boot")),
            ),
        }
    }

    fn cpu(&self) -> Element {
        match self.accelerator {
            Accelerator::Kvm => Element::new("cpu").attr("mode", "host-passthrough").attr("migratable", "on"),
            Accelerator::Tcg => Element::new("cpu")
                .attr("mode", "custom")
                .attr("match", "exact")
                .child(Element::new("model").attr("fallback", "forbid").text("qemu64")),
        }
    }

    fn devices(&self) -> Element {
        let serial = Element::new("serial")
            .attr("type", "pty")
            .child(Element::new("log").attr("file", self.serial_log.display()).attr("append", "on"))
            .child(Element::new("target").attr("port", 0));
        let agent = Element::new("channel")
            .attr("type", "unix")
            .child(Element::new("target").attr("type", "virtio").attr("name", "org.qemu.guest_agent.0"));
        let vnc =
            Element::new("graphics").attr("type", "vnc").child(Element::new("listen").attr("type", "socket"));
        let random = Element::new("rng")
            .attr("model", "virtio")
            .child(Element::new("backend").attr("model", "random").text("/dev/urandom"));
        let balloon = Element::new("memballoon")
            .attr("model", "virtio")
            .child(Element::new("stats").attr("period", 10));
        Element::new("devices")
            .child(Element::new("emulator").text("/usr/bin/qemu-system-x86_64"))
            .children(self.disk_elements())
            .child(seed_element(&self.seed))
            .children(self.vm.nics.iter().map(|nic| self.nic_element(nic)))
            .child(serial)
            .child(agent)
            .child(vnc)
            .child(Element::new("video").child(Element::new("model").attr("type", "vga")))
            .child(balloon)
            .child(random)
    }

    fn disk_elements(&self) -> Vec<Element> {
        let (mut volumes, mut discs) = (b'a'..=b'y', b'a'..=b'y');
        let mut elements = Vec::new();
        for (disk, wanted) in self.disks.iter().zip(&self.vm.disks) {
            let element = match disk {
                Disk::Volume(volume) => volume_element(volume, volumes.next().unwrap_or(b'y')),
                Disk::Iso(path) => self.iso_element(path, discs.next().unwrap_or(b'y')),
            };
            elements
                .push(element.children(wanted.boot_order.map(|at| Element::new("boot").attr("order", at))));
        }
        elements
    }

    fn iso_element(&self, path: &Path, letter: u8) -> Element {
        let bus = if self.os().attribute_at("type", "machine") == Some("q35") { "sata" } else { "ide" };
        let prefix = if bus == "sata" { "sd" } else { "hd" };
        Element::new("disk")
            .attr("type", "file")
            .attr("device", "cdrom")
            .child(Element::new("driver").attr("name", "qemu").attr("type", "raw"))
            .child(shared_source(path))
            .child(target(prefix, letter, bus))
            .child(Element::new("readonly"))
    }

    fn nic_element(&self, nic: &NicDefinition) -> Element {
        let port = Element::new("virtualport")
            .attr("type", "openvswitch")
            .child(Element::new("parameters").attr("interfaceid", nic.port_id));
        let element = Element::new("interface")
            .attr("type", "bridge")
            .child(Element::new("mac").attr("address", &nic.mac))
            .child(Element::new("source").attr("bridge", &self.bridge))
            .child(port)
            .child(Element::new("target").attr("dev", tap_name(nic.port_id)))
            .child(Element::new("model").attr("type", "virtio"))
            .child(Element::new("mtu").attr("size", nic.mtu));
        if self.offloads { element } else { element.child(no_offloads()) }
    }
}

fn no_offloads() -> Element {
    let off = |tag: &str, names: &[&str]| names.iter().fold(Element::new(tag), |e, name| e.attr(name, "off"));
    Element::new("driver")
        .attr("name", "qemu")
        .child(off("host", &["csum", "gso", "tso4", "tso6", "ecn", "ufo", "mrg_rxbuf"]))
        .child(off("guest", &["csum", "tso4", "tso6", "ecn", "ufo"]))
}

fn volume_element(volume: &VolumeDisk, letter: u8) -> Element {
    let cache = if volume.direct_io { "none" } else { "writeback" };
    let driver = Element::new("driver")
        .attr("name", "qemu")
        .attr("type", Format::Qcow2.as_str())
        .attr("cache", cache)
        .attr("discard", "unmap");
    // The chain is written out, so that QEMU never guesses a format and libvirt never gives away a shared base.
    let backing = match &volume.backing {
        None => Element::new("backingStore"),
        Some(backing) => Element::new("backingStore")
            .attr("type", "file")
            .child(Element::new("format").attr("type", backing.format.as_str()))
            .child(shared_source(&backing.path))
            .child(Element::new("backingStore")),
    };
    Element::new("disk")
        .attr("type", "file")
        .attr("device", "disk")
        .child(driver)
        .child(Element::new("source").attr("file", volume.path.display()))
        .child(backing)
        .child(target("vd", letter, "virtio"))
        .child(Element::new("serial").text(&volume.serial))
}

fn seed_element(path: &Path) -> Element {
    // A virtio disk, because small guests carry no driver for an optical drive.
    Element::new("disk")
        .attr("type", "file")
        .attr("device", "disk")
        .child(Element::new("driver").attr("name", "qemu").attr("type", "raw"))
        .child(Element::new("source").attr("file", path.display()))
        .child(target("vd", b'z', "virtio"))
        .child(Element::new("readonly"))
}

/// A file that several guests may read: it keeps its owner.
fn shared_source(path: &Path) -> Element {
    let label = Element::new("seclabel").attr("model", "dac").attr("relabel", "no");
    Element::new("source").attr("file", path.display()).child(label)
}

fn target(prefix: &str, letter: u8, bus: &str) -> Element {
    Element::new("target").attr("dev", format!("{prefix}{}", char::from(letter))).attr("bus", bus)
}
