//! N6: what a router claims, what it keeps from going, and where it is put.

use crate::fixture::*;
use basalt_model::{FieldError, HostId, Labels, routers::RouterSpec};
use basalt_store::{
    Accepted, Error, Finalized, Key, New, Page, Update, networks,
    routers::{self, Router},
    testkit::{self, name, now},
    vms,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::Ipv4Addr};

fn spec(value: Value) -> RouterSpec {
    serde_json::from_value(value).unwrap()
}

async fn try_router(h: &House, text: &str, value: Value) -> Result<Accepted<Router>, Error> {
    let new = New { name: name(text), labels: Labels::default(), spec: spec(value) };
    let mut tx = h.db.store.tenant(h.tenant).await?;
    let made = routers::insert(&mut tx, &h.change(), h.project, &new).await?;
    tx.commit().await?;
    Ok(made)
}

async fn change(h: &House, text: &str, value: Value) -> Result<Router, Error> {
    let mut tx = h.db.store.tenant(h.tenant).await?;
    let update = Update { expected: None, labels: None, spec: spec(value) };
    let key = Key::Name(name(text));
    let changed = routers::update(&mut tx, &h.change(), h.project, &key, &update).await?;
    tx.commit().await?;
    Ok(changed)
}

async fn used(h: &House, network: &str) -> u64 {
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    networks::get(&mut tx, h.project, &Key::Name(name(network))).await.unwrap().addresses_used
}

fn field(e: &Error) -> &FieldError {
    match e {
        Error::Invalid(errors) => &errors[0],
        e => panic!("{e}"),
    }
}

/// The project's network `net` inside, `out` outside, and a VM in each.
async fn house() -> House {
    let h = House::new().await;
    h.network("out", "10.30.0.0/29").await.unwrap();
    h.vm("web-1").await;
    let mut outside = small();
    outside.nics[0].network = name("out");
    h.try_vm("far", outside).await.unwrap();
    h
}

fn full() -> Value {
    json!({"uplink": {"network": "out"}, "networks": ["net"],
        "port_forwards": [{"protocol": "tcp", "port": 80, "vm": "web-1", "to_port": 8080}],
        "floating_ips": [{"vm": "web-1"}]})
}

#[tokio::test]
async fn n6_a_router_gets_addresses_beside_those_of_vms_and_gives_them_back() {
    let h = house().await;
    let made = try_router(&h, "edge", full()).await.unwrap().object;
    let wiring = &made.wiring;
    let uplink = wiring.uplink.as_ref().unwrap();
    assert_eq!(wiring.interfaces[0].address, Ipv4Addr::new(10, 10, 0, 1));
    let given = [uplink.address, wiring.floating_ips[0].address].map(|a| a.to_string());
    assert_eq!(given, ["10.30.0.3", "10.30.0.4"], "a VM has the first one");
    assert_eq!(wiring.port_forwards[0].to_address, Ipv4Addr::new(10, 10, 0, 2));
    assert_eq!(used(&h, "out").await, 3);
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let ports = networks::ports(&mut tx, h.project, None, &Page::default()).await.unwrap().items;
    assert_eq!(ports.len(), 2, "only VMs' are ports of people");
    drop(tx);

    let mut taken = small();
    taken.nics[0].network = name("out");
    taken.nics[0].address = Some(uplink.address);
    assert!(matches!(h.try_vm("late", taken).await.unwrap_err(), Error::AddressTaken { .. }));
    let other = json!({"uplink": {"network": "out", "address": "10.30.0.2"}, "networks": ["third"]});
    h.network("third", "10.40.0.0/24").await.unwrap();
    let e = try_router(&h, "other", other).await.unwrap_err();
    assert!(matches!(&e, Error::AddressTaken { field, .. } if field == "spec.uplink.address"), "{e}");

    // The address stays; a floating one that is wanted is another one.
    let mut value = full();
    value["floating_ips"][0]["address"] = json!("10.30.0.5");
    let changed = change(&h, "edge", value).await.unwrap();
    assert_eq!(changed.wiring.uplink, made.wiring.uplink);
    assert_eq!(changed.wiring.floating_ips[0].address.to_string(), "10.30.0.5");
    assert_eq!(used(&h, "out").await, 3);
    change(&h, "edge", json!({"networks": ["net"], "nat": false})).await.unwrap();
    assert_eq!(used(&h, "out").await, 1);
}

#[tokio::test]
async fn n6_what_a_router_cannot_be_is_refused_by_field_with_a_remedy() {
    let h = house().await;
    h.network("third", "10.40.0.0/24").await.unwrap();
    let with = |key: &str, value: Value| {
        let mut all = full();
        all[key] = value;
        all
    };
    for (value, wanted) in [
        (
            with("routes", json!([{"destination": "10.9.0.0/16", "next_hop": "10.99.0.1"}])),
            "spec.routes[0].next_hop",
        ),
        (
            with("routes", json!([{"destination": "10.9.0.0/16", "next_hop": "10.10.0.1"}])),
            "spec.routes[0].next_hop",
        ),
        (with("networks", json!(["third"])), "spec.port_forwards[0].vm"),
    ] {
        let e = try_router(&h, "edge", value).await.unwrap_err();
        assert_eq!(field(&e).field, wanted);
        assert!(!field(&e).remedy.is_empty());
    }
    for (value, wanted) in [
        (with("networks", json!(["nowhere"])), "spec.networks[0]"),
        (with("uplink", json!({"network": "nowhere"})), "spec.uplink.network"),
        (with("floating_ips", json!([{"vm": "nobody"}])), "spec.floating_ips[0].vm"),
    ] {
        let e = try_router(&h, "edge", value).await.unwrap_err();
        assert!(matches!(&e, Error::ReferenceNotFound { field, .. } if field == wanted), "{e}");
    }
    let gateway = with("uplink", json!({"network": "out", "address": "10.30.0.1"}));
    assert!(matches!(try_router(&h, "edge", gateway).await.unwrap_err(), Error::AddressOutside { .. }));
    let many: Vec<Value> = ["web-1"].iter().map(|vm| json!({"vm": vm})).collect();
    try_router(&h, "edge", with("floating_ips", json!(many))).await.unwrap();
    let e = try_router(&h, "second", json!({"networks": ["net"], "nat": false})).await.unwrap_err();
    assert_eq!((field(&e).field.as_str(), field(&e).code.as_str()), ("spec.networks[0]", "has_router"));
    assert!(field(&e).reason.contains("edge"));
    let e = try_router(&h, "edge", json!({"networks": ["third"], "nat": false})).await.unwrap_err();
    assert!(matches!(e, Error::NameTaken { kind: "router", .. }), "{e}");
}

#[tokio::test]
async fn n6_what_a_router_names_cannot_go_before_it() {
    let h = house().await;
    let made = try_router(&h, "edge", full()).await.unwrap().object;
    let key = |text: &str| Key::Name(name(text));
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let e = vms::delete(&mut tx, &h.change(), h.project, &key("web-1"), None).await.unwrap_err();
    assert!(matches!(&e, Error::InUse { kind: "vm", by, .. } if by == &["router/edge"]), "{e}");
    vms::delete(&mut tx, &h.change(), h.project, &key("far"), None).await.unwrap();
    for network in ["net", "out"] {
        let e = networks::delete(&mut tx, &h.change(), h.project, &key(network), None).await.unwrap_err();
        assert!(matches!(&e, Error::InUse { by, .. } if by.contains(&"router/edge".to_owned())), "{e}");
    }
    drop(tx);
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let first = routers::delete(&mut tx, &h.change(), h.project, &key("edge"), None).await.unwrap();
    let again = routers::delete(&mut tx, &h.change(), h.project, &key("edge"), None).await.unwrap();
    assert_eq!(first.task.id, again.task.id);
    tx.commit().await.unwrap();
    assert!(matches!(change(&h, "edge", full()).await.unwrap_err(), Error::Deleting { .. }));
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(routers::finalize(&mut tx, made.id(), now()).await.unwrap(), Finalized::Done);
    assert_eq!(routers::finalize(&mut tx, made.id(), now()).await.unwrap(), Finalized::Done);
    tx.commit().await.unwrap();
    assert_eq!(used(&h, "out").await, 1);
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    vms::delete(&mut tx, &h.change(), h.project, &key("web-1"), None).await.unwrap();
}

#[tokio::test]
async fn n6_two_routers_of_one_host_have_two_numbers_and_a_stale_decision_is_refused() {
    let h = house().await;
    h.network("third", "10.40.0.0/24").await.unwrap();
    let one = try_router(&h, "one", json!({"networks": ["net"], "nat": false})).await.unwrap().object.id();
    let two = try_router(&h, "two", json!({"networks": ["third"], "nat": false})).await.unwrap().object.id();
    let mut hosts: Vec<HostId> = Vec::new();
    for n in 1..=3 {
        hosts.push(
            testkit::host(&h.db, &h.ids, &format!("h{n}"), testkit::facts(8, 8 << 30, 100 << 30)).await,
        );
    }
    let at = |slots: &[(u8, usize)]| -> BTreeMap<u8, HostId> {
        slots.iter().map(|(slot, n)| (*slot, hosts[*n])).collect()
    };
    let mut tx = h.db.store.system().await.unwrap();
    let none = BTreeMap::new();
    assert!(routers::place(&mut tx, one, &none, &at(&[(0, 0), (1, 1)]), now()).await.unwrap());
    assert!(routers::place(&mut tx, two, &none, &at(&[(0, 1), (1, 2)]), now()).await.unwrap());
    assert!(
        !routers::place(&mut tx, two, &none, &at(&[(0, 0)]), now()).await.unwrap(),
        "it is placed already"
    );
    tx.commit().await.unwrap();
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let placed = async |tx: &mut _, id: basalt_model::RouterId| {
        let view = routers::get(tx, h.project, &Key::from(id)).await.unwrap();
        view.placements.iter().map(|p| (p.slot, p.host_id, p.vrid)).collect::<Vec<_>>()
    };
    assert_eq!(placed(&mut tx, one).await, [(0, hosts[0], 1), (1, hosts[1], 1)]);
    assert_eq!(placed(&mut tx, two).await, [(0, hosts[1], 2), (1, hosts[2], 2)]);
    drop(tx);
    let mut tx = h.db.store.system().await.unwrap();
    assert!(
        routers::place(&mut tx, one, &at(&[(0, 0), (1, 1)]), &at(&[(0, 0), (1, 2)]), now()).await.unwrap()
    );
    tx.commit().await.unwrap();
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    assert_eq!(placed(&mut tx, one).await, [(0, hosts[0], 1), (1, hosts[2], 1)], "its number stays");
}
