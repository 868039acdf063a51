//! Tasks that wait for others, from their record to their end, across restarts: R48, R45.

use crate::world::{World, name, until};
use basalt_model::{
    GIB, TaskId,
    tasks::{Task, TaskMove, TaskState},
};
use basalt_store::{
    Key,
    task_dependencies::{self, Ask},
    tasks, vms,
    vms::PowerVerb,
};
use basalt_wire::agent::manifest::ItemKind;
use serde_json::json;

async fn later(world: &World, key: Option<Key>, ask: Ask, on: &[TaskId]) -> Task {
    let mut tx = world.store.tenant(world.tenant).await.unwrap();
    let change = world.change();
    let held = task_dependencies::ask_vm(&mut tx, &change, world.project, key.as_ref(), None, ask, on)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    held.task
}

fn create(vm: &str) -> Ask {
    let spec = json!({"cpus": 1, "memory_bytes": GIB / 4,
        "disks": [{"name": "root", "source": {"kind": "image", "image": "debian"}}]});
    Ask::Create {
        name: name(vm),
        labels: Default::default(),
        spec: Box::new(serde_json::from_value(spec).unwrap()),
    }
}

async fn end(world: &World, id: TaskId, state: TaskState) {
    let to = TaskMove { id, state, progress: 0, stage: "tested".into(), error: None };
    let mut tx = world.store.system().await.unwrap();
    assert_eq!(tasks::advance(&mut tx, &[to], world.clock.now()).await.unwrap(), [id]);
    tx.commit().await.unwrap();
}

/// A chain: a create, a stop of it, and another create; the reconciler is killed after every end.
#[tokio::test(flavor = "multi_thread")]
async fn r48_r45_a_chain_starts_one_by_one_and_once_though_the_reconciler_is_killed_in_between() {
    let world = World::new().await;
    world.furnish().await;
    let first = world.create("web-1", json!({})).await;
    let on = [first.task.id];
    let stop = later(&world, Some(Key::Id(first.object.id().0)), Ask::Power(PowerVerb::Stop), &on).await.id;
    let last = later(&world, None, create("web-2"), &[stop, first.task.id]).await;
    let failing = later(&world, None, create("web-2"), &[last.id]).await.id;
    let agent = world.host("h1", 4, 4 * GIB).await;
    agent.let_up_to(Some(ItemKind::Vm));
    agent.run();
    for (n, task) in [first.task.id, stop, last.id].into_iter().enumerate() {
        let running = world.start();
        if n == 0 {
            // Killed as soon as something is under way.
            until("a start", || async { world.task(task).await.state != TaskState::Pending }).await;
            running.kill().await;
            let again = world.start();
            world.completed(task).await;
            again.kill().await;
        } else {
            world.completed(task).await;
            running.kill().await;
        }
    }
    let running = world.start();
    let ended = world.ended(failing).await;
    let error = ended.error.unwrap();
    assert_eq!((ended.state, error.code.as_ref()), (TaskState::Failed, "refused_at_start"), "{error}");
    running.stop().await;
    let all = world.vms().await;
    assert_eq!(all.len(), 2, "each was declared once");
    let web = all.iter().find(|v| v.vm.id() == first.object.id()).unwrap();
    assert_eq!(web.vm.metadata.generation.0, 2, "the stop was asked for once");
    let task = world.task(last.id).await;
    assert_eq!(task.subject.id, all.iter().find(|v| v.vm.id() != first.object.id()).unwrap().vm.metadata.id);
    assert_eq!(task.depends_on.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r48_a_failed_parent_fails_all_that_wait_for_it_and_nothing_of_them_is_declared() {
    let world = World::new().await;
    world.furnish().await;
    let running = world.start();
    let root = world.create("web-1", json!({})).await.task.id;
    let child = later(&world, None, create("web-2"), &[root]).await.id;
    let grandchild = later(&world, None, create("web-3"), &[child]).await.id;
    end(&world, root, TaskState::TimedOut).await;
    for task in [child, grandchild] {
        let ended = world.ended(task).await;
        let error = ended.error.unwrap();
        assert_eq!((ended.state, error.code.as_ref()), (TaskState::Failed, "dependency_failed"), "{error}");
        assert!(error.remedy.contains("retry"), "{error}");
    }
    assert_eq!(world.vms().await.len(), 1);
    // One that ended while nobody reconciled, before whoever waits for it was seen.
    running.stop().await;
    let root = world.create("web-4", json!({})).await.task.id;
    let child = later(&world, None, create("web-5"), &[root]).await.id;
    end(&world, root, TaskState::Completed).await;
    let running = world.start();
    until("the start", || async { !world.task(child).await.is_held() }).await;
    let mut tx = world.store.tenant_read(world.tenant).await.unwrap();
    vms::get(&mut tx, world.project, &Key::Name(name("web-5"))).await.unwrap();
    drop(tx);
    running.stop().await;
}
