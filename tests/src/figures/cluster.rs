//! A thousand hosts on one gateway: what they cost it while nothing happens, how fast an intent is in the flows, and
//! how soon all of them are back after the gateway was killed.

use super::{Figure, Latencies, Size, http, surroundings};
use crate::{House, api, machine::Machine, oracles, wait};
use anyhow::{Context, Result, ensure};
use basalt_agent::Pace;
use basalt_model::VmId;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// VMs that share a network.
const PER_NETWORK: usize = 200;
/// Connections that declare VMs.
const CONNECTIONS: usize = 4;
/// Groups whose rules change, each with one VM.
const GROUPS: usize = 10;
/// How long the fleet is left alone.
const QUIET: Duration = Duration::from_secs(60);
/// How long anything of it may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// The house must be empty and its gateway the real program.
pub async fn measure(house: &mut House, target: &http::Target, size: &Size) -> Result<Vec<Figure>> {
    let (hosts, vms) = size.cluster;
    house.pace = Pace::default();
    for n in 0..hosts {
        house.add_host(&format!("c{n}")).await?;
    }
    let url = house.owner_url().to_owned();
    let ready = format!("SELECT (count(*) = {hosts})::int FROM host_facts");
    wait::within(PATIENCE, "every host has told its facts", || async {
        tokio::time::sleep(Duration::from_millis(490)).await;
        Ok((oracles::count(&url, &ready)? == 1).then_some(()))
    })
    .await?;
    let mut figures = declare(house, target, vms).await?;
    figures.extend(quiet(house).await?);
    figures.push(flows(house, size).await?);
    figures.push(reconnect(house).await?);
    house.runs_once()?;
    Ok(figures)
}

async fn declare(house: &House, target: &http::Target, vms: usize) -> Result<Vec<Figure>> {
    let pid = house.gateway.pid().context("the gateway is a program here")?;
    for n in 0..vms.div_ceil(PER_NETWORK) {
        let cidr = format!("10.{}.{}.0/22", 64 + n / 64, n % 64 * 4);
        let body = json!({"name": format!("net-{n}"), "spec": {"cidr": cidr}});
        house.api.post::<Value>(&house.api.path("networks"), &body).await?;
    }
    let (cpu, started) = (surroundings::cpu_time(pid)?, Instant::now());
    let path = house.api.path("vms");
    let share = |first: usize| {
        let path = &path;
        async move {
            let mut connection = http::Connection::open(target).await?;
            for n in (first..vms).step_by(CONNECTIONS) {
                let nics = json!([{"network": format!("net-{}", n / PER_NETWORK)}]);
                let body = api::vm(&format!("v{n}"), json!({"memory_bytes": 64 << 20, "nics": nics}));
                let (status, body) =
                    connection.call(&target.request("POST", path, &body.to_string())).await?;
                ensure!(status == 202, "{status}: {}", String::from_utf8_lossy(body));
            }
            Ok(())
        }
    };
    futures::future::try_join_all((0..CONNECTIONS).map(share)).await?;
    let declared = started.elapsed();
    let url = house.owner_url();
    let open = "SELECT count(*) FROM tasks WHERE kind = 'vm_create' AND state <> 'completed'";
    wait::within(PATIENCE, "every VM runs", || async {
        tokio::time::sleep(Duration::from_millis(490)).await;
        Ok((oracles::count(url, open)? == 0).then_some(()))
    })
    .await?;
    let (took, cpu) = (started.elapsed(), surroundings::cpu_time(pid)?.saturating_sub(cpu));
    let hosts = house.hosts.len();
    Ok(vec![
        Figure::new(
            format!("{vms} VMs on {hosts} simulated hosts, from empty"),
            format!("{:.0} s, {:.0} VMs/s", took.as_secs_f64(), vms as f64 / took.as_secs_f64()),
        )
        .floor(format!("declared in {:.0} s over {CONNECTIONS} connections", declared.as_secs_f64())),
        Figure::new("the gateway meanwhile", format!("{:.2} cores", cpu.as_secs_f64() / took.as_secs_f64())),
    ])
}

/// What the fleet costs while nobody wants anything.
async fn quiet(house: &House) -> Result<Vec<Figure>> {
    let pid = house.gateway.pid().context("the gateway is a program here")?;
    // Until the last reports have come: the agents report at least every ten seconds.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let statements =
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let (cpu, before) = (surroundings::cpu_time(pid)?, oracles::count(house.owner_url(), statements)?);
    let started = Instant::now();
    tokio::time::sleep(QUIET).await;
    let seconds = started.elapsed().as_secs_f64();
    let cores = surroundings::cpu_time(pid)?.saturating_sub(cpu).as_secs_f64() / seconds;
    let commits = (oracles::count(house.owner_url(), statements)? - before) as f64 / seconds;
    let resident = surroundings::resident_bytes(pid)?;
    let hosts = house.hosts.len();
    Ok(vec![
        Figure::new(format!("the gateway with {hosts} hosts at rest"), format!("{cores:.2} cores"))
            .target("≤ 1 core", cores <= 1.0)
            .floor(format!("{commits:.1} transactions/s in the database")),
        Figure::new("RSS of the gateway then", surroundings::mib(resident))
            .target("≤ 512 MB", resident <= 512_000_000),
    ])
}

/// From a changed rule to the flows of the one host that it concerns.
async fn flows(house: &House, size: &Size) -> Result<Figure> {
    let groups = house.api.path("security-groups");
    let rule = |port: usize| json!({"rules": [{"direction": "ingress", "protocol": "tcp", "ports": {"from": port, "to": port}}]});
    let mut members: Vec<Arc<Machine>> = Vec::new();
    for n in 0..GROUPS {
        let group = format!("group-{n}");
        house.api.post::<Value>(&groups, &json!({"name": group, "spec": rule(80)})).await?;
        let host = &house.hosts[n * house.hosts.len() / GROUPS];
        let wants =
            json!({"placement": {"host": host.name}, "security_groups": [group], "memory_bytes": 64 << 20});
        let (vm, task) = house.api.create_vm(&format!("member-{n}"), wants).await?;
        house.api.completed(&task).await?;
        ensure!(host.runs(VmId(vm.metadata.id)), "member-{n} runs where it was wanted");
        members.push(host.clone());
    }
    let mut all = Vec::new();
    for n in 0..size.samples {
        let (group, host) = (n % GROUPS, &members[n % GROUPS]);
        let (path, before) = (format!("{groups}/group-{group}"), host.sim.count("setting flows"));
        let found: Value = house.api.get(&path).await?;
        let request = house.api.request(reqwest::Method::PUT, &path);
        let generation = found["generation"].as_i64().context("a generation")?;
        let request = request.header("if-match", format!("\"{generation}\""));
        let body = json!({"labels": {}, "spec": rule(1000 + n)});
        let started = Instant::now();
        house.api.send(request.json(&body)).await?.ok::<Value>()?;
        while host.sim.count("setting flows") == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ensure!(started.elapsed() < PATIENCE, "the flows of {} stay as they are", host.name);
        }
        all.push(started.elapsed());
    }
    let all = Latencies::new(all);
    let met = all.quantile(0.99) <= Duration::from_secs(1);
    let what = format!("rule changed → flows set on its host, {} agents", house.hosts.len());
    Ok(Figure::new(what, all.text()).target("p99 ≤ 1 s", met))
}

/// All agents after a kill of the gateway: their polls wait again.
async fn reconnect(house: &mut House) -> Result<Figure> {
    let hosts = house.hosts.len();
    house.gateway.kill()?;
    let started = Instant::now();
    house.gateway.start()?;
    wait::within(PATIENCE, "every agent waits for news again", || async {
        tokio::time::sleep(Duration::from_millis(90)).await;
        let Value::String(metrics) = house.api.get::<Value>("/metrics").await? else { return Ok(None) };
        let waiting = metrics.lines().find_map(|l| l.strip_prefix("basalt_agents_waiting "));
        Ok(waiting.and_then(|n| n.parse::<usize>().ok()).filter(|n| *n >= hosts).map(|_| ()))
    })
    .await?;
    let took = started.elapsed();
    Ok(Figure::new(
        format!("gateway killed and started → all {hosts} agents wait for news again"),
        format!("{:.1} s", took.as_secs_f64()),
    )
    .target("≤ 10 s", took <= Duration::from_secs(10)))
}
