//! Routers in the flows: a router's port may send from any address but only from its own MAC address, and frames for
//! that MAC address go to **both** hosts of the router.
//!
//! Which of the two is active is agreed upon between them; were the way to it a matter of these flows, a fail-over would
//! wait for the control plane. The host that stands by has the device down and drops what comes.

use super::{FlowRouter, View, Way};
use std::{collections::BTreeMap, net::Ipv4Addr};

impl View<'_> {
    pub(super) fn route(&self, flows: &mut Vec<String>) {
        for (number, router) in &self.routers {
            self.classify_router(flows, *number, router);
            self.forward_router(flows, *number, router);
            for address in &router.addresses {
                self.answer(flows, *address, &router.mac);
                // Its announcement that an address is its own concerns nobody whom the truth tells.
                if !matches!(self.way, Way::Uplink(..)) {
                    let own = format!("table=20,priority=120,in_port={number},arp,arp_op=1");
                    flows.push(format!("{own},arp_tpa={address},actions=drop"));
                }
            }
        }
    }

    fn classify_router(&self, flows: &mut Vec<String>, number: u32, router: &FlowRouter) {
        let enter = format!("set_field:{}->reg0,goto_table:10", self.network.vni);
        let from = format!("table=0,in_port={number},dl_src={}", router.mac);
        flows.push(format!("table=0,priority=50,in_port={number},actions=drop"));
        // Only the network's own server answers DHCP.
        flows.push(format!("table=0,priority=120,in_port={number},udp,tp_src=67,actions=drop"));
        for address in &router.addresses {
            let arp = format!("arp,arp_sha={},arp_spa={address}", router.mac);
            flows.push(format!("{from},priority=100,{arp},actions={enter}"));
        }
        flows.push(format!("{from},priority=100,ip,actions={enter}"));
    }

    /// To the router here and to its other host; what came out of a tunnel only to the one here.
    fn forward_router(&self, flows: &mut Vec<String>, number: u32, router: &FlowRouter) {
        let to = format!("reg0={},dl_dst={}", self.network.vni, router.mac);
        let here = format!("set_field:{number}->reg1");
        flows.push(format!("table=20,priority=100,{to},actions={here},goto_table:30"));
        let there: Vec<String> = match self.way {
            Way::None => Vec::new(),
            Way::Tunnels(tunnel) => {
                let peers = self.places().remove(router.mac.as_str()).unwrap_or_default();
                peers.into_iter().map(|peer| format!("{},output:{tunnel}", self.to(peer))).collect()
            }
            Way::Uplink(..) => vec![self.leave()],
        };
        if !there.is_empty() {
            let there = there.join(",");
            let both = format!("{here},resubmit(,30),{there}");
            flows.push(format!("table=20,priority=105,reg2=0,{to},actions={both}"));
        }
    }

    /// Ports of other hosts by MAC address: a guest's is at one of them, a router's at two.
    pub(super) fn places(&self) -> BTreeMap<&str, Vec<Ipv4Addr>> {
        let mut places: BTreeMap<&str, Vec<Ipv4Addr>> = BTreeMap::new();
        for peer in &self.network.peers {
            for port in &peer.ports {
                let at = places.entry(&port.mac).or_default();
                if at.last() != Some(&peer.tunnel_address) {
                    at.push(peer.tunnel_address);
                }
            }
        }
        places
    }
}
