//! Other attempts, and taking back at each step.

use crate::{
    fixture::House,
    task_dependencies::{ask, create, end, get, start},
};
use basalt_model::{
    TaskId,
    tasks::{Task, TaskKind, TaskMove, TaskState},
    vms::{OperationVerb, Power, VmSpec},
};
use basalt_store::{
    Error, Key,
    task_dependencies::{Ask, Started},
    tasks,
    testkit::{name, now},
    vms::{self, PowerVerb, Vm},
};

async fn retry(h: &House, id: TaskId) -> Result<Task, Error> {
    let mut tx = h.db.store.tenant(h.tenant).await?;
    let task = tasks::retry(&mut tx, &h.change(), id).await?;
    tx.commit().await?;
    Ok(task)
}

async fn cancel(h: &House, id: TaskId) -> Result<Task, Error> {
    let mut tx = h.db.store.tenant(h.tenant).await?;
    let task = tasks::cancel(&mut tx, &h.change(), id).await?;
    tx.commit().await?;
    Ok(task)
}

async fn vm(h: &House, text: &str) -> Vm {
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    vms::get(&mut tx, h.project, &Key::Name(name(text))).await.unwrap().vm
}

fn code(refused: Result<Task, Error>) -> String {
    match refused.unwrap_err() {
        Error::Refused(reason) => {
            assert!(!reason.remedy.is_empty());
            reason.code.to_string()
        }
        e => panic!("{e:?}"),
    }
}

#[tokio::test]
async fn t3_a_retry_is_a_new_attempt_beside_the_old_one() {
    let h = House::new().await;
    let first = h.vm("web-1").await.task.id;
    assert_eq!(code(retry(&h, first).await), "task_live");
    end(&h, first, TaskState::TimedOut).await;
    let second = retry(&h, first).await.unwrap();
    assert_eq!((second.attempt, second.retry_of, second.kind), (2, Some(first), TaskKind::VmCreate));
    assert_eq!((second.state, get(&h, first).await.state), (TaskState::Pending, TaskState::TimedOut));
    assert_eq!(get(&h, second.id).await, second);
    assert_eq!(code(retry(&h, first).await), "task_retried", "a chain, not a tree");
    end(&h, second.id, TaskState::Failed).await;
    // Two at once: one new attempt.
    let (a, b) = tokio::join!(retry(&h, second.id), retry(&h, second.id));
    assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1, "{a:?} {b:?}");
    let third = a.or(b).unwrap();
    assert_eq!((third.attempt, third.retry_of), (3, Some(second.id)));
    end(&h, third.id, TaskState::Completed).await;
    assert_eq!(code(retry(&h, third.id).await), "task_completed");
    assert_eq!(vm(&h, "web-1").await.metadata.generation.0, 1, "the intent stood all the time");
}

#[tokio::test]
async fn t3_verbs_are_asked_for_again_and_what_cannot_be_repeated_is_refused() {
    let h = House::new().await;
    h.vm("web-1").await;
    let reboot = ask(&h, Some("web-1"), Ask::Operate(OperationVerb::Reboot), &[]).await.unwrap().task.id;
    end(&h, reboot, TaskState::Failed).await;
    let again = retry(&h, reboot).await.unwrap();
    let asked = vm(&h, "web-1").await.operation.unwrap();
    assert_eq!((asked.id, asked.verb), (again.id, OperationVerb::Reboot), "stamped with the new attempt");
    let stop = ask(&h, Some("web-1"), Ask::Power(PowerVerb::Stop), &[]).await.unwrap().task.id;
    cancel(&h, stop).await.unwrap();
    assert_eq!(vm(&h, "web-1").await.spec.power, Power::Running);
    assert_eq!(retry(&h, stop).await.unwrap().kind, TaskKind::VmStop);
    assert_eq!(vm(&h, "web-1").await.spec.power, Power::Stopped);
    let larger = VmSpec { cpus: 2, ..vm(&h, "web-1").await.spec };
    let update = Ask::Update { labels: None, spec: Box::new(larger) };
    let update = ask(&h, Some("web-1"), update, &[]).await.unwrap().task.id;
    cancel(&h, update).await.unwrap();
    assert_eq!(code(retry(&h, update).await), "turned_back");
    let gone = ask(&h, Some("web-1"), Ask::Delete, &[]).await.unwrap().task.id;
    end(&h, gone, TaskState::TimedOut).await;
    assert_eq!(retry(&h, gone).await.unwrap().kind, TaskKind::VmDelete);
    let create = h.vm("web-2").await.task.id;
    cancel(&h, create).await.unwrap();
    assert_eq!(code(retry(&h, create).await), "superseded", "it is being deleted");
}

#[tokio::test]
async fn t3_a_task_that_failed_with_another_waits_for_that_ones_new_attempt() {
    let h = House::new().await;
    let first = h.vm("web-1").await.task.id;
    let held = ask(&h, None, create("web-2"), &[first]).await.unwrap().task.id;
    end(&h, first, TaskState::Failed).await;
    end(&h, held, TaskState::Failed).await;
    assert!(matches!(retry(&h, held).await, Err(Error::Parameter(e)) if e.code == "dependency_ended"));
    let again = retry(&h, first).await.unwrap().id;
    let waits = retry(&h, held).await.unwrap();
    assert!(waits.is_held() && waits.depends_on == [again] && waits.attempt == 2, "{waits:?}");
    end(&h, again, TaskState::Completed).await;
    assert_eq!(start(&h, waits.id).await.unwrap(), Started::Started);
    let started = get(&h, waits.id).await;
    assert_eq!((started.attempt, started.retry_of, started.generation.0), (2, Some(held), 1));
    vm(&h, "web-2").await;
}

/// Every kind of change, taken back before anything was done, after something was, and while it waits for another.
#[tokio::test]
async fn r47_cancel_at_each_step_turns_the_intent_back_and_ends_the_task_once() {
    let h = House::new().await;
    h.vm("web-1").await;
    let before = vm(&h, "web-1").await;
    let larger = Ask::Update { labels: None, spec: Box::new(VmSpec { cpus: 4, ..before.spec.clone() }) };
    let asks = [
        larger,
        Ask::Power(PowerVerb::Stop),
        Ask::Power(PowerVerb::Pause),
        Ask::Operate(OperationVerb::Reset),
    ];
    for asked in asks {
        for stages in [&[][..], &["placed"], &["placed", "the host prepares it"]] {
            let task = ask(&h, Some("web-1"), asked.clone(), &[]).await.unwrap().task.id;
            for (i, stage) in stages.iter().enumerate() {
                let progress = 10 * i32::try_from(i + 1).unwrap();
                let step = TaskMove {
                    id: task,
                    state: TaskState::Executing,
                    progress,
                    stage: (*stage).into(),
                    error: None,
                };
                let mut tx = h.db.store.system().await.unwrap();
                tasks::advance(&mut tx, &[step], now()).await.unwrap();
                tx.commit().await.unwrap();
            }
            assert_eq!(cancel(&h, task).await.unwrap().state, TaskState::Cancelled);
            let after = vm(&h, "web-1").await;
            assert_eq!((&after.spec, after.operation), (&before.spec, None), "{asked:?} at {stages:?}");
            assert!(after.metadata.generation > before.metadata.generation, "hosts hear of it");
            assert!(matches!(cancel(&h, task).await, Err(Error::TaskEnded { state: TaskState::Cancelled })));
        }
        let root = h.vm(&format!("root-{}", (h.ids)().simple())).await.task.id;
        let held = ask(&h, Some("web-1"), asked.clone(), &[root]).await.unwrap().task.id;
        let generation = vm(&h, "web-1").await.metadata.generation;
        cancel(&h, held).await.unwrap();
        end(&h, root, TaskState::Completed).await;
        assert_eq!(start(&h, held).await.unwrap(), Started::NotHeld, "it never starts");
        assert_eq!(vm(&h, "web-1").await.metadata.generation, generation);
    }
    for destroys in [Ask::Redeploy, Ask::Delete] {
        let task = ask(&h, Some("web-1"), destroys, &[]).await.unwrap().task.id;
        assert_eq!(code(cancel(&h, task).await), "not_cancellable");
        assert_eq!(get(&h, task).await.state, TaskState::Pending, "it goes on");
    }
}
