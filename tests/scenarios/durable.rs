//! "202 means durable": a seeded sample of what the soak does ten thousand times.

use anyhow::{Result, ensure};
use basalt_tests::{House, durable, feed_soak, truth::Truth};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_accepted_creates_survive_kill_nine_at_random_moments() -> Result<()> {
    let mut house = House::with_program(3).await?;
    let plan = durable::Plan { creates: 300, clients: 4, kills: 5, seed: 0xba5a17 };
    let outcome = durable::run(&mut house, &plan).await?;
    ensure!(outcome.accepted >= plan.creates, "{outcome:?}");
    ensure!(outcome.kills >= 3, "{outcome:?}");
    ensure!(outcome.lost.is_empty() && outcome.half_made.is_empty(), "{outcome:?}");
    ensure!(
        outcome.not_running.is_empty(),
        "{outcome:?}; the gateway's log ends with\n{}",
        house.gateway.log()
    );
    Ok(())
}

/// Twenty thousand rows here; a million beside a transaction of ten minutes in `cargo xtask soak --feed 1000000`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_p4_r20_r21_many_writers_beside_an_open_transaction_lose_nothing_and_stall_nobody() -> Result<()> {
    let truth = Truth::for_test().await;
    let plan = feed_soak::Plan { writers: 8, rows: 20_000, open: Duration::from_secs(6), seed: 0xba5a17 };
    let outcome = feed_soak::run(&truth, &plan).await?;
    ensure!(outcome.lost.is_empty() && outcome.doubled.is_empty(), "{outcome:?}");
    ensure!(
        outcome.rows > plan.rows / 2 && outcome.pulls > 5,
        "{} rows, {} pulls",
        outcome.rows,
        outcome.pulls
    );
    Ok(())
}
