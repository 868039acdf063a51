//! Tasks that wait for others: what they ask for is kept beside the truth until every one of those has completed.
//!
//! ```text
//! ask ── all completed already ──────────────────────────► done at once, an ordinary task
//!  └──► held (pending, generation 0) ── all completed ──► start: the same change, in the caller's name, same task
//!             └── one ended otherwise ──► failed          └── refused now ──► failed, with the refusal
//! ```
//! Nothing of a held change is in the truth: no name, no quota, no generation. So nothing can be done for it too early,
//! and nothing need be turned back when it never starts.

use crate::{
    Accepted, Change, Error, Ids, Key, New, Result, SystemTx, TenantTx, Update,
    row::{self, uuids},
    tasks::{self, Found, columns, read},
    vm_changes::{PowerVerb, delete, operate, redeploy, set_power, update},
    vm_insert::insert_as,
    vms::Vm,
};
use basalt_model::{
    CapabilityReason, FieldError, Generation, Labels, Metadata, Name, ProjectId, TaskId,
    tasks::{MAX_DEPENDENCIES, Subject, Task, TaskKind, TaskState},
    vms::{OperationVerb, VmSpec},
};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A change of a VM that somebody asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Declare it.
    Create {
        /// Its name.
        name: Name,
        /// What people attach.
        labels: Labels,
        /// What is wanted.
        spec: Box<VmSpec>,
    },
    /// Replace its spec.
    Update {
        /// Replaces the labels; left out, they stay.
        labels: Option<Labels>,
        /// What is wanted.
        spec: Box<VmSpec>,
    },
    /// Change its desired power.
    Power(PowerVerb),
    /// A one-shot verb.
    Operate(OperationVerb),
    /// Make it anew.
    Redeploy,
    /// Delete it.
    Delete,
}

impl Ask {
    fn kind(&self) -> TaskKind {
        match self {
            Self::Create { .. } => TaskKind::VmCreate,
            Self::Update { .. } => TaskKind::VmUpdate,
            Self::Power(verb) => verb.kind().0,
            Self::Operate(OperationVerb::Reboot) => TaskKind::VmReboot,
            Self::Operate(OperationVerb::Reset) => TaskKind::VmReset,
            Self::Redeploy => TaskKind::VmRedeploy,
            Self::Delete => TaskKind::VmDelete,
        }
    }
}

/// What is kept of a held change.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    ask: Ask,
    expected: Option<Generation>,
}

/// Asks for a change of a VM (`key`; none for a create) once all of `depends_on` have completed: at once if they have.
pub async fn ask_vm(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: Option<&Key>,
    expected: Option<Generation>,
    ask: Ask,
    depends_on: &[TaskId],
) -> Result<Accepted<Vm>> {
    let waits = outstanding(tx, depends_on).await?;
    if waits.is_empty() {
        return carry_out(tx, change, project, key, expected, &ask, None).await;
    }
    let vm = match (key, &ask) {
        (None, Ask::Create { name, labels, spec }) => undeclared(tx, change, project, name, labels, spec),
        (Some(key), _) => crate::vms::get(tx, project, key).await?.vm,
        (None, _) => return Err(Key::from(project).missing("vm")),
    };
    if vm.metadata.deletion_requested_at.is_some() {
        return Err(Error::Deleting { kind: "vm", name: vm.metadata.name.to_string() });
    }
    if key.is_some() {
        crate::change::expect(expected, vm.metadata.generation)?;
    }
    let task = hold(tx, change, project, vm.subject(), Held { ask, expected }, &waits, None).await?;
    Ok(Accepted { object: vm, task })
}

/// A VM as it would be declared: at generation 0, for it is not.
fn undeclared(
    tx: &TenantTx,
    change: &Change,
    project: ProjectId,
    name: &Name,
    labels: &Labels,
    spec: &VmSpec,
) -> Vm {
    let metadata = Metadata {
        id: (change.ids)(),
        tenant_id: Some(tx.tenant()),
        project_id: Some(project),
        name: name.clone(),
        labels: labels.clone(),
        generation: Generation::default(),
        created_at: change.now,
        updated_at: change.now,
        deletion_requested_at: None,
    };
    Vm { metadata, spec: spec.clone(), incarnation: 0, operation: None, nics: Vec::new(), disks: Vec::new() }
}

async fn hold(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    subject: Subject,
    held: Held,
    waits: &[Task],
    before: Option<&Task>,
) -> Result<Task> {
    let kind = held.ask.kind();
    let mut task = tasks::new(change, tx.tenant(), project, kind, subject, Generation::default());
    task.depends_on = waits.iter().map(|t| t.id).collect();
    task.stage = format!("waits for {}", named(waits));
    // It cannot be late before those are that it waits for. Started, it has a deadline of its own.
    let last = waits.iter().map(|t| t.deadline).max().unwrap_or(change.now);
    task.deadline = last.max(change.now) + TimeDelta::seconds(kind.deadline_seconds());
    task.attempt = before.map_or(1, |b| b.attempt.saturating_add(1));
    task.retry_of = before.map(|b| b.id);
    tasks::record(tx.conn(), change, "task.hold", &task, None).await?;
    sqlx::query("UPDATE tasks SET held = $2 WHERE id = $1")
        .bind(task.id)
        .bind(Json(&held))
        .execute(tx.conn())
        .await?;
    Ok(task)
}

fn named(waits: &[Task]) -> String {
    let name = |t: &Task| format!("{} {} (task {})", t.subject.kind, t.subject.name, t.id);
    match waits {
        [one] => name(one),
        [first, rest @ ..] => format!("{} and {} more", name(first), rest.len()),
        [] => String::new(),
    }
}

fn wrong(code: &str, reason: String, remedy: &str) -> Error {
    Error::Parameter(FieldError::new("depends_on", code, reason, remedy))
}

/// Of the named tasks those that have not ended; they cannot end before this transaction does, so that their ends are
/// news to whoever waits. One that completed is no longer waited for; one that ended otherwise can never be.
async fn outstanding(tx: &mut TenantTx, depends_on: &[TaskId]) -> Result<Vec<Task>> {
    if depends_on.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids = depends_on.to_vec();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > MAX_DEPENDENCIES {
        return Err(wrong(
            "too_many",
            format!("{} tasks are named, at most {MAX_DEPENDENCIES} are allowed", ids.len()),
            "let some of the tasks depend on the others, and name the last ones",
        ));
    }
    // Locked in one order, against others that name the same.
    let live: Vec<Found> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM tasks t WHERE t.id = ANY($1) ORDER BY t.id FOR SHARE"
    ))
    .bind(uuids(&ids))
    .fetch_all(tx.conn())
    .await?;
    let live: Vec<Task> = live.into_iter().map(|f| f.0).collect();
    for id in ids.iter().filter(|id| live.iter().all(|t| t.id != **id)) {
        let found = tasks::find(tx.conn(), *id).await?;
        let unknown = || {
            let remedy = "give ids of tasks of this tenant: GET /v1/tasks lists them";
            wrong("not_found", format!("there is no task {id} here"), remedy)
        };
        let ended = found.ok_or_else(unknown)?;
        if ended.state != TaskState::Completed {
            return Err(wrong(
                "dependency_ended",
                format!("the task {id} is {} already, so it will never complete", ended.state.as_str()),
                "retry that task and name the new attempt, or leave it out",
            ));
        }
    }
    Ok(live)
}

/// Lets a task that has not started wait for other tasks than before. Refused when one of them waits for it.
pub async fn replace(tx: &mut TenantTx, change: &Change, id: TaskId, depends_on: &[TaskId]) -> Result<Task> {
    // Two changes at once could close a circle that neither sees.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('task_dependencies' || $1, 0))")
        .bind(tx.tenant().0.to_string())
        .execute(tx.conn())
        .await?;
    let row = sqlx::query(concat!("SELECT ", columns!(), " FROM tasks t WHERE t.id = $1 FOR NO KEY UPDATE"))
        .bind(id)
        .fetch_optional(tx.conn())
        .await?;
    let task = match row {
        Some(row) => read(&row)?,
        None => tasks::find(tx.conn(), id).await?.ok_or_else(|| tasks::missing(id))?,
    };
    if !task.is_held() {
        return Err(Error::Refused(Box::new(CapabilityReason::new(
            "task_started",
            format!("task/{id}"),
            format!("the task is {} and waits for no other", task.state.as_str()),
            "name what a change waits for when you ask for it",
        ))));
    }
    if let Some(through) = circle(tx, id, depends_on).await? {
        return Err(wrong(
            "dependency_cycle",
            format!("the task {through} waits for {id}, so neither would ever start"),
            "leave that task out, or cancel one of the two",
        ));
    }
    let waits = outstanding(tx, depends_on).await?;
    // With nothing left to wait for it starts as any other whose turn has come.
    let stage = if waits.is_empty() { String::new() } else { format!("waits for {}", named(&waits)) };
    let last = waits.iter().map(|t| t.deadline).max().unwrap_or(change.now).max(change.now);
    let deadline = last + TimeDelta::seconds(task.kind.deadline_seconds());
    let row = sqlx::query(concat!(
        "UPDATE tasks t SET depends_on = $2, stage = $3, deadline = $4 WHERE t.id = $1 RETURNING ",
        columns!()
    ))
    .bind(id)
    .bind(waits.iter().map(|t| t.id.0).collect::<Vec<_>>())
    .bind(stage)
    .bind(deadline)
    .fetch_one(tx.conn())
    .await?;
    let subject = &task.subject.name;
    let entry = crate::audit_events::Entry::new(
        "task.depend",
        task.tenant_id,
        task.project_id,
        "task",
        id.0,
        subject,
    );
    crate::audit_events::write(tx.conn(), change, entry).await?;
    Ok(read(&row)?)
}

/// The one of `depends_on` from which waiting leads back to `id`. Only live tasks wait.
async fn circle(tx: &mut TenantTx, id: TaskId, depends_on: &[TaskId]) -> Result<Option<TaskId>> {
    Ok(sqlx::query_scalar(
        "WITH RECURSIVE way(start, at) AS (
            SELECT d, d FROM unnest($2::uuid[]) d
            UNION SELECT w.start, n FROM way w JOIN tasks t ON t.id = w.at CROSS JOIN unnest(t.depends_on) n)
         SELECT start FROM way WHERE at = $1 LIMIT 1",
    )
    .bind(id)
    .bind(uuids(depends_on))
    .fetch_optional(tx.conn())
    .await?)
}

/// What became of a start.
#[derive(Clone, Debug, PartialEq)]
pub enum Started {
    /// The change is in the truth, under the same task.
    Started,
    /// It was started, cancelled or ended before.
    NotHeld,
}

/// Starts a held task: carries out what it asked for, in the name of who asked, as the same task. Once: whoever comes
/// second finds it started. What the truth refuses now comes as an error; the caller rolls back, and [`refused`] says so.
pub async fn start(tx: &mut TenantTx, change: &Change, id: TaskId) -> Result<Started> {
    let conn = tx.step_out().await?;
    let row = sqlx::query(concat!(
        "DELETE FROM tasks t WHERE t.id = $1 AND t.state = 'pending' AND t.held IS NOT NULL AND t.generation = 0
         RETURNING t.held, ",
        columns!()
    ))
    .bind(id)
    .fetch_optional(conn)
    .await?;
    tx.back_to_tenant().await?;
    let Some(row) = row else { return Ok(Started::NotHeld) };
    let (task, held): (Task, Held) = (read(&row)?, row::json(&row, "held")?);
    let project = task.project_id.ok_or_else(|| tasks::missing(id))?;
    let key = (task.kind != TaskKind::VmCreate).then_some(Key::Id(task.subject.id));
    let change = Change { actor: task.actor.clone(), request_id: None, ..change.clone() };
    carry_out(tx, &change, project, key.as_ref(), held.expected, &held.ask, Some(&task)).await?;
    let restored = sqlx::query(
        "UPDATE tasks SET depends_on = $2, attempt = $3, retry_of = $4, created_at = $5 WHERE id = $1
         RETURNING 1",
    )
    .bind(id)
    .bind(uuids(&task.depends_on))
    .bind(task.attempt)
    .bind(task.retry_of)
    .bind(task.created_at)
    .fetch_optional(tx.conn())
    .await?;
    match restored {
        Some(_) => Ok(Started::Started),
        // What changes nothing is done at once, and is history already.
        None => match tasks::find(tx.conn(), id).await? {
            Some(_) => Ok(Started::Started),
            None => Err(Error::Database(sqlx::Error::RowNotFound)),
        },
    }
}

/// Why a held task fails when the truth refuses what it asks for.
pub fn refused(id: TaskId, error: &Error) -> CapabilityReason {
    CapabilityReason::new(
        "refused_at_start",
        format!("task/{id}"),
        format!("what it waited for completed, and then what it asks for was refused: {error}"),
        "mend what that names and retry the task",
    )
}

/// Ends a held task that was refused.
pub async fn fail(tx: &mut SystemTx, id: TaskId, error: &Error, now: basalt_model::DateTime) -> Result<()> {
    let reason = refused(id, error);
    let failed = basalt_model::tasks::TaskMove {
        id,
        state: TaskState::Failed,
        progress: 0,
        stage: reason.message.clone(),
        error: Some(reason),
    };
    tasks::advance(tx, &[failed], now).await?;
    Ok(())
}

/// Holds a task's change once more, or carries it out if nothing is left to wait for.
pub(crate) async fn again(
    tx: &mut TenantTx,
    change: &Change,
    before: &Task,
    depends_on: &[TaskId],
) -> Result<Task> {
    let held = sqlx::query("SELECT held FROM tasks_finished WHERE id = $1")
        .bind(before.id)
        .fetch_one(tx.conn())
        .await?;
    let held: Held = row::json(&held, "held")?;
    let project = before.project_id.ok_or_else(|| tasks::missing(before.id))?;
    let waits = outstanding(tx, depends_on).await?;
    if !waits.is_empty() {
        return hold(tx, change, project, before.subject.clone(), held, &waits, Some(before)).await;
    }
    let key = (before.kind != TaskKind::VmCreate).then_some(Key::Id(before.subject.id));
    Ok(carry_out(tx, change, project, key.as_ref(), held.expected, &held.ask, None).await?.task)
}

/// The change itself. `promised`: the task whose id was given out.
async fn carry_out(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: Option<&Key>,
    expected: Option<Generation>,
    ask: &Ask,
    promised: Option<&Task>,
) -> Result<Accepted<Vm>> {
    let key = match (key, ask) {
        (Some(key), _) => key.clone(),
        (None, Ask::Create { name, labels, spec }) => {
            let new = New { name: name.clone(), labels: labels.clone(), spec: (**spec).clone() };
            return insert_as(tx, change, project, &new, promised).await;
        }
        (None, _) => return Err(Key::from(project).missing("vm")),
    };
    // Each of these draws the id of its task first.
    let change = &match promised {
        Some(task) => Change { ids: beginning_with(task.id, &change.ids), ..change.clone() },
        None => change.clone(),
    };
    let accepted = match ask {
        Ask::Create { .. } => return Err(key.missing("vm")),
        Ask::Update { labels, spec } => {
            let wanted = Update { expected, labels: labels.clone(), spec: (**spec).clone() };
            update(tx, change, project, &key, &wanted).await?
        }
        Ask::Power(verb) => set_power(tx, change, project, &key, expected, *verb).await?,
        Ask::Operate(verb) => operate(tx, change, project, &key, expected, *verb).await?,
        Ask::Redeploy => redeploy(tx, change, project, &key, expected).await?,
        Ask::Delete => delete(tx, change, project, &key, expected).await?,
    };
    match promised {
        // Somebody asked for its deletion before; there is one task of that.
        Some(task) if accepted.task.id != task.id => {
            Err(Error::Deleting { kind: "vm", name: task.subject.name.clone() })
        }
        _ => Ok(accepted),
    }
}

fn beginning_with(first: TaskId, then: &Ids) -> Ids {
    let (given, then) = (AtomicBool::new(false), Arc::clone(then));
    Arc::new(move || if given.swap(true, Ordering::Relaxed) { then() } else { first.0 })
}
