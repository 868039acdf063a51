//! Programs that run in a foreign image: linked statically, by `cargo xtask statics`.

use anyhow::{Context, Result};
use std::path::PathBuf;

/// A static program of this workspace, from the build folder that the running program stands in.
///
/// # Errors
/// When it is not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let found =
        me.ancestors().map(|dir| dir.join(&triple).join("debug").join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built as a static program: run `cargo xtask statics`"))
}
