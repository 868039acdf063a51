//! Manifests and reports: what a host is told, what it says, and what counts of it.

use crate::fixture::House;
use basalt_model::{
    Epoch, GIB, Generation, HostId, VmId,
    vms::{ObservedPower, VmObserved},
};
use basalt_store::{
    Finalized, Key, agent_conflicts, hosts,
    manifests::{self, Item, Put, Write},
    placements::{self, Place, Placed},
    reports::{self, Applied, ItemFact, Report, Seen},
    testkit::{self, facts, name, now},
    vms,
};
use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

struct OnHost {
    h: House,
    host: HostId,
    vm: VmId,
}

/// A VM that is placed on a host at epoch 1.
async fn placed() -> OnHost {
    let h = House::new().await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(4, 16 * GIB, 100 * GIB)).await;
    let made = h.vm("web-1").await.object;
    let place = Place {
        vm_id: made.id(),
        generation: None,
        expected_epoch: Epoch(0),
        host_id: host,
        pools: vec![(made.disks[0].volume_id.unwrap(), name("default"))],
        explanation: json!({}),
        now: now(),
    };
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(placements::place(&mut tx, &place).await.unwrap(), Placed::Placed(Epoch(1)));
    tx.commit().await.unwrap();
    OnHost { h, host, vm: made.id() }
}

/// Starts of an agent, in order, and all after that by which the host of the tests was made known.
fn start(n: u128) -> Uuid {
    Uuid::from_u128((0xf << 124) + n)
}

fn item(vm: VmId, generation: i64, epoch: i64, present: bool) -> Item {
    Item {
        kind: "vm".into(),
        id: vm.0,
        generation: Generation(generation),
        epoch: Epoch(epoch),
        present,
        body: if present { json!({"as": "vm", "name": "web-1"}) } else { json!({"as": "absent"}) },
    }
}

impl OnHost {
    async fn put(&self, upserts: &[Item], removes: &[(String, Uuid)]) -> Put {
        let mut tx = self.h.db.store.system().await.unwrap();
        let write = Write { host_id: self.host, upserts: upserts.to_vec(), removes: removes.to_vec() };
        let put = manifests::put(&mut tx, &[write], now()).await.unwrap();
        tx.commit().await.unwrap();
        put.into_iter().next().unwrap()
    }

    async fn report(&self, boot: u128, sequence: i64, revision: i64, items: Vec<ItemFact>) -> Applied {
        let report = Report {
            agent_boot: start(boot),
            sequence,
            manifest_revision: Some(revision),
            manifest_refused: None,
            facts: None,
            items,
        };
        let mut tx = self.h.db.store.system().await.unwrap();
        let applied = reports::apply(&mut tx, self.host, &report, &self.h.ids, now()).await.unwrap();
        tx.commit().await.unwrap();
        applied
    }

    fn seen(&self, generation: i64, epoch: i64, seen: Seen) -> Vec<ItemFact> {
        let (generation, epoch) = (Generation(generation), Epoch(epoch));
        vec![ItemFact { kind: "vm".into(), id: self.vm.0, generation, epoch, seen, stage: String::new() }]
    }

    async fn view(&self) -> vms::VmView {
        let mut tx = self.h.db.store.system_read().await.unwrap();
        vms::get_by_id(&mut tx, self.vm).await.unwrap()
    }

    async fn finalize(&self) -> Finalized {
        let mut tx = self.h.db.store.system().await.unwrap();
        let done = vms::finalize(&mut tx, self.vm, now()).await.unwrap();
        tx.commit().await.unwrap();
        done
    }
}

fn running() -> Seen {
    Seen::Vm(Box::new(VmObserved { power: ObservedPower::Running, ..VmObserved::default() }))
}

#[tokio::test]
async fn the_revision_moves_when_a_row_does_and_the_past_is_refused() {
    let p = placed().await;
    let first = p.put(&[item(p.vm, 2, 1, true)], &[]).await;
    assert_eq!((first.revision, first.written), (1, 1));
    assert_eq!(p.put(&[item(p.vm, 2, 1, true)], &[]).await.revision, 1, "the same again");
    for older in [item(p.vm, 1, 1, false), item(p.vm, 2, 0, false)] {
        let put = p.put(&[older], &[]).await;
        assert_eq!((put.revision, put.refused), (1, vec![("vm".to_string(), p.vm.0)]));
    }
    let mut tx = p.h.db.store.system_read().await.unwrap();
    let manifest = manifests::get(&mut tx, p.host).await.unwrap();
    assert_eq!((manifest.revision, manifest.items), (1, vec![item(p.vm, 2, 1, true)]));
    assert_eq!(manifests::get::<Value>(&mut tx, HostId((p.h.ids)())).await.unwrap().revision, 0);
}

#[tokio::test]
async fn an_item_leaves_only_after_the_host_reported_it_gone() {
    let p = placed().await;
    let key = [("vm".to_string(), p.vm.0)];
    p.put(&[item(p.vm, 1, 1, true)], &[]).await;
    assert_eq!(p.put(&[], &key).await.refused, key, "it is present");
    p.put(&[item(p.vm, 2, 1, false)], &[]).await;
    assert_eq!(p.put(&[], &key).await.refused, key, "nobody said it is gone");
    p.report(1, 1, 2, p.seen(1, 0, Seen::Gone)).await;
    assert_eq!(p.put(&[], &key).await.refused, key, "gone at an older epoch");
    p.report(1, 2, 2, p.seen(2, 1, Seen::Gone)).await;
    let put = p.put(&[], &key).await;
    assert_eq!((put.written, put.refused.len(), put.revision), (1, 0, 3));
    assert_eq!(p.put(&[], &key).await, Put { revision: 3, written: 0, refused: vec![] }, "removed already");
}

#[tokio::test]
async fn r15_a_deleted_vm_keeps_its_rows_until_its_host_has_nothing_of_it() {
    let p = placed().await;
    p.put(&[item(p.vm, 1, 1, true)], &[]).await;
    assert_eq!(p.finalize().await, Finalized::Waiting, "its deletion was not asked for");
    let mut tx = p.h.db.store.tenant(p.h.tenant).await.unwrap();
    vms::delete(&mut tx, &p.h.change(), p.h.project, &Key::from(p.vm), None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(p.finalize().await, Finalized::Waiting, "the host has it");
    p.put(&[item(p.vm, 2, 1, false)], &[]).await;
    assert_eq!(p.finalize().await, Finalized::Waiting, "the host did not say that it is gone");
    p.report(1, 1, 2, p.seen(2, 1, Seen::Gone)).await;
    assert_eq!(p.finalize().await, Finalized::Done);
    let mut tx = p.h.db.store.system().await.unwrap();
    let host = hosts::get(&mut tx, &Key::from(p.host)).await.unwrap();
    assert_eq!((host.claimed.vms, host.claimed.cpus), (0, 0));
    drop(tx);
    let late = p.put(&[item(p.vm, 9, 9, true)], &[]).await;
    assert_eq!(late.refused, [("vm".to_string(), p.vm.0)], "nothing is told to have what is gone");
}

#[tokio::test]
async fn facts_count_only_from_the_host_and_epoch_that_a_vm_is_placed_at() {
    let p = placed().await;
    let stranger = testkit::host(&p.h.db, &p.h.ids, "h2", facts(4, 16 * GIB, 100 * GIB)).await;
    p.put(&[item(p.vm, 1, 1, true)], &[]).await;
    p.report(1, 1, 1, p.seen(1, 0, running())).await;
    assert_eq!(p.view().await.facts, None, "an older epoch");
    let other = OnHost { host: stranger, vm: p.vm, h: p.h };
    other.report(2, 1, 1, other.seen(1, 1, running())).await;
    assert_eq!(other.view().await.facts, None, "another host");
    let p = OnHost { host: p.host, vm: p.vm, h: other.h };
    p.report(1, 2, 1, p.seen(1, 1, running())).await;
    let facts = p.view().await.facts.unwrap();
    assert_eq!(
        (facts.host_id, facts.observed.power, facts.observed_generation.0),
        (p.host, ObservedPower::Running, 1)
    );
    assert_eq!(facts.observed.host_id, Some(p.host));
}

#[tokio::test]
async fn late_reports_are_dropped_and_an_unknown_start_is_asked_for_everything() {
    let p = placed().await;
    p.put(&[item(p.vm, 1, 1, true)], &[]).await;
    let power = |power| Seen::Vm(Box::new(VmObserved { power, ..VmObserved::default() }));
    assert_eq!(
        p.report(5, 1, 1, vec![]).await,
        Applied { accepted: true, followed: false, send_full: false }
    );
    assert_eq!(
        p.report(5, 3, 1, p.seen(1, 1, running())).await,
        Applied { accepted: true, followed: false, send_full: false }
    );
    let late = p.report(5, 2, 1, p.seen(1, 1, power(ObservedPower::Stopped))).await;
    assert!(!late.accepted);
    assert_eq!(p.view().await.facts.unwrap().observed.power, ObservedPower::Running);
    assert_eq!(
        p.report(4, 1, 1, vec![]).await,
        Applied { accepted: false, followed: true, send_full: false },
        "R40, R44: an older start whose first report was late must not fence the one that runs"
    );
    assert_eq!(
        p.report(6, 7, 1, vec![]).await,
        Applied { accepted: true, followed: false, send_full: true },
        "a newer start we know nothing of"
    );
    assert!(
        !p.report(5, 9, 1, p.seen(1, 1, power(ObservedPower::Stopped))).await.accepted,
        "the start before"
    );
    let mut tx = p.h.db.store.system().await.unwrap();
    assert_eq!(reports::manifest_state(&mut tx, p.host).await.unwrap().unwrap().0, Some(1));
}

#[tokio::test]
async fn h1_r44_a_conflict_of_agents_keeps_who_is_in_it_and_since_when_and_ends_after_silence() {
    let p = placed().await;
    let at = |seconds| now() + TimeDelta::seconds(seconds);
    let record = async |boot: u128, seconds| {
        let mut tx = p.h.db.store.system().await.unwrap();
        let written = agent_conflicts::record(&mut tx, p.host, start(boot), at(seconds)).await.unwrap();
        tx.commit().await.unwrap();
        written
    };
    let read = async || {
        let mut tx = p.h.db.store.system_read().await.unwrap();
        agent_conflicts::get(&mut tx, p.host).await.unwrap()
    };
    p.report(7, 1, 1, vec![]).await;
    assert!(!record(7, 0).await, "the start that counts is in no conflict with itself");
    assert_eq!(read().await, None);
    for (boot, seconds) in [(5, 0), (5, 20), (6, 40), (5, 60)] {
        assert!(record(boot, seconds).await);
    }
    let kept = read().await.unwrap();
    assert_eq!((kept.conflict.since, kept.tried_at), (at(0), at(60)));
    assert_eq!(kept.conflict.agent_boot, start(7));
    assert_eq!(kept.conflict.fenced_boots, [6, 5].map(start));
    for boot in 10..30 {
        record(boot, 60).await;
    }
    assert_eq!(read().await.unwrap().conflict.fenced_boots.len(), 8, "however many try");
    for (before, ended) in [(60, 0), (61, 1)] {
        let mut tx = p.h.db.store.system().await.unwrap();
        assert_eq!(agent_conflicts::clear(&mut tx, at(before)).await.unwrap(), ended);
        tx.commit().await.unwrap();
    }
    assert_eq!(read().await, None);
}

#[tokio::test]
async fn what_was_gone_and_is_wanted_again_is_asked_for_anew() {
    let p = placed().await;
    let key = ("vm".to_string(), p.vm.0);
    p.put(&[item(p.vm, 1, 1, false)], &[]).await;
    p.report(1, 1, 1, p.seen(1, 1, Seen::Gone)).await;
    p.put(&[item(p.vm, 2, 1, true)], &[]).await;
    // The same goodbye again, about the manifest before: it says nothing of what is wanted now.
    assert!(p.report(1, 2, 1, p.seen(1, 1, Seen::Gone)).await.send_full);
    p.put(&[item(p.vm, 3, 1, false)], &[]).await;
    assert_eq!(p.put(&[], std::slice::from_ref(&key)).await.refused, std::slice::from_ref(&key));
    p.report(1, 3, 3, p.seen(3, 1, Seen::Gone)).await;
    assert_eq!(p.put(&[], std::slice::from_ref(&key)).await.written, 1);
}

#[tokio::test]
async fn r40_heartbeats_keep_the_last_sign_of_life_whoever_clock_is_ahead() {
    let p = placed().await;
    let later = now() + TimeDelta::seconds(30);
    let mut tx = p.h.db.store.system().await.unwrap();
    hosts::beat(&mut tx, &[(p.host, later), (p.host, now())]).await.unwrap();
    assert_eq!(hosts::heartbeats(&mut tx).await.unwrap(), [(p.host, later)], "of one gateway the newest");
    // Of another one, whose clock is behind: that it changed says that the host was heard of.
    hosts::beat(&mut tx, &[(p.host, now())]).await.unwrap();
    assert_eq!(hosts::heartbeats(&mut tx).await.unwrap(), [(p.host, now())]);
}

#[tokio::test]
async fn a_join_token_works_once_and_revoked_certificates_are_known() {
    let p = placed().await;
    let c = p.h.change();
    let soon = now() + TimeDelta::minutes(10);
    let mut tx = p.h.db.store.system().await.unwrap();
    hosts::put_join_token(&mut tx, &c, p.host, b"one", soon).await.unwrap();
    hosts::put_join_token(&mut tx, &c, p.host, b"two", soon).await.unwrap();
    for (hash, at) in [(b"one", now()), (b"two", soon)] {
        assert!(hosts::redeem_join_token(&mut tx, hash, at).await.is_err());
    }
    assert_eq!(hosts::redeem_join_token(&mut tx, b"two", now()).await.unwrap().id(), p.host);
    assert!(hosts::redeem_join_token(&mut tx, b"two", now()).await.is_err());
    let certificate = hosts::Certificate {
        serial: "0a".into(),
        host_id: p.host,
        issued_at: now(),
        not_after: soon,
        revoked_at: None,
    };
    hosts::record_certificate(&mut tx, &certificate).await.unwrap();
    assert_eq!(hosts::certificate(&mut tx, "0a").await.unwrap(), Some(certificate));
    assert_eq!(hosts::revoke(&mut tx, &c, p.host).await.unwrap(), 1);
    assert_eq!(hosts::revoked(&mut tx, now()).await.unwrap().len(), 1);
    assert!(hosts::revoked(&mut tx, soon).await.unwrap().is_empty());
}

#[tokio::test]
async fn one_write_of_several_manifests_moves_each_by_itself() {
    let p = placed().await;
    let (h2, h3) = (
        testkit::host(&p.h.db, &p.h.ids, "h2", facts(4, 16 * GIB, 100 * GIB)).await,
        testkit::host(&p.h.db, &p.h.ids, "h3", facts(4, 16 * GIB, 100 * GIB)).await,
    );
    p.put(&[item(p.vm, 2, 1, true)], &[]).await;
    let gone = item(VmId(Uuid::from_u128(7)), 1, 1, true);
    let write = |host_id, upserts: &[Item]| Write { host_id, upserts: upserts.to_vec(), removes: vec![] };
    let writes = [
        write(p.host, &[item(p.vm, 1, 1, true)]),
        write(h2, &[item(p.vm, 1, 1, true), gone.clone()]),
        write(h3, std::slice::from_ref(&gone)),
    ];
    let mut tx = p.h.db.store.system().await.unwrap();
    let puts = manifests::put(&mut tx, &writes, now()).await.unwrap();
    tx.commit().await.unwrap();
    let refused = |id: VmId| vec![("vm".to_owned(), id.0)];
    assert_eq!(
        puts,
        [
            Put { revision: 1, written: 0, refused: refused(p.vm) },
            Put { revision: 1, written: 1, refused: refused(VmId(gone.id)) },
            Put { revision: 0, written: 0, refused: refused(VmId(gone.id)) },
        ],
        "older on the first; an object that is gone on the others"
    );
    let mut tx = p.h.db.store.system_read().await.unwrap();
    assert_eq!(manifests::get::<Value>(&mut tx, p.host).await.unwrap().items[0].generation, Generation(2));
    assert_eq!(manifests::get::<Value>(&mut tx, h2).await.unwrap().items.len(), 1);
}
