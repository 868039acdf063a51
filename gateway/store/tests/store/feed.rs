//! The change feed: nothing lost, nothing twice, nobody held up.

use crate::fixture::House;
use basalt_model::{
    Labels, VmId,
    tasks::{TaskMove, TaskState},
};
use basalt_store::{
    Feed, Finalized, Ids, Key, New, Options, Store,
    feed::{Batch, Cursor, Row, Table},
    task_logs, tasks, tenants,
    testkit::{self, name, now},
    vms::{self, PowerVerb},
};
use chrono::TimeDelta;
use sqlx::{Connection, Executor};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    task::Poll,
    time::Duration,
};
use tokio::task::JoinSet;

async fn tenant(h: &House, ids: &Ids, text: &str) {
    let mut tx = h.db.store.system().await.unwrap();
    tenants::insert(&mut tx, &testkit::change(ids), &name(text), &Labels::default()).await.unwrap();
    tx.commit().await.unwrap();
}

fn keys(batch: &Batch, table: Table) -> Vec<String> {
    batch.changes.iter().filter(|c| c.table == table).map(|c| c.key.clone()).collect()
}

async fn stop(h: &House, vm: VmId, verb: PowerVerb) {
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    vms::set_power(&mut tx, &h.change(), h.project, &Key::from(vm), None, verb).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn p12_a_pull_has_each_changed_row_once_as_it_stands_now() {
    let h = House::new().await;
    let feed = Feed::new(&h.db.store);
    let start = feed.bootstrap().await.unwrap();
    assert!(start.reload && keys(&start, Table::Network).len() == 1 && keys(&start, Table::Image).len() == 1);
    let vm = h.vm("web-1").await.object.id();
    for verb in [PowerVerb::Stop, PowerVerb::Start, PowerVerb::Pause] {
        stop(&h, vm, verb).await;
    }
    let batch = feed.pull(&start.cursor).await.unwrap();
    assert!(!batch.reload);
    assert_eq!(keys(&batch, Table::Vm), [vm.to_string()], "changed four times, read once");
    assert_eq!((keys(&batch, Table::Task).len(), keys(&batch, Table::Volume).len()), (4, 1));
    let change = batch.changes.iter().find(|c| c.table == Table::Vm).unwrap();
    assert_eq!((change.tenant_id, change.project_id), (Some(h.tenant), Some(h.project)));
    let Some(Row::Vm(row)) = &change.row else { panic!("{change:?}") };
    assert_eq!(row.metadata.generation.0, 4);
    let text = batch.cursor.to_string().parse::<Cursor>().unwrap();
    assert_eq!(feed.pull(&text).await.unwrap().changes, vec![], "nothing comes twice");
}

#[tokio::test]
async fn a_deleted_row_comes_without_content_and_with_its_owner() {
    let h = House::new().await;
    let vm = h.vm("web-1").await.object.id();
    let feed = Feed::new(&h.db.store);
    let cursor = feed.bootstrap().await.unwrap().cursor;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    vms::delete(&mut tx, &h.change(), h.project, &Key::from(vm), None).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(vms::finalize(&mut tx, vm, now()).await.unwrap(), Finalized::Done);
    tx.commit().await.unwrap();
    let batch = feed.pull(&cursor).await.unwrap();
    let change = batch.changes.iter().find(|c| c.table == Table::Vm).unwrap();
    assert_eq!((&change.row, change.tenant_id, change.project_id), (&None, Some(h.tenant), Some(h.project)));
    assert_eq!(keys(&batch, Table::Volume).len(), 1);
}

#[tokio::test]
async fn p11_a_rollback_leaves_nothing() {
    let h = House::new().await;
    let feed = Feed::new(&h.db.store);
    let cursor = feed.bootstrap().await.unwrap().cursor;
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let new = New { name: name("dry"), labels: Labels::default(), spec: crate::fixture::small() };
    vms::insert(&mut tx, &h.change(), h.project, &new).await.unwrap();
    drop(tx);
    assert_eq!(feed.pull(&cursor).await.unwrap().changes, vec![]);
}

/// A later transaction commits first. Its line has the higher number, and the earlier one must not be passed over.
#[tokio::test]
async fn p1_p2_commits_out_of_order_are_neither_lost_nor_doubled() {
    let h = House::new().await;
    let (feed, ids) = (Feed::new(&h.db.store), testkit::ids(5));
    let cursor = feed.bootstrap().await.unwrap().cursor;
    let mut early = h.db.store.system().await.unwrap();
    tenants::insert(&mut early, &testkit::change(&ids), &name("early"), &Labels::default()).await.unwrap();
    tenant(&h, &ids, "late").await;
    let first = feed.pull(&cursor).await.unwrap();
    assert_eq!(keys(&first, Table::Tenant).len(), 1, "only what is committed");
    early.commit().await.unwrap();
    let second = feed.pull(&first.cursor).await.unwrap();
    assert_eq!(keys(&second, Table::Tenant).len(), 1);
    assert_ne!(keys(&first, Table::Tenant), keys(&second, Table::Tenant));
    assert_eq!(feed.pull(&second.cursor).await.unwrap().changes, vec![]);
}

/// Eight writers, and a reader that pulls all the while: what it saw last of each row is what the row is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_r21_nothing_is_lost_under_concurrent_commits() {
    let h = House::new().await;
    let feed = Feed::new(&h.db.store);
    let vms: Vec<VmId> = h.vms(8).await;
    let mut state: BTreeMap<String, Row> = BTreeMap::new();
    let start = feed.bootstrap().await.unwrap();
    let mut cursor = start.cursor.clone();
    let apply = |batch: Batch, state: &mut BTreeMap<String, Row>| {
        for change in batch.changes {
            let key = format!("{:?} {}", change.table, change.key);
            match change.row {
                Some(row) => state.insert(key, row),
                None => state.remove(&key),
            };
        }
    };
    apply(start, &mut state);
    let writers = vms.iter().enumerate().map(|(w, vm)| {
        let (store, change, vm, tenant, project) = (h.db.store.clone(), h.change(), *vm, h.tenant, h.project);
        tokio::spawn(async move {
            for i in 0..25usize {
                let verb = if i % 2 == 0 { PowerVerb::Stop } else { PowerVerb::Start };
                let mut tx = store.tenant(tenant).await.unwrap();
                vms::set_power(&mut tx, &change, project, &Key::from(vm), None, verb).await.unwrap();
                // Commits overtake each other.
                tokio::time::sleep(Duration::from_micros((w as u64 * 7919 + i as u64 * 104_729) % 3000))
                    .await;
                if i % 5 == 4 { drop(tx) } else { tx.commit().await.unwrap() }
            }
        })
    });
    let writers = tokio::spawn(futures::future::join_all(writers.collect::<Vec<_>>()));
    let mut pulls = 0;
    while !writers.is_finished() {
        let batch = feed.pull(&cursor).await.unwrap();
        cursor = batch.cursor.clone();
        apply(batch, &mut state);
        pulls += 1;
    }
    assert!(writers.await.unwrap().iter().all(Result::is_ok) && pulls > 5);
    let batch = feed.pull(&cursor).await.unwrap();
    apply(batch, &mut state);
    let mut truth = BTreeMap::new();
    apply(feed.bootstrap().await.unwrap(), &mut truth);
    assert_eq!(state.keys().collect::<Vec<_>>(), truth.keys().collect::<Vec<_>>());
    let differ: Vec<_> = state.iter().filter(|(k, row)| truth[*k] != **row).map(|(k, _)| k).collect();
    assert!(differ.is_empty(), "{differ:?}");
    assert_eq!(keys_of(&truth, "Vm ").len(), 8);
}

fn keys_of<'a>(state: &'a BTreeMap<String, Row>, prefix: &str) -> Vec<&'a String> {
    state.keys().filter(|k| k.starts_with(prefix)).collect()
}

#[tokio::test]
async fn p4_r20_a_transaction_that_stays_open_holds_nobody_up() {
    let h = House::new().await;
    let (feed, ids) = (Feed::new(&h.db.store), testkit::ids(5));
    let mut open = h.db.store.system().await.unwrap();
    tenants::insert(&mut open, &testkit::change(&ids), &name("open"), &Labels::default()).await.unwrap();
    let mut cursor = feed.bootstrap().await.unwrap().cursor;
    for i in 0..20 {
        tenant(&h, &ids, &format!("t{i}")).await;
        let batch = feed.pull(&cursor).await.unwrap();
        assert_eq!(keys(&batch, Table::Tenant).len(), 1, "each comes at once, and once");
        cursor = batch.cursor;
    }
    open.commit().await.unwrap();
    assert_eq!(keys(&feed.pull(&cursor).await.unwrap(), Table::Tenant).len(), 1);
}

#[tokio::test]
async fn p4_the_log_is_read_through_its_index_behind_an_open_transaction() {
    let h = House::new().await;
    let mut admin = h.db.superuser().await;
    admin
        .execute("INSERT INTO change_log (xid, source, key, op) SELECT '3', 'vms', 'k' || n, 'update' FROM generate_series(1, 50000) n")
        .await
        .unwrap();
    admin
        .execute("ANALYZE change_log; SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        .await
        .unwrap();
    admin
        .execute("PREPARE log (text, text[]) AS SELECT * FROM change_log WHERE xid >= $1::text::xid8 OR xid = ANY($2::text[]::xid8[])")
        .await
        .unwrap();
    let plan: Vec<String> =
        sqlx::query_scalar("EXPLAIN EXECUTE log ('100', '{}')").fetch_all(&mut admin).await.unwrap();
    assert!(plan.iter().any(|l| l.contains("change_log_xid")), "{plan:?}");
}

#[tokio::test]
async fn p3_p10_a_transaction_of_ten_thousand_rows_is_one_batch() {
    let h = House::new().await;
    let feed = Feed::new(&h.db.store);
    let cursor = feed.bootstrap().await.unwrap().cursor;
    let mut admin = h.db.superuser().await;
    let mut tx = admin.begin().await.unwrap();
    for half in ["a", "b"] {
        let statement = format!(
            "INSERT INTO tenants (id, name, labels, generation, created_at, updated_at)
             SELECT gen_random_uuid(), '{half}' || n, '{{}}', 1, now(), now() FROM generate_series(1, 5000) n"
        );
        tx.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
        assert_eq!(feed.pull(&cursor).await.unwrap().changes.len(), 0, "not a part of it");
    }
    tx.commit().await.unwrap();
    let batch = feed.pull(&cursor).await.unwrap();
    let all: BTreeSet<_> = keys(&batch, Table::Tenant).into_iter().collect();
    assert_eq!((batch.changes.len(), all.len()), (10_000, 10_000));
}

/// A pull that dies at any point has moved nothing: the same cursor brings the same again. It dies when it is woken for
/// the n-th time, which is between two of its round trips on a machine of any speed.
#[tokio::test]
async fn p7_a_gateway_killed_in_the_middle_of_a_pull_is_told_everything_by_the_next() {
    let h = House::new().await;
    let feed = Feed::new(&h.db.store);
    let cursor = feed.bootstrap().await.unwrap().cursor;
    let mut made: Vec<String> = Vec::new();
    let mut unfinished = 0;
    for n in 0..16u32 {
        made.push(h.vm(&format!("vm-{n}")).await.object.id().to_string());
        let mut pull = Box::pin(feed.pull(&cursor));
        let mut left = n;
        let finished = std::future::poll_fn(|cx| match left {
            0 => Poll::Ready(false),
            _ => {
                left -= 1;
                pull.as_mut().poll(cx).map(|_| true)
            }
        });
        unfinished += u32::from(!finished.await && n > 0);
        drop(pull);
        let batch = feed.pull(&cursor).await.unwrap();
        assert!(!batch.reload);
        assert_eq!(
            keys(&batch, Table::Vm).into_iter().collect::<BTreeSet<_>>(),
            made.iter().cloned().collect()
        );
    }
    // How often it is woken depends on how quick the answers are; before the first it always waits.
    assert!(unfinished > 0, "none died on the way");
}

#[tokio::test]
async fn p13_delete_and_insert_of_one_key_is_one_row() {
    let h = House::new().await;
    let feed = Feed::new(&h.db.store);
    let cursor = feed.bootstrap().await.unwrap().cursor;
    let mut admin = h.db.superuser().await;
    for statement in [
        "INSERT INTO tenants (id, name, labels, generation, created_at, updated_at)
         VALUES ('00000000-0000-7000-8000-0000000000aa', 'one', '{}', 1, now(), now())",
        "DELETE FROM tenants WHERE name = 'one'",
        "INSERT INTO tenants (id, name, labels, generation, created_at, updated_at)
         VALUES ('00000000-0000-7000-8000-0000000000aa', 'two', '{}', 1, now(), now())",
    ] {
        admin.execute(statement).await.unwrap();
    }
    let batch = feed.pull(&cursor).await.unwrap();
    let [change] = batch.changes.as_slice() else { panic!("{batch:?}") };
    assert!(matches!(&change.row, Some(Row::Tenant(t)) if t.metadata.name.as_str() == "two"));
}

#[tokio::test]
async fn p14_truncate_means_everything_anew_and_copy_is_seen() {
    let h = House::new().await;
    let feed = Feed::new(&h.db.store);
    let cursor = feed.bootstrap().await.unwrap().cursor;
    let mut admin = h.db.superuser().await;
    let mut copy = admin
        .copy_in_raw("COPY tenants (id, name, labels, generation, created_at, updated_at) FROM STDIN")
        .await
        .unwrap();
    copy.send("00000000-0000-7000-8000-0000000000ab\tbulk\t{}\t1\t2026-01-01\t2026-01-01\n".as_bytes())
        .await
        .unwrap();
    copy.finish().await.unwrap();
    let batch = feed.pull(&cursor).await.unwrap();
    assert_eq!(keys(&batch, Table::Tenant).len(), 1);
    admin.execute("TRUNCATE conditions").await.unwrap();
    let batch = feed.pull(&batch.cursor).await.unwrap();
    assert!(batch.reload && keys(&batch, Table::Tenant).len() == 2);
}

#[tokio::test]
async fn p8_a_cursor_past_retention_is_told_everything_and_held_ones_are_not_pruned_past() {
    let h = House::new().await;
    let (feed, ids) = (Feed::new(&h.db.store), testkit::ids(5));
    let old = feed.bootstrap().await.unwrap().cursor;
    let holder = (h.ids)();
    feed.hold(holder, &old, now()).await.unwrap();
    tenant(&h, &ids, "one").await;
    feed.prune(now(), 60).await.unwrap();
    assert_eq!(keys(&feed.pull(&old).await.unwrap(), Table::Tenant).len(), 1, "it is held");
    // What is open anywhere in the cluster, in other tests' databases too, keeps every horizon down for a while.
    let mut tries = 0;
    while !feed.pull(&old).await.unwrap().reload {
        feed.hold(holder, &feed.bootstrap().await.unwrap().cursor, now()).await.unwrap();
        feed.prune(now(), 60).await.unwrap();
        tries += 1;
        assert!(tries < 200, "nothing is pruned");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let batch = feed.pull(&old).await.unwrap();
    assert!(batch.reload && keys(&batch, Table::Tenant).len() == 2, "what it missed is gone");
    let new = feed.bootstrap().await.unwrap().cursor;
    feed.hold(holder, &new, now()).await.unwrap();
    tenant(&h, &ids, "two").await;
    feed.prune(now(), 60).await.unwrap();
    assert!(!feed.pull(&new).await.unwrap().reload);
    // A holder that was not heard of for a minute holds nothing.
    let late = now() + TimeDelta::seconds(61);
    let mut tries = 0;
    while !feed.pull(&new).await.unwrap().reload {
        feed.prune(late, 60).await.unwrap();
        tries += 1;
        assert!(tries < 200, "the idle holder still holds");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn p9_r29_a_cursor_of_another_history_or_ahead_of_the_server_is_told_everything() {
    let h = House::new().await;
    let feed = Feed::new(&h.db.store);
    let cursor = feed.bootstrap().await.unwrap().cursor.to_string();
    let parts: Vec<&str> = cursor.splitn(2, ':').collect();
    let (system, timeline) = parts[0].split_once('.').unwrap();
    for other in [
        format!("1.{timeline}:{}", parts[1]),
        format!("{system}.00000002:{}", parts[1]),
        format!("{system}.{timeline}:99999999:99999999:"),
    ] {
        assert!(feed.pull(&other.parse().unwrap()).await.unwrap().reload, "{other}");
    }
    assert!(!feed.pull(&cursor.parse().unwrap()).await.unwrap().reload);
}

#[tokio::test]
async fn commits_wake_who_waits_in_this_process_and_reads_do_not() {
    let h = House::new().await;
    let mut changed = h.db.store.changed();
    changed.mark_unchanged();
    drop(h.db.store.tenant_read(h.tenant).await.unwrap());
    assert!(!changed.has_changed().unwrap());
    tenant(&h, &testkit::ids(5), "news").await;
    tokio::time::timeout(Duration::from_secs(5), changed.changed()).await.unwrap().unwrap();
}

/// Commits on one store until the other hears of it.
async fn heard(h: &House, by: &Store, ids: &Ids) {
    let mut changed = by.changed();
    changed.mark_unchanged();
    for n in 0..100 {
        tenant(h, ids, &format!("t-{}-{n}", ids().simple())).await;
        if tokio::time::timeout(Duration::from_millis(100), changed.changed()).await.is_ok() {
            return;
        }
    }
    panic!("it was never heard");
}

/// Another gateway's store; the two exchange news for as long as the second value lives.
async fn another_gateway(h: &House) -> (Store, JoinSet<Infallible>) {
    let other = Store::connect(&h.db.url(), Options::default()).await.unwrap();
    let mut exchanging = JoinSet::new();
    for store in [h.db.store.clone(), other.clone()] {
        exchanging.spawn(async move { store.exchange_news(|| 0.0).await });
    }
    (other, exchanging)
}

#[tokio::test]
async fn p5_news_of_other_gateways_is_heard_and_again_after_the_listener_was_killed() {
    let h = House::new().await;
    let (other, _exchanging) = another_gateway(&h).await;
    let ids = testkit::ids(9);
    // The first may be the news of being connected, the second is not.
    heard(&h, &other, &ids).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    heard(&h, &other, &ids).await;
    let mut changed = other.changed();
    tokio::time::sleep(Duration::from_millis(100)).await;
    changed.mark_unchanged();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!changed.has_changed().unwrap(), "what was heard is not told on");
    let killed: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE query ~ 'basalt_changed|pg_backend_pid' AND pid <> pg_backend_pid() AND datname = current_database()",
    )
    .fetch_one(&mut h.db.superuser().await)
    .await
    .unwrap();
    assert_eq!(killed, 2, "both listeners");
    heard(&h, &other, &ids).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    heard(&h, &other, &ids).await;
}

/// What a write pays for the feed; how much that is in time is what `cargo xtask bench --only feed` prints.
#[tokio::test]
async fn p16_a_write_of_many_rows_pays_one_statement_and_waits_for_no_other_writer() {
    let h = House::new().await;
    let mut writer = h.db.superuser().await;
    let write = |from: u32| {
        format!(
            "EXPLAIN (ANALYZE, TIMING off, FORMAT json)
             INSERT INTO tenants (id, name, labels, generation, created_at, updated_at)
             SELECT gen_random_uuid(), 't-' || n, '{{}}', 1, now(), now() FROM generate_series({from}, {from} + 99) n"
        )
    };
    writer.execute("BEGIN").await.unwrap();
    let plan: serde_json::Value =
        sqlx::query_scalar(sqlx::AssertSqlSafe(write(1))).fetch_one(&mut writer).await.unwrap();
    let triggers = plan[0]["Triggers"].as_array().unwrap();
    let calls: Vec<_> = triggers.iter().map(|t| (t["Trigger Name"].as_str().unwrap(), &t["Calls"])).collect();
    assert_eq!(calls, [("feed_insert", &serde_json::json!(1))], "one for a hundred rows, and no other");
    // Its lines of the log stand there and are not committed: nobody who writes waits for them.
    let mut another = h.db.superuser().await;
    another.execute("SET lock_timeout = '1ms'").await.unwrap();
    another.execute(sqlx::AssertSqlSafe(write(101))).await.unwrap();
    let lines = "SELECT count(*) FROM change_log WHERE source = 'tenants' AND op = 'insert'";
    let seen: i64 = sqlx::query_scalar(lines).fetch_one(&mut writer).await.unwrap();
    assert_eq!(seen, 201, "a line for each row of both, and one for the tenant that was there");
    writer.execute("ROLLBACK").await.unwrap();
}

/// The way from a commit to who reads the feed, without any poll; how long it takes is what
/// `cargo xtask bench --only feed` prints.
#[tokio::test]
async fn p17_a_commit_is_news_when_it_returns_here_and_without_a_poll_in_another_gateway() {
    let h = House::new().await;
    let (other, _exchanging) = another_gateway(&h).await;
    let ids = testkit::ids(9);
    heard(&h, &other, &ids).await;
    let feed = Feed::new(&other);
    for n in 0..20 {
        let cursor = feed.bootstrap().await.unwrap().cursor;
        let (mut here, mut there) = (h.db.store.changed(), other.changed());
        here.mark_unchanged();
        there.mark_unchanged();
        tenant(&h, &ids, &format!("t-{n}")).await;
        assert!(here.has_changed().unwrap(), "who reads the feed here need not wait for anything");
        // Another commit's notification may still be on its way: what counts is that the row is there after one.
        let read = async {
            loop {
                there.changed().await.unwrap();
                if !feed.pull(&cursor).await.unwrap().changes.is_empty() {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("the notification comes");
    }
}

#[tokio::test]
async fn facts_that_say_the_same_are_no_news() {
    let h = House::new().await;
    let task = h.vm("web-1").await.task.id;
    let feed = Feed::new(&h.db.store);
    let step =
        [TaskMove { id: task, state: TaskState::Executing, progress: 5, stage: "x".into(), error: None }];
    let mut tx = h.db.store.system().await.unwrap();
    tasks::advance(&mut tx, &step, now()).await.unwrap();
    tx.commit().await.unwrap();
    let cursor = feed.bootstrap().await.unwrap().cursor;
    let mut tx = h.db.store.system().await.unwrap();
    tasks::advance(&mut tx, &step, now()).await.unwrap();
    task_logs::append(&mut tx, &[(task, now(), "a line".into())]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(feed.pull(&cursor).await.unwrap().changes, vec![]);
}
