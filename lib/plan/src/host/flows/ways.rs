//! How a network's frames leave the host and come in: through tunnels to peers, or by an uplink bridge.

use super::{GROUP, View};
use basalt_model::networks::Segment;
use std::net::Ipv4Addr;

/// The way of one network to other hosts.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    /// It ends here.
    None,
    /// Tunnels to the hosts that have a part in it, through the port of this number.
    Tunnels(u32),
    /// A wire that others are on too, through the port of this number.
    Uplink(u32, &'a Segment),
}

impl View<'_> {
    /// What comes in from other hosts, and where frames for them go.
    pub(super) fn reach(&self, flows: &mut Vec<String>) {
        match self.way {
            Way::None => {}
            Way::Tunnels(tunnel) => self.reach_peers(flows, tunnel),
            Way::Uplink(uplink, segment) => self.reach_wire(flows, uplink, segment),
        }
    }

    /// The ports of other hosts, each through the tunnel to its host; and what comes from there.
    fn reach_peers(&self, flows: &mut Vec<String>, tunnel: u32) {
        let vni = self.network.vni;
        for peer in &self.network.peers {
            let enter = format!("set_field:{vni}->reg0,set_field:1->reg2,goto_table:20");
            let from = format!("in_port={tunnel},tun_id={vni},tun_src={}", peer.tunnel_address);
            flows.push(format!("table=0,priority=100,{from},actions={enter}"));
        }
        for (mac, peers) in self.places() {
            let leave: Vec<String> =
                peers.iter().map(|peer| format!("{},output:{tunnel}", self.to(*peer))).collect();
            let known = format!("reg0={vni},reg2=0,dl_dst={mac}");
            flows.push(format!("table=20,priority=90,{known},actions={}", leave.join(",")));
        }
    }

    /// A wire on which anybody may be. What comes from it goes to guests of this host only; what is for nobody here
    /// goes out. The host's own port stays off it: every host has one with the same address.
    fn reach_wire(&self, flows: &mut Vec<String>, uplink: u32, segment: &Segment) {
        let vni = self.network.vni;
        let enter = format!("set_field:{vni}->reg0,set_field:1->reg2,goto_table:20");
        let (tagged, untag) = match segment {
            Segment::Vlan { vlan_id, .. } => (format!("dl_vlan={vlan_id}"), "pop_vlan,"),
            _ => ("vlan_tci=0x0000/0x1fff".to_owned(), ""),
        };
        let from = format!("in_port={uplink},{tagged}");
        flows.push(format!("table=0,priority=100,{from},actions={untag}{enter}"));
        if let Some(server) = self.server {
            let silent = format!("reg0={vni},in_port={server}");
            flows.push(format!("table=20,priority=55,{silent},actions=drop"));
        }
        let leave = self.leave();
        flows.push(format!("table=20,priority=50,reg0={vni},reg2=0,actions={leave}"));
    }

    /// Which frames for more than one receiver go where: to the network's own ports, and once to each peer or to the
    /// wire. What the host's own port says to all is said on every host.
    pub(super) fn broadcast(&self, flows: &mut Vec<String>) {
        let vni = self.network.vni;
        let to = |numbers: &[u32]| -> Vec<String> {
            numbers.iter().map(|number| format!("set_field:{number}->reg1,resubmit(,30)")).collect()
        };
        let mut guests: Vec<u32> = self.guests.iter().map(|(number, _)| *number).collect();
        guests.sort_unstable();
        let mut all: Vec<u32> = guests.iter().copied().chain(self.server).collect();
        all.sort_unstable();
        let (guests, all) = (to(&guests), to(&all));
        let there: Vec<String> = match self.way {
            Way::None => Vec::new(),
            Way::Tunnels(tunnel) => {
                let each = |address| format!("{},output:{tunnel}", self.to(address));
                self.network.peers.iter().map(|peer| each(peer.tunnel_address)).collect()
            }
            Way::Uplink(..) => vec![self.leave()],
        };
        // Who asks on the wire for a router's address is answered by the router that is active.
        let mut on_wire: Vec<u32> = self.routers.iter().map(|(number, _)| *number).collect();
        on_wire.sort_unstable();
        let on_wire: Vec<String> = guests.iter().cloned().chain(to(&on_wire)).collect();
        let from_outside = if matches!(self.way, Way::Uplink(..)) { &on_wire } else { &all };
        let everywhere: Vec<String> = all.iter().cloned().chain(there).collect();
        let mut say = |priority: u32, from: &str, to: &[String]| {
            let actions = if to.is_empty() { "drop".to_owned() } else { to.join(",") };
            flows.push(format!(
                "table=20,priority={priority},reg0={vni},{from},dl_dst={GROUP},actions={actions}"
            ));
        };
        say(60, "reg2=0", &everywhere);
        say(60, "reg2=1", from_outside);
        if let Some(server) = self.server {
            say(65, &format!("in_port={server}"), &guests);
        }
    }

    pub(super) fn to(&self, peer: Ipv4Addr) -> String {
        format!("set_field:{}->tun_id,set_field:{peer}->tun_dst", self.network.vni)
    }

    /// Out by the wire, as its frames are tagged.
    pub(super) fn leave(&self) -> String {
        match self.way {
            Way::Uplink(uplink, Segment::Vlan { vlan_id, .. }) => {
                // The highest bit says that there is a tag (OpenFlow 1.5, 7.2.3.8).
                let vid = 0x1000 | vlan_id;
                format!("push_vlan:0x8100,set_field:{vid}->vlan_vid,output:{uplink}")
            }
            Way::Uplink(uplink, _) => format!("output:{uplink}"),
            _ => "drop".to_owned(),
        }
    }
}
