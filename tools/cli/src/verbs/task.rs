//! Tasks and their logs.

use super::{Session, bare};
use crate::{
    Failure,
    client::Away,
    kinds::{Kind, escape},
    output::{Format, note, print, print_value, sayln},
};
use basalt_model::tasks::{Task, TaskLog};
use serde_json::Value;
use std::time::Duration;

/// Lines that are asked for at once.
const LINES: usize = 500;

impl Session {
    pub(super) async fn list_tasks(&self, state: Option<&str>) -> Result<(), Failure> {
        let kind = Kind::find("task")?;
        let project = self.only_project.as_deref().map(|p| ("project", p));
        let query: Vec<_> = project.into_iter().chain(state.map(|s| ("state", s))).collect();
        let items = self.list(kind, &query).await?;
        if items.is_empty() && self.output == Format::Table {
            note!("no tasks");
            return Ok(());
        }
        print(kind, &items, false, self.output)
    }

    /// Prints a task's log; while it runs, as it grows.
    pub(super) async fn logs(&self, task: &str) -> Result<(), Failure> {
        let path = format!("/v1/tasks/{}", escape(bare("task", task)));
        let (mut seen, mut away) = (0, Away::default());
        let following = async {
            loop {
                // Held by the server until the task ends, so that its last lines are not missed.
                let wait = if self.wait { "?wait_seconds=1" } else { "" };
                if let Some(task) = away.bear(self.client.get::<Task>(&format!("{path}{wait}")).await)? {
                    seen = self.print_lines(&path, seen).await?;
                    if task.state.is_terminal() || !self.wait {
                        return Ok(task);
                    }
                }
                tokio::time::sleep(away.pause(Duration::from_millis(50))).await;
            }
        };
        let task: Result<Task, Failure> =
            tokio::time::timeout(self.left(), following).await.map_err(|_| {
                Failure::TimedOut(format!("the task has not ended in {} s", self.timeout.as_secs()))
            })?;
        let task = task?;
        let why = task.error.map(|e| format!(": {e}")).unwrap_or_default();
        sayln!("task/{} {} {} %{why}", task.id, task.state.as_str(), task.progress);
        Ok(())
    }

    /// Prints the lines after one; gives the last.
    async fn print_lines(&self, path: &str, mut after: i64) -> Result<i64, Failure> {
        loop {
            let lines: Vec<TaskLog> =
                self.client.get(&format!("{path}/logs?after={after}&limit={LINES}")).await?;
            for line in &lines {
                sayln!("{} {}", line.at.format("%H:%M:%S%.3f"), line.line);
                after = line.seq;
            }
            if lines.len() < LINES {
                return Ok(after);
            }
        }
    }

    pub(super) async fn cancel(&self, task: &str) -> Result<(), Failure> {
        let path = format!("/v1/tasks/{}/cancel", escape(bare("task", task)));
        let cancelled: Value = self.client.call(&path).await?;
        match self.output {
            Format::Json | Format::Yaml => print_value(&cancelled, self.output)?,
            Format::Name => sayln!("{}", Kind::find("task")?.label(&cancelled)),
            Format::Table => sayln!("{} cancelled", Kind::find("task")?.label(&cancelled)),
        }
        Ok(())
    }
}
