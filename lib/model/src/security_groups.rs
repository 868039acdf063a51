//! Security groups: which traffic of guests is admitted. What no rule admits does not come in.

use crate::{
    Name,
    validate::{FieldError, Validate},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Most rules of one group.
pub const MAX_RULES: usize = 128;
/// Most groups that one object names.
pub const MAX_GROUPS: usize = 16;

/// What a user wants of a security group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroupSpec {
    /// What is admitted; at most 128. The order says nothing.
    #[serde(default)]
    pub rules: Vec<SecurityRule>,
}

/// Traffic that is admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityRule {
    /// To the guest, or from it.
    pub direction: Direction,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Destination ports, of TCP and UDP only; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// Type, of ICMP and ICMPv6 only; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Code of the type; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// The other end: where traffic comes from, or goes to.
    #[serde(default)]
    pub remote: Remote,
}

/// Which way traffic goes, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the guest.
    Ingress,
    /// From the guest.
    Egress,
}

impl Direction {
    /// The word in HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Protocol of a rule.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// All of IPv4 and IPv6.
    #[default]
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP of IPv4.
    Icmp,
    /// ICMP of IPv6.
    Icmpv6,
}

impl Protocol {
    /// The word in HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Icmpv6 => "icmpv6",
        }
    }

    /// Whether it has ports.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }

    /// Whether it has types and codes.
    pub fn has_types(self) -> bool {
        matches!(self, Self::Icmp | Self::Icmpv6)
    }
}

/// Ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    /// The first, 1 to 65535.
    pub from: u32,
    /// The last, not below the first.
    pub to: u32,
}

/// The other end of traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Remote {
    /// Anybody.
    #[default]
    Any,
    /// Addresses of a prefix, IPv4 or IPv6.
    #[schema(value_type = String)]
    Cidr(IpNet),
    /// Ports of the project that are in a group, this one too if it is named.
    SecurityGroup(Name),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Cidr(cidr) => write!(f, "{cidr}"),
            Self::SecurityGroup(name) => write!(f, "security group {name}"),
        }
    }
}

impl SecurityGroupSpec {
    /// Groups that rules name, each with the rule that names it first.
    pub fn named(&self) -> Vec<(usize, &Name)> {
        let mut out: Vec<(usize, &Name)> = Vec::new();
        for (i, rule) in self.rules.iter().enumerate() {
            if let Remote::SecurityGroup(name) = &rule.remote
                && !out.iter().any(|(_, n)| *n == name)
            {
                out.push((i, name));
            }
        }
        out
    }
}

impl Validate for SecurityGroupSpec {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        if self.rules.len() > MAX_RULES {
            errors.push(FieldError::new(
                format!("{path}.rules"),
                "too_many",
                format!("{} rules; a group has at most {MAX_RULES}", self.rules.len()),
                "use port ranges and prefixes, or spread the rules over several groups",
            ));
        }
        for (i, rule) in self.rules.iter().enumerate() {
            rule.validate(&format!("{path}.rules[{i}]"), errors);
        }
    }
}

impl Validate for SecurityRule {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let protocol = self.protocol.as_str();
        if let Some(ports) = self.ports {
            let at = format!("{path}.ports");
            if self.protocol.has_ports() {
                ports.validate(&at, errors);
            } else {
                errors.push(FieldError::new(
                    at,
                    "not_allowed",
                    format!("{protocol} has no ports"),
                    "set protocol to tcp or udp, or leave ports out",
                ));
            }
        }
        let types = [("icmp_type", self.icmp_type.is_some()), ("icmp_code", self.icmp_code.is_some())];
        for (field, _) in types.into_iter().filter(|(_, given)| *given && !self.protocol.has_types()) {
            errors.push(FieldError::new(
                format!("{path}.{field}"),
                "not_allowed",
                format!("{protocol} has no {}", field.replace("icmp_", "ICMP ")),
                format!("set protocol to icmp or icmpv6, or leave {field} out"),
            ));
        }
        if self.icmp_code.is_some() && self.icmp_type.is_none() && self.protocol.has_types() {
            errors.push(FieldError::new(
                format!("{path}.icmp_code"),
                "not_allowed",
                "a code means something only together with its type",
                "give icmp_type too, or leave icmp_code out",
            ));
        }
        if let Remote::Cidr(cidr) = self.remote {
            self.validate_cidr(&format!("{path}.remote.cidr"), cidr, errors);
        }
    }
}

impl SecurityRule {
    fn validate_cidr(&self, at: &str, cidr: IpNet, errors: &mut Vec<FieldError>) {
        if cidr.trunc() != cidr {
            errors.push(FieldError::new(
                at,
                "host_bits",
                format!("{cidr} has host bits set"),
                format!("write {}", cidr.trunc()),
            ));
        }
        let (of, other) = match (self.protocol, cidr) {
            (Protocol::Icmp, IpNet::V6(_)) => ("IPv4", "icmpv6"),
            (Protocol::Icmpv6, IpNet::V4(_)) => ("IPv6", "icmp"),
            _ => return,
        };
        errors.push(FieldError::new(
            at,
            "other_family",
            format!("{} is a protocol of {of}, and {cidr} is not", self.protocol.as_str()),
            format!("set protocol to {other}, or give a prefix of {of}"),
        ));
    }
}

impl Validate for PortRange {
    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        let before = errors.len();
        for (field, port) in [("from", self.from), ("to", self.to)] {
            if !(1..=65535).contains(&port) {
                errors.push(FieldError::new(
                    format!("{path}.{field}"),
                    "out_of_range",
                    format!("{port} is no port"),
                    "give a port between 1 and 65535",
                ));
            }
        }
        if errors.len() == before && self.from > self.to {
            errors.push(FieldError::new(
                path,
                "reversed",
                format!("the range {} to {} ends before it begins", self.from, self.to),
                format!("write from {} to {}", self.to, self.from),
            ));
        }
    }
}

/// Checks the groups that an object names.
pub(crate) fn validate_names(groups: &[Name], at: &str, errors: &mut Vec<FieldError>) {
    if groups.len() > MAX_GROUPS {
        errors.push(FieldError::new(
            at,
            "too_many",
            format!("{} security groups; at most {MAX_GROUPS} are named in one place", groups.len()),
            "put the rules of some of them into one group",
        ));
    }
    for (i, name) in groups.iter().enumerate() {
        if groups[..i].contains(name) {
            errors.push(FieldError::new(
                format!("{at}[{i}]"),
                "duplicate",
                format!("the security group {name} is named twice"),
                "name every group once",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn group(rules: serde_json::Value) -> SecurityGroupSpec {
        serde_json::from_value(json!({ "rules": rules })).unwrap()
    }

    #[test]
    fn n5_a_rule_says_little_and_means_all() {
        let spec = group(json!([
            {"direction": "ingress"},
            {"direction": "ingress", "protocol": "tcp", "ports": {"from": 80, "to": 80}, "remote": {"cidr": "10.0.0.0/8"}},
            {"direction": "egress", "protocol": "icmpv6", "icmp_type": 128, "icmp_code": 0, "remote": {"cidr": "fd00::/64"}},
            {"direction": "ingress", "protocol": "udp", "remote": {"security_group": "web"}},
            {"direction": "egress", "remote": {"security_group": "web"}},
        ]));
        assert_eq!(spec.errors(), []);
        assert_eq!((spec.rules[0].protocol, &spec.rules[0].remote), (Protocol::Any, &Remote::Any));
        assert_eq!(spec.named(), [(3, &"web".parse().unwrap())]);
        let again: SecurityGroupSpec = serde_json::from_value(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn n5_impossible_rules_name_field_reason_and_remedy() {
        let rule = |more: serde_json::Value| {
            let mut rule = json!({"direction": "ingress", "protocol": "tcp"});
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            group(json!([{"direction": "egress"}, rule])).errors()
        };
        for (more, field, code) in [
            (json!({"ports": {"from": 90, "to": 80}}), "ports", "reversed"),
            (json!({"ports": {"from": 0, "to": 80}}), "ports.from", "out_of_range"),
            (json!({"ports": {"from": 80, "to": 65536}}), "ports.to", "out_of_range"),
            (json!({"ports": {"from": 80, "to": 80}, "protocol": "icmp"}), "ports", "not_allowed"),
            (json!({"ports": {"from": 80, "to": 80}, "protocol": "any"}), "ports", "not_allowed"),
            (json!({"icmp_type": 8}), "icmp_type", "not_allowed"),
            (json!({"icmp_code": 0, "protocol": "icmp"}), "icmp_code", "not_allowed"),
            (json!({"remote": {"cidr": "10.0.0.1/8"}}), "remote.cidr", "host_bits"),
            (json!({"remote": {"cidr": "fd00::1/64"}}), "remote.cidr", "host_bits"),
            (json!({"protocol": "icmp", "remote": {"cidr": "fd00::/64"}}), "remote.cidr", "other_family"),
            (json!({"protocol": "icmpv6", "remote": {"cidr": "10.0.0.0/8"}}), "remote.cidr", "other_family"),
        ] {
            let errors = rule(more.clone());
            assert_eq!(errors.len(), 1, "{more}: {errors:?}");
            assert_eq!((&*errors[0].field, &*errors[0].code), (&*format!("spec.rules[1].{field}"), code));
            assert!(!errors[0].reason.is_empty() && !errors[0].remedy.is_empty(), "{errors:?}");
        }
        assert_eq!(rule(json!({"ports": {"from": 90, "to": 80}}))[0].remedy, "write from 80 to 90");
        let many = group(json!(vec![json!({"direction": "ingress"}); MAX_RULES + 1]));
        assert_eq!(many.errors()[0].field, "spec.rules");
    }

    #[test]
    fn n5_a_group_is_named_once_in_one_place() {
        let mut errors = Vec::new();
        let name = |n: &str| n.parse::<Name>().unwrap();
        validate_names(&[name("a"), name("b"), name("a")], "spec.security_groups", &mut errors);
        assert_eq!(errors.iter().map(|e| &*e.field).collect::<Vec<_>>(), ["spec.security_groups[2]"]);
        let many: Vec<Name> = (0..17).map(|i| name(&format!("g-{i}"))).collect();
        errors.clear();
        validate_names(&many, "spec.security_groups", &mut errors);
        assert_eq!(errors[0].code, "too_many");
    }
}
