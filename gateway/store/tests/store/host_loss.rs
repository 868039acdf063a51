//! The loss of hosts: a lease is a row, a proof names the last one, and a VM goes elsewhere only under one that stands.

use crate::fixture::{Claims, House, NONE, ONE, small, spec};
use basalt_model::{
    DateTime, Epoch, GIB, Generation, HostId, Name, VmId, VolumeId,
    host_loss::DeathKind,
    hosts::{FencerFacts, HostFacts},
    pools::{PoolFacts, PoolKind},
    vms::{HaPolicy, HaSpec, ObservedPower, VmObserved, VmSpec},
};
use basalt_store::{
    Change, Error, Key, Update,
    host_loss::{self, Ask, Evacuation, Granted, Proof},
    migrations::Stepped,
    reports::{self, ItemFact, Report, Seen},
    testkit::{facts, name, now},
    vms,
};
use serde_json::json;
use std::collections::BTreeMap;
use uuid::Uuid;

const FENCER: Option<FencerFacts> = Some(FencerFacts { window_seconds: 5, watchdog: false });

/// A host with a pool of its own and one that other hosts see.
fn sharing() -> HostFacts {
    let mut facts = facts(4, 16 * GIB, 100 * GIB);
    let shared = PoolFacts {
        name: name("shared"),
        kind: PoolKind::SharedDirectory,
        shared_id: Some(Uuid::from_u128(7)),
        ..facts.pools[0].clone()
    };
    facts.pools.push(shared);
    facts
}

struct Lost {
    h: House,
    hosts: [HostId; 2],
    vm: VmId,
    volume: VolumeId,
}

impl Lost {
    /// Two hosts, and on the first a VM with this policy in this pool, reported as said.
    async fn new(policy: HaPolicy, pool: &str, leased: bool) -> Self {
        let h = House::new().await;
        let hosts = h.two_hosts(sharing()).await;
        let spec = VmSpec { ha: HaSpec { policy }, ..small() };
        let vm = h.try_vm("web", spec).await.unwrap().object;
        h.place(&vm, hosts[0], pool).await;
        let (vm, volume) = (vm.id(), vm.disks[0].volume_id.unwrap());
        let lost = Self { h, hosts, vm, volume };
        lost.report(2, leased).await;
        lost
    }

    async fn report(&self, sequence: i64, leased: bool) {
        let observed = VmObserved { power: ObservedPower::Running, leased, ..VmObserved::default() };
        let item = ItemFact {
            kind: "vm".into(),
            id: self.vm.0,
            generation: Generation(1),
            epoch: Epoch(1),
            seen: Seen::Vm(Box::new(observed)),
            stage: String::new(),
        };
        let report = Report {
            agent_boot: (self.h.ids)(),
            sequence,
            manifest_revision: None,
            manifest_refused: None,
            facts: None,
            items: vec![item],
        };
        let mut tx = self.h.db.store.system().await.unwrap();
        reports::apply(&mut tx, self.hosts[0], &report, &self.h.ids, now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    fn change(&self) -> Change {
        self.h.change()
    }

    async fn ask(&self, fencer: Option<FencerFacts>, revision: Option<i64>) -> Granted {
        let ask = Ask { boot_id: "boot".into(), manifest_revision: revision, fencer, ..Ask::default() };
        let mut tx = self.h.db.store.system().await.unwrap();
        let granted = host_loss::grant(&mut tx, &self.change(), self.hosts[0], &ask).await.unwrap();
        if granted == Granted::Yes {
            tx.commit().await.unwrap();
        }
        granted
    }

    async fn declare(&self, grants: i64) -> bool {
        let proof = Proof { host_id: self.hosts[0], grants, evidence: "silence".into() };
        let mut tx = self.h.db.store.system().await.unwrap();
        let declared = host_loss::declare(&mut tx, &self.change(), &proof).await.unwrap();
        tx.commit().await.unwrap();
        declared
    }

    async fn death(&self) -> Option<basalt_model::host_loss::HostDeath> {
        let mut tx = self.h.db.store.system_read().await.unwrap();
        host_loss::death(&mut tx, self.hosts[0]).await.unwrap()
    }

    async fn evacuate(&self, death: Uuid, epoch: i64) -> Stepped {
        let pools: BTreeMap<VolumeId, Name> = [(self.volume, name("shared"))].into();
        let to = Evacuation {
            vm_id: self.vm,
            death_id: death,
            expected_epoch: Epoch(epoch),
            target: self.hosts[1],
            pools,
            explanation: json!({"why": "lost"}),
        };
        let mut tx = self.h.db.store.system().await.unwrap();
        let stepped = host_loss::evacuate(&mut tx, &self.change(), &to).await.unwrap();
        tx.commit().await.unwrap();
        stepped
    }

    /// VMs, CPUs, memory and bytes of the shared pool that each host promised.
    async fn claims(&self) -> [Claims; 2] {
        self.h.claims(self.hosts, "shared").await
    }

    async fn at(&self) -> (Option<HostId>, Epoch, Option<HostId>) {
        self.h.at(self.vm, self.volume).await
    }
}

#[tokio::test]
async fn r55_a_proof_names_the_last_lease_and_stands_until_the_host_knows() {
    let l = Lost::new(HaPolicy::Restart, "shared", true).await;
    assert!(!l.declare(0).await, "a host that never asked has no lease that could be over");
    assert_eq!(l.ask(FENCER, None).await, Granted::Yes);
    assert_eq!(l.ask(FENCER, None).await, Granted::Yes);
    assert!(!l.declare(1).await, "it has asked again since");
    assert_eq!(l.ask(None, None).await, Granted::Yes);
    assert!(!l.declare(3).await, "nothing there would have stopped its VMs");
    assert_eq!(l.ask(FENCER, None).await, Granted::Yes);
    assert!(l.declare(4).await && !l.declare(4).await, "one proof at a time");
    let death = l.death().await.unwrap();
    assert_eq!((death.kind, death.boot_id.as_deref()), (DeathKind::LeaseExpired, Some("boot")));
    let Granted::Dead(reason) = l.ask(FENCER, None).await else { panic!("it got a lease while it is dead") };
    assert_eq!(reason.code.as_ref(), "proven_dead");
    assert_eq!(l.ask(FENCER, Some(0)).await, Granted::Yes, "it acts on the newest manifest");
    assert_eq!(l.death().await, None);
}

#[tokio::test]
async fn m5_a_vm_goes_elsewhere_with_volumes_and_claims_under_a_standing_proof() {
    let l = Lost::new(HaPolicy::Restart, "shared", true).await;
    assert_eq!(l.evacuate(Uuid::from_u128(1), 1).await, Stepped::Stale, "there is no such proof");
    assert_eq!(l.ask(FENCER, None).await, Granted::Yes);
    assert!(l.declare(1).await);
    let death = l.death().await.unwrap().id;
    assert_eq!(l.evacuate(death, 0).await, Stepped::Stale, "another epoch");
    assert_eq!(l.claims().await, [ONE, NONE]);
    assert_eq!(l.evacuate(death, 1).await, Stepped::Done);
    assert_eq!(l.at().await, (Some(l.hosts[1]), Epoch(2), Some(l.hosts[1])));
    assert_eq!(l.claims().await, [NONE, ONE]);
    assert_eq!(l.evacuate(death, 1).await, Stepped::Stale, "once");
    assert_eq!(l.evacuate(death, 2).await, Stepped::Stale, "it is on no dead host any more");
}

#[tokio::test]
async fn r55_what_the_host_never_leased_and_what_has_no_policy_stays() {
    for (policy, leased) in [(HaPolicy::Restart, false), (HaPolicy::None, true)] {
        let l = Lost::new(policy, "shared", leased).await;
        assert_eq!(l.ask(FENCER, None).await, Granted::Yes);
        assert!(l.declare(1).await);
        let death = l.death().await.unwrap().id;
        assert_eq!(l.evacuate(death, 1).await, Stepped::Stale, "{policy:?} {leased}");
        assert_eq!(l.at().await.0, Some(l.hosts[0]));
    }
}

#[tokio::test]
async fn r55_a_host_whose_vm_went_gets_its_lease_only_when_its_manifest_says_so() {
    let l = Lost::new(HaPolicy::Restart, "shared", true).await;
    let item = |present| basalt_store::manifests::Item {
        kind: "vm".into(),
        id: l.vm.0,
        generation: Generation(if present { 1 } else { 2 }),
        epoch: Epoch(1),
        present,
        body: json!({"as": "vm"}),
    };
    let put = async |item| {
        let mut tx = l.h.db.store.system().await.unwrap();
        let write =
            basalt_store::manifests::Write { host_id: l.hosts[0], upserts: vec![item], removes: vec![] };
        let put = basalt_store::manifests::put(&mut tx, &[write], now()).await.unwrap();
        tx.commit().await.unwrap();
        put[0].revision
    };
    let before = put(item(true)).await;
    assert_eq!(l.ask(FENCER, Some(before)).await, Granted::Yes);
    assert!(l.declare(1).await);
    let death = l.death().await.unwrap().id;
    assert_eq!(l.evacuate(death, 1).await, Stepped::Done);
    assert!(matches!(l.ask(FENCER, Some(before)).await, Granted::Dead(_)), "its manifest still has the VM");
    let after = put(item(false)).await;
    assert!(matches!(l.ask(FENCER, Some(before)).await, Granted::Dead(_)), "it acts on an older manifest");
    assert_eq!(l.ask(FENCER, Some(after)).await, Granted::Yes);
}

#[tokio::test]
async fn r55_a_person_says_that_the_power_is_off_only_of_a_silent_host() {
    let l = Lost::new(HaPolicy::Restart, "shared", true).await;
    let confirm = async |at: DateTime| {
        let mut tx = l.h.db.store.system().await.unwrap();
        let change = Change { now: at, ..l.change() };
        let death = host_loss::confirm_power_off(&mut tx, &change, &Key::from(l.hosts[0]), None, 30).await;
        if death.is_ok() {
            tx.commit().await.unwrap();
        }
        death
    };
    let Err(Error::Refused(reason)) = confirm(now()).await else { panic!("the host is heard of") };
    assert_eq!(reason.code.as_ref(), "host_alive");
    let later = now() + chrono::TimeDelta::seconds(31);
    let death = confirm(later).await.unwrap();
    assert_eq!(death.kind, DeathKind::PowerOffConfirmed);
    assert_eq!(confirm(later).await.unwrap().id, death.id, "said twice it is one proof");
    assert_eq!(l.evacuate(death.id, 1).await, Stepped::Done);
}

#[tokio::test]
async fn m5_a_policy_over_a_hosts_own_disks_is_refused() {
    for (pool, refused) in [("default", true), ("shared", false)] {
        let l = Lost::new(HaPolicy::None, pool, false).await;
        let mut tx = l.h.db.store.tenant(l.h.tenant).await.unwrap();
        let wanted = VmSpec { ha: HaSpec { policy: HaPolicy::Restart }, ..spec(json!(small())) };
        let update = Update { expected: None, labels: None, spec: wanted };
        let said = vms::update(&mut tx, &l.change(), l.h.project, &Key::from(l.vm), &update).await;
        match said {
            Err(Error::Refused(reason)) => {
                assert!(refused && reason.evidence.contains("pool default of host h1"), "{reason:?}");
            }
            other => assert!(!refused && other.is_ok(), "{pool}: {other:?}"),
        }
    }
}
