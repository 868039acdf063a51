//! Logs of tasks: lines that hosts write, numbered within each task and bounded.
//!
//! A line names items and the generation that was worked on, never a task. It goes to the live tasks that wait for no later
//! generation of them, or, where they ended while the line was on its way, to the one that ended last. Only items of the
//! host's own manifest count: where a VM is, where it goes to and where it comes from, and nowhere else.

use crate::{Handle, Result, SystemTx};
use basalt_model::{DateTime, Generation, HostId, TaskId, tasks::TaskLog};
use chrono::TimeDelta;
use sqlx::{PgConnection, Row, postgres::PgRow};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Lines kept of one task; the oldest go.
pub const MAX_LINES: i64 = 1000;
/// Bytes kept of one line.
pub const MAX_LINE_BYTES: usize = 4096;
/// Locks that order writers of logs, and what tells them from other advisory locks.
const WRITER_LOCKS: u8 = 64;
const WRITER_LOCK_CLASS: i32 = 0x6c6f_6773;
/// A task that ended so long ago is told nothing any more, in minutes: the gateway was away for longer.
const LATE_MINUTES: i64 = 10;
/// Tasks that were asked for earlier are not looked for among those that ended, in hours: it bounds how many days of history
/// are looked into, and is longer than a task of an object may take.
const OLDEST_HOURS: i64 = 26;

/// A line as a host wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counts the lines of one start of the agent, from 1.
    pub sequence: i64,
    /// When it happened, by the host's clock.
    pub at: DateTime,
    /// The items that it is about: kind, id, generation.
    pub about: Vec<(String, Uuid, Generation)>,
    /// The line.
    pub text: String,
}

/// What became of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The tasks that were told something.
    pub tasks: BTreeSet<TaskId>,
    /// Items of new lines that the host does not have.
    pub refused: u32,
}

/// Lines of a task's log after a sequence number, at most `limit`.
pub async fn list(tx: &mut impl Handle, id: TaskId, after: i64, limit: u32) -> Result<Vec<TaskLog>> {
    let rows = sqlx::query(
        "SELECT seq, at, line FROM task_logs WHERE task_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
    )
    .bind(id)
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(tx.conn())
    .await?;
    let line =
        |r: PgRow| Ok(TaskLog { seq: r.try_get("seq")?, at: r.try_get("at")?, line: r.try_get("line")? });
    rows.into_iter().map(line).collect()
}

/// Appends lines, each to its task, in order. Lines are cut at [`MAX_LINE_BYTES`]; of each task the
/// newest [`MAX_LINES`] stay. Lines for unknown tasks are dropped.
pub async fn append(tx: &mut SystemTx, lines: &[(TaskId, DateTime, String)]) -> Result<()> {
    order_writers(tx.conn(), lines.iter().map(|l| l.0)).await?;
    macro_rules! insert {
        ($table:literal) => {
            concat!(
                "INSERT INTO task_logs (task_id, seq, tenant_id, at, line)
                 SELECT t.id, coalesce((SELECT max(l.seq) FROM task_logs l WHERE l.task_id = t.id), 0)
                    + row_number() OVER (PARTITION BY t.id ORDER BY n.ord), t.tenant_id, n.at, n.line
                 FROM unnest($1::uuid[], $2::timestamptz[], $3::text[]) WITH ORDINALITY n(id, at, line, ord)
                 JOIN ",
                $table,
                " t ON t.id = n.id AND t.id = ANY($1) RETURNING task_id"
            )
        };
    }
    let mut rest: Vec<&(TaskId, DateTime, String)> = lines.iter().collect();
    // By the list of their ids, as `tasks::advance` finds them. What is not there any more has ended, and is found by the
    // second statement; it is seldom needed.
    for insert in [insert!("tasks"), insert!("tasks_finished")] {
        let written: Vec<Uuid> = sqlx::query_scalar(insert)
            .bind(rest.iter().map(|l| l.0.0).collect::<Vec<Uuid>>())
            .bind(rest.iter().map(|l| l.1).collect::<Vec<DateTime>>())
            .bind(rest.iter().map(|l| cut(&l.2, MAX_LINE_BYTES)).collect::<Vec<String>>())
            .fetch_all(tx.conn())
            .await?;
        let written: BTreeSet<Uuid> = written.into_iter().collect();
        rest.retain(|l| !written.contains(&l.0.0));
        if rest.is_empty() {
            break;
        }
    }
    sqlx::query(
        "DELETE FROM task_logs l USING (SELECT task_id, max(seq) AS newest FROM task_logs WHERE task_id = ANY($1)
            GROUP BY task_id) n WHERE l.task_id = n.task_id AND l.seq <= n.newest - $2",
    )
    .bind(lines.iter().map(|l| l.0.0).collect::<Vec<Uuid>>())
    .bind(MAX_LINES)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Orders writers of one log until their transactions end, so that numbers are neither skipped nor given twice. Not by the
/// tasks' own rows: those are moved by others, in an order of their own, and the two would wait for each other. Few locks,
/// each for many tasks, taken in one order.
async fn order_writers(conn: &mut PgConnection, tasks: impl Iterator<Item = TaskId>) -> Result<()> {
    let stripes: BTreeSet<i32> = tasks.map(|id| i32::from(id.0.as_bytes()[15] % WRITER_LOCKS)).collect();
    sqlx::query("SELECT pg_advisory_xact_lock($1, stripe) FROM unnest($2::int[]) AS stripe")
        .bind(WRITER_LOCK_CLASS)
        .bind(stripes.into_iter().collect::<Vec<i32>>())
        .execute(conn)
        .await?;
    Ok(())
}

fn cut(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // PostgreSQL keeps no NUL in text.
    text[..end].replace('\0', "\u{fffd}")
}

/// Takes lines of a host into the logs of the tasks that they are about, with the host's name before each. Of what was
/// taken before, and of an older start of the agent, nothing is taken.
pub async fn take(
    tx: &mut SystemTx,
    host: HostId,
    boot: Uuid,
    lines: &[Line],
    now: DateTime,
) -> Result<Taken> {
    let taken_up_to = position(tx.conn(), host, boot).await?;
    let new: Vec<&Line> = match taken_up_to {
        Some(last) => lines.iter().filter(|l| l.sequence > last).collect(),
        None => Vec::new(),
    };
    let Some(last) = new.iter().map(|l| l.sequence).max() else { return Ok(Taken::default()) };
    sqlx::query("UPDATE host_logs SET sequence = $2 WHERE host_id = $1")
        .bind(host)
        .bind(last)
        .execute(tx.conn())
        .await?;
    let name: String =
        sqlx::query_scalar("SELECT name FROM hosts WHERE id = $1").bind(host).fetch_one(tx.conn()).await?;
    let said = Said::of(&new);
    let mine = said.of_host(tx.conn(), host).await?;
    let tasks = mine.tasks(tx.conn(), now).await?;
    let mut told = Vec::new();
    for (n, line) in new.iter().enumerate() {
        // A clock that is before does not write lines of the future.
        let at = line.at.min(now);
        let of_line = tasks.get(&n).into_iter().flatten();
        told.extend(of_line.map(|task| (*task, at, format!("{name}: {}", line.text))));
    }
    if !told.is_empty() {
        append(tx, &told).await?;
    }
    let refused = said.ids.len() - mine.ids.len();
    Ok(Taken {
        tasks: told.iter().map(|t| t.0).collect(),
        refused: u32::try_from(refused).unwrap_or(u32::MAX),
    })
}

/// The last line that was taken of this start; `None` when a newer start has written since.
async fn position(conn: &mut PgConnection, host: HostId, boot: Uuid) -> Result<Option<i64>> {
    let row = sqlx::query(
        "INSERT INTO host_logs AS l (host_id, agent_boot, sequence) VALUES ($1, $2, 0)
         ON CONFLICT (host_id) DO UPDATE SET agent_boot = greatest(l.agent_boot, $2),
            sequence = CASE WHEN l.agent_boot < $2 THEN 0 ELSE l.sequence END
         RETURNING agent_boot, sequence",
    )
    .bind(host)
    .bind(boot)
    .fetch_one(conn)
    .await?;
    let newest: Uuid = row.try_get("agent_boot")?;
    Ok((newest == boot).then_some(row.try_get("sequence")?))
}

/// Which lines are about which items.
#[derive(Default)]
struct Said {
    lines: Vec<i32>,
    kinds: Vec<String>,
    ids: Vec<Uuid>,
    /// The generation that was worked on; the highest there is where all of the item is to go.
    generations: Vec<i64>,
}

impl Said {
    fn of(lines: &[&Line]) -> Self {
        let mut said = Self::default();
        for (n, line) in (0..).zip(lines) {
            for (kind, id, generation) in &line.about {
                said.push(n, kind.clone(), *id, generation.0);
            }
        }
        said
    }

    fn push(&mut self, line: i32, kind: String, id: Uuid, generation: i64) {
        self.lines.push(line);
        self.kinds.push(kind);
        self.ids.push(id);
        self.generations.push(generation);
    }

    /// Only what stands in the host's manifest.
    async fn of_host(&self, conn: &mut PgConnection, host: HostId) -> Result<Self> {
        let rows = sqlx::query(
            "SELECT s.line, s.kind, s.id, s.generation, i.present
             FROM unnest($2::int[], $3::text[], $4::uuid[], $5::bigint[]) s(line, kind, id, generation)
             JOIN manifest_items i ON i.host_id = $1 AND i.kind = s.kind AND i.id = s.id",
        )
        .bind(host)
        .bind(&self.lines)
        .bind(&self.kinds)
        .bind(&self.ids)
        .bind(&self.generations)
        .fetch_all(conn)
        .await?;
        let mut mine = Self::default();
        for row in rows {
            // What is to go has a generation of its own, and no task waits for more.
            let present: bool = row.try_get("present")?;
            let generation = if present { row.try_get("generation")? } else { i64::MAX };
            mine.push(row.try_get("line")?, row.try_get("kind")?, row.try_get("id")?, generation);
        }
        Ok(mine)
    }

    /// The tasks that each line is for.
    async fn tasks(
        &self,
        conn: &mut PgConnection,
        now: DateTime,
    ) -> Result<BTreeMap<usize, BTreeSet<TaskId>>> {
        let live = "SELECT s.line, s.id AS item, t.id FROM unnest($1::int[], $2::uuid[], $3::bigint[]) s(line, id, generation)
            JOIN tasks t ON t.subject_id = s.id AND t.subject_id = ANY($2) AND t.state IN ('pending', 'executing')
                AND t.held IS NULL AND t.generation <= s.generation";
        let rows = self.bound(sqlx::query(live)).fetch_all(&mut *conn).await?;
        let mut tasks = BTreeMap::new();
        let mut found: BTreeSet<(i32, Uuid)> = BTreeSet::new();
        for row in &rows {
            found.insert((row.try_get("line")?, row.try_get("item")?));
        }
        keep(&mut tasks, &rows)?;
        let mut rest = Self::default();
        for n in 0..self.ids.len() {
            if !found.contains(&(self.lines[n], self.ids[n])) {
                rest.push(self.lines[n], String::new(), self.ids[n], self.generations[n]);
            }
        }
        if !rest.ids.is_empty() {
            let ended =
                "SELECT s.line, t.id FROM unnest($1::int[], $2::uuid[], $3::bigint[]) s(line, id, generation)
                CROSS JOIN LATERAL (SELECT f.id FROM tasks_finished f WHERE f.subject_id = s.id AND f.id > $4
                    AND f.finished_at > $5 AND f.generation <= s.generation ORDER BY f.id DESC LIMIT 1) t";
            let query = rest.bound(sqlx::query(ended));
            let query = query.bind(first_id(now - TimeDelta::hours(OLDEST_HOURS)));
            let query = query.bind(now - TimeDelta::minutes(LATE_MINUTES));
            keep(&mut tasks, &query.fetch_all(conn).await?)?;
        }
        Ok(tasks)
    }

    fn bound<'q>(&self, query: Query<'q>) -> Query<'q> {
        query.bind(self.lines.clone()).bind(self.ids.clone()).bind(self.generations.clone())
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn keep(tasks: &mut BTreeMap<usize, BTreeSet<TaskId>>, rows: &[PgRow]) -> Result<()> {
    for row in rows {
        let line: i32 = row.try_get("line")?;
        tasks.entry(usize::try_from(line).unwrap_or_default()).or_default().insert(row.try_get("id")?);
    }
    Ok(())
}

/// The first id of a moment: ids begin with the time at which they were given.
fn first_id(at: DateTime) -> Uuid {
    let millis = u128::try_from(at.timestamp_millis()).unwrap_or_default();
    Uuid::from_u128(millis << 80)
}
