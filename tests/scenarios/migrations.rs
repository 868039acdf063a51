//! Migrations through the whole house: a real gateway over PostgreSQL, real agents, hosts in memory with a fabric between
//! them. Whatever dies at whatever step, no two hosts execute the guest at any moment, and one of them owns it at the end.

use anyhow::{Context, Result, ensure};
use basalt_agent::host::sim::fabric::{Step, Trouble};
use basalt_model::{
    migrations::{MigrationPhase, MigrationResult},
    tasks::{Task, TaskState},
    vms::ObservedPower,
};
use basalt_plan::host::Resource;
use basalt_tests::{House, api::vm_id, cli::Cli, oracles, wait, watchman::Watchman};
use basalt_wire::rest::{Migration, Page, Vm};
use serde_json::{Value, json};
use std::time::Duration;

async fn migrate(house: &House, vm: &str, body: Value) -> Result<Task> {
    let asked: Value = house.api.post(&house.api.path(&format!("vms/{vm}/migrate")), &body).await?;
    Ok(serde_json::from_value(asked["task"].clone())?)
}

async fn migrations(house: &House) -> Result<Vec<Migration>> {
    Ok(house.api.get::<Page<Migration>>(&house.api.path("migrations?limit=500")).await?.items)
}

/// The host on which a VM executes, once exactly one does and the truth says so too.
async fn settled(house: &House, name: &str) -> Result<String> {
    wait::until(&format!("{name} runs on one host, and that is its own"), || async {
        let vm = house.api.vm(name).await?;
        let placed = vm.placement.as_ref().context("it is placed")?;
        let executing: Vec<_> = house.hosts.iter().filter(|h| h.runs(vm_id(&vm))).collect();
        let stays = executing.len() == 1 && executing[0].id == placed.host_id;
        let left: Vec<_> = house.hosts.iter().filter(|h| h.id != placed.host_id).collect();
        let clean = left.iter().all(|h| h.power(vm_id(&vm)) == ObservedPower::Absent);
        Ok((stays && clean && vm.phase == basalt_wire::rest::Phase::Running).then(|| placed.host.to_string()))
    })
    .await
}

fn starts(house: &House, vm: &Vm) -> u32 {
    house.hosts.iter().map(|host| host.done(Resource::Vm(vm_id(vm)), "starting")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m1_a_vm_goes_to_another_host_and_back_while_it_runs() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let vm = house.api.running_vm("web").await?;
    let first = vm.placement.as_ref().context("placed")?.host.to_string();
    let watchman = Watchman::over(&house.hosts, [vm_id(&vm)]);
    for round in 1..=2_i64 {
        let task = migrate(&house, "web", json!({})).await?;
        house.api.completed(&task).await?;
        let now = settled(&house, "web").await?;
        ensure!((now == first) == (round == 2), "round {round}: on {now}, first on {first}");
        let vm = house.api.vm("web").await?;
        ensure!(vm.placement.context("placed")?.epoch.0 == 1 + round, "an epoch for each place");
    }
    ensure!(starts(&house, &vm) == 1, "the guest was never started anew");
    let all = migrations(&house).await?;
    ensure!(all.len() == 2 && all.iter().all(|m| m.phase == MigrationPhase::Completed), "{all:?}");
    let outcome = all[0].migration.outcome.as_ref().context("an outcome")?;
    ensure!(outcome.result == MigrationResult::Completed && !outcome.from_disk, "{outcome:?}");
    watchman.report()?;
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m1_a_vm_that_is_off_goes_with_its_volumes_and_one_that_runs_is_brought_down_for_it() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let cli = Cli::of(&house)?;
    let vm = house.api.running_vm("web").await?;
    let first = vm.placement.as_ref().context("placed")?.host.to_string();
    let watchman = Watchman::over(&house.hosts, [vm_id(&vm)]);
    house.api.completed(&house.api.verb("web", "stop").await?).await?;
    cli.fails("migrate web --live", 4, &["meant to be off"]).await?;
    cli.ok("migrate web").await?;
    let there = house.api.vm("web").await?.placement.context("placed")?.host.to_string();
    ensure!(there != first && starts(&house, &vm) == 1, "it is on {there} now, and was not started for it");
    house.api.completed(&house.api.verb("web", "start").await?).await?;
    ensure!(settled(&house, "web").await? == there);
    // Back again, from its running.
    cli.ok("migrate web --cold").await?;
    ensure!(settled(&house, "web").await? == first && starts(&house, &vm) == 3);
    let all = migrations(&house).await?;
    let outcomes: Vec<_> = all.iter().filter_map(|m| m.migration.outcome.as_ref()).collect();
    ensure!(outcomes.iter().all(|o| o.message.contains("while it was off") && !o.from_disk), "{outcomes:?}");
    // Whoever dies on the way, one of them has it with all of its volumes, and it executes there.
    let deaths =
        [Trouble::CutLink, Trouble::KillSource, Trouble::KillTarget, Trouble::CutSource, Trouble::LoseAnswer];
    for step in [Step::Connect, Step::Copy, Step::Left] {
        for trouble in &deaths {
            troubled(&house, &vm, (step, trouble.clone()), json!({"mode": "cold"})).await?;
        }
    }
    // Taken back while its volumes are on the way, it goes on where it was.
    let there = settled(&house, "web").await?;
    let other = if there == "h1" { "h2" } else { "h1" };
    house.fabric.trouble(Step::Copy, Trouble::Hold);
    let task = migrate(&house, "web", json!({"mode": "cold", "host": other})).await?;
    wait::until("its volumes are on the way", || async {
        Ok(house.fabric.steps().last().is_some_and(|(_, step)| *step == Step::Copy).then_some(()))
    })
    .await?;
    house.api.call::<Task>(&format!("/v1/tasks/{}/cancel", task.id)).await?;
    ensure!(house.api.ended(task.id).await?.state == TaskState::Cancelled);
    house.fabric.calm();
    ensure!(settled(&house, "web").await? == there);
    watchman.report()?;
    house.clear().await?;
    house.sound()
}

/// Carries one migration through a trouble at a step, and says how it ended.
async fn troubled(house: &House, vm: &Vm, (step, trouble): (Step, Trouble), how: Value) -> Result<TaskState> {
    let watchman = Watchman::over(&house.hosts, [vm_id(vm)]);
    let what = format!("{trouble:?} at {step:?}");
    house.fabric.trouble(step, trouble);
    let task = migrate(house, "web", how).await.with_context(|| what.clone())?;
    let revive = async {
        loop {
            for host in &house.hosts {
                if host.was_killed() {
                    host.restart().await?;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        #[expect(unreachable_code)]
        Ok::<_, anyhow::Error>(())
    };
    let ended = tokio::select! {
        ended = house.api.ended(task.id) => ended.with_context(|| what.clone())?,
        revived = revive => { revived?; unreachable!() }
    };
    for host in house.hosts.iter().filter(|h| h.was_killed()) {
        host.restart().await?;
    }
    house.fabric.calm();
    let at = settled(house, "web").await.with_context(|| format!("{what}; the task: {ended:?}"))?;
    watchman.report().with_context(|| what.clone())?;
    let last = migrations(house).await?.pop().context("a migration")?;
    let outcome = last.migration.outcome.context("it is over")?;
    let expected = if outcome.result == MigrationResult::Completed {
        last.migration.target
    } else {
        Some(last.migration.source)
    };
    ensure!(expected.is_some_and(|host| host.as_str() == at), "{what}: on {at}, but {outcome:?}");
    Ok(ended.state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r51_m3_whoever_dies_at_whatever_step_one_host_owns_the_guest_and_no_two_execute_it() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let vm = house.api.running_vm("web").await?;
    let mut ends = std::collections::BTreeMap::<TaskState, u32>::new();
    for step in Step::ALL {
        for trouble in [Trouble::KillSource, Trouble::KillTarget, Trouble::CutLink, Trouble::LoseAnswer] {
            let state = troubled(&house, &vm, (step, trouble), json!({})).await?;
            *ends.entry(state).or_default() += 1;
        }
    }
    println!("migrations in trouble ended so: {ends:?}");
    ensure!(ends.len() > 1, "all of them ended alike: {ends:?}");
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r54_a_migration_that_is_taken_back_at_any_step_has_one_owner() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let vm = house.api.running_vm("web").await?;
    for step in Step::ALL {
        let watchman = Watchman::over(&house.hosts, [vm_id(&vm)]);
        house.fabric.trouble(step, Trouble::Hold);
        let task = migrate(&house, "web", json!({})).await?;
        if step != Step::Split {
            wait::until_true(&format!("it came to {step:?}"), || {
                house.fabric.steps().last().is_some_and(|(_, at)| *at == step)
            })
            .await?;
        }
        let cancel = format!("/v1/tasks/{}/cancel", task.id);
        house.api.call::<Task>(&cancel).await?;
        tokio::time::sleep(Duration::from_millis(150)).await;
        house.fabric.release();
        house.fabric.calm();
        let ended = house.api.ended(task.id).await?;
        let at = settled(&house, "web").await.with_context(|| format!("{step:?}: {ended:?}"))?;
        let last = migrations(&house).await?.pop().context("a migration")?;
        let target = last.migration.target.map(|t| t.to_string());
        ensure!((ended.state == TaskState::Completed) == (Some(at) == target), "{step:?}: {ended:?}");
        watchman.report().with_context(|| format!("{step:?}"))?;
    }
    ensure!(starts(&house, &vm) == 1, "the guest was started anew");
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r52_a_guest_that_cannot_be_sent_stays_where_it_is_unharmed() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let vm = house.api.running_vm("web").await?;
    house.fabric.stubborn(vm_id(&vm));
    let ended = house.api.ended(migrate(&house, "web", json!({})).await?.id).await?;
    let reason = ended.error.context("a reason")?;
    ensure!(ended.state == TaskState::Failed && reason.code == "migration_stalled", "{reason:?}");
    let first = vm.placement.as_ref().context("placed")?.host.to_string();
    ensure!(settled(&house, "web").await? == first && starts(&house, &vm) == 1);
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m2_r53_what_cannot_go_is_refused_before_anything_moves() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let cli = Cli::of(&house)?;
    let vm = house.api.running_vm("web").await?;
    let here = vm.placement.as_ref().context("placed")?.host.to_string();
    let there = if here == "h1" { "h2" } else { "h1" };
    cli.fails(&format!("migrate web --host {here}"), 4, &["is on", "already"]).await?;
    cli.fails("migrate web --host nowhere", 1, &["there is no host nowhere"]).await?;
    cli.fails("migrate web --max-pause 0", 1, &["max_pause_milliseconds"]).await?;
    cli.ok(&format!(
        "apply -f {}",
        cli.file("h.yaml", format!("kind: host\nname: {there}\nspec: {{maintenance: true}}\n"))?
    ))
    .await?;
    wait::until("maintenance is known", || async {
        let said = cli.run("migrate web --dry-run").await?;
        Ok((said.code != 0 && said.err.contains("it is in maintenance")).then_some(()))
    })
    .await?;
    cli.ok(&format!(
        "apply -f {}",
        cli.file("h.yaml", format!("kind: host\nname: {there}\nspec: {{maintenance: false}}\n"))?
    ))
    .await?;
    wait::until("it can go", || async {
        let said = cli.run("migrate web --dry-run").await?;
        ensure!(said.code == 0, "{said:?}");
        Ok(Some(()))
    })
    .await?;
    ensure!(migrations(&house).await?.is_empty(), "a dry run left something");
    house.fabric.trouble(Step::Copy, Trouble::Hold);
    let task = migrate(&house, "web", json!({})).await?;
    cli.fails("migrate web", 4, &["on its way"]).await?;
    cli.fails("redeploy web", 4, &["on its way"]).await?;
    let described = cli.ok("get migrations").await?;
    ensure!(described.contains("web"), "{described}");
    // Released before it comes to it, it would be held for good.
    wait::until_true("it is held", || house.fabric.steps().last().is_some_and(|(_, at)| *at == Step::Copy))
        .await?;
    house.fabric.release();
    house.api.completed(&task).await?;
    ensure!(settled(&house, "web").await? == there);
    let moved = cli.ok(&format!("migrate web --host {here}")).await?;
    ensure!(moved.contains("vm/web migrated"), "{moved}");
    house.clear().await?;
    let left = oracles::count(house.owner_url(), "SELECT count(*) FROM migrations")?;
    ensure!(left == 0, "{left} migrations of VMs that are gone");
    house.sound()
}
