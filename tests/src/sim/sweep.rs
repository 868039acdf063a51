//! The crash sweep: every workflow, with one fault at every step of it: before, after, its answer lost, or doubled, and then
//! the same gateway goes on, or the other.
//!
//! One world serves many injections: a workflow is done with a fault, everything must come to rest as promised, with no
//! more changes on hosts than without the fault, and what leads back to the beginning is done without one.

use super::{
    base::Base,
    faults::{ActionFault, EffectFault, Script, Seen},
    oracles,
    queue::{MILLI, SECOND},
    run::{Failure, Plan, begin},
    users::{named_vm, without_vm},
    world::World,
};
use anyhow::{Result, bail, ensure};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

/// A gateway that comes back so soon has its lease still.
const SOON: u64 = 50 * MILLI;
/// Meanwhile another one acts.
const LATER: u64 = 10 * SECOND;
/// How long a world rests before it counts as resting.
const IDLE: u64 = 8 * SECOND;
/// After so many injections all oracles look; after each, those that are quick.
const LOOK: u64 = 24;

/// A workflow: what must be there before, what is done, and what leads back. `vm` stands for the VM `swept`.
#[derive(Clone, Copy, Debug)]
pub struct Workflow {
    /// Its name.
    pub name: &'static str,
    before: &'static [&'static str],
    what: &'static [&'static str],
    back: &'static [&'static str],
}

const fn workflow(
    name: &'static str,
    before: &'static [&'static str],
    what: &'static [&'static str],
    back: &'static [&'static str],
) -> Workflow {
    Workflow { name, before, what, back }
}

/// Of VMs that come and go.
pub const LIVES: &[Workflow] = &[
    workflow("create", &[], &["+vm"], &["-vm"]),
    workflow("delete", &["+vm"], &["-vm"], &["+vm"]),
    workflow("redeploy", &["+vm"], &["redeploy vm"], &[]),
];
/// Of VMs that are changed.
pub const CHANGES: &[Workflow] = &[
    workflow("stop", &["+vm"], &["stop vm"], &["start vm"]),
    workflow("start", &["+vm", "stop vm"], &["start vm"], &["stop vm"]),
    workflow("pause", &["+vm"], &["pause vm"], &["resume vm"]),
    workflow("resume", &["+vm", "pause vm"], &["resume vm"], &["pause vm"]),
    workflow("update", &["+vm"], &["update vm"], &[]),
];
/// Of what VMs need.
pub const WIRES: &[Workflow] = &[
    workflow("network deleted", &["create network"], &["delete network"], &["create network"]),
    workflow("router", &["+vm"], &["create router"], &["delete router"]),
    workflow("router changed", &["+vm", "create router"], &["update router"], &[]),
    workflow("router deleted", &["+vm", "create router"], &["delete router"], &["create router"]),
    workflow(
        "security group changed",
        &["create security group", "+guarded"],
        &["update security group"],
        &[],
    ),
];

/// What a sweep came to.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Injections, by workflow.
    pub injections: BTreeMap<&'static str, u64>,
}

impl Swept {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.injections.values().sum()
    }
}

/// Every fault at every step of some workflows; with `every` more than 1, only of each so many-th injection.
///
/// # Errors
/// What an oracle found, with the story of that workflow.
pub async fn sweep(
    base: &Arc<Base>,
    seed: u64,
    workflows: &[Workflow],
    every: usize,
) -> Result<Swept, Box<Failure>> {
    let mut swept = Swept::default();
    for workflow in workflows {
        let mut world = World::new(Arc::clone(base), seed, 2).await;
        let result = one(&mut world, workflow, every).await;
        let story = std::mem::take(&mut world.story);
        world.end().await;
        match result {
            Ok(injections) => drop(swept.injections.insert(workflow.name, injections)),
            Err(why) => {
                let why = why.context(format!("in the workflow {:?}", workflow.name));
                return Err(Box::new(Failure { seed, why, story }));
            }
        }
    }
    Ok(swept)
}

async fn one(world: &mut World, workflow: &Workflow, every: usize) -> Result<u64> {
    begin(world, &Plan::script(0, &[])).await?;
    for step in workflow.before {
        done(world, &[step]).await?;
    }
    let reference = Reference::of(world, workflow).await?;
    let mut injections = 0;
    for injection in reference.injections().into_iter().step_by(every) {
        world.story.clear();
        let script = injection.script(world.faults.seen);
        world.say(format!("SWEEP {} {script:?}", workflow.name));
        world.faults.script = Some(script);
        let before = oracles::changes(world);
        done(world, workflow.what).await?;
        ensure!(world.user.refused == 0, "an operation was refused");
        injections += u64::from(world.faults.script.take().is_none());
        reference.check(&before, &oracles::changes(world), workflow)?;
        if injections % LOOK == 0 {
            oracles::at_rest(world).await?;
        } else {
            oracles::promises(world).await?;
        }
        done(world, workflow.back).await?;
    }
    oracles::at_rest(world).await?;
    Ok(injections)
}

/// A workflow without faults.
struct Reference {
    steps: Seen,
    changes: BTreeMap<&'static str, u32>,
}

/// A fault at a step.
#[derive(Clone, Copy, Debug)]
struct Injection {
    /// Of a reconciler, or of a host.
    effect: bool,
    step: u64,
    fault: u64,
}

impl Injection {
    fn script(self, seen: Seen) -> Script {
        if self.effect {
            at_effect(seen.effects + self.step, self.fault)
        } else {
            at_action(seen.actions + self.step, self.fault)
        }
    }
}

impl Reference {
    async fn of(world: &mut World, workflow: &Workflow) -> Result<Self> {
        let (seen, before) = (world.faults.seen, oracles::changes(world));
        done(world, workflow.what).await?;
        let after = world.faults.seen;
        let steps = Seen { effects: after.effects - seen.effects, actions: after.actions - seen.actions };
        let changes = difference(&before, &oracles::changes(world));
        oracles::at_rest(world).await?;
        done(world, workflow.back).await?;
        if steps == Seen::default() {
            bail!("the workflow {} does nothing", workflow.name);
        }
        Ok(Self { steps, changes })
    }

    /// Every fault at every step.
    fn injections(&self) -> Vec<Injection> {
        let effects = (0..self.steps.effects).map(|step| (true, step));
        let actions = (0..self.steps.actions).map(|step| (false, step));
        let each = |(effect, step)| (0..8).map(move |fault| Injection { effect, step, fault });
        effects.chain(actions).flat_map(each).collect()
    }

    /// No more was changed on hosts than without a fault.
    fn check(
        &self,
        before: &BTreeMap<&'static str, u32>,
        after: &BTreeMap<&'static str, u32>,
        workflow: &Workflow,
    ) -> Result<()> {
        let done = difference(before, after);
        ensure!(done == self.changes, "O3: {}: {done:?} instead of {:?}", workflow.name, self.changes);
        Ok(())
    }
}

fn at_effect(at: u64, fault: u64) -> Script {
    let fault = match fault {
        0 => EffectFault::CrashBefore(SOON),
        1 => EffectFault::CrashBefore(LATER),
        2 => EffectFault::CrashAfter(SOON),
        3 => EffectFault::CrashAfter(LATER),
        4 => EffectFault::AnswerLost,
        5 => EffectFault::AnswerLostPaused(LATER),
        6 => EffectFault::Twice(0),
        _ => EffectFault::Twice(1),
    };
    Script::Effect(at, fault)
}

fn at_action(at: u64, fault: u64) -> Script {
    let fault = match fault {
        0 => ActionFault::KillBefore(SOON),
        1 => ActionFault::KillBefore(LATER),
        2 => ActionFault::KillAfter(SOON),
        3 => ActionFault::KillAfter(LATER),
        4 => ActionFault::FailAfter,
        5 => ActionFault::AnswerLost,
        6 => ActionFault::Twice,
        _ => ActionFault::FailBefore,
    };
    Script::Action(at, fault)
}

fn difference(
    before: &BTreeMap<&'static str, u32>,
    after: &BTreeMap<&'static str, u32>,
) -> BTreeMap<&'static str, u32> {
    let more = after.iter().map(|(k, n)| (*k, n - before.get(k).copied().unwrap_or_default()));
    more.filter(|(_, n)| *n > 0).collect()
}

/// Does operations and waits until everything rests.
pub async fn done(world: &mut World, steps: &[&'static str]) -> Result<()> {
    for step in steps {
        match *step {
            "+vm" => world.want("create vm", named_vm("swept", json!({"stop_grace_seconds": 5}))),
            "+guarded" => {
                let groups: Vec<String> = world.user.model.groups.keys().cloned().collect();
                let changes = json!({"stop_grace_seconds": 5, "security_groups": groups});
                world.want("create vm", named_vm("swept", changes));
            }
            "-vm" => world.want("delete vm", without_vm("swept")),
            name => world.script(&[name]),
        }
        rested(world).await?;
    }
    Ok(())
}

/// Waits until nothing is under way and nothing was done for a while.
///
/// # Errors
/// It does not come to rest.
pub async fn rested(world: &mut World) -> Result<()> {
    let began = world.now;
    let rests = |world: &World| {
        world.user.is_done() && world.now >= world.active_at.max(began) + IDLE && world.rests()
    };
    if !world.until(1200, rests).await? {
        bail!("O1: it does not come to rest");
    }
    Ok(())
}
