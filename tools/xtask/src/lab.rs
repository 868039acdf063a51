//! `up`, `status`, `drill`, `down`: prepares the machine and the binaries, then hands over to `basalt-lab`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::checkout::{Checkout, succeeds};
use crate::packages::ensure_packages;
use crate::stages::seconds;

/// Every crate whose binary the lab starts, and the lab itself.
const CRATES: [&str; 5] =
    ["basalt-gateway", "basalt-agent", "basalt-image-service", "basalt-cli", "basalt-lab"];

/// The profile whose binaries the lab runs. The unoptimised one: the first build is what a newcomer waits for.
const PROFILE_FOLDER: &str = "debug";

/// Does not return when all goes well: the process becomes `basalt-lab <verb> <args>`.
///
/// # Errors
/// When packages are missing and cannot be installed, or the lab's binary cannot be started.
pub fn run(checkout: &Checkout, verb: &str, args: &[String]) -> Result<bool> {
    let bin_dir = checkout.target.join(PROFILE_FOLDER);
    let lab = bin_dir.join("basalt-lab");
    let wants_help = args.iter().any(|arg| arg == "--help" || arg == "-h");
    // What only looks at or stops a running house must not wait for a build; and a drill must break what runs, not
    // replace it underneath.
    if (verb == "up" && !wants_help) || !lab.is_file() {
        if verb == "up" {
            announce();
        }
        timed("packages", || ensure_packages(&checkout.target))?;
        timed("build", || build(checkout))?;
    }
    start(checkout, &lab, &bin_dir, verb, args)
}

fn announce() {
    println!("This will, in order:");
    println!("  1. install the Debian packages that are missing (once, named below)");
    println!("  2. build gateway, agent, image service, command line and lab");
    println!(
        "  3. start a private PostgreSQL, the three components and the hosts (one, or --hosts N), all under one data folder"
    );
    println!("  4. make a small guest image, upload it, and run one VM from it on each host");
    println!("Nothing of the machine's own is started or changed; `cargo xtask down` stops it all.\n");
}

fn timed(name: &str, stage: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    stage()?;
    println!("{name}: {}", seconds(started.elapsed()));
    Ok(())
}

fn build(checkout: &Checkout) -> Result<()> {
    let packages = CRATES.iter().flat_map(|name| ["--package", name]);
    let mut command = checkout.cargo(["build", "--locked", "--bins"]);
    if !succeeds(command.args(packages))? {
        bail!("the build failed; the compiler's words are above");
    }
    Ok(())
}

fn start(checkout: &Checkout, lab: &Path, bin_dir: &Path, verb: &str, args: &[String]) -> Result<bool> {
    let mut command = lab_command(lab)?;
    // The lab keeps its data folder where it is started, and every verb must find the same one.
    command.current_dir(&checkout.root).arg(verb);
    if verb == "up" {
        command.arg("--bin-dir").arg(bin_dir);
    }
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("starting {}", lab.display()))
}

/// The lab makes namespaces and switches, so it needs root; as another user it is started through sudo.
fn lab_command(lab: &Path) -> Result<Command> {
    let id = Command::new("id").arg("-u").output().context("starting id")?;
    if id.stdout.starts_with(b"0\n") {
        return Ok(Command::new(lab));
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(lab);
    Ok(command)
}
