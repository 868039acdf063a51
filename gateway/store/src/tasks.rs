//! Tasks: recorded with the intent, moved as facts arrive, ended exactly once.
//!
//! Every move is one conditional UPDATE that names the states it may leave, so whichever of two racing
//! moves commits second finds a terminal state and does nothing.
//!
//! ```text
//! tasks (live) ──trigger, in the transaction that ends it──► tasks_finished, a partition for each day ──dropped
//! ```
//! A task that waits for others is in `task_dependencies.rs`, another attempt in `task_retries.rs`, logs in `task_logs.rs`.

use crate::{
    Change, Error, Handle, List, Page, Result, SystemTx, TenantTx,
    audit_events::{self, Entry},
    images, migrations,
    row::{self, uuids},
};
use basalt_model::{
    CapabilityReason, DateTime, Generation, Metadata, ProjectId, TaskId, TenantId,
    tasks::{Subject, Task, TaskKind, TaskMove, TaskState},
};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::BTreeMap;
use uuid::Uuid;

pub use crate::task_retries::retry;

macro_rules! columns {
    () => {
        "t.id, t.tenant_id, t.project_id, t.kind, t.subject_kind, t.subject_id, t.subject_name, t.generation, t.state,
         t.progress, t.stage, t.error, t.depends_on, t.deadline, t.attempt, t.actor, t.created_at, t.started_at,
         t.finished_at, t.retry_of"
    };
}
pub(crate) use columns;

/// Live tasks and finished ones, each found by its own index.
macro_rules! all {
    ($columns:expr, $where:expr) => {
        concat!(
            "(SELECT ",
            $columns,
            " FROM tasks t",
            $where,
            ") UNION ALL (SELECT ",
            $columns,
            " FROM tasks_finished t",
            $where,
            ")"
        )
    };
}
pub(crate) use all;

/// The live tasks, and how those ended that live ones wait for.
pub(crate) const LIVE_AND_AWAITED: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM tasks t UNION ALL SELECT ",
    columns!(),
    " FROM tasks_finished t WHERE t.id IN (SELECT unnest(w.depends_on) FROM tasks w WHERE w.held IS NOT NULL)"
);

/// Reads the columns of `columns!`.
pub(crate) fn read(row: &PgRow) -> sqlx::Result<Task> {
    Ok(Task {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        project_id: row.try_get("project_id")?,
        kind: row::from_word(row, "kind")?,
        subject: Subject {
            kind: row.try_get("subject_kind")?,
            id: row.try_get("subject_id")?,
            name: row.try_get("subject_name")?,
        },
        generation: row.try_get("generation")?,
        state: row::from_word(row, "state")?,
        progress: row.try_get("progress")?,
        stage: row.try_get("stage")?,
        error: row::json_option(row, "error")?,
        depends_on: row.try_get::<Vec<Uuid>, _>("depends_on")?.into_iter().map(TaskId).collect(),
        deadline: row.try_get("deadline")?,
        attempt: row.try_get("attempt")?,
        actor: row::json(row, "actor")?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
        retry_of: row.try_get("retry_of")?,
    })
}

pub(crate) struct Found(pub(crate) Task);

impl FromRow<'_, PgRow> for Found {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        read(row).map(Found)
    }
}

/// A new task for a change of an object.
pub(crate) fn new(
    change: &Change,
    tenant: TenantId,
    project: ProjectId,
    kind: TaskKind,
    subject: Subject,
    generation: Generation,
) -> Task {
    Task {
        tenant_id: Some(tenant),
        project_id: Some(project),
        ..of_system(change, kind, subject, generation)
    }
}

/// A new task for a change of what belongs to no tenant.
pub(crate) fn of_system(change: &Change, kind: TaskKind, subject: Subject, generation: Generation) -> Task {
    Task {
        id: change.id(),
        tenant_id: None,
        project_id: None,
        kind,
        subject,
        generation,
        state: TaskState::Pending,
        progress: 0,
        stage: String::new(),
        error: None,
        depends_on: Vec::new(),
        deadline: change.now + chrono::TimeDelta::seconds(kind.deadline_seconds()),
        attempt: 1,
        retry_of: None,
        actor: change.actor.clone(),
        created_at: change.now,
        started_at: None,
        finished_at: None,
    }
}

/// Marks a new task as done at once: what it asks for is so when its transaction commits.
pub(crate) fn completed(mut task: Task) -> Task {
    task.state = TaskState::Completed;
    task.progress = 100;
    task.started_at = Some(task.created_at);
    task.finished_at = Some(task.created_at);
    task
}

/// Records a task and the audit row of the change that made it. One that is done at once is history at once.
pub(crate) async fn record(
    conn: &mut PgConnection,
    change: &Change,
    action: &'static str,
    task: &Task,
    undo: Option<serde_json::Value>,
) -> Result<()> {
    sqlx::query(
        "WITH audit AS (
            INSERT INTO audit_events (id, at, tenant_id, project_id, actor_kind, actor_id, actor_name, action,
                subject_kind, subject_id, subject_name, request_id)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12))
         INSERT INTO tasks (id, tenant_id, project_id, kind, subject_kind, subject_id, subject_name, generation, state,
            progress, stage, error, depends_on, deadline, attempt, actor, undo, created_at, retry_of)
         VALUES ($13, $3, $4, $14, $9, $10, $11, $15, 'pending', 0, $16, NULL, $17, $18, $19, $20, $21, $2, $22)",
    )
    .bind((change.ids)())
    .bind(change.now)
    .bind(task.tenant_id)
    .bind(task.project_id)
    .bind(&change.actor.kind)
    .bind(change.actor.id)
    .bind(&change.actor.name)
    .bind(action)
    .bind(&task.subject.kind)
    .bind(task.subject.id)
    .bind(&task.subject.name)
    .bind(&change.request_id)
    .bind(task.id)
    .bind(row::word(&task.kind)?)
    .bind(task.generation)
    .bind(&task.stage)
    .bind(uuids(&task.depends_on))
    .bind(task.deadline)
    .bind(task.attempt)
    .bind(Json(&task.actor))
    .bind(undo.map(Json))
    .bind(task.retry_of)
    .execute(&mut *conn)
    .await?;
    if task.state.is_terminal() {
        sqlx::query(
            "UPDATE tasks SET state = $2, progress = $3, started_at = $4, finished_at = $4 WHERE id = $1",
        )
        .bind(task.id)
        .bind(task.state.as_str())
        .bind(task.progress)
        .bind(task.finished_at)
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// A task by id.
pub async fn get(tx: &mut impl Handle, id: TaskId) -> Result<Task> {
    find(tx.conn(), id).await?.ok_or_else(|| missing(id))
}

pub(crate) fn missing(id: TaskId) -> crate::Error {
    crate::Error::NotFound { kind: "task", name: id.to_string() }
}

/// A task, live or finished.
pub(crate) async fn find(conn: &mut PgConnection, id: TaskId) -> Result<Option<Task>> {
    let task: Option<Found> =
        sqlx::query_as(all!(columns!(), " WHERE t.id = $1")).bind(id).fetch_optional(conn).await?;
    Ok(task.map(|t| t.0))
}

/// The newest live task of a kind for an object.
pub(crate) async fn live(conn: &mut PgConnection, subject: Uuid, kind: TaskKind) -> Result<Option<Task>> {
    let task: Option<Found> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM tasks t WHERE t.subject_id = $1 AND t.kind = $2 AND t.finished_at IS NULL AND t.held IS NULL
         ORDER BY t.id DESC LIMIT 1"
    ))
    .bind(subject)
    .bind(row::word(&kind)?)
    .fetch_optional(conn)
    .await?;
    Ok(task.map(|t| t.0))
}

/// The task of a deletion that was asked for before; `None` when nobody asked.
pub(crate) async fn deletion(
    conn: &mut PgConnection,
    kind: &'static str,
    subject: &Metadata,
    task: TaskKind,
) -> Result<Option<Task>> {
    if subject.deletion_requested_at.is_none() {
        return Ok(None);
    }
    let going = || Error::Deleting { kind, name: subject.name.to_string() };
    live(conn, subject.id, task).await?.ok_or_else(going).map(Some)
}

/// Which tasks to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this project.
    pub project: Option<ProjectId>,
    /// Only in this state.
    pub state: Option<TaskState>,
    /// Only of this kind.
    pub kind: Option<TaskKind>,
    /// Only about this object.
    pub subject: Option<Uuid>,
}

/// Tasks, live and finished, oldest first. The page's selector is not used: tasks have no labels.
pub async fn list(tx: &mut impl Handle, filter: &Filter, page: &Page) -> Result<List<Task>> {
    macro_rules! one {
        ($table:literal, $narrowed:literal) => {
            concat!(
                "(SELECT ",
                columns!(),
                " FROM ",
                $table,
                " t WHERE t.id > $1 AND ($3::uuid IS NULL OR t.project_id = $3)
                    AND ($4::text IS NULL OR t.state = $4) AND ($5::text IS NULL OR t.kind = $5)
                    AND ($6::uuid IS NULL OR t.subject_id = $6)",
                $narrowed,
                " ORDER BY t.id LIMIT $2)"
            )
        };
    }
    macro_rules! select {
        ($narrowed:literal) => {
            concat!(
                one!("tasks", $narrowed),
                " UNION ALL ",
                one!("tasks_finished", $narrowed),
                " ORDER BY id LIMIT $2"
            )
        };
    }
    // A condition that may not be there is nothing an index could be used for.
    let select = match (filter.subject, filter.project) {
        (Some(_), _) => select!(" AND t.subject_id = $6"),
        (None, Some(_)) => select!(" AND t.project_id = $3"),
        (None, None) => select!(""),
    };
    let tasks: Vec<Found> = sqlx::query_as(select)
        .bind(page.after())
        .bind(page.fetch())
        .bind(filter.project)
        .bind(filter.state.map(TaskState::as_str))
        .bind(filter.kind.as_ref().map(row::word).transpose()?)
        .bind(filter.subject)
        .fetch_all(tx.conn())
        .await?;
    Ok(page.cut(tasks.into_iter().map(|t| t.0).collect(), |t| t.id.0))
}

/// Carries out moves in one statement and returns the tasks that moved. Ended tasks never move, no task
/// returns to pending, and a move that changes nothing writes nothing.
///
/// Live by their state: that they are not finished would make the index of all deadlines look as good as the key. By the
/// list of their ids, and each looks its move up: tables that are joined may be joined in any order, and while this one was
/// small or is full of dead versions the planner takes orders that compare each move with each task.
pub async fn advance(tx: &mut SystemTx, moves: &[TaskMove], now: DateTime) -> Result<Vec<TaskId>> {
    // Of two moves of one task in a batch the later one counts.
    let mut moves: BTreeMap<Uuid, Moved> = moves.iter().map(|m| (m.id.0, Moved::of(m))).collect();
    moves.retain(|_, to| to.state != TaskState::Pending.as_str());
    // Planned for the table as it is now: a plan that is kept was made when it was empty, and reads all of it.
    sqlx::query("SET LOCAL plan_cache_mode = force_custom_plan").execute(tx.conn()).await?;
    let moved: Vec<TaskId> = sqlx::query_scalar(
        "UPDATE tasks t SET (state, progress, stage, error, started_at, finished_at) = (
            SELECT m.state, greatest(t.progress, least(greatest(m.progress, 0), 100)), m.stage, m.error,
                coalesce(t.started_at, $3), CASE WHEN m.state <> 'executing' THEN $3 END
            FROM jsonb_to_record($2 -> t.id::text) m(state text, progress int, stage text, error jsonb))
         WHERE t.id = ANY($1) AND t.state IN ('pending', 'executing') AND EXISTS (
            SELECT FROM jsonb_to_record($2 -> t.id::text) m(state text, progress int, stage text, error jsonb)
            WHERE m.progress > t.progress OR (t.state, t.stage, t.error) IS DISTINCT FROM (m.state, m.stage, m.error))
         RETURNING t.id",
    )
    .bind(moves.keys().copied().collect::<Vec<Uuid>>())
    .bind(Json(&moves))
    .bind(now)
    .fetch_all(tx.conn())
    .await?;
    Ok(moved)
}

/// What a task looks up of its move.
#[derive(Serialize)]
struct Moved<'a> {
    state: &'static str,
    progress: i32,
    stage: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a CapabilityReason>,
}

impl<'a> Moved<'a> {
    fn of(to: &'a TaskMove) -> Self {
        Self { state: to.state.as_str(), progress: to.progress, stage: &to.stage, error: to.error.as_ref() }
    }
}

/// Ends live tasks of an object: those of `kind` as completed, the others as cancelled.
pub(crate) async fn end_all(
    conn: &mut PgConnection,
    subject: Uuid,
    kind: TaskKind,
    now: DateTime,
) -> Result<()> {
    sqlx::query(
        "UPDATE tasks SET state = CASE WHEN kind = $2 THEN 'completed' ELSE 'cancelled' END,
            progress = CASE WHEN kind = $2 THEN 100 ELSE progress END, stage = '',
            started_at = coalesce(started_at, $3), finished_at = $3
         WHERE subject_id = $1 AND finished_at IS NULL",
    )
    .bind(subject)
    .bind(row::word(&kind)?)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends at most `limit` tasks whose deadline passed.
pub async fn sweep(tx: &mut SystemTx, now: DateTime, limit: u32) -> Result<Vec<Task>> {
    let tasks: Vec<Found> = sqlx::query_as(concat!(
        "WITH overdue AS (
            SELECT id FROM tasks WHERE finished_at IS NULL AND deadline < $1 ORDER BY deadline LIMIT $2
            FOR UPDATE SKIP LOCKED)
         UPDATE tasks t SET state = 'timed_out', finished_at = $1, started_at = coalesce(t.started_at, $1),
            error = jsonb_build_object('code', 'deadline_passed', 'subject', t.subject_kind || '/' || t.subject_name,
                'message', 'it was not done before its deadline',
                'evidence', CASE WHEN t.stage = '' THEN t.state ELSE t.stage END,
                'remedy', 'look at the conditions of ' || t.subject_kind || ' ' || t.subject_name || ' and ask again')
         FROM overdue WHERE t.id = overdue.id AND t.finished_at IS NULL
         RETURNING ",
        columns!()
    ))
    .bind(now)
    .bind(i64::from(limit))
    .fetch_all(tx.conn())
    .await?;
    Ok(tasks.into_iter().map(|t| t.0).collect())
}

/// Days for which partitions are made ahead.
pub const DAYS_AHEAD: i32 = 3;

/// Makes the partitions of the coming days and drops those of the days that are kept no longer, logs included. Gives how
/// many it made and dropped. [`crate::Error::Conflict`]: somebody reads them right now, and nothing was done.
pub async fn keep_partitions(tx: &mut SystemTx, now: DateTime, keep_days: u32) -> Result<i32> {
    let today = now.date_naive();
    let from = today.checked_sub_days(chrono::Days::new(keep_days.into())).unwrap_or(chrono::NaiveDate::MIN);
    Ok(sqlx::query_scalar("SELECT keep_task_partitions($1, $2, $3)")
        .bind(today)
        .bind(DAYS_AHEAD)
        .bind(from)
        .fetch_one(tx.conn())
        .await?)
}

/// Takes a task back, and its intent with it where nothing newer changed the object: a create deletes the
/// VM, or the image whose bytes are not there, a one-shot verb is cleared, a power verb or a changed spec returns to the one before. Of a task that waits for
/// others nothing was in the truth. What cannot be turned back (a deletion, a redeploy) is not cancelled: it goes on.
pub async fn cancel(tx: &mut TenantTx, change: &Change, id: TaskId) -> Result<Task> {
    let conn = tx.conn();
    if migrations::request_cancel(conn, id, change.now).await? {
        // What is under way on two hosts ends when both say so, and the task with it.
        let task = find(conn, id).await?.ok_or_else(|| missing(id))?;
        let entry =
            Entry::new("task.cancel", task.tenant_id, task.project_id, "task", id.0, &task.subject.name);
        audit_events::write(conn, change, entry).await?;
        return Ok(task);
    }
    let row = sqlx::query(concat!(
        "UPDATE tasks t SET state = 'cancelled', finished_at = $2, started_at = coalesce(t.started_at, $2)
         WHERE t.id = $1 AND t.finished_at IS NULL RETURNING t.undo, ",
        columns!()
    ))
    .bind(id)
    .bind(change.now)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else {
        let task = find(conn, id).await?.ok_or_else(|| missing(id))?;
        return Err(crate::Error::TaskEnded { state: task.state });
    };
    let (task, undo) = (read(&row)?, row::json_option(&row, "undo")?);
    let was_held = task.generation == Generation::default();
    if !was_held && (task.kind.is_deletion() || task.kind == TaskKind::VmRedeploy) {
        // The caller rolls back.
        return Err(crate::Error::Refused(Box::new(CapabilityReason::new(
            "not_cancellable",
            format!("{}/{}", task.subject.kind, task.subject.name),
            "what was destroyed cannot be brought back, so it goes on to its end",
            "wait for it; a deleted object can be declared anew",
        ))));
    }
    let entry = Entry::new("task.cancel", task.tenant_id, task.project_id, "task", id.0, &task.subject.name);
    audit_events::write(conn, change, entry).await?;
    if !was_held {
        match task.kind {
            TaskKind::ImageUpload | TaskKind::ImageImport => images::turn_back(tx, change, &task).await?,
            _ => crate::vm_changes::turn_back(tx, change, &task, undo).await?,
        }
    }
    Ok(task)
}
