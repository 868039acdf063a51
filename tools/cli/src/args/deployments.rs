//! The words of verbs about deployments.

use clap::{Args, ValueEnum};

/// A deployment.
#[derive(Args)]
pub struct CreateDeployment {
    /// Its name.
    pub name: String,
    /// The provider where it runs.
    #[arg(long)]
    pub provider: String,
    #[command(flatten)]
    pub what: Deployed,
}

/// What runs, and how.
#[derive(Args)]
pub struct Deployed {
    /// What runs: `agent/planner`, `server/weather:1.4`.
    #[arg(long, value_name = "KIND/NAME:TAG")]
    pub target: String,
    /// A variable, `KEY=value`; everybody who may read the deployment sees it.
    #[arg(long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// A variable whose value is a secret of the project, `KEY=secret`.
    #[arg(long, value_name = "KEY=SECRET")]
    pub secret_env: Vec<String>,
    /// At a Kubernetes provider: one of its namespaces.
    #[arg(long)]
    pub namespace: Option<String>,
    /// At a Kubernetes provider: how many of it run.
    #[arg(long)]
    pub replicas: Option<u32>,
    /// At a local provider: the port of the gateway's machine at which it is reached.
    #[arg(long)]
    pub port: Option<u16>,
    /// What is done when what runs is not what was applied.
    #[arg(long, value_parser = ["reapply", "report"])]
    pub on_drift: Option<String>,
}

/// Something that was found at a provider, and what it is to be.
#[derive(Args)]
pub struct AdoptDeployment {
    /// Its id in `basalt get deployments`.
    pub id: String,
    /// Its name from now on.
    pub name: String,
    #[command(flatten)]
    pub what: Deployed,
    /// Say whether it could be, change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// What becomes of what depends on something that is deleted.
#[derive(Args, Clone, Default)]
pub struct Leaving {
    /// Of a provider: delete its deployments first. Of an agent or server: undeploy its deployments.
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_missing_value = "all", conflicts_with = "orphan")]
    pub cascade: Option<Cascade>,
    /// Of a deployment: leave what runs of it, and forget it at once. Of an agent or server: leave its deployments as they are.
    #[arg(long)]
    pub orphan: bool,
}

/// What goes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cascade {
    /// What has to.
    All,
    /// Deployments are undeployed and stay.
    Undeploy,
}

/// Which log.
#[derive(Args)]
pub struct Logs {
    #[command(flatten)]
    pub of: TaskOrDeployment,
    /// Of a deployment: go on with what comes. A task's log always does, unless there is `--no-wait`.
    #[arg(long, short)]
    pub follow: bool,
    /// Of a deployment: so many of the last lines; 200 when nothing is said.
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u32>,
}

/// A task or a deployment.
#[derive(Args)]
pub struct TaskOrDeployment {
    /// A task's id; or a deployment: `deployment web`, or `deployment/web`.
    #[arg(required = true, num_args = 1..=2, value_name = "TARGET")]
    target: Vec<String>,
}

/// What [`TaskOrDeployment`] names.
#[derive(Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A task, by its id.
    Task(&'a str),
    /// A deployment, by its name or id.
    Deployment(&'a str),
}

impl TaskOrDeployment {
    /// Reads it.
    pub fn subject(&self) -> Result<Subject<'_>, crate::Failure> {
        let (kind, name) = match &*self.target {
            [kind, name] => (kind.as_str(), name.as_str()),
            [one] => one.split_once('/').unwrap_or(("task", one)),
            _ => ("", ""),
        };
        match kind {
            "task" | "tasks" => Ok(Subject::Task(name)),
            "deployment" | "deployments" => Ok(Subject::Deployment(name)),
            other => Err(crate::Failure::Usage(format!(
                "{other:?} is neither a task nor a deployment; give a task's id, or deployment NAME"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_a_task_unless_it_is_said_to_be_a_deployment() {
        let read = |words: &[&str]| {
            let target = words.iter().map(ToString::to_string).collect();
            TaskOrDeployment { target }.subject().map(|s| format!("{s:?}")).map_err(|e| e.exit_code())
        };
        for (words, found) in [
            (&["7"][..], Ok("Task(\"7\")")),
            (&["task/7"], Ok("Task(\"7\")")),
            (&["deployment/web"], Ok("Deployment(\"web\")")),
            (&["deployments", "web"], Ok("Deployment(\"web\")")),
            (&["vm", "web"], Err(2)),
            (&["vm/web"], Err(2)),
        ] {
            assert_eq!(read(words), found.map(str::to_owned), "{words:?}");
        }
    }
}
