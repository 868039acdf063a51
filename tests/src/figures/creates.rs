//! How many creates a second are accepted, and how long the answer takes.

use super::{Figure, Size, floor, http, median, ms};
use crate::{House, api};
use anyhow::Result;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Connections at once; each waits for its answer before it asks again.
const CONNECTIONS: usize = 16;
/// Connections of the latency run: what one user feels beside a few others.
const FEW: usize = 4;

/// Measures, and leaves the VMs there for the reads.
pub async fn measure(house: &House, target: &http::Target, size: &Size) -> Result<Vec<Figure>> {
    let names = Arc::new(AtomicU64::new(0));
    let path = house.api.path("vms");
    let make = |target: &http::Target| {
        let (target, path, names) = (target.clone(), path.clone(), names.clone());
        move |_| {
            let n = names.fetch_add(1, Ordering::Relaxed);
            let body = api::vm(&format!("vm-{n}"), json!({"memory_bytes": 64 << 20}));
            target.request("POST", &path, &body.to_string())
        }
    };
    let seconds = Duration::from_secs(size.seconds);
    http::load(target, FEW, Duration::from_secs(1), 202, make(target)).await?;
    let script = floor::create_script(house.owner_url())?;
    let (mut rates, mut floors, mut p50, mut p99, mut few99) = (vec![], vec![], vec![], vec![], vec![]);
    let mut worst = Duration::ZERO;
    for _ in 0..size.runs {
        let run = http::load(target, CONNECTIONS, seconds, 202, make(target)).await?;
        rates.push(run.rate);
        p50.push(run.latencies.quantile(0.5).as_secs_f64());
        p99.push(run.latencies.quantile(0.99).as_secs_f64());
        worst = worst.max(run.latencies.quantile(1.0));
        let few = http::load(target, FEW, seconds / 2, 202, make(target)).await?;
        few99.push(few.latencies.quantile(0.99).as_secs_f64());
        floors.push(floor::pgbench(house.owner_url(), &script, CONNECTIONS, size.seconds)?.rate);
    }
    let (rate, floor) = (median(rates), median(floors));
    let [p50, p99, few99] = [p50, p99, few99].map(|all| Duration::from_secs_f64(median(all)));
    Ok(vec![
        Figure::new(format!("create accepted, {CONNECTIONS} connections"), format!("{rate:.0}/s"))
            .target("≥ 400/s", rate >= 400.0)
            .floor(format!(
                "{floor:.0}/s with the same rows in one statement: {:.0} %",
                100.0 * rate / floor
            )),
        Figure::new(
            format!("create answered, {CONNECTIONS} connections"),
            format!("p50 {} p99 {} max {}", ms(p50), ms(p99), ms(worst)),
        )
        .target("p99 ≤ 40 ms", p99 <= Duration::from_millis(40)),
        Figure::new(format!("create answered, {FEW} connections"), format!("p99 {}", ms(few99))),
    ])
}
