//! What a network can be: IPv6 beside IPv4, names, and VLANs and untagged frames on a wire of the hosts.

use crate::{
    cluster::{Cluster, until},
    guests::{Guest, guest, holds, network},
};
use serde_json::{Value, json};
use std::time::Duration;

fn address6(nic: &Value) -> String {
    nic["address6"].as_str().unwrap_or_else(|| panic!("no IPv6 address: {nic}")).to_owned()
}

/// Whether three pings of the largest size that fits come back whole.
fn pings(from: &Guest<'_>, command: &str, size: u16, to: &str) -> bool {
    let said = from.run(&format!("{command} -c 3 -i 0.2 -W 1 -s {size} {to}"));
    said.is_ok_and(|said| said.contains(" 0% packet loss"))
}

fn silent(from: &Guest<'_>, command: &str, to: &str) -> bool {
    let said = from.run(&format!("{command} -c 2 -i 0.2 -W 1 {to}"));
    said.is_ok_and(|said| said.contains("100% packet loss") || said.contains("unreachable"))
}

#[tokio::test(flavor = "multi_thread")]
async fn n1_n4_s47_guests_speak_ipv6_know_each_others_names_and_share_a_wire_by_vlan() {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let (project, other) = (cluster.project("demo").await, cluster.project("other").await);
    let overlay = json!({"cidr": "10.20.0.0/24", "cidr6": "fd00:20::/64"});
    network(&cluster, &project, "blue", overlay).await;
    let vlan = |id: u16, prefix: &str| {
        let segment = json!({"kind": "vlan", "vlan_id": id, "uplink": "br-phy"});
        json!({"cidr": "10.7.0.0/24", "cidr6": prefix, "segment": segment, "mtu": 1500})
    };
    network(&cluster, &project, "seven", vlan(7, "fd00:7::/64")).await;
    let eight = network(&cluster, &other, "eight", vlan(8, "fd00:7::/64")).await;
    // Untagged on the same bridge: the network between the hosts itself.
    let flat = json!({"cidr": "10.78.0.0/24", "gateway": "10.78.0.1", "segment": {"kind": "flat", "uplink": "br-phy"},
        "dhcp": false, "mtu": 1500});
    network(&cluster, &project, "outside", flat).await;
    let of_a = [("blue", "10.20.0.51"), ("seven", "10.7.0.51"), ("outside", "10.78.0.51")];
    let of_b = [("blue", "10.20.0.52"), ("seven", "10.7.0.52"), ("outside", "10.78.0.52")];
    let a = guest(&cluster, &project, "h1", "a", &of_a).await;
    let b = guest(&cluster, &project, "h2", "b", &of_b).await;
    let c = guest(&cluster, &other, "h2", "c", &[("eight", "10.7.0.53")]).await;
    until("a has booted", Duration::from_secs(90), async || {
        a.host.http_get(a.address, "/seeded").is_ok_and(|page| page.body.trim() == "yes")
    })
    .await;

    // The overlay, both families, each as large as its MTU of 1450 allows.
    let six = address6(&b.nics[0]);
    holds("a reaches b by IPv4", 60, &a, &b, async || pings(&a, "ping", 1422, "10.20.0.52")).await;
    holds("a reaches b by IPv6", 20, &a, &b, async || pings(&a, "ping6", 1402, &six)).await;
    let neighbours = a.run("ip -6 neigh").unwrap();
    assert!(neighbours.contains(&b.mac), "a knows b's address as the truth has it: {neighbours}");
    // Names of guests of other hosts, from this host's own server.
    let ask = |name: &str| a.run(&format!("nslookup {name} 10.20.0.254")).unwrap();
    let known = ask("b.internal");
    assert!(known.contains("10.20.0.52") && known.contains(&six), "{known}");
    assert!(ask("nobody.internal").contains("NXDOMAIN"), "{}", ask("nobody.internal"));

    // On a wire too, though no tunnel leads there.
    holds("b's name in VLAN 7", 20, &a, &b, async || {
        a.run("nslookup b.internal 10.7.0.254").is_ok_and(|said| said.contains("10.7.0.52"))
    })
    .await;

    // The VLAN, full frames of 1500, and the untagged wire.
    let wired = address6(&b.nics[1]);
    holds("a reaches b in VLAN 7", 20, &a, &b, async || pings(&a, "ping", 1472, "10.7.0.52")).await;
    holds("a reaches b in VLAN 7 by IPv6", 20, &a, &b, async || pings(&a, "ping6", 1452, &wired)).await;
    for address in ["10.78.0.52", "10.78.0.1", "10.78.0.2"] {
        holds(address, 20, &a, &b, async || pings(&a, "ping", 1472, address)).await;
    }

    stays_apart(&a, &b, &c, eight, &wired).await;
    lies_are_not_heard(&a, &b, &wired).await;
}

/// S47: nothing of VLAN 7 reaches VLAN 8, which has the same addresses, whatever happens to the switch.
async fn stays_apart(a: &Guest<'_>, b: &Guest<'_>, c: &Guest<'_>, eight: u64, wired: &str) {
    let space = format!("net-{eight}");
    let reached =
        || c.host.run(&["ip", "netns", "exec", &space, "ping", "-c", "1", "-W", "1", "10.7.0.53"]).is_ok();
    until("c answers its host", Duration::from_secs(60), async || reached()).await;
    let foreign = address6(&c.nics[0]);
    let apart = |when: &str| {
        assert!(silent(a, "ping", "10.7.0.53"), "{when}: VLAN 8 was reached");
        assert!(silent(a, "ping6", &foreign), "{when}: VLAN 8 was reached by IPv6");
    };
    apart("at first");
    for host in [a.host, b.host] {
        host.run(&["ovs-ofctl", "-O", "OpenFlow15", "del-flows", "br-int"]).unwrap();
        apart("flows were wiped");
        holds("wiped flows", 10, a, b, async || pings(a, "ping6", 1452, wired)).await;
        host.run(&["ovs-vsctl", "--timeout=5", "del-port", "up-br-phy"]).unwrap();
        apart("the patch was deleted");
        holds("the patch was deleted", 10, a, b, async || pings(a, "ping", 1472, "10.7.0.52")).await;
    }
    b.host.kill_service("ovs-vswitchd").unwrap();
    apart("the switch was killed");
    holds("the switch was killed", 20, a, b, async || pings(a, "ping6", 1452, wired)).await;
    apart("the switch came back");
    until("c answers its host again", Duration::from_secs(20), async || reached()).await;
}

/// N4: a guest that lies about itself is silent, in both families, and heard again when it stops.
async fn lies_are_not_heard(a: &Guest<'_>, b: &Guest<'_>, wired: &str) {
    for (lie, command, to) in [
        ("ip addr add 10.7.0.99/24 dev eth1", "ping -I 10.7.0.99", "10.7.0.52"),
        ("ip addr add fd00:7::99/64 dev eth1", "ping6 -I fd00:7::99", wired),
    ] {
        let said = a.run(lie).unwrap();
        assert!(said.is_empty(), "{lie}: {said}");
        let lies = || a.run(&format!("{command} -c 3 -i 0.2 -W 1 {to}")).unwrap();
        // An IPv6 address can be used once nobody was heard to have it.
        until("the address can be used", Duration::from_secs(10), async || !lies().contains("Cannot assign"))
            .await;
        assert!(lies().contains("100% packet loss"), "{lie}: {}", lies());
    }
    a.run("ip link set eth1 address 02:00:00:00:00:99").unwrap();
    assert!(silent(a, "ping", "10.7.0.52"), "another MAC address");
    a.run(&format!("ip link set eth1 address {}", a.nics[1]["mac"].as_str().unwrap())).unwrap();
    holds("a is itself again", 20, a, b, async || pings(a, "ping", 1472, "10.7.0.52")).await;
}
