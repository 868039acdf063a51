//! The audit trail, read only: who changed what, and by which request.

use crate::{
    App, Error,
    authentication::{Permit, find_project},
    pages::{self, Reading, merged},
    query::{Query, limit, read_cursor},
};
use axum::{Json as Answer, extract::State};
use basalt_store::audit_events;
use basalt_wire::rest::{AuditEvent, Page};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

/// Which events to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParams {
    /// Objects on a page, 1 to 500; 100 when nothing is said.
    #[serde(default)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Only those in this project: name or id.
    #[serde(default)]
    pub project: Option<String>,
    /// Only those about this object.
    #[serde(default)]
    pub subject_id: Option<Uuid>,
    /// Only those by this user or token.
    #[serde(default)]
    pub actor_id: Option<Uuid>,
    /// Only this action: `vm.create` …
    #[serde(default)]
    pub action: Option<String>,
}

/// Lists the audit trail that the caller may read, oldest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditParams),
    responses((status = 200, body = Page<AuditEvent>), crate::openapi::Problems))]
pub async fn list_audit_events(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<AuditParams>,
) -> Result<Answer<Page<AuditEvent>>, Error> {
    let after = params.cursor.as_deref().map(read_cursor).transpose()?;
    let range = basalt_store::Page { limit: limit(params.limit)?, after, ..Default::default() };
    let mut filter = audit_events::Filter {
        project: None,
        subject_id: params.subject_id,
        actor_id: params.actor_id,
        action: params.action,
    };
    let readings = match &params.project {
        Some(text) => {
            let project = find_project(&app, &permit.principal.grants, text).await?;
            vec![pages::reading(&app, project.scope()).await?]
        }
        None => pages::readings(&app, &permit).await?,
    };
    let mut lists = Vec::new();
    for reading in readings {
        lists.push(match reading {
            Reading::System(mut tx) => audit_events::list(&mut tx, &filter, &range).await?,
            Reading::Tenant(mut tx, _, project) => {
                filter.project = project;
                audit_events::list(&mut tx, &filter, &range).await?
            }
        });
    }
    let list = merged(lists, range.limit, |e: &audit_events::AuditEvent| e.id.0);
    Ok(Answer(pages::shown(list, view)))
}

fn view(e: audit_events::AuditEvent) -> AuditEvent {
    AuditEvent {
        id: e.id,
        at: e.at,
        actor: e.actor,
        action: e.action,
        subject_kind: e.subject_kind,
        subject_id: e.subject_id,
        subject_name: e.subject_name,
        request_id: e.request_id,
    }
}
