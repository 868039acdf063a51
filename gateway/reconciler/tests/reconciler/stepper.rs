//! The stepper alone: no database, no clock, every step by hand.

use crate::world::name;
use basalt_model::{
    DateTime, GIB, Generation, HostId, Labels, Metadata,
    hosts::{HostSpec, HostState},
};
use basalt_reconciler::step::Stepper;
use basalt_store::{
    feed::{Batch, Change, Row},
    hosts::{Host, HostFactsRow},
};
use chrono::TimeDelta;
use std::time::Duration;
use uuid::Uuid;

const HOST: HostId = HostId(Uuid::from_u128(1));

fn at(seconds: i64) -> DateTime {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn batch(reload: bool, rows: Vec<Row>) -> Batch {
    let change = |row: Row| Change {
        table: row.table(),
        key: row.key(),
        tenant_id: None,
        project_id: None,
        row: Some(row),
    };
    Batch { cursor: "test:1:1:".parse().unwrap(), reload, changes: rows.into_iter().map(change).collect() }
}

/// A stepper that knows one host since second 0.
fn with_a_host() -> Stepper {
    let metadata = Metadata {
        id: HOST.0,
        tenant_id: None,
        project_id: None,
        name: name("h1"),
        labels: Labels::default(),
        generation: Generation::FIRST,
        created_at: at(0),
        updated_at: at(0),
        deletion_requested_at: None,
    };
    let host = Host { metadata, spec: HostSpec::default() };
    let facts = HostFactsRow { host_id: HOST, facts: crate::agent::facts(4, 4 * GIB), reported_at: at(0) };
    let mut stepper = Stepper::new(at(0)).unwrap();
    stepper.take(
        &batch(true, vec![Row::Host(std::sync::Arc::new(host)), Row::HostFacts(std::sync::Arc::new(facts))]),
        Duration::ZERO,
    );
    stepper
}

fn state(stepper: &Stepper) -> HostState {
    let (snapshot, nodes) = stepper.snapshot();
    assert!(stepper.verify().is_empty());
    **snapshot.get(&nodes.host_states, &HOST).unwrap()
}

#[test]
fn a_host_is_silent_only_when_somebody_listened() {
    let mut s = with_a_host();
    let mut hear = |beats: &[(HostId, DateTime)], deaf: bool, now: i64| {
        if deaf {
            s.deaf(at(now));
        }
        s.hear(beats, at(now), Duration::from_secs(now.unsigned_abs()));
        state(&s)
    };
    assert_eq!(hear(&[], false, 30), HostState::Ready, "within the lease");
    assert_eq!(hear(&[], false, 31), HostState::Unreachable);
    assert_eq!(hear(&[(HOST, at(40))], false, 41), HostState::Ready, "it is back");
    assert_eq!(hear(&[], false, 60), HostState::Ready, "the database forgot the beat, we did not");
    assert_eq!(hear(&[], true, 100), HostState::Ready, "nobody could listen");
    assert_eq!(hear(&[], false, 130), HostState::Ready);
    assert_eq!(hear(&[], false, 131), HostState::Unreachable);
}

#[test]
fn nothing_is_done_before_the_whole_truth_is_known_and_a_reload_of_the_same_is_no_news() {
    let mut empty = Stepper::new(at(0)).unwrap();
    assert!(!empty.is_synced() && empty.step(Duration::from_secs(1)).is_none());
    let mut s = with_a_host();
    assert!(s.is_synced());
    let (snapshot, nodes) = s.snapshot();
    let inputs = nodes.inputs;
    let host = Host::clone(snapshot.get(&inputs.hosts, &HOST).unwrap());
    let facts = HostFactsRow::clone(snapshot.get(&inputs.host_facts, &HOST).unwrap());
    let same =
        batch(true, vec![Row::Host(std::sync::Arc::new(host)), Row::HostFacts(std::sync::Arc::new(facts))]);
    let commit = s.take(&same, Duration::from_secs(1));
    assert_eq!((commit.changed, commit.runs, commit.revision), (0, 0, snapshot.revision()));
    // Its conditions are still to be written, and nothing else.
    let effect = s.step(Duration::from_secs(2)).unwrap();
    assert_eq!((effect.name(), effect.len()), ("conditions", 1));
    assert!(s.step(Duration::from_secs(2)).is_none());
}
