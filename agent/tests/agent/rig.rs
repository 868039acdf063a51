//! Manifests, and a driver that steps a cycle on a simulated host, kills it and starts it again.

use basalt_agent::{
    Error,
    cycle::{Cycle, Parts, Tuning},
    host::{Download, Downloads, Journal, sim::SimHost},
    ledger::{Ledger, Loaded, MemoryLedger},
    outbox::Outbox,
};
use basalt_daemon::{Clock, ManualClock};
use basalt_model::{
    DateTime, Epoch, Generation, HostId, ImageId, MigrationId, Name, NetworkId, PortId, VmId, VolumeId,
    images::ImageFormat,
    networks::Segment,
    vms::{Firmware, Operation, Power, VmObserved},
};
use basalt_plan::host::{Memory, Observed, Resource};
use basalt_wire::agent::{
    Desired, Item, ItemKind, ItemObserved, Manifest, Report,
    directory::Directory,
    manifest::{
        DiskBody, DiskBodySource, FORMAT, ImageBody, NetworkBody, NicBody, SeedBody, VmBody, VolumeBody,
    },
};
use chrono::TimeDelta;
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};
use uuid::Uuid;

pub const HOST: HostId = HostId(Uuid::from_u128(0x99));
pub const NETWORK: Uuid = Uuid::from_u128(0x100);
const IMAGE: Uuid = Uuid::from_u128(0x200);

pub fn at(seconds: i64) -> DateTime {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}
pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}
pub fn vm_id(n: u8) -> VmId {
    VmId(Uuid::from_u128(0x400 + u128::from(n)))
}
pub fn volume_id(n: u8) -> VolumeId {
    VolumeId(Uuid::from_u128(0x300 + u128::from(n)))
}
pub fn port_id(n: u8) -> PortId {
    PortId(Uuid::from_u128(0x500 + u128::from(n)))
}

pub fn item(kind: ItemKind, id: Uuid, generation: i64, desired: Desired) -> Item {
    Item { kind, id, generation: Generation(generation), epoch: Epoch(1), desired }
}

/// What a test wants of its VMs; all else is the same for all.
#[derive(Clone, Debug)]
pub struct Wish {
    pub power: Power,
    pub incarnation: i64,
    pub operation: Option<Operation>,
    pub grace_seconds: u32,
    pub user_data: Option<String>,
}

impl Default for Wish {
    fn default() -> Self {
        Self { power: Power::Running, incarnation: 1, operation: None, grace_seconds: 60, user_data: None }
    }
}

pub fn network_item() -> Item {
    let body = NetworkBody {
        name: name("net"),
        segment: Segment::Vxlan,
        vni: 4097,
        cidr6: None,
        cidr: "10.10.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 10, 0, 1),
        dhcp_server: Ipv4Addr::new(10, 10, 0, 254),
        dhcp: true,
        dns: vec![Ipv4Addr::new(10, 10, 0, 1)],
        mtu: 1450,
        security_groups: vec![],
    };
    item(ItemKind::Network, NETWORK, 1, Desired::Network(body))
}

pub fn image_item() -> Item {
    let body = ImageBody { format: ImageFormat::Qcow2, sha256: "ab".repeat(32), size_bytes: 1000 };
    item(ItemKind::Image, IMAGE, 1, Desired::Image(body))
}

pub fn volume_item(n: u8, incarnation: i64) -> Item {
    let body = VolumeBody {
        shared: basalt_wire::agent::manifest::Shared::No,
        name: name(&format!("disk-{n}")),
        pool: name("default"),
        size_bytes: 1 << 30,
        image_id: Some(ImageId(IMAGE)),
        incarnation,
        adopted_from: None,
    };
    item(ItemKind::Volume, volume_id(n).0, incarnation, Desired::Volume(body))
}

pub fn vm_item(n: u8, generation: i64, wish: &Wish) -> Item {
    let body = VmBody {
        motion: None,
        name: name(&format!("vm-{n}")),
        power: wish.power,
        cpus: 1,
        memory_bytes: 256 << 20,
        firmware: Firmware::Bios,
        incarnation: wish.incarnation,
        disks: vec![DiskBody {
            name: name("root"),
            source: DiskBodySource::Volume(volume_id(n)),
            boot_order: None,
        }],
        nics: vec![NicBody {
            port_id: port_id(n),
            network_id: NetworkId(NETWORK),
            mac: format!("02:00:00:00:00:{n:02x}"),
            address: Ipv4Addr::new(10, 10, 0, 10 + n),
            security_groups: vec![],
        }],
        seed: SeedBody { user_data: wish.user_data.clone(), ssh_authorized_keys: vec![] },
        stop_grace_seconds: wish.grace_seconds,
        needs_lease: false,
        operation: wish.operation.clone(),
    };
    item(ItemKind::Vm, vm_id(n).0, generation, Desired::Vm(Box::new(body)))
}

/// A manifest; `None` in place of a wish: the VM is to be gone, with its volume.
pub fn manifest(revision: i64, vms: &[Option<Wish>]) -> Manifest {
    let mut items = vec![network_item(), image_item()];
    for (n, wish) in (1..).zip(vms) {
        match wish {
            Some(wish) => items.extend([volume_item(n, wish.incarnation), vm_item(n, revision, wish)]),
            None => items.extend([
                item(ItemKind::Volume, volume_id(n).0, revision, Desired::Absent),
                item(ItemKind::Vm, vm_id(n).0, revision, Desired::Absent),
            ]),
        }
    }
    items.sort_by_key(Item::key);
    Manifest { format: FORMAT, host_id: HOST, revision, items }
}

pub fn one(revision: i64, change: impl FnOnce(&mut Wish)) -> Manifest {
    let mut wish = Wish::default();
    change(&mut wish);
    manifest(revision, &[Some(wish)])
}

/// Everything of a manifest is to be gone.
pub fn nothing(revision: i64, before: &Manifest) -> Manifest {
    let gone = |i: &Item| Item { generation: Generation(revision), desired: Desired::Absent, ..i.clone() };
    Manifest { revision, items: before.items.iter().map(gone).collect(), ..before.clone() }
}

/// When a ledger kills the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillWrite {
    Before(u64),
    After(u64),
}

/// A ledger in memory that counts its writes and fails at one of them.
#[derive(Clone, Default)]
pub struct TestLedger {
    inner: MemoryLedger,
    pub state: Arc<Mutex<TestLedgerState>>,
}

#[derive(Default)]
pub struct TestLedgerState {
    pub writes: u64,
    pub kill: Option<KillWrite>,
    pub killed: bool,
    pub full: bool,
}

impl TestLedger {
    fn write(&mut self, write: impl FnOnce(&mut MemoryLedger) -> Result<(), Error>) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap();
        let number = state.writes;
        state.writes += 1;
        let dead = || Error::state("ledger", std::io::Error::other("no space left on device"));
        if state.full {
            return Err(dead());
        }
        state.killed |= matches!(state.kill, Some(KillWrite::Before(n) | KillWrite::After(n)) if n == number);
        if state.kill == Some(KillWrite::Before(number)) {
            return Err(dead());
        }
        write(&mut self.inner)?;
        if state.killed { Err(dead()) } else { Ok(()) }
    }
}

impl Ledger for TestLedger {
    fn load(&mut self) -> Result<Loaded, Error> {
        self.inner.load()
    }
    fn save_manifest(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.write(|l| l.save_manifest(manifest))
    }
    fn save_records(&mut self, memory: &Memory) -> Result<(), Error> {
        self.write(|l| l.save_records(memory))
    }
    fn save_directory(&mut self, directory: &Directory) -> Result<(), Error> {
        self.write(|l| l.save_directory(directory))
    }
    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.clone())
    }
}

impl Journal for TestLedger {
    fn handed_over(&self, id: VmId, migration_id: MigrationId) -> Result<(), Error> {
        self.clone().write(|l| l.journal().handed_over(id, migration_id))
    }
}

/// Simulated hosts fetch nothing.
pub struct NoDownloads;

impl Downloads for NoDownloads {
    fn open(&self, _: ImageId, _: u64) -> BoxFuture<'_, Result<Download, Error>> {
        Box::pin(async { Err(Error::link("downloading", "there is nothing to download")) })
    }
}

/// An agent's cycle on a simulated host, without loops and sockets.
pub struct Rig<L: Ledger + Clone> {
    pub host: Arc<SimHost>,
    pub ledger: L,
    pub clock: Arc<ManualClock>,
    pub outbox: Outbox,
    pub cycle: Option<Cycle<SimHost, L>>,
    /// Who it is.
    pub host_id: HostId,
    /// Times that the agent was killed.
    pub kills: u32,
}

impl Rig<TestLedger> {
    pub fn new() -> Self {
        Self::with_ledger(TestLedger::default())
    }

    pub fn was_killed(&self) -> bool {
        std::mem::take(&mut self.ledger.state.lock().unwrap().killed)
    }

    /// Steps until nothing is left to do; offers the manifest again after every death, as the gateway would.
    pub async fn settle(&mut self, manifest: &Manifest) {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let mut offered = false;
        for _ in 0..3000 {
            self.start();
            let cycle = self.cycle.as_mut().unwrap();
            let alive = match offered {
                true => Ok(()),
                false => cycle.offer(&bytes),
            };
            offered = true;
            let stepped = match alive {
                Ok(()) => cycle.step().await,
                Err(e) => Err(e),
            };
            if self.was_killed() {
                self.kill();
                offered = false;
                continue;
            }
            let stepped = stepped.unwrap();
            if stepped.settled {
                return;
            }
            let cycle = self.cycle.as_mut().unwrap();
            let busy = cycle.is_busy();
            let dead = tokio::select! {
                biased;
                () = self.host.killed() => true,
                done = cycle.finished(), if busy => cycle.settle(done).is_err(),
                () = tokio::task::yield_now(), if !busy => false,
            };
            if dead || self.was_killed() {
                self.was_killed();
                self.kill();
                offered = false;
            } else if let (false, Some(at)) = (busy, stepped.wake_at) {
                self.clock.advance((at - self.clock.now()).max(TimeDelta::zero()));
            }
            self.clock.advance(TimeDelta::milliseconds(10));
        }
        panic!("no end: {:#?}", self.report());
    }

    pub fn kill(&mut self) {
        self.cycle = None;
        self.kills += 1;
        // It is started again after a second.
        self.clock.advance(TimeDelta::seconds(1));
    }
}

impl<L: Ledger + Clone> Rig<L> {
    pub fn with_ledger(ledger: L) -> Self {
        let clock = Arc::new(ManualClock::new(at(0), 7));
        let host = Arc::new(SimHost::new("h1", clock.clone()));
        let outbox = Outbox::new(clock.new_id());
        Self { host, ledger, outbox, clock, cycle: None, host_id: HOST, kills: 0 }
    }

    /// Starts the agent if it does not run.
    pub fn start(&mut self) {
        if self.cycle.is_none() {
            self.outbox = Outbox::new(self.clock.new_id());
            let parts = Parts {
                host: self.host.clone(),
                lease: basalt_agent::lease::Lease::none(),
                ledger: self.ledger.clone(),
                clock: self.clock.clone(),
                downloads: Arc::new(NoDownloads),
                outbox: self.outbox.clone(),
                host_id: self.host_id,
                tuning: Tuning { act_limit: Some(Duration::from_millis(20)), ..Tuning::default() },
            };
            self.cycle = Some(Cycle::new(parts).unwrap());
        }
    }

    pub fn report(&self) -> Report {
        self.outbox.draft().report
    }

    /// What was last reported of a VM, and of which generation.
    pub fn vm(&self, n: u8) -> (VmObserved, i64) {
        let report = self.report();
        let item = report.items.iter().find(|i| i.id == vm_id(n).0).unwrap();
        match &item.observed {
            ItemObserved::Vm(vm) => ((**vm).clone(), item.generation.0),
            other => panic!("{other:?}"),
        }
    }

    /// How often what was changed. Flows are one whole set that follows the ports: how many sets
    /// stood in between tells nothing.
    pub fn mutations(&self) -> BTreeMap<(Resource, &'static str), u32> {
        let mut mutations = self.host.mutations();
        mutations.retain(|(resource, _), _| *resource != Resource::Flows);
        mutations
    }

    /// What is on the host, without times: two runs that ended alike are equal.
    pub fn end_state(&self) -> Observed {
        let mut observed = self.host.with_world(|w| w.observed.clone());
        observed.vms.items.values_mut().for_each(|v| v.started_at = None);
        observed
    }
}
