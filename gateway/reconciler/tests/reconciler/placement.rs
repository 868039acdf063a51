//! Where VMs go: PL1, PL2, PL4.

use crate::world::{World, name, until};
use basalt_model::{GIB, VmId};
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
