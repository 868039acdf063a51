//! `bench` and `soak`: the optimised binaries of the same name in `tests/`; `soak --krt` is that of the engine alone.

use anyhow::Result;

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
    // In one build, so that what they share is compiled once; the measured programs stand beside the measuring one.
    let programs = ["basalt-gateway", "basalt-image-service", "basalt-tests"];
    let packages = programs.iter().flat_map(|p| ["--package", p]);
    let build = ["build", "--release", "--locked", "--bins"].into_iter().chain(packages);
    if !succeeds(&mut checkout.cargo(build))? {
        return Ok(false);
    }
    succeeds(&mut checkout.command(checkout.target.join("release").join(name), args))
}
