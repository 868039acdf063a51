//! Whole hosts in memory: what everything but QEMU costs, and how a fleet converges from empty.

use super::{Figure, Latencies, Size, http, surroundings};
use crate::{House, api, oracles, wait};
use anyhow::{Context, Result};
use basalt_plan::host::Resource;
use serde_json::json;
use std::time::{Duration, Instant};

/// From the request to the domain that runs, on a host whose hypervisor costs nothing.
pub async fn overhead(house: &mut House, size: &Size) -> Result<Vec<Figure>> {
    let machine = house.add_host("quick").await?;
    house.until_ready("quick").await?;
    let pinned = |n: usize| api::vm(&format!("quick-{n}"), json!({"placement": {"host": "quick"}}));
    let (mut runs, mut done) = (vec![], vec![]);
    for n in 0..size.samples.min(100) {
        let started = Instant::now();
        let made: serde_json::Value = house.api.post(&house.api.path("vms"), &pinned(n)).await?;
        let id = basalt_model::VmId(serde_json::from_value(made["object"]["id"].clone())?);
        while machine.done(Resource::Vm(id), "starting") == 0 {
            tokio::time::sleep(Duration::from_micros(500)).await;
            if started.elapsed() > Duration::from_secs(20) {
                anyhow::bail!("quick-{n} does not start");
            }
        }
        runs.push(started.elapsed());
        let task = serde_json::from_value(made["task"].clone())?;
        house.api.completed(&task).await?;
        done.push(started.elapsed());
    }
    machine.kill().await;
    let (runs, done) = (Latencies::new(runs), Latencies::new(done));
    Ok(vec![
        Figure::new("create sent → domain runs, hypervisor at no cost", runs.text())
            .target("p50 ≤ 150 ms", runs.quantile(0.5) <= Duration::from_millis(150)),
        Figure::new("create sent → task seen completed", done.text()),
    ])
}

/// A fleet from empty; the house must be empty and its gateway the real program.
pub async fn converge(house: &mut House, target: &http::Target, size: &Size) -> Result<Vec<Figure>> {
    let (hosts, vms) = size.fleet;
    for n in 0..hosts {
        house.add_host(&format!("f{n}")).await?;
    }
    house.until_hosts_ready().await?;
    let pid = house.gateway.pid().context("the gateway is a program here")?;
    let (cpu, started) = (surroundings::cpu_time(pid)?, Instant::now());
    let path = house.api.path("vms");
    let mut connection = http::Connection::open(target).await?;
    for n in 0..vms {
        let body = api::vm(&format!("fleet-{n}"), json!({"memory_bytes": 64 << 20}));
        let (status, body) = connection.call(&target.request("POST", &path, &body.to_string())).await?;
        anyhow::ensure!(status == 202, "{status}: {}", String::from_utf8_lossy(body));
    }
    let declared = started.elapsed();
    let url = house.owner_url();
    let open = "SELECT count(*) FROM (TABLE tasks UNION ALL TABLE tasks_finished) t WHERE kind = 'vm_create' AND state <> 'completed'";
    wait::within(Duration::from_secs(300), "every VM of the fleet runs", || async {
        tokio::time::sleep(Duration::from_millis(90)).await;
        Ok((oracles::count(url, open)? == 0).then_some(()))
    })
    .await?;
    let took = started.elapsed();
    let cpu = surroundings::cpu_time(pid)?.saturating_sub(cpu);
    house.runs_once()?;
    house.sound()?;
    let starts: u32 = house.hosts.iter().map(|m| m.sim.count("starting")).sum();
    anyhow::ensure!(starts as usize == vms, "{starts} starts for {vms} VMs");
    let used: std::collections::BTreeSet<_> =
        oracles::psql(url, "SELECT DISTINCT host_id FROM placements")?.into_iter().collect();
    Ok(vec![
        Figure::new(
            format!("{vms} VMs on {hosts} simulated hosts, from empty"),
            format!("{:.1} s, {:.0} VMs/s", took.as_secs_f64(), vms as f64 / took.as_secs_f64()),
        )
        .target("all run, none twice", true)
        .floor(format!(
            "declared in {:.1} s by one client; {} hosts used",
            declared.as_secs_f64(),
            used.len()
        )),
        Figure::new("gateway's CPU time for that", format!("{:.1} s", cpu.as_secs_f64())),
    ])
}
