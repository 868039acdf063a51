//! Networks and the addresses given out in them.

use crate::{
    Accepted, Change, Error, Finalized, Handle, Key, List, New, Page, Result, SystemTx, TenantTx, Update,
    audit_events::{self, Entry},
    change,
    error::named,
    manifests, row,
    security_groups::{self, User},
    tasks,
};
use basalt_model::{
    Condition, DateTime, Generation, Metadata, NetworkId, PortId, ProjectId, SecurityGroupId, TenantId, VmId,
    networks::{NetworkSpec, address6},
    tasks::{Subject, TaskKind},
    vms::VmNic,
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::collections::BTreeSet;

/// A network as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Common fields.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: NetworkSpec,
    /// Its segment's identifier, unique in the system.
    pub vni: u32,
    /// Security groups of all of its ports, sorted.
    pub security_groups: Vec<SecurityGroupId>,
}

/// A network as people look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkView {
    /// As declared.
    pub network: Network,
    /// Addresses given out.
    pub addresses_used: u64,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

/// A VM's connection to a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// What it is.
    pub nic: VmNic,
    /// The VM.
    pub vm_id: VmId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
}

impl Network {
    /// Its id.
    pub fn id(&self) -> NetworkId {
        NetworkId(self.metadata.id)
    }

    fn subject(&self) -> Subject {
        Subject { kind: "network".into(), id: self.metadata.id, name: self.metadata.name.to_string() }
    }
}

macro_rules! columns {
    () => {
        concat!(crate::row::metadata_columns!("x"), ", x.spec, x.vni, x.security_groups")
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for Network {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let vni: i32 = row.try_get("vni")?;
        let vni = u32::try_from(vni).map_err(|e| row::unreadable("vni", e))?;
        Ok(Self {
            metadata: row::metadata(row)?,
            spec: row::json(row, "spec")?,
            vni,
            security_groups: row::json(row, "security_groups")?,
        })
    }
}

impl FromRow<'_, PgRow> for NetworkView {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            network: Network::from_row(row)?,
            addresses_used: row::unsigned(row, "used")?,
            conditions: row::json_option(row, "conditions")?.unwrap_or_default(),
        })
    }
}

macro_rules! view {
    () => {
        concat!(
            "SELECT ",
            columns!(),
            ", a.used, c.conditions FROM networks x JOIN address_cursors a ON a.network_id = x.id
               LEFT JOIN conditions c ON c.subject_id = x.id"
        )
    };
}

/// Declares a network. It is in the truth once this commits, so its task is recorded as completed.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<NetworkSpec>,
) -> Result<Accepted<Network>> {
    let (tenant, spec) = (tx.tenant(), &new.spec);
    let conn = tx.conn();
    let cidr = spec.cidr.to_string();
    let overlapped: Option<String> = sqlx::query_scalar(
        "SELECT text(cidr) FROM networks WHERE project_id = $1 AND cidr && $2::text::cidr LIMIT 1",
    )
    .bind(project)
    .bind(&cidr)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(with) = overlapped {
        return Err(Error::CidrOverlap { field: "spec.cidr", cidr, with });
    }
    let groups = resolve_groups(conn, project, spec).await?;
    let network: Network = sqlx::query_as(concat!(
        "INSERT INTO networks AS x (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec,
            cidr, security_groups) VALUES ($1, $2, $3, $4, $5, 1, $6, $6, $7, $8::text::cidr, $9) RETURNING ",
        columns!()
    ))
    .bind((change.ids)())
    .bind(tenant)
    .bind(project)
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(Json(spec))
    .bind(&cidr)
    .bind(Json(&groups))
    .fetch_one(&mut *conn)
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "networks_name" => Some(Error::NameTaken { kind: "network", name: new.name.to_string() }),
            "networks_project" => Some(Key::from(project).missing("project")),
            "networks_cidr_overlap" => Some(Error::CidrOverlap {
                field: "spec.cidr",
                cidr: cidr.clone(),
                with: "a network that was just declared".into(),
            }),
            "networks_cidr6_overlap" => Some(Error::CidrOverlap {
                field: "spec.cidr6",
                cidr: spec.cidr6.map(|prefix| prefix.to_string()).unwrap_or_default(),
                with: "another network of the project".into(),
            }),
            "networks_wire" => Some(Error::WireTaken { segment: spec.segment.clone() }),
            _ => None,
        })
    })?;
    insert_cursor(conn, &network).await?;
    security_groups::insert_uses(conn, tenant, project, User::Network(network.id()), &groups).await?;
    let task =
        tasks::new(change, tenant, project, TaskKind::NetworkCreate, network.subject(), Generation::FIRST);
    let task = tasks::completed(task);
    tasks::record(conn, change, "network.create", &task, None).await?;
    Ok(Accepted { object: network, task })
}

async fn resolve_groups(
    conn: &mut PgConnection,
    project: ProjectId,
    spec: &NetworkSpec,
) -> Result<BTreeSet<SecurityGroupId>> {
    let given = security_groups::given(&spec.security_groups, "spec.security_groups");
    Ok(security_groups::resolve(conn, project, &given).await?.into_values().collect())
}

async fn insert_cursor(conn: &mut PgConnection, network: &Network) -> Result<()> {
    let spec = &network.spec;
    let first = i64::from(u32::from(spec.cidr.network())) + 1;
    let last = i64::from(u32::from(spec.dhcp_server())) - 1;
    sqlx::query(
        "INSERT INTO address_cursors (network_id, tenant_id, first_address, last_address, gateway, next_address)
         VALUES ($1, $2, $3, $4, $5, $3)",
    )
    .bind(network.id())
    .bind(network.metadata.tenant_id)
    .bind(first)
    .bind(last)
    .bind(i64::from(u32::from(spec.gateway())))
    .execute(conn)
    .await?;
    Ok(())
}

/// A network of a project.
pub async fn get(tx: &mut impl Handle, project: ProjectId, key: &Key) -> Result<NetworkView> {
    row::keyed(tx.conn(), concat!(view!(), crate::row::keyed_where!("networks")), project, key, "network")
        .await
}

/// Networks of a project, oldest first.
pub async fn list(tx: &mut impl Handle, project: ProjectId, page: &Page) -> Result<List<NetworkView>> {
    let select = row::listed_select!(view!());
    row::listed(tx.conn(), select, project, page, |n: &NetworkView| n.network.metadata.id).await
}

async fn lock(conn: &mut PgConnection, project: ProjectId, key: &Key) -> Result<Network> {
    row::keyed(
        conn,
        row::keyed_select!("networks", " FOR NO KEY UPDATE", columns!()),
        project,
        key,
        "network",
    )
    .await
}

/// Changes what guests are told. Range, router and segment stay: guests hold addresses of them.
pub async fn update(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    update: &Update<NetworkSpec>,
) -> Result<Network> {
    let conn = tx.conn();
    let old = lock(conn, project, key).await?;
    change::expect(update.expected, old.metadata.generation)?;
    let (was, wanted) = (&old.spec, &update.spec);
    for (field, same) in [
        ("spec.cidr", was.cidr == wanted.cidr),
        ("spec.cidr6", was.cidr6 == wanted.cidr6),
        ("spec.gateway", was.gateway() == wanted.gateway()),
        ("spec.segment", was.segment == wanted.segment),
    ] {
        if !same {
            return Err(Error::Immutable {
                field: field.into(),
                remedy: "declare another network and attach new VMs to it".into(),
            });
        }
    }
    let labels = update.labels.as_ref().unwrap_or(&old.metadata.labels);
    if was == wanted && *labels == old.metadata.labels {
        return Ok(old);
    }
    let groups = resolve_groups(conn, project, wanted).await?;
    if groups != old.security_groups.iter().copied().collect() {
        security_groups::replace_uses(tx, project, User::Network(old.id()), &groups).await?;
    }
    let conn = tx.conn();
    let network: Network = sqlx::query_as(concat!(
        "UPDATE networks x SET spec = $2, labels = $3, generation = generation + 1, updated_at = $4,
            security_groups = $5 WHERE id = $1
         RETURNING ",
        columns!()
    ))
    .bind(old.id())
    .bind(Json(wanted))
    .bind(Json(labels))
    .bind(change.now)
    .bind(Json(&groups))
    .fetch_one(&mut *conn)
    .await?;
    audit_events::write(conn, change, entry("network.update", &network)).await?;
    Ok(network)
}

fn entry<'a>(action: &'a str, network: &'a Network) -> Entry<'a> {
    let m = &network.metadata;
    Entry::new(action, m.tenant_id, m.project_id, "network", m.id, m.name.as_str())
}

/// Asks for a network's deletion. Refused while VMs or routers are attached; nothing attaches from now on.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Accepted<Network>> {
    let tenant = tx.tenant();
    let conn = tx.conn();
    let old = lock(conn, project, key).await?;
    change::expect(expected, old.metadata.generation)?;
    if let Some(task) = tasks::deletion(conn, "network", &old.metadata, TaskKind::NetworkDelete).await? {
        return Ok(Accepted { task, object: old });
    }
    sqlx::query("UPDATE address_cursors SET closed = true WHERE network_id = $1")
        .bind(old.id())
        .execute(&mut *conn)
        .await?;
    // After the cursor is locked: who took an address before is seen here, who comes later finds it closed.
    let by: Vec<String> = sqlx::query_scalar(
        "SELECT by FROM (
            SELECT 'vm/' || v.name FROM ports p JOIN vms v ON v.id = p.vm_id WHERE p.network_id = $1
            UNION SELECT 'router/' || r.name FROM ports p JOIN routers r ON r.id = p.router_id WHERE p.network_id = $1
            UNION SELECT 'router/' || r.name FROM router_interfaces i JOIN routers r ON r.id = i.router_id
                WHERE i.network_id = $1) users(by) LIMIT 10",
    )
    .bind(old.id())
    .fetch_all(&mut *conn)
    .await?;
    if !by.is_empty() {
        return Err(Error::InUse { kind: "network", name: old.metadata.name.to_string(), by });
    }
    let network: Network = sqlx::query_as(row::deleting!("networks", columns!()))
        .bind(old.id())
        .bind(change.now)
        .fetch_one(&mut *conn)
        .await?;
    let generation = network.metadata.generation;
    let task = tasks::new(change, tenant, project, TaskKind::NetworkDelete, network.subject(), generation);
    tasks::record(conn, change, "network.delete", &task, None).await?;
    Ok(Accepted { object: network, task })
}

/// Removes a network whose deletion was asked for, once it is on no host.
pub async fn finalize(tx: &mut SystemTx, id: NetworkId, now: DateTime) -> Result<Finalized> {
    let conn = tx.conn();
    match manifests::may_go(conn, row::going!("networks"), id.0).await? {
        None => return Ok(Finalized::Done),
        Some(true) => {}
        Some(_) => return Ok(Finalized::Waiting),
    }
    sqlx::query("DELETE FROM conditions WHERE subject_id = $1").bind(id).execute(&mut *conn).await?;
    sqlx::query("DELETE FROM networks WHERE id = $1").bind(id).execute(&mut *conn).await?;
    tasks::end_all(conn, id.0, TaskKind::NetworkDelete, now).await?;
    Ok(Finalized::Done)
}

/// VMs' ports of a project or of one of its networks, oldest first; addresses of routers stand with those. The page's selector is not used.
pub async fn ports(
    tx: &mut impl Handle,
    project: ProjectId,
    network: Option<NetworkId>,
    page: &Page,
) -> Result<List<Port>> {
    let rows = sqlx::query(
        "SELECT p.id, p.tenant_id, p.project_id, p.network_id, p.vm_id, p.mac, host(p.address) AS address,
            n.name AS network, text(n.cidr6) AS cidr6,
            (SELECT e -> 'security_groups' FROM json_array_elements(v.nics) e WHERE e ->> 'port_id' = p.id::text)
                AS security_groups
         FROM ports p JOIN networks n ON n.id = p.network_id JOIN vms v ON v.id = p.vm_id
         WHERE p.id > $1 AND p.project_id = $3 AND ($4::uuid IS NULL OR p.network_id = $4) ORDER BY p.id LIMIT $2",
    )
    .bind(page.after())
    .bind(page.fetch())
    .bind(project)
    .bind(network)
    .fetch_all(tx.conn())
    .await?;
    let ports = rows.iter().map(read_port).collect::<sqlx::Result<Vec<_>>>()?;
    Ok(page.cut(ports, |p| p.nic.port_id.0))
}

fn read_port(row: &PgRow) -> sqlx::Result<Port> {
    let address: String = row.try_get("address")?;
    let mac: String = row.try_get("mac")?;
    let prefix: Option<&str> = row.try_get("cidr6")?;
    let prefix = prefix.map(str::parse).transpose().map_err(|e| row::unreadable("cidr6", e))?;
    Ok(Port {
        nic: VmNic {
            port_id: row.try_get::<PortId, _>("id")?,
            network_id: row.try_get("network_id")?,
            network: row.try_get("network")?,
            address6: prefix.map(|prefix| address6(prefix, &mac)),
            mac,
            address: address.parse().map_err(|e| row::unreadable("address", e))?,
            security_groups: row::json_option(row, "security_groups")?.unwrap_or_default(),
        },
        vm_id: row.try_get("vm_id")?,
        tenant_id: row.try_get("tenant_id")?,
        project_id: row.try_get("project_id")?,
    })
}
