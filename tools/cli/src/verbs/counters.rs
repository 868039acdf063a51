//! What ports count.

use super::Session;
use crate::{
    Failure,
    failure::Tally,
    kinds::{Kind, named},
    output::{Format, print, print_value},
};
use serde_json::Value;

/// Counters as they are printed: no kind of their own, for nobody can name or list them.
static COUNTERS: Kind = Kind {
    name: "port",
    plural: "ports",
    in_project: true,
    names: &["/port_id"],
    can: &[],
    columns: &[
        ("PORT", "/port_id"),
        ("RX-PACKETS", "/rx_packets"),
        ("RX-BYTES", "/rx_bytes"),
        ("RX-DROPPED", "/rx_dropped"),
        ("RX-DENIED", "/rx_denied_packets"),
        ("TX-PACKETS", "/tx_packets"),
        ("TX-BYTES", "/tx_bytes"),
        ("TX-DROPPED", "/tx_dropped"),
        ("TX-DENIED", "/tx_denied_packets"),
        ("SPOOFED", "/spoofed_packets"),
    ],
};

impl Session {
    /// Prints what ports, or all ports of VMs, count.
    pub(super) async fn counters(&self, words: &[String]) -> Result<(), Failure> {
        let targets = named(words)?;
        if let Some((kind, _)) = targets.iter().find(|(kind, _)| !matches!(kind.name, "port" | "vm")) {
            let kind = kind.name.replace('-', " ");
            return Err(Failure::Usage(format!("a {kind} has no counters; these have: port, vm")));
        }
        let single = matches!(&*targets, [(kind, _)] if kind.name == "port");
        let mut ports = Vec::new();
        let mut tally = Tally::new(targets.len());
        for (kind, name) in targets {
            let label = format!("{}/{name}", kind.name);
            ports.extend(tally.keep(&label, self.ports_of(kind, &name).await).into_iter().flatten());
        }
        let (mut all, mut counted) = (Vec::new(), Tally::new(ports.len()));
        for port in &ports {
            all.extend(counted.keep(&format!("port/{port}"), self.counters_of(port).await));
        }
        match self.output {
            _ if all.is_empty() => {}
            Format::Json | Format::Yaml if single => print_value(&all[0], self.output)?,
            _ => print(&COUNTERS, &all, false, self.output)?,
        }
        tally.end()?;
        counted.end()
    }

    async fn ports_of(&self, kind: &Kind, name: &str) -> Result<Vec<String>, Failure> {
        if kind.name == "port" {
            return Ok(vec![name.to_owned()]);
        }
        let vm = self.find(kind, name).await?;
        let nics = vm["nics"].as_array().into_iter().flatten();
        Ok(nics.filter_map(|nic| nic["port_id"].as_str().map(str::to_owned)).collect())
    }

    /// What one port counts now.
    pub(super) async fn counters_of(&self, port: &str) -> Result<Value, Failure> {
        let port = Kind::find("port")?.object(&self.project, port);
        self.client.get(&format!("{port}/counters")).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Verb};
    use basalt_model::networks::Counters;
    use clap::Parser;

    #[test]
    fn n8_counters_are_asked_of_ports_and_vms_and_none_is_left_out() {
        let read =
            Arguments::try_parse_from(["basalt", "counters", "vm/web", "port/x", "-o", "json"]).unwrap();
        assert!(matches!(read.verb, Verb::Counters(targets) if targets.targets == ["vm/web", "port/x"]));
        assert!(Arguments::try_parse_from(["basalt", "counters"]).is_err());
        let counters = serde_json::to_value(Counters::default()).unwrap();
        for field in counters.as_object().unwrap().keys().filter(|field| !field.ends_with("_errors")) {
            let pointer = format!("/{field}");
            assert!(COUNTERS.columns.iter().any(|(_, at)| *at == pointer), "{field} is not shown");
        }
    }
}
