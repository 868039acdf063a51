//! The flows of the integration bridge, computed as one whole set (a pure function).
//!
//! | table | what |
//! |---|---|
//! | 0 | classify: the port says which network (reg0 = VNI); whoever lies about MAC, address, ARP or being a DHCP server is dropped. From the tunnel only what a known peer sends in a known network, from an uplink only its own VLAN (reg2 = 1) |
//! | 10, 11, 12, 13, 15 | egress policy of the sender: its security groups |
//! | 20 | forwarding from the truth: (network, destination MAC) → reg1 = port, or the tunnel to its host, or the wire that it shares with others; questions for a known address are answered here; broadcast to the network's own ports, and once to each peer or to the wire |
//! | 21 | the second half of an answer to a question for an address |
//! | 30, 31, 32, 33, 25 | ingress policy of the receiver: its security groups, then output to reg1 |
//!
//! What came from outside (reg2 = 1) never goes there again. A MAC address that stands here and at a peer, while its guest
//! moves, is here.
//!
//! The port on which DHCP answers belongs to the host itself. Guests reach nothing of the host through it but
//! DHCP; the host may open connections to its guests, and only answers come back (TCP with ACK, echo replies).

mod neighbours;
mod routers;
mod security;
mod ways;

use super::{FlowNetwork, FlowPort, FlowRouter, FlowSet};
use basalt_model::{
    NetworkId, PortId,
    networks::{Segment, address6},
};
use neighbours::link_local;
use security::Policies;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};
use ways::Way;

/// All frames for more than one receiver.
const GROUP: &str = "01:00:00:00:00:00/01:00:00:00:00:00";

/// What the ports of the set are called on the switch now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortNumbers {
    /// OpenFlow numbers of guests' ports.
    pub guests: BTreeMap<PortId, u32>,
    /// OpenFlow numbers of the ports on which DHCP answers.
    pub servers: BTreeMap<NetworkId, u32>,
    /// OpenFlow numbers of routers' ports, by the name of the device.
    #[serde(default)]
    pub routers: BTreeMap<String, u32>,
    /// OpenFlow number of the port that leads to all peers.
    #[serde(default)]
    pub tunnel: Option<u32>,
    /// OpenFlow numbers of the ports that lead to uplink bridges, by the bridge's name.
    #[serde(default)]
    pub uplinks: BTreeMap<String, u32>,
}

impl PortNumbers {
    /// Only what a set of flows speaks of.
    pub fn of(&self, set: &FlowSet) -> Self {
        let wanted = |id: &NetworkId| set.networks.iter().any(|n| n.id == *id);
        Self {
            guests: set
                .ports
                .iter()
                .filter_map(|p| Some((p.port_id, *self.guests.get(&p.port_id)?)))
                .collect(),
            servers: self
                .servers
                .iter()
                .filter(|(id, _)| wanted(id))
                .map(|(id, port)| (*id, *port))
                .collect(),
            routers: set
                .routers
                .iter()
                .filter_map(|r| Some((r.name.clone(), *self.routers.get(&r.name)?)))
                .collect(),
            tunnel: self.tunnel.filter(|_| set.needs_tunnel()),
            uplinks: set
                .uplinks()
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), *self.uplinks.get(name)?)))
                .collect(),
        }
    }
}

impl FlowSet {
    /// Whether any of it leads to another host.
    pub fn needs_tunnel(&self) -> bool {
        self.networks.iter().any(|network| network.segment == Segment::Vxlan && !network.peers.is_empty())
    }

    /// The uplink bridges that its networks are on.
    pub fn uplinks(&self) -> BTreeSet<&str> {
        self.networks.iter().filter_map(|network| network.segment.uplink()).collect()
    }
}

/// MAC address of the port on which a network's DHCP answers. Guests' begin with `02`, so they never meet.
pub fn server_mac(vni: u32) -> String {
    let [_, a, b, c] = vni.to_be_bytes();
    format!("0a:ba:5a:{a:02x}:{b:02x}:{c:02x}")
}

/// The whole set, one flow each line, sorted. A port whose number is not known says nothing.
pub fn render(set: &FlowSet, numbers: &PortNumbers) -> Vec<String> {
    let mut flows = vec![
        "table=0,priority=0,actions=drop".to_owned(),
        "table=10,priority=0,actions=goto_table:20".to_owned(),
        "table=20,priority=0,actions=drop".to_owned(),
        "table=21,priority=0,actions=drop".to_owned(),
        neighbours::ANSWER.to_owned(),
        "table=30,priority=0,actions=output:NXM_NX_REG1[]".to_owned(),
    ];
    let policies = Policies::new(set);
    policies.render(&mut flows);
    let mut guests: BTreeMap<NetworkId, Vec<(u32, &FlowPort)>> = BTreeMap::new();
    for port in &set.ports {
        if let Some(number) = numbers.guests.get(&port.port_id) {
            guests.entry(port.network_id).or_default().push((*number, port));
        }
    }
    for network in &set.networks {
        let routers = set.routers.iter().filter(|r| r.network_id == network.id);
        let view = View {
            network,
            guests: guests.remove(&network.id).unwrap_or_default(),
            routers: routers.filter_map(|r| Some((*numbers.routers.get(&r.name)?, r))).collect(),
            server: numbers.servers.get(&network.id).copied(),
            way: match (network.segment.uplink(), numbers.tunnel) {
                (Some(uplink), _) => {
                    let port = numbers.uplinks.get(uplink);
                    port.map_or(Way::None, |port| Way::Uplink(*port, &network.segment))
                }
                (None, tunnel) => tunnel.map_or(Way::None, Way::Tunnels),
            },
            policies: &policies,
        };
        view.render(&mut flows);
    }
    flows.sort();
    // A router's addresses are known from here and from its other host.
    flows.dedup();
    flows
}

/// What turns one rendered set into another, as lines of a bundle; a flow that is in both is not named. Both are sorted.
pub fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let (old, new): (BTreeSet<&String>, BTreeSet<&String>) =
        (before.iter().collect(), after.iter().collect());
    let matches =
        |flow: &'_ str| flow.split_once(",actions=").map_or(flow, |(matches, _)| matches).to_owned();
    let added: Vec<&&String> = new.difference(&old).collect();
    let replaced: BTreeSet<String> = added.iter().map(|flow| matches(flow)).collect();
    // What is added with the matches and the priority of another takes its place.
    let gone = old.difference(&new).map(|flow| matches(flow)).filter(|matches| !replaced.contains(matches));
    let gone = gone.map(|matches| format!("delete_strict {matches}"));
    gone.chain(added.iter().map(|flow| format!("add {flow}"))).collect()
}

/// One network with what its ports are called now.
struct View<'a> {
    network: &'a FlowNetwork,
    guests: Vec<(u32, &'a FlowPort)>,
    routers: Vec<(u32, &'a FlowRouter)>,
    server: Option<u32>,
    way: Way<'a>,
    policies: &'a Policies<'a>,
}

impl View<'_> {
    fn render(&self, flows: &mut Vec<String>) {
        for (number, port) in &self.guests {
            self.classify_guest(flows, *number, port);
            self.policies.guest(flows, *number, port);
            self.forward(flows, *number, &port.mac);
        }
        if let Some(number) = self.server {
            let mac = server_mac(self.network.vni);
            self.classify_server(flows, number, &mac);
            self.forward(flows, number, &mac);
            self.serve(flows, number);
        }
        security::configure(flows, self.network, self.server);
        self.route(flows);
        self.neighbours(flows);
        self.reach(flows);
        self.configure(flows);
        self.broadcast(flows);
    }

    fn enter(&self) -> String {
        format!("set_field:{}->reg0,goto_table:10", self.network.vni)
    }

    fn classify_guest(&self, flows: &mut Vec<String>, number: u32, port: &FlowPort) {
        let FlowPort { mac, address, .. } = port;
        let enter = self.enter();
        let from = format!("table=0,in_port={number},dl_src={mac}");
        flows.push(format!("table=0,priority=50,in_port={number},actions=drop"));
        // Only the network's own server answers DHCP.
        flows.push(format!("table=0,priority=120,in_port={number},udp,tp_src=67,actions=drop"));
        flows.push(format!(
            "{from},priority=110,udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,tp_src=68,tp_dst=67,actions={enter}"
        ));
        flows.push(format!("{from},priority=100,arp,arp_sha={mac},arp_spa={address},actions={enter}"));
        // Duplicate address detection asks from the empty address (RFC 5227).
        flows.push(format!("{from},priority=100,arp,arp_sha={mac},arp_spa=0.0.0.0,arp_op=1,actions={enter}"));
        flows.push(format!("{from},priority=100,ip,nw_src={address},actions={enter}"));
        if let Some(address) = port.address6 {
            self.classify_guest6(flows, number, mac, [address, link_local(mac)]);
        }
    }

    /// A guest has two IPv6 addresses, and speaks of no other; it is neither router nor DHCP server.
    fn classify_guest6(&self, flows: &mut Vec<String>, number: u32, mac: &str, own: [Ipv6Addr; 2]) {
        let enter = self.enter();
        let from = format!("table=0,in_port={number},dl_src={mac}");
        let never = format!("table=0,in_port={number},priority=120");
        for what in ["udp6,tp_src=547", "icmp6,icmp_type=134", "icmp6,icmp_type=137"] {
            flows.push(format!("{never},{what},actions=drop"));
        }
        // Whatever a neighbour is told that does not hold is dropped.
        for kind in [135, 136] {
            flows.push(format!("table=0,in_port={number},priority=112,icmp6,icmp_type={kind},actions=drop"));
        }
        for address in own {
            let ask = format!("icmp6,icmp_type=135,icmp_code=0,ipv6_src={address},nd_sll={mac}");
            let detect = format!("icmp6,icmp_type=135,icmp_code=0,ipv6_src=::,nd_target={address}");
            let tell = format!(
                "icmp6,icmp_type=136,icmp_code=0,ipv6_src={address},nd_target={address},nd_tll={mac}"
            );
            for what in [ask, detect, tell] {
                flows.push(format!("{from},priority=114,{what},actions={enter}"));
            }
            flows.push(format!("{from},priority=100,ipv6,ipv6_src={address},actions={enter}"));
        }
        // Before it has an address it may look for a router.
        flows.push(format!("{from},priority=110,icmp6,icmp_type=133,ipv6_src=::,actions={enter}"));
    }

    fn classify_server(&self, flows: &mut Vec<String>, number: u32, mac: &str) {
        let address = self.network.dhcp_server;
        let enter = self.enter();
        let from = format!("table=0,in_port={number},dl_src={mac}");
        flows.push(format!("table=0,priority=50,in_port={number},actions=drop"));
        flows.push(format!("{from},priority=100,arp,arp_sha={mac},arp_spa={address},actions={enter}"));
        flows.push(format!("{from},priority=100,ip,nw_src={address},actions={enter}"));
        if let Some(prefix) = self.network.cidr6 {
            for address in [address6(prefix, mac), link_local(mac)] {
                flows.push(format!("{from},priority=100,ipv6,ipv6_src={address},actions={enter}"));
            }
        }
    }

    fn forward(&self, flows: &mut Vec<String>, number: u32, mac: &str) {
        let vni = self.network.vni;
        flows.push(format!(
            "table=20,priority=100,reg0={vni},dl_dst={mac},actions=set_field:{number}->reg1,goto_table:30"
        ));
    }

    /// A guest's question for its address, or for a router, concerns nobody but the server. Where none answers, it
    /// may be asked on the wire.
    fn configure(&self, flows: &mut Vec<String>) {
        let vni = self.network.vni;
        let asks = |what: &str| format!("table=20,priority=70,reg0={vni},{what},dl_dst={GROUP},actions=");
        let wire = matches!(self.way, Way::Uplink(..));
        let server = self.server.filter(|_| self.network.dhcp);
        let to = match server {
            Some(number) => format!("set_field:{number}->reg1,goto_table:30"),
            None if wire => return,
            None => "drop".to_owned(),
        };
        flows.push(asks("udp,tp_dst=67") + &to);
        if self.network.cidr6.is_some() {
            flows.push(asks("udp6,tp_dst=547") + &to);
            flows.push(asks("icmp6,icmp_type=133") + &to);
        }
        if wire && server.is_some() {
            // Another server on the wire answers none of these guests.
            for what in ["udp,tp_src=67,tp_dst=68", "udp6,tp_src=547,tp_dst=546"] {
                flows.push(format!("table=20,priority=130,reg0={vni},reg2=1,{what},actions=drop"));
            }
        }
    }

    /// Through the port on which DHCP answers, guests reach nothing of the host but what is served there.
    fn serve(&self, flows: &mut Vec<String>, number: u32) {
        let to = format!("table=30,priority=100,reg1={number}");
        let mut served = vec!["arp", "udp,tp_dst=67", "icmp,icmp_type=0", "tcp,tcp_flags=+ack"];
        if self.network.names {
            served.extend(["udp,tp_dst=53", "tcp,tp_dst=53"]);
        }
        if self.network.cidr6.is_some() {
            served.extend(["udp6,tp_dst=547", "icmp6,icmp_type=129", "tcp6,tcp_flags=+ack"]);
            served.extend(["icmp6,icmp_type=133", "icmp6,icmp_type=135", "icmp6,icmp_type=136"]);
            if self.network.names {
                served.extend(["udp6,tp_dst=53", "tcp6,tp_dst=53"]);
            }
        }
        flows.extend(served.iter().map(|what| format!("{to},{what},actions=output:NXM_NX_REG1[]")));
        flows.push(format!("table=30,priority=50,reg1={number},actions=drop"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n4_only_the_flows_that_differ_are_touched() {
        let set = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        let before = set(&[
            "table=0,priority=0,actions=drop",
            "table=0,priority=9,in_port=1,actions=goto_table:10",
            "table=20,priority=5,reg0=1,actions=drop",
        ]);
        let after = set(&[
            "table=0,priority=0,actions=drop",
            "table=0,priority=9,in_port=1,actions=goto_table:20",
            "table=30,priority=5,actions=drop",
        ]);
        let edits = difference(&before, &after);
        let wanted = [
            "delete_strict table=20,priority=5,reg0=1",
            "add table=0,priority=9,in_port=1,actions=goto_table:20",
            "add table=30,priority=5,actions=drop",
        ];
        assert_eq!(edits, wanted);
        assert_eq!(difference(&after, &after), Vec::<String>::new());
    }
}
