//! N8 on real parts: what guests send and receive is counted, and what one of them sends under another's address.

use crate::{
    cluster::{Cluster, until},
    guests::{Guest, guest, holds, network},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn n8_what_guests_send_and_receive_is_counted_and_so_is_what_one_forges() {
    let cluster = Cluster::up().await;
    let project = cluster.project("demo").await;
    network(&cluster, &project, "blue", json!({"cidr": "10.20.0.0/24"})).await;
    let a = guest(&cluster, &project, "h1", "a", &[("blue", "10.20.0.11")]).await;
    let b = guest(&cluster, &project, "h1", "b", &[("blue", "10.20.0.12")]).await;
    until("a has booted", Duration::from_secs(90), async || {
        a.host.http_get(a.address, "/seeded").is_ok_and(|page| page.body.trim() == "yes")
    })
    .await;
    holds("a reaches b", 90, &a, &b, async || a.pings(b.address)).await;

    let path =
        |of: &Guest<'_>| format!("{project}/ports/{}/counters", of.nics[0]["port_id"].as_str().unwrap());
    let counted = async |of: &Guest<'_>| -> Value {
        let seen = cluster.client.get(&path(of)).await;
        seen.unwrap_or_else(|e| panic!("{}\n{}", e.text(), cluster.logs()))
    };
    let of = |seen: &Value, field: &str| seen[field].as_u64().unwrap_or_else(|| panic!("{field}: {seen}"));
    let before = counted(&b).await;
    assert!(a.run("ping -c 30 -i 0.1 -W 1 10.20.0.12").unwrap().contains(" 0% packet loss"));
    let after = counted(&b).await;
    for field in ["rx_packets", "tx_packets"] {
        let grown = of(&after, field) - of(&before, field);
        assert!((30..200).contains(&grown), "{field}: {before} {after}");
    }
    // Sent is told from received: two megabytes go one way only.
    a.digest_of_big(b.address).expect("a reads two megabytes of b");
    let served = counted(&b).await;
    let grown = |field: &str| of(&served, field) - of(&after, field);
    assert!(grown("tx_bytes") > 2 << 20 && grown("rx_bytes") < 1 << 20, "{after} {served}");

    // A guest without an IPv6 address looks for routers all the same, ever more seldom and for hours: by IPv6 nothing is its
    // own here, so each time counts. This one is to be silent while the other forges.
    b.run("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6").unwrap();
    let said = async || of(&counted(&b).await, "spoofed_packets");
    let mut served = said().await;
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if std::mem::replace(&mut served, said().await) == served {
            break;
        }
    }
    let honest = counted(&a).await;
    a.run("ip addr add 10.20.0.99/24 dev eth0").unwrap();
    let forged = a.run("ping -c 5 -i 0.2 -W 1 -I 10.20.0.99 10.20.0.12").unwrap();
    assert!(forged.contains("100% packet loss"), "{forged}");
    until("what a forged is counted", Duration::from_secs(10), async || {
        of(&counted(&a).await, "spoofed_packets") >= of(&honest, "spoofed_packets") + 5
    })
    .await;
    assert_eq!(said().await, served, "b forged nothing");

    let stopped: Value = cluster.client.call(&format!("{project}/vms/b/stop")).await.unwrap();
    cluster.follow(&stopped).await;
    let begun = Instant::now();
    let refused = cluster.client.get::<Value>(&path(&b)).await.unwrap_err().text();
    assert!(refused.contains("start the VM") && begun.elapsed() < Duration::from_secs(5), "{refused}");
}
