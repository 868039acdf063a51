//! N1, N4, S47: VLAN and flat networks on their uplink bridge, and IPv6, traced by a real Open vSwitch.

use crate::{
    golden,
    ovs::{BRIDGE, Ovs, definition, network, open, plug, port, set},
};
use basalt_agent::host::ovs::dhcp;
use basalt_model::networks::{Segment, address6, interface_address};
use basalt_plan::host::{
    FlowNetwork, FlowPort, FlowSet, KnownName, NamesDefinition, NetworkDefinition,
    flows::{PortNumbers, render, server_mac},
};
use basalt_wire::agent::directory::{Peer, PeerPort};
use std::{collections::BTreeMap, net::Ipv6Addr, path::Path};

const PREFIX: &str = "fd00:10::/64";
const UPLINK: &str = "br-ext";

fn mac(n: u8) -> String {
    format!("02:00:00:00:00:{n:02x}")
}

fn address(n: u8) -> Ipv6Addr {
    address6(PREFIX.parse().unwrap(), &mac(n))
}

fn link_local(n: u8) -> Ipv6Addr {
    interface_address("fe80::".parse().unwrap(), &mac(n))
}

fn port_with_both(n: u8) -> FlowPort {
    FlowPort { address6: Some(address(n)), ..port(n, 100) }
}

/// Two guests with IPv6 here, one on a peer.
fn dual(hash: &str) -> FlowSet {
    let there = PeerPort { address: "10.10.0.8".parse().unwrap(), mac: mac(8), name: None };
    let peer = Peer { tunnel_address: "10.78.0.2".parse().unwrap(), ports: vec![there] };
    let network =
        FlowNetwork { cidr6: Some(PREFIX.parse().unwrap()), names: true, peers: vec![peer], ..network(100) };
    FlowSet {
        networks: vec![network],
        ports: vec![port_with_both(5), port_with_both(6)],
        groups: vec![open()],
        members: vec![],
        routers: vec![],
        hash: hash.into(),
    }
}

/// Two guests on VLAN 7, one in a flat network of the same uplink.
fn wired(hash: &str) -> FlowSet {
    let vlan = Segment::Vlan { vlan_id: 7, uplink: UPLINK.into() };
    let flat = Segment::Flat { uplink: UPLINK.into() };
    FlowSet {
        networks: vec![
            FlowNetwork { segment: vlan, ..network(100) },
            FlowNetwork { segment: flat, ..network(200) },
        ],
        ..set(hash)
    }
}

#[test]
fn n1_the_flows_of_ipv6_and_of_uplinks_are_as_checked_in() {
    let numbers = |set: &FlowSet| PortNumbers {
        routers: BTreeMap::new(),
        guests: set.ports.iter().zip(1..).map(|(p, number)| (p.port_id, number)).collect(),
        servers: BTreeMap::from([(network(100).id, 9)]),
        tunnel: Some(12),
        uplinks: BTreeMap::from([(UPLINK.to_owned(), 13)]),
    };
    let text = |set: FlowSet| render(&set, &numbers(&set)).join("\n") + "\n";
    golden::check("flows-ipv6.txt", &text(dual("h")));
    golden::check("flows-uplink.txt", &text(wired("h")));
}

fn number(ovs: &Ovs, view: &basalt_agent::host::ovs::SwitchView, name: &str) -> u32 {
    let found = view.ports.iter().find(|p| p.name == name);
    found.unwrap_or_else(|| panic!("{name}: {}", ovs.run("ovs-vsctl", &["show"]))).number.unwrap()
}

async fn with_server(ovs: &Ovs) {
    let mark = format!("external_ids:basalt-network=\"{}\"", network(100).id);
    let add = ["--timeout=5", "add-port", BRIDGE, "dhcp100", "--", "set", "interface", "dhcp100"];
    ovs.run("ovs-vsctl", &[&add[..], &["type=internal", &mark]].concat());
}

#[tokio::test]
async fn n4_s47_a_guest_speaks_ipv6_only_from_its_own_addresses_and_is_no_router() {
    let ovs = Ovs::start_with(Some("10.78.0.1")).await;
    let set = dual("h");
    plug(&ovs.switch, &set).await;
    with_server(&ovs).await;
    ovs.switch.apply(&set).await.unwrap();
    assert_eq!(ovs.standing().await.as_deref(), Some("h"));
    let view = ovs.switch.look().await.unwrap();
    let (a, b, server) =
        (number(&ovs, &view, "tap05"), number(&ovs, &view, "tap06"), number(&ovs, &view, "dhcp100"));
    let (own, others) = (address(5), address(6));
    let frame = frame_from(a);
    let me = mac(5);
    for from in [own.to_string(), link_local(5).to_string()] {
        let sent = ovs.trace(&frame(&me, &from, &mac(6), "tcp6,tcp_dst=80"));
        assert!(sent != "drop", "{from}: {sent}");
    }
    let own = own.to_string();
    let group = "33:33:00:00:00:01";
    for (what, flow) in [
        ("another's address", frame(&me, &others.to_string(), &mac(6), "tcp6,tcp_dst=80")),
        ("another's link-local address", frame(&me, &link_local(6).to_string(), &mac(6), "tcp6,tcp_dst=80")),
        ("another's MAC", frame(&mac(9), &own, &mac(6), "tcp6,tcp_dst=80")),
        ("a privacy address", frame(&me, "fd00:10::1234", &mac(6), "tcp6,tcp_dst=80")),
        ("a router", frame(&me, &link_local(5).to_string(), group, "icmp6,icmpv6_type=134,icmpv6_code=0")),
        ("a redirect", frame(&me, &own, &mac(6), "icmp6,icmpv6_type=137,icmpv6_code=0")),
        ("a DHCPv6 server", frame(&me, &own, &mac(6), "udp6,udp_src=547,udp_dst=546")),
        (
            "another's neighbour advertisement",
            frame(
                &me,
                &own,
                &mac(6),
                &format!("icmp6,icmpv6_type=136,icmpv6_code=0,nd_target={others},nd_tll={me}"),
            ),
        ),
        (
            "a neighbour advertisement with another's MAC",
            frame(
                &me,
                &own,
                &mac(6),
                &format!("icmp6,icmpv6_type=136,icmpv6_code=0,nd_target={own},nd_tll={}", mac(9)),
            ),
        ),
        (
            "a question with another's MAC",
            frame(
                &me,
                &own,
                group,
                &format!("icmp6,icmpv6_type=135,icmpv6_code=0,nd_target={others},nd_sll={}", mac(9)),
            ),
        ),
        ("a door of the host", frame(&me, &own, &server_mac(100), "tcp6,tcp_flags=syn,tcp_dst=22")),
        (
            "a question for nobody's address",
            frame(
                &me,
                &own,
                group,
                &format!("icmp6,icmpv6_type=135,icmpv6_code=0,nd_target=fd00:10::77,nd_sll={me}"),
            ),
        ),
    ] {
        assert_eq!(ovs.trace(&flow), "drop", "{what}: {flow}");
    }
    questions_are_answered_here(&ovs, a, b, server);
}

/// A frame that enters by a port: source MAC, source address, destination MAC, the rest.
fn frame_from(port: u32) -> impl Fn(&str, &str, &str, &str) -> String {
    move |source, from, to, rest| {
        let (protocol, rest) = rest.split_once(',').unwrap_or((rest, ""));
        format!(
            "in_port={port},dl_src={source},dl_dst={to},{protocol},ipv6_src={from},ipv6_dst=fd00:10::1,{rest}"
        )
    }
}

/// N7, and who is asked for an address, a router or a name.
fn questions_are_answered_here(ovs: &Ovs, a: u32, b: u32, server: u32) {
    let (own, me, group) = (address(5).to_string(), mac(5), "33:33:00:00:00:01");
    let frame = frame_from(a);
    // N7: who has an address is answered here: for a port of this host, of a peer, and for the server.
    for (of, target) in [(mac(6), address(6)), (mac(8), address(8)), (mac(6), link_local(6))] {
        let ask = format!("icmp6,icmpv6_type=135,icmpv6_code=0,nd_target={target},nd_sll={me}");
        let said = ovs.flow_trace(&frame(&me, &own, "33:33:ff:00:00:06", &ask));
        assert!(said.contains(&format!("set_field:{of}->nd_tll")) && said.contains("IN_PORT"), "{said}");
    }
    // Duplicate address detection is asked, and nobody else has it.
    let detect = format!("icmp6,icmpv6_type=135,icmpv6_code=0,nd_target={own}");
    assert_eq!(ovs.trace(&frame(&me, "::", "33:33:ff:00:00:05", &detect)), "drop");
    // Who looks for a router or an address asks the server alone.
    for asks in ["icmp6,icmpv6_type=133,icmpv6_code=0", "udp6,udp_src=546,udp_dst=547"] {
        let sent = ovs.flow_trace(&frame(&me, &link_local(5).to_string(), "33:33:00:00:00:02", asks));
        assert!(sent.contains(&format!("set_field:{server:#x}->reg1")), "{sent}");
        assert!(!sent.contains(&format!("set_field:{b:#x}->reg1")), "{sent}");
    }
    // What the server advertises goes to this host's guests, and through no tunnel: each host says it itself.
    let router = interface_address("fe80::".parse().unwrap(), &server_mac(100));
    let advertised = ovs.flow_trace(&format!(
        "in_port={server},dl_src={},dl_dst={group},icmp6,ipv6_src={router},ipv6_dst=ff02::1,icmpv6_type=134,icmpv6_code=0",
        server_mac(100)
    ));
    assert!(advertised.contains(&format!("set_field:{a:#x}->reg1")), "{advertised}");
    assert!(!advertised.contains("tun_dst"), "{advertised}");
    let name = ovs.trace(&frame(&me, &own, &server_mac(100), "udp6,udp_dst=53"));
    assert_ne!(name, "drop", "a question for a name");
}

#[tokio::test]
async fn n1_s47_networks_of_one_uplink_leave_and_enter_by_their_own_vlan_only() {
    let ovs = Ovs::start().await;
    ovs.run(
        "ovs-vsctl",
        &["--timeout=5", "add-br", UPLINK, "--", "set", "bridge", UPLINK, "datapath_type=dummy"],
    );
    let set = wired("h");
    plug(&ovs.switch, &set).await;
    with_server(&ovs).await;
    ovs.switch.apply(&set).await.unwrap();
    assert_eq!(ovs.standing().await.as_deref(), Some("h"));
    let view = ovs.switch.look().await.unwrap();
    let (a, b, c) =
        (number(&ovs, &view, "tap05"), number(&ovs, &view, "tap06"), number(&ovs, &view, "tap07"));
    let (server, wire) = (number(&ovs, &view, "dhcp100"), view.patches[UPLINK].number.unwrap());
    let to = |n: u32| format!("set_field:{n:#x}->reg1");
    let all = "ff:ff:ff:ff:ff:ff";
    let from = |port: u32, n: u8, to: &str| {
        format!("in_port={port},dl_src={},dl_dst={to},ip,nw_src=10.10.0.{n},nw_dst=10.10.0.200", mac(n))
    };
    // Unknown to the truth: it may be on the wire. Each network with its own tag.
    let tagged = ovs.flow_trace(&from(a, 5, "00:11:22:33:44:55"));
    assert!(tagged.contains("push_vlan:0x8100") && tagged.contains("dl_vlan=7"), "{tagged}");
    assert!(tagged.contains(&format!("output:{wire}")), "{tagged}");
    let flat = ovs.flow_trace(&from(c, 7, "00:11:22:33:44:55"));
    assert!(flat.contains(&format!("output:{wire}")) && !flat.contains("push_vlan"), "{flat}");
    // Known unicast stays here.
    let here = ovs.flow_trace(&from(a, 5, &mac(6)));
    assert!(here.contains(&to(b)) && !here.contains("push_vlan"), "{here}");
    let shout = ovs.flow_trace(&from(a, 5, all));
    assert!(shout.contains(&to(b)) && shout.contains("push_vlan") && !shout.contains(&to(c)), "{shout}");
    // From the wire: by the tag, to guests only, and never back.
    let came = |vlan: &str, to: &str| {
        format!(
            "in_port={wire},{vlan}dl_src=00:11:22:33:44:55,dl_dst={to},ip,nw_src=10.10.0.200,nw_dst=10.10.0.5"
        )
    };
    let seven = "dl_vlan=7,dl_vlan_pcp=0,";
    assert!(ovs.flow_trace(&came(seven, &mac(5))).contains(&to(a)));
    assert!(ovs.flow_trace(&came("", &mac(7))).contains(&to(c)));
    for (what, flow) in [
        ("another VLAN's guest", came(seven, &mac(7))),
        ("the flat network's frames are no VLAN's", came("", &mac(5))),
        ("a VLAN that is no network", came("dl_vlan=8,dl_vlan_pcp=0,", &mac(5))),
        ("for nobody here", came(seven, "00:11:22:33:44:66")),
    ] {
        assert_eq!(ovs.trace(&flow), "drop", "{what}");
    }
    let heard = ovs.flow_trace(&came(seven, all));
    assert!(heard.contains(&to(a)) && heard.contains(&to(b)), "{heard}");
    assert!(!heard.contains(&to(server)) && !heard.contains("push_vlan"), "{heard}");
    // Another server on the wire answers none of our guests; ours says nothing there.
    let offer =
        format!("in_port={wire},{seven}dl_src=00:11:22:33:44:55,dl_dst={all},udp,udp_src=67,udp_dst=68");
    assert_eq!(ovs.trace(&offer), "drop");
    let outward =
        format!("in_port={server},dl_src={},dl_dst=00:11:22:33:44:55,ip,nw_src=10.10.0.254", server_mac(100));
    assert_eq!(ovs.trace(&outward), "drop");
}

#[tokio::test]
async fn n1_r37_a_broken_patch_is_noticed_and_made_anew_and_one_that_nobody_needs_goes() {
    let ovs = Ovs::start().await;
    let set = wired("h");
    plug(&ovs.switch, &set).await;
    let missing = ovs.switch.apply(&set).await.unwrap_err().to_string();
    assert!(missing.contains("no bridge br-ext"), "{missing}");
    let add = ["--timeout=5", "add-br", UPLINK, "--", "set", "bridge", UPLINK];
    ovs.run("ovs-vsctl", &[&add[..], &["datapath_type=system"]].concat());
    let other = ovs.switch.apply(&set).await.unwrap_err().to_string();
    assert!(other.contains("another datapath"), "{other}");
    ovs.run("ovs-vsctl", &["--timeout=5", "set", "bridge", UPLINK, "datapath_type=dummy"]);
    ovs.switch.apply(&set).await.unwrap();
    for fault in [
        &["del-port", "up-br-ext"][..],
        &["del-port", "int-br-ext"],
        &["set", "interface", "int-br-ext", "options:peer=elsewhere"],
        &["set", "interface", "up-br-ext", "type=internal"],
    ] {
        ovs.run("ovs-vsctl", &[&["--timeout=5"], fault].concat());
        assert_eq!(ovs.standing().await, None, "{fault:?}");
        ovs.switch.apply(&set).await.unwrap();
        assert_eq!(ovs.standing().await.as_deref(), Some("h"), "{fault:?}");
    }
    ovs.switch.apply(&crate::ovs::set("tunnels only")).await.unwrap();
    let left = ovs.run("ovs-vsctl", &["--timeout=5", "show"]);
    assert!(!left.contains("up-br-ext") && !left.contains("int-br-ext"), "{left}");
}

#[test]
fn n1_dnsmasq_takes_the_configuration_of_ipv6_and_names() {
    let mut dual =
        NetworkDefinition { cidr6: Some(PREFIX.parse().unwrap()), dns: vec![], names: true, ..definition() };
    for reservation in &mut dual.reservations {
        reservation.address6 = Some(address6(PREFIX.parse().unwrap(), &reservation.mac));
    }
    golden::check("dnsmasq-ipv6.conf", &dhcp::configuration(&dual, Path::new("/run/basalt/networks/n")));
    golden::check("dnsmasq-ipv6.hosts", &dhcp::reservations(&dual));
    let names = dual.reservations.iter().map(|r| KnownName {
        hostname: r.hostname.clone(),
        address: r.address,
        address6: r.address6,
    });
    let names = NamesDefinition { id: dual.id, names: names.collect(), hash: String::new() };
    golden::check("dnsmasq-ipv6.names", &dhcp::names(&names));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dnsmasq.conf");
    std::fs::write(&file, dhcp::configuration(&dual, dir.path())).unwrap();
    let test = ["--test".to_owned(), format!("--conf-file={}", file.display())];
    let output = std::process::Command::new("dnsmasq").args(test).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
