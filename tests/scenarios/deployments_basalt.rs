//! Deployments in VMs of their own: the provider is this very gateway, reached by a token like any other client.

use anyhow::{Context, Result, ensure};
use basalt_tests::{House, api::vm_id, wait};
use basalt_wire::rest::{Page, Vm};
use serde_json::{Value, json};
use std::time::Duration;

/// How long what takes several looks at the provider may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// A token with a role in the project of scenarios.
async fn token(house: &House, name: &str, role: &str) -> Result<String> {
    let project: Value = house.api.get(house.api.path("").trim_end_matches('/')).await?;
    let scope = json!({ "kind": "project", "tenant_id": project["tenant_id"], "project_id": project["id"] });
    let body = json!({ "name": name, "grants": [{ "role": role, "scope": scope }] });
    let made: Value = house.api.post("/v1/service-tokens", &body).await?;
    Ok(made["token"].as_str().context("a token")?.to_owned())
}

/// What the provider's secret says.
fn access(house: &House, token: &str) -> Value {
    let text = format!(
        "url = \"{}\"\ntoken = \"{token}\"\nca = \"\"\"\n{}\"\"\"\n",
        house.gateway.users, house.place.ca_pem
    );
    json!({ "spec": { "value": text } })
}

async fn declare(house: &House, kind: &str, name: &str, mut body: Value) -> Result<()> {
    body["name"] = json!(name);
    house.api.post::<Value>(&house.api.path(kind), &body).await.map(drop)
}

async fn deployment(house: &House) -> Result<Value> {
    house.api.get(&house.api.path("deployments/d")).await
}

/// The VM of the deployment, once it runs and is seen as deployed, and its address there.
async fn deployed(house: &House, holds: impl Fn(&Vm) -> bool) -> Result<(Vm, String)> {
    wait::within(PATIENCE, "it is deployed", || async {
        let seen = deployment(house).await?;
        let page: Page<Vm> = house.api.get(&house.api.path("vms")).await?;
        let current = seen["phase"] == "deployed" && seen["observed_generation"] == seen["generation"];
        ensure!(current, "{seen:#}");
        let [vm] = &*page.items else { return Ok(None) };
        let url = seen["endpoints"][0]["url"].as_str().context("an endpoint")?.to_owned();
        Ok((holds(vm) && vm.observed.started_at.is_some()).then(|| (vm.clone(), url)))
    })
    .await
}

fn agent(image: &str) -> Value {
    json!({ "spec": { "source": { "type": "image", "image": image }, "args": ["it's", "so"], "env": { "GREETING": "hello" } } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_runs_in_a_vm_of_its_own_comes_back_changes_and_goes() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let allowed = access(&house, &token(&house, "agents", "operator").await?);
    declare(&house, "secrets", "vms", allowed.clone()).await?;
    let place = json!({ "platform": "basalt", "access": { "secret": "vms" }, "project": basalt_tests::house::PROJECT,
        "image": "tiny", "network": "lan", "memory_bytes": 128u64 << 20 });
    declare(&house, "providers", "vms", json!({ "spec": place })).await?;
    declare(&house, "agents", "a", agent("registry.example/a:1")).await?;
    let spec =
        json!({ "target": { "kind": "agent", "name": "a" }, "provider": "vms", "env": { "MODEL": "small" } });
    declare(&house, "deployments", "d", json!({ "spec": spec })).await?;

    let (first, at) = deployed(&house, |_| true).await?;
    ensure!(at == format!("http://{}:8080/", first.nics[0].address), "{at}");
    ensure!(house.machine_of(&first)?.runs(vm_id(&first)), "no guest runs");
    let label = |vm: &Vm, key: &str| vm.metadata.labels.get(key).map(str::to_owned);
    let id = deployment(&house).await?["id"].as_str().context("an id")?.to_owned();
    ensure!(label(&first, "basalt/deployment") == Some(id), "{:?}", first.metadata.labels);
    ensure!(label(&first, "basalt/name").as_deref() == Some("d") && first.spec.memory_bytes == 128 << 20);
    let user_data = first.spec.cloud_init.user_data.clone().unwrap_or_default();
    for words in
        ["registry.example/a:1", "'GREETING=hello'", "'MODEL=small'", "'PORT=8080'", r"'it'\''s' 'so'"]
    {
        ensure!(user_data.contains(words), "{words} in {user_data}");
    }
    let log = house
        .api
        .request(reqwest::Method::GET, &house.api.path("deployments/d/logs"))
        .send()
        .await?
        .text()
        .await?;
    ensure!(log.contains("simulated guest"), "{log}");

    // Deleted past us, it comes back as another VM.
    let task = house.api.delete_vm(first.metadata.name.as_str()).await?;
    house.api.completed(&task).await?;
    let (second, _) = deployed(&house, |vm| vm.metadata.id != first.metadata.id).await?;
    ensure!(second.metadata.name == first.metadata.name);

    // Another artifact is another VM, where the one before was.
    house.api.put::<Value>(&house.api.path("agents/a"), &agent("registry.example/a:2")).await?;
    let (third, there) = deployed(&house, |vm| vm.metadata.id != second.metadata.id).await?;
    ensure!(third.spec.cloud_init.user_data.as_deref().is_some_and(|t| t.contains("registry.example/a:2")));
    ensure!(third.nics[0].address == second.nics[0].address, "{there}");
    house.runs_once()?;

    house.api.call::<Value>(&house.api.path("deployments/d/cancel")).await?;
    wait::within(PATIENCE, "it is undeployed", || async {
        let seen = deployment(&house).await?;
        ensure!(seen["phase"] == "undeployed", "{seen:#}");
        Ok(Some(()))
    })
    .await?;
    let page: Page<Vm> = house.api.get(&house.api.path("vms")).await?;
    ensure!(page.items.is_empty(), "{:?}", page.items);
    house.clear().await?;
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_may_only_look_leaves_its_provider_unreachable_and_says_what_would_help() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let secret = access(&house, &token(&house, "looker", "viewer").await?);
    declare(&house, "secrets", "vms", secret).await?;
    let place = json!({ "platform": "basalt", "access": { "secret": "vms" }, "project": basalt_tests::house::PROJECT,
        "image": "tiny", "network": "nowhere" });
    declare(&house, "providers", "vms", json!({ "spec": place })).await?;
    let status = async |what: &str, holds: &dyn Fn(&Value) -> bool| {
        wait::within(PATIENCE, what, || async {
            let seen: Value = house.api.get(&house.api.path("providers/vms")).await?;
            ensure!(holds(&seen["status"]), "{seen:#}");
            Ok(Some(seen["status"].clone()))
        })
        .await
    };
    let refused = status("it is refused", &|s| s["reachable"] == false).await?;
    ensure!(refused["error"]["code"] == "not_allowed", "{refused:#}");
    ensure!(refused["error"]["remedy"].as_str().is_some_and(|r| r.contains("operator")), "{refused:#}");

    let allowed = access(&house, &token(&house, "agents", "operator").await?);
    house.api.put::<Value>(&house.api.path("secrets/vms"), &allowed).await?;
    let reached = status("it is reached", &|s| s["reachable"] == true).await?;
    let limits = reached["health"]["limits"].to_string();
    ensure!(limits.contains("network_missing"), "what is missing there is said: {reached:#}");
    // The secret that one gets in by is kept, as a cluster's is.
    let kept = house.api.delete(&house.api.path("secrets/vms")).await?.problem()?;
    ensure!(kept.code == "in_use", "{kept:?}");
    house.sound()
}
