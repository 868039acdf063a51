//! H5: what can be taken over, as what, and every refusal with its reason and remedy.

use super::*;
use basalt_model::{ImageId, NetworkId, PortId, VolumeId, adoption::ForeignMarks};
use std::{collections::BTreeSet, net::Ipv4Addr};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0xd0_4a1);
const LAN: NetworkId = NetworkId(Uuid::from_u128(0x1a));
const IMAGE: ImageId = ImageId(Uuid::from_u128(0x13a6e));

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn host() -> Name {
    name("h1")
}

fn request(kind: AdoptKind, id: &str) -> Adopt {
    Adopt { kind, id: id.into(), project: "demo".into(), name: name("web"), network: Some(name("lan")) }
}

fn known() -> Known {
    Known { networks: [(LAN, name("lan"))].into(), ..Known::default() }
}

fn file() -> ForeignVolume {
    ForeignVolume {
        pool: name("default"),
        file: "handmade.qcow2".into(),
        format: "qcow2".into(),
        size_bytes: 3 << 30,
        volume_id: None,
        incarnation: 0,
        image_id: None,
        refers_to: None,
        users: ["handmade".to_owned()].into(),
    }
}

fn handmade() -> ForeignVm {
    ForeignVm {
        power: ObservedPower::Running,
        cpus: 2,
        memory_bytes: 512 << 20,
        firmware: Firmware::Bios,
        disks: vec![ForeignDisk {
            name: None,
            path: "/pools/default/volumes/handmade.qcow2".into(),
            format: "qcow2".into(),
            boot_order: None,
            volume: Some(file()),
            iso_image_id: None,
        }],
        nics: vec![ForeignNic {
            mac: "52:54:00:aa:bb:cc".into(),
            port_id: None,
            network_id: None,
            address: None,
        }],
        unsupported: Vec::new(),
        marks: None,
    }
}

fn foreign(vm: ForeignVm) -> Foreign {
    Foreign {
        kind: "vm".into(),
        name: "handmade".into(),
        id: ID.to_string(),
        vm: Some(vm),
        ..Foreign::default()
    }
}

fn judge(change: impl FnOnce(&mut ForeignVm), known: &Known) -> Verdict<AdoptedVm> {
    let mut seen = handmade();
    change(&mut seen);
    vm(&request(AdoptKind::Vm, "handmade"), &host(), &foreign(seen), known)
}

fn yes<T: std::fmt::Debug>(verdict: Verdict<T>) -> T {
    match verdict {
        Verdict::Yes(value) => value,
        Verdict::No(reasons) => panic!("{reasons:#?}"),
    }
}

fn no<T: std::fmt::Debug>(verdict: Verdict<T>) -> Vec<CapabilityReason> {
    match verdict {
        Verdict::No(reasons) => {
            assert!(!reasons.is_empty());
            for r in &reasons {
                assert!(!r.subject.is_empty() && !r.message.is_empty() && !r.remedy.is_empty(), "{r:?}");
            }
            reasons
        }
        Verdict::Yes(value) => panic!("{value:#?}"),
    }
}

fn codes<T: std::fmt::Debug>(verdict: Verdict<T>) -> Vec<String> {
    no(verdict).into_iter().map(|r| r.code.to_string()).collect()
}

#[test]
fn h5_a_handmade_vm_is_declared_as_it_is() {
    let vm = yes(judge(|_| {}, &known()));
    assert_eq!((vm.id.0, vm.epoch, vm.incarnation), (ID, Epoch(1), 0));
    assert_eq!((vm.spec.power, vm.spec.cpus, vm.spec.memory_bytes), (Power::Running, 2, 512 << 20));
    assert_eq!(vm.spec.errors(), vec![], "what is declared is what a user may declare");
    let AdoptedSource::Volume(volume) = &vm.disks[0].source else { panic!("{:?}", vm.disks) };
    assert_eq!((volume.name.as_str(), volume.pool.as_str()), ("web-root", "default"));
    assert_eq!(volume.spec.source, VolumeSource::Adopted { file: "handmade.qcow2".into() });
    assert_eq!((volume.spec.size_bytes, volume.id, volume.image_id), (3 << 30, None, None));
    assert_eq!(vm.spec.disks[0].source, DiskSource::Volume { volume: name("web-root") });
    let nic = &vm.nics[0];
    assert_eq!((nic.network_id, nic.mac.as_deref()), (LAN, Some("52:54:00:aa:bb:cc")));
    assert_eq!((nic.port_id, nic.address), (None, None));
    for (seen, wanted) in [
        (ObservedPower::Paused, Power::Paused),
        (ObservedPower::Stopped, Power::Stopped),
        (ObservedPower::Crashed, Power::Stopped),
    ] {
        assert_eq!(yes(judge(|v| v.power = seen, &known())).spec.power, wanted, "{seen:?}");
    }
}

/// A VM that was Basalt's once, as a restored database does not know it.
fn lost(vm: &mut ForeignVm) {
    vm.marks = Some(ForeignMarks { epoch: Epoch(4), incarnation: 2 });
    vm.firmware = Firmware::Uefi;
    let id = VolumeId(Uuid::from_u128(7));
    let disk = &mut vm.disks[0];
    disk.name = Some(name("boot"));
    let users = ["handmade".to_owned()].into();
    disk.volume = Some(ForeignVolume {
        volume_id: Some(id),
        file: format!("{id}.2.qcow2"),
        incarnation: 2,
        image_id: Some(IMAGE),
        users,
        ..file()
    });
    vm.nics[0].port_id = Some(PortId(Uuid::from_u128(8)));
    vm.nics[0].network_id = Some(LAN);
    vm.nics[0].address = Some(Ipv4Addr::new(10, 0, 0, 9));
}

#[test]
fn h5_what_was_ours_once_keeps_all_that_its_marks_say() {
    let mut seen = handmade();
    lost(&mut seen);
    let known = Known { images: [(IMAGE, Some(name("debian")))].into(), ..known() };
    for network in [Some(name("lan")), None] {
        let request = Adopt { network, ..request(AdoptKind::Vm, "handmade") };
        let found = foreign(seen.clone());
        let asked = named(&request, &found);
        assert_eq!(asked.ids, [ID, Uuid::from_u128(7)].into());
        assert_eq!((asked.networks, asked.images), ([LAN].into(), [IMAGE].into()));
        let vm = yes(vm(&request, &host(), &found, &known));
        assert_eq!((vm.epoch, vm.incarnation, vm.spec.firmware), (Epoch(4), 2, Firmware::Uefi));
        assert_eq!(vm.disks[0].name.as_str(), "boot");
        let AdoptedSource::Volume(volume) = &vm.disks[0].source else { panic!("{:?}", vm.disks) };
        assert_eq!((volume.id, volume.incarnation), (Some(VolumeId(Uuid::from_u128(7))), 2));
        assert_eq!(volume.image_id, Some(IMAGE));
        assert_eq!(vm.nics[0].port_id, Some(PortId(Uuid::from_u128(8))));
        assert_eq!(vm.nics[0].address, Some(Ipv4Addr::new(10, 0, 0, 9)));
    }
    // On another network nothing of the old port holds; an image that is gone is no obstacle.
    let other = NetworkId(Uuid::from_u128(0x1b));
    let request = Adopt { network: Some(name("other")), ..request(AdoptKind::Vm, "handmade") };
    let known = Known { networks: [(LAN, name("lan")), (other, name("other"))].into(), ..Known::default() };
    let vm = yes(vm(&request, &host(), &foreign(seen), &known));
    assert_eq!((vm.nics[0].network_id, vm.nics[0].port_id, vm.nics[0].address), (other, None, None));
    assert!(vm.nics[0].mac.is_some());
    let AdoptedSource::Volume(volume) = &vm.disks[0].source else { panic!("{:?}", vm.disks) };
    assert_eq!(volume.image_id, None);
}

#[test]
fn h5_every_refusal_of_a_vm_says_what_is_in_the_way() {
    type Change = fn(&mut ForeignVm);
    let cases: [(&str, Change); 13] = [
        ("power_unclear", |v| v.power = ObservedPower::Stopping),
        ("power_unclear", |v| v.power = ObservedPower::Unknown),
        ("device_unsupported", |v| v.unsupported = vec!["a device hostdev".into()]),
        ("uefi_variables", |v| v.firmware = Firmware::Uefi),
        ("disk_outside_pools", |v| v.disks[0].volume = None),
        ("disk_format", |v| v.disks[0].format = "raw".into()),
        ("disk_format", |v| {
            v.disks[0].format = "unknown".into();
            v.disks[0].volume.as_mut().unwrap().format = "unknown".into();
        }),
        ("disk_refers_to_another_file", |v| {
            v.disks[0].volume.as_mut().unwrap().refers_to = Some("/srv/base.qcow2".into());
        }),
        ("volume_in_use", |v| {
            v.disks[0].volume.as_mut().unwrap().users.insert("other".into());
        }),
        ("image_unknown", |v| v.disks[0].iso_image_id = Some(IMAGE)),
        ("count", |v| v.disks.clear()),
        ("not_aligned", |v| v.memory_bytes += 1),
        ("out_of_range", |v| v.cpus = 1000),
    ];
    for (code, change) in cases {
        assert_eq!(codes(judge(change, &known())), [code]);
    }
    // All at once, so that one round mends all.
    let all = codes(judge(
        |v| {
            v.power = ObservedPower::Stopping;
            v.unsupported = vec!["a device tpm".into()];
            v.disks[0].volume = None;
        },
        &Known::default(),
    ));
    assert_eq!(all, ["power_unclear", "device_unsupported", "disk_outside_pools", "network_unknown"]);
}

#[test]
fn h5_what_the_truth_knows_is_not_declared_twice() {
    let of = |known: Known| codes(judge(lost, &Known { networks: [(LAN, name("lan"))].into(), ..known }));
    assert_eq!(of(Known { ids: [ID].into(), ..Known::default() }), ["already_ours"]);
    assert_eq!(of(Known { ids: [Uuid::from_u128(7)].into(), ..Known::default() }), ["already_ours"]);
    let elsewhere = of(Known { elsewhere: Some(name("h2")), ..Known::default() });
    assert!(elsewhere.iter().all(|c| c == "on_two_hosts"), "{elsewhere:?}");
    assert_eq!(of(Known { images: [(IMAGE, None)].into(), ..Known::default() }), ["image_unknown"]);
    let files: BTreeSet<_> = [(name("default"), "handmade.qcow2".to_owned())].into();
    assert_eq!(codes(judge(|_| {}, &Known { files, ..known() })), ["already_ours"]);
}

#[test]
fn h5_interfaces_need_a_network_of_the_project() {
    let wanted = request(AdoptKind::Vm, "handmade");
    let judged = |network: Option<&str>, known: &Known| {
        let request = Adopt { network: network.map(name), ..wanted.clone() };
        vm(&request, &host(), &foreign(handmade()), known)
    };
    assert_eq!(codes(judged(None, &known())), ["network_required"]);
    assert_eq!(codes(judged(Some("nope"), &known())), ["network_unknown"]);
    let quiet = Adopt { network: None, ..wanted.clone() };
    let mut seen = handmade();
    seen.nics.clear();
    assert!(yes(vm(&quiet, &host(), &foreign(seen), &known())).nics.is_empty());
    // What no guest may send from is not kept.
    let vm = yes(judge(|v| v.nics[0].mac = "03:00:00:00:00:01".into(), &known()));
    assert_eq!(vm.nics[0].mac, None);
}

#[test]
fn h5_a_file_becomes_a_volume_unless_somebody_has_it() {
    let wanted = request(AdoptKind::Volume, "default/data.qcow2");
    let judged = |change: fn(&mut ForeignVolume)| {
        let mut seen = ForeignVolume { users: BTreeSet::new(), ..file() };
        change(&mut seen);
        let found = Foreign {
            kind: "volume".into(),
            name: "default/data.qcow2".into(),
            volume: Some(seen),
            ..Foreign::default()
        };
        volume(&wanted, &host(), &found, &known())
    };
    let made = yes(judged(|_| {}));
    assert_eq!((made.name.as_str(), made.spec.size_bytes), ("web", 3 << 30));
    assert_eq!(codes(judged(|v| v.users = ["handmade".to_owned()].into())), ["volume_in_use"]);
    assert_eq!(codes(judged(|v| v.format = "unknown".into())), ["disk_format"]);
    let undescribed = Foreign { kind: "volume".into(), name: "x".into(), ..Foreign::default() };
    assert_eq!(codes(volume(&wanted, &host(), &undescribed, &known())), ["not_described"]);
}

#[test]
fn h5_a_thing_is_found_by_its_name_or_its_id_on_the_host() {
    let of = |kind: &str, name: &str, id: &str| Foreign {
        kind: kind.into(),
        name: name.into(),
        id: id.into(),
        ..Foreign::default()
    };
    let all = [
        of("vm", "a", "1"),
        of("volume", "a", ""),
        of("volume", "b", ""),
        of("volume", "c.0", "7"),
        of("volume", "c.1", "7"),
    ];
    let ask = |kind, id: &str| find(&request(kind, id), &host(), &all);
    assert_eq!(yes(ask(AdoptKind::Vm, "1")).name, "a");
    assert_eq!(yes(ask(AdoptKind::Volume, "a")).kind, "volume");
    assert_eq!(codes(ask(AdoptKind::Volume, "7")), ["ambiguous"]);
    assert_eq!(codes(ask(AdoptKind::Volume, "")), ["not_reported"]);
    let missing = no(ask(AdoptKind::Vm, "b"));
    assert_eq!((missing[0].code.as_ref(), missing[0].subject.as_str()), ("not_reported", "host/h1"));
    assert!(missing[0].evidence.contains('a'), "{missing:?}");
}

#[test]
fn a_disks_volume_has_a_name_within_the_limit() {
    let long = name(&"v".repeat(63));
    let made = volume_name(&long, &name("root")).unwrap();
    assert!(made.as_str().len() <= 63 && made.as_str().ends_with("-root"), "{made}");
    assert!(volume_name(&long, &long).unwrap().as_str().len() <= 63);
    assert_eq!(volume_name(&name("web"), &name("disk-2")).unwrap().as_str(), "web-disk-2");
}
