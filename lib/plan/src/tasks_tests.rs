//! Tasks: what moves them, what ends them, and that nothing moves them twice.

use super::*;
use crate::conditions::tests::{fresh, name, no_room, running};
use basalt_model::{
    DateTime, Generation, TaskId,
    hosts::HostState,
    tasks::{Actor, Subject as About},
    vms::{ObservedPower, OperationReport, OperationVerb},
    volumes::VolumeObserved,
};
use proptest::prelude::*;
use uuid::Uuid;

fn task(kind: TaskKind, generation: i64) -> Task {
    Task {
        id: TaskId(Uuid::from_u128(5)),
        tenant_id: None,
        project_id: None,
        kind,
        subject: About { kind: "vm".into(), id: Uuid::from_u128(1), name: "web".into() },
        generation: Generation(generation),
        state: TaskState::Pending,
        progress: 0,
        stage: String::new(),
        error: None,
        depends_on: vec![],
        deadline: DateTime::UNIX_EPOCH,
        attempt: 1,
        retry_of: None,
        actor: Actor::system("test"),
        created_at: DateTime::UNIX_EPOCH,
        started_at: None,
        finished_at: None,
    }
}

fn on_vm(kind: TaskKind, generation: i64, facts: &VmFacts) -> TaskMove {
    advance(&task(kind, generation), &Subject::Vm(facts, None), &[]).unwrap()
}

#[test]
fn t1_a_create_is_executing_with_growing_progress_and_completes_when_it_runs() {
    let t = |facts: &VmFacts| {
        let m = on_vm(TaskKind::VmCreate, 1, facts);
        (m.state, m.progress, m.stage)
    };
    let mut facts = fresh();
    assert_eq!(advance(&task(TaskKind::VmCreate, 1), &Subject::Vm(&facts, None), &[]), None);
    facts.explanation = Some(no_room());
    assert_eq!(
        t(&facts),
        (TaskState::Executing, 0, "no host takes it yet: placement: no host takes it now".into())
    );
    facts.placement = running().placement;
    assert_eq!(t(&facts), (TaskState::Executing, 10, "host h1 prepares volume root".into()));
    facts.parts[0].stage = "making it".into();
    assert_eq!(t(&facts), (TaskState::Executing, 10, "volume root: making it".into()));
    facts.parts[0].ready = true;
    assert_eq!(t(&facts), (TaskState::Executing, 80, "host h1 has what it needs".into()));
    facts.stage = "starting".into();
    assert_eq!(t(&facts), (TaskState::Executing, 80, "starting".into()));
    assert_eq!(t(&running()), (TaskState::Completed, 100, "as declared, on host h1".into()));
}

#[test]
fn r35_no_task_of_a_vm_ends_while_its_power_cannot_be_told() {
    use TaskKind::*;
    for kind in
        [VmCreate, VmUpdate, VmStart, VmStop, VmPause, VmResume, VmRedeploy, VmReboot, VmReset, VmDelete]
    {
        let mut facts = running();
        facts.observed.power = ObservedPower::Unknown;
        facts.stage = "cannot list VMs: libvirt did not answer within 8 s".into();
        facts.power = asked_power(kind).unwrap_or(Power::Running);
        facts.deleting = kind == VmDelete;
        let task = task(kind, 1);
        let verb = if kind == VmReset { OperationVerb::Reset } else { OperationVerb::Reboot };
        let asked = Operation { id: task.id, verb };
        let next = advance(&task, &Subject::Vm(&facts, Some(&asked)), &[]).unwrap();
        assert_eq!((next.state, next.error), (TaskState::Executing, None), "{kind:?}");
    }
}

#[test]
fn t1_power_tasks_end_when_seen_or_when_something_newer_was_asked() {
    use ObservedPower as Seen;
    let table = [
        (TaskKind::VmStart, Power::Running, Seen::Running, TaskState::Completed),
        (TaskKind::VmStart, Power::Running, Seen::Stopped, TaskState::Executing),
        (TaskKind::VmStart, Power::Stopped, Seen::Stopped, TaskState::Cancelled),
        (TaskKind::VmStop, Power::Stopped, Seen::Stopping, TaskState::Executing),
        (TaskKind::VmStop, Power::Stopped, Seen::Stopped, TaskState::Completed),
        (TaskKind::VmStop, Power::Running, Seen::Stopped, TaskState::Completed),
        (TaskKind::VmStop, Power::Running, Seen::Running, TaskState::Cancelled),
        (TaskKind::VmPause, Power::Paused, Seen::Paused, TaskState::Completed),
        (TaskKind::VmResume, Power::Running, Seen::Paused, TaskState::Executing),
        (TaskKind::VmResume, Power::Running, Seen::Running, TaskState::Completed),
        (TaskKind::VmUpdate, Power::Running, Seen::Running, TaskState::Completed),
        (TaskKind::VmUpdate, Power::Stopped, Seen::Running, TaskState::Executing),
        (TaskKind::VmRedeploy, Power::Running, Seen::Running, TaskState::Completed),
    ];
    for (kind, power, seen, state) in table {
        let mut facts = running();
        (facts.power, facts.observed.power) = (power, seen);
        assert_eq!(on_vm(kind, 1, &facts).state, state, "{kind:?} {power:?} {seen:?}");
    }
}

#[test]
fn t1_nothing_completes_on_facts_of_an_older_generation_epoch_or_incarnation() {
    let older: [fn(&mut VmFacts); 3] = [
        |f| f.observed_generation = Generation(0),
        |f| f.placement.as_mut().unwrap().epoch.0 = 2,
        |f| f.incarnation = 1,
    ];
    for change in older {
        let mut facts = running();
        change(&mut facts);
        assert_eq!(on_vm(TaskKind::VmRedeploy, 1, &facts).state, TaskState::Executing);
    }
}

#[test]
fn t1_a_one_shot_verb_ends_as_the_host_says_and_only_by_its_own_id() {
    let mut t = task(TaskKind::VmReboot, 1);
    let asked = Operation { id: t.id, verb: OperationVerb::Reboot };
    let mut facts = running();
    let state = |t: &Task, facts: &VmFacts, asked: Option<&Operation>| {
        advance(t, &Subject::Vm(facts, asked), &[]).unwrap().state
    };
    assert_eq!(state(&t, &facts, Some(&asked)), TaskState::Executing);
    assert_eq!(state(&t, &facts, None), TaskState::Cancelled);
    for (outcome, end) in [
        (OperationOutcome::Done, TaskState::Completed),
        (OperationOutcome::Failed, TaskState::Failed),
        (OperationOutcome::Unknown, TaskState::Failed),
    ] {
        facts.observed.operation = Some(OperationReport { id: t.id, outcome, message: String::new() });
        assert_eq!(state(&t, &facts, Some(&asked)), end);
    }
    t.id = TaskId(Uuid::from_u128(6));
    let other = Operation { id: t.id, verb: OperationVerb::Reset };
    assert_eq!(state(&t, &facts, Some(&other)), TaskState::Executing);
}

#[test]
fn t1_a_deletion_ends_every_other_task_and_completes_when_nothing_is_left() {
    let mut facts = running();
    facts.deleting = true;
    for kind in [TaskKind::VmCreate, TaskKind::VmStart, TaskKind::VmReboot, TaskKind::VmUpdate] {
        assert_eq!(on_vm(kind, 1, &facts).state, TaskState::Cancelled);
        assert_eq!(advance(&task(kind, 1), &Subject::Gone, &[]).unwrap().state, TaskState::Cancelled);
    }
    assert_eq!(on_vm(TaskKind::VmDelete, 2, &facts).state, TaskState::Executing);
    for kind in [TaskKind::VmDelete, TaskKind::VolumeDelete, TaskKind::ImageDelete, TaskKind::NetworkDelete] {
        assert_eq!(advance(&task(kind, 2), &Subject::Gone, &[]).unwrap().state, TaskState::Completed);
    }
}

#[test]
fn t1_only_what_no_waiting_mends_fails_a_task() {
    let mut facts = fresh();
    facts.placement = running().placement;
    facts.parts[0].blocked = Some(CapabilityReason::new("pool_away", "pool/default", "away", "mount it"));
    let m = on_vm(TaskKind::VmCreate, 1, &facts);
    assert_eq!(m.state, TaskState::Executing);
    assert!(m.stage.contains("mount it"), "{}", m.stage);
    facts.parts[0].blocked =
        Some(CapabilityReason::new("digest_mismatch", "image/debian", "corrupt", "upload it again"));
    let m = on_vm(TaskKind::VmCreate, 1, &facts);
    assert_eq!((m.state, m.error.unwrap().remedy.clone()), (TaskState::Failed, "upload it again".into()));
}

#[test]
fn t1_uploads_follow_the_image_and_plain_records_complete_at_once() {
    for (state, bytes, want, progress) in [
        (ImageState::Uploading, 50, TaskState::Executing, 45),
        (ImageState::Verifying, 100, TaskState::Executing, 90),
        (ImageState::Ready, 100, TaskState::Completed, 100),
        (ImageState::Failed, 100, TaskState::Failed, 0),
        (ImageState::Deleting, 100, TaskState::Cancelled, 0),
    ] {
        let observed = ImageObserved { state, size_bytes: bytes, ..ImageObserved::default() };
        let subject = Subject::Image { deleting: false, expected_bytes: Some(100), observed: &observed };
        let m = advance(&task(TaskKind::ImageUpload, 1), &subject, &[]).unwrap();
        assert_eq!((m.state, m.progress), (want, progress), "{state:?}");
        assert_eq!(m.error.is_some(), matches!(want, TaskState::Failed | TaskState::Cancelled));
    }
    let network =
        advance(&task(TaskKind::NetworkCreate, 1), &Subject::Network { deleting: false }, &[]).unwrap();
    assert_eq!(network.state, TaskState::Completed);
    let volume = VolumeFacts {
        generation: Generation(1),
        deleting: false,
        bound: Some((name("h1"), name("default"))),
        host_state: Some(HostState::Ready),
        observed: VolumeObserved::default(),
        observed_generation: Generation(0),
        stage: String::new(),
    };
    assert_eq!(
        advance(&task(TaskKind::VolumeCreate, 1), &Subject::Volume(&volume), &[]).unwrap().state,
        TaskState::Completed
    );
    assert_eq!(
        advance(&task(TaskKind::VolumeDelete, 1), &Subject::Volume(&volume), &[]).unwrap().state,
        TaskState::Executing
    );
}

#[test]
fn t1_r48_a_task_waits_for_what_it_depends_on_and_fails_with_it() {
    let facts = running();
    let all = |states: &[TaskState]| -> Vec<Dependency> {
        states.iter().map(|s| Dependency { what: "task vm_create web".into(), state: *s }).collect()
    };
    let held = task(TaskKind::VmStart, 0);
    let moves = |states: &[TaskState]| advance(&held, &Subject::Vm(&facts, None), &all(states));
    use TaskState::*;
    // What is so already is no reason to be done: nothing was asked for yet.
    for waiting in [vec![Executing], vec![Pending, Completed], vec![Completed]] {
        assert_eq!(moves(&waiting), None, "{waiting:?}");
    }
    assert!(!starts(&held, &all(&[Completed, Executing])) && starts(&held, &all(&[Completed, Completed])));
    for bad in [Failed, TimedOut, Cancelled] {
        let failed = moves(&[Completed, Executing, bad]).unwrap();
        let error = failed.error.unwrap();
        assert_eq!((failed.state, error.code.as_ref()), (Failed, "dependency_failed"));
        assert!(error.message.contains(bad.as_str()) && error.remedy.contains("retry"), "{error}");
        assert!(!starts(&held, &all(&[bad])));
    }
    // Once it started, what it waited for is history.
    let going = task(TaskKind::VmStart, 1);
    assert!(!starts(&going, &all(&[Completed])));
    let done = advance(&going, &Subject::Vm(&facts, None), &all(&[Failed])).unwrap();
    assert_eq!(done.state, Completed);
}

const KINDS: [TaskKind; 10] = [
    TaskKind::VmCreate,
    TaskKind::VmUpdate,
    TaskKind::VmStart,
    TaskKind::VmStop,
    TaskKind::VmPause,
    TaskKind::VmResume,
    TaskKind::VmReboot,
    TaskKind::VmReset,
    TaskKind::VmRedeploy,
    TaskKind::VmDelete,
];

proptest! {
    /// Along any history of facts: only allowed moves, progress never goes back, one terminal state, and asking again
    /// without news gives nothing.
    #[test]
    fn t4_any_history_has_at_most_one_end_and_never_goes_back(
        kind in 0usize..KINDS.len(),
        history in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..3, 0i64..3, any::<bool>(), any::<bool>()), 1..30),
    ) {
        let mut t = task(KINDS[kind], 1);
        for (placed, ready, power, seen, deleting, stage) in history {
            let mut facts = if placed { running() } else { fresh() };
            facts.parts[0].ready = ready;
            facts.observed.power = [ObservedPower::Running, ObservedPower::Stopped, ObservedPower::Paused][power];
            facts.observed_generation = Generation(seen);
            facts.deleting = deleting;
            facts.stage = if stage { "working".into() } else { String::new() };
            let asked = Operation { id: t.id, verb: OperationVerb::Reboot };
            let subject = Subject::Vm(&facts, Some(&asked));
            let Some(next) = advance(&t, &subject, &[]) else { continue };
            prop_assert!(t.state.may_become(next.state) || t.state == next.state, "{:?} to {:?}", t.state, next.state);
            prop_assert!(!t.state.is_terminal() && next.progress >= t.progress && !next.stage.is_empty());
            prop_assert_eq!(next.error.is_some(), matches!(next.state, TaskState::Failed | TaskState::Cancelled));
            (t.state, t.progress, t.stage) = (next.state, next.progress, next.stage);
            prop_assert_eq!(advance(&t, &subject, &[]), None);
        }
    }
}
