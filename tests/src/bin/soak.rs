//! `cargo xtask soak`: what CI samples, in full. Ends with an error when anything was lost or doubled.
//!
//! `--creates <n>` (10,000), `--kills <n>` (200), `--seed <n>`; `--feed <rows>` instead: so many rows by eight writers
//! beside a transaction that stays open for `--open <seconds>` (600).

use anyhow::{Context, Result, bail, ensure};
use basalt_tests::{House, durable, feed_soak, truth::Truth};
use std::time::{Duration, Instant};

fn plan() -> Result<(durable::Plan, Option<feed_soak::Plan>)> {
    let mut plan = durable::Plan { creates: 10_000, clients: 8, kills: 200, seed: 1 };
    let mut feed = feed_soak::Plan { writers: 8, rows: 0, open: Duration::from_secs(600), seed: 1 };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        let mut number = || given.next().with_context(|| format!("{arg} needs a number"));
        match arg.as_str() {
            "--creates" => plan.creates = number()?.parse()?,
            "--kills" => plan.kills = number()?.parse()?,
            "--seed" => plan.seed = number()?.parse()?,
            "--feed" => feed.rows = number()?.parse()?,
            "--open" => feed.open = Duration::from_secs(number()?.parse()?),
            other => bail!(
                "unknown argument {other:?}; --creates, --kills, --seed, --feed and --open are understood"
            ),
        }
    }
    feed.seed = plan.seed;
    Ok((plan, (feed.rows > 0).then_some(feed)))
}

async fn feed(plan: &feed_soak::Plan) -> Result<()> {
    let truth = Truth::durable().await?;
    println!("{} rows by {} writers, one transaction open for {:?}", plan.rows, plan.writers, plan.open);
    let outcome = feed_soak::run(&truth, plan).await?;
    println!(
        "{} rows in {} pulls, the slowest {:?}; lost {}, doubled {}",
        outcome.rows,
        outcome.pulls,
        outcome.slowest,
        outcome.lost.len(),
        outcome.doubled.len()
    );
    ensure!(outcome.lost.is_empty() && outcome.doubled.is_empty(), "something was lost");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let (plan, rows) = plan()?;
    if let Some(rows) = rows {
        return feed(&rows).await;
    }
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
