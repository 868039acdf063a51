//! The flows of a bridge with a thousand guests' ports: computed, and set on a real Open vSwitch.

use super::{Figure, Latencies, Size};
use anyhow::{Context, Result, ensure};
use basalt_agent::host::ovs::Switch;
use basalt_model::{NetworkId, PortId, SecurityGroupId, networks::Segment};
use basalt_plan::host::{FlowGroup, FlowNetwork, FlowPort, FlowSet, flows};
use basalt_wire::agent::directory::{Peer, PeerPort};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The bridge.
const BRIDGE: &str = "br-int";
/// Ports on one network, and on each of its peers.
const PER_NETWORK: u32 = 20;

/// Ovsdb-server and ovs-vswitchd of this measurement; they end with it.
struct Ovs([Child; 2]);

impl Drop for Ovs {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // What is killed already needs no more.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command(dir: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("OVS_RUNDIR", dir).env("OVS_DBDIR", dir).env("OVS_LOGDIR", dir);
    command
}

async fn start(dir: &Path) -> Result<Ovs> {
    let schema = "/usr/share/openvswitch/vswitch.ovsschema";
    let made = command(dir, "ovsdb-tool").args(["create", "conf.db", schema]).status()?;
    ensure!(made.success(), "ovsdb-tool made no database");
    let socket = dir.join("db.sock");
    let remote = format!("--remote=punix:{}", socket.display());
    let database = command(dir, "ovsdb-server").args(["conf.db", &remote, "-vconsole:off"]).spawn()?;
    while !socket.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let begun = command(dir, "ovs-vsctl").args(["--timeout=5", "--no-wait", "init"]).status()?;
    ensure!(begun.success(), "ovs-vsctl cannot begin");
    let remote = format!("unix:{}", socket.display());
    // Ports without devices: what is measured is the flows.
    let args = [remote.as_str(), "--enable-dummy=override", "--disable-system", "-vconsole:off", "--pidfile"];
    let vswitchd = command(dir, "ovs-vswitchd").args(args).spawn()?;
    Ok(Ovs([database, vswitchd]))
}

fn port(n: u32) -> FlowPort {
    FlowPort {
        port_id: PortId(Uuid::from_u128(n.into())),
        network_id: network_id(n / PER_NETWORK),
        mac: format!("02:00:00:00:{:02x}:{:02x}", n >> 8, n & 255),
        address: (0x0a0a_0000 + n).into(),
        address6: None,
        security_groups: vec![group().id],
    }
}

fn network_id(n: u32) -> NetworkId {
    NetworkId(Uuid::from_u128(0x100_0000 + u128::from(n)))
}

fn group() -> FlowGroup {
    let rule = |port: u32| serde_json::json!({"direction": "ingress", "protocol": "tcp", "ports": {"from": port, "to": port}, "remote": "any"});
    let rules = [22, 80, 443].map(rule).into_iter().filter_map(|r| serde_json::from_value(r).ok());
    FlowGroup { id: SecurityGroupId(Uuid::from_u128(0x60)), rules: rules.collect() }
}

fn network(n: u32) -> Result<FlowNetwork> {
    let there = |k: u32| PeerPort {
        address: (0x0a0b_0000 + n * 256 + k).into(),
        mac: format!("02:00:00:01:{n:02x}:{k:02x}"),
        name: None,
    };
    let peer = |p: u32| Peer {
        tunnel_address: (0x0a4e_0002 + p).into(),
        ports: (p * PER_NETWORK..(p + 1) * PER_NETWORK).map(there).collect(),
    };
    Ok(FlowNetwork {
        id: network_id(n),
        segment: Segment::Vxlan,
        vni: 100 + n,
        cidr: "10.8.0.0/13".parse()?,
        gateway: "10.10.255.1".parse()?,
        dhcp_server: "10.10.255.254".parse()?,
        cidr6: None,
        dhcp: true,
        names: false,
        peers: vec![peer(0), peer(1)],
    })
}

fn set(ports: u32, hash: &str) -> Result<FlowSet> {
    Ok(FlowSet {
        networks: (0..ports.div_ceil(PER_NETWORK)).map(network).collect::<Result<_>>()?,
        ports: (0..ports).map(port).collect(),
        groups: vec![group()],
        members: vec![],
        routers: vec![],
        hash: hash.into(),
    })
}

/// Puts ports on the bridge, many at once: one by one the agent looks at all of them before each.
fn plug(dir: &Path, ports: &[FlowPort]) -> Result<()> {
    for some in ports.chunks(100) {
        let mut command = command(dir, "ovs-vsctl");
        command.arg("--timeout=60");
        for p in some {
            let tap = format!("tap{}", p.mac.split(':').skip(4).collect::<String>());
            command.args(["--", "add-port", BRIDGE, &tap, "--", "set", "interface", &tap]);
            command.arg(format!("external_ids:iface-id=\"{}\"", p.port_id));
            command.arg(format!("external_ids:attached-mac=\"{}\"", p.mac));
            command.arg(format!("external_ids:vm-id=\"{}\"", p.port_id));
            command.arg("external_ids:iface-status=active");
        }
        ensure!(command.status()?.success(), "ovs-vsctl adds no ports");
    }
    Ok(())
}

/// Computes and sets the flows of so many ports.
pub async fn measure(size: &Size) -> Result<Vec<Figure>> {
    let dir = tempfile::Builder::new().prefix("ovs").tempdir_in("/tmp")?;
    let _ovs = start(dir.path()).await?;
    let tunnel = Some("10.78.0.1".parse()?);
    let switch =
        Switch::new(BRIDGE, "dummy", &dir.path().join("state")).with_sockets(dir.path()).with_tunnels(tunnel);
    switch.ensure().await?;
    let ports = size.ports;
    let whole = set(ports, "whole")?;
    plug(dir.path(), &whole.ports)?;
    let first = Instant::now();
    switch.apply(&whole).await?;
    let first = first.elapsed();
    let ofctl =
        |args: &[&str]| command(dir.path(), "ovs-ofctl").args(["-O", "OpenFlow15"]).args(args).status();
    ensure!(ofctl(&["del-flows", BRIDGE])?.success(), "ovs-ofctl removes no flows");
    // Whoever looks finds that they are gone, as an agent does; only then is the whole set sent.
    ensure!(switch.standing(&switch.look().await?).await.is_none(), "nobody noticed that flows are gone");
    let empty = Instant::now();
    switch.apply(&whole).await?;
    let empty = empty.elapsed();
    let file = dir.path().join("state/applied.flows").display().to_string();
    let floor = Instant::now();
    ensure!(ofctl(&["--bundle", "replace-flows", BRIDGE, &file])?.success(), "ovs-ofctl sets no flows");
    let floor = floor.elapsed();
    let numbers = switch.look().await?.numbers();
    let (mut computed, mut applied, mut flows) = (vec![], vec![], 0);
    for n in 0..size.runs.max(3) {
        let started = Instant::now();
        flows = flows::render(&whole, &numbers).len();
        computed.push(started.elapsed());
        // One port's address changes, as when a VM is made anew.
        let mut changed = set(ports, &format!("changed {n}"))?;
        let last = changed.ports.last_mut().context("there are ports")?;
        last.address = (0x0a0a_f000 + u32::try_from(n)?).into();
        let started = Instant::now();
        switch.apply(&changed).await?;
        applied.push(started.elapsed());
    }
    let (computed, applied) = (Latencies::new(computed), Latencies::new(applied));
    let mid = computed.quantile(0.5);
    Ok(vec![
        Figure::new(format!("flows of {ports} ports computed: {flows} flows"), format!("{:.1} ms", ms(mid)))
            .target("≤ 20 ms", mid <= Duration::from_millis(20)),
        Figure::new(
            "set for the first time, with a flush of each port's conntrack zone",
            format!("{:.0} ms", ms(first)),
        ),
        Figure::new("set after all of them were wiped", format!("{:.0} ms", ms(empty)))
            .target("≤ 500 ms", empty <= Duration::from_millis(500))
            .floor(format!("{:.0} ms for ovs-ofctl replace-flows that changes nothing", ms(floor))),
        Figure::new("one port of them changed, set again", format!("{:.0} ms", ms(applied.quantile(0.5))))
            .target("≤ 500 ms", applied.quantile(0.5) <= Duration::from_millis(500)),
    ])
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
