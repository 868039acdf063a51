//! V11, S42, H5: definitions of domains, and libvirt's own test driver as a hermetic hypervisor.

use crate::golden;
use basalt_agent::host::libvirt::{
    Accelerator, Backing, Connection, Definition, Disk, DomainState, Format, LibvirtError, VolumeDisk,
    domain_name, shape, stamp, tap_name, xml::Element,
};
use basalt_model::{Epoch, Generation, ImageId, NetworkId, PortId, VmId, VolumeId, vms::Firmware};
use basalt_plan::host::{DiskDefinition, DiskSourceDefinition, NicDefinition, VmDefinition};
use proptest::{prelude::*, test_runner::RngSeed};
use uuid::Uuid;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + n)
}

pub fn vm() -> VmDefinition {
    let disk =
        |name: &str, source, boot_order| DiskDefinition { name: name.parse().unwrap(), source, boot_order };
    let volume = |n| DiskSourceDefinition::Volume {
        id: VolumeId(id(n)),
        incarnation: 0,
        pool: "default".parse().unwrap(),
    };
    VmDefinition {
        id: VmId(id(1)),
        name: "web-1".parse().unwrap(),
        generation: Generation(3),
        epoch: Epoch(2),
        incarnation: 0,
        cpus: 2,
        memory_bytes: 512 << 20,
        firmware: Firmware::Bios,
        disks: vec![
            disk("root", volume(11), Some(1)),
            disk("data", volume(12), None),
            disk("cd", DiskSourceDefinition::Iso(ImageId(id(21))), Some(2)),
        ],
        nics: vec![NicDefinition {
            port_id: PortId(id(31)),
            network_id: NetworkId(id(41)),
            mac: "02:00:00:00:00:05".into(),
            address: "10.10.0.5".parse().unwrap(),
            mtu: 1450,
        }],
        seed_hash: "5eed".into(),
        hash: "def1".into(),
    }
}

fn definition() -> Definition {
    let volume = |path: &str, backing| {
        Disk::Volume(VolumeDisk {
            path: path.into(),
            backing,
            serial: "80000000000000000000".into(),
            direct_io: true,
        })
    };
    let base = Backing { path: "/pool/images/base.qcow2".into(), format: Format::Qcow2 };
    Definition {
        name: domain_name(VmId(id(1))),
        vm: vm(),
        accelerator: Accelerator::Tcg,
        disks: vec![
            volume("/pool/volumes/root.qcow2", Some(base)),
            volume("/pool/volumes/data.qcow2", None),
            Disk::Iso("/pool/images/cd.iso".into()),
        ],
        seed: "/pool/seeds/seed.iso".into(),
        bridge: "br-int".into(),
        offloads: false,
        serial_log: "/var/lib/basalt/serial/web-1.log".into(),
    }
}

#[test]
fn v11_the_domain_of_a_bios_guest_under_tcg_is_as_checked_in() {
    golden::check("domain-tcg-bios.xml", &definition().render().unwrap());
}

#[test]
fn v11_the_domain_of_a_uefi_guest_under_kvm_is_as_checked_in() {
    let mut definition = definition();
    definition.accelerator = Accelerator::Kvm;
    definition.vm.firmware = Firmware::Uefi;
    definition.offloads = true;
    golden::check("domain-kvm-uefi.xml", &definition.render().unwrap());
}

#[test]
fn v11_marks_are_read_back_from_what_was_written() {
    let domain = Element::parse(&definition().render().unwrap()).unwrap();
    let marks = stamp::read(&domain).unwrap();
    assert_eq!(marks.vm_id, VmId(id(1)));
    assert_eq!((marks.stamp.generation, marks.stamp.epoch), (Generation(3), Epoch(2)));
    assert_eq!((marks.stamp.definition_hash.as_str(), marks.stamp.seed_hash.as_str()), ("def1", "5eed"));
    assert_eq!(marks.networks.into_iter().collect::<Vec<_>>(), [NetworkId(id(41))]);
    assert_eq!(marks.isos.into_iter().collect::<Vec<_>>(), [ImageId(id(21))]);
    let disks: Vec<_> = marks.disks.iter().map(|(name, of)| (name.as_str(), *of)).collect();
    assert_eq!(disks, [("root", id(11)), ("data", id(12)), ("cd", id(21))]);
    let address = Some("10.10.0.5".parse().unwrap());
    assert_eq!(marks.nics, [(PortId(id(31)), NetworkId(id(41)), address)]);
    // Another's namespace is not ours, whatever it calls its elements.
    let foreign = definition().render().unwrap().replace("urn:basalt:vm:1", "urn:other");
    assert!(stamp::read(&Element::parse(&foreign).unwrap()).is_none());
}

#[test]
fn v11_a_tap_belongs_to_one_port_and_fits_the_kernel() {
    assert_eq!(tap_name(PortId(id(31))), "tap0000000001f");
    assert!(tap_name(PortId(id(31))).len() <= 15);
    assert_ne!(tap_name(PortId(id(31))), tap_name(PortId(id(32))));
}

/// Tags of a document, without what stands in them.
fn shape(element: &Element) -> Vec<String> {
    let names = element.attributes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",");
    let mut shape = vec![format!("{}[{names}]", element.name)];
    shape.extend(element.children.iter().flat_map(self::shape));
    shape
}

/// XML 1.0 has no place for it.
fn unwritable(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}'))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: RngSeed::Fixed(42), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in a name, path or mark, it changes no element and comes back as it was, or is refused.
    #[test]
    fn s42_no_text_becomes_markup(
        hostile in prop_oneof![
            "\\PC{0,40}",
            "[<>&'\"\\]\\[!-]{0,12}(</source>|]]>|<!--|<!DOCTYPE|&amp;|&#10;)?[a-z'\"]{0,8}",
            any::<String>(),
        ],
    ) {
        let mut definition = definition();
        definition.bridge = hostile.clone();
        definition.vm.hash = hostile.clone();
        definition.vm.nics[0].mac = hostile.clone();
        definition.serial_log = hostile.clone().into();
        definition.disks[2] = Disk::Iso(hostile.clone().into());
        match definition.render() {
            Err(_) => prop_assert!(unwritable(&hostile)),
            Ok(xml) => {
                let read = Element::parse(&xml).unwrap();
                let plain = Element::parse(&self::definition().render().unwrap()).unwrap();
                prop_assert_eq!(shape(&read), shape(&plain));
                prop_assert_eq!(read.attribute_at("devices/interface/source", "bridge"), Some(hostile.as_str()));
                prop_assert_eq!(read.attribute_at("devices/serial/log", "file"), Some(hostile.as_str()));
                prop_assert_eq!(stamp::read(&read).unwrap().stamp.definition_hash, hostile);
            }
        }
    }

    /// What a hypervisor answers is read or refused; it never brings the agent down.
    #[test]
    fn s42_no_document_brings_the_reader_down(xml in "(<[a-z:]{1,3}( [a-z]=\"[^\"]{0,4}\")?/?>|</[a-z]{1,3}>|&[a-z#0-9]{1,4};|<!\\[CDATA\\[|]]>|[a-z ]{1,4}){0,24}") {
        let _ = Element::parse(&xml);
    }
}

/// The definition as libvirt's test driver takes it: it runs no instructions of any real machine.
fn for_test_driver(definition: &Definition) -> String {
    let xml = definition.render().unwrap();
    let xml = xml
        .replace("type=\"qemu\"", "type=\"test\"")
        .replace(" arch=\"x86_64\" machine=\"pc\"", " arch=\"i686\"");
    let (from, to) = (xml.find("<cpu ").unwrap(), xml.find("</cpu>").unwrap() + "</cpu>".len());
    xml.replace(&xml[from..to], "").replace("<emulator>/usr/bin/qemu-system-x86_64</emulator>", "")
}

#[tokio::test]
async fn v11_libvirt_defines_starts_stops_and_forgets_what_we_write() {
    let libvirt = Connection::new("test:///default");
    let id = VmId(id(1));
    assert!(libvirt.version().await.unwrap().split('.').count() == 3);
    assert_eq!(libvirt.domain(id).await.unwrap(), None);
    libvirt.define(for_test_driver(&definition())).await.unwrap();
    libvirt.define(for_test_driver(&definition())).await.unwrap();
    let defined = libvirt.domain(id).await.unwrap().unwrap();
    assert_eq!((defined.name.clone(), defined.state), (domain_name(id), DomainState::Off));
    assert_eq!((defined.persistent, defined.autostart, defined.live.is_none()), (true, false, true));
    assert_eq!(defined.defined.as_ref().unwrap().stamp.definition_hash, "def1");
    assert!(defined.files.contains(std::path::Path::new("/pool/volumes/root.qcow2")), "{:?}", defined.files);
    // As libvirt gives it back, with all that it adds.
    let shape = defined.shape.as_ref().unwrap();
    assert_eq!((shape.cpus, shape.memory_bytes, shape.disks.len()), (2, 512 << 20, 4), "{shape:?}");
    assert_eq!(shape.unsupported, ["a machine of type hvm i686"], "the test driver has no other");

    libvirt.start(id, false).await.unwrap();
    libvirt.start(id, false).await.unwrap();
    let before = libvirt.states().await.unwrap();
    libvirt.suspend(id).await.unwrap();
    assert_eq!(libvirt.domain(id).await.unwrap().unwrap().state, DomainState::Paused);
    assert_ne!(libvirt.states().await.unwrap(), before);
    libvirt.resume(id).await.unwrap();
    // A new definition of a running domain waits for the next start.
    let mut newer = definition();
    newer.vm.hash = "def2".into();
    libvirt.define(for_test_driver(&newer)).await.unwrap();
    let running = libvirt.domain(id).await.unwrap().unwrap();
    assert_eq!(running.state, DomainState::Running);
    assert_eq!(running.live.unwrap().stamp.definition_hash, "def1");
    assert_eq!(running.defined.unwrap().stamp.definition_hash, "def2");

    libvirt.destroy(id).await.unwrap();
    libvirt.destroy(id).await.unwrap();
    libvirt.undefine(id).await.unwrap();
    libvirt.undefine(id).await.unwrap();
    libvirt.destroy(id).await.unwrap();
    assert_eq!(libvirt.domain(id).await.unwrap(), None);
}

#[tokio::test]
async fn h5_a_foreign_domain_is_listed_without_marks() {
    let libvirt = Connection::new("test:///default");
    libvirt.define(for_test_driver(&definition())).await.unwrap();
    let domains = libvirt.domains().await.unwrap();
    let foreign = domains.iter().find(|d| d.name == "test").unwrap();
    assert!(foreign.live.is_none() && foreign.defined.is_none() && foreign.state == DomainState::Running);
    assert_eq!(domains.len(), 2);
}

const HANDMADE: &str = "<domain type='kvm'><name>handmade</name><memory unit='MiB'>512</memory>
  <vcpu current='1'>2</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/pool/volumes/a.qcow2'/>
      <target dev='vda' bus='virtio'/><boot order='1'/></disk>
    <disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>
    <disk type='file' device='cdrom'><source index='1'/><target dev='hdb' bus='ide'/></disk>
    <interface type='network'><mac address='52:54:00:AA:BB:CC'/><source network='default'/><model type='virtio'/></interface>
    <input type='tablet' bus='usb'/><graphics type='vnc'/><video/><memballoon model='virtio'/>
  </devices></domain>";

#[test]
fn h5_a_domain_made_by_hand_is_read_as_far_as_adopting_it_needs() {
    let read = |xml: &str| shape::read(&Element::parse(xml).unwrap());
    let seen = read(HANDMADE);
    assert_eq!((seen.cpus, seen.memory_bytes, seen.firmware), (2, 512 << 20, Firmware::Bios));
    assert_eq!((seen.disks.len(), seen.disks[0].path.as_str()), (1, "/pool/volumes/a.qcow2"));
    assert_eq!((seen.disks[0].format.as_str(), seen.disks[0].boot_order), ("qcow2", Some(1)));
    assert_eq!((seen.macs, seen.unsupported), (vec!["52:54:00:aa:bb:cc".to_owned()], vec![]));
    let cases = [
        ("<os><type arch='x86_64'", "<os firmware='efi'><type arch='x86_64'", None),
        ("arch='x86_64'", "arch='aarch64'", Some("machine")),
        ("</os>", "<kernel>/boot/vmlinuz</kernel></os>", Some("kernel")),
        ("bus='virtio'", "bus='sata'", Some("bus sata")),
        ("<boot order='1'/>", "<shareable/>", Some("shareable")),
        ("<model type='virtio'/>", "<model type='e1000'/>", Some("e1000")),
        ("<interface type='network'>", "<interface type='hostdev'>", Some("hostdev")),
        ("<video/>", "<tpm model='tpm-crb'/>", Some("tpm")),
        ("<video/>", "<hostdev mode='subsystem' type='pci'/>", Some("hostdev")),
        (
            "<disk type='file' device='cdrom'><target dev='hda'",
            "<disk type='block' device='cdrom'><source dev='/dev/sr0'/><target dev='hda'",
            Some("type block"),
        ),
        ("device='cdrom'>", "device='floppy'><source file='/f.img'/>", Some("floppy")),
    ];
    for (from, to, word) in cases {
        let seen = read(&HANDMADE.replace(from, to));
        let all: Vec<String> = seen
            .unsupported
            .into_iter()
            .chain(seen.disks.into_iter().filter_map(|d| d.unsupported))
            .collect();
        match word {
            None => assert!(all.is_empty() && seen.firmware == Firmware::Uefi, "{to}: {all:?}"),
            Some(word) => assert!(all.iter().any(|u| u.contains(word)), "{to}: {all:?}"),
        }
    }
    // All that we define ourselves can be had.
    let seen = read(&definition().render().unwrap());
    assert!(seen.unsupported.is_empty() && seen.disks.len() == 4, "{seen:?}");
    assert!(seen.disks[..3].iter().all(|d| d.unsupported.is_none()), "{:?}", seen.disks);
}

#[tokio::test]
async fn h5_a_domain_that_had_a_name_keeps_it_when_it_is_defined_anew() {
    let libvirt = Connection::new("test:///default");
    let uuid = libvirt.domains().await.unwrap()[0].uuid;
    let mut ours = definition();
    ours.vm.id = VmId(uuid);
    // libvirt itself refuses another name for the same domain.
    ours.name = domain_name(VmId(uuid));
    assert!(matches!(libvirt.define(for_test_driver(&ours)).await, Err(LibvirtError::Failed(_))));
    ours.name = "test".into();
    libvirt.define(for_test_driver(&ours)).await.unwrap();
    let domain = libvirt.domain(VmId(uuid)).await.unwrap().unwrap();
    assert_eq!((domain.name.as_str(), domain.state), ("test", DomainState::Running));
    assert!(domain.live.is_none() && domain.defined.is_some(), "what runs is not touched");
}

#[tokio::test]
async fn r34_a_daemon_that_is_away_is_told_from_a_domain_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("libvirt-sock");
    let libvirt = Connection::new(format!("qemu+unix:///system?socket={}", socket.display()));
    assert!(matches!(libvirt.domains().await, Err(LibvirtError::Away { .. })));
    assert!(matches!(libvirt.domain(VmId(id(1))).await, Err(LibvirtError::Away { .. })));
    let libvirt = Connection::new("test:///default");
    assert!(matches!(libvirt.shutdown(VmId(id(1))).await, Err(LibvirtError::NoDomain(_))));
}
