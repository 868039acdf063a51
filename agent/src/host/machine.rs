//! The real host: libvirt, Open vSwitch, dnsmasq and files, put together behind [`Host`].
//!
//! `machine/` holds the two halves: what is seen (`look`) and what is done (`deeds`). Nothing is remembered here
//! that could not be read back after a restart, other than facts that cost a probe.

mod console;
mod counters;
mod deeds;
mod definitions;
mod look;
mod motion;
mod probe;
mod serial;
mod watch;

use super::{
    Host, With,
    console::{Console, Ports},
    libvirt::{Accelerator, Connection},
    motion::{self as link, Gate},
    ovs::{Networks, Switch},
    router::Routers,
    storage::Pools,
};
use crate::{
    Error,
    config::{Config, Datapath},
};
use basalt_daemon::Clock;
use basalt_model::{PortId, VmId, hosts::HostFacts, networks::Counters};
use basalt_plan::host::{Action, Observed};
use basalt_wire::agent::console::Mode;
use definitions::Definitions;
use probe::Probe;
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::watch as channel, task::JoinSet};

/// What a reboot empties: what was set up on the switch.
const RUN_DIR: &str = "/run/basalt";
/// Where the guests' serial ports are written down.
const SERIAL_DIR: &str = "serial";

/// A machine that runs guests.
pub struct Machine {
    parts: Arc<Parts>,
    news: channel::Receiver<u64>,
    /// Watchers end with the machine.
    _watchers: JoinSet<()>,
}

/// What the machine is put together from.
struct Parts {
    hostname: String,
    libvirt: Connection,
    switch: Switch,
    networks: Networks,
    routers: Routers,
    pools: Pools,
    definitions: Definitions,
    ports: Ports,
    gate: Arc<Gate>,
    datapath: Datapath,
    tunnel_address: Option<Ipv4Addr>,
    state: PathBuf,
    clock: Arc<dyn Clock>,
    /// Facts that cost a probe or a process, found once.
    fixed: Probe<Fixed>,
}

/// Facts that do not change while the agent runs, or only with a restart of a service.
#[derive(Clone, Debug)]
struct Fixed {
    accelerators: Vec<basalt_model::hosts::Accelerator>,
    qemu: String,
    openvswitch: String,
}

impl Machine {
    /// Puts the parts together and begins to watch; nothing on the host is changed but the agent's own directories.
    ///
    /// # Errors
    /// When those directories cannot be made.
    pub async fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_in(config, clock, Path::new(RUN_DIR)).await
    }

    /// The same with another place for what a reboot empties.
    pub async fn open_in(config: &Config, clock: Arc<dyn Clock>, run: &Path) -> Result<Self, Error> {
        let state = config.state.dir.clone();
        for dir in [run.to_owned(), state.join(SERIAL_DIR)] {
            fs::create_dir_all(&dir).map_err(|e| Error::state(&dir, e))?;
        }
        let network = &config.network;
        let switch = Switch::new(&network.bridge, network.datapath.as_str(), &run.join("flows"))
            .with_tunnels(network.tunnel_address);
        let parts = Arc::new(Parts {
            hostname: config.host.name.to_string(),
            libvirt: Connection::new(&config.libvirt.uri),
            networks: Networks::new(&run.join("networks"), switch.clone()),
            routers: Routers::new(&run.join("routers"), switch.clone(), network.tunnel_address),
            switch,
            pools: Pools::new(&config.pools, &state),
            definitions: Definitions::new(&run.join("definitions")),
            ports: Ports::default(),
            gate: Arc::new(Gate::new(
                config.migration.as_ref().map(|m| m.listen),
                &state,
                run,
                motion::socket_of(&config.libvirt.uri),
            )),
            datapath: network.datapath,
            tunnel_address: network.tunnel_address,
            state,
            clock,
            fixed: Probe::default(),
        });
        let mut watchers = JoinSet::new();
        let news = watch::start(Arc::clone(&parts), &mut watchers);
        watchers.spawn(link::serve(Arc::clone(&parts.gate), Arc::clone(&parts)));
        Ok(Self { parts, news, _watchers: watchers })
    }
}

impl Host for Machine {
    async fn observe(&self) -> Observed {
        self.parts.observe().await
    }

    async fn facts(&self) -> HostFacts {
        self.parts.facts().await
    }

    async fn act(&self, action: &Action, with: &With) -> Result<(), Error> {
        self.parts.act(action, with).await
    }

    async fn console(&self, id: VmId, mode: Mode) -> Result<Console, Error> {
        self.parts.console(id, mode).await
    }

    async fn counters(&self, id: PortId) -> Result<Counters, Error> {
        self.parts.counters(id).await
    }

    fn news(&self) -> channel::Receiver<u64> {
        self.news.clone()
    }
}

impl Parts {
    async fn fixed(&self) -> Result<Fixed, Error> {
        let begin = || {
            let (state, switch) = (self.state.clone(), self.switch.clone());
            async move { probe(&state, &switch).await.map_err(|e| e.to_string()) }
        };
        // A probe that saw no guest boot is no result to keep.
        let serves = |fixed: &Fixed| fixed.accelerators.iter().any(|a| a.usable);
        self.fixed.result(serves, begin).await.map_err(|e| Error::host("probing", e))
    }

    /// The best accelerator that was seen to boot a guest.
    async fn accelerator(&self) -> Result<Accelerator, Error> {
        let fixed = self.fixed().await?;
        let best = fixed.accelerators.iter().find(|a| a.usable).map(|a| a.kind.as_str());
        match best {
            Some("kvm") => Ok(Accelerator::Kvm),
            Some(_) => Ok(Accelerator::Tcg),
            None => Err(Error::refused(
                basalt_model::CapabilityReason::new(
                    "no_accelerator",
                    "host",
                    "no guest boots on this host",
                    "see the host's accelerators, and install QEMU or mend KVM",
                )
                .with_evidence(
                    fixed
                        .accelerators
                        .iter()
                        .map(|a| format!("{}: {}; ", a.kind, a.evidence))
                        .collect::<String>(),
                ),
            )),
        }
    }

    fn serial_log(&self, id: basalt_model::VmId) -> PathBuf {
        self.state.join(SERIAL_DIR).join(format!("{id}.log"))
    }
}

async fn probe(state: &std::path::Path, switch: &Switch) -> Result<Fixed, Error> {
    let qemu = super::facts::accelerators::qemu_version().await?;
    let boot_id = super::facts::boot_id();
    Ok(Fixed {
        accelerators: super::facts::accelerators::all(state, &boot_id, &qemu).await?,
        openvswitch: switch.version().await?,
        qemu,
    })
}
