//! Deployments when what they stand on fails: a cluster that answers by halves or lacks what is needed, signals that are
//! lost, a database of another day.

use anyhow::{Context, Result, ensure};
use basalt_kube_api::{Action, Fault, Handle, Rule, Server};
use basalt_tests::{
    House,
    deployments::{condition, is_made_from},
    gateway::TestGateway,
    oracles,
    truth::Truth,
    wait,
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

/// How long anything may take, far above what it takes.
const PATIENCE: Duration = Duration::from_secs(90);

async fn cluster(change: impl FnOnce(&mut basalt_kube_api::Options)) -> Result<Handle> {
    let mut options = basalt_kube_api::Options { namespaces: vec!["tools".into()], ..Default::default() };
    change(&mut options);
    Server::start(options).await.map_err(anyhow::Error::from_boxed)
}

/// A provider `cluster`, and an agent `a` that says what it is told.
async fn register(house: &House, cluster: &Handle) -> Result<()> {
    let kubeconfig = cluster.user("basalt", vec![Rule::everything()]);
    house.declare("secrets", json!({ "name": "kubeconfig", "spec": { "value": kubeconfig } })).await?;
    let spec =
        json!({ "platform": "kubernetes", "kubeconfig": { "secret": "kubeconfig" }, "namespace": "tools" });
    house.declare("providers", json!({ "name": "cluster", "spec": spec })).await?;
    let agent = json!({ "name": "a", "spec": agent("hello") });
    house.declare("agents", agent).await.map(drop)
}

fn agent(greeting: &str) -> Value {
    json!({ "source": { "type": "image", "image": "example/agent:1" }, "env": { "GREETING": greeting } })
}

async fn change_agent(house: &House, greeting: &str) -> Result<()> {
    let spec = json!({ "spec": agent(greeting) });
    house.api.put::<Value>(&house.api.path("agents/a"), &spec).await.map(drop)
}

/// The object that runs a deployment.
fn object(cluster: &Handle, deployment: &str) -> Option<Value> {
    let all = cluster.objects("deployments");
    all.into_iter().find(|o| o["metadata"]["labels"]["basalt/name"] == deployment)
}

fn fingerprint(cluster: &Handle, deployment: &str) -> Result<String> {
    let object = object(cluster, deployment).with_context(|| format!("{deployment} does not run"))?;
    let at = |of: &str| object["metadata"][of]["basalt/fingerprint"].as_str().map(str::to_owned);
    at("labels").or_else(|| at("annotations")).context("a fingerprint")
}

fn remove(cluster: &Handle, deployment: &str) -> Result<()> {
    let object = object(cluster, deployment).context("it runs")?;
    let name = object["metadata"]["name"].as_str().context("a name")?;
    cluster.delete("deployments", "tools", name).map_err(|e| anyhow::anyhow!("{e:?}"))
}

/// How often the cluster was asked to list the services.
fn asked(cluster: &Handle) -> usize {
    let all = cluster.faults().recorded();
    all.iter().filter(|r| r.verb == "list" && r.resource == "services").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dp34_a_cluster_that_lists_one_kind_and_not_the_other_has_nothing_missing() -> Result<()> {
    let cluster = cluster(|_| {}).await?;
    let house = House::that_says("[kubernetes]\nrequest_seconds = 5\n").await?;
    register(&house, &cluster).await?;
    house.deploy("d", "agent", "a", "cluster").await?;
    house.deployed("d").await?;
    // What runs is listed, its services are not; and what ran is gone.
    cluster.faults().add(Fault::new(Action::Status(500)).verb("list").resource("services"));
    remove(&cluster, "d")?;
    let unseen = |d: &Value| condition(d, "ProviderReachable").is_some_and(|(status, _)| status == "false");
    house.until_deployment("d", "told that nobody could look", unseen).await?;
    let before = asked(&cluster);
    let looks = || async { Ok((asked(&cluster) >= before + 2).then_some(())) };
    wait::within(PATIENCE, "it is looked again", looks).await?;
    let seen = house.deployment("d").await?;
    ensure!(condition(&seen, "Discovered").is_some_and(|(status, _)| status == "true"), "{seen:#}");
    ensure!(house.attempts("d").await?.len() == 1 && object(&cluster, "d").is_none(), "{seen:#}");
    // Somebody can look again: it is missed, and there again.
    cluster.faults().clear();
    let back = || async { Ok((object(&cluster, "d").is_some()).then_some(())) };
    wait::within(PATIENCE, "it is there again", back).await?;
    house.deployed("d").await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dp43_a_cluster_without_the_needed_kind_says_which_and_what_would_help() -> Result<()> {
    let cluster = cluster(|o| o.apps = false).await?;
    let house = House::that_says("[kubernetes]\nrequest_seconds = 5\n").await?;
    register(&house, &cluster).await?;
    house.deploy("d", "agent", "a", "cluster").await?;
    let told = |d: &Value| {
        condition(d, "ProviderReachable").is_some_and(|(status, message)| {
            status == "false" && message.contains("apps/v1") && message.contains("1.20 or later")
        })
    };
    house.until_deployment("d", "told what the cluster lacks", told).await?;
    let provider: Value = house.api.get(&house.api.path("providers/cluster")).await?;
    ensure!(provider.to_string().contains("apps/v1"), "{provider:#}");
    // And it ends nevertheless.
    house.api.delete(&house.api.path("deployments/d?orphan=true")).await?;
    let gone = || async { Ok(house.deployment("d").await.is_err().then_some(())) };
    wait::within(PATIENCE, "it is gone", gone).await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dp48_with_every_listener_killed_what_one_gateway_takes_the_other_carries_out() -> Result<()> {
    let cluster = cluster(|_| {}).await?;
    let house = House::that_says("[kubernetes]\nrequest_seconds = 5\n").await?;
    register(&house, &cluster).await?;
    let second = TestGateway::inside(&house.place).await?;
    let doors = [house.api.clone(), house.api.at(&second.users)];
    let url = house.owner_url().to_owned();
    let killed = Arc::new(AtomicI64::new(0));
    let count = Arc::clone(&killed);
    let killer = tokio::spawn(async move {
        // What each said last: that it listens, that there is news, or what it is called.
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE query ~ 'basalt_changed|pg_backend_pid' AND pid <> pg_backend_pid() AND datname = current_database()";
        loop {
            let url = url.clone();
            let some = tokio::task::spawn_blocking(move || oracles::count(&url, kill)).await;
            count.fetch_add(some.ok().and_then(Result::ok).unwrap_or_default(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    // Whichever of them acts, half of the news is the other's.
    for n in 0..6 {
        let spec = json!({ "target": { "kind": "agent", "name": "a" }, "provider": "cluster" });
        let door = &doors[n % 2];
        let body = json!({ "name": format!("d{n}"), "spec": spec });
        door.post::<Value>(&door.path("deployments"), &body).await?;
        house.deployed(&format!("d{n}")).await?;
    }
    killer.abort();
    let killed = killed.load(Ordering::Relaxed);
    ensure!(killed > 4, "only {killed} listeners were killed");
    for n in 0..6 {
        ensure!(house.attempts(&format!("d{n}")).await?.len() == 1, "d{n} was tried more than once");
    }
    second.stop().await?;
    house.sound()
}

/// While the gateway runs, its database is put back to a copy from before: transaction numbers begin again where they
/// were, and the platform has what this database never heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dp51_a_database_restored_from_a_copy_is_what_counts_and_nothing_is_stuck() -> Result<()> {
    let cluster = cluster(|_| {}).await?;
    let house = House::on(Truth::durable().await?, "[kubernetes]\nrequest_seconds = 5\n").await?;
    register(&house, &cluster).await?;
    house.deploy("d", "agent", "a", "cluster").await?;
    house.deployed("d").await?;
    let first = fingerprint(&cluster, "d")?;
    let copy = house.truth.back_up()?;
    for (generation, greeting) in [(2, "good day"), (3, "good evening")] {
        wait::within(PATIENCE, "the change is taken", || async {
            Ok(Some(change_agent(&house, greeting).await?))
        })
        .await?;
        let newer = |d: &Value| is_made_from(d, "agent/a:latest", generation);
        house.until_deployment("d", "made anew", newer).await?;
        house.deployed("d").await?;
    }
    house.deploy("late", "agent", "a", "cluster").await?;
    house.deployed("late").await?;
    ensure!(fingerprint(&cluster, "d")? != first);

    house.truth.restore(&copy)?;
    let put_back = || async { Ok((fingerprint(&cluster, "d")? == first).then_some(())) };
    wait::within(PATIENCE, "it runs as the copy says", put_back).await?;
    house.deployed("d").await?;
    ensure!(is_made_from(&house.deployment("d").await?, "agent/a:latest", 1));
    ensure!(house.deployment("late").await.is_err(), "nobody declared it");
    // What no database knows is shown for what it is, and left alone.
    let shown = || async {
        let all: Value = house.api.get(&house.api.path("deployments?limit=100")).await?;
        let items = all["items"].as_array().context("items")?;
        Ok(items.iter().any(|d| d["origin"] == "orphaned").then_some(()))
    };
    wait::within(PATIENCE, "what was deployed later is shown as orphaned", shown).await?;
    ensure!(object(&cluster, "late").is_some());
    // It goes on from here.
    change_agent(&house, "good night").await?;
    house.until_deployment("d", "made anew", |d| is_made_from(d, "agent/a:latest", 2)).await?;
    house.deployed("d").await?;
    house.sound()
}
