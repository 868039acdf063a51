//! T5: tasks and VMs live over `/v1/watch`, and resumed where a watcher left off.

use anyhow::{Result, ensure};
use basalt_model::{Generation, tasks::TaskState};
use basalt_tests::{House, watch::Watch, watch_soak};
use basalt_wire::rest::{WatchEvent, WatchKind};
use serde_json::json;
use std::collections::BTreeMap;
use uuid::Uuid;

fn task_state(event: &WatchEvent) -> Option<TaskState> {
    (event.kind == "task").then_some(())?;
    serde_json::from_value(event.object.as_ref()?["state"].clone()).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t5_tasks_and_vms_are_live_over_watch_and_resume_by_cursor() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let mut watch = Watch::open(&house.api, "kinds=vm,task&project=demo").await?;
    let opening = watch.until(|e| e.event == WatchKind::Bookmark).await?;
    ensure!(opening.iter().rev().skip(1).all(|e| e.event == WatchKind::Snapshot), "{opening:?}");
    let first = opening.last().unwrap().cursor.clone();

    let (vm, task) = house.api.create_vm("web", json!({})).await?;
    let create =
        watch.until(|e| e.id == Some(task.id.0) && task_state(e) == Some(TaskState::Completed)).await?;
    let states: Vec<_> = create.iter().filter(|e| e.id == Some(task.id.0)).filter_map(task_state).collect();
    ensure!(states.first() != Some(&TaskState::Completed), "the task was seen before it ended: {states:?}");
    ensure!(states.iter().filter(|s| s.is_terminal()).count() == 1, "{states:?}");
    let mut generations = BTreeMap::<Uuid, Generation>::new();
    for event in create.iter().filter(|e| e.kind == "vm" && e.object.is_some()) {
        let object = event.object.as_ref().unwrap();
        let seen: Generation = serde_json::from_value(object["observed_generation"].clone())?;
        let last = generations.entry(event.id.unwrap()).or_default();
        ensure!(seen >= *last, "observed_generation went back: {event:?}");
        *last = seen;
    }
    ensure!(generations.get(&vm.metadata.id) == Some(&Generation::FIRST), "{generations:?}");

    // A watcher that was away reads on where it was, and misses nothing of it.
    drop(watch);
    let delete = house.api.delete_vm("web").await?;
    house.api.completed(&delete).await?;
    let mut again = Watch::open(&house.api, &format!("kinds=vm,task&project=demo&cursor={first}")).await?;
    let read = again.until(|e| e.event == WatchKind::Bookmark).await?;
    ensure!(read.iter().all(|e| e.event != WatchKind::Resync), "a cursor this young must be known: {read:?}");
    ensure!(read.iter().any(|e| e.event == WatchKind::Delete && e.id == Some(vm.metadata.id)), "{read:?}");
    let ended = |id: Uuid| {
        read.iter().filter(|e| e.id == Some(id)).filter_map(task_state).any(TaskState::is_terminal)
    };
    ensure!(ended(task.id.0), "the create's end was missed: {read:?}");
    ensure!(ended(delete.id.0), "the deletion's end was missed: {read:?}");

    // A cursor that means nothing any more begins anew, and says so.
    let mut lost = Watch::open(&house.api, "kinds=task&project=demo&cursor=0-0").await;
    if let Ok(watch) = &mut lost {
        let opening = watch.until(|e| e.event == WatchKind::Bookmark).await?;
        ensure!(opening.first().is_some_and(|e| e.event == WatchKind::Resync), "{opening:?}");
    }
    Ok(())
}

/// In full: `cargo xtask soak --watch 1000000`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_of_watches_agree_with_a_model_and_with_lists() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let plan = watch_soak::Plan { events: 8_000, watchers: 4, writers: 3, seed: 0xba5a17 };
    let outcome = watch_soak::run(&house, &plan).await?;
    ensure!(outcome.events >= plan.events && outcome.resumed > 4 && outcome.lists > 10, "{outcome:?}");
    house.sound()
}
