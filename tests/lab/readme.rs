//! The lines that the README tells a newcomer to type, typed: only paths and addresses are those of the test's cluster.

use crate::cluster::{Cluster, bin_dir};
use basalt_lab::up::first_boot_token;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

const README: &str = include_str!("../../README.md");
/// How long one line may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A shell in which the README's paths mean the cluster's.
struct Shell {
    data_dir: PathBuf,
    url: String,
    /// The line that the block begins with; it stands before each of the others.
    export: String,
}

impl Shell {
    fn script(&self, line: &str) -> String {
        let basalt = bin_dir().join("basalt").display().to_string();
        let data_dir = self.data_dir.display().to_string();
        format!("{}\n{line}", self.export)
            .replace("target/debug/basalt", &basalt)
            .replace("$PWD/.basalt/", &format!("{data_dir}/"))
            .replace(" .basalt/", &format!(" {data_dir}/"))
            .replace("https://127.0.0.1:9443", &self.url)
    }

    fn spawn(&self, line: &str) -> Child {
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.script(line)).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.kill_on_drop(true).spawn().unwrap()
    }

    /// Runs a line to its end; gives what it printed.
    async fn run(&self, line: &str, input: &str) -> String {
        let mut child = self.spawn(line);
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output =
            timeout(LIMIT, child.wait_with_output()).await.unwrap_or_else(|_| panic!("{line}: no end"));
        let output = output.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{line}: {}\n{text}", output.status);
        text
    }

    /// Types into a line that would not end by itself, reads until it says something, and leaves.
    async fn until(&self, line: &str, typed: &str, says: &str) {
        let mut child = self.spawn(line);
        let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        keys.write_all(typed.as_bytes()).await.unwrap();
        let mut seen = String::new();
        let reading = async {
            let mut buffer = [0; 4096];
            while !seen.contains(says) {
                let length = screen.read(&mut buffer).await.unwrap();
                assert!(length > 0, "{line}: it ended: {seen}");
                seen += &String::from_utf8_lossy(&buffer[..length]);
            }
        };
        let read = timeout(LIMIT, reading).await;
        assert!(read.is_ok(), "{line}: {says:?} never came: {seen}");
        drop((keys, screen));
        let ended = timeout(Duration::from_secs(5), child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{line}: goes on without a reader")).unwrap();
        assert!(ended.success(), "{line}: {ended}");
    }
}

/// The lines of the code block that begins with `export BASALT_CONFIG=`.
fn block() -> Vec<&'static str> {
    let begins = README.find("```\nexport BASALT_CONFIG=").expect("the block of lines to try");
    README[begins..].lines().skip(1).take_while(|line| *line != "```").collect()
}

/// The command in the text that begins with `basalt login`.
fn login_line() -> String {
    let begins = README.find("`basalt login --url").expect("how to log in");
    let text = README[begins + 1..].split('`').next().unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What follows the program's name, without the comment.
fn command(line: &str) -> &str {
    line.split('#').next().unwrap().trim().trim_start_matches("target/debug/basalt ")
}

/// Types one line of the block, and checks what a reader would look for.
async fn try_line(shell: &Shell, line: &str) {
    let expected: &[&str] = match command(line) {
        "get vms" => &["NAME", "web-1", "running", "10.10.0."],
        "describe vm web-1" => &["name: web-1", "conditions:", "Tasks:", "vm_create"],
        "explain web-1" => &["h1: fits, score"],
        "explain port 10.10.0.2 --remote 10.10.0.254 --protocol tcp --port 80" => {
            &["is admitted by rule 0 of security group web"]
        }
        "create network blue --cidr 10.20.0.0/24 --security-group web" => &["network/blue created"],
        "create vm db-1 --image tiny --network blue --memory 256MiB" => &["vm/db-1 created"],
        "console web-1" => {
            shell.until(line, "", "GUEST-READY web-1").await;
            // Two halves, so that the echo of what is typed is not taken for the answer.
            shell.until(line, "\necho says-$(hostname)\n", "says-web-1").await;
            let log = shell.run(&format!("target/debug/basalt {} --log", command(line)), "").await;
            assert!(log.contains("GUEST-READY web-1"), "{log}");
            return;
        }
        "watch" => return shell.until(line, "", "vm/web-1 running\n").await,
        "stop db-1 && target/debug/basalt delete vm db-1" => {
            // A guest that is still booting hears nothing of being asked to stop, and is asked again much later.
            shell.until("target/debug/basalt console db-1", "", "GUEST-READY db-1").await;
            &["vm/db-1 stopped", "vm/db-1 deleted"]
        }
        other => panic!("say here what a user expects of `{other}`"),
    };
    let said = shell.run(line, "").await;
    for words in expected {
        assert!(said.contains(words), "{line}: {words:?} is not in\n{said}");
    }
}

/// Types every line that the README shows a newcomer, in order.
pub async fn every_line_works(cluster: &Cluster) {
    let lines = block();
    let shell = Shell {
        data_dir: cluster.lab.layout().data_dir().to_owned(),
        url: format!("https://{}", cluster.lab.endpoints().users),
        export: lines[0].to_owned(),
    };
    for line in &lines[1..] {
        let began = Instant::now();
        try_line(&shell, line).await;
        println!("{:>5.1} s  {line}", began.elapsed().as_secs_f64());
    }
    let token = first_boot_token(&cluster.lab).expect("nobody has an account yet");
    own_account(&shell, &cluster.lab.layout().data_dir().join("own.toml"), &token).await;
}

/// The other way in: an account of one's own, made with the token that `up` prints.
async fn own_account(shell: &Shell, config: &Path, token: &str) {
    let config = format!("export BASALT_CONFIG={}\n", config.display());
    let basalt = |line: &str| format!("{config}target/debug/{line}");
    let line = login_line().replace('…', token);
    assert!(line.contains(token), "{line}");
    let said = shell.run(&basalt(&line), "correct horse battery\n").await;
    assert!(said.starts_with("logged in as admin (user)"), "{said}");
    let said = shell.run(&basalt("basalt get vms --project demo"), "").await;
    assert!(said.contains("web-1"), "{said}");
}
