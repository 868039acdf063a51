//! Conflicts of agents end by themselves: nobody says that the other agent was stopped, it only falls silent.

use super::Context;
use basalt_store::{Error, agent_conflicts};
use chrono::TimeDelta;

/// A refused agent tries every 20 s. After three times that in silence it counts as stopped.
const SILENCE: TimeDelta = TimeDelta::seconds(60);

/// Ends the conflicts whose refused agents fell silent.
pub async fn clear(context: &Context) -> Result<u64, Error> {
    let mut tx = context.store.system().await?;
    let ended = agent_conflicts::clear(&mut tx, context.now - SILENCE).await?;
    tx.commit().await?;
    Ok(ended)
}
