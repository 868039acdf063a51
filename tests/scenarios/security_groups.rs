//! N5 through every room: what the command line declares reaches the hosts of the ports, and leaves with them.

use anyhow::{Context, Result, ensure};
use basalt_store::manifests;
use basalt_tests::{House, cli::Cli, wait::until};
use serde_json::Value;

const VM: &str = "--image tiny --network lan --memory 256MiB";

/// The rules of each present group in a host's manifest, by the group's name, and how many groups there are at all.
async fn groups(house: &House, host: usize) -> Result<(Vec<(String, usize)>, usize)> {
    let manifest = manifests::read::<Value>(&house.truth.store, house.hosts[host].id).await?;
    let all: Vec<_> = manifest.items.iter().filter(|i| i.kind == "security_group").collect();
    let present = all.iter().filter(|i| i.present).map(|i| {
        let rules = i.body["rules"].as_array().map_or(0, Vec::len);
        (i.body["name"].as_str().unwrap_or_default().to_owned(), rules)
    });
    Ok((present.collect(), all.len()))
}

async fn until_groups(house: &House, host: usize, wanted: &[(&str, usize)]) -> Result<()> {
    let wanted: Vec<_> = wanted.iter().map(|(name, rules)| ((*name).to_owned(), *rules)).collect();
    until(&format!("host {host} has {wanted:?}"), || async {
        let (mut present, all) = groups(house, host).await?;
        present.sort();
        Ok((present == wanted && all == wanted.len()).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n5_groups_are_on_the_hosts_of_their_ports_and_say_what_they_admit() -> Result<()> {
    let house = House::with_hosts(2).await?;
    let cli = Cli::of(&house)?;
    let said = cli.ok("create security-group web --ingress tcp:80 --ingress tcp:5432@group/friends").await;
    ensure!(said.is_err(), "a group that is not there was named");
    cli.ok("create security-group friends").await?;
    let said = cli.ok("create security-group web --ingress tcp:80 --ingress tcp:5432@group/friends").await?;
    ensure!(said == "security-group/web created\n", "{said}");
    cli.fails("create security-group bad --ingress tcp:90-80", 1, &["ports", "80 to 90"]).await?;
    cli.ok("create network blue --cidr 10.30.0.0/24 --security-group web").await?;
    cli.ok(&format!("create vm a {VM} --host h1 --security-group friends")).await?;
    cli.ok("create vm b --image tiny --network blue --memory 256MiB --host h2").await?;
    until_groups(&house, 0, &[("friends", 0)]).await?;
    until_groups(&house, 1, &[("web", 2)]).await?;

    let address = |vm: Value| vm["nics"][0]["address"].as_str().map(str::to_owned).context("an address");
    let (a, b) = (address(cli.json("get vm a").await?)?, address(cli.json("get vm b").await?)?);
    let said = cli.ok(&format!("explain port {b} --remote {a} --protocol tcp --port 5432")).await?;
    ensure!(said.contains("is admitted by rule 1 of security group web"), "{said}");
    let said = cli.ok(&format!("explain port {b} --remote 10.9.9.9 --protocol tcp --port 5432")).await?;
    ensure!(said.contains("is dropped") && said.contains("to admit it: "), "{said}");
    let said = cli.ok(&format!("explain port {a} --remote {b} --protocol icmp --egress")).await?;
    ensure!(said.contains("no group of the port restricts what goes out"), "{said}");
    cli.fails(&format!("explain port {a}"), 2, &["--remote"]).await?;
    let watched = cli.shell("set -o pipefail; $basalt watch security-groups -o name | head -1").await?;
    ensure!(watched.code == 0 && watched.out.starts_with("security-group/"), "{watched:?}");

    // Rules change where they are.
    let file =
        cli.file("web.yaml", "kind: security-group\nname: web\nspec:\n  rules: [{direction: ingress}]\n")?;
    cli.ok(&format!("apply -f {file}")).await?;
    until_groups(&house, 1, &[("web", 1)]).await?;
    cli.fails("delete security-group friends", 4, &["vm/a"]).await?;
    cli.fails("delete security-group web", 4, &["network/blue"]).await?;
    cli.ok("delete vm a b").await?;
    cli.ok("delete security-group friends").await?;
    cli.ok("delete network blue").await?;
    cli.ok("delete security-group web").await?;
    until_groups(&house, 0, &[]).await?;
    until_groups(&house, 1, &[]).await?;
    house.nothing_left().await?;
    house.sound()
}
