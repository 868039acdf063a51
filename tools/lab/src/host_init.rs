//! The first process of a namespace host: its own mounts, name and services, and reaping what is orphaned.
//!
//! It is process 1 of its PID namespace: when it is killed, the kernel kills every process of the host at once,
//! as a power cut does. QEMU processes are orphaned to it by libvirtd, so they outlive a killed libvirtd or agent.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::process::WaitOptions;
use serde::{Deserialize, Serialize};

use crate::control::{self, Request, Response};
use crate::process::{Account, run};
use crate::supervisor::{Service, ServiceSpec};
use crate::underlay::{self, Underlay};

/// The control socket, seen from inside the host.
pub const CONTROL_SOCKET: &str = "/run/host-init.sock";
pub const OVSDB_SERVER: &str = "ovsdb-server";
pub const OVS_VSWITCHD: &str = "ovs-vswitchd";
pub const LIBVIRTD: &str = "libvirtd";
pub const AGENT: &str = "basalt-agent";
/// Beside the agent, and independent of it.
pub const FENCER: &str = "basalt-fencer";

/// Debian's account for QEMU.
pub const QEMU_ACCOUNT: &str = "libvirt-qemu";
const QEMU_DEVICES: [&str; 2] = ["/dev/kvm", "/dev/userfaultfd"];
const START_LIMIT: Duration = Duration::from_secs(20);
const OVS_DATABASE: &str = "/etc/openvswitch/conf.db";
const OVS_SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Directories of a host that lie over the machine's own; `/run` comes last because it hides what lies below.
pub const PRIVATE_DIRS: [(&str, &str); 11] = [
    ("etc-libvirt", "/etc/libvirt"),
    ("lib-libvirt", "/var/lib/libvirt"),
    ("log-libvirt", "/var/log/libvirt"),
    ("cache-libvirt", "/var/cache/libvirt"),
    ("etc-openvswitch", "/etc/openvswitch"),
    ("lib-openvswitch", "/var/lib/openvswitch"),
    ("log-openvswitch", "/var/log/openvswitch"),
    ("etc-basalt", "/etc/basalt"),
    ("lib-basalt", "/var/lib/basalt"),
    ("log-basalt", "/var/log/basalt"),
    ("run", "/run"),
];

/// What a host's first process is told, as a JSON file in the host's directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    pub name: String,
    pub address: Ipv4Addr,
    /// Where tunnels of other hosts end.
    pub tunnel_address: Ipv4Addr,
    pub uuid: uuid::Uuid,
    /// The host's directory on the machine, holding [`PRIVATE_DIRS`] and `hosts`.
    pub host_dir: PathBuf,
    /// The agent's program; without it the host runs without an agent.
    pub agent: Option<PathBuf>,
    /// Extra environment of the agent.
    #[serde(default)]
    pub agent_env: Vec<(String, String)>,
}

/// Becomes the host: process 1, which only collects what is orphaned to it, above a second process that
/// keeps the services. Returns only with an error, or when the second process ended.
pub fn run_host(config_file: &Path) -> Result<()> {
    if std::process::id() != 1 {
        bail!("host-init makes mounts of its own and must be process 1 of new namespaces");
    }
    let config = read(config_file)?;
    enter_private_mounts(&config.host_dir)?;
    rustix::system::sethostname(config.name.as_bytes()).context("sethostname")?;
    let program = std::env::current_exe()?;
    let services = Command::new(program).args(["host-services", "--config"]).arg(config_file).spawn()?;
    reap_until_end_of(services.id())
}

/// Collects every child as soon as it ends. It must be at once: libvirt waits for the QEMU it probes with to
/// vanish, and that QEMU is an orphan.
fn reap_until_end_of(services: u32) -> Result<()> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if u32::try_from(pid.as_raw_pid()) == Ok(services) => {
                bail!("the host's services ended: {status:?}");
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait"),
        }
    }
}

fn read(config_file: &Path) -> Result<InitConfig> {
    let text = fs::read(config_file).with_context(|| format!("cannot read {}", config_file.display()))?;
    serde_json::from_slice(&text).context("unreadable host configuration")
}

/// The second process of a host: keeps its services and answers its control socket. Returns only with an error.
pub fn run_services(config_file: &Path) -> Result<()> {
    let config = read(config_file)?;
    let underlay = Arc::new(Underlay::new(config.tunnel_address));
    let services = Arc::new(Services::supervise(&config, &underlay)?);
    underlay.keep()?;
    control::serve(Path::new(CONTROL_SOCKET), {
        let services = Arc::clone(&services);
        move |request| services.answer(&request)
    })?;
    services.start(&config)?;
    println!("host {} is up", config.name);
    loop {
        std::thread::park();
    }
}

fn enter_private_mounts(host_dir: &Path) -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("private mounts")?;
    bind(&host_dir.join("hosts"), Path::new("/etc/hosts"))?;
    for (source, target) in PRIVATE_DIRS {
        bind(&host_dir.join(source), Path::new(target))?;
    }
    // The old /sys shows the network cards of the machine's own namespace.
    unmount("/sys", UnmountFlags::DETACH).context("old /sys")?;
    mount("sysfs", "/sys", "sysfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .context("new /sys")?;
    own_devices()
}

/// Gives the host devices of its own that QEMU's account may open: `/dev/kvm` as a packaged system has it, and
/// `/dev/userfaultfd` for post-copy, as docs/operating/migration.md says.
///
/// libvirt distrusts its memory of what QEMU can do whenever QEMU's account cannot open the first although
/// root can, and then probes every program anew at every step, for seconds.
fn own_devices() -> Result<()> {
    let devices = Path::new("/run/devices");
    fs::create_dir_all(devices)?;
    // A file system of its own, because the one below may forbid devices.
    mount("tmpfs", devices, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, None)
        .context("device directory")?;
    let group = Account::named(QEMU_ACCOUNT)?.gid;
    for device in QEMU_DEVICES {
        // A kernel without it has none to give.
        let Ok(machine) = fs::metadata(device) else { continue };
        let own = devices.join(Path::new(device).file_name().unwrap_or_default());
        mknodat(CWD, &own, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, machine.rdev())
            .with_context(|| format!("mknod {device}"))?;
        chown(&own, Some(0), Some(group))?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o660))?;
        mount_bind(&own, device).with_context(|| format!("mounting the host's own {device}"))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    if source.is_dir() {
        // An empty directory to mount on is all that a missing one costs the machine.
        fs::create_dir_all(target)?;
    }
    mount_bind(source, target)
        .with_context(|| format!("mounting {} on {}", source.display(), target.display()))
}

/// The services of a host in the order in which they start.
struct Services {
    ovsdb: Service,
    vswitchd: Service,
    libvirtd: Service,
    agent: Option<Service>,
    fencer: Option<Service>,
}

impl Services {
    fn supervise(config: &InitConfig, underlay: &Arc<Underlay>) -> Result<Self> {
        let underlay = Arc::clone(underlay);
        let log = |name: &str| Path::new("/var/log/basalt").join(format!("{name}.log"));
        let ovsdb = ServiceSpec::new(OVSDB_SERVER, "/usr/sbin/ovsdb-server", log(OVSDB_SERVER))
            .args([
                OVS_DATABASE,
                "--remote=punix:/run/openvswitch/db.sock",
                "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
                "--pidfile=/run/openvswitch/ovsdb-server.pid",
                "--log-file=/var/log/openvswitch/ovsdb-server.log",
                "-vconsole:off",
            ])
            .prepare(prepare_ovs_database)
            .ready(|| run("ovs-vsctl", &["--timeout=1", "--no-wait", "show"]).is_ok());
        let vswitchd = ServiceSpec::new(OVS_VSWITCHD, "/usr/sbin/ovs-vswitchd", log(OVS_VSWITCHD))
            .args([
                "unix:/run/openvswitch/db.sock",
                "--pidfile=/run/openvswitch/ovs-vswitchd.pid",
                "--log-file=/var/log/openvswitch/ovs-vswitchd.log",
                "-vconsole:off",
            ])
            .ready(move || underlay.stands() && underlay::switch_answers());
        let libvirtd = ServiceSpec::new(LIBVIRTD, "/usr/sbin/libvirtd", log(LIBVIRTD))
            .args(["--pid-file", "/run/libvirtd.pid"])
            .ready(|| run("virsh", &["-q", "-c", "qemu:///system", "uri"]).is_ok());
        let agent = config.agent.as_ref().map(|program| {
            let spec =
                ServiceSpec::new(AGENT, program, log(AGENT)).args(["--config", "/etc/basalt/agent.toml"]);
            Service::supervise(
                config.agent_env.iter().fold(spec, |spec, (name, value)| spec.env(name, value)),
            )
        });
        let fencer = config.agent.as_ref().map(|program| {
            let args = ["fence", "--config", "/etc/basalt/agent.toml"];
            Service::supervise(ServiceSpec::new(FENCER, program, log(FENCER)).args(args))
        });
        Ok(Self {
            fencer: fencer.transpose()?,
            ovsdb: Service::supervise(ovsdb)?,
            vswitchd: Service::supervise(vswitchd)?,
            libvirtd: Service::supervise(libvirtd)?,
            agent: agent.transpose()?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Service> {
        [&self.ovsdb, &self.vswitchd, &self.libvirtd]
            .into_iter()
            .chain(self.agent.as_ref())
            .chain(self.fencer.as_ref())
    }

    fn start(&self, config: &InitConfig) -> Result<()> {
        // libvirtd needs nothing of the switch until a guest starts.
        self.libvirtd.start();
        self.ovsdb.start_and_wait(START_LIMIT)?;
        let (name, uuid) = (
            format!("external-ids:hostname={}", config.name),
            format!("external-ids:system-id={}", config.uuid),
        );
        run(
            "ovs-vsctl",
            &["--timeout=10", "--no-wait", "init", "--", "set", "Open_vSwitch", ".", &name, &uuid],
        )?;
        self.vswitchd.start_and_wait(START_LIMIT)?;
        self.libvirtd.start_and_wait(START_LIMIT)?;
        if let Some(agent) = &self.agent {
            agent.start();
        }
        if let Some(fencer) = &self.fencer {
            fencer.start();
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> Response {
        match request {
            Request::Status => Response::Services { services: self.all().map(Service::status).collect() },
            Request::Service { verb, service, host: _ } => match control::apply(self.all(), *verb, service) {
                Ok(()) => Response::Done,
                Err(error) => Response::Failed { message: format!("{error:#}") },
            },
            other => Response::Failed { message: format!("a host does not know {other:?}") },
        }
    }
}

fn prepare_ovs_database() -> Result<()> {
    fs::create_dir_all("/run/openvswitch")?;
    if !Path::new(OVS_DATABASE).exists() {
        run("ovsdb-tool", &["create", OVS_DATABASE, OVS_SCHEMA])?;
    }
    Ok(())
}
