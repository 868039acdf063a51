//! N2, R37, N4: a private Open vSwitch with the dummy datapath: no root, no network of the machine.

use crate::golden;
use basalt_agent::host::ovs::{
    PortNumbers, Switch, dhcp,
    flows::{render, server_mac},
    news,
};
use basalt_model::{NetworkId, PortId, VmId, networks::Segment};
use basalt_plan::host::{FlowNetwork, FlowPort, FlowSet, NetworkDefinition, Reservation};
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

const BRIDGE: &str = "br-int";

/// ovsdb-server and ovs-vswitchd of a test; they end with it.
struct Ovs {
    dir: TempDir,
    database: Child,
    vswitchd: Child,
    switch: Switch,
}

impl Ovs {
    async fn start() -> Self {
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
        let switch = Switch::new(BRIDGE, "dummy", &dir.path().join("state")).with_sockets(dir.path());
        Self { dir, database, vswitchd, switch }
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = command(self.dir.path(), program)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn ofctl(&self, args: &[&str]) -> String {
        self.run("ovs-ofctl", &[&["-O", "OpenFlow15"], args].concat())
    }

    async fn standing(&self) -> Option<String> {
        let view = self.switch.look().await.unwrap();
        self.switch.standing(&view).await
    }

    /// Where the switch would send a frame: the last line of its own trace.
    fn trace(&self, flow: &str) -> String {
        let text = self.run("ovs-appctl", &["ofproto/trace", BRIDGE, flow]);
        let line = text.lines().rfind(|l| l.starts_with("Datapath actions:")).unwrap();
        line.trim_start_matches("Datapath actions:").trim().to_owned()
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

fn network(n: u32) -> FlowNetwork {
    FlowNetwork {
        id: NetworkId(Uuid::from_u128(n.into())),
        segment: Segment::Vxlan,
        vni: n,
        cidr: "10.10.0.0/24".parse().unwrap(),
        gateway: "10.10.0.1".parse().unwrap(),
        dhcp_server: "10.10.0.254".parse().unwrap(),
        dhcp: true,
    }
}

fn port(n: u8, network: u32) -> FlowPort {
    FlowPort {
        port_id: PortId(Uuid::from_u128(n.into())),
        network_id: NetworkId(Uuid::from_u128(network.into())),
        mac: format!("02:00:00:00:00:{n:02x}"),
        address: format!("10.10.0.{n}").parse().unwrap(),
    }
}

/// Two guests on network 100, one on 200.
fn set(hash: &str) -> FlowSet {
    let ports = vec![port(5, 100), port(6, 100), port(7, 200)];
    FlowSet { networks: vec![network(100), network(200)], ports, hash: hash.into() }
}

fn vm() -> VmId {
    VmId(Uuid::from_u128(1))
}

async fn plug(switch: &Switch, set: &FlowSet) {
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
    golden::check("flows.txt", &(render(&set, &PortNumbers { guests, servers }).join("\n") + "\n"));
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
    let arp = format!(
        "in_port={a},dl_src={mac_a},dl_dst=ff:ff:ff:ff:ff:ff,arp,arp_spa=10.10.0.5,arp_sha={mac_a},arp_op=1"
    );
    assert_eq!(ovs.trace(&arp).split(',').count(), 2, "the other guest and the server");
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

fn definition() -> NetworkDefinition {
    let FlowNetwork { id, segment, vni, cidr, gateway, dhcp_server, dhcp } = network(100);
    let reservation = |n: u8| Reservation {
        port_id: port(n, 100).port_id,
        mac: port(n, 100).mac,
        address: port(n, 100).address,
        hostname: format!("web-{n}").parse().unwrap(),
    };
    let reservations = vec![reservation(5), reservation(6)];
    let dns = vec!["9.9.9.9".parse().unwrap()];
    NetworkDefinition {
        id,
        segment,
        vni,
        cidr,
        gateway,
        dhcp_server,
        dhcp,
        dns,
        mtu: 1450,
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
