//! N5: security groups, traced by a real Open vSwitch. (That connections are tracked is seen on real hosts.)

use crate::ovs::{BRIDGE, Ovs, open, plug, port, set};
use basalt_model::{PortId, SecurityGroupId};
use basalt_plan::host::{FlowGroup, FlowPort, FlowSet};
use basalt_wire::agent::{directory::DirectoryGroup, manifest::RuleBody};
use serde_json::json;
use uuid::Uuid;

const WEB: SecurityGroupId = SecurityGroupId(Uuid::from_u128(0x61));
const FRIENDS: SecurityGroupId = SecurityGroupId(Uuid::from_u128(0x62));
const NARROW: SecurityGroupId = SecurityGroupId(Uuid::from_u128(0x63));

fn rules(all: serde_json::Value) -> Vec<RuleBody> {
    serde_json::from_value(all).unwrap()
}

/// Guest 5 says what it likes, 6 is the web server, 7 may only look names up.
pub(crate) fn grouped() -> FlowSet {
    let web = rules(json!([
        {"direction": "ingress", "protocol": "tcp", "ports": {"from": 80, "to": 80}, "remote": "any"},
        {"direction": "ingress", "protocol": "tcp", "ports": {"from": 8000, "to": 8010}, "remote": {"cidr": "10.10.0.0/29"}},
        {"direction": "ingress", "protocol": "icmp", "icmp_type": 8, "remote": "any"},
        {"direction": "ingress", "protocol": "tcp", "ports": {"from": 5432, "to": 5432}, "remote": {"security_group": FRIENDS}},
        {"direction": "ingress", "protocol": "icmpv6", "icmp_type": 128, "icmp_code": 0, "remote": {"cidr": "fd00::/8"}},
        {"direction": "ingress", "protocol": "udp", "remote": {"cidr": "fd00:10::/64"}},
    ]));
    let narrow = rules(json!([
        {"direction": "egress", "protocol": "udp", "ports": {"from": 53, "to": 53}, "remote": "any"},
        {"direction": "egress", "protocol": "tcp", "remote": {"security_group": WEB}},
        {"direction": "egress", "protocol": "any", "remote": {"cidr": "fd00:10::/64"}},
    ]));
    let of =
        |n: u8, groups: &[SecurityGroupId]| FlowPort { security_groups: groups.to_vec(), ..port(n, 100) };
    FlowSet {
        ports: vec![of(5, &[]), of(6, &[WEB]), of(7, &[NARROW])],
        groups: vec![FlowGroup { id: WEB, rules: web }, FlowGroup { id: NARROW, rules: narrow }],
        members: vec![
            DirectoryGroup { id: WEB, members: vec!["10.10.0.6".parse().unwrap()] },
            DirectoryGroup {
                id: FRIENDS,
                members: vec!["10.10.0.5".parse().unwrap(), "fd00:10::5".parse().unwrap()],
            },
        ],
        ..set("h")
    }
}

fn packet(from: u8, number: u32, to: u8, what: &str) -> String {
    let (protocol, rest) = what.split_once(',').unwrap_or((what, ""));
    let rest = if rest.is_empty() { String::new() } else { format!(",{rest}") };
    format!(
        "in_port={number},dl_src=02:00:00:00:00:{from:02x},dl_dst=02:00:00:00:00:{to:02x},{protocol},\
         nw_src=10.10.0.{from},nw_dst=10.10.0.{to}{rest}"
    )
}

#[tokio::test]
async fn n5_a_switch_admits_what_a_rule_admits_and_no_more() {
    let ovs = Ovs::start().await;
    let set = grouped();
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    assert_eq!(ovs.standing().await.as_deref(), Some("h"), "the switch keeps the flows as they were said");
    let view = ovs.switch.look().await.unwrap();
    let number = |name: &str| view.ports.iter().find(|p| p.name == name).unwrap().number.unwrap();
    let (five, seven) = (number("tap05"), number("tap07"));
    for (what, admitted) in [
        ("tcp,tcp_dst=80", true),
        ("tcp,tcp_dst=81", false),
        ("udp,udp_dst=80", false),
        ("tcp,tcp_dst=7999", false),
        ("tcp,tcp_dst=8000", true),
        ("tcp,tcp_dst=8010", true),
        ("tcp,tcp_dst=8011", false),
        ("icmp,icmp_type=8", true),
        ("icmp,icmp_type=13", false),
        ("tcp,tcp_dst=5432", true),
    ] {
        assert_eq!(ovs.trace(&packet(5, five, 6, what)) != "drop", admitted, "{what}");
    }
    // Nobody is in no group for nothing: what comes to guest 5 is dropped, what it sends is not.
    assert_eq!(ovs.trace(&packet(7, seven, 5, "tcp,tcp_dst=80")), "drop");
    // Guest 7 may go to members of a group, and to name servers, if those let it in.
    assert_ne!(ovs.trace(&packet(7, seven, 6, "tcp,tcp_dst=80")), "drop");
    assert_eq!(ovs.trace(&packet(7, seven, 6, "tcp,tcp_dst=5432")), "drop", "it is no friend");
    let established = |flow: &str| {
        let next = ["ofproto/trace", BRIDGE, flow, "--ct-next", "trk,est", "--ct-next", "trk,est"];
        ovs.run("ovs-appctl", &next).lines().rfind(|l| l.starts_with("Datapath actions:")).unwrap().to_owned()
    };
    for flow in [packet(7, seven, 5, "tcp,tcp_dst=9999"), packet(5, five, 7, "udp,udp_dst=9999")] {
        assert!(!established(&flow).contains("drop"), "answers pass whatever the rules say");
    }
    let invalid = ["ofproto/trace", BRIDGE, &packet(5, five, 6, "tcp,tcp_dst=80"), "--ct-next", "trk,inv"];
    assert!(ovs.run("ovs-appctl", &invalid).contains("Datapath actions: drop"));
}

#[tokio::test]
async fn n5_a_number_that_another_port_had_brings_none_of_its_connections() {
    let ovs = Ovs::start().await;
    let set = grouped();
    plug(&ovs.switch, &set).await;
    ovs.switch.apply(&set).await.unwrap();
    let zones = || std::fs::read_to_string(ovs.dir.path().join("state/zones.json")).unwrap();
    let numbers = ovs.switch.look().await.unwrap().numbers();
    assert_eq!(zones(), serde_json::to_string(&numbers.guests).unwrap());
    // A connection of guest 6 stands in its zone, and in that of guest 5.
    let mac = |n: u8| format!("02:00:00:00:00:{n:02x}");
    let frame = format!(
        "in_port(1),eth(src={},dst={}),eth_type(0x0800),ipv4(src=10.10.0.5,dst=10.10.0.6,proto=17,tos=0,ttl=64,frag=no),udp(src=1,dst=2)",
        mac(5),
        mac(6)
    );
    let device = |name: &str| name.to_owned();
    ovs.run("ovs-appctl", &["netdev-dummy/receive", &device("tap05"), &frame]);
    let tracked = || ovs.run("ovs-appctl", &["dpctl/dump-conntrack", "dummy@ovs-dummy"]);
    let zone = numbers.guests[&port(5, 100).port_id];
    assert!(tracked().contains(&format!("zone={zone}")), "{}", tracked());
    // Flows that are only set anew leave it alone.
    ovs.switch.apply(&FlowSet { hash: "h2".into(), ..set.clone() }).await.unwrap();
    assert!(tracked().contains(&format!("zone={zone}")));
    // The number goes to a port of another VM.
    let other = PortId(Uuid::from_u128(0x77));
    ovs.run(
        "ovs-vsctl",
        &["--timeout=5", "set", "interface", "tap05", &format!("external_ids:iface-id=\"{other}\"")],
    );
    let mut next = FlowSet { hash: "h3".into(), ..set };
    next.ports[0] = FlowPort { port_id: other, ..next.ports[0].clone() };
    next.groups.push(open());
    ovs.switch.apply(&next).await.unwrap();
    assert!(!tracked().contains(&format!("zone={zone}")), "{}", tracked());
}
