//! H5: what stands on a host is declared with its placement, in one transaction or not at all.

use crate::fixture::House;
use basalt_model::{
    Epoch, GIB, HostId, MIB, NetworkId, PortId, VmId, VolumeId,
    adoption::{AdoptedDisk, AdoptedNic, AdoptedSource, AdoptedVm, AdoptedVolume, Known, Named},
    hosts::Foreign,
    images::ImageFormat,
    quotas::QuotaSpec,
    tasks::{Task, TaskKind},
    vms::VmSpec,
    volumes::{VolumeSource, VolumeSpec},
};
use basalt_store::{
    Accepted, Error, Finalized, Key, Page, adoption, audit_events, hosts, networks, pools, quotas,
    testkit::{self, facts, name, now},
    vms::{self, Vm},
    volumes,
};
use serde_json::json;
use std::net::Ipv4Addr;
use uuid::Uuid;

const ID: VmId = VmId(Uuid::from_u128(0xf0_0001));

async fn host(h: &House) -> HostId {
    testkit::host(&h.db, &h.ids, "h1", facts(4, 16 * GIB, 100 * GIB)).await
}

async fn network(h: &House, text: &str) -> NetworkId {
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    networks::get(&mut tx, h.project, &Key::Name(name(text))).await.unwrap().network.id()
}

fn volume(text: &str, size_bytes: u64) -> AdoptedVolume {
    let source = VolumeSource::Adopted { file: format!("{text}.qcow2") };
    AdoptedVolume {
        id: None,
        name: name(text),
        spec: VolumeSpec { size_bytes, source, pool: Some(name("default")) },
        pool: name("default"),
        image_id: None,
        incarnation: 0,
    }
}

async fn vm(h: &House, text: &str) -> AdoptedVm {
    let spec: VmSpec = serde_json::from_value(json!({
        "cpus": 2, "memory_bytes": GIB, "nics": [{"network": "net"}],
        "disks": [{"name": "root", "source": {"kind": "volume", "volume": format!("{text}-root")}}],
    }))
    .unwrap();
    AdoptedVm {
        id: ID,
        name: name(text),
        spec,
        incarnation: 3,
        epoch: Epoch(5),
        disks: vec![AdoptedDisk {
            name: name("root"),
            boot_order: None,
            source: AdoptedSource::Volume(volume(&format!("{text}-root"), 7 * GIB + 512)),
        }],
        nics: vec![AdoptedNic {
            network_id: network(h, "net").await,
            network: name("net"),
            port_id: Some(PortId(Uuid::from_u128(0xf0_0002))),
            mac: Some("52:54:00:aa:bb:cc".into()),
            address: Some(Ipv4Addr::new(10, 10, 0, 77)),
        }],
    }
}

async fn adopt(h: &House, host: HostId, vm: &AdoptedVm) -> Result<Accepted<Vm>, Error> {
    let mut tx = h.db.store.tenant(h.tenant).await?;
    let host = adoption::host(&mut tx, &Key::from(host)).await?;
    let explanation = json!({"summary": "it was there"});
    let made = adoption::insert_vm(&mut tx, &h.change(), h.project, &host, vm, &explanation).await?;
    tx.commit().await?;
    Ok(made)
}

async fn claims(h: &House, host: HostId) -> (u32, u32, u64, u64) {
    let mut tx = h.db.store.system_read().await.unwrap();
    let claimed = hosts::get(&mut tx, &Key::from(host)).await.unwrap().claimed;
    let pools = pools::list(&mut tx, Some(host), &Page::default()).await.unwrap().items;
    (claimed.vms, claimed.cpus, claimed.memory_bytes, pools[0].claimed_bytes)
}

async fn used(h: &House) -> (u32, u32, u64, u64) {
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let used = quotas::get(&mut tx, h.project).await.unwrap().used;
    (used.vms, used.cpus, used.memory_bytes, used.storage_bytes)
}

async fn audited(h: &House, action: &str) -> usize {
    let filter = audit_events::Filter { action: Some(action.into()), ..Default::default() };
    let mut tx = h.db.store.system_read().await.unwrap();
    audit_events::list(&mut tx, &filter, &Page::default()).await.unwrap().items.len()
}

#[tokio::test]
async fn h5_an_adopted_vm_is_declared_with_volumes_ports_claims_task_audit_and_its_placement() {
    let h = House::new().await;
    let host = host(&h).await;
    let made = adopt(&h, host, &vm(&h, "web").await).await.unwrap();
    let task: Task = made.task;
    assert_eq!((task.kind, task.subject.id, task.generation.0), (TaskKind::VmAdopt, ID.0, 1));
    assert_eq!((audited(&h, "vm.adopt").await, audited(&h, "vm.create").await), (1, 0));
    assert_eq!(claims(&h, host).await, (1, 2, GIB, 7 * GIB + 512));
    assert_eq!(used(&h).await, (1, 2, GIB, 7 * GIB + 512));
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let view = vms::get(&mut tx, h.project, &Key::from(ID)).await.unwrap();
    let placement = view.placement.unwrap();
    assert_eq!((placement.host_id, placement.epoch), (Some(host), Epoch(5)), "the placement that it says");
    assert_eq!((view.vm.incarnation, view.vm.metadata.generation.0), (3, 1));
    let nic = &view.vm.nics[0];
    assert_eq!((nic.mac.as_str(), nic.address), ("52:54:00:aa:bb:cc", Ipv4Addr::new(10, 10, 0, 77)));
    assert_eq!(nic.port_id, PortId(Uuid::from_u128(0xf0_0002)));
    let ports = networks::ports(&mut tx, h.project, None, &Page::default()).await.unwrap().items;
    assert_eq!((ports.len(), &ports[0].nic), (1, nic));
    let disk = volumes::get(&mut tx, h.project, &Key::Name(name("web-root"))).await.unwrap().volume;
    assert_eq!((disk.host_id, disk.pool, disk.vm_id), (Some(host), Some(name("default")), Some(ID)));
    assert!(!disk.owned, "it is the user's bytes");
    assert_eq!(view.vm.disks[0].volume_id, Some(VolumeId(disk.metadata.id)));
    let lan = networks::get(&mut tx, h.project, &Key::Name(name("net"))).await.unwrap();
    assert_eq!(lan.addresses_used, 1);
}

#[tokio::test]
async fn h5_a_refused_adoption_leaves_nothing() {
    let h = House::new().await;
    let host = host(&h).await;
    h.vm("taken").await;
    let before = (claims(&h, host).await, used(&h).await);
    let plain = vm(&h, "web").await;
    let refused = |change: fn(&mut AdoptedVm)| {
        let (h, mut vm) = (&h, plain.clone());
        change(&mut vm);
        async move { adopt(h, host, &vm).await.unwrap_err() }
    };
    let e = refused(|v| v.name = name("taken")).await;
    assert!(matches!(e, Error::NameTaken { kind: "vm", .. }), "{e:?}");
    let e = refused(|v| {
        let AdoptedSource::Volume(volume) = &mut v.disks[0].source else { panic!() };
        volume.name = name("taken-root");
    });
    assert!(matches!(e.await, Error::NameTaken { kind: "volume", .. }));
    let e = refused(|v| v.spec.cpus = 200).await;
    assert!(matches!(&e, Error::HostFull(r) if r.code == "host_full" && r.subject == "host/h1"), "{e:?}");
    let e = refused(|v| {
        let AdoptedSource::Volume(volume) = &mut v.disks[0].source else { panic!() };
        volume.spec.size_bytes = 101 * GIB;
    })
    .await;
    assert!(matches!(&e, Error::HostFull(r) if r.code == "insufficient_storage"), "{e:?}");
    let limits = QuotaSpec { max_vms: 1, ..QuotaSpec::default() };
    let mut tx = h.db.store.system().await.unwrap();
    quotas::set(&mut tx, &h.change(), h.project, &limits).await.unwrap();
    tx.commit().await.unwrap();
    let e = refused(|_| {}).await;
    assert!(matches!(&e, Error::QuotaExceeded { resource: "vms", .. }), "{e:?}");
    assert_eq!((claims(&h, host).await, used(&h).await), before);
    assert_eq!(audited(&h, "vm.adopt").await, 0);
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    assert!(vms::get_by_id(&mut tx, ID).await.is_err());
    assert_eq!(networks::ports(&mut tx, h.project, None, &Page::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn h5_what_the_network_gave_to_others_is_made_anew_and_the_rest_is_kept() {
    let h = House::new().await;
    let host = host(&h).await;
    let first = adopt(&h, host, &vm(&h, "web").await).await.unwrap().object;
    let mut twin = vm(&h, "twin").await;
    twin.id = VmId(Uuid::from_u128(0xf0_0009));
    twin.nics.push(AdoptedNic { port_id: None, mac: None, address: None, ..twin.nics[0].clone() });
    twin.nics[1].mac = Some("52:54:00:00:00:01".into());
    twin.spec.nics.push(twin.spec.nics[0].clone());
    let made = adopt(&h, host, &twin).await.unwrap().object;
    let (a, b) = (&made.nics[0], &made.nics[1]);
    assert!(a.mac.starts_with("02:") && a.mac != first.nics[0].mac);
    assert!(a.address != first.nics[0].address && a.port_id != first.nics[0].port_id);
    assert_eq!(b.mac, "52:54:00:00:00:01", "nobody has it");
    assert!(b.address != a.address && b.address != first.nics[0].address);
    // An address that no guest may have is not kept either.
    let mut odd = vm(&h, "odd").await;
    odd.id = VmId(Uuid::from_u128(0xf0_000a));
    odd.nics[0].address = Some(Ipv4Addr::new(10, 10, 0, 1));
    let made = adopt(&h, host, &odd).await.unwrap().object;
    assert_ne!(made.nics[0].address, Ipv4Addr::new(10, 10, 0, 1), "that is the router");
}

#[tokio::test]
async fn h5_the_truth_says_what_of_a_foreign_thing_it_knows() {
    let h = House::new().await;
    let host = host(&h).await;
    let own = h.vm("own").await.object;
    let mut facts = facts(4, 16 * GIB, 100 * GIB);
    let foreign =
        |kind: &str, id: Uuid| Foreign { kind: kind.into(), id: id.to_string(), ..Foreign::default() };
    facts.foreign = vec![foreign("vm", ID.0), foreign("port", Uuid::from_u128(77))];
    testkit::host(&h.db, &h.ids, "h2", facts).await;
    let image =
        testkit::ready_image(&h.db, &h.ids, (h.tenant, h.project), "own-image", ImageFormat::Qcow2).await;
    let (rival, project) = testkit::project(&h.db, &testkit::ids(2), "rival").await;
    let theirs =
        testkit::ready_image(&h.db, &testkit::ids(3), (rival, project), "theirs", ImageFormat::Iso).await;
    let lan = network(&h, "net").await;
    let known = |asked: Named| {
        let h = &h;
        async move {
            let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
            adoption::known(&mut tx, h.project, host, &asked).await.unwrap()
        }
    };
    assert_eq!(known(Named::default()).await, Known::default());
    let asked = Named {
        ids: [ID.0, own.metadata.id, Uuid::from_u128(77)].into(),
        networks: [lan].into(),
        network: None,
        images: [image, theirs].into(),
    };
    let found = known(asked).await;
    assert_eq!(found.ids, [own.metadata.id].into());
    assert_eq!(found.elsewhere, Some(name("h2")), "another host has it too");
    assert_eq!(found.networks, [(lan, name("net"))].into());
    assert_eq!(found.images, [(image, Some(name("own-image"))), (theirs, None)].into());
    let again = "UPDATE image_observed SET observed = jsonb_set(observed, '{state}', '\"uploading\"') WHERE image_id = $1";
    sqlx::query(again).bind(image).execute(&mut h.db.superuser().await).await.unwrap();
    let found = known(Named { images: [image].into(), ..Named::default() }).await;
    assert_eq!(found.images, [].into(), "nothing can be made from an image that is not ready");
    let by_name = known(Named { network: Some(name("net")), ..Named::default() }).await;
    assert_eq!(by_name.networks.len(), 1);
    assert_eq!(known(Named { ids: [Uuid::from_u128(77)].into(), ..Named::default() }).await.elsewhere, None);
    adopt(&h, host, &vm(&h, "web").await).await.unwrap();
    let found = known(Named::default()).await;
    assert_eq!(found.files, [(name("default"), "web-root.qcow2".to_owned())].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_of_two_who_adopt_from_one_host_the_second_sees_what_the_first_did() {
    let h = House::new().await;
    let host = host(&h).await;
    let mut first = h.db.store.tenant(h.tenant).await.unwrap();
    let found = adoption::host(&mut first, &Key::from(host)).await.unwrap();
    let late = async {
        let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
        adoption::host(&mut tx, &Key::from(host)).await.unwrap();
        let asked = Named { ids: [ID.0].into(), ..Named::default() };
        adoption::known(&mut tx, h.project, host, &asked).await.unwrap().ids
    };
    let begun = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let wanted = vm(&h, "web").await;
        adoption::insert_vm(&mut first, &h.change(), h.project, &found, &wanted, &json!({})).await.unwrap();
        first.commit().await.unwrap();
    };
    let (seen, ()) = tokio::join!(late, begun);
    assert_eq!(seen, [ID.0].into());
}

#[tokio::test]
async fn h5_an_adopted_volume_is_bound_where_it_lies_and_outlives_the_vm_that_has_it() {
    let h = House::new().await;
    let host = host(&h).await;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let at = adoption::host(&mut tx, &Key::from(host)).await.unwrap();
    let adopted = volume("data", 5 * MIB);
    let made = adoption::insert_volume(&mut tx, &h.change(), h.project, &at, &adopted).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((made.task.kind, made.object.host_id), (TaskKind::VolumeAdopt, Some(host)));
    assert_eq!((made.object.vm_id, made.object.owned), (None, false));
    assert_eq!((claims(&h, host).await, used(&h).await), ((0, 0, 0, 5 * MIB), (0, 0, 0, 5 * MIB)));
    assert_eq!(audited(&h, "volume.adopt").await, 1);

    adopt(&h, host, &vm(&h, "web").await).await.unwrap();
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    vms::delete(&mut tx, &h.change(), h.project, &Key::from(ID), None).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(vms::finalize(&mut tx, ID, now()).await.unwrap(), Finalized::Done);
    tx.commit().await.unwrap();
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let disk = volumes::get(&mut tx, h.project, &Key::Name(name("web-root"))).await.unwrap().volume;
    assert_eq!((disk.vm_id, disk.host_id, disk.metadata.deletion_requested_at), (None, Some(host), None));
    assert_eq!(claims(&h, host).await, (0, 0, 0, 7 * GIB + 512 + 5 * MIB));
    drop(tx);

    // A host that is going is not adopted from.
    let other = testkit::host(&h.db, &h.ids, "h3", facts(4, 16 * GIB, 100 * GIB)).await;
    let mut tx = h.db.store.system().await.unwrap();
    hosts::delete(&mut tx, &h.change(), &Key::from(other), None).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let e = adoption::host(&mut tx, &Key::from(other)).await.unwrap_err();
    assert!(matches!(e, Error::Deleting { kind: "host", .. }), "{e:?}");
}
