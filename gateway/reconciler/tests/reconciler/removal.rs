//! Deletion: R15, and that absence never deletes.

use crate::{
    agent::Agent,
    world::{World, until},
};
use basalt_model::{GIB, HostId, VmId, tasks::TaskState};
use basalt_store::{Page, hosts, manifests, pools, quotas, volumes};
use basalt_wire::agent::manifest::ItemKind;
use serde_json::{Value, json};

async fn kinds(world: &World, host: HostId) -> Vec<(String, bool)> {
    let mut tx = world.store.system_read().await.unwrap();
    let manifest = manifests::get::<Value>(&mut tx, host).await.unwrap();
    manifest.items.into_iter().map(|i| (i.kind, i.present)).collect()
}

/// Nothing of any VM is left, in the database or on the host.
async fn nothing_is_left(world: &World, agent: &Agent) {
    until("manifest and host are empty", || async {
        kinds(world, agent.host).await.is_empty()
            && [ItemKind::Vm, ItemKind::Volume, ItemKind::Image, ItemKind::Network]
                .into_iter()
                .all(|kind| agent.has(kind).is_empty())
    })
    .await;
    assert!(world.vms().await.is_empty());
    let mut tx = world.store.system_read().await.unwrap();
    assert!(volumes::list(&mut tx, world.project, &Page::default()).await.unwrap().items.is_empty());
    let host = &hosts::list(&mut tx, &Page::default()).await.unwrap().items[0];
    assert_eq!((host.claimed.vms, host.claimed.cpus, host.claimed.memory_bytes), (0, 0, 0));
    let pools = pools::list(&mut tx, None, &Page::default()).await.unwrap().items;
    assert!(pools.iter().all(|p| p.claimed_bytes == 0));
    let used = quotas::get(&mut tx, world.project).await.unwrap().used;
    assert_eq!((used.vms, used.cpus, used.memory_bytes, used.storage_bytes), (0, 0, 0, 0));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Declared,
    Placed,
    Realised(ItemKind),
}

async fn reached(world: &World, agent: &Agent, vm: VmId, step: Step) {
    until(&format!("{step:?}"), || async {
        match step {
            Step::Declared => true,
            Step::Placed => world.vm(vm).await.unwrap().placement.is_some_and(|p| p.host_id.is_some()),
            Step::Realised(kind) => !agent.has(kind).is_empty(),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r15_delete_while_create_is_at_each_step() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.run();
    for (i, step) in [
        Step::Declared,
        Step::Placed,
        Step::Realised(ItemKind::Network),
        Step::Realised(ItemKind::Image),
        Step::Realised(ItemKind::Volume),
        Step::Realised(ItemKind::Vm),
    ]
    .into_iter()
    .enumerate()
    {
        let running = world.start();
        agent.let_up_to(match step {
            Step::Realised(kind) => Some(kind),
            _ => None,
        });
        let made = world.create(&format!("vm-{i}"), json!({})).await;
        reached(&world, &agent, made.object.id(), step).await;
        let delete = world.delete(made.object.id()).await;
        // The host goes on with whatever it is still told.
        agent.let_up_to(Some(ItemKind::Vm));
        world.completed(delete.id).await;
        nothing_is_left(&world, &agent).await;
        let create = world.ended(made.task.id).await;
        let at_the_end = matches!(step, Step::Realised(ItemKind::Vm));
        assert!(
            create.state == TaskState::Cancelled || at_the_end && create.state == TaskState::Completed,
            "{step:?}: {create:#?}"
        );
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_stays_until_its_host_reported_it_gone_and_its_disk_stays_until_then() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.let_remove(false);
    agent.run();
    let running = world.start();
    let made = world.create("web", json!({})).await;
    world.completed(made.task.id).await;
    let delete = world.delete(made.object.id()).await;
    until("the VM is absent in the manifest", || async {
        kinds(&world, agent.host).await.contains(&("vm".into(), false))
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let standing = kinds(&world, agent.host).await;
    let want = [("network", true), ("image", true), ("volume", true), ("vm", false)];
    assert_eq!(standing, want.map(|(k, p)| (k.to_owned(), p)), "what the VM uses stays while the VM may");
    assert!(!world.task(delete.id).await.state.is_terminal());
    agent.let_remove(true);
    world.completed(delete.id).await;
    nothing_is_left(&world, &agent).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_image_and_network_stay_for_the_other_vm() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.run();
    let running = world.start();
    let (a, b) = (world.create("a", json!({})).await, world.create("b", json!({})).await);
    world.completed(a.task.id).await;
    world.completed(b.task.id).await;
    let gone = world.delete(a.object.id()).await;
    world.completed(gone.id).await;
    let all = kinds(&world, agent.host).await;
    assert_eq!(all.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), ["network", "image", "volume", "vm"]);
    assert!(all.iter().all(|(_, present)| *present));
    assert_eq!(agent.begun().get(&b.object.metadata.id), Some(&1));
    // Gone and wanted again: the host is told with a newer epoch and takes it.
    let gone = world.delete(b.object.id()).await;
    world.completed(gone.id).await;
    let again = world.create("c", json!({})).await;
    world.completed(again.task.id).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_again_before_its_host_saw_it_away_is_newer_than_what_it_had() {
    let world = World::new().await;
    world.furnish().await;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    let running = world.start();
    let first = world.create("first", json!({})).await;
    let passes = || async {
        agent.pass().await;
        world.task(first.task.id).await.state.is_terminal()
    };
    until("the first runs", passes).await;
    world.delete(first.object.id()).await;
    // The host reports everything gone, and does not look at its manifest after that.
    until("its last goodbye is said", || async {
        agent.pass().await;
        [ItemKind::Vm, ItemKind::Volume, ItemKind::Image, ItemKind::Network]
            .into_iter()
            .all(|kind| agent.has(kind).is_empty())
    })
    .await;
    until("the manifest is empty", || async { kinds(&world, agent.host).await.is_empty() }).await;
    let second = world.create("second", json!({})).await;
    until("the host is to have it", || async { kinds(&world, agent.host).await.len() == 4 }).await;
    // The agent of these tests panics on an item that a host would refuse as old.
    until("the second runs", || async {
        agent.pass().await;
        world.task(second.task.id).await.state == TaskState::Completed
    })
    .await;
    running.stop().await;
}
