//! Runs a program of the host: an argument vector, a time limit, bounded output. Never a shell (S42).

use crate::Error;
use std::{
    ffi::{OsStr, OsString},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::process::Command;

/// Longest stretch of a program's complaint that is kept in an error, in bytes.
const COMPLAINT_BYTES: usize = 600;

/// One run of a program.
#[derive(Clone, Debug)]
pub struct Program {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    limit: Duration,
}

/// How a program ended and what it wrote.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Program {
    /// A program with a limit of 30 s.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: vec![("LC_ALL".into(), "C".into())],
            limit: Duration::from_secs(30),
        }
    }

    /// A program that answers at once or not at all.
    pub fn quick(program: impl AsRef<OsStr>) -> Self {
        Self::new(program).limit(Duration::from_secs(5))
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the time limit.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it and gives what it wrote to standard output; a failure status is an error.
    pub async fn run(&self) -> Result<Vec<u8>, Error> {
        let ended = self.end().await?;
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        Err(Error::host(self.name(), format!("{}: {}", ended.status, tail(&ended.stderr))))
    }

    /// Runs it and gives how it ended, whatever the status.
    pub async fn end(&self) -> Result<Ended, Error> {
        let child = self.command().spawn().map_err(|e| Error::host(self.name(), e))?;
        // Dropping the child kills it: the limit holds for a program that hangs too.
        match tokio::time::timeout(self.limit, child.wait_with_output()).await {
            Err(_) => {
                Err(Error::host(self.name(), format!("not done within {} s, killed", self.limit.as_secs())))
            }
            Ok(Err(e)) => Err(Error::host(self.name(), e)),
            Ok(Ok(output)) => {
                Ok(Ended { status: output.status, stdout: output.stdout, stderr: output.stderr })
            }
        }
    }

    /// The same as a command of tokio, for what must be watched while it runs.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.envs.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn name(&self) -> String {
        let verb = self.args.iter().filter_map(|a| a.to_str()).find(|a| !a.starts_with('-'));
        let program = self.program.to_string_lossy();
        verb.map_or_else(|| program.to_string(), |verb| format!("{program} {verb}"))
    }
}

/// The end of a text, at most [`COMPLAINT_BYTES`] long.
pub fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(COMPLAINT_BYTES);
    String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
}
