//! Manifests: projection of one VM, and the life of a row under every order of wishes and facts.

use super::*;
use basalt_model::{DateTime, HostId, Labels, PortId, images::ImageFormat, networks::Segment, vms::Power};
use basalt_wire::agent::manifest::{FORMAT, Manifest};
use proptest::prelude::*;
use uuid::Uuid;

fn metadata(id: u128, name: &str, generation: i64) -> Metadata {
    Metadata {
        id: Uuid::from_u128(id),
        tenant_id: None,
        project_id: None,
        name: Name::new(name).unwrap(),
        labels: Labels::default(),
        generation: Generation(generation),
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
        deletion_requested_at: None,
    }
}

fn key(kind: ItemKind, id: u128) -> ItemKey {
    ItemKey { kind, id: Uuid::from_u128(id) }
}

/// A VM 1 with volume 2 over image 3 on network 4, at a generation and epoch.
fn items(generation: i64, epoch: i64) -> Vec<Item> {
    let spec: VmSpec = serde_json::from_value(serde_json::json!({"cpus": 2, "memory_bytes": 1 << 30,
        "disks": [{"name": "root", "source": {"kind": "image", "image": "debian"}}], "nics": [{"network": "net"}],
        "cloud_init": {"ssh_authorized_keys": ["ssh-ed25519 AAAA me"]}}))
    .unwrap();
    let volume_spec: VolumeSpec = serde_json::from_value(serde_json::json!({"size_bytes": 1 << 30})).unwrap();
    let image_spec: ImageSpec =
        serde_json::from_value(serde_json::json!({"format": "qcow2", "size_bytes": 5})).unwrap();
    let network_spec: NetworkSpec =
        serde_json::from_value(serde_json::json!({"cidr": "10.1.0.0/24"})).unwrap();
    let disks = [VmDisk {
        name: Name::new("root").unwrap(),
        volume_id: Some(VolumeId(Uuid::from_u128(2))),
        iso_image_id: None,
        boot_order: Some(1),
    }];
    let nics = [VmNic {
        address6: None,
        port_id: PortId(Uuid::from_u128(9)),
        network_id: NetworkId(Uuid::from_u128(4)),
        network: Name::new("net").unwrap(),
        mac: "02:00:00:00:00:01".into(),
        address: "10.1.0.2".parse().unwrap(),
        security_groups: vec![],
    }];
    let machine = metadata(1, "web", generation);
    let image = ImageObserved {
        state: ImageState::Ready,
        sha256: Some("ab".repeat(32)),
        size_bytes: 5,
        ..ImageObserved::default()
    };
    project(
        Vm {
            metadata: &machine,
            spec: &spec,
            incarnation: 0,
            operation: None,
            motion: None,
            disks: &disks,
            nics: &nics,
        },
        Epoch(epoch),
        [Volume {
            shared: basalt_wire::agent::manifest::Shared::No,
            metadata: &metadata(2, "web-root", 1),
            spec: &volume_spec,
            pool: &Name::new("default").unwrap(),
            image_id: Some(ImageId(Uuid::from_u128(3))),
            incarnation: 0,
        }],
        [Image { metadata: &metadata(3, "debian", 1), spec: &image_spec, observed: &image }],
        [Network { metadata: &metadata(4, "net", 1), spec: &network_spec, vni: 77, security_groups: &[] }],
    )
}

#[test]
fn a_vm_projects_to_a_manifest_that_the_agent_takes() {
    let host_id = HostId(Uuid::from_u128(8));
    let manifest = Manifest { format: FORMAT, host_id, revision: 1, items: items(1, 1) };
    assert_eq!(Manifest::read(&serde_json::to_vec(&manifest).unwrap(), host_id).unwrap(), manifest);
    let kinds: Vec<_> = manifest.items.iter().map(|i| i.kind).collect();
    assert_eq!(kinds, [ItemKind::Network, ItemKind::Image, ItemKind::Volume, ItemKind::Vm]);
    let Desired::Vm(body) = &manifest.items[3].desired else { panic!() };
    assert_eq!((body.power, body.cpus, body.seed.ssh_authorized_keys.len()), (Power::Running, 2, 1));
    let Desired::Network(body) = &manifest.items[0].desired else { panic!() };
    assert_eq!(
        (body.vni, &body.segment, body.dhcp_server.to_string()),
        (77, &Segment::Vxlan, "10.1.0.254".to_owned())
    );
}

#[test]
fn an_image_that_is_not_verified_is_in_no_manifest() {
    let spec: ImageSpec =
        serde_json::from_value(serde_json::json!({"format": "raw", "size_bytes": 5})).unwrap();
    assert_eq!(spec.format, ImageFormat::Raw);
    for state in [ImageState::Uploading, ImageState::Verifying, ImageState::Failed] {
        let observed = ImageObserved { state, sha256: Some("ab".repeat(32)), ..ImageObserved::default() };
        assert_eq!(image(Image { metadata: &metadata(3, "i", 1), spec: &spec, observed: &observed }), None);
    }
}

#[test]
fn a_row_that_says_anything_else_is_another_one() {
    for item in items(1, 1) {
        let row = Stored::of(&item);
        assert!(row.is(&item), "{item:?}");
        let written = serde_json::to_value(&item.desired).unwrap();
        let fields = written.as_object().unwrap().iter();
        for (field, value) in fields.filter(|(_, value)| value.is_u64() || value.is_i64()) {
            let mut other = written.clone();
            other[field] = (value.as_u64().unwrap() + 1).into();
            let other = Item { desired: serde_json::from_value(other).unwrap(), ..item.clone() };
            assert!(!row.is(&other), "{field} of {item:?}");
        }
        assert!(!row.is(&Item { desired: Desired::Absent, ..item.clone() }));
        assert!(!row.is(&Item { generation: Generation(2), ..item.clone() }));
        assert!(!row.is(&Item { epoch: Epoch(7), ..item }));
    }
}

/// A host's rows and what it reported, changed by edits as the store does it.
#[derive(Default, Debug)]
struct Host {
    rows: BTreeMap<ItemKey, Item>,
    facts: BTreeMap<ItemKey, Fact>,
    revision: i64,
    /// The newest age that was ever put of an item: what a host may compare with that missed the times between.
    newest: BTreeMap<ItemKey, (Epoch, Generation)>,
}

impl Host {
    fn difference(&self, desired: &[Item]) -> Vec<Edit> {
        let desired = desired.iter().map(|i| (i.key(), i)).collect();
        difference(&desired, &self.rows.iter().map(|(k, i)| (*k, i)).collect(), &self.facts, self.revision)
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        self.revision += i64::from(!edits.is_empty());
        for edit in edits {
            match edit {
                Edit::Put(item) => {
                    let newest = self.newest.entry(item.key()).or_default();
                    assert!((item.epoch, item.generation) >= *newest, "{newest:?} then {item:?}");
                    *newest = (item.epoch, item.generation);
                    self.rows.insert(item.key(), item);
                }
                Edit::Remove { key, generation, epoch } => {
                    let row = self.rows.remove(&key).expect("a row that stands");
                    // As the store does it.
                    self.facts.remove(&key);
                    assert!(row.is_absent() && (row.generation, row.epoch) == (generation, epoch));
                }
            }
        }
    }

    /// The host acts on an item and reports it.
    fn report(&mut self, key: ItemKey) {
        if let Some(row) = self.rows.get(&key) {
            self.facts
                .insert(key, Fact { generation: row.generation, epoch: row.epoch, gone: row.is_absent() });
        }
    }
}

#[test]
fn absence_never_deletes_and_a_row_goes_only_after_gone() {
    let mut host = Host::default();
    let all = items(1, 1);
    host.apply(host.difference(&all));
    assert_eq!(host.rows.len(), 4);
    assert_eq!(host.difference(&all), []);
    let vm = key(ItemKind::Vm, 1);
    let kept: Vec<_> = all.iter().filter(|i| i.kind != ItemKind::Vm).cloned().collect();
    host.report(vm);
    host.apply(host.difference(&kept));
    assert!(host.rows[&vm].is_absent());
    assert_eq!(host.difference(&kept), [], "the host has not reported it gone");
    host.facts.insert(vm, Fact { generation: Generation(1), epoch: Epoch(1), gone: true });
    assert_eq!(host.difference(&kept), [], "gone was said of the item before it was absent");
    host.report(vm);
    assert_eq!(
        host.difference(&kept),
        [Edit::Remove { key: vm, generation: Generation(2), epoch: Epoch(1) }]
    );
}

#[test]
fn what_a_standing_item_names_is_not_withdrawn_before_it() {
    let mut host = Host::default();
    host.apply(host.difference(&items(1, 1)));
    let edits = host.difference(&[]);
    assert_eq!(edits.iter().map(|e| e.key().kind).collect::<Vec<_>>(), [ItemKind::Vm]);
    host.apply(edits);
    let kinds = |edits: &[Edit]| edits.iter().map(|e| e.key().kind).collect::<Vec<_>>();
    let volume: Vec<_> = items(1, 1).into_iter().filter(|i| i.kind == ItemKind::Volume).collect();
    assert_eq!(kinds(&host.difference(&volume)), [ItemKind::Network], "the volume names the image");
    let held = held_by_vm(
        &[VmDisk {
            name: Name::new("root").unwrap(),
            volume_id: Some(VolumeId(Uuid::from_u128(2))),
            iso_image_id: None,
            boot_order: None,
        }],
        &[],
    );
    assert_eq!(held, [key(ItemKind::Volume, 2)]);
    assert_eq!(held_by_volume(Some(ImageId(Uuid::from_u128(3)))), Some(key(ItemKind::Image, 3)));
}

#[test]
fn wanted_again_has_a_higher_epoch_whether_or_not_the_row_stands() {
    let network: Vec<_> = items(1, 1).into_iter().take(1).collect();
    let at = network[0].key();
    let mut host = Host::default();
    host.apply(host.difference(&network));
    host.apply(host.difference(&[]));
    host.apply(host.difference(&network));
    assert_eq!((host.rows[&at].epoch, host.rows[&at].generation), (Epoch(2), Generation(1)));
    assert_eq!(host.difference(&network), []);
    host.apply(host.difference(&[]));
    host.report(at);
    host.apply(host.difference(&[]));
    assert!(host.rows.is_empty());
    host.apply(host.difference(&network));
    assert!(host.rows[&at].epoch > Epoch(2), "the host may have missed that the row was away");
}

#[test]
fn a_newer_generation_or_epoch_is_put_and_an_older_one_is_not() {
    let mut host = Host::default();
    host.apply(host.difference(&items(3, 2)));
    assert_eq!(host.difference(&items(2, 2)), []);
    assert_eq!(host.difference(&items(2, 3)).len(), 1);
    assert_eq!(host.difference(&items(4, 2)).len(), 1);
}

proptest! {
    /// Whatever is wished and reported in whatever order: ages only grow (asserted in `apply`), the difference of
    /// an applied difference is empty, and in the end the rows are what is wanted.
    #[test]
    fn any_history_converges(steps in prop::collection::vec((any::<[bool; 4]>(), any::<[bool; 4]>()), 1..40)) {
        let mut host = Host::default();
        let mut epoch = 0;
        let mut vm_was_wanted = false;
        let mut wanted: Vec<Item> = Vec::new();
        for (wish, report) in steps {
            // A VM comes back to a host only by another placement.
            epoch += i64::from(wish[3] && !vm_was_wanted);
            vm_was_wanted = wish[3];
            wanted = items(1, epoch).into_iter().zip(wish).filter(|(_, w)| *w).map(|(i, _)| i).collect();
            host.apply(host.difference(&wanted));
            let only_withdraws = |e: &Edit| !matches!(e, Edit::Put(i) if !i.is_absent());
            let again = host.difference(&wanted);
            prop_assert!(again.iter().all(only_withdraws), "{:?}", again);
            for (item, _) in items(1, 1).iter().zip(report).filter(|(_, r)| *r) {
                host.report(item.key());
            }
        }
        for _ in 0..8 {
            host.apply(host.difference(&wanted));
            for item in items(1, 1) {
                host.report(item.key());
            }
        }
        prop_assert_eq!(host.difference(&wanted), vec![]);
        let in_use: BTreeSet<_> = host.rows.values().flat_map(names).collect();
        for (key, row) in &host.rows {
            let want = wanted.iter().find(|i| i.key() == *key);
            prop_assert!(want.is_some_and(|w| w.desired == row.desired) || in_use.contains(key), "{:?}", row);
        }
        prop_assert!(wanted.iter().all(|i| host.rows.contains_key(&i.key())));
    }
}
