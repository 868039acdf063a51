//! Guests of one network on two hosts: they reach each other, nobody else reaches them, and what breaks comes back.

use crate::cluster::{Cluster, until};
use basalt_lab::{host::Host, journey};
use serde_json::{Value, json};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Makes the guest run what a query says (`+` for a space), and answer with what it printed.
const USER_DATA: &str = r#"#!/bin/sh
mkdir -p /www/cgi-bin
dd if=/dev/urandom of=/www/big bs=1024 count=2048
md5sum /www/big > /www/big.md5
cat > /www/cgi-bin/run <<'END'
#!/bin/sh
printf 'Content-type: text/plain\r\n\r\n'
$(echo "$QUERY_STRING" | tr + ' ') 2>&1
END
chmod 755 /www/cgi-bin/run
echo yes > /www/seeded
"#;

/// A guest, and the host that it was pinned to.
struct Guest<'a> {
    host: &'a Host,
    address: Ipv4Addr,
    mac: String,
}

impl Guest<'_> {
    /// What a command in the guest printed.
    fn run(&self, command: &str) -> anyhow::Result<String> {
        let path = format!("/cgi-bin/run?{}", command.replace(' ', "+"));
        Ok(self.host.http_get(self.address, &path)?.body)
    }

    /// Whether each of three pings came back whole, the largest that fit the network's MTU.
    fn pings(&self, to: Ipv4Addr) -> bool {
        self.run(&format!("ping -c 3 -i 0.2 -W 1 -s 1422 {to}"))
            .is_ok_and(|said| said.contains(" 0% packet loss"))
    }

    /// Whether nothing comes back at all.
    fn is_cut_off_from(&self, to: Ipv4Addr) -> bool {
        self.run(&format!("ping -c 2 -i 0.2 -W 1 {to}")).is_ok_and(|said| said.contains("100% packet loss"))
    }

    /// The digest of two megabytes that another guest serves.
    fn digest_of_big(&self, of: Ipv4Addr) -> Option<String> {
        let said = self.run(&format!("timeout 20 wget -q -O /tmp/big http://{of}/big")).ok()?;
        assert_eq!(said, "", "wget says nothing when it got the file");
        self.run("md5sum /tmp/big").ok()?.split_whitespace().next().map(str::to_owned)
    }
}

async fn network(cluster: &Cluster, project: &str, name: &str) -> u64 {
    // The same addresses in each: only identifiers tell networks apart.
    let body = json!({"name": name, "spec": {"cidr": "10.20.0.0/24"}});
    let made = cluster.post(&format!("{project}/networks"), &body).await;
    cluster.follow(&made).await;
    made["object"]["vni"].as_u64().unwrap()
}

async fn guest<'a>(
    cluster: &'a Cluster,
    project: &str,
    host: &str,
    network: &str,
    address: &str,
) -> Guest<'a> {
    let name = format!("{network}-{host}");
    let body = json!({"name": name, "spec": {"cpus": 1, "memory_bytes": 268_435_456u64,
        "disks": [{"name": "root", "source": {"kind": "image", "image": journey::IMAGE}}],
        "nics": [{"network": network, "address": address}], "stop_grace_seconds": 2,
        "placement": {"host": host}, "cloud_init": {"user_data": USER_DATA}}});
    let made: Value = cluster.post(&format!("{project}/vms"), &body).await;
    cluster.follow(&made).await;
    let mac = made["object"]["nics"][0]["mac"].as_str().unwrap().to_owned();
    Guest { host: cluster.lab.host(host).unwrap(), address: address.parse().unwrap(), mac }
}

/// What the switch of a host says of the way to others, for a test that failed.
fn wires(host: &Host) -> String {
    let asked: [&[&str]; 5] = [
        &["ovs-vsctl", "show"],
        &["ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br-int"],
        &["ovs-appctl", "ovs/route/show"],
        &["ovs-appctl", "tnl/neigh/show"],
        &["ovs-appctl", "dpctl/dump-flows"],
    ];
    let said = asked.map(|argv| {
        format!("--- {}: {argv:?}\n{}\n", host.name(), host.run(argv).unwrap_or_else(|e| e.to_string()))
    });
    said.concat()
}

/// Waits until something of two guests holds, and tells all about their wires when it does not.
async fn holds(
    what: &str,
    limit_seconds: u64,
    a: &Guest<'_>,
    b: &Guest<'_>,
    mut ask: impl AsyncFnMut() -> bool,
) {
    let end = Instant::now() + Duration::from_secs(limit_seconds);
    while !ask().await {
        let late = Instant::now() > end;
        assert!(
            !late,
            "not within {limit_seconds} s: {what}\n{}{}{:?}",
            wires(a.host),
            wires(b.host),
            a.run("arp -n")
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn heals(what: &str, limit_seconds: u64, guest: &Guest<'_>, other: &Guest<'_>) {
    holds(what, limit_seconds, guest, other, async || guest.pings(other.address)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n3_n7_r37_guests_on_two_hosts_reach_each_other_and_nobody_else_and_a_broken_way_heals() {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let (project, other) = (cluster.project("demo").await, cluster.project("other").await);
    network(&cluster, &project, "blue").await;
    let red = network(&cluster, &other, "red").await;
    let a = guest(&cluster, &project, "h1", "blue", "10.20.0.11").await;
    let b = guest(&cluster, &project, "h2", "blue", "10.20.0.12").await;
    let c = guest(&cluster, &other, "h2", "red", "10.20.0.13").await;
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
    // The red guest lives: its own host reaches it, by the red network's device.
    let device = format!("dhcp{red}");
    let reached =
        || c.host.run(&["ping", "-c", "1", "-W", "1", "-I", &device, &c.address.to_string()]).is_ok();
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
    assert!(a.is_cut_off_from(c.address) && reached(), "another network's guest was reached");

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
