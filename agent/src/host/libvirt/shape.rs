//! What a domain is made of, read out of its XML: all that adopting it needs, and what of it Basalt cannot have.
//!
//! Source of the format: libvirt's "Domain XML format". What every domain of ours has too (a keyboard, a screen, a
//! serial port …) is passed over: it is replaced by ours at the next start, and no guest's data hangs on it.

use super::xml::Element;
use basalt_model::vms::Firmware;

/// What a domain is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Firmware.
    pub firmware: Firmware,
    /// Disks and discs that have a file, in order.
    pub disks: Vec<ShapeDisk>,
    /// MAC addresses of its interfaces, in order.
    pub macs: Vec<String>,
    /// What Basalt cannot have, in words; that of disks stands with them.
    pub unsupported: Vec<String>,
}

/// A disk or disc of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeDisk {
    /// Its file.
    pub path: String,
    /// How it is read.
    pub format: String,
    /// Whether it is an optical disc.
    pub is_disc: bool,
    /// Position in the boot order.
    pub boot_order: Option<u32>,
    /// What Basalt cannot have of it, in words.
    pub unsupported: Option<String>,
}

/// Devices that every domain has, or that carry nothing of the guest's.
const PASSED_OVER: &[&str] = &[
    "audio",
    "channel",
    "console",
    "controller",
    "emulator",
    "graphics",
    "hub",
    "input",
    "memballoon",
    "panic",
    "parallel",
    "redirdev",
    "rng",
    "serial",
    "sound",
    "video",
    "watchdog",
];

/// Reads a domain's XML.
pub fn read(domain: &Element) -> Shape {
    let mut shape = Shape {
        cpus: number(domain.get("vcpu")).and_then(|n| n.try_into().ok()).unwrap_or_default(),
        memory_bytes: domain.get("memory").and_then(bytes).unwrap_or_default(),
        firmware: firmware(domain),
        ..Shape::default()
    };
    machine(domain, &mut shape);
    for device in domain.get("devices").iter().flat_map(|devices| &devices.children) {
        match device.name.as_str() {
            "disk" => disk(device, &mut shape),
            "interface" => interface(device, &mut shape),
            name if PASSED_OVER.contains(&name) => {}
            name => shape.unsupported.push(format!("a device {name}")),
        }
    }
    shape
}

fn number(element: Option<&Element>) -> Option<u64> {
    element?.text.parse().ok()
}

fn bytes(element: &Element) -> Option<u64> {
    let factor: u64 = match element.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        _ => return None,
    };
    number(Some(element))?.checked_mul(factor)
}

fn firmware(domain: &Element) -> Firmware {
    let asked = domain.attribute_at("os", "firmware") == Some("efi");
    match asked || domain.attribute_at("os/loader", "type") == Some("pflash") {
        true => Firmware::Uefi,
        false => Firmware::Bios,
    }
}

fn machine(domain: &Element, shape: &mut Shape) {
    let kind = domain.get("os/type").map_or("", |t| t.text.as_str());
    let arch = domain.attribute_at("os/type", "arch").unwrap_or("x86_64");
    if kind != "hvm" || arch != "x86_64" {
        shape.unsupported.push(format!("a machine of type {kind} {arch}"));
    }
    if domain.get("os/kernel").is_some() {
        shape.unsupported.push("a kernel that the host gives it".to_owned());
    }
}

fn disk(device: &Element, shape: &mut Shape) {
    let target = device.attribute_at("target", "dev").unwrap_or("?");
    let kind = device.attribute("device").unwrap_or("disk");
    let of = device.attribute("type").unwrap_or("?");
    let Some((source, path)) = device.get("source").and_then(|s| Some((s, s.attribute("file")?))) else {
        // A drive without a disc in it has a source without a file, or none.
        let is_empty = of == "file" || device.get("source").is_none();
        if !is_empty {
            shape.unsupported.push(format!("a {kind} {target} of type {of}"));
        }
        return;
    };
    let bus = device.attribute_at("target", "bus").unwrap_or("?");
    let has = |tag: &str| device.get(tag).is_some() || source.get(tag).is_some();
    let unsupported = match kind {
        "cdrom" => None,
        "disk" if bus != "virtio" => Some(format!("a disk {target} on bus {bus}")),
        "disk" => {
            let marks = ["readonly", "shareable", "transient", "encryption"];
            marks.iter().find(|mark| has(mark)).map(|mark| format!("a disk {target} that is {mark}"))
        }
        other => Some(format!("a {other} {target}")),
    };
    shape.disks.push(ShapeDisk {
        path: path.to_owned(),
        format: device.attribute_at("driver", "type").unwrap_or("raw").to_owned(),
        is_disc: kind == "cdrom",
        boot_order: device.attribute_at("boot", "order").and_then(|o| o.parse().ok()),
        unsupported,
    });
}

fn interface(device: &Element, shape: &mut Shape) {
    let mac = device.attribute_at("mac", "address").unwrap_or_default().to_lowercase();
    let kind = device.attribute("type").unwrap_or("?");
    let model = device.attribute_at("model", "type").unwrap_or("?");
    if ["hostdev", "vdpa", "vhostuser"].contains(&kind) {
        shape.unsupported.push(format!("an interface {mac} of type {kind}"));
    } else if model != "virtio" {
        shape.unsupported.push(format!("an interface {mac} of model {model}"));
    }
    shape.macs.push(mac);
}
