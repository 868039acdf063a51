//! Guests that carry out commands and tell what came of them, and waiting for what two of them see of each other.

use crate::cluster::Cluster;
use basalt_lab::{host::Host, journey};
use serde_json::{Value, json};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Makes the guest run what a query says (`+` for a space), and answer with what it printed.
pub const USER_DATA: &str = r#"#!/bin/sh
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
pub struct Guest<'a> {
    /// Where it runs.
    pub host: &'a Host,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its MAC address.
    pub mac: String,
    /// Its interfaces as the API tells them.
    pub nics: Value,
}

impl Guest<'_> {
    /// What a command in the guest printed.
    pub fn run(&self, command: &str) -> anyhow::Result<String> {
        let path = format!("/cgi-bin/run?{}", command.replace(' ', "+"));
        Ok(self.host.http_get(self.address, &path)?.body)
    }

    /// Whether each of three pings came back whole, the largest that fit the network's MTU.
    pub fn pings(&self, to: Ipv4Addr) -> bool {
        self.run(&format!("ping -c 3 -i 0.2 -W 1 -s 1422 {to}"))
            .is_ok_and(|said| said.contains(" 0% packet loss"))
    }

    /// Whether nothing comes back at all.
    pub fn is_cut_off_from(&self, to: Ipv4Addr) -> bool {
        self.run(&format!("ping -c 2 -i 0.2 -W 1 {to}")).is_ok_and(|said| said.contains("100% packet loss"))
    }

    /// The digest of two megabytes that another guest serves.
    pub fn digest_of_big(&self, of: Ipv4Addr) -> Option<String> {
        let said = self.run(&format!("timeout 20 wget -q -O /tmp/big http://{of}/big")).ok()?;
        assert_eq!(said, "", "wget says nothing when it got the file");
        self.run("md5sum /tmp/big").ok()?.split_whitespace().next().map(str::to_owned)
    }
}

/// Makes a network whose guests admit HTTP and pings, and answers its identifier.
pub async fn network(cluster: &Cluster, project: &str, name: &str, mut spec: Value) -> u64 {
    spec["security_groups"] = json!([journey::SECURITY_GROUP]);
    let body = json!({"name": name, "spec": spec});
    let made = cluster.post(&format!("{project}/networks"), &body).await;
    cluster.follow(&made).await;
    made["object"]["vni"].as_u64().unwrap()
}

/// Makes a guest pinned to a host, with an interface on each network at each address.
pub async fn guest<'a>(
    cluster: &'a Cluster,
    project: &str,
    host: &str,
    name: &str,
    nics: &[(&str, &str)],
) -> Guest<'a> {
    let on: Vec<Value> =
        nics.iter().map(|(network, address)| json!({"network": network, "address": address})).collect();
    let body = json!({"name": name, "spec": {"cpus": 1, "memory_bytes": 268_435_456u64,
        "disks": [{"name": "root", "source": {"kind": "image", "image": journey::IMAGE}}],
        "nics": on, "stop_grace_seconds": 2,
        "placement": {"host": host}, "cloud_init": {"user_data": USER_DATA}}});
    let made: Value = cluster.post(&format!("{project}/vms"), &body).await;
    cluster.follow(&made).await;
    let nics_told = made["object"]["nics"].clone();
    Guest {
        host: cluster.lab.host(host).unwrap(),
        address: nics[0].1.parse().unwrap(),
        mac: nics_told[0]["mac"].as_str().unwrap().to_owned(),
        nics: nics_told,
    }
}

/// What the switch of a host says of the way to others, for a test that failed.
pub fn wires(host: &Host) -> String {
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
pub async fn holds(
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

pub async fn heals(what: &str, limit_seconds: u64, guest: &Guest<'_>, other: &Guest<'_>) {
    holds(what, limit_seconds, guest, other, async || guest.pings(other.address)).await;
}
