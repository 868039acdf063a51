//! Hosts are emptied for maintenance: a real gateway over PostgreSQL, real agents, hosts in memory with a fabric between
//! them.

use anyhow::{Context, Result, ensure};
use basalt_agent::host::sim::fabric::{Step, Trouble};
use basalt_model::{
    VmId,
    drains::{Drain, DrainPlan, DrainResult, MoveState},
    tasks::{Task, TaskState},
};
use basalt_tests::{House, api::vm_id, cli::Cli, oracles, wait, watchman::Watchman};
use basalt_wire::rest::{Page, Vm};
use serde_json::{Value, json};
use std::time::Duration;

/// Puts hosts into maintenance or out of it.
async fn maintenance(house: &House, hosts: &[&str], on: bool) -> Result<()> {
    for host in hosts {
        house.api.put::<Value>(&format!("/v1/hosts/{host}"), &json!({"spec": {"maintenance": on}})).await?;
    }
    Ok(())
}

/// VMs that run on h1 and could run elsewhere, and others that are pinned there.
async fn filled(house: &House, free: usize, pinned: usize) -> Result<Vec<VmId>> {
    maintenance(house, &["h2", "h3"], true).await?;
    let mut asked = Vec::new();
    for n in 0..free + pinned {
        let (name, wants) = match n < free {
            true => (format!("free-{n}"), json!({})),
            false => (format!("pinned-{}", n - free), json!({"placement": {"host": "h1"}})),
        };
        asked.push(house.api.create_vm(&name, wants).await?);
    }
    let mut ids = Vec::new();
    for (vm, task) in asked {
        house.api.completed(&task).await?;
        ids.push(vm_id(&vm));
    }
    maintenance(house, &["h2", "h3"], false).await?;
    ensure!(on(house, "h1", &ids).await? == ids.len(), "not all of them are on h1");
    Ok(ids)
}

/// How many of the VMs execute on a host.
async fn on(house: &House, host: &str, vms: &[VmId]) -> Result<usize> {
    let machine = house.hosts.iter().find(|h| h.name.as_str() == host).context("the host")?;
    Ok(vms.iter().filter(|vm| machine.runs(**vm)).count())
}

async fn drain(house: &House, body: Value) -> Result<(Drain, Task)> {
    let asked: Value = house.api.post("/v1/hosts/h1/drain", &body).await?;
    Ok((serde_json::from_value(asked["object"].clone())?, serde_json::from_value(asked["task"].clone())?))
}

async fn seen(house: &House, drain: &Drain) -> Result<Drain> {
    house.api.get(&format!("/v1/hosts/h1/drains/{}", drain.id)).await
}

fn live_migrations(house: &House) -> Result<i64> {
    oracles::count(house.owner_url(), "SELECT count(*) FROM migrations WHERE ended_at IS NULL")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_r56_a_drain_moves_what_it_can_and_names_what_it_cannot_while_nothing_new_comes() -> Result<()> {
    let house = House::with_hosts(3).await?;
    let vms = filled(&house, 47, 3).await?;
    let watchman = Watchman::over(&house.hosts, vms.clone());
    let plan: DrainPlan =
        house.api.post("/v1/hosts/h1/drain?dry_run=true", &json!({"concurrency": 4})).await?;
    ensure!((plan.moves.len(), plan.left) == (50, 3), "{} moves, {} left", plan.moves.len(), plan.left);
    let body = json!({"concurrency": 4, "patience_seconds": 0, "plan": plan.digest});
    let (asked, task) = drain(&house, body).await?;
    let (mut most, mut late) = (0, 0);
    let ended = loop {
        most = most.max(live_migrations(&house)?);
        // Somebody wants new VMs all the while.
        if late < 6 {
            late += 1;
            house.api.running_vm(&format!("late-{late}")).await?;
        }
        let now: Task = house.api.get(&format!("/v1/tasks/{}", task.id)).await?;
        if now.state.is_terminal() {
            break now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    ensure!((1..=4).contains(&most), "{most} VMs moved at the same time");
    let reason = ended.error.context("why")?;
    ensure!((ended.state, reason.code.as_ref()) == (TaskState::Failed, "vms_left"), "{reason:?}");
    ensure!(reason.evidence.contains("pinned-0"), "{reason:?}");
    let drain = seen(&house, &asked).await?;
    let outcome = drain.outcome.clone().context("an outcome")?;
    ensure!((outcome.result, outcome.left) == (DrainResult::Incomplete, 3), "{outcome:?}");
    ensure!(drain.count(MoveState::Moved) == 47, "{drain:?}");
    for part in drain.moves.iter().filter(|m| m.state == MoveState::Left) {
        let reason = part.reason.as_ref().context("a reason")?;
        ensure!(part.vm.as_str().starts_with("pinned") && !reason.remedy.is_empty(), "{part:?}");
    }
    ensure!(on(&house, "h1", &vms).await? == 3);
    let placed: Page<Vm> = house.api.get(&house.api.path("vms?limit=500")).await?;
    let new = placed.items.iter().filter(|vm| vm.metadata.name.as_str().starts_with("late"));
    ensure!(new.clone().count() == 6);
    ensure!(new.clone().all(|vm| vm.placement.as_ref().is_some_and(|p| p.host.as_str() != "h1")));
    let starts: u32 = house.hosts.iter().map(|h| h.sim.count("starting")).sum();
    ensure!(starts == 56, "{starts} starts of 56 VMs: none was started anew");
    watchman.report()?;
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_r57_a_drain_taken_back_half_way_leaves_all_running_and_is_gone_on_with() -> Result<()> {
    let house = House::with_hosts(3).await?;
    let vms = filled(&house, 10, 0).await?;
    let watchman = Watchman::over(&house.hosts, vms.clone());
    let (first, task) = drain(&house, json!({"concurrency": 2})).await?;
    wait::until("some have moved", || async {
        Ok((seen(&house, &first).await?.count(MoveState::Moved) >= 3).then_some(()))
    })
    .await?;
    house.api.call::<Task>(&format!("/v1/tasks/{}/cancel", task.id)).await?;
    let ended = house.api.ended(task.id).await?;
    ensure!(ended.state == TaskState::Cancelled, "{ended:?}");
    ensure!(live_migrations(&house)? == 0, "it ended while something moved");
    let drain_now = seen(&house, &first).await?;
    let left = on(&house, "h1", &vms).await?;
    ensure!(left > 0 && left < 10, "{left} are left of 10");
    ensure!(drain_now.count(MoveState::Left) == left, "{drain_now:?}");
    ensure!(house.host("h1").await?.spec.maintenance, "it stays in maintenance");
    // Taken back twice is refused; so is a drain of a host that is drained already.
    let again = house.api.call::<Task>(&format!("/v1/tasks/{}/cancel", task.id)).await;
    ensure!(again.is_err_and(|e| format!("{e:?}").contains("409")), "a drain is taken back once");
    let retry = house.api.try_post(&format!("/v1/tasks/{}/retry", task.id), &json!({})).await?.problem()?;
    ensure!(
        retry.reasons[0].code == "not_repeatable" && retry.reasons[0].remedy.contains("anew"),
        "{retry:?}"
    );
    // Gone on with.
    house.fabric.trouble(Step::Copy, Trouble::Hold);
    let (second, task) = drain(&house, json!({})).await?;
    ensure!(second.moves.len() == left, "what is left: {}", second.moves.len());
    let busy = house.api.try_post("/v1/hosts/h1/drain", &json!({})).await?.problem()?;
    ensure!(busy.reasons[0].code == "draining", "{busy:?}");
    let exit = house.api.request(reqwest::Method::PUT, "/v1/hosts/h1");
    let host = house.host("h1").await?;
    let exit = exit.header("if-match", format!("\"{}\"", host.metadata.generation.0));
    let exit = house.api.send(exit.json(&json!({"spec": {"maintenance": false}}))).await?.problem()?;
    ensure!(exit.reasons[0].code == "draining", "{exit:?}");
    house.fabric.release();
    house.fabric.calm();
    house.api.completed(&task).await?;
    ensure!(on(&house, "h1", &vms).await? == 0 && on(&house, "h2", &vms).await? > 0);
    maintenance(&house, &["h1"], false).await?;
    let (back, task) = house.api.create_vm("back", json!({"placement": {"host": "h1"}})).await?;
    house.api.completed(&task).await?;
    ensure!(on(&house, "h1", &[vm_id(&back)]).await? == 1, "it takes VMs again");
    watchman.report()?;
    house.clear().await?;
    house.sound()
}

/// Every state of a drain: the gateway is killed at each, and each agent in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_a_drain_survives_the_death_of_everybody_who_takes_part() -> Result<()> {
    let mut house = House::with_program(3).await?;
    let vms = filled(&house, 8, 0).await?;
    let watchman = Watchman::over(&house.hosts, vms.clone());
    let (asked, task) = drain(&house, json!({"concurrency": 2, "patience_seconds": 30})).await?;
    for moved in [0, 1, 3, 5] {
        wait::until("it goes on", || async {
            let now = seen(&house, &asked).await?;
            Ok((now.ended_at.is_some() || now.count(MoveState::Moved) >= moved).then_some(()))
        })
        .await?;
        house.gateway.kill()?;
        let host = &house.hosts[moved % 3];
        host.kill().await;
        house.gateway.start()?;
        house.ready().await?;
        house.hosts[moved % 3].restart().await?;
    }
    let ended = house.api.ended(task.id).await?;
    let now = seen(&house, &asked).await?;
    ensure!(ended.state == TaskState::Completed, "{ended:?} {now:?}");
    ensure!(now.moves.iter().all(|m| m.state == MoveState::Moved), "{now:?}");
    wait::until("each runs elsewhere", || async {
        let there = on(&house, "h2", &vms).await? + on(&house, "h3", &vms).await?;
        Ok((there == 8 && on(&house, "h1", &vms).await? == 0).then_some(()))
    })
    .await?;
    watchman.report()?;
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_the_command_line_shows_a_plan_asks_and_drains() -> Result<()> {
    let house = House::with_hosts(3).await?;
    let cli = Cli::of(&house)?;
    filled(&house, 2, 1).await?;
    cli.fails("drain nowhere --plan", 3, &["nowhere"]).await?;
    cli.fails("drain h1 --plan --concurrency 0", 1, &["concurrency"]).await?;
    cli.fails("drain h1", 2, &["--plan", "--yes"]).await?;
    cli.fails("drain h1 --cancel", 2, &["not being drained"]).await?;
    let plan = cli.ok("drain h1 --plan").await?;
    ensure!(plan.contains("free-0") && plan.contains("live") && plan.contains("pinned-0"), "{plan}");
    let host = cli.json("get host h1").await?;
    ensure!(host["spec"]["maintenance"] == false, "a plan changes nothing");
    let no = cli.at_terminal("drain h1", &[("[y/N]", "n\n")]).await?;
    ensure!(no.code != 0 && format!("{}{}", no.out, no.err).contains("not approved"), "{no:?}");
    // An approved plan that is another one by now is refused.
    let stale =
        house.api.try_post("/v1/hosts/h1/drain", &json!({"plan": "0123456789abcdef"})).await?.problem()?;
    ensure!(stale.code == "plan_changed", "{stale:?}");
    let said =
        cli.fails("drain h1 --yes --patience 0", 7, &["VMs are on the host still", "pinned-0"]).await?;
    ensure!(!said.contains("free-0"), "{said}");
    let list = cli.ok("drains h1").await?;
    ensure!(list.contains("incomplete"), "{list}");
    let drains: Page<Drain> = house.api.get("/v1/hosts/h1/drains").await?;
    let one = cli.ok(&format!("drains h1 {}", drains.items[0].id)).await?;
    ensure!(one.contains("pinned-0") && one.contains("left") && one.contains("moved"), "{one}");
    // Rules changed: what is left can go.
    house.api.completed(&house.api.delete_vm("pinned-0").await?).await?;
    let yes = cli.at_terminal("drain h1", &[("[y/N]", "y\n")]).await?;
    ensure!(format!("{}{}", yes.out, yes.err).contains("no VM is on h1"), "{yes:?}");
    let exit = cli.ok("maintenance exit h1").await?;
    ensure!(exit.contains("host/h1 takes VMs again"), "{exit}");
    cli.ok("maintenance enter h1").await?;
    ensure!(cli.json("get host h1").await?["state"] == "maintenance");
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_m5_what_would_happen_is_asked_and_nothing_happens() -> Result<()> {
    let house = House::with_hosts(3).await?;
    let cli = Cli::of(&house)?;
    let vms = filled(&house, 2, 1).await?;
    cli.fails("sim", 2, &["--lose"]).await?;
    cli.fails("sim --lose h9", 1, &["there is no host h9"]).await?;
    cli.fails("sim --cut h1", 1, &["between two hosts"]).await?;
    let lost = cli.json("sim --lose h1").await?;
    ensure!(
        lost["vms"].as_array().is_some_and(|v| v.len() == 3 && v.iter().all(|v| v["fate"] == "down")),
        "{lost}"
    );
    ensure!(lost["vms"][0]["reason"]["code"] == "no_ha_policy", "{lost}");
    let drained = cli.ok("sim --drain h1").await?;
    ensure!(
        drained.contains("moves") && drained.contains("stays") && drained.contains("pinned"),
        "{drained}"
    );
    let inventory = "hosts:\n- {name: a, labels: {rack: x}, threads: 8, memory_bytes: 17179869184, fencer: true, pools: \
         [{name: nfs, capacity_bytes: 1099511627776, shared: true}]}\n- {name: b, threads: 8, memory_bytes: 17179869184, pools: \
         [{name: nfs, capacity_bytes: 1099511627776, shared: true}]}\nvms:\n- {name: v, host: a, cpus: 1, memory_bytes: 1073741824, \
         ha: {policy: restart}, disks: [{pool: nfs, size_bytes: 1073741824}]}\n";
    let described =
        cli.json(&format!("sim --lose rack=x --inventory {}", cli.file("i.yaml", inventory)?)).await?;
    ensure!(described["vms"][0]["fate"] == "restarts" && described["vms"][0]["to"] == "b", "{described}");
    ensure!(on(&house, "h1", &vms).await? == 3, "something happened");
    house.clear().await?;
    house.sound()
}
