//! One PostgreSQL cluster for a whole test run, shared by all its processes, and gone when the last is.
//!
//! Every process of a run holds a shared lock on one file for as long as it lives, however it ends. A small
//! supervisor, apart from all of them, tries for the exclusive lock: when it gets it and the run's own process
//! is gone (or nobody came for a minute) it stops the server and removes the directory. So nothing is left
//! behind by a test that is killed, and nothing is stopped under a test that still runs.

use crate::{Error, Store};
use sqlx::{Connection, Executor, PgConnection};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::{CommandExt, parent_id},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The migrated database that every test's is a copy of.
pub(super) const TEMPLATE: &str = "basalt_template";

/// Stops the server once nobody needs it. `$1` is the run's directory, `$2` the process whose run it is,
/// `$3` where `pg_ctl` is.
const SUPERVISOR: &str = r#"
idle=0
while :; do
    sleep 0.5
    if flock -xn "$1/lock" true; then
        idle=$((idle + 1))
        kill -0 "$2" 2>/dev/null || idle=1000
    else
        idle=0
    fi
    if [ "$idle" -ge 120 ]; then
        exec 9<"$1/lock" || exit 0
        if flock -xn 9; then
            # Out of the way in one step, so that whoever comes now begins anew.
            gone="$1-gone-$$"
            mv "$1" "$gone" || exit 0
            if [ -f "$gone/data/postmaster.pid" ]; then
                "$3/pg_ctl" -D "$gone/data" -m immediate -w stop
            fi
            rm -rf "$gone"
            exit 0
        fi
        exec 9<&-
        idle=0
    fi
done
"#;

pub(super) struct Cluster {
    dir: PathBuf,
    _lock: File,
}

struct Account {
    /// User and group of PostgreSQL, when we are root; PostgreSQL refuses to run as root.
    ids: Option<(u32, u32)>,
    bin: PathBuf,
}

impl Cluster {
    /// Enters the run's cluster, and starts it if nobody did.
    pub(super) fn enter() -> Self {
        let dir = directory();
        let account = Account::find().expect("PostgreSQL's programs are installed");
        loop {
            match Self::try_enter(&dir, &account) {
                Ok(Some(cluster)) => return cluster,
                // The supervisor removed the directory between two steps.
                Ok(None) => {}
                Err(e) => panic!("the test cluster in {} does not start: {e}", dir.display()),
            }
        }
    }

    fn try_enter(dir: &Path, account: &Account) -> io::Result<Option<Self>> {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        let open = |name: &str| OpenOptions::new().create(true).append(true).open(dir.join(name));
        let lock = match open("lock") {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        lock.lock_shared()?;
        // The lock counts only while the file is still the one in the directory.
        let there = fs::metadata(dir.join("lock")).map(|m| m.ino()).ok();
        if there != Some(lock.metadata()?.ino()) {
            return Ok(None);
        }
        let start = open("start")?;
        start.lock()?;
        if !dir.join("ready").exists() {
            start_cluster(dir, account)?;
            fs::write(dir.join("ready"), "")?;
        }
        Ok(Some(Self { dir: dir.to_path_buf(), _lock: lock }))
    }

    /// Makes the template, once in a run.
    pub(super) async fn prepare(&self) -> Result<(), Error> {
        if self.dir.join("template").exists() {
            return Ok(());
        }
        let dir = self.dir.clone();
        let lock = tokio::task::spawn_blocking(move || {
            let file = OpenOptions::new().create(true).append(true).open(dir.join("start"))?;
            file.lock()?;
            io::Result::Ok(file)
        });
        let _lock = lock.await.map_err(io::Error::other).and_then(|l| l).map_err(sqlx::Error::Io)?;
        if self.dir.join("template").exists() {
            return Ok(());
        }
        let mut admin = PgConnection::connect(&self.url("postgres", "postgres")).await?;
        let drop = format!("DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)");
        admin.execute(sqlx::AssertSqlSafe(drop)).await?;
        admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {TEMPLATE}"))).await?;
        admin.close().await?;
        Store::migrate(&self.url(TEMPLATE, "postgres")).await?;
        fs::write(self.dir.join("template"), "").map_err(sqlx::Error::Io)?;
        Ok(())
    }

    pub(super) fn url(&self, database: &str, role: &str) -> String {
        format!("postgres:///{database}?host={}&user={role}", self.dir.display())
    }
}

/// One directory for each run: nextest names its runs, and otherwise all tests of a run have one parent.
/// Short, because a socket's path may have 107 characters.
fn directory() -> PathBuf {
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| format!("p{}", parent_id()));
    let run: String = run.chars().filter(char::is_ascii_alphanumeric).collect();
    let from = run.len().saturating_sub(12);
    let base = std::env::temp_dir();
    let base = if base.as_os_str().len() > 60 { PathBuf::from("/tmp") } else { base };
    base.join(format!("bpg-{}", &run[from..]))
}

impl Account {
    fn find() -> io::Result<Self> {
        let id = |args: &[&str]| -> io::Result<u32> {
            let out = Command::new("id").args(args).output()?;
            let text = String::from_utf8_lossy(&out.stdout);
            text.trim().parse().map_err(|_| io::Error::other("there is no user postgres"))
        };
        let root = id(&["-u"])? == 0;
        let ids = if root { Some((id(&["-u", "postgres"])?, id(&["-g", "postgres"])?)) } else { None };
        let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")?
            .filter_map(|e| e.ok().map(|e| e.path().join("bin")))
            .filter(|bin| bin.join("initdb").exists())
            .collect();
        versions.sort();
        let bin = versions.pop().ok_or_else(|| io::Error::other("no initdb under /usr/lib/postgresql"))?;
        Ok(Self { ids, bin })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
        command
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))))
}

fn start_cluster(dir: &Path, account: &Account) -> io::Result<()> {
    if let Some((user, group)) = account.ids {
        chown(dir, Some(user), Some(group))?;
    }
    supervise(dir, account)?;
    let data = dir.join("data");
    if data.exists() {
        // Somebody was killed half-way through this.
        let _ = run(account.command("pg_ctl").args(["-m", "immediate", "-w", "stop", "-D"]).arg(&data));
        fs::remove_dir_all(&data)?;
    }
    let mut initdb = account.command("initdb");
    initdb.arg("-D").arg(&data).args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale=C",
    ]);
    run(&mut initdb)?;
    let options = format!(
        "-k {} -c listen_addresses= -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
         -c max_connections=300 -c shared_buffers=64MB -c autovacuum_naptime=5s -c logging_collector=off",
        dir.display()
    );
    // The server's output goes to a file: a pipe would keep the test runner waiting for its end.
    let mut start = account.command("pg_ctl");
    start
        .arg("-D")
        .arg(&data)
        .arg("-l")
        .arg(dir.join("log"))
        .args(["-w", "-t", "60", "-o", &options, "start"]);
    let status = start.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("pg_ctl start: {status}"))) }
}

/// Starts the supervisor in a session of its own, so that what ends the test does not end it.
fn supervise(dir: &Path, account: &Account) -> io::Result<()> {
    let mut command = Command::new("setsid");
    command.args(["-f", "sh", "-c", SUPERVISOR, "basalt-test-cluster"]);
    command.arg(dir).arg(parent_id().to_string()).arg(&account.bin);
    if let Some((user, group)) = account.ids {
        command.uid(user).gid(group);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("setsid does not start the supervisor")) }
}
