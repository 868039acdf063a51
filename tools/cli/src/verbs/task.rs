//! Tasks and their logs.

use super::Session;
use crate::{
    Failure,
    kinds::{Kind, escape},
    output::{print, sayln},
};
use basalt_model::tasks::TaskLog;
use basalt_wire::rest::Page;
use std::time::Duration;

impl Session {
    pub(super) async fn list_tasks(&self) -> Result<(), Failure> {
        let kind = Kind::find("task")?;
        let items = self.list(kind, None).await?;
        print(kind, &items, false, self.output)
    }

    /// Prints a task's log; while it runs, as it grows.
    pub(super) async fn logs(&self, task: &str) -> Result<(), Failure> {
        let task = task.strip_prefix("task/").unwrap_or(task);
        let mut seen = 0;
        loop {
            let state: basalt_model::tasks::Task =
                self.client.get(&format!("/v1/tasks/{}?wait_seconds=1", escape(task))).await?;
            let logs: Page<TaskLog> =
                self.client.get(&format!("/v1/tasks/{}/logs?limit=500", escape(task))).await?;
            for log in logs.items.iter().filter(|l| l.seq > seen) {
                sayln!("{} {}", log.at.format("%H:%M:%S%.3f"), log.line);
            }
            seen = logs.items.iter().map(|l| l.seq).max().unwrap_or(seen).max(seen);
            if state.state.is_terminal() || !self.wait {
                sayln!("task/{} {} {} %", state.id, state.state.as_str(), state.progress);
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
