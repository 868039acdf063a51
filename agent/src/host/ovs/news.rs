//! News from the switch's database: a changed interface wakes the agent; what changed it sees by looking.

use super::Switch;
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::Notify,
};

/// Pause before a monitor that ended is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Wakes `news` whenever an interface comes, goes or changes, and when the database goes or comes back.
/// Runs until it is dropped.
pub async fn watch(switch: Switch, news: Arc<Notify>) {
    loop {
        let program = switch.program("ovsdb-client").args([
            "--format=json",
            "monitor",
            "Open_vSwitch",
            "Interface",
            "name,ofport,error,external_ids",
        ]);
        match program.command().spawn() {
            Err(error) => tracing::warn!(%error, "ovsdb-client cannot be started"),
            Ok(mut child) => {
                if let Some(stdout) = child.stdout.take() {
                    let mut lines = BufReader::new(stdout).lines();
                    while let Ok(Some(_)) = lines.next_line().await {
                        news.notify_one();
                    }
                }
                // The kill of what hangs and the collection of what ended are one.
                if let Err(error) = child.kill().await {
                    tracing::debug!(%error, "ending ovsdb-client");
                }
                news.notify_one();
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
