//! Live tasks and finished ones: one end under every race, history by the day, and work that costs the same beside a
//! long history or a transaction that nobody closes.

// Figures are printed; nothing is decided by them.
#![expect(clippy::disallowed_methods)]

use crate::{fixture::House, task_dependencies::get};
use basalt_model::{
    DateTime, TaskId,
    tasks::{TaskMove, TaskState},
};
use basalt_store::{
    Error, Page, task_logs, tasks,
    testkit::{Database, now},
};
use chrono::TimeDelta;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use uuid::Uuid;

fn to(id: TaskId, state: TaskState, progress: i32) -> TaskMove {
    TaskMove { id, state, progress, stage: "tested".into(), error: None }
}

/// Tasks as a write records them, many at once.
async fn record(h: &House, admin: &mut PgConnection, n: usize, at: DateTime) -> Vec<TaskId> {
    let millis = u128::try_from(at.timestamp_millis()).unwrap();
    let ids: Vec<Uuid> =
        (0..n).map(|_| Uuid::from_u128(millis << 80 | (h.ids)().as_u128() & (u128::MAX >> 48))).collect();
    sqlx::query(
        "INSERT INTO tasks (id, tenant_id, project_id, kind, subject_kind, subject_id, subject_name, generation, state,
            progress, stage, depends_on, deadline, attempt, actor, created_at)
         SELECT id, $2, $3, 'vm_start', 'nothing', id, 'n', 1, 'pending', 0, '', '{}', $4 + interval '1 hour', 1,
            '{\"kind\": \"user\", \"id\": \"00000000-0000-0000-0000-000000000001\", \"name\": \"t\"}', $4
         FROM unnest($1::uuid[]) id",
    )
    .bind(&ids)
    .bind(h.tenant)
    .bind(h.project)
    .bind(at)
    .execute(admin)
    .await
    .unwrap();
    ids.into_iter().map(TaskId).collect()
}

async fn advance(h: &House, moves: &[TaskMove], at: DateTime) -> Vec<TaskId> {
    let mut tx = h.db.store.system().await.unwrap();
    let moved = tasks::advance(&mut tx, moves, at).await.unwrap();
    tx.commit().await.unwrap();
    moved
}

/// Lives of tasks, in batches as the reconciler moves them; gives how long each batch waited for its start.
async fn lives(h: &House, admin: &mut PgConnection, batches: usize, of: usize) -> Vec<Duration> {
    let mut starts = Vec::new();
    for _ in 0..batches {
        let ids = record(h, admin, of, now()).await;
        let moves = |state, progress| ids.iter().map(|id| to(*id, state, progress)).collect::<Vec<_>>();
        let began = Instant::now();
        assert_eq!(advance(h, &moves(TaskState::Executing, 50), now()).await.len(), of);
        starts.push(began.elapsed());
        assert_eq!(advance(h, &moves(TaskState::Completed, 100), now()).await.len(), of);
        let mut tx = h.db.store.system().await.unwrap();
        assert!(tasks::sweep(&mut tx, now(), 100).await.unwrap().is_empty());
    }
    starts.sort_unstable();
    starts
}

/// Cancels one after the other, whichever; gives those that it ended.
async fn cancels(h: &House, mine: Vec<TaskId>) -> Vec<(TaskId, TaskState)> {
    let (mut won, mut rng) = (Vec::new(), StdRng::seed_from_u64(9));
    for _ in 0..200 {
        let id = mine[rng.random_range(0..mine.len())];
        let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
        match tasks::cancel(&mut tx, &h.change(), id).await {
            Ok(task) => {
                tx.commit().await.unwrap();
                won.push((id, task.state));
            }
            Err(Error::TaskEnded { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
    won
}

/// Completed, failed, timed out and cancelled in the same moment, by writers that each do so with many at once, in
/// other orders: one end each, the one that its writer was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r46_completed_at_the_instant_of_timed_out_is_one_terminal_state() {
    let h = House::new().await;
    let mut admin = h.db.superuser().await;
    let all = record(&h, &mut admin, 400, now()).await;
    let late = now() + TimeDelta::days(1);
    let mut writers = Vec::new();
    for (seed, state) in
        (0u64..).zip([TaskState::Completed, TaskState::Failed, TaskState::Executing, TaskState::Completed])
    {
        let (h, mut mine) = (&h, all.clone());
        mine.shuffle(&mut StdRng::seed_from_u64(seed));
        writers.push(Box::pin(async move {
            let mut won = Vec::new();
            for portion in mine.chunks(7) {
                let moves: Vec<_> = portion.iter().map(|id| to(*id, state, 60)).collect();
                let moved = advance(h, &moves, now()).await;
                won.extend(moved.into_iter().filter(|_| state.is_terminal()).map(|id| (id, state)));
            }
            won
        }) as std::pin::Pin<Box<dyn Future<Output = Vec<(TaskId, TaskState)>> + '_>>);
    }
    for _ in 0..2 {
        let h = &h;
        writers.push(Box::pin(async move {
            let mut won = Vec::new();
            loop {
                let mut tx = h.db.store.system().await.unwrap();
                let swept = tasks::sweep(&mut tx, late, 5).await.unwrap();
                tx.commit().await.unwrap();
                won.extend(swept.iter().map(|t| (t.id, t.state)));
                // The network's task and the like were over before.
                if swept.is_empty() {
                    return won;
                }
            }
        }));
    }
    writers.push(Box::pin(cancels(&h, all.clone())));
    let won: Vec<(TaskId, TaskState)> = futures::future::join_all(writers).await.concat();
    let told: BTreeMap<TaskId, TaskState> = won.iter().copied().collect();
    assert_eq!((won.len(), told.len()), (all.len(), all.len()), "each has one winner");
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for id in all {
        let task = get(&h, id).await;
        assert_eq!((Some(&task.state), task.finished_at.is_some()), (told.get(&id), true));
        *states.entry(task.state.as_str()).or_default() += 1;
    }
    println!("ends of 400 tasks under 7 writers: {states:?}");
    let twice: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks JOIN tasks_finished USING (id)")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    let live: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks").fetch_one(&mut admin).await.unwrap();
    assert_eq!((twice, live), (0, 0));
}

async fn partitions(admin: &mut PgConnection, of: &str) -> Vec<String> {
    sqlx::query_scalar("SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass ORDER BY 1")
        .bind(of)
        .fetch_all(admin)
        .await
        .unwrap()
}

async fn keep(db: &Database, at: DateTime, days: u32) -> Result<i32, Error> {
    let mut tx = db.store.system().await?;
    let changed = tasks::keep_partitions(&mut tx, at, days).await?;
    tx.commit().await?;
    Ok(changed)
}

#[tokio::test]
async fn t6_history_is_kept_by_the_day_and_dropped_by_policy_with_its_logs() {
    let h = House::new().await;
    let mut admin = h.db.superuser().await;
    // Before there are partitions, and after: all is found, in one order.
    let early = record(&h, &mut admin, 3, now()).await;
    let done: Vec<_> = early.iter().map(|id| to(*id, TaskState::Completed, 100)).collect();
    let mut tx = h.db.store.system().await.unwrap();
    task_logs::append(&mut tx, &[(early[0], now(), "kept".into())]).await.unwrap();
    tx.commit().await.unwrap();
    advance(&h, &done, now()).await;
    assert_eq!(keep(&h.db, now(), 30).await.unwrap(), 2 * (tasks::DAYS_AHEAD + 1));
    assert_eq!(keep(&h.db, now(), 30).await.unwrap(), 0, "they are there");
    let tomorrow = now() + TimeDelta::days(1);
    let later = record(&h, &mut admin, 2, tomorrow).await;
    advance(&h, &[to(later[0], TaskState::Completed, 100)], tomorrow).await;
    assert_eq!(partitions(&mut admin, "tasks_finished").await.len(), 5);
    let others: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tasks_finished_other").fetch_one(&mut admin).await.unwrap();
    assert_eq!(others, 0, "what came before its partition is moved into it");
    let listed = |limit| {
        let h = &h;
        async move {
            let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
            let filter = tasks::Filter { project: Some(h.project), ..Default::default() };
            let mut page = Page { limit, ..Page::default() };
            let mut all = Vec::new();
            loop {
                let list = tasks::list(&mut tx, &filter, &page).await.unwrap();
                all.extend(list.items.into_iter().filter(|t| t.subject.kind == "nothing").map(|t| t.id));
                page.after = list.next;
                if page.after.is_none() {
                    return all;
                }
            }
        }
    };
    let mut all = [early.clone(), later.clone()].concat();
    all.sort_unstable();
    assert_eq!((listed(2).await, listed(500).await), (all.clone(), all.clone()));
    let mut tenant = h.db.store.tenant_read(h.tenant).await.unwrap();
    assert_eq!(task_logs::list(&mut tenant, early[0], 0, 5).await.unwrap()[0].line, "kept");
    drop(tenant);
    // Somebody reads them for hours: nobody waits behind the dropping.
    let mut reader = PgConnection::connect(&h.db.owner_url()).await.unwrap();
    reader
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tasks_finished")
        .await
        .unwrap();
    let days = now() + TimeDelta::days(32);
    assert!(matches!(keep(&h.db, days, 30).await, Err(Error::Conflict(_))));
    assert_eq!(get(&h, early[1]).await.state, TaskState::Completed);
    reader.execute("ROLLBACK").await.unwrap();
    keep(&h.db, days, 30).await.unwrap();
    let gone = tasks::get(&mut h.db.store.system_read().await.unwrap(), early[0]).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "older than thirty days");
    let logs: i64 = sqlx::query_scalar("SELECT count(*) FROM task_logs").fetch_one(&mut admin).await.unwrap();
    assert_eq!(logs, 0, "with its log");
    assert_eq!(get(&h, later[1]).await.state, TaskState::Pending, "a live one is not history, however old");
    let left = partitions(&mut admin, "tasks_finished").await;
    assert!(
        !left.contains(&"tasks_finished_20260101".to_owned())
            && left.contains(&"tasks_finished_20260202".to_owned()),
        "{left:?}"
    );
}

/// Finished tasks of the last thirty days.
pub(crate) async fn history(h: &House, admin: &mut PgConnection, rows: usize) {
    for day in 0..30 {
        keep(&h.db, now() - TimeDelta::days(day), 60).await.unwrap();
    }
    let fill = format!(
        "INSERT INTO tasks_finished (id, tenant_id, project_id, kind, subject_kind, subject_id, subject_name, generation,
            state, progress, stage, depends_on, deadline, attempt, actor, created_at, started_at, finished_at)
         SELECT (lpad(to_hex({ms} - n * (86400000::bigint * 29 / {rows})), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
            '{}', '{}', 'vm_start', 'nothing', gen_random_uuid(), 'n', 1, 'completed', 100, '', '{{}}', now(), 1,
            '{{\"kind\": \"user\", \"id\": \"00000000-0000-0000-0000-000000000001\", \"name\": \"t\"}}', now(), now(), now()
         FROM generate_series(1, {rows}) n",
        h.tenant,
        h.project,
        ms = now().timestamp_millis(),
    );
    admin.execute(AssertSqlSafe(fill)).await.unwrap();
}

/// Lets rows be counted from now on. A connection tells what it read at most once a second, and when it is asked something:
/// what was read before comes before the count begins.
pub(crate) async fn count_anew(h: &House, admin: &mut PgConnection) {
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        admin.execute("SELECT 1").await.unwrap();
        let mut tx = h.db.store.system().await.unwrap();
        assert!(tasks::sweep(&mut tx, now(), 100).await.unwrap().is_empty());
        tx.commit().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    admin.execute("SELECT pg_stat_reset()").await.unwrap();
}

/// Rows that the server read of tasks so far, by table and index, and by which.
pub(crate) async fn reads(h: House, admin: &mut PgConnection) -> (i64, Vec<(String, i64)>) {
    h.db.store.close().await;
    let mut all: Vec<(String, i64)> = Vec::new();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        all = sqlx::query_as(
            "SELECT relname::text, seq_tup_read FROM pg_stat_user_tables WHERE relname SIMILAR TO 'task(s|_work)%' AND seq_tup_read > 0
             UNION ALL
             SELECT indexrelname::text, idx_tup_read FROM pg_stat_user_indexes WHERE relname SIMILAR TO 'task(s|_work)%' AND idx_tup_read > 0",
        )
        .fetch_all(&mut *admin)
        .await
        .unwrap();
    }
    all.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
    (all.iter().map(|(_, rows)| rows).sum(), all)
}

pub(crate) fn p99(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() * 99).div_ceil(100) - 1]
}

/// A sample of what `cargo xtask bench --only tasks` measures beside a million.
#[tokio::test]
async fn r50_with_a_long_history_a_start_reads_the_same_rows() {
    const LIVES: usize = 60 * 20;
    let mut seen = Vec::new();
    for rows in [0, 50_000] {
        let h = House::new().await;
        let mut admin = h.db.superuser().await;
        if rows > 0 {
            history(&h, &mut admin, rows).await;
            // Else autovacuum comes for what was filled in, in the midst of the count: while its snapshot is open, dead versions
            // of a task stay in the index, and whoever looks for the task reads them too.
            admin.execute("VACUUM (ANALYZE) tasks_finished").await.unwrap();
            count_anew(&h, &mut admin).await;
        }
        let starts = lives(&h, &mut admin, 60, 20).await;
        let (read, by) = reads(h, &mut admin).await;
        println!(
            "{rows} finished: start of 20 p99 {:?}, {:.1} rows read a life",
            p99(&starts),
            read as f64 / LIVES as f64
        );
        println!("{:?}", by.iter().take(6).collect::<Vec<_>>());
        seen.push(read);
    }
    assert!(seen[1] <= seen[0] + LIVES as i64, "rows read without and with a history: {seen:?}");
    assert!(seen[1] < 30 * LIVES as i64, "{seen:?}");
}

/// A sample of ten minutes: what a snapshot that nobody closes costs is space, and little of it.
#[tokio::test]
async fn r49_a_transaction_held_open_elsewhere_does_not_slow_tasks() {
    const BATCHES: usize = 40;
    let h = House::new().await;
    let mut admin = h.db.superuser().await;
    admin.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)").await.unwrap();
    lives(&h, &mut admin, 5, 50).await;
    admin.execute("VACUUM tasks").await.unwrap();
    let began = Instant::now();
    lives(&h, &mut admin, BATCHES, 50).await;
    let free = began.elapsed();
    let mut holder = PgConnection::connect(&h.db.owner_url()).await.unwrap();
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tasks").await.unwrap();
    count_anew(&h, &mut admin).await;
    let size = "SELECT pg_total_relation_size('tasks')";
    let before: i64 = sqlx::query_scalar(size).fetch_one(&mut admin).await.unwrap();
    let began = Instant::now();
    lives(&h, &mut admin, BATCHES, 50).await;
    let held = began.elapsed();
    admin.execute("VACUUM tasks").await.unwrap();
    let after: i64 = sqlx::query_scalar(size).fetch_one(&mut admin).await.unwrap();
    let grown = (after - before) / (BATCHES as i64 * 50);
    holder.execute("ROLLBACK").await.unwrap();
    let (read, by) = reads(h, &mut admin).await;
    println!(
        "{} lives: {free:?} free, {held:?} beside an open snapshot ({:.2} of the rate), {grown} bytes a life kept, {:.1} rows read a life: {by:?}",
        BATCHES * 50,
        free.as_secs_f64() / held.as_secs_f64(),
        read as f64 / (BATCHES * 50) as f64
    );
    assert!(grown < 4096, "{grown} bytes of every life are kept while the snapshot is open");
    assert!(read < 30 * BATCHES as i64 * 50, "{read} rows read");
    assert!(held < free * 3, "{free:?} without, {held:?} with");
}
