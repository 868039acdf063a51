//! A long run: millions of commits over a graph of every operator, with memory that must stay flat.
//!
//! `cargo run --release -p krt --example soak -- 10000000`
#![allow(clippy::disallowed_macros, clippy::print_stdout, reason = "an example talks")]
#![allow(
    clippy::disallowed_methods,
    reason = "a measurement reads the clock, its arguments and its own memory"
)]

mod world;

use std::time::Instant;

use world::World;

/// Commits between two looks.
const LAP: u64 = 100_000;
/// What the process may grow by after the first lap: allocators keep some.
const SLACK_KIB: u64 = 8 * 1024;

/// Resident memory of this process, where the system tells.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn main() -> Result<(), String> {
    let commits = match std::env::args().nth(1) {
        Some(text) => {
            text.parse::<u64>().map_err(|error| format!("commits: {text} is no number: {error}"))?
        }
        None => 10_000_000,
    };
    // Runs that panic are a part of the churn; everything else is to be seen.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some("an image that makes runs panic") {
            usual(info);
        }
    }));
    let mut world = World::new().map_err(|error| error.to_string())?;
    let start = Instant::now();
    let mut first = None;
    let mut done = 0;
    while done < commits {
        let lap = LAP.min(commits - done);
        (0..lap).for_each(|_| world.commit());
        done += lap;
        let held = world.rest();
        let differences = [world.graph.verify(), world.graph.verify_some(100, 0)].concat();
        if let Some(difference) = differences.first() {
            return Err(format!("after {done} commits the oracle differs: {difference:?}"));
        }
        let resident = resident_kib().unwrap_or(0);
        let (expected, resident_first) = first.get_or_insert_with(|| (held.clone(), resident));
        if *expected != held {
            return Err(format!(
                "after {done} commits the graph holds {held:?}, in the same state once {expected:?}"
            ));
        }
        if resident > *resident_first + SLACK_KIB {
            return Err(format!(
                "after {done} commits the process has {resident} KiB, at first {resident_first}"
            ));
        }
        println!("{done:>10} commits  {:>8.1?}  {resident} KiB resident  0 differences", start.elapsed());
    }
    let bytes: usize = world.graph.memory().iter().map(|(_, memory)| memory.total()).sum();
    println!("{done} commits in {:.1?}: memory flat, {bytes} bytes by the accounts", start.elapsed());
    Ok(())
}
