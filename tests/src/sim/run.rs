//! One run: things happen and go wrong; then nothing goes wrong any more and everything must come to rest as promised.

use super::{
    base::{Base, Call},
    oracles,
    queue::{Event, SECOND},
    sweep::rested,
    users::once_more,
    watcher::{Counts, Watcher},
    world::{Deeds, World},
};
use anyhow::{Result, bail};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Virtual seconds after which everything must have come to rest.
const LONGEST: u64 = 40 * 60;
/// Virtual seconds in which nothing may be written or done, once it has (O1, O12).
const REST: u64 = 60;
/// Deeds that a run may take for each operation and fault (O13).
const PER_STEP: u64 = 400;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Says everything that is left to chance.
    pub seed: u64,
    /// Gateways.
    pub gateways: usize,
    /// Operations of the user.
    pub operations: u32,
    /// Operations of the user in this order, instead.
    pub script: Vec<&'static str>,
    /// Faults at least.
    pub faults: u64,
    /// Kinds of faults; empty: all.
    pub only: Vec<&'static str>,
    /// Virtual seconds between two operations at most.
    pub pace_seconds: u64,
}

impl Plan {
    /// The usual run of a seed: two gateways, a dozen operations, fifty faults.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            gateways: 2,
            operations: 12,
            script: Vec::new(),
            faults: 50,
            only: Vec::new(),
            pace_seconds: 3,
        }
    }

    /// These operations, one after the other, without faults.
    pub fn script(seed: u64, script: &[&'static str]) -> Self {
        Self { operations: 0, faults: 0, script: script.to_vec(), ..Self::of(seed) }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What happened, line by line.
    pub story: Vec<String>,
    /// Faults that happened.
    pub faults: u64,
    /// The same by kind.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// What was done.
    pub deeds: Deeds,
    /// Operations of the user that were refused.
    pub refused: u32,
    /// What was watched.
    pub watched: Counts,
    /// Virtual seconds.
    pub seconds: u64,
    /// What was accepted, in order.
    pub accepted: Vec<Call>,
    /// What was there in the end, see [`oracles::picture`].
    pub picture: Vec<String>,
}

/// A run that an oracle is not content with.
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What the oracle found.
    pub why: anyhow::Error,
    /// What happened until then.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.story {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}: {:#}", self.seed, self.why)?;
        write!(f, "replay it with BASALT_SIM_SEED={} BASALT_SIM_SEEDS=1", self.seed)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Runs a plan in a world of its own.
///
/// # Errors
/// What an oracle found, with the story.
pub async fn run(base: &Arc<Base>, plan: &Plan) -> Result<Outcome, Box<Failure>> {
    let mut world = World::new(Arc::clone(base), plan.seed, plan.gateways).await;
    let result = drive(&mut world, plan).await;
    let outcome = match result {
        Ok(picture) => Ok(Outcome {
            accepted: std::mem::take(&mut world.user.accepted),
            picture,
            story: std::mem::take(&mut world.story),
            faults: world.faults.met,
            by_kind: std::mem::take(&mut world.faults.by_kind),
            deeds: world.deeds,
            watched: world.watcher.as_ref().map(|w| w.counts).unwrap_or_default(),
            refused: world.user.refused,
            seconds: world.now / SECOND,
        }),
        Err(why) => Err(Box::new(Failure { seed: plan.seed, why, story: std::mem::take(&mut world.story) })),
    };
    world.end();
    outcome
}

async fn drive(world: &mut World, plan: &Plan) -> Result<Vec<String>> {
    begin(world, plan).await?;
    world.watcher = Some(Watcher::new(plan.seed));
    world.faults.on = plan.faults > 0;
    world.faults.only.clone_from(&plan.only);
    world.queue.once(world.now, Event::Fault);
    let enough = |world: &World| world.user.is_done() && world.faults.met >= plan.faults;
    if !world.until(LONGEST, enough).await? {
        bail!("the user is not done, or not enough went wrong ({} faults)", world.faults.met);
    }
    settle(world).await?;
    world.watched()?;
    oracles::picture_now(world).await
}

/// What is there after the same operations without faults, each after the one before came to rest (O2).
///
/// # Errors
/// What an oracle found, with the story.
pub async fn without_faults(
    base: &Arc<Base>,
    seed: u64,
    calls: &[Call],
) -> Result<Vec<String>, Box<Failure>> {
    let mut world = World::new(Arc::clone(base), seed, 1).await;
    let result = async {
        begin(&mut world, &Plan::script(seed, &[])).await?;
        for call in calls {
            world.want(&call.path, once_more(call));
            rested(&mut world).await?;
        }
        oracles::picture_now(&world).await
    };
    let result = result.await;
    let story = std::mem::take(&mut world.story);
    world.end();
    result.map_err(|why| Box::new(Failure { seed, why, story }))
}

/// Hosts are there, and the user begins.
pub async fn begin(world: &mut World, plan: &Plan) -> Result<()> {
    if !world.until(60, |world| world.rests() && world.now > 3 * SECOND).await? {
        bail!("the hosts did not start");
    }
    (world.user.left, world.user.pace) = (plan.operations, plan.pace_seconds * SECOND);
    world.script(&plan.script);
    Ok(())
}

/// Nothing goes wrong any more: everything comes to rest, stays so, and is as promised.
pub async fn settle(world: &mut World) -> Result<()> {
    world.heal();
    let healed = world.now;
    let quiet = |world: &World| world.rests() && world.now >= world.active_at.max(healed) + REST * SECOND;
    if !world.until(LONGEST, quiet).await? {
        bail!("O1, O12: it does not come to rest");
    }
    let steps = world.user.accepted.len() as u64 + world.faults.met + 10;
    let deeds = world.deeds.effects + world.deeds.actions;
    if deeds > steps * PER_STEP {
        bail!("O13: {deeds} transactions and actions for {steps} operations and faults");
    }
    oracles::at_rest(world).await
}
