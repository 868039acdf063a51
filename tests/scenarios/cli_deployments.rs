//! Deployments at the command line: the built program, a whole house, and an API server of Kubernetes.

use anyhow::{Context, Result, ensure};
use basalt_kube_api::{Handle, Rule, Server};
use basalt_tests::{House, cli::Cli};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The rights that are shipped.
const ROLE: &str = include_str!("../../deploy/kubernetes/role.yaml");

/// Everything that is to run, in one file. The agent's deployment stands before that of the server which it uses.
const FILE: &str = r#"
kind: server
name: weather
tag: "1.4"
spec: { source: { type: image, image: "registry.example/weather:1.4" } }
---
kind: agent
name: planner
spec:
  source: { type: image, image: "registry.example/planner:1" }
  servers: [{ name: weather, tag: "1.4" }]
---
kind: provider
name: cluster
spec: { platform: kubernetes, kubeconfig: { secret: kubeconfig }, namespace: tools }
---
kind: deployment
name: weather
spec: { target: { kind: server, name: weather, tag: "1.4" }, provider: cluster }
---
kind: deployment
name: planner
labels: { tier: front }
spec: { target: { kind: agent, name: planner }, provider: cluster, env: { MODEL: small } }
"#;

async fn cluster(cli: &Cli) -> Result<Handle> {
    let options = basalt_kube_api::Options { namespaces: vec!["tools".into()], ..Default::default() };
    let cluster = Server::start(options).await.map_err(|e| anyhow::anyhow!("{e}"))?;
    let rules = Rule::parse(ROLE, "tools").map_err(|e| anyhow::anyhow!("{e}"))?;
    let kubeconfig = cluster.user("system:serviceaccount:tools:basalt", rules);
    cli.with_input("create secret kubeconfig --file -", &kubeconfig).await?;
    Ok(cluster)
}

async fn house() -> Result<House> {
    House::that_says("[kubernetes]\nrequest_seconds = 5\n").await
}

/// Asks until the answer has some words.
async fn until_said(cli: &Cli, line: &str, words: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let said = cli.ok(line).await?;
        if said.contains(words) {
            return Ok(said);
        }
        ensure!(Instant::now() < deadline, "basalt {line} does not say {words:?}: {said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn of<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    let all = list.as_array().context("a list")?;
    all.iter().find(|d| d["name"] == name).with_context(|| format!("{name} in {list}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_applies_deployments_waits_for_them_and_says_why_they_are_as_they_are() -> Result<()> {
    let house = house().await?;
    let cli = Cli::of(&house)?;
    let _cluster = cluster(&cli).await?;
    let file = cli.file("all.yaml", FILE)?;
    let applied = cli.run(&format!("apply -f {file}")).await?;
    ensure!(applied.code == 0, "{applied:?}");
    for line in ["deployment/weather created", "deployment/planner created", "provider/cluster created"] {
        ensure!(applied.out.contains(line), "{applied:?}");
    }
    // What happens meanwhile is told with its reason.
    ensure!(applied.err.contains("deployment/planner: deployed: "), "{applied:?}");
    let again = cli.ok(&format!("apply -f {file}")).await?;
    ensure!(again.lines().all(|line| line.ends_with(" unchanged")) && again.lines().count() == 5, "{again}");

    let table = cli.ok("get deployments").await?;
    let line = table.lines().find(|l| l.starts_with("planner ")).context("planner")?;
    for word in ["deployed", "agent/planner:latest", "cluster", "managed", "http://"] {
        ensure!(line.contains(word), "{word}: {table}");
    }
    cli.ok("wait deployment/weather deployment/planner --for deployed").await?;
    let described = cli.ok("describe deployment planner").await?;
    ensure!(
        described.contains("Attempts") && described.contains("nothing of it was applied yet"),
        "{described}"
    );
    let provider = cli.json("get provider cluster").await?;
    ensure!(provider["status"]["reachable"] == true, "{provider}");

    // What it is made from changes: it is deployed anew, and says because of what.
    let newer = FILE.replace("weather:1.4\" }", "weather:1.4.1\" }");
    let newer = cli.file("newer.yaml", newer)?;
    let changed = cli.ok(&format!("apply -f {newer}")).await?;
    ensure!(changed.contains("server/weather:1.4 changed"), "{changed}");
    let because = "because server/weather:1.4 changed: generation 1 to 2";
    let said = until_said(&cli, "explain deployment planner", because).await?;
    ensure!(said.contains("server/weather:1.4 at generation 2, as it is now"), "{said}");
    let events = cli.ok("events deployment/planner").await?;
    ensure!(events.contains("success") && events.lines().count() >= 3, "{events}");

    // By hand, and in other words.
    ensure!(cli.ok("cancel deployment planner").await? == "deployment/planner undeployed\n");
    cli.ok("wait --for undeployed deployment/planner").await?;
    ensure!(cli.ok("deploy deployment/planner").await? == "deployment/planner wanted deployed\n");
    ensure!(cli.ok("retry deployment planner").await? == "deployment/planner retried\n");
    let events = cli.json("events deployment/planner").await?;
    ensure!(events[0]["causes"][0]["cause"] == "forced", "{events}");
    cli.fails("deploy vm/web", 2, &["cannot be deployed"]).await?;
    cli.fails("explain deployment nosuch", 3, &["nosuch"]).await?;
    cli.fails("cancel vm/web", 2, &["neither a task nor a deployment"]).await?;

    // What is used is not deleted by mistake.
    cli.fails("delete server weather:1.4", 4, &["deployment/weather", "in use"]).await?;
    cli.fails("delete provider cluster", 4, &["deployment/planner", "in use"]).await?;
    cli.fails("delete deployment weather --cascade", 2, &["--cascade"]).await?;
    cli.ok("delete server weather:1.4 --cascade undeploy").await?;
    cli.ok("wait deployment/weather --for undeployed").await?;
    cli.ok("delete agent planner --orphan").await?;
    ensure!(of(&cli.json("get deployments").await?, "planner")?["spec"]["desired_state"] == "deployed");
    // The provider goes after its deployments, and the command when it is gone.
    ensure!(cli.ok("delete provider cluster --cascade").await? == "provider/cluster deleted\n");
    cli.fails("get deployment planner", 3, &["planner"]).await?;
    cli.fails("get provider cluster", 3, &["cluster"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_ends_with_the_reason_when_a_deployment_cannot_be() -> Result<()> {
    let house = house().await?;
    let cli = Cli::of(&house)?;
    let _cluster = cluster(&cli).await?;
    let provider = "kind: provider\nname: cluster\nspec: {platform: kubernetes, kubeconfig: {secret: kubeconfig}, namespace: tools}\n";
    cli.with_input("apply -f -", provider).await?;
    let create = "create deployment web --target agent/nosuch --provider cluster";
    // It is blocked, which is told at once and ends the wait after a while: the file may have declared it next.
    let blocked = cli.fails(create, 7, &["deployment/web: blocked: ", "agent/nosuch:latest"]).await?;
    ensure!(blocked.contains("basalt explain deployment/web"), "{blocked}");
    let why = cli.ok("explain deployment/web").await?;
    ensure!(why.contains("not DependenciesReady"), "{why}");
    cli.fails(create, 4, &["web"]).await?;
    cli.fails("wait deployment/web --for deployed --timeout 1", 8, &["it is blocked", "nosuch"]).await?;
    cli.fails("create deployment x --target nosuch --provider cluster", 2, &["KIND/NAME:TAG"]).await?;
    cli.fails("create deployment x --target agent/a --provider nosuch", 1, &["spec.provider"]).await?;
    let port = "create deployment x --target agent/a --provider cluster --port 80";
    cli.fails(port, 1, &["spec.local", "kubernetes"]).await?;
    // With nothing waited for, it is declared and no more.
    let quick = cli.ok("--no-wait create deployment y --target agent/nosuch --provider cluster").await?;
    ensure!(quick == "deployment/y created\n", "{quick}");
    ensure!(cli.ok("delete deployment y --orphan").await? == "deployment/y deleted\n");
    ensure!(cli.ok("delete deployment web").await? == "deployment/web deleted\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dp38_the_cli_shows_what_was_found_and_takes_it_over() -> Result<()> {
    let house = house().await?;
    let cli = Cli::of(&house)?;
    let cluster = cluster(&cli).await?;
    let labels = json!({"app": "byhand"});
    let byhand = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "byhand", "namespace": "tools"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "registry.example/planner:1"}]}}}});
    cluster.create("deployments", "tools", byhand, "somebody").map_err(|e| anyhow::anyhow!("{e:?}"))?;
    cli.ok(&format!("apply -f {}", cli.file("all.yaml", FILE)?)).await?;
    until_said(&cli, "get deployments -o name", "deployment/byhand").await?;
    let list = cli.json("get deployments").await?;
    let found = of(&list, "byhand")?;
    ensure!(found["origin"] == "discovered" && found["found"]["namespace"] == "tools", "{found}");
    let id = found["id"].as_str().context("an id")?.to_owned();
    let table = cli.ok("get deployments").await?;
    let line = table.lines().find(|l| l.starts_with("byhand ")).context("byhand")?;
    ensure!(line.contains("cluster") && line.contains("discovered") && line.contains(&id), "{table}");
    ensure!(cli.ok(&format!("describe deployment {id}")).await?.contains("was not declared here"));
    cli.fails(&format!("delete deployment {id}"), 4, &["basalt adopt deployment"]).await?;
    cli.fails("describe deployment byhand", 3, &["byhand"]).await?;
    let adopt = format!("adopt deployment {id} mine --target agent/planner");
    ensure!(cli.ok(&format!("{adopt} --dry-run")).await? == "deployment/mine can be adopted\n");
    cli.fails("get deployment mine", 3, &["mine"]).await?;
    ensure!(cli.ok(&format!("--no-wait {adopt}")).await? == "deployment/mine adopted\n");
    let mine = cli.json("get deployment mine").await?;
    ensure!(mine["origin"] == "managed" && mine["spec"]["kubernetes"]["namespace"] == "tools", "{mine}");
    // Until its owner is written on it, it is taken over already; then nothing of this id is in the list any more.
    let twice = cli.run(&format!("{adopt} --no-wait")).await?;
    ensure!([3, 4].contains(&twice.code), "{twice:?}");
    Ok(())
}
