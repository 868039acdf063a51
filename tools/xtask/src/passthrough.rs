//! `bench` and `soak`: the optimised binaries of the same name in `tests/`.

use anyhow::Result;

use crate::checkout::{Checkout, succeeds};
use crate::packages::ensure_packages;

/// Builds with optimisation, because figures of an unoptimised build say nothing, and passes the arguments on.
///
/// # Errors
/// When packages are missing and cannot be installed, or cargo cannot be started.
pub fn run(checkout: &Checkout, name: &str, args: &[String]) -> Result<bool> {
    ensure_packages(&checkout.target)?;
    let mut command =
        checkout.cargo(["run", "--release", "--locked", "--package", "basalt-tests", "--bin", name, "--"]);
    succeeds(command.args(args))
}
