//! How statements are carried out: every one that a VM's life runs through finds its rows by key, also when its plan
//! was made while the tables were empty and the server knows nothing of them.

use crate::fixture::House;
use basalt_model::{
    Condition, ConditionStatus, Epoch, GIB, Generation, HostId,
    tasks::{TaskMove, TaskState},
    vms::{ObservedPower, VmObserved},
};
use basalt_store::{
    Feed, Finalized, Key, Options, Page,
    conditions::{self, Conditions},
    feed::Cursor,
    manifests::{self, Item, Write},
    placements::{self, Place, Unplaced},
    reports::{self, ItemFact, Report, Seen},
    tasks,
    testkit::{self, Database, facts, name, now},
    vms,
};
use serde_json::json;

const LIVES: usize = 200;
/// Rows that one life may read of all tables that grow with it. Reading one of them whole, once, would be a
/// hundred more on average.
const MOST_ROWS_A_LIFE: i64 = 200;

/// From being declared to being reported as running.
async fn life(h: &House, host: HostId, n: usize, cursor: &Cursor) -> Cursor {
    let accepted = h.vm(&format!("vm-{n}")).await;
    let vm = accepted.object;
    let mut tx = h.db.store.derived().await.unwrap();
    let unplaced = Unplaced {
        vm_id: vm.id(),
        generation: Generation(1),
        expected_epoch: Epoch(0),
        explanation: json!({"summary": "nothing takes it"}),
        now: now(),
    };
    assert_eq!(placements::record_unplaced(&mut tx, &[unplaced]).await.unwrap().len(), 1);
    let place = Place {
        vm_id: vm.id(),
        generation: Some(Generation(1)),
        expected_epoch: Epoch(0),
        host_id: host,
        pools: vec![(vm.disks[0].volume_id.unwrap(), name("default"))],
        explanation: json!({"summary": "it fits"}),
        now: now(),
    };
    assert!(placements::place_all(&mut tx, &[place]).await.unwrap().is_some());
    let condition = Condition {
        kind: "Ready".into(),
        status: ConditionStatus::False,
        reason: "Starting".into(),
        message: String::new(),
        since: now(),
        observed_generation: Generation(1),
    };
    let judged = Conditions {
        subject_kind: "vm".into(),
        subject_id: vm.id().0,
        tenant_id: Some(h.tenant),
        project_id: Some(h.project),
        conditions: vec![condition],
    };
    assert_eq!(conditions::put(&mut tx, &[judged]).await.unwrap(), 1);
    let item = Item {
        kind: "vm".into(),
        id: vm.id().0,
        generation: Generation(1),
        epoch: Epoch(1),
        present: true,
        body: json!({"as": "vm"}),
    };
    let write = Write { host_id: host, upserts: vec![item], removes: Vec::new() };
    let revision = manifests::put(&mut tx, &[write], now()).await.unwrap()[0].revision;
    let step = TaskMove {
        id: accepted.task.id,
        state: TaskState::Executing,
        progress: 50,
        stage: "booting".into(),
        error: None,
    };
    assert_eq!(tasks::advance(&mut tx, &[step], now()).await.unwrap().len(), 1);
    tx.commit().await.unwrap();
    report(h, host, n, revision, &vm).await;
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    vms::get(&mut tx, h.project, &Key::from(vm.id())).await.unwrap();
    vms::list(&mut tx, h.project, &Page { limit: 5, ..Page::default() }).await.unwrap();
    drop(tx);
    vms::stamp(&h.db.store, h.tenant, h.project, &Key::from(vm.id())).await.unwrap().unwrap();
    Feed::new(&h.db.store).pull(cursor).await.unwrap().cursor
}

async fn report(h: &House, host: HostId, n: usize, revision: i64, vm: &vms::Vm) {
    let observed = VmObserved { power: ObservedPower::Running, ..VmObserved::default() };
    let seen = ItemFact {
        kind: "vm".into(),
        id: vm.id().0,
        generation: Generation(1),
        epoch: Epoch(1),
        seen: Seen::Vm(Box::new(observed)),
        stage: String::new(),
    };
    let report = Report {
        agent_boot: uuid::Uuid::from_u128(9),
        sequence: i64::try_from(n).unwrap() + 1,
        manifest_revision: Some(revision),
        manifest_refused: None,
        facts: None,
        items: vec![seen],
    };
    let mut tx = h.db.store.system().await.unwrap();
    reports::apply(&mut tx, host, &report, &h.ids, now()).await.unwrap();
    tx.commit().await.unwrap();
}

async fn end(h: &House, n: usize) {
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let key = Key::Name(name(&format!("vm-{n}")));
    let id = vms::get(&mut tx, h.project, &key).await.unwrap().vm.id();
    vms::delete(&mut tx, &h.change(), h.project, &key, None).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(vms::finalize(&mut tx, id, now()).await.unwrap(), Finalized::Waiting, "its host has it");
}

#[tokio::test]
async fn statements_find_their_rows_by_key_with_plans_from_when_the_tables_were_empty() {
    let db = Database::with(Options { max_connections: 2, ..Options::default() }).await;
    let mut admin = db.superuser().await;
    // What the server would learn by itself after a minute, or not.
    for table in
        ["vms", "volumes", "tasks", "ports", "placements", "conditions", "manifest_items", "change_log"]
    {
        let off = format!("ALTER TABLE {table} SET (autovacuum_enabled = off)");
        sqlx::query(sqlx::AssertSqlSafe(off)).execute(&mut admin).await.unwrap();
    }
    let h = House::on(db).await;
    let host = testkit::host(&h.db, &h.ids, "h1", facts(400, 1600 * GIB, 1000 * GIB)).await;
    let mut cursor = Feed::new(&h.db.store).bootstrap().await.unwrap().cursor;
    for n in 0..LIVES {
        cursor = life(&h, host, n, &cursor).await;
    }
    for n in 0..LIVES {
        end(&h, n).await;
    }
    // A connection tells what it read when it ends.
    h.db.store.close().await;
    let reads = "WITH grown AS (SELECT * FROM pg_stat_user_tables WHERE n_live_tup >= $1)
         SELECT relname::text, seq_tup_read FROM grown
         UNION ALL SELECT i.indexrelname::text, i.idx_tup_read FROM pg_stat_user_indexes i JOIN grown g USING (relid)
         ORDER BY 2 DESC";
    let lives = i64::try_from(LIVES).unwrap();
    let mut read: Vec<(String, i64)> = Vec::new();
    for _ in 0..100 {
        read = sqlx::query_as(reads).bind(lives).fetch_all(&mut admin).await.unwrap();
        if read.iter().any(|(of, _)| of == "vms") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(read.iter().any(|(of, _)| of == "vms"), "the server's statistics arrived: {read:?}");
    let sum: i64 = read.iter().map(|(_, rows)| rows).sum();
    assert!(sum < MOST_ROWS_A_LIFE * lives, "{} rows read a life: {read:?}", sum / lives);
}
