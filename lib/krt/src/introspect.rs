//! Why a row is what it is, and pictures of the whole: `explain`, the JSON dump and the DOT graph.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::logic::Cause;
use crate::watch::{AnyKey, AnyWatch, Read};
use crate::{Collection, Graph, Key, Revision, Value};

/// Why a row is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub collection: String,
    pub key: String,
    /// The revision that last changed the row, when there is one.
    pub changed_at: Option<Revision>,
    /// The revision of the last run for this key.
    pub ran_at: Option<Revision>,
    /// The source key whose run gave the row.
    pub source_key: Option<String>,
    /// What the last run read, one per access path: `services index services_by_namespace = "default"`.
    pub reads: Vec<String>,
    /// The input rows whose change caused the last run: `vms 7`. A row in between that is gone by now is named itself.
    pub causes: Vec<String>,
    /// Other source keys that claim the same key and are hidden.
    pub hidden: Vec<String>,
    pub error: Option<String>,
}

/// How many rows are followed when the causes of a run are looked for.
const CAUSES_FOLLOWED: usize = 10_000;

impl Graph {
    /// Why the row at `key` of a collection is what it is. For a collection whose runs make keys of their own, a key
    /// that no run has given has nothing to tell.
    pub fn explain<K: Key, V: Value>(&self, collection: &Collection<K, V>, key: &K) -> Explanation {
        let state = self.state(collection);
        let node = collection.id.node;
        let trace = self.logics[node as usize].trace(key, &self.states);
        let mut explanation = Explanation {
            collection: self.names[node as usize].clone(),
            key: format!("{key:?}"),
            changed_at: state.rows.get(key).map(|row| row.changed_at),
            ran_at: None,
            source_key: None,
            reads: Vec::new(),
            causes: Vec::new(),
            hidden: Vec::new(),
            error: state.unindexed.get(key).map(|error| error.failure.to_string()),
        };
        if let Some(trace) = trace {
            explanation.causes = self.causes(node, Arc::new(key.clone()), trace.ran_at);
            explanation.ran_at = Some(trace.ran_at);
            explanation.source_key = Some(trace.source_key);
            explanation.reads = self.describe(&trace.reads);
            explanation.hidden = trace.hidden;
            explanation.error = trace.error.map(|error| error.failure.to_string()).or(explanation.error);
        }
        explanation
    }

    fn describe(&self, reads: &[Read]) -> Vec<String> {
        self.describe_by(&self.watches, reads)
    }

    pub(crate) fn describe_by(&self, watches: &[Box<dyn AnyWatch>], reads: &[Read]) -> Vec<String> {
        let text = |read: &Read| {
            let node = read.node as usize;
            format!("{} {}", self.names[node], watches[node].describe(read.path))
        };
        let mut reads: Vec<String> = reads.iter().map(text).collect();
        // Slots of access paths depend on history; their texts do not.
        reads.sort();
        reads
    }

    /// Follow the changes that caused a run at `revision` down to input rows.
    fn causes(&self, node: u32, key: Arc<dyn AnyKey>, revision: Revision) -> Vec<String> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut pending = vec![Cause { node, key }];
        while let Some(Cause { node, key }) = pending.pop() {
            let text = format!("{} {:?}", self.names[node as usize], key);
            if !seen.insert(text.clone()) || seen.len() > CAUSES_FOLLOWED {
                continue;
            }
            let trace = self.logics[node as usize].trace(key.as_ref().as_any(), &self.states);
            let Some(trace) = trace.filter(|trace| trace.ran_at == revision) else {
                found.insert(text);
                continue;
            };
            let fired = |read: &Read| {
                let key = self.watches[read.node as usize].fired(read.path, revision)?;
                Some(Cause { node: read.node, key })
            };
            pending.extend(trace.causes);
            pending.extend(trace.reads.iter().filter_map(fired));
        }
        found.into_iter().collect()
    }

    /// Everything, as JSON: rows, errors, reads, revision, sync. The same inputs in the same order give the same bytes.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        let _ =
            write!(out, "{{\"revision\":{},\"synced\":{},\"collections\":[", self.revision, self.is_synced());
        for (node, name) in self.names.iter().enumerate() {
            let (logic, state) = (&self.logics[node], &self.states[node]);
            let _ = write!(out, "{}{{\"name\":{},\"kind\":{}", comma(node), json(name), json(logic.kind()));
            let sources = logic.sources().into_iter().map(|source| json(&self.names[source as usize]));
            let _ = write!(
                out,
                ",\"from\":[{}],\"synced\":{},\"rows\":[",
                sources.collect::<Vec<_>>().join(","),
                self.synced[node]
            );
            let mut at = 0;
            state.each_row(&mut |key, value, changed_at| {
                let (key, value) = (json(&format!("{key:?}")), json(&format!("{value:?}")));
                let _ = write!(
                    out,
                    "{}{{\"key\":{key},\"value\":{value},\"changed_at\":{changed_at}}}",
                    comma(at)
                );
                at += 1;
            });
            out.push_str("],\"errors\":[");
            for (at, error) in state.errors().iter().enumerate() {
                let (key, reason) = (json(&error.key), json(error.failure.reason()));
                let _ = write!(
                    out,
                    "{}{{\"key\":{key},\"reason\":{reason},\"since\":{}}}",
                    comma(at),
                    error.since
                );
            }
            out.push_str("],\"runs\":[");
            let mut at = 0;
            logic.each_entry(&mut |trace| {
                let reads: Vec<String> = self.describe(&trace.reads).iter().map(|read| json(read)).collect();
                let key = json(&trace.source_key);
                let _ = write!(
                    out,
                    "{}{{\"key\":{key},\"ran_at\":{},\"reads\":[{}]}}",
                    comma(at),
                    trace.ran_at,
                    reads.join(",")
                );
                at += 1;
            });
            let bytes = self.memory_at(node, false).total();
            let _ = write!(out, "],\"bytes\":{bytes}}}");
        }
        out.push_str("]}");
        out
    }

    /// The graph in DOT: solid arrows drive, dashed ones are the access paths that runs depend on now, dotted ones are
    /// read a revision later.
    pub fn dot(&self) -> String {
        let mut out = String::from("digraph krt {\n  rankdir=LR;\n");
        for (node, name) in self.names.iter().enumerate() {
            let kind = self.logics[node].kind();
            let shape = if kind == "input" { "box" } else { "ellipse" };
            let label = format!("{name}\n{kind}, {} rows", self.states[node].len());
            let _ = writeln!(out, "  n{node} [shape={shape}, label={}];", json(&label));
        }
        for arrow in self.arrows() {
            let style = match &arrow.style {
                Style::Drives => String::new(),
                Style::Read(kind) => format!(" [style=dashed, label={}]", json(kind)),
                Style::Previous => " [style=dotted, label=\"previous\"]".to_owned(),
            };
            let _ = writeln!(out, "  n{} -> n{}{style};", arrow.from, arrow.to);
        }
        out.push_str("}\n");
        out
    }

    /// The same picture for Mermaid, which Markdown pages draw.
    pub fn mermaid(&self) -> String {
        let mut out = String::from("flowchart LR\n");
        for (node, name) in self.names.iter().enumerate() {
            let kind = self.logics[node].kind();
            let (open, close) = if kind == "input" { ("[", "]") } else { ("([", "])") };
            let label = format!("{name}<br>{kind}, {} rows", self.states[node].len());
            let _ = writeln!(out, "  n{node}{open}{}{close}", quoted(&label));
        }
        for arrow in self.arrows() {
            let style = match &arrow.style {
                Style::Drives => "-->".to_owned(),
                Style::Read(kind) => format!("-. {} .->", quoted(kind)),
                Style::Previous => "-. \"previous\" .->".to_owned(),
            };
            let _ = writeln!(out, "  n{} {style} n{}", arrow.from, arrow.to);
        }
        out
    }

    fn arrows(&self) -> Vec<Arrow> {
        let mut arrows = Vec::new();
        for (to, logic) in (0u32..).zip(&self.logics) {
            arrows.extend(logic.sources().into_iter().map(|from| Arrow { from, to, style: Style::Drives }));
            let mut read = BTreeSet::new();
            logic.each_entry(&mut |trace| {
                let kind = |read: &Read| (read.node, self.watches[read.node as usize].kind(read.path));
                read.extend(trace.reads.iter().map(kind));
            });
            arrows.extend(read.into_iter().map(|(from, kind)| Arrow { from, to, style: Style::Read(kind) }));
        }
        let past = self.feeds.iter().map(|(to, from)| Arrow { from: *from, to: *to, style: Style::Previous });
        arrows.extend(past);
        arrows
    }
}

/// From a collection to one that follows from it.
struct Arrow {
    from: u32,
    to: u32,
    style: Style,
}

enum Style {
    Drives,
    /// Through an access path of this kind.
    Read(String),
    Previous,
}

/// A label for Mermaid, which knows no escapes but entities.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "#quot;"))
}

fn comma(at: usize) -> &'static str {
    if at == 0 { "" } else { "," }
}

/// A JSON string, which DOT reads as well.
fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if u32::from(control) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
