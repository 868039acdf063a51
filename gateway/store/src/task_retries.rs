//! Another attempt: a new task for the intent of one that failed, timed out or was cancelled.
//!
//! A task that ended stays ended; the attempts are a chain, each naming the one before. Verbs that a host carries out
//! once are asked for again; whatever converges by itself is only waited for again, for its intent still stands.

use crate::{
    Change, Error, Key, Result, TenantTx,
    audit_events::{self, Entry},
    task_dependencies,
    tasks::{self, Found, columns},
    vm_changes::{PowerVerb, operate, set_power},
    work,
};
use basalt_model::{
    CapabilityReason, Generation, TaskId,
    images::{ImageObserved, ImageState},
    tasks::{Task, TaskKind, TaskState},
    vms::OperationVerb,
};
use sqlx::{Row as _, types::Json};

fn no(code: &'static str, task: &Task, message: String, remedy: impl Into<String>) -> Error {
    let subject = format!("{}/{}", task.subject.kind, task.subject.name);
    Error::Refused(Box::new(CapabilityReason::new(code, subject, message, remedy.into())))
}

/// Makes a new attempt of a task that ended without completing.
pub async fn retry(tx: &mut TenantTx, change: &Change, id: TaskId) -> Result<Task> {
    // Of two that retry one task at once, the second finds the first one's attempt.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('task_retry' || $1, 0))")
        .bind(id.to_string())
        .execute(tx.conn())
        .await?;
    let old = tasks::find(tx.conn(), id).await?.ok_or_else(|| tasks::missing(id))?;
    let state = old.state.as_str();
    if !old.state.is_terminal() {
        return Err(no(
            "task_live",
            &old,
            format!("the task is {state}"),
            "wait for its end, or cancel it first",
        ));
    }
    if old.state == TaskState::Completed {
        return Err(no(
            "task_completed",
            &old,
            "the task completed, there is nothing to repeat".into(),
            "ask anew",
        ));
    }
    if let Some(newer) = newer(tx, id).await? {
        let remedy = format!("retry task {}, which is the attempt after it", newer.id);
        return Err(no("task_retried", &old, format!("the task was retried as {}", newer.id), remedy));
    }
    let mut task = match old.kind {
        _ if old.generation == Generation::default() => {
            let depends_on = newest(tx, &old).await?;
            task_dependencies::again(tx, change, &old, &depends_on).await?
        }
        TaskKind::VmStart | TaskKind::VmStop | TaskKind::VmPause | TaskKind::VmResume => {
            let verb = match old.kind {
                TaskKind::VmStart => PowerVerb::Start,
                TaskKind::VmStop => PowerVerb::Stop,
                TaskKind::VmPause => PowerVerb::Pause,
                _ => PowerVerb::Resume,
            };
            let (project, key) = about(&old)?;
            set_power(tx, change, project, &key, None, verb).await?.task
        }
        TaskKind::VmReboot | TaskKind::VmReset => {
            let verb = one_shot(old.kind);
            let (project, key) = about(&old)?;
            operate(tx, change, project, &key, None, verb).await?.task
        }
        TaskKind::VmUpdate if old.state == TaskState::Cancelled => {
            let message = "its change was turned back when it was cancelled".into();
            return Err(no("turned_back", &old, message, "send the change again"));
        }
        TaskKind::VmMigrate => {
            let message = "a migration that ended is over, and another may choose another host".into();
            return Err(no("not_repeatable", &old, message, "ask for the migration anew"));
        }
        _ => wait_again(tx, change, &old).await?,
    };
    (task.attempt, task.retry_of) = (old.attempt.saturating_add(1), Some(old.id));
    sqlx::query("UPDATE tasks SET attempt = $2, retry_of = $3 WHERE id = $1")
        .bind(task.id)
        .bind(task.attempt)
        .bind(task.retry_of)
        .execute(tx.conn())
        .await?;
    let name = &old.subject.name;
    let entry = Entry::new("task.retry", old.tenant_id, old.project_id, "task", id.0, name);
    audit_events::write(tx.conn(), change, entry).await?;
    Ok(task)
}

fn one_shot(kind: TaskKind) -> OperationVerb {
    if kind == TaskKind::VmReboot { OperationVerb::Reboot } else { OperationVerb::Reset }
}

fn about(task: &Task) -> Result<(basalt_model::ProjectId, Key)> {
    Ok((task.project_id.ok_or_else(|| tasks::missing(task.id))?, Key::Id(task.subject.id)))
}

/// The attempt after one.
async fn newer(tx: &mut TenantTx, id: TaskId) -> Result<Option<Task>> {
    let found: Option<Found> = sqlx::query_as(tasks::all!(columns!(), " WHERE t.retry_of = $1"))
        .bind(id)
        .fetch_optional(tx.conn())
        .await?;
    Ok(found.map(|f| f.0))
}

/// What a task waited for, each by its newest attempt.
async fn newest(tx: &mut TenantTx, task: &Task) -> Result<Vec<TaskId>> {
    let mut all = Vec::new();
    for id in &task.depends_on {
        let mut last = *id;
        while let Some(next) = newer(tx, last).await? {
            last = next.id;
        }
        all.push(last);
    }
    Ok(all)
}

/// Waits once more for what is still wanted.
async fn wait_again(tx: &mut TenantTx, change: &Change, old: &Task) -> Result<Task> {
    let select = match old.subject.kind.as_str() {
        "vm" => {
            "SELECT generation, deletion_requested_at IS NOT NULL AS going FROM vms WHERE id = $1 FOR NO KEY UPDATE"
        }
        "volume" => {
            "SELECT generation, deletion_requested_at IS NOT NULL AS going FROM volumes WHERE id = $1 FOR NO KEY UPDATE"
        }
        "image" => {
            "SELECT generation, deletion_requested_at IS NOT NULL AS going FROM images WHERE id = $1 FOR NO KEY UPDATE"
        }
        "network" => {
            "SELECT generation, deletion_requested_at IS NOT NULL AS going FROM networks WHERE id = $1 FOR NO KEY UPDATE"
        }
        "router" => {
            "SELECT generation, deletion_requested_at IS NOT NULL AS going FROM routers WHERE id = $1 FOR NO KEY UPDATE"
        }
        other => {
            let message = format!("a task about a {other} cannot be repeated");
            return Err(no("not_repeatable", old, message, "ask for the change anew"));
        }
    };
    let row = sqlx::query(select).bind(old.subject.id).fetch_optional(tx.conn()).await?;
    let Some(row) = row else {
        return Err(no("subject_gone", old, "nothing of it is left".into(), "declare it anew"));
    };
    let going: bool = row.try_get("going")?;
    if going != old.kind.is_deletion() {
        let message = if going { "it is being deleted" } else { "it is not being deleted any more" };
        return Err(no("superseded", old, message.into(), "ask for what is wanted now"));
    }
    if matches!(old.kind, TaskKind::ImageUpload | TaskKind::ImageImport) {
        reopen(tx, old).await?;
    }
    let (tenant, (project, _)) = (tx.tenant(), about(old)?);
    let task = tasks::new(change, tenant, project, old.kind, old.subject.clone(), row.try_get("generation")?);
    tasks::record(tx.conn(), change, "task.attempt", &task, None).await?;
    if task.kind == TaskKind::ImageImport {
        work::offer(tx, &task, change.now).await?;
    }
    Ok(task)
}

/// An image whose bytes were refused takes others.
async fn reopen(tx: &mut TenantTx, task: &Task) -> Result<()> {
    let empty = ImageObserved::default();
    // What the image service reported is no tenant's to write.
    let conn = tx.step_out().await?;
    sqlx::query("UPDATE image_observed SET observed = $2 WHERE image_id = $1 AND observed ->> 'state' = $3")
        .bind(task.subject.id)
        .bind(Json(&empty))
        .bind(crate::row::word(&ImageState::Failed)?)
        .execute(conn)
        .await?;
    tx.back_to_tenant().await
}
