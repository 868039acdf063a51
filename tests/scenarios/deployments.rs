//! Deployments over the whole house: declared over HTTP, run by a real container engine, and by an API server of
//! Kubernetes; called, killed, changed, taken away.

use anyhow::{Context, Result, ensure};
use basalt_kube_api::{Rule, Server};
use basalt_test_programs::{Engine, Image, program};
use basalt_tests::{House, cli::Cli, deployments::is_made_from, wait};
use rmcp::{ServiceExt, model::CallToolRequestParams, transport::StreamableHttpClientTransport};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a platform may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The rights that are shipped.
const ROLE: &str = include_str!("../../deploy/kubernetes/role.yaml");
/// The image with the test programs.
const IMAGE: &str = "localhost/basalt/test:1";

fn engine() -> Result<Engine> {
    let engine = Engine::start()?;
    let program = program("basalt-test-program")?;
    let image = Image {
        files: vec![(&*program, "/program")],
        changes: vec![r#"ENTRYPOINT ["/program"]"#, r#"CMD ["agent"]"#],
    };
    engine.image(IMAGE, &image)?;
    Ok(engine)
}

async fn with_engine(engine: &Engine) -> Result<House> {
    let socket = engine.socket();
    let lines = format!(
        "[engines.default]\nsocket = \"{}\"\nnetwork = \"host\"\nmax_open_files = 1024\nmax_processes = 1024\n",
        socket.display()
    );
    House::that_says(&lines).await
}

async fn text(url: &str) -> Result<String> {
    Ok(reqwest::get(url).await?.error_for_status()?.text().await?)
}

/// Calls the tool `echo` with a real client of the protocol.
async fn call(url: &str, said: &str) -> Result<String> {
    let client = ().serve(StreamableHttpClientTransport::from_uri(url.to_owned())).await?;
    let arguments = json!({ "text": said }).as_object().cloned().context("an object")?;
    let answer = client.call_tool(CallToolRequestParams::new("echo").with_arguments(arguments)).await?;
    client.cancel().await?;
    Ok(answer.content.first().and_then(|c| c.as_text()).context("a text")?.text.clone())
}

/// A server `tools` and an agent `a` that uses it, both of the test programs.
async fn register(house: &House) -> Result<()> {
    let source = json!({ "type": "image", "image": IMAGE });
    let server = json!({ "name": "tools", "spec": { "source": source, "args": ["mcp-http"], "health": { "path": "/healthz" } } });
    house.declare("servers", server).await?;
    let agent = json!({ "name": "a", "spec": {
        "source": source, "args": ["agent"], "health": { "path": "/healthz" }, "servers": [{ "name": "tools" }],
        "env": { "GREETING": "hello", "TOKEN": { "secret": "token" } } } });
    house.declare("secrets", json!({ "name": "token", "spec": { "value": "hush-hush" } })).await?;
    house.declare("agents", agent).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_and_its_server_are_deployed_called_killed_changed_and_taken_away() -> Result<()> {
    let engine = engine()?;
    let house = with_engine(&engine).await?;
    register(&house).await?;
    house.declare("providers", json!({ "name": "here", "spec": { "platform": "local" } })).await?;
    house.deploy("d", "agent", "a", "here").await?;
    let blocked = house.until_deployment("d", "blocked", |d| d["phase"] == "blocked").await?;
    let why = blocked["message"].as_str().unwrap_or_default();
    ensure!(why.contains("server/tools:latest"), "{why}");
    house.deploy("s", "server", "tools", "here").await?;

    let mcp = house.deployed("s").await?;
    ensure!(call(&mcp, "from afar").await? == "echo: from afar");
    let at = house.deployed("d").await?;
    ensure!(text(&format!("{at}env/GREETING")).await? == "hello");
    ensure!(text(&format!("{at}env/TOKEN")).await? == "hush-hush");
    ensure!(text(&format!("{at}ask/tools/hello")).await? == "echo: hello");
    let said = Cli::of(&house)?.ok("logs deployment d --tail 100").await?;
    ensure!(said.contains("agent begins") && said.contains("listening on"), "{said}");

    // Killed by hand, it comes back at the same address.
    let names = engine.podman(&["ps", "--format", "{{.Names}}"])?;
    let container = names.lines().find(|n| n.starts_with("d-")).context("the agent's container")?.to_owned();
    engine.podman(&["rm", "--force", "--time", "0", &container])?;
    let repaired = || async { Ok((house.attempts("d").await?.len() > 1).then_some(())) };
    wait::within(PATIENCE, "it is repaired", repaired).await?;
    ensure!(house.deployed("d").await? == at);
    ensure!(text(&format!("{at}env/GREETING")).await? == "hello");

    // What it is made from changes: it runs anew with that, and says why.
    let spec = json!({ "spec": { "source": { "type": "image", "image": IMAGE }, "args": ["agent"],
        "health": { "path": "/healthz" }, "servers": [{ "name": "tools" }], "env": { "GREETING": "good day" } } });
    house.api.put::<Value>(&house.api.path("agents/a"), &spec).await?;
    house.until_deployment("d", "made anew", |d| is_made_from(d, "agent/a:latest", 2)).await?;
    house.deployed("d").await?;
    ensure!(text(&format!("{at}env/GREETING")).await? == "good day");
    let explained: Value = house.api.get(&house.api.path("deployments/d/explain")).await?;
    let said = explained.to_string();
    ensure!(said.contains("agent/a:latest changed: generation 1 to 2"), "{said}");
    for of in ["deployments/d", "deployments/d/events", "deployments", "deployments/d/explain"] {
        let shown: Value = house.api.get(&house.api.path(of)).await?;
        ensure!(!shown.to_string().contains("hush"), "{of} shows a secret");
    }

    house.delete_deployments(&["d", "s"]).await?;
    let empty = || async { Ok(engine.podman(&["ps", "--all", "--quiet"])?.trim().is_empty().then_some(())) };
    wait::within(PATIENCE, "no container is left", empty).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_an_api_server_of_kubernetes_with_the_rights_that_are_shipped() -> Result<()> {
    let options = basalt_kube_api::Options { namespaces: vec!["tools".into()], ..Default::default() };
    let cluster = Server::start(options).await.map_err(anyhow::Error::from_boxed)?;
    let rules = Rule::parse(ROLE, "tools").map_err(anyhow::Error::msg)?;
    let kubeconfig = cluster.user("system:serviceaccount:tools:basalt", rules);
    let house = House::that_says("[kubernetes]\nrequest_seconds = 5\n").await?;
    register(&house).await?;
    house.declare("secrets", json!({ "name": "kubeconfig", "spec": { "value": kubeconfig } })).await?;
    let spec =
        json!({ "platform": "kubernetes", "kubeconfig": { "secret": "kubeconfig" }, "namespace": "tools" });
    house.declare("providers", json!({ "name": "cluster", "spec": spec })).await?;
    house.deploy("s", "server", "tools", "cluster").await?;
    house.deploy("d", "agent", "a", "cluster").await?;
    house.deployed("s").await?;
    let at = house.deployed("d").await?;
    ensure!(at.contains(".tools"), "{at}");
    ensure!(cluster.objects("deployments").len() == 2);

    // Somebody changes it past Basalt: it is put right.
    let pods = cluster.objects("deployments");
    let mine =
        pods.iter().find(|o| o["metadata"]["labels"]["basalt/name"] == "d").context("the deployment")?;
    let name = mine["metadata"]["name"].as_str().context("a name")?.to_owned();
    cluster
        .edit("deployments", "tools", &name, "somebody", |object| object["spec"]["replicas"] = json!(3))
        .map_err(|e| anyhow::anyhow!("{e:?}"))?;
    let put_right = || async {
        let object = cluster.object("deployments", "tools", &name).context("the object")?;
        let attempts = house.attempts("d").await?.len();
        Ok((object["spec"]["replicas"] == 1 && attempts > 1).then_some(()))
    };
    wait::within(PATIENCE, "it is put right", put_right).await?;
    house.delete_deployments(&["d", "s"]).await?;
    let empty = || async {
        let left = cluster.objects("deployments").len() + cluster.objects("services").len();
        Ok((left == 0).then_some(()))
    };
    wait::within(PATIENCE, "no object is left", empty).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_is_taken_twice_and_the_second_time_changes_nothing() -> Result<()> {
    let house = House::that_says("[engines.default]\nsocket = \"/nowhere/engine.sock\"\n").await?;
    let cli = Cli::of(&house)?;
    for name in ["model-key", "kubeconfig", "vms"] {
        house.declare("secrets", json!({ "name": name, "spec": { "value": "a value" } })).await?;
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        files += 1;
        let apply = format!("apply -f {} --no-wait", path.display());
        let first = cli.run(&apply).await?;
        ensure!(first.code == 0 && !first.out.contains("refused"), "{first:?}");
        let second = cli.ok(&apply).await?;
        ensure!(second.lines().all(|l| l.ends_with("unchanged")), "{second}");
    }
    ensure!(files >= 6, "{files} examples");
    Ok(())
}
