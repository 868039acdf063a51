//! The house rules as a program: `tidy(root)` reads the tree and names every line that breaks a wall or a limit.
//!
//! A rule that must be remembered is a missing test, so each rule of the house is here, says why it exists and what to
//! do instead. `checkout` (the files) → `manifests` (the walls between crates) and `rust`, `text` (one file at a time).

mod manifests;
mod rust;
mod source;
mod text;
mod tree;

use std::fmt;
use std::path::Path;

use anyhow::Result;

pub use manifests::{ROWS, Row};
pub use tree::Tree;

/// One line of the tree that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Relative to the root, with `/`.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// The rule's short name.
    pub rule: &'static str,
    /// Why the rule exists, and what to do instead.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.message)
    }
}

/// Checks the tree under `root` and returns what breaks the rules, sorted by path and line, at most one violation for
/// a line and rule.
///
/// # Errors
/// When the tree cannot be read or a `Cargo.toml` is no TOML.
pub fn tidy(root: &Path) -> Result<Vec<Violation>> {
    let tree = Tree::read(root)?;
    let mut violations = manifests::check(&tree)?;
    for file in &tree.files {
        violations.extend(text::check(file, &tree.root));
        if file.path.ends_with(".rs") {
            violations.extend(rust::check(file));
        }
    }
    violations.sort();
    violations.dedup_by(|a, b| a.path == b.path && a.line == b.line && a.rule == b.rule);
    Ok(violations)
}

/// Prints what [`tidy`] found and answers whether the tree is clean.
///
/// # Errors
/// As [`tidy`].
pub fn run(root: &Path) -> Result<bool> {
    let violations = tidy(root)?;
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => println!("tidy: the house is in order"),
        1 => println!("tidy: 1 violation"),
        n => println!("tidy: {n} violations"),
    }
    Ok(violations.is_empty())
}
