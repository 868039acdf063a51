//! Supervised children: started, watched, started again when they end, stopped in order.
//!
//! ```text
//! stopped ──start──▶ starting ──spawned──▶ running ──ended──▶ waiting ──back-off over──▶ starting
//!    ▲                                        │                  │
//!    └───────────────stop─────────────────────┴──────────────────┘
//! ```
//! It behaves like `Restart=always` of an init system: back-off doubles from 100 ms to 5 s and begins anew
//! after ten seconds of health. One thread waits on each child, so a kill is noticed at once.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::process::{Account, Identity, tail};
use crate::sockets::{NamedSocket, inherit};

const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// A log larger than this at a start is set aside as `<name>.log.1`, replacing the one before.
const LARGEST_LOG_BYTES: u64 = 16 * 1024 * 1024;

type Prepare = Box<dyn Fn() -> Result<()> + Send + Sync>;
type Ready = Box<dyn Fn() -> bool + Send + Sync>;

/// What to run and how.
pub struct ServiceSpec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    account: Option<Account>,
    netns: Option<PathBuf>,
    sockets: Vec<NamedSocket>,
    log_file: PathBuf,
    pid_file: Option<PathBuf>,
    stop_signal: Signal,
    stop_grace: Duration,
    prepare: Option<Prepare>,
    ready: Option<Ready>,
}

impl ServiceSpec {
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log_file: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            account: None,
            netns: None,
            sockets: Vec::new(),
            log_file: log_file.into(),
            pid_file: None,
            stop_signal: Signal::TERM,
            stop_grace: Duration::from_secs(5),
            prepare: None,
            ready: None,
        }
    }

    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Runs the child as this account instead of the caller's.
    pub fn account(mut self, account: Account) -> Self {
        self.account = Some(account);
        self
    }

    /// Runs the child inside the network namespace that this file stands for.
    pub fn netns(mut self, path: impl Into<PathBuf>) -> Self {
        self.netns = Some(path.into());
        self
    }

    /// Listening sockets the child inherits (`LISTEN_FDS`, `LISTEN_FDNAMES`). They stay open here, so that
    /// callers wait instead of being refused while the child is started again.
    pub fn sockets(mut self, sockets: Vec<NamedSocket>) -> Self {
        self.sockets = sockets;
        self
    }

    /// Where to leave the child's identity, so that a later process can find a child that outlived its supervisor.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.pid_file = Some(path.into());
        self
    }

    pub fn stop_with(mut self, signal: Signal, grace: Duration) -> Self {
        self.stop_signal = signal;
        self.stop_grace = grace;
        self
    }

    /// Runs before every start; an error counts as a failed start.
    pub fn prepare(mut self, work: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        self.prepare = Some(Box::new(work));
        self
    }

    /// Tells whether the service answers; without it, running is ready.
    pub fn ready(mut self, probe: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.ready = Some(Box::new(probe));
        self
    }

    fn spawn(&self) -> Result<Child> {
        if let Some(prepare) = &self.prepare {
            prepare().with_context(|| format!("preparing {}", self.name))?;
        }
        let mut command = match &self.netns {
            // nsenter replaces itself by the program, so the child's number is the program's own.
            Some(netns) => {
                let mut net = OsString::from("--net=");
                net.push(netns);
                let mut command = Command::new("nsenter");
                command.arg(net).arg("--").arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let log = open_log(&self.log_file)?;
        command.args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Its own process group: Ctrl-C in the terminal reaches only the supervisor, which stops things in order.
        command.process_group(0);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid).env("HOME", "/nonexistent").env("USER", &account.name);
        }
        inherit(&mut command, &self.sockets)?;
        command.spawn().with_context(|| format!("cannot start {}", self.program.display()))
    }
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::metadata(path).is_ok_and(|m| m.len() > LARGEST_LOG_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Where in its life a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Stopped,
    Starting,
    Running,
    Waiting,
}

/// What `status` tells about one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    pub phase: Phase,
    pub ready: bool,
    pub pid: Option<u32>,
    pub restarts: u64,
    pub uptime_seconds: u64,
    pub last_exit: Option<String>,
}

struct State {
    wanted: bool,
    ended: bool,
    phase: Phase,
    child: Option<Running>,
    starts: u64,
    last_exit: Option<String>,
}

struct Running {
    pid: u32,
    handle: OwnedFd,
    since: Instant,
}

struct Shared {
    spec: ServiceSpec,
    state: Mutex<State>,
    changed: Condvar,
}

/// One supervised child. Dropping it stops the child.
pub struct Service {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Service {
    /// Takes a service under supervision; it stays stopped until [`Service::start`].
    pub fn supervise(spec: ServiceSpec) -> Result<Self> {
        let state = State {
            wanted: false,
            ended: false,
            phase: Phase::Stopped,
            child: None,
            starts: 0,
            last_exit: None,
        };
        let shared = Arc::new(Shared { spec, state: Mutex::new(state), changed: Condvar::new() });
        let thread = std::thread::Builder::new().name(format!("svc-{}", shared.spec.name)).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run()
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub fn name(&self) -> &str {
        &self.shared.spec.name
    }

    pub fn start(&self) {
        self.shared.lock().wanted = true;
        self.shared.changed.notify_all();
    }

    /// Starts and waits until the service is ready; the error carries the end of its log.
    pub fn start_and_wait(&self, limit: Duration) -> Result<()> {
        self.start();
        let end = Instant::now() + limit;
        while !self.is_ready() {
            if Instant::now() > end {
                let log = tail(&self.shared.spec.log_file, 15);
                let status = self.status();
                bail!("{} is not ready after {limit:?} ({status:?}); its log ends:\n{log}", self.name());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends the child gracefully, then by force, and keeps it ended.
    pub fn stop(&self) {
        let grace = self.shared.spec.stop_grace;
        let mut state = self.shared.lock();
        state.wanted = false;
        state.signal(self.shared.spec.stop_signal);
        self.shared.changed.notify_all();
        let ended = |s: &mut State| s.child.is_some();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, grace, ended)
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            state.signal(Signal::KILL);
            drop(self.shared.changed.wait_while(state, ended).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Asks the child to end; supervision starts it again.
    pub fn restart(&self) {
        let mut state = self.shared.lock();
        state.wanted = true;
        state.signal(self.shared.spec.stop_signal);
        self.shared.changed.notify_all();
    }

    /// `kill -9`; supervision starts it again. False if it was not running.
    pub fn kill(&self) -> bool {
        self.shared.lock().signal(Signal::KILL)
    }

    pub fn pid(&self) -> Option<u32> {
        self.shared.lock().child.as_ref().map(|c| c.pid)
    }

    pub fn is_ready(&self) -> bool {
        // The probe may be slow, so it runs without the lock.
        self.pid().is_some() && self.shared.spec.ready.as_ref().is_none_or(|probe| probe())
    }

    pub fn status(&self) -> ServiceStatus {
        let ready = self.is_ready();
        let state = self.shared.lock();
        ServiceStatus {
            name: self.name().to_owned(),
            phase: state.phase,
            ready,
            pid: state.child.as_ref().map(|c| c.pid),
            restarts: state.starts.saturating_sub(1),
            uptime_seconds: state.child.as_ref().map_or(0, |c| c.since.elapsed().as_secs()),
            last_exit: state.last_exit.clone(),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panicked supervision thread has nothing left to clean.
            let _ = thread.join();
        }
    }
}

impl State {
    /// Signals through the process handle, which never means a later process of the same number.
    fn signal(&self, signal: Signal) -> bool {
        self.child.as_ref().is_some_and(|c| pidfd_send_signal(&c.handle, signal).is_ok())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut back_off = FIRST_BACK_OFF;
        while self.wait_until_wanted() {
            let started = Instant::now();
            let exit = match self.start_child() {
                Ok(mut child) => describe_exit(child.wait()),
                Err(error) => format!("{error:#}"),
            };
            if started.elapsed() >= HEALTHY_AFTER {
                back_off = FIRST_BACK_OFF;
            }
            self.note_exit(exit);
            self.pause(back_off);
            back_off = (back_off * 2).min(LONGEST_BACK_OFF);
        }
    }

    fn wait_until_wanted(&self) -> bool {
        let idle = |s: &mut State| !s.wanted && !s.ended;
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if !state.ended {
            state.phase = Phase::Starting;
        }
        !state.ended
    }

    fn start_child(&self) -> Result<Child> {
        let mut child = self.spec.spawn()?;
        let pid = child.id();
        let handle = match handle_of(pid) {
            Ok(handle) => handle,
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
        };
        if let Some(path) = &self.spec.pid_file {
            write_pid_file(path, pid)?;
        }
        let mut state = self.lock();
        state.starts += 1;
        state.phase = Phase::Running;
        state.child = Some(Running { pid, handle, since: Instant::now() });
        // A stop that came while the child was being made found nothing to signal.
        if !state.wanted {
            state.signal(Signal::KILL);
        }
        drop(state);
        self.changed.notify_all();
        Ok(child)
    }

    fn note_exit(&self, exit: String) {
        if let Some(path) = &self.spec.pid_file {
            // It may never have been written.
            let _ = fs::remove_file(path);
        }
        let mut state = self.lock();
        state.child = None;
        state.last_exit = Some(exit);
        state.phase = if state.wanted { Phase::Waiting } else { Phase::Stopped };
        drop(state);
        self.changed.notify_all();
    }

    fn pause(&self, time: Duration) {
        let wanted = |s: &mut State| s.wanted && !s.ended;
        let result = self.changed.wait_timeout_while(self.lock(), time, wanted);
        drop(result.unwrap_or_else(PoisonError::into_inner));
    }
}

fn handle_of(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("pid out of range")?;
    pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")
}

fn describe_exit(result: std::io::Result<ExitStatus>) -> String {
    result.map_or_else(|e| format!("lost: {e}"), |status| status.to_string())
}

/// Leaves a process's identity in a file, for [`crate::leftovers`].
pub fn write_pid_file(path: &Path, pid: u32) -> Result<()> {
    let identity = Identity::of(pid).with_context(|| format!("process {pid} is gone already"))?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, serde_json::to_vec(&identity)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn sleeper(dir: &Path) -> Service {
        let spec = ServiceSpec::new("sleeper", "/bin/sleep", dir.join("sleeper.log"))
            .args(["600"])
            .pid_file(dir.join("sleeper.json"));
        Service::supervise(spec).unwrap()
    }

    fn until(what: impl Fn() -> bool) {
        let end = Instant::now() + SOON;
        while !what() {
            assert!(Instant::now() < end, "did not happen within {SOON:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_killed_child_is_started_again_and_a_stopped_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let service = sleeper(dir.path());
        assert_eq!(service.status().phase, Phase::Stopped);
        service.start_and_wait(SOON).unwrap();
        let first = service.pid().unwrap();
        assert!(service.kill());
        until(|| service.pid().is_some_and(|pid| pid != first));
        assert_eq!(service.status().restarts, 1);
        service.stop();
        assert_eq!(service.pid(), None);
        until(|| service.status().phase == Phase::Stopped);
        assert!(!dir.path().join("sleeper.json").exists());
        service.start_and_wait(SOON).unwrap();
    }

    #[test]
    fn a_child_that_ignores_the_polite_signal_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let spec = ServiceSpec::new("deaf", "/bin/sh", dir.path().join("deaf.log"))
            .args(["-c", "trap '' TERM; while :; do sleep 0.05; done"])
            .stop_with(Signal::TERM, Duration::from_millis(200));
        let service = Service::supervise(spec).unwrap();
        service.start_and_wait(SOON).unwrap();
        service.stop();
        assert_eq!(service.pid(), None);
    }

    #[test]
    fn a_program_that_cannot_start_is_tried_again_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let spec = ServiceSpec::new("absent", "/no/such/program", dir.path().join("absent.log"));
        let service = Service::supervise(spec).unwrap();
        let error = service.start_and_wait(Duration::from_millis(150)).unwrap_err().to_string();
        assert!(error.contains("cannot start /no/such/program"), "{error}");
    }

    #[test]
    fn dropping_a_service_ends_its_child() {
        let dir = tempfile::tempdir().unwrap();
        let service = sleeper(dir.path());
        service.start_and_wait(SOON).unwrap();
        let identity = Identity::of(service.pid().unwrap()).unwrap();
        drop(service);
        assert!(!identity.is_alive());
    }
}
