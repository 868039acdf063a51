//! The walls between crates, read from their `Cargo.toml`: who may import whom, which foreign crate lives where.

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::Violation;
use super::tree::{File, Tree};

/// One room: where it stands and which other rooms it may import, in tests too.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub folder: &'static str,
    pub imports: &'static [&'static str],
}

/// What krt is measured beside: a workspace of its own, which nothing imports, so that those crates stay out of the
/// house's lock file. They are foreign by purpose.
const PEERS: &str = "krt-peers";

/// Who may import whom. A room that is not in here does not exist.
pub const ROWS: &[Row] = &[
    Row { name: "basalt-model", folder: "lib/model", imports: &[] },
    Row { name: "basalt-wire", folder: "lib/wire", imports: &["basalt-model"] },
    Row { name: "basalt-plan", folder: "lib/plan", imports: &["basalt-model", "basalt-wire"] },
    Row { name: "krt", folder: "lib/krt", imports: &[] },
    Row { name: "basalt-daemon", folder: "lib/daemon", imports: &[] },
    Row { name: "basalt-store", folder: "gateway/store", imports: &["basalt-model"] },
    Row {
        name: "basalt-adapters",
        folder: "gateway/adapters",
        imports: &["basalt-model", "basalt-test-programs", "basalt-kube-api"],
    },
    Row {
        name: "basalt-api",
        folder: "gateway/api",
        imports: &["basalt-store", "basalt-wire", "basalt-model", "basalt-daemon", "basalt-plan"],
    },
    Row {
        name: "basalt-reconciler",
        folder: "gateway/reconciler",
        imports: &[
            "basalt-store",
            "basalt-plan",
            "krt",
            "basalt-adapters",
            "basalt-wire",
            "basalt-model",
            "basalt-daemon",
        ],
    },
    Row {
        name: "basalt-gateway",
        folder: "gateway",
        imports: &[
            "basalt-store",
            "basalt-api",
            "basalt-reconciler",
            "basalt-adapters",
            "basalt-wire",
            "basalt-model",
            "basalt-daemon",
            "krt",
        ],
    },
    Row {
        name: "basalt-agent",
        folder: "agent",
        imports: &["basalt-plan", "basalt-wire", "basalt-model", "basalt-daemon"],
    },
    Row {
        name: "basalt-image-service",
        folder: "image-service",
        imports: &["basalt-wire", "basalt-model", "basalt-daemon"],
    },
    Row {
        name: "basalt-cli",
        folder: "tools/cli",
        imports: &["basalt-wire", "basalt-model", "basalt-daemon"],
    },
    Row {
        name: "basalt-setup",
        folder: "tools/setup",
        imports: &["basalt-wire", "basalt-model", "basalt-daemon"],
    },
    Row {
        name: "basalt-lab",
        folder: "tools/lab",
        imports: &["basalt-wire", "basalt-model", "basalt-daemon", "basalt-cli"],
    },
    Row { name: "basalt-bridge", folder: "tools/bridge", imports: &[] },
    Row { name: "xtask", folder: "tools/xtask", imports: &[] },
    Row { name: "basalt-kube-api", folder: "tests/kube-api", imports: &[] },
    Row { name: PEERS, folder: "tools/peers", imports: &["krt"] },
    Row {
        name: "basalt-tests",
        folder: "tests",
        imports: &[
            "basalt-model",
            "basalt-wire",
            "basalt-plan",
            "krt",
            "basalt-daemon",
            "basalt-store",
            "basalt-adapters",
            "basalt-api",
            "basalt-reconciler",
            "basalt-gateway",
            "basalt-agent",
            "basalt-image-service",
            "basalt-cli",
            "basalt-lab",
            "basalt-kube-api",
            "basalt-test-programs",
        ],
    },
    Row { name: "basalt-test-programs", folder: "tests/programs", imports: &[] },
];

/// Foreign crates that may be used in one room only.
const FOREIGN: &[(&[&str], &str)] = &[
    (&["sqlx", "tokio-postgres", "postgres", "diesel", "sea-orm"], "basalt-store"),
    (&["kube", "k8s-openapi", "bollard"], "basalt-adapters"),
    (&["virt", "virt-sys"], "basalt-agent"),
    (&["ratatui", "crossterm"], "basalt-setup"),
];

/// The rooms that hold no clock, file, socket, environment or runtime.
pub const PURE: &[&str] = &["lib/model", "lib/wire", "lib/plan", "lib/krt"];

/// Crates that bring a runtime, a socket or randomness into a pure room.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-util",
    "tokio-stream",
    "async-std",
    "smol",
    "futures",
    "rand",
    "getrandom",
    "reqwest",
    "axum",
    "hyper",
    "rustix",
    "libc",
];

/// A dependency as one crate names it.
struct Dependency {
    package: String,
    section: &'static str,
    line: usize,
    optional: bool,
    features: Vec<String>,
}

pub fn check(tree: &Tree) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for file in tree.files.iter().filter(|file| file.name() == "Cargo.toml") {
        let manifest: Table = file.text.parse().with_context(|| format!("reading {}", file.path))?;
        let Some(package) = manifest.get("package").and_then(Value::as_table) else { continue };
        let name = package.get("name").and_then(Value::as_str).unwrap_or_default();
        violations.extend(check_package(file, &manifest, package, name));
        violations.extend(check_row(file, &manifest, name));
        if name == "krt" {
            violations.extend(check_forbids_unsafe(tree, file));
        }
    }
    Ok(violations)
}

fn check_package(file: &File, manifest: &Table, package: &Table, name: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let description = package.get("description").and_then(Value::as_str).unwrap_or_default();
    if description.trim().is_empty() || description.contains('\n') {
        violations.push(violation(
            file,
            1,
            "description",
            format!("`cargo xtask map` prints the house from these; give {name} a description of one line"),
        ));
    }
    let inherits = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(Value::as_bool)
        .unwrap_or_default();
    if !inherits {
        violations.push(violation(file, 1, "lints", format!(
            "the workspace's lints are part of the house; write `[lints]` and `workspace = true` for {name}"
        )));
    }
    violations
}

fn check_row(file: &File, manifest: &Table, name: &str) -> Vec<Violation> {
    let folder = file.path.trim_end_matches("Cargo.toml").trim_end_matches('/');
    let Some(row) = ROWS.iter().find(|row| row.name == name && row.folder == folder) else {
        return vec![violation(
            file,
            1,
            "room",
            format!(
                "there is no room `{name}` in `{folder}` in the house; add its row, with what it may import, to the table in xtask's `tidy/manifests.rs`"
            ),
        )];
    };
    let mut violations = Vec::new();
    for dependency in dependencies(file, manifest) {
        let package = dependency.package.as_str();
        if ROWS.iter().any(|row| row.name == package) && package != name && !row.imports.contains(&package) {
            let allowed = if row.imports.is_empty() { "nothing".into() } else { row.imports.join(", ") };
            violations.push(violation(file, dependency.line, "imports", format!(
                "{name} may not import {package} in [{}] (it may import {allowed}); move the code to a room that may, and a test that needs two rooms to `tests/`",
                dependency.section
            )));
        }
        violations.extend(check_foreign(file, name, &dependency));
        if PURE.contains(&folder) && dependency.section != "dev-dependencies" && IMPURE.contains(&package) {
            violations.push(violation(
                file,
                dependency.line,
                "pure",
                format!(
                    "{name} is pure, so {package} stays out: take time, randomness and bytes as arguments"
                ),
            ));
        }
    }
    violations
}

fn check_foreign(file: &File, name: &str, dependency: &Dependency) -> Option<Violation> {
    let package = dependency.package.as_str();
    if package == "basalt-model"
        && dependency.features.iter().any(|feature| feature == "sql")
        && name != "basalt-store"
    {
        return Some(violation(
            file,
            dependency.line,
            "foreign-crate",
            format!(
                "only basalt-store turns on the model's `sql` feature, because only it speaks SQL; drop the feature from {name}"
            ),
        ));
    }
    let (_, home) = FOREIGN.iter().find(|(crates, _)| crates.contains(&package))?;
    // The model offers column types behind a feature, so that there is no second copy of each struct for the database.
    let allowed = name == *home
        || name == PEERS
        || (package == "sqlx" && name == "basalt-model" && dependency.optional);
    (!allowed).then(|| {
        violation(file, dependency.line, "foreign-crate", format!(
            "{package} lives in {home} only, and {name} is not it; ask {home} for what you need in our own words"
        ))
    })
}

fn check_forbids_unsafe(tree: &Tree, manifest: &File) -> Option<Violation> {
    let path = manifest.path.replace("Cargo.toml", "src/lib.rs");
    let library = tree.file(&path)?;
    (!library.text.contains("#![forbid(unsafe_code)]")).then(|| {
        violation(
            library,
            1,
            "unsafe",
            "krt is trusted because it is safe code only; add `#![forbid(unsafe_code)]`".into(),
        )
    })
}

fn dependencies(file: &File, manifest: &Table) -> Vec<Dependency> {
    let mut found = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let plain = manifest.get(section);
        let by_target = manifest
            .get("target")
            .and_then(Value::as_table)
            .into_iter()
            .flat_map(|targets| targets.values().filter_map(|target| target.get(section)));
        for (key, value) in plain.into_iter().chain(by_target).filter_map(Value::as_table).flatten() {
            found.push(Dependency {
                package: value.get("package").and_then(Value::as_str).unwrap_or(key).to_owned(),
                section,
                line: line_of(&file.text, section, key),
                optional: value.get("optional").and_then(Value::as_bool).unwrap_or_default(),
                features: value
                    .get("features")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(|feature| feature.as_str().map(str::to_owned))
                    .collect(),
            });
        }
    }
    found
}

/// The line that names a dependency, from 1; the first line when it is written in a way not looked for.
fn line_of(text: &str, section: &str, key: &str) -> usize {
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            if header.ends_with(&format!("{section}.{key}")) {
                return index + 1;
            }
            inside = header == section || header.ends_with(&format!(".{section}"));
        } else if inside {
            let name: &str = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if name.trim_matches('"') == key {
                return index + 1;
            }
        }
    }
    1
}

fn violation(file: &File, line: usize, rule: &'static str, message: String) -> Violation {
    Violation { path: file.path.clone(), line, rule, message }
}
