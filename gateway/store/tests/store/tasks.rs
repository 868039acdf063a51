//! Tasks: what they carry, how they move, and that they end once.

use crate::fixture::House;
use basalt_model::{
    CapabilityReason, DateTime, TaskId,
    tasks::{Task, TaskMove, TaskState},
    vms::{OperationVerb, Power},
};
use basalt_store::{
    Error, Key, Page, task_logs, tasks,
    testkit::{name, now},
    vms::{self, PowerVerb},
};
use chrono::TimeDelta;

fn to(id: TaskId, state: TaskState, progress: i32, stage: &str) -> TaskMove {
    TaskMove { id, state, progress, stage: stage.into(), error: None }
}

async fn advance(h: &House, moves: &[TaskMove], at: DateTime) -> Vec<TaskId> {
    let mut tx = h.db.store.system().await.unwrap();
    let moved = tasks::advance(&mut tx, moves, at).await.unwrap();
    tx.commit().await.unwrap();
    moved
}

async fn get(h: &House, id: TaskId) -> Task {
    let mut tx = h.db.store.system_read().await.unwrap();
    tasks::get(&mut tx, id).await.unwrap()
}

#[tokio::test]
async fn t1_a_task_carries_progress_stage_logs_deadline_actor_and_subject() {
    let h = House::new().await;
    let task = h.vm("web-1").await.task;
    assert_eq!((task.actor.name.as_str(), task.subject.name.as_str(), task.attempt), ("tester", "web-1", 1));
    assert_eq!(task.deadline, now() + TimeDelta::hours(1));
    let later = now() + TimeDelta::seconds(3);
    assert_eq!(
        advance(&h, &[to(task.id, TaskState::Executing, 40, "downloading image")], later).await,
        [task.id]
    );
    let seen = get(&h, task.id).await;
    assert_eq!(
        (seen.state, seen.progress, seen.stage.as_str()),
        (TaskState::Executing, 40, "downloading image")
    );
    assert_eq!((seen.started_at, seen.finished_at), (Some(later), None));
    let same = advance(&h, &[to(task.id, TaskState::Executing, 40, "downloading image")], later).await;
    assert!(same.is_empty(), "a move that changes nothing writes nothing");
    let back = advance(&h, &[to(task.id, TaskState::Pending, 0, "")], later).await;
    assert!(back.is_empty(), "nothing returns to pending");
    let done = later + TimeDelta::seconds(9);
    advance(&h, &[to(task.id, TaskState::Completed, 100, "")], done).await;
    let seen = get(&h, task.id).await;
    assert_eq!((seen.state, seen.progress, seen.finished_at), (TaskState::Completed, 100, Some(done)));
    let mut tx = h.db.store.system().await.unwrap();
    let filter = tasks::Filter {
        subject: Some(task.subject.id),
        state: Some(TaskState::Completed),
        ..Default::default()
    };
    assert_eq!(tasks::list(&mut tx, &filter, &Page::default()).await.unwrap().items, [seen]);
}

#[tokio::test]
async fn t1_logs_are_numbered_seen_by_the_tenant_and_bounded() {
    let h = House::new().await;
    let task = h.vm("web-1").await.task.id;
    let mut tx = h.db.store.system().await.unwrap();
    let line = |i: usize| (task, now(), format!("line {i}"));
    task_logs::append(&mut tx, &[line(1), line(2), (TaskId((h.ids)()), now(), "lost".into())]).await.unwrap();
    tx.commit().await.unwrap();
    let mut tenant = h.db.store.tenant_read(h.tenant).await.unwrap();
    let logs = task_logs::list(&mut tenant, task, 0, 10).await.unwrap();
    assert_eq!(
        logs.iter().map(|l| (l.seq, l.line.as_str())).collect::<Vec<_>>(),
        [(1, "line 1"), (2, "line 2")]
    );
    let many: Vec<_> = (3..=1100).map(line).chain([(task, now(), "é".repeat(5000))]).collect();
    let mut tx = h.db.store.system().await.unwrap();
    task_logs::append(&mut tx, &many).await.unwrap();
    tx.commit().await.unwrap();
    drop(tenant);
    let mut tenant = h.db.store.tenant_read(h.tenant).await.unwrap();
    let logs = task_logs::list(&mut tenant, task, 0, 2000).await.unwrap();
    assert_eq!((logs.len(), logs[0].seq, logs[999].seq), (1000, 102, 1101));
    assert_eq!(logs[999].line.len(), task_logs::MAX_LINE_BYTES);
    assert_eq!(task_logs::list(&mut tenant, task, 1099, 5).await.unwrap().len(), 2);
}

#[tokio::test]
async fn t2_the_sweep_ends_overdue_tasks_and_says_what_they_were_doing() {
    let h = House::new().await;
    let (a, b) = (h.vm("a").await.task.id, h.vm("b").await.task.id);
    advance(&h, &[to(a, TaskState::Executing, 10, "defining domain")], now()).await;
    let sweep = |at: DateTime| {
        let store = h.db.store.clone();
        async move {
            let mut tx = store.system().await.unwrap();
            let swept = tasks::sweep(&mut tx, at, 100).await.unwrap();
            tx.commit().await.unwrap();
            swept
        }
    };
    assert!(sweep(now() + TimeDelta::minutes(59)).await.iter().all(|t| t.id != a && t.id != b));
    let late = now() + TimeDelta::minutes(61);
    let mut swept = sweep(late).await;
    swept.sort_by_key(|t| t.id);
    assert_eq!(swept.iter().map(|t| t.id).collect::<Vec<_>>(), [a, b]);
    assert!(swept.iter().all(|t| t.state == TaskState::TimedOut && t.finished_at == Some(late)));
    let error = get(&h, a).await.error.unwrap();
    assert_eq!((error.code.as_ref(), error.evidence.as_str()), ("deadline_passed", "defining domain"));
    assert!(error.remedy.contains("web") || error.remedy.contains("vm a"), "{}", error.remedy);
    assert!(sweep(late).await.is_empty(), "once");
}

#[tokio::test]
async fn t2_sweeps_of_two_gateways_share_the_work() {
    let h = House::new().await;
    let all = h.vms(12).await.len();
    let late = now() + TimeDelta::days(2);
    let sweep = || async {
        let mut tx = h.db.store.system().await.unwrap();
        let swept = tasks::sweep(&mut tx, late, 8).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        tx.commit().await.unwrap();
        swept.into_iter().map(|t| t.id).collect::<Vec<_>>()
    };
    let (mut a, b) = tokio::join!(sweep(), sweep());
    a.extend(b);
    let n = a.len();
    a.sort();
    a.dedup();
    assert_eq!(n, a.len(), "nothing is swept twice");
    assert!(n >= all.min(8), "{n}");
}

/// Completed, failed, timed out and cancelled at the same moment: exactly one of them counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_every_race_of_ends_has_one_winner() {
    let h = House::new().await;
    for round in 0..25 {
        let task = h.vm(&format!("r{round}")).await.task.id;
        let failed = TaskMove {
            error: Some(CapabilityReason::new("broken", "vm", "it broke", "mend it")),
            ..to(task, TaskState::Failed, 0, "")
        };
        let completed = [to(task, TaskState::Completed, 100, "")];
        let failed = [failed];
        let late = now() + TimeDelta::days(2);
        let complete = async { advance(&h, &completed, now()).await.len() };
        let fail = async { advance(&h, &failed, now()).await.len() };
        let sweep = async {
            let mut tx = h.db.store.system().await.unwrap();
            let swept = tasks::sweep(&mut tx, late, 1000).await.unwrap();
            tx.commit().await.unwrap();
            swept.iter().filter(|t| t.id == task).count()
        };
        let cancel = async {
            let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
            let done = tasks::cancel(&mut tx, &h.change(), task).await;
            match done {
                Ok(_) => {
                    tx.commit().await.unwrap();
                    1
                }
                Err(Error::TaskEnded { .. }) => 0,
                Err(e) => panic!("{e}"),
            }
        };
        let (a, b, c, d) = tokio::join!(complete, fail, sweep, cancel);
        assert_eq!(a + b + c + d, 1, "round {round}: completed {a}, failed {b}, swept {c}, cancelled {d}");
        let ended = get(&h, task).await;
        assert!(ended.state.is_terminal() && ended.finished_at.is_some());
        let expected = [TaskState::Completed, TaskState::Failed, TaskState::TimedOut, TaskState::Cancelled]
            .into_iter()
            .zip([a, b, c, d])
            .find(|(_, n)| *n == 1);
        assert_eq!(Some(ended.state), expected.map(|e| e.0));
    }
}

#[tokio::test]
async fn t4_an_ended_task_never_moves_again() {
    let h = House::new().await;
    let task = h.vm("web-1").await.task.id;
    for end in [TaskState::Failed, TaskState::Completed, TaskState::Executing, TaskState::Cancelled] {
        advance(&h, &[to(task, end, 50, "again")], now()).await;
        assert_eq!(get(&h, task).await.state, TaskState::Failed);
    }
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let e = tasks::cancel(&mut tx, &h.change(), task).await.unwrap_err();
    assert!(matches!(e, Error::TaskEnded { state: TaskState::Failed }));
}

#[tokio::test]
async fn a_cancel_turns_the_intent_back_unless_something_newer_changed_it() {
    let h = House::new().await;
    let key = Key::Name(name("web-1"));
    let (c, p) = (h.change(), h.project);
    let create = h.vm("web-1").await.task;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let reboot = vms::operate(&mut tx, &c, p, &key, None, OperationVerb::Reboot).await.unwrap();
    tasks::cancel(&mut tx, &c, reboot.task.id).await.unwrap();
    assert_eq!(vms::get(&mut tx, p, &key).await.unwrap().vm.operation, None);
    let stop = vms::set_power(&mut tx, &c, p, &key, None, PowerVerb::Stop).await.unwrap();
    tasks::cancel(&mut tx, &c, stop.task.id).await.unwrap();
    assert_eq!(vms::get(&mut tx, p, &key).await.unwrap().vm.spec.power, Power::Running);
    let stop = vms::set_power(&mut tx, &c, p, &key, None, PowerVerb::Stop).await.unwrap();
    vms::set_power(&mut tx, &c, p, &key, None, PowerVerb::Pause).await.unwrap();
    tasks::cancel(&mut tx, &c, stop.task.id).await.unwrap();
    assert_eq!(
        vms::get(&mut tx, p, &key).await.unwrap().vm.spec.power,
        Power::Paused,
        "the newer wish stays"
    );
    tasks::cancel(&mut tx, &c, create.id).await.unwrap();
    let vm = vms::get(&mut tx, p, &key).await.unwrap().vm;
    assert!(vm.metadata.deletion_requested_at.is_some(), "a create that is taken back deletes");
    assert_eq!(vms::delete(&mut tx, &c, p, &key, None).await.unwrap().task.subject.id, vm.id().0);
}
