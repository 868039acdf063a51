//! The integration bridge: made, looked at, its ports put back, its flows replaced as a whole.
//!
//! One look is one run of `ovs-vsctl`; whether the flows still stand is answered by the switch itself
//! (`ovs-ofctl diff-flows` against what was applied), so wiped, added and altered flows are all noticed.

use super::{
    table::{Row, Table},
    uplinks::{self, Patch},
};
use crate::{Error, host::program::Program};
use basalt_model::{CapabilityReason, NetworkId, PortId, RouterId, VmId};
use basalt_plan::host::{
    FlowSet,
    flows::{self, PortNumbers},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Flows are changed one by one while there are so many times as many in all; else the whole set is compared.
const EDITS_WORTHWHILE: usize = 4;
/// How long `ovs-vsctl` waits for the database or for ovs-vswitchd, in seconds.
const PATIENCE_SECONDS: u32 = 8;
/// `external_ids` key of a port on which a network's DHCP answers.
const NETWORK_KEY: &str = "basalt-network";
/// `external_ids` key of a router's port.
const ROUTER_KEY: &str = "basalt-router";
/// The port that leads to all other hosts: flows say to which.
const TUNNEL_PORT: &str = "basalt-vxlan";
/// UDP port of VXLAN (RFC 7348).
const TUNNEL_UDP_PORT: u16 = 4789;

/// The integration bridge of a host.
#[derive(Clone, Debug)]
pub struct Switch {
    bridge: String,
    datapath: String,
    /// Where the switch's sockets are, if not in their usual place.
    sockets: Option<PathBuf>,
    /// This host's end of tunnels.
    tunnel_address: Option<Ipv4Addr>,
    /// Where the applied flows are kept.
    state: PathBuf,
}

/// One port of the integration bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRow {
    /// The device's name.
    pub name: String,
    /// OpenFlow number; `None` while no device is behind it.
    pub number: Option<u32>,
    /// What is wrong with it.
    pub error: Option<String>,
    /// Marks.
    pub external_ids: BTreeMap<String, String>,
}

impl PortRow {
    /// The guest's port that it carries.
    pub fn port_id(&self) -> Option<PortId> {
        self.external_ids.get("iface-id")?.parse().ok()
    }

    /// The VM that it belongs to.
    pub fn vm_id(&self) -> Option<VmId> {
        self.external_ids.get("vm-id")?.parse().ok()
    }

    /// The network whose DHCP answers on it.
    pub fn network_id(&self) -> Option<NetworkId> {
        self.external_ids.get(NETWORK_KEY)?.parse().ok()
    }

    /// The router whose port it is.
    pub fn router_id(&self) -> Option<RouterId> {
        self.external_ids.get(ROUTER_KEY)?.parse().ok()
    }
}

/// What the switch has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchView {
    /// All bridges with their datapath.
    pub bridges: BTreeMap<String, String>,
    /// Whether the integration bridge is there as it must be.
    pub ready: bool,
    /// Ports of the integration bridge, without the bridge's own and the tunnels'.
    pub ports: Vec<PortRow>,
    /// OpenFlow number of the tunnels' port, while it is as it must be.
    pub tunnel: Option<u32>,
    /// Patch ports to uplink bridges, by the bridge.
    pub patches: BTreeMap<String, Patch>,
}

impl SwitchView {
    /// OpenFlow numbers of all ports that have one.
    pub fn numbers(&self) -> PortNumbers {
        let uplinks = self.patches.iter().filter_map(|(name, patch)| Some((name.clone(), patch.number?)));
        let mut numbers =
            PortNumbers { tunnel: self.tunnel, uplinks: uplinks.collect(), ..PortNumbers::default() };
        for port in &self.ports {
            let Some(number) = port.number else { continue };
            if port.router_id().is_some() {
                numbers.routers.insert(port.name.clone(), number);
            } else if let Some(id) = port.network_id() {
                numbers.servers.insert(id, number);
            } else if let Some(id) = port.port_id() {
                numbers.guests.insert(id, number);
            }
        }
        numbers
    }

    fn read(tables: &[Table], switch: &Switch) -> Result<Self, Error> {
        let Switch { bridge, datapath, .. } = switch;
        let [bridges, ports, interfaces] = tables else {
            return Err(Error::host(
                "reading ovs-vsctl's answer",
                format!("{} tables instead of 3", tables.len()),
            ));
        };
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let mut view = Self {
            bridges: bridges.rows().map(|b| (text(b.text("name")), text(b.text("datapath_type")))).collect(),
            ..Self::default()
        };
        let Some(ours) = bridges.rows().find(|b| b.text("name") == Some(bridge.as_str())) else {
            return Ok(view);
        };
        let speaks = ours.set("protocols").iter().any(|p| p.as_str() == Some("OpenFlow15"));
        let same = ours.text("datapath_type") == Some(datapath.as_str());
        view.ready = speaks && same && ours.text("fail_mode") == Some("secure");
        let members = ours.uuids("ports");
        let wanted: Vec<&str> = ports
            .rows()
            .filter(|p| {
                p.uuid("_uuid").is_some_and(|id| members.contains(&id))
                    && p.text("name") != Some(bridge.as_str())
            })
            .flat_map(|p| p.uuids("interfaces"))
            .collect();
        let members = || interfaces.rows().filter(|i| i.uuid("_uuid").is_some_and(|id| wanted.contains(&id)));
        view.patches = uplinks::read(members(), bridges, ports, interfaces);
        for row in members().filter(|row| uplinks::uplink_of(*row).is_none()) {
            let number = row.number("ofport").and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
            if row.text("name") == Some(TUNNEL_PORT) {
                view.tunnel = number.filter(|_| switch.is_our_tunnel(row));
                continue;
            }
            view.ports.push(PortRow {
                name: text(row.text("name")),
                number,
                error: row.text("error").map(str::to_owned),
                external_ids: row.map("external_ids"),
            });
        }
        view.ports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(view)
    }
}

/// What was applied last.
#[derive(Debug, Serialize, Deserialize)]
struct Applied {
    hash: String,
    numbers: PortNumbers,
    networks: Vec<NetworkId>,
}

impl Switch {
    /// A bridge by name; `state` is a directory for what was applied, emptied by a reboot.
    pub fn new(bridge: &str, datapath: &str, state: &Path) -> Self {
        Self {
            bridge: bridge.to_owned(),
            datapath: datapath.to_owned(),
            sockets: None,
            tunnel_address: None,
            state: state.to_owned(),
        }
    }

    /// A switch from which tunnels lead to other hosts.
    #[must_use]
    pub fn with_tunnels(mut self, address: Option<Ipv4Addr>) -> Self {
        self.tunnel_address = address;
        self
    }

    /// A switch whose sockets are in a directory of their own.
    #[must_use]
    pub fn with_sockets(mut self, dir: &Path) -> Self {
        self.sockets = Some(dir.to_owned());
        self
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// Where is kept what was applied.
    pub(super) fn state_dir(&self) -> &Path {
        &self.state
    }

    pub(super) fn program(&self, program: &str) -> Program {
        let program = Program::new(program).limit(Duration::from_secs(u64::from(PATIENCE_SECONDS) + 4));
        match &self.sockets {
            Some(dir) => program.env("OVS_RUNDIR", dir).env("OVS_DBDIR", dir).env("OVS_LOGDIR", dir),
            None => program,
        }
    }

    pub(super) fn vsctl(&self) -> Program {
        self.program("ovs-vsctl").arg(format!("--timeout={PATIENCE_SECONDS}"))
    }

    pub(super) fn ofctl(&self) -> Program {
        self.program("ovs-ofctl").args(["-O", "OpenFlow15", "--timeout=8"])
    }

    /// Looks at bridges and ports.
    pub async fn look(&self) -> Result<SwitchView, Error> {
        let args = [
            "--format=json",
            "--",
            "--columns=name,datapath_type,fail_mode,protocols,ports",
            "list",
            "Bridge",
            "--",
            "--columns=_uuid,name,interfaces",
            "list",
            "Port",
            "--",
            "--columns=_uuid,name,type,options,ofport,error,external_ids",
            "list",
            "Interface",
        ];
        let printed = self.vsctl().args(args).run().await?;
        SwitchView::read(&Table::read_all(&printed)?, self)
    }

    /// The version of Open vSwitch.
    pub async fn version(&self) -> Result<String, Error> {
        let printed = self.program("ovs-vsctl").arg("--version").run().await?;
        let text = String::from_utf8_lossy(&printed);
        Ok(text.lines().next().and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned())
    }

    /// The bridge is there: it forwards nothing without flows and speaks what the flows need.
    pub async fn ensure(&self) -> Result<(), Error> {
        let datapath = format!("datapath_type={}", self.datapath);
        self.vsctl()
            .args(["--may-exist", "add-br", &self.bridge, "--", "set", "bridge", &self.bridge, &datapath])
            .args(["fail_mode=secure", "protocols=OpenFlow13,OpenFlow15"])
            .run()
            .await
            .map(drop)
    }

    /// A guest's device is on the bridge, with the marks that libvirt gives it.
    pub async fn ensure_port(&self, tap: &str, port_id: PortId, vm_id: VmId, mac: &str) -> Result<(), Error> {
        let broken = self.look().await?.ports.iter().any(|p| p.name == tap && p.number.is_none());
        let mut program = self.vsctl();
        if broken {
            // The row was made for a device that is gone; only a new row is opened anew.
            program = program.args(["--if-exists", "del-port", &self.bridge, tap, "--"]);
        }
        program
            .args(["--may-exist", "add-port", &self.bridge, tap, "--", "set", "interface", tap])
            .arg(format!("external_ids:iface-id=\"{port_id}\""))
            .arg(format!("external_ids:attached-mac=\"{mac}\""))
            .arg(format!("external_ids:vm-id=\"{vm_id}\""))
            .arg("external_ids:iface-status=active")
            .run()
            .await
            .map(drop)
    }

    /// The bridge names the guest's port no more.
    pub async fn remove_port(&self, port_id: PortId) -> Result<(), Error> {
        self.remove(|port| port.port_id() == Some(port_id)).await
    }

    /// Rows of a VM that no device is behind would keep libvirt from attaching a new one.
    pub async fn purge_stale(&self, vm_id: VmId) -> Result<(), Error> {
        self.remove(|port| port.vm_id() == Some(vm_id) && port.number.is_none()).await
    }

    /// The bridge names the port no more.
    pub async fn remove_named(&self, name: &str) -> Result<(), Error> {
        self.vsctl().args(["--if-exists", "del-port", &self.bridge, name]).run().await.map(drop)
    }

    /// A new device for a router, in the host's own namespace; one that there was goes.
    pub async fn renew_router_port(
        &self,
        name: &str,
        id: RouterId,
        mac: &str,
        mtu: u16,
    ) -> Result<(), Error> {
        // In two steps: within one, the switch would keep the device that is in another namespace.
        self.remove_named(name).await?;
        self.vsctl()
            .args(["add-port", &self.bridge, name, "--", "set", "interface", name, "type=internal"])
            .arg(format!("mac=\"{mac}\""))
            .arg(format!("mtu_request={mtu}"))
            .arg(format!("external_ids:{ROUTER_KEY}=\"{id}\""))
            .run()
            .await
            .map(drop)
    }

    pub(super) async fn remove_server(&self, id: NetworkId) -> Result<(), Error> {
        self.remove(|port| port.network_id() == Some(id)).await
    }

    async fn remove(&self, which: impl Fn(&PortRow) -> bool) -> Result<(), Error> {
        for port in self.look().await?.ports.iter().filter(|port| which(port)) {
            self.vsctl().args(["--if-exists", "del-port", &self.bridge, &port.name]).run().await?;
        }
        Ok(())
    }

    /// An internal port on which a network's DHCP answers.
    pub(super) async fn ensure_server(&self, name: &str, id: NetworkId, mac: &str) -> Result<(), Error> {
        self.vsctl()
            .args([
                "--may-exist",
                "add-port",
                &self.bridge,
                name,
                "--",
                "set",
                "interface",
                name,
                "type=internal",
            ])
            .arg(format!("mac=\"{mac}\""))
            .arg(format!("external_ids:{NETWORK_KEY}=\"{id}\""))
            .run()
            .await
            .map(drop)
    }

    /// What the tunnels' port must say; nothing on a host that has no address for them.
    fn tunnel_options(&self) -> Option<BTreeMap<String, String>> {
        let ours = [
            ("remote_ip", "flow".to_owned()),
            ("key", "flow".to_owned()),
            ("local_ip", self.tunnel_address?.to_string()),
            ("dst_port", TUNNEL_UDP_PORT.to_string()),
        ];
        Some(ours.map(|(key, value)| (key.to_owned(), value)).into())
    }

    fn is_our_tunnel(&self, row: Row<'_>) -> bool {
        row.text("type") == Some("vxlan") && Some(row.map("options")) == self.tunnel_options()
    }

    /// The port that leads to all other hosts, with its number.
    async fn ensure_tunnel(&self) -> Result<u32, Error> {
        let Some(options) = self.tunnel_options() else {
            return Err(Error::refused(CapabilityReason::new(
                "tunnel_address_missing",
                "host/openvswitch",
                "guests of other hosts cannot be reached: this host has no address for tunnels",
                "set tunnel_address in [network] of agent.toml and restart the agent",
            )));
        };
        let options = options.iter().map(|(key, value)| format!("options:{key}=\"{value}\""));
        self.vsctl()
            .args(["--may-exist", "add-port", &self.bridge, TUNNEL_PORT])
            .args(["--", "clear", "interface", TUNNEL_PORT, "options"])
            .args(["--", "set", "interface", TUNNEL_PORT, "type=vxlan"])
            .args(options)
            .run()
            .await?;
        self.look().await?.tunnel.ok_or_else(|| {
            Error::host(
                "making the tunnels' port",
                format!("{TUNNEL_PORT} got no number; see ovs-vsctl show"),
            )
        })
    }

    /// Replaces all flows of the bridge by a set, in one transaction; flows that are in both go on untouched. Tunnels
    /// and uplinks that cannot be made are an error, and leave the flows of this host's own ports in force.
    pub async fn apply(&self, set: &FlowSet) -> Result<(), Error> {
        let view = self.look().await?;
        let tunnels = match set.needs_tunnel() && view.tunnel.is_none() {
            true => self.ensure_tunnel().await.map(|_| true),
            false => Ok(false),
        };
        let uplinks = self.ensure_uplinks(&set.uplinks(), &view).await;
        // Where nothing was made, or tried, the look still holds.
        let view =
            if matches!((&tunnels, &uplinks), (Ok(false), Ok(false))) { view } else { self.look().await? };
        let numbers = view.numbers().of(set);
        if let Some(port) = set.ports.iter().find(|p| !numbers.guests.contains_key(&p.port_id)) {
            return Err(Error::host("setting flows", format!("port {} is not on the bridge", port.port_id)));
        }
        if let Some(port) = set.routers.iter().find(|r| !numbers.routers.contains_key(&r.name)) {
            return Err(Error::host("setting flows", format!("port {} is not on the bridge", port.name)));
        }
        let lines = flows::render(set, &numbers);
        let networks = set.networks.iter().map(|n| n.id).collect();
        let applied = Applied { hash: set.hash.clone(), numbers, networks };
        let file = self.flows_file();
        let failed = |e: std::io::Error| Error::state(&file, e);
        std::fs::create_dir_all(&self.state).map_err(failed)?;
        self.hand_over_zones(&applied.numbers.guests).await?;
        let edits = self.stood().map(|before| flows::difference(&before, &lines));
        // Until the new set stands, nothing is said to stand.
        remove_if_there(&self.applied_file()).map_err(failed)?;
        std::fs::write(&file, lines.join("\n") + "\n").map_err(failed)?;
        match edits {
            // Few flows change: only they are sent. Whatever else changed by itself, the next look sees.
            Some(edits) if edits.len() * EDITS_WORTHWHILE <= lines.len() => self.edit(&edits).await?,
            _ => drop(self.ofctl().args(["--bundle", "replace-flows", &self.bridge]).arg(&file).run().await?),
        }
        tunnels?;
        uplinks?;
        let json = serde_json::to_vec(&applied).map_err(|e| Error::host("keeping the flows' marks", e))?;
        std::fs::write(self.applied_file(), json).map_err(failed)
    }

    /// The flows that were set last, if nobody has found them changed since.
    fn stood(&self) -> Option<Vec<String>> {
        if !self.applied_file().exists() {
            return None;
        }
        let text = std::fs::read_to_string(self.flows_file()).ok()?;
        Some(text.lines().map(str::to_owned).collect())
    }

    /// Takes flows away and adds others, in one transaction.
    async fn edit(&self, edits: &[String]) -> Result<(), Error> {
        if edits.is_empty() {
            return Ok(());
        }
        let file = self.state.join("edits.flows");
        std::fs::write(&file, edits.join("\n") + "\n").map_err(|e| Error::state(&file, e))?;
        self.ofctl().args(["--bundle", "add-flows", &self.bridge]).arg(&file).run().await.map(drop)
    }

    /// The hash of the set that was applied last, if all of it still stands and means the same ports.
    pub async fn standing(&self, view: &SwitchView) -> Option<String> {
        let applied: Applied = serde_json::from_slice(&std::fs::read(self.applied_file()).ok()?).ok()?;
        let now = view.numbers();
        let guests = applied.numbers.guests.iter().all(|(id, number)| now.guests.get(id) == Some(number));
        let servers =
            applied.networks.iter().all(|id| now.servers.get(id) == applied.numbers.servers.get(id));
        let routers =
            applied.numbers.routers.iter().all(|(name, number)| now.routers.get(name) == Some(number));
        if !routers || applied.numbers.uplinks != now.uplinks {
            return None;
        }
        if !guests || !servers || applied.numbers.tunnel.is_some_and(|number| now.tunnel != Some(number)) {
            return None;
        }
        let diff = self.ofctl().args(["diff-flows", &self.bridge]).arg(self.flows_file()).end().await.ok()?;
        if !diff.status.success() {
            // What changed by itself is not known flow by flow: the next set replaces all of them.
            remove_if_there(&self.applied_file()).ok()?;
            return None;
        }
        Some(applied.hash)
    }

    fn flows_file(&self) -> PathBuf {
        self.state.join("applied.flows")
    }

    fn applied_file(&self) -> PathBuf {
        self.state.join("applied.json")
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
