//! Containers with a network of their own: published ports, an agent that reaches a server, and strangers beside them.

use super::bench::{IMAGE, LocalBench, http};
use crate::contract::{gone, ready, workload};
use basalt_adapters::{Adapter, Applied, local};
use basalt_model::{
    artifacts::{ArtifactKind, Transport},
    deployments::{Endpoint, Readiness},
};
use std::net::{IpAddr, UdpSocket};

/// The address by which this machine would speak to the world; nothing is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this test needs an address that is no loopback, with a route");
    socket.local_addr().unwrap().ip()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reaches_a_server_at_its_published_port() {
    let bench = LocalBench::start();
    // A network of its own, because Podman's default one is shared by all engines of the machine.
    let number = std::process::id() % 250;
    let subnet = format!("10.213.{number}.0/24");
    let network = ["network", "create", "--disable-dns", "--subnet", &subnet, "tests"];
    bench.podman(&network);
    let address = own_address();
    let adapter = bench.with(|options| {
        options.network = Some("tests".into());
        options.address = address;
    });
    let mut server = workload(&bench, 80);
    server.target.kind = ArtifactKind::Server;
    server.program.args = vec!["mcp-http".into()];
    server.program.transport = Transport::StreamableHttp { port: 9000, path: "/mcp".into() };
    server.program.health = None;
    adapter.deploy(&server).await.unwrap();
    let found = ready(&bench, &server.owner).await;
    assert_eq!(found.drift, Vec::<String>::new());
    let endpoint = found.endpoints[0].clone();
    assert!(
        endpoint.name == "mcp" && endpoint.url.starts_with(&format!("http://{address}:")),
        "{endpoint:?}"
    );

    let mut agent = workload(&bench, 81);
    let servers = serde_json::json!({ "tools": { "url": endpoint.url } });
    agent.env.insert("BASALT_SERVERS".into(), servers.to_string());
    adapter.deploy(&agent).await.unwrap();
    let url = ready(&bench, &agent.owner).await.endpoints[0].url.clone();
    assert_eq!(http(&format!("{url}ask/tools/hello")).unwrap(), "echo: hello");
    assert_eq!(adapter.deploy(&agent).await.unwrap(), Applied::Unchanged);

    let label = "io.modelcontextprotocol.server.name=example/tools";
    bench.podman(&[
        "run",
        "--detach",
        "--name",
        "stranger",
        "--label",
        label,
        "--network",
        "tests",
        "--publish",
        "127.0.0.1::8080",
        "--env",
        "PORT=8080",
        IMAGE,
        "mcp-http",
    ]);
    let all = adapter.observe().await.unwrap();
    assert_eq!(all.len(), 3);
    let stranger: Vec<_> = all.into_iter().filter(|d| d.owner.is_none()).collect();
    let seen = local::normalise(&stranger).unwrap();
    assert_eq!(
        (seen.kind, seen.readiness, seen.drift),
        (Some(ArtifactKind::Server), Readiness::Ready, vec![])
    );
    assert!(
        matches!(&seen.endpoints[..], [Endpoint { name, url }] if name == "mcp" && url.ends_with("/mcp"))
    );
    assert!(http(&seen.endpoints[0].url.replace("/mcp", "/healthz")).is_ok());
    for wanted in [&server, &agent] {
        gone(&adapter, &wanted.owner, wanted.epoch).await;
    }
}
