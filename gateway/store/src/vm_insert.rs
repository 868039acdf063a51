//! Declaring a VM: one statement resolves the names in its spec, one writes everything that follows from it.
//!
//! The second claims quota first; everything else hangs on that claim, so a refused one writes nothing. The
//! quota row's lock also orders the creates of a project, so no two of them wait for each other.

use crate::{
    Accepted, Change, Error, Key, New, Result, TenantTx,
    error::refused,
    images::{self, Usable},
    quotas::{self, Delta},
    row::{self, bigint, uuids},
    tasks,
    vms::Vm,
};
use basalt_model::{
    Generation, ImageId, Labels, MIB, Metadata, Name, NetworkId, PortId, ProjectId, TenantId, VmId, VolumeId,
    networks::NetworkSpec,
    tasks::{Task, TaskKind},
    vms::{DiskSource, DiskSpec, VmDisk, VmNic, VmSpec},
    volumes::{VolumeSource, VolumeSpec},
};
use serde::Deserialize;
use sqlx::{PgConnection, Row, types::Json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};
use uuid::Uuid;

/// Declares a VM with its volumes, ports and claims; its task ends when it is as declared.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<VmSpec>,
) -> Result<Accepted<Vm>> {
    let tenant = tx.tenant();
    let id: VmId = change.id();
    let found = resolve(tx.conn(), project, &new.spec).await?;
    let disks = plan_disks(change, &new.name, &new.spec, found.images, &found.volumes)?;
    let nics = plan_nics(change, &new.spec, &found.networks)?;
    let metadata = Metadata {
        id: id.0,
        tenant_id: Some(tenant),
        project_id: Some(project),
        name: new.name.clone(),
        labels: new.labels.clone(),
        generation: Generation::FIRST,
        created_at: change.now,
        updated_at: change.now,
        deletion_requested_at: None,
    };
    let mut vm = Vm {
        metadata,
        spec: new.spec.clone(),
        incarnation: 0,
        operation: None,
        nics: Vec::new(),
        disks: disks.disks.clone(),
    };
    let task = tasks::new(change, tenant, project, TaskKind::VmCreate, vm.subject(), Generation::FIRST);
    tx.take_turn(project).await?;
    vm.nics = write(tx.conn(), change, &vm, &task, &disks, &nics).await?;
    Ok(Accepted { object: vm, task })
}

#[derive(Deserialize)]
struct FoundNetwork {
    id: NetworkId,
    name: Name,
    spec: NetworkSpec,
    going: bool,
}

#[derive(Deserialize)]
struct FoundVolume {
    id: VolumeId,
    name: Name,
    going: bool,
    used_by: Option<String>,
}

struct Found {
    images: Vec<Usable>,
    networks: Vec<FoundNetwork>,
    volumes: Vec<FoundVolume>,
}

/// Everything that the spec names, in one round trip. Volumes one by one: asked for all names at once, the server may
/// look through all volumes of the project.
async fn resolve(conn: &mut PgConnection, project: ProjectId, spec: &VmSpec) -> Result<Found> {
    let (mut images, mut volumes) = (BTreeSet::new(), BTreeSet::new());
    for disk in &spec.disks {
        match &disk.source {
            DiskSource::Image { image } | DiskSource::Iso { image } => images.insert(image.as_str()),
            DiskSource::Volume { volume } => volumes.insert(volume.as_str()),
            DiskSource::Blank {} => false,
        };
    }
    let networks: BTreeSet<&str> = spec.nics.iter().map(|n| n.network.as_str()).collect();
    let row = sqlx::query(
        "SELECT
            (SELECT jsonb_agg(jsonb_build_object('id', i.id, 'name', i.name, 'format', i.spec -> 'format',
                'own', i.project_id = $1, 'going', i.deletion_requested_at IS NOT NULL, 'observed', o.observed))
             FROM images i JOIN image_observed o ON o.image_id = i.id
             WHERE i.name = ANY($2) AND (i.project_id = $1 OR i.shared)) AS images,
            (SELECT jsonb_agg(jsonb_build_object('id', n.id, 'name', n.name, 'spec', n.spec,
                'going', n.deletion_requested_at IS NOT NULL))
             FROM networks n WHERE n.project_id = $1 AND n.name = ANY($3)) AS networks,
            (SELECT jsonb_agg(jsonb_build_object('id', v.id, 'name', v.name,
                'going', v.deletion_requested_at IS NOT NULL,
                'used_by', (SELECT m.name FROM vms m WHERE m.id = v.vm_id)))
             FROM unnest($4::text[]) named(name) CROSS JOIN LATERAL
                (SELECT * FROM volumes WHERE project_id = $1 AND name = named.name LIMIT 1) v) AS volumes",
    )
    .bind(project)
    .bind(images.into_iter().collect::<Vec<_>>())
    .bind(networks.into_iter().collect::<Vec<_>>())
    .bind(volumes.into_iter().collect::<Vec<_>>())
    .fetch_one(conn)
    .await?;
    Ok(Found {
        images: row::json_option(&row, "images")?.unwrap_or_default(),
        networks: row::json_option(&row, "networks")?.unwrap_or_default(),
        volumes: row::json_option(&row, "volumes")?.unwrap_or_default(),
    })
}

struct NewVolume {
    id: VolumeId,
    name: Name,
    spec: VolumeSpec,
    image_id: Option<ImageId>,
}

#[derive(Default)]
struct Disks {
    disks: Vec<VmDisk>,
    new: Vec<NewVolume>,
    attached: Vec<VolumeId>,
    /// Images that must stay: under a new volume, or as an optical disc.
    held: Vec<ImageId>,
}

impl Disks {
    fn bytes(&self) -> u64 {
        self.new.iter().fold(0, |sum, v| sum.saturating_add(v.spec.size_bytes))
    }
}

fn plan_disks(
    change: &Change,
    vm: &Name,
    spec: &VmSpec,
    images: Vec<Usable>,
    volumes: &[FoundVolume],
) -> Result<Disks> {
    // The project's own image goes before one that its tenant shares under the same name.
    let mut by_name: BTreeMap<Name, Usable> = BTreeMap::new();
    for image in images {
        if image.own || !by_name.contains_key(&image.name) {
            by_name.insert(image.name.clone(), image);
        }
    }
    let mut out = Disks::default();
    for (i, disk) in spec.disks.iter().enumerate() {
        let at = format!("spec.disks[{i}]");
        let mut resolved = VmDisk {
            name: disk.name.clone(),
            volume_id: None,
            iso_image_id: None,
            boot_order: disk.boot_order,
        };
        match &disk.source {
            DiskSource::Image { image } => {
                let field = format!("{at}.source.image");
                let found = images::check(by_name.get(image).cloned(), image, false, &field)?;
                let size_bytes = disk_size(disk, &found, &at)?;
                let source = VolumeSource::Image { image: image.clone() };
                resolved.volume_id = Some(out.add(change, vm, disk, source, size_bytes, Some(found.id)));
                out.held.push(found.id);
            }
            DiskSource::Blank {} => {
                let size = disk.size_bytes.unwrap_or(MIB);
                resolved.volume_id = Some(out.add(change, vm, disk, VolumeSource::Blank, size, None));
            }
            DiskSource::Iso { image } => {
                let field = format!("{at}.source.image");
                let found = images::check(by_name.get(image).cloned(), image, true, &field)?;
                resolved.iso_image_id = Some(found.id);
                out.held.push(found.id);
            }
            DiskSource::Volume { volume } => {
                let id = attachable(volumes, volume, &format!("{at}.source.volume"), &out.attached)?;
                resolved.volume_id = Some(id);
                out.attached.push(id);
            }
        }
        out.disks.push(resolved);
    }
    Ok(out)
}

fn disk_size(disk: &DiskSpec, image: &Usable, at: &str) -> Result<u64> {
    let minimum = image.virtual_size_bytes;
    let given = disk.size_bytes.unwrap_or_else(|| minimum.div_ceil(MIB).max(1) * MIB);
    if given < minimum {
        return Err(Error::SizeTooSmall { field: format!("{at}.size_bytes"), given, minimum });
    }
    Ok(given)
}

fn attachable(volumes: &[FoundVolume], name: &Name, field: &str, taken: &[VolumeId]) -> Result<VolumeId> {
    let found = volumes.iter().find(|v| v.name == *name).ok_or_else(|| Error::ReferenceNotFound {
        kind: "volume",
        name: name.clone(),
        field: field.to_string(),
    })?;
    let in_use = |by: &str| Error::InUse { kind: "volume", name: name.to_string(), by: vec![by.to_string()] };
    match &found.used_by {
        Some(vm) => Err(in_use(&format!("vm/{vm}"))),
        None if found.going => Err(Error::Deleting { kind: "volume", name: name.to_string() }),
        None if taken.contains(&found.id) => Err(in_use("another disk of this VM")),
        None => Ok(found.id),
    }
}

impl Disks {
    fn add(
        &mut self,
        change: &Change,
        vm: &Name,
        disk: &DiskSpec,
        source: VolumeSource,
        size_bytes: u64,
        image_id: Option<ImageId>,
    ) -> VolumeId {
        let id: VolumeId = change.id();
        let spec = VolumeSpec { size_bytes, source, pool: disk.pool.clone() };
        self.new.push(NewVolume { id, name: volume_name(vm, &disk.name, id), spec, image_id });
        id
    }
}

/// `web-1-root`, or, where that is longer than a name may be, its beginnings and a part of the id.
fn volume_name(vm: &Name, disk: &Name, id: VolumeId) -> Name {
    let cut = |n: &Name, to: usize| n.as_str().chars().take(to).collect::<String>();
    let tail = &id.0.simple().to_string()[20..];
    Name::new(format!("{vm}-{disk}"))
        .or_else(|_| Name::new(format!("{}-{}-{tail}", cut(vm, 30), cut(disk, 18))))
        .unwrap_or_else(|_| disk.clone())
}

struct NewNic {
    port_id: PortId,
    network_id: NetworkId,
    network: Name,
    mac: String,
    wanted: Option<Ipv4Addr>,
}

fn plan_nics(change: &Change, spec: &VmSpec, networks: &[FoundNetwork]) -> Result<Vec<NewNic>> {
    let mut out: Vec<NewNic> = Vec::new();
    for (i, nic) in spec.nics.iter().enumerate() {
        let at = format!("spec.nics[{i}]");
        let found = networks.iter().find(|n| n.name == nic.network);
        let network = found.ok_or_else(|| Error::ReferenceNotFound {
            kind: "network",
            name: nic.network.clone(),
            field: format!("{at}.network"),
        })?;
        if network.going {
            return Err(Error::Deleting { kind: "network", name: network.name.to_string() });
        }
        if let Some(address) = nic.address {
            let field = format!("{at}.address");
            if !network.spec.assignable(address) {
                return Err(Error::AddressOutside { address, network: network.name.clone(), field });
            }
            if out.iter().any(|n| n.network_id == network.id && n.wanted == Some(address)) {
                let (address, network) = (address.to_string(), network.name.to_string());
                return Err(Error::AddressTaken { address, network, field });
            }
        }
        let port_id: PortId = change.id();
        out.push(NewNic {
            port_id,
            network_id: network.id,
            network: network.name.clone(),
            mac: mac(port_id),
            wanted: nic.address,
        });
    }
    Ok(out)
}

/// A locally administered unicast address from the random end of the port's id.
pub(crate) fn mac(port: PortId) -> String {
    let b = port.0.into_bytes();
    format!("02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[11], b[12], b[13], b[14], b[15])
}

const WRITE: &str = "
WITH claim AS (
    UPDATE quotas SET used_vms = used_vms + 1, used_cpus = used_cpus + $1, used_memory_bytes = used_memory_bytes + $2,
        used_storage_bytes = used_storage_bytes + $3
    WHERE project_id = $4 AND used_vms + 1 <= max_vms AND used_cpus + $1 <= max_cpus
        AND used_memory_bytes + $2 <= max_memory_bytes AND used_storage_bytes + $3 <= max_storage_bytes
    RETURNING tenant_id, project_id
), held AS (
    SELECT hold_image(i.id) AS id FROM claim, unnest($5::uuid[]) i(id)
), nic AS (
    SELECT n.ord, n.port_id, n.network_id, n.network, n.mac,
        claim_address(n.network_id, n.wanted::inet, $11::text[]::inet[]) AS address
    FROM claim, unnest($6::uuid[], $7::uuid[], $8::text[], $9::text[], $10::text[])
        WITH ORDINALITY n(port_id, network_id, network, mac, wanted, ord)
), vm AS (
    INSERT INTO vms (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec, incarnation,
        nics, disks)
    SELECT $12, c.tenant_id, c.project_id, $13, $14, 1, $15, $15, $16, 0,
        coalesce((SELECT jsonb_agg(jsonb_build_object('port_id', n.port_id, 'network_id', n.network_id,
            'network', n.network, 'mac', n.mac, 'address', host(n.address)) ORDER BY n.ord) FROM nic n), '[]'), $17
    FROM claim c WHERE (SELECT count(h.id) FROM held h) >= 0
    RETURNING nics
), port AS (
    INSERT INTO ports (id, tenant_id, project_id, network_id, vm_id, nic_index, mac, address)
    SELECT n.port_id, c.tenant_id, c.project_id, n.network_id, $12, n.ord - 1, n.mac, n.address FROM nic n, claim c
), volume AS (
    INSERT INTO volumes (id, tenant_id, project_id, name, labels, generation, created_at, updated_at, spec, size_bytes,
        image_id, vm_id, owned, incarnation)
    SELECT v.id, c.tenant_id, c.project_id, v.name, '{}', 1, $15, $15, v.spec, v.size_bytes, v.image_id, $12, true, 0
    FROM claim c, unnest($18::uuid[], $19::text[], $20::jsonb[], $21::bigint[], $22::uuid[])
        v(id, name, spec, size_bytes, image_id)
), attached AS (
    UPDATE volumes SET vm_id = $12
    WHERE id = ANY($23) AND num_nonnulls(vm_id, deletion_requested_at) = 0 AND EXISTS (SELECT FROM claim)
    RETURNING id
), task AS (
    INSERT INTO tasks (id, tenant_id, project_id, kind, subject_kind, subject_id, subject_name, generation, state,
        progress, stage, depends_on, deadline, attempt, actor, created_at)
    SELECT $24, c.tenant_id, c.project_id, 'vm_create', 'vm', $12, $13, 1, 'pending', 0, '', '{}', $25, 1, $26, $15
    FROM claim c
), audit AS (
    INSERT INTO audit_events (id, at, tenant_id, project_id, actor_kind, actor_id, actor_name, action, subject_kind,
        subject_id, subject_name, request_id)
    SELECT $27, $15, c.tenant_id, c.project_id, $28, $29, $30, 'vm.create', 'vm', $12, $13, $31 FROM claim c
)
SELECT vm.nics, (SELECT count(*) FROM attached) AS attached FROM vm";

async fn write(
    conn: &mut PgConnection,
    change: &Change,
    vm: &Vm,
    task: &Task,
    disks: &Disks,
    nics: &[NewNic],
) -> Result<Vec<VmNic>> {
    let (project, tenant) = scope(vm)?;
    let demand = vm.spec.demand(disks.bytes());
    let wanted = |n: &NewNic| n.wanted.map(|a| a.to_string());
    let row = sqlx::query(WRITE)
        .bind(i64::from(demand.cpus))
        .bind(bigint(demand.memory_bytes))
        .bind(bigint(demand.storage_bytes))
        .bind(project)
        .bind(uuids(&disks.held))
        .bind(nics.iter().map(|n| n.port_id.0).collect::<Vec<_>>())
        .bind(nics.iter().map(|n| n.network_id.0).collect::<Vec<_>>())
        .bind(nics.iter().map(|n| n.network.as_str()).collect::<Vec<_>>())
        .bind(nics.iter().map(|n| n.mac.as_str()).collect::<Vec<_>>())
        .bind(nics.iter().map(wanted).collect::<Vec<_>>())
        .bind(nics.iter().filter_map(wanted).collect::<Vec<_>>())
        .bind(vm.metadata.id)
        .bind(&vm.metadata.name)
        .bind(Json::<&Labels>(&vm.metadata.labels))
        .bind(change.now)
        .bind(Json(&vm.spec))
        .bind(Json(&vm.disks))
        .bind(disks.new.iter().map(|v| v.id.0).collect::<Vec<_>>())
        .bind(disks.new.iter().map(|v| v.name.as_str()).collect::<Vec<_>>())
        .bind(disks.new.iter().map(|v| Json(&v.spec)).collect::<Vec<_>>())
        .bind(disks.new.iter().map(|v| bigint(v.spec.size_bytes)).collect::<Vec<_>>())
        .bind(disks.new.iter().map(|v| v.image_id.map(Uuid::from)).collect::<Vec<_>>())
        .bind(uuids(&disks.attached))
        .bind(task.id)
        .bind(task.deadline)
        .bind(Json(&task.actor))
        .bind((change.ids)())
        .bind(&change.actor.kind)
        .bind(change.actor.id)
        .bind(&change.actor.name)
        .bind(&change.request_id)
        .fetch_optional(&mut *conn)
        .await
        .map_err(|e| words(e, vm, disks, nics))?;
    let Some(row) = row else {
        let asked = Delta {
            vms: 1,
            cpus: demand.cpus.into(),
            memory_bytes: bigint(demand.memory_bytes),
            storage_bytes: bigint(demand.storage_bytes),
        };
        return Err(quotas::exceeded(conn, project, asked).await?);
    };
    let attached: i64 = row.try_get("attached")?;
    if usize::try_from(attached).ok() != Some(disks.attached.len()) {
        // Somebody took a volume between the two statements. The caller rolls back.
        let name = vm.metadata.name.to_string();
        tracing::debug!(%tenant, vm = %name, "a volume was taken while the VM was declared");
        return Err(Error::Conflict(sqlx::Error::RowNotFound));
    }
    Ok(row::json(&row, "nics")?)
}

fn scope(vm: &Vm) -> Result<(ProjectId, TenantId)> {
    match (vm.metadata.project_id, vm.metadata.tenant_id) {
        (Some(project), Some(tenant)) => Ok((project, tenant)),
        _ => Err(Key::Id(vm.metadata.id).missing("project")),
    }
}

/// What the database refused, in the words of the spec.
fn words(e: sqlx::Error, vm: &Vm, disks: &Disks, nics: &[NewNic]) -> Error {
    let Some((constraint, details)) = refused(&e) else { return e.into() };
    let about = details.detail().and_then(|d| Uuid::parse_str(d).ok());
    let nic = |of: &dyn Fn(&NewNic) -> bool| nics.iter().position(of).map(|i| (i, &nics[i]));
    let error = match constraint {
        "vms_name" => Some(Error::NameTaken { kind: "vm", name: vm.metadata.name.to_string() }),
        "volumes_name" => Some(Error::NameTaken {
            kind: "volume",
            name: disks.new.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(" or "),
        }),
        "vms_project" => vm.metadata.project_id.map(|p| Key::from(p).missing("project")),
        "subnet_exhausted" => nic(&|n| Some(n.network_id.0) == about && n.wanted.is_none()).map(|(i, n)| {
            Error::SubnetExhausted { network: n.network.clone(), field: format!("spec.nics[{i}].network") }
        }),
        "network_closed" => nic(&|n| Some(n.network_id.0) == about)
            .map(|(_, n)| Error::Deleting { kind: "network", name: n.network.to_string() }),
        "image_going" => about.map(|id| Error::Deleting { kind: "image", name: id.to_string() }),
        // Free addresses are found under the network's lock, so only a wanted one can be taken.
        "ports_address" => nic(&|n| n.wanted.is_some()).map(|(i, _)| {
            let all: Vec<&NewNic> = nics.iter().filter(|n| n.wanted.is_some()).collect();
            Error::AddressTaken {
                address: all
                    .iter()
                    .filter_map(|n| n.wanted)
                    .map(|a| a.to_string())
                    .collect::<Vec<_>>()
                    .join(" or "),
                network: all.iter().map(|n| n.network.as_str()).collect::<Vec<_>>().join(" or "),
                field: format!("spec.nics[{i}].address"),
            }
        }),
        _ => None,
    };
    error.unwrap_or_else(|| e.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_named_after_its_vm_and_disk_within_the_limit() {
        let id = VolumeId(Uuid::from_u128(0x1234_5678_9abc));
        let name = |s: &str| Name::new(s).unwrap();
        assert_eq!(volume_name(&name("web-1"), &name("root"), id).as_str(), "web-1-root");
        let long = volume_name(&name(&"v".repeat(63)), &name(&"d".repeat(63)), id);
        assert!(long.as_str().len() <= 63 && long.as_str().ends_with("123456789abc"), "{long}");
    }

    #[test]
    fn a_mac_is_local_and_unicast() {
        assert_eq!(mac(PortId(Uuid::from_u128(0xaabb_ccdd_ee11))), "02:bb:cc:dd:ee:11");
    }
}
