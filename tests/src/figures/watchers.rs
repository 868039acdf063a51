//! Many open watches: what the gateway spends on them while the truth moves.

use super::{Figure, Size, feed, http, surroundings};
use crate::House;
use anyhow::{Context, Result, ensure};
use basalt_store::{Options, Store};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Revisions a second.
const REVISIONS: u32 = 100;
/// Of so many watchers one sees a revision, in the run in which not all do.
const ONE_OF: usize = 10;

/// All of them see every revision, then a tenth of them does.
pub async fn measure(house: &House, target: &http::Target, size: &Size) -> Result<Vec<Figure>> {
    let mut figures = run(house, target, size, 1).await?;
    figures.extend(run(house, target, size, ONE_OF).await?);
    Ok(figures)
}

async fn run(house: &House, target: &http::Target, size: &Size, one_of: usize) -> Result<Vec<Figure>> {
    let pid = house.gateway.pid().context("the gateway is a program here")?;
    let empty = surroundings::resident_bytes(pid)?;
    let (events, resyncs) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut readers = Vec::with_capacity(size.watchers);
    for n in 0..size.watchers {
        let kinds = if n % one_of == 0 { "tenant" } else { "image" };
        let request = target.request("GET", &format!("/v1/watch?kinds={kinds}"), "");
        let mut stream = http::Connection::open(target).await?;
        let (events, resyncs) = (Arc::clone(&events), Arc::clone(&resyncs));
        stream.begin(&request).await?;
        readers.push(tokio::spawn(async move {
            // It ends with the connection.
            while let Ok(text) = stream.some().await {
                let count = |word: &[u8]| text.windows(word.len()).filter(|w| w == &word).count() as u64;
                events.fetch_add(count(b"event: upsert"), Ordering::Relaxed);
                resyncs.fetch_add(count(b"event: resync"), Ordering::Relaxed);
            }
        }));
    }
    let store =
        Store::connect(&house.truth.url, Options { max_connections: 2, ..Options::default() }).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (cpu, begun) = (surroundings::cpu_time(pid)?, Instant::now());
    let mut pace = tokio::time::interval(Duration::from_secs(1) / REVISIONS);
    let revisions = u64::from(REVISIONS) * size.seconds * 2;
    for _ in 0..revisions {
        pace.tick().await;
        feed::commit(&store).await?;
    }
    let took = begun.elapsed().as_secs_f64();
    let cpu = surroundings::cpu_time(pid)?.saturating_sub(cpu).as_secs_f64();
    let full = surroundings::resident_bytes(pid)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    store.close().await;
    let (events, resyncs) = (events.load(Ordering::Relaxed), resyncs.load(Ordering::Relaxed));
    let expected = revisions * (size.watchers / one_of) as u64;
    ensure!(events > 0, "nothing was watched");
    let cores = cpu / took;
    let who = if one_of == 1 { "all of them".to_owned() } else { format!("one of {one_of}") };
    Ok(vec![
        Figure::new(
            format!(
                "processor of the gateway, {} watchers, {:.0} revisions/s seen by {who}",
                size.watchers,
                revisions as f64 / took
            ),
            format!("{:.0} % of a core", 100.0 * cores),
        )
        .target("< 1 core", cores < 1.0)
        .floor(format!(
            "{:.0} events/s, {:.1} % of all arrived within a second, {resyncs} told to begin anew",
            events as f64 / took,
            100.0 * events as f64 / expected as f64
        )),
        Figure::new(
            format!("RSS of the gateway with them, {who}"),
            format!("{} (before: {})", surroundings::mib(full), surroundings::mib(empty)),
        ),
    ])
}
