//! N6: a router between two networks, on two hosts of which one is active, and its fail-over without anybody's help.

use crate::{
    cluster::{Cluster, until},
    guests::{Guest, guest, network, within},
};
use basalt_lab::host::Host;
use serde_json::{Value, json};
use std::time::Duration;

/// What another guest says at an address, asked by this one.
fn asks(guest: &Guest<'_>, url: &str) -> Option<String> {
    let said = guest.run(&format!("timeout 2 wget -q -O - http://{url}")).ok()?;
    let failed = said.is_empty() || said.starts_with("wget:") || said.ends_with("Terminated\n");
    (!failed).then_some(said)
}

/// From which address another guest sees this one come.
fn is_seen_as(guest: &Guest<'_>, at: &str) -> Option<String> {
    let environment = asks(guest, &format!("{at}/cgi-bin/run?env"))?;
    let line = environment.lines().find_map(|line| line.strip_prefix("REMOTE_ADDR="))?;
    // `[::ffff:10.0.0.1]`: the server listens by IPv6.
    Some(line.rsplit(':').next()?.trim_matches(|c| c == ']' || c == '[').to_owned())
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

/// A router on two hosts, and two guests on the one that stands by.
struct Scene<'a> {
    cluster: &'a Cluster,
    project: String,
    /// The router's path.
    path: String,
    active: &'a Host,
    survivor: &'a Host,
    inside: Guest<'a>,
    outside: Guest<'a>,
}

async fn scene(cluster: &Cluster) -> Scene<'_> {
    let project = cluster.project("demo").await;
    network(cluster, &project, "inner", json!({"cidr": "10.20.0.0/24"})).await;
    network(cluster, &project, "outer", json!({"cidr": "10.30.0.0/24"})).await;
    let (routers, path) = (format!("{project}/routers"), format!("{project}/routers/edge"));
    let spec = json!({"uplink": {"network": "outer"}, "networks": ["inner"]});
    let made = cluster.post(&routers, &json!({"name": "edge", "spec": spec})).await;
    cluster.follow(&made).await;
    stands(cluster, &path, "it routes on one host, and the other stands by").await;
    let active = by(cluster, &path, "Ready").await.unwrap();
    let survivor = cluster.lab.hosts().iter().find(|h| h.name() != active).unwrap();
    let active = cluster.lab.host(&active).unwrap();
    let inside = guest(cluster, &project, survivor.name(), "inner", &[("inner", "10.20.0.11")]).await;
    let outside = guest(cluster, &project, survivor.name(), "outer", &[("outer", "10.30.0.12")]).await;
    for guest in [&inside, &outside] {
        let served =
            || guest.host.http_get(guest.address, "/seeded").is_ok_and(|page| page.body.trim() == "yes");
        within("a guest has booted", 120, async || served(), || state(cluster)).await;
    }
    Scene { cluster, project, path, active, survivor, inside, outside }
}

/// Waits until the router is whole on both of its hosts.
async fn stands(cluster: &Cluster, path: &str, what: &str) {
    until(what, Duration::from_secs(40), async || {
        by(cluster, path, "Ready").await.is_some() && by(cluster, path, "Redundant").await.is_some()
    })
    .await;
}

impl Scene<'_> {
    async fn change(&self, spec: &Value, generation: i64) -> Value {
        let changed = self.cluster.client.put(&self.path, &json!({"spec": spec}), generation).await;
        changed.unwrap_or_else(|e| panic!("{}", e.text()))
    }

    async fn holds(&self, what: &str, limit_seconds: u64, mut ask: impl FnMut() -> bool) -> Duration {
        let tell = || format!("{}\n{}", state(self.cluster), self.cluster.logs());
        within(what, limit_seconds, async || ask(), tell).await
    }

    /// Both ways by the floating address, and out by it.
    fn answers(&self) -> bool {
        is_seen_as(&self.outside, "10.30.0.99").is_some() && asks(&self.inside, "10.30.0.12/seeded").is_some()
    }

    async fn translates_and_forwards(&self) {
        let Self { inside, outside, .. } = self;
        let now = router(self.cluster, &self.path).await;
        let own = now["wiring"]["uplink"]["address"].as_str().unwrap().to_owned();
        let masked = || is_seen_as(inside, "10.30.0.12").as_deref() == Some(own.as_str());
        self.holds("out by the router's address", 20, masked).await;
        assert_eq!(asks(outside, "10.20.0.11/seeded"), None, "nobody comes in uninvited");
        let mut spec = json!({"uplink": {"network": "outer"}, "networks": ["inner"],
            "port_forwards": [{"protocol": "tcp", "port": 8080, "vm": "inner", "to_port": 80}]});
        let changed = self.change(&spec, 1).await;
        assert_eq!(changed["wiring"]["uplink"]["address"], own.as_str(), "its address stays");
        let comes_by = |at: &str| is_seen_as(outside, at).as_deref() == Some("10.30.0.12");
        self.holds("in by a forwarded port", 15, || comes_by(&format!("{own}:8080"))).await;
        spec["floating_ips"] = json!([{"vm": "inner", "address": "10.30.0.99"}]);
        self.change(&spec, 2).await;
        self.holds("in by the floating address", 15, || comes_by("10.30.0.99")).await;
        let seen = is_seen_as(inside, "10.30.0.12");
        assert_eq!(seen.as_deref(), Some("10.30.0.99"), "out by the floating address");
        let refused = self.cluster.client.delete(&format!("{}/vms/inner", self.project)).await;
        let refused = refused.err().map(|e| e.text());
        assert!(refused.as_deref().is_some_and(|why| why.contains("router/edge")), "{refused:?}");
    }

    /// The active host's power is cut; a connection that began before goes on after.
    async fn fails_over(&self) {
        let Self { outside, active, survivor, .. } = self;
        outside.begin("wget -q -O - http://10.30.0.99/cgi-bin/slow").unwrap();
        let begun = || outside.run("cat /tmp/begun").unwrap_or_default();
        self.holds("a slow page begins", 10, || begun().contains("line-1\n")).await;
        active.power_cut().unwrap();
        let took = self.holds("the other host took over", 10, || self.answers()).await;
        eprintln!("fail-over: traffic again after {took:?}");
        self.holds("the connection went on", 60, || begun().contains("line-49\n")).await;
        assert_eq!(begun().lines().count(), 50, "whole, and once");
        active.power_on().unwrap();
        until("the host that came back stands by", Duration::from_secs(120), async || {
            by(self.cluster, &self.path, "Ready").await.as_deref() == Some(survivor.name())
                && by(self.cluster, &self.path, "Redundant").await.as_deref() == Some(active.name())
        })
        .await;
    }

    async fn heals(&self, namespace: &str) {
        let survivor = self.survivor;
        let killed = "kill -9 $(cat /run/basalt/routers/*/keepalived.pid /run/basalt/routers/*/vrrp.pid)";
        for (what, argv) in [
            ("rules flushed", &["ip", "netns", "exec", namespace, "nft", "flush", "ruleset"][..]),
            ("keepalived killed", &["sh", "-c", killed]),
            ("namespace deleted", &["ip", "netns", "delete", namespace]),
        ] {
            survivor.run(argv).unwrap();
            self.holds(what, 10, || self.answers()).await;
            stands(self.cluster, &self.path, what).await;
        }
    }

    /// Out by a wire that others are on too: the network between the hosts itself, untagged.
    async fn leaves_by_a_wire(&self) {
        let wire = json!({"name": "wire", "spec": {"cidr": "10.78.0.0/24", "gateway": "10.78.0.1", "dhcp": false,
            "segment": {"kind": "flat", "uplink": "br-phy"}, "mtu": 1500}});
        let made = self.cluster.post(&format!("{}/networks", self.project), &wire).await;
        self.cluster.follow(&made).await;
        let spec = json!({"networks": ["inner"], "uplink": {"network": "wire", "address": "10.78.0.200"}});
        self.change(&spec, 3).await;
        for host in self.cluster.lab.hosts() {
            let ping = format!("ping -c 2 -i 0.2 -W 1 {}", host.tunnel_address());
            let whole = |said: String| said.contains(" 0% packet loss");
            self.holds("out by the wire", 30, || self.inside.run(&ping).is_ok_and(whole)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n6_a_router_translates_and_forwards_and_the_other_host_takes_over_within_10_s() {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let scene = scene(&cluster).await;
    scene.translates_and_forwards().await;
    scene.fails_over().await;
    let id = router(&cluster, &scene.path).await["id"].as_str().unwrap().to_owned();
    scene.heals(&format!("basalt-{id}")).await;
    scene.leaves_by_a_wire().await;
    let gone = cluster.client.delete(&scene.path).await.unwrap_or_else(|e| panic!("{}", e.text()));
    cluster.follow(&gone).await;
    for host in cluster.lab.hosts() {
        let left = host.run(&["sh", "-c", "ls /run/netns /run/basalt/routers; ovs-vsctl list-ports br-int"]);
        let left = left.unwrap_or_default();
        assert!(!left.contains(&id) && !left.contains("\nrt") && !left.contains("\nru"), "{left}");
    }
}
