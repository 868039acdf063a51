//! One file for each group of verbs.

mod adopt;
mod apply;
mod change;
mod console;
mod counters;
mod debug;
mod deployments;
mod drain;
mod images;
mod login;
mod migrate;
mod people;
mod read;
mod security_groups;
mod sim;
mod task;
mod top;
mod unstick;
mod wait;
mod watch;

use crate::{
    Failure,
    args::{Arguments, Subject, Verb},
    client::Client,
    config,
    output::{Format, say},
};
use clap::CommandFactory;
use std::{
    cell::OnceCell,
    time::{Duration, Instant},
};

/// What every verb needs.
pub(crate) struct Session {
    pub client: Client,
    pub project: String,
    /// The project, if the command line named one.
    pub only_project: Option<String>,
    pub output: Format,
    pub wait: bool,
    timeout: Duration,
    /// When it began to wait.
    begun: OnceCell<Instant>,
}

/// Carries out one command.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    if let Verb::Completion { shell } = arguments.verb {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "basalt", &mut script);
        say!("{}", String::from_utf8_lossy(&script));
        return Ok(());
    }
    let saved = config::read()?;
    if let Verb::Login(login) = arguments.verb {
        return login::login(login, saved).await;
    }
    let session = Session {
        client: Client::new(&saved)?,
        project: arguments.project.clone().or(saved.project).unwrap_or_else(|| "default".into()),
        only_project: arguments.project,
        output: arguments.output,
        wait: !arguments.no_wait,
        timeout: Duration::from_secs(arguments.timeout),
        begun: OnceCell::new(),
    };
    session.run(arguments.verb).await
}

impl Session {
    async fn run(&self, verb: Verb) -> Result<(), Failure> {
        match verb {
            // These need no session.
            Verb::Completion { .. } | Verb::Login(_) => Ok(()),
            Verb::Logout => self.logout().await,
            Verb::Whoami => self.whoami().await,
            Verb::Get(get) => self.get(&get).await,
            Verb::Describe(targets) => self.describe(&targets.targets).await,
            Verb::Create { what } => self.create(*what).await,
            Verb::Upload { image, file } => self.upload(&image, &file).await,
            Verb::Apply { file, dry_run } => self.apply(&file, dry_run).await,
            Verb::Delete { targets, after, leaving } => self.delete(&targets.targets, &after, &leaving).await,
            Verb::Adopt { what } => self.adopt(what).await,
            Verb::Start(vms) => self.power(&vms, "start", "started").await,
            Verb::Stop(vms) => self.power(&vms, "stop", "stopped").await,
            Verb::Pause(vms) => self.power(&vms, "pause", "paused").await,
            Verb::Resume(vms) => self.power(&vms, "resume", "resumed").await,
            Verb::Reboot(vms) => self.power(&vms, "reboot", "rebooted").await,
            Verb::Reset(vms) => self.power(&vms, "reset", "reset").await,
            Verb::Redeploy(vms) => self.power(&vms, "redeploy", "redeployed").await,
            Verb::Migrate(what) => self.migrate(&what).await,
            Verb::Drain(what) => self.drain(&what).await,
            Verb::Drains { host, drain } => self.drains(&host, drain.as_deref()).await,
            Verb::Maintenance { what } => self.maintenance(&what).await,
            Verb::Wait { targets, until } => self.wait_for(&targets.targets, &until).await,
            Verb::Watch { kinds } => self.watch(&kinds).await,
            Verb::Explain(what) => self.explain(&what).await,
            Verb::Debug { what } => self.debug(&what).await,
            Verb::Counters(targets) => self.counters(&targets.targets).await,
            Verb::Top(targets) => self.top(&targets.targets).await,
            Verb::Unstick { target, take } => self.unstick(&target, take.as_deref()).await,
            Verb::Sim(what) => self.sim(&what).await,
            Verb::Console(console) => self.console(&console).await,
            Verb::Tasks { state } => self.list_tasks(state.as_deref()).await,
            Verb::Logs(logs) => self.logs_of(&logs).await,
            Verb::Events(targets) => self.events(&targets.targets).await,
            Verb::Cancel(what) => match what.subject()? {
                Subject::Task(task) => self.cancel(task).await,
                Subject::Deployment(name) => self.ask_deployments(&[name], "cancel", "undeployed").await,
            },
            Verb::Deploy(targets) => self.deploy(&targets.targets).await,
            Verb::Retry(what) => match what.subject()? {
                Subject::Task(task) => self.retry(task).await,
                Subject::Deployment(name) => self.ask_deployments(&[name], "retry", "retried").await,
            },
            Verb::Depend { task, on } => self.depend(&task, &on).await,
            Verb::Revoke { host } => self.revoke(&host).await,
            Verb::ConfirmPowerOff { host } => self.confirm_power_off(&host).await,
        }
    }

    /// What is left of the time to wait: `--timeout` bounds the command, however many objects it names.
    fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.begun.get_or_init(Instant::now).elapsed())
    }
}

/// A name with or without its kind before it: `vm/web-1`.
pub(crate) fn bare<'a>(kind: &str, text: &'a str) -> &'a str {
    match text.split_once('/') {
        Some((before, name)) if before.strip_suffix('s').unwrap_or(before) == kind => name,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_its_kind_before_it() {
        assert_eq!((bare("vm", "vm/a"), bare("vm", "vms/a"), bare("vm", "a")), ("a", "a", "a"));
        assert_eq!(bare("vm", "host/a"), "host/a");
    }
}
