//! Trouble on a host that is no crash: a hand that alters what is managed, and a libvirtd that is there and hangs.

use crate::cluster::{Cluster, until};
use basalt_lab::host::Host;
use basalt_wire::rest::{self, Phase};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::time::{Duration, Instant};

/// One drift: what a hand does, and what of it is seen until it is put right.
struct Drift {
    what: &'static str,
    hand: String,
    /// Succeeds while all is as it must be.
    right: String,
}

fn drift(what: &'static str, hand: impl Into<String>, right: impl Into<String>) -> Drift {
    Drift { what, hand: hand.into(), right: right.into() }
}

fn shell(host: &Host, script: &str) -> anyhow::Result<String> {
    host.run(&["sh", "-ec", script])
}

/// Every property of a VM that the agent manages, altered by hand.
fn of_the_vm(vm: &str) -> Vec<Drift> {
    let domain = |state: &str| format!("virsh domstate {vm} | grep -qx {state}");
    vec![
        drift("the VM is paused", format!("virsh suspend {vm}"), domain("running")),
        drift(
            "the VM is started with the host",
            format!("virsh autostart {vm}"),
            format!("virsh dominfo {vm} | grep -q 'Autostart: *disable'"),
        ),
        drift(
            "the definition has other CPUs",
            format!("virsh setvcpus {vm} 3 --maximum --config"),
            format!("virsh dumpxml {vm} --inactive | grep -q '<vcpu[^>]*>1</vcpu>'"),
        ),
        drift(
            "the definition has another disk",
            format!("virsh attach-disk {vm} /etc/hostname vdq --config"),
            format!("! virsh dumpxml {vm} --inactive | grep -q /etc/hostname"),
        ),
        drift(
            "the definition is gone",
            format!("virsh undefine {vm}"),
            format!("virsh dominfo {vm} | grep -q 'Persistent: *yes'"),
        ),
    ]
}

/// The same of its port and of the bridge.
fn of_the_port(tap: &str, port: &str) -> Vec<Drift> {
    vec![
        drift(
            "the port has other marks",
            format!("ovs-vsctl set interface {tap} external_ids:iface-id=hand-made"),
            format!("ovs-vsctl get interface {tap} external_ids:iface-id | grep -q {port}"),
        ),
        drift(
            "the guest's device is down",
            format!("ip link set {tap} down"),
            format!("ip link show {tap} | grep -q '[<,]UP'"),
        ),
        drift(
            "the kernel listens to the guest's device",
            format!("ip link set {tap} nomaster"),
            format!("ip link show {tap} | grep -q 'master ovs-system'"),
        ),
        drift(
            "the bridge forwards without flows",
            "ovs-vsctl set bridge br-int fail_mode=standalone",
            "ovs-vsctl get bridge br-int fail_mode | grep -q secure",
        ),
        drift(
            "a flow is added",
            "ovs-ofctl -O OpenFlow15 add-flow br-int priority=999,actions=flood",
            "! ovs-ofctl -O OpenFlow15 dump-flows br-int | grep -q priority=999",
        ),
    ]
}

/// The same of its network.
fn of_the_network(vni: u32, network: &str) -> Vec<Drift> {
    let (space, device) = (format!("net-{vni}"), format!("dhcp{vni}"));
    let dir = format!("/run/basalt/networks/{network}");
    let has = |file: &str| {
        format!("! grep -q hand-made {dir}/{file} && grep -q dnsmasq /proc/$(cat {dir}/dnsmasq.pid)/comm")
    };
    let inside = |command: &str| format!("ip netns exec {space} {command}");
    vec![
        drift("the DHCP server is killed", format!("kill -9 $(cat {dir}/dnsmasq.pid)"), has("hosts")),
        drift(
            "the DHCP server's file",
            format!("echo '# hand-made' >> {dir}/dnsmasq.conf"),
            has("dnsmasq.conf"),
        ),
        drift("the reservations", format!("echo '# hand-made' >> {dir}/hosts"), has("hosts")),
        drift("the names", format!("echo '# hand-made' >> {dir}/names"), has("names")),
        drift(
            "the server's address is taken away",
            inside(&format!("ip address flush dev {device}")),
            inside(&format!("ip -4 address show dev {device} | grep -q inet")),
        ),
        drift("the server's device is down", inside(&format!("ip link set {device} down")), {
            inside(&format!("ip link show {device} | grep -q '[<,]UP'"))
        }),
        drift("the network's namespace is deleted", format!("ip netns delete {space}"), {
            inside(&format!("ip -4 address show dev {device} | grep -q inet"))
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn r18_every_managed_property_that_a_hand_alters_is_put_right() {
    let (cluster, outcome) = Cluster::with_vm().await;
    let (host, vm) = (cluster.host(), outcome.vm.clone());
    let id = vm.metadata.id.to_string();
    let nic = &vm.nics[0];
    let path = format!("/v1/projects/{}/networks/{}", basalt_lab::journey::PROJECT, nic.network);
    let network: rest::Network = cluster.client.get(&path).await.unwrap_or_else(|e| panic!("{}", e.text()));
    let tap = shell(host, &format!("virsh domiflist {id} | awk '/tap/ {{print $1}}'")).unwrap();
    let qemu = host.pids_of("qemu-system-x86");
    let mut all = of_the_vm(&id);
    all.extend(of_the_port(tap.trim(), &nic.port_id.to_string()));
    all.extend(of_the_network(network.vni, &network.metadata.id.to_string()));
    let mut said = String::new();
    for drift in all {
        assert!(shell(host, &drift.right).is_ok(), "{}: {} does not hold before", drift.what, drift.right);
        shell(host, &drift.hand).unwrap_or_else(|e| panic!("{}: {e:#}", drift.what));
        let begun = Instant::now();
        until(drift.what, Duration::from_secs(60), async || shell(host, &drift.right).is_ok()).await;
        said += &format!("{:6.1} s  {}\n", begun.elapsed().as_secs_f64(), drift.what);
    }
    println!("{said}");
    assert!(cluster.page(outcome.address, "/").await.contains("web-1"), "{said}");
    assert_eq!(host.pids_of("qemu-system-x86"), qemu, "the guest never noticed\n{said}");
}

/// Five minutes in the specification; the agent's own limits are seconds, so that a minute shows all of it.
#[tokio::test(flavor = "multi_thread")]
async fn r35_while_libvirtd_hangs_guests_are_served_and_the_agent_says_so() {
    let (cluster, outcome) = Cluster::with_vm().await;
    let (host, vm) = (cluster.host(), outcome.vm.clone());
    let qemu = host.pids_of("qemu-system-x86");
    let daemon = host.pids_of("libvirtd");
    assert!(!daemon.is_empty());
    let signal = |signal: Signal| {
        for pid in &daemon {
            kill_process(Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap(), signal).unwrap();
        }
    };
    signal(Signal::STOP);
    let hung = Instant::now();
    // The guest's network is mended as ever.
    let answers = || host.http_get(outcome.address, "/").is_ok_and(|page| page.body.contains("web-1"));
    let pid = format!("/run/basalt/networks/{}/dnsmasq.pid", vm.nics[0].network_id);
    for (what, hand) in [
        ("flows are wiped", "ovs-ofctl -O OpenFlow15 del-flows br-int".to_owned()),
        ("the DHCP server is killed", format!("kill -9 $(cat {pid})")),
        ("flows are wiped again", "ovs-ofctl -O OpenFlow15 del-flows br-int".to_owned()),
    ] {
        shell(host, &hand).unwrap();
        let served = format!("grep -q dnsmasq /proc/$(cat {pid})/comm");
        until(what, Duration::from_secs(20), async || answers() && shell(host, &served).is_ok()).await;
    }
    // What is wanted meanwhile waits, and the host says why.
    let second = json!({"name": "second", "spec": {"cpus": 1, "memory_bytes": 268_435_456u64,
        "disks": [{"name": "root", "source": {"kind": "image", "image": basalt_lab::journey::IMAGE}}],
        "nics": [{"network": vm.nics[0].network}]}});
    let project = format!("/v1/projects/{}", basalt_lab::journey::PROJECT);
    let made = cluster.post(&format!("{project}/vms"), &second).await;
    until("the host says that libvirt hangs", Duration::from_secs(90), async || {
        let host: rest::Host =
            cluster.client.get("/v1/hosts/h1").await.unwrap_or_else(|e| panic!("{}", e.text()));
        let problems = host.facts.map(|f| f.problems).unwrap_or_default();
        problems.iter().any(|p| p.remedy.contains("restart libvirtd, which is there and hangs"))
    })
    .await;
    until("the VM says that nobody can tell", Duration::from_secs(30), async || {
        cluster.vm().await.phase == Phase::Unknown
    })
    .await;
    let told = cluster.vm().await;
    let ready = told.conditions.iter().find(|c| c.kind == "Ready").unwrap();
    assert!(ready.message.contains("cannot tell whether it runs"), "{ready:?}");
    println!("{}", ready.message);
    tokio::time::sleep(Duration::from_secs(60).saturating_sub(hung.elapsed())).await;
    assert!(answers());
    assert_eq!(host.pids_of("qemu-system-x86"), qemu, "nothing was begun meanwhile");
    signal(Signal::CONT);
    let back = Instant::now();
    until("all is known again", Duration::from_secs(30), async || cluster.vm().await.phase == Phase::Running)
        .await;
    println!("known again {:.1} s after libvirtd went on", back.elapsed().as_secs_f64());
    cluster.follow(&made).await;
    let running = host.pids_of("qemu-system-x86");
    assert!(qemu.iter().all(|pid| running.contains(pid)), "the guest never noticed: {qemu:?} {running:?}");
    assert_eq!(running.len(), qemu.len() + 1, "and nothing was started twice");
}
