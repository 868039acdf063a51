//! `cargo xtask statics`: the programs that run in foreign images, linked statically: the bridge, and what tests run.
//!
//! With glibc, which the build needs anyway, and not with musl, whose target a closed machine cannot fetch. They stand
//! in a folder of their own, because naming a target keeps these flags from what the build itself runs.

use anyhow::Result;

use crate::checkout::{Checkout, succeeds};

/// The crates whose programs these are.
const CRATES: [&str; 2] = ["basalt-bridge", "basalt-test-programs"];

/// Builds them into `target/<arch>-unknown-linux-gnu/debug`.
///
/// # Errors
/// When cargo cannot be started.
pub fn run(checkout: &Checkout) -> Result<bool> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // Symbols would be most of what is copied into each image.
    let flags = format!("target.{target}.rustflags=[\"-Ctarget-feature=+crt-static\", \"-Cstrip=symbols\"]");
    let mut build = checkout.cargo(["build", "--locked", "--bins", "--target", &target, "--config", &flags]);
    // Flags of the environment would take the place of these.
    build.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    succeeds(build.args(CRATES.iter().flat_map(|name| ["--package", name])))
}
