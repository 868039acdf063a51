//! Several hosts and the network between them that tunnels will use.

use crate::cluster::{Cluster, until};
use basalt_lab::host::Host;
use basalt_wire::rest;
use std::{net::Ipv4Addr, time::Duration};

/// What `h1` and `h2` say of each other's tunnel address; the first pings may wait for ARP.
async fn reaches(from: &Host, to: Ipv4Addr) -> String {
    let ping = ["ping", "-c", "3", "-i", "0.2", "-W", "1", &to.to_string()];
    until("the other host answers", Duration::from_secs(15), async || {
        from.run(&["ping", "-c", "1", "-W", "1", &to.to_string()]).is_ok()
    })
    .await;
    from.run(&ping).unwrap()
}

async fn ready_with(cluster: &Cluster, name: &str, address: Ipv4Addr) {
    until("the host is ready and says where its tunnels end", Duration::from_secs(60), async || {
        let path = format!("/v1/hosts/{name}");
        let host: rest::Host = cluster.client.get(&path).await.unwrap_or_else(|e| panic!("{}", e.text()));
        let state = serde_json::to_value(host.state).unwrap();
        state == "ready" && host.facts.is_some_and(|f| f.tunnel_address == Some(address))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_hosts_reach_each_other_over_the_underlay() {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let (h1, h2) = (cluster.lab.host("h1").unwrap(), cluster.lab.host("h2").unwrap());
    let (first, second) = (Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2));
    for (host, address) in [(h1, first), (h2, second)] {
        ready_with(&cluster, host.name(), address).await;
        assert!(host.is_enrolled());
        assert_eq!(
            host.run(&["ip", "-4", "-o", "addr", "show", "dev", "eth1"]).unwrap(),
            "",
            "eth1 is read raw"
        );
    }
    // The kernel must not answer beside the switch: nothing comes twice, and ARP leads to the bridge, not to the card.
    for said in [reaches(h1, second).await, reaches(h2, first).await] {
        assert!(said.contains("3 received") && !said.contains("DUP"), "{said}");
    }

    h1.run(&["ip", "neigh", "flush", "dev", "br-phy"]).unwrap();
    reaches(h1, second).await;
    let bridge = h2.run(&["cat", "/sys/class/net/br-phy/address"]).unwrap();
    let known = h1.run(&["ip", "neigh", "show", "10.78.0.2", "dev", "br-phy"]).unwrap();
    assert!(known.contains(bridge.trim()), "{bridge}{known}");

    h2.power_cut().unwrap();
    assert!(h1.run(&["ping", "-c", "1", "-W", "1", "10.78.0.2"]).is_err(), "a host without power answers");
    h2.power_on().unwrap();
    let said = reaches(h1, second).await;
    assert!(said.contains("3 received") && !said.contains("DUP"), "{said}");
    ready_with(&cluster, "h2", second).await;

    // The bridge's device ends with the switch's process, and the address with the device.
    h1.kill_service("ovs-vswitchd").unwrap();
    let said = reaches(h1, second).await;
    assert!(said.contains("3 received") && !said.contains("DUP"), "{said}");
}
