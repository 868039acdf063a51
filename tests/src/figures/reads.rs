//! GET of one VM and LIST of a hundred, with authorisation and row level security, from PostgreSQL.

use super::{Figure, Latencies, Size, floor, http, median};
use crate::{House, api, oracles};
use anyhow::Result;
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Connections at once.
const CONNECTIONS: usize = 16;

/// Declares VMs until there are as many as the size says.
pub async fn fill(house: &House, target: &http::Target, size: &Size) -> Result<()> {
    loop {
        let there = usize::try_from(oracles::count(house.owner_url(), "SELECT count(*) FROM vms")?)?;
        if there >= size.rows {
            return Ok(());
        }
        let (path, target_of) = (house.api.path("vms"), target.clone());
        let seed = there as u64;
        let make = move |n: u64| {
            let body = api::vm(&format!("fill-{seed}-{n}"), json!({"memory_bytes": 64 << 20}));
            target_of.request("POST", &path, &body.to_string())
        };
        let seconds = ((size.rows - there) as f64 / 600.0).clamp(0.5, 10.0);
        http::load(target, CONNECTIONS, Duration::from_secs_f64(seconds), 202, make).await?;
    }
}

/// Measures both.
pub async fn measure(house: &House, target: &http::Target, size: &Size) -> Result<Vec<Figure>> {
    fill(house, target, size).await?;
    let rows = oracles::count(house.owner_url(), "SELECT count(*) FROM vms")?;
    let scripts = floor::read_scripts(house.owner_url())?;
    let bare = floor::pgbench(house.owner_url(), &scripts.bare, CONNECTIONS, size.seconds)?.rate;
    let ids: Arc<Vec<String>> =
        Arc::new(oracles::psql(house.owner_url(), "SELECT id FROM vms ORDER BY random() LIMIT 5000")?);
    let one = {
        let (target, ids, base) = (target.clone(), ids.clone(), house.api.path("vms"));
        move |n: u64| target.request("GET", &format!("{base}/{}", ids[n as usize % ids.len()]), "")
    };
    let list = {
        let (target, base) = (target.clone(), house.api.path("vms"));
        move |_| target.request("GET", &format!("{base}?limit=100"), "")
    };
    let (rate, latencies, floor) = medians(house, target, size, one, &scripts.whole).await?;
    let mut out = vec![
        Figure::new(format!("GET one VM at {rows} rows, {CONNECTIONS} connections"), format!("{rate:.0}/s"))
            .target("≥ 8000/s and ≥ 25 % of the floor", rate >= 8000.0 && rate >= floor / 4.0)
            .floor(format!(
                "{floor:.0}/s of the same transaction: {:.0} %; {bare:.0}/s by key alone: {:.0} %",
                100.0 * rate / floor,
                100.0 * rate / bare
            )),
        Figure::new("GET one VM, latency", latencies.text())
            .target("p99 ≤ 5 ms", latencies.quantile(0.99) <= Duration::from_millis(5)),
    ];
    let (rate, latencies, floor) = medians(house, target, size, list, &scripts.page).await?;
    out.extend([
        Figure::new(
            format!("LIST 100 VMs at {rows} rows, {CONNECTIONS} connections"),
            format!("{rate:.0}/s"),
        )
        .target("≥ 3000/s", rate >= 3000.0)
        .floor(format!("{floor:.0}/s of the same rows: {:.0} %", 100.0 * rate / floor)),
        Figure::new("LIST 100 VMs, latency", latencies.text())
            .target("p99 ≤ 20 ms", latencies.quantile(0.99) <= Duration::from_millis(20)),
    ]);
    Ok(out)
}

async fn medians(
    house: &House,
    target: &http::Target,
    size: &Size,
    make: impl Fn(u64) -> Vec<u8> + Clone + Send + Sync + 'static,
    script: &str,
) -> Result<(f64, Latencies, f64)> {
    let (mut rates, mut floors, mut latencies) = (vec![], vec![], Latencies::default());
    let time = Duration::from_secs(size.seconds);
    http::load(target, CONNECTIONS, Duration::from_millis(500), 200, make.clone()).await?;
    for _ in 0..size.runs {
        let run = http::load(target, CONNECTIONS, time, 200, make.clone()).await?;
        rates.push(run.rate);
        latencies = run.latencies;
        floors.push(floor::pgbench(house.owner_url(), script, CONNECTIONS, size.seconds)?.rate);
    }
    Ok((median(rates), latencies, median(floors)))
}

/// What an idle connection pays for one answer: the floor under every other latency.
pub async fn round_trip(target: &http::Target) -> Result<Figure> {
    let health = {
        let target = target.clone();
        move |_| target.request("GET", "/healthz", "")
    };
    let run = http::load(target, 1, Duration::from_secs(1), 200, health).await?;
    Ok(Figure::new(
        "one answer without the database (/healthz), one connection",
        format!("p50 {} µs", run.latencies.quantile(0.5).as_micros()),
    ))
}
