//! Tasks whose deadline passed are ended, and the work of those that ended is forgotten, in bounded portions.

use super::Context;
use basalt_store::{Error, tasks, work};

/// Tasks in one portion.
const PORTION: u32 = 500;

/// Ends overdue tasks.
pub async fn time_out(context: &Context) -> Result<u64, Error> {
    let mut total = 0;
    loop {
        let mut tx = context.store.system().await?;
        let ended = tasks::sweep(&mut tx, context.now, PORTION).await?;
        tx.commit().await?;
        total += ended.len() as u64;
        if ended.len() < PORTION as usize {
            break;
        }
    }
    loop {
        let mut tx = context.store.system().await?;
        let forgotten = work::forget_ended(&mut tx, PORTION).await?;
        tx.commit().await?;
        total += forgotten;
        if forgotten < u64::from(PORTION) {
            return Ok(total);
        }
    }
}
