//! Manifests and a driver that carries plans out on a [`World`].

use crate::host::{effect::World, *};
use basalt_model::{
    DateTime, Epoch, Generation, HostId, ImageId, Name, NetworkId, PortId, TaskId, VmId, VolumeId,
    images::ImageFormat,
    networks::Segment,
    vms::{Firmware, Operation, OperationVerb, Power},
};
use basalt_wire::agent::{
    Desired, Item, ItemKey, ItemKind, Manifest,
    manifest::{
        DiskBody, DiskBodySource, FORMAT, ImageBody, NetworkBody, NicBody, SeedBody, VmBody, VolumeBody,
    },
};
use chrono::TimeDelta;
use std::{collections::BTreeMap, net::Ipv4Addr};
use uuid::Uuid;

pub fn at(seconds: i64) -> DateTime {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}
pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}
pub fn id(kind: u8, n: u8) -> Uuid {
    Uuid::from_u128((u128::from(kind) << 8) | u128::from(n) | (7 << 76))
}
pub fn vm_id(n: u8) -> VmId {
    VmId(id(3, n))
}
pub fn volume_id(n: u8) -> VolumeId {
    VolumeId(id(2, n))
}
pub fn port_id(n: u8) -> PortId {
    PortId(id(4, n))
}
pub const IMAGE: u8 = 1;
pub const NETWORK: u8 = 1;

pub fn capabilities() -> Capabilities {
    Capabilities {
        uefi: true,
        accelerator: Some("tcg".into()),
        pools: [name("default")].into(),
        bridges: ["br-int".to_owned()].into(),
        routers: true,
    }
}

pub fn item(kind: ItemKind, id: Uuid, desired: Desired) -> Item {
    Item { kind, id, generation: Generation(1), epoch: Epoch(1), desired }
}
pub fn network() -> Item {
    let body = NetworkBody {
        name: name("net"),
        segment: Segment::Vxlan,
        vni: 4097,
        cidr6: None,
        cidr: "10.10.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 10, 0, 1),
        dhcp_server: Ipv4Addr::new(10, 10, 0, 254),
        dhcp: true,
        dns: vec![],
        mtu: 1450,
        security_groups: vec![],
    };
    item(ItemKind::Network, id(0, NETWORK), Desired::Network(body))
}
pub fn image() -> Item {
    let body = ImageBody { format: ImageFormat::Qcow2, sha256: "ab".repeat(32), size_bytes: 1000 };
    item(ItemKind::Image, id(1, IMAGE), Desired::Image(body))
}
pub fn volume(n: u8, incarnation: i64) -> Item {
    let body = VolumeBody {
        shared: basalt_wire::agent::manifest::Shared::No,
        name: name(&format!("disk-{n}")),
        pool: name("default"),
        size_bytes: 1 << 30,
        image_id: Some(ImageId(id(1, IMAGE))),
        incarnation,
        adopted_from: None,
    };
    item(ItemKind::Volume, volume_id(n).0, Desired::Volume(body))
}
pub fn vm_body(n: u8) -> VmBody {
    VmBody {
        motion: None,
        name: name(&format!("vm-{n}")),
        power: Power::Running,
        cpus: 1,
        memory_bytes: 256 << 20,
        firmware: Firmware::Bios,
        incarnation: 0,
        disks: vec![DiskBody {
            name: name("root"),
            source: DiskBodySource::Volume(volume_id(n)),
            boot_order: None,
        }],
        nics: vec![NicBody {
            port_id: port_id(n),
            network_id: NetworkId(id(0, NETWORK)),
            mac: format!("02:00:00:00:00:{n:02x}"),
            address: Ipv4Addr::new(10, 10, 0, 10 + n),
            security_groups: vec![],
        }],
        seed: SeedBody::default(),
        needs_lease: false,
        stop_grace_seconds: 60,
        operation: None,
    }
}
pub fn vm(n: u8, change: impl FnOnce(&mut VmBody)) -> Item {
    let mut body = vm_body(n);
    change(&mut body);
    item(ItemKind::Vm, vm_id(n).0, Desired::Vm(Box::new(body)))
}
pub fn absent(kind: ItemKind, id: Uuid) -> Item {
    Item { generation: Generation(9), ..item(kind, id, Desired::Absent) }
}
pub fn reboot(n: u128) -> Option<Operation> {
    Some(Operation { id: TaskId(Uuid::from_u128(n)), verb: OperationVerb::Reboot })
}

pub fn manifest(items: impl IntoIterator<Item = Item>) -> Manifest {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort_by_key(Item::key);
    Manifest { format: FORMAT, host_id: HostId(id(9, 9)), revision: 1, items }
}
/// One VM with all that it needs.
pub fn one_vm(change: impl FnOnce(&mut VmBody)) -> Manifest {
    let vm = vm(1, change);
    let incarnation = match &vm.desired {
        Desired::Vm(body) => body.incarnation,
        _ => 0,
    };
    manifest([network(), image(), volume(1, incarnation), vm])
}
/// The same things, all to be gone.
pub fn all_absent(manifest_before: &Manifest) -> Manifest {
    manifest(manifest_before.items.iter().map(|i| absent(i.kind, i.id)))
}
pub fn edit_vm(manifest: &mut Manifest, change: impl FnOnce(&mut VmBody)) {
    for item in &mut manifest.items {
        if let Desired::Vm(body) = &mut item.desired {
            item.generation.0 += 1;
            change(body);
            return;
        }
    }
}

/// Drives a world to what a manifest says.
pub struct Driver {
    pub world: World,
    pub memory: Memory,
    pub now: DateTime,
    /// What changed something, by its stage.
    pub mutations: BTreeMap<&'static str, u32>,
    /// Resources whose actions all fail.
    pub broken: Vec<Resource>,
}

impl Driver {
    pub fn new() -> Self {
        Self {
            world: World::new(capabilities()),
            memory: Memory::default(),
            now: at(0),
            mutations: BTreeMap::new(),
            broken: Vec::new(),
        }
    }

    pub fn plan(&self, manifest: &Manifest) -> Plan {
        diff(manifest, &self.world.observed, &self.memory, self.now)
    }

    /// Carries out one plan.
    pub fn pass(&mut self, manifest: &Manifest) -> Plan {
        self.memory.accept(manifest);
        let plan = self.plan(manifest);
        plan.notes.iter().for_each(|n| self.memory.note(n));
        for work in &plan.work {
            for action in &work.actions {
                self.memory.begin(action, self.now);
                let done = match self.broken.contains(&work.resource) {
                    true => Err("broken".to_owned()),
                    false => self.world.act(action, self.now),
                };
                let outcome = match &done {
                    Ok(changed) => {
                        *self.mutations.entry(action.stage()).or_default() += u32::from(*changed);
                        Outcome::Done
                    }
                    Err(why) => Outcome::Failed(CapabilityReason::new("failed", "it", why.clone(), "wait")),
                };
                self.memory.end(work.resource, action, outcome, self.now, 0.5);
                if done.is_err() {
                    break;
                }
            }
        }
        plan
    }

    /// Passes until there is no work and nothing to wait for; answers the last plan.
    pub fn settle(&mut self, manifest: &Manifest) -> Plan {
        for _ in 0..60 {
            let plan = self.pass(manifest);
            if plan.work.is_empty() && plan.notes.is_empty() {
                match plan.wake_at {
                    None => return plan,
                    Some(at) if self.broken.is_empty() => self.now = at.max(self.now),
                    Some(_) => return plan,
                }
            }
            self.now += TimeDelta::milliseconds(10);
        }
        panic!("no end: {:#?}", self.plan(manifest));
    }

    pub fn count(&self, stage: &str) -> u32 {
        self.mutations.get(stage).copied().unwrap_or_default()
    }

    pub fn vm(&self, n: u8) -> Option<&VmSeen> {
        self.world.observed.vms.items.get(&vm_id(n))
    }
}

pub fn report(plan: &Plan, kind: ItemKind, id: impl Into<Uuid>) -> &basalt_wire::agent::ItemReport {
    let key = ItemKey { kind, id: id.into() };
    plan.items.iter().find(|i| i.kind == key.kind && i.id == key.id).unwrap()
}
pub fn vm_report(plan: &Plan, n: u8) -> (basalt_model::vms::VmObserved, Generation, String) {
    let report = report(plan, ItemKind::Vm, vm_id(n));
    match &report.observed {
        ItemObserved::Vm(vm) => ((**vm).clone(), report.generation, report.stage.clone()),
        other => panic!("{other:?}"),
    }
}
