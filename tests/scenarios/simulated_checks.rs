//! Checks that need a stale view, lost news, two gateways or a power cut at an exact step: on the simulator, see
//! docs/testing.md.

use anyhow::{Context, Result, ensure};
use basalt_agent::host::sim::SharedStorage;
use basalt_daemon::Clock;
use basalt_model::{DateTime, Name, VmId, vms::ObservedPower};
use basalt_plan::host::effect::Mishap;
use basalt_reconciler::handlers::Effect;
use basalt_tests::{
    house::PROJECT,
    sim::{
        Base, Plan, World,
        agents::Agent,
        base::Call,
        faults::{ActionFault, EffectFault, Script},
        motion::MotionFault,
        oracles,
        queue::{Event, MILLI, SECOND},
        run::begin,
        steps::VM,
        sweep::{done, rested},
        users::{changed_vm, named_vm, without_vm},
    },
};
use serde_json::json;
use std::{path::Path, sync::Arc};
use uuid::Uuid;

/// A world in which hosts are there and nothing was asked for yet.
async fn world(base: &Arc<Base>, seed: u64, gateways: usize) -> World {
    let mut world = World::new(Arc::clone(base), seed, gateways).await;
    begin(&mut world, &Plan::script(seed, &[])).await.unwrap();
    world.user.pace = 2 * MILLI;
    world
}

async fn base() -> Arc<Base> {
    Arc::new(Base::new().await.unwrap())
}

/// Runs it, and tells the story when it fails.
async fn told(world: &mut World, what: impl AsyncFnOnce(&mut World) -> Result<()>) {
    if let Err(why) = what(world).await {
        panic!("{}\n{why:#}", world.story.join("\n"));
    }
}

const DESTRUCTIVE: &[&str] = &[
    "removing the volume",
    "removing the definition",
    "forcing off",
    "shutting down",
    "removing the network",
];

fn destroyed(world: &World) -> u32 {
    let of = |stage: &&str| world.agents.iter().map(|agent| agent.sim.count(stage)).sum::<u32>();
    DESTRUCTIVE.iter().map(of).sum()
}

/// So many operations write more than a thousand revisions.
const EDITS: u64 = 250;

#[tokio::test]
async fn r5_a_gateway_that_acts_on_an_old_view_destroys_nothing() {
    let base = base().await;
    let steps = ["delete vm", "create vm", "redeploy vm", "update vm", "stop vm", "create vm"];
    let (mut tried, mut oldest, mut late) = (0, 0, 0);
    for age in [1, 4, 16, EDITS] {
        let mut world = world(&base, age, 2).await;
        told(&mut world, async |world| {
            done(world, &["create vm", "create vm", "create network"]).await?;
            // Who acts goes on; the other one sees nothing of it.
            let acts = |g: usize| world.gateways[g].live.as_ref().is_some_and(|live| live.acts(world.now));
            let leader = usize::from(!acts(0));
            let stale = 1 - leader;
            world.gateways[stale].blind_until = u64::MAX;
            world.agents.iter_mut().for_each(|agent| agent.home = leader);
            let lines = revisions(world).await?;
            world.log = Some(Default::default());
            for step in steps.iter().cycle().take(usize::try_from(age.min(16))?) {
                done(world, &[step]).await?;
            }
            for n in 16..age {
                let (name, mut spec) =
                    world.user.model.vms.first_key_value().map(|(n, s)| (n.clone(), s.clone())).unwrap();
                spec["cloud_init"] = json!({"user_data": format!("#!{n}")});
                world.want("edit", changed_vm(&name, spec));
            }
            rested(world).await?;
            oldest = oldest.max(revisions(world).await? - lines);
            let (before, deeds) = (destroyed(world), world.deeds.effects);
            world.gateways[leader].paused_until = world.now + 120 * SECOND;
            world.queue.once(world.now, Event::Step(stale));
            let end = world.now + 100 * SECOND;
            world.until(100, |world| world.now >= end).await?;
            assert_eq!(destroyed(world), before, "acting on a view that is {age} operations old");
            tried += world.deeds.effects - deeds;
            let log = world.log.take().unwrap_or_default();
            world.heal();
            rested(world).await?;
            oracles::at_rest(world).await?;
            // What was decided on each of these views comes late: as many revisions as there were since.
            let (picture, changes) = (oracles::picture_now(world).await?, oracles::changes(world));
            late += again(world, &log.effects, 1 + log.effects.len() / 60).await?;
            assert_eq!(oracles::changes(world), changes, "an effect of an old view reached a host");
            assert_eq!(
                oracles::picture_now(world).await?,
                picture,
                "an effect of an old view changed something"
            );
            oracles::at_rest(world).await
        })
        .await;
        world.end();
    }
    println!("{late} effects came late");
    assert!(late >= 80, "{late} effects");
    println!("{tried} effects on views of up to {oldest} revisions ago destroyed nothing");
    assert!(tried >= 5 && oldest >= 1000, "{tried} effects, {oldest} revisions");
}

/// Carries out each `every`-th of old effects once more, now by one gateway and now by the other, and lets hosts act on what
/// comes of it: what is put right a moment later was done all the same.
async fn again(world: &mut World, effects: &[(Effect, DateTime)], every: usize) -> Result<usize> {
    let mut repeated = 0;
    for (n, (effect, at)) in effects.iter().enumerate().step_by(every) {
        world.carry_out(n % 2, effect, *at).await?;
        let until = world.now + SECOND;
        world.until(10, |world| world.now >= until).await?;
        repeated += 1;
    }
    rested(world).await?;
    Ok(repeated)
}

/// Lines that were ever written to the change log.
async fn revisions(world: &World) -> Result<i64> {
    let rows = world.place.database.ask(&["SELECT last_value AS n FROM change_log_seq_seq"]).await;
    let row: serde_json::Value = serde_json::from_str(&rows[0][0])?;
    Ok(row["n"].as_i64().unwrap_or_default())
}

#[tokio::test]
async fn r6_what_was_meant_for_a_deleted_object_does_not_hit_the_new_one_of_its_name() {
    let base = base().await;
    let mut world = world(&base, 6, 2).await;
    told(&mut world, async |world| {
        world.log = Some(Default::default());
        world.want("create", named_vm("twin", json!({})));
        rested(world).await?;
        done(world, &["stop vm", "start vm", "redeploy vm"]).await?;
        world.want("delete", without_vm("twin"));
        rested(world).await?;
        let log = world.log.take().unwrap_or_default();
        world.want("create", named_vm("twin", json!({})));
        rested(world).await?;
        let (picture, changes) = (oracles::picture_now(world).await?, oracles::changes(world));
        assert!(log.effects.len() > 10 && log.actions.len() > 10, "there is something to repeat");
        again(world, &log.effects, 1).await?;
        assert_eq!(oracles::picture_now(world).await?, picture, "old effects changed something");
        assert_eq!(oracles::changes(world), changes, "old effects reached a host");
        oracles::at_rest(world).await?;
        for (host, action) in log.actions {
            if let Some(live) = &world.agents[host].live {
                // Most of them fail: what they are about is gone.
                let _ = live.gate.carry_out(&action).await;
                oracles::runs_once(world)?;
            }
        }
        let twin = oracles::picture_now(world).await?;
        assert!(twin.iter().any(|line| line.contains("Running")), "{twin:?}");
        Ok(())
    })
    .await;
    world.end();
}

#[tokio::test]
async fn r7_every_kth_signal_of_a_commit_is_lost_and_the_end_is_the_same() {
    let base = base().await;
    let mut first = None;
    for k in 0..=10 {
        let mut world = world(&base, 7, 2).await;
        told(&mut world, async |world| {
            world.faults.signals = k;
            let steps = ["create vm", "create network", "create vm", "stop vm", "update vm", "redeploy vm"];
            done(world, &steps).await?;
            done(world, &["delete vm", "create security group", "create vm", "create router"]).await?;
            oracles::at_rest(world).await?;
            let picture = oracles::picture_now(world).await?;
            assert_eq!(first.get_or_insert_with(|| picture.clone()), &picture, "every {k}th signal was lost");
            Ok(())
        })
        .await;
        world.end();
    }
}

#[tokio::test]
async fn r8_of_a_thousand_edits_in_one_batch_only_the_last_is_applied() {
    let base = base().await;
    let mut world = world(&base, 8, 1).await;
    told(&mut world, async |world| {
        let spec = |n: u64| json!({"user_data": format!("#!edit-{n}")});
        world.want("create", named_vm("edited", json!({})));
        rested(world).await?;
        let defined = |world: &World| world.agents.iter().map(|a| a.sim.count("defining")).sum::<u32>();
        let before = defined(world);
        world.gateways[0].blind_until = u64::MAX;
        let mut wanted = world.user.model.vms["edited"].clone();
        for n in 0..1000 {
            wanted["cloud_init"] = spec(n);
            world.want("edit", changed_vm("edited", wanted.clone()));
        }
        assert!(world.until(600, |world| world.user.is_done()).await?, "the user is done");
        assert_eq!(defined(world), before, "nothing was read yet");
        world.gateways[0].blind_until = 0;
        world.queue.once(world.now, Event::Pull(0));
        rested(world).await?;
        assert_eq!(defined(world) - before, 1, "the host saw one change");
        oracles::at_rest(world).await?;
        let picture = oracles::picture_now(world).await?;
        assert!(picture.iter().any(|line| line.contains("edit-999")), "{picture:?}");
        Ok(())
    })
    .await;
    world.end();
}

#[tokio::test]
async fn r12_a_leader_that_wakes_up_after_sixty_seconds_changes_nothing_that_went_on_without_it() {
    let base = base().await;
    let mut met = 0;
    for step in 0..14 {
        let mut world = world(&base, 12, 2).await;
        told(&mut world, async |world| {
            let at = world.faults.seen.effects + step;
            world.faults.script = Some(Script::Effect(at, EffectFault::HangPaused(60 * SECOND)));
            world.want("create", named_vm("handed", json!({})));
            world.until(20, |world| world.user.is_done() && world.faults.script.is_none()).await?;
            if world.faults.script.is_some() {
                return Ok(());
            }
            met += 1;
            let slept = world.now;
            world.user.home = (0..2).find(|g| world.gateways[*g].paused_until <= slept);
            // The other one takes over and goes on, while the first still sleeps over its effect.
            world.until(20, |world| world.now > slept + 15 * SECOND).await?;
            let mut spec = world.user.model.vms["handed"].clone();
            spec["power"] = json!("stopped");
            world.want("change", changed_vm("handed", spec));
            world.until(30, |world| world.now > slept + 40 * SECOND).await?;
            let (picture, rows) = (oracles::picture_now(world).await?, manifest(world).await);
            assert!(picture.iter().any(|line| line.contains("Stopped")), "step {step}: {picture:?}");
            world.until(60, |world| world.now > slept + 61 * SECOND).await?;
            assert_eq!(manifest(world).await, rows, "step {step}: the old leader wrote to a manifest");
            assert_eq!(oracles::picture_now(world).await?, picture, "step {step}");
            rested(world).await?;
            oracles::at_rest(world).await
        })
        .await;
        world.end();
    }
    assert!(met >= 6, "{met} effects were slept over");
}

async fn manifest(world: &World) -> Vec<String> {
    let query =
        "SELECT host_id, kind, id, generation, epoch, present, body FROM manifest_items ORDER BY 1, 2, 3";
    world.place.database.ask(&[query]).await.remove(0)
}

/// What the API shows, what hosts have, and what they are told to have, besides generations.
async fn all_of_it(world: &World) -> Result<(Vec<String>, Vec<String>)> {
    let told = "SELECT kind, id, present, body FROM manifest_items WHERE present ORDER BY 1, 2, host_id";
    Ok((oracles::picture_now(world).await?, world.place.database.ask(&[told]).await.remove(0)))
}

#[tokio::test]
async fn o11_r9_what_was_changed_and_changed_back_is_as_if_it_never_was() {
    let base = base().await;
    let mut world = world(&base, 11, 2).await;
    told(&mut world, async |world| {
        done(world, &["+wire", "+group", "+router", "+vm off"]).await?;
        let (first, before) = (world.user.model.vms[VM].clone(), all_of_it(world).await?);
        let fields = [
            json!({"cpus": 3}),
            json!({"memory_bytes": 320 << 20}),
            json!({"stop_grace_seconds": 9}),
            json!({"cloud_init": {"user_data": "#!other"}}),
            json!({"security_groups": ["guard"]}),
            json!({"power": "running"}),
        ];
        for field in fields {
            let mut other = first.clone();
            for (name, value) in field.as_object().into_iter().flatten() {
                other[name] = value.clone();
            }
            world.want("there", changed_vm(VM, other));
            rested(world).await?;
            ensure!(all_of_it(world).await? != before, "{field} changes nothing");
            world.want("back", changed_vm(VM, first.clone()));
            rested(world).await?;
            assert_eq!(all_of_it(world).await?, before, "{field} and back");
        }
        for (there, back) in [("rules", "rules back"), ("routes", "routes back"), ("start", "stop")] {
            done(world, &[there]).await?;
            ensure!(all_of_it(world).await? != before, "{there} changes nothing");
            done(world, &[back]).await?;
            assert_eq!(all_of_it(world).await?, before, "{there} and {back}");
        }
        ensure!(world.user.refused == 0, "something was refused");
        oracles::at_rest(world).await
    })
    .await;
    world.end();
}

/// How many virtual milliseconds after the first of so many creates the last of them was given to a host.
async fn last_placed(base: &Arc<Base>, vms: u64, poison: bool) -> i64 {
    let mut world = world(base, 13, 1).await;
    let mut millis = 0;
    told(&mut world, async |world| {
        world.user.pace = 20 * MILLI;
        world.log = Some(Default::default());
        if poison {
            world.faults.poison_first = true;
            world.want("poison", named_vm("poison", json!({})));
        }
        for n in 0..vms {
            world.want("create", named_vm(&format!("healthy-{n}"), json!({})));
        }
        let began = world.clock.now();
        let placed = |world: &World| {
            let log = world.log.as_ref().map(|log| log.effects.as_slice()).unwrap_or_default();
            let rows = log.iter().filter_map(|(effect, at)| match effect {
                Effect::Place(rows) => Some((rows.len(), *at)),
                _ => None,
            });
            rows.fold((0, began), |(sum, _), (rows, at)| (sum + rows, at))
        };
        let all = usize::try_from(vms)?;
        assert!(world.until(600, |world| placed(world).0 >= all).await?, "the others are placed");
        millis = (placed(world).1 - began).num_milliseconds();
        assert_eq!(world.faults.poisoned > 0, poison, "the poison was tried {} times", world.faults.poisoned);
        Ok(())
    })
    .await;
    world.end();
    millis
}

/// The reconciler's share: a placement whose transaction always fails. 10,000 of them differ from these in nothing but
/// time: what fails is tried again alone, and ever more seldom.
#[tokio::test]
async fn r13_an_object_that_always_fails_does_not_delay_the_others() {
    let base = base().await;
    let (alone, beside) = (last_placed(&base, 40, false).await, last_placed(&base, 40, true).await);
    println!("the last of 40 was placed after {alone} ms, beside a poisoned one after {beside} ms");
    assert!(beside <= alone * 11 / 10 + 100);
}

#[tokio::test]
async fn r14_a_vm_that_dies_at_every_start_is_tried_ever_more_seldom() {
    let base = base().await;
    let mut world = world(&base, 14, 1).await;
    told(&mut world, async |world| {
        world.want("create", named_vm("flapping", json!({})));
        rested(world).await?;
        let (began, deeds) = (world.now, world.deeds);
        let starts = |world: &World| world.agents.iter().map(|a| a.sim.count("starting")).sum::<u32>();
        let before = starts(world);
        while world.now < began + 3600 * SECOND {
            for h in 0..world.agents.len() {
                let running = world.agents[h].sim.look(|w| {
                    let mut running = w.observed.vms.items.iter().filter(|(_, vm)| vm.running.is_some());
                    running.next().map(|(id, _)| *id)
                });
                if let Some(id) = running {
                    world.agents[h].sim.suffer(&Mishap::Kill(id));
                    world.queue.once(world.now + MILLI, Event::Look(h));
                }
            }
            world.step().await?;
        }
        let (starts, deeds) = (starts(world) - before, world.deeds.effects - deeds.effects);
        println!("{starts} starts and {deeds} transactions in an hour");
        assert!(starts <= 200 && deeds <= 2000, "{starts} starts, {deeds} transactions");
        world.heal();
        rested(world).await?;
        oracles::at_rest(world).await
    })
    .await;
    world.end();
}

#[tokio::test]
async fn r33_a_host_that_reboots_at_any_step_of_a_create_ends_with_the_vm_running_once() {
    let base = base().await;
    let mut world = world(&base, 33, 1).await;
    told(&mut world, async |world| {
        for step in 0.. {
            let at = world.faults.seen.actions + step;
            world.faults.script = Some(Script::Action(at, ActionFault::PowerCut(20 * SECOND)));
            world.want("create", named_vm("rebooted", json!({})));
            rested(world).await?;
            let met = world.faults.script.take().is_none();
            oracles::at_rest(world).await?;
            world.want("delete", without_vm("rebooted"));
            rested(world).await?;
            if !met {
                println!("the host rebooted at each of {step} steps");
                assert!(step >= 5, "{step} steps");
                break;
            }
        }
        Ok(())
    })
    .await;
    world.end();
}

/// A VM goes to another host, and something happens on the way; whether it did.
async fn moved(world: &mut World, script: Script) -> Result<bool> {
    done(world, &["+vm"]).await?;
    world.faults.script = Some(script.after(world.faults.seen));
    done(world, &["migrate"]).await?;
    let met = world.faults.script.take().is_none();
    // It runs, on the one host that is its own, and nothing of it is elsewhere.
    oracles::at_rest(world).await?;
    done(world, &["-vm"]).await?;
    Ok(met)
}

/// A fault at a step, for so long.
type Fault = fn(u64, u64) -> Script;

#[tokio::test]
async fn r33_a_host_that_reboots_at_any_step_of_a_migration_ends_with_the_vm_running_once() {
    let base = base().await;
    let mut world = world(&base, 133, 2).await;
    told(&mut world, async |world| {
        let down = 20 * SECOND;
        let kinds: [(&str, Fault, u64); 3] = [
            ("whoever acts", |step, down| Script::Action(step, ActionFault::PowerCut(down)), 6),
            ("the source", |step, down| Script::Motion(step, MotionFault::CutSource(down)), 4),
            ("the target", |step, down| Script::Motion(step, MotionFault::CutTarget(down)), 4),
        ];
        for (who, script, least) in kinds {
            let mut steps = 0;
            while moved(world, script(steps, down)).await? {
                steps += 1;
            }
            println!("{who} rebooted at each of {steps} steps");
            assert!(steps >= least, "{who}: {steps} steps");
        }
        Ok(())
    })
    .await;
    world.end();
}

/// A world whose hosts mount the same storage, have fencers, and execute one VM in it.
async fn sharing(base: &Arc<Base>, dir: &Path, ha: &str) -> World {
    let mut world = World::new(Arc::clone(base), 55, 2).await;
    let (storage, pool) = (SharedStorage::new(Uuid::from_u128(0x5a)), Name::new("shared").unwrap());
    for agent in &mut world.agents {
        agent.sim.mount(&pool, &storage);
        agent.fence(dir).unwrap();
    }
    begin(&mut world, &Plan::script(55, &[])).await.unwrap();
    let disk = json!({"name": "root", "pool": "shared", "source": {"kind": "image", "image": "tiny"}});
    world.want("create", named_vm(VM, json!({"ha": {"policy": ha}, "disks": [disk]})));
    rested(&mut world).await.unwrap();
    world
}

/// The VM as the API shows it, and how many hosts execute it.
async fn the_vm(world: &World) -> Result<(serde_json::Value, usize)> {
    let live = world.gateways[0].live.as_ref().context("it runs")?;
    let call = Call::new("GET", &format!("/v1/projects/{PROJECT}/vms/{VM}")).token(&world.base.token);
    let vm = live.doors.users(call).await.ok()?;
    let id: VmId = serde_json::from_value(vm["id"].clone())?;
    let runs = |agent: &&Agent| {
        agent.sim.look(|w| w.observed.vms.items.get(&id).is_some_and(|vm| vm.power == ObservedPower::Running))
    };
    Ok((vm, world.agents.iter().filter(runs).count()))
}

/// The host is lost for good at one step of a migration. Whether there is such a step, and whether the VM runs in the end.
async fn lost(world: &mut World, script: Script, ha: bool) -> Result<Option<bool>> {
    world.faults.script = Some(script.after(world.faults.seen));
    done(world, &["migrate"]).await?;
    if world.faults.script.take().is_some() {
        return Ok(None);
    }
    // Longer than any lease, window and patience of a migration.
    let end = world.now + 900 * SECOND;
    world.until(900, |world| world.now >= end).await?;
    rested(world).await?;
    let (vm, runs) = the_vm(world).await?;
    if ha || runs > 0 {
        ensure!(runs == 1, "{runs} hosts execute it: {vm:#}");
        oracles::at_rest(world).await?;
        return Ok(Some(true));
    }
    // Why it does not run and what would help; as long as its migration waits for the host, that is all there is to say.
    let said = |kind: &str, reason: &str| {
        let mut all = vm["conditions"].as_array().into_iter().flatten();
        all.any(|c| c["type"] == kind && c["reason"] == reason && c["status"] != "true")
    };
    ensure!(said("Ready", "host_unreachable"), "{vm:#}");
    let mut moving = vm["conditions"].as_array().into_iter().flatten().filter(|c| c["type"] == "Migrating");
    ensure!(moving.all(|c| c["message"].as_str().is_some_and(|m| m.contains("not heard of"))), "{vm:#}");
    ensure!(said("RestartedElsewhere", "no_ha_policy") || said("Progressing", "host_unreachable"), "{vm:#}");
    Ok(Some(false))
}

async fn lost_at_each_step(ha: &str) -> (u32, u32) {
    let (base, dir) = (base().await, tempfile::tempdir().unwrap());
    let (mut runs, mut stays) = (0, 0);
    for fault in [MotionFault::LoseSource, MotionFault::LoseTarget] {
        for step in 0.. {
            let mut world = sharing(&base, dir.path(), ha).await;
            let mut end = None;
            told(&mut world, async |world| {
                end = lost(world, Script::Motion(step, fault), ha == "restart").await?;
                Ok(())
            })
            .await;
            world.end();
            match end {
                None if step >= 3 => break,
                None => panic!("{fault:?}: a migration of {step} steps"),
                Some(true) => runs += 1,
                Some(false) => stays += 1,
            }
        }
    }
    (runs, stays)
}

#[tokio::test]
async fn r51_r55_a_host_lost_for_good_in_the_midst_of_a_migration_costs_no_vm_that_is_to_be_started_elsewhere()
 {
    let (runs, stays) = lost_at_each_step("restart").await;
    println!("it ran once on a living host after each of {runs} losses");
    assert!(runs >= 8 && stays == 0, "{runs} ran, {stays} did not");
}

#[tokio::test]
async fn r51_r55_a_vm_without_a_policy_stays_with_a_reason_where_its_host_is_lost_in_the_midst_of_a_migration()
 {
    let (runs, stays) = lost_at_each_step("none").await;
    println!("after {runs} losses it ran on the other host, after {stays} it stayed with a reason");
    assert!(runs >= 1 && stays >= 1, "{runs} ran, {stays} stayed");
}

#[tokio::test]
async fn r40_clocks_that_are_an_hour_wrong_stop_nobody() {
    let base = base().await;
    for (gateway, agent) in [(3600, 0), (-3600, 0), (0, 3600), (0, -3600)] {
        let mut world = world(&base, 40, 2).await;
        told(&mut world, async |world| {
            done(world, &["create vm"]).await?;
            world.renews = true;
            world.gateways[0].clock.set(gateway);
            world.agents[0].clock.set(agent);
            // Agent and gateway start again under the wrong clock: boots, leases and certificates are judged by it.
            world.crash_gateway(0, MILLI);
            world.crash_agent(0, SECOND).await;
            done(world, &["create vm", "stop vm", "redeploy vm", "start vm"]).await?;
            // The clock is right again; nothing that was written meanwhile may stand in the way.
            world.gateways[0].clock.set(0);
            world.agents[0].clock.set(0);
            world.crash_agent(0, SECOND).await;
            done(world, &["create vm"]).await?;
            // Who had the lease is gone for good.
            world.gateways[0].clock.set(gateway);
            done(world, &["update vm"]).await?;
            let now = world.clock.now();
            world.crash_gateway(0, 3_000 * SECOND);
            world.want("create", named_vm("last", json!({})));
            let runs = |world: &World| {
                world.agents.iter().any(|agent| {
                    agent.sim.look(|w| w.observed.vms.items.values().any(|vm| vm.started_at > Some(now)))
                })
            };
            assert!(
                world.until(60, runs).await?,
                "gateway {gateway} s, agent {agent} s: nobody acts any more"
            );
            world.renews = false;
            world.heal();
            rested(world).await?;
            oracles::at_rest(world).await
        })
        .await;
        world.end();
    }
}
