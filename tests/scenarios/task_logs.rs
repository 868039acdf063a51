//! T1: whoever follows a task reads what its hosts do for it, as they do it, whatever becomes of the gateway.

use anyhow::{Context, Result, ensure};
use basalt_agent::host::sim::Fault;
use basalt_model::tasks::{Task, TaskLog};
use basalt_plan::host::Resource;
use basalt_tests::{House, api::vm_id, cli::Cli, wait};
use serde_json::json;

async fn log(house: &House, task: &Task) -> Result<Vec<String>> {
    let lines: Vec<TaskLog> = house.api.get(&format!("/v1/tasks/{}/logs?limit=500", task.id)).await?;
    ensure!(lines.iter().zip(1..).all(|(line, n)| line.seq == n), "{lines:?}");
    Ok(lines.into_iter().map(|l| l.line).collect())
}

/// Each of these is there once, in this order.
fn in_order(log: &[String], steps: &[&str]) -> Result<()> {
    let mut from = 0;
    for step in steps {
        let at: Vec<usize> = (0..log.len()).filter(|n| log[*n].contains(step)).collect();
        ensure!(at.len() == 1 && at[0] >= from, "{step:?} is not there once, and in its place: {log:#?}");
        from = at[0];
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_the_log_of_a_task_tells_the_steps_in_order_and_a_failure_once() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let (_, task) = house.api.create_vm("web", json!({})).await?;
    house.api.completed(&task).await?;
    // What led to the end was said before it.
    let lines = log(&house, &task).await?;
    in_order(&lines, &["fetching 1 MiB", "fetched, 1 MiB", ": made", "h1: defined, ", "h1: started"])?;

    // A failure is said once, though it is tried again and again.
    let (vm, task) = house.api.create_vm("second", json!({"power": "stopped"})).await?;
    house.api.completed(&task).await?;
    for _ in 0..4 {
        house.hosts[0].sim.inject_next(Resource::Vm(vm_id(&vm)), Fault::FailBefore);
    }
    let task = house.api.verb("second", "start").await?;
    house.api.completed(&task).await?;
    in_order(&log(&house, &task).await?, &["h1: starting failed (", "h1: started"])?;

    let task = house.api.delete_vm("second").await?;
    house.api.completed(&task).await?;
    in_order(&log(&house, &task).await?, &["h1: forced off", "h1: definition removed"])?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_no_line_is_lost_or_doubled_when_the_gateway_is_killed_in_between() -> Result<()> {
    let mut house = House::with_program(1).await?;
    let machine = house.hosts[0].clone();
    let (_, task) = house.api.create_vm("first", json!({})).await?;
    house.api.completed(&task).await?;
    for (n, milliseconds) in [0, 5, 15, 30, 60].into_iter().enumerate() {
        let (vm, task) = house.api.create_vm(&format!("web-{n}"), json!({})).await?;
        // Its manifest is at the host, and the gateway goes while the host works.
        let there = || async {
            Ok((machine.sim.mutations().keys().any(|(r, _)| *r == Resource::Vm(vm_id(&vm)))).then_some(()))
        };
        wait::until("the host begins", there).await?;
        tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
        house.gateway.kill()?;
        machine.until_runs(vm_id(&vm)).await?;
        house.gateway.start()?;
        house.api.completed(&task).await?;
        in_order(&log(&house, &task).await?, &[": made", "h1: defined", "h1: started"])?;
    }
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_the_cli_prints_lines_as_they_come() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let made = cli.run("create vm web --image tiny --network lan --cpus 1").await?;
    ensure!(made.out == "vm/web created\n", "{}", made.out);
    let said: Vec<String> =
        made.err.lines().filter(|l| l.starts_with("vm/web: h1: ")).map(str::to_owned).collect();
    in_order(&said, &["fetched", "defined", "started"])?;
    let tasks = cli.json("get tasks").await?;
    let create =
        tasks.as_array().into_iter().flatten().find(|t| t["kind"] == "vm_create").context("a task")?;
    let task = create["id"].as_str().context("an id")?;
    let printed: Vec<String> =
        cli.ok(&format!("logs task/{task}")).await?.lines().map(str::to_owned).collect();
    in_order(&printed, &["fetched", "h1: defined", "h1: started", "completed 100 %"])
}
