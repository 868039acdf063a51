//! What the agent writes into a domain's metadata, so that reality tells what it was made from.
//!
//! ```xml
//! <metadata>
//!   <basalt:vm xmlns:basalt="urn:basalt:vm:1" id="…" generation="3" epoch="1" incarnation="0"
//!              definition="sha256" seed="sha256">
//!     <basalt:nic port="…" network="…" address="…"/>
//!     <basalt:disk name="…" of="…"/>
//!     <basalt:iso image="…"/>
//!   </basalt:vm>
//! </metadata>
//! ```

use super::xml::Element;
use basalt_model::{Epoch, Generation, ImageId, Name, NetworkId, PortId, VmId};
use basalt_plan::host::{DiskSourceDefinition, Stamp, VmDefinition};
use std::{collections::BTreeSet, net::Ipv4Addr};
use uuid::Uuid;

/// Our XML namespace; the digit is the format's version.
pub const NAMESPACE: &str = "urn:basalt:vm:1";

/// What stands in a domain's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The VM; also the domain's UUID.
    pub vm_id: VmId,
    /// What it was made from.
    pub stamp: Stamp,
    /// Networks of its interfaces.
    pub networks: BTreeSet<NetworkId>,
    /// Images that it has as optical discs.
    pub isos: BTreeSet<ImageId>,
    /// Interfaces in order: port, network and, where it was written down, address.
    pub nics: Vec<(PortId, NetworkId, Option<Ipv4Addr>)>,
    /// Names of the disks in order, with the volume or image behind each: libvirt lists them in an order of its own.
    /// None in marks that were written before they were kept.
    pub disks: Vec<(Name, Uuid)>,
}

/// The marks of a definition, as an element that declares its namespace.
pub fn element(vm: &VmDefinition) -> Element {
    let nics = vm.nics.iter().map(|nic| {
        let element = Element::new("basalt:nic").attr("port", nic.port_id).attr("network", nic.network_id);
        element.attr("address", nic.address)
    });
    let disks = vm.disks.iter().map(|disk| {
        let of = match &disk.source {
            DiskSourceDefinition::Volume { id, .. } => id.0,
            DiskSourceDefinition::Iso(image) => image.0,
        };
        Element::new("basalt:disk").attr("name", &disk.name).attr("of", of)
    });
    let isos = vm.disks.iter().filter_map(|disk| match &disk.source {
        DiskSourceDefinition::Iso(image) => Some(Element::new("basalt:iso").attr("image", image)),
        DiskSourceDefinition::Volume { .. } => None,
    });
    Element::new("basalt:vm")
        .attr("xmlns:basalt", NAMESPACE)
        .attr("id", vm.id)
        .attr("generation", vm.generation.0)
        .attr("epoch", vm.epoch.0)
        .attr("incarnation", vm.incarnation)
        .attr("definition", &vm.hash)
        .attr("seed", &vm.seed_hash)
        .children(nics)
        .children(disks)
        .children(isos)
}

/// The marks in a domain's XML; `None` for a foreign domain or marks that cannot be read.
pub fn read(domain: &Element) -> Option<Marks> {
    let vm = domain.get("metadata")?.children.iter().find(|child| {
        let declaration = match child.name.split_once(':') {
            Some((prefix, _)) => format!("xmlns:{prefix}"),
            None => "xmlns".to_owned(),
        };
        local(child) == "vm" && child.attribute(&declaration) == Some(NAMESPACE)
    })?;
    let ids = |tag: &'static str, name: &'static str| {
        vm.children
            .iter()
            .filter(move |c| local(c) == tag)
            .filter_map(move |c| c.attribute(name)?.parse().ok())
    };
    let nic = |c: &Element| {
        let (port, network) = (c.attribute("port")?.parse().ok()?, c.attribute("network")?.parse().ok()?);
        Some((port, network, c.attribute("address").and_then(|a| a.parse().ok())))
    };
    let disk = |c: &Element| Some((c.attribute("name")?.parse().ok()?, c.attribute("of")?.parse().ok()?));
    let of = |tag: &'static str| vm.children.iter().filter(move |c| local(c) == tag);
    Some(Marks {
        nics: of("nic").filter_map(nic).collect(),
        disks: of("disk").filter_map(disk).collect(),
        vm_id: vm.attribute("id")?.parse().ok()?,
        stamp: Stamp {
            epoch: Epoch(vm.attribute("epoch")?.parse().ok()?),
            generation: Generation(vm.attribute("generation")?.parse().ok()?),
            incarnation: vm.attribute("incarnation")?.parse().ok()?,
            definition_hash: vm.attribute("definition")?.to_owned(),
            seed_hash: vm.attribute("seed")?.to_owned(),
        },
        networks: ids("nic", "network").map(NetworkId).collect(),
        isos: ids("iso", "image").map(ImageId).collect(),
    })
}

fn local(element: &Element) -> &str {
    element.name.rsplit(':').next().unwrap_or_default()
}
