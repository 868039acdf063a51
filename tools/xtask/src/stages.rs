//! Stages with a name and a time, and the table that sums them up.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How one stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
}

/// The stages run so far.
#[derive(Debug, Default)]
pub struct Stages {
    rows: Vec<(String, Outcome, Duration)>,
}

impl Stages {
    /// Announces a stage, runs it and keeps its time. An error is printed and counts as failed, so that the table
    /// at the end is always whole.
    pub fn run(&mut self, name: &str, stage: impl FnOnce() -> Result<bool>) -> Outcome {
        eprintln!("\n=== {name}");
        let started = Instant::now();
        let outcome = match stage() {
            Ok(true) => Outcome::Passed,
            Ok(false) => Outcome::Failed,
            Err(error) => {
                eprintln!("{name}: {error:#}");
                Outcome::Failed
            }
        };
        let took = started.elapsed();
        eprintln!("=== {name}: {} in {}", word(outcome), seconds(took));
        self.rows.push((name.to_owned(), outcome, took));
        outcome
    }

    /// True when no stage failed.
    pub fn all_passed(&self) -> bool {
        self.rows.iter().all(|(_, outcome, _)| *outcome == Outcome::Passed)
    }

    /// One line a stage, and the sum.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max("total".len());
        let mut table = String::new();
        let mut total = Duration::ZERO;
        for (name, outcome, took) in &self.rows {
            total += *took;
            table.push_str(&format!("{name:width$}  {:6}  {:>8}\n", word(*outcome), seconds(*took)));
        }
        let outcome = if self.all_passed() { Outcome::Passed } else { Outcome::Failed };
        table.push_str(&format!("{:width$}  {:6}  {:>8}\n", "total", word(outcome), seconds(total)));
        table
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
    }
}

/// A duration as people read it: `0.4 s`, `12.0 s`, `3 m 05 s`.
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole >= 60 {
        return format!("{} m {:02} s", whole / 60, whole % 60);
    }
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_stage_and_fails_when_one_did() {
        let mut stages = Stages::default();
        assert_eq!(stages.run("fmt", || Ok(true)), Outcome::Passed);
        assert!(stages.all_passed());
        assert_eq!(stages.run("clippy", || anyhow::bail!("no compiler")), Outcome::Failed);
        let table = stages.table();
        assert!(!stages.all_passed());
        assert_eq!(table.lines().count(), 3);
        assert!(table.lines().any(|line| line.starts_with("clippy") && line.contains("FAILED")));
        assert!(table.lines().last().unwrap().contains("FAILED"));
    }

    #[test]
    fn minutes_are_written_out() {
        assert_eq!(seconds(Duration::from_millis(400)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 m 05 s");
    }
}
