//! What most tests begin with: a tenant with a project, an image and a network, and short ways to act in it.

use basalt_model::{
    Epoch, GIB, HostId, ImageId, Labels, ProjectId, TenantId, VmId, VolumeId, hosts::HostFacts,
    images::ImageFormat, networks::NetworkSpec, vms::VmSpec,
};
use basalt_store::{
    Accepted, Change, Error, Ids, Key, New, Page, hosts, networks,
    placements::{self, Place},
    pools,
    testkit::{self, Database, name, now},
    vms::{self, Vm},
    volumes,
};
use serde_json::json;

/// VMs, CPUs, memory and bytes of a pool that a host promised.
pub type Claims = (u32, u32, u64, u64);
/// Those of one VM as [`small`] says.
pub const ONE: Claims = (1, 1, GIB, GIB);
pub const NONE: Claims = (0, 0, 0, 0);

pub struct House {
    pub db: Database,
    pub ids: Ids,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub image: ImageId,
}

impl House {
    pub async fn new() -> Self {
        Self::on(Database::new().await).await
    }

    pub async fn on(db: Database) -> Self {
        let ids = testkit::ids(1);
        let (tenant, project) = testkit::project(&db, &ids, "acme").await;
        let image = testkit::ready_image(&db, &ids, (tenant, project), "debian", ImageFormat::Qcow2).await;
        let house = Self { db, ids, tenant, project, image };
        house.network("net", "10.10.0.0/16").await.unwrap();
        house
    }

    pub fn change(&self) -> Change {
        testkit::change(&self.ids)
    }

    pub async fn network(&self, text: &str, cidr: &str) -> Result<networks::Network, Error> {
        self.network_as(text, serde_json::from_value(json!({ "cidr": cidr })).unwrap()).await
    }

    pub async fn network_as(&self, text: &str, spec: NetworkSpec) -> Result<networks::Network, Error> {
        let new = New { name: name(text), labels: Labels::default(), spec };
        let mut tx = self.db.store.tenant(self.tenant).await?;
        let accepted = networks::insert(&mut tx, &self.change(), self.project, &new).await?;
        tx.commit().await?;
        Ok(accepted.object)
    }

    pub async fn try_vm(&self, text: &str, spec: VmSpec) -> Result<Accepted<Vm>, Error> {
        let new = New { name: name(text), labels: Labels::default(), spec };
        let mut tx = self.db.store.tenant(self.tenant).await?;
        let accepted = vms::insert(&mut tx, &self.change(), self.project, &new).await?;
        tx.commit().await?;
        Ok(accepted)
    }

    /// A VM with one disk and one interface.
    pub async fn vm(&self, text: &str) -> Accepted<Vm> {
        self.try_vm(text, small()).await.unwrap()
    }

    /// Two hosts alike, `h1` and `h2`.
    pub async fn two_hosts(&self, facts: HostFacts) -> [HostId; 2] {
        let first = testkit::host(&self.db, &self.ids, "h1", facts.clone()).await;
        [first, testkit::host(&self.db, &self.ids, "h2", facts).await]
    }

    /// Puts a VM on a host, its first disk into that pool.
    pub async fn place(&self, vm: &Vm, host_id: HostId, pool: &str) {
        let place = Place {
            vm_id: vm.id(),
            generation: None,
            expected_epoch: Epoch(0),
            host_id,
            pools: vec![(vm.disks[0].volume_id.unwrap(), name(pool))],
            explanation: json!({}),
            now: now(),
        };
        let mut tx = self.db.store.system().await.unwrap();
        placements::place(&mut tx, &place).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// What each of two hosts promised, of this pool too.
    pub async fn claims(&self, hosts: [HostId; 2], pool: &str) -> [Claims; 2] {
        let mut tx = self.db.store.system_read().await.unwrap();
        let mut out = [NONE; 2];
        for (host, out) in hosts.into_iter().zip(&mut out) {
            let claimed = hosts::get(&mut tx, &Key::from(host)).await.unwrap().claimed;
            let pools = pools::list(&mut tx, Some(host), &Page::default()).await.unwrap().items;
            let pool = pools.iter().find(|p| p.facts.name == name(pool)).unwrap();
            *out = (claimed.vms, claimed.cpus, claimed.memory_bytes, pool.claimed_bytes);
        }
        out
    }

    /// Where a VM is placed, under which epoch, and where its volume is.
    pub async fn at(&self, vm: VmId, volume: VolumeId) -> (Option<HostId>, Epoch, Option<HostId>) {
        let mut tx = self.db.store.tenant_read(self.tenant).await.unwrap();
        let placement = vms::get(&mut tx, self.project, &Key::from(vm)).await.unwrap().placement.unwrap();
        let volume = volumes::get(&mut tx, self.project, &Key::from(volume)).await.unwrap();
        (placement.host_id, placement.epoch, volume.volume.host_id)
    }

    pub async fn vms(&self, n: usize) -> Vec<VmId> {
        let mut ids = Vec::new();
        for i in 0..n {
            ids.push(self.vm(&format!("vm-{i}")).await.object.id());
        }
        ids
    }
}

pub fn spec(json: serde_json::Value) -> VmSpec {
    serde_json::from_value(json).unwrap()
}

/// One CPU, 1 GiB of memory, a disk from the image `debian`, an interface on `net`.
pub fn small() -> VmSpec {
    spec(json!({
        "cpus": 1, "memory_bytes": 1u64 << 30, "nics": [{"network": "net"}],
        "disks": [{"name": "root", "source": {"kind": "image", "image": "debian"}}],
    }))
}
