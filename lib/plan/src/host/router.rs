//! Routers on a host: what is to be set up in a router's network namespace, its rules and routes.
//!
//! Both hosts of a router have the same namespace with the same addresses. Only on the active one are its interfaces up;
//! which one that is is agreed upon between the two hosts and decided nowhere else.

use super::{Action, Draft, Judgement, Look, Resource, Seen, incomplete};
use basalt_model::{CapabilityReason, NetworkId, RouterId, routers::RouterWiring};
use basalt_wire::agent::{
    ItemKind, ItemObserved,
    manifest::{NetworkBody, RouterBody},
};
use ipnet::Ipv4Net;
use serde::Serialize;
use std::{fmt::Write as _, net::Ipv4Addr};

/// A router as it is to be set up on one of its hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouterDefinition {
    /// The router.
    pub id: RouterId,
    /// Its interfaces, the uplink's last.
    pub interfaces: Vec<RouterPort>,
    /// Routes beyond its own networks: where to, and who takes it on.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// The whole set of its rules, as `nft -f` takes it.
    pub ruleset: String,
    /// What names it between its two hosts.
    pub vrid: u8,
    /// Whether this host is active when both begin at once.
    pub preferred: bool,
    /// Where the other host's tunnels end; without it this one is active.
    pub peer: Option<Ipv4Addr>,
    /// Changes whenever anything above does. Keep it where [`super::RouterSeen::hash`] can read it back.
    #[serde(skip)]
    pub hash: String,
}

/// A router's port on the integration bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouterPort {
    /// What the device is called: at most 15 characters.
    pub name: String,
    /// The network.
    pub network_id: NetworkId,
    /// Its MAC address.
    pub mac: String,
    /// Its addresses; the first with the network's prefix, all others alone.
    pub addresses: Vec<Ipv4Net>,
    /// Largest frame payload in bytes.
    pub mtu: u16,
}

/// The device of a router in a network whose gateway it is: a network has one router at most.
pub fn inside(vni: u32) -> String {
    format!("rt{vni}")
}

/// The device of a router's uplink: a network may be the uplink of several.
pub fn outside(id: RouterId) -> String {
    format!("ru{}", &id.0.simple().to_string()[20..])
}

/// What a router is on this host; `Err` names the network that the manifest lacks.
pub(super) fn definition<'a>(
    id: RouterId,
    body: &RouterBody,
    network: impl Fn(NetworkId) -> Option<&'a NetworkBody>,
) -> Result<RouterDefinition, String> {
    let find = |id: NetworkId| network(id).ok_or_else(|| format!("network {id}"));
    let alone = |address: &Ipv4Addr| Ipv4Net::from(*address);
    let with_prefix =
        |address, cidr: Ipv4Net| Ipv4Net::new(address, cidr.prefix_len()).unwrap_or_else(|_| alone(&address));
    let mut interfaces = Vec::new();
    let mut inner: Vec<(String, Ipv4Net)> = Vec::new();
    for interface in &body.wiring.interfaces {
        let of = find(interface.network_id)?;
        inner.push((inside(of.vni), of.cidr));
        interfaces.push(RouterPort {
            name: inside(of.vni),
            network_id: interface.network_id,
            mac: interface.mac.clone(),
            addresses: vec![with_prefix(interface.address, of.cidr)],
            mtu: of.mtu,
        });
    }
    let mut routes: Vec<(Ipv4Net, Ipv4Addr)> =
        body.routes.iter().map(|r| (r.destination, r.next_hop)).collect();
    if let Some(uplink) = &body.wiring.uplink {
        let of = find(uplink.network_id)?;
        let floating = body.wiring.floating_ips.iter().map(|f| alone(&f.address));
        interfaces.push(RouterPort {
            name: outside(id),
            network_id: uplink.network_id,
            mac: uplink.mac.clone(),
            addresses: [with_prefix(uplink.address, of.cidr)].into_iter().chain(floating).collect(),
            mtu: of.mtu,
        });
        let everything = Ipv4Net::default();
        if !routes.iter().any(|(to, _)| *to == everything) {
            routes.push((everything, of.gateway));
        }
    }
    Ok(RouterDefinition {
        id,
        interfaces,
        routes,
        ruleset: ruleset(&outside(id), &inner, &body.wiring, body.nat),
        vrid: body.vrid,
        preferred: body.preferred,
        peer: body.peer,
        hash: String::new(),
    })
}

/// Names the table that holds all rules of a router.
pub const TABLE: &str = "basalt";

/// The rules, replaced as a whole in one transaction.
///
/// A connection that another host began is taken up in its middle: every translation can be told from an address alone,
/// in both directions, and nothing that the router does not know is answered with a reset.
fn ruleset(uplink: &str, inner: &[(String, Ipv4Net)], wiring: &RouterWiring, nat: bool) -> String {
    let mut out = format!("table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n");
    let mut chain = |name: &str, hook: &str, rules: Vec<String>| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "\tchain {name} {{\n\t\ttype {hook};");
        for rule in rules {
            let _ = writeln!(out, "\t\t{rule}");
        }
        out.push_str("\t}\n");
    };
    let own = wiring.uplink.as_ref().map(|u| u.address);
    chain("prerouting", "nat hook prerouting priority dstnat; policy accept", translated_in(wiring, own));
    let leaving = translated_out(uplink, inner, wiring, own.filter(|_| nat));
    chain("postrouting", "nat hook postrouting priority srcnat; policy accept", leaving);
    let asked = "icmp type { echo-request, echo-reply, destination-unreachable, time-exceeded } accept";
    chain("input", "filter hook input priority filter; policy drop", vec![asked.into()]);
    let mut passing = vec![format!("iifname != \"{uplink}\" accept")];
    if nat {
        passing.push("ct status dnat accept".into());
        passing.push("ct state established,related accept".into());
    } else {
        passing.push("accept".into());
    }
    chain("forward", "filter hook forward priority filter; policy drop", passing);
    out.push_str("}\n");
    out
}

fn translated_in(wiring: &RouterWiring, own: Option<Ipv4Addr>) -> Vec<String> {
    let floating =
        wiring.floating_ips.iter().map(|f| format!("ip daddr {} dnat to {}", f.address, f.to_address));
    let forwards = wiring.port_forwards.iter().filter_map(|f| {
        let (protocol, port) = (f.protocol.as_str(), f.port);
        Some(format!("ip daddr {} {protocol} dport {port} dnat to {}:{}", own?, f.to_address, f.to_port))
    });
    floating.chain(forwards).collect()
}

fn translated_out(
    uplink: &str,
    inner: &[(String, Ipv4Net)],
    wiring: &RouterWiring,
    own: Option<Ipv4Addr>,
) -> Vec<String> {
    let leaves = format!("oifname \"{uplink}\" ip saddr");
    let floating =
        wiring.floating_ips.iter().map(|f| format!("{leaves} {} snat to {}", f.to_address, f.address));
    // The way back of a forward whose beginning another host saw.
    let forwards = wiring.port_forwards.iter().filter_map(|f| {
        let (protocol, from) = (f.protocol.as_str(), f.to_port);
        Some(format!("{leaves} {} {protocol} sport {from} snat to {}:{}", f.to_address, own?, f.port))
    });
    let masked = inner.iter().filter_map(|(_, cidr)| Some(format!("{leaves} {cidr} snat to {}", own?)));
    // Who asks for a floating address of its own network must be answered by way of here.
    let back = inner
        .iter()
        .map(|(device, cidr)| format!("oifname \"{device}\" ip saddr {cidr} ct status dnat masquerade"));
    floating.chain(forwards).chain(masked).chain(back).collect()
}

pub(super) fn present(look: &Look<'_>, draft: &Draft, id: RouterId, body: &RouterBody) -> Judgement {
    let subject = format!("router/{}", body.name);
    let seen = look.observed.routers.get(&id);
    let active = matches!(seen, Seen::There(r) if r.active);
    let judged = |ready: bool| {
        let observed = ItemObserved::Router { ready, active, blocked: None };
        Judgement::new(observed).usable(ready).on(Resource::Router(id))
    };
    let definition = match look.index.router(id, body) {
        Ok(definition) => definition,
        Err(missing) => return judged(false).block(incomplete(subject, &missing)),
    };
    if !look.observed.capabilities.routers {
        return judged(false).block(CapabilityReason::new(
            "router_tools_missing",
            subject,
            "this host has no nftables or no keepalived",
            "install the packages nftables and keepalived on the host",
        ));
    }
    for port in &definition.interfaces {
        if let Err(lack) = draft.need(ItemKind::Network, port.network_id.0) {
            return lack.reason.into_iter().fold(judged(false).wait(lack.stage), Judgement::block);
        }
    }
    match seen {
        Seen::Unknown(why) => judged(false).wait(format!("cannot list routers: {why}")),
        Seen::There(r) if r.running && r.hash == definition.hash => judged(true),
        _ => judged(false).act([Action::EnsureRouter(Box::new(definition))]),
    }
}

pub(super) fn absent(look: &Look<'_>, id: RouterId) -> Judgement {
    let active = matches!(look.observed.routers.get(&id), Seen::There(r) if r.active);
    let there = Judgement::new(ItemObserved::Router { ready: false, active, blocked: None });
    let there = there.on(Resource::Router(id));
    match look.observed.routers.get(&id) {
        Seen::Unknown(why) => there.wait(format!("cannot list routers: {why}")),
        Seen::There(_) => there.act([Action::RemoveRouter(id)]),
        Seen::Gone => Judgement::new(ItemObserved::Gone).on(Resource::Router(id)),
    }
}
