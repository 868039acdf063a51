//! Guests of one network on two hosts: they reach each other, nobody else reaches them, and what breaks comes back.

use crate::{
    cluster::{Cluster, until},
    guests::{guest, heals, holds, network},
};
use basalt_lab::host::Host;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn n3_n7_r37_guests_on_two_hosts_reach_each_other_and_nobody_else_and_a_broken_way_heals() {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let (project, other) = (cluster.project("demo").await, cluster.project("other").await);
    // The same addresses in each: only identifiers tell networks apart.
    let range = || json!({"cidr": "10.20.0.0/24"});
    network(&cluster, &project, "blue", range()).await;
    let red = network(&cluster, &other, "red", range()).await;
    let a = guest(&cluster, &project, "h1", "a", &[("blue", "10.20.0.11")]).await;
    let b = guest(&cluster, &project, "h2", "b", &[("blue", "10.20.0.12")]).await;
    let c = guest(&cluster, &other, "h2", "c", &[("red", "10.20.0.13")]).await;
    let served =
        |host: &Host, address| host.http_get(address, "/seeded").is_ok_and(|page| page.body.trim() == "yes");
    until("a has booted", Duration::from_secs(90), async || served(a.host, a.address)).await;
    let seeded = format!("timeout 5 wget -q -O - http://{}/seeded", b.address);
    holds("a reads from b", 40, &a, &b, async || a.run(&seeded).is_ok_and(|said| said == "yes\n")).await;
    assert!(a.pings(b.address), "{:?}\n{}", a.run("ping -c 3 -s 1422 10.20.0.12"), cluster.logs());
    let whole = a.run(&format!("timeout 5 wget -q -O - http://{}/big.md5", b.address)).unwrap();
    assert_eq!(
        a.digest_of_big(b.address).as_deref(),
        whole.split_whitespace().next(),
        "two megabytes over TCP"
    );
    // N7: a knows b's address as the truth has it.
    let known = a.run("arp -n").unwrap();
    assert!(known.contains(&b.mac), "{known}");
    // The red guest lives: its own host reaches it, from the red network's namespace.
    let space = format!("net-{red}");
    let reached = || {
        c.host
            .run(&["ip", "netns", "exec", &space, "ping", "-c", "1", "-W", "1", &c.address.to_string()])
            .is_ok()
    };
    until("c answers its host", Duration::from_secs(90), async || reached()).await;
    assert!(a.is_cut_off_from(c.address), "another network's guest was reached");

    let tunnel = ["ovs-vsctl", "--timeout=5", "del-port", "basalt-vxlan"];
    let wiped = ["ovs-ofctl", "-O", "OpenFlow15", "del-flows", "br-int"];
    for host in [a.host, b.host] {
        host.run(&tunnel).unwrap();
        heals("the tunnel was deleted", 10, &a, &b).await;
        host.run(&wiped).unwrap();
        heals("the flows were wiped", 10, &a, &b).await;
    }
    b.host.kill_service("ovs-vswitchd").unwrap();
    heals("the switch was killed", 20, &a, &b).await;
    assert!(a.is_cut_off_from(c.address), "another network's guest was reached");
    until("c answers its host again", Duration::from_secs(20), async || reached()).await;

    // While no gateway tells anything, an agent that starts anew goes on with what it knew.
    let gateway = cluster.lab.gateway().unwrap();
    gateway.stop();
    a.host.kill_service("basalt-agent").unwrap();
    a.host.run(&wiped).unwrap();
    heals("an agent without a gateway", 20, &a, &b).await;
    gateway.start();
    b.host.power_cut().unwrap();
    assert!(a.is_cut_off_from(b.address));
    b.host.power_on().unwrap();
    heals("the other host's power was cut", 120, &a, &b).await;
}
