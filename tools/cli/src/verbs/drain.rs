//! Emptying hosts for maintenance: the plan, its approval, how far it is.

use super::{
    Session, bare,
    change::Taken,
    migrate::{fields, sending},
};
use crate::{
    Failure,
    args::{Drain, Maintenance},
    failure::Tally,
    kinds::{Kind, escape},
    output::{Format, note, print, print_value, sayln},
};
use basalt_model::drains::{self, DrainPlan, MoveState};
use serde_json::{Value, json};
use std::io::{self, BufRead, IsTerminal};

/// A VM of a plan or a drain, as it is printed: no kind of its own, for nobody can name or list it.
static MOVE: Kind = Kind {
    name: "vm",
    plural: "vms",
    in_project: true,
    names: &["/vm"],
    can: &[],
    columns: &[
        ("VM", "/vm"),
        ("STATE", "/state"),
        ("HOW", "/mode"),
        ("TO", "/target"),
        ("BYTES", "/bytes"),
        ("BEGINS", "/begins"),
        ("TAKES", "/takes"),
        ("WHY", "/because"),
    ],
};

/// A drain in a list.
static DRAIN: Kind = Kind {
    name: "drain",
    plural: "drains",
    in_project: false,
    names: &["/id"],
    can: &[],
    columns: &[
        ("ID", "/id"),
        ("HOST", "/host"),
        ("STATE", "/state"),
        ("MOVED", "/moved"),
        ("LEFT", "/left"),
        ("OF", "/all"),
        ("BY", "/actor/name"),
        ("AGE", "/requested_at"),
    ],
};

impl Session {
    pub(super) async fn drain(&self, what: &Drain) -> Result<(), Failure> {
        let host = bare("host", &what.host);
        let path = format!("/v1/hosts/{}/drain", escape(host));
        if what.cancel {
            return self.cancel_drain(host).await;
        }
        let mut body = body(what);
        let answer: Value = self.client.post(&format!("{path}?dry_run=true"), &body).await?;
        let plan: DrainPlan = serde_json::from_value(answer.clone())?;
        if what.plan {
            return self.print_plan(&plan, &answer);
        }
        if !what.yes {
            if !io::stdin().is_terminal() {
                return Err(Failure::Usage(
                    "nobody is there to approve the plan: look at it with --plan, then say --yes".into(),
                ));
            }
            self.print_plan(&plan, &answer)?;
            note!("Drain {host}? [y/N]");
            let mut line = String::new();
            io::stdin()
                .lock()
                .read_line(&mut line)
                .map_err(|e| Failure::Usage(format!("standard input: {e}")))?;
            if !["y", "yes"].contains(&line.trim().to_lowercase().as_str()) {
                return Err(Failure::Usage("the plan was not approved; nothing was changed".into()));
            }
            // What was seen is what is approved.
            body["plan"] = json!(plan.digest);
        }
        let taken: Value = self.client.post(&path, &body).await?;
        let taken = Taken::read(&DRAIN, host, "drained", taken)?.labelled(format!("host/{host}"));
        self.conclude(taken).await
    }

    fn print_plan(&self, plan: &DrainPlan, answer: &Value) -> Result<(), Failure> {
        if self.output != Format::Table {
            return print_value(answer, self.output);
        }
        if plan.moves.is_empty() {
            note!("no VM is on {}", plan.host);
            return Ok(());
        }
        print(&MOVE, &plan.moves.iter().map(shown).collect::<Vec<_>>(), false, self.output)?;
        note!(
            "{} VMs go in about {}, at {} MiB a second in all; {} stay",
            plan.moves.len() - plan.left as usize,
            duration(plan.takes_seconds),
            plan.assumed_bytes_per_second / basalt_model::MIB,
            plan.left
        );
        Ok(())
    }

    async fn cancel_drain(&self, host: &str) -> Result<(), Failure> {
        let drains = self.drains_of(host).await?;
        let live = drains.iter().find(|d| d.ended_at.is_none());
        let Some(drain) = live else {
            return Err(Failure::Usage(format!("{host} is not being drained")));
        };
        self.cancel(&drain.task_id.to_string()).await
    }

    async fn drains_of(&self, host: &str) -> Result<Vec<drains::Drain>, Failure> {
        let items = self.list_at(&format!("/v1/hosts/{}/drains?limit=500", escape(host))).await?;
        Ok(items.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?)
    }

    /// Lists the drains of a host, or shows the VMs of one.
    pub(super) async fn drains(&self, host: &str, id: Option<&str>) -> Result<(), Failure> {
        let host = bare("host", host);
        let Some(id) = id else {
            let drains = self.drains_of(host).await?;
            if drains.is_empty() && self.output == Format::Table {
                note!("{host} was not drained lately");
                return Ok(());
            }
            let rows = drains.iter().map(listed).collect::<Result<Vec<_>, Failure>>()?;
            return print(&DRAIN, &rows, false, self.output);
        };
        let path = format!("/v1/hosts/{}/drains/{}", escape(host), escape(bare("drain", id)));
        let answer: Value = self.client.get(&path).await?;
        if self.output != Format::Table {
            return print_value(&answer, self.output);
        }
        let drain: drains::Drain = serde_json::from_value(answer)?;
        print(&MOVE, &drain.moves.iter().map(shown).collect::<Vec<_>>(), false, self.output)?;
        match &drain.outcome {
            Some(outcome) => note!("{}", outcome.message),
            None => note!("it goes on: task {}", drain.task_id),
        }
        Ok(())
    }

    /// Puts hosts into maintenance, or takes them out of it.
    pub(super) async fn maintenance(&self, what: &Maintenance) -> Result<(), Failure> {
        let (hosts, on) = match what {
            Maintenance::Enter { hosts } => (hosts, true),
            Maintenance::Exit { hosts } => (hosts, false),
        };
        let mut tally = Tally::new(hosts.len());
        for host in hosts.iter().map(|h| bare("host", h)) {
            let label = format!("host/{host}");
            if tally.keep(&label, self.set_maintenance(host, on).await).is_some() {
                sayln!("{label} {}", if on { "in maintenance" } else { "takes VMs again" });
            }
        }
        tally.end()
    }

    async fn set_maintenance(&self, host: &str, on: bool) -> Result<(), Failure> {
        let path = format!("/v1/hosts/{}", escape(host));
        let seen: Value = self.client.get(&path).await?;
        let mut spec = seen.get("spec").cloned().unwrap_or_default();
        spec["maintenance"] = json!(on);
        let generation = seen.get("generation").and_then(Value::as_i64).unwrap_or_default();
        self.client.put(&path, &json!({ "spec": spec }), generation).await?;
        Ok(())
    }
}

fn body(what: &Drain) -> Value {
    let mut body = sending(&what.sending);
    body.extend(fields([
        ("concurrency", what.concurrency.map(|n| json!(n))),
        ("may_shut_down", what.may_shut_down.then_some(json!(true))),
        ("patience_seconds", what.patience.map(|s| json!(s))),
        ("timeout_seconds", what.give_up_after.map(|s| json!(s))),
    ]));
    Value::Object(body)
}

/// One VM with what a table shows of it.
fn shown(part: &drains::DrainMove) -> Value {
    let mut row = json!(part);
    let because = part.reason.as_ref().map(ToString::to_string).unwrap_or_else(|| part.why.clone());
    if part.target.is_some() {
        row["begins"] = json!(format!("+{}", duration(part.begins_after_seconds)));
        row["takes"] = json!(duration(part.takes_seconds));
    }
    row["because"] = json!(because);
    row
}

fn listed(drain: &drains::Drain) -> Result<Value, Failure> {
    let state = match &drain.outcome {
        Some(outcome) => serde_json::to_value(outcome.result)?,
        None if drain.cancel_requested_at.is_some() => json!("cancelling"),
        None => json!("draining"),
    };
    let mut row = serde_json::to_value(drain)?;
    row["state"] = state;
    row["moved"] = json!(drain.count(MoveState::Moved) + drain.count(MoveState::Gone));
    row["left"] = json!(drain.count(MoveState::Left));
    row["all"] = json!(drain.moves.len());
    Ok(row)
}

/// `3m20s`
fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_are_short() {
        let said: Vec<_> = [0, 59, 60, 200, 3600, 90_061].iter().map(|s| super::duration(*s)).collect();
        assert_eq!(said, ["0s", "59s", "1m00s", "3m20s", "1h00m", "25h01m"]);
    }
}
