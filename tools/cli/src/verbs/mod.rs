//! One file for each group of verbs.

mod apply;
mod change;
mod console;
mod login;
mod read;
mod task;
mod watch;

use crate::{
    Failure,
    args::{Arguments, Verb},
    client::Client,
    config,
    output::Format,
};
use clap::CommandFactory;
use std::time::Duration;

/// What every verb needs.
pub(crate) struct Session {
    pub client: Client,
    pub project: String,
    pub output: Format,
    pub wait: bool,
    pub timeout: Duration,
}

/// Carries out one command.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let saved = config::read()?;
    let timeout = Duration::from_secs(arguments.timeout);
    match arguments.verb {
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "basalt", &mut std::io::stdout());
            Ok(())
        }
        Verb::Login(login) => login::login(login, saved).await,
        verb => {
            let session = Session {
                client: Client::new(&saved)?,
                project: arguments.project.or(saved.project).unwrap_or_else(|| "default".into()),
                output: arguments.output,
                wait: !arguments.no_wait,
                timeout,
            };
            session.run(verb).await
        }
    }
}

impl Session {
    async fn run(&self, verb: Verb) -> Result<(), Failure> {
        match verb {
            Verb::Completion { .. } | Verb::Login(_) => Ok(()),
            Verb::Whoami => self.whoami().await,
            Verb::Get(get) => self.get(&get).await,
            Verb::Describe(target) => self.describe(&target.target).await,
            Verb::Create { what } => self.create(*what).await,
            Verb::Apply { file, dry_run } => self.apply(&file, dry_run).await,
            Verb::Delete(target) => self.delete(&target.target).await,
            Verb::Start(vm) => self.power(&vm.vm, "start").await,
            Verb::Stop(vm) => self.power(&vm.vm, "stop").await,
            Verb::Pause(vm) => self.power(&vm.vm, "pause").await,
            Verb::Resume(vm) => self.power(&vm.vm, "resume").await,
            Verb::Reboot(vm) => self.power(&vm.vm, "reboot").await,
            Verb::Reset(vm) => self.power(&vm.vm, "reset").await,
            Verb::Redeploy(vm) => self.power(&vm.vm, "redeploy").await,
            Verb::Wait { target, until } => self.wait_for(&target, &until).await,
            Verb::Watch { kinds } => self.watch(&kinds).await,
            Verb::Explain(vm) => self.explain(&vm.vm).await,
            Verb::Console(console) => self.console(&console).await,
            Verb::Tasks => self.list_tasks().await,
            Verb::Logs { task } => self.logs(&task).await,
        }
    }
}

/// A VM's name with or without `vm/` before it.
pub(crate) fn vm_name(text: &str) -> &str {
    text.strip_prefix("vm/").or(text.strip_prefix("vms/")).unwrap_or(text)
}
