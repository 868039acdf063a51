//! Who has an address is answered where it is asked: the truth knows (ARP, RFC 826; neighbour discovery, RFC 4861).

use super::{View, Way};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A question becomes its answer: sender and target change places, and whoever is asked for is `xreg4`. Said once for all
/// addresses: they are most of what a large switch is told.
pub(super) const ANSWER: &str = "table=21,priority=100,arp,arp_op=1,actions=\
    move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],move:OXM_OF_PKT_REG4[0..47]->NXM_OF_ETH_SRC[],set_field:2->arp_op,\
    move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],move:OXM_OF_PKT_REG4[0..47]->NXM_NX_ARP_SHA[],\
    move:NXM_OF_ARP_TPA[]->NXM_NX_REG7[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],\
    move:NXM_NX_REG7[]->NXM_OF_ARP_SPA[],in_port";

/// A neighbour advertisement that was asked for, and that replaces what was known.
const SOLICITED_OVERRIDE: &str = "0x60000000";

impl View<'_> {
    /// All questions of a network.
    pub(super) fn neighbours(&self, flows: &mut Vec<String>) {
        for (number, port) in &self.guests {
            self.answer(flows, port.address, &port.mac);
            // Who asks for its own address asks whether another one has it, and none has.
            let own = format!("table=20,priority=120,in_port={number},arp,arp_op=1");
            flows.push(format!("{own},arp_tpa={},actions=drop", port.address));
            if let Some(address) = port.address6 {
                self.answer6(flows, address, &port.mac);
                self.answer6(flows, link_local(&port.mac), &port.mac);
            }
        }
        if self.server.is_some() {
            let mac = super::server_mac(self.network.vni);
            self.answer(flows, self.network.dhcp_server, &mac);
            if let Some(prefix) = self.network.cidr6 {
                self.answer6(flows, basalt_model::networks::address6(prefix, &mac), &mac);
                self.answer6(flows, link_local(&mac), &mac);
            }
        }
        for port in self.network.peers.iter().flat_map(|peer| &peer.ports) {
            // Said here already of a guest that is on its way.
            if self.guests.iter().any(|(_, guest)| guest.address == port.address) {
                continue;
            }
            self.answer(flows, port.address, &port.mac);
            if let Some(prefix) = self.network.cidr6 {
                self.answer6(flows, basalt_model::networks::address6(prefix, &port.mac), &port.mac);
                self.answer6(flows, link_local(&port.mac), &port.mac);
            }
        }
        self.unknown(flows);
    }

    /// An address that the truth does not know is nobody's, unless others are on the wire too. That another one has
    /// one's own address is asked from the empty address, and so never answered.
    fn unknown(&self, flows: &mut Vec<String>) {
        let vni = self.network.vni;
        if self.network.cidr6.is_some() {
            let detection = format!("reg0={vni},reg2=0,icmp6,icmp_type=135,icmp_code=0,ipv6_src=::");
            flows.push(format!("table=20,priority=120,{detection},actions=drop"));
        }
        if matches!(self.way, Way::Uplink(..)) {
            return;
        }
        flows.push(format!("table=20,priority=80,reg0={vni},arp,arp_op=1,actions=drop"));
        if self.network.cidr6.is_some() {
            flows.push(format!(
                "table=20,priority=80,reg0={vni},icmp6,icmp_type=135,icmp_code=0,actions=drop"
            ));
        }
    }

    pub(super) fn answer(&self, flows: &mut Vec<String>, address: Ipv4Addr, mac: &str) {
        let question = format!("reg0={},reg2=0,arp,arp_op=1,arp_tpa={address}", self.network.vni);
        let number = mac.replace(':', "");
        flows.push(format!(
            "table=20,priority=110,{question},actions=set_field:0x{number}->xreg4,goto_table:21"
        ));
    }

    /// The question becomes its answer in two steps: the option can be written only where the switch already knows
    /// the message for an answer.
    fn answer6(&self, flows: &mut Vec<String>, address: Ipv6Addr, mac: &str) {
        let known = |kind: u8| {
            let message = format!("icmp6,icmp_type={kind},icmp_code=0,nd_target={address}");
            format!("reg0={},reg2=0,{message}", self.network.vni)
        };
        let ethernet = format!("move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{mac}->eth_src");
        let parties = format!("move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[],set_field:{address}->ipv6_src");
        let becomes = format!(
            "set_field:136->icmpv6_type,set_field:2->nd_options_type,set_field:{SOLICITED_OVERRIDE}->nd_reserved"
        );
        flows.push(format!(
            "table=20,priority=110,{},actions={ethernet},{parties},{becomes},goto_table:21",
            known(135)
        ));
        flows.push(format!("table=21,priority=100,{},actions=set_field:{mac}->nd_tll,in_port", known(136)));
    }
}

/// The address that an interface gives to itself on its link.
pub(super) fn link_local(mac: &str) -> Ipv6Addr {
    const LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
    basalt_model::networks::interface_address(LINK, mac)
}
