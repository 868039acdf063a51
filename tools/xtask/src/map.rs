//! `cargo xtask map`: the house as a tree, from the crates' own descriptions, with what each room may import.

use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::tidy::{ROWS, Row};

/// The map as text. Rooms that are planned but not built are left out.
///
/// # Errors
/// When a room's `Cargo.toml` cannot be read.
pub fn render(root: &Path) -> Result<String> {
    let mut rooms = Vec::new();
    for row in ROWS {
        let manifest = root.join(row.folder).join("Cargo.toml");
        if manifest.is_file() {
            rooms.push((row, description(&manifest)?));
        }
    }
    rooms.sort_by_key(|(row, _)| (floor(row.folder), row.folder));
    let width = rooms.iter().map(|(row, _)| indent(row) + label(row).len()).max().unwrap_or(0) + 2;
    let mut map = String::from("basalt\n");
    let mut wing = "";
    for (row, description) in &rooms {
        let (first, rest) = row.folder.split_once('/').unwrap_or((row.folder, ""));
        if first != wing {
            wing = first;
            map.push('\n');
            if !rest.is_empty() {
                map.push_str(&format!("  {first}/\n"));
            }
        }
        let line = format!("{:indent$}{}", "", label(row), indent = indent(row));
        map.push_str(&format!("{line:width$}  {description}\n"));
        let imports: Vec<&str> = row.imports.iter().map(|name| name.trim_start_matches("basalt-")).collect();
        let imports = if imports.is_empty() { "nothing of the house".to_owned() } else { imports.join(" ") };
        map.push_str(&format!("{:width$}  imports {imports}\n", ""));
    }
    map.push_str(
        "\nsqlx only in store; kube only in adapters; libvirt only in agent; ratatui only in setup.\n",
    );
    map.push_str("model, wire, plan and krt hold no clock, file, socket, environment or runtime.\n");
    Ok(map)
}

/// Floors from the street up: components first, then what they stand on, then tools and tests.
fn floor(folder: &str) -> usize {
    ["gateway", "agent", "image-service", "lib", "tools", "tests"]
        .iter()
        .position(|wing| folder.starts_with(wing))
        .unwrap_or(usize::MAX)
}

fn indent(row: &Row) -> usize {
    if row.folder.contains('/') { 4 } else { 2 }
}

fn label(row: &Row) -> String {
    format!("{}/", row.folder.rsplit('/').next().unwrap_or(row.folder))
}

fn description(manifest: &Path) -> Result<String> {
    let text =
        std::fs::read_to_string(manifest).with_context(|| format!("reading {}", manifest.display()))?;
    let table: Table = text.parse().with_context(|| format!("reading {}", manifest.display()))?;
    let description =
        table.get("package").and_then(|package| package.get("description")).and_then(Value::as_str);
    Ok(description.unwrap_or("(no description)").to_owned())
}
