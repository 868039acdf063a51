//! `cargo xtask ci`: what a change must pass, cheapest first, every stage timed.
//!
//! Clippy and the tests share one build folder, one profile and one set of features, so that build scripts, macros and
//! the C parts are built once.

use anyhow::Result;

use crate::checkout::{Checkout, succeeds};
use crate::packages::ensure_packages;
use crate::stages::{Outcome, Stages};
use crate::{deny, test, tidy};

/// Artefacts that tests compare with what the code says, and that nothing in this run may have changed.
const FROZEN: [&str; 2] = ["schema.sql", "openapi.json"];

/// Runs all stages and prints their table. A failed stage does not hide what the later ones would have said, except
/// that nothing is built where packages are missing.
///
/// # Errors
/// Never for a failed stage; those are in the table.
pub fn run(checkout: &Checkout) -> Result<bool> {
    let mut stages = Stages::default();
    stages.run("fmt", || succeeds(&mut checkout.cargo(["fmt", "--all", "--check"])));
    stages.run("tidy", || tidy::run(&checkout.root));
    let packages = stages.run("packages", || ensure_packages(&checkout.target).map(|()| true));
    stages.run("deny", || deny::run(checkout));
    if packages == Outcome::Passed {
        stages.run("clippy", || clippy(checkout));
        stages.run("test", || test::unit_tests(checkout, &[]));
        stages.run("doc tests", || test::doc_tests(checkout));
        stages.run("frozen artefacts", || frozen(checkout));
    }
    println!("\n{}", stages.table());
    Ok(stages.all_passed())
}

fn clippy(checkout: &Checkout) -> Result<bool> {
    let mut command = checkout.cargo([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--keep-going",
        "--",
        "--deny",
        "warnings",
    ]);
    succeeds(&mut command)
}

/// The tests fail when an artefact differs from the code; this catches one that a test rewrote in passing, or that
/// was never added.
fn frozen(checkout: &Checkout) -> Result<bool> {
    let names = FROZEN.map(|name| format!(":(glob)**/{name}"));
    let mut command = checkout.command("git", ["status", "--porcelain", "--untracked-files=all", "--"]);
    let output = command.args(&names).output()?;
    let changed = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && changed.is_empty() {
        return Ok(true);
    }
    println!("changed and not committed (write them anew with BASALT_BLESS=1 cargo xtask test):\n{changed}");
    succeeds(checkout.command("git", ["--no-pager", "diff", "--stat", "--"]).args(&names))?;
    Ok(false)
}
