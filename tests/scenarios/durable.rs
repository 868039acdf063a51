//! "202 means durable": a seeded sample of what the soak does ten thousand times.

use anyhow::{Result, ensure};
use basalt_tests::{House, durable};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_accepted_creates_survive_kill_nine_at_random_moments() -> Result<()> {
    let mut house = House::with_program(3).await?;
    let plan = durable::Plan { creates: 300, clients: 4, kills: 5, seed: 0xba5a17 };
    let outcome = durable::run(&mut house, &plan).await?;
    ensure!(outcome.accepted >= plan.creates, "{outcome:?}");
    ensure!(outcome.kills >= 3, "{outcome:?}");
    ensure!(outcome.lost.is_empty() && outcome.half_made.is_empty(), "{outcome:?}");
    ensure!(outcome.not_running.is_empty(), "{outcome:?}");
    Ok(())
}
