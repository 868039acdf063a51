//! The crash sweep: every workflow, with one fault at every step of it: before, after, its answer lost, or doubled, and then
//! the same gateway goes on, or the other; and each step of a migration, with either host killed or without power.
//!
//! One world serves many injections: a workflow is done with a fault, everything must come to rest as promised, with no
//! more changes on hosts than without the fault, and what leads back to the beginning is done without one.

use super::{
    base::Base,
    faults::{ActionFault, EffectFault, Script, Seen},
    motion::MotionFault,
    oracles::{self, Shown},
    queue::{MILLI, SECOND},
    run::{Failure, Plan, begin},
    steps::step,
    world::World,
};
use anyhow::{Result, bail, ensure};
use std::{collections::BTreeMap, sync::Arc};

/// A gateway that comes back so soon has its lease still.
const SOON: u64 = 50 * MILLI;
/// Meanwhile another one acts.
const LATER: u64 = 10 * SECOND;
/// How long a world rests before it counts as resting.
const IDLE: u64 = 8 * SECOND;
/// After so many injections all oracles look; after each, those that are quick.
const LOOK: u64 = 24;

/// A workflow: what must be there before, what is done, and what leads back; words of [`super::steps`].
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
    workflow("create stopped", &[], &["+vm off"], &["-vm"]),
    workflow("create with all", &["+wire", "+group"], &["+vm with all"], &["-vm"]),
    workflow("delete", &["+vm"], &["-vm"], &["+vm"]),
    workflow("delete stopped", &["+vm off"], &["-vm"], &["+vm off"]),
    workflow("redeploy", &["+vm"], &["redeploy"], &["-vm", "+vm"]),
];
/// Of VMs that are changed.
pub const CHANGES: &[Workflow] = &[
    workflow("stop", &["+vm"], &["stop"], &["start"]),
    workflow("start", &["+vm", "stop"], &["start"], &["stop"]),
    workflow("pause", &["+vm"], &["pause"], &["resume"]),
    workflow("resume", &["+vm", "pause"], &["resume"], &["pause"]),
    workflow("data changed", &["+vm"], &["data"], &["data back"]),
    workflow("memory changed", &["+vm off"], &["memory"], &["memory back"]),
];
/// Of what VMs need.
pub const WIRES: &[Workflow] = &[
    workflow("network used", &["+wire"], &["+vm on wire"], &["-vm"]),
    workflow("network deleted", &["+wire"], &["-wire"], &["+wire"]),
    workflow("volume deleted", &["+volume"], &["-volume"], &["+volume"]),
    workflow("router", &["+vm"], &["+router"], &["-router"]),
    workflow("router deleted", &["+vm", "+router"], &["-router"], &["+router"]),
    workflow("security group changed", &["+group", "+vm guarded"], &["rules"], &["rules back"]),
    workflow("security group given", &["+group", "+vm"], &["guard"], &["guard back"]),
];

/// Of VMs that go to another host.
pub const WAYS: &[Workflow] = &[
    workflow("migrate", &["+vm"], &["migrate"], &[]),
    workflow("migrate paused", &["+vm", "pause"], &["migrate"], &[]),
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
        world.end();
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
        world.fabric.calm();
        if !injection.changes_course(&reference) {
            reference.check(&difference(&before, &oracles::changes(world)))?;
        }
        let shown = Shown::of(world).await?;
        oracles::promises(world, &shown)?;
        reference.compare(&oracles::picture(world, &shown))?;
        if injections % LOOK == 0 {
            oracles::at_rest(world).await?;
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
    picture: Vec<String>,
}

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    /// A transaction of a reconciler.
    Effect,
    /// An action of a host.
    Action,
    /// A step of a migration.
    Motion,
}

/// A fault at a step.
#[derive(Clone, Copy, Debug)]
struct Injection {
    site: Site,
    step: u64,
    fault: u64,
}

impl Injection {
    fn script(self, seen: Seen) -> Script {
        match self.site {
            Site::Effect => at_effect(seen.effects + self.step, self.fault),
            Site::Action => at_action(seen.actions + self.step, self.fault),
            Site::Motion => at_motion(seen.motions + self.step, self.fault),
        }
    }

    /// Whether hosts do other things after it than without it: a migration that is broken off is not tried again.
    fn changes_course(self, reference: &Reference) -> bool {
        reference.steps.motions > 0 && self.site != Site::Effect
    }
}

impl Reference {
    async fn of(world: &mut World, workflow: &Workflow) -> Result<Self> {
        let (seen, before) = (world.faults.seen, oracles::changes(world));
        done(world, workflow.what).await?;
        let after = world.faults.seen;
        let steps = Seen {
            effects: after.effects - seen.effects,
            actions: after.actions - seen.actions,
            motions: after.motions - seen.motions,
        };
        let changes = difference(&before, &oracles::changes(world));
        oracles::at_rest(world).await?;
        let picture = oracles::picture_now(world).await?;
        done(world, workflow.back).await?;
        if steps == Seen::default() {
            bail!("the workflow {} does nothing", workflow.name);
        }
        Ok(Self { steps, changes, picture })
    }

    /// Every fault at every step.
    fn injections(&self) -> Vec<Injection> {
        let steps = |site, steps| (0..steps).map(move |step| (site, step));
        let all = steps(Site::Effect, self.steps.effects)
            .chain(steps(Site::Action, self.steps.actions))
            .chain(steps(Site::Motion, self.steps.motions));
        let each = |(site, step)| (0..8).map(move |fault| Injection { site, step, fault });
        all.flat_map(each).collect()
    }

    /// Hosts were changed as often as without a fault, and by the same.
    fn check(&self, done: &BTreeMap<&'static str, u32>) -> Result<()> {
        ensure!(*done == self.changes, "O3: hosts did {done:?}, without the fault {:?}", self.changes);
        Ok(())
    }

    /// What is there is what is there without a fault (O2).
    fn compare(&self, picture: &[String]) -> Result<()> {
        let other = |(a, b): &(&String, &String)| a != b;
        if let Some((found, wanted)) = picture.iter().zip(&self.picture).find(other) {
            bail!("O2: there is {found}, without the fault {wanted}");
        }
        ensure!(picture.len() == self.picture.len(), "O2: {picture:?}, without the fault {:?}", self.picture);
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

fn at_motion(at: u64, fault: u64) -> Script {
    let fault = match fault {
        0 => MotionFault::KillSource(SOON),
        1 => MotionFault::KillSource(LATER),
        2 => MotionFault::KillTarget(SOON),
        3 => MotionFault::CutSource(LATER),
        4 => MotionFault::CutTarget(LATER),
        5 => MotionFault::CutLink(SOON),
        6 => MotionFault::CutLink(LATER),
        _ => MotionFault::AnswerLost,
    };
    Script::Motion(at, fault)
}

fn difference(
    before: &BTreeMap<&'static str, u32>,
    after: &BTreeMap<&'static str, u32>,
) -> BTreeMap<&'static str, u32> {
    let more = after.iter().map(|(k, n)| (*k, n - before.get(k).copied().unwrap_or_default()));
    more.filter(|(_, n)| *n > 0).collect()
}

/// Does operations, by words of [`super::steps`] or by their names in [`super::users::OPERATIONS`], and waits after each until
/// everything rests.
///
/// # Errors
/// It does not come to rest.
pub async fn done(world: &mut World, words: &[&'static str]) -> Result<()> {
    for word in words {
        match step(world, word) {
            Some(wanted) => world.want(word, Some(wanted)),
            None => world.script(&[word]),
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
