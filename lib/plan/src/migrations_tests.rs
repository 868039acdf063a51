//! Migrations: every combination of truth, source and target, and the walls that no row of the table may break.

use super::*;
use basalt_model::{MigrationId, migrations::MotionSide};
use uuid::Uuid;

const SOURCES: [AtSource; 8] = [
    AtSource::Whole,
    AtSource::Sending,
    AtSource::Left,
    AtSource::Lost,
    AtSource::Split,
    AtSource::Torn,
    AtSource::Silent,
    AtSource::Dead,
];
const TARGETS: [AtTarget; 9] = [
    AtTarget::Nothing,
    AtTarget::Ready,
    AtTarget::Closed,
    AtTarget::Filling,
    AtTarget::Arrived,
    AtTarget::Split,
    AtTarget::Torn,
    AtTarget::Silent,
    AtTarget::Dead,
];

fn truths() -> Vec<Truth> {
    let flags = [false, true];
    let mut all = Vec::new();
    for cancelled in flags {
        for overdue in flags {
            for (copies_storage, begun) in [(false, false), (false, true), (true, false), (true, true)] {
                for gives_way in flags {
                    all.push(Truth {
                        chosen: true,
                        begun,
                        cancelled,
                        overdue,
                        copies_storage,
                        gives_way,
                        cold: false,
                    });
                }
            }
        }
    }
    all
}

/// One letter for a decision: `.` wait, `b` begin, `c` close, `S`/`s` source (whole/from disk), `T`/`t` target, `?` ask.
fn letter(decision: &Decision) -> char {
    match decision {
        Decision::Wait(_) => '.',
        Decision::Begin => 'b',
        Decision::Close => 'c',
        Decision::SourceOwns { from_disk, .. } => {
            if *from_disk {
                's'
            } else {
                'S'
            }
        }
        Decision::TargetOwns { from_disk, .. } => {
            if *from_disk {
                't'
            } else {
                'T'
            }
        }
        Decision::Ask(_) => '?',
    }
}

fn table(truth: Truth) -> Vec<String> {
    let row = |s: &AtSource| TARGETS.iter().map(|t| letter(&decide(truth, *s, *t))).collect();
    SOURCES.iter().map(row).collect()
}

#[test]
fn m3_every_combination_of_source_target_and_truth_is_decided_as_written_down() {
    // Columns: nothing, ready, closed, filling, arrived, split, torn, silent, dead.
    let rest = |copies: bool| {
        let dead = if copies { '?' } else { 's' };
        [
            ".........".to_owned(),
            "ttt.T.tTt".to_owned(),
            format!("ccs.T.t.{dead}"),
            ".........".to_owned(),
            format!("ccs.T.t.{dead}"),
            ".........".to_owned(),
            "ccS.Ttt.S".to_owned(),
        ]
    };
    for truth in truths() {
        let given_up = truth.cancelled || truth.overdue || truth.gives_way || truth.begun;
        let whole = if given_up { "SSS.S.SSS" } else { ".bS.S.S.S" };
        let mut wanted = vec![whole.to_owned()];
        wanted.extend(rest(truth.copies_storage));
        assert_eq!(table(truth), wanted, "{truth:?}");
    }
}

/// The walls that no row of the table may break, said apart from it.
#[test]
fn m3_nobody_is_given_the_vm_while_another_may_execute_it() {
    for truth in truths() {
        for source in SOURCES {
            for target in TARGETS {
                let decision = decide(truth, source, target);
                let at = (truth, source, target, &decision);
                match decision {
                    Decision::TargetOwns { from_disk, .. } => {
                        let may_execute =
                            [AtSource::Whole, AtSource::Sending, AtSource::Split, AtSource::Silent];
                        assert!(!may_execute.contains(&source), "{at:?}");
                        assert!(
                            from_disk || matches!(target, AtTarget::Arrived | AtTarget::Silent),
                            "{at:?}"
                        );
                    }
                    Decision::SourceOwns { from_disk, result, .. } => {
                        assert!(source != AtSource::Silent && source != AtSource::Left, "{at:?}");
                        // A target that has all of it never executed it while the source has all of it too.
                        let alone = [AtTarget::Filling, AtTarget::Split].contains(&target);
                        assert!(!alone, "{at:?}");
                        assert!(target != AtTarget::Arrived || source == AtSource::Whole, "{at:?}");
                        assert!(!from_disk || matches!(source, AtSource::Lost | AtSource::Torn), "{at:?}");
                        // Who does not have it whole takes nothing on a target's silence.
                        let told = matches!(target, AtTarget::Closed | AtTarget::Dead);
                        assert!(source == AtSource::Whole || told, "{at:?}");
                        assert!(result != MigrationResult::Completed, "{at:?}");
                    }
                    Decision::Begin => {
                        assert!(!truth.cancelled && !truth.overdue && !truth.begun, "{at:?}");
                    }
                    Decision::Close => {
                        assert!(source != AtSource::Whole && source != AtSource::Sending, "{at:?}")
                    }
                    Decision::Wait(why) | Decision::Ask(why) => assert!(!why.is_empty()),
                }
            }
        }
    }
}

#[test]
fn m3_what_is_waited_for_ends_by_itself_when_everybody_is_heard() {
    // Sending, filling and splitting end by libvirt or by the agents' own rules; nothing else may wait for ever.
    for source in SOURCES {
        for target in TARGETS {
            let truth = Truth { chosen: true, overdue: true, ..Truth::default() };
            if matches!(decide(truth, source, target), Decision::Wait(_)) {
                let moving = matches!(source, AtSource::Sending | AtSource::Split | AtSource::Silent)
                    || matches!(target, AtTarget::Filling | AtTarget::Split | AtTarget::Silent);
                assert!(moving, "{source:?} {target:?}");
            }
        }
    }
}

fn motion(side: MotionSide, state: MotionState) -> Motion {
    Motion { id: MigrationId(Uuid::from_u128(1)), side, state, progress: None, reason: None }
}

fn side(heard: Heard, motion: Option<&Motion>) -> Side<'_> {
    Side { heard, power: ObservedPower::Running, motion, blocked: None }
}

/// What virsh showed after faults in post-copy and pre-copy on real hosts (the lab's fixtures), as sides.
#[test]
fn m3_the_states_seen_on_real_hosts_after_faults_are_decided() {
    use MotionState::{Arrived, Copying, Failed, Left, Ready, Split, Torn};
    type Said = (Heard, Option<MotionState>);
    let cases: [(&str, Said, Said, char); 9] = [
        ("network cut in pre-copy, later", (Heard::Alive, Some(Failed)), (Heard::Alive, Some(Ready)), 'S'),
        ("job aborted", (Heard::Alive, Some(Failed)), (Heard::Alive, Some(Ready)), 'S'),
        ("source's libvirtd killed", (Heard::Alive, Some(Failed)), (Heard::Alive, Some(Ready)), 'S'),
        ("target's power cut", (Heard::Alive, Some(Failed)), (Heard::Dead, None), 'S'),
        (
            "source's power cut, target let go",
            (Heard::Dead, Some(Copying)),
            (Heard::Alive, Some(Failed)),
            'S',
        ),
        ("post-copy, link cut", (Heard::Alive, Some(Split)), (Heard::Alive, Some(Split)), '.'),
        (
            "post-copy, link back: source shut off (migrated)",
            (Heard::Alive, Some(Left)),
            (Heard::Alive, Some(Arrived)),
            'T',
        ),
        (
            "post-copy broken early: target shut off (failed)",
            (Heard::Alive, Some(Torn)),
            (Heard::Alive, Some(Failed)),
            's',
        ),
        ("post-copy broken late: both failed", (Heard::Alive, Some(Torn)), (Heard::Alive, Some(Torn)), 't'),
    ];
    let truth = Truth { chosen: true, begun: true, cancelled: true, ..Truth::default() };
    for (what, (heard, source), (heard_there, target), wanted) in cases {
        let s = source.map(|state| motion(MotionSide::Source, state));
        let t = target.map(|state| motion(MotionSide::Target, state));
        let (s, t) = (side(heard, s.as_ref()), side(heard_there, t.as_ref()));
        let decision = decide(truth, at_source(truth, &s), at_target(Some(&t)));
        assert_eq!(letter(&decision), wanted, "{what}: {decision:?}");
    }
}

#[test]
fn m3_what_was_handed_over_stays_so_when_the_source_falls_silent() {
    let truth = Truth { chosen: true, begun: true, ..Truth::default() };
    let left = motion(MotionSide::Source, MotionState::Left);
    assert_eq!(at_source(truth, &side(Heard::Silent, Some(&left))), AtSource::Left);
    let copying = motion(MotionSide::Source, MotionState::Copying);
    assert_eq!(at_source(truth, &side(Heard::Silent, Some(&copying))), AtSource::Silent);
}

#[test]
fn m3_a_source_that_was_told_to_begin_has_it_whole_only_when_it_says_that_it_failed() {
    // Its last word may be older than the target's: the guest may be gone from it by now.
    let (before, after) =
        (Truth { chosen: true, ..Truth::default() }, Truth { chosen: true, begun: true, ..Truth::default() });
    for state in [MotionState::Preparing, MotionState::Ready] {
        let said = motion(MotionSide::Source, state);
        assert_eq!(at_source(before, &side(Heard::Alive, Some(&said))), AtSource::Whole);
        assert_eq!(at_source(after, &side(Heard::Alive, Some(&said))), AtSource::Sending);
    }
    assert_eq!(at_source(after, &side(Heard::Alive, None)), AtSource::Sending);
    let failed = motion(MotionSide::Source, MotionState::Failed);
    assert_eq!(at_source(after, &side(Heard::Alive, Some(&failed))), AtSource::Whole);
}

#[test]
fn m3_the_phase_is_read_off_both_sides() {
    let truth = Truth { chosen: true, ..Truth::default() };
    assert_eq!(phase(Truth::default(), AtSource::Whole, AtTarget::Nothing), MigrationPhase::Requested);
    assert_eq!(phase(truth, AtSource::Whole, AtTarget::Ready), MigrationPhase::Preparing);
    assert_eq!(phase(truth, AtSource::Sending, AtTarget::Filling), MigrationPhase::Copying);
    assert_eq!(phase(truth, AtSource::Left, AtTarget::Arrived), MigrationPhase::Switching);
}
