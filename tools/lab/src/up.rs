//! `up`: starts everything, does the main job through the public API, and says what to try next.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bootstrap::{access_file, bootstrap, client};
use crate::guest_image::GuestImage;
use crate::journey::{self, GuestDoor, Outcome};
use crate::lab::{GATEWAY, Lab};

/// Starts everything and does the main job; `bare` starts the parts whose programs are there, and no more. Gives
/// the text that a newcomer reads.
pub async fn up(lab: &Arc<Lab>, bin_dir: &Path, bare: bool) -> Result<String> {
    let started = Instant::now();
    if bare {
        lab.start()?;
        return Ok(format!("started after {:.1} s\n", started.elapsed().as_secs_f64()));
    }
    let image = make_image(lab);
    let access = bootstrap(lab, bin_dir).await?;
    println!("cluster started after {:.1} s", started.elapsed().as_secs_f64());
    let image = tokio::task::spawn_blocking(move || image.join()).await?;
    let Ok(image) = image else { bail!("making the guest image panicked") };
    let image = image.context("making the guest image")?;
    println!("guest image of {}: {} bytes", image.kernel, image.size_bytes);
    let hosts: Vec<String> = lab.hosts().iter().map(|host| host.name().to_owned()).collect();
    let outcome = journey::run_on(&client(&access)?, &image.path, &HostDoor(lab), &hosts).await?;
    Ok(summary(lab, bin_dir, &outcome, started.elapsed()))
}

/// The image is made while the cluster starts; both are mostly waiting.
fn make_image(lab: &Arc<Lab>) -> std::thread::JoinHandle<Result<GuestImage>> {
    let lab = Arc::clone(lab);
    std::thread::spawn(move || {
        lab.guest_image(&mut |step| println!("guest image {}/{}: {}", step.done, step.total, step.now))
    })
}

/// Fetches pages of guests from inside the lab's hosts.
struct HostDoor<'a>(&'a Lab);

impl GuestDoor for HostDoor<'_> {
    fn fetch(&self, host: &str, address: Ipv4Addr) -> Result<String> {
        Ok(self.0.host(host)?.http_get(address, "/")?.body)
    }
}

/// The token that the gateway printed at its latest start without users, if it did.
pub fn first_boot_token(lab: &Lab) -> Option<String> {
    let log = fs::read_to_string(lab.layout().log_file(GATEWAY)).ok()?;
    let line = log.lines().rev().find(|l| l.starts_with("First-boot token"))?;
    line.rsplit(' ').next().map(str::to_owned)
}

fn summary(lab: &Lab, bin_dir: &Path, outcome: &Outcome, took: Duration) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\nVM {} is {:?}, address {}",
        outcome.vm.metadata.name, outcome.vm.phase, outcome.address
    );
    if let Some(accelerator) = &outcome.vm.observed.accelerator {
        let _ = writeln!(text, "it runs under {accelerator}{}", explain(accelerator));
    }
    let _ = writeln!(text, "the guest says: {}\n", outcome.answer);
    if !outcome.others.is_empty() {
        let _ = writeln!(text, "  {:<12} {:<8} {:<16} THE GUEST SAYS", "VM", "HOST", "ADDRESS");
        let first = (&outcome.vm, outcome.address, &outcome.answer);
        let others = outcome.others.iter().map(|g| (&g.vm, g.address, &g.answer));
        for (vm, address, answer) in std::iter::once(first).chain(others) {
            let host = vm.placement.as_ref().map_or(String::new(), |p| p.host.to_string());
            let _ = writeln!(
                text,
                "  {:<12} {host:<8} {:<16} {answer}",
                vm.metadata.name.as_str(),
                address.to_string()
            );
        }
        text.push('\n');
    }
    for (stage, time) in &outcome.stages {
        let _ = writeln!(text, "  {stage:<32} {:>6.1} s", time.as_secs_f64());
    }
    let _ = writeln!(text, "  {:<32} {:>6.1} s\n", "everything", took.as_secs_f64());
    let _ = writeln!(text, "API               https://{}", lab.endpoints().users);
    let _ = writeln!(text, "CA certificate    {}", lab.state_dirs().ca_file().display());
    if let Some(token) = first_boot_token(lab) {
        let _ = writeln!(text, "first-boot token  {token}");
    }
    let basalt = bin_dir.join("basalt");
    let basalt = basalt.display();
    let _ = writeln!(text, "\nTry:\n  export BASALT_CONFIG={}", access_file(lab).display());
    for line in ["get vms", "describe vm web-1", "explain web-1", "watch", "stop web-1", "start web-1"] {
        let _ = writeln!(text, "  {basalt} {line}");
    }
    let _ = writeln!(text, "  cargo xtask drill     # break it in every way and watch it come back");
    text
}

fn explain(accelerator: &str) -> &'static str {
    match accelerator {
        "tcg" => {
            ": no usable KVM was found by booting a probe, so guests are emulated (slower, otherwise the same)"
        }
        _ => "",
    }
}
