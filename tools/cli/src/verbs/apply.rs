//! `apply -f`: makes what stands in a file so; doing it twice changes nothing.
//!
//! A file says what it cares about. What it leaves out stays as it is: a VM that was stopped by hand is not
//! started because somebody gave it more memory in a file that does not speak of power.

use super::{Session, change::Taken};
use crate::{
    Failure,
    failure::Tally,
    kinds::{Can, Kind},
    output::{note, sayln},
};
use basalt_wire::rest::Problem;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

/// One document of a file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Document {
    kind: String,
    name: String,
    /// Of an agent or a server; default `latest`.
    #[serde(default)]
    tag: Option<String>,
    /// Default: the command's.
    #[serde(default)]
    project: Option<String>,
    /// Of a project.
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    labels: Option<Map<String, Value>>,
    #[serde(default)]
    spec: Map<String, Value>,
}

fn documents(text: &str) -> Result<Vec<(Document, &'static Kind)>, Failure> {
    let documents: Vec<Document> = serde_saphyr::from_multiple(text).map_err(|e| {
        Failure::Usage(format!("the file cannot be read: {e}\n  each document has kind, name and spec"))
    })?;
    if documents.is_empty() {
        return Err(Failure::Usage("the file is empty; write kind, name and spec".into()));
    }
    let checked = documents.into_iter().enumerate().map(|(n, document)| {
        let about = |e: Failure| Failure::Usage(format!("document {}: {}", n + 1, plain(&e)));
        let kind = Kind::find(&document.kind).map_err(about)?;
        kind.demand(Can::Declare, "declared in a file").map_err(about)?;
        if document.tenant.is_some() && kind.name != "project" {
            return Err(about(Failure::Usage(format!(
                "tenant: a {} has none of its own; remove it",
                kind.name
            ))));
        }
        if document.tag.is_some() && !is_tagged(kind) {
            return Err(about(Failure::Usage(format!("tag: a {} has none; remove it", kind.name))));
        }
        Ok((document, kind))
    });
    checked.collect()
}

/// Whether it is there once for each tag.
fn is_tagged(kind: &Kind) -> bool {
    kind.names.contains(&"/reference")
}

fn plain(failure: &Failure) -> String {
    failure.text().trim_start_matches("error: ").to_owned()
}

impl Session {
    pub(super) async fn apply(&self, file: &PathBuf, dry_run: bool) -> Result<(), Failure> {
        let text = if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        } else {
            fs::read_to_string(file).map_err(|e| Failure::Usage(format!("--file {}: {e}", file.display())))?
        };
        // Everything is read before anything is changed, and everything is asked for before anything is waited for.
        let documents = documents(&text)?;
        let mut tally = Tally::new(documents.len());
        let mut taken = Vec::new();
        for (document, kind) in documents {
            let label = format!("{}/{}", kind.name, document.name);
            taken.extend(tally.keep(&label, self.apply_one(document, kind, dry_run).await).flatten());
        }
        // An agent waits for its servers, and these for nobody.
        let is_agent = |one: &Taken| one.object().pointer("/spec/target/kind") == Some(&json!("agent"));
        taken.sort_by_key(is_agent);
        self.conclude_all(taken, &mut tally).await?;
        tally.end()
    }

    /// Asks for one document; nothing is left to wait for when it is so already.
    async fn apply_one(
        &self,
        document: Document,
        kind: &'static Kind,
        dry_run: bool,
    ) -> Result<Option<Taken>, Failure> {
        let name = match &document.tag {
            Some(tag) => format!("{}:{tag}", document.name),
            None => document.name.clone(),
        };
        let label = format!("{}/{name}", kind.name);
        let project = document.project.clone().unwrap_or_else(|| self.project.clone());
        let at = kind.object(&project, &name);
        // Only what belongs to a project can be tried without effect.
        let query = if dry_run { "?dry_run=true" } else { "" };
        let Some(current) = self.client.find::<Value>(&at).await? else {
            if dry_run && !kind.in_project {
                sayln!("{label} would be created");
                return Ok(None);
            }
            let path = format!("{}{query}", kind.collection(&project));
            let answer: Value = self.client.post(&path, &creation(document, kind)).await?;
            return self.told(kind, &name, "created", answer, dry_run);
        };
        if current.get("deletion_requested_at").is_some() {
            let detail = format!(
                "{label} is being deleted; wait until it is gone (basalt wait {label} --for deleted) and apply again."
            );
            let problem = Problem::new(409, "deleting", "Being deleted", detail);
            return Err(Failure::Problem(Box::new(problem)));
        }
        let wanted = change(document);
        let now = json!({"labels": current.get("labels"), "spec": spec(&current, kind)});
        let differences = differences(&wanted, &now);
        if differences.is_empty() {
            sayln!("{label} unchanged");
            return Ok(None);
        }
        if !kind.can.contains(&Can::Change) {
            return Err(unchangeable(kind, &differences));
        }
        if dry_run {
            differences.iter().for_each(|d| note!("{label}: {d}"));
        }
        if dry_run && !kind.in_project {
            sayln!("{label} would be changed");
            return Ok(None);
        }
        let generation = current.pointer("/generation").and_then(Value::as_i64).unwrap_or_default();
        let body = merged(&now, &wanted);
        let answer: Value = self.client.put(&format!("{at}{query}"), &body, generation).await?;
        // What cannot be read (a secret's value) may have been so already; the gateway knows.
        if !dry_run && answer.get("updated_at").is_some_and(|at| current.get("updated_at") == Some(at)) {
            sayln!("{label} unchanged");
            return Ok(None);
        }
        self.told(kind, &name, "changed", answer, dry_run)
    }

    fn told(
        &self,
        kind: &'static Kind,
        name: &str,
        done: &'static str,
        answer: Value,
        dry_run: bool,
    ) -> Result<Option<Taken>, Failure> {
        let label = format!("{}/{name}", kind.name);
        match kind.name {
            _ if dry_run => sayln!("{label} would be {done}"),
            // Its task ends when somebody uploads its bytes, unless they are fetched.
            "image" if answer.pointer("/object/spec/source").is_none() => {
                sayln!("{label} {done}");
                note!("{label} waits for its bytes: basalt upload {name} --file …");
            }
            // The answer holds a secret, which does not belong among other lines.
            "host" if done == "created" => {
                sayln!("{label} {done}");
                note!("{label} waits for its agent: basalt create join-token {name}");
            }
            _ => return Taken::read(kind, name, done, answer).map(Some),
        }
        Ok(None)
    }
}

/// The spec as users write it; a project's is its quota.
fn spec<'a>(current: &'a Value, kind: &Kind) -> &'a Value {
    let at = if kind.name == "project" { "/quota/limits" } else { "/spec" };
    current.pointer(at).unwrap_or(&Value::Null)
}

/// The body that declares a document.
fn creation(document: Document, kind: &Kind) -> Value {
    let mut body = json!({ "name": document.name });
    if let Some(labels) = document.labels {
        body["labels"] = Value::Object(labels);
    }
    match (kind.name, document.spec.is_empty()) {
        ("project", true) => {}
        ("project", false) => body["quota"] = Value::Object(document.spec),
        _ => body["spec"] = Value::Object(document.spec),
    }
    if let Some(tag) = document.tag {
        body["tag"] = json!(tag);
    }
    if let Some(tenant) = document.tenant {
        body["tenant"] = json!(tenant);
    }
    body
}

/// What a document wants of an object that is there.
fn change(document: Document) -> Value {
    let mut wanted = json!({ "spec": document.spec });
    if let Some(labels) = document.labels {
        wanted["labels"] = Value::Object(labels);
    }
    wanted
}

/// One place where an object is not as the file wants it.
#[derive(Debug, PartialEq)]
struct Difference {
    at: String,
    have: Value,
    want: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.have {
            Value::Null => write!(f, "{} is not set, the file says {}", self.at, self.want),
            have => write!(f, "{} is {have}, the file says {}", self.at, self.want),
        }
    }
}

fn unchangeable(kind: &Kind, differences: &[Difference]) -> Failure {
    let all: Vec<_> = differences.iter().map(|d| format!("\n  {d}")).collect();
    let remedy = match kind.can.contains(&Can::Delete) {
        true => "delete it and apply again, or make the file agree",
        false => "make the file agree",
    };
    Failure::Other(format!("a {} cannot be changed; {remedy}{}", kind.name, all.concat()))
}

fn differences(wanted: &Value, current: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", wanted, current, &mut found);
    found
}

fn compare(at: &str, wanted: &Value, current: &Value, found: &mut Vec<Difference>) {
    match (wanted, current) {
        (Value::Object(w), Value::Object(c)) => {
            for (key, value) in w {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                compare(&at, value, c.get(key).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(w), Value::Array(c)) if w.len() == c.len() => {
            for (i, (w, c)) in w.iter().zip(c).enumerate() {
                compare(&format!("{at}[{i}]"), w, c, found);
            }
        }
        // Nothing and empty are one.
        (Value::Object(w), Value::Null) if w.is_empty() => {}
        (want, have) if want != have => {
            found.push(Difference { at: at.into(), have: have.clone(), want: want.clone() });
        }
        _ => {}
    }
}

/// What is so now, with what the file wants put over it.
fn merged(current: &Value, wanted: &Value) -> Value {
    match (current, wanted) {
        // An object of another kind shares no fields with this one.
        (Value::Object(c), Value::Object(w))
            if ["kind", "type", "platform"]
                .iter()
                .all(|tag| w.get(*tag).is_none_or(|k| c.get(*tag) == Some(k))) =>
        {
            let mut all = c.clone();
            for (key, value) in w {
                let now = c.get(key).unwrap_or(&Value::Null);
                all.insert(key.clone(), merged(now, value));
            }
            Value::Object(all)
        }
        // Items of a list are the same thing only when they bear the same name.
        (Value::Array(c), Value::Array(w)) => {
            let same = |item: &Value| {
                let name = item.get("name").filter(|n| n.is_string())?;
                c.iter().find(|now| now.get("name") == Some(name))
            };
            Value::Array(w.iter().map(|item| merged(same(item).unwrap_or(&Value::Null), item)).collect())
        }
        _ => wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_several_documents_and_what_is_wrong_is_named() {
        let two = "kind: network\nname: lan\nspec:\n  cidr: 10.0.0.0/24\n---\nkind: vms\nname: a\nlabels: {app: web}\n";
        let read = documents(two).ok().unwrap();
        assert_eq!((read.len(), read[0].0.spec["cidr"].as_str()), (2, Some("10.0.0.0/24")));
        assert_eq!(read[1].1.name, "vm");
        for (bad, says) in [
            ("", "empty"),
            ("kind: vm\nnam: a\n", "nam"),
            ("{", "cannot be read"),
            ("kind: vm\nname: a\n---\nkind: toaster\nname: b\n", "document 2"),
            ("kind: task\nname: a\n", "declared in a file; these can: vm, network"),
            ("kind: vm\nname: a\ntenant: t\n", "document 1: tenant"),
        ] {
            let failure = documents(bad).err().unwrap();
            assert_eq!(failure.exit_code(), 2, "{bad}");
            assert!(failure.text().contains(says), "{bad}: {}", failure.text());
        }
    }

    #[test]
    fn what_is_so_already_is_left_alone_and_what_differs_is_named() {
        let current = json!({"labels": {"app": "web"},
            "spec": {"cpus": 1, "power": "running", "disks": [{"name": "root", "pool": "a"}]}});
        let differ = |wanted: Value| {
            differences(&wanted, &current).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(differ(json!({"spec": {"cpus": 1, "disks": [{"name": "root"}]}, "labels": {}})), [""; 0]);
        assert_eq!(differ(json!({"spec": {"cpus": 2}})), ["spec.cpus is 1, the file says 2"]);
        assert_eq!(differ(json!({"spec": {"disks": []}})).len(), 1);
        assert_eq!(
            differ(json!({"labels": {"tier": "db"}})),
            ["labels.tier is not set, the file says \"db\""]
        );
        assert_eq!(
            differ(json!({"spec": {"disks": [{"name": "root", "pool": "b"}]}})),
            ["spec.disks[0].pool is \"a\", the file says \"b\""]
        );
    }

    #[test]
    fn what_the_file_leaves_out_stays() {
        let current = json!({"power": "stopped", "cpus": 1, "labels": {"a": "1"},
            "disks": [{"name": "root", "size_bytes": 5, "source": {"kind": "image", "image": "x"}},
                      {"name": "data", "size_bytes": 7}],
            "nics": [{"network": "lan", "address": "10.0.0.5"}]});
        let wanted = json!({"cpus": 2, "labels": {"b": "2"},
            "disks": [{"name": "root", "source": {"kind": "blank"}}, {"name": "more", "size_bytes": 9}],
            "nics": [{"network": "blue"}]});
        assert_eq!(
            merged(&current, &wanted),
            json!({"power": "stopped", "cpus": 2, "labels": {"a": "1", "b": "2"},
                "disks": [{"name": "root", "size_bytes": 5, "source": {"kind": "blank"}},
                          {"name": "more", "size_bytes": 9}],
                "nics": [{"network": "blue"}]})
        );
    }
}
