//! H5, R36: what is on a host and in no manifest is reported through the API and left as it is.

use anyhow::{Result, ensure};
use basalt_model::{VmId, hosts::Foreign, vms::ObservedPower};
use basalt_plan::host::{Resource, VmSeen};
use basalt_tests::{House, wait};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_r36_foreign_domains_are_shown_and_never_touched() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    let stranger = VmId(Uuid::from_u128(0xf0e1));
    let seen = VmSeen { name: "payroll".into(), power: ObservedPower::Running, ..VmSeen::default() };
    let file = Foreign {
        kind: "volume".into(),
        name: "notes.txt".into(),
        detail: "12 bytes".into(),
        ..Foreign::default()
    };
    machine.sim.with_world(|w| {
        w.observed.vms.items.insert(stranger, seen.clone());
        w.observed.strays.push(file.clone());
    });
    house.api.running_vm("web").await?;
    let foreign = wait::until("the stranger is reported", || async {
        let foreign = house.host("h1").await?.facts.map(|f| f.foreign).unwrap_or_default();
        Ok(foreign.iter().any(|f| f.name == "payroll").then_some(foreign))
    })
    .await?;
    let shown = foreign.iter().find(|f| f.name == "payroll").unwrap();
    ensure!(shown.kind == "vm" && shown.id == stranger.to_string(), "{foreign:?}");
    ensure!(foreign.contains(&file), "{foreign:?}");
    ensure!(foreign.len() == 2, "ours are no strangers: {foreign:?}");

    // A whole life of a VM beside it, a restart of the agent, and nobody laid a hand on it.
    let task = house.api.delete_vm("web").await?;
    house.api.completed(&task).await?;
    machine.restart().await?;
    house.api.running_vm("again").await?;
    ensure!(machine.seen(stranger) == Some(seen), "{:?}", machine.seen(stranger));
    let touched: Vec<_> =
        machine.sim.mutations().into_keys().filter(|(r, _)| *r == Resource::Vm(stranger)).collect();
    ensure!(touched.is_empty(), "{touched:?}");
    house.sound()
}
