//! Routers: declared, wired to networks, VMs and addresses, and placed on their hosts.
//!
//! Whatever a router names it holds until it names it no more, or is gone: networks and VMs cannot go meanwhile, and its
//! addresses stand beside those of VMs under one constraint.

use crate::{
    Accepted, Change, Error, Finalized, Handle, Key, List, New, Page, Result, SystemTx, TenantTx, Update,
    audit_events::{self, Entry},
    change,
    error::named,
    manifests,
    router_wiring::{self, Wanted},
    row, tasks,
};
use basalt_model::{
    Condition, DateTime, Generation, HostId, Metadata, Name, ProjectId, RouterId, TenantId,
    routers::{RouterSpec, RouterWiring},
    tasks::{Subject, TaskKind},
};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::{BTreeMap, BTreeSet};

/// A router as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// Common fields.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: RouterSpec,
    /// What its names came to.
    pub wiring: RouterWiring,
}

/// One of a router's hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The router.
    pub router_id: RouterId,
    /// 0: preferred when both begin at once.
    pub slot: u8,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// The host.
    pub host_id: HostId,
    /// Its name.
    pub host: Name,
    /// What names the router between its hosts.
    pub vrid: u8,
}

/// A router as people look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterView {
    /// As declared.
    pub router: Router,
    /// Its hosts, by slot.
    pub placements: Vec<Placement>,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

impl Router {
    /// Its id.
    pub fn id(&self) -> RouterId {
        RouterId(self.metadata.id)
    }

    fn subject(&self) -> Subject {
        Subject { kind: "router".into(), id: self.metadata.id, name: self.metadata.name.to_string() }
    }
}

macro_rules! columns {
    () => {
        concat!(crate::row::metadata_columns!("x"), ", x.spec, x.wiring")
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for Router {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            metadata: row::metadata(row)?,
            spec: row::json(row, "spec")?,
            wiring: row::json(row, "wiring")?,
        })
    }
}

impl FromRow<'_, PgRow> for Placement {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let small = |name: &str| {
            let number: i16 = row.try_get(name)?;
            u8::try_from(number).map_err(|e| row::unreadable("a small number", e))
        };
        Ok(Self {
            router_id: row.try_get("router_id")?,
            slot: small("slot")?,
            tenant_id: row.try_get("tenant_id")?,
            project_id: row.try_get("project_id")?,
            host_id: row.try_get("host_id")?,
            host: row.try_get("host")?,
            vrid: small("vrid")?,
        })
    }
}

impl FromRow<'_, PgRow> for RouterView {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            router: Router::from_row(row)?,
            placements: row::json_option(row, "placements")?.unwrap_or_default(),
            conditions: row::json_option(row, "conditions")?.unwrap_or_default(),
        })
    }
}

macro_rules! view {
    () => {
        concat!(
            "SELECT ",
            columns!(),
            ", c.conditions, (SELECT jsonb_agg(jsonb_build_object('router_id', p.router_id, 'slot', p.slot,
                    'tenant_id', p.tenant_id, 'project_id', p.project_id, 'host_id', p.host_id, 'host', p.host,
                    'vrid', p.vrid) ORDER BY p.slot)
                FROM router_placements p WHERE p.router_id = x.id) AS placements
             FROM routers x LEFT JOIN conditions c ON c.subject_id = x.id"
        )
    };
}

/// Declares a router, with the addresses of its uplink. It is in the truth once this commits, so its task is recorded
/// as completed; its conditions say when it routes.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<RouterSpec>,
) -> Result<Accepted<Router>> {
    let tenant = tx.tenant();
    let conn = tx.conn();
    let id: RouterId = change.id();
    let wanted = router_wiring::resolve(conn, project, &new.spec).await?;
    sqlx::query(
        "INSERT INTO routers (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec, wiring)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $6, $7, $8)",
    )
    .bind(id)
    .bind(tenant)
    .bind(project)
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(Json(&new.spec))
    .bind(Json(&RouterWiring::default()))
    .execute(&mut *conn)
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "routers_name" => Some(Error::NameTaken { kind: "router", name: new.name.to_string() }),
            "routers_project" => Some(Key::from(project).missing("project")),
            _ => None,
        })
    })?;
    let held = Held { tenant, project, id };
    let wiring = held.claim(conn, change, &wanted, &RouterWiring::default()).await?;
    let router: Router =
        sqlx::query_as(concat!("UPDATE routers x SET wiring = $2 WHERE id = $1 RETURNING ", columns!()))
            .bind(id)
            .bind(Json(&wiring))
            .fetch_one(&mut *conn)
            .await?;
    let task =
        tasks::new(change, tenant, project, TaskKind::RouterCreate, router.subject(), Generation::FIRST);
    let task = tasks::completed(task);
    tasks::record(conn, change, "router.create", &task, None).await?;
    Ok(Accepted { object: router, task })
}

/// Who holds what a router claims.
struct Held {
    tenant: TenantId,
    project: ProjectId,
    id: RouterId,
}

impl Held {
    /// Claims what is wanted and gives back what is not any more.
    async fn claim(
        &self,
        conn: &mut PgConnection,
        change: &Change,
        wanted: &Wanted,
        before: &RouterWiring,
    ) -> Result<RouterWiring> {
        let kept = wanted.kept(before);
        router_wiring::release(conn, self.id, &kept.ports()).await?;
        for (i, interface) in wanted.interfaces.iter().enumerate() {
            let free: Option<String> = sqlx::query_scalar(
                "SELECT r.name FROM router_interfaces i JOIN routers r ON r.id = i.router_id WHERE i.network_id = $1",
            )
            .bind(interface.network_id)
            .fetch_optional(&mut *conn)
            .await?;
            let taken = |by: String| router_wiring::has_router(i, &interface.network, &by);
            if let Some(other) = free {
                return Err(taken(other));
            }
            sqlx::query(
                "INSERT INTO router_interfaces (network_id, router_id, tenant_id) VALUES ($1, $2, $3)",
            )
            .bind(interface.network_id)
            .bind(self.id)
            .bind(self.tenant)
            .execute(&mut *conn)
            .await
            .map_err(|e| {
                named(e, |c| (c == "router_interfaces_id").then(|| taken("that was just declared".into())))
            })?;
        }
        let vms: BTreeSet<_> = wanted.vms().collect();
        for vm in vms {
            sqlx::query("INSERT INTO router_vms (router_id, vm_id, tenant_id) VALUES ($1, $2, $3)")
                .bind(self.id)
                .bind(vm)
                .bind(self.tenant)
                .execute(&mut *conn)
                .await?;
        }
        router_wiring::allocate(conn, change, (self.tenant, self.project, self.id), wanted, &kept).await
    }
}

/// A router of a project.
pub async fn get(tx: &mut impl Handle, project: ProjectId, key: &Key) -> Result<RouterView> {
    row::keyed(tx.conn(), concat!(view!(), crate::row::keyed_where!("routers")), project, key, "router").await
}

/// Routers of a project, oldest first.
pub async fn list(tx: &mut impl Handle, project: ProjectId, page: &Page) -> Result<List<RouterView>> {
    let select = row::listed_select!(view!());
    row::listed(tx.conn(), select, project, page, |r: &RouterView| r.router.metadata.id).await
}

async fn lock(conn: &mut PgConnection, project: ProjectId, key: &Key) -> Result<Router> {
    row::keyed(conn, row::keyed_select!("routers", " FOR NO KEY UPDATE", columns!()), project, key, "router")
        .await
}

/// Replaces what is wanted of a router. Addresses that are still wanted stay as they are.
pub async fn update(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    update: &Update<RouterSpec>,
) -> Result<Router> {
    let tenant = tx.tenant();
    let conn = tx.conn();
    let old = lock(conn, project, key).await?;
    change::expect(update.expected, old.metadata.generation)?;
    if old.metadata.deletion_requested_at.is_some() {
        return Err(Error::Deleting { kind: "router", name: old.metadata.name.to_string() });
    }
    let labels = update.labels.as_ref().unwrap_or(&old.metadata.labels);
    if old.spec == update.spec && *labels == old.metadata.labels {
        return Ok(old);
    }
    let wanted = router_wiring::resolve(conn, project, &update.spec).await?;
    let held = Held { tenant, project, id: old.id() };
    let wiring = held.claim(conn, change, &wanted, &old.wiring).await?;
    let router: Router = sqlx::query_as(concat!(
        "UPDATE routers x SET spec = $2, labels = $3, wiring = $4, generation = generation + 1, updated_at = $5
         WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(old.id())
    .bind(Json(&update.spec))
    .bind(Json(labels))
    .bind(Json(&wiring))
    .bind(change.now)
    .fetch_one(&mut *conn)
    .await?;
    let m = &router.metadata;
    let entry = Entry::new("router.update", m.tenant_id, m.project_id, "router", m.id, m.name.as_str());
    audit_events::write(conn, change, entry).await?;
    Ok(router)
}

/// Asks for a router's deletion.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Accepted<Router>> {
    let tenant = tx.tenant();
    let conn = tx.conn();
    let old = lock(conn, project, key).await?;
    change::expect(expected, old.metadata.generation)?;
    if let Some(task) = tasks::deletion(conn, "router", &old.metadata, TaskKind::RouterDelete).await? {
        return Ok(Accepted { task, object: old });
    }
    let router: Router = sqlx::query_as(row::deleting!("routers", columns!()))
        .bind(old.id())
        .bind(change.now)
        .fetch_one(&mut *conn)
        .await?;
    let generation = router.metadata.generation;
    let task = tasks::new(change, tenant, project, TaskKind::RouterDelete, router.subject(), generation);
    tasks::record(conn, change, "router.delete", &task, None).await?;
    Ok(Accepted { object: router, task })
}

/// Removes a router whose deletion was asked for, once it is on no host, and gives back what it held.
pub async fn finalize(tx: &mut SystemTx, id: RouterId, now: DateTime) -> Result<Finalized> {
    let conn = tx.conn();
    match manifests::may_go(conn, row::going!("routers"), id.0).await? {
        None => return Ok(Finalized::Done),
        Some(true) => {}
        Some(_) => return Ok(Finalized::Waiting),
    }
    router_wiring::release_all(conn, id).await?;
    for statement in [
        "DELETE FROM router_interfaces WHERE router_id = $1",
        "DELETE FROM router_vms WHERE router_id = $1",
        "DELETE FROM router_placements WHERE router_id = $1",
        "DELETE FROM conditions WHERE subject_id = $1",
        "DELETE FROM routers WHERE id = $1",
    ] {
        sqlx::query(statement).bind(id).execute(&mut *conn).await?;
    }
    tasks::end_all(conn, id.0, TaskKind::RouterDelete, now).await?;
    Ok(Finalized::Done)
}

/// Who of a project's routers needs an object, as `router/name`.
pub(crate) async fn users_of_vm(conn: &mut PgConnection, vm: basalt_model::VmId) -> Result<Vec<String>> {
    let users = sqlx::query_scalar(
        "SELECT 'router/' || r.name FROM router_vms v JOIN routers r ON r.id = v.router_id WHERE v.vm_id = $1 LIMIT 10",
    );
    Ok(users.bind(vm).fetch_all(conn).await?)
}

/// Puts a router on hosts, by slot. Answers whether it holds: `false` when it is going, or when its placement is not the
/// one that was judged any more. The number that names it between its hosts stays, unless it is taken on a new one.
pub async fn place(
    tx: &mut SystemTx,
    id: RouterId,
    judged: &BTreeMap<u8, HostId>,
    chosen: &BTreeMap<u8, HostId>,
    now: DateTime,
) -> Result<bool> {
    let conn = tx.conn();
    let router: Option<(TenantId, ProjectId)> = sqlx::query_as(
        "SELECT tenant_id, project_id FROM routers WHERE id = $1 AND deletion_requested_at IS NULL FOR NO KEY UPDATE",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((tenant, project)) = router else { return Ok(false) };
    let before: Vec<Placement> =
        sqlx::query_as("SELECT * FROM router_placements WHERE router_id = $1 ORDER BY slot")
            .bind(id)
            .fetch_all(&mut *conn)
            .await?;
    if before.iter().map(|p| (p.slot, p.host_id)).collect::<BTreeMap<_, _>>() != *judged {
        return Ok(false);
    }
    let hosts: Vec<HostId> = chosen.values().copied().collect();
    let taken: Vec<i16> =
        sqlx::query_scalar("SELECT vrid FROM router_placements WHERE host_id = ANY($1) AND router_id <> $2")
            .bind(row::uuids(&hosts))
            .bind(id)
            .fetch_all(&mut *conn)
            .await?;
    let mine = before.first().map(|p| i16::from(p.vrid));
    let vrid = mine.into_iter().chain(1..=255).find(|vrid| !taken.contains(vrid));
    // A host with 255 routers takes no other; it is tried again when one went.
    let Some(vrid) = vrid else { return Ok(false) };
    sqlx::query("DELETE FROM router_placements WHERE router_id = $1").bind(id).execute(&mut *conn).await?;
    for (slot, host) in chosen {
        sqlx::query(
            "INSERT INTO router_placements (router_id, slot, tenant_id, project_id, host_id, host, vrid, decided_at)
             SELECT $1, $2, $3, $4, h.id, h.name, $6, $7 FROM hosts h
             WHERE h.id = $5 AND h.deletion_requested_at IS NULL FOR KEY SHARE",
        )
        .bind(id)
        .bind(i16::from(*slot))
        .bind(tenant)
        .bind(project)
        .bind(host)
        .bind(vrid)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    Ok(true)
}
