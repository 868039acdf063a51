//! The flows say what the pure decision says: a small interpreter of flows, and random groups.

use super::super::{FlowNetwork, PortNumbers, render};
use super::*;
use crate::host::FlowGroup;
use crate::security::{Flow, judge};
use basalt_model::{PortId, networks::Segment};
use basalt_wire::agent::directory::DirectoryGroup;
use proptest::prelude::*;
use uuid::Uuid;

const GUEST: u32 = 5;
const SERVER: u32 = 9;
const VNI: u32 = 4097;

fn group(n: u8) -> SecurityGroupId {
    SecurityGroupId(Uuid::from_u128(n.into()))
}

fn address(n: u8, v6: bool) -> IpAddr {
    if v6 { format!("fd00::{n}").parse().unwrap() } else { IpAddr::from([10, 10, 0, n]) }
}

/// A guest in some of the groups 1 to 3, which are as given; 4 is not known.
fn set(mine: &[u8], groups: &[Vec<RuleBody>], members: Vec<(u8, Vec<IpAddr>)>) -> FlowSet {
    let network_id = NetworkId(Uuid::from_u128(77));
    let network = FlowNetwork {
        id: network_id,
        segment: Segment::Vxlan,
        vni: VNI,
        cidr: "10.10.0.0/24".parse().unwrap(),
        cidr6: None,
        names: false,
        gateway: "10.10.0.1".parse().unwrap(),
        dhcp_server: "10.10.0.254".parse().unwrap(),
        dhcp: true,
        peers: vec![],
    };
    let port = |n: u8, security_groups| FlowPort {
        port_id: PortId(Uuid::from_u128(n.into())),
        network_id,
        mac: format!("02:00:00:00:00:{n:02x}"),
        address: [10, 10, 0, n].into(),
        address6: None,
        security_groups,
    };
    FlowSet {
        networks: vec![network],
        // Another port with other groups, so that there is more than one policy.
        ports: vec![port(5, mine.iter().map(|g| group(*g)).collect()), port(6, vec![group(2)])],
        groups: (1..)
            .zip(groups)
            .map(|(n, rules)| FlowGroup { id: group(n), rules: rules.clone() })
            .collect(),
        members: members.into_iter().map(|(n, members)| DirectoryGroup { id: group(n), members }).collect(),
        routers: vec![],
        hash: String::new(),
    }
}

fn numbers(set: &FlowSet) -> PortNumbers {
    PortNumbers {
        routers: BTreeMap::new(),
        guests: set.ports.iter().zip(GUEST..).map(|(p, n)| (p.port_id, n)).collect(),
        servers: set.networks.iter().map(|n| (n.id, SERVER)).collect(),
        tunnel: None,
        uplinks: BTreeMap::new(),
    }
}

/// What a new packet says of itself, in the words of flows.
fn fields(flow: &Flow) -> BTreeMap<&'static str, String> {
    let v6 = flow.remote.is_ipv6();
    let (own, far) = if flow.direction == Direction::Ingress { ("dst", "src") } else { ("src", "dst") };
    let field = |end: &str| match (v6, end) {
        (false, "src") => "nw_src",
        (false, _) => "nw_dst",
        (true, "src") => "ipv6_src",
        (true, _) => "ipv6_dst",
    };
    let mut out = BTreeMap::from([
        ("reg0", VNI.to_string()),
        ("ct_state", "+trk+new".to_owned()),
        (field(own), address(5, v6).to_string()),
        (field(far), flow.remote.to_string()),
        (if v6 { "ipv6" } else { "ip" }, String::new()),
    ]);
    match flow.direction {
        Direction::Ingress => out.extend([("reg1", GUEST.to_string()), ("in_port", "77".to_owned())]),
        Direction::Egress => out.extend([("in_port", GUEST.to_string())]),
    }
    let (protocol, icmp) = match (flow.protocol, v6) {
        (Protocol::Any, _) => return out,
        (Protocol::Tcp, false) => ("tcp", ""),
        (Protocol::Tcp, true) => ("tcp6", ""),
        (Protocol::Udp, false) => ("udp", ""),
        (Protocol::Udp, true) => ("udp6", ""),
        (Protocol::Icmp, _) => ("icmp", "icmp_"),
        (Protocol::Icmpv6, _) => ("icmp6", "icmpv6_"),
    };
    out.insert(protocol, String::new());
    for (name, value) in [("icmp_type", flow.icmp_type), ("icmp_code", flow.icmp_code)] {
        let name = match (icmp, name) {
            ("icmp_", name) => name,
            (_, "icmp_type") => "icmpv6_type",
            _ => "icmpv6_code",
        };
        value.map(|v| out.insert(name, v.to_string()));
    }
    flow.port.map(|port| out.insert("tp_dst", port.to_string()));
    out
}

fn holds(term: &str, packet: &BTreeMap<&str, String>) -> bool {
    let (field, wanted) = term.split_once('=').unwrap_or((term, ""));
    let Some(have) = packet.get(field) else { return false };
    match (field, wanted.split_once('/')) {
        ("tp_dst", Some((value, mask))) => {
            let hex = |t: &str| u32::from_str_radix(t.trim_start_matches("0x"), 16).unwrap();
            have.parse::<u32>().unwrap() & hex(mask) == hex(value)
        }
        (_, Some(_)) => wanted.parse::<IpNet>().unwrap().contains(&have.parse::<IpAddr>().unwrap()),
        ("ct_state", None) => have.contains(wanted.trim_start_matches("+trk")),
        _ => have == wanted,
    }
}

/// Runs a packet through tables; whether it is sent on.
fn run(flows: &[String], table: &str, packet: &mut BTreeMap<&'static str, String>) -> bool {
    let begin = format!("table={table},");
    let best = flows.iter().filter_map(|flow| {
        let (matching, actions) = flow.strip_prefix(&begin)?.split_once(",actions=").or_else(|| {
            let (priority, actions) = flow.strip_prefix(&begin)?.split_once("actions=")?;
            Some((priority, actions))
        })?;
        let mut priority = 32768;
        for term in matching.split(',').filter(|t| !t.is_empty()) {
            match term.strip_prefix("priority=") {
                Some(p) => priority = p.parse::<u32>().unwrap(),
                None if holds(term, packet) => {}
                None => return None,
            }
        }
        Some((priority, actions))
    });
    let Some((_, actions)) = best.max_by_key(|(priority, _)| *priority) else { return false };
    for action in actions.replace("),", ");").split(';').flat_map(split) {
        if let Some((value, register)) = action.strip_prefix("set_field:").and_then(|a| a.split_once("->")) {
            let known = ["reg0", "reg1", "reg3", "reg4", "reg5", "reg6"];
            packet.insert(known.iter().find(|r| **r == register).unwrap(), value.to_owned());
        } else if let Some(table) = action.strip_prefix("resubmit(,") {
            run(flows, table.trim_end_matches(')'), packet);
        } else if let Some(tracked) = action.strip_prefix("ct(table=") {
            return run(flows, tracked.split(',').next().unwrap(), packet);
        } else if action == "goto_table:20" || action.starts_with("output:") {
            return true;
        } else if let Some(table) = action.strip_prefix("goto_table:") {
            return run(flows, table, packet);
        }
    }
    false
}

/// Actions of a list; commas in brackets are theirs.
fn split(actions: &str) -> Vec<String> {
    let (mut out, mut depth) = (vec![String::new()], 0);
    for c in actions.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        out.last_mut().unwrap().push(c);
    }
    out
}

fn rule() -> impl Strategy<Value = RuleBody> {
    let remote = prop_oneof![
        Just(RemoteBody::Any),
        prop::sample::select(vec![
            "10.10.0.0/24",
            "10.10.0.8/29",
            "0.0.0.0/0",
            "fd00::/64",
            "::/0",
            "fd00::8/125"
        ])
        .prop_map(|c| RemoteBody::Cidr(c.parse().unwrap())),
        (1..=4_u8).prop_map(|g| RemoteBody::SecurityGroup(group(g))),
    ];
    let ports = prop::option::of((1..200_u32, 0..200_u32).prop_map(|(from, more)| (from, from + more)));
    let types = prop::option::of((0..3_u8, prop::option::of(0..2_u8)));
    (prop::bool::ANY, 0..5_usize, ports, types, remote).prop_map(
        |(ingress, protocol, ports, types, remote)| {
            let protocol = PROTOCOLS[protocol];
            let types = types.filter(|_| protocol.has_types());
            RuleBody {
                direction: if ingress { Direction::Ingress } else { Direction::Egress },
                protocol,
                ports: ports.filter(|_| protocol.has_ports()).map(|(from, to)| PortRange { from, to }),
                icmp_type: types.map(|t| t.0),
                icmp_code: types.and_then(|t| t.1),
                remote,
            }
        },
    )
}

const PROTOCOLS: [Protocol; 5] =
    [Protocol::Any, Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Icmpv6];

fn flow() -> impl Strategy<Value = Flow> {
    let icmp = (0..3_u8, 0..2_u8);
    (prop::bool::ANY, 0..5_usize, 1..400_u16, icmp, 7..14_u8, prop::bool::ANY).prop_map(
        |(ingress, protocol, port, (icmp_type, icmp_code), remote, v6)| {
            let protocol = PROTOCOLS[protocol];
            let v6 = match protocol {
                Protocol::Icmp => false,
                Protocol::Icmpv6 => true,
                _ => v6,
            };
            Flow {
                direction: if ingress { Direction::Ingress } else { Direction::Egress },
                protocol,
                port: Some(port).filter(|_| protocol.has_ports()),
                icmp_type: Some(icmp_type).filter(|_| protocol.has_types()),
                icmp_code: Some(icmp_code).filter(|_| protocol.has_types()),
                remote: address(remote, v6),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn n5_the_flows_admit_exactly_what_the_decision_admits(
        groups in prop::collection::vec(prop::collection::vec(rule(), 0..4), 3),
        mine in prop::collection::btree_set(1..=4_u8, 0..4),
        members in prop::collection::vec(prop::collection::btree_set((7..14_u8, prop::bool::ANY), 0..5), 4),
        asked in prop::collection::vec(flow(), 1..20),
    ) {
        let mine: Vec<u8> = mine.into_iter().collect();
        let members: Vec<(u8, Vec<IpAddr>)> = (1..)
            .zip(members)
            .map(|(n, m)| (n, m.into_iter().map(|(a, v6)| address(a, v6)).collect()))
            .collect();
        let set = set(&mine, &groups, members.clone());
        let flows = render(&set, &numbers(&set));
        let rules: Vec<_> = mine
            .iter()
            .map(|n| (group(*n), groups.get(usize::from(*n) - 1).map(|r| &**r)))
            .collect();
        let is_member = |g: SecurityGroupId, a: IpAddr| members.iter().any(|(n, m)| group(*n) == g && m.contains(&a));
        for flow in &asked {
            let table = if flow.direction == Direction::Ingress { "30" } else { "10" };
            let sent = run(&flows, table, &mut fields(flow));
            prop_assert_eq!(sent, judge(flow, &rules, is_member).admits(), "{:?}\n{}", flow, flows.join("\n"));
        }
    }

    #[test]
    fn n5_a_range_of_ports_is_all_of_its_ports_and_few_masks(from in 1..=65535_u32, to in 1..=65535_u32) {
        let range = PortRange { from: from.min(to), to: from.max(to) };
        let masks = masks(range);
        prop_assert!(masks.len() <= 30);
        for port in [1, range.from - 1, range.from, range.from + 1, range.to - 1, range.to, range.to + 1, 65535] {
            let Ok(short) = u16::try_from(port) else { continue };
            let matched = masks.iter().filter(|(value, mask)| short & mask == *value).count();
            prop_assert_eq!(matched, usize::from((range.from..=range.to).contains(&port)), "{}", port);
        }
    }
}

#[test]
fn n5_ports_of_the_same_groups_share_their_flows() {
    let rules: Vec<RuleBody> = serde_json::from_value(serde_json::json!([
        {"direction": "ingress", "protocol": "tcp", "ports": {"from": 80, "to": 80}, "remote": "any"},
        {"direction": "ingress", "protocol": "tcp", "remote": {"security_group": group(2)}},
    ]))
    .unwrap();
    let count = |ports: u8| {
        let mut set = set(
            &[1],
            std::slice::from_ref(&rules),
            vec![(2, (100..200).map(|n| address(n, false)).collect())],
        );
        let one = set.ports[0].clone();
        set.ports = (1..=ports)
            .map(|n| FlowPort { port_id: PortId(Uuid::from_u128(n.into())), ..one.clone() })
            .collect();
        let flows = render(&set, &numbers(&set));
        let of = |table: &str| flows.iter().filter(|f| f.starts_with(table)).count();
        (of("table=31,"), of("table=25,"), of("table=33,"))
    };
    // Invalid, established, related, the rest; port 80 in two families; one set of groups in two families. And a drop of
    // each port's own, so that it is counted for it.
    assert_eq!(count(1), (8, 101, 1 + 1));
    assert_eq!(count(50), (8, 101, 1 + 50));
}

#[test]
fn n5_a_lease_and_neighbours_pass_whatever_the_groups_say() {
    let closed: Vec<RuleBody> = serde_json::from_value(
        serde_json::json!([{"direction": "egress", "protocol": "tcp", "remote": {"cidr": "192.0.2.0/24"}}]),
    )
    .unwrap();
    let set = set(&[1], &[closed], vec![]);
    let flows = render(&set, &numbers(&set));
    let packet = |terms: &[(&'static str, &str)]| -> BTreeMap<&'static str, String> {
        terms.iter().map(|(k, v)| (*k, (*v).to_owned())).chain([("reg0", VNI.to_string())]).collect()
    };
    let guest = GUEST.to_string();
    let server = SERVER.to_string();
    let udp = [("ip", ""), ("udp", ""), ("ct_state", "+trk+new")];
    let discover = [("in_port", &*guest), ("nw_dst", "255.255.255.255"), ("tp_src", "68"), ("tp_dst", "67")];
    assert!(run(&flows, "10", &mut packet(&[&udp[..], &discover].concat())));
    let elsewhere = [("in_port", &*guest), ("nw_dst", "10.10.0.6"), ("tp_src", "68"), ("tp_dst", "67")];
    assert!(!run(&flows, "10", &mut packet(&[&udp[..], &elsewhere].concat())));
    let offer = |from: &str| {
        packet(
            &[&udp[..], &[("in_port", from), ("reg1", &guest), ("tp_src", "67"), ("tp_dst", "68")]].concat(),
        )
    };
    assert!(run(&flows, "30", &mut offer(&server)));
    assert!(!run(&flows, "30", &mut offer("6")));
    assert!(run(&flows, "30", &mut packet(&[("arp", ""), ("reg1", &guest), ("in_port", "6")])));
    for what in ["133", "135", "136"] {
        let mut solicit = packet(&[
            ("ipv6", ""),
            ("icmp6", ""),
            ("icmpv6_type", what),
            ("in_port", &guest),
            ("ct_state", "+trk+new"),
        ]);
        assert!(run(&flows, "10", &mut solicit), "{what}");
    }
}
