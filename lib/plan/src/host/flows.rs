//! The flows of the integration bridge, computed as one whole set (a pure function).
//!
//! | table | what |
//! |---|---|
//! | 0 | classify: the port says which network (reg0 = VNI); whoever lies about MAC, address, ARP or being a DHCP server is dropped. From the tunnel only what a known peer sends in a known network (reg2 = 1) |
//! | 10 | egress policy of the sender |
//! | 20 | forwarding from the truth: (network, destination MAC) → reg1 = port, or the tunnel to its host; questions for a known address are answered here; broadcast to the network's own ports, and once to each peer |
//! | 30 | ingress policy of the receiver, then output to reg1 |
//!
//! What came out of a tunnel never enters one again. A MAC address that stands here and at a peer, while its guest
//! moves, is here.
//!
//! The port on which DHCP answers belongs to the host itself. Guests reach nothing of the host through it but
//! DHCP; the host may open connections to its guests, and only answers come back (TCP with ACK, echo replies).

use super::{FlowNetwork, FlowPort, FlowSet};
use basalt_model::{NetworkId, PortId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// All frames for more than one receiver.
const GROUP: &str = "01:00:00:00:00:00/01:00:00:00:00:00";

/// What the ports of the set are called on the switch now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortNumbers {
    /// OpenFlow numbers of guests' ports.
    pub guests: BTreeMap<PortId, u32>,
    /// OpenFlow numbers of the ports on which DHCP answers.
    pub servers: BTreeMap<NetworkId, u32>,
    /// OpenFlow number of the port that leads to all peers.
    #[serde(default)]
    pub tunnel: Option<u32>,
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
            tunnel: self.tunnel.filter(|_| set.needs_tunnel()),
        }
    }
}

impl FlowSet {
    /// Whether any of it leads to another host.
    pub fn needs_tunnel(&self) -> bool {
        self.networks.iter().any(|network| !network.peers.is_empty())
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
        "table=30,priority=0,actions=output:NXM_NX_REG1[]".to_owned(),
    ];
    let mut guests: BTreeMap<NetworkId, Vec<(u32, &FlowPort)>> = BTreeMap::new();
    for port in &set.ports {
        if let Some(number) = numbers.guests.get(&port.port_id) {
            guests.entry(port.network_id).or_default().push((*number, port));
        }
    }
    for network in &set.networks {
        let view = View {
            network,
            guests: guests.remove(&network.id).unwrap_or_default(),
            server: numbers.servers.get(&network.id).copied(),
            tunnel: numbers.tunnel,
        };
        view.render(&mut flows);
    }
    flows.sort();
    flows
}

/// One network with what its ports are called now.
struct View<'a> {
    network: &'a FlowNetwork,
    guests: Vec<(u32, &'a FlowPort)>,
    server: Option<u32>,
    tunnel: Option<u32>,
}

impl View<'_> {
    fn render(&self, flows: &mut Vec<String>) {
        for (number, port) in &self.guests {
            self.classify_guest(flows, *number, port);
            self.forward(flows, *number, &port.mac);
            self.answer(flows, port.address, &port.mac);
            // Who asks for its own address asks whether another one has it, and none has.
            let own = format!("table=20,priority=120,in_port={number},arp,arp_op=1");
            flows.push(format!("{own},arp_tpa={},actions=drop", port.address));
        }
        if let Some(number) = self.server {
            let mac = server_mac(self.network.vni);
            self.classify_server(flows, number, &mac);
            self.forward(flows, number, &mac);
            self.answer(flows, self.network.dhcp_server, &mac);
            guard_server(flows, number);
        }
        if let Some(tunnel) = self.tunnel {
            self.reach_peers(flows, tunnel);
        }
        self.broadcast(flows);
    }

    fn classify_guest(&self, flows: &mut Vec<String>, number: u32, port: &FlowPort) {
        let FlowPort { mac, address, .. } = port;
        let enter = format!("set_field:{}->reg0,goto_table:10", self.network.vni);
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
    }

    fn classify_server(&self, flows: &mut Vec<String>, number: u32, mac: &str) {
        let address = self.network.dhcp_server;
        let enter = format!("set_field:{}->reg0,goto_table:10", self.network.vni);
        let from = format!("table=0,in_port={number},dl_src={mac}");
        flows.push(format!("table=0,priority=50,in_port={number},actions=drop"));
        flows.push(format!("{from},priority=100,arp,arp_sha={mac},arp_spa={address},actions={enter}"));
        flows.push(format!("{from},priority=100,ip,nw_src={address},actions={enter}"));
    }

    fn forward(&self, flows: &mut Vec<String>, number: u32, mac: &str) {
        let vni = self.network.vni;
        flows.push(format!(
            "table=20,priority=100,reg0={vni},dl_dst={mac},actions=set_field:{number}->reg1,goto_table:30"
        ));
    }

    /// The question who has an address goes to nobody: the truth knows (RFC 826, the reply's fields).
    fn answer(&self, flows: &mut Vec<String>, address: Ipv4Addr, mac: &str) {
        let question = format!("reg0={},reg2=0,arp,arp_op=1,arp_tpa={address}", self.network.vni);
        let ethernet = format!("move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{mac}->eth_src");
        let target = "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]";
        let sender = format!("set_field:{mac}->arp_sha,set_field:{address}->arp_spa");
        flows.push(format!(
            "table=20,priority=110,{question},actions={ethernet},set_field:2->arp_op,{target},{sender},in_port"
        ));
    }

    /// The ports of other hosts, each through the tunnel to its host; and what comes from there.
    fn reach_peers(&self, flows: &mut Vec<String>, tunnel: u32) {
        let vni = self.network.vni;
        for peer in &self.network.peers {
            let enter = format!("set_field:{vni}->reg0,set_field:1->reg2,goto_table:20");
            let from = format!("in_port={tunnel},tun_id={vni},tun_src={}", peer.tunnel_address);
            flows.push(format!("table=0,priority=100,{from},actions={enter}"));
            let leave = format!("{},output:{tunnel}", self.to(peer.tunnel_address));
            for port in &peer.ports {
                let known = format!("reg0={vni},reg2=0,dl_dst={}", port.mac);
                flows.push(format!("table=20,priority=90,{known},actions={leave}"));
                self.answer_for_peer(flows, port.address, &port.mac);
            }
        }
    }

    fn answer_for_peer(&self, flows: &mut Vec<String>, address: Ipv4Addr, mac: &str) {
        // Said here already of a guest that is on its way.
        if !self.guests.iter().any(|(_, port)| port.address == address) {
            self.answer(flows, address, mac);
        }
    }

    fn to(&self, peer: Ipv4Addr) -> String {
        format!("set_field:{}->tun_id,set_field:{peer}->tun_dst", self.network.vni)
    }

    fn broadcast(&self, flows: &mut Vec<String>) {
        let vni = self.network.vni;
        // A guest's question for an address concerns nobody but the server.
        let dhcp = match self.server.filter(|_| self.network.dhcp) {
            Some(number) => format!("set_field:{number}->reg1,goto_table:30"),
            None => "drop".to_owned(),
        };
        flows.push(format!("table=20,priority=70,reg0={vni},udp,tp_dst=67,dl_dst={GROUP},actions={dhcp}"));
        // An address that the truth does not know is nobody's.
        flows.push(format!("table=20,priority=80,reg0={vni},arp,arp_op=1,actions=drop"));
        let mut numbers: Vec<u32> =
            self.guests.iter().map(|(number, _)| *number).chain(self.server).collect();
        numbers.sort_unstable();
        let here: Vec<String> =
            numbers.iter().map(|number| format!("set_field:{number}->reg1,resubmit(,30)")).collect();
        let there = self.tunnel.into_iter().flat_map(|tunnel| {
            let each = |address| format!("{},output:{tunnel}", self.to(address));
            self.network.peers.iter().map(move |peer| each(peer.tunnel_address)).collect::<Vec<_>>()
        });
        let all: Vec<String> = here.iter().cloned().chain(there).collect();
        for (came, to) in [("reg2=0", &all), ("reg2=1", &here)] {
            let actions = if to.is_empty() { "drop".to_owned() } else { to.join(",") };
            flows.push(format!("table=20,priority=60,reg0={vni},{came},dl_dst={GROUP},actions={actions}"));
        }
    }
}

fn guard_server(flows: &mut Vec<String>, number: u32) {
    let to = format!("table=30,priority=100,reg1={number}");
    for what in ["arp", "udp,tp_dst=67", "icmp,icmp_type=0", "tcp,tcp_flags=+ack"] {
        flows.push(format!("{to},{what},actions=output:NXM_NX_REG1[]"));
    }
    flows.push(format!("table=30,priority=50,reg1={number},actions=drop"));
}
