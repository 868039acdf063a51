//! M5, R55: a host is lost, and its guest is started elsewhere after it is proven that it executes there no more. Real QEMU,
//! real fencers, storage that both hosts mount; who executes is counted from outside, by the processes.

use crate::{
    cluster::{Cluster, until},
    guests::{USER_DATA, network},
    watchman::Watchman,
};
use basalt_lab::{host::Host, journey};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What M5 promises.
const PROMISED: Duration = Duration::from_secs(60);
const POOL: &str =
    "\n[[pool]]\nname = \"shared\"\nkind = \"shared_directory\"\npath = \"/var/lib/basalt/pools/shared\"\n";

/// Mounts a directory of the machine on a host, as an NFS client would, and declares it as a pool.
fn mount_shared(cluster: &Cluster, host: &Host) {
    let source = cluster.lab.layout().data_dir().join("shared");
    std::fs::create_dir_all(&source).unwrap();
    let inside = "/var/lib/basalt/pools/shared";
    host.run(&["mkdir", "-p", inside]).unwrap();
    host.run(&["mount", "--bind", &source.display().to_string(), inside]).unwrap();
}

fn declare_shared(host: &Host) {
    let file = host.dir().join("etc-basalt/agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + POOL).unwrap();
    host.kill_service("basalt-agent").unwrap();
}

/// Whether a QEMU of the VM executes on the host, by its processes and not by anybody's word.
fn executes(host: &Host, id: &str) -> bool {
    host.pids_of("qemu-system-x86").iter().any(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&format!("\0-uuid\0{id}\0"))
    })
}

/// Counts looks in which two hosts had a QEMU of the VM.
fn watch(cluster: &Cluster, id: &str) -> Watchman {
    let id = id.to_owned();
    Watchman::new(cluster.lab.clone(), Duration::from_millis(50), move |lab| {
        lab.hosts().iter().filter(|host| executes(host, &id)).count() > 1
    })
}

async fn vm(cluster: &Cluster, project: &str) -> Value {
    cluster.client.get(&format!("{project}/vms/a")).await.unwrap_or_else(|e| panic!("{}", e.text()))
}

async fn placed(cluster: &Cluster, project: &str) -> String {
    vm(cluster, project).await["placement"]["host"].as_str().unwrap_or_default().to_owned()
}

/// Two hosts that mount the same storage, and a guest with an HA policy on one of them: with its project and its id.
async fn sharing_with_a_guest() -> (Cluster, String, String) {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let project = cluster.project("demo").await;
    network(&cluster, &project, "blue", json!({"cidr": "10.20.0.0/24"})).await;
    for host in cluster.lab.hosts() {
        mount_shared(&cluster, host);
        declare_shared(host);
    }
    for host in ["h1", "h2"] {
        until("the shared pool is known", Duration::from_secs(120), async || {
            let seen: Value = cluster.client.get(&format!("/v1/hosts/{host}")).await.unwrap();
            let shared = |p: &Value| p["shared_id"].is_string();
            seen["facts"]["pools"].as_array().is_some_and(|pools| pools.iter().any(shared))
                && seen["facts"]["fencer"].is_object()
        })
        .await;
    }
    let body = json!({"name": "a", "spec": {"cpus": 1, "memory_bytes": 268_435_456u64, "ha": {"policy": "restart"},
        "disks": [{"name": "root", "pool": "shared", "source": {"kind": "image", "image": journey::IMAGE}}],
        "nics": [{"network": "blue", "address": "10.20.0.51"}], "stop_grace_seconds": 2,
        "cloud_init": {"user_data": USER_DATA}}});
    let made: Value = cluster.post(&format!("{project}/vms"), &body).await;
    cluster.follow(&made).await;
    let id = made["object"]["id"].as_str().unwrap().to_owned();
    (cluster, project, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn m5_r55_the_guest_of_a_lost_host_runs_elsewhere_within_a_minute_and_never_on_two() {
    let (cluster, project, id) = sharing_with_a_guest().await;
    let watchman = watch(&cluster, &id);
    let other = |name: &str| if name == "h1" { "h2" } else { "h1" };

    // Cut off with its agent dead and its guest alive: only the fencer can end it.
    let here = placed(&cluster, &project).await;
    let (lost, taker) = (cluster.lab.host(&here).unwrap(), cluster.lab.host(other(&here)).unwrap());
    until("the host said that the VM needs its lease", Duration::from_secs(30), async || {
        vm(&cluster, &project).await["observed"]["leased"] == true
    })
    .await;
    assert!(executes(lost, &id));
    let begun = Instant::now();
    lost.set_links(false).unwrap();
    lost.service("basalt-agent", basalt_lab::control::Verb::Stop).unwrap();
    assert!(executes(lost, &id), "the guest outlives its agent");
    let mut ended = None;
    until("it executes elsewhere", PROMISED + Duration::from_secs(30), async || {
        if !executes(lost, &id) {
            ended.get_or_insert(begun.elapsed());
        }
        executes(taker, &id)
    })
    .await;
    let took = begun.elapsed();
    let ended = ended.expect("it was ended where it was");
    eprintln!("cut off: the fencer ended the guest after {ended:?}, it executed elsewhere after {took:?}");
    assert!(ended < took && took <= PROMISED, "{}", cluster.logs());
    until("the guest answers where it is now", Duration::from_secs(90), async || {
        taker.http_get("10.20.0.51".parse().unwrap(), "/").is_ok()
    })
    .await;

    // It comes back and has nothing of it.
    lost.set_links(true).unwrap();
    lost.service("basalt-agent", basalt_lab::control::Verb::Start).unwrap();
    until("the lost host is back and has nothing of it", Duration::from_secs(90), async || {
        let host: Value = cluster.client.get(&format!("/v1/hosts/{here}")).await.unwrap();
        host["state"] == "ready" && lost.run(&["virsh", "domstate", &id]).is_err()
    })
    .await;

    // And the other way: the power of the host where it is now fails.
    let begun = Instant::now();
    taker.power_cut().unwrap();
    until("it executes on the first host again", PROMISED + Duration::from_secs(30), async || {
        executes(lost, &id)
    })
    .await;
    let took = begun.elapsed();
    eprintln!("power cut: it executed elsewhere after {took:?}");
    assert!(took <= PROMISED, "{}", cluster.logs());
    let (doubles, looks) = (watchman.doubles(), watchman.looks());
    eprintln!("{looks} looks at the processes of both hosts, two executed it in {doubles}");
    assert!(looks > 100 && doubles == 0);
}
