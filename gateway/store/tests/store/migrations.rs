//! Migrations: who owns a VM changes once, by compare-and-set, and what was kept free for it is given back.

use crate::fixture::{Claims, House, NONE, ONE, small};
use basalt_model::{
    Epoch, GIB, HostId, MigrationId, TaskId, VmId, VolumeId,
    migrations::{Migration, MigrationMode, MigrationOutcome, MigrationResult, MigrationSpec},
    tasks::TaskState,
    vms::Power,
};
use basalt_store::{
    Error, Key,
    migrations::{self, Choice, Settlement, Stepped},
    tasks,
    testkit::{facts, name, now},
    vms,
};

struct Moving {
    h: House,
    hosts: [HostId; 2],
    vm: VmId,
    volume: VolumeId,
}

impl Moving {
    /// Two hosts, and a VM on the first.
    async fn new() -> Self {
        let h = House::new().await;
        let hosts = h.two_hosts(facts(4, 16 * GIB, 100 * GIB)).await;
        let vm = h.vm("web").await.object;
        h.place(&vm, hosts[0], "default").await;
        let (vm, volume) = (vm.id(), vm.disks[0].volume_id.unwrap());
        Self { h, hosts, vm, volume }
    }

    async fn ask(&self, spec: &MigrationSpec) -> Result<(Migration, TaskId), Error> {
        let mut tx = self.h.db.store.tenant(self.h.tenant).await.unwrap();
        let key = Key::from(self.vm);
        let made = migrations::insert(&mut tx, &self.h.change(), self.h.project, &key, spec).await?;
        tx.commit().await.unwrap();
        Ok((made.object, made.task.id))
    }

    fn choice(&self, id: MigrationId, copies_storage: bool) -> Choice {
        let pools = [(self.volume, name("default"))].into();
        Choice { id, target: self.hosts[1], pools, copies_storage }
    }

    async fn choose(&self, id: MigrationId, copies_storage: bool) -> Stepped {
        let mut tx = self.h.db.store.system().await.unwrap();
        let stepped = migrations::choose(&mut tx, &self.choice(id, copies_storage)).await.unwrap();
        tx.commit().await.unwrap();
        stepped
    }

    async fn begin(&self, id: MigrationId) -> Stepped {
        let mut tx = self.h.db.store.system().await.unwrap();
        let stepped = migrations::begin(&mut tx, id, now()).await.unwrap();
        tx.commit().await.unwrap();
        stepped
    }

    async fn settle(&self, id: MigrationId, begun: bool, result: MigrationResult) -> Stepped {
        let outcome =
            MigrationOutcome { result, message: "so".into(), reason: None, from_disk: false, progress: None };
        let mut tx = self.h.db.store.system().await.unwrap();
        let settlement = Settlement { id, begun, outcome, now: now() };
        let stepped = migrations::settle(&mut tx, &settlement).await.unwrap();
        tx.commit().await.unwrap();
        stepped
    }

    /// VMs, CPUs, memory and bytes of the pool that each host promised.
    async fn claims(&self) -> [Claims; 2] {
        self.h.claims(self.hosts, "default").await
    }

    async fn at(&self) -> (Option<HostId>, Epoch, Option<HostId>) {
        self.h.at(self.vm, self.volume).await
    }
}

#[tokio::test]
async fn m1_a_vm_goes_to_the_target_with_its_volumes_and_claims() {
    let m = Moving::new().await;
    let (migration, _) = m.ask(&MigrationSpec::default()).await.unwrap();
    assert_eq!((migration.mode, migration.source.as_str()), (MigrationMode::Live, "h1"));
    assert_eq!(m.begin(migration.id).await, Stepped::Stale, "no target was chosen");
    assert_eq!(m.choose(migration.id, true).await, Stepped::Done);
    assert_eq!(m.choose(migration.id, true).await, Stepped::Stale, "one target");
    assert_eq!(m.claims().await, [ONE, ONE], "the target keeps room free, storage too");
    assert_eq!(m.begin(migration.id).await, Stepped::Done);
    assert_eq!(m.begin(migration.id).await, Stepped::Stale, "it begins once");
    assert_eq!(m.at().await, (Some(m.hosts[0]), Epoch(1), Some(m.hosts[0])));
    let late = m.settle(migration.id, false, MigrationResult::Failed).await;
    assert_eq!(late, Stepped::Stale, "decided before the source was told to begin");
    assert_eq!(m.settle(migration.id, true, MigrationResult::Completed).await, Stepped::Done);
    assert_eq!(m.at().await, (Some(m.hosts[1]), Epoch(2), Some(m.hosts[1])));
    assert_eq!(m.claims().await, [NONE, ONE]);
    assert_eq!(m.settle(migration.id, true, MigrationResult::Failed).await, Stepped::Stale, "it ends once");
    assert_eq!(m.at().await.1, Epoch(2));
}

#[tokio::test]
async fn m1_storage_that_both_hosts_see_is_promised_once() {
    let m = Moving::new().await;
    let (migration, _) = m.ask(&MigrationSpec::default()).await.unwrap();
    assert_eq!(m.choose(migration.id, false).await, Stepped::Done);
    assert_eq!(m.claims().await, [ONE, (1, 1, GIB, 0)]);
    assert_eq!(m.begin(migration.id).await, Stepped::Done);
    assert_eq!(m.settle(migration.id, true, MigrationResult::Completed).await, Stepped::Done);
    assert_eq!(m.claims().await, [NONE, ONE]);
}

#[tokio::test]
async fn m1_what_stays_gets_an_epoch_above_all_that_the_target_was_told() {
    let m = Moving::new().await;
    let (migration, _) = m.ask(&MigrationSpec::default()).await.unwrap();
    assert_eq!(m.choose(migration.id, true).await, Stepped::Done);
    assert_eq!(m.settle(migration.id, false, MigrationResult::Failed).await, Stepped::Done);
    assert_eq!(m.at().await, (Some(m.hosts[0]), Epoch(3), Some(m.hosts[0])), "2 was the target's");
    assert_eq!(m.claims().await, [ONE, NONE]);
    // And another one may follow.
    let (again, _) = m.ask(&MigrationSpec::default()).await.unwrap();
    assert_eq!(again.target_epoch(), Epoch(4));
}

#[tokio::test]
async fn m2_what_cannot_go_is_refused_with_reason_and_remedy() {
    let m = Moving::new().await;
    let code = |error: Error| match error {
        Error::Refused(reason) => {
            assert!(!reason.message.is_empty() && !reason.remedy.is_empty());
            reason.code.to_string()
        }
        other => panic!("{other:?}"),
    };
    let to = |host: &str| MigrationSpec { host: Some(name(host)), ..Default::default() };
    assert_eq!(code(m.ask(&to("h1")).await.unwrap_err()), "same_host");
    let (first, task) = m.ask(&to("h2")).await.unwrap();
    assert_eq!(code(m.ask(&to("h2")).await.unwrap_err()), "migrating", "one at a time");
    // Nothing that would change it underneath.
    let mut tx = m.h.db.store.tenant(m.h.tenant).await.unwrap();
    let (change, key) = (m.h.change(), Key::from(m.vm));
    let redeploy = vms::redeploy(&mut tx, &change, m.h.project, &key, None).await.unwrap_err();
    assert_eq!(code(redeploy), "migrating");
    let update = basalt_store::Update { expected: None, labels: None, spec: small() };
    let changed = vms::update(&mut tx, &change, m.h.project, &key, &update).await.unwrap_err();
    assert_eq!(code(changed), "migrating");
    drop(tx);
    // Taken back: the task goes on until the facts decide.
    let mut tx = m.h.db.store.tenant(m.h.tenant).await.unwrap();
    let task = tasks::cancel(&mut tx, &m.h.change(), task).await.unwrap();
    assert_eq!(task.state, TaskState::Pending);
    let seen = migrations::get(&mut tx, m.h.project, first.id).await.unwrap();
    assert!(seen.row.migration.cancel_requested_at.is_some());
    tx.commit().await.unwrap();
    assert_eq!(m.choose(first.id, true).await, Stepped::Stale, "it was taken back");
    assert_eq!(m.settle(first.id, false, MigrationResult::Cancelled).await, Stepped::Done);

    let mut tx = m.h.db.store.tenant(m.h.tenant).await.unwrap();
    let stop = vms::PowerVerb::Stop;
    vms::set_power(&mut tx, &m.h.change(), m.h.project, &key, None, stop).await.unwrap();
    tx.commit().await.unwrap();
    let live = MigrationSpec { mode: Some(MigrationMode::Live), ..Default::default() };
    assert_eq!(code(m.ask(&live).await.unwrap_err()), "not_running");
    assert_eq!(m.ask(&to("h2")).await.unwrap().0.mode, MigrationMode::Cold);
    let mut nowhere = small();
    nowhere.power = Power::Running;
    let unplaced = m.h.vm("nowhere").await.object.id();
    let mut tx = m.h.db.store.tenant(m.h.tenant).await.unwrap();
    let spec = MigrationSpec::default();
    let refused = migrations::insert(&mut tx, &m.h.change(), m.h.project, &Key::from(unplaced), &spec)
        .await
        .unwrap_err();
    assert_eq!(code(refused), "not_placed");
}

#[tokio::test]
async fn m1_a_vm_that_is_deleted_on_its_way_takes_its_migration_and_the_room_with_it() {
    let m = Moving::new().await;
    let (migration, _) = m.ask(&MigrationSpec::default()).await.unwrap();
    assert_eq!(m.choose(migration.id, true).await, Stepped::Done);
    let mut tx = m.h.db.store.tenant(m.h.tenant).await.unwrap();
    vms::delete(&mut tx, &m.h.change(), m.h.project, &Key::from(m.vm), None).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = m.h.db.store.system().await.unwrap();
    assert_eq!(vms::finalize(&mut tx, m.vm, now()).await.unwrap(), basalt_store::Finalized::Done);
    tx.commit().await.unwrap();
    assert_eq!(m.claims().await, [NONE, NONE]);
}
