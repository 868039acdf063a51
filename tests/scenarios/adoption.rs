//! H5: what stands on a host and in no manifest is adopted through the API, under faults, and lives on as any other.

use anyhow::{Context, Result, ensure};
use basalt_agent::host::sim::Fault;
use basalt_model::{
    DateTime, Name, VmId,
    adoption::{ForeignNic, ForeignVolume},
    hosts::Foreign,
    tasks::Task,
    vms::ObservedPower,
};
use basalt_plan::host::{DiskPlace, DiskShape, Resource, Stamp, VmSeen, VmShape};
use basalt_tests::{House, api::vm_id, cli::Cli, machine::Machine, oracles, wait};
use basalt_wire::rest::{Phase, Vm, Volume};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

fn started_at() -> DateTime {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

/// A file in the pool that somebody put there.
fn put_file(machine: &Machine, file: &str, user: Option<&str>) {
    let volume = ForeignVolume {
        pool: Name::new("default").unwrap(),
        file: file.into(),
        format: "qcow2".into(),
        size_bytes: 1 << 30,
        volume_id: None,
        incarnation: 0,
        image_id: None,
        refers_to: None,
        users: user.into_iter().map(str::to_owned).collect(),
    };
    let (name, volume) = (format!("default/{file}"), Some(volume));
    let stray = Foreign { kind: "volume".into(), name, volume, ..Foreign::default() };
    machine.sim.with_world(|w| w.observed.strays.push(stray));
}

/// A VM that somebody made by hand and that runs.
fn make_by_hand(machine: &Machine, n: u32) -> VmId {
    let (id, name) = (VmId(Uuid::from_u128(0xf0_0000 + u128::from(n))), format!("handmade-{n}"));
    let file = format!("{name}.qcow2");
    put_file(machine, &file, Some(&name));
    let disk = DiskShape {
        name: None,
        path: format!("/sim/default/{file}"),
        format: "qcow2".into(),
        boot_order: None,
        place: DiskPlace::File(Name::new("default").unwrap(), file),
    };
    let nic =
        ForeignNic { mac: format!("52:54:00:00:00:{n:02x}"), port_id: None, network_id: None, address: None };
    let shape = VmShape {
        cpus: 1,
        memory_bytes: 256 << 20,
        disks: vec![disk],
        nics: vec![nic],
        ..VmShape::default()
    };
    let seen = VmSeen {
        name,
        power: ObservedPower::Running,
        defined: Some(Stamp::default()),
        running: Some(Stamp::default()),
        started_at: Some(started_at()),
        shape: Some(Arc::new(shape)),
        ..VmSeen::default()
    };
    machine.sim.with_world(|w| w.observed.vms.items.insert(id, seen));
    id
}

async fn reported(house: &House, kind: &str, id: &str) -> Result<Foreign> {
    wait::until(&format!("{kind} {id} is reported"), || async {
        let foreign = house.host("h1").await?.facts.map(|f| f.foreign).unwrap_or_default();
        Ok(foreign.into_iter().find(|f| f.kind == kind && (f.name == id || f.id == id)))
    })
    .await
}

async fn adopt(house: &House, kind: &str, id: &str, name: &str, network: Option<&str>) -> Result<Task> {
    reported(house, kind, id).await?;
    let mut body = json!({"kind": kind, "id": id, "project": "demo", "name": name});
    if let Some(network) = network {
        body["network"] = json!(network);
    }
    let answer: Value = house.api.post("/v1/hosts/h1/adopt", &body).await?;
    serde_json::from_value(answer["task"].clone()).context("an accepted adoption has a task")
}

/// It runs as before, was defined once, and nothing of it was started or made.
fn untouched(machine: &Machine, vm: &Vm) -> Result<()> {
    let id = vm_id(vm);
    let seen = machine.seen(id).context("it is on the host")?;
    ensure!(seen.power == ObservedPower::Running && seen.started_at == Some(started_at()), "{seen:?}");
    ensure!(seen.running == Some(Stamp::default()), "{seen:?}");
    for (stage, times) in [("defining", 1), ("writing the seed", 1), ("starting", 0), ("forcing off", 0)] {
        let n = machine.done(Resource::Vm(id), stage);
        ensure!(n == times, "{}: {stage} {n} times", vm.metadata.name);
    }
    let disk = vm.disks[0].volume_id.context("it has a disk")?;
    for (stage, times) in
        [("taking over the file", 1), ("dropping the file's old name", 1), ("making the volume", 0)]
    {
        let n = machine.done(Resource::Volume(disk), stage);
        ensure!(n == times, "{}: {stage} {n} times", vm.metadata.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_an_adopted_vm_runs_on_and_lives_as_any_other() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    let id = make_by_hand(&machine, 1);
    let seen = reported(&house, "vm", "handmade-1").await?.vm.context("it is described")?;
    ensure!(seen.disks[0].volume.is_some() && seen.nics.len() == 1, "{seen:?}");
    let task = adopt(&house, "vm", "handmade-1", "web", Some("lan")).await?;
    let task = house.api.completed(&task).await?;
    let vm = house.api.vm("web").await?;
    ensure!(vm_id(&vm) == id && vm.phase == Phase::Running && task.subject.id == id.0, "{vm:?}");
    ensure!(vm.nics[0].mac == "52:54:00:00:00:01", "{:?}", vm.nics);
    wait::until_true("the file's old name is gone", || {
        machine.sim.look(|w| w.observed.volumes.items.values().all(|v| v.aliases.is_empty()))
    })
    .await?;
    untouched(&machine, &vm)?;
    let pending = wait::until("it says what waits for the next start", || async {
        let vm = house.api.vm("web").await?;
        Ok(vm.conditions.into_iter().find(|c| c.kind == "RebootPending"))
    });
    ensure!(pending.await?.reason == "adopted_running");
    wait::until("nothing is foreign any more", || async {
        let foreign = house.host("h1").await?.facts.map(|f| f.foreign).unwrap_or_default();
        Ok(foreign.is_empty().then_some(()))
    })
    .await?;
    house.sound()?;

    for (verb, power) in [("stop", ObservedPower::Stopped), ("start", ObservedPower::Running)] {
        let task = house.api.verb("web", verb).await?;
        house.api.completed(&task).await?;
        ensure!(machine.power(id) == power, "{verb}: {:?}", machine.power(id));
    }
    wait::until("it is as declared", || async {
        let vm = house.api.vm("web").await?;
        Ok((!vm.conditions.iter().any(|c| c.kind == "RebootPending")).then_some(()))
    })
    .await?;
    ensure!(machine.sim.look(|w| w.observed.ports.items.contains_key(&vm.nics[0].port_id)));
    let task = house.api.delete_vm("web").await?;
    house.api.completed(&task).await?;
    ensure!(machine.seen(id).is_none());
    // Its disk is the user's bytes: it goes when the user says so.
    let disk: Volume = house.api.get(&house.api.path("volumes/web-root")).await?;
    ensure!(disk.vm_id.is_none() && disk.phase == Phase::Ready, "{disk:?}");
    let answer = house.api.delete(&house.api.path("volumes/web-root")).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{answer:?}");
    house.nothing_left().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_r32_faults_and_kills_at_every_action_of_an_adoption_end_the_same_and_touch_nothing() -> Result<()>
{
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    house.api.running_vm("first").await?;
    make_by_hand(&machine, 0);
    reported(&house, "vm", "handmade-0").await?;
    let before = machine.sim.actions();
    let task = adopt(&house, "vm", "handmade-0", "web-0", Some("lan")).await?;
    house.api.completed(&task).await?;
    wait::until_true("all of it is done", || machine.sim.count("dropping the file's old name") == 1).await?;
    let actions = machine.sim.actions() - before;
    ensure!((4..20).contains(&actions), "{actions} actions");
    let faults =
        [Fault::FailBefore, Fault::FailAfter, Fault::AnswerLost, Fault::KillBefore, Fault::KillAfter];
    let mut n = 0;
    for step in 0..actions {
        for fault in &faults {
            n += 1;
            let when = format!("{fault:?} at action {step}");
            make_by_hand(&machine, n);
            reported(&house, "vm", &format!("handmade-{n}")).await?;
            machine.sim.inject_at(machine.sim.actions() + step, fault.clone());
            let task =
                adopt(&house, "vm", &format!("handmade-{n}"), &format!("web-{n}"), Some("lan")).await?;
            let done = async {
                house.api.completed(&task).await?;
                wait::until_true(&when, || machine.sim.count("dropping the file's old name") == n + 1).await
            };
            tokio::pin!(done);
            tokio::select! {
                ended = &mut done => ended?,
                () = machine.sim.killed() => {
                    machine.restart().await?;
                    done.await?;
                }
            }
            untouched(&machine, &house.api.vm(&format!("web-{n}")).await?).context(when.clone())?;
        }
    }
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_an_adopted_file_is_a_volume_that_a_vm_can_have() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    put_file(&machine, "data.qcow2", None);
    let task = adopt(&house, "volume", "default/data.qcow2", "data", None).await?;
    house.api.completed(&task).await?;
    let data: Volume = house.api.get(&house.api.path("volumes/data")).await?;
    ensure!(data.phase == Phase::Ready && data.observed.size_bytes == 1 << 30, "{data:?}");
    let disks = json!([{"name": "root", "source": {"kind": "volume", "volume": "data"}}]);
    let (vm, task) = house.api.create_vm("web", json!({ "disks": disks })).await?;
    house.api.completed(&task).await?;
    ensure!(machine.runs(vm_id(&vm)) && machine.sim.count("making the volume") == 0);
    ensure!(machine.sim.look(|w| w.observed.strays.is_empty()));
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_the_cli_adopts_and_says_why_not() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let (cli, machine) = (Cli::of(&house)?, house.hosts[0].clone());
    make_by_hand(&machine, 1);
    put_file(&machine, "data.qcow2", None);
    reported(&house, "vm", "handmade-1").await?;
    let described = cli.ok("describe host h1").await?;
    for word in ["handmade-1", "52:54:00:00:00:01", "handmade-1.qcow2", "default/data.qcow2"] {
        ensure!(described.contains(word), "{word}: {described}");
    }
    let cases: [(&str, i32, &[&str]); 6] = [
        ("adopt vm handmade-1 --name web", 2, &["handmade-1", "HOST/NAME"]),
        ("adopt vm h1/handmade-1", 2, &["--name"]),
        ("adopt vm h9/handmade-1 --name web --network lan", 3, &["no host", "h9"]),
        ("adopt vm h1/nosuch --name web --network lan", 1, &["nosuch", "handmade-1", "facts.foreign"]),
        ("adopt vm h1/handmade-1 --name web", 1, &["network", "belongs to no network", "give the network"]),
        (
            "adopt volume h1/default/handmade-1.qcow2 --name data",
            1,
            &["belongs to handmade-1", "adopt that VM"],
        ),
    ];
    for (line, code, words) in cases {
        cli.fails(line, code, words).await?;
    }
    let dry = cli.ok("adopt vm h1/handmade-1 --name web --network lan --dry-run").await?;
    ensure!(dry.contains("vm/web can be adopted"), "{dry}");
    ensure!(house.api.find::<Vm>(&house.api.path("vms/web")).await?.is_none());
    let said = cli.ok("adopt vm h1/handmade-1 --name web --network lan").await?;
    ensure!(said.contains("vm/web adopted"), "{said}");
    ensure!(cli.ok("get vm web").await?.contains("running"));
    let said = cli.ok("adopt volume h1/default/data.qcow2 --name data").await?;
    ensure!(said.contains("volume/data adopted"), "{said}");
    untouched(&machine, &house.api.vm("web").await?)?;
    house.sound()
}

/// What a database that was restored from before the VM was declared knows of it: nothing. Its host has it.
const FORGET: &str = "BEGIN;
CREATE TEMP TABLE lost AS SELECT id, project_id FROM vms WHERE name = 'web';
UPDATE quotas SET used_vms = used_vms - 1, used_cpus = used_cpus - 1, used_memory_bytes = used_memory_bytes - 268435456,
    used_storage_bytes = used_storage_bytes - (SELECT sum(size_bytes) FROM volumes WHERE vm_id IN (SELECT id FROM lost))
WHERE project_id IN (SELECT project_id FROM lost);
UPDATE pools SET claimed_bytes = 0;
UPDATE host_claims SET claimed_vms = 0, claimed_cpus = 0, claimed_memory_bytes = 0;
UPDATE address_cursors SET used = used - 1;
DELETE FROM manifest_facts;
DELETE FROM manifest_items;
UPDATE manifests SET revision = revision + 1;
DELETE FROM conditions WHERE subject_kind IN ('vm', 'volume');
DELETE FROM volume_observed;
DELETE FROM vm_observed;
DELETE FROM placements;
DELETE FROM ports;
DELETE FROM volumes;
DELETE FROM tasks WHERE subject_id IN (SELECT id FROM lost);
DELETE FROM tasks_finished WHERE subject_id IN (SELECT id FROM lost);
DELETE FROM audit_events WHERE subject_id IN (SELECT id FROM lost);
DELETE FROM vms;
COMMIT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_r64_what_a_restored_database_does_not_know_is_adopted_with_zero_mutations() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    let lost = house.api.running_vm("web").await?;
    let id = vm_id(&lost);
    oracles::psql(house.owner_url(), FORGET)?;
    reported(&house, "vm", &id.to_string()).await?;
    // The ledger of such a host is of another history; without it nothing is remembered either.
    machine.kill().await;
    machine.ledger_files()?.iter().try_for_each(std::fs::remove_file)?;
    machine.start()?;
    let before = (machine.sim.mutations(), machine.seen(id));
    let task = adopt(&house, "vm", &id.to_string(), "web", None).await?;
    house.api.completed(&task).await?;
    let vm = house.api.vm("web").await?;
    ensure!(vm.phase == Phase::Running && vm.placement == lost.placement, "{vm:?}");
    ensure!(
        (&vm.nics, &vm.disks, vm.incarnation) == (&lost.nics, &with_order(&lost), lost.incarnation),
        "{vm:?}"
    );
    ensure!(!vm.conditions.iter().any(|c| c.kind == "RebootPending"), "{:?}", vm.conditions);
    ensure!((machine.sim.mutations(), machine.seen(id)) == before, "something was done to the host");
    house.sound()?;
    for verb in ["stop", "start"] {
        let task = house.api.verb("web", verb).await?;
        house.api.completed(&task).await?;
    }
    ensure!(machine.runs(id) && machine.sim.count("making the volume") == 1);
    house.sound()
}

/// A definition says the boot order of every disk; so does what is read out of it.
fn with_order(vm: &Vm) -> Vec<basalt_model::vms::VmDisk> {
    let order = |(n, disk): (u32, &basalt_model::vms::VmDisk)| {
        let mut disk = disk.clone();
        disk.boot_order = Some(n);
        disk
    };
    (1..).zip(&vm.disks).map(order).collect()
}
