//! Questions that an operator may ask of a running reconciler: what it knows, and why it decided so.

use crate::step::Stepper;
use basalt_model::{HostId, VmId};
use krt::Explanation;
use std::fmt::Write;
use uuid::Uuid;

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Every row, as JSON. User-data is not shown.
    Dump,
    /// The graph in DOT.
    Dot,
    /// Work per collection, and rows waiting per lane.
    Counters,
    /// Why a VM is as it is.
    Vm(Uuid),
    /// Why a host is as it is.
    Host(Uuid),
}

/// Answers in text.
pub fn answer(stepper: &Stepper, question: Question) -> String {
    let graph = stepper.graph();
    let (_, nodes) = stepper.snapshot();
    match question {
        Question::Dump => graph.dump(),
        Question::Dot => graph.dot(),
        Question::Counters => {
            let mut out = format!("revision {}\n", graph.revision());
            for (name, c) in graph.counters() {
                let (runs, same, rows, errors) = (c.runs, c.suppressed, c.rows, c.errors);
                let _ =
                    writeln!(out, "{name}: {rows} rows, {runs} runs, {same} without change, {errors} errors");
            }
            for (lane, waiting) in stepper.backlog() {
                let _ = writeln!(out, "lane {lane}: {waiting} rows");
            }
            out
        }
        Question::Vm(id) => {
            let id = VmId(id);
            let all = [
                graph.explain(&nodes.requests, &id),
                graph.explain(&nodes.vm_status, &id),
                graph.explain(&nodes.conditions, &id.0),
            ];
            all.iter().map(text).collect()
        }
        Question::Host(id) => {
            let id = HostId(id);
            let all = [
                graph.explain(&nodes.host_states, &id),
                graph.explain(&nodes.host_views, &id),
                graph.explain(&nodes.edits_by_host, &id),
            ];
            all.iter().map(text).collect()
        }
    }
}

fn text(e: &Explanation) -> String {
    let mut out = format!("{} {}\n", e.collection, e.key);
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
