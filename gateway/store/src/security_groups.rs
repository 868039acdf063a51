//! Security groups, and who uses them.
//!
//! Whoever names a group writes a row of `security_group_uses`, and the database lets no group go that such a row names.
//! So a deletion needs no waiting: once nobody uses the group, it is gone when the transaction commits. What hosts still
//! have of it goes when their manifests are next derived.

use crate::{
    Accepted, Change, Error, Handle, Key, List, New, Page, Result, TenantTx, Update,
    audit_events::{self, Entry},
    change,
    error::named,
    row::{self, uuids},
    tasks,
};
use basalt_model::{
    Generation, Metadata, Name, NetworkId, PortId, ProjectId, SecurityGroupId, TenantId, VmId,
    networks::address6,
    security_groups::SecurityGroupSpec,
    tasks::{Subject, TaskKind},
    vms::VmSpec,
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What people call it.
pub(crate) const KIND: &str = "security group";

/// A security group as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct SecurityGroup {
    /// Common fields.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: SecurityGroupSpec,
    /// The groups that its rules name.
    pub named: BTreeMap<Name, SecurityGroupId>,
}

impl SecurityGroup {
    /// Its id.
    pub fn id(&self) -> SecurityGroupId {
        SecurityGroupId(self.metadata.id)
    }

    fn subject(&self) -> Subject {
        Subject { kind: "security_group".into(), id: self.metadata.id, name: self.metadata.name.to_string() }
    }
}

macro_rules! columns {
    () => {
        concat!(crate::row::metadata_columns!("x"), ", x.spec, x.named")
    };
}
pub(crate) use columns;

impl FromRow<'_, PgRow> for SecurityGroup {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            metadata: row::metadata(row)?,
            spec: row::json(row, "spec")?,
            named: row::json(row, "named")?,
        })
    }
}

/// Groups of ports: what the VM resolved for the interface, and what the network has.
macro_rules! effective {
    () => {
        "SELECT n.security_groups AS of_network, p.mac, n.spec ->> 'cidr6' AS cidr6,
            (SELECT e -> 'security_groups' FROM json_array_elements(v.nics) e WHERE e ->> 'port_id' = p.id::text)
                AS of_nic
         FROM ports p JOIN networks n ON n.id = p.network_id JOIN vms v ON v.id = p.vm_id"
    };
}
/// Who uses groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Network(NetworkId),
    Vm(VmId),
    Rules(SecurityGroupId),
}

/// The groups of names that an object gives, by name; each with the field that gives it.
pub(crate) async fn resolve(
    conn: &mut PgConnection,
    project: ProjectId,
    given: &[(&Name, String)],
) -> Result<BTreeMap<Name, SecurityGroupId>> {
    if given.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names: BTreeSet<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
    let found: Vec<(Name, SecurityGroupId)> =
        sqlx::query_as("SELECT name, id FROM security_groups WHERE project_id = $1 AND name = ANY($2)")
            .bind(project)
            .bind(names.into_iter().collect::<Vec<_>>())
            .fetch_all(conn)
            .await?;
    let found: BTreeMap<_, _> = found.into_iter().collect();
    match given.iter().find(|(name, _)| !found.contains_key(*name)) {
        Some((name, field)) => Err(missing(name, field)),
        None => Ok(found),
    }
}

pub(crate) fn missing(name: &Name, field: &str) -> Error {
    Error::ReferenceNotFound { kind: KIND, name: name.clone(), field: field.to_owned() }
}

/// The names of a list, each with its field.
pub(crate) fn given<'a>(names: &'a [Name], at: &str) -> Vec<(&'a Name, String)> {
    names.iter().enumerate().map(|(i, name)| (name, format!("{at}[{i}]"))).collect()
}

/// All names that a VM gives.
pub(crate) fn given_by_vm(spec: &VmSpec) -> Vec<(&Name, String)> {
    let mut all = given(&spec.security_groups, "spec.security_groups");
    for (i, nic) in spec.nics.iter().enumerate() {
        all.extend(given(&nic.security_groups, &format!("spec.nics[{i}].security_groups")));
    }
    all
}

/// The groups of a VM's interface: its own and those of its VM, sorted.
pub(crate) fn of_nic(
    spec: &VmSpec,
    nic: usize,
    found: &BTreeMap<Name, SecurityGroupId>,
) -> Vec<SecurityGroupId> {
    let own = spec.nics.get(nic).map(|n| &*n.security_groups).unwrap_or_default();
    let all: BTreeSet<_> = spec.security_groups.iter().chain(own).filter_map(|n| found.get(n)).collect();
    all.into_iter().copied().collect()
}

/// From now on these groups are used, and no others.
pub(crate) async fn replace_uses(
    tx: &mut TenantTx,
    project: ProjectId,
    user: User,
    groups: &BTreeSet<SecurityGroupId>,
) -> Result<()> {
    let (column, id) = match user {
        User::Network(id) => ("DELETE FROM security_group_uses WHERE network_id = $1", id.0),
        User::Vm(id) => ("DELETE FROM security_group_uses WHERE vm_id = $1", id.0),
        User::Rules(id) => ("DELETE FROM security_group_uses WHERE rules_of = $1", id.0),
    };
    let conn = tx.step_out().await?;
    sqlx::query(column).bind(id).execute(conn).await?;
    tx.back_to_tenant().await?;
    let tenant = tx.tenant();
    insert_uses(tx.conn(), tenant, project, user, groups).await
}

/// A group that went since its name was resolved is a conflict: asked again, the name is not there.
pub(crate) async fn insert_uses(
    conn: &mut PgConnection,
    tenant: TenantId,
    project: ProjectId,
    user: User,
    groups: &BTreeSet<SecurityGroupId>,
) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = groups.iter().copied().collect();
    let (network, vm, rules) = match user {
        User::Network(id) => (Some(id), None, None),
        User::Vm(id) => (None, Some(id), None),
        User::Rules(id) => (None, None, Some(id)),
    };
    sqlx::query(
        "INSERT INTO security_group_uses (group_id, tenant_id, project_id, network_id, vm_id, rules_of)
         SELECT g, $2, $3, $4, $5, $6 FROM unnest($1::uuid[]) g",
    )
    .bind(uuids(&ids))
    .bind(tenant)
    .bind(project)
    .bind(network)
    .bind(vm)
    .bind(rules)
    .execute(conn)
    .await
    .map_err(went)?;
    Ok(())
}

/// Whether a group went while somebody was about to use it.
pub(crate) fn went(e: sqlx::Error) -> Error {
    match crate::error::refused(&e).map(|(constraint, _)| constraint) {
        Some("security_group_uses_group") => Error::Conflict(e),
        _ => e.into(),
    }
}

/// Declares a security group. It is in the truth once this commits, so its task is recorded as completed.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<SecurityGroupSpec>,
) -> Result<Accepted<SecurityGroup>> {
    let tenant = tx.tenant();
    let id: SecurityGroupId = change.id();
    let named_groups = resolve_rules(tx.conn(), project, &new.spec, Some((&new.name, id))).await?;
    let conn = tx.conn();
    let group: SecurityGroup = sqlx::query_as(concat!(
        "INSERT INTO security_groups AS x (id, tenant_id, project_id, name, labels, generation, created_at, updated_at,
            spec, named) VALUES ($1, $2, $3, $4, $5, 1, $6, $6, $7, $8) RETURNING ",
        columns!()
    ))
    .bind(id)
    .bind(tenant)
    .bind(project)
    .bind(&new.name)
    .bind(Json(&new.labels))
    .bind(change.now)
    .bind(Json(&new.spec))
    .bind(Json(&named_groups))
    .fetch_one(&mut *conn)
    .await
    .map_err(|e| {
        named(e, |c| match c {
            "security_groups_name" => Some(Error::NameTaken { kind: KIND, name: new.name.to_string() }),
            "security_groups_project" => Some(Key::from(project).missing("project")),
            _ => None,
        })
    })?;
    let uses = named_groups.into_values().collect();
    insert_uses(conn, tenant, project, User::Rules(id), &uses).await?;
    let task = tasks::new(
        change,
        tenant,
        project,
        TaskKind::SecurityGroupCreate,
        group.subject(),
        Generation::FIRST,
    );
    let task = tasks::completed(task);
    tasks::record(conn, change, "security_group.create", &task, None).await?;
    Ok(Accepted { object: group, task })
}

/// The groups that rules name. A group that is just being declared may name itself.
async fn resolve_rules(
    conn: &mut PgConnection,
    project: ProjectId,
    spec: &SecurityGroupSpec,
    own: Option<(&Name, SecurityGroupId)>,
) -> Result<BTreeMap<Name, SecurityGroupId>> {
    let own = own.filter(|(name, _)| spec.named().iter().any(|(_, n)| n == name));
    let field = |i: usize| format!("spec.rules[{i}].remote.security_group");
    let given: Vec<_> = spec
        .named()
        .into_iter()
        .filter(|(_, name)| own.is_none_or(|(own, _)| own != *name))
        .map(|(i, name)| (name, field(i)))
        .collect();
    let mut found = resolve(conn, project, &given).await?;
    found.extend(own.map(|(name, id)| (name.clone(), id)));
    Ok(found)
}

/// A security group of a project.
pub async fn get(tx: &mut impl Handle, project: ProjectId, key: &Key) -> Result<SecurityGroup> {
    row::keyed(tx.conn(), row::keyed_select!("security_groups", "", columns!()), project, key, KIND).await
}

/// Security groups of a project, oldest first.
pub async fn list(tx: &mut impl Handle, project: ProjectId, page: &Page) -> Result<List<SecurityGroup>> {
    let select = row::listed_select!("SELECT ", columns!(), " FROM security_groups x");
    row::listed(tx.conn(), select, project, page, |g: &SecurityGroup| g.metadata.id).await
}

async fn lock(conn: &mut PgConnection, project: ProjectId, key: &Key) -> Result<SecurityGroup> {
    row::keyed(
        conn,
        row::keyed_select!("security_groups", " FOR NO KEY UPDATE", columns!()),
        project,
        key,
        KIND,
    )
    .await
}

/// Replaces the rules. What changes nothing moves no generation.
pub async fn update(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    update: &Update<SecurityGroupSpec>,
) -> Result<SecurityGroup> {
    let old = lock(tx.conn(), project, key).await?;
    change::expect(update.expected, old.metadata.generation)?;
    let labels = update.labels.as_ref().unwrap_or(&old.metadata.labels);
    if old.spec == update.spec && *labels == old.metadata.labels {
        return Ok(old);
    }
    let named_groups = resolve_rules(tx.conn(), project, &update.spec, None).await?;
    if named_groups != old.named {
        let uses = named_groups.values().copied().collect();
        replace_uses(tx, project, User::Rules(old.id()), &uses).await?;
    }
    let conn = tx.conn();
    let group: SecurityGroup = sqlx::query_as(concat!(
        "UPDATE security_groups x SET spec = $2, labels = $3, named = $4, generation = generation + 1, updated_at = $5
         WHERE id = $1 RETURNING ",
        columns!()
    ))
    .bind(old.id())
    .bind(Json(&update.spec))
    .bind(Json(labels))
    .bind(Json(&named_groups))
    .bind(change.now)
    .fetch_one(&mut *conn)
    .await?;
    let m = &group.metadata;
    let action = "security_group.update";
    let entry = Entry::new(action, m.tenant_id, m.project_id, "security_group", m.id, m.name.as_str());
    audit_events::write(conn, change, entry).await?;
    Ok(group)
}

/// Removes a group that nobody uses. Its own rules may name it.
pub async fn delete(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    key: &Key,
    expected: Option<Generation>,
) -> Result<Accepted<SecurityGroup>> {
    let tenant = tx.tenant();
    let group = lock(tx.conn(), project, key).await?;
    change::expect(expected, group.metadata.generation)?;
    let in_use = |by| Error::InUse { kind: KIND, name: group.metadata.name.to_string(), by };
    let by = users(tx.conn(), group.id()).await?;
    if !by.is_empty() {
        return Err(in_use(by));
    }
    let conn = tx.step_out().await?;
    sqlx::query("DELETE FROM security_group_uses WHERE rules_of = $1")
        .bind(group.id())
        .execute(&mut *conn)
        .await?;
    let gone =
        sqlx::query("DELETE FROM security_groups WHERE id = $1").bind(group.id()).execute(&mut *conn).await;
    if let Err(e) = gone {
        // Somebody began to use it after the look; who it was is not seen in a transaction that failed.
        return Err(named(e, |c| (c == "security_group_uses_group").then(|| in_use(Vec::new()))));
    }
    tx.back_to_tenant().await?;
    let kind = TaskKind::SecurityGroupDelete;
    let task = tasks::completed(tasks::new(
        change,
        tenant,
        project,
        kind,
        group.subject(),
        group.metadata.generation,
    ));
    tasks::record(tx.conn(), change, "security_group.delete", &task, None).await?;
    Ok(Accepted { object: group, task })
}

async fn users(conn: &mut PgConnection, group: SecurityGroupId) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT coalesce('vm/' || v.name, 'network/' || n.name, 'security_group/' || g.name)
         FROM security_group_uses u LEFT JOIN vms v ON v.id = u.vm_id LEFT JOIN networks n ON n.id = u.network_id
            LEFT JOIN security_groups g ON g.id = u.rules_of
         WHERE u.group_id = $1 AND u.rules_of IS DISTINCT FROM u.group_id LIMIT 10",
    )
    .bind(group)
    .fetch_all(conn)
    .await?)
}

/// All groups of a project that a list of ids names.
pub async fn named_by(
    tx: &mut impl Handle,
    project: ProjectId,
    ids: &[SecurityGroupId],
) -> Result<Vec<SecurityGroup>> {
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM security_groups x WHERE x.project_id = $1 AND x.id = ANY($2) ORDER BY x.id"
    ))
    .bind(project)
    .bind(uuids(ids))
    .fetch_all(tx.conn())
    .await?)
}

/// The groups of a port, those of its network too, sorted.
pub async fn of_port(
    tx: &mut impl Handle,
    project: ProjectId,
    port: PortId,
) -> Result<Option<Vec<SecurityGroupId>>> {
    let row = sqlx::query(concat!(effective!(), " WHERE p.project_id = $1 AND p.id = $2"))
        .bind(project)
        .bind(port)
        .fetch_optional(tx.conn())
        .await?;
    Ok(row.as_ref().map(groups).transpose()?.map(|g| g.into_iter().collect()))
}

/// The groups of whatever port of a project has an address; none when none has it.
pub async fn of_address(
    tx: &mut impl Handle,
    project: ProjectId,
    address: IpAddr,
) -> Result<BTreeSet<SecurityGroupId>> {
    // The second address of a port follows from its MAC address and stands nowhere.
    let rows = sqlx::query(concat!(
        effective!(),
        " WHERE p.project_id = $1 AND (p.address = $2::text::inet OR (n.spec ->> 'cidr6')::cidr >> $2::text::inet)"
    ))
    .bind(project)
    .bind(address.to_string())
    .fetch_all(tx.conn())
    .await?;
    let mut all = BTreeSet::new();
    for row in &rows {
        let second = match (address, row.try_get::<Option<String>, _>("cidr6")?) {
            (IpAddr::V6(_), Some(prefix)) => {
                let prefix = prefix.parse().map_err(|e| row::unreadable("cidr6", e))?;
                IpAddr::V6(address6(prefix, row.try_get("mac")?))
            }
            _ => address,
        };
        if second == address {
            all.extend(groups(row)?);
        }
    }
    Ok(all)
}

fn groups(row: &PgRow) -> sqlx::Result<BTreeSet<SecurityGroupId>> {
    let of_nic: Option<Vec<SecurityGroupId>> = row::json_option(row, "of_nic")?;
    let of_network: Vec<SecurityGroupId> = row::json(row, "of_network")?;
    Ok(of_nic.unwrap_or_default().into_iter().chain(of_network).collect())
}
