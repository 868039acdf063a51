//! Drains: one at a time for a host, each VM once at a time, ended once and only when nothing moves.

use crate::fixture::House;
use basalt_model::{
    CapabilityReason, GIB, HostId, MigrationId, VmId,
    drains::{Drain, DrainMove, DrainOutcome, DrainResult, DrainSpec, MoveState},
    hosts::HostSpec,
    migrations::{MigrationMode, MigrationOutcome, MigrationResult},
    tasks::{Task, TaskState},
};
use basalt_store::{
    Error, Key, Page,
    drains::{self, Departing, End},
    hosts,
    migrations::{self, Settlement, Stepped},
    tasks,
    testkit::{facts, name, now},
};

struct Emptying {
    h: House,
    hosts: [HostId; 2],
    vm: VmId,
}

impl Emptying {
    /// Two hosts, and a VM on the first.
    async fn new() -> Self {
        let h = House::new().await;
        let hosts = h.two_hosts(facts(4, 16 * GIB, 100 * GIB)).await;
        let vm = h.vm("web").await.object;
        h.place(&vm, hosts[0], "default").await;
        Self { hosts, vm: vm.id(), h }
    }

    async fn ask(&self) -> Result<(Drain, Task), Error> {
        let mut tx = self.h.db.store.system().await.unwrap();
        let made =
            drains::insert(&mut tx, &self.h.change(), &Key::from(self.hosts[0]), &DrainSpec::default(), &[])
                .await?;
        tx.commit().await.unwrap();
        Ok((made.object, made.task))
    }

    async fn start(&self, drain: &Drain) -> bool {
        let mut tx = self.h.db.store.system().await.unwrap();
        let departing =
            Departing { drain: drain.id, vm: self.vm, target: name("h2"), mode: MigrationMode::Live };
        let started = drains::start(&mut tx, &self.h.change(), &departing).await.unwrap();
        tx.commit().await.unwrap();
        started
    }

    async fn end(&self, drain: &Drain, result: DrainResult) -> bool {
        let left = CapabilityReason::new("no_host_fits", "placement", "full", "add a host");
        let outcome = DrainOutcome { result, message: "so".into(), left: 1 };
        let end = End { id: drain.id, outcome, left: vec![(self.vm, left)] };
        let mut tx = self.h.db.store.system().await.unwrap();
        let ended = drains::end(&mut tx, &end, now()).await.unwrap();
        tx.commit().await.unwrap();
        ended
    }

    async fn part(&self, drain: &Drain) -> DrainMove {
        let mut tx = self.h.db.store.system_read().await.unwrap();
        let seen = drains::get(&mut tx, &Key::from(self.hosts[0]), drain.id).await.unwrap();
        seen.part(self.vm).unwrap().clone()
    }

    async fn settle(&self, id: MigrationId, result: MigrationResult) -> Stepped {
        let outcome =
            MigrationOutcome { result, message: "so".into(), reason: None, from_disk: false, progress: None };
        let mut tx = self.h.db.store.system().await.unwrap();
        let settlement = Settlement { id, begun: false, outcome, now: now() };
        let stepped = migrations::settle(&mut tx, &settlement).await.unwrap();
        tx.commit().await.unwrap();
        stepped
    }

    async fn task(&self, task: &Task) -> Task {
        tasks::get(&mut self.h.db.store.system_read().await.unwrap(), task.id).await.unwrap()
    }
}

fn code(error: Error) -> String {
    match error {
        Error::Refused(reason) => reason.code.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn m4_a_host_is_drained_once_at_a_time_and_stays_in_maintenance() {
    let e = Emptying::new().await;
    let (drain, task) = e.ask().await.unwrap();
    let mut tx = e.h.db.store.system().await.unwrap();
    let key = Key::from(e.hosts[0]);
    let host = hosts::get(&mut tx, &key).await.unwrap().host;
    assert!(host.spec.maintenance);
    let exit = basalt_store::Update { expected: None, labels: None, spec: HostSpec::default() };
    assert_eq!(code(hosts::update(&mut tx, &e.h.change(), &key, &exit).await.unwrap_err()), "draining");
    drop(tx);
    assert_eq!(code(e.ask().await.unwrap_err()), "draining");
    assert!(e.end(&drain, DrainResult::Incomplete).await);
    assert!(!e.end(&drain, DrainResult::Incomplete).await, "it ends once");
    let ended = e.task(&task).await;
    assert_eq!((ended.state, ended.error.unwrap().code.as_ref()), (TaskState::Failed, "vms_left"));
    let part = e.part(&drain).await;
    assert_eq!((part.state, part.reason.unwrap().code.as_ref()), (MoveState::Left, "no_host_fits"));
    let (again, _) = e.ask().await.unwrap();
    assert_ne!(again.id, drain.id, "it is gone on with");
    let mut tx = e.h.db.store.system().await.unwrap();
    assert_eq!(drains::list(&mut tx, &key, &Page::default()).await.unwrap().items.len(), 2);
    assert_eq!(
        drains::prune(&mut tx, now() + chrono::TimeDelta::seconds(1)).await.unwrap(),
        1,
        "the live one stays"
    );
}

#[tokio::test]
async fn m4_a_vm_leaves_once_and_what_became_of_it_is_noted_with_who_owns_it() {
    let e = Emptying::new().await;
    let (drain, _) = e.ask().await.unwrap();
    assert!(e.start(&drain).await);
    assert!(!e.start(&drain).await, "it moves already");
    let part = e.part(&drain).await;
    assert_eq!(part.state, MoveState::Moving);
    let migration = part.migration_id.unwrap();
    assert!(!e.end(&drain, DrainResult::Incomplete).await, "something moves");
    assert_eq!(e.settle(migration, MigrationResult::Failed).await, Stepped::Done);
    let part = e.part(&drain).await;
    assert_eq!((part.state, part.tries, part.failed_on), (MoveState::Waiting, 1, vec![name("h2")]));
    assert_eq!(part.reason.unwrap().code, "not_migrated");
    assert!(e.start(&drain).await, "and tried again");
}

#[tokio::test]
async fn r57_a_drain_that_was_taken_back_starts_nothing_and_ends_cancelled() {
    let e = Emptying::new().await;
    let (drain, task) = e.ask().await.unwrap();
    let mut tx = e.h.db.store.system().await.unwrap();
    let seen = drains::cancel(&mut tx, &e.h.change(), &task).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(seen.state, TaskState::Pending, "it ends when nothing moves");
    assert!(!e.start(&drain).await);
    assert!(!e.end(&drain, DrainResult::Drained).await, "decided before it was taken back");
    assert!(e.end(&drain, DrainResult::Cancelled).await);
    assert_eq!(e.task(&task).await.state, TaskState::Cancelled);
    let mut tx = e.h.db.store.system().await.unwrap();
    let late = drains::cancel(&mut tx, &e.h.change(), &task).await.unwrap_err();
    assert!(matches!(late, Error::TaskEnded { state: TaskState::Cancelled }), "{late:?}");
}
