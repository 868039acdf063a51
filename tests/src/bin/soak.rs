//! `cargo xtask soak`: what CI samples, in full. Ends with an error when anything was lost or doubled.
//!
//! `--creates <n>` (10,000), `--kills <n>` (200), `--seed <n>`; `--feed <rows>` instead: so many rows by eight writers
//! beside a transaction that stays open for `--open <seconds>` (600); `--watch <events>` instead: so many events of
//! watches, checked against a model; `--tasks <rows>` instead: whole lives of tasks beside so many finished ones, and then beside a
//! transaction that stays open for `--open <seconds>` as well; `--sim <seeds>` instead: so many seeds of the simulator, beginning
//! with `--seed`, with `--faults <n>` (50) each; `--sweep <n>` instead: its crash sweep, each n-th injection.

use anyhow::{Context, Result, bail, ensure};
use basalt_tests::{House, durable, feed_soak, figures::tasks, sim, truth::Truth, watch_soak};
use std::time::{Duration, Instant};

enum Plan {
    Durable(durable::Plan),
    Feed(feed_soak::Plan),
    Watch(watch_soak::Plan),
    Tasks(tasks::Plan),
    Simulated(sim::soak::Plan),
}

fn plan() -> Result<Plan> {
    let mut plan = durable::Plan { creates: 10_000, clients: 8, kills: 200, seed: 1 };
    let mut feed = feed_soak::Plan { writers: 8, rows: 0, open: Duration::from_secs(600), seed: 1 };
    let mut watch = watch_soak::Plan { events: 0, watchers: 8, writers: 4, seed: 1 };
    let mut simulated = sim::soak::Plan { seed: 1, seeds: 0, faults: 50, every: 0 };
    let mut tasks = tasks::Plan { rows: 0, open: Duration::from_secs(600) };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        let mut number = || given.next().with_context(|| format!("{arg} needs a number"));
        match arg.as_str() {
            "--creates" => plan.creates = number()?.parse()?,
            "--kills" => plan.kills = number()?.parse()?,
            "--seed" => plan.seed = number()?.parse()?,
            "--feed" => feed.rows = number()?.parse()?,
            "--tasks" => tasks.rows = number()?.parse()?,
            "--open" => feed.open = Duration::from_secs(number()?.parse()?),
            "--watch" => watch.events = number()?.parse()?,
            "--sim" => simulated.seeds = number()?.parse()?,
            "--faults" => simulated.faults = number()?.parse()?,
            "--sweep" => simulated.every = number()?.parse()?,
            other => bail!(
                "unknown argument {other:?}; --creates, --kills, --seed, --feed, --open, --watch, --tasks, --sim, --faults and --sweep are understood"
            ),
        }
    }
    (feed.seed, watch.seed, tasks.open) = (plan.seed, plan.seed, feed.open);
    simulated.seed = plan.seed;
    if simulated.seeds > 0 || simulated.every > 0 {
        return Ok(Plan::Simulated(simulated));
    }
    Ok(match (feed.rows, watch.events, tasks.rows) {
        (0, 0, 0) => Plan::Durable(plan),
        (_, 0, 0) => Plan::Feed(feed),
        (0, _, 0) => Plan::Watch(watch),
        (0, 0, _) => Plan::Tasks(tasks),
        _ => bail!("--feed, --watch and --tasks are soaks of their own; give one"),
    })
}

async fn watch(plan: &watch_soak::Plan) -> Result<()> {
    let house = House::over(Truth::durable().await?, 1).await?;
    println!(
        "{} events of {} watchers, {} writers, seed {}",
        plan.events, plan.watchers, plan.writers, plan.seed
    );
    let started = Instant::now();
    let outcome = watch_soak::run(&house, plan).await.with_context(|| house.gateway.log())?;
    println!(
        "{:.0} s: {} events, resumed {} times, told to begin anew {} times, {} lists agreed",
        started.elapsed().as_secs_f64(),
        outcome.events,
        outcome.resumed,
        outcome.resyncs,
        outcome.lists
    );
    Ok(())
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

async fn lives(plan: &tasks::Plan) -> Result<()> {
    let house = House::over(Truth::durable().await?, 0).await?;
    println!(
        "lives of tasks beside {} finished ones, then a transaction open for {:?}",
        plan.rows, plan.open
    );
    let done = tasks::soak(&house, plan).await.with_context(|| house.gateway.log())?;
    for (what, (rate, starts)) in ["no history", "the history", "and the open transaction"]
        .iter()
        .zip(done.rates.iter().zip(&done.starts))
    {
        println!("{what}: {rate:.0} lives/s, starts of a batch {}", starts.text());
    }
    let [_, free, held] = done.rates;
    println!(
        "{} lives beside the open transaction: {:.0} % of the rate, {:.0} bytes of each kept",
        done.lives,
        100.0 * held / free,
        done.grown_per_life
    );
    ensure!(done.grown_per_life < 4096.0, "the table of live tasks grows without bound");
    ensure!(held > free * 0.7, "an open transaction slows tasks");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    match plan()? {
        Plan::Durable(plan) => durable(&plan).await,
        Plan::Feed(plan) => feed(&plan).await,
        Plan::Watch(plan) => watch(&plan).await,
        Plan::Tasks(plan) => lives(&plan).await,
        Plan::Simulated(plan) => tokio::task::spawn_blocking(move || sim::soak::soak(&plan)).await?,
    }
}

async fn durable(plan: &durable::Plan) -> Result<()> {
    let mut house = House::over(Truth::durable().await?, 50).await?;
    println!(
        "{} creates by {} clients, the gateway killed {} times, seed {}",
        plan.creates, plan.clients, plan.kills, plan.seed
    );
    let started = Instant::now();
    let outcome = durable::run(&mut house, plan).await.with_context(|| house.gateway.log())?;
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
