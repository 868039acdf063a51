//! Virtual machines: declared whole or not at all, changed under their generation, gone without leftovers.

use crate::fixture::{House, small, spec};
use basalt_model::{
    GIB, Labels, MIB, Selector,
    images::{ImageFormat, ImageSpec, ImageState, Visibility},
    networks::NetworkSpec,
    quotas::QuotaSpec,
    tasks::{TaskKind, TaskState},
    vms::{OperationVerb, Power},
    volumes::VolumeSource,
};
use basalt_store::{
    Error, Finalized, Key, New, Page, Update, audit_events, images, networks, quotas, tasks, tenants,
    testkit::{self, name, now},
    vms::{self, PowerVerb},
    volumes,
};
use serde_json::json;

#[tokio::test]
async fn v1_a_create_resolves_images_networks_and_addresses_and_records_task_audit_and_quota() {
    let h = House::new().await;
    let made = h.vm("web-1").await;
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let view = vms::get(&mut tx, h.project, &Key::Name(name("web-1"))).await.unwrap();
    assert_eq!(view.vm, made.object, "what was answered is what is stored");
    assert_eq!((view.placement, view.facts, view.conditions.len()), (None, None, 0));
    let nic = &view.vm.nics[0];
    assert_eq!((nic.address.to_string().as_str(), nic.network.as_str()), ("10.10.0.2", "net"));
    assert!(nic.mac.starts_with("02:"), "{}", nic.mac);
    let disk =
        volumes::get(&mut tx, h.project, &Key::from(view.vm.disks[0].volume_id.unwrap())).await.unwrap();
    assert_eq!((disk.volume.metadata.name.as_str(), disk.volume.spec.size_bytes), ("web-1-root", GIB));
    assert_eq!(disk.volume.spec.source, VolumeSource::Image { image: name("debian") });
    assert!(
        disk.volume.owned && disk.volume.vm_id == Some(view.vm.id()) && disk.volume.image_id == Some(h.image)
    );
    let task = tasks::get(&mut tx, made.task.id).await.unwrap();
    assert_eq!(task, made.task);
    assert_eq!(
        (task.kind, task.state, task.subject.id),
        (TaskKind::VmCreate, TaskState::Pending, view.vm.id().0)
    );
    let filter = audit_events::Filter { subject_id: Some(view.vm.id().0), ..Default::default() };
    let trail = audit_events::list(&mut tx, &filter, &Page::default()).await.unwrap().items;
    assert_eq!(
        (trail.len(), trail[0].action.as_str(), trail[0].actor.name.as_str()),
        (1, "vm.create", "tester")
    );
    let used = quotas::get(&mut tx, h.project).await.unwrap().used;
    assert_eq!((used.vms, used.cpus, used.memory_bytes, used.storage_bytes), (1, 1, GIB, GIB));
}

#[tokio::test]
async fn v1_a_vm_starts_from_a_volume_or_blank_with_an_iso() {
    let h = House::new().await;
    testkit::ready_image(&h.db, &h.ids, (h.tenant, h.project), "installer", ImageFormat::Iso).await;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let new = New {
        name: name("data"),
        labels: Labels::default(),
        spec: serde_json::from_value(json!({"size_bytes": GIB})).unwrap(),
    };
    let volume = volumes::insert(&mut tx, &h.change(), h.project, &new).await.unwrap().object;
    tx.commit().await.unwrap();
    let wanted = spec(json!({"cpus": 2, "memory_bytes": GIB, "disks": [
        {"name": "system", "source": {"kind": "blank"}, "size_bytes": 8 * MIB, "boot_order": 2},
        {"name": "cd", "source": {"kind": "iso", "image": "installer"}, "boot_order": 1},
        {"name": "data", "source": {"kind": "volume", "volume": "data"}}]}));
    let vm = h.try_vm("db-1", wanted.clone()).await.unwrap().object;
    assert_eq!(vm.disks[2].volume_id, Some(volume.id()));
    assert!(vm.disks[1].iso_image_id.is_some() && vm.disks[1].volume_id.is_none());
    let mut again = wanted;
    again.disks[0].name = name("other");
    let taken = h.try_vm("db-2", again).await.unwrap_err();
    assert!(matches!(&taken, Error::InUse { kind: "volume", by, .. } if by[0] == "vm/db-1"), "{taken}");
}

#[tokio::test]
async fn v1_what_a_spec_names_must_be_there_ready_and_of_the_right_kind() {
    let h = House::new().await;
    let disk = |image: &str, size: Option<u64>| {
        let mut s = small();
        s.disks =
            serde_json::from_value(json!([{"name": "root", "source": {"kind": "image", "image": image}}]))
                .unwrap();
        s.disks[0].size_bytes = size;
        s
    };
    let e = h.try_vm("a", disk("nothing", None)).await.unwrap_err();
    assert!(
        matches!(&e, Error::ReferenceNotFound { kind: "image", field, .. } if field == "spec.disks[0].source.image")
    );
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let uploading = ImageSpec {
        format: ImageFormat::Raw,
        size_bytes: Some(5),
        sha256: None,
        source: None,
        visibility: Visibility::Project,
    };
    let new = New { name: name("late"), labels: Labels::default(), spec: uploading };
    images::insert(&mut tx, &h.change(), h.project, &new).await.unwrap();
    tx.commit().await.unwrap();
    let e = h.try_vm("a", disk("late", None)).await.unwrap_err();
    assert!(matches!(&e, Error::ImageNotReady { state: ImageState::Uploading, .. }), "{e}");
    let e = h.try_vm("a", disk("debian", Some(MIB))).await.unwrap_err();
    assert!(
        matches!(&e, Error::SizeTooSmall { given: MIB, minimum: GIB, field } if field == "spec.disks[0].size_bytes")
    );
    let mut s = small();
    s.nics[0].network = name("nowhere");
    let e = h.try_vm("a", s).await.unwrap_err();
    assert!(matches!(&e, Error::ReferenceNotFound { kind: "network", .. }), "{e}");
    let mut s = small();
    s.nics[0].address = Some("10.11.0.9".parse().unwrap());
    assert!(matches!(h.try_vm("a", s).await.unwrap_err(), Error::AddressOutside { .. }));
    nothing_is_left(&h).await;
}

async fn nothing_is_left(h: &House) {
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    assert_eq!(vms::list(&mut tx, h.project, &Page::default()).await.unwrap().items, vec![]);
    assert_eq!(volumes::list(&mut tx, h.project, &Page::default()).await.unwrap().items, vec![]);
    assert_eq!(networks::ports(&mut tx, h.project, None, &Page::default()).await.unwrap().items, vec![]);
    let used = quotas::get(&mut tx, h.project).await.unwrap().used;
    assert_eq!((used.vms, used.storage_bytes), (0, 0));
}

#[tokio::test]
async fn v1_overlapping_subnets_and_taken_names_are_refused_by_name() {
    let h = House::new().await;
    let e = h.network("other", "10.10.7.0/24").await.unwrap_err();
    assert!(
        matches!(&e, Error::CidrOverlap { cidr, with, .. } if cidr == "10.10.7.0/24" && with == "10.10.0.0/16"),
        "{e}"
    );
    let e = h.network("net", "10.20.0.0/16").await.unwrap_err();
    assert!(matches!(&e, Error::NameTaken { kind: "network", .. }), "{e}");
    h.vm("web-1").await;
    let e = h.try_vm("web-1", small()).await.unwrap_err();
    assert!(matches!(&e, Error::NameTaken { kind: "vm", name } if name == "web-1"), "{e}");
}

#[tokio::test]
async fn v1_overlap_is_refused_by_the_database_when_two_declare_at_once() {
    let h = House::new().await;
    let (a, b) = tokio::join!(h.network("one", "10.30.0.0/16"), h.network("two", "10.30.1.0/24"));
    assert_eq!(a.is_ok() as u8 + b.is_ok() as u8, 1, "{a:?} {b:?}");
    assert!(matches!(a.err().or(b.err()).unwrap(), Error::CidrOverlap { .. }));
}

#[tokio::test]
async fn n1_a_wire_and_a_prefix_belong_to_one_network_also_when_two_ask_at_once() {
    let h = House::new().await;
    let wired = |cidr: &str, segment: serde_json::Value, cidr6: Option<&str>| -> NetworkSpec {
        serde_json::from_value(json!({"cidr": cidr, "segment": segment, "cidr6": cidr6})).unwrap()
    };
    let vlan = |id: u16, uplink: &str| json!({"kind": "vlan", "vlan_id": id, "uplink": uplink});
    let flat = |uplink: &str| json!({"kind": "flat", "uplink": uplink});
    h.network_as("seven", wired("10.31.0.0/24", vlan(7, "br-ext"), Some("fd00:1::/64"))).await.unwrap();
    h.network_as("eight", wired("10.32.0.0/24", vlan(8, "br-ext"), Some("fd00:2::/64"))).await.unwrap();
    h.network_as("elsewhere", wired("10.33.0.0/24", vlan(7, "br-two"), None)).await.unwrap();
    let e = h.network_as("again", wired("10.34.0.0/24", vlan(7, "br-ext"), None)).await.unwrap_err();
    assert!(matches!(&e, Error::WireTaken { segment } if segment.uplink() == Some("br-ext")), "{e}");
    let e =
        h.network_as("prefix", wired("10.35.0.0/24", json!({"kind": "vxlan"}), Some("fd00:1::/64"))).await;
    assert!(matches!(e.unwrap_err(), Error::CidrOverlap { field: "spec.cidr6", .. }));
    let (a, b) = tokio::join!(
        h.network_as("one", wired("10.36.0.0/24", flat("br-ext"), None)),
        h.network_as("two", wired("10.37.0.0/24", flat("br-ext"), None))
    );
    assert_eq!(a.is_ok() as u8 + b.is_ok() as u8, 1, "{a:?} {b:?}");
    assert!(matches!(a.err().or(b.err()).unwrap(), Error::WireTaken { .. }));
}

#[tokio::test]
async fn n1_a_port_has_the_address_that_its_mac_address_makes_of_the_prefix() {
    let h = House::new().await;
    let spec: NetworkSpec =
        serde_json::from_value(json!({"cidr": "10.31.0.0/24", "cidr6": "fd00:31::/64"})).unwrap();
    h.network_as("six", spec.clone()).await.unwrap();
    let mut vm = small();
    vm.nics = vec![serde_json::from_value(json!({"network": "six"})).unwrap()];
    let made = h.try_vm("six", vm).await.unwrap();
    let nic = &made.object.nics[0];
    let wanted = basalt_model::networks::address6(spec.cidr6.unwrap(), &nic.mac);
    assert_eq!(nic.address6, Some(wanted));
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let ports = networks::ports(&mut tx, h.project, None, &Page::default()).await.unwrap().items;
    assert_eq!(ports[0].nic.address6, Some(wanted));
}

#[tokio::test]
async fn v1_an_exhausted_subnet_and_a_taken_address_are_refused_and_freed_addresses_come_back() {
    let h = House::new().await;
    h.network("tiny", "10.40.0.0/29").await.unwrap();
    let on = |address: Option<&str>| {
        let mut s = small();
        s.nics[0].network = name("tiny");
        s.nics[0].address = address.map(|a| a.parse().unwrap());
        s
    };
    let third = h.try_vm("t0", on(Some("10.40.0.3"))).await.unwrap().object;
    assert_eq!(third.nics[0].address.to_string(), "10.40.0.3");
    let e = h.try_vm("t9", on(Some("10.40.0.3"))).await.unwrap_err();
    assert!(
        matches!(&e, Error::AddressTaken { address, field, .. } if address == "10.40.0.3" && field == "spec.nics[0].address"),
        "{e}"
    );
    let mut got = Vec::new();
    for i in 1..4 {
        got.push(h.try_vm(&format!("t{i}"), on(None)).await.unwrap().object.nics[0].address.to_string());
    }
    assert_eq!(got, ["10.40.0.2", "10.40.0.4", "10.40.0.5"], "router and DHCP server are left out");
    let e = h.try_vm("t9", on(None)).await.unwrap_err();
    assert!(matches!(&e, Error::SubnetExhausted { field, .. } if field == "spec.nics[0].network"), "{e}");
    gone(&h, "t2").await;
    assert_eq!(h.try_vm("t9", on(None)).await.unwrap().object.nics[0].address.to_string(), "10.40.0.4");
}

#[tokio::test]
async fn concurrent_creates_never_share_an_address() {
    let h = House::new().await;
    h.network("small", "10.41.0.0/27").await.unwrap();
    let mut s = small();
    s.nics[0].network = name("small");
    let all = futures::future::join_all((0..32).map(|i| {
        let (h, s) = (&h, s.clone());
        async move { h.try_vm(&format!("c{i}"), s).await }
    }))
    .await;
    let addresses: std::collections::BTreeSet<_> =
        all.iter().filter_map(|r| r.as_ref().ok()).map(|a| a.object.nics[0].address).collect();
    // Thirty host addresses, less router and DHCP server.
    assert_eq!((addresses.len(), all.iter().filter(|r| r.is_ok()).count()), (28, 28));
    assert!(all.iter().filter_map(|r| r.as_ref().err()).all(|e| matches!(e, Error::SubnetExhausted { .. })));
}

#[tokio::test]
async fn v1_a_quota_is_never_exceeded_by_concurrent_creates_and_the_refusal_has_the_figures() {
    let h = House::new().await;
    let limits =
        QuotaSpec { max_vms: 5, max_cpus: 100, max_memory_bytes: 100 * GIB, max_storage_bytes: 100 * GIB };
    let mut tx = h.db.store.system().await.unwrap();
    quotas::set(&mut tx, &h.change(), h.project, &limits).await.unwrap();
    tx.commit().await.unwrap();
    let names: Vec<String> = (0..12).map(|i| format!("q{i}")).collect();
    let all = futures::future::join_all(names.iter().map(|n| h.try_vm(n, small()))).await;
    assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 5);
    let e = h.try_vm("late", small()).await.unwrap_err();
    assert!(matches!(e, Error::QuotaExceeded { resource: "vms", limit: 5, used: 5, asked: 1 }), "{e}");
    gone(&h, all.iter().find_map(|r| r.as_ref().ok()).unwrap().object.metadata.name.as_str()).await;
    let mut big = small();
    big.memory_bytes = 99 * GIB;
    let e = h.try_vm("late", big).await.unwrap_err();
    assert!(matches!(e, Error::QuotaExceeded { resource: "memory_bytes", .. }), "{e}");
    h.try_vm("late", small()).await.unwrap();
}

/// Deletes a VM that is on no host and removes its rows.
async fn gone(h: &House, vm: &str) {
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let deleted = vms::delete(&mut tx, &h.change(), h.project, &Key::Name(name(vm)), None).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(vms::finalize(&mut tx, deleted.object.id(), now()).await.unwrap(), Finalized::Done);
    tx.commit().await.unwrap();
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    assert_eq!(tasks::get(&mut tx, deleted.task.id).await.unwrap().state, TaskState::Completed);
}

#[tokio::test]
async fn v2_deletion_leaves_no_row_ends_every_task_and_gives_everything_back() {
    let h = House::new().await;
    let made = h.vm("web-1").await;
    gone(&h, "web-1").await;
    nothing_is_left(&h).await;
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    assert_eq!(tasks::get(&mut tx, made.task.id).await.unwrap().state, TaskState::Cancelled);
    let net = networks::get(&mut tx, h.project, &Key::Name(name("net"))).await.unwrap();
    assert_eq!(net.addresses_used, 0);
    drop(tx);
    h.vm("web-1").await;
}

#[tokio::test]
async fn v2_a_protected_vm_is_neither_deleted_nor_redeployed() {
    let h = House::new().await;
    let mut s = small();
    s.protected = true;
    h.try_vm("web-1", s).await.unwrap();
    let key = Key::Name(name("web-1"));
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    for refused in [
        vms::delete(&mut tx, &h.change(), h.project, &key, None).await,
        vms::redeploy(&mut tx, &h.change(), h.project, &key, None).await,
    ] {
        assert!(matches!(refused.unwrap_err(), Error::Protected { .. }));
    }
}

#[tokio::test]
async fn v2_verbs_move_the_generation_once_and_stamp_one_shot_verbs() {
    let h = House::new().await;
    h.vm("web-1").await;
    let key = Key::Name(name("web-1"));
    let c = h.change();
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let stop = vms::set_power(&mut tx, &c, h.project, &key, None, PowerVerb::Stop).await.unwrap();
    assert_eq!((stop.object.spec.power, stop.object.metadata.generation.0), (Power::Stopped, 2));
    assert_eq!((stop.task.kind, stop.task.generation.0), (TaskKind::VmStop, 2));
    let again = vms::set_power(&mut tx, &c, h.project, &key, None, PowerVerb::Stop).await.unwrap();
    assert_eq!(again.object.metadata.generation.0, 2, "nothing new was asked");
    let e = vms::operate(&mut tx, &c, h.project, &key, None, OperationVerb::Reboot).await.unwrap_err();
    assert!(matches!(e, Error::NotRunning { .. }), "{e}");
    vms::set_power(&mut tx, &c, h.project, &key, None, PowerVerb::Start).await.unwrap();
    let reboot = vms::operate(&mut tx, &c, h.project, &key, None, OperationVerb::Reboot).await.unwrap();
    assert_eq!(reboot.object.operation.unwrap().id, reboot.task.id);
    let e = vms::set_power(&mut tx, &c, h.project, &key, Some(basalt_model::Generation(2)), PowerVerb::Stop)
        .await;
    assert!(matches!(e.unwrap_err(), Error::GenerationMismatch { current, .. } if current.0 == 4));
    let redeployed = vms::redeploy(&mut tx, &c, h.project, &key, None).await.unwrap().object;
    let volume = volumes::get(&mut tx, h.project, &Key::Name(name("web-1-root"))).await.unwrap().volume;
    assert_eq!((redeployed.incarnation, redeployed.operation, volume.incarnation), (1, None, 1));
    assert_eq!(redeployed.nics, reboot.object.nics, "same addresses");
}

#[tokio::test]
async fn v2_an_update_moves_quota_and_keeps_disks_and_interfaces() {
    let h = House::new().await;
    h.vm("web-1").await;
    let key = Key::Name(name("web-1"));
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let mut s = small();
    (s.cpus, s.memory_bytes) = (4, 3 * GIB);
    let update = Update { expected: Some(basalt_model::Generation(1)), labels: None, spec: s.clone() };
    let done = vms::update(&mut tx, &h.change(), h.project, &key, &update).await.unwrap();
    assert_eq!(done.object.metadata.generation.0, 2);
    let used = quotas::get(&mut tx, h.project).await.unwrap().used;
    assert_eq!((used.vms, used.cpus, used.memory_bytes), (1, 4, 3 * GIB));
    let same = Update { expected: None, ..update.clone() };
    let same = vms::update(&mut tx, &h.change(), h.project, &key, &same).await.unwrap();
    assert_eq!((same.object.metadata.generation.0, same.task.state), (2, TaskState::Completed));
    s.nics.clear();
    let other = Update { expected: None, labels: None, spec: s };
    let e = vms::update(&mut tx, &h.change(), h.project, &key, &other).await.unwrap_err();
    assert!(matches!(&e, Error::Immutable { field, .. } if field == "spec.nics"), "{e}");
}

#[tokio::test]
async fn a_dropped_transaction_leaves_nothing() {
    let h = House::new().await;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let new = New { name: name("dry"), labels: Labels::default(), spec: small() };
    vms::insert(&mut tx, &h.change(), h.project, &new).await.unwrap();
    drop(tx);
    nothing_is_left(&h).await;
}

#[tokio::test]
async fn what_is_in_use_is_not_deleted_and_what_is_going_takes_nobody() {
    let h = House::new().await;
    h.vm("web-1").await;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let c = h.change();
    let e = images::delete(&mut tx, &c, h.project, &Key::Name(name("debian")), None).await.unwrap_err();
    assert!(matches!(&e, Error::InUse { kind: "image", by, .. } if by == &["volume/web-1-root"]), "{e}");
    drop(tx);
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let e = networks::delete(&mut tx, &c, h.project, &Key::Name(name("net")), None).await.unwrap_err();
    assert!(matches!(&e, Error::InUse { kind: "network", by, .. } if by == &["vm/web-1"]), "{e}");
    drop(tx);
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let e = volumes::delete(&mut tx, &c, h.project, &Key::Name(name("web-1-root")), None).await.unwrap_err();
    assert!(matches!(&e, Error::InUse { kind: "volume", .. }), "{e}");
    drop(tx);
    gone(&h, "web-1").await;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    images::delete(&mut tx, &c, h.project, &Key::Name(name("debian")), None).await.unwrap();
    let net = networks::delete(&mut tx, &c, h.project, &Key::Name(name("net")), None).await.unwrap();
    tx.commit().await.unwrap();
    let e = h.try_vm("web-2", small()).await.unwrap_err();
    assert!(matches!(&e, Error::ImageNotReady { state: ImageState::Deleting, .. }), "{e}");
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(images::finalize(&mut tx, h.image, now()).await.unwrap(), Finalized::Done);
    assert_eq!(networks::finalize(&mut tx, net.object.id(), now()).await.unwrap(), Finalized::Done);
    tx.commit().await.unwrap();
    h.network("net", "10.10.0.0/16").await.unwrap();
}

#[tokio::test]
async fn an_image_going_while_a_vm_is_declared_is_noticed() {
    let h = House::new().await;
    // The deleter has the image's lock; the declarer has read it as ready and now waits for that lock.
    let mut deleter = h.db.store.tenant(h.tenant).await.unwrap();
    images::delete(&mut deleter, &h.change(), h.project, &Key::Name(name("debian")), None).await.unwrap();
    let declare = h.try_vm("web-1", small());
    let delete = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        deleter.commit().await.unwrap();
    };
    let (declared, ()) = tokio::join!(declare, delete);
    assert!(matches!(declared.unwrap_err(), Error::Deleting { kind: "image", .. }));
    nothing_is_left(&h).await;
}

#[tokio::test]
async fn lists_are_pages_by_id_and_selected_by_labels() {
    let h = House::new().await;
    for i in 0..7 {
        let labels = Labels::from_iter([("tier", if i % 2 == 0 { "web" } else { "db" }), ("n", "x")]);
        let new = New { name: name(&format!("vm-{i}")), labels, spec: small() };
        let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
        vms::insert(&mut tx, &h.change(), h.project, &new).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let (mut seen, mut page) = (Vec::new(), Page { limit: 3, ..Page::default() });
    loop {
        let list = vms::list(&mut tx, h.project, &page).await.unwrap();
        assert!(list.items.len() <= 3);
        seen.extend(list.items.into_iter().map(|v| v.vm.metadata.name.to_string()));
        page.after = list.next;
        if page.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..7).map(|i| format!("vm-{i}")).collect::<Vec<_>>());
    for (selector, n) in
        [("tier=web", 4), ("tier!=web", 3), ("tier,n=x", 7), ("!tier", 0), ("tier=web,tier=db", 0)]
    {
        let page = Page { selector: selector.parse::<Selector>().unwrap(), ..Page::default() };
        assert_eq!(vms::list(&mut tx, h.project, &page).await.unwrap().items.len(), n, "{selector}");
    }
}

#[tokio::test]
async fn the_default_tenant_is_made_once() {
    let h = House::new().await;
    let make = || async {
        let mut tx = h.db.store.system().await.unwrap();
        let tenant = tenants::ensure_default(&mut tx, &h.change()).await.unwrap();
        tx.commit().await.unwrap();
        tenant.id()
    };
    let (a, b) = tokio::join!(make(), make());
    assert_eq!(a, b);
}
