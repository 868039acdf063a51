//! Questions that an operator may ask of a running reconciler: what it knows, and why it decided so.

use crate::step::Stepper;
use basalt_model::{HostId, ImageId, NetworkId, TaskId, VmId, VolumeId};
use krt::Explanation;
use std::{fmt::Write, str::FromStr};
use uuid::Uuid;

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Every row, as JSON. User-data is not shown.
    Dump,
    /// The graph in DOT.
    Dot,
    /// The graph in Mermaid.
    Mermaid,
    /// Work per collection, and rows waiting per lane.
    Counters,
    /// Why an object is as it is.
    Object(Kind, Uuid),
}

/// Objects that can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A VM.
    Vm,
    /// A host.
    Host,
    /// A volume.
    Volume,
    /// A network.
    Network,
    /// An image.
    Image,
    /// A task.
    Task,
}

impl Kind {
    const NAMED: [(&'static str, Kind); 6] = [
        ("vm", Kind::Vm),
        ("host", Kind::Host),
        ("volume", Kind::Volume),
        ("network", Kind::Network),
        ("image", Kind::Image),
        ("task", Kind::Task),
    ];
}

impl FromStr for Question {
    /// What there is to ask.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || {
            let objects: Vec<String> = Kind::NAMED.iter().map(|(name, _)| format!("{name}:<id>")).collect();
            format!("counters, dot, mermaid, dump, {}", objects.join(", "))
        };
        match text.split_once(':') {
            None if text == "dump" => Ok(Question::Dump),
            None if text == "dot" => Ok(Question::Dot),
            None if text == "mermaid" => Ok(Question::Mermaid),
            None if text == "counters" => Ok(Question::Counters),
            Some((kind, id)) => {
                let kind = Kind::NAMED.iter().find(|(name, _)| *name == kind).map(|(_, kind)| *kind);
                let id = id.parse().ok();
                kind.zip(id).map(|(kind, id)| Question::Object(kind, id)).ok_or_else(known)
            }
            None => Err(known()),
        }
    }
}

/// Answers in text.
pub fn answer(stepper: &Stepper, question: Question) -> String {
    let graph = stepper.graph();
    match question {
        Question::Dump => graph.dump(),
        Question::Dot => graph.dot(),
        Question::Mermaid => graph.mermaid(),
        Question::Counters => counters(stepper),
        Question::Object(kind, id) => explain(stepper, kind, id),
    }
}

fn counters(stepper: &Stepper) -> String {
    let graph = stepper.graph();
    let mut out = format!("revision {}\n", graph.revision());
    for (name, c) in graph.counters() {
        let _ = writeln!(
            out,
            "{name}: {} rows, {} bytes, {} runs, {} without change, {} errors, {} reads of {} paths, changed at {}",
            c.rows, c.bytes, c.runs, c.suppressed, c.errors, c.edges, c.paths, c.changed_at
        );
    }
    for (lane, waiting) in stepper.backlog() {
        let _ = writeln!(out, "lane {lane}: {waiting} rows");
    }
    out
}

fn explain(stepper: &Stepper, kind: Kind, id: Uuid) -> String {
    let (graph, (_, nodes)) = (stepper.graph(), stepper.snapshot());
    let own = match kind {
        Kind::Vm => {
            vec![graph.explain(&nodes.requests, &VmId(id)), graph.explain(&nodes.vm_status, &VmId(id))]
        }
        Kind::Host => vec![
            graph.explain(&nodes.host_states, &HostId(id)),
            graph.explain(&nodes.host_views, &HostId(id)),
            graph.explain(&nodes.edits_by_host, &HostId(id)),
        ],
        Kind::Volume => vec![graph.explain(&nodes.volume_status, &VolumeId(id))],
        Kind::Task => return text(&graph.explain(&nodes.task_moves, &TaskId(id))),
        Kind::Network => vec![graph.explain(&nodes.inputs.networks, &NetworkId(id))],
        Kind::Image => vec![
            graph.explain(&nodes.inputs.images, &ImageId(id)),
            graph.explain(&nodes.inputs.image_facts, &ImageId(id)),
        ],
    };
    own.iter().chain([&graph.explain(&nodes.conditions, &id)]).map(text).collect()
}

fn text(e: &Explanation) -> String {
    let mut out = format!("{} {}\n", e.collection, e.key);
    let _ = match e.changed_at {
        Some(revision) => writeln!(out, "  changed at revision {revision}"),
        None => writeln!(out, "  no row now"),
    };
    if let Some(revision) = e.ran_at {
        let _ = writeln!(out, "  last run at revision {revision}");
    }
    if let Some(error) = &e.error {
        let _ = writeln!(out, "  error: {error}");
    }
    for (word, lines) in [("reads", &e.reads), ("caused by", &e.causes)] {
        for line in lines {
            let _ = writeln!(out, "  {word}: {line}");
        }
    }
    out
}
