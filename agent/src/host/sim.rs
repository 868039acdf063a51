//! A host in memory behind the same [`Host`] trait, with faults that a script or a seed injects.
//!
//! What an action does is `plan::host::effect::World`; what can go wrong is here. Every change of
//! the world is counted, so that a test can say "nothing was doubled". Cheap enough for a hundred
//! hosts in one process.

mod console;
mod counters;
pub mod fabric;

use super::{Host, With, console::Console};
use crate::Error;
use basalt_daemon::Clock;
use basalt_model::{
    CapabilityReason, GIB, HostId, Name, PortId, VmId,
    hosts::{Accelerator, BridgeFacts, HostFacts, Versions},
    networks::Counters,
    pools::{PoolFacts, PoolKind},
};
use basalt_plan::host::{
    Action, Capabilities, DoorDefinition, Observed, Resource, Section, VolumeKey, VolumeSeen,
    effect::{Mishap, World},
};
use basalt_wire::agent::console::Mode;
use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// What goes wrong with one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing was done.
    FailBefore,
    /// It was done and says that it failed.
    FailAfter,
    /// Nothing is done and no answer comes.
    Hang,
    /// It was done and no answer comes.
    AnswerLost,
    /// It was done; then something else happens to the host.
    Then(Mishap),
    /// The host says that it cannot.
    Refuse,
    /// The agent dies before it is done: no answer comes, [`SimHost::killed`] fires.
    KillBefore,
    /// The agent dies after it was done: no answer comes, [`SimHost::killed`] fires.
    KillAfter,
}

/// Which listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listing {
    /// Virtual machines.
    Vms,
    /// Volumes.
    Volumes,
    /// Images.
    Images,
    /// Networks.
    Networks,
    /// Ports.
    Ports,
    /// Seeds.
    Seeds,
}

/// A host in memory.
pub struct SimHost {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    news: watch::Sender<u64>,
    killed: Notify,
    consoles: console::Consoles,
}

struct State {
    name: String,
    world: World,
    /// Faults by the number of the action they meet, counted from 0.
    script: BTreeMap<u64, Fault>,
    /// Faults for the next actions of a resource.
    next: BTreeMap<Resource, VecDeque<Fault>>,
    /// Seeded faults: state of the generator, and of how many actions one fails.
    seeded: Option<(u64, u64)>,
    /// Listings that fail.
    blind: Vec<Listing>,
    actions: u64,
    mutations: BTreeMap<(Resource, &'static str), u32>,
    delay: Duration,
    /// Who it is, and what lies between it and others.
    place: Option<(HostId, fabric::Fabric)>,
    /// Doors, each with the life of the agent that opened it.
    doors: BTreeMap<VmId, (DoorDefinition, Weak<()>)>,
    /// Pools that other hosts see too.
    shares: Vec<(Name, SharedStorage)>,
}

/// Storage that several hosts mount. Clones are the same.
#[derive(Clone)]
pub struct SharedStorage {
    id: Uuid,
    volumes: Arc<Mutex<BTreeMap<VolumeKey, VolumeSeen>>>,
}

impl SharedStorage {
    /// Empty storage under this id.
    pub fn new(id: Uuid) -> Self {
        Self { id, volumes: Arc::default() }
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeKey, VolumeSeen>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Shows what other hosts made in shared pools. Who uses a volume is this host's own matter.
    fn see_shares(&mut self) {
        let items = &mut self.world.observed.volumes.items;
        for (pool, storage) in &self.shares {
            let mut there = storage.volumes().clone();
            for (key, volume) in &mut there {
                volume.users = items.get(key).map(|v| v.users.clone()).unwrap_or_default();
            }
            items.retain(|key, _| key.pool != *pool);
            items.append(&mut there);
        }
    }

    /// Lets other hosts see what was made in shared pools.
    fn show_shares(&self) {
        for (pool, storage) in &self.shares {
            let mine = self.world.observed.volumes.items.iter().filter(|(key, _)| key.pool == *pool);
            *storage.volumes() = mine
                .map(|(key, volume)| {
                    (key.clone(), VolumeSeen { users: Default::default(), ..volume.clone() })
                })
                .collect();
        }
    }
}

impl SimHost {
    /// An empty host with one pool `default`, one bridge and an accelerator.
    pub fn new(name: &str, clock: Arc<dyn Clock>) -> Self {
        let pool = Name::new("default").ok();
        let capabilities = Capabilities {
            uefi: false,
            accelerator: Some("tcg".into()),
            pools: pool.into_iter().collect(),
            bridges: ["br-int".to_owned()].into(),
            routers: true,
        };
        let state = State {
            name: name.into(),
            world: World::new(capabilities),
            script: BTreeMap::new(),
            next: BTreeMap::new(),
            seeded: None,
            blind: Vec::new(),
            actions: 0,
            mutations: BTreeMap::new(),
            delay: Duration::ZERO,
            place: None,
            doors: BTreeMap::new(),
            shares: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            clock,
            news: watch::Sender::new(0),
            killed: Notify::new(),
            consoles: console::Consoles::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.consoles.keep(&self.state().world);
        self.news.send_modify(|n| *n += 1);
    }

    /// Reads or changes the world by hand; counts as news.
    pub fn with_world<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        let value = f(&mut self.state().world);
        self.bump();
        value
    }

    /// Reads the world; no news.
    pub fn look<T>(&self, f: impl FnOnce(&World) -> T) -> T {
        f(&self.state().world)
    }

    /// Mounts shared storage as a pool.
    pub fn mount(&self, pool: &Name, storage: &SharedStorage) {
        let mut state = self.state();
        state.shares.push((pool.clone(), storage.clone()));
        state.world.observed.capabilities.pools.insert(pool.clone());
        drop(state);
        self.bump();
    }

    /// Something happens to the host.
    pub fn suffer(&self, mishap: &Mishap) {
        let now = self.clock.now();
        self.with_world(|w| w.suffer(mishap, now));
    }

    /// A fault for the action with this number, counted from 0 since the host was made.
    pub fn inject_at(&self, action: u64, fault: Fault) {
        self.state().script.insert(action, fault);
    }

    /// A fault for the next action on a resource that has none yet.
    pub fn inject_next(&self, resource: Resource, fault: Fault) {
        self.state().next.entry(resource).or_default().push_back(fault);
    }

    /// From now on one of `one_in` actions meets a fault, chosen by a generator with this seed; 0 ends it.
    pub fn inject_seeded(&self, seed: u64, one_in: u64) {
        self.state().seeded = (one_in > 0).then_some((seed | 1, one_in));
    }

    /// These listings fail from now on.
    pub fn blind(&self, listings: &[Listing]) {
        self.state().blind = listings.to_vec();
        self.bump();
    }

    /// How long every action takes.
    pub fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// The agent dies.
    pub fn die(&self) {
        self.killed.notify_one();
    }

    /// Fires when a fault killed the agent.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    /// How many actions were asked for.
    pub fn actions(&self) -> u64 {
        self.state().actions
    }

    /// How often each kind of action really changed something, by resource.
    pub fn mutations(&self) -> BTreeMap<(Resource, &'static str), u32> {
        self.state().mutations.clone()
    }

    /// Sum of [`Self::mutations`] of one kind, named by its stage.
    pub fn count(&self, stage: &str) -> u32 {
        self.state().mutations.iter().filter(|((_, s), _)| *s == stage).map(|(_, n)| n).sum()
    }

    /// Takes the fault that this action meets.
    fn meet(state: &mut State, action: &Action) -> Option<Fault> {
        let number = state.actions;
        state.actions += 1;
        if let Some(fault) = state.script.remove(&number) {
            return Some(fault);
        }
        if let Some(fault) = state.next.get_mut(&action.resource()).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        let (random, one_in) = state.seeded.as_mut()?;
        // xorshift64: enough to scatter faults, the same on every machine.
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        if *random % *one_in != 0 {
            return None;
        }
        Some(match (*random >> 32) % 5 {
            0 => Fault::FailBefore,
            1 => Fault::FailAfter,
            2 => Fault::Hang,
            3 => Fault::AnswerLost,
            _ => Fault::Then(match action {
                Action::StartVm { id, .. } => Mishap::Kill(*id),
                Action::DefineVm(d) => Mishap::Undefine(d.id),
                _ => Mishap::WipeFlows,
            }),
        })
    }

    async fn carry_out(&self, action: &Action, with: &With) -> Result<(), Error> {
        match action {
            Action::SendVm(send) => {
                self.send(send, with).await?;
                *self.state().mutations.entry((action.resource(), action.stage())).or_default() += 1;
                self.bump();
                Ok(())
            }
            Action::AbortSend { migration_id, .. } => {
                let fabric = self.state().place.as_ref().map(|(_, fabric)| fabric.clone());
                if let Some(fabric) = fabric {
                    fabric.abort(*migration_id).await;
                }
                Ok(())
            }
            Action::OpenDoor(door) => {
                self.state().doors.insert(door.id, (door.clone(), with.life.clone()));
                self.apply(action)
            }
            Action::ShutDoor { id, .. } => {
                self.state().doors.remove(id);
                self.apply(action)
            }
            _ => self.apply(action),
        }
    }

    fn apply(&self, action: &Action) -> Result<(), Error> {
        let mut state = self.state();
        state.see_shares();
        let changed = state.world.act(action, self.clock.now());
        if changed.is_ok() {
            state.show_shares();
        }
        let changed = changed.map_err(|why| Error::host(action.stage(), why))?;
        if changed {
            *state.mutations.entry((action.resource(), action.stage())).or_default() += 1;
        }
        drop(state);
        if changed {
            self.bump();
        }
        Ok(())
    }
}

impl Host for SimHost {
    async fn observe(&self) -> Observed {
        self.drop_dead_doors();
        let mut state = self.state();
        state.see_shares();
        let mut observed = state.world.observed.clone();
        let why = "this listing fails";
        for listing in &state.blind {
            match listing {
                Listing::Vms => observed.vms = Section::failed(why),
                Listing::Volumes => observed.volumes = Section::failed(why),
                Listing::Images => observed.images = Section::failed(why),
                Listing::Networks => observed.networks = Section::failed(why),
                Listing::Ports => observed.ports = Section::failed(why),
                Listing::Seeds => observed.seeds = Section::failed(why),
            }
        }
        observed
    }

    async fn facts(&self) -> HostFacts {
        let state = self.state();
        let can = &state.world.observed.capabilities;
        let shared = |pool: &Name| state.shares.iter().find(|(name, _)| name == pool).map(|(_, s)| s.id);
        let pools = can.pools.iter().map(|name| PoolFacts {
            name: name.clone(),
            kind: if shared(name).is_some() { PoolKind::SharedDirectory } else { PoolKind::Directory },
            shared_id: shared(name),
            path: format!("/sim/{name}"),
            capacity_bytes: 100_000 * GIB,
            available_bytes: 100_000 * GIB,
            lacks: Vec::new(),
        });
        let bridges = can.bridges.iter().map(|name| BridgeFacts {
            name: name.clone(),
            datapath: "netdev".into(),
            integration: name == "br-int",
            mtu: None,
        });
        let accelerator = can.accelerator.iter().map(|kind| Accelerator {
            kind: kind.clone(),
            usable: true,
            evidence: "simulated".into(),
        });
        HostFacts {
            hostname: state.name.clone(),
            boot_id: format!("sim-{}", state.name),
            cpu_model: "simulated".into(),
            cpu_features: Vec::new(),
            cores: 64,
            threads: 128,
            memory_bytes: 1024 * GIB,
            numa: Vec::new(),
            accelerators: accelerator.collect(),
            uefi: can.uefi,
            pools: pools.collect(),
            bridges: bridges.collect(),
            tunnel_address: Some(tunnel_address(&state.name)),
            tunnel_mtu: None,
            // Nobody listens there: the fabric carries what is sent.
            migration_address: state
                .place
                .as_ref()
                .map(|_| SocketAddr::from((tunnel_address(&state.name), 9446))),
            post_copy: true,
            routers: can.routers,
            fencer: None,
            versions: Versions { agent: env!("CARGO_PKG_VERSION").into(), ..Versions::default() },
            foreign: Vec::new(),
            problems: Vec::new(),
        }
    }

    async fn act(&self, action: &Action, with: &With) -> Result<(), Error> {
        let (fault, delay) = {
            let mut state = self.state();
            (Self::meet(&mut state, action), state.delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fault {
            None => self.carry_out(action, with).await,
            Some(Fault::FailBefore) => Err(Error::host(action.stage(), "it fails before")),
            Some(Fault::FailAfter) => {
                self.carry_out(action, with).await?;
                Err(Error::host(action.stage(), "it fails after"))
            }
            // Sending has no time limit of the agent's: what hangs there is libvirt's to end.
            Some(Fault::Hang) if matches!(action, Action::SendVm(_)) => {
                Err(Error::host(action.stage(), "it hung"))
            }
            Some(Fault::Hang) => pending().await,
            Some(Fault::AnswerLost) => {
                self.carry_out(action, with).await?;
                if matches!(action, Action::SendVm(_)) {
                    return Err(Error::host(action.stage(), "its answer was lost"));
                }
                pending().await
            }
            Some(Fault::Then(mishap)) => {
                self.carry_out(action, with).await?;
                self.suffer(&mishap);
                Ok(())
            }
            Some(Fault::Refuse) => {
                let reason = CapabilityReason::new("refused", "host", "this host cannot", "ask another");
                Err(Error::refused(reason))
            }
            Some(Fault::KillBefore) => {
                self.killed.notify_one();
                pending().await
            }
            Some(Fault::KillAfter) => {
                self.carry_out(action, with).await?;
                self.killed.notify_one();
                pending().await
            }
        }
    }

    async fn console(&self, id: VmId, mode: Mode) -> Result<Console, Error> {
        self.open_console(id, mode)
    }

    async fn counters(&self, id: PortId) -> Result<Counters, Error> {
        self.count_port(id)
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

/// Some address of 10.0.0.0/8 for each name.
fn tunnel_address(name: &str) -> Ipv4Addr {
    let hash =
        name.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    Ipv4Addr::from(0x0a00_0000 | hash >> 8)
}
