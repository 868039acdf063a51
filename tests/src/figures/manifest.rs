//! From an accepted intent to the agent that holds it: a real enrolled agent's long poll over mutual TLS.

use super::{Figure, Latencies, Size, floor, ms};
use crate::House;
use anyhow::{Context, Result};
use basalt_agent::{
    host::{Host, sim::SimHost},
    link::{Gateway, Link},
};
use basalt_daemon::{Clock, SystemClock};
use basalt_wire::{
    agent::{Manifest, Report},
    rest::{Accepted, Vm},
};
use reqwest::Method;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use uuid::Uuid;

/// Hosts that poll. A manifest is sent whole, so how many VMs a host has is a part of the figure: with 300 samples up to
/// ten, as in the fleet of a thousand on a hundred hosts.
const HOSTS: usize = 30;
/// Statements one after the other from the commit of a new VM until its manifest is read: a pull of four, a placement of
/// two, a pull of five, a manifest of three, and the read.
const NEW_TRIPS: u32 = 15;
/// The same of a placed one: a pull of three, a manifest of three, and the read.
const PLACED_TRIPS: u32 = 7;

/// When an agent first held a VM at a generation.
type Held = Arc<Mutex<BTreeMap<(Uuid, i64), Instant>>>;

/// An enrolled host that polls and reports, and does nothing.
pub struct Poller {
    held: Held,
    news: watch::Receiver<u64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Poller {
    /// Enrols and begins to poll.
    pub async fn start(house: &mut House, name: &str) -> Result<Self> {
        let gateway = house.gateway.agents.clone();
        let machine = house.declare_host(name, json!({}), &gateway).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let boot = clock.new_id();
        let link = Arc::new(machine.enrol(clock.clone(), boot).await?);
        let facts = SimHost::new(name, clock.clone()).facts().await;
        let mut report = Report { agent_boot: boot, sequence: 1, facts: Some(facts), ..Report::default() };
        link.report(&report).await?;
        let (sender, news) = watch::channel(0);
        let held = Held::default();
        let polling = tokio::spawn(poll(link.clone(), held.clone(), sender, machine.id));
        let beating = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                report.sequence += 1;
                report.facts = None;
                // A beat that is lost is followed by another.
                let _ = link.report(&report).await;
            }
        });
        house.until_ready(name).await?;
        Ok(Self { held, news, tasks: vec![polling, beating] })
    }

    /// When the agent held a VM at a generation; waits for it.
    async fn held(&mut self, id: Uuid, generation: i64) -> Result<Instant> {
        loop {
            if let Some(at) = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&(id, generation))
            {
                return Ok(*at);
            }
            let waited = tokio::time::timeout(Duration::from_secs(10), self.news.changed()).await;
            waited.context("the manifest did not come")??;
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn poll(link: Arc<Link>, held: Held, news: watch::Sender<u64>, host: basalt_model::HostId) {
    let mut have = None;
    loop {
        let Ok(Some(fetched)) = link.manifest(have).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let at = Instant::now();
        have = Some(fetched.revision);
        if let Ok(manifest) = Manifest::read(&fetched.bytes, host) {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            for item in &manifest.items {
                held.entry((item.id, item.generation.0)).or_insert(at);
            }
        }
        news.send_modify(|n| *n += 1);
    }
}

/// Times one write: from its sending, and from its answer, to the agent that holds it.
async fn timed(
    house: &House,
    poller: &mut Poller,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<(Duration, Duration, Vm)> {
    let mut request = house.api.request(method, path);
    if let Some(body) = body {
        request = request.json(body);
    }
    let sent = Instant::now();
    let accepted: Accepted<Vm> = house.api.send(request).await?.ok()?;
    let answered = Instant::now();
    let vm = accepted.object;
    let held = poller.held(vm.metadata.id, vm.metadata.generation.0).await?;
    Ok((held - sent, held.saturating_duration_since(answered), vm))
}

/// Measures new VMs and changes of placed ones.
pub async fn measure(house: &mut House, size: &Size) -> Result<Vec<Figure>> {
    let mut pollers = Vec::with_capacity(HOSTS);
    for n in 0..HOSTS {
        pollers.push(Poller::start(house, &format!("poller-{n}")).await?);
    }
    let (mut new, mut placed) = ((vec![], vec![]), (vec![], vec![]));
    let path = house.api.path("vms");
    let mut made = Vec::with_capacity(size.samples);
    for n in 0..size.samples {
        let at = n % HOSTS;
        let pinned = json!({"placement": {"host": format!("poller-{at}")}});
        let body = crate::api::vm(&format!("timed-{n}"), pinned);
        let (sent, answered, vm) = timed(house, &mut pollers[at], Method::POST, &path, Some(&body)).await?;
        new.0.push(sent);
        new.1.push(answered);
        made.push(vm.metadata.id);
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    for (n, id) in made.into_iter().enumerate() {
        let path = house.api.path(&format!("vms/{id}/pause"));
        let (sent, answered, _) = timed(house, &mut pollers[n % HOSTS], Method::POST, &path, None).await?;
        placed.0.push(sent);
        placed.1.push(answered);
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    // Nothing can be quicker than the round trips that follow each other on the way.
    let trip = floor::pgbench(house.owner_url(), "SELECT 1;\n", 1, size.seconds)?.latency_ms;
    Ok([("new VM", new, 6, NEW_TRIPS), ("placed VM", placed, 3, PLACED_TRIPS)]
        .into_iter()
        .map(|(what, (sent, answered), wanted, trips)| {
            let (sent, answered) = (Latencies::new(sent), Latencies::new(answered));
            let reached = answered.quantile(0.5) <= Duration::from_millis(wanted)
                && answered.quantile(0.99) <= Duration::from_millis(25);
            Figure::new(format!("{what}: answer read → agent holds the manifest"), answered.text())
                .target(format!("p50 ≤ {wanted} ms, p99 ≤ 25 ms"), reached)
                .floor(format!(
                    "{trips} round trips of {:.0} µs (SELECT 1): {:.1} ms, and a flush; request sent → held: p50 {} p99 {}",
                    trip * 1e3,
                    trip * f64::from(trips),
                    ms(sent.quantile(0.5)),
                    ms(sent.quantile(0.99))
                ))
        })
        .collect())
}
