//! Tasks that wait for others: nothing of them is in the truth before, circles are refused, and failures pass on.

use crate::fixture::{House, small};
use basalt_model::{
    TaskId,
    tasks::{MAX_DEPENDENCIES, Task, TaskMove, TaskState},
    vms::Power,
};
use basalt_store::{
    Accepted, Error, Key,
    task_dependencies::{self, Ask, Started},
    tasks,
    testkit::{self, name, now},
    vms::{self, PowerVerb, Vm},
};

pub fn create(text: &str) -> Ask {
    Ask::Create { name: name(text), labels: Default::default(), spec: Box::new(small()) }
}

pub async fn ask(h: &House, key: Option<&str>, ask: Ask, on: &[TaskId]) -> Result<Accepted<Vm>, Error> {
    let key = key.map(|k| Key::Name(name(k)));
    let mut tx = h.db.store.tenant(h.tenant).await?;
    let made =
        task_dependencies::ask_vm(&mut tx, &h.change(), h.project, key.as_ref(), None, ask, on).await?;
    tx.commit().await?;
    Ok(made)
}

pub async fn end(h: &House, id: TaskId, state: TaskState) {
    let to = TaskMove { id, state, progress: 100, stage: "tested".into(), error: None };
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(tasks::advance(&mut tx, &[to], now()).await.unwrap(), [id]);
    tx.commit().await.unwrap();
}

pub async fn start(h: &House, id: TaskId) -> Result<Started, Error> {
    let mut tx = h.db.store.tenant(h.tenant).await?;
    let started = task_dependencies::start(&mut tx, &h.change(), id).await?;
    tx.commit().await?;
    Ok(started)
}

pub async fn get(h: &House, id: TaskId) -> Task {
    tasks::get(&mut h.db.store.system_read().await.unwrap(), id).await.unwrap()
}

async fn replace(h: &House, id: TaskId, on: &[TaskId]) -> Result<Task, Error> {
    let mut tx = h.db.store.tenant(h.tenant).await?;
    let task = task_dependencies::replace(&mut tx, &h.change(), id, on).await?;
    tx.commit().await?;
    Ok(task)
}

fn code<T: std::fmt::Debug>(refused: Result<T, Error>) -> String {
    match refused.unwrap_err() {
        Error::Parameter(e) => {
            assert!(e.field == "depends_on" && !e.remedy.is_empty(), "{e:?}");
            e.code
        }
        Error::Refused(reason) => reason.code.to_string(),
        e => panic!("{e:?}"),
    }
}

#[tokio::test]
async fn r48_nothing_of_a_task_is_in_the_truth_before_what_it_depends_on_completed() {
    let h = House::new().await;
    let first = h.vm("web-1").await.task.id;
    let stop = ask(&h, Some("web-1"), Ask::Power(PowerVerb::Stop), &[first, first]).await.unwrap();
    let made = ask(&h, None, create("web-2"), &[first, stop.task.id]).await.unwrap();
    assert_eq!((stop.task.depends_on.as_slice(), stop.task.generation.0), ([first].as_slice(), 0));
    assert!(made.task.is_held() && made.task.stage.contains("and 1 more"), "{}", made.task.stage);
    let seen = |text: &'static str| {
        let (h, key) = (&h, Key::Name(name(text)));
        async move { vms::get(&mut h.db.store.tenant_read(h.tenant).await.unwrap(), h.project, &key).await }
    };
    let web = seen("web-1").await.unwrap().vm;
    assert_eq!((web.spec.power, web.metadata.generation.0), (Power::Running, 1), "nothing was asked of it");
    assert!(matches!(seen("web-2").await, Err(Error::NotFound { .. })), "it is not declared");
    end(&h, first, TaskState::Completed).await;
    // Started twice at the same moment: once.
    let (a, b) = tokio::join!(start(&h, stop.task.id), start(&h, stop.task.id));
    let both = [a.unwrap(), b.unwrap()];
    assert!(both.contains(&Started::Started) && both.contains(&Started::NotHeld), "{both:?}");
    let web = seen("web-1").await.unwrap().vm;
    assert_eq!((web.spec.power, web.metadata.generation.0), (Power::Stopped, 2));
    let task = get(&h, stop.task.id).await;
    assert_eq!((task.generation.0, task.state, task.depends_on), (2, TaskState::Pending, vec![first]));
    assert_eq!(task.actor.name, "tester", "in the name of who asked");
    assert_eq!(start(&h, made.task.id).await.unwrap(), Started::Started);
    let web = seen("web-2").await.unwrap().vm;
    assert_eq!(
        (web.metadata.id, get(&h, made.task.id).await.subject.id),
        (made.object.metadata.id, web.metadata.id)
    );
    // What has completed is not waited for.
    let at_once = ask(&h, Some("web-2"), Ask::Power(PowerVerb::Pause), &[first]).await.unwrap().task;
    assert!(!at_once.is_held() && at_once.depends_on.is_empty());
}

#[tokio::test]
async fn r48_a_dependency_cycle_an_unknown_or_foreign_or_ended_task_and_too_many_are_refused() {
    let h = House::new().await;
    let root = h.vm("web-1").await.task.id;
    let pause = || Ask::Power(PowerVerb::Pause);
    let a = ask(&h, Some("web-1"), pause(), &[root]).await.unwrap().task.id;
    let b = ask(&h, Some("web-1"), pause(), &[a]).await.unwrap().task.id;
    let c = ask(&h, Some("web-1"), pause(), &[b]).await.unwrap().task.id;
    for on in [vec![c], vec![root, b], vec![a]] {
        assert_eq!(code(replace(&h, a, &on).await), "dependency_cycle", "{on:?}");
    }
    // Closed from both sides at once: one of the two is refused.
    let d = ask(&h, Some("web-1"), pause(), &[root]).await.unwrap().task.id;
    let e = ask(&h, Some("web-1"), pause(), &[root]).await.unwrap().task.id;
    let (one, other) = ([d], [e]);
    let (x, y) = tokio::join!(replace(&h, e, &one), replace(&h, d, &other));
    assert_eq!(usize::from(x.is_ok()) + usize::from(y.is_ok()), 1, "{x:?} {y:?}");
    assert_eq!(replace(&h, c, &[root]).await.unwrap().depends_on, [root]);
    assert_eq!(code(replace(&h, root, &[]).await), "task_started");
    let unknown = TaskId((h.ids)());
    assert_eq!(code(ask(&h, Some("web-1"), pause(), &[unknown]).await), "not_found");
    let (other, project) = testkit::project(&h.db, &testkit::ids(2), "rival").await;
    let mut tx = h.db.store.tenant(other).await.unwrap();
    let foreign =
        task_dependencies::ask_vm(&mut tx, &h.change(), project, None, None, create("x"), &[root]).await;
    assert_eq!(code(foreign), "not_found", "another tenant's task is as good as none");
    let many: Vec<TaskId> = (0..=MAX_DEPENDENCIES).map(|_| TaskId((h.ids)())).collect();
    assert_eq!(code(ask(&h, Some("web-1"), pause(), &many).await), "too_many");
    end(&h, root, TaskState::Failed).await;
    assert_eq!(code(ask(&h, Some("web-1"), pause(), &[root]).await), "dependency_ended");
}

#[tokio::test]
async fn r48_what_is_refused_at_the_start_fails_the_task_with_that_reason() {
    let h = House::new().await;
    let first = h.vm("web-1").await.task.id;
    let twin = ask(&h, None, create("web-1"), &[first]).await.unwrap().task.id;
    end(&h, first, TaskState::Completed).await;
    let refusal = start(&h, twin).await.unwrap_err();
    assert!(matches!(refusal, Error::NameTaken { .. }), "{refusal:?}");
    assert!(get(&h, twin).await.is_held(), "a refused start leaves it as it was");
    let mut tx = h.db.store.system().await.unwrap();
    task_dependencies::fail(&mut tx, twin, &refusal, now()).await.unwrap();
    tx.commit().await.unwrap();
    let failed = get(&h, twin).await;
    let error = failed.error.unwrap();
    assert_eq!((failed.state, error.code.as_ref()), (TaskState::Failed, "refused_at_start"));
    assert!(error.message.contains("web-1"), "{error}");
    assert_eq!(start(&h, twin).await.unwrap(), Started::NotHeld);
}
