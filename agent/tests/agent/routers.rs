//! N6: a router on one host, with a real switch, real namespaces and real packets, in namespaces of the test's own.

use basalt_agent::host::{
    ovs::Switch,
    router::{Routers, has_tools},
};
use basalt_model::{Epoch, Generation, HostId, NetworkId, PortId, RouterId, VmId, routers::gateway_mac};
use basalt_plan::host::{
    Action, Capabilities, FlowNetwork, FlowPort, FlowRouter, FlowSet, Memory, NetworkSeen, Observed,
    RouterDefinition, Section, SwitchSeen, diff,
};
use basalt_wire::agent::{Desired, Item, ItemKind, Manifest};
use serde_json::json;
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use uuid::Uuid;

/// Says to a run of this test that it is in namespaces of its own.
const INSIDE: &str = "BASALT_TEST_IN_NAMESPACES";
const RUN: &str = "/run/basalt-test";
const INNER: u128 = 1;
const OUTER: u128 = 2;
const ROUTER: RouterId = RouterId(Uuid::from_u128(0xabc));

/// A guest: a namespace with one device on the bridge.
struct Guest {
    name: &'static str,
    network: u128,
    address: &'static str,
    mac: &'static str,
}

const IN: Guest = Guest { name: "in", network: INNER, address: "10.1.0.5", mac: "02:00:00:00:00:05" };
const OUT: Guest = Guest { name: "out", network: OUTER, address: "10.2.0.6", mac: "02:00:00:00:00:06" };

fn run(argv: &[&str]) -> String {
    let (ok, said) = try_run(argv);
    assert!(ok, "{argv:?}: {said}");
    said
}

fn try_run(argv: &[&str]) -> (bool, String) {
    let output = ovs(Command::new(argv[0]).args(&argv[1..])).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn ovs(command: &mut Command) -> &mut Command {
    command.env("OVS_RUNDIR", RUN).env("OVS_DBDIR", RUN).env("OVS_LOGDIR", RUN)
}

impl Guest {
    fn start(&self) {
        let id = Uuid::from_u128(self.network + 100);
        run(&["ip", "netns", "add", self.name]);
        run(&[
            "ovs-vsctl",
            "add-port",
            "br-int",
            self.name,
            "--",
            "set",
            "interface",
            self.name,
            "type=internal",
            &format!("mac=\"{}\"", self.mac),
        ]);
        // Outside is another router: what it sends may come from any address.
        let marks: &[&str] = if self.network == OUTER { &["basalt-router"] } else { &["iface-id", "vm-id"] };
        for mark in marks {
            run(&["ovs-vsctl", "set", "interface", self.name, &format!("external_ids:{mark}=\"{id}\"")]);
        }
        run(&["ip", "link", "set", self.name, "netns", self.name]);
        run(&["ip", "netns", "exec", self.name, "ethtool", "-K", self.name, "tx", "off"]);
        self.ip(&["link", "set", self.name, "up"]);
        self.ip(&["address", "add", &format!("{}/24", self.address), "dev", self.name]);
    }

    fn ip(&self, args: &[&str]) {
        run(&[&["ip", "-n", self.name][..], args].concat());
    }

    fn pings(&self, to: &str) -> bool {
        try_run(&["ip", "netns", "exec", self.name, "ping", "-c", "1", "-W", "1", to]).0
    }

    /// What a server of this guest's says to who asks; and whom it saw asking.
    fn serve(&self, port: u16) -> (Child, String) {
        let dir = format!("{RUN}/www-{}", self.name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(format!("{dir}/name"), self.name).unwrap();
        let log = format!("{RUN}/{}.log", self.name);
        let port = port.to_string();
        let args = ["netns", "exec", self.name, "busybox", "httpd", "-f", "-vv", "-p", &port, "-h", &dir];
        let file = std::fs::File::create(&log).unwrap();
        (Command::new("ip").args(args).stderr(file).spawn().unwrap(), log)
    }

    fn reads(&self, from: &str) -> Option<String> {
        let url = format!("http://{from}/name");
        let argv =
            ["ip", "netns", "exec", self.name, "busybox", "timeout", "3", "busybox", "wget", "-qO-", &url];
        let (ok, said) = try_run(&argv);
        ok.then_some(said)
    }

    fn as_router(&self) -> FlowRouter {
        FlowRouter {
            name: self.name.into(),
            network_id: NetworkId(Uuid::from_u128(self.network)),
            mac: self.mac.into(),
            addresses: vec![self.address.parse().unwrap()],
        }
    }

    fn port(&self) -> FlowPort {
        FlowPort {
            port_id: PortId(Uuid::from_u128(self.network + 100)),
            network_id: NetworkId(Uuid::from_u128(self.network)),
            mac: self.mac.into(),
            address: self.address.parse().unwrap(),
            address6: None,
            security_groups: vec![crate::ovs::open().id],
        }
    }
}

fn network(n: u128) -> serde_json::Value {
    json!({"as": "network", "name": format!("n{n}"), "segment": {"kind": "vxlan"}, "vni": 5000 + n,
        "cidr": format!("10.{n}.0.0/24"), "gateway": format!("10.{n}.0.1"), "dhcp_server": format!("10.{n}.0.254"),
        "dhcp": false, "dns": [], "mtu": 1450})
}

fn item(kind: ItemKind, id: Uuid, desired: serde_json::Value) -> Item {
    let desired: Desired = serde_json::from_value(desired).unwrap();
    Item { kind, id, generation: Generation(1), epoch: Epoch(1), desired }
}

/// The router as the plan of a host has it.
fn definition() -> RouterDefinition {
    let vm = VmId(Uuid::from_u128(7));
    let body = json!({"as": "router", "name": "edge", "nat": true, "vrid": 1, "preferred": true,
        "routes": [{"destination": "10.9.0.0/16", "next_hop": "10.2.0.6"}],
        "wiring": {
            "interfaces": [{"network_id": Uuid::from_u128(INNER), "network": "n1", "address": "10.1.0.1",
                "mac": gateway_mac(5001)}],
            "uplink": {"port_id": Uuid::from_u128(50), "network_id": Uuid::from_u128(OUTER), "network": "n2",
                "address": "10.2.0.3", "mac": "02:00:00:00:aa:01"},
            "port_forwards": [{"protocol": "tcp", "port": 8080, "vm_id": vm, "to_address": IN.address, "to_port": 80}],
            "floating_ips": []}});
    definition_of(body)
}

fn definition_of(body: serde_json::Value) -> RouterDefinition {
    let items = vec![
        item(ItemKind::Network, Uuid::from_u128(INNER), network(INNER)),
        item(ItemKind::Network, Uuid::from_u128(OUTER), network(OUTER)),
        item(ItemKind::Router, ROUTER.0, body),
    ];
    let manifest = Manifest { format: 1, host_id: HostId(Uuid::from_u128(1)), revision: 1, items };
    let mut observed = Observed {
        vms: Section::complete([]),
        routers: Section::complete([]),
        networks: Section::complete([]),
        switch: SwitchSeen::Ready { flows: None },
        capabilities: Capabilities { routers: true, ..Capabilities::default() },
        ..Observed::default()
    };
    let now = basalt_model::DateTime::UNIX_EPOCH;
    let find = |observed: &Observed| {
        let plan = diff(&manifest, observed, &Memory::default(), now);
        plan.work.into_iter().flat_map(|w| w.actions).collect::<Vec<_>>()
    };
    for action in find(&observed) {
        if let Action::EnsureNetwork(network) = action {
            let seen = NetworkSeen { hash: network.hash.clone(), running: true, names: None };
            observed.networks.items.insert(network.id, seen);
        }
    }
    let router = find(&observed).into_iter().find_map(|action| match action {
        Action::EnsureRouter(router) => Some(*router),
        _ => None,
    });
    router.unwrap()
}

fn flows(router: &RouterDefinition) -> FlowSet {
    let network = |n: u128| FlowNetwork {
        id: NetworkId(Uuid::from_u128(n)),
        segment: basalt_model::networks::Segment::Vxlan,
        vni: 5000 + n as u32,
        cidr: format!("10.{n}.0.0/24").parse().unwrap(),
        gateway: format!("10.{n}.0.1").parse().unwrap(),
        dhcp_server: format!("10.{n}.0.254").parse().unwrap(),
        dhcp: false,
        cidr6: None,
        names: false,
        peers: vec![],
    };
    let port = |p: &basalt_plan::host::RouterPort| FlowRouter {
        name: p.name.clone(),
        network_id: p.network_id,
        mac: p.mac.clone(),
        addresses: p.addresses.iter().map(|a| a.addr()).collect(),
    };
    FlowSet {
        networks: vec![network(INNER), network(OUTER)],
        ports: vec![IN.port()],
        groups: vec![crate::ovs::open()],
        members: vec![],
        routers: router.interfaces.iter().map(port).chain([OUT.as_router()]).collect(),
        hash: router.hash.clone(),
    }
}

async fn soon(what: &str, ask: impl Fn() -> bool) {
    for _ in 0..100 {
        if ask() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within 10 s: {what}");
}

fn start_switch() -> Vec<Child> {
    run(&["mount", "-t", "tmpfs", "tmpfs", "/run"]);
    std::fs::create_dir_all(RUN).unwrap();
    run(&["ip", "link", "set", "lo", "up"]);
    let db = format!("{RUN}/conf.db");
    run(&["ovsdb-tool", "create", &db, "/usr/share/openvswitch/vswitch.ovsschema"]);
    let spawn = |argv: &[&str]| {
        ovs(Command::new(argv[0]).args(&argv[1..]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let socket = format!("{RUN}/db.sock");
    let database = spawn(&["ovsdb-server", &db, &format!("--remote=punix:{socket}"), "-vconsole:off"]);
    while !Path::new(&socket).exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    run(&["ovs-vsctl", "--no-wait", "init"]);
    vec![database, spawn(&["ovs-vswitchd", &format!("unix:{socket}"), "-vconsole:off", "--pidfile"])]
}

#[tokio::test]
async fn n6_one_hosts_router_translates_forwards_and_routes_and_what_breaks_comes_back() {
    assert!(has_tools(), "install nftables and keepalived");
    if std::env::var_os(INSIDE).is_none() {
        let name = "routers::n6_one_hosts_router_translates_forwards_and_routes_and_what_breaks_comes_back";
        let own = std::env::current_exe().unwrap();
        // Whatever is started in there ends with the first process of it.
        let args = ["-n", "-m", "-p", "--fork", "--mount-proc", "--kill-child"];
        let mut inside = Command::new("unshare");
        inside.args(args).arg(own).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
        assert!(inside.status().unwrap().success());
        return;
    }
    let mut processes = start_switch();
    let switch = Switch::new("br-int", "netdev", &Path::new(RUN).join("flows")).with_sockets(Path::new(RUN));
    switch.ensure().await.unwrap();
    IN.start();
    OUT.start();
    IN.ip(&["route", "add", "default", "via", "10.1.0.1"]);
    OUT.ip(&["address", "add", "10.9.0.1/32", "dev", "out"]);
    let routers = Routers::new(&Path::new(RUN).join("routers"), switch.clone(), None);
    let seen = async || routers.look(&switch.look().await.unwrap()).await.unwrap();
    assert!(!seen().await.contains_key(&ROUTER));
    let router = definition();
    routers.ensure(&router).await.unwrap();
    let set_up = seen().await[&ROUTER].clone();
    assert!(set_up.running && set_up.active && set_up.hash == router.hash, "{set_up:?}");
    switch.apply(&flows(&router)).await.unwrap();
    assert_eq!(switch.standing(&switch.look().await.unwrap()).await, Some(router.hash.clone()));

    let (outside, log) = OUT.serve(80);
    let (inside, inside_log) = IN.serve(80);
    processes.extend([outside, inside]);
    soon("out through the router", || IN.reads(OUT.address).as_deref() == Some("out")).await;
    let asked = std::fs::read_to_string(&log).unwrap();
    assert!(asked.contains("10.2.0.3") && !asked.contains("10.1.0.5"), "the server sees the router: {asked}");
    assert_eq!(OUT.reads("10.2.0.3:8080").as_deref(), Some("in"), "the forwarded port");
    assert!(IN.pings("10.9.0.1"), "the static route");
    assert_eq!(OUT.reads("10.2.0.3"), None, "another port leads nowhere");

    // A floating address, while everything else goes on.
    let mut body = json!({"as": "router", "name": "edge", "nat": true, "vrid": 1, "preferred": true, "routes": [],
        "wiring": {"interfaces": [], "floating_ips": []}});
    body["wiring"] = serde_json::to_value(wiring_with_floating()).unwrap();
    let router = definition_of(body);
    routers.ensure(&router).await.unwrap();
    switch.apply(&flows(&router)).await.unwrap();
    assert_eq!(OUT.reads("10.2.0.9").as_deref(), Some("in"), "in by the floating address");
    assert!(std::fs::read_to_string(&inside_log).unwrap().contains("10.2.0.6"), "the guest sees who asks");
    assert_eq!(IN.reads(OUT.address).as_deref(), Some("out"));
    assert!(std::fs::read_to_string(&log).unwrap().contains("10.2.0.9"), "out with the floating address");
    assert!(!IN.pings("10.9.0.1"), "the static route is gone");

    heals(&routers, &switch, &router).await;
    routers.remove(ROUTER).await.unwrap();
    routers.remove(ROUTER).await.unwrap();
    assert!(!seen().await.contains_key(&ROUTER));
    assert!(!run(&["ip", "netns", "list"]).contains("basalt"));
    for mut process in processes {
        let _ = process.kill();
    }
}

/// Whatever somebody does to a router is noticed and mended.
async fn heals(routers: &Routers, switch: &Switch, router: &RouterDefinition) {
    let seen = async || routers.look(&switch.look().await.unwrap()).await.unwrap()[&ROUTER].clone();
    let namespace = format!("basalt-{ROUTER}");
    let inside_of = |argv: &[&str]| run(&[&["ip", "netns", "exec", &namespace][..], argv].concat());
    let breaks: [(&str, &dyn Fn()); 6] = [
        ("rules flushed", &|| drop(inside_of(&["nft", "flush", "ruleset"]))),
        ("a device down", &|| drop(inside_of(&["ip", "link", "set", "rt5001", "down"]))),
        ("an address gone", &|| drop(inside_of(&["ip", "address", "flush", "dev", "rt5001"]))),
        ("a route gone", &|| drop(inside_of(&["ip", "route", "del", "default"]))),
        ("a port gone", &|| drop(run(&["ovs-vsctl", "del-port", "br-int", "rt5001"]))),
        ("the namespace gone", &|| drop(run(&["ip", "netns", "delete", &namespace]))),
    ];
    for (what, breaks) in breaks {
        breaks();
        assert!(!seen().await.running, "not noticed: {what}");
        routers.ensure(router).await.unwrap();
        let now = seen().await;
        assert!(now.running && now.active, "not mended: {what}: {now:?}");
        switch.apply(&flows(router)).await.unwrap();
        soon(what, || OUT.reads("10.2.0.9").as_deref() == Some("in")).await;
    }
}

fn wiring_with_floating() -> basalt_model::routers::RouterWiring {
    serde_json::from_value(json!({
        "interfaces": [{"network_id": Uuid::from_u128(INNER), "network": "n1", "address": "10.1.0.1",
            "mac": gateway_mac(5001)}],
        "uplink": {"port_id": Uuid::from_u128(50), "network_id": Uuid::from_u128(OUTER), "network": "n2",
            "address": "10.2.0.3", "mac": "02:00:00:00:aa:01"},
        "floating_ips": [{"port_id": Uuid::from_u128(51), "address": "10.2.0.9", "vm_id": Uuid::from_u128(7),
            "to_address": IN.address}]}))
    .unwrap()
}
