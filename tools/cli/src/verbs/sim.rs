//! What would happen if hosts were lost, cut off or drained.

use super::{Session, bare};
use crate::{
    Failure,
    args::Sim,
    kinds::Kind,
    output::{Format, note, print, print_value, sayln},
};
use basalt_wire::rest::SimAnswer;
use serde_json::{Map, Value, json};

/// A VM to which something happens, as it is printed.
static FATE: Kind = Kind {
    name: "vm",
    plural: "vms",
    in_project: true,
    names: &["/vm"],
    can: &[],
    columns: &[
        ("VM", "/vm"),
        ("FROM", "/host"),
        ("FATE", "/fate"),
        ("TO", "/to"),
        ("SECONDS", "/after_seconds"),
        ("WHY", "/why"),
    ],
};

/// How full a host is before and after, as it is printed.
static LOAD: Kind = Kind {
    name: "host",
    plural: "hosts",
    in_project: false,
    names: &["/host"],
    can: &[],
    columns: &[
        ("HOST", "/host"),
        ("UP", "/up"),
        ("CPU%", "/cpu_percent_before"),
        ("THEN", "/cpu_percent_after"),
        ("MEMORY%", "/memory_percent_before"),
        ("THEN", "/memory_percent_after"),
    ],
};

impl Session {
    pub(super) async fn sim(&self, what: &Sim) -> Result<(), Failure> {
        let answer: Value = self.client.post("/v1/sim", &question(what)?).await?;
        if self.output != Format::Table {
            return print_value(&answer, self.output);
        }
        let answer: SimAnswer = serde_json::from_value(answer)?;
        let vms = answer.vms.iter().map(|vm| {
            let mut row = serde_json::to_value(vm)?;
            row["why"] = json!(vm.reason.as_ref().map(ToString::to_string).unwrap_or_default());
            Ok(row)
        });
        let vms = vms.collect::<Result<Vec<_>, Failure>>()?;
        if !vms.is_empty() {
            print(&FATE, &vms, false, self.output)?;
        }
        let hosts = answer.hosts.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        print(&LOAD, &hosts, false, self.output)?;
        for split in &answer.splits {
            let names = |hosts: &[basalt_model::Name]| {
                hosts.iter().map(|h| h.as_str()).collect::<Vec<_>>().join(", ")
            };
            sayln!(
                "network {}: {} and {} do not reach each other",
                split.network,
                names(&split.here),
                names(&split.there)
            );
        }
        note!("{}", answer.summary);
        Ok(())
    }
}

fn question(what: &Sim) -> Result<Value, Failure> {
    let mut events = Vec::new();
    for (kind, hosts) in
        [("cut", &what.cut), ("isolate", &what.isolate), ("lose", &what.lose), ("drain", &what.drain)]
    {
        for which in hosts {
            events.push(event(kind, which)?);
        }
    }
    if events.is_empty() {
        return Err(Failure::Usage("say what happens: --lose, --isolate, --cut or --drain".into()));
    }
    let mut question = Map::from_iter([("events".to_owned(), json!(events))]);
    if let Some(file) = &what.inventory {
        let wrong = |e: String| Failure::Usage(format!("{}: {e}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
        // JSON is YAML too.
        let inventory: Value = serde_saphyr::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        question.insert("inventory".into(), inventory);
    }
    Ok(Value::Object(question))
}

/// `h1`, `h1,h2`, or `rack=a` for all hosts that carry the label.
fn event(kind: &str, which: &str) -> Result<Value, Failure> {
    let (mut hosts, mut labels) = (Vec::new(), Map::new());
    for word in which.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match word.split_once('=') {
            Some((key, value)) => drop(labels.insert(key.to_owned(), json!(value))),
            None => hosts.push(bare("host", word)),
        }
    }
    if hosts.is_empty() && labels.is_empty() {
        return Err(Failure::Usage(format!("--{kind} {which:?} names no host")));
    }
    Ok(json!({"kind": kind, "hosts": hosts, "labels": labels}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_named_or_chosen_by_label() {
        let read = |which: &str| event("lose", which).ok();
        assert_eq!(read("h1,host/h2").unwrap()["hosts"], json!(["h1", "h2"]));
        assert_eq!(read("rack=a").unwrap()["labels"], json!({"rack": "a"}));
        assert!(read(",").is_none());
    }
}
