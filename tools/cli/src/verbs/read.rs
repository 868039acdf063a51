//! Verbs that change nothing.

use super::{Session, bare};
use crate::{
    Failure,
    args::{Explain, Get},
    cells::role,
    failure::Tally,
    kinds::{Can, Kind, escape, named, targets},
    output::{Format, note, print, print_value, say, sayln, yaml},
};
use basalt_wire::rest::{Page, PlacementExplanation, Problem, Whoami};
use serde_json::Value;

/// Tasks that `describe` shows.
const RECENT_TASKS: usize = 10;

impl Session {
    pub(super) async fn whoami(&self) -> Result<(), Failure> {
        let who: Whoami = self.client.get("/v1/whoami").await?;
        match self.output {
            Format::Json | Format::Yaml => return print_value(&serde_json::to_value(who)?, self.output),
            Format::Name => sayln!("{}/{}", who.kind.replace('_', "-"), who.name),
            Format::Table => {
                sayln!("{} ({} {})", who.name, who.kind.replace('_', " "), who.id);
                who.grants.iter().for_each(|grant| sayln!("  {}", role(grant)));
            }
        }
        Ok(())
    }

    pub(super) async fn get(&self, get: &Get) -> Result<(), Failure> {
        let targets = targets(&get.targets)?;
        if let Some(kind) = targets.all {
            return self.get_all(kind, get.selector.as_deref()).await;
        }
        if get.selector.is_some() {
            return Err(Failure::Usage("--selector chooses among all; give it without names".into()));
        }
        let mut tally = Tally::new(targets.named.len());
        let single = targets.named.len() == 1;
        let mut found: Vec<(&'static Kind, Vec<Value>)> = Vec::new();
        for (kind, name) in &targets.named {
            let label = format!("{}/{name}", kind.name);
            let Some(object) = tally.keep(&label, self.find(kind, name).await) else { continue };
            match found.last_mut() {
                Some((last, objects)) if last.name == kind.name => objects.push(object),
                _ => found.push((kind, vec![object])),
            }
        }
        if matches!(self.output, Format::Json | Format::Yaml) && !found.is_empty() {
            let mut all: Vec<_> = found.into_iter().flat_map(|(_, objects)| objects).collect();
            let whole = if single { all.remove(0) } else { Value::from(all) };
            print_value(&whole, self.output)?;
        } else {
            // One table for each run of the same kind: they have different columns.
            for (kind, objects) in found {
                print(kind, &objects, false, self.output)?;
            }
        }
        tally.end()
    }

    async fn get_all(&self, kind: &Kind, selector: Option<&str>) -> Result<(), Failure> {
        let query: Vec<_> = selector.map(|s| ("label_selector", s)).into_iter().collect();
        let items = self.list(kind, &query).await?;
        if items.is_empty() && matches!(self.output, Format::Table | Format::Name) {
            let place = if kind.in_project { format!(" in project {}", self.project) } else { String::new() };
            let chosen = selector.map(|s| format!(" with {s}")).unwrap_or_default();
            note!("no {}{place}{chosen}", kind.plural.replace('-', " "));
            return Ok(());
        }
        print(kind, &items, false, self.output)
    }

    /// Every object of a kind, page by page.
    pub(super) async fn list(&self, kind: &Kind, query: &[(&str, &str)]) -> Result<Vec<Value>, Failure> {
        let mut base = format!("{}?limit=500", kind.collection(&self.project));
        for (name, value) in query {
            base += &format!("&{name}={}", escape(value));
        }
        self.list_at(&base).await
    }

    /// All pages of a list.
    pub(super) async fn list_at(&self, base: &str) -> Result<Vec<Value>, Failure> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page: Page<Value> = self.client.get(&format!("{base}{cursor}")).await?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={}", escape(&next)),
                None => return Ok(items),
            }
        }
    }

    /// One object by any of its names.
    pub(super) async fn find(&self, kind: &Kind, name: &str) -> Result<Value, Failure> {
        if kind.can.contains(&Can::Show) {
            return self.client.get(&kind.object(&self.project, name)).await;
        }
        let mut found = self.list(kind, &[]).await?;
        found.retain(|object| kind.is_called(object, name));
        // A token that was revoked leaves its name to the next.
        if found.len() > 1 {
            found.retain(|object| object.get("revoked_at").is_none());
        }
        match found.len() {
            0 => Err(Failure::not_found(kind.name, name)),
            1 => Ok(found.remove(0)),
            _ => {
                let ids: Vec<_> = found.iter().map(|object| kind.label(object)).collect();
                let detail = format!("Several are called {name:?}; give one of {}.", ids.join(", "));
                let problem = Problem::new(409, "ambiguous_name", "Ambiguous name", detail);
                Err(Failure::Problem(Box::new(problem)))
            }
        }
    }

    pub(super) async fn describe(&self, words: &[String]) -> Result<(), Failure> {
        let targets = named(words)?;
        let mut tally = Tally::new(targets.len());
        for (n, (kind, name)) in targets.into_iter().enumerate() {
            if n > 0 {
                sayln!("---");
            }
            tally.keep(&format!("{}/{name}", kind.name), self.describe_one(kind, &name).await);
        }
        tally.end()
    }

    async fn describe_one(&self, kind: &Kind, name: &str) -> Result<(), Failure> {
        let mut object = self.find(kind, name).await?;
        if kind.name == "port" && self.output == Format::Table {
            // A port whose guest is off has none, and is described all the same.
            object["counters"] = match self.counters_of(name).await {
                Ok(counters) => counters,
                Err(failure) => Value::from(failure.text()),
            };
        }
        match self.output {
            Format::Json | Format::Yaml => return print_value(&object, self.output),
            Format::Name => {
                sayln!("{}", kind.label(&object));
                return Ok(());
            }
            Format::Table => say!("{}", yaml(&object)?),
        }
        let Some(id) = object.pointer("/id").and_then(Value::as_str) else { return Ok(()) };
        if kind.name == "deployment" {
            // What was found and not declared was never tried.
            return match object.get("spec") {
                Some(_) => self.print_recent_events(id, RECENT_TASKS).await,
                None => Ok(()),
            };
        }
        let tasks = Kind::find("task")?;
        let mut about = self.list(tasks, &[("subject_id", id)]).await?;
        if !about.is_empty() {
            sayln!("\nTasks:");
            print(tasks, &about.split_off(about.len().saturating_sub(RECENT_TASKS)), false, Format::Table)?;
        }
        Ok(())
    }

    pub(super) async fn explain(&self, what: &Explain) -> Result<(), Failure> {
        let (kind, name) = match &*what.target {
            [one] => one.split_once('/').unwrap_or(("vm", one)),
            [kind, name, ..] => (kind.as_str(), name.as_str()),
            [] => return Err(Failure::Usage("give a VM or a port".into())),
        };
        match Kind::find(kind)?.name {
            "vm" if what.remote.is_none() => self.explain_placement(name).await,
            "deployment" if what.remote.is_none() => self.explain_deployment(name).await,
            "vm" | "deployment" => {
                Err(Failure::Usage("--remote asks about a port: basalt explain port ADDRESS".into()))
            }
            "port" => self.explain_flow(name, what).await,
            other => {
                Err(Failure::Usage(format!("a {other} cannot be explained; these can: vm, deployment, port")))
            }
        }
    }

    async fn explain_placement(&self, vm: &str) -> Result<(), Failure> {
        let path = format!("{}/explain", Kind::find("vm")?.object(&self.project, bare("vm", vm)));
        let explanation: Value = self.client.get(&path).await?;
        if matches!(self.output, Format::Json | Format::Yaml) {
            return print_value(&explanation, self.output);
        }
        let explanation: PlacementExplanation = serde_json::from_value(explanation)?;
        sayln!("{}", explanation.summary);
        for candidate in explanation.candidates {
            match candidate.score {
                Some(score) => sayln!("  {}: fits, score {score}", candidate.host),
                None => sayln!("  {}: rejected", candidate.host),
            }
            for reason in candidate.rejections {
                sayln!("    {reason}");
            }
        }
        Ok(())
    }
}
