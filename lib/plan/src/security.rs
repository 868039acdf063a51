//! Which traffic of a port is admitted, and by which rule: the meaning of security groups.
//!
//! The groups of a port are those of its network, of its VM and its own, as if they were one. What comes in needs a
//! rule; what goes out needs one as soon as any of the groups has a rule about that. Answers to what was admitted are
//! not asked about. The flows of a host say the same (a property test compares them).

use basalt_model::{
    SecurityGroupId,
    security_groups::{Direction, Protocol},
};
use basalt_wire::agent::manifest::{RemoteBody, RuleBody};
use std::net::IpAddr;

/// The first packet of something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// To the guest, or from it.
    pub direction: Direction,
    /// Protocol; `any` stands for one that has no name here.
    pub protocol: Protocol,
    /// Destination port, of TCP and UDP.
    pub port: Option<u16>,
    /// Type, of ICMP and ICMPv6.
    pub icmp_type: Option<u8>,
    /// Code, of ICMP and ICMPv6.
    pub icmp_code: Option<u8>,
    /// The other end.
    pub remote: IpAddr,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A rule of a group admits it: the group, and the rule's place in it.
    Admitted(SecurityGroupId, usize),
    /// No group of the port says anything about what goes out, so everything does.
    Unrestricted,
    /// No rule admits it.
    Dropped,
}

impl Verdict {
    /// Whether it passes.
    pub fn admits(self) -> bool {
        self != Self::Dropped
    }
}

/// The rules of a port's group. `None`: they are not known (yet), and nothing new passes because of them.
pub type Rules<'a> = (SecurityGroupId, Option<&'a [RuleBody]>);

/// What becomes of a flow of a port that is in `groups`. `is_member` says who is in a group.
pub fn judge(
    flow: &Flow,
    groups: &[Rules<'_>],
    is_member: impl Fn(SecurityGroupId, IpAddr) -> bool,
) -> Verdict {
    for (group, rules) in groups {
        let admits = |rule: &RuleBody| admits(rule, flow, &is_member);
        if let Some(rule) = rules.unwrap_or_default().iter().position(admits) {
            return Verdict::Admitted(*group, rule);
        }
    }
    match flow.direction == Direction::Egress && !restricts_egress(groups) {
        true => Verdict::Unrestricted,
        false => Verdict::Dropped,
    }
}

/// Whether any of the groups says something about what goes out. One that is not known may.
pub fn restricts_egress(groups: &[Rules<'_>]) -> bool {
    let restricts = |rules: &[RuleBody]| rules.iter().any(|r| r.direction == Direction::Egress);
    groups.iter().any(|(_, rules)| rules.is_none_or(restricts))
}

fn admits(rule: &RuleBody, flow: &Flow, is_member: &impl Fn(SecurityGroupId, IpAddr) -> bool) -> bool {
    let ports = rule
        .ports
        .is_none_or(|range| flow.port.is_some_and(|port| (range.from..=range.to).contains(&u32::from(port))));
    rule.direction == flow.direction
        && (rule.protocol == Protocol::Any || rule.protocol == flow.protocol)
        && ports
        && (rule.icmp_type.is_none() || rule.icmp_type == flow.icmp_type)
        && (rule.icmp_code.is_none() || rule.icmp_code == flow.icmp_code)
        && match rule.remote {
            RemoteBody::Any => true,
            RemoteBody::Cidr(cidr) => cidr.contains(&flow.remote),
            RemoteBody::SecurityGroup(group) => is_member(group, flow.remote),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use uuid::Uuid;

    fn group(n: u128) -> SecurityGroupId {
        SecurityGroupId(Uuid::from_u128(n))
    }

    fn rules(all: serde_json::Value) -> Vec<RuleBody> {
        serde_json::from_value(all).unwrap()
    }

    fn tcp(direction: Direction, port: u16, remote: &str) -> Flow {
        let remote = remote.parse().unwrap();
        let protocol = Protocol::Tcp;
        Flow { direction, protocol, port: Some(port), icmp_type: None, icmp_code: None, remote }
    }

    #[test]
    fn n5_nothing_comes_in_and_everything_goes_out_without_rules() {
        let none = |_, _| false;
        let come = tcp(Direction::Ingress, 80, "10.0.0.9");
        let go = tcp(Direction::Egress, 80, "10.0.0.9");
        for groups in [&[][..], &[(group(1), Some(&[][..]))]] {
            assert_eq!(judge(&come, groups, none), Verdict::Dropped);
            assert_eq!(judge(&go, groups, none), Verdict::Unrestricted);
        }
        // Rules that are not known yet may forbid it.
        assert_eq!(judge(&go, &[(group(1), None)], none), Verdict::Dropped);
    }

    #[test]
    fn n5_the_rules_of_all_groups_hold_together_and_the_verdict_names_one() {
        let web = rules(json!([
            {"direction": "ingress", "protocol": "icmp", "remote": "any"},
            {"direction": "ingress", "protocol": "tcp", "ports": {"from": 80, "to": 89}, "remote": {"cidr": "10.0.0.0/24"}},
        ]));
        let friends = rules(json!([
            {"direction": "ingress", "protocol": "tcp", "remote": {"security_group": group(3)}},
            {"direction": "egress", "protocol": "udp", "ports": {"from": 53, "to": 53}, "remote": "any"},
        ]));
        let groups = [(group(1), Some(&*web)), (group(2), Some(&*friends))];
        let member = |g, a: IpAddr| g == group(3) && a.to_string() == "10.1.0.7";
        let judged = |flow| judge(&flow, &groups, member);
        use Direction::{Egress, Ingress};
        assert_eq!(judged(tcp(Ingress, 80, "10.0.0.9")), Verdict::Admitted(group(1), 1));
        assert_eq!(judged(tcp(Ingress, 89, "10.0.0.9")), Verdict::Admitted(group(1), 1));
        assert_eq!(judged(tcp(Ingress, 90, "10.0.0.9")), Verdict::Dropped);
        assert_eq!(judged(tcp(Ingress, 80, "10.0.1.9")), Verdict::Dropped);
        assert_eq!(judged(tcp(Ingress, 5432, "10.1.0.7")), Verdict::Admitted(group(2), 0));
        assert_eq!(judged(tcp(Ingress, 5432, "10.1.0.8")), Verdict::Dropped);
        assert_eq!(
            judged(tcp(Egress, 80, "10.0.0.9")),
            Verdict::Dropped,
            "one egress rule, so the rest stays"
        );
        let dns = Flow { protocol: Protocol::Udp, ..tcp(Egress, 53, "9.9.9.9") };
        assert_eq!(judged(dns), Verdict::Admitted(group(2), 1));
    }
}
