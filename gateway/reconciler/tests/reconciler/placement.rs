//! Where VMs go: PL1, PL2, PL3, PL4.

use crate::world::{World, name, until};
use basalt_model::{GIB, Labels, VmId};
use basalt_store::{Key, Page, Update, hosts, vms};
use basalt_wire::rest::PlacementExplanation;
use serde_json::json;

async fn placed_on(world: &World, vm: VmId) -> Option<String> {
    world.vm(vm).await?.placement?.host.map(|h| h.to_string())
}

async fn explanation(world: &World, vm: VmId) -> PlacementExplanation {
    let mut tx = world.store.system_read().await.unwrap();
    serde_json::from_value(vms::explanation(&mut tx, vm).await.unwrap().unwrap().explanation).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pl1_labels_pin_and_maintenance_decide_where_a_vm_goes() {
    let world = World::new().await;
    world.furnish().await;
    world.host("plain", 8, 8 * GIB).await;
    let fast = [("disk", "ssd")].into_iter().collect();
    world.labelled_host("fast", 8, 8 * GIB, fast).await;
    let running = world.start();
    let labelled =
        world.create("a", json!({"placement": {"host_labels": {"disk": "ssd"}}})).await.object.id();
    let pinned = world.create("b", json!({"placement": {"host": "plain"}})).await.object.id();
    until("both are placed", || async {
        placed_on(&world, labelled).await.as_deref() == Some("fast")
            && placed_on(&world, pinned).await.as_deref() == Some("plain")
    })
    .await;
    let mut tx = world.store.system().await.unwrap();
    let key = Key::Name(name("plain"));
    let mut spec = hosts::get(&mut tx, &key).await.unwrap().host.spec;
    spec.maintenance = true;
    let update = Update { expected: None, labels: None, spec };
    hosts::update(&mut tx, &world.change(), &key, &update).await.unwrap();
    tx.commit().await.unwrap();
    let free = world.create("c", json!({})).await.object.id();
    until("it avoids the host in maintenance", || async {
        placed_on(&world, free).await.as_deref() == Some("fast")
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pl2_what_fits_nowhere_says_why_of_every_host_and_goes_where_room_appears() {
    let world = World::new().await;
    world.furnish().await;
    let small = world.host("small", 2, 2 * GIB).await;
    small.let_up_to(Some(basalt_wire::agent::manifest::ItemKind::Vm));
    small.run();
    world.host("tiny", 1, GIB).await;
    let running = world.start();
    let first = world.create("first", json!({"cpus": 2, "memory_bytes": 2 * GIB})).await;
    world.completed(first.task.id).await;
    let second = world.create("second", json!({"cpus": 2, "memory_bytes": 2 * GIB})).await;
    let id = second.object.id();
    until("its explanation is stored", || async { world.vm(id).await.unwrap().placement.is_some() }).await;
    let told = explanation(&world, id).await;
    assert_eq!((told.host_id, told.candidates.len()), (None, 2));
    let codes: Vec<_> =
        told.candidates.iter().flat_map(|c| &c.rejections).map(|r| r.code.to_string()).collect();
    assert_eq!(
        codes,
        ["insufficient_cpus", "insufficient_memory", "host_too_small_cpus", "host_too_small_memory"]
    );
    assert!(
        told.candidates
            .iter()
            .flat_map(|c| &c.rejections)
            .all(|r| !r.evidence.is_empty() && !r.remedy.is_empty())
    );
    world.delete(first.object.id()).await;
    world.completed(second.task.id).await;
    assert_eq!(placed_on(&world, id).await.as_deref(), Some("small"));
    assert_eq!(explanation(&world, id).await.candidates.len(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pl4_a_hundred_concurrent_creates_never_overfill_a_small_host() {
    let world = World::new().await;
    world.furnish().await;
    world.host("small", 10, 10 * GIB).await;
    let running = world.start();
    let names: Vec<String> = (0..100).map(|i| format!("vm-{i}")).collect();
    let creates = names.iter().map(|vm| world.create(vm, json!({})));
    futures::future::join_all(creates).await;
    until("every VM is judged", || async { world.vms().await.iter().all(|v| v.placement.is_some()) }).await;
    let placed = world.vms().await.iter().filter(|v| v.placement.as_ref().unwrap().host_id.is_some()).count();
    assert_eq!(placed, 10);
    let mut tx = world.store.system_read().await.unwrap();
    let host = &hosts::list(&mut tx, &Page::default()).await.unwrap().items[0];
    assert_eq!((host.claimed.vms, host.claimed.cpus, host.claimed.memory_bytes), (10, 10, 10 * GIB));
    running.stop().await;
}

fn group(text: &str) -> Labels {
    [("group", text)].into_iter().collect()
}

/// Forty groups of five that keep apart, on four hosts with room for thirty each: of every group one VM is left over,
/// and of the rest as many as there is room for find a place.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pl3_parallel_creates_never_break_a_rule_or_overfill() {
    const ROOM: u64 = 30;
    let world = World::new().await;
    world.furnish().await;
    for host in ["h1", "h2", "h3", "h4"] {
        world.host(host, 30, ROOM * GIB).await;
    }
    let running = world.start();
    let groups: Vec<String> = (0..200).map(|i| format!("g{}", i % 40)).collect();
    let names: Vec<String> = (0..200).map(|i| format!("vm-{i}")).collect();
    let creates = names.iter().zip(&groups).map(|(vm, of)| {
        let rules = json!({"placement": {"anti_affinity": [{"vm_labels": {"group": of}}]}});
        world.create_labelled(vm, group(of), rules)
    });
    futures::future::join_all(creates).await;
    let placed = |vms: &[vms::VmView]| vms.iter().filter(|v| host_of(v).is_some()).count();
    until("what fits is placed, and the others say why not", || async {
        let vms = world.vms().await;
        placed(&vms) == 120 && vms.iter().all(|v| v.placement.is_some())
    })
    .await;
    let vms = world.vms().await;
    assert_eq!(vms.len(), 200);
    let mut seen = std::collections::BTreeSet::new();
    for vm in &vms {
        match host_of(vm) {
            Some(host) => {
                let of = vm.vm.metadata.labels.get("group").unwrap().to_owned();
                assert!(seen.insert((host.clone(), of.clone())), "two VMs of {of} are on {host}");
            }
            None => {
                let told = explanation(&world, vm.vm.id()).await;
                assert_eq!(told.candidates.len(), 4);
                assert!(told.candidates.iter().all(|c| !c.rejections.is_empty()));
            }
        }
    }
    let mut tx = world.store.system_read().await.unwrap();
    for host in hosts::list(&mut tx, &Page::default()).await.unwrap().items {
        assert_eq!((host.claimed.vms, host.claimed.memory_bytes), (30, ROOM * GIB), "full, and no fuller");
    }
    drop(tx);
    running.stop().await;
}

fn host_of(vm: &vms::VmView) -> Option<String> {
    vm.placement.as_ref()?.host.as_ref().map(ToString::to_string)
}

/// A follower waits for the first VM of the group that it must be beside; one that is kept away, for the other to go.
#[tokio::test(flavor = "multi_thread")]
async fn pl3_a_vm_waits_with_a_reason_until_the_other_vm_comes_or_goes() {
    let world = World::new().await;
    world.furnish().await;
    for host in ["h1", "h2"] {
        let agent = world.host(host, 8, 8 * GIB).await;
        agent.let_up_to(Some(basalt_wire::agent::manifest::ItemKind::Vm));
        agent.run();
    }
    let running = world.start();
    let rules = json!({"placement": {"affinity": [{"vm_labels": {"group": "db"}}]}});
    let follower = world.create("follower", rules).await.object.id();
    until("it says why it waits", || async { world.vm(follower).await.unwrap().placement.is_some() }).await;
    let told = explanation(&world, follower).await;
    let codes: Vec<_> = told.candidates.iter().flat_map(|c| &c.rejections).map(|r| r.code.as_ref()).collect();
    assert_eq!(codes, ["affinity_unmet", "affinity_unmet"]);
    let pinned = json!({"placement": {"host": "h2"}});
    let first = world.create_labelled("first", group("db"), pinned).await;
    until("it follows", || async { placed_on(&world, follower).await.as_deref() == Some("h2") }).await;
    world.completed(first.task.id).await;
    let rules = json!({"placement": {"host": "h2", "anti_affinity": [{"vm_labels": {"group": "db"}}]}});
    let apart = world.create("apart", rules).await.object.id();
    until("it says who is in its way", || async { world.vm(apart).await.unwrap().placement.is_some() }).await;
    let told = explanation(&world, apart).await;
    let h2 = told.candidates.iter().find(|c| c.host.as_str() == "h2").unwrap();
    assert_eq!(
        (&*h2.rejections[0].code, &*h2.rejections[0].evidence),
        ("anti_affinity", "vm/first is placed there")
    );
    world.delete(first.object.id()).await;
    until("it takes the place", || async { placed_on(&world, apart).await.as_deref() == Some("h2") }).await;
    running.stop().await;
}
