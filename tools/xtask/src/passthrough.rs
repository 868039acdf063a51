//! `bench` and `soak`: the optimised binaries of the same name in `tests/`; `soak --krt` is that of the engine alone, and
//! `soak --migrations` a test of the lab with more faults than CI takes.

use anyhow::{Context, Result, bail};

use crate::checkout::{Checkout, succeeds};
use crate::packages::ensure_packages;

/// Builds with optimisation, because figures of an unoptimised build say nothing, and passes the arguments on.
///
/// # Errors
/// When packages are missing and cannot be installed, or cargo cannot be started.
pub fn run(checkout: &Checkout, name: &str, args: &[String]) -> Result<bool> {
    if let ("soak", Some(("--krt", rest))) =
        (name, args.split_first().map(|(first, rest)| (first.as_str(), rest)))
    {
        let example = ["run", "--release", "--locked", "--package", "krt", "--example", "soak", "--"];
        return succeeds(checkout.cargo(example).args(rest));
    }
    ensure_packages(&checkout.target)?;
    if let ("soak", Some(("--migrations", rest))) =
        (name, args.split_first().map(|(first, rest)| (first.as_str(), rest)))
    {
        return migrations(checkout, rest);
    }
    // In one build, so that what they share is compiled once; the measured programs stand beside the measuring one.
    let programs = ["basalt-gateway", "basalt-image-service", "basalt-tests"];
    let packages = programs.iter().flat_map(|p| ["--package", p]);
    let build = ["build", "--release", "--locked", "--bins"].into_iter().chain(packages);
    if !succeeds(&mut checkout.cargo(build))? {
        return Ok(false);
    }
    succeeds(&mut checkout.command(checkout.target.join("release").join(name), args))
}

/// Faults of real migrations: so many points of each for whoever may fail, ten when nothing is said.
fn migrations(checkout: &Checkout, args: &[String]) -> Result<bool> {
    let points = match args {
        [] => 10,
        [number] => number.parse::<u32>().context("--migrations takes a number of points, 1 to 10")?,
        _ => bail!("--migrations takes one number"),
    };
    if !succeeds(&mut checkout.cargo(["build", "--locked", "--workspace", "--bins"]))? {
        return Ok(false);
    }
    // Beside a minute or so for each of its faults, nothing ends it.
    let mut test = checkout.cargo([
        "test",
        "--locked",
        "--package",
        "basalt-tests",
        "--test",
        "lab",
        "migration_faults",
    ]);
    succeeds(test.args(["--", "--nocapture"]).env("BASALT_MIGRATION_POINTS", points.to_string()))
}
