//! Adoption: declaring what stands on a host already, with the placement that it has.
//!
//! The host's row is locked from the first look to the end, so that of two who adopt from one host the second
//! sees what the first did, and a host that is going is not adopted from. Everything lands in one transaction.

use crate::{
    Accepted, Change, Error, Key, Result, TenantTx,
    error::{named, refused},
    images,
    quotas::{self, Delta},
    row::{self, bigint},
    tasks, vm_insert,
    vms::Vm,
    volumes::Volume,
};
use basalt_model::{
    CapabilityReason, Generation, HostId, ImageId, Labels, Metadata, Name, NetworkId, PortId, ProjectId,
    VmId, VolumeId,
    adoption::{AdoptedNic, AdoptedSource, AdoptedVm, AdoptedVolume, Known, Named},
    hosts::HostFacts,
    networks::{NetworkSpec, address6},
    tasks::{Subject, TaskKind},
    vms::{VmDisk, VmNic, VmSpec},
};
use serde_json::Value;
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};
use uuid::Uuid;

/// A host that something is adopted from. Its row is locked.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Its name.
    pub name: Name,
    /// What its agent reported.
    pub facts: Option<HostFacts>,
}

/// The host that a caller names, locked until the transaction ends.
pub async fn host(tx: &mut TenantTx, key: &Key) -> Result<Host> {
    let conn = tx.step_out().await?;
    let row = sqlx::query(
        "SELECT h.id, h.name, h.deletion_requested_at IS NOT NULL AS going, f.facts
         FROM hosts h LEFT JOIN host_facts f ON f.host_id = h.id WHERE h.id = $1 OR h.name = $2
         FOR NO KEY UPDATE OF h",
    )
    .bind(key.id())
    .bind(key.name())
    .fetch_optional(conn)
    .await?;
    let row = row.ok_or_else(|| key.missing("host"))?;
    let name: Name = row.try_get("name")?;
    if row.try_get("going")? {
        return Err(Error::Deleting { kind: "host", name: name.to_string() });
    }
    let host = Host { id: row.try_get("id")?, name, facts: row::json_option(&row, "facts")? };
    tx.back_to_tenant().await?;
    Ok(host)
}

/// What the truth has of the things that a foreign thing of a host names.
pub async fn known(tx: &mut TenantTx, project: ProjectId, host: HostId, asked: &Named) -> Result<Known> {
    let mut known = Known { networks: networks(tx.conn(), project, asked).await?, ..Known::default() };
    let ids: Vec<Uuid> = asked.ids.iter().copied().collect();
    let conn = tx.step_out().await?;
    let taken: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM vms WHERE id = ANY($1) UNION SELECT id FROM volumes WHERE id = ANY($1)
         UNION SELECT id FROM manifest_items WHERE id = ANY($1)",
    )
    .bind(&ids)
    .fetch_all(&mut *conn)
    .await?;
    known.ids = taken.into_iter().collect();
    known.elsewhere = sqlx::query_scalar(
        "SELECT h.name FROM host_facts f JOIN hosts h ON h.id = f.host_id
         WHERE f.host_id <> $1 AND EXISTS (SELECT FROM jsonb_array_elements(f.facts -> 'foreign') e
            WHERE e ->> 'kind' <> 'port' AND e ->> 'id' = ANY($2)) ORDER BY h.name LIMIT 1",
    )
    .bind(host)
    .bind(ids.iter().map(Uuid::to_string).collect::<Vec<_>>())
    .fetch_optional(&mut *conn)
    .await?;
    let files: Vec<(Name, String)> = sqlx::query_as(
        "SELECT pool, spec -> 'source' ->> 'file' FROM volumes
         WHERE host_id = $1 AND spec -> 'source' ->> 'kind' = 'adopted'",
    )
    .bind(host)
    .fetch_all(&mut *conn)
    .await?;
    known.files = files.into_iter().collect();
    let images: Vec<(ImageId, Option<Name>)> = sqlx::query_as(
        "SELECT i.id, CASE WHEN i.project_id = p.id OR i.shared AND i.tenant_id = p.tenant_id THEN i.name END
         FROM images i JOIN image_observed o ON o.image_id = i.id, projects p
         WHERE i.id = ANY($1) AND p.id = $2 AND o.observed ->> 'state' = 'ready'",
    )
    .bind(asked.images.iter().map(|i| i.0).collect::<Vec<_>>())
    .bind(project)
    .fetch_all(&mut *conn)
    .await?;
    known.images = images.into_iter().collect();
    tx.back_to_tenant().await?;
    Ok(known)
}

async fn networks(
    conn: &mut PgConnection,
    project: ProjectId,
    asked: &Named,
) -> Result<BTreeMap<NetworkId, Name>> {
    let found: Vec<(NetworkId, Name)> =
        sqlx::query_as("SELECT id, name FROM networks WHERE project_id = $1 AND (id = ANY($2) OR name = $3)")
            .bind(project)
            .bind(asked.networks.iter().map(|n| n.0).collect::<Vec<_>>())
            .bind(&asked.network)
            .fetch_all(conn)
            .await?;
    Ok(found.into_iter().collect())
}

/// Declares a VM that runs on the host already, with its volumes, its ports and its placement there.
pub async fn insert_vm(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    host: &Host,
    adopted: &AdoptedVm,
    explanation: &Value,
) -> Result<Accepted<Vm>> {
    let tenant = tx.tenant();
    let conn = tx.conn();
    let volumes: Vec<&AdoptedVolume> = adopted.disks.iter().filter_map(|d| volume_of(&d.source)).collect();
    let bytes = volumes.iter().fold(0_u64, |sum, v| sum.saturating_add(v.spec.size_bytes));
    let demand = adopted.spec.demand(bytes);
    let asked = Delta {
        vms: 1,
        cpus: demand.cpus.into(),
        memory_bytes: bigint(demand.memory_bytes),
        storage_bytes: bigint(demand.storage_bytes),
    };
    quotas::claim(conn, project, asked).await?;
    hold_images(conn, adopted.disks.iter().map(|d| &d.source)).await?;
    let nics = claim_nics(conn, change, &adopted.nics).await?;
    let ids: Vec<VolumeId> = volumes.iter().map(|v| v.id.unwrap_or_else(|| change.id())).collect();
    let mut of_volumes = ids.iter();
    let disks = adopted.disks.iter().map(|disk| {
        let (volume_id, iso_image_id) = match &disk.source {
            AdoptedSource::Volume(_) => (of_volumes.next().copied(), None),
            AdoptedSource::Iso(image) => (None, Some(*image)),
        };
        VmDisk { name: disk.name.clone(), volume_id, iso_image_id, boot_order: disk.boot_order }
    });
    let metadata = Metadata {
        id: adopted.id.0,
        tenant_id: Some(tenant),
        project_id: Some(project),
        name: adopted.name.clone(),
        labels: Labels::default(),
        generation: Generation::FIRST,
        created_at: change.now,
        updated_at: change.now,
        deletion_requested_at: None,
    };
    let vm = Vm {
        metadata,
        spec: adopted.spec.clone(),
        incarnation: adopted.incarnation,
        operation: None,
        nics,
        disks: disks.collect(),
    };
    write_vm(conn, change, project, &vm).await?;
    for (id, volume) in ids.iter().zip(&volumes) {
        write_volume(conn, change, project, *id, volume, Some(adopted.id)).await?;
    }
    let task = tasks::new(change, tenant, project, TaskKind::VmAdopt, vm.subject(), Generation::FIRST);
    tasks::record(conn, change, "vm.adopt", &task, None).await?;
    let conn = tx.step_out().await?;
    claim_host(conn, host, &adopted.spec).await?;
    for (id, volume) in ids.iter().zip(&volumes) {
        claim_pool(conn, host, *id, volume).await?;
    }
    place(conn, change, host, &vm, adopted, explanation).await?;
    tx.back_to_tenant().await?;
    Ok(Accepted { object: vm, task })
}

/// Declares a volume that lies in a pool of the host already.
pub async fn insert_volume(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    host: &Host,
    adopted: &AdoptedVolume,
) -> Result<Accepted<Volume>> {
    let tenant = tx.tenant();
    let conn = tx.conn();
    let asked = Delta { storage_bytes: bigint(adopted.spec.size_bytes), ..Delta::default() };
    quotas::claim(conn, project, asked).await?;
    if let Some(image) = adopted.image_id {
        images::hold(conn, image).await?;
    }
    let id: VolumeId = adopted.id.unwrap_or_else(|| change.id());
    write_volume(conn, change, project, id, adopted, None).await?;
    let subject = Subject { kind: "volume".into(), id: id.0, name: adopted.name.to_string() };
    let task = tasks::new(change, tenant, project, TaskKind::VolumeAdopt, subject, Generation::FIRST);
    tasks::record(conn, change, "volume.adopt", &task, None).await?;
    let conn = tx.step_out().await?;
    claim_pool(conn, host, id, adopted).await?;
    tx.back_to_tenant().await?;
    let object = crate::volumes::get(tx, project, &Key::Id(id.0)).await?.volume;
    Ok(Accepted { object, task })
}

fn volume_of(source: &AdoptedSource) -> Option<&AdoptedVolume> {
    match source {
        AdoptedSource::Volume(volume) => Some(volume),
        AdoptedSource::Iso(_) => None,
    }
}

async fn hold_images(conn: &mut PgConnection, sources: impl Iterator<Item = &AdoptedSource>) -> Result<()> {
    let images: BTreeSet<ImageId> = sources
        .filter_map(|source| match source {
            AdoptedSource::Volume(volume) => volume.image_id,
            AdoptedSource::Iso(image) => Some(*image),
        })
        .collect();
    for image in images {
        images::hold(conn, image).await?;
    }
    Ok(())
}

/// What the network gave away since is made anew; everything else stays what the guest knows.
async fn claim_nics(conn: &mut PgConnection, change: &Change, wanted: &[AdoptedNic]) -> Result<Vec<VmNic>> {
    let specs = lock_networks(conn, wanted).await?;
    let mut nics: Vec<VmNic> = Vec::new();
    for (n, nic) in wanted.iter().enumerate() {
        let taken = taken_by_others(conn, nic).await?;
        let here = |o: &&VmNic| o.network_id == nic.network_id;
        let port_id: PortId = match nic.port_id {
            Some(id) if !taken.port && !nics.iter().any(|o| o.port_id == id) => id,
            _ => change.id(),
        };
        let mac = match &nic.mac {
            Some(mac) if !taken.mac && !nics.iter().filter(here).any(|o| o.mac == *mac) => mac.clone(),
            _ => vm_insert::mac(port_id),
        };
        let given: Vec<Ipv4Addr> = nics.iter().filter(here).map(|o| o.address).collect();
        let fits = |a: &Ipv4Addr| specs.get(&nic.network_id).is_some_and(|s| s.assignable(*a));
        let kept = nic.address.filter(fits).filter(|a| !taken.address && !given.contains(a));
        let later = wanted[n + 1..].iter().filter(|o| o.network_id == nic.network_id);
        let spoken_for: Vec<String> =
            given.into_iter().chain(later.filter_map(|o| o.address)).map(|a| a.to_string()).collect();
        let address: String =
            sqlx::query_scalar("SELECT host(claim_address($1, $2::text::inet, $3::text[]::inet[]))")
                .bind(nic.network_id)
                .bind(kept.map(|a| a.to_string()))
                .bind(spoken_for)
                .fetch_one(&mut *conn)
                .await
                .map_err(|e| no_address(e, &nic.network))?;
        let address = address.parse().map_err(|e| row::unreadable("address", e))?;
        let network = nic.network.clone();
        let prefix = specs.get(&nic.network_id).and_then(|spec| spec.cidr6);
        let address6 = prefix.map(|prefix| address6(prefix, &mac));
        nics.push(VmNic {
            port_id,
            network_id: nic.network_id,
            network,
            mac,
            address,
            address6,
            security_groups: Vec::new(),
        });
    }
    Ok(nics)
}

/// Whoever takes an address takes this lock first, so nobody comes between the look and the claim.
async fn lock_networks(
    conn: &mut PgConnection,
    wanted: &[AdoptedNic],
) -> Result<BTreeMap<NetworkId, NetworkSpec>> {
    let rows = sqlx::query(
        "SELECT n.id, n.spec FROM networks n JOIN address_cursors c ON c.network_id = n.id WHERE n.id = ANY($1)
         ORDER BY n.id FOR UPDATE OF c",
    )
    .bind(wanted.iter().map(|n| n.network_id.0).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    let read = |row: &PgRow| Ok((row.try_get("id")?, row::json(row, "spec")?));
    Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
}

/// What of an interface belongs to other ports.
struct Taken {
    port: bool,
    mac: bool,
    address: bool,
}

async fn taken_by_others(conn: &mut PgConnection, nic: &AdoptedNic) -> Result<Taken> {
    let row = sqlx::query(
        "SELECT EXISTS (SELECT FROM ports WHERE id = $2) AS port,
            EXISTS (SELECT FROM ports WHERE network_id = $1 AND mac = $3) AS mac,
            EXISTS (SELECT FROM ports WHERE network_id = $1 AND address = $4::text::inet) AS address",
    )
    .bind(nic.network_id)
    .bind(nic.port_id)
    .bind(&nic.mac)
    .bind(nic.address.map(|a| a.to_string()))
    .fetch_one(conn)
    .await?;
    Ok(Taken { port: row.try_get("port")?, mac: row.try_get("mac")?, address: row.try_get("address")? })
}

fn no_address(e: sqlx::Error, network: &Name) -> Error {
    named(e, |c| match c {
        "subnet_exhausted" => {
            Some(Error::SubnetExhausted { network: network.clone(), field: "network".into() })
        }
        "network_closed" => Some(Error::Deleting { kind: "network", name: network.to_string() }),
        _ => None,
    })
}

async fn write_vm(conn: &mut PgConnection, change: &Change, project: ProjectId, vm: &Vm) -> Result<()> {
    let m = &vm.metadata;
    sqlx::query(
        "INSERT INTO vms (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec, incarnation,
            nics, disks) VALUES ($1, $2, $3, $4, '{}', $5, $6, $6, $7, $8, $9, $10)",
    )
    .bind(m.id)
    .bind(m.tenant_id)
    .bind(project)
    .bind(&m.name)
    .bind(m.generation)
    .bind(change.now)
    .bind(Json(&vm.spec))
    .bind(vm.incarnation)
    .bind(Json(&vm.nics))
    .bind(Json(&vm.disks))
    .execute(&mut *conn)
    .await
    .map_err(|e| taken(e, "vm", "vms_name", &m.name))?;
    for (index, nic) in (0_i32..).zip(&vm.nics) {
        sqlx::query(
            "INSERT INTO ports (id, tenant_id, project_id, network_id, vm_id, nic_index, mac, address)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::inet)",
        )
        .bind(nic.port_id)
        .bind(m.tenant_id)
        .bind(project)
        .bind(nic.network_id)
        .bind(m.id)
        .bind(index)
        .bind(&nic.mac)
        .bind(nic.address.to_string())
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// An adopted volume is never owned: it is the user's bytes, and outlives the VM that has it.
async fn write_volume(
    conn: &mut PgConnection,
    change: &Change,
    project: ProjectId,
    id: VolumeId,
    volume: &AdoptedVolume,
    vm: Option<VmId>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO volumes (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec, size_bytes,
            image_id, vm_id, owned, incarnation)
         SELECT $1, current_tenant(), $2, $3, '{}', 1, $4, $4, $5, $6, $7, $8, false, $9",
    )
    .bind(id)
    .bind(project)
    .bind(&volume.name)
    .bind(change.now)
    .bind(Json(&volume.spec))
    .bind(bigint(volume.spec.size_bytes))
    .bind(volume.image_id)
    .bind(vm)
    .bind(volume.incarnation)
    .execute(conn)
    .await
    .map_err(|e| taken(e, "volume", "volumes_name", &volume.name))?;
    Ok(())
}

/// What the database refused: a name is the caller's, an id that somebody declared meanwhile is found by asking again.
fn taken(e: sqlx::Error, kind: &'static str, constraint: &str, name: &Name) -> Error {
    match refused(&e).map(|r| r.0) {
        Some(c) if c == constraint => Error::NameTaken { kind, name: name.to_string() },
        Some("vms_id" | "volumes_id") => Error::Conflict(e),
        _ => e.into(),
    }
}

async fn claim_host(conn: &mut PgConnection, host: &Host, spec: &VmSpec) -> Result<()> {
    let claimed = sqlx::query(
        "UPDATE host_claims SET claimed_vms = claimed_vms + 1, claimed_cpus = claimed_cpus + $2,
            claimed_memory_bytes = claimed_memory_bytes + $3
         WHERE host_id = $1 AND claimed_cpus + $2 <= max_cpus AND claimed_memory_bytes + $3 <= max_memory_bytes",
    )
    .bind(host.id)
    .bind(i64::from(spec.cpus))
    .bind(bigint(spec.memory_bytes))
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if claimed == 1 {
        return Ok(());
    }
    let (max_cpus, cpus, max_memory, memory): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT max_cpus, claimed_cpus, max_memory_bytes, claimed_memory_bytes FROM host_claims WHERE host_id = $1",
    )
    .bind(host.id)
    .fetch_one(conn)
    .await?;
    let reason = CapabilityReason::new(
        "host_full",
        format!("host/{}", host.name),
        "it has promised too much to take the VM as well",
        "delete VMs there, or raise the host's overcommit",
    );
    Err(Error::HostFull(reason.with_evidence(format!(
        "{cpus} of {max_cpus} CPUs and {memory} of {max_memory} bytes are claimed, {} and {} are asked",
        spec.cpus, spec.memory_bytes
    ))))
}

/// Binds a volume to the pool that it lies in, and claims its size there.
async fn claim_pool(
    conn: &mut PgConnection,
    host: &Host,
    id: VolumeId,
    volume: &AdoptedVolume,
) -> Result<()> {
    let claimed = sqlx::query(
        "WITH pool AS (
            UPDATE pools SET claimed_bytes = claimed_bytes + $4
            WHERE host_id = $2 AND name = $3 AND claimed_bytes + $4 <= capacity_bytes RETURNING host_id, name)
         UPDATE volumes v SET host_id = p.host_id, pool = p.name FROM pool p WHERE v.id = $1",
    )
    .bind(id)
    .bind(host.id)
    .bind(&volume.pool)
    .bind(bigint(volume.spec.size_bytes))
    .execute(conn)
    .await?
    .rows_affected();
    if claimed == 1 {
        return Ok(());
    }
    Err(Error::HostFull(CapabilityReason::new(
        "insufficient_storage",
        format!("pool/{}/{}", host.name, volume.pool),
        format!("the pool cannot promise {} more bytes", volume.spec.size_bytes),
        "delete volumes of the pool, or add storage to it",
    )))
}

async fn place(
    conn: &mut PgConnection,
    change: &Change,
    host: &Host,
    vm: &Vm,
    adopted: &AdoptedVm,
    explanation: &Value,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO placements (vm_id, tenant_id, project_id, host_id, host, epoch, generation, explanation, decided_at,
            claimed_cpus, claimed_memory_bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(adopted.id)
    .bind(vm.metadata.tenant_id)
    .bind(vm.metadata.project_id)
    .bind(host.id)
    .bind(&host.name)
    .bind(adopted.epoch)
    .bind(vm.metadata.generation)
    .bind(Json(explanation))
    .bind(change.now)
    .bind(i64::from(adopted.spec.cpus))
    .bind(bigint(adopted.spec.memory_bytes))
    .execute(conn)
    .await?;
    Ok(())
}
