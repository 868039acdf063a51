//! R1: the gateway dies between a commit and what the commit should have woken.

use anyhow::{Result, ensure};
use basalt_daemon::{Clock, SystemClock};
use basalt_model::VmId;
use basalt_plan::host::Resource;
use basalt_store::{Change, Ids, Key, New, projects, testkit, vms};
use basalt_tests::{House, api::vm_id};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// R1's bound: from the restart until reality matches intent.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_gateway_killed_between_commit_and_wake_converges_within_five_seconds() -> Result<()> {
    let mut house = House::with_program(1).await?;
    let machine = house.hosts[0].clone();

    // Exactly between: the commit is made while no gateway lives to be woken by it.
    house.gateway.kill()?;
    let store = &house.truth.store;
    let mut system = store.system_read().await?;
    let project = projects::get(&mut system, None, &Key::parse("project", "demo")?).await?;
    drop(system);
    // Ids of today: what ended long ago, by its id, is not kept.
    let ids: Ids = Arc::new(|| SystemClock.new_id());
    let change = Change { now: SystemClock.now(), ..testkit::change(&ids) };
    let mut tx = store.tenant(project.metadata.tenant_id.unwrap()).await?;
    let body = basalt_tests::api::vm("unwoken", json!({}));
    let new = New {
        name: "unwoken".parse()?,
        labels: Default::default(),
        spec: serde_json::from_value(body["spec"].clone())?,
    };
    let made = vms::insert(&mut tx, &change, project.metadata.id.into(), &new).await?;
    tx.commit().await?;
    let started = Instant::now();
    house.gateway.start()?;
    machine.until_runs(VmId(made.object.metadata.id)).await?;
    ensure!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    house.api.completed(&made.task).await?;

    // And as it happens: killed at different moments after the answer.
    for (n, wait) in [0, 1, 3, 8, 20].into_iter().enumerate() {
        let (vm, task) = house.api.create_vm(&format!("web-{n}"), json!({})).await?;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        house.gateway.kill()?;
        let started = Instant::now();
        house.gateway.start()?;
        machine.until_runs(vm_id(&vm)).await?;
        ensure!(started.elapsed() < BOUND, "killed {wait} ms after the answer: {:?}", started.elapsed());
        house.api.completed(&task).await?;
        ensure!(machine.done(Resource::Vm(vm_id(&vm)), "starting") == 1);
    }
    house.sound()
}
