//! From the start of the gateway's program to ready, with a full database.

use super::{Figure, Size, median};
use crate::{House, oracles};
use anyhow::Result;
use std::time::{Duration, Instant};

/// Kills and starts the gateway, and times it.
pub async fn measure(house: &mut House, size: &Size) -> Result<Vec<Figure>> {
    let vms = oracles::count(house.owner_url(), "SELECT count(*) FROM vms")?;
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(house.place.ca_pem.as_bytes())?])
        .pool_max_idle_per_host(0)
        .build()?;
    let mut all = vec![];
    for _ in 0..size.runs.max(3) {
        house.gateway.kill()?;
        let started = Instant::now();
        house.gateway.start()?;
        while !house.gateway.is_ready(&http).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
            anyhow::ensure!(
                started.elapsed() < Duration::from_secs(60),
                "not ready: {}",
                house.gateway.log()
            );
        }
        all.push(started.elapsed().as_secs_f64());
    }
    let seconds = median(all);
    Ok(vec![
        Figure::new(
            format!("gateway's start to ready with {vms} VMs"),
            format!("{:.0} ms", seconds * 1000.0),
        )
        .target("≤ 1 s with 10k VMs", seconds <= 1.0),
    ])
}
