//! Running other programs with argument arrays, looking up accounts, and knowing a process again by its start time.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// Runs a program to its end and returns what it printed. A failure carries the program's own words.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    run_command(&mut command)
}

/// Like [`run`], for a command that needs a working directory, an account or an environment.
pub fn run_command(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}{}",
            describe(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim(),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever its exit status; only a program that cannot start is an error.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", describe(command)))
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// A local account a service runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Name of the primary group.
    pub group: String,
}

impl Account {
    /// Finds an account by name. The error names the account, because the remedy is to install its package.
    pub fn named(name: &str) -> Result<Self> {
        let entry = run("getent", &["passwd", name])
            .with_context(|| format!("the account `{name}` does not exist on this machine"))?;
        let fields: Vec<&str> = entry.trim().split(':').collect();
        let [_, _, uid, gid, ..] = fields.as_slice() else {
            bail!("unreadable passwd entry for `{name}`: {entry:?}");
        };
        let group = run("getent", &["group", gid])?;
        Ok(Self {
            name: name.to_owned(),
            uid: uid.parse().context("uid")?,
            gid: gid.parse().context("gid")?,
            group: group.split(':').next().unwrap_or_default().to_owned(),
        })
    }
}

/// A process that can be told apart from a later one that was given the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// Clock ticks after boot at which the process started (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
}

impl Identity {
    /// The identity of a process that runs now; `None` if there is none of that number.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        Some(Self { pid, start_ticks: stat.start_ticks })
    }

    /// Whether this very process still exists and is not a zombie.
    pub fn is_alive(&self) -> bool {
        Stat::read(self.pid).is_some_and(|s| s.start_ticks == self.start_ticks && s.state != 'Z')
    }
}

/// The few fields of `/proc/<pid>/stat` that the lab reads.
#[derive(Clone, Debug)]
pub struct Stat {
    pub command: String,
    pub state: char,
    pub parent: u32,
    pub start_ticks: u64,
}

impl Stat {
    pub fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The command may itself hold spaces and brackets: it ends at the last one.
        let (open, close) = (text.find('(')?, text.rfind(')')?);
        let rest: Vec<&str> = text[close + 1..].split_whitespace().collect();
        Some(Self {
            command: text[open + 1..close].to_owned(),
            state: rest.first()?.chars().next()?,
            parent: rest.get(1)?.parse().ok()?,
            start_ticks: rest.get(19)?.parse().ok()?,
        })
    }
}

/// All process numbers visible here.
pub fn all_pids() -> Vec<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// The children of a process.
pub fn children_of(parent: u32) -> Vec<u32> {
    all_pids().into_iter().filter(|pid| Stat::read(*pid).is_some_and(|s| s.parent == parent)).collect()
}

/// The last lines of a log, for error messages.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_brackets_in_the_command_is_read() {
        let line = "42 (a) b) S 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.command.as_str(), stat.state, stat.parent, stat.start_ticks),
            ("a) b", 'S', 7, 987_654)
        );
    }

    #[test]
    fn an_identity_does_not_match_a_later_process() {
        let me = Identity::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!Identity { start_ticks: me.start_ticks + 1, ..me }.is_alive());
    }
}
