//! Podman with a storage, a run folder, networks and a socket of its own, in one folder that is gone afterwards.
//!
//! A shell stands between the test and the engine. It holds the other end of a pipe, so it notices when the test is
//! over, however it ended, and takes down the engine, its containers, their mounts and the folder.

use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Told in `$1` the folder. Each line of its input starts the engine (again); the end of its input ends it all.
const KEEPER: &str = r#"
dir=$1
engine=
while read -r _; do
	rm -f "$dir/engine.sock"
	podman system service --time 0 "unix://$dir/engine.sock" >>"$dir/engine.log" 2>&1 &
	engine=$!
	echo "$engine"
done
if [ -n "$engine" ]; then
	kill -CONT "$engine" 2>/dev/null
	kill "$engine" 2>/dev/null
	wait "$engine" 2>/dev/null
fi
podman rm --all --force --time 0 >/dev/null 2>&1
podman network prune --force >/dev/null 2>&1
# What a container's end still has to say would make the folder anew.
rounds=0
while [ "$rounds" -lt 200 ]; do
	# Listed before grep is there, which has the folder among its words too.
	set -- /proc/[0-9]*/cmdline
	grep -qsaF "$dir/" "$@" || break
	sleep 0.05
	rounds=$((rounds + 1))
done
grep -o " $dir/[^ ]*" /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
rm -rf "$dir"
"#;

/// How the engine is set up: nothing of the machine's own Podman is read or written. The runtime and the limits are those
/// that go wherever tests run: in a container, without the right to raise limits, with control groups of either version.
const CONF: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
"#;

/// An engine that runs.
#[derive(Debug)]
pub struct Engine {
    dir: PathBuf,
    keeper: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<std::process::ChildStdout>,
    pid: u32,
}

/// What goes into an image made from nothing.
#[derive(Debug, Default)]
pub struct Image<'a> {
    /// Files of this machine and where they stand in the image.
    pub files: Vec<(&'a Path, &'a str)>,
    /// Instructions as in a Containerfile: `ENTRYPOINT ["/program"]`.
    pub changes: Vec<&'a str>,
}

impl Engine {
    /// Starts one; ready when it answers.
    ///
    /// # Errors
    /// When Podman is missing or does not begin to answer; with what it said.
    pub fn start() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short, because the path of a socket has at most 107 characters.
        let dir = base().join(format!("basalt-engine-{}-{number}", std::process::id()));
        for folder in ["root", "run", "tmp", "networks", "home/.config/containers"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let quoted = |folder: &str| format!("{:?}", dir.join(folder).display().to_string());
        fs::write(
            dir.join("containers.conf"),
            format!("{CONF}network_config_dir = {}\n[engine.volume_plugins]\n", quoted("networks"))
                .replace("[engine]\n", &format!("[engine]\ntmp_dir = {}\n", quoted("tmp"))),
        )?;
        // Copies of a few small files cost less than mounts that may be left behind.
        fs::write(
            dir.join("storage.conf"),
            format!(
                "[storage]\ndriver = \"vfs\"\ngraphroot = {}\nrunroot = {}\n",
                quoted("root"),
                quoted("run")
            ),
        )?;
        fs::write(dir.join("registries.conf"), "unqualified-search-registries = []\n")?;
        fs::write(
            dir.join("home/.config/containers/policy.json"),
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )?;
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "engine"]).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A signal for the test's process group is not for the one that cleans up after it.
        let mut keeper = environment(&mut keeper, &dir).process_group(0).spawn().context("starting sh")?;
        let commands = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().context("no pipe")?);
        let mut engine = Self { dir, keeper, commands, answers, pid: 0 };
        engine.start_service()?;
        Ok(engine)
    }

    /// Starts the engine's service anew, after it was killed.
    ///
    /// # Errors
    /// When it does not begin to answer.
    pub fn start_service(&mut self) -> Result<()> {
        self.commands.as_mut().context("it was ended")?.write_all(b"start\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        self.pid = line.trim().parse().context("the engine's keeper said no process id")?;
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if std::os::unix::net::UnixStream::connect(self.socket()).is_ok() {
                return Ok(());
            }
            if Instant::now() > until {
                let log = fs::read_to_string(self.dir.join("engine.log")).unwrap_or_default();
                bail!("podman does not answer (is it installed? `cargo xtask packages`): {log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where it answers.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("engine.sock")
    }

    /// A folder that lasts as long as the engine.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sends the engine's service a signal: `KILL`, `STOP`, `CONT`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid.to_string()]).status()?;
        ensure!(status.success(), "no process {}", self.pid);
        Ok(())
    }

    /// Runs `podman` on the same storage, and gives what it printed.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn podman(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("podman");
        let output = environment(&mut command, &self.dir).args(args).output().context("starting podman")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "podman {}: {said}", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Lets the engine speak plain HTTP to the registry at an address.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn trust(&self, registry: &str) -> Result<()> {
        let text = format!(
            "unqualified-search-registries = []\n[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n"
        );
        Ok(fs::write(self.dir.join("registries.conf"), text)?)
    }

    /// Makes an image from nothing but files.
    ///
    /// # Errors
    /// When a file is missing or Podman refuses it.
    pub fn image(&self, name: &str, image: &Image<'_>) -> Result<()> {
        let root = self.dir.join("image");
        for (from, to) in &image.files {
            let to = root.join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().context("a file stands in a folder")?)?;
            fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
        }
        // Programs look for a place to write to, and mounts need their point.
        fs::create_dir_all(root.join("tmp"))?;
        let tar = self.dir.join("image.tar");
        let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status()?;
        ensure!(packed.success(), "tar failed");
        let mut args = vec!["import", "--quiet"];
        for change in &image.changes {
            args.extend(["--change", change]);
        }
        let tar = tar.display().to_string();
        args.extend([tar.as_str(), name]);
        self.podman(&args)?;
        Ok(fs::remove_dir_all(&root)?)
    }
}

/// In memory where programs may run from there: Podman waits for the disk at each of its steps, and so did the tests.
fn base() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let memory = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|m| m.get(1) == Some(&"/dev/shm"));
    let runs = memory.is_some_and(|m| {
        m[2] == "tmpfs" && !m[3].split(',').any(|option| option == "noexec" || option == "ro")
    });
    if runs { "/dev/shm".into() } else { std::env::temp_dir() }
}

fn environment<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command
        .env("CONTAINERS_CONF", dir.join("containers.conf"))
        .env("CONTAINERS_STORAGE_CONF", dir.join("storage.conf"))
        .env("CONTAINERS_REGISTRIES_CONF", dir.join("registries.conf"))
        .env("HOME", dir.join("home"))
        .env("TMPDIR", dir.join("tmp"))
        .env_remove("CONTAINER_HOST")
        .env_remove("XDG_RUNTIME_DIR")
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.keeper.wait();
    }
}
