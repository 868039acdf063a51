//! How full hosts are: what their VMs were promised, of what the host may promise.

use super::Session;
use crate::{
    Failure,
    failure::Tally,
    kinds::{Kind, targets},
    output::{note, print},
};
use basalt_wire::rest::Host;
use serde_json::{Value, json};

/// How full a host is, as it is printed: no kind of its own, for nobody can name or list it.
static USE: Kind = Kind {
    name: "host",
    plural: "hosts",
    in_project: false,
    names: &["/name"],
    can: &[],
    columns: &[
        ("NAME", "/name"),
        ("STATE", "/state"),
        ("VMS", "/vms"),
        ("THREADS", "/threads"),
        ("CPUS", "/claimed_cpus"),
        ("CPUS-MAX", "/capacity_cpus"),
        ("CPU%", "/cpu_percent"),
        ("MEMORY", "/claimed_memory_bytes"),
        ("MEMORY-MAX", "/capacity_memory_bytes"),
        ("MEMORY%", "/memory_percent"),
    ],
};

impl Session {
    /// Prints how full hosts are.
    pub(super) async fn top(&self, words: &[String]) -> Result<(), Failure> {
        let targets = targets(words)?;
        let mut kinds = targets.all.into_iter().chain(targets.named.iter().map(|(kind, _)| *kind));
        if let Some(kind) = kinds.find(|kind| kind.name != "host") {
            let kind = kind.name.replace('-', " ");
            return Err(Failure::Usage(format!(
                "how full a {kind} is nobody measures; these can be asked: host"
            )));
        }
        let mut tally = Tally::new(targets.named.len());
        let mut hosts = match targets.all {
            Some(kind) => self.list(kind, &[]).await?,
            None => Vec::new(),
        };
        for (kind, name) in &targets.named {
            hosts.extend(tally.keep(&format!("host/{name}"), self.find(kind, name).await));
        }
        let hosts = hosts.into_iter().map(|host| Ok(used(&serde_json::from_value(host)?)));
        let hosts: Vec<Value> = hosts.collect::<Result<_, Failure>>()?;
        match hosts.is_empty() {
            true if targets.all.is_some() => note!("no hosts"),
            true => {}
            false => print(&USE, &hosts, false, self.output)?,
        }
        tally.end()
    }
}

/// What its VMs were promised, and how much that is of what it may promise: overcommit applied, reserved memory left out.
fn used(host: &Host) -> Value {
    let capacity = host.facts.as_ref().map(|facts| host.spec.capacity(facts));
    let percent = |claimed: u64, of: Option<u64>| {
        of.filter(|of| *of > 0).map(|of| (u128::from(claimed) * 100).div_ceil(u128::from(of)))
    };
    let (cpus, memory) = (host.claimed.cpus, host.claimed.memory_bytes);
    json!({
        "name": host.metadata.name,
        "state": host.state,
        "vms": host.claimed.vms,
        "threads": host.facts.as_ref().map(|facts| facts.threads),
        "claimed_cpus": cpus,
        "capacity_cpus": capacity.map(|c| c.cpus),
        "cpu_percent": percent(cpus.into(), capacity.map(|c| c.cpus.into())).and_then(|p| u64::try_from(p).ok()),
        "claimed_memory_bytes": memory,
        "capacity_memory_bytes": capacity.map(|c| c.memory_bytes),
        "memory_percent": percent(memory, capacity.map(|c| c.memory_bytes)).and_then(|p| u64::try_from(p).ok()),
    })
}
