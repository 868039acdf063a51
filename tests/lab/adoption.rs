//! H5 on real parts: a VM that was made by hand runs, is adopted, is not touched by it, and then lives as any other.

use crate::cluster::{Cluster, until};
use basalt_lab::journey;
use basalt_model::{hosts::Foreign, vms::ObservedPower};
use basalt_wire::rest::{Host, Phase, Vm, Volume};
use serde_json::{Value, json};
use std::{os::unix::fs::MetadataExt, path::PathBuf, time::Duration};
use uuid::Uuid;

/// On a bridge of its own, with the devices that a tool for the desktop adds.
const HANDMADE: &str = "<domain type='qemu'><name>handmade</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/var/lib/basalt/pools/default/volumes/handmade.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>
    <interface type='bridge'><mac address='52:54:00:5a:00:01'/><source bridge='hand0'/><model type='virtio'/></interface>
    <serial type='pty'/><input type='tablet' bus='usb'/><graphics type='vnc'><listen type='socket'/></graphics>
    <video><model type='vga'/></video></devices></domain>";

struct House {
    cluster: Cluster,
}

impl House {
    /// A cluster with a project and a network, and on its host a VM that somebody made by hand.
    async fn with_handmade() -> Self {
        let house = Self { cluster: Cluster::up().await };
        let client = &house.cluster.client;
        let post = async |path: &str, body: Value| {
            client.post::<_, Value>(path, &body).await.unwrap_or_else(|e| panic!("{path}: {}", e.text()))
        };
        post("/v1/projects", json!({"name": journey::PROJECT})).await;
        post(&house.path("security-groups"), journey::security_group()).await;
        let groups = [journey::SECURITY_GROUP];
        let network = json!({"name": "lan", "spec": {"cidr": "10.10.0.0/24", "security_groups": groups}});
        post(&house.path("networks"), network).await;
        house.until_host("the pool is there", |host| host.facts.is_some_and(|f| !f.pools.is_empty())).await;
        let image = house.cluster.lab.guest_image(&mut |_| {}).unwrap();
        std::fs::copy(&image.path, house.volumes().join("handmade.qcow2")).unwrap();
        let xml = house.cluster.host().dir().join("lib-basalt").join("handmade.xml");
        std::fs::write(&xml, HANDMADE).unwrap();
        for words in [
            &["ip", "link", "add", "hand0", "type", "bridge"][..],
            &["ip", "link", "set", "hand0", "up"],
            &["virsh", "define", "/var/lib/basalt/handmade.xml"],
            &["virsh", "start", "handmade"],
        ] {
            house.run(words);
        }
        house
    }

    fn run(&self, words: &[&str]) -> String {
        self.cluster.host().run(words).unwrap_or_else(|e| panic!("{words:?}: {e:#}"))
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/projects/{}/{rest}", journey::PROJECT)
    }

    /// The directory of the pool's volumes, seen from outside of the host.
    fn volumes(&self) -> PathBuf {
        self.cluster.host().dir().join("lib-basalt/pools/default/volumes")
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.volumes()).unwrap().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        self.cluster.client.get(path).await.unwrap_or_else(|e| panic!("{path}: {}", e.text()))
    }

    async fn until_host(&self, what: &str, holds: impl Fn(Host) -> bool) {
        until(what, Duration::from_secs(60), async || holds(self.get("/v1/hosts/h1").await)).await;
    }

    async fn foreign(&self) -> Vec<Foreign> {
        self.get::<Host>("/v1/hosts/h1").await.facts.map(|f| f.foreign).unwrap_or_default()
    }

    fn qemu(&self) -> Vec<u32> {
        self.cluster.host().pids_of("qemu-system-x86")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h5_a_running_domain_made_by_hand_is_adopted_and_its_qemu_does_not_notice() {
    let house = House::with_handmade().await;
    house
        .until_host("it is described", |host| {
            let foreign = host.facts.map(|f| f.foreign).unwrap_or_default();
            let runs = |f: &Foreign| f.vm.as_ref().is_some_and(|vm| vm.power == ObservedPower::Running);
            foreign.iter().any(|f| f.name == "handmade" && runs(f))
        })
        .await;
    let seen = house.foreign().await.into_iter().find(|f| f.name == "handmade").unwrap();
    let (id, vm): (Uuid, _) = (seen.id.parse().unwrap(), seen.vm.unwrap());
    assert_eq!((vm.unsupported, vm.nics[0].mac.as_str()), (vec![], "52:54:00:5a:00:01"));
    assert!(house.cluster.basalt(&["describe", "host", "h1"]).contains("handmade.qcow2"));
    let (before, inode) =
        (house.qemu(), std::fs::metadata(house.volumes().join("handmade.qcow2")).unwrap().ino());
    assert_eq!(before.len(), 1);

    let said = house.cluster.basalt(&["adopt", "vm", "h1/handmade", "--name", "taken", "--network", "lan"]);
    assert!(said.contains("vm/taken"), "{said}");
    let vm: Vm = house.get(&house.path("vms/taken")).await;
    assert_eq!((vm.metadata.id, vm.phase), (id, Phase::Running));
    assert!(house.cluster.basalt(&["get", "vm", "taken"]).contains("running"));
    assert_eq!(house.qemu(), before, "QEMU is the same process");
    let disk = vm.disks[0].volume_id.unwrap();
    let own = format!("{disk}.0.qcow2");
    until("the old name is gone", Duration::from_secs(20), async || house.files() == [own.clone()]).await;
    assert_eq!(std::fs::metadata(house.volumes().join(&own)).unwrap().ino(), inode, "the same file");
    let stored = house.run(&["virsh", "dumpxml", "--inactive", "handmade"]);
    assert!(stored.contains(&own) && stored.contains("urn:basalt:vm:1") && stored.contains(&id.to_string()));
    let running = house.run(&["virsh", "dumpxml", "handmade"]);
    assert!(running.contains("hand0") && !running.contains("urn:basalt:vm:1"), "what runs is as it was");
    let vm: Vm = house.get(&house.path("vms/taken")).await;
    assert!(vm.conditions.iter().any(|c| c.reason == "adopted_running"), "{:?}", vm.conditions);

    // Its next start is Basalt's: the network with its address, the seed with its name.
    for verb in ["stop", "start"] {
        house.cluster.basalt(&[verb, "taken"]);
    }
    let after = house.qemu();
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    assert!(house.cluster.page(vm.nics[0].address, "/").await.contains("taken"));
    lost_and_found(&house, &vm).await;

    house.cluster.basalt(&["delete", "vm", "taken"]);
    assert_eq!((house.cluster.domain_state(id).as_str(), house.qemu()), ("none", vec![]));
    let left: Volume = house.get(&house.path("volumes/taken-root")).await;
    assert_eq!((left.vm_id, house.files()), (None, vec![own]), "the disk is the user's");
    house.cluster.basalt(&["delete", "volume", "taken-root"]);
    assert!(house.files().is_empty(), "{:?}", house.files());
}

/// What a database that was restored from before the adoption knows of it: nothing.
const FORGET: &str = "BEGIN; UPDATE quotas SET used_vms = 0, used_cpus = 0, used_memory_bytes = 0, used_storage_bytes = 0;
    UPDATE pools SET claimed_bytes = 0; UPDATE address_cursors SET used = 0;
    UPDATE host_claims SET claimed_vms = 0, claimed_cpus = 0, claimed_memory_bytes = 0;
    DELETE FROM manifest_facts; DELETE FROM manifest_items; UPDATE manifests SET revision = revision + 1;
    DELETE FROM conditions WHERE subject_kind IN ('vm', 'volume'); DELETE FROM volume_observed; DELETE FROM vm_observed;
    DELETE FROM placements; DELETE FROM ports; DELETE FROM volumes; DELETE FROM vms; COMMIT";

/// R64: a VM of Basalt's that the truth has lost is adopted again, and nothing is done to the host for it.
async fn lost_and_found(house: &House, vm: &Vm) {
    let id = vm.metadata.id.to_string();
    let looks =
        || (house.run(&["virsh", "dumpxml", &id]), house.run(&["virsh", "dumpxml", "--inactive", &id]));
    let (qemu, looked) = (house.qemu(), looks());
    house.cluster.lab.postgres().psql("basalt", FORGET).unwrap();
    house
        .until_host("it is foreign", |host| {
            let foreign = host.facts.map(|f| f.foreign).unwrap_or_default();
            foreign.iter().any(|f| f.id == id && f.vm.as_ref().is_some_and(|v| v.marks.is_some()))
        })
        .await;
    house.cluster.basalt(&["adopt", "vm", &format!("h1/{id}"), "--name", "taken"]);
    let found: Vm = house.get(&house.path("vms/taken")).await;
    assert_eq!((&found.nics, found.incarnation), (&vm.nics, vm.incarnation));
    assert_eq!(found.disks[0].volume_id, vm.disks[0].volume_id);
    assert_eq!(house.qemu(), qemu);
    assert!(looks() == looked, "it was defined anew:\n{}\n{}", looked.1, looks().1);
    assert!(!found.conditions.iter().any(|c| c.kind == "RebootPending"), "{:?}", found.conditions);
}
