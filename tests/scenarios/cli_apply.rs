//! `basalt apply`: files say what is wanted, twice is once, and one document that is refused stops no other.

use anyhow::{Context, Result, ensure};
use basalt_model::vms::ObservedPower;
use basalt_tests::{House, api::vm_id, cli::Cli};

const FILE: &str = "
kind: network
name: blue
spec: {cidr: 10.20.0.0/24}
---
kind: volume
name: data
spec: {size_bytes: 1073741824}
---
kind: vm
name: web
labels: {app: web}
spec:
  cpus: 1
  memory_bytes: 268435456
  stop_grace_seconds: 1
  disks:
    - {name: root, source: {kind: image, image: tiny}}
    - {name: data, source: {kind: volume, volume: data}}
  nics: [{network: blue}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_applies_a_file_twice_and_changes_only_what_it_says() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let file = cli.file("all.yaml", FILE)?;
    let dry = cli.file("blue.yaml", FILE.split("---").next().context("the network")?)?;
    ensure!(cli.ok(&format!("apply -f {dry} --dry-run")).await? == "network/blue would be created\n");
    cli.fails("get network blue", 3, &[]).await?;

    let first = cli.ok(&format!("apply -f {file}")).await?;
    ensure!(first == "network/blue created\nvolume/data created\nvm/web created\n", "{first}");
    let second = cli.ok(&format!("apply -f {file}")).await?;
    ensure!(second == "network/blue unchanged\nvolume/data unchanged\nvm/web unchanged\n", "{second}");
    let vm = house.api.vm("web").await?;
    ensure!(vm.metadata.generation.0 == 1 && house.hosts[0].runs(vm_id(&vm)), "{vm:?}");

    // What was done by hand, and what the file does not speak of, stays.
    cli.ok("stop web").await?;
    ensure!(cli.ok(&format!("apply -f {file}")).await?.contains("vm/web unchanged"));
    let more = cli
        .file("more.yaml", "kind: vm\nname: web\nlabels: {tier: front}\nspec: {memory_bytes: 536870912}\n")?;
    let would = cli.run(&format!("apply -f {more} --dry-run")).await?;
    ensure!(would.code == 0 && would.out == "vm/web would be changed\n", "{would:?}");
    ensure!(would.err.contains("spec.memory_bytes is 268435456, the file says 536870912"), "{would:?}");
    let changed = cli.json(&format!("apply -f {more}")).await?;
    ensure!(
        changed["spec"]["memory_bytes"] == 536_870_912u64 && changed["spec"]["power"] == "stopped",
        "{changed}"
    );
    ensure!(changed["spec"]["disks"].as_array().is_some_and(|d| d.len() == 2), "{changed}");
    ensure!(changed["labels"] == serde_json::json!({"app": "web", "tier": "front"}), "{changed}");
    ensure!(house.hosts[0].power(vm_id(&vm)) == ObservedPower::Stopped);

    // From standard input, and as JSON.
    let doc = r#"{"kind": "network", "name": "red", "spec": {"cidr": "10.30.0.0/24"}}"#;
    let piped = cli.with_input("apply -f -", doc).await?;
    ensure!(piped.code == 0 && piped.out == "network/red created\n", "{piped:?}");
    house.sound()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_applies_the_rest_of_a_file_when_a_document_is_refused() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let bad = FILE.replace("memory_bytes: 268435456", "memory_mib: 256");
    let applied = cli
        .with_input(
            "apply -f -",
            &format!("{bad}---\nkind: network\nname: red\nspec: {{cidr: 10.30.0.0/24}}\n"),
        )
        .await?;
    ensure!(applied.out == "network/blue created\nvolume/data created\nnetwork/red created\n", "{applied:?}");
    let err = applied
        .failed(1, &["error: vm/web: ", "spec.memory_mib", "no field of this body", "1 of 4 failed"])?;
    ensure!(err.matches("memory_mib").count() < 4, "it is said once: {err}");

    // What cannot be changed says what differs and what to do.
    let larger = FILE.replace("1073741824", "2147483648");
    let applied = cli.with_input("apply -f -", &larger).await?;
    ensure!(
        applied.out.contains("network/blue unchanged") && applied.out.contains("vm/web created"),
        "{applied:?}"
    );
    applied.failed(1, &["volume/data", "cannot be changed", "spec.size_bytes is 1073741824", "delete it"])?;

    // What cannot be read changes nothing at all.
    for (doc, words) in [
        (
            "kind: network\nname: green\nspec: {cidr: 10.40.0.0/24}\n---\nkind: toaster\nname: x\n",
            &["document 2", "toaster", "vm, network"][..],
        ),
        (
            "kind: network\nname: green\nspec: {cidr: 10.40.0.0/24}\n---\nkind: task\nname: x\n",
            &["document 2", "cannot be declared"],
        ),
        ("kind: network\nname: green\nspek: {}\n", &["spek"]),
        ("kind: [\n", &["cannot be read"]),
        ("", &["empty"]),
    ] {
        cli.with_input("apply -f -", doc).await?.failed(2, words)?;
    }
    cli.fails("get network green", 3, &[]).await?;
    cli.fails("apply -f /nonexistent/file.yaml", 2, &["/nonexistent/file.yaml"]).await?;

    // What is going is neither so nor to be changed.
    house.hosts[0].kill().await;
    cli.ok("delete vm web --no-wait").await?;
    cli.with_input("apply -f -", FILE.rsplit("---").next().unwrap_or_default())
        .await?
        .failed(4, &["being deleted", "basalt wait"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_applies_projects_hosts_tenants_and_images() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let doc = "
kind: tenant
name: acme
---
kind: project
name: shop
tenant: acme
labels: {team: web}
spec: {max_vms: 1, max_cpus: 4, max_memory_bytes: 1073741824, max_storage_bytes: 1073741824}
---
kind: host
name: h1
spec: {maintenance: true}
---
kind: host
name: h2
---
kind: network
name: lan
project: shop
spec: {cidr: 10.50.0.0/24}
---
kind: image
name: late
spec: {format: raw, size_bytes: 512}
";
    let dry = cli
        .with_input(
            "apply --dry-run -f -",
            &doc.replace("project: shop", "project: demo").replace("name: lan", "name: lan2"),
        )
        .await?;
    ensure!(
        dry.code == 0 && dry.out.lines().count() == 6 && dry.out.contains("project/shop would be created"),
        "{dry:?}"
    );
    let first = cli.with_input("apply -f -", doc).await?;
    ensure!(first.code == 0 && first.out.lines().count() == 6, "{first:?}");
    ensure!(first.out.contains("host/h1 changed") && first.out.contains("host/h2 created"), "{first:?}");
    ensure!(
        first.err.contains("basalt create join-token h2") && first.err.contains("basalt upload late"),
        "{first:?}"
    );
    ensure!(cli.json("get host h1").await?["state"] == "maintenance");
    let shop = cli.json("get project shop").await?;
    ensure!(shop["quota"]["limits"]["max_vms"] == 1 && shop["labels"]["team"] == "web", "{shop}");
    let second = cli.with_input("apply -f -", doc).await?;
    ensure!(second.code == 0 && second.out.lines().all(|l| l.ends_with(" unchanged")), "{second:?}");

    let quota = "kind: project\nname: shop\nspec: {max_vms: 2}\n";
    let raised = cli.with_input("apply -f -", quota).await?;
    ensure!(raised.out == "project/shop changed\n", "{raised:?}");
    let limits = cli.json("get project shop").await?["quota"]["limits"].clone();
    ensure!(limits["max_vms"] == 2 && limits["max_cpus"] == 4, "{limits}");
    // A tenant has nothing to change; nor has an image.
    let label = cli.with_input("apply -f -", "kind: tenant\nname: acme\nlabels: {a: b}\n").await?;
    label.failed(1, &["tenant/acme", "labels.a is not set", "make the file agree"])?;
    Ok(())
}
