//! What went wrong, for people (text) and for scripts (exit code).

use crate::output::note;
use basalt_model::{
    Condition, ConditionStatus,
    tasks::{Task, TaskState},
};
use basalt_wire::rest::Problem;
use serde_json::Value;
use std::fmt::Write;

/// The exit codes, which `--help` and `docs/cli.md` repeat.
pub const EXIT_CODES: [(u8, &str); 9] = [
    (0, "done"),
    (1, "refused, or failed for another reason"),
    (2, "wrong arguments, file or configuration"),
    (3, "no such object"),
    (4, "in the way: exists already, in use, over quota, changed meanwhile, in the wrong state"),
    (5, "not logged in, or not allowed"),
    (6, "the gateway cannot be reached or is not ready"),
    (7, "the task or deployment failed; the task was cancelled or ran out of time"),
    (8, "the time to wait was over; what was asked for goes on"),
];

/// Why a command did not do what was asked; [`EXIT_CODES`] says what scripts see of it.
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
    /// Something that was waited for will not come by waiting.
    Fell(String),
    /// The time to wait was over.
    TimedOut(String),
    /// Something else.
    Other(String),
    /// Some of several objects, each of which was told of already ([`Tally`]).
    Several {
        /// Exit code of the first that failed.
        code: u8,
        /// How many failed.
        failed: usize,
        /// Of how many.
        of: usize,
    },
}

impl Failure {
    /// There is no such object, in the gateway's own words.
    pub fn not_found(kind: &str, name: &str) -> Self {
        let detail = format!("There is no {} {name:?} here.", kind.replace('-', " "));
        Self::Problem(Box::new(Problem::new(404, "not_found", "Not found", detail)))
    }

    /// For scripts.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Problem(p) => match p.status {
                404 => 3,
                409 | 412 | 423 => 4,
                401 | 403 => 5,
                429 | 502..=504 => 6,
                _ => 1,
            },
            Self::Unreachable(_) => 6,
            Self::Usage(_) => 2,
            Self::Task(_) | Self::Fell(_) => 7,
            Self::TimedOut(_) => 8,
            Self::Other(_) => 1,
            Self::Several { code, .. } => *code,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn may_pass(&self) -> bool {
        self.exit_code() == 6
    }

    /// For people: every reason with its remedy. Empty when everything was said already.
    pub fn text(&self) -> String {
        match self {
            Self::Several { of: 1, .. } => String::new(),
            Self::Several { failed, of, .. } => format!("error: {failed} of {of} failed"),
            other => format!("error: {}", other.sentence()),
        }
    }

    /// The same about one of several objects.
    pub fn text_about(&self, subject: &str) -> String {
        format!("error: {subject}: {}", self.sentence())
    }

    fn sentence(&self) -> String {
        match self {
            Self::Problem(p) => problem(p),
            Self::Task(task) => {
                let why = task.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
                format!(
                    "task {} {}{why}\n  its log: basalt logs {}",
                    task.id,
                    task.state.as_str().replace('_', " "),
                    task.id
                )
            }
            Self::Unreachable(why) if why.contains("invalid peer certificate") => format!(
                "{why}\n  the gateway's certificate is not trusted here: basalt login --url … --ca-file ca.pem names its authority"
            ),
            Self::Unreachable(why) => {
                format!("{why}\n  is the gateway running there? basalt login --url … names another")
            }
            Self::Usage(why) | Self::TimedOut(why) | Self::Fell(why) | Self::Other(why) => why.clone(),
            Self::Several { .. } => String::new(),
        }
    }
}

fn problem(p: &Problem) -> String {
    let mut text = format!("{}: {}", p.title, p.detail);
    // A single error or reason is the whole of the detail already.
    for e in p.errors.iter().filter(|e| !p.detail.contains(&e.reason)) {
        let _ = write!(text, "\n  {}: {}; {}", e.field, e.reason, e.remedy);
    }
    for r in p.reasons.iter().filter(|r| !p.detail.contains(&r.message)) {
        let _ = write!(text, "\n  {r}");
    }
    if p.code == "unauthenticated" {
        text += "\n  log in: basalt login --url … --user …";
    }
    if let (Some(id), 500..) = (&p.request_id, p.status) {
        let _ = write!(text, "\n  request {id}");
    }
    text
}

/// What an object is now and which of its conditions stand in the way, for a wait that was in vain.
pub fn standing(object: &Value) -> String {
    let at = |p: &str| object.pointer(p).and_then(Value::as_str);
    let mut text = match at("/phase").or(at("/state")).or(at("/observed/state")) {
        Some(word) => format!("it is {word}"),
        None => "it is there".into(),
    };
    // A deployment says in one sentence why it is where it is.
    if let Some(why) = at("/message") {
        return format!("{text}: {why}");
    }
    let conditions = object.get("conditions").cloned().unwrap_or_default();
    let conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
    let wrong = |c: &&Condition| (c.status == ConditionStatus::True) == (c.kind == "Blocked");
    for c in conditions.iter().filter(wrong).filter(|c| !c.message.is_empty()) {
        let _ = write!(text, "\n  {}: {}", c.kind, c.message);
    }
    text
}

/// Where a task is that was waited for in vain.
pub fn standing_task(task: &Task) -> String {
    let word = match task.state {
        TaskState::Pending => "waiting",
        _ => "at work",
    };
    match task.stage.as_str() {
        "" => format!("it is {word}, {} %", task.progress),
        stage => format!("it is {word}, {} %: {stage}", task.progress),
    }
}

/// Outcomes of one command over several objects: one that fails keeps none of the others from being done.
pub struct Tally {
    of: usize,
    failed: usize,
    first: u8,
}

impl Tally {
    /// For so many objects.
    pub fn new(of: usize) -> Self {
        Self { of, failed: 0, first: 0 }
    }

    /// Tells of a failure at once and keeps the rest; gives what went well.
    pub fn keep<T>(&mut self, subject: &str, outcome: Result<T, Failure>) -> Option<T> {
        let failure = match outcome {
            Ok(value) => return Some(value),
            Err(failure) => failure,
        };
        note!("{}", failure.text_about(subject));
        self.failed += 1;
        if self.failed == 1 {
            self.first = failure.exit_code();
        }
        None
    }

    /// The command's own outcome.
    pub fn end(self) -> Result<(), Failure> {
        match self.failed {
            0 => Ok(()),
            failed => Err(Failure::Several { code: self.first, failed, of: self.of }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_model::{CapabilityReason, FieldError};
    use serde_json::json;

    #[test]
    fn a_single_error_is_said_once_and_several_are_listed() {
        let one = FieldError::new("spec.cpus", "out_of_range", "0 is outside 1 to 256", "give more");
        let mut p = Problem::new(422, "invalid_body", "Invalid body", "2 fields are wrong.");
        p.errors = vec![one.clone(), FieldError::new("name", "malformed", "it has capitals", "use a-z")];
        let text = Failure::Problem(Box::new(p)).text();
        assert_eq!(
            text,
            "error: Invalid body: 2 fields are wrong.\n  spec.cpus: 0 is outside 1 to 256; give more\n  name: it has capitals; use a-z"
        );
        let mut p =
            Problem::new(422, "invalid_body", "Invalid body", "spec.cpus: 0 is outside 1 to 256; give more.");
        p.errors = vec![one];
        assert_eq!(Failure::Problem(Box::new(p)).text().lines().count(), 1);
        let reason =
            CapabilityReason::new("quota_exceeded", "quota/vms", "it does not suffice", "ask for less");
        let mut p = Problem::new(409, "quota_exceeded", "Quota exceeded", "Too much.");
        p.reasons = vec![reason];
        assert!(
            Failure::Problem(Box::new(p))
                .text()
                .ends_with("\n  quota/vms: it does not suffice; ask for less")
        );
    }

    #[test]
    fn a_wait_in_vain_says_what_stands_in_the_way() {
        let condition = |kind: &str, status: &str, message: &str| {
            json!({"type": kind, "status": status, "reason": "r", "message": message,
                "since": "2026-01-01T00:00:00Z", "observed_generation": 1})
        };
        let vm = json!({"phase": "pending", "conditions": [
            condition("Placed", "false", "no host fits; add one"),
            condition("Ready", "true", "fine"),
            condition("Blocked", "true", "the pool is full"),
            condition("Blocked", "false", "nothing"),
        ]});
        assert_eq!(
            standing(&vm),
            "it is pending\n  Placed: no host fits; add one\n  Blocked: the pool is full"
        );
        assert_eq!(standing(&json!({"state": "enrolling"})), "it is enrolling");
    }

    #[test]
    fn the_first_of_several_failures_gives_the_exit_code() {
        let mut tally = Tally::new(3);
        assert_eq!(tally.keep("vm/a", Ok(1)), Some(1));
        assert_eq!(tally.keep::<()>("vm/b", Err(Failure::not_found("vm", "b"))), None);
        assert_eq!(tally.keep::<()>("vm/c", Err(Failure::Usage("no".into()))), None);
        let failure = tally.end().err().unwrap();
        assert_eq!((failure.exit_code(), failure.text().as_str()), (3, "error: 2 of 3 failed"));
        assert!(Tally::new(1).end().is_ok());
    }
}
