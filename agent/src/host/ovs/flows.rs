//! The flows of the integration bridge, computed as one whole set (a pure function).
//!
//! | table | what |
//! |---|---|
//! | 0 | classify: the port says which network (reg0 = VNI); whoever lies about MAC, address, ARP or being a DHCP server is dropped |
//! | 10 | egress policy of the sender |
//! | 20 | forwarding from the truth: (network, destination MAC) → reg1 = port; broadcast to the network's own ports |
//! | 30 | ingress policy of the receiver, then output to reg1 |
//!
//! The port on which DHCP answers belongs to the host itself. Guests reach nothing of the host through it but
//! DHCP; the host may open connections to its guests, and only answers come back (TCP with ACK, echo replies).

use basalt_model::{NetworkId, PortId};
use basalt_plan::host::{FlowNetwork, FlowPort, FlowSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the ports of the set are called on the switch now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortNumbers {
    /// OpenFlow numbers of guests' ports.
    pub guests: BTreeMap<PortId, u32>,
    /// OpenFlow numbers of the ports on which DHCP answers.
    pub servers: BTreeMap<NetworkId, u32>,
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
        }
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
    for network in &set.networks {
        let server = numbers.servers.get(&network.id).copied();
        let guests: Vec<(u32, &FlowPort)> = set
            .ports
            .iter()
            .filter(|p| p.network_id == network.id)
            .filter_map(|p| Some((*numbers.guests.get(&p.port_id)?, p)))
            .collect();
        for (number, port) in &guests {
            classify_guest(&mut flows, network, *number, port);
            forward(&mut flows, network, *number, &port.mac);
        }
        if let Some(number) = server {
            classify_server(&mut flows, network, number);
            forward(&mut flows, network, number, &server_mac(network.vni));
            guard_server(&mut flows, number);
        }
        broadcast(&mut flows, network, &guests, server);
    }
    flows.sort();
    flows
}

fn classify_guest(flows: &mut Vec<String>, network: &FlowNetwork, number: u32, port: &FlowPort) {
    let FlowPort { mac, address, .. } = port;
    let enter = format!("set_field:{}->reg0,goto_table:10", network.vni);
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

fn classify_server(flows: &mut Vec<String>, network: &FlowNetwork, number: u32) {
    let (mac, address) = (server_mac(network.vni), network.dhcp_server);
    let enter = format!("set_field:{}->reg0,goto_table:10", network.vni);
    let from = format!("table=0,in_port={number},dl_src={mac}");
    flows.push(format!("table=0,priority=50,in_port={number},actions=drop"));
    flows.push(format!("{from},priority=100,arp,arp_sha={mac},arp_spa={address},actions={enter}"));
    flows.push(format!("{from},priority=100,ip,nw_src={address},actions={enter}"));
}

fn forward(flows: &mut Vec<String>, network: &FlowNetwork, number: u32, mac: &str) {
    let vni = network.vni;
    flows.push(format!(
        "table=20,priority=100,reg0={vni},dl_dst={mac},actions=set_field:{number}->reg1,goto_table:30"
    ));
}

fn guard_server(flows: &mut Vec<String>, number: u32) {
    let to = format!("table=30,priority=100,reg1={number}");
    for what in ["arp", "udp,tp_dst=67", "icmp,icmp_type=0", "tcp,tcp_flags=+ack"] {
        flows.push(format!("{to},{what},actions=output:NXM_NX_REG1[]"));
    }
    flows.push(format!("table=30,priority=50,reg1={number},actions=drop"));
}

fn broadcast(
    flows: &mut Vec<String>,
    network: &FlowNetwork,
    guests: &[(u32, &FlowPort)],
    server: Option<u32>,
) {
    let vni = network.vni;
    // A guest's question for an address concerns nobody but the server.
    let dhcp = match server.filter(|_| network.dhcp) {
        Some(number) => format!("set_field:{number}->reg1,goto_table:30"),
        None => "drop".to_owned(),
    };
    let group = "01:00:00:00:00:00/01:00:00:00:00:00";
    flows.push(format!("table=20,priority=70,reg0={vni},udp,tp_dst=67,dl_dst={group},actions={dhcp}"));
    let mut numbers: Vec<u32> = guests.iter().map(|(number, _)| *number).chain(server).collect();
    numbers.sort_unstable();
    let each: Vec<String> =
        numbers.iter().map(|number| format!("set_field:{number}->reg1,resubmit(,30)")).collect();
    let all = if each.is_empty() { "drop".to_owned() } else { each.join(",") };
    flows.push(format!("table=20,priority=60,reg0={vni},dl_dst={group},actions={all}"));
}
