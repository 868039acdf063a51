//! Rules for every text file: length, names, unfinished work, and nothing of the machine it was written on.

use std::path::Path;

use super::Violation;
use super::tree::File;

const FILE_LINES: usize = 800;

/// Written by people, so held to a length.
const HAND_WRITTEN: &[&str] = &["rs", "sql", "ts", "tsx", "js", "mjs", "css", "sh", "py"];

/// Generated and checked in, so that a change of them is seen; nobody reads them from top to bottom.
const GENERATED: &[&str] = &["gateway/store/schema.sql", "gateway/api/openapi.json"];

/// Where unfinished work would be marked in a comment.
const COMMENTED: &[&str] =
    &["sql", "ts", "tsx", "js", "mjs", "css", "sh", "py", "toml", "yaml", "yml", "service", "html"];

/// Names that say nothing about what is inside.
pub const VAGUE: &[&str] = &["util", "utils", "common", "helper", "helpers", "core"];

/// Words for unfinished work, split so that this file passes its own rule.
pub const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

/// Package registries, split likewise.
const REGISTRIES: &[&str] = &[
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("crates", ".io-index"),
    concat!("://crates", ".io"),
    concat!("registry.npmjs", ".org"),
    concat!("registry.yarnpkg", ".com"),
    concat!("pypi", ".org"),
    concat!("files.pythonhosted", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("deb.debian", ".org"),
];

/// Where people keep checkouts and toolchains.
const MACHINE: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("/tm", "p/w/"),
    concat!("/ro", "ot/.cargo"),
    concat!("/ro", "ot/.rustup"),
];

pub fn check(file: &File, root: &Path) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut report = |line: usize, rule: &'static str, message: String| {
        violations.push(Violation { path: file.path.clone(), line, rule, message });
    };
    if let Some(name) = vague_part(&file.path) {
        report(
            1,
            "vague-name",
            format!(
                "`{name}` says nothing about what is inside; name the file or folder after its noun or its one purpose"
            ),
        );
    }
    let lines = file.text.lines().count();
    if HAND_WRITTEN.contains(&file.extension())
        && lines > FILE_LINES
        && !GENERATED.contains(&file.path.as_str())
    {
        report(
            FILE_LINES + 1,
            "file-length",
            format!(
                "{lines} lines, and {FILE_LINES} is the limit: a file is read whole; split it by noun or by stage"
            ),
        );
    }
    // Cargo writes the registry into its lock file, and only cargo edits that.
    if file.name() == "Cargo.lock" {
        return violations;
    }
    let root = root.to_string_lossy();
    for (index, line) in file.text.lines().enumerate() {
        if COMMENTED.contains(&file.extension())
            && let Some(word) = UNFINISHED.iter().find(|word| has_word(line, word))
        {
            report(
                index + 1,
                "unfinished",
                format!("`{word}`: what lands is whole; finish it, or write it down where work is planned"),
            );
        }
        if let Some(host) = REGISTRIES.iter().find(|host| line.contains(*host)) {
            report(
                index + 1,
                "registry-host",
                format!("{host}: a mirror must be a matter of configuration; use the client's default"),
            );
        }
        if (root.len() > 4 && line.contains(&*root)) || MACHINE.iter().any(|path| has_path(line, path)) {
            report(index + 1, "machine-path", "a path of the machine it was written on; derive it from the checkout, or take it as an argument".into());
        }
    }
    violations
}

/// The part of a path that is a vague name, as folder or as file.
fn vague_part(path: &str) -> Option<&str> {
    path.split('/').find(|part| {
        let stem = part.split('.').next().unwrap_or_default();
        VAGUE.contains(&stem)
    })
}

/// True when the line holds the word and not just its letters.
pub fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// True when an absolute path begins with `prefix`: in the middle of a relative path it names no machine.
fn has_path(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '}' | ')' | '*'))
    })
}
