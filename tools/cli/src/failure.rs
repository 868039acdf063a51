//! What went wrong, for people (text) and for scripts (exit code).

use basalt_model::tasks::Task;
use basalt_wire::rest::Problem;
use std::fmt::Write;

/// Why a command did not do what was asked.
///
/// | exit code | meaning |
/// |---|---|
/// | 0 | done |
/// | 1 | refused, or failed for another reason |
/// | 2 | wrong arguments |
/// | 3 | no such object |
/// | 4 | the object changed or is in the way (409, 412) |
/// | 5 | not logged in, or not allowed (401, 403) |
/// | 6 | the gateway cannot be reached or is not ready |
/// | 7 | the task ended badly |
/// | 8 | the time to wait was over |
#[derive(Debug)]
pub enum Failure {
    /// The gateway said no.
    Problem(Box<Problem>),
    /// The gateway could not be reached.
    Unreachable(String),
    /// An argument or file cannot be used.
    Usage(String),
    /// A task ended badly.
    Task(Box<Task>),
    /// The time to wait was over.
    TimedOut(String),
    /// Something else.
    Other(String),
}

impl Failure {
    /// For scripts.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Problem(p) => match p.status {
                404 => 3,
                409 | 412 | 423 => 4,
                401 | 403 => 5,
                502..=504 => 6,
                _ => 1,
            },
            Self::Unreachable(_) => 6,
            Self::Usage(_) => 2,
            Self::Task(_) => 7,
            Self::TimedOut(_) => 8,
            Self::Other(_) => 1,
        }
    }

    /// For people: every reason with its remedy.
    pub fn text(&self) -> String {
        match self {
            Self::Problem(p) => {
                let mut text = format!("error: {}: {}", p.title, p.detail);
                for e in &p.errors {
                    let _ = write!(text, "\n  {}: {}; {}", e.field, e.reason, e.remedy);
                }
                for r in &p.reasons {
                    let _ = write!(text, "\n  {r}");
                }
                if let (Some(id), 500..) = (&p.request_id, p.status) {
                    let _ = write!(text, "\n  request {id}");
                }
                text
            }
            Self::Task(task) => {
                let why = task.error.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("error: task {} {}: {why}", task.id, task.state.as_str())
            }
            Self::Unreachable(why) => format!("error: {why}\n  is the gateway running? try: basalt whoami"),
            Self::Usage(why) | Self::TimedOut(why) | Self::Other(why) => format!("error: {why}"),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Other(e.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(e: serde_json::Error) -> Self {
        Self::Other(format!("the answer cannot be read: {e}"))
    }
}
