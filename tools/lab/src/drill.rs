//! The drill: breaks what runs in every way, one after the other, and measures until reality matches intent.
//!
//! Intent is asked of the gateway; reality of libvirt, Open vSwitch, `/proc` and the guest itself. A fault
//! that must leave the guest alone counts as `lost` when its QEMU was replaced; more than one QEMU of a VM at
//! any moment counts as `doubled`.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use basalt_cli::client::Client;
use basalt_wire::rest::{Phase, Vm};

use crate::control::{self, Request, Response, Verb};
use crate::journey;
use crate::layout::Layout;
use crate::leftovers::HOST_PREFIX;
use crate::process::Identity;
use crate::{GATEWAY, IMAGE_SERVICE, guest_http};

/// How long one fault may take to heal.
const LIMIT: Duration = Duration::from_secs(120);
const BRIDGE: &str = "br-int";
/// The port that leads to other hosts.
const TUNNEL: &str = "basalt-vxlan";

/// One way to break things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillQemu,
    DestroyDomain,
    UndefineDomain,
    DestroyAndUndefine,
    DeletePort,
    DeleteBridge,
    WipeFlows,
    DeleteTunnel,
    KillDhcp,
    KillSwitchDatabase,
    KillSwitch,
    KillAgent,
    KillGateway,
    KillImageService,
    KillPostgres,
    KillLibvirtd,
    PowerCut,
}

impl Fault {
    /// All of them, mild ones first.
    pub const ALL: [Fault; 17] = [
        Fault::KillQemu,
        Fault::DestroyDomain,
        Fault::UndefineDomain,
        Fault::DestroyAndUndefine,
        Fault::DeletePort,
        Fault::DeleteBridge,
        Fault::WipeFlows,
        Fault::DeleteTunnel,
        Fault::KillDhcp,
        Fault::KillSwitchDatabase,
        Fault::KillSwitch,
        Fault::KillAgent,
        Fault::KillGateway,
        Fault::KillImageService,
        Fault::KillPostgres,
        Fault::KillLibvirtd,
        Fault::PowerCut,
    ];

    /// What a person would call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::KillQemu => "QEMU killed",
            Self::DestroyDomain => "domain destroyed",
            Self::UndefineDomain => "domain undefined while running",
            Self::DestroyAndUndefine => "domain destroyed and undefined",
            Self::DeletePort => "OVS port deleted",
            Self::DeleteBridge => "OVS bridge deleted",
            Self::WipeFlows => "flows wiped",
            Self::DeleteTunnel => "tunnel deleted",
            Self::KillDhcp => "dnsmasq killed",
            Self::KillSwitchDatabase => "ovsdb-server killed",
            Self::KillSwitch => "ovs-vswitchd killed",
            Self::KillAgent => "agent killed",
            Self::KillGateway => "gateway killed",
            Self::KillImageService => "image service killed",
            Self::KillPostgres => "PostgreSQL killed",
            Self::KillLibvirtd => "libvirtd killed",
            Self::PowerCut => "host's power cut",
        }
    }

    /// Whether the guest's QEMU cannot survive it.
    fn ends_the_guest(self) -> bool {
        matches!(self, Self::KillQemu | Self::DestroyDomain | Self::DestroyAndUndefine | Self::PowerCut)
    }

    /// The host it strikes, where that is one.
    fn host(self, host: &str) -> Option<&str> {
        let on_none = matches!(self, Self::KillGateway | Self::KillImageService | Self::KillPostgres);
        (!on_none).then_some(host)
    }

    /// The service that must be another process afterwards, and the host it is of.
    fn service(self, host: &str) -> Option<(String, Option<String>)> {
        let of_host = |name: &str| Some((name.to_owned(), Some(host.to_owned())));
        match self {
            Self::KillSwitchDatabase => of_host("ovsdb-server"),
            Self::KillSwitch => of_host("ovs-vswitchd"),
            Self::KillAgent => of_host("basalt-agent"),
            Self::KillLibvirtd => of_host("libvirtd"),
            Self::KillGateway => Some((GATEWAY.to_owned(), None)),
            Self::KillImageService => Some((IMAGE_SERVICE.to_owned(), None)),
            Self::KillPostgres => Some(("postgresql".to_owned(), None)),
            _ => None,
        }
    }
}

/// What came of one fault.
#[derive(Clone, Debug)]
pub struct Healed {
    pub fault: Fault,
    /// The host it struck; `None`: a part of the cluster that is on no host.
    pub host: Option<String>,
    /// `None`: not within the limit.
    pub seconds: Option<f64>,
    pub lost: Option<String>,
    pub doubled: bool,
}

impl Healed {
    pub fn is_well(&self) -> bool {
        self.seconds.is_some() && self.lost.is_none() && !self.doubled
    }
}

/// A running lab, seen from outside.
pub struct Drill {
    layout: Layout,
    client: Client,
    vm: Vm,
    host: String,
    address: Ipv4Addr,
    /// Whether the VM's network is on other hosts too.
    tunnel: bool,
}

/// What is so now.
#[derive(Debug, Default)]
struct Reality {
    /// Processes of the VM, as the machine numbers them.
    qemus: Vec<u32>,
    /// What is not as it should be.
    wrong: Vec<String>,
}

impl Drill {
    /// Looks at what runs: the VM of the first host, or where there is none, the journey's.
    pub async fn new(layout: Layout, client: Client) -> Result<Self> {
        let first = first_host(&layout).context("run `up` first")?;
        let vms = journey::vms(&client).await.context("run `up` first")?;
        let on_first = |vm: &Vm| vm.placement.as_ref().is_some_and(|p| p.host.as_str() == first);
        let vm = match vms.into_iter().find(on_first) {
            Some(vm) => vm,
            None => journey::vm(&client).await.context("run `up` first")?,
        };
        let host = vm.placement.as_ref().context("the VM has no host")?.host.to_string();
        let address = vm.nics.first().context("the VM has no interface")?.address;
        let mut drill = Self { layout, client, vm, host, address, tunnel: false };
        drill.tunnel = drill.has_tunnel();
        Ok(drill)
    }

    /// The faults that can befall what runs, mild ones first.
    pub fn faults(&self) -> impl Iterator<Item = Fault> {
        let tunnel = self.tunnel;
        Fault::ALL.into_iter().filter(move |fault| tunnel || *fault != Fault::DeleteTunnel)
    }

    fn has_tunnel(&self) -> bool {
        let asked = ["ovs-vsctl", "--timeout=5", "get", "interface", TUNNEL, "ofport"];
        self.exec(&asked).is_ok_and(|number| number.trim().parse::<u32>().is_ok())
    }

    /// Where the process that answers DHCP in the VM's network has written its number.
    fn dhcp_pid_file(&self) -> Result<String> {
        let nic = self.vm.nics.first().context("no interface")?;
        Ok(format!("/run/basalt/networks/{}/dnsmasq.pid", nic.network_id))
    }

    fn dhcp_answers(&self) -> bool {
        let asks = |file| format!("grep -q dnsmasq /proc/$(cat {file})/comm");
        self.dhcp_pid_file().is_ok_and(|file| self.exec(&["sh", "-ec", &asks(file)]).is_ok())
    }

    /// Breaks one thing and waits until all is well again.
    pub async fn run(&self, fault: Fault) -> Result<Healed> {
        let before = self.settled().await?;
        let services = self.service_pid(fault)?;
        let started = Instant::now();
        self.inject(fault).with_context(|| fault.title().to_owned())?;
        let host = fault.host(&self.host).map(str::to_owned);
        let mut healed = Healed { fault, host, seconds: None, lost: None, doubled: false };
        let mut last = Reality::default();
        while started.elapsed() < LIMIT {
            let now = self.look().await;
            healed.doubled |= now.qemus.len() > 1;
            let replaced = !fault.ends_the_guest() || now.qemus.iter().all(|pid| !before.qemus.contains(pid));
            let restarted = services.is_none_or(|pid| self.service_pid(fault).is_ok_and(|p| p != Some(pid)));
            let well = now.wrong.is_empty() && replaced && restarted;
            last = now;
            if well {
                healed.seconds = Some(started.elapsed().as_secs_f64());
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if healed.seconds.is_none() {
            healed.lost = Some(last.wrong.join("; "));
        } else if !fault.ends_the_guest() && last.qemus != before.qemus {
            healed.lost = Some("the guest was restarted".to_owned());
        }
        Ok(healed)
    }

    /// Waits until everything is well; a fault on top of another would measure neither.
    async fn settled(&self) -> Result<Reality> {
        let started = Instant::now();
        loop {
            let now = self.look().await;
            if now.wrong.is_empty() {
                return Ok(now);
            }
            if started.elapsed() > LIMIT {
                bail!("not well before the fault: {}", now.wrong.join("; "));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn look(&self) -> Reality {
        let mut reality = Reality { qemus: self.qemus(), wrong: Vec::new() };
        let wrong = &mut reality.wrong;
        if reality.qemus.len() != 1 {
            wrong.push(format!("{} QEMU processes", reality.qemus.len()));
        }
        let name = self.vm.metadata.name.as_str();
        match tokio::time::timeout(Duration::from_secs(5), journey::named_vm(&self.client, name)).await {
            Ok(Ok(vm)) => {
                if vm.phase != Phase::Running || vm.observed_generation != vm.metadata.generation {
                    wrong.push(format!("the gateway shows {:?}", vm.phase));
                }
                if vm.metadata.id != self.vm.metadata.id {
                    wrong.push("another VM has its name".to_owned());
                }
            }
            Ok(Err(e)) => wrong.push(format!("the gateway does not answer: {e}")),
            Err(_) => wrong.push("the gateway does not answer in time".to_owned()),
        }
        // The rest is slow to ask and pointless while the first already fails.
        if wrong.is_empty() {
            self.look_inside(wrong);
        }
        reality
    }

    fn look_inside(&self, wrong: &mut Vec<String>) {
        let id = self.vm.metadata.id.to_string();
        match self.exec(&["virsh", "dominfo", &id]) {
            Ok(info) => {
                let is = |key: &str, value: &str| {
                    info.lines()
                        .any(|l| l.starts_with(key) && l.split(':').nth(1).map(str::trim) == Some(value))
                };
                if !is("State", "running") || !is("Persistent", "yes") {
                    wrong.push("the domain is not running and persistent".to_owned());
                }
            }
            Err(e) => wrong.push(format!("libvirt: {e}")),
        }
        if self.port().is_err() {
            wrong.push("the port is not on the bridge".to_owned());
        }
        if self.tunnel && !self.has_tunnel() {
            wrong.push("there is no tunnel".to_owned());
        }
        if !self.dhcp_answers() {
            wrong.push("nobody answers DHCP".to_owned());
        }
        match self.fetch() {
            Ok(_) => {}
            Err(e) => wrong.push(format!("the guest does not answer: {e}")),
        }
    }

    fn fetch(&self) -> Result<String> {
        let limit = Duration::from_secs(2);
        Ok(guest_http::get_on_host(self.init_pid()?, self.address, "/", limit)?.body)
    }

    /// Every QEMU of the VM on this machine, whichever host it is in.
    fn qemus(&self) -> Vec<u32> {
        let id = self.vm.metadata.id.to_string();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let mut found: Vec<u32> = entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let text = String::from_utf8_lossy(&line);
                // libvirt names its QEMU by path; a shell that mentions the id is none.
                text.split('\0').next().is_some_and(|p| p.contains("qemu-system")) && text.contains(&id)
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// The name of the VM's port on the bridge.
    fn port(&self) -> Result<String> {
        let nic = self.vm.nics.first().context("no interface")?;
        let find = format!("external_ids:iface-id={}", nic.port_id);
        let name =
            self.exec(&["ovs-vsctl", "--timeout=5", "--bare", "--columns=name", "find", "interface", &find])?;
        let name = name.trim();
        let on = self.exec(&["ovs-vsctl", "--timeout=5", "iface-to-br", name])?;
        if name.is_empty() || on.trim() != BRIDGE {
            bail!("no port of the VM is on {BRIDGE}");
        }
        Ok(name.to_owned())
    }

    fn inject(&self, fault: Fault) -> Result<()> {
        let id = self.vm.metadata.id.to_string();
        match fault {
            Fault::KillQemu => {
                for pid in self.qemus() {
                    kill(pid)?;
                }
            }
            Fault::DestroyDomain => drop(self.exec(&["virsh", "destroy", &id])?),
            Fault::UndefineDomain => drop(self.exec(&["virsh", "undefine", &id])?),
            Fault::DestroyAndUndefine => {
                self.exec(&["virsh", "undefine", &id])?;
                self.exec(&["virsh", "destroy", &id])?;
            }
            Fault::DeletePort => {
                let port = self.port()?;
                self.exec(&["ovs-vsctl", "--timeout=5", "del-port", BRIDGE, &port])?;
            }
            Fault::DeleteBridge => drop(self.exec(&["ovs-vsctl", "--timeout=5", "del-br", BRIDGE])?),
            Fault::WipeFlows => drop(self.exec(&["ovs-ofctl", "-O", "OpenFlow15", "del-flows", BRIDGE])?),
            Fault::DeleteTunnel => {
                drop(self.exec(&["ovs-vsctl", "--timeout=5", "del-port", BRIDGE, TUNNEL])?)
            }
            Fault::KillDhcp => {
                let kill = format!("kill -9 $(cat {})", self.dhcp_pid_file()?);
                self.exec(&["sh", "-ec", &kill])?;
            }
            Fault::PowerCut => {
                let host = self.host.clone();
                self.ask(&Request::PowerCut { host: host.clone() })?;
                self.ask(&Request::PowerOn { host })?;
            }
            service => {
                let (service, host) = service.service(&self.host).context("no service")?;
                self.ask(&Request::Service { verb: Verb::Kill, service, host })?;
            }
        }
        Ok(())
    }

    fn service_pid(&self, fault: Fault) -> Result<Option<u32>> {
        let Some((name, host)) = fault.service(&self.host) else { return Ok(None) };
        let Response::Lab { status } = self.ask(&Request::Status)? else { bail!("not a lab's answer") };
        let services = match host {
            None => status.services,
            Some(host) => {
                status.hosts.into_iter().find(|h| h.name == host).map(|h| h.services).unwrap_or_default()
            }
        };
        Ok(services.into_iter().find(|s| s.name == name && s.ready).and_then(|s| s.pid))
    }

    fn ask(&self, request: &Request) -> Result<Response> {
        control::ask(&self.layout.control_socket(), request)
    }

    fn init_pid(&self) -> Result<u32> {
        let file = self.layout.pid_file(&format!("{HOST_PREFIX}{}", self.host));
        let init: Identity = serde_json::from_slice(&fs::read(file)?)?;
        Ok(init.pid)
    }

    fn exec(&self, argv: &[&str]) -> Result<String> {
        let mut command = Command::new("timeout");
        command.args(["10", "nsenter", "-t", &self.init_pid()?.to_string(), "-m", "-n", "-u", "-p", "--"]);
        crate::process::run_command(command.args(argv))
    }
}

fn first_host(layout: &Layout) -> Result<String> {
    let Response::Lab { status } = control::ask(&layout.control_socket(), &Request::Status)? else {
        bail!("not a lab's answer")
    };
    Ok(status.hosts.into_iter().next().context("the lab has no hosts")?.name)
}

fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("no pid")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

/// The table of a drill.
pub fn table(results: &[Healed]) -> String {
    let mut text = format!("{:<32} {:<6} {:>8}  {:<8} {}\n", "FAULT", "HOST", "SECONDS", "DOUBLED", "LOST");
    for r in results {
        let seconds = r.seconds.map_or("never".to_owned(), |s| format!("{s:.1}"));
        let doubled = if r.doubled { "yes" } else { "no" };
        let lost = r.lost.as_deref().unwrap_or("nothing");
        let host = r.host.as_deref().unwrap_or("-");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<32} {host:<6} {seconds:>8}  {doubled:<8} {lost}", r.fault.title());
    }
    text
}
