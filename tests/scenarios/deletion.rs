//! R15: delete while create is at each step ends deleted, without leftovers.

use anyhow::{Result, ensure};
use basalt_tests::{House, oracles, wait};
use basalt_wire::rest::Vm;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r15_delete_while_create_is_at_each_step_ends_deleted_without_leftovers() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    let before = machine.sim.actions();
    house.api.running_vm("first").await?;
    let actions = machine.sim.actions() - before;
    machine.sim.set_delay(Duration::from_millis(20));
    for step in 0..=actions {
        let name = format!("web-{step}");
        let from = machine.sim.actions();
        house.api.create_vm(&name, json!({})).await?;
        if step > 0 {
            let end = tokio::time::Instant::now() + Duration::from_secs(2);
            while machine.sim.actions() < from + step && tokio::time::Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let task = house.api.delete_vm(&name).await?;
        house.api.completed(&task).await?;
        ensure!(house.api.find::<Vm>(&house.api.path(&format!("vms/{name}"))).await?.is_none());
    }
    machine.sim.set_delay(Duration::ZERO);
    house.clear().await?;
    house.sound()?;
    let open = "SELECT count(*) FROM tasks WHERE state IN ('pending', 'executing')";
    wait::until("no task is left open", || async {
        Ok((oracles::count(house.owner_url(), open)? == 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r15_delete_before_any_host_has_heard_of_the_vm() -> Result<()> {
    let mut house = House::with_hosts(0).await?;
    house.api.create_vm("nowhere", json!({})).await?;
    let task = house.api.delete_vm("nowhere").await?;
    house.api.completed(&task).await?;
    house.nothing_left().await?;

    // Placed on a host whose agent never came: nothing was ever made there, but only the host can say so.
    let machine = house.add_host("h1").await?;
    house.until_hosts_ready().await?;
    machine.kill().await;
    let (vm, create) = house.api.create_vm("unheard", json!({})).await?;
    let told = "SELECT count(*) FROM manifest_items WHERE kind = 'vm'";
    wait::until("the host is told", || async {
        Ok((oracles::count(house.owner_url(), told)? == 1).then_some(()))
    })
    .await?;
    let task = house.api.delete_vm("unheard").await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(
        house.api.find::<Vm>(&house.api.path("vms/unheard")).await?.is_some(),
        "absence was taken for granted"
    );
    machine.start()?;
    house.api.completed(&task).await?;
    ensure!(house.api.ended(create.id).await?.state.is_terminal());
    ensure!(machine.done(basalt_plan::host::Resource::Vm(basalt_tests::api::vm_id(&vm)), "starting") == 0);
    house.nothing_left().await?;
    house.sound()
}
