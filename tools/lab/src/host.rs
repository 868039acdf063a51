//! A namespace host seen from outside: plugged in, powered on, cut off, and looked into.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

use crate::config::{self, Agent, Endpoints};
use crate::control::{self, HostStatus, Request, Response, Verb};
use crate::guest_http::{self, Page};
use crate::host_init::{AGENT, CONTROL_SOCKET, FENCER, InitConfig, LIBVIRTD, PRIVATE_DIRS, QEMU_ACCOUNT};
use crate::layout::Layout;
use crate::leftovers::HOST_PREFIX;
use crate::netns::{NetNs, Switch};
use crate::process::{Account, Stat, all_pids, children_of, output, tail};
use crate::supervisor::write_pid_file;

const POWER_ON_LIMIT: Duration = Duration::from_secs(30);
const POWER_CUT_LIMIT: Duration = Duration::from_secs(10);
/// Where the agent keeps its certificate, in its state directory.
const AGENT_IDENTITY_FILE: &str = "identity.json";

/// What makes one host different from another.
#[derive(Clone, Debug)]
pub struct HostOptions {
    pub name: String,
    /// 1 to 253: the last octet of its address.
    pub number: u8,
    /// The program that holds `host-init`.
    pub lab_program: PathBuf,
    /// The agent's program, if the host shall run one.
    pub agent_program: Option<PathBuf>,
    pub agent_env: Vec<(String, String)>,
}

/// One namespace host. Dropping it cuts its power; its disks stay.
pub struct Host {
    options: HostOptions,
    layout: Layout,
    switch: Switch,
    running: Mutex<Option<Running>>,
}

struct Running {
    /// `unshare`, the parent of the host's first process.
    parent: Child,
    /// The host's first process, as this machine numbers it.
    init_pid: u32,
}

impl Host {
    /// Makes the host's directories and plugs it into the switch; it stays powered off.
    pub fn build(layout: &Layout, switch: &Switch, options: HostOptions) -> Result<Self> {
        switch.ensure_host(options.number)?;
        let host =
            Self { options, layout: layout.clone(), switch: switch.clone(), running: Mutex::new(None) };
        for (dir, _) in PRIVATE_DIRS {
            let path = host.dir().join(dir);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
            // QEMU, as its own account, must pass.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(host)
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// On the management network.
    pub fn address(&self) -> Ipv4Addr {
        Switch::host_address(self.options.number)
    }

    /// On the tunnel network.
    pub fn tunnel_address(&self) -> Ipv4Addr {
        Switch::tunnel_address(self.options.number)
    }

    pub fn netns(&self) -> NetNs {
        self.switch.host_netns(self.options.number)
    }

    /// The host's directory on the machine; see [`PRIVATE_DIRS`] for what lies where.
    pub fn dir(&self) -> PathBuf {
        self.layout.host_dir(&self.options.name)
    }

    /// The host's file at `path`, as the machine sees it; `None` if it is not one of the host's own.
    pub fn outside_path(&self, path: &Path) -> Option<PathBuf> {
        let found =
            PRIVATE_DIRS.iter().find_map(|(dir, mounted)| Some((dir, path.strip_prefix(mounted).ok()?)));
        found.map(|(dir, rest)| self.dir().join(dir).join(rest))
    }

    /// Writes the files that the agent of this host reads. Without a token an enrolled agent goes on by itself.
    pub fn configure_agent(
        &self,
        endpoints: &Endpoints,
        ca_pem: &str,
        join_token: Option<&str>,
    ) -> Result<()> {
        let etc = self.dir().join("etc-basalt");
        config::write_toml(
            &etc.join("agent.toml"),
            &Agent::new(endpoints, self.name(), self.address(), self.tunnel_address()),
        )?;
        fs::write(etc.join("ca.pem"), ca_pem)?;
        if let Some(token) = join_token {
            let file = etc.join("join-token");
            fs::write(&file, token)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }

    /// Whether the agent holds an identity, and so needs no join token.
    pub fn is_enrolled(&self) -> bool {
        let identity = self.dir().join("lib-basalt").join(AGENT_IDENTITY_FILE);
        fs::read_to_string(identity).is_ok_and(|text| text.contains("BEGIN CERTIFICATE"))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_powered(&self) -> bool {
        self.lock().as_mut().is_some_and(|r| matches!(r.parent.try_wait(), Ok(None)))
    }

    /// Boots the host and waits until its switch and libvirt answer. `/run` begins empty; nothing else is mended.
    pub fn power_on(&self) -> Result<()> {
        let mut running = self.lock();
        if running.as_mut().is_some_and(|r| matches!(r.parent.try_wait(), Ok(None))) {
            return Ok(());
        }
        // Bridges of a former life keep the namespace's devices; a power cut takes the cards' state with it.
        self.switch.ensure_host(self.options.number)?;
        self.prepare_boot()?;
        let console = self.layout.log_file(&format!("{}-console", self.name()));
        let mut parent = self.spawn_init(&console)?;
        match self.wait_for_boot(&mut parent, &console) {
            Ok(init_pid) => {
                *running = Some(Running { parent, init_pid });
                Ok(())
            }
            Err(error) => {
                parent.kill()?;
                parent.wait()?;
                Err(error)
            }
        }
    }

    fn prepare_boot(&self) -> Result<()> {
        let dir = self.dir();
        let run = dir.join("run");
        fs::remove_dir_all(&run).context("emptying the host's /run")?;
        for sub in ["libvirt", "openvswitch", "lock"] {
            fs::create_dir_all(run.join(sub))?;
        }
        let uuid = host_uuid(&dir)?;
        fs::write(dir.join("hosts"), config::hosts_file([(self.name(), self.address())]))?;
        fs::create_dir_all(dir.join("log-libvirt/qemu"))?;
        let libvirt = dir.join("etc-libvirt");
        fs::write(libvirt.join("libvirtd.conf"), config::libvirtd_conf(uuid))?;
        fs::write(libvirt.join("qemu.conf"), config::qemu_conf(&Account::named(QEMU_ACCOUNT)?))?;
        fs::create_dir_all(dir.join("lib-basalt/pools/default"))?;
        let init = InitConfig {
            name: self.name().to_owned(),
            address: self.address(),
            tunnel_address: self.tunnel_address(),
            uuid,
            host_dir: dir.clone(),
            agent: self.options.agent_program.clone(),
            agent_env: self.options.agent_env.clone(),
        };
        fs::write(dir.join("init.json"), serde_json::to_vec_pretty(&init)?).context("host configuration")
    }

    fn spawn_init(&self, console: &Path) -> Result<Child> {
        let log = fs::File::create(console)?;
        let mut net = std::ffi::OsString::from("--net=");
        net.push(self.netns().path());
        let mut command = Command::new("nsenter");
        command.arg(net).args(["--", "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child=KILL"]);
        command.args(["--mount-proc", "--"]).arg(&self.options.lab_program).args(["host-init", "--config"]);
        command.arg(self.dir().join("init.json"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().context("cannot start nsenter")
    }

    fn wait_for_boot(&self, parent: &mut Child, console: &Path) -> Result<u32> {
        let end = Instant::now() + POWER_ON_LIMIT;
        let mut init: Option<u32> = None;
        loop {
            if let Some(status) = parent.try_wait()? {
                bail!("{} did not boot ({status}):\n{}", self.name(), tail(console, 15));
            }
            if init.is_none() {
                // unshare has exactly one child; before nsenter became unshare there is none.
                init = children_of(parent.id()).first().copied();
                if let Some(pid) = init {
                    write_pid_file(&self.layout.pid_file(&format!("{HOST_PREFIX}{}", self.name())), pid)?;
                }
            }
            if let Some(pid) = init.filter(|pid| boot_is_complete(*pid)) {
                return Ok(pid);
            }
            if Instant::now() > end {
                let libvirt = tail(&self.dir().join("log-basalt/libvirtd.log"), 10);
                bail!(
                    "{} is not up after {POWER_ON_LIMIT:?}:\n{}\n{libvirt}",
                    self.name(),
                    tail(console, 15)
                );
            }
            std::thread::sleep(Duration::from_millis(40));
        }
    }

    /// Kills the host's first process, and with it, by the kernel, every other process of the host at once.
    /// Returns when all of them are gone.
    pub fn power_cut(&self) -> Result<()> {
        let Some(mut running) = self.lock().take() else {
            return Ok(());
        };
        if let Some(pid) = i32::try_from(running.init_pid).ok().and_then(Pid::from_raw) {
            // The parent is still there, so the number cannot have been given away.
            if running.parent.try_wait()?.is_none() {
                kill_process(pid, Signal::KILL).context("power cut")?;
            }
        }
        let end = Instant::now() + POWER_CUT_LIMIT;
        while running.parent.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("{} is still dying after {POWER_CUT_LIMIT:?}", self.name());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid_file = self.layout.pid_file(&format!("{HOST_PREFIX}{}", self.name()));
        if pid_file.exists() {
            fs::remove_file(pid_file)?;
        }
        Ok(())
    }

    /// Ends the agent and the guests politely, so that disks are flushed, then cuts the power.
    pub fn power_off(&self) -> Result<()> {
        if self.is_powered() {
            for service in [AGENT, FENCER, LIBVIRTD] {
                // A host without an agent has none to stop.
                let _ = self.service(service, Verb::Stop);
            }
            self.end_guests();
        }
        self.power_cut()
    }

    fn end_guests(&self) {
        let guests = self.pids_of("qemu-system-x86");
        for pid in &guests {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                // It may be ending already.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end
            && guests.iter().any(|pid| Stat::read(*pid).is_some_and(|s| s.state != 'Z'))
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The host's first process as the machine numbers it.
    pub fn init_pid(&self) -> Result<u32> {
        let running = self.lock();
        running.as_ref().map(|r| r.init_pid).with_context(|| format!("{} is powered off", self.name()))
    }

    /// All processes of the host, as the machine numbers them.
    pub fn pids(&self) -> Vec<u32> {
        let Ok(init) = self.init_pid() else {
            return Vec::new();
        };
        let Ok(mine) = fs::read_link(format!("/proc/{init}/ns/pid")) else {
            return Vec::new();
        };
        let here = |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == mine);
        all_pids().into_iter().filter(here).collect()
    }

    /// The host's processes of one program, by the first 15 bytes of its name.
    pub fn pids_of(&self, command: &str) -> Vec<u32> {
        let named = |pid: &u32| Stat::read(*pid).is_some_and(|s| s.command == command);
        self.pids().into_iter().filter(named).collect()
    }

    /// A command to run inside the host, to which arguments may be added.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init_pid()?.to_string(), "-m", "-n", "-u", "-p", "--", program]);
        Ok(command)
    }

    /// Runs a program inside the host to its end, whatever its exit status.
    pub fn exec(&self, argv: &[&str]) -> Result<Output> {
        let Some((program, args)) = argv.split_first() else { bail!("nothing to run") };
        output(self.command(program)?.args(args))
    }

    /// Runs a program inside the host and returns what it printed; a failure is an error.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let Some((program, args)) = argv.split_first() else { bail!("nothing to run") };
        crate::process::run_command(self.command(program)?.args(args))
    }

    fn control_socket(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{CONTROL_SOCKET}", self.init_pid()?)))
    }

    /// Starts, stops, restarts or kills one of the host's services.
    pub fn service(&self, name: &str, verb: Verb) -> Result<()> {
        let request = Request::Service { verb, service: name.to_owned(), host: None };
        control::ask(&self.control_socket()?, &request).map(drop)
    }

    /// `kill -9`; the host's first process starts it again.
    pub fn kill_service(&self, name: &str) -> Result<()> {
        self.service(name, Verb::Kill)
    }

    pub fn status(&self) -> HostStatus {
        let services = self.control_socket().and_then(|socket| control::ask(&socket, &Request::Status)).map(
            |response| match response {
                Response::Services { services } => services,
                _ => Vec::new(),
            },
        );
        HostStatus {
            name: self.name().to_owned(),
            address: self.address(),
            tunnel_address: self.tunnel_address(),
            powered: self.is_powered(),
            enrolled: self.is_enrolled(),
            services: services.unwrap_or_default(),
        }
    }

    /// A page of a guest, fetched from the namespace of the first of this host's networks that has its address.
    pub fn http_get(&self, address: Ipv4Addr, path: &str) -> Result<Page> {
        guest_http::get_on_host(self.init_pid()?, address, path, Duration::from_secs(5))
    }

    /// A page of a guest, fetched from a network namespace that somebody (the agent) made inside this host.
    pub fn http_get_in(&self, netns: &str, address: Ipv4Addr, path: &str) -> Result<Page> {
        let file = PathBuf::from(format!("/proc/{}/root/run/netns/{netns}", self.init_pid()?));
        guest_http::get(&file, address, path, Duration::from_secs(5))
    }

    /// Pulls the host's network cables, or plugs them in again; the host itself goes on.
    pub fn set_links(&self, up: bool) -> Result<()> {
        self.switch.set_host_links(self.options.number, up)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.power_cut() {
            eprintln!("{}: {error:#}", self.name());
        }
    }
}

/// Whether the first process answers and all that a guest needs is ready.
fn boot_is_complete(init_pid: u32) -> bool {
    let socket = PathBuf::from(format!("/proc/{init_pid}/root{CONTROL_SOCKET}"));
    // Until its mounts are made, the path names the machine's own /run, where there is no such socket.
    match control::ask(&socket, &Request::Status) {
        Ok(Response::Services { services }) => {
            services.iter().filter(|s| ![AGENT, FENCER].contains(&s.name.as_str())).all(|s| s.ready)
        }
        _ => false,
    }
}

/// A host keeps the identity it was given at its first boot.
fn host_uuid(dir: &Path) -> Result<Uuid> {
    let file = dir.join("uuid");
    if let Ok(text) = fs::read_to_string(&file) {
        return text.trim().parse().with_context(|| format!("{} holds no UUID", file.display()));
    }
    let uuid = Uuid::new_v4();
    fs::write(&file, uuid.to_string())?;
    Ok(uuid)
}
