//! Two gateways over one database: leases and compare-and-set let neither double what the other does.

use anyhow::{Result, ensure};
use basalt_plan::host::Resource;
use basalt_tests::{House, api::vm_id, gateway::TestGateway, oracles};
use basalt_wire::rest::{Page, Vm};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_started_at_once_double_nothing() -> Result<()> {
    let mut house = House::with_hosts(1).await?;
    let (left, right) = tokio::join!(TestGateway::inside(&house.place), TestGateway::inside(&house.place));
    let (left, right) = (left?, right?);
    // Two that began at the same moment, beside the one that the first host speaks with.
    let second = house.declare_host("h2", json!({}), &right.agents.clone()).await?;
    second.start()?;
    let apis = [house.api.at(&left.users), house.api.at(&right.users)];
    house.until_hosts_ready().await?;
    let mut tasks = Vec::new();
    for n in 0..24 {
        tasks.push(apis[n % 2].create_vm(&format!("web-{n}"), json!({})).await?.1);
    }
    // What one gateway accepted can be followed at the other.
    for (n, task) in tasks.iter().enumerate() {
        apis[(n + 1) % 2].completed(task).await?;
    }
    house.runs_once()?;
    house.sound()?;
    let page: Page<Vm> = apis[0].get(&house.api.path("vms")).await?;
    ensure!(page.items.len() == 24);
    for vm in &page.items {
        let starts: u32 = house.hosts.iter().map(|m| m.done(Resource::Vm(vm_id(vm)), "starting")).sum();
        ensure!(starts == 1, "{} was started {starts} times", vm.metadata.name);
    }
    let epochs = oracles::count(house.owner_url(), "SELECT max(epoch) FROM placements")?;
    ensure!(epochs == 1, "a VM was placed {epochs} times");
    house.clear().await?;
    house.sound()?;
    left.stop().await?;
    right.stop().await
}
