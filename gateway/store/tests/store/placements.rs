//! Placements: one host at a time, never more on it than it can take.

use crate::fixture::{House, small};
use basalt_model::{Epoch, GIB, HostId, Labels, VmId, VolumeId, vms::AffinityRule};
use basalt_store::{
    Error, Key, New, Page, Update, hosts,
    placements::{self, Place, Placed, Unplaced},
    pools,
    testkit::{self, facts, name, now},
    vms, volumes,
};
use serde_json::json;

async fn volume(h: &House, vm: VmId) -> VolumeId {
    let mut tx = h.db.store.system_read().await.unwrap();
    vms::get_by_id(&mut tx, vm).await.unwrap().vm.disks[0].volume_id.unwrap()
}

async fn decision(h: &House, vm: VmId, host: HostId, epoch: i64) -> Place {
    Place {
        vm_id: vm,
        generation: None,
        expected_epoch: Epoch(epoch),
        host_id: host,
        pools: vec![(volume(h, vm).await, name("default"))],
        explanation: json!({"summary": "it fits"}),
        now: now(),
    }
}

async fn place(h: &House, vm: VmId, host: HostId, epoch: i64) -> Placed {
    let place = decision(h, vm, host, epoch).await;
    let mut tx = h.db.store.system().await.unwrap();
    let placed = placements::place(&mut tx, &place).await.unwrap();
    tx.commit().await.unwrap();
    placed
}

async fn claims(h: &House, host: HostId) -> (u32, u32, u64, u64) {
    let mut tx = h.db.store.system_read().await.unwrap();
    let claimed = hosts::get(&mut tx, &Key::from(host)).await.unwrap().claimed;
    let pools = pools::list(&mut tx, Some(host), &Page::default()).await.unwrap().items;
    (claimed.vms, claimed.cpus, claimed.memory_bytes, pools[0].claimed_bytes)
}

#[tokio::test]
async fn a_placement_claims_and_binds_and_a_release_gives_back() {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(4, 16 * GIB, 100 * GIB)).await;
    let vm = h.vm("web-1").await.object.id();
    assert_eq!(place(&h, vm, host, 0).await, Placed::Placed(Epoch(1)));
    assert_eq!(claims(&h, host).await, (1, 1, GIB, GIB));
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let view = vms::get(&mut tx, h.project, &Key::from(vm)).await.unwrap();
    let placement = view.placement.unwrap();
    assert_eq!(
        (placement.host_id, placement.host.unwrap().as_str(), placement.epoch),
        (Some(host), "h1", Epoch(1))
    );
    let explained = vms::explanation(&mut tx, vm).await.unwrap().unwrap();
    assert_eq!(explained.explanation, json!({"summary": "it fits"}));
    drop(tx);
    assert_eq!(place(&h, vm, host, 1).await, Placed::Stale, "placed already");
    let mut tx = h.db.store.system().await.unwrap();
    assert!(!placements::release(&mut tx, vm, Epoch(7), now()).await.unwrap());
    assert!(placements::release(&mut tx, vm, Epoch(1), now()).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(claims(&h, host).await, (0, 0, 0, GIB), "the volume stays where it is");
    assert_eq!(place(&h, vm, host, 0).await, Placed::Stale, "an epoch is never given twice");
    assert_eq!(place(&h, vm, host, 1).await, Placed::Placed(Epoch(2)));
    assert_eq!(claims(&h, host).await, (1, 1, GIB, GIB));
}

#[tokio::test]
async fn a_stale_decision_claims_nothing() {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(4, 16 * GIB, 100 * GIB)).await;
    let vm = h.vm("web-1").await.object;
    let mut decision = Place {
        vm_id: vm.id(),
        generation: Some(basalt_model::Generation(2)),
        expected_epoch: Epoch(0),
        host_id: host,
        pools: vec![(vm.disks[0].volume_id.unwrap(), name("default"))],
        explanation: json!({}),
        now: now(),
    };
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(placements::place(&mut tx, &decision).await.unwrap(), Placed::Stale, "another generation");
    decision.generation = None;
    decision.pools.clear();
    assert_eq!(
        placements::place(&mut tx, &decision).await.unwrap(),
        Placed::Stale,
        "a volume without a pool"
    );
    decision.pools = vec![(vm.disks[0].volume_id.unwrap(), name("nowhere"))];
    let full = placements::place(&mut tx, &decision).await.unwrap();
    assert!(matches!(&full, Placed::Full(r) if r.code == "insufficient_storage"), "{full:?}");
    tx.commit().await.unwrap();
    assert_eq!(claims(&h, host).await, (0, 0, 0, 0));
}

#[tokio::test]
async fn an_unplaced_vm_says_why_until_it_is_placed() {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(4, 16 * GIB, 100 * GIB)).await;
    let vm = h.vm("web-1").await.object;
    let judged = |epoch| Unplaced {
        vm_id: vm.id(),
        generation: vm.metadata.generation,
        expected_epoch: Epoch(epoch),
        explanation: json!({"summary": "no host"}),
        now: now(),
    };
    let mut tx = h.db.store.system().await.unwrap();
    assert!(placements::record_unplaced(&mut tx, &[judged(3)]).await.unwrap().is_empty());
    let parked = placements::record_unplaced(&mut tx, &[judged(0)]).await.unwrap();
    assert_eq!(parked, [vm.id()].into());
    assert_eq!(placements::record_unplaced(&mut tx, &[judged(0)]).await.unwrap(), parked, "the same again");
    assert!(placements::record_unplaced(&mut tx, &[judged(3)]).await.unwrap().is_empty());
    tx.commit().await.unwrap();
    assert_eq!(place(&h, vm.id(), host, 0).await, Placed::Placed(Epoch(1)));
    let mut tx = h.db.store.system().await.unwrap();
    assert!(placements::record_unplaced(&mut tx, &[judged(1)]).await.unwrap().is_empty(), "it is placed");
}

#[tokio::test]
async fn several_placements_at_once_all_hold_or_none() {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(1, 4 * GIB, 4 * GIB)).await;
    let short = testkit::host(&h.db, &h.ids, "h2", facts(4, 16 * GIB, GIB)).await;
    let going = testkit::host(&h.db, &h.ids, "h3", facts(4, 16 * GIB, 100 * GIB)).await;
    let vms = h.vms(7).await;
    let mut tx = h.db.store.system().await.unwrap();
    hosts::delete(&mut tx, &h.change(), &Key::from(going), None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(place(&h, vms[6], host, 0).await, Placed::Placed(Epoch(1)));
    let good = decision(&h, vms[0], host, 0).await;
    let (other, third) = (decision(&h, vms[1], short, 0).await, decision(&h, vms[2], short, 0).await);
    let without_pool = Place { pools: vec![], ..other.clone() };
    let wrong_pool = Place { pools: vec![(other.pools[0].0, name("nowhere"))], ..other.clone() };
    let not_its_volume = Place { pools: third.pools.clone(), ..other.clone() };
    for (what, bad) in [
        (
            "another generation",
            vec![Place { generation: Some(basalt_model::Generation(2)), ..other.clone() }],
        ),
        ("an epoch that never was", vec![Place { expected_epoch: Epoch(3), ..other.clone() }]),
        ("placed already", vec![decision(&h, vms[6], short, 0).await]),
        ("its volume is elsewhere", vec![decision(&h, vms[6], short, 1).await]),
        ("a volume without a pool", vec![without_pool]),
        ("a pool that is not there", vec![wrong_pool]),
        ("another VM's volume", vec![not_its_volume]),
        ("a host that is going", vec![decision(&h, vms[1], going, 0).await]),
        ("a pool without room for both", vec![other.clone(), third.clone()]),
        ("a host without room", {
            let mut many = vec![];
            for vm in &vms[1..6] {
                many.push(decision(&h, *vm, host, 0).await);
            }
            many
        }),
    ] {
        let all: Vec<Place> = std::iter::once(good.clone()).chain(bad).collect();
        let mut tx = h.db.store.system().await.unwrap();
        assert_eq!(placements::place_all(&mut tx, &all).await.unwrap(), None, "{what}");
    }
    assert_eq!(claims(&h, host).await, (1, 1, GIB, GIB), "what did not hold left nothing");
    let mut tx = h.db.store.system().await.unwrap();
    let epochs = placements::place_all(&mut tx, &[good, other]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(epochs, Some(vec![Epoch(1), Epoch(1)]));
    assert_eq!(claims(&h, host).await, (2, 2, 2 * GIB, 2 * GIB));
    assert_eq!(claims(&h, short).await, (1, 1, GIB, GIB));
    let mut tx = h.db.store.system_read().await.unwrap();
    let bound = Key::Id(volume(&h, vms[1]).await.0);
    let volume = volumes::get(&mut tx, h.project, &bound).await.unwrap().volume;
    assert_eq!((volume.host_id, volume.pool), (Some(short), Some(name("default"))));
}

/// Four deciders place the same forty VMs on a host that can take sixteen (four threads, 400 %).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pl4_concurrent_places_never_overfill_a_host() {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(4, 64 * GIB, 1000 * GIB)).await;
    let vms = h.vms(24).await;
    let decide = |offset: usize| {
        let (h, vms) = (&h, &vms);
        async move {
            let mut placed = 0;
            for i in 0..vms.len() {
                let vm = vms[(i * 5 + offset) % vms.len()];
                match place(h, vm, host, 0).await {
                    Placed::Placed(epoch) => {
                        assert_eq!(epoch, Epoch(1));
                        placed += 1;
                    }
                    Placed::Stale => {}
                    Placed::Full(reason) => assert_eq!(reason.code, "host_full"),
                }
            }
            placed
        }
    };
    let (a, b, c, d) = tokio::join!(decide(0), decide(6), decide(12), decide(18));
    assert_eq!(a + b + c + d, 16, "as many as fit, and each once");
    assert_eq!(claims(&h, host).await, (16, 16, 16 * GIB, 16 * GIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pl4_concurrent_places_never_overfill_a_pool() {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(64, 64 * GIB, 3 * GIB)).await;
    let vms = h.vms(8).await;
    let all = futures::future::join_all(vms.iter().map(|vm| place(&h, *vm, host, 0))).await;
    assert_eq!(all.iter().filter(|p| matches!(p, Placed::Placed(_))).count(), 3, "{all:?}");
    assert_eq!(claims(&h, host).await, (3, 3, 3 * GIB, 3 * GIB), "the refused ones took nothing of the host");
}

fn group(text: &str) -> Labels {
    [("group", text)].into_iter().collect()
}

/// A VM of a group with hard rules about groups: which it must be beside, and which not.
async fn ruled(h: &House, vm: &str, of: Option<&str>, beside: &[&str], apart: &[&str]) -> VmId {
    let mut spec = small();
    let rules = |of: &[&str]| {
        of.iter().map(|g| AffinityRule { vm_labels: group(g), required: true }).collect::<Vec<_>>()
    };
    (spec.placement.affinity, spec.placement.anti_affinity) = (rules(beside), rules(apart));
    let labels = of.map(group).unwrap_or_default();
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let new = New { name: name(vm), labels, spec };
    let accepted = vms::insert(&mut tx, &h.change(), h.project, &new).await.unwrap();
    tx.commit().await.unwrap();
    accepted.object.id()
}

async fn place_all(h: &House, places: &[(VmId, HostId)]) -> bool {
    let mut all = vec![];
    for (vm, host) in places {
        all.push(decision(h, *vm, *host, 0).await);
    }
    let mut tx = h.db.store.system().await.unwrap();
    let placed = placements::place_all(&mut tx, &all).await.unwrap().is_some();
    if placed {
        tx.commit().await.unwrap();
    }
    placed
}

/// Two deciders that saw an empty host, each with another VM of the group, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pl3_of_two_deciders_one_is_refused_the_host_of_the_others_vm() {
    let h = House::new().await;
    for round in 0..8 {
        let host = testkit::host(&h.db, &h.ids, &format!("h{round}"), facts(4, 16 * GIB, 100 * GIB)).await;
        let (a, b) = (format!("a-{round}"), format!("b-{round}"));
        // Odd rounds: only one of them has the rule, and it holds for both.
        let apart: &[&str] = if round % 2 == 0 { &["web"] } else { &[] };
        let (a, b) =
            (ruled(&h, &a, Some("web"), &[], &["web"]).await, ruled(&h, &b, Some("web"), &[], apart).await);
        let (first, second) = tokio::join!(place(&h, a, host, 0), place(&h, b, host, 0));
        let refused = match (&first, &second) {
            (Placed::Placed(_), Placed::Full(reason)) | (Placed::Full(reason), Placed::Placed(_)) => reason,
            both => panic!("{both:?}"),
        };
        assert_eq!(refused.code, "anti_affinity");
        assert!(refused.evidence.starts_with("vm/") && !refused.remedy.is_empty(), "{refused}");
        assert_eq!(claims(&h, host).await.0, 1, "the refused one took nothing");
    }
}

/// Batches are one statement: it sees what another transaction committed while it waited for the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pl3_a_batch_that_waited_for_a_host_sees_who_was_put_there() {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(4, 16 * GIB, 100 * GIB)).await;
    // The rule is the other's, and comes into the world after the batch has begun to wait.
    let plain = ruled(&h, "plain", Some("web"), &[], &[]).await;
    let mut holder = h.db.store.system().await.unwrap();
    let before = ruled(&h, "before", None, &[], &[]).await;
    let before = decision(&h, before, host, 0).await;
    assert_eq!(placements::place(&mut holder, &before).await.unwrap(), Placed::Placed(Epoch(1)));
    let batch = [(plain, host)];
    let waits = place_all(&h, &batch);
    let meanwhile = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let jealous = ruled(&h, "jealous", None, &[], &["web"]).await;
        let jealous = decision(&h, jealous, host, 0).await;
        assert_eq!(placements::place(&mut holder, &jealous).await.unwrap(), Placed::Placed(Epoch(1)));
        holder.commit().await.unwrap();
    };
    let (placed, ()) = tokio::join!(waits, meanwhile);
    assert!(!placed, "what was put there keeps it away");
    assert!(matches!(place(&h, plain, host, 0).await, Placed::Full(r) if r.code == "anti_affinity"));
}

#[tokio::test]
async fn pl3_a_batch_breaks_no_rule_among_its_own_vms() {
    let h = House::new().await;
    let (one, two) = (
        testkit::host(&h.db, &h.ids, "h1", facts(4, 16 * GIB, 100 * GIB)).await,
        testkit::host(&h.db, &h.ids, "h2", facts(4, 16 * GIB, 100 * GIB)).await,
    );
    let (a, b) =
        (ruled(&h, "a", Some("web"), &[], &["web"]).await, ruled(&h, "b", Some("web"), &[], &["web"]).await);
    assert!(!place_all(&h, &[(a, one), (b, one)]).await);
    assert!(place_all(&h, &[(a, one), (b, two)]).await);
    let (c, d) =
        (ruled(&h, "c", Some("db"), &["db"], &[]).await, ruled(&h, "d", Some("db"), &["db"], &[]).await);
    assert!(!place_all(&h, &[(c, one), (d, two)]).await, "a group does not begin on two hosts");
    assert!(place_all(&h, &[(c, two), (d, two)]).await);
    let follower = ruled(&h, "follower", None, &["db"], &[]).await;
    let full = place(&h, follower, one, 0).await;
    assert!(matches!(&full, Placed::Full(r) if r.code == "affinity_unmet"), "{full:?}");
    assert_eq!(place(&h, follower, two, 0).await, Placed::Placed(Epoch(1)));
}

/// The first two VMs of a group have no host in common, and still do not part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pl3_two_deciders_do_not_begin_one_group_on_two_hosts() {
    let h = House::new().await;
    let (one, two) = (
        testkit::host(&h.db, &h.ids, "h1", facts(16, 64 * GIB, 100 * GIB)).await,
        testkit::host(&h.db, &h.ids, "h2", facts(16, 64 * GIB, 100 * GIB)).await,
    );
    for round in 0..8 {
        let of = format!("g{round}");
        let a = ruled(&h, &format!("a-{round}"), Some(&of), &[&of], &[]).await;
        let b = ruled(&h, &format!("b-{round}"), Some(&of), &[&of], &[]).await;
        let both = tokio::join!(place(&h, a, one, 0), place(&h, b, two, 0));
        match &both {
            (Placed::Placed(_), Placed::Full(r)) | (Placed::Full(r), Placed::Placed(_)) => {
                assert_eq!(r.code, "affinity_unmet");
            }
            _ => panic!("{both:?}"),
        }
    }
}

#[tokio::test]
async fn a_larger_vm_claims_more_of_its_host_or_is_refused() {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(1, 3 * GIB, 100 * GIB)).await;
    let vm = h.vm("web-1").await.object.id();
    assert_eq!(place(&h, vm, host, 0).await, Placed::Placed(Epoch(1)));
    let mut spec = small();
    spec.memory_bytes = 2 * GIB;
    let mut update = Update { expected: None, labels: None, spec };
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    vms::update(&mut tx, &h.change(), h.project, &Key::from(vm), &update).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(claims(&h, host).await, (1, 1, 2 * GIB, GIB));
    update.spec.memory_bytes = 4 * GIB;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let e = vms::update(&mut tx, &h.change(), h.project, &Key::from(vm), &update).await.unwrap_err();
    assert!(matches!(e, Error::HostFull(_)), "{e}");
    drop(tx);
    assert_eq!(claims(&h, host).await, (1, 1, 2 * GIB, GIB));
}

#[tokio::test]
async fn a_host_with_vms_stays_and_a_going_host_takes_none() {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(4, 16 * GIB, 100 * GIB)).await;
    let other = testkit::host(&h.db, &h.ids, "h2", facts(4, 16 * GIB, 100 * GIB)).await;
    let vm = h.vm("web-1").await.object.id();
    assert_eq!(place(&h, vm, host, 0).await, Placed::Placed(Epoch(1)));
    let c = h.change();
    let mut tx = h.db.store.system().await.unwrap();
    let e = hosts::delete(&mut tx, &c, &Key::from(host), None).await.unwrap_err();
    assert!(matches!(&e, Error::InUse { kind: "host", by, .. } if by == &["vm/web-1"]), "{e}");
    hosts::delete(&mut tx, &c, &Key::from(other), None).await.unwrap();
    tx.commit().await.unwrap();
    let late = h.vm("web-2").await.object.id();
    assert_eq!(place(&h, late, other, 0).await, Placed::Stale);
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(hosts::finalize(&mut tx, other).await.unwrap(), basalt_store::Finalized::Done);
    tx.commit().await.unwrap();
}
