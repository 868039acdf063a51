//! A private PostgreSQL cluster on a unix socket, run as an account of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::layout::Layout;
use crate::process::{Account, all_pids, run_command};
use crate::supervisor::{Service, ServiceSpec};

const START_LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 5432;
/// Debian's account for PostgreSQL, which refuses to run as root.
const ACCOUNT: &str = "postgres";
pub const SERVICE: &str = "postgresql";
/// The role the gateway logs in as; the migrations make it.
const GATEWAY_LOGIN: &str = "basalt_gateway";
pub const DATABASE: &str = "basalt";

/// Whether a commit must survive a power cut of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Full,
    /// Without fsync: quicker, and enough where the machine itself does not fail.
    Test,
}

/// The cluster of one lab.
pub struct Postgres {
    service: Service,
    account: Account,
    bin_dir: PathBuf,
    socket_dir: PathBuf,
}

impl Postgres {
    /// Makes the cluster if there is none, and takes it under supervision, stopped.
    pub fn prepare(layout: &Layout, durability: Durability) -> Result<Self> {
        layout.check_reachable_by_others()?;
        let account = Account::named(ACCOUNT).context("install the package postgresql")?;
        let bin_dir = find_bin_dir(Path::new("/usr/lib/postgresql"))?;
        let state = layout.state_dir("postgres");
        let socket_dir = layout.run_dir().join("postgres");
        for dir in [&state, &socket_dir] {
            make_private(dir, &account)?;
        }
        let data = state.join("data");
        if !data.join("PG_VERSION").exists() {
            init_cluster(&bin_dir, &data, &account, durability)?;
        }
        let spec = spec(layout, &account, &bin_dir, &data, &socket_dir, durability);
        Ok(Self { service: Service::supervise(spec)?, account, bin_dir, socket_dir })
    }

    /// Starts the server, waits until it answers, and makes the database if there is none.
    pub fn start(&self) -> Result<()> {
        self.service.start_and_wait(START_LIMIT)?;
        let exists =
            self.psql("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"))?;
        if exists.trim().is_empty() {
            self.psql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        }
        Ok(())
    }

    /// Runs one statement as the superuser and returns the rows as text.
    pub fn psql(&self, database: &str, statement: &str) -> Result<String> {
        let mut command = Command::new(self.bin_dir.join("psql"));
        command.arg("-h").arg(&self.socket_dir).args([
            "-p",
            &PORT.to_string(),
            "-U",
            ACCOUNT,
            "-d",
            database,
        ]);
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement]);
        command.uid(self.account.uid).gid(self.account.gid).current_dir("/");
        run_command(&mut command)
    }

    pub fn service(&self) -> &Service {
        &self.service
    }

    pub fn is_ready(&self) -> bool {
        self.service.is_ready()
    }

    /// `kill -9` of the server's main process; supervision starts it again.
    pub fn kill(&self) -> bool {
        self.service.kill()
    }

    pub fn stop(&self) {
        self.service.stop();
    }

    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Connection address of the lab's database as the cluster's superuser.
    pub fn superuser_url(&self) -> String {
        self.url(DATABASE, ACCOUNT)
    }

    /// Connection address of the lab's database as the gateway's login.
    pub fn gateway_url(&self) -> String {
        self.url(DATABASE, GATEWAY_LOGIN)
    }

    /// Connection address of a database as a role, in the form that sqlx and libpq read.
    pub fn url(&self, database: &str, role: &str) -> String {
        format!("postgres:///{database}?host={}&port={PORT}&user={role}", self.socket_dir.display())
    }
}

/// Only root and PostgreSQL may pass: whoever reaches the socket is trusted to be whom he says.
fn make_private(dir: &Path, account: &Account) -> Result<()> {
    fs::create_dir_all(dir)?;
    chown(dir, Some(account.uid), Some(account.gid))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// The programs of the newest installed version from 15 on.
fn find_bin_dir(root: &Path) -> Result<PathBuf> {
    let versions = fs::read_dir(root).into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| *version >= 15 && root.join(version.to_string()).join("bin/postgres").exists())
        .max();
    match newest {
        Some(version) => Ok(root.join(version.to_string()).join("bin")),
        None => bail!("no PostgreSQL 15 or newer under {}: install the package postgresql", root.display()),
    }
}

fn init_cluster(bin_dir: &Path, data: &Path, account: &Account, durability: Durability) -> Result<()> {
    // An initdb that was cut off leaves a directory without its version file.
    if data.exists() {
        fs::remove_dir_all(data)?;
    }
    let mut command = Command::new(bin_dir.join("initdb"));
    command.arg("--pgdata").arg(data).args([
        "--username",
        ACCOUNT,
        "--auth-local=trust",
        "--auth-host=reject",
    ]);
    command.args(["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]);
    if durability == Durability::Test {
        command.arg("--no-sync");
    }
    command.uid(account.uid).gid(account.gid).current_dir("/");
    run_command(&mut command).map(drop).context("making the PostgreSQL cluster")
}

fn spec(
    layout: &Layout,
    account: &Account,
    bin_dir: &Path,
    data: &Path,
    socket_dir: &Path,
    durability: Durability,
) -> ServiceSpec {
    let settings = settings(socket_dir, durability);
    let args = settings.iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]);
    let is_ready = bin_dir.join("pg_isready");
    let (socket, probed, prepared) = (socket_dir.to_owned(), socket_dir.to_owned(), data.to_owned());
    let owner = account.clone();
    ServiceSpec::new(SERVICE, bin_dir.join("postgres"), layout.log_file(SERVICE))
        .args(["-D".into(), data.as_os_str().to_owned()])
        .args(args)
        .account(account.clone())
        .pid_file(layout.pid_file(SERVICE))
        // Fast shutdown: roll back what is open, do not wait for clients.
        .stop_with(Signal::INT, Duration::from_secs(20))
        .prepare(move || {
            // A machine's reboot takes the short run directory away.
            make_private(&socket, &owner)?;
            remove_stale_pid_file(&prepared)
        })
        .ready(move || ready(&is_ready, &probed))
}

fn settings(socket_dir: &Path, durability: Durability) -> Vec<(&'static str, String)> {
    let mut settings: Vec<(&'static str, String)> = [
        ("listen_addresses", ""),
        ("max_connections", "200"),
        ("shared_buffers", "256MB"),
        ("max_wal_size", "2GB"),
        ("idle_in_transaction_session_timeout", "60s"),
        ("log_line_prefix", "%m [%p] "),
        ("log_min_duration_statement", "1s"),
        ("timezone", "UTC"),
    ]
    .into_iter()
    .map(|(name, value)| (name, value.to_owned()))
    .collect();
    settings.push(("port", PORT.to_string()));
    settings.push(("unix_socket_directories", socket_dir.display().to_string()));
    if durability == Durability::Test {
        // Commits still reach the kernel, so that a killed server (not machine) loses none.
        for name in ["fsync", "full_page_writes"] {
            settings.push((name, "off".to_owned()));
        }
    }
    settings
}

fn ready(program: &Path, socket_dir: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("-q").arg("-h").arg(socket_dir).args([
        "-p",
        &PORT.to_string(),
        "-U",
        ACCOUNT,
        "-d",
        "postgres",
    ]);
    run_command(&mut command).is_ok()
}

/// A killed server leaves its pid file, and the number in it may by now be any process's: PostgreSQL would then
/// refuse to start. The file is also PostgreSQL's own guard against a second server beside a backend that
/// outlived its parent, so it goes only when no process of this cluster is left.
fn remove_stale_pid_file(data: &Path) -> Result<()> {
    let file = data.join("postmaster.pid");
    if !file.exists() {
        return Ok(());
    }
    let works_here = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data);
    if let Some(pid) = all_pids().into_iter().find(works_here) {
        bail!("process {pid} of the former PostgreSQL server is still running");
    }
    fs::remove_file(&file).context("stale postmaster.pid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_taken_and_an_old_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["9", "13"] {
            fs::create_dir_all(dir.path().join(version).join("bin")).unwrap();
            fs::write(dir.path().join(version).join("bin/postgres"), "").unwrap();
        }
        assert!(find_bin_dir(dir.path()).is_err());
        for version in ["15", "17"] {
            fs::create_dir_all(dir.path().join(version).join("bin")).unwrap();
            fs::write(dir.path().join(version).join("bin/postgres"), "").unwrap();
        }
        assert_eq!(find_bin_dir(dir.path()).unwrap(), dir.path().join("17/bin"));
    }

    #[test]
    fn a_pid_file_is_removed_only_when_no_process_of_the_cluster_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let data = fs::canonicalize(dir.path()).unwrap();
        let file = data.join("postmaster.pid");
        fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        let mut backend = Command::new("/bin/sleep").arg("600").current_dir(&data).spawn().unwrap();
        assert!(remove_stale_pid_file(&data).is_err());
        backend.kill().unwrap();
        backend.wait().unwrap();
        remove_stale_pid_file(&data).unwrap();
        assert!(!file.exists());
    }
}
