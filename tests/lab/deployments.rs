//! The platform `basalt` for real: an agent in a guest of its own, which fetches the agent's image itself.

use crate::cluster::{Cluster, until};
use basalt_cli::Failure;
use basalt_lab::{guest_http, host::Host, journey};
use basalt_test_programs::{Engine, Image, Registry, program};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    io::copy,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

/// The wire that the guests are on, and a machine on it that is none of theirs.
const UPLINK: &str = "br-phy";
const VLAN: u16 = 7;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 253);
const REGISTRY_PORT: u16 = 5000;
const LIMIT: Duration = Duration::from_secs(120);

fn failed(error: Failure) -> String {
    error.text()
}

/// A registry with the test programs in an image, and the name of that.
fn registry(engine: &Engine) -> (Registry, String) {
    let registry = Registry::start(engine.dir()).unwrap();
    engine.trust(registry.address()).unwrap();
    let program = program("basalt-test-program").unwrap();
    let image = Image {
        files: vec![(&*program, "/program")],
        changes: vec![r#"ENTRYPOINT ["/program"]"#, r#"CMD ["agent"]"#],
    };
    engine.image("localhost/basalt/test:1", &image).unwrap();
    let pushed = format!("{}/basalt/test:1", registry.address());
    engine.podman(&["push", "--quiet", "localhost/basalt/test:1", &pushed]).unwrap();
    (registry, format!("{OUTSIDE}:{REGISTRY_PORT}/basalt/test:1"))
}

/// Puts a machine on the guests' wire, beside the host, and offers the registry there. Hosts themselves answer guests
/// nothing but names and addresses.
fn offer(host: &Host, registry: String) {
    let port = ["ovs-vsctl", "add-port", UPLINK, "outside", &format!("tag={VLAN}")];
    let kind = ["--", "set", "interface", "outside", "type=internal"];
    host.run(&[&port[..], &kind[..]].concat()).unwrap();
    host.run(&["ip", "address", "add", &format!("{OUTSIDE}/24"), "dev", "outside"]).unwrap();
    host.run(&["ip", "link", "set", "dev", "outside", "up"]).unwrap();
    // A listener stays in the namespace in which it was made.
    let listener = host.netns().enter(|| Ok(TcpListener::bind((OUTSIDE, REGISTRY_PORT))?)).unwrap();
    std::thread::spawn(move || {
        for guest in listener.incoming().flatten() {
            let Ok(there) = TcpStream::connect(&registry) else { continue };
            let (mut up, mut down) = (guest.try_clone().unwrap(), there.try_clone().unwrap());
            let (mut guest, mut there) = (guest, there);
            std::thread::spawn(move || copy(&mut up, &mut there).map(|_| there.shutdown(Shutdown::Write)));
            std::thread::spawn(move || copy(&mut down, &mut guest).map(|_| guest.shutdown(Shutdown::Write)));
        }
    });
}

/// A provider of this very cluster, by a token of the project.
async fn provider(cluster: &Cluster, project: &str) {
    let shown: Value = cluster.client.get(project).await.map_err(failed).unwrap();
    let scope = json!({ "kind": "project", "tenant_id": shown["tenant_id"], "project_id": shown["id"] });
    let body = json!({ "name": "agents", "grants": [{ "role": "operator", "scope": scope }] });
    let made = cluster.post("/v1/service-tokens", &body).await;
    let ca = std::fs::read_to_string(cluster.lab.state_dirs().ca_file()).unwrap();
    let url = format!("https://{}", cluster.lab.endpoints().users);
    let access = format!(
        "url = \"{url}\"\ntoken = \"{}\"\nca = \"\"\"\n{ca}\"\"\"\n",
        made["token"].as_str().unwrap()
    );
    cluster.post(&format!("{project}/secrets"), &json!({ "name": "vms", "spec": { "value": access } })).await;
    let spec = json!({ "platform": "basalt", "access": { "secret": "vms" }, "project": "demo", "image": journey::IMAGE,
        "network": "lan", "memory_bytes": 256u64 << 20 });
    cluster.post(&format!("{project}/providers"), &json!({ "name": "vms", "spec": spec })).await;
}

/// What the agent answers.
fn page(from: &Host, address: Ipv4Addr, path: &str) -> Option<String> {
    let page = guest_http::get_from(
        &from.netns().path(),
        SocketAddr::from((address, 8080)),
        path,
        Duration::from_secs(5),
    );
    page.ok().filter(|page| page.status == 200).map(|page| page.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_a_guest_of_its_own_answers_and_is_back_after_its_guest_was_killed() {
    let engine = Engine::start().unwrap();
    let (registry, image) = registry(&engine);
    let cluster = Cluster::up().await;
    let project = cluster.project("demo").await;
    let rule = json!({ "direction": "ingress", "protocol": "tcp", "ports": { "from": 8080, "to": 8080 } });
    cluster
        .post(
            &format!("{project}/security-groups"),
            &json!({ "name": "agents", "spec": { "rules": [rule] } }),
        )
        .await;
    let lan = json!({ "name": "lan", "spec": { "cidr": "10.20.0.0/24", "security_groups": ["agents"],
        "segment": { "kind": "vlan", "vlan_id": VLAN, "uplink": UPLINK } } });
    let made = cluster.post(&format!("{project}/networks"), &lan).await;
    cluster.follow(&made).await;
    offer(cluster.host(), registry.address().to_owned());
    provider(&cluster, &project).await;
    let agent = json!({ "source": { "type": "image", "image": image }, "env": { "GREETING": "it's so" },
        "health": { "path": "/healthz" } });
    cluster.post(&format!("{project}/agents"), &json!({ "name": "a", "spec": agent })).await;
    let spec = json!({ "target": { "kind": "agent", "name": "a" }, "provider": "vms" });
    cluster.post(&format!("{project}/deployments"), &json!({ "name": "d", "spec": spec })).await;

    let at = format!("{project}/deployments/d");
    let shown = async || -> Value { cluster.client.get(&at).await.map_err(failed).unwrap() };
    until("it is deployed", LIMIT, async || shown().await["phase"] == "deployed").await;
    let url = shown().await["endpoints"][0]["url"].as_str().unwrap().to_owned();
    let address: Ipv4Addr = url.trim_start_matches("http://").split(':').next().unwrap().parse().unwrap();
    let greets = async || page(cluster.host(), address, "/env/GREETING").as_deref() == Some("it's so");
    until("it answers", LIMIT, greets).await;
    assert!(page(cluster.host(), address, "/healthz").is_some());
    let log = cluster.basalt(&["--project", "demo", "logs", "deployment", "d"]);
    assert!(log.contains("is run by basalt-run") && log.contains("agent begins"), "{log}");

    // Its guest is killed: another boots from the same disk, and runs the agent again.
    let qemu = cluster.host().pids_of("qemu-system-x86");
    assert_eq!(qemu.len(), 1, "one small VM");
    kill_process(Pid::from_raw(i32::try_from(qemu[0]).unwrap()).unwrap(), Signal::KILL).unwrap();
    until("it is gone", LIMIT, async || page(cluster.host(), address, "/healthz").is_none()).await;
    until("it answers again", LIMIT, greets).await;

    let _: Value = cluster.client.call(&format!("{at}/cancel")).await.map_err(failed).unwrap();
    until("it is undeployed", LIMIT, async || shown().await["phase"] == "undeployed").await;
    assert!(cluster.host().pids_of("qemu-system-x86").is_empty(), "nothing of it runs");
}
