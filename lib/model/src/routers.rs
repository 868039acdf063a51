//! Routers: which networks reach each other, and the way out of them: NAT, routes, port forwards, floating addresses.

use crate::{
    Name, NetworkId, PortId, VmId,
    validate::{FieldError, Validate},
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt::Display, net::Ipv4Addr};
use utoipa::ToSchema;

/// Most networks of a router.
pub const MAX_NETWORKS: usize = 16;
/// Most static routes.
pub const MAX_ROUTES: usize = 64;
/// Most port forwards.
pub const MAX_PORT_FORWARDS: usize = 128;
/// Most floating addresses.
pub const MAX_FLOATING_IPS: usize = 64;

/// What a user wants of a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterSpec {
    /// The way out; a router without one only leads from one of its networks to another, and needs `nat: false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    /// Networks of the project whose gateway it is, 1 to 16. A network has one router at most.
    pub networks: Vec<Name>,
    /// Whether what leaves by the uplink gets the router's address there.
    #[serde(default = "yes")]
    pub nat: bool,
    /// Static routes, at most 64.
    #[serde(default)]
    pub routes: Vec<StaticRoute>,
    /// Ports of the router's uplink address that lead to VMs, at most 128.
    #[serde(default)]
    pub port_forwards: Vec<PortForward>,
    /// Addresses of the uplink's network that are one VM each, at most 64.
    #[serde(default)]
    pub floating_ips: Vec<FloatingIp>,
}

fn yes() -> bool {
    true
}

/// The way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// A network of the project; its `gateway` is where the router sends what none of its networks has.
    pub network: Name,
    /// The router's own address there; default: the next free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub address: Option<Ipv4Addr>,
}

/// A way to addresses that are in none of the router's networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticRoute {
    /// Where to, without host bits; `0.0.0.0/0` stands in for the uplink's gateway.
    #[schema(value_type = String, examples("192.168.0.0/16"))]
    pub destination: Ipv4Net,
    /// Who takes it on: an address in one of the router's networks.
    #[schema(value_type = String, format = Ipv4)]
    pub next_hop: Ipv4Addr,
}

/// What a port forward forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The word of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the router's uplink address that leads to a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortForward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port outside, 1 to 65535; each once for each protocol.
    pub port: u16,
    /// A VM with an interface in one of the router's networks.
    pub vm: Name,
    /// The VM's port, 1 to 65535.
    pub to_port: u16,
}

/// An address of the uplink's network that is one VM, both ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FloatingIp {
    /// A VM with an interface in one of the router's networks.
    pub vm: Name,
    /// A wanted address of the uplink's network; default: the next free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub address: Option<Ipv4Addr>,
}

/// What a router's names came to: networks, addresses and VMs, as they were allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterWiring {
    /// Its networks, in the spec's order.
    pub interfaces: Vec<RouterInterface>,
    /// Its way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<RouterUplink>,
    /// Port forwards, in the spec's order.
    #[serde(default)]
    pub port_forwards: Vec<ForwardTarget>,
    /// Floating addresses, in the spec's order.
    #[serde(default)]
    pub floating_ips: Vec<FloatingTarget>,
}

/// A router in one of its networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterInterface {
    /// The network.
    pub network_id: NetworkId,
    /// Its name.
    pub network: Name,
    /// Its gateway address, which is the router's.
    #[schema(value_type = String, format = Ipv4)]
    pub address: Ipv4Addr,
    /// The router's MAC address there, the same on every host.
    pub mac: String,
}

/// A router in the network of its uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterUplink {
    /// The claim on the address.
    pub port_id: PortId,
    /// The network.
    pub network_id: NetworkId,
    /// Its name.
    pub network: Name,
    /// The router's address.
    #[schema(value_type = String, format = Ipv4)]
    pub address: Ipv4Addr,
    /// The router's MAC address there, the same on every host.
    pub mac: String,
}

/// Where a port forward leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardTarget {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port outside.
    pub port: u16,
    /// The VM.
    pub vm_id: VmId,
    /// Its address.
    #[schema(value_type = String, format = Ipv4)]
    pub to_address: Ipv4Addr,
    /// Its port.
    pub to_port: u16,
}

/// Which VM a floating address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FloatingTarget {
    /// The claim on the address.
    pub port_id: PortId,
    /// The address outside.
    #[schema(value_type = String, format = Ipv4)]
    pub address: Ipv4Addr,
    /// The VM.
    pub vm_id: VmId,
    /// Its address.
    #[schema(value_type = String, format = Ipv4)]
    pub to_address: Ipv4Addr,
}

impl RouterWiring {
    /// Networks that it has an interface in, the uplink's last.
    pub fn networks(&self) -> impl Iterator<Item = NetworkId> + '_ {
        self.interfaces.iter().map(|i| i.network_id).chain(self.uplink.iter().map(|u| u.network_id))
    }

    /// What it is in each of its networks: the network, its MAC address and the addresses that it answers for.
    pub fn presences(&self) -> impl Iterator<Item = (NetworkId, &str, Vec<Ipv4Addr>)> + '_ {
        let inside = self.interfaces.iter().map(|i| (i.network_id, i.mac.as_str(), vec![i.address]));
        let outside = self.uplink.iter().map(|u| {
            let floating = self.floating_ips.iter().map(|f| f.address);
            (u.network_id, u.mac.as_str(), [u.address].into_iter().chain(floating).collect())
        });
        inside.chain(outside)
    }
}

/// MAC address of the router of a network, on every host. Guests' begin with `02`, so they never meet.
pub fn gateway_mac(vni: u32) -> String {
    let [_, a, b, c] = vni.to_be_bytes();
    format!("0a:ba:5b:{a:02x}:{b:02x}:{c:02x}")
}

impl Validate for RouterSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        self.check_networks(path, errors);
        self.check_uplink(path, errors);
        for (field, many, most) in [
            ("networks", self.networks.len(), MAX_NETWORKS),
            ("routes", self.routes.len(), MAX_ROUTES),
            ("port_forwards", self.port_forwards.len(), MAX_PORT_FORWARDS),
            ("floating_ips", self.floating_ips.len(), MAX_FLOATING_IPS),
        ] {
            if many > most {
                let reason = format!("{many} are given, at most {most} are allowed");
                errors.push(FieldError::new(format!("{path}.{field}"), "too_many", reason, "remove some"));
            }
        }
        for (i, route) in self.routes.iter().enumerate() {
            let field = format!("{path}.routes[{i}].destination");
            if route.destination.trunc() != route.destination {
                let reason = format!("{} has host bits set", route.destination);
                let remedy = format!("write {}", route.destination.trunc());
                errors.push(FieldError::new(field, "host_bits", reason, remedy));
            } else if self.routes[..i].iter().any(|r| r.destination == route.destination) {
                errors.push(twice(field, &route.destination, "keep one route for each destination"));
            }
        }
        self.check_forwards(path, errors);
        self.check_floating(path, errors);
    }
}

impl RouterSpec {
    fn check_networks(&self, path: &str, errors: &mut Vec<FieldError>) {
        if self.networks.is_empty() {
            errors.push(FieldError::new(
                format!("{path}.networks"),
                "required",
                "a router without networks routes nothing",
                "name at least one network of the project",
            ));
        }
        let mut seen = BTreeSet::new();
        for (i, network) in self.networks.iter().enumerate() {
            let field = format!("{path}.networks[{i}]");
            if !seen.insert(network) {
                errors.push(twice(field, network, "name each network once"));
            } else if self.uplink.as_ref().is_some_and(|u| u.network == *network) {
                errors.push(FieldError::new(
                    field,
                    "is_uplink",
                    format!("{network} is the uplink's network too"),
                    "take it out of networks, or choose another uplink",
                ));
            }
        }
    }

    fn check_uplink(&self, path: &str, errors: &mut Vec<FieldError>) {
        if self.uplink.is_some() {
            return;
        }
        let needs = [
            (self.nat, "nat", "set nat to false for a router that only connects its own networks"),
            (!self.port_forwards.is_empty(), "port_forwards", "remove the port forwards"),
            (!self.floating_ips.is_empty(), "floating_ips", "remove the floating addresses"),
        ];
        for (_, what, otherwise) in needs.into_iter().filter(|(needed, ..)| *needed) {
            errors.push(FieldError::new(
                format!("{path}.uplink"),
                "required",
                format!("{what} leads out of the uplink, and the router has none"),
                format!("name the network of an uplink, or {otherwise}"),
            ));
        }
    }

    fn check_forwards(&self, path: &str, errors: &mut Vec<FieldError>) {
        for (i, forward) in self.port_forwards.iter().enumerate() {
            for (name, port) in [("port", forward.port), ("to_port", forward.to_port)] {
                if port == 0 {
                    let field = format!("{path}.port_forwards[{i}].{name}");
                    let reason = "0 is no port";
                    errors.push(FieldError::new(field, "out_of_range", reason, "give 1 to 65535"));
                }
            }
            let same = |f: &PortForward| (f.protocol, f.port) == (forward.protocol, forward.port);
            if self.port_forwards[..i].iter().any(same) {
                let what = format!("{} port {}", forward.protocol.as_str(), forward.port);
                let field = format!("{path}.port_forwards[{i}].port");
                errors.push(twice(field, &what, "forward each port to one VM, or choose another port"));
            }
        }
    }

    fn check_floating(&self, path: &str, errors: &mut Vec<FieldError>) {
        let (mut vms, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        addresses.extend(self.uplink.iter().filter_map(|u| u.address));
        for (i, floating) in self.floating_ips.iter().enumerate() {
            let at = format!("{path}.floating_ips[{i}]");
            if !vms.insert(&floating.vm) {
                errors.push(twice(format!("{at}.vm"), &floating.vm, "give a VM one floating address"));
            }
            if let Some(address) = floating.address.filter(|a| !addresses.insert(*a)) {
                errors.push(twice(format!("{at}.address"), &address, "choose another address, or none"));
            }
        }
    }
}

fn twice(field: String, what: &impl Display, remedy: &str) -> FieldError {
    FieldError::new(field, "duplicate", format!("{what} stands there twice"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(spec: serde_json::Value) -> Vec<(String, String)> {
        let spec: RouterSpec = serde_json::from_value(spec).unwrap();
        let all = spec.errors();
        assert!(all.iter().all(|e| !e.reason.is_empty() && !e.remedy.is_empty()), "{all:?}");
        all.into_iter().map(|e| (e.field, e.code)).collect()
    }

    #[test]
    fn n6_a_router_without_an_uplink_is_refused_unless_nothing_leads_out_of_it() {
        let required = |n| vec![("spec.uplink".to_owned(), "required".to_owned()); n];
        assert_eq!(errors(json!({"networks": ["a"]})), required(1));
        let all = json!({"networks": ["a"], "floating_ips": [{"vm": "v"}],
            "port_forwards": [{"protocol": "tcp", "port": 80, "vm": "v", "to_port": 80}]});
        assert_eq!(errors(all), required(3));
        assert_eq!(errors(json!({"networks": ["a", "b"], "nat": false})), []);
        assert_eq!(errors(json!({"networks": ["a"], "uplink": {"network": "out"}})), []);
        let spec: RouterSpec = serde_json::from_value(json!({"networks": ["a"]})).unwrap();
        assert!(spec.errors()[0].remedy.contains("nat to false"), "{:?}", spec.errors());
    }

    #[test]
    fn n6_what_stands_twice_and_what_is_no_port_or_prefix_is_refused_by_field() {
        let bad = json!({"uplink": {"network": "out", "address": "10.0.0.9"}, "networks": ["a", "a", "out"],
            "routes": [{"destination": "10.9.0.1/24", "next_hop": "10.0.0.1"}],
            "port_forwards": [{"protocol": "tcp", "port": 80, "vm": "v", "to_port": 0},
                {"protocol": "udp", "port": 80, "vm": "v", "to_port": 1},
                {"protocol": "tcp", "port": 80, "vm": "w", "to_port": 1}],
            "floating_ips": [{"vm": "v", "address": "10.0.0.9"}, {"vm": "v"}]});
        let fields: Vec<_> = errors(bad).into_iter().map(|(field, _)| field).collect();
        assert_eq!(
            fields,
            [
                "spec.networks[1]",
                "spec.networks[2]",
                "spec.routes[0].destination",
                "spec.port_forwards[0].to_port",
                "spec.port_forwards[2].port",
                "spec.floating_ips[0].address",
                "spec.floating_ips[1].vm"
            ]
        );
        assert_eq!(errors(json!({"networks": [], "nat": false}))[0].0, "spec.networks");
        let many: Vec<String> = (0..17).map(|n| format!("n{n}")).collect();
        assert_eq!(errors(json!({"networks": many, "nat": false}))[0].1, "too_many");
    }

    #[test]
    fn n6_a_router_answers_for_its_floating_addresses_where_its_uplink_is() {
        let wiring: RouterWiring = serde_json::from_value(json!({
            "interfaces": [{"network_id": uuid::Uuid::from_u128(1), "network": "a", "address": "10.1.0.1",
                "mac": gateway_mac(0x1234)}],
            "uplink": {"port_id": uuid::Uuid::from_u128(9), "network_id": uuid::Uuid::from_u128(2), "network": "out",
                "address": "10.2.0.5", "mac": "02:00:00:00:00:01"},
            "floating_ips": [{"port_id": uuid::Uuid::from_u128(8), "address": "10.2.0.6",
                "vm_id": uuid::Uuid::from_u128(3), "to_address": "10.1.0.7"}]}))
        .unwrap();
        let all: Vec<_> = wiring.presences().collect();
        assert_eq!(all[0].1, "0a:ba:5b:00:12:34");
        assert_eq!(all[1].2, ["10.2.0.5".parse::<Ipv4Addr>().unwrap(), "10.2.0.6".parse().unwrap()]);
        assert_eq!(wiring.networks().count(), 2);
    }
}
