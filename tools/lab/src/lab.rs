//! The whole lab: builds its parts in order, starts them, answers the control socket, and takes all of it away again.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use crate::config::{Database, Endpoints, Gateway, ImageService, StateDirs, write_toml};
use crate::control::{self, LabStatus, Request, Response};
use crate::guest_image::{self, GuestImage, Step};
use crate::host::{Host, HostOptions};
use crate::layout::Layout;
use crate::leftovers;
use crate::netns::Switch;
use crate::postgres::{Durability, Postgres};
use crate::sockets::NamedSocket;
use crate::supervisor::{Service, ServiceSpec};

pub const GATEWAY: &str = "basalt-gateway";
pub const IMAGE_SERVICE: &str = "basalt-image-service";
pub const AGENT_PROGRAM: &str = "basalt-agent";
/// Names of inherited sockets, as their readers look for them.
pub const USERS_SOCKET: &str = "users";
pub const AGENTS_SOCKET: &str = "agents";
pub const CLIENTS_SOCKET: &str = "clients";

const STANDARD_BASE: u16 = 9443;
const AGENTS_PORT: u16 = 9444;
const IMAGE_AGENTS_PORT: u16 = 9445;

/// Which loopback ports of the machine the lab takes; inside the lab's switch the standard ones always serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Users at this port, the image service two above it.
    Base(u16),
    /// Whatever is free, for tests in parallel.
    Ephemeral,
}

impl Default for Ports {
    fn default() -> Self {
        Self::Base(STANDARD_BASE)
    }
}

impl Ports {
    fn users(self) -> u16 {
        match self {
            Self::Base(base) => base,
            Self::Ephemeral => 0,
        }
    }

    fn image(self) -> u16 {
        match self {
            Self::Base(base) => base.saturating_add(2),
            Self::Ephemeral => 0,
        }
    }
}

/// How a lab shall be.
#[derive(Clone, Debug)]
pub struct Builder {
    data_dir: PathBuf,
    bin_dir: PathBuf,
    lab_program: PathBuf,
    durability: Durability,
    hosts: Vec<String>,
    ports: Ports,
    log_filter: String,
    cache_dir: Option<PathBuf>,
}

impl Builder {
    /// Where packages and built images are kept; by default in the data directory. Labs may share one.
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(dir.into());
        self
    }

    /// Where `basalt-gateway`, `basalt-image-service` and `basalt-agent` lie; those that are missing are left out.
    pub fn bin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.bin_dir = dir.into();
        self
    }

    /// The program that holds `host-init`; by default `basalt-lab` in the directory of programs.
    pub fn lab_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.lab_program = program.into();
        self
    }

    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Names of the hosts; the first has number 1. By default one, `h1`.
    pub fn hosts<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.hosts = names.into_iter().map(Into::into).collect();
        self
    }

    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// `BASALT_LOG` of the parts.
    pub fn log_filter(mut self, filter: impl Into<String>) -> Self {
        self.log_filter = filter.into();
        self
    }

    /// Makes everything that does not run: directories, namespaces, listening sockets, the database cluster.
    /// Processes and namespaces that a killed supervisor left behind are ended first.
    pub fn build(self) -> Result<Lab> {
        let layout = Layout::create(&self.data_dir)?;
        layout.check_reachable_by_others()?;
        let lock = lock(&layout)?;
        for name in leftovers::end_all(&layout)? {
            eprintln!("ended {name}, left running by an earlier supervisor");
        }
        let switch = Switch::of(&layout);
        switch.remove_all()?;
        switch.ensure()?;
        let doors = Doors::open(&switch, self.ports)?;
        let postgres = Postgres::prepare(&layout, self.durability)?;
        let mut lab = Lab {
            gateway: None,
            image_service: None,
            hosts: Vec::new(),
            endpoints: doors.endpoints(),
            postgres,
            switch,
            state: StateDirs::of(&layout),
            cache_dir: self.cache_dir.clone().unwrap_or_else(|| layout.cache_dir()),
            layout,
            _lock: lock,
        };
        lab.state.ensure_token_key()?;
        lab.gateway = self.gateway(&lab, &doors)?;
        lab.image_service = self.image_service(&lab, &doors)?;
        for (index, name) in self.hosts.iter().enumerate() {
            let number = u8::try_from(index + 1).context("too many hosts")?;
            lab.hosts.push(Host::build(&lab.layout, &lab.switch, self.host_options(name, number))?);
        }
        Ok(lab)
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let program = self.bin_dir.join(name);
        program.exists().then_some(program)
    }

    fn gateway(&self, lab: &Lab, doors: &Doors) -> Result<Option<Service>> {
        let Some(program) = self.program(GATEWAY) else {
            return Ok(None);
        };
        let file = lab.layout.config_dir().join("gateway.toml");
        let database = Database { url: lab.postgres.gateway_url(), owner_url: lab.postgres.superuser_url() };
        write_toml(&file, &Gateway::new(&lab.endpoints, database, &lab.state))?;
        let spec = self
            .part(lab, GATEWAY, program, &["serve"], &file)
            .sockets(vec![doors.users.clone(), doors.agents.clone()]);
        Service::supervise(spec).map(Some)
    }

    fn image_service(&self, lab: &Lab, doors: &Doors) -> Result<Option<Service>> {
        let Some(program) = self.program(IMAGE_SERVICE) else {
            return Ok(None);
        };
        let file = lab.layout.config_dir().join("image-service.toml");
        write_toml(&file, &ImageService::new(&lab.endpoints, &lab.state))?;
        // It runs where the gateway's agents' door is; its own doors it inherits from both sides.
        let spec = self
            .part(lab, IMAGE_SERVICE, program, &[], &file)
            .sockets(vec![doors.image_users.clone(), doors.image_agents.clone()])
            .netns(lab.switch.netns().path());
        Service::supervise(spec).map(Some)
    }

    fn part(&self, lab: &Lab, name: &str, program: PathBuf, verb: &[&str], config: &Path) -> ServiceSpec {
        ServiceSpec::new(name, program, lab.layout.log_file(name))
            .args(verb)
            .args(["--config".as_ref(), config.as_os_str()])
            .env("BASALT_LOG", &self.log_filter)
            .pid_file(lab.layout.pid_file(name))
            .stop_with(Signal::TERM, Duration::from_secs(10))
    }

    fn host_options(&self, name: &str, number: u8) -> HostOptions {
        HostOptions {
            name: name.to_owned(),
            number,
            lab_program: self.lab_program.clone(),
            agent_program: self.program(AGENT_PROGRAM),
            agent_env: vec![("BASALT_LOG".to_owned(), self.log_filter.clone())],
        }
    }
}

/// The listening sockets, held here as long as the lab lives.
struct Doors {
    users: NamedSocket,
    agents: NamedSocket,
    image_users: NamedSocket,
    image_agents: NamedSocket,
}

impl Doors {
    fn open(switch: &Switch, ports: Ports) -> Result<Self> {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let inside = |name, port| NamedSocket::listen_in(switch.netns(), name, Switch::address(port));
        Ok(Self {
            users: NamedSocket::listen(USERS_SOCKET, loopback(ports.users()))?,
            agents: inside(AGENTS_SOCKET, AGENTS_PORT)?,
            image_users: NamedSocket::listen(CLIENTS_SOCKET, loopback(ports.image()))?,
            image_agents: inside(CLIENTS_SOCKET, IMAGE_AGENTS_PORT)?,
        })
    }

    fn endpoints(&self) -> Endpoints {
        Endpoints {
            users: self.users.address(),
            agents: self.agents.address(),
            image_users: self.image_users.address(),
            image_agents: self.image_agents.address(),
        }
    }
}

/// One machine as a whole cluster. Dropping it ends everything; what was stored stays.
pub struct Lab {
    // In the order in which they must end.
    hosts: Vec<Host>,
    image_service: Option<Service>,
    gateway: Option<Service>,
    postgres: Postgres,
    endpoints: Endpoints,
    switch: Switch,
    state: StateDirs,
    cache_dir: PathBuf,
    layout: Layout,
    _lock: File,
}

impl Lab {
    pub fn builder(data_dir: impl Into<PathBuf>) -> Builder {
        let beside =
            std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())).unwrap_or_default();
        Builder {
            data_dir: data_dir.into(),
            lab_program: beside.join("basalt-lab"),
            bin_dir: beside,
            durability: Durability::Full,
            hosts: vec!["h1".to_owned()],
            ports: Ports::default(),
            log_filter: "info".to_owned(),
            cache_dir: None,
        }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The small guest image, made now if there is none. Takes seconds the first time.
    pub fn guest_image(&self, progress: &mut dyn FnMut(Step)) -> Result<GuestImage> {
        guest_image::ensure(&self.cache_dir, progress)
    }

    pub fn state_dirs(&self) -> &StateDirs {
        &self.state
    }

    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The gateway, if its program was found.
    pub fn gateway(&self) -> Option<&Service> {
        self.gateway.as_ref()
    }

    /// The image service, if its program was found.
    pub fn image_service(&self) -> Option<&Service> {
        self.image_service.as_ref()
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|h| h.name() == name)
            .with_context(|| format!("there is no host `{name}` in this lab"))
    }

    /// Starts the database and those services whose programs were found. Whether the gateway answers, its own
    /// `/readyz` says.
    pub fn start_services(&self) -> Result<()> {
        self.postgres.start()?;
        for service in [&self.gateway, &self.image_service].into_iter().flatten() {
            service.start();
        }
        Ok(())
    }

    /// Powers on every host, all at once.
    pub fn power_on_hosts(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let booting: Vec<_> = self.hosts.iter().map(|host| scope.spawn(|| host.power_on())).collect();
            booting.into_iter().try_for_each(|boot| match boot.join() {
                Ok(result) => result,
                Err(_) => bail!("powering on a host panicked"),
            })
        })
    }

    /// Starts everything.
    pub fn start(&self) -> Result<()> {
        self.start_services()?;
        self.power_on_hosts()
    }

    /// Ends everything in order: hosts, then services, then the database, then the namespaces.
    pub fn stop(&self) -> Result<()> {
        std::thread::scope(|scope| {
            for host in &self.hosts {
                scope.spawn(|| {
                    host.power_off().unwrap_or_else(|error| eprintln!("{}: {error:#}", host.name()))
                });
            }
        });
        for service in [&self.image_service, &self.gateway].into_iter().flatten() {
            service.stop();
        }
        self.postgres.stop();
        self.switch.remove_all()
    }

    fn services(&self) -> impl Iterator<Item = &Service> {
        std::iter::once(self.postgres.service())
            .chain(self.gateway.as_ref())
            .chain(self.image_service.as_ref())
    }

    pub fn status(&self) -> LabStatus {
        LabStatus {
            data_dir: self.layout.data_dir().to_owned(),
            users_address: self.endpoints.users,
            image_address: self.endpoints.image_users,
            services: self.services().map(Service::status).collect(),
            hosts: self.hosts.iter().map(Host::status).collect(),
        }
    }

    /// Answers the control socket until the lab is dropped; `down` arrives at the receiver.
    pub fn serve_control(self: &Arc<Self>) -> Result<mpsc::Receiver<()>> {
        let (down, asked_down) = mpsc::channel();
        let lab = Arc::downgrade(self);
        control::serve(&self.layout.control_socket(), move |request| {
            let Some(lab) = lab.upgrade() else {
                return Response::Failed { message: "the lab is going down".to_owned() };
            };
            lab.answer(&request, &down)
                .unwrap_or_else(|error| Response::Failed { message: format!("{error:#}") })
        })?;
        Ok(asked_down)
    }

    fn answer(&self, request: &Request, down: &mpsc::Sender<()>) -> Result<Response> {
        match request {
            Request::Status => {
                return Ok(Response::Lab { status: Box::new(self.status()) });
            }
            Request::Service { verb, service, host: Some(host) } => {
                self.host(host)?.service(service, *verb)?
            }
            Request::Service { verb, service, host: None } => {
                control::apply(self.services(), *verb, service)?
            }
            Request::PowerCut { host } => self.host(host)?.power_cut()?,
            Request::PowerOn { host } => self.host(host)?.power_on()?,
            Request::Down => down.send(()).context("the lab is going down already")?,
        }
        Ok(Response::Done)
    }

    /// Ends what a killed supervisor of this data directory left running, and removes its namespaces.
    /// Fails if a supervisor is alive.
    pub fn clean(data_dir: &Path) -> Result<Vec<String>> {
        let layout = Layout::open(data_dir)?;
        let _lock = lock(&layout)?;
        let ended = leftovers::end_all(&layout)?;
        Switch::of(&layout).remove_all()?;
        Ok(ended)
    }

    /// [`Lab::clean`], then forgets everything but the cache of packages and images.
    pub fn reset(data_dir: &Path) -> Result<()> {
        Self::clean(data_dir)?;
        let layout = Layout::open(data_dir)?;
        let run_dir = layout.run_dir().to_owned();
        let kept = layout.cache_dir();
        for entry in fs::read_dir(layout.data_dir())?.flatten().map(|e| e.path()).filter(|p| *p != kept) {
            if entry.is_symlink() || entry.is_file() {
                fs::remove_file(&entry)?;
            } else {
                fs::remove_dir_all(&entry)?;
            }
        }
        if run_dir.exists() {
            fs::remove_dir_all(&run_dir)?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("taking the lab down: {error:#}");
        }
        if self.layout.run_dir().parent() != Some(self.layout.data_dir()) {
            // A run directory outside the data directory is nobody's concern after the lab.
            let _ = fs::remove_dir_all(self.layout.run_dir());
            let _ = fs::remove_file(self.layout.data_dir().join("run"));
        }
    }
}

/// One supervisor for a data directory.
fn lock(layout: &Layout) -> Result<File> {
    let path = layout.data_dir().join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("a lab is running already under {}", layout.data_dir().display()))?;
    Ok(file)
}

/// A data directory for when none was named: `./.basalt`, or one under `/var/lib` if other accounts cannot
/// reach the current directory.
pub fn default_data_dir() -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    if crate::layout::first_closed_ancestor(&here)?.is_none() {
        return Ok(here.join(".basalt"));
    }
    let id = crate::layout::id_of(&here);
    Ok(PathBuf::from(format!("/var/lib/basalt-lab-{id}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_two_apart_or_free() {
        assert_eq!((Ports::default().users(), Ports::default().image()), (9443, 9445));
        assert_eq!((Ports::Ephemeral.users(), Ports::Ephemeral.image()), (0, 0));
    }

    #[test]
    fn hosts_file_names_every_host() {
        let text =
            crate::config::hosts_file([("h1", Switch::host_address(1)), ("h2", Switch::host_address(2))]);
        assert!(text.contains("10.77.0.2 h2\n"), "{text}");
    }
}
