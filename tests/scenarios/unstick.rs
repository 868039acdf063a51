//! What is stuck gets out without SQL and without virsh, and never by an unsafe way.

use anyhow::{Result, ensure};
use basalt_tests::{House, api::vm_id, cli::Cli, oracles, wait};
use basalt_wire::rest::{Accepted, Unstick, WayOut};
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than the lease of a host.
const PATIENCE: Duration = Duration::from_secs(90);

fn ways(seen: &Unstick, safe: bool) -> Vec<WayOut> {
    seen.outcomes.iter().filter(|o| o.refused.is_none() == safe).map(|o| o.way).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_deleted_on_a_host_that_never_comes_back_is_forgotten_by_word_and_listed_when_it_does()
-> Result<()> {
    let house = House::with_hosts(1).await?;
    let cli = Cli::of(&house)?;
    let vm = house.api.running_vm("web").await?;
    let path = format!("/v1/unstick/vm/{}", vm.metadata.id);
    wait::until("nothing is stuck", || async {
        let calm: Unstick = house.api.get(&path).await?;
        Ok((!calm.stuck && ways(&calm, true) == [WayOut::Wait]).then_some(()))
    })
    .await?;
    let none = house.api.try_post(&path, &json!({"way": "forget"})).await?.problem()?;
    ensure!(none.code == "way_out_refused", "{none:?}");

    let host = &house.hosts[0];
    host.kill().await;
    let task = house.api.delete_vm("web").await?;
    // While its host still counts as heard of, nothing is given up.
    let early: Unstick = house.api.get(&path).await?;
    ensure!(ways(&early, false).contains(&WayOut::Forget), "{early:?}");
    let refused = house.api.try_post(&path, &json!({"way": "forget"})).await?.problem()?;
    ensure!(refused.code == "way_out_refused" && refused.detail.contains("heard of"), "{refused:?}");
    wait::within(PATIENCE, "its host is silent", || async {
        let seen: Unstick = house.api.get(&path).await?;
        Ok(ways(&seen, true).contains(&WayOut::Forget).then_some(()))
    })
    .await?;
    let said = cli.ok("unstick vm/web").await?;
    ensure!(
        said.contains("h1 is not heard of") && said.contains("forget") && said.contains("generation 2"),
        "{said}"
    );
    cli.fails("unstick vm/web --take redeploy", 4, &["no way out", "forget"]).await?;
    let taken: Accepted<Unstick> = house.api.post(&path, &json!({"way": "forget"})).await?;
    ensure!(taken.object.stuck, "{taken:?}");
    house.api.completed(&task).await?;
    ensure!(house.api.find::<Value>(&house.api.path("vms/web")).await?.is_none(), "its rows are gone");
    let audit = "SELECT count(*) FROM audit_events WHERE action = 'vm.unstick.forget'";
    ensure!(oracles::count(house.owner_url(), audit)? == 1);

    // Absence never deletes: it runs on, and is nobody's.
    host.restart().await?;
    wait::within(PATIENCE, "it is listed as nobody's", || async {
        let seen = house.host("h1").await?;
        let foreign = seen.facts.map(|f| f.foreign).unwrap_or_default();
        Ok(foreign.iter().any(|f| f.id == vm.metadata.id.to_string()).then_some(()))
    })
    .await?;
    ensure!(host.runs(vm_id(&vm)), "it was stopped");
    Ok(())
}
