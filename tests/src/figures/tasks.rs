//! Whole lives of tasks: recorded as writes record them, started and ended in batches by the store's own statements, as
//! the reconciler does; beside a minimal queue on `FOR UPDATE SKIP LOCKED` in the same cluster.

use super::{Figure, Latencies, Size, floor::pgbench};
use crate::{House, oracles::psql};
use anyhow::{Context, Result, ensure};
use basalt_daemon::{Clock, SystemClock};
use basalt_model::{
    TaskId,
    tasks::{TaskMove, TaskState},
};
use basalt_store::{Options, Store, tasks};
use std::time::{Duration, Instant};

/// Tasks of one statement, as in the reconciler's lane.
const BATCH: usize = 256;
/// Tasks of one recording transaction.
const RECORDED: usize = 50;
/// Connections that record, and that run the queue of the floor.
const CONNECTIONS: usize = 4;

const ACTOR: &str = r#"{"kind": "user", "id": "00000000-0000-0000-0000-000000000001", "name": "bench"}"#;

/// A UUIDv7 of now.
const ID: &str = "(lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7' || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15))::uuid";

/// What a write adds for its task: the row, its audit row, their lines of the feed.
fn recording() -> String {
    let rows = format!("SELECT {ID} AS id, gen_random_uuid() AS about FROM generate_series(1, {RECORDED})");
    format!(
        "WITH new AS MATERIALIZED ({rows}), audit AS (INSERT INTO audit_events (id, at, actor_kind, actor_id, actor_name, action, subject_kind, subject_id, subject_name) SELECT id, now(), 'user', about, 'bench', 'bench.task', 'bench', about, 'bench' FROM new) INSERT INTO tasks (id, kind, subject_kind, subject_id, subject_name, generation, state, progress, stage, depends_on, deadline, attempt, actor, created_at) SELECT id, 'vm_start', 'bench', about, 'bench', 1, 'pending', 0, '', '{{}}', now() + interval '1 hour', 1, '{ACTOR}', now() FROM new;\n"
    )
}

/// Seconds of a second that one task costs in a phase, and how long the batches took.
struct Phase {
    rate: f64,
    batches: Latencies,
}

async fn phase(store: &Store, ids: &[TaskId], state: TaskState) -> Result<Phase> {
    let began = Instant::now();
    let mut took: Vec<Duration> = Vec::new();
    for portion in ids.chunks(BATCH) {
        let moves: Vec<_> = portion
            .iter()
            .map(|id| TaskMove { id: *id, state, progress: 50, stage: "measured".into(), error: None })
            .collect();
        let at = Instant::now();
        // As the reconciler: an end is durable before anybody reads it, a start is derived.
        let mut tx = if state.is_terminal() { store.system().await? } else { store.derived().await? };
        ensure!(
            tasks::advance(&mut tx, &moves, SystemClock.now()).await?.len() == portion.len(),
            "all of them moved"
        );
        tx.commit().await?;
        took.push(at.elapsed());
    }
    Ok(Phase { rate: ids.len() as f64 / began.elapsed().as_secs_f64(), batches: Latencies::new(took) })
}

/// One round: so many tasks recorded, started and ended. Gives lives a second and the starts.
async fn round(house: &House, store: &Store, seconds: u64) -> Result<(f64, Phase)> {
    let recorded = RECORDED as f64 * pgbench(house.owner_url(), &recording(), CONNECTIONS, seconds)?.rate;
    let ids = psql(house.owner_url(), "SELECT id FROM tasks WHERE subject_kind = 'bench' ORDER BY id")?;
    let ids: Vec<TaskId> =
        ids.iter().map(|id| id.parse()).collect::<Result<_, _>>().context("ids of tasks")?;
    let started = phase(store, &ids, TaskState::Executing).await?;
    let ended = phase(store, &ids, TaskState::Completed).await?;
    // One after the other on the same machine: what each costs adds up.
    Ok((1.0 / (1.0 / recorded + 1.0 / started.rate + 1.0 / ended.rate), started))
}

/// The same with a table, an index and nothing around it: put, claimed by whoever comes first, deleted.
fn queue(owner_url: &str, seconds: u64) -> Result<f64> {
    psql(
        owner_url,
        "CREATE SCHEMA IF NOT EXISTS floor; DROP TABLE IF EXISTS floor.jobs; CREATE TABLE floor.jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, task text NOT NULL, payload json NOT NULL, run_at timestamptz NOT NULL, locked_at timestamptz, locked_by text, attempts int NOT NULL); CREATE INDEX ON floor.jobs (run_at, id) WHERE locked_at IS NULL",
    )?;
    let script = format!(
        "INSERT INTO floor.jobs (task, payload, run_at, attempts) SELECT 'vm_start', '{{}}', now(), 0 FROM generate_series(1, {RECORDED});\nUPDATE floor.jobs SET locked_at = now(), locked_by = 'w:client_id', attempts = attempts + 1 WHERE id IN (SELECT id FROM floor.jobs WHERE locked_at IS NULL AND run_at <= now() ORDER BY run_at, id LIMIT {RECORDED} FOR UPDATE SKIP LOCKED);\nDELETE FROM floor.jobs WHERE id IN (SELECT id FROM floor.jobs WHERE locked_by = 'w:client_id' LIMIT {RECORDED} FOR UPDATE SKIP LOCKED);\n"
    )
    .replace("'w:client_id'", "'w' || :client_id");
    Ok(RECORDED as f64 * pgbench(owner_url, &script, CONNECTIONS, seconds)?.rate)
}

/// Finished tasks of a month.
fn history(owner_url: &str, rows: usize) -> Result<()> {
    let fill = format!(
        "INSERT INTO tasks_finished (id, kind, subject_kind, subject_id, subject_name, generation, state, progress, stage, depends_on, deadline, attempt, actor, created_at, started_at, finished_at) SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - n * (2505600000::bigint / {rows})), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid, 'vm_start', 'past', gen_random_uuid(), 'past', 1, 'completed', 100, '', '{{}}', now(), 1, '{ACTOR}', now(), now(), now() FROM generate_series(1, {rows}) n"
    );
    let days = "SELECT keep_task_partitions((now() - n * interval '1 day')::date, 1, '2000-01-01') FROM generate_series(0, 30) n";
    psql(owner_url, days)?;
    psql(owner_url, &fill)?;
    psql(owner_url, "VACUUM ANALYZE tasks_finished")?;
    Ok(())
}

/// Measures the group.
pub async fn measure(house: &House, size: &Size) -> Result<Vec<Figure>> {
    let store =
        Store::connect(&house.truth.url, Options { max_connections: 4, ..Options::default() }).await?;
    let url = house.owner_url();
    let (mut lives, mut floors, mut starts) = (vec![], vec![], None);
    for _ in 0..size.runs {
        let (rate, started) = round(house, &store, size.seconds.div_ceil(2)).await?;
        lives.push(rate);
        starts = Some(started);
        floors.push(queue(url, size.seconds.div_ceil(2))?);
    }
    let before = starts.context("at least one run")?.batches;
    let rows = size.rows * 100;
    history(url, rows)?;
    let (rate, started) = round(house, &store, size.seconds.div_ceil(2)).await?;
    let (lives, floor) = (super::median(lives), super::median(floors));
    let bound = Duration::from_millis(20);
    let after = started.batches;
    Ok(vec![
        Figure::new("tasks: whole lives, recorded, started, ended", format!("{lives:.0}/s"))
            .target("≥ 5,000/s", lives >= 5000.0)
            .floor(format!("{floor:.0}/s of a bare queue with SKIP LOCKED: {:.0} %", 100.0 * lives / floor)),
        Figure::new(format!("tasks: start of {BATCH}"), before.text())
            .target("p99 ≤ 20 ms", before.quantile(0.99) <= bound),
        Figure::new(format!("tasks: whole lives beside {rows} finished"), format!("{rate:.0}/s")),
        Figure::new(format!("tasks: start of {BATCH} beside {rows} finished"), after.text())
            .target("p99 ≤ 20 ms", after.quantile(0.99) <= bound)
            .floor(format!("without: {}", before.text())),
    ])
}

/// A transaction that stays open elsewhere. Ended when dropped.
struct Open(std::process::Child);

impl Open {
    fn begin(owner_url: &str) -> Result<Self> {
        let held =
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tasks; SELECT pg_sleep(86400)";
        let mut command = std::process::Command::new("/usr/lib/postgresql/15/bin/psql");
        command.args(["--no-psqlrc", "--quiet", "--output=/dev/null", "--command", held, owner_url]);
        Ok(Self(command.spawn().context("psql cannot be started")?))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // It sleeps in the server; the connection's end ends it there at the latest when it writes.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What `cargo xtask soak --tasks` is to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Finished tasks to begin with.
    pub rows: usize,
    /// How long a transaction stays open.
    pub open: Duration,
}

/// What it came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Lives a second with an empty history, beside the whole one, and there beside the open transaction.
    pub rates: [f64; 3],
    /// Starts of a batch, in the same order.
    pub starts: [Latencies; 3],
    /// Lives beside the open transaction.
    pub lives: usize,
    /// Bytes that the table of live tasks grew by for each of them.
    pub grown_per_life: f64,
}

/// R50 and R49 in full: a history of so many tasks, then a transaction that stays open for so long.
pub async fn soak(house: &House, plan: &Plan) -> Result<Outcome> {
    const ROUNDS: usize = 5;
    let store =
        Store::connect(&house.truth.url, Options { max_connections: 4, ..Options::default() }).await?;
    let url = house.owner_url();
    let size = || crate::oracles::count(url, "SELECT pg_total_relation_size('tasks')");
    let ended =
        || crate::oracles::count(url, "SELECT count(*) FROM tasks_finished WHERE subject_kind = 'bench'");
    let mut phases = Vec::new();
    for long in [false, true] {
        if long {
            history(url, plan.rows)?;
        }
        let (mut rates, mut starts) = (vec![], vec![]);
        for _ in 0..ROUNDS {
            let (rate, started) = round(house, &store, 2).await?;
            rates.push(rate);
            starts.extend(started.batches.all());
        }
        phases.push((super::median(rates), Latencies::new(starts)));
    }
    let (bytes, before) = (size()?, ended()?);
    let (open, began) = (Open::begin(url)?, Instant::now());
    let (mut rates, mut starts) = (vec![], vec![]);
    while began.elapsed() < plan.open || rates.len() < ROUNDS {
        let (rate, started) = round(house, &store, 2).await?;
        rates.push(rate);
        starts.extend(started.batches.all());
    }
    drop(open);
    // The last ones count: what is kept only grows.
    let last = rates.split_off(rates.len().saturating_sub(ROUNDS));
    let lives = ended()? - before;
    let grown_per_life = (size()? - bytes) as f64 / lives.max(1) as f64;
    let [(a, x), (b, y)]: [(f64, Latencies); 2] =
        phases.try_into().map_err(|_| anyhow::anyhow!("two phases were measured"))?;
    Ok(Outcome {
        rates: [a, b, super::median(last)],
        starts: [x, y, Latencies::new(starts)],
        lives: usize::try_from(lives)?,
        grown_per_life,
    })
}
