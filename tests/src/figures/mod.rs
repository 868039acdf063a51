//! The figures of docs/performance.md: each is measured beside its floor in the same run and printed;
//! none is a timed test.

pub mod cluster;
pub mod creates;
pub mod deployments;
pub mod feed;
pub mod fleet;
pub mod floor;
pub mod flows;
pub mod http;
pub mod manifest;
pub mod memory;
pub mod reads;
pub mod restart;
pub mod surroundings;
pub mod tasks;
pub mod watchers;

use std::{fmt, time::Duration};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Runs of which the median counts.
    pub runs: usize,
    /// Seconds of one run.
    pub seconds: u64,
    /// VMs in the database when reads and restarts are measured.
    pub rows: usize,
    /// Hosts and VMs of the fleet.
    pub fleet: (usize, usize),
    /// Hosts and VMs of the cluster.
    pub cluster: (usize, usize),
    /// Ports of one bridge.
    pub ports: u32,
    /// Repetitions where single latencies are measured.
    pub samples: usize,
    /// Open watches.
    pub watchers: usize,
}

impl Size {
    /// What the issue asks for.
    pub const FULL: Size = Size {
        runs: 5,
        seconds: 4,
        rows: 10_000,
        fleet: (100, 1000),
        cluster: (1000, 20_000),
        ports: 1000,
        samples: 300,
        watchers: 1000,
    };
    /// Enough to see that everything works.
    pub const QUICK: Size = Size {
        runs: 1,
        seconds: 2,
        rows: 1000,
        fleet: (10, 100),
        cluster: (50, 1000),
        ports: 100,
        samples: 50,
        watchers: 100,
    };
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// What came out, with its unit.
    pub value: String,
    /// What was wanted; empty where nothing was.
    pub target: String,
    /// Whether it was reached; `None` where nothing was wanted.
    pub reached: Option<bool>,
    /// The limit that the machine itself set in the same run, and how near to it this is.
    pub floor: String,
}

impl Figure {
    /// A line without target or floor.
    pub fn new(what: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            value: value.into(),
            target: String::new(),
            reached: None,
            floor: String::new(),
        }
    }

    /// Adds a target.
    #[must_use]
    pub fn target(mut self, target: impl Into<String>, reached: bool) -> Self {
        (self.target, self.reached) = (target.into(), Some(reached));
        self
    }

    /// Adds a floor.
    #[must_use]
    pub fn floor(mut self, floor: impl Into<String>) -> Self {
        self.floor = floor.into();
        self
    }
}

/// A table that reads well in a terminal and in Markdown.
pub struct Table<'a>(pub &'a [Figure]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = |figure: &Figure| {
            let mark = match figure.reached {
                None => "",
                Some(true) => "yes",
                Some(false) => "NO",
            };
            [
                figure.what.clone(),
                figure.value.clone(),
                figure.target.clone(),
                mark.into(),
                figure.floor.clone(),
            ]
        };
        let head = ["figure", "measured", "target", "reached", "floor in the same run"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(self.0.iter().map(cells)).collect();
        let widths: [usize; 5] =
            std::array::from_fn(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0));
        for (n, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if n == 0 {
                for width in widths {
                    write!(f, "|{:-<1$}", "", width + 2)?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// Latencies, sorted.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Sorts them.
    pub fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    /// The latency that this share of all does not exceed; zero when there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }

    /// All of them, ascending.
    pub fn all(&self) -> &[Duration] {
        &self.0
    }

    /// Half, 99 of a hundred, and all are at most this.
    pub fn text(&self) -> String {
        format!(
            "p50 {} p99 {} max {}",
            ms(self.quantile(0.5)),
            ms(self.quantile(0.99)),
            ms(self.quantile(1.0))
        )
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Milliseconds for people.
pub fn ms(d: Duration) -> String {
    format!("{:.1} ms", d.as_secs_f64() * 1000.0)
}

/// The middle one; zero of none.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_medians_are_of_what_was_measured() {
        let l = Latencies::new((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(
            (l.quantile(0.0), l.quantile(1.0)),
            (Duration::from_millis(1), Duration::from_millis(100))
        );
        assert_eq!(l.quantile(0.99), Duration::from_millis(99));
        assert_eq!(Latencies::default().quantile(0.5), Duration::ZERO);
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        let line = Figure::new("reads", "9/s").target("≥ 8/s", true).floor("20/s, 45 %");
        let table = Table(&[line]).to_string();
        assert!(table.lines().count() == 3 && table.contains("yes"), "{table}");
    }
}
