//! The life of a VM without faults: created, running, turned off and on, made anew, deleted.

use anyhow::{Result, ensure};
use basalt_model::{
    Generation,
    vms::{ObservedPower, OperationOutcome},
};
use basalt_plan::host::Resource;
use basalt_tests::{House, api::vm_id, oracles, wait};
use basalt_wire::rest::{Network, Phase, Vm, Volume};
use reqwest::StatusCode;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_a_declared_vm_runs_and_a_deleted_one_leaves_nothing() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let answer = house.api.try_post(&house.api.path("vms"), &basalt_tests::api::vm("web", json!({}))).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{}", answer.status);
    let task: basalt_model::tasks::Task = house.api.get(&answer.location.clone().unwrap()).await?;
    let task = house.api.completed(&task).await?;
    ensure!(task.progress == 100 && task.finished_at.is_some() && task.error.is_none(), "{task:?}");

    let vm = house.api.vm("web").await?;
    ensure!(vm.phase == Phase::Running && vm.observed.power == ObservedPower::Running, "{vm:?}");
    ensure!(vm.observed_generation == vm.metadata.generation, "{vm:?}");
    let machine = house.machine_of(&vm)?;
    machine.until_runs(vm_id(&vm)).await?;
    ensure!(vm.nics.len() == 1 && vm.nics[0].mac.starts_with("02:"), "{:?}", vm.nics);
    let lan: Network = house.api.get(&house.api.path("networks/lan")).await?;
    ensure!(lan.spec.cidr.contains(&vm.nics[0].address) && lan.addresses_used == 1, "{lan:?}");
    let volume: Volume =
        house.api.get(&house.api.path(&format!("volumes/{}", vm.disks[0].volume_id.unwrap()))).await?;
    ensure!(volume.phase == Phase::Ready && volume.vm_id == Some(vm_id(&vm)), "{volume:?}");
    for stage in ["defining", "starting", "writing the seed"] {
        ensure!(machine.done(Resource::Vm(vm_id(&vm)), stage) == 1, "{stage}: {:?}", machine.sim.mutations());
    }
    house.sound()?;

    let task = house.api.delete_vm("web").await?;
    house.api.completed(&task).await?;
    ensure!(house.api.find::<Vm>(&house.api.path("vms/web")).await?.is_none());
    house.nothing_left().await?;
    house.sound()?;
    let deletes =
        oracles::count(house.owner_url(), "SELECT count(*) FROM audit_events WHERE action = 'vm.delete'")?;
    ensure!(deletes == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_every_power_verb_ends_in_its_state_and_its_task_completes() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let vm = house.api.running_vm("web").await?;
    let (id, machine) = (vm_id(&vm), house.machine_of(&vm)?.clone());
    let steps = [
        ("pause", ObservedPower::Paused, Phase::Paused),
        ("resume", ObservedPower::Running, Phase::Running),
        ("stop", ObservedPower::Stopped, Phase::Stopped),
        ("start", ObservedPower::Running, Phase::Running),
    ];
    for (verb, power, phase) in steps {
        let task = house.api.verb("web", verb).await?;
        house.api.completed(&task).await?;
        let vm = house.api.vm("web").await?;
        ensure!(machine.power(id) == power, "{verb}: {:?}", machine.power(id));
        ensure!((vm.observed.power, vm.phase) == (power, phase), "{verb}: {vm:?}");
        ensure!(task.generation == vm.metadata.generation, "{verb}");
    }
    for (n, verb) in ["reboot", "reset"].into_iter().enumerate() {
        let task = house.api.verb("web", verb).await?;
        house.api.completed(&task).await?;
        let restarts = machine.sim.look(|w| w.restarts.get(&id).copied());
        ensure!(restarts == Some(n as u32 + 1), "{verb}: {restarts:?}");
        let report = house.api.vm("web").await?.observed.operation.unwrap();
        ensure!((report.id, report.outcome) == (task.id, OperationOutcome::Done), "{report:?}");
    }
    // A guest that does not listen is forced off after the grace.
    machine.sim.with_world(|w| w.deaf.insert(id));
    let task = house.api.verb("web", "stop").await?;
    house.api.completed(&task).await?;
    ensure!(machine.power(id) == ObservedPower::Stopped);
    ensure!(machine.done(Resource::Vm(id), "forcing off") == 1);
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_redeploy_makes_the_vm_anew_with_the_same_identity() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let before = house.api.running_vm("web").await?;
    let machine = house.machine_of(&before)?.clone();
    let volumes = |incarnation| {
        machine.sim.look(|w| w.observed.volumes.items.keys().filter(|k| k.incarnation == incarnation).count())
    };
    let first = volumes(before.incarnation);
    ensure!(first == 1, "{first} volumes");
    let task = house.api.verb("web", "redeploy").await?;
    house.api.completed(&task).await?;
    let after = house.api.vm("web").await?;
    ensure!((after.metadata.id, &after.nics) == (before.metadata.id, &before.nics), "{after:?}");
    ensure!(after.incarnation == before.incarnation + 1 && after.observed.incarnation == after.incarnation);
    ensure!(machine.runs(vm_id(&after)) && volumes(after.incarnation) == 1);
    wait::until_true("the old disk is gone", || volumes(before.incarnation) == 0).await?;
    ensure!(machine.done(Resource::Vm(vm_id(&after)), "starting") == 2);

    let mut spec = serde_json::to_value(&after.spec)?;
    spec["protected"] = json!(true);
    house.api.put::<Value>(&house.api.path("vms/web"), &json!({ "spec": spec })).await?;
    for refused in [
        house.api.send(house.api.request(reqwest::Method::POST, &house.api.path("vms/web/redeploy"))).await?,
        house.api.delete(&house.api.path("vms/web")).await?,
    ] {
        ensure!(refused.status == StatusCode::CONFLICT, "{refused:?}");
        ensure!(!refused.problem()?.detail.is_empty());
    }
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_from_a_volume_and_blank_with_an_iso() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let disc = json!({"name": "disc", "spec": {"format": "iso", "size_bytes": 1 << 20}});
    let made: Value = house.api.post(&house.api.path("images"), &disc).await?;
    house.make_ready(serde_json::from_value(made["object"]["id"].clone())?).await?;
    let data = json!({"name": "data", "spec": {"size_bytes": 1 << 30}});
    house.api.post::<Value>(&house.api.path("volumes"), &data).await?;
    let disks = json!([
        {"name": "root", "source": {"kind": "blank"}, "size_bytes": 1 << 30, "boot_order": 2},
        {"name": "setup", "source": {"kind": "iso", "image": "disc"}, "boot_order": 1},
        {"name": "data", "source": {"kind": "volume", "volume": "data"}},
    ]);
    let (_, task) = house.api.create_vm("web", json!({ "disks": disks })).await?;
    house.api.completed(&task).await?;
    let vm = house.api.vm("web").await?;
    ensure!(house.machine_of(&vm)?.runs(vm_id(&vm)));
    ensure!(vm.disks.iter().filter(|d| d.volume_id.is_some()).count() == 2, "{:?}", vm.disks);

    // The volume is the user's own: it stays when its VM goes.
    let task = house.api.delete_vm("web").await?;
    house.api.completed(&task).await?;
    let volume: Volume = house.api.get(&house.api.path("volumes/data")).await?;
    ensure!(volume.metadata.generation >= Generation::FIRST && volume.vm_id.is_none(), "{volume:?}");
    house.sound()
}
