//! The crash sweep: every workflow, with one fault at every step of it: before, after, its answer lost, or doubled, and then
//! the same gateway goes on, or the other; and each step of a migration, with either host killed or without power.
//!
//! One world serves many injections: workflows lead round in a circle, each is done with its next fault, and after each
//! everything must come to rest as promised, with no more changes on hosts than without the fault.

use super::{
    base::Base,
    faults::{ActionFault, EffectFault, Script, Seen},
    motion::MotionFault,
    oracles::{self, Shown},
    queue::{MILLI, SECOND},
    run::{Failure, Plan, begin},
    steps::{goes_on, step},
    world::World,
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// A gateway that comes back so soon has its lease still.
const SOON: u64 = 50 * MILLI;
/// Meanwhile another one acts.
const LATER: u64 = 10 * SECOND;
/// How long a world rests before it counts as resting.
const IDLE: u64 = 8 * SECOND;
/// After so many injections all oracles look; after each, those that are quick.
const LOOK: u64 = 24;

/// A round of workflows: what must be there before, and workflows that lead from one to the next and from the last back
/// to the first, each by its name and a word of [`super::steps`]. So nothing is done only to get back.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    before: &'static [&'static str],
    workflows: &'static [(&'static str, &'static str)],
}

const fn round(before: &'static [&'static str], workflows: &'static [(&'static str, &'static str)]) -> Round {
    Round { before, workflows }
}

/// Of VMs that come and go.
pub const LIVES: &[Round] = &[
    round(&[], &[("create", "+vm"), ("redeploy", "redeploy"), ("delete", "-vm")]),
    round(&[], &[("create stopped", "+vm off"), ("delete stopped", "-vm")]),
];
/// Of VMs with everything that a VM can have.
pub const FULL: &[Round] =
    &[round(&["+wire", "+group"], &[("create with all", "+vm with all"), ("delete with all", "-vm")])];
/// Of VMs that are changed.
pub const CHANGES: &[Round] = &[
    round(&["+vm"], &[("stop", "stop"), ("start", "start")]),
    round(&["+vm"], &[("pause", "pause"), ("resume", "resume")]),
    round(&["+vm", "data back"], &[("data changed", "data"), ("data changed back", "data back")]),
    round(&["+vm off"], &[("memory grown", "memory"), ("memory shrunk", "memory back")]),
];
/// Of what VMs need.
pub const WIRES: &[Round] = &[
    round(&["+wire"], &[("network used", "+vm on wire"), ("network left", "-vm")]),
    round(&[], &[("network created", "+wire"), ("network deleted", "-wire")]),
    round(&[], &[("volume created", "+volume"), ("volume deleted", "-volume")]),
];
/// Of what guards VMs and leads them out.
pub const WALLS: &[Round] = &[
    round(&["+vm"], &[("router created", "+router"), ("router deleted", "-router")]),
    round(&["+vm", "+router"], &[("routes given", "routes"), ("routes taken", "routes back")]),
    round(&["+group", "+vm guarded"], &[("security group changed", "rules"), ("changed back", "rules back")]),
    round(&["+group", "+vm"], &[("security group given", "guard"), ("security group taken", "guard back")]),
];
/// Of VMs that go to another host.
pub const WAYS: &[Round] =
    &[round(&["+vm"], &[("migrate", "migrate")]), round(&["+vm", "pause"], &[("migrate paused", "migrate")])];

/// Of hosts that are emptied. The VM is on the first of two at the beginning, wherever it was put.
pub const DRAINS: &[Round] = &[round(
    &["+vm", "drain h3", "drain h2", "open h2"],
    &[
        ("drain", "drain h1"),
        ("maintenance left", "open h1"),
        ("drain back", "drain h2"),
        ("maintenance left by the other", "open h2"),
    ],
)];

/// All of them.
pub const ALL: [&[Round]; 7] = [LIVES, FULL, CHANGES, WIRES, WALLS, WAYS, DRAINS];

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
    rounds: &[Round],
    every: usize,
) -> Result<Swept, Box<Failure>> {
    let mut swept = Swept::default();
    for round in rounds {
        let mut world = World::new(Arc::clone(base), seed, 2).await;
        let result = one(&mut world, round, every, &mut swept).await;
        let story = std::mem::take(&mut world.story);
        world.end();
        result.map_err(|why| Box::new(Failure { seed, why, story }))?;
    }
    Ok(swept)
}

async fn one(world: &mut World, round: &Round, every: usize, swept: &mut Swept) -> Result<()> {
    begin(world, &Plan::script(0, &[])).await?;
    for step in round.before {
        done(world, &[step]).await?;
    }
    let start = oracles::picture_now(world).await?;
    let mut legs = Vec::new();
    for (name, word) in round.workflows {
        let leg = Leg::of(world, name, word, every).await;
        legs.push(leg.with_context(|| format!("in the workflow {name:?}"))?);
    }
    let end = legs.last().map(|leg| &leg.picture);
    ensure!(end == Some(&start), "O11: round and back again there is {end:?}, there was {start:?}");
    let mut injections = 0;
    while legs.iter().any(|leg| !leg.left.is_empty()) {
        for leg in &mut legs {
            world.story.clear();
            let met = leg.go(world).await.with_context(|| format!("in the workflow {:?}", leg.name))?;
            *swept.injections.entry(leg.name).or_default() += met;
            injections += met;
            if met > 0 && injections % LOOK == 0 {
                oracles::at_rest(world).await?;
            }
        }
    }
    oracles::at_rest(world).await
}

/// A workflow of a round: what it does without faults, and the faults that are still to strike it.
struct Leg {
    name: &'static str,
    word: &'static str,
    steps: Seen,
    changes: BTreeMap<&'static str, u32>,
    picture: Vec<String>,
    left: VecDeque<Injection>,
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
    fn script(self) -> Script {
        match self.site {
            Site::Effect => at_effect(self.step, self.fault),
            Site::Action => at_action(self.step, self.fault),
            Site::Motion => at_motion(self.step, self.fault),
        }
    }
}

impl Leg {
    async fn of(world: &mut World, name: &'static str, word: &'static str, every: usize) -> Result<Self> {
        let (seen, before) = (world.faults.seen, oracles::changes(world));
        done(world, &[word]).await?;
        let after = world.faults.seen;
        let steps = Seen {
            effects: after.effects - seen.effects,
            actions: after.actions - seen.actions,
            motions: after.motions - seen.motions,
        };
        ensure!(world.user.refused == 0, "an operation was refused");
        let changes = difference(&before, &oracles::changes(world));
        oracles::at_rest(world).await?;
        let picture = oracles::picture_now(world).await?;
        let left = injections(steps).into_iter().step_by(every).collect();
        Ok(Self { name, word, steps, changes, picture, left })
    }

    /// Does it, with the next fault if one is left; how many struck.
    async fn go(&mut self, world: &mut World) -> Result<u64> {
        let injection = self.left.pop_front();
        if let Some(injection) = injection {
            let script = injection.script().after(world.faults.seen);
            world.say(format!("SWEEP {} {script:?}", self.name));
            world.faults.script = Some(script);
        }
        let before = oracles::changes(world);
        done(world, &[self.word]).await?;
        ensure!(world.user.refused == 0, "an operation was refused");
        let met = injection.is_some() && world.faults.script.take().is_none();
        world.fabric.calm();
        match injection.is_some_and(|injection| self.changes_course(injection)) {
            false => self.check(&difference(&before, &oracles::changes(world)))?,
            // What was broken off is left until somebody asks again.
            true if goes_on(self.word) => done(world, &[self.word]).await?,
            true => {}
        }
        let shown = Shown::of(world).await?;
        oracles::promises(world, &shown)?;
        self.compare(&oracles::picture(world, &shown))?;
        Ok(u64::from(met))
    }

    /// Whether hosts do other things after it than without it: a migration that is broken off is not tried again.
    fn changes_course(&self, injection: Injection) -> bool {
        self.steps.motions > 0 && injection.site != Site::Effect
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

/// Every fault at every step.
fn injections(steps: Seen) -> Vec<Injection> {
    let of = |site, steps| (0..steps).map(move |step| (site, step));
    let all = of(Site::Effect, steps.effects)
        .chain(of(Site::Action, steps.actions))
        .chain(of(Site::Motion, steps.motions));
    all.flat_map(|(site, step)| (0..8).map(move |fault| Injection { site, step, fault })).collect()
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
