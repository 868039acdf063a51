//! What came of a deployment's attempts, and why it is where it is.

use crate::{
    App, Error,
    authentication::Permit,
    deployments::{KIND, managed, view},
    pages,
    query::{Named, NoParams, Query, limit, read_cursor},
};
use axum::{Json as Answer, extract::State};
use basalt_model::{
    Condition, ConditionStatus, DeploymentId, Generation, Name, ProjectId,
    artifacts::ArtifactKind,
    attempts::{Dependency, DeploymentPhase, ReconcileEvent},
    deployments::DesiredState,
};
use basalt_store::{
    Error as Refused, Key, TenantTx,
    artifacts::{self, ArtifactKey},
    attempts, deployments, providers, secrets,
};
use basalt_wire::rest::{DeploymentExplanation, ExplainedAttempt, ExplainedDependency, Page};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

/// Which events to read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventParams {
    /// Events on a page, 1 to 500; 100 when nothing is said.
    #[serde(default)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// Lists what came of a deployment's attempts, the newest first. By its id also when the deployment is gone.
#[utoipa::path(get, path = "/v1/projects/{project}/deployments/{deployment}/events", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Name or id"), EventParams),
    responses((status = 200, body = Page<ReconcileEvent>), crate::openapi::Problems))]
pub async fn list_deployment_events(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    Query(params): Query<EventParams>,
) -> Result<Answer<Page<ReconcileEvent>>, Error> {
    let project = permit.project()?;
    let key = Key::parse(KIND, &name)?;
    let after = params.cursor.as_deref().map(read_cursor).transpose()?;
    let page = basalt_store::Page { limit: limit(params.limit)?, after, ..Default::default() };
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = deployments::get(&mut tx, project.id, &key).await;
    let known = found.is_ok();
    let id = match (found, &key) {
        (Ok(found), _) => found.deployment.id(),
        // Events outlive what they are of.
        (Err(Refused::NotFound { .. }), Key::Id(id)) => DeploymentId(*id),
        (Err(e), _) => return Err(e.into()),
    };
    let list = attempts::events(&mut tx, project.id, id, &page).await?;
    if !known && list.items.is_empty() {
        let nothing = deployments::get(&mut tx, project.id, &key).await;
        managed(&mut tx, project.id, &key, nothing).await?;
    }
    Ok(Answer(pages::shown(list, |event| event)))
}

/// Says why a deployment is where it is: what is wrong, what was tried last and why, and what it was made from.
#[utoipa::path(get, path = "/v1/projects/{project}/deployments/{deployment}/explain", tag = "deployments",
    params(("project" = String, Path, description = "Name or id"), ("deployment" = String, Path, description = "Name or id")),
    responses((status = 200, body = DeploymentExplanation), crate::openapi::Problems))]
pub async fn explain_deployment(
    State(app): State<App>,
    permit: Permit,
    Named(name): Named,
    _: Query<NoParams>,
) -> Result<Answer<DeploymentExplanation>, Error> {
    let project = permit.project()?;
    let key = Key::parse(KIND, &name)?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = deployments::get(&mut tx, project.id, &key).await;
    let found = managed(&mut tx, project.id, &key, found).await?;
    let last = basalt_store::Page { limit: 1, ..Default::default() };
    let events = attempts::events(&mut tx, project.id, found.deployment.id(), &last).await?;
    let applied = found.status.as_ref().and_then(|s| s.applied.as_ref());
    let mut dependencies = Vec::new();
    for dependency in applied.map(|a| a.dependencies.as_slice()).unwrap_or_default() {
        let present = present(&mut tx, project.id, &dependency.what).await?;
        dependencies.push(beside(dependency, present));
    }
    let runs = found.deployment.spec.desired_state == DesiredState::Deployed
        && found.deployment.metadata.deletion_requested_at.is_none();
    let shown = view(found);
    Ok(Answer(DeploymentExplanation {
        phase: shown.phase.unwrap_or(DeploymentPhase::Pending),
        message: shown.message,
        generation: shown.generation,
        observed_generation: shown.observed_generation,
        wrong: shown.conditions.into_iter().filter(|c| is_wrong(c, runs)).collect(),
        last_attempt: events.items.into_iter().next().map(explained),
        dependencies,
        next_retry_at: shown.next_retry_at,
    }))
}

/// Whether a condition says that something is not as it should be. What is not to run need not be ready.
fn is_wrong(condition: &Condition, runs: bool) -> bool {
    match condition.kind.as_str() {
        "Accepted" | "DependenciesReady" | "ProviderReachable" => condition.status != ConditionStatus::True,
        "Ready" => runs && condition.status != ConditionStatus::True,
        "Degraded" | "Drifted" | "SourceOutOfSync" => condition.status == ConditionStatus::True,
        // Neither that something is under way nor that nobody looked yet is wrong by itself.
        _ => false,
    }
}

fn explained(event: ReconcileEvent) -> ExplainedAttempt {
    ExplainedAttempt {
        action: event.action,
        outcome: event.outcome,
        generation: event.generation,
        attempt: event.attempt,
        causes: event.causes.iter().map(ToString::to_string).collect(),
        error: event.error,
        completed_at: event.completed_at,
    }
}

fn beside(applied: &Dependency, present: Option<(Uuid, Generation)>) -> ExplainedDependency {
    ExplainedDependency {
        what: applied.what.clone(),
        applied: applied.generation,
        present: present.map(|(_, generation)| generation),
        replaced: present.is_some_and(|(id, _)| id != applied.id),
    }
}

/// What a dependency's name stands for now.
async fn present(
    tx: &mut TenantTx,
    project: ProjectId,
    what: &str,
) -> Result<Option<(Uuid, Generation)>, Error> {
    let Some((kind, name)) = what.split_once('/') else { return Ok(None) };
    let named = || Name::new(name).map(Key::Name).ok();
    let found = match (kind, named()) {
        ("agent" | "server", _) => {
            let kind = if kind == "agent" { ArtifactKind::Agent } else { ArtifactKind::Server };
            let key = ArtifactKey::parse(kind, name)?;
            artifacts::get(tx, project, kind, &key).await.map(|a| a.metadata)
        }
        ("secret", Some(key)) => secrets::get(tx, project, &key).await.map(|s| s.metadata),
        ("provider", Some(key)) => providers::get(tx, project, &key).await.map(|p| p.metadata),
        _ => return Ok(None),
    };
    match found {
        Ok(metadata) => Ok(Some((metadata.id, metadata.generation))),
        Err(Refused::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_model::DateTime;

    #[test]
    fn what_is_not_to_run_need_not_be_ready() {
        let condition = |kind: &str, status| Condition {
            kind: kind.into(),
            status,
            reason: "r".into(),
            message: "m".into(),
            since: DateTime::UNIX_EPOCH,
            observed_generation: Generation(1),
        };
        use ConditionStatus::{False, True, Unknown};
        for (kind, status, runs, wrong) in [
            ("Ready", False, true, true),
            ("Ready", False, false, false),
            ("Ready", True, true, false),
            ("ProviderReachable", Unknown, false, true),
            ("DependenciesReady", True, true, false),
            ("Drifted", True, true, true),
            ("Degraded", False, true, false),
            ("Progressing", True, true, false),
        ] {
            assert_eq!(is_wrong(&condition(kind, status), runs), wrong, "{kind} {status:?} {runs}");
        }
    }
}
