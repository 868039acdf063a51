//! What pods print: kept by pod and incarnation, followed by whoever asks.

use std::collections::BTreeMap;

/// One line and when it was printed.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub at: chrono::DateTime<chrono::Utc>,
    pub text: String,
}

/// The lines of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodLog {
    pub now: Vec<Line>,
    pub before: Option<Vec<Line>>,
}

#[derive(Debug, Default)]
pub(crate) struct Logs(BTreeMap<(String, String), PodLog>);

impl Logs {
    pub fn print(&mut self, namespace: &str, pod: &str, text: &str) {
        let line = Line { at: chrono::Utc::now(), text: text.to_owned() };
        self.0.entry((namespace.to_owned(), pod.to_owned())).or_default().now.push(line);
    }

    pub fn restart(&mut self, namespace: &str, pod: &str) {
        let log = self.0.entry((namespace.to_owned(), pod.to_owned())).or_default();
        log.before = Some(std::mem::take(&mut log.now));
    }

    pub fn of(&self, namespace: &str, pod: &str) -> PodLog {
        self.0.get(&(namespace.to_owned(), pod.to_owned())).cloned().unwrap_or_default()
    }
}

/// Which lines are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub tail: Option<usize>,
    pub since: Option<chrono::DateTime<chrono::Utc>>,
    pub timestamps: bool,
}

impl Wanted {
    /// The lines from an index on, as text, and the index after them.
    pub fn take(&self, lines: &[Line], from: Option<usize>) -> (String, usize) {
        let start = from.unwrap_or_else(|| self.tail.map_or(0, |tail| lines.len().saturating_sub(tail)));
        let mut text = String::new();
        for line in lines.get(start..).into_iter().flatten() {
            if self.since.is_some_and(|since| line.at < since) {
                continue;
            }
            if self.timestamps {
                text.push_str(&line.at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true));
                text.push(' ');
            }
            text.push_str(&line.text);
            text.push('\n');
        }
        (text, lines.len())
    }
}
