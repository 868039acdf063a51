//! `cargo xtask deny`: banned crates, licences and sources, by cargo-deny, which is built once into the build folder.
//!
//! Advisories are left out here: their database is a git repository that a closed machine cannot fetch, and a check
//! that passes or fails by the day does not belong into what a change must pass.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::checkout::{Checkout, succeeds, which};

const VERSION: &str = "0.20.2";

/// Checks the whole dependency graph against `deny.toml`.
///
/// # Errors
/// When cargo cannot be started.
pub fn run(checkout: &Checkout) -> Result<bool> {
    let Some(tool) = tool(checkout)? else {
        eprintln!("cargo-deny {VERSION} could not be installed");
        return Ok(false);
    };
    let mut command = checkout.command(
        tool,
        ["--locked", "--all-features", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"],
    );
    succeeds(&mut command)
}

/// The cargo-deny of this version: from `PATH`, from the build folder, or built now.
fn tool(checkout: &Checkout) -> Result<Option<PathBuf>> {
    let tools = checkout.target.join("tools/bin");
    let ours = tools.join("cargo-deny");
    if let Some(found) = which("cargo-deny", &tools) {
        let output = Command::new(&found).arg("--version").output();
        let version = output
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default();
        if version.ends_with(VERSION) {
            return Ok(Some(found));
        }
    }
    println!("Installing cargo-deny {VERSION} into the build folder (once, about a minute)");
    Ok(install_tool(checkout, "cargo-deny", VERSION, &["--no-default-features"])?.then_some(ours))
}

/// Builds a tool of the registry into `target/tools`, without optimisation: it runs for seconds and is built for
/// minutes. What its build leaves is removed, because nothing else uses it.
///
/// # Errors
/// When cargo cannot be started.
pub fn install_tool(checkout: &Checkout, name: &str, version: &str, options: &[&str]) -> Result<bool> {
    let tools = checkout.target.join("tools");
    let build = tools.join("build");
    let mut command =
        checkout.cargo(["install", "--quiet", "--locked", "--debug", name, "--version", version]);
    command.args(options).arg("--root").arg(&tools).stdin(Stdio::null());
    command.env("CARGO_TARGET_DIR", &build).env("CARGO_PROFILE_DEV_DEBUG", "0");
    let installed = succeeds(&mut command)?;
    std::fs::remove_dir_all(&build).ok();
    Ok(installed)
}
