//! The real `basalt` program, as a person at a shell or a script uses it.

use crate::{House, gateway::program, house::PROJECT};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// How long one command may take, unless it is told to wait less.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program with a configuration of its own.
pub struct Cli {
    program: PathBuf,
    dir: TempDir,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl Cli {
    /// Knows no gateway.
    pub fn fresh() -> Result<Self> {
        Ok(Self { program: program("basalt")?, dir: TempDir::new()? })
    }

    /// Knows a house's gateway, and is its administrator in the project that scenarios work in.
    pub fn of(house: &House) -> Result<Self> {
        let cli = Self::fresh()?;
        cli.know(house, house.api.token())?;
        Ok(cli)
    }

    /// Writes the configuration, as `login` does.
    pub fn know(&self, house: &House, token: &str) -> Result<()> {
        fs::write(self.ca_file(), &house.place.ca_pem)?;
        let ca = self.ca_file();
        let text = format!(
            "url = \"{}\"\ntoken = \"{token}\"\nca_file = \"{}\"\nproject = \"{PROJECT}\"\n",
            house.gateway.users,
            ca.display()
        );
        Ok(fs::write(self.config_file(), text)?)
    }

    /// Where the configuration is.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Where the authority of the gateway is.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Writes a file for a command to read; gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<String> {
        let path = self.dir.path().join(name);
        fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    /// The program, ready to be started, without the environment of who runs the tests.
    pub fn command(&self) -> Command {
        self.surrounded(Command::new(&self.program))
    }

    fn surrounded(&self, mut command: Command) -> Command {
        for name in ["BASALT_URL", "BASALT_TOKEN", "BASALT_CA", "BASALT_PROJECT"] {
            command.env_remove(name);
        }
        command.env("BASALT_CONFIG", self.config_file()).kill_on_drop(true);
        command
    }

    /// Runs a command whose words are parted by spaces.
    pub async fn run(&self, line: &str) -> Result<Said> {
        self.with_input(line, "").await
    }

    /// The same with something to read.
    pub async fn with_input(&self, line: &str, input: &str) -> Result<Said> {
        let mut command = self.command();
        command.args(line.split_whitespace());
        said(command, input).await.with_context(|| format!("basalt {line}"))
    }

    /// Runs a script in a shell; `$basalt` in it is the program.
    pub async fn shell(&self, script: &str) -> Result<Said> {
        let mut command = self.surrounded(Command::new("bash"));
        command.arg("-c").arg(script).env("basalt", &self.program);
        said(command, "").await.with_context(|| script.to_owned())
    }

    /// Runs a command at a terminal and types an answer whenever it has said something; gives all that was seen.
    pub async fn at_terminal(&self, line: &str, dialogue: &[(&str, &str)]) -> Result<Said> {
        let mut command = self.surrounded(Command::new("script"));
        let shell = format!("{} {line}", self.program.display());
        command.args(["--quiet", "--return", "--command", &shell, "/dev/null"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (mut keys, mut screen) =
            (child.stdin.take().context("a pipe")?, child.stdout.take().context("a pipe")?);
        let mut seen = String::new();
        let talking = async {
            let (mut buffer, mut heard) = ([0; 4096], 0);
            for (says, answer) in dialogue {
                while !seen[heard..].contains(says) {
                    let length = screen.read(&mut buffer).await?;
                    ensure!(length > 0, "it ended before it said {says:?}");
                    seen += &String::from_utf8_lossy(&buffer[..length]);
                }
                heard = seen.len();
                keys.write_all(answer.as_bytes()).await?;
            }
            let mut rest = Vec::new();
            screen.read_to_end(&mut rest).await?;
            seen += &String::from_utf8_lossy(&rest);
            Ok(child.wait().await?)
        };
        let ended = tokio::time::timeout(PATIENCE, talking).await;
        let status = ended.context("it does not end").and_then(|ended| ended);
        let status = status.with_context(|| format!("basalt {line} at a terminal: {seen:?}"))?;
        Ok(Said { code: status.code().context("it was killed")?, out: seen, err: String::new() })
    }

    /// Runs a command that must do what it is asked; gives what it printed.
    pub async fn ok(&self, line: &str) -> Result<String> {
        let said = self.run(line).await?;
        ensure!(said.code == 0, "basalt {line}: {said:?}");
        Ok(said.out)
    }

    /// The same, read as JSON.
    pub async fn json(&self, line: &str) -> Result<Value> {
        let out = self.ok(&format!("{line} -o json")).await?;
        serde_json::from_str(&out).with_context(|| format!("basalt {line}: {out}"))
    }

    /// Runs a command that must fail with a code, and with every one of these words on standard error.
    pub async fn fails(&self, line: &str, code: i32, words: &[&str]) -> Result<String> {
        let said = self.run(line).await?;
        said.failed(code, words).with_context(|| format!("basalt {line}"))
    }
}

impl Said {
    /// Checks that it failed with a code, and with every one of these words on standard error; gives that.
    pub fn failed(self, code: i32, words: &[&str]) -> Result<String> {
        ensure!(self.code == code, "exit code {} instead of {code}: {self:?}", self.code);
        for word in words {
            ensure!(self.err.contains(word), "{word:?} is missing: {self:?}");
        }
        Ok(self.err)
    }
}

async fn said(mut command: Command, input: &str) -> Result<Said> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    // A command that reads nothing closes it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let Output { status, stdout, stderr } = ended.context("it does not end")??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let said = Said { code: status.code().context("it was killed")?, out: text(stdout), err: text(stderr) };
    ensure!(!said.err.contains("panicked"), "{said:?}");
    Ok(said)
}
