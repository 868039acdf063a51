//! Tasks and their logs.

use super::{Session, bare};
use crate::{
    Failure,
    args::{Logs, Subject},
    client::Away,
    kinds::{Kind, escape},
    output::{Format, note, print, print_value, sayln},
};
use basalt_model::tasks::{Task, TaskLog};
use serde_json::{Value, json};
use std::time::Duration;

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

    pub(super) async fn logs_of(&self, what: &Logs) -> Result<(), Failure> {
        match what.of.subject()? {
            Subject::Deployment(name) => self.deployment_logs(name, what.follow, what.tail).await,
            Subject::Task(_) if what.tail.is_some() => {
                Err(Failure::Usage("--tail is of deployments; a task's log is shown whole".into()))
            }
            Subject::Task(task) => self.logs(task).await,
        }
    }

    /// Prints a task's log; while it runs, as it grows.
    async fn logs(&self, task: &str) -> Result<(), Failure> {
        let path = format!("/v1/tasks/{}", escape(bare("task", task)));
        let (mut seen, mut away) = (0, Away::default());
        let following = async {
            loop {
                // Held by the server until there is a line, or the task ends.
                let before = seen;
                let wait = if self.wait { "&wait_seconds=1" } else { "" };
                let read = self.client.lines(&path, wait, &mut seen, print_line).await;
                if away.bear(read)?.is_some() && seen == before {
                    let task: Option<Task> = away.bear(self.client.get(&path).await)?;
                    if let Some(task) = task.filter(|task| task.state.is_terminal() || !self.wait) {
                        // Those that came just before its end.
                        self.client.lines(&path, "", &mut seen, print_line).await?;
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

    /// Makes another attempt, and waits for its end.
    pub(super) async fn retry(&self, task: &str) -> Result<(), Failure> {
        let path = format!("/v1/tasks/{}/retry", escape(bare("task", task)));
        let again: Value = self.client.call(&path).await?;
        let attempt: Task = serde_json::from_value(again.clone())?;
        let ended = match self.wait {
            true => {
                let tell = |line: &TaskLog| note!("task/{}: {}", attempt.id, line.line);
                serde_json::to_value(self.client.follow_log(attempt.id, self.left(), |_| (), tell).await?)?
            }
            false => again,
        };
        let state = ended.get("state").and_then(Value::as_str).unwrap_or_default();
        match self.output {
            Format::Json | Format::Yaml => print_value(&ended, self.output)?,
            Format::Name => sayln!("task/{}", attempt.id),
            Format::Table => sayln!("task/{} {state}, attempt {}", attempt.id, attempt.attempt),
        }
        Ok(())
    }

    pub(super) async fn depend(&self, task: &str, on: &[String]) -> Result<(), Failure> {
        let path = format!("/v1/tasks/{}/dependencies", escape(bare("task", task)));
        let on: Vec<&str> = on.iter().map(|t| bare("task", t)).collect();
        let waiting: Value = self.client.replace(&path, &json!({ "depends_on": on })).await?;
        match self.output {
            Format::Json | Format::Yaml => print_value(&waiting, self.output)?,
            Format::Name => sayln!("{}", Kind::find("task")?.label(&waiting)),
            Format::Table if on.is_empty() => sayln!("{} starts", Kind::find("task")?.label(&waiting)),
            Format::Table => {
                let stage = waiting.get("stage").and_then(Value::as_str).unwrap_or_default();
                sayln!("{} {stage}", Kind::find("task")?.label(&waiting));
            }
        }
        Ok(())
    }
}

fn print_line(line: &TaskLog) {
    sayln!("{} {}", line.at.format("%H:%M:%S%.3f"), line.line);
}
