//! Namespace hosts with their real parts: libvirt, QEMU, Open vSwitch, PostgreSQL. Needs root and the packages.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use basalt_lab::control::{self, Request, Response};
use basalt_lab::host::Host;
use basalt_lab::netns::Switch;
use basalt_lab::postgres::{DATABASE, Durability};
use basalt_lab::process::Identity;
use basalt_lab::sockets::NamedSocket;
use basalt_lab::{Builder, Lab, Ports};
use tempfile::TempDir;

fn builder(dir: &TempDir) -> Builder {
    // Other accounts must be able to reach the data directory; a temporary one is closed.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    Lab::builder(dir.path().join("d"))
        .lab_program(env!("CARGO_BIN_EXE_basalt-lab"))
        .bin_dir("/nonexistent")
        .durability(Durability::Test)
        .ports(Ports::Ephemeral)
}

fn until(what: &str, limit_seconds: u64, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(limit_seconds);
    while !holds() {
        assert!(Instant::now() < end, "not within {limit_seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// A guest without a disk: enough to have a QEMU process with a network card.
fn start_diskless_guest(host: &Host, name: &str) {
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>\
         <emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <interface type='bridge'><source bridge='br-int'/><virtualport type='openvswitch'/><model type='virtio'/></interface>\
         </devices></domain>"
    );
    let file = host.dir().join("lib-basalt").join(format!("{name}.xml"));
    std::fs::write(&file, xml).unwrap();
    host.run(&["virsh", "-q", "define", &format!("/var/lib/basalt/{name}.xml")]).unwrap();
    host.run(&["virsh", "-q", "start", name]).unwrap();
}

fn domain_state(host: &Host, name: &str) -> String {
    host.run(&["virsh", "domstate", name]).unwrap_or_default().trim().to_owned()
}

fn add_bridge(host: &Host) {
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
}

#[test]
fn lab_host_boots_and_power_cut_kills_everything() {
    let dir = tempfile::tempdir().unwrap();
    let lab = builder(&dir).build().unwrap();
    let host = lab.host("h1").unwrap();
    host.power_on().unwrap();

    assert_eq!(host.run(&["hostname"]).unwrap().trim(), "h1");
    let status = host.status();
    assert!(status.powered && status.services.len() == 3, "{status:?}");
    // libvirt has no TCP door: nothing listens in the host's namespace.
    let listening = host.run(&["cat", "/proc/net/tcp", "/proc/net/tcp6"]).unwrap();
    assert!(!listening.contains(" 0A "), "{listening}");

    add_bridge(host);
    start_diskless_guest(host, "g1");
    assert_eq!(domain_state(host, "g1"), "running");
    let qemu = host.pids_of("qemu-system-x86");
    assert_eq!(qemu.len(), 1);
    let owner = std::fs::read_to_string(format!("/proc/{}/status", qemu[0])).unwrap();
    let uid = owner.lines().find(|l| l.starts_with("Uid:")).unwrap();
    assert!(!uid.contains("\t0"), "QEMU runs as root: {uid}");

    let everything: Vec<Identity> = host.pids().into_iter().filter_map(Identity::of).collect();
    assert!(everything.len() >= 5, "{everything:?}");
    host.power_cut().unwrap();
    assert!(everything.iter().all(|p| !p.is_alive()));
    assert!(!host.is_powered());

    // Disks survive: the domain is still defined, the bridge still configured, the guest off.
    host.power_on().unwrap();
    assert_eq!(domain_state(host, "g1"), "shut off");
    assert!(host.run(&["ovs-vsctl", "--timeout=5", "list-br"]).unwrap().contains("br-int"));
    // The stale port of the dead guest is left for the agent to mend.
    assert!(host.run(&["ovs-vsctl", "--timeout=5", "list-ports", "br-int"]).unwrap().contains("vnet"));
}

#[test]
fn a_guest_outlives_a_killed_libvirtd_and_every_service_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let lab = builder(&dir).build().unwrap();
    let host = lab.host("h1").unwrap();
    host.power_on().unwrap();
    add_bridge(host);
    start_diskless_guest(host, "g1");
    let qemu = Identity::of(host.pids_of("qemu-system-x86")[0]).unwrap();
    for service in ["libvirtd", "ovs-vswitchd", "ovsdb-server"] {
        host.kill_service(service).unwrap();
        until(service, 15, || host.status().services.iter().all(|s| s.ready));
        let status = host.status();
        let killed = status.services.iter().find(|s| s.name == service).unwrap();
        assert_eq!(killed.restarts, 1, "{killed:?}");
        assert!(qemu.is_alive(), "the guest died with {service}");
    }
    assert_eq!(domain_state(host, "g1"), "running");
    // QEMU is now an orphan of the host's first process, which must collect it.
    host.run(&["virsh", "-q", "destroy", "g1"]).unwrap();
    until("the dead guest is collected", 5, || {
        !std::path::Path::new(&format!("/proc/{}", qemu.pid)).exists()
    });
}

#[test]
fn two_labs_stand_beside_each_other_and_leave_nothing() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let names: Vec<String> = [&one, &two]
        .map(|dir| {
            let lab = builder(dir).hosts(["h1", "h2"]).build().unwrap();
            lab.power_on_hosts().unwrap();
            let (h1, h2) = (lab.host("h1").unwrap(), lab.host("h2").unwrap());
            let door = NamedSocket::listen_in(lab.switch().netns(), "door", Switch::address(8080)).unwrap();
            h1.run(&["bash", "-c", &format!("exec 3<>/dev/tcp/{}/8080", door.address().ip())]).unwrap();
            h1.run(&["ping", "-c1", "-W2", &h2.address().to_string()]).unwrap();
            lab.layout().netns_name("")
        })
        .into_iter()
        .collect();
    assert_ne!(names[0], names[1]);
    let left: Vec<_> = std::fs::read_dir("/run/netns").unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(
        !left.iter().any(|n| names.iter().any(|prefix| n.to_string_lossy().starts_with(prefix))),
        "{left:?}"
    );
}

#[test]
fn postgres_comes_back_after_a_kill_with_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Arc::new(builder(&dir).hosts(Vec::<String>::new()).build().unwrap());
    lab.start_services().unwrap();
    lab.postgres().psql(DATABASE, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)").unwrap();
    let _down = lab.serve_control().unwrap();
    let socket = lab.layout().control_socket();
    let kill = r#"{"op":"service","verb":"kill","service":"postgresql"}"#;
    control::ask(&socket, &serde_json::from_str(kill).unwrap()).unwrap();
    until("postgres answers again", 20, || {
        lab.postgres().psql(DATABASE, "SELECT n FROM t").is_ok_and(|r| r.trim() == "7")
    });
    let Response::Lab { status } = control::ask(&socket, &Request::Status).unwrap() else {
        panic!("not a lab")
    };
    assert_eq!(status.services[0].restarts, 1);
    // Only root and PostgreSQL's own account reach the socket.
    let mode = std::fs::metadata(lab.postgres().socket_dir()).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o077, 0);
}
