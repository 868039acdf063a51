//! N5 on real parts: two guests on two hosts, and what reaches them under which rules. No guest is ever restarted.

use crate::cluster::{Cluster, until};
use basalt_lab::{host::Host, journey};
use serde_json::{Value, json};
use std::{net::Ipv4Addr, time::Duration};

/// Besides port 80, on which it runs what a query says (`+` for a space), the guest serves the same on others.
const USER_DATA: &str = r#"#!/bin/sh
mkdir -p /www/cgi-bin
cat > /www/cgi-bin/run <<'END'
#!/bin/sh
printf 'Content-type: text/plain\r\n\r\n'
$(echo "$QUERY_STRING" | tr + ' ') 2>&1
END
cat > /www/cgi-bin/slow <<'END'
#!/bin/sh
printf 'Content-type: text/plain\r\n\r\n'
for n in $(seq 1 90); do dd if=/dev/zero bs=8192 count=1 2>/dev/null; sleep 1; done
END
chmod 755 /www/cgi-bin/run /www/cgi-bin/slow
echo 'wget -q -O /tmp/slow http://$1/cgi-bin/slow </dev/null >/dev/null 2>&1 &' > /www/begin
echo yes > /www/seeded
for port in 81 8000 8010 8011; do httpd -p $port -h /www; done
echo yes > /www/ready
"#;
/// How long a change may take until the switches know it.
const SOON: Duration = Duration::from_secs(15);

struct Guest<'a> {
    host: &'a Host,
    address: Ipv4Addr,
    name: String,
    qemu: Vec<u32>,
}

impl Guest<'_> {
    fn run(&self, command: &str) -> anyhow::Result<String> {
        let path = format!("/cgi-bin/run?{}", command.replace(' ', "+"));
        Ok(self.host.http_get(self.address, &path)?.body)
    }

    /// Whether it reads a page of another guest.
    fn reads(&self, of: &Guest<'_>, port: u16) -> bool {
        let fetch = format!("timeout 2 wget -q -O - http://{}:{port}/seeded", of.address);
        self.run(&fetch).is_ok_and(|said| said == "yes\n")
    }

    fn pings(&self, to: &Guest<'_>) -> bool {
        let ping = format!("ping -c 2 -i 0.2 -W 1 {}", to.address);
        self.run(&ping).is_ok_and(|said| said.contains(" 0% packet loss"))
    }

    fn is_the_same(&self) -> bool {
        self.host.pids_of("qemu-system-x86") == self.qemu
    }
}

/// A project with groups, each changed by name.
struct World {
    cluster: Cluster,
    project: String,
}

impl World {
    async fn group(&self, name: &str, rules: Value) {
        let body = json!({"name": name, "spec": {"rules": rules}});
        self.cluster.post(&format!("{}/security-groups", self.project), &body).await;
    }

    async fn put(&self, path: &str, spec: &Value) -> Value {
        let path = format!("{}/{path}", self.project);
        let seen: Value = self.cluster.client.get(&path).await.unwrap_or_else(|e| panic!("{}", e.text()));
        let generation = seen["generation"].as_i64().unwrap();
        let put = self.cluster.client.put(&path, &json!({ "spec": spec }), generation).await;
        put.unwrap_or_else(|e| panic!("{path}: {}\n{}", e.text(), self.cluster.logs()))
    }

    async fn rules(&self, group: &str, rules: Value) {
        self.put(&format!("security-groups/{group}"), &json!({ "rules": rules })).await;
    }

    /// Changes the groups of a VM, and waits until its host has them.
    async fn vm_groups(&self, vm: &str, groups: &[&str]) {
        let path = format!("{}/vms/{vm}", self.project);
        let seen: Value = self.cluster.client.get(&path).await.unwrap_or_else(|e| panic!("{}", e.text()));
        let mut spec = seen["spec"].clone();
        spec["security_groups"] = json!(groups);
        let answer = self.put(&format!("vms/{vm}"), &spec).await;
        self.cluster.follow(&answer).await;
    }

    async fn guest(&self, host: &str, address: &str, groups: &[&str]) -> Guest<'_> {
        let name = format!("on-{host}");
        let body = json!({"name": name, "spec": {"cpus": 1, "memory_bytes": 268_435_456u64,
            "disks": [{"name": "root", "source": {"kind": "image", "image": journey::IMAGE}}],
            "nics": [{"network": "lan", "address": address}], "security_groups": groups,
            "stop_grace_seconds": 2, "placement": {"host": host}, "cloud_init": {"user_data": USER_DATA}}});
        let made = self.cluster.post(&format!("{}/vms", self.project), &body).await;
        self.cluster.follow(&made).await;
        let host = self.cluster.lab.host(host).unwrap();
        Guest { host, address: address.parse().unwrap(), name, qemu: host.pids_of("qemu-system-x86") }
    }

    /// What `explain` says of a flow to a guest's port.
    async fn explained(&self, to: &Guest<'_>, query: &str) -> Value {
        let ports: Value = self
            .cluster
            .client
            .get(&format!("{}/ports", self.project))
            .await
            .unwrap_or_else(|e| panic!("{}", e.text()));
        let address = to.address.to_string();
        let port = ports["items"].as_array().unwrap().iter().find(|p| p["address"] == address).unwrap();
        let path = format!("{}/ports/{}/explain?{query}", self.project, port["port_id"].as_str().unwrap());
        self.cluster.client.get(&path).await.unwrap_or_else(|e| panic!("{}", e.text()))
    }

    /// Waits until something holds, and shows the flows of both hosts when it does not.
    async fn soon(&self, what: &str, guests: [&Guest<'_>; 2], mut holds: impl AsyncFnMut() -> bool) {
        let end = std::time::Instant::now() + SOON;
        while !holds().await {
            if std::time::Instant::now() > end {
                let flows = guests.map(|g| {
                    let dump = g.host.run(&["ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br-int"]);
                    format!("--- {}\n{}", g.name, dump.unwrap_or_else(|e| e.to_string()))
                });
                panic!("not within {SOON:?}: {what}\n{}", flows.concat());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The tests' own way into a guest: HTTP from the port on which the network's DHCP answers, and from nowhere else.
fn from_the_host() -> Value {
    json!({"direction": "ingress", "protocol": "tcp", "ports": {"from": 80, "to": 80}, "remote": {"cidr": "10.30.0.254/32"}})
}

fn tcp(from: u16, to: u16) -> Value {
    json!({"direction": "ingress", "protocol": "tcp", "ports": {"from": from, "to": to}})
}

#[tokio::test(flavor = "multi_thread")]
async fn n5_guests_on_two_hosts_get_what_rules_admit_and_rules_change_under_running_guests() {
    let cluster = Cluster::with_hosts(&["h1", "h2"]).await;
    let project = cluster.project("demo").await;
    let world = World { cluster, project };
    world.group("way-in", json!([from_the_host()])).await;
    world.group("server", json!([])).await;
    world.group("friends", json!([])).await;
    let lan = json!({"name": "lan", "spec": {"cidr": "10.30.0.0/24", "security_groups": ["way-in"]}});
    world.cluster.post(&format!("{}/networks", world.project), &lan).await;
    let a = world.guest("h1", "10.30.0.11", &[]).await;
    let b = world.guest("h2", "10.30.0.12", &["server"]).await;
    for guest in [&a, &b] {
        // A rule of the network admits this host's own port; answers to it pass.
        until("the guest has booted", Duration::from_secs(120), async || {
            guest.host.http_get(guest.address, "/ready").is_ok_and(|page| page.body.trim() == "yes")
        })
        .await;
    }

    // Nothing that no rule admits comes in, from another host as from this one.
    assert!(!a.reads(&b, 80) && !a.reads(&b, 81) && !a.pings(&b), "default deny");
    assert!(b.host.http_get(b.address, "/seeded").is_ok());

    // One port, for everybody; the flow's explanation says the same as the guest sees.
    world.rules("server", json!([tcp(80, 80)])).await;
    world.soon("tcp/80 is admitted", [&a, &b], async || a.reads(&b, 80)).await;
    assert!(!a.reads(&b, 81) && !a.pings(&b), "only that port");
    let yes = world.explained(&b, "direction=ingress&protocol=tcp&port=80&remote=10.30.0.11").await;
    assert_eq!(
        (&yes["admitted"], &yes["security_group"], &yes["rule"]),
        (&json!(true), &json!("server"), &json!(0))
    );
    let no = world.explained(&b, "direction=ingress&protocol=tcp&port=81&remote=10.30.0.11").await;
    assert!(no["admitted"] == false && no["reason"]["remedy"].is_string(), "{no:#}");

    // A range, and pings.
    let ping = json!({"direction": "ingress", "protocol": "icmp", "icmp_type": 8});
    world.rules("server", json!([tcp(8000, 8010), ping])).await;
    world.soon("the range is admitted", [&a, &b], async || a.reads(&b, 8000)).await;
    assert!(a.reads(&b, 8010) && !a.reads(&b, 8011), "both ends, and no more");
    assert!(a.pings(&b), "pings are admitted, and their answers come back to a guest that admits nothing");
    assert!(!b.pings(&a), "the other way nobody said so");
    assert!(!a.reads(&b, 80), "a rule that is gone admits nothing new");

    // Members of a group, and who is one changes under a running guest.
    let friends = json!({"direction": "ingress", "protocol": "tcp", "ports": {"from": 81, "to": 81},
        "remote": {"security_group": "friends"}});
    world.rules("server", json!([friends])).await;
    world.soon("the ping's rule is gone", [&a, &b], async || !a.pings(&b)).await;
    assert!(!a.reads(&b, 81), "it is no member");
    world.vm_groups(&a.name, &["friends"]).await;
    world.soon("a member is admitted", [&a, &b], async || a.reads(&b, 81)).await;
    world.vm_groups(&a.name, &[]).await;
    world.soon("a member no longer", [&a, &b], async || !a.reads(&b, 81)).await;

    what_goes_out(&world, &a, &b).await;
    what_is_established(&world, &a, &b).await;
    assert!(a.is_the_same() && b.is_the_same(), "nobody was restarted for any of this");
}

async fn what_goes_out(world: &World, a: &Guest<'_>, b: &Guest<'_>) {
    // What goes out is everything, until a rule says what.
    world.rules("server", json!([tcp(1, 65535)])).await;
    world.soon("every port is admitted", [a, b], async || a.reads(b, 81) && a.reads(b, 80)).await;
    let out = json!({"direction": "egress", "protocol": "tcp", "ports": {"from": 80, "to": 80}});
    world.rules("friends", json!([out])).await;
    world.vm_groups(&a.name, &["friends"]).await;
    world.soon("only port 80 is gone to", [a, b], async || !a.reads(b, 81)).await;
    assert!(a.reads(b, 80), "{:?}", a.run("ip addr"));
    // The guest still answers who asks it: answers are no new flows.
    assert_eq!(a.host.http_get(a.address, "/seeded").unwrap().body.trim(), "yes");
}

async fn what_is_established(world: &World, a: &Guest<'_>, b: &Guest<'_>) {
    // A connection that is established goes on when its rule goes; a new one is not made.
    let bytes =
        || a.run("wc -c /tmp/slow").ok().and_then(|said| said.split_whitespace().next()?.parse::<u32>().ok());
    a.run(&format!("sh /www/begin {}", b.address)).unwrap();
    world.soon("the slow page begins", [a, b], async || bytes().is_some_and(|n| n > 0)).await;
    world.rules("server", json!([])).await;
    world.soon("nothing new is admitted", [a, b], async || !a.reads(b, 80)).await;
    let before = bytes().unwrap();
    world.soon("the slow page goes on", [a, b], async || bytes().is_some_and(|n| n > before + 16384)).await;
}
