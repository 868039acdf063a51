//! What is seen of the machine. Each listing stands for itself: one that fails takes no other with it.

use super::{Parts, definitions::Definitions};
use crate::{
    Error,
    host::{
        facts, images,
        libvirt::{Domain, DomainState, LibvirtError, Marks, shape::ShapeDisk},
        ovs::{PortRow, SwitchView, sink},
        router, seed,
        storage::{Pools, volumes},
    },
};
use basalt_model::{
    CapabilityReason, DateTime, PortId, VmId,
    adoption::ForeignNic,
    hosts::{Foreign, HostFacts, Versions},
    vms::ObservedPower,
};
use basalt_plan::host::{
    Capabilities, DiskPlace, DiskShape, Observed, PortSeen, PortState, Section, Stamp, SwitchSeen, Transit,
    VmSeen, VmShape,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

impl Parts {
    pub(super) async fn observe(&self) -> Observed {
        let (domains, view) = tokio::join!(self.libvirt.domains(), self.switch.look());
        let facts = self.facts_with(&view).await;
        let mut strays = Vec::new();
        let switch = match &view {
            Err(error) => SwitchSeen::Unknown(error.to_string()),
            Ok(view) if !view.ready => SwitchSeen::Missing,
            Ok(view) => SwitchSeen::Ready { flows: self.switch.standing(view).await },
        };
        let networks = match &view {
            Err(error) => Section::failed(error.to_string()),
            Ok(view) => section(self.networks.look(view)),
        };
        let isolated = |tap: &str| sink::is_isolated(self.datapath, tap) && sink::is_up(tap);
        let routers = match &view {
            Err(error) => Section::failed(error.to_string()),
            Ok(view) => section(self.routers.look(view).await),
        };
        let ports = match (&domains, &view) {
            (Ok(domains), Ok(view)) => {
                strays.extend(stray_ports(view, domains));
                Section::complete(ports(domains, view, self.switch.bridge(), &isolated))
            }
            // Their marks stand on the bridge, so their flows are kept right whatever libvirt does (R35). Which VM lacks
            // a port is not known.
            (Err(_), Ok(view)) => Section::complete(ports(&[], view, self.switch.bridge(), &isolated)),
            (_, Err(error)) => Section::failed(error.to_string()),
        };
        let volumes = match &domains {
            Err(error) => Section::failed(format!("who uses them is not known: {error}")),
            Ok(domains) => {
                let listing = volumes::list(&self.pools, &users(domains));
                strays.extend(listing.strays);
                match listing.problems.is_empty() {
                    true => Section::complete(listing.volumes),
                    false => Section::partial(listing.volumes, listing.problems.join("; ")),
                }
            }
        };
        let vms = match &domains {
            Err(error) => Section::failed(error.to_string()),
            Ok(domains) => Section::complete(
                domains.iter().map(|d| (VmId(d.uuid), vm(d, &self.pools, &self.definitions))),
            ),
        };
        Observed {
            vms,
            volumes,
            images: section(images::list(&self.pools)),
            networks,
            ports,
            routers,
            seeds: section(
                seed::list(&self.pools).map(|keys| keys.into_iter().map(|key| (key, ())).collect()),
            ),
            switch,
            strays,
            doors: self.gate.open_doors(),
            capabilities: Capabilities::from(&facts),
        }
    }

    pub(super) async fn facts(&self) -> HostFacts {
        let view = self.switch.look().await;
        let mut facts = self.facts_with(&view).await;
        match self.libvirt.version().await {
            Ok(version) => facts.versions.libvirt = version,
            Err(error @ (LibvirtError::Late(_) | LibvirtError::Hangs)) => {
                let remedy =
                    "restart libvirtd, which is there and hangs; guests go on, and their network with them";
                facts.problems.push(problem("libvirt", &error.into(), remedy));
            }
            Err(error) => facts.problems.push(problem("libvirt", &error.into(), "start libvirtd")),
        }
        facts
    }

    async fn facts_with(&self, view: &Result<SwitchView, Error>) -> HostFacts {
        let cpu = facts::cpu::look();
        let (pools, mut problems) = self.pools.facts();
        let mut versions = Versions {
            agent: env!("CARGO_PKG_VERSION").into(),
            kernel: facts::kernel(),
            ..Versions::default()
        };
        let mut accelerators = Vec::new();
        match self.fixed().await {
            Ok(fixed) => {
                (versions.qemu, versions.openvswitch) = (fixed.qemu, fixed.openvswitch);
                accelerators = fixed.accelerators;
            }
            Err(error) => problems.push(problem("qemu", &error, "install QEMU and Open vSwitch on the host")),
        }
        let bridges = match view {
            Ok(view) => facts::bridges(&view.bridges, self.switch.bridge()),
            Err(error) => {
                problems.push(problem("openvswitch", error, "start ovsdb-server and ovs-vswitchd"));
                Vec::new()
            }
        };
        HostFacts {
            hostname: self.hostname.clone(),
            boot_id: facts::boot_id(),
            cpu_model: cpu.model,
            cpu_features: cpu.features,
            cores: cpu.cores,
            threads: cpu.threads,
            memory_bytes: facts::memory_bytes(),
            numa: facts::numa(),
            accelerators,
            uefi: facts::has_uefi(),
            pools,
            bridges,
            migration_address: self.gate.listen,
            tunnel_mtu: match self.tunnel_address {
                Some(address) => facts::device_of(address).await.and_then(|device| facts::mtu(&device)),
                None => None,
            },
            tunnel_address: self.tunnel_address,
            post_copy: facts::has_post_copy(&versions.qemu),
            routers: router::has_tools(),
            fencer: None,
            versions,
            foreign: Vec::new(),
            problems,
        }
    }
}

fn problem(service: &str, error: &Error, remedy: &'static str) -> CapabilityReason {
    CapabilityReason::new(
        "service_away",
        format!("host/{service}"),
        format!("{service} does not answer"),
        remedy,
    )
    .with_evidence(error.to_string())
}

fn section<K: Ord, V>(listed: Result<BTreeMap<K, V>, Error>) -> Section<K, V> {
    match listed {
        Ok(items) => Section::complete(items),
        Err(error) => Section::failed(error.to_string()),
    }
}

fn vm(domain: &Domain, pools: &Pools, definitions: &Definitions) -> VmSeen {
    let marks = || domain.live.iter().chain(&domain.defined);
    let stamp = |marks: &Option<Marks>| {
        marks.as_ref().filter(|m| m.vm_id.0 == domain.uuid).map(|m| m.stamp.clone()).unwrap_or_default()
    };
    VmSeen {
        name: domain.name.clone(),
        power: match domain.state {
            // What is here may be a part of it.
            _ if matches!(domain.transit, Transit::Held | Transit::PartThere) => ObservedPower::Unknown,
            _ if domain.transit == Transit::Torn => ObservedPower::Paused,
            DomainState::Running => ObservedPower::Running,
            DomainState::Paused => ObservedPower::Paused,
            DomainState::Stopping => ObservedPower::Stopping,
            DomainState::Unclear => ObservedPower::Unknown,
            DomainState::Off => ObservedPower::Stopped,
            DomainState::Crashed => ObservedPower::Crashed,
        },
        defined: domain.persistent.then(|| {
            let stamp = stamp(&domain.defined);
            // Whose definition a hand has altered is defined anew, and what libvirt starts by itself too.
            let is_altered = |digest: &String| definitions.is_altered(VmId(domain.uuid), digest);
            match domain.autostart || domain.definition.as_ref().is_some_and(is_altered) {
                true if stamp != Stamp::default() => Stamp { definition_hash: String::new(), ..stamp },
                _ => stamp,
            }
        }),
        running: domain.is_active().then(|| stamp(&domain.live)),
        started_at: domain.is_active().then(|| started_at(&domain.name)).flatten(),
        accelerator: domain.is_active().then(|| domain.accelerator.clone()),
        networks: marks().flat_map(|m| m.networks.iter().copied()).collect::<BTreeSet<_>>(),
        isos: marks().flat_map(|m| m.isos.iter().copied()).collect::<BTreeSet<_>>(),
        shape: shape(domain, pools).map(Arc::new),
        transit: domain.transit,
    }
}

/// What a domain is made of, in terms of pools and images; the seed is nobody's disk.
fn shape(domain: &Domain, pools: &Pools) -> Option<VmShape> {
    let read = domain.shape.as_ref()?;
    let marks = domain.defined.as_ref();
    let mut shape = VmShape {
        cpus: read.cpus,
        memory_bytes: read.memory_bytes,
        firmware: read.firmware,
        unsupported: read.unsupported.clone(),
        ..VmShape::default()
    };
    let is_seed = |path: &str| pools.declared().iter().any(|p| Path::new(path).starts_with(p.seeds()));
    let mut disks: Vec<(usize, DiskShape)> = Vec::new();
    for disk in read.disks.iter().filter(|d| !is_seed(&d.path)) {
        let place = place(disk, pools);
        shape.unsupported.extend(disk.unsupported.clone());
        if disk.is_disc && !matches!(place, DiskPlace::Iso(_)) {
            shape.unsupported.push(format!("the disc {} in a drive", disk.path));
            continue;
        }
        let at = marks.and_then(|m| m.disks.iter().position(|(_, of)| is_of(&place, *of)));
        let name = marks.zip(at).map(|(m, at)| m.disks[at].0.clone());
        let (path, format, boot_order) = (disk.path.clone(), disk.format.clone(), disk.boot_order);
        disks.push((at.unwrap_or(usize::MAX), DiskShape { name, path, format, boot_order, place }));
    }
    disks.sort_by_key(|(at, _)| *at);
    shape.disks = disks.into_iter().map(|(_, disk)| disk).collect();
    for (n, mac) in read.macs.iter().enumerate() {
        let nic = marks.and_then(|m| m.nics.get(n));
        shape.nics.push(ForeignNic {
            mac: mac.clone(),
            port_id: nic.map(|n| n.0),
            network_id: nic.map(|n| n.1),
            address: nic.and_then(|n| n.2),
        });
    }
    Some(shape)
}

fn is_of(place: &DiskPlace, of: uuid::Uuid) -> bool {
    match place {
        DiskPlace::Volume(key) => key.id.0 == of,
        DiskPlace::Iso(image) => image.0 == of,
        DiskPlace::File(..) | DiskPlace::Outside => false,
    }
}

fn place(disk: &ShapeDisk, pools: &Pools) -> DiskPlace {
    let path = Path::new(&disk.path);
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return DiskPlace::Outside };
    for pool in pools.declared() {
        if path.parent() == Some(&pool.volumes()) {
            let file = || DiskPlace::File(pool.name.clone(), name.to_owned());
            return volumes::parse(pool, name).map_or_else(file, DiskPlace::Volume);
        }
        if path.parent() == Some(&pool.images()) && disk.is_disc {
            return images::parse(name).map_or(DiskPlace::Outside, |file| DiskPlace::Iso(file.id));
        }
    }
    DiskPlace::Outside
}

/// libvirt writes QEMU's number into a file when it starts it, and never again.
fn started_at(name: &str) -> Option<DateTime> {
    let file = std::fs::metadata(format!("/run/libvirt/qemu/{name}.pid")).ok()?;
    Some(file.modified().ok()?.into())
}

/// Names of the domains that have a file as a disk.
fn users(domains: &[Domain]) -> BTreeMap<std::path::PathBuf, BTreeSet<String>> {
    let mut users: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for domain in domains {
        for file in &domain.files {
            users.entry(file.clone()).or_default().insert(domain.name.clone());
        }
    }
    users
}

/// Guests' ports: those of the switch, and those that running domains have and the switch lacks.
///
/// One whose device the kernel listens to counts as detached: it is put right in the same way.
fn ports(
    domains: &[Domain],
    view: &SwitchView,
    bridge: &str,
    isolated: &dyn Fn(&str) -> bool,
) -> BTreeMap<PortId, PortSeen> {
    let mut ports = BTreeMap::new();
    for row in &view.ports {
        let (Some(port_id), Some(vm_id)) = (row.port_id(), row.vm_id()) else { continue };
        let state = if row.number.is_some() { PortState::Attached } else { PortState::Stale };
        ports.insert(port_id, PortSeen { vm_id, state });
    }
    for domain in domains {
        for nic in domain.nics.iter().filter(|nic| nic.bridge == bridge) {
            let Ok(port_id) = nic.interface_id.parse::<PortId>() else { continue };
            let row = view.ports.iter().find(|row| row.name == nic.tap);
            let vm_id = VmId(domain.uuid);
            let marked = |row: &PortRow| {
                row.port_id() == Some(port_id) && row.external_ids.get("attached-mac") == Some(&nic.mac)
            };
            let state = match row {
                Some(row) if row.number.is_none() => PortState::Stale,
                Some(row) if marked(row) && isolated(&nic.tap) => PortState::Attached,
                // A row without our marks is put right in the same way as a missing one.
                _ => PortState::Detached,
            };
            // A row of a former life of the port must not hide what the running VM lacks.
            ports.insert(port_id, PortSeen { vm_id, state });
        }
    }
    ports
}

/// Ports of the bridge that are nobody's: neither a guest's, nor a network's or router's.
fn stray_ports(view: &SwitchView, domains: &[Domain]) -> Vec<Foreign> {
    let taps: BTreeSet<&str> =
        domains.iter().flat_map(|d| d.nics.iter().map(|nic| nic.tap.as_str())).collect();
    let stray = |row: &&PortRow| {
        let ours = row.port_id().is_some() || row.network_id().is_some() || row.router_id().is_some();
        !ours && !taps.contains(row.name.as_str())
    };
    let foreign = |row: &PortRow| Foreign {
        kind: "port".into(),
        name: row.name.clone(),
        id: row.external_ids.get("iface-id").cloned().unwrap_or_default(),
        detail: row.error.clone().unwrap_or_default(),
        ..Foreign::default()
    };
    view.ports.iter().filter(stray).map(foreign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::PoolConfig,
        host::libvirt::{LiveNic, Shape},
    };
    use basalt_model::pools::PoolKind;
    use basalt_plan::host::Stamp;
    use uuid::Uuid;

    fn domain(port: u128, tap: &str) -> Domain {
        Domain {
            uuid: Uuid::from_u128(1),
            name: "basalt-x".into(),
            state: DomainState::Running,
            transit: Transit::Still,
            persistent: false,
            autostart: false,
            definition: None,
            live: None,
            defined: None,
            accelerator: "tcg".into(),
            nics: vec![LiveNic {
                tap: tap.into(),
                mac: "02:00:00:00:00:01".into(),
                bridge: "br-int".into(),
                interface_id: Uuid::from_u128(port).to_string(),
            }],
            files: BTreeSet::new(),
            serial: None,
            shape: None,
        }
    }

    fn row(name: &str, number: Option<u32>, port: u128) -> PortRow {
        let ids = [
            ("iface-id", Uuid::from_u128(port).to_string()),
            ("vm-id", Uuid::from_u128(1).to_string()),
            ("attached-mac", "02:00:00:00:00:01".to_owned()),
        ];
        let external_ids = ids.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        PortRow { name: name.into(), number, error: None, external_ids }
    }

    fn state(rows: Vec<PortRow>, domains: &[Domain]) -> Option<PortState> {
        let view = SwitchView { ports: rows, ready: true, ..SwitchView::default() };
        ports(domains, &view, "br-int", &|tap| tap != "tapopen")
            .get(&PortId(Uuid::from_u128(9)))
            .map(|p| p.state)
    }

    #[test]
    fn n2_a_port_that_the_bridge_lost_or_has_without_a_device_is_seen() {
        let running = [domain(9, "tap9")];
        assert_eq!(state(vec![row("tap9", Some(4), 9)], &running), Some(PortState::Attached));
        assert_eq!(state(vec![], &running), Some(PortState::Detached));
        assert_eq!(state(vec![row("tap9", None, 9)], &running), Some(PortState::Stale));
        assert_eq!(state(vec![row("tap9", None, 9)], &[]), Some(PortState::Stale));
        let listened_to = [domain(9, "tapopen")];
        assert_eq!(state(vec![row("tapopen", Some(4), 9)], &listened_to), Some(PortState::Detached));
        let mut unmarked = row("tap9", Some(4), 9);
        unmarked.external_ids.clear();
        assert_eq!(state(vec![unmarked], &running), Some(PortState::Detached));
    }

    #[test]
    fn h5_the_disks_of_a_domain_of_ours_have_their_names_whatever_order_libvirt_gives_them() {
        let pool =
            PoolConfig { name: "default".parse().unwrap(), kind: PoolKind::Directory, path: "/pool".into() };
        let id = |n| Uuid::from_u128(n);
        let disk = |path: String, is_disc| ShapeDisk {
            path,
            format: "qcow2".into(),
            is_disc,
            boot_order: None,
            unsupported: None,
        };
        let read = Shape {
            disks: vec![
                disk(format!("/pool/volumes/{}.2.qcow2", id(12)), false),
                disk(format!("/pool/volumes/{}.0.qcow2", id(11)), false),
                disk("/pool/seeds/x.iso".into(), false),
                disk(format!("/pool/images/{}.{}.iso", id(13), "ab".repeat(32)), true),
                disk("/pool/volumes/hand.qcow2".into(), false),
                disk("/elsewhere/disc.iso".into(), true),
                disk("/elsewhere/disk.qcow2".into(), false),
            ],
            macs: vec!["02:00:00:00:00:01".into()],
            ..Shape::default()
        };
        let name = |text: &str| text.parse().unwrap();
        let marks = Marks {
            vm_id: VmId(id(1)),
            stamp: Stamp::default(),
            networks: BTreeSet::new(),
            isos: BTreeSet::new(),
            nics: vec![(PortId(id(9)), basalt_model::NetworkId(id(8)), None)],
            disks: vec![(name("root"), id(11)), (name("disc"), id(13)), (name("data"), id(12))],
        };
        let domain = Domain { shape: Some(read), defined: Some(marks), ..domain(9, "tap9") };
        let seen = shape(&domain, &Pools::new(&[pool], Path::new("/nowhere"))).unwrap();
        let names: Vec<_> = seen.disks.iter().map(|d| d.name.as_ref().map(|n| n.as_str())).collect();
        assert_eq!(names, [Some("root"), Some("disc"), Some("data"), None, None]);
        assert_eq!(seen.disks[3].place, DiskPlace::File(name("default"), "hand.qcow2".into()));
        assert_eq!(seen.disks[4].place, DiskPlace::Outside);
        assert_eq!(seen.unsupported, ["the disc /elsewhere/disc.iso in a drive"]);
        assert_eq!((seen.nics[0].port_id, seen.nics[0].address), (Some(PortId(id(9))), None));
    }

    #[test]
    fn h5_a_domain_without_marks_has_the_default_stamp() {
        let nowhere = Path::new("/nowhere");
        let seen = vm(&domain(9, "tap9"), &Pools::new(&[], nowhere), &Definitions::new(nowhere));
        assert_eq!((seen.defined, seen.running), (None, Some(Stamp::default())));
    }
}
