//! Guests that carry out commands and tell what came of them, and waiting for what two of them see of each other.

use crate::cluster::Cluster;
use basalt_lab::{host::Host, journey};
use serde_json::{Value, json};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Makes the guest run what a query says (`+` for a space), at once or behind it, and answer with what it printed; and
/// serve something large and something slow; `burn` writes memory without end, until `/tmp/enough` is
/// there, and `pace` keeps the processor at work for about half of the time.
pub const USER_DATA: &str = r#"#!/bin/sh
mkdir -p /www/cgi-bin
dd if=/dev/urandom of=/www/big bs=1024 count=2048
md5sum /www/big > /www/big.md5
cat > /www/cgi-bin/run <<'END'
#!/bin/sh
printf 'Content-type: text/plain\r\n\r\n'
$(echo "$QUERY_STRING" | tr + ' ') 2>&1
END
cat > /www/cgi-bin/begin <<'END'
#!/bin/sh
printf 'Content-type: text/plain\r\n\r\n'
$(echo "$QUERY_STRING" | tr + ' ') > /tmp/begun 2>&1 < /dev/null &
END
cat > /www/cgi-bin/slow <<'END'
#!/bin/sh
printf 'Content-type: text/plain\r\n\r\n'
i=0
while [ $i -lt 50 ]; do echo line-$i; i=$((i+1)); sleep 0.5; done
END
cat > /www/cgi-bin/burn <<'END'
#!/bin/sh
printf 'Content-type: text/plain\r\n\r\n'
rm -f /tmp/enough
(while [ ! -e /tmp/enough ]; do
    for i in 1 2 3 4 5 6 7 8; do cat /www/big; done > /tmp/burnt
done) > /dev/null 2>&1 < /dev/null &
END
cat > /www/cgi-bin/pace <<'END'
#!/bin/sh
printf 'Content-type: text/plain\r\n\r\n'
(while :; do
    i=0
    while [ $i -lt 3000 ]; do i=$((i+1)); done
    sleep 0.01
done) > /dev/null 2>&1 < /dev/null &
END
chmod 755 /www/cgi-bin/*
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
        self.cgi("run", command)
    }

    /// Begins a command in the guest; what it prints is in `/tmp/begun`.
    pub fn begin(&self, command: &str) -> anyhow::Result<()> {
        self.cgi("begin", command).map(drop)
    }

    fn cgi(&self, program: &str, command: &str) -> anyhow::Result<String> {
        let path = format!("/cgi-bin/{program}?{}", command.replace(' ', "+"));
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

/// Waits until something holds, and tells how long it took; `tell` says what else is to be known when it does not.
pub async fn within(
    what: &str,
    limit_seconds: u64,
    mut ask: impl AsyncFnMut() -> bool,
    tell: impl Fn() -> String,
) -> Duration {
    let begin = Instant::now();
    while !ask().await {
        let late = begin.elapsed() > Duration::from_secs(limit_seconds);
        assert!(!late, "not within {limit_seconds} s: {what}\n{}", tell());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    begin.elapsed()
}

/// Waits until something of two guests holds, and tells all about their wires when it does not.
pub async fn holds(
    what: &str,
    limit_seconds: u64,
    a: &Guest<'_>,
    b: &Guest<'_>,
    ask: impl AsyncFnMut() -> bool,
) {
    let tell = || format!("{}{}{:?}", wires(a.host), wires(b.host), a.run("arp -n"));
    within(what, limit_seconds, ask, tell).await;
}

pub async fn heals(what: &str, limit_seconds: u64, guest: &Guest<'_>, other: &Guest<'_>) {
    holds(what, limit_seconds, guest, other, async || guest.pings(other.address)).await;
}
