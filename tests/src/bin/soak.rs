//! `cargo xtask soak`: what CI samples, in full. Ends with an error when anything was lost or doubled.
//!
//! `--creates <n>` (10,000), `--kills <n>` (200), `--seed <n>`.

use anyhow::{Context, Result, bail, ensure};
use basalt_tests::{House, durable, truth::Truth};
use std::time::Instant;

fn plan() -> Result<durable::Plan> {
    let mut plan = durable::Plan { creates: 10_000, clients: 8, kills: 200, seed: 1 };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        let mut number = || given.next().with_context(|| format!("{arg} needs a number"));
        match arg.as_str() {
            "--creates" => plan.creates = number()?.parse()?,
            "--kills" => plan.kills = number()?.parse()?,
            "--seed" => plan.seed = number()?.parse()?,
            other => bail!("unknown argument {other:?}; --creates, --kills and --seed are understood"),
        }
    }
    Ok(plan)
}

#[tokio::main]
async fn main() -> Result<()> {
    let plan = plan()?;
    let mut house = House::over(Truth::durable().await?, 50).await?;
    println!(
        "{} creates by {} clients, the gateway killed {} times, seed {}",
        plan.creates, plan.clients, plan.kills, plan.seed
    );
    let started = Instant::now();
    let outcome = durable::run(&mut house, &plan).await.with_context(|| house.gateway.log())?;
    println!(
        "{:.0} s: {} accepted, {} without an answer, {} kills; lost {}, half-made {}, not running {}",
        started.elapsed().as_secs_f64(),
        outcome.accepted,
        outcome.unanswered,
        outcome.kills,
        outcome.lost.len(),
        outcome.half_made.len(),
        outcome.not_running.len()
    );
    for line in outcome.lost.iter().chain(&outcome.half_made).chain(&outcome.not_running).take(20) {
        println!("  {line}");
    }
    ensure!(
        outcome.lost.is_empty() && outcome.half_made.is_empty() && outcome.not_running.is_empty(),
        "something was lost"
    );
    Ok(())
}
