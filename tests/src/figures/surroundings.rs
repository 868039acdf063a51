//! What the figures were taken on: cores, load, the disk's patience, memory of processes.

use super::{Figure, Latencies};
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    io::{Seek, Write},
    path::Path,
    time::{Duration, Instant},
};

/// The machine.
pub fn describe(data_dir: Option<&Path>) -> Result<Vec<Figure>> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")?.split(':').nth(1)).unwrap_or(" unknown");
    let cores = std::thread::available_parallelism()?;
    let mut out = vec![
        Figure::new("machine", format!("{cores} cores,{model}")),
        Figure::new("load average before", load_average()?),
    ];
    if let Some(dir) = data_dir {
        let l = fdatasync(dir, 200)?;
        let us = |share| format!("{} µs", l.quantile(share).as_micros());
        out.push(Figure::new("fdatasync of 8 KiB", format!("p50 {} p99 {}", us(0.5), us(0.99))));
    }
    Ok(out)
}

/// The three load averages.
pub fn load_average() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

fn fdatasync(dir: &Path, times: usize) -> Result<Latencies> {
    let mut file = tempfile::tempfile_in(dir)?;
    let page = [7u8; 8192];
    let mut all = Vec::with_capacity(times);
    for _ in 0..times {
        file.rewind()?;
        file.write_all(&page)?;
        let started = Instant::now();
        File::sync_data(&file)?;
        all.push(started.elapsed());
    }
    Ok(Latencies::new(all))
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kib * 1024)
}

/// Processor time that a process has used.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    // The kernel counts in hundredths of a second for user space on every architecture that is supported.
    Ok(Duration::from_millis(ticks * 10))
}

/// Mebibytes for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
