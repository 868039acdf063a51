//! Pages: one way to list, for rows of one project and for rows of everything a caller may see.

use crate::{
    App, Error,
    authentication::Permit,
    query::{ListParams, cursor},
    rows::Written,
};
use axum::{
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use basalt_model::{ProjectId, TenantId, roles::Scope};
use basalt_store::{List, Page as Range, SystemTx, TenantTx};
use basalt_wire::rest::Page;
use uuid::Uuid;

/// The store's range for a list's parameters.
pub fn range(params: &ListParams) -> Result<Range, Error> {
    let (after, limit) = params.range()?;
    Ok(Range { limit, after, selector: params.label_selector.clone() })
}

/// The range that begins at one id: how a list answers for a single row.
pub fn just(id: Uuid) -> Range {
    Range { limit: 1, after: Some(Uuid::from_u128(id.as_u128().saturating_sub(1))), ..Default::default() }
}

/// A page of the store as it is shown.
pub fn shown<T, U>(list: List<T>, view: impl FnMut(T) -> U) -> Page<U> {
    Page { items: list.items.into_iter().map(view).collect(), next_cursor: list.next.map(cursor) }
}

/// A page of objects that are written out already.
pub fn written(texts: &[Written], next: Option<Uuid>) -> Response {
    let texts = || texts.iter().filter_map(|t| t.get());
    let mut page = String::with_capacity(64 + texts().map(|t| t.len() + 1).sum::<usize>());
    page.push_str("{\"items\":[");
    for (i, text) in texts().enumerate() {
        if i > 0 {
            page.push(',');
        }
        page.push_str(text);
    }
    page.push(']');
    if let Some(next) = next {
        // A cursor is base64url: nothing in it needs quoting.
        page.push_str(",\"next_cursor\":\"");
        page.push_str(&cursor(next));
        page.push('"');
    }
    page.push('}');
    json(page)
}

/// An object that is written out already.
pub fn json(text: String) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// A transaction that sees one scope.
pub enum Reading {
    /// The whole system.
    System(SystemTx),
    /// One tenant, or one of its projects.
    Tenant(TenantTx, TenantId, Option<ProjectId>),
}

/// A transaction for every scope that the caller may read.
pub async fn readings(app: &App, permit: &Permit) -> Result<Vec<Reading>, Error> {
    let mut readings = Vec::new();
    for scope in permit.scopes() {
        readings.push(reading(app, scope).await?);
    }
    Ok(readings)
}

/// A transaction that sees one scope.
pub async fn reading(app: &App, scope: Scope) -> Result<Reading, Error> {
    Ok(match scope {
        Scope::System => Reading::System(app.store.system_read().await?),
        Scope::Tenant { tenant_id } => {
            Reading::Tenant(app.store.tenant_read(tenant_id).await?, tenant_id, None)
        }
        Scope::Project { tenant_id, project_id } => {
            Reading::Tenant(app.store.tenant_read(tenant_id).await?, tenant_id, Some(project_id))
        }
    })
}

/// One page out of the pages of several scopes: ascending by id, each object once.
pub fn merged<T>(lists: Vec<List<T>>, limit: u32, id: impl Fn(&T) -> Uuid) -> List<T> {
    let limit = limit as usize;
    let mut more = lists.iter().any(|l| l.next.is_some());
    let mut items: Vec<T> = lists.into_iter().flat_map(|l| l.items).collect();
    items.sort_by_key(&id);
    items.dedup_by_key(|t| id(t));
    more |= items.len() > limit;
    items.truncate(limit);
    let next = items.last().map(&id).filter(|_| more);
    List { items, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_several_scopes_are_one_page() {
        let id = |n: &u128| Uuid::from_u128(*n);
        let lists =
            vec![List { items: vec![1, 4, 6], next: Some(id(&6)) }, List { items: vec![2, 4], next: None }];
        let page = merged(lists, 3, id);
        assert_eq!((page.items, page.next), (vec![1, 2, 4], Some(id(&4))));
        let last = merged(vec![List { items: vec![7], next: None }], 3, id);
        assert_eq!((last.items, last.next), (vec![7], None));
    }
}
