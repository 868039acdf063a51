//! M1: a guest goes from one host to the other while it runs, and a pinging neighbour counts how long it was away.

use crate::{
    cluster::{Cluster, until},
    guests::{Guest, USER_DATA, guest, holds, network},
};
use basalt_lab::{guest_http, host::Host, journey};
use serde_json::{Value, json};
use std::{net::Ipv4Addr, time::Duration};

/// Seconds between two pings.
const PING_EVERY: f64 = 0.05;

/// The longest time without an answer that a guest saw of another, in milliseconds, of what its `ping` printed.
fn longest_gap(said: &str) -> u64 {
    let answers = said.lines().filter_map(|l| l.split_once("seq=")?.1.split(' ').next()?.parse::<i64>().ok());
    let answers: Vec<i64> = answers.collect();
    let gap = answers.windows(2).map(|w| w[1] - w[0] - 1).max().unwrap_or(i64::MAX);
    (gap as f64 * PING_EVERY * 1000.0) as u64
}

/// The hosts whose QEMU executes the guest, by libvirt's word.
pub fn states(cluster: &Cluster, vm: &str) -> Vec<(String, String)> {
    let of = |host: &Host| {
        let said = host.run(&["virsh", "domstate", "--reason", vm]).unwrap_or_else(|_| "gone".into());
        (host.name().to_owned(), said.trim().to_owned())
    };
    cluster.lab.hosts().iter().map(of).collect()
}

/// Moves a guest to a host, and gives its finished task and the migration.
pub async fn migrate(cluster: &Cluster, project: &str, vm: &str, body: Value) -> Value {
    let answer = cluster.post(&format!("{project}/vms/{vm}/migrate"), &body).await;
    cluster.follow(&answer).await;
    let id = answer["object"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    cluster.client.get(&format!("{project}/migrations/{id}")).await.unwrap_or_else(|e| panic!("{}", e.text()))
}

pub async fn unpinned<'a>(
    cluster: &'a Cluster,
    project: &str,
    name: &str,
    address: &str,
) -> (Guest<'a>, String) {
    let body = json!({"name": name, "spec": {"cpus": 1, "memory_bytes": 268_435_456u64,
        "disks": [{"name": "root", "source": {"kind": "image", "image": journey::IMAGE}}],
        "nics": [{"network": "blue", "address": address}], "stop_grace_seconds": 2,
        "cloud_init": {"user_data": USER_DATA}}});
    let made: Value = cluster.post(&format!("{project}/vms"), &body).await;
    cluster.follow(&made).await;
    let id = made["object"]["id"].as_str().unwrap().to_owned();
    let here = |h: &&Host| h.run(&["virsh", "domstate", &id]).is_ok();
    let host = cluster.lab.hosts().iter().find(here).expect("it runs somewhere");
    let nics = made["object"]["nics"].clone();
    let mac = nics[0]["mac"].as_str().unwrap().to_owned();
    (Guest { host, address: address.parse().unwrap(), mac, nics }, id)
}

/// Pings from a guest for some seconds, in a thread; its page answers when all were sent.
fn pinging(host: &Host, from: Ipv4Addr, to: Ipv4Addr, count: u32) -> std::thread::JoinHandle<String> {
    let pid = host.init_pid().unwrap();
    let path = format!("/cgi-bin/run?ping+-c+{count}+-i+{PING_EVERY}+-W+1+{to}");
    std::thread::spawn(move || {
        guest_http::get_on_host(pid, from, &path, Duration::from_secs(90)).unwrap().body
    })
}

/// The digests of a VM's volumes on a host, by the names of the files.
fn volumes(host: &Host) -> String {
    host.run(&["sh", "-ec", "cd /var/lib/basalt/pools/default/volumes && md5sum *"]).unwrap()
}

/// Off, it goes with the files of its volumes as they are, and starts from them where it is then.
async fn goes_cold<'a>(cluster: &'a Cluster, project: &str, id: &str, a: &mut Guest<'a>) {
    let stop: Value = cluster
        .client
        .call(&format!("{project}/vms/a/stop"))
        .await
        .unwrap_or_else(|e| panic!("{}", e.text()));
    cluster.follow(&stop).await;
    let from = a.host;
    let to = cluster.lab.hosts().iter().find(|h| h.name() != from.name()).unwrap();
    let before = volumes(from);
    let migration = migrate(cluster, project, "a", json!({"host": to.name()})).await;
    assert_eq!(migration["outcome"]["result"], "completed", "{migration}\n{}", cluster.logs());
    let mine = |all: &str| all.lines().filter(|l| before.contains(*l)).count();
    assert_eq!(mine(&volumes(to)), 1, "{before}\n{}", volumes(to));
    eprintln!("cold: {}", migration["outcome"]);
    let start: Value = cluster
        .client
        .call(&format!("{project}/vms/a/start"))
        .await
        .unwrap_or_else(|e| panic!("{}", e.text()));
    cluster.follow(&start).await;
    a.host = cluster.lab.host(to.name()).unwrap();
    until("it runs at the target alone", Duration::from_secs(60), async || {
        let states = states(cluster, id);
        states.iter().all(|(h, s)| if h == to.name() { s.starts_with("running") } else { s == "gone" })
            && a.host.http_get(a.address, "/").is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_a_guest_moves_there_and_back_while_a_neighbour_pings_it() {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let project = cluster.project("demo").await;
    network(&cluster, &project, "blue", json!({"cidr": "10.20.0.0/24"})).await;
    let (mut a, id) = unpinned(&cluster, &project, "a", "10.20.0.51").await;
    let other = |name: &str| if name == "h1" { "h2" } else { "h1" };
    let b = guest(&cluster, &project, other(a.host.name()), "b", &[("blue", "10.20.0.52")]).await;
    until("a has booted", Duration::from_secs(90), async || {
        a.host.http_get(a.address, "/seeded").is_ok_and(|page| page.body.trim() == "yes")
    })
    .await;
    holds("b reaches a", 60, &b, &a, async || b.pings(a.address)).await;
    let digest = a.run("md5sum /www/big").unwrap();
    let uptime = |guest: &Guest<'_>| -> f64 {
        guest.run("cat /proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    for _ in 0..2 {
        let (from, to) = (a.host.name().to_owned(), other(a.host.name()).to_owned());
        let before = uptime(&a);
        let pings = pinging(b.host, b.address, a.address, 400);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = std::time::Instant::now();
        let migration = migrate(&cluster, &project, "a", json!({"host": to})).await;
        let took = begun.elapsed();
        assert_eq!(migration["outcome"]["result"], "completed", "{migration}\n{}", cluster.logs());
        let said = tokio::task::spawn_blocking(move || pings.join().unwrap()).await.unwrap();
        let pause = migration["outcome"]["progress"]["pause_milliseconds"].as_u64();
        eprintln!(
            "{from} to {to} in {took:?}: pause {pause:?} ms, longest gap between pings {} ms",
            longest_gap(&said)
        );
        eprintln!("{}", migration["outcome"]);
        a.host = cluster.lab.host(&to).unwrap();
        // One executes it and the other has nothing of it.
        until("only the target has it", Duration::from_secs(30), async || {
            let states = states(&cluster, &id);
            states.iter().all(|(h, s)| if *h == to { s.starts_with("running") } else { s == "gone" })
        })
        .await;
        holds("b reaches a where it is now", 30, &b, &a, async || b.pings(a.address)).await;
        assert!(uptime(&a) > before, "the guest was started anew");
        assert_eq!(a.run("md5sum /www/big").unwrap(), digest);
    }
    goes_cold(&cluster, &project, &id, &mut a).await;
}
