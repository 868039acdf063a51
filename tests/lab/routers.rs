//! N6: a router between two networks, on two hosts of which one is active, and its fail-over without anybody's help.

use crate::cluster::{Cluster, until};
use basalt_lab::{host::Host, journey};
use serde_json::{Value, json};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Makes the guest run what a query says (`+` for a space), at once or behind it, and serve something slow.
const USER_DATA: &str = r#"#!/bin/sh
mkdir -p /www/cgi-bin
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
chmod 755 /www/cgi-bin/*
echo yes > /www/seeded
"#;

struct Guest<'a> {
    host: &'a Host,
    address: Ipv4Addr,
}

impl Guest<'_> {
    fn cgi(&self, program: &str, command: &str) -> anyhow::Result<String> {
        let path = format!("/cgi-bin/{program}?{}", command.replace(' ', "+"));
        Ok(self.host.http_get(self.address, &path)?.body)
    }

    /// What another one says at an address, asked by this guest.
    fn asks(&self, url: &str) -> Option<String> {
        let said = self.cgi("run", &format!("timeout 2 wget -q -O - http://{url}")).ok()?;
        let failed = said.is_empty() || said.starts_with("wget:") || said.ends_with("Terminated\n");
        (!failed).then_some(said)
    }

    /// From which address another one sees this guest come.
    fn is_seen_as(&self, at: &str) -> Option<String> {
        let environment = self.asks(&format!("{at}/cgi-bin/run?env"))?;
        let line = environment.lines().find_map(|line| line.strip_prefix("REMOTE_ADDR="))?;
        // `[::ffff:10.0.0.1]`: the server listens by IPv6.
        Some(line.rsplit(':').next()?.trim_matches(|c| c == ']' || c == '[').to_owned())
    }
}

async fn network(cluster: &Cluster, project: &str, name: &str, cidr: &str) {
    let body = json!({"name": name, "spec": {"cidr": cidr}});
    let made = cluster.post(&format!("{project}/networks"), &body).await;
    cluster.follow(&made).await;
}

async fn guest<'a>(
    cluster: &'a Cluster,
    project: &str,
    host: &'a Host,
    network: &str,
    address: &str,
) -> Guest<'a> {
    let body = json!({"name": network, "spec": {"cpus": 1, "memory_bytes": 268_435_456u64,
        "disks": [{"name": "root", "source": {"kind": "image", "image": journey::IMAGE}}],
        "nics": [{"network": network, "address": address}], "stop_grace_seconds": 2,
        "placement": {"host": host.name()}, "cloud_init": {"user_data": USER_DATA}}});
    let made: Value = cluster.post(&format!("{project}/vms"), &body).await;
    cluster.follow(&made).await;
    Guest { host, address: address.parse().unwrap() }
}

async fn router(cluster: &Cluster, path: &str) -> Value {
    cluster.client.get(path).await.unwrap_or_else(|e| panic!("{}", e.text()))
}

/// The host that a condition of the router names, while it is true.
async fn by(cluster: &Cluster, path: &str, kind: &str) -> Option<String> {
    let router = router(cluster, path).await;
    let condition =
        router["conditions"].as_array()?.iter().find(|c| c["kind"] == kind || c["type"] == kind)?.clone();
    if condition["status"].as_str()?.to_lowercase() != "true" {
        return None;
    }
    let message = condition["message"].as_str()?.to_owned();
    message.split_whitespace().find(|word| ["h1", "h2"].contains(word)).map(str::to_owned)
}

/// What the hosts have of the router, for a test that failed.
fn state(cluster: &Cluster) -> String {
    let mut said = String::new();
    for host in cluster.lab.hosts() {
        let script = "for n in $(ls /run/netns); do ip -n $n address; ip -n $n route; ip netns exec $n nft list ruleset; \
            ip netns exec $n cat /proc/net/nf_conntrack; done; cat /run/basalt/routers/*/keepalived.conf; ps ax | \
            grep keepalived; ovs-vsctl show; ovs-ofctl -O OpenFlow15 dump-flows br-int";
        let text = host.run(&["sh", "-c", script]).unwrap_or_else(|e| format!("{e:#}"));
        said += &format!("--- {}\n{text}\n", host.name());
    }
    said
}

async fn holds(cluster: &Cluster, what: &str, limit_seconds: u64, mut ask: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !ask() {
        let late = begin.elapsed() > Duration::from_secs(limit_seconds);
        assert!(!late, "not within {limit_seconds} s: {what}\n{}\n{}", state(cluster), cluster.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    begin.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn n6_a_router_translates_and_forwards_and_the_other_host_takes_over_within_10_s() {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let project = cluster.project("demo").await;
    network(&cluster, &project, "inner", "10.20.0.0/24").await;
    network(&cluster, &project, "outer", "10.30.0.0/24").await;
    let (routers, path) = (format!("{project}/routers"), format!("{project}/routers/edge"));
    let spec = json!({"uplink": {"network": "outer"}, "networks": ["inner"]});
    let made = cluster.post(&routers, &json!({"name": "edge", "spec": spec})).await;
    cluster.follow(&made).await;
    until("it routes on one host, and the other stands by", Duration::from_secs(40), async || {
        by(&cluster, &path, "Ready").await.is_some() && by(&cluster, &path, "Redundant").await.is_some()
    })
    .await;
    let active = by(&cluster, &path, "Ready").await.unwrap();
    let survivor = cluster.lab.hosts().iter().find(|h| h.name() != active).unwrap();
    let active = cluster.lab.host(&active).unwrap();
    let inside = guest(&cluster, &project, survivor, "inner", "10.20.0.11").await;
    let outside = guest(&cluster, &project, survivor, "outer", "10.30.0.12").await;
    for guest in [&inside, &outside] {
        let served =
            || guest.host.http_get(guest.address, "/seeded").is_ok_and(|page| page.body.trim() == "yes");
        holds(&cluster, "a guest has booted", 120, served).await;
    }
    let now = router(&cluster, &path).await;
    let own = now["wiring"]["uplink"]["address"].as_str().unwrap().to_owned();
    holds(&cluster, "out by the router's address", 20, || {
        inside.is_seen_as("10.30.0.12").as_deref() == Some(own.as_str())
    })
    .await;
    assert_eq!(outside.asks("10.20.0.11/seeded"), None, "nobody comes in uninvited");

    let spec = json!({"uplink": {"network": "outer"}, "networks": ["inner"],
        "port_forwards": [{"protocol": "tcp", "port": 8080, "vm": "inner", "to_port": 80}]});
    let changed =
        cluster.client.put(&path, &json!({"spec": spec}), 1).await.unwrap_or_else(|e| panic!("{}", e.text()));
    assert_eq!(changed["wiring"]["uplink"]["address"], own.as_str(), "its address stays");
    let forwarded = format!("{own}:8080");
    holds(&cluster, "in by a forwarded port", 15, || {
        outside.is_seen_as(&forwarded).as_deref() == Some("10.30.0.12")
    })
    .await;
    let mut spec = spec;
    spec["floating_ips"] = json!([{"vm": "inner", "address": "10.30.0.99"}]);
    cluster.client.put(&path, &json!({"spec": spec}), 2).await.unwrap_or_else(|e| panic!("{}", e.text()));
    holds(&cluster, "in by the floating address", 15, || {
        outside.is_seen_as("10.30.0.99").as_deref() == Some("10.30.0.12")
    })
    .await;
    assert_eq!(inside.is_seen_as("10.30.0.12").as_deref(), Some("10.30.0.99"), "out by the floating address");
    let refused = cluster.client.delete(&format!("{project}/vms/inner")).await.err().map(|e| e.text());
    assert!(refused.as_deref().is_some_and(|why| why.contains("router/edge")), "{refused:?}");

    // A connection that began before and goes on after.
    outside.cgi("begin", "wget -q -O - http://10.30.0.99/cgi-bin/slow").unwrap();
    let begun = || outside.cgi("run", "cat /tmp/begun").unwrap_or_default();
    holds(&cluster, "a slow page begins", 10, || begun().contains("line-1\n")).await;
    active.power_cut().unwrap();
    let answers = || outside.is_seen_as("10.30.0.99").is_some() && inside.asks("10.30.0.12/seeded").is_some();
    let took = holds(&cluster, "the other host took over", 10, answers).await;
    eprintln!("fail-over: traffic again after {took:?}");
    holds(&cluster, "the connection went on", 60, || begun().contains("line-49\n")).await;
    assert_eq!(begun().lines().count(), 50, "whole, and once");
    assert_eq!(by(&cluster, &path, "Ready").await.as_deref().unwrap_or(survivor.name()), survivor.name());

    active.power_on().unwrap();
    until("the host that came back stands by", Duration::from_secs(120), async || {
        by(&cluster, &path, "Ready").await.as_deref() == Some(survivor.name())
            && by(&cluster, &path, "Redundant").await.as_deref() == Some(active.name())
    })
    .await;
    let id = router(&cluster, &path).await["id"].as_str().unwrap().to_owned();
    let namespace = format!("basalt-{id}");
    let keepalived = || survivor.pids_of("keepalived").iter().map(u32::to_string).collect::<Vec<_>>();
    let drifts: [(&str, Vec<String>); 3] = [
        (
            "rules flushed",
            ["ip", "netns", "exec", &namespace, "nft", "flush", "ruleset"].map(String::from).into(),
        ),
        ("keepalived killed", ["kill".to_owned(), "-9".to_owned()].into_iter().chain(keepalived()).collect()),
        ("namespace deleted", ["ip", "netns", "delete", &namespace].map(String::from).into()),
    ];
    for (what, command) in drifts {
        let argv: Vec<&str> = command.iter().map(String::as_str).collect();
        survivor.run(&argv).unwrap();
        holds(&cluster, what, 10, answers).await;
        until(&format!("{what}: all of it stands again"), Duration::from_secs(30), async || {
            by(&cluster, &path, "Ready").await.is_some() && by(&cluster, &path, "Redundant").await.is_some()
        })
        .await;
    }
    cluster.client.put(&path, &json!({"spec": {"networks": ["inner"], "nat": false}}), 3).await.unwrap();
    let gone = cluster.client.delete(&path).await.unwrap_or_else(|e| panic!("{}", e.text()));
    cluster.follow(&gone).await;
    for host in cluster.lab.hosts() {
        let left = host.run(&["sh", "-c", "ls /run/netns /run/basalt/routers; ovs-vsctl list-ports br-int"]);
        let left = left.unwrap_or_default();
        assert!(!left.contains(&id) && !left.contains("\nrt") && !left.contains("\nru"), "{left}");
    }
}
