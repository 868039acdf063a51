//! Projects: the wall of quota.

use crate::{
    App, Error,
    authentication::{Permit, find_project},
    body::{self, Json, NoBody},
    intent,
    pages::{self, Reading},
    query::{IfMatch, ListParams, NoParams, Query},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use basalt_model::{TenantId, quotas::QuotaSpec, roles::Scope};
use basalt_store::{Key, List, projects, tenants};
use basalt_wire::rest::{CreateProject, Page, Project, Update};

/// Lists the projects that the caller may read.
#[utoipa::path(get, path = "/v1/projects", tag = "projects", params(ListParams),
    responses((status = 200, body = Page<Project>), crate::openapi::Problems))]
pub async fn list_projects(
    State(app): State<App>,
    permit: Permit,
    Query(params): Query<ListParams>,
) -> Result<Answer<Page<Project>>, Error> {
    let range = pages::range(&params)?;
    let mut lists = Vec::new();
    for reading in pages::readings(&app, &permit).await? {
        lists.push(match reading {
            Reading::System(mut tx) => projects::list(&mut tx, None, &range).await?,
            Reading::Tenant(mut tx, tenant, None) => projects::list(&mut tx, Some(tenant), &range).await?,
            Reading::Tenant(mut tx, tenant, Some(project)) => {
                let found = projects::get(&mut tx, Some(tenant), &Key::Id(project.0)).await?;
                let wanted = range.selector.matches(&found.metadata.labels)
                    && range.after.is_none_or(|a| project.0 > a);
                List { items: Vec::from_iter(wanted.then_some(found)), next: None }
            }
        });
    }
    let list = pages::merged(lists, range.limit, |p: &projects::Project| p.metadata.id);
    Ok(Answer(pages::shown(list, view)))
}

/// Makes a project of a tenant.
#[utoipa::path(post, path = "/v1/projects", tag = "projects", request_body = CreateProject,
    responses((status = 201, body = Project), crate::openapi::Problems))]
pub async fn create_project(
    State(app): State<App>,
    permit: Permit,
    _: Query<NoParams>,
    Json { value, .. }: Json<CreateProject>,
) -> Result<(StatusCode, Answer<Project>), Error> {
    body::check(&[(&value.labels, "labels")])?;
    let change = permit.change(&app);
    let (name, tenant_id) = match &value.tenant {
        Some(text) => (text.as_str(), TenantId(crate::tenants::find(&app, text).await?.metadata.id)),
        None => {
            // The tenant `default` is made when it is first needed, and only by who may make tenants.
            permit.demand(&Scope::System, "tenant", "default")?;
            let mut tx = app.store.system().await?;
            let tenant = tenants::ensure_default(&mut tx, &change).await?;
            tx.commit().await?;
            ("default", TenantId(tenant.metadata.id))
        }
    };
    permit.demand(&Scope::Tenant { tenant_id }, "tenant", name)?;
    let mut tx = app.store.system().await?;
    let made = projects::insert(&mut tx, &change, tenant_id, &value.name, &value.labels, value.quota).await?;
    tx.commit().await?;
    app.projects.forget();
    Ok((StatusCode::CREATED, Answer(view(made))))
}

/// Shows a project with its quota.
#[utoipa::path(get, path = "/v1/projects/{project}", tag = "projects", params(("project" = String, Path, description = "Name or id")),
    responses((status = 200, body = Project), crate::openapi::Problems))]
pub async fn get_project(
    State(app): State<App>,
    permit: Permit,
    _: Query<NoParams>,
) -> Result<Response, Error> {
    let project = permit.project()?;
    let mut tx = app.store.tenant_read(project.tenant_id).await?;
    let found = projects::get(&mut tx, Some(project.tenant_id), &Key::Id(project.id.0)).await?;
    Ok(intent::shown(found.metadata.generation, view(found)))
}

/// Changes a project's labels and what it may take at most; for administrators of its tenant.
#[utoipa::path(put, path = "/v1/projects/{project}", tag = "projects", request_body = Update<QuotaSpec>,
    params(("project" = String, Path, description = "Name or id")),
    responses((status = 200, body = Project), crate::openapi::Problems))]
pub async fn update_project(
    State(app): State<App>,
    permit: Permit,
    Path(project): Path<String>,
    IfMatch(expected): IfMatch,
    _: Query<NoParams>,
    Json { value, .. }: Json<Update<QuotaSpec>>,
) -> Result<Response, Error> {
    let found = find_project(&app, &permit.principal.grants, &project).await?;
    permit.require(&Scope::Tenant { tenant_id: found.tenant_id })?;
    if let Some(labels) = &value.labels {
        body::check(&[(labels, "labels")])?;
    }
    let mut tx = app.store.system().await?;
    let changed = projects::update(
        &mut tx,
        &permit.change(&app),
        found.id,
        value.labels.as_ref(),
        Some(&value.spec),
        expected,
    )
    .await?;
    tx.commit().await?;
    Ok(intent::shown(changed.metadata.generation, view(changed)))
}

/// Deletes a project that holds nothing; for administrators of its tenant.
#[utoipa::path(delete, path = "/v1/projects/{project}", tag = "projects", params(("project" = String, Path, description = "Name or id")),
    responses((status = 204, description = "Deleted"), crate::openapi::Problems))]
pub async fn delete_project(
    State(app): State<App>,
    permit: Permit,
    Path(project): Path<String>,
    _: Query<NoParams>,
    _: NoBody,
) -> Result<StatusCode, Error> {
    let found = find_project(&app, &permit.principal.grants, &project).await?;
    permit.require(&Scope::Tenant { tenant_id: found.tenant_id })?;
    let mut tx = app.store.system().await?;
    projects::delete(&mut tx, &permit.change(&app), found.id).await?;
    tx.commit().await?;
    app.projects.forget();
    Ok(StatusCode::NO_CONTENT)
}

/// The project as it is shown.
pub fn view(project: projects::Project) -> Project {
    Project { metadata: project.metadata, quota: project.quota }
}
