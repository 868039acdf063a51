//! The small guest image on a namespace host: made of packages, booted by libvirt from its disk, asked over the
//! virtual network. Needs root and the packages.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use basalt_lab::host::Host;
use basalt_lab::postgres::Durability;
use basalt_lab::{Lab, Ports};
use hadris_iso::read::PathSeparator;
use hadris_iso::write::options::{CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{File, InputFiles, IsoImageWriter};
use tempfile::TempDir;

const POOL: &str = "lib-basalt/pools/default";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDlhYnMgYXJlIGZ1biB0byBidWlsZCBhbmQgYnJlYWs= me@home";
/// The gateway address that the test itself takes on the virtual network.
const GATEWAY: &str = "192.168.9.1";

fn lab(dir: &TempDir) -> Lab {
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    Lab::builder(dir.path().join("d"))
        .lab_program(env!("CARGO_BIN_EXE_basalt-lab"))
        .bin_dir("/nonexistent")
        .cache_dir(Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab-cache"))
        .durability(Durability::Test)
        .ports(Ports::Ephemeral)
        .build()
        .unwrap()
}

fn until(what: &str, limit_seconds: u64, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(limit_seconds);
    while !holds() {
        assert!(Instant::now() < end, "not within {limit_seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A NoCloud disc of three texts.
fn disc(meta_data: String, user_data: String, network_config: String) -> Vec<u8> {
    let file = |name: &str, text: String| File::File {
        name: Arc::new(name.to_owned()),
        contents: text.into_bytes(),
    };
    let files = InputFiles {
        path_separator: PathSeparator::ForwardSlash,
        files: vec![
            file("meta-data", meta_data),
            file("user-data", user_data),
            file("network-config", network_config),
        ],
    };
    let options = IsoFormatOptions {
        volume_name: "cidata".to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: 2048,
        path_separator: PathSeparator::ForwardSlash,
        features: CreationFeatures::extensions(),
        strict_charset: false,
    };
    let mut disc = Cursor::new(Vec::new());
    IsoImageWriter::create(&mut disc, files, options).unwrap();
    disc.into_inner()
}

/// A bridge on which the host itself has the gateway's address.
fn add_network(host: &Host) {
    let add = [
        "ovs-vsctl",
        "--timeout=10",
        "add-br",
        "br-int",
        "--",
        "set",
        "bridge",
        "br-int",
        "datapath_type=netdev",
    ];
    host.run(&add).unwrap();
    host.run(&["ip", "addr", "add", &format!("{GATEWAY}/24"), "dev", "br-int"]).unwrap();
    host.run(&["ip", "link", "set", "br-int", "up"]).unwrap();
    host.run(&["ethtool", "-K", "br-int", "tx", "off"]).unwrap();
}

/// Defines a guest from the image and a seed; the userspace switch wants every offload off.
fn define_guest(host: &Host, name: &str, mac: &str, seed: &[u8]) {
    let pool = host.dir().join(POOL);
    std::fs::write(pool.join(format!("{name}.iso")), seed).unwrap();
    let inside = "/var/lib/basalt/pools/default";
    let (disk, base) = (format!("{inside}/{name}.qcow2"), format!("{inside}/base.qcow2"));
    host.run(&["qemu-img", "create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &disk]).unwrap();
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os><features><acpi/><apic/></features>\
         <on_poweroff>destroy</on_poweroff><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='{disk}'/>\
         <target dev='vda' bus='virtio'/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{inside}/{name}.iso'/>\
         <target dev='vdz' bus='virtio'/><readonly/></disk>\
         <interface type='bridge'><mac address='{mac}'/><source bridge='br-int'/><virtualport type='openvswitch'/>\
         <model type='virtio'/><driver name='qemu'>\
         <host csum='off' gso='off' tso4='off' tso6='off' ecn='off' ufo='off' mrg_rxbuf='off'/>\
         <guest csum='off' tso4='off' tso6='off' ecn='off' ufo='off'/></driver></interface>\
         <serial type='file'><source path='{inside}/{name}-serial.log'/></serial>\
         </devices></domain>"
    );
    std::fs::write(pool.join(format!("{name}.xml")), xml).unwrap();
    host.run(&["virsh", "-q", "define", &format!("{inside}/{name}.xml")]).unwrap();
}

fn page(host: &Host, address: Ipv4Addr, path: &str) -> String {
    // No agent: the machine was given its address in the host's own namespace.
    let limit = std::time::Duration::from_secs(5);
    basalt_lab::guest_http::get(&host.netns().path(), address, path, limit)
        .map(|page| page.body)
        .unwrap_or_default()
}

#[test]
fn guest_image_boots_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let lab = lab(&dir);
    let mut steps = Vec::new();
    let image = lab.guest_image(&mut |step| steps.push(step)).unwrap();
    let last = steps.last().unwrap();
    assert_eq!(last.done, last.total);
    assert!(image.size_bytes < 30 * 1024 * 1024, "{image:?}");

    let host = lab.host("h1").unwrap();
    host.power_on().unwrap();
    std::fs::copy(&image.path, host.dir().join(POOL).join("base.qcow2")).unwrap();
    add_network(host);
    static_guest(host);
    dhcp_guest(host);

    let started = Instant::now();
    for name in ["m1", "m2"] {
        host.run(&["virsh", "-q", "start", name]).unwrap();
    }
    let (m1, m2) = (Ipv4Addr::new(192, 168, 9, 11), Ipv4Addr::new(192, 168, 9, 77));
    until("the guest with a static address answers", 60, || page(host, m1, "/") == "hello from m1\n");
    println!("the first guest answered after {:.1} s", started.elapsed().as_secs_f64());
    until("the guest with a lease answers", 60, || page(host, m2, "/") == "hello from m2\n");

    assert!(page(host, m1, "/meta-data").contains("instance-id: i-m1-1"));
    assert!(page(host, m1, "/user-data").contains("#cloud-config"));
    assert_eq!(page(host, m1, "/authorized-keys").trim(), KEY);
    until("the commands ran", 10, || page(host, m1, "/commanded") == "by the seed\n");
    assert_eq!(page(host, m2, "/dhcp-lease").trim(), m2.to_string());
    power_button(host);
    disk_outlives_power_cut(host, m1);
}

fn static_guest(host: &Host) {
    let meta = format!("instance-id: i-m1-1\nlocal-hostname: m1\npublic-keys:\n  - \"{KEY}\"\n");
    let user = "#cloud-config\nruncmd:\n  - echo by the seed > /www/commanded\n".to_owned();
    let network = format!(
        "version: 2\nethernets:\n  eth0:\n    match:\n      macaddress: \"52:54:00:00:09:11\"\n    set-name: eth0\n    \
         mtu: 1400\n    dhcp4: false\n    addresses: [192.168.9.11/24]\n    gateway4: {GATEWAY}\n"
    );
    define_guest(host, "m1", "52:54:00:00:09:11", &disc(meta, user, network));
}

fn dhcp_guest(host: &Host) {
    let meta = "instance-id: i-m2-1\nlocal-hostname: m2\n".to_owned();
    let network = "version: 2\nethernets:\n  eth0:\n    match:\n      macaddress: \"52:54:00:00:09:77\"\n    dhcp4: true\n";
    define_guest(host, "m2", "52:54:00:00:09:77", &disc(meta, String::new(), network.to_owned()));
    let serve = [
        "dnsmasq",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=br-int",
        "--bind-interfaces",
        "--dhcp-range=192.168.9.77,192.168.9.77",
        "--dhcp-host=52:54:00:00:09:77,192.168.9.77",
        "--dhcp-leasefile=/run/dnsmasq.leases",
        "--pid-file=/run/dnsmasq.pid",
    ];
    host.run(&serve).unwrap();
}

/// The ACPI power button ends the guest from within.
fn power_button(host: &Host) {
    host.run(&["virsh", "-q", "shutdown", "m2"]).unwrap();
    let state = || host.run(&["virsh", "domstate", "m2"]).unwrap();
    until("the guest powers itself off", 30, || state().trim() == "shut off");
    let serial = std::fs::read_to_string(host.dir().join(POOL).join("m2-serial.log")).unwrap();
    assert!(serial.contains("GUEST-READY m2 192.168.9.77/24"), "{serial}");
}

/// What a guest wrote and synced is there after the host's power was cut; commands do not run a second time.
fn disk_outlives_power_cut(host: &Host, guest: Ipv4Addr) {
    let first_boot = page(host, guest, "/boot-id");
    // The guest writes its pages on its own time.
    std::thread::sleep(Duration::from_secs(6));
    host.power_cut().unwrap();
    host.power_on().unwrap();
    let ports = host.run(&["ovs-vsctl", "--timeout=5", "list-ports", "br-int"]).unwrap();
    for port in ports.lines() {
        host.run(&["ovs-vsctl", "--timeout=5", "del-port", port]).unwrap();
    }
    host.run(&["ip", "addr", "replace", &format!("{GATEWAY}/24"), "dev", "br-int"]).unwrap();
    host.run(&["ip", "link", "set", "br-int", "up"]).unwrap();
    host.run(&["ethtool", "-K", "br-int", "tx", "off"]).unwrap();
    host.run(&["virsh", "-q", "start", "m1"]).unwrap();
    until("the guest is back", 60, || {
        let boot = page(host, guest, "/boot-id");
        !boot.is_empty() && boot != first_boot
    });
    assert_eq!(page(host, guest, "/commanded"), "by the seed\n");
}
