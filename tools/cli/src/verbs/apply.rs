//! `apply -f`: makes what stands in a file so; doing it twice changes nothing.

use super::Session;
use crate::{Failure, kinds::Kind, output::sayln};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// One document of a file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Document {
    kind: String,
    name: String,
    #[serde(default)]
    project: Option<String>,
    #[serde(default)]
    labels: Option<Map<String, Value>>,
    #[serde(default)]
    spec: Value,
}

fn documents(text: &str) -> Result<Vec<Document>, Failure> {
    let documents: Vec<Document> = serde_saphyr::from_multiple(text).map_err(|e| {
        Failure::Usage(format!("the file cannot be read: {e}; each document has kind, name and spec"))
    })?;
    match documents.is_empty() {
        true => Err(Failure::Usage("the file is empty; write kind, name and spec".into())),
        false => Ok(documents),
    }
}

impl Session {
    pub(super) async fn apply(&self, file: &PathBuf, dry_run: bool) -> Result<(), Failure> {
        let text = if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        } else {
            fs::read_to_string(file).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?
        };
        // Everything is read before anything is changed.
        let documents = documents(&text)?;
        for document in &documents {
            Kind::find(&document.kind)?;
        }
        for document in documents {
            self.apply_one(document, dry_run).await?;
        }
        Ok(())
    }

    async fn apply_one(&self, document: Document, dry_run: bool) -> Result<(), Failure> {
        let kind = Kind::find(&document.kind)?;
        let project = document.project.as_deref().unwrap_or(&self.project);
        let at = kind.object(project, &document.name);
        let query = if dry_run { "?dry_run=true" } else { "" };
        let mut body = json!({ "spec": document.spec });
        if let Some(labels) = document.labels {
            body["labels"] = Value::Object(labels);
        }
        let Some(current) = self.client.find::<Value>(&at).await? else {
            body["name"] = json!(document.name);
            let answer: Value =
                self.client.post(&format!("{}{query}", kind.collection(project)), &body).await?;
            return self.said(kind, &document.name, "created", dry_run, &answer).await;
        };
        if subset(&body, &current) {
            sayln!("{}/{} unchanged", kind.name, document.name);
            return Ok(());
        }
        let generation = current.pointer("/generation").and_then(Value::as_i64).unwrap_or_default();
        let answer = self.client.put(&format!("{at}{query}"), &body, generation).await?;
        self.said(kind, &document.name, "changed", dry_run, &answer).await
    }

    async fn said(
        &self,
        kind: &Kind,
        name: &str,
        what: &str,
        dry: bool,
        answer: &Value,
    ) -> Result<(), Failure> {
        if dry {
            sayln!("{}/{name} would be {what}", kind.name);
            return Ok(());
        }
        sayln!("{}/{name} {what}", kind.name);
        self.conclude(kind, answer).await
    }
}

/// Whether everything that is wanted is so already; what the file leaves out may be anything.
fn subset(wanted: &Value, current: &Value) -> bool {
    match (wanted, current) {
        (Value::Object(w), Value::Object(c)) => {
            w.iter().all(|(k, v)| c.get(k).map_or(v.is_null(), |have| subset(v, have)))
        }
        (Value::Array(w), Value::Array(c)) => {
            w.len() == c.len() && w.iter().zip(c).all(|(w, c)| subset(w, c))
        }
        _ => wanted == current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_several_documents_and_unknown_keys_are_refused() {
        let two = "kind: network\nname: lan\nspec:\n  cidr: 10.0.0.0/24\n---\nkind: vm\nname: a\nlabels: {app: web}\n";
        let read = documents(two).ok().unwrap();
        assert_eq!((read.len(), read[0].spec["cidr"].as_str()), (2, Some("10.0.0.0/24")));
        for bad in ["", "kind: vm\nnam: a\n", "{"] {
            assert_eq!(documents(bad).err().unwrap().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn what_is_so_already_is_left_alone() {
        let current =
            json!({"spec": {"cpus": 1, "power": "running", "disks": [{"name": "root", "pool": "a"}]}});
        assert!(subset(&json!({"spec": {"cpus": 1, "disks": [{"name": "root"}]}}), &current));
        assert!(!subset(&json!({"spec": {"cpus": 2}}), &current));
        assert!(!subset(&json!({"spec": {"disks": []}}), &current));
    }
}
