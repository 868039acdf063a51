//! N8: what a port counts, from the command line to a simulated host and back.

use anyhow::{Context, Result, ensure};
use basalt_tests::{House, cli::Cli};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n8_the_cli_shows_what_ports_count_and_why_some_do_not() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    cli.ok("create vm web --image tiny --network lan --memory 256MiB").await?;
    let vm = cli.json("get vm web").await?;
    let port = vm["nics"][0]["port_id"].as_str().context("a port")?.to_owned();

    let shown = cli.json(&format!("counters port/{port}")).await?;
    let number = |field: &str| shown[field].as_u64();
    let packets = number("rx_packets").context("packets")?;
    // A simulated guest sends twice as much as it receives.
    ensure!(packets > 0 && number("tx_packets") == Some(2 * packets), "{shown}");
    ensure!(number("spoofed_packets") == Some(0) && shown["host"] == "h1", "{shown}");
    ensure!(shown["vm_id"] == vm["id"] && shown["observed_at"].is_string(), "{shown}");
    let table = cli.ok("counters vm web").await?;
    ensure!(
        ["RX-PACKETS", "SPOOFED", port.as_str(), &packets.to_string()].iter().all(|t| table.contains(t)),
        "{table}"
    );
    let described = cli.ok(&format!("describe port {port}")).await?;
    ensure!(described.contains(&format!("rx_packets: {packets}")), "{described}");
    cli.fails("counters network/lan", 2, &["has no counters", "port, vm"]).await?;
    cli.fails("counters port/nosuch", 3, &["nosuch"]).await?;

    // What answers nobody is said to answer nobody, and the command does not hang.
    house.hosts[0].kill().await;
    cli.fails(&format!("counters port/{port}"), 6, &["does not answer", "host/h1"]).await?;
    house.hosts[0].start()?;

    cli.ok("stop web").await?;
    cli.fails(&format!("counters port/{port}"), 4, &["start the VM"]).await?;
    let described = cli.ok(&format!("describe port {port}")).await?;
    ensure!(described.contains("start the VM"), "{described}");
    let all: Value = cli.json("get ports").await?;
    ensure!(all[0].get("counters").is_none(), "lists ask nobody: {all}");
    Ok(())
}
