//! Virtual networks: address space, kind of segment, and what guests are told by DHCP.

use crate::{
    Name, security_groups,
    validate::{FieldError, Validate, within},
};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};
use utoipa::ToSchema;

/// What a user wants of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// How frames travel between hosts.
    #[serde(default)]
    pub segment: Segment,
    /// IPv4 prefix, /8 to /29, without host bits.
    #[schema(value_type = String, examples("10.10.0.0/24"))]
    pub cidr: Ipv4Net,
    /// IPv6 prefix, /64: a guest's address in it follows from its MAC address (SLAAC's EUI-64), and DHCPv6 gives the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, examples("fd00:10::/64"))]
    pub cidr6: Option<Ipv6Net>,
    /// The router's address inside `cidr`; default: the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub gateway: Option<Ipv4Addr>,
    /// Whether guests are given their address by DHCP.
    #[serde(default = "yes")]
    pub dhcp: bool,
    /// Name servers that guests are told, at most 4. None: the host's own, which knows the names of the network's guests
    /// as `<vm>.internal` and nothing else.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<Ipv4Addr>,
    /// Largest frame payload in bytes, 1280 to 9000; 1450 leaves room for VXLAN on 1500.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Security groups of the project that hold for all of its ports; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<Name>,
}

fn yes() -> bool {
    true
}
fn default_mtu() -> u16 {
    1450
}

/// How frames of a network travel between hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Segment {
    /// A tunnel; the network identifier is allocated.
    #[default]
    Vxlan,
    /// A tagged VLAN on a named uplink bridge.
    Vlan {
        /// 1 to 4094.
        vlan_id: u16,
        /// The uplink bridge's name on the hosts.
        uplink: String,
    },
    /// Untagged on a named uplink bridge.
    Flat {
        /// The uplink bridge's name on the hosts.
        uplink: String,
    },
}

impl Segment {
    /// The bridge by which frames leave a host, where they do not travel in tunnels.
    pub fn uplink(&self) -> Option<&str> {
        match self {
            Self::Vxlan => None,
            Self::Vlan { uplink, .. } | Self::Flat { uplink } => Some(uplink),
        }
    }
}

/// The domain of guests' names on the hosts' own name servers (reserved for private use by ICANN).
pub const DOMAIN: &str = "internal";

/// A guest's address in a prefix: what SLAAC makes of its MAC address.
pub fn address6(prefix: Ipv6Net, mac: &str) -> Ipv6Addr {
    interface_address(prefix.network(), mac)
}

/// The address that an interface gives itself in a /64 (modified EUI-64, RFC 4291 appendix A). `mac` is checked before;
/// what is not hexadecimal counts as 0.
pub fn interface_address(prefix: Ipv6Addr, mac: &str) -> Ipv6Addr {
    let mut bytes = [0; 6];
    for (byte, text) in bytes.iter_mut().zip(mac.split(':')) {
        *byte = u8::from_str_radix(text, 16).unwrap_or_default();
    }
    let [a, b, c, d, e, f] = bytes;
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from((u128::from(prefix) & !u128::from(u64::MAX)) | u128::from(interface))
}

impl NetworkSpec {
    /// The router's address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway.unwrap_or_else(|| Ipv4Addr::from(u32::from(self.cidr.network()).saturating_add(1)))
    }

    /// The address that DHCP answers from: the last usable one, kept free of guests.
    pub fn dhcp_server(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.broadcast()).saturating_sub(1))
    }

    /// Whether an address can belong to a guest.
    pub fn assignable(&self, address: Ipv4Addr) -> bool {
        self.cidr.contains(&address)
            && address != self.cidr.network()
            && address != self.cidr.broadcast()
            && address != self.gateway()
            && address != self.dhcp_server()
    }

    /// All addresses that can belong to guests, ascending.
    pub fn assignable_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.cidr.hosts().filter(|a| self.assignable(*a))
    }
}

impl Validate for NetworkSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        within(errors, format!("{path}.mtu"), self.mtu.into(), (1280, 9000), "bytes");
        within(errors, format!("{path}.cidr"), self.cidr.prefix_len().into(), (8, 29), "prefix bits");
        if self.cidr.trunc() != self.cidr {
            errors.push(FieldError::new(
                format!("{path}.cidr"),
                "host_bits",
                format!("{} has host bits set", self.cidr),
                format!("write {}", self.cidr.trunc()),
            ));
        }
        let first = self.cidr.network().octets()[0];
        if first == 0 || first == 127 || first >= 224 {
            errors.push(FieldError::new(
                format!("{path}.cidr"),
                "reserved",
                format!("{} is not an address range for hosts", self.cidr),
                "choose a private range such as 10.10.0.0/24",
            ));
        }
        if let Some(prefix) = self.cidr6 {
            check_prefix6(prefix, &format!("{path}.cidr6"), errors);
        }
        if let Some(gateway) = self.gateway
            && (!self.cidr.contains(&gateway)
                || gateway == self.cidr.network()
                || gateway == self.cidr.broadcast()
                || gateway == self.dhcp_server())
        {
            errors.push(FieldError::new(
                format!("{path}.gateway"),
                "outside",
                format!("{gateway} is not a free host address of {}", self.cidr),
                format!(
                    "leave it out, or choose one such as {}",
                    Ipv4Addr::from(u32::from(self.cidr.network()) + 1)
                ),
            ));
        }
        if self.dns.len() > 4 {
            errors.push(FieldError::new(
                format!("{path}.dns"),
                "too_many",
                "at most 4 name servers",
                "remove some",
            ));
        }
        security_groups::validate_names(&self.security_groups, &format!("{path}.security_groups"), errors);
        if let Segment::Vlan { vlan_id, .. } = &self.segment {
            within(errors, format!("{path}.segment.vlan_id"), (*vlan_id).into(), (1, 4094), "");
        }
        if let Some(uplink) = self.segment.uplink()
            && (uplink.is_empty()
                || uplink.len() > 15
                || !uplink.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
        {
            errors.push(FieldError::new(
                format!("{path}.segment.uplink"),
                "no_bridge_name",
                format!("{uplink:?} cannot be the name of a bridge"),
                "write the bridge's name as `ovs-vsctl list-br` says it on the hosts, at most 15 letters, digits, - _ .",
            ));
        }
    }
}

fn check_prefix6(prefix: Ipv6Net, field: &str, errors: &mut Vec<FieldError>) {
    let private = "choose a private prefix such as fd00:10::/64";
    if prefix.prefix_len() != 64 {
        errors.push(FieldError::new(
            field,
            "out_of_range",
            format!("/{} is not /64, and guests make their address of 64 bits", prefix.prefix_len()),
            format!("write {}/64", prefix.network()),
        ));
    } else if prefix.trunc() != prefix {
        errors.push(FieldError::new(
            field,
            "host_bits",
            format!("{prefix} has host bits set"),
            format!("write {}", prefix.trunc()),
        ));
    }
    let first = prefix.network().segments()[0];
    if !(0x2000..0xfe00).contains(&first) {
        errors.push(FieldError::new(
            field,
            "reserved",
            format!("{prefix} is not a prefix for hosts"),
            private,
        ));
    }
}

/// What a port carried and what was dropped, from its guest's point of view: rx is what the guest received, tx what it
/// sent. Packets and bytes count from when the guest was started; what the network's rules dropped counts from when the
/// rule came to stand on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Packets that were handed to the guest.
    pub rx_packets: u64,
    /// Bytes that were handed to the guest.
    pub rx_bytes: u64,
    /// Packets for the guest that its device did not take: the guest reads too slowly.
    pub rx_dropped: u64,
    /// Packets for the guest that could not be handed over.
    pub rx_errors: u64,
    /// Packets that the guest sent, those among them that were dropped then.
    pub tx_packets: u64,
    /// Bytes that the guest sent.
    pub tx_bytes: u64,
    /// Packets that the guest sent and the switch did not take.
    pub tx_dropped: u64,
    /// Packets that the guest sent and that were broken.
    pub tx_errors: u64,
    /// Packets that the guest sent under another MAC or IP address than its own, or as a DHCP server or router.
    pub spoofed_packets: u64,
    /// Packets that the guest sent and a rule about what goes out dropped.
    pub tx_denied_packets: u64,
    /// Packets for the guest that a rule about what comes in dropped.
    pub rx_denied_packets: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(cidr: &str) -> NetworkSpec {
        serde_json::from_value(serde_json::json!({ "cidr": cidr })).unwrap()
    }

    #[test]
    fn a_slash_29_has_four_guest_addresses() {
        let n = network("10.0.0.0/29");
        assert_eq!(n.errors(), vec![]);
        let all: Vec<_> = n.assignable_addresses().map(|a| a.to_string()).collect();
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    }

    #[test]
    fn bad_prefixes_are_refused_with_a_remedy() {
        assert_eq!(network("10.0.0.1/24").errors()[0].remedy, "write 10.0.0.0/24");
        assert_eq!(network("10.0.0.0/31").errors()[0].code, "out_of_range");
        assert_eq!(network("127.0.0.0/8").errors()[0].code, "reserved");
    }
}
