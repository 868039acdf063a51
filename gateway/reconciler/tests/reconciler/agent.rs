//! A host without hardware: it reads its manifest, and reports each item as if it had done it. It can
//! be told to stop at a kind of item, to do nothing, or to be blocked.

use crate::world::{World, name};
use basalt_daemon::Clock;
use basalt_model::{
    CapabilityReason, Epoch, GIB, Generation, HostId,
    hosts::{Accelerator, BridgeFacts, HostFacts, Versions},
    pools::{PoolFacts, PoolKind},
    vms::{ObservedPower, OperationOutcome, OperationReport, Power, VmObserved},
    volumes::{VolumeObserved, VolumeState},
};
use basalt_store::{
    Ids, Store, manifests,
    reports::{self, ItemFact, Report, Seen},
};
use basalt_wire::agent::manifest::{Desired, ItemKind, VmBody};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use uuid::Uuid;

/// What the host has, and what it is told about acting.
#[derive(Default)]
struct State {
    sequence: i64,
    /// Items that it has: the host's reality.
    has: BTreeSet<(ItemKind, Uuid)>,
    /// The newest epoch and generation of each item of the last manifest: an agent refuses older ones.
    accepted: BTreeMap<(String, Uuid), (Epoch, Generation)>,
    /// What it reported last.
    said: BTreeMap<(ItemKind, Uuid), ItemFact>,
    /// Realises items up to this kind.
    up_to: Option<ItemKind>,
    /// Whether it removes what is absent.
    removes: bool,
    /// Says this of every VM instead of running it.
    blocked: Option<CapabilityReason>,
    /// VMs ever begun, with the number of times.
    begun: BTreeMap<Uuid, u32>,
}

#[derive(Clone)]
pub struct Agent {
    pub host: HostId,
    store: Store,
    clock: Arc<dyn Clock>,
    ids: Ids,
    boot: Uuid,
    facts: HostFacts,
    state: Arc<Mutex<State>>,
}

impl Agent {
    pub fn new(world: &World, host: HostId, threads: u32, memory_bytes: u64) -> Self {
        Self {
            host,
            store: world.store.clone(),
            clock: Arc::clone(&world.clock),
            ids: Arc::clone(&world.ids),
            boot: (world.ids)(),
            facts: facts(threads, memory_bytes),
            state: Arc::new(Mutex::new(State { removes: true, ..State::default() })),
        }
    }

    /// Lets it realise items up to a kind; `None` stops it.
    pub fn let_up_to(&self, kind: Option<ItemKind>) {
        self.state.lock().unwrap().up_to = kind;
    }

    pub fn let_remove(&self, removes: bool) {
        self.state.lock().unwrap().removes = removes;
    }

    pub fn block_vms(&self, reason: Option<CapabilityReason>) {
        self.state.lock().unwrap().blocked = reason;
    }

    /// What the host has of a kind now.
    pub fn has(&self, kind: ItemKind) -> Vec<Uuid> {
        self.state.lock().unwrap().has.iter().filter(|k| k.0 == kind).map(|k| k.1).collect()
    }

    /// How often VMs were begun.
    pub fn begun(&self) -> BTreeMap<Uuid, u32> {
        self.state.lock().unwrap().begun.clone()
    }

    pub async fn report_facts(&self) {
        self.send(None, Some(self.facts.clone()), Vec::new()).await;
    }

    async fn send(&self, revision: Option<i64>, facts: Option<HostFacts>, items: Vec<ItemFact>) {
        let sequence = {
            let mut state = self.state.lock().unwrap();
            state.sequence += 1;
            state.sequence
        };
        let report = Report {
            agent_boot: self.boot,
            sequence,
            manifest_revision: revision,
            manifest_refused: None,
            facts,
            items,
        };
        let mut tx = self.store.system().await.unwrap();
        let applied = reports::apply(&mut tx, self.host, &report, &self.ids, self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        if applied.send_full && sequence > 1 {
            self.state.lock().unwrap().said.clear();
        }
    }

    /// Runs it in the background until the runtime ends. It acts on every change of the database.
    pub fn run(&self) {
        let agent = self.clone();
        tokio::spawn(async move {
            loop {
                agent.pass().await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// One pass: read the manifest, act, report what changed.
    pub async fn pass(&self) {
        let mut tx = self.store.system_read().await.unwrap();
        let Ok(manifest) = manifests::get::<serde_json::Value>(&mut tx, self.host).await else { return };
        drop(tx);
        let news = self.act(&manifest.items);
        if !news.is_empty() {
            self.send(Some(manifest.revision), None, news).await;
        }
    }

    fn act(&self, items: &[manifests::Item]) -> Vec<ItemFact> {
        let mut state = self.state.lock().unwrap();
        let mut facts = Vec::new();
        for item in items {
            let newest = state.accepted.get(&(item.kind.clone(), item.id)).copied().unwrap_or_default();
            assert!(
                (item.epoch, item.generation) >= newest,
                "a host would refuse {item:?}: it has {newest:?}"
            );
        }
        let age = |i: &manifests::Item| ((i.kind.clone(), i.id), (i.epoch, i.generation));
        state.accepted = items.iter().map(age).collect();
        // Users before used when removing, used before users when making.
        for item in items.iter().rev().filter(|i| !i.present) {
            let key = (ItemKind::parse(&item.kind).unwrap(), item.id);
            if state.removes {
                state.has.remove(&key);
                facts.push((key, fact(item, Seen::Gone)));
            }
        }
        for item in items.iter().filter(|i| i.present) {
            let key = (ItemKind::parse(&item.kind).unwrap(), item.id);
            if state.up_to.is_none_or(|most| key.0 > most) {
                continue;
            }
            let desired: Desired = serde_json::from_value(item.body.clone()).unwrap();
            if state.has.insert(key) && key.0 == ItemKind::Vm {
                *state.begun.entry(item.id).or_default() += 1;
            }
            facts.push((key, fact(item, seen(&desired, state.blocked.clone()))));
        }
        facts.retain(|(key, fact)| state.said.get(key) != Some(fact));
        for (key, fact) in &facts {
            state.said.insert(*key, fact.clone());
        }
        facts.into_iter().map(|f| f.1).collect()
    }
}

fn fact(item: &manifests::Item, seen: Seen) -> ItemFact {
    ItemFact {
        kind: item.kind.clone(),
        id: item.id,
        generation: item.generation,
        epoch: item.epoch,
        seen,
        stage: String::new(),
    }
}

fn seen(desired: &Desired, blocked: Option<CapabilityReason>) -> Seen {
    match desired {
        Desired::Absent => Seen::Gone,
        Desired::Network(_) => Seen::Network { ready: true, blocked: None },
        Desired::SecurityGroup(_) => Seen::SecurityGroup { ready: true, blocked: None },
        Desired::Router(body) => {
            Seen::Router { ready: true, active: body.preferred || body.peer.is_none(), blocked: None }
        }
        Desired::Image(_) => Seen::Image { ready: true, blocked: None },
        Desired::Volume(body) => Seen::Volume(VolumeObserved {
            state: VolumeState::Ready,
            pool: Some(body.pool.clone()),
            size_bytes: body.size_bytes,
            incarnation: body.incarnation,
            blocked: None,
        }),
        Desired::Vm(body) => Seen::Vm(Box::new(vm(body, blocked))),
    }
}

fn vm(body: &VmBody, blocked: Option<CapabilityReason>) -> VmObserved {
    let power = match body.power {
        _ if blocked.is_some() => ObservedPower::Absent,
        Power::Running => ObservedPower::Running,
        Power::Stopped => ObservedPower::Stopped,
        Power::Paused => ObservedPower::Paused,
    };
    let operation = body.operation.as_ref().map(|o| OperationReport {
        id: o.id,
        outcome: OperationOutcome::Done,
        message: String::new(),
    });
    VmObserved { power, incarnation: body.incarnation, operation, blocked, ..VmObserved::default() }
}

pub fn facts(threads: u32, memory_bytes: u64) -> HostFacts {
    HostFacts {
        hostname: "h".into(),
        boot_id: "b".into(),
        cpu_model: "m".into(),
        cpu_features: vec!["sse2".into()],
        cores: threads,
        threads,
        memory_bytes,
        numa: vec![],
        accelerators: vec![Accelerator { kind: "tcg".into(), usable: true, evidence: "booted".into() }],
        uefi: false,
        pools: vec![PoolFacts {
            name: name("default"),
            kind: PoolKind::Directory,
            shared_id: None,
            path: "/pool".into(),
            capacity_bytes: 1000 * GIB,
            available_bytes: 1000 * GIB,
            lacks: vec![],
        }],
        bridges: vec![BridgeFacts {
            name: "br-int".into(),
            datapath: "netdev".into(),
            integration: true,
            mtu: None,
        }],
        tunnel_address: Some([10, 78, 0, 1].into()),
        tunnel_mtu: None,
        migration_address: None,
        post_copy: true,
        routers: true,
        fencer: None,
        versions: Versions::default(),
        foreign: vec![],
        problems: vec![],
    }
}
