//! Where this checkout and its build folder are, and how commands are run in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// One clone of the project.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// The folder that holds the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's build folder, which `CARGO_TARGET_DIR` or a configuration may have moved out of the checkout.
    pub target: PathBuf,
}

impl Checkout {
    /// Asks cargo for the workspace around the current folder.
    ///
    /// # Errors
    /// When the current folder is in no checkout.
    pub fn find() -> Result<Self> {
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()
            .context("starting cargo")?;
        if !output.status.success() {
            bail!("run this inside the Basalt checkout");
        }
        let metadata: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
        let folder = |key: &str| -> Result<PathBuf> {
            let value = metadata[key].as_str().with_context(|| format!("cargo metadata names no {key}"))?;
            Ok(PathBuf::from(value))
        };
        Ok(Self { root: folder("workspace_root")?, target: folder("target_directory")? })
    }

    /// A cargo command in the root of the checkout.
    pub fn cargo<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.command(cargo(), args)
    }

    /// Any command in the root of the checkout.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).args(args);
        command
    }
}

/// The cargo that runs this program, so that a toolchain override reaches its children.
fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Runs a command to its end and says whether it succeeded.
///
/// # Errors
/// When the program cannot be started at all.
pub fn succeeds(command: &mut Command) -> Result<bool> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("starting {program}"))?;
    Ok(status.success())
}

/// Finds a program by name in `PATH`, or in one further folder.
pub fn which(program: &str, further: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(std::iter::once(further.to_path_buf()))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
