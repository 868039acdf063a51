//! A VM's id and the generation it is at: enough for a reader who keeps what it read of it before.
//!
//! One round trip, under the same row level security as a transaction of the tenant, and one for all who ask in the
//! same moment ([`crate::gather`]). `None` says no more than that a transaction must be asked.

use crate::{Error, Key, List, Page, Result, Store, gather::Gather, tenant::is_dead};
use basalt_model::{Generation, ProjectId, TenantId, VmId};
use std::{collections::HashMap, sync::Arc};
use uuid::Uuid;

/// A VM at a generation.
pub type Stamp = (VmId, Generation);

type Project = (TenantId, ProjectId);
type Bounds = (Project, Uuid, i64);
type Listed = Result<Option<Vec<Stamp>>>;

/// Who asks.
pub(crate) struct Stamps {
    one: Arc<Gather<Project, Key, Result<Option<Stamp>>>>,
    pages: Arc<Gather<Bounds, (), Listed>>,
}

/// Statements for VMs of one project at once: one that the server works on, and one on its way there.
const AT_ONCE: usize = 2;
/// Statements for one page: a page is long, and who asks for the same one meanwhile gets it with the next.
const PAGES_AT_ONCE: usize = 1;
/// Askers of one statement.
const MOST: usize = 64;

impl Default for Stamps {
    fn default() -> Self {
        Self { one: Gather::new(AT_ONCE, MOST), pages: Gather::new(PAGES_AT_ONCE, MOST) }
    }
}

/// The stamp of one VM.
pub async fn stamp(store: &Store, tenant: TenantId, project: ProjectId, key: &Key) -> Result<Option<Stamp>> {
    let asked = store.clone();
    let answer = move |line, keys: Vec<Key>| {
        let store = asked.clone();
        async move {
            let found = found(&store, line, &keys).await;
            keys.iter().map(|key| Ok(for_one(&found)?.and_then(|found| found.of(key)))).collect()
        }
    };
    store.stamps().one.ask((tenant, project), key.clone(), answer).await.unwrap_or(Ok(None))
}

struct Found {
    ids: HashMap<Uuid, Generation>,
    names: HashMap<String, Uuid>,
}

impl Found {
    fn of(&self, key: &Key) -> Option<Stamp> {
        let id = match key {
            Key::Id(id) => *id,
            Key::Name(name) => *self.names.get(name.as_str())?,
        };
        Some((VmId(id), *self.ids.get(&id)?))
    }
}

async fn found(store: &Store, (tenant, project): Project, keys: &[Key]) -> Result<Option<Found>> {
    let rows = sqlx::query_as("SELECT id, name, generation FROM vm_stamps($1, $2, $3, $4)")
        .bind(tenant)
        .bind(project)
        .bind(keys.iter().filter_map(Key::id).collect::<Vec<_>>())
        .bind(keys.iter().filter_map(Key::name).collect::<Vec<_>>())
        .fetch_all(store.pool());
    let Some(rows): Option<Vec<(Uuid, String, Generation)>> = unless_dead(rows.await)? else {
        return Ok(None);
    };
    let ids = rows.iter().map(|(id, _, generation)| (*id, *generation)).collect();
    Ok(Some(Found { ids, names: rows.into_iter().map(|(id, name, _)| (name, id)).collect() }))
}

/// The stamps of the VMs that [`crate::vms::list`] would give (without its selector).
pub async fn stamps(
    store: &Store,
    tenant: TenantId,
    project: ProjectId,
    page: &Page,
) -> Result<Option<List<Stamp>>> {
    let asked = store.clone();
    let answer = move |bounds, askers: Vec<()>| {
        let store = asked.clone();
        async move {
            let listed = listed(&store, bounds).await;
            askers.iter().map(|()| Ok(for_one(&listed)?.cloned())).collect()
        }
    };
    let bounds = ((tenant, project), page.after(), page.fetch());
    let stamps = store.stamps().pages.ask(bounds, (), answer).await.unwrap_or(Ok(None))?;
    Ok(stamps.map(|stamps| page.cut(stamps, |(id, _): &Stamp| id.0)))
}

async fn listed(store: &Store, ((tenant, project), after, fetch): Bounds) -> Listed {
    let row = sqlx::query_as("SELECT ids, generations FROM vm_page_stamps($1, $2, $3, $4)")
        .bind(tenant)
        .bind(project)
        .bind(after)
        .bind(fetch)
        .fetch_one(store.pool());
    Ok(unless_dead(row.await)?.map(|(ids, at): (Option<Vec<VmId>>, Option<Vec<Generation>>)| {
        ids.unwrap_or_default().into_iter().zip(at.unwrap_or_default()).collect()
    }))
}

/// What one of those who asked together is told.
fn for_one<T>(answer: &Result<Option<T>>) -> Result<Option<&T>> {
    answer.as_ref().map(Option::as_ref).map_err(Error::shared)
}

/// A pooled connection that died while nobody used it is found out by its first use; a transaction tries another.
fn unless_dead<T>(read: sqlx::Result<T>) -> Result<Option<T>> {
    match read {
        Err(e) if is_dead(&e) => Ok(None),
        other => Ok(Some(other?)),
    }
}
