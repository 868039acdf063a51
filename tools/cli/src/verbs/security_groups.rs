//! Security groups on one line, and whether a port's groups admit a flow.

use super::Session;
use crate::{
    Failure,
    args::{CreateSecurityGroup, Explain},
    kinds::{Kind, escape},
    output::{Format, print_value, sayln},
};
use basalt_wire::rest::FlowExplanation;
use serde_json::{Value, json};
use std::net::IpAddr;

/// How a rule is written.
const FORM: &str = "write PROTOCOL[:PORT[-PORT]][@REMOTE], for example tcp:80, tcp:8000-8010@10.0.0.0/8, \
    icmp:8 or any@group/web";

/// The body of a group that is written as rules of one word each.
pub(super) fn body(group: &CreateSecurityGroup) -> Result<Value, Failure> {
    let sides = [("ingress", &group.ingress), ("egress", &group.egress)];
    let rules = sides.into_iter().flat_map(|(way, rules)| rules.iter().map(move |r| rule(way, r)));
    Ok(json!({"name": group.name, "spec": {"rules": rules.collect::<Result<Vec<_>, _>>()?}}))
}

/// What is wrong with the values themselves the gateway says, field by field.
fn rule(direction: &str, text: &str) -> Result<Value, Failure> {
    let wrong = || Failure::Usage(format!("--{direction} {text}: {FORM}"));
    let number = |n: &str| n.parse::<u32>().map_err(|_| wrong());
    let (what, remote) = text.split_once('@').map_or((text, None), |(what, remote)| (what, Some(remote)));
    let (protocol, detail) = what.split_once(':').map_or((what, None), |(p, d)| (p, Some(d)));
    let mut rule = json!({"direction": direction, "protocol": protocol});
    match (protocol, detail) {
        (_, None) => {}
        ("icmp" | "icmpv6", Some(detail)) => {
            let (kind, code) = detail.split_once('/').map_or((detail, None), |(t, c)| (t, Some(c)));
            rule["icmp_type"] = number(kind)?.into();
            if let Some(code) = code {
                rule["icmp_code"] = number(code)?.into();
            }
        }
        (_, Some(detail)) => {
            let (from, to) = detail.split_once('-').unwrap_or((detail, detail));
            rule["ports"] = json!({"from": number(from)?, "to": number(to)?});
        }
    }
    match remote {
        None | Some("any") => {}
        Some("") => return Err(wrong()),
        Some(remote) => {
            rule["remote"] = match remote.strip_prefix("group/") {
                Some(group) => json!({ "security_group": group }),
                None => json!({ "cidr": remote }),
            }
        }
    }
    Ok(rule)
}

impl Session {
    /// Whether a flow of a port is admitted, by which rule, or why not.
    pub(super) async fn explain_flow(&self, port: &str, asked: &Explain) -> Result<(), Failure> {
        let Some(remote) = &asked.remote else {
            return Err(Failure::Usage(
                "give --remote ADDRESS: where the flow comes from, or goes to".into(),
            ));
        };
        let kind = Kind::find("port")?;
        let port = self.port(kind, port).await?;
        let mut path = format!("{}/explain?remote={}", kind.object(&self.project, &port), escape(remote));
        for (name, value) in [
            ("direction", Some(if asked.egress { "egress" } else { "ingress" }.to_owned())),
            ("protocol", asked.protocol.clone()),
            ("port", asked.port.map(|p| p.to_string())),
        ] {
            if let Some(value) = value {
                path += &format!("&{name}={}", escape(&value));
            }
        }
        let answer: Value = self.client.get(&path).await?;
        if matches!(self.output, Format::Json | Format::Yaml) {
            return print_value(&answer, self.output);
        }
        let explanation: FlowExplanation = serde_json::from_value(answer)?;
        sayln!("{}", explanation.summary);
        if let Some(reason) = explanation.reason {
            sayln!("  to admit it: {}", reason.remedy);
        }
        Ok(())
    }

    /// A port's id; it may be called by its address too.
    async fn port(&self, kind: &Kind, port: &str) -> Result<String, Failure> {
        if port.parse::<IpAddr>().is_err() {
            return Ok(port.to_owned());
        }
        let all = self.list(kind, &[]).await?;
        let found = all.iter().find(|p| p["address"] == port).and_then(|p| p["port_id"].as_str());
        let nobody = || Failure::Usage(format!("no port of project {} has the address {port}", self.project));
        found.map(str::to_owned).ok_or_else(nobody)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n5_a_rule_is_one_word() {
        for (text, want) in [
            ("icmp", json!({"direction": "ingress", "protocol": "icmp"})),
            ("icmp:8/0", json!({"direction": "ingress", "protocol": "icmp", "icmp_type": 8, "icmp_code": 0})),
            ("tcp:80", json!({"direction": "ingress", "protocol": "tcp", "ports": {"from": 80, "to": 80}})),
            (
                "udp:9000-9010@fd00::/64",
                json!({"direction": "ingress", "protocol": "udp", "ports": {"from": 9000, "to": 9010},
                    "remote": {"cidr": "fd00::/64"}}),
            ),
            (
                "any@group/web",
                json!({"direction": "ingress", "protocol": "any", "remote": {"security_group": "web"}}),
            ),
        ] {
            assert_eq!(rule("ingress", text).ok().unwrap(), want);
        }
        for wrong in ["tcp:http", "tcp:1-x", "icmp:echo", "tcp:80@"] {
            assert_eq!(rule("egress", wrong).err().unwrap().exit_code(), 2, "{wrong}");
        }
    }
}
