//! `wait`: until an object is in a phase or state, or gone.

use super::{Session, deployments::is_judged};
use crate::{
    Failure,
    client::Away,
    failure::{Tally, standing},
    kinds::{Can, Kind, named},
    output::sayln,
};
use basalt_model::tasks::Task;
use serde_json::Value;
use std::time::Duration;

/// How often the object is looked at.
const LOOK: Duration = Duration::from_millis(200);

impl Session {
    pub(super) async fn wait_for(&self, words: &[String], until: &str) -> Result<(), Failure> {
        let targets = named(words)?;
        for (kind, _) in &targets {
            kind.demand(Can::Show, "waited for")?;
        }
        let mut tally = Tally::new(targets.len());
        for (kind, name) in targets {
            let label = format!("{}/{name}", kind.name);
            if tally.keep(&label, self.wait_for_one(kind, &name, until).await).is_some() {
                sayln!("{label} {until}");
            }
        }
        tally.end()
    }

    async fn wait_for_one(&self, kind: &Kind, name: &str, until: &str) -> Result<(), Failure> {
        let path = kind.object(&self.project, name);
        let mut last = Value::Null;
        let mut away = Away::default();
        // The first look is outside of the bound, so that there is something to say when it is over.
        let mut answer = self.client.find::<Value>(&path).await;
        let waiting = async {
            loop {
                match away.bear(answer)? {
                    Some(None) if until == "deleted" => return Ok(()),
                    Some(None) => return Err(Failure::not_found(kind.name, name)),
                    Some(Some(object)) => {
                        if is(kind, &object, until) {
                            return Ok(());
                        }
                        ended(kind, &object)?;
                        last = object;
                    }
                    None => {}
                }
                tokio::time::sleep(away.pause(LOOK)).await;
                answer = self.client.find(&path).await;
            }
        };
        let in_time = tokio::time::timeout(self.left(), waiting).await;
        match (in_time, away.0) {
            (Ok(outcome), _) => outcome,
            (Err(_), Some(failure)) => Err(failure),
            (Err(_), None) => {
                let seconds = self.timeout.as_secs();
                Err(Failure::TimedOut(format!("not {until} in {seconds} s; {}", standing(&last))))
            }
        }
    }
}

fn is(kind: &Kind, object: &Value, until: &str) -> bool {
    // Of a deployment a word counts when it was said of the generation that is wanted now (DP44).
    let counts = kind.name != "deployment" || is_judged(object) || ["pending", "deleting"].contains(&until);
    let says = |at: &str| object.pointer(at).and_then(Value::as_str) == Some(until);
    counts && ["/phase", "/state", "/observed/state"].into_iter().any(says)
}

/// A task that has ended becomes nothing else.
fn ended(kind: &Kind, object: &Value) -> Result<(), Failure> {
    if kind.name != "task" {
        return Ok(());
    }
    let task: Task = serde_json::from_value(object.clone())?;
    match task.state.is_terminal() {
        true => Err(Failure::Task(Box::new(task))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dp44_a_deployment_is_deployed_when_its_newest_generation_is() {
        let kind = |name| Kind::find(name).ok().unwrap();
        let web =
            |observed: i64| json!({"phase": "deployed", "generation": 3, "observed_generation": observed});
        assert!(is(kind("deployment"), &web(3), "deployed"));
        assert!(!is(kind("deployment"), &web(2), "deployed"));
        let fresh = json!({"phase": "pending", "generation": 1, "observed_generation": 0});
        assert!(is(kind("deployment"), &fresh, "pending"));
        assert!(is(kind("vm"), &json!({"phase": "running", "generation": 3}), "running"));
    }
}
