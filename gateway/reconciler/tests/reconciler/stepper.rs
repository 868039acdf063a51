//! The stepper alone: no database, no clock, every step by hand.

use crate::world::name;
use basalt_model::{
    DateTime, GIB, Generation, HostId, Labels, Metadata,
    hosts::{FencerFacts, HostSpec, HostState},
};
use basalt_plan::host_loss::PROOF_SECONDS;
use basalt_reconciler::{handlers::Effect, step::Stepper};
use basalt_store::{
    feed::{Batch, Change, Row},
    host_loss::{HostLease, Proof},
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
    let mut stepper = Stepper::new().unwrap();
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
            s.deaf(Duration::from_secs(now.unsigned_abs()));
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
fn r40_a_host_that_another_gateway_hears_is_alive_as_long_as_that_is_news_whatever_its_clock_says() {
    for hour in [-3600, 3600] {
        let mut s = with_a_host();
        let mut hear = |beat: i64, now: i64| {
            s.hear(&[(HOST, at(beat + hour))], at(now), Duration::from_secs(now.unsigned_abs()));
            state(&s)
        };
        for now in (5..100).step_by(5) {
            assert_eq!(hear(now, now), HostState::Ready, "heard of each 5 s, at {now}");
        }
        assert_eq!(hear(95, 125), HostState::Ready);
        assert_eq!(hear(95, 126), HostState::Unreachable, "the last one is 31 s old");
        assert_eq!(hear(126, 127), HostState::Ready);
    }
}

#[test]
fn nothing_is_done_before_the_whole_truth_is_known_and_a_reload_of_the_same_is_no_news() {
    let mut empty = Stepper::new().unwrap();
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

/// A lease that was given so often.
fn lease(grants: i64, fencer: bool) -> HostLease {
    let fencer = fencer.then_some(FencerFacts { window_seconds: 5, watchdog: false });
    HostLease { host_id: HOST, grants, fencer, boot_id: None }
}

/// The proof that is to be written at a second, if any. Its host was last heard of at second 0.
fn proof(s: &mut Stepper, lease: &HostLease, now: u64) -> Option<Proof> {
    let time = Duration::from_secs(now);
    s.watch(std::slice::from_ref(lease), time);
    s.hear(&[], at(i64::try_from(now).unwrap()), time);
    while let Some(effect) = s.step(time) {
        if let Effect::HostLoss(proofs) = effect {
            return proofs.into_iter().next();
        }
    }
    None
}

#[test]
fn r55_a_death_is_proven_by_the_time_since_the_last_lease_was_seen_and_by_no_clock() {
    let mut s = with_a_host();
    let wait = u64::from(PROOF_SECONDS);
    // Silent since second 31; the last lease came at 40.
    assert_eq!(proof(&mut s, &lease(7, true), 31), None, "seen for the first time");
    assert_eq!(proof(&mut s, &lease(8, true), 40), None, "another one");
    assert_eq!(proof(&mut s, &lease(8, true), 40 + wait - 1), None);
    let proven = proof(&mut s, &lease(8, true), 40 + wait).unwrap();
    assert_eq!((proven.host_id, proven.grants), (HOST, 8));
    // A clock that jumps makes no host silent, and proves nothing.
    let mut s = with_a_host();
    s.watch(&[lease(1, true)], Duration::from_secs(1));
    s.hear(&[], at(1), Duration::from_secs(1));
    s.hear(&[], at(1_000_000), Duration::from_secs(2));
    assert_eq!(state(&s), HostState::Ready);
    assert!(!std::iter::from_fn(|| s.step(Duration::from_secs(2))).any(|e| matches!(e, Effect::HostLoss(_))));
}

#[test]
fn r55_without_a_fencer_or_while_it_is_heard_of_no_host_is_dead() {
    let mut s = with_a_host();
    for now in [31, 60, 1000] {
        assert_eq!(proof(&mut s, &lease(7, false), now), None, "nothing there stops its guests");
    }
    let mut s = with_a_host();
    for now in [1_u64, 40, 80, 120] {
        s.watch(&[lease(7, true)], Duration::from_secs(now));
        s.hear(
            &[(HOST, at(i64::try_from(now).unwrap()))],
            at(i64::try_from(now).unwrap()),
            Duration::from_secs(now),
        );
        let effects = std::iter::from_fn(|| s.step(Duration::from_secs(now)));
        assert!(!effects.into_iter().any(|e| matches!(e, Effect::HostLoss(_))), "it reports at {now}");
    }
}
