//! Effects: each handler takes due rows of its output collection and writes them back, in batches.
//!
//! An effect is compare-and-set. One that the store refuses as stale needs no handling: the news
//! that made it stale is on its way, and the row is recomputed from that.

pub mod conditions;
pub mod deployments;
pub mod drains;
pub mod finalise;
pub mod host_loss;
pub(crate) mod ids;
pub mod manifests;
pub mod migrations;
pub mod placement;
pub mod routers;
pub mod tasks;

use crate::{
    OnManifest,
    graph::{Move, Removal, migrations::Step},
};
use basalt_model::{
    DateTime, DeploymentId, DrainId, HostId, MigrationId, RouterId, TaskId, TenantId, VmId,
    attempts::Standing, tasks::TaskMove,
};
use basalt_plan::{drains::Next, manifest::Edit};
use basalt_store::{
    Store,
    conditions::Conditions,
    host_loss::{Evacuation, Proof},
};
use krt::Finish;
use uuid::Uuid;

/// Something to write: at most one transaction each.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Place VMs, or write down why they are nowhere.
    Place(Vec<placement::Decided>),
    /// Write down that hosts are dead.
    HostLoss(Vec<Proof>),
    /// Give VMs of dead hosts to others.
    Evacuations(Vec<(VmId, Evacuation)>),
    /// Take migrations one step on.
    Migrations(Vec<(MigrationId, Step)>),
    /// Take drains one step on.
    Drains(Vec<(DrainId, Next)>),
    /// Put routers on hosts.
    Routers(Vec<(RouterId, Move)>),
    /// Change rows of manifests.
    Manifests(Vec<(HostId, Vec<Edit>)>),
    /// Write conditions.
    Conditions(Vec<Conditions>),
    /// Move tasks.
    Tasks(Vec<TaskMove>),
    /// Start tasks that waited for others.
    Start(Vec<(TaskId, TenantId)>),
    /// Write down how deployments were judged.
    Judge(Vec<(DeploymentId, Standing)>),
    /// Remove the rows of what is gone.
    Finalise(Vec<Removal>),
}

impl Effect {
    /// A word for counters.
    pub fn name(&self) -> &'static str {
        match self {
            Effect::Place(_) => "place",
            Effect::HostLoss(_) => "host_loss",
            Effect::Evacuations(_) => "evacuations",
            Effect::Migrations(_) => "migrations",
            Effect::Drains(_) => "drains",
            Effect::Routers(_) => "routers",
            Effect::Manifests(_) => "manifests",
            Effect::Conditions(_) => "conditions",
            Effect::Tasks(_) => "tasks",
            Effect::Start(_) => "start",
            Effect::Judge(_) => "judge",
            Effect::Finalise(_) => "finalise",
        }
    }

    /// How many rows it is about.
    pub fn len(&self) -> usize {
        match self {
            Effect::Place(rows) => rows.len(),
            Effect::HostLoss(rows) => rows.len(),
            Effect::Evacuations(rows) => rows.len(),
            Effect::Migrations(rows) => rows.len(),
            Effect::Drains(rows) => rows.len(),
            Effect::Routers(rows) => rows.len(),
            Effect::Manifests(rows) => rows.len(),
            Effect::Conditions(rows) => rows.len(),
            Effect::Tasks(rows) => rows.len(),
            Effect::Start(rows) => rows.len(),
            Effect::Judge(rows) => rows.len(),
            Effect::Finalise(rows) => rows.len(),
        }
    }

    /// Whether it is about nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it comes to when its transaction failed, or when nobody knows whether it did: every row is tried again.
    pub fn failed(&self) -> Outcome {
        let again = Finish::Retry;
        match self {
            Effect::Place(rows) => {
                Outcome::Placed(rows.iter().map(|r| (r.vm_id(), placement::Ended::Failed)).collect())
            }
            Effect::HostLoss(_) => Outcome::HostLoss,
            Effect::Evacuations(rows) => Outcome::Evacuated(rows.iter().map(|r| (r.0, again)).collect()),
            Effect::Migrations(rows) => Outcome::Migrations(rows.iter().map(|r| (r.0, again)).collect()),
            Effect::Drains(rows) => Outcome::Drains(rows.iter().map(|r| (r.0, again)).collect()),
            Effect::Routers(rows) => Outcome::Routers(rows.iter().map(|r| (r.0, again)).collect()),
            Effect::Manifests(rows) => {
                Outcome::Manifests(rows.iter().map(|r| manifests::Written::failed(r.0)).collect())
            }
            Effect::Conditions(rows) => {
                Outcome::Conditions(rows.iter().map(|r| (r.subject_id, again)).collect())
            }
            Effect::Tasks(rows) => Outcome::Tasks(rows.iter().map(|r| (r.id, again)).collect()),
            Effect::Start(rows) => Outcome::Started(rows.iter().map(|r| (r.0, again)).collect()),
            Effect::Judge(rows) => Outcome::Judged(rows.iter().map(|r| (r.0, again)).collect()),
            Effect::Finalise(rows) => Outcome::Finalised(rows.iter().map(|r| (*r, again)).collect()),
        }
    }
}

/// What came of an effect, row by row.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Of [`Effect::Place`].
    Placed(Vec<(VmId, placement::Ended)>),
    /// Of [`Effect::HostLoss`].
    HostLoss,
    /// Of [`Effect::Evacuations`].
    Evacuated(Vec<(VmId, Finish)>),
    /// Of [`Effect::Migrations`].
    Migrations(Vec<(MigrationId, Finish)>),
    /// Of [`Effect::Drains`].
    Drains(Vec<(DrainId, Finish)>),
    /// Of [`Effect::Routers`].
    Routers(Vec<(RouterId, Finish)>),
    /// Of [`Effect::Manifests`].
    Manifests(Vec<manifests::Written>),
    /// Of [`Effect::Conditions`].
    Conditions(Vec<(Uuid, Finish)>),
    /// Of [`Effect::Tasks`].
    Tasks(Vec<(TaskId, Finish)>),
    /// Of [`Effect::Start`].
    Started(Vec<(TaskId, Finish)>),
    /// Of [`Effect::Judge`].
    Judged(Vec<(DeploymentId, Finish)>),
    /// Of [`Effect::Finalise`].
    Finalised(Vec<(Removal, Finish)>),
}

/// Carries out an effect in one transaction. A failure is told to the log here and comes back as "again".
pub async fn perform(
    store: &Store,
    effect: Effect,
    now: DateTime,
    on_manifest: Option<&OnManifest>,
) -> (Outcome, bool) {
    let done = match &effect {
        Effect::Place(rows) => placement::perform(store, rows, now).await.map(Outcome::Placed),
        Effect::Manifests(rows) => {
            manifests::perform(store, rows, now, on_manifest).await.map(Outcome::Manifests)
        }
        Effect::HostLoss(rows) => host_loss::declare(store, rows, now).await.map(|()| Outcome::HostLoss),
        Effect::Evacuations(rows) => host_loss::evacuate(store, rows, now).await.map(Outcome::Evacuated),
        Effect::Migrations(rows) => migrations::perform(store, rows, now).await.map(Outcome::Migrations),
        Effect::Drains(rows) => drains::perform(store, rows, now).await.map(Outcome::Drains),
        Effect::Routers(rows) => routers::perform(store, rows, now).await.map(Outcome::Routers),
        Effect::Conditions(rows) => conditions::perform(store, rows, now).await.map(Outcome::Conditions),
        Effect::Tasks(rows) => tasks::perform(store, rows, now).await.map(Outcome::Tasks),
        Effect::Start(rows) => tasks::start(store, rows, now).await.map(Outcome::Started),
        Effect::Judge(rows) => deployments::judge(store, rows).await.map(Outcome::Judged),
        Effect::Finalise(rows) => finalise::perform(store, rows, now).await.map(Outcome::Finalised),
    };
    match done {
        Ok(outcome) => (outcome, true),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(
                effect = effect.name(),
                rows = effect.len(),
                error,
                "an effect failed; it is tried again"
            );
            (effect.failed(), false)
        }
    }
}
