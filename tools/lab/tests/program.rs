//! The `basalt-lab` program as a person uses it: up, status, exec, faults, a killed supervisor, down. Needs root.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use basalt_lab::control::LabStatus;

fn basalt_lab(data_dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_basalt-lab"))
        .arg("--data-dir")
        .arg(data_dir)
        .args(args)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&all).into_owned()
}

fn must(data_dir: &Path, args: &[&str]) -> String {
    let output = basalt_lab(data_dir, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn status(data_dir: &Path) -> LabStatus {
    // The exit status tells whether all is well; here only the text counts.
    serde_json::from_slice(&basalt_lab(data_dir, &["status", "--json"]).stdout).unwrap()
}

/// Takes the lab down even when an assertion failed.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        basalt_lab(self.0, &["down"]);
    }
}

/// A pair of ports, two apart, that nobody uses now.
fn free_port_base() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = first.local_addr().unwrap().port();
        if let Some(second) = base.checked_add(2)
            && TcpListener::bind(("127.0.0.1", second)).is_ok()
        {
            return base;
        }
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn namespaces_of(data_dir: &Path) -> Vec<String> {
    let prefix = basalt_lab::layout::Layout::open(data_dir).unwrap().netns_name("");
    let all = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    all.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.starts_with(&prefix)).collect()
}

#[test]
fn up_status_faults_and_down_through_the_program() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Long enough that unix sockets do not fit below it.
    let data_dir = dir.path().join("a-rather-long-name-for-a-data-directory-as-people-have-them/data");
    let _down = Down(&data_dir);
    let port = free_port_base().to_string();
    let up = ["up", "--detach", "--bare", "--port-base", &port, "--bin-dir", "/nonexistent"];
    assert!(must(&data_dir, &up).contains("libvirtd"));
    assert_eq!(must(&data_dir, &["exec", "h1", "hostname"]).trim(), "h1");
    assert!(must(&data_dir, &up).contains("it is up already"));
    assert!(said(&basalt_lab(&data_dir, &["up", "--reset"])).contains("a lab is running already"));

    must(&data_dir, &["service", "kill", "ovs-vswitchd", "--host", "h1"]);
    until("the switch is back", || status(&data_dir).hosts[0].services.iter().all(|s| s.ready));
    must(&data_dir, &["power-cut", "h1"]);
    assert!(!status(&data_dir).hosts[0].powered);
    assert!(!basalt_lab(&data_dir, &["status"]).status.success());
    assert!(said(&basalt_lab(&data_dir, &["exec", "h1", "true"])).contains("powered off"));
    must(&data_dir, &["power-on", "h1"]);
    must(&data_dir, &["status"]);
    let unknown = said(&basalt_lab(&data_dir, &["service", "kill", "nothing"]));
    assert!(unknown.contains("there is no service `nothing` here; there are: postgresql"), "{unknown}");

    must(&data_dir, &["down"]);
    assert_eq!(namespaces_of(&data_dir), Vec::<String>::new());
    assert!(said(&basalt_lab(&data_dir, &["status"])).contains("nobody answers"));
}

#[test]
fn a_lab_keeps_its_hosts_and_grows_but_does_not_shrink() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data_dir = dir.path().join("d");
    let _down = Down(&data_dir);
    let port = free_port_base().to_string();
    let up = |more: &[&str]| {
        let all =
            [&["up", "--detach", "--bare", "--port-base", &port, "--bin-dir", "/nonexistent"][..], more];
        basalt_lab(&data_dir, &all.concat())
    };
    let names = || status(&data_dir).hosts.into_iter().map(|h| h.name).collect::<Vec<_>>();
    for bad in ["0", "9", "x"] {
        let refused = up(&["--hosts", bad]);
        assert!(!refused.status.success() && said(&refused).contains("1 to 8"), "{}", said(&refused));
    }
    let first = up(&[]);
    assert!(
        first.status.success() && said(&first).contains("1 host needs about 512 MiB"),
        "{}",
        said(&first)
    );
    let grown = up(&["--hosts", "2"]);
    assert!(!grown.status.success() && said(&grown).contains("`down`, then"), "{}", said(&grown));
    must(&data_dir, &["down"]);

    let grown = up(&["--hosts", "2"]);
    assert!(grown.status.success(), "{}", said(&grown));
    assert_eq!(names(), ["h1", "h2"]);
    let shown = must(&data_dir, &["status"]);
    assert!(shown.contains("not enrolled, management 10.77.0.2, tunnels 10.78.0.2"), "{shown}");
    must(&data_dir, &["down"]);

    let fewer = up(&["--hosts", "1"]);
    assert!(!fewer.status.success() && said(&fewer).contains("up --reset --hosts 1"), "{}", said(&fewer));
    assert!(up(&[]).status.success());
    assert_eq!(names(), ["h1", "h2"], "the number is kept");
    must(&data_dir, &["down", "--reset"]);
    assert!(up(&[]).status.success());
    assert_eq!(names(), ["h1"], "forgotten with the rest");
}

#[test]
fn what_a_killed_supervisor_leaves_is_ended_by_down() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data_dir = dir.path().join("d");
    let _down = Down(&data_dir);
    let port = free_port_base().to_string();
    must(&data_dir, &["up", "--detach", "--bare", "--port-base", &port, "--bin-dir", "/nonexistent"]);
    let postgres = status(&data_dir).services[0].pid.unwrap();
    let postgres = basalt_lab::process::Identity::of(postgres).unwrap();
    let stat = basalt_lab::process::Stat::read(postgres.pid).unwrap();
    let killed = Command::new("/usr/bin/kill").args(["-KILL", &stat.parent.to_string()]).status().unwrap();
    assert!(killed.success());

    assert!(postgres.is_alive());
    let told = must(&data_dir, &["down"]);
    assert!(told.contains("ended postgresql") && told.contains("ended host-h1"), "{told}");
    assert!(!postgres.is_alive());
    assert_eq!(namespaces_of(&data_dir), Vec::<String>::new());

    // And it comes up again over what was stored, then forgets it on request.
    must(&data_dir, &["up", "--detach", "--bare", "--port-base", &port, "--bin-dir", "/nonexistent"]);
    must(&data_dir, &["down", "--reset"]);
    assert!(data_dir.join("cache").exists() && !data_dir.join("state").exists());
}
