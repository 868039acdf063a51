//! N2, R37, N4: a private Open vSwitch with the dummy datapath: no root, no network of the machine.

use crate::golden;
use basalt_agent::host::ovs::{Switch, dhcp, news};
use basalt_model::{NetworkId, PortId, SecurityGroupId, VmId, networks::Segment};
use basalt_plan::host::{
    FlowGroup, FlowNetwork, FlowPort, FlowSet, NetworkDefinition, Reservation,
    flows::{PortNumbers, render, server_mac},
};
use basalt_wire::agent::directory::{Peer, PeerPort};
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::Notify;
use uuid::Uuid;

pub(crate) const BRIDGE: &str = "br-int";

/// ovsdb-server and ovs-vswitchd of a test; they end with it.
pub(crate) struct Ovs {
    pub(crate) dir: TempDir,
    database: Child,
    vswitchd: Child,
    pub(crate) switch: Switch,
}

impl Ovs {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(tunnel_address: Option<&str>) -> Self {
        // Sockets have short names only.
        let dir = tempfile::Builder::new().prefix("ovs").tempdir_in("/tmp").unwrap();
        let create = command(dir.path(), "ovsdb-tool")
            .args(["create", "conf.db", "/usr/share/openvswitch/vswitch.ovsschema"])
            .status();
        assert!(create.unwrap().success());
        let socket = dir.path().join("db.sock");
        let remote = format!("--remote=punix:{}", socket.display());
        let database =
            command(dir.path(), "ovsdb-server").args(["conf.db", &remote, "-vconsole:off"]).spawn().unwrap();
        eventually(|| socket.exists().then_some(())).await;
        let init =
            command(dir.path(), "ovs-vsctl").args(["--timeout=5", "--no-wait", "init"]).status().unwrap();
        assert!(init.success());
        let vswitchd = vswitchd(dir.path());
        let switch = Switch::new(BRIDGE, "dummy", &dir.path().join("state"))
            .with_sockets(dir.path())
            .with_tunnels(tunnel_address.map(|address| address.parse().unwrap()));
        Self { dir, database, vswitchd, switch }
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let output = command(self.dir.path(), program)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn ofctl(&self, args: &[&str]) -> String {
        self.run("ovs-ofctl", &[&["-O", "OpenFlow15"], args].concat())
    }

    pub(crate) async fn standing(&self) -> Option<String> {
        let view = self.switch.look().await.unwrap();
        self.switch.standing(&view).await
    }

    /// Where the switch would send a frame: the last line of its own trace. That it is written down in the sender's or the
    /// receiver's zone sends it nowhere.
    pub(crate) fn trace(&self, flow: &str) -> String {
        let text = self.run("ovs-appctl", &["ofproto/trace", BRIDGE, flow]);
        let line = text.lines().rfind(|l| l.starts_with("Datapath actions:")).unwrap();
        let actions = line.trim_start_matches("Datapath actions:").trim();
        let sent = |action: &&str| !action.starts_with("ct(commit") && !action.starts_with("zone=");
        let sent: Vec<&str> = actions.split(',').filter(sent).collect();
        if sent.is_empty() { "drop".to_owned() } else { sent.join(",") }
    }

    /// The actions of all flows that a frame meets, as the switch traces them.
    pub(crate) fn flow_trace(&self, flow: &str) -> String {
        self.run("ovs-appctl", &["ofproto/trace", BRIDGE, flow])
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        for child in [&mut self.vswitchd, &mut self.database] {
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

fn vswitchd(dir: &Path) -> Child {
    let remote = format!("unix:{}", dir.join("db.sock").display());
    let args = [remote.as_str(), "--enable-dummy=override", "--disable-system", "-vconsole:off", "--pidfile"];
    command(dir, "ovs-vswitchd").args(args).spawn().unwrap()
}

async fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(answer) = ask() {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it did not come to pass");
}

pub(crate) fn network(n: u32) -> FlowNetwork {
    FlowNetwork {
        id: NetworkId(Uuid::from_u128(n.into())),
        segment: Segment::Vxlan,
        vni: n,
        cidr: "10.10.0.0/24".parse().unwrap(),
        gateway: "10.10.0.1".parse().unwrap(),
        dhcp_server: "10.10.0.254".parse().unwrap(),
        cidr6: None,
        dhcp: true,
        names: false,
        peers: vec![],
    }
}

pub(crate) fn port(n: u8, network: u32) -> FlowPort {
    FlowPort {
        port_id: PortId(Uuid::from_u128(n.into())),
        network_id: NetworkId(Uuid::from_u128(network.into())),
        mac: format!("02:00:00:00:00:{n:02x}"),
        address: format!("10.10.0.{n}").parse().unwrap(),
        address6: None,
        security_groups: vec![open().id],
    }
}

/// A group that admits everything: what these tests are about is who reaches whom.
pub fn open() -> FlowGroup {
    let rule = serde_json::json!({"direction": "ingress", "protocol": "any", "remote": "any"});
    let rules = vec![serde_json::from_value(rule).unwrap()];
    FlowGroup { id: SecurityGroupId(Uuid::from_u128(0x60)), rules }
}

/// Two guests on network 100, one on 200.
pub(crate) fn set(hash: &str) -> FlowSet {
    let ports = vec![port(5, 100), port(6, 100), port(7, 200)];
    FlowSet {
        networks: vec![network(100), network(200)],
        ports,
        groups: vec![open()],
        members: vec![],
        routers: vec![],
        hash: hash.into(),
    }
}

pub(crate) fn vm() -> VmId {
    VmId(Uuid::from_u128(1))
}

pub(crate) async fn plug(switch: &Switch, set: &FlowSet) {
    switch.ensure().await.unwrap();
    for port in &set.ports {
        let tap = format!("tap{}", port.mac.split(':').next_back().unwrap());
        switch.ensure_port(&tap, port.port_id, vm(), &port.mac).await.unwrap();
    }
}

#[test]
fn n4_the_flows_of_two_networks_are_as_checked_in() {
    let set = set("h");
    let guests = set.ports.iter().zip(1..).map(|(p, number)| (p.port_id, number)).collect();
    let servers = BTreeMap::from([(network(100).id, 9)]);
    let numbers = PortNumbers { guests, servers, ..PortNumbers::default() };
    golden::check("flows.txt", &(render(&set, &numbers).join("\n") + "\n"));
}

/// The set with a peer on network 100 that has one port.
fn set_with_peer(hash: &str) -> FlowSet {
    let there =
        PeerPort { address: "10.10.0.8".parse().unwrap(), mac: "02:00:00:00:00:08".into(), name: None };
    let peer = Peer { tunnel_address: PEER.parse().unwrap(), ports: vec![there] };
    let networks = vec![FlowNetwork { peers: vec![peer], ..network(100) }, network(200)];
    FlowSet { networks, ..set(hash) }
}

const PEER: &str = "10.78.0.2";

#[test]
fn n3_the_flows_of_a_network_on_two_hosts_are_as_checked_in() {
    let set = set_with_peer("h");
    let guests = set.ports.iter().zip(1..).map(|(p, number)| (p.port_id, number)).collect();
    let numbers = PortNumbers { guests, tunnel: Some(12), ..PortNumbers::default() };
    golden::check("flows-peer.txt", &(render(&set, &numbers).join("\n") + "\n"));
}

#[test]
fn a_thousand_ports_are_a_set_of_flows_that_grows_with_them_and_no_faster() {
    let flows_of = |ports: u32| {
        let port = |n: u32| FlowPort {
            port_id: PortId(Uuid::from_u128(n.into())),
            network_id: network(100).id,
            mac: format!("02:00:00:00:{:02x}:{:02x}", n >> 8, n & 255),
            address: (0x0a0a_0000 + n).into(),
            address6: None,
            security_groups: vec![open().id],
        };
        let set = FlowSet {
            networks: vec![network(100)],
            ports: (1..=ports).map(port).collect(),
            groups: vec![open()],
            members: vec![],
            routers: vec![],
            hash: "h".into(),
        };
        let guests = set.ports.iter().zip(1..).map(|(p, number)| (p.port_id, number)).collect();
        render(&set, &PortNumbers { guests, ..PortNumbers::default() }).len()
    };
    let (few, many) = (flows_of(10), flows_of(1000));
    assert_eq!((many - few) % 990, 0, "{few} {many}");
    assert!((many - few) / 990 <= 15, "{few} {many}");
}

/// N3, N7 and S47 between hosts: what leaves, what comes in, and what does not.
#[tokio::test]
async fn n3_n7_a_peer_is_reached_through_its_tunnel_and_nobody_else_comes_in() {
    let ovs = Ovs::start_with(Some("10.78.0.1")).await;
    let set = set_with_peer("h");
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    assert_eq!(ovs.standing().await.as_deref(), Some("h"));
    let view = ovs.switch.look().await.unwrap();
    let number = |name: &str| view.ports.iter().find(|p| p.name == name).unwrap().number.unwrap();
    let (a, b, tunnel) = (number("tap05"), number("tap06"), view.tunnel.unwrap());
    let mac = |n: u8| format!("02:00:00:00:00:{n:02x}");
    let tcp = |to: u8| {
        format!("in_port={a},dl_src={},dl_dst={},tcp,nw_src=10.10.0.5,nw_dst=10.10.0.{to}", mac(5), mac(to))
    };
    let sent = ovs.flow_trace(&tcp(8));
    assert!(
        sent.contains("set_field:0x64->tun_id") && sent.contains(&format!("set_field:{PEER}->tun_dst")),
        "{sent}"
    );
    assert!(sent.contains(&format!("output:{tunnel}")), "{sent}");
    // Who asks for a port of the peer is answered here, and nobody else hears it.
    let ask = |to: &str| {
        format!(
            "in_port={a},dl_src={},dl_dst=ff:ff:ff:ff:ff:ff,arp,arp_spa=10.10.0.5,arp_tpa={to},arp_sha={},arp_op=1",
            mac(5),
            mac(5)
        )
    };
    for (to, of) in [("10.10.0.8", 8), ("10.10.0.6", 6)] {
        let answered = ovs.flow_trace(&ask(to));
        assert!(answered.contains(&format!("NXM_NX_ARP_SHA[] is now {}", mac(of))), "{answered}");
        assert!(answered.contains(&format!("NXM_OF_ARP_SPA[] is now {to}\n")), "{answered}");
        assert!(answered.contains("NXM_OF_ARP_TPA[] is now 10.10.0.5\n"), "{answered}");
        assert!(answered.contains("IN_PORT"), "{answered}");
    }
    for nobody in ["10.10.0.77", "10.10.0.5"] {
        assert_eq!(ovs.trace(&ask(nobody)), "drop", "{nobody}");
    }
    let from = |address: &str, vni: u32, to: &str| {
        format!(
            "in_port={tunnel},tun_src={address},tun_id={vni},dl_src={},dl_dst={to},ip,nw_src=10.10.0.8,nw_dst=10.10.0.6",
            mac(8)
        )
    };
    assert!(ovs.flow_trace(&from(PEER, 100, &mac(6))).contains(&format!("set_field:{b:#x}->reg1")));
    for (what, flow) in [
        ("a host that is no peer", from("10.78.0.9", 100, &mac(6))),
        ("a network that the peer has no part in", from(PEER, 200, &mac(7))),
        ("another network's port", from(PEER, 100, &mac(7))),
        ("what came from a tunnel goes into none", from(PEER, 100, &mac(8))),
    ] {
        assert_eq!(ovs.trace(&flow), "drop", "{what}");
    }
    let group = "33:33:00:00:00:01";
    let here = ovs.flow_trace(&from(PEER, 100, group));
    assert!(here.contains("->reg1") && !here.contains("->tun_dst"), "{here}");
    let all = ovs.flow_trace(&format!(
        "in_port={a},dl_src={},dl_dst={group},ip,nw_src=10.10.0.5,nw_dst=224.0.0.1",
        mac(5)
    ));
    assert_eq!(all.matches("->tun_dst").count(), 1, "once to each peer: {all}");
    // Another network of the same guests' host has no peer.
    let other = format!(
        "in_port={},dl_src={},dl_dst={},ip,nw_src=10.10.0.7,nw_dst=10.10.0.8",
        number("tap07"),
        mac(7),
        mac(8)
    );
    assert_eq!(ovs.trace(&other), "drop");
}

#[tokio::test]
async fn r37_a_deleted_or_altered_tunnel_is_noticed_and_made_anew() {
    let ovs = Ovs::start_with(Some("10.78.0.1")).await;
    let set = set_with_peer("h");
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    for fault in [
        &["del-port", "basalt-vxlan"][..],
        &["set", "interface", "basalt-vxlan", "options:key=7"],
        &["set", "interface", "basalt-vxlan", "options:local_ip=10.78.0.200"],
    ] {
        ovs.run("ovs-vsctl", &[&["--timeout=5"], fault].concat());
        assert_eq!(ovs.standing().await, None, "{fault:?}");
        ovs.switch.apply(&set).await.unwrap();
        assert_eq!(ovs.standing().await.as_deref(), Some("h"), "{fault:?}");
    }
    // The host was given another address: the same port, with that one.
    let moved = Switch::new(BRIDGE, "dummy", &ovs.dir.path().join("state"))
        .with_sockets(ovs.dir.path())
        .with_tunnels(Some("10.78.0.11".parse().unwrap()));
    assert_eq!(moved.standing(&moved.look().await.unwrap()).await, None);
    moved.apply(&set).await.unwrap();
    assert!(moved.standing(&moved.look().await.unwrap()).await.is_some());
    assert!(
        ovs.run("ovs-vsctl", &["--timeout=5", "get", "interface", "basalt-vxlan", "options"])
            .contains("10.78.0.11")
    );
}

#[tokio::test]
async fn a_host_without_an_address_for_tunnels_says_so_and_serves_its_own_guests() {
    let ovs = Ovs::start().await;
    let set = set_with_peer("h");
    plug(&ovs.switch, &set).await;
    let refused = ovs.switch.apply(&set).await.unwrap_err().to_string();
    assert!(refused.contains("no address for tunnels"), "{refused}");
    let view = ovs.switch.look().await.unwrap();
    let a = view.ports.iter().find(|p| p.name == "tap05").unwrap().number.unwrap();
    let local = format!(
        "in_port={a},dl_src=02:00:00:00:00:05,dl_dst=02:00:00:00:00:06,tcp,nw_src=10.10.0.5,nw_dst=10.10.0.6"
    );
    assert_ne!(ovs.trace(&local), "drop");
    assert_eq!(ovs.standing().await, None, "it is tried again");
}

#[tokio::test]
async fn n4_a_guest_reaches_its_own_network_and_only_under_its_own_name() {
    let ovs = Ovs::start().await;
    let set = set("h");
    plug(&ovs.switch, &set).await;
    ovs.run(
        "ovs-vsctl",
        &[
            "--timeout=5",
            "add-port",
            BRIDGE,
            "dhcp100",
            "--",
            "set",
            "interface",
            "dhcp100",
            "type=internal",
            &format!("external_ids:basalt-network=\"{}\"", network(100).id),
        ],
    );
    ovs.switch.apply(&set).await.unwrap();
    let view = ovs.switch.look().await.unwrap();
    let number = |name: &str| view.ports.iter().find(|p| p.name == name).unwrap().number.unwrap();
    let (a, b, server) = (number("tap05"), number("tap06"), number("dhcp100"));
    let ip = |from: u32, source: &str, address: &str, to: &str, rest: &str| {
        // The switch reads fields in order: the protocol comes before what belongs to it.
        let (protocol, rest) = rest.split_once(',').unwrap();
        format!("in_port={from},dl_src={source},dl_dst={to},{protocol},nw_src={address},{rest}")
    };
    let (mac_a, mac_b, mac_c) = ("02:00:00:00:00:05", "02:00:00:00:00:06", "02:00:00:00:00:07");
    let tcp = "tcp,nw_dst=10.10.0.6,tp_dst=80";
    let sent = ovs.trace(&ip(a, mac_a, "10.10.0.5", mac_b, tcp));
    assert!(sent != "drop" && !sent.contains(','), "one port: {sent}");
    for (what, flow) in [
        ("another's address", ip(a, mac_a, "10.10.0.9", mac_b, tcp)),
        ("another's MAC", ip(a, "02:00:00:00:00:09", "10.10.0.5", mac_b, tcp)),
        ("another network", ip(a, mac_a, "10.10.0.5", mac_c, tcp)),
        ("an unknown MAC", ip(a, mac_a, "10.10.0.5", "02:00:00:00:00:99", tcp)),
        ("a DHCP server", ip(a, mac_a, "10.10.0.5", mac_b, "udp,udp_src=67,udp_dst=68,nw_dst=10.10.0.6")),
        ("IPv6", format!("in_port={a},dl_src={mac_a},dl_dst={mac_b},ipv6")),
        (
            "another's ARP",
            format!(
                "in_port={a},dl_src={mac_a},dl_dst=ff:ff:ff:ff:ff:ff,arp,arp_spa=10.10.0.6,arp_sha={mac_a}"
            ),
        ),
        (
            "a door of the host",
            ip(a, mac_a, "10.10.0.5", &server_mac(100), "tcp,tcp_flags=syn,tp_dst=22,nw_dst=10.10.0.254"),
        ),
        ("a port that nobody named", ip(77, mac_a, "10.10.0.5", mac_b, tcp)),
    ] {
        assert_eq!(ovs.trace(&flow), "drop", "{what}: {flow}");
    }
    let announce = format!(
        "in_port={a},dl_src={mac_a},dl_dst=ff:ff:ff:ff:ff:ff,arp,arp_spa=10.10.0.5,arp_sha={mac_a},arp_op=2"
    );
    assert_eq!(ovs.trace(&announce).split(',').count(), 2, "the other guest and the server");
    let discover = format!(
        "in_port={a},dl_src={mac_a},dl_dst=ff:ff:ff:ff:ff:ff,udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,udp_src=68,udp_dst=67"
    );
    assert_eq!(ovs.trace(&discover).split(',').count(), 1, "the server alone");
    let answer =
        ip(a, mac_a, "10.10.0.5", &server_mac(100), "tcp,tcp_flags=syn|ack,tp_src=80,nw_dst=10.10.0.254");
    assert_ne!(ovs.trace(&answer), "drop", "an answer to the host");
    let offer =
        ip(server, &server_mac(100), "10.10.0.254", mac_b, "udp,udp_src=67,udp_dst=68,nw_dst=10.10.0.6");
    assert_ne!(ovs.trace(&offer), "drop", "DHCP's answer to port {b}");
}

#[tokio::test]
async fn n2_wiped_added_and_altered_flows_are_noticed_and_put_right() {
    let ovs = Ovs::start().await;
    let set = set("h1");
    plug(&ovs.switch, &set).await;
    assert_eq!(ovs.standing().await, None);
    ovs.switch.apply(&set).await.unwrap();
    assert_eq!(ovs.standing().await.as_deref(), Some("h1"));
    for fault in [
        &["del-flows", BRIDGE][..],
        &["add-flow", BRIDGE, "table=0,priority=999,actions=flood"],
        &["mod-flows", BRIDGE, "table=0,in_port=1,actions=normal"],
        &["del-flows", BRIDGE, "table=20"],
    ] {
        ovs.ofctl(fault);
        assert_eq!(ovs.standing().await, None, "{fault:?}");
        ovs.switch.apply(&set).await.unwrap();
        assert_eq!(ovs.standing().await.as_deref(), Some("h1"), "{fault:?}");
    }
    // An agent that starts anew reads from the host what stands.
    let again = Switch::new(BRIDGE, "dummy", &ovs.dir.path().join("state")).with_sockets(ovs.dir.path());
    assert_eq!(again.standing(&again.look().await.unwrap()).await.as_deref(), Some("h1"));
}

#[tokio::test]
async fn n2_a_deleted_port_and_a_deleted_bridge_come_back_with_their_marks() {
    let ovs = Ovs::start().await;
    let set = set("h1");
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    ovs.run("ovs-vsctl", &["--timeout=5", "del-port", "tap05"]);
    assert_eq!(ovs.standing().await, None);
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    assert_eq!(ovs.standing().await.as_deref(), Some("h1"));
    ovs.run("ovs-vsctl", &["--timeout=5", "del-br", BRIDGE]);
    let view = ovs.switch.look().await.unwrap();
    assert!(!view.ready && view.ports.is_empty());
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    let view = ovs.switch.look().await.unwrap();
    assert!(view.ready && ovs.standing().await.is_some());
    let row = view.ports.iter().find(|p| p.name == "tap05").unwrap();
    assert_eq!((row.port_id(), row.vm_id()), (Some(port(5, 100).port_id), Some(vm())));
    assert_eq!(row.external_ids["attached-mac"], "02:00:00:00:00:05");
    ovs.switch.remove_port(port(5, 100).port_id).await.unwrap();
    ovs.switch.remove_port(port(5, 100).port_id).await.unwrap();
    assert!(!ovs.switch.look().await.unwrap().ports.iter().any(|p| p.name == "tap05"));
}

#[tokio::test]
async fn r37_a_restarted_switch_gets_its_flows_back_and_news_comes_of_it() {
    let mut ovs = Ovs::start().await;
    let set = set("h1");
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    ovs.vswitchd.kill().unwrap();
    ovs.vswitchd.wait().unwrap();
    assert_eq!(ovs.standing().await, None);
    ovs.vswitchd = vswitchd(ovs.dir.path());
    for _ in 0..50 {
        if ovs.switch.apply(&set).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ovs.standing().await.as_deref(), Some("h1"));

    let wake = Arc::new(Notify::new());
    let watch = tokio::spawn(news::watch(ovs.switch.clone(), wake.clone()));
    // The first news is what is there already.
    tokio::time::timeout(Duration::from_secs(5), wake.notified()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _ = tokio::time::timeout(Duration::from_millis(1), wake.notified()).await;
    ovs.run("ovs-vsctl", &["--timeout=5", "del-port", "tap06"]);
    tokio::time::timeout(Duration::from_secs(5), wake.notified()).await.unwrap();
    watch.abort();
}

pub(crate) fn definition() -> NetworkDefinition {
    let FlowNetwork { id, segment, vni, cidr, gateway, dhcp_server, dhcp, .. } = network(100);
    let reservation = |n: u8| Reservation {
        port_id: port(n, 100).port_id,
        mac: port(n, 100).mac,
        address: port(n, 100).address,
        address6: None,
        hostname: format!("web-{n}").parse().unwrap(),
    };
    let reservations = vec![reservation(5), reservation(6)];
    let dns = vec!["9.9.9.9".parse().unwrap()];
    NetworkDefinition {
        id,
        segment,
        vni,
        cidr,
        cidr6: None,
        gateway,
        dhcp_server,
        dhcp,
        dns,
        mtu: 1450,
        names: false,
        reservations,
        hash: "n1".into(),
    }
}

#[test]
fn n2_the_dhcp_configuration_is_as_checked_in_and_dnsmasq_takes_it() {
    let text = dhcp::configuration(&definition(), Path::new("/run/basalt/networks/n"));
    golden::check("dnsmasq.conf", &text);
    golden::check("dnsmasq.hosts", &dhcp::reservations(&definition()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dnsmasq.conf");
    for definition in [definition(), NetworkDefinition { dns: vec![], reservations: vec![], ..definition() }]
    {
        std::fs::write(&file, dhcp::configuration(&definition, dir.path())).unwrap();
        let output = Command::new("dnsmasq")
            .arg("--test")
            .arg(format!("--conf-file={}", file.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert!(dhcp::interface((1 << 24) - 1).len() <= 15);
}
