//! H1, R44: a second agent with a host's identity is refused, and everybody who looks at the host is told.

use anyhow::{Result, bail, ensure};
use basalt_agent::{Error, link::Gateway};
use basalt_model::{Condition, ConditionStatus, hosts::HostState};
use basalt_tests::{House, wait};
use basalt_wire::agent::Report;
use serde_json::Value;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h1_r44_a_second_agent_with_one_identity_is_fenced_and_alarmed() -> Result<()> {
    let house = House::with_hosts(1).await?;
    let machine = house.hosts[0].clone();
    // A start from before the one that runs: what a restored copy of the machine comes with.
    let boot = Uuid::from_u128(0x7000_8000_0000_0000_0001);
    let twin = machine.twin(boot)?;
    let report = Report {
        agent_boot: boot,
        sequence: 1,
        manifest_revision: None,
        manifest_refused: None,
        facts: None,
        items: Vec::new(),
    };
    for refused in [twin.report(&report).await.err(), twin.manifest(None).await.err()] {
        ensure!(matches!(&refused, Some(Error::Rejected(_))), "{refused:?}");
    }
    let told: Condition = wait::until("the host tells of it", || async {
        let host = house.host("h1").await?;
        ensure!(host.state == HostState::Ready, "{:?}", host.state);
        Ok(host.conditions.into_iter().find(|c| c.kind == "AgentConflict"))
    })
    .await?;
    ensure!(told.status == ConditionStatus::True && told.message.contains(&boot.to_string()), "{told:?}");
    ensure!(told.message.contains("revoke the host and enrol it anew"), "{told:?}");
    let Value::String(metrics) = house.api.get::<Value>("/metrics").await? else { bail!("no text") };
    for line in ["basalt_agents_fenced_total 2", "basalt_agent_conflicts 1"] {
        ensure!(metrics.lines().any(|l| l == line), "{line}: {metrics}");
    }
    // The first goes on as if nothing had been.
    house.api.running_vm("web").await?;
    house.clear().await?;
    house.sound()
}
