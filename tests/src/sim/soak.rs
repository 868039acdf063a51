//! Many seeds, or the crash sweep, in full.

use super::{
    Base,
    run::{self, run},
    sweep::{self, sweep},
};
use anyhow::{Result, ensure};
use std::{sync::Arc, time::Instant};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first seed.
    pub seed: u64,
    /// How many seeds.
    pub seeds: u64,
    /// Faults of each at least.
    pub faults: u64,
    /// Instead: the crash sweep, each so many-th injection; 0: no sweep.
    pub every: usize,
}

/// Runs it in this thread: one operation after the other.
///
/// # Errors
/// A seed or a sweep failed; its story was printed.
pub fn soak(plan: &Plan) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let base = Arc::new(Base::new().await?);
        if plan.every > 0 { swept(&base, plan).await } else { seeds(&base, plan).await }
    })
}

async fn seeds(base: &Arc<Base>, plan: &Plan) -> Result<()> {
    let (started, mut total, mut failed) = (Instant::now(), 0, 0);
    for (n, seed) in (1..).zip(plan.seed..plan.seed + plan.seeds) {
        match run(base, &run::Plan { faults: plan.faults, ..run::Plan::of(seed) }).await {
            Ok(outcome) => total += outcome.faults,
            Err(failure) => {
                failed += 1;
                println!("{failure}");
            }
        }
        if n % 500 == 0 || n == plan.seeds {
            let seconds = started.elapsed().as_secs_f64();
            println!("{n} seeds from {} in {seconds:.0} s, {total} faults, {failed} failed", plan.seed);
        }
    }
    ensure!(failed == 0, "{failed} seeds failed");
    Ok(())
}

async fn swept(base: &Arc<Base>, plan: &Plan) -> Result<()> {
    let mut failed = 0;
    for workflows in sweep::ALL {
        let started = Instant::now();
        match sweep(base, plan.seed, workflows, plan.every).await {
            Ok(swept) => {
                let seconds = started.elapsed().as_secs_f64();
                println!("{} injections in {seconds:.0} s: {:?}", swept.total(), swept.injections);
            }
            Err(failure) => {
                failed += 1;
                println!("{failure}");
            }
        }
    }
    ensure!(failed == 0, "the sweep failed");
    Ok(())
}
