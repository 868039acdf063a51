//! Rules for one Rust file: what it is for, how long its functions are, and what its room must not hold.

use super::Violation;
use super::manifests::PURE;
use super::source::Source;
use super::text::{UNFINISHED, VAGUE, has_word};
use super::tree::File;

const FUNCTION_LINES: usize = 70;

/// What a pure room must not name, and what to do instead.
const IMPURE: &[(&[&str], &str)] = &[
    (&["std::fs", "std::io::stdin", "std::io::stdout"], "a file: take its content as an argument"),
    (
        &["std::os::unix::net", "TcpStream", "TcpListener", "UdpSocket", "UnixStream", "ToSocketAddrs"],
        "a socket: the rooms that act hold those",
    ),
    (&["std::env", "std::process", "std::thread"], "the environment: take what you need as an argument"),
    (&["tokio", "futures", "async_std"], "a runtime: everything here is synchronous"),
    (&["async fn", "async move", ".await"], "a runtime: everything here is synchronous"),
    (
        &[
            "std::time::SystemTime",
            "std::time::Instant",
            "SystemTime::now",
            "Instant::now",
            "Utc::now",
            "Local::now",
        ],
        "a clock: take `now` as an argument",
    ),
    (
        &["rand", "getrandom", "new_v4", "now_v7", "thread_rng"],
        "randomness: take the id or the number as an argument",
    ),
];

/// A shell, as the agent and the image service must never start one (S42).
const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh", "ksh"];

/// Who may write SQL: the store; and from outside the house, the lab, which administers its private cluster, and the
/// scenarios, which compare what the house says with what the database holds.
const SQL: &[&str] = &["gateway/store/", "tools/lab/", "tests/"];

pub fn check(file: &File) -> Vec<Violation> {
    let source = Source::lex(&file.text);
    let mut check =
        Check { file, tests: test_regions(file, &source), source: &source, violations: Vec::new() };
    check.module_doc();
    check.functions();
    check.unfinished();
    check.vague_modules();
    if !SQL.iter().any(|folder| file.path.starts_with(folder)) {
        check.sql();
    }
    if file.path.starts_with("agent/") || file.path.starts_with("image-service/") {
        check.shell();
    }
    if PURE.iter().any(|folder| file.path.starts_with(&format!("{folder}/"))) {
        check.pure();
    }
    check.violations
}

/// The byte ranges that are compiled for tests only: the whole of a test file, else what `cfg(test)` covers.
fn test_regions(file: &File, source: &Source) -> Vec<(usize, usize)> {
    let folders: Vec<&str> = file.path.split('/').collect();
    let stem = file.name().trim_end_matches(".rs");
    let whole = folders.iter().any(|folder| ["tests", "benches", "examples"].contains(folder))
        || stem == "tests"
        || stem.ends_with("_tests")
        || source.code.contains("#![cfg(test)]");
    if whole { vec![(0, file.text.len())] } else { source.test_regions() }
}

struct Check<'a> {
    file: &'a File,
    source: &'a Source,
    tests: Vec<(usize, usize)>,
    violations: Vec<Violation>,
}

impl Check<'_> {
    fn report(&mut self, line: usize, rule: &'static str, message: String) {
        self.violations.push(Violation { path: self.file.path.clone(), line, rule, message });
    }

    fn in_tests(&self, at: usize) -> bool {
        self.tests.iter().any(|(from, to)| (*from..=*to).contains(&at))
    }

    fn module_doc(&mut self) {
        let first = self.file.text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        if first.strip_prefix("//!").is_none_or(|sentence| sentence.trim().is_empty()) {
            self.report(
                1,
                "module-doc",
                "a reader opens files one at a time; begin with `//!` and say what this one is for".into(),
            );
        }
    }

    fn functions(&mut self) {
        for function in self.source.functions() {
            if function.lines > FUNCTION_LINES {
                self.report(function.line, "function-length", format!(
                    "`{}` has {} lines, and {FUNCTION_LINES} is the limit: a function fits on a screen; split it where it changes its subject",
                    function.name, function.lines
                ));
            }
        }
    }

    fn unfinished(&mut self) {
        for comment in &self.source.comments {
            for (offset, line) in comment.text.lines().enumerate() {
                if let Some(word) = UNFINISHED.iter().find(|word| has_word(line, word)) {
                    self.report(
                        comment.line + offset,
                        "unfinished",
                        format!(
                            "`{word}`: what lands is whole; finish it, or write it down where work is planned"
                        ),
                    );
                }
            }
        }
        for mark in ["todo!", "unimplemented!", "#[ignore"] {
            for at in self.source.words(mark) {
                self.report(self.source.line(at), "unfinished", format!(
                    "`{mark}`: what lands is whole, and a test that does not run shows nothing; finish it or take it out"
                ));
            }
        }
    }

    fn vague_modules(&mut self) {
        for name in VAGUE {
            let declaration = format!("mod {name}");
            for at in self.source.words(&declaration) {
                self.report(self.source.line(at), "vague-name", format!(
                    "module `{name}` says nothing about what is inside; name it after its noun or its one purpose"
                ));
            }
        }
    }

    fn sql(&mut self) {
        for string in &self.source.strings {
            if is_sql(&string.text) {
                self.report(
                    string.line,
                    "sql",
                    "SQL: only basalt-store speaks it; add a function there and call that".into(),
                );
            }
        }
    }

    fn shell(&mut self) {
        for string in &self.source.strings {
            let program = string.text.rsplit('/').next().unwrap_or_default();
            let absolute_or_bare = string.text.starts_with('/') || !string.text.contains('/');
            let starts_shell = absolute_or_bare && SHELLS.contains(&program);
            if (starts_shell || string.text == "-c") && !self.in_tests(string.at) {
                self.report(string.line, "shell", format!(
                    "`{}`: the agent and the image service never start a shell (S42), because a name would become a command; give the program and each argument as its own word",
                    string.text
                ));
            }
        }
    }

    fn pure(&mut self) {
        let uses = use_paths(&self.source.code);
        for (names, instead) in IMPURE {
            for name in *names {
                let direct =
                    self.source.words(name).filter(|at| !is_field_or_module(&self.source.code, *at, name));
                let imported = uses.iter().filter(|(_, path)| reaches(path, name)).map(|(at, _)| *at);
                let places: Vec<usize> = direct.chain(imported).filter(|at| !self.in_tests(*at)).collect();
                for at in places {
                    self.report(self.source.line(at), "pure", format!("`{name}` is {instead}"));
                }
            }
        }
    }
}

/// A bare crate name counts only where a path begins (`rand::`), not as a field, a variable or the end of a longer path.
fn is_field_or_module(code: &str, at: usize, name: &str) -> bool {
    let is_crate = ["tokio", "futures", "async_std", "rand", "getrandom"].contains(&name);
    is_crate && (!code[at + name.len()..].starts_with("::") || code[..at].ends_with("::"))
}

/// True when an imported path is `name` or lies inside it.
fn reaches(path: &str, name: &str) -> bool {
    path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"))
}

/// Every `use`, with its groups taken apart: `use std::{fs, io}` is `std::fs` and `std::io`.
fn use_paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let starts_item = code[..at].trim_end_matches(' ').ends_with(['\n', ';', '{', '}', ')'])
            || at == 0
            || code[..at].ends_with("pub ");
        let Some(length) = code[at..].find(';') else { continue };
        if starts_item {
            expand(&code[at + 4..at + length], at + 4, "", &mut paths);
        }
    }
    paths
}

fn expand(tree: &str, at: usize, prefix: &str, paths: &mut Vec<(usize, String)>) {
    let start = at + (tree.len() - tree.trim_start().len());
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let name = tree.split(" as ").next().unwrap_or(tree).trim().trim_start_matches("::");
        paths.push((start, format!("{prefix}{name}")));
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim_start_matches("::"));
    let inner = tree[open + 1..].strip_suffix('}').unwrap_or(&tree[open + 1..]);
    let (mut depth, mut from) = (0usize, 0);
    for (offset, c) in inner.char_indices().chain(std::iter::once((inner.len(), ','))) {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                if !inner[from..offset].trim().is_empty() {
                    expand(&inner[from..offset], start + open + 1 + from, &prefix, paths);
                }
                from = offset + 1;
            }
            _ => {}
        }
    }
}

/// A statement is told from English by its first words, and by what must follow them: "Select a host from the list"
/// has the words of a query but neither its capitals nor its punctuation.
fn is_sql(text: &str) -> bool {
    const STATEMENTS: &[(&str, &str)] = &[
        ("SELECT ", " FROM "),
        ("INSERT INTO ", " VALUES"),
        ("INSERT INTO ", " SELECT "),
        ("UPDATE ", " SET "),
        ("DELETE FROM ", ""),
        ("CREATE TABLE ", ""),
        ("CREATE ROLE ", ""),
        ("CREATE DATABASE ", ""),
        ("ALTER TABLE ", ""),
        ("ALTER ROLE ", ""),
        ("DROP TABLE ", ""),
        ("TRUNCATE ", ""),
        ("WITH ", " AS ("),
        ("SET LOCAL ", ""),
    ];
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let upper = words.to_ascii_uppercase();
    let Some((first, _)) = STATEMENTS
        .iter()
        .find(|(first, then)| upper.starts_with(first) && upper[first.len() - 1..].contains(then))
    else {
        return false;
    };
    let capitals = words.starts_with(first) && first.trim() != "WITH";
    let punctuation = ["$1", "*", "=", ";", "("].iter().any(|mark| words.contains(mark));
    capitals || punctuation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_is_told_from_english() {
        let query = ["select", "id from vms where name = $1"].join(" ");
        assert!(is_sql(&query));
        assert!(is_sql(&["SELECT", "id\n  FROM vms"].join(" ")));
        assert!(is_sql(&["DELETE", "FROM vms"].join(" ")));
        for english in [
            "Select a host from the list",
            "update the set point",
            "create table tennis",
            "with this as that",
        ] {
            assert!(!is_sql(english), "{english}");
        }
    }

    #[test]
    fn groups_of_imports_are_taken_apart() {
        let paths: Vec<String> = use_paths("use std::{fs, io::{self, Read}};\npub use a::b as c;\n")
            .into_iter()
            .map(|(_, path)| path)
            .collect();
        assert_eq!(paths, ["std::fs", "std::io::self", "std::io::Read", "a::b"]);
    }
}
