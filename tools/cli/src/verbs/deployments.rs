//! Deployments: declared, waited for, cancelled, deployed again, retried, taken over, asked why.

use super::{Session, change::Taken};
use crate::{
    Failure,
    args::{AdoptDeployment, CreateDeployment, Deployed},
    client::Away,
    failure::standing,
    kinds::{Kind, escape, named},
    output::{Format, note, print, print_value, reader_left, sayln},
};
use basalt_model::{ConditionStatus, attempts::ReconcileEvent};
use basalt_wire::rest::{DeploymentExplanation, LogItem};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// How often a deployment that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long something may be blocked before the wait for it ends: what it names may be declared by the same file.
const BLOCKED: Duration = Duration::from_secs(5);

/// What came of an attempt, as it is printed.
static EVENT: Kind = Kind {
    name: "event",
    plural: "events",
    in_project: true,
    names: &["/id"],
    can: &[],
    columns: &[
        ("AGE", "/completed_at"),
        ("GENERATION", "/generation"),
        ("ACTION", "/action"),
        ("ATTEMPT", "/attempt"),
        ("OUTCOME", "/outcome"),
        ("WHY", "/why"),
        ("ERROR", "/error/reason/message"),
    ],
};

/// What is waited for after a change of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Deployed,
    /// The same, by an attempt after the one with this number.
    Again(u64),
    Undeployed,
    Gone,
}

impl Goal {
    /// What the answer to a change says to wait for; nothing of kinds whose changes are tasks, or done at once.
    pub(super) fn of(kind: &Kind, done: &str, answer: &Value) -> Option<Self> {
        let going = answer.get("deletion_requested_at").is_some();
        match kind.name {
            "deployment" | "provider" if going => Some(Self::Gone),
            "deployment" if done != "deleted" => {
                let state = answer.pointer("/spec/desired_state").and_then(Value::as_str);
                Some(match state {
                    Some("undeployed") => Self::Undeployed,
                    _ if done == "retried" => Self::Again(attempt(answer).unwrap_or_default()),
                    _ => Self::Deployed,
                })
            }
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Deployed | Self::Again(_) => "deployed",
            Self::Undeployed => "undeployed",
            Self::Gone => "gone",
        }
    }
}

/// Whether a word holds of a deployment now: of this generation, not of one that was judged before (DP44).
pub(super) fn is_judged(object: &Value) -> bool {
    object.get("observed_generation") == object.get("generation")
}

/// The number of the last attempt that ended.
fn attempt(object: &Value) -> Option<u64> {
    object.pointer("/attempted/epoch").and_then(Value::as_u64)
}

fn phase(object: &Value) -> &str {
    object.get("phase").and_then(Value::as_str).unwrap_or_default()
}

fn message(object: &Value) -> &str {
    object.get("message").and_then(Value::as_str).unwrap_or_default()
}

impl Session {
    pub(super) async fn create_deployment(&self, what: CreateDeployment) -> Result<(), Failure> {
        let spec = spec(&what.what, &what.provider, None)?;
        self.declare("deployment", json!({"name": what.name, "spec": spec})).await
    }

    pub(super) async fn adopt_deployment(&self, what: AdoptDeployment) -> Result<(), Failure> {
        let kind = Kind::find("deployment")?;
        let at = kind.object(&self.project, &what.id);
        let found: Value = self.client.get(&at).await?;
        let text = |at: &str| found.pointer(at).and_then(Value::as_str);
        // One that was declared is nobody's to take over; the gateway says so.
        let provider = text("/found/provider").or(text("/spec/provider")).unwrap_or_default();
        let spec = spec(&what.what, provider, text("/found/namespace"))?;
        let query = if what.dry_run { "?dry_run=true" } else { "" };
        let body = json!({"name": what.name, "spec": spec});
        let answer: Value = self.client.post(&format!("{at}/adopt{query}"), &body).await?;
        if what.dry_run {
            sayln!("deployment/{} can be adopted", what.name);
            return Ok(());
        }
        self.conclude(Taken::read(kind, &what.name, "adopted", answer)?).await
    }

    /// Asks one thing of deployments: all of them before it waits for the first.
    pub(super) async fn ask_deployments(
        &self,
        names: &[&str],
        verb: &str,
        done: &'static str,
    ) -> Result<(), Failure> {
        let kind = Kind::find("deployment")?;
        let mut tally = crate::failure::Tally::new(names.len());
        let mut taken = Vec::new();
        for name in names {
            let path = format!("{}/{verb}", kind.object(&self.project, name));
            let asked = match self.client.call::<Value>(&path).await {
                Ok(answer) => Taken::read(kind, name, done, answer),
                Err(e) => Err(e),
            };
            taken.extend(tally.keep(&format!("deployment/{name}"), asked));
        }
        self.conclude_all(taken, &mut tally).await?;
        tally.end()
    }

    pub(super) async fn deploy(&self, words: &[String]) -> Result<(), Failure> {
        let targets = named(words)?;
        if let Some((kind, _)) = targets.iter().find(|(kind, _)| kind.name != "deployment") {
            let kind = kind.name.replace('-', " ");
            return Err(Failure::Usage(format!("a {kind} cannot be deployed; these can: deployment")));
        }
        let names: Vec<&str> = targets.iter().map(|(_, name)| name.as_str()).collect();
        self.ask_deployments(&names, "deploy", "wanted deployed").await
    }

    /// Waits until what was asked of a deployment is so, and tells what happens meanwhile.
    pub(super) async fn follow_deployment(&self, path: &str, label: &str, goal: Goal) -> Result<(), Failure> {
        let (mut away, mut last, mut told) = (Away::default(), Value::Null, String::new());
        let mut blocked: Option<Instant> = None;
        let mut answer = self.client.find::<Value>(path).await;
        let waiting = async {
            loop {
                match away.bear(answer)? {
                    Some(None) if goal == Goal::Gone => return Ok(()),
                    Some(None) => return Err(Failure::Fell(format!("{label} was deleted meanwhile"))),
                    Some(Some(object)) => {
                        let now = format!("{}: {}", phase(&object), message(&object));
                        if now != told && !phase(&object).is_empty() {
                            note!("{label}: {now}");
                            told = now;
                        }
                        if is_there(&object, goal, &mut blocked)? {
                            return Ok(());
                        }
                        last = object;
                    }
                    None => {}
                }
                tokio::time::sleep(away.pause(LOOK)).await;
                answer = self.client.find(path).await;
            }
        };
        let in_time = tokio::time::timeout(self.left(), waiting).await;
        match (in_time, away.0) {
            (Ok(outcome), _) => outcome,
            (Err(_), Some(failure)) => Err(failure),
            (Err(_), None) => {
                let (seconds, word) = (self.timeout.as_secs(), goal.word());
                let why = format!("not {word} in {seconds} s; {}", standing(&last));
                Err(Failure::TimedOut(format!("{why}\n  it goes on: basalt explain {label}")))
            }
        }
    }

    pub(super) async fn events(&self, words: &[String]) -> Result<(), Failure> {
        let targets = named(words)?;
        let [(kind, name)] = &*targets else {
            return Err(Failure::Usage("events are of one deployment: basalt events deployment NAME".into()));
        };
        if kind.name != "deployment" {
            let kind = kind.name.replace('-', " ");
            return Err(Failure::Usage(format!("a {kind} has no events; these have: deployment")));
        }
        let items = self.events_of(kind, name, usize::MAX).await?;
        if items.is_empty() && self.output == Format::Table {
            note!("nothing was tried yet");
            return Ok(());
        }
        print(&EVENT, &items, false, self.output)
    }

    /// What was tried, the newest first, at most so many.
    async fn events_of(&self, kind: &Kind, name: &str, most: usize) -> Result<Vec<Value>, Failure> {
        let base = format!("{}/events?limit={}", kind.object(&self.project, name), most.min(500));
        let mut items = if most > 500 {
            self.list_at(&base).await?
        } else {
            let page: basalt_wire::rest::Page<Value> = self.client.get(&base).await?;
            page.items
        };
        if matches!(self.output, Format::Table) {
            for item in &mut items {
                let event: ReconcileEvent = serde_json::from_value(item.clone())?;
                let why: Vec<String> = event.causes.iter().map(ToString::to_string).collect();
                item["why"] = why.join("; ").into();
            }
        }
        Ok(items)
    }

    /// The last attempts, for `describe`.
    pub(super) async fn print_recent_events(&self, name: &str, most: usize) -> Result<(), Failure> {
        let items = self.events_of(Kind::find("deployment")?, name, most).await?;
        if !items.is_empty() {
            sayln!("\nAttempts, newest first:");
            print(&EVENT, &items, false, Format::Table)?;
        }
        Ok(())
    }

    pub(super) async fn explain_deployment(&self, name: &str) -> Result<(), Failure> {
        let path = format!("{}/explain", Kind::find("deployment")?.object(&self.project, name));
        let answer: Value = self.client.get(&path).await?;
        if matches!(self.output, Format::Json | Format::Yaml) {
            return print_value(&answer, self.output);
        }
        let said: DeploymentExplanation = serde_json::from_value(answer)?;
        sayln!("{}: {}", said.phase.as_str(), said.message);
        if said.observed_generation != said.generation {
            sayln!("  judged at generation {}, now {}", said.observed_generation.0, said.generation.0);
        }
        for wrong in said.wrong {
            let not = if wrong.status == ConditionStatus::True { "" } else { "not " };
            sayln!("  {not}{}: {}", wrong.kind, wrong.message);
        }
        if let Some(last) = said.last_attempt {
            let (action, outcome) = (last.action.as_str(), last.outcome.as_str().replace('_', " "));
            sayln!("last attempt: {action}, {outcome}, for generation {}", last.generation.0);
            last.causes.iter().for_each(|cause| sayln!("  because {cause}"));
            if let Some(error) = last.error {
                sayln!("  {}: {}", error.class.as_str(), error.reason);
            }
        }
        if !said.dependencies.is_empty() {
            sayln!("made from:");
        }
        for of in said.dependencies {
            let then = of.applied.0;
            match (of.present, of.replaced) {
                (None, _) => sayln!("  {} at generation {then}; there is none any more", of.what),
                (Some(now), true) => {
                    sayln!("  {} at generation {then}; now another one, at {}", of.what, now.0)
                }
                (Some(now), _) if now.0 == then => sayln!("  {} at generation {then}, as it is now", of.what),
                (Some(now), _) => sayln!("  {} at generation {then}, now {}", of.what, now.0),
            }
        }
        if let Some(at) = said.next_retry_at {
            sayln!("tried again at {at}");
        }
        Ok(())
    }

    /// Prints a deployment's log, line by line.
    pub(super) async fn deployment_logs(
        &self,
        name: &str,
        follow: bool,
        tail: Option<u32>,
    ) -> Result<(), Failure> {
        let mut path =
            format!("{}/logs?follow={follow}", Kind::find("deployment")?.object(&self.project, name));
        if let Some(lines) = tail {
            path += &format!("&tail={lines}");
        }
        let response = self.client.stream(&path).await?;
        tokio::select! {
            ended = self.print_log(response) => ended,
            () = reader_left() => Ok(()),
        }
    }

    async fn print_log(&self, mut response: reqwest::Response) -> Result<(), Failure> {
        let mut rest: Vec<u8> = Vec::new();
        loop {
            let piece = response.chunk().await.map_err(|e| Failure::Unreachable(crate::client::chain(&e)))?;
            let Some(piece) = piece else { return Ok(()) };
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                match serde_json::from_slice(&line)? {
                    LogItem::Broken { error } => return Err(Failure::Other(error.to_string())),
                    LogItem::Line(_) if self.output == Format::Json => {
                        sayln!("{}", String::from_utf8_lossy(&line).trim_end());
                    }
                    LogItem::Line(line) if line.instance.is_empty() => sayln!("{}", line.line),
                    LogItem::Line(line) => sayln!("{}: {}", line.instance, line.line),
                }
            }
        }
    }
}

/// Whether what was asked for is so; an error when it will not be by waiting.
fn is_there(object: &Value, goal: Goal, blocked: &mut Option<Instant>) -> Result<bool, Failure> {
    let label = format!("deployment/{}", object.get("name").and_then(Value::as_str).unwrap_or("-"));
    let going = object.get("deletion_requested_at").is_some();
    if goal == Goal::Gone || !is_judged(object) {
        return Ok(false);
    }
    if going {
        return Err(Failure::Fell(format!("{label} is being deleted")));
    }
    // An attempt is written down a moment before what it means is judged: what the two do not say alike is not over.
    let ended = attempt(object);
    let erred = object.pointer("/attempted/error").is_some();
    if matches!(goal, Goal::Again(before) if ended.is_some_and(|epoch| epoch <= before)) {
        return Ok(false);
    }
    let fell = || Failure::Fell(format!("{}\n  what was tried: basalt explain {label}", message(object)));
    match phase(object) {
        // An older generation's error says nothing where nothing had to be done for this one.
        word if word == goal.word() => {
            Ok(!erred || object.pointer("/attempted/generation") != object.get("generation"))
        }
        "failed" if erred || ended.is_none() => Err(fell()),
        "blocked" => match blocked.get_or_insert_with(Instant::now).elapsed() > BLOCKED {
            true => Err(fell()),
            false => Ok(false),
        },
        _ => {
            *blocked = None;
            Ok(false)
        }
    }
}

/// The spec that the words of a command say.
fn spec(what: &Deployed, provider: &str, namespace: Option<&str>) -> Result<Value, Failure> {
    let mut env = Map::new();
    let pair = |flag: &str, text: &str| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::Usage(format!("{flag} {text}: write KEY=value"))),
    };
    for text in &what.env {
        let (key, value) = pair("--env", text)?;
        env.insert(key, value.into());
    }
    for text in &what.secret_env {
        let (key, secret) = pair("--secret-env", text)?;
        env.insert(key, json!({ "secret": secret }));
    }
    let mut spec = json!({"target": target(&what.target)?, "provider": provider, "env": env});
    let mut kubernetes = Map::new();
    if let Some(namespace) = what.namespace.as_deref().or(namespace) {
        kubernetes.insert("namespace".into(), namespace.into());
    }
    if let Some(replicas) = what.replicas {
        kubernetes.insert("replicas".into(), replicas.into());
    }
    if !kubernetes.is_empty() {
        spec["kubernetes"] = kubernetes.into();
    }
    if let Some(port) = what.port {
        spec["local"] = json!({ "port": port });
    }
    if let Some(on_drift) = &what.on_drift {
        spec["on_drift"] = json!(on_drift);
    }
    Ok(spec)
}

/// `agent/planner`, `server/weather:1.4`
fn target(text: &str) -> Result<Value, Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "--target {text}: write KIND/NAME:TAG, as agent/planner or server/weather:1.4"
        ))
    };
    let (kind, name) = text.split_once('/').ok_or_else(wrong)?;
    let kind = match kind {
        "agent" | "agents" => "agent",
        "server" | "servers" => "server",
        _ => return Err(wrong()),
    };
    Ok(match name.split_once(':') {
        Some((name, tag)) => json!({"kind": kind, "name": name, "tag": tag}),
        None => json!({"kind": kind, "name": name}),
    })
}

/// A query out of its parts.
pub(super) fn query(parts: &[(&str, &str)]) -> String {
    let parts: Vec<String> = parts.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(phase: &str, observed: i64) -> Value {
        json!({"name": "web", "phase": phase, "message": "m", "generation": 2, "observed_generation": observed})
    }

    #[test]
    fn dp44_a_wait_ends_only_by_what_was_judged_of_this_generation() {
        let look = |phase, observed, goal| is_there(&object(phase, observed), goal, &mut None);
        for (phase, observed, goal, there) in [
            ("deployed", 2, Goal::Deployed, true),
            ("deployed", 1, Goal::Deployed, false),
            ("failed", 1, Goal::Deployed, false),
            ("deploying", 2, Goal::Deployed, false),
            ("blocked", 2, Goal::Deployed, false),
            ("deployed", 2, Goal::Undeployed, false),
            ("undeployed", 2, Goal::Undeployed, true),
            ("deleting", 2, Goal::Gone, false),
        ] {
            assert_eq!(look(phase, observed, goal).ok(), Some(there), "{phase} {observed} {goal:?}");
        }
        assert_eq!(look("failed", 2, Goal::Deployed).unwrap_err().exit_code(), 7);
        let long_ago = Instant::now().checked_sub(BLOCKED * 2);
        let blocked = is_there(&object("blocked", 2), Goal::Deployed, &mut long_ago.clone());
        assert_eq!(blocked.unwrap_err().exit_code(), 7);
        // A retry is not answered by what was tried before it, nor by a judgement that does not know of it yet.
        let tried = |phase: &str, attempted: Value| {
            let mut tried = object(phase, 2);
            tried["attempted"] = attempted;
            is_there(&tried, Goal::Again(4), &mut None).map_err(|e| e.exit_code())
        };
        let error = json!({"class": "permanent"});
        assert_eq!(tried("failed", json!({"epoch": 4, "error": error})), Ok(false));
        assert_eq!(tried("failed", json!({"epoch": 5})), Ok(false));
        assert_eq!(tried("deployed", json!({"epoch": 5, "generation": 2, "error": error})), Ok(false));
        assert_eq!(tried("deployed", json!({"epoch": 5, "generation": 1, "error": error})), Ok(true));
        assert_eq!(tried("failed", json!({"epoch": 5, "error": error})), Err(7));
        assert_eq!(tried("deployed", json!({"epoch": 5})), Ok(true));
        // What was blocked, and is not any more, has all its time again.
        let mut since = long_ago;
        assert_eq!(is_there(&object("deploying", 2), Goal::Deployed, &mut since).ok(), Some(false));
        assert_eq!(since, None);
    }

    #[test]
    fn what_is_waited_for_follows_from_the_answer() {
        let goal =
            |kind: &str, done: &str, answer: Value| Goal::of(Kind::find(kind).ok().unwrap(), done, &answer);
        let off = json!({"spec": {"desired_state": "undeployed"}});
        let going = json!({"deletion_requested_at": "2026-01-01T00:00:00Z"});
        assert_eq!(goal("deployment", "created", json!({"spec": {}})), Some(Goal::Deployed));
        assert_eq!(goal("deployment", "changed", off), Some(Goal::Undeployed));
        let tried = json!({"spec": {}, "attempted": {"epoch": 3}});
        assert_eq!(goal("deployment", "retried", tried), Some(Goal::Again(3)));
        assert_eq!(goal("deployment", "deleted", going.clone()), Some(Goal::Gone));
        assert_eq!(goal("provider", "deleted", going), Some(Goal::Gone));
        assert_eq!(goal("provider", "deleted", json!({})), None);
        assert_eq!(goal("agent", "created", json!({})), None);
    }

    #[test]
    fn words_become_a_spec() {
        let what = Deployed {
            target: "server/weather:1.4".into(),
            env: vec!["A=b=c".into()],
            secret_env: vec!["K=key".into()],
            namespace: None,
            replicas: Some(2),
            port: None,
            on_drift: Some("report".into()),
        };
        assert_eq!(
            spec(&what, "cluster", Some("tools")).ok(),
            Some(
                json!({"target": {"kind": "server", "name": "weather", "tag": "1.4"}, "provider": "cluster",
                "env": {"A": "b=c", "K": {"secret": "key"}},
                "kubernetes": {"namespace": "tools", "replicas": 2}, "on_drift": "report"})
            )
        );
        for wrong in ["planner", "vm/planner", "/planner"] {
            assert_eq!(target(wrong).err().unwrap().exit_code(), 2, "{wrong}");
        }
        assert_eq!(query(&[("cascade", "true"), ("depends_on", "a,b")]), "?cascade=true&depends_on=a%2Cb");
    }
}
