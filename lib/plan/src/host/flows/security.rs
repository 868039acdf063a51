//! Security groups as flows: connections are tracked in a zone of their own for each guest's port.
//!
//! ```text
//! 10 guest ─► 12 ─┬─ DHCP, who has an address ──────────────────────────────► 20
//!                 └► ct(zone of sender) ─► 11 ─┬─ established ──────────────► 20
//!                                              └─ new, a rule says so: commit ► 20
//! 30 guest ─► 32 ─┬─ DHCP, who has an address ──────────────────────────────► out
//!                 └► ct(zone of receiver) ► 31 ─┬─ established ─────────────► out
//!                                               └─ new, a rule says so: commit ► out
//! ```
//!
//! Before that, 15 puts the set of groups that the destination is in into reg4, 25 that of the source into reg3.
//! Ports that are in the same groups share their rules: reg5 is the number of that policy, reg6 the zone. A rule about a
//! group costs one flow for each set of groups that has it, however many addresses are in it; each address costs one
//! flow for each network that asks about it. A zone has the number of its port on the switch.

use super::super::{FlowNetwork, FlowPort, FlowSet};
use basalt_model::{
    NetworkId, SecurityGroupId,
    security_groups::{Direction, PortRange, Protocol},
};
use basalt_wire::agent::manifest::{RemoteBody, RuleBody};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

type Groups = BTreeSet<SecurityGroupId>;

/// Tables and registers of one direction.
struct Way {
    direction: Direction,
    /// Where rules are.
    rules: u8,
    /// Where what no rule admits is dropped in the port's own name, so that it is counted there (N8).
    refused: u8,
    /// Where the groups of the other end are looked up.
    sets: u8,
    /// The register that has them.
    register: u8,
    /// The fields of the other end's address.
    fields: [&'static str; 2],
    /// What is done with what is admitted.
    pass: &'static str,
}

const EGRESS: Way = Way {
    direction: Direction::Egress,
    rules: 11,
    refused: 13,
    sets: 15,
    register: 4,
    fields: ["nw_dst", "ipv6_dst"],
    pass: "goto_table:20",
};
const INGRESS: Way = Way {
    direction: Direction::Ingress,
    rules: 31,
    refused: 33,
    sets: 25,
    register: 3,
    fields: ["nw_src", "ipv6_src"],
    pass: "output:NXM_NX_REG1[]",
};
const COMMIT: &str = "ct(commit,zone=NXM_NX_REG6[0..15])";

/// What the groups of all ports come to.
pub(super) struct Policies<'a> {
    rules: BTreeMap<SecurityGroupId, &'a [RuleBody]>,
    /// Combinations of groups that ports are in, and their numbers.
    policies: BTreeMap<&'a [SecurityGroupId], usize>,
    /// Combinations of groups that other ends are in, as far as rules ask, and their numbers.
    sets: BTreeMap<Groups, usize>,
    /// By network, as the flows call it, direction and address.
    lookups: BTreeMap<(u32, Direction, IpAddr), Groups>,
}

impl<'a> Policies<'a> {
    pub(super) fn new(set: &'a FlowSet) -> Self {
        let rules: BTreeMap<_, _> = set.groups.iter().map(|g| (g.id, &*g.rules)).collect();
        let used: BTreeSet<&[SecurityGroupId]> = set.ports.iter().map(|p| &*p.security_groups).collect();
        let mut lookups: BTreeMap<_, Groups> = BTreeMap::new();
        for network in &set.networks {
            for direction in [Direction::Ingress, Direction::Egress] {
                let asked = asked(set, network.id, direction, &rules);
                for group in set.members.iter().filter(|g| asked.contains(&g.id)) {
                    for member in &group.members {
                        lookups.entry((network.vni, direction, *member)).or_default().insert(group.id);
                    }
                }
            }
        }
        let sets: BTreeSet<&Groups> = lookups.values().collect();
        Self {
            policies: used.into_iter().zip(1..).collect(),
            sets: sets.into_iter().cloned().zip(1..).collect(),
            rules,
            lookups,
        }
    }

    /// What holds for all ports.
    pub(super) fn render(&self, flows: &mut Vec<String>) {
        ask(flows);
        for way in [&EGRESS, &INGRESS] {
            let table = format!("table={}", way.rules);
            let refused = way.refused;
            flows.push(format!("{table},priority=100,ct_state=+trk+inv,actions=goto_table:{refused}"));
            flows.push(format!("{table},priority=90,ct_state=+trk+est,actions={}", way.pass));
            // ICMP errors about a connection.
            flows.push(format!("{table},priority=90,ct_state=+trk+rel,actions={}", way.pass));
            flows.push(format!("{table},priority=0,actions=goto_table:{refused}"));
            flows.push(format!("table={refused},priority=0,actions=drop"));
            let register = way.register;
            flows.push(format!("table={},priority=0,actions=set_field:0->reg{register}", way.sets));
            for (groups, policy) in &self.policies {
                self.admit(flows, way, groups, *policy);
            }
        }
        for ((vni, direction, address), groups) in &self.lookups {
            let way = if *direction == Direction::Egress { &EGRESS } else { &INGRESS };
            let (family, field) = match address {
                IpAddr::V4(_) => ("ip", way.fields[0]),
                IpAddr::V6(_) => ("ipv6", way.fields[1]),
            };
            flows.push(format!(
                "table={},priority=100,reg0={vni},{family},{field}={address},actions=set_field:{}->reg{}",
                way.sets, self.sets[groups], way.register
            ));
        }
    }

    /// The rules of a policy in one direction.
    fn admit(&self, flows: &mut Vec<String>, way: &Way, groups: &[SecurityGroupId], policy: usize) {
        let new = format!("table={},priority=50,ct_state=+trk+new,reg5={policy}", way.rules);
        let pass = format!("actions={COMMIT},{}", way.pass);
        let known: Vec<_> = groups.iter().map(|g| (*g, self.rules.get(g).copied())).collect();
        if way.direction == Direction::Egress && !crate::security::restricts_egress(&known) {
            flows.extend(["ip", "ipv6"].map(|family| format!("{new},{family},{pass}")));
        }
        let rules = known.iter().filter_map(|(_, rules)| *rules).flatten();
        for rule in rules.filter(|rule| rule.direction == way.direction) {
            for what in self.matches(way, rule) {
                flows.push(format!("{new}{what},{pass}"));
            }
        }
    }

    /// What a rule admits, each as the tail of a match.
    fn matches(&self, way: &Way, rule: &RuleBody) -> Vec<String> {
        let mut out = Vec::new();
        for &(family, protocol) in protocols(rule.protocol) {
            for remote in self.remotes(way, &rule.remote, family) {
                for rest in details(rule) {
                    out.push(format!(",{protocol}{remote}{rest}"));
                }
            }
        }
        // Two families of one protocol, where nothing else tells them apart, are two flows; the same one twice is one.
        out.dedup();
        out
    }

    fn remotes(&self, way: &Way, remote: &RemoteBody, family: usize) -> Vec<String> {
        let of = |cidr: &IpNet| usize::from(matches!(cidr, IpNet::V6(_)));
        match remote {
            RemoteBody::Any => vec![String::new()],
            RemoteBody::Cidr(cidr) if of(cidr) != family => Vec::new(),
            RemoteBody::Cidr(cidr) if cidr.prefix_len() == 0 => vec![String::new()],
            RemoteBody::Cidr(cidr) => vec![format!(",{}={cidr}", way.fields[family])],
            RemoteBody::SecurityGroup(group) => {
                let having = self.sets.iter().filter(|(groups, _)| groups.contains(group));
                having.map(|(_, number)| format!(",reg{}={number}", way.register)).collect()
            }
        }
    }

    /// A guest's own flows: which policy, and which zone.
    pub(super) fn guest(&self, flows: &mut Vec<String>, number: u32, port: &FlowPort) {
        let policy = self.policies.get(&*port.security_groups).copied().unwrap_or_default();
        let set = format!("set_field:{policy}->reg5,set_field:{number}->reg6");
        flows.push(format!("table=10,priority=100,in_port={number},actions={set},goto_table:12"));
        flows.push(format!("table=30,priority=100,reg1={number},actions={set},goto_table:32"));
        flows.push(format!("table={},priority=1,in_port={number},actions=drop", EGRESS.refused));
        flows.push(format!("table={},priority=1,reg1={number},actions=drop", INGRESS.refused));
    }
}

/// What passes whatever the groups say, and what is asked about.
fn ask(flows: &mut Vec<String>) {
    for way in [&EGRESS, &INGRESS] {
        let table = format!("table={}", way.rules + 1);
        let track = format!("resubmit(,{}),ct(table={},zone=NXM_NX_REG6[0..15])", way.sets, way.rules);
        for family in ["ip", "ipv6"] {
            flows.push(format!("{table},priority=100,{family},actions={track}"));
        }
        flows.push(format!("{table},priority=0,actions=drop"));
        // Who has an address is no secret.
        for what in ["arp", "icmp6,icmpv6_type=135", "icmp6,icmpv6_type=136"] {
            flows.push(format!("{table},priority=110,{what},actions={}", way.pass));
        }
    }
    let from = "table=12,priority=110";
    for what in [
        "udp,nw_dst=255.255.255.255,tp_src=68,tp_dst=67",
        "udp6,ipv6_dst=ff02::1:2,tp_src=546,tp_dst=547",
        "icmp6,icmpv6_type=133",
    ] {
        flows.push(format!("{from},{what},actions={}", EGRESS.pass));
    }
}

/// A network's guests get their addresses whatever the groups say. Nobody but servers sends these answers, which table 0
/// sees to; where a network has its own server, it is the only one.
pub(super) fn configure(flows: &mut Vec<String>, network: &FlowNetwork, server: Option<u32>) {
    let vni = network.vni;
    let lease = format!("udp,nw_dst={},tp_src=68,tp_dst=67", network.dhcp_server);
    flows.push(format!("table=12,priority=110,reg0={vni},{lease},actions={}", EGRESS.pass));
    let from = match server.filter(|_| network.dhcp) {
        Some(server) => format!(",in_port={server}"),
        None => String::new(),
    };
    for what in ["udp,tp_src=67,tp_dst=68", "udp6,tp_src=547,tp_dst=546", "icmp6,icmpv6_type=134"] {
        flows.push(format!("table=32,priority=110,reg0={vni}{from},{what},actions={}", INGRESS.pass));
    }
}

/// Groups that rules for ports of a network ask about.
fn asked(
    set: &FlowSet,
    network: NetworkId,
    direction: Direction,
    rules: &BTreeMap<SecurityGroupId, &[RuleBody]>,
) -> Groups {
    let ports = set.ports.iter().filter(|p| p.network_id == network);
    let groups: Groups = ports.flat_map(|p| p.security_groups.iter().copied()).collect();
    let rules = groups.iter().filter_map(|g| rules.get(g)).copied().flatten();
    rules
        .filter(|rule| rule.direction == direction)
        .filter_map(|rule| match rule.remote {
            RemoteBody::SecurityGroup(group) => Some(group),
            RemoteBody::Any | RemoteBody::Cidr(_) => None,
        })
        .collect()
}

/// Families (0: IPv4, 1: IPv6) and what the switch calls a protocol in them.
fn protocols(protocol: Protocol) -> &'static [(usize, &'static str)] {
    match protocol {
        Protocol::Any => &[(0, "ip"), (1, "ipv6")],
        Protocol::Tcp => &[(0, "tcp"), (1, "tcp6")],
        Protocol::Udp => &[(0, "udp"), (1, "udp6")],
        Protocol::Icmp => &[(0, "icmp")],
        Protocol::Icmpv6 => &[(1, "icmp6")],
    }
}

/// Ports, types and codes of a rule, each as the tail of a match.
fn details(rule: &RuleBody) -> Vec<String> {
    if let Some(range) = rule.ports.filter(|_| rule.protocol.has_ports()) {
        let port = |(value, mask): (u16, u16)| match mask {
            u16::MAX => format!(",tp_dst={value}"),
            _ => format!(",tp_dst={value:#x}/{mask:#x}"),
        };
        return masks(range).into_iter().map(port).collect();
    }
    let name = if rule.protocol == Protocol::Icmpv6 { "icmpv6" } else { "icmp" };
    let given = |field: &str, value: Option<u8>| {
        value
            .filter(|_| rule.protocol.has_types())
            .map(|v| format!(",{name}_{field}={v}"))
            .unwrap_or_default()
    };
    vec![given("type", rule.icmp_type) + &given("code", rule.icmp_code)]
}

/// A range as values under masks: each the largest aligned block that still fits.
pub(super) fn masks(range: PortRange) -> Vec<(u16, u16)> {
    let mut out = Vec::new();
    let (mut from, to) = (range.from, range.to.min(65535));
    while from <= to {
        let aligned = from.trailing_zeros().min(16);
        let fits = (to - from + 1).ilog2();
        let bits = aligned.min(fits);
        let size = 1_u32 << bits;
        // Both fit: ports are below 65536, and so are blocks of them.
        let block = (u16::try_from(from), u16::try_from(65536 - size));
        if let (Ok(value), Ok(mask)) = block {
            out.push((value, mask));
        }
        from += size;
    }
    out
}

#[cfg(test)]
#[path = "security_tests.rs"]
mod tests;
