//! R32 over the whole house: the agent is killed at each step of a create and of a delete.

use anyhow::{Result, ensure};
use basalt_agent::host::sim::Fault;
use basalt_model::tasks::Task;
use basalt_plan::host::Resource;
use basalt_tests::{House, api::vm_id, machine::Machine};
use serde_json::json;
use std::sync::Arc;

/// Restarts the agent if a fault kills it before the task ends.
async fn ended_through_a_kill(house: &House, machine: &Arc<Machine>, task: &Task) -> Result<bool> {
    let done = house.api.completed(task);
    tokio::pin!(done);
    tokio::select! {
        ended = &mut done => return ended.map(|_| false),
        () = machine.sim.killed() => machine.restart().await?,
    }
    done.await.map(|_| true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_v3_an_agent_killed_at_each_step_of_a_create_and_a_delete_doubles_nothing() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    house.api.running_vm("first").await?;
    let mut kills = 0;
    for (round, fault) in [Fault::KillBefore, Fault::KillAfter].into_iter().enumerate() {
        for step in 0.. {
            let name = format!("web-{round}-{step}");
            machine.sim.inject_at(machine.sim.actions() + step, fault.clone());
            let (vm, task) = house.api.create_vm(&name, json!({})).await?;
            let in_create = ended_through_a_kill(&house, &machine, &task).await?;
            ensure!(machine.runs(vm_id(&vm)), "{name}");
            for stage in ["writing the seed", "defining", "starting"] {
                let n = machine.done(Resource::Vm(vm_id(&vm)), stage);
                ensure!(n == 1, "{name}: {stage} {n} times");
            }
            let task = house.api.delete_vm(&name).await?;
            let in_delete = ended_through_a_kill(&house, &machine, &task).await?;
            if !in_create && !in_delete {
                ensure!(step > 5, "only {step} steps were seen");
                break;
            }
            kills += 1;
        }
        // The fault of the last round met nothing yet; a VM of its own takes it away.
        let (_, task) = house.api.create_vm(&format!("last-{round}"), json!({})).await?;
        ended_through_a_kill(&house, &machine, &task).await?;
    }
    ensure!(kills > 12, "{kills} kills");
    house.clear().await?;
    house.sound()
}
