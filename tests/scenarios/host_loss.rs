//! The loss of a host through the whole house: a real gateway over PostgreSQL, real agents and real fencers, hosts in memory
//! that mount the same storage. No two hosts execute the guest at any moment, and none elsewhere without a proof.

use anyhow::{Context, Result, ensure};
use basalt_agent::host::sim::SharedStorage;
use basalt_model::{Condition, Name, vms::ObservedPower};
use basalt_plan::{
    host::Resource,
    host_loss::{HA_LEASE_SECONDS, PROOF_SECONDS},
};
use basalt_tests::{House, api::vm_id, cli::Cli, machine::Machine, oracles, wait, watchman::Watchman};
use basalt_wire::rest::Vm;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// What M5 promises, from the loss of the host to the guest running elsewhere.
const PROMISED: Duration = Duration::from_secs(60);

/// Two hosts that mount the same storage as pool `shared`, with fencers or without.
async fn sharing(program: bool, fenced: bool) -> Result<House> {
    let mut house = if program { House::with_program(0).await? } else { House::with_hosts(0).await? };
    let storage = SharedStorage::new(Uuid::from_u128(0x5a));
    let gateway = house.gateway.agents.clone();
    for name in ["h1", "h2"] {
        let machine = house.declare_host(name, json!({}), &gateway).await?;
        machine.sim.mount(&Name::new("shared")?, &storage);
        if fenced {
            machine.fence()?;
        }
        machine.start()?;
    }
    house.until_hosts_ready().await?;
    Ok(house)
}

fn ha_spec() -> Value {
    json!({"ha": {"policy": "restart"},
        "disks": [{"name": "root", "pool": "shared", "source": {"kind": "image", "image": "tiny"}}]})
}

/// A VM with an HA policy that runs, the host where it does, and the other one.
async fn ha_vm(house: &House) -> Result<(Vm, Arc<Machine>, Arc<Machine>)> {
    let (_, task) = house.api.create_vm("web", ha_spec()).await?;
    house.api.completed(&task).await?;
    let vm = wait::until("its host says that it needs the lease", || async {
        let vm = house.api.vm("web").await?;
        Ok(vm.observed.leased.then_some(vm))
    })
    .await?;
    let here = house.machine_of(&vm)?.clone();
    let there = house.hosts.iter().find(|h| h.id != here.id).context("another host")?.clone();
    Ok((vm, here, there))
}

async fn condition(house: &House, kind: &str) -> Result<Option<Condition>> {
    Ok(house.api.vm("web").await?.conditions.into_iter().find(|c| c.kind == kind))
}

/// Waits until the VM runs on a host, and that is the placement's word too.
async fn runs_on(house: &House, host: &Machine, patience: Duration) -> Result<Vm> {
    wait::within(patience, &format!("web runs on {}", host.name), || async {
        let vm = house.api.vm("web").await?;
        let placed = vm.placement.as_ref().is_some_and(|p| p.host_id == host.id);
        Ok((placed && host.runs(vm_id(&vm))).then_some(vm))
    })
    .await
}

fn deaths(house: &House, standing: bool) -> Result<i64> {
    let end = if standing { "IS NULL" } else { "IS NOT NULL" };
    oracles::count(house.owner_url(), &format!("SELECT count(*) FROM host_deaths WHERE ended_at {end}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m5_the_vm_of_a_lost_host_runs_elsewhere_and_never_on_two() -> Result<()> {
    let house = sharing(false, true).await?;
    let (vm, here, there) = ha_vm(&house).await?;
    let watchman = Watchman::over(&house.hosts, [vm_id(&vm)]);
    // Its agent dies and its guest lives: only the fencer can stop it.
    let lost = Instant::now();
    here.kill().await;
    let stopped = async {
        let what = "the fencer stops the guest";
        let gone = || async { Ok((!here.runs(vm_id(&vm))).then_some(lost.elapsed())) };
        wait::within(PROMISED, what, gone).await
    };
    let (stopped, moved) = tokio::join!(stopped, runs_on(&house, &there, PROMISED));
    let (stopped, moved, took) = (stopped?, moved?, lost.elapsed());
    println!("the fencer stopped the guest after {stopped:?}; it ran elsewhere after {took:?}");
    ensure!(stopped < took, "it ran elsewhere before it was stopped");
    ensure!(stopped <= Duration::from_secs(u64::from(HA_LEASE_SECONDS) + 2), "{stopped:?}");
    ensure!(took <= PROMISED, "{took:?}");
    ensure!(moved.placement.context("placed")?.epoch.0 == 2, "an epoch for each place");
    ensure!(deaths(&house, true)? == 1, "a proof stands");
    let host = house.host(&here.name).await?;
    let proof = host.conditions.iter().find(|c| c.kind == "ProvenDead").context("it is said of the host")?;
    ensure!(proof.reason == "lease_expired", "{proof:?}");
    let told =
        "SELECT count(*) FROM audit_events WHERE action IN ('host.proven_dead', 'vm.restart_elsewhere')";
    ensure!(oracles::count(house.owner_url(), told)? == 2, "both stand in the audit trail");
    // Its disk was never made anew, and the host that comes back late removes what is left before anything else.
    ensure!(here.done(Resource::Vm(vm_id(&vm)), "starting") == 1);
    here.start()?;
    wait::until("the lost host has nothing of it and is alive again", || async {
        Ok((here.power(vm_id(&vm)) == ObservedPower::Absent && deaths(&house, true)? == 0).then_some(()))
    })
    .await?;
    ensure!(deaths(&house, false)? == 1, "the proof is kept, and over");
    ensure!(here.done(Resource::Vm(vm_id(&vm)), "starting") == 1, "it never started it again");
    ensure!(there.runs(vm_id(&vm)));
    watchman.report()?;
    house.until_ready(&here.name).await?;
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r55_without_a_fencer_an_unreachable_host_keeps_its_vm_until_a_person_saw_its_power_off() -> Result<()>
{
    let house = sharing(false, false).await?;
    let cli = Cli::of(&house)?;
    let (vm, here, there) = ha_vm(&house).await?;
    let watchman = Watchman::over(&house.hosts, [vm_id(&vm)]);
    let name = here.name.clone();
    cli.fails(&format!("confirm-power-off {name}"), 4, &["sign of life"]).await?;
    here.kill().await;
    let said = wait::within(PROMISED, "it is said that fencing is not proven", || async {
        let said = condition(&house, "RestartedElsewhere").await?;
        Ok(said.filter(|c| c.reason == "fencing_not_proven"))
    })
    .await?;
    ensure!(said.message.contains("confirm-power-off"), "{said:?}");
    // Longer than any lease and window.
    tokio::time::sleep(Duration::from_secs(u64::from(PROOF_SECONDS))).await;
    let still = house.api.vm("web").await?;
    ensure!(still.placement.context("placed")?.host_id == here.id && here.runs(vm_id(&vm)));
    ensure!(deaths(&house, true)? == 0 && !there.runs(vm_id(&vm)));
    here.cut_power().await;
    let said = cli.ok(&format!("confirm-power-off {name}")).await?;
    ensure!(said.contains("counts as dead"), "{said}");
    runs_on(&house, &there, wait::PATIENCE).await?;
    here.start()?;
    wait::until("the lost host has nothing of it", || async {
        Ok((here.power(vm_id(&vm)) == ObservedPower::Absent && deaths(&house, true)? == 0).then_some(()))
    })
    .await?;
    watchman.report()?;
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r55_a_gateway_that_starts_anew_counts_every_lease_as_just_renewed() -> Result<()> {
    let mut house = sharing(true, true).await?;
    let (vm, here, there) = ha_vm(&house).await?;
    let watchman = Watchman::over(&house.hosts, [vm_id(&vm)]);
    here.kill().await;
    tokio::time::sleep(Duration::from_secs(u64::from(HA_LEASE_SECONDS) - 5)).await;
    let begun = Instant::now();
    house.gateway.kill()?;
    house.gateway.start()?;
    house.ready().await?;
    runs_on(&house, &there, PROMISED + Duration::from_secs(20)).await?;
    let took = begun.elapsed();
    println!("elsewhere {took:?} after the gateway's start");
    ensure!(
        took >= Duration::from_secs(PROOF_SECONDS.into()),
        "{took:?}: it counted silence that it did not hear"
    );
    watchman.report()?;
    here.start()?;
    house.until_ready(&here.name).await?;
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r55_a_host_that_comes_back_before_the_proof_keeps_its_vm() -> Result<()> {
    let house = sharing(false, true).await?;
    let (vm, here, there) = ha_vm(&house).await?;
    let watchman = Watchman::over(&house.hosts, [vm_id(&vm)]);
    here.kill().await;
    wait::within(PROMISED, "the fencer stops the guest", || async {
        Ok((here.power(vm_id(&vm)) == ObservedPower::Crashed).then_some(()))
    })
    .await?;
    here.start()?;
    here.until_runs(vm_id(&vm)).await?;
    tokio::time::sleep(Duration::from_secs(u64::from(PROOF_SECONDS))).await;
    ensure!(deaths(&house, true)? + deaths(&house, false)? == 0, "nobody was proven dead");
    let vm = house.api.vm("web").await?;
    ensure!(vm.observed.fenced_at.is_some(), "that it was stopped is told");
    ensure!(here.runs(vm_id(&vm)) && !there.runs(vm_id(&vm)));
    watchman.report()?;
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m5_an_ha_policy_over_a_hosts_own_disks_is_refused_before_anything_moves() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let cli = Cli::of(&house)?;
    let body = basalt_tests::api::vm("web", json!({"ha": {"policy": "restart"}}));
    // The door knows the hosts' facts a moment after they are stored.
    let refused = wait::until("it is refused", || async {
        Ok(house.api.try_post(&house.api.path("vms?dry_run=true"), &body).await?.problem().ok())
    })
    .await?;
    let field = refused.errors.iter().find(|e| e.field == "spec.ha.policy").context("the field is named")?;
    ensure!(field.remedy.contains("shared_directory"), "{field:?}");
    house.api.running_vm("web").await?;
    let file = cli.file("v.yaml", "kind: vm\nname: web\nspec: {ha: {policy: restart}}\n")?;
    cli.fails(&format!("apply -f {file}"), 4, &["on its host alone", "shared_directory"]).await?;
    let vm = house.api.vm("web").await?;
    ensure!(
        vm.spec.ha.policy == basalt_model::vms::HaPolicy::None && house.machine_of(&vm)?.runs(vm_id(&vm))
    );
    house.clear().await?;
    house.sound()
}
