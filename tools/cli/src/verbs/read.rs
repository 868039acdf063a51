//! Verbs that change nothing.

use super::{Session, vm_name};
use crate::{
    Failure,
    args::Get,
    kinds::{Kind, escape, target},
    output::{Format, print, say, sayln, yaml},
};
use basalt_wire::rest::{Page, PlacementExplanation, Whoami};
use serde_json::Value;
use std::time::Duration;

impl Session {
    pub(super) async fn whoami(&self) -> Result<(), Failure> {
        let who: Whoami = self.client.get("/v1/whoami").await?;
        match self.output {
            Format::Table | Format::Name => {
                sayln!("{} ({} {})", who.name, who.kind, who.id);
                for grant in who.grants {
                    sayln!("  {}", serde_json::to_string(&grant)?);
                }
                Ok(())
            }
            format => print(Kind::find("user")?, &[serde_json::to_value(who)?], true, format),
        }
    }

    pub(super) async fn get(&self, get: &Get) -> Result<(), Failure> {
        let (kind, name) = target(&get.target)?;
        if let Some(name) = name {
            let object: Value = self.client.get(&kind.object(&self.project, &name)).await?;
            return print(kind, &[object], true, self.output);
        }
        let items = self.list(kind, get.selector.as_deref()).await?;
        print(kind, &items, false, self.output)
    }

    /// Every object of a kind, page by page.
    pub(super) async fn list(&self, kind: &Kind, selector: Option<&str>) -> Result<Vec<Value>, Failure> {
        let mut query = "?limit=500".to_owned();
        if let Some(selector) = selector {
            query += &format!("&label_selector={}", escape(selector));
        }
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("{}{query}{cursor}", kind.collection(&self.project));
            let page: Page<Value> = self.client.get(&path).await?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={}", escape(&next)),
                None => return Ok(items),
            }
        }
    }

    pub(super) async fn describe(&self, words: &[String]) -> Result<(), Failure> {
        let (kind, name) = target(words)?;
        let name = name.ok_or_else(|| Failure::Usage("give a name: describe vm web-1".into()))?;
        let object: Value = self.client.get(&kind.object(&self.project, &name)).await?;
        if matches!(self.output, Format::Json | Format::Yaml) {
            return print(kind, &[object], true, self.output);
        }
        say!("{}", yaml(&object)?);
        let id = object.pointer("/id").and_then(Value::as_str).unwrap_or_default();
        let tasks: Page<Value> =
            self.client.get(&format!("/v1/tasks?subject_id={}&limit=10", escape(id))).await?;
        if !tasks.items.is_empty() {
            sayln!("\nTasks:");
            print(Kind::find("task")?, &tasks.items, false, Format::Table)?;
        }
        Ok(())
    }

    pub(super) async fn explain(&self, vm: &str) -> Result<(), Failure> {
        let path = format!("{}/explain", Kind::find("vm")?.object(&self.project, vm_name(vm)));
        let explanation: Value = self.client.get(&path).await?;
        if matches!(self.output, Format::Json | Format::Yaml) {
            return print(Kind::find("vm")?, &[explanation], true, self.output);
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

    pub(super) async fn wait_for(&self, words: &[String], until: &str) -> Result<(), Failure> {
        let (kind, name) = target(words)?;
        let name = name.ok_or_else(|| Failure::Usage("give a name: wait vm/web-1 --for running".into()))?;
        let path = kind.object(&self.project, &name);
        let waiting = async {
            loop {
                let object: Option<Value> = self.client.find(&path).await?;
                match (object, until) {
                    (None, "deleted") => return Ok(()),
                    (None, _) => {
                        return Err(Failure::Other(format!("{}/{name} is gone", kind.name)));
                    }
                    (Some(object), until) => {
                        let is = |at: &str| object.pointer(at).and_then(Value::as_str) == Some(until);
                        if is("/phase") || is("/state") || is("/observed/state") {
                            return Ok(());
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        };
        tokio::time::timeout(self.timeout, waiting).await.map_err(|_| {
            Failure::TimedOut(format!("{}/{name} was not {until} in {} s", kind.name, self.timeout.as_secs()))
        })?
    }
}
