//! Declaring VMs: one statement resolves the names in their specs, one writes everything that follows from them.
//!
//! The second claims quota first; everything else hangs on that claim, so a refused one writes nothing. The
//! quota row's lock also orders the creates of a project. Those that wait for it are declared together, by the same two
//! statements in one transaction ([`declare`]).

use crate::{
    Accepted, Change, Error, New, Result, Store, TenantTx,
    gather::Gather,
    images::{self, Usable},
    row, security_groups,
    store::AT_ONCE,
    tasks,
    vm_write::write,
    vms::Vm,
};
use basalt_model::{
    Generation, ImageId, MIB, Metadata, Name, NetworkId, PortId, ProjectId, SecurityGroupId, TenantId, VmId,
    VolumeId,
    networks::{NetworkSpec, address6},
    tasks::{Task, TaskKind},
    vms::{DiskSource, DiskSpec, VmDisk, VmSpec},
    volumes::{VolumeSource, VolumeSpec},
};
use serde::Deserialize;
use sqlx::PgConnection;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use uuid::Uuid;

/// Declares a VM with its volumes, ports and claims; its task ends when it is as declared.
pub async fn insert(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<VmSpec>,
) -> Result<Accepted<Vm>> {
    insert_as(tx, change, project, new, None).await
}

/// Declares a VM whose task was given before: with the ids that were promised then.
pub(crate) async fn insert_as(
    tx: &mut TenantTx,
    change: &Change,
    project: ProjectId,
    new: &New<VmSpec>,
    promised: Option<&Task>,
) -> Result<Accepted<Vm>> {
    let found = resolve(tx.conn(), project, [&new.spec].into_iter()).await?;
    let mut draft = Draft::new(change, tx.tenant(), project, new, &found)?;
    if let Some(task) = promised {
        draft.vm.metadata.id = task.subject.id;
        draft.task.id = task.id;
        draft.task.subject = draft.vm.subject();
    }
    let mut drafts = [draft];
    tx.take_turn(project).await?;
    write(tx.conn(), project, &mut drafts).await?;
    let [draft] = drafts;
    Ok(draft.accepted())
}

/// Those who wait to be declared in a project.
pub(crate) type Declarations = Gather<(TenantId, ProjectId), (Change, New<VmSpec>), Declared>;
type Declared = Result<Option<Accepted<Vm>>>;

/// VMs of one transaction.
const MOST: usize = 8;

pub(crate) fn declarations() -> Arc<Declarations> {
    Gather::new(AT_ONCE, MOST)
}

/// Declares a VM, durably, in one transaction with others that wait to be declared in the same project. `None`: nothing
/// was written, because something about it or one of the others was refused; [`insert`] it alone, to know.
pub async fn declare(
    store: &Store,
    tenant: TenantId,
    project: ProjectId,
    change: Change,
    new: New<VmSpec>,
) -> Declared {
    let asked = store.clone();
    let answer = move |(tenant, project), asked_for: Vec<(Change, New<VmSpec>)>| {
        let store = asked.clone();
        async move { together(&store, tenant, project, &asked_for).await }
    };
    store.declarations().ask((tenant, project), (change, new), answer).await.unwrap_or(Ok(None))
}

async fn together(
    store: &Store,
    tenant: TenantId,
    project: ProjectId,
    asked_for: &[(Change, New<VmSpec>)],
) -> Vec<Declared> {
    let mut answers: Vec<Declared> = asked_for.iter().map(|_| Ok(None)).collect();
    match write_together(store, tenant, project, asked_for).await {
        Ok(None) => {}
        // Alone they would only wait for the same once more.
        Err(e @ Error::Unavailable(_)) => answers.iter_mut().for_each(|a| *a = Err(e.shared())),
        Err(e) => tracing::debug!(%project, vms = asked_for.len(), error = %e, "declared one by one"),
        Ok(Some((tx, drafts))) => match tx.commit().await {
            Ok(()) => drafts.into_iter().for_each(|(i, draft)| answers[i] = Ok(Some(draft.accepted()))),
            // It may have been committed: who declares it again would be told that the name is taken.
            Err(e) => drafts.iter().for_each(|(i, _)| answers[*i] = Err(e.shared())),
        },
    }
    answers
}

/// Writes all that can be written, each with its place. Not committed yet.
async fn write_together<'a>(
    store: &Store,
    tenant: TenantId,
    project: ProjectId,
    asked_for: &'a [(Change, New<VmSpec>)],
) -> Result<Option<(TenantTx, Vec<(usize, Draft<'a>)>)>> {
    let mut tx = store.tenant(tenant).await?;
    let found = resolve(tx.conn(), project, asked_for.iter().map(|(_, new)| &new.spec)).await?;
    let draft = |(change, new): &'a (Change, New<VmSpec>)| Draft::new(change, tenant, project, new, &found);
    let (places, mut drafts): (Vec<usize>, Vec<Draft<'_>>) =
        asked_for.iter().enumerate().filter_map(|(i, asked)| Some((i, draft(asked).ok()?))).unzip();
    if drafts.is_empty() {
        return Ok(None);
    }
    tx.take_turn(project).await?;
    write(tx.conn(), project, &mut drafts).await?;
    Ok(Some((tx, places.into_iter().zip(drafts).collect())))
}

/// A VM that is about to be written.
pub(crate) struct Draft<'a> {
    pub(crate) change: &'a Change,
    pub(crate) vm: Vm,
    pub(crate) task: Task,
    pub(crate) disks: Disks,
    pub(crate) nics: Vec<NewNic>,
    /// All groups that the spec names.
    pub(crate) security_groups: BTreeSet<SecurityGroupId>,
}

impl<'a> Draft<'a> {
    fn new(
        change: &'a Change,
        tenant: TenantId,
        project: ProjectId,
        new: &New<VmSpec>,
        found: &Found,
    ) -> Result<Self> {
        let id: VmId = change.id();
        let disks = plan_disks(change, &new.name, &new.spec, &found.images, &found.volumes)?;
        let nics = plan_nics(change, &new.spec, found)?;
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
        let vm = Vm {
            metadata,
            spec: new.spec.clone(),
            incarnation: 0,
            operation: None,
            nics: Vec::new(),
            disks: disks.disks.clone(),
        };
        let task = tasks::new(change, tenant, project, TaskKind::VmCreate, vm.subject(), Generation::FIRST);
        let groups = security_groups::given_by_vm(&new.spec);
        let security_groups =
            groups.iter().filter_map(|(name, _)| found.security_groups.get(*name)).copied().collect();
        Ok(Self { change, vm, task, disks, nics, security_groups })
    }

    pub(crate) fn id(&self) -> Uuid {
        self.vm.metadata.id
    }

    fn accepted(self) -> Accepted<Vm> {
        Accepted { object: self.vm, task: self.task }
    }
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
    security_groups: BTreeMap<Name, SecurityGroupId>,
}

/// Everything that the specs name, in one round trip. Volumes one by one: asked for all names at once, the server may
/// look through all volumes of the project.
async fn resolve<'a>(
    conn: &mut PgConnection,
    project: ProjectId,
    specs: impl Iterator<Item = &'a VmSpec>,
) -> Result<Found> {
    let (mut images, mut volumes, mut networks) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut groups = BTreeSet::new();
    for spec in specs {
        for disk in &spec.disks {
            match &disk.source {
                DiskSource::Image { image } | DiskSource::Iso { image } => images.insert(image.as_str()),
                DiskSource::Volume { volume } => volumes.insert(volume.as_str()),
                DiskSource::Blank {} => false,
            };
        }
        networks.extend(spec.nics.iter().map(|n| n.network.as_str()));
        groups.extend(security_groups::given_by_vm(spec).into_iter().map(|(name, _)| name.as_str()));
    }
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
                (SELECT * FROM volumes WHERE project_id = $1 AND name = named.name LIMIT 1) v) AS volumes,
            (SELECT jsonb_object_agg(g.name, g.id) FROM security_groups g
             WHERE g.project_id = $1 AND g.name = ANY($5)) AS security_groups",
    )
    .bind(project)
    .bind(images.into_iter().collect::<Vec<_>>())
    .bind(networks.into_iter().collect::<Vec<_>>())
    .bind(volumes.into_iter().collect::<Vec<_>>())
    .bind(groups.into_iter().collect::<Vec<_>>())
    .fetch_one(conn)
    .await?;
    Ok(Found {
        images: row::json_option(&row, "images")?.unwrap_or_default(),
        networks: row::json_option(&row, "networks")?.unwrap_or_default(),
        volumes: row::json_option(&row, "volumes")?.unwrap_or_default(),
        security_groups: row::json_option(&row, "security_groups")?.unwrap_or_default(),
    })
}

pub(crate) struct NewVolume {
    pub(crate) id: VolumeId,
    pub(crate) name: Name,
    pub(crate) spec: VolumeSpec,
    pub(crate) image_id: Option<ImageId>,
}

#[derive(Default)]
pub(crate) struct Disks {
    pub(crate) disks: Vec<VmDisk>,
    pub(crate) new: Vec<NewVolume>,
    pub(crate) attached: Vec<VolumeId>,
    /// Images that must stay: under a new volume, or as an optical disc.
    pub(crate) held: Vec<ImageId>,
}

impl Disks {
    pub(crate) fn bytes(&self) -> u64 {
        self.new.iter().fold(0, |sum, v| sum.saturating_add(v.spec.size_bytes))
    }
}

fn plan_disks(
    change: &Change,
    vm: &Name,
    spec: &VmSpec,
    images: &[Usable],
    volumes: &[FoundVolume],
) -> Result<Disks> {
    // The project's own image goes before one that its tenant shares under the same name.
    let named = |name: &Name| {
        let mut found = images.iter().filter(|i| i.name == *name);
        found.clone().find(|i| i.own).or_else(|| found.next()).cloned()
    };
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
                let found = images::check(named(image), image, false, &field)?;
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
                let found = images::check(named(image), image, true, &field)?;
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

pub(crate) struct NewNic {
    pub(crate) port_id: PortId,
    pub(crate) network_id: NetworkId,
    pub(crate) network: Name,
    pub(crate) mac: String,
    pub(crate) wanted: Option<Ipv4Addr>,
    pub(crate) address6: Option<Ipv6Addr>,
    pub(crate) security_groups: Vec<SecurityGroupId>,
}

fn plan_nics(change: &Change, spec: &VmSpec, found: &Found) -> Result<Vec<NewNic>> {
    let (networks, groups) = (&found.networks, &found.security_groups);
    if let Some((name, field)) =
        security_groups::given_by_vm(spec).iter().find(|(name, _)| !groups.contains_key(*name))
    {
        return Err(security_groups::missing(name, field));
    }
    let mut out: Vec<NewNic> = Vec::new();
    for (i, nic) in spec.nics.iter().enumerate() {
        let at = format!("spec.nics[{i}]");
        let network = networks.iter().find(|n| n.name == nic.network);
        let network = network.ok_or_else(|| Error::ReferenceNotFound {
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
            address6: network.spec.cidr6.map(|prefix| address6(prefix, &mac(port_id))),
            mac: mac(port_id),
            wanted: nic.address,
            security_groups: security_groups::of_nic(spec, i, groups),
        });
    }
    Ok(out)
}

/// A locally administered unicast address from the random end of the port's id.
pub(crate) fn mac(port: PortId) -> String {
    let b = port.0.into_bytes();
    format!("02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[11], b[12], b[13], b[14], b[15])
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
