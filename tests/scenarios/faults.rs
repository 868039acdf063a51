//! What goes wrong on a host, one thing after the other: it converges, and nothing is done twice.

use anyhow::{Result, ensure};
use basalt_agent::host::sim::{Fault, Listing};
use basalt_model::{VmId, tasks::TaskState, vms::ObservedPower};
use basalt_plan::host::{Resource, effect::Mishap};
use basalt_tests::{House, api::vm_id, machine::Machine, wait};
use basalt_wire::rest::Vm;
use futures::future::try_join_all;
use serde_json::json;
use std::time::Duration;

/// What a create does to a VM itself, once each.
const ONCE: [&str; 3] = ["writing the seed", "defining", "starting"];

fn done_once(machine: &Machine, vm: &Vm) -> Result<()> {
    for stage in ONCE {
        let n = machine.done(Resource::Vm(vm_id(vm)), stage);
        ensure!(n == 1, "{}: {stage} {n} times", vm.metadata.name);
    }
    for disk in vm.disks.iter().filter_map(|d| d.volume_id) {
        let n = machine.done(Resource::Volume(disk), "making the volume");
        ensure!(n == 1, "{}: the volume was made {n} times", vm.metadata.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_every_kind_of_fault_converges_without_a_duplicate() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    let kinds = [Fault::FailBefore, Fault::FailAfter, Fault::Hang, Fault::AnswerLost];
    let creates = kinds.iter().enumerate().map(|(n, fault)| {
        let (api, machine) = (house.api.clone(), machine.clone());
        async move {
            // The image is there after the first create, so each fault meets the VM and its volume.
            let (vm, task) = api.create_vm(&format!("web-{n}"), json!({"power": "stopped"})).await?;
            api.completed(&task).await?;
            machine.sim.inject_next(Resource::Vm(vm_id(&vm)), fault.clone());
            let task = api.verb(&format!("web-{n}"), "start").await?;
            api.completed(&task).await?;
            anyhow::Ok(api.vm(&format!("web-{n}")).await?)
        }
    });
    for (vm, fault) in try_join_all(creates).await?.iter().zip(&kinds) {
        ensure!(machine.runs(vm_id(vm)), "{fault:?}");
        done_once(&machine, vm)?;
    }
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_faults_at_every_action_of_a_create_converge_without_a_duplicate() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    // The first create also fetches the image and sets up the network.
    house.api.running_vm("first").await?;
    let before = machine.sim.actions();
    house.api.running_vm("second").await?;
    let actions = machine.sim.actions() - before;
    ensure!((4..40).contains(&actions), "{actions} actions");
    for step in 0..actions {
        let fault = if step % 2 == 0 { Fault::FailAfter } else { Fault::FailBefore };
        machine.sim.inject_at(machine.sim.actions() + step, fault.clone());
        let vm = house.api.running_vm(&format!("web-{step}")).await?;
        done_once(&machine, &vm)?;
    }
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_what_happens_to_a_host_by_hand_is_put_right() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let vm = house.api.running_vm("web").await?;
    let (id, machine) = (vm_id(&vm), house.machine_of(&vm)?.clone());
    let port = vm.nics[0].port_id;
    let mishaps = [
        Mishap::Kill(id),
        Mishap::Erase(id),
        Mishap::Undefine(id),
        Mishap::Pause(id),
        Mishap::DropPort(port),
        Mishap::WipeFlows,
        Mishap::KillDhcp,
        Mishap::DropRouters,
        Mishap::DropSeeds,
        Mishap::DropSwitch,
        Mishap::PowerCut,
    ];
    for mishap in mishaps {
        machine.sim.suffer(&mishap);
        whole(&house, &machine, id).await.map_err(|e| e.context(format!("{mishap:?}")))?;
    }
    ensure!(machine.sim.look(|w| w.observed.vms.items.len()) == 1);
    house.sound()?;

    // The other way round: what shall be off and was turned on goes off again.
    let task = house.api.verb("web", "stop").await?;
    house.api.completed(&task).await?;
    machine.sim.suffer(&Mishap::Start(id));
    wait::until_true("it is off again", || machine.power(id) == ObservedPower::Stopped).await
}

/// Waits until nothing is left to be done for the VM, its port, its network and the switch. A seed that
/// was deleted under a running VM is written again before its next start, which the power cut demands.
async fn whole(house: &House, machine: &Machine, id: VmId) -> Result<()> {
    wait::until("everything stands again", || async {
        let stands = machine.sim.look(|w| {
            use basalt_plan::host::{PortState, SwitchSeen};
            let o = &w.observed;
            let vm = o.vms.items.get(&id);
            vm.is_some_and(|v| {
                v.power == ObservedPower::Running && v.defined.is_some() && v.defined == v.running
            }) && o.ports.items.values().all(|p| p.state == PortState::Attached)
                && o.networks.items.values().all(|n| n.running)
                && matches!(&o.switch, SwitchSeen::Ready { flows: Some(_) })
        });
        Ok(stands.then_some(()))
    })
    .await?;
    wait::until("the API shows it", || async {
        Ok((house.api.vm("web").await?.observed.power == ObservedPower::Running).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_a_listing_that_fails_is_no_absence() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let vm = house.api.running_vm("web").await?;
    let machine = house.machine_of(&vm)?.clone();
    let before = machine.sim.mutations();
    let all =
        [Listing::Vms, Listing::Volumes, Listing::Images, Listing::Networks, Listing::Ports, Listing::Seeds];
    for blind in all.iter().map(std::slice::from_ref).chain([&all[..]]) {
        machine.sim.blind(blind);
        // Long enough for several looks at the host.
        tokio::time::sleep(Duration::from_millis(150)).await;
        ensure!(machine.sim.mutations() == before, "{blind:?}: {:?}", machine.sim.mutations());
    }
    machine.sim.blind(&[]);
    let shown = house.api.vm("web").await?;
    ensure!(shown.placement == vm.placement && machine.runs(vm_id(&vm)), "{shown:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_a_host_that_refuses_says_why_and_the_vm_runs_once_it_can() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    let (vm, task) = house.api.create_vm("web", json!({"power": "stopped"})).await?;
    house.api.completed(&task).await?;
    for _ in 0..3 {
        machine.sim.inject_next(Resource::Vm(vm_id(&vm)), Fault::Refuse);
    }
    let task = house.api.verb("web", "start").await?;
    let blocked =
        wait::until("the reason is shown", || async { Ok(house.api.vm("web").await?.observed.blocked) })
            .await?;
    ensure!(!blocked.remedy.is_empty() && blocked.code == "refused", "{blocked:?}");
    let ended = house.api.ended(task.id).await?;
    ensure!(ended.state == TaskState::Completed, "{ended:?}");
    ensure!(machine.runs(vm_id(&vm)) && machine.done(Resource::Vm(vm_id(&vm)), "starting") == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_seeded_faults_over_many_vms_converge_and_no_vm_is_doubled() -> Result<()> {
    let house = House::with_hosts(2).await?;
    for (n, machine) in house.hosts.iter().enumerate() {
        machine.sim.inject_seeded(0x5eed + n as u64, 9);
    }
    let mut tasks = Vec::new();
    for n in 0..20 {
        tasks.push(house.api.create_vm(&format!("web-{n}"), json!({})).await?.1);
    }
    for task in &tasks {
        house.api.completed(task).await?;
    }
    house.hosts.iter().for_each(|m| m.sim.inject_seeded(0, 0));
    house.runs_once()?;
    house.sound()?;
    house.clear().await?;
    house.sound()
}
