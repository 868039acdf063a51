//! `cargo xtask test`: everything, in one command, with cargo-nextest (one process a test) and then the doc tests.

use anyhow::Result;

use crate::checkout::{Checkout, succeeds, which};
use crate::packages::ensure_packages;
use crate::tidy::{ROWS, Tree};

/// The runner that is installed where none is.
const NEXTEST_VERSION: &str = "0.9.143";

/// Runs every test that the filters name; without filters, all of them and the doc tests.
///
/// # Errors
/// When packages are missing and cannot be installed, or cargo cannot be started.
pub fn run(checkout: &Checkout, args: &[String]) -> Result<bool> {
    ensure_packages(&checkout.target)?;
    if !unit_tests(checkout, args)? {
        return Ok(false);
    }
    if !args.is_empty() {
        return Ok(true);
    }
    doc_tests(checkout)
}

/// Everything but the doc tests.
///
/// # Errors
/// When cargo cannot be started.
pub fn unit_tests(checkout: &Checkout, args: &[String]) -> Result<bool> {
    let scope: &[&str] = if names_packages(args) { &[] } else { &["--workspace"] };
    // The scenarios start binaries of other crates, which cargo does not build for a test. In one build with the
    // tests, because what only tests depend on changes features, and the whole tree would be built twice.
    let mut build = checkout.cargo(["build", "--locked", "--workspace", "--bins", "--tests", "--examples"]);
    if scope.is_empty() {
        build = checkout.cargo(["build", "--locked", "--workspace", "--bins"]);
    }
    if !succeeds(&mut build)? || !crate::statics::run(checkout)? {
        return Ok(false);
    }
    let tools = checkout.target.join("tools/bin");
    if which("cargo-nextest", &tools).is_none() && !install_nextest(checkout)? {
        eprintln!(
            "cargo-nextest could not be installed; falling back to cargo test, which does not part the tests"
        );
        let mut command = checkout.cargo(["test", "--locked", "--no-fail-fast"]);
        return succeeds(command.args(scope).args(args));
    }
    let mut command = checkout.cargo(["nextest", "run", "--locked"]);
    if std::env::var_os("CI").is_some() {
        // Whoever keeps only the end of a log keeps what failed and where; a test alone has its traces.
        command.args(["--profile", "ci"]).env("RUST_BACKTRACE", "0");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(std::iter::once(tools));
    command.env("PATH", std::env::join_paths(folders)?);
    succeeds(command.args(scope).args(args))
}

/// True when the caller chose crates, so that not all of them are meant.
fn names_packages(args: &[String]) -> bool {
    args.iter().any(|arg| arg.starts_with("-p") || arg.starts_with("--package"))
}

/// The examples in the documentation, of crates that have any: each crate costs seconds even where there is none.
///
/// # Errors
/// When cargo cannot be started or the tree cannot be read.
pub fn doc_tests(checkout: &Checkout) -> Result<bool> {
    let tree = Tree::read(&checkout.root)?;
    let crates = ROWS.iter().filter(|row| {
        let sources = format!("{}/src/", row.folder);
        tree.files.iter().any(|file| file.path.starts_with(&sources) && has_example(&file.text))
    });
    let packages: Vec<&str> = crates.flat_map(|row| ["--package", row.name]).collect();
    if packages.is_empty() {
        return Ok(true);
    }
    succeeds(checkout.cargo(["test", "--locked", "--doc"]).args(packages))
}

/// True when a documentation comment holds a code block that rustdoc would run; drawings are marked `text`.
fn has_example(text: &str) -> bool {
    let mut open = false;
    for line in text.lines().map(str::trim_start) {
        let Some(doc) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else { continue };
        if let Some(language) = doc.trim().strip_prefix("```") {
            let runs = ["", "rust", "no_run", "should_panic", "compile_fail", "edition2024"];
            if !open && language.split(',').all(|word| runs.contains(&word.trim())) {
                return true;
            }
            open = !open;
        }
    }
    false
}

fn install_nextest(checkout: &Checkout) -> Result<bool> {
    println!("Installing cargo-nextest {NEXTEST_VERSION} into the build folder (once)");
    // Without the part that would update itself.
    let lean = ["--no-default-features", "--features", "default-no-update"];
    crate::deny::install_tool(checkout, "cargo-nextest", NEXTEST_VERSION, &lean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_is_no_example() {
        assert!(!has_example("//! ```text\n//! a -> b\n//! ```\nfn f() {}\n"));
        assert!(has_example("//! ```text\n//! a -> b\n//! ```\n    /// ```\n    /// f();\n    /// ```\n"));
        assert!(has_example("/// ```should_panic\n/// f();\n/// ```\n"));
    }

    #[test]
    fn a_chosen_crate_narrows_the_scope() {
        assert!(names_packages(&["-p".into(), "krt".into()]) && names_packages(&["--package=krt".into()]));
        assert!(!names_packages(&["v3_".into()]));
    }
}
