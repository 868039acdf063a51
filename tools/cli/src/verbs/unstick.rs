//! What an object waits for, and the ways out.

use super::Session;
use crate::{
    Failure,
    kinds::{Kind, named},
    output::{Format, note, print, print_value, sayln},
};
use basalt_model::tasks::{Task, TaskLog};
use basalt_wire::rest::{Accepted, Unstick};
use serde_json::{Value, json};

/// What is known, as it is printed.
static FACT: Kind = Kind {
    name: "fact",
    plural: "facts",
    in_project: false,
    names: &["/source"],
    can: &[],
    columns: &[("WHO", "/source"), ("SAYS", "/says"), ("SINCE", "/at")],
};

/// A way out, as it is printed.
static WAY: Kind = Kind {
    name: "way",
    plural: "ways",
    in_project: false,
    names: &["/way"],
    can: &[],
    columns: &[
        ("WAY", "/way"),
        ("SAFE", "/safe"),
        ("EFFECT", "/effect"),
        ("LOSES", "/loses"),
        ("BECAUSE", "/because"),
    ],
};

impl Session {
    /// Shows why an object does not come to an end, or takes a way out.
    pub(super) async fn unstick(&self, words: &[String], take: Option<&str>) -> Result<(), Failure> {
        let targets = named(words)?;
        let [(kind, name)] = targets.as_slice() else {
            return Err(Failure::Usage("name one object, as in vm/web-1".into()));
        };
        let object = self.find(kind, name).await?;
        let id = object.get("id").and_then(Value::as_str).unwrap_or_default();
        let path = format!("/v1/unstick/{}/{id}", kind.name);
        let Some(way) = take else {
            let answer: Value = self.client.get(&path).await?;
            if self.output != Format::Table {
                return print_value(&answer, self.output);
            }
            return self.show_ways(&serde_json::from_value(answer)?);
        };
        let answer: Value = self.client.post(&path, &json!({ "way": way })).await?;
        if matches!(self.output, Format::Json | Format::Yaml) {
            return print_value(&answer, self.output);
        }
        let taken: Accepted<Unstick> = serde_json::from_value(answer)?;
        let label = format!("{}/{}", kind.name, taken.object.name);
        if let Some(task) = taken.task.filter(|t| self.wait && !t.state.is_terminal()) {
            let tell = |line: &TaskLog| note!("{label}: {}", line.line);
            let ended: Task = self.client.follow_log(task.id, self.left(), |_| (), tell).await?;
            sayln!("{label} {way}: task {} {}", ended.id, ended.state.as_str());
        } else {
            sayln!("{label} {way}");
        }
        Ok(())
    }

    fn show_ways(&self, seen: &Unstick) -> Result<(), Failure> {
        sayln!("{}/{}: {}", seen.kind, seen.name, seen.summary);
        let facts = seen.facts.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        if !facts.is_empty() {
            print(&FACT, &facts, false, self.output)?;
        }
        let ways: Vec<Value> = seen
            .outcomes
            .iter()
            .map(|o| {
                let because = o.refused.as_ref().map_or_else(|| o.evidence.clone(), ToString::to_string);
                let safe = if o.refused.is_none() { "yes" } else { "no" };
                json!({"way": o.way, "safe": safe, "effect": o.effect, "loses": o.loses, "because": because})
            })
            .collect();
        print(&WAY, &ways, false, self.output)?;
        if seen.stuck {
            note!("take one with: basalt unstick {}/{} --take WAY", seen.kind, seen.name);
        }
        Ok(())
    }
}
